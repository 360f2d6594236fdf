"""Clipped quantiles. Oracles: worked arithmetic, numpy, each row alone."""

import numpy as np
import pytest
import torch
from builders import CLIP_MODES
from hypothesis import given, settings
from hypothesis import strategies as st

from distributional_ppo import clip_quantiles

OLD = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]])
NEW = torch.tensor([[1.0, 2.1, 3.0, 4.0, 6.5]])


def test_clipping_by_hand():
    per_quantile = clip_quantiles(NEW, OLD, 0.2, "per_quantile", 2.0)
    assert per_quantile.tolist()[0] == pytest.approx([1, 2.1, 3, 4, 5.2])

    shifted = clip_quantiles(NEW, OLD, 0.2, "mean_only", 2.0)  # mean 3.32 may be 3.20: all by -0.12
    assert shifted.tolist()[0] == pytest.approx([0.88, 1.98, 2.88, 3.88, 6.38])

    drawn = clip_quantiles(NEW, OLD, 0.2, "mean_and_variance", 1.0).double().numpy()[0]
    assert drawn.mean() == pytest.approx(3.2)
    assert drawn.std() == pytest.approx(np.sqrt(2.0))  # that of 1..5

    expected = 3.2 + (NEW.numpy()[0] - 3.32) * np.sqrt(2.0) / NEW.double().numpy()[0].std()
    assert drawn == pytest.approx(expected, rel=1e-5)


# 0 1 2 3 4: mean 2, std sqrt(2). 2 -1 -4 5 8: mean 2, std sqrt((0 + 9 + 36 + 9 + 36) / 5) = 3 sqrt(2).
@pytest.mark.parametrize(
    ("factor", "expected"),
    [
        (0.5, [2.0, 1.5, 1.0, 2.5, 3.0]),  # 1/6 of -0 -3 -6 3 6 around 2
        (1.0, [2.0, 1.0, 0.0, 3.0, 4.0]),  # 1/3
        (
            2.0,
            [2.0, 0.0, -2.0, 4.0, 6.0],
        ),  # 2/3; as a ratio of variances it would be sqrt(2) / 3
        (2.9, [2.0, -0.9, -3.8, 4.9, 7.8]),
        (3.1, [2.0, -1.0, -4.0, 5.0, 8.0]),
    ],
)
@pytest.mark.parametrize("moved", [0.0, 0.5, -7.0])
def test_the_variance_factor_is_a_ratio_of_standard_deviations(factor, expected, moved):
    old = torch.arange(5.0)[None].double()
    new = torch.tensor([[2.0, -1.0, -4.0, 5.0, 8.0]]).double() + moved
    clipped = clip_quantiles(new, old, 1.0, "mean_and_variance", factor)

    assert clipped.tolist()[0] == pytest.approx([x + np.clip(moved, -1, 1) for x in expected])


def test_a_spread_below_one_is_narrowed_by_the_same_ratio():
    """A tenth of the numbers above, at a factor of 1."""
    old = torch.arange(5.0)[None].double() / 10
    new = torch.tensor([[2.0, -1.0, -4.0, 5.0, 8.0]]).double() / 10
    clipped = clip_quantiles(new, old, 1.0, "mean_and_variance", 1.0)
    assert clipped.tolist()[0] == pytest.approx([0.2, 0.1, 0.0, 0.3, 0.4])


def test_a_large_sample_takes_no_spread_from_a_small_one():
    """Of 0, 1, 2 the spread is no rounding, whatever else is in the minibatch: a spread of 9 becomes that of 1."""
    old = torch.tensor([[0.0, 1.0, 2.0], [0.0, 1e9, 2e9]]).double()
    new = torch.tensor([[-8.0, 1.0, 10.0], [0.0, 1e9, 2e9]]).double()
    clipped = clip_quantiles(new, old, 1.0, "mean_and_variance", 1.0)
    assert clipped.tolist()[0] == pytest.approx([0.0, 1.0, 2.0])


