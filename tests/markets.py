"""Finished markets for tests: the bounds are those of the S&P 500, and an own index may have gaps."""

from dataclasses import replace

import numpy as np
import pandas as pd

from market_regimes.config import MarketConfig
from market_regimes.market.data import read_bars
from market_regimes.market.market import Market, market_of
from market_regimes.market.regimes import DEFAULT_REGIMES
from market_regimes.market.segment import Segment

BARS = 220
WARM = 21  # bars before the first decision
DAYS = pd.bdate_range("2001-01-01", periods=BARS)


def load_markets(entries, volatility_index="auto", bars_per_year=None, **options):
    """The markets of shipped data, files and folders."""
    config = MarketConfig(
        [str(entry) for entry in entries],
        volatility_index,
        bars_per_year,
        regime_bounds=DEFAULT_REGIMES.bounds,
        **options,
    )
    nowhere = range(10**9, 10**9)
    return [market_of(bars, config, nowhere, nowhere.stop) for bars in read_bars(config)]


def covered(entry, first, last):
    """The market of one file, whose own index is needed from the first to the last bar."""
    (bars,) = read_bars(MarketConfig(str(entry)))
    return market_of(bars, MarketConfig(regime_bounds=DEFAULT_REGIMES.bounds), range(first, first), last)


def cycling_market(symbol, stamps, close, opens=None, zone_hours=0, kept=None):
    """A market whose regime changes every ten bars, of the bars that are kept; stamps are by the clock of its zone."""
    dates = pd.DatetimeIndex(stamps).to_numpy().astype("M8[s]")
    index = np.array([10.0, 20.0, 30.0, 50.0])[np.arange(len(close)) // 10 % 4]
    volatility = np.arange(1.0, len(close) + 1)
    if opens is None:
        opens = close
    rows = np.arange(len(close)) if kept is None else kept

    arrays = (dates, opens, close, volatility, index)
    market = Market(symbol, "nowhere", *(array[rows] for array in arrays))
    return replace(market, instants=market.dates - np.timedelta64(zone_hours, "h"))


def load_shipped(name, volatility_index="auto"):
    """One market that needs no file."""
    (market,) = load_markets([name], volatility_index)
    return market


def market_of_prices(closes, opens, bars_per_year=252.0, symbol="A"):
    """Daily bars of made-up prices, whose volatility and index are no one's."""
    closes, opens = np.array(closes), np.array(opens)
    dates = np.datetime64("2001-01-01", "s") + 86400 * np.arange(len(closes))
    return Market(symbol, "nowhere", dates, opens, closes, np.arange(1.0, len(closes) + 1), closes / 4, bars_per_year)


def random_market(seed, bars_per_year, bars=110):
    """A random walk that opens anywhere near the close before."""
    rng = np.random.default_rng(seed)
    closes = 50 * np.exp(np.cumsum(rng.normal(0, 0.03, bars)))
    opens = np.concatenate([closes[:1], closes[:-1] * np.exp(rng.normal(0, 0.02, bars - 1))])
    return market_of_prices(closes, opens, float(bars_per_year), "AB"[seed])


def segments_after(*markets, first=WARM):
    """What is traded of markets after their first bars; all bars scale."""
    segments = []
    for market in markets:
        bars = len(market.close)
        segments.append(Segment.scaled_by(market, range(first, bars), range(0, bars)))
    return segments


def walk(seed, bars=BARS, drift=0.0005, spread=0.015):
    """Closes of a random walk from about 100."""
    return 100 * np.exp(np.cumsum(np.random.default_rng(seed).normal(drift, spread, bars)))
