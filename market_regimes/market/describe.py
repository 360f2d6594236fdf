"""Texts on the data for the commands ``data`` and ``train``: contents, assumptions, warnings."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import numpy as np

from market_regimes.config import SHIPPED, MarketConfig, PeriodName, PortfolioConfig
from market_regimes.market.columns import described_features
from market_regimes.market.law import law_of
from market_regimes.market.market import Market, fills_at_open, uses_index_of_data
from market_regimes.market.oddities import LARGE, Oddity, oddities
from market_regimes.market.periods import date_text
from market_regimes.market.regimes import DEFAULT_REGIMES
from market_regimes.market.segments import Data
from market_regimes.prices import Bars, bar_length

FILLS = {"next_open": "at the next open", "close": "at the close"}
SHOWN = 5  # symbols that are named where a sentence holds for many
VARIABLE = re.compile(r"'[^']*'|\d[\w.,:/+-]*")  # names and numbers in which sentences of one kind differ


def notes_of(data: Data, stated: MarketConfig) -> list[str]:
    """
    :param data: the data
    :param stated: the configuration as the user wrote it, perhaps without periods
    :return: every assumption in a line; symbols that share it share the line
    """
    lines = assumed(data.read)
    lines += observed(stated)
    lines += without_group(stated.portfolio, [bars.symbol for bars in data.read])

    # Periods of the user's data that nobody stated.
    is_shipped = all(entry in SHIPPED for entry in stated.entries)
    if stated.train is None and not is_shipped:
        periods = []
        for name in get_args(PeriodName):
            days = " to ".join(data.config.days(name))
            periods.append(f"{name} {days}")
        lines.append(f"periods of 60, 15 and 25 % of the days: {', '.join(periods)}")

    # Symbols that have fewer bars than asked for, or none.
    lines += shortened(data)
    lines += absent(data)
    return lines


def shortened(data: Data) -> list[str]:
    """:return: a line on the symbols whose training period has fewer bars than ``market.episode_bars``"""
    stated = data.config.episode_bars

    lines = []
    for segment in data.segments["train"]:
        bars = segment.last - segment.first
        symbol = segment.market.symbol
        if bars < stated:
            lines.append(f"{symbol}: episodes of {bars} bars, all of training, not market.episode_bars={stated}")
    return lines


def assumed(read: Sequence[Bars]) -> list[str]:
    """
    :param read: the bars of every symbol
    :return: the assumptions about the files; symbols with the same sentence share a line, and so do many symbols whose
        sentences differ in numbers and dates alone
    """
    # The symbols of each sentence.
    symbols_of: dict[str, list[str]] = {}
    for bars in read:
        for sentence in bars.notes.assumptions:
            symbols_of.setdefault(sentence, []).append(bars.symbol)

    # Sentences that differ in names and numbers alone are of one kind.
    kinds: dict[str, list[str]] = {}
    for sentence in symbols_of:
        kind = VARIABLE.sub("#", sentence)
        kinds.setdefault(kind, []).append(sentence)

    lines = []
    for sentences in kinds.values():
        # A few sentences of a kind have a line each.
        if len(sentences) <= SHOWN:
            for sentence in sentences:
                owners = _whose(symbols_of[sentence], read)
                lines.append(f"{owners}: {sentence}")
            continue

        # Many share the line of the first.
        symbols: list[str] = []
        for sentence in sentences:
            symbols += symbols_of[sentence]
        owners = _whose(symbols, read)
        lines.append(f"{owners}, such as {symbols[0]}: {sentences[0]}")
    return lines


def _whose(symbols: Sequence[str], read: Sequence[Bars]) -> str:
    """The names of the symbols, or that they are all there are."""
    different = list(dict.fromkeys(symbols))
    count = len(different)
    if count == len(read) and count > SHOWN:
        return f"all {count} symbols"
    return names_of(different)


def observed(config: MarketConfig) -> list[str]:
    """:return: a line on the features and one on the user's own rule, where there are any"""
    lines = []

    features = described_features(config)
    if features:
        lines.append(f"observed besides prices: {features}")

    if config.benchmark_positions:
        lines.append(f"own rule: targets of {config.benchmark_positions}, each known at the close of its row")
    return lines


