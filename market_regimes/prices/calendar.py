"""Which bars of several symbols belong to the same row of an account."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from market_regimes.prices.length import DAY, SINCE_MONDAY, BarLength, bar_length

SHARE_ALIKE = 0.5  # share of the instants of another symbol from which two clocks show the same bars
MAX_PHASES = 8  # starts of a row that are tried, beside that of the clock
SUNDAY = 6  # from Monday, 0
SECONDS = {"second": 1, "day": DAY, "month": 30 * DAY}  # of a unit, roughly


@dataclass(frozen=True)
class Calendar:
    """
    The rows of one account that holds several symbols.

    :param rows: per symbol the row of each of its bars, not decreasing, shapes (T,)
    :param stamps: time of each row, datetime64[s], increasing, shape (R,)
    """

    rows: list[np.ndarray]
    stamps: np.ndarray

    @classmethod
    def of(cls, dates: Sequence[np.ndarray], instants: Sequence[np.ndarray]) -> Calendar:
        """
        :param dates: per symbol the times of its bars by its file's clock, datetime64[s], increasing, shapes (T,)
        :param instants: the same in UTC
        :return: rows that are each one period of the bars. A row's time is the earliest of its bars by their clock; in
            UTC where the clocks of the files differ
        """
        if _are_alike(dates) and _are_alike(instants):
            return cls([np.arange(len(dates[0]))] * len(dates), dates[0])

        # Number the periods, then leave out those without a bar.
        clocks = _common_clocks(dates, instants)
        numbers = _numbers(clocks, instants)
        periods, row = np.unique(np.concatenate(numbers), return_inverse=True)
        count = len(periods)

        # One clock names the rows where all files share it.
        stamps = _earliest(np.concatenate(clocks), row, count)
        steps = np.diff(stamps).astype(np.int64)
        if (steps <= 0).any():
            stamps = _earliest(np.concatenate(instants), row, count)

        # The rows of each symbol.
        bars = [len(these) for these in numbers]
        ends = np.cumsum(bars)[:-1]
        return cls(np.split(row, ends), stamps)


def _are_alike(times: Sequence[np.ndarray]) -> bool:
    """Whether all symbols have the same times."""
    return all(np.array_equal(times[0], these) for these in times)


def _earliest(times: np.ndarray, row: np.ndarray, rows: int) -> np.ndarray:
    """:return: the earliest time of each row, datetime64[s], shape (rows,)"""
    seconds = np.full(rows, np.iinfo(np.int64).max)
    np.minimum.at(seconds, row, _whole(times, "s"))
    return seconds.astype("M8[s]")


def _whole(times: np.ndarray, unit: str) -> np.ndarray:
    """:return: whole units since the epoch"""
    counts: np.ndarray = times.astype(f"M8[{unit}]").astype(np.int64)
    return counts


def _numbers(clocks: Sequence[np.ndarray], instants: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Number the period of each bar, per symbol; periods are as long as the shortest of the symbols' bars."""
    # One bar has no length.
    lengths = [bar_length(clock) for clock in clocks if len(clock) > 1]
    length = min(lengths, key=_seconds, default=BarLength("day", 1))

    # Stamps of seconds, weeks and several days leave open where a period begins.
    if length.unit == "second":
        seconds = [_whole(these, "s") for these in instants]
        return _in_fewest_rows(seconds, length.count)
    if length.unit == "day" and length.count != 1:
        days = [_whole(clock, "D") for clock in clocks]
        if length == BarLength("day", 7):
            return _in_fewest_weeks(days)
        return _in_fewest_rows(days, length.count)

    # Days, months and the bars of a clock begin where the calendar says.
    numbers = []
    for clock, these in zip(clocks, instants, strict=True):
        numbers.append(length.rows(clock, these))
    return numbers


