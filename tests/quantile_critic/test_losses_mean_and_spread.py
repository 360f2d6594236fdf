"""
``critic_loss="mean_and_spread"``: the mean of the quantiles by its squared error, the quantiles around it by the
quantile-Huber loss.

Oracles: plain loops in float64, means and np.quantile of a sample, and SB3's PPO for one quantile.
"""

import gymnasium as gym
import numpy as np
import pytest
import torch
from builders import needs_compiler, train_alike
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

from distributional_ppo import DistributionalPPO, RecurrentDistributionalPPO
from quantile_critic.losses import clip_quantiles

SHORT = dict(n_steps=32, batch_size=20, n_epochs=3, seed=0, device="cpu", learning_rate=1e-2)
SPREAD = dict(critic_loss="mean_and_spread")


class Contexts(gym.Env):
    """Episodes of 5 steps, whose rewards follow from observation and action."""

    observation_space = spaces.Box(-1, 1, (3,))
    action_space = spaces.Discrete(3)
    steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.observe(), {}

    def step(self, action):
        self.steps += 1
        observation = self.observe()
        reward = 3.0 * observation[0] + float(action) + 1.0
        return observation, float(reward), self.steps == 5, False, {}

    def observe(self):
        return self.np_random.uniform(-1, 1, 3).astype(np.float32)


class Noise(gym.Env):
    """Episodes of one step with a standard normal reward."""

    observation_space = spaces.Box(-1, 1, (1,))
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), float(self.np_random.normal()), True, False, {}


def quantile_huber(quantiles, target, kappa):
    """Mean over the quantiles of one sample, in plain Python."""
    total = 0.0
    for i, quantile in enumerate(quantiles):
        u = target - quantile
        huber = u * u / 2 if abs(u) <= kappa else kappa * (abs(u) - kappa / 2)
        share = (i + 0.5) / len(quantiles) - (1.0 if u < 0 else 0.0)
        total += abs(share) * huber / kappa
    return total / len(quantiles)


def parts_by_hand(quantiles, atoms, kappa, factor):
    """Squared error of the mean and a factor times the loss of the quantiles, each the mean over the atoms."""
    mean = sum(quantiles) / len(quantiles)
    squared = [(mean - atom) ** 2 for atom in atoms]
    spread = [factor * quantile_huber(quantiles, atom, kappa) for atom in atoms]
    return sum(squared) / len(atoms), sum(spread) / len(atoms)


def model_with(std, **flags):
    """A model whose returns have this std; float64 parts are compared with its loss."""
    model = DistributionalPPO("MlpPolicy", Contexts(), **SPREAD, **flags, **SHORT)
    model.policy.value_net.kappa_statistics.copy_(torch.tensor([0.0, std, 1.0]))
    return model


MODES = ("per_quantile", "mean_only", "mean_and_variance", "disable")


@pytest.mark.parametrize("n_atoms", [1, 5])
@pytest.mark.parametrize("scaling", ["off", "batch", "dsac_t"])
@pytest.mark.parametrize("mode", [None, *MODES])
@pytest.mark.filterwarnings("ignore:variance_scaling_mode='dsac_t' adds")
def test_the_loss_is_that_of_a_plain_loop(mode, scaling, n_atoms):
    """Kappa 0.4 at a std of 2.5 is 1, the factor 4 stds; with clipping the larger of two losses of each part."""
    flags = dict(quantile_huber_kappa=0.4, use_variance_gradient_scaling=scaling != "off")
    if scaling != "off":
        flags["variance_scaling_mode"] = scaling
    if mode is not None:
        flags |= dict(clip_range_vf=0.3, distributional_vf_clip_mode=mode)
    model = model_with(2.5, policy_kwargs=dict(n_quantiles=5), **flags)
    rng = np.random.default_rng(0)
    quantiles = rng.normal(0, 2, (8, 5))
    old = quantiles + rng.normal(0, 1, (8, 5))
    targets = rng.normal(0, 2, (8, n_atoms))

    given_old, eps = None, None
    if mode is not None:
        given_old, eps = torch.as_tensor(old), 0.3
    given_targets = torch.as_tensor(targets).squeeze(1)
    with torch.no_grad():
        model.policy.double()
        loss, metrics = model._value_loss(torch.as_tensor(quantiles), given_targets, given_old, eps)

    near = quantiles
    if mode is not None:
        near = clip_quantiles(torch.as_tensor(quantiles), torch.as_tensor(old), 0.3, mode, 2.0).numpy()
    squared = []
    spread = []
    for row, clipped_row, atoms in zip(quantiles, near, targets, strict=True):
        of_mean, around = parts_by_hand(row, atoms, 1.0, 10.0)
        clipped_of_mean, clipped_around = parts_by_hand(clipped_row, atoms, 1.0, 10.0)
        squared.append(max(of_mean, clipped_of_mean))
        spread.append(max(around, clipped_around))
    variance = quantiles.var(axis=1)
    weights = np.ones(8)
    if scaling == "batch":
        weights = np.full(8, np.clip(variance.mean(), 0.1, 10.0))
    if scaling == "dsac_t":
        weights = np.clip(np.sqrt(variance).mean() ** 2 / (variance + 0.1), 0.1, 10.0)

    assert loss.item() == pytest.approx(np.mean(squared) + np.mean(weights * spread), rel=1e-6)
    assert metrics["value_loss_of_mean"].item() == pytest.approx(np.mean(squared), rel=1e-6)
    assert metrics["value_loss_of_spread"].item() == pytest.approx(np.mean(spread), rel=1e-6)
    assert metrics["value_loss"].item() == pytest.approx(np.mean(squared) + np.mean(spread), rel=1e-6)


