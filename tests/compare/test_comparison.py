"""Cells that fail, are killed, are resumed, in processes and on Ray."""

import json
import os
import re
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from builders import Here
from comparisons import cell_of_sp500
from filelock import FileLock

from market_regimes.compare.cell import run_cell
from market_regimes.compare.comparison import Comparison, cells_of
from market_regimes.compare.executors import EXECUTORS
from market_regimes.compare.folds import folds_of
from market_regimes.config import CompareConfig, MarketConfig, RunConfig


@pytest.mark.parametrize(
    ("bars", "first_test", "variants", "words"),
    [
        (400, None, {"baseline": {}}, "2001-07 to 2002-02: its training period has 199 bars, 252 are needed"),
        (300, "2001-10-01", {"baseline": {}}, "its test period has 27 bars, 60 are needed"),
        (600, "2001-12-01", {"baseline": {"chosen_before": "2003-01-01"}}, "chosen by what it did before 2003-01-01"),
    ],
)
def test_a_comparison_without_a_usable_fold_is_refused_with_the_reason(
    tmp_path, make_prices, bars, first_test, variants, words
):
    """It printed the reasons and wrote an empty report. Half of 399 days is 199; 2001-10-01 is the day after 273."""
    make_prices(bars, frequency="D", start="2001-01-01").to_csv(tmp_path / "short.csv", index=False)
    market = MarketConfig(data=str(tmp_path / "short.csv"), bars_per_year=365)
    compare = CompareConfig(first_test=first_test, embargo_days=0)
    folds = folds_of(compare, market)
    algorithms = {name: {} for name in variants}
    with pytest.raises(ValueError, match=f"there is nothing to compare.*{words}.*compare.first_test"):
        cells_of(compare, RunConfig(), algorithms, variants, folds)


def make_cells(variants, seeds="0-1", **compare):
    config = CompareConfig(seeds=seeds, first_test="2011-01-01", test_years=8, baseline=next(iter(variants)), **compare)
    return cells_of(
        config, RunConfig(), {name: {"vf_coef": 2.0} for name in variants}, variants, folds_of(config, MarketConfig())
    )


def entries_of(name):
    return yaml.safe_load((Path(__file__).parents[2] / "configs" / f"{name}.yaml").read_text("utf-8"))


def over(*layers):
    merged = {name: value for layer in layers for name, value in layer.items()}
    return merged | {"policy_kwargs": {k: v for layer in layers for k, v in layer.get("policy_kwargs", {}).items()}}


def test_the_variant_recommended_is_the_configuration_of_that_name():
    """All of it, as configs/recommended.yaml lies over configs/train.yaml."""
    shipped, train, compared = map(entries_of, ("recommended", "train", "compare"))
    wanted = over(train["algorithm"], shipped["algorithm"]) | {"n_envs": shipped["run"]["n_envs"]}
    variant = over(compared["algorithm"], compared["variants"]["recommended"])
    del wanted["seed"], variant["chosen_before"], variant["compile"]  # the same law, sooner
    assert variant == wanted


def test_the_variant_recurrent_has_the_keys_of_its_configuration():
    shipped = entries_of("recurrent")
    assert entries_of("compare")["variants"]["recurrent"] == shipped["algorithm"] | shipped["run"]


@pytest.mark.parametrize(
    ("variants", "words"),
    [
        ({"a": {}, "b": {"vf_coef_of": "c"}}, "variants.b.vf_coef_of=c"),
        ({"a": {"vf_coef_of": "a"}}, "variants.a.vf_coef_of=a"),
        ({"a": {"adaptive_kl": -1}}, "variants.a.adaptive_kl must be a number above 0"),
        ({"a": {"chosen_before": "once"}}, "variants.a.chosen_before must be a day"),
        ({"a": {"chosen_before": {"sp500": "once"}}}, "variants.a.chosen_before.sp500 must be a day"),
        ({"a": {"chosen_before": {"sp5000": "2011-01-01"}}}, "variants.a.chosen_before names sp5000"),
    ],
)
def test_variants_that_refer_to_nothing_are_refused(variants, words):
    with pytest.raises(ValueError, match=words):
        make_cells(variants)


