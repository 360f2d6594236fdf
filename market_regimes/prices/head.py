"""Start of a file's data, and form of its header: one row, two rows, or none."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from market_regimes.prices.columns import FIELDS, plain, role_of
from market_regimes.prices.dates import is_day
from market_regimes.prices.notes import NO_NOTES, Notes
from market_regimes.prices.rows import MISSING

NUMBER = re.compile(r"[-+=]*\W{0,3}\d[\d.,'\u2019\s]*(?:[eE][-+]?\d+)?\s?(?:[%KMBT]|\W)?")
UNNAMED = "Unnamed: "  # pandas' prefix for a column without a name
FIRST_ROWS = 20  # rows of data that reveal a column's content
EVENTS = (
    "dividends",
    "stock_splits",
    "capital_gains",
)  # columns beside fields in the files of yfinance


@dataclass(frozen=True)
class Head:
    """
    Structure of a file, from its first rows.

    :param names: names of the columns, all different
    :param skip: number of rows before the data
    :param has_header: whether the file names its columns
    :param pairs: columns that two header rows name: column -> (field, symbol)
    :param texts: positions of columns that must be read as text
    :param notes: assumptions
    """

    names: list[str]
    skip: int
    has_header: bool = True
    pairs: dict[str, tuple[str, str]] = field(default_factory=dict)
    texts: tuple[int, ...] = ()
    notes: Notes = NO_NOTES


class EmptyFileError(Exception):
    """The file has no filled cell."""


def read_head(rows: list[list[str]], stated: set[str]) -> Head:
    """
    :param rows: first rows of a file, cells stripped
    :param stated: names of columns that the user states
    :return: the file's structure
    :raises EmptyFileError: if all cells are empty
    """
    if not any(any(row) for row in rows):
        raise EmptyFileError
    header = _row_of_names(rows, stated)
    if header is None:
        return _headless(rows)

    # Read one row of names, or two.
    levels, skip = _levels(rows, header)
    data = rows[skip:]
    width = max((len(row) for row in data[:FIRST_ROWS]), default=0)
    names = _names_of_width(levels[0], width, data)

    if len(levels) == 1:
        notes = Notes()
        if header:
            notes = Notes((f"{header} line(s) before the header skipped",))
        return Head(names, skip, texts=_text_columns(names, data, stated), notes=notes)

    # Two rows name a field and a symbol per column.
    labels = list(zip(levels[0][1:], levels[1][1:], strict=True))
    names[1:] = unique_names([f"{field} {symbol}" for field, symbol in labels])
    pairs = dict(zip(names[1:], labels, strict=True))
    notes = Notes(("two header rows: fields and symbols",))

    return Head(names, skip, pairs=pairs, texts=_text_columns(names, data, stated), notes=notes)


def unique_names(names: list[str]) -> list[str]:
    """:return: names, numbered as pandas does where they repeat: close, close.1; "Unnamed: 3" for an empty name"""
    result: list[str] = []
    for position, name in enumerate(names):
        name = name or f"{UNNAMED}{position}"

        # Count up to the first unused name.
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
    Count the labels that name a field: words first, then also single letters, since C, T and V are tickers.

    :param labels: one level of names
    """
    fields = {plain(label) for label in labels if role_of(label) in FIELDS}
    words = sum(len(field) > 1 for field in fields)
    return words, len(fields)


def _is_number(cell: str) -> bool:
    return NUMBER.fullmatch(cell) is not None


def _is_data(row: list[str]) -> bool:
    """Return whether a row is certainly data: a date and a number, or words for missing values."""
    filled = [cell for cell in row if cell.lower() not in MISSING]
    has_day = any(is_day(cell) for cell in filled)
    return has_day and sum(_is_number(cell) or is_day(cell) for cell in filled) > 1


def _first_of_data(rows: list[list[str]]) -> int:
    """Return the position of the first row of data, or the number of rows without one."""
    return next((position for position, row in enumerate(rows) if _is_data(row)), len(rows))


def _row_of_names(rows: list[list[str]], stated: set[str]) -> int | None:
    """Return the position of the row that names the columns, None: no such row."""
    # Skip numbers, which are no names: finding each cell's role takes most of the reading time.
    names = [[cell for cell in row if cell in stated or not _is_number(cell)] for row in rows]
    familiar = [sum(cell in stated or role_of(cell) is not None for cell in row) for row in names]
    best = max(range(len(rows)), key=lambda position: (familiar[position], -position))
    if familiar[best] >= 2:
        return best

    # Unknown names stand above the first row of data.
    first = _first_of_data(rows)
    if first == len(rows):
        return 0
    if first and any(rows[first - 1]):
        return first - 1
    return None


