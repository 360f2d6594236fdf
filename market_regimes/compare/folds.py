"""Folds that walk forward by date: each tests on what follows its training period."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from market_regimes.config import SHIPPED, CompareConfig, MarketConfig, Variants
from market_regimes.market.data import read_bars
from market_regimes.market.walk_forward import Days, Fold, WalkForward, day_of, fold_of, label_of, middle_of, span_of
from market_regimes.prices import Bars, check_zones


def folds_of(compare: CompareConfig, market: MarketConfig, read: Sequence[Bars] | None = None) -> list[Fold]:
    """
    :param compare: how to divide
    :param market: the data
    :param read: the bars, where there is one market and they are read already
    :return: the folds of every market, in time
    :raises ValueError: if a date is none, no test period fits into the data, or the data cannot be used
    """
    markets = [market]
    if compare.markets is not None:
        markets = [replace(market, data=data) for data in compare.markets]

    folds: list[Fold] = []
    for each in markets:
        folds += _folds(compare, each, read)
    return folds


def _folds(compare: CompareConfig, market: MarketConfig, read: Sequence[Bars] | None) -> Iterator[Fold]:
    """Of one market, whose files are read once."""
    if read is None:
        read = read_bars(market)
        check_zones(market.zone, read)

    dates = _test_dates(compare, market)
    for train, test in _periods(compare, dates, read, label_of(market)):
        yield fold_of(read, replace(market, train=train, test=test), scored_by="test")


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

    def stated(name: str) -> tuple[str, pd.Timestamp] | None:
        keys = (name, f"shipped_{name}") if ships else (name,)
        for key in keys:
            day = getattr(compare, key)
            if day is not None:
                return f"compare.{key}", day_of(day, f"compare.{key}")
        return None

    first = stated("first_test")
    last = stated("last_test")

    # Who tests on later days than those of the configuration that ships wants all of them.
    if compare.first_test and not compare.last_test and first and last and first[1] > last[1]:
        last = None
    return _TestDates(first, last)


def _periods(
    compare: CompareConfig, dates: _TestDates, read: Sequence[Bars], label: str
) -> Iterator[tuple[Days, Days]]:
    """First and last days of training and test, fold by fold."""
    begin, end = span_of(read)
    middle = middle_of(begin, end)
    start = middle if dates.first is None else dates.first[1]
    last = end if dates.last is None else min(end, dates.last[1])
    if not begin < start <= last:
        stated = [f"{key}={day.date()}" for key, day in filter(None, (dates.first, dates.last))]
        raise ValueError(
            f"{' and '.join(stated) or 'half of the data'} leaves no test period of {label}, whose bars run from "
            f"{begin.date()} to {end.date()}"
        )

    yield from WalkForward(compare.test_years, compare.train_years, compare.embargo_days).periods(begin, start, last)


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
    if stated is None:
        return None
    if not isinstance(stated, dict):
        return str(stated)
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

        # Markets that the choice did not see, tested on days that it did.
        last = max(str(day) for day in stated.values())
        unseen = [fold for fold in folds if fold.missing is None and _chosen_before(keys, fold.market) is None]
        for label in dict.fromkeys(fold.label for fold in unseen if fold.market.days("test")[0] < last):
            sentences.append(
                f"{name} was chosen by tests on {' and '.join(stated)} before {last}: if {label} moves with them, its "
                "figures of these days are too good"
            )
    return sentences