def _in_fewest_weeks(days: Sequence[np.ndarray]) -> list[np.ndarray]:
    """
    Weeks begin on Mondays. A stamp of Sunday may name the week that ends then or the one that begins: where symbols are
    stamped on Sundays and others are not, the beginning is the one by which there are fewer weeks.

    :param days: per symbol, since the epoch, shapes (T,)
    :return: number of the week of each bar, per symbol
    """
    # Weeks from Monday to Sunday.
    since_monday = [these + SINCE_MONDAY for these in days]
    by_monday = [these // 7 for these in since_monday]

    # Stamps of one kind are unambiguous.
    shares = [(these % 7 == SUNDAY).mean() for these in since_monday]
    sundays = [bool(share > SHARE_ALIKE) for share in shares]
    if all(sundays) or not any(sundays):
        return by_monday

    # Weeks from Sunday to Saturday, if there are fewer of them.
    by_sunday = [(these + 1) // 7 for these in since_monday]
    return min((by_monday, by_sunday), key=_cost_of_rows)


def _cost_of_rows(rows: Sequence[np.ndarray]) -> tuple[int, int]:
    """Count the bars of a symbol that share a row with the bar before, and the rows."""
    shared = 0
    for these in rows:
        shared += int((np.diff(these) == 0).sum())
    count = len(np.unique(np.concatenate(rows)))
    return shared, count


def _seconds(length: BarLength) -> int:
    """:return: roughly how long a bar is, to order lengths"""
    return length.count * SECONDS[length.unit]


def _in_fewest_rows(times: Sequence[np.ndarray], count: int) -> list[np.ndarray]:
    """
    Choose the start of rows of ``count`` units so that stamps of one period share a row: bars at 9:30 and 10:00 of
    every hour do so in rows that begin at half past.

    :param times: per symbol, whole units, shapes (T,)
    :param count: units of a row
    :return: number of the row of each bar, per symbol. The start is the one at which the fewest bars of a symbol share
        a row, then the one with the fewest rows, then that of the clock
    """
    # The starts at which the most bars begin are tried.
    offsets = np.concatenate(times) % count
    starts, frequency = np.unique(offsets, return_counts=True)
    order = np.argsort(-frequency, kind="stable")
    most_frequent = starts[order][:MAX_PHASES]

    def rows_from(start: int) -> list[np.ndarray]:
        return [(these - start) // count for these in times]

    def cost(start: int) -> tuple[int, int]:
        return _cost_of_rows(rows_from(start))

    # The clock's start comes first, so that it wins where costs are equal.
    best = min([0, *most_frequent.tolist()], key=cost)
    return rows_from(best)


def _common_clocks(dates: Sequence[np.ndarray], instants: Sequence[np.ndarray]) -> list[np.ndarray]:
    """
    Take the files' clocks, and one clock for files that show the same instants in different zones.

    A day by the clock is the day of the file's place: midnight in Tokyo and midnight in New York are one day. The same
    daily bars converted to another zone lie on the day before; there the clock of the first file counts for both.
    """
    clocks: list[np.ndarray] = []
    for these, those in zip(dates, instants, strict=True):
        clock = these
        for earlier, reference in zip(clocks, instants, strict=False):
            if _shows_the_same(earlier, reference, these, those):
                # The offset of the earlier clock at each instant of this one.
                offset = earlier - reference
                last = np.searchsorted(reference, those, side="right").clip(1) - 1
                clock = those + offset[last]
                break
        clocks.append(clock)

    return clocks


def _shows_the_same(clock: np.ndarray, instants: np.ndarray, dates: np.ndarray, times: np.ndarray) -> bool:
    """
    Whether two symbols have mostly the same instants while their clocks, not both at midnight, differ.

    :param clock: of the first symbol, shape (T,)
    :param instants: of the first symbol, shape (T,)
    :param dates: the clock of the second symbol, shape (S,)
    :param times: the instants of the second symbol, shape (S,)
    """
    # The instants that both have.
    shared, in_first, in_second = np.intersect1d(
        instants,
        times,
        assume_unique=True,
        return_indices=True,
    )
    shorter = min(len(instants), len(times))
    if len(shared) < SHARE_ALIKE * shorter:
        return False

    # Equal clocks need no other one, and neither do two files of days.
    if np.array_equal(clock[in_first], dates[in_second]):
        return False
    return not (_at_midnight(clock) and _at_midnight(dates))


def _at_midnight(clock: np.ndarray) -> bool:
    return bool((clock.astype("M8[D]") == clock).all())
