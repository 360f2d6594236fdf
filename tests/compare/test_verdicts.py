"""Tables and hypotheses, row by row against plain loops over made-up cells, each of which has numbers of its own."""

import json
import re
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats

from market_regimes.compare.cell import Cell
from market_regimes.compare.comparison import Comparison
from market_regimes.compare.folds import Fold
from market_regimes.compare.headline import headline
from market_regimes.compare.html_report import Tables
from market_regimes.compare.hypotheses import METRICS, check_hypotheses, left_out
from market_regimes.compare.statistics import deflated_sharpe, effect, sharpe_difference
from market_regimes.compare.verdicts import (
    alike,
    analysed,
    print_by_regime,
    print_verdicts,
    tables_of,
    with_derived,
    write_tables,
)
from market_regimes.config import Hypothesis, MarketConfig, RunConfig

VARIANTS = ("baseline", "batch", "control", "tier1", "recommended")
HIGHER_IS_BETTER = {
    "explained_variance",
    "test_mean_reward",
    "test_sharpe",
    "test_attained",
    "test_sortino",
    "test_max_drawdown",  # at most 0
    "test_explained_variance",
}
KEYS = ("market", "fold", "variant", "seed")
NO_DAYS = pd.DataFrame(columns=["date"])


def made(variants=VARIANTS, markets=("one", "two"), folds=("early", "late"), seeds=5, metrics=tuple(METRICS)):
    """Cells in random order, of random values: each metric, variant, market, fold and seed has a shift of its own."""
    rng = np.random.default_rng(0)
    keys = [(m, f, v, s) for m in markets for f in folds for v in variants for s in range(seeds)]
    cells = pd.DataFrame(keys, columns=list(KEYS)).assign(status="ok", error=None, bars_per_year=252.0)
    parts = {name: dict(zip(cells[name].unique(), rng.normal(0, 0.3, len(cells)), strict=False)) for name in KEYS}
    for metric in metrics:
        shifts = sum(cells[name].map(parts[name]) for name in KEYS)
        better = cells["variant"].map({v: rng.normal(0, 0.5) for v in variants})
        cells[metric] = 2 + shifts + better + rng.normal(0, 0.2, len(cells))
    return cells.iloc[rng.permutation(len(cells))].reset_index(drop=True)


def spoiled(**keys):
    """Cells that failed, undefined figures, and a seed that one variant alone has."""
    cells = made(**keys)
    cells.loc[[3, 14], "status"] = ["failed", "missing"]
    cells.loc[5, cells.columns.intersection(list(METRICS))] = np.nan
    one_more = cells[cells["variant"] == "batch"].iloc[:1].assign(seed=17)
    return pd.concat([cells, one_more], ignore_index=True)


def by_key(cells, metric, market):
    return {
        tuple(row[name] for name in KEYS): row[metric]
        for row in cells.to_dict("records")
        if row["status"] == "ok" and market in ("all", row["market"]) and np.isfinite(row[metric])
    }


def pairs(cells, metric, market, variant, baseline):
    """Values of the variant and of the baseline in the cells of the same market, fold and seed."""
    values = by_key(cells, metric, market)
    keys = [(m, f, s) for m, f, v, s in values if v == variant and (m, f, baseline, s) in values]
    return np.array([[values[m, f, v, s] for m, f, s in keys] for v in (variant, baseline)])


def grids(cells, metric, market, variant, baseline):
    """The same with a row per seed and a column per market and fold."""
    values = by_key(cells, metric, market)
    seeds, places = (sorted({at(key) for key in values}) for at in (lambda k: k[3], lambda k: k[:2]))
    return [
        np.array([[values.get((*place, v, seed), np.nan) for place in places] for seed in seeds])
        for v in (variant, baseline)
    ]


@pytest.fixture(scope="module")
def cells():
    return spoiled(variants=("batch", "baseline", "control"))


@pytest.fixture(scope="module")
def tables(cells):
    return analysed(cells, pd.DataFrame(), NO_DAYS, "baseline")


