"""Instants of bars under written, named and stated zones; the oracle is Python's zoneinfo."""

from datetime import UTC, datetime
from functools import partial
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
from exports import csv_of, equals, make_bars, texts

from market_regimes.compare.folds import folds_of
from market_regimes.config import CompareConfig, MarketConfig, TuneConfig
from market_regimes.market.data import read_bars
from market_regimes.market.segments import read_data
from market_regimes.prices import ReadOptions, read_prices
from market_regimes.tune.folds import folds_before_test

ZONES = {
    "short offset": ("%Y-%m-%d 00:00:00+02", "+02:00"),
    "basic form": ("%Y%m%dT000000+0200", "+02:00"),
    "hours only": ("%Y-%m-%dT00+02:00", "+02:00"),
    "extended": ("%Y-%m-%d 00:00:00+09:00", "+09:00"),
    "half hours": ("%Y-%m-%dT00:00:00+05:30", "+05:30"),
    "west": ("%Y-%m-%d 00:00:00.000-05:00", "-05:00"),
    "Z": ("%Y-%m-%dT00:00:00Z", "UTC"),
    "UTC": ("%Y-%m-%d 00:00:00 UTC", "UTC"),
    "name": ("%Y-%m-%d 00:00 Europe/Berlin", "Europe/Berlin"),
    "abbreviation": ("%Y-%m-%d 00:00 CET", "CET"),
    "java": ("%Y-%m-%dT00:00+01:00[Europe/Berlin]", "+01:00"),
    "date with offset": ("%Y-%m-%d+02:00", "+02:00"),
    "GMT and offset": ("%d/%m/%Y 00:00:00 GMT+0900", "+09:00"),
}


@pytest.mark.parametrize("kind", ZONES)
def test_an_exchanges_day_stays_its_day(daily, write, kind):
    text, zone = ZONES[kind]
    (bars,) = read_prices([write(csv_of(texts(daily, text)))])

    assert equals(bars, daily)
    assert bars.zone == zone


def test_a_parquet_file_keeps_its_clock(daily, tmp_path):
    daily.tz_localize("Asia/Tokyo").to_parquet(tmp_path / "zoned.parquet")
    (bars,) = read_prices([str(tmp_path / "zoned.parquet")])

    assert equals(bars, daily)
    assert bars.zone == "Asia/Tokyo"


def test_offsets_that_change_keep_the_clock(make_prices, write):
    """New York's sessions of 2000 around 2 April, when -05:00 becomes -04:00."""
    days = pd.bdate_range("2000-03-20", "2000-04-14", tz="America/New_York")
    times = [day + pd.Timedelta(hours=10 + hour) for day in days for hour in range(5)]
    table = make_bars(make_prices, len(times)).set_index(pd.DatetimeIndex(times, name="Datetime"))
    (bars,) = read_prices([write(table.to_csv())])

    assert sorted({str(time)[11:16] for time in bars.dates}) == [
        "10:00",
        "11:00",
        "12:00",
        "13:00",
        "14:00",
    ]
    assert bars.zone == "-05:00/-04:00"
    assert bars.notes.assumptions == ()


NEW_YORK = "America/New_York"


@pytest.fixture
def session(make_prices):
    """A function that gives six weeks of hourly bars around a change of clocks, 10:00 to 14:00 in New York."""

    def session(seed=0, first="2000-03-13", last="2000-04-21"):
        times = [day + pd.Timedelta(hours=10 + hour) for day in pd.bdate_range(first, last) for hour in range(5)]
        table = make_bars(make_prices, len(times), seed)

        return table.set_index(pd.DatetimeIndex(times, name="Date"))

    return session


def instants(table, zone):
    """Each stamp of a table as UTC, one by one."""
    found = [stamp.to_pydatetime().replace(tzinfo=ZoneInfo(zone)).astimezone(UTC) for stamp in table.index]

    return np.array([moment.replace(tzinfo=None) for moment in found], dtype="M8[s]")


