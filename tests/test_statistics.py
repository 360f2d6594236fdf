"""Effects and Sharpe ratios, by scipy, by the paper's example, by simulated studies whose truth is known."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from market_regimes.statistics import (
    Effect,
    against_hope,
    deflated_sharpe,
    deflated_sharpe_of_moments,
    effect,
    expected_maximum_sharpe,
    interquartile_mean,
    sharpe_difference,
    verdict,
)


@pytest.mark.parametrize("size", [1, 2, 4, 7, 10, 33])
def test_interquartile_mean_is_scipys(size):
    values = np.random.default_rng(size).normal(size=(3, size))
    assert interquartile_mean(values) == pytest.approx(stats.trim_mean(values, 0.25, axis=1))


def test_undefined_values_are_left_out():
    assert interquartile_mean(np.array([np.nan, 1.0, 2.0, 3.0, 100.0])) == 2.5
    assert np.isnan(interquartile_mean(np.array([np.nan])))


def study(seed, shift=0.5, seeds=8, folds=3, scale=1.0):
    rng = np.random.default_rng(seed)
    baseline = rng.normal(0, scale, (seeds, folds)) + 3 * np.arange(folds)
    return baseline + shift + rng.normal(0, scale, (seeds, folds)), baseline


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    held = 0
    for seed in range(100):
        found = effect(*study(seed), True)
        held += found.low <= 0.5 <= found.high
    assert 0.88 <= held / 100 <= 1  # 95 %, and the standard error of 100 studies is 2.2 %


def test_improvement_is_mann_whitneys():
    variant, baseline = study(1)
    expected = np.mean(
        [
            stats.mannwhitneyu(one, two).statistic / (len(one) * len(two))
            for one, two in zip(variant.T, baseline.T, strict=True)
        ]
    )
    assert effect(variant, baseline, True).improvement == pytest.approx(expected)
    assert effect(variant, baseline, False).improvement == pytest.approx(1 - expected)


def test_seeds_needed_show_a_difference_in_four_studies_of_five():
    rng = np.random.default_rng(0)
    differences = rng.normal(size=(40, 1))
    differences = (differences - differences.mean()) / differences.std(ddof=1) + 0.5  # mean 0.5, standard deviation 1
    needed = effect(differences, np.zeros((40, 1)), True).seeds_needed
    assert needed == 34  # the table of Cohen (1988) for d = 0.5, one sample
    shown = [stats.ttest_1samp(rng.normal(0.5, 1, needed), 0).pvalue < 0.05 for _ in range(1000)]
    assert 0.76 <= np.mean(shown) <= 0.84


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.floats(1e-3, 1e3), shift=st.floats(-10, 10))
def test_invariants(seed, scale, shift):
    variant, baseline = study(seed)
    one, swapped = effect(variant, baseline, True), effect(baseline, variant, True)
    assert swapped.difference == pytest.approx(-one.difference)
    assert (swapped.low, swapped.high) == pytest.approx((-one.high, -one.low), abs=0.25)  # of other resamples
    assert swapped.improvement == pytest.approx(1 - one.improvement)
    moved = effect(variant + shift, baseline + shift, True)
    assert (moved.difference, moved.low, moved.high) == pytest.approx((one.difference, one.low, one.high))
    scaled = effect(variant * scale, baseline * scale, True)
    assert scaled.difference == pytest.approx(one.difference * scale)
    assert scaled.relative == pytest.approx(one.relative)
    assert verdict(scaled, True) == verdict(one, True)
    order = np.random.default_rng(seed).permutation(len(variant))
    assert effect(variant[order], baseline[order], True).difference == pytest.approx(one.difference)


def test_failed_cells_leave_both_sides_of_the_pair_out():
    variant, baseline = study(2)
    variant[0, 0] = np.nan
    found = effect(variant, baseline, True)
    assert found.pairs == 23
    rest = np.isfinite(variant)
    assert found.baseline == pytest.approx(stats.trim_mean(baseline[rest], 0.25))


@pytest.mark.parametrize(
    ("variant", "pairs"), [(np.full((6, 2), np.nan), 0), (np.ones((1, 2)), 2), (np.ones((4, 2)), 8)]
)
def test_too_few_seeds_give_no_interval_and_no_verdict(variant, pairs):
    found = effect(variant, np.zeros_like(variant), True)
    assert (found.pairs, found.low, verdict(found, True), against_hope(found, (0.1, 0.2))) == (
        pairs,
        None,
        "n/a",
        "n/a",
    )


def test_equal_cells_show_no_difference():
    found = effect(np.ones((6, 2)), np.ones((6, 2)), True)
    assert (found.low, found.high, found.seeds_needed, verdict(found, True)) == (0.0, 0.0, None, "no difference shown")


@pytest.mark.parametrize(
    ("low", "high", "hoped", "expected", "reached"),
    [
        (-0.5, -0.4, (-0.05, -0.31), "better", "reached"),
        (-0.5, -0.01, (-0.05, -0.31), "better", "cannot tell"),
        (-0.04, -0.01, (-0.05, -0.31), "better", "not reached"),
        (0.1, 0.2, (-0.05, -0.31), "worse", "not reached"),
        (-0.1, 0.2, (0.0, -1.0), "no difference shown", "cannot tell"),
        (-0.2, -0.1, (0.0, -1.0), "better", "reached"),
    ],
)
def test_verdicts_of_what_should_fall(low, high, hoped, expected, reached):
    found = Effect(10, low=low, high=high, relative_low=low, relative_high=high)
    assert verdict(found, higher_is_better=False) == expected
    assert against_hope(found, hoped) == reached


def test_the_example_of_bailey_and_lopez_de_prado():
    # 100 trials with a variance of 1/2 a year, 1,250 days, Sharpe ratio 2.5, skewness -3, kurtosis 10.
    benchmark = expected_maximum_sharpe(0.5 / 250, 100)
    assert benchmark == pytest.approx(0.1132, abs=1e-4)
    assert deflated_sharpe_of_moments(2.5 / math.sqrt(250), 1250, -3, 10, benchmark) == pytest.approx(0.9004, abs=1e-4)


def test_deflated_ratio_of_returns():
    returns = np.random.default_rng(0).normal(0.1, 1, 2000)
    alone = deflated_sharpe(returns, np.array([0.09, 0.1]))
    among_many = deflated_sharpe(returns, np.random.default_rng(1).normal(0, 0.05, 1000))
    assert among_many < alone
    assert deflated_sharpe(returns, np.array([0.1, np.nan])) is None
    assert deflated_sharpe(np.zeros(100), np.array([0.1, 0.2])) is None


def test_interval_of_a_difference_of_sharpe_ratios_is_as_wide_as_the_closed_form():
    one, two = np.random.default_rng(3).normal(0.05, 1, (2, 3000))
    difference, low, high = sharpe_difference(one, two, 252)
    expected = math.sqrt(252) * (one.mean() / one.std(ddof=1) - two.mean() / two.std(ddof=1))
    assert difference == pytest.approx(expected)
    error = math.sqrt(252 * 2 * (1 + 0.05**2 / 2) / 3000)  # Lo (2002), two independent series
    assert (high - low) / (2 * 1.96 * error) == pytest.approx(1, abs=0.2)
    assert low < difference < high


def test_sharpe_ratios_that_are_undefined_have_no_difference():
    assert sharpe_difference(np.zeros(100), np.ones(100), 252) is None
    assert sharpe_difference(np.arange(5.0), np.arange(5.0), 252) is None
    same = np.random.default_rng(0).normal(size=100)
    assert sharpe_difference(same, same, 252) == (0.0, 0.0, 0.0)
