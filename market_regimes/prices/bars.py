"""The checked bars of one symbol."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from market_regimes.prices.columns import TRADED
from market_regimes.prices.grid import off_grid
from market_regimes.prices.notes import NO_NOTES, Notes
from market_regimes.prices.rows import Rows, is_missing
from market_regimes.prices.symbols import SymbolRows
from market_regimes.prices.years import DAYS_PER_YEAR, bars_per_year

MIN_BARS = 60  # per symbol: 20 returns of history in an observation, and periods to train, validate and test
MAX_BAR_RATIO = 1e4  # ratio of a price to the close before. A larger one is a mistake in the file, not a market
RANGE_SLACK = 0.01  # share by which open and close may lie outside low and high: sources round and adjust
NEAR = 5  # rows. At most this many, farther than this from their places, have mistyped dates
MAX_CLOCK_CHANGE = 3600  # seconds by which summer time moves a clock
CHANGES_A_YEAR = 4  # changes of a clock; most clocks have two
YEAR_SECONDS = 365.2425 * 86_400
MAX_INDEX = 1e6  # observations are float32, where 1e39 is infinite. No market comes near this limit


@dataclass(frozen=True)
class Bars:
    """
    T bars of one symbol. The arrays have shape (T,) and are read-only.

    :param symbol: symbol in the file, or the file's name
    :param source: origin of the bars, for error messages
    :param dates: times of the bars by the file's clock, datetime64[s], strictly increasing. They are in UTC if that
        clock shows an hour twice
    :param open: opening prices, adjusted as the close is; the close if ``fill`` is "close"
    :param close: closing prices, adjusted if the file has an adjusted close
    :param volatility_index: points at the bar's close, NaN where missing; None: the file has none
    :param volume: volume as in the file, NaN where missing; None: the file has none
    :param extra: other columns of numbers, by the file's names
    :param bars_per_year: number that annualises figures and accrues interest
    :param zone: zone of ``dates`` as the file states it: "+02:00", "UTC", "America/New_York"; None: not stated
    :param fill: "close" if the file has no opening prices
    :param notes: assumptions about the file, and unused columns
    :param rows: rows of the bars in their file, for error messages; None: no file
    :param instants: ``dates`` in UTC, datetime64[s]; equal to ``dates`` without a zone of known offset
    :param has_instants: whether ``instants`` are in UTC
    :param rows_per_year: rows of the account that holds all symbols read together, None: ``bars_per_year``
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
    notes: Notes = NO_NOTES
    rows: Rows | None = None
    instants: np.ndarray = None  # type: ignore[assignment]  # set below
    has_instants: bool = False
    rows_per_year: float | None = None

    def __post_init__(self) -> None:
        if self.instants is None:
            object.__setattr__(self, "instants", self.dates)

    def refuse(self, bad: np.ndarray, problem: str, values: np.ndarray | None = None) -> None:
        """
        :param bad: mask of the bars, shape (T,)
        :param problem: description of the fault
        :param values: values of the faulty column to quote, shape (T,)
        :raises ValueError: if a bar is bad. The message has row and date of the first and the number of others
        """
        rows = self.rows
        if rows is None:
            numbers = np.arange(1, len(self.dates) + 1)
            rows = Rows(self.source, numbers, pd.Series(self.dates), has_header=False)
        if values is None:
            rows.refuse(bad, problem)
        else:
            rows.refuse(bad, problem, pd.Series(values))


def bars_before(bars: Bars, day: str) -> Bars:
    """
    :param bars: bars of one symbol
    :param day: ISO date
    :return: bars before that day, possibly empty
    """
    # Cut every array to the bars before the day.
    count = int(np.searchsorted(bars.dates, np.datetime64(day, "D")))
    arrays: dict[str, Any] = {
        name: value[:count] for name, value in vars(bars).items() if isinstance(value, np.ndarray)
    }
    extra = {name: column[:count] for name, column in bars.extra.items()}
    return replace(bars, **arrays, extra=extra)


def check_bars(rows: SymbolRows, off_grid: str | None = None) -> Bars:
    """
    :param rows: rows of one symbol
    :param off_grid: "drop" or "keep" rows between the usual times of bars, None: refuse them
    :return: its bars
    :raises ValueError: if the rows cannot be used; a sentence with file, row and date
    """
    # Order the rows and drop those that are not bars.
    rows = _in_order(rows)
    _check_offsets(rows)
    rows = _on_grid(rows, off_grid)
    dates, zone, rows = _dates(rows)

    # Check the prices as written, then adjust them.
    _check_prices(rows)
    opens, close = _adjusted(rows)
    _check_count(rows)
    _check_ratios(rows, opens, close)

    for sentence in _oddities(rows, dates):
        rows = rows.noting(sentence)

    fill: Literal["open", "close"] = "close"
    if "open" in rows.numbers:
        fill = "open"
    return Bars(
        rows.symbol,
        rows.rows.source,
        dates,
        opens,
        close,
        volatility_index=_index(rows),
        volume=rows.numbers.get("volume"),
        extra=rows.extra,
        bars_per_year=bars_per_year(dates),
        zone=zone,
        fill=fill,
        notes=rows.notes,
        rows=rows.rows,
        instants=rows.times.instant,
        has_instants=rows.times.has_instants,
    )


