"""What the columns of a file stand for: by their names, by what a user states, or by what they hold."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from market_regimes.prices.columns import (
    FIELDS,
    MAYBE_DATES,
    PRICES,
    candidates,
    plain,
    role_of,
    split_pair,
    without_side,
)
from market_regimes.prices.numbers import is_text, numbers_of
from market_regimes.prices.table import RawTable, ReadOptions, Rows
from market_regimes.prices.times import is_day, read_times

TICKER = re.compile(r"[A-Z0-9^$#.=:/\-]{1,15}")
MAX_RANGE = 1.5  # of the highest to the lowest price of a bar in a file without names


@dataclass(frozen=True)
class Layout:
    """
    What the columns of a table stand for, by the table's names.

    :param dates: columns that may be the date, in the table's order
    :param symbol: the column of symbols; None if there is none
    :param fields: symbol, or "" for those of the column ``symbol`` or of the whole file -> {field: column}
    :param time: the column of times of the day; None if there is none, or if one of ``dates`` may be it
    :param said: what was assumed, a sentence each
    """

    dates: list[str]
    symbol: str | None
    fields: dict[str, dict[str, str]]
    time: str | None = None
    said: list[str] = field(default_factory=list)

    def prices(self) -> list[str]:
        """:return: all columns of prices"""
        return [
            column
            for fields in self.fields.values()
            for name, column in fields.items()
            if name in (*PRICES, "adjusted_close")
        ]


def layout_of(table: RawTable, options: ReadOptions) -> Layout:
    """
    :param table: a file's rows
    :param options: what the user states about them
    :return: what its columns stand for
    :raises ValueError: in one sentence, if a column is missing or two may stand for the same
    """
    stated = options.columns or {}
    names = [str(name) for name in table.frame.columns]
    absent = sorted({name for name in stated.values() if name and name not in names})
    if absent:
        raise ValueError(f"{table.source} has no column {', '.join(absent)}, which market.columns names: {_has(table)}")
    if not table.has_header:
        return _numbered(table, options)
    quotes = _quotes(table, [name for name in names if name not in stated.values()])
    free = [name for name in names if name not in stated.values() and name not in (*table.pairs, *quotes)]
    if not {"o", "h", "l", "c"} <= {plain(name) for name in free}:  # C, T and V alone are tickers
        free = [name for name in free if len(plain(name)) != 1]
    dates, said = _dates(table, stated, free)
    symbol = stated.get("symbol", _one(table, "symbol", free)) or None
    fields = {"": _fields(table, stated, {name: name for name in free})}
    has_close = "close" in fields[""] or "adjusted_close" in fields[""]
    if options.closes is not None:
        fields = _stated_closes(table, options.closes, [name for name in names if name not in (*dates, *options.own)])
    elif quotes and (options.side is not None or not has_close):
        fields = _of_one_side(table, quotes, options, fields[""], said)
    elif table.pairs:
        fields = _paired(table, stated, table.pairs)
    elif not any(name in fields[""] for name in (*PRICES, "adjusted_close")) and symbol is None:
        others = [name for name in names if name not in (*dates, *stated.values(), *options.own, *quotes)]
        pairs = {name: pair for name in others if (pair := split_pair(name)) is not None}
        fields = _paired(table, stated, pairs) or _wide(table, others, said) or fields
    _require(table, dates, fields)
    return Layout(dates, symbol, fields, stated.get("time") or None, said)


def own_columns(table: RawTable, layout: Layout, own: dict[str, str]) -> list[str]:
    """
    :param table: a file's rows
    :param layout: what its columns stand for
    :param own: names that options give -> the option; "volume" is the field of that name, whatever the file calls it
    :return: the table's columns of these names, one per symbol where names consist of a field and a symbol
    :raises ValueError: in one sentence, if there is no such column, it stands for something else, or several differ
    """
    roles: dict[str | None, str] = dict.fromkeys(layout.dates, "date")
    roles |= {layout.symbol: "symbol", layout.time: "time"}
    roles |= {column: role for fields in layout.fields.values() for role, column in fields.items()}
    fields = {str(name): table.pairs.get(name, (str(name), ""))[0] for name in table.frame}
    result = []
    for name, option in own.items():
        if name == "volume" and "volume" in roles.values():
            continue
        found = [column for column, of in fields.items() if name in (column, of)]
        role = next((roles[column] for column in found if column in roles), name if name in FIELDS else None)
        if role is not None and role != "volume":
            raise ValueError(
                f"{table.source}: {option} names {name}, which is read as the {role}: a column has one meaning"
            )
        if role is not None and found:
            hint = "which market.columns leaves out" if name == "volume" else "which is the volume: there it is volume"
            raise ValueError(f"{table.source}: {option} names {name}, {hint}")
        if not found:
            free = {of.lower(): of for column, of in fields.items() if column not in roles}
            near = difflib.get_close_matches(name.lower(), free, n=1)
            hint = f"; {free[near[0]]} is nearest" if near else ""
            raise ValueError(f"{table.source} has no column {name}, which {option} names: {_has(table)}{hint}")
        copy = f"{name}.1"
        if copy in fields and not _same(table, [name, copy]):
            raise ValueError(f"{table.source} has two columns {name}, which {option} names: give them two names")
        result += found
    return result


def _has(table: RawTable) -> str:
    return f"it has {', '.join(str(name) for name in table.frame.columns)}"


def _require(table: RawTable, dates: list[str], fields: dict[str, dict[str, str]]) -> None:
    missing = [] if dates else ["date"]
    for columns in fields.values():
        if "close" not in columns and ("adjusted_close" not in columns or "open" in columns):
            missing.append("close")
            break
    if missing:
        numeric = [str(name) for name in table.frame if name not in dates and _holds_numbers(table.frame[name])]
        example = f"[{', '.join(numeric[:2])}]" if numeric else "[AAPL, JPM]"
        priced = any(role in (*PRICES, "adjusted_close") for columns in fields.values() for role in columns)
        wide = "" if priced else f"; market.closes={example} reads columns as closes, one symbol each"
        raise ValueError(
            f"{table.source} lacks the column(s) {', '.join(missing)}: {_has(table)}; market.columns states what they "
            f"are{wide}"
        )


def _same(table: RawTable, names: Sequence[str]) -> bool:
    first = table.frame[names[0]]
    return all(table.frame[name].equals(first) for name in names[1:])


def _one(table: RawTable, role: str, names: Sequence[str], of: dict[str, str] | None = None) -> str | None:
    """The column of a role, None if there is none."""
    found = candidates(role, names)
    if len(found) > 1 and not _same(table, [(of or {}).get(name, name) for name in found]):
        raise ValueError(
            f"{table.source} has two columns for {role}: {found[0]} and {found[1]}; market.columns states which to use"
        )
    return found[0] if found else None


def _fields(table: RawTable, stated: dict[str, str], columns: dict[str, str]) -> dict[str, str]:
    """Field -> column, from names that may differ from the table's: ``columns`` translates them."""
    found = {}
    for role in FIELDS:
        if role in stated:
            name: str | None = stated[role] or None
            column = name
        else:
            name = _one(table, role, list(columns), columns)
            column = columns[name] if name else None
        if column:
            found[role] = column
    return found


