"""Periods that walk forward by date: each trains on the past and scores on the days that follow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from market_regimes.config import MarketConfig
from market_regimes.market.columns import column_of
from market_regimes.market.market import digest
from market_regimes.market.periods import period_of
from market_regimes.prices import Bars

Days = tuple[str, str]  # first and last day, ISO dates
MIN_TRAIN_BARS = 252
MIN_SCORED_BARS = 60


@dataclass(frozen=True)
class WalkForward:
    """
    How the days of a market are divided.

    :param years: length of a period that scores
    :param train_years: length of a training period; None: all that came before
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
            train_begin = begin
            if self.train_years:
                train_begin = max(begin, start - pd.DateOffset(years=self.train_years))

            train = _days(train_begin, start - pd.Timedelta(days=self.embargo_days + 1))
            scored = _days(start, min(after - pd.Timedelta(days=1), last))
            yield train, scored
            start = after


def _days(first: pd.Timestamp, last: pd.Timestamp) -> Days:
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
    :param name: of the key that states it
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
    :param days: of a period
    :param name: of the period
    :param needed: bars that one symbol at least must have in it
    :return: why the period is too short, None: it is not
    """
    # The symbol with the most bars decides.
    bars = max(len(period_of(symbol, *days)) for symbol in read)
    return None if bars >= needed else f"its {name} period has {bars} bars, {needed} are needed"


def digest_until(
    read: Sequence[Bars],
    market: MarketConfig,
    day: str,
) -> str:
    """
    :param read: the bars of every symbol
    :param market: names the columns that are used
    :param day: the last that is used, ISO date: bars appended later change nothing
    :return: a digest per symbol of the bars and columns up to that day
    """
    digests = []
    for bars in read:
        arrays = [bars.dates, bars.open, bars.close]
        if bars.volatility_index is not None:
            arrays.append(bars.volatility_index)

        # Columns that an option names.
        arrays += [column_of(bars, name, option) for name, option in market.own_columns.items()]

        used = slice(0, period_of(bars, day, day).stop)
        digests.append(digest(bars.symbol, *(array[used] for array in arrays)))
    return " ".join(digests)
