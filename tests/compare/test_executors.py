"""How many cells run at a time, which run again, and what a failure says."""

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace

import pytest
from builders import Here
from comparisons import cell_of_sp500, configured_cells

from market_regimes.compare.comparison import Comparison
from market_regimes.compare.executors import EXECUTORS, run_all


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
        replace(cell, algorithm=None, run=None, market=None)
        for cell in configured_cells({"a": {}, "raises": {}}, "0-3")
    ]
    Comparison(tmp_path, cells, function=fake).run("threads", workers=3, progress_bar=False)
    assert max(seen) == 3
    assert again == {1}
    assert runs == {(name, seed): 1 + (name == "raises") for name in ("a", "raises") for seed in range(4)}


class Recorder(Here):
    """An executor that notes each hand-over and breaks at the first one of the cells named."""

    def __init__(self, breaks_at=()):
        self.breaks_at = set(breaks_at)
        self.events = []

    def submit(self, function, cell):
        self.events.append(cell.variant)
        if cell.variant not in self.breaks_at:
            return super().submit(function, cell)

        future = Future()
        future.set_exception(BrokenProcessPool("killed"))
        return future

    def shutdown(self):
        self.events.append("shutdown")


def run_with(executor, names, function, workers=1):
    """Results by number of cells of these names."""
    cells = {i: replace(cell_of_sp500(), variant=name) for i, name in enumerate(names)}
    results = {}
    run_all(cells, function, executor, workers, results.__setitem__)
    return results


def test_cells_run_once_in_their_order_and_the_executor_stays():
    executor = Recorder()

    results = run_with(executor, "abc", lambda cell: {"name": cell.variant})

    assert results == {i: {"status": "ok", "name": name} for i, name in enumerate("abc")}
    assert executor.events == ["a", "b", "c"]


def test_a_killed_process_shuts_the_executor_down_and_its_cell_is_tried_again_last():
    executor = Recorder(breaks_at="b")

    results = run_with(executor, "abc", lambda cell: {})

    assert executor.events == ["a", "b", "shutdown", "c", "b", "shutdown"]
    assert [results[i]["status"] for i in range(3)] == ["ok", "failed", "ok"]
    assert results[1]["error"] == "BrokenProcessPool: killed"


def test_a_failure_is_one_line_with_the_place():
    def fail(cell):
        raise ValueError("first line\nsecond line")

    results = run_with(Recorder(), "a", fail)

    assert results[0].keys() == {"status", "error"}
    place = f"test_executors.py:{fail.__code__.co_firstlineno + 1}"
    assert results[0]["error"] == f"ValueError: first line ({place})"


@pytest.mark.parametrize("name", EXECUTORS)
def test_an_executor_that_never_started_can_be_shut_down(name):
    if name == "ray":
        pytest.importorskip("ray", reason="needs the extra ray")

    EXECUTORS[name](workers=1).shutdown()
