"""From the rows of a file to those of each symbol."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from market_regimes.prices.layout import Fields
from market_regimes.prices.notes import NO_NOTES, Notes
from market_regimes.prices.numbers import Numbers
from market_regimes.prices.numerals import unreadable
from market_regimes.prices.paths import stem_of
from market_regimes.prices.rows import Rows, is_missing
from market_regimes.prices.times import TimedNumbers
from market_regimes.prices.zones import Times, with_instants

QUOTED = 20  # characters of a cell in a note


@dataclass(frozen=True)
class SymbolRows:
    """
    T rows of one symbol as a file has them, before they are checked.

    :param symbol: its name
    :param rows: numbers and dates for refusals
    :param times: of the rows
    :param numbers: field -> values, NaN where there is no number, shape (T,)
    :param cells: field -> what the file has there, shape (T,)
    :param extra: other columns of numbers, shape (T,)
    :param notes: what was assumed so far, and the columns that are not used
    """

    symbol: str
    rows: Rows
    times: Times
    numbers: dict[str, np.ndarray]
    cells: dict[str, pd.Series]
    extra: dict[str, np.ndarray] = field(default_factory=dict)
    notes: Notes = NO_NOTES

    def take(self, wanted: np.ndarray) -> SymbolRows:
        """:return: the rows at these positions"""
        return replace(
            self,
            rows=self.rows.take(wanted),
            times=self.times.take(wanted),
            numbers={name: values[wanted] for name, values in self.numbers.items()},
            cells={name: cells.iloc[wanted] for name, cells in self.cells.items()},
            extra={name: values[wanted] for name, values in self.extra.items()},
        )

    def noting(self, sentence: str) -> SymbolRows:
        """:return: the same rows with a further note"""
        return replace(self, notes=self.notes.and_assumed(sentence))


def split_symbols(timed: TimedNumbers, zone: str | dict[str, str] | None) -> Iterator[SymbolRows]:
    """
    :param timed: the rows of a file that have prices
    :param zone: of files that state none, as the user states it; or file or symbol -> zone
    :return: the rows of each symbol, with their instants
    :raises ValueError: in one sentence, if a row has no symbol, or the zone contradicts the file's
    """
    numbers = timed.numbers
    for symbol, positions in _positions_of_symbols(numbers):
        for owner, fields in numbers.layout.fields.items():
            # A symbol that has columns for itself may lack prices on some dates.
            priced = positions
            if owner:
                priced = positions[_has_price(numbers, fields)[positions]]
            name = owner or symbol
            times = with_instants(timed.times.take(priced), name, numbers.rows.source, zone)
            rows = SymbolRows(
                name,
                numbers.rows.take(priced),
                times,
                {field: numbers.of_fields[column][priced] for field, column in fields.items()},
                {field: numbers.frame[column].iloc[priced] for field, column in fields.items()},
                _extra(numbers, owner, priced),
                _unused(numbers, fields) + times.notes,
            )

            # What is odd about the symbol comes last.
            absent = len(positions) - len(priced)
            if absent:
                rows = rows.noting(f"{owner} has no prices on {absent} of the file's dates")
            for field_name, column in _columns_with_gaps(numbers, owner, fields).items():
                rows = _noting_gaps(rows, numbers, field_name, column, priced)
            yield rows


def _positions_of_symbols(numbers: Numbers) -> Iterator[tuple[str, np.ndarray]]:
    """Each symbol of the column of symbols with the positions of its rows; the file's name where there is none."""
    layout = numbers.layout

    # Without a column of symbols the file's name is the symbol.
    if layout.symbol is None:
        yield stem_of(Path(numbers.rows.source)), np.arange(len(numbers.frame))
        return
    cells = numbers.frame[layout.symbol]
    numbers.rows.refuse(cells.isna().to_numpy(), "symbol is missing")

    # Spaces tell no symbols apart.
    codes, symbols = pd.factorize(cells.astype(str).str.split().str.join(" "))
    order = np.argsort(codes, kind="stable")
    ends = np.cumsum(np.bincount(codes))[:-1]

    for symbol, positions in zip(symbols, np.split(order, ends), strict=True):
        yield str(symbol), positions


def _has_price(numbers: Numbers, fields: Fields) -> np.ndarray:
    """Where one of a symbol's columns has a price, shape (T,)."""
    present = [numbers.has_price[column] for column in fields.values() if column in numbers.has_price]
    return np.asarray(np.logical_or.reduce(present))


def _field_and_owner(numbers: Numbers, column: str, owner: str) -> tuple[str, str]:
    """The field and the symbol of a column; a column without a symbol is every symbol's."""
    return numbers.layout.table.pairs.get(column, (column, owner))


def _extra(numbers: Numbers, owner: str, priced: np.ndarray) -> dict[str, np.ndarray]:
    """The other columns of numbers of a symbol."""
    extra = {}
    for column, values in numbers.extra.items():
        name, symbol = _field_and_owner(numbers, column, owner)
        if symbol == owner:
            extra[name] = values[priced]

    return extra


def _unused(numbers: Numbers, fields: Fields) -> Notes:
    """The file's notes, with the symbol's volume among the columns that are not used unless an option names it."""
    notes = numbers.notes
    if numbers.uses_volume or "volume" not in fields:
        return notes
    return replace(notes, unused_columns=(fields["volume"], *notes.unused_columns))


def _columns_with_gaps(numbers: Numbers, owner: str, fields: Fields) -> dict[str, str]:
    """The columns besides prices that may have gaps: the index, the volume, and those that options name."""
    # The fields that may have gaps, then the columns of options.
    columns: dict[str, str] = {field: fields[field] for field in ("volatility_index", "volume") if field in fields}
    for column in numbers.layout.own:
        name, symbol = _field_and_owner(numbers, column, owner)
        if symbol == owner:
            columns[name] = column

    return columns


def _noting_gaps(rows: SymbolRows, numbers: Numbers, name: str, column: str, priced: np.ndarray) -> SymbolRows:
    """The rows with a note on the cells of a column that hold no number, and one on those that hold nothing."""
    cells = numbers.frame[column].iloc[priced]

    # A field's numbers, or those of another column.
    values = rows.numbers.get(name)
    if values is None:
        values = rows.extra[name]

    # Texts that are no number.
    bad = unreadable(cells, values)
    if bad.any():
        first = int(np.argmax(bad))
        where = f"{bad.sum()} row(s), the first {rows.rows.day(first)}, {str(cells.iloc[first])[:QUOTED]!r}"
        rows = rows.noting(f"{name} is no number in {where}: taken as missing")

    # Empty cells and words for no value.
    missing = is_missing(cells)
    if missing.any():
        first = int(np.argmax(missing))
        rows = rows.noting(f"{name} is missing in {missing.sum()} row(s), the first {rows.rows.day(first)}")
    return rows