def _in_order(rows: SymbolRows) -> SymbolRows:
    """Sort by instant, oldest first. Refuse disorder that suggests misread or mistyped dates."""
    # Newest first is an order. Other disorder may come from misread dates.
    step = np.diff(rows.times.instant).astype(int)
    if (step < 0).any() and (step <= 0).all():
        rows = rows.take(np.arange(len(step), -1, -1)).noting("newest first: sorted")
    elif (step < 0).any():
        _check_disorder(rows, step)
        order = np.argsort(rows.times.instant, kind="stable")
        rows = rows.take(order).noting("rows not in the order of their dates: sorted")

    # Two bars must not share a time.
    times = rows.times
    problem = f"{rows.symbol} has the bar before at the same date"
    if not times.has_instants and (times.clock != times.clock.astype("M8[D]")).any():
        problem += "; where a clock went back, market.zone tells its hours apart"
    repeated = np.zeros(len(times.instant), dtype=bool)
    repeated[1:] = times.instant[1:] == times.instant[:-1]
    rows.rows.refuse(repeated, problem)

    return rows


def _check_disorder(rows: SymbolRows, step: np.ndarray) -> None:
    """
    Refuse rows whose order contradicts dates with several readings.

    :param step: seconds from each row to the next, shape (T - 1,)
    """
    times = rows.times
    backwards = np.concatenate([[False], step < 0])
    problem = f"{rows.symbol} has a later date in the bar before: sort by date"
    if times.is_inferred:
        problem += ", or state the order of day and month by market.date_format"
        rows.rows.refuse(backwards, problem)

    # 09:30 to 12:30 and then 01:30 is an afternoon without pm.
    days = times.clock.astype("M8[D]")
    hours = (times.clock - days).astype("m8[h]").astype(int)
    within_day = np.concatenate([[False], np.diff(days).astype(int) == 0])
    if hours.min() >= 1 and hours.max() == 12:
        rows.rows.refuse(
            backwards & within_day,
            f"{problem}; a clock of twelve hours needs am and pm",
        )

    # One row far from its place has a mistyped date. Two neighbours may only be swapped.
    rank = np.argsort(np.argsort(times.instant, kind="stable"), kind="stable")

    far = np.abs(rank - np.arange(len(rank))) > NEAR
    if 0 < far.sum() <= NEAR:
        rows.rows.refuse(
            far,
            f"the date of {rows.symbol} is far from those of the rows around it: correct it, or sort by date",
        )


def _check_offsets(rows: SymbolRows) -> None:
    """Allow changes by an hour, at most four a year (Morocco), as summer time. Others mix two zones."""
    times = rows.times
    zones = times.zones
    if zones is None:
        return
    step = np.abs(np.diff((times.clock - times.instant).astype(np.int64)))
    changed = step > 0
    if not times.has_instants:
        changed = zones[1:] != zones[:-1]

    # Too many changes are refused as a whole. Otherwise refuse those of more than an hour.
    years = float((times.instant[-1] - times.instant[0]).astype(np.int64)) / YEAR_SECONDS
    if changed.sum() <= CHANGES_A_YEAR * (years + 1):
        changed = step > MAX_CLOCK_CHANGE
    if not changed.any():
        return
    first = int(np.argmax(changed))
    problem = f"the zone of {rows.symbol} changes from {zones[first]} to {zones[first + 1]}, as no summer time does"
    rows.rows.refuse(np.concatenate([[False], changed]), f"{problem}: write all dates in one zone")


def _on_grid(rows: SymbolRows, option: str | None) -> SymbolRows:
    """Select the rows at the usual times of bars. Others are refused, dropped or kept."""
    dates, _, _ = _dates(rows)
    if len(dates) < MIN_BARS:
        return rows

    # The option decides on rows off the grid.
    bad, grid = off_grid(dates)
    if not bad.any():
        return rows
    if option is None:
        rows.rows.refuse(
            bad,
            f"{rows.symbol} has {grid}, and this row lies between them: market.off_grid=drop leaves it out, "
            "market.off_grid=keep takes it for a bar",
        )

    # Report the first of them and the option.
    first = rows.rows.day(int(np.argmax(bad)))
    where = f"{bad.sum()} row(s) between {grid}, the first {first}: market.off_grid says so"
    if option == "drop":
        return rows.take(np.flatnonzero(~bad)).noting(f"dropped {where}")
    return rows.noting(f"kept {where}")


