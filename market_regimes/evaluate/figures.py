"""Figures of what was earned: overall, by regime, by symbol."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from market_regimes.market.regimes import MIN_REGIME_DAYS, REGIMES
from market_regimes.prices import Calendar

RATIOS = {
    "sharpe_ratio": "sharpe",
    "sortino_ratio": "sortino",
    "calmar_ratio": "calmar",
    "max_drawdown": "max_drawdown",
    "hit_rate": "win_rate",
}
WITHOUT_LOSS = {"max_drawdown": 0.0, "sortino_ratio": None, "calmar_ratio": None}  # of returns that are never below 0
NO_SPREAD = 1e-12  # standard deviation of returns up to which they do not vary


def joint(frames: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """
    One account of K symbols. It opens one account per symbol with 1/K of the capital each and moves no money between
    them, so that every return is one that a trader could have had.

    A row is one period of the bars (``Calendar``), whatever the stamps of the files say. A symbol without a bar keeps
    its position with return 0 until its next bar; two bars of a symbol in a row compound. Before its first bar and
    after its last one the money of a symbol is cash with return 0: it waits for the symbol, and nobody knew better.

    :param frames: from ``backtest`` or ``equal_weights``
    :return: a row per period: ``return``, ``gross_return``, ``equity``, ``gross_equity`` and, as shares of the equity
        before the row, ``target``, ``trade`` (buying and selling alike) and ``cost``; ``position``, without its sign,
        as a share of the equity after the row; ``index``, the mean over the symbols. Of one symbol its own frame
    """
    if len(frames) == 1:
        return next(iter(frames.values()))
    account = _Account.of(frames)
    equity = 1.0 + account.money["return"].sum(axis=1).cumsum()
    gross_equity = 1.0 + account.money["gross_return"].sum(axis=1).cumsum()
    return account.frame(account.alive, before(equity), before(gross_equity))


def joint_in(frames: dict[str, pd.DataFrame], regimes: Collection[str]) -> pd.DataFrame:
    """
    :param frames: from ``backtest`` or ``equal_weights``
    :param regimes: names
    :return: the rows of ``joint`` in which a bar is in one of these regimes, one after the other: what the money of the
        symbols in them did. A symbol without a bar keeps the regime of its last one
    """
    return _by_regimes(frames)(regimes)


def _by_regimes(frames: dict[str, pd.DataFrame]) -> Callable[[Collection[str]], pd.DataFrame]:
    """``joint_in`` as a function of the regimes, which builds the account once."""
    if len(frames) == 1:
        (frame,) = frames.values()
        return lambda regimes: frame[frame["regime"].isin(regimes)]
    return _Account.of(frames).in_regimes


def before(equity: np.ndarray) -> np.ndarray:
    """:return: equity before each row, of the equity after it, 1 at the start; along the first axis"""
    return np.concatenate([np.ones_like(equity[:1]), equity[:-1]])


@dataclass(frozen=True)
class _Account:
    """
    K symbols on R rows, in shares of the account's capital at the start.

    :param stamps: time of each row, shape (R,)
    :param has_bar: whether a symbol has a bar in a row, shape (R, K)
    :param alive: whether a row lies between a symbol's first and last bar, shape (R, K)
    :param regime: position in ``REGIMES`` of a symbol's last bar, shape (R, K)
    :param index: volatility index of that bar, shape (R, K)
    :param money: ``capital`` and ``gross_capital`` of a symbol before the row; what ``return`` and ``gross_return``
        earned; ``trade``, ``cost`` and ``target``; ``position`` after the row; shapes (R, K)
    """

    stamps: np.ndarray
    has_bar: np.ndarray
    alive: np.ndarray
    regime: np.ndarray
    index: np.ndarray
    money: dict[str, np.ndarray]

    @classmethod
    def of(cls, frames: dict[str, pd.DataFrame]) -> _Account:
        """:param frames: of more than one symbol, from ``backtest`` or ``equal_weights``"""
        stamps, rows = rows_of(frames)
        symbols = [_of_symbol(frame, row, len(stamps)) for frame, row in zip(frames.values(), rows, strict=True)]
        columns = {name: np.stack([symbol[name] for symbol in symbols], axis=1) for name in symbols[0]}
        states = {name: columns.pop(name) for name in ("has_bar", "alive", "regime", "index")}
        return cls(stamps, money={name: values / len(frames) for name, values in columns.items()}, **states)

    def in_regimes(self, regimes: Collection[str]) -> pd.DataFrame:
        """:return: as ``joint_in`` describes"""
        inside = self.alive & np.isin(self.regime, [REGIMES.index(name) for name in regimes])
        rows = (inside & self.has_bar).any(axis=1)
        capital = np.where(inside, self.money["capital"], 0.0).sum(axis=1)
        gross_capital = np.where(inside, self.money["gross_capital"], 0.0).sum(axis=1)
        return self.frame(inside, capital, gross_capital, rows)

    def frame(
        self,
        inside: np.ndarray,
        capital: np.ndarray,
        gross_capital: np.ndarray,
        rows: np.ndarray | slice = slice(None),
    ) -> pd.DataFrame:
        """
        :param inside: which symbols count in which rows, shape (R, K)
        :param capital: money in them before each row, shape (R,)
        :param gross_capital: the same without fees, slippage and financing, shape (R,)
        :param rows: which rows there are
        :return: as ``joint`` describes
        """
        sums = {name: np.where(inside, values, 0.0).sum(axis=1)[rows] for name, values in self.money.items()}
        capital = capital[rows]
        gross_capital = gross_capital[rows]

        # Money becomes shares of what there was before the row, the position of what there is after it.
        columns = {
            "return": sums["return"] / capital,
            "gross_return": sums["gross_return"] / gross_capital,
            "target": sums["target"] / capital,
            "position": sums["position"] / (capital + sums["return"]),
            "trade": sums["trade"] / capital,
            "cost": sums["cost"] / capital,
        }
        frame = pd.DataFrame(columns, index=pd.DatetimeIndex(self.stamps[rows], name="date"))
        frame["equity"] = (1 + frame["return"]).cumprod()
        frame["gross_equity"] = (1 + frame["gross_return"]).cumprod()

        # The index is the mean over the symbols that count.
        weights = inside[rows].astype(float)
        frame["index"] = (weights * self.index[rows]).sum(axis=1) / weights.sum(axis=1)
        return frame


def rows_of(frames: dict[str, pd.DataFrame]) -> tuple[np.ndarray, list[np.ndarray]]:
    """
    :param frames: per symbol a row per bar, whose ``row`` is the time of the account's row; without it the calendar
        follows from the dates
    :return: times of the rows of the account in which a symbol has a bar, datetime64[s], shape (R,); per symbol the
        row of each bar, shapes (T,)
    """
    if all("row" in frame for frame in frames.values()):
        times = [frame["row"].to_numpy() for frame in frames.values()]
    else:
        dates = [frame.index.to_numpy().astype("M8[s]") for frame in frames.values()]
        calendar = Calendar.of(dates, dates)
        times = [calendar.stamps[row].astype(np.int64) for row in calendar.rows]
    stamps = np.unique(np.concatenate(times))
    return stamps.astype("M8[s]"), [np.searchsorted(stamps, these) for these in times]


def _of_symbol(frame: pd.DataFrame, row: np.ndarray, rows: int) -> dict[str, np.ndarray]:
    """
    :param frame: of one symbol, a row per bar
    :param row: of the account for each bar, shape (T,)
    :param rows: of the account
    :return: the fields of ``_Account`` for this symbol, money in shares of its own capital at the start, shapes (R,)
    """
    net = _capital(frame, "")
    gross = _capital(frame, "gross_")
    after = net * (1 + frame["return"].to_numpy())
    gross_after = gross * (1 + frame["gross_return"].to_numpy())

    # The last bar up to each row, and the first bar of each row that has one.
    last = np.searchsorted(row, np.arange(rows), side="right") - 1
    first = np.searchsorted(row, np.arange(rows), side="left")
    alive = (np.arange(rows) >= row[0]) & (np.arange(rows) <= row[-1])
    has_bar = np.zeros(rows, dtype=bool)
    has_bar[row] = True

    def since_last_bar(values: np.ndarray) -> np.ndarray:
        """Values of the last bar up to each row, 0 where the symbol is not alive."""
        return np.where(alive, values[last.clip(0)], 0.0)

    def capital(at_bars: np.ndarray, after_bars: np.ndarray) -> np.ndarray:
        """Money before each row from the first bar on: before the row's first bar, or what the last bar left."""
        money: np.ndarray = np.where(has_bar, at_bars[first.clip(max=len(row) - 1)], after_bars[last.clip(0)])
        return money

    def summed(values: np.ndarray) -> np.ndarray:
        """Over the bars of each row."""
        return np.bincount(row, weights=values, minlength=rows)

    return {
        "has_bar": has_bar,
        "alive": alive,
        "regime": pd.Index(REGIMES).get_indexer(frame["regime"])[last.clip(0)],
        "index": frame["index"].to_numpy()[last.clip(0)],
        "capital": capital(net, after),
        "gross_capital": capital(gross, gross_after),
        "return": summed(after - net),
        "gross_return": summed(gross_after - gross),
        "trade": summed(net * frame["trade"].abs().to_numpy()),
        "cost": summed(net * frame["cost"].to_numpy()),
        "target": since_last_bar(net * frame["target"].to_numpy()),
        "position": since_last_bar(after * frame["position"].abs().to_numpy()),
    }


