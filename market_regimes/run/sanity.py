"""A short run's event file, read back: is the variance scaling there, in range, off its clamps, and healthy?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Column, Table
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from distributional_ppo import DistributionalPPO
from market_regimes.run.log import WEIGHT

SANITY_STEPS = 6144  # four updates; all quantiles begin as one and part in the first two
HEALTHY_VARIANCE = (0.1, 2.0)  # of the quantiles, in units of the loss: the user's plan


@dataclass(frozen=True)
class Check:
    """
    :param question: what is asked
    :param passed: the answer
    :param seen: the numbers it comes from
    """

    question: str
    passed: bool
    seen: str


def checks(folder: Path, model: DistributionalPPO) -> list[Check]:
    """
    :param folder: of a finished run
    :param model: what was trained
    :return: the checks, of every update the event file has
    """
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    scalars = {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}

    def span(tag: str) -> tuple[float, float]:
        values = scalars.get(tag, [float("nan")])
        return min(values), max(values)

    updates, weights = len(scalars.get("train/value_loss", [])), len(scalars.get(WEIGHT, []))
    low, high = model.variance_scaling_clip_min, model.variance_scaling_clip_max
    weight, nothing = span(WEIGHT), [float("nan")]
    clamped = scalars.get("train/variance_scaling_clamped", nothing)[-1]
    variance = scalars.get("train/quantile_variance_mean", nothing)[-1]
    flag = "" if model.use_variance_gradient_scaling else "; use_variance_gradient_scaling is off"
    return [
        Check("is the weight logged at every update?", 0 < weights == updates, f"{weights} of {updates}{flag}"),
        Check(
            f"is it within {low:g} and {high:g}?",
            low * (1 - 1e-6) <= weight[0] <= weight[1] <= high * (1 + 1e-6),
            f"{weight[0]:.3g} to {weight[1]:.3g}",
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
        table.add_row(check.question, "yes" if check.passed else "NO", check.seen)
    Console().print(table)
    return all(check.passed for check in checks)
