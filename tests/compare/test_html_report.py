"""The HTML report: what a stranger reads, that nothing is fetched, and that no odd table breaks it."""

import re
import time
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from comparisons import BASELINE, MARKETS, REPORTED, report_tables
from comparisons import METRICS as REPORTED_METRICS

from market_regimes.compare.html_report import MAIN, _number, write_report
from market_regimes.compare.tables import Tables
from market_regimes.market.regimes import DEFAULT_REGIMES

pytestmark = pytest.mark.usefixtures("pictures")

METRICS = {
    "value_loss_spread": ("value-loss spread", False),
    "test_sharpe": ("Sharpe ratio, test", True),
    "test_mean_reward": ("mean reward, test", True),
}
VERDICTS = ("better", "worse", "no difference shown", "n/a")
NASTY = "<script>alert('$x$')</script> --> & \"q\""


def cells_of(rng, variants, markets, folds, seeds):
    keys = [
        dict(market=market, fold=fold, variant=variant, seed=seed)
        for market in markets
        for fold in folds
        for variant in variants
        for seed in range(seeds)
    ]
    cells = pd.DataFrame(keys).assign(status="ok", error=None, seconds=1.0)
    for metric in METRICS:
        cells[metric] = rng.normal(1, 0.3, len(cells))
    for regime in DEFAULT_REGIMES.names:
        cells[f"test_value_error_{regime}"] = rng.uniform(0.8, 1.2, len(cells))
        cells[f"test_sharpe_{regime}"] = rng.normal(0.5, 0.5, len(cells))
        cells[f"hold_sharpe_{regime}"] = 0.6
    return cells


def each_cell(cells, length):
    """The keys of every cell, repeated, and the place of each row in its cell."""
    keys = cells[["market", "fold", "variant", "seed"]]
    rows = keys.loc[keys.index.repeat(length)].reset_index(drop=True)
    return rows, np.tile(np.arange(length), len(keys))


def curves_of(rng, cells, rollouts):
    rows, i = each_cell(cells, rollouts)
    decay = 0.3 + np.exp(-5 * i / rollouts)
    weight = np.where(rows["variant"] == "baseline", np.nan, 1 + decay * rng.uniform(0.5, 1.5, len(rows)))
    return rows.assign(
        step=2048.0 * (i + 1),
        value_loss=decay * rng.uniform(0.8, 1.2, len(rows)),
        explained_variance=1 - decay * rng.uniform(0.8, 4, len(rows)),
        reward=rng.normal(0, 0.1, len(rows)),
        weight=weight,
        quantile_variance=decay,
        volatility_index=20 + 5 * np.sin(i),
    )


def daily_of(rng, cells, days):
    rows, i = each_cell(cells, days)
    first = {
        fold: pd.Timestamp("2005-01-03") + pd.Timedelta(days=2 * days * n) for n, fold in enumerate(set(rows["fold"]))
    }
    returns = rng.normal(0.0003, 0.01, len(rows))
    return rows.assign(
        date=rows["fold"].map(first) + pd.to_timedelta(i, unit="D"),
        position=1.0,
        index=20 + 8 * np.sin(i / 40),
        hold=0.01 * np.sin(i),
        **{"return": returns},
    )


def effects_of(rng, variants, markets):
    rows = []
    for market in ["all", *markets]:
        for j, (metric, (label, higher)) in enumerate(METRICS.items()):
            for i, variant in enumerate(variants[1:]):
                verdict = VERDICTS[(i + j) % 4]
                sign = {"better": 1, "worse": -1}.get(verdict, 0) * (1 if higher else -1)
                difference = 0.2 * sign + 0.02 * rng.normal()
                row = dict(market=market, variant=variant, metric=metric, label=label, higher_is_better=higher, pairs=6)
                row |= dict(difference=difference, low=difference - 0.1, high=difference + 0.1, verdict=verdict)
                rows.append(row | (dict(low=None, high=None) if verdict == "n/a" else {}))
    return pd.DataFrame(rows)


