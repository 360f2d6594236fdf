"""The pictures of ``benchmarks/speed.py``: who is how fast, and how time and memory grow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

INCHES = 10
BAR_GROUP = 0.8  # width of the bars of a case
# Okabe and Ito's colours, and a grey.
COLOURS = ("#999999", "#E69F00", "#D55E00", "#56B4E9", "#0072B2", "#009E73", "#CC79A7")


def label_of(contender: str, peers: Sequence[str]) -> str:
    """:return: the name in a legend"""
    return contender if contender in peers else f"DistributionalPPO, {contender}"


def picture(rows: list[dict[str, Any]], cases: Sequence[str], peers: Sequence[str], path: Path) -> None:
    """
    ``learn()`` of each contender in some cases, as bars.

    :param rows: of the CSV
    :param cases: which of its cases
    :param peers: contenders that are not ours
    :param path: of the PNG
    """
    from matplotlib import pyplot

    # Steps per millisecond by case and contender.
    speeds = {}
    for row in rows:
        if row["metric"] == "steps_per_s":
            speeds[row["case"], row["contender"]] = float(row["median"]) / 1e3
    contenders = list(dict.fromkeys(contender for case, contender in speeds if case in cases))

    # A group of bars for each case, around its place.
    figure, axes = pyplot.subplots(figsize=(INCHES, 3.6), layout="constrained")
    width = BAR_GROUP / len(contenders)
    for i, contender in enumerate(contenders):
        shift = (i - (len(contenders) - 1) / 2) * width
        measured = [j for j, case in enumerate(cases) if (case, contender) in speeds]
        heights = [speeds[cases[j], contender] for j in measured]
        label = label_of(contender, peers)
        bars = axes.bar([j + shift for j in measured], heights, width, label=label, color=COLOURS[i])
        axes.bar_label(bars, fmt="%.1f", fontsize=7)

    axes.set_xticks(range(len(cases)), [case.replace(", ", "\n", 1) for case in cases], fontsize=8)
    axes.set_ylabel("learn(), 1,000 steps/s")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", frameon=False, fontsize=8, ncols=4)
    figure.savefig(path, dpi=130)


def growth_picture(rows: list[dict[str, Any]], peers: Sequence[str], path: Path) -> None:
    """
    Time and memory over what grows: a column for each, a line per contender.

    :param rows: of the CSV; their cases are a number and what it counts, such as "8 envs"
    :param peers: contenders that are not ours
    :param path: of the PNG
    """
    from matplotlib import pyplot, ticker

    counted = list(dict.fromkeys(row["case"].partition(" ")[2] for row in rows))
    contenders = list(dict.fromkeys(row["contender"] for row in rows))
    options: dict[str, Any] = dict(figsize=(INCHES, 5), sharey="row", squeeze=False, layout="constrained")
    figure, grid = pyplot.subplots(2, len(counted), **options)

    for column, unit in zip(grid.T, counted, strict=True):
        for axes, metric in zip(column, ("steps_per_s", "memory_mib"), strict=True):
            for contender, colour in zip(contenders, COLOURS, strict=False):
                numbers, values = _points(rows, contender, metric, unit)
                label = label_of(contender, peers)
                axes.plot(numbers, values, "o-", color=colour, label=label, markersize=4)

            # Ticks at plain numbers of both logarithmic axes.
            axes.set(xscale="log", yscale="log")
            axes.xaxis.set_major_locator(ticker.FixedLocator(numbers))
            axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 3, 5)))
            for axis in (axes.xaxis, axes.yaxis):
                axis.set(major_formatter="{x:g}", minor_locator=ticker.NullLocator())
            axes.spines[["top", "right"]].set_visible(False)
        column[1].set_xlabel(unit)

    grid[0, 0].set_ylabel("learn(), microseconds a step")
    grid[1, 0].set_ylabel("peak memory, MiB")
    grid[0, 0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)


def _points(rows: list[dict[str, Any]], contender: str, metric: str, unit: str) -> tuple[list[int], list[float]]:
    """A contender's numbers of what grows, and its medians there; of speeds the microseconds of a step."""
    numbers = []
    values = []
    for row in rows:
        if (row["metric"], row["contender"]) != (metric, contender) or not row["case"].endswith(unit):
            continue
        value = float(row["median"])
        numbers.append(int(row["case"].split()[0]))
        values.append(1e6 / value if metric == "steps_per_s" else value)
    return numbers, values
