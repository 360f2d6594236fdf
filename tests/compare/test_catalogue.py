"""The table of figures: labels, directions, distances from the ideal, and what a new entry brings."""

import re

import numpy as np
import pandas as pd
import pytest
from comparisons import NO_DAYS, cell_table

from market_regimes.compare import headline, html_report, pictures, printing
from market_regimes.compare.catalogue import FIGURES, Figure, check_regimes, compared_figures, with_distances
from market_regimes.compare.hypotheses import check_hypotheses
from market_regimes.compare.tables import analysed
from market_regimes.config import Hypothesis


def test_labels_are_of_their_metric():
    assert len({metric.label for metric in compared_figures().values()}) == len(compared_figures())
    for name, metric in compared_figures().items():
        assert name.startswith("test_") == metric.label.endswith(", test"), name
        for word in ("stormy", "crash", "calm", "spread", "outliers", "explained", "calibration", "gap", "sharpe"):
            if word != "calm" or not re.search("gap|imbalance", name):
                assert (word in name) == (word in metric.label.lower()), name


@pytest.mark.parametrize("group", ["stormy", "crash"])
def test_gradients_four_times_as_large_and_a_quarter_as_large_are_as_far_from_alike(group):
    """log 4 = 1.386294."""
    derived = with_distances(pd.DataFrame({f"grad_ratio_{group}": [4.0, 0.25, 1.0, None]}))
    assert derived[f"grad_imbalance_{group}"].tolist() == pytest.approx([1.386294, 1.386294, 0.0, np.nan], nan_ok=True)
    assert list(derived) == [f"grad_ratio_{group}", f"grad_imbalance_{group}"]


@pytest.mark.parametrize("group", ["calm", "stormy"])
def test_the_error_of_a_spread_is_its_distance_from_one(group):
    derived = with_distances(pd.DataFrame({f"spread_{group}": [0.9, 1.25, 1.0, None]}))
    assert derived[f"spread_error_{group}"].tolist() == pytest.approx([0.1, 0.25, 0.0, np.nan], nan_ok=True)
    assert list(derived) == [f"spread_{group}", f"spread_error_{group}"]


# A figure that nobody has yet


@pytest.fixture
def tail_loss(monkeypatch):
    """Distance of a ratio from 2, where less is better: of the baseline 1, of the variant 0.25, in every cell."""
    monkeypatch.setitem(FIGURES, "tail_ratio", Figure("ratio of the tails", "near 1"))
    entry = Figure("loss in the tail", "lower", source="tail_ratio", distance=lambda ratios: (ratios - 2).abs())
    monkeypatch.setitem(FIGURES, "tail_loss", entry)

    cells = cell_table(variants=("baseline", "batch"), markets=("one",), seeds=6, metrics=[])
    return with_distances(cells.assign(tail_ratio=cells["variant"].map({"baseline": 3.0, "batch": 1.75})))


def test_a_new_entry_has_its_effect_and_its_verdict(tail_loss):
    """0.25 - 1 = -0.75; a ratio near 1 has no direction and so no effect."""
    effects = analysed(tail_loss, pd.DataFrame(), NO_DAYS, "baseline").effects
    (row,) = effects.to_dict("records")

    assert (row["metric"], row["label"], row["verdict"]) == ("tail_loss", "loss in the tail", "better")
    assert row["difference"] == row["low"] == row["high"] == -0.75


def test_a_new_entry_answers_hypotheses(tail_loss):
    """-0.75 of 1 is -75 %."""
    hypothesis = Hypothesis("The tail is lighter", "tail_loss", (-0.5, -1.0))
    check_hypotheses([hypothesis])
    (row,) = analysed(tail_loss, pd.DataFrame(), NO_DAYS, "baseline", [hypothesis]).hopes.to_dict("records")

    assert (row["metric"], row["verdict"], row["reached"]) == ("loss in the tail", "better", "reached")
    assert row["measured"] == "1 became 0.25: -75.0 % [-75.0, -75.0]"
    with pytest.raises(ValueError, match="metric=tail_ratio is not measured; did you mean tail_loss"):
        check_hypotheses([Hypothesis("Nearer", "tail_ratio", (0.0, 1.0))])


def test_a_new_entry_stands_in_the_report(tail_loss, tmp_path):
    tables = analysed(tail_loss, pd.DataFrame(), NO_DAYS, "baseline")
    html_report.write_report(tmp_path / "report.html", tables, "title", "baseline", "", {})
    page = (tmp_path / "report.html").read_text()

    assert page.count('<th scope="col">loss in the tail<br><small>lower is better</small></th>') == 2  # main and all
    assert "-0.75 [-0.75, -0.75]" in page


def test_every_selection_names_figures_of_the_table():
    assert set(html_report.MAIN) | set(headline.CLAIMS) <= set(compared_figures())
    assert set(pictures.CURVES) <= set(FIGURES)
    for name in printing.LEARNING:
        assert FIGURES[name].heading, name
        assert FIGURES[name].undefined, name


def test_every_distance_is_of_a_figure_that_cells_compute():
    for name, figure in FIGURES.items():
        assert (figure.distance is None) == (figure.source == ""), name
        assert figure.source == "" or FIGURES[figure.source].source == "", name


@pytest.mark.parametrize("name", ["gap_crash", "error_calm", "stormy"])
def test_a_regime_that_ends_the_name_of_another_figure_is_refused(name):
    with pytest.raises(ValueError, match=f"market.regimes: {name} would end the name of a figure"):
        check_regimes(["quiet", name])


def test_the_default_regimes_name_no_other_figure():
    check_regimes(["calm", "normal", "volatile", "crash"])