def test_every_row_of_effects_is_that_of_its_market_variant_and_metric(cells, tables):
    rows = tables.effects.to_dict("records")
    order = list(dict.fromkeys(cells["variant"]))
    order.remove("baseline")
    expected = [(m, v, k) for m in ("all", *dict.fromkeys(cells["market"])) for k in METRICS for v in order]
    assert [(row["market"], row["variant"], row["metric"]) for row in rows] == expected
    for row in rows:
        market, variant, metric = (row[name] for name in ("market", "variant", "metric"))
        higher = metric in HIGHER_IS_BETTER
        ours, theirs = pairs(cells, metric, market, variant, "baseline")
        assert row["pairs"] == len(ours)
        assert row["difference"] == pytest.approx(stats.trim_mean(ours - theirs, 0.25))
        assert row["variant_value"] == pytest.approx(stats.trim_mean(ours, 0.25))
        assert row["baseline"] == pytest.approx(stats.trim_mean(theirs, 0.25))
        assert row["relative"] == pytest.approx(row["difference"] / abs(row["baseline"]))
        found = asdict(effect(*grids(cells, metric, market, variant, "baseline"), higher))
        for name in ("low", "high", "relative_low", "relative_high", "improvement", "seeds_needed"):
            assert row[name] == pytest.approx(found[name]), (row, name)
        assert (row["higher_is_better"], row["label"]) == (higher, METRICS[metric].label)
        sides = {"better", "worse"} if row["low"] > 0 or row["high"] < 0 else {"no difference shown"}
        assert row["verdict"] in sides
        assert row["verdict"] != ("worse" if (row["difference"] > 0) == higher else "better")
    assert {row["verdict"] for row in rows} == {"better", "worse", "no difference shown"}


def test_labels_are_of_their_metric():
    assert len({metric.label for metric in METRICS.values()}) == len(METRICS)
    for name, metric in METRICS.items():
        assert name.startswith("test_") == metric.label.endswith(", test"), name
        for word in ("stormy", "crash", "calm", "spread", "outliers", "explained", "calibration", "gap", "sharpe"):
            if word != "calm" or not re.search("gap|imbalance", name):
                assert (word in name) == (word in metric.label.lower()), name


@pytest.mark.parametrize("baseline", ["control", "tier1"])
def test_any_variant_may_be_the_baseline(baseline):
    cells = made(metrics=["test_sharpe"])
    effects = analysed(cells, pd.DataFrame(), NO_DAYS, baseline).effects.set_index(["market", "variant"])
    assert baseline not in effects.index.unique("variant")
    for (market, variant), row in effects.iterrows():
        ours, theirs = pairs(cells, "test_sharpe", market, variant, baseline)
        assert row["difference"] == pytest.approx(stats.trim_mean(ours - theirs, 0.25))


def test_one_market_is_all_markets():
    effects = analysed(made(markets=("one",), metrics=["value_loss"]), pd.DataFrame(), NO_DAYS, "baseline").effects
    assert list(effects["market"].unique()) == ["all"]
    assert list(effects["metric"].unique()) == ["value_loss"]  # no cell has the others


@pytest.mark.parametrize("group", ["stormy", "crash"])
def test_gradients_four_times_as_large_and_a_quarter_as_large_are_as_far_from_alike(group):
    """log 4 = 1.386294."""
    derived = with_derived(pd.DataFrame({f"grad_ratio_{group}": [4.0, 0.25, 1.0, None]}))
    assert derived[f"grad_imbalance_{group}"].tolist() == pytest.approx([1.386294, 1.386294, 0.0, np.nan], nan_ok=True)
    assert list(derived) == [f"grad_ratio_{group}", f"grad_imbalance_{group}"]


@pytest.mark.parametrize("group", ["calm", "stormy"])
def test_the_error_of_a_spread_is_its_distance_from_one(group):
    derived = with_derived(pd.DataFrame({f"spread_{group}": [0.9, 1.25, 1.0, None]}))
    assert derived[f"spread_error_{group}"].tolist() == pytest.approx([0.1, 0.25, 0.0, np.nan], nan_ok=True)
    assert list(derived) == [f"spread_{group}", f"spread_error_{group}"]


# Hypotheses

ROOT = Path(__file__).parents[2]


def shipped(path):
    """The hypotheses of a file, each with the baseline of that file as None."""
    entries = yaml.safe_load((ROOT / path).read_text("utf-8"))["hypotheses"]
    return [Hypothesis(**{**entry, "hoped": tuple(entry["hoped"])}) for entry in entries]


