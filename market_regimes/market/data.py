"""Bars of every symbol of a configuration: shipped data, files, and whether one account can hold them."""

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
    # Entries are names of shipped data, or paths.
    names = []
    paths = []
    for entry in config.entries:
        if entry in SHIPPED:
            names.append(entry)
            continue
        path = Path(entry).expanduser()
        _check_path(path)
        paths.append(str(path))

    # Data that ship come first, then files.
    symbols: list[Bars] = []
    for name in names:
        symbols += shipped(name, config.volatility_index, config.law_seed)
    symbols += read_prices(paths, _options_of(config))

    # Every symbol has one name.
    counts = Counter(bars.symbol for bars in symbols)
    for symbol, count in counts.items():
        if count > 1:
            raise ValueError(f"the symbol {symbol} is twice in market.data")

    # Every symbol has every column that an option names.
    for name, option in config.own_columns.items():
        for bars in symbols:
            column_of(bars, name, option)
    return in_one_account(symbols, config.bars_per_year)


def _check_path(path: Path) -> None:
    """:raises ValueError: if the path is no folder, and no file that can be read"""
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
    noted = _with_notes_on_zones(symbols)
    return _with_one_year(noted, stated)


def _check_lengths(symbols: Sequence[Bars]) -> None:
    """:raises ValueError: if two symbols have bars of different lengths, which no row of one account can hold"""
    first = symbols[0]
    usual = bar_length(first.dates)
    for bars in symbols[1:]:
        length = bar_length(bars.dates)
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

    # One symbol with instants needs all to have them.
    zoned = next((bars for bars in short if bars.has_instants), None)
    for bars in short:
        if zoned is not None and not bars.has_instants:
            stated = "no time zone"
            if bars.zone is not None:
                stated = f"{bars.zone}, whose offset is unknown,"
            raise ValueError(
                f"{bars.source} states {stated} for {bars.symbol}, and {zoned.source} states {zoned.zone}: bars "
                "shorter than a day meet by instants; set market.zone, like America/New_York, for files without one"
            )

    # Without instants they meet by their clocks, which must then be one.
    without_offset = list(dict.fromkeys(bars.zone for bars in short if not bars.has_instants))
    if len(without_offset) > 1:
        zones = " and ".join(_zone_text(zone) for zone in without_offset[:2])
        raise ValueError(
            f"{short[0].source} and others state the zones {zones}, whose offsets are unknown: bars shorter than a day "
            "meet by instants; set market.zone, as {FILE: America/New_York, OTHER: -05:00}"
        )
    sources = {bars.source for bars in short}
    if not without_offset or len(sources) == 1:
        return symbols

    # Clocks of several files are taken for one.
    noted = {}
    for bars in short:
        notes = bars.notes.and_assumed(NO_ZONE)
        noted[bars.symbol] = replace(bars, notes=notes)
    return [noted.get(bars.symbol, bars) for bars in symbols]


def _zone_text(zone: str | None) -> str:
    """The name of a zone, for people."""
    if zone is None:
        return "none"
    return zone


def _with_one_year(symbols: list[Bars], stated: float | None) -> list[Bars]:
    """
    The symbols with the number of bars per year that is stated, or that of all of them; and with the rows per year of
    the account that holds them all, which is larger where each lacks other days.
    """
    counts = sorted(bars.bars_per_year for bars in symbols)
    if stated is None and counts[-1] > counts[0] * (1 + ALIKE):
        raise ValueError(_unlike_years(symbols))

    common = float(np.median(counts))
    if stated is not None:
        common = float(stated)

    # The account of one symbol has its rows.
    if len(symbols) == 1:
        if counts[0] == common:
            return symbols
        return [replace(symbols[0], bars_per_year=common)]

    # The account's rows keep their number per counted bar.
    rows = common
    if stated is None:
        counted = [bars_per_year(bars.dates) for bars in symbols]
        rows *= _rows_per_year(symbols) / float(np.median(counted))
    return [replace(bars, bars_per_year=common, rows_per_year=rows) for bars in symbols]


def _unlike_years(symbols: Sequence[Bars]) -> str:
    """The message on symbols whose years differ, with the number that fits their account."""
    least = min(symbols, key=lambda bars: bars.bars_per_year)
    most = max(symbols, key=lambda bars: bars.bars_per_year)
    rows = _rows_per_year(symbols)

    holders = f"all {len(symbols)}"
    if len(symbols) == 2:
        holders = "both"
    return (
        f"{least.symbol} has {least.bars_per_year:g} bars per year and {most.symbol} {most.bars_per_year:g}: one "
        f"run needs one number. The account that holds {holders} has {rows:g} rows a year: "
        f"market.bars_per_year={rows:g}"
    )


def _rows_per_year(symbols: Sequence[Bars]) -> float:
    """Rows in a year of the account that holds these symbols, counted."""
    dates = [bars.dates for bars in symbols]
    instants = [bars.instants for bars in symbols]
    calendar = Calendar.of(dates, instants)
    return bars_per_year(calendar.stamps)
