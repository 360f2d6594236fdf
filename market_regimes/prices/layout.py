"""Roles of a file's columns: by their names, by the user's options, or by their contents."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from market_regimes.prices.columns import (
    CLOSES,
    FIELDS,
    MAYBE_DATES,
    TICKER,
    TRADED,
    candidates,
    plain,
    split_pair,
)
from market_regimes.prices.dates import holds_days, holds_times_of_day
from market_regimes.prices.head import UNNAMED
from market_regimes.prices.notes import NO_NOTES, Notes
from market_regimes.prices.numerals import (
    holds_numbers,
    is_text,
    numbers_of,
    spells_numbers,
)
from market_regimes.prices.options import ReadOptions
from market_regimes.prices.sides import Quote, quotes_of
from market_regimes.prices.table import Table
from market_regimes.prices.unnamed import contents_of, extremes_of

NAMED_SYMBOLS = 5  # symbols that a note names
Fields = dict[str, str]  # field -> column


@dataclass(frozen=True)
class Layout:
    """
    Roles of a table's columns, by the table's names.

    :param table: rows of the file
    :param dates: columns of dates, which must agree; the first is read
    :param symbol: column of symbols, None: no such column
    :param fields: symbol -> {field: column}; "" stands for the symbols of column ``symbol`` or for the whole file
    :param time: column of times of day, None: no such column
    :param option_columns: columns that an option names
    :param notes: assumptions
    """

    table: Table
    dates: list[str]
    symbol: str | None
    fields: dict[str, Fields]
    time: str | None = None
    option_columns: tuple[str, ...] = ()
    notes: Notes = NO_NOTES

    @property
    def columns(self) -> list[str]:
        """Columns of all fields and symbols."""
        return [column for fields in self.fields.values() for column in fields.values()]

    def columns_of(self, *roles: str) -> list[str]:
        """:return: columns of these fields for all symbols"""
        columns = [(role, column) for fields in self.fields.values() for role, column in fields.items()]
        return [column for role, column in columns if role in roles]

    @property
    def names_symbols(self) -> bool:
        """Return whether the file names the symbols of its bars."""
        return self.symbol is not None or list(self.fields) != [""]


def layout_of(table: Table, options: ReadOptions) -> Layout:
    """
    :param table: rows of a file
    :param options: the user's options
    :return: roles of its columns
    :raises ValueError: if a column is missing, or two compete for a role
    """
    if table.frame.empty:
        raise ValueError(f"{table.source} has {'a header and ' * table.has_header}no rows")
    stated = options.stated

    # Columns in options must exist.
    absent = sorted({name for name in stated.values() if name and name not in table.names})
    if absent:
        raise ValueError(
            f"{table.source} has no column {', '.join(absent)}, which market.columns names: {_columns_of(table)}"
        )

    # Find roles by names or contents, then the columns of options.
    layout = _by_names(table, options) if table.has_header else _by_contents(table, options)

    # Dates and closes are required. One of several columns of dates may be the time of day.
    _check_complete(layout)
    layout = _with_time_of_day(layout)

    return replace(layout, option_columns=tuple(_option_columns(layout, options.own)))


def _by_contents(table: Table, options: ReadOptions) -> Layout:
    """Find the roles in a file without a header."""
    contents = contents_of(table, options)
    numbers = ", ".join(f"{field} is column {column}" for field, column in contents.fields.items())
    notes = table.notes.and_assumed(f"no header: {numbers}")
    return Layout(
        table,
        [contents.date],
        contents.symbol,
        {"": contents.fields},
        time=contents.time,
        notes=notes,
    )


def _by_names(table: Table, options: ReadOptions) -> Layout:
    """Find the roles in a file whose columns have names."""
    stated = options.stated
    names = [name for name in table.names if name not in stated.values()]

    # Columns of one side of a quote are not fields, nor are single letters.
    quotes = quotes_of(names, table.pairs)
    free = _without_tickers([name for name in names if name not in table.pairs and name not in quotes])
    dates, notes = _dates(table, stated, free)

    # Take a stated column, or the only one with a matching name.
    symbol = _only(table, "symbol", {name: name for name in free})
    if "symbol" in stated:
        symbol = stated["symbol"] or None
    layout = Layout(table, dates, symbol, {}, stated.get("time") or None, notes=table.notes + notes)

    return _with_fields(layout, _fields(table, stated, {name: name for name in free}), quotes, options)


def _without_tickers(names: list[str]) -> list[str]:
    """Drop single letters unless all of o, h, l and c exist: C, T and V alone are tickers."""
    if {"o", "h", "l", "c"} <= {plain(name) for name in names}:
        return names
    return [name for name in names if len(plain(name)) != 1]


def _with_fields(layout: Layout, fields: Fields, quotes: dict[str, Quote], options: ReadOptions) -> Layout:
    """
    Add the fields of each symbol to a layout.

    :param layout: layout with dates and symbols
    :param fields: fields of columns named after a field alone
    :param quotes: columns of one side of a quote
    :param options: the user's options
    """
    table = layout.table

    # The user's options come first, then quotes, then names of a field and a symbol.
    if options.closes is not None:
        return replace(layout, fields=_stated_closes(layout, options))
    if quotes and (options.side is not None or not any(field in fields for field in CLOSES)):
        return _of_stated_side(layout, fields, quotes, options.side)
    if table.pairs:
        return replace(layout, fields=_paired(table, options.stated, table.pairs))
    if layout.symbol is not None or any(field in fields for field in TRADED):
        return replace(layout, fields={"": fields})

    # No column is named after a price. Names may combine a field and a symbol, or be symbols.
    taken = [*layout.dates, *options.stated.values(), *options.own, *quotes]
    remaining = [name for name in table.names if name not in taken]
    pairs = {name: pair for name in remaining if (pair := split_pair(name)) is not None}
    paired = _paired(table, options.stated, pairs)
    if paired:
        return replace(layout, fields=paired)
    return _wide(layout, remaining) or replace(layout, fields={"": fields})


def _with_time_of_day(layout: Layout) -> Layout:
    """Separate the column of times of day from those of dates, if there are several."""
    time = layout.time
    if time is None and len(layout.dates) > 1:
        frame = layout.table.frame

        # A column of dates with "time" in its name may have times of day.
        candidates_by_name = [name for name in layout.dates if "time" in name.lower()]
        time = next((name for name in candidates_by_name if holds_times_of_day(frame[name])), None)

    dates = [name for name in layout.dates if name != time]
    if not dates:  # the only column of dates cannot be the column of times
        return replace(layout, time=None)
    return replace(layout, dates=dates, time=time)


def _option_columns(layout: Layout, options_by_name: Mapping[str, str]) -> list[str]:
    """
    :param layout: roles of the columns
    :param options_by_name: name in an option -> the option; "volume" is always the field, whatever its column's name
    :return: columns of these names, one per symbol where names combine a field and a symbol
    :raises ValueError: if a column is missing, has another role, or several differ
    """
    table = layout.table

    # Find each column's role.
    roles: dict[str | None, str] = dict.fromkeys(layout.dates, "date")
    roles |= {layout.symbol: "symbol", layout.time: "time"}
    roles |= {column: role for fields in layout.fields.values() for role, column in fields.items()}
    fields = {name: table.pairs.get(name, (name, ""))[0] for name in table.names}

    result: list[str] = []
    for name, option in options_by_name.items():
        if name == "volume" and "volume" in roles.values():
            continue

        # An option may name a column, or a field of all symbols.
        columns = [column for column, field in fields.items() if name in (column, field)]
        _check_meaning(table, name, option, columns, roles)
        if not columns:
            free = [field for column, field in fields.items() if column not in roles]
            raise ValueError(
                f"{table.source} has no column {name}, which {option} names: {_columns_of(table)}{_nearest(name, free)}"
            )

        # Two columns with one name must be equal.
        copy = f"{name}.1"
        if copy in fields and not _are_equal(table, [name, copy]):
            raise ValueError(f"{table.source} has two columns {name}, which {option} names: give them two names")
        result += columns

    return result


def _check_meaning(
    table: Table,
    name: str,
    option: str,
    columns: list[str],
    roles: dict[str | None, str],
) -> None:
    """:raises ValueError: if columns that an option names have another role"""
    role = next((roles[column] for column in columns if column in roles), None)
    if role is None and name in FIELDS:
        role = name
    if role is None:
        return
    if role != "volume":
        raise ValueError(
            f"{table.source}: {option} names {name}, which is read as the {role}: a column has one meaning"
        )
    if columns:
        hint = "which is the volume: there it is volume"
        if name == "volume":
            hint = "which market.columns leaves out"
        raise ValueError(f"{table.source}: {option} names {name}, {hint}")


def _nearest(name: str, names: Sequence[str]) -> str:
    """Return the end of a sentence with the nearest of the names, "" if none is similar."""
    # Ignore case.
    by_lower = {candidate.lower(): candidate for candidate in names}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1)
    if not near:
        return ""
    return f"; {by_lower[near[0]]} is nearest"


def _columns_of(table: Table) -> str:
    """Return the part of a sentence that lists a file's columns."""
    return f"it has {', '.join(table.names)}"


