"""Results of a comparison in the few sentences that a reader remembers after ten seconds."""

from __future__ import annotations

import numpy as np
import pandas as pd

from market_regimes.compare.statistics import MIN_SEEDS
from market_regimes.compare.tables import ALL
from market_regimes.evaluate.robustness import is_too_short
from market_regimes.evaluate.strategies import HOLD, INFORMED
from market_regimes.evaluate.tables import median

# Words per metric for a better and a worse value than the baseline's, in the order of the sentences.
CLAIMS = {
    "test_sharpe": ("Higher Sharpe ratio on the test days than {}", "lower"),
    "value_loss_spread": ("Value loss that spreads less than that of {}", "more"),
}
ALIKE = (0.8, 1.25)  # ratios of stormy to calm gradients that count as alike


def headline(effects: pd.DataFrame, sharpe: pd.DataFrame, daily: pd.DataFrame, baseline: str) -> list[str]:
    """
    :param effects: one row per market, variant and metric, with ``difference``, ``low``, ``high`` and ``verdict``
    :param sharpe: one row per market and variant
    :param daily: one row per cell and test day
    :param baseline: variant that the others are compared with
    :return: sentences on variants that pay and on variants whose value loss spreads less. Each market's sentence has
        its test days, and the best variant beside buy-and-hold and the attainable Sharpe ratio
    """
    sentences = [
        _of_metric(effects, metric, claim.format(baseline), worse) for metric, (claim, worse) in CLAIMS.items()
    ]
    if len(sharpe):
        sentences += [_of_market(str(market), rows, daily) for market, rows in sharpe.groupby("market", sort=False)]

    return [sentence for sentence in sentences if sentence]


def _of_metric(effects: pd.DataFrame, metric: str, claim: str, worse: str) -> str:
    """Name the variants that a metric calls better or worse, over all markets."""
    if not {"market", "metric", "verdict"} <= set(effects):
        return ""
    rows = effects[(effects["market"] == ALL) & (effects["metric"] == metric)]
    if rows.empty:
        return ""
    if (rows["verdict"] == "n/a").all():
        return f"{claim}: cannot be told, since fewer than {MIN_SEEDS} seeds have a value."

    sentence = f"{claim}: {_variants_with(rows, 'better') or 'no variant'}"
    names_of_worse = _variants_with(rows, "worse")
    if names_of_worse:
        sentence += f"; {worse}: {names_of_worse}"
    return sentence + "."


def _variants_with(rows: pd.DataFrame, verdict: str) -> str:
    """List the variants of a verdict, each with its difference."""
    texts = [
        f"{row.variant} ({row.difference:+.3f} [{row.low:+.3f}, {row.high:+.3f}])"
        for row in rows[rows["verdict"] == verdict].itertuples()
    ]
    return ", ".join(texts)


def _of_market(market: str, rows: pd.DataFrame, daily: pd.DataFrame) -> str:
    """Describe a market's test days, and its best variant beside buy-and-hold and the rule that knows the law."""
    defined = rows.dropna(subset=["sharpe_seeds_together"])
    if defined.empty:
        return ""
    days = daily.loc[daily["market"] == market, "date"]
    text = f"{market}, tested on {days.min():%Y-%m-%d} to {days.max():%Y-%m-%d}, each variant's seeds together: "

    # A variant beats buy-and-hold if the interval of the difference excludes 0.
    years = float(defined["years"].iloc[0])
    if is_too_short(years):
        text += f"too short to tell, {years:.2f} years of bars"
    else:
        text += f"{int((defined['lead_low'] > 0).sum())} of {len(defined)} variants beat buy-and-hold"

    # Describe the best variant and the certainty of its lead.
    best = defined.loc[defined["sharpe_seeds_together"].idxmax()]
    text += (
        f"; best is {best['variant']}, Sharpe ratio {best['sharpe_seeds_together']:.2f} against {best[HOLD.key]:.2f}"
    )
    if pd.notna(best["lead_low"]):
        text += f", difference {best['lead_over_hold']:+.2f} [{best['lead_low']:+.2f}, {best['lead_high']:+.2f}]"
    if pd.notna(best.get("attained_seeds_together")):
        share = 100 * best["attained_seeds_together"]
        text += f", {share:.0f} % of what is attainable ({best[INFORMED.key]:.2f})"
    return text + _growth_of(best) + "."


def _growth_of(best: pd.Series) -> str:
    """Describe a variant's growth beside that of the same rules, where the table has it."""
    if pd.isna(best.get("growth_seeds_together")):
        return ""
    growth = 100 * best["growth_seeds_together"]
    text = f"; it grows {growth:.1f} % a year against {100 * best[f'{HOLD.key}_growth']:.1f} %"

    if pd.notna(best.get("attained_growth_seeds_together")):
        share = 100 * best["attained_growth_seeds_together"]
        text += f", {share:.0f} % of what is attainable ({100 * best[f'{INFORMED.key}_growth']:.1f} %)"
    return text


def alike(cells: pd.DataFrame) -> list[str]:
    """
    :param cells: cells of a comparison
    :return: a sentence per market on the variants that treat calm and stormy days alike, closest first, or that none
        does. The measure is the median ratio of the value loss's gradients over seeds and folds
    """
    used = cells[cells["status"] == "ok"]
    return [_alike_in(str(market), rows) for market, rows in used.groupby("market", sort=False)]


def _alike_in(market: str, cells: pd.DataFrame) -> str:
    low, high = ALIKE
    ratios = _median_gradient_ratios(cells)
    if not ratios:
        why = "stormy or calm days are too few, or all policies recurrent"
        return f"{market}: no ratio of gradients, because {why}."

    # Sort by distance from 1, where four times and a quarter are equally far.
    order = sorted(ratios, key=lambda name: abs(np.log(ratios[name])))
    texts = [f"{name} ({ratios[name]:.2f})" for name in order if low <= ratios[name] <= high]
    about = f"{market}: calm and stormy days pull the critic alike (a ratio of {low:g} to {high:g})"
    if texts:
        return f"{about} with {'; '.join(texts)}."
    return f"{about} with none of {len(ratios)} variants; closest is {order[0]} ({ratios[order[0]]:.2f})."


def _median_gradient_ratios(cells: pd.DataFrame) -> dict[str, float]:
    """Return the positive median ratios by variant."""
    ratios: dict[str, float] = {}
    if "grad_ratio_stormy" in cells:
        for variant, rows in cells.groupby("variant", sort=False):
            ratio = median(list(rows["grad_ratio_stormy"]))
            if ratio is not None and ratio > 0:
                ratios[str(variant)] = ratio
    return ratios
