"""Training, validation and test by date: those that are given, or shares of the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from itertools import pairwise
from typing import Protocol

import numpy as np

from market_regimes.config import SHIPPED, ArgumentError, MarketConfig, PeriodName
from market_regimes.prices import Bars

SHIPPED_PERIODS: dict[PeriodName, tuple[str, str]] = {
    "train": ("1999-01-01", "2008-12-31"),
    "validation": ("2009-01-01", "2010-12-31"),
    "test": ("2011-01-01", "2018-12-31"),
}
SHARES = (0.6, 0.75)  # of the data's days at which validation and test begin
DATE_SLACK = 10  # days by which a period may begin before the data or end after them: holidays and weekends


def with_periods(config: MarketConfig, read: Sequence[Bars]) -> MarketConfig:
    """
    :param config: a configuration that states all periods of the user's data, or none of them
    :param read: the bars of every symbol
    :return: the configuration with all periods: of own data 60, 15 and 25 % of the days from first to last bar
    :raises ValueError: if some periods of own data are stated and others are not
    """
    stated = {name: getattr(config, name) for name in SHIPPED_PERIODS}
    missing = [f"market.{name}" for name, days in stated.items() if days is None]
    if not missing:
        return config

    # Data that ship have periods for those that are not stated.
    if all(entry in SHIPPED for entry in config.entries):
        return replace(
            config,
            train=stated["train"] or SHIPPED_PERIODS["train"],
            validation=stated["validation"] or SHIPPED_PERIODS["validation"],
            test=stated["test"] or SHIPPED_PERIODS["test"],
        )

    # Stated periods and shares of the days do not mix.
    if len(missing) < len(stated):
        raise ValueError(
            "market.train, market.validation and market.test are given together or not at all for own data: "
            f"{' and '.join(missing)} should be two days like [2011-01-01, 2018-12-31]"
        )

    # Shares of the days from the first bar of any symbol to the last.
    first, last = _span(read)
    days = int((last - first).astype(int)) + 1
    starts = [first]
    for share in SHARES:
        starts.append(first + round(share * days))
    starts.append(last + 1)

    # Each period ends on the day before the next one.
    periods = []
    for begin, after in pairwise(starts):
        periods.append((str(begin), str(after - 1)))
    train, validation, test = periods
    return replace(
        config,
        train=train,
        validation=validation,
        test=test,
    )


def _span(read: Sequence[Bars]) -> tuple[np.datetime64, np.datetime64]:
    """The first and the last day of all symbols."""
    first = min(bars.dates[0] for bars in read)
    last = max(bars.dates[-1] for bars in read)
    return first.astype("M8[D]"), last.astype("M8[D]")


class Dated(Protocol):
    """Bars or a market: their dates are datetime64[s] and increase."""

    @property
    def dates(self) -> np.ndarray: ...


def period_of(bars: Dated, first: str, last: str) -> range:
    """
    :param bars: bars of one symbol
    :param first: ISO date
    :param last: ISO date, included
    :return: positions of its bars in the period, perhaps none
    """
    begin = np.datetime64(first, "D")
    after = np.datetime64(last, "D") + 1

    # The day after the last begins at its midnight.
    ends = np.array([begin, after], dtype="M8[s]")
    start, stop = np.searchsorted(bars.dates, ends).tolist()
    return range(start, stop)


def covered_period(bars: Bars, first: str, last: str) -> range:
    """
    :param bars: bars of one symbol
    :param first: ISO date
    :param last: ISO date, included
    :return: positions of its bars in the period, at least two
    :raises ValueError: if a date is not one or lies outside the data, or the period holds fewer than two bars
    """
    # The dates must be dates, and lie within the data.
    try:
        begin, end = _days("", (first, last))
    except ValueError as error:
        problem = str(error).removeprefix(": ")
        raise ArgumentError(lambda name: f"{name('first')} and {name('last')}: {problem}") from error
    days = bars.dates[[0, -1]].astype("M8[D]")
    first_text = date_text(bars.dates[0])
    last_text = date_text(bars.dates[-1])
    if begin > days[1]:
        raise ValueError(f"{bars.source}: {bars.symbol} ends on {last_text}, before {begin}")
    count = len(bars.dates)
    data = f"{bars.source}, whose {count} bars of {bars.symbol} run from {first_text} to {last_text}"
    _check_covered("", begin, end, days, data)

    # One step needs two bars.
    period = period_of(bars, first, last)
    if len(period) < 2:
        raise ValueError(f"the period {first} to {last} holds {len(period)} bars of {data}: at least 2 are needed")
    return period


def check_periods(config: MarketConfig, periods: Sequence[PeriodName], read: Sequence[Bars]) -> None:
    """
    :param config: a configuration that has these periods
    :param periods: names, the earliest first
    :param read: the bars of every symbol
    :raises ValueError: if a period's dates are none, it overlaps another, runs backwards, or the data do not cover it
    """
    first, last = _span(read)
    longest = max(read, key=lambda bars: bars.dates[-1] - bars.dates[0])
    count = len(longest.dates)
    data = f"{longest.source}, whose {count} bars of {longest.symbol} run from {first} to {last}"

    # Each lies within the data.
    spans = []
    for name in periods:
        begin, end = _days(f"market.{name}", config.days(name))
        _check_covered(f"market.{name}: ", begin, end, np.array([first, last]), data)
        spans.append((begin, end))

    # Each begins after the one before has ended.
    for before, after in pairwise(spans):
        if before[1] >= after[0]:
            names = [f"market.{name}" for name in periods]
            raise ValueError(f"{', '.join(names[:-1])} and {names[-1]} must follow one another without overlap")


def _check_covered(prefix: str, begin: np.datetime64, end: np.datetime64, days: np.ndarray, data: str) -> None:
    """
    :param days: first and last day of the data
    :param data: their description
    :raises ValueError: if the period runs backwards or reaches beyond these days
    """
    period = f"{prefix}the period {begin} to {end}"
    if begin > end:
        raise ValueError(f"{period} ends before it begins")

    # Holidays and weekends at both ends are covered.
    is_early = begin < days[0] - DATE_SLACK
    is_late = end > days[1] + DATE_SLACK
    if is_early or is_late:
        raise ValueError(f"{period} is not covered by {data}")


def _days(name: str, days: tuple[str, str]) -> tuple[np.datetime64, np.datetime64]:
    """:raises ValueError: if one of the days is no ISO date"""
    first, last = days
    try:
        begin = np.datetime64(date.fromisoformat(first), "D")
        end = np.datetime64(date.fromisoformat(last), "D")
    except ValueError as error:
        raise ValueError(
            f"{name}: a period is given by two ISO dates like 2011-01-01, got {first!r} and {last!r}"
        ) from error
    return begin, end


def date_text(time: np.datetime64) -> str:
    """A time as a person writes it: a day without its midnight."""
    return str(time).removesuffix("T00:00:00").replace("T", " ")
