"""What the constructor and ``load`` take: every flag against every kind of value, and targets of every shape."""

import inspect
import math

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO

from distributional_ppo import DistributionalPPO, RecurrentDistributionalPPO
from quantile_critic.checks import check_flags
from quantile_critic.losses import quantile_huber_loss

OWN_FLAGS = [
    name
    for name in inspect.signature(DistributionalPPO.__init__).parameters
    if name not in inspect.signature(PPO.__init__).parameters
]
FLAGS = [*OWN_FLAGS, "batch_size", "n_epochs"]

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
def test_a_flag_takes_its_values_and_names_itself_otherwise(name, kind, blank, monkeypatch):
    monkeypatch.setattr(blank, name, VALUES[kind])
    if kind in TAKES[name]:
        check_flags(blank)
        return
    with pytest.raises((TypeError, ValueError)) as error:
        check_flags(blank)
    assert name in str(error.value)
    assert "not supported between" not in str(error.value)
    assert "ambiguous" not in str(error.value)


@pytest.mark.parametrize("name", ["quantile_huber_kappa", "variance_scaling_clip_max", "return_stats_rate", "n_epochs"])
def test_load_names_the_flag_too(name, tmp_path):
    model = DistributionalPPO("MlpPolicy", "CartPole-v1", device="cpu", n_steps=32, batch_size=32)
    model.save(tmp_path / "model")
    with pytest.raises(TypeError, match=f"{name}.* must be .*number|{name} must be an integer"):
        DistributionalPPO.load(tmp_path / "model", device="cpu", **{name: "0.5"})


# ------------------------------------------------------------------------------------------------ shapes of targets


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_targets_are_one_row_per_row_of_quantiles(shape):
    quantiles = torch.zeros(4, 3)
    assert quantile_huber_loss(quantiles, torch.ones(shape), 1.0).shape == (4,)


OTHER_SHAPES = [(), (1,), (1, 1), (1, 4, 2), (3,), (5,), (2, 2, 2), (1, 8), (8, 1), (0,), (2, 2), (1, 4)]


@pytest.mark.parametrize("shape", OTHER_SHAPES)
def test_targets_of_another_number_of_rows_are_refused(shape):
    with pytest.raises(ValueError, match=r"targets must have shape \(4,\), \(4, 1\) or \(4, M\)"):
        quantile_huber_loss(torch.zeros(4, 3), torch.ones(shape), 1.0)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_one_row_of_quantiles_takes_one_target(shape):
    """One quantile 0 against 1, kappa 1: |0.5 - 0| * 1 / 2."""
    assert quantile_huber_loss(torch.zeros(1, 1), torch.ones(shape), 1.0).tolist() == [0.25]


@pytest.mark.parametrize("shape", [(1,), (1, 1)])
def test_the_models_loss_refuses_them_too(shape, blank):
    model = DistributionalPPO("MlpPolicy", "CartPole-v1", device="cpu", n_steps=32, batch_size=32)
    with pytest.raises(ValueError, match="targets must have shape"):
        model._quantile_huber_loss(torch.zeros(4, 32), torch.ones(shape))


# ------------------------------------------------------------------------------------------------ predictions


@pytest.mark.parametrize("kind", [DistributionalPPO, RecurrentDistributionalPPO])
@pytest.mark.parametrize("twins", [True, False])
def test_predicted_quantiles_and_cvar_have_no_gradient(kind, twins):
    name = "MlpPolicy" if kind is DistributionalPPO else "MlpLstmPolicy"
    model = kind(name, "CartPole-v1", device="cpu", n_steps=32, batch_size=32, use_twin_critics=twins)
    obs = model.get_env().reset()
    state = [] if kind is DistributionalPPO else [model._last_lstm_states, np.ones(1)]
    quantiles = model.policy.predict_quantiles(obs, *state)
    assert not quantiles.requires_grad
    assert quantiles.numpy().shape == (1, 32)
    if kind is DistributionalPPO:
        assert not model.policy.predict_cvar(obs, 0.1).requires_grad
        assert model.policy.quantiles_of_loss(torch.as_tensor(obs)).requires_grad
