"""
Every bar, line, interval and band of the report's pictures, read from the figures in the page, against plain loops over
the tables: each cell has values of its own, so nothing can stand in another's place.
"""

import re

import numpy as np
import pandas as pd
import pytest
from comparisons import BASELINE, MARKETS, METRICS, REPORTED, make_cells, make_daily, report_tables
from matplotlib.colors import to_hex
from matplotlib.dates import date2num
from matplotlib.figure import Figure

from market_regimes.compare.html_report import MAIN, write_report
from market_regimes.compare.tables import Tables
from market_regimes.market.regimes import REGIMES

pytestmark = pytest.mark.usefixtures("pictures")

GREY = "#8c8c8c"  # 0.55 of 255 is 140
BLUE = "#0072b2"
ORANGE = "#d55e00"


def paths_of_pictures(page):
    """By the name of each picture in a page, what its paths draw."""
    pictures = {}
    for part in page.split('<div role="img" aria-label="')[1:]:
        name, _, rest = part.partition('"')
        pictures[name] = re.findall(r'<path[^>]*? d="([^"]+)"', rest.partition("</svg>")[0])
    return pictures


def drawn_report(path, tables):
    """By the name of each picture in the page the figure it was drawn from."""
    figures, savefig = [], Figure.savefig

    def keep(figure, file, **options):
        savefig(figure, file, **options)
        figures.append((re.findall(r'<path[^>]*? d="([^"]+)"', file.getvalue()), figure))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", keep)
        write_report(path, tables, "title", BASELINE, "", {})
    pictures = paths_of_pictures(path.read_text())
    assert len(figures) == len(pictures)
    found = {}
    for name, paths in pictures.items():
        tidy = [" ".join(each.split()) for each in paths]
        (found[name],) = [figure for own, figure in figures if [" ".join(each.split()) for each in own] == tidy]
    return found


@pytest.fixture(scope="module")
def tables():
    return report_tables()


@pytest.fixture(scope="module")
def figures(tmp_path_factory, tables):
    return drawn_report(tmp_path_factory.mktemp("report") / "report.html", tables)


def short(name):
    return name if len(name) <= 18 else f"{name[:17]}…"


def ordered(variants=REPORTED):
    return sorted(variants, key=lambda name: name != BASELINE)


def row_names(figure):
    return [label.get_text().strip() for label in figure.axes[0].get_yticklabels()]


def lines_at(axis, y):
    """Lines between two points at this height, and points."""
    here = [line for line in axis.lines if set(np.asarray(line.get_ydata(), float)) == {float(y)}]
    return [line for line in here if len(line.get_xdata()) == 2], [line for line in here if len(line.get_xdata()) == 1]


def test_every_point_and_interval_of_the_effects_is_that_of_its_variant(figures, tables):
    figure = figures["Effects of the variants"]
    effects = tables.effects[tables.effects["market"] == "all"].set_index(["metric", "variant"])
    names = row_names(figure)
    assert names == [short(name) for name in ordered() if name != BASELINE]
    assert figure.axes[0].get_ylim() == (len(names) - 0.5, -0.5)
    assert [axis.get_title().replace("\n", " ") for axis in figure.axes] == [METRICS[name][0] for name in MAIN]
    seen = set()
    for axis, metric in zip(figure.axes, MAIN, strict=True):
        assert axis.get_xlabel() == ("better →" if METRICS[metric][1] else "← better")
        unknown = {text.get_position()[1] for text in axis.texts if text.get_text().strip() == "n/a"}
        for y, variant in enumerate(name for name in ordered() if name != BASELINE):
            row = effects.loc[(metric, variant)]
            lines, points = lines_at(axis, y)
            assert (y in unknown) == pd.isna(row["difference"])
            if y in unknown:
                assert (lines, points) == ([], [])
                continue
            assert points[0].get_xdata()[0] == row["difference"]
            assert list(lines[0].get_xdata()) == pytest.approx([row["low"], row["high"]], nan_ok=True)
            colour = {"better": BLUE, "worse": ORANGE}.get(row["verdict"])
            seen.add(row["verdict"])
            for line in (*lines, *points):
                assert to_hex(line.get_color()) == (colour or "#666666")
            assert to_hex(points[0].get_markerfacecolor()) == (colour or "#ffffff")
    assert seen == {"better", "worse", "no difference shown", "n/a"}


