"""What a person looks at: tables in the terminal and pictures in the run folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from market_regimes.data import MIN_REGIME_DAYS, REGIMES

if TYPE_CHECKING:
    from market_regimes.sanity import Check

PERCENT = {
    "max_drawdown",
    "hit_rate",
    "total_return",
    "gross_return",
    "costs_per_year",
    "share_of_random_timings_below_agent",
}
COUNTS = {"bars"}


def print_summary(result: dict[str, Any], title: str) -> None:
    """
    Print the figures of the strategies side by side, then those by regime and by symbol. Undefined ones are "n/a".

    :param result: from ``Study.evaluate``
    :param title: what was evaluated
    """
    strategies = result["joint"]
    first = next(iter(strategies.values()))
    table = Table(Column("figure", no_wrap=True), title=title, box=SIMPLE)
    by_regime = Table("regime", "bars", title="by regime, bars with a symbol in it: Sharpe ratio, exposure", box=SIMPLE)
    by_symbol = Table("symbol", title="by symbol: Sharpe ratio, largest drawdown", box=SIMPLE)
    for name in strategies:
        for each in (table, by_regime, by_symbol):
            each.add_column(name, justify="right")
    for figure in first:
        if figure != "regimes":
            table.add_row(figure, *(_text(figure, column[figure]) for column in strategies.values()))
    for regime, cell in first.get("regimes", {}).items():
        columns = [column["regimes"][regime] for column in strategies.values()]
        by_regime.add_row(regime, _text("bars", cell["bars"]), *(_cell(c, "exposure") for c in columns))
    for symbol, by_strategy in result["symbols"].items():
        by_symbol.add_row(symbol, *(_cell(column, "max_drawdown") for column in by_strategy.values()))
    for each in (table, by_regime, by_symbol):
        if each.row_count > (1 if each is by_symbol else 0):  # one symbol is the joint table
            Console().print(each)
    name = "share_of_random_timings_below_agent"
    if name in result:
        print(f"random timings with a lower Sharpe ratio than the agent: {_text(name, result[name])}")


def _cell(figures: dict[str, float | None], second: str) -> str:
    """The Sharpe ratio and a second figure."""
    return "  ".join(_text(name, figures[name]) for name in ("sharpe_ratio", second))


def print_seeds(results: dict[int, dict[str, Any]], title: str) -> None:
    """
    Print the agent's figures of several seeds, with their median, beside those of buy-and-hold.

    :param results: per seed what ``Study.evaluate`` gave
    :param title: what was evaluated
    """
    agents = {seed: result["joint"]["agent"] for seed, result in results.items()}
    benchmark = next(iter(results.values()))["joint"].get("buy and hold")
    columns = [*(f"seed {seed}" for seed in agents), "median", *(["buy and hold"] if benchmark else [])]
    table = Table(Column("figure", no_wrap=True), title=title, box=SIMPLE)
    for column in columns:
        table.add_column(column, justify="right")
    for figure in next(iter(agents.values())):
        if figure == "regimes":
            continue
        values = [agent[figure] for agent in agents.values()]
        cells = [*values, median(values), *([benchmark[figure]] if benchmark else [])]
        table.add_row(figure, *(_text(figure, value) for value in cells))
    Console().print(table)


def print_checks(checks: list[Check], title: str) -> bool:
    """
    :param checks: from ``sanity.checks``
    :param title: what was checked
    :return: whether all passed
    """
    table = Table("check", "", Column("seen", justify="right"), title=title, box=SIMPLE)
    for check in checks:
        table.add_row(check.question, "yes" if check.passed else "NO", check.seen)
    Console().print(table)
    return all(check.passed for check in checks)


LEARNING = {
    "grad_ratio_stormy": "gradient\nstormy/calm",
    "grad_ratio_crash": "gradient\ncrash/calm",
    "spread_calm": "spread\ncalm",
    "spread_stormy": "spread\nstormy",
    "explained_variance": "explained\nvariance",
    "test_sharpe": "Sharpe\ntest",
}


def print_by_regime(cells: pd.DataFrame) -> None:
    """
    Print how alike calm and stormy days are treated, per market and variant: medians over seeds and folds of the
    gradient of the value loss on stormy samples over that on calm ones, and of the predicted spread over the true one.

    :param cells: of a comparison
    """
    used = cells[cells["status"] == "ok"]
    names = (Column(name, no_wrap=True) for name in ("market", "variant"))
    numbers = (Column(name, justify="right") for name in LEARNING.values())
    title = "calm and stormy days; 1 is ideal for the first four"
    table = Table(*names, *numbers, title=title, box=SIMPLE, padding=(0, 1, 0, 0))
    for keys, rows in used.groupby(["market", "variant"], sort=False):
        medians = [median(list(rows[name])) if name in rows else None for name in LEARNING]
        table.add_row(*(escape(str(key)) for key in keys), *(_text("ratio", value) for value in medians))
    Console().print(table)


def median(values: list[float | None]) -> float | None:
    """Median of the defined values, None where there is none."""
    defined = [value for value in values if value is not None and np.isfinite(value)]
    return float(np.median(defined)) if defined else None


def _text(figure: str, value: float | None) -> str:
    """A figure as a person writes it."""
    if value is None:
        return "n/a"
    if figure in COUNTS:
        return f"{value:.0f}"
    if figure == "exposure":
        return f"{100 * value:.0f} %"
    return f"{100 * value:.1f} %" if figure in PERCENT else f"{value:.2f}"


def _panels(height: float, **ratios: list[float]) -> tuple[Any, list[Any]]:
    """
    A figure without a window or global state.

    :param height: in inches
    :param ratios: ``height_ratios`` of panels over one shared axis, or ``width_ratios`` of panels side by side
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, height), layout="constrained")
    FigureCanvasAgg(figure)
    rows, columns = len(ratios.get("height_ratios", [1])), len(ratios.get("width_ratios", [1]))
    axes: list[Any] = list(figure.subplots(rows, columns, sharex=rows > 1, gridspec_kw=dict(ratios)))
    for axis in axes:
        axis.grid(alpha=0.3)
    return figure, axes


