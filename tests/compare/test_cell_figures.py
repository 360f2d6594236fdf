"""
The figures of a cell by plain loops in float64 over its probes and the days it was tested on. The predictions of these
cells are known: a number times the volatility index, and they cross.
"""

import numpy as np
import pytest
import torch
from markets import load_shipped

from distributional_ppo import QuantileActorCriticPolicy
from market_regimes.compare.cell import Cell, run_cell
from market_regimes.compare.measurements import Measurements, fit_of, groups_of
from market_regimes.compare.probe import Probe
from market_regimes.config import MarketConfig, RunConfig
from market_regimes.market.periods import period_of
from market_regimes.market.segments import segments_of
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
UPDATES, STD = 15, 2.0


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


@pytest.fixture(scope="module")
def trained(crossing):
    """Measurements of 15 updates of 8 x 32 samples, the samples of their 8 probes, and the scalars of each update."""
    study = Study(RunConfig(total_timesteps=256 * UPDATES), MARKET, ALGORITHM, segments_of(MARKET, ("train", "test")))
    probe = Probe(study.segments["train"], study.trading, study.model.gamma)
    measured, samples, scalars, indices = Measurements(study.core, probe, STD), [], [], []
    train, play = study.model.train, probe.play

    def train_and_note():
        indices.append(study.model.rollout_buffer.observations[..., 21].mean() * 20)
        train()
        scalars.append(dict(study.model.logger.name_to_value))

    study.model.train = train_and_note
    probe.play = lambda model: samples.append(play(model)) or samples[-1]
    study.model.learn(256 * UPDATES, [measured])
    return study, measured, samples, scalars, indices


def fixed_loss(sample):
    index = sample.observations[:, 21] * 20
    losses = []
    for outcome, quantiles in zip(sample.returns / STD, predicted(index) / STD, strict=True):
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


def test_every_second_update_and_the_last_one_is_probed(trained):
    _, measured, samples, _, _ = trained
    probed = [i for i, row in enumerate(measured.curves, start=1) if np.isfinite(row["value_loss"])]
    assert probed == [2, 4, 6, 8, 10, 12, 14, 15]
    assert len(samples) == len(probed)


def test_a_fifth_of_the_updates_is_warm_up(trained, figures):
    """Of 15 updates 3, and so the first of the 8 probes."""
    _, _, samples, scalars, _ = trained
    counted = samples[1:]
    losses = [fixed_loss(s).mean() for s in counted]
    mean = sum(losses) / 7
    assert figures["value_loss"] == pytest.approx(mean, rel=1e-5)
    spread = np.sqrt(sum((loss - mean) ** 2 for loss in losses) / 6) / mean
    assert figures["value_loss_spread"] == pytest.approx(spread, rel=1e-4)
    assert figures["reward"] == pytest.approx(np.mean([s.reward for s in counted]))
    errors = [s.returns - predicted(s.observations[:, 21] * 20).mean(axis=1) for s in counted]
    explained = [1 - np.var(error) / np.var(s.returns) for error, s in zip(errors, counted, strict=True)]
    assert figures["explained_variance"] == pytest.approx(np.mean(explained), rel=1e-4)
    gaps = []
    for s in counted:
        ordered = np.sort(predicted(s.observations[:, 21] * 20), axis=1)
        gaps.append(sum(abs(np.mean(s.returns < ordered[:, i]) - tau) for i, tau in enumerate(TAU)) / 5)
    assert figures["calibration_error"] == pytest.approx(np.mean(gaps), rel=1e-3)
    weights = [s["train/variance_scaling_weight"] for s in scalars[3:]]
    assert figures["weight_mean"] == pytest.approx(np.mean(weights))
    assert figures["weight_std"] == pytest.approx(np.std(weights, ddof=1))
    for name in ("variance_scaling_clamped", "quantile_variance_mean", "vf_coef_effective", "grad_norm"):
        assert figures[name] == pytest.approx(np.mean([s[f"train/{name}"] for s in scalars[3:]])), name


def test_each_row_of_the_curves_is_an_update_and_its_own_rollout(trained):
    _, measured, _, scalars, indices = trained
    assert [row["step"] for row in measured.curves] == [256.0 * (i + 1) for i in range(UPDATES)]
    for row, logged, index in zip(measured.curves, scalars, indices, strict=True):
        assert row["weight"] == logged["train/variance_scaling_weight"]
        assert row["volatility_index"] == pytest.approx(index, rel=1e-5)


@pytest.mark.parametrize("name", GROUPS)
def test_figures_by_regime_are_of_the_last_five_probes(trained, figures, name):
    _, _, samples, _, _ = trained
    index = np.concatenate([s.observations[:, 21] * 20 for s in samples[-5:]]).astype(float)
    mine = np.isin(np.digitize(index, [15, 25, 40]), GROUPS[name])
    bars = np.concatenate([s.bar for s in samples[-5:]])
    assert len(set(bars[mine])) >= 20
    returns = np.concatenate([s.returns for s in samples[-5:]])[mine]
    quantiles = predicted(index[mine])
    errors = returns - quantiles.mean(axis=1)
    assert figures[f"value_error_{name}"] == pytest.approx(np.sqrt(np.mean(errors**2)) / returns.std(), rel=1e-5)
    root_of_mean = np.sqrt(np.mean(quantiles.var(axis=1)))
    true_spread = np.sqrt(np.mean((errors - errors.mean()) ** 2))
    assert figures[f"spread_{name}"] == pytest.approx(root_of_mean / true_spread, rel=1e-5)
    losses = np.concatenate([fixed_loss(s) for s in samples[-5:]])
    assert figures[f"value_loss_outliers_{name}"] == pytest.approx(np.mean(losses[mine] > 1.0), abs=1e-9)


def test_outliers_and_gaps_are_of_the_pool(trained, figures):
    losses = np.concatenate([fixed_loss(s) for s in trained[2][-5:]])
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
    true_spread = np.std(quantiles[mine].mean(axis=1) - realised[mine])
    assert figures[f"test_spread_{name}"] == pytest.approx(root_of_mean / true_spread, rel=1e-4)
    mean_of_roots = np.mean(quantiles[mine].std(axis=1))
    assert abs(mean_of_roots / root_of_mean - 1) > 1e-3


def test_a_regime_needs_20_different_days_however_often_they_are_drawn():
    """Nineteen bars of crash, each drawn twice, and twenty of volatile."""
    regime = np.repeat([0, 3, 2], [50, 38, 20])
    bar = np.concatenate([np.arange(50), 100 + np.arange(38) % 19, 200 + np.arange(20)])
    groups = groups_of(regime, bar)
    assert list(groups) == ["calm", "volatile", "stormy"]
    assert groups["stormy"].tolist() == list(range(50, 108))
    assert groups["volatile"].tolist() == list(range(88, 108))


def test_a_spread_that_is_right_has_one_whatever_the_mean_error():
    """Returns of std 1, then 5 in the other half, around the values, which err by 3 throughout."""
    noise = np.array([-1.0, 1.0, -5.0, 5.0])
    values = np.array([0.0, 0.0, 10.0, 10.0])
    fit = fit_of(values, np.array([1.0, 1.0, 25.0, 25.0]), values + noise + 3.0)
    assert fit["spread"] == pytest.approx(1.0)
    # (4 + 16 + 4 + 64) / 4 = 22; returns 2, 4, 8, 18, of variance 38
    assert fit["value_error"] == pytest.approx(np.sqrt(22 / 38))
    assert fit_of(values, values, values)["spread"] is None
