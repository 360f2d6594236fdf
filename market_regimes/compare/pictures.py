"""Pictures of a comparison's report, each an SVG element for a page."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from market_regimes.compare.catalogue import BY_REGIME, FIGURES, RULES
from market_regimes.compare.tables import ALL, Tables
from market_regimes.evaluate.strategies import HOLD

CURVES = ("value_loss", "explained_variance", "reward")  # curves of training, one picture each
STEPS = "environment steps"
QUARTILES = [0.25, 0.5, 0.75]
INCHES = 5.0  # width: on a phone of 390 pixels a point of text is a pixel
MAX_LINES = 5  # distinguishable variants beside the baseline in a panel
MAX_POINTS = 200  # points of a line
MAX_NAME = 18  # letters of a variant's name that fit into a picture
LEAST_EXPLAINED = -1.0  # lower end of the axis of the explained variance, which starts far below
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")  # Okabe & Ito's, safe for colour blindness
DASHES = ("-", "--", ":")
BASELINE = {"color": "0.55", "linestyle": "-"}
NO_VERDICT = "0.4"
VERDICTS = {"better": "#0072B2", "worse": "#D55E00"}
STYLE = {
    "axes.grid": True,
    "axes.titlesize": 10,
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Roboto"],
    "font.size": 9.5,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "svg.fonttype": "none",
    "text.parse_math": False,  # a user's name may contain a dollar
}
Line = tuple[pd.Series, dict[str, str]]  # values and style


def with_columns(frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """:return: the frame with at least these columns, NaN where missing"""
    return frame.reindex(columns=list(dict.fromkeys([*frame.columns, *columns])))


def pictures_of(tables: Tables, metrics: Sequence[str], baseline: str) -> dict[str, Markup | None]:
    """
    :param tables: tables of the comparison
    :param metrics: metrics of the picture of effects
    :param baseline: variant that the others are compared with
    :return: "effects", the curves of training, the figures by regime and "weight", by name; None without data
    """
    from matplotlib import rc_context

    variants = _variants_of(tables, baseline)
    cells = with_columns(tables.cells, ("variant", "status"))
    used = cells[cells["status"] == "ok"]
    effects = with_columns(tables.effects, ("market", "variant", "metric"))

    # Draw the pictures in the project's style.
    with rc_context(STYLE):
        of_all_markets = effects[effects["market"] == ALL]
        pictures = {"effects": _forest(of_all_markets, metrics, variants)}

        for name in CURVES:
            pictures[name] = _learning(tables.curves, name, variants)
        for name in BY_REGIME:
            pictures[name] = _regimes(used, name, variants, tables.regimes)

        pictures["weight"] = _weight(tables.curves, variants)
    return pictures


def equity_pictures(tables: Tables, baseline: str) -> dict[str, Markup]:
    """
    :param tables: tables of the comparison
    :param baseline: variant that the others are compared with
    :return: growth of 1 over the test days, by market
    """
    from matplotlib import rc_context

    variants = _variants_of(tables, baseline)
    columns = ("market", "variant", "date", "return", HOLD.key, "index")
    daily = with_columns(tables.daily, columns)
    daily = daily.dropna(subset=["return"])

    # Draw a picture per market. Its number makes the ids of its elements unique.
    pictures: dict[str, Markup] = {}
    with rc_context(STYLE):
        for market, days in daily.groupby("market", sort=False):
            name = f"equity-{len(pictures)}"
            pictures[str(market)] = _equity(days, variants, name)
    return pictures


@dataclass(frozen=True)
class _Variants:
    names: list[str]  # the baseline first
    baseline: str

    def style(self, name: str) -> dict[str, str]:
        if name == self.baseline:
            return BASELINE

        # Assign colours in turn. Each further round has other dashes.
        compared = [variant for variant in self.names if variant != self.baseline]
        lap, place = divmod(compared.index(name), len(COLOURS))
        dashes = DASHES[lap % len(DASHES)]
        return {"color": COLOURS[place], "linestyle": dashes}

    def panels(self, names: Sequence[str]) -> list[list[str]]:
        """Group variants into panels: one for all, or one per variant beside the baseline if there are too many."""
        compared = [name for name in names if name != self.baseline]
        if len(compared) <= MAX_LINES:
            return [list(names)]

        panels = []
        for variant in compared:
            shared = (self.baseline, variant)
            panels.append([name for name in names if name in shared])
        return panels


def _variants_of(tables: Tables, baseline: str) -> _Variants:
    cells = with_columns(tables.cells, ("variant",))
    names = dict.fromkeys(cells["variant"])
    baseline_first = sorted(names, key=lambda name: name != baseline)
    return _Variants(baseline_first, baseline)


def _label(name: str) -> str:
    """Shorten a name for a picture. The space keeps labels with a leading "_", which matplotlib would omit."""
    if len(name) <= MAX_NAME:
        return f" {name}"
    return f" {name[: MAX_NAME - 1]}…"


def _svg(figure: Any, name: str) -> Markup:
    """Render a figure as an element with unique ids, since a page has several."""
    from matplotlib import rc_context

    # Write neither dates nor versions, so that equal figures give equal files.
    buffer = io.StringIO()
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata=metadata)

    # Keep the element without the head of a file.
    text = buffer.getvalue()
    element = text[text.index("<svg") :]

    # Matplotlib has escaped the names in it.
    ids = r'( id="|href="#|url\(#)'
    return Markup(re.sub(ids, rf"\g<1>{name}-", element))


# Pictures with a row per variant


def _rows_per_variant(names: Sequence[str], panels: int, **options: Any) -> tuple[Any, Any]:
    """Create a figure of panels in two columns, with a row per variant in each."""
    from matplotlib.figure import Figure

    lines = ceil(panels / 2)
    height = 0.9 + 0.19 * len(names)
    figure = Figure(
        figsize=(INCHES, lines * height),
        layout="constrained",
    )
    axes = figure.subplots(
        lines,
        min(2, panels),
        squeeze=False,
        sharey=True,
        **options,
    )

    # Put the first variant at the top.
    axes[0, 0].set_yticks(range(len(names)), [_label(name) for name in names])
    axes[0, 0].set_ylim(len(names) - 0.5, -0.5)

    # An odd number of panels leaves one position empty.
    for axis in axes.flat[panels:]:
        axis.set_axis_off()
    return figure, axes.flat[:panels]


def _forest(effects: pd.DataFrame, metrics: Sequence[str], variants: _Variants) -> Markup | None:
    """Draw the differences from the baseline with their intervals, a panel per metric."""
    names = [name for name in variants.names if name in effects["variant"].unique()]
    if not names:
        return None
    figure, axes = _rows_per_variant(names, len(metrics))

    for axis, metric in zip(axes, metrics, strict=False):
        # Add title, direction and zero line.
        rows = effects[effects["metric"] == metric].set_index("variant")
        title = textwrap.fill(str(rows["label"].iloc[0]), 26)
        axis.set_title(title, fontsize=9.5)
        direction = "better →" if rows["higher_is_better"].iloc[0] else "← better"
        axis.set_xlabel(direction)
        axis.axvline(0, color="black", linewidth=0.8)
        axis.locator_params(axis="x", nbins=4)

        # Draw an interval per variant.
        for y, name in enumerate(names):
            if name not in rows.index or pd.isna(rows.at[name, "difference"]):
                axis.text(0, y, " n/a", va="center")
            else:
                _draw_effect(axis, y, rows.loc[name])
    return _svg(figure, "effects")


def _draw_effect(axis: Any, y: int, effect: pd.Series) -> None:
    """Draw a point and its interval, filled with a verdict."""
    colour = VERDICTS.get(effect["verdict"], NO_VERDICT)
    fill = "white" if colour == NO_VERDICT else colour

    # Draw the interval, then the point.
    ends = effect[["low", "high"]].astype(float)
    axis.plot(ends, [y, y], color=colour, linewidth=1.6)
    axis.plot(
        effect["difference"],
        y,
        "o",
        color=colour,
        markerfacecolor=fill,
        markersize=5,
    )


def _regimes(cells: pd.DataFrame, metric: str, variants: _Variants, regimes: Sequence[str]) -> Markup | None:
    """Draw median and middle half of a figure over the cells, a panel per regime."""
    names = [name for name in variants.names if name in cells["variant"].unique()]
    if not names:
        return None
    figure, axes = _rows_per_variant(names, len(regimes), sharex=True)

    for axis, regime in zip(axes, regimes, strict=True):
        axis.set_title(regime)
        axis.set_xlabel(BY_REGIME[metric].axis)

        # Read the cells' figures in this regime, and those of buy-and-hold.
        test = f"test_{metric}_{regime}"
        hold = f"{HOLD.key}_{metric}_{regime}"
        values = with_columns(cells, (test, hold)).set_index("variant")
        values = values[[test, hold]].astype(float)

        # Draw a bar per variant, and its middle half.
        for y, name in enumerate(names):
            defined = values.loc[[name], test].dropna()
            if defined.empty:
                axis.text(0, y, " n/a", va="center")
                continue
            low, middle, high = defined.quantile(QUARTILES)
            colour = variants.style(name)["color"]
            axis.barh(y, middle, color=colour, height=0.75)
            axis.plot([low, high], [y, y], color="0.2", linewidth=1.0)

        # Draw buy-and-hold across all bars.
        if values[hold].notna().any():
            axis.axvline(values[hold].median(), color="black", linestyle="--")
    return _svg(figure, metric)


# Pictures with a line per variant


def _learning(curves: pd.DataFrame, column: str, variants: _Variants) -> Markup | None:
    bands = _bands(curves, column, variants)
    if not bands:
        return None
    figure = _multiples(bands, variants, {}, STEPS, FIGURES[column].axis)

    # Early critics have an explained variance far below 0.
    if column == "explained_variance":
        for axis in figure.axes:
            bottom, _ = axis.get_ylim()
            axis.set_ylim(bottom=max(bottom, LEAST_EXPLAINED))
    return _svg(figure, column)


def _weight(curves: pd.DataFrame, variants: _Variants) -> Markup | None:
    weight = _bands(curves, "weight", variants)
    if not weight:
        return None

    # Draw the variance that the weight divides by, a line per variant.
    variance = _bands(curves, "quantile_variance", variants)
    of_variance: list[Line] = []
    for name in weight:
        if name in variance:
            of_variance.append((variance[name][0.5], variants.style(name)))

    # The index belongs to the market, so all variants saw nearly the same.
    merged = curves.assign(variant=variants.names[0])
    index = _bands(merged, "volatility_index", variants)
    of_index: list[Line] = [(band[0.5], {"color": "0.3"}) for band in index.values()]

    below: dict[str, list[Line]] = {
        "variance of\nquantiles": of_variance,
        "volatility\nindex": of_index,
    }
    return _svg(_multiples(weight, variants, below, STEPS, "weight"), "weight")


def _equity(days: pd.DataFrame, variants: _Variants, name: str) -> Markup:
    """Draw growth of 1 in one market, with the trading rules. A day's return is the mean over the seeds."""
    # Compute returns by day, a column per variant and per trading rule.
    returns = days.groupby(["date", "variant"])["return"].mean().unstack()
    keys = [key for key in RULES if key == HOLD.key or (key in days and days[key].notna().any())]
    of_market = days.groupby("date")[[*keys, "index"]].mean()

    # Compute growth of 1, with no more points than visible.
    every = ceil(len(returns) / MAX_POINTS)
    thin = slice(None, None, every)
    equity = _growth(returns)[thin]
    rules = _growth(of_market[keys])[thin]

    # These lines have no band.
    bands = {}
    for variant in variants.names:
        if variant in equity:
            bands[variant] = equity[[variant]].set_axis([0.5], axis=1)

    # Draw the market's state below them.
    index = of_market["index"][thin]
    below: dict[str, list[Line]] = {"volatility\nindex": [(index, {"color": "0.3"})]}

    figure = _multiples(
        bands,
        variants,
        below,
        "",
        "equity, start = 1",
        dict(rules.items()),
    )
    return _svg(figure, name)


