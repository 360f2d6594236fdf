"""Processes that ``torchrun`` started on one command."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

import jsonargparse
import torch
import torch.distributed as dist

from market_regimes.commands.parser import Parser
from market_regimes.commands.program import n_started
from quantile_critic.processes import rank


@contextmanager
def together(parser: Parser, config: jsonargparse.Namespace) -> Iterator[None]:
    """
    Within it all processes train together, and the first one prints. A single process is left as it is.

    :param parser: refuses several processes on a GPU
    :param config: of a run, perhaps one that will be refused
    """
    if n_started() == 1:
        yield
        return
    if torch.cuda.is_available() and config.get("algorithm.device") != "cpu":  # not tried
        parser.error("torchrun trains on the CPU only: give --algorithm.device=cpu")

    dist.init_process_group("gloo")
    try:
        with open(os.devnull, "w", encoding="utf-8") as nowhere:
            shown = nowhere if rank() else sys.stdout
            with redirect_stdout(shown):
                yield
    finally:
        dist.destroy_process_group()
