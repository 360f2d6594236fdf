"""What a run's numbers depend on besides its configuration, and whether a folder's are those of today."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

import distributional_ppo
from market_regimes.config import TradingCosts
from market_regimes.files import read_json
from market_regimes.market.market import Market, digest, fills_at_open
from market_regimes.market.segments import Segments

DATA_VERSION = 2  # of what observations and labels are made of; 1 started the volatility from the first bar


def versions() -> dict[str, str]:
    """:return: the versions that numbers depend on"""
    found = {"distributional_ppo": distributional_ppo.__version__, "python": platform.python_version()}
    for package in ("torch", "stable-baselines3", "sb3-contrib", "gymnasium", "numpy", "arch"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


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
    data = {
        market.symbol: {
            "bars": last + 1,
            "last": str(market.dates[last]),
            "months": market.fingerprint(last),
            "offsets": offsets_digest(market, last),
            "bars_per_year": market.bars_per_year,
            "regime_bounds": market.regimes.bounds,
            "fill": "next_open" if fills_at_open(market, costs or TradingCosts()) else "close",
        }
        for market, last in _used(segments)
    }
    return {**versions(), "data_version": DATA_VERSION, "seed": seed, "device": device, "data": data}


def offsets_digest(market: Market, last: int) -> str:
    """
    :param market: of a symbol
    :param last: last bar that is used
    :return: a digest of how far each bar's clock is ahead of UTC: another zone moves instants and leaves the dates
    """
    offsets = (market.dates - market.instants)[: last + 1].astype("m8[s]").astype(np.int64)
    return digest("", offsets)[:16]


def _used(segments: Segments) -> list[tuple[Market, int]]:
    """Every symbol and its last bar that a period uses."""
    last: dict[str, int] = {}
    for segment in (segment for found in segments.values() for segment in found):
        last[segment.market.symbol] = max(last.get(segment.market.symbol, 0), segment.last)
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
    data = content.get("data")
    if not isinstance(data, dict) or not all(isinstance(entry, dict) for entry in data.values()):
        raise ValueError(f"{folder / 'run.json'} is torn or no run's")
    if data:
        check_data_version(folder, content)
    found = {market.symbol: market.fingerprint(last) for market, last in _used(segments)}
    offsets = {market.symbol: offsets_digest(market, last) for market, last in _used(segments)}
    if len(found) == len(data) == 1:  # a file that was renamed
        found = dict(zip(data, found.values(), strict=True))
        offsets = dict(zip(data, offsets.values(), strict=True))
    if found.keys() != data.keys():
        raise ValueError(f"{folder} was trained on {_names(data)}, and the data hold {_names(found)}")
    for symbol, months in found.items():
        before = data[symbol].get("months")
        if not isinstance(before, dict):
            raise ValueError(f"{folder / 'run.json'} is torn or no run's")
        changed = sorted(month for month in before.keys() | months.keys() if before.get(month) != months.get(month))
        if changed:
            others = f" and {len(changed) - 1} further month(s) until {changed[-1]}" if len(changed) > 1 else ""
            raise ValueError(
                f"{folder} used data with another fingerprint: bars of {symbol} changed in {changed[0]}{others}; its "
                "figures would not compare"
            )

        # Runs of earlier versions did not record it.
        if data[symbol].get("offsets", offsets[symbol]) != offsets[symbol]:
            raise ValueError(
                f"{folder} used data in another time zone: the bars of {symbol} have the same dates at other instants; "
                "its figures would not compare"
            )


def _names(symbols: Iterable[str]) -> str:
    names = sorted(symbols)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def check_data_version(folder: Path, content: dict[str, Any]) -> None:
    """
    :param folder: of a run or a comparison on markets
    :param content: of its ``run.json``
    :raises ValueError: if its observations were made of other numbers
    """
    found = content.get("data_version", 1)
    if found != DATA_VERSION:
        raise ValueError(
            f"{folder} was made by version {content.get('distributional_ppo')} of this program, "
            f"{'before' if found == 1 else 'after'} a change of volatility and regimes: its figures would not compare; "
            "go on with that version, or train again"
        )