FILES = ("configs/compare.yaml", "configs/regimes.yaml", "benchmarks/results.yaml")
NAMED = [
    Hypothesis("The value loss spreads less", "value_loss_spread", (-0.05, -0.31), "batch"),
    Hypothesis("... and not only because it is smaller", "value_loss_spread", (-0.05, -0.31), "batch", "control"),
    Hypothesis("The Sharpe ratio rises", "test_sharpe", (0.05, 0.10), "recommended"),
    Hypothesis("The explained variance rises", "explained_variance", (0.0, 1.0), "tier1"),
    Hypothesis("Fewer outliers", "value_loss_outliers_stormy", (0.0, -1.0), "batch"),
    Hypothesis("The gap halves", "value_error_gap_crash", (-0.5, -0.7), "batch"),
]
HOPED = {
    (-0.05, -0.31): "-5 to -31 %",
    (0.05, 0.10): "+5 to +10 %",
    (0.0, 1.0): "more",
    (0.0, -1.0): "less",
    (-0.5, -0.7): "-50 to -70 %",
}


def expected_reached(low, high, modest, falls):
    """Of the ends of the relative change."""
    if (high < modest) if falls else (low > modest):
        return "reached"
    return "not reached" if ((low > modest) if falls else (high < modest)) else "cannot tell"


def test_every_hypothesis_is_measured_on_its_variant_metric_and_control():
    cells = spoiled(markets=("one",), seeds=8, metrics=sorted({hope.metric for hope in NAMED}))
    rows = analysed(cells, pd.DataFrame(), NO_DAYS, "baseline", NAMED).hopes.to_dict("records")
    assert len(rows) == len(NAMED)
    for row, hope in zip(rows, NAMED, strict=True):
        against = hope.against or "baseline"
        assert (row["hope"], row["variant"], row["against"]) == (hope.question, hope.variant, against)
        assert (row["metric"], row["hoped"]) == (METRICS[hope.metric].label, HOPED[hope.hoped])
        ours, theirs = pairs(cells, hope.metric, "all", hope.variant, against)
        one, two = stats.trim_mean(theirs, 0.25), stats.trim_mean(ours, 0.25)
        found = effect(*grids(cells, hope.metric, "all", hope.variant, against), hope.hoped[1] > 0)
        change, low, high = (100 * x / abs(one) for x in (stats.trim_mean(ours - theirs, 0.25), found.low, found.high))
        assert row["measured"] == f"{one:.3g} became {two:.3g}: {change:+.1f} % [{low:+.1f}, {high:+.1f}]"
        assert row["seeds_needed"] == found.seeds_needed
        falls = hope.hoped[1] < 0
        assert row["reached"] == expected_reached(low, high, 100 * hope.hoped[0], falls)
        shown = {"no difference shown"} if low <= 0 <= high else {"better" if (high < 0) == falls else "worse"}
        assert {row["verdict"]} == shown


def hope_of(variant, baseline):
    """The first row: the value loss's spread, by seed; one market and fold."""
    rows = [
        dict(market="one", fold="f", variant=name, seed=seed, status="ok", value_loss_spread=value)
        for name, values in (("baseline", baseline), ("batch", variant))
        for seed, value in enumerate(values)
    ]
    return analysed(pd.DataFrame(rows), pd.DataFrame(), NO_DAYS, "baseline", NAMED[:1]).hopes.iloc[0]


@pytest.mark.parametrize(
    ("variant", "baseline", "measured", "verdict", "reached"),
    [
        ([1.5] * 6, [2.0] * 6, "2 became 1.5: -25.0 % [-25.0, -25.0]", "better", "reached"),
        ([3.0] * 6, [2.0] * 6, "2 became 3: +50.0 % [+50.0, +50.0]", "worse", "not reached"),
        ([2.5] * 6, [0.0] * 6, "0 became 2.5: +2.5 [+2.5, +2.5]", "worse", "n/a"),
        ([-3.0] * 6, [-2.0] * 6, "-2 became -3: -50.0 % [-50.0, -50.0]", "better", "reached"),
        ([1.98] * 6, [2.0] * 6, "2 became 1.98: -1.0 % [-1.0, -1.0]", "better", "not reached"),
        ([1.5] * 4, [2.0] * 4, "2 became 1.5", "n/a", "n/a"),
        ([*[np.nan] * 6, 1.0], [2.0] * 6, "n/a", "n/a", "n/a"),
    ],
)
def test_measured_in_words(variant, baseline, measured, verdict, reached):
    row = hope_of(variant, baseline)
    assert (row["measured"], row["verdict"], row["reached"]) == (measured, verdict, reached)