def without_group(portfolio: PortfolioConfig, symbols: Sequence[str]) -> list[str]:
    """:return: a line on the symbols that no cap of ``market.portfolio.group_max`` binds, where there are caps"""
    free = [symbol for symbol in symbols if symbol not in portfolio.groups]
    if not portfolio.groups or not free:
        return []
    return [f"market.portfolio.groups: {len(free)} of {len(symbols)} symbols have no group: {names_of(free)}"]


def absent(data: Data) -> list[str]:
    """:return: a line on the symbols that a period lacks, and on those that take no part at all"""
    lines = []

    # Symbols without training take no part.
    trained = _symbols_in(data, "train")
    left_out = []
    for bars in data.read:
        if bars.symbol not in trained:
            left_out.append(bars.symbol)
    if left_out:
        lines.append(f"{names_of(left_out)}: left out, for want of bars in the training period")

    # Others may lack a later period.
    later: tuple[PeriodName, ...] = ("validation", "test")
    for name in later:
        present = _symbols_in(data, name)
        missing = sorted(trained - present)
        if missing:
            lines.append(f"{names_of(missing)}: no bars in the {name} period")
    return lines


def _symbols_in(data: Data, period: PeriodName) -> set[str]:
    """The symbols that take part in a period."""
    return {segment.market.symbol for segment in data.segments[period]}


def warnings_of(read: Sequence[Bars], with_moves: bool = False) -> list[str]:
    """
    :param read: the bars of every symbol
    :param with_moves: whether to name moves by a factor of two or more that are like no split, as crashes are
    :return: a sentence for each oddity of the prices; many symbols share one sentence for each kind
    """
    # The oddities of each kind, of all symbols.
    kinds: dict[str, list[Oddity]] = {}
    for bars in read:
        for oddity in oddities(bars):
            is_asked_for = with_moves or oddity.kind != LARGE
            if is_asked_for:
                kinds.setdefault(oddity.kind, []).append(oddity)

    lines = []
    for kind, of_kind in kinds.items():
        # A few have a line each.
        if len(of_kind) <= SHOWN:
            lines += [oddity.text for oddity in of_kind]
            continue

        # Many share the line of the first.
        symbols = [oddity.symbol for oddity in of_kind]
        owners = _whose(symbols, read)
        lines.append(f"{owners} have {kind}; {of_kind[0].text}")
    return lines


def names_of(symbols: Sequence[str]) -> str:
    """The first symbols, and how many more there are."""
    names = ", ".join(symbols[:SHOWN])

    more = len(symbols) - SHOWN
    if more > 0:
        names += f" and {more} more"
    return names


def described(data: Data) -> list[dict[str, Any]]:
    """
    :param data: the data
    :return: per symbol, for JSON: ``symbol``, ``source``, ``bars``, ``bar_length`` ("1 month"), ``first`` and
        ``last`` (times in ISO form),
        ``first_close`` and ``last_close`` (as traded: adjusted where the file has that), ``bars_per_year``, ``zone``,
        ``volatility_index`` ("own" or "estimated"), ``regimes`` (bars in each; None: it takes no part),
        ``regime_bounds``, ``law`` (of a synthetic symbol, None: unknown), ``fill`` ("next_open" or "close"),
        ``features``, ``own_rule`` (column), ``unused_columns``, ``assumptions``, ``periods`` (per name first and last
        day, and ``bars``)
    """
    # The markets of the symbols that take part.
    markets = {}
    for segment in data.segments["train"]:
        markets[segment.market.symbol] = segment.market

    symbols = []
    for bars in data.read:
        market = markets.get(bars.symbol)
        symbols.append(_described(data, bars, market))
    return symbols


def _described(data: Data, bars: Bars, market: Market | None) -> dict[str, Any]:
    """:param market: the market of the bars; None: the symbol takes no part"""
    regimes = None
    bounds = None
    at_open = bars.fill == "open"

    # A symbol that takes part has regimes, and a fill that the configuration may decide.
    if market is not None:
        regimes = _bars_in_regimes(market)
        bounds = [float(bound) for bound in market.regimes.bounds]
        at_open = fills_at_open(market, data.config.trading)

    fill = "close"
    if at_open:
        fill = "next_open"
    volatility_index = "estimated"
    if uses_index_of_data(bars, data.config):
        volatility_index = "own"

    periods = {}
    for name in get_args(PeriodName):
        periods[name] = _described_period(data, name, bars.symbol)

    return {
        "symbol": bars.symbol,
        "source": bars.source,
        "bars": len(bars.dates),
        "bar_length": str(bar_length(bars.dates)),
        "first": str(bars.dates[0]),
        "last": str(bars.dates[-1]),
        "first_close": float(bars.close[0]),
        "last_close": float(bars.close[-1]),
        "bars_per_year": bars.bars_per_year,
        "zone": bars.zone,
        "volatility_index": volatility_index,
        "regimes": regimes,
        "regime_bounds": bounds,
        "law": _described_law(bars),
        "fill": fill,
        "features": described_features(data.config),
        "own_rule": data.config.benchmark_positions,
        "unused_columns": list(bars.notes.unused_columns),
        "assumptions": list(bars.notes.assumptions),
        "periods": periods,
    }


