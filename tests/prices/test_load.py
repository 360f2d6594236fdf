"""Zones, clocks, days and months of whole files, and what is refused."""

import io
from functools import partial

import numpy as np
import pandas as pd
import pytest
from exports import BARS, NAMES, csv_of, equals, make_bars, milliseconds, renamed, texts, write_to

from market_regimes.prices import ReadOptions, read_prices


@pytest.fixture(scope="module")
def daily(make_prices):
    return make_bars(make_prices, BARS)


@pytest.fixture
def write(tmp_path):
    return partial(write_to, tmp_path)


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
    assert sorted({str(time)[11:16] for time in bars.dates}) == ["10:00", "11:00", "12:00", "13:00", "14:00"]
    assert bars.zone == "-05:00/-04:00"
    assert bars.notes.assumptions == ()


@pytest.mark.parametrize("newest_first", [False, True])
def test_the_hour_that_a_clock_shows_twice_is_ordered_by_instant(make_prices, write, tmp_path, newest_first):
    """Berlin's 2:00 to 3:00 of 29 October 2000 comes at +02:00 and again at +01:00."""
    instants = pd.date_range("2000-10-27", periods=240, freq="30min", tz="UTC")
    table = make_bars(make_prices, 240).set_index(instants.tz_convert("Europe/Berlin").rename("Date"))
    table = table[::-1] if newest_first else table
    table.to_parquet(tmp_path / "zoned.parquet")
    for path in (write(table.to_csv()), str(tmp_path / "zoned.parquet")):
        (bars,) = read_prices([path])
        assert np.array_equal(bars.dates, instants.tz_localize(None).to_numpy().astype("M8[s]"))
        assert bars.zone == "UTC"
        assert "the clock goes back on 2000-10-29: dates are in UTC" in bars.notes.assumptions
        assert np.array_equal(bars.close, table["Close"].sort_index())


def test_hours_from_two_columns(make_prices, write, tmp_path):
    hours = pd.date_range("2020-01-01", periods=400, freq="h")
    table = make_bars(make_prices, 400).set_index(hours.rename("Date"))
    for date, time, zone in (
        ("%Y-%m-%d", "%H:%M", None),
        ("%d.%m.%Y", "%H:%M:%S", None),
        ("%Y%m%d", "%H%M%S", None),
        ("%m/%d/%Y", "%I:%M %p", None),
        ("%Y-%m-%d", "%H:%M+02:00", "+02:00"),
    ):
        (bars,) = read_prices([write(csv_of(texts(table, date).assign(Time=hours.strftime(time))))])
        assert equals(bars, table)
        assert bars.zone == zone
    frame = table.reset_index(drop=True).assign(date=hours.normalize(), time=hours.time)
    frame.to_parquet(tmp_path / "prices.parquet")
    assert equals(read_prices([str(tmp_path / "prices.parquet")])[0], table)
    with pytest.raises(ValueError, match=r"row 3 .*the time is not one of a day.*it is '25:00'"):
        read_prices([write(csv_of(texts(table).assign(time=["10:00"] * 2 + ["25:00"] + ["11:00"] * 397)))])
    (bars,) = read_prices(
        [write(csv_of(texts(table).assign(Date=hours.strftime("%y-%d-%m"), Time=hours.strftime("%Hh%M"))))],
        ReadOptions(columns={"time": "Time"}, date_format="%y-%d-%m %Hh%M"),
    )
    assert equals(bars, table)


def few(daily, date):
    """Days up to the twelfth only, of many months: nothing decides what is the month."""
    days = pd.DatetimeIndex([f"{2000 + i // 12}-{i % 12 + 1:02d}-{i % 7 + 1:02d}" for i in range(BARS)], name="Date")
    return csv_of(texts(daily.set_index(days), date)), daily.set_index(days)


def test_day_and_month_are_not_guessed(daily, write):
    text, table = few(daily, "%d/%m/%Y")
    with pytest.raises(ValueError, match=r"01/01/2000 may have the day or the month first.*market\.date_format"):
        read_prices([write(text)])
    (bars,) = read_prices([write(text)], ReadOptions(date_format="day_first"))
    assert equals(bars, table)
    text, table = few(daily, "%m/%d/%Y %H:%M")
    assert equals(read_prices([write(text)], ReadOptions(date_format="month_first"))[0], table)
    assert equals(read_prices([write(text)], ReadOptions(date_format="%m/%d/%Y %H:%M"))[0], table)
    text = csv_of(texts(daily, "%d/%m/%y"))
    with pytest.raises(
        ValueError, match=r"year of two digits, as in 03/01/00, leaves the order open: set market\.date_format"
    ):
        read_prices([write(text)])
    for stated in ("%d/%m/%y", "day_first"):
        assert equals(read_prices([write(text)], ReadOptions(date_format=stated))[0], daily)
    text = csv_of(texts(daily, "%d. %m. %Y, 00h +0900"))
    (bars,) = read_prices([write(text)], ReadOptions(date_format="%d. %m. %Y, %Hh %z"))
    assert equals(bars, daily)
    assert bars.zone == "+09:00"


