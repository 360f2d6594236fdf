"""
From files to every figure: a run on two copies of one asset, which lack other days and are stamped otherwise, has the
figures of the asset in training, evaluation and comparison.
"""

import json

import numpy as np
import pandas as pd
import pytest

from market_regimes import Agent, MarketConfig, RunConfig, Study
from market_regimes.compare.cell import Cell, run_cell
from market_regimes.config import TradingCosts
from market_regimes.evaluate.strategies import buy_and_hold

DAYS = pd.bdate_range("2000-01-03", periods=860)
PERIODS = dict(
    train=("2000-01-03", "2001-06-29"), validation=("2001-07-02", "2001-10-31"), test=("2001-11-01", "2003-04-18")
)
ALGORITHM = dict(policy="MlpPolicy", seed=0, device="cpu", n_steps=32, batch_size=64, n_epochs=1)
COSTS = TradingCosts(fee_bp=0.0, fill="close")
GONE = 25  # of as many days each copy lacks another one


@pytest.fixture(scope="module")
def data(tmp_path_factory, make_prices):
    """Files of the asset and of two copies; every day is in one of these, and the ends of all periods in both."""
    folder = tmp_path_factory.mktemp("data")
    prices = make_prices(860).assign(date=DAYS)
    ends = DAYS.isin(pd.to_datetime([day for period in PERIODS.values() for day in period]))
    edges = ends | np.roll(ends, 1) | np.roll(ends, -1)
    (folder / "copies").mkdir()
    prices.to_csv(folder / "asset.csv", index=False)
    for number, hour in ((5, 0), (15, 16)):
        kept = (np.arange(860) % GONE != number) | edges
        stamped = prices[kept].assign(date=DAYS[kept] + pd.Timedelta(hours=hour))
        stamped.to_csv(folder / "copies" / f"copy{number}.csv", index=False)
    return folder


def study_of(path, out):
    market = MarketConfig(str(path), episode_bars=60, regime_bounds=(15, 25, 40), trading=COSTS, **PERIODS)
    study = Study(RunConfig(n_envs=2, total_timesteps=64, out=str(out), progress_bar=False), market, ALGORITHM)
    study.agent = lambda: buy_and_hold
    return study


def held(data, period):
    """Returns of the asset over the days of a period, from the close before them."""
    prices = pd.read_csv(data / "asset.csv", parse_dates=["date"]).set_index("date")["close"]
    return prices.pct_change()[PERIODS[period][0] : PERIODS[period][1]]


def held_in_copies(data, period):
    """Returns of half the money in each copy, bought at its last close before the period, in shares that are kept."""
    closes = {}
    for path in sorted((data / "copies").iterdir()):
        prices = pd.read_csv(path, parse_dates=["date"])
        closes[path.stem] = prices.set_index(prices["date"].dt.normalize())["close"]
    table = pd.DataFrame(closes).ffill()
    before = table[: PERIODS[period][0]].iloc[-2]
    equity = (table / before).mean(axis=1)
    return equity.pct_change()[PERIODS[period][0] : PERIODS[period][1]]


def sharpe(returns, per_year=261):
    return np.sqrt(per_year) * returns.mean() / returns.std()


def test_the_score_of_validation_is_that_of_the_asset(data, tmp_path):
    """The copies have 250 or 251 bars a year each, which count as 252; the account has 261 rows."""
    returns = held(data, "validation")
    study = study_of(data / "copies", tmp_path)
    assert (study.core.bars_per_year, study.core.rows_per_year) == (252, 261)
    scores, _ = study.score()
    assert scores["mean_reward"] == pytest.approx(100 * np.log1p(returns).sum(), rel=1e-6)
    assert scores["sharpe_ratio"] == pytest.approx(sharpe(held_in_copies(data, "validation")), rel=1e-6)
    assert scores["sharpe_ratio"] == pytest.approx(sharpe(returns), rel=0.05)
    assert scores["sharpe_buy_and_hold"] == pytest.approx(scores["sharpe_ratio"])


def test_the_evaluation_of_a_run_and_of_its_agent_are_those_of_the_asset(data, tmp_path):
    returns = held(data, "test")
    study = study_of(data / "copies", tmp_path)
    result = study.evaluate(tmp_path, "test")
    agent = result["joint"]["agent"]
    assert agent["bars"] == len(returns)
    assert agent["total_return"] == pytest.approx((1 + returns).prod() - 1, rel=1e-6)
    assert agent["sharpe_ratio"] == pytest.approx(sharpe(held_in_copies(data, "test")), rel=1e-6)
    assert agent["sharpe_ratio"] == pytest.approx(sharpe(returns), rel=0.05)
    equity = (1 + returns).cumprod()
    assert agent["max_drawdown"] == pytest.approx((equity / equity.cummax().clip(lower=1) - 1).min(), abs=0.005)
    assert result["joint"]["equal weights"]["total_return"] == pytest.approx(agent["total_return"], abs=0.02)
    assert "equal weights" not in result["symbols"]["copy5"]
    assert json.loads((tmp_path / "evaluation-test.json").read_text())["joint"]["agent"] == agent


def test_an_evaluation_by_the_agent_of_a_run_annualises_as_the_run_does(data, tmp_path, monkeypatch):
    study = study_of(data / "copies", tmp_path)
    folder = study.start()
    monkeypatch.setattr(Agent, "rule", lambda self: buy_and_hold)
    agent = Agent.load(folder)
    result = agent.evaluate(agent.segments(str(data / "copies"), PERIODS["test"]), tmp_path, "again")
    assert result["joint"]["agent"]["sharpe_ratio"] == pytest.approx(sharpe(held_in_copies(data, "test")), rel=1e-6)


def test_a_cell_of_a_comparison_is_annualised_by_the_rows_of_the_account(data):
    days = dict(train=PERIODS["train"], test=PERIODS["test"])
    market = MarketConfig(str(data / "copies"), episode_bars=60, regime_bounds=(15, 25, 40), trading=COSTS, **days)
    result = run_cell(Cell("copies", "fold", "one", 0, RunConfig(n_envs=2, total_timesteps=64), market, ALGORITHM))
    returns = held(data, "test")
    daily = pd.DataFrame(result["daily"])
    assert result["bars_per_year"] == 261
    assert len(daily) == len(returns)
    assert (1 + daily["hold"]).prod() == pytest.approx((1 + returns).prod(), rel=1e-4)
    assert result["figures"]["hold_sharpe"] == pytest.approx(sharpe(held_in_copies(data, "test")), rel=1e-6)
    assert result["figures"]["test_mean_reward"] == pytest.approx(100 * np.log1p(daily["return"]).mean(), rel=1e-3)
