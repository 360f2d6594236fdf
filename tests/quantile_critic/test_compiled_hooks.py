"""``compile=True`` beside code that acts on losses, gradients and steps. Oracle: the same class without it."""

import functools
import warnings

import pytest
import torch
from builders import (
    AskingPolicy,
    assert_alike_after,
    assert_rollout_is_eager,
    eager_and_compiled,
    make_one_update,
    train_alike,
)
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from distributional_ppo import DistributionalPPO

pytestmark = pytest.mark.usefixtures("compiler", "no_machine_code")


def test_a_custom_buffer_and_a_custom_loss_are_called_as_often_as_in_eager_runs():
    class Buffer(RolloutBuffer):
        generators = 0

        def get(self, batch_size=None):
            self.generators += 1
            return super().get(batch_size)

    class Counting(DistributionalPPO):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.losses = []
            self.mean = torch.zeros(())

        def _value_loss(self, *args):
            loss, metrics = super()._value_loss(*args)
            self.losses.append(loss.detach())
            self.mean = 0.9 * self.mean + 0.1 * loss.detach()
            return loss, metrics

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a list that grows ends in eager code, which is said
        eager, compiled = eager_and_compiled(Counting, rollout_buffer_class=Buffer)
        assert_alike_after(lambda m: None, (eager, compiled), updates=2)

    assert eager.rollout_buffer.generators == compiled.rollout_buffer.generators
    assert len(eager.losses) == len(compiled.losses) == 4 * 3
    torch.testing.assert_close(eager.losses, compiled.losses, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(eager.mean, compiled.mean, rtol=1e-4, atol=1e-5)


def test_a_running_mean_in_a_buffer_moves_once_per_minibatch():
    class Averaging(BaseFeaturesExtractor):
        def __init__(self, observation_space):
            super().__init__(observation_space, features_dim=4)
            self.register_buffer("mean", torch.zeros(4), persistent=False)

        def forward(self, observations):
            if self.training:  # only the eager model makes rollouts
                self.mean.mul_(0.9).add_(0.1 * observations.detach().mean(dim=0))
            return observations - self.mean

    eager, compiled = eager_and_compiled(
        policy_kwargs=dict(features_extractor_class=Averaging, share_features_extractor=True)
    )

    assert_alike_after(lambda m: None, (eager, compiled))
    torch.testing.assert_close(
        eager.policy.features_extractor.mean,
        compiled.policy.features_extractor.mean,
    )


def hook_a_parameter(model, calls):
    model.policy.action_net.weight.register_hook(lambda gradient: calls.append(1) or torch.zeros_like(gradient))


def replace_step(model, calls):
    step = model.policy.optimizer.step
    model.policy.optimizer.step = lambda closure=None: (
        calls.append(1),
        step(closure),
    )


def replace_step_of_class(model, calls):
    class Counted(torch.optim.Adam):
        @functools.wraps(torch.optim.Adam.step)
        def step(self, closure=None):
            calls.append(1)
            return super().step(closure)

    model.policy.optimizer.__class__ = Counted


def replace_zero_grad(model, calls):
    zero_grad = model.policy.optimizer.zero_grad
    model.policy.optimizer.zero_grad = lambda set_to_none=True: (
        calls.append(1),
        zero_grad(set_to_none),
    )


def schedule(model, calls):
    torch.optim.lr_scheduler.LambdaLR(model.policy.optimizer, lambda epoch: 1.0)
    replace_step(model, calls)


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (hook_a_parameter, "the update stays eager: a parameter has a hook"),
        (
            replace_step,
            "the step of Adam is not compiled, as somebody has replaced it",
        ),
        (replace_step_of_class, "the step of Counted is not compiled"),
        (
            replace_zero_grad,
            "the update stays eager: Adam has a zero_grad of its own",
        ),
        (schedule, "the step of Adam is not compiled, as somebody has replaced it"),
    ],
)
def test_hooks_and_replaced_steps_run_as_often_as_in_eager_runs(act, words):
    eager, compiled = eager_and_compiled(target_kl=None)
    calls = [], []
    for model, own_calls in zip((eager, compiled), calls, strict=True):
        act(model, own_calls)

    with pytest.warns(UserWarning, match=words):
        assert train_alike(eager, compiled) < 1e-5
    assert len(calls[0]) == len(calls[1]) == 2 * 3


def test_a_hook_of_all_optimizers_acts():
    eager, compiled = eager_and_compiled(target_kl=None)
    calls = []
    handle = register_optimizer_step_pre_hook(lambda *_: calls.append(1))

    try:
        with pytest.warns(UserWarning, match="the step of Adam is not compiled, as it has hooks"):
            assert train_alike(eager, compiled) < 1e-5
    finally:
        handle.remove()

    assert len(calls) == 2 * 2 * 3


def test_a_hook_of_all_modules_acts():
    eager, compiled = eager_and_compiled()
    calls = []
    handle = torch.nn.modules.module.register_module_forward_hook(lambda *_: calls.append(1))

    try:
        with pytest.warns(UserWarning, match="the update stays eager: all modules have a hook"):
            assert train_alike(eager, compiled, updates=1) < 1e-5
    finally:
        handle.remove()

    assert calls


def test_a_parameter_that_the_loss_does_not_reach_is_named():
    class Unreached(BaseFeaturesExtractor):
        def __init__(self, observation_space):
            super().__init__(observation_space, features_dim=4)
            self.spare = torch.nn.Linear(4, 4)

        def forward(self, observations):
            return observations

    kwargs = dict(features_extractor_class=Unreached, optimizer_kwargs=dict(weight_decay=0.1))

    with pytest.warns(
        UserWarning,
        match=r"the loss does not reach features_extractor\.spare\.weight, ",
    ):
        eager, compiled = eager_and_compiled(policy_kwargs=kwargs)

    before = compiled.policy.features_extractor.spare.weight.clone()
    assert_alike_after(lambda m: None, (eager, compiled))
    assert torch.equal(compiled.policy.features_extractor.spare.weight, before)


def test_adafactor_is_an_optimizer_of_torch():
    kwargs = dict(optimizer_class=torch.optim.Adafactor)
    models = [
        make_one_update(DistributionalPPO, compile, target_kl=None, policy_kwargs=kwargs) for compile in (False, True)
    ]

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert train_alike(*models, updates=3) < 1e-4

    assert not [warning for warning in caught if "not of torch.optim" in str(warning.message)]


def test_values_from_the_policys_own_predict_values_are_denormalised_once():
    models = eager_and_compiled(policy=AskingPolicy, normalize_returns=True)
    assert models[1]._update.gradients_only.call is not None
    assert_rollout_is_eager(models[1])
