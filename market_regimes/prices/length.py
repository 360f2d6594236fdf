"""How long a bar is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

SHARE_OF_A_DAY = 0.2  # share of the steps within one date from which bars are shorter than a day
SHARE_OF_NEXT_DAY = 0.2  # share of the steps to the next date from which bars are daily, however many are missing
DAY = 86_400  # seconds
SINCE_MONDAY = 3  # days from a Monday to day 0 of the epoch, a Thursday
# Days from one bar to the next -> months of a bar; calendar months differ in length.
MONTHS = {(27, 32): 1, (88, 93): 3, (180, 185): 6, (360, 372): 12}
NAMES = {("day", 7): "week", ("month", 3): "quarter", ("month", 12): "year"}
CLOCK_UNITS = {"hour": 3600, "minute": 60}  # seconds


@dataclass(frozen=True)
class BarLength:
    """
    Time from one bar to the next.

    :param unit: what is counted
    :param count: how many of them a bar lasts
    """

    unit: Literal["second", "day", "month"]
    count: int

    def __str__(self) -> str:
        """As a person says it: "1 day", "30 minutes", "1 week"."""
        name = NAMES.get((self.unit, self.count))
        if name is not None:
            return f"1 {name}"

        # The longest unit of a clock that divides the seconds.
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
        Bars of several symbols that share a row are of the same period, whatever their stamps.

        :param dates: times of bars by their file's clock, datetime64[s], shape (T,)
        :param instants: the same in UTC, datetime64[s], shape (T,)
        :return: number of the row of each bar, int64, not decreasing, shape (T,). Bars shorter than a day are counted
            by instants, weeks from Monday, others by the days and months of the clock
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
    :return: the length of most of them
    """
    days = np.diff(dates.astype("M8[D]")).astype(np.int64)

    # Several bars on a date: the most frequent step within one, since nights and weekends lie between dates.
    within = days == 0
    if within.mean() > SHARE_OF_A_DAY:
        steps = np.diff(dates.astype("M8[s]")).astype(np.int64)
        values, counts = np.unique(steps[within], return_counts=True)
        return BarLength("second", int(values[np.argmax(counts)]))

    # Bars of a day follow one another now and then, however many holidays and missing bars lie between the rest.
    between = days[~within]
    if (between == 1).mean() > SHARE_OF_NEXT_DAY:
        return BarLength("day", 1)

    # Longer bars by the usual gap.
    gap = float(np.median(between))

    for (least, most), months in MONTHS.items():
        if least <= gap <= most:
            return BarLength("month", months)

    if 6 <= gap <= 8:
        return BarLength("day", 7)
    return BarLength("day", max(1, round(gap)))
