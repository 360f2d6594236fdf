"""
The clock of a file, and when its last bar closes. Days, weekdays and changes of clocks are read off a calendar:
2026-11-25 is a Wednesday; New York is 4 hours behind UTC until 2026-11-01 and 5 after it, Tokyo 9 ahead.
"""

from datetime import UTC, datetime, timedelta, timezone
from types import SimpleNamespace
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest

from market_regimes.run.clock import clock_of, zone_named
from market_regimes.run.next_bar import closing_time


def times_of(*args, **kwargs):
    return pd.date_range(*args, **kwargs).to_numpy().astype("M8[s]")


def bars_in(zone, dates=None, offsets=0):
    dates = times_of("2026-08-03", "2026-11-25", freq="B") if dates is None else dates
    instants = dates - np.array(offsets, "m8[h]")
    return SimpleNamespace(source="a.csv", zone=zone, dates=dates, instants=instants)


NOON = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("zone", "offsets", "clock", "assumed"),
    [
        ("UTC", 0, "12:00", None),
        ("America/New_York", -5, "07:00", None),
        ("Asia/Tokyo", 9, "21:00", None),
        ("+05:30", 5, "17:30", None),
        ("-05:00/-04:00", np.where(np.arange(83) < 65, -4, -5), "07:00", None),  # the last bar has -5
        ("EST", -5, "07:00", None),
        ("EDT/EST", np.where(np.arange(83) < 65, -4, -5), "07:00", None),
        ("CET", 0, "13:00", None),  # a name of a zone, whatever is known of the file's instants
        ("IST", 0, "12:00", "the bars state the time zone IST, whose offset is not known: their clock"),
        (None, 0, "12:00", "the bars state no time zone: their clock is taken for UTC"),
    ],
)
def test_the_clock_is_that_of_the_files_zone(zone, offsets, clock, assumed):
    found = clock_of(bars_in(zone, offsets=offsets), NOON)
    assert str(found.now) == f"2026-11-25T{clock}:00"
    assert str(found.instant) == "2026-11-25T12:00:00"
    assert found.assumed is None if assumed is None else found.assumed.startswith(assumed)


@pytest.mark.parametrize("zone", [ZoneInfo("Asia/Tokyo"), ZoneInfo("America/Los_Angeles"), UTC])
def test_the_zone_in_which_now_is_given_does_not_matter(zone):
    for file in (None, "UTC", "America/New_York"):
        assert clock_of(bars_in(file), NOON.astimezone(zone)) == clock_of(bars_in(file), NOON)


def test_now_without_a_zone_is_that_of_the_bars():
    found = clock_of(bars_in("America/New_York", offsets=-5), NOON.replace(tzinfo=None))
    assert (str(found.now), str(found.instant)) == ("2026-11-25T12:00:00", "2026-11-25T17:00:00")
    assert clock_of(bars_in(None), NOON.replace(tzinfo=None)).assumed is None


def test_this_moment_is_that_of_utc(monkeypatch):
    found = clock_of(bars_in("UTC"))
    assert abs(found.instant - np.datetime64(datetime.now(UTC).replace(tzinfo=None), "s")) < np.timedelta64(60, "s")


def test_a_stated_zone_is_that_of_files_that_state_none():
    found = clock_of(bars_in(None), NOON, "America/New_York")
    assert (str(found.now), found.assumed) == ("2026-11-25T07:00:00", None)
    assert str(clock_of(bars_in("IST"), NOON, "+05:30").now) == "2026-11-25T17:30:00"
    assert clock_of(bars_in("UTC"), NOON, "+00:00") == clock_of(bars_in("UTC"), NOON)
    assert clock_of(bars_in("UTC"), NOON, "UTC").assumed is None
    for file, stated in (("UTC", "Europe/London"), ("America/New_York", "-05:00"), ("+02:00", "UTC")):
        with pytest.raises(ValueError, match=r"zone=.*: a.csv states"):
            clock_of(bars_in(file, offsets=1), NOON, stated)


@pytest.mark.parametrize("name", ["Mars/Olympus", "America", "25:00", "+25:00", "", "IST", "../../etc/passwd", "noon"])
def test_what_is_no_zone_is_refused(name):
    with pytest.raises(ValueError, match="is no zone like America/New_York"):
        zone_named(name)


def test_zones_are_names_and_offsets():
    assert zone_named("-03:30").utcoffset(NOON) == timedelta(hours=-3.5)
    assert zone_named("UTC+2") == timezone(timedelta(hours=2))
    assert zone_named("Europe/Berlin").utcoffset(NOON) == timedelta(hours=1)


DAYS = times_of("2026-08-03", "2026-11-25", freq="B")
HOURS = times_of("2026-11-02", "2026-11-25 12:00", freq="h")
MINUTES = times_of("2026-11-24", "2026-11-25 12:00", freq="min")


@pytest.mark.parametrize(
    ("dates", "closing"),
    [
        (MINUTES, "2026-11-25 12:01"),
        (HOURS, "2026-11-25 13:00"),
        (times_of("2026-11-02", "2026-11-25 12:00", freq="4h"), "2026-11-25 16:00"),
        (DAYS, "2026-11-26"),  # midnight
        (times_of("2026-08-03", "2026-11-25", freq="D"), "2026-11-26"),
        (DAYS + np.timedelta64(16, "h"), "2026-11-26"),  # stamped by the session's end
        (DAYS + np.timedelta64(34_200, "s"), "2026-11-26"),  # by its beginning, 9:30
        (
            times_of("2026-08-02 22:00", "2026-11-24 22:00", freq="D"),
            "2026-11-25 22:00",
        ),  # of a day that begins at 22:00
        (times_of("2025-01-03", "2026-11-20", freq="W-FRI"), "2026-11-21"),  # a week ends on its Friday
        (times_of("2025-01-06", "2026-11-23", freq="W-MON"), "2026-11-30"),  # begins on its Monday
        (times_of("2025-01-05", "2026-11-22", freq="W-SUN"), "2026-11-29"),  # a Sunday may begin it
        (times_of("2015-01-31", "2026-10-31", freq="ME"), "2026-11-01"),
        (times_of("2015-01-01", "2026-11-01", freq="MS"), "2026-12-01"),
        (times_of("2015-01-01", "2026-11-02", freq="BMS"), "2026-12-01"),
        (times_of("2015-01-30", "2026-10-30", freq="BME"), "2026-11-01"),
        (times_of("2015-01-15", "2026-11-01", freq="MS") + np.timedelta64(14, "D"), "2026-12-15"),
        (times_of("2005-01-01", "2026-10-01", freq="QS"), "2027-01-01"),
        (times_of("2005-03-31", "2026-09-30", freq="QE"), "2026-10-01"),
        (times_of("1960-01-01", "2026-01-01", freq="YS"), "2027-01-01"),
        (times_of("1960-12-31", "2025-12-31", freq="YE"), "2026-01-01"),
    ],
)
def test_when_the_last_bar_closes(dates, closing):
    assert closing_time(dates) == np.datetime64(closing, "s")


@pytest.mark.parametrize("name", ["Z", "z", "UTC", "gmt", "+00:00"])
def test_names_of_greenwich_are_one_zone(name):
    moment = datetime(2024, 7, 1, 12)
    assert moment.replace(tzinfo=zone_named(name)).utcoffset() == timedelta(0)
