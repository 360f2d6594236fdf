"""Number of bars in a year."""

from __future__ import annotations

import numpy as np

DAYS_PER_YEAR = 252  # trading days, by convention
CALENDAR_DAYS = 365
YEAR = 365.2425  # days
WEEK = 7.0  # days
CONVENTION = 0.02  # largest relative difference of a year's trading days from the convention
HOLIDAYS = 7.0  # days by which the first year of the data may start late: New Year and a weekend
WHOLE_WEEKS = 2.0  # largest difference in days from 52.18 times the days of a week
REGULAR_SESSION = 0.02  # share by which the mean number of bars a day may fall short of a regular day's
DAILY_GAP = 3  # days. A larger usual gap means bars longer than a day
FIVE_DAYS = (4.5, 5.1)  # trading days in the mean week of a calendar of five
SINCE_MONDAY = 3  # days from a Monday to day 0 of the epoch, a Thursday
SATURDAY = 5  # from Monday, 0


def bars_per_year(dates: np.ndarray) -> float:
    """
    Count the bars in a year: trading days in the median full year of the data, times bars in a day.

    Counts of trading days within 2 % of 252 or 365 become these, by convention. Counts within 2 of those of a week
    without holidays become 261 or 313. Less than a year is counted by weeks, where five days stand for 252 a year. Less
    than a week stands for 252 days as well, or for 365 if it has both days of a weekend.

    :param dates: times of the bars, increasing, shape (T,)
    :return: bars per year; 52, 12, 4 or 1 for weekly and longer bars
    """
    days, bars = np.unique(dates.astype("M8[D]"), return_counts=True)
    gap = 1.0
    if len(days) > 1:
        gap = float(np.median(np.diff(days).astype(int)))
    if gap > DAILY_GAP:
        return max(1.0, float(round(YEAR / gap)))  # bars years apart
    return max(1.0, float(round(_days_per_year(days) * _bars_per_day(bars))))


def _bars_per_day(bars: np.ndarray) -> float:
    """
    Count the bars in a usual day, if all days are alike except half days and missing bars.

    :param bars: bars of each day, shape (D,)
    """
    whole = bars
    if len(bars) > 2:  # the first and the last day may be cut
        whole = bars[1:-1]
    usual = float(np.median(whole))
    if abs(float(whole.mean()) - usual) <= REGULAR_SESSION * usual:
        return usual
    return float(bars.mean())


def _days_per_year(days: np.ndarray) -> float:
    """Return the trading days in a year."""
    span = float((days[-1] - days[0]).astype(int)) + 1
    if span >= YEAR - HOLIDAYS:
        return _conventional(float(np.median(_counts(days, YEAR, HOLIDAYS))))

    # In less than a week, both days of a weekend mean a market that never closes.
    if span < WEEK:
        weekend = (days.astype(int) + SINCE_MONDAY) % 7 >= SATURDAY
        if weekend.sum() == 2:
            return float(CALENDAR_DAYS)
        return float(DAYS_PER_YEAR)

    per_week = float(_counts(days, WEEK).mean())
    least, most = FIVE_DAYS
    if least <= per_week <= most:
        return float(DAYS_PER_YEAR)
    return _conventional(per_week * YEAR / WEEK)


def _conventional(count: float) -> float:
    """Round to 252 or 365 if near, else to the days of full weeks if near, so that symbols agree."""
    for usual in (DAYS_PER_YEAR, CALENDAR_DAYS):
        if abs(count - usual) <= CONVENTION * usual:
            return float(usual)

    whole = round(count * WEEK / YEAR) * YEAR / WEEK
    if abs(count - whole) <= WHOLE_WEEKS:
        return float(round(whole))
    return count


def _counts(days: np.ndarray, length: float, slack: float = 0.0) -> np.ndarray:
    """
    Count trading days in each full period of ``length`` days, backwards from the last day.

    :param days: increasing, datetime64[D], shape (D,)
    :param length: days of a period
    :param slack: days that the first period may lack
    """
    age = (days[-1] - days).astype(int)
    full = int((age[0] + 1 + slack) // length)
    counts: np.ndarray = np.bincount((age // length).astype(int))[:full]
    return counts
