"""When a bar is missing. Days and weekdays are read off a calendar: 2026-11-25 is a Wednesday."""

import numpy as np
import pandas as pd
import pytest

from market_regimes.run.next_bar import closing_time, missing_bar


def dates_of(*args, **kwargs):
    return pd.date_range(*args, **kwargs).to_numpy().astype("M8[s]")


WEEKDAYS = dates_of("2026-01-05", "2026-11-25", freq="B")
EVERY_DAY = dates_of("2026-01-05", "2026-11-25", freq="D")
WEEKS = dates_of("2020-01-03", "2026-11-20", freq="W-FRI")
MONTHS = dates_of("2010-01-31", "2026-10-31", freq="ME")
SESSIONS = np.array([t for t in dates_of("2026-08-03", "2026-11-25 23:00", freq="h") if 9 <= t.item().hour < 16])
SESSIONS = np.array([t for t in SESSIONS if t.item().weekday() < 5])


@pytest.mark.parametrize(
    ("dates", "now", "missing"),
    [
        (WEEKDAYS, "2026-11-25 18:00", None),  # today's bar is there
        (WEEKDAYS, "2026-11-26 18:00", None),  # today's has not closed: it is named by its day
        (WEEKDAYS, "2026-11-27 00:00", "2026-11-26"),
        (WEEKDAYS[:-3], "2026-11-25 09:00", "2026-11-24"),
        (WEEKDAYS, "2026-11-29 12:00", "2026-11-27"),  # on a Sunday, Friday's
        (WEEKDAYS[np.datetime64("2026-11-20") >= WEEKDAYS], "2026-11-23 12:00", None),  # on a Monday, Friday's is there
        (WEEKDAYS[:100], "2026-11-25 09:00", "2026-11-24"),  # half a year is missing
        (WEEKDAYS[np.datetime64("2026-11-11") != WEEKDAYS], "2026-11-26 18:00", None),  # a holiday hides no weekday
        (EVERY_DAY, "2026-11-29 12:00", "2026-11-28"),
        (EVERY_DAY, "2026-11-26 23:59", None),
        (WEEKS, "2026-12-03 23:00", None),  # the bar of the 27th may be named by its first day
        (WEEKS, "2026-12-04 00:00", "2026-11-27"),
        (WEEKS, "2026-12-18 00:00", "2026-12-11"),
        (MONTHS, "2026-12-20", None),
        (MONTHS, "2027-01-10", "2026-12-01"),  # 31 days later, by the median month
        (SESSIONS, "2026-11-25 16:00", None),
        (SESSIONS[:-1], "2026-11-25 15:59", None),
        (SESSIONS[:-1], "2026-11-25 16:00", "2026-11-25 15:00"),
        (SESSIONS, "2026-11-26 09:30", None),
        (SESSIONS, "2026-11-26 10:00", "2026-11-26 09:00"),
        (SESSIONS, "2026-11-29 10:00", "2026-11-27 15:00"),
    ],
)
def test_the_newest_bar_that_must_have_closed(dates, now, missing):
    assert missing_bar(dates, np.datetime64(now, "s")) == (missing and np.datetime64(missing, "s"))


def test_a_few_days_are_enough():
    assert missing_bar(WEEKDAYS[-3:], np.datetime64("2026-11-26 10:00", "s")) is None
    assert missing_bar(WEEKDAYS[-1:], np.datetime64("2026-12-20", "s")) == np.datetime64("2026-12-16", "s")


@pytest.mark.parametrize("weekends", [0.2, 1.0])
def test_a_day_stamped_at_another_time_ends_a_day_later_where_weekends_have_bars_too(weekends):
    """Some or all weekends: a stamp at 16:00 begins a day of a coin; on working days alone it is a stock's close."""
    days = pd.date_range("2020-01-01", "2020-02-28")  # ends on a Friday
    working = days[days.day_of_week < 5]
    weekend = days[days.day_of_week >= 5]
    kept = working.append(weekend[-max(1, int(weekends * len(weekend))) :]).sort_values()
    stamps = (kept + pd.Timedelta(hours=16)).to_numpy().astype("M8[s]")
    assert closing_time(stamps) == np.datetime64("2020-02-29T16:00:00")
    stamps = (working + pd.Timedelta(hours=16)).to_numpy().astype("M8[s]")
    assert closing_time(stamps) == np.datetime64("2020-02-29T00:00:00")


FRIDAYS = pd.date_range("2018-01-05", "2020-02-14", freq="W-FRI")


@pytest.mark.parametrize(
    ("stamps", "closing"),
    [
        (pd.date_range("2018-01-06", "2020-02-29", freq="W-SAT"), "2020-03-01"),
        ([*FRIDAYS, "2020-02-20", "2020-02-27"], "2020-02-28"),  # two Thursdays before holidays
        ([f"{month}-26" for month in pd.period_range("2015-01", "2020-02", freq="M")], "2020-03-01"),
        ([f"{month}-15" for month in pd.period_range("2015-01", "2020-02", freq="M")], "2020-03-15"),
        ([f"{month}-01" for month in pd.period_range("2015-01", "2020-02", freq="M")], "2020-03-01"),
    ],
    ids=["Saturdays", "Fridays", "on the 26th", "on the 15th", "on the 1st"],
)
def test_a_week_and_a_month_end_as_their_usual_stamp_says(stamps, closing):
    times = pd.DatetimeIndex(list(stamps)).to_numpy().astype("M8[s]")
    assert closing_time(times) == np.datetime64(f"{closing}T00:00:00")
