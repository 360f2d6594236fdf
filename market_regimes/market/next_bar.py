"""When the next bar closes, by the spacing of the bars that there are."""

from __future__ import annotations

import numpy as np

RECENT = np.timedelta64(28, "D")  # four weeks: one holiday hides no weekday, and a change of the clock is soon over
SECOND, DAY = np.timedelta64(1, "s"), np.timedelta64(1, "D")


def missing_bar(dates: np.ndarray, now: np.datetime64) -> np.datetime64 | None:
    """
    The newest bar that must have closed by now. A bar counts as closed one spacing after its time, so that neither
    files that name a bar by its beginning nor those that name it by its end are expected too early.

    :param dates: times of the bars, datetime64[s], increasing
    :param now: by the clock of these times
    :return: its time, None: the bars reach up to it
    """
    days = np.unique(dates.astype("M8[D]"))
    gap = np.median(np.diff(days).astype(int)) if len(days) > 1 else 1.0
    if gap > 1:  # weekly or rarer
        spacing = round(float(gap) * 86_400) * SECOND
        late = int((now - dates[-1]) // spacing) - 1
        return dates[-1] + late * spacing if late > 0 else None
    recent = dates[dates > dates[-1] - RECENT]
    inside = np.diff(recent)[np.diff(recent.astype("M8[D]")).astype(int) == 0]
    spacing = (
        np.median(inside.astype(int)).astype(int) * SECOND if 2 * len(inside) > len(recent) else DAY.astype("m8[s]")
    )
    expected = [time for time in _calendar(recent, now) if time > dates[-1] and time + spacing <= now]
    return max(expected, default=None)


def _calendar(recent: np.ndarray, now: np.datetime64) -> list[np.datetime64]:
    """Times of the week before now at which the recent weeks had bars, in most of them."""
    weeks = max(1, int((recent[-1] - recent[0]) / np.timedelta64(7, "D")))
    seconds = recent.astype("M8[s]").astype(np.int64)
    week = 7 * 86_400
    slots, count = np.unique(seconds % week, return_counts=True)
    begin = int(now.astype("M8[s]").astype(np.int64)) // week
    return [
        np.datetime64(int(turn * week + slot), "s") for slot in slots[2 * count >= weeks] for turn in (begin - 1, begin)
    ]