REFUSED = {
    "two closes": (lambda t: csv_of(texts(t).assign(close=1.0)), "two columns for close: Close and close"),
    "two dates": (
        lambda t: csv_of(texts(t).assign(timestamp="2001-01-01")),
        "two columns for date: Date and timestamp",
    ),
    "two symbols": (
        lambda t: csv_of(texts(t).assign(symbol="A", ticker="B")),
        "two columns for symbol: symbol and ticker",
    ),
    "closes first": (lambda t: t[["Close", "High", "Low", "Open"]].to_csv(header=False), "no header.*market.columns"),
    "three columns": (lambda t: t[["Close", "Volume"]].to_csv(header=False), "no header.*market.columns"),
    "foreign names": (lambda t: renamed(t, ["DATE", "ERSTER", "HOCH", "TIEF", "LETZTER", "VOLUMEN"]), "lacks.* close"),
    "thousands or decimals": (
        lambda t: csv_of(
            texts(t).assign(**{n: t[n].map("{:07.3f}".format).str.replace(".", ",").to_numpy() for n in NAMES[:4]}),
            sep=";",
        ).replace(";0", ";"),
        r"may be a thousand or have three decimals: set market\.decimal",
    ),
    "both conventions": (
        lambda t: csv_of(texts(t).assign(Open="1,234.50", Close="1.234,50")),
        "has a decimal point and 1.234,50 a decimal comma",
    ),
    "two orders of days": (
        lambda t: csv_of(texts(t, "%d/%m/%Y").replace("13/01/2000", "01/13/2000")),
        "has the day first and 01/13/2000 the month",
    ),
    "mixed forms": (
        lambda t: csv_of(texts(t).replace("2000-01-13", "13/01/2000")),
        r"row 9 .*13/01/2000\): the date is not in ISO",
    ),
    "impossible day": (lambda t: csv_of(texts(t).replace("2000-01-13", "2000-01-32")), r"row 9 after the header .*ISO"),
    "no header, bad price": (
        lambda t: csv_of(texts(t).astype(object).replace({"Close": {t["Close"].iloc[8]: "x"}}), header=False),
        "no header.*market.columns",
    ),
    "disorder, day first": (
        lambda t: csv_of(texts(pd.concat([t[50:], t[:50]]), "%d/%m/%Y")),
        r"row 81 .*a later date in the bar before: sort by date, or state .*market\.date_format",
    ),
    "disorder, twelve hours": (
        lambda t: csv_of(
            texts(t).assign(
                Date=[f"2000-{d // 6 + 1:02d}-03 {h}:00" for d in range(22) for h in (9, 10, 11, 12, 1, 2)][: len(t)]
            )
        ),
        r"row 5 .*a later date in the bar before: sort by date; a clock of twelve hours needs am and pm",
    ),
    "disorder, a mistyped year": (
        lambda t: csv_of(texts(t).replace("2000-05-15", "2000-01-15")),
        r"row 96 .*2000-01-15\): the date of prices is far from those of the rows around it: correct it",
    ),
    "disorder, a day twice": (
        lambda t: pd.concat([t[50:], t[:51]]).to_csv(),
        "row 131 .*the bar before at the same date",
    ),
    "twice": (lambda t: pd.concat([t[:50], t[49:]]).to_csv(), "row 51 .*the bar before at the same date"),
    "twice, newest first": (
        lambda t: pd.concat([t[:50], t[49:]])[::-1].to_csv(),
        "row 81 .*the bar before at the same date",
    ),
    "some zones": (
        lambda t: csv_of(texts(t).replace("2000-01-13", "2000-01-13 00:00+09:00")),
        "row 1 .*no time zone, and others have one",
    ),
    "rounded epochs": (
        lambda t: csv_of(texts(t).assign(Date=[f"{ms:.5e}" for ms in milliseconds(t)])),
        "row 1 .*not in ISO form",
    ),
    "number as date": (
        lambda t: csv_of(texts(t).assign(Date=np.arange(len(t)))),
        "row 1 .*a number of an unknown kind; market.date_format",
    ),
    "percent as price": (
        lambda t: csv_of(texts(t).assign(Close="5%")),
        "row 1 .*close of prices is not a finite number, it is '5%'",
    ),
    "price in millions": (
        lambda t: csv_of(texts(t).assign(Close="5M")),
        "row 1 .*close of prices is not a finite number, it is '5M'",
    ),
    "half a row": (
        lambda t: csv_of(texts(t).astype(object).replace({"Close": {t["Close"].iloc[-1]: ""}})),
        "row 130 .*close of prices is not a finite number",
    ),
    "no prices": (lambda t: csv_of(texts(t).assign(Open="", High="", Low="", Close="")), "has no prices in any row"),
    "adjusted only": (lambda t: t.rename(columns={"Close": "Adj Close"}).to_csv(), r"lacks the column\(s\) close"),
    "thousands unquoted": (lambda t: t.to_csv().replace("2000-02-01,", "2000-02-01,1,"), "more fields than its header"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_ambiguous_is_refused_in_one_sentence(daily, write, kind):
    make, expected = REFUSED[kind]
    path = write(make(daily))
    with pytest.raises(ValueError, match=expected) as refusal:
        read_prices([path])
    assert str(refusal.value).startswith(path)
    assert "\n" not in str(refusal.value)


def shuffled(table):
    return table.sample(frac=1, random_state=0)


DISORDER = {
    "two exports, the later above": lambda t: pd.concat([t[50:], t[:50]]).to_csv(),
    "two rows swapped": lambda t: t.iloc[[*range(60), 61, 60, *range(62, len(t))]].to_csv(),
    "shuffled": lambda t: shuffled(t).to_csv(),
    "month names": lambda t: csv_of(texts(shuffled(t), "%d %b %Y")),
    "epochs": lambda t: csv_of(texts(shuffled(t)).assign(Date=milliseconds(shuffled(t)))),
    "zones": lambda t: shuffled(t).tz_localize("UTC").to_csv(),
}


@pytest.mark.parametrize("kind", DISORDER)
def test_rows_in_any_order_are_sorted_where_their_dates_have_one_reading(daily, write, kind):
    (bars,) = read_prices([write(DISORDER[kind](daily))])
    assert equals(bars, daily)
    assert "rows not in the order of their dates: sorted" in bars.notes.assumptions


def test_a_stated_order_of_day_and_month_sorts_too(daily, write):
    path = write(csv_of(texts(shuffled(daily), "%d/%m/%Y")))
    assert equals(read_prices([path], ReadOptions(date_format="day_first"))[0], daily)


def test_the_decimal_mark_may_be_stated(daily, write):
    text = REFUSED["thousands or decimals"][0](daily)
    shown = pd.read_csv(io.StringIO(text), sep=";", decimal=",")["Close"]
    assert np.array_equal(read_prices([write(text)], ReadOptions(decimal=","))[0].close, shown)
    assert np.array_equal(read_prices([write(text)], ReadOptions(decimal="."))[0].close, (1000 * shown).round())


def test_decimal_commas_that_come_late(make_prices, write):
    """The first 250 closes are whole numbers, and volumes have points between thousands."""
    table = make_bars(make_prices, 300)[["Close", "Volume"]]
    table["Close"] = np.where(np.arange(300) < 250, 100.0, 100.25)
    cells = texts(table).assign(
        Close=["100"] * 250 + ["100,25"] * 50, Volume=[f"{volume:,}".replace(",", ".") for volume in table["Volume"]]
    )
    (bars,) = read_prices([write(csv_of(cells, sep=";"))])
    assert np.array_equal(bars.close, table["Close"])
    assert np.array_equal(bars.volume, table["Volume"])


def test_a_name_may_state_the_zone(daily, write):
    (bars,) = read_prices([write(csv_of(texts(daily).rename(columns={"Date": "Gmt time"})))])
    assert equals(bars, daily)
    assert bars.zone == "UTC"


def test_a_first_row_with_more_cells_than_names_is_refused(daily, write):
    text = daily.to_csv().replace("2000-01-03,", "2000-01-03,1,", 1)
    with pytest.raises(ValueError, match="has rows with more fields than its header"):
        read_prices([write(text)])
