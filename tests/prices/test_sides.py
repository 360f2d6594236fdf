"""Bid and ask are two prices of one instrument."""

import numpy as np
import pandas as pd
import pytest
from exports import csv_of, equals, texts, yfinance

from market_regimes.prices import ReadOptions, read_prices
from market_regimes.prices.sides import without_side

FIELDS = ["Open", "High", "Low", "Close"]


NAMES = {  # of the bid's field and the ask's
    "spaces": "{side} {field}",
    "field first": "{field} {side}",
    "underscores": "{side}_{field}",
    "points": "{field}.{side}",
    "colons": "{side}:{field}",
    "hyphens": "{side}-{field}",
    "one word": "{side}{field}",
    "one word, field first": "{field}{side}",
    "parentheses": "{field} ({side})",
    "brackets": "{field} [{side}]",
    "with a symbol": "EURUSD_{side}_{field}",
    "with a symbol and points": "EURUSD.{field}.{side}",
}


CASES = {"title": str, "small": str.lower, "capitals": str.upper}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("form", NAMES)
def test_two_sides_are_asked_for_and_one_is_read(daily, write, form, case):
    prices = daily[FIELDS]
    table = pd.concat(
        [
            factor
            * prices.set_axis(
                [CASES[case](NAMES[form].format(side=side, field=f)) for f in FIELDS],
                axis=1,
            )
            for side, factor in (("Bid", 1), ("Ask", 1.5))
        ],
        axis=1,
    )
    path = write(table.to_csv())

    with pytest.raises(ValueError, match=r"are one instrument: set market.side to bid or ask"):
        read_prices([path])

    (bid,) = read_prices([path], ReadOptions(side="bid"))
    (ask,) = read_prices([path], ReadOptions(side="ask"))

    assert equals(bid, daily)
    assert ask.close == pytest.approx(1.5 * daily["Close"].to_numpy())
    assert bid.symbol.upper() == ("EURUSD" if "symbol" in form else "PRICES")
    assert "prices are those of the ask: market.side says so" in ask.notes.assumptions
    with pytest.raises(ValueError, match=r"has no closes of the mid, which market.side names"):
        read_prices([path], ReadOptions(side="mid"))


@pytest.mark.parametrize(
    "names",
    [["Bid", "Ask"], ["bid", "offer"], ["BID", "ASK"], ["EURUSD.Bid", "EURUSD.Ask"]],
)
def test_quotes_without_a_field_are_closes(daily, write, names):
    path = write(pd.DataFrame({names[0]: daily["Close"], names[1]: daily["Close"] * 2}).to_csv())

    with pytest.raises(ValueError, match=r"set market.side to bid or ask"):
        read_prices([path])
    assert equals(read_prices([path], ReadOptions(side="bid"))[0], daily, close_only=True)


def test_one_side_alone_is_read_and_said(daily, write):
    (bars,) = read_prices([write(daily.add_prefix("Bid ").to_csv())])

    assert equals(bars, daily)
    assert (bars.symbol, bars.notes.assumptions) == (
        "prices",
        ("prices are those of the bid",),
    )
    assert np.array_equal(bars.volume, daily["Volume"])


def test_a_close_without_a_side_is_traded_beside_quotes(daily, write):
    quotes = daily[["Close"]].set_axis(["Bid"], axis=1).assign(Ask=2.0, Mid=3.0)

    for closes in (daily, daily.rename(columns={"Close": "Last"})):
        (bars,) = read_prices([write(closes.join(quotes).to_csv())])

        assert equals(bars, daily)
        assert bars.notes.assumptions == ()

        (ask,) = read_prices([write(closes.join(quotes).to_csv())], ReadOptions(side="ask"))

        assert (ask.close == 2).all()


def test_sides_may_be_stated_column_by_column(daily, write):
    path = write(daily.add_prefix("Bid ").join(2 * daily.add_prefix("Ask ")).to_csv())
    (bars,) = read_prices([path], ReadOptions(columns={"close": "Bid Close", "open": "Bid Open"}))

    assert equals(bars, daily)


def test_sides_of_two_header_rows_long_tables_and_files(daily, write, tmp_path):
    bids_and_asks = {"EURUSD_bid": daily, "EURUSD_ask": daily * 2}
    long = pd.concat([texts(table).assign(symbol=name) for name, table in bids_and_asks.items()])
    (tmp_path / "folder").mkdir()

    for name, table in bids_and_asks.items():
        write(table.to_csv(), f"folder/{name}.csv")

    for path in (
        write(yfinance(bids_and_asks).to_csv(), "two_rows.csv"),
        write(csv_of(long), "long.csv"),
        str(tmp_path / "folder"),
    ):
        with pytest.raises(ValueError, match=r"set market.side to (bid or ask|ask or bid)"):
            read_prices([path])
        (bars,) = read_prices([path], ReadOptions(side="bid"))
        assert equals(bars, daily)


def test_words_that_hold_a_side_and_tickers_stay_what_they_are(daily, write):
    closes = pd.DataFrame({"BID": daily["Close"], "AAPL": daily["Close"], "MIDU": daily["Close"]})

    assert [bars.symbol for bars in read_prices([write(closes.to_csv())])] == [
        "BID",
        "AAPL",
        "MIDU",
    ]

    for name in ("Midcap", "Task", "Bidirectional", "Mid Cap", "Bid Ask Spread", "Forbid"):
        split = without_side(name)
        assert split in (None, ("mid", "Cap"))

    (bars,) = read_prices([write(daily.assign(**{"Mid Cap": 1.0, "Bid Ask Spread": 0.1}).to_csv())])

    assert equals(bars, daily)
