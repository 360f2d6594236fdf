"""What the columns of a file stand for: by their names, by what a user states, or by what they hold."""

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

NAMED_SYMBOLS = 5  # in a note
Fields = dict[str, str]  # field -> column


@dataclass(frozen=True)
class Layout:
    """
    What the columns of a table stand for, by the table's names.

    :param table: the file's rows
    :param dates: columns of dates, which must agree; the first is the one that is read
    :param symbol: the column of symbols; None if there is none
    :param fields: symbol, or "" for those of the column ``symbol`` or of the whole file -> {field: column}
    :param time: the column of times of the day; None if there is none
    :param own: columns that are read because an option names them
    :param notes: what was assumed
    """

    table: Table
    dates: list[str]
    symbol: str | None
    fields: dict[str, Fields]
    time: str | None = None
    own: tuple[str, ...] = ()
    notes: Notes = NO_NOTES

    @property
    def columns(self) -> list[str]:
        """The columns of all fields and symbols."""
        return [column for fields in self.fields.values() for column in fields.values()]

    def columns_of(self, *roles: str) -> list[str]:
        """:return: the columns of these fields, of all symbols"""
        columns = [(role, column) for fields in self.fields.values() for role, column in fields.items()]
        return [column for role, column in columns if role in roles]

    @property
    def names_symbols(self) -> bool:
        """Whether the file tells whose its bars are."""
        return self.symbol is not None or list(self.fields) != [""]


def layout_of(table: Table, options: ReadOptions) -> Layout:
    """
    :param table: a file's rows
    :param options: what the user states about them
    :return: what its columns stand for
    :raises ValueError: in one sentence, if a column is missing or two may stand for the same
    """
    if table.frame.empty:
        raise ValueError(f"{table.source} has {'a header and ' * table.has_header}no rows")
    stated = options.stated

    # Columns that the user names must be there.
    absent = sorted({name for name in stated.values() if name and name not in table.names})
    if absent:
        raise ValueError(
            f"{table.source} has no column {', '.join(absent)}, which market.columns names: {_columns_of(table)}"
        )

    # Names or contents, then the columns that neither tells.
    layout = _by_names(table, options) if table.has_header else _by_contents(table, options)

    # Dates and closes must be there; one of several dates may be the time of the day.
    _check_complete(layout)
    layout = _with_time_of_day(layout)

    return replace(layout, own=tuple(_own_columns(layout, options.own)))


def _by_contents(table: Table, options: ReadOptions) -> Layout:
    """The layout of a file without a header."""
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
    """The layout of a file whose columns have names."""
    stated = options.stated
    names = [name for name in table.names if name not in stated.values()]

    # Columns of one side of a quote are no fields, nor are single letters.
    quotes = quotes_of(names, table.pairs)
    free = _without_tickers([name for name in names if name not in table.pairs and name not in quotes])
    dates, notes = _dates(table, stated, free)

    # A column that is stated, or the only one of such a name.
    symbol = _only(table, "symbol", {name: name for name in free})
    if "symbol" in stated:
        symbol = stated["symbol"] or None
    layout = Layout(table, dates, symbol, {}, stated.get("time") or None, notes=table.notes + notes)

    return _with_fields(layout, _fields(table, stated, {name: name for name in free}), quotes, options)


def _without_tickers(names: list[str]) -> list[str]:
    """The names without single letters, unless all of o, h, l and c are there: C, T and V alone are tickers."""
    if {"o", "h", "l", "c"} <= {plain(name) for name in names}:
        return names
    return [name for name in names if len(plain(name)) != 1]


def _with_fields(layout: Layout, fields: Fields, quotes: dict[str, Quote], options: ReadOptions) -> Layout:
    """
    The layout with the fields of each symbol.

    :param layout: with dates and symbols
    :param fields: of the columns that are named after a field alone
    :param quotes: the columns that hold one side of a quote
    :param options: what the user states
    """
    table = layout.table

    # What the user states comes first, then quotes, then names of a field and a symbol.
    if options.closes is not None:
        return replace(layout, fields=_stated_closes(layout, options))
    if quotes and (options.side is not None or not any(field in fields for field in CLOSES)):
        return _of_one_side(layout, fields, quotes, options.side)
    if table.pairs:
        return replace(layout, fields=_paired(table, options.stated, table.pairs))
    if layout.symbol is not None or any(field in fields for field in TRADED):
        return replace(layout, fields={"": fields})

    # No column is named after a price: names may be of a field and a symbol, or of symbols alone.
    taken = [*layout.dates, *options.stated.values(), *options.own, *quotes]
    others = [name for name in table.names if name not in taken]
    pairs = {name: pair for name in others if (pair := split_pair(name)) is not None}
    paired = _paired(table, options.stated, pairs)
    if paired:
        return replace(layout, fields=paired)
    return _wide(layout, others) or replace(layout, fields={"": fields})


