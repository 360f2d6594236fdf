"""The stretches of the markets that are trained on and evaluated: a segment for each symbol in each period."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import get_args

from market_regimes.config import SYNTHETIC, MarketConfig, PeriodName
from market_regimes.market.columns import check_features, check_traded
from market_regimes.market.data import read_bars
from market_regimes.market.features import HISTORY, WINDOW, fitted_values
from market_regimes.market.market import Market, market_of, with_fill
from market_regimes.market.periods import check_periods, date_text, period_of, with_periods
from market_regimes.market.scaling import Scaling
from market_regimes.prices import Bars, check_zones

MIN_SCALED = 20  # bars after the warm-up that scale a symbol's observations, where others are traded beside it


@dataclass(frozen=True)
class Segment:
    """
    A stretch of a market to trade on.

    :param market: the bars
    :param period: bars whose returns may be earned; the first decision falls on the close before them
    :param scaling: by which the observations are scaled
    :param training: bars of the training period, whatever ``period`` is; None where the bars may lack it
    :raises ValueError: if the period is too short for its history and one step
    """

    market: Market
    period: range
    scaling: Scaling
    training: range | None = None

    def __post_init__(self) -> None:
        if self.first >= self.last:
            raise ValueError(_too_few(self.market, self.period))

    @classmethod
    def scaled_by(cls, market: Market, period: range, training: range) -> Segment:
        """
        :param market: the bars
        :param period: bars whose returns may be earned
        :param training: bars of the training period, which scale the observations
        :return: the segment
        :raises ValueError: if a period is too short, or something does not move in the training period
        """
        return cls(market, period, scaling_of(market, training), training)

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
        return None if self.training is None else after_warm_up(self.training)


Segments = dict[PeriodName, list[Segment]]


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
        raise ValueError(_too_few(market, training))
    observed = range(max(training.start - 1, HISTORY), training.stop)
    scaling = Scaling.of(
        market.close, market.volatility, market.index, fitted, observed, WINDOW, features=fitted_values(market)
    )

    # What does not move cannot be scaled.
    still = [name for name, feature in scaling.features.items() if not feature.std > 0]
    if not min(scaling.return_std, scaling.volatility_std) > 0:
        still.insert(0, "close")
    if still:
        first = date_text(market.dates[fitted[0]])
        last = date_text(market.dates[fitted[-1]])
        raise ValueError(
            f"{market.source}: {still[0]} of {market.symbol} does not move from {first} to {last}, and nothing can "
            "be learned from it"
        )
    return scaling


def _too_few(market: Market, period: range) -> str:
    return (
        f"the period's {len(period)} bars of {market.symbol} are too few: {HISTORY} returns are "
        "needed before the first decision and one bar after it"
    )


def segments_of(
    config: MarketConfig, periods: Sequence[PeriodName] = get_args(PeriodName), read: Sequence[Bars] | None = None
) -> Segments:
    """
    Each symbol takes part in the periods in which it exists, if the training period has bars of it to scale by.

    :param config: the data
    :param periods: which of its periods, the first of which is trained on
    :param read: the bars, where a command has read them already
    :return: per period one segment for each symbol that has bars in it
    :raises ValueError: if the data cannot be used, or the periods overlap or run backwards
    """
    read = read_bars(config) if read is None else read
    if set(periods) == set(get_args(PeriodName)):
        config = with_periods(config, read)
    check_periods(config, periods, read)
    _check_stated(config, read)

    segments: Segments = {name: [] for name in periods}
    for bars in read:
        ranges = [period_of(bars, *config.days(name)) for name in periods]
        training = ranges[0]
        is_alone = len(read) == 1
        if not is_alone and not is_scaled(training):
            continue

        market = _market_of_periods(bars, config, ranges)
        scaling = scaling_of(market, training)
        for name, period in zip(periods, ranges, strict=True):
            if is_alone or is_traded(period):
                segments[name].append(Segment(market, period, scaling, training))

    for name, symbols in segments.items():
        if not symbols:
            raise ValueError(f"market.{name}: no symbol has enough bars in {' to '.join(config.days(name))}")
    return segments


def _market_of_periods(bars: Bars, config: MarketConfig, ranges: Sequence[range]) -> Market:
    """The market, whose columns must be complete from the first decision of the periods to their last bar."""
    last = max((period.stop - 1 for period in ranges if period), default=0)
    first = max(ranges[0].start - 1, HISTORY)
    check_features(bars, config, range(first, last + 1))
    check_traded(bars, config, range(first, last))
    return market_of(bars, config, ranges[0], last)


def _check_stated(config: MarketConfig, read: Sequence[Bars]) -> None:
    """:raises ValueError: if the configuration states a fill or an index that the data cannot give"""
    closes_only = [bars for bars in read if bars.fill == "close"]
    if config.trading.fill == "next_open" and closes_only:
        raise ValueError(
            f"market.trading.fill=next_open: {closes_only[0].source} has no opening prices of {closes_only[0].symbol}, "
            "so its orders can fill at the close only: set market.trading.fill=close, or leave it out"
        )
    if config.volatility_index == "estimated":
        for bars in read:
            if bars.source in SYNTHETIC:
                raise ValueError(
                    f"market.volatility_index=estimated: the index of {bars.source} is part of its law and not "
                    "estimated: leave market.volatility_index out"
                )


def is_scaled(train: range) -> bool:
    """Whether a symbol, one of several, has enough bars in the training period."""
    return train.stop - max(train.start, HISTORY) >= MIN_SCALED and is_traded(train)


def is_traded(period: range) -> bool:
    """Whether a symbol, one of several, has bars to trade in a period."""
    return len(period) >= 2 and period.stop - 1 > max(period.start - 1, HISTORY)


@dataclass(frozen=True)
class Data:
    """
    A command's data, read once.

    :param config: with all periods, and with the fill that the data decide
    :param read: the bars of every symbol
    :param segments: per period those of the symbols that take part
    """

    config: MarketConfig
    read: list[Bars]
    segments: Segments


def read_data(config: MarketConfig) -> Data:
    """
    :param config: the data, with or without periods
    :return: what is traded
    :raises ValueError: in one sentence, if the data cannot be used
    """
    read = read_bars(config)
    check_zones(config.zone, read)
    config = with_periods(config, read)
    segments = segments_of(config, read=read)

    markets = [segment.market for segment in segments["train"]]
    trading = with_fill(config.trading, markets)
    return Data(replace(config, trading=trading), read, segments)
