"""What runs many cells: processes of this machine, or Ray."""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Callable
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
