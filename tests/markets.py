"""Finished markets for tests: the bounds are those of the S&P 500, and an own index may have gaps."""

from market_regimes.config import MarketConfig
from market_regimes.market.data import read_bars
from market_regimes.market.market import market_of
from market_regimes.market.regimes import DEFAULT_REGIMES


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


def load_shipped(name, volatility_index="auto"):
    """One market that needs no file."""
    (market,) = load_markets([name], volatility_index)
    return market
