"""From the bars of a symbol to what is traded: its regimes, its periods, and the stretches between their days."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pandas as pd

from market_regimes.config import SHIPPED, SYNTHETIC, MarketConfig, PeriodName
from market_regimes.market.features import (
    check_features,
    check_traded,
    column_of,
    own_targets,
    seen_features,
)
from market_regimes.market.periods import check_periods, date_text, period_of, with_periods
from market_regimes.market.regimes import (
    REGIME_BOUNDS,
    WARM_UP,
    bounds_in,
    estimated_index,
    ewma_volatility,
    regimes,
)
from market_regimes.market.scaling import Scaling
from market_regimes.market.shipped import shipped
from market_regimes.prices import (
    DAYS_PER_YEAR,
    SUFFIXES,
    BarLength,
    Bars,
    Calendar,
    ReadOptions,
    bar_length,
    bars_per_year,
    is_readable,
    read_prices,
)

WINDOW = 20  # log returns in an observation, and no fewer than the warm-up has
MIN_SCALED = 20  # bars after the warm-up that scale a symbol's observations, where others are traded beside it
ALIKE = 0.05  # share by which symbols of one run may differ in bars per year; they get the median
KEEPS_BOUNDS = {"sp500", *SYNTHETIC}  # data for which REGIME_BOUNDS hold
LAST_RETURN_ONLY = {"synthetic_hidden"}  # data whose past an agent must remember
JUMP = 2.0  # factor between two closes from which a user is told
SPLITS = (2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 10.0, 12.0, 15.0, 20.0, 25.0, 30.0, 40.0, 50.0, 100.0)  # shares for one
SPLIT_STDS = 4.0  # usual moves by which a ratio may differ from that of a split
ROBUST_STD, LEAST_STD = 1.4826, 0.005  # std over median of absolute normal moves; least std of a bar
NO_ZONE = "no zone is stated: bars of several files meet by their clocks; market.zone states it"
GAP_DAYS = 20  # days without a bar from which a user is told


@dataclass(frozen=True)
class Market:
    """
    T bars of one symbol with the regime of each. The arrays, of shape (T,), are not to be written to.

    :param symbol: name for tables and pictures
    :param source: where the bars come from, for error messages
    :param dates: times of the bars, datetime64[s], increasing
    :param open: opening prices
    :param close: closing prices
    :param volatility: EWMA volatility up to the bar's close, annualised, in points, NaN in the warm-up
    :param index: volatility index at the bar's close, in points; NaN: the bar has no regime
    :param bars_per_year: what annualises figures and accrues interest
    :param bounds: points of the index at which normal, volatile and crash begin
    :param fill: "close" where there are no opening prices to fill at
    :param last_return_only: whether 0 stands in observations in place of earlier returns, of the volatility, of the
        index and of the position
    :param features: what is known at each close of the columns that enter observations, by name, in their order
    :param volume: traded in each bar, where costs depend on it; else None
    :param own_targets: target at each close of the user's own strategy; None: there is none
    :param instants: ``dates`` in UTC, datetime64[s]; equal to them where no zone of known offset is stated
    :param rows_per_year: what annualises figures of an account that holds all symbols of the run; None: as many as bars
    :param zone: of ``dates``, as ``Bars.zone``
    """

    symbol: str
    source: str
    dates: np.ndarray
    open: np.ndarray
    close: np.ndarray
    volatility: np.ndarray
    index: np.ndarray
    bars_per_year: float = DAYS_PER_YEAR
    bounds: tuple[float, ...] = REGIME_BOUNDS
    fill: Literal["open", "close"] = "open"
    last_return_only: bool = False
    features: dict[str, np.ndarray] = field(default_factory=dict)
    volume: np.ndarray | None = None
    own_targets: np.ndarray | None = None
    instants: np.ndarray = None  # type: ignore[assignment]  # set below
    rows_per_year: float | None = None
    zone: str | None = None

    def __post_init__(self) -> None:
        if self.instants is None:
            object.__setattr__(self, "instants", self.dates)

    @property
    def account_rows_per_year(self) -> float:
        """What annualises figures of the account that holds all symbols."""
        return self.bars_per_year if self.rows_per_year is None else self.rows_per_year

    @cached_property
    def regime(self) -> np.ndarray:
        """Position in ``REGIMES`` of every bar's regime."""
        return regimes(self.index, self.bounds)

    def fingerprint(self, last: int | None = None) -> dict[str, str]:
        """
        :param last: last bar that is used, None: of all
        :return: per month a digest over dates, prices, index and the features and volume that are used
        """
        last = len(self.dates) - 1 if last is None else last
        months = self.dates[: last + 1].astype("M8[M]")
        starts = np.flatnonzero(np.diff(months.astype(int), prepend=-(10**6)))
        arrays = (self.dates, self.open, self.close, self.index, *self.features.values())
        arrays += () if self.volume is None else (self.volume,)
        return {
            str(months[start]): digest("", *(array[start:stop] for array in arrays))[:16]
            for start, stop in zip(starts, [*starts[1:], last + 1], strict=True)
        }


