"""The pictures of ``benchmarks/speed.py``: who is how fast, and how time and memory grow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

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

    speeds = {(r["case"], r["contender"]): float(r["median"]) / 1e3 for r in rows if r["metric"] == "steps_per_s"}
    contenders = list(dict.fromkeys(contender for case, contender in speeds if case in cases))
    figure, axes = pyplot.subplots(figsize=(10, 3.6), layout="constrained")
    for i, contender in enumerate(contenders):
        there = [j for j, case in enumerate(cases) if (case, contender) in speeds]
        places = [j + (i - (len(contenders) - 1) / 2) * 0.8 / len(contenders) for j in there]
        heights = [speeds[cases[j], contender] for j in there]
        label = label_of(contender, peers)
        bars = axes.bar(places, heights, 0.8 / len(contenders), label=label, color=COLOURS[i])
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
    figure, grid = pyplot.subplots(2, len(counted), figsize=(10, 5), sharey="row", squeeze=False, layout="constrained")
    for column, what in zip(grid.T, counted, strict=True):
        for axes, metric in zip(column, ("steps_per_s", "memory_mib"), strict=True):
            for i, contender in enumerate(contenders):
                own = [r for r in rows if r["metric"] == metric and r["contender"] == contender]
                points = [(int(r["case"].split()[0]), float(r["median"])) for r in own if r["case"].endswith(what)]
                if metric == "steps_per_s":
                    points = [(number, 1e6 / speed) for number, speed in points]
                axes.plot(
                    *zip(*points, strict=True), "o-", color=COLOURS[i], label=label_of(contender, peers), markersize=4
                )
            axes.set(xscale="log", yscale="log")
            axes.xaxis.set_major_locator(ticker.FixedLocator([number for number, _ in points]))
            axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 3, 5)))
            for axis in (axes.xaxis, axes.yaxis):
                axis.set(major_formatter="{x:g}", minor_locator=ticker.NullLocator())
            axes.spines[["top", "right"]].set_visible(False)
        column[1].set_xlabel(what)
    grid[0, 0].set_ylabel("learn(), microseconds a step")
    grid[1, 0].set_ylabel("peak memory, MiB")
    grid[0, 0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)