def _described_law(bars: Bars) -> dict[str, Any] | None:
    """
    :return: per regime of the bars' law its ``index``, the ``growth`` of a day and its ``std`` without flash crashes in
        per cent, its ``share`` of the days and the ``days`` of a stretch; None: nobody knows the law
    """
    law = law_of(bars)
    if law is None:
        return None
    return {
        "index": list(law.index),
        "growth": list(law.growth),
        "std": list(law.std),
        "share": list(law.shares),
        "days": [1 / end for end in law.ends],
    }


def _bars_in_regimes(market: Market) -> dict[str, int]:
    """The number of bars in each regime; bars of the warm-up have none."""
    names = market.regimes.names
    labelled = market.regime[market.regime >= 0]

    counts = np.bincount(labelled, minlength=len(names))
    return dict(zip(names, counts.tolist(), strict=True))


def _described_period(data: Data, name: PeriodName, symbol: str) -> dict[str, Any]:
    """A period's first and last day, and the number of bars that the symbol has in it."""
    first, last = data.config.days(name)

    bars = 0
    for segment in data.segments[name]:
        if segment.market.symbol == symbol:
            bars += len(segment.period)
    return {
        "first": first,
        "last": last,
        "bars": bars,
    }


def lines_of(symbol: dict[str, Any]) -> list[str]:
    """
    :param symbol: an entry of ``described``
    :return: the same for people
    """
    lines = [f"{symbol['symbol']} ({symbol['source']})"]

    # The bars: how many, from when to when, of which length.
    first, last = _first_and_last(symbol)
    begin = f"{first} (close {symbol['first_close']:,.6g})"
    end = f"{last} (close {symbol['last_close']:,.6g})"
    year = f"{symbol['bars_per_year']:,g} a year, of {symbol['bar_length']}"
    lines.append(_line("bars", f"{symbol['bars']:,} from {begin} to {end}; {year}"))

    # The time zone, the fill of orders, and the regimes.
    lines.append(_line("zone", symbol["zone"] or "none stated"))
    lines.append(_line("fill", FILLS[symbol["fill"]]))
    regimes = _regimes_text(symbol)
    lines.append(_line("index", f"{symbol['volatility_index']}; bars: {regimes}"))

    # The law, where it is known.
    if symbol["law"]:
        lines.append(_line("law", _law_text(symbol["law"])))

    # The columns that are used beside prices.
    for name in ("features", "own_rule"):
        if symbol[name]:
            label = name.replace("_", " ")
            lines.append(_line(label, symbol[name]))

    # The periods.
    for name, period in symbol["periods"].items():
        days = _days_text(period)
        lines.append(_line(name, f"{days}, {period['bars']:,} bars"))

    # Columns that are not used, and the assumptions.
    lines.append(_line("not used", _unused_text(symbol)))
    for sentence in symbol["assumptions"]:
        lines.append(_line("assumed", sentence))
    return lines


def _law_text(law: Mapping[str, Sequence[float]] | None) -> str:
    """The mean return of a day in each regime of a law, and how often it is one; "" where nobody knows the law."""
    if law is None:
        return ""
    parts = []
    for index, growth, share, days in zip(law["index"], law["growth"], law["share"], law["days"], strict=True):
        parts.append(f"{growth:+.3g} % a day at index {index:.1f} ({share:.0%} of the days, {days:.0f} in a row)")
    return ", ".join(parts)


def _line(name: str, text: str) -> str:
    """An indented line: a name and, in a column behind it, the text."""
    return f"  {name:<11}{text}"


def _days_text(period: Mapping[str, Any]) -> str:
    """A period's first and last day."""
    return f"{period['first']} to {period['last']}"


