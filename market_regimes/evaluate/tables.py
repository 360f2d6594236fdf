"""Figures as tables in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Column, Table

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
            table.add_row(figure, *(figure_text(figure, column[figure]) for column in strategies.values()))
    for regime, cell in first.get("regimes", {}).items():
        columns = [column["regimes"][regime] for column in strategies.values()]
        by_regime.add_row(regime, figure_text("bars", cell["bars"]), *(_cell(c, "exposure") for c in columns))
    for symbol, by_strategy in result["symbols"].items():
        by_symbol.add_row(symbol, *(_cell(column, "max_drawdown") for column in by_strategy.values()))
    for each in (table, by_regime, by_symbol):
        if each.row_count > (1 if each is by_symbol else 0):  # one symbol is the joint table
            Console().print(each)
    name = "share_of_random_timings_below_agent"
    if name in result:
        print(f"random timings with a lower Sharpe ratio than the agent: {figure_text(name, result[name])}")


def _cell(figures: dict[str, float | None], second: str) -> str:
    """The Sharpe ratio and a second figure."""
    return "  ".join(figure_text(name, figures[name]) for name in ("sharpe_ratio", second))


def print_seeds(results: Mapping[int | None, dict[str, Any]], title: str) -> None:
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
        table.add_row(figure, *(figure_text(figure, value) for value in cells))
    Console().print(table)


def median(values: list[float | None]) -> float | None:
    """Median of the defined values, None where there is none."""
    defined = [value for value in values if value is not None and np.isfinite(value)]
    return float(np.median(defined)) if defined else None


def figure_text(figure: str, value: float | None) -> str:
    """A figure as a person writes it."""
    if value is None:
        return "n/a"
    if figure in COUNTS:
        return f"{value:.0f}"
    if figure == "exposure":
        return f"{100 * value:.0f} %"
    return f"{100 * value:.1f} %" if figure in PERCENT else f"{value:.2f}"
