"""Splitting of a file's rows by symbol."""

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
    T rows of one symbol as in the file, unchecked.

    :param symbol: its name
    :param rows: row numbers and dates, for error messages
    :param times: times of the rows
    :param numbers: field -> values, NaN where missing, shape (T,)
    :param cells: field -> cells of the file, shape (T,)
    :param extra: other columns of numbers, shape (T,)
    :param notes: assumptions so far, and unused columns
    """

    symbol: str
    rows: Rows
    times: Times
    numbers: dict[str, np.ndarray]
    cells: dict[str, pd.Series]
    extra: dict[str, np.ndarray] = field(default_factory=dict)
    notes: Notes = NO_NOTES

    def take(self, selection: np.ndarray) -> SymbolRows:
        """:return: rows at these positions"""
        return replace(
            self,
            rows=self.rows.take(selection),
            times=self.times.take(selection),
            numbers={name: values[selection] for name, values in self.numbers.items()},
            cells={name: cells.iloc[selection] for name, cells in self.cells.items()},
            extra={name: values[selection] for name, values in self.extra.items()},
        )

    def noting(self, sentence: str) -> SymbolRows:
        """:return: the same rows with one more note"""
        return replace(self, notes=self.notes.and_assumed(sentence))


def split_symbols(timed: TimedNumbers, zone: str | dict[str, str] | None) -> Iterator[SymbolRows]:
    """
    :param timed: rows of a file with prices
    :param zone: the user's zone for files that state none; or file or symbol -> zone
    :return: rows of each symbol, with their instants
    :raises ValueError: if a row has no symbol, or the zone contradicts the file's
    """
    numbers = timed.numbers
    for symbol, positions in _positions_of_symbols(numbers):
        for owner, fields in numbers.layout.fields.items():
            # A symbol with separate columns may lack prices on some dates.
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

            # Add notes on the symbol last.
            absent = len(positions) - len(priced)
            if absent:
                rows = rows.noting(f"{owner} has no prices on {absent} of the file's dates")
            for field_name, column in _columns_with_gaps(numbers, owner, fields).items():
                rows = _noting_gaps(rows, numbers, field_name, column, priced)
            yield rows


def _positions_of_symbols(numbers: Numbers) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each symbol of the column of symbols, or the file's name, with the positions of its rows."""
    layout = numbers.layout

    # Without a column of symbols the file's name is the symbol.
    if layout.symbol is None:
        yield stem_of(Path(numbers.rows.source)), np.arange(len(numbers.frame))
        return
    cells = numbers.frame[layout.symbol]
    numbers.rows.refuse(cells.isna().to_numpy(), "symbol is missing")

    # Spaces do not distinguish symbols.
    codes, symbols = pd.factorize(cells.astype(str).str.split().str.join(" "))
    order = np.argsort(codes, kind="stable")
    ends = np.cumsum(np.bincount(codes))[:-1]

    for symbol, positions in zip(symbols, np.split(order, ends), strict=True):
        yield str(symbol), positions


def _has_price(numbers: Numbers, fields: Fields) -> np.ndarray:
    """Return a mask of rows with a price in any of a symbol's columns, shape (T,)."""
    present = [numbers.has_price[column] for column in fields.values() if column in numbers.has_price]
    return np.asarray(np.logical_or.reduce(present))


def _field_and_owner(numbers: Numbers, column: str, owner: str) -> tuple[str, str]:
    """Return field and symbol of a column. A column without a symbol belongs to every symbol."""
    return numbers.layout.table.pairs.get(column, (column, owner))


def _extra(numbers: Numbers, owner: str, priced: np.ndarray) -> dict[str, np.ndarray]:
    """Return a symbol's other columns of numbers."""
    extra = {}
    for column, values in numbers.extra.items():
        name, symbol = _field_and_owner(numbers, column, owner)
        if symbol == owner:
            extra[name] = values[priced]

    return extra


def _unused(numbers: Numbers, fields: Fields) -> Notes:
    """Return the file's notes. The symbol's volume counts as unused unless an option names it."""
    notes = numbers.notes
    if numbers.uses_volume or "volume" not in fields:
        return notes
    return replace(notes, unused_columns=(fields["volume"], *notes.unused_columns))


def _columns_with_gaps(numbers: Numbers, owner: str, fields: Fields) -> dict[str, str]:
    """Return columns that may have gaps: the index, the volume, and those of options."""
    # Collect the fields that may have gaps, then the columns of options.
    columns: dict[str, str] = {field: fields[field] for field in ("volatility_index", "volume") if field in fields}
    for column in numbers.layout.option_columns:
        name, symbol = _field_and_owner(numbers, column, owner)
        if symbol == owner:
            columns[name] = column

    return columns


def _noting_gaps(rows: SymbolRows, numbers: Numbers, name: str, column: str, priced: np.ndarray) -> SymbolRows:
    """Add notes on a column's cells without a number, and on its empty cells."""
    cells = numbers.frame[column].iloc[priced]

    # Take a field's numbers, or those of another column.
    values = rows.numbers.get(name)
    if values is None:
        values = rows.extra[name]

    # Count texts that are not numbers.
    bad = unreadable(cells, values)
    if bad.any():
        first = int(np.argmax(bad))
        where = f"{bad.sum()} row(s), the first {rows.rows.day(first)}, {str(cells.iloc[first])[:QUOTED]!r}"
        rows = rows.noting(f"{name} is no number in {where}: taken as missing")

    # Count empty cells and words for no value.
    missing = is_missing(cells)
    if missing.any():
        first = int(np.argmax(missing))
        rows = rows.noting(f"{name} is missing in {missing.sum()} row(s), the first {rows.rows.day(first)}")
    return rows
