"""Edges of random timing and of discounted returns."""

import numpy as np
import pandas as pd
import pytest
from markets import load_shipped

from market_regimes.config import TradingCosts
from market_regimes.evaluate.play import backtest, discounted, random_timing
from market_regimes.market.periods import period_of
from market_regimes.market.segments import Segment

MARKET = load_shipped("sp500")
SEGMENT = Segment.scaled_by(
    MARKET, period_of(MARKET, "2011-01-01", "2011-12-31"), period_of(MARKET, "1999-01-01", "2008-12-31")
)


def test_trading_at_random_times_has_no_sharpe_ratio_where_nothing_varies():
    """All in cash at 5 % a year: every bar the same return."""
    costs = TradingCosts(cash_rate=0.05)
    agent = backtest([SEGMENT], costs, lambda known: np.zeros(len(known.bar)))
    assert agent[MARKET.symbol]["return"].to_numpy() == pytest.approx(0.05 / 252)
    assert np.isnan(random_timing([SEGMENT], costs, agent, seed=0, runs=5)[1]).all()


def test_nothing_comes_after_ruin():
    """The equity stays below the hundredth that ends it; the critic's value of 7 completes nothing."""
    frame = pd.DataFrame({"return": [0.1, -0.995, 0.0, 0.0], "equity": [1.1, 0.0055, 0.0055, 0.0055]})
    outcome = discounted({"one": frame}, np.array([7.0]), 0.5)
    last = 100 * np.log(0.005)
    assert outcome[:2] == pytest.approx([100 * np.log(1.1) + 0.5 * last, last])
    assert np.isnan(outcome[2:]).all()
