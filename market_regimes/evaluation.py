"""Run a decision rule over a period of the market and put the outcome into figures, overall and by regime."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from market_regimes.data import BARS_PER_YEAR, MIN_REGIME_DAYS, REGIMES, Market
from market_regimes.env import MarketCore, TradingCosts

Decision = Callable[[np.ndarray], np.ndarray]  # observations (1, features) -> target position, any shape of one number


def buy_and_hold(observations: np.ndarray) -> np.ndarray:
    """The decision rule that holds position 1 throughout."""
    return np.ones(len(observations))


def backtest(market: Market, period: range, scale_on: range, costs: TradingCosts, decide: Decision) -> pd.DataFrame:
    """
    One pass over the period, from a flat start to its last bar or to ruin.

    :param market: the bars
    :param period: bars whose returns are earned
    :param scale_on: bars whose statistics scale the observations (the training period)
    :param costs: what trading costs and what may be held
    :param decide: gives a target position for the observations at a close
    :return: one row per day: ``return`` (simple, net), ``equity`` (1 at the start), ``position`` at the close,
        ``turnover`` and ``cost`` (shares of equity), ``index``, ``regime`` (name)
    """
    core = MarketCore(market, period, scale_on, 1, costs, episode_bars=None)
    rows = []
    finished = False
    while not finished:
        result = core.step(np.asarray(decide(core.observations()), dtype=np.float64).reshape(1))
        bar = int(core.bar[0])
        rows.append(
            {
                "date": market.dates[bar],
                "return": result.growth[0] - 1.0,
                "equity": core.equity[0],
                "position": core.position[0],
                "turnover": result.turnover[0],
                "cost": result.cost[0],
                "index": market.index[bar],
                "regime": REGIMES[market.regime[bar]],
            }
        )
        finished = bool(result.terminated[0] or result.truncated[0])
    return pd.DataFrame(rows).set_index("date")


def figures(frame: pd.DataFrame) -> dict[str, float | None]:
    """
    :param frame: from ``backtest``
    :return: Sharpe and Sortino ratio (sqrt(252), simple daily net returns, risk-free 0), largest drawdown (0 or below),
        total return, mean position, turnover per year, costs as a share of equity per year, days. None: undefined
    """
    years = len(frame) / BARS_PER_YEAR
    return {
        "sharpe_ratio": _ratio("sharpe", frame["return"]),
        "sortino_ratio": _ratio("sortino", frame["return"]),
        "max_drawdown": _ratio("max_drawdown", frame["return"]),
        "total_return": float(frame["equity"].iloc[-1]) - 1.0,
        "mean_position": float(frame["position"].mean()),
        "turnover_per_year": float(frame["turnover"].sum()) / years,
        "costs_per_year": float(frame["cost"].sum()) / years,
        "days": float(len(frame)),
    }


def figures_by_regime(frame: pd.DataFrame) -> dict[str, dict[str, float | None]]:
    """
    :param frame: from ``backtest``
    :return: per regime the days, the Sharpe ratio and the mean position; None where a regime has under
        ``MIN_REGIME_DAYS`` days
    """
    table: dict[str, dict[str, float | None]] = {}
    for regime in REGIMES:
        days = frame[frame["regime"] == regime]
        enough = len(days) >= MIN_REGIME_DAYS
        table[regime] = {
            "days": float(len(days)),
            "sharpe_ratio": _ratio("sharpe", days["return"]) if enough else None,
            "mean_position": float(days["position"].mean()) if enough else None,
        }
    return table


def _ratio(name: str, returns: pd.Series) -> float | None:
    """A figure of quantstats, None where it is undefined (no spread in the returns)."""
    import quantstats  # here, because importing it takes seconds

    if name != "max_drawdown" and not returns.std() > 1e-12:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it divides by zero and uses what pandas 3 deprecates
        value = float(getattr(quantstats.stats, name)(returns.set_axis(pd.DatetimeIndex(returns.index))))
    return value if np.isfinite(value) else None


def summary(frames: dict[str, pd.DataFrame]) -> dict[str, Any]:
    """
    :param frames: backtests by name
    :return: for JSON: per name the ``figures`` and, as "regimes", the ``figures_by_regime``
    """
    return {name: {**figures(frame), "regimes": figures_by_regime(frame)} for name, frame in frames.items()}
