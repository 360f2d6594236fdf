"""Which class trains a policy, and what it is given."""

import sys

import pytest
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3.common.env_util import make_vec_env

import distributional_ppo
from distributional_ppo import DistributionalPPO, RecurrentDistributionalPPO
from market_regimes.config import MarketConfig, RunConfig
from market_regimes.run.algorithm import algorithm_class, check_ranges, model_of, python_values, recurrent_types
from market_regimes.run.study import Study

LSTM = dict(policy="MlpLstmPolicy")
SMALL = dict(seed=0, device="cpu", n_steps=16, batch_size=16, n_epochs=1)
EMPTY = {
    "sequence_length": None,
    "policy_kwargs": {
        **dict.fromkeys(k[14:] for k in recurrent_types() if k.count(".") == 1),
        "lstm_kwargs": {"dropout": None, "bias": None},
    },
}


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        *((policy, "DistributionalPPO") for policy in ("MlpPolicy", "CnnPolicy", "MultiInputPolicy")),
        *((p, "RecurrentDistributionalPPO") for p in ("MlpLstmPolicy", "CnnLstmPolicy", "MultiInputLstmPolicy")),
    ],
)
def test_the_class_follows_from_the_policy(policy, expected):
    assert algorithm_class({"policy": policy, **EMPTY}) is getattr(distributional_ppo, expected)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sequence_length", 16),
        ("policy_kwargs.lstm_hidden_size", 8),
        ("policy_kwargs.n_lstm_layers", 2),
        ("policy_kwargs.shared_lstm", True),
        ("policy_kwargs.shared_lstm", False),
        ("policy_kwargs.enable_critic_lstm", False),
        ("policy_kwargs.lstm_kwargs.dropout", 0.5),
        ("policy_kwargs.lstm_kwargs.bias", False),
    ],
)
def test_keys_of_recurrent_policies_are_refused_where_there_is_no_lstm(key, value):
    keys = value

    for name in reversed(key.split(".")):
        keys = {name: keys}

    with pytest.raises(ValueError, match=rf"algorithm\.{key}={value} is for .*MlpLstmPolicy.*algorithm\.policy=MlpPol"):
        algorithm_class({"policy": "MlpPolicy", **keys})

    if key != "policy_kwargs.shared_lstm":
        assert algorithm_class({**LSTM, **keys}) is RecurrentDistributionalPPO


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        (dict(lstm_hidden_size=0), "lstm_hidden_size must be at least 1, got 0"),
        (dict(n_lstm_layers=0), "n_lstm_layers must be at least 1, got 0"),
        (dict(lstm_kwargs=dict(dropout=-0.1)), r"lstm_kwargs.dropout must be within \[0, 1\], got -0.1"),
        (dict(shared_lstm=True, enable_critic_lstm=True), "shared_lstm=true and enable_critic_lstm=true exclude"),
        (dict(shared_lstm=True, share_features_extractor=False), "needs share_features_extractor=true"),
    ],
)
def test_lstms_that_cannot_be_are_refused_in_the_words_of_the_configuration(kwargs, match):
    with pytest.raises(ValueError, match=match):
        algorithm_class({**LSTM, "policy_kwargs": kwargs})


def test_a_sequence_has_a_step():
    check_ranges({"sequence_length": 1})
    with pytest.raises(ValueError, match=r"algorithm\.sequence_length must be within \[1, "):
        check_ranges({"sequence_length": 0})


def test_keys_that_are_null_are_left_to_the_constructor():
    values = python_values({**LSTM, **EMPTY, "target_kl": None})

    assert values == {**LSTM, "target_kl": None, "policy_kwargs": {}}

    given = python_values({**LSTM, "sequence_length": 3, "policy_kwargs": {"lstm_hidden_size": 5, "n_quantiles": 7}})

    assert given == {**LSTM, "sequence_length": 3, "policy_kwargs": {"lstm_hidden_size": 5, "n_quantiles": 7}}

    for kwargs, expected in (({"dropout": 0.5, "bias": None}, {"dropout": 0.5}), ({"bias": False}, {"bias": False})):
        before = {**LSTM, "policy_kwargs": {"lstm_kwargs": kwargs}}
        assert python_values(before)["policy_kwargs"] == {"lstm_kwargs": expected}
        assert before["policy_kwargs"]["lstm_kwargs"] is kwargs


def test_a_shared_lstm_leaves_the_critic_none_of_its_own():
    assert python_values({**LSTM, "policy_kwargs": {"shared_lstm": True}})["policy_kwargs"] == {
        "shared_lstm": True,
        "enable_critic_lstm": False,
    }
    assert python_values({**LSTM, "policy_kwargs": {"shared_lstm": False}})["policy_kwargs"] == {"shared_lstm": False}


def test_the_study_builds_what_is_configured(tmp_path):
    run = RunConfig("CartPole-v1", total_timesteps=32, n_envs=2, out=str(tmp_path), name="run", progress_bar=False)
    keys = dict(lstm_hidden_size=5, n_lstm_layers=2, shared_lstm=True, lstm_kwargs=dict(bias=False))
    study = Study(run, MarketConfig(), {**LSTM, **SMALL, "sequence_length": 4, "policy_kwargs": keys})
    policy = study.model.policy

    assert isinstance(policy, RecurrentActorCriticPolicy)
    assert (policy.lstm_actor.hidden_size, policy.lstm_actor.num_layers, policy.lstm_critic) == (5, 2, None)
    assert not policy.lstm_actor.bias
    assert (study.model.sequence_length, study.model.n_steps, study.model.batch_size) == (4, 16, 16)

    folder = study.start("")

    assert study.evaluate(folder, "test")["joint"]["agent"]["mean_reward"] > 0

    plain = Study(run, MarketConfig(), {"policy": "MlpPolicy", **SMALL, **EMPTY})

    assert type(plain.model) is DistributionalPPO


def test_a_model_that_only_acts_is_not_trained():
    env = make_vec_env("CartPole-v1", 2)
    model = model_of({**SMALL, "policy_kwargs": {"optimizer_class": "RMSprop"}}, env, acts_only=True)

    assert [*model.get_parameters()] == ["policy", "policy.optimizer"]  # as in the checkpoints of a training
    with pytest.raises(RuntimeError, match="this model only acts"):
        model.learn(64)


def test_without_sb3_contrib_a_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "recurrent_distributional_ppo", None)

    with pytest.raises(ValueError, match=r'algorithm\.policy=MlpLstmPolicy needs sb3-contrib: pip install "'):
        algorithm_class(LSTM)

    assert algorithm_class({"policy": "MlpPolicy"}) is DistributionalPPO


@pytest.mark.parametrize("policy", ["CnnLstmPolicy", "MultiInputLstmPolicy"])
def test_a_recurrent_policy_for_other_observations_is_refused(policy):
    with pytest.raises((ValueError, AssertionError)):
        Study(RunConfig("CartPole-v1", n_envs=1), MarketConfig(), {**SMALL, "policy": policy})
