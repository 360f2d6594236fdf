"""
``quantile_huber_kappa_units="std"``: kappa in standard deviations of the returns, which stay in raw units.

Oracles: a plain loop over the formula, and rewards times a power of 2, which changes no mantissa.
"""

import gymnasium as gym
import numpy as np
import pytest
import torch
from builders import needs_compiler, train_alike
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback

from distributional_ppo import DistributionalPPO, RecurrentDistributionalPPO

SHORT = dict(n_steps=32, batch_size=20, n_epochs=3, seed=0, device="cpu", learning_rate=1e-2)
IN_STDS = dict(quantile_huber_kappa_units="std", use_variance_gradient_scaling=False)


class Scaled(gym.Env):
    """Episodes of 5 steps; every reward is multiplied by the scale."""

    observation_space = spaces.Box(-1, 1, (3,))
    action_space = spaces.Discrete(3)

    def __init__(self, scale=1.0):
        self.scale = scale
        self.steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.observe(), {}

    def step(self, action):
        self.steps += 1
        observation = self.observe()
        reward = 3.0 * observation[0] + float(action) + 1.0
        return observation, float(reward) * self.scale, self.steps == 5, False, {}

    def observe(self):
        return self.np_random.uniform(-1, 1, 3).astype(np.float32)


class Returns(BaseCallback):
    """Keeps the raw returns of every rollout."""

    def __init__(self):
        super().__init__()
        self.rollouts = []

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        self.rollouts.append(self.model.rollout_buffer.returns.astype(np.float64).copy())


def quantile_huber(quantiles, targets, kappa):
    """Mean over the quantiles of each sample, in plain Python."""
    losses = []
    for row, target in zip(quantiles, targets, strict=True):
        total = 0.0
        for i, quantile in enumerate(row):
            u = target - quantile
            huber = u * u / 2 if abs(u) <= kappa else kappa * (abs(u) - kappa / 2)
            share = (i + 0.5) / len(row) - (1.0 if u < 0 else 0.0)
            total += abs(share) * huber / kappa
        losses.append(total / len(row))
    return losses


def test_the_loss_has_kappa_times_the_std():
    """A std of 4 and kappa 0.5: the loss at kappa 2."""
    model = DistributionalPPO("MlpPolicy", Scaled(), quantile_huber_kappa=0.5, **IN_STDS, **SHORT)
    model.policy.value_net.kappa_statistics.copy_(torch.tensor([7.0, 4.0, 1.0]))
    rng = np.random.default_rng(0)
    quantiles = rng.normal(0, 3, (6, 5)).astype(np.float32)
    targets = rng.normal(0, 3, 6).astype(np.float32)

    loss = model._quantile_huber_loss(torch.as_tensor(quantiles), torch.as_tensor(targets), reduction="none")

    expected = quantile_huber(quantiles.astype(float), targets.astype(float), 2.0)
    assert loss.tolist() == pytest.approx(expected, rel=1e-5)


def test_before_the_first_statistics_kappa_counts_in_units_of_return():
    model = DistributionalPPO("MlpPolicy", Scaled(), quantile_huber_kappa=0.5, **IN_STDS, **SHORT)
    loss = model._quantile_huber_loss(torch.tensor([[0.0]]), torch.tensor([3.0]))
    # |0.5 - 0| * 0.5 * (3 - 0.25) / 0.5
    assert loss.item() == pytest.approx(1.375)


