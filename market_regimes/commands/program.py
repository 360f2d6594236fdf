"""How a user calls this program."""

from __future__ import annotations

import sys
from pathlib import Path

from market_regimes.commands.torchrun import n_started


def program() -> str:
    """:return: the beginning of a command line, as the user wrote it"""
    name = Path(sys.argv[0]).name
    if n_started() > 1:
        return f"torchrun --standalone --nproc-per-node={n_started()} {name}"
    return f"python {name}" if name.endswith(".py") else name
