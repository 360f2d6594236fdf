"""
Times of rows, and the zones of their clocks.

Two times matter: the file's clock, since an exchange's day must not become another day in UTC, and the instant, which
orders bars. They differ if a zone is stated.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import pandas as pd

from market_regimes.prices.notes import NO_NOTES, Notes
from market_regimes.prices.paths import names_of
from market_regimes.prices.rows import Rows

# Hours east of Greenwich. RFC 2822 lists the American abbreviations, the others have one meaning. All other
# abbreviations leave the instant unknown: IST is Indian, Irish or Israeli.
ABBREVIATIONS = dict(z=0, utc=0, gmt=0, est=-5, edt=-4, cst=-6, cdt=-5, mst=-7, mdt=-6, pst=-8, pdt=-7)
ABBREVIATIONS |= dict(
    wet=0,
    west=1,
    cet=1,
    cest=2,
    eet=2,
    eest=3,
    msk=3,
    hkt=8,
    jst=9,
    kst=9,
    aest=10,
    aedt=11,
)
ZONE = r"Z|z|(?:UTC|GMT)?[+-]\d{1,2}(?::?\d{2})?|[A-Z]{2,5}|[A-Z][A-Za-z]+(?:/[A-Za-z_]+)+"
MAX_OFFSET = 14 * 60  # minutes; Kiribati's is the largest


@dataclass(frozen=True)
class Times:
    """
    Times of T rows.

    :param clock: times by the file's clock, datetime64[s]
    :param instant: times in UTC, datetime64[s]; equal to ``clock`` without a zone of known offset
    :param zone: zone as the file states it, None: not stated
    :param notes: assumptions
    :param has_instants: whether ``instant`` is in UTC
    :param zones: zone of each row if a file has several, else None
    :param is_inferred: whether the rows decided the order of day and month
    """

    clock: np.ndarray
    instant: np.ndarray
    zone: str | None = None
    notes: Notes = NO_NOTES
    has_instants: bool = False
    zones: np.ndarray | None = None
    is_inferred: bool = False

    def take(self, selection: np.ndarray) -> Times:
        """:return: times at these positions, or where a mask is True"""
        zones = self.zones
        zone = self.zone
        if zones is not None:
            zones = zones[selection]
            zone = "/".join(dict.fromkeys(zones.tolist()))
        return replace(
            self,
            clock=self.clock[selection],
            instant=self.instant[selection],
            zone=zone,
            zones=zones,
        )


def seconds_of(times: pd.Series) -> np.ndarray:
    """:return: the times as datetime64[s]"""
    seconds: np.ndarray = times.to_numpy().astype("M8[s]")
    return seconds


def by_unique(texts: pd.Series, parse: Callable[[str], float]) -> np.ndarray:
    """:return: ``parse`` of every text, NaN where there is none, shape (T,); each distinct text is parsed once"""
    # Parse each text once, since dates repeat.
    codes, uniques = pd.factorize(texts)
    values = np.array([parse(str(text)) for text in uniques] + [np.nan])
    of_texts: np.ndarray = values[codes]
    return of_texts


def in_written_zones(rows: Rows, clock: np.ndarray, texts: pd.Series, notes: Notes) -> Times:
    """
    :param rows: the rows, for error messages
    :param clock: times of the rows, datetime64[s], shape (T,)
    :param texts: zones written beside them, "" for none, shape (T,)
    :param notes: assumptions so far
    :return: their times. ``with_instants`` adds the instants of named zones, since a clock shows an hour twice for
        each symbol
    :raises ValueError: if only some rows have a zone
    """
    texts = texts.str.strip()
    zones = [str(zone) for zone in texts.unique()]
    if zones == [""]:
        return Times(clock, clock, None, notes)
    rows.refuse(
        (texts == "").to_numpy(dtype=bool),
        "the date has no time zone, and others have one",
    )

    # Keep each row's zone if there are several.
    labels = {zone: _label(zone) for zone in zones}
    name = "/".join(dict.fromkeys(labels.values()))
    each = None
    if len(set(labels.values())) > 1:
        each = texts.map(labels).to_numpy(dtype=object)

    # Offsets give the instants directly.
    offsets = by_unique(texts, _offset)
    if np.isnan(offsets).any():
        return Times(clock, clock, name, notes, zones=each)
    return Times(clock, clock - offsets.astype("m8[s]"), name, notes, True, each)


def with_instants(times: Times, symbol: str, source: str, zone: str | dict[str, str] | None) -> Times:
    """
    :param times: times of one symbol
    :param symbol: its name
    :param source: its file
    :param zone: zone of files that state none, America/New_York or -05:00; or file or symbol -> zone; None: unknown
    :return: the same times with their instants, if the zones are known
    :raises ValueError: if no zone has the stated name, its clock never showed the file's times, or the file states
        a zone other than the user's
    """
    # The file's zone comes first, then the user's.
    stated = _stated_zone(symbol, source, zone)
    times = _in_named_zones(times)
    if not times.has_instants:
        return _in_stated_zone(times, stated)

    # The file's zone is right. A zone for all files only means those without one.
    if stated is None or _agrees_with(times, stated):
        return times
    if isinstance(zone, dict):
        raise ValueError(f"market.zone states {stated} for {symbol}, and {source} states {times.zone} itself")
    notes = times.notes.and_assumed(f"the file states {times.zone} itself: market.zone={stated} is not used")

    return replace(times, notes=replace(notes, unused_zone=stated))


def _stated_zone(symbol: str, source: str, zone: str | dict[str, str] | None) -> str | None:
    """Return the user's zone for a symbol."""
    if not isinstance(zone, dict):
        return zone
    names = names_of(symbol, source)
    return next((place for name, place in zone.items() if name in names), None)


