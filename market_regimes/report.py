"""What a person looks at: tables in the terminal and pictures in the run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

PERCENT = {"max_drawdown", "total_return", "mean_position", "costs_per_year"}


def print_summary(summary: dict[str, Any], title: str) -> None:
    """
    Print the figures side by side, then those by regime. Undefined figures are "n/a".

    :param summary: from ``evaluation.summary``
    :param title: what was evaluated
    """
    console = Console()
    table = Table(title=title)
    by_regime = Table(title="by regime: days, Sharpe ratio, mean position")
    table.add_column("figure")
    by_regime.add_column("regime")
    for name in summary:
        table.add_column(name, justify="right")
        by_regime.add_column(name, justify="right")
    first = next(iter(summary.values()))
    for figure in first:
        if figure != "regimes":
            table.add_row(figure, *(_text(figure, column[figure]) for column in summary.values()))
    for regime in first.get("regimes", {}):
        cells = [column["regimes"][regime] for column in summary.values()]
        by_regime.add_row(regime, *("  ".join(_text(key, value) for key, value in cell.items()) for cell in cells))
    console.print(table)
    if by_regime.row_count:
        console.print(by_regime)


def _text(figure: str, value: float | None) -> str:
    """A figure as a person writes it."""
    if value is None:
        return "n/a"
    if figure == "days":
        return f"{value:.0f}"
    return f"{100 * value:.2f} %" if figure in PERCENT else f"{value:.2f}"


def _panels(height_ratios: list[float], height: float) -> tuple[Any, list[Any]]:
    """A figure of panels over one shared axis, without a window or global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(len(height_ratios), 1, sharex=True, height_ratios=height_ratios))
    for axis in axes:
        axis.grid(alpha=0.3)
    return figure, axes


def picture_of_equity(frames: dict[str, pd.DataFrame], path: Path, title: str) -> None:
    """
    Equity, drawdown and volatility index over time.

    :param frames: backtests by name, over the same days
    :param path: PNG to write
    :param title: heading
    """
    figure, (equity, drawdown, index) = _panels([3, 1.5, 1], height=7)
    for name, frame in frames.items():
        dates = pd.DatetimeIndex(frame.index)
        equity.plot(dates, frame["equity"], label=name, linewidth=1.2)
        peak = frame["equity"].cummax().clip(lower=1.0)
        drawdown.plot(dates, 100 * (frame["equity"] / peak - 1), linewidth=1.0)
    index.plot(dates, frame["index"], color="0.4", linewidth=0.8)
    equity.set(title=title, ylabel="equity, start = 1", yscale="log")
    equity.legend(frameon=False)
    drawdown.set(ylabel="drawdown, %")
    index.set(ylabel="volatility\nindex")
    figure.savefig(path, dpi=110)


def picture_of_training(progress: Path, path: Path, title: str) -> None:
    """
    Weight, value loss and explained variance over the updates.

    :param progress: CSV of the run's scalars
    :param path: PNG to write
    :param title: heading
    """
    scalars = pd.read_csv(progress)
    scalars = scalars.dropna(subset=["train/value_loss"]).set_index("time/total_timesteps").filter(like="train/")
    figure, (weight, loss, explained) = _panels([2, 1.5, 1.5], height=6)
    if "train/variance_scaling_weight" in scalars:
        low, high = scalars["train/variance_scaling_weight_min"], scalars["train/variance_scaling_weight_max"]
        weight.fill_between(scalars.index, low, high, alpha=0.25, label="over the minibatches of an update")
        weight.plot(scalars["train/variance_scaling_weight"], label="mean")
        weight.legend(frameon=False)
    weight.set(title=title, ylabel="variance scaling\nweight")
    loss.plot(scalars["train/value_loss"])
    loss.set(ylabel="value loss,\nunscaled")
    if "train/explained_variance" in scalars:
        explained.plot(scalars["train/explained_variance"])
    explained.set(ylabel="explained\nvariance", xlabel="environment steps")
    figure.savefig(path, dpi=110)
