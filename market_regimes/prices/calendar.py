"""Rows of an account: grouping of several symbols' bars by period."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from market_regimes.prices.length import DAY, SINCE_MONDAY, BarLength, bar_length

SHARE_ALIKE = 0.5  # share of another symbol's instants from which two clocks show the same bars
MAX_PHASES = 8  # candidate starts of a row beside the clock's
SUNDAY = 6  # Monday is 0
SECONDS = {"second": 1, "day": DAY, "month": 30 * DAY}  # approximate length of a unit


@dataclass(frozen=True)
class Calendar:
    """
    Rows of an account that holds several symbols.

    :param rows: row of each bar per symbol, not decreasing, shapes (T,)
    :param stamps: time of each row, datetime64[s], increasing, shape (R,)
    """

    rows: list[np.ndarray]
    stamps: np.ndarray

    @classmethod
    def of(cls, dates: Sequence[np.ndarray], instants: Sequence[np.ndarray]) -> Calendar:
        """
        :param dates: times of each symbol's bars by its file's clock, datetime64[s], increasing, shapes (T,)
        :param instants: the same times in UTC
        :return: rows of one period each. A row's time is that of its earliest bar by the files' clock, or in UTC if
            their clocks differ
        """
        if _are_alike(dates) and _are_alike(instants):
            return cls([np.arange(len(dates[0]))] * len(dates), dates[0])

        # Number the periods and drop those without a bar.
        clocks = _common_clocks(dates, instants)
        numbers = _numbers(clocks, instants)
        periods, row = np.unique(np.concatenate(numbers), return_inverse=True)
        count = len(periods)

        # Use the common clock if all files share one.
        stamps = _earliest(np.concatenate(clocks), row, count)
        steps = np.diff(stamps).astype(np.int64)
        if (steps <= 0).any():
            stamps = _earliest(np.concatenate(instants), row, count)

        # Split the rows by symbol.
        bars = [len(periods) for periods in numbers]
        ends = np.cumsum(bars)[:-1]
        return cls(np.split(row, ends), stamps)


def _are_alike(times: Sequence[np.ndarray]) -> bool:
    """Return whether all symbols have the same times."""
    return all(np.array_equal(times[0], later) for later in times)


def _earliest(times: np.ndarray, row: np.ndarray, rows: int) -> np.ndarray:
    """:return: earliest time of each row, datetime64[s], shape (rows,)"""
    seconds = np.full(rows, np.iinfo(np.int64).max)
    np.minimum.at(seconds, row, _whole(times, "s"))
    return seconds.astype("M8[s]")


def _whole(times: np.ndarray, unit: str) -> np.ndarray:
    """:return: whole units since the epoch"""
    counts: np.ndarray = times.astype(f"M8[{unit}]").astype(np.int64)
    return counts


def _numbers(clocks: Sequence[np.ndarray], instants: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Number the period of each bar, per symbol. A period is as long as the shortest bars."""
    # A single bar has no length.
    lengths = [bar_length(clock) for clock in clocks if len(clock) > 1]
    length = min(lengths, key=_seconds, default=BarLength("day", 1))

    # Stamps of seconds, weeks and several days leave the start of a period open.
    if length.unit == "second":
        seconds = [_whole(instant, "s") for instant in instants]
        return _in_fewest_rows(seconds, length.count)
    if length.unit == "day" and length.count != 1:
        days = [_whole(clock, "D") for clock in clocks]
        if length == BarLength("day", 7):
            return _in_fewest_weeks(days)
        return _in_fewest_rows(days, length.count)

    # Days, months and bars of a clock start by the calendar.
    numbers = []
    for clock, instant in zip(clocks, instants, strict=True):
        numbers.append(length.rows(clock, instant))
    return numbers


