"""
``VarianceGradientScalingMixin`` on hosts that clip: clip, loss, maximum, weight.

Oracle: the same host without the mixin, whose maximum is multiplied by numpy's variance of the unclipped quantiles.
"""

import copy
import io
import pickle

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from torch import nn

from distributional_ppo import VarianceGradientScalingMixin
from quantile_critic.losses import quantile_huber_loss

B = 16
N = 8
EPS = 0.2


def clip(quantiles, old):
    return old + (quantiles - old).clamp(-EPS, EPS)


class Host:
    """A trainer whose value loss of a minibatch is the mean of the larger of two losses per sample."""

    def __init__(self):
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, N))
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.5)
        self.steps = []

    def _quantile_huber_loss(self, quantiles, targets):
        return quantile_huber_loss(quantiles, targets, 1.0)

    def loss_of(self, obs, targets, old):
        quantiles = self.net(obs)
        unclipped = self._quantile_huber_loss(quantiles, targets)
        clipped = self._quantile_huber_loss(clip(quantiles, old), targets)
        self.steps.append((unclipped.detach(), clipped.detach(), quantiles.detach()))
        return torch.max(unclipped, clipped).mean()

    def learn(self, loss):
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


class Normalising(Host):
    """Targets are computed anew for each call."""

    def loss_of(self, obs, targets, old):
        quantiles = self.net(obs)
        unclipped = self._quantile_huber_loss(quantiles, (targets - 0.5) / 2.0)
        clipped = self._quantile_huber_loss(clip(quantiles, old), (targets - 0.5) / 2.0)
        self.steps.append((unclipped.detach(), clipped.detach(), quantiles.detach()))
        return torch.max(unclipped, clipped).mean()


class Viewing(Host):
    """Targets are other views of their memory in each call; quantiles are copies, which end with the call."""

    def loss_of(self, obs, targets, old):
        quantiles = self.net(obs)
        unclipped = self._quantile_huber_loss(quantiles * 1.0, targets[:, None])
        clipped = self._quantile_huber_loss(
            clip(quantiles, old) * 1.0,
            targets.detach().reshape(1, B).squeeze(0),
        )
        self.steps.append((unclipped.detach(), clipped.detach(), quantiles.detach()))
        return torch.max(unclipped, clipped).mean()


class Twice(Host):
    """The network runs once for each call."""

    def loss_of(self, obs, targets, old):
        unclipped = self._quantile_huber_loss(self.net(obs), targets)
        clipped = self._quantile_huber_loss(clip(self.net(obs), old), targets)
        self.steps.append((unclipped.detach(), clipped.detach(), self.net(obs).detach()))
        return torch.max(unclipped, clipped).mean()


class Keeping(Host):
    """Everything that a call takes and gives is kept, as for a log."""

    def loss_of(self, obs, targets, old):
        quantiles = self.net(obs)
        unclipped = self._quantile_huber_loss(quantiles, targets)
        clipped = self._quantile_huber_loss(clip(quantiles, old), targets)
        self.steps.append((unclipped, clipped, quantiles.detach(), quantiles, targets))
        return torch.max(unclipped, clipped).mean()


class Summing(Host):
    """One loss of both, of shape ()."""

    def _quantile_huber_loss(self, quantiles, targets):
        return quantile_huber_loss(quantiles, targets, 1.0).mean()


HOSTS = [Host, Normalising, Viewing, Twice, Keeping, Summing]


def patched(host=Host, **flags):
    return type("Patched", (VarianceGradientScalingMixin, host), {})(**flags)


def minibatches(n, seed=1, spread=1.0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(B, 3), (B,), (B, N)]
    return [[spread * torch.randn(shape, generator=generator) for shape in shapes] for _ in range(n)]


def weight_of(quantiles):
    """Oracle: the clamped mean of numpy's population variances."""
    return float(np.clip(quantiles.double().numpy().var(axis=1).mean(), 0.01, 10.0))


