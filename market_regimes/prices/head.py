"""Where a file's data begin, and how its header names the columns: in one row, in two, or not at all."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from market_regimes.prices.columns import FIELDS, plain, role_of
from market_regimes.prices.dates import is_day
from market_regimes.prices.notes import NO_NOTES, Notes
from market_regimes.prices.rows import MISSING

NUMBER = re.compile(r"[-+=]*\W{0,3}\d[\d.,'\u2019\s]*(?:[eE][-+]?\d+)?\s?(?:[%KMBT]|\W)?")
UNNAMED = "Unnamed: "  # as pandas calls a column without a name
FIRST_ROWS = 20  # of the data, that show what a column holds
EVENTS = (
    "dividends",
    "stock_splits",
    "capital_gains",
)  # beside fields in the files of yfinance


@dataclass(frozen=True)
class Head:
    """
    What the first rows of a file show.

    :param names: names of the columns, all different
    :param skip: rows before the first row of data
    :param has_header: whether the file names its columns
    :param pairs: of columns named by two header rows: column -> (field, symbol)
    :param texts: positions of columns that must be read as text
    :param notes: what was assumed
    """

    names: list[str]
    skip: int
    has_header: bool = True
    pairs: dict[str, tuple[str, str]] = field(default_factory=dict)
    texts: tuple[int, ...] = ()
    notes: Notes = NO_NOTES


class EmptyFileError(Exception):
    """The file has no cell that holds anything."""


def read_head(rows: list[list[str]], stated: set[str]) -> Head:
    """
    :param rows: the first rows of a file, cells stripped
    :param stated: names of columns that the user states
    :return: what they show
    :raises EmptyFileError: if no cell holds anything
    """
    if not any(any(row) for row in rows):
        raise EmptyFileError
    header = _row_of_names(rows, stated)
    if header is None:
        return _headless(rows)

    # One row of names, or two.
    levels, skip = _levels(rows, header)
    data = rows[skip:]
    width = max((len(row) for row in data[:FIRST_ROWS]), default=0)
    names = _names_of_width(levels[0], width, data)

    if len(levels) == 1:
        notes = Notes()
        if header:
            notes = Notes((f"{header} line(s) before the header skipped",))
        return Head(names, skip, texts=_text_columns(names, data, stated), notes=notes)

    # Two rows name columns by a field and a symbol.
    labels = list(zip(levels[0][1:], levels[1][1:], strict=True))
    names[1:] = unique_names([f"{field} {symbol}" for field, symbol in labels])
    pairs = dict(zip(names[1:], labels, strict=True))
    notes = Notes(("two header rows: fields and symbols",))

    return Head(names, skip, pairs=pairs, texts=_text_columns(names, data, stated), notes=notes)


def unique_names(names: list[str]) -> list[str]:
    """:return: the names, numbered where they repeat, as pandas does: close, close.1; "Unnamed: 3" for no name"""
    result: list[str] = []
    for position, name in enumerate(names):
        name = name or f"{UNNAMED}{position}"

        # Count up to the first free name.
        copies = 0
        unique = name
        while unique in result:
            copies += 1
            unique = f"{name}.{copies}"
        result.append(unique)

    return result


def fields_come_second(first: Sequence[str], second: Sequence[str]) -> bool:
    """:return: whether the second of two levels of names has more different fields"""
    return _names_of_fields(second) > _names_of_fields(first)


def _names_of_fields(labels: Sequence[str]) -> tuple[int, int]:
    """
    How many different labels name a field: words first, then also single letters, since C, T and V are tickers.

    :param labels: one level of names
    """
    fields = {plain(label) for label in labels if role_of(label) in FIELDS}
    words = sum(len(field) > 1 for field in fields)
    return words, len(fields)


def _is_number(cell: str) -> bool:
    return NUMBER.fullmatch(cell) is not None


def _is_data(row: list[str]) -> bool:
    """Whether a row can only be one of data: a date and a number, or words for missing ones."""
    filled = [cell for cell in row if cell.lower() not in MISSING]
    has_day = any(is_day(cell) for cell in filled)
    return has_day and sum(_is_number(cell) or is_day(cell) for cell in filled) > 1


def _first_of_data(rows: list[list[str]]) -> int:
    """Position of the first row of data; the number of rows if there is none."""
    return next((position for position, row in enumerate(rows) if _is_data(row)), len(rows))


def _row_of_names(rows: list[list[str]], stated: set[str]) -> int | None:
    """Position of the row that names the columns; None if there is none."""
    # No number is a name, and to look for the role of each takes most of the time of reading.
    names = [[cell for cell in row if cell in stated or not _is_number(cell)] for row in rows]
    familiar = [sum(cell in stated or role_of(cell) is not None for cell in row) for row in names]
    best = max(range(len(rows)), key=lambda position: (familiar[position], -position))
    if familiar[best] >= 2:
        return best

    # Names that are in no list stand above the first row of data.
    first = _first_of_data(rows)
    if first == len(rows):
        return 0
    if first and any(rows[first - 1]):
        return first - 1
    return None


def _headless(rows: list[list[str]]) -> Head:
    """A file whose columns have no names: they are numbered."""
    first = _first_of_data(rows)
    width = max(len(row) for row in rows[first:])
    names = [str(position + 1) for position in range(width)]
    return Head(names, first, has_header=False, texts=_text_columns(names, rows[first:], set()))


def _levels(rows: list[list[str]], header: int) -> tuple[list[list[str]], int]:
    """
    One header row, or the two of yfinance (fields and tickers, in either order, then perhaps a row with the name of the
    index), and the number of rows up to the data.
    """
    names = rows[header]
    skip = header + 1

    # The second row of names stands below the fields, or above them.
    second = None
    if _are_fields(names):
        if _names_symbols_below(rows, header):
            second = rows[header + 1]
            skip = header + 2
        elif _names_symbols_above(rows, header):
            second = rows[header - 1]
    if second is None:
        return [names], skip

    # A third row may name the index alone.
    if skip < len(rows) and _names_index(rows[skip]):
        names = [rows[skip][0], *names[1:]]
        skip += 1
    if fields_come_second(names[1:], second[1:]):
        return [[names[0], *second[1:]], [second[0], *names[1:]]], skip
    return [names, second], skip


def _are_fields(row: list[str]) -> bool:
    """Whether all names of a row, but for the first, are fields."""
    cells = [cell for cell in row[1:] if cell]
    return bool(cells) and all(role_of(cell) in FIELDS or plain(cell) in EVENTS for cell in cells)


def _names_symbols_below(rows: list[list[str]], header: int) -> bool:
    """Whether the row below the header names the symbols of its fields."""
    below = header + 1
    if below == len(rows) or len(rows[below]) != len(rows[header]):
        return False
    return all(rows[below][1:]) and _are_symbols(rows[below])


def _names_symbols_above(rows: list[list[str]], header: int) -> bool:
    """Whether the row above the header names the symbols of its fields."""
    if header == 0 or len(rows[header]) == 1:
        return False
    above = rows[header - 1]
    return len(above) == len(rows[header]) and all(above[1:]) and not _are_fields(above)


def _names_index(row: list[str]) -> bool:
    """Whether a row has a name in its first cell, and no other cell."""
    return len(row) > 1 and bool(row[0]) and not any(row[1:]) and not is_day(row[0])


def _are_symbols(row: list[str]) -> bool:
    """Whether a row of a header holds symbols; 600519 is one where the row's name is that of symbols."""
    # The name of the row decides, else its cells.
    if plain(row[0]) in ("ticker", "tickers", "symbol", "symbols"):
        return True
    if any(_is_number(cell) or is_day(cell) for cell in row):
        return False
    return not any(cell.lower() in MISSING for cell in row[1:])


