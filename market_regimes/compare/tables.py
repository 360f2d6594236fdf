"""Tables of a comparison: figures, effects against the baseline, Sharpe ratios of the seeds."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from market_regimes.compare.catalogue import RULES, Figure, compared_figures, with_distances
from market_regimes.compare.comparison import Comparison
from market_regimes.compare.folds import why_not
from market_regimes.compare.hypotheses import answered, by_variant, effect_of
from market_regimes.compare.statistics import Effect, deflated_sharpe, sharpe_difference, verdict
from market_regimes.config import Hypothesis, Variants
from market_regimes.evaluate.figures import share_of_attainable, sharpe_ratio
from market_regimes.evaluate.strategies import HOLD, INFORMED
from market_regimes.files import write_file
from market_regimes.market.regimes import DEFAULT_REGIMES, regimes_of
from market_regimes.market.walk_forward import Fold

ALL = "all"  # all markets together, in ``Tables.effects``
Key = dict[str, Any]  # market, fold, variant and seed of a cell


@dataclass
class Tables:
    """
    Results of a comparison. NaN and None: undefined.

    :param cells: one row per cell: ``market``, ``fold``, ``variant``, ``seed``, ``status``, ``error`` and its figures
    :param curves: one row per cell and rollout of training
    :param daily: one row per cell and test day
    :param effects: one row per market, variant and metric: the paired difference, its interval and verdict
    :param hopes: one row per hypothesis: expected and measured change
    :param sharpe: one row per market and variant
    :param regimes: names of the regimes, from the calmest to the wildest
    """

    cells: pd.DataFrame
    curves: pd.DataFrame
    daily: pd.DataFrame
    effects: pd.DataFrame
    hopes: pd.DataFrame
    sharpe: pd.DataFrame
    regimes: tuple[str, ...] = DEFAULT_REGIMES.names


def tables_of(
    comparison: Comparison,
    folds: Sequence[Fold],
    variants: Variants,
    baseline: str,
    hypotheses: Sequence[Hypothesis] = (),
) -> Tables:
    """
    :param comparison: comparison with its results
    :param folds: folds of all markets
    :param variants: configured variants
    :param baseline: variant that the others are compared with
    :param hypotheses: hypotheses of the configuration
    :return: all data of the report
    """
    results = [comparison.result(i) for i in range(len(comparison.cells))]
    keys: list[Key] = [
        {"market": cell.label, "fold": cell.fold, "variant": cell.variant, "seed": cell.seed}
        for cell in comparison.cells
    ]

    # Add a row for each cell, and one for each variant that a fold omits.
    rows = [_cell_row(key, result) for key, result in zip(keys, results, strict=True)]
    rows += _rows_left_out(folds, variants)
    cells = with_distances(pd.DataFrame(rows))

    # Stack curves and days of the cells with results.
    curves = _stacked("curves", keys, results)
    if len(curves):
        curves = curves.astype({"step": float})
    daily = _stacked("daily", keys, results)
    if daily.empty:
        daily = pd.DataFrame(columns=["date"])
    daily = daily.assign(date=pd.to_datetime(daily["date"]))

    regimes = regimes_of(folds[0].market).names
    return analysed(cells, curves, daily, baseline, hypotheses, regimes)


def _cell_row(key: Key, result: dict[str, Any]) -> dict[str, Any]:
    return {
        **key,
        "status": result.get("status", "missing"),
        "error": result.get("error"),
        "seconds": result.get("seconds"),
        "bars_per_year": result.get("bars_per_year"),
        **result.get("figures", {}),
    }


def _rows_left_out(folds: Sequence[Fold], variants: Variants) -> Iterator[dict[str, Any]]:
    """Yield a row for each fold and variant that does not run on it."""
    for fold, (variant, keys) in product(folds, variants.items()):
        reason = why_not(fold, keys)
        if reason is not None:
            yield {"market": fold.label, "fold": fold.name, "variant": variant, "status": "n/a", "error": reason}


def _stacked(name: str, keys: Sequence[Key], results: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Stack a part of all results into one table, empty if none has it."""
    frames = [
        pd.DataFrame(result[name]).assign(**key) for key, result in zip(keys, results, strict=True) if name in result
    ]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def analysed(
    cells: pd.DataFrame,
    curves: pd.DataFrame,
    daily: pd.DataFrame,
    baseline: str,
    hypotheses: Sequence[Hypothesis] = (),
    regimes: tuple[str, ...] = DEFAULT_REGIMES.names,
) -> Tables:
    """
    :param cells: table from ``with_distances``
    :param curves: curves of training
    :param daily: test days
    :param baseline: variant that the others are compared with
    :param hypotheses: hypotheses of the configuration
    :param regimes: names of the regimes, from the calmest to the wildest
    :return: tables with effects, answers to the hypotheses and Sharpe ratios
    """
    used = cells[cells["status"] == "ok"]
    variants = [name for name in dict.fromkeys(cells["variant"]) if name != baseline]

    # Analyse all markets together, then each alone if there are several.
    effects = _effects(used, ALL, variants, baseline)
    markets = list(dict.fromkeys(cells["market"]))
    if len(markets) > 1:
        for market in markets:
            effects += _effects(used[used["market"] == market], market, variants, baseline)

    answers = answered(used, hypotheses, baseline)
    sharpes = _sharpe_ratios(used, daily, baseline)
    return Tables(cells, curves, daily, pd.DataFrame(effects), answers, sharpes, regimes)


