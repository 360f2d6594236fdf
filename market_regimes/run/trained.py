"""What a run keeps of the symbols it was trained on, and other bars as its agent observes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

import numpy as np

from market_regimes.config import ArgumentError, MarketConfig, PeriodName, TradingCosts
from market_regimes.market.columns import check_features, check_traded, first_complete
from market_regimes.market.features import HISTORY, fitted_names
from market_regimes.market.market import Market, market_of
from market_regimes.market.periods import covered_period, date_text
from market_regimes.market.regimes import DEFAULT_REGIMES, Regimes, estimated_index
from market_regimes.market.scaling import Scaling
from market_regimes.market.segment import Segment
from market_regimes.market.segments import Segments
from market_regimes.prices import BarLength, Bars, bar_length

USED_PERIODS: dict[PeriodName, str] = {  # periods whose days tell nothing new
    "train": "the run was trained on",
    "validation": "its best model was chosen by",
}
YEAR_RATIOS = (0.8, 1.25)  # of bars per year to the run's, between which counts vary


@dataclass(frozen=True)
class Trained:
    """
    What a run knows of a symbol it was trained on.

    :param scaling: of its training period
    :param bounds: points of the volatility index at which each regime but the first begins
    :param bars_per_year: of its bars
    :param own_index: whether the volatility index was the data's own, else it was estimated from prices
    :param periods: first and last day of "train" and "validation", ISO dates
    :param last_return_only: as ``Market.last_return_only``; no run before 0.2 has it
    :param regimes: names of the regimes; those of runs without the key are the default's
    """

    scaling: Scaling
    bounds: tuple[float, ...]
    bars_per_year: float
    own_index: bool
    periods: dict[str, tuple[str, str]]
    last_return_only: bool = False
    regimes: tuple[str, ...] = DEFAULT_REGIMES.names

    @classmethod
    def of(cls, train: Segment, periods: Mapping[str, Segment]) -> Trained:
        """
        :param train: segment of the training period
        :param periods: segments of the symbol by the names of their periods
        """
        market = train.market
        is_estimated = np.array_equal(market.index, estimated_index(market.volatility), equal_nan=True)
        return cls(
            train.scaling,
            tuple(map(float, market.regimes.bounds)),
            market.bars_per_year,
            not is_estimated,
            {name: _days(market, segment.period) for name, segment in periods.items()},
            market.last_return_only,
            market.regimes.names,
        )

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
            trained = cls(
                Scaling.from_json(content["scaling"]),
                tuple(map(float, content["bounds"])),
                float(content["bars_per_year"]),
                content["own_index"],
                {name: (str(first), str(last)) for name, (first, last) in content["periods"].items()},
                content.get("last_return_only", False),
                tuple(map(str, content.get("regimes", DEFAULT_REGIMES.names))),
            )
            trained.check()
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(str(error)) from error
        return trained

    def check(self) -> None:
        """:raises ValueError: if it cannot be of a run"""
        for first, last in self.periods.values():
            if date.fromisoformat(first) > date.fromisoformat(last):
                raise ValueError("a period runs backwards")
        has_bounds = len(self.bounds) == len(self.regimes) - 1
        if not has_bounds or not self.bars_per_year > 0 or type(self.own_index) is not bool:
            raise ValueError("bounds, bars_per_year or own_index is missing or invalid")
        if type(self.last_return_only) is not bool:
            raise ValueError("last_return_only is neither true nor false")


def _days(market: Market, period: range) -> tuple[str, str]:
    first = market.dates[period[0]].astype("M8[D]")
    last = market.dates[period[-1]].astype("M8[D]")
    return str(first), str(last)


def trained_on(segments: Segments) -> dict[str, Trained]:
    """
    :param segments: of a run, of its training period at least
    :return: per symbol what the run knows of it
    :raises ValueError: if the prices of a symbol do not move in its training period
    """
    by_period: dict[str, dict[str, Segment]] = {}
    for name in USED_PERIODS:
        by_period[name] = {segment.market.symbol: segment for segment in segments.get(name, [])}

    trained = {}
    for symbol, train in by_period["train"].items():
        periods = {name: symbols[symbol] for name, symbols in by_period.items() if symbol in symbols}
        trained[symbol] = Trained.of(train, periods)
    return trained


def counterpart(symbol: str, trained: Mapping[str, Trained], like: str | None) -> str:
    """
    :param symbol: of new bars
    :param trained: what the run knows
    :param like: symbol of the run whose scaling new ones take, None: its only one
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


def market_as_trained(bars: Bars, trained: Trained, config: MarketConfig, needed: range) -> Market:
    """
    :param bars: of one symbol
    :param trained: what the run knows of it, or of the symbol whose scaling it takes
    :param config: of the run's market
    :param needed: bars that must have a volatility index and the features
    :return: the bars as training would have shown them, with the index and the regimes it would have given them
    :raises ValueError: if their spacing is not the run's, or they lack the index or a feature of the run
    """
    _check_like_training(bars, trained, config)
    check_features(bars, config, needed)
    check_traded(bars, config, needed[:-1])

    # The run's year counts. The account's rows keep their number per bar.
    rows = bars.rows_per_year
    if rows is not None:
        rows *= trained.bars_per_year / bars.bars_per_year
    bars = replace(bars, bars_per_year=trained.bars_per_year, rows_per_year=rows)

    # The regimes are the run's, set below; the bars need no quantiles of their own.
    as_trained = replace(
        config,
        volatility_index="real" if trained.own_index else "estimated",
        regimes=None,
        regime_bounds=DEFAULT_REGIMES.bounds,
        regime_quantiles=None,
    )
    market = market_of(bars, as_trained, needed, needed[-1])
    regimes = Regimes(trained.regimes, trained.bounds, ())
    return replace(market, regimes=regimes, last_return_only=trained.last_return_only)


