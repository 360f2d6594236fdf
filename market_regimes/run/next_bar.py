"""When a bar closes, and which bar is missing, by the spacing of the bars that there are."""

from __future__ import annotations

import numpy as np

from market_regimes.prices import BarLength, bar_length

RECENT = np.timedelta64(28, "D")  # four weeks: one holiday hides no weekday, and a change of the clock is soon over
STAMPS = 24  # last bars whose stamps show what they name: the beginning of a bar or its end
SECOND = np.timedelta64(1, "s")
DAY = np.timedelta64(1, "D")
DAY_SECONDS = 86_400
FRIDAY = 4  # from Monday, 0
SATURDAY = 5
LATE_IN_MONTH = 25  # day from which on a stamp names a month's end
EARLY_IN_MONTH = 7  # day up to which a stamp names a month's beginning


def closing_time(dates: np.ndarray) -> np.datetime64:
    """
    When the last bar is over, whatever its stamp names. A file does not say when a session ends, so a day ends at
    midnight, and a stamp that may name a bar's beginning is taken for it.

    - shorter than a day: one length after the stamp
    - a day: the midnight after the stamp; one day after it where stamps at another time fall on weekends, too
    - a week: the midnight after the stamp where stamps are Fridays or Saturdays, which end it; else a week after it
    - months: the end of the month of the stamp where stamps are late in it, else as many months after its beginning

    :param dates: times of the bars by their file's clock, datetime64[s], increasing, at least two
    :return: by the same clock, datetime64[s]
    """
    length = bar_length(dates)
    last: np.datetime64 = dates[-1].astype("M8[s]")
    stamps = dates[-STAMPS:].astype("M8[s]")

    # Shorter than a day, or of months.
    if length.unit == "second":
        after: np.datetime64 = last + np.timedelta64(length.count, "s")
        return after
    if length.unit == "month":
        return _end_of_month(stamps, length)

    # The midnight after the stamp, and a whole bar after it.
    midnight: np.datetime64 = (last.astype("M8[D]") + 1).astype("M8[s]")
    later: np.datetime64 = last + np.timedelta64(length.count, "D")
    weekdays = _weekdays(stamps)

    # A day ends at midnight, unless its stamps name another time on weekends, too.
    if length.count == 1:
        time_of_day = stamps.astype(np.int64) % DAY_SECONDS
        at_midnight = np.median(time_of_day) == 0
        if at_midnight or (weekdays < SATURDAY).all():
            return midnight
        return later

    # A week ends on its Friday or Saturday.
    if length.count == 7 and np.bincount(weekdays).argmax() in (FRIDAY, SATURDAY):
        return midnight
    return later


def _weekdays(times: np.ndarray) -> np.ndarray:
    """Weekdays, 0 on Mondays: day 0 of the epoch was a Thursday."""
    days = times.astype("M8[D]").astype(np.int64)
    weekdays: np.ndarray = (days + 3) % 7
    return weekdays


def _end_of_month(stamps: np.ndarray, length: BarLength) -> np.datetime64:
    """The end of the month of the last stamp, or as many months after its beginning as a bar has."""
    months = stamps.astype("M8[M]")
    days = (stamps.astype("M8[D]") - months.astype("M8[D]")).astype(np.int64) + 1
    usual = np.median(days)

    # A stamp late in a month ends its bar; another one begins it.
    count = length.count
    if usual >= LATE_IN_MONTH:
        count = 1
    after: np.datetime64 = (months[-1] + count).astype("M8[s]")

    # A stamp amid a month names that day of every month.
    if EARLY_IN_MONTH < usual < LATE_IN_MONTH:
        after = after + np.timedelta64(int(days[-1]) - 1, "D")
    return after


def missing_bar(dates: np.ndarray, now: np.datetime64) -> np.datetime64 | None:
    """
    The newest bar that must have closed by now. A bar counts as closed one spacing after its time, so that neither
    files that name a bar by its beginning nor those that name it by its end are expected too early.

    :param dates: times of the bars, datetime64[s], increasing
    :param now: by the clock of these times
    :return: its time, None: the bars reach up to it
    """
    days = np.unique(dates.astype("M8[D]"))
    gap = 1.0
    if len(days) > 1:
        gap = float(np.median(np.diff(days).astype(int)))

    # Weekly or rarer: one gap after another.
    if gap > 1:
        spacing = round(gap * DAY_SECONDS) * SECOND
        late = int((now - dates[-1]) // spacing) - 1
        if late <= 0:
            return None
        missing: np.datetime64 = dates[-1] + late * spacing
        return missing

    # Daily or more often: the times of the week at which the recent weeks had bars.
    recent = dates[dates > dates[-1] - RECENT]
    is_same_day = np.diff(recent.astype("M8[D]")).astype(int) == 0
    inside = np.diff(recent)[is_same_day]

    # Several bars a day have the spacing of their day.
    spacing = DAY.astype("m8[s]")
    if 2 * len(inside) > len(recent):
        spacing = np.median(inside.astype(int)).astype(int) * SECOND

    # The newest of the times that are over.
    expected = [time for time in _calendar(recent, now) if time > dates[-1] and time + spacing <= now]
    return max(expected, default=None)


def _calendar(recent: np.ndarray, now: np.datetime64) -> list[np.datetime64]:
    """Times of the week before now at which the recent weeks had bars, in most of them."""
    weeks = max(1, int((recent[-1] - recent[0]) / np.timedelta64(7, "D")))
    seconds = recent.astype("M8[s]").astype(np.int64)
    week = 7 * DAY_SECONDS
    slots, count = np.unique(seconds % week, return_counts=True)
    usual = slots[2 * count >= weeks]

    # This week's and last week's.
    this_week = int(now.astype("M8[s]").astype(np.int64)) // week
    times: list[np.datetime64] = []
    for slot in usual:
        times += [np.datetime64(int(turn * week + slot), "s") for turn in (this_week - 1, this_week)]
    return times
