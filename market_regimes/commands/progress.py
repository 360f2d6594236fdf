"""What a command that takes long is doing, shown on the terminal as a training shows its bar."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

Tell = Callable[[str], None]  # receives what is being done


@contextmanager
def working(doing: str, wanted: bool = True) -> Iterator[Tell]:
    """
    Show what is being done and for how long, on standard error. Where that is no terminal nothing is written, and
    nothing stays on the terminal afterwards.

    :param doing: in a few words
    :param wanted: whether the user wants to see it
    :return: a function that shows other words
    """
    if not wanted or not sys.stderr.isatty():
        yield lambda words: None
        return

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, redirect_stdout=False) as progress:
        task = progress.add_task(doing, total=None)
        progress.refresh()

        def show(words: str) -> None:
            progress.update(task, description=words, refresh=True)

        yield show
