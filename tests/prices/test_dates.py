"""Written dates against the calendar of Python's datetime, and what is refused."""

from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market_regimes.prices.dates import add_time_of_day, is_day, parse_dates, time_of_day
from market_regimes.prices.rows import Rows
from market_regimes.prices.zones import with_instants

DAYS = [
    datetime(2015, 1, 2),
    datetime(2015, 1, 13),
    datetime(2016, 2, 29),
    datetime(2020, 12, 31),
]


MOMENTS = [
    datetime(2015, 1, 2, 0, 5),
    datetime(2015, 1, 13, 9, 30, 15),
    datetime(2016, 2, 29, 12),
    datetime(2020, 12, 31, 23, 59),
]


def read(cells, date_format=None):
    cells = pd.Series(cells)

    return parse_dates(Rows("file", np.arange(1, len(cells) + 1), cells), cells, date_format)


def clock(moments):
    return np.array(moments, dtype="M8[s]")


DAY_FORMS = [
    "%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d", "%Y%m%d", "%d/%m/%Y", "%d-%m-%Y", "%d.%m.%Y", "%m/%d/%Y",
    "%m-%d-%Y", "%d %b %Y",
    "%d-%b-%Y", "%b %d, %Y", "%b. %d, %Y", "%B %d, %Y", "%a, %d %b %Y", "%A, %B %d, %Y", "%d%b%Y", "%Y-%b-%d",
    "%b-%d-%Y",
]  # fmt: skip


TIME_FORMS = ["%H:%M:%S", "%H:%M:%S.%f", "%I:%M:%S %p", "%I:%M:%S%p", "%H:%M:%S,000"]


@pytest.mark.parametrize("form", DAY_FORMS)
def test_days_in_every_form(form):
    times = read([day.strftime(form) for day in DAYS])

    assert np.array_equal(times.clock, clock(DAYS))
    assert np.array_equal(times.instant, times.clock)
    assert times.zone is None

    for separator in (" ", "T", ", "):
        for time_form in TIME_FORMS:
            times = read([moment.strftime(form + separator + time_form) for moment in MOMENTS])

            assert np.array_equal(times.clock, clock(MOMENTS)), (separator, time_form)

            zoned = read([moment.strftime(form + separator + time_form + " -05:30") for moment in MOMENTS])

            assert np.array_equal(zoned.clock, clock(MOMENTS))
            assert np.array_equal(zoned.instant, clock(MOMENTS) + np.timedelta64(330, "m"))
            assert zoned.zone == "-05:30"


@pytest.mark.parametrize(
    "form",
    [
        "%Y%m%dT%H%M%S",
        "%Y%m%d %H%M%S",
        "%Y%m%d%H%M%S",
        "%Y-%m-%dT%H%M%S",
        "%Y%m%d%H%M%S000",
    ],
)
def test_times_without_colons(form):
    assert np.array_equal(read([moment.strftime(form) for moment in MOMENTS]).clock, clock(MOMENTS))


def test_midnights_may_lack_their_time_and_months_their_day():
    times = read(["2015-01-02", "2015-01-02 09:30", "2015-01-03T10", "2015-02"])

    assert times.clock.astype(str).tolist() == [
        "2015-01-02T00:00:00",
        "2015-01-02T09:30:00",
        "2015-01-03T10:00:00",
        "2015-02-01T00:00:00",
    ]


@pytest.mark.parametrize(
    ("unit", "power"),
    [("seconds", 0), ("milliseconds", 3), ("microseconds", 6), ("nanoseconds", 9)],
)
@pytest.mark.parametrize(
    "first",
    [datetime(1970, 3, 1), datetime(1985, 1, 1), datetime(2024, 12, 30, 23, 59, 59)],
)
def test_epochs(unit, power, first):
    moments = [first + timedelta(days=30 * i) for i in range(200)]
    seconds = [int((moment - datetime(1970, 1, 1)).total_seconds()) for moment in moments]

    for cells in ([s * 10**power for s in seconds], [str(s * 10**power) for s in seconds]):
        times = read(cells)

        assert np.array_equal(times.clock, clock(moments))
        assert times.zone == "UTC"
        assert times.notes.assumptions == (f"dates are epoch {unit} in UTC",)

    assert np.array_equal(read([float(s) for s in seconds]).clock, clock(moments))