def test_a_name_in_the_cells_gives_instants(session, write):
    table = session()
    (bars,) = read_prices([write(csv_of(texts(table, f"%Y-%m-%d %H:%M {NEW_YORK}")))])

    assert equals(bars, table)
    assert np.array_equal(bars.instants, instants(table, NEW_YORK))
    assert (bars.instants[-1] - bars.instants[0]) % np.timedelta64(1, "D") == np.timedelta64(3, "h")  # 4 h less 1
    assert (bars.zone, bars.has_instants, bars.notes.assumptions) == (NEW_YORK, True, ())


@pytest.mark.parametrize("zone", [NEW_YORK, "Asia/Tokyo", "-05:00", "+05:30", "EST", "UTC"])
@pytest.mark.parametrize("by", ["all", "file", "stem", "symbol"])
def test_a_stated_zone_gives_instants_and_leaves_the_clock(session, write, zone, by):
    table = session()
    path = write(csv_of(texts(table, "%Y-%m-%d %H:%M").assign(symbol="SPY")))
    key = {"file": "prices.csv", "stem": "prices", "symbol": "SPY"}.get(by)
    (bars,) = read_bars(MarketConfig(path, zone=zone if key is None else {key: zone}))

    assert equals(bars, table)

    shift = {"-05:00": 5.0, "+05:30": -5.5, "EST": 5.0}.get(zone)
    expected = instants(table, zone) if shift is None else table.index.to_numpy() + np.timedelta64(int(shift * 60), "m")

    assert np.array_equal(bars.instants, expected.astype("M8[s]"))
    assert bars.zone == zone
    assert f"in the zone {zone}: market.zone says so" in bars.notes.assumptions


def test_the_hour_that_a_stated_zones_clock_shows_twice_is_ordered(make_prices, write):
    """Berlin's 2:00 to 3:00 of 29 October 2000 comes at +02:00 and again at +01:00."""
    half_hours = pd.date_range("2000-10-27", periods=240, freq="30min", tz="UTC")
    clock = half_hours.tz_convert("Europe/Berlin").tz_localize(None)
    table = make_bars(make_prices, 240).set_index(clock.rename("Date"))

    for rows in (table, table[::-1]):
        path = write(rows.to_csv())

        with pytest.raises(
            ValueError,
            match=r"the bar before at the same date; where a clock went back, market\.zone",
        ):
            read_prices([path])

        (bars,) = read_prices([path], ReadOptions(zone="Europe/Berlin"))

        assert np.array_equal(bars.dates, half_hours.tz_localize(None).to_numpy().astype("M8[s]"))
        assert np.array_equal(bars.close, table["Close"])


def test_a_midnight_that_summer_time_skips_is_the_first_hour_of_its_day(make_prices, write):
    """In Brazil clocks went from 23:59 to 1:00 on 2017-10-15 and 2018-11-04."""
    table = make_bars(make_prices, 600, frequency="D", start="2017-06-01")
    (bars,) = read_prices([write(table.to_csv())], ReadOptions(zone="America/Sao_Paulo"))

    assert equals(bars, table)

    position = int(np.flatnonzero(bars.dates == np.datetime64("2018-11-04"))[0])

    assert str(bars.instants[position]) == "2018-11-04T03:00:00"  # 1:00 at -02:00
    assert (np.diff(bars.instants) > np.timedelta64(0, "s")).all()


def test_symbols_of_one_table_may_have_zones_of_their_own(session, write):
    table = session()
    rows = [texts(table, f"%Y-%m-%d %H:%M {zone}").assign(symbol=zone) for zone in (NEW_YORK, "Europe/Berlin")]
    first, second = read_prices([write(csv_of(pd.concat(rows)))])

    assert (first.zone, second.zone) == (NEW_YORK, "Europe/Berlin")
    assert np.array_equal(first.instants, instants(table, NEW_YORK))
    assert np.array_equal(second.instants, instants(table, "Europe/Berlin"))

    rows = [texts(table, f"%Y-%m-%d %H:%M{zone}").assign(symbol=zone) for zone in ("-05:00", "+01:00")]
    first, second = read_prices([write(csv_of(pd.concat(rows)))])

    assert (first.zone, second.zone) == ("-05:00", "+01:00")


