"""A short run's event file, read back: is the variance scaling there, in range, off its clamps, and healthy?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Column, Table

from distributional_ppo import DistributionalPPO
from market_regimes.run.log import WEIGHT, read_events, scalars_of

SANITY_STEPS = 6144  # four updates; all quantiles begin as one and part in the first two
ROUNDING = 1e-6  # of a weight at its clamp
HEALTHY_VARIANCE = (0.1, 2.0)  # of the quantiles, in units of the loss: the user's plan


@dataclass(frozen=True)
class Check:
    """
    :param question: what is asked
    :param passed: the answer
    :param numbers: the answer comes from them
    """

    question: str
    passed: bool
    numbers: str


def checks(folder: Path, model: DistributionalPPO) -> list[Check]:
    """
    :param folder: of a finished run
    :param model: what was trained
    :return: the checks, of every update the event file has
    """
    scalars = scalars_of(read_events(folder))

    def values_of(tag: str) -> list[float]:
        return [event.value for event in scalars.get(tag, [])]

    # Of every update the weight; clamps and variance of the last one, when quantiles have parted.
    updates = len(values_of("train/value_loss"))
    weights = values_of(WEIGHT)
    smallest = min(weights, default=math.nan)
    largest = max(weights, default=math.nan)
    clamped = [math.nan, *values_of("train/variance_scaling_clamped")][-1]
    variance = [math.nan, *values_of("train/quantile_variance_mean")][-1]

    low = model.variance_scaling_clip_min
    high = model.variance_scaling_clip_max
    flag = "" if model.use_variance_gradient_scaling else "; use_variance_gradient_scaling is off"
    return [
        Check(
            "is the weight logged at every update?",
            0 < len(weights) == updates,
            f"{len(weights)} of {updates}{flag}",
        ),
        Check(
            f"is it within {low:g} and {high:g}?",
            low * (1 - ROUNDING) <= smallest <= largest <= high * (1 + ROUNDING),
            f"{smallest:.3g} to {largest:.3g}",
        ),
        Check(
            "is it off its clamps in most minibatches of the last update?",
            clamped < 0.5,
            f"{100 * clamped:.0f} % at a clamp",
        ),
        Check(
            f"is the quantiles' variance within {HEALTHY_VARIANCE[0]:g} and {HEALTHY_VARIANCE[1]:g} by then?",
            HEALTHY_VARIANCE[0] <= variance <= HEALTHY_VARIANCE[1],
            f"{variance:.3g}",
        ),
    ]


def print_checks(checks: list[Check], title: str) -> bool:
    """
    :param checks: from ``checks``
    :param title: what was checked
    :return: whether all passed
    """
    table = Table("check", "", Column("seen", justify="right"), title=title, box=SIMPLE)
    for check in checks:
        table.add_row(check.question, "yes" if check.passed else "NO", check.numbers)
    Console().print(table)
    return all(check.passed for check in checks)
