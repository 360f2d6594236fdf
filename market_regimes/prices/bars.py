"""The checked bars of one symbol."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from market_regimes.prices.calendar import DAYS_PER_YEAR, bars_per_year
from market_regimes.prices.columns import PRICES
from market_regimes.prices.grid import off_grid
from market_regimes.prices.table import Rows, is_missing
from market_regimes.prices.times import Times

MIN_BARS = 60  # of a symbol: 20 returns of history in an observation, and something to train, validate and test on
MAX_BAR_RATIO = 1e4  # of a price to the close before: beyond it a mistake in the file, not a market
RANGE_SLACK = 0.01  # share by which open and close may lie outside low and high: sources round and adjust
NEAR = 5  # rows: no more of them, farther from their places, have mistyped dates
MAX_CLOCK_CHANGE = 3600  # seconds by which summer time moves a clock
CHANGES_A_YEAR = 4  # of a clock; most have two
YEAR_SECONDS = 365.2425 * 86_400
MAX_INDEX = 1e6  # observations are float32, in which 1e39 is infinite; no market is near the bound


@dataclass(frozen=True)
class Bars:
    """
    T bars of one symbol. The arrays, of shape (T,), are not to be written to.

    :param symbol: from the file, or the file's name
    :param source: where the bars come from, for error messages
    :param dates: times of the bars by the clock the file is written in, datetime64[s], strictly increasing; in UTC
        where that clock shows an hour twice
    :param open: opening prices, adjusted as the close is; the close where ``fill`` is "close"
    :param close: closing prices, adjusted where the file has an adjusted close
    :param volatility_index: at the bar's close, in points, NaN where missing; None if the file has none
    :param volume: as the file has it, NaN where missing; None if the file has none
    :param extra: other columns of numbers, by the file's names
    :param bars_per_year: what annualises figures and accrues interest
    :param zone: of ``dates``, as the file states it: "+02:00", "UTC", "America/New_York"; None if it states none
    :param fill: "close" where the file has no opening prices
    :param unused_columns: columns of the file that are no date, symbol, price or volatility index, and that no option
        names
    :param assumptions: what was assumed about the file, a sentence each
    :param rows: of the bars in their file, for refusals; None where they are of no file
    :param instants: ``dates`` in UTC, datetime64[s]; equal to them where no zone of known offset is stated
    :param has_instants: whether ``instants`` are in UTC
    :param rows_per_year: of the account that holds all symbols read together; None: as many as bars
    :param refuted_zone: stated by the user, where the file itself states another one; else None
    """

    symbol: str
    source: str
    dates: np.ndarray
    open: np.ndarray
    close: np.ndarray
    volatility_index: np.ndarray | None = None
    volume: np.ndarray | None = None
    extra: dict[str, np.ndarray] = field(default_factory=dict)
    bars_per_year: float = DAYS_PER_YEAR
    zone: str | None = None
    fill: Literal["open", "close"] = "open"
    unused_columns: list[str] = field(default_factory=list)
    assumptions: list[str] = field(default_factory=list)
    rows: Rows | None = None
    instants: np.ndarray = None  # type: ignore[assignment]  # set below
    has_instants: bool = False
    rows_per_year: float | None = None
    refuted_zone: str | None = None

    def __post_init__(self) -> None:
        if self.instants is None:
            object.__setattr__(self, "instants", self.dates)

    def refuse(self, bad: np.ndarray, problem: str, values: np.ndarray | None = None) -> None:
        """
        :param bad: mask of the bars, shape (T,)
        :param problem: what is wrong with them
        :param values: of the column at fault, to be quoted, shape (T,)
        :raises ValueError: if a bar is bad: names the first one by row and date, and how many more there are
        """
        numbers = np.arange(1, len(self.dates) + 1)
        rows = self.rows or Rows(self.source, numbers, pd.Series(self.dates), has_header=False)
        rows.refuse(bad, problem, None if values is None else pd.Series(values))


def bars_before(bars: Bars, day: str) -> Bars:
    """
    :param bars: of one symbol
    :param day: ISO date
    :return: the bars before that day, perhaps none
    """
    count = int(np.searchsorted(bars.dates, np.datetime64(day, "D")))
    arrays: dict[str, Any] = {
        name: value[:count] for name, value in vars(bars).items() if isinstance(value, np.ndarray)
    }
    return replace(bars, **arrays, extra={name: column[:count] for name, column in bars.extra.items()})


@dataclass(frozen=True)
class Columns:
    """
    T rows of one symbol as a file has them, before they are checked.

    :param symbol: its name
    :param rows: numbers and dates for refusals
    :param times: of the rows
    :param numbers: field -> values, NaN where there is no number, shape (T,)
    :param cells: field -> what the file has there, shape (T,)
    :param extra: other columns of numbers
    :param unused: columns of the file that are not used
    :param said: what was assumed so far, a sentence each
    :param off_grid: "drop" or "keep", what becomes of rows between the times at which bars are stamped; None: refused
    """

    symbol: str
    rows: Rows
    times: Times
    numbers: dict[str, np.ndarray]
    cells: dict[str, pd.Series]
    extra: dict[str, np.ndarray]
    unused: list[str]
    said: list[str]
    off_grid: str | None = None

    def take(self, wanted: np.ndarray) -> Columns:
        """:return: the rows at these positions"""
        return replace(
            self,
            rows=self.rows.take(wanted),
            times=self.times.take(wanted),
            numbers={name: values[wanted] for name, values in self.numbers.items()},
            cells={name: cells.iloc[wanted] for name, cells in self.cells.items()},
            extra={name: values[wanted] for name, values in self.extra.items()},
        )


def checked_bars(columns: Columns) -> Bars:
    """
    :param columns: rows of one symbol
    :return: its bars
    :raises ValueError: in one sentence with file, row and date, if they cannot be used
    """
    said = list(columns.said)
    columns = _in_order(columns, said)
    _check_offsets(columns)
    columns = _on_grid(columns, said)
    dates, zone = _dates(columns, said)
    _check_prices(columns)
    opens, close = _adjusted(columns)
    if len(close) < MIN_BARS:
        first, last = columns.rows.day(0), columns.rows.day(len(close) - 1)
        raise ValueError(
            f"{columns.rows.source} has {len(close)} row(s) of {columns.symbol}, from {first} to {last}: at least "
            f"{MIN_BARS} are needed"
        )
    _check_ratios(columns, opens, close)
    said += _said_of(columns, dates)
    return Bars(
        columns.symbol,
        columns.rows.source,
        dates,
        opens,
        close,
        _index(columns),
        columns.numbers.get("volume"),
        columns.extra,
        bars_per_year(dates),
        zone,
        "open" if "open" in columns.numbers else "close",
        columns.unused,
        said,
        columns.rows,
        columns.times.instant,
        columns.times.has_instants,
        refuted_zone=columns.times.refuted_zone,
    )


def _said_of(columns: Columns, dates: np.ndarray) -> list[str]:
    """What is odd about a symbol's prices and no fault."""
    said = []
    if "adjusted_close" in columns.numbers:
        said.append("the adjusted close is traded, and open is scaled as it is")
    if "open" not in columns.numbers:
        said.append("no opening prices: orders fill at the close")
    elif np.array_equal(columns.numbers["open"], columns.numbers["close"]):
        said.append("open equals close in every bar: an order at the open gets the price of the close")
    if "open" in columns.numbers and not {"high", "low"} <= columns.numbers.keys():
        said.append("no high and low: open and close are not checked against them")
    if dates[-1] - dates[0] < np.timedelta64(7, "D"):
        said.append("less than a week of bars: market.bars_per_year states their number in a year")
    return said