def make_tables(n_variants=3, markets=("sp500",), folds=("2007 to 2010",), seeds=2, rollouts=12, days=60):
    rng = np.random.default_rng(0)
    variants = ["baseline", "batch", "dsac_t", *(f"other_{i}" for i in range(20))][:n_variants]
    cells = cells_of(rng, variants, markets, folds, seeds)
    reached = ("reached", "not reached", "cannot tell", "n/a")
    hopes = [
        dict(
            hope=f"Hope {i}",
            variant="batch",
            hoped="-5 to -31 %",
            measured="1 became 0.9: -10 % [-20, -1]",
            seeds_needed=7,
        )
        | dict(verdict=VERDICTS[i], reached=reached[i])
        for i in range(4)
    ]
    sharpe = [
        dict(market=market, variant=name, sharpe_seeds_together=0.5, hold=0.6)
        | dict(difference=0.1, low=-0.2, high=0.4, deflated=0.3)
        for market in markets
        for name in variants
    ]
    return Tables(
        cells,
        curves_of(rng, cells, rollouts),
        daily_of(rng, cells, days),
        effects_of(rng, variants, markets),
        pd.DataFrame(hopes),
        pd.DataFrame(sharpe),
    )


class Page(HTMLParser):
    """Start tags with their attributes, ids and text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids, self.texts = [], [], []
        self.feed(text)
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.ids += [value for name, value in attributes if name == "id"]

    def handle_data(self, data):
        self.texts.append(data)


def write(tmp_path, tables, title="A comparison", baseline="baseline", config="run: {}"):
    path = tmp_path / "report.html"
    write_report(path, tables, title, baseline, config, {"torch": "2.13"})
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write(tmp_path_factory.mktemp("report"), make_tables())


@pytest.fixture(scope="module")
def page(path):
    return Page(path.read_text())


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A report of many variants with long names, and the seconds it took."""
    tables = make_tables(7, seeds=1, rollouts=250, days=450)
    tables.cells.loc[0, ["status", "error"]] = ["failed", "x" * 300]
    start = time.perf_counter()
    path = write(tmp_path_factory.mktemp("large"), tables, "title" * 30, config="y" * 300)
    return path, time.perf_counter() - start


def test_a_stranger_finds_the_verdicts_and_what_they_mean(page):
    for words in ("reached", "not reached", "cannot tell", *VERDICTS, "Hope 3", "-5 to -31 %", "Seeds needed: 7"):
        assert words in page.text
    assert "3 variants of a trading agent (baseline, batch, dsac_t) were trained with 2 seeds on 1 fold" in page.text
    assert "Of 6 cells 6 ran, 0 failed" in page.text
    for term in ("Paired difference", "Interquartile mean", "95 % interval"):
        assert term in page.text


def test_the_page_is_whole_in_itself(page):
    for tag, attributes in page.tags:
        assert tag not in ("script", "img", "iframe", "object", "embed")
        for name in ("src", "href", "xlink:href"):
            assert attributes.get(name, "#").startswith(("#", "data:,"))
        assert not re.search(r"url\((?!#)|@import", attributes.get("style") or "")
    text = " ".join(page.texts)
    assert not re.search(r"url\((?!#)|@import", text)
    assert [tag for tag, _ in page.tags].count("h1") == 1


def test_pictures_are_named_and_their_ids_are_their_own(page):
    pictures = [attributes["aria-label"] for tag, attributes in page.tags if attributes.get("role") == "img"]
    assert pictures == [
        "Effects of the variants",
        "Value loss",
        "Explained variance",
        "Reward",
        "Value error on test days",
        "Sharpe ratio on test days",
        "Weight and variance over training",
        "Equity on sp500",
    ]
    assert [tag for tag, _ in page.tags].count("svg") == len(pictures)
    assert len(set(page.ids)) == len(page.ids)


def test_references_inside_the_pictures_have_their_target(page):
    targets = [
        a[name][1:] for tag, a in page.tags for name in ("href", "xlink:href") if a.get(name, "").startswith("#")
    ]
    clips = [a["clip-path"][5:-1] for tag, a in page.tags if "clip-path" in a]
    assert targets
    assert clips
    assert {*targets, *clips} <= set(page.ids)


