"""The quantile maths. Oracles: worked arithmetic, numpy in float64, plain loops, sb3-contrib's loss."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sb3_contrib.common.utils import quantile_huber_loss as contrib_loss

from quantile_critic.losses import (
    next_std_average,
    quantile_huber_loss,
    quantile_midpoints,
    quantile_variance,
    squared_errors,
    variance_scaling_weight,
    weight_before_spread,
)

ONE_TO_FIVE = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]], dtype=torch.float64)
numbers = st.floats(-100, 100, width=32)


def quantile_lists(min_size=1):
    """Lists of B samples with N quantiles each."""
    return st.integers(1, 8).flatmap(
        lambda n: st.lists(
            st.lists(numbers, min_size=n, max_size=n),
            min_size=min_size,
            max_size=6,
        )
    )


def test_midpoints_are_the_literal_ones():
    assert quantile_midpoints(4, like=ONE_TO_FIVE).tolist() == [
        0.125,
        0.375,
        0.625,
        0.875,
    ]


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        # u = 2 1 0 -1 -2; tau .1 .3 .5 .7 .9; huber 1.5 .5 0 .5 1.5; (.1*1.5 + .3*.5 + 0 + .3*.5 + .1*1.5) / 5
        (3.0, 0.12),
        # u = 5 4 3 2 1; huber 4.5 3.5 2.5 1.5 .5; (.45 + 1.05 + 1.25 + 1.05 + .45) / 5; a flipped sign gives 1.65
        (6.0, 0.85),
    ],
)
def test_loss_is_the_hand_computed_one(target, expected):
    loss = quantile_huber_loss(ONE_TO_FIVE, torch.tensor([target], dtype=torch.float64), kappa=1.0)
    assert loss.shape == (1,)
    assert loss.item() == pytest.approx(expected, abs=1e-12)


def test_gradient_is_the_hand_computed_one():
    quantiles = ONE_TO_FIVE.clone().requires_grad_()
    quantile_huber_loss(quantiles, torch.tensor([6.0], dtype=torch.float64), kappa=1.0).sum().backward()
    assert quantiles.grad[0].tolist() == pytest.approx([-0.02, -0.06, -0.10, -0.14, -0.18], abs=1e-12)


@given(quantile_lists(), st.data())
@settings(max_examples=50, deadline=None)
def test_loss_at_kappa_1_is_that_of_sb3_contrib(rows, data):
    quantiles = torch.tensor(rows, dtype=torch.float32)
    targets = torch.tensor(data.draw(st.lists(numbers, min_size=len(rows), max_size=len(rows))))
    ours = quantile_huber_loss(quantiles, targets, kappa=1.0)

    assert torch.allclose(
        ours.mean(),
        contrib_loss(quantiles, targets[:, None], sum_over_quantiles=False),
        rtol=1e-5,
    )


@given(quantile_lists(), st.floats(0.01, 50), st.data())
@settings(max_examples=50, deadline=None)
def test_loss_is_that_of_a_float64_loop(rows, kappa, data):
    targets = data.draw(st.lists(numbers, min_size=len(rows), max_size=len(rows)))
    expected = []

    for row, target in zip(rows, targets, strict=True):
        total = 0.0

        for i, q in enumerate(row):
            u = target - q
            huber = u * u / 2 if abs(u) <= kappa else kappa * (abs(u) - kappa / 2)
            total += abs((i + 0.5) / len(row) - (u < 0)) * huber / kappa

        expected.append(total / len(row))

    ours = quantile_huber_loss(
        torch.tensor(rows, dtype=torch.float64),
        torch.tensor(targets).double(),
        kappa,
    )

    assert ours.numpy() == pytest.approx(np.array(expected), rel=1e-9, abs=1e-9)


def test_one_quantile_and_a_huge_kappa_give_the_squared_error():
    loss = quantile_huber_loss(torch.tensor([[1.0]]), torch.tensor([[4.0]]), kappa=2.0**20)
    assert loss.item() == 9.0 / (4 * 2**20)


@given(quantile_lists(), st.floats(-50, 50), st.data())
@settings(max_examples=25, deadline=None)
def test_loss_does_not_change_when_everything_shifts(rows, shift, data):
    quantiles = torch.tensor(rows, dtype=torch.float64)
    targets = torch.tensor(data.draw(st.lists(numbers, min_size=len(rows), max_size=len(rows)))).double()
    shifted = quantile_huber_loss(quantiles + shift, targets + shift, 1.0)

    assert torch.allclose(
        shifted,
        quantile_huber_loss(quantiles, targets, 1.0),
        rtol=1e-6,
        atol=1e-6,
    )


@given(quantile_lists(), st.sampled_from([0.25, 2.0, 8.0]), st.data())
@settings(max_examples=25, deadline=None)
def test_loss_scales_with_the_units_when_kappa_does(rows, scale, data):
    quantiles = torch.tensor(rows, dtype=torch.float64)
    targets = torch.tensor(data.draw(st.lists(numbers, min_size=len(rows), max_size=len(rows)))).double()
    scaled = quantile_huber_loss(quantiles * scale, targets * scale, scale)

    assert torch.allclose(scaled, scale * quantile_huber_loss(quantiles, targets, 1.0))


def test_descent_at_small_kappa_finds_the_quantiles_of_the_sample():
    samples = np.random.default_rng(0).gamma(2.0, size=2_001)
    quantiles = torch.zeros(1, 9, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([quantiles], lr=1.0)

    for step in range(1_500):
        optimizer.param_groups[0]["lr"] = 2.0 * 0.995**step
        optimizer.zero_grad()
        loss = quantile_huber_loss(
            quantiles.expand(len(samples), 9),
            torch.from_numpy(samples),
            kappa=0.01,
        )
        (9 * loss.mean()).backward()
        optimizer.step()

    expected = np.quantile(samples, (np.arange(9) + 0.5) / 9)

    assert quantiles.detach().numpy()[0] == pytest.approx(expected, abs=0.02)


def test_pairs_of_quantiles_and_atoms_with_sb3_contrib():
    torch.manual_seed(0)
    quantiles = torch.randn(6, 5)
    atoms = torch.randn(6, 3)
    expected = contrib_loss(quantiles, atoms, sum_over_quantiles=False)

    assert quantile_huber_loss(quantiles, atoms, 1.0).mean().item() == pytest.approx(expected.item(), rel=1e-6)

    first = quantile_huber_loss(quantiles, atoms[:, :1].expand(6, 4), 1.0)
    assert torch.allclose(first, quantile_huber_loss(quantiles, atoms[:, 0], 1.0))


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_targets_are_one_row_per_row_of_quantiles(shape):
    quantiles = torch.zeros(4, 3)
    assert quantile_huber_loss(quantiles, torch.ones(shape), 1.0).shape == (4,)


OTHER_SHAPES = [
    (),
    (1,),
    (1, 1),
    (1, 4, 2),
    (3,),
    (5,),
    (2, 2, 2),
    (1, 8),
    (8, 1),
    (0,),
    (2, 2),
    (1, 4),
]


@pytest.mark.parametrize("shape", OTHER_SHAPES)
def test_targets_of_another_number_of_rows_are_refused(shape):
    with pytest.raises(
        ValueError,
        match=r"targets must have shape \(4,\), \(4, 1\) or \(4, M\)",
    ):
        quantile_huber_loss(torch.zeros(4, 3), torch.ones(shape), 1.0)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_one_row_of_quantiles_takes_one_target(shape):
    """One quantile 0 against 1, kappa 1: |0.5 - 0| * 1 / 2."""
    assert quantile_huber_loss(torch.zeros(1, 1), torch.ones(shape), 1.0).tolist() == [0.25]


@given(quantile_lists())
@settings(max_examples=50, deadline=None)
def test_variance_is_numpys_population_variance(rows):
    expected = np.var(np.array(rows), axis=1)
    ours = quantile_variance(torch.tensor(rows, dtype=torch.float64)).numpy()
    assert ours == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(quantile_lists(), st.randoms())
@settings(max_examples=50, deadline=None)
def test_weight_is_within_the_clamps_and_blind_to_the_order(rows, random):
    weight = variance_scaling_weight(torch.tensor(rows, dtype=torch.float64), 0.1, 10.0)
    assert weight.item() == pytest.approx(np.clip(np.mean(np.var(np.array(rows), axis=1)), 0.1, 10.0))

    random.shuffle(rows)
    shuffled = variance_scaling_weight(
        torch.tensor([random.sample(row, len(row)) for row in rows]).double(),
        0.1,
        10.0,
    )

    assert shuffled.item() == pytest.approx(weight.item())


def test_weight_has_no_gradient_and_takes_extreme_numbers():
    quantiles = torch.tensor([[-1e20, 1e20]], requires_grad=True)  # the variance overflows float32
    weight = variance_scaling_weight(quantiles, 0.1, 10.0)
    assert not weight.requires_grad
    assert weight.item() == 10.0


@pytest.mark.parametrize(
    "clips",
    [
        (-0.1, 1.0),
        (2.0, 1.0),
        (0.1, float("inf")),
        (float("nan"), 1.0),
        (0.0, 0.0),
    ],
)
def test_weight_refuses_clamps_that_are_not_a_range(clips):
    with pytest.raises(ValueError, match="variance_scaling_clip_min"):
        variance_scaling_weight(ONE_TO_FIVE, *clips)


def test_weight_refuses_quantiles_without_a_batch():
    with pytest.raises(ValueError, match=r"shape \(B, N\)"):
        variance_scaling_weight(ONE_TO_FIVE[0], 0.1, 10.0)


def test_variance_is_over_the_last_dimension_whatever_stands_before():
    quantiles = np.random.default_rng(0).normal(size=(2, 3, 4))
    assert quantile_variance(torch.tensor(quantiles)).numpy() == pytest.approx(quantiles.var(axis=-1))


@pytest.mark.parametrize("shape", [(), (5,)])
def test_variance_needs_a_batch(shape):
    with pytest.raises(ValueError, match=r"shape \(B, N\)"):
        quantile_variance(torch.zeros(shape))


@pytest.mark.parametrize(
    ("clip_min", "expected"),
    [(0.0, 1.0), (9.9e-7, 1.0), (1e-6, 1e-6), (0.1, 0.1)],
)
def test_the_smallest_clamp_that_counts(clip_min, expected):
    weight = variance_scaling_weight(torch.zeros(4, 8), clip_min, 10.0, torch.ones(4))
    assert weight.item() == pytest.approx(expected)


def test_a_lower_clamp_stays_the_formula():
    """Quantiles that are one: variance 0, weight 0.1, whatever the error."""
    weights = [variance_scaling_weight(torch.zeros(4, 8), 0.1, 10.0, targets) for targets in (None, torch.ones(4))]
    assert [weight.item() for weight in weights] == pytest.approx([0.1, 0.1])


@pytest.mark.parametrize(
    ("variance", "expected"),
    [
        (0.0, 1.0),  # squared error 4, enough is 0.4: r = 0
        (0.1, 0.25 * 0.1 + 0.75),  # r = 0.1 / 0.4
        (0.4, 0.4),  # r = 1
        (2.0, 2.0),
        (30.0, 10.0),  # the upper clamp
    ],
)
def test_the_weight_moves_from_one_to_the_variance(variance, expected):
    std = variance**0.5
    quantiles = torch.tensor([[-std, std]] * 3, requires_grad=True)
    weight = variance_scaling_weight(quantiles, 0.0, 10.0, targets=torch.full((3, 1), 2.0))

    assert weight.item() == pytest.approx(expected, rel=1e-5)
    assert not weight.requires_grad


@pytest.mark.parametrize("targets", [torch.tensor([3.0, -1.0]), torch.tensor([[3.0], [-1.0]])])
def test_the_error_is_that_of_the_mean_prediction(targets):
    """Means 1 and 0, errors 2 and -1."""
    errors = squared_errors(torch.tensor([[0.0, 2.0], [-5.0, 5.0]]), targets)
    assert errors.tolist() == [4.0, 1.0]


def test_the_error_of_atoms_is_the_mean_over_them():
    """Mean 1, atoms 0 and 4: (1 + 9) / 2."""
    assert squared_errors(torch.tensor([[0.0, 2.0]]), torch.tensor([[0.0, 4.0]])).tolist() == [5.0]


@pytest.mark.parametrize(
    ("clip_max", "expected"),
    [(10.0, [1.0, 1.0]), (0.5, [0.5, 0.5])],
)
def test_the_weight_before_a_spread_is_one_within_the_clamps(clip_max, expected):
    weights = weight_before_spread(torch.zeros(2), torch.tensor(0.0), torch.tensor(1.0), clip_max)
    assert weights.tolist() == expected


def test_a_perfect_critic_has_a_finite_weight():
    """No spread and no error: the loss is 0 whatever the weight."""
    weight = weight_before_spread(torch.tensor(0.0), torch.tensor(0.0), torch.tensor(0.0), 10.0)
    assert torch.isfinite(weight)


def averages(stds, squared_error):
    """The average after each minibatch of 3 samples of that standard deviation."""
    average = filled = torch.zeros(())

    for std in stds:
        variance = torch.full((3,), std**2)
        average, filled = next_std_average(average, filled, variance, torch.tensor(squared_error))
        yield average.item()


def test_the_average_begins_with_the_first_spread_and_is_debiased():
    """
    Squared error 10: a spread has a variance of 1. Before, the average is the standard deviation as is. Then 1, 3, 2:
    1; (0.995 * 1 + 3) / 1.995; (0.995^2 * 1 + 0.995 * 3 + 2) / (0.995^2 + 0.995 + 1). A narrow one counts by then.
    """
    expected = [
        4e-9,
        0.5,
        1.0,
        3.995 / 1.995,
        (0.995**2 + 0.995 * 3 + 2) / (0.995**2 + 1.995),
    ]

    assert list(averages([4e-9, 0.5, 1.0, 3.0, 2.0], 9.99)) == pytest.approx(expected, rel=1e-5)
    assert list(averages([1.0, 0.0], 9.99)) == pytest.approx([1.0, 0.995 / 1.995], rel=1e-5)


def test_the_average_after_many_minibatches_is_that_of_adam_debiased():
    stds = np.random.default_rng(0).uniform(1, 3, size=500)
    moment = 0.0
    for std in stds:
        moment = 0.995 * moment + 0.005 * std

    assert list(averages(stds, 0.0))[-1] == pytest.approx(moment / (1 - 0.995**500), rel=1e-4)
