"""
The tables of RESULTS.md and docs/variants.md, from the cells committed beside this file.

    python train_model_multi_patch.py compare --config configs/compare.yaml --config benchmarks/results.yaml \\
        --compare.markets=[synthetic,synthetic_hidden] --run.total_timesteps=300000 --run.name=results_synthetic
    python train_model_multi_patch.py compare --config configs/compare.yaml --config benchmarks/results.yaml \\
        --compare.markets=[sp500,nasdaq] --run.total_timesteps=100000 --run.name=results_indices
    python benchmarks/results.py runs/results_synthetic runs/results_indices    # takes their cells, writes the tables
    python benchmarks/results.py                                                # only writes the tables
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import yaml

sys.path.insert(0, str(Path(__file__).parent.parent))
from market_regimes.compare.catalogue import FIGURES, compared_figures, with_distances
from market_regimes.compare.hypotheses import answered, by_variant, paired
from market_regimes.compare.statistics import interval
from market_regimes.config import Hypothesis

HERE = Path(__file__).parent
CELLS = HERE / "results_cells.csv"
PAGES = {"hopes": HERE.parent / "RESULTS.md", "medians": HERE.parent / "docs/variants.md"}
GROUPS = {"synthetic": ("synthetic",), "synthetic_hidden": ("synthetic_hidden",), "indices": ("sp500", "nasdaq")}
HYPOTHESES = [
    Hypothesis(**{**entry, "hoped": tuple(entry["hoped"])})
    for entry in yaml.safe_load((HERE / "results.yaml").read_text("utf-8"))["hypotheses"]
]
CELL = ["market", "fold", "variant", "seed"]
KEYS = [*CELL, "status", "error", "seconds", "bars_per_year"]
SHOWN = (  # columns of medians, where the cells have them
    "grad_ratio_stormy",
    "spread_calm",
    "spread_stormy",
    "value_loss_spread",
    "explained_variance",
    "test_attained",
    "test_sharpe",
    "hold_sharpe",
    "test_growth",
    "hold_growth",
    "test_attained_growth",
)


def take(folders: Sequence[Path]) -> None:
    """
    :param folders: of comparisons; their cells, with the columns that the tables need, replace the committed ones
    :raises ValueError: if a cell is in two of them, or of a market that no group of the tables has
    """
    cells = pd.concat([pd.read_parquet(folder / "cells.parquet") for folder in folders])
    if cells.duplicated(CELL).any():
        raise ValueError(f"a cell is in two of {', '.join(map(str, folders))}")
    grouped = {market for markets in GROUPS.values() for market in markets}
    strangers = set(cells["market"]) - grouped
    if strangers:
        raise ValueError(f"no group of the tables has {', '.join(sorted(strangers))}")

    columns = [name for name in dict.fromkeys([*KEYS, *compared_figures(), *SHOWN]) if name in cells]
    # A column that is empty in one comparison is one of objects, which no format rounds.
    cells[columns].infer_objects().to_csv(CELLS, index=False, float_format="%.4g")


def tables() -> dict[str, str]:
    """:return: Markdown by name: "hopes", "medians" """
    cells = with_distances(pd.read_csv(CELLS))
    cells = cells[cells["status"] == "ok"]
    return {"hopes": markdown(_hopes(cells)), "medians": markdown(_medians(cells))}


def _hopes(cells: pd.DataFrame) -> pd.DataFrame:
    """A row per hypothesis, a column per group of markets."""
    rows = [_hope(cells, hypothesis) for hypothesis in HYPOTHESES]
    return pd.DataFrame([row for row in rows if row])


def _hope(cells: pd.DataFrame, hypothesis: Hypothesis) -> dict[str, str]:
    """A hypothesis and its answer in each group of markets; empty where no group has one."""
    question: dict[str, str] = {}
    answers = dict.fromkeys(GROUPS, "n/a")
    for name, markets in GROUPS.items():
        for answer in answered(cells[cells["market"].isin(markets)], [hypothesis], "baseline").to_dict("records"):
            question = {key: answer[key] for key in ("hope", "variant", "hoped")}
            answers[name] = f"{answer['measured']}; {answer['verdict']}, {answer['reached']}"
    return question | answers if question else {}


def _medians(cells: pd.DataFrame) -> pd.DataFrame:
    """A row per market and variant; bold where the interval of the difference from the baseline leaves out 0."""
    rows = []
    shown = [name for name in SHOWN if name in cells]  # cells of an earlier version lack growth
    for market, of_market in cells.groupby("market", sort=False):
        values = {name: by_variant(of_market, name) for name in shown}
        for variant in dict.fromkeys(of_market["variant"]):
            of_variant = of_market[of_market["variant"] == variant]
            row = {"market": market, "variant": variant, "seeds": of_variant["seed"].nunique()}
            for name in shown:
                label = FIGURES[name].short or FIGURES[name].label
                row[label] = _median(of_variant[name], values[name], variant)
            rows.append(row)
    return pd.DataFrame(rows)


def _median(cells: pd.Series, values: pd.DataFrame, variant: str) -> str:
    """Of a variant's cells; bold where ``values``, of all variants, show a difference from the baseline."""
    text = f"{cells.median():.2f}"
    if variant == "baseline":
        return text

    of_variant, of_baseline = paired(values, variant, "baseline")
    bounds = interval(of_variant - of_baseline, 0)
    return text if bounds is None or bounds[0] <= 0 <= bounds[1] else f"**{text}**"


def markdown(table: pd.DataFrame) -> str:
    """A table without its index."""
    rows = [
        ["n/a" if str(value) in ("nan", "<NA>") else str(value) for value in row]
        for row in table.itertuples(index=False)
    ]
    lines = [list(map(str, table.columns)), ["---"] * len(table.columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def with_tables(page: str, tables: dict[str, str]) -> str:
    """
    :param page: Markdown with blocks between ``<!-- NAME -->`` and ``<!-- end -->``
    :param tables: Markdown by name
    :return: with the tables in them
    """
    for name, table in tables.items():
        start = page.index(f"<!-- {name} -->\n") + len(f"<!-- {name} -->\n")
        page = page[:start] + table + "\n" + page[page.index("<!-- end -->", start) :]
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="*", help="comparisons to take the cells of")
    folders = parser.parse_args().folders
    if folders:
        take(folders)
    for name, table in tables().items():
        PAGES[name].write_text(with_tables(PAGES[name].read_text(), {name: table}))


if __name__ == "__main__":
    main()