def test_the_same_tables_give_the_same_bytes(tmp_path, path):
    assert write(tmp_path, make_tables()).read_bytes() == path.read_bytes()
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_names_are_escaped(tmp_path):
    tables = make_tables()
    for frame in (tables.cells, tables.curves, tables.daily, tables.effects, tables.sharpe):
        frame["variant"] = frame["variant"].replace({"batch": NASTY, "dsac_t": "_$^{"})
    for frame in (tables.cells, tables.curves, tables.daily):
        frame["market"] = NASTY
    tables.hopes["hope"] = NASTY
    tables.cells.loc[0, ["status", "error"]] = ["failed", NASTY]
    text = write(tmp_path, tables, NASTY, "baseline", NASTY).read_text()
    assert "<script" not in text
    page = Page(text)
    assert page.text.count(NASTY) >= 8
    assert " _$^{" in page.text
    assert len(set(page.ids)) == len(page.ids)


def one_variant_and_seed(tables):
    tables.cells, tables.curves, tables.daily = (
        frame[(frame["variant"] == "baseline") & (frame["seed"] == 0)]
        for frame in (tables.cells, tables.curves, tables.daily)
    )
    tables.effects = tables.hopes = tables.sharpe = pd.DataFrame()


def no_effects(tables):
    tables.effects = tables.hopes = tables.sharpe = pd.DataFrame()


def all_failed(tables):
    keys = ["market", "fold", "variant", "seed"]
    tables.cells = tables.cells[keys].assign(status="failed", error="ValueError: no", seconds=None)
    tables.curves, tables.daily = pd.DataFrame(), pd.DataFrame(columns=["date"])
    no_effects(tables)


def no_fold_is_usable(tables):
    all_failed(tables)
    tables.cells = tables.cells.drop(columns=["seed", "seconds"]).assign(status="n/a")


def missing_columns(tables):
    tables.cells = tables.cells[["market", "fold", "variant", "seed", "status"]]
    tables.curves = tables.curves[["market", "variant", "step", "reward"]]
    tables.daily = tables.daily[["market", "variant", "date", "return"]]


def nothing_defined(tables):
    for frame in (tables.cells, tables.curves, tables.daily, tables.effects, tables.sharpe):
        for column in frame.select_dtypes("float"):
            frame[column] = None
    tables.effects["verdict"] = "n/a"
    tables.hopes = tables.hopes.assign(verdict="n/a", reached="n/a", seeds_needed=None)


def no_baseline(tables):
    for name in ("cells", "curves", "daily"):
        frame = getattr(tables, name)
        setattr(tables, name, frame[frame["variant"] != "baseline"])
    no_effects(tables)


