"""Conversion of cells to times: written dates, epochs, serial days of a spreadsheet, times of day."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from market_regimes.prices.days import numbers_of_days, read_day
from market_regimes.prices.notes import Notes
from market_regimes.prices.numerals import is_text
from market_regimes.prices.rows import Rows
from market_regimes.prices.zones import (
    ZONE,
    Times,
    by_unique,
    in_written_zones,
    seconds_of,
)

CLOCK = r"\d{1,2}:\d{2}(?::\d{2}(?:[.,:]\d+)?)?(?: ?[AaPp]\.?[Mm]\.?)?"
# Patterns in the syntax of RE2, which Arrow uses, and of Python. Times without colons must follow a T or a day of eight
# digits, since "Jan 04 2021" ends in four digits.
PARTS = (
    r"^ *(?:(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*\.?,? +)?"
    r"(?:(?:(?P<day1>\d{8})[ T:]?(?P<time1>\d{4}|\d{6})(?:[.,]?\d{3})?|"
    rf"(?P<day2>.*?\d)(?:(?:T|,? +|:)(?P<time2>{CLOCK})|T(?P<time3>\d{{2}}(?:\d{{2}}(?:\d{{2}})?)?)(?:[.,]\d+)?))"
    rf"(?: ?(?P<zone1>{ZONE})(?: ?[(\[].*)?)?"
    r"|(?P<day3>.*?\d)(?P<zone2>Z| ?UTC| ?GMT|[+-]\d{2}:\d{2})?) *$"
)
WITH_COLONS = r"(\d{1,2}):(\d{2})(?::(\d{2})(?:[.,:]\d+)?)?(?: ?([AaPp])\.?[Mm]\.?)?"
WITHOUT_COLONS = r"(\d{2})(?:(\d{2})(\d{2})?)?()"
EPOCH_CELL = r"-?\d{9,19}(?:\.0*)?"

EPOCHS = (
    (1e17, 9, "nanoseconds"),
    (1e14, 6, "microseconds"),
    (1e11, 3, "milliseconds"),
    (0.0, 0, "seconds"),
)
EPOCH_1973 = 1e8  # seconds; a smaller number may mean anything
EPOCH_2100 = 4.1e9  # seconds
SERIAL_DAYS = (15_000, 80_000)  # days of a spreadsheet: 1941 to 2119
SERIAL_EPOCH = 25_569  # 1970-01-01 in days of a spreadsheet
DAY_SECONDS = 86_400
FIRST_CELLS = 20  # cells of a column that reveal its content

NOT_ISO = (
    "the date is not in ISO form, like 2011-03-04 or 2011-03-04 15:30, nor in that of the other rows; "
    "market.date_format states another one"
)
NO_TIME_OF_DAY = "the time is not one of a day, like 09:30 or 09:30:00; market.columns names it"


def is_day(text: str) -> bool:
    """:return: whether a cell can be a complete date: a written day, with or without a time, or an epoch"""
    if re.fullmatch(EPOCH_CELL, text):
        return True
    parts = re.match(PARTS, text)
    if parts is None:
        return False
    day = parts["day1"] or parts["day2"] or parts["day3"]

    return read_day(day) is not None


def holds_days(column: pd.Series) -> bool:
    """:return: whether a column's first cells are all dates"""
    if column.dtype.kind == "M" or isinstance(column.dtype, pd.DatetimeTZDtype):
        return True
    if not is_text(column):
        return False
    cells = column.dropna().head(FIRST_CELLS)
    return len(cells) > 0 and all(is_day(str(cell).strip()) for cell in cells)


def holds_times_of_day(column: pd.Series) -> bool:
    """:return: whether one of a column's first cells is a time of day"""
    if not is_text(column):
        return False
    seconds, _ = time_of_day(column.iloc[:FIRST_CELLS])
    return bool(np.isfinite(seconds).any())


def parse_dates(rows: Rows, cells: pd.Series, date_format: str | None = None) -> Times:
    """
    :param rows: the rows, for error messages
    :param cells: dates as text, numbers or times, shape (T,)
    :param date_format: "day_first", "month_first", a format of ``strptime``, or None
    :return: their times
    :raises ValueError: if a row has no date or its format is ambiguous; a sentence with row and date
    """
    if date_format is not None and "%" in date_format:
        return _by_format(rows, cells.astype(str), date_format)
    if isinstance(cells.dtype, pd.DatetimeTZDtype) or cells.dtype.kind == "M":
        return _from_times(rows, cells)

    # Numbers are epochs or serial days, unless their digits spell dates.
    texts = cells.astype(str).str.strip()

    is_numeric = cells.dtype.kind in "iuf"
    if is_numeric or _looks_numeric(texts):
        spelled = texts
        if is_numeric:
            spelled = cells
        numbers = pd.to_numeric(spelled, errors="coerce")
        if not _are_digits_of_dates(numbers):
            return _from_numbers(rows, numbers)
        texts = numbers.astype("Int64").astype(str)

    return _from_text(rows, texts, date_format)