def test_an_epoch_before_1970_and_a_change_of_unit():
    moments = [datetime(1950, 1, 3) + timedelta(days=365 * i) for i in range(50)]

    assert np.array_equal(
        read([int((m - datetime(1970, 1, 1)).total_seconds()) for m in moments]).clock,
        clock(moments),
    )

    moments = [datetime(2024, 12, 30) + timedelta(days=i) for i in range(4)]
    numbers = [int((m - datetime(1970, 1, 1)).total_seconds()) * (10**3 if m.year < 2025 else 10**6) for m in moments]

    assert np.array_equal(read(numbers).clock, clock(moments))


def test_serial_days_are_those_of_a_spreadsheet():
    # 2015-01-02 is day 42006 of a spreadsheet, whose day 25569 is 1970-01-01; a quarter of a day is six hours
    assert read([42006, 42006.25, 42007]).clock.astype(str).tolist() == [
        "2015-01-02T00:00:00",
        "2015-01-02T06:00:00",
        "2015-01-03T00:00:00",
    ]


ZONES = {
    "Z": 0,
    "UTC": 0,
    "GMT": 0,
    "+02": 2,
    "+0200": 2,
    "+02:00": 2,
    "-5": -5,
    "GMT-0500": -5,
    "EST": -5,
    "EDT": -4,
    "PST": -8,
}


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize(
    "form",
    ["%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S ", "%d/%m/%Y %H:%M", "%m/%d/%Y %I:%M %p "],
)
def test_zones_move_the_instant_and_not_the_clock(zone, form):
    moments = [moment.replace(second=0) for moment in MOMENTS]
    times = read([moment.strftime(form) + zone for moment in moments])

    assert np.array_equal(times.clock, clock(moments))

    shifted = [m.replace(tzinfo=timezone(timedelta(hours=ZONES[zone]))).astimezone(UTC) for m in moments]

    assert np.array_equal(times.instant, clock([m.replace(tzinfo=None) for m in shifted]))


def test_a_zone_of_unknown_offset_orders_by_the_clock():
    times = read(["2015-01-02 09:30 IST", "2015-01-03 09:30 IST"])

    assert np.array_equal(times.instant, times.clock)
    assert times.zone == "IST"

    notes = with_instants(times, "A", "file", None).notes

    assert notes.assumptions == ("bars are ordered by the clock of IST, whose offset is not stated",)


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["2015-01-02", "first of May"], r"row 2 .*first of May\): the date is not in ISO form"),
        (["2015-01-02", "2015-02-30"], "row 2 .*not in ISO form"),
        (["2015-01-02", None], "row 2 .*not in ISO form"),
        (["2015-01-02 09:30", "2015-01-02 24:30"], "row 2 .*not in ISO form"),
        (["2015-01-02 13:30 PM", "2015-01-02 09:30 PM"], "row 1 .*not in ISO form"),
        (["2015-01-02", "2015-01-03", "03.01.2015"], "row 3 .*not in ISO form, .* nor in that of the other rows"),
        (["13/01/2015", "14/01/2015", "15.01.2015"], "row 3 .*not in ISO form"),
        (["2015-01-02 00:00", "2015-01-03 00:00Z"], "row 1 .*has no time zone, and others have one"),
        ([200501, 200502], "row 1 .*number of an unknown kind"),
        ([1, 2], "row 1 .*number of an unknown kind"),
        (["01/02/2015", "02/02/2015"], "01/02/2015 may have the day or the month first"),
        (["13/02/2015", "02/13/2015"], "13/02/2015 has the day first and 02/13/2015 the month"),
        (["2-Jan-15"], "not in ISO form"),
        (["2/13/15"], "year of two digits, as in 2/13/15"),
    ],
)  # fmt: skip
def test_what_is_no_date_is_refused(cells, expected):
    with pytest.raises(ValueError, match=expected):
        read(cells)