def test_the_same_instants_in_two_zones_are_the_same_instants(session, write):
    table = session().tz_localize(NEW_YORK)
    late = table[table.index >= "2000-04-10"]  # listed after the change of clocks
    a = write(table.to_csv(), "a.csv")
    b = write(table.tz_convert("Europe/Berlin").to_csv(), "b.csv")
    c = write(
        pd.concat([late, late.set_index(late.index + pd.Timedelta(days=14))]).to_csv(),
        "c.csv",
    )
    first, second, third = read_prices([a, b, c])

    assert np.array_equal(first.instants, second.instants)
    assert set(late.index.tz_convert("UTC").tz_localize(None).to_numpy().astype("M8[s]")) <= set(third.instants)
    assert (first.zone, second.zone, third.zone) == (
        "-05:00/-04:00",
        "+01:00/+02:00",
        "-04:00",
    )


def test_a_zone_beside_none_is_refused_with_the_option_for_bars_within_days(session, daily, write):
    zoned = write(session().tz_localize(NEW_YORK).to_csv(), "zoned.csv")
    plain = write(session(seed=1).to_csv(), "plain.csv")

    with pytest.raises(ValueError, match=r"plain\.csv states no time zone for plain, .*market\.zone"):
        read_bars(MarketConfig([zoned, plain]))

    first, second = read_bars(MarketConfig([zoned, plain], zone=NEW_YORK))

    assert np.array_equal(first.instants, second.instants)

    unknown = write(csv_of(texts(session(), "%Y-%m-%d %H:%M IST")), "india.csv")

    with pytest.raises(ValueError, match=r"india\.csv states IST, whose offset is unknown, .*market\.zone"):
        read_bars(MarketConfig([zoned, unknown]))
    with pytest.raises(ValueError, match=r"zones none and IST, whose offsets are unknown.*market\.zone"):
        read_bars(MarketConfig([plain, unknown]))

    first, second = read_bars(MarketConfig([zoned, unknown], zone={"india": "Asia/Kolkata"}))

    assert (first.zone, second.zone) == ("-05:00/-04:00", "Asia/Kolkata")

    # Days meet by their dates, whatever the zone.
    days = [
        write(daily.tz_localize("Asia/Tokyo").to_csv(), "tokyo.csv"),
        write(daily.to_csv(), "days.csv"),
    ]

    assert len(read_bars(MarketConfig(days))) == 2


def test_files_without_zones_meet_by_their_clocks_and_that_is_said(session, write):
    paths = [write(session(seed=seed).to_csv(), f"{seed}.csv") for seed in (0, 1)]
    note = "no zone is stated: bars of several files meet by their clocks; market.zone states it"

    for bars in read_bars(MarketConfig(paths)):
        assert note in bars.notes.assumptions

    for config in (MarketConfig(paths, zone="UTC"), MarketConfig(paths[0])):
        assert all(note not in bars.notes.assumptions for bars in read_bars(config))


MIXED = {
    "every other row": (
        ["-05:00", "+00:00"] * 65,
        r"row 2 .*changes from -05:00 to \+00:00, as no summer time does",
    ),
    "every other row, an hour": (
        ["+01:00", "+02:00"] * 65,
        r"row 2 .*changes from \+01:00 to \+02:00",
    ),
    "two exports, one below the other": (
        ["-05:00"] * 60 + ["+00:00"] * 70,
        r"row 61 .*changes from -05:00 to \+00:00",
    ),
    "one row": (
        ["-05:00"] * 60 + ["+09:00"] + ["-05:00"] * 69,
        r"row 61 .*changes from -05:00 to \+09:00",
    ),
    "abbreviations": ([" EST", " UTC"] * 65, "row 2 .*changes from EST to UTC"),
    "names": (
        [" America/New_York", " Asia/Tokyo"] * 65,
        "row 2 .*changes from America/New_York to Asia/Tokyo",
    ),
    "unknown ones": ([" IST", " BST"] * 65, "row 2 .*changes from IST to BST"),
}


