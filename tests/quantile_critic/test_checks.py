"""What the constructor and ``load`` take: every flag against every kind of value, and what is refused."""

import inspect
import io
import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from builders import SHORT, make_walking
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv

from distributional_ppo import (
    DistributionalPPO,
    RecurrentDistributionalPPO,
)
from quantile_critic.checks import check_flags

FLAGS_OF_THE_CLASS = [
    name
    for name in inspect.signature(DistributionalPPO.__init__).parameters
    if name not in inspect.signature(PPO.__init__).parameters
]

FLAGS = [*FLAGS_OF_THE_CLASS, "batch_size", "n_epochs"]

# What each flag may be, of the values below.
NUMBERS = ["0.5", "2", "float32", "int64"]

TAKES = {
    "quantile_huber_kappa": NUMBERS,
    "distributional_vf_clip_variance_factor": NUMBERS,
    "variance_scaling_clip_min": ["0.5", "2", "float32", "int64", "0"],
    "variance_scaling_clip_max": NUMBERS,
    "return_stats_rate": ["0.5", "float32", "None"],
    "batch_size": ["2", "int64", "None"],  # None in the recurrent class
    "n_epochs": ["2", "int64"],
    "distributional_vf_clip_mode": ["None"],
    "quantile_huber_kappa_units": ["None"],
    "critic_loss": [],
    "gradient_clipping": [],
    "value_target": [],
    "clip_range_vf_units": [],
    "variance_scaling_mode": [],
    "normalize_returns": ["True"],
    "use_popart": [],  # True needs normalize_returns
    "use_twin_critics": ["True"],
    "use_variance_gradient_scaling": ["True"],
    "compile": ["True"],
}

VALUES = {
    "None": None,
    "text": "0.5",
    "True": True,
    "numpy's bool": np.bool_(True),
    "nan": math.nan,
    "float32 nan": np.float32("nan"),
    "inf": math.inf,
    "minus one": -1,
    "0": 0,
    "0.5": 0.5,
    "2": 2,
    "float32": np.float32(0.75),
    "int64": np.int64(3),
    "list": [1.0],
    "dict": {},
    "array": np.ones(2),
    "complex": 1j,
    "object": object(),
}


@pytest.fixture(scope="module")
def blank():
    return DistributionalPPO("MlpPolicy", "CartPole-v1", device="cpu", _init_setup_model=False)


@pytest.mark.parametrize("name", FLAGS)
@pytest.mark.parametrize("kind", VALUES)
def test_a_flag_takes_its_values_and_an_error_names_the_flag(name, kind, blank, monkeypatch):
    monkeypatch.setattr(blank, name, VALUES[kind])

    if kind in TAKES[name]:
        check_flags(blank)
        return

    with pytest.raises((TypeError, ValueError)) as error:
        check_flags(blank)
    assert name in str(error.value)
    assert "not supported between" not in str(error.value)
    assert "ambiguous" not in str(error.value)


@pytest.mark.parametrize(
    "name",
    [
        "quantile_huber_kappa",
        "variance_scaling_clip_max",
        "return_stats_rate",
        "n_epochs",
    ],
)
def test_load_names_the_flag_too(name, tmp_path):
    model = DistributionalPPO("MlpPolicy", "CartPole-v1", device="cpu", n_steps=32, batch_size=32)
    model.save(tmp_path / "model")
    with pytest.raises(TypeError, match=f"{name}.* must be .*number|{name} must be an integer"):
        DistributionalPPO.load(tmp_path / "model", device="cpu", **{name: "0.5"})


@pytest.mark.parametrize("shape", [(1,), (1, 1)])
def test_the_models_loss_refuses_them_too(shape, blank):
    model = DistributionalPPO("MlpPolicy", "CartPole-v1", device="cpu", n_steps=32, batch_size=32)
    with pytest.raises(ValueError, match="targets must have shape"):
        model._quantile_huber_loss(torch.zeros(4, 32), torch.ones(shape))