def _in_order(columns: Columns, said: list[str]) -> Columns:
    """Oldest first by instant; disorder is refused where it may show that dates are misread or mistyped."""
    step = np.diff(columns.times.instant).astype(int)
    if (step <= 0).all() and (step < 0).any():
        said.append("newest first: sorted")
        columns = columns.take(np.arange(len(step), -1, -1))
    elif (step < 0).any():
        _check_disorder(columns, step)
        said.append("rows not in the order of their dates: sorted")
        columns = columns.take(np.argsort(columns.times.instant, kind="stable"))
    before = np.concatenate([[1], np.diff(columns.times.instant).astype(int)])
    problem = f"{columns.symbol} has the bar before at the same date"
    if not columns.times.has_instants and (columns.times.clock != columns.times.clock.astype("M8[D]")).any():
        problem += "; where a clock went back, market.zone tells its hours apart"
    columns.rows.refuse(before == 0, problem)
    return columns


def _check_disorder(columns: Columns, step: np.ndarray) -> None:
    """Refuse rows whose order contradicts dates that may be read in another way."""
    times = columns.times
    backwards = np.concatenate([[False], step < 0])
    problem = f"{columns.symbol} has a later date in the bar before: sort by date"
    if times.is_inferred:
        problem += ", or state the order of day and month by market.date_format"
        columns.rows.refuse(backwards, problem)

    # 09:30 to 12:30 and then 01:30 is an afternoon without its pm.
    hours = (times.clock - times.clock.astype("M8[D]")).astype("m8[h]").astype(int)
    within_day = np.concatenate([[False], np.diff(times.clock.astype("M8[D]")).astype(int) == 0])
    if hours.min() >= 1 and hours.max() == 12:
        columns.rows.refuse(backwards & within_day, f"{problem}; a clock of twelve hours needs am and pm")

    # One row far from its place has a mistyped date rather than a wrong place; two neighbours may be swapped.
    rank = np.argsort(np.argsort(times.instant, kind="stable"), kind="stable")
    far = np.abs(rank - np.arange(len(rank))) > NEAR
    if 0 < far.sum() <= NEAR:
        columns.rows.refuse(
            far, f"the date of {columns.symbol} is far from those of the rows around it: correct it, or sort by date"
        )


