"""Figures as tables in the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Column, Table

from market_regimes.evaluate.robustness import break_even_text
from market_regimes.evaluate.strategies import AGENT, HOLD, STRATEGIES

PERCENT = {
    "max_drawdown",
    "hit_rate",
    "growth_per_year",
    "total_return",
    "gross_return",
    "costs_per_year",
    "share_of_random_timings_below_agent",
    "share_of_attainable",
    "share_of_attainable_growth",
}
COUNTS = {"bars"}
LEAD = {  # figures of ``robustness`` by their short names in the table of several seeds
    "sharpe_difference": "sharpe_difference",
    "difference_low": "sharpe_difference_low",
    "difference_high": "sharpe_difference_high",
    "one_bar_later": "sharpe_ratio_one_bar_later",
}
ONE_ACCOUNT = (
    "{} symbols: each begins with an equal share of the money, and no money moves between them; equal weights "
    "rebalance at every bar and pay for it"
)


def print_summary(result: dict[str, Any], title: str) -> None:
    """
    Print the figures of the strategies side by side, then those by regime and by symbol. Undefined ones are "n/a".

    :param result: from ``Study.evaluate``
    :param title: what was evaluated
    """
    strategies = result["joint"]
    symbols = result["symbols"]

    # The account, its regimes, its symbols.
    console = Console()
    console.print(_overall(strategies, title))
    if any(figures.get("regimes") for figures in strategies.values()):
        console.print(_by_regime(strategies))
    if "account" in result:
        print(shared_cash_text(result["account"], len(symbols)))
    elif len(symbols) > 1:  # one symbol is the joint table
        console.print(_by_symbol(symbols, list(strategies)))
        print(ONE_ACCOUNT.format(len(symbols)))

    # The timing, what is attainable, and how far the lead carries.
    name = "share_of_random_timings_below_agent"
    if name in result:
        print(f"rank of the agent among its random timings, equal ones by half: {figure_text(name, result[name])}")
    name = "share_of_attainable"
    if result.get(name) is not None:  # the law is known
        print(f"of the way from buy-and-hold's Sharpe ratio to the informed rule's: {figure_text(name, result[name])}")
    name = "share_of_attainable_growth"
    if result.get(name) is not None:
        print(f"of the way from buy-and-hold's growth to the informed rule's: {figure_text(name, result[name])}")
    if "robustness" in result:
        _print_lead(result["robustness"])
    if "costs" in result:
        _print_costs(console, result["costs"])


def _print_costs(console: Console, curve: dict[str, Any]) -> None:
    """:param curve: from ``CostCurve.to_json``"""
    names = [f"{AGENT}: growth", "Sharpe", f"{HOLD.label}: growth", "Sharpe"]
    title = "the same decisions by fee and slippage, bp of the traded value"
    table = _table(title, Column("cost, bp", no_wrap=True), strategies=names)
    for i, cost in enumerate(curve["costs"]):
        growths = [figure_text("growth_per_year", curve[key][i]) for key in ("growth", "growth_of_hold")]
        ratios = [figure_text("sharpe_ratio", curve[key][i]) for key in ("sharpe", "sharpe_of_hold")]
        table.add_row(f"{cost:g}", growths[0], ratios[0], growths[1], ratios[1])
    console.print(table)

    print("the decisions are those at the costs of the evaluation; the policy is not asked again")

    # The break-even costs.
    texts = []
    for cost in curve["break_even"].values():
        texts.append(f"{cost:.1f} bp" if isinstance(cost, float) else cost)
    print(f"cost at which its growth falls to that of buy-and-hold: {texts[0]}; to 0: {texts[1]}")


def shared_cash_text(account: dict[str, Any], symbols: int) -> str:
    """
    :param account: of ``Evaluation.result``: its ``rows``, and in how many of them each limit cut
    :param symbols: that share the cash
    :return: what the limits cut, in one sentence
    """
    cuts = [f"{name} in {count}" for name, count in account["limits"].items()]
    cut = "no limit cut the weights" if not cuts else f"limits that cut the weights: {', '.join(cuts)} rows"
    return f"{symbols} symbols in one account with shared cash: of {account['rows']} rows {cut}"


def _print_lead(figures: dict[str, Any]) -> None:
    """:param figures: from ``robustness``"""
    low = figure_text("", figures["sharpe_difference_low"])
    high = figure_text("", figures["sharpe_difference_high"])
    difference = figure_text("", figures["sharpe_difference"])
    print(f"Sharpe ratio minus that of buy-and-hold: {difference}, 95 % interval {low} to {high}")
    later = figure_text("", figures["sharpe_ratio_one_bar_later"])
    print(f"Sharpe ratio with orders filled one bar later: {later}; break-even cost in bp: {break_even_text(figures)}")


def _table(title: str, first: Column, *about_agent: str, strategies: Iterable[str]) -> Table:
    """A table with a column per strategy, narrow enough for seven of them in 80 columns."""
    table = Table(first, *about_agent, title=title, box=SIMPLE, padding=(0, 1, 0, 0))
    for name in strategies:
        table.add_column(name, justify="right")
    return table


def _overall(strategies: dict[str, dict[str, Any]], title: str) -> Table:
    table = _table(title, Column("figure", no_wrap=True), strategies=strategies)
    for figure in next(iter(strategies.values())):
        if figure != "regimes":
            texts = [figure_text(figure, column[figure]) for column in strategies.values()]
            table.add_row(figure, *texts)
    return table


def _by_regime(strategies: dict[str, dict[str, Any]]) -> Table:
    agent = next(iter(strategies))
    title = f"by regime, bars with a symbol in it: Sharpe ratio, and the {agent}'s exposure"
    table = _table(title, Column("regime", no_wrap=True), "bars", "exposure", strategies=strategies)

    # What the agent did in a regime, and what every strategy earned there.
    for regime, cell in strategies[agent]["regimes"].items():
        about_agent = (figure_text(name, cell[name]) for name in ("bars", "exposure"))
        ratios = (_sharpe_text(column["regimes"][regime]) for column in strategies.values())
        table.add_row(regime, *about_agent, *ratios)
    return table


def _by_symbol(symbols: dict[str, dict[str, Any]], strategies: list[str]) -> Table:
    """:return: a table without the strategies that trade several symbols together"""
    alone = [name for name in strategies if all(name in figures for figures in symbols.values())]
    title = f"by symbol: Sharpe ratio, and the {strategies[0]}'s largest drawdown"
    table = _table(title, Column("symbol", no_wrap=True), "drawdown", strategies=alone)

    # The agent's drawdown in a symbol, and what every strategy earned with it.
    for symbol, figures in symbols.items():
        of_agent = figures[strategies[0]]
        drawdown = figure_text("max_drawdown", of_agent["max_drawdown"])
        ratios = [_sharpe_text(figures[name]) for name in alone]
        table.add_row(symbol, drawdown, *ratios)
    return table


def _sharpe_text(figures: dict[str, float | None]) -> str:
    return figure_text("sharpe_ratio", figures["sharpe_ratio"])


def print_seeds(results: Mapping[int | None, dict[str, Any]], title: str) -> None:
    """
    Print the agent's figures of several seeds, with their median, beside those of buy-and-hold; then the Sharpe ratios
    of the trading rules that ``STRATEGIES`` names beside them.

    :param results: per seed what ``Study.evaluate`` gave
    :param title: what was evaluated
    """
    agents = {seed: result["joint"][AGENT] for seed, result in results.items()}
    strategies = next(iter(results.values()))["joint"]
    hold = strategies.get(HOLD.label)

    # A column per seed, their median, and buy-and-hold.
    table = Table(Column("figure", no_wrap=True), title=title, box=SIMPLE)
    columns = [*(f"seed {seed}" for seed in agents), "median"]
    if hold:
        columns.append(HOLD.label)
    for column in columns:
        table.add_column(column, justify="right")

    # A row per figure.
    for figure in next(iter(agents.values())):
        if figure == "regimes":
            continue
        values = [agent[figure] for agent in agents.values()]
        values.append(median(values))
        if hold:
            values.append(hold[figure])
        texts = [figure_text(figure, value) for value in values]
        table.add_row(figure, *texts)

    # The lead of each seed over buy-and-hold.
    if hold:
        all_robustness = [result["robustness"] for result in results.values()]
        for name, key in LEAD.items():
            texts = [figure_text(name, each[key]) for each in all_robustness]
            table.add_row(name, *texts)
        table.add_row("break_even_bp", *(break_even_text(each) for each in all_robustness))
    Console().print(table)

    # The Sharpe ratios of the trading rules.
    rules = [strategy.label for strategy in STRATEGIES if strategy.beside_seeds and strategy.label in strategies]
    if rules:
        texts = [f"{label} {_sharpe_text(strategies[label])}" for label in rules]
        print(f"Sharpe ratio of the {', of the '.join(texts)}")
        growths = [
            f"{label} {figure_text('growth_per_year', strategies[label]['growth_per_year'])}"
            for label in rules
            if "growth_per_year" in strategies[label]
        ]
        if growths:
            print(f"growth a year of the {', of the '.join(growths)}")


def median(values: list[float | None]) -> float | None:
    """Median of the defined values, None where there is none."""
    defined = [value for value in values if value is not None and np.isfinite(value)]
    if not defined:
        return None
    return float(np.median(defined))


def figure_text(figure: str, value: float | None) -> str:
    """A figure as a person writes it."""
    if value is None:
        return "n/a"
    if figure in COUNTS:
        return f"{value:.0f}"
    if figure == "exposure":
        return f"{100 * value:.0f} %"
    if figure in PERCENT:
        return f"{100 * value:.1f} %"
    return f"{value:.2f}"
