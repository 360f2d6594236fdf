"""What the commands ``data`` and ``train`` say of the data: what is there, what was assumed, what may be wrong."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import numpy as np

from market_regimes.config import SHIPPED, MarketConfig, PeriodName
from market_regimes.market.columns import described_features
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
    :param data: as read
    :param stated: the configuration before its periods were found
    :return: every assumption in a line, of symbols that share it in one
    """
    lines = assumed(data.read) + observed(stated)
    if stated.train is None and not all(entry in SHIPPED for entry in stated.entries):
        days = ", ".join(f"{name} {' to '.join(data.config.days(name))}" for name in get_args(PeriodName))
        lines.append(f"periods of 60, 15 and 25 % of the days: {days}")
    return lines + shortened(data) + absent(data)


def shortened(data: Data) -> list[str]:
    """:return: a line on the symbols whose training period has fewer bars than ``market.episode_bars``"""
    stated = data.config.episode_bars
    lines = []
    for segment in data.segments["train"]:
        bars = segment.last - segment.first
        if bars < stated:
            symbol = segment.market.symbol
            lines.append(f"{symbol}: episodes of {bars} bars, all of training, not market.episode_bars={stated}")
    return lines


def assumed(read: Sequence[Bars]) -> list[str]:
    """
    :return: what was assumed about files, of symbols that share it in one line, and of many that differ in numbers and
        dates alone in one with the first of them
    """
    symbols_of: dict[str, list[str]] = {}
    for bars in read:
        for sentence in bars.notes.assumptions:
            symbols_of.setdefault(sentence, []).append(bars.symbol)

    # Sentences that differ in names and numbers alone are of one kind.
    kinds: dict[str, list[str]] = {}
    for sentence in symbols_of:
        kinds.setdefault(VARIABLE.sub("#", sentence), []).append(sentence)

    lines = []
    for sentences in kinds.values():
        if len(sentences) <= SHOWN:
            lines += [f"{_whose(symbols_of[sentence], read)}: {sentence}" for sentence in sentences]
            continue
        symbols = [symbol for sentence in sentences for symbol in symbols_of[sentence]]
        lines.append(f"{_whose(symbols, read)}, such as {symbols[0]}: {sentences[0]}")
    return lines


def _whose(symbols: Sequence[str], read: Sequence[Bars]) -> str:
    """The names of the symbols, or that they are all there are."""
    count = len(set(symbols))
    if count == len(read) > SHOWN:
        return f"all {count} symbols"
    return names_of(list(dict.fromkeys(symbols)))


def observed(config: MarketConfig) -> list[str]:
    """:return: a line on the features and one on the user's own rule, where there are any"""
    lines = []
    features = described_features(config)
    if features:
        lines.append(f"observed besides prices: {features}")
    if config.benchmark_positions:
        lines.append(f"own rule: targets of {config.benchmark_positions}, each known at the close of its row")
    return lines


def absent(data: Data) -> list[str]:
    """:return: a line on the symbols that a period lacks, and on those that take no part at all"""
    lines = []
    trained = {segment.market.symbol for segment in data.segments["train"]}
    left_out = [bars.symbol for bars in data.read if bars.symbol not in trained]
    if left_out:
        lines.append(f"{names_of(left_out)}: left out, for want of bars in the training period")
    for name in ("validation", "test"):
        present = {segment.market.symbol for segment in data.segments[name]}
        missing = sorted(trained - present)
        if missing:
            lines.append(f"{names_of(missing)}: no bars in the {name} period")
    return lines


def warnings_of(read: Sequence[Bars], with_moves: bool = False) -> list[str]:
    """
    :param read: the bars of every symbol
    :param with_moves: whether to name moves by a factor of two or more that are like no split, as crashes are
    :return: what may be wrong with the prices, a sentence each; of many symbols one sentence for each kind
    """
    kinds: dict[str, list[Oddity]] = {}
    for bars in read:
        for oddity in oddities(bars):
            if with_moves or oddity.kind != LARGE:
                kinds.setdefault(oddity.kind, []).append(oddity)

    lines = []
    for kind, of_kind in kinds.items():
        if len(of_kind) <= SHOWN:
            lines += [oddity.text for oddity in of_kind]
        else:
            lines.append(f"{_whose([oddity.symbol for oddity in of_kind], read)} have {kind}; {of_kind[0].text}")
    return lines


