"""
Files as programs export them; all hold the same bars, so what is read must equal what pandas reads from a plain CSV.
"""

import gzip
import io
import sys
import zipfile
from functools import partial
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from exports import BARS, EXPORTS, equals, make_bars, texts, write_to, yfinance
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from market_regimes.prices import read_prices


@pytest.fixture(scope="module")
def daily(make_prices):
    return make_bars(make_prices, BARS)


@pytest.fixture
def write(tmp_path):
    return partial(write_to, tmp_path)


@pytest.mark.parametrize("kind", EXPORTS)
def test_exports_equal_the_plain_file(daily, write, kind):
    table = daily * np.array([100, 100, 100, 100, 1]) if kind.startswith("thousands") else daily
    (bars,) = read_prices([write(EXPORTS[kind](table.round(4)))])
    assert equals(bars, table.round(4))
    assert bars.symbol == "prices"
    for sentence in bars.notes.assumptions:
        assert len(sentence) < 120
        assert "\n" not in sentence


SAID = {
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


@pytest.mark.parametrize("kind", SAID)
def test_what_was_assumed_is_said(daily, write, kind):
    table = daily * 100 if kind == "thousands" else daily
    assert read_prices([write(EXPORTS[kind](table))])[0].notes.assumptions == tuple(SAID[kind])


def test_parquet_with_any_index(make_prices, daily, tmp_path):
    other = make_bars(make_prices, BARS, seed=1)
    frames = {
        "index": daily,
        "unnamed": daily.rename_axis(None),
        "kept": daily.reset_index().set_index("Date", drop=False),
        "column": daily.reset_index(),
        "filtered": pd.concat([daily[:1], daily]).reset_index()[1:],
        "days": texts(daily).assign(Date=daily.index.date),
        "text": texts(daily),
        "prices as text": texts(daily).assign(Close=daily["Close"].astype(str).to_numpy()),
        "yfinance": yfinance({"yfinance": daily}),
        "yfinance, columns": yfinance({"yfinance, columns": daily}).reset_index(),
    }
    for name, frame in frames.items():
        path = tmp_path / f"{name}.parquet"
        frame.to_parquet(path)
        (bars,) = read_prices([str(path)])
        assert equals(bars, daily)
        assert bars.symbol == name
    long = pd.concat({"A": daily, "B": other}, names=["symbol"])
    for name, frame in {
        "long": long,
        "swapped": long.swaplevel(),
        "long, unnamed": long.rename_axis([None, None]),
    }.items():
        frame.to_parquet(tmp_path / f"{name}.parquet")
        if name == "long, unnamed":
            continue
        first, second = read_prices([str(tmp_path / f"{name}.parquet")])
        assert first.symbol == "A"
        assert equals(first, daily)
        assert equals(second, other)


def test_compressed_files_and_folders(daily, write, tmp_path):
    text = daily.to_csv().encode()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("inside.csv", text)
    write(gzip.compress(text), "a.csv.gz")
    write(archive.getvalue(), "b.zip")
    write(text, "c.TXT")
    write("notes", "readme.md")
    bars = read_prices([str(tmp_path)])
    assert [one.symbol for one in bars] == ["a", "b", "c"]
    assert all(equals(one, daily) for one in bars)
    with pytest.raises(ValueError, match=r"the symbol a is in .*a\.csv and in .*a\.csv\.gz"):
        read_prices([str(tmp_path), write(text, "a.csv")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no file that ends in"):
        read_prices([str(tmp_path / "empty")])


def test_spreadsheets(daily, tmp_path):
    path = tmp_path / "prices.xlsx"
    with pd.ExcelWriter(path) as book:
        daily.to_excel(book, sheet_name="bars", startrow=2)
        daily.to_excel(book, sheet_name="more")
    (bars,) = read_prices([str(path)])
    assert equals(bars, daily)
    assert "sheet bars; not read: more" in bars.notes.assumptions


def test_spreadsheets_with_every_kind_of_cell(daily, tmp_path):
    """Dates, texts, numbers and empty cells as a spreadsheet stores them."""
    volumes = daily["Volume"].astype(object)
    volumes.iloc[3] = "-"
    frames = {
        "dates": texts(daily).assign(Date=daily.index),
        "days": texts(daily).assign(Date=daily.index.date),
        "texts": texts(daily, "%d/%m/%Y"),
        "texts of numbers": texts(daily).assign(Close=[f"{price:,.4f}" for price in daily["Close"]]),
        "lakhs": texts(daily).assign(Volume=volumes.to_numpy()),
        "row numbers": texts(daily).reset_index(),
        "two header rows": yfinance({"two header rows": daily}),
    }
    for name, frame in frames.items():
        frame.to_excel(tmp_path / f"{name}.xlsx", index=name == "two header rows")
        (bars,) = read_prices([str(tmp_path / f"{name}.xlsx")])
        assert equals(bars, daily), name
        assert bars.symbol == name


def test_a_spreadsheet_without_its_reader_names_the_extra(daily, tmp_path, monkeypatch):
    daily.to_excel(tmp_path / "prices.xlsx")
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(ValueError, match=r"prices\.xlsx is a spreadsheet, which needs the extra excel \(openpyxl\)"):
        read_prices([str(tmp_path / "prices.xlsx")])


CELLS = st.one_of(st.floats(), st.integers(-(10**20), 10**20), st.text(max_size=8), st.dates(), st.none())


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 6), CELLS), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_file_makes_a_library_fail(tmp_path, content):
    for header in (b"", b"date,open,high,low,close\n", b"2000-01-03;1;2;0.5;1\n"):
        for name in ("prices.csv", "prices.csv.gz", "prices.zip", "prices.parquet"):
            (tmp_path / name).write_bytes(header + content)
            with pytest.raises(ValueError, match="prices") as refusal:  # 60 rows do not fit
                read_prices([str(tmp_path / name)])
            assert type(refusal.value) is ValueError
            assert "\n" not in str(refusal.value)