def _check_complete(layout: Layout) -> None:
    """:raises ValueError: if a date or a close is missing"""
    table = layout.table
    missing = []
    if not layout.dates:
        missing.append("date")

    for fields in layout.fields.values():
        if "close" not in fields and ("adjusted_close" not in fields or "open" in fields):
            missing.append("close")
            break

    if not missing:
        return

    # A table without prices may have a column of closes per symbol.
    hint = ""
    if not layout.columns_of(*TRADED):
        names = [name for name in table.names if name not in layout.dates]
        numeric = [name for name in names if holds_numbers(table.frame[name])] or [
            "AAPL",
            "JPM",
        ]
        hint = f"; market.closes=[{', '.join(numeric[:2])}] reads columns as closes, one symbol each"

    raise ValueError(
        f"{table.source} lacks the column(s) {', '.join(missing)}: {_columns_of(table)}; market.columns states what "
        f"they are{hint}"
    )


def _are_equal(table: Table, names: Sequence[str]) -> bool:
    """Return whether columns have equal cells."""
    first = table.frame[names[0]]
    return all(table.frame[name].equals(first) for name in names[1:])


def _only(table: Table, role: str, columns: Mapping[str, str]) -> str | None:
    """
    Return the column of a role, None: no such column.

    :param columns: name that shows the role -> the table's name of the column
    :raises ValueError: if two different columns compete for the role
    """
    # Equal columns do not conflict.
    names = candidates(role, columns)
    if not names:
        return None
    if len(names) > 1 and not _are_equal(table, [columns[name] for name in names]):
        raise ValueError(
            f"{table.source} has two columns for {role}: {names[0]} and {names[1]}; market.columns states which to use"
        )

    return columns[names[0]]


