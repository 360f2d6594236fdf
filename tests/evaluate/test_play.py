"""Figures, trades and positions of several symbols are each symbol's own."""

import numpy as np
import pandas as pd

from market_regimes import TradingCosts
from market_regimes.evaluate.figures import summary
from market_regimes.evaluate.play import backtest, positions, trades
from market_regimes.market.segments import Market, Segment

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
        segments.append(Segment(market, range(21, bars), range(bars)))
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
