"""From cells to verdicts: tables of effects against the baseline, and the user's hopes put to the test."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
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
from market_regimes.compare.statistics import Effect, against_hope, deflated_sharpe, effect, sharpe_difference, verdict
from market_regimes.config import Variants
from market_regimes.evaluate.figures import share_of_attainable
from market_regimes.evaluate.tables import figure_text, median
from market_regimes.files import write_file
from market_regimes.run.provenance import versions


@dataclass(frozen=True)
class Metric:
    """
    :param label: in words
    :param higher_is_better: direction
    """

    label: str
    higher_is_better: bool


METRICS = {
    "value_loss_spread": Metric("value-loss spread", False),
    "value_loss": Metric("value loss", False),
    "value_loss_outliers_stormy": Metric("value-loss outliers, stormy", False),
    "explained_variance": Metric("explained variance", True),
    "calibration_error": Metric("calibration error", False),
    "grad_imbalance_stormy": Metric("imbalance of gradients, stormy to calm", False),
    "grad_imbalance_crash": Metric("imbalance of gradients, crash to calm", False),
    "spread_error_calm": Metric("error of the spread, calm", False),
    "spread_error_stormy": Metric("error of the spread, stormy", False),
    "value_error_gap_stormy": Metric("gap of the value error, calm to stormy", False),
    "value_error_gap_crash": Metric("gap of the value error, calm to crash", False),
    "test_mean_reward": Metric("mean reward, test", True),
    "test_sharpe": Metric("Sharpe ratio, test", True),
    "test_sortino": Metric("Sortino ratio, test", True),
    "test_max_drawdown": Metric("largest drawdown, test", True),
    "test_turnover": Metric("turnover per year, test", False),
    "test_costs": Metric("costs per year, test", False),
    "test_attained": Metric("share of what is attainable, test", True),
    "test_explained_variance": Metric("explained variance, test", True),
    "test_calibration_error": Metric("calibration error, test", False),
    "test_value_error_gap_stormy": Metric("gap of the value error, calm to stormy, test", False),
    "test_value_error_gap_crash": Metric("gap of the value error, calm to crash, test", False),
    "test_sharpe_gap_stormy": Metric("gap of the Sharpe ratio, calm to stormy, test", False),
}


@dataclass(frozen=True)
class Hope:
    """
    What the user's plan expects of a variant.

    :param sentence: in words
    :param variant: which
    :param metric: key of ``METRICS``
    :param hoped: relative change, from the modest to the bold end
    :param against: compared with, None: the baseline
    """

    sentence: str
    variant: str
    metric: str
    hoped: tuple[float, float]
    against: str | None = None


HOPES = (
    Hope("The value loss spreads less", "batch", "value_loss_spread", (-0.05, -0.31)),
    Hope("... and not just because the loss is smaller", "batch", "value_loss_spread", (-0.05, -0.31), "control"),
    Hope("The Sharpe ratio rises", "batch", "test_sharpe", (0.05, 0.10)),
    Hope("... and not just because the loss is smaller", "batch", "test_sharpe", (0.05, 0.10), "control"),
    Hope("The reward of evaluations rises", "batch", "test_mean_reward", (0.05, 0.10)),
    Hope("The explained variance rises", "batch", "explained_variance", (0.0, 1.0)),
    Hope("Fewer outliers of the value loss on stormy days", "batch", "value_loss_outliers_stormy", (0.0, -1.0)),
    Hope("The gap between calm and crash at least halves", "batch", "value_error_gap_crash", (-0.5, -0.7)),
    Hope("The same on test days", "batch", "test_value_error_gap_crash", (-0.5, -0.7)),
    Hope("UPGD, scaling and twin critics together: reward", "tier1", "test_mean_reward", (0.3, 0.4)),
    Hope("UPGD, scaling and twin critics together: Sharpe ratio", "tier1", "test_sharpe", (0.3, 0.4)),
    Hope("UPGD, scaling and twin critics together: value-loss spread", "tier1", "value_loss_spread", (-0.3, -0.4)),
    Hope("Calm and stormy days pull alike", "recommended", "grad_imbalance_stormy", (0.0, -1.0)),
    Hope("The value loss spreads 31 % less", "recommended", "value_loss_spread", (-0.31, -1.0)),
    Hope("The Sharpe ratio rises", "recommended", "test_sharpe", (0.0, 1.0)),
)


def tables_of(comparison: Comparison, folds: Sequence[Fold], variants: Variants, baseline: str) -> Tables:
    """
    :param comparison: with its results
    :param folds: of all markets
    :param variants: as configured
    :param baseline: the variant that the others are compared with
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


