"""
What the variance weight does to calm and stormy samples, and what it does not: the picture of docs/method.md.

    python benchmarks/weight.py            about a minute on 2 cores; writes docs/weight.png and prints its numbers

A critic of two regimes: the observation says which, the returns are normal with mean 0 and the standard deviation of
the regime, 0.2 and 1.4, so that all returns together have variance 1. Each variant trains on minibatches of both. Then
the gradient of the value loss is taken on calm samples and on stormy ones, with the weights of a mixed minibatch.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from quantile_critic.losses import (
    batch_weight,
    next_std_average,
    quantile_huber_loss,
    quantile_variance,
    squared_errors,
)
from quantile_critic.losses import sample_weights as dsac_t_weights

PICTURE = Path(__file__).parents[1] / "docs" / "weight.png"
SIGMAS = 0.2, 1.4  # of the returns in the calm and in the stormy regime; 0.02 + 0.98 = 1
LOW = 0.1  # the constructor's clamps
HIGH = 10.0
STEPS = 3_000
BATCH = 512
NORMS = 100  # minibatches after the training, whose gradients are averaged
SEEDS = 3
N_QUANTILES = 32


class Variant(NamedTuple):
    """What the value loss is: its mode (off, batch or dsac_t) and its kappa."""

    label: str
    mode: str
    kappa: float


VARIANTS = (
    Variant("off", "off", 1.0),
    Variant("batch", "batch", 1.0),
    Variant("dsac_t", "dsac_t", 1.0),
    Variant("kappa 0.01", "off", 0.01),
)


def samples(generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Minibatches without end, the first half calm: observations of shape (B, 2), returns of shape (B,)."""
    stormy = torch.arange(BATCH) >= BATCH // 2
    observations = nn.functional.one_hot(stormy.long(), 2).float()
    sigmas = torch.tensor(SIGMAS)[stormy.long()]
    while True:
        yield observations, sigmas * torch.randn(BATCH, generator=generator)


def weights_of(variant: Variant, variance: Tensor, average: Tensor) -> Tensor:
    """Weight of each sample of a mixed minibatch, shape (B,); variance of each sample's quantiles, shape (B,)."""
    if variant.mode == "batch":
        return batch_weight(variance, LOW, HIGH).expand_as(variance)
    if variant.mode == "dsac_t":
        return dsac_t_weights(variance, average, LOW, HIGH)
    return torch.ones_like(variance)


def norm_of(loss: Tensor, critic: nn.Module) -> float:
    """Norm of the loss's gradient over all parameters of the critic."""
    gradients = torch.autograd.grad(loss, list(critic.parameters()), retain_graph=True)
    return float(torch.cat([gradient.flatten() for gradient in gradients]).norm())


def measured(variant: Variant, seed: int) -> dict[str, tuple[float, float]]:
    """:return: of the calm and the stormy regime: gradient norm, weight, predicted over true standard deviation"""
    # A critic, and a learning rate that falls to a hundredth.
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    critic = nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, N_QUANTILES))
    optimizer = torch.optim.Adam(critic.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, STEPS)

    minibatches = samples(generator)
    norms = []
    average = filled = torch.zeros(())
    for step in range(STEPS + NORMS):
        observations, returns = next(minibatches)
        quantiles = critic(observations)
        variance = quantile_variance(quantiles)

        # The weighted loss of each sample.
        squared_error = squared_errors(quantiles, returns).mean()
        average, filled = next_std_average(average, filled, variance, squared_error)
        weights = weights_of(variant, variance, average)
        losses = weights * quantile_huber_loss(quantiles, returns, variant.kappa)

        # After the training, the pull of either half; within it, a step.
        if step >= STEPS:
            norms.append([norm_of(half.mean(), critic) for half in losses.chunk(2)])
            continue
        optimizer.zero_grad()
        losses.mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()

    calm, stormy = np.mean(norms, axis=0)
    spread = [float(half.mean().sqrt()) / sigma for half, sigma in zip(variance.chunk(2), SIGMAS, strict=True)]
    return {
        "gradient norm": (float(calm), float(stormy)),
        "weight": (float(weights[0]), float(weights[-1])),
        "predicted / true std": (spread[0], spread[1]),
    }


def picture(rows: dict[str, dict[str, tuple[float, float]]]) -> Figure:
    """:param rows: per variant what ``measured`` returns, averaged over the seeds"""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    titles = {
        "weight": "weight of a sample",
        "gradient norm": "gradient norm of the value loss",
        "predicted / true std": "predicted over true spread",
    }
    regimes = (("calm", "tab:blue"), ("stormy", "tab:orange"))

    for axes, (name, title) in zip(figure.subplots(1, 3), titles.items(), strict=True):
        for side, (regime, colour) in enumerate(regimes):
            heights = [row[name][side] for row in rows.values()]
            bars = axes.bar(np.arange(len(rows)) + 0.4 * side, heights, 0.38, label=regime, color=colour)
            axes.bar_label(bars, fmt="%.2g", fontsize=7)
        axes.set_xticks(np.arange(len(rows)) + 0.2, list(rows), fontsize=8)
        axes.set_title(title, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)

    figure.axes[0].legend(frameon=False)
    return figure


def main() -> None:
    """Measure, print a table for docs/method.md, draw."""
    torch.set_num_threads(1)
    rows = {}

    print("| variant | weight, calm and stormy | gradient norm, stormy over calm | predicted / true std |")
    print("| --- | --- | --- | --- |")
    for variant in VARIANTS:
        runs = [measured(variant, seed) for seed in range(SEEDS)]
        row = {name: tuple(np.mean([run[name] for run in runs], axis=0)) for name in runs[0]}
        rows[variant.label] = row

        calm, stormy = row["weight"]
        norm_calm, norm_stormy = row["gradient norm"]
        spread_calm, spread_stormy = row["predicted / true std"]
        cells = f"{calm:.2f}, {stormy:.2f} | {norm_stormy / norm_calm:.1f} | {spread_calm:.2f}, {spread_stormy:.2f}"
        print(f"| {variant.label} | {cells} |", flush=True)

    picture(rows).savefig(PICTURE, dpi=110)


if __name__ == "__main__":
    main()
