"""
The observation of an agent at a close.

An observation holds the last ``WINDOW`` log returns, the numbers of ``FEATURES``, the user's columns, and the position,
in this order. All are scaled by one symbol's training period.

Add a feature: add one row to ``FEATURES``, here and nowhere else. The momentum of 60 bars, for instance:

    def momentum(market: Market) -> np.ndarray:
        growth = np.full(len(market.close), np.nan)
        growth[60:] = np.log(market.close[60:] / market.close[:-60])
        return growth

    Feature("momentum_60", "log growth", "momentum", momentum, history=60)

``Market`` has the arrays it may read: at each bar those up to that bar. The size of the observation, the training's
mean and standard deviation, the first bar of an episode, the layout of ``export`` and the warnings of ``signal`` follow
from the table. Runs that were trained on another table are refused with a sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from market_regimes.market.market import Market
from market_regimes.market.regimes import WARM_UP
from market_regimes.market.scaling import FeatureScaling, Scaling

WINDOW = 20  # log returns in an observation
INDEX_SCALE = 20.0  # points of the volatility index that make 1 in an observation: about its long-run mean


@dataclass(frozen=True)
class Feature:
    """
    One number of an observation.

    :param name: name in the layout of ``export``; of a user's column its name in the file
    :param unit: unit before scaling
    :param label: name for people
    :param values: its value at each close of a market, before scaling, shape (T,)
    :param scaled_by: its mean, standard deviation and range in a run's scaling; None: its entry in ``Scaling.features``
    :param history: bars before the first at which it has a value
    :param is_column: whether it is a user's column, which ``Market.last_return_only`` does not hide
    :param digits: format of its value for people
    :param suffix: unit of its value for people
    """

    name: str
    unit: str
    label: str
    values: Callable[[Market], np.ndarray]
    scaled_by: Callable[[Scaling], FeatureScaling] | None = None
    history: int = 0
    is_column: bool = False
    digits: str = ".6g"
    suffix: str = ""

    @property
    def layout_name(self) -> str:
        """Its name in the layout of ``export``."""
        if self.is_column:
            return f"feature_{self.name}"
        return self.name

    def scaling(self, scaling: Scaling) -> FeatureScaling:
        """:return: its part of a symbol's scaling"""
        if self.scaled_by is None:
            return scaling.features[self.name]
        return self.scaled_by(scaling)


FEATURES = (
    Feature(
        "ewma_volatility",
        "points",
        "EWMA volatility",
        lambda market: market.volatility,
        lambda scaling: FeatureScaling(scaling.volatility_mean, scaling.volatility_std, scaling.volatility),
        history=WARM_UP,
        digits=".2f",
        suffix=" points",
    ),
    Feature(
        "volatility_index",
        "points",
        "volatility index",
        lambda market: market.index,
        lambda scaling: FeatureScaling(0.0, INDEX_SCALE, scaling.index),
        history=WARM_UP,
        digits=".2f",
        suffix=" points",
    ),
)
# Bars before the first at which there is an observation.
HISTORY = max(WINDOW, *(feature.history for feature in FEATURES))
# Where the past is hidden: earlier returns, volatility and index, and the position, in which a policy would remember.
HIDDEN = [*range(WINDOW - 1), *range(WINDOW, WINDOW + len(FEATURES)), -1]


def features_of(columns: Iterable[str]) -> list[Feature]:
    """
    :param columns: names of the user's columns, as ``market.features`` has them
    :return: the features of an observation, in its order
    :raises ValueError: if a column has the name of another feature
    """
    # A column must not have the name of a feature in a run's scaling.
    names = {feature.name for feature in FEATURES if feature.scaled_by is None}

    features = list(FEATURES)
    for column in columns:
        if column in names:
            raise ValueError(f"market.features names {column}, which every observation has: rename the column")
        features.append(_feature_of_column(column))
    return features


def _feature_of_column(column: str) -> Feature:
    """The feature of a user's column. Volume enters by its growth."""
    unit = "as in the file"
    if column == "volume":
        unit = "log growth"
    return Feature(
        column,
        unit,
        f"feature {column}",
        lambda market: market.features[column],
        is_column=True,
    )


def fitted_values(market: Market) -> dict[str, np.ndarray]:
    """:return: by name the values of the features that ``Scaling.features`` scales, in their order, shape (T,) each"""
    values = {}
    for feature in features_of(market.features):
        if feature.scaled_by is None:
            values[feature.name] = feature.values(market)
    return values


def fitted_names(columns: Iterable[str]) -> list[str]:
    """
    :param columns: names of the user's columns
    :return: the names in ``Scaling.features`` of a run that observes them
    """
    return [feature.name for feature in features_of(columns) if feature.scaled_by is None]


def columns_of(scaling: Scaling) -> list[str]:
    """:return: names of the user's columns that a scaling scales"""
    of_every_run = fitted_names([])
    return [name for name in scaling.features if name not in of_every_run]


def observation_size(columns: int = 0) -> int:
    """
    :param columns: number of the user's columns
    :return: numbers in an observation: log returns, features, the user's columns, position
    """
    return WINDOW + len(FEATURES) + columns + 1


def layout_of_scaling(
    scaling: Scaling, bounds: tuple[float, float], last_return_only: bool
) -> Mapping[str, dict[str, object] | None]:
    """
    :param scaling: scaling of one symbol
    :param bounds: least and largest position that may be held
    :param last_return_only: the value of ``Market.last_return_only``
    :return: by the names of ``layout`` the mean, the standard deviation and the range that training saw; None where the
        observation holds 0
    """
    # Returns of one scaling: the last one, and those that may be hidden.
    returns = FeatureScaling(scaling.return_mean, scaling.return_std, scaling.returns)
    entries = {
        "log_return": returns,
        "earlier_log_return": returns,
    }
    hidden = {"earlier_log_return", "position"}

    # Features, of which the user's columns are never hidden.
    for feature in features_of(columns_of(scaling)):
        entries[feature.layout_name] = feature.scaling(scaling)
        if not feature.is_column:
            hidden.add(feature.layout_name)
    entries["position"] = FeatureScaling(0.0, 1.0, bounds)

    by_name: dict[str, dict[str, object] | None] = {}
    for name, entry in entries.items():
        if last_return_only and name in hidden:
            by_name[name] = None
            continue
        by_name[name] = {
            "mean": entry.mean,
            "std": entry.std,
            "trained": entry.seen,
        }
    return by_name


def layout(columns: Iterable[str]) -> list[dict[str, str]]:
    """
    :param columns: names of the user's columns
    :return: the numbers of an observation, in its order: ``name``, ``unit`` before scaling, and ``scaled_by``, their
        entry in ``layout_of_scaling``
    """
    # Returns, the last of which is never hidden.
    numbers = []
    for ago in range(WINDOW - 1, -1, -1):
        name = f"log_return_{ago}_bars_ago"
        numbers.append(_number(name, "log growth", "earlier_log_return"))
    numbers[-1]["scaled_by"] = "log_return"

    # Features, then the position.
    for feature in features_of(columns):
        name = feature.layout_name
        numbers.append(_number(name, feature.unit, name))
    numbers.append(_number("position", "share of equity", "position"))
    return numbers


def _number(name: str, unit: str, scaled_by: str) -> dict[str, str]:
    """One number of the layout."""
    return {
        "name": name,
        "unit": unit,
        "scaled_by": scaled_by,
    }
