"""Detection of rows between a file's usual times of bars, such as a snapshot of today after daily bars."""

from __future__ import annotations

import math

import numpy as np

from market_regimes.prices.length import DAY, SINCE_MONDAY, BarLength, bar_length

HOUR = 3600  # seconds
OFTEN = 3  # rows from which a time of day belongs to the grid
REGULAR = 0.9  # share of rows on a grid, if there is a grid
MORNING = 8 * HOUR  # no session ends before it
ROUND = 300  # seconds: sessions end at multiples of five minutes
WEEK_GAP = 4  # days: holidays bring the stamps of two weeks no closer
MONTH_GAP = 20  # days: the Chinese New Year brings the stamps of two months no closer than 23
SLACK = 1  # days by which a stamp's distance from a month's end may exceed all earlier ones
SATURDAY = 5  # from Monday, 0


def off_grid(dates: np.ndarray) -> tuple[np.ndarray, str]:
    """
    :param dates: times of the bars by their file's clock, datetime64[s], increasing, shape (T,) with T >= 2
    :return: mask of the rows off the grid, shape (T,), and a description of the grid: "1 day, stamped at 00:00".
        Without regular times no row is off the grid
    """
    length = bar_length(dates)
    grid = f"bars of {length}"

    if length.unit == "second":
        bad = _between_bars(dates, length.count)
    else:
        bad = _at_odd_times(dates)
        grid += f", stamped at {_clock(_most_frequent(_seconds_of_day(dates)))}"

    # Many rows elsewhere mean that times have no grid. Days may still have one.
    if bad.mean() > 1 - REGULAR:
        bad = np.zeros(len(dates), dtype=bool)
    return bad | _in_odd_days(dates, length), grid


def _seconds_of_day(dates: np.ndarray) -> np.ndarray:
    seconds: np.ndarray = dates.astype("M8[s]").astype(np.int64) % DAY
    return seconds


def _most_frequent(values: np.ndarray) -> int:
    different, counts = np.unique(values, return_counts=True)
    return int(different[np.argmax(counts)])


def _frequent(values: np.ndarray) -> list[int]:
    """Return the values of at least three rows."""
    different, counts = np.unique(values, return_counts=True)
    return [int(value) for value in different[counts >= OFTEN]]


def _clock(second: int) -> str:
    """Format a second of the day as 09:30, or 09:30:15."""
    minutes, seconds = divmod(second, 60)
    text = f"{minutes // 60:02d}:{minutes % 60:02d}"
    if seconds:
        text += f":{seconds:02d}"
    return text


def _between_bars(dates: np.ndarray, length: int) -> np.ndarray:
    """
    Return a mask of bars shorter than a day whose remainder by the bar's length is rare.

    A session from 9:30 has bars at half past and a last bar at its end, 16:00. So the grid's step is the greatest
    common divisor of the length and the usual remainder, unless it is a small part of a bar.
    """
    remainder = dates.astype("M8[s]").astype(np.int64) % length
    usual = _most_frequent(remainder)
    on_grid = np.isin(remainder, _frequent(remainder))
    step = math.gcd(length, usual)
    if step >= length / 4:
        on_grid |= remainder % step == 0
    if length > HOUR:  # summer time moves bars of four hours that are stamped in UTC
        on_grid |= np.isin(remainder, [(usual + HOUR) % length, (usual - HOUR) % length])
    return ~on_grid


def _at_odd_times(dates: np.ndarray) -> np.ndarray:
    """
    Return a mask of bars of a day or more at a rare time of day.

    Summer time moves midnights in UTC by an hour. Half days end early, so bars stamped at the close may differ. Bars
    stamped at midnight never have another time.
    """
    seconds = _seconds_of_day(dates)
    moved = [(second + shift) % DAY for second in _frequent(seconds) for shift in (0, HOUR, -HOUR)]
    is_half_day = (seconds > MORNING) & (seconds < _most_frequent(seconds)) & (seconds % ROUND == 0)
    on_grid: np.ndarray = np.isin(seconds, moved) | is_half_day
    return ~on_grid


def _in_odd_days(dates: np.ndarray, length: BarLength) -> np.ndarray:
    """Return a mask of rows too soon after the row before, and of a last row on a day that never has a bar."""
    days = dates.astype("M8[D]")
    gap = np.diff(days).astype(np.int64)
    bad = np.zeros(len(days), dtype=bool)
    if length.unit == "month":
        bad[1:] = gap < MONTH_GAP * length.count
        bad[-1] |= _is_odd_in_month(days) or _is_odd_month(days, length.count)

    # A daily bar may be the first on its weekday, except at a weekend.
    weekday = (days.astype(np.int64) + SINCE_MONDAY) % 7
    is_new_weekday = bool((weekday[:-1] != weekday[-1]).all())
    if length == BarLength("day", 7):
        bad[1:] = gap < WEEK_GAP
        bad[-1] |= is_new_weekday
    if length == BarLength("day", 1):
        bad[-1] = is_new_weekday and weekday[-1] >= SATURDAY
    return bad


def _is_odd_in_month(days: np.ndarray) -> bool:
    """Return whether the last stamp is farther from its month's start, or end, than all before."""
    months = days.astype("M8[M]")
    since_start = (days - months.astype("M8[D]")).astype(np.int64)
    until_end = ((months + 1).astype("M8[D]") - days).astype(np.int64)

    # Stamps keep their distance from one of the two.
    distance = since_start
    if np.ptp(since_start[:-1]) > np.ptp(until_end[:-1]):
        distance = until_end
    before = distance[:-1]

    return not before.min() - SLACK <= distance[-1] <= before.max() + SLACK


def _is_odd_month(days: np.ndarray, count: int) -> bool:
    """Return whether the last bar of a quarter or year falls into another month of it than all before."""
    phase = days.astype("M8[M]").astype(np.int64) % count
    return bool((phase[:-1] != phase[-1]).all())
