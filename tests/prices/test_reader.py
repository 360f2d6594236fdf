"""Whole files, as programs export them. What is read must equal what pandas reads from a plain CSV."""

import io
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from exports import (
    EXPORTS,
    NAMES,
    csv_of,
    equals,
    made_up,
    milliseconds,
    renamed,
    same_bars,
    texts,
    yfinance,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from market_regimes.prices import ReadOptions, read_prices


@pytest.mark.parametrize("kind", EXPORTS)
def test_exports_equal_the_plain_file(daily, write, kind):
    table = daily * np.array([100, 100, 100, 100, 1]) if kind.startswith("thousands") else daily
    (bars,) = read_prices([write(EXPORTS[kind](table.round(4)))])

    assert equals(bars, table.round(4))
    assert bars.symbol == "prices"

    for sentence in bars.notes.assumptions:
        assert len(sentence) < 120
        assert "\n" not in sentence


ASSUMED = {
    "newest first": ["newest first: sorted"],
    "day first": ["day first: 13/01/2000 decides"],
    "month first": ["month first: 01-13-2000 decides"],
    "klines": ["dates are epoch milliseconds in UTC"],
    "binance, milliseconds then microseconds": [
        "no header: open is column 2, high is column 3, low is column 4, close is column 5, volume is column 6",
        "dates are epoch microseconds and milliseconds in UTC",
    ],
    "last row without prices": ["dropped the last row (2000-07-03), which has no prices"],
    "total": ["dropped the last row (Total), which has no prices"],
    "holiday without prices": ["dropped 1 row(s) without prices, the first 2000-01-31 12:00"],
    "decimal commas": ["decimal commas"],
    "thousands": ["commas separate thousands"],
    "euros": ["currency signs removed: €"],
    "lines before": ["3 line(s) before the header skipped"],
    "Windows-1252": ["not UTF-8: read as Windows-1252"],
    "yfinance": ["two header rows: fields and symbols"],
    "spreadsheet serial days": ["dates are serial days of a spreadsheet, 1 being 1900-01-01"],
    "plain": [],
}


@pytest.mark.parametrize("kind", ASSUMED)
def test_what_was_assumed_is_said(daily, write, kind):
    table = daily * 100 if kind == "thousands" else daily

    assert read_prices([write(EXPORTS[kind](table))])[0].notes.assumptions == tuple(ASSUMED[kind])


CELLS = st.one_of(st.floats(), st.integers(-(10**20), 10**20), st.text(max_size=8), st.dates(), st.none())


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 6), CELLS), min_size=1, max_size=4))
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_cells_give_one_sentence_or_checked_bars(tmp_path, make_prices, cells):
    table = make_prices(100).assign(vix=20.0).astype(object)

    for row, column, value in cells:
        table.iloc[row, column] = value

    table.to_csv(tmp_path / "prices.csv", index=False)

    try:
        (bars,) = read_prices([str(tmp_path / "prices.csv")])
    except ValueError as refusal:
        assert type(refusal) is ValueError  # noqa: PT017
        assert "\n" not in str(refusal)  # noqa: PT017
        return

    assert all(a < b for a, b in pairwise(bars.dates))

    for prices in (bars.open, bars.close):
        assert np.isfinite(prices).all()
        assert (prices > 0).all()


@given(
    st.binary(max_size=300) | st.text(alphabet='date,;\topnhiglwcs0123456789.-\n"e/: $', max_size=400).map(str.encode)
)
@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_no_file_makes_a_library_fail(tmp_path, content):
    for header in (b"", b"date,open,high,low,close\n", b"2000-01-03;1;2;0.5;1\n"):
        for name in ("prices.csv", "prices.csv.gz", "prices.zip", "prices.parquet"):
            (tmp_path / name).write_bytes(header + content)

            with pytest.raises(ValueError, match="prices") as refusal:  # 60 rows do not fit
                read_prices([str(tmp_path / name)])
            assert type(refusal.value) is ValueError
            assert "\n" not in str(refusal.value)


