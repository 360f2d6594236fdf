"""
What an agent observes at a close.

An observation holds the last ``WINDOW`` log returns, the numbers of ``FEATURES``, the user's columns, and the position,
in this order. All are scaled by one symbol's training period.

Add a feature: add one row to ``FEATURES``, here and nowhere else. The momentum of 60 bars, for instance:

    Feature("momentum_60", "log growth", "momentum", lambda market: _momentum(market.close, 60), history=60)

``Market`` has the arrays it may read: at each bar those up to that bar. The size of the observation, the training's
mean and standard deviation, the first bar of an episode, the layout of ``export`` and the warnings of ``signal`` follow
from the table. Runs that were trained on another table are refused with a sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from market_regimes.market.market import Market
from market_regimes.market.regimes import WARM_UP
from market_regimes.market.scaling import FeatureScaling, Scaling, log_returns

WINDOW = 20  # log returns in an observation
INDEX_SCALE = 20.0  # points of the volatility index that make 1 in an observation: about its long-run mean


@dataclass(frozen=True)
class Feature:
    """
    One number of an observation.

    :param name: in the layout of ``export``; of a user's column its name in the file
    :param unit: before scaling
    :param label: for people
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
        return f"feature_{self.name}" if self.is_column else self.name

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
# Without earlier returns, volatility and index, and without the position, in which a policy would learn to remember.
HIDDEN = [*range(WINDOW - 1), *range(WINDOW, WINDOW + len(FEATURES)), -1]


def features_of(columns: Iterable[str]) -> list[Feature]:
    """
    :param columns: names of the user's columns, as ``market.features`` has them
    :return: the features of an observation, in its order
    :raises ValueError: if a column has the name of another feature
    """
    names = {feature.name for feature in FEATURES if feature.scaled_by is None}
    features = list(FEATURES)
    for column in columns:
        if column in names:
            raise ValueError(f"market.features names {column}, which every observation has: rename the column")
        features.append(_feature_of_column(column))
    return features


def _feature_of_column(column: str) -> Feature:
    unit = "log growth" if column == "volume" else "as in the file"
    return Feature(column, unit, f"feature {column}", lambda market: market.features[column], is_column=True)


def fitted_values(market: Market) -> dict[str, np.ndarray]:
    """:return: by name the values of the features that ``Scaling.features`` scales, in their order, shape (T,) each"""
    features = features_of(market.features)
    return {feature.name: feature.values(market) for feature in features if feature.scaled_by is None}


def fitted_names(columns: Iterable[str]) -> list[str]:
    """
    :param columns: names of the user's columns
    :return: the names in ``Scaling.features`` of a run that observes them
    """
    return [feature.name for feature in features_of(columns) if feature.scaled_by is None]


def columns_of(scaling: Scaling) -> list[str]:
    """:return: names of the user's columns that a scaling scales"""
    others = fitted_names([])
    return [name for name in scaling.features if name not in others]


def observation_size(columns: int = 0) -> int:
    """
    :param columns: number of the user's columns
    :return: numbers in an observation: log returns, features, the user's columns, position
    """
    return WINDOW + len(FEATURES) + columns + 1


class Observations:
    """
    The observations of several markets, whose bars stand one after the other.

    :param markets: with the same user's columns
    :param scalings: of each
    """

    def __init__(self, markets: Sequence[Market], scalings: Sequence[Scaling]):
        pairs = list(zip(markets, scalings, strict=True))
        returns = np.concatenate([_scaled_returns(market, scaling) for market, scaling in pairs])
        padded = np.concatenate([np.zeros(WINDOW - 1, dtype=np.float32), returns])  # so that window t ends at bar t
        self._windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)
        self._features = np.concatenate([_scaled_features(market, scaling) for market, scaling in pairs])
        self._size = observation_size(len(markets[0].features))

        # The markets whose past an agent must remember.
        hidden = [np.full(len(market.close), market.last_return_only) for market in markets]
        self._is_hidden = np.concatenate(hidden)
        self._any_hidden = bool(self._is_hidden.any())

    def at(self, bars: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """
        :param bars: of n agents, counted over all markets, shape (n,)
        :param positions: shares of equity that are invested, shape (n,)
        :return: float32, shape (n, ``observation_size``); where the market is ``last_return_only``, 0 for all but that
            return and the user's columns
        """
        observations = np.empty((len(bars), self._size), dtype=np.float32)
        observations[:, :WINDOW] = self._windows[bars]
        observations[:, WINDOW:-1] = self._features.take(bars, axis=0)
        observations[:, -1] = positions
        if self._any_hidden:
            agents = np.flatnonzero(self._is_hidden[bars])
            observations[agents[:, None], HIDDEN] = 0
        return observations


def _scaled_returns(market: Market, scaling: Scaling) -> np.ndarray:
    """Scaled log returns, float32, shape (T,)."""
    returns = (log_returns(market.close) - scaling.return_mean) / scaling.return_std
    return returns.astype(np.float32)


def _scaled_features(market: Market, scaling: Scaling) -> np.ndarray:
    """The F scaled features, float32, shape (T, F)."""
    columns = []
    for feature in features_of(market.features):
        of_training = feature.scaling(scaling)
        columns.append((feature.values(market) - of_training.mean) / of_training.std)
    return np.stack(columns, axis=1).astype(np.float32)


def layout_of_scaling(
    scaling: Scaling, bounds: tuple[float, float], last_return_only: bool
) -> Mapping[str, dict[str, object] | None]:
    """
    :param scaling: of a symbol
    :param bounds: least and largest position that may be held
    :param last_return_only: as ``Market.last_return_only``
    :return: by the names of ``layout``, which entry scales: mean, standard deviation and the range that training saw;
        None where the observation holds 0
    """
    returns = FeatureScaling(scaling.return_mean, scaling.return_std, scaling.returns)
    entries: dict[str, FeatureScaling | None] = {"log_return": returns, "earlier_log_return": returns}
    hidden = ["earlier_log_return", "position"]
    for feature in features_of(columns_of(scaling)):
        entries[feature.layout_name] = feature.scaling(scaling)
        if not feature.is_column:
            hidden.append(feature.layout_name)
    entries["position"] = FeatureScaling(0.0, 1.0, bounds)

    if last_return_only:
        entries |= dict.fromkeys(hidden)
    return {
        name: None if entry is None else {"mean": entry.mean, "std": entry.std, "trained": entry.seen}
        for name, entry in entries.items()
    }


def layout(columns: Iterable[str]) -> list[dict[str, str]]:
    """
    :param columns: names of the user's columns
    :return: of each number of an observation its ``name``, its ``unit`` before scaling, and ``scaled_by``, its entry in
        ``layout_of_scaling``
    """
    returns = [f"log_return_{ago}_bars_ago" for ago in range(WINDOW - 1, -1, -1)]
    numbers = [{"name": name, "unit": "log growth", "scaled_by": "earlier_log_return"} for name in returns]
    numbers[-1]["scaled_by"] = "log_return"
    for feature in features_of(columns):
        name = feature.layout_name
        numbers.append({"name": name, "unit": feature.unit, "scaled_by": name})
    numbers.append({"name": "position", "unit": "share of equity", "scaled_by": "position"})
    return numbers
