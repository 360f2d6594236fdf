"""
From the dates of a file to times of bars.

Two times matter: the clock the file is written in, since an exchange's day must not become another one in UTC, and the
instant, by which bars are ordered. They differ where the file states a zone.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import date
from typing import NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from market_regimes.prices.table import Rows

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
# Hours east of Greenwich. RFC 2822 lists the American ones, the others have one meaning; of all other abbreviations the
# instant is unknown, as IST is Indian, Irish or Israeli.
ABBREVIATIONS = dict(z=0, utc=0, gmt=0, est=-5, edt=-4, cst=-6, cdt=-5, mst=-7, mdt=-6, pst=-8, pdt=-7)
ABBREVIATIONS |= dict(wet=0, west=1, cet=1, cest=2, eet=2, eest=3, msk=3, hkt=8, jst=9, kst=9, aest=10, aedt=11)
CLOCK = r"\d{1,2}:\d{2}(?::\d{2}(?:[.,:]\d+)?)?(?: ?[AaPp]\.?[Mm]\.?)?"
ZONE = r"Z|z|(?:UTC|GMT)?[+-]\d{1,2}(?::?\d{2})?|[A-Z]{2,5}|[A-Z][A-Za-z]+(?:/[A-Za-z_]+)+"
# In the syntax of RE2, which Arrow uses, and of Python. Times without colons need a T or a day of eight digits before
# them, since "Jan 04 2021" ends in four digits.
PARTS = (
    r"^ *(?:(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*\.?,? +)?"
    r"(?:(?:(?P<day1>\d{8})[ T:]?(?P<time1>\d{4}|\d{6})(?:[.,]?\d{3})?|"
    rf"(?P<day2>.*?\d)(?:(?:T|,? +|:)(?P<time2>{CLOCK})|T(?P<time3>\d{{2}}(?:\d{{2}}(?:\d{{2}})?)?)(?:[.,]\d+)?))"
    rf"(?: ?(?P<zone1>{ZONE})(?: ?[(\[].*)?)?"
    r"|(?P<day3>.*?\d)(?P<zone2>Z| ?UTC| ?GMT|[+-]\d{2}:\d{2})?) *$"
)
EPOCHS = ((1e17, 9, "nanoseconds"), (1e14, 6, "microseconds"), (1e11, 3, "milliseconds"), (0.0, 0, "seconds"))
EPOCH_1973, EPOCH_2100 = 1e8, 4.1e9  # seconds; a smaller number may be anything
MAX_OFFSET = 14 * 60  # minutes: Kiribati's is the largest
SERIAL_DAYS = (15_000, 80_000)  # of a spreadsheet: 1941 to 2119
SERIAL_EPOCH = 25_569  # 1970-01-01 in the days of a spreadsheet
NOT_ISO = (
    "the date is not in ISO form, like 2011-03-04 or 2011-03-04 15:30, nor in that of the other rows; "
    "market.date_format states another one"
)


@dataclass(frozen=True)
class Times:
    """
    Times of T rows.

    :param clock: by the clock the file is written in, datetime64[s]
    :param instant: in UTC, datetime64[s]; equal to ``clock`` where the file states no zone or one of unknown offset
    :param zone: as the file states it; None if it does not
    :param said: what was assumed, a sentence each
    :param has_instants: whether ``instant`` is in UTC
    :param zones: of each row, where a file has several; else None
    :param is_inferred: whether the rows decided if the day or the month comes first
    :param refuted_zone: stated by the user, where the file itself states another one; else None
    """

    clock: np.ndarray
    instant: np.ndarray
    zone: str | None = None
    said: list[str] = field(default_factory=list)
    has_instants: bool = False
    zones: np.ndarray | None = None
    is_inferred: bool = False
    refuted_zone: str | None = None

    def take(self, wanted: np.ndarray) -> Times:
        """:return: the times at these positions, or where a mask is True"""
        zones = None if self.zones is None else self.zones[wanted]
        zone = self.zone if zones is None else "/".join(dict.fromkeys(zones.tolist()))
        return replace(self, clock=self.clock[wanted], instant=self.instant[wanted], zone=zone, zones=zones)


class Day(NamedTuple):
    """A written day: rows of one ``form`` belong together; ``order`` is open where the year stands last."""

    form: str
    year: int
    month: int
    day: int
    is_open: bool = False


def by_unique(texts: pd.Series, parse: Callable[[str], float]) -> np.ndarray:
    """:return: ``parse`` of every text, called once for each distinct one, NaN where there is none, shape (T,)"""
    codes, uniques = pd.factorize(texts)
    values = np.array([parse(str(text)) for text in uniques] + [np.nan])
    found: np.ndarray = values[codes]
    return found


def read_times(rows: Rows, cells: pd.Series, date_format: str | None = None) -> Times:
    """
    :param rows: the rows, for refusals
    :param cells: dates as text, numbers or times, shape (T,)
    :param date_format: "day_first", "month_first", a format of ``strptime``, or None
    :return: their times
    :raises ValueError: in one sentence with row and date, if a row has none or nothing decides how it is written
    """
    if date_format is not None and "%" in date_format:
        return _by_format(rows, cells.astype(str), date_format)
    if isinstance(cells.dtype, pd.DatetimeTZDtype):
        rows.refuse(cells.isna().to_numpy(), NOT_ISO)
        clock, instant = cells.dt.tz_localize(None), cells.dt.tz_convert("UTC").dt.tz_localize(None)
        return Times(_seconds(clock), _seconds(instant), str(cells.dt.tz), has_instants=True)
    if cells.dtype.kind == "M":
        rows.refuse(cells.isna().to_numpy(), NOT_ISO)
        return Times(_seconds(cells), _seconds(cells))
    texts = cells.astype(str).str.strip()
    if cells.dtype.kind in "iuf" or _looks_numeric(texts):
        numbers = pd.to_numeric(cells if cells.dtype.kind in "iuf" else texts, errors="coerce")
        if not _are_digits_of_dates(numbers):
            return _from_numbers(rows, numbers)
        texts = numbers.astype("Int64").astype(str)
    return _from_text(rows, texts, date_format)


def time_of_day(cells: pd.Series) -> tuple[np.ndarray, pd.Series]:
    """
    :param cells: times of the day, as 09:30, 9:30:00 PM, 093000 or 930, with or without a zone, shape (T,)
    :return: seconds since midnight, NaN where there is no such time, and the zones as text, "" for none
    """
    texts = cells.astype(str).str.strip().str.replace(r"\.0$", "", regex=True)
    pattern = rf"^(\d{{1,6}}|{CLOCK})(?: ?({ZONE})(?: ?[(\[].*)?)?$"
    clock = texts.str.replace(pattern, r"\1", regex=True)
    zones = texts.str.replace(pattern, r"\2", regex=True)
    if ":" not in str(clock.iloc[0]):
        longest = int(clock.str.len().max())
        clock = clock.str.zfill(4 if longest <= 4 else 6)
        if longest <= 2 and set(clock) != {"0000"}:
            clock = clock.str.replace(r".*", "", regex=True)  # 9 may be an hour or a minute
    return by_unique(clock, _seconds_of_day), zones.where(zones != texts, "")


def add_time_of_day(rows: Rows, days: Times, cells: pd.Series) -> Times:
    """
    :param rows: the rows, for refusals
    :param days: times of the other column: midnights, or the same times of the day
    :param cells: the time of the day of each, shape (T,)
    :return: the times of both columns together
    :raises ValueError: if a cell is no time of the day, or not that which the other column has
    """
    seconds, zones = time_of_day(cells)
    rows.refuse(
        np.isnan(seconds), "the time is not one of a day, like 09:30 or 09:30:00; market.columns names it", cells
    )
    added, own = seconds.astype("m8[s]"), days.clock - days.clock.astype("M8[D]")
    if own.astype(int).any():
        rows.refuse(own != added, "the date has a time of its own, and another column has another time", cells)
        return days
    times = replace(_in_zones(rows, days.clock + added, zones, days.said), is_inferred=days.is_inferred)
    if times.zone is None:
        return replace(days, clock=times.clock, instant=days.instant + added)
    return times


def with_instants(times: Times, stated: str | None) -> Times:
    """
    :param times: of one symbol: a clock shows an hour twice for each
    :param stated: zone where the file states none, or one of unknown offset: America/New_York or -05:00; None: unknown
    :return: the same with their instants, where the zones are known
    :raises ValueError: if there is no zone of the stated name
    """
    if times.has_instants:
        return times
    if times.zone is not None:
        zones = np.full(len(times.clock), times.zone) if times.zones is None else times.zones
        offsets = np.zeros(len(zones), "m8[s]")
        known = True
        for zone in dict.fromkeys(zones.tolist()):
            found = _offsets_of(zone, times.clock[zones == zone])
            known &= found is not None
            offsets[zones == zone] = 0 if found is None else found
        if known:
            return replace(times, instant=times.clock - offsets, has_instants=True)
    if stated is None:
        return times
    offset = _offsets_of(stated, times.clock)
    if offset is None:
        raise ValueError(f"market.zone: {stated} is neither a zone like America/New_York nor an offset like -05:00")
    label = stated if np.isnan(_offset(stated)) else _label(stated)
    _check_skipped(times.clock, offset, label)
    notes = [sentence for sentence in times.said if "whose offset is not stated" not in sentence]
    notes.append(f"in the zone {label}: market.zone says so")
    return replace(times, instant=times.clock - offset, zone=label, said=notes, has_instants=True, zones=None)


def agrees_with(times: Times, stated: str) -> bool:
    """
    :param times: with their instants, by the zone of their file
    :param stated: a zone by its name or offset
    :return: whether its clock shows the same times at these instants
    """
    offset = _offsets_of(stated, times.clock)
    return offset is not None and bool((times.clock - offset == times.instant).all())


def _check_skipped(clock: np.ndarray, offset: np.ndarray, zone: str) -> None:
    """
    Refuse a zone whose clock never showed the file's times. Midnight is the name of a day, which begins later there.

    :param clock: times of the rows, datetime64[s], shape (T,)
    :param offset: east of Greenwich by the stated zone, m8[s], shape (T,)
    :param zone: as the user states it
    :raises ValueError: if summer time skips one of the times: names the first
    """
    if np.isnan(_offset(zone)):
        shown = pd.Series(clock - offset).dt.tz_localize("UTC").dt.tz_convert(ZoneInfo(zone)).dt.tz_localize(None)
        skipped = (shown.to_numpy() != clock) & (clock != clock.astype("M8[D]"))
        if skipped.any():
            first = str(clock[np.argmax(skipped)]).replace("T", " ")
            raise ValueError(
                f"market.zone: the clock of {zone} never showed {first}, which summer time skips there: state the zone "
                "in which the file is written, perhaps an offset like -05:00"
            )


def _in_zones(rows: Rows, clock: np.ndarray, texts: pd.Series, said: list[str]) -> Times:
    """Times by the clocks of the zones that stand beside them, "" for none; names are left to ``with_instants``."""
    texts = texts.str.strip()
    zones = [str(zone) for zone in texts.unique()]
    if zones == [""]:
        return Times(clock, clock, None, said)
    rows.refuse((texts == "").to_numpy(dtype=bool), "the date has no time zone, and others have one")
    labels = {zone: _label(zone) for zone in zones}
    several = len(set(labels.values())) > 1
    name = "/".join(dict.fromkeys(labels.values()))
    each = texts.map(labels).to_numpy(dtype=object) if several else None
    if any(_offsets_of(zone, clock[:0]) is None for zone in zones):
        note = f"bars are ordered by the clock of {name}, whose offset is not stated"
        return Times(clock, clock, name, [*said, note], zones=each)
    seconds = by_unique(texts, _offset)
    if np.isnan(seconds).any():
        return Times(clock, clock, name, said, zones=each)
    return Times(clock, clock - seconds.astype("m8[s]"), name, said, True, each)


def _offsets_of(zone: str, clock: np.ndarray) -> np.ndarray | None:
    """East of Greenwich at each time of a zone's clock, m8[s]; None if the zone is unknown."""
    fixed = _offset(zone)
    if not np.isnan(fixed):
        return np.full(len(clock), np.timedelta64(int(fixed), "s"))
    try:
        place = ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # OSError: the name of a folder of zones
        return None

    # The hour that a clock shows twice comes first in summer time; a midnight that summer time skips is an hour later.
    forwards = len(clock) < 2 or clock[0] <= clock[-1]
    ordered = pd.Series(clock if forwards else clock[::-1])
    first = ~ordered.duplicated().to_numpy()
    local = ordered.dt.tz_localize(place, ambiguous=first, nonexistent="shift_forward")
    instant = _seconds(local.dt.tz_convert("UTC").dt.tz_localize(None))
    offset: np.ndarray = clock - (instant if forwards else instant[::-1])
    return offset


