"""Effects and Sharpe ratios, by scipy, papers' examples, plain loops, simulated studies whose truth is known."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from market_regimes.compare.statistics import (
    Effect,
    against_hope,
    deflated_sharpe,
    deflated_sharpe_of_moments,
    effect,
    expected_maximum_sharpe,
    interquartile_mean,
    interval,
    seeds_needed_text,
    sharpe_difference,
    verdict,
)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 8, 10, 33])
def test_interquartile_mean_is_scipys(size):
    values = np.random.default_rng(size).exponential(size=(3, size))
    assert interquartile_mean(values) == pytest.approx(stats.trim_mean(values, 0.25, axis=1))


def test_undefined_values_are_left_out():
    assert interquartile_mean(np.array([np.nan, 1.0, 2.0, 3.0, 100.0])) == 2.5
    assert interquartile_mean(np.array([np.inf, 1.0, 2.0, 3.0, 100.0, -np.inf])) == 2.5
    assert np.isnan(interquartile_mean(np.array([np.nan])))
    rows = interquartile_mean(np.array([[np.nan, 1.0, 2.0], [7.0, 8.0, 12.0]]))
    assert rows == pytest.approx([1.5, 9.0])  # with three values a quarter of them is none


# The interval


def test_the_interval_holds_the_truth_as_often_as_it_says():
    """1,000 studies of 12 seeds, whose 2 folds share the effect of the seed."""
    rng = np.random.default_rng(0)
    above = below = 0
    for study in range(1000):
        low, high = interval(0.5 + rng.normal(size=(12, 1)) + 0.3 * rng.normal(size=(12, 2)), study % 5)
        above, below = above + (low > 0.5), below + (high < 0.5)
    assert 30 <= above + below <= 70
    assert 10 <= above <= 40
    assert 10 <= below <= 40


def exact_quantiles(differences, probabilities):
    """Of the interquartile mean over every way to draw the seeds again, each with all its folds."""
    draws = np.array(list(itertools.product(range(len(differences)), repeat=len(differences))))
    values = differences[draws].reshape(len(draws), -1)
    known = np.isfinite(values).sum(axis=1)
    means = [stats.trim_mean(np.sort(values[known == n], axis=1)[:, :n], 0.25, axis=1) for n in np.unique(known)]
    return np.quantile(np.concatenate(means), probabilities)


@pytest.mark.parametrize(
    "folds",
    [
        [[-3.0, -1.0, 0.0, 0.5, 2.0, 7.0]],
        [[-3.0, -1.0, 0.0, 0.5, 2.0, 7.0], [9.0, -9.0, 30.0, 31.0, 33.0, 12.0]],
        [[-3.0, np.nan, 0.0, 0.5, 2.0, 7.0], [1.0, -9.0, 3.0, np.nan, 5.0, 6.0]],
    ],
    ids=["one fold", "two folds", "failed cells"],
)
def test_ends_are_the_expanded_percentiles_of_the_bootstrap(folds):
    """6 seeds: t(0.975, 5) = 2.570582, times sqrt(6 / 5) 2.815932: percentiles 0.24318 and 99.75682 of 6^6 draws."""
    differences = np.transpose(folds)
    ends = np.mean([interval(differences, seed) for seed in range(20)], axis=0)
    assert ends == pytest.approx(exact_quantiles(differences, [0.0024318, 0.9975682]), abs=0.25)


@pytest.mark.parametrize("folds", [2, 3])
def test_folds_that_repeat_one_another_tell_nothing_new(folds):
    """8 seeds: two at either end are cut, or two with all their folds."""
    per_seed = np.random.default_rng(3).normal(size=(8, 1))
    assert interval(np.repeat(per_seed, folds, axis=1), 0) == pytest.approx(interval(per_seed, 0))


def test_what_differs_by_fold_alone_is_no_uncertainty():
    differences = np.tile(np.array([[-5.0, 1.0, 3.0, 9.0]]), (8, 1))
    assert interval(differences, 0) == pytest.approx((2.0, 2.0))  # of -5, 1, 3, 9 the middle half


@pytest.mark.parametrize(("seeds", "known"), [(4, False), (5, True)])
def test_five_seeds_have_an_interval(seeds, known):
    differences = np.random.default_rng(0).normal(size=(seeds, 3))
    assert (interval(differences, 0) is not None) == known
    with_empty = np.vstack([differences, np.full((3, 3), np.nan)])
    assert interval(with_empty, 0) == interval(differences, 0)


def test_a_seed_that_lacks_a_fold_is_drawn_with_the_others():
    differences = np.tile(np.arange(1.0, 9.0)[:, None], (1, 2))
    differences[3, 0] = np.nan
    low, high = interval(differences, 0)
    whole_low, whole_high = interval(np.nan_to_num(differences, nan=4.0), 0)
    assert (low, high) == pytest.approx((whole_low, whole_high), abs=0.3)


# The effect


def study(seed, shift=0.5, seeds=8, folds=3, scale=1.0):
    rng = np.random.default_rng(seed)
    baseline = rng.normal(0, scale, (seeds, folds)) + 3 * np.arange(folds)
    return baseline + shift + rng.normal(0, scale, (seeds, folds)), baseline


def test_the_difference_is_that_of_the_pairs():
    """
    Baseline 0, 2, 4, 100: middle half 3. Variant 101, 1, 3, 5: middle half 4, 1 more. Differences 101, -1, -1, -95:
    middle half -1.
    """
    found = effect(np.array([[101.0], [1.0], [3.0], [5.0]]), np.array([[0.0], [2.0], [4.0], [100.0]]), True)
    assert (found.pairs, found.baseline, found.variant, found.difference) == (4, 3.0, 4.0, -1.0)
    assert found.relative == pytest.approx(-1 / 3)


def test_all_folds_are_pooled_before_the_middle_half_is_taken():
    """Per fold the middle halves are 1.5 and 12.5, their mean is 7; of all eight values 0, 1, 2, 3, 6, 12, 13, 60 it is
    (2 + 3 + 6 + 12) / 4 = 5.75."""
    differences = np.array([[0.0, 6.0], [1.0, 12.0], [2.0, 13.0], [3.0, 60.0]])
    assert effect(differences, np.zeros((4, 2)), True).difference == 5.75


def test_changes_are_relative_to_the_size_of_the_baseline():
    """A baseline of -2: from there to -1 is half of it up."""
    variant, baseline = np.full((6, 2), -1.0), np.full((6, 2), -2.0)
    found = effect(variant, baseline, True)
    assert (found.difference, found.low, found.high) == (1.0, 1.0, 1.0)
    assert (found.relative, found.relative_low, found.relative_high) == (0.5, 0.5, 0.5)


def test_relative_ends_are_the_ends_over_the_baseline():
    found = effect(*study(4), True)
    assert found.relative_low == pytest.approx(found.low / abs(found.baseline))
    assert found.relative_high == pytest.approx(found.high / abs(found.baseline))
    assert found.low < found.difference < found.high


def test_from_a_baseline_of_zero_there_is_no_relative_change():
    found = effect(np.ones((6, 1)), np.zeros((6, 1)), True)
    assert (found.difference, found.low) == (1.0, 1.0)
    assert (found.relative, found.relative_low, found.relative_high) == (None, None, None)
    assert against_hope(found, (0.05, 0.1)) == "n/a"


def test_the_effects_interval_is_that_of_the_differences():
    variant, baseline = study(5)
    found = effect(variant, baseline, True, seed=3)
    assert (found.low, found.high) == interval(variant - baseline, 3)
    assert (found.low, found.high) != interval(variant - baseline, 4)


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


def test_a_tie_is_half_an_improvement():
    """1 against 1, 2, 3: 1/2, 0, 0, twice; 3 against them: 1, 1, 1/2. 3.5 of 9."""
    variant, baseline = np.array([[1.0], [1.0], [3.0]]), np.array([[1.0], [2.0], [3.0]])
    assert effect(variant, baseline, True).improvement == pytest.approx(3.5 / 9)
    assert effect(variant, baseline, False).improvement == pytest.approx(5.5 / 9)
    assert effect(baseline, baseline, False).improvement == 0.5


def test_improvement_is_within_a_fold_and_folds_count_alike():
    """Fold 1: 1, 2 above 0, 0: 1. Fold 2: one seed alone, 10 below 11: 0. Across folds 10 would beat 0."""
    variant, baseline = np.array([[1.0, 10.0], [2.0, np.nan]]), np.array([[0.0, 11.0], [0.0, 11.0]])
    assert effect(variant, baseline, True).improvement == 0.5


def power_of_t_test(size, seeds):
    """Two-sided, at 5 %."""
    critical = stats.t.ppf(0.975, seeds - 1)
    shift = size * math.sqrt(seeds)
    return stats.nct.sf(critical, seeds - 1, shift) + stats.nct.cdf(-critical, seeds - 1, shift)


@pytest.mark.parametrize(("size", "cohen"), [(0.2, 199), (0.5, 34), (-0.5, 34), (0.8, 15), (1.5, 6), (3.0, None)])
def test_seeds_needed_are_cohens(size, cohen):
    """Cohen (1988), one sample; else the smallest number with a power of 0.8, by the noncentral t distribution."""
    differences = np.random.default_rng(0).normal(size=(40, 3))
    per_seed = differences.mean(axis=1, keepdims=True)
    shifts = (per_seed - per_seed.mean()) / per_seed.std(ddof=1) + size - per_seed
    needed = effect(differences + shifts, np.zeros((40, 3)), True).seeds_needed  # per seed: mean size, deviation 1
    smallest = next(n for n in range(2, 1000) if power_of_t_test(size, n) >= 0.8)
    assert needed == smallest
    assert cohen in (None, smallest)


def test_seeds_needed_of_hardly_any_effect_have_a_bound_and_of_none_are_undefined():
    differences = np.array([[-1.0], [1.0]] * 3)
    assert effect(differences + 1e-9, np.zeros((6, 1)), True).seeds_needed == 1000
    assert effect(differences + 0.05, np.zeros((6, 1)), True).seeds_needed == 1000  # 3,770 by (2.8 / 0.0456)^2
    assert effect(differences, np.zeros((6, 1)), True).seeds_needed is None
    assert effect(differences[:1], np.zeros((1, 1)), True).seeds_needed is None


def test_seeds_needed_take_the_mean_of_the_folds_there_are():
    """Per seed 1, 3, 2, 1 and 3: mean 2, squares of the differences from it 1 + 1 + 0 + 1 + 1, deviation 1."""
    differences = np.array([[1.0, 1.0], [3.0, np.nan], [0.0, 4.0], [np.nan, np.nan], [0.0, 2.0], [3.0, 3.0]])
    expected = next(n for n in range(2, 99) if power_of_t_test(2.0, n) >= 0.8)
    assert effect(differences, np.zeros((6, 2)), True).seeds_needed == expected


@pytest.mark.parametrize("seeds", [1, 2, 4])
def test_fewer_than_five_seeds_do_not_say_how_many_are_needed(seeds):
    """The spread of so few is chance: a comparison of two seeds said 8,452."""
    differences = np.random.default_rng(seeds).normal(0.1, 1.0, (seeds, 2))
    found = effect(differences, np.zeros((seeds, 2)), True)
    assert (found.seeds_needed, verdict(found, True)) == (None, "n/a")


@pytest.mark.parametrize(
    ("needed", "answer", "words"),
    [
        (7.0, "better", "7"),
        (999.0, "worse", "999"),
        (1000, "no difference shown", "over 1,000"),
        (None, "n/a", "cannot be told, since fewer than 5 seeds have a value"),
        (math.nan, "n/a", "cannot be told, since fewer than 5 seeds have a value"),
        (math.nan, "no difference shown", "n/a"),  # the differences are 0, or all alike
    ],
)
def test_the_number_of_seeds_needed_in_words(needed, answer, words):
    assert seeds_needed_text(needed, answer) == words


@settings(max_examples=10, deadline=None)
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


@pytest.mark.parametrize("side", [0, 1])
def test_failed_cells_leave_both_sides_of_the_pair_out(side):
    both = study(2)
    both[side][0, 0] = np.nan
    found = effect(*both, True)
    rest = np.isfinite(both[side])
    assert found.pairs == 23
    assert found.variant == pytest.approx(stats.trim_mean(both[0][rest], 0.25))
    assert found.baseline == pytest.approx(stats.trim_mean(both[1][rest], 0.25))
    without = [np.delete(cells[:, 0], 0) for cells in both]
    shares = [stats.mannwhitneyu(*without).statistic / 49]
    shares += [stats.mannwhitneyu(both[0][:, i], both[1][:, i]).statistic / 64 for i in (1, 2)]
    assert found.improvement == pytest.approx(np.mean(shares))


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


# Verdicts


@pytest.mark.parametrize(
    ("low", "high", "of_higher", "of_lower"),
    [
        (0.1, 0.2, "better", "worse"),
        (-0.2, -0.1, "worse", "better"),
        (-0.1, 0.2, "no difference shown", "no difference shown"),
        (-0.2, 0.1, "no difference shown", "no difference shown"),
        (0.0, 0.2, "no difference shown", "no difference shown"),
        (-0.2, 0.0, "no difference shown", "no difference shown"),
        (0.0, 0.0, "no difference shown", "no difference shown"),
        (1e-9, 0.2, "better", "worse"),
        (-0.2, -1e-9, "worse", "better"),
        (None, 0.2, "n/a", "n/a"),
        (-0.2, None, "n/a", "n/a"),
    ],
)
def test_a_verdict_needs_the_whole_interval_on_one_side(low, high, of_higher, of_lower):
    found = Effect(10, difference=0.15, low=low, high=high)
    assert (verdict(found, True), verdict(found, False)) == (of_higher, of_lower)


@pytest.mark.parametrize(
    ("low", "high", "hoped", "expected"),
    [
        (-0.5, -0.4, (-0.05, -0.31), "reached"),
        (-0.20, -0.06, (-0.05, -0.31), "reached"),  # the modest end is enough
        (-0.5, -0.01, (-0.05, -0.31), "cannot tell"),
        (-0.04, -0.01, (-0.05, -0.31), "not reached"),
        (0.1, 0.2, (-0.05, -0.31), "not reached"),
        (-0.1, 0.2, (0.0, -1.0), "cannot tell"),
        (-0.2, -0.1, (0.0, -1.0), "reached"),
        (0.1, 0.2, (0.0, -1.0), "not reached"),
        (-0.2, -0.05, (-0.05, -0.31), "cannot tell"),  # ends on the modest end itself
        (-0.05, -0.01, (-0.05, -0.31), "cannot tell"),
        (0.06, 0.5, (0.05, 0.10), "reached"),
        (0.04, 0.5, (0.05, 0.10), "cannot tell"),
        (0.01, 0.04, (0.05, 0.10), "not reached"),
        (-0.5, -0.06, (0.05, 0.10), "not reached"),
        (0.05, 0.5, (0.05, 0.10), "cannot tell"),
        (0.0, 0.05, (0.05, 0.10), "cannot tell"),
        (0.06, 0.5, (0.10, 0.05), "reached"),  # in either order
        (0.0, 1.0, (0.0, 1.0), "cannot tell"),
        (None, 0.5, (0.05, 0.10), "n/a"),
        (0.1, None, (0.05, 0.10), "n/a"),
    ],
)
def test_a_hope_is_reached_beyond_its_modest_end(low, high, hoped, expected):
    absolute = Effect(10, low=-9.0, high=9.0, relative_low=low, relative_high=high)
    assert against_hope(absolute, hoped) == expected


# Sharpe ratios


def test_the_example_of_bailey_and_lopez_de_prado():
    # 100 trials with a variance of 1/2 a year, 1,250 days, Sharpe ratio 2.5, skewness -3, kurtosis 10.
    benchmark = expected_maximum_sharpe(0.5 / 250, 100)
    assert benchmark == pytest.approx(0.1132, abs=1e-4)
    assert deflated_sharpe_of_moments(2.5 / math.sqrt(250), 1250, -3, 10, benchmark) == pytest.approx(0.9004, abs=1e-4)


def test_the_best_of_trials_without_skill_is_that_of_simulated_ones():
    best = np.random.default_rng(0).normal(0, 0.3, (20_000, 50)).max(axis=1).mean()
    assert expected_maximum_sharpe(0.09, 50) == pytest.approx(best, rel=0.02)
    # Of two: quantile(1 / 2) = 0, quantile(1 - 1 / (2 e)) = quantile(0.816060) = 0.900453, times 0.577216.
    assert expected_maximum_sharpe(4.0, 2) == pytest.approx(2 * 0.519755, abs=1e-5)


@pytest.mark.parametrize(
    ("skewness", "kurtosis", "z"),
    [
        (0.0, 3.0, 0.6 / math.sqrt(1.125)),
        (1.0, 3.0, 0.6 / math.sqrt(0.625)),
        (-1.0, 3.0, 0.6 / math.sqrt(1.625)),
        (0.0, 7.0, 0.6 / math.sqrt(1.375)),
    ],
)
def test_deflation_by_hand(skewness, kurtosis, z):
    """(0.5 - 0.2) sqrt(5 - 1) over the root of 1 - skewness 0.5 + (kurtosis - 1) / 4 0.25; of 5 bars each counts."""
    assert deflated_sharpe_of_moments(0.5, 5, skewness, kurtosis, 0.2) == pytest.approx(stats.norm.cdf(z))
    assert deflated_sharpe_of_moments(0.2, 5, skewness, kurtosis, 0.2) == 0.5


def test_moments_that_no_returns_have_give_no_probability():
    assert deflated_sharpe_of_moments(1.0, 100, 2.0, 3.0, 0.0) is None  # 1 - 2 + 2 / 4
    assert deflated_sharpe_of_moments(1.0, 100, 1.5, 3.0, 0.0) is None  # 1 - 1.5 + 2 / 4 = 0


@pytest.mark.parametrize("scale", [1.0, 0.01])
@pytest.mark.parametrize(
    ("high_days", "skewness", "kurtosis"),
    [
        (10, 0.0, 1.0),
        (4, 1.5, 3.25),  # share p = 0.2: (1 - 2 p) / sqrt(p (1 - p)) = 0.6 / 0.4; 1 / (p (1 - p)) - 3
        (16, -1.5, 3.25),
    ],
)
def test_deflated_ratio_of_twenty_days_by_hand(high_days, skewness, kurtosis, scale):
    """
    Days of 1 and of -1 / 2. Trials of 0.1, 0.2, 0.6 per bar: variance 0.07, of three the expected best is sqrt(0.07)
    times 0.422784 quantile(2 / 3) + 0.577216 quantile(1 - 1 / (3 e)) = 0.853 in all.
    """
    returns = scale * np.array([1.0] * high_days + [-0.5] * (20 - high_days))
    share = high_days / 20
    sharpe = (1.5 * share - 0.5) / (1.5 * math.sqrt(share * (1 - share) * 20 / 19))
    best = math.sqrt(0.07) * (0.422784 * stats.norm.ppf(2 / 3) + 0.577216 * stats.norm.ppf(1 - 1 / (3 * math.e)))
    z = (sharpe - best) * math.sqrt(19) / math.sqrt(1 - skewness * sharpe + (kurtosis - 1) / 4 * sharpe**2)
    found = deflated_sharpe(returns, np.array([0.1, np.nan, 0.6, 0.2, np.inf]))
    assert 0.0 < found < 1.0
    assert found == pytest.approx(stats.norm.cdf(z), abs=1e-6)


def test_what_has_no_deflated_ratio():
    returns = np.random.default_rng(0).normal(0.1, 1, 20)
    assert deflated_sharpe(returns, np.array([0.1, 0.2])) is not None
    assert deflated_sharpe(returns[:19], np.array([0.1, 0.2])) is None
    assert deflated_sharpe(returns, np.array([0.1, np.nan])) is None
    assert deflated_sharpe(np.zeros(100), np.array([0.1, 0.2])) is None


def annual_difference(one, two, bars_per_year):
    ratios = [returns.mean(axis=-1) / returns.std(axis=-1, ddof=1) for returns in (one, two)]
    return math.sqrt(bars_per_year) * (ratios[0] - ratios[1])


@pytest.mark.parametrize("bars_per_year", [52, 252, 365 * 24])
def test_interval_of_a_difference_of_sharpe_ratios_is_as_wide_as_the_closed_form(bars_per_year):
    one, two = np.random.default_rng(3).normal(0.05, 1, (2, 3000))
    difference, low, high = sharpe_difference(one, two, bars_per_year)
    assert difference == pytest.approx(annual_difference(one, two, bars_per_year))
    error = math.sqrt(bars_per_year * 2 * (1 + 0.05**2 / 2) / 3000)  # Lo (2002), two independent series
    assert (low, high) == pytest.approx((difference - 1.96 * error, difference + 1.96 * error), abs=0.4 * error)


def test_the_difference_is_that_of_twenty_days_by_hand():
    """
    Days of 3 and -1, half and half: mean 1, deviation 2 sqrt(20 / 19); of 2 and 0: mean 1, deviation sqrt(20 / 19).
    """
    variant, baseline = np.tile([3.0, -1.0], 10), np.tile([2.0, 0.0], 10)
    found = sharpe_difference(variant, baseline, 4.0)
    assert found[0] == pytest.approx(2 * (0.5 - 1.0) * math.sqrt(19 / 20))
    assert sharpe_difference(baseline, variant, 4.0)[0] == pytest.approx(-found[0])
    assert sharpe_difference(variant[:19], baseline[:19], 4.0) is None


def correlated(rng, persistence, shape):
    """Autoregressive returns with a deviation of 1, along the last axis."""
    noise = rng.normal(size=shape) * math.sqrt(1 - persistence**2)
    noise[..., 0] /= math.sqrt(1 - persistence**2)
    for t in range(1, shape[-1]):
        noise[..., t] += persistence * noise[..., t - 1]
    return noise


@pytest.mark.parametrize(("persistence", "shared"), [(0.6, 0.0), (0.9, 0.0), (0.9, 10.0)])
def test_returns_that_resemble_their_neighbours_make_the_interval_wider(persistence, shared):
    """
    The truth is the deviation over 800 simulated pairs of series: with persistence 0.9 four times that of independent
    days, which blocks of one day would report. What both share may hide how much the days of their gap are alike.
    """
    rng = np.random.default_rng(1)
    market = 0.03 + shared * rng.normal(size=(800, 1000))
    one, two = correlated(rng, persistence, (2, 800, 1000)) + market
    truth = annual_difference(one, two, 252).std()
    ends = [sharpe_difference(one[i], two[i], 252)[1:] for i in range(4)]
    half = np.diff(ends, axis=1).mean() / 2
    assert half / (1.96 * truth) == pytest.approx(1, abs=0.25)


def test_the_same_seed_draws_the_same_days():
    one, two = np.random.default_rng(4).normal(size=(2, 100))
    assert sharpe_difference(one, two, 252, seed=3) == sharpe_difference(one, two, 252, seed=3)
    assert sharpe_difference(one, two, 252, seed=3) != sharpe_difference(one, two, 252, seed=4)


def test_both_series_are_drawn_on_the_same_days():
    """What they share cancels out: the interval is narrow although each ratio alone is uncertain by 1.96 / sqrt(8)."""
    rng = np.random.default_rng(2)
    market = rng.normal(0.02, 1, 2000)
    difference, low, high = sharpe_difference(market + 0.02 * rng.normal(size=2000), market, 252)
    assert low < difference < high
    assert high - low < 0.1


def test_sharpe_ratios_that_are_undefined_have_no_difference():
    assert sharpe_difference(np.zeros(100), np.arange(100.0), 252) is None
    assert sharpe_difference(np.arange(100.0), np.ones(100), 252) is None
    assert sharpe_difference(np.arange(5.0), np.arange(5.0), 252) is None
    same = np.random.default_rng(0).normal(size=100)
    assert sharpe_difference(same, same, 252) == (0.0, 0.0, 0.0)


# Mistakes that only unusual data show; oracles: scale invariance, a bootstrap in a plain loop


@pytest.mark.parametrize("scale", [0.1, 10.0])
def test_seeds_needed_do_not_depend_on_the_unit_of_the_metric(scale):
    differences = np.random.default_rng(0).normal(0.5, 1.0, (20, 2))
    needed = effect(differences, np.zeros((20, 2)), True).seeds_needed
    assert needed > 5
    assert effect(scale * differences, np.zeros((20, 2)), True).seeds_needed == needed


def test_five_seeds_are_enough_for_a_number_of_seeds_and_no_spread_allows_none():
    assert effect(np.array([[1.0], [3.0], [2.0], [1.0], [2.0]]), np.zeros((5, 1)), True).seeds_needed >= 2
    assert effect(np.ones((6, 1)), np.zeros((6, 1)), True).seeds_needed is None


def test_the_interval_of_skewed_returns_is_that_of_the_percentiles():
    """Independent days, one of 100 with a large loss: the upper end is farther away than the lower one."""
    rng = np.random.default_rng(1)
    variant, baseline = rng.normal(0.02, 0.1, (2, 100))
    variant[10] -= 1.0
    difference, low, high = sharpe_difference(variant, baseline, 1.0)
    drawn = []
    for _ in range(2000):
        days = rng.integers(100, size=100)
        one, two = variant[days], baseline[days]
        drawn.append(one.mean() / one.std(ddof=1) - two.mean() / two.std(ddof=1))
    assert (low, high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.06)
    assert (high - difference) - (difference - low) > 0.1, "else the test could not tell the sides apart"


@pytest.mark.parametrize("still", [0, 1])
def test_one_series_without_spread_is_enough_to_leave_the_difference_undefined(still):
    series = [np.random.default_rng(0).normal(size=50) for _ in range(2)]
    series[still] = np.full(50, 0.01)
    assert sharpe_difference(*series, math.sqrt(252)) is None