@pytest.mark.parametrize(
    ("flags", "kappa", "factor"),
    [
        (dict(quantile_huber_kappa=2.0), 5.0, 20.0),
        (dict(quantile_huber_kappa=1.0), 2.5, 10.0),
        (dict(quantile_huber_kappa=0.01), 0.025, 10.0),
        (dict(quantile_huber_kappa=0.01, quantile_huber_kappa_units="loss"), 0.01, 4.0),
        (dict(quantile_huber_kappa=0.01, normalize_returns=True), 0.01, 4.0),
    ],
)
def test_the_factor_is_four_kappa_but_at_least_four_units_of_it(flags, kappa, factor):
    """So a small kappa leaves the spread its speed. By hand, at a std of 2.5; returns in stds have the unit 1."""
    model = model_with(2.5, policy_kwargs=dict(n_quantiles=3), use_variance_gradient_scaling=False, **flags)
    model.policy.double()
    quantiles = [-1.0, 0.5, 2.0]

    loss, _ = model._value_loss(torch.tensor([quantiles], dtype=torch.float64), torch.tensor([4.0]).double())

    of_mean, spread = parts_by_hand(quantiles, [4.0], kappa, factor)
    assert loss.item() == pytest.approx(of_mean + spread, rel=1e-6)


def test_the_spread_is_learnt_beside_the_mean_at_a_small_kappa():
    """Returns are standard normal, the same in all states; the midpoints of 32 quantiles have a std of 0.975."""
    model = DistributionalPPO(
        "MlpPolicy",
        make_vec_env(Noise, 16),
        critic_loss="mean_and_spread",
        quantile_huber_kappa=0.1,
        n_steps=64,
        batch_size=64,
        n_epochs=2,
        learning_rate=3e-3,
        seed=0,
        device="cpu",
    )
    model.learn(16 * 64 * 20)

    with torch.no_grad():
        spread = model.policy.predict_quantiles(np.zeros((1, 1), np.float32)).std(correction=0).item()
    assert 0.8 < spread < 1.1


def test_gradients_of_the_mean_are_those_of_its_squared_error_and_the_spread_has_none():
    """The sum of the gradients over a sample's quantiles is that of its mean: 2 * (mean - target) / B."""
    model = model_with(1.0, variance_scaling_clip_min=5.0)
    quantiles = torch.linspace(-3, 4, 32).repeat(2, 1).requires_grad_()
    targets = torch.tensor([2.0, -1.0])
    loss, _ = model._value_loss(quantiles, targets)
    (gradient,) = torch.autograd.grad(loss, quantiles)
    # The mean is 0.5.
    assert gradient.sum(dim=1).tolist() == pytest.approx([2 * (0.5 - 2.0) / 2, 2 * (0.5 + 1.0) / 2], rel=1e-4)
    assert gradient.std(dim=1).min() > 0


def test_gradient_descent_recovers_mean_and_quantiles_of_a_sample():
    """A symmetric sample, whose quantiles at the midpoints have its mean."""
    half = np.random.default_rng(0).gamma(2.0, 1.0, 1000)
    sample = np.concatenate([3.0 + half, 3.0 - half])
    model = model_with(float(sample.std()), quantile_huber_kappa=0.01, use_variance_gradient_scaling=False)
    quantiles = torch.zeros(1, 16, requires_grad=True)
    targets = torch.as_tensor(sample, dtype=torch.float32)

    for step in range(3000):
        loss, _ = model._value_loss(quantiles.expand(len(targets), 16), targets)
        (gradient,) = torch.autograd.grad(loss, quantiles)
        # Each quantile of 16 has a 16th of the loss.
        rate = 4.0 if step < 2000 else 0.5
        spread = gradient - gradient.mean()
        with torch.no_grad():
            quantiles -= rate * gradient.mean() + rate / 4 * spread

    midpoints = (np.arange(16) + 0.5) / 16
    assert quantiles.mean().item() == pytest.approx(sample.mean(), abs=0.01)
    assert quantiles.detach().numpy()[0] == pytest.approx(np.quantile(sample, midpoints), abs=0.1)


