"""What was read: for the command ``data``, and what every command says that it assumed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np

from market_regimes.config import SHIPPED, MarketConfig, PeriodName
from market_regimes.market.environment import fills_at_open, with_fill
from market_regimes.market.features import described_features
from market_regimes.market.periods import date_text, with_periods
from market_regimes.market.regimes import REGIMES
from market_regimes.market.segments import (
    Market,
    Oddity,
    Segments,
    oddities,
    read_bars,
    segments_of,
    takes_own_index,
)
from market_regimes.prices import Bars, bar_length, check_zones

FILLS = {"next_open": "at the next open", "close": "at the close"}
SHOWN = 5  # symbols that are named where a sentence holds for many


@dataclass(frozen=True)
class Data:
    """
    A command's data, read once.

    :param config: with all periods, and with the fill that the data decide
    :param read: the bars of every symbol
    :param segments: per period those of the symbols that take part
    """

    config: MarketConfig
    read: list[Bars]
    segments: Segments


def read_data(config: MarketConfig) -> Data:
    """
    :param config: the data, with or without periods
    :return: what is traded
    :raises ValueError: in one sentence, if the data cannot be used
    """
    read = read_bars(config)
    check_zones(config.zone, read)
    with_all = with_periods(config, read)
    segments = segments_of(with_all, read=read)
    for segment in segments["train"]:
        _ = segment.scaling  # refuses prices that do not move, as training would
    traded = [segment.market for segment in segments["train"]]
    return Data(replace(with_all, trading=with_fill(config.trading, traded)), read, segments)


def said(data: Data, stated: MarketConfig) -> list[str]:
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
    owners: dict[str, list[str]] = {}
    for bars in read:
        for sentence in bars.notes.assumptions:
            owners.setdefault(sentence, []).append(bars.symbol)
    kinds: dict[str, list[str]] = {}
    for sentence in owners:
        kinds.setdefault(re.sub(r"'[^']*'|\d[\w.,:/+-]*", "#", sentence), []).append(sentence)
    lines = []
    for sentences in kinds.values():
        if len(sentences) <= SHOWN:
            lines += [f"{_whose(owners[sentence], read)}: {sentence}" for sentence in sentences]
            continue
        symbols = [symbol for sentence in sentences for symbol in owners[sentence]]
        lines.append(f"{_whose(symbols, read)}, such as {symbols[0]}: {sentences[0]}")
    return lines


def _whose(symbols: Sequence[str], read: Sequence[Bars]) -> str:
    """The symbols, or that they are all there are."""
    count = len(set(symbols))
    return f"all {count} symbols" if count == len(read) > SHOWN else names_of(list(dict.fromkeys(symbols)))


def observed(config: MarketConfig) -> list[str]:
    """:return: a line on the features and one on the user's own rule, where there are any"""
    features, rule = described_features(config), config.benchmark_positions
    lines = [f"observed besides prices: {features}"] if features else []
    return lines + ([f"own rule: targets of {rule}, each known at the close of its row"] if rule else [])


def absent(data: Data) -> list[str]:
    """:return: a line on the symbols that a period lacks, and on those that take no part at all"""
    lines = []
    trained = {segment.market.symbol for segment in data.segments["train"]}
    out = [bars.symbol for bars in data.read if bars.symbol not in trained]
    if out:
        lines.append(f"{names_of(out)}: left out, for want of bars in the training period")
    for name in ("validation", "test"):
        there = {segment.market.symbol for segment in data.segments[name]}
        if missing := sorted(trained - there):
            lines.append(f"{names_of(missing)}: no bars in the {name} period")
    return lines


def warnings_of(read: Sequence[Bars], with_moves: bool = False) -> list[str]:
    """
    :param read: the bars of every symbol
    :param with_moves: whether to name moves by a factor of two or more that are like no split, as crashes are
    :return: what may be wrong with the prices, a sentence each; of many symbols one sentence for each kind
    """
    kinds: dict[str, list[Oddity]] = {}
    for oddity in (oddity for bars in read for oddity in oddities(bars)):
        if with_moves or oddity.kind != "moves by a factor of two or more":
            kinds.setdefault(oddity.kind, []).append(oddity)
    lines = []
    for kind, found in kinds.items():
        if len(found) <= SHOWN:
            lines += [oddity.text for oddity in found]
        else:
            lines.append(f"{_whose([oddity.symbol for oddity in found], read)} have {kind}; {found[0].text}")
    return lines


