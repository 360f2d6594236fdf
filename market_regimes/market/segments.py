"""The stretches of the markets that are trained on and evaluated: a segment for each symbol in each period."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import get_args

from market_regimes.config import SYNTHETIC, MarketConfig, PeriodName
from market_regimes.market.allocation import check_groups
from market_regimes.market.columns import check_features, check_traded
from market_regimes.market.data import read_bars
from market_regimes.market.features import HISTORY
from market_regimes.market.market import Market, market_of, with_fill
from market_regimes.market.periods import check_periods, period_of, with_periods
from market_regimes.market.segment import Segment, scaling_of
from market_regimes.prices import Bars, check_zones

MIN_SCALED = 20  # bars after the warm-up that scale a symbol's observations, where others are traded beside it


Segments = dict[PeriodName, list[Segment]]


def segments_of(
    config: MarketConfig, periods: Sequence[PeriodName] = get_args(PeriodName), read: Sequence[Bars] | None = None
) -> Segments:
    """
    Each symbol takes part in the periods in which it exists, if the training period has bars of it to scale by.

    :param config: the data
    :param periods: names of periods, the first of which is trained on
    :param read: the bars, where a command has read them already
    :return: one segment for each symbol that has bars in a period, by period
    :raises ValueError: if the data cannot be used, or the periods overlap or run backwards
    """
    if read is None:
        read = read_bars(config)

    # The periods, and whether the data can give all that is stated.
    if set(periods) == set(get_args(PeriodName)):
        config = with_periods(config, read)
    check_periods(config, periods, read)
    _check_stated(config, read)
    check_groups(config.portfolio, [bars.symbol for bars in read])

    # Each symbol takes part where it has bars.
    is_alone = len(read) == 1
    segments: Segments = {name: [] for name in periods}
    for bars in read:
        ranges = [period_of(bars, *config.days(name)) for name in periods]
        training = ranges[0]
        if not is_alone and not is_scaled(training):
            continue

        # One scaling for all its periods.
        market = _market_of_periods(bars, config, ranges)
        scaling = scaling_of(market, training)
        for name, period in zip(periods, ranges, strict=True):
            if is_alone or is_traded(period):
                segments[name].append(Segment(market, period, scaling, training))

    # Each period needs a symbol.
    for name, symbols in segments.items():
        if not symbols:
            days = " to ".join(config.days(name))
            raise ValueError(f"market.{name}: no symbol has enough bars in {days}")
    return segments


def _market_of_periods(bars: Bars, config: MarketConfig, ranges: Sequence[range]) -> Market:
    """The market, whose columns must be complete from the first decision of the periods to their last bar."""
    training = ranges[0]
    first = max(training.start - 1, HISTORY)
    last = max((period.stop - 1 for period in ranges if period), default=0)

    # Every bar is observed; at the last one no order is given.
    check_features(bars, config, range(first, last + 1))
    check_traded(bars, config, range(first, last))
    return market_of(bars, config, training, last)


def _check_stated(config: MarketConfig, read: Sequence[Bars]) -> None:
    """:raises ValueError: if the configuration states a fill or an index that the data cannot give"""
    # A fill at the open needs opening prices.
    closes_only = [bars for bars in read if bars.fill == "close"]
    if config.trading.fill == "next_open" and closes_only:
        raise ValueError(
            f"market.trading.fill=next_open: {closes_only[0].source} has no opening prices of {closes_only[0].symbol}, "
            "so its orders can fill at the close only: set market.trading.fill=close, or leave it out"
        )

    # The index of the synthetic market is never estimated.
    if config.volatility_index == "estimated":
        for bars in read:
            if bars.source in SYNTHETIC:
                raise ValueError(
                    f"market.volatility_index=estimated: the index of {bars.source} is part of its law and not "
                    "estimated: leave market.volatility_index out"
                )


def is_scaled(train: range) -> bool:
    """Whether a symbol, one of several, has enough bars in the training period."""
    scaled = train.stop - max(train.start, HISTORY)
    return scaled >= MIN_SCALED and is_traded(train)


def is_traded(period: range) -> bool:
    """Whether a symbol, one of several, has bars to trade in a period."""
    # The last bar follows the first decision.
    last = period.stop - 1
    first = max(period.start - 1, HISTORY)
    return len(period) >= 2 and last > first


@dataclass(frozen=True)
class Data:
    """
    A command's data, read once.

    :param config: the configuration with all periods, and with the fill that the data decide
    :param read: the bars of every symbol
    :param segments: per period the segments of the symbols that take part
    """

    config: MarketConfig
    read: list[Bars]
    segments: Segments


def read_data(config: MarketConfig) -> Data:
    """
    :param config: the data, with or without periods
    :return: the bars and the segments
    :raises ValueError: in one sentence, if the data cannot be used
    """
    # The bars, in zones that exist.
    config.check_law_of(config.entries)
    read = read_bars(config)
    check_zones(config.zone, read)

    # The segments of all periods.
    config = with_periods(config, read)
    segments = segments_of(config, read=read)

    # The fill that the markets decide.
    markets = [segment.market for segment in segments["train"]]
    trading = with_fill(config.trading, markets)
    return Data(replace(config, trading=trading), read, segments)
