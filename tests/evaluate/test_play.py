"""Edges of random timing and of discounted returns."""

import numpy as np
import pandas as pd
import pytest
from markets import load_shipped

from market_regimes.config import TradingCosts
from market_regimes.evaluate.figures import summary
from market_regimes.evaluate.play import backtest, discounted, positions, random_timing, trades
from market_regimes.market.market import Market
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


SYMBOLS = ("A", "B", "C")


def test_figures_trades_and_positions_of_several_symbols_are_those_of_each_alone():
    """Three random walks of other lengths, each traded by its own rhythm."""
    rng = np.random.default_rng(0)
    segments = []
    for number, symbol in enumerate(SYMBOLS):
        bars = 140 + 20 * number
        close = 100 * np.exp(np.cumsum(rng.normal(0, 0.02, bars)))
        dates = np.datetime64("2001-01-01", "s") + 86400 * np.arange(bars)
        index = 20 + 10 * np.sin(np.arange(bars) / (number + 2))
        market = Market(symbol, "nowhere", dates, close, close, np.arange(1.0, bars + 1), index)
        segments.append(Segment.scaled_by(market, range(21, bars), range(bars)))
    costs = TradingCosts(fee_bp=10.0)
    frames = backtest(segments, costs, lambda known: (known.bar // (3 + known.symbol) % 2).astype(float))
    together = summary({"agent": frames}, 252)["symbols"]
    orders, decisions = trades(frames), positions(frames, segments)
    for number, segment in enumerate(segments):
        symbol = segment.market.symbol
        alone = backtest([segment], costs, lambda known, pace=3 + number: (known.bar // pace % 2).astype(float))
        assert together[symbol] == summary({"agent": alone}, 252)["symbols"][symbol]
        pd.testing.assert_frame_equal(orders[orders["symbol"] == symbol], trades(alone))
        mine = decisions[decisions["symbol"] == symbol].reset_index(drop=True)
        pd.testing.assert_frame_equal(mine, positions(alone, [segment]))
    assert len({of["agent"]["sharpe_ratio"] for of in together.values()}) == 3
