"""Folds by hand-counted dates; of foreign files, whose test periods come from the file, beside its own dates."""

import itertools

import numpy as np
import pandas as pd
import pytest
import yaml

from market_regimes.commands import parsers
from market_regimes.compare.comparison import Comparison, cells_of
from market_regimes.compare.folds import chosen_elsewhere, folds_of, why_not
from market_regimes.config import CompareConfig, MarketConfig, RunConfig
from market_regimes.market import data
from train_model_multi_patch import main

SHIPPED = dict(shipped_first_test="2007-01-01", shipped_last_test="2014-12-31")


def folds(**keys):
    return folds_of(CompareConfig(**keys), MarketConfig())


def test_folds_walk_forward_with_an_embargo():
    found = folds(first_test="2007-01-01", test_years=4, embargo_days=30)
    assert [fold.name for fold in found] == ["2007-01 to 2010-12", "2011-01 to 2014-12", "2015-01 to 2018-12"]
    assert [fold.market.train for fold in found] == [
        ("1999-01-04", "2006-12-01"),  # the 30 days from the 2nd to the 31st are left out
        ("1999-01-04", "2010-12-01"),
        ("1999-01-04", "2014-12-01"),
    ]
    assert [fold.market.test[0] for fold in found] == ["2007-01-01", "2011-01-01", "2015-01-01"]
    assert not any(fold.missing for fold in found)


def test_training_periods_of_a_fixed_length():
    (fold,) = folds(first_test="2015-01-01", train_years=3, embargo_days=0)
    assert fold.market.train == ("2012-01-01", "2014-12-31")


def test_folds_with_too_few_days_are_named():
    short_test = folds(first_test="2010-12-15", test_years=4)[-1]
    assert short_test.missing == "its test period has 10 bars, 60 are needed"  # 2018-12-15 to 2018-12-31
    short_training = folds(first_test="1999-09-01", test_years=10)[0]
    assert short_training.missing.startswith("its training period has 1")


def test_by_default_the_second_half_of_the_data_is_tested():
    assert folds(test_years=5)[0].market.test[0] == "2009-01-01"


def test_the_last_test_period_ends_where_it_is_told_to_or_with_the_data():
    assert folds(first_test="2007-01-01", last_test="2009-06-30", test_years=2)[-1].market.test == (
        "2009-01-01",
        "2009-06-30",
    )
    assert folds(first_test="2017-01-01", last_test="2030-06-30")[-1].market.test == ("2017-01-01", "2018-12-31")


@pytest.mark.parametrize("embargo", [0, 1, 30, 400])
@pytest.mark.parametrize("years", [1, 3])
def test_no_training_day_is_within_the_embargo_and_test_periods_touch(embargo, years):
    found = [fold.market for fold in folds(first_test="2010-01-01", test_years=years, embargo_days=embargo)]
    for market in found:
        assert pd.Timestamp(market.test[0]) - pd.Timestamp(market.train[1]) == pd.Timedelta(days=embargo + 1)
        assert market.train[0] == "1999-01-04"
    for one, two in itertools.pairwise(found):
        assert pd.Timestamp(two.test[0]) - pd.Timestamp(one.test[1]) == pd.Timedelta(days=1)
    assert found[-1].test[1] == "2018-12-31"


@pytest.fixture
def files(tmp_path, make_prices):
    """Business days from Monday 2000-01-03 and from Monday 2001-01-01; the second one ends first."""
    found = {}
    for name, start, bars in (("early", "2000-01-03", 1500), ("late", "2001-01-01", 1000)):
        found[name] = str(tmp_path / f"{name}.csv")
        make_prices(bars, seed=bars, start=start).to_csv(found[name], index=False)
    return found


@pytest.mark.parametrize("order", [("early", "late"), ("late", "early")])
def test_several_symbols_have_the_days_of_any_of_them(files, order):
    """1,500 business days, 300 weeks, from 2000-01-03 end on Friday 2005-09-30; half of 2,097 days is 1048.5."""
    config = MarketConfig(data=[files[name] for name in order])
    (fold,) = folds_of(CompareConfig(first_test="2003-01-01", test_years=4), config)
    assert fold.market.train == ("2000-01-03", "2002-12-01")
    assert fold.market.test == ("2003-01-01", "2005-09-30")
    assert fold.label == "+".join(order)
    assert fold.market.data == config.data
    (by_default,) = folds_of(CompareConfig(), config)
    assert by_default.market.test == ("2002-11-16", "2005-09-30")
    (recent,) = folds_of(CompareConfig(first_test="2003-01-01", train_years=3), config)
    assert recent.market.train[0] == "2000-01-03"
    for first_test in ("1999-06-01", "2005-10-01"):
        with pytest.raises(ValueError, match="from 2000-01-03 to 2005-09-30"):
            folds_of(CompareConfig(first_test=first_test), config)


