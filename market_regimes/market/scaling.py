"""The numbers by which observations are scaled, and the range that training saw of them."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

Range = tuple[float, float]


@dataclass(frozen=True)
class Scaling:
    """
    Of one symbol's training period. JSON holds its numbers exactly: Python writes the shortest text that reads back as
    the same float64.

    :param return_mean: mean of the log returns
    :param return_std: their standard deviation
    :param volatility_mean: mean of the EWMA volatility, in points
    :param volatility_std: its standard deviation
    :param median_volatility: its median
    :param returns: smallest and largest log return of the training's observations
    :param volatility: smallest and largest EWMA volatility of these, in points
    :param index: smallest and largest volatility index of these, in points
    """

    return_mean: float
    return_std: float
    volatility_mean: float
    volatility_std: float
    median_volatility: float
    returns: Range
    volatility: Range
    index: Range

    @classmethod
    def of(
        cls,
        close: np.ndarray,
        volatility: np.ndarray,
        index: np.ndarray,
        known: range,
        observed: range,
        window: int,
    ) -> Scaling:
        """
        :param close: closing prices, shape (T,)
        :param volatility: EWMA volatility in points, shape (T,)
        :param index: volatility index in points, shape (T,), NaN where there is none
        :param known: bars whose statistics scale the observations
        :param observed: bars at whose close training observes
        :param window: log returns in an observation
        :return: the scaling; a standard deviation is 0 where nothing moves
        """
        inside, seen = slice(known.start, known.stop), slice(observed.start, observed.stop)
        returns = log_returns(close)
        return cls(
            return_mean=float(returns[inside].mean()),
            return_std=float(returns[inside].std()),
            volatility_mean=float(volatility[inside].mean()),
            volatility_std=float(volatility[inside].std()),
            median_volatility=float(np.median(volatility[inside])),
            returns=_range(returns[max(observed.start - window + 1, 0) : observed.stop]),
            volatility=_range(volatility[seen]),
            index=_range(index[seen]),
        )

    @classmethod
    def from_json(cls, content: Any) -> Scaling:
        """
        :param content: what ``to_json`` gave
        :raises ValueError: if it is anything else
        """
        try:
            numbers: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
            scaling = cls(**numbers)
            ranges = (scaling.returns, scaling.volatility, scaling.index)
            if not all(low <= high for low, high in ranges) or not math.isfinite(sum(map(sum, ranges))):
                raise ValueError("a range runs backwards")
            if not min(scaling.return_std, scaling.volatility_std) > 0 or not math.isfinite(
                scaling.return_mean + scaling.return_std + scaling.volatility_mean + scaling.volatility_std
            ):
                raise ValueError("a standard deviation is not positive")
        except (TypeError, AttributeError) as error:
            raise ValueError(str(error)) from error
        return scaling

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


def _range(values: np.ndarray) -> Range:
    known = values[~np.isnan(values)]
    return float(known.min()), float(known.max())