REFUSED = {
    "two closes": (
        lambda t: csv_of(texts(t).assign(close=1.0)),
        "two columns for close: Close and close",
    ),
    "two dates": (
        lambda t: csv_of(texts(t).assign(timestamp="2001-01-01")),
        "two columns for date: Date and timestamp",
    ),
    "two symbols": (
        lambda t: csv_of(texts(t).assign(symbol="A", ticker="B")),
        "two columns for symbol: symbol and ticker",
    ),
    "closes first": (
        lambda t: t[["Close", "High", "Low", "Open"]].to_csv(header=False),
        "no header.*market.columns",
    ),
    "three columns": (
        lambda t: t[["Close", "Volume"]].to_csv(header=False),
        "no header.*market.columns",
    ),
    "foreign names": (
        lambda t: renamed(t, ["DATE", "ERSTER", "HOCH", "TIEF", "LETZTER", "VOLUMEN"]),
        "lacks.* close",
    ),
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
    "impossible day": (
        lambda t: csv_of(texts(t).replace("2000-01-13", "2000-01-32")),
        r"row 9 after the header .*ISO",
    ),
    "no header, bad price": (
        lambda t: csv_of(
            texts(t).astype(object).replace({"Close": {t["Close"].iloc[8]: "x"}}),
            header=False,
        ),
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
    "twice": (
        lambda t: pd.concat([t[:50], t[49:]]).to_csv(),
        "row 51 .*the bar before at the same date",
    ),
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
    "no prices": (
        lambda t: csv_of(texts(t).assign(Open="", High="", Low="", Close="")),
        "has no prices in any row",
    ),
    "adjusted only": (
        lambda t: t.rename(columns={"Close": "Adj Close"}).to_csv(),
        r"lacks the column\(s\) close",
    ),
    "thousands unquoted": (
        lambda t: t.to_csv().replace("2000-02-01,", "2000-02-01,1,"),
        "more fields than its header",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_ambiguous_is_refused_in_one_sentence(daily, write, kind):
    make, expected = REFUSED[kind]
    path = write(make(daily))

    with pytest.raises(ValueError, match=expected) as refusal:
        read_prices([path])
    assert str(refusal.value).startswith(path)
    assert "\n" not in str(refusal.value)


def test_the_decimal_mark_may_be_stated(daily, write):
    text = REFUSED["thousands or decimals"][0](daily)
    shown = pd.read_csv(io.StringIO(text), sep=";", decimal=",")["Close"]

    assert np.array_equal(read_prices([write(text)], ReadOptions(decimal=","))[0].close, shown)
    assert np.array_equal(
        read_prices([write(text)], ReadOptions(decimal="."))[0].close,
        (1000 * shown).round(),
    )


DAYS = pd.bdate_range("2019-01-02", "2020-12-31")


def metatrader():
    """Names in angle brackets, tabs, dates with dots."""
    table = made_up(DAYS).set_axis(["<OPEN>", "<HIGH>", "<LOW>", "<CLOSE>", "<TICKVOL>"], axis=1)
    table.insert(0, "<DATE>", DAYS.strftime("%Y.%m.%d"))

    return table.to_csv(sep="\t", index=False)


def klines():
    """Milliseconds of an epoch, times at which bars close, many further columns."""
    begin = (DAYS - pd.Timestamp(0)) // pd.Timedelta(milliseconds=1)
    table = made_up(DAYS).rename(columns=str.lower)
    table.insert(0, "open_time", begin)
    table = table.assign(close_time=begin + 86_399_999, quote_volume=1.0, count=10, ignore=0)

    return table.to_csv(index=False)


def growing():
    """A last row that has no prices yet."""
    table = made_up(DAYS.append(pd.DatetimeIndex(["2021-01-01"])))
    table.iloc[:-1] = made_up(DAYS)
    table.iloc[-1, :4] = np.nan

    return table.rename_axis("Date").to_csv()


def two_header_rows(*tickers):
    """As yfinance's frames, one ticker or several."""
    tables = {ticker: made_up(DAYS, seed).rename_axis("Date") for seed, ticker in enumerate(tickers)}

    return yfinance(tables).to_csv()


def day_first():
    return made_up(DAYS).set_axis(DAYS.strftime("%d/%m/%Y"), axis=0).rename_axis("Date").to_csv()


def newest_first():
    return made_up(DAYS)[::-1].rename(columns=str.lower).rename_axis("timestamp").to_csv()


DAILY = {
    "plain.csv": lambda: made_up(DAYS).rename_axis("Date").to_csv(),
    "yfinance_one.csv": lambda: two_header_rows("SPY"),
    "yfinance_two.csv": lambda: two_header_rows("SPY", "QQQ"),
    "metatrader.csv": metatrader,
    "klines.csv": klines,
    "day_first.csv": day_first,
    "newest_first.csv": newest_first,
    "last_row_empty.csv": growing,
}


@pytest.mark.parametrize("name", DAILY)
def test_daily_bars_are_those_of_the_plain_file(tmp_path, name):
    (tmp_path / name).write_text(DAILY[name]())
    first, *others = sorted(read_prices([str(tmp_path / name)]), key=lambda bars: bars.symbol != "SPY")
    same_bars(first, made_up(DAYS))

    for bars in others:
        same_bars(bars, made_up(DAYS, seed=1))

    assert [bars.symbol for bars in others] == (["QQQ"] if name == "yfinance_two.csv" else [])
