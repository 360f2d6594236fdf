"""
The figures of a cell by plain loops in float64 over the rollouts it trained on and the days it was tested on. The
predictions of these cells are known: a number times the volatility index, and they cross.
"""

import numpy as np
import pytest
import torch
from markets import load_shipped
from stable_baselines3.common.callbacks import BaseCallback

from distributional_ppo import QuantileActorCriticPolicy
from market_regimes.compare.cell import Cell, Measurements, run_cell
from market_regimes.config import MarketConfig, RunConfig
from market_regimes.market.segments import period_of, segments_of
from market_regimes.run.study import Study

MARKET = MarketConfig(data="sp500", train=("1999-01-04", "2010-12-01"), test=("2011-01-01", "2014-12-31"))
ALGORITHM = dict(
    policy="MlpPolicy",
    seed=0,
    device="cpu",
    n_steps=32,
    batch_size=256,
    n_epochs=1,
    gamma=0.95,
    normalize_returns=True,
    use_variance_gradient_scaling=True,
    policy_kwargs=dict(n_quantiles=5),
)
CROSSING = np.array([3.0, -1.0, 2.0, -2.0, 0.5])
TAU = np.array([0.1, 0.3, 0.5, 0.7, 0.9])
GROUPS = {"calm": (0,), "normal": (1,), "volatile": (2,), "crash": (3,), "stormy": (2, 3)}
ROLLOUTS, STD = 14, 2.0


def predicted(index):
    return CROSSING * np.asarray(index, dtype=np.float64)[:, None] / 20


@pytest.fixture(scope="module")
def crossing():
    """Predictions that cross, wherever the critic is asked for them."""

    def predict_quantiles(self, observations):
        observations = torch.as_tensor(observations)
        return torch.as_tensor(CROSSING, dtype=torch.float32) * observations[:, 21:22]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(QuantileActorCriticPolicy, "predict_quantiles", predict_quantiles)
        yield


class Recorder(BaseCallback):
    """What the rollouts hold, gathered without the code under test."""

    def __init__(self, core):
        super().__init__()
        self.core, self.rollouts, self.bars = core, [], []

    def _on_rollout_start(self):
        self.bars = [self.core.bar.copy()]

    def _on_step(self):
        self.bars.append(self.core.bar.copy())
        return True

    def _on_rollout_end(self):
        buffer = self.model.rollout_buffer
        names = ("returns", "values", "rewards")
        self.rollouts.append({name: getattr(buffer, name).astype(np.float64).ravel() for name in names})
        self.rollouts[-1]["bar"] = np.stack(self.bars[:-1]).ravel()


@pytest.fixture(scope="module")
def trained(crossing):
    """Measurements of 14 rollouts of 8 x 32 samples, what they hold, and the scalars of each update."""
    study = Study(RunConfig(total_timesteps=256 * ROLLOUTS), MARKET, ALGORITHM, segments_of(MARKET, ("train", "test")))
    measured, recorder, scalars = Measurements(study.core, STD), Recorder(study.core), []
    train = study.model.train

    def train_and_note():
        train()
        scalars.append(dict(study.model.logger.name_to_value))

    study.model.train = train_and_note
    study.model.learn(256 * ROLLOUTS, [measured, recorder])
    return study, measured, recorder.rollouts, scalars


def fixed_loss(returns, index):
    losses = []
    for outcome, quantiles in zip(returns / STD, predicted(index) / STD, strict=True):
        total = 0.0
        for tau, quantile in zip(TAU, quantiles, strict=True):
            u = outcome - quantile
            huber = 0.5 * u * u if abs(u) <= 1 else abs(u) - 0.5
            total += abs(tau - (u < 0)) * huber
        losses.append(total / 5)
    return np.array(losses)


@pytest.fixture(scope="module")
def figures(trained):
    return trained[1].figures()


def test_a_fifth_of_the_rollouts_is_warm_up(trained, figures):
    """Of 14 rollouts 2: a fifth of them is 2.8, rounded down."""
    study, _, rollouts, scalars = trained
    counted = rollouts[2:]
    losses = [fixed_loss(r["returns"], study.core.index[r["bar"]]).mean() for r in counted]
    mean = sum(losses) / 12
    assert figures["value_loss"] == pytest.approx(mean, rel=1e-5)
    spread = np.sqrt(sum((loss - mean) ** 2 for loss in losses) / 11) / mean
    assert figures["value_loss_spread"] == pytest.approx(spread, rel=1e-4)
    assert figures["reward"] == pytest.approx(np.mean([r["rewards"].mean() for r in counted]), rel=1e-4)
    explained = [1 - np.var(r["returns"] - r["values"]) / np.var(r["returns"]) for r in counted]
    assert figures["explained_variance"] == pytest.approx(np.mean(explained), rel=1e-4)
    weights = [s["train/variance_scaling_weight"] for s in scalars[2:]]
    assert figures["weight_mean"] == pytest.approx(np.mean(weights))
    assert figures["weight_std"] == pytest.approx(np.std(weights, ddof=1))
    for name in ("variance_scaling_clamped", "quantile_variance_mean", "vf_coef_effective", "grad_norm"):
        assert figures[name] == pytest.approx(np.mean([s[f"train/{name}"] for s in scalars[2:]])), name


def test_each_row_of_the_curves_is_a_rollout_and_its_own_update(trained):
    study, measured, rollouts, scalars = trained
    assert [row["step"] for row in measured.curves] == [256.0 * (i + 1) for i in range(ROLLOUTS)]
    for row, rollout, logged in zip(measured.curves, rollouts, scalars, strict=True):
        assert row["weight"] == logged["train/variance_scaling_weight"]
        assert row["volatility_index"] == pytest.approx(study.core.index[rollout["bar"]].mean())


