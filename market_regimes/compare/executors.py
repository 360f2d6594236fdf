"""Executors of many cells: processes of this machine, or Ray."""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Protocol

import loky

from market_regimes.compare.cell import Cell


class Executor(Protocol):
    """Executor of cells. It starts with the first cell, and again with the next one after ``shutdown``."""

    def submit(self, function: Callable[[Cell], dict[str, Any]], cell: Cell) -> Future[dict[str, Any]]: ...

    def shutdown(self) -> None: ...


class Processes:
    """
    Reusable processes of this machine (loky).

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
        """End the processes, whatever they run."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, kill_workers=True)
            self._pool = None


class Ray:
    """
    The Ray cluster in RAY_ADDRESS, or a local one.

    :param workers: CPUs of a local cluster
    :raises ValueError: if Ray is not installed
    """

    def __init__(self, workers: int):
        try:
            import ray
        except ImportError as error:
            raise ValueError('compare.executor=ray needs Ray: pip install -e ".[ray]"') from error
        self._ray = ray
        self._workers = workers

    def submit(self, function: Callable[[Cell], dict[str, Any]], cell: Cell) -> Future[dict[str, Any]]:
        if not self._ray.is_initialized():
            self._connect()

        # We retry, so that processes and Ray treat a cell alike.
        remote = self._ray.remote(num_cpus=1, max_retries=0)(function)
        future: Future[dict[str, Any]] = remote.remote(cell).future()
        return future

    def _connect(self) -> None:
        """Connect to the cluster, or start a local one."""
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        cluster = os.environ.get("RAY_ADDRESS")
        if cluster:
            self._ray.init(address=cluster, **quiet)
        else:
            self._ray.init(num_cpus=self._workers, include_dashboard=False, **quiet)

    def shutdown(self) -> None:
        """Disconnect from the cluster, and end a local one."""
        self._ray.shutdown()


EXECUTORS: dict[str, type[Processes] | type[Ray]] = {"processes": Processes, "ray": Ray}


def run_all(
    cells: dict[int, Cell],
    function: Callable[[Cell], dict[str, Any]],
    executor: Executor,
    workers: int,
    finish: Callable[[int, dict[str, Any]], None],
) -> None:
    """
    Run all cells, and retry failures.

    No more cells are submitted than can run, so that the cells of a killed process are known. Cells that ran beside a
    killed one may be innocent. So each failed cell is retried alone.

    :param cells: cells by number
    :param function: function that runs a cell
    :param executor: executor of the function
    :param workers: number of cells at a time
    :param finish: callback for the number of a cell and its result
    """
    waiting = list(cells)
    again: list[int] = []
    while waiting or again:
        first_time = bool(waiting)
        queue = waiting if first_time else again
        width = workers if first_time else 1

        for i, error, result in _run_until_broken(cells, queue, function, executor, width):
            if error is None:
                finish(i, {"status": "ok", **result})
            elif first_time:
                again.append(i)
            else:
                finish(i, {"status": "failed", "error": _sentence(error)})


def _run_until_broken(
    cells: dict[int, Cell],
    queue: list[int],
    function: Callable[[Cell], dict[str, Any]],
    executor: Executor,
    width: int,
) -> Iterator[tuple[int, BaseException | None, dict[str, Any]]]:
    """
    Run the queue until it is empty or a process is killed. Submitted cells leave the queue.

    After a kill the running cells still end, and the executor shuts down.

    :return: number, error and result of each cell, in the order of completion
    """
    running: dict[Future[dict[str, Any]], int] = {}
    broken = False
    while running or (queue and not broken):
        # Submit as many cells as may run.
        while queue and len(running) < width and not broken:
            try:
                future = executor.submit(function, cells[queue[0]])
                running[future] = queue.pop(0)
            except BrokenProcessPool:  # a running cell was killed; its future has the error
                broken = True

        # Collect the finished cells.
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            i = running.pop(future)
            error = future.exception()
            broken = broken or isinstance(error, BrokenProcessPool)
            yield i, error, {} if error is not None else future.result()

    if broken:
        executor.shutdown()


def _sentence(error: BaseException) -> str:
    """Describe an error and its place."""
    error = getattr(error, "cause", None) or error  # Ray wraps it
    lines = str(error).strip().splitlines() or [""]

    place = ""
    frames = traceback.extract_tb(error.__traceback__)
    if frames:
        last = frames[-1]
        place = f" ({Path(last.filename).name}:{last.lineno})"
    return f"{type(error).__name__}: {lines[0]}{place}"