def _dates(rows: SymbolRows) -> tuple[np.ndarray, str | None, SymbolRows]:
    """
    Return the written clock and its zone, or UTC if the clock goes back at the end of summer time.

    :return: dates, datetime64[s], shape (T,); their zone; and the rows, with a note if the clock goes back
    """
    times = rows.times
    back = np.flatnonzero(np.diff(times.clock).astype(int) <= 0)
    if not len(back):
        return times.clock, times.zone, rows
    day = str(times.clock[back[0] + 1])[:10]

    return (
        times.instant,
        "UTC",
        rows.noting(f"the clock goes back on {day}: dates are in UTC"),
    )


def _check_prices(rows: SymbolRows) -> None:
    """Refuse prices that are not positive numbers or contradict each other within a bar."""
    numbers = rows.numbers
    refuse = rows.rows.refuse

    for name in TRADED:
        if name in numbers:
            cells = rows.cells[name]
            refuse(
                ~np.isfinite(numbers[name]),
                f"{name} of {rows.symbol} is not a finite number",
                cells,
            )
            refuse(numbers[name] <= 0, f"{name} of {rows.symbol} is not positive", cells)

    # Low, high, open and close of a bar must agree.
    low = numbers.get("low")
    high = numbers.get("high")
    if low is not None and high is not None:
        refuse(high < low, f"high of {rows.symbol} is below its low")

    for name in ("open", "close"):
        if name not in numbers:
            continue
        problem = f"{name} of {rows.symbol} is outside its low and high"
        if low is not None:
            refuse(numbers[name] < low * (1 - RANGE_SLACK), problem)
        if high is not None:
            refuse(numbers[name] > high * (1 + RANGE_SLACK), problem)


def _adjusted(rows: SymbolRows) -> tuple[np.ndarray, np.ndarray]:
    """Return opening and closing prices, multiplied by the factor that adjusts the close."""
    numbers = rows.numbers

    # A file may only have adjusted closes.
    raw = numbers.get("close", numbers.get("adjusted_close"))
    assert raw is not None, "a layout has one of the two"
    opens = numbers.get("open", raw)
    close = numbers.get("adjusted_close")
    if close is None:
        return opens, raw
    return opens * (close / raw), close


def _check_count(rows: SymbolRows) -> None:
    """Refuse a symbol with too few bars."""
    count = len(rows.rows.number)
    if count >= MIN_BARS:
        return
    period = ""
    if count:
        period = f", from {rows.rows.day(0)} to {rows.rows.day(count - 1)}"
    raise ValueError(f"{rows.rows.source} has {count} row(s) of {rows.symbol}{period}: at least {MIN_BARS} are needed")


def _check_ratios(rows: SymbolRows, opens: np.ndarray, close: np.ndarray) -> None:
    """Refuse a price far from the close before."""
    # The first bar has no close before it.
    before = np.concatenate([close[:1], close[:-1]])
    for name, prices in (("open", opens), ("close", close)):
        ratio = prices / before
        ratio[0] = 1.0
        wild = (ratio > MAX_BAR_RATIO) | (ratio < 1 / MAX_BAR_RATIO)
        rows.rows.refuse(
            wild,
            f"{name} of {rows.symbol} changed by a factor beyond {MAX_BAR_RATIO:g} in one bar",
        )


def _oddities(rows: SymbolRows, dates: np.ndarray) -> list[str]:
    """List unusual but usable prices and dates, one sentence each."""
    numbers = rows.numbers
    sentences = []

    # Report the prices at which orders fill.
    if "adjusted_close" in numbers:
        sentences.append("the adjusted close is traded, and open is scaled as it is")
    if "open" not in numbers:
        sentences.append("no opening prices: orders fill at the close")
    elif np.array_equal(numbers["open"], numbers["close"]):
        sentences.append("open equals close in every bar: an order at the open gets the price of the close")
    if "open" in numbers and not {"high", "low"} <= numbers.keys():
        sentences.append("no high and low: open and close are not checked against them")

    # A short file does not reveal the bars per year.
    if dates[-1] - dates[0] < np.timedelta64(7, "D"):
        sentences.append("less than a week of bars: market.bars_per_year states their number in a year")
    return sentences


def _index(rows: SymbolRows) -> np.ndarray | None:
    """Return the file's volatility index, NaN where missing; None: the file has none."""
    values = rows.numbers.get("volatility_index")
    if values is None:
        return None
    name = f"volatility_index of {rows.symbol}"

    # Values may be missing. All others must be positive numbers.
    cells = rows.cells["volatility_index"]
    rows.rows.refuse(np.isnan(values) & ~is_missing(cells), f"{name} is not a number", cells)
    rows.rows.refuse(values <= 0, f"{name} is not positive")
    rows.rows.refuse(values > MAX_INDEX, f"{name} is over 1,000,000")

    return values
