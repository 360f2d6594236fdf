"""Folds that walk forward by date. Each tests on the days after its training period."""

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
    :param compare: settings of the comparison
    :param market: the data
    :param read: bars already read, for a single market
    :return: folds of every market, in order of time
    :raises ValueError: if a date is invalid, no test period fits into the data, or the data cannot be used
    """
    markets = [market]
    if compare.markets is not None:
        markets = [replace(market, data=data) for data in compare.markets]
    market.check_law_of([entry for each in markets for entry in each.entries])

    folds: list[Fold] = []
    for each in markets:
        folds += _folds(compare, each, read)
    return folds


def _folds(compare: CompareConfig, market: MarketConfig, read: Sequence[Bars] | None) -> Iterator[Fold]:
    """Yield the folds of one market, whose files are read once."""
    if read is None:
        read = read_bars(market)
        check_zones(market.zone, read)

    dates = _test_dates(compare, market)
    for train, test in _periods(compare, dates, read, label_of(market)):
        yield fold_of(read, replace(market, train=train, test=test), scored_by="test")


@dataclass(frozen=True)
class _TestDates:
    """
    Stated ends of the test periods, each with its key.

    :param first: first day, None: half of the data
    :param last: last day, None: the last day of the data
    """

    first: tuple[str, pd.Timestamp] | None
    last: tuple[str, pd.Timestamp] | None


def _test_dates(compare: CompareConfig, market: MarketConfig) -> _TestDates:
    """Return the dates for all data, else those for shipped data if the market has no other."""
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

    # A first test after the shipped configuration's last day means that all later days count.
    if compare.first_test and not compare.last_test and first and last and first[1] > last[1]:
        last = None
    return _TestDates(first, last)


def _periods(
    compare: CompareConfig, dates: _TestDates, read: Sequence[Bars], label: str
) -> Iterator[tuple[Days, Days]]:
    """Yield first and last days of training and test, fold by fold."""
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
    :param keys: keys of a variant
    :return: reason why the variant does not run on the fold, None: it runs
    """
    chosen_before = _chosen_before(keys, fold.market)
    if fold.missing is None and chosen_before is not None and fold.market.days("test")[0] < chosen_before:
        return f"the variant was chosen by what it did before {chosen_before}"
    return fold.missing


def _chosen_before(keys: dict[str, Any], market: MarketConfig) -> str | None:
    """Return the day until which tests on a market's data selected a variant, None: no selection."""
    stated = keys.get("chosen_before")
    if stated is None:
        return None
    if not isinstance(stated, dict):
        return str(stated)
    days = [str(stated[entry]) for entry in market.entries if entry in stated]
    return max(days, default=None)


def check_chosen_before(keys: dict[str, Any], name: str) -> None:
    """
    :param keys: keys of a variant
    :param name: name of the variant
    :raises ValueError: if ``chosen_before`` is neither a day nor a day per shipped data set
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
    :param folds: folds of all markets
    :param variants: configured variants
    :return: a warning for each market and variant selected by tests on other data of the same days. Where prices move
        together, the variant's figures for these days are too good
    """
    sentences = []
    for name, keys in variants.items():
        stated = keys.get("chosen_before")
        if not isinstance(stated, dict):
            continue

        # Find markets outside the selection, tested on its days.
        last = max(str(day) for day in stated.values())
        unseen = [fold for fold in folds if fold.missing is None and _chosen_before(keys, fold.market) is None]
        for label in dict.fromkeys(fold.label for fold in unseen if fold.market.days("test")[0] < last):
            sentences.append(
                f"{name} was chosen by tests on {' and '.join(stated)} before {last}: if {label} moves with them, its "
                "figures of these days are too good"
            )
    return sentences
