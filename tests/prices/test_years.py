"""Bars per year of calendars that are counted by hand, in long files and in short ones."""

import numpy as np
import pandas as pd
import pytest
from arch.data import nasdaq, sp500

from market_regimes.prices.years import bars_per_year


def days(frequency, first="2010-01-01", last="2019-12-31"):
    return pd.date_range(first, last, freq=frequency)


def bars(index):
    return index.to_numpy().astype("M8[s]")


def without(index, *dates):
    """Without these days of every year, as 01-01."""
    return index[~index.strftime("%m-%d").isin(dates)]


def intraday(index, minutes):
    """Bars at these minutes of every day."""
    return (index.to_numpy().astype("M8[m]")[:, None] + np.asarray(minutes).astype("m8[m]")).ravel().astype("M8[s]")


SIX = "Mon Tue Wed Thu Fri Sat"
SUNDAY_THURSDAY = "Sun Mon Tue Wed Thu"
SATURDAY_WEDNESDAY = "Sat Sun Mon Tue Wed"


WEEKS = {  # calendar of weekdays -> days a year, 365.2425 / 7 = 52.18 times the days a week
    "Mon Tue Wed Thu Fri": 260.9,
    SUNDAY_THURSDAY: 260.9,
    SATURDAY_WEDNESDAY: 260.9,
    SIX: 313.1,
    "Sun Mon Tue Wed Thu Fri": 313.1,  # currencies with a candle for Sunday evening
    "Mon Tue Wed Thu": 208.7,
    "Mon Wed Fri": 156.5,
}


@pytest.mark.parametrize("index", [sp500.load().index, nasdaq.load().index], ids=["sp500", "nasdaq"])
def test_an_exchange_has_252_days(index):
    assert bars_per_year(bars(index)) == 252.0

    for year in range(1999, 2018):
        assert bars_per_year(bars(index[index.year == year])) == 252.0
        assert bars_per_year(bars(index[(index.year == year) | (index.year == year + 1)])) == 252.0

    for first in range(0, 5000, 60):
        assert bars_per_year(bars(index[first : first + 60])) == 252.0


@pytest.mark.parametrize("weekdays", WEEKS)
def test_calendars_of_any_week_are_counted(weekdays):
    index = pd.bdate_range("2010-01-01", "2019-12-31", freq="C", weekmask=weekdays)

    assert bars_per_year(bars(index)) == pytest.approx(WEEKS[weekdays], abs=1)

    short = bars_per_year(bars(index[:100]))

    assert short == (252.0 if len(weekdays.split()) == 5 else pytest.approx(WEEKS[weekdays], abs=1))


def test_holidays_count():
    closed = [
        "01-01",
        "12-25",
        "12-26",
        "05-01",
        "04-23",
        "04-24",
        "09-10",
        "09-11",
        "09-12",
    ]
    index = without(
        pd.bdate_range("2010-01-01", "2019-12-31", freq="C", weekmask=SUNDAY_THURSDAY),
        *closed,
    )

    # 260.9 days less 9 holidays of which 5 in 7 fall on a trading day: 254.5, within 2 % of 252
    assert bars_per_year(bars(index)) == 252.0

    tokyo = without(
        pd.bdate_range("2010-01-01", "2019-12-31"),
        *[f"{month:02d}-{day}" for month in range(1, 13) for day in (15, 16)],
    )

    # 260.9 less 24 holidays of which 5 in 7 count: 243.7
    assert bars_per_year(bars(tokyo)) == pytest.approx(243.7, abs=1)


@pytest.mark.parametrize(
    ("frequency", "expected"),
    [
        ("D", 365),
        ("h", 24 * 365),
        ("15min", 96 * 365),
        ("W", 52),
        ("MS", 12),
        ("QS", 4),
        ("YS", 1),
    ],
)
def test_around_the_clock_and_rare_bars(frequency, expected):
    assert bars_per_year(bars(days(frequency))) == expected

    if expected > 12:
        assert bars_per_year(bars(days(frequency)[:70])) == expected if expected < 8000 else True

    assert bars_per_year(bars(days("D", "2012-01-01", "2012-12-31"))) == 365  # a leap year


def test_sessions_are_regular_days():
    index = sp500.load().index
    minutes = intraday(index[-600:], range(570, 960))

    assert bars_per_year(minutes) == 390 * 252

    short_fridays = minutes[
        ~((minutes.astype("M8[D]").astype(int) % 97 == 0) & (minutes.astype("M8[m]").astype(int) % 1440 >= 780))
    ]

    assert 390 * 252 * 0.98 < len(short_fridays) / len(minutes) * 390 * 252 < 390 * 252
    assert bars_per_year(short_fridays) == 390 * 252
    assert bars_per_year(intraday(index[-30:], range(570, 990, 60))) == 7 * 252


def test_currencies_open_on_sunday_evening():
    hours = days("h", "2015-01-01", "2018-12-31")
    open_ = hours[
        ~(
            (hours.day_of_week == 5)
            | ((hours.day_of_week == 6) & (hours.hour < 22))
            | ((hours.day_of_week == 4) & (hours.hour >= 22))
        )
    ]

    # 24 hours on four days, 22 on Friday, 2 on Sunday: 120 a week, 52.18 weeks
    assert bars_per_year(bars(open_)) == pytest.approx(120 * 52.18, rel=0.003)
    assert bars_per_year(bars(open_[: 120 * 8])) == pytest.approx(120 * 52.18, rel=0.02)


def test_less_than_a_week():
    assert bars_per_year(intraday(days("D", "2015-01-05", "2015-01-07"), range(0, 1440, 60))) == 24 * 252
    assert bars_per_year(intraday(days("D", "2015-01-08", "2015-01-12"), range(0, 1440, 60))) == 24 * 365
    assert bars_per_year(intraday(days("D", "2015-01-05", "2015-01-05"), range(570, 960))) == 390 * 252


def test_a_gap_of_months_does_not_count():
    index = sp500.load().index
    index = index[(index < "2005-03-01") | (index > "2005-09-01")]

    assert bars_per_year(bars(index)) == 252.0


def test_symbols_of_one_calendar_agree():
    index = pd.bdate_range("2010-01-01", "2019-12-31")
    six = pd.bdate_range("2010-01-01", "2019-12-31", freq="C", weekmask=SIX)

    for first in range(0, 1500, 37):
        assert bars_per_year(bars(index[first:])) == bars_per_year(bars(index[: -first - 1])) == 261
        assert bars_per_year(bars(six[first:])) == bars_per_year(bars(six[: -first - 1])) == 313
