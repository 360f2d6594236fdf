"""What runs many cells: processes of this machine, or Ray."""

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
        self._ray = ray
        self._workers = workers

    def submit(self, function: Callable[[Cell], dict[str, Any]], cell: Cell) -> Future[dict[str, Any]]:
        if not self._ray.is_initialized():
            self._connect()

        # Tried again by us, so that processes and Ray treat a cell alike.
        remote = self._ray.remote(num_cpus=1, max_retries=0)(function)
        future: Future[dict[str, Any]] = remote.remote(cell).future()
        return future

    def _connect(self) -> None:
        """To the cluster, or start a local one."""
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        cluster = os.environ.get("RAY_ADDRESS")
        if cluster:
            self._ray.init(address=cluster, **quiet)
        else:
            self._ray.init(num_cpus=self._workers, include_dashboard=False, **quiet)

    def shutdown(self) -> None:
        """Leave the cluster; a local one ends."""
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
    Never more cells are handed over than run, so that those whose process was killed are known. Whoever was running
    beside a killed one may be innocent: what failed is tried again alone.

    :param cells: by number
    :param function: what runs one
    :param executor: what runs it where
    :param workers: cells at a time
    :param finish: takes the number of a cell and its result
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
    Run the queue, whose cells leave it as they are handed over, until it is empty or a process is killed; then all that
    run still end, and the executor is shut down.

    :return: number, error and result of each cell, in the order of their ends
    """
    running: dict[Future[dict[str, Any]], int] = {}
    broken = False
    while running or (queue and not broken):
        # Hand over as many as may run.
        while queue and len(running) < width and not broken:
            try:
                future = executor.submit(function, cells[queue[0]])
                running[future] = queue.pop(0)
            except BrokenProcessPool:  # a cell that is running was killed: its future has the error
                broken = True

        # Take those that have ended.
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            i = running.pop(future)
            error = future.exception()
            broken = broken or isinstance(error, BrokenProcessPool)
            yield i, error, {} if error is not None else future.result()

    if broken:
        executor.shutdown()


def _sentence(error: BaseException) -> str:
    """What went wrong, and where."""
    error = getattr(error, "cause", None) or error  # Ray wraps it
    lines = str(error).strip().splitlines() or [""]

    place = ""
    frames = traceback.extract_tb(error.__traceback__)
    if frames:
        last = frames[-1]
        place = f" ({Path(last.filename).name}:{last.lineno})"
    return f"{type(error).__name__}: {lines[0]}{place}"
