"""Periods by date: those of the data that ship, shares of others, and what is refused."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from markets import load_shipped

from market_regimes.config import MarketConfig
from market_regimes.market.data import read_bars
from market_regimes.market.describe import absent, assumed, described, lines_of, notes_of
from market_regimes.market.periods import check_periods, date_text, period_of, with_periods
from market_regimes.market.segments import read_data, segments_of
from market_regimes.run.provenance import provenance


@pytest.fixture
def write(tmp_path, make_prices):
    """A function that writes made-up business days and gives the file's path."""

    def write(name, bars=600, start="2000-01-03", **columns):
        path = tmp_path / f"{name}.csv"
        make_prices(bars, start=start).assign(**columns).to_csv(path, index=False)
        return str(path)

    return write


def test_periods_of_own_data_are_shares_of_their_days(write):
    """500 business days from Monday 2000-01-03 end on Friday 2001-11-30; of 698 days 0.6 are 419 and 0.75 are 524."""
    config = MarketConfig(data=write("a", 500))
    found = with_periods(config, read_bars(config))
    first = np.datetime64("2000-01-03")
    assert found.train == ("2000-01-03", str(first + 418))
    assert found.validation == (str(first + 419), str(first + 523))
    assert found.test == (str(first + 524), "2001-11-30")
    assert with_periods(found, read_bars(config)) == found


def test_a_symbol_that_comes_later_widens_them(write):
    config = MarketConfig(data=[write("a", 500), write("b", 500, start="2002-01-07")])
    found = with_periods(config, read_bars(config))
    assert (found.train[0], found.test[1]) == ("2000-01-03", "2003-12-05")


def test_shipped_data_have_their_own_and_may_get_others():
    config = MarketConfig(data=["sp500", "nasdaq"], test=("2011-01-01", "2012-12-31"))
    found = with_periods(config, [])
    assert found.train == ("1999-01-01", "2008-12-31")
    assert found.test == ("2011-01-01", "2012-12-31")


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        ("train", "market.validation and market.test should be two days"),
        ("test", "market.train and market.validation should be two days"),
    ],
)
def test_some_periods_of_own_data_are_not_enough(write, stated, words):
    config = replace(MarketConfig(data=write("a")), **{stated: ("2000-01-03", "2000-12-29")})
    with pytest.raises(ValueError, match=words):
        with_periods(config, read_bars(config))


def test_symbols_take_part_while_they_exist(write):
    """The first is always there, the second ends in the training period, the third comes in the test period."""
    data = [write("all", 1000), write("early", 400), write("late", 200, start="2003-02-03")]
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
    with pytest.raises(ValueError, match=r"market\.test: no symbol has enough bars in 2003-11-03 to 2003-11-04"):
        segments_of(replace(read.config, test=("2003-11-03", "2003-11-04")))


def test_what_is_said_of_a_file_holds_of_its_market(write):
    path = write("a", 600, vix=20.0)
    (found,) = described(read_data(MarketConfig(data=path)))
    table = pd.read_csv(path)
    assert (found["symbol"], found["bars"], found["bars_per_year"]) == ("a", 600, 261)
    assert (found["first"], found["last"]) == ("2000-01-03T00:00:00", "2002-04-19T00:00:00")
    assert (found["first_close"], found["last_close"]) == (table["close"].iloc[0], table["close"].iloc[-1])
    assert (found["volatility_index"], found["fill"], found["unused_columns"]) == ("own", "next_open", ["volume"])
    assert sum(found["regimes"].values()) == 600  # an own index knows the first bars, too
    assert [found["periods"][name]["bars"] for name in ("train", "validation", "test")] == [360, 90, 150]
    lines = lines_of(found)
    assert lines[0] == f"a ({path})"
    assert "2000-01-03 (close" in lines[1]
    assert "261 a year" in lines[1]


def test_closes_only_are_filled_at_the_close(write, tmp_path):
    table = pd.read_csv(write("a"))[["date", "close"]]
    table.to_csv(tmp_path / "closes.csv", index=False)
    data = read_data(MarketConfig(data=str(tmp_path / "closes.csv")))
    (found,) = described(data)
    assert found["fill"] == "close"
    assert assumed(data.read) == ["closes: no opening prices: orders fill at the close"]