def test_markets_of_their_own_have_days_of_their_own(files):
    compare = CompareConfig(first_test="2003-01-01", test_years=9, markets=[files["late"], "sp500", files["early"]])
    found = folds_of(compare, MarketConfig())
    assert [fold.label for fold in found] == ["late", "sp500", "sp500", "early"]
    assert [fold.market.data for fold in found] == [files["late"], "sp500", "sp500", files["early"]]
    assert [fold.market.train[0] for fold in found] == ["2001-01-01", "1999-01-04", "1999-01-04", "2000-01-03"]
    assert [fold.market.test[1] for fold in found] == ["2004-10-29", "2011-12-31", "2018-12-31", "2005-09-30"]
    assert len({fold.fingerprint for fold in found}) == 4  # of the bars until each test period's end


@pytest.mark.parametrize(
    ("last_training_day", "first_test", "missing"),
    [
        (252, 312, None),
        (251, 312, "its training period has 251 bars, 252 are needed"),
        (252, 311, "its test period has 59 bars, 60 are needed"),
    ],
)
def test_just_enough_bars(tmp_path, make_prices, last_training_day, first_test, missing):
    """Bars a day: with N of them before the first test day, and M in all, N are for training and M - N for the test."""
    path = tmp_path / "daily.csv"
    make_prices(first_test, frequency="D", start="2001-01-01").to_csv(path, index=False)
    first = str((pd.Timestamp("2001-01-01") + pd.Timedelta(days=last_training_day)).date())
    (fold,) = folds_of(CompareConfig(first_test=first, embargo_days=0), MarketConfig(data=str(path), bars_per_year=365))
    assert fold.missing == missing


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_symbol_with_the_most_bars_decides(tmp_path, make_prices, order):
    """400 days before the test, of which one symbol has every other one."""
    prices = make_prices(600, frequency="D", start="2001-01-01")
    paths = [str(tmp_path / "whole.csv"), str(tmp_path / "halved.csv")]
    for path, kept in zip(paths, (prices, prices[(prices.index % 2 == 0) | (prices.index >= 400)]), strict=True):
        kept.to_csv(path, index=False)
    config = MarketConfig(data=[paths[i] for i in order], bars_per_year=365)
    first = str((pd.Timestamp("2001-01-01") + pd.Timedelta(days=400)).date())
    fold = folds_of(CompareConfig(first_test=first, embargo_days=0), config)[0]
    assert fold.missing is None
    assert {segment.market.symbol for segment in fold.segments["train"]} == {"whole", "halved"}


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (dict(first_test="2019-06-01"), "leaves no test period of sp500"),
        (dict(first_test="1998-01-01"), "leaves no test period of sp500"),
        (dict(first_test="1999-01-04"), "leaves no test period of sp500"),  # the first day
        (dict(first_test="soon"), "compare.first_test must be a day like 2007-01-01, got 'soon'"),
        (dict(test_years=0), "compare.test_years must be at least 1"),
        (dict(embargo_days=-1), "compare.embargo_days must be at least 0"),
        (dict(seeds="many"), "expected seeds like 0-4"),
        (dict(markets=[]), "names no market"),
        (dict(markets=["nowhere"]), "nowhere"),
    ],
)
def test_what_cannot_be_divided_is_refused(keys, words):
    with pytest.raises(ValueError, match=words):
        folds(**keys)


