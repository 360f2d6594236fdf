"""Rows of each symbol of a file that holds several."""

import numpy as np
import pandas as pd
import pytest
from exports import BARS, csv_of, equals, make_bars, texts, yfinance

from market_regimes.prices import ReadOptions, read_prices


def test_exports_of_several_symbols(make_prices, daily, write):
    other = make_bars(make_prices, BARS, seed=1)
    missing = other.copy()
    missing.iloc[[0, 50]] = np.nan
    long = pd.concat([texts(daily).assign(stock="NA"), texts(other).assign(stock="000001")])

    for content, second, names in (
        (yfinance({"NA": daily, "000001.SZ": other}).to_csv(), other, ["NA", "000001.SZ"]),
        (
            yfinance({"NA": daily, "B": missing}, by="symbol").to_csv(),
            missing.dropna(),
            ["NA", "B"],
        ),
        (csv_of(long), other, ["NA", "000001"]),
        (csv_of(long.sort_values("Date", kind="stable")), other, ["NA", "000001"]),
        (
            daily.add_prefix("NA.").join(other.add_prefix("BRK.B.")).to_csv(),
            other,
            ["NA", "BRK.B"],
        ),
    ):
        bars = {one.symbol: one for one in read_prices([write(content)])}

        assert sorted(bars) == sorted(names)
        assert equals(bars["NA"], daily)
        assert equals(bars[names[1]], second)
        assert np.array_equal(bars["NA"].volume, daily["Volume"])

    assert (
        "B has no prices on 2 of the file's dates"
        in read_prices([write(yfinance({"NA": daily, "B": missing}).to_csv())])[1].notes.assumptions
        + read_prices([write(yfinance({"NA": daily, "B": missing}).to_csv())])[0].notes.assumptions
    )


def test_other_columns_go_to_their_symbol(daily, write):
    tables = {name: daily.assign(Dividends=paid) for name, paid in (("A", 1.5), ("B", 2.5))}
    first, second = read_prices([write(yfinance(tables).to_csv())])

    assert list(first.extra) == list(second.extra) == ["Dividends"]
    assert (first.extra["Dividends"] == 1.5).all()
    assert (second.extra["Dividends"] == 2.5).all()


def test_spaces_make_no_other_symbol(daily, write):
    table = texts(daily).assign(symbol=["A  B", " A B"] * (BARS // 2))
    (bars,) = read_prices([write(csv_of(table))])

    assert bars.symbol == "A B"


def test_gaps_are_those_of_their_symbol(daily, write):
    other = daily.astype({"Volume": float})
    other.iloc[4, 4] = np.nan
    first, second = read_prices([write(yfinance({"A": daily, "B": other}).to_csv())])

    assert not any("volume" in sentence for sentence in first.notes.assumptions)
    assert "volume is missing in 1 row(s), the first 2000-01-07" in second.notes.assumptions


def test_a_symbol_without_any_price_is_refused_by_its_name(daily, write):
    closes = pd.DataFrame({"A": daily["Close"], "B": np.nan})

    path = write(closes.to_csv())

    with pytest.raises(ValueError, match=r"has 0 row\(s\) of B: at least 60 are needed"):
        read_prices([path], ReadOptions(closes=["A", "B"]))


def test_a_symbol_of_a_known_zone_has_no_note_on_the_unknown_one_of_another(make_prices, write):
    """IST is Indian, Irish or Israeli; America/New_York has one meaning."""
    table = make_bars(make_prices, BARS)
    rows = [texts(table, f"%Y-%m-%d 10:00 {zone}").assign(symbol=zone) for zone in ("IST", "America/New_York")]

    indian, american = read_prices([write(csv_of(pd.concat(rows)))])

    assert indian.notes.assumptions == ("bars are ordered by the clock of IST, whose offset is not stated",)
    assert american.notes.assumptions == ()
    assert (indian.has_instants, american.has_instants) == (False, True)
