"""
Daily prices with a volatility index and the regime of every day.

The S&P 500 (1999-2018) and the VIX (2014-2018) ship with the ``arch`` package: real prices, nothing to download. The
volatility index of a day is estimated from the prices up to that day: RiskMetrics volatility (an exponential average
of squared log returns, lambda 0.94), annualised, mapped to the VIX by two constants.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import date
from typing import Literal

import numpy as np
import pandas as pd

BARS_PER_YEAR = 252
RISKMETRICS_LAMBDA = 0.94  # RiskMetrics Technical Document, J.P. Morgan 1996, for daily data
# Least squares of the VIX on the EWMA volatility of the S&P 500, 2014-2018, correlation 0.83. Frozen: fitting them
# again on a user's data would let labels depend on the future.
VIX_INTERCEPT, VIX_SLOPE = 6.517, 0.7027

REGIMES = ("calm", "normal", "volatile", "crash")
REGIME_BOUNDS = (15.0, 25.0, 40.0)  # in points of the volatility index; a bound belongs to the regime above it
MIN_REGIME_DAYS = 20  # figures on fewer days are reported as n/a


@dataclass(frozen=True)
class Market:
    """
    T daily bars of one symbol. The arrays, of shape (T,), are not to be written to.

    :param symbol: name for tables and pictures
    :param dates: days, datetime64[D], increasing
    :param open: opening prices
    :param close: closing prices
    :param volatility: EWMA volatility up to the day's close, annualised, in points
    :param index: volatility index at the day's close, in points
    :param regime: position in ``REGIMES`` of the day's regime
    """

    symbol: str
    dates: np.ndarray
    open: np.ndarray
    close: np.ndarray
    volatility: np.ndarray
    index: np.ndarray
    regime: np.ndarray

    def fingerprint(self) -> str:
        """SHA-256 over dates, prices and index: two runs with the same one saw the same data."""
        digest = hashlib.sha256(self.symbol.encode())
        for array in (self.dates, self.open, self.close, self.index):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def period(self, first: str, last: str) -> range:
        """
        Bars of the days from ``first`` to ``last``, both included.

        :param first: ISO date
        :param last: ISO date
        :return: positions of the bars
        :raises ValueError: if a date is not one, or the period holds fewer than two bars
        """
        try:
            bounds = [np.datetime64(date.fromisoformat(day), "D") for day in (first, last)]
        except ValueError as error:
            raise ValueError(
                f"a period is given by two ISO dates like 2011-01-01, got {first!r} and {last!r}"
            ) from error
        bars = range(*np.searchsorted(self.dates, [bounds[0], bounds[1] + 1]).tolist())
        if len(bars) < 2:
            raise ValueError(
                f"the period {first} to {last} holds {len(bars)} bars of {self.symbol}, whose data run from "
                f"{self.dates[0]} to {self.dates[-1]}: at least 2 are needed"
            )
        return bars


def ewma_volatility(close: np.ndarray) -> np.ndarray:
    """
    RiskMetrics volatility, started from the first day's squared return.

    :param close: closing prices, shape (T,)
    :return: annualised volatility in points (per cent) at each close, shape (T,); the first bar, which has no return,
        takes the value of the second
    """
    squared = pd.Series(np.diff(np.log(close)) ** 2)
    variance = squared.ewm(alpha=1 - RISKMETRICS_LAMBDA, adjust=False).mean().to_numpy()
    points = 100.0 * np.sqrt(BARS_PER_YEAR * variance)
    return np.concatenate([points[:1], points])


def estimated_index(volatility: np.ndarray) -> np.ndarray:
    """
    :param volatility: EWMA volatility in points, shape (T,)
    :return: estimate of the VIX in points, shape (T,)
    """
    return VIX_INTERCEPT + VIX_SLOPE * volatility


def regimes(index: np.ndarray) -> np.ndarray:
    """
    :param index: volatility index in points, shape (T,)
    :return: position in ``REGIMES`` for every day, shape (T,)
    """
    labels: np.ndarray = np.digitize(index, REGIME_BOUNDS)
    return labels


def load_sp500(volatility_index: Literal["estimated", "real"] = "estimated") -> Market:
    """
    Daily bars of the S&P 500, 1999-01-04 to 2018-12-31.

    :param volatility_index: "estimated" from the prices throughout, so that a label means the same in every year; or
        "real": the VIX where there is one (from 2014), estimated before
    :return: the market
    """
    from arch.data import sp500, vix

    prices = sp500.load()
    close = prices["Close"].to_numpy(dtype=np.float64)
    volatility = ewma_volatility(close)
    index = estimated_index(volatility)
    if volatility_index == "real":
        real = vix.load()["vix"].reindex(prices.index).to_numpy(dtype=np.float64)
        index = np.where(np.isnan(real), index, real)
    return Market(
        symbol="S&P 500",
        dates=prices.index.to_numpy().astype("datetime64[D]"),
        open=prices["Open"].to_numpy(dtype=np.float64),
        close=close,
        volatility=volatility,
        index=index,
        regime=regimes(index),
    )
