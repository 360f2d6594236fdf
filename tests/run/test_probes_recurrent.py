"""How well a recurrent critic fits each regime. Oracles: plain loops over the rollout, sb3-contrib's loss."""

import numpy as np
import pytest
import torch
from builders import KeepRollout
from markets import load_shipped
from sb3_contrib.common.utils import quantile_huber_loss

from distributional_ppo import RecurrentDistributionalPPO
from market_regimes.market.environment import MarketCore, MarketVecEnv
from market_regimes.market.periods import period_of
from market_regimes.market.regimes import DEFAULT_REGIMES
from market_regimes.market.segment import Segment
from market_regimes.run.inputs import inputs_of_rollout
from market_regimes.run.probes import figures_by_regime_of_rollout, minibatches_of_rollout, weights_by_minibatch

STEPS, ENVS, BATCH = 64, 8, 100


def collected(**settings):
    """A model after an update and another rollout, and the regimes of that rollout's samples."""
    market = load_shipped("sp500")
    core = MarketCore([Segment.scaled_by(market, period_of(market, "1999-01-01", "2008-12-31"), range(2500))], ENVS)
    defaults = dict(n_steps=STEPS, batch_size=BATCH, seed=0, n_epochs=4, normalize_returns=True, use_popart=True)
    defaults["variance_scaling_clip_min"] = 1e-4  # so early the quantiles lie close together
    kwargs = dict(lstm_hidden_size=8, net_arch=[16], n_quantiles=8)
    model = RecurrentDistributionalPPO(
        "MlpLstmPolicy", MarketVecEnv(core, seed=3), policy_kwargs=kwargs, device="cpu", **{**defaults, **settings}
    )
    model.learn(2 * STEPS * ENVS)
    keep = KeepRollout(core)
    keep.init_callback(model)
    model.collect_rollouts(model.env, keep, model.rollout_buffer, STEPS)
    return model, core.regime[np.stack(keep.bars[:-1])]


@pytest.fixture(scope="module")
def rollout():
    return collected()


def quantiles_at(model, step, env):
    """Of one sample, normalised, from the states that sb3-contrib's buffer keeps."""
    buffer, head = model.rollout_buffer, model.policy.value_net
    states = [torch.as_tensor(getattr(buffer, f"{name}_states_vf")[step, :, [env]]) for name in ("hidden", "cell")]
    states = tuple(state.reshape(1, 1, 8) for state in states)
    start = torch.as_tensor(buffer.episode_starts[step, [env]])
    observation = torch.as_tensor(buffer.observations[step, [env]])
    with_gradient = model.policy.quantiles_of_loss(observation, states, start)
    raw = model.policy.predict_quantiles(observation, states, start)
    torch.testing.assert_close(with_gradient, (raw - head.ret_mean) / head.ret_std)
    return with_gradient


def test_minibatches_are_consecutive_steps_of_one_environment_after_another(rollout):
    """Sample (t, e) is the (64 e + t)-th; the first 100 are minibatch 0, the last 12 minibatch 5."""
    numbers = minibatches_of_rollout(rollout[0]).reshape(STEPS, ENVS)
    assert numbers[0].tolist() == [0, 0, 1, 1, 2, 3, 3, 4]
    assert numbers[35, 1] == 0
    assert numbers[36, 1] == 1
    assert (numbers == 5).sum() == 12


def test_weights_are_those_of_each_samples_minibatch(rollout):
    model, _ = rollout
    inputs, numbers = inputs_of_rollout(model), minibatches_of_rollout(model)
    (weights,) = weights_by_minibatch(model, inputs, numbers)
    with torch.no_grad():
        variance = np.array([float(quantiles_at(model, i // ENVS, i % ENVS).var(unbiased=False)) for i in range(512)])
    expected = np.clip([variance[numbers == number].mean() for number in range(6)], 1e-4, 10.0)
    assert len(np.unique(expected)) > 1
    assert weights.numpy() == pytest.approx(expected[numbers], rel=1e-4)


@pytest.mark.parametrize("settings", [{}, dict(use_variance_gradient_scaling=False)])
def test_gradient_norm_by_regime_with_the_loss_of_sb3_contrib(rollout, settings):
    model, regime = collected(**settings) if settings else rollout
    figures = figures_by_regime_of_rollout(model, regime)
    head, buffer, found = model.policy.value_net, model.rollout_buffer, 0
    numbers = minibatches_of_rollout(model).reshape(STEPS, ENVS)
    (weights,) = weights_by_minibatch(model, inputs_of_rollout(model), numbers.reshape(-1))
    weights = weights.reshape(STEPS, ENVS) if not settings else torch.ones(STEPS, ENVS)
    for i, name in enumerate(DEFAULT_REGIMES.names):
        samples = np.argwhere(regime == i)
        if len(samples) < 20:
            assert f"value_grad_norm_{name}" not in figures
            continue
        samples, total = samples[np.linspace(0, len(samples) - 1, min(256, len(samples))).astype(int)], 0.0
        for step, env in samples:
            target = (torch.as_tensor(buffer.returns[step, [env]])[:, None] - head.ret_mean) / head.ret_std
            loss = quantile_huber_loss(quantiles_at(model, step, env), target, sum_over_quantiles=False)
            total = total + weights[step, env] * loss / len(samples)
        model.policy.zero_grad()
        total.backward()
        norm = np.sqrt(sum(float((p.grad**2).sum()) for p in model.policy.parameters() if p.grad is not None))
        assert figures[f"value_grad_norm_{name}"] == pytest.approx(norm, rel=1e-3)
        found += 1
    assert found >= 2


def test_value_errors_are_those_of_the_rollouts_values(rollout):
    model, regime = rollout
    figures = figures_by_regime_of_rollout(model, regime)
    values, returns = (a.astype(np.float64) for a in (model.rollout_buffer.values, model.rollout_buffer.returns))
    mine = regime == 0
    expected = np.sqrt(np.mean((values[mine] - returns[mine]) ** 2)) / np.std(returns[mine])
    assert figures["value_error_calm"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("settings", [dict(use_twin_critics=True), dict(variance_scaling_mode="dsac_t")])
def test_figures_of_other_flags_are_numbers(settings):
    model, regime = collected(**settings)
    figures = figures_by_regime_of_rollout(model, regime)
    assert "value_grad_norm_calm" in figures
    assert all(np.isfinite(value) and value > 0 for value in figures.values())