def by_step(curves, column, variant):
    found = {}
    for row in curves.to_dict("records"):
        if variant in (None, row["variant"]) and np.isfinite(row[column]):
            found.setdefault(row["step"], []).append(row[column])
    return {step: found[step] for step in sorted(found)}


def labelled(axis):
    return {line.get_label().strip(): line for line in axis.lines if not line.get_label().startswith("_")}


def band_of(axis, colour):
    """The lower and upper end of the band in this colour, by place."""
    (band,) = [each for each in axis.collections if to_hex(each.get_facecolor()[0]) == colour]
    ends = {}
    for x, y in band.get_paths()[0].vertices:
        ends.setdefault(x, []).append(y)
    return {x: (min(ys), max(ys)) for x, ys in ends.items()}


def assert_bands(axis, curves, column, variants):
    lines = labelled(axis)
    assert list(lines) == [short(name) for name in variants]
    assert len({line.get_color() for line in lines.values()}) == len(lines)
    for name in variants:
        line, values = lines[short(name)], by_step(curves, column, name)
        assert list(line.get_xdata()) == list(values)
        assert line.get_ydata() == pytest.approx([np.median(v) for v in values.values()])
        band = band_of(axis, to_hex(line.get_color()))
        assert list(band) == pytest.approx(list(values))
        assert list(band.values()) == [pytest.approx(np.quantile(v, [0.25, 0.75])) for v in values.values()]
        assert (to_hex(line.get_color()) == GREY) == (name == BASELINE)


@pytest.mark.parametrize(
    ("title", "column"),
    [("Value loss", "value_loss"), ("Explained variance", "explained_variance"), ("Reward", "reward")],
)
def test_every_curve_and_band_is_that_of_its_variant(figures, tables, title, column):
    (axis,) = figures[title].axes
    assert_bands(axis, tables.curves, column, ordered())
    legend = figures[title].legends[0]
    colours = {
        text.get_text().strip(): line.get_color()
        for text, line in zip(legend.get_texts(), legend.get_lines(), strict=True)
    }
    assert colours == {name: line.get_color() for name, line in labelled(axis).items()}


def test_a_variant_has_the_same_colour_in_every_picture(figures):
    seen = {}
    for title in ("Value loss", "Explained variance", "Reward", "Weight and variance over training", "Equity on sp500"):
        for name, line in labelled(figures[title].axes[0]).items():
            seen.setdefault(name, set()).add(to_hex(line.get_color()))
    assert {len(colours) for colours in seen.values()} == {1}
    axis = figures["Value error on test days"].axes[0]
    for y, name in enumerate(row_names(figures["Value error on test days"])):
        (bar,) = [bar for bar in axis.patches if bar.get_y() < y < bar.get_y() + bar.get_height()]
        assert {to_hex(bar.get_facecolor())} == seen[name]


@pytest.mark.parametrize(
    ("title", "metric"), [("Value error on test days", "value_error"), ("Sharpe ratio on test days", "sharpe")]
)
def test_every_bar_is_that_of_its_variant_and_regime(figures, tables, title, metric):
    figure, used = figures[title], tables.cells[tables.cells["status"] == "ok"].to_dict("records")
    assert row_names(figure) == [short(name) for name in ordered()]
    assert [axis.get_title() for axis in figure.axes] == list(REGIMES)
    for axis, regime in zip(figure.axes, REGIMES, strict=True):
        for y, variant in enumerate(ordered()):
            values = [row[f"test_{metric}_{regime}"] for row in used if row["variant"] == variant]
            values = [value for value in values if np.isfinite(value)]
            bars = [bar for bar in axis.patches if bar.get_y() < y < bar.get_y() + bar.get_height()]
            lines, _ = lines_at(axis, y)
            texts = [text for text in axis.texts if text.get_position()[1] == y]
            if not values:
                assert (bars, lines, len(texts)) == ([], [], 1)
                assert (variant, metric, regime) == ("dsac_t", "sharpe", "crash")
                continue
            assert (bars[0].get_width(), len(bars), texts) == (pytest.approx(np.median(values)), 1, [])
            assert list(lines[0].get_xdata()) == pytest.approx(np.quantile(values, [0.25, 0.75]))
        held = [line.get_xdata()[0] for line in axis.lines if list(line.get_ydata()) == [0, 1]]
        expected = [np.median([row[f"hold_sharpe_{regime}"] for row in used])] if metric == "sharpe" else []
        assert held == pytest.approx(expected)


