"""Roles of columns without names, from their contents."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from market_regimes.prices.columns import FIELDS, PRICES
from market_regimes.prices.dates import FIRST_CELLS, holds_days, parse_dates
from market_regimes.prices.numerals import is_text, numbers_of, spells_numbers
from market_regimes.prices.options import ReadOptions
from market_regimes.prices.rows import Rows
from market_regimes.prices.table import Table

MAX_RANGE = 1.5  # ratio of a bar's highest to its lowest price


@dataclass(frozen=True)
class Contents:
    """
    Roles of numbered columns.

    :param date: column of dates
    :param time: column of times of day, None: no such column
    :param symbol: column of symbols, None: no such column
    :param fields: field -> column
    """

    date: str
    time: str | None
    symbol: str | None
    fields: dict[str, str]


def contents_of(table: Table, options: ReadOptions) -> Contents:
    """
    :param table: table of a file without a header
    :param options: the user's options
    :return: roles of its columns, by the options or else by their contents
    :raises ValueError: if the contents leave them open
    """
    frame = table.frame
    stated = options.stated
    date = stated.get("date") or next((name for name in table.names if holds_days(frame[name])), None)
    remaining = [name for name in table.names if name != date and name not in stated.values()]

    # Times of day have colons. Any other text is a symbol.
    texts = [name for name in remaining if is_text(frame[name])]
    times = [name for name in texts if _has_colons(frame[name])]
    words = [name for name in texts if name not in times and not spells_numbers(frame[name])]
    numbers = [name for name in remaining if name not in times and name not in words]
    symbol = None
    if len(words) == 1 and not stated:
        symbol = words[0]

    # Take the user's columns, or those with clear contents.
    fields = {role: name for role, name in stated.items() if role in FIELDS and name}
    if date is not None and not fields:
        fields = _shown_fields(table, date, numbers, options)
    if date is None or not fields:
        raise ValueError(
            f"{table.source} has no header, and its {len(table.names)} columns may be several things: market.columns "
            "states which is which by number, from 1"
        )

    # The user's options come first.
    time = stated.get("time") or next(iter(times), None)

    return Contents(date, time, stated.get("symbol", symbol) or None, fields)


def extremes_of(prices: np.ndarray) -> tuple[int, int] | None:
    """
    :param prices: prices of one instrument, shape (T, columns)
    :return: positions of the only high and the only low among the columns, None: not unique
    """
    with np.errstate(invalid="ignore"):
        high = prices.max(axis=1, keepdims=True)
        low = prices.min(axis=1, keepdims=True)
        if not (high < MAX_RANGE * low).all():
            return None

    # Find a column that is the highest, or the lowest, in every bar.
    highest = np.flatnonzero((prices == high).all(axis=0))
    lowest = np.flatnonzero((prices == low).all(axis=0))
    if len(highest) != 1 or len(lowest) != 1:
        return None
    return int(highest[0]), int(lowest[0])


def _has_colons(column: pd.Series) -> bool:
    return bool(column.dropna().head(FIRST_CELLS).str.contains(":").all())


def _shown_fields(table: Table, date: str, numbers: list[str], options: ReadOptions) -> dict[str, str]:
    """
    Find the fields of numbered columns.

    A single column of numbers is the close. Of four or more, the first four are prices if one is always the highest,
    one the lowest, and opens follow closes. A fifth is the volume.

    :param date: column of dates
    :param numbers: columns of numbers
    :return: field -> column, {}: no fields recognised
    """
    if len(numbers) == 1:
        return {"close": numbers[0]}
    if len(numbers) < len(PRICES):
        return {}
    columns = [table.frame[name] for name in numbers[: len(PRICES)]]

    # Read numbers with the decimal mark in the cells.
    has_commas = any(is_text(column) and column.str.contains(",").any() for column in columns)
    decimal = "."
    if has_commas:
        decimal = ","
    prices = np.column_stack([numbers_of(column, decimal) for column in columns])
    extremes = extremes_of(prices)
    if extremes is None:
        return {}

    # Take the other two in the file's order: the first is the open if it follows the second of the bar before.
    opens, closes = (position for position in range(len(PRICES)) if position not in extremes)
    if not _follow(prices[:, opens], prices[:, closes], _is_newest_first(table, date, options)):
        return {}
    high, low = extremes
    fields = {role: numbers[position] for role, position in zip(PRICES, (opens, high, low, closes), strict=True)}
    if len(numbers) > len(PRICES):
        fields["volume"] = numbers[len(PRICES)]
    return fields


def _is_newest_first(table: Table, date: str, options: ReadOptions) -> bool:
    rows = Rows(table.source, table.frame.index.to_numpy(), table.frame[date], has_header=False)
    instants = parse_dates(rows, table.frame[date], options.date_format).instant
    return bool(instants[0] > instants[-1])


def _follow(opens: np.ndarray, closes: np.ndarray, is_newest_first: bool) -> bool:
    """Return whether opens are closer to the closes before than after an exchange of the two columns."""
    log_opens = np.log(opens)
    log_closes = np.log(closes)
    if is_newest_first:
        log_opens = log_opens[::-1]
        log_closes = log_closes[::-1]
    if len(opens) < 2:  # no bar before to compare with
        return True

    # Prices move less overnight than over two bars.
    overnight = np.median(np.abs(log_opens[1:] - log_closes[:-1]))
    exchanged = np.median(np.abs(log_closes[1:] - log_opens[:-1]))

    return bool(overnight < exchanged)
