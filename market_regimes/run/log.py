"""What a run logs, and files of it that a resumed run goes on with: ``progress.csv`` and TensorBoard's events."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from stable_baselines3.common.logger import KVWriter, filter_excluded_keys

from market_regimes.evaluate.strategies import STRATEGIES
from market_regimes.files import write_file

if TYPE_CHECKING:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator, ScalarEvent

EVENT_FILES = "events.out.tfevents.*"
WEIGHT = "train/variance_scaling_weight"
BY_REGIME = {
    "value error / std of the returns": "train/value_error",
    "gradient norm of the value loss": "train/value_grad_norm",
    "validation: Sharpe ratio": "eval/sharpe",
}


def _line(tag: str) -> list[Any]:
    """A chart of one scalar. TensorBoard draws all lines of a chart in one colour, that of the run."""
    return ["Multiline", [tag]]


CHARTS = {
    "weight: mean, and smallest to largest of an update": ["Margin", [WEIGHT, f"{WEIGHT}_min", f"{WEIGHT}_max"]],
    "share of minibatches at a clamp": _line("train/variance_scaling_clamped"),
    "variance of the quantiles: mean": _line("train/quantile_variance_mean"),
    "variance of the quantiles: std over the batch": _line("train/quantile_variance_std"),
    "value loss before the weight": _line("train/value_loss$"),
    "value loss before the weight: std over an update": _line("train/value_loss_std"),
    "explained variance": _line("train/explained_variance"),
}
# TensorBoard's page of custom scalars: what belongs together, with the market's volatility under it.
PAGE: dict[str, Any] = {"Variance gradient scaling": CHARTS}


def market_page(regimes: Sequence[str]) -> dict[str, Any]:
    """
    :param regimes: names of the market's regimes
    :return: TensorBoard's page of custom scalars of a run on the market
    """
    return {
        "Variance gradient scaling": {
            **CHARTS,
            "volatility index of the rollout": _line("rollout/volatility_index"),
        },
        "Trading rules": {
            "validation: Sharpe ratio, agent": _line("eval/sharpe_ratio"),
            **{
                f"validation: Sharpe ratio, {strategy.label}": _line(f"eval/sharpe_{strategy.scalar}")
                for strategy in STRATEGIES
            },
            "validation: 0 as buy-and-hold, 1 as the rule that knows the law": _line("eval/share_of_attainable$"),
            "validation: log growth a year, agent": _line("eval/growth_per_year"),
            **{
                f"validation: log growth a year, {strategy.label}": _line(f"eval/growth_{strategy.scalar}")
                for strategy in STRATEGIES
            },
            "validation: growth, 0 as buy-and-hold, 1 as the rule that knows the law": _line(
                "eval/share_of_attainable_growth"
            ),
        },
        "Regimes": {
            f"{title}, {regime}": _line(f"{scalar}_{regime}")
            for title, scalar in BY_REGIME.items()
            for regime in regimes
        },
    }


def check_scalars_of_regimes(regimes: Sequence[str]) -> None:
    """
    :param regimes: names of the market's regimes
    :raises ValueError: if the scalar of a regime is that of something else, as ``eval/sharpe_ratio`` is
    """
    pages = market_page(regimes)
    others = set()
    for title, charts in pages.items():
        if title != "Regimes":
            others |= {tag.rstrip("$") for _, tags in charts.values() for tag in tags}

    for regime in regimes:
        taken = [f"{scalar}_{regime}" for scalar in BY_REGIME.values() if f"{scalar}_{regime}" in others]
        if taken:
            raise ValueError(f"market.regimes: {regime} would log as {taken[0]}, which means something else")


class ProgressCsv(KVWriter):
    """
    ``progress.csv``, a row per dump. Unlike SB3's writer it can go on after a given row, and a new column replaces the
    file as a whole, so that a kill leaves all rows but the last one intact.

    :param path: the file
    :param rows: number of rows to keep of what is there
    """

    def __init__(self, path: Path, rows: int):
        self.path = path
        self.names: list[str] = []
        kept = self._read()[:rows]
        columns = [name for name in self.names if any(row.get(name) for row in kept)]
        self._replace(columns, kept)
        self.rows = len(kept)

    def _read(self) -> list[dict[str, str]]:
        if not self.path.exists():
            return []
        try:
            with open(self.path, newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                rows = list(reader)
                self.names = list(reader.fieldnames or [])
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{self.path} is torn beyond its last row: move it away to go on without it") from error
        return rows

    def _replace(self, names: list[str], rows: list[dict[str, str]]) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)

        write_file(self.path, text.getvalue())
        self.names = names

    def write(
        self,
        key_values: dict[str, Any],
        key_excluded: dict[str, tuple[str, ...]],
        step: int = 0,
    ) -> None:
        """Write one row; what is no number is left out."""
        shown = filter_excluded_keys(key_values, key_excluded, "csv")
        row = {name: str(value) for name, value in shown.items() if isinstance(value, int | float | np.number)}

        # A new column replaces the file, a row is appended.
        new = sorted(row.keys() - set(self.names))
        if new:
            self._replace([*self.names, *new], self._read())
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.names).writerow(row)
        self.rows += 1

    def close(self) -> None:
        """Nothing is open between two rows."""


def event_sizes(folder: Path) -> dict[str, int]:
    """
    :param folder: of a run
    :return: sizes of its TensorBoard files in bytes, for ``cut_events``
    """
    return {path.name: path.stat().st_size for path in folder.glob(EVENT_FILES)}


def cut_events(folder: Path, sizes: dict[str, int]) -> None:
    """
    Take from the TensorBoard files what was written after ``sizes``: the resumed run writes it again.

    :param folder: of a run
    :param sizes: from ``event_sizes``
    """
    for path in folder.glob(EVENT_FILES):
        if path.name not in sizes:
            path.unlink()
        elif sizes[path.name] < path.stat().st_size:
            with open(path, "r+b") as file:
                file.truncate(sizes[path.name])


def read_events(folder: Path) -> EventAccumulator:
    """
    :param folder: with TensorBoard files
    :return: all that they hold
    """
    # It takes long to import, and training does not read.
    from tensorboard.backend.event_processing import event_accumulator

    return event_accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()


def scalars_of(events: EventAccumulator) -> dict[str, list[ScalarEvent]]:
    """
    :param events: from ``read_events``
    :return: by tag the scalars in the order of their writing, over all files
    """
    # TensorBoard reads files by name: of the ninth and tenth of a process in the same second, the tenth first.
    return {tag: sorted(events.Scalars(tag), key=lambda event: event.wall_time) for tag in events.Tags()["scalars"]}
