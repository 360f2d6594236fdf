"""Folds of a search. Oracles: days counted by hand, and the rule that a search knows nothing of the test period."""

from dataclasses import replace

import pytest

from market_regimes.config import MarketConfig, TuneConfig
from market_regimes.tune.folds import folds_before_test

PERIODS = dict(
    train=("2000-01-03", "2001-06-29"), validation=("2001-07-02", "2001-12-31"), test=("2002-01-01", "2002-04-19")
)


# 521 bars before the test; folds begin in the middle of 2000-01-03 to 2001-12-31.
TUNE = TuneConfig(trials=3, workers=1, seeds="0-1", first_validation="2001-02-01", validation_years=1, embargo_days=0)


@pytest.fixture
def prices(make_prices, tmp_path):
    """A function from a change of prices to the data of a search."""

    def prices(name="own", change=lambda table: table):
        (tmp_path / name).mkdir()
        change(make_prices(600)).to_csv(tmp_path / name / "own.csv", index=False)
        return MarketConfig(str(tmp_path / name / "own.csv"), **PERIODS, episode_bars=60)

    return prices


def test_folds_walk_forward_to_the_day_before_the_test(prices, make_prices, tmp_path):
    """2000-01-03 to 2004-12-31: the middle of the 1825 days is 2002-07-03 (912 days on), and 2.5 years follow."""
    (tmp_path / "long").mkdir()
    make_prices(1500).to_csv(tmp_path / "long/own.csv", index=False)
    periods = dict(train=("2000-01-03", "2002-12-31"), validation=("2003-01-01", "2004-12-31"))
    market = MarketConfig(str(tmp_path / "long/own.csv"), **periods, test=("2005-01-01", "2005-09-01"))
    folds = folds_before_test(TuneConfig(validation_years=1), market)

    assert [fold.market.days("validation") for fold in folds] == [
        ("2002-07-03", "2003-07-02"),
        ("2003-07-03", "2004-07-02"),
        ("2004-07-03", "2004-12-31"),
    ]
    assert folds[0].market.train == ("2000-01-03", "2002-06-02")  # 30 days between

    short = folds_before_test(TuneConfig(validation_years=1, train_years=2, embargo_days=0), market)

    assert short[1].market.train == ("2001-07-03", "2003-07-02")


@pytest.mark.parametrize(
    ("tune", "sentence"),
    [
        (
            replace(TUNE, first_validation="2002-01-01"),
            r"must lie after the first bar, 2000-01-03, and before the test",
        ),
        (replace(TUNE, first_validation="1999-01-01"), r"must lie after the first bar, 2000-01-03"),
        (replace(TUNE, first_validation="soon"), r"first_validation must be a day like"),
        (
            replace(TUNE, first_validation="2000-06-01", validation_years=2),
            r"no fold before the test period, from 2002-01-01 on, has bars",
        ),
    ],
)
def test_folds_that_cannot_be_are_refused(tune, sentence, prices):
    with pytest.raises(ValueError, match=sentence):
        folds_before_test(tune, prices())