def test_a_file_is_read_once_for_all_folds_and_seeds(tmp_path, make_prices, monkeypatch):
    make_prices(1500).to_csv(tmp_path / "A.csv", index=False)
    reads = []
    read_prices = data.read_prices

    def counted(entries, options):
        reads.extend(entries)
        return read_prices(entries, options)

    monkeypatch.setattr(data, "read_prices", counted)
    compare = CompareConfig(test_years=1, seeds="0-2", first_test="2002-01-01")
    folds = folds_of(compare, MarketConfig(data=str(tmp_path / "A.csv")))
    used = [fold for fold in folds if fold.missing is None]
    assert len(used) > 1
    cells = cells_of(compare, RunConfig(), {"baseline": {}}, {"baseline": {}}, folds)
    assert len(cells) == 3 * len(used)
    for cell in cells:
        train, test = (cell.segments[name][0] for name in ("train", "test"))
        assert train.market is test.market
        assert train.period.stop <= test.period.start
        assert str(train.market.dates[train.period[0]])[:10] >= cell.market.train[0]
    assert reads == [str(tmp_path / "A.csv")]
    with pytest.raises(ValueError, match="names no data"):
        MarketConfig(data=[])


# Foreign files


@pytest.fixture
def stopped(monkeypatch):
    """Comparisons stop before their first cell."""

    def stop(self, *args):
        raise KeyboardInterrupt

    monkeypatch.setattr(Comparison, "run", stop)


HALVES = {  # first day, days, and the first day of the second half
    "after 2014": ("2015-01-01", 1461, "2016-12-31"),  # to 2018-12-31; half of 1,460 days is 730
    "from 2010 to 2024": ("2010-01-01", 5479, "2017-07-02"),  # to 2024-12-31; half of 5,478 is 2,739
    "before 2007": ("1990-01-01", 3652, "1994-12-31"),  # to 1999-12-31; half of 3,651 is 1825.5
    "from 2005 to 2009": ("2005-01-01", 1826, "2007-07-02"),  # to 2009-12-31; half of 1,825 is 912.5
}


def options_of(name):
    """Of a configuration that ships."""
    return yaml.safe_load((parsers.CONFIGS / f"{name}.yaml").read_text())["compare"]


@pytest.mark.parametrize("name", ["compare", "regimes"])
@pytest.mark.parametrize(("first", "days", "half"), HALVES.values(), ids=HALVES)
def test_the_shipped_configurations_divide_any_file_by_its_own_days(name, first, days, half, make_prices, tmp_path):
    path = str(tmp_path / "own.csv")
    make_prices(days, start=first, frequency="D").to_csv(path, index=False)
    found = folds_of(CompareConfig(**{**options_of(name), "markets": [path]}), MarketConfig(bars_per_year=365))
    assert found[0].market.test[0] == half
    assert found[-1].market.test[1] == str((pd.Timestamp(first) + pd.Timedelta(days=days - 1)).date())
    assert [fold.missing for fold in found] == [None] * len(found)
    assert found[0].market.train[0] == first


@pytest.mark.parametrize(
    ("command", "flag"), [("compare", "--market.data=FILE"), ("regimes", "--compare.markets=[FILE]")]
)
def test_the_commands_of_the_readme_take_a_file_that_begins_after_2014(
    command, flag, make_prices, tmp_path, capsys, stopped
):
    path = tmp_path / "own.csv"
    make_prices(1461, start="2015-01-01", frequency="D").to_csv(path, index=False)
    with pytest.raises(SystemExit) as end:
        main([command, flag.replace("FILE", str(path)), f"--run.out={tmp_path}", "--market.bars_per_year=365"])
    shown = capsys.readouterr()
    assert end.value.code == 130, shown.err
    assert "own, 2016-12 to 2018-12: train 2015-01-01 to 2016-11-30\n" in shown.out


def test_data_that_ship_keep_their_days_beside_a_file(make_prices, tmp_path):
    path = str(tmp_path / "own.csv")
    make_prices(1461, start="2015-01-01", frequency="D").to_csv(path, index=False)
    compare = CompareConfig(markets=["sp500", path], **SHIPPED)
    found = folds_of(compare, MarketConfig(bars_per_year=300))
    assert [(fold.label, *fold.market.test) for fold in found] == [
        ("sp500", "2007-01-01", "2010-12-31"),
        ("sp500", "2011-01-01", "2014-12-31"),
        ("own", "2016-12-31", "2018-12-31"),
    ]


