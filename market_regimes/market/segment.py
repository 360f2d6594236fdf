"""A stretch of a market to trade on, and the scaling of its observations by the training period."""

from __future__ import annotations

from dataclasses import dataclass

from market_regimes.market.features import HISTORY, WINDOW, fitted_values
from market_regimes.market.market import Market
from market_regimes.market.periods import date_text
from market_regimes.market.scaling import Scaling


@dataclass(frozen=True)
class Segment:
    """
    A stretch of a market to trade on.

    :param market: the bars
    :param period: bars whose returns may be earned; the first decision falls on the close before them
    :param scaling: scaling of the observations
    :param training: bars of the training period, whatever ``period`` is; None where the bars may lack it
    :raises ValueError: if the period is too short for its history and one step
    """

    market: Market
    period: range
    scaling: Scaling
    training: range | None = None

    def __post_init__(self) -> None:
        if self.first >= self.last:
            raise ValueError(too_few(self.market, self.period))

    @classmethod
    def scaled_by(cls, market: Market, period: range, training: range) -> Segment:
        """
        :param market: the bars
        :param period: bars whose returns may be earned
        :param training: bars of the training period, which scale the observations
        :return: the segment
        :raises ValueError: if a period is too short, or something does not move in the training period
        """
        scaling = scaling_of(market, training)
        return cls(market, period, scaling, training)

    @property
    def first(self) -> int:
        """Bar at whose close the first decision falls."""
        return max(self.period.start - 1, HISTORY)

    @property
    def last(self) -> int:
        """Last bar."""
        return self.period.stop - 1

    @property
    def training_bars(self) -> range | None:
        """Bars of the training period after the warm-up; None where the bars may lack that period."""
        if self.training is None:
            return None
        return after_warm_up(self.training)


def after_warm_up(train: range) -> range:
    """:return: the bars of a training period whose statistics scale the observations"""
    return range(max(train.start, HISTORY), train.stop)


def scaling_of(market: Market, training: range) -> Scaling:
    """
    :param market: the bars
    :param training: bars of the training period
    :return: its scaling
    :raises ValueError: if the period is too short for a spread, or prices or a feature do not move in it
    """
    fitted = after_warm_up(training)
    if len(fitted) < 2:
        raise ValueError(too_few(market, training))

    # The first decision falls on the close before the period, where that has a history.
    first = max(training.start - 1, HISTORY)
    observed = range(first, training.stop)
    scaling = Scaling.of(
        market.close,
        market.volatility,
        market.index,
        fitted,
        observed,
        WINDOW,
        features=fitted_values(market),
    )

    # Prices and features that do not move cannot be scaled.
    still = [name for name, feature in scaling.features.items() if not feature.std > 0]
    if not min(scaling.return_std, scaling.volatility_std) > 0:
        still.insert(0, "close")
    if still:
        begin = date_text(market.dates[fitted[0]])
        end = date_text(market.dates[fitted[-1]])
        raise ValueError(
            f"{market.source}: {still[0]} of {market.symbol} does not move from {begin} to {end}, and nothing can "
            "be learned from it"
        )
    return scaling


def too_few(market: Market, period: range) -> str:
    """The message on a period that is too short."""
    return (
        f"the period's {len(period)} bars of {market.symbol} are too few: {HISTORY} returns are "
        "needed before the first decision and one bar after it"
    )