def _fields(table: Table, stated: Mapping[str, str], columns: Mapping[str, str]) -> Fields:
    """
    Return the column of each field.

    :param stated: field -> column, "": use no column
    :param columns: name that shows the field -> the table's name of the column
    """
    fields = {}
    for role in FIELDS:
        if role in stated:
            column: str | None = stated[role]
        else:
            column = _only(table, role, columns)
        if column:
            fields[role] = column

    return fields


def _of_stated_side(layout: Layout, fields: Fields, quotes: dict[str, Quote], stated: str | None) -> Layout:
    """Add the fields of every symbol from the file's only side, or from the stated side."""
    table = layout.table
    closing = {name: quote for name, quote in quotes.items() if quote.is_close}
    sides = list(dict.fromkeys(quote.side for quote in closing.values()))
    if not sides:
        return replace(layout, fields={"": fields})
    if stated is not None and stated not in sides:
        raise ValueError(f"{table.source} has no closes of the {stated}, which market.side names: {_columns_of(table)}")
    if stated is None and len(sides) > 1:
        examples = [next(name for name, quote in closing.items() if quote.side == side) for side in sides]
        raise ValueError(
            f"{table.source} has prices of two sides, {examples[0]} and {examples[1]}, which are one instrument: set "
            f"market.side to {' or '.join(sides)}, or name another close in market.columns"
        )

    # Columns without a side belong to every symbol.
    side = stated or sides[0]
    shared = {role: name for role, name in fields.items() if role in ("volume", "volatility_index")}

    of_symbols = {}
    for symbol in dict.fromkeys(quote.symbol for quote in closing.values() if quote.side == side):
        columns = {quote.field: name for name, quote in quotes.items() if (quote.side, quote.symbol) == (side, symbol)}
        of_symbols[symbol] = shared | _fields(table, {}, columns)

    # Note the traded side.
    note = f"prices are those of the {side}"
    if stated:
        note += ": market.side says so"
    return replace(layout, fields=of_symbols, notes=layout.notes.and_assumed(note))


