"""From the cells of the columns to numbers, of the rows that have prices."""

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

FIRST_CELLS = 100  # of a column, that show whether it can hold numbers
TARGETS = "market.benchmark_positions"  # the option whose columns are shares: half a position is 0.5


@dataclass(frozen=True)
class Numbers:
    """
    The T rows of a file that have prices, with their numbers.

    :param layout: what the columns stand for
    :param rows: numbers and dates of the rows, for refusals
    :param frame: their cells
    :param has_price: column of prices -> where it has a price, shape (T,)
    :param of_fields: column of a field -> numbers, NaN where there is none, shape (T,)
    :param extra: other columns of numbers: those that options name, then those that nothing uses
    :param uses_volume: whether an option names the volume
    :param notes: what was assumed, and the columns that are not used
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
    :param layout: what the columns of a file stand for
    :param options: what the user states about them
    :return: the rows that have prices, with their numbers
    :raises ValueError: in one sentence, if nothing decides how numbers are written, no row has prices, or a cell that
        an option needs holds no number
    """
    table = layout.table

    # A file writes all its numbers alike.
    names = dict.fromkeys([*layout.columns, *layout.own])
    columns = [table.frame[name] for name in names]
    convention = convention_of(table.source, columns, options.decimal, table.decimal)
    decimal = convention.decimal
    frame = table.frame
    if table.read_by is not None and decimal != table.decimal:
        frame = table.read_by(decimal)  # a point of thousands was taken for a decimal one

    # Leave out the rows without prices.
    has_price = {name: ~is_missing(frame[name]) for name in layout.columns_of(*TRADED)}
    priced = np.logical_or.reduce(list(has_price.values()))
    rows = Rows(table.source, frame.index.to_numpy(), frame[layout.dates[0]], table.has_header)
    notes = layout.notes + convention.notes + _notes_on_dropped(rows, priced, _own_values(layout, frame, ~priced))

    if not priced.all():
        rows = rows.take(priced)
        frame = frame.loc[priced]
        has_price = {name: present[priced] for name, present in has_price.items()}

    # Read the columns of fields, those that options name, and whatever else holds numbers.
    own = {name: _own_numbers(layout, rows, frame[name], decimal, options) for name in layout.own}
    uses_volume = "volume" in options.own
    of_fields = _numbers_of_fields(layout, rows, frame, decimal, uses_volume)
    unused = _unused_columns(layout, frame)
    possible = {name: _numbers_if_any(frame[name], decimal) for name in unused if name not in layout.dates}
    extra = own | {name: values for name, values in possible.items() if values is not None}

    notes = replace(notes, unused_columns=tuple(name for name in unused if name != layout.dates[0]))

    return Numbers(layout, rows, frame, has_price, of_fields, extra, uses_volume, notes)


def _notes_on_dropped(rows: Rows, priced: np.ndarray, lost: list[str]) -> Notes:
    """
    :param rows: all rows of the file
    :param priced: which of them have prices
    :param lost: columns that have values in the others
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


def _own_values(layout: Layout, frame: pd.DataFrame, dropped: np.ndarray) -> list[str]:
    """The columns that options name and that have values in the dropped rows."""
    return [name for name in layout.own if (~is_missing(frame[name]) & dropped).any()]


def _unused_columns(layout: Layout, frame: pd.DataFrame) -> list[str]:
    """The columns that no field and no option uses; further dates are among them."""
    used = {*layout.columns, *layout.own, layout.symbol, layout.time}
    return [str(name) for name in frame if name not in used]


def _own_numbers(layout: Layout, rows: Rows, cells: pd.Series, decimal: str, options: ReadOptions) -> np.ndarray:
    """The numbers of a column that an option names, in which each cell must be one or be missing."""
    name = str(cells.name)
    field = layout.table.pairs.get(name, (name, ""))[0]
    is_share = options.own.get(field) == TARGETS  # 50 % would be read as 50 times the equity
    checked = numbers_of(cells, decimal, multiples=True, percent=not is_share)
    rows.refuse(unreadable(cells, checked), f"{name} is not a finite number", cells)

    return numbers_of(cells, decimal, multiples=True)


def _numbers_of_fields(
    layout: Layout, rows: Rows, frame: pd.DataFrame, decimal: str, uses_volume: bool
) -> dict[str, np.ndarray]:
    """The numbers of all fields: volumes alone may be in thousands or millions."""
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
    """A column's numbers, None if it holds something else."""
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
