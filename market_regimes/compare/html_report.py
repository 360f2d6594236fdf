"""One HTML file, with its pictures inside, that says what a comparison showed to someone who was not there."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import product
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from market_regimes.compare.statistics import seeds_needed_text
from market_regimes.evaluate.strategies import COMPARED, HOLD
from market_regimes.files import write_file
from market_regimes.market.regimes import REGIMES

ALL = "all"  # the markets together, in ``Tables.effects``
MAIN = (
    "value_loss_spread",
    "explained_variance",
    "test_mean_reward",
    "test_sharpe",
    "test_value_error_gap_stormy",
    "grad_imbalance_stormy",
)
CURVES = {  # and the labels of their axes
    "value_loss": "value loss, no unit",
    "explained_variance": "explained variance",
    "reward": "reward per bar, %",
}
BY_REGIME = {"value_error": "error / standard deviation", "sharpe": "Sharpe ratio per year"}
STEPS = "environment steps"
QUARTILES = [0.25, 0.5, 0.75]
INCHES = 5.0  # wide, so that on a phone of 390 pixels a point of text is a pixel
MAX_LINES = 5  # variants beside the baseline that can be told apart in one panel
MAX_POINTS = 200  # of a line
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")  # Okabe & Ito's, for all eyes
DASHES = ("-", "--", ":")
RULES = {strategy.key: strategy for strategy in COMPARED}  # by columns of ``Tables.daily``
# Columns of ``Tables.sharpe`` that a report shows in any case.
SEEDS_TOGETHER = ("sharpe_seeds_together", "lead_over_hold", "lead_low", "lead_high", "attained_seeds_together")
BASELINE = {"color": "0.55", "linestyle": "-"}
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


@dataclass
class Tables:
    """
    What a comparison gave. NaN and None: undefined.

    :param cells: one row per cell: ``market``, ``fold``, ``variant``, ``seed``, ``status``, ``error`` and its figures
    :param curves: one row per cell and rollout of training
    :param daily: one row per cell and test day
    :param effects: one row per market, variant and metric: the paired difference, its interval and verdict
    :param hopes: one row per hope: what was hoped, what was measured
    :param sharpe: one row per market and variant
    """

    cells: pd.DataFrame
    curves: pd.DataFrame
    daily: pd.DataFrame
    effects: pd.DataFrame
    hopes: pd.DataFrame
    sharpe: pd.DataFrame


@dataclass(frozen=True)
class _Variants:
    names: list[str]  # the baseline first
    baseline: str

    def style(self, name: str) -> dict[str, str]:
        if name == self.baseline:
            return BASELINE
        lap, i = divmod([other for other in self.names if other != self.baseline].index(name), len(COLOURS))
        return {"color": COLOURS[i], "linestyle": DASHES[lap % len(DASHES)]}

    def panels(self, names: Sequence[str]) -> list[list[str]]:
        """Variants that share a panel: all, or each with the baseline before it where they are too many."""
        others = [name for name in names if name != self.baseline]
        if len(others) <= MAX_LINES:
            return [list(names)]
        return [[name for name in names if name in (self.baseline, other)] for other in others]


def write_report(
    path: Path,
    tables: Tables,
    title: str,
    baseline: str,
    config_text: str,
    facts: dict[str, str],
    headline: Sequence[str] = (),
) -> None:
    """
    :param path: HTML file to write or replace
    :param tables: what is shown
    :param title: heading
    :param baseline: the variant that the others are compared with
    :param config_text: the configuration, shown as it is
    :param facts: versions, seconds and the like by name
    :param headline: sentences for a reader who has ten seconds
    """
    from matplotlib import rc_context

    cells = _with(tables.cells, ("market", "fold", "variant", "seed", "status", "error"))
    effects = _with(tables.effects, ("market", "variant", "metric"))
    variants = _Variants(sorted(dict.fromkeys(cells["variant"]), key=lambda name: name != baseline), baseline)
    main = [name for name in MAIN if name in set(effects["metric"])] or list(effects["metric"].unique()[: len(MAIN)])
    with rc_context(STYLE):
        pictures = {
            "effects": _forest(effects[effects["market"] == ALL], main, variants),
            **{name: _learning(tables.curves, name, variants) for name in CURVES},
            **{name: _regimes(cells[cells["status"] == "ok"], name, variants) for name in BY_REGIME},
            "weight": _weight(tables.curves, variants),
        }
        equity = _equity(tables.daily, variants)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = _number
    environment.globals["seeds_needed_text"] = seeds_needed_text
    rules = {key: rule.title for key, rule in RULES.items() if rule.in_every_report or key in tables.sharpe}
    template = environment.from_string(
        (resources.files("market_regimes.compare") / "report.html.j2").read_text("utf-8")
    )
    page = template.render(
        title=title,
        baseline=baseline,
        config_text=config_text,
        facts=facts,
        headline=headline,
        pictures=pictures,
        equity=equity,
        counts={name: list(cells[name].dropna().unique()) for name in ("variant", "seed", "fold", "market")},
        status=cells["status"].value_counts().to_dict(),
        without=cells[cells["status"] != "ok"].to_dict("records"),
        hopes=tables.hopes.to_dict("records"),
        main=_effect_table(effects[effects["metric"].isin(main)], ALL),
        details={market: _effect_table(effects, market) for market in effects["market"].unique()},
        sharpe=_with(tables.sharpe, (*RULES, *SEEDS_TOGETHER)).to_dict("records"),
        rules=rules,
        all_markets=ALL,
    )
    write_file(path, page)


def _with(frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """The frame with these columns in any case, NaN where it lacks them."""
    return frame.reindex(columns=list(dict.fromkeys([*frame.columns, *columns])))


def _number(value: Any, form: str = ".3g") -> str:
    """A number as a person writes it, of three digits and without an exponent; "n/a" where there is none."""
    if pd.isna(value) or not np.isfinite(value):
        return "n/a"
    if not form.endswith(".3g"):
        return format(value, form)
    if abs(value) >= 1000:
        return format(value, form.replace(".3g", ",.0f"))
    if abs(value) < 1e-6:  # rounding
        return "0"
    return str(np.format_float_positional(value, precision=3, fractional=False, trim="-", sign=form.startswith("+")))


def _effect_table(effects: pd.DataFrame, market: str) -> dict[str, Any]:
    """A market's metrics, each with its label and direction, and per variant its effects by metric."""
    rows = effects[effects["market"] == market].to_dict("records")
    by_variant: dict[str, dict[str, Any]] = {}
    for row in rows:
        by_variant.setdefault(row["variant"], {})[row["metric"]] = row
    return {"metrics": {row["metric"]: row for row in rows}, "rows": by_variant}


