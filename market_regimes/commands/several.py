"""Several processes that ``torchrun`` started on one command."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

import jsonargparse
import torch
import torch.distributed as dist

from market_regimes.commands.arguments import Parser
from quantile_critic.processes import rank


def n_started() -> int:
    """How many processes ``torchrun`` started, 1 without it."""
    return int(os.environ["WORLD_SIZE"]) if dist.is_available() and dist.is_torchelastic_launched() else 1


@contextmanager
def together(parser: Parser, config: jsonargparse.Namespace) -> Iterator[None]:
    """
    Within it all of them train together, and the first one prints; one alone is left as it is.

    :param parser: says that several train on the CPU only
    :param config: of a run, perhaps one that will be refused
    """
    if n_started() == 1:
        yield
        return
    if torch.cuda.is_available() and config.get("algorithm.device") != "cpu":  # not tried
        parser.error("torchrun trains on the CPU only: give --algorithm.device=cpu")
    dist.init_process_group("gloo")
    try:
        with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere if rank() else sys.stdout):
            yield
    finally:
        dist.destroy_process_group()
