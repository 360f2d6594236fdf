"""What a run keeps of the symbols it was trained on, and other bars as its agent sees them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

import numpy as np

from market_regimes.config import ArgumentError, MarketConfig, PeriodName, TradingCosts
from market_regimes.market.features import check_features, check_traded, first_known
from market_regimes.market.periods import covered_period, date_text
from market_regimes.market.regimes import REGIME_BOUNDS, estimated_index
from market_regimes.market.scaling import Scaling
from market_regimes.market.segments import WINDOW, Market, Segment, Segments, market_of
from market_regimes.prices import BarLength, Bars, bar_length

LOOKED_AT: dict[PeriodName, str] = {  # periods whose days tell nothing new
    "train": "the run was trained on",
    "validation": "its best model was chosen by",
}


@dataclass(frozen=True)
class Trained:
    """
    What a run knows of a symbol it was trained on.

    :param scaling: of its training period
    :param bounds: points of the volatility index at which normal, volatile and crash begin
    :param bars_per_year: of its bars
    :param own_index: whether the volatility index was the data's own, else it was estimated from prices
    :param periods: first and last day of "train" and "validation", ISO dates
    :param last_return_only: as ``Market.last_return_only``; no run before 0.2 has it
    """

    scaling: Scaling
    bounds: tuple[float, ...]
    bars_per_year: float
    own_index: bool
    periods: dict[str, tuple[str, str]]
    last_return_only: bool = False

    @classmethod
    def of(cls, train: Segment, periods: Mapping[str, Segment]) -> Trained:
        """
        :param train: segment of the training period
        :param periods: segments of the symbol by the names of their periods
        """
        market = train.market
        own_index = not np.array_equal(market.index, estimated_index(market.volatility), equal_nan=True)
        days = {name: _days(market, segment.period) for name, segment in periods.items()}
        bounds = tuple(map(float, market.bounds))
        return cls(train.scaling, bounds, market.bars_per_year, own_index, days, market.last_return_only)

    def to_json(self) -> dict[str, Any]:
        """:return: what JSON can hold"""
        return {**vars(self), "scaling": self.scaling.to_json()}

    @classmethod
    def from_json(cls, content: Any) -> Trained:
        """
        :param content: what ``to_json`` gave
        :raises ValueError: if it is anything else
        """
        try:
            scaling, bounds = Scaling.from_json(content["scaling"]), tuple(map(float, content["bounds"]))
            periods = {name: (str(first), str(last)) for name, (first, last) in content["periods"].items()}
            if not all(date.fromisoformat(first) <= date.fromisoformat(last) for first, last in periods.values()):
                raise ValueError("a period runs backwards")
            if len(bounds) != 3 or not float(content["bars_per_year"]) > 0 or type(content["own_index"]) is not bool:
                raise ValueError("bounds, bars_per_year or own_index is none")
            last_return_only = content.get("last_return_only", False)
            if type(last_return_only) is not bool:
                raise ValueError("last_return_only is neither true nor false")
            return cls(
                scaling, bounds, float(content["bars_per_year"]), content["own_index"], periods, last_return_only
            )
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(str(error)) from error


def _days(market: Market, period: range) -> tuple[str, str]:
    first, last = (str(market.dates[bar].astype("M8[D]")) for bar in (period[0], period[-1]))
    return first, last


def trained_on(segments: Segments) -> dict[str, Trained]:
    """
    :param segments: of a run, of its training period at least
    :return: per symbol what the run knows of it
    :raises ValueError: if the prices of a symbol do not move in its training period
    """
    of = {name: {segment.market.symbol: segment for segment in segments.get(name, [])} for name in LOOKED_AT}
    return {
        symbol: Trained.of(train, {name: found[symbol] for name, found in of.items() if symbol in found})
        for symbol, train in of["train"].items()
    }


def counterpart(symbol: str, trained: Mapping[str, Trained], like: str | None) -> str:
    """
    :param symbol: of new bars
    :param trained: what the run knows
    :param like: symbol of the run as which new ones are seen, None: its only one
    :return: the symbol of the run whose scaling and bounds hold for it
    :raises ValueError: if ``like`` is none of the run's symbols, or is needed and not given
    """
    if like is not None and like not in trained:
        raise ArgumentError(
            lambda name: (
                f"{name('like')}={like} is none of the symbols that the run was trained on: {', '.join(trained)}"
            )
        )
    if symbol in trained:
        return symbol
    if like is not None:
        return like
    if len(trained) == 1:
        return next(iter(trained))
    raise ArgumentError(
        lambda name: (
            f"the run was not trained on {symbol}: {name('like')}=SYMBOL says as which of its symbols it is scaled "
            f"({', '.join(trained)})"
        )
    )


def market_seen(bars: Bars, known: Trained, config: MarketConfig, needed: range) -> Market:
    """
    :param bars: of one symbol
    :param known: what the run knows of it, or of the symbol as which it is seen
    :param config: of the run's market
    :param needed: bars that must have a volatility index and the features
    :return: the bars as training would have shown them, with the index and the regimes it would have given them
    :raises ValueError: if their spacing is not the run's, or they lack the index or a feature that the run saw
    """
    if list(known.scaling.features) != config.features:
        raise ValueError(
            f"the run was trained on the features {list(known.scaling.features)}, and its configuration names "
            f"{config.features}"
        )
    if config.bars_per_year is None and not 0.8 < bars.bars_per_year / known.bars_per_year < 1.25:  # counts vary
        raise ValueError(
            f"{bars.source}: {bars.symbol} has {bars.bars_per_year:g} bars per year, and the run was trained on "
            f"{known.bars_per_year:g}"
        )
    if known.own_index and bars.volatility_index is None:
        raise ValueError(f"{bars.source} has no column volatility_index, which the run saw in training")
    check_features(bars, config, needed)
    check_traded(bars, config, needed[:-1])

    # The run's year counts. The account's rows keep their number per bar.
    rows = bars.rows_per_year
    if rows is not None:
        rows *= known.bars_per_year / bars.bars_per_year
    bars = replace(bars, bars_per_year=known.bars_per_year, rows_per_year=rows)
    # The bounds are the run's. Two of them may be equal where they are quantiles; a configuration refuses that.
    index = replace(config, volatility_index="real" if known.own_index else "estimated", regime_bounds=REGIME_BOUNDS)
    market = market_of(bars, index, needed, needed[-1])
    return replace(market, bounds=known.bounds, last_return_only=known.last_return_only)


def segments_seen(
    read: Sequence[Bars],
    trained: Mapping[str, Trained],
    config: MarketConfig,
    like: str | None = None,
    days: tuple[str | None, str | None] = (None, None),
    last_bar: bool = False,
) -> list[Segment]:
    """
    :param read: bars of every symbol
    :param trained: what the run knows
    :param config: of the run's market
    :param like: symbol of the run as which new ones are seen, None: its only one
    :param days: first and last day whose returns are earned, ISO dates, None: all there are
    :param last_bar: whether only the last bar must have a volatility index and the features
    :return: one segment per symbol, in the order of the bars
    :raises ValueError: if the run cannot be used on these bars, or they do not cover the days
    """
    segments = []
    for bars in read:
        known = trained[counterpart(bars.symbol, trained, like)]
        period = range(len(bars.dates))
        if days == (None, None) and not last_bar:  # begin as soon as there is an observation
            period = range(min(first_known(bars, config) + 1, len(bars.dates) - 1), len(bars.dates))
        elif days != (None, None):
            first, last = (str(bars.dates[bar].astype("M8[D]")) for bar in (0, -1))
            period = covered_period(bars, days[0] or first, days[1] or last)
        first_bar = period[-1] if last_bar else min(max(period.start - 1, WINDOW), period[-1])
        market = market_seen(bars, known, config, range(first_bar, period.stop))
        segments.append(Segment(market, period, known.scaling))
    return segments


def said_of(segments: Sequence[Segment], trained: Mapping[str, Trained], like: str | None = None) -> list[str]:
    """:return: a sentence for the symbols that are seen as another one"""
    new: dict[str, list[str]] = {}
    for symbol in (segment.market.symbol for segment in segments):
        if symbol not in trained:
            new.setdefault(counterpart(symbol, trained, like), []).append(symbol)
    return [
        f"the run was not trained on {', '.join(symbols)}: scaled, and split into regimes, as {name}"
        for name, symbols in new.items()
    ]


def without_own_rule(segments: Sequence[Segment], config: MarketConfig) -> list[str]:
    """:return: a sentence for the files that lack the run's ``market.benchmark_positions``"""
    lacking = dict.fromkeys(segment.market.source for segment in segments if segment.market.own_targets is None)
    name = config.benchmark_positions
    return (
        [] if name is None else [f"{source} has no numbers in {name}: the own rule is left out" for source in lacking]
    )


