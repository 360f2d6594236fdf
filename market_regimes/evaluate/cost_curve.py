"""Growth and Sharpe ratio of an agent over the cost of its orders, and the costs at which they break even."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from market_regimes.evaluate.figures import growth_of, sharpe_of

AtCost = Callable[[float], pd.DataFrame]  # from a cost to the rows of an account


@dataclass(frozen=True)
class CostCurve:
    """
    The same decisions, filled anew at each cost.

    :param costs: fee and slippage together, basis points of the traded value, ascending, shape (C,)
    :param growth: log growth of the agent a year at each
    :param growth_of_hold: that of buy-and-hold, which pays the same
    :param sharpe: Sharpe ratio of the agent at each, None: undefined
    :param sharpe_of_hold: that of buy-and-hold
    """

    costs: list[float]
    growth: list[float]
    growth_of_hold: list[float]
    sharpe: list[float | None]
    sharpe_of_hold: list[float | None]

    @classmethod
    def of(cls, agent: AtCost, hold: AtCost, costs: Sequence[float], rows_per_year: float) -> CostCurve:
        """
        :param agent: the agent's account at a cost
        :param hold: that of buy-and-hold
        :param costs: basis points
        :param rows_per_year: what annualises
        """
        grid = sorted(set(costs))
        agents = [agent(cost) for cost in grid]
        holds = [hold(cost) for cost in grid]
        return cls(
            grid,
            [growth_of(each, rows_per_year) for each in agents],
            [growth_of(each, rows_per_year) for each in holds],
            [sharpe_of(each, rows_per_year) for each in agents],
            [sharpe_of(each, rows_per_year) for each in holds],
        )

    @property
    def break_even(self) -> dict[str, Any]:
        """Where the agent's growth falls to buy-and-hold's, and to 0: ``crossing`` of each."""
        leads = np.array(self.growth) - np.array(self.growth_of_hold)
        return {
            "growth_of_buy_and_hold": crossing(self.costs, leads),
            "no_growth": crossing(self.costs, np.array(self.growth)),
        }

    def to_json(self) -> dict[str, Any]:
        """:return: the curve by name, and its break-even costs"""
        return {**vars(self), "break_even": self.break_even}


def crossing(costs: Sequence[float], values: np.ndarray) -> float | str:
    """
    :param costs: ascending, shape (C,)
    :param values: at each, shape (C,)
    :return: the first cost at which the values, straight between costs, are no longer above 0; "below the grid": they
        are not at the first; "above the grid": they still are at the last
    """
    if values[0] <= 0:
        return "below the grid"
    if (values > 0).all():
        return "above the grid"

    # Straight between the last cost above 0 and the first that is not.
    after = int(np.argmax(values <= 0))
    before = after - 1
    share = values[before] / (values[before] - values[after])
    return float(costs[before] + share * (costs[after] - costs[before]))
