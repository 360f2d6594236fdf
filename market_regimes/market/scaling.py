"""The numbers by which observations are scaled, and the range that training saw of them."""

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
        std = 0.0
        if fitted.min() < fitted.max():
            std = float(fitted.std())
        return cls(float(fitted.mean()), std, _range(observed))

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
        :param features: by name, shape (T,) each; None: there are none
        :return: the scaling; a standard deviation is 0 where nothing moves
        """
        inside = slice(fitted.start, fitted.stop)
        seen = slice(observed.start, observed.stop)
        first_return = max(observed.start - window + 1, 0)
        returns = log_returns(close)
        by_name = features or {}
        return cls(
            return_mean=float(returns[inside].mean()),
            return_std=float(returns[inside].std()),
            volatility_mean=float(volatility[inside].mean()),
            volatility_std=float(volatility[inside].std()),
            median_volatility=float(np.median(volatility[inside])),
            returns=_range(returns[first_return : observed.stop]),
            volatility=_range(volatility[seen]),
            index=_range(index[seen]),
            features={name: FeatureScaling.of(values[inside], values[seen]) for name, values in by_name.items()},
        )

    @classmethod
    def from_json(cls, content: Any) -> Scaling:
        """
        :param content: what ``to_json`` gave
        :raises ValueError: if it is anything else
        """
        try:
            features = {name: FeatureScaling(**_ranges(entry)) for name, entry in content.get("features", {}).items()}
            scaling = cls(**{**_ranges(content), "features": features})
            scaling.check()
        except (TypeError, AttributeError) as error:
            raise ValueError(str(error)) from error
        return scaling

    def check(self) -> None:
        """:raises ValueError: if its numbers cannot be those of a training period"""
        for feature in self.features.values():
            feature.check()

        ranges = (self.returns, self.volatility, self.index)
        are_ordered = all(low <= high for low, high in ranges)
        if not are_ordered or not math.isfinite(sum(map(sum, ranges))):
            raise ValueError("a range runs backwards")

        moments = self.return_mean + self.return_std + self.volatility_mean + self.volatility_std
        if not min(self.return_std, self.volatility_std) > 0 or not math.isfinite(moments):
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
    returns: np.ndarray = np.diff(log_close, prepend=log_close[0])
    return returns


def _ranges(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content with tuples where JSON has lists."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in content.items()}


def _range(values: np.ndarray) -> Range:
    numbers = values[~np.isnan(values)]
    return float(numbers.min()), float(numbers.max())