def shown(trainer, batches, together=1):
    """
    Losses and parameters while a trainer learns; of the plain host, times the oracle's weight. As many minibatches as
    ``together`` are in one backward pass.
    """
    losses = []

    for start in range(0, len(batches), together):
        total = 0.0

        for batch in batches[start : start + together]:
            loss = trainer.loss_of(*batch)
            if not isinstance(trainer, VarianceGradientScalingMixin):
                loss = weight_of(trainer.steps[-1][2]) * loss
            losses.append(loss.item())
            total = total + loss

        trainer.learn(total)

    return losses, torch.cat([p.detach().flatten() for p in trainer.net.parameters()]).tolist()


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize(
    "together",
    [1, 3],
    ids=["one minibatch a step", "accumulated gradients"],
)
def test_the_maximum_is_taken_of_equally_weighted_losses(host, together):
    batches = minibatches(6)
    losses, parameters = shown(patched(host, variance_scaling_clip_min=0.01), batches, together)
    expected, expected_parameters = shown(host(), batches, together)

    assert losses == pytest.approx(expected, rel=1e-5)
    assert parameters == pytest.approx(expected_parameters, rel=1e-4, abs=1e-6)


def test_the_clipped_loss_counts_where_it_is_larger_without_the_weight():
    obs, targets, old = minibatches(1)[0]
    plain = Host()
    trainer = patched()
    plain.loss_of(obs, targets, old)
    trainer.loss_of(obs, targets, old)
    larger = [clipped > unclipped for unclipped, clipped, _ in (plain.steps[0], trainer.steps[0])]

    assert 0 < larger[0].sum() < B
    assert torch.equal(larger[0], larger[1])


def repeated_tensor(batches):
    """The whole rollout is one minibatch, the same tensors in every epoch."""
    return [batches[0]] * len(batches)


def overwritten_tensor(batches):
    """One tensor for the targets of all minibatches, overwritten."""
    buffer = torch.empty(B)

    for obs, targets, old in batches:
        buffer.copy_(targets)
        yield obs, buffer, old


def overwritten_array(batches):
    """Likewise, of memory that numpy writes to."""
    array = np.empty(B, np.float32)
    buffer = torch.from_numpy(array)

    for obs, targets, old in batches:
        array[:] = targets.numpy()
        yield obs, buffer, old


def equal_values(batches):
    """All rewards are 0."""
    return [(obs, torch.zeros(B), old) for obs, _, old in batches]


def overwritten_with_equal_values(batches):
    """Likewise, in one tensor."""
    buffer = torch.zeros(B)

    for obs, _, old in batches:
        buffer.zero_()
        yield obs, buffer, old


def slices(batches):
    """Views of the targets of the whole rollout."""
    every = torch.cat([targets for _, targets, _ in batches])
    return [(obs, every[i * B : (i + 1) * B], old) for i, (obs, _, old) in enumerate(batches)]


def freed(batches):
    """Memory of freed targets is used again."""
    for obs, targets, old in batches:
        yield obs, targets.clone(), old


WAYS = [
    repeated_tensor,
    overwritten_tensor,
    overwritten_array,
    equal_values,
    overwritten_with_equal_values,
    slices,
]
WAYS.append(freed)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("host", [Host, Viewing, Twice, Keeping])
def test_a_weight_does_not_reach_the_next_minibatch(host, way):
    trainer = patched(host, variance_scaling_clip_min=0.01)
    plain = host()
    for ours, theirs in zip(way(minibatches(5)), way(minibatches(5)), strict=True):
        assert shown(trainer, [ours])[0] == pytest.approx(shown(plain, [theirs])[0], rel=1e-5)


def test_a_weight_does_not_reach_the_next_minibatch_of_accumulated_gradients():
    batches = list(equal_values(minibatches(6)))
    losses, _ = shown(patched(variance_scaling_clip_min=0.01), batches, together=3)
    assert losses == pytest.approx(shown(Host(), batches, together=3)[0], rel=1e-5)


@pytest.mark.parametrize("as_one", [True, False], ids=["the same tensor", "a view of it"])
def test_calls_without_gradients_share_the_weight_too(as_one):
    trainer = patched(variance_scaling_clip_min=0.01)
    obs, targets, old = minibatches(1)[0]

    with torch.no_grad():
        quantiles = trainer.net(obs)
        trainer._quantile_huber_loss(quantiles, targets)
        second = targets if as_one else targets[:, None]
        clipped = trainer._quantile_huber_loss(clip(quantiles, old), second)
        expected = weight_of(quantiles) * quantile_huber_loss(clip(quantiles, old), targets, 1.0)
        assert torch.allclose(clipped, expected)

        # Other parameters, the same targets: another minibatch.
        trainer.net[0].weight.mul_(3)
        quantiles = trainer.net(obs)
        again = trainer._quantile_huber_loss(quantiles, targets)
        assert torch.allclose(
            again,
            weight_of(quantiles) * quantile_huber_loss(quantiles, targets, 1.0),
        )