@pytest.mark.parametrize("rate", [None, 0.3])
@pytest.mark.parametrize("kind", [DistributionalPPO, RecurrentDistributionalPPO])
def test_the_statistics_are_those_of_normalised_returns_and_leave_the_units(kind, rate, tmp_path):
    """Debiased averages of mean and mean square, in float64; saved, loaded and continued."""
    policy = "MlpPolicy" if kind is DistributionalPPO else "MlpLstmPolicy"
    seen = Returns()
    model = kind(policy, Scaled(5.0), return_stats_rate=rate, **IN_STDS, **SHORT).learn(96, seen)
    model.save(tmp_path / "model")
    model = kind.load(tmp_path / "model", env=Scaled(5.0))
    model.learn(64, seen, reset_num_timesteps=False)

    count = len(seen.rollouts)
    shares = np.ones(count) if rate is None else (1 - rate) ** np.arange(count)[::-1]
    shares = shares / shares.sum()
    mean = sum(share * returns.mean() for share, returns in zip(shares, seen.rollouts, strict=True))
    square = sum(share * (returns**2).mean() for share, returns in zip(shares, seen.rollouts, strict=True))
    head = model.policy.value_net
    assert count == 5
    assert head.kappa_statistics.tolist() == pytest.approx([mean, np.sqrt(square - mean**2), 5], rel=1e-4)
    assert (head.ret_mean.item(), head.ret_std.item()) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("critic_loss", "power"),
    [("quantile_huber", 1), ("mean_and_spread", 2)],
)
@pytest.mark.parametrize("exponent", [-10, 10])
def test_scaled_rewards_give_the_same_policy(critic_loss, power, exponent):
    """
    The loss is in units of the return, with "mean_and_spread" in squared ones: ``vf_coef`` takes them out.

    The weights of the critic's last layer give its predictions their unit. They are scaled with the rewards and held
    fixed here, as Adam would move them by the learning rate at any scale.
    """
    parameters = []
    for scale in (1.0, 2.0**exponent):
        flags = dict(critic_loss=critic_loss, vf_coef=0.5 / scale**power, **IN_STDS)
        model = DistributionalPPO("MlpPolicy", Scaled(scale), quantile_huber_kappa=0.3, **flags, **SHORT)
        head = model.policy.value_net
        head.requires_grad_(False)
        for parameter in head.parameters():
            parameter.mul_(scale)
        with torch.no_grad():
            # Quantiles that have parted already.
            head.last_layers[0].bias.copy_(scale * torch.linspace(-2.0, 2.0, 32))

        before = model.policy.mlp_extractor.value_net[0].weight.detach().clone()
        model.learn(96)
        assert (model.policy.mlp_extractor.value_net[0].weight - before).abs().max() > 1e-3
        rest = [value for name, value in model.policy.named_parameters() if not name.startswith("value_net.")]
        parameters.append(rest)

    for one, other in zip(*parameters, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_a_fixed_kappa_gives_another_policy_at_another_scale():
    """What the flag is for: without it the test above fails."""
    losses = []
    for units in ("loss", "std"):
        for scale in (1.0, 1024.0):
            model = DistributionalPPO("MlpPolicy", Scaled(), quantile_huber_kappa_units=units, **SHORT)
            model.policy.value_net.kappa_statistics.copy_(torch.tensor([0.0, scale, 1.0]))
            quantiles = torch.linspace(-3, 3, 32)[None] * scale
            losses.append(model._quantile_huber_loss(quantiles, torch.tensor([scale])).item() / scale)
    assert losses[0] != pytest.approx(losses[1], rel=0.1)
    assert losses[2] == losses[3]


def test_normalised_returns_count_in_stds_already():
    """The unit of the loss is the std: both units are one, to the last bit, and no second statistics are kept."""
    models = []
    for units in ("loss", "std", None):
        model = DistributionalPPO(
            "MlpPolicy", Scaled(), normalize_returns=True, use_popart=True, quantile_huber_kappa_units=units, **SHORT
        )
        models.append(model.learn(96))
    for model in models[1:]:
        for one, other in zip(models[0].policy.parameters(), model.policy.parameters(), strict=True):
            assert torch.equal(one, other)
        assert model.policy.value_net.kappa_statistics.tolist() == [0, 0, 0]


def test_statistics_end_with_the_flag(tmp_path):
    model = DistributionalPPO("MlpPolicy", Scaled(), **IN_STDS, **SHORT).learn(32)
    assert model.policy.value_net.kappa_statistics[2] == 1
    model.save(tmp_path / "model")
    loaded = DistributionalPPO.load(tmp_path / "model", env=Scaled(), quantile_huber_kappa_units="loss")
    loaded.learn(32)
    assert loaded.policy.value_net.kappa_statistics.tolist() == [0, 0, 0]


def test_archives_without_these_statistics_load():
    model = DistributionalPPO("MlpPolicy", Scaled(), **IN_STDS, **SHORT)
    parameters = model.get_parameters()
    del parameters["policy"]["value_net.kappa_statistics"]
    other = DistributionalPPO("MlpPolicy", Scaled(), **IN_STDS, **SHORT).learn(32)
    other.set_parameters(parameters)
    assert other.policy.value_net.kappa_statistics.tolist() == [0, 0, 0]


def test_wrong_units_are_refused_by_constructor_and_load(tmp_path):
    match = "quantile_huber_kappa_units must be one of None, 'loss', 'std', got 'raw'"
    with pytest.raises(ValueError, match=match):
        DistributionalPPO("MlpPolicy", Scaled(), quantile_huber_kappa_units="raw", **SHORT)
    DistributionalPPO("MlpPolicy", Scaled(), **IN_STDS, **SHORT).save(tmp_path / "model")
    with pytest.raises(ValueError, match=match):
        DistributionalPPO.load(tmp_path / "model", quantile_huber_kappa_units="raw")


@needs_compiler
def test_compiled_updates_take_the_statistics_of_each_rollout(monkeypatch):
    """The std moves with every rollout, and nothing compiles anew for it."""
    monkeypatch.setenv("TORCHINDUCTOR_DEBUG_COMPILE", "1")
    settings = SHORT | IN_STDS | dict(policy_kwargs=dict(net_arch=[8], n_quantiles=4), return_stats_rate=1.0)
    eager, compiled = (DistributionalPPO("MlpPolicy", Scaled(), compile=flag, **settings) for flag in (False, True))
    assert train_alike(eager, compiled, updates=4) < 1e-5
    assert compiled._update.whole.builds == 1

    for model in (eager, compiled):
        model.quantile_huber_kappa_units = "loss"
    assert train_alike(eager, compiled) < 1e-5
    assert compiled._update.whole.builds == 2
