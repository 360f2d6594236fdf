"""What a cell measures, by closed forms and what the future must not change."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from comparisons import cell_of_sp500
from markets import load_shipped

from distributional_ppo import DistributionalPPO
from market_regimes.compare.cell import KLAdaptiveRate, fixed_std, run_cell
from market_regimes.config import MarketConfig, RunConfig
from market_regimes.market.periods import period_of
from market_regimes.market.segments import segments_of
from market_regimes.run.study import Study

CELL = cell_of_sp500()
MARKET = CELL.market
ALGORITHM = CELL.algorithm


@pytest.fixture(scope="module")
def result():
    return run_cell(CELL)


def test_the_fixed_standard_deviation_is_that_of_buy_and_hold():
    study = Study(RunConfig(), MARKET, ALGORITHM, segments_of(MARKET, ("train", "test")))
    market = load_shipped("sp500")
    days = period_of(market, *MARKET.train)
    rewards = 100 * np.diff(np.log(market.close[20 : days.stop]))  # 20 returns of history, then every bar's
    returns = np.zeros(len(rewards) + 1)
    for t in reversed(range(len(rewards))):
        returns[t] = rewards[t] + 0.95 * returns[t + 1]
    assert fixed_std(study) == pytest.approx(returns[:-1].std(), rel=1e-3)  # the first trade costs 1 bp


def test_figures_are_those_of_the_days(result):
    days, figures = pd.DataFrame(result["daily"]), result["figures"]
    assert days["date"].iloc[[0, -1]].tolist() == ["2011-01-03 00:00:00", "2014-12-31 00:00:00"]
    for prefix, column in (("test", "return"), ("hold", "hold")):
        returns = days[column]
        assert figures[f"{prefix}_sharpe"] == pytest.approx(
            np.sqrt(252) * returns.mean() / returns.std(ddof=1), rel=1e-4
        )
        assert figures[f"{prefix}_mean_reward"] == pytest.approx(100 * np.log1p(returns).mean(), rel=1e-4)
        calm = returns[(days["index"] < 15).to_numpy()]
        assert figures[f"{prefix}_sharpe_calm"] == pytest.approx(
            np.sqrt(252) * calm.mean() / calm.std(ddof=1), rel=1e-3
        )


def test_regimes_without_20_days_have_no_figures(result):
    assert "test_sharpe_crash" not in result["figures"]  # all crash days of these years lie before 2011
    assert "test_value_error_crash" not in result["figures"]
    assert result["figures"]["test_sharpe_volatile"] == result["figures"]["test_sharpe_stormy"]


def test_gaps_are_relative(result):
    figures = result["figures"]
    calm, stormy = figures["test_value_error_calm"], figures["test_value_error_stormy"]
    assert figures["test_value_error_gap_stormy"] == pytest.approx(abs(calm - stormy) / (calm + stormy))


def test_curves_have_the_update_beside_its_rollout(result):
    curves = pd.DataFrame(result["curves"])
    assert curves["step"].tolist() == [1024, 2048, 3072, 4096]
    assert curves["value_loss"].notna().tolist() == [False, True, False, True]  # every second update is probed
    assert ((curves["weight"] > 0.1) & (curves["weight"] <= 10)).all()
    assert curves["vf_coef_effective"].to_numpy() == pytest.approx(0.5 * curves["weight"].to_numpy())
    assert result["figures"]["weight_mean"] == pytest.approx(curves["weight"].mean())  # 0.2 of 4 rollouts are none


def test_the_future_changes_nothing_in_training(tmp_path, make_prices):
    """Prices of the test period only are moved; a leak would show in the curves."""
    prices = make_prices(900)
    own = MarketConfig(
        data=str(tmp_path / "a.csv"), train=("2000-01-03", "2002-06-28"), test=("2002-08-01", "2003-06-13")
    )
    prices.to_csv(tmp_path / "a.csv", index=False)
    after = prices["date"] > "2002-06-28"
    prices.loc[after, ["open", "high", "low", "close"]] *= np.linspace(1, 2, after.sum())[:, None]
    prices.to_csv(tmp_path / "b.csv", index=False)
    cells = [replace(CELL, market=replace(own, data=str(tmp_path / f"{name}.csv"))) for name in "ab"]
    one, two = (run_cell(cell) for cell in cells)
    assert one["curves"] == two["curves"]
    assert one["figures"]["test_mean_reward"] != two["figures"]["test_mean_reward"]


@pytest.mark.parametrize(("kl", "rate"), [(0.021, 2e-4), (0.019, 3e-4), (0.006, 3e-4), (0.004, 4.5e-4), (None, 3e-4)])
def test_the_learning_rate_follows_the_step_of_the_policy(model, kl, rate):
    model.lr_schedule = lambda _: 3e-4
    callback = KLAdaptiveRate(0.01)
    callback.init_callback(model)
    model.logger.name_to_value.clear()
    if kl is not None:
        model.logger.record("train/approx_kl", kl)
    callback._on_rollout_start()
    assert model.lr_schedule(0.5) == pytest.approx(rate)


def test_a_rate_that_follows_the_divergence_lets_training_go_on():
    model = DistributionalPPO("MlpPolicy", "CartPole-v1", n_steps=16, batch_size=16, n_epochs=1, seed=0, device="cpu")
    assert model.learn(48, KLAdaptiveRate(0.01)).num_timesteps == 48


class Model:
    """What the callback asks of a model."""

    def __init__(self, kl):
        self.logger = type("Logger", (), {"name_to_value": {"train/approx_kl": kl}})()
        self.rate = 1e-3
        self.lr_schedule = lambda progress: self.rate


@pytest.mark.parametrize("kl", [0.02, 0.005])
def test_the_rate_stays_at_exactly_twice_and_half_the_desired_divergence(kl):
    callback = KLAdaptiveRate(0.01)
    callback.model = Model(kl)
    callback.on_rollout_start()
    assert callback.model.lr_schedule(1.0) == 1e-3
