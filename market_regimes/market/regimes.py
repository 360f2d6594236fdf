"""
The volatility index of every bar and the regime it stands for.

Where there is no volatility index, that of a bar is estimated from the prices up to that bar: RiskMetrics volatility
(an exponential average of squared log returns, lambda 0.94 a day), annualised, mapped to the VIX by two constants.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from market_regimes.config import MarketConfig
from market_regimes.prices import DAYS_PER_YEAR

RISKMETRICS_LAMBDA = 0.94  # RiskMetrics Technical Document, J.P. Morgan 1996, for daily data
FORGOTTEN = 1e-4  # weight of all earlier returns together, below which they no longer count
WARM_UP = 20  # returns without which a bar has no volatility

# Least squares of the VIX on the EWMA volatility of the S&P 500, 2014-2018, correlation 0.83. Frozen: fitting them
# again on a user's data would let labels depend on the future.
VIX_INTERCEPT = 6.517
VIX_SLOPE = 0.7027

NO_REGIME = -1  # of a bar of the warm-up
MIN_REGIME_DAYS = 20  # figures on fewer bars are reported as n/a


@dataclass(frozen=True)
class Regimes:
    """
    The regimes of a market, from the calmest to the wildest.

    The default bounds are those of the VIX. Other symbols take the bounds from their training period, since 25 points
    are a storm for an index and a calm week for a single stock. The default quantiles are the shares of the S&P 500's
    days below the default bounds, 1999-2018.

    :param names: R of them
    :param bounds: points of the volatility index at which each regime but the first begins, R - 1 of them; a bound
        belongs to the regime above it; empty before they are fitted
    :param quantiles: shares of a training period's bars below each bound, R - 1 of them; empty where bounds are stated
    :raises ValueError: if the numbers of names, bounds and quantiles do not fit together
    """

    names: tuple[str, ...] = ("calm", "normal", "volatile", "crash")
    bounds: tuple[float, ...] = (15.0, 25.0, 40.0)
    quantiles: tuple[float, ...] = (0.383, 0.898, 0.986)

    def __post_init__(self) -> None:
        number = len(self.names) - 1
        if not {len(self.bounds), len(self.quantiles)} <= {0, number}:
            raise ValueError(
                f"{len(self.names)} regimes need {number} bounds and as many quantiles, got "
                f"{len(self.bounds)} and {len(self.quantiles)}"
            )

    def labels(self, index: np.ndarray) -> np.ndarray:
        """
        :param index: volatility index in points, shape (T,), NaN where there is none
        :return: position in ``names`` for every bar, shape (T,); ``NO_REGIME`` where there is no index
        """
        return np.where(np.isnan(index), NO_REGIME, np.digitize(index, self.bounds))

    def fitted(self, index: np.ndarray, period: range) -> Regimes:
        """
        :param index: volatility index in points, shape (T,), NaN where there is none
        :param period: bars of a training period, one of which at least has an index
        :return: the same regimes, with the bounds below which ``quantiles`` of the period's bars lie
        """
        inside = index[period.start : period.stop]
        bounds = np.quantile(inside[~np.isnan(inside)], self.quantiles)
        return replace(self, bounds=tuple(bounds))


DEFAULT_REGIMES = Regimes()


def regimes_of(config: MarketConfig) -> Regimes:
    """
    :param config: of a market
    :return: the regimes that it names, with the bounds that it states or those of the VIX; without bounds where they
        follow from a training period
    """
    # Names alone leave bounds and quantiles as they are.
    names = DEFAULT_REGIMES.names if config.regimes is None else tuple(config.regimes)
    regimes = Regimes(names, (), ())
    if len(names) == len(DEFAULT_REGIMES.names):
        regimes = replace(DEFAULT_REGIMES, names=names)

    # What is stated takes their place.
    if config.regime_bounds is not None:
        return replace(regimes, bounds=tuple(config.regime_bounds))
    if config.regime_quantiles is not None:
        return replace(regimes, bounds=(), quantiles=tuple(config.regime_quantiles))
    return regimes


def groups_of(names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """
    :param names: of the regimes, from the calmest to the wildest
    :return: positions of the regimes of each group that a comparison looks at: every regime, the calmest as ``calm``,
        the wildest as ``crash``, and those above the middle as ``stormy``, which more folds have enough days of
    """
    number = len(names)
    groups: dict[str, tuple[int, ...]] = {name: (position,) for position, name in enumerate(names)}
    groups["calm"] = (0,)
    groups["crash"] = (number - 1,)
    groups["stormy"] = tuple(range(math.ceil(number / 2), number))
    return groups


def ewma_volatility(close: np.ndarray, bars_per_year: float = DAYS_PER_YEAR) -> np.ndarray:
    """
    RiskMetrics volatility. Its memory is the same number of days whatever the bars. The weights of past returns are
    normalised, so that none weighs more for being the first: after n returns the first k have the share
    (lambda^(n-k) - lambda^n) / (1 - lambda^n).

    :param close: closing prices, shape (T,)
    :param bars_per_year: bars in a year of trading
    :return: annualised volatility in points (per cent) at each close, shape (T,); NaN before ``WARM_UP`` returns
    """
    squared = pd.Series(np.diff(np.log(close), prepend=np.nan) ** 2)
    average = squared.ewm(alpha=1 - decay_of(bars_per_year), min_periods=WARM_UP)
    variance = average.mean().to_numpy()

    points: np.ndarray = 100.0 * np.sqrt(bars_per_year * variance)
    return points


def decay_of(bars_per_year: float) -> float:
    """:return: factor by which the weight of a return falls from bar to bar"""
    return float(RISKMETRICS_LAMBDA ** (DAYS_PER_YEAR / bars_per_year))


def memory_of(bars_per_year: float) -> int:
    """:return: bars after which ``ewma_volatility`` has forgotten all but ``FORGOTTEN`` of the returns before them"""
    return math.ceil(math.log(FORGOTTEN) / math.log(decay_of(bars_per_year)))


def estimated_index(volatility: np.ndarray) -> np.ndarray:
    """
    :param volatility: EWMA volatility in points, shape (T,)
    :return: estimate of the VIX in points, shape (T,)
    """
    return VIX_INTERCEPT + VIX_SLOPE * volatility
