"""From cells to verdicts: tables of effects against the baseline, answers to hypotheses, calm beside stormy days."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby, product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from market_regimes.compare.comparison import Comparison
from market_regimes.compare.folds import Fold, why_not
from market_regimes.compare.html_report import ALL, RULES, Tables, write_report
from market_regimes.compare.hypotheses import METRICS, answered, by_variant, effect_of
from market_regimes.compare.statistics import Effect, deflated_sharpe, seeds_needed_text, sharpe_difference, verdict
from market_regimes.config import Hypothesis, Variants
from market_regimes.evaluate.figures import share_of_attainable, sharpe_ratio
from market_regimes.evaluate.strategies import HOLD, INFORMED
from market_regimes.evaluate.tables import figure_text, median
from market_regimes.files import write_file
from market_regimes.run.provenance import versions


def tables_of(
    comparison: Comparison,
    folds: Sequence[Fold],
    variants: Variants,
    baseline: str,
    hypotheses: Sequence[Hypothesis] = (),
) -> Tables:
    """
    :param comparison: with its results
    :param folds: of all markets
    :param variants: as configured
    :param baseline: the variant that the others are compared with
    :param hypotheses: of the configuration
    :return: everything the report shows
    """
    results = [comparison.result(i) for i in range(len(comparison.cells))]
    keys = [
        {"market": cell.label, "fold": cell.fold, "variant": cell.variant, "seed": cell.seed}
        for cell in comparison.cells
    ]
    rows: list[dict[str, Any]] = [
        {
            **key,
            "status": result.get("status", "missing"),
            "error": result.get("error"),
            "seconds": result.get("seconds"),
            "bars_per_year": result.get("bars_per_year"),
            **result.get("figures", {}),
        }
        for key, result in zip(keys, results, strict=True)
    ]
    rows += [
        {"market": fold.label, "fold": fold.name, "variant": variant, "status": "n/a", "error": reason}
        for fold, (variant, own) in product(folds, variants.items())
        for reason in [why_not(fold, own)]
        if reason is not None
    ]
    curves, daily = (
        [pd.DataFrame(result[name]).assign(**key) for key, result in zip(keys, results, strict=True) if name in result]
        for name in ("curves", "daily")
    )
    cells = with_derived(pd.DataFrame(rows))
    days = pd.concat(daily, ignore_index=True) if daily else pd.DataFrame(columns=["date"])
    return analysed(
        cells,
        pd.concat(curves, ignore_index=True).astype({"step": float}) if curves else pd.DataFrame(),
        days.assign(date=pd.to_datetime(days["date"])),
        baseline,
        hypotheses,
    )


def with_derived(cells: pd.DataFrame) -> pd.DataFrame:
    """
    :param cells: one row per cell
    :return: also with distances from the ideal: of a ratio of gradients from 1, of a spread from that of the returns
    """
    derived = {}
    for group in ("stormy", "crash"):
        if f"grad_ratio_{group}" in cells:
            derived[f"grad_imbalance_{group}"] = np.log(cells[f"grad_ratio_{group}"].astype(float)).abs()
    for group in ("calm", "stormy"):
        if f"spread_{group}" in cells:
            derived[f"spread_error_{group}"] = (cells[f"spread_{group}"].astype(float) - 1).abs()
    return cells.assign(**derived)


def analysed(
    cells: pd.DataFrame,
    curves: pd.DataFrame,
    daily: pd.DataFrame,
    baseline: str,
    hypotheses: Sequence[Hypothesis] = (),
) -> Tables:
    """
    :param cells: from ``with_derived``
    :param curves: of training
    :param daily: of the test days
    :param baseline: the variant that the others are compared with
    :param hypotheses: of the configuration
    :return: with effects, answers to the hypotheses and Sharpe ratios
    """
    used = cells[cells["status"] == "ok"]
    variants = [name for name in dict.fromkeys(cells["variant"]) if name != baseline]
    markets = [ALL, *dict.fromkeys(cells["market"])]
    if len(markets) == 2:
        markets = [ALL]
    effects = [
        {
            "market": market,
            "variant": variant,
            "metric": metric,
            **_row(effect_of(values, variant, baseline, metric), metric),
        }
        for market in markets
        for part in [used if market == ALL else used[used["market"] == market]]
        for metric in METRICS
        if metric in part
        for values in [by_variant(part, metric)]
        for variant in variants
    ]
    hopes, sharpes = answered(used, hypotheses, baseline), _sharpes(used, daily, baseline)
    return Tables(cells, curves, daily, pd.DataFrame(effects), hopes, sharpes)


def _row(found: Effect, metric: str) -> dict[str, Any]:
    row = asdict(found)
    row["variant_value"] = row.pop("variant")
    better = METRICS[metric].higher_is_better
    return {"label": METRICS[metric].label, "higher_is_better": better, **row, "verdict": verdict(found, better)}


def _sharpes(cells: pd.DataFrame, daily: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """
    Of the seeds of each variant together, on the days that all variants were tested on: a day's return is the mean over
    the seeds. Seeds that err apart make it steadier than a cell's, so that its Sharpe ratio is the higher one.
    """
    rows = []
    for market, days in daily.groupby("market", sort=False) if len(daily) else []:
        bars_per_year = float(cells.loc[cells["market"] == market, "bars_per_year"].iloc[0])
        returns = days.pivot_table(index=["fold", "date"], columns="variant", values="return", aggfunc="mean")
        returns = returns[[name for name in dict.fromkeys(days["variant"]) if name in returns]].dropna()
        known = [name for name in RULES if name in days and days[name].notna().any()]
        rules = days.groupby(["fold", "date"])[known].first().reindex(returns.index)
        of_rules = {name: float(sharpe_ratio(column.to_numpy(float), bars_per_year)) for name, column in rules.items()}
        sharpes = pd.Series(sharpe_ratio(returns.to_numpy(), 1.0), returns.columns)
        for variant in returns:
            own = returns[variant].to_numpy()
            found = (
                sharpe_difference(own, returns[baseline].to_numpy(), bars_per_year)
                if baseline in returns and variant != baseline
                else None
            )
            difference, low, high = found or (None, None, None)
            of_hold = sharpe_difference(own, rules[HOLD.key].to_numpy(float), bars_per_year)
            lead, lead_low, lead_high = of_hold or (np.nan, np.nan, np.nan)
            rows.append(
                {
                    "market": market,
                    "variant": variant,
                    "years": len(own) / bars_per_year,
                    "sharpe_seeds_together": sharpes[variant] * np.sqrt(bars_per_year),
                    **of_rules,
                    "lead_over_hold": lead,
                    "lead_low": lead_low,
                    "lead_high": lead_high,
                    "attained_seeds_together": share_of_attainable(
                        sharpes[variant] * np.sqrt(bars_per_year), of_rules[HOLD.key], of_rules.get(INFORMED.key)
                    ),
                    "difference": difference,
                    "low": low,
                    "high": high,
                    "deflated": deflated_sharpe(own, sharpes.to_numpy()),
                }
            )
    return pd.DataFrame(rows)


def write_tables(folder: Path, tables: Tables, baseline: str, config_text: str, sentences: Sequence[str] = ()) -> None:
    """
    :param folder: of the comparison
    :param tables: what is written, as CSV, Parquet and ``report.html``
    :param baseline: the variant that the others are compared with
    :param config_text: the configuration, shown in the report
    :param sentences: the headline
    """
    for name in ("cells", "effects", "hopes", "sharpe"):
        write_file(folder / f"{name}.csv", getattr(tables, name).to_csv(index=False, float_format="%.6g"))
    for name in ("cells", "curves", "daily"):
        buffer = io.BytesIO()
        getattr(tables, name).to_parquet(buffer, index=False)
        write_file(folder / f"{name}.parquet", buffer.getvalue())
    facts = versions()
    facts["seconds of all cells"] = f"{tables.cells.get('seconds', pd.Series(dtype=float)).sum():,.0f}"
    write_report(folder / "report.html", tables, folder.name, baseline, config_text, facts, sentences)


def print_verdicts(tables: Tables, title: str, sentences: Sequence[str] = ()) -> None:
    """
    :param tables: of the comparison
    :param title: what was compared
    :param sentences: the headline
    """
    print(f"\n{title}:")
    for sentence in sentences:
        print(sentence)
    for about, answers in groupby(tables.hopes.to_dict("records"), lambda h: (h["hope"], h["metric"], h["hoped"])):
        question, metric, hoped = about
        print(f"- {question} ({metric}; hoped: {hoped})")
        for hope in answers:
            seeds = seeds_needed_text(hope["seeds_needed"], hope["verdict"])
            print(
                f"    {hope['variant']} against {hope['against']}: {hope['verdict'].upper()}, {hope['measured']}; "
                f"seeds needed: {seeds}"
            )
    failed = tables.cells[~tables.cells["status"].isin(["ok", "n/a"])]
    for cell in failed.to_dict("records"):
        print(f"failed: {cell['market']}, {cell['fold']}, {cell['variant']}, seed {cell['seed']}: {cell['error']}")


ALIKE = (0.8, 1.25)  # ratio of the gradients on stormy and on calm days within which both pull alike
REASONS = {  # of an n/a
    "grad_ratio_stormy": "too few calm or stormy bars in training, or a recurrent policy",
    "grad_ratio_crash": "too few calm or crash bars in training, or a recurrent policy",
    "spread_calm": "too few calm bars in training",
    "spread_stormy": "too few stormy bars in training",
    "explained_variance": "the returns of the probe do not vary",
    "test_sharpe": "the returns of the test days do not vary",
}
LEARNING = {
    "grad_ratio_stormy": "gradient\nstormy/calm",
    "grad_ratio_crash": "gradient\ncrash/calm",
    "spread_calm": "spread\ncalm",
    "spread_stormy": "spread\nstormy",
    "explained_variance": "explained\nvariance",
    "test_sharpe": "Sharpe of\na cell",
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
    title = "calm and stormy days, medians over the cells; 1 is ideal for the first four"
    table = Table(*names, *numbers, title=title, box=SIMPLE, padding=(0, 1, 0, 0))
    undefined = set()
    for keys, rows in used.groupby(["market", "variant"], sort=False):
        medians = {name: median(list(rows[name])) if name in rows else None for name in LEARNING}
        undefined |= {name for name, value in medians.items() if value is None}
        table.add_row(*(escape(str(key)) for key in keys), *(figure_text("ratio", v) for v in medians.values()))
    Console().print(table)
    for name in [name for name in LEARNING if name in undefined]:
        print(f"n/a under {LEARNING[name]!r}: {REASONS[name]}".replace("\\n", " "))


def alike(cells: pd.DataFrame) -> list[str]:
    """
    :param cells: of a comparison
    :return: per market a sentence on which variants treat calm and stormy days alike, by the median ratio of the
        gradients of the value loss over seeds and folds, the closest first; or that none does
    """
    used, sentences = cells[cells["status"] == "ok"], []
    low, high = ALIKE
    for market, rows in used.groupby("market", sort=False):
        ratios = {}
        for name, own in rows.groupby("variant", sort=False):
            ratio = median(list(own["grad_ratio_stormy"])) if "grad_ratio_stormy" in own else None
            if ratio is not None and ratio > 0:
                ratios[name] = ratio
        order = sorted(ratios, key=lambda name: abs(np.log(ratios[name])))
        texts = [f"{name} ({ratios[name]:.2f})" for name in order if low <= ratios[name] <= high]
        about = f"{market}: calm and stormy days pull the critic alike (a ratio of {low:g} to {high:g})"
        if texts:
            sentences.append(f"{about} with {'; '.join(texts)}.")
        elif order:
            sentences.append(
                f"{about} with none of {len(ratios)} variants; closest is {order[0]} ({ratios[order[0]]:.2f})."
            )
        else:
            why = "stormy or calm days are too few, or all policies recurrent"
            sentences.append(f"{market}: no ratio of gradients, because {why}.")
    return sentences
