"""
The volatility index of every bar and the regime it stands for.

Where there is no volatility index, that of a bar is estimated from the prices up to that bar: RiskMetrics volatility
(an exponential average of squared log returns, lambda 0.94 a day), annualised, mapped to the VIX by two constants.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

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
        belongs to the regime above it
    :param quantiles: shares of a training period's bars below each bound, R - 1 of them
    :raises ValueError: if the numbers of names, bounds and quantiles do not fit together
    """

    names: tuple[str, ...] = ("calm", "normal", "volatile", "crash")
    bounds: tuple[float, ...] = (15.0, 25.0, 40.0)
    quantiles: tuple[float, ...] = (0.383, 0.898, 0.986)

    def __post_init__(self) -> None:
        if not len(self.bounds) == len(self.quantiles) == len(self.names) - 1:
            raise ValueError(
                f"{len(self.names)} regimes need {len(self.names) - 1} bounds and as many quantiles, got "
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
REGIMES = DEFAULT_REGIMES.names


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
