"""
Tables of a comparison's figures, with name, label, unit and direction, and of its trading rules.

A new figure needs an entry here and the line that computes it, in ``cell.py`` or ``measurements.py``. Effects,
verdicts, hypotheses and the HTML report then show it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from market_regimes.evaluate.strategies import COMPARED

Better = Literal["higher", "lower", "near 1", "neither"]


@dataclass(frozen=True)
class Figure:
    """
    One figure of a cell.

    :param label: name in words
    :param better: direction of better values; "near 1" and "neither" have no verdict
    :param unit: unit on the label of an axis, if any
    :param short: label of a column on a page; "": ``label``
    :param heading: label of a narrow column in a terminal; "": ``label``
    :param undefined: reason why a cell may lack the figure
    :param source: figure whose distance from the ideal this one is; "": the cell computes it
    :param distance: function from values of ``source`` to their distance from the ideal
    """

    label: str
    better: Better
    unit: str = ""
    short: str = ""
    heading: str = ""
    undefined: str = ""
    source: str = ""
    distance: Callable[[pd.Series], pd.Series] | None = None

    @property
    def higher_is_better(self) -> bool:
        return self.better == "higher"

    @property
    def is_compared(self) -> bool:
        """Return whether the figure can call variants better or worse."""
        return self.better in ("higher", "lower")

    @property
    def axis(self) -> str:
        """Label of an axis."""
        return f"{self.label}, {self.unit}" if self.unit else self.label


def _factor_from_one(ratios: pd.Series) -> pd.Series:
    """Return the distance from 1, in which four times and a quarter are equally far."""
    logarithms: pd.Series = np.log(ratios)
    return logarithms.abs()


def _difference_from_one(values: pd.Series) -> pd.Series:
    return (values - 1).abs()


# Order of effects.csv and of the report's tables.
FIGURES: dict[str, Figure] = {
    # Figures of training, by the common probe.
    "value_loss_spread": Figure("value-loss spread", "lower"),
    "value_loss": Figure("value loss", "lower", unit="no unit"),
    "value_loss_outliers_stormy": Figure("value-loss outliers, stormy", "lower"),
    "explained_variance": Figure(
        "explained variance",
        "higher",
        heading="explained\nvariance",
        undefined="the returns of the probe do not vary",
    ),
    "reward": Figure("reward per bar", "neither", unit="%"),
    "calibration_error": Figure("calibration error", "lower"),
    "grad_ratio_stormy": Figure(
        "gradient, stormy / calm",
        "near 1",
        heading="gradient\nstormy/calm",
        undefined="too few calm or stormy bars in training, or a recurrent policy",
    ),
    "grad_ratio_crash": Figure(
        "gradient, crash / calm",
        "near 1",
        heading="gradient\ncrash/calm",
        undefined="too few calm or crash bars in training, or a recurrent policy",
    ),
    "grad_imbalance_stormy": Figure(
        "imbalance of gradients, stormy to calm",
        "lower",
        source="grad_ratio_stormy",
        distance=_factor_from_one,
    ),
    "grad_imbalance_crash": Figure(
        "imbalance of gradients, crash to calm",
        "lower",
        source="grad_ratio_crash",
        distance=_factor_from_one,
    ),
    "spread_calm": Figure(
        "spread, calm",
        "near 1",
        heading="spread\ncalm",
        undefined="too few calm bars in training",
    ),
    "spread_stormy": Figure(
        "spread, stormy",
        "near 1",
        heading="spread\nstormy",
        undefined="too few stormy bars in training",
    ),
    "spread_error_calm": Figure(
        "error of the spread, calm",
        "lower",
        source="spread_calm",
        distance=_difference_from_one,
    ),
    "spread_error_stormy": Figure(
        "error of the spread, stormy",
        "lower",
        source="spread_stormy",
        distance=_difference_from_one,
    ),
    "value_error_gap_stormy": Figure("gap of the value error, calm to stormy", "lower"),
    "value_error_gap_crash": Figure("gap of the value error, calm to crash", "lower"),
    # Figures of the test period.
    "test_mean_reward": Figure("mean reward, test", "higher"),
    "test_sharpe": Figure(
        "Sharpe ratio of a cell, test",
        "higher",
        short="Sharpe, test",
        heading="Sharpe of\na cell",
        undefined="the returns of the test days do not vary",
    ),
    "hold_sharpe": Figure("buy and hold", "neither"),
    "test_growth": Figure("growth per year of a cell, test", "higher", short="growth, test"),
    "hold_growth": Figure("growth of buy and hold", "neither"),
    "test_sortino": Figure("Sortino ratio, test", "higher"),
    "test_max_drawdown": Figure("largest drawdown, test", "higher"),
    "test_turnover": Figure("turnover per year, test", "lower"),
    "test_costs": Figure("costs per year, test", "lower"),
    "test_attained": Figure("share attained by a cell, test", "higher", short="attained"),
    "test_attained_growth": Figure("share of growth attained by a cell, test", "higher", short="growth attained"),
    "test_explained_variance": Figure("explained variance, test", "higher"),
    "test_calibration_error": Figure("calibration error, test", "lower"),
    "test_value_error_gap_stormy": Figure("gap of the value error, calm to stormy, test", "lower"),
    "test_value_error_gap_crash": Figure("gap of the value error, calm to crash, test", "lower"),
    "test_sharpe_gap_stormy": Figure("gap of the Sharpe ratio, calm to stormy, test", "lower"),
}

# Figures per regime and period, named ``test_NAME_REGIME``.
BY_REGIME: dict[str, Figure] = {
    "value_error": Figure("error / standard deviation", "lower"),
    "sharpe": Figure("Sharpe ratio per year", "higher"),
}


# Trading rules beside the agents, by their columns in the tables of days and of Sharpe ratios.
RULES = {strategy.key: strategy for strategy in COMPARED}


def compared_figures() -> dict[str, Figure]:
    """:return: figures that can call variants better or worse, by name, in the order of the tables"""
    return {name: figure for name, figure in FIGURES.items() if figure.is_compared}


def check_regimes(names: Sequence[str]) -> None:
    """
    :param names: regimes of a comparison
    :raises ValueError: if a figure by regime would have another figure's name, as ``value_error_gap_crash`` would
    """
    for name in names:
        taken = [figure for figure in FIGURES if figure.endswith(f"_{name}")]
        if taken and name not in ("calm", "crash"):
            raise ValueError(
                f"market.regimes: {name} would end the name of a figure as in {taken[0]}, which is another"
            )


def with_distances(cells: pd.DataFrame) -> pd.DataFrame:
    """
    :param cells: one row per cell
    :return: the cells with distances from the ideal: of a ratio of gradients from 1, of a predicted spread from the
        returns' spread
    """
    distances = {}
    for name, figure in FIGURES.items():
        if figure.distance is not None and figure.source in cells:
            distances[name] = figure.distance(cells[figure.source].astype(float))

    return cells.assign(**distances)