@dataclass(frozen=True)
class _Quote:
    """
    A column with a price of one side.

    :param side: "bid", "ask" or "mid"
    :param name: what the name says besides: the field
    :param symbol: that the name has, "" if it has none
    """

    side: str
    name: str
    symbol: str


def _quotes(table: RawTable, names: list[str]) -> dict[str, _Quote]:
    """The columns that hold one side of a quote: Bid Close and close_ask are no symbols called Bid and ask."""
    found = {}
    for name in names:
        field, symbol = table.pairs.get(name, (name, ""))
        split, of_symbol = without_side(field), without_side(symbol) if symbol else None
        if split is not None:
            found[name] = _Quote(split[0], split[1] or "close", symbol)
        elif of_symbol is not None and role_of(field) in FIELDS:
            found[name] = _Quote(of_symbol[0], field, of_symbol[1])

    # Beside a side there stands a field, a field and a symbol, or nothing; Mid Cap is a symbol.
    quotes = {}
    for name, quote in found.items():
        pair = split_pair(quote.name)
        if role_of(quote.name) in FIELDS:
            quotes[name] = quote
        elif pair is not None and not quote.symbol:
            quotes[name] = _Quote(quote.side, *pair)
        elif any(other.name == quote.name and other.side != quote.side for other in found.values()):
            quotes[name] = _Quote(quote.side, "close", quote.name)  # EURUSD.Bid beside EURUSD.Ask

    # A single column BID is a ticker as good as any other in capitals.
    bare = [name for name in quotes if without_side(name) in (("bid", ""), ("ask", ""), ("mid", ""))]
    if len(bare) == 1 and TICKER.fullmatch(bare[0]):
        del quotes[bare[0]]
    return quotes


