"""Recurrent policies: users' own, states in predictions, copies. Oracle: sb3-contrib's RecurrentPPO."""

import copy
import pickle
from typing import ClassVar

import cloudpickle
import numpy as np
import pytest
import torch
from builders import (
    AS_PPO,
    RECURRENT_CASES,
    SHARED_LSTM,
    make_recurrent,
    plain_state,
)
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.utils import obs_as_tensor

from distributional_ppo import DistributionalPPO, RecurrentDistributionalPPO


class CustomSequences(RecurrentActorCriticPolicy):
    """A user's policy that runs its sequences itself, as sb3-contrib pads them."""

    rows: ClassVar[list[int]] = []

    @staticmethod
    def _process_sequence(features, lstm_states, episode_starts, lstm):
        CustomSequences.rows.append(len(features))
        return RecurrentActorCriticPolicy._process_sequence(features, lstm_states, episode_starts, lstm)


class CustomEvaluation(RecurrentActorCriticPolicy):
    starts: ClassVar[list[int]] = []

    def evaluate_actions(self, obs, actions, lstm_states, episode_starts):
        assert torch.is_tensor(episode_starts)
        assert len(obs) == len(episode_starts) == len(actions)

        CustomEvaluation.starts.append(int(episode_starts.sum()))
        values, log_prob, entropy = super().evaluate_actions(obs, actions, lstm_states, episode_starts)
        return values, log_prob, 2 * entropy


@pytest.mark.parametrize("policy", [CustomSequences, CustomEvaluation])
def test_methods_of_a_custom_policy_are_called_as_by_recurrent_ppo(policy):
    CustomSequences.rows = []
    CustomEvaluation.starts = []
    case = dict(policy=policy, ent_coef=0.1)
    theirs = plain_state(make_recurrent(RecurrentPPO, **case).learn(2 * 96))
    asked = CustomSequences.rows
    CustomSequences.rows = []
    starts = CustomEvaluation.starts
    CustomEvaluation.starts = []
    ours = plain_state(make_recurrent(**case, **AS_PPO).learn(2 * 96))
    for name, expected in theirs.items():
        assert (ours[name] - expected).norm() <= 1e-5 * expected.norm() + 1e-8, name

    if policy is CustomSequences:
        assert set(asked) <= set(CustomSequences.rows)

    assert CustomEvaluation.starts == starts


def test_episodes_that_start_within_a_sequence():
    """Which sb3-contrib's buffer never gives, and its ``evaluate_actions`` takes."""
    ours = make_recurrent(**AS_PPO)
    host = make_recurrent(RecurrentPPO).policy
    host.load_state_dict(plain_state(ours))
    states = ours.policy.initial_states(2)
    for state in (*states.pi, *states.vf):
        state.normal_()
    obs = torch.randn(10, 3)
    actions = torch.randint(2, (10,))
    starts = torch.tensor([1.0, 0, 0, 1, 0, 0, 0, 1, 1, 0])
    actual = ours.policy.evaluate_actions(obs, actions, states, starts)

    torch.testing.assert_close(
        actual,
        host.evaluate_actions(obs, actions, states, starts),
        rtol=1e-5,
        atol=1e-6,
    )


def test_policies_that_do_not_fit_are_refused():
    with pytest.raises(
        TypeError,
        match="subclass of RecurrentActorCriticPolicy, got ActorCriticPolicy",
    ):
        make_recurrent(policy=RecurrentActorCriticPolicy.__mro__[1])

    with pytest.raises(
        TypeError,
        match="CustomEvaluation is recurrent: it needs RecurrentDistributionalPPO",
    ):
        DistributionalPPO(CustomEvaluation, make_vec_env("CartPole-v1"))


def test_critic_of_twins_are_two_behind_one_lstm():
    model = make_recurrent(
        use_twin_critics=True,
        policy_kwargs=dict(share_features_extractor=False),
    ).learn(96)
    obs = obs_as_tensor(model._last_obs, model.device)
    states = model._last_lstm_states
    starts = torch.zeros(3)

    with torch.no_grad():
        both = model.policy.quantiles_of_loss(obs, states.vf, starts)
        value = model.policy.predict_values(obs, states.vf, starts)

    first, second = both.chunk(2, dim=1)

    assert not torch.allclose(first, second)
    torch.testing.assert_close(value[:, 0], torch.min(first.mean(dim=1), second.mean(dim=1)))


