"""
The tables of RESULTS.md, from the cells committed beside this file.

    python train_model_multi_patch.py compare --config configs/compare.yaml --config benchmarks/results.yaml
    python benchmarks/results.py runs/results    # takes the cells of that comparison, then writes the tables
    python benchmarks/results.py                 # only the tables
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pandas as pd
import yaml

sys.path.insert(0, str(Path(__file__).parent.parent))
from market_regimes.compare.hypotheses import METRICS
from market_regimes.compare.verdicts import analysed, with_derived
from market_regimes.config import Hypothesis

HERE = Path(__file__).parent
CELLS, SHARPE, PAGE = HERE / "results_cells.csv", HERE / "results_sharpe.csv", HERE.parent / "RESULTS.md"
HYPOTHESES = [
    Hypothesis(**{**entry, "hoped": tuple(entry["hoped"])})
    for entry in yaml.safe_load((HERE / "results.yaml").read_text("utf-8"))["hypotheses"]
]
KEYS = ["market", "fold", "variant", "seed", "status", "error", "seconds", "bars_per_year"]
RAW = ["grad_ratio_stormy", "grad_ratio_crash", "spread_calm", "spread_normal", "spread_stormy", "weight_mean"]
RAW += ["hold_sharpe", "hold_mean_reward", "test_exposure"]
SHOWN = ("value_loss_spread", "explained_variance", "grad_imbalance_stormy", "test_mean_reward", "test_sharpe")
MEDIANS = {
    "grad_ratio_stormy": "gradient, stormy / calm",
    "grad_ratio_crash": "gradient, crash / calm",
    "spread_calm": "spread, calm",
    "spread_stormy": "spread, stormy",
    "value_loss_spread": "value-loss spread",
    "test_sharpe": "Sharpe, test",
    "hold_sharpe": "buy and hold",
}


def take(folder: Path) -> None:
    """
    :param folder: of the comparison; its cells, with the columns that the tables need, replace the committed ones
    """
    cells = pd.read_parquet(folder / "cells.parquet")
    columns = [name for name in dict.fromkeys([*KEYS, *METRICS, *RAW]) if name in cells]
    cells[columns].to_csv(CELLS, index=False, float_format="%.4g")
    pd.read_csv(folder / "sharpe.csv").to_csv(SHARPE, index=False, float_format="%.4g")


def tables() -> dict[str, str]:
    """:return: Markdown by name: "hopes", "effects", "medians", "sharpe" """
    cells = with_derived(pd.read_csv(CELLS))
    unused = set(METRICS) - {*SHOWN, *MEDIANS, *(hypothesis.metric for hypothesis in HYPOTHESES)}
    cells = cells.drop(columns=unused & set(cells))
    found = analysed(cells, pd.DataFrame(), pd.DataFrame(columns=["date"]), "baseline", HYPOTHESES)
    effects = found.effects[found.effects["metric"].isin(SHOWN)].copy()
    effects["text"] = [_interval(row) for row in effects.itertuples()]
    texts = effects.pivot(index=["market", "variant"], columns="metric", values="text")
    texts = texts.reindex(index=effects.set_index(["market", "variant"]).index.unique(), columns=list(SHOWN))
    medians = cells[cells["status"] == "ok"].groupby(["market", "variant"], sort=False)[list(MEDIANS)].median()
    sharpe = pd.read_csv(SHARPE)
    sharpe["difference"] = [_interval(row) for row in sharpe.itertuples()]
    return {
        "hopes": markdown(
            found.hopes.assign(seeds_needed=found.hopes["seeds_needed"].astype("Int64")).rename(columns=_words)
        ),
        "effects": markdown(texts.rename(columns={name: METRICS[name].label for name in SHOWN}).reset_index()),
        "medians": markdown(medians.rename(columns=MEDIANS).map(lambda value: f"{value:.2f}").reset_index()),
        "sharpe": markdown(
            sharpe[["market", "variant", "sharpe", "hold", "difference", "deflated"]].map(
                lambda value: f"{value:.2f}" if isinstance(value, float) else value
            )
        ),
    }


def _words(name: str) -> str:
    return name.replace("_", " ")


def _interval(row: object) -> str:
    """Difference and interval, bold where it does not hold 0."""
    middle, low, high = (float(getattr(row, name)) for name in ("difference", "low", "high"))
    if pd.isna(low):
        return "n/a"
    text = f"{middle:+.2g} [{low:+.2g}, {high:+.2g}]"
    return text if low <= 0 <= high else f"**{text}**"


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
    parser.add_argument("folder", type=Path, nargs="?", help="comparison to take the cells of")
    folder = parser.parse_args().folder
    if folder is not None:
        take(folder)
    PAGE.write_text(with_tables(PAGE.read_text(), tables()))


if __name__ == "__main__":
    main()