@pytest.mark.parametrize(("day", "tested"), [("2011-01-01", True), ("2011-01-02", False), ("2010-12-31", True)])
def test_a_variant_is_not_tested_on_the_days_it_was_chosen_by(day, tested):
    variants = {"a": {}, "b": {"chosen_before": day}}
    assert {cell.variant for cell in make_cells(variants)} == ({"a", "b"} if tested else {"a"})


def test_every_cell_has_the_settings_of_its_variant_and_the_periods_of_its_fold():
    variants = {"a": {}, "b": {"n_envs": 3, "adaptive_kl": 0.02}, "c": {"vf_coef_of": "b"}}
    algorithms = {name: {"gamma": i / 10} for i, name in enumerate(variants)}
    config = CompareConfig(
        seeds="4,2", first_test="2007-01-01", test_years=6, baseline="a", markets=["sp500", "nasdaq"]
    )
    found = folds_of(config, MarketConfig())
    cells = cells_of(config, RunConfig(n_envs=5), algorithms, variants, found)
    periods = {(fold.label, fold.name): fold.market for fold in found}
    assert len(periods) == 4
    assert [(c.seed, c.label, c.fold, c.variant) for c in cells] == [
        (seed, *place, variant) for seed in (2, 4) for place in periods for variant in variants
    ]
    for cell in cells:
        assert cell.market == periods[cell.label, cell.fold]
        assert (cell.market.data, cell.fold[:7]) == (cell.label, cell.market.test[0][:7])
        assert cell.algorithm == algorithms[cell.variant]
        assert cell.run.n_envs == (3 if cell.variant == "b" else 5)
        assert cell.adaptive_kl == (0.02 if cell.variant == "b" else None)
        assert cell.vf_coef_of == ("b" if cell.variant == "c" else None)


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
        figures = {"weight_mean": 0.5 + cell.seed, "vf_coef": cell.algorithm["vf_coef"]}
        return {"figures": figures, "of": [cell.variant, cell.seed]}

    return fake


def count(folder, cell):
    return len((folder / f"{cell.variant}-{cell.seed}").read_text())


def comparison(tmp_path, variants, seeds="0-1"):
    counts = tmp_path / "counts"
    counts.mkdir(exist_ok=True)
    cells = [replace(cell, algorithm={**cell.algorithm, "counts": counts}) for cell in make_cells(variants, seeds)]
    return Comparison(tmp_path / "run", cells, function=make_fake()), counts


REAL = replace(cell_of_sp500(), variant="real")


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
            assert re.fullmatch(r"ValueError: no such thing( \(.*:\d+\))?", result["error"])  # not from all processes
        if cell.variant in ("fine", "last", "raises once"):
            assert result["of"] == [cell.variant, 0]
    real, here = made.result(0), run_cell(REAL)
    assert real == {"status": "ok", **json.loads(json.dumps(here)), "seconds": real["seconds"]}


def test_only_what_has_no_whole_result_runs_again(tmp_path, here):
    made, counts = comparison(tmp_path, {"a": {}, "raises once": {}, "b": {}, "c": {}}, seeds="0")
    made.run("processes", workers=2, progress_bar=False)
    made.paths[0].write_text('{"status": "ok", "figu')  # torn
    made.paths[2].write_text(json.dumps({"status": "failed", "error": "of an older day"}))
    made.run("processes", workers=2, progress_bar=False)
    assert [count(counts, cell) for cell in made.cells] == [2, 2, 2, 1]
    for i, cell in enumerate(made.cells):
        assert (made.result(i)["status"], made.result(i)["of"]) == ("ok", [cell.variant, 0])
    assert not list(tmp_path.glob("run/cells/*.tmp"))


