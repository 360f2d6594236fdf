"""Terminal output of a comparison: answers to hypotheses, failed cells, calm beside stormy days."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import pandas as pd
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from market_regimes.compare.catalogue import FIGURES
from market_regimes.compare.statistics import seeds_needed_text
from market_regimes.compare.tables import Tables
from market_regimes.evaluate.tables import figure_text, median

# Columns of the table of calm and stormy days.
LEARNING = (
    "grad_ratio_stormy",
    "grad_ratio_crash",
    "spread_calm",
    "spread_stormy",
    "explained_variance",
    "test_sharpe",
)

# Columns of the table of trading: figure, heading and the form of its text.
TRADING = (
    ("test_sharpe", "Sharpe", "sharpe_ratio"),
    ("hold_sharpe", "that of\nhold", "sharpe_ratio"),
    ("test_attained", "share", "share_of_attainable"),
    ("test_growth", "growth\na year", "growth_per_year"),
    ("hold_growth", "that of\nhold", "growth_per_year"),
    ("test_attained_growth", "share", "share_of_attainable_growth"),
)


def print_verdicts(tables: Tables, title: str, sentences: Sequence[str] = ()) -> None:
    """
    :param tables: tables of the comparison
    :param title: name of the comparison
    :param sentences: the headline
    """
    print(f"\n{title}:")
    for sentence in sentences:
        print(sentence)

    answers = tables.hopes.to_dict("records")
    for question, rows in groupby(answers, lambda row: (row["hope"], row["metric"], row["hoped"])):
        _print_answers(*question, rows)

    failed = tables.cells[~tables.cells["status"].isin(["ok", "n/a"])]
    for cell in failed.to_dict("records"):
        print(f"failed: {cell['market']}, {cell['fold']}, {cell['variant']}, seed {cell['seed']}: {cell['error']}")


def _print_answers(question: str, metric: str, hoped: str, rows: Iterable[dict[Any, Any]]) -> None:
    """Print a question, and a line for each variant with an answer."""
    print(f"- {question} ({metric}; hoped: {hoped})")
    for row in rows:
        seeds = seeds_needed_text(row["seeds_needed"], row["verdict"])
        print(
            f"    {row['variant']} against {row['against']}: {row['verdict'].upper()}, {row['measured']}; "
            f"seeds needed: {seeds}"
        )


def print_by_regime(cells: pd.DataFrame) -> None:
    """
    Print per market and variant how alike calm and stormy days are treated.

    The figures are medians of two ratios over seeds and folds: stormy to calm gradient of the value loss, and predicted
    to true spread.

    :param cells: cells of a comparison
    """
    names = [Column(name, no_wrap=True) for name in ("market", "variant")]
    numbers = [Column(FIGURES[name].heading, justify="right") for name in LEARNING]
    title = "calm and stormy days, medians over the cells; 1 is ideal for the first four"
    table = Table(*names, *numbers, title=title, box=SIMPLE, padding=(0, 1, 0, 0))

    # Print one row per market and variant.
    undefined = set()
    used = cells[cells["status"] == "ok"]
    for keys, rows in used.groupby(["market", "variant"], sort=False):
        medians = {name: _median_of(rows, name) for name in LEARNING}
        undefined |= {name for name, value in medians.items() if value is None}
        texts = [figure_text("ratio", value) for value in medians.values()]
        table.add_row(*(escape(str(key)) for key in keys), *texts)
    Console().print(table)

    # Explain missing figures.
    for name in LEARNING:
        if name in undefined:
            figure = FIGURES[name]
            print(f"n/a under {figure.heading!r}: {figure.undefined}".replace("\\n", " "))


def print_trading(cells: pd.DataFrame) -> None:
    """
    Print Sharpe ratio and growth of the test days side by side, medians over seeds and folds.

    :param cells: cells of a comparison; a figure that they lack is "n/a"
    """
    names = [Column(name, no_wrap=True) for name in ("market", "variant")]
    numbers = [Column(heading, justify="right") for _, heading, _ in TRADING]
    title = "test days, medians over the cells; share: of the way from buy and hold to the informed rule"
    table = Table(*names, *numbers, title=title, box=SIMPLE, padding=(0, 1, 0, 0))

    used = cells[cells["status"] == "ok"]
    for keys, rows in used.groupby(["market", "variant"], sort=False):
        texts = [figure_text(form, _median_of(rows, name)) for name, _, form in TRADING]
        table.add_row(*(escape(str(key)) for key in keys), *texts)
    Console().print(table)


def _median_of(rows: pd.DataFrame, name: str) -> float | None:
    return median(list(rows[name])) if name in rows else None