@pytest.mark.parametrize(
    "flags",
    [
        {},
        dict(quantile_huber_kappa=0.01),
        dict(quantile_huber_kappa_units="loss"),
        dict(variance_scaling_clip_min=3.0),
        dict(n_steps=33),
        dict(clip_range_vf=1e6),
        dict(batch_size=32, vf_coef=0.83),
    ],
)
@pytest.mark.filterwarnings("ignore:use_variance_gradient_scaling with", "ignore:You have specified a mini-batch")
def test_one_quantile_is_ppo_bit_for_bit(flags):
    """At ``vf_coef`` as it is in PPO, whatever kappa and weight; ours takes Adam's fused form by default."""
    theirs = {name: value for name, value in flags.items() if name in ("n_steps", "batch_size", "vf_coef")}
    settings = SHORT | dict(ent_coef=0.01)
    plain = PPO("MlpPolicy", Contexts(), **settings | theirs)
    plain.policy.optimizer.param_groups[0]["fused"] = True
    plain.learn(160)

    ours = DistributionalPPO("MlpPolicy", Contexts(), policy_kwargs=dict(n_quantiles=1), **SPREAD, **settings | flags)
    ours.learn(160)

    for one, other in zip(ours.policy.parameters(), plain.policy.parameters(), strict=True):
        assert torch.equal(one, other)


def test_one_quantile_at_another_coefficient_and_size_is_ppo_up_to_rounding():
    settings = SHORT | dict(vf_coef=0.83, ent_coef=0.01)
    plain = PPO("MlpPolicy", Contexts(), **settings).learn(96)
    flags = dict(policy_kwargs=dict(n_quantiles=1), use_variance_gradient_scaling=False)
    ours = DistributionalPPO("MlpPolicy", Contexts(), **SPREAD, **flags, **settings).learn(96)
    for one, other in zip(ours.policy.parameters(), plain.policy.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "flags",
    [
        dict(use_twin_critics=True),
        dict(value_target="sr_lambda"),
        dict(normalize_returns=True, use_popart=True, clip_range_vf=0.2, clip_range_vf_units="std"),
        dict(gradient_clipping="apart", clip_range_vf=0.2, distributional_vf_clip_mode="mean_and_variance"),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", [DistributionalPPO, RecurrentDistributionalPPO])
def test_the_critic_learns_with_every_flag(kind, flags, tmp_path):
    policy = "MlpPolicy" if kind is DistributionalPPO else "MlpLstmPolicy"
    model = kind(policy, Contexts(), **SPREAD, **flags, **SHORT | dict(n_steps=128, batch_size=32)).learn(128)
    first = model.logger.name_to_value["train/value_loss_of_mean"]
    model.save(tmp_path / "model")
    model = kind.load(tmp_path / "model", env=Contexts())
    assert model.critic_loss == "mean_and_spread"
    model.learn(512, reset_num_timesteps=False)
    scalars = model.logger.name_to_value
    assert scalars["train/value_loss_of_mean"] < first
    assert scalars["train/quantile_variance_mean"] > 1e-3
    if flags.get("use_twin_critics"):
        assert scalars["train/value_loss_of_spread_1"] != scalars["train/value_loss_of_spread_2"]


@needs_compiler
@pytest.mark.parametrize("twins", [False, True])
def test_compiled_updates_are_eager_ones_and_follow_the_flag(twins, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_DEBUG_COMPILE", "1")
    flags = dict(clip_range_vf=0.5, use_twin_critics=twins)
    settings = SHORT | flags | dict(policy_kwargs=dict(net_arch=[8], n_quantiles=4))
    eager, compiled = (DistributionalPPO("MlpPolicy", Contexts(), compile=flag, **settings) for flag in (False, True))
    assert train_alike(eager, compiled) < 1e-5

    for model in (eager, compiled):
        model.critic_loss = "mean_and_spread"
    assert train_alike(eager, compiled, updates=3) < 2e-5
    assert compiled._update.whole.builds == 2
    assert compiled._update.whole.call is not None
    for name in ("train/value_loss_of_mean", "train/value_loss_of_spread"):
        assert compiled.logger.name_to_value[name] == pytest.approx(eager.logger.name_to_value[name], rel=1e-3)


def test_another_choice_is_refused_by_constructor_and_load(tmp_path):
    match = "critic_loss must be one of 'quantile_huber', 'mean_and_spread', got 'mse'"
    with pytest.raises(ValueError, match=match):
        DistributionalPPO("MlpPolicy", Contexts(), critic_loss="mse", **SHORT)
    DistributionalPPO("MlpPolicy", Contexts(), **SPREAD, **SHORT).save(tmp_path / "model")
    with pytest.raises(ValueError, match=match):
        DistributionalPPO.load(tmp_path / "model", critic_loss="mse")