def _in_stated_zone(times: Times, stated: str | None) -> Times:
    """Add instants by the user's zone if the file states none, or one of unknown offset."""
    if stated is None:
        if times.zone is None:
            return times
        note = f"bars are ordered by the clock of {times.zone}, whose offset is not stated"
        return replace(times, notes=times.notes.and_assumed(note))

    offsets = _offsets_of(stated, times.clock)
    if offsets is None:
        raise ValueError(f"market.zone: {stated} is neither a zone like America/New_York nor an offset like -05:00")
    label = stated
    if not np.isnan(_offset(stated)):
        label = _label(stated)
    _check_skipped(times.clock, offsets, label)
    notes = times.notes.and_assumed(f"in the zone {label}: market.zone says so")

    return replace(
        times,
        instant=times.clock - offsets,
        zone=label,
        notes=notes,
        has_instants=True,
        zones=None,
    )


def _agrees_with(times: Times, stated: str) -> bool:
    """Return whether a zone's clock shows the same times at the instants of the file's zone."""
    offsets = _offsets_of(stated, times.clock)
    return offsets is not None and bool((times.clock - offsets == times.instant).all())


def _in_named_zones(times: Times) -> Times:
    """Add instants if the file names known zones."""
    if times.has_instants or times.zone is None:
        return times
    zones = times.zones
    if zones is None:
        zones = np.full(len(times.clock), times.zone)

    # One unknown zone leaves all instants unknown.
    offsets = np.zeros(len(zones), "m8[s]")

    for zone in dict.fromkeys(zones.tolist()):
        of_zone = _offsets_of(zone, times.clock[zones == zone])
        if of_zone is None:
            return times
        offsets[zones == zone] = of_zone

    return replace(times, instant=times.clock - offsets, has_instants=True)


def _check_skipped(clock: np.ndarray, offsets: np.ndarray, zone: str) -> None:
    """
    Refuse a zone whose clock never showed the file's times. Midnight only names a day, which may start later.

    :param clock: times of the rows, datetime64[s], shape (T,)
    :param offsets: offsets east of Greenwich in the stated zone, m8[s], shape (T,)
    :param zone: the user's zone
    :raises ValueError: if summer time skips one of the times. The message names the first
    """
    if not np.isnan(_offset(zone)):
        return

    # Conversion to UTC and back changes times that were never shown.
    instants = pd.Series(clock - offsets).dt.tz_localize("UTC")
    shown = instants.dt.tz_convert(ZoneInfo(zone)).dt.tz_localize(None)

    skipped = (shown.to_numpy() != clock) & (clock != clock.astype("M8[D]"))
    if skipped.any():
        first = str(clock[np.argmax(skipped)]).replace("T", " ")
        raise ValueError(
            f"market.zone: the clock of {zone} never showed {first}, which summer time skips there: state the zone "
            "in which the file is written, perhaps an offset like -05:00"
        )


def _offsets_of(zone: str, clock: np.ndarray) -> np.ndarray | None:
    """Return offsets east of Greenwich at each time of a zone's clock, m8[s], None: unknown zone."""
    # A fixed offset applies at all times.
    fixed = _offset(zone)
    if not np.isnan(fixed):
        return np.full(len(clock), np.timedelta64(int(fixed), "s"))

    try:
        place = ZoneInfo(zone)
    except (
        ZoneInfoNotFoundError,
        ValueError,
        OSError,
    ):  # OSError: a folder of zones has this name
        return None

    # An hour that a clock shows twice is first in summer time. A midnight that summer time skips is an hour later.
    forwards = len(clock) < 2 or clock[0] <= clock[-1]
    ordered = pd.Series(clock)
    if not forwards:
        ordered = pd.Series(clock[::-1])
    first = ~ordered.duplicated().to_numpy()
    local = ordered.dt.tz_localize(place, ambiguous=first, nonexistent="shift_forward")
    instant = seconds_of(local.dt.tz_convert("UTC").dt.tz_localize(None))
    if not forwards:
        instant = instant[::-1]
    offsets: np.ndarray = clock - instant

    return offsets


def _offset(zone: str) -> float:
    """Return seconds east of Greenwich, NaN: unknown."""
    if zone.lower() in ABBREVIATIONS:
        return 3600.0 * ABBREVIATIONS[zone.lower()]
    match = re.fullmatch(r"(?:UTC|GMT)?([+-])(\d{1,2}):?(\d{2})?", zone)
    if not match:
        return np.nan

    # No place is farther from Greenwich than Kiribati.
    hours = int(match[2])
    minutes = int(match[3] or 0)
    if hours * 60 + minutes > MAX_OFFSET or minutes > 59:
        return np.nan
    seconds = 3600.0 * hours + 60.0 * minutes
    if match[1] == "-":
        return -seconds
    return seconds


def _label(zone: str) -> str:
    """Format an offset as +02:00. Other zones stay as written."""
    offset = _offset(zone)
    if np.isnan(offset) or zone.lower() in ABBREVIATIONS:
        if zone in ("Z", "z"):
            return "UTC"
        return zone

    # Format an offset as +02:00.
    sign = "-" if offset < 0 else "+"
    hours, seconds = divmod(int(abs(offset)), 3600)

    return f"{sign}{hours:02d}:{seconds // 60:02d}"