def picture_of_equity(frames: dict[str, pd.DataFrame], path: Path, title: str) -> None:
    """
    Equity, drawdown, the agent's exposure and the volatility index over time.

    :param frames: ``evaluation.joint`` backtests by name, the agent's first
    :param path: PNG to write
    :param title: heading
    """
    from matplotlib.ticker import MaxNLocator, NullLocator, StrMethodFormatter

    figure, (equity, drawdown, exposure, index) = _panels(8, height_ratios=[3, 1.5, 1, 1])
    agent = next(iter(frames.values()))
    equity.plot(agent.index, agent["gross_equity"], label="agent, before costs", color="C0", linewidth=0.8, alpha=0.6)
    for i, (name, frame) in enumerate(frames.items()):
        equity.plot(frame.index, frame["equity"], label=name, color=f"C{i}", linewidth=1.2)
        peak = frame["equity"].cummax().clip(lower=1.0)
        drawdown.plot(frame.index, 100 * (frame["equity"] / peak - 1), color=f"C{i}", linewidth=1.0)
    exposure.plot(agent.index, 100 * agent["position"].rolling(20, min_periods=1).mean(), color="C0", linewidth=0.8)
    index.plot(agent.index, agent["index"], color="0.4", linewidth=0.8)
    equity.set(title=title, ylabel="equity, start = 1", yscale="log")
    equity.yaxis.set_major_locator(MaxNLocator(6))  # plain numbers, not powers of ten
    equity.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    equity.yaxis.set_minor_locator(NullLocator())
    equity.legend(frameon=False)
    drawdown.set(ylabel="drawdown, %")
    exposure.set(ylabel="agent's position,\n% (20 bars)")
    index.set(ylabel="volatility\nindex")
    figure.savefig(path, dpi=110)


def picture_of_returns(frames: dict[str, pd.DataFrame], quantiles: np.ndarray, outcomes: np.ndarray, title: str) -> Any:
    """
    The predicted distribution of the return beside what came: over time for the first symbol, and as the share of
    outcomes below each predicted quantile, by regime, which on the diagonal is as predicted.

    :param frames: the agent's ``backtest``; M rows in all
    :param quantiles: predictions, shape (M, N)
    :param outcomes: discounted rewards, shape (M,), NaN where there are none
    :param title: heading
    :return: figure
    """
    figure, (fan, share) = _panels(4, width_ratios=[2, 1])
    first = next(iter(frames.values()))
    tau = (np.arange(quantiles.shape[1]) + 0.5) / quantiles.shape[1]
    low, lower, middle, upper, high = np.quantile(quantiles[: len(first)], [0.05, 0.25, 0.5, 0.75, 0.95], axis=1)
    fan.fill_between(first.index, low, high, alpha=0.2, color="C0", linewidth=0, label="predicted, 5 to 95 %")
    fan.fill_between(first.index, lower, upper, alpha=0.4, color="C0", linewidth=0, label="25 to 75 %")
    fan.plot(first.index, middle, color="C0", linewidth=0.8)
    fan.plot(first.index, outcomes[: len(first)], color="C1", linewidth=0.8, label="came")
    fan.set(title=f"{next(iter(frames))}: {title}", ylabel="return, units of reward")
    fan.tick_params(axis="x", rotation=30)
    known = np.isfinite(outcomes)
    below = outcomes[known, None] < np.sort(quantiles[known], axis=1)
    regime = np.concatenate([frame["regime"].to_numpy() for frame in frames.values()])[known]
    share.plot([0, 1], [0, 1], color="0.6", linewidth=0.8)
    share.plot(tau, below.mean(axis=0), color="black", label="all")
    for name in REGIMES:
        if (regime == name).sum() >= MIN_REGIME_DAYS:
            share.plot(tau, below[regime == name].mean(axis=0), label=name, linewidth=1.0)
    of = "all symbols" if len(frames) > 1 else next(iter(frames))
    share.set(title=f"calibration, {of}", xlabel="quantile predicted", ylabel="share of outcomes below")
    for axis in (fan, share):
        axis.legend(frameon=False)
    return figure


def picture_of_training(progress: Path, path: Path, title: str) -> None:
    """
    Weight, value loss and explained variance over the updates.

    :param progress: CSV of the run's scalars
    :param path: PNG to write
    :param title: heading
    """
    scalars = pd.read_csv(progress)
    if "train/value_loss" not in scalars:  # nothing was trained, or someone removed the file
        return
    scalars = scalars.dropna(subset=["train/value_loss"]).set_index("time/total_timesteps").filter(like="train/")
    figure, (weight, loss, explained) = _panels(6, height_ratios=[2, 1.5, 1.5])
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
