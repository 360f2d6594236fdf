"""Hypotheses, each against plain loops over made-up cells."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from comparisons import NO_DAYS, cell_table, paired_values, seed_grids, spoiled_cell_table
from scipy import stats

from market_regimes.compare.catalogue import compared_figures
from market_regimes.compare.hypotheses import check_hypotheses, left_out
from market_regimes.compare.statistics import effect
from market_regimes.compare.tables import analysed
from market_regimes.config import Hypothesis

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
    cells = spoiled_cell_table(markets=("one",), seeds=8, metrics=sorted({hope.metric for hope in NAMED}))
    rows = analysed(cells, pd.DataFrame(), NO_DAYS, "baseline", NAMED).hopes.to_dict("records")
    assert len(rows) == len(NAMED)
    for row, hope in zip(rows, NAMED, strict=True):
        against = hope.against or "baseline"
        assert (row["hope"], row["variant"], row["against"]) == (hope.question, hope.variant, against)
        assert (row["metric"], row["hoped"]) == (compared_figures()[hope.metric].label, HOPED[hope.hoped])
        ours, theirs = paired_values(cells, hope.metric, "all", hope.variant, against)
        one, two = stats.trim_mean(theirs, 0.25), stats.trim_mean(ours, 0.25)
        found = effect(*seed_grids(cells, hope.metric, "all", hope.variant, against), hope.hoped[1] > 0)
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
    cells = cell_table(metrics=["test_sharpe", "value_loss_spread"])
    hopes = analysed(cells, pd.DataFrame(), NO_DAYS, "baseline", asked).hopes
    rows = [tuple(row) for row in hopes[["hope", "variant", "against"]].to_numpy()]
    order = list(dict.fromkeys(cells["variant"]))
    assert rows == [
        *(("less", name, "baseline") for name in order if name != "baseline"),
        *(("less than control", name, "control") for name in order if name != "control"),
        ("more", "tier1", "baseline"),
    ]
    for row in hopes.to_dict("records")[:-1]:
        ours, theirs = paired_values(cells, "value_loss_spread", "all", row["variant"], row["against"])
        assert row["measured"].startswith(
            f"{stats.trim_mean(theirs, 0.25):.3g} became {stats.trim_mean(ours, 0.25):.3g}"
        )


def test_hypotheses_about_variants_or_figures_that_are_not_there_are_left_out():
    cells = cell_table(("batch", "baseline"), metrics=["test_sharpe", "value_loss_spread"])
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
    assert all((h.hoped[1] > 0) == compared_figures()[h.metric].higher_is_better for h in hypotheses)
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