def _with_time_of_day(layout: Layout) -> Layout:
    """The layout with the column of times of the day apart from those of dates, where there are two and more."""
    time = layout.time
    if time is None and len(layout.dates) > 1:
        frame = layout.table.frame

        # A column of dates whose name has a time in it may hold times of the day.
        named = [name for name in layout.dates if "time" in name.lower()]
        time = next((name for name in named if holds_times_of_day(frame[name])), None)

    dates = [name for name in layout.dates if name != time]
    if not dates:  # the only column of dates is no column of times
        return replace(layout, time=None)
    return replace(layout, dates=dates, time=time)


def _own_columns(layout: Layout, own: Mapping[str, str]) -> list[str]:
    """
    :param layout: what the columns stand for
    :param own: names that options give -> the option; "volume" is the field of that name, whatever the file calls it
    :return: the table's columns of these names, one per symbol where names consist of a field and a symbol
    :raises ValueError: in one sentence, if there is no such column, it stands for something else, or several differ
    """
    table = layout.table

    # What each column is read as.
    roles: dict[str | None, str] = dict.fromkeys(layout.dates, "date")
    roles |= {layout.symbol: "symbol", layout.time: "time"}
    roles |= {column: role for fields in layout.fields.values() for role, column in fields.items()}
    fields = {name: table.pairs.get(name, (name, ""))[0] for name in table.names}

    result: list[str] = []
    for name, option in own.items():
        if name == "volume" and "volume" in roles.values():
            continue

        # An option may name a column, or the field of every symbol.
        columns = [column for column, field in fields.items() if name in (column, field)]
        _check_meaning(table, name, option, columns, roles)
        if not columns:
            free = [field for column, field in fields.items() if column not in roles]
            raise ValueError(
                f"{table.source} has no column {name}, which {option} names: {_columns_of(table)}{_nearest(name, free)}"
            )

        # Two columns of one name must be equal.
        copy = f"{name}.1"
        if copy in fields and not _are_same(table, [name, copy]):
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
    """:raises ValueError: if columns that an option names stand for something else"""
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
    """The end of a sentence on the nearest of the names, "" if none is near."""
    # Capitals make no difference.
    by_lower = {candidate.lower(): candidate for candidate in names}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1)
    if not near:
        return ""
    return f"; {by_lower[near[0]]} is nearest"


def _columns_of(table: Table) -> str:
    """The part of a sentence that names the columns of a file."""
    return f"it has {', '.join(table.names)}"


def _check_complete(layout: Layout) -> None:
    """:raises ValueError: if there is no date, or no close"""
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

    # A table without prices may be one of closes under the names of symbols.
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


def _are_same(table: Table, names: Sequence[str]) -> bool:
    """Whether columns have equal cells."""
    first = table.frame[names[0]]
    return all(table.frame[name].equals(first) for name in names[1:])


def _only(table: Table, role: str, columns: Mapping[str, str]) -> str | None:
    """
    The column of a role, None if there is none.

    :param columns: name that tells the role -> the table's name of the column
    :raises ValueError: if two columns that differ may have the role
    """
    # Equal columns are no conflict.
    names = candidates(role, columns)
    if not names:
        return None
    if len(names) > 1 and not _are_same(table, [columns[name] for name in names]):
        raise ValueError(
            f"{table.source} has two columns for {role}: {names[0]} and {names[1]}; market.columns states which to use"
        )

    return columns[names[0]]


