"""Days and months in either order."""

import pandas as pd
import pytest
from exports import BARS, csv_of, equals, texts

from market_regimes.prices import ReadOptions, read_prices


def few(daily, date):
    """Days up to the twelfth only, of many months: nothing decides what is the month."""
    days = pd.DatetimeIndex(
        [f"{2000 + i // 12}-{i % 12 + 1:02d}-{i % 7 + 1:02d}" for i in range(BARS)],
        name="Date",
    )

    return csv_of(texts(daily.set_index(days), date)), daily.set_index(days)


def test_day_and_month_are_not_guessed(daily, write):
    text, table = few(daily, "%d/%m/%Y")

    with pytest.raises(
        ValueError,
        match=r"01/01/2000 may have the day or the month first.*market\.date_format",
    ):
        read_prices([write(text)])

    (bars,) = read_prices([write(text)], ReadOptions(date_format="day_first"))

    assert equals(bars, table)

    text, table = few(daily, "%m/%d/%Y %H:%M")

    assert equals(read_prices([write(text)], ReadOptions(date_format="month_first"))[0], table)
    assert equals(read_prices([write(text)], ReadOptions(date_format="%m/%d/%Y %H:%M"))[0], table)

    text = csv_of(texts(daily, "%d/%m/%y"))

    with pytest.raises(
        ValueError,
        match=r"year of two digits, as in 03/01/00, leaves the order open: set market\.date_format",
    ):
        read_prices([write(text)])

    for stated in ("%d/%m/%y", "day_first"):
        assert equals(read_prices([write(text)], ReadOptions(date_format=stated))[0], daily)

    text = csv_of(texts(daily, "%d. %m. %Y, 00h +0900"))
    (bars,) = read_prices([write(text)], ReadOptions(date_format="%d. %m. %Y, %Hh %z"))

    assert equals(bars, daily)
    assert bars.zone == "+09:00"