def _effects(cells: pd.DataFrame, market: str, variants: Sequence[str], baseline: str) -> list[dict[str, Any]]:
    """List a row for each figure of the cells and each variant."""
    rows = []
    for metric, figure in compared_figures().items():
        if metric not in cells:
            continue
        values = by_variant(cells, metric)
        for variant in variants:
            effect = effect_of(values, variant, baseline, metric)
            rows.append({"market": market, "variant": variant, "metric": metric, **_effect_row(effect, figure)})
    return rows


def _effect_row(effect: Effect, figure: Figure) -> dict[str, Any]:
    numbers = asdict(effect)
    numbers["variant_value"] = numbers.pop("variant")
    return {
        "label": figure.label,
        "higher_is_better": figure.higher_is_better,
        **numbers,
        "verdict": verdict(effect, figure.higher_is_better),
    }


def _sharpe_ratios(cells: pd.DataFrame, daily: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Return one row per market and variant."""
    rows: list[dict[str, Any]] = []
    if len(daily):
        for market, days in daily.groupby("market", sort=False):
            bars_per_year = float(cells.loc[cells["market"] == market, "bars_per_year"].iloc[0])
            rows += _sharpe_rows(str(market), days, bars_per_year, baseline)
    return pd.DataFrame(rows)


def _sharpe_rows(market: str, days: pd.DataFrame, bars_per_year: float, baseline: str) -> Iterator[dict[str, Any]]:
    """
    Compute Sharpe ratios and growths of each variant's seeds together, on the days that all variants were tested on.

    A day's return is the mean over the seeds. Seeds with different errors make it steadier than a cell's return, which
    raises its Sharpe ratio.
    """
    # Compute returns by day, a column per variant in the order of the cells.
    returns = days.pivot_table(index=["fold", "date"], columns="variant", values="return", aggfunc="mean")
    order = [name for name in dict.fromkeys(days["variant"]) if name in returns]
    returns = returns[order].dropna()
    ratios_per_bar = np.array([_sharpe_ratio(returns[name], 1.0) for name in returns])

    # Read the trading rules' returns on the same days.
    rules = days.groupby(["fold", "date"])[_rules_in(days)].first().reindex(returns.index)
    rule_ratios = {name: _sharpe_ratio(column, bars_per_year) for name, column in rules.items()}
    rule_growths = {name: _growth(column, bars_per_year) for name, column in rules.items()}

    for variant in returns:
        variant_returns = returns[variant].to_numpy()
        together = _sharpe_ratio(returns[variant], bars_per_year)
        attained = share_of_attainable(together, rule_ratios[HOLD.key], rule_ratios.get(INFORMED.key))
        growth = _growth(returns[variant], bars_per_year)
        attained_growth = share_of_attainable(growth, rule_growths[HOLD.key], rule_growths.get(INFORMED.key))

        lead = sharpe_difference(variant_returns, rules[HOLD.key].to_numpy(float), bars_per_year)
        lead_value, lead_low, lead_high = lead or (np.nan, np.nan, np.nan)
        difference = None
        if baseline in returns and variant != baseline:
            difference = sharpe_difference(variant_returns, returns[baseline].to_numpy(), bars_per_year)
        value, low, high = difference or (None, None, None)

        yield {
            "market": market,
            "variant": variant,
            "years": len(variant_returns) / bars_per_year,
            "sharpe_seeds_together": together,
            **rule_ratios,
            "lead_over_hold": lead_value,
            "lead_low": lead_low,
            "lead_high": lead_high,
            "attained_seeds_together": attained,
            "difference": value,
            "low": low,
            "high": high,
            "deflated": deflated_sharpe(variant_returns, ratios_per_bar),
            "growth_seeds_together": growth,
            **{f"{name}_growth": value for name, value in rule_growths.items()},
            "attained_growth_seeds_together": attained_growth,
        }


def _rules_in(days: pd.DataFrame) -> list[str]:
    """List the columns of the trading rules with returns on these days."""
    return [name for name in RULES if name in days and days[name].notna().any()]


def _sharpe_ratio(returns: pd.Series, bars_per_year: float) -> float:
    """Compute the ratio, NaN if the returns do not vary."""
    return float(sharpe_ratio(returns.to_numpy(float), bars_per_year))


def _growth(returns: pd.Series, bars_per_year: float) -> float:
    """Compute the log growth a year, minus infinity if nothing is left, NaN if a return is undefined."""
    years = len(returns) / bars_per_year
    with np.errstate(divide="ignore"):
        growth = np.log1p(returns.to_numpy(float)).sum()
    return float(growth) / years


def write_tables(folder: Path, tables: Tables) -> None:
    """
    :param folder: folder of the comparison
    :param tables: tables to write as CSV, and the long ones as Parquet
    """
    for name in ("cells", "effects", "hopes", "sharpe"):
        write_file(folder / f"{name}.csv", getattr(tables, name).to_csv(index=False, float_format="%.6g"))

    for name in ("cells", "curves", "daily"):
        buffer = io.BytesIO()
        getattr(tables, name).to_parquet(buffer, index=False)
        write_file(folder / f"{name}.parquet", buffer.getvalue())
