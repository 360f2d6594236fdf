"""
Reading of price files into the bars of every symbol. All other packages import from here.

    from market_regimes.prices import ReadOptions, read_prices

    (bars,) = read_prices(["spy.csv"], ReadOptions(zone="America/New_York"))
    bars.close, bars.notes.assumptions
"""

from market_regimes.prices.bars import Bars, bars_before
from market_regimes.prices.calendar import Calendar
from market_regimes.prices.length import BarLength, bar_length
from market_regimes.prices.notes import Notes
from market_regimes.prices.options import ReadOptions
from market_regimes.prices.paths import SUFFIXES, is_readable
from market_regimes.prices.reader import check_zones, read_frame, read_prices
from market_regimes.prices.years import DAYS_PER_YEAR, bars_per_year

__all__ = [
    "DAYS_PER_YEAR",
    "SUFFIXES",
    "BarLength",
    "Bars",
    "Calendar",
    "Notes",
    "ReadOptions",
    "bar_length",
    "bars_before",
    "bars_per_year",
    "check_zones",
    "is_readable",
    "read_frame",
    "read_prices",
]