def test_weights_stand_over_the_variance_and_the_index(figures, tables):
    weight, variance, index = figures["Weight and variance over training"].axes
    weighted = [name for name in ordered() if name != BASELINE]
    assert_bands(weight, tables.curves, "weight", weighted)
    colours = {to_hex(line.get_color()): name for name, line in labelled(weight).items()}
    assert variance.get_ylabel() == "variance of\nquantiles"
    assert len(variance.lines) == len(weighted)
    for line in variance.lines:
        (name,) = [name for name in weighted if short(name) == colours[to_hex(line.get_color())]]
        values = by_step(tables.curves, "quantile_variance", name)
        assert line.get_ydata() == pytest.approx([np.median(v) for v in values.values()])
    values = by_step(tables.curves, "volatility_index", None)
    assert index.get_ylabel() == "volatility\nindex"
    assert index.lines[0].get_ydata() == pytest.approx([np.median(v) for v in values.values()])
    assert list(index.lines[0].get_xdata()) == list(values)


def growth(daily, market, column, variant=None):
    """Of 1, by day: the mean over the seeds is compounded, a day without returns leaves it as it is."""
    days = {}
    for row in daily.to_dict("records"):
        if row["market"] == market:
            returns = days.setdefault(row["date"], [])
            if variant in (None, row["variant"]):
                returns.append(row[column])
    equity, found = 1.0, {}
    for date in sorted(days):
        equity *= 1 + (np.mean(days[date]) if days[date] else 0.0)
        found[date] = equity
    return found


RULES = {"buy-and-hold": "hold", "fitted rule": "fitted", "informed rule": "informed"}


def assert_equity(axis, daily, market, variants, every=1):
    lines = labelled(axis)
    rules = {name: column for name, column in RULES.items() if daily[daily["market"] == market][column].notna().any()}
    assert list(lines) == [*rules, *(short(name) for name in variants)]
    assert len({(line.get_color(), line.get_linestyle()) for line in lines.values()}) == len(lines)
    for name in (*rules, *variants):
        line = lines[name if name in rules else short(name)]
        expected = growth(daily, market, rules.get(name, "return"), None if name in rules else name)
        assert line.get_ydata() == pytest.approx(list(expected.values())[::every])
        dates = [date2num(date) for date in line.get_xdata()]
        assert dates == [date2num(date) for date in expected][::every]


@pytest.mark.parametrize("market", MARKETS)
def test_every_equity_is_that_of_its_market_and_variant(figures, tables, market):
    equity, index = figures[f"Equity on {market}"].axes
    assert_equity(equity, tables.daily, market, ordered())
    daily = tables.daily[tables.daily["market"] == market].to_dict("records")
    by_day = {row["date"]: row["index"] for row in daily}
    assert index.get_ylabel() == "volatility\nindex"
    assert index.lines[0].get_ydata() == pytest.approx([by_day[date] for date in sorted(by_day)])


def test_many_variants_have_a_panel_each_beside_the_baseline(tmp_path):
    rng, empty = np.random.default_rng(1), pd.DataFrame()
    names = ("v0", "v1", "v2", BASELINE, "v3", "v4", "v5")
    cells = make_cells(rng, names)
    cells = cells[(cells["market"] == "sp500") & (cells["seed"] == 5)]
    keys = cells[["market", "fold", "variant", "seed"]]
    daily = make_daily(rng, keys, 150)
    daily["return"] = rng.normal(0, 0.02, len(daily))
    curves = keys.merge(pd.DataFrame({"step": 10.0 * np.arange(1, 451)}), how="cross")
    curves["reward"] = rng.normal(0, 1, len(curves))
    figures = drawn_report(
        tmp_path / "report.html", Tables(keys.assign(status="failed"), curves, daily, empty, empty, empty)
    )
    others = [name for name in names if name != BASELINE]
    equity, reward = figures["Equity on sp500"].axes[:6], figures["Reward"].axes[:6]
    assert [axis.get_title().strip() for axis in equity] == others == [axis.get_title().strip() for axis in reward]
    curves["step"] = np.ceil(curves["step"] / 22.5) * 22.5  # 200 points up to step 4,500
    for name, days, steps in zip(others, equity, reward, strict=True):
        assert_equity(days, daily, "sp500", [BASELINE, name], every=2)  # at most 200 of 300 days
        assert_bands(steps, curves, "reward", [BASELINE, name])