def _fields(table: Table, stated: Mapping[str, str], columns: Mapping[str, str]) -> Fields:
    """
    The column of each field.

    :param stated: field -> column, "" if no column is to be used
    :param columns: name that tells the field -> the table's name of the column
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


def _of_one_side(layout: Layout, fields: Fields, quotes: dict[str, Quote], stated: str | None) -> Layout:
    """Fields of every symbol by the only side that the file has, or by the one that is stated."""
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

    # Columns without a side serve every symbol.
    side = stated or sides[0]
    shared = {role: name for role, name in fields.items() if role in ("volume", "volatility_index")}

    of_symbols = {}
    for symbol in dict.fromkeys(quote.symbol for quote in closing.values() if quote.side == side):
        columns = {quote.field: name for name, quote in quotes.items() if (quote.side, quote.symbol) == (side, symbol)}
        of_symbols[symbol] = shared | _fields(table, {}, columns)

    # Say which side is traded.
    note = f"prices are those of the {side}"
    if stated:
        note += ": market.side says so"
    return replace(layout, fields=of_symbols, notes=layout.notes.and_assumed(note))


def _stated_closes(layout: Layout, options: ReadOptions) -> dict[str, Fields]:
    """One symbol per column that ``market.closes`` names, or per column of numbers."""
    table = layout.table
    names = [name for name in table.names if name not in layout.dates and name not in options.own]
    index = candidates("volatility_index", names)

    # All columns of numbers, but for an index, volumes and dates.
    closes = options.closes or []
    if closes == "all":
        possible = [name for name in names if name not in index and not name.startswith(UNNAMED)]
        possible = [name for name in possible if plain(name) not in ("volume", *MAYBE_DATES)]
        closes = [name for name in possible if holds_numbers(table.frame[name])]
    if isinstance(closes, str):
        closes = [closes]

    # Columns that the user names must be there.
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
    """Fields of every symbol that has a close, where names consist of a field and a symbol."""
    stated_fields = {role: name for role, name in stated.items() if role in FIELDS and name}

    of_symbols = {}
    for symbol in dict.fromkeys(symbol for _, symbol in pairs.values()):
        columns = {field: name for name, (field, owner) in pairs.items() if owner == symbol}
        fields = _fields(table, {}, columns) | stated_fields
        if any(close in fields for close in CLOSES):
            of_symbols[symbol] = fields

    return of_symbols


def _wide(layout: Layout, names: list[str]) -> Layout | None:
    """The layout of a table of closes with one column per symbol; None if it is no such table."""
    frame = layout.table.frame
    index = candidates("volatility_index", names)
    volumes = [name for name in names if plain(name) == "volume"]
    possible = [name for name in names if name not in index and name not in volumes]

    # Names in capitals that hold numbers are symbols.
    symbols = [
        name
        for name in possible
        if TICKER.fullmatch(name.strip()) and (not is_text(frame[name]) or spells_numbers(frame[name]))
    ]
    if not symbols or len(symbols) < len(possible):
        return None

    # Four columns of which one is always the highest are the prices of one symbol under unknown names.
    if len(symbols) >= 4:
        prices = np.column_stack([numbers_of(frame[name], ".") for name in symbols[:4]])
        if extremes_of(prices):
            return None

    # Say which symbols these are.
    note = f"one column of closes per symbol: {', '.join(symbols[:NAMED_SYMBOLS])}"
    if len(symbols) > NAMED_SYMBOLS:
        note += ", ..."
    shared = {}
    if index:
        shared["volatility_index"] = index[0]
    fields = {name.strip(): {"close": name, **shared} for name in symbols}

    return replace(layout, fields=fields, notes=layout.notes.and_assumed(note))


def _dates(table: Table, stated: Mapping[str, str], free: list[str]) -> tuple[list[str], Notes]:
    """Columns that may be the date, and what was assumed."""
    if stated.get("date"):
        return [stated["date"]], Notes()
    frame = table.frame
    named = [name for name in candidates("date", free) if frame[name].dtype != bool]

    # A name that is a date's decides.
    if named and plain(named[0]) not in MAYBE_DATES:
        return named, Notes()

    # Names that leave it open: the contents decide.
    holding = [name for name in free if holds_days(frame[name])]
    if len(holding) != 1:
        return [name for name in named if name in holding], Notes()
    if holding == named:
        return holding, Notes()
    return holding, Notes((f"dates are in {holding[0]}, the only column that holds some",))
