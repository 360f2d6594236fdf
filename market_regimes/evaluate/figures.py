"""Figures of what was earned: overall, by regime, by symbol."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Collection
from typing import Any

import numpy as np
import pandas as pd

from market_regimes.market.regimes import MIN_REGIME_DAYS, REGIMES

RATIOS = {
    "sharpe_ratio": "sharpe",
    "sortino_ratio": "sortino",
    "calmar_ratio": "calmar",
    "max_drawdown": "max_drawdown",
    "hit_rate": "win_rate",
}


def joint(frames: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """
    Equal shares of the capital in every symbol that has a bar, restored at every bar.

    :param frames: from ``backtest``
    :return: the same columns but ``price`` and ``regime``, means over the symbols; with one symbol its own frame
    """
    if len(frames) == 1:
        return next(iter(frames.values()))
    mean = pd.concat(frames.values()).assign(trade=lambda f: f["trade"].abs(), position=lambda f: f["position"].abs())
    mean = mean.drop(columns=["price", "regime"]).groupby(level=0).mean()
    return mean.assign(equity=(1 + mean["return"]).cumprod(), gross_equity=(1 + mean["gross_return"]).cumprod())


def joint_in(frames: dict[str, pd.DataFrame], regimes: Collection[str]) -> pd.DataFrame:
    """
    :param frames: from ``backtest``
    :param regimes: names
    :return: ``joint`` of the bars on which a symbol is in one of them, of the symbols that are
    """
    return joint({symbol: frame[frame["regime"].isin(regimes)] for symbol, frame in frames.items()})


def figures(frame: pd.DataFrame, bars_per_year: float) -> dict[str, float | None]:
    """
    :param frame: from ``backtest`` or ``joint``
    :param bars_per_year: what annualises
    :return: Sharpe and Sortino ratio (simple net returns, risk-free 0), Calmar ratio, largest drawdown (0 or below),
        hit rate (share of the bars with a return that gained), net and gross total return, exposure (mean absolute
        position), turnover and costs per year in shares of equity, bars. None: undefined
    """
    years = len(frame) / bars_per_year
    ratios = {name: _ratio(name, frame["return"], bars_per_year) for name in RATIOS}
    return {
        **ratios,
        "total_return": float(frame["equity"].iloc[-1]) - 1.0,
        "gross_return": float(frame["gross_equity"].iloc[-1]) - 1.0,
        "exposure": float(frame["position"].abs().mean()),
        "turnover_per_year": float(frame["trade"].abs().sum()) / years,
        "costs_per_year": float(frame["cost"].sum()) / years,
        "bars": float(len(frame)),
    }


def figures_by_regime(frames: dict[str, pd.DataFrame], bars_per_year: float) -> dict[str, dict[str, float | None]]:
    """
    :param frames: from ``backtest``
    :param bars_per_year: what annualises
    :return: per regime the bars on which any symbol was in it, and the Sharpe ratio and exposure of equal shares in
        those that were; None where a regime has under ``MIN_REGIME_DAYS`` bars
    """
    table: dict[str, dict[str, float | None]] = {}
    for regime in REGIMES:
        bars = joint_in(frames, [regime])
        enough = len(bars) >= MIN_REGIME_DAYS
        table[regime] = {
            "bars": float(len(bars)),
            "sharpe_ratio": _ratio("sharpe_ratio", bars["return"], bars_per_year) if enough else None,
            "exposure": float(bars["position"].abs().mean()) if enough else None,
        }
    return table


def summary(strategies: dict[str, dict[str, pd.DataFrame]], bars_per_year: float) -> dict[str, Any]:
    """
    :param strategies: per name a backtest
    :param bars_per_year: what annualises
    :return: for JSON: "joint" and "symbols", each symbol by name; in them per strategy the ``figures`` and, as
        "regimes", the ``figures_by_regime``
    """

    def of(frames: dict[str, pd.DataFrame]) -> dict[str, Any]:
        return {**figures(joint(frames), bars_per_year), "regimes": figures_by_regime(frames, bars_per_year)}

    symbols = next(iter(strategies.values()))
    return {
        "joint": {name: of(frames) for name, frames in strategies.items()},
        "symbols": {
            symbol: {name: of({symbol: frames[symbol]}) for name, frames in strategies.items()} for symbol in symbols
        },
    }


def share_of_attainable(agent: float | None, held: float | None, informed: float | None) -> float | None:
    """
    :param agent: Sharpe ratio of the agent
    :param held: of buy-and-hold
    :param informed: of the rule that knows the law, None: nobody knows it
    :return: 0 for an agent as good as buy-and-hold, 1 for one as good as the informed rule; None where that rule is
        not the better of the two, or a Sharpe ratio is undefined
    """
    if agent is None or held is None or informed is None or informed <= held:
        return None
    return (agent - held) / (informed - held)


def _ratio(name: str, returns: pd.Series, bars_per_year: float) -> float | None:
    """A figure of quantstats, None where it is undefined (no spread in the returns)."""
    if name != "max_drawdown" and not returns.std() > 1e-12:
        return None
    periods = {} if name in ("max_drawdown", "hit_rate") else {"periods": bars_per_year}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it divides by zero and uses what pandas 3 deprecates
        value = float(getattr(quantstats().stats, RATIOS[name])(returns, **periods))
    return value if np.isfinite(value) else None


@functools.cache  # entering the context costs as much as a figure
def quantstats() -> Any:
    """The library, imported when needed because that takes seconds, and kept from changing how our pictures look."""
    import matplotlib

    with matplotlib.rc_context():
        import quantstats
    return quantstats
