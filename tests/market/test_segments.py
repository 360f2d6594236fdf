"""Segments: the symbols that take part in each period, the bars that count, and what scales them."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from market_regimes.config import MarketConfig, PortfolioConfig
from market_regimes.market.describe import absent, notes_of
from market_regimes.market.segments import read_data, segments_of
from market_regimes.run.provenance import provenance


def test_symbols_take_part_while_they_exist(write_days):
    """The first is always there, the second ends in the training period, the third comes in the test period."""
    data = [
        write_days("all", 1000),
        write_days("early", 400),
        write_days("late", 200, start="2003-02-03"),
    ]
    stated = MarketConfig(data=data)
    read = read_data(stated)
    there = {name: [segment.market.symbol for segment in found] for name, found in read.segments.items()}

    assert there == {"train": ["all", "early"], "validation": ["all"], "test": ["all"]}
    assert absent(read) == [
        "late: left out, for want of bars in the training period",
        "early: no bars in the validation period",
        "early: no bars in the test period",
    ]
    assert notes_of(read, stated)[0].startswith("periods of 60, 15 and 25 % of the days: train 2000-01-03 to ")

    with pytest.raises(
        ValueError,
        match=r"market\.test: no symbol has enough bars in 2003-11-03 to 2003-11-04",
    ):
        segments_of(replace(read.config, test=("2003-11-03", "2003-11-04")))


@pytest.mark.parametrize(("bars", "there"), [(39, False), (40, True)])
def test_a_symbol_beside_others_needs_twenty_bars_after_its_warm_up(write_days, bars, there):
    """Its first 20 bars have no volatility; the training period ends on the last business day before the test."""
    train = ("2000-01-03", str(pd.bdate_range("2001-01-01", periods=bars)[-1].date()))
    data = [write_days("all", 600), write_days("late", 100, start="2001-01-01")]
    after = [str(day.date()) for day in pd.bdate_range(train[1], periods=61)]
    config = MarketConfig(
        data=data,
        train=train,
        validation=(after[1], after[20]),
        test=(after[21], after[60]),
    )
    found = [segment.market.symbol for segment in segments_of(config)["train"]]

    assert found == (["all", "late"] if there else ["all"])


def test_an_own_index_must_reach_the_last_period(write_days):
    index = np.full(600, 20.0)
    index[-3] = np.nan  # in the test period

    with pytest.raises(ValueError, match="no volatility_index for 1 of the bars"):
        segments_of(MarketConfig(data=write_days("a", 600, vix=index)))


@pytest.mark.parametrize(("bar", "changes"), [(-51, True), (-50, False)])
def test_the_last_bar_that_is_used_is_the_last_that_counts(write_days, bar, changes):
    """600 bars, of which the test period leaves out 50: the bar before them counts, the first of them does not."""
    path = write_days("a", 600)
    table = pd.read_csv(path)
    days = table["date"].tolist()
    config = MarketConfig(
        data=path,
        train=(days[0], days[299]),
        validation=(days[300], days[399]),
        test=(days[400], days[549]),
    )
    before = provenance(0, segments_of(config))["data"]["a"]["months"]
    table.loc[600 + bar, "close"] *= 1.0001
    table.loc[600 + bar, "high"] *= 1.001
    table.to_csv(path, index=False)

    assert (provenance(0, segments_of(config))["data"]["a"]["months"] != before) == changes


def test_groups_of_symbols_that_the_data_lack_are_refused_and_those_without_a_group_are_noted(write_days):
    data = [write_days("first", 600), write_days("second", 600), write_days("third", 600)]
    groups = PortfolioConfig(cash="shared", groups={"first": "x"}, group_max={"x": 0.5})
    stated = MarketConfig(data=data, portfolio=groups)

    note = "market.portfolio.groups: 2 of 3 symbols have no group: second, third"
    assert note in notes_of(read_data(stated), stated)
    assert not any("groups" in line for line in notes_of(read_data(MarketConfig(data=data)), MarketConfig(data=data)))

    typo = PortfolioConfig(cash="shared", groups={"secnod": "x"}, group_max={"x": 0.5})
    with pytest.raises(ValueError, match=r"groups names secnod, which the data lack: second is nearest"):
        read_data(replace(stated, portfolio=typo))
