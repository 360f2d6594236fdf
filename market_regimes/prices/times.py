"""Conversion of the columns of dates to the times of the rows."""

from __future__ import annotations

from dataclasses import dataclass, replace

from market_regimes.prices.dates import add_time_of_day, parse_dates
from market_regimes.prices.numbers import Numbers
from market_regimes.prices.options import ReadOptions
from market_regimes.prices.rows import Rows
from market_regimes.prices.zones import Times


@dataclass(frozen=True)
class TimedNumbers:
    """
    Rows of a file with prices, with numbers and times.

    :param numbers: numbers of the rows
    :param times: times of the same rows, by the file's clock
    """

    numbers: Numbers
    times: Times


def read_times(numbers: Numbers, options: ReadOptions) -> TimedNumbers:
    """
    :param numbers: rows with prices
    :param options: the user's options
    :return: the same rows with their times
    :raises ValueError: if a row has no date, its format is ambiguous, or two columns of dates disagree. A sentence
        names row and date
    """
    layout = numbers.layout
    frame = numbers.frame
    rows = numbers.rows
    date, *further = layout.dates
    cells = frame[date]

    # A format with hours covers both columns.
    is_joined = layout.time is not None and "%H" in str(options.date_format)
    if is_joined:
        cells = cells.astype(str) + " " + frame[layout.time].astype(str)
    times = parse_dates(rows, cells, options.date_format)

    # A column's name may include its zone.
    if times.zone is None and any(word in date.lower() for word in ("gmt", "utc")):
        times = replace(times, zone="UTC", has_instants=True)

    # Add a separate time of day, and check further dates.
    if layout.time is not None and not is_joined:
        times = add_time_of_day(rows, times, frame[layout.time])

    for name in further:
        times = _agreed(numbers, times, date, name)

    return TimedNumbers(numbers, times)


def _agreed(numbers: Numbers, times: Times, date: str, name: str) -> Times:
    """Return the finer of the times so far and another column's, which must agree."""
    further = _times_if_any(numbers.rows, numbers, name)
    if further is not None:
        # A column of days agrees with times on these days.
        days = times.clock.astype("M8[D]")
        further_days = further.clock.astype("M8[D]")
        if (further.clock == times.clock).all() or (days == further.clock).all():
            return times
        if (further_days == times.clock).all():
            return further

    raise ValueError(
        f"{numbers.layout.table.source} has two columns for date: {date} and {name}; market.columns states which to use"
    )


def _times_if_any(rows: Rows, numbers: Numbers, name: str) -> Times | None:
    """Return the times of another column, None: it has other content."""
    try:
        return parse_dates(rows, numbers.frame[name])
    except ValueError:
        return None
