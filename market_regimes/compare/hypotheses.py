"""Tests of the hypotheses in a configuration."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pandas as pd

from market_regimes.compare.catalogue import FIGURES, compared_figures
from market_regimes.compare.statistics import Effect, against_hope, effect, verdict
from market_regimes.config import EACH, Hypothesis

ANSWER = ["hope", "variant", "against", "metric", "hoped", "measured", "verdict", "reached", "seeds_needed"]


def check_hypotheses(hypotheses: Sequence[Hypothesis]) -> None:
    """
    :param hypotheses: hypotheses of a configuration
    :raises ValueError: if one names an unknown metric
    """
    names = list(compared_figures())
    for i, hypothesis in enumerate(hypotheses):
        if hypothesis.metric in names:
            continue

        # Suggest the nearest figure, or list all.
        near = difflib.get_close_matches(hypothesis.metric, names, 1)
        hint = f"did you mean {near[0]}?" if near else f"it must be one of {', '.join(names)}"
        raise ValueError(f"hypotheses[{i}].metric={hypothesis.metric} is not measured; {hint}")


def left_out(hypotheses: Sequence[Hypothesis], variants: Collection[str]) -> list[str]:
    """
    :param hypotheses: hypotheses of a configuration
    :param variants: names of the compared variants
    :return: a sentence for each hypothesis that names another variant, and so has no answer
    """
    sentences = []
    for hypothesis in hypotheses:
        for name in (hypothesis.variant, hypothesis.against):
            if name in (None, EACH) or name in variants:
                continue
            sentences.append(f"left out: {hypothesis.question!r} is about {name}, which is none of the variants")
            break
    return sentences


def answered(cells: pd.DataFrame, hypotheses: Sequence[Hypothesis], baseline: str) -> pd.DataFrame:
    """
    :param cells: cells with results
    :param hypotheses: hypotheses of a configuration
    :param baseline: variant that the others are compared with, unless a hypothesis names another
    :return: one row per hypothesis and variant: expected change, measured change, verdict. Hypotheses about variants or
        figures without cells are omitted
    """
    rows: list[dict[str, Any]] = []
    variants = list(dict.fromkeys(cells["variant"]))
    for hypothesis in hypotheses:
        # Skip questions that no cell can answer.
        against = hypothesis.against or baseline
        measured = hypothesis.metric in cells and cells[hypothesis.metric].notna().any()
        if against not in variants or not measured:
            continue

        # Answer for each variant of the question.
        values = by_variant(cells, hypothesis.metric)
        compared = [name for name in variants if hypothesis.variant in (EACH, name) and name != against]
        rows += [_answer(hypothesis, values, name, against) for name in compared]

    return pd.DataFrame(rows, columns=ANSWER)


def _answer(hypothesis: Hypothesis, values: pd.DataFrame, variant: str, against: str) -> dict[str, Any]:
    figure = FIGURES[hypothesis.metric]
    measured = effect_of(values, variant, against, hypothesis.metric)
    return {
        "hope": hypothesis.question,
        "variant": variant,
        "against": against,
        "metric": figure.label,
        "hoped": _hoped_text(hypothesis.hoped),
        "measured": _measured_text(measured),
        "verdict": verdict(measured, figure.higher_is_better),
        "reached": against_hope(measured, hypothesis.hoped),
        "seeds_needed": measured.seeds_needed,
    }


def by_variant(cells: pd.DataFrame, metric: str) -> pd.DataFrame:
    """
    :param cells: cells with results
    :param metric: key of ``FIGURES``
    :return: one row per seed; columns by variant, market and fold
    """
    return cells.pivot_table(
        index="seed",
        columns=["variant", "market", "fold"],
        values=metric,
        aggfunc="first",
    )


def paired(values: pd.DataFrame, variant: str, baseline: str) -> tuple[np.ndarray, np.ndarray]:
    """
    :param values: table from ``by_variant``
    :param variant: name of the variant
    :param baseline: name of the variant compared with
    :return: values of both, shape (n_seeds, n_folds), over all markets and folds; NaN where missing
    """
    absent = pd.DataFrame(index=values.index)
    of_variant = values.get(variant, absent)
    of_baseline = values.get(baseline, absent)

    # Give both the same columns, NaN where a fold is missing.
    folds = of_variant.columns.union(of_baseline.columns)
    of_variant = of_variant.reindex(columns=folds)
    of_baseline = of_baseline.reindex(columns=folds)
    return of_variant.to_numpy(float), of_baseline.to_numpy(float)


def effect_of(values: pd.DataFrame, variant: str, baseline: str, metric: str) -> Effect:
    """
    :param values: table of the metric from ``by_variant``
    :param variant: name of the variant
    :param baseline: name of the variant compared with
    :param metric: key of ``FIGURES``
    :return: effect over the seeds, markets and folds that both have
    """
    of_variant, of_baseline = paired(values, variant, baseline)
    return effect(of_variant, of_baseline, FIGURES[metric].higher_is_better)


def _hoped_text(hoped: tuple[float, float]) -> str:
    modest, bold = hoped
    if modest == 0:
        return "more" if bold > 0 else "less"
    if abs(bold) == 1:
        return f"{100 * modest:+.0f} %"
    return f"{100 * modest:+.0f} to {100 * bold:+.0f} %"


def _measured_text(measured: Effect) -> str:
    """Format an effect as a relative change if possible, with its interval."""
    if measured.difference is None:
        return "n/a"

    # Without an interval show only the two values.
    text = f"{measured.baseline:.3g} became {measured.variant:.3g}"
    if measured.low is None:
        return text

    # A baseline of 0 allows a difference but no relative change.
    if measured.relative is None or measured.relative_low is None or measured.relative_high is None:
        return f"{text}: {measured.difference:+.3g} [{measured.low:+.3g}, {measured.high:+.3g}]"

    # Format percentages, the smaller end first.
    low, high = sorted((measured.relative_low, measured.relative_high))
    return f"{text}: {100 * measured.relative:+.1f} % [{100 * low:+.1f}, {100 * high:+.1f}]"
