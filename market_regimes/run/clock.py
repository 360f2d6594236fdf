"""What time it is by the clock that bars are written in."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Protocol
from zoneinfo import ZoneInfo

import numpy as np

from market_regimes.config import ArgumentError

OFFSET = re.compile(r"(?:UTC|GMT)?([+-])(\d{1,2}):?(\d{2})?")
DAY_SECONDS = 86_400
AT_GREENWICH = ("UTC", "GMT", "Z")


class Zoned(Protocol):
    """What has times, in the clock of its file and in UTC, and perhaps the name of a zone: bars or a market."""

    @property
    def source(self) -> str: ...

    @property
    def dates(self) -> np.ndarray: ...

    @property
    def instants(self) -> np.ndarray: ...

    @property
    def zone(self) -> str | None: ...


@dataclass(frozen=True)
class Clock:
    """
    Now, by the clock of a file.

    :param now: by that clock, datetime64[s]
    :param instant: the same in UTC, datetime64[s]
    :param assumed: a sentence on what was assumed of the clock, None: nothing
    """

    now: np.datetime64
    instant: np.datetime64
    assumed: str | None = None


def clock_of(bars: Zoned, now: datetime | None = None, stated: str | None = None) -> Clock:
    """
    :param bars: whose clock it is
    :param now: with a zone: that instant; without one: by the clock of the bars; None: this moment
    :param stated: zone of the bars, where their file states none
    :return: the time by the clock of the bars; where nothing states their zone, they are taken for UTC
    :raises ValueError: if ``stated`` is no zone, or another one than the file's
    """
    zone = _zone_of_file(bars)
    if stated is not None:
        zone = _agreed(bars, zone, zone_named(stated), stated)

    # A time without a zone is one of the clock that is asked for: nothing is assumed.
    if now is not None and now.tzinfo is None:
        instant = now.replace(tzinfo=zone or UTC).astimezone(UTC)
        return Clock(_seconds(now), _seconds(instant))
    moment = datetime.now(UTC) if now is None else now.astimezone(UTC)
    assumed = None
    if zone is None:
        written = "no time zone" if bars.zone is None else f"the time zone {bars.zone}, whose offset is not known"
        assumed = f"the bars state {written}: their clock is taken for UTC, unless zone states another one"
    return Clock(_seconds(moment.astimezone(zone or UTC)), _seconds(moment), assumed)


def zone_named(name: str) -> tzinfo:
    """
    :param name: like America/New_York, UTC or +02:00
    :return: the zone
    :raises ValueError: if there is no such zone
    """
    zone = _zone(name)
    if zone is None:
        raise ArgumentError(lambda argument: f"{argument('zone')}={name} is no zone like America/New_York or +02:00")
    return zone


def _zone_of_file(bars: Zoned) -> tzinfo | None:
    """The zone that a file states; of several offsets that of its last bar; None: none is stated, or an unknown one."""
    if bars.zone is None:
        return None
    zone = _zone(bars.zone)
    if zone is not None:
        return zone

    # Instants tell the offset of a zone whose name says nothing.
    offsets = (bars.dates - bars.instants).astype("m8[s]").astype(np.int64)
    if not offsets.any():
        return None
    return timezone(timedelta(seconds=int(offsets[-1])))


def _zone(name: str) -> tzinfo | None:
    """A zone by its name or offset; None: there is no such zone."""
    if name.upper() in AT_GREENWICH:
        return UTC
    offset = OFFSET.fullmatch(name)
    if offset is not None:
        seconds = 3600 * int(offset[2]) + 60 * int(offset[3] or 0)
        if seconds >= DAY_SECONDS:
            return None
        sign = -1 if offset[1] == "-" else 1
        return timezone(timedelta(seconds=sign * seconds))
    try:
        return ZoneInfo(name)
    except (ValueError, OSError):  # a key that is not found is a KeyError of its own kind
        return None
    except KeyError:
        return None


def _agreed(bars: Zoned, of_file: tzinfo | None, stated: tzinfo, name: str) -> tzinfo:
    """The stated zone, which may not be another one than the file's."""
    if of_file is None or bars.zone == name:
        return stated

    # Zones are alike where their offsets are, in winter and in summer.
    for noon in (datetime(2024, 1, 1, 12), datetime(2024, 7, 1, 12)):
        if noon.replace(tzinfo=of_file).utcoffset() != noon.replace(tzinfo=stated).utcoffset():
            raise ArgumentError(lambda argument: f"{argument('zone')}={name}: {bars.source} states {bars.zone}")
    return stated


def _seconds(time: datetime) -> np.datetime64:
    return np.datetime64(time.replace(tzinfo=None), "s")
