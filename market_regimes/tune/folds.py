"""Folds of a search. Each trains on the past and validates on the days that follow, all before the test period."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from market_regimes.config import MarketConfig, TuneConfig
from market_regimes.market.data import read_bars
from market_regimes.market.periods import with_periods
from market_regimes.market.walk_forward import Fold, WalkForward, day_of, fold_of, middle_of, span_of
from market_regimes.prices import Bars, bars_before, check_zones


def folds_before_test(tune: TuneConfig, market: MarketConfig) -> list[Fold]:
    """
    Divide bars that end before the test period into folds. Later bars are not available.

    :param tune: settings of the search
    :param market: the data
    :return: folds in order of time
    :raises ValueError: if no fold has enough bars, or the data cannot be used
    """
    market.check_law_of(market.entries)
    read = read_bars(market)
    check_zones(market.zone, read)
    test = with_periods(market, read).days("test")[0]
    read = [bars for bars in (bars_before(bars, test) for bars in read) if len(bars.dates)]
    _check_first_validation(tune, read, test)

    folds = _folds(tune, market, read) if read else []
    if all(fold.missing for fold in folds):
        raise ValueError(f"no fold before the test period, from {test} on, has bars enough to train and to validate on")
    return folds


def _check_first_validation(
    tune: TuneConfig,
    read: Sequence[Bars],
    test: str,
) -> None:
    """Raise unless validation starts after the first bar and before the test period."""
    first = tune.first_validation
    if first is None:
        return
    begin = min((str(bars.dates[0])[:10] for bars in read), default=test)
    if not begin < str(day_of(first, "first_validation").date()) < test:
        raise ValueError(f"first_validation={first} must lie after the first bar, {begin}, and before the test, {test}")


def _folds(
    tune: TuneConfig,
    market: MarketConfig,
    read: Sequence[Bars],
) -> list[Fold]:
    """Divide bars that end before the test period."""
    # Validation starts on the user's date, else halfway.
    begin, end = span_of(read)
    first = middle_of(begin, end)
    if tune.first_validation is not None:
        first = day_of(tune.first_validation, "first_validation")
    division = WalkForward(tune.validation_years, tune.train_years, tune.embargo_days)

    days = division.periods(begin, first, end)
    divided = [replace(market, train=train, validation=validation) for train, validation in days]
    return [fold_of(read, each, scored_by="validation") for each in divided]