@pytest.mark.parametrize("newest_first", [False, True])
@pytest.mark.parametrize("kind", MIXED)
def test_offsets_that_no_summer_time_explains_are_refused(daily, write, kind, newest_first):
    zones, expected = MIXED[kind]
    table = texts(daily, "%Y-%m-%d 00:00:00")
    table["Date"] = table["Date"] + zones

    with pytest.raises(ValueError, match=expected.split(".*")[1] if newest_first else expected):
        read_prices([write(csv_of(table[::-1] if newest_first else table))])


@pytest.mark.parametrize(
    "zone",
    [NEW_YORK, "Europe/London", "Australia/Lord_Howe", "Africa/Casablanca", "Asia/Tokyo"],
)
@pytest.mark.parametrize("form", ["%Y-%m-%d %H:%M:%S%z", "%Y-%m-%d %H:%M:%S %Z"])
def test_summer_time_passes_and_is_named(make_prices, write, zone, form):
    days = pd.bdate_range("2015-01-01", periods=1500, tz=zone)
    table = make_bars(make_prices, 1500).set_index(days.rename("Date"))
    (bars,) = read_prices([write(csv_of(texts(table, form)))])

    assert np.array_equal(bars.dates, days.tz_localize(None).to_numpy().astype("M8[s]"))

    if form.endswith("%z"):
        offsets = list(dict.fromkeys(datetime.strftime(day, "%z") for day in days))
        assert bars.zone == "/".join(f"{offset[:3]}:{offset[3:]}" for offset in offsets)
        assert np.array_equal(
            bars.instants,
            days.tz_convert("UTC").tz_localize(None).to_numpy().astype("M8[s]"),
        )


@pytest.mark.parametrize("zone", ["Amerika/New_York", "25", "America", "", "5:00"])
def test_a_zone_that_is_none_is_refused(daily, write, zone):
    with pytest.raises(
        ValueError,
        match=rf"market\.zone: {zone!r} is neither a zone like America/New_York nor an",
    ):
        MarketConfig(write(daily.to_csv()), zone=zone)
    with pytest.raises(ValueError, match="is neither a zone"):
        MarketConfig(write(daily.to_csv()), zone={"prices.csv": zone})


def test_a_zone_of_a_file_that_is_not_there_or_states_its_own_is_refused(daily, session, write):
    path = write(daily.to_csv())

    with pytest.raises(
        ValueError,
        match=r"market\.zone names price\.csv, and no file or symbol is called so",
    ):
        read_data(MarketConfig(path, zone={"price.csv": "UTC"}))

    path = write(daily.tz_localize("Asia/Tokyo").to_csv())

    with pytest.raises(ValueError, match=r"market\.zone states UTC for prices.*states \+09:00 itself"):
        read_bars(MarketConfig(path, zone={"prices.csv": "UTC"}))
    assert read_bars(MarketConfig(path, zone="UTC"))[0].zone == "+09:00"


@pytest.mark.parametrize("zone", ["+99:00", "-15:00", "+14:30", "+05:75", "UTC+24"])
def test_an_offset_that_no_place_has_is_no_zone(daily, write, zone):
    """Offsets reach from -12:00 to +14:00."""
    path = write(csv_of(texts(daily)))

    with pytest.raises(ValueError, match="neither a zone like America/New_York nor an offset"):
        read_prices([path], ReadOptions(zone=zone))