def digest(symbol: str, *arrays: np.ndarray) -> str:
    """SHA-256 over a symbol and its arrays."""
    found = hashlib.sha256(symbol.encode())
    for array in arrays:
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


@dataclass(frozen=True)
class Segment:
    """
    A stretch of a market to trade on.

    :param market: the bars
    :param period: bars whose returns may be earned; the first decision falls on the close before them
    :param scale_on: the training period, whatever ``period`` is; or its scaling, where the bars may lack that period
    :raises ValueError: if the period is too short for its window and one step, or ``scale_on`` for a spread
    """

    market: Market
    period: range
    scale_on: range | Scaling

    def __post_init__(self) -> None:
        without_spread = isinstance(self.scale_on, range) and len(_known(self.scale_on)) < 2
        if self.first >= self.last or without_spread:
            raise ValueError(_too_few(self.market, self.period))

    @property
    def first(self) -> int:
        """Bar at whose close the first decision falls."""
        return max(self.period.start - 1, WINDOW)

    @cached_property
    def scaling(self) -> Scaling:
        """
        By which the observations are scaled.

        :raises ValueError: if the prices do not move over ``scale_on``
        """
        if isinstance(self.scale_on, Scaling):
            return self.scale_on
        market, known = self.market, _known(self.scale_on)
        observed = range(max(self.scale_on.start - 1, WINDOW), self.scale_on.stop)
        scaling = Scaling.of(
            market.close, market.volatility, market.index, known, observed, WINDOW, features=market.features
        )
        still = [] if min(scaling.return_std, scaling.volatility_std) > 0 else ["close"]
        still += [name for name, feature in scaling.features.items() if not feature.std > 0]
        if still:
            first, last = (date_text(market.dates[bar]) for bar in (known[0], known[-1]))
            raise ValueError(
                f"{market.source}: {still[0]} of {market.symbol} does not move from {first} to {last}, and nothing can "
                "be learned from it"
            )
        return scaling

    @property
    def known(self) -> range | None:
        """Bars of the training period after the warm-up; None where the bars may lack that period."""
        return _known(self.scale_on) if isinstance(self.scale_on, range) else None

    @property
    def last(self) -> int:
        """Last bar."""
        return self.period.stop - 1


def _known(train: range) -> range:
    """Bars of a training period whose statistics scale the observations: those after the warm-up."""
    return range(max(train.start, WARM_UP), train.stop)


def _too_few(bars: Bars | Market, period: range) -> str:
    return (
        f"the period's {len(period)} bars of {bars.symbol} are too few: {WINDOW} returns are "
        "needed before the first decision and one bar after it"
    )


Segments = dict[PeriodName, list[Segment]]


