"""Many cells: the folds, the processes they run in, the files that make a stopped comparison go on."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal, Protocol

import loky
import numpy as np
import pandas as pd
from filelock import FileLock, Timeout
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from market_regimes.cells import Cell, run_cell
from market_regimes.checkpoint import write_file
from market_regimes.data import Market, load_markets
from market_regimes.study import MarketConfig, RunConfig, seeds_of, versions

MIN_TRAIN_BARS, MIN_TEST_BARS = 252, 60  # of a fold; with fewer its cells are n/a
# Keys of a variant that are not the algorithm's.
RESERVED = ("vf_coef_of", "adaptive_kl", "n_envs", "chosen_before")
Variants = dict[str, dict[str, Any]]


@dataclass
class CompareConfig:
    """
    What is compared. Folds walk forward by date: each tests on ``test_years`` and trains on what came before.

    :param seeds: seeds of every variant on every fold, as 0-4 or 0,3,7
    :param markets: data trained on each by itself; None: ``market.data``, all symbols together
    :param first_test: day on which the first test period begins; None: half of the data
    :param last_test: last day of the last test period; None: the last of the data
    :param test_years: length of a test period
    :param train_years: length of a training period; None: all that came before
    :param embargo_days: days left out between training and test, so that no return of the one reaches into the other
    :param baseline: the variant that the others are compared with
    :param executor: "processes" of this machine, or "ray": the cluster that RAY_ADDRESS names, else a local one
    :param workers: cells that run at a time
    """

    seeds: str = "0-2"
    markets: list[str] | None = None
    first_test: str | None = None
    last_test: str | None = None
    test_years: int = 4
    train_years: int | None = None
    embargo_days: int = 30
    baseline: str = "baseline"
    executor: Literal["processes", "ray"] = "processes"
    workers: int = 2

    def __post_init__(self) -> None:
        seeds_of(self.seeds)
        for name in ("test_years", "train_years", "workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"compare.{name} must be at least 1, got {value}")
        if self.embargo_days < 0:
            raise ValueError(f"compare.embargo_days must be at least 0, got {self.embargo_days}")
        if self.markets == []:
            raise ValueError("compare.markets names no market")


@dataclass(frozen=True)
class Fold:
    """
    :param label: of the market
    :param name: of the test period
    :param market: with the fold's training and test period
    :param missing: why it cannot be used, None: it can
    :param fingerprint: of the market's data
    """

    label: str
    name: str
    market: MarketConfig
    missing: str | None
    fingerprint: str


def folds_of(compare: CompareConfig, market: MarketConfig) -> list[Fold]:
    """
    :param compare: how to divide
    :param market: the data
    :return: the folds of every market, in time
    :raises ValueError: if a date is none, or no test period fits into the data
    """
    folds = []
    markets: Sequence[str | list[str]] = compare.markets or [market.data]
    for data in markets:
        entries = [data] if isinstance(data, str) else data
        symbols = load_markets(entries, market.volatility_index, market.bars_per_year)
        label = "+".join(Path(entry).stem for entry in entries)
        fingerprint = " ".join(symbol.fingerprint() for symbol in symbols)
        begin = max(pd.Timestamp(symbol.dates[0]) for symbol in symbols).normalize()
        end = min(pd.Timestamp(symbol.dates[-1]) for symbol in symbols).normalize()
        middle = (begin + (end - begin) / 2).normalize()
        start = _day(compare.first_test, "compare.first_test") if compare.first_test else middle
        last = min(end, _day(compare.last_test, "compare.last_test")) if compare.last_test else end
        if not begin < start <= last:
            raise ValueError(
                f"compare.first_test={start.date()} leaves no test period of {label}, whose bars run from "
                f"{begin.date()} to {last.date()}"
            )
        while start <= last:
            after = start + pd.DateOffset(years=compare.test_years)
            train = _day_pair(
                max(begin, start - pd.DateOffset(years=compare.train_years)) if compare.train_years else begin,
                start - pd.Timedelta(days=compare.embargo_days + 1),
            )
            test = _day_pair(start, min(after - pd.Timedelta(days=1), last))
            config = replace(market, data=data, train=train, test=test)
            missing = _missing(symbols, train, "training", MIN_TRAIN_BARS)
            missing = missing or _missing(symbols, test, "test", MIN_TEST_BARS)
            folds.append(Fold(label, f"{test[0][:7]} to {test[1][:7]}", config, missing, fingerprint))
            start = after
    return folds


def _day_pair(first: pd.Timestamp, last: pd.Timestamp) -> tuple[str, str]:
    return str(first.date()), str(last.date())


def _missing(symbols: Sequence[Market], days: tuple[str, str], name: str, needed: int) -> str | None:
    """Why a period is too short, None if it is not."""
    first, after = np.datetime64(days[0], "D"), np.datetime64(days[1], "D") + 1
    bars = min(int(((symbol.dates >= first) & (symbol.dates < after)).sum()) for symbol in symbols)
    return None if bars >= needed else f"its {name} period has {bars} bars, {needed} are needed"


def _day(text: str, name: str) -> pd.Timestamp:
    try:
        return pd.Timestamp(np.datetime64(text, "D"))
    except ValueError as error:
        raise ValueError(f"{name} must be a day like 2007-01-01, got {text!r}") from error


def cells_of(
    compare: CompareConfig, run: RunConfig, algorithms: Variants, variants: Variants, folds: Sequence[Fold]
) -> list[Cell]:
    """
    :param compare: seeds and baseline
    :param run: the run around the algorithm
    :param algorithms: keyword arguments of every variant
    :param variants: as configured, for the keys in ``RESERVED``
    :param folds: from ``folds_of``
    :return: all cells of usable folds, seed by seed, so that a stopped comparison has all variants of some seeds
    :raises ValueError: if a variant refers to none, or there is no baseline
    """
    if compare.baseline not in variants:
        raise ValueError(f"compare.baseline={compare.baseline} is none of the variants {', '.join(variants)}")
    for name, keys in variants.items():
        of = keys.get("vf_coef_of")
        if of is not None and (of not in variants or variants[of].get("vf_coef_of") is not None):
            raise ValueError(f"variants.{name}.vf_coef_of={of} must be another variant with a weight of its own")
        kl = keys.get("adaptive_kl")
        if kl is not None and not (isinstance(kl, int | float) and kl > 0):
            raise ValueError(f"variants.{name}.adaptive_kl must be a number above 0, got {kl}")
        if keys.get("chosen_before") is not None:
            _day(keys["chosen_before"], f"variants.{name}.chosen_before")
    return [
        Cell(
            fold.label,
            fold.name,
            name,
            seed,
            replace(run, n_envs=keys.get("n_envs", run.n_envs)),
            fold.market,
            algorithms[name],
            keys.get("vf_coef_of"),
            keys.get("adaptive_kl"),
        )
        for seed, fold, (name, keys) in product(seeds_of(compare.seeds), folds, variants.items())
        if why_not(fold, keys) is None
    ]


def why_not(fold: Fold, keys: dict[str, Any]) -> str | None:
    """
    :param fold: a fold
    :param keys: of a variant
    :return: why the variant is not run on it, None: it is
    """
    chosen_before = keys.get("chosen_before")
    if fold.missing is None and chosen_before is not None and fold.market.test[0] < str(chosen_before):
        return f"the variant was chosen by what it did before {chosen_before}"
    return fold.missing


class Executor(Protocol):
    """What runs cells: it starts with the first one, and again with the next one after ``shutdown``."""

    def submit(self, function: Callable[[Cell], dict[str, Any]], cell: Cell) -> Future[dict[str, Any]]: ...

    def shutdown(self) -> None: ...


class Processes:
    """
    Processes of this machine that are used again (loky).

    :param workers: number of processes
    """

    def __init__(self, workers: int):
        self._workers = workers
        self._pool: Any = None

    def submit(self, function: Callable[[Cell], dict[str, Any]], cell: Cell) -> Future[dict[str, Any]]:
        if self._pool is None:
            self._pool = loky.ProcessPoolExecutor(max_workers=self._workers)
        future: Future[dict[str, Any]] = self._pool.submit(function, cell)
        return future

    def shutdown(self) -> None:
        """End the processes, whatever they are doing."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, kill_workers=True)
            self._pool = None


