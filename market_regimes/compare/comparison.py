"""Runs of many cells, and the files from which a stopped comparison resumes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from market_regimes.compare.cell import Cell, run_cell
from market_regimes.compare.executors import EXECUTORS, run_all
from market_regimes.compare.folds import check_chosen_before, why_not
from market_regimes.config import CompareConfig, RunConfig, Variants, seeds_of
from market_regimes.files import read_json, write_file
from market_regimes.market.walk_forward import Fold
from market_regimes.run.provenance import DATA_VERSION, check_data_version, versions

MAX_REASONS = 3  # reasons in an error message


def cells_of(
    compare: CompareConfig, run: RunConfig, algorithms: Variants, variants: Variants, folds: Sequence[Fold]
) -> list[Cell]:
    """
    :param compare: seeds and baseline
    :param run: settings of each run
    :param algorithms: keyword arguments of every variant
    :param variants: configured variants, for the keys in ``RESERVED``
    :param folds: folds from ``folds_of``
    :return: cells of usable folds, seed by seed, so that a stopped comparison has all variants for some seeds
    :raises ValueError: if a variant refers to an unknown one, the baseline is missing, or no fold is usable
    """
    if compare.baseline not in variants:
        raise ValueError(f"compare.baseline={compare.baseline} is none of the variants {', '.join(variants)}")
    for name in variants:
        _check_variant(variants, name)

    cells = []
    for seed, fold, (name, keys) in product(seeds_of(compare.seeds), folds, variants.items()):
        if why_not(fold, keys) is not None:
            continue
        cell = Cell(
            label=fold.label,
            fold=fold.name,
            variant=name,
            seed=seed,
            run=replace(run, n_envs=keys.get("n_envs", run.n_envs)),
            market=fold.market,
            algorithm=algorithms[name],
            vf_coef_of=keys.get("vf_coef_of"),
            adaptive_kl=keys.get("adaptive_kl"),
            segments=fold.segments,
        )
        cells.append(cell)

    if not cells:
        raise ValueError(_no_cell(variants, folds))
    return cells


def _check_variant(variants: Variants, name: str) -> None:
    """:raises ValueError: if a key in ``RESERVED`` has an invalid value"""
    keys = variants[name]

    lender = keys.get("vf_coef_of")
    if lender is not None and (lender not in variants or variants[lender].get("vf_coef_of") is not None):
        raise ValueError(f"variants.{name}.vf_coef_of={lender} must be another variant with a weight of its own")

    kl = keys.get("adaptive_kl")
    if kl is not None and not (isinstance(kl, int | float) and kl > 0):
        raise ValueError(f"variants.{name}.adaptive_kl must be a number above 0, got {kl}")

    check_chosen_before(keys, name)


def _no_cell(variants: Variants, folds: Sequence[Fold]) -> str:
    """Explain why no variant can run on any fold."""
    reasons = dict.fromkeys(
        f"{fold.label}, {fold.name}: {why_not(fold, keys)}" for fold, keys in product(folds, variants.values())
    )
    text = "; ".join(list(reasons)[:MAX_REASONS])
    if len(reasons) > MAX_REASONS:
        text += f"; and {len(reasons) - MAX_REASONS} more"
    return (
        f"there is nothing to compare, since no fold can be used: {text}. Give longer data, or other periods by "
        "compare.first_test, compare.train_years and compare.test_years"
    )


class Comparison:
    """
    Cells and the folder of their results.

    :param folder: folder with one JSON file per cell, each complete or absent
    :param cells: all cells
    :param data: fingerprints of the data by market, None: no check
    :param function: function that runs a cell
    :raises ValueError: if the folder's cells used other data
    """

    def __init__(
        self,
        folder: Path,
        cells: Sequence[Cell],
        data: dict[str, str] | None = None,
        function: Callable[[Cell], dict[str, Any]] = run_cell,
    ):
        self.folder = folder
        self.cells = list(cells)
        self.function = function
        self.paths = {i: folder / "cells" / f"{_file_name(cell)}.json" for i, cell in enumerate(self.cells)}
        (folder / "cells").mkdir(parents=True, exist_ok=True)
        if data is not None:
            self._check_or_note(data)

    def _check_or_note(self, data: dict[str, str]) -> None:
        """Refuse a folder whose cells used other data. Record the data in a new folder."""
        provenance = self.folder / "run.json"
        if not provenance.exists():
            facts = {**versions(), "data_version": DATA_VERSION, "data": data}
            write_file(provenance, json.dumps(facts, indent=2))
            return

        before = read_json(provenance)
        if before is None:
            return
        check_data_version(self.folder, before)
        if before["data"] != data:
            raise ValueError(f"{self.folder} was started on data with another fingerprint: its cells would not compare")

    def run(self, executor: str, workers: int, progress_bar: bool = True) -> None:
        """
        Run the cells without a result.

        A cell that fails or is killed runs once more. After that its error is its result. Cells that need another's
        result come last.

        :param executor: key of ``EXECUTORS``
        :param workers: number of cells at a time
        :param progress_bar: whether to show a progress bar
        :raises ValueError: if another process runs the comparison, or the executor is not available
        """
        try:
            with FileLock(self.folder / ".lock", timeout=0):
                self._run(executor, workers, progress_bar)
        except Timeout as error:
            raise ValueError(f"another process is comparing in {self.folder}") from error

    def _run(self, executor: str, workers: int, progress_bar: bool) -> None:
        columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
        columns += [TextColumn("left"), TimeRemainingColumn()]
        todo = [i for i in self.paths if self.result(i).get("status") != "ok"]

        with Progress(*columns, disable=not progress_bar) as progress:
            task = progress.add_task("cells", total=len(self.cells), completed=len(self.cells) - len(todo))

            def finish(i: int, result: dict[str, Any]) -> None:
                write_file(self.paths[i], json.dumps(result))
                progress.advance(task)

            # Run independent cells first, then those that take a weight from them.
            pool = EXECUTORS[executor](workers)
            try:
                independent = {i: self.cells[i] for i in todo if self.cells[i].vf_coef_of is None}
                run_all(independent, self.function, pool, workers, finish)

                dependent = {}
                for i in todo:
                    lender = self.cells[i].vf_coef_of
                    if lender is None:
                        continue
                    weight = self._mean_weight(self.cells[i], lender)
                    if weight is None:
                        why = f"{lender} has no mean weight to take: it failed, or does not scale"
                        finish(i, {"status": "failed", "error": why})
                    else:
                        dependent[i] = _with_weight(self.cells[i], weight)
                run_all(dependent, self.function, pool, workers, finish)
            finally:
                pool.shutdown()

    def result(self, i: int) -> dict[str, Any]:
        """:return: content of the cell's file, {} if the file is missing or damaged"""
        try:
            result = json.loads(self.paths[i].read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return result if isinstance(result, dict) else {}

    def _mean_weight(self, cell: Cell, variant: str) -> float | None:
        """Return a variant's mean weight in the cell of the same market, fold and seed, None: no such figure."""
        key = (cell.label, cell.fold, cell.seed, variant)
        lender = next(i for i, peer in enumerate(self.cells) if (peer.label, peer.fold, peer.seed, peer.variant) == key)
        weight: float | None = self.result(lender).get("figures", {}).get("weight_mean")
        return weight


def _with_weight(cell: Cell, weight: float) -> Cell:
    """Return the cell with its ``vf_coef`` multiplied by a weight."""
    algorithm = {**cell.algorithm, "vf_coef": cell.algorithm["vf_coef"] * weight}
    return replace(cell, algorithm=algorithm)


def _file_name(cell: Cell) -> str:
    """Name a cell's file. A digest distinguishes names of the user whose characters are replaced."""
    parts = (cell.label, cell.fold, cell.variant, str(cell.seed))
    plain = "_".join("".join(c if c.isalnum() or c in "-." else "-" for c in part) for part in parts)
    return f"{plain[:120]}_{hashlib.sha256(repr(parts).encode()).hexdigest()[:8]}"