def read_bars(config: MarketConfig) -> list[Bars]:
    """
    :param config: the data
    :return: the bars of every symbol, of shipped data first, all with the same number of bars per year
    :raises ValueError: in one sentence with file, rows and dates, if the data cannot be used
    """
    paths = [Path(entry).expanduser() for entry in config.entries if entry not in SHIPPED]
    for path in paths:
        if not path.is_dir() and not is_readable(path):
            raise ValueError(
                f"market.data: {path} is none of {', '.join(SHIPPED)}, nor a file that ends in {', '.join(SUFFIXES)}, "
                "nor a folder of such files"
            )
    known = [entry for entry in config.entries if entry in SHIPPED]
    found = [bars for entry in known for bars in shipped(entry, config.volatility_index)]
    options = ReadOptions(
        config.columns,
        config.date_format,
        config.decimal,
        config.own_columns,
        config.closes,
        config.side,
        config.zone,
        config.off_grid,
    )
    found += read_prices([str(path) for path in paths], options)
    twice = [symbol for symbol, count in Counter(bars.symbol for bars in found).items() if count > 1]
    if twice:
        raise ValueError(f"the symbol {twice[0]} is twice in market.data")
    for name, option in config.own_columns.items():
        for bars in found:
            column_of(bars, name, option)
    return in_one_account(found, config.bars_per_year)


def in_one_account(found: list[Bars], stated: float | None) -> list[Bars]:
    """
    :param found: bars of every symbol
    :param stated: bars per year, None: those of the bars
    :return: the same with one number of bars per year, and the rows per year of the account that holds them all
    :raises ValueError: if no account can hold them: bars of different lengths, unknown zones, or unlike years
    """
    _check_lengths(found)
    found = _with_notes_on_zones(found)
    return _with_one_year(found, stated)


def _with_notes_on_zones(found: list[Bars]) -> list[Bars]:
    """
    Bars of several symbols meet by instants where they are shorter than a day, so all must have them or none.

    :return: the same bars, with a note where several files state no zone
    :raises ValueError: if the offset of one symbol's zone is known and that of another is not
    """
    short = [bars for bars in found if bar_length(bars.dates).unit == "second"]
    known = next((bars for bars in short if bars.has_instants), None)
    for bars in short:
        if known is not None and not bars.has_instants:
            stated = "no time zone" if bars.zone is None else f"{bars.zone}, whose offset is unknown,"
            raise ValueError(
                f"{bars.source} states {stated} for {bars.symbol}, and {known.source} states {known.zone}: bars "
                "shorter than a day meet by instants; set market.zone, like America/New_York, for files without one"
            )
    unknown = list(dict.fromkeys(bars.zone for bars in short if not bars.has_instants))
    if len(unknown) > 1:
        names = " and ".join("none" if zone is None else zone for zone in unknown[:2])
        raise ValueError(
            f"{short[0].source} and others state the zones {names}, whose offsets are unknown: bars shorter than a day "
            "meet by instants; set market.zone, as {FILE: America/New_York, OTHER: -05:00}"
        )
    if not unknown or len({bars.source for bars in short}) == 1:
        return found
    noted = {bars.symbol: replace(bars, notes=bars.notes.and_assumed(NO_ZONE)) for bars in short}
    return [noted.get(bars.symbol, bars) for bars in found]


def _check_lengths(found: Sequence[Bars]) -> None:
    """:raises ValueError: if two symbols have bars of different lengths, which no row of one account can hold"""
    lengths = [(bars, bar_length(bars.dates)) for bars in found]
    for bars, length in lengths[1:]:
        first, usual = lengths[0]
        if length != usual:
            raise ValueError(
                f"{first.symbol} ({first.source}) has bars of {usual} and {bars.symbol} ({bars.source}) of {length}: "
                "one run needs bars of one length. List one of them in market.data, or bring the files to one length"
            )


def _with_one_year(found: list[Bars], stated: float | None) -> list[Bars]:
    """
    The symbols with the number of bars per year that is stated, or that of all of them; and with the rows per year of
    the account that holds them all, which is larger where each lacks other days.
    """
    counts = sorted(bars.bars_per_year for bars in found)
    if stated is None and counts[-1] > counts[0] * (1 + ALIKE):
        least, most = (next(b for b in found if b.bars_per_year == count) for count in (counts[0], counts[-1]))
        rows = _rows_per_year(found)
        symbols = "both" if len(found) == 2 else f"all {len(found)}"
        raise ValueError(
            f"{least.symbol} has {least.bars_per_year:g} bars per year and {most.symbol} {most.bars_per_year:g}: one "
            f"run needs one number. The account that holds {symbols} has {rows:g} rows a year: "
            f"market.bars_per_year={rows:g}"
        )
    common = float(np.median(counts)) if stated is None else float(stated)
    if len(found) == 1:
        return [bars if bars.bars_per_year == common else replace(bars, bars_per_year=common) for bars in found]
    rows = common
    if stated is None:
        rows *= _rows_per_year(found) / float(np.median([bars_per_year(bars.dates) for bars in found]))
    return [replace(bars, bars_per_year=common, rows_per_year=rows) for bars in found]


