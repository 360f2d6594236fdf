"""What an update reads of a rollout. Oracles: the frozen policy asked row by row, SB3's buffer, SB3's logger."""

import numpy as np
import pytest
import torch
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import KVWriter, Logger
from test_distributional_ppo import SHORT, RandomEnv, same_parameters

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
        self.kept, self.observations = self.observations, None


class Inheriting(RolloutBuffer):
    """A user's buffer that leaves `get` as it is."""

    extra = 1


def make(n_envs=2, **kwargs):
    return DistributionalPPO("MlpPolicy", make_vec_env(RandomEnv, n_envs, seed=0), **{**SHORT, **kwargs})


@pytest.mark.parametrize("buffer_class", [RolloutBuffer, Inheriting, Reversed, Halved])
def test_old_quantiles_are_those_of_the_policy_that_collected_the_rollout(buffer_class, monkeypatch):
    """Before the first step of the first epoch they are the predictions themselves, whatever the buffer's order."""
    seen = []
    original = DistributionalPPO._value_loss

    def spy(self, quantiles, targets, old=None, clip_range_vf=None):
        seen.append((quantiles.detach().clone(), old.clone()))
        return original(self, quantiles, targets, old, clip_range_vf)

    monkeypatch.setattr(DistributionalPPO, "_value_loss", spy)
    model = make(rollout_buffer_class=buffer_class, learning_rate=0.05, **CLIPPED).learn(256)
    torch.testing.assert_close(*seen[0])
    per_update = len(seen) // 2
    torch.testing.assert_close(*seen[per_update])  # the second rollout's
    assert not torch.allclose(*seen[per_update - 1], atol=1e-3)  # which stays while the policy moves
    assert model.num_timesteps == 256


@pytest.mark.parametrize("buffer_class", [Reversed, Halved])
def test_sampled_targets_of_a_foreign_order_are_refused(buffer_class):
    with pytest.raises(ValueError, match=rf"sr_lambda.*{buffer_class.__name__} has a get\(\) of its own"):
        make(rollout_buffer_class=buffer_class, value_target="sr_lambda").learn(128)


def test_a_buffer_that_inherits_get_is_as_sb3s():
    one, other = (make(rollout_buffer_class=kind, **CLIPPED).learn(256) for kind in (None, Inheriting))
    assert same_parameters(one, other)


def test_minibatches_are_those_of_sb3s_buffer():
    """Oracle: SB3's own `get` with the same random numbers."""
    model = make(n_envs=3)
    model.learn(192)
    rollout = Rollout(model.rollout_buffer, model.policy, 32, clips=False, sampled_targets=None)
    rollout.to_loss_units(scale_advantages=False)
    np.random.seed(5)  # noqa: NPY002
    ours = [samples.at(rows) for samples, rows in rollout.minibatches(50)]
    np.random.seed(5)  # noqa: NPY002
    theirs = list(model.rollout_buffer.get(50))
    assert [len(part.targets) for part in ours] == [50, 50, 50, 42]
    for own, their in zip(ours, theirs, strict=True):
        assert torch.equal(own.observations, their.observations)
        assert torch.equal(own.actions, their.actions.long().flatten())
        assert torch.equal(own.old_log_prob, their.old_log_prob)
        assert torch.equal(own.advantages, their.advantages)
        assert torch.equal(own.targets, their.returns)


@pytest.mark.parametrize(("limit", "place"), [(0, "cpu"), (2**20, "meta")])
def test_a_large_rollout_goes_to_the_device_minibatch_by_minibatch(limit, place, monkeypatch):
    monkeypatch.setattr(rollout_module, "LARGE", limit)
    model = make().learn(128)
    rollout = Rollout(model.rollout_buffer, model.policy, 32, clips=False, sampled_targets=None)
    rollout.device = torch.device("meta")  # from which nothing can be read
    rollout.to_loss_units(scale_advantages=False)
    assert rollout.samples.observations.device.type == place
    assert rollout.samples.targets.device.type == "meta"
    for samples, rows in rollout.minibatches(32):
        assert (rows is None) == (limit == 0)
        minibatch = samples.at(rows)
        assert minibatch.observations.shape == (32, 3)
        assert {part.device.type for part in minibatch if part is not None} == {"meta"}


class Foreign(KVWriter):
    """A writer that is not SB3's and knows only its own name, as that for MLflow in SB3's documentation."""

    def __init__(self):
        self.rows = []

    def write(self, key_values, key_excluded, step=0):
        excluded = {key for key, names in key_excluded.items() if names is not None and "foreign" in names}
        self.rows.append((step, {key: value for key, value in key_values.items() if key not in excluded}))

    def close(self):
        pass


@pytest.mark.parametrize("log_interval", [1, 2, 3])
def test_every_value_of_an_update_is_written_once_by_any_writer(log_interval):
    class Dumping(BaseCallback):
        def _on_step(self):
            if self.n_calls % 20 == 0:
                self.logger.record("eval/own", 1.0)
                self.logger.dump(self.num_timesteps)
            return True

    model, writer = make(n_envs=1), Foreign()
    model.set_logger(Logger(None, [writer]))
    model.learn(5 * 64, Dumping(), log_interval=log_interval)
    losses = [row["train/loss"] for _, row in writer.rows if "train/loss" in row]
    assert len(losses) == len(set(losses)) == 5  # in between by the callback, as in PPO
    if log_interval == 1:
        assert [step for step, row in writer.rows if "train/loss" in row] == [64, 128, 192, 256, 320]
    assert sum("eval/own" in row for _, row in writer.rows) == 16


def test_when_training_ends_callbacks_find_the_last_update_written():
    class AtTheEnd(BaseCallback):
        def _on_step(self):
            return True

        def _on_training_end(self):
            self.steps = [step for step, row in writer.rows if "train/loss" in row]

    model, writer, callback = make(n_envs=1), Foreign(), AtTheEnd()
    model.set_logger(Logger(None, [writer]))
    model.learn(2 * 64, callback)
    assert callback.steps == [64, 128]  # after 64 and 128 steps of one environment


def test_what_ended_is_kept_and_a_new_rollout_forgets_what_was_truncated():
    model = make(value_target="sr_lambda")
    model._setup_learn(1)
    episode, last = {"r": 1.0, "l": 2, "t": 0.0}, np.ones(3)
    model.rollout_buffer.pos = 3
    model._update_info_buffer([{}, {"episode": episode, "terminal_observation": last, "TimeLimit.truncated": True}])
    model._update_info_buffer([{}, {}])
    assert list(model.ep_info_buffer) == [episode]
    assert model._truncated == [(3, 1, last)]
    model.rollout_buffer.pos = 0
    model._update_info_buffer([{}, {}])
    assert model._truncated == []
