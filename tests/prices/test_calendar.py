"""Rows that bars of several symbols share."""

import numpy as np
import pandas as pd
import pytest
from exports import session_stamps, stamps

from market_regimes.config import MarketConfig
from market_regimes.market.data import read_bars
from market_regimes.prices.calendar import Calendar


def rows(*symbols):
    """Rows of symbols whose clocks are UTC."""
    return Calendar.of(symbols, symbols).rows


def test_one_calendar_serves_several_symbols():
    """B begins in the third row; the second one has no bar of either, and is none."""
    a = stamps(["2020-01-06", "2020-01-08", "2020-01-09"])
    b = stamps(["2020-01-09T16:00:00", "2020-01-10T16:00:00"])
    calendar = Calendar.of([a, b], [a, b])

    assert [row.tolist() for row in calendar.rows] == [[0, 1, 2], [2, 3]]
    assert (
        calendar.stamps.tolist() == stamps(["2020-01-06", "2020-01-08", "2020-01-09", "2020-01-10T16:00:00"]).tolist()
    )


@pytest.mark.parametrize(("first", "second"), [(0, 30), (30, 60), (59, 61), (15, 15), (5, 50)])
def test_hourly_stamps_of_one_session_share_rows_wherever_they_stand_in_the_hour(first, second):
    """Seven bars a day: two sets of stamps within an hour of each other need seven rows a day."""
    one, two = (session_stamps(range(9, 16), 0) + np.timedelta64(minute, "m") for minute in (first, second))
    a, b = rows(one, two)

    np.testing.assert_array_equal(a, b)


def test_a_symbols_own_bars_are_not_merged_to_save_rows():
    """The first bar of the session lasts half an hour; two symbols have these stamps, one a second later."""
    one = stamps(
        [f"2020-01-{day:02d}T{time}" for day in range(6, 11) for time in ("09:30", "10:00", "11:00", "12:00", "13:00")]
    )
    a, b = rows(one, one + np.timedelta64(1, "s"))

    assert a.tolist() == b.tolist() == list(range(25))


def test_the_times_of_rows_increase_where_the_clock_goes_back():
    """01:00 by the clock is two hours on 2020-10-25; A has the first of them, B the second."""
    utc = stamps(pd.date_range("2020-10-24", periods=48, freq="h"))
    offset = np.where(utc < np.datetime64("2020-10-25T01:00:00"), 3600, 0)
    a = np.delete(np.arange(48), 25)
    b = np.delete(np.arange(48), 24)
    calendar = Calendar.of([(utc + offset)[a], (utc + offset)[b]], [utc[a], utc[b]])

    assert len(calendar.stamps) == 48
    assert (np.diff(calendar.stamps).astype(int) > 0).all()


@pytest.mark.parametrize(("frequency", "text"), [("h", "1 hour"), ("W-FRI", "1 week"), ("ME", "1 month")])
@pytest.mark.parametrize("stated", [None, 252.0])
def test_bars_of_different_lengths_are_refused_with_both_symbols(tmp_path, make_prices, frequency, text, stated):
    make_prices(200).to_csv(tmp_path / "days.csv", index=False)
    other = pd.date_range("2001-01-01", periods=200, freq=frequency)
    make_prices(200).assign(date=other).to_csv(tmp_path / "other.csv", index=False)
    config = MarketConfig([str(tmp_path / "days.csv"), str(tmp_path / "other.csv")], bars_per_year=stated)

    with pytest.raises(
        ValueError,
        match=rf"days \(.*\) has bars of 1 day and other \(.*\) of {text}: .*market.data",
    ):
        read_bars(config)


def test_a_year_of_the_account_has_the_rows_in_which_one_of_its_symbols_has_a_bar(tmp_path, make_prices):
    """Three years of days, of which each copy lacks another 4 %: 250 or 251 bars a year each, 261 rows together."""
    days = pd.bdate_range("2001-01-01", "2003-12-31")

    for i, name in enumerate("AB"):
        kept = days[np.arange(len(days)) % 25 != 5 + i]
        make_prices(len(kept)).assign(date=kept).to_csv(tmp_path / f"{name}.csv", index=False)

    one, two = read_bars(MarketConfig(str(tmp_path)))

    assert one.bars_per_year == two.bars_per_year == 252
    assert one.rows_per_year == two.rows_per_year == pytest.approx(261)

    (alone,) = read_bars(MarketConfig(str(tmp_path / "A.csv")))

    assert alone.rows_per_year is None

    stated = read_bars(MarketConfig(str(tmp_path), bars_per_year=260))

    assert [bars.rows_per_year for bars in stated] == [260, 260]


