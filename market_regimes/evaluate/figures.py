"""Figures of what an account earned: overall, by regime, beside other strategies. The Sharpe ratio is defined here."""

from __future__ import annotations

import functools
import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from market_regimes.evaluate.account import Account
from market_regimes.market.regimes import MIN_REGIME_DAYS

# Figures of quantstats by their names here. The Sharpe ratio is none of them: ``sharpe_ratio`` is its one formula, and
# only quantstats' own tear sheet computes another one.
RATIOS = {
    "sortino_ratio": "sortino",
    "calmar_ratio": "calmar",
    "max_drawdown": "max_drawdown",
    "hit_rate": "win_rate",
}
# Figures of returns that are never below 0.
WITHOUT_LOSS = {
    "max_drawdown": 0.0,
    "sortino_ratio": None,
    "calmar_ratio": None,
}
NO_SPREAD = 1e-12  # standard deviation of returns up to which they do not vary


def sharpe_ratio(returns: np.ndarray, bars_per_year: float) -> np.ndarray:
    """
    The only formula of a Sharpe ratio: mean over standard deviation (correction 1), annualised, risk-free rate 0.

    :param returns: simple returns, shape (T,), or one series per column, (T, n)
    :param bars_per_year: number of bars that annualises; 1: the ratio of a bar
    :return: the ratio, shape () or (n,); NaN where returns do not vary or fewer than two are given
    """
    ratio = np.full(returns.shape[1:], np.nan)
    if len(returns) < 2:
        return ratio

    # The ratio of a bar, where returns vary.
    mean = returns.mean(axis=0)
    spread = returns.std(axis=0, ddof=1)
    np.divide(mean, spread, out=ratio, where=spread > NO_SPREAD)

    return math.sqrt(bars_per_year) * ratio


def sharpe_of(frame: pd.DataFrame, bars_per_year: float) -> float | None:
    """
    :param frame: from ``backtest`` or ``joint``
    :param bars_per_year: number of bars that annualises
    :return: ``sharpe_ratio`` of its returns, None where it is undefined
    """
    returns = frame["return"].to_numpy()
    ratio = float(sharpe_ratio(returns, bars_per_year))
    return or_none(ratio)


def growth_of(frame: pd.DataFrame, bars_per_year: float) -> float:
    """
    :param frame: from ``backtest`` or ``joint``
    :param bars_per_year: number of bars that annualises
    :return: log growth of its equity a year
    """
    years = len(frame) / bars_per_year
    return math.log(float(frame["equity"].iloc[-1])) / years


def or_none(value: float) -> float | None:
    """:return: the value where it is finite, else None"""
    if not math.isfinite(value):
        return None
    return value


def figures(frame: pd.DataFrame, bars_per_year: float) -> dict[str, float | None]:
    """
    :param frame: from ``backtest`` or ``joint``
    :param bars_per_year: number of bars that annualises
    :return: Sharpe ratio (simple net returns, risk-free 0), log growth a year, Sortino and Calmar ratio, largest
        drawdown (0 or below),
        hit rate (share of the bars with a return that gained), net and gross total return, exposure (mean absolute
        position), turnover and costs per year in shares of equity, bars. None: undefined
    """
    # Ratios of return and risk.
    years = len(frame) / bars_per_year
    final_equity = float(frame["equity"].iloc[-1])
    table = {"sharpe_ratio": sharpe_of(frame, bars_per_year)}
    table["growth_per_year"] = growth_of(frame, bars_per_year)
    for name in RATIOS:
        table[name] = _ratio(name, frame["return"], bars_per_year)

    # What the account became, after costs and before them.
    final_gross_equity = float(frame["gross_equity"].iloc[-1])
    table["total_return"] = final_equity - 1.0
    table["gross_return"] = final_gross_equity - 1.0

    # What was held, and what trading took.
    exposure = frame["position"].abs().mean()
    turnover = frame["trade"].abs().sum()
    costs = frame["cost"].sum()
    table["exposure"] = float(exposure)
    table["turnover_per_year"] = float(turnover) / years
    table["costs_per_year"] = float(costs) / years
    table["bars"] = float(len(frame))
    return table


def figures_by_regime(account: Account, bars_per_year: float) -> dict[str, dict[str, float | None]]:
    """
    :param account: of a backtest
    :param bars_per_year: number of bars that annualises
    :return: per regime the rows in which a bar of any symbol was in it, and the Sharpe ratio and exposure of the money
        in the symbols that were (``Account.in_regimes``); None where a regime has under ``MIN_REGIME_DAYS`` bars
    """
    table: dict[str, dict[str, float | None]] = {}
    for regime in account.regimes:
        bars = account.in_regimes([regime])
        table[regime] = {
            "bars": float(len(bars)),
            "sharpe_ratio": None,
            "exposure": None,
        }

        # Figures need bars enough.
        if len(bars) >= MIN_REGIME_DAYS:
            exposure = bars["position"].abs().mean()
            table[regime]["sharpe_ratio"] = sharpe_of(bars, bars_per_year)
            table[regime]["exposure"] = float(exposure)

    return table