def analysed(cells: pd.DataFrame, curves: pd.DataFrame, daily: pd.DataFrame, baseline: str) -> Tables:
    """
    :param cells: from ``with_derived``
    :param curves: of training
    :param daily: of the test days
    :param baseline: the variant that the others are compared with
    :return: with effects, hopes and Sharpe ratios
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
            **_row(_effect(values, variant, baseline, metric), metric),
        }
        for market in markets
        for part in [used if market == ALL else used[used["market"] == market]]
        for metric in METRICS
        if metric in part
        for values in [_by_variant(part, metric)]
        for variant in variants
    ]
    return Tables(cells, curves, daily, pd.DataFrame(effects), _hopes(used, baseline), _sharpes(used, daily, baseline))


def _by_variant(cells: pd.DataFrame, metric: str) -> pd.DataFrame:
    """A row per seed; columns by variant, market and fold."""
    return cells.pivot_table(index="seed", columns=["variant", "market", "fold"], values=metric, aggfunc="first")


def _effect(values: pd.DataFrame, variant: str, baseline: str, metric: str) -> Effect:
    """:param values: from ``_by_variant``, of the metric"""
    none = pd.DataFrame(index=values.index)
    one, two = (values.get(name, none) for name in (variant, baseline))
    columns = one.columns.union(two.columns)
    one, two = (each.reindex(columns=columns) for each in (one, two))
    return effect(one.to_numpy(float), two.to_numpy(float), METRICS[metric].higher_is_better)


def _row(found: Effect, metric: str) -> dict[str, Any]:
    row = asdict(found)
    row["variant_value"] = row.pop("variant")
    better = METRICS[metric].higher_is_better
    return {"label": METRICS[metric].label, "higher_is_better": better, **row, "verdict": verdict(found, better)}


def _hopes(cells: pd.DataFrame, baseline: str) -> pd.DataFrame:
    there = set(cells["variant"])
    rows = []
    for hope in HOPES:
        against = hope.against or baseline
        if not {hope.variant, against} <= there or hope.metric not in cells:
            continue
        found = _effect(_by_variant(cells, hope.metric), hope.variant, against, hope.metric)
        metric = METRICS[hope.metric]
        rows.append(
            {
                "hope": hope.sentence,
                "variant": hope.variant,
                "against": against,
                "metric": metric.label,
                "hoped": _hoped_text(hope.hoped),
                "measured": _measured_text(found),
                "verdict": verdict(found, metric.higher_is_better),
                "reached": against_hope(found, hope.hoped),
                "seeds_needed": found.seeds_needed,
            }
        )
    return pd.DataFrame(rows)


def _hoped_text(hoped: tuple[float, float]) -> str:
    modest, bold = hoped
    if modest == 0:
        return "more" if bold > 0 else "less"
    return f"{100 * modest:+.0f} %" if abs(bold) == 1 else f"{100 * modest:+.0f} to {100 * bold:+.0f} %"


def _measured_text(found: Effect) -> str:
    """As relative change where there is one, with its interval."""
    if found.difference is None:
        return "n/a"
    text = f"{found.baseline:.3g} became {found.variant:.3g}"
    if found.relative_low is None or found.relative_high is None or found.relative is None:
        return text if found.low is None else f"{text}: {found.difference:+.3g} [{found.low:+.3g}, {found.high:+.3g}]"
    low, high = sorted((found.relative_low, found.relative_high))
    return f"{text}: {100 * found.relative:+.1f} % [{100 * low:+.1f}, {100 * high:+.1f}]"


def _sharpes(cells: pd.DataFrame, daily: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Of the mean over the seeds of the daily returns, on the days that all variants were tested on."""
    rows = []
    for market, days in daily.groupby("market", sort=False) if len(daily) else []:
        bars_per_year = float(cells.loc[cells["market"] == market, "bars_per_year"].iloc[0])
        returns = days.pivot_table(index=["fold", "date"], columns="variant", values="return", aggfunc="mean")
        returns = returns[[name for name in dict.fromkeys(days["variant"]) if name in returns]].dropna()
        known = [name for name in RULES if name in days and days[name].notna().any()]
        rules = days.groupby(["fold", "date"])[known].first().reindex(returns.index)
        of_rules = {name: held.mean() / held.std() * np.sqrt(bars_per_year) for name, held in rules.items()}
        sharpes = returns.mean() / returns.std().where(returns.std() > 0)
        for variant in returns:
            own = returns[variant].to_numpy()
            found = (
                sharpe_difference(own, returns[baseline].to_numpy(), bars_per_year)
                if baseline in returns and variant != baseline
                else None
            )
            difference, low, high = found or (None, None, None)
            rows.append(
                {
                    "market": market,
                    "variant": variant,
                    "sharpe": sharpes[variant] * np.sqrt(bars_per_year),
                    **of_rules,
                    "attained": share_of_attainable(
                        sharpes[variant] * np.sqrt(bars_per_year), of_rules["hold"], of_rules.get("informed")
                    ),
                    "difference": difference,
                    "low": low,
                    "high": high,
                    "deflated": deflated_sharpe(own, sharpes.to_numpy()),
                }
            )
    return pd.DataFrame(rows)