def _of_one_side(
    table: RawTable, quotes: dict[str, _Quote], options: ReadOptions, plain_fields: dict[str, str], said: list[str]
) -> dict[str, dict[str, str]]:
    """Fields of every symbol by the only side that the file has, or by the one that is stated."""
    closing = {name: quote for name, quote in quotes.items() if role_of(quote.name) in ("close", "adjusted_close")}
    sides = list(dict.fromkeys(quote.side for quote in closing.values()))
    if not sides:
        return {"": plain_fields}
    if options.side is not None and options.side not in sides:
        raise ValueError(f"{table.source} has no closes of the {options.side}, which market.side names: {_has(table)}")
    if options.side is None and len(sides) > 1:
        examples = [next(name for name, quote in closing.items() if quote.side == side) for side in sides]
        raise ValueError(
            f"{table.source} has prices of two sides, {examples[0]} and {examples[1]}, which are one instrument: set "
            f"market.side to {' or '.join(sides)}, or name another close in market.columns"
        )
    side = options.side or sides[0]
    said.append(f"prices are those of the {side}{': market.side says so' if options.side else ''}")
    shared = {role: name for role, name in plain_fields.items() if role in ("volume", "volatility_index")}
    result = {}
    for symbol in dict.fromkeys(quote.symbol for quote in closing.values() if quote.side == side):
        columns = {q.name: name for name, q in quotes.items() if (q.side, q.symbol) == (side, symbol)}
        result[symbol] = shared | _fields(table, {}, columns)
    return result


def _stated_closes(table: RawTable, closes: list[str] | str, names: list[str]) -> dict[str, dict[str, str]]:
    """One symbol per column that market.closes names, or per column of numbers."""
    vix = candidates("volatility_index", names)
    if closes == "all":
        closes = [
            name
            for name in names
            if name not in vix
            and plain(name) not in ("volume", *MAYBE_DATES)
            and not name.startswith("Unnamed: ")
            and _holds_numbers(table.frame[name])
        ]
    closes = [closes] if isinstance(closes, str) else closes
    absent = [name for name in closes if name not in names]
    if absent or not closes:
        raise ValueError(f"{table.source} has no column {', '.join(absent)}, which market.closes names: {_has(table)}")
    shared = {"volatility_index": vix[0]} if vix and vix[0] not in closes else {}
    return {name.strip(): {"close": name, **shared} for name in closes}


def _paired(table: RawTable, stated: dict[str, str], pairs: dict[str, tuple[str, str]]) -> dict[str, dict[str, str]]:
    """Fields of every symbol that has a close, where names consist of a field and a symbol."""
    symbols = dict.fromkeys(symbol for _, symbol in pairs.values())
    result = {}
    for symbol in symbols:
        columns = {one: name for name, (one, other) in pairs.items() if other == symbol}
        fields = _fields(table, {}, columns) | {role: name for role, name in stated.items() if role in FIELDS and name}
        if "close" in fields or "adjusted_close" in fields:
            result[symbol] = fields
    return result


def _wide(table: RawTable, names: list[str], said: list[str]) -> dict[str, dict[str, str]]:
    """A table of closes with one column per symbol; {} if it is none."""
    frame = table.frame
    vix, volume = candidates("volatility_index", names), [name for name in names if plain(name) == "volume"]
    symbols = [
        name
        for name in names
        if TICKER.fullmatch(name.strip())
        and name not in (*vix, *volume)
        and (not is_text(frame[name]) or _mostly_numbers(frame[name]))
    ]
    if not symbols or len(symbols) + len(vix) + len(volume) < len(names):
        return {}
    if len(symbols) >= 4 and _range_columns(np.column_stack([numbers_of(frame[name], ".") for name in symbols[:4]])):
        return {}  # the prices of one symbol under names nobody knows
    shared = {"volatility_index": vix[0]} if vix else {}
    said.append(f"one column of closes per symbol: {', '.join(symbols[:5])}{', ...' if len(symbols) > 5 else ''}")
    return {name.strip(): {"close": name, **shared} for name in symbols}


def _holds_numbers(column: pd.Series) -> bool:
    return column.dtype != bool and column.dtype.kind not in "mM" and (not is_text(column) or _mostly_numbers(column))


def _mostly_numbers(column: pd.Series) -> bool:
    return bool(np.isfinite(numbers_of(column, ".")).mean() > 0.5 or np.isfinite(numbers_of(column, ",")).mean() > 0.5)


