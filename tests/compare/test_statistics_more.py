"""Statistics whose mistakes only unusual data show; oracles: scale invariance, a bootstrap in a plain loop."""

import math

import numpy as np
import pytest

from market_regimes.compare.statistics import effect, sharpe_difference


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
