"""Columns that are used beside prices: the user's features and targets, the volume; where they may not be missing."""

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
    columns = dict(bars.extra)
    if bars.volume is not None:
        columns["volume"] = bars.volume

    if name not in columns:
        has = ", ".join(columns) or "none beside prices"
        raise ValueError(f"{bars.source}: {bars.symbol} has no column {name}, which {option} names: it has {has}")
    return columns[name]


def feature_columns(bars: Bars, config: MarketConfig) -> dict[str, np.ndarray]:
    """
    :param bars: of one symbol
    :param config: names the features, their lag, and the filling of gaps
    :return: per feature its value at each close, as late as the lag says, NaN where there is none yet, shape (T,)
    :raises ValueError: if the bars lack one
    """
    columns = {}
    for name in config.features:
        values = _filled(bars, name, config)
        if name == "volume":
            values = np.diff(np.log(values), prepend=np.nan)
        columns[name] = _lagged(values, config.feature_lag)
    return columns


def _lagged(values: np.ndarray, lag: int) -> np.ndarray:
    """The values of ``lag`` bars before, NaN where there is no such bar, shape (T,)."""
    count = len(values)
    missing = np.full(min(lag, count), np.nan)
    return np.concatenate([missing, values[: max(count - lag, 0)]])


def first_complete(bars: Bars, config: MarketConfig) -> int:
    """
    :param bars: of one symbol
    :param config: names the features, their lag, and the filling of gaps
    :return: first bar at whose close all features have a value; one after the last bar, if there is none
    """
    incomplete = np.zeros(len(bars.close) + 1, dtype=bool)
    for values in feature_columns(bars, config).values():
        incomplete[:-1] |= np.isnan(values)
    return int(np.argmin(incomplete))


def check_features(bars: Bars, config: MarketConfig, needed: range) -> None:
    """
    :param bars: of one symbol
    :param config: names the features, their lag, and the filling of gaps
    :param needed: bars at whose close the features are observed or scale observations
    :raises ValueError: with row and date, if a feature has no value there
    """
    for name in config.features:
        # A log change needs the bar before, too.
        first = needed.start - config.feature_lag
        if name == "volume":
            first -= 1
        if first < 0:
            raise ValueError(
                f"{bars.source}: {name}, {config.feature_lag} bars late, is not known of {bars.symbol} on "
                f"{date_text(bars.dates[needed.start])}, as the bars begin on {date_text(bars.dates[0])}: begin the "
                "period later, or lower market.feature_lag"
            )

        missing = np.isnan(_filled(bars, name, config))
        has_begun = not missing[: first + 1].all()

        # Gaps outside the needed bars do not count.
        missing[:first] = False
        missing[needed.stop - config.feature_lag :] = False
        bars.refuse(missing, _problem(bars, name, config, has_begun))


def check_traded(bars: Bars, config: MarketConfig, needed: range) -> None:
    """
    :param bars: of one symbol
    :param config: what trading costs, what may be held, and the user's own rule
    :param needed: bars at whose close orders are given
    :raises ValueError: with row and date, if the impact of an order needs a volume that is not there, or the user's
        rule has no target or one that may not be held
    """
    if not needed:
        return
    inside = np.zeros(len(bars.close), dtype=bool)
    inside[needed.start : needed.stop] = True
    if config.trading.impact_coefficient:
        _check_volume(bars, inside)
    targets = benchmark_targets(bars, config)
    if targets is not None:
        _check_targets(bars, config, targets, inside)


def _check_volume(bars: Bars, inside: np.ndarray) -> None:
    option = "market.trading.impact_coefficient"
    volume = column_of(bars, "volume", option)
    is_usable = (volume > 0) & (volume < np.inf)
    problem = f"volume of {bars.symbol} is missing or not positive, and {option} needs it"
    bars.refuse(~is_usable & inside, problem)


def _check_targets(bars: Bars, config: MarketConfig, targets: np.ndarray, inside: np.ndarray) -> None:
    name = f"{config.benchmark_positions} of {bars.symbol}"
    low, high = config.trading.of_rules.bounds
    problem = f"{name} is missing, and market.benchmark_positions trades at every close"
    bars.refuse(np.isnan(targets) & inside, problem)

    beyond = (targets < low) | (targets > high)
    problem = f"{name} lies outside the {low:g} to {high:g} that may be held"
    bars.refuse(beyond & inside, problem, targets)


def benchmark_targets(bars: Bars, config: MarketConfig) -> np.ndarray | None:
    """:return: target at each close of the user's own rule, shape (T,); None: the bars have no such column"""
    if config.benchmark_positions is None:
        return None
    return bars.extra.get(config.benchmark_positions)


def _filled(bars: Bars, name: str, config: MarketConfig) -> np.ndarray:
    """A column's numbers, its gaps filled on request; of volume the numbers that have a logarithm. Shape (T,)."""
    values = column_of(bars, name, "market.features")
    if name == "volume":  # a gap that is filled would be a change of 0, which nobody traded
        return np.where((values > 0) & (values < np.inf), values, np.nan)
    if config.feature_fill == "forward":
        filled: np.ndarray = pd.Series(values).ffill().to_numpy()
        return filled
    return values


def _problem(bars: Bars, name: str, config: MarketConfig, has_begun: bool) -> str:
    """:param has_begun: whether the column has a value at the first needed bar, or before"""
    if name == "volume":
        problem = "is missing or not positive: its log change needs both days, and no gap of it is filled"
        return f"volume of {bars.symbol} {problem}"
    if config.feature_fill == "forward" or not has_begun:
        return (
            f"{name} of {bars.symbol} has no value yet: begin the period later, remove the rows before it has one, or "
            "leave it out of market.features"
        )
    return f"{name} of {bars.symbol} is missing: market.feature_fill=forward takes the last value before it"


def described_features(config: MarketConfig) -> str:
    """:return: the features and how they are read, for people; "" if there are none"""
    if not config.features:
        return ""

    shown = ["volume (log change)" if name == "volume" else name for name in config.features]
    text = f"{', '.join(shown)}; known at the close of their row"
    if config.feature_lag:
        text = f"{', '.join(shown)}; known {config.feature_lag} bar(s) late"
    if config.feature_fill:
        text += "; gaps filled forward"
    return text