class Ray:
    """
    The Ray cluster that RAY_ADDRESS names, or a local one.

    :param workers: CPUs of a local one
    :raises ValueError: if Ray is not installed
    """

    def __init__(self, workers: int):
        try:
            import ray
        except ImportError as error:
            raise ValueError('compare.executor=ray needs Ray: pip install -e ".[ray]"') from error
        self._ray, self._workers = ray, workers

    def submit(self, function: Callable[[Cell], dict[str, Any]], cell: Cell) -> Future[dict[str, Any]]:
        if not self._ray.is_initialized():
            cluster = os.environ.get("RAY_ADDRESS")
            self._ray.init(
                address=cluster,
                num_cpus=None if cluster else self._workers,
                include_dashboard=False if cluster is None else None,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        # Tried again by us, so that processes and Ray treat a cell alike.
        remote = self._ray.remote(num_cpus=1, max_retries=0)(function)
        future: Future[dict[str, Any]] = remote.remote(cell).future()
        return future

    def shutdown(self) -> None:
        """Leave the cluster; a local one ends."""
        self._ray.shutdown()


EXECUTORS: dict[str, type[Processes] | type[Ray]] = {"processes": Processes, "ray": Ray}


class Comparison:
    """
    The cells and the folder of their results.

    :param folder: where they lie, one JSON file per cell, each whole or not there
    :param cells: all of them
    :param data: fingerprints of the data by market, None: they are not looked at
    :param function: what runs one
    :raises ValueError: if the folder's cells are of other data
    """

    def __init__(
        self,
        folder: Path,
        cells: Sequence[Cell],
        data: dict[str, str] | None = None,
        function: Callable[[Cell], dict[str, Any]] = run_cell,
    ):
        self.folder, self.cells, self.function = folder, list(cells), function
        self.paths = {i: folder / "cells" / f"{_file_name(cell)}.json" for i, cell in enumerate(self.cells)}
        (folder / "cells").mkdir(parents=True, exist_ok=True)
        provenance = folder / "run.json"
        if data is not None and provenance.exists() and json.loads(provenance.read_text())["data"] != data:
            raise ValueError(f"{folder} was started on data with another fingerprint: its cells would not compare")
        if data is not None and not provenance.exists():
            write_file(provenance, json.dumps({**versions(), "data": data}, indent=2))

    def run(self, executor: str, workers: int, progress_bar: bool = True) -> None:
        """
        Run what has no result. A cell that fails or is killed is tried once more; then its error is its result. Those
        that need another's result come after all others.

        :param executor: key of ``EXECUTORS``
        :param workers: cells at a time
        :param progress_bar: whether to show one
        :raises ValueError: if another process does, or the executor cannot be had
        """
        try:
            with FileLock(self.folder / ".lock", timeout=0):
                self._run(executor, workers, progress_bar)
        except Timeout as error:
            raise ValueError(f"another process is comparing in {self.folder}") from error

    def _run(self, executor: str, workers: int, progress_bar: bool) -> None:
        columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
        with Progress(*columns, TextColumn("left"), TimeRemainingColumn(), disable=not progress_bar) as progress:
            task = progress.add_task("cells", total=len(self.cells))
            todo = [i for i in self.paths if self.result(i).get("status") != "ok"]
            progress.update(task, completed=len(self.cells) - len(todo))

            def finish(i: int, result: dict[str, Any]) -> None:
                write_file(self.paths[i], json.dumps(result))
                progress.advance(task)

            pool = EXECUTORS[executor](workers)
            try:
                for dependent in (False, True):
                    wave = {}
                    for i in todo:
                        if (self.cells[i].vf_coef_of is not None) != dependent:
                            continue
                        cell = self._with_coefficient(self.cells[i])
                        if isinstance(cell, str):
                            finish(i, {"status": "failed", "error": cell})
                        else:
                            wave[i] = cell
                    _run_all(wave, self.function, pool, workers, finish)
            finally:
                pool.shutdown()

    def result(self, i: int) -> dict[str, Any]:
        """:return: what the cell's file holds; nothing if it is not there or torn"""
        try:
            result = json.loads(self.paths[i].read_text())
        except (OSError, ValueError):
            return {}
        return result if isinstance(result, dict) else {}

    def _with_coefficient(self, cell: Cell) -> Cell | str:
        """The cell with the ``vf_coef`` it takes from another; a sentence if that has none."""
        if cell.vf_coef_of is None:
            return cell
        other = next(
            i
            for i, c in enumerate(self.cells)
            if (c.label, c.fold, c.seed, c.variant) == (cell.label, cell.fold, cell.seed, cell.vf_coef_of)
        )
        weight = self.result(other).get("figures", {}).get("weight_mean")
        if weight is None:
            return f"{cell.vf_coef_of} has no mean weight to take: it failed, or does not scale"
        return replace(cell, algorithm={**cell.algorithm, "vf_coef": cell.algorithm["vf_coef"] * weight})


def _run_all(
    cells: dict[int, Cell],
    function: Callable[[Cell], dict[str, Any]],
    executor: Executor,
    workers: int,
    finish: Callable[[int, dict[str, Any]], None],
) -> None:
    """
    Never more cells are handed over than run, so that those whose process was killed are known. Whoever was running
    beside a killed one may be innocent: what failed is tried again alone.
    """
    queue, again = list(cells), list[int]()
    while queue or again:
        first_time = bool(queue)
        source, width = (queue, workers) if first_time else (again, 1)
        running: dict[Future[dict[str, Any]], int] = {}
        broken = False
        while running or (source and not broken):
            while source and len(running) < width and not broken:
                try:
                    future = executor.submit(function, cells[source[0]])
                    running[future] = source.pop(0)
                except BrokenProcessPool:  # one that is running was killed, and will say so
                    broken = True
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                i, error = running.pop(future), future.exception()
                broken = broken or isinstance(error, BrokenProcessPool)
                if error is None:
                    finish(i, {"status": "ok", **future.result()})
                elif first_time:
                    again.append(i)
                else:
                    finish(i, {"status": "failed", "error": _sentence(error)})
        if broken:
            executor.shutdown()


def _sentence(error: BaseException) -> str:
    """What went wrong, and where."""
    error = getattr(error, "cause", None) or error  # Ray wraps it
    where = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(where[-1].filename).name}:{where[-1].lineno})" if where else ""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}{place}"


def _file_name(cell: Cell) -> str:
    """Of a cell's file; names are the user's, so they are told apart by a digest of what is replaced."""
    parts = (cell.label, cell.fold, cell.variant, str(cell.seed))
    plain = "_".join("".join(c if c.isalnum() or c in "-." else "-" for c in part) for part in parts)
    return f"{plain[:120]}_{hashlib.sha256(repr(parts).encode()).hexdigest()[:8]}"