def test_each_variant_has_its_row_on_every_question():
    """All but the one that the question compares with; those that name a variant have its row alone."""
    asked = [
        Hypothesis("less", "value_loss_spread", (0.0, -1.0)),
        Hypothesis("less than control", "value_loss_spread", (0.0, -1.0), against="control"),
        Hypothesis("more", "test_sharpe", (0.0, 1.0), "tier1"),
    ]
    cells = made(metrics=["test_sharpe", "value_loss_spread"])
    hopes = analysed(cells, pd.DataFrame(), NO_DAYS, "baseline", asked).hopes
    rows = [tuple(row) for row in hopes[["hope", "variant", "against"]].to_numpy()]
    order = list(dict.fromkeys(cells["variant"]))
    assert rows == [
        *(("less", name, "baseline") for name in order if name != "baseline"),
        *(("less than control", name, "control") for name in order if name != "control"),
        ("more", "tier1", "baseline"),
    ]
    for row in hopes.to_dict("records")[:-1]:
        ours, theirs = pairs(cells, "value_loss_spread", "all", row["variant"], row["against"])
        assert row["measured"].startswith(
            f"{stats.trim_mean(theirs, 0.25):.3g} became {stats.trim_mean(ours, 0.25):.3g}"
        )


def test_hypotheses_about_variants_or_figures_that_are_not_there_are_left_out():
    cells = made(("batch", "baseline"), metrics=["test_sharpe", "value_loss_spread"])
    hopes = analysed(cells, pd.DataFrame(), NO_DAYS, "baseline", NAMED).hopes
    assert hopes[["hope", "against"]].to_numpy().tolist() == [["The value loss spreads less", "baseline"]]
    unmeasured = cells.assign(value_loss_spread=np.nan)
    assert analysed(unmeasured, pd.DataFrame(), NO_DAYS, "baseline", NAMED).hopes.empty
    assert analysed(cells, pd.DataFrame(), NO_DAYS, "baseline").hopes.empty
    assert left_out(NAMED[:3], ["baseline", "batch"]) == [
        "left out: '... and not only because it is smaller' is about control, which is none of the variants",
        "left out: 'The Sharpe ratio rises' is about recommended, which is none of the variants",
    ]
    assert left_out([Hypothesis("each", "test_sharpe", (0.0, 1.0))], ["baseline"]) == []


@pytest.mark.parametrize("path", FILES)
def test_shipped_hypotheses_are_about_metrics_and_hope_for_the_better(path):
    hypotheses = shipped(path)
    check_hypotheses(hypotheses)
    assert all((h.hoped[1] > 0) == METRICS[h.metric].higher_is_better for h in hypotheses)
    if path.startswith("configs"):  # what is compared there
        variants = yaml.safe_load((ROOT / path).read_text("utf-8"))["variants"]
        assert left_out(hypotheses, variants) == []


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("test_sharp", r"hypotheses\[1\].metric=test_sharp is not measured; did you mean test_sharpe\?"),
        ("zzz", r"hypotheses\[1\].metric=zzz is not measured; it must be one of value_loss_spread, value_loss,"),
    ],
)
def test_a_metric_that_is_not_measured_is_refused(metric, words):
    with pytest.raises(ValueError, match=words):
        check_hypotheses([NAMED[0], Hypothesis("q", metric, (0.0, 1.0))])


@pytest.mark.parametrize("hoped", [(0.1, 0.1), (0.3, 0.1), (-0.1, 0.1), (0.1, -0.1), (-0.3, -0.1), (0.0, 0.0)])
def test_a_hoped_range_has_one_direction(hoped):
    with pytest.raises(ValueError, match=r"hoped must go from a modest to a bold change in one direction"):
        Hypothesis("q", "test_sharpe", hoped)


