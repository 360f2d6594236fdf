"""Numbers that are not finite: found, named, and undone."""

import contextlib
import copy

import numpy as np
import pytest
import torch
from builders import SHORT, RandomEnv
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.callbacks import BaseCallback

from distributional_ppo import DistributionalPPO


def unchanged(model, before):
    after = model.get_parameters()
    same = all(torch.equal(after["policy"][k], v) for k, v in before["policy"].items())
    return same and str(after["policy.optimizer"]) == str(before["policy.optimizer"])


@pytest.mark.parametrize(
    ("kwargs", "normalize_returns", "match"),
    [
        (
            dict(reward=float("nan")),
            True,
            r"rewards.*index \[8, 0\].*Check: environment",
        ),
        (dict(reward=float("inf")), True, "rewards"),
        (dict(reward=3e38), False, "minibatch 0 .*scale of the rewards"),
        (dict(observation=float("nan")), True, "observations.*environment"),
    ],
)
def test_non_finite_rollouts_raise_before_anything_changes(kwargs, normalize_returns, match):
    model = DistributionalPPO(
        "MlpPolicy",
        RandomEnv(**kwargs),
        normalize_returns=normalize_returns,
        **SHORT,
    )
    before = copy.deepcopy(model.get_parameters())

    with (
        pytest.raises(FloatingPointError, match=match) as error,
        np.errstate(all="ignore"),
    ):
        model.learn(128)
    assert isinstance(error.value, ValueError)  # as PPO's, which searches for settings take for a failed trial
    assert unchanged(model, before)


@given(
    st.floats(width=64),
    st.floats(-1e30, 1e30),
    st.booleans(),
    st.sampled_from([1e-3, 1.0, 1e3]),
)
@settings(max_examples=25, deadline=None)
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning", "ignore:invalid value:RuntimeWarning")
def test_any_rewards_give_finite_parameters_or_an_error(reward, scale, normalize, learning_rate):
    env = RandomEnv(reward=reward, scale=scale)
    flags = dict(
        normalize_returns=normalize,
        use_popart=normalize,
        learning_rate=learning_rate,
    )
    model = DistributionalPPO(
        "MlpPolicy",
        env,
        n_steps=32,
        batch_size=16,
        n_epochs=1,
        seed=0,
        device="cpu",
        **flags,
    )
    with contextlib.suppress(FloatingPointError):
        model.learn(96)

    assert all(torch.isfinite(value).all() for value in model.policy.state_dict().values())


def test_a_non_finite_loss_is_undone_with_the_statistics_and_the_optimizer():
    model = DistributionalPPO("MlpPolicy", RandomEnv(), normalize_returns=True, **SHORT).learn(128)
    before = copy.deepcopy(model.get_parameters())
    calls = []

    def loss_that_fails(quantiles, targets, reduction, original=model._quantile_huber_loss):
        calls.append(1)
        return original(quantiles, targets, reduction) * (float("nan") if len(calls) == 3 else 1.0)

    model._quantile_huber_loss = loss_that_fails

    with pytest.raises(FloatingPointError, match=r"loss of minibatch 2 .*Check: learning_rate"):
        model.learn(64, reset_num_timesteps=False)
    assert unchanged(model, before)

    del model._quantile_huber_loss
    model.learn(64, reset_num_timesteps=False)


def test_parameters_blown_up_by_the_last_step_are_undone():
    class Exploding(torch.optim.SGD):
        def step(self, closure=None):
            super().step(closure)
            with torch.no_grad():
                self.param_groups[0]["params"][0].fill_(float("inf"))

    kwargs = {**SHORT, "n_epochs": 1, "batch_size": 64}
    model = DistributionalPPO(
        "MlpPolicy",
        RandomEnv(),
        policy_kwargs=dict(optimizer_class=Exploding),
        **kwargs,
    )
    before = copy.deepcopy(model.get_parameters())

    with pytest.raises(FloatingPointError, match="the parameters"):
        model.learn(64)
    assert unchanged(model, before)


class Spoil(BaseCallback):
    """Makes one number of the rollout undefined."""

    def __init__(self, name):
        super().__init__()
        self.name = name

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        getattr(self.model.rollout_buffer, self.name)[3, 0] = np.nan


@pytest.mark.parametrize("name", ["rewards", "values", "log_probs", "advantages", "returns"])
def test_each_array_of_a_rollout_is_looked_at(name):
    model = DistributionalPPO(
        "MlpPolicy",
        RandomEnv(),
        n_steps=16,
        batch_size=16,
        n_epochs=1,
        seed=0,
        device="cpu",
    )
    before = torch.nn.utils.parameters_to_vector(model.policy.parameters()).clone()

    with pytest.raises(
        FloatingPointError,
        match=rf"the rollout's {name}, the first at index \[3, 0\]",
    ):
        model.learn(16, Spoil(name))
    assert torch.equal(before, torch.nn.utils.parameters_to_vector(model.policy.parameters()))
