"""
``variance_scaling_clip_min=0``: the weight has no lower clamp, and all quantiles begin as one.

Truth: episodes of one step whose reward is 2 * observation + noise, so a critic that learns explains most returns.
"""

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

from distributional_ppo import DistributionalPPO, RecurrentDistributionalPPO, VarianceGradientScalingMixin
from quantile_critic.losses import (
    next_std_average,
    quantile_huber_loss,
    squared_errors,
    variance_scaling_weight,
    weight_before_spread,
)


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
    settings = dict(n_steps=128, batch_size=64, n_epochs=5, learning_rate=3e-3, seed=0, device="cpu")
    policy = "MlpLstmPolicy" if kind is RecurrentDistributionalPPO else "MlpPolicy"
    lstm = dict(lstm_hidden_size=8) if kind is RecurrentDistributionalPPO else {}
    policy_kwargs = dict(net_arch=[16]) | lstm | (policy_kwargs or {})
    settings |= dict(policy_kwargs=policy_kwargs, variance_scaling_clip_min=0) | flags
    model = kind(policy, DummyVecEnv([lambda: Guess(size)] * 2), **settings)
    model.learn(updates * 256)
    return model


NORMALIZED = dict(normalize_returns=True, use_popart=True)
CRITICS = {
    "batch": {},
    "batch, an upper clamp below 1": dict(variance_scaling_clip_max=0.5),
    "batch, normalised": NORMALIZED,
    "batch, raw returns of size 100": dict(size=100.0, learning_rate=3e-2, updates=16),
    "batch, raw returns of size 0.01, whose weight is 0.002": dict(size=0.01, updates=80),
    "dsac_t": dict(variance_scaling_mode="dsac_t", **NORMALIZED),
    "dsac_t, raw returns": dict(variance_scaling_mode="dsac_t"),
    "sr_lambda": dict(value_target="sr_lambda"),
    "twin critics": dict(use_twin_critics=True),
    "twin critics, dsac_t": dict(use_twin_critics=True, variance_scaling_mode="dsac_t", **NORMALIZED),
    "VF clipping": dict(clip_range_vf=2.0),
    "recurrent": dict(kind=RecurrentDistributionalPPO, updates=10),
    "one quantile": dict(policy_kwargs=dict(n_quantiles=1)),
    "two quantiles": dict(policy_kwargs=dict(n_quantiles=2)),
}


@pytest.mark.filterwarnings("ignore:variance_scaling_mode='dsac_t' adds", "ignore:use_variance_gradient_scaling with")
@pytest.mark.parametrize("settings", CRITICS.values(), ids=CRITICS.keys())
def test_a_critic_without_a_lower_clamp_learns(settings):
    model = trained(**settings)
    assert model.logger.name_to_value["train/explained_variance"] > 0.8


TINY = {
    "batch": {},
    "dsac_t": dict(variance_scaling_mode="dsac_t", **NORMALIZED),
    "twin critics": dict(use_twin_critics=True),
    "recurrent": dict(kind=RecurrentDistributionalPPO, updates=10),
}


@pytest.mark.parametrize("clip_min", [1e-9, 1e-12, 5e-324])
@pytest.mark.parametrize("settings", TINY.values(), ids=TINY)
def test_a_clamp_too_small_to_hold_anything_counts_as_none(settings, clip_min):
    """A weight of 1e-9 makes gradients of 1e-9, which drown in Adam's eps."""
    model = trained(variance_scaling_clip_min=clip_min, **settings)
    assert model.logger.name_to_value["train/explained_variance"] > 0.8


@pytest.mark.parametrize(("clip_min", "expected"), [(0.0, 1.0), (9.9e-7, 1.0), (1e-6, 1e-6), (0.1, 0.1)])
def test_the_smallest_clamp_that_counts(clip_min, expected):
    weight = variance_scaling_weight(torch.zeros(4, 8), clip_min, 10.0, torch.ones(4))
    assert weight.item() == pytest.approx(expected)


def test_a_lower_clamp_stays_the_formula():
    """Quantiles that are one: variance 0, weight 0.1, whatever the error."""
    weights = [variance_scaling_weight(torch.zeros(4, 8), 0.1, 10.0, targets) for targets in (None, torch.ones(4))]
    assert [weight.item() for weight in weights] == pytest.approx([0.1, 0.1])


@pytest.mark.parametrize(
    ("variance", "expected"),
    [
        (0.0, 1.0),  # squared error 4, enough is 0.4: r = 0
        (0.1, 0.25 * 0.1 + 0.75),  # r = 0.1 / 0.4
        (0.4, 0.4),  # r = 1
        (2.0, 2.0),
        (30.0, 10.0),  # the upper clamp
    ],
)
def test_the_weight_moves_from_one_to_the_variance(variance, expected):
    std = variance**0.5
    quantiles = torch.tensor([[-std, std]] * 3, requires_grad=True)
    weight = variance_scaling_weight(quantiles, 0.0, 10.0, targets=torch.full((3, 1), 2.0))
    assert weight.item() == pytest.approx(expected, rel=1e-5)
    assert not weight.requires_grad


@pytest.mark.parametrize("targets", [torch.tensor([3.0, -1.0]), torch.tensor([[3.0], [-1.0]])])
def test_the_error_is_that_of_the_mean_prediction(targets):
    """Means 1 and 0, errors 2 and -1."""
    errors = squared_errors(torch.tensor([[0.0, 2.0], [-5.0, 5.0]]), targets)
    assert errors.tolist() == [4.0, 1.0]