def test_the_control_takes_the_mean_weight_of_its_market_fold_and_seed(tmp_path, here):
    weights = {}

    def fake(cell):
        key = (cell.label, cell.fold, cell.seed, cell.variant)
        weights[key] = 0.5 + len(weights)
        return {"figures": {"weight_mean": weights[key], "vf_coef": cell.algorithm["vf_coef"]}}

    variants = {"control": {"vf_coef_of": "a"}, "other": {}, "a": {}}
    config = CompareConfig(
        seeds="3,1", first_test="2007-01-01", test_years=6, baseline="a", markets=["sp500", "nasdaq"]
    )
    algorithms = {"control": {"vf_coef": 2.0}, "other": {"vf_coef": 3.0}, "a": {"vf_coef": 5.0}}
    cells = cells_of(config, RunConfig(), algorithms, variants, folds_of(config, MarketConfig()))
    made = Comparison(tmp_path / "run", cells, function=fake)
    made.run("processes", workers=2, progress_bar=False)
    assert len(weights) == 24
    for i, cell in enumerate(made.cells):
        own = algorithms[cell.variant]["vf_coef"]
        of = weights[cell.label, cell.fold, cell.seed, "a"]
        assert made.result(i)["figures"]["vf_coef"] == (own * of if cell.variant == "control" else own)


def test_a_control_of_a_failure_fails_with_the_reason(tmp_path, here):
    made, counts = comparison(tmp_path, {"a": {}, "raises": {}, "of a failure": {"vf_coef_of": "raises"}}, seeds="0")
    made.run("processes", workers=2, progress_bar=False)
    assert [made.result(i)["status"] for i in range(3)] == ["ok", "failed", "failed"]
    assert re.fullmatch(r"ValueError: no such thing \(test_comparison\.py:\d+\)", made.result(1)["error"])
    assert made.result(2)["error"] == "raises has no mean weight to take: it failed, or does not scale"
    assert not (counts / "of a failure-0").exists()


def test_as_many_cells_run_as_there_are_workers_and_what_failed_runs_again_alone(tmp_path, monkeypatch):
    pool, lock = ThreadPoolExecutor(8), threading.Lock()
    active, seen, again, runs = set(), set(), set(), {}

    class Threads(Here):
        def submit(self, function, cell):
            return pool.submit(function, cell)

    def fake(cell):
        with lock:
            active.add(cell)
            runs[cell.variant, cell.seed] = runs.get((cell.variant, cell.seed), 0) + 1
            (seen if runs[cell.variant, cell.seed] == 1 else again).add(len(active))
        time.sleep(0.02)
        with lock:
            active.remove(cell)
        if cell.variant == "raises":
            raise ValueError
        return {"figures": {}}

    monkeypatch.setitem(EXECUTORS, "threads", Threads)
    cells = [
        replace(cell, algorithm=None, run=None, market=None) for cell in make_cells({"a": {}, "raises": {}}, "0-3")
    ]
    Comparison(tmp_path, cells, function=fake).run("threads", workers=3, progress_bar=False)
    assert max(seen) == 3
    assert again == {1}
    assert runs == {(name, seed): 1 + (name == "raises") for name in ("a", "raises") for seed in range(4)}


def test_names_of_any_kind_have_files_of_their_own(tmp_path, here):
    made, _ = comparison(tmp_path, {"a-b": {}, "a b": {}, "ä" * 100: {}}, seeds="0-1")
    made = Comparison(
        tmp_path / "other", [*made.cells, *(replace(cell, variant="ä" * 300) for cell in made.cells[-1:])]
    )
    assert len(set(made.paths.values())) == 7
    for path in made.paths.values():
        path.write_text("{}")


def test_cells_of_other_data_and_two_processes_in_one_folder_are_refused(tmp_path):
    Comparison(tmp_path, [], {"sp500": "one"})
    Comparison(tmp_path, [], {"sp500": "one"})
    with pytest.raises(ValueError, match="data with another fingerprint"):
        Comparison(tmp_path, [], {"sp500": "two"})
    with FileLock(tmp_path / ".lock"), pytest.raises(ValueError, match="another process is comparing"):
        Comparison(tmp_path, []).run("processes", workers=1)
