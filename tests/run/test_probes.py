"""Figures by regime of a rollout. Oracles: numpy, sb3-contrib's loss."""

import numpy as np
import pytest
import torch
from builders import rollout_of_indices
from sb3_contrib.common.utils import quantile_huber_loss

from market_regimes.market.regimes import REGIMES
from market_regimes.run.probes import figures_by_regime_of_rollout


@pytest.fixture(scope="module")
def rollout():
    return rollout_of_indices()


def test_value_error_by_regime_in_numpy(rollout):
    model, core, bars = rollout
    regime = core.regime[bars]
    figures = figures_by_regime_of_rollout(model, regime)
    values, returns = (a.astype(np.float64) for a in (model.rollout_buffer.values, model.rollout_buffer.returns))

    for i, name in enumerate(REGIMES):
        mine = regime == i
        if mine.sum() < 20:
            assert f"value_error_{name}" not in figures
            continue
        expected = np.sqrt(np.mean((values[mine] - returns[mine]) ** 2)) / np.std(returns[mine])
        assert figures[f"value_error_{name}"] == pytest.approx(expected, rel=1e-5)

    assert {"value_error_calm", "value_error_normal", "value_error_volatile"} <= figures.keys()


def test_gradient_norm_by_regime_with_the_loss_of_sb3_contrib(rollout):
    model, core, bars = rollout
    regime = core.regime[bars]
    figures = figures_by_regime_of_rollout(model, regime)
    head, buffer = model.policy.value_net, model.rollout_buffer
    steps, envs = np.unravel_index(np.linspace(0, 2047, 256).astype(int), (256, 8))
    with torch.no_grad():
        raw = model.policy.predict_quantiles(buffer.observations[steps, envs])

    weight = float((raw / head.ret_std).var(dim=1, unbiased=False).mean().clamp(0.1, 10.0))

    for i in (0, 1):
        steps, envs = np.argwhere(regime == i).T
        chosen = np.linspace(0, len(steps) - 1, 256).astype(int)
        observations = torch.as_tensor(buffer.observations[steps[chosen], envs[chosen]])
        quantiles = head.to_raw(model.policy.quantiles_of_loss(observations))
        targets = torch.as_tensor(buffer.returns[steps[chosen], envs[chosen]])[:, None]
        model.policy.zero_grad()
        quantile_huber_loss(
            (quantiles - head.ret_mean) / head.ret_std,
            (targets - head.ret_mean) / head.ret_std,
            sum_over_quantiles=False,
        ).backward()
        norm = np.sqrt(sum(float((p.grad**2).sum()) for p in model.policy.parameters() if p.grad is not None))
        assert figures[f"value_grad_norm_{REGIMES[i]}"] == pytest.approx(weight * norm, rel=1e-4)

    model.policy.zero_grad()


def test_looking_changes_nothing(rollout):
    model, core, bars = rollout
    before = {name: value.clone() for name, value in model.policy.state_dict().items()}
    gradients = [None if p.grad is None else p.grad.clone() for p in model.policy.parameters()]
    generators = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    figures_by_regime_of_rollout(model, core.regime[bars])

    assert all(torch.equal(value, before[name]) for name, value in model.policy.state_dict().items())

    for gradient, parameter in zip(gradients, model.policy.parameters(), strict=True):
        assert parameter.grad is gradient or torch.equal(parameter.grad, gradient)

    assert torch.equal(torch.get_rng_state(), generators[0])
    assert np.array_equal(np.random.get_state()[1], generators[1])  # noqa: NPY002


def test_regimes_whose_returns_are_all_equal_are_left_out(rollout):
    model, _, bars = rollout
    returns = model.rollout_buffer.returns
    model.rollout_buffer.returns = np.ones_like(returns)
    try:
        assert figures_by_regime_of_rollout(model, np.zeros_like(bars)) == {}
    finally:
        model.rollout_buffer.returns = returns
