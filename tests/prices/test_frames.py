"""Frames whose index holds dates or symbols."""

import pandas as pd
import pytest
from exports import made_up, same_bars

from market_regimes.prices import read_frame

DAYS = pd.bdate_range("2019-01-02", "2020-12-31")


@pytest.mark.parametrize(
    "index",
    [
        DAYS.to_period("D"),
        DAYS.to_period("D").rename("Date"),
        pd.Index([day.date() for day in DAYS]),
        pd.Index([str(day.date()) for day in DAYS]),
        DAYS,
    ],
    ids=["periods", "named periods", "dates", "text", "times"],
)
def test_the_index_of_a_frame_may_hold_its_dates_in_any_form(index):
    table = made_up(DAYS)
    (bars,) = read_frame(table.set_axis(index), "A")
    same_bars(bars, table)


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("names", [None, ["symbol", None], [None, "date"], ["symbol", "date"]])
def test_an_index_of_symbols_and_dates_needs_no_names(names, swapped):
    tables = {"C": made_up(DAYS, seed=0), "SPY": made_up(DAYS, seed=1)}
    both = pd.concat(tables, names=names)
    found = read_frame(both.swaplevel() if swapped else both, None)

    assert [bars.symbol for bars in found] == ["C", "SPY"]

    for bars in found:
        same_bars(bars, tables[bars.symbol])
