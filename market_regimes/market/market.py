"""The market of one symbol: its bars, its volatility index, its regimes and the columns that are used."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Literal

import numpy as np
import pandas as pd

from market_regimes.config import SYNTHETIC, MarketConfig, TradingCosts
from market_regimes.market.columns import benchmark_targets, feature_columns
from market_regimes.market.law import Law, law_of
from market_regimes.market.periods import date_text
from market_regimes.market.regimes import DEFAULT_REGIMES, Regimes, estimated_index, ewma_volatility, regimes_of
from market_regimes.prices import DAYS_PER_YEAR, Bars

KEEPS_BOUNDS = {"sp500", *SYNTHETIC}  # data for which the default bounds of the regimes hold
LAST_RETURN_ONLY = {"synthetic_hidden"}  # data whose past an agent must remember


@dataclass(frozen=True)
class Market:
    """
    T bars of one symbol with the regime of each. The arrays, of shape (T,), are not to be written to.

    :param symbol: name for tables and pictures
    :param source: where the bars come from, for error messages
    :param dates: times of the bars, datetime64[s], increasing
    :param open: opening prices
    :param close: closing prices
    :param volatility: EWMA volatility up to the bar's close, annualised, in points, NaN in the warm-up
    :param index: volatility index at the bar's close, in points; NaN: the bar has no regime
    :param bars_per_year: factor that annualises figures and accrues interest
    :param regimes: names of the regimes, and points of the index at which they begin
    :param fill: "close" where there are no opening prices to fill at
    :param last_return_only: whether observations hold 0 in place of the past, but for the last return
    :param features: value at each close of the columns that enter observations, by name, in their order
    :param volume: traded in each bar, where costs depend on it; else None
    :param benchmark_targets: target at each close of the user's own strategy; None: there is none
    :param instants: ``dates`` in UTC, datetime64[s]; equal to them where no zone of known offset is stated
    :param rows_per_year: the same for an account that holds all symbols of the run; None: as many as bars
    :param zone: time zone of ``dates``, as ``Bars.zone``
    :param law: that the bars were drawn from; None: nobody knows it
    """

    symbol: str
    source: str
    dates: np.ndarray
    open: np.ndarray
    close: np.ndarray
    volatility: np.ndarray
    index: np.ndarray
    bars_per_year: float = DAYS_PER_YEAR
    regimes: Regimes = DEFAULT_REGIMES
    fill: Literal["open", "close"] = "open"
    last_return_only: bool = False
    features: dict[str, np.ndarray] = field(default_factory=dict)
    volume: np.ndarray | None = None
    benchmark_targets: np.ndarray | None = None
    instants: np.ndarray = None  # type: ignore[assignment]  # set below
    rows_per_year: float | None = None
    zone: str | None = None
    law: Law | None = None

    def __post_init__(self) -> None:
        if self.instants is None:
            object.__setattr__(self, "instants", self.dates)

    @property
    def account_rows_per_year(self) -> float:
        """Factor that annualises figures of the account that holds all symbols."""
        if self.rows_per_year is None:
            return self.bars_per_year
        return self.rows_per_year

    @cached_property
    def regime(self) -> np.ndarray:
        """Position in ``regimes.names`` of every bar's regime."""
        return self.regimes.labels(self.index)

    def regime_names(self, bars: slice) -> pd.Categorical:
        """
        :param bars: positions of some bars
        :return: the regime of each by name, where all names of the market's regimes are known, from calmest to wildest
        """
        return pd.Categorical.from_codes(self.regime[bars], self.regimes.names, ordered=True)

    def fingerprint(self, last: int | None = None) -> dict[str, str]:
        """
        :param last: last bar that is used; None: the last of all
        :return: per month a digest over dates, prices, index and the features and volume that are used
        """
        stop = len(self.dates)
        if last is not None:
            stop = last + 1

        # The arrays on which results depend.
        arrays = [self.dates, self.open, self.close, self.index, *self.features.values()]
        if self.volume is not None:
            arrays.append(self.volume)

        # Each month reaches to the first bar of the next one.
        months = self.dates[:stop].astype("M8[M]")
        starts = np.flatnonzero(np.diff(months.astype(int), prepend=-(10**6)))
        edges = [*starts, stop]

        digests = {}
        for begin, end in pairwise(edges):
            month = str(months[begin])
            of_month = [array[begin:end] for array in arrays]
            digests[month] = digest("", *of_month)[:16]
        return digests