def _rows_per_year(found: Sequence[Bars]) -> float:
    """Rows in a year of the account that holds these symbols, counted."""
    calendar = Calendar.of([bars.dates for bars in found], [bars.instants for bars in found])
    return bars_per_year(calendar.stamps)


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
    config = with_periods(config, read) if set(periods) == set(get_args(PeriodName)) else config
    check_periods(config, periods, read)
    _check_stated(config, read)
    segments: Segments = {name: [] for name in periods}
    for bars in read:
        ranges = [period_of(bars, *config.days(name)) for name in periods]
        if len(read) > 1 and not is_scaled(ranges[0]):
            continue
        last = max(period.stop for period in ranges if period) - 1 if any(ranges) else 0
        first = max(ranges[0].start - 1, WINDOW)
        check_features(bars, config, range(first, last + 1))
        check_traded(bars, config, range(first, last))
        market = market_of(bars, config, ranges[0], last)
        for name, period in zip(periods, ranges, strict=True):
            if len(read) == 1 or is_traded(period):
                segments[name].append(Segment(market, period, ranges[0]))
    for name, found in segments.items():
        if not found:
            raise ValueError(f"market.{name}: no symbol has enough bars in {' to '.join(config.days(name))}")
    return segments


def _check_stated(config: MarketConfig, read: Sequence[Bars]) -> None:
    """Refuse what a configuration states and the data cannot do."""
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
    return train.stop - max(train.start, WARM_UP) >= MIN_SCALED and is_traded(train)


def is_traded(period: range) -> bool:
    """Whether a symbol, one of several, has bars to trade in a period."""
    return len(period) >= 2 and period.stop - 1 > max(period.start - 1, WINDOW)


def market_of(bars: Bars, config: MarketConfig, train: range, last: int) -> Market:
    """
    :param bars: of one symbol
    :param config: which index to use, and the bounds where they are given
    :param train: bars of the training period: where its quantiles are the bounds
    :param last: last bar whose index is needed
    :return: the market, with its index and its bounds
    :raises ValueError: if the index that is asked for is missing, or a feature
    """
    volatility = ewma_volatility(bars.close, bars.bars_per_year)
    index = _index(bars, config, volatility, train.start, last)
    bounds: tuple[float, ...] = REGIME_BOUNDS
    if config.regime_bounds is not None:
        bounds = config.regime_bounds
    elif bars.source not in KEEPS_BOUNDS:
        bounds = bounds_in(index, train)
    return Market(
        bars.symbol,
        bars.source,
        bars.dates,
        bars.open,
        bars.close,
        volatility,
        index,
        bars.bars_per_year,
        bounds,
        bars.fill,
        last_return_only=bars.source in LAST_RETURN_ONLY,
        features=seen_features(bars, config),
        volume=bars.volume if config.trading.impact_coefficient else None,
        own_targets=own_targets(bars, config),
        instants=bars.instants,
        rows_per_year=bars.rows_per_year,
        zone=bars.zone,
    )


def takes_own_index(bars: Bars, config: MarketConfig) -> bool:
    """:return: whether the index is the data's own; that of the synthetic market is its truth and never estimated"""
    if bars.volatility_index is None:
        return False
    return config.volatility_index != "estimated" or bars.source in SYNTHETIC


