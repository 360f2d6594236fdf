"""A cell whose policy is recurrent: figures of the rollouts' own predictions, and weights of its own minibatches."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from stable_baselines3.common.utils import explained_variance
from test_cells import ALGORITHM, CELL, MARKET

from market_regimes.compare.cell import Measurements, _gradients, run_cell
from market_regimes.config import RunConfig
from market_regimes.market.segments import segments_of
from market_regimes.run.inputs import inputs_of_rollout, predict_quantiles
from market_regimes.run.study import Study

RECURRENT = dict(policy="MlpLstmPolicy", sequence_length=16, policy_kwargs=dict(lstm_hidden_size=8))
ALGORITHM = {**ALGORITHM, **RECURRENT}


@pytest.fixture(scope="module")
def result():
    return run_cell(replace(CELL, variant="recurrent", algorithm=ALGORITHM))


def test_a_cell_measures_all_that_others_do(result):
    figures = result["figures"]
    names = {"value_loss", "explained_variance", "weight_mean", "grad_norm_calm", "grad_ratio_stormy", "test_sharpe"}
    names |= {"test_calibration_error", "test_explained_variance", "value_error_calm", "spread_stormy"}
    assert names <= {name for name, value in figures.items() if value is not None}
    assert all(np.isfinite(value) for value in figures.values() if value is not None)


def measured(**settings):
    study = Study(RunConfig(total_timesteps=4096), MARKET, {**ALGORITHM, **settings}, segments_of(MARKET, ("train",)))
    measurements = Measurements(study.core, 2.0)
    study.model.learn(4096, measurements)
    return study.model, measurements


@pytest.mark.parametrize("mode", ["batch", "off"])
def test_values_of_the_pool_are_those_of_the_rollouts(mode):
    """The explained variance of each rollout's values, which sb3-contrib's buffer has, is that of the pool's."""
    _, measurements = measured(use_variance_gradient_scaling=mode == "batch")
    assert len(measurements.samples) == 4
    for row, sample in zip(measurements.curves, measurements.samples, strict=True):
        assert row["explained_variance"] == pytest.approx(
            explained_variance(sample["value"], sample["returns"]), rel=1e-3, abs=1e-5
        )
    assert len(np.unique(np.concatenate([sample["minibatch"] for sample in measurements.samples]))) == 4 * 4
    figures = measurements.figures()
    assert figures["grad_ratio_stormy"] > 0


def test_gradients_have_the_weight_of_each_samples_minibatch(monkeypatch):
    """Where all samples are alike but for their weights, the norms of two regimes differ as their weights do."""
    model, measurements = measured(variance_scaling_clip_min=1e-6)
    pool = {name: np.concatenate([s[name] for s in measurements.samples[-1:]]) for name in measurements.samples[-1]}
    same = {name: np.repeat(pool[name][:1], len(pool["bar"]), axis=0) for name in ("observations", "hidden", "cell")}
    regime = np.where(pool["minibatch"] % 2 == 0, 0, 3)
    pool = {**pool, **same, "regime": regime, "returns": np.ones(len(regime))}
    weights = torch.from_numpy(np.where(regime == 0, 0.5, 2.0).astype(np.float32))
    monkeypatch.setattr("market_regimes.compare.cell.weights_by_minibatch", lambda *args: [weights])
    figures = _gradients(model, pool)
    assert figures["grad_ratio_crash"] == pytest.approx(4.0, rel=1e-4)  # 2 over 0.5
    assert figures["grad_ratio_stormy"] == pytest.approx(4.0, rel=1e-4)


def test_predictions_from_a_rollouts_states():
    model, _ = measured()
    with torch.no_grad():
        quantiles = predict_quantiles(model, inputs_of_rollout(model))
    assert quantiles.shape == (8 * 128, 32)