def overwritten(targets):
    targets.copy_(2 * targets)


def overwritten_by_numpy(targets):
    targets.numpy()[:] *= 2


@pytest.mark.parametrize("overwrite", [overwritten, overwritten_by_numpy])
def test_targets_that_were_written_to_are_other_targets_although_all_is_kept(overwrite):
    trainer = patched(variance_scaling_clip_min=0.01)
    obs, targets, _ = minibatches(1)[0]

    with torch.no_grad():
        kept = [trainer.net(obs), 3 * trainer.net(obs)]
        for quantiles in kept:
            loss = trainer._quantile_huber_loss(quantiles, targets)
            assert torch.allclose(
                loss,
                weight_of(quantiles) * quantile_huber_loss(quantiles, targets, 1.0),
            )
            overwrite(targets)


def test_equal_values_written_again_are_other_targets():
    trainer = patched(variance_scaling_clip_min=0.01)
    obs, targets, _ = minibatches(1)[0]

    with torch.no_grad():
        kept = [trainer.net(obs), 3 * trainer.net(obs)]
        for quantiles in kept:
            loss = trainer._quantile_huber_loss(quantiles, targets)
            assert torch.allclose(
                loss,
                weight_of(quantiles) * quantile_huber_loss(quantiles, targets, 1.0),
            )
            targets.copy_(targets.clone())


def test_other_targets_of_the_same_predictions_have_a_weight_of_their_own():
    trainer = patched(variance_scaling_clip_min=0.01)
    obs, targets, _ = minibatches(1)[0]
    quantiles = trainer.net(obs)
    trainer._quantile_huber_loss(quantiles, targets)
    loss = trainer._quantile_huber_loss(3 * quantiles, targets + 1)
    expected = weight_of(3 * quantiles.detach()) * quantile_huber_loss(3 * quantiles, targets + 1, 1.0)

    assert torch.allclose(loss, expected)


def test_views_of_quantiles_without_gradients_share_the_weight():
    trainer = patched(variance_scaling_clip_min=0.01)
    obs, targets, old = minibatches(1)[0]

    with torch.no_grad():
        quantiles = trainer.net(obs)
        trainer._quantile_huber_loss(quantiles[:, :], targets)
        clipped = trainer._quantile_huber_loss(clip(quantiles, old)[:, :], targets)
        expected = weight_of(quantiles) * quantile_huber_loss(clip(quantiles, old), targets, 1.0)

    assert torch.allclose(clipped, expected)


@pytest.mark.parametrize(
    "order",
    [[0, 1, 2, 3], [0, 2, 1, 3]],
    ids=["critic by critic", "clipped ones last"],
)
def test_two_critics_of_a_host_have_a_weight_each(order):
    trainer = patched(variance_scaling_clip_min=0.01)
    obs, targets, old = minibatches(1)[0]
    theirs = nn.Linear(3, N)
    first = trainer.net(obs)
    second = theirs(obs)
    calls = [first, clip(first, old), second, clip(second, old)]
    weights = [weight_of(q.detach()) for q in (first, first, second, second)]

    for i in order:
        loss = trainer._quantile_huber_loss(calls[i], targets)
        assert torch.allclose(loss, weights[i] * quantile_huber_loss(calls[i], targets, 1.0)), i