def test_each_sample_is_clipped_for_itself():
    """Rows: moved too far, not moved, spread too far, of another sign. Oracle: each row alone."""
    old = torch.tensor(
        [
            [0.0, 1.0, 2.0],
            [0.0, 1.0, 2.0],
            [-1.0, 0.0, 1.0],
            [-3.0, -2.0, -1.0],
        ]
    )
    new = torch.tensor(
        [
            [9.0, 10.0, 11.0],
            [0.0, 1.0, 2.0],
            [-9.0, 0.0, 9.0],
            [3.0, 2.0, 1.0],
        ]
    )

    for mode in CLIP_MODES:
        alone = [clip_quantiles(new[i : i + 1], old[i : i + 1], 0.5, mode, 2.0) for i in range(4)]
        assert torch.equal(clip_quantiles(new, old, 0.5, mode, 2.0), torch.cat(alone))


@given(
    st.lists(st.floats(-100, 100), min_size=10, max_size=10),
    st.floats(0.01, 10),
    st.floats(0.5, 3),
)
@settings(max_examples=60, deadline=None)
def test_clipped_predictions_stay_near(values, eps, factor):
    """A spread of rounding's size, an old one of 0 above all, is not held to in "mean_and_variance"."""
    old, new = np.sort(np.array(values).reshape(2, 1, 5), axis=2)
    has_spread = old.std() > 1e-6 * np.abs(old).max()
    near = old + np.clip(new - old, -eps / 2, eps / 2)

    for mode in CLIP_MODES:

        def clip(quantiles, mode=mode):
            return clip_quantiles(
                torch.from_numpy(quantiles),
                torch.from_numpy(old),
                eps,
                mode,
                factor,
            ).numpy()

        clipped = clip(new)
        assert np.all(np.diff(clipped) >= -1e-9)  # sorted in, sorted out
        assert abs(clipped.mean() - old.mean()) <= eps + 1e-9
        if mode == "per_quantile":
            assert np.abs(clipped - old).max() <= eps + 1e-9

        if mode == "mean_and_variance" and has_spread:
            assert clipped.std() <= factor * old.std() + 1e-5

        if mode != "mean_and_variance" or not has_spread or near.std() < factor * old.std():
            assert clip(near) == pytest.approx(near, abs=1e-9)


@pytest.mark.parametrize("mode", CLIP_MODES)
def test_quantiles_within_the_clip_range_are_not_touched(mode):
    old = torch.randn(50, 8)
    new = torch.randn(50, 8)
    assert torch.equal(clip_quantiles(new, old, 1e6, mode, 1e6), new)  # so that the clip fraction counts no rounding


def test_an_unknown_mode_is_refused_and_disable_clips_nothing():
    assert torch.equal(clip_quantiles(NEW, OLD, 0.2, "disable", 2.0), NEW)
    with pytest.raises(
        ValueError,
        match=r"one of per_quantile, mean_only, mean_and_variance, disable, got .typo.",
    ):
        clip_quantiles(NEW, OLD, 0.2, "typo", 2.0)


def test_equal_quantiles_have_a_finite_gradient():
    quantiles = torch.ones(2, 5, requires_grad=True)
    clip_quantiles(quantiles, OLD.expand(2, 5), 0.1, "mean_and_variance", 2.0).sum().backward()
    assert torch.isfinite(quantiles.grad).all()


@settings(deadline=None)
@given(st.floats(-1e4, 1e4), st.floats(0, 1e-7))
def test_quantiles_that_were_equal_may_spread(value, rounding):
    """By hand: they are shifted, by 0.1 at most, as in "mean_only"; a spread of rounding's size is none."""
    old = torch.full((1, 5), value) * (1 + rounding * torch.tensor([1.0, -1.0, 1.0, -1.0, 0.0]))
    new = torch.tensor([[-2.0, -1.0, 0.0, 1.0, 2.0]]) + value
    assert torch.equal(
        clip_quantiles(new, old, 0.1, "mean_and_variance", 2.0),
        clip_quantiles(new, old, 0.1, "mean_only", 2.0),
    )
