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
from market_regimes.market.regimes import MIN_REGIME_DAYS, REGIMES

# Figures of quantstats by their names here.
RATIOS = {
    "sortino_ratio": "sortino",
    "calmar_ratio": "calmar",
    "max_drawdown": "max_drawdown",
    "hit_rate": "win_rate",
}
WITHOUT_LOSS = {"max_drawdown": 0.0, "sortino_ratio": None, "calmar_ratio": None}  # of returns that are never below 0
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

    spread = returns.std(axis=0, ddof=1)
    np.divide(returns.mean(axis=0), spread, out=ratio, where=spread > NO_SPREAD)
    return math.sqrt(bars_per_year) * ratio


def sharpe_of(frame: pd.DataFrame, bars_per_year: float) -> float | None:
    """
    :param frame: from ``backtest`` or ``joint``
    :param bars_per_year: number of bars that annualises
    :return: ``sharpe_ratio`` of its returns, None where it is undefined
    """
    return or_none(float(sharpe_ratio(frame["return"].to_numpy(), bars_per_year)))


def or_none(value: float) -> float | None:
    """A finite number, else None."""
    return value if math.isfinite(value) else None


def figures(frame: pd.DataFrame, bars_per_year: float) -> dict[str, float | None]:
    """
    :param frame: from ``backtest`` or ``joint``
    :param bars_per_year: number of bars that annualises
    :return: Sharpe and Sortino ratio (simple net returns, risk-free 0), Calmar ratio, largest drawdown (0 or below),
        hit rate (share of the bars with a return that gained), net and gross total return, exposure (mean absolute
        position), turnover and costs per year in shares of equity, bars. None: undefined
    """
    years = len(frame) / bars_per_year
    return {
        "sharpe_ratio": sharpe_of(frame, bars_per_year),
        **{name: _ratio(name, frame["return"], bars_per_year) for name in RATIOS},
        "total_return": float(frame["equity"].iloc[-1]) - 1.0,
        "gross_return": float(frame["gross_equity"].iloc[-1]) - 1.0,
        "exposure": float(frame["position"].abs().mean()),
        "turnover_per_year": float(frame["trade"].abs().sum()) / years,
        "costs_per_year": float(frame["cost"].sum()) / years,
        "bars": float(len(frame)),
    }


def figures_by_regime(account: Account, bars_per_year: float) -> dict[str, dict[str, float | None]]:
    """
    :param account: of a backtest
    :param bars_per_year: number of bars that annualises
    :return: per regime the rows in which a bar of any symbol was in it, and the Sharpe ratio and exposure of the money
        in the symbols that were (``Account.in_regimes``); None where a regime has under ``MIN_REGIME_DAYS`` bars
    """
    table: dict[str, dict[str, float | None]] = {}
    for regime in REGIMES:
        bars = account.in_regimes([regime])
        table[regime] = {"bars": float(len(bars)), "sharpe_ratio": None, "exposure": None}
        if len(bars) >= MIN_REGIME_DAYS:
            table[regime]["sharpe_ratio"] = sharpe_of(bars, bars_per_year)
            table[regime]["exposure"] = float(bars["position"].abs().mean())
    return table


def summary(
    accounts: dict[str, Account], bars_per_year: float, rows_per_year: float | None = None
) -> dict[str, dict[str, Any]]:
    """
    :param accounts: by the name of their strategy
    :param bars_per_year: number of bars that annualises the figures of a symbol
    :param rows_per_year: number of rows that annualises those of the account of all symbols; None: the same
    :return: for JSON: "joint" and "symbols", each symbol by name; in them per strategy the ``figures`` and, as
        "regimes", the ``figures_by_regime``. Equal weights are no strategy of one symbol
    """

    def all_figures(account: Account, per_year: float) -> dict[str, Any]:
        return {**figures(account.joint, per_year), "regimes": figures_by_regime(account, per_year)}

    # The accounts of all symbols.
    per_account = bars_per_year if rows_per_year is None else rows_per_year
    joint = {name: all_figures(account, per_account) for name, account in accounts.items()}

    # Each symbol alone, by the strategies that need no other symbol.
    symbols: dict[str, Any] = {symbol: {} for symbol in next(iter(accounts.values())).frames}
    for name, account in accounts.items():
        for symbol, frame in account.frames.items():
            if "capital" not in frame:
                symbols[symbol][name] = all_figures(Account({symbol: frame}), bars_per_year)
    return {"joint": joint, "symbols": symbols}


def share_of_attainable(agent: float | None, hold: float | None, informed: float | None) -> float | None:
    """
    :param agent: Sharpe ratio of the agent
    :param hold: that of buy-and-hold
    :param informed: that of the rule that knows the law, None: nobody knows it
    :return: 0 for an agent as good as buy-and-hold, 1 for one as good as the informed rule; None where that rule is
        not the better of the two, or a Sharpe ratio is undefined
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
    agent = float(sharpe_ratio(returns.to_numpy(), 1.0))
    defined = of_copies[np.isfinite(of_copies)]
    if not np.isfinite(agent) or not len(defined):
        return None

    equal = np.isclose(defined, agent, rtol=1e-9, atol=1e-12)
    below = (defined < agent) & ~equal
    return Rank(len(defined), int(below.sum()), int(equal.sum()))


def _ratio(name: str, returns: pd.Series, bars_per_year: float) -> float | None:
    """A figure of quantstats, None where it is undefined (no spread in the returns)."""
    if name != "max_drawdown" and not returns.std() > NO_SPREAD:
        return None

    # Without a loss there is no drawdown either; quantstats would read such returns as prices.
    if not returns.min() < 0:
        if name in WITHOUT_LOSS:
            return WITHOUT_LOSS[name]
        returns = _below_one(returns)

    options = {}
    if name not in ("max_drawdown", "hit_rate"):
        options["periods"] = bars_per_year
    function = getattr(quantstats().stats, RATIOS[name])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it divides by zero and uses what pandas 3 deprecates
        return or_none(float(function(returns, **options)))


def _below_one(returns: pd.Series) -> pd.Series:
    """
    Returns of which none is a loss, halved until none is above a half. The hit rate stays bit for bit.

    quantstats takes a series for prices where nothing is below 0 and something above 1, and has no option that says
    what it is.
    """
    if not np.isfinite(returns.max()):
        return returns
    _, exponent = np.frexp(returns.max())
    return returns * 2.0 ** -max(int(exponent), 0)


@functools.cache  # entering the context costs as much as a figure
def quantstats() -> Any:
    """The library, imported when needed because that takes seconds, and kept from changing how our pictures look."""
    import matplotlib

    with matplotlib.rc_context():
        import quantstats
    return quantstats
