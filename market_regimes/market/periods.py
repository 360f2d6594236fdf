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
    :param config: which of own data states all periods or none
    :param read: the bars of every symbol
    :return: the configuration with all periods: of own data 60, 15 and 25 % of the days from first to last bar
    :raises ValueError: if some periods of own data are stated and others are not
    """
    stated = {name: getattr(config, name) for name in SHIPPED_PERIODS}
    missing = [f"market.{name}" for name, days in stated.items() if days is None]
    if not missing:
        return config
    if all(entry in SHIPPED for entry in config.entries):
        train, validation, test = (stated[name] or days for name, days in SHIPPED_PERIODS.items())
        return replace(config, train=train, validation=validation, test=test)
    if len(missing) < len(stated):
        raise ValueError(
            "market.train, market.validation and market.test are given together or not at all for own data: "
            f"{' and '.join(missing)} should be two days like [2011-01-01, 2018-12-31]"
        )

    # Shares of the days from the first bar of any symbol to the last.
    first = min(bars.dates[0] for bars in read).astype("M8[D]")
    last = max(bars.dates[-1] for bars in read).astype("M8[D]")
    days = int((last - first).astype(int)) + 1
    starts = [first, *(first + round(share * days) for share in SHARES), last + 1]
    train, validation, test = ((str(begin), str(after - 1)) for begin, after in pairwise(starts))
    return replace(config, train=train, validation=validation, test=test)


class Dated(Protocol):
    """What has dates, datetime64[s], increasing: bars or a market."""

    @property
    def dates(self) -> np.ndarray: ...


def period_of(bars: Dated, first: str, last: str) -> range:
    """
    :param bars: of one symbol
    :param first: ISO date
    :param last: ISO date, included
    :return: positions of its bars in the period, perhaps none
    """
    begin = np.datetime64(first, "D")
    after = np.datetime64(last, "D") + 1
    ends = np.array([begin, after], dtype="M8[s]")
    return range(*np.searchsorted(bars.dates, ends).tolist())


def covered_period(bars: Bars, first: str, last: str) -> range:
    """
    :param bars: of one symbol
    :param first: ISO date
    :param last: ISO date, included
    :return: positions of its bars in the period, at least two
    :raises ValueError: if a date is not one or lies outside the data, or the period holds fewer than two bars
    """
    try:
        begin, end = _days("", (first, last))
    except ValueError as error:
        problem = str(error).removeprefix(": ")
        raise ArgumentError(lambda name: f"{name('first')} and {name('last')}: {problem}") from error
    if begin > bars.dates[-1].astype("M8[D]"):
        raise ValueError(f"{bars.source}: {bars.symbol} ends on {date_text(bars.dates[-1])}, before {begin}")

    data = f"{bars.source}, whose {len(bars.dates)} bars of {bars.symbol} run from {date_text(bars.dates[0])}"
    data += f" to {date_text(bars.dates[-1])}"
    _check_covered("", begin, end, bars.dates[[0, -1]].astype("M8[D]"), data)
    period = period_of(bars, first, last)
    if len(period) < 2:
        raise ValueError(f"the period {first} to {last} holds {len(period)} bars of {data}: at least 2 are needed")
    return period


def check_periods(config: MarketConfig, periods: Sequence[PeriodName], read: Sequence[Bars]) -> None:
    """
    :param config: with these periods
    :param periods: in their order
    :param read: the bars of every symbol
    :raises ValueError: if a period's dates are none, it overlaps another, runs backwards, or the data do not cover it
    """
    first = min(bars.dates[0] for bars in read).astype("M8[D]")
    last = max(bars.dates[-1] for bars in read).astype("M8[D]")
    longest = max(read, key=lambda bars: bars.dates[-1] - bars.dates[0])
    data = f"{longest.source}, whose {len(longest.dates)} bars of {longest.symbol} run from {first} to {last}"

    # Each lies within the data.
    for name in periods:
        begin, end = _days(f"market.{name}", config.days(name))
        _check_covered(f"market.{name}: ", begin, end, np.array([first, last]), data)

    # Each begins after the one before has ended.
    for before, after in pairwise(periods):
        if np.datetime64(config.days(before)[1], "D") >= np.datetime64(config.days(after)[0], "D"):
            names = [f"market.{name}" for name in periods]
            raise ValueError(f"{', '.join(names[:-1])} and {names[-1]} must follow one another without overlap")


def _check_covered(prefix: str, begin: np.datetime64, end: np.datetime64, days: np.ndarray, data: str) -> None:
    """
    :param days: first and last day of the data
    :param data: their description
    :raises ValueError: if the period runs backwards or reaches beyond these days
    """
    if begin > end:
        raise ValueError(f"{prefix}the period {begin} to {end} ends before it begins")
    if begin < days[0] - DATE_SLACK or end > days[1] + DATE_SLACK:
        raise ValueError(f"{prefix}the period {begin} to {end} is not covered by {data}")


def _days(name: str, days: tuple[str, str]) -> tuple[np.datetime64, np.datetime64]:
    try:
        begin, end = (np.datetime64(date.fromisoformat(day), "D") for day in days)
    except ValueError as error:
        raise ValueError(
            f"{name}: a period is given by two ISO dates like 2011-01-01, got {days[0]!r} and {days[1]!r}"
        ) from error
    return begin, end


def date_text(time: np.datetime64) -> str:
    """As a person writes it: a day without its midnight."""
    return str(time).removesuffix("T00:00:00").replace("T", " ")
