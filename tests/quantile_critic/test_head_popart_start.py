"""
The first statistics with PopArt keep raw predictions, as every later step does (van Hasselt et al. 2016, eq. 9).

Before them every raw prediction is 0. After them a state that no rollout visited was worth the mean return.
"""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from distributional_ppo import DistributionalPPO
from quantile_critic.head import QuantileHead

SETTINGS = dict(n_steps=32, batch_size=32, n_epochs=1, seed=0, device="cpu")
POPART = dict(normalize_returns=True, use_popart=True)


class FarFromZero(gym.Env):
    """Episodes of one step, whose rewards lie around -500."""

    observation_space = spaces.Box(-1, 1, (3,))
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observe(), {}

    def step(self, action):
        reward = self.np_random.normal(-500.0, 10.0)
        return self.observe(), float(reward), True, False, {}

    def observe(self):
        return self.np_random.uniform(-1, 1, 3).astype(np.float32)


@pytest.mark.parametrize("use_twin_critics", [False, True])
@pytest.mark.parametrize("critic_outputs", [1, 5])
def test_raw_predictions_before_and_after_the_first_statistics_are_equal(critic_outputs, use_twin_critics):
    """A learning rate of 0 leaves the statistics as the only change."""
    model = DistributionalPPO(
        "MlpPolicy",
        FarFromZero(),
        learning_rate=0.0,
        policy_kwargs=dict(n_quantiles=critic_outputs),
        use_twin_critics=use_twin_critics,
        use_variance_gradient_scaling=False,
        **SETTINGS,
        **POPART,
    )
    unvisited = np.random.default_rng(0).uniform(-100, 100, (64, 3)).astype(np.float32)

    before = model.policy.predict_quantiles(unvisited)
    model.learn(32)
    after = model.policy.predict_quantiles(unvisited)

    assert model.policy.value_net.ret_mean.item() == pytest.approx(-500, abs=10)
    assert before.abs().max() == 0
    # 1e-6 of |mean| + std, as for every later step.
    assert after.abs().max() < 1e-6 * 520


def test_without_popart_the_first_statistics_move_the_predictions():
    model = DistributionalPPO("MlpPolicy", FarFromZero(), learning_rate=0.0, normalize_returns=True, **SETTINGS)
    model.learn(32)
    visited = np.zeros((1, 3), dtype=np.float32)
    assert model.policy.predict_quantiles(visited).mean().item() == pytest.approx(-500, abs=30)


def test_the_critic_learns_from_there_within_an_update():
    """The weights that the first statistics have made 0 move with the first steps; the mean is 50 stds away."""
    settings = SETTINGS | dict(n_epochs=200, learning_rate=0.01)
    model = DistributionalPPO("MlpPolicy", FarFromZero(), **settings, **POPART)
    model.learn(32)
    last = model.policy.value_net.last_layers[0]
    assert last.weight.abs().min() > 0
    observations = np.random.default_rng(0).uniform(-1, 1, (64, 3)).astype(np.float32)
    assert model.policy.predict_quantiles(observations).mean().item() == pytest.approx(-500, abs=30)


@pytest.mark.parametrize("mean", [0.0, 7.0])
def test_from_equal_returns_every_prediction_stays_their_mean(mean):
    """A std of 0 makes every raw prediction the mean; so it is by the new statistics: -3 + 4 * (mean + 3) / 4."""
    head = QuantileHead(nn.Linear(3, 1), 5)
    head.set_statistics(mean, 0.0, popart=True)
    latent = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))

    head.set_statistics(-3.0, 4.0, popart=True)

    with torch.no_grad():
        assert (head.to_raw(head(latent)) - mean).abs().max() < 1e-6 * (mean + 3 + 4)


def test_the_average_of_dsac_t_begins_anew_with_equal_quantiles():
    head = QuantileHead(nn.Linear(3, 1), 5)
    head.ret_std.zero_()
    head.std_average.fill_(2.0)
    head.std_average_filled.fill_(0.5)

    head.set_statistics(1.0, 4.0, popart=True)
    assert (head.std_average.item(), head.std_average_filled.item()) == (0.0, 0.0)

    head.std_average.fill_(2.0)
    head.std_average_filled.fill_(0.5)
    head.set_statistics(1.0, 8.0, popart=True)
    assert (head.std_average.item(), head.std_average_filled.item()) == (1.0, 0.5)


def test_a_model_without_statistics_that_normalises_no_longer_begins_as_ppo_does(tmp_path):
    """Nothing has been learnt in other units: the first value of the critic is that of the same seed."""
    model = DistributionalPPO("MlpPolicy", FarFromZero(), **SETTINGS, **POPART)
    model.save(tmp_path / "model")
    raw = DistributionalPPO("MlpPolicy", FarFromZero(), **SETTINGS)
    flags = dict(normalize_returns=False, use_popart=False, learning_rate=0.0)
    loaded = DistributionalPPO.load(tmp_path / "model", env=FarFromZero(), **flags)

    loaded.learn(32)

    observation = np.full((1, 3), 0.5, dtype=np.float32)
    expected = raw.policy.predict_quantiles(observation)
    assert torch.equal(loaded.policy.predict_quantiles(observation), expected)
    assert expected.abs().max() > 0
