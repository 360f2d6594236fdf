"""
Every number, interval, bar and band of the HTML report, read from the page and from the figures in it, against plain
loops over the tables: each cell has values of its own, so nothing can stand in another's place.
"""

import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.dates import date2num
from matplotlib.figure import Figure

from market_regimes.compare.html_report import MAIN, Tables, _number, write_report
from market_regimes.market.regimes import REGIMES

pytestmark = pytest.mark.usefixtures("pictures")

BASELINE = "control"
VARIANTS = ("batch", BASELINE, "a long name of a variant", "dsac_t")
METRICS = {name: (f"{name.replace('_', ' ')}, in words", i % 2 == 1) for i, name in enumerate([*MAIN, "another"])}
MARKETS, FOLDS, SEEDS = ("sp500", "nasdaq"), ("early", "late"), (5, 3, 4)
GREY = "#8c8c8c"  # 0.55 of 255 is 140
BLUE, ORANGE = "#0072b2", "#d55e00"


def shuffled(rng, frame):
    return frame.iloc[rng.permutation(len(frame))].reset_index(drop=True)


def make_cells(rng, variants):
    keys = [(m, f, v, s) for s in SEEDS for m in MARKETS for f in FOLDS for v in variants]
    cells = pd.DataFrame(keys, columns=["market", "fold", "variant", "seed"]).assign(status="ok", error=None)
    for name in [
        f"{prefix}_{regime}" for prefix in ("test_value_error", "test_sharpe", "hold_sharpe") for regime in REGIMES
    ]:
        cells[name] = rng.normal(0, 1, len(cells)) + cells["variant"].map({v: i for i, v in enumerate(variants)})
    cells.loc[cells["variant"] == "dsac_t", "test_sharpe_crash"] = np.nan
    cells.loc[[0, 7, 9], ["status", "error"]] = [
        ["failed", "ValueError: one"],
        ["missing", None],
        ["failed", "ValueError: two"],
    ]
    cells.loc[[0, 7, 9], "test_sharpe_calm"] = 1e3
    return cells


def make_curves(rng, cells, rollouts):
    curves = cells[["market", "fold", "variant", "seed"]].merge(
        pd.DataFrame({"step": 2048.0 * np.arange(1, rollouts + 1)}), how="cross"
    )
    for i, name in enumerate(
        ("value_loss", "explained_variance", "reward", "weight", "quantile_variance", "volatility_index")
    ):
        shift = curves["variant"].map({v: 3 * j for j, v in enumerate(VARIANTS)}).fillna(0)
        curves[name] = i + (shift if i != 1 else 0) + rng.uniform(0, 0.5, len(curves))
    curves.loc[curves["variant"] == BASELINE, "weight"] = np.nan
    curves.loc[(curves["variant"] == "batch") & (curves["seed"] == 5), "reward"] = np.nan
    return shuffled(rng, curves)


def make_daily(rng, cells, days):
    rows = []
    for cell in cells.to_dict("records"):
        first = "2005-01-03" if cell["fold"] == "early" else "2006-01-02"
        keys = {name: cell[name] for name in ("market", "fold", "variant", "seed")}
        rows.append(pd.DataFrame({"date": pd.date_range(first, periods=days), **keys}))
    daily = pd.concat(rows, ignore_index=True)
    daily["return"] = rng.normal(0.001, 0.02, len(daily)) + daily["variant"].map(
        {v: 0.003 * i for i, v in enumerate(VARIANTS)}
    )
    places = daily["market"] + daily["date"].astype(str)
    for rule in ("hold", "fitted", "informed"):
        daily[rule] = places.map({place: rng.normal(0.001, 0.02) for place in sorted(places.unique())})
    daily.loc[daily["market"] == "nasdaq", "informed"] = np.nan  # nobody knows its law
    daily["index"] = places.map({place: rng.uniform(10, 40) for place in sorted(places.unique())})
    return shuffled(rng, daily[~((daily["variant"] == "dsac_t") & (daily["fold"] == "late"))])


def make_effects(rng, variants):
    rows = []
    for market in ("all", *MARKETS):
        for metric, (label, higher) in METRICS.items():
            for variant in reversed(variants):
                if variant == BASELINE or (variant, metric) == ("batch", "another"):
                    continue
                if (market, variant, metric) == ("nasdaq", "dsac_t", "another"):
                    continue
                middle, width = rng.normal(0, 1), rng.uniform(0.05, 0.8)
                scale = {"test_mean_reward": 1e4, "explained_variance": 30.0, "another": 300.0}.get(metric, 1.0)
                middle, width = scale * middle, scale * width
                low, high = middle - width, middle + 2 * width
                verdict = "no difference shown" if low <= 0 <= high else "better" if (low > 0) == higher else "worse"
                if (variant, metric) == ("dsac_t", "explained_variance"):
                    middle, low, high, verdict = np.nan, np.nan, np.nan, "n/a"
                if (variant, metric) == ("batch", "test_sharpe"):
                    low, high, verdict = np.nan, np.nan, "n/a"
                row = dict(market=market, variant=variant, metric=metric, label=label, higher_is_better=higher, pairs=6)
                rows.append(row | dict(difference=middle, low=low, high=high, verdict=verdict))
    return pd.DataFrame(rows)