def _stated_closes(layout: Layout, options: ReadOptions) -> dict[str, Fields]:
    """Return one symbol per column in ``market.closes``, or per column of numbers."""
    table = layout.table
    names = [name for name in table.names if name not in layout.dates and name not in options.own]
    index = candidates("volatility_index", names)

    # Take all columns of numbers except an index, volumes and dates.
    closes = options.closes or []
    if closes == "all":
        possible = [name for name in names if name not in index and not name.startswith(UNNAMED)]
        possible = [name for name in possible if plain(name) not in ("volume", *MAYBE_DATES)]
        closes = [name for name in possible if holds_numbers(table.frame[name])]
    if isinstance(closes, str):
        closes = [closes]

    # Columns in options must exist.
    absent = [name for name in closes if name not in names]
    if absent or not closes:
        raise ValueError(
            f"{table.source} has no column {', '.join(absent)}, which market.closes names: {_columns_of(table)}"
        )

    shared = {}
    if index and index[0] not in closes:
        shared["volatility_index"] = index[0]
    return {name.strip(): {"close": name, **shared} for name in closes}


def _paired(table: Table, stated: Mapping[str, str], pairs: Mapping[str, tuple[str, str]]) -> dict[str, Fields]:
    """Return the fields of every symbol with a close, where names combine a field and a symbol."""
    stated_fields = {role: name for role, name in stated.items() if role in FIELDS and name}

    of_symbols = {}
    for symbol in dict.fromkeys(symbol for _, symbol in pairs.values()):
        columns = {field: name for name, (field, owner) in pairs.items() if owner == symbol}
        fields = _fields(table, {}, columns) | stated_fields
        if any(close in fields for close in CLOSES):
            of_symbols[symbol] = fields

    return of_symbols


def _wide(layout: Layout, names: list[str]) -> Layout | None:
    """Return the layout of a table with one column of closes per symbol, None: no such table."""
    frame = layout.table.frame
    index = candidates("volatility_index", names)
    volumes = [name for name in names if plain(name) == "volume"]
    possible = [name for name in names if name not in index and name not in volumes]

    # Names in capitals over numbers are symbols.
    symbols = [
        name
        for name in possible
        if TICKER.fullmatch(name.strip()) and (not is_text(frame[name]) or spells_numbers(frame[name]))
    ]
    if not symbols or len(symbols) < len(possible):
        return None

    # Four columns, one of them always the highest, are prices of one symbol under unknown names.
    if len(symbols) >= 4:
        prices = np.column_stack([numbers_of(frame[name], ".") for name in symbols[:4]])
        if extremes_of(prices):
            return None

    # Note the symbols.
    note = f"one column of closes per symbol: {', '.join(symbols[:NAMED_SYMBOLS])}"
    if len(symbols) > NAMED_SYMBOLS:
        note += ", ..."
    shared = {}
    if index:
        shared["volatility_index"] = index[0]
    fields = {name.strip(): {"close": name, **shared} for name in symbols}

    return replace(layout, fields=fields, notes=layout.notes.and_assumed(note))


def _dates(table: Table, stated: Mapping[str, str], free: list[str]) -> tuple[list[str], Notes]:
    """Return columns that may be the date, and the assumptions."""
    if stated.get("date"):
        return [stated["date"]], Notes()
    frame = table.frame
    by_name = [name for name in candidates("date", free) if frame[name].dtype != bool]

    # An unambiguous name decides.
    if by_name and plain(by_name[0]) not in MAYBE_DATES:
        return by_name, Notes()

    # Otherwise the contents decide.
    holding = [name for name in free if holds_days(frame[name])]
    if len(holding) != 1:
        return [name for name in by_name if name in holding], Notes()
    if holding == by_name:
        return holding, Notes()
    return holding, Notes((f"dates are in {holding[0]}, the only column that holds some",))