def summary(
    accounts: dict[str, Account],
    bars_per_year: float,
    rows_per_year: float | None = None,
) -> dict[str, dict[str, Any]]:
    """
    :param accounts: by the name of their strategy
    :param bars_per_year: number of bars that annualises the figures of a symbol
    :param rows_per_year: number of rows that annualises those of the account of all symbols; None: the same
    :return: for JSON: "joint" and "symbols", each symbol by name; in them per strategy the ``figures`` and, as
        "regimes", the ``figures_by_regime``. Equal weights are no strategy of one symbol
    """

    def all_figures(account: Account, per_year: float) -> dict[str, Any]:
        return {
            **figures(account.joint, per_year),
            "regimes": figures_by_regime(account, per_year),
        }

    # The accounts of all symbols.
    if rows_per_year is None:
        rows_per_year = bars_per_year
    joint = {}
    for name, account in accounts.items():
        joint[name] = all_figures(account, rows_per_year)

    # Each symbol alone, by the strategies that need no other symbol.
    first = next(iter(accounts.values()))
    symbols: dict[str, Any] = {symbol: {} for symbol in first.frames}
    for name, account in accounts.items():
        for symbol, frame in account.frames.items():
            if "capital" not in frame:
                alone = Account({symbol: frame})
                symbols[symbol][name] = all_figures(alone, bars_per_year)

    return {"joint": joint, "symbols": symbols}


def share_of_attainable(agent: float | None, hold: float | None, informed: float | None) -> float | None:
    """
    :param agent: Sharpe ratio, or log growth, of the agent
    :param hold: that of buy-and-hold
    :param informed: that of the rule that knows the law, None: nobody knows it
    :return: 0 for an agent as good as buy-and-hold, 1 for one as good as the informed rule; None where that rule is
        not the better of the two, or a figure is undefined
    """
    if agent is None or hold is None or informed is None or informed <= hold:
        return None
    return (agent - hold) / (informed - hold)


@dataclass(frozen=True)
class Rank:
    """
    Rank of an agent's Sharpe ratio among those of its shifted copies.

    :param copies: number of copies that have a Sharpe ratio
    :param below: how many of them have a lower one
    :param equal: how many have the same
    """

    copies: int
    below: int
    equal: int

    @property
    def share(self) -> float:
        """Share of the copies and the agent that lie below the agent, equal ones and the agent itself by half."""
        return (self.below + (self.equal + 1) / 2) / (self.copies + 1)


def rank_among(returns: pd.Series, of_copies: np.ndarray) -> Rank | None:
    """
    :param returns: of the agent's account
    :param of_copies: Sharpe ratios of its n copies, per row, NaN where undefined
    :return: the agent's rank; None where its own ratio or all others are undefined
    """
    # Ratios of a bar; those that are undefined do not count.
    agent = float(sharpe_ratio(returns.to_numpy(), 1.0))
    defined = of_copies[np.isfinite(of_copies)]
    if not np.isfinite(agent) or not len(defined):
        return None

    # Copies that differ by rounding alone are equal.
    equal = np.isclose(defined, agent, rtol=1e-9, atol=1e-12)
    below = (defined < agent) & ~equal

    return Rank(
        copies=len(defined),
        below=int(below.sum()),
        equal=int(equal.sum()),
    )


def _ratio(name: str, returns: pd.Series, bars_per_year: float) -> float | None:
    """A figure of quantstats, None where it is undefined (no spread in the returns)."""
    if name != "max_drawdown" and not returns.std() > NO_SPREAD:
        return None

    # Without a loss there is no drawdown either; quantstats would read such returns as prices.
    if not returns.min() < 0:
        if name in WITHOUT_LOSS:
            return WITHOUT_LOSS[name]
        returns = _below_one(returns)

    # Drawdown and hit rate have no year in them.
    options = {}
    if name not in ("max_drawdown", "hit_rate"):
        options["periods"] = bars_per_year

    function = getattr(quantstats().stats, RATIOS[name])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it divides by zero and uses what pandas 3 deprecates
        value = float(function(returns, **options))
    return or_none(value)


def _below_one(returns: pd.Series) -> pd.Series:
    """
    Halve returns without a loss until all are below 1. The hit rate stays bit for bit.

    quantstats takes a series for prices where nothing is below 0 and something above 1, and has no option that says
    what it is.
    """
    if not np.isfinite(returns.max()):
        return returns

    # A power of two changes no digit.
    _, exponent = np.frexp(returns.max())
    halvings = max(int(exponent), 0)
    return returns * 2.0**-halvings


@functools.cache  # entering the context costs as much as a figure
def quantstats() -> Any:
    """The library, imported when needed because that takes seconds, and kept from changing how our pictures look."""
    import matplotlib

    with matplotlib.rc_context():
        import quantstats
    return quantstats
