"""From the bars of a symbol to what is traded: its regimes, its periods, and the stretches between their days."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import cached_property
from itertools import pairwise
from typing import get_args

import numpy as np

from market_regimes.config import SHIPPED, SYNTHETIC, MarketConfig, PeriodName
from market_regimes.market.load import Bars, read_files
from market_regimes.market.regimes import (
    DAYS_PER_YEAR,
    REGIME_BOUNDS,
    WARM_UP,
    bounds_in,
    estimated_index,
    ewma_volatility,
    regimes,
)
from market_regimes.market.shipped import shipped

WINDOW = 20  # log returns in an observation, and no fewer than the warm-up has
KEEPS_BOUNDS = {"sp500", *SYNTHETIC}  # data for which REGIME_BOUNDS hold
HIDES_INDEX = {"synthetic_hidden"}  # data whose observations lack the index, so that only memory can tell it
JUMP = 2.0  # factor between two closes from which a user is told
GAP_DAYS = 20  # days without a bar from which a user is told
DATE_SLACK = 10  # days by which a period may begin before the data or end after them: holidays and weekends


@dataclass(frozen=True)
class Market:
    """
    T bars of one symbol with the regime of each. The arrays, of shape (T,), are not to be written to.

    :param symbol: name for tables and pictures
    :param source: where the bars come from, for error messages
    :param dates: times of the bars, datetime64[s], increasing
    :param open: opening prices
    :param close: closing prices
    :param volatility: EWMA volatility up to the bar's close, annualised, in points, NaN in the warm-up
    :param index: volatility index at the bar's close, in points; NaN: the bar has no regime
    :param bars_per_year: what annualises figures and accrues interest
    :param bounds: points of the index at which normal, volatile and crash begin
    :param index_observed: whether observations have the index; else 0 stands in its place
    """

    symbol: str
    source: str
    dates: np.ndarray
    open: np.ndarray
    close: np.ndarray
    volatility: np.ndarray
    index: np.ndarray
    bars_per_year: float = DAYS_PER_YEAR
    bounds: tuple[float, ...] = REGIME_BOUNDS
    index_observed: bool = True

    @cached_property
    def regime(self) -> np.ndarray:
        """Position in ``REGIMES`` of every bar's regime."""
        return regimes(self.index, self.bounds)

    def fingerprint(self) -> str:
        """SHA-256 over dates, prices, index and bounds: two runs with the same one saw the same data."""
        return digest(self.symbol, self.dates, self.open, self.close, self.index, np.array(self.bounds))


def digest(symbol: str, *arrays: np.ndarray) -> str:
    """SHA-256 over a symbol and its arrays."""
    found = hashlib.sha256(symbol.encode())
    for array in arrays:
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


@dataclass(frozen=True)
class Segment:
    """
    A stretch of a market to trade on.

    :param market: the bars
    :param period: bars whose returns may be earned; the first decision falls on the close before them
    :param scale_on: the training period, whatever ``period`` is
    :raises ValueError: if the period is too short for its window and one step, or ``scale_on`` for a spread
    """

    market: Market
    period: range
    scale_on: range

    def __post_init__(self) -> None:
        if self.first >= self.last or len(self.known) < 2:
            raise ValueError(_too_few(self.market, self.period))

    @property
    def first(self) -> int:
        """Bar at whose close the first decision falls."""
        return max(self.period.start - 1, WINDOW)

    @property
    def known(self) -> range:
        """Bars whose statistics scale the observations: those of ``scale_on`` after the warm-up."""
        return range(max(self.scale_on.start, WARM_UP), self.scale_on.stop)

    @property
    def last(self) -> int:
        """Last bar."""
        return self.period.stop - 1


def _too_few(bars: Bars | Market, period: range) -> str:
    return (
        f"the period's {len(period)} bars of {bars.symbol} are too few: {WINDOW} returns are "
        "needed before the first decision and one bar after it"
    )


Segments = dict[PeriodName, list[Segment]]


def read_bars(config: MarketConfig) -> list[Bars]:
    """
    :param config: the data
    :return: the bars of every symbol, in the order found
    :raises ValueError: in one sentence with file, rows and dates, if the data cannot be used
    """
    found: list[Bars] = []
    for entry in config.entries:
        if entry in SHIPPED:
            found.extend(shipped(entry, config.volatility_index))
            continue
        for bars in read_files(entry):
            stated = config.bars_per_year
            found.append(bars if stated is None else replace(bars, bars_per_year=float(stated)))
    first_of: dict[str, Bars] = {}
    for bars in found:
        other = first_of.setdefault(bars.symbol, bars)
        if other is not bars:
            raise ValueError(f"the symbol {bars.symbol} is in {other.source} and in {bars.source}")
        if bars.bars_per_year != found[0].bars_per_year:
            raise ValueError(
                f"{found[0].symbol} has {found[0].bars_per_year:g} bars per year and {bars.symbol} "
                f"{bars.bars_per_year:g}: one run needs one number; if they are the same, state market.bars_per_year"
            )
    return found


