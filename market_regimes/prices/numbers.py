"""Conversion of cells to numbers, for the rows with prices."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from market_regimes.prices.columns import TRADED
from market_regimes.prices.head import UNNAMED
from market_regimes.prices.layout import Layout
from market_regimes.prices.notes import Notes
from market_regimes.prices.numerals import (
    convention_of,
    is_number_or_text,
    is_text,
    numbers_of,
    unreadable,
)
from market_regimes.prices.options import ReadOptions
from market_regimes.prices.rows import Rows, is_missing

FIRST_CELLS = 100  # cells of a column that reveal whether it has numbers
TARGETS = "market.benchmark_positions"  # option whose columns are shares: half a position is 0.5


@dataclass(frozen=True)
class Numbers:
    """
    The T rows of a file with prices, and their numbers.

    :param layout: roles of the columns
    :param rows: row numbers and dates, for error messages
    :param frame: their cells
    :param has_price: column of prices -> mask of its prices, shape (T,)
    :param of_fields: column of a field -> numbers, NaN where missing, shape (T,)
    :param extra: other columns of numbers: columns of options, then unused ones
    :param uses_volume: whether an option names the volume
    :param notes: assumptions and unused columns
    """

    layout: Layout
    rows: Rows
    frame: pd.DataFrame
    has_price: dict[str, np.ndarray]
    of_fields: dict[str, np.ndarray]
    extra: dict[str, np.ndarray]
    uses_volume: bool
    notes: Notes


def read_numbers(layout: Layout, options: ReadOptions) -> Numbers:
    """
    :param layout: roles of a file's columns
    :param options: the user's options
    :return: rows with prices, and their numbers
    :raises ValueError: if the format of numbers is ambiguous, no row has prices, or a cell of an option's column is no
        number
    """
    table = layout.table

    # A file uses one format for all numbers.
    names = dict.fromkeys([*layout.columns, *layout.option_columns])
    columns = [table.frame[name] for name in names]
    convention = convention_of(table.source, columns, options.decimal, table.decimal)
    decimal = convention.decimal
    frame = table.frame
    if table.read_by is not None and decimal != table.decimal:
        frame = table.read_by(decimal)  # the first reading took a thousands point for a decimal point

    # Drop rows without prices.
    has_price = {name: ~is_missing(frame[name]) for name in layout.columns_of(*TRADED)}
    priced = np.logical_or.reduce(list(has_price.values()))
    rows = Rows(table.source, frame.index.to_numpy(), frame[layout.dates[0]], table.has_header)
    filled = _filled_option_columns(layout, frame, ~priced)
    notes = layout.notes + convention.notes + _notes_on_dropped(rows, priced, filled)

    if not priced.all():
        rows = rows.take(priced)
        frame = frame.loc[priced]
        has_price = {name: present[priced] for name, present in has_price.items()}

    # Read the columns of fields, those of options, and all others with numbers.
    of_options = {name: _option_numbers(layout, rows, frame[name], decimal, options) for name in layout.option_columns}
    uses_volume = "volume" in options.own
    of_fields = _numbers_of_fields(layout, rows, frame, decimal, uses_volume)
    unused = _unused_columns(layout, frame)
    possible = {name: _numbers_if_any(frame[name], decimal) for name in unused if name not in layout.dates}
    extra = of_options | {name: values for name, values in possible.items() if values is not None}

    notes = replace(notes, unused_columns=tuple(name for name in unused if name != layout.dates[0]))

    return Numbers(layout, rows, frame, has_price, of_fields, extra, uses_volume, notes)


def _notes_on_dropped(rows: Rows, priced: np.ndarray, lost: list[str]) -> Notes:
    """
    :param rows: all rows of the file
    :param priced: mask of the rows with prices
    :param lost: columns with values in the dropped rows
    :raises ValueError: if no row has prices
    """
    dropped = np.flatnonzero(~priced)
    if not len(dropped):
        return Notes()
    if not priced.any():
        raise ValueError(f"{rows.source} has no prices in any row")

    first = rows.day(dropped[0])
    values = ""
    if lost:
        values = f", and with them values of {', '.join(lost)}"
    if len(dropped) == 1 and dropped[0] == len(priced) - 1:
        return Notes((f"dropped the last row ({first}), which has no prices{values}",))
    return Notes((f"dropped {len(dropped)} row(s) without prices, the first {first}{values}",))


def _filled_option_columns(layout: Layout, frame: pd.DataFrame, dropped: np.ndarray) -> list[str]:
    """List the columns of options with values in the dropped rows."""
    return [name for name in layout.option_columns if (~is_missing(frame[name]) & dropped).any()]


def _unused_columns(layout: Layout, frame: pd.DataFrame) -> list[str]:
    """List the columns that neither a field nor an option uses, including further dates."""
    used = {*layout.columns, *layout.option_columns, layout.symbol, layout.time}
    return [str(name) for name in frame if name not in used]


def _option_numbers(layout: Layout, rows: Rows, cells: pd.Series, decimal: str, options: ReadOptions) -> np.ndarray:
    """Read an option's column. Each cell must be a number or missing."""
    name = str(cells.name)
    field = layout.table.pairs.get(name, (name, ""))[0]
    is_share = options.own.get(field) == TARGETS  # 50 % would become 50 times the equity
    checked = numbers_of(cells, decimal, multiples=True, percent=not is_share)
    rows.refuse(unreadable(cells, checked), f"{name} is not a finite number", cells)

    return numbers_of(cells, decimal, multiples=True)


def _numbers_of_fields(
    layout: Layout, rows: Rows, frame: pd.DataFrame, decimal: str, uses_volume: bool
) -> dict[str, np.ndarray]:
    """Read the numbers of all fields. Only volumes may be in thousands or millions."""
    volumes = layout.columns_of("volume")
    prices = set(layout.columns) - set(volumes)
    numbers = {name: numbers_of(frame[name], decimal) for name in prices}

    for name in volumes:
        cells = frame[name]
        values = numbers_of(cells, decimal, multiples=True, percent=False)
        if uses_volume:
            rows.refuse(unreadable(cells, values), "volume is not a finite number", cells)
        numbers[name] = np.where(np.isfinite(values), values, np.nan)

    return numbers


def _numbers_if_any(cells: pd.Series, decimal: str) -> np.ndarray | None:
    """Return a column's numbers, None: it has other content."""
    if str(cells.name).startswith(UNNAMED) or not is_number_or_text(cells):
        return None
    if is_text(cells):
        first = numbers_of(cells.iloc[:FIRST_CELLS], decimal, multiples=True)
        if not np.isfinite(first).any():
            return None

    values = numbers_of(cells, decimal, multiples=True)
    finite = np.isfinite(values)
    if not finite.any() or not (finite | is_missing(cells)).all():
        return None
    return values
