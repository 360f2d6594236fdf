"""What a comparison showed, in the few sentences that a reader of ten seconds takes away."""

from __future__ import annotations

import pandas as pd

from market_regimes.compare.statistics import MIN_SEEDS
from market_regimes.evaluate.robustness import is_too_short
from market_regimes.evaluate.strategies import HOLD, INFORMED

SPOKEN_OF = {  # per metric the words for a better and a worse value than the baseline's
    "test_sharpe": ("Higher Sharpe ratio on the test days than {}", "lower"),
    "value_loss_spread": ("Value loss that spreads less than that of {}", "more"),
}


def headline(effects: pd.DataFrame, sharpe: pd.DataFrame, daily: pd.DataFrame, baseline: str) -> list[str]:
    """
    :param effects: one row per market, variant and metric, with ``difference``, ``low``, ``high`` and ``verdict``
    :param sharpe: one row per market and variant
    :param daily: one row per cell and test day
    :param baseline: the variant that the others are compared with
    :return: whether any variant pays, whether any lets the value loss spread less, and per market its test days and the
        best variant beside buy-and-hold and what is attainable
    """
    sentences = [
        _of_metric(effects, metric, better.format(baseline), worse) for metric, (better, worse) in SPOKEN_OF.items()
    ]
    if len(sharpe):
        sentences += [_of_market(str(market), rows, daily) for market, rows in sharpe.groupby("market", sort=False)]
    return [sentence for sentence in sentences if sentence]


def _of_metric(effects: pd.DataFrame, metric: str, better: str, worse: str) -> str:
    """Which variants a metric calls better or worse, over all markets."""
    if not {"market", "metric", "verdict"} <= set(effects):
        return ""
    rows = effects[(effects["market"] == "all") & (effects["metric"] == metric)]
    if rows.empty:
        return ""
    if (rows["verdict"] == "n/a").all():
        return f"{better}: cannot be told, since fewer than {MIN_SEEDS} seeds have a value."
    named = {
        verdict: [
            f"{row.variant} ({row.difference:+.3f} [{row.low:+.3f}, {row.high:+.3f}])"
            for row in rows[rows["verdict"] == verdict].itertuples()
        ]
        for verdict in ("better", "worse")
    }
    sentence = f"{better}: {', '.join(named['better']) or 'no variant'}"
    return sentence + (f"; {worse}: {', '.join(named['worse'])}." if named["worse"] else ".")


def _of_market(market: str, rows: pd.DataFrame, daily: pd.DataFrame) -> str:
    """A market's test days, and its best variant beside buy-and-hold and the rule that knows the law."""
    known = rows.dropna(subset=["sharpe_seeds_together"])
    if known.empty:
        return ""
    days = daily.loc[daily["market"] == market, "date"]
    text = f"{market}, tested on {days.min():%Y-%m-%d} to {days.max():%Y-%m-%d}, each variant's seeds together: "

    # A variant beats buy-and-hold where the interval of the difference leaves out 0.
    years = float(known["years"].iloc[0])
    if is_too_short(years):
        text += f"too short to tell, {years:.2f} years of bars"
    else:
        text += f"{int((known['lead_low'] > 0).sum())} of {len(known)} variants beat buy-and-hold"

    best = known.loc[known["sharpe_seeds_together"].idxmax()]
    text += (
        f"; best is {best['variant']}, Sharpe ratio {best['sharpe_seeds_together']:.2f} against {best[HOLD.key]:.2f}"
    )
    if pd.notna(best["lead_low"]):
        text += f", difference {best['lead_over_hold']:+.2f} [{best['lead_low']:+.2f}, {best['lead_high']:+.2f}]"
    if pd.notna(best.get("attained_seeds_together")):
        share = 100 * best["attained_seeds_together"]
        text += f", {share:.0f} % of what is attainable ({best[INFORMED.key]:.2f})"
    return text + "."