def _check_like_training(bars: Bars, trained: Trained, config: MarketConfig) -> None:
    names = fitted_names(config.features)
    if list(trained.scaling.features) != names:
        raise ValueError(
            f"the run was trained on the features {list(trained.scaling.features)}, and its configuration names {names}"
        )
    least, most = YEAR_RATIOS
    if config.bars_per_year is None and not least < bars.bars_per_year / trained.bars_per_year < most:
        raise ValueError(
            f"{bars.source}: {bars.symbol} has {bars.bars_per_year:g} bars per year, and the run was trained on "
            f"{trained.bars_per_year:g}"
        )
    if trained.own_index and bars.volatility_index is None:
        raise ValueError(f"{bars.source} has no column volatility_index, which the run saw in training")


def segments_as_trained(
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
    :param like: symbol of the run whose scaling new ones take, None: its only one
    :param days: first and last day whose returns are earned, ISO dates, None: all there are
    :param last_bar: whether only the last bar must have a volatility index and the features
    :return: one segment per symbol, in the order of the bars
    :raises ValueError: if the run cannot be used on these bars, or they do not cover the days
    """
    segments = []
    for bars in read:
        of_symbol = trained[counterpart(bars.symbol, trained, like)]
        period = _period(bars, config, days, last_bar)
        first = period[-1] if last_bar else min(max(period.start - 1, HISTORY), period[-1])
        market = market_as_trained(bars, of_symbol, config, range(first, period.stop))
        segments.append(Segment(market, period, of_symbol.scaling))
    return segments


def _period(bars: Bars, config: MarketConfig, days: tuple[str | None, str | None], last_bar: bool) -> range:
    """Positions of the bars whose returns are earned."""
    count = len(bars.dates)
    if days != (None, None):
        first = days[0] or str(bars.dates[0].astype("M8[D]"))
        last = days[1] or str(bars.dates[-1].astype("M8[D]"))
        return covered_period(bars, first, last)
    if last_bar:
        return range(count)

    # Without days it begins as soon as there is an observation.
    return range(min(first_complete(bars, config) + 1, count - 1), count)


def notes_on_counterparts(
    segments: Sequence[Segment], trained: Mapping[str, Trained], like: str | None = None
) -> list[str]:
    """:return: a sentence for the symbols that take the scaling of another one"""
    new: dict[str, list[str]] = {}
    for symbol in (segment.market.symbol for segment in segments):
        if symbol not in trained:
            new.setdefault(counterpart(symbol, trained, like), []).append(symbol)
    return [
        f"the run was not trained on {', '.join(symbols)}: scaled, and split into regimes, as {name}"
        for name, symbols in new.items()
    ]


def notes_on_missing_targets(segments: Sequence[Segment], config: MarketConfig) -> list[str]:
    """:return: a sentence for the files that lack the run's ``market.benchmark_positions``"""
    name = config.benchmark_positions
    if name is None:
        return []
    markets = [segment.market for segment in segments]
    lacking = dict.fromkeys(market.source for market in markets if market.benchmark_targets is None)
    return [f"{source} has no numbers in {name}: the own rule is left out" for source in lacking]


def filled_otherwise(segments: Sequence[Segment], trading: TradingCosts) -> list[str]:
    """:return: a sentence for the files whose orders cannot be filled as the run's are, at the next open"""
    if trading.fill != "next_open":
        return []
    sources = dict.fromkeys(segment.market.source for segment in segments if segment.market.fill == "close")
    return [
        f"{source} has no opening prices: its orders fill at the close, and those of the run at the next open"
        for source in sources
    ]


def notes_on_training_days(segments: Sequence[Segment], trained: Mapping[str, Trained]) -> list[str]:
    """
    :param segments: to be evaluated
    :param trained: what the run knows
    :return: a sentence for each period of the run that days of the segments lie in, whatever the symbol
    """
    earned = [segment.market.dates[segment.first + 1 : segment.last + 1] for segment in segments]
    days = np.unique(np.concatenate(earned).astype("M8[D]"))
    length = bar_length(segments[0].market.dates)
    is_daily = length.unit == "second" or length == BarLength("day", 1)
    noun = "days" if is_daily else f"bars of {length}"

    sentences = []
    for name, words in USED_PERIODS.items():
        inside = np.zeros(len(days), dtype=bool)
        for of_symbol in trained.values():
            if name in of_symbol.periods:
                first, last = of_symbol.periods[name]
                inside |= (np.datetime64(first) <= days) & (days <= np.datetime64(last))
        if inside.any():
            within = days[inside]
            sentences.append(
                f"{inside.sum()} of {len(days)} {noun}, {date_text(within[0])} to {date_text(within[-1])}, lie in the "
                f"period that {words}"
            )
    return sentences or [f"the run was neither trained on nor chosen by any of these {len(days)} {noun}"]
