"""How a user calls this program."""

from __future__ import annotations

import os
import sys
from pathlib import Path

TORCHRUN_ID = "TORCHELASTIC_RUN_ID"  # torchrun sets it; torch.distributed.is_torchelastic_launched looks for it


def n_started() -> int:
    """:return: number of processes that ``torchrun`` started, 1 without it"""
    if TORCHRUN_ID in os.environ:
        return int(os.environ["WORLD_SIZE"])
    return 1


def program() -> str:
    """:return: the beginning of a command line, as the user wrote it"""
    name = Path(sys.argv[0]).name
    if n_started() > 1:
        return f"torchrun --standalone --nproc-per-node={n_started()} {name}"
    return f"python {name}" if name.endswith(".py") else name