def _check_offsets(columns: Columns) -> None:
    """Summer time moves a clock by an hour, at most four times a year (Morocco). Other changes mix two zones."""
    times = columns.times
    if times.zones is None:
        return
    offset = (times.clock - times.instant).astype(np.int64)
    step = np.abs(np.diff(offset))
    changed = step > 0 if times.has_instants else times.zones[1:] != times.zones[:-1]
    years = float((times.instant[-1] - times.instant[0]).astype(np.int64)) / YEAR_SECONDS
    often = changed.sum() > CHANGES_A_YEAR * (years + 1)
    bad = np.concatenate([[False], changed if often else step > MAX_CLOCK_CHANGE])
    if bad.any():
        first = int(np.argmax(bad))
        before, after = times.zones[first - 1], times.zones[first]
        problem = f"the zone of {columns.symbol} changes from {before} to {after}, as no summer time does"
        columns.rows.refuse(bad, f"{problem}: write all dates in one zone")


def _on_grid(columns: Columns, said: list[str]) -> Columns:
    """The rows that are stamped as bars are; the others are refused, dropped or kept."""
    dates, _ = _dates(columns, [])
    if len(dates) < MIN_BARS:
        return columns
    bad, grid = off_grid(dates)
    if not bad.any():
        return columns
    if columns.off_grid is None:
        columns.rows.refuse(
            bad,
            f"{columns.symbol} has {grid}, and this row lies between them: market.off_grid=drop leaves it out, "
            "market.off_grid=keep takes it for a bar",
        )
    first = columns.rows.day(int(np.argmax(bad)))
    done = {"drop": "dropped", "keep": "kept"}[str(columns.off_grid)]
    said.append(f"{done} {bad.sum()} row(s) between {grid}, the first {first}: market.off_grid says so")
    return columns.take(np.flatnonzero(~bad)) if columns.off_grid == "drop" else columns


def _dates(columns: Columns, said: list[str]) -> tuple[np.ndarray, str | None]:
    """The written clock and its zone; UTC where the clock goes back, as it does when summer time ends."""
    clock, instant, zone = columns.times.clock, columns.times.instant, columns.times.zone
    back = np.flatnonzero(np.diff(clock).astype(int) <= 0)
    if not len(back):
        return clock, zone
    said.append(f"the clock goes back on {str(clock[back[0] + 1])[:10]}: dates are in UTC")
    return instant, "UTC"


def _check_prices(columns: Columns) -> None:
    symbol, rows, numbers = columns.symbol, columns.rows, columns.numbers
    for name in (*PRICES, "adjusted_close"):
        if name in numbers:
            problem = f"{name} of {symbol} is not a finite number"
            rows.refuse(~np.isfinite(numbers[name]), problem, columns.cells[name])
            rows.refuse(numbers[name] <= 0, f"{name} of {symbol} is not positive", columns.cells[name])
    low, high = numbers.get("low"), numbers.get("high")
    if low is not None and high is not None:
        rows.refuse(high < low, f"high of {symbol} is below its low")
    for name in ("open", "close"):
        if name in numbers and low is not None:
            below = numbers[name] < low * (1 - RANGE_SLACK)
            rows.refuse(below, f"{name} of {symbol} is outside its low and high")
        if name in numbers and high is not None:
            above = numbers[name] > high * (1 + RANGE_SLACK)
            rows.refuse(above, f"{name} of {symbol} is outside its low and high")


def _adjusted(columns: Columns) -> tuple[np.ndarray, np.ndarray]:
    """Opening and closing prices, both multiplied by what adjusts the close."""
    numbers = columns.numbers
    raw = numbers.get("close", numbers.get("adjusted_close"))
    assert raw is not None, "a layout has one of the two"
    opens, close = numbers.get("open", raw), numbers.get("adjusted_close")
    return (opens, raw) if close is None else (opens * (close / raw), close)


def _check_ratios(columns: Columns, opens: np.ndarray, close: np.ndarray) -> None:
    before = np.concatenate([close[:1], close[:-1]])
    for name, prices in (("open", opens), ("close", close)):
        ratio = prices / before
        ratio[0] = 1.0
        wild = (ratio > MAX_BAR_RATIO) | (ratio < 1 / MAX_BAR_RATIO)
        problem = f"{name} of {columns.symbol} changed by a factor beyond {MAX_BAR_RATIO:g} in one bar"
        columns.rows.refuse(wild, problem)


def _index(columns: Columns) -> np.ndarray | None:
    """The file's volatility index, NaN where it has none; None if it has none at all."""
    values = columns.numbers.get("volatility_index")
    if values is None:
        return None
    name, cells = f"volatility_index of {columns.symbol}", columns.cells["volatility_index"]
    columns.rows.refuse(np.isnan(values) & ~is_missing(cells), f"{name} is not a number", cells)
    columns.rows.refuse(values <= 0, f"{name} is not positive")
    columns.rows.refuse(values > MAX_INDEX, f"{name} is over 1,000,000")
    return values