def time_of_day(cells: pd.Series) -> tuple[np.ndarray, pd.Series]:
    """
    :param cells: times of day, as 09:30, 9:30:00 PM, 093000 or 930, with or without a zone, shape (T,)
    :return: seconds since midnight, NaN where there is no such time, and the zones as text, "" for none
    """
    texts = cells.astype(str).str.strip().str.replace(r"\.0$", "", regex=True)
    pattern = rf"^(\d{{1,6}}|{CLOCK})(?: ?({ZONE})(?: ?[(\[].*)?)?$"
    clock = texts.str.replace(pattern, r"\1", regex=True)
    zones = texts.str.replace(pattern, r"\2", regex=True)

    # Digits alone lack leading zeros.
    if ":" not in str(clock.iloc[0]):
        longest = int(clock.str.len().max())
        width = 4
        if longest > 4:
            width = 6
        clock = clock.str.zfill(width)
        if longest <= 2 and set(clock) != {"0000"}:
            clock = clock.str.replace(r".*", "", regex=True)  # 9 may be an hour or a minute

    return by_unique(clock, _seconds_of_day), zones.where(zones != texts, "")


def add_time_of_day(rows: Rows, days: Times, cells: pd.Series) -> Times:
    """
    :param rows: the rows, for error messages
    :param days: times of the other column: midnights, or the same times of day
    :param cells: time of day of each row, shape (T,)
    :return: times of both columns combined
    :raises ValueError: if a cell is not a time of day, or differs from that of the other column
    """
    seconds, zones = time_of_day(cells)
    rows.refuse(np.isnan(seconds), NO_TIME_OF_DAY, cells)

    # The other column may include the time as well.
    added = seconds.astype("m8[s]")
    present = days.clock - days.clock.astype("M8[D]")
    if present.astype(int).any():
        rows.refuse(
            present != added,
            "the date has a time of its own, and another column has another time",
            cells,
        )
        return days

    times = in_written_zones(rows, days.clock + added, zones, days.notes)
    if times.zone is None:
        return replace(days, clock=times.clock, instant=days.instant + added)
    return replace(times, is_inferred=days.is_inferred)


def _from_times(rows: Rows, cells: pd.Series) -> Times:
    """Convert a column of times, with or without a zone."""
    rows.refuse(cells.isna().to_numpy(), NOT_ISO)
    if not isinstance(cells.dtype, pd.DatetimeTZDtype):
        return Times(seconds_of(cells), seconds_of(cells))
    clock = cells.dt.tz_localize(None)
    instant = cells.dt.tz_convert("UTC").dt.tz_localize(None)

    return Times(seconds_of(clock), seconds_of(instant), str(cells.dt.tz), has_instants=True)


def _looks_numeric(texts: pd.Series) -> bool:
    """Return whether all cells are numbers. 1.42016e12 may be rounded and does not count."""
    number = r"[-+]?\d+(?:\.\d+)?"
    head = texts.iloc[:100]
    return bool(head.str.fullmatch(number).all() and texts.str.fullmatch(number).all())