def test_the_sentence_on_calm_and_storm_is_of_the_medians():
    """Medians 2.0, 0.8, 1.1 and, of the other market, 1.3 and 0.5, whose logarithms are 0.26 and 0.69 from 0."""
    ratios = {
        ("one", "off"): (2.0, 9.0, 1.0),
        ("one", "small"): (0.8, 0.1, 1.0),
        ("one", "dsac"): (1.1, 1.0, 7.0),
        ("two", "off"): (1.3, 1.3, 1.3),
        ("two", "small"): (0.5, None, 0.5),
        ("three", "off"): (None, None, None),
    }
    cells = pd.DataFrame(
        [
            dict(market=market, variant=variant, seed=seed, status="ok", grad_ratio_stormy=ratio)
            for (market, variant), values in ratios.items()
            for seed, ratio in enumerate(values)
        ]
    )
    cells = pd.concat([cells, cells.iloc[:1].assign(status="failed", grad_ratio_stormy=0.0, seed=9)])
    about = "calm and stormy days pull the critic alike (a ratio of 0.8 to 1.25)"
    assert alike(cells) == [
        f"one: {about} with dsac (1.10); small (0.80).",
        f"two: {about} with none of 2 variants; closest is off (1.30).",
        "three: no ratio of gradients, because stormy or calm days are too few, or all policies recurrent.",
    ]
    assert alike(cells.drop(columns="grad_ratio_stormy"))[0].startswith("one: no ratio")


@pytest.mark.parametrize(
    ("ratios", "sentence"),
    [
        # 1.6 is a factor of 1.6 from alike, 0.5 one of 2, though 0.5 lies nearer to 1.
        ({"half": 0.5, "more": 1.6}, "with none of 2 variants; closest is more (1.60)."),
        ({"tenth": 0.1, "double": 2.5}, "with none of 2 variants; closest is double (2.50)."),
        # A factor of 1 / 0.815 = 1.227 is more than one of 1.21: 0.185 and 0.21 from 1.
        ({"below": 0.815, "above": 1.21}, "with above (1.21); below (0.81)."),
    ],
)
def test_gradient_ratios_are_ranked_by_their_factor_from_one(ratios, sentence):
    rows = [dict(market="one", variant=name, status="ok", grad_ratio_stormy=ratio) for name, ratio in ratios.items()]
    (found,) = alike(pd.DataFrame(rows))
    assert found.endswith(sentence)


# Sharpe ratios


def days_of(cells, length=80):
    """Returns of every cell that ran; those of buy-and-hold are the market's and the fold's."""
    rng, rows = np.random.default_rng(1), []
    mean = {v: rng.normal(0.001, 0.002) for v in sorted(cells["variant"].unique())}
    held = {key: rng.normal(0.001, 0.01, length) for key in set(zip(cells["market"], cells["fold"], strict=True))}
    for cell in cells[cells["status"] == "ok"].to_dict("records"):
        first = {"early": "2001-01-01", "late": "2005-01-01"}[cell["fold"]]
        frame = pd.DataFrame({"date": pd.date_range(first, periods=length)}).assign(
            hold=held[cell["market"], cell["fold"]], position=1.0, index=20.0, **{k: cell[k] for k in KEYS}
        )
        frame["fitted"] = frame["hold"] + 0.01
        frame["informed"] = frame["hold"] + (0.02 if cell["market"] == "one" else np.nan)
        rows.append(frame.assign(**{"return": rng.normal(mean[cell["variant"]], 0.01, length)}))
    return pd.concat(rows, ignore_index=True)


def mean_returns(days, market):
    """By variant and then by day the mean over the seeds, of days that all variants have."""
    found = {}
    for row in days[days["market"] == market].to_dict("records"):
        found.setdefault(row["variant"], {}).setdefault((row["fold"], row["date"]), []).append(row["return"])
    common = sorted(set.intersection(*(set(by_day) for by_day in found.values())))
    return {name: np.array([np.mean(by_day[day]) for day in common]) for name, by_day in found.items()}, common