def test_the_error_of_atoms_is_the_mean_over_them():
    """Mean 1, atoms 0 and 4: (1 + 9) / 2."""
    assert squared_errors(torch.tensor([[0.0, 2.0]]), torch.tensor([[0.0, 4.0]])).tolist() == [5.0]


@pytest.mark.parametrize(
    ("clip_max", "expected"),
    [(10.0, [1.0, 1.0]), (0.5, [0.5, 0.5])],
)
def test_the_weight_before_a_spread_is_one_within_the_clamps(clip_max, expected):
    weights = weight_before_spread(torch.zeros(2), torch.tensor(0.0), torch.tensor(1.0), clip_max)
    assert weights.tolist() == expected


def test_a_perfect_critic_has_a_finite_weight():
    """No spread and no error: the loss is 0 whatever the weight."""
    weight = weight_before_spread(torch.tensor(0.0), torch.tensor(0.0), torch.tensor(0.0), 10.0)
    assert torch.isfinite(weight)


class Host:
    """A trainer of a critic, whose quantiles begin as one, on x -> 2 x + noise."""

    def __init__(self):
        torch.manual_seed(0)
        last = nn.Linear(16, 8)
        last.weight.data[:] = last.weight.data[:1]
        last.bias.data[:] = 0
        self.net = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), last)

    def _quantile_huber_loss(self, quantiles, targets):
        return quantile_huber_loss(quantiles, targets, 1.0)

    def learn(self, steps):
        optimizer = torch.optim.Adam(self.net.parameters(), lr=3e-3)
        for _ in range(steps):
            x = torch.rand(64, 1) * 2 - 1
            loss = self._quantile_huber_loss(self.net(x), 2 * x[:, 0] + 0.1 * torch.randn(64)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


class PatchedHost(VarianceGradientScalingMixin, Host):
    pass


@pytest.mark.parametrize("mode", ["batch", "dsac_t"])
def test_a_trainer_with_the_mixin_and_no_lower_clamp_learns(mode):
    """The variance of 2 x, x uniform on [-1, 1], is 4 / 3."""
    trainer = PatchedHost(variance_scaling_clip_min=0, variance_scaling_mode=mode)
    trainer.learn(300)
    x = torch.linspace(-1, 1, 101)[:, None]
    with torch.no_grad():
        error = (trainer.net(x).mean(dim=1) - 2 * x[:, 0]).square().mean()
    assert error < 0.2 * 4 / 3


# ----------------------------------------------------------------------------------------- the average of "dsac_t"


def averages(stds, squared_error):
    """The average after each minibatch of 3 samples of that standard deviation."""
    average = filled = torch.zeros(())
    for std in stds:
        variance = torch.full((3,), std**2)
        average, filled = next_std_average(average, filled, variance, torch.tensor(squared_error))
        yield average.item()


def test_the_average_begins_with_the_first_spread_and_is_debiased():
    """
    Squared error 10: a spread has a variance of 1. Before, the average is the standard deviation as is. Then 1, 3, 2:
    1; (0.995 * 1 + 3) / 1.995; (0.995^2 * 1 + 0.995 * 3 + 2) / (0.995^2 + 0.995 + 1). A narrow one counts by then.
    """
    expected = [4e-9, 0.5, 1.0, 3.995 / 1.995, (0.995**2 + 0.995 * 3 + 2) / (0.995**2 + 1.995)]
    assert list(averages([4e-9, 0.5, 1.0, 3.0, 2.0], 9.99)) == pytest.approx(expected, rel=1e-5)
    assert list(averages([1.0, 0.0], 9.99)) == pytest.approx([1.0, 0.995 / 1.995], rel=1e-5)


def test_the_average_after_many_minibatches_is_that_of_adam_debiased():
    stds = np.random.default_rng(0).uniform(1, 3, size=500)
    moment = 0.0
    for std in stds:
        moment = 0.995 * moment + 0.005 * std
    assert list(averages(stds, 0.0))[-1] == pytest.approx(moment / (1 - 0.995**500), rel=1e-4)


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


@pytest.mark.parametrize(
    ("average", "filled"),
    [(0.0, 0.0), (0.3, 1.0)],
    ids=["before the first minibatch", "with an average"],
)
def test_archives_of_version_0_2_go_on_with_their_average(average, filled):
    settings = dict(n_steps=32, batch_size=32, seed=0, device="cpu", policy_kwargs=dict(net_arch=[8]))
    flags = dict(variance_scaling_mode="dsac_t", normalize_returns=True)
    model = DistributionalPPO("MlpPolicy", "CartPole-v1", **settings, **flags)
    parameters = model.get_parameters()
    parameters["policy"]["value_net.std_average"].fill_(average)
    del parameters["policy"]["value_net.std_average_filled"]
    model.set_parameters(parameters)
    head = model.policy.value_net
    assert (head.std_average.item(), head.std_average_filled.item()) == (pytest.approx(average), filled)


@pytest.mark.parametrize("warns", [True, False])
def test_dsac_t_without_scaling_has_nothing_to_warn_of(warns, recwarn):
    flags = dict(variance_scaling_mode="dsac_t", use_variance_gradient_scaling=warns)
    DistributionalPPO("MlpPolicy", "CartPole-v1", n_steps=32, batch_size=32, device="cpu", **flags)
    assert any("absolute 0.1" in str(warning.message) for warning in recwarn) is warns
