"""Reading of files, or a frame: table -> layout -> numbers -> times -> symbols -> bars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from market_regimes.prices.bars import Bars, check_bars
from market_regimes.prices.frames import with_index_as_columns
from market_regimes.prices.layout import Layout, layout_of
from market_regimes.prices.numbers import read_numbers
from market_regimes.prices.options import ReadOptions
from market_regimes.prices.paths import files_in, names_of
from market_regimes.prices.sides import without_side
from market_regimes.prices.symbols import split_symbols
from market_regimes.prices.table import read_table, table_of_frame
from market_regimes.prices.times import read_times

DEFAULTS = ReadOptions()


def read_prices(paths: Sequence[str], options: ReadOptions = DEFAULTS) -> list[Bars]:
    """
    :param paths: files, and folders of files: CSV and similar text, perhaps compressed, Parquet, spreadsheets
    :param options: the user's options
    :return: bars of each symbol, in the order of the files
    :raises ValueError: if the data cannot be used. A sentence names file, rows, dates and the option that decides
    """
    by_symbol: dict[str, Bars] = {}
    for path in files_in(paths):
        table = read_table(path, options)
        for bars in _bars_of(layout_of(table, options), options):
            # Two files must not have the same symbol.
            first = by_symbol.setdefault(bars.symbol, bars)
            if first is not bars:
                raise ValueError(f"the symbol {bars.symbol} is in {first.source} and in {bars.source}")

    return _of_stated_side(list(by_symbol.values()), options.side)


def read_frame(frame: pd.DataFrame, symbol: str | None, options: ReadOptions = DEFAULTS) -> list[Bars]:
    """
    :param frame: frame with the columns of a file; its index may have the dates
    :param symbol: symbol of the bars if the frame names none, None: the frame must name it
    :param options: the user's options
    :return: bars of every symbol, in the order of the frame
    :raises ValueError: if the data cannot be used; a sentence with row and date
    """
    # From here on a frame is read as a file is.
    table = table_of_frame(str(Path(symbol or "the frame")), with_index_as_columns(frame))
    layout = layout_of(table, options)
    if layout.names_symbols:
        return _bars_of(layout, options)
    if symbol is None:
        raise ValueError("the frame lacks the column symbol, and the run knows several")
    return [replace(bars, symbol=symbol) for bars in _bars_of(layout, options)]


def check_zones(zone: str | dict[str, str] | None, read: Sequence[Bars]) -> None:
    """
    :param zone: the user's zones
    :param read: bars of every symbol
    :raises ValueError: if a file or symbol in ``zone`` does not exist, or every file states another zone
    """
    # A zone for all files must apply to at least one.
    if isinstance(zone, str) and read and all(bars.notes.unused_zone == zone for bars in read):
        raise ValueError(
            f"market.zone={zone} states the zone of files without one, and {read[0].source} states {read[0].zone} "
            "itself: leave market.zone away"
        )

    # Every file and symbol that the user names must exist.
    if isinstance(zone, dict):
        names = {name for bars in read for name in names_of(bars.symbol, bars.source)}
        absent = [name for name in zone if name not in names]
        if absent:
            raise ValueError(f"market.zone names {absent[0]}, and no file or symbol is called so")


def _bars_of(layout: Layout, options: ReadOptions) -> list[Bars]:
    """Build each symbol's bars from a table with known columns."""
    # Each step reads the result of the one before.
    numbers = read_numbers(layout, options)
    timed = read_times(numbers, options)
    return [check_bars(rows, options.off_grid) for rows in split_symbols(timed, options.zone)]


def _of_stated_side(read: list[Bars], side: str | None) -> list[Bars]:
    """Keep the stated side of an instrument: EURUSD_BID.csv and EURUSD_ASK.csv are one."""
    # Group the symbols by instrument and side.
    instruments: dict[str, dict[str, str]] = {}
    for bars in read:
        split = without_side(bars.symbol)
        if split is not None:
            name, instrument = split
            instruments.setdefault(instrument, {})[name] = bars.symbol

    # With several sides the user states which is traded.
    left_out: set[str] = set()
    for symbols in instruments.values():
        if len(symbols) < 2:
            continue
        if side not in symbols:
            first, second, *_ = symbols.values()
            raise ValueError(
                f"{first} and {second} are two sides of one instrument: set market.side to {' or '.join(symbols)}"
            )
        left_out |= {symbol for name, symbol in symbols.items() if name != side}

    return [bars for bars in read if bars.symbol not in left_out]
