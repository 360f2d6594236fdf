"""What a run folder says without the data the run was trained on."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from market_regimes.config import ArgumentError, MarketConfig, RunConfig, TradingCosts
from market_regimes.files import check_keys, read_json, write_file
from market_regimes.market.segments import Segments
from market_regimes.run.algorithm import is_found
from market_regimes.run.provenance import check_data_version
from market_regimes.run.trained import Trained, trained_on

SCALING = "scaling.json"


@dataclass(frozen=True)
class Configured:
    """
    The configuration of a run.

    :param run: the run around the algorithm
    :param market: the data, and what trading costs
    :param algorithm: keyword arguments of ``DistributionalPPO`` as YAML has them
    """

    run: RunConfig
    market: MarketConfig
    algorithm: dict[str, Any]

    def text(self) -> str:
        """:return: as YAML"""
        content = {"run": asdict(self.run), "market": asdict(self.market), "algorithm": self.algorithm}
        try:
            return str(yaml.safe_dump(content, sort_keys=False))
        except yaml.YAMLError as error:
            raise ValueError(f"algorithm must hold what YAML can write, classes by name: {error}") from error


def read_configuration(folder: Path) -> Configured:
    """
    :param folder: a run folder
    :return: its configuration
    :raises ValueError: if the folder is no run, or its configuration holds keys that this version does not know
    """
    path = folder / "config.yaml"
    if not path.exists():
        raise ValueError(f"{folder} is no run folder: it has no config.yaml")
    if not (folder / "run.json").exists():
        seeds = sorted(entry.name for entry in folder.glob("seed-*"))
        several = f"; name one of its runs: {', '.join(seeds)}" if seeds else ""
        raise ValueError(f"{folder} is no run folder: it has no run.json{several}")

    try:
        text = path.read_text("utf-8")
        check_keys(text, str(path))
        content = yaml.safe_load(text)
        run = RunConfig(**(content.get("run") or {}))
        return Configured(run, _market_of(content), dict(content.get("algorithm") or {}))
    except (OSError, yaml.YAMLError, RecursionError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {type(error).__name__}") from error
    except (TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no configuration of this version: {error}") from error


def _market_of(content: dict[str, Any]) -> MarketConfig:
    """The section of the market as its dataclass."""
    market = dict(content.get("market") or {})

    trading = TradingCosts(**(market.pop("trading", None) or {}))
    for name in ("regime_bounds", "train", "validation", "test"):  # YAML has lists
        if isinstance(market.get(name), list):
            market[name] = tuple(market[name])
    return MarketConfig(**market, trading=trading)


def acting_device(
    folder: Path,
    stated: str | None,
    wanted: str | None = None,
) -> str:
    """
    Where the device of the training is not found, the CPU acts in its place, and a sentence says so.

    :param folder: a run folder
    :param stated: ``algorithm.device`` of the run
    :param wanted: by the user, None: the run's own
    :return: the device to act on
    :raises ValueError: if the wanted device is not found
    """
    # A device that the user names must be there.
    if wanted is not None:
        if not is_found(wanted):
            raise ArgumentError(lambda name: f"{name('device')}={wanted}: torch finds no such device here")
        return wanted

    stated = stated or "auto"

    # With "auto" the folder knows the device that was taken; runs of earlier versions do not.
    trained = stated if stated != "auto" else read_json(folder / "run.json").get("device")
    if isinstance(trained, str) and not is_found(trained):
        print(f"{folder} was trained on {trained}, which torch does not find here: the CPU is used", file=sys.stderr)
        return "cpu"
    return stated


def write_scaling(folder: Path, segments: Segments) -> None:
    """
    Keep what the agent must know of its training period, so that it can act on bars that lack it.

    :param folder: a run folder
    :param segments: of the run; none in environments other than the market
    """
    if segments:
        content = {symbol: trained.to_json() for symbol, trained in trained_on(segments).items()}
        write_file(folder / SCALING, json.dumps(content, indent=2))


def read_scaling(folder: Path) -> dict[str, Trained]:
    """
    :param folder: a run folder
    :return: per symbol what the run knows of it
    :raises ValueError: if the run is not on a market, is from before this file was kept, or the file is torn
    """
    provenance = read_json(folder / "run.json")
    if not provenance.get("data"):
        raise ValueError(f"{folder} was not trained on market data")
    check_data_version(folder, provenance)

    # Of every symbol what an agent must know to act on bars that lack its training period.
    if not (folder / SCALING).exists():
        raise ValueError(
            f"{folder} has no {SCALING}, which runs of earlier versions lack: train --resume {folder}, or Study.resume "
            "in Python, writes it with the data the run was trained on"
        )
    content = read_json(folder / SCALING)
    try:
        trained = {symbol: Trained.from_json(entry) for symbol, entry in content.items()}
    except ValueError as error:
        raise ValueError(f"{folder / SCALING} is torn or no run's: {error}") from error
    if not trained:
        raise ValueError(f"{folder / SCALING} is torn or no run's: it names no symbol")
    return trained