def names_of(symbols: Sequence[str]) -> str:
    """The first symbols, and how many more there are."""
    more = f" and {len(symbols) - SHOWN} more" if len(symbols) > SHOWN else ""
    return ", ".join(symbols[:SHOWN]) + more


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
    lengths = {
        name: len(segment.period)
        for name, found in data.segments.items()
        for segment in found
        if segment.market.symbol == bars.symbol
    }
    counts = None if market is None else np.bincount(market.regime[market.regime >= 0], minlength=len(REGIMES))
    at_open = bars.fill == "open" if market is None else fills_at_open(market, data.config.trading)
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
        "volatility_index": "own" if takes_own_index(bars, data.config) else "estimated",
        "regimes": None if counts is None else dict(zip(REGIMES, counts.tolist(), strict=True)),
        "regime_bounds": None if market is None else [float(bound) for bound in market.bounds],
        "fill": "next_open" if at_open else "close",
        "features": described_features(data.config),
        "own_rule": data.config.benchmark_positions,
        "unused_columns": list(bars.notes.unused_columns),
        "assumptions": list(bars.notes.assumptions),
        "periods": {
            name: {"first": data.config.days(name)[0], "last": data.config.days(name)[1], "bars": lengths.get(name, 0)}
            for name in get_args(PeriodName)
        },
    }


def lines_of(symbol: dict[str, Any]) -> list[str]:
    """
    :param symbol: from ``described``
    :return: the same for people
    """
    first, last = (date_text(np.datetime64(symbol[name])) for name in ("first", "last"))
    ends = f"{first} (close {symbol['first_close']:,.6g}) to {last} (close {symbol['last_close']:,.6g})"
    regimes = "takes no part"
    if symbol["regimes"] is not None:
        bounds = ", ".join(f"{bound:.3g}" for bound in symbol["regime_bounds"])
        regimes = ", ".join(f"{name} {count:,}" for name, count in symbol["regimes"].items()) + f"; bounds {bounds}"
    rows = [
        ("bars", f"{symbol['bars']:,} from {ends}; {symbol['bars_per_year']:,g} a year, of {symbol['bar_length']}"),
        ("zone", symbol["zone"] or "none stated"),
        ("fill", FILLS[symbol["fill"]]),
        ("index", f"{symbol['volatility_index']}; bars: {regimes}"),
        *((name.replace("_", " "), symbol[name]) for name in ("features", "own_rule") if symbol[name]),
        *((name, f"{p['first']} to {p['last']}, {p['bars']:,} bars") for name, p in symbol["periods"].items()),
        ("not used", ", ".join(symbol["unused_columns"]) or "nothing"),
        *(("assumed", sentence) for sentence in symbol["assumptions"]),
    ]
    return [f"{symbol['symbol']} ({symbol['source']})", *(f"  {name:<11}{text}" for name, text in rows)]


def table_of(symbols: Sequence[dict[str, Any]], read: Sequence[Bars]) -> list[str]:
    """
    :param symbols: many, from ``described``
    :param read: their bars
    :return: a line per symbol, and one for each of what several of them share
    """
    names = ("symbol", "bars", "first", "last", "calm", "normal", "volatile", "crash", "train", "validation", "test")
    rows = [names]
    for symbol in symbols:
        ends = [date_text(np.datetime64(symbol[name])) for name in ("first", "last")]
        regimes = symbol["regimes"] or dict.fromkeys(REGIMES, "-")
        counts = [symbol["bars"], *ends, *regimes.values(), *(period["bars"] for period in symbol["periods"].values())]
        rows.append((symbol["symbol"], *(f"{count:,}" if isinstance(count, int) else count for count in counts)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(names))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]

    shared = {
        "files": [symbol["source"] for symbol in symbols],
        "bars": [f"of {symbol['bar_length']}, {symbol['bars_per_year']:,g} a year" for symbol in symbols],
        "zone": [symbol["zone"] or "none stated" for symbol in symbols],
        "fill": [FILLS[symbol["fill"]] for symbol in symbols],
        "index": [symbol["volatility_index"] for symbol in symbols],
        "features": [symbol["features"] or "" for symbol in symbols],
        "own rule": [symbol["own_rule"] or "" for symbol in symbols],
        **{
            name: [f"{symbol['periods'][name]['first']} to {symbol['periods'][name]['last']}" for symbol in symbols]
            for name in get_args(PeriodName)
        },
        "not used": [", ".join(symbol["unused_columns"]) or "nothing" for symbol in symbols],
    }
    for name, values in shared.items():
        owners: dict[str, list[str]] = {}
        for symbol, value in zip(symbols, values, strict=True):
            owners.setdefault(value, []).append(symbol["symbol"])
        if name == "files" and len(owners) > SHOWN:
            owners = {f"{len(owners)}, the first {next(iter(owners))}": [symbol["symbol"] for symbol in symbols]}
        for value, of in owners.items():
            whose = "" if len(of) == len(symbols) else f" ({names_of(of)})"
            lines += [f"  {name:<11}{value}{whose}"] if value else []
    return [*lines, *(f"  {'assumed':<11}{line}" for line in assumed(read))]