def _growth(returns: pd.DataFrame) -> pd.DataFrame:
    return (1 + returns.fillna(0.0)).cumprod()


def _bands(curves: pd.DataFrame, column: str, variants: _Variants) -> dict[str, pd.DataFrame]:
    """Compute each variant's quartiles over its cells by step, where defined."""
    rows = with_columns(curves, ("variant", "step", column))
    rows = rows.astype({"step": float, column: float})
    rows = rows.dropna(subset=["step", column])

    # Merge steps of long trainings into a visible number.
    if rows["step"].nunique() > MAX_POINTS:
        width = rows["step"].max() / MAX_POINTS
        rows["step"] = np.ceil(rows["step"] / width) * width

    # Compute quartiles over the cells, a column each.
    by_step = rows.groupby(["variant", "step"])[column]
    bands = by_step.quantile(QUARTILES).unstack()
    defined = bands.index.unique("variant")
    return {name: bands.loc[name] for name in variants.names if name in defined}


def _multiples(
    bands: dict[str, pd.DataFrame],
    variants: _Variants,
    below: Mapping[str, Sequence[Line]],
    x_label: str,
    y_label: str,
    rules: Mapping[str, pd.Series] | None = None,
) -> Any:
    """
    Draw all variants in one panel, or in a panel each beside the baseline if there are too many.

    :param bands: each variant's line in column 0.5, and the ends of its band, if any, in 0.25 and 0.75
    :param variants: variants with their styles
    :param below: lines and styles for a panel under each column, by the name of its axis
    :param x_label: label of the horizontal axis
    :param y_label: label of the panels' vertical axis
    :param rules: lines of trading rules, by their key in ``RULES``
    :return: figure
    """
    panels = variants.panels(list(bands))
    alone = len(panels) == 1
    figure, above, under = _grid_of_panels(len(panels), len(below))

    # Draw the trading rules first, so that variants lie on top.
    for axis, names in zip(above.flat, panels, strict=False):
        axis.set_title("" if alone else _label(names[-1]))
        _draw_rules(axis, rules or {})
        for name in names:
            _draw_band(axis, bands[name], name, variants)

    # Hide positions without a panel.
    for axis in above.flat[len(panels) :]:
        axis.set_axis_off()

    # Add labels and scales of the axes.
    figure.supxlabel(x_label, fontsize=STYLE["font.size"])
    for axis in above[:, 0]:
        axis.set_ylabel(y_label if alone else textwrap.fill(y_label, 12))
    if rules:  # growth compounds
        for axis in above.flat:
            _logarithmic(axis)

    # Draw the lines below. Without them the lowest panel of each column has the steps.
    _draw_below(under, below)
    if not below:
        first_of_last = len(panels) - above.shape[1]
        for axis in above.flat[first_of_last : len(panels)]:
            axis.tick_params(labelbottom=True)  # for columns that end above the last row

    # A shared panel needs a legend.
    if alone:
        handles, labels = above[0, 0].get_legend_handles_labels()
        figure.legend(
            handles,
            labels,
            loc="outside lower center",
            ncols=2,
        )
    return figure


