"""Options of a user: those that are refused, and the way from the configuration to the reader."""

import pandas as pd
import pytest

from market_regimes.config import MarketConfig
from market_regimes.market.data import read_bars
from market_regimes.prices import ReadOptions


def test_the_configuration_hands_the_options_on(daily, write):
    path = write(pd.DataFrame({"apple": daily["Close"], "jpm": daily["Close"]}).to_csv())

    assert [bars.symbol for bars in read_bars(MarketConfig(path, closes=["jpm"]))] == ["jpm"]

    path = write(pd.DataFrame({"Bid": daily["Close"], "Ask": daily["Close"] * 2}).to_csv())

    assert read_bars(MarketConfig(path, side="ask"))[0].close[0] == 2 * daily["Close"].iloc[0]

    for wrong, expected in (
        (
            dict(side="both"),
            r"market\.side must be 'bid', 'ask', 'mid' or null, got 'both'",
        ),
        (dict(closes=[]), r"market\.closes names no column"),
        (
            dict(off_grid="merge"),
            r"market\.off_grid must be 'drop', 'keep' or null, got 'merge'",
        ),
    ):
        with pytest.raises(ValueError, match=expected):
            MarketConfig(path, **wrong)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            dict(columns={"prize": "Close"}),
            r"market\.columns: prize is none of date, time, symbol, open, high, low, ",
        ),
        (dict(decimal=";"), r"market\.decimal is '\.' or ',', got ';'"),
        (
            dict(date_format="day first"),
            r"market\.date_format is day_first, month_first or a format like %d/%m/%Y",
        ),
    ],
)
def test_options_that_no_file_can_be_read_by_are_refused(options, expected):
    with pytest.raises(ValueError, match=expected):
        ReadOptions(**options)