def names_of(symbols: Sequence[str]) -> str:
    """The first symbols, and how many more there are."""
    names = ", ".join(symbols[:SHOWN])
    if len(symbols) > SHOWN:
        names += f" and {len(symbols) - SHOWN} more"
    return names


def described(data: Data) -> list[dict[str, Any]]:
    """
    :param data: as read
    :return: per symbol, for JSON: ``symbol``, ``source``, ``bars``, ``bar_length`` ("1 month"), ``first`` and
        ``last`` (times in ISO form),
        ``first_close`` and ``last_close`` (as traded: adjusted where the file has that), ``bars_per_year``, ``zone``,
        ``volatility_index`` ("own" or "estimated"), ``regimes`` (bars in each; None: it takes no part),
        ``regime_bounds``, ``fill`` ("next_open" or "close"), ``features``, ``own_rule`` (column),
        ``unused_columns``, ``assumptions``, ``periods`` (per name first and last day, and ``bars``)
    """
    markets = {segment.market.symbol: segment.market for segment in data.segments["train"]}
    return [_described(data, bars, markets.get(bars.symbol)) for bars in data.read]


def _described(data: Data, bars: Bars, market: Market | None) -> dict[str, Any]:
    regimes = None
    bounds = None
    at_open = bars.fill == "open"
    if market is not None:
        regimes = _bars_in_regimes(market)
        bounds = [float(bound) for bound in market.regimes.bounds]
        at_open = fills_at_open(market, data.config.trading)
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
        "volatility_index": "own" if uses_index_of_data(bars, data.config) else "estimated",
        "regimes": regimes,
        "regime_bounds": bounds,
        "fill": "next_open" if at_open else "close",
        "features": described_features(data.config),
        "own_rule": data.config.benchmark_positions,
        "unused_columns": list(bars.notes.unused_columns),
        "assumptions": list(bars.notes.assumptions),
        "periods": {name: _described_period(data, name, bars.symbol) for name in get_args(PeriodName)},
    }


def _bars_in_regimes(market: Market) -> dict[str, int]:
    names = market.regimes.names
    counts = np.bincount(market.regime[market.regime >= 0], minlength=len(names))
    return dict(zip(names, counts.tolist(), strict=True))


def _described_period(data: Data, name: PeriodName, symbol: str) -> dict[str, Any]:
    first, last = data.config.days(name)
    lengths = [len(segment.period) for segment in data.segments[name] if segment.market.symbol == symbol]
    return {"first": first, "last": last, "bars": sum(lengths)}


def lines_of(symbol: dict[str, Any]) -> list[str]:
    """
    :param symbol: from ``described``
    :return: the same for people
    """
    first, last = _first_and_last(symbol)
    ends = f"{first} (close {symbol['first_close']:,.6g}) to {last} (close {symbol['last_close']:,.6g})"
    year = f"{symbol['bars_per_year']:,g} a year, of {symbol['bar_length']}"
    rows = [
        ("bars", f"{symbol['bars']:,} from {ends}; {year}"),
        ("zone", symbol["zone"] or "none stated"),
        ("fill", FILLS[symbol["fill"]]),
        ("index", f"{symbol['volatility_index']}; bars: {_regimes_text(symbol)}"),
    ]
    for name in ("features", "own_rule"):
        if symbol[name]:
            rows.append((name.replace("_", " "), symbol[name]))
    for name, period in symbol["periods"].items():
        rows.append((name, f"{period['first']} to {period['last']}, {period['bars']:,} bars"))
    rows.append(("not used", ", ".join(symbol["unused_columns"]) or "nothing"))
    rows += [("assumed", sentence) for sentence in symbol["assumptions"]]
    return [f"{symbol['symbol']} ({symbol['source']})", *(_line(name, text) for name, text in rows)]


