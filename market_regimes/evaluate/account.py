"""One account of several symbols: its rows, and the rows in which a symbol is in some regime."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from market_regimes.market.regimes import REGIMES
from market_regimes.prices import Calendar

Frames = dict[str, pd.DataFrame]  # per symbol the rows of a backtest


@dataclass(frozen=True)
class Account:
    """
    One account of K symbols. It opens one account per symbol with 1/K of the capital each and moves no money between
    them, so that every return is one that a trader could have had.

    A row is one period of the bars (``Calendar``), whatever the stamps of the files say. A symbol without a bar keeps
    its position with return 0 until its next bar; two bars of a symbol in a row compound. Before its first bar and
    after its last one the money of a symbol is cash with return 0: it waits for the symbol, and nobody knew better.

    :param frames: from ``backtest`` or ``equal_weights``
    """

    frames: Frames

    @cached_property
    def joint(self) -> pd.DataFrame:
        """
        A row per period: ``return``, ``gross_return``, ``equity``, ``gross_equity`` and, as shares of the equity before
        the row, ``target``, ``trade`` (buying and selling alike) and ``cost``; ``position``, without its sign, as a
        share of the equity after the row; ``index``, the mean over the symbols. Of one symbol its own frame.
        """
        if len(self.frames) == 1:
            return next(iter(self.frames.values()))

        ledger = self._ledger
        equity = 1.0 + ledger.money["return"].sum(axis=1).cumsum()
        gross_equity = 1.0 + ledger.money["gross_return"].sum(axis=1).cumsum()
        return ledger.frame(ledger.alive, before(equity), before(gross_equity))

    def in_regimes(self, regimes: Collection[str]) -> pd.DataFrame:
        """
        :param regimes: names
        :return: the rows of ``joint`` in which a bar is in one of these regimes, one after the other: what the money of
            the symbols in them did. A symbol without a bar keeps the regime of its last one
        """
        if len(self.frames) > 1:
            return self._ledger.in_regimes(regimes)
        frame = self.joint
        return frame[frame["regime"].isin(regimes)]

    @cached_property
    def _ledger(self) -> _Ledger:
        return _Ledger.of(self.frames)


def joint(frames: Frames) -> pd.DataFrame:
    """
    :param frames: from ``backtest`` or ``equal_weights``
    :return: the rows of their ``Account``, for callers that need nothing else of it
    """
    return Account(frames).joint


def before(equity: np.ndarray) -> np.ndarray:
    """:return: equity before each row, of the equity after it, 1 at the start; along the first axis"""
    return np.concatenate([np.ones_like(equity[:1]), equity[:-1]])


@dataclass(frozen=True)
class _Ledger:
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
    def of(cls, frames: Frames) -> _Ledger:
        """:param frames: of more than one symbol, from ``backtest`` or ``equal_weights``"""
        stamps, rows = rows_of(frames)
        symbols = [_of_symbol(frame, row, len(stamps)) for frame, row in zip(frames.values(), rows, strict=True)]

        # One column per symbol; money counts as a share of the whole account.
        columns = {}
        for name in symbols[0]:
            columns[name] = np.stack([symbol[name] for symbol in symbols], axis=1)
        states = {name: columns.pop(name) for name in ("has_bar", "alive", "regime", "index")}
        money = {name: values / len(frames) for name, values in columns.items()}
        return cls(stamps, money=money, **states)

    def in_regimes(self, regimes: Collection[str]) -> pd.DataFrame:
        """:return: as ``Account.in_regimes`` describes"""
        numbers = [REGIMES.index(name) for name in regimes]
        inside = self.alive & np.isin(self.regime, numbers)
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
        :return: as ``Account.joint`` describes
        """
        # Sums over the symbols that count.
        sums = {}
        for name, values in self.money.items():
            sums[name] = np.where(inside, values, 0.0).sum(axis=1)[rows]
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


def rows_of(frames: Frames) -> tuple[np.ndarray, list[np.ndarray]]:
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
    rows = [np.searchsorted(stamps, of_symbol) for of_symbol in times]
    return stamps.astype("M8[s]"), rows


def _of_symbol(frame: pd.DataFrame, row: np.ndarray, rows: int) -> dict[str, np.ndarray]:
    """
    :param frame: of one symbol, a row per bar
    :param row: of the account for each bar, shape (T,)
    :param rows: of the account
    :return: the fields of ``_Ledger`` for this symbol, money in shares of its own capital at the start, shapes (R,)
    """
    net = _capital(frame, "")
    gross = _capital(frame, "gross_")
    after = net * (1 + frame["return"].to_numpy())
    gross_after = gross * (1 + frame["gross_return"].to_numpy())

    # The last bar up to each row, and the first bar of each row that has one.
    numbers = np.arange(rows)
    last = np.searchsorted(row, numbers, side="right") - 1
    first = np.searchsorted(row, numbers, side="left")
    alive = (numbers >= row[0]) & (numbers <= row[-1])
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
