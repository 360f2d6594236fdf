"""Folds that walk forward by date: each tests on what follows its training period."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from market_regimes.config import SHIPPED, CompareConfig, MarketConfig, Variants
from market_regimes.market.columns import column_of
from market_regimes.market.data import read_bars
from market_regimes.market.describe import assumed, observed, warnings_of
from market_regimes.market.market import digest
from market_regimes.market.periods import period_of
from market_regimes.market.segments import Segments, segments_of
from market_regimes.prices.bars import Bars
from market_regimes.prices.load import check_zones

MIN_TRAIN_BARS, MIN_TEST_BARS = 252, 60  # of a fold; with fewer its cells are n/a


@dataclass(frozen=True)
class Fold:
    """
    :param label: of the market
    :param name: of the test period
    :param market: with the fold's training and test period
    :param missing: reason for skipping the fold, or None
    :param fingerprint: of the market's data
    :param segments: of both periods; none if it is skipped
    :param said: what was assumed about the market's files, and what may be wrong with them
    """

    label: str
    name: str
    market: MarketConfig
    missing: str | None
    fingerprint: str
    segments: Segments = field(default_factory=dict, compare=False, repr=False)
    said: tuple[str, ...] = ()


def folds_of(compare: CompareConfig, market: MarketConfig, read: Sequence[Bars] | None = None) -> list[Fold]:
    """
    :param compare: how to divide
    :param market: the data
    :param read: the bars, where there is one market and they are read already
    :return: the folds of every market, in time
    :raises ValueError: if a date is none, no test period fits into the data, or the data cannot be used
    """
    markets = [market] if compare.markets is None else [replace(market, data=data) for data in compare.markets]
    return [fold for one in markets for fold in _folds(compare, one, read)]


def _folds(compare: CompareConfig, market: MarketConfig, read: Sequence[Bars] | None) -> Iterator[Fold]:
    """Of one market, whose files are read once."""
    if read is None:
        read = read_bars(market)
        check_zones(market.zone, read)
    label = "+".join(Path(entry).stem for entry in market.entries)
    said = (*assumed(read), *observed(market), *(f"warning: {sentence}" for sentence in warnings_of(read)))
    dates = _test_dates(compare, market)
    for train, test in _periods(compare, dates, read, label):
        fingerprint = " ".join(_digest_until(bars, market, test[1]) for bars in read)
        one = replace(market, train=train, test=test)
        missing = _missing(read, train, "training", MIN_TRAIN_BARS) or _missing(read, test, "test", MIN_TEST_BARS)
        segments = {} if missing else segments_of(one, ("train", "test"), read)
        yield Fold(label, f"{test[0][:7]} to {test[1][:7]}", one, missing, fingerprint, segments, said)


def _digest_until(bars: Bars, market: MarketConfig, day: str) -> str:
    """Over the bars and columns that a fold may use: what is appended later is no obstacle."""
    used = slice(0, period_of(bars, day, day).stop)
    arrays = [bars.dates, bars.open, bars.close, *([] if bars.volatility_index is None else [bars.volatility_index])]
    arrays += [column_of(bars, name, option) for name, option in market.own_columns.items()]
    return digest(bars.symbol, *(array[used] for array in arrays))


@dataclass(frozen=True)
class _TestDates:
    """
    What is stated of the test periods, each with the key that states it.

    :param first: first day, None: half of the data
    :param last: last day, None: that of the data
    """

    first: tuple[str, pd.Timestamp] | None
    last: tuple[str, pd.Timestamp] | None


def _test_dates(compare: CompareConfig, market: MarketConfig) -> _TestDates:
    """The dates that are given for all data, else those of data that ship, where the market is of these alone."""
    ships = all(entry in SHIPPED for entry in market.entries)

    def dated(name: str) -> tuple[str, pd.Timestamp] | None:
        for key in (name, f"shipped_{name}") if ships else (name,):
            day = getattr(compare, key)
            if day is not None:
                return f"compare.{key}", day_of(day, f"compare.{key}")
        return None

    first = dated("first_test")
    last = dated("last_test")
    # Who tests on later days than those of the configuration that ships wants all of them.
    if compare.first_test and not compare.last_test and first and last and first[1] > last[1]:
        last = None
    return _TestDates(first, last)


def _periods(
    compare: CompareConfig, dates: _TestDates, read: Sequence[Bars], label: str
) -> Iterator[tuple[tuple[str, str], tuple[str, str]]]:
    """First and last days of training and test, fold by fold."""
    begin = min(pd.Timestamp(bars.dates[0]) for bars in read).normalize()
    end = max(pd.Timestamp(bars.dates[-1]) for bars in read).normalize()
    middle = (begin + (end - begin) / 2).normalize()
    start = middle if dates.first is None else dates.first[1]
    last = end if dates.last is None else min(end, dates.last[1])
    if not begin < start <= last:
        stated = [f"{key}={day.date()}" for key, day in filter(None, (dates.first, dates.last))]
        raise ValueError(
            f"{' and '.join(stated) or 'half of the data'} leaves no test period of {label}, whose bars run from "
            f"{begin.date()} to {end.date()}"
        )
    while start <= last:
        after = start + pd.DateOffset(years=compare.test_years)
        train = max(begin, start - pd.DateOffset(years=compare.train_years)) if compare.train_years else begin
        yield (
            _day_pair(train, start - pd.Timedelta(days=compare.embargo_days + 1)),
            _day_pair(start, min(after - pd.Timedelta(days=1), last)),
        )
        start = after


def _day_pair(first: pd.Timestamp, last: pd.Timestamp) -> tuple[str, str]:
    return str(first.date()), str(last.date())


def _missing(symbols: Sequence[Bars], days: tuple[str, str], name: str, needed: int) -> str | None:
    """Reason a period is too short, or None."""
    first, after = np.datetime64(days[0], "D"), np.datetime64(days[1], "D") + 1
    bars = max(int(((symbol.dates >= first) & (symbol.dates < after)).sum()) for symbol in symbols)
    return None if bars >= needed else f"its {name} period has {bars} bars, {needed} are needed"


def day_of(text: str, name: str) -> pd.Timestamp:
    try:
        return pd.Timestamp(np.datetime64(text, "D"))
    except ValueError as error:
        raise ValueError(f"{name} must be a day like 2007-01-01, got {text!r}") from error


def why_not(fold: Fold, keys: dict[str, Any]) -> str | None:
    """
    :param fold: a fold
    :param keys: of a variant
    :return: why the variant is not run on it, None: it is
    """
    chosen_before = _chosen_before(keys, fold.market)
    if fold.missing is None and chosen_before is not None and fold.market.days("test")[0] < chosen_before:
        return f"the variant was chosen by what it did before {chosen_before}"
    return fold.missing


def _chosen_before(keys: dict[str, Any], market: MarketConfig) -> str | None:
    """The day until which a variant was chosen by its tests on a market's data, None: it was not."""
    stated = keys.get("chosen_before")
    if not isinstance(stated, dict):
        return None if stated is None else str(stated)
    days = [str(stated[entry]) for entry in market.entries if entry in stated]
    return max(days, default=None)


