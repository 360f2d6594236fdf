"""The hypotheses of a configuration put to the test."""

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
    :param hypotheses: of a configuration
    :raises ValueError: if one is about a metric that is not measured
    """
    names = list(compared_figures())
    for i, hypothesis in enumerate(hypotheses):
        if hypothesis.metric in names:
            continue
        near = difflib.get_close_matches(hypothesis.metric, names, 1)
        hint = f"did you mean {near[0]}?" if near else f"it must be one of {', '.join(names)}"
        raise ValueError(f"hypotheses[{i}].metric={hypothesis.metric} is not measured; {hint}")


def left_out(hypotheses: Sequence[Hypothesis], variants: Collection[str]) -> list[str]:
    """
    :param hypotheses: of a configuration
    :param variants: names
    :return: a sentence for each hypothesis that names a variant which is not compared, and so cannot be answered
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
    :param cells: those with results
    :param hypotheses: of a configuration
    :param baseline: the variant that the others are compared with, unless a hypothesis names another
    :return: one row per hypothesis and variant that it is asked of: what was hoped, what was measured, the verdict.
        Hypotheses about variants or figures that no cell has are left out
    """
    rows: list[dict[str, Any]] = []
    variants = list(dict.fromkeys(cells["variant"]))
    for hypothesis in hypotheses:
        against = hypothesis.against or baseline
        measured = hypothesis.metric in cells and cells[hypothesis.metric].notna().any()
        if against not in variants or not measured:
            continue

        values = by_variant(cells, hypothesis.metric)
        asked = [name for name in variants if hypothesis.variant in (EACH, name) and name != against]
        rows += [_answer(hypothesis, values, name, against) for name in asked]

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
    :param cells: those with results
    :param metric: key of ``FIGURES``
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
    absent = pd.DataFrame(index=values.index)
    of_variant = values.get(variant, absent)
    of_baseline = values.get(baseline, absent)

    folds = of_variant.columns.union(of_baseline.columns)
    return of_variant.reindex(columns=folds).to_numpy(float), of_baseline.reindex(columns=folds).to_numpy(float)


def effect_of(values: pd.DataFrame, variant: str, baseline: str, metric: str) -> Effect:
    """
    :param values: from ``by_variant``, of the metric
    :param variant: name
    :param baseline: the variant compared with
    :param metric: key of ``FIGURES``
    :return: the effect, of the seeds, markets and folds that both have
    """
    return effect(*paired(values, variant, baseline), FIGURES[metric].higher_is_better)


def _hoped_text(hoped: tuple[float, float]) -> str:
    modest, bold = hoped
    if modest == 0:
        return "more" if bold > 0 else "less"
    if abs(bold) == 1:
        return f"{100 * modest:+.0f} %"
    return f"{100 * modest:+.0f} to {100 * bold:+.0f} %"


def _measured_text(measured: Effect) -> str:
    """As relative change where there is one, with its interval."""
    if measured.difference is None:
        return "n/a"
    text = f"{measured.baseline:.3g} became {measured.variant:.3g}"
    if measured.low is None:
        return text

    # The baseline may be 0: then there is a difference and no relative change.
    if measured.relative is None or measured.relative_low is None or measured.relative_high is None:
        return f"{text}: {measured.difference:+.3g} [{measured.low:+.3g}, {measured.high:+.3g}]"
    low, high = sorted((measured.relative_low, measured.relative_high))
    return f"{text}: {100 * measured.relative:+.1f} % [{100 * low:+.1f}, {100 * high:+.1f}]"
