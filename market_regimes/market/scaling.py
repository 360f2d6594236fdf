"""The scaling of observations: means and standard deviations of training, and the ranges of its observations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

Range = tuple[float, float]


@dataclass(frozen=True)
class FeatureScaling:
    """
    The scaling of one feature over one symbol's training period, in the feature's units.

    :param mean: its mean
    :param std: its standard deviation
    :param seen: smallest and largest value of the training's observations
    """

    mean: float
    std: float
    seen: Range

    @classmethod
    def of(cls, fitted: np.ndarray, observed: np.ndarray) -> FeatureScaling:
        """
        :param fitted: values whose statistics scale the observations
        :param observed: values of the training's observations
        :return: the scaling; the standard deviation is 0, without rounding, where nothing moves
        """
        mean = float(fitted.mean())

        # The rounded standard deviation of equal numbers may not be 0.
        std = 0.0
        if fitted.min() < fitted.max():
            std = float(fitted.std())
        return cls(mean, std, _range(observed))

    def check(self) -> None:
        """:raises ValueError: if its numbers cannot be those of a training period"""
        low, high = self.seen
        is_finite = math.isfinite(self.mean + self.std + low + high)
        if not (low <= high and self.std > 0 and is_finite):
            raise ValueError("a feature's standard deviation is not positive, or its range runs backwards")


@dataclass(frozen=True)
class Scaling:
    """
    The scaling of one symbol's observations, fitted on its training period. JSON holds its numbers exactly: Python
    writes the shortest text that reads back as the same float64.

    :param return_mean: mean of the log returns
    :param return_std: their standard deviation
    :param volatility_mean: mean of the EWMA volatility, in points
    :param volatility_std: its standard deviation
    :param median_volatility: its median
    :param returns: smallest and largest log return of the training's observations
    :param volatility: smallest and largest EWMA volatility of these, in points
    :param index: smallest and largest volatility index of these, in points
    :param features: scaling of each further feature, in the order of the observation
    """

    return_mean: float
    return_std: float
    volatility_mean: float
    volatility_std: float
    median_volatility: float
    returns: Range
    volatility: Range
    index: Range
    features: dict[str, FeatureScaling] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        close: np.ndarray,
        volatility: np.ndarray,
        index: np.ndarray,
        fitted: range,
        observed: range,
        window: int,
        features: Mapping[str, np.ndarray] | None = None,
    ) -> Scaling:
        """
        :param close: closing prices, shape (T,)
        :param volatility: EWMA volatility in points, shape (T,)
        :param index: volatility index in points, shape (T,), NaN where there is none
        :param fitted: bars whose statistics scale the observations
        :param observed: bars at whose close training observes
        :param window: log returns in an observation
        :param features: values by name, shape (T,) each; None: there are none
        :return: the scaling; a standard deviation is 0 where nothing moves
        """
        inside = slice(fitted.start, fitted.stop)
        seen = slice(observed.start, observed.stop)

        # The first observation reaches back over a window of returns.
        first_return = max(observed.start - window + 1, 0)
        returns = log_returns(close)
        seen_returns = returns[first_return : observed.stop]

        # The statistics are those of the fitted bars.
        fitted_returns = returns[inside]
        fitted_volatility = volatility[inside]
        scalings = {}
        for name, values in (features or {}).items():
            scalings[name] = FeatureScaling.of(values[inside], values[seen])

        return cls(
            return_mean=float(fitted_returns.mean()),
            return_std=float(fitted_returns.std()),
            volatility_mean=float(fitted_volatility.mean()),
            volatility_std=float(fitted_volatility.std()),
            median_volatility=float(np.median(fitted_volatility)),
            returns=_range(seen_returns),
            volatility=_range(volatility[seen]),
            index=_range(index[seen]),
            features=scalings,
        )

    @classmethod
    def from_json(cls, content: Any) -> Scaling:
        """
        :param content: the result of ``to_json``
        :return: the scaling
        :raises ValueError: if the content is anything else
        """
        try:
            # Runs of earlier versions have no features.
            features = {}
            for name, entry in content.get("features", {}).items():
                features[name] = FeatureScaling(**_ranges(entry))

            numbers = _ranges(content)
            numbers["features"] = features
            scaling = cls(**numbers)
            scaling.check()
        except (TypeError, AttributeError) as error:
            raise ValueError(str(error)) from error
        return scaling

    def check(self) -> None:
        """:raises ValueError: if its numbers cannot be those of a training period"""
        for feature in self.features.values():
            feature.check()

        # Ranges are finite and run upwards.
        ranges = (self.returns, self.volatility, self.index)
        are_ordered = all(low <= high for low, high in ranges)
        are_finite = math.isfinite(sum(map(sum, ranges)))
        if not are_ordered or not are_finite:
            raise ValueError("a range runs backwards")

        # Moments are finite, and both spreads positive. NaN is not.
        moments = self.return_mean + self.return_std + self.volatility_mean + self.volatility_std
        least_std = min(self.return_std, self.volatility_std)
        if not least_std > 0 or not math.isfinite(moments):
            raise ValueError("a standard deviation is not positive")

    def to_json(self) -> dict[str, Any]:
        """:return: the numbers by name"""
        return asdict(self)


def log_returns(close: np.ndarray) -> np.ndarray:
    """
    :param close: closing prices, shape (T,)
    :return: log returns up to each close, shape (T,); 0 at the first
    """
    log_close = np.log(close)

    # The first is repeated, so that its return is 0.
    returns: np.ndarray = np.diff(log_close, prepend=log_close[0])
    return returns


def _ranges(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content with tuples where JSON has lists."""
    ranges = {}
    for name, value in content.items():
        ranges[name] = value
        if isinstance(value, list):
            ranges[name] = tuple(value)
    return ranges


def _range(values: np.ndarray) -> Range:
    """The smallest and the largest value, without the missing ones."""
    numbers = values[~np.isnan(values)]
    return float(numbers.min()), float(numbers.max())