def _grid_of_panels(panels: int, below: int) -> tuple[Any, Any, Any]:
    """
    :param panels: number of panels
    :param below: number of rows under them
    :return: figure; axes of the panels, shape (rows, columns); axes below, shape (``below``, columns)
    """
    from matplotlib.figure import Figure

    columns = min(3, panels)
    rows = ceil(panels / columns)
    height = 2.6 if panels == 1 else 1.4
    ratios = [height] * rows + [1.0] * below

    figure = Figure(figsize=(INCHES, 0.9 + sum(ratios)), layout="constrained")
    grid: dict[str, Any] = {"sharex": True, "sharey": "row", "height_ratios": ratios}
    axes = figure.subplots(len(ratios), columns, squeeze=False, **grid)
    return figure, axes[:rows], axes[rows:]


def _draw_rules(axis: Any, rules: Mapping[str, pd.Series]) -> None:
    """Draw lines of trading rules in black, each kind with its dashes."""
    for key, line in rules.items():
        rule = RULES[key]
        axis.plot(
            line,
            color="black",
            linewidth=1.0,
            linestyle=rule.dashes,
            label=rule.title,
        )


def _draw_below(axes: Any, below: Mapping[str, Sequence[Line]]) -> None:
    """Draw the same lines in every column of a row."""
    for row, (label, lines) in zip(axes, below.items(), strict=True):
        row[0].set_ylabel(label)
        for axis, (line, style) in product(row, lines):
            axis.plot(line, **style)


