"""From a configuration to the bars of every symbol: data that ship, files, and whether one account can hold them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from market_regimes.config import SHIPPED, MarketConfig
from market_regimes.market.columns import column_of
from market_regimes.market.shipped import shipped
from market_regimes.prices import (
    SUFFIXES,
    Bars,
    Calendar,
    ReadOptions,
    bar_length,
    bars_per_year,
    is_readable,
    read_prices,
)

ALIKE = 0.05  # share by which symbols of one run may differ in bars per year; they get the median
NO_ZONE = "no zone is stated: bars of several files meet by their clocks; market.zone states it"


def read_bars(config: MarketConfig) -> list[Bars]:
    """
    :param config: the data
    :return: the bars of every symbol, of shipped data first, all with the same number of bars per year
    :raises ValueError: in one sentence with file, rows and dates, if the data cannot be used
    """
    paths = [Path(entry).expanduser() for entry in config.entries if entry not in SHIPPED]
    for path in paths:
        _check_path(path)

    # Data that ship come first, then files.
    symbols: list[Bars] = []
    for entry in config.entries:
        if entry in SHIPPED:
            symbols += shipped(entry, config.volatility_index)
    symbols += read_prices([str(path) for path in paths], _options_of(config))

    # Every symbol has one name, and every column that an option names.
    counts = Counter(bars.symbol for bars in symbols)
    for symbol, count in counts.items():
        if count > 1:
            raise ValueError(f"the symbol {symbol} is twice in market.data")
    for name, option in config.own_columns.items():
        for bars in symbols:
            column_of(bars, name, option)
    return in_one_account(symbols, config.bars_per_year)


def _check_path(path: Path) -> None:
    if not path.is_dir() and not is_readable(path):
        raise ValueError(
            f"market.data: {path} is none of {', '.join(SHIPPED)}, nor a file that ends in {', '.join(SUFFIXES)}, "
            "nor a folder of such files"
        )


def _options_of(config: MarketConfig) -> ReadOptions:
    """The options of the configuration that say how files are read."""
    return ReadOptions(
        config.columns,
        config.date_format,
        config.decimal,
        config.own_columns,
        config.closes,
        config.side,
        config.zone,
        config.off_grid,
    )


def in_one_account(symbols: list[Bars], stated: float | None) -> list[Bars]:
    """
    :param symbols: bars of every symbol
    :param stated: bars per year, None: those of the bars
    :return: the same with one number of bars per year, and the rows per year of the account that holds them all
    :raises ValueError: if no account can hold them: bars of different lengths, unknown zones, or unlike years
    """
    _check_lengths(symbols)
    return _with_one_year(_with_notes_on_zones(symbols), stated)


def _check_lengths(symbols: Sequence[Bars]) -> None:
    """:raises ValueError: if two symbols have bars of different lengths, which no row of one account can hold"""
    lengths = [(bars, bar_length(bars.dates)) for bars in symbols]
    for bars, length in lengths[1:]:
        first, usual = lengths[0]
        if length != usual:
            raise ValueError(
                f"{first.symbol} ({first.source}) has bars of {usual} and {bars.symbol} ({bars.source}) of {length}: "
                "one run needs bars of one length. List one of them in market.data, or bring the files to one length"
            )


def _with_notes_on_zones(symbols: list[Bars]) -> list[Bars]:
    """
    Bars of several symbols meet by instants where they are shorter than a day, so all must have them or none.

    :return: the same bars, with a note where several files state no zone
    :raises ValueError: if the offset of one symbol's zone is known and that of another is not
    """
    short = [bars for bars in symbols if bar_length(bars.dates).unit == "second"]
    zoned = next((bars for bars in short if bars.has_instants), None)
    for bars in short:
        if zoned is not None and not bars.has_instants:
            stated = "no time zone" if bars.zone is None else f"{bars.zone}, whose offset is unknown,"
            raise ValueError(
                f"{bars.source} states {stated} for {bars.symbol}, and {zoned.source} states {zoned.zone}: bars "
                "shorter than a day meet by instants; set market.zone, like America/New_York, for files without one"
            )

    # Without instants they meet by their clocks, which must then be one.
    without_offset = list(dict.fromkeys(bars.zone for bars in short if not bars.has_instants))
    if len(without_offset) > 1:
        names = " and ".join("none" if zone is None else zone for zone in without_offset[:2])
        raise ValueError(
            f"{short[0].source} and others state the zones {names}, whose offsets are unknown: bars shorter than a day "
            "meet by instants; set market.zone, as {FILE: America/New_York, OTHER: -05:00}"
        )
    if not without_offset or len({bars.source for bars in short}) == 1:
        return symbols

    # Clocks of several files are taken for one.
    noted = {bars.symbol: replace(bars, notes=bars.notes.and_assumed(NO_ZONE)) for bars in short}
    return [noted.get(bars.symbol, bars) for bars in symbols]


def _with_one_year(symbols: list[Bars], stated: float | None) -> list[Bars]:
    """
    The symbols with the number of bars per year that is stated, or that of all of them; and with the rows per year of
    the account that holds them all, which is larger where each lacks other days.
    """
    counts = sorted(bars.bars_per_year for bars in symbols)
    if stated is None and counts[-1] > counts[0] * (1 + ALIKE):
        raise ValueError(_unlike_years(symbols))

    common = float(np.median(counts)) if stated is None else float(stated)
    if len(symbols) == 1:
        return [bars if bars.bars_per_year == common else replace(bars, bars_per_year=common) for bars in symbols]

    # The account's rows keep their number per counted bar.
    rows = common
    if stated is None:
        counted = [bars_per_year(bars.dates) for bars in symbols]
        rows *= _rows_per_year(symbols) / float(np.median(counted))
    return [replace(bars, bars_per_year=common, rows_per_year=rows) for bars in symbols]


def _unlike_years(symbols: Sequence[Bars]) -> str:
    least = min(symbols, key=lambda bars: bars.bars_per_year)
    most = max(symbols, key=lambda bars: bars.bars_per_year)
    rows = _rows_per_year(symbols)
    holders = "both" if len(symbols) == 2 else f"all {len(symbols)}"
    return (
        f"{least.symbol} has {least.bars_per_year:g} bars per year and {most.symbol} {most.bars_per_year:g}: one "
        f"run needs one number. The account that holds {holders} has {rows:g} rows a year: "
        f"market.bars_per_year={rows:g}"
    )


def _rows_per_year(symbols: Sequence[Bars]) -> float:
    """Rows in a year of the account that holds these symbols, counted."""
    calendar = Calendar.of([bars.dates for bars in symbols], [bars.instants for bars in symbols])
    return bars_per_year(calendar.stamps)
