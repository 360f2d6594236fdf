"""Periods and folds that walk forward by date: each trains on the past and scores on the days that follow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from market_regimes.config import MarketConfig
from market_regimes.market.columns import column_of
from market_regimes.market.describe import assumed, observed, warnings_of
from market_regimes.market.market import digest
from market_regimes.market.periods import period_of
from market_regimes.market.segments import Segments, segments_of
from market_regimes.prices import Bars

Days = tuple[str, str]  # first and last day, ISO dates
MIN_TRAIN_BARS = 252
MIN_SCORED_BARS = 60


@dataclass(frozen=True)
class WalkForward:
    """
    How the days of a market are divided.

    :param years: length of a period that scores
    :param train_years: length of a training period; None: all years before
    :param embargo_days: days left out between both, so that no return of the one reaches into the other
    """

    years: int
    train_years: int | None
    embargo_days: int

    def periods(
        self,
        begin: pd.Timestamp,
        first: pd.Timestamp,
        last: pd.Timestamp,
    ) -> Iterator[tuple[Days, Days]]:
        """
        :param begin: first day of the data
        :param first: first day that scores
        :param last: last day that scores
        :return: the days of training and those that score, one pair after the other
        """
        start = first
        while start <= last:
            after = start + pd.DateOffset(years=self.years)

            # Training ends before the embargo.
            train_begin = begin
            if self.train_years:
                earliest = start - pd.DateOffset(years=self.train_years)
                train_begin = max(begin, earliest)
            train_end = start - pd.Timedelta(days=self.embargo_days + 1)

            # The last period may be short.
            end = min(after - pd.Timedelta(days=1), last)
            yield _days(train_begin, train_end), _days(start, end)
            start = after


def _days(first: pd.Timestamp, last: pd.Timestamp) -> Days:
    """Two days as ISO dates."""
    return str(first.date()), str(last.date())


def span_of(read: Sequence[Bars]) -> tuple[pd.Timestamp, pd.Timestamp]:
    """
    :param read: the bars of every symbol
    :return: first and last day of all together
    """
    begin = min(pd.Timestamp(bars.dates[0]) for bars in read).normalize()
    end = max(pd.Timestamp(bars.dates[-1]) for bars in read).normalize()
    return begin, end


def middle_of(begin: pd.Timestamp, end: pd.Timestamp) -> pd.Timestamp:
    """
    :param begin: first day
    :param end: last day
    :return: the day halfway between
    """
    return (begin + (end - begin) / 2).normalize()


def day_of(text: str, name: str) -> pd.Timestamp:
    """
    :param text: a day as the user wrote it
    :param name: name of the key that states it
    :return: the day
    :raises ValueError: if it is no day
    """
    try:
        return pd.Timestamp(np.datetime64(text, "D"))
    except ValueError as error:
        raise ValueError(f"{name} must be a day like 2007-01-01, got {text!r}") from error


def shortage(
    read: Sequence[Bars],
    days: Days,
    name: str,
    needed: int,
) -> str | None:
    """
    :param read: the bars of every symbol
    :param days: first and last day of a period
    :param name: name of the period
    :param needed: bars that one symbol at least must have in it
    :return: why the period is too short, None: it is not
    """
    # The symbol with the most bars decides.
    bars = max(len(period_of(symbol, *days)) for symbol in read)
    if bars >= needed:
        return None
    return f"its {name} period has {bars} bars, {needed} are needed"


def digest_until(
    read: Sequence[Bars],
    market: MarketConfig,
    day: str,
) -> str:
    """
    :param read: the bars of every symbol
    :param market: configuration that names the columns that are used
    :param day: the last that is used, ISO date: bars appended later change nothing
    :return: a digest per symbol of the bars and columns up to that day
    """
    digests = []
    for bars in read:
        # Bars, and their index where there is one.
        arrays = [bars.dates, bars.open, bars.close]
        if bars.volatility_index is not None:
            arrays.append(bars.volatility_index)

        # Columns that an option names.
        for name, option in market.own_columns.items():
            arrays.append(column_of(bars, name, option))

        # Bars up to the day.
        stop = period_of(bars, day, day).stop
        used = [array[:stop] for array in arrays]
        digests.append(digest(bars.symbol, *used))
    return " ".join(digests)


@dataclass(frozen=True)
class Fold:
    """
    A training period of a market and the period that scores it.

    :param label: name of the market
    :param name: first and last month of the period that scores
    :param market: configuration with both periods
    :param missing: reason for skipping the fold, None: it is used
    :param fingerprint: digest of the market's data up to the fold's last day
    :param segments: bars of both periods; none if the fold is skipped
    :param notes: what was assumed about the market's files, and what may be wrong with them
    """

    label: str
    name: str
    market: MarketConfig
    missing: str | None
    fingerprint: str
    segments: Segments = field(default_factory=dict, compare=False, repr=False)
    notes: tuple[str, ...] = ()


def fold_of(
    read: Sequence[Bars],
    market: MarketConfig,
    scored_by: Literal["validation", "test"],
) -> Fold:
    """
    :param read: the bars of every symbol
    :param market: configuration of the data with the days of both periods
    :param scored_by: name of the period that scores
    :return: the fold
    """
    train = market.days("train")
    scored = market.days(scored_by)

    # Too few bars in a period.
    missing = shortage(read, train, "training", MIN_TRAIN_BARS)
    missing = missing or shortage(read, scored, scored_by, MIN_SCORED_BARS)
    segments: Segments = {}
    if missing is None:
        segments = segments_of(market, ("train", scored_by), read)

    # What the reader of a report wants to know of the files.
    warnings = [f"warning: {sentence}" for sentence in warnings_of(read)]
    return Fold(
        label=label_of(market),
        name=f"{scored[0][:7]} to {scored[1][:7]}",
        market=market,
        missing=missing,
        fingerprint=digest_until(read, market, scored[1]),
        segments=segments,
        notes=(*assumed(read), *observed(market), *warnings),
    )


def label_of(market: MarketConfig) -> str:
    """
    :param market: configuration of the data
    :return: the names of its entries, without folders and suffixes
    """
    return "+".join(Path(entry).stem for entry in market.entries)