@pytest.mark.parametrize(
    ("days", "words"),
    [
        ((("2000-01-03", "2000-12-29"), ("2000-12-29", "2001-06-29"), ("2001-07-02", "2002-04-19")), "without overlap"),
        ((("2000-01-03", "2000-12-29"), ("2001-01-01", "2001-06-29"), ("2001-07-02", "2002-04-30")), "is not covered"),
        ((("1999-12-23", "2000-12-29"), ("2001-01-01", "2001-06-29"), ("2001-07-02", "2002-04-19")), "is not covered"),
    ],
)
def test_a_shared_day_and_eleven_days_without_data_are_refused(write, days, words):
    """The bars run from 2000-01-03 to 2002-04-19; 10 days beyond either end may be holidays."""
    train, validation, test = days
    config = MarketConfig(data=write("a", 600), train=train, validation=validation, test=test)
    with pytest.raises(ValueError, match=words):
        segments_of(config)


@pytest.mark.parametrize(("bars", "there"), [(39, False), (40, True)])
def test_a_symbol_beside_others_needs_twenty_bars_after_its_warm_up(write, bars, there):
    """Its first 20 bars have no volatility; the training period ends on the last business day before the test."""
    train = ("2000-01-03", str(pd.bdate_range("2001-01-01", periods=bars)[-1].date()))
    data = [write("all", 600), write("late", 100, start="2001-01-01")]
    after = [str(day.date()) for day in pd.bdate_range(train[1], periods=61)]
    config = MarketConfig(data=data, train=train, validation=(after[1], after[20]), test=(after[21], after[60]))
    found = [segment.market.symbol for segment in segments_of(config)["train"]]
    assert found == (["all", "late"] if there else ["all"])


def test_an_own_index_must_reach_the_last_period(write):
    index = np.full(600, 20.0)
    index[-3] = np.nan  # in the test period
    with pytest.raises(ValueError, match="no volatility_index for 1 of the bars"):
        segments_of(MarketConfig(data=write("a", 600, vix=index)))


@pytest.mark.parametrize(("bar", "changes"), [(-51, True), (-50, False)])
def test_the_last_bar_that_is_used_is_the_last_that_counts(write, bar, changes):
    """600 bars, of which the test period leaves out 50: the bar before them counts, the first of them does not."""
    path = write("a", 600)
    table = pd.read_csv(path)
    days = table["date"].tolist()
    config = MarketConfig(
        data=path, train=(days[0], days[299]), validation=(days[300], days[399]), test=(days[400], days[549])
    )
    before = provenance(0, segments_of(config))["data"]["a"]["months"]
    table.loc[600 + bar, "close"] *= 1.0001
    table.loc[600 + bar, "high"] *= 1.001
    table.to_csv(path, index=False)
    assert (provenance(0, segments_of(config))["data"]["a"]["months"] != before) == changes


@pytest.fixture(scope="module")
def market():
    return load_shipped("sp500")


def test_periods_include_both_dates_and_refuse_what_is_none(market):
    year = period_of(market, "2008-01-02", "2008-12-31")
    assert len(year) == 253
    assert date_text(market.dates[year[0]]) == "2008-01-02"
    assert date_text(market.dates[year[-1]]) == "2008-12-31"
    for days, expected in (
        (("2020-01-01", "2021-01-01"), "market.test: the period .* is not covered by sp500, .* to 2018-12-31"),
        (("first of May", "2021-01-01"), "market.test: a period is given by two ISO dates"),
        (("2011-01-01", "2010-01-01"), "market.test: the period .* ends before it begins"),
    ):
        with pytest.raises(ValueError, match=expected):
            check_periods(MarketConfig(test=days), ["test"], [market])


def test_periods_outside_the_data_are_refused(market):
    check_periods(MarketConfig(test=("1998-12-28", "2019-01-08")), ["test"], [market])  # a few days over: holidays
    for days in (("1990-01-01", "2008-12-31"), ("2011-01-01", "2030-12-31")):
        with pytest.raises(ValueError, match=r"is not covered by sp500, whose 5031 bars .* 1999-01-04 to 2018-12-31"):
            check_periods(MarketConfig(test=days), ["test"], [market])