def segments_of(
    config: MarketConfig, periods: Sequence[PeriodName] = get_args(PeriodName), read: Sequence[Bars] | None = None
) -> Segments:
    """
    :param config: the data
    :param periods: which of its periods, the first of which is trained on
    :param read: the bars, where a command has read them already
    :return: per period one segment for each symbol
    :raises ValueError: if the data cannot be used, or the periods overlap or run backwards
    """
    segments: Segments = {name: [] for name in periods}
    for bars in read_bars(config) if read is None else read:
        ranges = [period_of(bars, *getattr(config, name)) for name in periods]
        if any(before.stop > after.start for before, after in pairwise(ranges)):
            names = [f"market.{name}" for name in periods]
            raise ValueError(f"{', '.join(names[:-1])} and {names[-1]} must follow one another without overlap")
        if ranges[0].stop <= WINDOW + 1:
            raise ValueError(_too_few(bars, ranges[0]))
        market = market_of(bars, config, ranges[0], ranges[-1].stop - 1)
        for name, period in zip(periods, ranges, strict=True):
            segments[name].append(Segment(market, period, ranges[0]))
    return segments


def market_of(bars: Bars, config: MarketConfig, train: range, last: int) -> Market:
    """
    :param bars: of one symbol
    :param config: which index to use, and the bounds where they are given
    :param train: bars of the training period: where its quantiles are the bounds
    :param last: last bar whose index is needed
    :return: the market, with its index and its bounds
    :raises ValueError: if the index that is asked for is missing
    """
    volatility = ewma_volatility(bars.close, bars.bars_per_year)
    index = _index(bars, config, volatility, train.start, last)
    bounds: tuple[float, ...] = REGIME_BOUNDS
    if config.regime_bounds is not None:
        bounds = config.regime_bounds
    elif bars.source not in KEEPS_BOUNDS:
        bounds = bounds_in(index, train)
    return Market(
        bars.symbol,
        bars.source,
        bars.dates,
        bars.open,
        bars.close,
        volatility,
        index,
        bars.bars_per_year,
        bounds,
        index_observed=bars.source not in HIDES_INDEX,
    )


def _index(bars: Bars, config: MarketConfig, volatility: np.ndarray, first: int, last: int) -> np.ndarray:
    """The data's own index where it is wanted, which must cover the bars from first to last; else estimates."""
    own, estimated = bars.volatility_index, estimated_index(volatility)
    if own is None and config.volatility_index == "real":
        raise ValueError(f"market.volatility_index=real: {bars.source} has no column volatility_index")
    # The index of the synthetic market is its truth.
    if own is None or (config.volatility_index == "estimated" and bars.source not in SYNTHETIC):
        return estimated
    missing = np.isnan(own)
    within = np.flatnonzero(missing[first : last + 1]) + first
    if len(within):
        raise ValueError(
            f"{bars.source} has no volatility_index for {len(within)} of the bars of {bars.symbol} from "
            f"{date_text(bars.dates[first])} to {date_text(bars.dates[last])}, the first on "
            f"{date_text(bars.dates[within[0]])}: complete the column, move the periods or set "
            "market.volatility_index=estimated"
        )
    return np.where(missing, estimated, own)


def period_of(bars: Bars | Market, first: str, last: str) -> range:
    """
    Bars of the days from ``first`` to ``last``, both included.

    :param bars: of one symbol
    :param first: ISO date
    :param last: ISO date
    :return: positions of the bars
    :raises ValueError: if a date is not one or lies outside the data, or the period holds fewer than two bars
    """
    try:
        begin, end = (np.datetime64(date.fromisoformat(day), "D") for day in (first, last))
    except ValueError as error:
        raise ValueError(f"a period is given by two ISO dates like 2011-01-01, got {first!r} and {last!r}") from error
    if begin > end:
        raise ValueError(f"the period {first} to {last} ends before it begins")
    known = f"{bars.source}, whose {len(bars.dates)} bars of {bars.symbol} run from {date_text(bars.dates[0])}"
    known += f" to {date_text(bars.dates[-1])}"
    if begin < bars.dates[0].astype("M8[D]") - DATE_SLACK or end > bars.dates[-1].astype("M8[D]") + DATE_SLACK:
        raise ValueError(f"the period {first} to {last} is not covered by {known}")
    period = range(*np.searchsorted(bars.dates, np.array([begin, end + 1], dtype="M8[s]")).tolist())
    if len(period) < 2:
        raise ValueError(f"the period {first} to {last} holds {len(period)} bars of {known}: at least 2 are needed")
    return period


def oddities(bars: Bars | Market) -> list[str]:
    """
    :return: a sentence each on prices that jump and on long gaps, for the largest: no errors, but they may be some
    """
    sentences = []
    ratio = np.abs(np.diff(np.log(bars.close)))
    jump = int(np.argmax(ratio))
    if ratio[jump] > np.log(JUMP):
        change = 100 * (bars.close[jump + 1] / bars.close[jump] - 1)
        sentences.append(
            f"{bars.source}: close of {bars.symbol} moves by {change:+.0f} % on {date_text(bars.dates[jump + 1])}; "
            f"a split that was not adjusted? {int((ratio > np.log(JUMP)).sum())} such bar(s)"
        )
    days = np.diff(bars.dates).astype("m8[D]").astype(int)
    gap = int(np.argmax(days))
    if days[gap] > max(GAP_DAYS, 10 * float(np.median(days))):
        since = date_text(bars.dates[gap])
        sentences.append(f"{bars.source}: {bars.symbol} has no bar for {days[gap]} days from {since}")
    return sentences


def date_text(time: np.datetime64) -> str:
    """As a person writes it: a day without its midnight."""
    return str(time).removesuffix("T00:00:00").replace("T", " ")