def no_crash_and_names_of_columns(tables):
    tables.cells["test_sharpe_crash"] = tables.cells["test_value_error_crash"] = np.nan
    names = {"batch": "hold", "dsac_t": "index"}
    for frame in (tables.cells, tables.curves, tables.daily, tables.effects, tables.sharpe):
        frame["variant"] = frame["variant"].replace(names)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (one_variant_and_seed, "with 1 seed on|no variant has a cell to compare"),
        (all_failed, "6 failed"),
        (no_fold_is_usable, "6 are n/a"),
        (missing_columns, "n/a: no cell has such figures"),
        (nothing_defined, "Seeds needed: cannot be told, since fewer than 5 seeds have a value"),
        (no_baseline, "2 variants of"),
        (no_crash_and_names_of_columns, "n/a n/a n/a crash"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_odd_tables_give_a_report(tmp_path, spoil, words):
    tables = make_tables()
    spoil(tables)
    page = Page(write(tmp_path, tables).read_text())
    assert all(word in page.text for word in words.split("|"))
    assert not re.search(r"\bnan\b|\bNone\b", page.text)


def test_many_variants_are_small_multiples_and_long_lines_are_thinned(large):
    path, seconds = large
    assert seconds < 20
    assert path.stat().st_size < 1_500_000
    assert Page(path.read_text()).text.count("other_3") > 9


def test_a_phone_shows_it_without_scrolling_sideways(large, browser):
    path, _ = large
    phone = dict(width=390, height=844, deviceScaleFactor=2, mobile=True)
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    browser.get(path.as_uri())
    browser.execute_script("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    assert [card.text for card in browser.find_elements("css selector", ".card h3")] == [f"Hope {i}" for i in range(4)]
    chips = [chip.text for chip in browser.find_elements("css selector", ".card .chip")]
    assert chips[:4] == ["reached", "better", "not reached", "worse"]
    width, inner = browser.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
    assert inner == 390
    assert width <= inner
    widths = browser.execute_script("return [...document.querySelectorAll('figure svg')].map(s => s.clientWidth)")
    assert len(widths) == 8
    assert all(300 < width <= 390 for width in widths)
    assert browser.get_log("browser") == []


def test_a_wide_screen_shows_tables_of_six_metrics_whole_and_pictures_side_by_side(path, browser):
    wide = dict(width=1280, height=900, deviceScaleFactor=1, mobile=False)
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", wide)
    browser.get(path.as_uri())
    of_table = "const t = document.querySelector('.scroll'); return [t.scrollWidth, t.clientWidth]"
    inside, shown = browser.execute_script(of_table)
    assert inside <= shown
    tops = browser.execute_script(
        "return [...document.querySelectorAll('.figures figure')].slice(0, 2).map(f => f.getBoundingClientRect().top)"
    )
    assert tops[0] == tops[1]


def test_the_headline_stands_first(tmp_path):
    path = tmp_path / "report.html"
    write_report(path, make_tables(3), "title", "baseline", "", {}, ["No variant <b>pays</b>.", "Second."])
    text = Page(path.read_text()).text
    assert text.index("No variant <b>pays</b>.") < text.index("Second.") < text.index("Verdicts")


# Every number of the tables, against plain loops


class Numbers(HTMLParser):
    """Tables as rows of texts, by the summary or heading before them; cards."""

    def __init__(self, text):
        super().__init__()
        self.heading = ""
        self.tables = []
        self.cards = []
        self.words = ""
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag in ("h2", "summary", "th", "td", "article"):
            self.text = ""
            self.kind = attributes.get("class")
        elif tag == "table":
            self.tables.append((self.heading, []))
        elif tag == "tr":
            self.tables[-1][1].append([])
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
        self.words += data


@pytest.fixture(scope="module")
def numbered_tables():
    return report_tables()


@pytest.fixture(scope="module")
def numbers(tmp_path_factory, numbered_tables):
    """The page of tables whose cells have values of their own, so that nothing can stand in another's place."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, numbered_tables, "title", BASELINE, "", {})
    return Numbers(path.read_text())


def test_the_first_sentences_count(numbers):
    """4 variants on 2 folds of 2 markets with 3 seeds are 48 cells."""
    said = " ".join(numbers.words.split())
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
def test_every_effect_is_in_the_row_of_its_variant_and_the_column_of_its_metric(numbers, numbered_tables, market):
    heading = {"main": "Effects", "all": "All markets: all 7 metrics"}.get(market, f"{market}: all 7 metrics")
    (rows,) = [rows for name, rows in numbers.tables if name == heading]
    effects = numbered_tables.effects[numbered_tables.effects["market"] == ("all" if market == "main" else market)]
    effects = {(row["variant"], row["metric"]): row for row in effects.to_dict("records")}
    metrics = [name for name in REPORTED_METRICS if market != "main" or name in MAIN]
    head = [
        f"{REPORTED_METRICS[name][0]} {'higher' if REPORTED_METRICS[name][1] else 'lower'} is better"
        for name in metrics
    ]
    assert rows[0] == ["variant", *head]
    assert sorted(row[0] for row in rows[1:]) == sorted(set(REPORTED) - {BASELINE})
    for name, *texts in rows[1:]:
        for metric, text in zip(metrics, texts, strict=True):
            row = effects.get((name, metric))
            assert text == (f"{with_interval(row)} {row['verdict']}" if row else "n/a")


TOO_FEW = "cannot be told, since fewer than 5 seeds have a value"


def test_cards_are_of_their_hypothesis(numbers, numbered_tables):
    kinds = {"reached": "card good", "not reached": "card bad"}
    assert len(numbers.cards) == len(numbered_tables.hopes)
    for (_, words), row, needed in zip(
        numbers.cards, numbered_tables.hopes.to_dict("records"), ("7", "over 1,000", "n/a", TOO_FEW), strict=True
    ):
        assert words == (
            f"{row['hope']} {row['variant']}, compared with {row['against']}: {row['metric']} Hoped: {row['hoped']} "
            f"Measured: {row['measured']} Hope: {row['reached']} Effect: {row['verdict']} Seeds needed: {needed}"
        )
    assert [kind for kind, _ in numbers.cards] == [
        kinds.get(name, "card open") for name in numbered_tables.hopes["reached"]
    ]


def plain(value):
    return "n/a" if pd.isna(value) else f"{value:.3g}"


RULES = ("buy-and-hold", "fitted rule", "informed rule")


def test_every_sharpe_ratio_is_in_its_row(numbers, numbered_tables):
    (rows,) = [rows for _, rows in numbers.tables if rows[0][0] == "market" and "probability" in rows[0]]
    together = "Sharpe ratio of the seeds together"
    columns = ["minus buy-and-hold", "attained", "difference", "probability"]
    columns += ["growth a year, %", "growth of buy-and-hold, %", "growth attained"]
    assert rows[0] == ["market", "variant", together, *RULES, *columns]
    for texts, row in zip(rows[1:], numbered_tables.sharpe.to_dict("records"), strict=True):
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
            plain(100 * row["growth_seeds_together"]),
            plain(100 * row["hold_growth"]),
            plain(row["attained_growth_seeds_together"]),
        ]


def test_a_table_without_growth_says_so(tmp_path, numbered_tables):
    growths = [name for name in numbered_tables.sharpe if "growth" in name]
    tables = replace(numbered_tables, sharpe=numbered_tables.sharpe.drop(columns=growths))

    write_report(tmp_path / "report.html", tables, "title", BASELINE, "", {})

    (rows,) = [
        rows for _, rows in Numbers((tmp_path / "report.html").read_text()).tables if "growth attained" in rows[0]
    ]
    assert all(row[-3:] == ["n/a", "n/a", "n/a"] for row in rows[1:])


def test_cells_without_figures_are_listed_with_the_reason(numbers, numbered_tables):
    (rows,) = [rows for name, rows in numbers.tables if name == "Cells without figures"]
    one, two, three = numbered_tables.cells.loc[[0, 7, 9]].to_dict("records")
    assert rows[1:] == [
        [one["market"], one["fold"], one["variant"], str(one["seed"]), "failed", "ValueError: one"],
        [two["market"], two["fold"], two["variant"], str(two["seed"]), "missing", ""],
        [three["market"], three["fold"], three["variant"], str(three["seed"]), "failed", "ValueError: two"],
    ]


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


@pytest.mark.parametrize("count", [2, 3, 5])
def test_a_report_has_a_panel_for_each_regime_however_many_there_are(tmp_path, count):
    names = ("quiet", "mild", "normal", "rough", "panic")[:count]
    path = tmp_path / "report.html"
    write_report(path, replace(make_tables(3), regimes=names), "title", "baseline", "", {})

    text = path.read_text("utf-8")
    assert f"whether a day is {', '.join(names[:-1])} or {names[-1]}." in text
    for name in names:
        assert f">{name}<" in text or f"<!-- {name} -->" in text
    assert "volatile" not in text.split("whether a day is")[1].split("</p>")[0]


def test_the_report_of_the_default_regimes_keeps_its_sentence(tmp_path):
    path = tmp_path / "report.html"
    write_report(path, make_tables(3), "title", "baseline", "", {})
    assert "<p>The volatility index says whether a day is calm, normal, volatile or a crash.</p>" in path.read_text(
        "utf-8"
    )
