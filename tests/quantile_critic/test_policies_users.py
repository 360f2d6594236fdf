"""Policies of users. Oracle: the same policy, or its base, with SB3's PPO."""

import numpy as np
import pytest
import torch
from builders import (
    OBS,
    SHORT,
    AskingPolicy,
    CustomHeadPolicy,
    PlainPolicy,
    RandomEnv,
    same_parameters,
)
from stable_baselines3.common.policies import (
    ActorCriticPolicy,
)
from torch import nn

from distributional_ppo import DistributionalPPO, QuantileActorCriticPolicy


def test_custom_evaluate_actions_may_call_predict_values():
    plain, asking = (DistributionalPPO(p, RandomEnv(), **SHORT).learn(128) for p in ("MlpPolicy", AskingPolicy))
    for name, value in plain.policy.state_dict().items():
        torch.testing.assert_close(asking.policy.state_dict()[name], value, msg=name)


@pytest.mark.parametrize("name", ["evaluate_actions", "predict_values"])
def test_a_method_that_training_would_not_call_is_refused(name):
    ours = type(
        "Own",
        (QuantileActorCriticPolicy,),
        {name: lambda self, *args: None},
    )
    with pytest.raises(TypeError, match=f"training does not call Own.{name}: override"):
        DistributionalPPO(ours, RandomEnv(), **SHORT)


class ProbingPolicy(ActorCriticPolicy):
    """A user's policy that tries itself while it is built."""

    def _build(self, lr_schedule):
        super()._build(lr_schedule)
        with torch.no_grad():
            self.predict_values(torch.zeros(1, 3))
            self(torch.zeros(1, 3))


class DroppingPolicy(AskingPolicy):
    """And that forgets half of the critic's features in training, and counts how often."""

    def _build_mlp_extractor(self):
        super()._build_mlp_extractor()
        self.norm = nn.BatchNorm1d(64)
        self.mlp_extractor.value_net.append(nn.Dropout(0.5)).append(self.norm)


def test_a_policy_may_try_itself_while_it_is_built():
    plain, probing = (DistributionalPPO(p, RandomEnv(), **SHORT).policy for p in ("MlpPolicy", ProbingPolicy))
    assert torch.equal(probing.predict_quantiles(OBS), plain.predict_quantiles(OBS))


def test_a_critic_with_dropout_runs_once_per_minibatch():
    model = DistributionalPPO(DroppingPolicy, RandomEnv(), **SHORT).learn(64)
    assert model.policy.norm.num_batches_tracked == 2 * 2  # epochs times minibatches


@pytest.mark.parametrize("n_quantiles", [1, 4])
def test_values_from_a_custom_forward_are_denormalised_once(n_quantiles):
    """Oracle: the same policy without a `forward` of its own."""
    flags = dict(
        normalize_returns=True,
        policy_kwargs=dict(n_quantiles=n_quantiles),
        **SHORT,
    )
    flags |= dict(use_variance_gradient_scaling=False)
    plain, asking = (
        DistributionalPPO(p, RandomEnv(scale=50.0), **flags).learn(192) for p in (PlainPolicy, AskingPolicy)
    )
    for name, value in plain.policy.state_dict().items():
        torch.testing.assert_close(asking.policy.state_dict()[name], value, msg=name)
    values = [model.policy(torch.as_tensor(OBS))[1] for model in (plain, asking)]

    torch.testing.assert_close(*values)
    torch.testing.assert_close(values[1], asking.policy.predict_values(torch.as_tensor(OBS)))


class SavingPolicy(ActorCriticPolicy):
    """A user's policy that saves itself in its own way."""

    def save(self, path):
        path.write_text("mine")


def test_a_custom_save_of_a_policy_is_used(tmp_path):
    DistributionalPPO(SavingPolicy, RandomEnv(), **SHORT).policy.save(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_custom_policy_keeps_its_class_and_its_optimizer_groups():
    model = DistributionalPPO(CustomHeadPolicy, RandomEnv(), **SHORT)
    assert isinstance(model.policy, CustomHeadPolicy)

    owned = {id(p) for group in model.policy.optimizer.param_groups for p in group["params"]}
    assert owned == {id(p) for p in model.policy.parameters()}
    assert len(model.policy.optimizer.param_groups) == len(owned)


class TouchingPolicy(ActorCriticPolicy):
    """A user's policy that touches its value_net after SB3 has built it."""

    def _build(self, lr_schedule):
        super()._build(lr_schedule)
        nn.init.zeros_(self.value_net.weight)


def test_custom_policy_reaches_the_weights_of_its_value_net():
    model = DistributionalPPO(
        TouchingPolicy,
        RandomEnv(),
        policy_kwargs=dict(n_quantiles=np.int64(4)),
        **SHORT,
    )

    assert model.policy.value_net.last_layers[0].weight.abs().sum() == 0
    assert model.policy.value_net.weight.shape == (4, 64)


class FlatPolicy(ActorCriticPolicy):
    """A user's policy with values of another shape, which PPO flattens anyway, and a keyword of its own."""

    def evaluate_actions(self, obs, actions):
        values, log_prob, entropy = super().evaluate_actions(obs, actions)
        return values.flatten(), log_prob, entropy

    def forward(self, obs, deterministic=False, temperature=1.0):
        actions, values, log_prob = super().forward(obs, deterministic)
        return actions, values, log_prob / temperature


def test_custom_evaluate_actions_and_forward_work_as_with_ppo():
    flat, plain = (DistributionalPPO(policy, RandomEnv(), **SHORT).learn(128) for policy in (FlatPolicy, "MlpPolicy"))
    assert same_parameters(flat, plain)
    assert flat.policy(torch.zeros(1, 3), temperature=2.0)[2].item() == pytest.approx(-0.34, abs=0.1)


def test_a_critic_beside_the_value_net_is_refused():
    class Beside(ActorCriticPolicy):
        def evaluate_actions(self, obs, actions):
            _, log_prob, entropy = super().evaluate_actions(obs, actions)
            return torch.zeros(len(obs), 1), log_prob, entropy

    with pytest.raises(
        ValueError,
        match=r"have shape \(32, 1\) where value_net gave \(32, 32\)",
    ):
        DistributionalPPO(Beside, RandomEnv(), **SHORT).learn(64)
