"""
``variance_scaling_clip_min=0``: the weight has no lower clamp, and all quantiles begin as one.

Truth: episodes of one step whose reward is 2 * observation + noise, so a critic that learns explains most returns.
"""

import gymnasium as gym
import numpy as np
import pytest
from builders import NORMALISED
from stable_baselines3.common.vec_env import DummyVecEnv

from distributional_ppo import DistributionalPPO, RecurrentDistributionalPPO


class Guess(gym.Env):
    """Episodes of one step; the observation x is uniform on [-1, 1], the reward is size * (2 x + noise / 10)."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, size=1.0):
        self.size = size

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = self.np_random.uniform(-1, 1)
        return np.array([self.x], np.float32), {}

    def step(self, action):
        reward = self.size * (2 * self.x + 0.1 * self.np_random.normal())
        return np.array([self.x], np.float32), reward, True, False, {}


def trained(kind=DistributionalPPO, updates=6, size=1.0, policy_kwargs=None, **flags):
    """A model that has learned from 256 guesses an update."""
    settings = dict(
        n_steps=128,
        batch_size=64,
        n_epochs=5,
        learning_rate=3e-3,
        seed=0,
        device="cpu",
    )
    policy = "MlpLstmPolicy" if kind is RecurrentDistributionalPPO else "MlpPolicy"
    lstm = dict(lstm_hidden_size=8) if kind is RecurrentDistributionalPPO else {}
    policy_kwargs = dict(net_arch=[16]) | lstm | (policy_kwargs or {})
    settings |= dict(policy_kwargs=policy_kwargs, variance_scaling_clip_min=0) | flags
    model = kind(policy, DummyVecEnv([lambda: Guess(size)] * 2), **settings)
    model.learn(updates * 256)
    return model


CRITICS = {
    "batch": {},
    "batch, an upper clamp below 1": dict(variance_scaling_clip_max=0.5),
    "batch, normalised": NORMALISED,
    "batch, raw returns of size 100": dict(size=100.0, learning_rate=3e-2, updates=16),
    "batch, raw returns of size 0.01, whose weight is 0.002": dict(size=0.01, updates=80),
    "dsac_t": dict(variance_scaling_mode="dsac_t", **NORMALISED),
    "dsac_t, raw returns": dict(variance_scaling_mode="dsac_t"),
    "sr_lambda": dict(value_target="sr_lambda"),
    "twin critics": dict(use_twin_critics=True),
    "twin critics, dsac_t": dict(use_twin_critics=True, variance_scaling_mode="dsac_t", **NORMALISED),
    "VF clipping": dict(clip_range_vf=2.0),
    "recurrent": dict(kind=RecurrentDistributionalPPO, updates=10),
    "one quantile": dict(policy_kwargs=dict(n_quantiles=1)),
    "two quantiles": dict(policy_kwargs=dict(n_quantiles=2)),
}


@pytest.mark.filterwarnings(
    "ignore:variance_scaling_mode='dsac_t' adds",
    "ignore:use_variance_gradient_scaling with",
)
@pytest.mark.parametrize("settings", CRITICS.values(), ids=CRITICS.keys())
def test_a_critic_without_a_lower_clamp_learns(settings):
    model = trained(**settings)
    assert model.logger.name_to_value["train/explained_variance"] > 0.8


TINY = {
    "batch": {},
    "dsac_t": dict(variance_scaling_mode="dsac_t", **NORMALISED),
    "twin critics": dict(use_twin_critics=True),
    "recurrent": dict(kind=RecurrentDistributionalPPO, updates=10),
}


@pytest.mark.parametrize("clip_min", [1e-9, 1e-12, 5e-324])
@pytest.mark.parametrize("settings", TINY.values(), ids=TINY)
def test_a_clamp_too_small_to_hold_anything_counts_as_zero(settings, clip_min):
    """A weight of 1e-9 makes gradients of 1e-9, which drown in Adam's eps."""
    model = trained(variance_scaling_clip_min=clip_min, **settings)
    assert model.logger.name_to_value["train/explained_variance"] > 0.8


def test_the_weights_of_dsac_t_leave_their_clamp_as_soon_as_the_quantiles_have_a_spread():
    """Every weight of the first 240 minibatches was at a clamp; here m^2 / (v + 0.1) is within after 142."""
    clamped = []

    class Noting(DistributionalPPO):
        def _value_loss(self, *args, **kwargs):
            loss, metrics = super()._value_loss(*args, **kwargs)
            clamped.append(float(metrics["variance_scaling_clamped"]))
            return loss, metrics

    flags = dict(variance_scaling_mode="dsac_t", normalize_returns=True, use_popart=True)
    Noting("MlpPolicy", "CartPole-v1", seed=0, device="cpu", n_epochs=6, **flags).learn(2048)

    assert np.argmin(clamped) < 170