def _headless(rows: list[list[str]]) -> Head:
    """Number the columns of a file without names."""
    first = _first_of_data(rows)
    width = max(len(row) for row in rows[first:])
    names = [str(position + 1) for position in range(width)]
    return Head(names, first, has_header=False, texts=_text_columns(names, rows[first:], set()))


def _levels(rows: list[list[str]], header: int) -> tuple[list[list[str]], int]:
    """
    Read one header row, or the two of yfinance, and count the rows before the data.

    The two rows hold fields and tickers in either order. A third row may name the index.
    """
    names = rows[header]
    skip = header + 1

    # The second row of names is below or above the fields.
    second = None
    if _are_fields(names):
        if _names_symbols_below(rows, header):
            second = rows[header + 1]
            skip = header + 2
        elif _names_symbols_above(rows, header):
            second = rows[header - 1]
    if second is None:
        return [names], skip

    # A third row may only name the index.
    if skip < len(rows) and _names_index(rows[skip]):
        names = [rows[skip][0], *names[1:]]
        skip += 1
    if fields_come_second(names[1:], second[1:]):
        return [[names[0], *second[1:]], [second[0], *names[1:]]], skip
    return [names, second], skip


def _are_fields(row: list[str]) -> bool:
    """Return whether all names of a row, except the first, are fields."""
    cells = [cell for cell in row[1:] if cell]
    return bool(cells) and all(role_of(cell) in FIELDS or plain(cell) in EVENTS for cell in cells)


def _names_symbols_below(rows: list[list[str]], header: int) -> bool:
    """Return whether the row below the header has the symbols of its fields."""
    below = header + 1
    if below == len(rows) or len(rows[below]) != len(rows[header]):
        return False
    return all(rows[below][1:]) and _are_symbols(rows[below])


def _names_symbols_above(rows: list[list[str]], header: int) -> bool:
    """Return whether the row above the header has the symbols of its fields."""
    if header == 0 or len(rows[header]) == 1:
        return False
    above = rows[header - 1]
    return len(above) == len(rows[header]) and all(above[1:]) and not _are_fields(above)


def _names_index(row: list[str]) -> bool:
    """Return whether only the first cell of a row has a name."""
    return len(row) > 1 and bool(row[0]) and not any(row[1:]) and not is_day(row[0])


def _are_symbols(row: list[str]) -> bool:
    """Return whether a header row has symbols. 600519 is a symbol if the row is named so."""
    # The row's name decides, else its cells.
    if plain(row[0]) in ("ticker", "tickers", "symbol", "symbols"):
        return True
    if any(_is_number(cell) or is_day(cell) for cell in row):
        return False
    return not any(cell.lower() in MISSING for cell in row[1:])


def _names_of_width(names: list[str], width: int, data: list[list[str]]) -> list[str]:
    """Make the names different, and add a name if rows of data have one cell more."""
    if width != len(names) + 1:
        return unique_names(names)

    # A separator at the end of each row causes an empty last cell.
    longer = any(row[-1] for row in data if len(row) == width)
    if not longer:
        return unique_names([*names, ""])
    if is_day(data[0][0]) and not any(role_of(name) == "date" for name in names):
        return unique_names(["", *names])  # R leaves out the name of the index
    return unique_names(names)


def _text_columns(names: list[str], data: list[list[str]], stated: set[str]) -> tuple[int, ...]:
    """Return positions of dates, symbols and other columns that must keep their leading zeros."""
    return tuple(
        position
        for position, name in enumerate(names)
        if role_of(name) in ("date", "symbol")
        or name in stated
        or name.startswith(UNNAMED)
        or _holds_unnamed_days(name, position, data)
    )


def _holds_unnamed_days(name: str, position: int, data: list[list[str]]) -> bool:
    """Return whether a column with an unknown name has days in the first rows."""
    if not name.isdecimal() and role_of(name) is not None:
        return False

    # Collect the column's cells in the first rows. Short rows lack it.
    cells = [row[position] for row in data[:FIRST_ROWS] if position < len(row) and row[position]]
    return bool(cells) and all(is_day(cell) for cell in cells)