def test_a_stated_format_with_a_zone_moves_the_instant():
    times = read(["02 01 2015 09h30 +0900", "03 01 2015 09h30 +0900"], "%d %m %Y %Hh%M %z")

    assert times.clock.astype(str).tolist() == [
        "2015-01-02T09:30:00",
        "2015-01-03T09:30:00",
    ]
    assert times.instant.astype(str).tolist() == [
        "2015-01-02T00:30:00",
        "2015-01-03T00:30:00",
    ]


@given(
    st.lists(st.datetimes(datetime(1930, 1, 1), datetime(2090, 1, 1)), min_size=40, max_size=60),
    st.sampled_from(["%d.%m.%Y %H:%M:%S", "%m/%d/%Y %I:%M:%S %p"]),
)
@settings(max_examples=30, deadline=None)
def test_stated_formats_agree_with_strptime(moments, form):
    moments = [moment.replace(microsecond=0) for moment in moments]
    texts = [moment.strftime(form) for moment in moments]

    assert np.array_equal(read(texts, form).clock, clock([datetime.strptime(text, form) for text in texts]))
    assert np.array_equal(read(texts, "day_first" if form[1] == "d" else "month_first").clock, clock(moments))
    with pytest.raises(ValueError, match=r"row 1 .*the date does not fit market\.date_format, %Y-%m-%d"):
        read(texts, "%Y-%m-%d")


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["09:30", "16:00"], [34200, 57600]),
        (["9:30:00", "16:00:59.5"], [34200, 57659]),
        (["09:30 AM", "12:00 AM"], [34200, 0]),
        (["093000", "160059"], [34200, 57659]),
        ([93000, 160059], [34200, 57659]),
        ([930, 1600, 5], [34200, 57600, 300]),
        ([0, 0], [0, 0]),
        (["000000", "000000"], [0, 0]),
        (["25:00", "10:60"], [np.nan, np.nan]),
        ([9, 10], [np.nan, np.nan]),
    ],
)  # fmt: skip
def test_times_of_the_day(cells, expected):
    seconds, zones = time_of_day(pd.Series(cells))

    np.testing.assert_array_equal(seconds, expected)
    assert set(zones) == {""}


def test_a_zone_beside_the_time_moves_the_instant():
    days = pd.Series(["2015-01-02", "2015-01-03"])
    rows = Rows("file", np.array([1, 2]), days)
    times = add_time_of_day(rows, parse_dates(rows, days), pd.Series(["09:30+09:00", "09:30+09:00"]))

    assert times.clock.astype(str).tolist() == [
        "2015-01-02T09:30:00",
        "2015-01-03T09:30:00",
    ]
    assert times.instant.astype(str).tolist() == [
        "2015-01-02T00:30:00",
        "2015-01-03T00:30:00",
    ]
    assert times.zone == "+09:00"


def test_a_time_that_stands_twice_is_not_added_twice():
    dates = pd.Series(["2015-01-02 09:30", "2015-01-03 10:30"])
    rows = Rows("file", np.array([1, 2]), dates)
    both = add_time_of_day(rows, parse_dates(rows, dates), pd.Series(["09:30", "10:30"]))

    assert both.clock.astype(str).tolist() == ["2015-01-02T09:30:00", "2015-01-03T10:30:00"]
    with pytest.raises(
        ValueError,
        match=r"row 2 .*the date has a time of its own, and another column has another",
    ):
        add_time_of_day(rows, parse_dates(rows, dates), pd.Series(["09:30", "11:30"]))


@pytest.mark.parametrize(
    "text",
    [
        "2015-01-02",
        "20150102",
        "2.1.2015",
        "Jan 2, 2015",
        "2015-01-02 09:30+01:00",
        "1420156800",
        "20150102 000000",
    ],
)
def test_cells_that_are_days(text):
    assert is_day(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Date",
        "SPY",
        "1.5",
        "100",
        "1.2.3.4",
        "12/31",
        "May",
        "$1.50",
        "1,234.50",
        "10 015,59",
    ],
)
def test_cells_that_are_none(text):
    assert not is_day(text)