@pytest.mark.parametrize(
    ("flags", "error", "match"),
    [
        (dict(clip_range_vf=0.2, normalize_returns=True), ValueError, "use_popart"),
        (dict(n_epochs=0), ValueError, "n_epochs"),
        (dict(quantile_huber_kappa=0.0), ValueError, "quantile_huber_kappa"),
        (
            dict(quantile_huber_kappa=float("inf")),
            ValueError,
            "quantile_huber_kappa",
        ),
        (dict(return_stats_rate=0.0), ValueError, "return_stats_rate"),
        (dict(return_stats_rate=1.1), ValueError, "return_stats_rate"),
        (dict(use_popart=True), ValueError, "normalize_returns"),
        (dict(use_variance_gradient_scaling="False"), TypeError, "True or False"),
        (
            dict(variance_scaling_clip_min=11.0),
            ValueError,
            "variance_scaling_clip_min",
        ),
        (
            dict(variance_scaling_clip_max=float("nan")),
            ValueError,
            "variance_scaling_clip_max",
        ),
    ],
)
def test_wrong_values_are_refused_by_constructor_and_load(flags, error, match):
    with pytest.raises(error, match=match):
        DistributionalPPO("MlpPolicy", "CartPole-v1", **{**SHORT, **flags})

    archive = io.BytesIO()
    DistributionalPPO("MlpPolicy", "CartPole-v1", **SHORT).save(archive)
    with pytest.raises(error, match=match):
        DistributionalPPO.load(archive, **flags)


@pytest.mark.parametrize("n_quantiles", [0, -1, 2.5, True])
def test_wrong_numbers_of_quantiles_are_refused(n_quantiles):
    with pytest.raises(ValueError, match="n_quantiles"):
        DistributionalPPO(
            "MlpPolicy",
            "CartPole-v1",
            policy_kwargs=dict(n_quantiles=n_quantiles),
            **SHORT,
        )


def test_load_refuses_unknown_keywords_and_names_the_nearest(tmp_path):
    DistributionalPPO("MlpPolicy", "CartPole-v1", **SHORT).save(tmp_path / "model")
    with pytest.raises(TypeError, match="did you mean 'use_variance_gradient_scaling'"):
        DistributionalPPO.load(tmp_path / "model", use_variance_gradiant_scaling=False)
    assert DistributionalPPO.load(tmp_path / "model", num_timesteps=7).num_timesteps == 7  # an attribute, as in PPO


def test_one_quantile_with_scaling_warns():
    with pytest.warns(UserWarning, match="n_quantiles=1"):
        DistributionalPPO("MlpPolicy", "CartPole-v1", policy_kwargs=dict(n_quantiles=1), **SHORT)


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        (dict(value_target="td"), "value_target must be one of 'gae', 'sr_lambda'"),
        (
            dict(distributional_vf_clip_mode="all"),
            "distributional_vf_clip_mode must be one of",
        ),
        (
            dict(distributional_vf_clip_mode="mean_only"),
            "clip_range_vf, which is None",
        ),
        (dict(clip_range_vf_units="std"), "without clip_range_vf"),
        (
            dict(clip_range_vf=0.2, clip_range_vf_units="std"),
            "set normalize_returns=True",
        ),
        (
            dict(clip_range_vf=0.2, clip_range_vf_units="percent"),
            "clip_range_vf_units must be one of",
        ),
        (dict(clip_range_vf=0.2, normalize_returns=True), "needs use_popart=True"),
        (dict(clip_range_vf=-0.2), "clip_range_vf"),
        (
            dict(clip_range_vf=0.2, distributional_vf_clip_variance_factor=0.0),
            "variance_factor",
        ),
        (
            dict(variance_scaling_mode="sample"),
            "variance_scaling_mode must be one of",
        ),
    ],
)
def test_wrong_combinations_are_refused_with_a_reason(flags, match):
    with pytest.raises((ValueError, AssertionError), match=match):
        make_walking(**flags)