TOO_FEW = "cannot be told, since fewer than 5 seeds have a value"
SHARPES = ("sharpe_seeds_together", "hold", "fitted", "informed", "lead_over_hold", "lead_low", "lead_high")
SHARPES += ("attained_seeds_together", "difference", "low", "high", "deflated")


def make_tables():
    rng = np.random.default_rng(0)
    cells = make_cells(rng, VARIANTS)
    verdicts = ["better", "worse", "no difference shown", "n/a"]
    hopes = [
        dict(hope=f"Hope {i}", variant=f"variant {i}", against=f"against {i}", metric=f"metric {i}", hoped=f"hoped {i}")
        | dict(measured=f"measured {i}", verdict=verdicts[i], reached=reached, seeds_needed=needed)
        for i, (reached, needed) in enumerate(
            [("not reached", 7.0), ("reached", 12345.0), ("n/a", np.nan), ("cannot tell", np.nan)]
        )
    ]
    sharpe = [
        dict(market=market, variant=variant) | {name: rng.normal() for name in SHARPES}
        for market in MARKETS
        for variant in VARIANTS
    ]
    sharpe[2] |= dict(low=np.nan, high=np.nan)
    sharpe[4] |= dict(sharpe_seeds_together=np.nan, difference=np.nan, low=np.nan, high=np.nan, deflated=None)
    return Tables(
        cells,
        make_curves(rng, cells, 5),
        make_daily(rng, cells, 20),
        make_effects(rng, VARIANTS),
        pd.DataFrame(hopes),
        pd.DataFrame(sharpe),
    )


class Page(HTMLParser):
    """Tables as rows of texts, by the summary or heading before them; cards; pictures as lists of their paths."""

    def __init__(self, text):
        super().__init__()
        self.heading, self.tables, self.cards, self.pictures, self.said = "", [], [], {}, ""
        self.into, self.text, self.picture = None, "", None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag in ("h2", "summary", "th", "td", "article"):
            self.text, self.into = "", tag
            self.kind = attributes.get("class")
        elif tag == "table":
            self.tables.append((self.heading, []))
        elif tag == "tr":
            self.tables[-1][1].append([])
        elif attributes.get("role") == "img":
            self.picture = self.pictures.setdefault(attributes["aria-label"], [])
        elif tag == "path" and self.picture is not None and "d" in attributes:
            self.picture.append(attributes["d"])
        else:
            self.text += " "

    def handle_endtag(self, tag):
        words = " ".join(self.text.split())
        if tag in ("h2", "summary"):
            self.heading = words
        elif tag in ("th", "td"):
            self.tables[-1][1][-1].append(words)
        elif tag == "article":
            self.cards.append((self.kind, words))
        else:
            self.text += " "

    def handle_data(self, data):
        self.text += data
        self.said += data


def drawn_report(path, tables):
    """The page, and by the name of each picture the figure it was drawn from."""
    figures, savefig = [], Figure.savefig

    def keep(figure, file, **options):
        savefig(figure, file, **options)
        figures.append((re.findall(r'<path[^>]*? d="([^"]+)"', file.getvalue()), figure))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", keep)
        write_report(path, tables, "title", BASELINE, "", {})
    page = Page(path.read_text())
    assert len(figures) == len(page.pictures)
    found = {}
    for name, paths in page.pictures.items():
        tidy = [" ".join(each.split()) for each in paths]
        (found[name],) = [figure for own, figure in figures if [" ".join(each.split()) for each in own] == tidy]
    return page, found


@pytest.fixture(scope="module")
def tables():
    return make_tables()


@pytest.fixture(scope="module")
def report(tmp_path_factory, tables):
    return drawn_report(tmp_path_factory.mktemp("report") / "report.html", tables)


@pytest.fixture(scope="module")
def page(report):
    return report[0]


@pytest.fixture(scope="module")
def figures(report):
    return report[1]


def test_the_first_sentences_count(page):
    """4 variants on 2 folds of 2 markets with 3 seeds are 48 cells."""
    said = " ".join(page.said.split())
    assert "4 variants of a trading agent (batch, control, a long name of a variant, dsac_t) were trained with" in said
    assert "were trained with 3 seeds on 2 folds of 2 markets (sp500, nasdaq)." in said
    assert "Each variant is compared with the baseline, control." in said
    assert "Of 48 cells 45 ran, 2 failed, 1 are missing and 0 are n/a" in said


def signed(value):
    return "n/a" if pd.isna(value) else f"{value:+.3g}" if abs(value) < 1000 else f"{value:+,.0f}"


def with_interval(row):
    ends = "" if pd.isna(row["low"]) else f" [{signed(row['low'])}, {signed(row['high'])}]"
    return signed(row["difference"]) + ends


