"""What a run's numbers depend on besides its configuration, and whether a folder's are those of today."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

import distributional_ppo
from market_regimes.config import TradingCosts
from market_regimes.files import read_json
from market_regimes.market.market import Market, digest, fills_at_open
from market_regimes.market.regimes import DEFAULT_REGIMES
from market_regimes.market.segments import Segments

DATA_VERSION = 2  # of what observations and labels are made of; 1 started the volatility from the first bar
SHOWN_NAMES = 5  # of symbols in a message


def versions() -> dict[str, str]:
    """:return: the versions that numbers depend on"""
    installed = {"distributional_ppo": distributional_ppo.__version__, "python": platform.python_version()}

    for package in ("torch", "stable-baselines3", "sb3-contrib", "gymnasium", "numpy", "arch"):
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            installed[package] = "not installed"
    return installed


def provenance(
    seed: int | None, segments: Segments, costs: TradingCosts | None = None, device: str | None = None
) -> dict[str, Any]:
    """
    :param seed: of the run
    :param segments: of all its periods; none in environments other than the market
    :param costs: of trading; None: the defaults
    :param device: that it is trained on
    :return: the content of ``run.json``
    """
    # Every symbol up to the last bar that a period uses.
    costs = costs or TradingCosts()
    data = {market.symbol: _of_market(market, last, costs) for market, last in _used(segments)}
    return {**versions(), "data_version": DATA_VERSION, "seed": seed, "device": device, "data": data}


def _of_market(
    market: Market,
    last: int,
    costs: TradingCosts,
) -> dict[str, Any]:
    """What ``run.json`` keeps of a symbol whose bars are used up to the last one given."""
    return {
        "bars": last + 1,
        "last": str(market.dates[last]),
        "months": market.fingerprint(last),
        "offsets": offsets_digest(market, last),
        "bars_per_year": market.bars_per_year,
        "regimes": market.regimes.names,
        "regime_bounds": market.regimes.bounds,
        "fill": "next_open" if fills_at_open(market, costs) else "close",
    }


def offsets_digest(market: Market, last: int) -> str:
    """
    :param market: of a symbol
    :param last: last bar that is used
    :return: a digest of how far each bar's clock is ahead of UTC: another zone moves instants and leaves the dates
    """
    offsets = (market.dates - market.instants)[: last + 1]
    seconds = offsets.astype("m8[s]").astype(np.int64)

    return digest("", seconds)[:16]


def _used(segments: Segments) -> list[tuple[Market, int]]:
    """Every symbol and its last bar that a period uses."""
    last: dict[str, int] = {}
    for segment in chain.from_iterable(segments.values()):
        symbol = segment.market.symbol
        last[symbol] = max(last.get(symbol, 0), segment.last)

    # Symbols stand in the order of the training period.
    return [(segment.market, last[segment.market.symbol]) for segment in segments.get("train", [])]


def check_provenance(folder: Path, segments: Segments) -> None:
    """
    Bars that were appended since, and another place or name of the file, are no obstacle.

    :param folder: a run folder
    :param segments: what it should have been trained, selected and tested on
    :raises ValueError: if the folder is not a run, or used other data, or was made by another version on other numbers
    """
    if not (folder / "run.json").exists():
        raise ValueError(f"{folder} is no run folder: it has no run.json")
    content = read_json(folder / "run.json")

    # What it kept of its data.
    data = content.get("data")
    if not isinstance(data, dict) or not all(isinstance(entry, dict) for entry in data.values()):
        raise ValueError(f"{folder / 'run.json'} is torn or no run's")

    # Other numbers, then other data.
    if data:
        check_data_version(folder, content)

    # A file that was renamed is the same data.
    markets = {market.symbol: (market, last) for market, last in _used(segments)}
    if len(markets) == len(data) == 1:
        markets = dict(zip(data, markets.values(), strict=True))
    if markets.keys() != data.keys():
        raise ValueError(f"{folder} was trained on {_names(data)}, and the data hold {_names(markets)}")

    # Every symbol's bars and their clocks.
    for symbol, (market, last) in markets.items():
        recorded = data[symbol]
        _check_months(folder, symbol, recorded.get("months"), market.fingerprint(last))

        _check_regimes(folder, symbol, recorded, market)

        # Runs of earlier versions did not record the offsets.
        offsets = offsets_digest(market, last)
        if recorded.get("offsets", offsets) != offsets:
            raise ValueError(
                f"{folder} used data in another time zone: the bars of {symbol} have the same dates at other instants; "
                "its figures would not compare"
            )


def _check_regimes(
    folder: Path,
    symbol: str,
    recorded: Mapping[str, Any],
    market: Market,
) -> None:
    """Raise where the regimes have other names or bounds than the run's; earlier versions recorded no names."""
    names = tuple(recorded.get("regimes", DEFAULT_REGIMES.names))
    bounds = recorded.get("regime_bounds", market.regimes.bounds)
    same_bounds = len(bounds) == len(market.regimes.bounds) and np.allclose(bounds, market.regimes.bounds, rtol=1e-9)
    if names != market.regimes.names or not same_bounds:
        raise ValueError(
            f"{folder} has the regimes {', '.join(names)} of {symbol}, beginning at {list(bounds)}: a run keeps "
            f"market.regimes and their bounds, which are now {', '.join(market.regimes.names)} and "
            f"{list(market.regimes.bounds)}"
        )


def _check_months(
    folder: Path,
    symbol: str,
    before: Any,
    months: dict[str, str],
) -> None:
    """Raise where the bars of a month are not those of the run."""
    if not isinstance(before, dict):
        raise ValueError(f"{folder / 'run.json'} is torn or no run's")

    every_month = before.keys() | months.keys()
    changed = sorted(month for month in every_month if before.get(month) != months.get(month))
    if not changed:
        return

    # The first month is named, others are counted.
    further = ""
    if len(changed) > 1:
        further = f" and {len(changed) - 1} further month(s) until {changed[-1]}"
    raise ValueError(
        f"{folder} used data with another fingerprint: bars of {symbol} changed in {changed[0]}{further}; its "
        "figures would not compare"
    )


def _names(symbols: Iterable[str]) -> str:
    """The first names in alphabetical order; others are counted."""
    names = sorted(symbols)
    shown = ", ".join(names[:SHOWN_NAMES])

    further = len(names) - SHOWN_NAMES
    if further > 0:
        return f"{shown} and {further} more"
    return shown


def check_data_version(folder: Path, content: dict[str, Any]) -> None:
    """
    :param folder: of a run or a comparison on markets
    :param content: of its ``run.json``
    :raises ValueError: if its observations were made of other numbers
    """
    data_version = content.get("data_version", 1)
    if data_version != DATA_VERSION:
        order = "before" if data_version == 1 else "after"
        raise ValueError(
            f"{folder} was made by version {content.get('distributional_ppo')} of this program, "
            f"{order} a change of volatility and regimes: its figures would not compare; "
            "go on with that version, or train again"
        )
