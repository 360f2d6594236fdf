"""Backtests and their figures, against closed forms in numpy."""

import numpy as np
import pandas as pd
import pytest

from market_regimes.data import load_shipped
from market_regimes.env import Segment, TradingCosts
from market_regimes.evaluation import backtest, buy_and_hold, figures, figures_by_regime

MARKET = load_shipped("sp500")
TRAIN = MARKET.period("1999-01-01", "2008-12-31")
TEST = MARKET.period("2011-01-01", "2018-12-31")
SEGMENT = Segment(MARKET, TEST, TRAIN)


@pytest.fixture(scope="module")
def held():
    return backtest([SEGMENT], TradingCosts(), buy_and_hold)["S&P 500"]


def test_every_day_of_the_period_earns_its_return(held):
    assert len(held) == len(TEST)
    assert held["return"].to_numpy()[1:] == pytest.approx(
        MARKET.close[TEST[1] : TEST[-1] + 1] / MARKET.close[TEST[0] : TEST[-1]] - 1
    )


def test_figures_are_their_closed_forms(held):
    returns = held["return"].to_numpy()
    equity = np.concatenate([[1.0], np.cumprod(1 + returns)])
    computed = figures(held, 252)
    assert computed["sharpe_ratio"] == pytest.approx(np.sqrt(252) * returns.mean() / returns.std(ddof=1))
    downside = np.sqrt(np.mean(np.minimum(returns, 0.0) ** 2))
    assert computed["sortino_ratio"] == pytest.approx(np.sqrt(252) * returns.mean() / downside)
    assert computed["max_drawdown"] == pytest.approx((equity / np.maximum.accumulate(equity) - 1).min())
    assert computed["total_return"] == pytest.approx(equity[-1] - 1)
    assert computed["turnover_per_year"] == pytest.approx(252 / len(returns), rel=1e-3)


def test_figures_of_an_agent_that_never_trades_are_left_undefined():
    flat = backtest([SEGMENT], TradingCosts(), lambda core: np.zeros(1))["S&P 500"]
    computed = figures(flat, 252)
    assert computed["sharpe_ratio"] is None
    assert computed["sortino_ratio"] is None
    assert computed["max_drawdown"] == 0.0


def test_regimes_with_few_days_are_not_given(held):
    table = figures_by_regime({"S&P 500": held}, 252)
    assert sum(cell["bars"] for cell in table.values()) == len(TEST)
    assert table["crash"] == {"bars": 0.0, "sharpe_ratio": None, "exposure": None}
    calm = held[held["regime"] == "calm"]["return"]
    assert table["calm"]["sharpe_ratio"] == pytest.approx(np.sqrt(252) * calm.mean() / calm.std())


def test_days_carry_their_own_regime(held):
    day = pd.Timestamp("2011-08-19")
    assert held.loc[day, "index"] == MARKET.index[MARKET.dates == np.datetime64("2011-08-19")][0]
    assert held.loc[day, "regime"] == "volatile"