@pytest.mark.parametrize(
    ("given", "tests"),
    [
        ({}, [("2007-01-01", "2010-12-31"), ("2011-01-01", "2014-12-31")]),
        (dict(first_test="2011-01-01"), [("2011-01-01", "2014-12-31")]),
        (dict(last_test="2010-06-30"), [("2007-01-01", "2010-06-30")]),
        # The last day of the shipped configuration lies before what is asked for.
        (dict(first_test="2015-01-01"), [("2015-01-01", "2018-12-31")]),
    ],
)
def test_dates_that_are_given_come_before_those_of_data_that_ship(given, tests):
    found = folds_of(CompareConfig(**given, **SHIPPED), MarketConfig())
    assert [fold.market.test for fold in found] == tests


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            dict(first_test="2030-01-01"),
            r"compare.first_test=2030-01-01 leaves no test period of own, whose bars run from 2015-01-01 to 2018-12-31",
        ),
        (
            dict(last_test="2014-12-31"),
            r"compare.last_test=2014-12-31 leaves no test period of own, whose bars run from 2015-01-01 to 2018-12-31",
        ),
        (
            dict(first_test="2017-01-01", last_test="2016-01-01"),
            r"compare.first_test=2017-01-01 and compare.last_test=2016-01-01 leaves no test period of own, whose "
            r"bars run "
            r"from 2015-01-01 to 2018-12-31",
        ),
    ],
)
def test_dates_that_leave_no_test_are_named_beside_the_files_own(given, words, make_prices, tmp_path):
    path = str(tmp_path / "own.csv")
    make_prices(1461, start="2015-01-01", frequency="D").to_csv(path, index=False)
    with pytest.raises(ValueError, match=words):
        folds_of(CompareConfig(**given, **SHIPPED), MarketConfig(data=path, bars_per_year=365))


def test_no_configuration_that_ships_dates_other_files():
    """Test days stand under the keys of data that ship, and days of a choice beside the data that it was made on."""
    for name in ("train", "tune", "compare", "regimes"):
        text = (parsers.CONFIGS / f"{name}.yaml").read_text()
        entries = yaml.safe_load(text)
        assert not {"first_test", "last_test", "first_validation"} & {*entries, *entries.get("compare", {})}
        assert not {"train", "validation", "test"} & entries.get("market", {}).keys()
        for variant in entries.get("variants", {}).values():
            assert isinstance(variant.get("chosen_before", {}), dict)


@pytest.mark.parametrize(
    ("data", "first_fold"),
    [("sp500", "the variant was chosen by what it did before 2011-01-01"), ("synthetic", None), ("own", None)],
)
def test_a_choice_made_on_other_data_excludes_nothing_and_is_said(data, first_fold, make_prices, tmp_path):
    keys = {"chosen_before": {"sp500": "2011-01-01", "nasdaq": "2010-01-01"}}
    if data == "own":
        data = str(tmp_path / "own.csv")
        make_prices(5479, start="2000-01-01", frequency="D").to_csv(data, index=False)
    found = folds_of(CompareConfig(**SHIPPED), MarketConfig(data=data, bars_per_year=300))
    assert why_not(found[0], keys) == first_fold
    assert why_not(found[-1], keys) is None
    expected = [] if first_fold else [found[0].label]
    sentences = chosen_elsewhere(found, {"recommended": keys, "other": {}, "dated": {"chosen_before": "2030-01-01"}})
    assert sentences == [
        f"recommended was chosen by tests on sp500 and nasdaq before 2011-01-01: if {label} moves with them, its "
        f"figures "
        "of these days are too good"
        for label in expected
    ]


def test_a_search_of_a_file_ends_before_its_own_test(make_prices, tmp_path, capsys, monkeypatch):
    """1,461 days from 2020-01-01: the test begins 0.75 of them on, 1,096 days after the first, on 2023-01-01."""
    make_prices(1461, start="2020-01-01", frequency="D").to_csv(tmp_path / "own.csv", index=False)

    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("market_regimes.commands.tune.run_search", stop)
    with pytest.raises(SystemExit):
        main(["tune", f"--market.data={tmp_path / 'own.csv'}", f"--run.out={tmp_path}", "--market.bars_per_year=365"])
    shown = capsys.readouterr().out
    last_days = [line.split(" to ")[-1] for line in shown.splitlines() if "validate" in line]
    assert last_days == ["2022-12-31"]
    assert np.datetime64("2020-01-01") + round(0.75 * 1461) == np.datetime64("2023-01-01")