def test_symbols_of_different_years_are_told_the_rows_of_their_account(tmp_path, make_prices):
    for name, days in (
        ("coin", pd.date_range("2001-01-01", periods=800)),
        ("stock", pd.bdate_range("2001-01-01", periods=570)),
    ):
        make_prices(len(days)).assign(date=days).to_csv(tmp_path / f"{name}.csv", index=False)

    with pytest.raises(
        ValueError,
        match=r"stock has 261 bars per year and coin 365: .*market.bars_per_year=365",
    ):
        read_bars(MarketConfig(str(tmp_path)))
    assert {bars.rows_per_year for bars in read_bars(MarketConfig(str(tmp_path), bars_per_year=365))} == {365}


SPRING = pd.bdate_range("2020-01-27", "2020-05-08")  # the clocks of New York and Berlin change on other Sundays


SESSION = pd.DatetimeIndex(
    [day + pd.Timedelta(hours=hour, minutes=30) for day in SPRING for hour in range(9, 16)]
).tz_localize("America/New_York")


MIDNIGHTS = SPRING.tz_localize("America/New_York")


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (SESSION, SESSION.tz_convert("UTC")),
        (SESSION, SESSION.tz_convert("Europe/Berlin")),
        (SESSION.tz_convert("Asia/Kolkata"), SESSION),
        (SESSION, SESSION[210:]),  # listed after the change of clocks
        (SESSION.tz_convert("UTC"), SESSION[210:]),
        (MIDNIGHTS, MIDNIGHTS.tz_convert("UTC")),
        (MIDNIGHTS.tz_convert("Asia/Tokyo"), MIDNIGHTS),
        (MIDNIGHTS, SPRING.tz_localize("Asia/Tokyo")),  # each place's own midnight: one day
        (MIDNIGHTS, SPRING.tz_localize("UTC") + pd.Timedelta(hours=16)),
    ],
)
def test_files_of_different_zones_share_the_rows_of_the_same_bars(tmp_path, make_prices, one, two):
    for name, stamps_of in (("A", one), ("B", two)):
        made = make_prices(len(stamps_of)).assign(date=[stamp.isoformat() for stamp in stamps_of])
        made.to_csv(tmp_path / f"{name}.csv", index=False)

    a, b = read_bars(MarketConfig(str(tmp_path)))
    calendar = Calendar.of([a.dates, b.dates], [a.instants, b.instants])

    assert len(calendar.stamps) == len(one)
    np.testing.assert_array_equal(calendar.rows[0][-len(two) :], calendar.rows[1])


WEEKS = pd.date_range("2015-01-05", periods=104, freq="W-MON")  # Mondays of two years


SUNDAY_BEFORE, FRIDAY, SUNDAY_AFTER = (pd.Timedelta(days=days) for days in (-1, 4, 6))


@pytest.mark.parametrize("sunday", [SUNDAY_BEFORE, SUNDAY_AFTER])
@pytest.mark.parametrize("other", [pd.Timedelta(0), FRIDAY])
@pytest.mark.parametrize("missing", [[], [20, 41], [0], [103]])
def test_a_week_stamped_on_sunday_is_that_of_the_bars_beside_it(sunday, other, missing):
    """Platforms of currencies stamp a week's beginning, pandas its end; a third symbol lacks weeks."""
    first = stamps(WEEKS + sunday)
    second = stamps(WEEKS + other)
    third = np.delete(second, missing)
    calendar = Calendar.of([first, second, third], [first, second, third])

    assert len(calendar.stamps) == 104
    assert calendar.rows[0].tolist() == calendar.rows[1].tolist() == list(range(104))
    assert calendar.rows[2].tolist() == np.delete(np.arange(104), missing).tolist()
    assert (np.diff(calendar.stamps).astype(int) > 0).all()


def test_weeks_without_sundays_begin_on_monday():
    """The Friday's file begins a week earlier: it has 104 weeks, and the other one shares 103 of them."""
    fridays = stamps(WEEKS + FRIDAY)
    mondays = stamps(WEEKS[1:].append(WEEKS[-1:] + pd.Timedelta(days=7)))
    calendar = Calendar.of([fridays, mondays], [fridays, mondays])

    assert len(calendar.stamps) == 105
    assert calendar.rows[1].tolist() == list(range(1, 105))
