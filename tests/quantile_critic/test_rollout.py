"""What an update reads of a rollout. Oracles: the frozen policy asked row by row, SB3's buffer, SB3's logger."""

import numpy as np
import pytest
import torch
from builders import make_random, make_walking, same_parameters
from stable_baselines3.common.buffers import RolloutBuffer

from distributional_ppo import DistributionalPPO
from quantile_critic import rollout as rollout_module
from quantile_critic.rollout import Rollout

CLIPPED = dict(clip_range_vf=0.1, policy_kwargs=dict(n_quantiles=4))


class Reversed(RolloutBuffer):
    """A user's buffer that makes minibatches of its own: all in reverse order."""

    def get(self, batch_size=None):
        data = next(super().get())
        for rows in torch.arange(len(data.returns)).flip(0).split(batch_size):
            yield type(data)(*(part[rows] for part in data))


class Halved(Reversed):
    """And that keeps its observations elsewhere."""

    def get(self, batch_size=None):
        if self.observations is None:
            self.observations = self.kept
        yield from super().get(batch_size)
        self.kept = self.observations
        self.observations = None


class Inheriting(RolloutBuffer):
    """A user's buffer that leaves `get` as it is."""

    extra = 1


@pytest.mark.parametrize("buffer_class", [RolloutBuffer, Inheriting, Reversed, Halved])
def test_old_quantiles_are_those_of_the_policy_that_collected_the_rollout(buffer_class, monkeypatch):
    """Before the first step of the first epoch they are the predictions themselves, whatever the buffer's order."""
    records = []
    original = DistributionalPPO._value_loss

    def spy(self, quantiles, targets, old=None, clip_range_vf=None):
        records.append((quantiles.detach().clone(), old.clone()))
        return original(self, quantiles, targets, old, clip_range_vf)

    monkeypatch.setattr(DistributionalPPO, "_value_loss", spy)
    model = make_random(rollout_buffer_class=buffer_class, learning_rate=0.05, **CLIPPED).learn(256)

    torch.testing.assert_close(*records[0])

    per_update = len(records) // 2
    torch.testing.assert_close(*records[per_update])  # the second rollout's
    assert not torch.allclose(*records[per_update - 1], atol=1e-3)  # which stays while the policy moves
    assert model.num_timesteps == 256


@pytest.mark.parametrize("buffer_class", [Reversed, Halved])
def test_sampled_targets_of_a_foreign_order_are_refused(buffer_class):
    with pytest.raises(
        ValueError,
        match=rf"sr_lambda.*{buffer_class.__name__} has a get\(\) of its own",
    ):
        make_random(rollout_buffer_class=buffer_class, value_target="sr_lambda").learn(128)


def test_a_buffer_that_inherits_get_is_as_sb3s():
    first, second = (make_random(rollout_buffer_class=kind, **CLIPPED).learn(256) for kind in (None, Inheriting))
    assert same_parameters(first, second)


def test_minibatches_are_those_of_sb3s_buffer():
    """Oracle: SB3's own `get` with the same random numbers."""
    model = make_random(n_envs=3)
    model.learn(192)
    rollout = Rollout(
        model.rollout_buffer,
        model.policy,
        32,
        clips=False,
        sampled_targets=None,
    )
    rollout.to_loss_units(scale_advantages=False)
    np.random.seed(5)  # noqa: NPY002
    ours = [samples.at(rows) for samples, rows in rollout.minibatches(50)]
    np.random.seed(5)  # noqa: NPY002
    theirs = list(model.rollout_buffer.get(50))

    assert [len(part.targets) for part in ours] == [50, 50, 50, 42]

    for actual, their in zip(ours, theirs, strict=True):
        assert torch.equal(actual.observations, their.observations)
        assert torch.equal(actual.actions, their.actions.long().flatten())
        assert torch.equal(actual.old_log_prob, their.old_log_prob)
        assert torch.equal(actual.advantages, their.advantages)
        assert torch.equal(actual.targets, their.returns)


@pytest.mark.parametrize(("limit", "place"), [(0, "cpu"), (2**20, "meta")])
def test_a_large_rollout_goes_to_the_device_minibatch_by_minibatch(limit, place, monkeypatch):
    monkeypatch.setattr(rollout_module, "LARGE", limit)
    model = make_random().learn(128)
    rollout = Rollout(
        model.rollout_buffer,
        model.policy,
        32,
        clips=False,
        sampled_targets=None,
    )
    rollout.device = torch.device("meta")  # from which nothing can be read
    rollout.to_loss_units(scale_advantages=False)

    assert rollout.samples.observations.device.type == place
    assert rollout.samples.targets.device.type == "meta"

    for samples, rows in rollout.minibatches(32):
        assert (rows is None) == (limit == 0)
        minibatch = samples.at(rows)
        assert minibatch.observations.shape == (32, 3)
        assert {part.device.type for part in minibatch if part is not None} == {"meta"}


class HalfBuffer(RolloutBuffer):
    """Keeps its observations under a name of its own."""

    def reset(self):
        super().reset()
        self.packed = self.observations.astype(np.float16)
        del self.observations

    def add(self, obs, *args):
        self.packed[self.pos] = obs
        self.observations = np.zeros(
            (self.buffer_size, self.n_envs, *self.obs_shape),
            dtype=np.float32,
        )
        super().add(obs, *args)
        del self.observations

    def get(self, batch_size=None):
        if not self.generator_ready:
            self.observations = self.packed.astype(np.float32)
        yield from super().get(batch_size)


def test_buffers_of_any_kind_and_updates_repeated():
    model = make_walking(rollout_buffer_class=HalfBuffer).learn(96)
    assert "train/quantile_calibration_error" not in model.logger.name_to_value

    clipped = make_walking(rollout_buffer_class=HalfBuffer, clip_range_vf=0.1).learn(96)
    assert clipped.logger.name_to_value["train/clip_fraction_vf"] >= 0  # by a frozen copy of the critic
    with pytest.raises(ValueError, match=r"HalfBuffer has a get\(\) of its own"):
        make_walking(rollout_buffer_class=HalfBuffer, value_target="sr_lambda").learn(96)

    for flags in (
        {},
        dict(clip_range_vf=0.1),
        dict(value_target="sr_lambda"),
    ):
        model = make_walking(**flags).learn(96)
        values = model.rollout_buffer.values.copy()
        model.train()  # again on the same rollout, whose buffer is flat by now
        assert np.array_equal(model.rollout_buffer.values, values)
        assert values.dtype == np.float32
