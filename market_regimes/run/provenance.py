"""What a run's numbers depend on besides its configuration, and whether a folder's are those of today."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import distributional_ppo
from market_regimes.files import read_json
from market_regimes.market.segments import Market

DATA_VERSION = 2  # of what observations and labels are made of; 1 started the volatility from the first bar


def versions() -> dict[str, str]:
    """:return: the versions that numbers depend on"""
    found = {"distributional_ppo": distributional_ppo.__version__, "python": platform.python_version()}
    for package in ("torch", "stable-baselines3", "gymnasium", "numpy", "arch"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def provenance(seed: int | None, markets: Sequence[Market]) -> dict[str, Any]:
    """
    :param seed: of the run
    :param markets: all symbols; none in environments other than the market
    :return: the content of ``run.json``
    """
    data = {
        market.symbol: {
            "sha256": market.fingerprint(),
            "bars": len(market.dates),
            "bars_per_year": market.bars_per_year,
            "regime_bounds": market.bounds,
        }
        for market in markets
    }
    return {**versions(), "data_version": DATA_VERSION, "seed": seed, "data": data}


def check_provenance(folder: Path, markets: Sequence[Market]) -> None:
    """
    :param folder: a run folder
    :param markets: what it should have been trained on
    :raises ValueError: if the folder is not a run, or was trained on other data, or by another version on other numbers
    """
    if not (folder / "run.json").exists():
        raise ValueError(f"{folder} is no run folder: it has no run.json")
    content = read_json(folder / "run.json")
    data = content.get("data")
    if not isinstance(data, dict) or not all(isinstance(entry, dict) for entry in data.values()):
        raise ValueError(f"{folder / 'run.json'} is torn or no run's")
    if data:
        check_data_version(folder, content)
    seen = {symbol: entry.get("sha256") for symbol, entry in data.items()}
    if seen != {market.symbol: market.fingerprint() for market in markets}:
        raise ValueError(f"{folder} was trained on data with another fingerprint: its figures would not compare")


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
