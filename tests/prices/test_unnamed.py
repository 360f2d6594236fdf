"""Columns without names: what they show is read and noted, what they leave open is refused."""

import numpy as np
import pandas as pd
import pytest
from exports import csv_of, equals, texts

from market_regimes.prices import ReadOptions, read_prices
from market_regimes.prices.unnamed import extremes_of

ORDERS = {
    "Open, High, Low, Close": "open is column 2, high is column 3, low is column 4, close is column 5",
    "High, Low, Open, Close": "open is column 4, high is column 2, low is column 3, close is column 5",
    "Open, Close, Low, High": "open is column 2, high is column 5, low is column 4, close is column 3",
    "Low, Open, High, Close": "open is column 3, high is column 4, low is column 2, close is column 5",
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("newest_first", [False, True])
def test_prices_show_which_column_is_which(daily, write, order, newest_first):
    table = daily[order.split(", ")]

    if newest_first:
        table = table[::-1]

    (bars,) = read_prices([write(table.to_csv(header=False))])

    assert equals(bars, daily)
    assert f"no header: {ORDERS[order]}" in bars.notes.assumptions


OPEN = {
    "the close before the open": lambda t: t[["Close", "High", "Low", "Open"]],
    "no high": lambda t: t[["Open", "Low", "Close", "Close"]],
    "no open": lambda t: t[["High", "Low", "Close"]],
    "two closes": lambda t: t[["Close", "Close"]],
    "prices of different instruments": lambda t: t[["Open", "High", "Low", "Close"]] * [1, 2, 1, 1],
}


@pytest.mark.parametrize("kind", OPEN)
def test_columns_that_may_be_several_things_are_refused_with_the_option(daily, write, kind):
    path = write(OPEN[kind](daily).to_csv(header=False))

    with pytest.raises(
        ValueError,
        match=r"has no header, and its \d columns may be .*: market\.columns states",
    ):
        read_prices([path])


def test_a_word_is_the_symbol_and_a_fifth_number_the_volume(daily, write):
    path = write(csv_of(texts(daily).assign(symbol="SPY"), header=False))

    (bars,) = read_prices([path])

    assert bars.symbol == "SPY"
    assert equals(bars, daily)
    assert np.array_equal(bars.volume, daily["Volume"])


def test_columns_that_are_stated_by_number_are_not_guessed(daily, write):
    path = write(daily[["Close", "High", "Low", "Open"]].to_csv(header=False))

    (bars,) = read_prices([path], ReadOptions(columns={"close": "2", "open": "5"}))

    assert equals(bars, daily)


@pytest.mark.parametrize(
    ("prices", "expected"),
    [
        ([[2, 3, 1, 2], [2, 3, 2, 2.5]], (1, 2)),
        ([[2, 3, 1, 3], [2, 3, 1, 3]], None),  # two columns are the highest
        ([[2, 3, 1, 2], [3, 2, 1, 2]], None),  # none is always the highest
        ([[np.nan, 3, 2, 2], [2, 3, 2, 2.5]], None),
    ],
)
def test_the_extremes_are_the_only_high_and_the_only_low(prices, expected):
    scaled = 1.0 + np.array(prices, dtype=float) / 10  # a range below 1.5

    assert extremes_of(scaled) == expected


def test_a_range_of_half_the_price_is_not_that_of_a_bar():
    assert extremes_of(np.array([[1.2, 1.49, 1.0, 1.1]])) == (1, 2)
    assert extremes_of(np.array([[1.2, 1.5, 1.0, 1.1]])) is None


def test_dates_without_a_number_are_refused(daily, write):
    days = pd.DataFrame({"day": daily.index.strftime("%Y-%m-%d"), "note": "text"})

    with pytest.raises(ValueError, match=r"market\.columns"):
        read_prices([write(days.to_csv(index=False, header=False))])
