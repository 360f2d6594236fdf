"""What the columns of a file stand for; the bars must equal those that pandas reads from a plain CSV."""

import numpy as np
import pandas as pd
import pytest
from exports import BARS, EXPORTS, csv_of, equals, make_bars, texts, yfinance

from market_regimes.prices import ReadOptions, read_prices


def test_adjusted_closes_of_several_symbols(make_prices, daily, write):
    adjusted = daily.assign(**{"Adj Close": (daily["Close"] / 2).round(4)})

    for by in ("field", "symbol"):
        for bars in read_prices([write(yfinance({"SPY": adjusted, "QQQ": adjusted}, by).to_csv())]):
            assert np.array_equal(bars.close, adjusted["Adj Close"])
            assert bars.notes.unused_columns == (f"Volume {bars.symbol}",)


def test_tickers_may_be_numbers(make_prices, daily, write):
    other = make_bars(make_prices, BARS, seed=1)

    for content in (
        yfinance({"000001": daily, "600519": other}).to_csv(),
        pd.DataFrame({"000001": daily["Close"], "600519": other["Close"]}).to_csv(),
    ):
        first, second = read_prices([write(content)])

        assert (first.symbol, second.symbol) == ("000001", "600519")
        assert np.array_equal(first.close, daily["Close"])
        assert np.array_equal(second.close, other["Close"])


@pytest.mark.parametrize("lower", [["low", "open"], ["spy", "qqq"], ["Ouverture", "Cloture"]])
def test_columns_of_unknown_words_are_no_symbols(daily, write, lower):
    with pytest.raises(ValueError, match=r"lacks the column\(s\) close"):
        read_prices([write(daily[["Open", "Close"]].set_axis(lower, axis=1).to_csv())])

    (bars,) = read_prices([write(daily[["Close", "Volume"]].set_axis(["SPY", "VOLUME"], axis=1).to_csv())])

    assert bars.symbol == "SPY"
    assert bars.notes.unused_columns == ("VOLUME",)


def test_the_strongest_name_is_taken(daily, write):
    table = texts(daily).assign(
        Last=1.0,
        VWAP=2.0,
        **{"Adj. Open": 1.0, "adjVolume": 3, "<TICKVOL>": 4, "Name": "Fund"},
    )
    (bars,) = read_prices([write(table.assign(symbol="SPY").to_csv())])

    assert equals(bars, daily)
    assert np.array_equal(bars.volume, daily["Volume"])
    assert bars.symbol == "SPY"
    assert bars.notes.unused_columns == (
        "Volume",
        "Unnamed: 0",
        "Last",
        "VWAP",
        "Adj. Open",
        "adjVolume",
        "<TICKVOL>",
        "Name",
    )
    assert list(bars.extra) == ["Last", "VWAP", "Adj. Open", "adjVolume", "<TICKVOL>"]


def test_a_wide_table_of_closes(make_prices, daily, write):
    closes = pd.DataFrame(
        {
            "SPY": daily["Close"],
            "BRK.B": make_bars(make_prices, BARS, 1)["Close"],
            "VIX": 20.0,
        }
    )
    closes.iloc[:30, 1] = np.nan
    spy, other = read_prices([write(closes.to_csv())])

    assert (spy.symbol, other.symbol) == ("SPY", "BRK.B")
    assert equals(spy, daily, close_only=True)
    assert np.array_equal(other.close, closes["BRK.B"].dropna())
    assert len(other.dates) == BARS - 30
    assert (spy.volatility_index == 20).all()
    assert "one column of closes per symbol: SPY, BRK.B" in spy.notes.assumptions
    assert "no opening prices: orders fill at the close" in spy.notes.assumptions

    fred = daily[["Close"]].rename(columns={"Close": "SP500"}).rename_axis("observation_date").astype(object)
    fred.iloc[20] = "."
    (index,) = read_prices([write(fred.to_csv())])

    assert index.symbol == "SP500"
    assert len(index.close) == BARS - 1