def _line(name: str, text: str) -> str:
    return f"  {name:<11}{text}"


def _first_and_last(symbol: Mapping[str, Any]) -> tuple[str, str]:
    first = np.datetime64(symbol["first"])
    last = np.datetime64(symbol["last"])
    return date_text(first), date_text(last)


def _regimes_text(symbol: Mapping[str, Any]) -> str:
    if symbol["regimes"] is None:
        return "takes no part"
    bounds = ", ".join(f"{bound:.3g}" for bound in symbol["regime_bounds"])
    counts = ", ".join(f"{name} {count:,}" for name, count in symbol["regimes"].items())
    return f"{counts}; bounds {bounds}"


def table_of(symbols: Sequence[dict[str, Any]], read: Sequence[Bars]) -> list[str]:
    """
    :param symbols: many, from ``described``
    :param read: their bars
    :return: a line per symbol, and one for each of what several of them share
    """
    names = _regime_names(symbols)
    header = ("symbol", "bars", "first", "last", *names, *get_args(PeriodName))
    rows = [header, *(_row(symbol, names) for symbol in symbols)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join(cells).rstrip())

    for name, values in _shared(symbols).items():
        lines += _shared_lines(name, values, symbols)
    return [*lines, *(_line("assumed", line) for line in assumed(read))]


def _regime_names(symbols: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The names of the regimes of the symbols that take part."""
    counts = next((symbol["regimes"] for symbol in symbols if symbol["regimes"] is not None), None)
    return DEFAULT_REGIMES.names if counts is None else tuple(counts)


def _row(symbol: Mapping[str, Any], names: Sequence[str]) -> tuple[str, ...]:
    """A symbol's cells in the table."""
    regimes = symbol["regimes"] or dict.fromkeys(names, "-")
    bars = [period["bars"] for period in symbol["periods"].values()]
    counts = [*regimes.values(), *bars]
    cells = [f"{count:,}" if isinstance(count, int) else count for count in counts]
    return (symbol["symbol"], f"{symbol['bars']:,}", *_first_and_last(symbol), *cells)


def _shared(symbols: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """By name what several symbols may share, a text for each symbol."""
    shared = {
        "files": [symbol["source"] for symbol in symbols],
        "bars": [f"of {symbol['bar_length']}, {symbol['bars_per_year']:,g} a year" for symbol in symbols],
        "zone": [symbol["zone"] or "none stated" for symbol in symbols],
        "fill": [FILLS[symbol["fill"]] for symbol in symbols],
        "index": [symbol["volatility_index"] for symbol in symbols],
        "features": [symbol["features"] or "" for symbol in symbols],
        "own rule": [symbol["own_rule"] or "" for symbol in symbols],
    }
    for name in get_args(PeriodName):
        periods = [symbol["periods"][name] for symbol in symbols]
        shared[name] = [f"{period['first']} to {period['last']}" for period in periods]
    shared["not used"] = [", ".join(symbol["unused_columns"]) or "nothing" for symbol in symbols]
    return shared


def _shared_lines(name: str, values: Sequence[str], symbols: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each value, with the symbols that share it where not all do."""
    symbols_of: dict[str, list[str]] = {}
    for symbol, value in zip(symbols, values, strict=True):
        symbols_of.setdefault(value, []).append(symbol["symbol"])
    if name == "files" and len(symbols_of) > SHOWN:
        everyone = [symbol["symbol"] for symbol in symbols]
        symbols_of = {f"{len(symbols_of)}, the first {next(iter(symbols_of))}": everyone}

    lines = []
    for value, sharers in symbols_of.items():
        whose = "" if len(sharers) == len(symbols) else f" ({names_of(sharers)})"
        if value:
            lines.append(_line(name, f"{value}{whose}"))
    return lines
