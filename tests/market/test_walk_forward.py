"""Days that walk forward. Oracle: a calendar; 31 days before 2004-01-01 is 2003-12-01."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from market_regimes.config import MarketConfig
from market_regimes.market.data import read_bars
from market_regimes.market.walk_forward import (
    WalkForward,
    day_of,
    fold_of,
    middle_of,
    shortage,
    span_of,
)


def days_of(first, last):
    return SimpleNamespace(dates=np.arange(first, last, dtype="M8[D]").astype("M8[s]"))


def test_each_period_trains_on_all_before_its_embargo_and_the_last_one_ends_with_the_data():
    division = WalkForward(years=2, train_years=None, embargo_days=30)
    begin, first, last = (pd.Timestamp(day) for day in ("2000-01-01", "2004-01-01", "2006-06-30"))

    periods = list(division.periods(begin, first, last))

    assert periods == [
        (("2000-01-01", "2003-12-01"), ("2004-01-01", "2005-12-31")),
        (("2000-01-01", "2005-12-01"), ("2006-01-01", "2006-06-30")),
    ]


@pytest.mark.parametrize(("begin", "train"), [("2000-01-01", "2003-01-01"), ("2003-06-01", "2003-06-01")])
def test_training_takes_the_years_it_is_given_where_the_data_have_them(begin, train):
    division = WalkForward(years=1, train_years=1, embargo_days=0)
    day = pd.Timestamp("2004-01-01")

    periods = list(division.periods(pd.Timestamp(begin), day, day))

    assert periods == [((train, "2003-12-31"), ("2004-01-01", "2004-01-01"))]


def test_all_symbols_together_span_the_data_and_the_middle_is_a_day():
    """2000-01-01 to 2000-01-08 are 7 days apart: the middle of them is in the fourth day."""
    read = [days_of("2000-01-02", "2000-01-09"), days_of("2000-01-01", "2000-01-05")]

    begin, end = span_of(read)

    assert (str(begin.date()), str(end.date())) == ("2000-01-01", "2000-01-08")
    assert str(middle_of(begin, end).date()) == "2000-01-04"


@pytest.mark.parametrize(
    ("needed", "reason"),
    [(3, None), (4, "its training period has 3 bars, 4 are needed")],
)
def test_a_period_is_as_long_as_its_longest_symbol(needed, reason):
    read = [days_of("2000-01-01", "2000-01-03"), days_of("2000-01-01", "2000-01-09")]

    assert shortage(read, ("2000-01-02", "2000-01-04"), "training", needed) == reason


def test_a_day_that_is_none_is_refused_with_its_key():
    assert str(day_of("2004-02-29", "first_validation").date()) == "2004-02-29"

    with pytest.raises(ValueError, match="first_validation must be a day like 2007-01-01, got 'soon'"):
        day_of("soon", "first_validation")


@pytest.mark.parametrize("scored_by", ["validation", "test"])
def test_a_fold_takes_both_periods_of_its_market_and_says_which_is_too_short(scored_by):
    """2005-2010 of a shipped index has over 252 bars; ten days of January 2011 have not the 60 that score."""
    days = {"train": ("2005-01-01", "2010-12-31"), scored_by: ("2011-01-01", "2011-12-31")}
    market = MarketConfig(data="sp500", **days)
    read = read_bars(market)

    fold = fold_of(read, market, scored_by)
    short = fold_of(read, replace(market, **{scored_by: ("2011-01-01", "2011-01-14")}), scored_by)

    assert (fold.label, fold.name, fold.missing) == ("sp500", "2011-01 to 2011-12", None)
    assert set(fold.segments) == {"train", scored_by}
    assert short.missing == f"its {scored_by} period has 10 bars, 60 are needed"  # two trading weeks
    assert short.segments == {}