def _in_fewest_weeks(days: Sequence[np.ndarray]) -> list[np.ndarray]:
    """
    Number weeks that start on Mondays, or on Sundays if that gives fewer weeks.

    A stamp of Sunday may name the week that ends or the week that starts. Both starts are tried only if some symbols
    have stamps of Sundays and others do not.

    :param days: days since the epoch per symbol, shapes (T,)
    :return: number of each bar's week, per symbol
    """
    # Weeks from Monday to Sunday.
    since_monday = [day + SINCE_MONDAY for day in days]
    by_monday = [day // 7 for day in since_monday]

    # Stamps of a single kind are unambiguous.
    shares = [(day % 7 == SUNDAY).mean() for day in since_monday]
    sundays = [bool(share > SHARE_ALIKE) for share in shares]
    if all(sundays) or not any(sundays):
        return by_monday

    # Weeks from Sunday to Saturday, if there are fewer of them.
    by_sunday = [(day + 1) // 7 for day in since_monday]
    return min((by_monday, by_sunday), key=_cost_of_rows)


def _cost_of_rows(rows: Sequence[np.ndarray]) -> tuple[int, int]:
    """Count bars that share a row with the same symbol's bar before, and the rows."""
    shared = 0
    for symbol_rows in rows:
        shared += int((np.diff(symbol_rows) == 0).sum())
    count = len(np.unique(np.concatenate(rows)))
    return shared, count


def _seconds(length: BarLength) -> int:
    """:return: approximate length of a bar, for ordering"""
    return length.count * SECONDS[length.unit]


def _in_fewest_rows(times: Sequence[np.ndarray], count: int) -> list[np.ndarray]:
    """
    Choose the start of rows of ``count`` units so that stamps of one period share a row.

    Bars at 9:30 and 10:00 of every hour share rows that start at half past.

    :param times: whole units per symbol, shapes (T,)
    :param count: units of a row
    :return: row number of each bar, per symbol. The best start has the fewest bars of a symbol that share a row, then
        the fewest rows. The clock's start wins a tie
    """
    # Try the starts at which the most bars begin.
    offsets = np.concatenate(times) % count
    starts, frequency = np.unique(offsets, return_counts=True)
    order = np.argsort(-frequency, kind="stable")
    most_frequent = starts[order][:MAX_PHASES]

    def rows_from(start: int) -> list[np.ndarray]:
        return [(time - start) // count for time in times]

    def cost(start: int) -> tuple[int, int]:
        return _cost_of_rows(rows_from(start))

    # The clock's start comes first and so wins ties.
    best = min([0, *most_frequent.tolist()], key=cost)
    return rows_from(best)


def _common_clocks(dates: Sequence[np.ndarray], instants: Sequence[np.ndarray]) -> list[np.ndarray]:
    """
    Take the files' clocks, and one clock for files that show the same instants in different zones.

    A day by the clock is a day at the file's place: midnight in Tokyo and midnight in New York are one day. The same
    daily bars converted to another zone lie on the day before. Then the first file's clock counts for both.
    """
    clocks: list[np.ndarray] = []
    for written, instant in zip(dates, instants, strict=True):
        clock = written
        for earlier, reference in zip(clocks, instants, strict=False):
            if _has_shifted_clock(earlier, reference, written, instant):
                # Apply the earlier clock's offset at each instant of this file.
                offset = earlier - reference
                last = np.searchsorted(reference, instant, side="right").clip(1) - 1
                clock = instant + offset[last]
                break
        clocks.append(clock)

    return clocks


def _has_shifted_clock(clock: np.ndarray, instants: np.ndarray, dates: np.ndarray, times: np.ndarray) -> bool:
    """
    Return whether two symbols share most instants while their clocks differ and are not both at midnight.

    :param clock: clock of the first symbol, shape (T,)
    :param instants: instants of the first symbol, shape (T,)
    :param dates: clock of the second symbol, shape (S,)
    :param times: instants of the second symbol, shape (S,)
    """
    # Find the shared instants.
    shared, in_first, in_second = np.intersect1d(
        instants,
        times,
        assume_unique=True,
        return_indices=True,
    )
    shorter = min(len(instants), len(times))
    if len(shared) < SHARE_ALIKE * shorter:
        return False

    # Equal clocks need no change. Neither do two files of days.
    if np.array_equal(clock[in_first], dates[in_second]):
        return False
    return not (_at_midnight(clock) and _at_midnight(dates))


def _at_midnight(clock: np.ndarray) -> bool:
    return bool((clock.astype("M8[D]") == clock).all())