@pytest.mark.parametrize("market", ["main", "all", *MARKETS])
def test_every_effect_is_in_the_row_of_its_variant_and_the_column_of_its_metric(page, tables, market):
    heading = {"main": "Effects", "all": "All markets: all 7 metrics"}.get(market, f"{market}: all 7 metrics")
    (rows,) = [rows for name, rows in page.tables if name == heading]
    effects = tables.effects[tables.effects["market"] == ("all" if market == "main" else market)]
    effects = {(row["variant"], row["metric"]): row for row in effects.to_dict("records")}
    metrics = [name for name in METRICS if market != "main" or name in MAIN]
    head = [f"{METRICS[name][0]} {'higher' if METRICS[name][1] else 'lower'} is better" for name in metrics]
    assert rows[0] == ["variant", *head]
    assert sorted(row[0] for row in rows[1:]) == sorted(set(VARIANTS) - {BASELINE})
    for name, *texts in rows[1:]:
        for metric, text in zip(metrics, texts, strict=True):
            row = effects.get((name, metric))
            assert text == (f"{with_interval(row)} {row['verdict']}" if row else "n/a")


def test_cards_are_of_their_hypothesis(page, tables):
    kinds = {"reached": "card good", "not reached": "card bad"}
    assert len(page.cards) == len(tables.hopes)
    for (_, words), row, needed in zip(
        page.cards, tables.hopes.to_dict("records"), ("7", "over 1,000", "n/a", TOO_FEW), strict=True
    ):
        assert words == (
            f"{row['hope']} {row['variant']}, compared with {row['against']}: {row['metric']} Hoped: {row['hoped']} "
            f"Measured: {row['measured']} Hope: {row['reached']} Effect: {row['verdict']} Seeds needed: {needed}"
        )
    assert [kind for kind, _ in page.cards] == [kinds.get(name, "card open") for name in tables.hopes["reached"]]


def plain(value):
    return "n/a" if pd.isna(value) else f"{value:.3g}"


def test_every_sharpe_ratio_is_in_its_row(page, tables):
    (rows,) = [rows for _, rows in page.tables if rows[0][0] == "market" and "probability" in rows[0]]
    together = "Sharpe ratio of the seeds together"
    columns = ["minus buy-and-hold", "attained", "difference", "probability"]
    assert rows[0] == ["market", "variant", together, *RULES, *columns]
    for texts, row in zip(rows[1:], tables.sharpe.to_dict("records"), strict=True):
        difference = "n/a" if row["variant"] == BASELINE else with_interval(row)
        assert texts == [
            row["market"],
            row["variant"],
            plain(row["sharpe_seeds_together"]),
            *(plain(row[name]) for name in ("hold", "fitted", "informed")),
            with_interval(dict(difference=row["lead_over_hold"], low=row["lead_low"], high=row["lead_high"])),
            plain(row["attained_seeds_together"]),
            difference,
            plain(row["deflated"]),
        ]


def test_cells_without_figures_are_listed_with_the_reason(page, tables):
    (rows,) = [rows for name, rows in page.tables if name == "Cells without figures"]
    one, two, three = tables.cells.loc[[0, 7, 9]].to_dict("records")
    assert rows[1:] == [
        [one["market"], one["fold"], one["variant"], str(one["seed"]), "failed", "ValueError: one"],
        [two["market"], two["fold"], two["variant"], str(two["seed"]), "missing", ""],
        [three["market"], three["fold"], three["variant"], str(three["seed"]), "failed", "ValueError: two"],
    ]


# Pictures


def short(name):
    return name if len(name) <= 18 else f"{name[:17]}…"


def ordered(variants=VARIANTS):
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
    _, figures = drawn_report(
        tmp_path / "report.html", Tables(keys.assign(status="failed"), curves, daily, empty, empty, empty)
    )
    others = [name for name in names if name != BASELINE]
    equity, reward = figures["Equity on sp500"].axes[:6], figures["Reward"].axes[:6]
    assert [axis.get_title().strip() for axis in equity] == others == [axis.get_title().strip() for axis in reward]
    curves["step"] = np.ceil(curves["step"] / 22.5) * 22.5  # 200 points up to step 4,500
    for name, days, steps in zip(others, equity, reward, strict=True):
        assert_equity(days, daily, "sp500", [BASELINE, name], every=2)  # at most 200 of 300 days
        assert_bands(steps, curves, "reward", [BASELINE, name])


@pytest.mark.parametrize(
    ("value", "form", "text"),
    [
        (2.8e-05, "+.3g", "+0.000028"),
        (-1.8e-18, "+.3g", "0"),
        (0.27431, ".3g", "0.274"),
        (-12.345, "+.3g", "-12.3"),
        (123.45, ".3g", "123"),
        (12345.6, ".3g", "12,346"),
        (-12345.6, "+.3g", "-12,346"),
        (7.0, ".3g", "7"),
        (0.0, ".3g", "0"),
        (3.0, ".0f", "3"),
        (10597.4, ",.0f", "10,597"),
        (float("nan"), ".3g", "n/a"),
        (float("inf"), ".3g", "n/a"),
        (None, ".3g", "n/a"),
    ],
)
def test_numbers_have_three_digits_and_no_exponent(value, form, text):
    assert _number(value, form) == text