def write_tables(folder: Path, tables: Tables, baseline: str, config_text: str) -> None:
    """
    :param folder: of the comparison
    :param tables: what is written, as CSV, Parquet and ``report.html``
    :param baseline: the variant that the others are compared with
    :param config_text: the configuration, shown in the report
    """
    for name in ("cells", "effects", "hopes", "sharpe"):
        write_file(folder / f"{name}.csv", getattr(tables, name).to_csv(index=False, float_format="%.6g"))
    for name in ("cells", "curves", "daily"):
        buffer = io.BytesIO()
        getattr(tables, name).to_parquet(buffer, index=False)
        write_file(folder / f"{name}.parquet", buffer.getvalue())
    facts = versions()
    facts["seconds of all cells"] = f"{tables.cells.get('seconds', pd.Series(dtype=float)).sum():,.0f}"
    write_report(folder / "report.html", tables, folder.name, baseline, config_text, facts)


def print_verdicts(tables: Tables, title: str) -> None:
    """
    :param tables: of the comparison
    :param title: what was compared
    """
    print(f"\n{title}:")
    for hope in tables.hopes.to_dict("records"):
        seeds = "" if pd.isna(hope["seeds_needed"]) else f"; seeds needed: {hope['seeds_needed']:.0f}"
        about = f"{hope['variant']} against {hope['against']}, {hope['metric']}"
        print(f"- {hope['hope']} ({about}; hoped: {hope['hoped']})")
        print(f"    {hope['verdict'].upper()}, {hope['measured']}{seeds}")
    failed = tables.cells[~tables.cells["status"].isin(["ok", "n/a"])]
    for cell in failed.to_dict("records"):
        print(f"failed: {cell['market']}, {cell['fold']}, {cell['variant']}, seed {cell['seed']}: {cell['error']}")


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
        table.add_row(*(escape(str(key)) for key in keys), *(figure_text("ratio", value) for value in medians))
    Console().print(table)