def filled_otherwise(segments: Sequence[Segment], trading: TradingCosts) -> list[str]:
    """:return: a sentence for the files whose orders cannot be filled as the run's are, at the next open"""
    if trading.fill != "next_open":
        return []
    sources = dict.fromkeys(segment.market.source for segment in segments if segment.market.fill == "close")
    return [
        f"{source} has no opening prices: its orders fill at the close, and those of the run at the next open"
        for source in sources
    ]


def already_seen(segments: Sequence[Segment], trained: Mapping[str, Trained]) -> list[str]:
    """
    :param segments: to be evaluated
    :param trained: what the run knows
    :return: a sentence for each period of the run that days of the segments lie in, whatever the symbol
    """
    days = np.unique(np.concatenate([s.market.dates[s.first + 1 : s.last + 1] for s in segments]).astype("M8[D]"))
    length = bar_length(segments[0].market.dates)
    noun = "days" if length.unit == "second" or length == BarLength("day", 1) else f"bars of {length}"
    sentences = []
    for name, words in LOOKED_AT.items():
        spans = [known.periods[name] for known in trained.values() if name in known.periods]
        inside = np.zeros(len(days), dtype=bool)
        for first, last in spans:
            inside |= (np.datetime64(first) <= days) & (days <= np.datetime64(last))
        if inside.any():
            within = days[inside]
            sentences.append(
                f"{inside.sum()} of {len(days)} {noun}, {date_text(within[0])} to {date_text(within[-1])}, lie in the "
                f"period that {words}"
            )
    return sentences or [f"the run was neither trained on nor chosen by any of these {len(days)} {noun}"]
