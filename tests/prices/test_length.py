"""The length of a bar, and the period to which it belongs."""

import numpy as np
import pandas as pd
import pytest
from exports import session_stamps, stamps

from market_regimes.prices.length import BarLength, bar_length


@pytest.mark.parametrize(
    ("dates", "text"),
    [
        (stamps(pd.bdate_range("2020-01-01", periods=90)), "1 day"),
        (stamps(pd.date_range("2020-01-01", periods=90)), "1 day"),
        (
            stamps(pd.bdate_range("2020-01-01", periods=90) + pd.Timedelta(hours=16)),
            "1 day",
        ),
        (
            stamps(
                [
                    *pd.bdate_range("2020-01-01", periods=90),
                    "2020-05-05 15:42:10",
                    "2020-05-05 15:44:10",
                ]
            ),
            "1 day",
        ),
        (stamps(pd.date_range("2020-01-01", periods=90, freq="3D")), "3 days"),
        (
            stamps(pd.date_range("2020-01-01", periods=200)[np.arange(200) % 5 % 3 != 1]),
            "1 day",
        ),  # steps of 2, 1, 2 days
        (stamps(pd.date_range("2020-01-01", periods=90, freq="W-FRI")), "1 week"),
        (stamps(pd.date_range("2020-01-01", periods=90, freq="ME")), "1 month"),
        (stamps(pd.date_range("2020-01-01", periods=90, freq="MS")), "1 month"),
        (stamps(pd.date_range("2020-01-01", periods=90, freq="BME")), "1 month"),
        (stamps(pd.date_range("1990-01-01", periods=90, freq="QE")), "1 quarter"),
        (stamps(pd.date_range("1930-01-01", periods=60, freq="YE")), "1 year"),
        (stamps(pd.date_range("2020-01-01", periods=900, freq="h")), "1 hour"),
        (stamps(pd.date_range("2020-01-01", periods=900, freq="30min")), "30 minutes"),
        (stamps(pd.date_range("2020-01-01", periods=900, freq="90s")), "90 seconds"),
        (stamps(pd.date_range("2020-01-01", periods=900, freq="12h")), "12 hours"),
        (session_stamps(range(9, 16)), "1 hour"),
        (session_stamps([9, 13]), "4 hours"),
    ],
)
def test_the_length_is_that_of_most_bars_whatever_nights_and_holidays_lie_between(dates, text):
    assert str(bar_length(dates)) == text


def test_stamps_of_one_period_share_a_row():
    end = stamps(["2020-01-31", "2020-02-28"])
    start = stamps(["2020-01-01", "2020-02-03"])
    month = BarLength("month", 1)

    np.testing.assert_array_equal(month.rows(end, end), month.rows(start, start))

    # 2020-01-06 was a Monday, the 10th its Friday, the 12th its Sunday, the 13th the next Monday.
    week = BarLength("day", 7)
    days = stamps(["2020-01-06", "2020-01-10", "2020-01-12", "2020-01-13"])

    np.testing.assert_array_equal(np.diff(week.rows(days, days)), [0, 0, 1])

    day = BarLength("day", 1)
    close = stamps(["2020-01-06T16:00:00"])
    midnight = stamps(["2020-01-06"])

    np.testing.assert_array_equal(day.rows(close, close), day.rows(midnight, midnight))


def test_rows_of_short_bars_are_those_of_the_instant_not_of_the_clock():
    hour = BarLength("second", 3600)
    clocks = stamps(["2020-01-06T09:30:00", "2020-01-06T15:00:00"])
    instants = stamps(["2020-01-06T14:30:00", "2020-01-06T14:00:00"])
    rows = hour.rows(clocks, instants)

    assert rows[0] == rows[1]