def digest(symbol: str, *arrays: np.ndarray) -> str:
    """SHA-256 over a symbol and its arrays."""
    sha256 = hashlib.sha256(symbol.encode())
    for array in arrays:
        sha256.update(np.ascontiguousarray(array).tobytes())
    return sha256.hexdigest()


def market_of(bars: Bars, config: MarketConfig, train: range, last: int) -> Market:
    """
    :param bars: bars of one symbol
    :param config: the choice of the index, and the bounds where they are given
    :param train: bars of the training period, whose quantiles are the bounds where none are given
    :param last: last bar whose index is needed
    :return: the market, with its index and its regimes
    :raises ValueError: if the index that is asked for is missing, or a feature
    """
    volatility = ewma_volatility(bars.close, bars.bars_per_year)
    index = _index(bars, config, volatility, train.start, last)

    # The bounds are the configuration's, else the default's where they hold, else those of the training period.
    regimes = regimes_of(config)
    is_stated = config.regime_bounds is not None
    is_default = config.regime_quantiles is None and bars.source in KEEPS_BOUNDS
    if not is_stated and not is_default:
        regimes = regimes.fitted(index, train)

    # Volume is kept only where the impact of an order depends on it.
    volume = None
    if config.trading.impact_coefficient:
        volume = bars.volume

    return Market(
        bars.symbol,
        bars.source,
        bars.dates,
        bars.open,
        bars.close,
        volatility,
        index,
        bars.bars_per_year,
        regimes,
        bars.fill,
        last_return_only=bars.source in LAST_RETURN_ONLY,
        features=feature_columns(bars, config),
        volume=volume,
        benchmark_targets=benchmark_targets(bars, config),
        instants=bars.instants,
        rows_per_year=bars.rows_per_year,
        zone=bars.zone,
        law=law_of(bars),
    )


def uses_index_of_data(bars: Bars, config: MarketConfig) -> bool:
    """
    :return: whether the volatility index is that of the data and not estimated; the synthetic market's is part of its
        law and never estimated
    """
    if bars.volatility_index is None:
        return False
    return config.volatility_index != "estimated" or bars.source in SYNTHETIC


def _index(bars: Bars, config: MarketConfig, volatility: np.ndarray, first: int, last: int) -> np.ndarray:
    """The index of the data where it is wanted, which must cover the bars from first to last; else estimates."""
    index = bars.volatility_index
    estimated = estimated_index(volatility)

    # An index that is asked for must be there; one that is not wanted is estimated.
    if index is None and config.volatility_index == "real":
        raise ValueError(f"market.volatility_index=real: {bars.source} has no column volatility_index")
    if index is None or not uses_index_of_data(bars, config):
        return estimated

    # The bars that are used must have one.
    missing = np.isnan(index)
    within = np.flatnonzero(missing[first : last + 1]) + first
    if len(within):
        begin = date_text(bars.dates[first])
        end = date_text(bars.dates[last])
        day = date_text(bars.dates[within[0]])
        raise ValueError(
            f"{bars.source} has no volatility_index for {len(within)} of the bars of {bars.symbol} from "
            f"{begin} to {end}, the first on {day}: complete the column, move the periods or set "
            "market.volatility_index=estimated"
        )

    # Others, which only warm up, are estimated.
    return np.where(missing, estimated, index)


def fills_at_open(market: Market, trading: TradingCosts) -> bool:
    """Whether orders are filled at the next open, or at the close at which they are given."""
    return trading.fill != "close" and market.fill == "open"


def with_fill(trading: TradingCosts, markets: Sequence[Market]) -> TradingCosts:
    """
    :param trading: fees, slippage and rates
    :param markets: traded markets
    :return: the costs with the fill that the markets decide; where some have opening prices and others have none, each
        market decides its own, and the fill stays open
    """
    kinds = {market.fill for market in markets}
    if trading.fill is not None or len(kinds) != 1:
        return trading

    # All markets are filled alike.
    if kinds == {"close"}:
        return replace(trading, fill="close")
    return replace(trading, fill="next_open")


def prices_of_fills(market: Market, at_open: bool) -> np.ndarray:
    """Price at which the order of each close but the last is filled, shape (T - 1,)."""
    if at_open:
        return market.open[1:]
    return market.close[:-1]