def check_chosen_before(keys: dict[str, Any], name: str) -> None:
    """
    :param keys: of a variant
    :param name: of the variant
    :raises ValueError: if ``chosen_before`` is neither a day nor a day for each of some data that ship
    """
    stated = keys.get("chosen_before")
    key = f"variants.{name}.chosen_before"
    if not isinstance(stated, dict):
        if stated is not None:
            day_of(str(stated), key)
        return
    for entry, day in stated.items():
        if entry not in SHIPPED:
            raise ValueError(f"{key} names {entry}, and must be a day, or name some of {', '.join(SHIPPED)}")
        day_of(str(day), f"{key}.{entry}")


def chosen_elsewhere(folds: Sequence[Fold], variants: Variants) -> list[str]:
    """
    :param folds: of all markets
    :param variants: as configured
    :return: a sentence for each market and variant that was chosen by tests on other data of the same days: where its
        prices move with theirs, the variant's figures of these days are too good
    """
    sentences = []
    for name, keys in variants.items():
        stated = keys.get("chosen_before")
        if not isinstance(stated, dict):
            continue
        last = max(str(day) for day in stated.values())
        for label in dict.fromkeys(
            fold.label
            for fold in folds
            if fold.missing is None and _chosen_before(keys, fold.market) is None and fold.market.days("test")[0] < last
        ):
            sentences.append(
                f"{name} was chosen by tests on {' and '.join(stated)} before {last}: if {label} moves with them, its "
                "figures of these days are too good"
            )
    return sentences