def _names_of_width(names: list[str], width: int, data: list[list[str]]) -> list[str]:
    """The names, all different, and one more where the rows of data have a cell more."""
    if width != len(names) + 1:
        return unique_names(names)

    # An empty last cell is one that a separator at the end of each row makes.
    longer = any(row[-1] for row in data if len(row) == width)
    if not longer:
        return unique_names([*names, ""])
    if is_day(data[0][0]) and not any(role_of(name) == "date" for name in names):
        return unique_names(["", *names])  # R leaves out the name of the index
    return unique_names(names)


def _text_columns(names: list[str], data: list[list[str]], stated: set[str]) -> tuple[int, ...]:
    """Positions of dates, symbols and all else that must not lose its leading zeros."""
    return tuple(
        position
        for position, name in enumerate(names)
        if role_of(name) in ("date", "symbol")
        or name in stated
        or name.startswith(UNNAMED)
        or _holds_unnamed_days(name, position, data)
    )


def _holds_unnamed_days(name: str, position: int, data: list[list[str]]) -> bool:
    """Whether a column whose name tells no role has days in the first rows."""
    if not name.isdecimal() and role_of(name) is not None:
        return False

    # Cells of the column in the first rows; short rows lack it.
    cells = [row[position] for row in data[:FIRST_ROWS] if position < len(row) and row[position]]
    return bool(cells) and all(is_day(cell) for cell in cells)