def _index(bars: Bars, config: MarketConfig, volatility: np.ndarray, first: int, last: int) -> np.ndarray:
    """The data's own index where it is wanted, which must cover the bars from first to last; else estimates."""
    own, estimated = bars.volatility_index, estimated_index(volatility)
    if own is None and config.volatility_index == "real":
        raise ValueError(f"market.volatility_index=real: {bars.source} has no column volatility_index")
    if own is None or not takes_own_index(bars, config):
        return estimated
    missing = np.isnan(own)
    within = np.flatnonzero(missing[first : last + 1]) + first
    if len(within):
        raise ValueError(
            f"{bars.source} has no volatility_index for {len(within)} of the bars of {bars.symbol} from "
            f"{date_text(bars.dates[first])} to {date_text(bars.dates[last])}, the first on "
            f"{date_text(bars.dates[within[0]])}: complete the column, move the periods or set "
            "market.volatility_index=estimated"
        )
    return np.where(missing, estimated, own)


@dataclass(frozen=True)
class Oddity:
    """
    What may be wrong with a symbol's prices, or may be not.

    :param kind: what it has in common with those of other symbols
    :param symbol: whose
    :param text: a sentence with file, symbol and date
    """

    kind: str
    symbol: str
    text: str


def oddities(bars: Bars | Market) -> list[Oddity]:
    """
    :return: the largest move that the next bar takes back, the largest like a split, the largest other one by a factor
        of two, and a long gap, where there are such: no errors, but they may be some
    """
    move = np.diff(np.log(bars.close))
    large = np.abs(move) > np.log(JUMP)
    returns = np.append(large[:-1] & (np.abs(move[:-1] + move[1:]) < np.abs(move[:-1]) / 2), False)
    returns |= np.insert(returns[:-1], 0, False)
    split = _like_splits(bars, move) & ~returns
    found = []
    for kind, bad, question in (
        ("moves that are taken back at the next bar", returns, " and back at the next bar; a mistaken price?"),
        ("moves like a split that was not adjusted", split, "; a split that was not adjusted?"),
        ("moves by a factor of two or more", large & ~split & ~returns, ", by no ratio of a split:"),
    ):
        if not bad.any():
            continue
        bar = int(np.argmax(np.where(bad, np.abs(move), 0.0))) + 1
        change = 100 * (bars.close[bar] / bars.close[bar - 1] - 1)
        text = (
            f"{bars.source}: close of {bars.symbol} moves by {change:+.0f} % on {date_text(bars.dates[bar])}"
            f"{question} {int(bad.sum())} such bar(s)"
        )
        found.append(Oddity(kind, bars.symbol, text))
    days = np.diff(bars.dates).astype("m8[D]").astype(int)
    gap = int(np.argmax(days))
    if days[gap] > max(GAP_DAYS, 10 * float(np.median(days))):
        since = date_text(bars.dates[gap])
        text = f"{bars.source}: {bars.symbol} has no bar for {days[gap]} days from {since}"
        found.append(Oddity("long gaps", bars.symbol, text))
    return found


def _like_splits(bars: Bars | Market, move: np.ndarray) -> np.ndarray:
    """
    Closes that differ by the ratio of a split and a usual move; of days, opens must do so as well, since shares are
    split over night. A crash falls in the session, or by a ratio that no split has.

    :param move: log returns, shape (T - 1,)
    :return: mask of the returns, shape (T - 1,)
    """
    # Of the bars around each, by the median, which the split itself does not move.
    size = pd.Series(np.abs(move))
    around = size.rolling(2 * WINDOW + 1, center=True, min_periods=WINDOW).median().to_numpy()
    spread = np.maximum(np.fmax(around, float(size.median())) * ROBUST_STD, LEAST_STD)
    like = _is_ratio(move, spread)
    of_days = bar_length(bars.dates).unit == "second" or bar_length(bars.dates) == BarLength("day", 1)
    if of_days and bars.fill == "open" and not np.array_equal(bars.open, bars.close):
        like &= _is_ratio(np.log(bars.open[1:] / bars.close[:-1]), spread)
    return like


def _is_ratio(move: np.ndarray, spread: np.ndarray) -> np.ndarray:
    distance = np.abs(np.abs(move)[:, None] - np.log(SPLITS)).min(axis=1)
    near: np.ndarray = distance <= SPLIT_STDS * spread
    return near