def _draw_band(axis: Any, band: pd.DataFrame, name: str, variants: _Variants) -> None:
    """Draw a variant's line, and its band if any."""
    style = variants.style(name)
    axis.plot(band[0.5], label=_label(name), **style)
    if 0.25 in band:
        axis.fill_between(
            band.index,
            band[0.25],
            band[0.75],
            color=style["color"],
            alpha=0.2,
            linewidth=0,
        )

    # Show few days or environment steps.
    locator, formatter = _ticks_of(band.index)
    axis.xaxis.set_major_locator(locator)
    axis.xaxis.set_major_formatter(formatter)


def _ticks_of(index: pd.Index) -> tuple[Any, Callable[..., str]]:
    """Return locator and formatter of the horizontal axis, for days or environment steps."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
    from matplotlib.ticker import EngFormatter, MaxNLocator

    if isinstance(index, pd.DatetimeIndex):
        locator = AutoDateLocator(minticks=2, maxticks=4)
        return locator, ConciseDateFormatter(locator)
    return MaxNLocator(3), EngFormatter(sep="")


def _logarithmic(axis: Any) -> None:
    """Make the vertical axis logarithmic, with ticks at plain numbers."""
    from matplotlib.ticker import MaxNLocator, NullLocator, StrMethodFormatter

    axis.set_yscale("log")
    axis.yaxis.set_major_locator(MaxNLocator(4))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
