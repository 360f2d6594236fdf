"""Length of a bar."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

SHARE_OF_A_DAY = 0.2  # share of the steps within a date from which bars are shorter than a day
SHARE_OF_NEXT_DAY = 0.2  # share of the steps to the next date from which bars are daily, however many are missing
DAY = 86_400  # seconds
SINCE_MONDAY = 3  # days from a Monday to day 0 of the epoch, a Thursday
# Days between bars -> months of a bar. Calendar months differ in length.
MONTHS = {(27, 32): 1, (88, 93): 3, (180, 185): 6, (360, 372): 12}
NAMES = {("day", 7): "week", ("month", 3): "quarter", ("month", 12): "year"}
CLOCK_UNITS = {"hour": 3600, "minute": 60}  # seconds


@dataclass(frozen=True)
class BarLength:
    """
    Time from one bar to the next.

    :param unit: unit of the length
    :param count: number of units in a bar
    """

    unit: Literal["second", "day", "month"]
    count: int

    def __str__(self) -> str:
        """Return the usual name: "1 day", "30 minutes", "1 week"."""
        name = NAMES.get((self.unit, self.count))
        if name is not None:
            return f"1 {name}"

        # Use the longest unit of a clock that divides the seconds.
        unit: str = self.unit

        count = self.count
        if unit == "second":
            for name, seconds in CLOCK_UNITS.items():
                if count % seconds == 0:
                    unit = name
                    count //= seconds
                    break
        if count == 1:
            return f"1 {unit}"
        return f"{count} {unit}s"

    def rows(self, dates: np.ndarray, instants: np.ndarray) -> np.ndarray:
        """
        Number the rows, so that bars of one period share a row whatever their stamps.

        :param dates: times of bars by their file's clock, datetime64[s], shape (T,)
        :param instants: the same times in UTC, datetime64[s], shape (T,)
        :return: row number of each bar, int64, not decreasing, shape (T,). Bars shorter than a day count by instants,
            weeks from Monday, others by the days and months of the clock
        """
        if self.unit == "second":
            return instants.astype("M8[s]").astype(np.int64) // self.count
        if self.unit == "month":
            return dates.astype("M8[M]").astype(np.int64) // self.count
        days = dates.astype("M8[D]").astype(np.int64)
        return (days + SINCE_MONDAY) // self.count


def bar_length(dates: np.ndarray) -> BarLength:
    """
    :param dates: times of the bars by their file's clock, datetime64[s], increasing, shape (T,) with T >= 2
    :return: length of most bars
    """
    days = np.diff(dates.astype("M8[D]")).astype(np.int64)

    # With several bars on a date, take the most frequent step within dates. Nights and weekends lie between dates.
    within = days == 0
    if within.mean() > SHARE_OF_A_DAY:
        steps = np.diff(dates.astype("M8[s]")).astype(np.int64)
        values, counts = np.unique(steps[within], return_counts=True)
        return BarLength("second", int(values[np.argmax(counts)]))

    # Daily bars sometimes follow each other, whatever holidays and missing bars lie between the rest.
    between = days[~within]
    if (between == 1).mean() > SHARE_OF_NEXT_DAY:
        return BarLength("day", 1)

    # Longer bars have their usual gap as length.
    gap = float(np.median(between))

    for (least, most), months in MONTHS.items():
        if least <= gap <= most:
            return BarLength("month", months)

    if 6 <= gap <= 8:
        return BarLength("day", 7)
    return BarLength("day", max(1, round(gap)))
