"""Folds by hand-counted dates; cells that fail, are killed, are resumed, in processes and on Ray."""

import json
import os
import signal
from dataclasses import replace

import pytest
from filelock import FileLock
from test_cells import CELL

from market_regimes.cells import run_cell
from market_regimes.comparison import CompareConfig, Comparison, cells_of, folds_of
from market_regimes.study import MarketConfig, RunConfig


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


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (dict(first_test="2019-06-01"), "leaves no test period of sp500"),
        (dict(first_test="1998-01-01"), "leaves no test period of sp500"),
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


def make_cells(variants, seeds="0-1", **compare):
    config = CompareConfig(seeds=seeds, first_test="2011-01-01", test_years=8, baseline=next(iter(variants)), **compare)
    return cells_of(
        config, RunConfig(), {name: {"vf_coef": 2.0} for name in variants}, variants, folds_of(config, MarketConfig())
    )


@pytest.mark.parametrize(
    ("variants", "words"),
    [
        ({"a": {}, "b": {"vf_coef_of": "c"}}, "variants.b.vf_coef_of=c"),
        ({"a": {"vf_coef_of": "a"}}, "variants.a.vf_coef_of=a"),
        ({"a": {"adaptive_kl": -1}}, "variants.a.adaptive_kl must be a number above 0"),
        ({"a": {"chosen_before": "once"}}, "variants.a.chosen_before must be a day"),
    ],
)
def test_variants_that_refer_to_nothing_are_refused(variants, words):
    with pytest.raises(ValueError, match=words):
        make_cells(variants)


def test_a_variant_is_not_tested_on_the_days_it_was_chosen_by():
    variants = {"a": {}, "b": {"chosen_before": "2012-01-01"}}
    assert {cell.variant for cell in make_cells(variants)} == {"a"}


def make_fake():
    """What a cell does in these tests is by its variant; runs are counted in files. Nested, so that Ray can send it."""

    def fake(cell):
        if cell.variant == "real":
            return run_cell(cell)
        path = cell.algorithm["counts"] / f"{cell.variant}-{cell.seed}"
        with open(path, "a") as file:
            file.write("x")
        if cell.variant == "raises" or (cell.variant == "raises once" and path.read_text() == "x"):
            raise ValueError("no such thing\nand more")
        if cell.variant == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        return {"figures": {"weight_mean": 0.5, "vf_coef": cell.algorithm["vf_coef"]}}

    return fake


def count(folder, cell):
    return len((folder / f"{cell.variant}-{cell.seed}").read_text())


def comparison(tmp_path, variants, seeds="0-1"):
    counts = tmp_path / "counts"
    counts.mkdir(exist_ok=True)
    cells = [replace(cell, algorithm={**cell.algorithm, "counts": counts}) for cell in make_cells(variants, seeds)]
    return Comparison(tmp_path / "run", cells, function=make_fake()), counts


REAL = replace(CELL, variant="real")


@pytest.mark.parametrize("executor", ["processes", "ray"])
def test_failing_cells_are_tried_twice_and_the_rest_give_what_they_give_here(tmp_path, executor):
    if executor == "ray":
        pytest.importorskip("ray", reason="needs the extra ray")
    made, counts = comparison(tmp_path, {"fine": {}, "raises": {}, "raises once": {}, "last": {}, "killed": {}}, "0")
    made = Comparison(tmp_path / "with real", [REAL, *made.cells], function=made.function)
    made.run(executor, workers=2, progress_bar=False)
    for i, cell in enumerate(made.cells):
        result = made.result(i)
        assert result["status"] == ("failed" if cell.variant in ("killed", "raises") else "ok")
        if cell.variant in ("killed", "raises", "raises once"):
            assert count(counts, cell) == 2
        if cell.variant == "raises":
            assert result["error"].startswith("ValueError: no such thing")
    real, here = made.result(0), run_cell(REAL)
    assert real == {"status": "ok", **json.loads(json.dumps(here)), "seconds": real["seconds"]}


def test_only_what_has_no_whole_result_runs_again(tmp_path):
    made, counts = comparison(tmp_path, {"a": {}, "raises once": {}, "b": {}}, seeds="0")
    made.run("processes", workers=2, progress_bar=False)
    made.paths[0].write_text('{"status": "ok", "figu')  # torn
    made.paths[2].write_text(json.dumps({"status": "failed", "error": "of an older day"}))
    made.run("processes", workers=2, progress_bar=False)
    assert [count(counts, cell) for cell in made.cells] == [2, 2, 2]
    assert all(made.result(i)["status"] == "ok" for i in range(3))
    assert not list(tmp_path.glob("run/cells/*.tmp"))


def test_the_control_takes_the_mean_weight_of_its_fold_and_seed(tmp_path):
    made, _ = comparison(
        tmp_path, {"a": {}, "control": {"vf_coef_of": "a"}, "of a failure": {"vf_coef_of": "raises"}, "raises": {}}
    )
    made.run("processes", workers=2, progress_bar=False)
    results = {(cell.variant, cell.seed): made.result(i) for i, cell in enumerate(made.cells)}
    assert results["control", 1]["figures"]["vf_coef"] == 1.0  # 2.0 times 0.5
    assert results["of a failure", 0]["error"] == "raises has no mean weight to take: it failed, or does not scale"


def test_names_of_any_kind_have_files_of_their_own(tmp_path):
    made, _ = comparison(tmp_path, {"a/b": {}, "a-b": {}, "a b": {}, "ä" * 300: {}}, seeds="0")
    assert len(set(made.paths.values())) == 4
    made.run("processes", workers=1, progress_bar=False)
    assert all(path.exists() for path in made.paths.values())


def test_cells_of_other_data_and_two_processes_in_one_folder_are_refused(tmp_path):
    Comparison(tmp_path, [], {"sp500": "one"})
    Comparison(tmp_path, [], {"sp500": "one"})
    with pytest.raises(ValueError, match="data with another fingerprint"):
        Comparison(tmp_path, [], {"sp500": "two"})
    with FileLock(tmp_path / ".lock"), pytest.raises(ValueError, match="another process is comparing"):
        Comparison(tmp_path, []).run("processes", workers=1)