@pytest.mark.parametrize(
    ("zone", "skipped"),
    [
        ("America/New_York", "2020-03-08 02:00:00"),  # the second Sunday of March
        ("Europe/Berlin", "2020-03-29 02:00:00"),  # the last one
        ("Australia/Sydney", "2020-10-04 02:00:00"),  # the first one of October
    ],
)
def test_a_zone_whose_clock_skips_times_of_the_file_is_refused(write, zone, skipped):
    """All hours of all days are of a clock without summer time."""
    hours = pd.date_range("2020-01-01", "2020-12-31", freq="h")
    table = pd.DataFrame({"Date": hours, "Close": 100 + np.arange(len(hours)) % 7})
    path = write(table.to_csv(index=False))

    with pytest.raises(ValueError, match=f"never showed {skipped}"):
        read_prices([path], ReadOptions(zone=zone))

    (bars,) = read_prices([path], ReadOptions(zone="-05:00"))

    assert len(bars.dates) == len(hours)


def test_a_midnight_that_summer_time_skips_is_a_day(write):
    """In Sao Paulo 2018-11-04 began at 01:00."""
    days = pd.date_range("2018-09-01", periods=100)
    table = pd.DataFrame({"Date": days, "Close": 100 + np.arange(100) % 7})
    path = write(table.to_csv(index=False))
    (bars,) = read_prices([path], ReadOptions(zone="America/Sao_Paulo"))

    assert bars.instants[days.get_loc("2018-11-04")] == np.datetime64("2018-11-04T03:00:00")  # 01:00 at -02:00


@pytest.fixture
def searched():
    """The commands that read market data, as functions of its configuration."""
    compare = CompareConfig(first_test="2000-05-01", test_years=1)

    return {
        "data": read_data,
        "compare": partial(folds_of, compare),
        "tune": partial(folds_before_test, TuneConfig()),
    }


@pytest.mark.parametrize("command", ["data", "compare", "tune"])
@pytest.mark.parametrize(
    ("stated", "sentence"),
    [
        (
            {"price.csv": "UTC"},
            r"market\.zone names price\.csv, and no file or symbol is called so",
        ),
        (
            "America/New_York",
            r"market\.zone=America/New_York states the zone of files without one, .* \+09:00 itself",
        ),
        (
            {"prices": "UTC"},
            r"market\.zone states UTC for prices, and .* states \+09:00 itself",
        ),
    ],
)
def test_every_command_refuses_a_zone_that_would_do_nothing(daily, write, searched, command, stated, sentence):
    path = write(daily.tz_localize("Asia/Tokyo").to_csv())

    with pytest.raises(ValueError, match=sentence):
        searched[command](MarketConfig(path, zone=stated))


@pytest.mark.parametrize("stated", ["Asia/Tokyo", "+09:00", {"prices": "Asia/Tokyo"}, {"prices.csv": "+09:00"}])
def test_a_stated_zone_that_the_file_states_too_is_no_contradiction(daily, write, stated):
    data = read_data(MarketConfig(write(daily.tz_localize("Asia/Tokyo").to_csv()), zone=stated))

    assert (data.read[0].zone, data.read[0].notes.assumptions) == ("+09:00", ())


def test_a_stated_zone_is_of_the_files_without_one_and_the_others_say_so(daily, tmp_path):
    (tmp_path / "a.csv").write_text(daily.to_csv())
    (tmp_path / "b.csv").write_text(daily.tz_localize("Asia/Tokyo").to_csv())
    first, second = read_data(MarketConfig(str(tmp_path), zone=NEW_YORK)).read

    assert (first.zone, second.zone) == (NEW_YORK, "+09:00")
    assert f"in the zone {NEW_YORK}: market.zone says so" in first.notes.assumptions
    assert f"the file states +09:00 itself: market.zone={NEW_YORK} is not used" in second.notes.assumptions


@pytest.mark.parametrize(("of_file", "stated"), [("Europe/London", "UTC"), ("UTC", "Europe/London")])
def test_zones_that_agree_in_winter_alone_contradict_each_other(daily, write, of_file, stated):
    """London is at Greenwich until the end of March, and an hour ahead of it after that."""
    path = write(daily.tz_localize(of_file).to_csv())

    with pytest.raises(ValueError, match=f"market.zone={stated} states the zone of files without one"):
        read_data(MarketConfig(path, zone=stated))
