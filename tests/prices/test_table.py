"""Parquet, spreadsheets, and files that are no table."""

import sys

import pandas as pd
import pytest
from exports import BARS, equals, make_bars, texts, yfinance

from market_regimes.prices import read_prices


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

    with pytest.raises(
        ValueError,
        match=r"prices\.xlsx is a spreadsheet, which needs the extra excel \(openpyxl\)",
    ):
        read_prices([str(tmp_path / "prices.xlsx")])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "cannot be read"),
        (b"\xff\xfe\x00\x01", "prices.csv"),
        (b"PK\x03\x04", "prices.csv"),
        (b"a,b\n1", "lacks"),
    ],
)
def test_files_that_are_no_table_are_refused(tmp_path, content, expected):
    for name in ("prices.csv", "prices.parquet", "prices.csv.gz", "prices.zip"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=expected if name == "prices.csv" else "cannot be read"):
            read_prices([str(tmp_path / name)])


def test_a_first_row_with_more_cells_than_names_is_refused(daily, write):
    text = daily.to_csv().replace("2000-01-03,", "2000-01-03,1,", 1)

    with pytest.raises(ValueError, match="has rows with more fields than its header"):
        read_prices([write(text)])
