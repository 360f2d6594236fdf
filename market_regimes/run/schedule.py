"""Numbers that may change over a run, as YAML has them. Without torch, as the command line parses by them."""

from __future__ import annotations

FALLING = "lin_"  # before the first value of a schedule that falls linearly to 0


def schedule(value: str | float) -> str | float:
    """
    A number, or "lin_0.0003" for one that falls linearly to 0 over the run.

    :raises ValueError: on anything else
    """
    if isinstance(value, bool):
        raise ValueError("expected a number or lin_NUMBER, got a truth value")
    if isinstance(value, str) and value.startswith(FALLING):
        float(value.removeprefix(FALLING))
        return value
    return float(value)