@pytest.mark.parametrize("baseline", ["baseline", "control", "not there"])
def test_every_row_of_sharpe_ratios_is_that_of_its_market_and_variant(baseline):
    cells = made(variants=("batch", "baseline", "control"), seeds=3, metrics=[])
    cells["bars_per_year"] = cells["market"].map({"one": 52.0, "two": 365 * 24.0})
    cells.loc[(cells["variant"] == "batch") & (cells["seed"] == 2), "status"] = "failed"
    days = days_of(cells)
    days = days[~((days["variant"] == "control") & (days["date"] == "2005-02-03"))]
    rows = analysed(cells, pd.DataFrame(), days, baseline).sharpe.to_dict("records")
    assert sorted((row["market"], row["variant"]) for row in rows) == [
        (market, variant) for market in ("one", "two") for variant in ("baseline", "batch", "control")
    ]
    for row in rows:
        returns, common = mean_returns(days, row["market"])
        assert len(common) == 159
        own, year = returns[row["variant"]], {"one": 52, "two": 365 * 24}[row["market"]]
        assert row["years"] == 159 / year
        assert row["sharpe_seeds_together"] == pytest.approx(own.mean() / own.std(ddof=1) * np.sqrt(year))
        of_market = days[days["market"] == row["market"]].to_dict("records")
        by_day = {(day["fold"], day["date"]): day["hold"] for day in of_market}
        held = np.array([by_day[day] for day in common])
        assert row["hold"] == pytest.approx(held.mean() / held.std(ddof=1) * np.sqrt(year))
        if row["market"] == "one":  # whose law is known
            knowing = (held.mean() + 0.02) / held.std(ddof=1) * np.sqrt(year)
            assert row["informed"] == pytest.approx(knowing)
            share = (row["sharpe_seeds_together"] - row["hold"]) / (knowing - row["hold"])
            assert row["attained_seeds_together"] == pytest.approx(share)
        else:
            assert pd.isna([row["informed"], row["attained_seeds_together"]]).all()
        assert row["fitted"] == pytest.approx((held.mean() + 0.01) / held.std(ddof=1) * np.sqrt(year))
        trials = np.array([each.mean() / each.std(ddof=1) for each in returns.values()])
        assert row["deflated"] == pytest.approx(deflated_sharpe(own, trials))
        lead = [row[name] for name in ("lead_over_hold", "lead_low", "lead_high")]
        assert lead == pytest.approx(sharpe_difference(own, held, year))
        difference = [row[name] for name in ("difference", "low", "high")]
        if baseline in (row["variant"], "not there"):
            assert pd.isna(difference).all()
        else:
            assert difference == pytest.approx(sharpe_difference(own, returns[baseline], year))


def test_returns_without_spread_have_no_sharpe_ratio():
    cells = made(variants=("baseline", "batch"), markets=("one",), seeds=2, metrics=[])
    days = days_of(cells)
    days.loc[days["variant"] == "batch", "return"] = 0.0
    baseline, batch = analysed(cells, pd.DataFrame(), days, "baseline").sharpe.sort_values("variant").to_dict("records")
    assert np.isfinite([baseline[name] for name in ("sharpe_seeds_together", "lead_low")]).all()
    undefined = ["sharpe_seeds_together", "difference", "low", "high", "deflated"]
    undefined += ["lead_over_hold", "lead_low", "lead_high"]
    assert pd.isna([batch[name] for name in undefined]).all()


def test_the_seeds_together_and_the_median_of_the_cells_are_two_figures_with_two_names(capsys, monkeypatch, tmp_path):
    """Two seeds whose noise is opposite: together they have the days' alone, a tenth of it."""
    monkeypatch.setenv("COLUMNS", "300")
    rng = np.random.default_rng(0)
    dates = pd.date_range("2001-01-01", periods=400)
    day, noise = 0.01 * rng.normal(size=(2, 400))
    rows = []
    daily = []
    for variant in ("baseline", "batch"):
        for seed, sign in ((0, 1), (1, -1)):
            returns = 0.001 + 0.1 * day + sign * noise
            ratio = np.sqrt(252) * returns.mean() / returns.std(ddof=1)
            keys = dict(market="m", fold="f", variant=variant, seed=seed)
            rows.append(keys | dict(status="ok", error=None, bars_per_year=252.0, seconds=1.0, test_sharpe=ratio))
            columns = {"return": returns, "hold": day, "position": 1.0, "index": 20.0}
            daily.append(pd.DataFrame({"date": dates, **columns}).assign(**keys))
    tables = analysed(pd.DataFrame(rows), pd.DataFrame(), pd.concat(daily), "baseline")
    cells = np.median([row["test_sharpe"] for row in rows])
    together = tables.sharpe["sharpe_seeds_together"].iloc[0]
    assert together > 5 * cells  # 16 against 1.6
    assert "sharpe" not in tables.sharpe
    sentence = headline(tables.effects, tables.sharpe, tables.daily, "baseline")[-1]
    assert "each variant's seeds together: 2 of 2 variants beat buy-and-hold; best is baseline" in sentence
    assert f"Sharpe ratio {together:.2f} against " in sentence
    print_by_regime(tables.cells)
    shown = capsys.readouterr().out
    assert "medians over the cells" in shown
    assert re.search(rf"Sharpe of *\n.*a cell *\n.*\n.* {cells:.2f} *\n", shown)
    write_tables(tmp_path, tables, "baseline", "")
    page = (tmp_path / "report.html").read_text()
    assert "Sharpe ratio of the seeds together" in page
    assert "Sharpe ratio of a cell, test" in page
    assert pd.read_csv(tmp_path / "sharpe.csv")["sharpe_seeds_together"].iloc[0] == pytest.approx(together, rel=1e-5)
    assert pd.read_csv(tmp_path / "effects.csv")["label"].tolist() == ["Sharpe ratio of a cell, test"]


