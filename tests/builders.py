"""What several test files build: one function per thing, sorted by name."""

import numpy as np

from market_regimes.market.segments import Market, Segment

DAY = np.timedelta64(1, "D")


def segment_of(market, first=21, stop=None):
    """What is traded of a market: decisions fall on the bars from ``first - 1`` on."""
    bars = len(market.close)
    return Segment(market, range(first, bars if stop is None else stop), range(0, bars))


def walking_market(symbol, seed, bars=110, kept=None, spread=0.03, drift=0.0):
    """Random daily bars from 2001-01-01; ``kept`` names the days that have one."""
    rng = np.random.default_rng(seed)
    days = np.arange(bars)
    close = 50 * np.exp(np.cumsum(rng.normal(drift, spread, bars)))
    opens = np.concatenate([close[:1], close[:-1] * np.exp(rng.normal(0, 0.6 * spread, bars - 1))])
    dates = (np.datetime64("2001-01-01") + days * DAY).astype("M8[s]")
    volatility = rng.uniform(10, 40, bars)
    rows = days if kept is None else kept
    arrays = (dates, opens, close, volatility, np.full(bars, 20.0))
    return Market(symbol, "nowhere", *(array[rows] for array in arrays))
