"""A self-contained HTML file that explains a comparison's results to a stranger."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, StrictUndefined

from market_regimes.compare.catalogue import RULES
from market_regimes.compare.pictures import equity_pictures, pictures_of, with_columns
from market_regimes.compare.statistics import seeds_needed_text
from market_regimes.compare.tables import ALL, Tables
from market_regimes.files import write_file
from market_regimes.run.provenance import versions

# Figures of the first table and of the picture of effects, in order.
MAIN = (
    "value_loss_spread",
    "explained_variance",
    "test_mean_reward",
    "test_sharpe",
    "test_value_error_gap_stormy",
    "grad_imbalance_stormy",
)
# Columns of ``Tables.sharpe`` that a report always shows.
SEEDS_TOGETHER = ("sharpe_seeds_together", "lead_over_hold", "lead_low", "lead_high", "attained_seeds_together")
GROWTHS = ("growth_seeds_together", "hold_growth", "attained_growth_seeds_together")
DIGITS = ".3g"  # format of numbers in tables
ROUNDING = 1e-6  # smaller numbers count as 0


def write_report(
    path: Path,
    tables: Tables,
    title: str,
    baseline: str,
    config_text: str,
    facts: dict[str, str],
    headline: Sequence[str] = (),
) -> None:
    """
    :param path: HTML file to write or replace
    :param tables: tables to show
    :param title: heading
    :param baseline: variant that the others are compared with
    :param config_text: configuration, shown verbatim
    :param facts: versions, seconds and similar facts by name
    :param headline: sentences for a reader with ten seconds
    """
    cells = with_columns(tables.cells, ("market", "fold", "variant", "seed", "status", "error"))
    effects = with_columns(tables.effects, ("market", "variant", "metric"))
    metrics = _main_metrics(effects)
    rules = {key: rule.title for key, rule in RULES.items() if rule.in_every_report or key in tables.sharpe}

    page = _template().render(
        title=title,
        baseline=baseline,
        config_text=config_text,
        facts=facts,
        headline=headline,
        pictures=pictures_of(tables, metrics, baseline),
        equity=equity_pictures(tables, baseline),
        counts={name: list(cells[name].dropna().unique()) for name in ("variant", "seed", "fold", "market")},
        status=cells["status"].value_counts().to_dict(),
        without=cells[cells["status"] != "ok"].to_dict("records"),
        hopes=tables.hopes.to_dict("records"),
        main=_effect_table(effects[effects["metric"].isin(metrics)], ALL),
        details={market: _effect_table(effects, market) for market in effects["market"].unique()},
        sharpe=with_columns(tables.sharpe, (*RULES, *SEEDS_TOGETHER, *GROWTHS)).to_dict("records"),
        rules=rules,
        regimes=tables.regimes,
        all_markets=ALL,
    )
    write_file(path, page)


def facts_of(tables: Tables) -> dict[str, str]:
    """:return: versions of the libraries, and the duration of all cells"""
    seconds = tables.cells.get("seconds", pd.Series(dtype=float)).sum()
    return {**versions(), "seconds of all cells": f"{seconds:,.0f}"}


def _template() -> Any:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = _number
    environment.globals["seeds_needed_text"] = seeds_needed_text
    source = resources.files("market_regimes.compare") / "report.html.j2"
    return environment.from_string(source.read_text("utf-8"))


def _main_metrics(effects: pd.DataFrame) -> list[str]:
    """Return the metrics of ``MAIN`` that exist, else the first ones."""
    measured = list(effects["metric"].unique())
    return [name for name in MAIN if name in measured] or measured[: len(MAIN)]


def _number(value: Any, form: str = DIGITS) -> str:
    """Format a number with three digits and no exponent, "n/a" if undefined."""
    if pd.isna(value) or not np.isfinite(value):
        return "n/a"
    if not form.endswith(DIGITS):
        return format(value, form)
    if abs(value) >= 1000:
        return format(value, form.replace(DIGITS, ",.0f"))
    if abs(value) < ROUNDING:
        return "0"
    return str(np.format_float_positional(value, precision=3, fractional=False, trim="-", sign=form.startswith("+")))


def _effect_table(effects: pd.DataFrame, market: str) -> dict[str, Any]:
    """Return a market's metrics with label and direction, and each variant's effects by metric."""
    rows = effects[effects["market"] == market].to_dict("records")
    by_variant: dict[str, dict[str, Any]] = {}
    for row in rows:
        by_variant.setdefault(row["variant"], {})[row["metric"]] = row
    return {"metrics": {row["metric"]: row for row in rows}, "rows": by_variant}