def _unused_text(symbol: Mapping[str, Any]) -> str:
    """The names of the columns that are not used."""
    return ", ".join(symbol["unused_columns"]) or "nothing"


def _first_and_last(symbol: Mapping[str, Any]) -> tuple[str, str]:
    """The times of the first and the last bar, for people."""
    first = np.datetime64(symbol["first"])
    last = np.datetime64(symbol["last"])
    return date_text(first), date_text(last)


def _regimes_text(symbol: Mapping[str, Any]) -> str:
    """The bars in each regime, and the bounds of the regimes."""
    if symbol["regimes"] is None:
        return "takes no part"

    counts = []
    for name, count in symbol["regimes"].items():
        counts.append(f"{name} {count:,}")
    bounds = [f"{bound:.3g}" for bound in symbol["regime_bounds"]]
    return f"{', '.join(counts)}; bounds {', '.join(bounds)}"


def table_of(symbols: Sequence[dict[str, Any]], read: Sequence[Bars]) -> list[str]:
    """
    :param symbols: entries of ``described``, many
    :param read: their bars
    :return: a line per symbol, and a line for each text that several of them share
    """
    # The header and the cells of each symbol.
    names = _regime_names(symbols)
    header = ("symbol", "bars", "first", "last", *names, *get_args(PeriodName))
    rows: list[tuple[str, ...]] = [header]
    for symbol in symbols:
        rows.append(_row(symbol, names))

    # Every column is as wide as its longest cell.
    widths = []
    for column in zip(*rows, strict=True):
        widths.append(max(map(len, column)))
    lines = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join(cells).rstrip())

    # Texts that symbols share.
    for name, texts in _shared(symbols).items():
        lines += _shared_lines(name, texts, symbols)
    for sentence in assumed(read):
        lines.append(_line("assumed", sentence))
    return lines


def _regime_names(symbols: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The names of the regimes of the symbols that take part."""
    for symbol in symbols:
        if symbol["regimes"] is not None:
            return tuple(symbol["regimes"])

    # No symbol takes part.
    return DEFAULT_REGIMES.names


def _row(symbol: Mapping[str, Any], names: Sequence[str]) -> tuple[str, ...]:
    """A symbol's cells in the table."""
    first, last = _first_and_last(symbol)
    cells = [symbol["symbol"], f"{symbol['bars']:,}", first, last]

    # The bars in each regime; a symbol that takes no part has none.
    if symbol["regimes"]:
        cells += [f"{count:,}" for count in symbol["regimes"].values()]
    else:
        cells += ["-"] * len(names)

    # The bars in each period.
    for period in symbol["periods"].values():
        cells.append(f"{period['bars']:,}")
    return tuple(cells)


def _shared(symbols: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """The texts that several symbols may share: by name, a text for each symbol."""
    shared: dict[str, list[str]] = {}
    for symbol in symbols:
        for name, text in _texts(symbol).items():
            shared.setdefault(name, []).append(text)
    return shared


def _texts(symbol: Mapping[str, Any]) -> dict[str, str]:
    """A symbol's texts, by name; "" has no line."""
    bar_length = symbol["bar_length"]
    texts = {
        "files": symbol["source"],
        "bars": f"of {bar_length}, {symbol['bars_per_year']:,g} a year",
        "zone": symbol["zone"] or "none stated",
        "fill": FILLS[symbol["fill"]],
        "index": symbol["volatility_index"],
        "law": _law_text(symbol["law"]),
        "features": symbol["features"] or "",
        "own rule": symbol["own_rule"] or "",
    }
    for name in get_args(PeriodName):
        texts[name] = _days_text(symbol["periods"][name])
    texts["not used"] = _unused_text(symbol)
    return texts


def _shared_lines(name: str, texts: Sequence[str], symbols: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each text, with the symbols that share it where not all do."""
    symbols_of: dict[str, list[str]] = {}
    for symbol, text in zip(symbols, texts, strict=True):
        symbols_of.setdefault(text, []).append(symbol["symbol"])

    # Many files are counted.
    if name == "files" and len(symbols_of) > SHOWN:
        return [_line(name, f"{len(symbols_of)}, the first {texts[0]}")]

    lines = []
    for text, sharers in symbols_of.items():
        if not text:
            continue
        whose = ""
        if len(sharers) < len(symbols):
            whose = f" ({names_of(sharers)})"
        lines.append(_line(name, f"{text}{whose}"))
    return lines
