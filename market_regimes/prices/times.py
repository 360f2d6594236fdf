"""From the cells of the columns of dates to the times of the rows."""

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
    The rows of a file that have prices, with their numbers and times.

    :param numbers: of the rows
    :param times: of the same rows, by the clock of the file
    """

    numbers: Numbers
    times: Times


def read_times(numbers: Numbers, options: ReadOptions) -> TimedNumbers:
    """
    :param numbers: the rows that have prices
    :param options: what the user states about them
    :return: the same with their times
    :raises ValueError: in one sentence with row and date, if a row has none, nothing decides how it is written, or two
        columns of dates disagree
    """
    layout = numbers.layout
    frame = numbers.frame
    rows = numbers.rows
    date, *others = layout.dates
    cells = frame[date]

    # A format with hours is that of both columns together.
    is_joined = layout.time is not None and "%H" in str(options.date_format)
    if is_joined:
        cells = cells.astype(str) + " " + frame[layout.time].astype(str)
    times = parse_dates(rows, cells, options.date_format)

    # The name of a column may tell its zone.
    if times.zone is None and any(word in date.lower() for word in ("gmt", "utc")):
        times = replace(times, zone="UTC", has_instants=True)

    # A time of the day beside it, and further dates.
    if layout.time is not None and not is_joined:
        times = add_time_of_day(rows, times, frame[layout.time])

    for name in others:
        times = _agreed(numbers, times, date, name)

    return TimedNumbers(numbers, times)


def _agreed(numbers: Numbers, times: Times, date: str, name: str) -> Times:
    """The finer of the times so far and those of another column of dates, which must agree."""
    further = _times_if_any(numbers.rows, numbers, name)
    if further is not None:
        # A column of days agrees with one of times on these days.
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
    """The times of a further column, None if it holds something else."""
    try:
        return parse_dates(rows, numbers.frame[name])
    except ValueError:
        return None
