"""Rows between the times at which bars are stamped; the calendars are written out here."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
from exports import make_bars, stamps, write_to

from market_regimes.config import MarketConfig
from market_regimes.market.data import read_bars
from market_regimes.prices import ReadOptions, read_frame, read_prices
from market_regimes.prices.grid import off_grid

DAYS = pd.bdate_range("2019-07-01", "2020-05-04")  # ends on a Monday


HOURS = [9.5, 10.5, 11.5, 12.5, 13.5, 14.5, 15.5]


def at(days, *hours):
    """The days with bars at these hours."""
    return [day + pd.Timedelta(hours=hour) for day in days for hour in hours]


def in_utc(times, zone):
    return list(pd.DatetimeIndex(times).tz_localize(zone).tz_convert("UTC").tz_localize(None))


def last_days(frequency, first, last, holidays):
    """The last working day of every period, a day earlier where that is a holiday."""
    ends = pd.date_range(first, last, freq=frequency)

    return [end - pd.offsets.BDay(1) if str(end.date()) in holidays else end for end in ends]


GOOD_FRIDAYS = (
    "2018-03-30",
    "2019-04-19",
    "2020-04-10",
    "2016-03-25",
    "2015-04-03",
    "2021-04-02",
)


WEEKS = pd.date_range("2018-01-05", "2020-04-24", freq="W-FRI")


MONDAYS = pd.date_range("2018-01-01", "2020-04-27", freq="W-MON")


MONTHS = pd.date_range("2012-01-01", "2020-05-01", freq="MS")


MINUTES = pd.date_range("2020-01-01", periods=600, freq="min")


WAITS = np.random.default_rng(0).integers(5, 900, 500)


TO_THE_SECOND = pd.date_range("2020-01-01", periods=600, freq="h") - pd.Timedelta(seconds=1)


ONES = [  # off the grid: regular stamps, those to add, and how many are off
    ("daily, a time", list(DAYS), ["2020-05-05 15:42:10"], 1),
    ("daily, a time on the last day", list(DAYS), ["2020-05-04 15:42:10"], 1),
    ("daily, a round time", list(DAYS), ["2020-05-05 15:30"], 1),
    ("daily, two times", list(DAYS), ["2020-05-05 15:42:10", "2020-05-06 15:43:01"], 2),
    (
        "daily, the same time twice",
        list(DAYS),
        ["2020-05-05 15:42:10", "2020-05-06 15:42:10"],
        2,
    ),
    ("hourly to the last second, a time", list(TO_THE_SECOND), ["2020-01-20 11:42:10"], 1),
    ("daily, in the middle", list(DAYS), ["2020-02-05 15:42:10"], 1),
    ("daily at the close, a time", at(DAYS, 16), ["2020-05-05 15:42:10"], 1),
    ("daily at the close, after it", at(DAYS, 16), ["2020-05-05 17:05"], 1),
    ("daily, the weekend", list(DAYS[:-1]), ["2020-05-02"], 1),
    ("daily in UTC, a time", in_utc(DAYS, "America/New_York"), ["2020-05-05 15:42:10"], 1),
    ("hourly, a time", at(DAYS, *HOURS), ["2020-05-05 15:42:10"], 1),
    ("hourly, a minute", at(DAYS, *HOURS), ["2020-05-05 09:42"], 1),
    ("hourly, in the middle", at(DAYS, *HOURS), ["2020-02-05 11:42:10"], 1),
    ("hourly from full hours, the half", at(DAYS, *range(8, 17)), ["2020-05-05 08:30"], 1),
    (
        "five minutes, a second",
        at(DAYS[-5:], *np.arange(9.5, 16, 1 / 12)),
        ["2020-05-05 09:32:10"],
        1,
    ),
    (
        "five minutes, a minute",
        at(DAYS[-5:], *np.arange(9.5, 16, 1 / 12)),
        ["2020-05-05 09:32"],
        1,
    ),
    (
        "minutes, a second",
        list(pd.date_range("2020-05-04", periods=600, freq="min")),
        ["2020-05-04 10:00:10"],
        1,
    ),
    (
        "four hours round the clock",
        list(pd.date_range("2020-01-01", periods=600, freq="4h")),
        ["2020-04-10 02:30"],
        1,
    ),
    ("weekly, the week so far", list(MONDAYS), ["2020-04-29"], 1),
    ("weekly, the week so far, on Friday", list(MONDAYS), ["2020-05-01"], 1),
    ("weekly on Friday, the week so far", list(WEEKS), ["2020-04-29"], 1),
    ("weekly, a time", list(WEEKS), ["2020-05-01 15:42:10"], 1),
    ("monthly, the month so far", list(MONTHS), ["2020-05-14"], 1),
    ("monthly, the second day", list(MONTHS), ["2020-05-02"], 1),
    (
        "monthly at the end, the month so far",
        list(MONTHS - pd.Timedelta(days=1)),
        ["2020-05-14"],
        1,
    ),
    (
        "monthly on working days, the month so far",
        last_days("BME", "2012-01-01", "2020-04-30", ()),
        ["2020-05-22"],
        1,
    ),
    ("monthly, a time", list(MONTHS), ["2020-06-01 15:42:10"], 1),
    (
        "quarterly, the quarter so far",
        list(pd.date_range("1990-01-01", "2020-04-01", freq="QE")),
        ["2020-05-14"],
        1,
    ),
    (
        "quarterly, an end of a month",
        list(pd.date_range("1990-01-01", "2020-04-01", freq="QE")),
        ["2020-05-31"],
        1,
    ),
    (
        "yearly, the year so far",
        list(pd.date_range("1930-01-01", "2020-01-01", freq="YE")),
        ["2020-05-14"],
        1,
    ),
]


@pytest.mark.parametrize(
    ("regular", "added", "count"),
    [case[1:] for case in ONES],
    ids=[case[0] for case in ONES],
)
def test_a_row_between_the_bars_is_found(regular, added, count):
    dates = np.sort(np.concatenate([stamps(regular), stamps(added)]))
    bad, _ = off_grid(dates)

    assert set(dates[bad]) == set(stamps(added))
    assert bad.sum() == count
    assert not off_grid(stamps(regular))[0].any()


HALF_DAYS = [pd.Timestamp(day) for day in ("2019-07-03", "2019-11-29", "2019-12-24")]


REGULAR = {
    "daily": list(DAYS),
    "every day": list(pd.date_range("2020-01-01", periods=200)),
    "daily with holidays": [day for day in DAYS if day.day not in (1, 13, 25)],
    "a Saturday session": sorted([*DAYS, pd.Timestamp("2020-02-01")]),
    "a second Saturday session at the end": sorted([*DAYS[:-1], *pd.to_datetime(["2020-02-01", "2020-05-02"])]),
    "daily and Sundays": sorted([*DAYS, *pd.date_range("2019-07-07", "2020-05-03", freq="W-SUN")]),
    "New York's midnight in UTC": in_utc(DAYS, "America/New_York"),
    "the same, just after the change": in_utc(pd.bdate_range("2019-11-20", "2020-03-10"), "America/New_York"),
    "London's midnight in UTC": in_utc(pd.date_range("2019-07-01", "2020-03-30"), "Europe/London"),
    "Tokyo's midnight in UTC": in_utc(DAYS, "Asia/Tokyo"),
    "daily at the close, half days": [
        day + pd.Timedelta(hours=13 if day in HALF_DAYS else 16) for day in pd.bdate_range("2019-07-01", "2020-05-04")
    ],
    "daily at the close, ends on a half day": [
        day + pd.Timedelta(hours=13 if day in HALF_DAYS else 16) for day in pd.bdate_range("2019-07-01", "2019-12-24")
    ],
    "hourly": at(DAYS, *HOURS),
    "hourly, half days": at([d for d in DAYS if d not in HALF_DAYS], *HOURS) + at(HALF_DAYS, *HOURS[:4]),
    "hourly, Yahoo's row of the close": [*at(DAYS, *HOURS), pd.Timestamp("2020-05-04 16:00")],
    "hourly in India, to half past three": at(DAYS, *np.arange(9.25, 15.5)),
    "hourly in India, Yahoo's row of the close": [*at(DAYS, *np.arange(9.25, 15.5)), pd.Timestamp("2020-05-04 15:30")],
    "hourly in Tokyo, with a lunch break": at(DAYS, 9, 10, 11, 12.5, 13.5, 14.5),
    "hourly in Hong Kong": at(DAYS, 9.5, 10.5, 11.5, 13, 14, 15),
    "hourly with an auction": at(DAYS, *range(8, 17), 16 + 35 / 60),
    "hourly in UTC over a change of clocks": in_utc(at(DAYS, *HOURS), "America/New_York"),
    "hourly to the last second": list(TO_THE_SECOND),
    "hourly with an auction on four days": at(DAYS, *HOURS) + at(DAYS[::60], 16 + 35 / 60),
    "half an hour": at(DAYS[-60:], *np.arange(9.25, 15.5, 0.5)),
    "two bars a day": at(DAYS, 9.5, 13.5),
    "two bars a day in UTC, four after the change": in_utc(
        at(pd.bdate_range("2019-11-20", "2020-03-10"), 9.5, 13.5), "America/New_York"
    ),
    "the same, one day after the change": in_utc(
        at(pd.bdate_range("2019-11-20", "2020-03-09"), 9.5, 13.5), "America/New_York"
    ),
    "four hours, klines": list(pd.date_range("2020-01-01", periods=600, freq="4h")),
    "an exchange's minutes, some missing": list(MINUTES[np.arange(600) % 7 > 0]),
    "irregular": list(pd.Timestamp("2020-01-01") + WAITS.cumsum().astype("m8[s]")),
    "weekly": list(WEEKS),
    "weekly, Good Fridays on Thursday": last_days("W-FRI", "2015-01-01", "2020-04-24", GOOD_FRIDAYS),
    "weekly, Mondays": list(MONDAYS),
    "weekly, first working days": [day + pd.Timedelta(days=int(day.day == 1)) for day in MONDAYS],
    "weekly in London, in UTC": in_utc(MONDAYS, "Europe/London"),
    "monthly": list(MONTHS),
    "monthly, ends": list(MONTHS - pd.Timedelta(days=1)),
    "monthly, ends, a holiday at last": [*(MONTHS[:-1] - pd.Timedelta(days=1)), pd.Timestamp("2020-04-29")],
    "monthly, last working days": last_days("BME", "2012-01-01", "2020-04-30", GOOD_FRIDAYS),
    "monthly, first working days": list(pd.date_range("2012-01-01", "2020-05-01", freq="BMS")),
    "monthly, the fifteenth": list(MONTHS + pd.Timedelta(days=14)),
    "monthly in Chinese trading days": [
        *pd.date_range("2014-01-01", "2019-12-31", freq="BME"),
        pd.Timestamp("2020-01-23"),
        pd.Timestamp("2020-02-28"),
    ],
    "quarterly": list(pd.date_range("1990-01-01", "2020-04-01", freq="QE")),
    "quarterly, starts": list(pd.date_range("1990-01-01", "2020-04-01", freq="QS")),
    "yearly": list(pd.date_range("1930-01-01", "2020-01-01", freq="YE")),
}  # fmt: skip


@pytest.mark.parametrize("kind", REGULAR)
def test_no_row_of_a_calendar_is_off_its_grid(kind):
    dates = np.sort(stamps(REGULAR[kind]))

    assert dates[off_grid(dates)[0]].tolist() == []


@pytest.fixture
def table(make_prices):
    """Daily bars whose last row is a snapshot."""
    times = pd.DatetimeIndex([*DAYS, pd.Timestamp("2020-05-05 15:42:10")], name="Date")

    return make_bars(make_prices, len(times)).set_index(times)


@pytest.mark.parametrize("newest_first", [False, True])
def test_it_is_refused_with_the_option_that_decides(table, tmp_path, newest_first):
    rows = table[::-1] if newest_first else table
    path = partial(write_to, tmp_path)(rows.to_csv())
    number = 1 if newest_first else len(table)

    with pytest.raises(ValueError, match="between them") as refusal:
        read_prices([path])
    assert str(refusal.value) == (
        f"{path}, row {number} after the header (date 2020-05-05 15:42:10): prices has bars of 1 day, stamped "
        "at 00:00, and this row lies between them: market.off_grid=drop leaves it out, "
        "market.off_grid=keep takes it for a bar"
    )

    (dropped,) = read_prices([path], ReadOptions(off_grid="drop"))
    (kept,) = read_bars(MarketConfig(path, off_grid="keep"))

    assert np.array_equal(dropped.close, table["Close"][:-1])
    assert np.array_equal(kept.close, table["Close"])

    note = "1 row(s) between bars of 1 day, stamped at 00:00, the first 2020-05-05 15:42:10: market.off_grid says so"

    assert f"dropped {note}" in dropped.notes.assumptions
    assert f"kept {note}" in kept.notes.assumptions


def test_a_frame_is_refused_alike(table):
    with pytest.raises(ValueError, match=r"row 222 .*market\.off_grid=drop"):
        read_frame(table, "A")

    (bars,) = read_frame(table, "A", ReadOptions(off_grid="drop"))

    assert len(bars.dates) == len(table) - 1


def test_each_symbol_has_a_grid_of_its_own(table, make_prices, tmp_path):
    other = make_bars(make_prices, len(DAYS), seed=1).set_index(DAYS.rename("Date") + pd.Timedelta(hours=16))
    long = pd.concat([table[:-1].assign(symbol="A"), other.assign(symbol="B")])
    first, second = read_prices([write_to(tmp_path, long.to_csv())])

    assert len(first.dates) == len(second.dates) == len(DAYS)


def days_at(time, first="2019-01-01", count=100):
    return pd.date_range(first, periods=count).to_series(index=range(count)) + pd.Timedelta(f"{time}:00")


def positions_off_grid(stamps):
    times = np.sort(np.array(pd.DatetimeIndex(list(stamps)), dtype="M8[s]"))

    return np.flatnonzero(off_grid(times)[0]).tolist()


@pytest.mark.parametrize(("odd", "expected"), [(5, [0, 1, 2, 3, 4]), (9, list(range(9))), (15, [])])
def test_rows_without_regular_times_have_no_grid(odd, expected):
    """A tenth of a hundred rows may lie elsewhere; with more of them there is no grid."""
    stamps = days_at("00:00")
    stamps[:odd] = [stamp + pd.Timedelta(minutes=92 * (row + 1)) for row, stamp in stamps[:odd].items()]

    assert positions_off_grid(stamps) == expected


@pytest.mark.parametrize(
    ("time", "is_off"),
    [
        ("13:00", False),
        ("12:30", False),
        ("15:42", True),
        ("13:01", True),
        ("05:00", True),
        ("07:55", True),
    ],
)
@pytest.mark.parametrize("row", [50, 99])
def test_a_half_day_ends_at_round_minutes_after_the_morning(time, is_off, row):
    stamps = days_at("16:00")
    stamps[row] = stamps[row].normalize() + pd.Timedelta(f"{time}:00")

    assert positions_off_grid(stamps) == ([row] if is_off else [])


def test_a_row_three_days_after_a_weeks_bar_is_off():
    weeks = pd.date_range("2019-01-04", periods=80, freq="W-FRI")

    assert positions_off_grid([*weeks, weeks[40] + pd.Timedelta(days=3)]) == [41]
    assert positions_off_grid([*weeks[:40], weeks[40] - pd.Timedelta(days=1), *weeks[41:]]) == []  # a Good Friday


def test_a_row_in_the_middle_of_a_month_is_off():
    """15 days after one bar, and 16 before the next one, which comes too soon as well."""
    months = pd.date_range("2010-01-01", periods=80, freq="MS")

    assert positions_off_grid([*months, months[42] + pd.Timedelta(days=15)]) == [43, 44]


@pytest.mark.parametrize(("day", "expected"), [(1, []), (2, []), (3, [79]), (4, [79])])
def test_a_last_bar_may_be_stamped_a_day_farther_into_its_month_than_any_before(day, expected):
    months = pd.date_range("2010-01-01", periods=79, freq="MS")

    assert positions_off_grid([*months, pd.Timestamp(2016, 8, day)]) == expected


@pytest.mark.parametrize(("minutes", "is_off"), [(30, False), (5, True), (10, True), (20, True)])
def test_a_last_bar_of_a_session_lies_at_its_half_hour(minutes, is_off):
    """Sessions from 9:30 to 16:00: half an hour divides hours and stamps; 16:05 to 16:20 are snapshots."""
    times = [*at(DAYS, *HOURS), DAYS[-1] + pd.Timedelta(hours=15, minutes=30 + minutes)]

    assert positions_off_grid(times) == ([len(times) - 1] if is_off else [])


def test_summer_time_moves_bars_of_four_hours_and_leaves_those_of_one():
    """Of bars of four hours the last one may come an hour later; shorter bars may not."""
    four = pd.date_range("2020-01-01", periods=120, freq="4h")
    moved = [*four[:-1], four[-1] + pd.Timedelta(hours=1)]

    assert positions_off_grid(moved) == []
    assert positions_off_grid([*four[:-1], four[-1] + pd.Timedelta(minutes=90)]) == [119]

    half = pd.date_range("2020-01-01", periods=120, freq="30min")

    assert positions_off_grid([*half[:-1], half[-1] + pd.Timedelta(minutes=10)]) == [119]

    odd = pd.date_range("2020-01-01", periods=120, freq="45min")

    assert positions_off_grid([*odd[:-1], odd[-1] + pd.Timedelta(minutes=15)]) == [119]