@pytest.mark.parametrize("name", GROUPS)
def test_figures_by_regime_are_of_the_last_ten_rollouts(trained, figures, name):
    study, _, rollouts, _ = trained
    pool = {key: np.concatenate([r[key] for r in rollouts[-10:]]) for key in ("returns", "bar")}
    regime = np.digitize(study.core.index[pool["bar"]], [15, 25, 40])
    mine = np.isin(regime, GROUPS[name])
    returns, index = pool["returns"][mine], study.core.index[pool["bar"][mine]]
    if len(set(pool["bar"][mine])) < 20:
        assert f"value_error_{name}" not in figures
        return
    quantiles = predicted(index)
    error = np.sqrt(np.mean((quantiles.mean(axis=1) - returns) ** 2))
    root_of_mean = np.sqrt(np.mean(quantiles.var(axis=1)))
    assert figures[f"value_error_{name}"] == pytest.approx(error / returns.std(), rel=1e-5)
    assert figures[f"spread_{name}"] == pytest.approx(root_of_mean / error, rel=1e-5)
    outliers = np.mean(fixed_loss(returns, index) > 1.0)
    assert figures[f"value_loss_outliers_{name}"] == pytest.approx(outliers, abs=1e-9)


def test_outliers_and_gaps_are_of_the_pool(trained, figures):
    study, _, rollouts, _ = trained
    losses = np.concatenate([fixed_loss(r["returns"], study.core.index[r["bar"]]) for r in rollouts[-10:]])
    assert figures["value_loss_outliers"] == pytest.approx(np.mean(losses > 1.0), abs=1e-9)
    assert 0 < figures["value_loss_outliers"] < 1
    for other in ("crash", "stormy"):
        calm, storm = figures["value_error_calm"], figures[f"value_error_{other}"]
        assert figures[f"value_error_gap_{other}"] == pytest.approx(abs(calm - storm) / (calm + storm))


@pytest.fixture(scope="module")
def tested(crossing):
    cell = Cell("sp500", "fold", "batch", 0, RunConfig(total_timesteps=256), MARKET, ALGORITHM)
    result = run_cell(cell)
    market = load_shipped("sp500")
    days = period_of(market, *MARKET.test)
    returns = np.array(result["daily"]["return"])
    assert len(returns) == len(days)
    realised = np.empty(len(days))
    value = predicted(market.index[days.stop - 1 : days.stop]).mean()  # the critic completes what the period cuts off
    for t in reversed(range(len(days))):
        value = 100 * np.log1p(returns[t]) + 0.95 * value
        realised[t] = value
    return result["figures"], predicted(market.index[days.start - 1 : days.stop - 1]), realised, market.index[days]


def test_calibration_is_of_the_quantiles_in_order(tested):
    """The share of the days whose return lies below the i-th smallest quantile, against its tau."""
    figures, quantiles, realised, _ = tested
    gap = 0.0
    for i, tau in enumerate(TAU):
        below = sum(outcome < sorted(row)[i] for outcome, row in zip(realised, quantiles, strict=True))
        gap += abs(below / len(realised) - tau) / 5
    unsorted = np.abs((realised[:, None] < quantiles).mean(axis=0) - TAU).mean()
    assert abs(unsorted - gap) > 0.1
    assert figures["test_calibration_error"] == pytest.approx(gap, abs=1e-4)


def test_explained_variance_of_the_test_period(tested):
    figures, quantiles, realised, _ = tested
    expected = 1 - np.var(realised - quantiles.mean(axis=1)) / np.var(realised)
    assert figures["test_explained_variance"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", GROUPS)
def test_fit_by_regime_of_the_test_period(tested, name):
    """The regime is that of the bar on which the return is earned; the root is of the mean."""
    figures, quantiles, realised, index = tested
    mine = np.isin(np.digitize(index, [15, 25, 40]), GROUPS[name])
    if mine.sum() < 20:
        assert f"test_value_error_{name}" not in figures
        return
    error = np.sqrt(np.mean((quantiles[mine].mean(axis=1) - realised[mine]) ** 2))
    assert figures[f"test_value_error_{name}"] == pytest.approx(error / realised[mine].std(), rel=1e-4)
    root_of_mean = np.sqrt(np.mean(quantiles[mine].var(axis=1)))
    assert figures[f"test_spread_{name}"] == pytest.approx(root_of_mean / error, rel=1e-4)
    mean_of_roots = np.mean(quantiles[mine].std(axis=1))
    assert abs(mean_of_roots / root_of_mean - 1) > 1e-3


def test_a_regime_needs_20_different_days_however_often_they_are_drawn(crossing):
    """A year of training with 10 days of crash, each drawn several times, and 70 of volatile."""
    market = load_shipped("sp500")
    days = period_of(market, "2005-01-03", "2005-12-30")
    index = np.sort(market.index[days.start - 1 : days.stop - 1])  # at the closes of the decisions
    bounds = (float(index[100]), float(index[-80]), float(index[-10]))
    config = MarketConfig(train=("2005-01-03", "2005-12-30"), test=("2006-01-03", "2006-12-29"), regime_bounds=bounds)
    study = Study(RunConfig(total_timesteps=1024), config, ALGORITHM, segments_of(config, ("train", "test")))
    measured, recorder = Measurements(study.core, STD), Recorder(study.core)
    study.model.learn(1024, [measured, recorder])
    bars = np.concatenate([rollout["bar"] for rollout in recorder.rollouts])
    crash, volatile = (bars[study.core.regime[bars] == i] for i in (3, 2))
    assert len(crash) >= 20 > len(set(crash))
    assert len(set(volatile)) >= 20
    figures = measured.figures()
    assert "value_error_crash" not in figures
    assert "value_error_volatile" in figures