def test_failed_cells_are_left_out_and_nothing_at_all_is_no_error():
    table = made(metrics=["test_sharpe", "value_loss_spread"])
    table.loc[table["variant"] == "batch", "status"] = "failed"
    tables = analysed(table, pd.DataFrame(), NO_DAYS, "baseline")
    batch = tables.effects[tables.effects["variant"] == "batch"]
    assert (batch["verdict"] == "n/a").all()
    table["status"] = "failed"
    assert (analysed(table, pd.DataFrame(), NO_DAYS, "baseline").effects["pairs"] == 0).all()


# From result files to tables


@pytest.fixture
def compared(tmp_path):
    """A comparison whose cells have results, folds of which one is too short, and a variant chosen by the early one."""
    variants = {"baseline": {}, "batch": {"chosen_before": "2005-01-01"}}
    config = {
        name: MarketConfig(test=(f"{year}-01-01", f"{year}-12-31"))
        for name, year in (("early", 2001), ("late", 2005), ("short", 2009))
    }
    folds = [
        Fold(label, name, market, "its test period has 3 bars" if name == "short" else None, "")
        for label in ("one", "two")
        for name, market in config.items()
    ]
    cells = [
        Cell(fold.label, fold.name, variant, seed, RunConfig(), fold.market, {})
        for seed in (3, 4)
        for fold in folds
        for variant in variants
        if fold.missing is None and (variant, fold.name) != ("batch", "early")
    ]
    comparison = Comparison(tmp_path / "a comparison", cells)
    for i, path in comparison.paths.items():
        result = {
            "status": "ok",
            "figures": {"value_loss": i + 0.5, "test_sharpe": None if i == 2 else -float(i), "grad_ratio_crash": 0.5},
            "curves": {"step": [128 * (i + 1), 256 * (i + 1)], "reward": [i, None]},
            "daily": {"date": ["2005-01-03", "2005-01-04"], "return": [i / 100, 0.0], "hold": [0.01, 0.02]},
            "bars_per_year": 52.0,
            "seconds": 1000.0 * i,
        }
        if i == 4:
            result = {"status": "failed", "error": "ValueError: no | such thing"}
        if i != 5:
            path.write_text(json.dumps(result))
    return comparison, folds, variants


def key_of(row):
    return row["market"], row["fold"], row["variant"], row["seed"]


def test_every_result_is_in_the_row_of_its_cell(compared):
    comparison, folds, variants = compared
    tables = tables_of(comparison, folds, variants, "baseline")
    rows = tables.cells.to_dict("records")
    keys = [(c.label, c.fold, c.variant, c.seed) for c in comparison.cells]
    assert [key_of(row) for row in rows[: len(keys)]] == keys
    for i, row in enumerate(rows[: len(keys)]):
        assert row["status"] == {4: "failed", 5: "missing"}.get(i, "ok")
        assert row["error"] == "ValueError: no | such thing" if i == 4 else pd.isna(row["error"])
        there = row["status"] == "ok"
        figures = [
            row[name] for name in ("value_loss", "test_sharpe", "seconds", "bars_per_year", "grad_imbalance_crash")
        ]
        sharpe = np.nan if i == 2 else -float(i)
        expected = [i + 0.5, sharpe, 1000.0 * i, 52.0, 0.693147] if there else [np.nan] * 5
        assert figures == pytest.approx(expected, nan_ok=True)
    missing = {(row["market"], row["fold"], row["variant"], row["error"]) for row in rows[len(keys) :]}
    assert {row["status"] for row in rows[len(keys) :]} == {"n/a"}
    assert missing == {
        *((m, "short", v, "its test period has 3 bars") for m in ("one", "two") for v in variants),
        *((m, "early", "batch", "the variant was chosen by what it did before 2005-01-01") for m in ("one", "two")),
    }
    ok = [i for i in range(len(keys)) if i not in (4, 5)]
    curves, daily = tables.curves.to_dict("records"), tables.daily.to_dict("records")
    assert [key_of(row) for row in curves] == [keys[i] for i in ok for _ in range(2)] == [key_of(row) for row in daily]
    assert [row["step"] for row in curves] == [128.0 * (i + 1) * k for i in ok for k in (1, 2)]
    assert [row["reward"] for row in curves][::2] == ok
    assert [row["return"] for row in daily] == [x for i in ok for x in (i / 100, 0.0)]
    assert daily[1]["date"] == pd.Timestamp("2005-01-04")
    effects = tables.effects.set_index(["market", "variant", "metric"])
    late = [
        (keys[i], keys[j])
        for i in ok
        for j in ok
        if keys[i][2] == "batch" and keys[j] == (*keys[i][:2], "baseline", keys[i][3])
    ]
    assert effects.loc[("all", "batch", "value_loss"), "pairs"] == len(late) > 0