def _capital(frame: pd.DataFrame, prefix: str) -> np.ndarray:
    """Money before each bar of a symbol, net or with the prefix ``gross_``, shape (T,)."""
    if f"{prefix}capital" in frame:
        capital: np.ndarray = frame[f"{prefix}capital"].to_numpy()
        return capital
    return before(frame[f"{prefix}equity"].to_numpy())


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
    :return: per regime the rows in which a bar of any symbol was in it, and the Sharpe ratio and exposure of the money
        in the symbols that were (``joint_in``); None where a regime has under ``MIN_REGIME_DAYS`` bars
    """
    table: dict[str, dict[str, float | None]] = {}
    bars_in = _by_regimes(frames)
    for regime in REGIMES:
        bars = bars_in([regime])
        enough = len(bars) >= MIN_REGIME_DAYS
        table[regime] = {
            "bars": float(len(bars)),
            "sharpe_ratio": _ratio("sharpe_ratio", bars["return"], bars_per_year) if enough else None,
            "exposure": float(bars["position"].abs().mean()) if enough else None,
        }
    return table


def summary(
    strategies: dict[str, dict[str, pd.DataFrame]], bars_per_year: float, rows_per_year: float | None = None
) -> dict[str, Any]:
    """
    :param strategies: per name a backtest
    :param bars_per_year: what annualises the figures of a symbol
    :param rows_per_year: what annualises those of the account that holds all of them; None: the same
    :return: for JSON: "joint" and "symbols", each symbol by name; in them per strategy the ``figures`` and, as
        "regimes", the ``figures_by_regime``. Equal weights are no strategy of one symbol
    """

    def all_figures(frames: dict[str, pd.DataFrame], per_year: float) -> dict[str, Any]:
        return {**figures(joint(frames), per_year), "regimes": figures_by_regime(frames, per_year)}

    # The account that holds all symbols.
    per_account = bars_per_year if rows_per_year is None else rows_per_year
    account = {name: all_figures(frames, per_account) for name, frames in strategies.items()}

    # Each symbol alone, by the strategies that need no other symbol.
    separable = {
        name: frames for name, frames in strategies.items() if not any("capital" in frame for frame in frames.values())
    }
    symbols = {
        symbol: {name: all_figures({symbol: frames[symbol]}, bars_per_year) for name, frames in separable.items()}
        for symbol in next(iter(strategies.values()))
    }
    return {"joint": account, "symbols": symbols}


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


def sharpe_per_row(returns: np.ndarray) -> np.ndarray:
    """
    :param returns: simple, shape (R, n)
    :return: mean over standard deviation of each column, not annualised, NaN where they do not vary, shape (n,)
    """
    spread = returns.std(axis=0, ddof=1) if len(returns) > 1 else np.zeros(returns.shape[1])
    ratios: np.ndarray = np.divide(
        returns.mean(axis=0), spread, out=np.full(returns.shape[1], np.nan), where=spread > NO_SPREAD
    )
    return ratios


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
    agent = float(sharpe_per_row(returns.to_numpy()[:, None])[0])
    others = of_copies[np.isfinite(of_copies)]
    if not np.isfinite(agent) or not len(others):
        return None
    equal = np.isclose(others, agent, rtol=1e-9, atol=1e-12)
    below = (others < agent) & ~equal
    return Rank(len(others), int(below.sum()), int(equal.sum()))


def _ratio(name: str, returns: pd.Series, bars_per_year: float) -> float | None:
    """A figure of quantstats, None where it is undefined (no spread in the returns)."""
    if name != "max_drawdown" and not returns.std() > NO_SPREAD:
        return None
    if not returns.min() < 0:  # and so no drawdown either; quantstats would read such returns as prices
        if name in WITHOUT_LOSS:
            return WITHOUT_LOSS[name]
        returns = _below_one(returns)
    periods = {} if name in ("max_drawdown", "hit_rate") else {"periods": bars_per_year}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it divides by zero and uses what pandas 3 deprecates
        value = float(getattr(quantstats().stats, RATIOS[name])(returns, **periods))
    return value if np.isfinite(value) else None


def _below_one(returns: pd.Series) -> pd.Series:
    """
    Returns of which none is a loss, halved until none is above a half. Sharpe ratio and hit rate stay bit for bit.

    quantstats takes a series for prices where nothing is below 0 and something above 1, and has no option that says
    what it is.
    """
    _, exponent = np.frexp(returns.max())
    return returns * 2.0 ** -max(int(exponent), 0) if np.isfinite(returns.max()) else returns


@functools.cache  # entering the context costs as much as a figure
def quantstats() -> Any:
    """The library, imported when needed because that takes seconds, and kept from changing how our pictures look."""
    import matplotlib

    with matplotlib.rc_context():
        import quantstats
    return quantstats
