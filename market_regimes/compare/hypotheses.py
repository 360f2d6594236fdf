"""What is compared, and the hypotheses of a configuration put to the test."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from market_regimes.compare.statistics import Effect, against_hope, effect, verdict
from market_regimes.config import EACH, Hypothesis

ANSWER = ["hope", "variant", "against", "metric", "hoped", "measured", "verdict", "reached", "seeds_needed"]


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
    "test_sharpe": Metric("Sharpe ratio of a cell, test", True),
    "test_sortino": Metric("Sortino ratio, test", True),
    "test_max_drawdown": Metric("largest drawdown, test", True),
    "test_turnover": Metric("turnover per year, test", False),
    "test_costs": Metric("costs per year, test", False),
    "test_attained": Metric("share attained by a cell, test", True),
    "test_explained_variance": Metric("explained variance, test", True),
    "test_calibration_error": Metric("calibration error, test", False),
    "test_value_error_gap_stormy": Metric("gap of the value error, calm to stormy, test", False),
    "test_value_error_gap_crash": Metric("gap of the value error, calm to crash, test", False),
    "test_sharpe_gap_stormy": Metric("gap of the Sharpe ratio, calm to stormy, test", False),
}


def check_hypotheses(hypotheses: Sequence[Hypothesis]) -> None:
    """
    :param hypotheses: of a configuration
    :raises ValueError: if one is about a metric that is not measured
    """
    for i, hypothesis in enumerate(hypotheses):
        if hypothesis.metric not in METRICS:
            near = difflib.get_close_matches(hypothesis.metric, METRICS, 1)
            hint = f"did you mean {near[0]}?" if near else f"it must be one of {', '.join(METRICS)}"
            raise ValueError(f"hypotheses[{i}].metric={hypothesis.metric} is not measured; {hint}")


def left_out(hypotheses: Sequence[Hypothesis], variants: Collection[str]) -> list[str]:
    """
    :param hypotheses: of a configuration
    :param variants: names
    :return: a sentence for each hypothesis that names a variant which is not compared, and so cannot be answered
    """
    sentences = []
    for hypothesis in hypotheses:
        named = [hypothesis.variant, hypothesis.against]
        missing = [name for name in named if name not in (None, EACH) and name not in variants]
        if missing:
            sentences.append(f"left out: {hypothesis.question!r} is about {missing[0]}, which is none of the variants")
    return sentences


def answered(cells: pd.DataFrame, hypotheses: Sequence[Hypothesis], baseline: str) -> pd.DataFrame:
    """
    :param cells: those with results
    :param hypotheses: of a configuration
    :param baseline: the variant that the others are compared with, unless a hypothesis names another
    :return: one row per hypothesis and variant that it is asked of: what was hoped, what was measured, the verdict.
        Hypotheses about variants or figures that no cell has are left out
    """
    there, rows = list(dict.fromkeys(cells["variant"])), []
    for hypothesis in hypotheses:
        against = hypothesis.against or baseline
        if against not in there or hypothesis.metric not in cells or not cells[hypothesis.metric].notna().any():
            continue
        values = by_variant(cells, hypothesis.metric)
        asked = [name for name in there if hypothesis.variant in (EACH, name) and name != against]
        rows += [_answer(hypothesis, values, name, against) for name in asked]
    return pd.DataFrame(rows, columns=ANSWER)


def _answer(hypothesis: Hypothesis, values: pd.DataFrame, variant: str, against: str) -> dict[str, Any]:
    found, metric = effect_of(values, variant, against, hypothesis.metric), METRICS[hypothesis.metric]
    return {
        "hope": hypothesis.question,
        "variant": variant,
        "against": against,
        "metric": metric.label,
        "hoped": _hoped_text(hypothesis.hoped),
        "measured": _measured_text(found),
        "verdict": verdict(found, metric.higher_is_better),
        "reached": against_hope(found, hypothesis.hoped),
        "seeds_needed": found.seeds_needed,
    }


def by_variant(cells: pd.DataFrame, metric: str) -> pd.DataFrame:
    """
    :param cells: those with results
    :param metric: key of ``METRICS``
    :return: a row per seed; columns by variant, market and fold
    """
    return cells.pivot_table(index="seed", columns=["variant", "market", "fold"], values=metric, aggfunc="first")


def paired(values: pd.DataFrame, variant: str, baseline: str) -> tuple[np.ndarray, np.ndarray]:
    """
    :param values: from ``by_variant``
    :param variant: name
    :param baseline: the variant compared with
    :return: the values of both, shape (n_seeds, n_folds), for every market and fold of either; NaN where one lacks it
    """
    none = pd.DataFrame(index=values.index)
    one, two = (values.get(name, none) for name in (variant, baseline))
    columns = one.columns.union(two.columns)
    return one.reindex(columns=columns).to_numpy(float), two.reindex(columns=columns).to_numpy(float)


def effect_of(values: pd.DataFrame, variant: str, baseline: str, metric: str) -> Effect:
    """
    :param values: from ``by_variant``, of the metric
    :param variant: name
    :param baseline: the variant compared with
    :param metric: key of ``METRICS``
    :return: the effect, of the seeds, markets and folds that both have
    """
    return effect(*paired(values, variant, baseline), METRICS[metric].higher_is_better)


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
