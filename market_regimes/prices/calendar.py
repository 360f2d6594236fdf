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
        rows_present, row = np.unique(np.concatenate(numbers), return_inverse=True)
        ends = np.cumsum([len(these) for these in numbers])[:-1]

        # One clock names the rows where all files share it.
        stamps = _earliest(np.concatenate(clocks), row, len(rows_present))
        if (np.diff(stamps).astype(np.int64) <= 0).any():
            stamps = _earliest(np.concatenate(instants), row, len(rows_present))
        return cls(np.split(row, ends), stamps)


def _are_alike(times: Sequence[np.ndarray]) -> bool:
    """Whether all symbols have the same times."""
    return all(np.array_equal(times[0], these) for these in times)


def _earliest(times: np.ndarray, row: np.ndarray, rows: int) -> np.ndarray:
    """The earliest time of each row, datetime64[s], shape (rows,)."""
    seconds = np.full(rows, np.iinfo(np.int64).max)
    np.minimum.at(seconds, row, _whole(times, "s"))
    return seconds.astype("M8[s]")


def _whole(times: np.ndarray, unit: str) -> np.ndarray:
    """Whole units since the epoch."""
    counts: np.ndarray = times.astype(f"M8[{unit}]").astype(np.int64)
    return counts


def _numbers(clocks: Sequence[np.ndarray], instants: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Number of the period of each bar, per symbol; periods are as long as the shortest of the symbols' bars."""
    lengths = [bar_length(clock) for clock in clocks if len(clock) > 1]
    length = min(lengths, key=_seconds, default=BarLength("day", 1))

    # Stamps of seconds, weeks and several days leave open where a period begins.
    if length.unit == "second":
        return _in_fewest_rows([_whole(these, "s") for these in instants], length.count)
    if length == BarLength("day", 7):
        return _in_fewest_weeks([_whole(clock, "D") for clock in clocks])
    if length.unit == "day" and length.count != 1:
        return _in_fewest_rows([_whole(clock, "D") for clock in clocks], length.count)
    return [length.rows(clock, these) for clock, these in zip(clocks, instants, strict=True)]


def _in_fewest_weeks(days: Sequence[np.ndarray]) -> list[np.ndarray]:
    """
    Weeks begin on Mondays. A stamp of Sunday may name the week that ends then or the one that begins: where symbols are
    stamped on Sundays and others are not, the beginning is the one by which there are fewer weeks.

    :param days: per symbol, since the epoch, shapes (T,)
    :return: number of the week of each bar, per symbol
    """
    since_monday = [these + SINCE_MONDAY for these in days]
    by_monday = [these // 7 for these in since_monday]
    sundays = [bool((these % 7 == SUNDAY).mean() > SHARE_ALIKE) for these in since_monday]
    if all(sundays) or not any(sundays):
        return by_monday
    by_sunday = [(these + 1) // 7 for these in since_monday]

    return min((by_monday, by_sunday), key=_cost_of_rows)


def _cost_of_rows(rows: Sequence[np.ndarray]) -> tuple[int, int]:
    """How many bars of a symbol share a row with the one before, and how many rows there are."""
    shared = sum(int((np.diff(these) == 0).sum()) for these in rows)
    count = len(np.unique(np.concatenate(rows)))
    return shared, count


def _seconds(length: BarLength) -> int:
    """Roughly how long a bar is, to order lengths."""
    return length.count * SECONDS[length.unit]


def _in_fewest_rows(times: Sequence[np.ndarray], count: int) -> list[np.ndarray]:
    """
    Rows of ``count`` units whose start is chosen so that stamps of one period share a row: bars at 9:30 and 10:00 of
    every hour do so in rows that begin at half past.

    :param times: per symbol, whole units, shapes (T,)
    :param count: units of a row
    :return: number of the row of each bar, per symbol. The start is the one at which the fewest bars of a symbol share
        a row, then the one with the fewest rows, then that of the clock
    """
    starts, frequency = np.unique(np.concatenate(times) % count, return_counts=True)
    most_frequent = starts[np.argsort(-frequency, kind="stable")][:MAX_PHASES]

    def cost(start: int) -> tuple[int, int]:
        return _cost_of_rows([(these - start) // count for these in times])

    best = min([0, *most_frequent.tolist()], key=cost)

    return [(these - best) // count for these in times]


def _common_clocks(dates: Sequence[np.ndarray], instants: Sequence[np.ndarray]) -> list[np.ndarray]:
    """
    The files' clocks; one clock for those that show the same instants in different zones.

    A day by the clock is the day of the file's place: midnight in Tokyo and midnight in New York are one day. The same
    daily bars converted to another zone lie on the day before; there the clock of the first file counts for both.
    """
    clocks: list[np.ndarray] = []
    for these, those in zip(dates, instants, strict=True):
        clock = these
        for earlier, reference in zip(clocks, instants, strict=False):
            if _shows_the_same(earlier, reference, these, those):
                # The offset of the earlier clock at each instant of this one.
                last = np.searchsorted(reference, those, side="right").clip(1) - 1
                clock = those + (earlier - reference)[last]
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
    shared, in_first, in_second = np.intersect1d(instants, times, assume_unique=True, return_indices=True)
    if len(shared) < SHARE_ALIKE * min(len(instants), len(times)):
        return False
    if np.array_equal(clock[in_first], dates[in_second]):
        return False
    return not (_at_midnight(clock) and _at_midnight(dates))


def _at_midnight(clock: np.ndarray) -> bool:
    return bool((clock.astype("M8[D]") == clock).all())
