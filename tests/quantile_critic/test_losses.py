"""The pure functions of ``distributional_ppo``, against sb3-contrib, closed forms and numpy in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sb3_contrib.common.utils import quantile_huber_loss as contrib_loss
from torch import nn

from distributional_ppo import quantile_huber_loss, quantile_midpoints, quantile_variance, variance_scaling_weight
from quantile_critic.head import QuantileHead

ONE_TO_FIVE = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]], dtype=torch.float64)
numbers = st.floats(-100, 100, width=32)


def quantile_lists(min_size=1):
    """Lists of B samples with N quantiles each."""
    return st.integers(1, 8).flatmap(
        lambda n: st.lists(st.lists(numbers, min_size=n, max_size=n), min_size=min_size, max_size=6)
    )


def test_midpoints_are_the_literal_ones():
    assert quantile_midpoints(4, like=ONE_TO_FIVE).tolist() == [0.125, 0.375, 0.625, 0.875]


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
    assert torch.allclose(ours.mean(), contrib_loss(quantiles, targets[:, None], sum_over_quantiles=False), rtol=1e-5)


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
    ours = quantile_huber_loss(torch.tensor(rows, dtype=torch.float64), torch.tensor(targets).double(), kappa)
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
    assert torch.allclose(shifted, quantile_huber_loss(quantiles, targets, 1.0), rtol=1e-6, atol=1e-6)


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
        loss = quantile_huber_loss(quantiles.expand(len(samples), 9), torch.from_numpy(samples), kappa=0.01)
        (9 * loss.mean()).backward()
        optimizer.step()
    expected = np.quantile(samples, (np.arange(9) + 0.5) / 9)
    assert quantiles.detach().numpy()[0] == pytest.approx(expected, abs=0.02)


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
    shuffled = variance_scaling_weight(torch.tensor([random.sample(row, len(row)) for row in rows]).double(), 0.1, 10.0)
    assert shuffled.item() == pytest.approx(weight.item())


def test_weight_has_no_gradient_and_takes_extreme_numbers():
    quantiles = torch.tensor([[-1e20, 1e20]], requires_grad=True)  # the variance overflows float32
    weight = variance_scaling_weight(quantiles, 0.1, 10.0)
    assert not weight.requires_grad
    assert weight.item() == 10.0


@pytest.mark.parametrize("clips", [(-0.1, 1.0), (2.0, 1.0), (0.1, float("inf")), (float("nan"), 1.0), (0.0, 0.0)])
def test_weight_refuses_clamps_that_are_no_range(clips):
    with pytest.raises(ValueError, match="variance_scaling_clip_min"):
        variance_scaling_weight(ONE_TO_FIVE, *clips)


def test_weight_refuses_quantiles_without_a_batch():
    with pytest.raises(ValueError, match=r"shape \(B, N\)"):
        variance_scaling_weight(ONE_TO_FIVE[0], 0.1, 10.0)


def observed(rate, rollouts):
    """A head that saw the rollouts."""
    head = QuantileHead(nn.Linear(3, 1), 5)
    head.ret_std.zero_()
    for returns in rollouts:
        head.observe_returns(returns, rate, popart=False)
    return head


def test_statistics_are_the_debiased_average_of_mean_and_mean_square():
    rollouts = [np.random.default_rng(i).normal(10 * i, 1 + i, size=(16, 2)) for i in range(6)]
    mean = square = weight = 0.0
    for returns in rollouts:  # Adam's form of the average, in float64
        mean, square, weight = (
            0.7 * mean + 0.3 * returns.mean(),
            0.7 * square + 0.3 * (returns**2).mean(),
            0.7 * weight + 0.3,
        )
    head = observed(0.3, rollouts)
    assert head.ret_mean.item() == pytest.approx(mean / weight, rel=1e-5)
    assert head.ret_std.item() == pytest.approx(np.sqrt(square / weight - (mean / weight) ** 2), rel=1e-5)


def test_statistics_without_a_rate_are_those_of_all_returns_together():
    rollouts = [np.random.default_rng(i).normal(1000 + i, 0.5, size=(16, 2)) for i in range(6)]
    head = observed(None, rollouts)
    assert head.ret_mean.item() == pytest.approx(np.mean(rollouts), rel=1e-6)
    assert head.ret_std.item() == pytest.approx(np.std(rollouts), rel=1e-4)  # E[x^2] - E[x]^2 would be noise here


@given(st.floats(-1e3, 1e3), st.floats(1e-3, 1e3), st.floats(-1e3, 1e3), st.floats(1e-3, 1e3))
@settings(max_examples=100, deadline=None)
def test_popart_keeps_raw_predictions(mean, std, new_mean, new_std):
    torch.manual_seed(0)
    head = QuantileHead(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1)), 8)
    head.set_statistics(mean, std, popart=False)
    latent = torch.randn(32, 4)
    with torch.no_grad():
        before = head.to_raw(head.net(latent))
        head.set_statistics(new_mean, new_std, popart=True)
        after = head.to_raw(head.net(latent))
    bound = 1e-6 * (abs(mean) + abs(new_mean) + std + new_std)
    assert (before - after).abs().max().item() <= bound


def test_equal_returns_are_normalised_to_zero_and_predicted_exactly():
    head = observed(0.1, [np.full((4, 2), 3.0)])
    latent = torch.randn(2, 3)
    assert head.to_normalized(torch.tensor([3.0])).item() == 0.0
    assert head.value(head(latent)).flatten().tolist() == [3.0, 3.0]


@pytest.mark.parametrize("module", [nn.Linear(3, 2), nn.Tanh()])
def test_head_refuses_a_value_net_it_cannot_widen(module):
    with pytest.raises(ValueError, match="one output"):
        QuantileHead(module, 8)


def test_variance_is_over_the_last_dimension_whatever_stands_before():
    quantiles = np.random.default_rng(0).normal(size=(2, 3, 4))
    assert quantile_variance(torch.tensor(quantiles)).numpy() == pytest.approx(quantiles.var(axis=-1))


@pytest.mark.parametrize("shape", [(), (5,)])
def test_variance_needs_a_batch(shape):
    with pytest.raises(ValueError, match=r"shape \(B, N\)"):
        quantile_variance(torch.zeros(shape))
