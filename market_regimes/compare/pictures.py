"""The pictures of a comparison's report, each as an SVG element for a page."""

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

CURVES = ("value_loss", "explained_variance", "reward")  # of training, each in a picture
STEPS = "environment steps"
QUARTILES = [0.25, 0.5, 0.75]
INCHES = 5.0  # wide, so that on a phone of 390 pixels a point of text is a pixel
MAX_LINES = 5  # variants beside the baseline that can be told apart in one panel
MAX_POINTS = 200  # of a line
MAX_NAME = 18  # letters of a variant's name that fit into a picture
LEAST_EXPLAINED = -1.0  # where the axis of the explained variance ends: it lies far below before anything is learned
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")  # Okabe & Ito's, for all eyes
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
    "text.parse_math": False,  # names are the user's and may hold a dollar
}
Line = tuple[pd.Series, dict[str, str]]  # and its style


def with_columns(frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """:return: the frame with these columns in any case, NaN where it lacks them"""
    return frame.reindex(columns=list(dict.fromkeys([*frame.columns, *columns])))


def pictures_of(tables: Tables, metrics: Sequence[str], baseline: str) -> dict[str, Markup | None]:
    """
    :param tables: of the comparison
    :param metrics: whose effects are drawn
    :param baseline: the variant that the others are compared with
    :return: by name: "effects", the curves of training, the figures by regime and "weight"; None where no cell has them
    """
    from matplotlib import rc_context

    variants = _variants_of(tables, baseline)
    cells = with_columns(tables.cells, ("variant", "status"))
    used = cells[cells["status"] == "ok"]
    effects = with_columns(tables.effects, ("market", "variant", "metric"))

    # One picture after the other, in the project's style.
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
    :param tables: of the comparison
    :param baseline: the variant that the others are compared with
    :return: growth of 1 over the test days, by market
    """
    from matplotlib import rc_context

    variants = _variants_of(tables, baseline)
    columns = ("market", "variant", "date", "return", HOLD.key, "index")
    daily = with_columns(tables.daily, columns)
    daily = daily.dropna(subset=["return"])

    # A picture per market, whose number keeps the ids of its elements apart.
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

        # Colours in turn; each further lap has other dashes.
        others = [variant for variant in self.names if variant != self.baseline]
        lap, place = divmod(others.index(name), len(COLOURS))
        dashes = DASHES[lap % len(DASHES)]
        return {"color": COLOURS[place], "linestyle": dashes}

    def panels(self, names: Sequence[str]) -> list[list[str]]:
        """Variants that share a panel: all, or each with the baseline before it where they are too many."""
        others = [name for name in names if name != self.baseline]
        if len(others) <= MAX_LINES:
            return [list(names)]

        panels = []
        for other in others:
            shared = (self.baseline, other)
            panels.append([name for name in names if name in shared])
        return panels


def _variants_of(tables: Tables, baseline: str) -> _Variants:
    cells = with_columns(tables.cells, ("variant",))
    names = dict.fromkeys(cells["variant"])
    baseline_first = sorted(names, key=lambda name: name != baseline)
    return _Variants(baseline_first, baseline)


def _label(name: str) -> str:
    """A name short enough for a picture; the space is for matplotlib, which leaves out labels that begin with "_"."""
    if len(name) <= MAX_NAME:
        return f" {name}"
    return f" {name[: MAX_NAME - 1]}…"


def _svg(figure: Any, name: str) -> Markup:
    """The figure as an element whose ids are its own, since several stand in one page."""
    from matplotlib import rc_context

    # Neither dates nor versions, so that equal figures give equal files.
    buffer = io.StringIO()
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata=metadata)

    # The element alone, without the head of a file.
    text = buffer.getvalue()
    element = text[text.index("<svg") :]

    # Matplotlib escapes the names in it.
    ids = r'( id="|href="#|url\(#)'
    return Markup(re.sub(ids, rf"\g<1>{name}-", element))


# Pictures with a row per variant


def _named_rows(names: Sequence[str], panels: int, **options: Any) -> tuple[Any, Any]:
    """A figure of panels in two columns, with a row per variant in each."""
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

    # The first variant is at the top.
    axes[0, 0].set_yticks(range(len(names)), [_label(name) for name in names])
    axes[0, 0].set_ylim(len(names) - 0.5, -0.5)

    # An odd number of panels leaves one place empty.
    for axis in axes.flat[panels:]:
        axis.set_axis_off()
    return figure, axes.flat[:panels]


def _forest(effects: pd.DataFrame, metrics: Sequence[str], variants: _Variants) -> Markup | None:
    """The difference from the baseline with its interval, a panel per metric."""
    names = [name for name in variants.names if name in effects["variant"].unique()]
    if not names:
        return None
    figure, axes = _named_rows(names, len(metrics))

    for axis, metric in zip(axes, metrics, strict=False):
        # Title, direction and zero line of the panel.
        rows = effects[effects["metric"] == metric].set_index("variant")
        title = textwrap.fill(str(rows["label"].iloc[0]), 26)
        axis.set_title(title, fontsize=9.5)
        direction = "better →" if rows["higher_is_better"].iloc[0] else "← better"
        axis.set_xlabel(direction)
        axis.axvline(0, color="black", linewidth=0.8)
        axis.locator_params(axis="x", nbins=4)

        # An interval per variant.
        for y, name in enumerate(names):
            if name not in rows.index or pd.isna(rows.at[name, "difference"]):
                axis.text(0, y, " n/a", va="center")
            else:
                _draw_effect(axis, y, rows.loc[name])
    return _svg(figure, "effects")


def _draw_effect(axis: Any, y: int, effect: pd.Series) -> None:
    """A point and its interval, filled where there is a verdict."""
    colour = VERDICTS.get(effect["verdict"], NO_VERDICT)
    fill = "white" if colour == NO_VERDICT else colour

    # The interval, and the point on it.
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
    """Median and middle half of a figure over the cells, a panel per regime."""
    names = [name for name in variants.names if name in cells["variant"].unique()]
    if not names:
        return None
    figure, axes = _named_rows(names, len(regimes), sharex=True)

    for axis, regime in zip(axes, regimes, strict=True):
        axis.set_title(regime)
        axis.set_xlabel(BY_REGIME[metric].axis)

        # Figures of the cells in this regime, and those of buy-and-hold.
        test = f"test_{metric}_{regime}"
        hold = f"{HOLD.key}_{metric}_{regime}"
        values = with_columns(cells, (test, hold)).set_index("variant")
        values = values[[test, hold]].astype(float)

        # A bar per variant, and its middle half.
        for y, name in enumerate(names):
            defined = values.loc[[name], test].dropna()
            if defined.empty:
                axis.text(0, y, " n/a", va="center")
                continue
            low, middle, high = defined.quantile(QUARTILES)
            colour = variants.style(name)["color"]
            axis.barh(y, middle, color=colour, height=0.75)
            axis.plot([low, high], [y, y], color="0.2", linewidth=1.0)

        # Buy-and-hold across all of them.
        if values[hold].notna().any():
            axis.axvline(values[hold].median(), color="black", linestyle="--")
    return _svg(figure, metric)


# Pictures with a line per variant


def _learning(curves: pd.DataFrame, column: str, variants: _Variants) -> Markup | None:
    bands = _bands(curves, column, variants)
    if not bands:
        return None
    figure = _multiples(bands, variants, {}, STEPS, FIGURES[column].axis)

    # Early critics explain far less than nothing.
    if column == "explained_variance":
        for axis in figure.axes:
            bottom, _ = axis.get_ylim()
            axis.set_ylim(bottom=max(bottom, LEAST_EXPLAINED))
    return _svg(figure, column)


def _weight(curves: pd.DataFrame, variants: _Variants) -> Markup | None:
    weight = _bands(curves, "weight", variants)
    if not weight:
        return None

    # The variance that the weight divides by, a line per variant.
    variance = _bands(curves, "quantile_variance", variants)
    of_variance: list[Line] = []
    for name in weight:
        if name in variance:
            of_variance.append((variance[name][0.5], variants.style(name)))

    # The index is the market's, so that all variants saw much the same.
    as_one = curves.assign(variant=variants.names[0])
    index = _bands(as_one, "volatility_index", variants)
    of_index: list[Line] = [(band[0.5], {"color": "0.3"}) for band in index.values()]

    below: dict[str, list[Line]] = {
        "variance of\nquantiles": of_variance,
        "volatility\nindex": of_index,
    }
    return _svg(_multiples(weight, variants, below, STEPS, "weight"), "weight")


def _equity(days: pd.DataFrame, variants: _Variants, name: str) -> Markup:
    """Growth of 1 in one market, with the trading rules; a day's return is the mean over the seeds."""
    # Returns by day, a column per variant and a column per trading rule.
    returns = days.groupby(["date", "variant"])["return"].mean().unstack()
    keys = [key for key in RULES if key == HOLD.key or (key in days and days[key].notna().any())]
    of_market = days.groupby("date")[[*keys, "index"]].mean()

    # Growth of 1, at no more points than can be seen.
    every = ceil(len(returns) / MAX_POINTS)
    thin = slice(None, None, every)
    equity = _growth(returns)[thin]
    rules = _growth(of_market[keys])[thin]

    # Lines without a band.
    bands = {}
    for variant in variants.names:
        if variant in equity:
            bands[variant] = equity[[variant]].set_axis([0.5], axis=1)

    # The market's state below them.
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
    """Per variant the quartiles over its cells by step, where there are any."""
    rows = with_columns(curves, ("variant", "step", column))
    rows = rows.astype({"step": float, column: float})
    rows = rows.dropna(subset=["step", column])

    # Steps of long trainings are taken together, no more than can be seen.
    if rows["step"].nunique() > MAX_POINTS:
        width = rows["step"].max() / MAX_POINTS
        rows["step"] = np.ceil(rows["step"] / width) * width

    # Quartiles over the cells, a column each.
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
    A figure with all variants in one panel, or each beside the baseline in one of its own where they are too many.

    :param bands: per variant its line in column 0.5 and, if there is a band, its ends in 0.25 and 0.75
    :param variants: for their styles
    :param below: lines in a panel under each column, with their styles, by the name of its axis
    :param x_label: of the horizontal axis
    :param y_label: of the vertical axis of the panels
    :param rules: lines of trading rules, by their key in ``RULES``
    :return: figure
    """
    panels = variants.panels(list(bands))
    alone = len(panels) == 1
    figure, above, under = _grid_of_panels(len(panels), len(below))

    # The trading rules first, so that the variants lie on top.
    for axis, names in zip(above.flat, panels, strict=False):
        axis.set_title("" if alone else _label(names[-1]))
        _draw_rules(axis, rules or {})
        for name in names:
            _draw_band(axis, bands[name], name, variants)

    # Places without a panel stay empty.
    for axis in above.flat[len(panels) :]:
        axis.set_axis_off()

    # Names and scales of the axes.
    figure.supxlabel(x_label, fontsize=STYLE["font.size"])
    for axis in above[:, 0]:
        axis.set_ylabel(y_label if alone else textwrap.fill(y_label, 12))
    if rules:  # growth compounds
        for axis in above.flat:
            _logarithmic(axis)

    # The lines below; without any, the lowest panel of each column has the steps.
    _draw_below(under, below)
    if not below:
        first_of_last = len(panels) - above.shape[1]
        for axis in above.flat[first_of_last : len(panels)]:
            axis.tick_params(labelbottom=True)  # of columns that end above the last row

    # A panel that all share needs a legend.
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
    :return: the figure; the axes of the panels, shape (rows, columns); the axes below, shape (``below``, columns)
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
    """Lines of trading rules, black, each with the dashes of its kind."""
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
    """The same lines in every column of a row."""
    for row, (label, lines) in zip(axes, below.items(), strict=True):
        row[0].set_ylabel(label)
        for axis, (line, style) in product(row, lines):
            axis.plot(line, **style)


def _draw_band(axis: Any, band: pd.DataFrame, name: str, variants: _Variants) -> None:
    """A variant's line, and its band where there is one."""
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

    # Days or environment steps, few of them.
    locator, formatter = _ticks_of(band.index)
    axis.xaxis.set_major_locator(locator)
    axis.xaxis.set_major_formatter(formatter)


def _ticks_of(index: pd.Index) -> tuple[Any, Callable[..., str]]:
    """Locator and formatter of the horizontal axis: of days or of environment steps."""
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