def test_other_columns_are_kept_and_named(daily, write):
    table = daily.assign(RSI=50.5, note="text", dividends=[""] * 64 + ["0.5"] + [""] * 65)
    (bars,) = read_prices([write(table.to_csv())])

    assert bars.notes.unused_columns == ("Volume", "RSI", "note", "dividends")
    assert sorted(bars.extra) == ["RSI", "dividends"]
    assert (bars.extra["RSI"] == 50.5).all()
    assert bars.extra["dividends"][64] == 0.5
    assert np.isnan(bars.extra["dividends"][63])
    assert np.array_equal(bars.volume, table["Volume"])

    (bars,) = read_prices([write(EXPORTS["investing.com"](daily))])

    assert (bars.volume == 1.25e6).all()
    assert (bars.extra["Change %"] == -0.5).all()


def test_columns_may_be_named_by_hand(daily, write):
    german = texts(daily).set_axis(["Datum", "Erster", "Hoch", "Tief", "Schluss", "Umsatz"], axis=1)

    with pytest.raises(
        ValueError,
        match=r"lacks the column\(s\) close: it has Datum, Erster.*market.columns",
    ):
        read_prices([write(csv_of(german))])

    stated = dict(open="Erster", high="Hoch", low="Tief", close="Schluss")
    (bars,) = read_prices([write(csv_of(german))], ReadOptions(columns=stated))

    assert equals(bars, daily)
    assert bars.notes.assumptions == ("dates are in Datum, the only column that holds some",)
    assert equals(
        read_prices([write(csv_of(german))], ReadOptions(columns={**stated, "date": "Datum"}))[0],
        daily,
    )
    with pytest.raises(ValueError, match=r"no column Eröffnung, which market\.columns names"):
        read_prices([write(csv_of(german))], ReadOptions(columns={**stated, "open": "Eröffnung"}))

    headless = csv_of(texts(daily)[["Close", "Date", "High", "Low", "Open"]], header=False)
    by_number = dict(close="1", date="2", high="3", low="4", open="5")

    assert equals(read_prices([write(headless)], ReadOptions(columns=by_number))[0], daily)
    with pytest.raises(ValueError, match=r"market\.columns: prize is none of date"):
        ReadOptions(columns={"prize": "Close"})


def test_closes_only_and_opens_that_are_closes(daily, write):
    (bars,) = read_prices([write(daily[["Close"]].to_csv())])

    assert equals(bars, daily, close_only=True)
    assert bars.notes.assumptions == ("no opening prices: orders fill at the close",)
    assert equals(
        read_prices([write(daily[["Close"]].to_csv(header=False))])[0],
        daily,
        close_only=True,
    )

    (bars,) = read_prices([write(daily.assign(Open=daily["Close"]).to_csv())])

    assert bars.notes.assumptions == (
        "open equals close in every bar: an order at the open gets the price of the close",
    )
    assert bars.fill == "open"

    (bars,) = read_prices([write(daily[["Open", "Close"]].to_csv())])

    assert bars.notes.assumptions == ("no high and low: open and close are not checked against them",)


def test_letters_may_be_tickers(daily, write):
    closes = pd.DataFrame({name: daily["Close"] for name in ("C", "T", "V")})
    bars = read_prices([write(closes.to_csv())])

    assert [one.symbol for one in bars] == ["C", "T", "V"]
    assert all(equals(one, daily, close_only=True) for one in bars)


@pytest.mark.parametrize("names", [["aapl", "jpm"], ["Apple", "JPMorgan"], ["Crude Oil", "gold"]])
def test_closes_under_any_names_are_read_where_they_are_stated(daily, make_prices, write, names):
    other = make_bars(make_prices, BARS, seed=1)
    table = pd.DataFrame({names[0]: daily["Close"], names[1]: other["Close"], "vix": 20.0})
    path = write(table.to_csv())

    with pytest.raises(
        ValueError,
        match=rf"market.closes=\[{names[0]}, {names[1]}\] reads columns as closes",
    ):
        read_prices([path])

    for closes in (names, "all"):
        first, second = read_prices([path], ReadOptions(closes=closes))

        assert [first.symbol, second.symbol] == names
        assert equals(first, daily, close_only=True)
        assert equals(second, other, close_only=True)
        assert (first.volatility_index == 20).all()

    (only,) = read_prices([path], ReadOptions(closes=[names[1]]))

    assert equals(only, other, close_only=True)
    with pytest.raises(ValueError, match=r"has no column MSFT, which market.closes names: it has Date"):
        read_prices([path], ReadOptions(closes=["MSFT"]))