def test_dsac_t_without_normalised_returns_warns():
    with pytest.warns(UserWarning, match="absolute 0.1"):
        make_walking(variance_scaling_mode="dsac_t")


@pytest.mark.parametrize("warns", [True, False])
def test_dsac_t_without_scaling_has_nothing_to_warn_of(warns, recwarn):
    flags = dict(variance_scaling_mode="dsac_t", use_variance_gradient_scaling=warns)
    DistributionalPPO("MlpPolicy", "CartPole-v1", n_steps=32, batch_size=32, device="cpu", **flags)
    assert any("absolute 0.1" in str(warning.message) for warning in recwarn) is warns


def test_plain_ppo_archives_are_refused_with_a_sentence(tmp_path):
    plain = PPO("MlpPolicy", "CartPole-v1", **SHORT)
    plain.save(tmp_path / "plain")
    with pytest.raises(ValueError, match="plain PPO"):
        DistributionalPPO.load(tmp_path / "plain")

    model = DistributionalPPO("MlpPolicy", "CartPole-v1", **SHORT)
    with pytest.raises(ValueError, match="plain PPO"):
        model.set_parameters(plain.get_parameters())

    plain.learn(64)
    model.set_parameters(plain.get_parameters(), exact_match=False)
    assert torch.equal(model.policy.action_net.weight, plain.policy.action_net.weight)

    model.learn(64)  # Adam's moments of the one-value head must not have come along


class Buffer:
    """Stands for a class of the user's."""


KINDS = {
    DistributionalPPO: "MlpPolicy",
    RecurrentDistributionalPPO: "MlpLstmPolicy",
}


@pytest.mark.parametrize(
    "given",
    [dict(rollout_buffer_class=Buffer), dict(rollout_buffer_kwargs=dict(n=1))],
)
def test_a_recurrent_model_refuses_a_buffer_class(given, tmp_path):
    (name,) = given
    with pytest.raises(TypeError, match=f"{name} is no parameter of RecurrentDistributionalPPO"):
        RecurrentDistributionalPPO("MlpLstmPolicy", "CartPole-v1", **SHORT, **given)

    RecurrentDistributionalPPO("MlpLstmPolicy", "CartPole-v1", **SHORT).save(tmp_path / "model")
    with pytest.raises(TypeError, match=f"{name} is no parameter of RecurrentDistributionalPPO"):
        RecurrentDistributionalPPO.load(tmp_path / "model", **given)


@pytest.mark.parametrize("kind", KINDS)
def test_empty_buffer_keywords_are_accepted(kind):
    kind(
        KINDS[kind],
        "CartPole-v1",
        rollout_buffer_class=None,
        rollout_buffer_kwargs={},
        **SHORT,
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "given",
    [
        dict(supported_action_spaces=(spaces.Box,)),
        dict(monitor_wrapper=False),
        dict(support_multi_env=False),
    ],
)
def test_keywords_without_effect_are_refused(kind, given, tmp_path):
    (name,) = given
    with pytest.raises(TypeError, match=name):
        kind(KINDS[kind], "CartPole-v1", **SHORT, **given)

    kind(KINDS[kind], "CartPole-v1", **SHORT).save(tmp_path / "model")
    with pytest.raises(TypeError, match=f"unknown keyword '{name}'"):
        kind.load(tmp_path / "model", **given)


@pytest.mark.parametrize("kind", KINDS)
def test_load_takes_a_window_of_statistics(kind, tmp_path):
    """PPO takes the keyword and keeps the old window."""
    kind(KINDS[kind], "CartPole-v1", **SHORT).save(tmp_path / "model")
    loaded = kind.load(
        tmp_path / "model",
        env=DummyVecEnv([lambda: gym.make("CartPole-v1")]),
        stats_window_size=5,
    )

    assert loaded.learn(32).ep_info_buffer.maxlen == 5