def _dates(table: RawTable, stated: dict[str, str], free: list[str]) -> tuple[list[str], list[str]]:
    """Columns that may be the date, and what was assumed."""
    if stated.get("date"):
        return [stated["date"]], []
    frame = table.frame
    found = [name for name in candidates("date", free) if frame[name].dtype != bool]
    rest = [name for name in free if not plain(name).startswith("unnamed_") or holds_days(frame[name])]
    if found and plain(found[0]) not in MAYBE_DATES:
        return found, []
    holding = [name for name in rest if holds_days(frame[name])]
    if len(holding) != 1:
        return [name for name in found if name in holding], []
    return holding, [] if holding == found else [f"dates are in {holding[0]}, the only column that holds some"]


def holds_days(column: pd.Series) -> bool:
    """:return: whether a column's first cells are all dates"""
    if column.dtype.kind == "M" or isinstance(column.dtype, pd.DatetimeTZDtype):
        return True
    cells = column.dropna().head(20)
    return is_text(column) and len(cells) > 0 and all(is_day(str(cell).strip()) for cell in cells)


def _range_columns(prices: np.ndarray) -> tuple[int, int] | None:
    """Positions of the only high and the only low among the columns, None if they show no such two."""
    with np.errstate(invalid="ignore"):
        high, low = prices.max(axis=1, keepdims=True), prices.min(axis=1, keepdims=True)
        if not (high < MAX_RANGE * low).all():
            return None
    highest = np.flatnonzero((prices == high).all(axis=0))
    lowest = np.flatnonzero((prices == low).all(axis=0))
    return (int(highest[0]), int(lowest[0])) if len(highest) == len(lowest) == 1 else None


def _numbered(table: RawTable, options: ReadOptions) -> Layout:
    """A file without names, whose columns must show what they are."""
    frame, stated = table.frame, options.columns or {}
    names = [str(name) for name in frame.columns]
    days = [stated["date"]] if stated.get("date") else [name for name in names if holds_days(frame[name])][:1]
    others = [name for name in names if name not in days and name not in stated.values()]
    times = [name for name in others if is_text(frame[name]) and frame[name].dropna().head(20).str.contains(":").all()]
    numbers = [
        name for name in others if name not in times and (not is_text(frame[name]) or _mostly_numbers(frame[name]))
    ]
    texts = [name for name in others if name not in (*times, *numbers) and is_text(frame[name])]
    symbol = stated.get("symbol", texts[0] if len(texts) == 1 and not stated else None)
    fields = {role: name for role, name in stated.items() if role in FIELDS and name}
    if days and not fields:
        fields = _shown_fields(table, days[0], numbers, options)
    if not days or not fields:
        raise ValueError(
            f"{table.source} has no header, and its {len(names)} columns may be several things: market.columns states "
            f"which is which by number, from 1"
        )
    _require(table, days, {"": fields})
    said = [f"no header: {', '.join(f'{name} is column {column}' for name, column in fields.items())}"]
    return Layout(days, symbol or None, {"": fields}, stated.get("time") or (times[0] if times else None), said)


def _shown_fields(table: RawTable, date: str, numbers: list[str], options: ReadOptions) -> dict[str, str]:
    """Fields of columns of numbers: the first four, if one is the high, one the low, and opens follow closes."""
    frame = table.frame
    if len(numbers) == 1:
        return {"close": numbers[0]}
    if len(numbers) < 4:
        return {}
    texts = any(is_text(frame[name]) and frame[name].str.contains(",").any() for name in numbers[:4])
    prices = np.column_stack([numbers_of(frame[name], "," if texts else ".") for name in numbers[:4]])
    extremes = _range_columns(prices)
    if extremes is None:
        return {}
    rows = Rows(table.source, frame.index.to_numpy(), frame[date], has_header=False)
    times = read_times(rows, frame[date], options.date_format).instant
    opens, closes = (np.log(prices[:, i]) for i in range(4) if i not in extremes)
    if times[0] > times[-1]:
        opens, closes = opens[::-1], closes[::-1]
    overnight = np.median(np.abs(opens[1:] - closes[:-1])) if len(opens) > 1 else 0.0
    if overnight >= np.median(np.abs(closes[1:] - opens[:-1])):  # what would be so if the first were the close
        return {}
    order = [next(i for i in range(4) if i not in extremes), *extremes]
    order.append(6 - sum(order))
    fields = {role: numbers[i] for role, i in zip(PRICES, order, strict=True)}
    return fields | ({"volume": numbers[4]} if len(numbers) > 4 else {})
