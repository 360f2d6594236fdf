"""Written days, and the order of their day and month."""

from __future__ import annotations

import re
from datetime import date
from typing import NamedTuple

import numpy as np
import pandas as pd

from market_regimes.prices.notes import Notes

MONTHS = (
    "jan",
    "feb",
    "mar",
    "apr",
    "may",
    "jun",
    "jul",
    "aug",
    "sep",
    "oct",
    "nov",
    "dec",
)
EPOCH = date(1970, 1, 1)
YEAR_FIRST = r"(\d{4})([-/. ])(\d{1,2})\2(\d{1,2})"
YEAR_LAST = r"(\d{1,2})([-/. ])(\d{1,2})\2(\d{4}|\d{2})"
DIGITS = r"(\d{4})(\d{2})(\d{2})"
YEAR_AND_MONTH = r"(\d{4})-(\d{2})()"
WITH_MONTH_NAMES = (
    r"(?P<d>\d{1,2})[-/. ]*(?P<m>[A-Za-z]{3,9})\.?[-/., ]*(?P<y>\d{4})",
    r"(?P<m>[A-Za-z]{3,9})\.?[-/. ]*(?P<d>\d{1,2})(?:st|nd|rd|th)?[-/., ]+(?P<y>\d{4})",
    r"(?P<y>\d{4})[-/. ]*(?P<m>[A-Za-z]{3,9})\.?[-/., ]*(?P<d>\d{1,2})",
)


class Day(NamedTuple):
    """A written day. Rows of one ``form`` belong together. A year at the end leaves the order of the rest open."""

    form: str
    year: int
    month: int
    day: int
    is_open: bool = False


def read_day(text: str) -> Day | None:
    """:return: parts of a written day, None: no form matches"""
    match = re.fullmatch(YEAR_FIRST, text)
    if match:
        return Day(f"Y{match[2]}", int(match[1]), int(match[3]), int(match[4]))

    match = re.fullmatch(DIGITS, text) or re.fullmatch(YEAR_AND_MONTH, text)
    if match:
        return Day("Y-", int(match[1]), int(match[2]), int(match[3] or 1))

    match = re.fullmatch(YEAR_LAST, text)
    if match:
        return Day(
            f"{match[2]}{len(match[4])}",
            int(match[4]),
            int(match[3]),
            int(match[1]),
            is_open=True,
        )
    return _read_month_name(text)


def numbers_of_days(source: str, texts: pd.Series, date_format: str | None) -> tuple[np.ndarray, Notes]:
    """
    :param source: the file, for error messages
    :param texts: written days, shape (T,)
    :param date_format: the user's "day_first" or "month_first", or None
    :return: days since 1970-01-01, shape (T,), NaN where the form differs from that of most rows; notes on the decision
    :raises ValueError: if nothing decides the order of day and month
    """
    # Parse each text once.
    codes, uniques = pd.factorize(texts)
    written = {str(text): read_day(str(text)) for text in uniques}

    # The form of most rows is the file's.
    counts = np.bincount(codes[codes >= 0], minlength=len(uniques))

    weights: dict[str, int] = {}
    for day, count in zip(written.values(), counts, strict=True):
        if day is not None:
            weights[day.form] = weights.get(day.form, 0) + int(count)

    form = max(weights, key=lambda form: weights[form], default="")
    of_form = {text: day for text, day in written.items() if day is not None and day.form == form}

    # Decide the order of day and month if the form leaves it open.
    month_first = False
    notes = Notes()
    if any(day.is_open for day in of_form.values()):
        month_first, sentence = _order(source, of_form, date_format)
        notes = Notes((sentence,))

    numbers = np.array([_number_of(of_form.get(text), month_first) for text in written] + [np.nan])

    return numbers[codes], notes


def _read_month_name(text: str) -> Day | None:
    """Parse a day whose month is a name."""
    for pattern in WITH_MONTH_NAMES:
        match = re.fullmatch(pattern, text)
        if not match:
            continue
        name = match["m"][:3].lower()
        if name in MONTHS:
            return Day("name", int(match["y"]), MONTHS.index(name) + 1, int(match["d"]))

    return None


def _number_of(written: Day | None, month_first: bool) -> float:
    """Return days since 1970-01-01, NaN: no such day."""
    if written is None:
        return np.nan

    # Two-digit years have the meaning of strptime's %y.
    year = written.year
    if year < 69:
        year += 2000
    elif year <= 99:
        year += 1900

    month = written.month
    day = written.day
    if month_first and written.is_open:
        month = written.day
        day = written.month

    try:
        return float((date(year, month, day) - EPOCH).days)
    except ValueError:
        return np.nan


def _order(source: str, days: dict[str, Day], date_format: str | None) -> tuple[bool, str]:
    """Return whether the month comes first if the year comes last, and a sentence with the reason."""
    # The user decides. With two-digit years even a day above 12 decides nothing.
    text = next(iter(days))
    if date_format is not None:
        return (
            date_format == "month_first",
            f"{date_format.replace('_', ' ')}: market.date_format says so",
        )
    if days[text].form.endswith("2"):
        raise ValueError(
            f"{source}: a year of two digits, as in {text}, leaves the order open: set market.date_format, for example "
            "to %d/%m/%y or %m/%d/%y"
        )

    # A number above 12 must be a day.
    day_first = next((text for text, day in days.items() if day.day > 12 >= day.month), None)

    month_first = next((text for text, day in days.items() if day.month > 12 >= day.day), None)
    if day_first and month_first:
        raise ValueError(
            f"{source}: {day_first} has the day first and {month_first} the month: write all dates alike, in the order "
            "that market.date_format may state"
        )
    if month_first:
        return True, f"month first: {month_first} decides"
    if day_first:
        return False, f"day first: {day_first} decides"
    raise ValueError(
        f"{source}: {text} may have the day or the month first, and no day above 12 decides: set "
        "market.date_format to day_first or month_first"
    )