def _label(name: str) -> str:
    """A name short enough for a picture; the space is for matplotlib, which leaves out labels that begin with "_"."""
    return f" {name}" if len(name) <= 18 else f" {name[:17]}…"


def _svg(figure: Any, name: str) -> Markup:
    """The figure as an element whose ids are its own, since several stand in one page."""
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = buffer.getvalue()
    # Matplotlib escapes the names in it.
    return Markup(re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{name}-", text[text.index("<svg") :]))


def _named_rows(names: Sequence[str], panels: int, **options: Any) -> tuple[Any, Any]:
    """A figure of panels in two columns, with a row per variant in each."""
    from matplotlib.figure import Figure

    lines = ceil(panels / 2)
    figure = Figure(figsize=(INCHES, lines * (0.9 + 0.19 * len(names))), layout="constrained")
    axes = figure.subplots(lines, min(2, panels), squeeze=False, sharey=True, **options)
    axes[0, 0].set_yticks(range(len(names)), [_label(name) for name in names])
    axes[0, 0].set_ylim(len(names) - 0.5, -0.5)
    for axis in axes.flat[panels:]:
        axis.set_axis_off()
    return figure, axes.flat


def _forest(effects: pd.DataFrame, metrics: Sequence[str], variants: _Variants) -> Markup | None:
    names = [name for name in variants.names if name in effects["variant"].unique()]
    if not names:
        return None
    figure, axes = _named_rows(names, len(metrics))
    for axis, metric in zip(axes, metrics, strict=False):
        rows = effects[effects["metric"] == metric].set_index("variant")
        axis.set_title(textwrap.fill(str(rows["label"].iloc[0]), 26), fontsize=9.5)
        axis.set_xlabel("better →" if rows["higher_is_better"].iloc[0] else "← better")
        axis.axvline(0, color="black", linewidth=0.8)
        axis.locator_params(axis="x", nbins=4)
        for y, name in enumerate(names):
            if name not in rows.index or pd.isna(rows.at[name, "difference"]):
                axis.text(0, y, " n/a", va="center")
                continue
            colour = VERDICTS.get(rows.at[name, "verdict"], "0.4")
            fill = "white" if colour == "0.4" else colour
            ends = rows.loc[name, ["low", "high"]].astype(float)
            axis.plot(ends, [y, y], color=colour, linewidth=1.6)
            axis.plot(rows.at[name, "difference"], y, "o", color=colour, markerfacecolor=fill, markersize=5)
    return _svg(figure, "effects")


def _regimes(cells: pd.DataFrame, metric: str, variants: _Variants) -> Markup | None:
    names = [name for name in variants.names if name in cells["variant"].unique()]
    if not names:
        return None
    figure, axes = _named_rows(names, len(REGIMES), sharex=True)
    for axis, regime in zip(axes, REGIMES, strict=True):
        axis.set_title(regime)
        axis.set_xlabel(BY_REGIME[metric])
        test, hold = f"test_{metric}_{regime}", f"{HOLD.key}_{metric}_{regime}"
        values = _with(cells, (test, hold)).set_index("variant")[[test, hold]].astype(float)
        for y, name in enumerate(names):
            known = values.loc[[name], test].dropna()
            if known.empty:
                axis.text(0, y, " n/a", va="center")
                continue
            low, middle, high = known.quantile(QUARTILES)
            axis.barh(y, middle, color=variants.style(name)["color"], height=0.75)
            axis.plot([low, high], [y, y], color="0.2", linewidth=1.0)
        if values[hold].notna().any():
            axis.axvline(values[hold].median(), color="black", linestyle="--")
    return _svg(figure, metric)


def _multiples(
    bands: dict[str, pd.DataFrame],
    variants: _Variants,
    below: Mapping[str, Sequence[tuple[pd.Series, dict[str, str]]]],
    labels: tuple[str, str],
    rules: Mapping[str, pd.Series] | None = None,
) -> Any:
    """
    A figure with all variants in one panel, or each beside the baseline in one of its own where they are too many.

    :param bands: per variant its line in column 0.5 and, if there is a band, its ends in 0.25 and 0.75
    :param variants: for their styles
    :param below: lines in a panel under each column, with their styles, by the name of its axis
    :param labels: of the horizontal axis and of that of the panels
    :param rules: lines of trading rules, by their key in ``RULES``
    :return: figure
    """
    panels = variants.panels(list(bands))
    alone = len(panels) == 1
    figure, above, under = _grid_of_panels(len(panels), len(below))

    for axis, names in zip(above.flat, panels, strict=False):
        axis.set_title("" if alone else _label(names[-1]))
        _draw_rules(axis, rules or {})
        for name in names:
            _draw_band(axis, bands[name], name, variants)
    for axis in above.flat[len(panels) :]:
        axis.set_axis_off()

    figure.supxlabel(labels[0], fontsize=STYLE["font.size"])
    for axis in above[:, 0]:
        axis.set_ylabel(labels[1] if alone else textwrap.fill(labels[1], 12))
    if rules:  # growth compounds
        for axis in above.flat:
            _logarithmic(axis)

    _draw_below(under, below)
    if not below:
        for axis in above.flat[len(panels) - above.shape[1] : len(panels)]:
            axis.tick_params(labelbottom=True)  # of columns that end above the last row
    if alone:
        figure.legend(*above[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
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
        axis.plot(line, color="black", linewidth=1.0, linestyle=RULES[key].dashes, label=RULES[key].title)


def _draw_below(axes: Any, below: Mapping[str, Sequence[tuple[pd.Series, dict[str, str]]]]) -> None:
    """The same lines in every column of a row."""
    for row, (label, lines) in zip(axes, below.items(), strict=True):
        row[0].set_ylabel(label)
        for axis, (line, style) in product(row, lines):
            axis.plot(line, **style)


def _logarithmic(axis: Any) -> None:
    """With ticks at plain numbers."""
    from matplotlib.ticker import MaxNLocator, NullLocator, StrMethodFormatter

    axis.set_yscale("log")
    axis.yaxis.set_major_locator(MaxNLocator(4))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))


def _draw_band(axis: Any, band: pd.DataFrame, name: str, variants: _Variants) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
    from matplotlib.ticker import EngFormatter, MaxNLocator

    style = variants.style(name)
    axis.plot(band[0.5], label=_label(name), **style)
    if 0.25 in band:
        axis.fill_between(band.index, band[0.25], band[0.75], color=style["color"], alpha=0.2, linewidth=0)
    dates = isinstance(band.index, pd.DatetimeIndex)
    locator = AutoDateLocator(minticks=2, maxticks=4) if dates else MaxNLocator(3)
    axis.xaxis.set_major_locator(locator)
    axis.xaxis.set_major_formatter(ConciseDateFormatter(locator) if dates else EngFormatter(sep=""))


def _bands(curves: pd.DataFrame, column: str, variants: _Variants) -> dict[str, pd.DataFrame]:
    """Per variant the quartiles over its cells by step, where there are any."""
    rows = _with(curves, ("variant", "step", column)).astype({"step": float, column: float})
    rows = rows.dropna(subset=["step", column])
    if rows["step"].nunique() > MAX_POINTS:
        width = rows["step"].max() / MAX_POINTS
        rows["step"] = np.ceil(rows["step"] / width) * width
    bands = rows.groupby(["variant", "step"])[column].quantile(QUARTILES).unstack()
    there = bands.index.unique("variant")
    return {name: bands.loc[name] for name in variants.names if name in there}


def _learning(curves: pd.DataFrame, column: str, variants: _Variants) -> Markup | None:
    bands = _bands(curves, column, variants)
    if not bands:
        return None
    figure = _multiples(bands, variants, {}, (STEPS, CURVES[column]))
    if column == "explained_variance":  # far below -1 before anything is learned
        for axis in figure.axes:
            axis.set_ylim(bottom=max(axis.get_ylim()[0], -1.0))
    return _svg(figure, column)


def _weight(curves: pd.DataFrame, variants: _Variants) -> Markup | None:
    weight, variance = (_bands(curves, name, variants) for name in ("weight", "quantile_variance"))
    if not weight:
        return None
    # The index is the market's, so that all variants saw much the same.
    index = _bands(curves.assign(variant=variants.names[0]), "volatility_index", variants)
    below = {
        "variance of\nquantiles": [(variance[name][0.5], variants.style(name)) for name in weight if name in variance],
        "volatility\nindex": [(band[0.5], {"color": "0.3"}) for band in index.values()],
    }
    return _svg(_multiples(weight, variants, below, (STEPS, "weight")), "weight")


def _equity(daily: pd.DataFrame, variants: _Variants) -> dict[str, Markup]:
    """By market."""
    daily = _with(daily, ("market", "variant", "date", "return", HOLD.key, "index")).dropna(subset=["return"])
    pictures: dict[str, Markup] = {}
    for market, days in daily.groupby("market", sort=False):
        returns = days.groupby(["date", "variant"])["return"].mean().unstack()
        there = [name for name in RULES if name == HOLD.key or (name in days and days[name].notna().any())]
        of_market = days.groupby("date")[[*there, "index"]].mean()
        thin = slice(None, None, ceil(len(returns) / MAX_POINTS))
        equity, rules = ((1 + each.fillna(0.0)).cumprod()[thin] for each in (returns, of_market[there]))
        bands = {name: equity[[name]].set_axis([0.5], axis=1) for name in variants.names if name in equity}
        below = {"volatility\nindex": [(of_market["index"][thin], {"color": "0.3"})]}
        figure = _multiples(bands, variants, below, ("", "equity, start = 1"), dict(rules.items()))
        pictures[market] = _svg(figure, f"equity-{len(pictures)}")
    return pictures
