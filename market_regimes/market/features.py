"""Columns that are used beside prices: what is seen of them at each close, and where they may not be missing."""

from __future__ import annotations

import numpy as np
import pandas as pd

from market_regimes.config import MarketConfig
from market_regimes.market.periods import date_text
from market_regimes.prices import Bars


def column_of(bars: Bars, name: str, option: str) -> np.ndarray:
    """
    :param bars: of one symbol
    :param name: "volume", or a column of the file
    :param option: that names it
    :return: its numbers, NaN where missing, shape (T,)
    :raises ValueError: if the bars have no such column
    """
    own = {**bars.extra, **({} if bars.volume is None else {"volume": bars.volume})}
    if name not in own:
        has = ", ".join(own) or "none beside prices"
        raise ValueError(f"{bars.source}: {bars.symbol} has no column {name}, which {option} names: it has {has}")
    return own[name]


def seen_features(bars: Bars, config: MarketConfig) -> dict[str, np.ndarray]:
    """
    :param bars: of one symbol
    :param config: names the features, their lag, and what fills gaps
    :return: per feature what is known of it at each close, NaN where nothing is, shape (T,)
    :raises ValueError: if the bars lack one
    """
    lag = config.feature_lag
    seen = {}
    for name in config.features:
        known = _known(bars, name, config)
        if name == "volume":
            known = np.diff(np.log(known), prepend=np.nan)
        seen[name] = np.concatenate([np.full(min(lag, len(known)), np.nan), known[: max(len(known) - lag, 0)]])
    return seen


def first_known(bars: Bars, config: MarketConfig) -> int:
    """
    :param bars: of one symbol
    :param config: names the features, their lag, and what fills gaps
    :return: first bar at whose close all features are known; one after the last bar, if there is none
    """
    unknown = np.zeros(len(bars.close) + 1, dtype=bool)
    for values in seen_features(bars, config).values():
        unknown[:-1] |= np.isnan(values)
    return int(np.argmin(unknown))


def check_features(bars: Bars, config: MarketConfig, needed: range) -> None:
    """
    :param bars: of one symbol
    :param config: names the features, their lag, and what fills gaps
    :param needed: bars at whose close the features are observed or scale observations
    :raises ValueError: with row and date, if a feature is not known there
    """
    for name in config.features:
        first = needed.start - config.feature_lag - (name == "volume")
        if first < 0:
            raise ValueError(
                f"{bars.source}: {name}, {config.feature_lag} bars late, is not known of {bars.symbol} on "
                f"{date_text(bars.dates[needed.start])}, as the bars begin on {date_text(bars.dates[0])}: begin the "
                "period later, or lower market.feature_lag"
            )
        missing = np.isnan(_known(bars, name, config))
        begun = not missing[: first + 1].all()
        missing[:first] = False
        missing[needed.stop - config.feature_lag :] = False
        bars.refuse(missing, _problem(bars, name, config, begun))


def check_traded(bars: Bars, config: MarketConfig, needed: range) -> None:
    """
    :param bars: of one symbol
    :param config: what trading costs and what may be held, and the user's own rule
    :param needed: bars at whose close orders are given
    :raises ValueError: with row and date, if the impact of an order needs a volume that is not there, or the own rule
        has no target or one that may not be held
    """
    outside = np.ones(len(bars.close), dtype=bool)
    outside[needed.start : needed.stop] = False
    option = "market.trading.impact_coefficient"
    if needed and config.trading.impact_coefficient:
        volume = column_of(bars, "volume", option)
        missing = ~((volume > 0) & (volume < np.inf)) & ~outside
        bars.refuse(missing, f"volume of {bars.symbol} is missing or not positive, and {option} needs it")
    targets = own_targets(bars, config)
    if needed and targets is not None:
        name, (low, high) = f"{config.benchmark_positions} of {bars.symbol}", config.trading.of_rules.bounds
        bars.refuse(
            np.isnan(targets) & ~outside, f"{name} is missing, and market.benchmark_positions trades at every close"
        )
        beyond = ((targets < low) | (targets > high)) & ~outside
        bars.refuse(beyond, f"{name} lies outside the {low:g} to {high:g} that may be held", targets)


def own_targets(bars: Bars, config: MarketConfig) -> np.ndarray | None:
    """:return: target at each close of the user's own rule, shape (T,); None: the bars have no such column"""
    return None if config.benchmark_positions is None else bars.extra.get(config.benchmark_positions)


def _known(bars: Bars, name: str, config: MarketConfig) -> np.ndarray:
    """A column's numbers, with gaps filled where that is asked; of volume those that have a logarithm."""
    values = column_of(bars, name, "market.features")
    if name == "volume":  # a gap that is filled would be a change of 0, which nobody traded
        return np.where((values > 0) & (values < np.inf), values, np.nan)
    return pd.Series(values).ffill().to_numpy() if config.feature_fill == "forward" else values


def _problem(bars: Bars, name: str, config: MarketConfig, begun: bool) -> str:
    """:param begun: whether the column has a value where it is needed first, or before"""
    if name == "volume":
        problem = "is missing or not positive: its log change needs both days, and no gap of it is filled"
        return f"volume of {bars.symbol} {problem}"
    if config.feature_fill == "forward" or not begun:
        return (
            f"{name} of {bars.symbol} has no value yet: begin the period later, remove the rows before it has one, or "
            "leave it out of market.features"
        )
    return f"{name} of {bars.symbol} is missing: market.feature_fill=forward takes the last value before it"


def described_features(config: MarketConfig) -> str:
    """:return: the features and how they are read, for people; "" if there are none"""
    if not config.features:
        return ""
    names = ", ".join("volume (log change)" if name == "volume" else name for name in config.features)
    lag = f"known {config.feature_lag} bar(s) late" if config.feature_lag else "known at the close of their row"
    return f"{names}; {lag}{'; gaps filled forward' if config.feature_fill else ''}"