def test_predictions_with_states_and_starts():
    model = make_recurrent().learn(96)
    policy = model.policy
    states = model._last_lstm_states
    obs = model._last_obs
    tensors = obs_as_tensor(obs, model.device)

    with torch.no_grad():
        for starts in ([0, 0, 0], [1, 0, 1]):
            flags = torch.tensor(starts, dtype=torch.float32)
            quantiles = policy.predict_quantiles(obs, states, np.array(starts, dtype=bool))
            assert quantiles.shape == (3, 4)
            value = policy.predict_values(tensors, states.vf, flags)
            torch.testing.assert_close(quantiles.mean(dim=1, keepdim=True), value)
            as_numpy = tuple(state.numpy() for state in states.vf)
            assert torch.equal(
                policy.predict_quantiles(tensors, as_numpy, starts),
                quantiles,
            )
            torch.testing.assert_close(
                policy.predict_cvar(obs, 1.0, lstm_states=states, episode_starts=starts),
                quantiles.mean(dim=1),
            )

        fresh = policy.predict_quantiles(obs)
        assert torch.equal(policy.predict_quantiles(obs, states, np.ones(3)), fresh)
        assert not torch.allclose(policy.predict_quantiles(obs, states), fresh)
        assert policy.predict_quantiles(obs[0]).shape == (1, 4)


def test_predict_carries_states_as_recurrent_ppo_does():
    ours = make_recurrent(**RECURRENT_CASES["box"], **AS_PPO)
    theirs = make_recurrent(RecurrentPPO, **RECURRENT_CASES["box"])
    theirs.policy.load_state_dict(plain_state(ours))
    rng = np.random.default_rng(0)
    states = [None, None]

    for start in (
        [True] * 3,
        [False] * 3,
        [False, True, False],
        [False] * 3,
    ):
        obs = rng.uniform(-1, 1, (3, 3)).astype(np.float32)
        results = [
            model.predict(
                obs,
                state=state,
                episode_start=np.array(start),
                deterministic=True,
            )
            for model, state in zip((ours, theirs), states, strict=True)
        ]
        np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-5, atol=1e-6)
        states = [state for _, state in results]
        np.testing.assert_allclose(states[0], states[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("policy", ["MlpLstmPolicy", CustomEvaluation])
@pytest.mark.parametrize("by", [pickle, cloudpickle, copy])
def test_policies_are_pickled_copied_and_saved_alone(policy, by, tmp_path):
    model = make_recurrent(policy=policy, policy_kwargs=dict(n_lstm_layers=2))
    obs = model.observation_space.sample()
    expected = model.policy.predict_quantiles(obs)
    second = by.deepcopy(model.policy) if by is copy else by.loads(by.dumps(model.policy))

    assert torch.equal(second.predict_quantiles(obs), expected)

    model.policy.save(tmp_path / "policy.pt")
    again = type(model.policy).load(tmp_path / "policy.pt")
    assert torch.equal(again.predict_quantiles(obs), expected)

    model.save(tmp_path / "model")
    loaded = RecurrentDistributionalPPO.load(tmp_path / "model", env=model.get_env()).learn(96)
    assert type(loaded.policy).__name__ == type(model.policy).__name__


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        SHARED_LSTM,
        dict(enable_critic_lstm=False),
        dict(share_features_extractor=False),
    ],
)
def test_adams_eps_is_the_critics_for_what_only_the_critic_uses(kwargs):
    policy = make_recurrent(policy_kwargs=kwargs).policy
    eps = {id(p): group["eps"] for group in policy.optimizer.param_groups for p in group["params"]}
    critics = (
        "value_net",
        "mlp_extractor.value_net",
        "vf_features_extractor",
        "lstm_critic",
        "critic",
    )
    for name, parameter in policy.named_parameters():
        assert eps[id(parameter)] == (1e-8 if name.startswith(tuple(f"{c}." for c in critics)) else 1e-5), name