def _are_digits_of_dates(numbers: pd.Series) -> bool:
    """Return whether the digits spell 20110304, 201103041530 or 20110304153000, perhaps with milliseconds."""
    values = numbers.to_numpy(dtype=np.float64)
    if np.isnan(values).any() or (values % 1).any():
        return False

    for scale in (1, 10**4, 10**6, 10**9):
        within = (values >= 19000101 * scale) & (values < 21010101 * scale)
        if within.all():
            digits = pd.Series(np.unique(values // scale)).astype("int64").astype(str)
            days = pd.to_datetime(digits, format="%Y%m%d", errors="coerce")
            return bool(days.notna().mean() > 0.9)

    return False


def _from_numbers(rows: Rows, numbers: pd.Series) -> Times:
    """Convert epochs or serial days of a spreadsheet."""
    rows.refuse(numbers.isna().to_numpy(), NOT_ISO)

    sizes = np.abs(numbers.to_numpy(dtype=np.float64))
    if ((sizes >= SERIAL_DAYS[0]) & (sizes < SERIAL_DAYS[1])).all():
        seconds = np.round((sizes - SERIAL_EPOCH) * DAY_SECONDS)
        times = seconds.astype(np.int64).astype("M8[s]")
        return Times(
            times,
            times,
            None,
            Notes(("dates are serial days of a spreadsheet, 1 being 1900-01-01",)),
        )

    rows.refuse(
        np.full(len(sizes), sizes.max() < EPOCH_1973),
        "the date is a number of an unknown kind; market.date_format states its format",
    )

    # An exchange may change its unit within a history. From 1973 to 2099 each number reveals its unit. Otherwise the
    # largest decides for all, since milliseconds of 1970 look like seconds of a later year.
    digits = np.select([sizes >= least for least, _, _ in EPOCHS], [digits for _, digits, _ in EPOCHS])
    in_seconds = sizes / 10.0**digits
    shown = sizes
    if not ((in_seconds >= EPOCH_1973) & (in_seconds < EPOCH_2100)).all():
        shown = np.full(len(sizes), sizes.max())

    values = numbers.to_numpy()
    whole = np.zeros(len(sizes), np.int64)

    units = []
    for least, power, unit in EPOCHS:
        of_unit = (shown >= least) & (shown < 1000 * max(least, EPOCH_1973))
        if of_unit.any():
            units.append(unit)
            whole[of_unit] = np.floor_divide(values[of_unit], 10**power)

    times = whole.astype("M8[s]")

    return Times(
        times,
        times,
        "UTC",
        Notes((f"dates are epoch {' and '.join(units)} in UTC",)),
        has_instants=True,
    )


def _by_format(rows: Rows, texts: pd.Series, date_format: str) -> Times:
    """Parse times in the user's format. Zones are parsed separately, so that the clock stays."""
    zones = pd.Series("", texts.index, dtype=texts.dtype)
    if "%z" in date_format or "%Z" in date_format:
        pattern = rf"^(.*?) ?({ZONE})$"
        zones = texts.str.replace(pattern, r"\2", regex=True)
        texts = texts.str.replace(pattern, r"\1", regex=True)

    without_zone = re.sub(r" ?%[zZ]", "", date_format)
    parsed = pd.to_datetime(texts.str.strip(), format=without_zone, errors="coerce")
    rows.refuse(
        parsed.isna().to_numpy(),
        f"the date does not fit market.date_format, {date_format}",
    )
    notes = Notes((f"dates as market.date_format says, {date_format}",))

    return in_written_zones(rows, seconds_of(parsed), zones, notes)


def _from_text(rows: Rows, texts: pd.Series, date_format: str | None) -> Times:
    """Parse written dates, with days, clocks and zones separate."""
    parts = pc.extract_regex(pa.array(texts, pa.large_string()), PARTS)
    days, notes = numbers_of_days(rows.source, _joined(parts, "day"), date_format)
    seconds = by_unique(_joined(parts, "time"), _seconds_of_clock)
    rows.refuse(np.isnan(days) | np.isnan(seconds), NOT_ISO)

    clock = days.astype("M8[D]").astype("M8[s]") + seconds.astype("m8[s]")
    times = in_written_zones(rows, clock, _joined(parts, "zone"), notes)

    return replace(times, is_inferred=bool(notes.assumptions) and date_format is None)


def _joined(parts: pa.Array, name: str) -> pd.Series:
    """Join the groups of one kind, of which at most one matched; "" for a text without them."""
    groups = [pc.struct_field(parts, field.name) for field in parts.type if field.name.startswith(name)]
    joined = pc.binary_join_element_wise(*groups, pa.scalar("", pa.large_string()))
    return pd.Series(pc.fill_null(joined, "").to_pandas())


def _seconds_of_clock(text: str) -> float:
    """Return seconds since midnight, 0 for a date without a time."""
    if not text:
        return 0.0
    return _seconds_of_day(text)


def _seconds_of_day(text: str) -> float:
    """Return seconds since midnight of 9:30, 09:30:00.5, 9:30 PM, 09, 0930 or 093000, NaN for anything else."""
    match = re.fullmatch(WITH_COLONS, text) or re.fullmatch(WITHOUT_COLONS, text)
    if not match:
        return np.nan
    hour, minute, second = (int(part or 0) for part in match.groups()[:3])

    # A clock of twelve hours starts with 12.
    half = (match[4] or "").lower()
    if half and not 1 <= hour <= 12:
        return np.nan
    if half:
        hour = hour % 12 + 12 * (half == "p")
    if hour > 23 or minute > 59 or second > 59:
        return np.nan
    return 3600.0 * hour + 60 * minute + second
