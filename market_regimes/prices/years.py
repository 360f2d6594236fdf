"""How many bars a year has."""

from __future__ import annotations

import numpy as np

DAYS_PER_YEAR = 252  # trading days, by convention
CALENDAR_DAYS = 365
YEAR, WEEK = 365.2425, 7.0  # days
CONVENTION = 0.02  # share by which a year's trading days may differ from the convention
HOLIDAYS = 7.0  # days by which the first year of the data may begin late: New Year and a weekend
WHOLE_WEEKS = 2.0  # days by which a year may differ from 52.18 times the days of its week
REGULAR_SESSION = 0.02  # share by which the mean number of bars a day may fall short of a regular day's


def bars_per_year(dates: np.ndarray) -> float:
    """
    Bars in a year, counted: trading days in the median of the full years of the data, times bars in a day.

    Counts of trading days within 2 % of 252 or 365 become these, as is the convention. Counts within 2 of those of a
    week without holidays become 261 or 313. Less than a year is counted by weeks, in which five days stand for 252 a
    year. Less than a week stands for 252 days as well, or for 365 if it holds both days of a weekend.

    :param dates: times of the bars, increasing, shape (T,)
    :return: bars per year; 52, 12, 4 or 1 for weekly and rarer bars
    """
    return max(1.0, _counted(dates))  # years apart


def _counted(dates: np.ndarray) -> float:
    days, bars = np.unique(dates.astype("M8[D]"), return_counts=True)
    gap = float(np.median(np.diff(days).astype(int))) if len(days) > 1 else 1.0
    if gap > 3:
        return float(round(YEAR / gap))
    year = _days_per_year(days)
    whole = bars[1:-1] if len(bars) > 2 else bars  # the first and the last day may be cut
    usual = float(np.median(whole))
    if abs(float(whole.mean()) - usual) <= REGULAR_SESSION * usual:  # half days and missing bars apart, all are alike
        return float(round(year * usual))
    return float(round(year * float(bars.mean())))


def _days_per_year(days: np.ndarray) -> float:
    """Trading days in a year."""
    span = float((days[-1] - days[0]).astype(int)) + 1
    if span >= YEAR - HOLIDAYS:
        return _conventional(float(np.median(_counts(days, YEAR, HOLIDAYS))))
    if span < WEEK:
        weekend = (days.astype(int) + 3) % 7 >= 5  # day 0 of the epoch was a Thursday
        return float(CALENDAR_DAYS if weekend.sum() == 2 else DAYS_PER_YEAR)
    per_week = float(_counts(days, WEEK).mean())
    return float(DAYS_PER_YEAR) if 4.5 <= per_week <= 5.1 else _conventional(per_week * YEAR / WEEK)


def _conventional(count: float) -> float:
    """252 or 365 if they are near, else the days of as many whole weeks if they are, so that symbols agree."""
    near = [usual for usual in (DAYS_PER_YEAR, CALENDAR_DAYS) if abs(count - usual) <= CONVENTION * usual]
    whole = round(count * WEEK / YEAR) * YEAR / WEEK
    return float(near[0]) if near else float(round(whole)) if abs(count - whole) <= WHOLE_WEEKS else count


def _counts(days: np.ndarray, length: float, slack: float = 0.0) -> np.ndarray:
    """Trading days in each full stretch of this many days, counted back from the last day; the first may lack some."""
    age = (days[-1] - days).astype(int)
    full = int((age[0] + 1 + slack) // length)
    counts: np.ndarray = np.bincount((age // length).astype(int))[:full]
    return counts