def test_the_average_of_dsac_t_moves_once_a_minibatch():
    """Standard deviations 2 and then 1: the average is 2, then (0.995 * 2 + 1) / 1.995."""
    trainer = patched(variance_scaling_mode="dsac_t")
    signs = torch.tensor([1.0, -1.0]).repeat(N // 2).expand(B, N)
    averages = []

    for std in (2.0, 1.0):
        quantiles = (std * signs).clone().requires_grad_()
        targets = torch.zeros(B)
        for q in (
            quantiles,
            clip(quantiles, torch.zeros(B, N)),
            clip(quantiles, signs),
        ):
            trainer._quantile_huber_loss(q, targets)
        averages.append(trainer._std_average.item())

    assert averages == pytest.approx([2.0, 2.99 / 1.995])


def test_a_host_that_clips_compiles():
    """The oracle is the same host without torch.compile."""
    trainer = patched()
    eager = patched()
    compiled = torch.compile(trainer.loss_of, backend="aot_eager")

    for batch in minibatches(3):
        loss = compiled(*batch)
        expected = eager.loss_of(*batch)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
        trainer.learn(loss)
        eager.learn(expected)


class Sb3Host(PPO):
    """An SB3 trainer whose own ``train`` clips."""

    def _quantile_huber_loss(self, quantiles, targets):
        return (quantiles - targets[:, None]).abs().mean(dim=1)

    def train(self):
        for data in self.rollout_buffer.get(self.batch_size):
            quantiles = self.policy.predict_values(data.observations) + torch.linspace(-1, 1, N)
            losses = [self._quantile_huber_loss(q, data.returns) for q in (quantiles, quantiles.clamp(-0.1, 0.1))]
            self.policy.optimizer.zero_grad()
            torch.max(*losses).mean().backward()
            self.policy.optimizer.step()

        # Between its two calls a host may save or copy itself.
        self.quantiles = self.policy.predict_values(data.observations) + torch.linspace(-1, 1, N)
        self._quantile_huber_loss(self.quantiles, data.returns)
        self.quantiles = None


class PatchedSb3Host(VarianceGradientScalingMixin, Sb3Host):
    pass


@pytest.mark.parametrize("mode", ["batch", "dsac_t"])
def test_a_trainer_between_two_calls_can_be_copied_pickled_and_saved(mode, tmp_path):
    model = PatchedSb3Host(
        "MlpPolicy",
        "CartPole-v1",
        n_steps=32,
        batch_size=32,
        variance_scaling_mode=mode,
    ).learn(64)

    assert copy.deepcopy(model._first_calls).calls == []
    assert pickle.loads(pickle.dumps(model._first_calls)).calls == []

    model.save(tmp_path / "model")
    loaded = PatchedSb3Host.load(tmp_path / "model")
    assert loaded._std_average == model._std_average

    buffer = io.BytesIO()
    torch.save(model.policy, buffer)


def test_an_average_of_version_0_2_goes_on_as_it_was():
    """0.02, saved without a word on its bias, and a minibatch of standard deviation 1: 0.02 + 0.005 * (1 - 0.02)."""
    trainer = patched(variance_scaling_mode="dsac_t")
    trainer.__dict__.update(_std_average=torch.tensor(0.02))
    del (
        trainer.__dict__["_std_average_filled"],
        trainer.__dict__["_first_calls"],
    )
    signs = torch.tensor([1.0, -1.0]).repeat(N // 2).expand(B, N)
    trainer._quantile_huber_loss(signs, torch.zeros(B))

    assert trainer._std_average.item() == pytest.approx(0.0249)


HALF = [torch.float16, torch.bfloat16]


@pytest.mark.parametrize("host", [Host, Summing])
@pytest.mark.parametrize("dtype", HALF)
def test_the_variance_of_half_precision_is_taken_in_full(dtype, host):
    """A standard deviation of 300 squares to 90,000, beyond float16: the weight is the upper clamp, 4."""
    trainer = patched(host, variance_scaling_clip_max=4.0)
    signs = torch.tensor([1.0, -1.0]).repeat(N // 2).expand(B, N)
    quantiles = (300 * signs).to(dtype)
    targets = torch.zeros(B, dtype=dtype)
    loss = trainer._quantile_huber_loss(quantiles, targets)
    plain = host._quantile_huber_loss(trainer, quantiles, targets)

    assert loss.dtype == dtype
    assert loss.shape == plain.shape
    assert torch.equal(loss, 4 * plain)


@pytest.mark.parametrize("dtype", HALF)
def test_the_average_of_half_precision_does_not_stall(dtype):
    """Standard deviations 1, then 300 times 2: the debiased average is (p + 2 (1 - p)), p = 0.995^300 / filled."""
    trainer = patched(variance_scaling_mode="dsac_t")
    signs = torch.tensor([1.0, -1.0]).repeat(N // 2).expand(B, N).to(dtype)
    for std in [1.0] + [2.0] * 300:
        loss = trainer._quantile_huber_loss(std * signs, torch.zeros(B, dtype=dtype))
    share = 0.005 * 0.995**300 / (1 - 0.995**301)

    assert loss.dtype == dtype
    assert trainer._std_average.item() == pytest.approx(share + 2 * (1 - share), rel=1e-4)


def test_autocast_changes_the_weight_by_its_rounding_only():
    batch = minibatches(1)[0]
    trainer = patched(variance_scaling_clip_min=0.01)
    plain = Host()

    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = trainer.loss_of(*batch)
        expected = plain.loss_of(*batch)
        assert plain.steps[0][2].dtype == torch.bfloat16

    assert loss.item() == pytest.approx(weight_of(plain.steps[0][2].float()) * expected.item(), rel=1e-2)
