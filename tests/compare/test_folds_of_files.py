"""Test periods of foreign files come from the file. Oracles: its own dates, halved by hand."""

import numpy as np
import pandas as pd
import pytest
import yaml

from market_regimes.commands import parsers
from market_regimes.compare.comparison import Comparison
from market_regimes.compare.folds import chosen_elsewhere, folds_of, why_not
from market_regimes.config import CompareConfig, MarketConfig
from train_model_multi_patch import main

SHIPPED = dict(shipped_first_test="2007-01-01", shipped_last_test="2014-12-31")


@pytest.fixture
def stopped(monkeypatch):
    """Comparisons stop before their first cell."""

    def stop(self, *args):
        raise KeyboardInterrupt

    monkeypatch.setattr(Comparison, "run", stop)


FILES = {  # first day, days, and the first day of the second half
    "after 2014": ("2015-01-01", 1461, "2016-12-31"),  # to 2018-12-31; half of 1,460 days is 730
    "from 2010 to 2024": ("2010-01-01", 5479, "2017-07-02"),  # to 2024-12-31; half of 5,478 is 2,739
    "before 2007": ("1990-01-01", 3652, "1994-12-31"),  # to 1999-12-31; half of 3,651 is 1825.5
    "from 2005 to 2009": ("2005-01-01", 1826, "2007-07-02"),  # to 2009-12-31; half of 1,825 is 912.5
}


def options_of(name):
    """Of a configuration that ships."""
    return yaml.safe_load((parsers.CONFIGS / f"{name}.yaml").read_text())["compare"]


@pytest.mark.parametrize("name", ["compare", "regimes"])
@pytest.mark.parametrize(("first", "days", "half"), FILES.values(), ids=FILES)
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
