"""Trading rules to compare an agent with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from market_regimes.market.env import Known
from market_regimes.market.segments import Segment

Decision = Callable[[Known], np.ndarray]  # what is known at a close -> one target position per agent


def buy_and_hold(known: Known) -> np.ndarray:
    """The trading rule that holds position 1 throughout."""
    return np.ones(len(known.bar))


def volatility_targeting(segments: Sequence[Segment]) -> Decision:
    """
    :param segments: what is traded
    :return: the trading rule that holds as much of a symbol as brings its EWMA volatility to its median in training
    """
    wanted = np.array([segment.scaling.median_volatility for segment in segments])
    return lambda known: wanted[known.symbol] / np.maximum(known.volatility, 1e-9)