def _seconds(times: pd.Series) -> np.ndarray:
    seconds: np.ndarray = times.to_numpy().astype("M8[s]")
    return seconds


def _looks_numeric(texts: pd.Series) -> bool:
    head = texts.iloc[:100]
    number = r"[-+]?\d+(?:\.\d+)?"  # 1.42016e12 may be rounded, and is refused
    return bool(head.str.fullmatch(number).all() and texts.str.fullmatch(number).all())


def _are_digits_of_dates(numbers: pd.Series) -> bool:
    """Whether the digits spell 20110304, 201103041530 or 20110304153000, perhaps with milliseconds."""
    values = numbers.to_numpy(dtype=np.float64)
    if np.isnan(values).any() or (values % 1).any():
        return False
    for scale in (1, 10**4, 10**6, 10**9):
        if ((values >= 19000101 * scale) & (values < 21010101 * scale)).all():
            days = pd.to_datetime(
                pd.Series(np.unique(values // scale)).astype("int64").astype(str), format="%Y%m%d", errors="coerce"
            )
            return bool(days.notna().mean() > 0.9)
    return False


def _from_numbers(rows: Rows, numbers: pd.Series) -> Times:
    """Times of epochs or of a spreadsheet's serial days."""
    rows.refuse(numbers.isna().to_numpy(), NOT_ISO)
    sizes = np.abs(numbers.to_numpy(dtype=np.float64))
    if ((sizes >= SERIAL_DAYS[0]) & (sizes < SERIAL_DAYS[1])).all():
        seconds = np.round((sizes - SERIAL_EPOCH) * 86_400).astype(np.int64).astype("M8[s]")
        return Times(seconds, seconds, None, ["dates are serial days of a spreadsheet, 1 being 1900-01-01"])
    rows.refuse(
        np.full(len(sizes), sizes.max() < EPOCH_1973),
        "the date is a number of an unknown kind; market.date_format states its format",
    )
    # An exchange may change its unit in the middle of a history. Then each number shows its own, between 1973 and 2099;
    # else the largest shows that of all, since milliseconds of 1970 look like seconds of a later year.
    own = sizes / 10.0 ** np.select([sizes >= least for least, _, _ in EPOCHS], [digits for _, digits, _ in EPOCHS])
    shown = sizes if ((own >= EPOCH_1973) & (own < EPOCH_2100)).all() else np.full(len(sizes), sizes.max())
    values = numbers.to_numpy()
    seconds, units = np.zeros(len(sizes), np.int64), []
    for least, power, unit in EPOCHS:
        mine = (shown >= least) & (shown < 1000 * max(least, 1e8))
        if mine.any():
            units.append(unit)
            seconds[mine] = np.floor_divide(values[mine], 10**power)
    times = seconds.astype("M8[s]")
    return Times(times, times, "UTC", [f"dates are epoch {' and '.join(units)} in UTC"], True)


def _by_format(rows: Rows, texts: pd.Series, date_format: str) -> Times:
    """Times in a format that the user states; zones are kept apart, so that the clock stays."""
    zones, pattern = pd.Series("", texts.index, dtype=texts.dtype), rf"^(.*?) ?({ZONE})$"
    if "%z" in date_format or "%Z" in date_format:
        zones = texts.str.replace(pattern, r"\2", regex=True)
        texts = texts.str.replace(pattern, r"\1", regex=True)
    plain = re.sub(r" ?%[zZ]", "", date_format)
    parsed = pd.to_datetime(texts.str.strip(), format=plain, errors="coerce")
    rows.refuse(parsed.isna().to_numpy(), f"the date does not fit market.date_format, {date_format}")
    return _in_zones(rows, _seconds(parsed), zones, [f"dates as market.date_format says, {date_format}"])


def _from_text(rows: Rows, texts: pd.Series, date_format: str | None) -> Times:
    parts = pc.extract_regex(pa.array(texts, pa.large_string()), PARTS)
    days, clock, zones = (_joined(parts, name) for name in ("day", "time", "zone"))
    day, said = _days(rows.source, days, date_format)
    seconds = by_unique(clock, lambda text: _seconds_of_day(text) if text else 0.0)
    rows.refuse(np.isnan(day) | np.isnan(seconds), NOT_ISO)
    times = _in_zones(rows, day.astype("M8[D]").astype("M8[s]") + seconds.astype("m8[s]"), zones, said)
    return replace(times, is_inferred=bool(said) and date_format is None)


def _joined(parts: pa.Array, name: str) -> pd.Series:
    """The groups of one kind, of which at most one holds text; "" where the text has no parts."""
    groups = [pc.struct_field(parts, field.name) for field in parts.type if field.name.startswith(name)]
    joined = pc.binary_join_element_wise(*groups, pa.scalar("", pa.large_string()))
    return pd.Series(pc.fill_null(joined, "").to_pandas())


def _seconds_of_day(text: str) -> float:
    """Seconds since midnight of 9:30, 09:30:00.5, 9:30 PM, 09, 0930 or 093000; NaN if it is none of them."""
    found = re.fullmatch(r"(\d{1,2}):(\d{2})(?::(\d{2})(?:[.,:]\d+)?)?(?: ?([AaPp])\.?[Mm]\.?)?", text)
    found = found or re.fullmatch(r"(\d{2})(?:(\d{2})(\d{2})?)?()", text)
    if not found:
        return np.nan
    hour, minute, second = (int(part or 0) for part in found.groups()[:3])
    half = (found[4] or "").lower()
    if half:
        if not 1 <= hour <= 12:
            return np.nan
        hour = hour % 12 + 12 * (half == "p")
    return 3600.0 * hour + 60 * minute + second if hour < 24 and minute < 60 and second < 60 else np.nan


def _day(text: str) -> Day | None:
    """The parts of a written day; None if it is in no known form."""
    if found := re.fullmatch(r"(\d{4})([-/. ])(\d{1,2})\2(\d{1,2})", text):
        return Day(f"Y{found[2]}", int(found[1]), int(found[3]), int(found[4]))
    if found := re.fullmatch(r"(\d{4})(\d{2})(\d{2})", text) or re.fullmatch(r"(\d{4})-(\d{2})()", text):
        return Day("Y-", int(found[1]), int(found[2]), int(found[3] or 1))
    if found := re.fullmatch(r"(\d{1,2})([-/. ])(\d{1,2})\2(\d{4}|\d{2})", text):
        return Day(f"{found[2]}{len(found[4])}", int(found[4]), int(found[3]), int(found[1]), is_open=True)
    patterns = (
        r"(?P<d>\d{1,2})[-/. ]*(?P<m>[A-Za-z]{3,9})\.?[-/., ]*(?P<y>\d{4})",
        r"(?P<m>[A-Za-z]{3,9})\.?[-/. ]*(?P<d>\d{1,2})(?:st|nd|rd|th)?[-/., ]+(?P<y>\d{4})",
        r"(?P<y>\d{4})[-/. ]*(?P<m>[A-Za-z]{3,9})\.?[-/., ]*(?P<d>\d{1,2})",
    )
    for pattern in patterns:
        found = re.fullmatch(pattern, text)
        if found and found["m"][:3].lower() in MONTHS:
            return Day("name", int(found["y"]), MONTHS.index(found["m"][:3].lower()) + 1, int(found["d"]))
    return None


def _number_of(day: Day | None, form: str, month_first: bool) -> float:
    """Days since 1970-01-01; NaN if it is no day of this form."""
    if day is None or day.form != form:
        return np.nan
    year = day.year + (0 if day.year > 99 else 2000 if day.year < 69 else 1900)  # as strptime's %y
    month, number = (day.day, day.month) if month_first and day.is_open else (day.month, day.day)
    try:
        return float(date(year, month, number).toordinal() - date(1970, 1, 1).toordinal())
    except ValueError:
        return np.nan


def _days(source: str, texts: pd.Series, date_format: str | None) -> tuple[np.ndarray, list[str]]:
    """Days since 1970-01-01, NaN where there is none in the form of most rows, and what decided."""
    codes, uniques = pd.factorize(texts)
    counts = np.bincount(codes[codes >= 0], minlength=len(uniques))
    written = {str(text): _day(str(text)) for text in uniques}
    weights: dict[str, int] = {}
    for day, count in zip(written.values(), counts, strict=True):
        if day is not None:
            weights[day.form] = weights.get(day.form, 0) + int(count)
    form = max(weights, key=lambda form: weights[form], default="")
    of_form = {text: day for text, day in written.items() if day is not None and day.form == form}
    month_first = False
    said: list[str] = []
    if any(day.is_open for day in of_form.values()):
        month_first, said = _order(source, of_form, date_format)
    numbers = np.array([_number_of(day, form, month_first) for day in written.values()] + [np.nan])
    return numbers[codes], said


def _order(source: str, days: dict[str, Day], date_format: str | None) -> tuple[bool, list[str]]:
    """Whether the month comes first where the year comes last, and what decided it."""
    text = next(iter(days))
    if date_format is not None:
        return date_format == "month_first", [f"{date_format.replace('_', ' ')}: market.date_format says so"]
    if days[text].form.endswith("2"):
        raise ValueError(
            f"{source}: a year of two digits, as in {text}, leaves the order open: set market.date_format, for example "
            "to %d/%m/%y or %m/%d/%y"
        )
    day_first = next((text for text, day in days.items() if day.day > 12 >= day.month), None)
    month_first = next((text for text, day in days.items() if day.month > 12 >= day.day), None)
    if day_first and month_first:
        raise ValueError(
            f"{source}: {day_first} has the day first and {month_first} the month: write all dates alike, in the order "
            "that market.date_format may state"
        )
    if not day_first and not month_first:
        raise ValueError(
            f"{source}: {text} may have the day or the month first, and no day above 12 decides: set "
            "market.date_format to day_first or month_first"
        )
    return bool(month_first), [
        f"month first: {month_first} decides" if month_first else f"day first: {day_first} decides"
    ]


def _offset(zone: str) -> float:
    """Seconds east of Greenwich; NaN if unknown."""
    if zone.lower() in ABBREVIATIONS:
        return 3600.0 * ABBREVIATIONS[zone.lower()]
    found = re.fullmatch(r"(?:UTC|GMT)?([+-])(\d{1,2}):?(\d{2})?", zone)
    if not found:
        return np.nan
    hours = int(found[2])
    minutes = int(found[3] or 0)
    if hours * 60 + minutes > MAX_OFFSET or minutes > 59:
        return np.nan
    sign = -1 if found[1] == "-" else 1
    return sign * (3600.0 * hours + 60.0 * minutes)


def _label(zone: str) -> str:
    """An offset as +02:00, other zones as they are written."""
    offset = _offset(zone)
    if np.isnan(offset) or zone.lower() in ABBREVIATIONS:
        return "UTC" if zone in ("Z", "z") else zone
    return f"{'-' if offset < 0 else '+'}{int(abs(offset)) // 3600:02d}:{int(abs(offset)) % 3600 // 60:02d}"


def is_day(text: str) -> bool:
    """:return: whether a cell can be a date by itself: a written day, with or without a time, or an epoch"""
    if re.fullmatch(r"-?\d{9,19}(?:\.0*)?", text):
        return True
    parts = re.match(PARTS, text)
    return parts is not None and _day(parts["day1"] or parts["day2"] or parts["day3"]) is not None