def test_tables_are_written_as_they_are(compared):
    comparison, folds, variants = compared
    tables = tables_of(comparison, folds, variants, "baseline")
    write_tables(comparison.folder, tables, "baseline", "seeds: 3-4")
    for name in ("cells", "effects", "hopes", "sharpe"):
        written, frame = pd.read_csv(comparison.folder / f"{name}.csv", keep_default_na=False), getattr(tables, name)
        assert list(written) == list(frame)
        assert len(written) == len(frame)
        for column in frame:
            for text, value in zip(written[column].astype(str), frame[column], strict=True):
                if isinstance(value, float) and np.isfinite(value):
                    assert float(text) == pytest.approx(value, rel=1e-5)
                else:
                    assert text == ("" if value is None or value != value else str(value))
    for name in ("cells", "curves", "daily"):
        written, frame = pd.read_parquet(comparison.folder / f"{name}.parquet"), getattr(tables, name)
        pd.testing.assert_frame_equal(written, frame, check_dtype=False)
    report = (comparison.folder / "report.html").read_text()
    assert "<h1>a comparison</h1>" in report
    assert "<b>baseline</b>" in report
    assert re.search(r"seconds of all cells</dt>\s*<dd>57,000</dd>", report)  # 1,000 (0 + ... + 11 - 4 - 5)
    assert "seeds: 3-4" in report


def test_printed_verdicts_are_of_their_hypothesis(capsys):
    columns = ("hope", "variant", "against", "metric", "hoped", "measured", "verdict", "reached", "seeds_needed")
    hopes = [[f"{name} {i}" for name in columns[:-1]] + [needed] for i, needed in enumerate((123.0, np.nan))]
    hopes += [["hope 2", "v", "b", "metric 2", "more", "1 became 2", "n/a", "n/a", np.nan]]
    hopes += [["hope 3", "v", "b", "metric 3", "more", "1 became 2", "better", "reached", 1000.0]]
    rows = [
        ("m", "f", "v", seed, status, f"why {seed}") for seed, status in enumerate(("ok", "n/a", "failed", "missing"))
    ]
    cells = pd.DataFrame(rows, columns=["market", "fold", "variant", "seed", "status", "error"])
    empty = pd.DataFrame()
    print_verdicts(Tables(cells, empty, empty, empty, pd.DataFrame(hopes, columns=columns), empty), "A title")
    assert capsys.readouterr().out.strip().splitlines() == [
        "A title:",
        "- hope 0 (metric 0; hoped: hoped 0)",
        "    variant 0 against against 0: VERDICT 0, measured 0; seeds needed: 123",
        "- hope 1 (metric 1; hoped: hoped 1)",
        "    variant 1 against against 1: VERDICT 1, measured 1; seeds needed: n/a",
        "- hope 2 (metric 2; hoped: more)",
        "    v against b: N/A, 1 became 2; seeds needed: cannot be told, since fewer than 5 seeds have a value",
        "- hope 3 (metric 3; hoped: more)",
        "    v against b: BETTER, 1 became 2; seeds needed: over 1,000",
        "failed: m, f, v, seed 2: why 2",
        "failed: m, f, v, seed 3: why 3",
    ]


def test_the_tables_of_results_are_those_of_the_committed_cells(monkeypatch):
    root = Path(__file__).parents[2]
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    import results

    for name, table in results.tables().items():
        page = results.PAGES[name].read_text()
        assert results.with_tables(page, {name: table}) == page
    cells = pd.read_csv(results.CELLS)
    assert (cells["status"] == "ok").all()
    assert len(cells) == 560
    assert sys.modules.pop("results")
