"""
Two processes on one training stay together: what one of them draws, loses or stops is not the other one's surprise.

Every scenario runs in both processes, one after another, and returns what it saw or the error it met.
"""

import os
import queue
import signal
import time
from datetime import timedelta

import gymnasium as gym
import numpy as np
import pytest
import torch
import torch.distributed as dist
from builders import in_two_processes, join_processes, prepared_processes
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

from distributional_ppo import DistributionalPPO
from quantile_critic import processes
from quantile_critic.processes import (
    CommonNoise,
    agree_after_update,
    average_buffers,
    ending_together,
)
from upgd import UPGD, AdaptiveUPGD

SHORT = dict(n_steps=32, batch_size=32, n_epochs=2, seed=0, device="cpu")


def made(env="CartPole-v1", policy_kwargs=None, **flags):
    vec_env = make_vec_env(env, 2, seed=0) if isinstance(env, str | type) else env
    return DistributionalPPO("MlpPolicy", vec_env, **{**SHORT, "policy_kwargs": policy_kwargs, **flags})


def parameters(model):
    return [tensor.detach().numpy().copy() for tensor in (*model.policy.parameters(), *model.policy.buffers())]


class Noisy(torch.optim.SGD):
    """A user's own optimizer, which adds noise from torch's generator."""

    def step(self, closure=None):
        super().step(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data.add_(1e-3 * torch.randn_like(parameter))


class Deviating(torch.optim.SGD):
    """One that draws from a generator of its own, which nobody can make common."""

    def step(self, closure=None):
        super().step(closure)
        if processes.rank() == 1:
            self.param_groups[0]["params"][0].data.add_(1e-6)


class Normalised(BaseFeaturesExtractor):
    def __init__(self, space):
        super().__init__(space, 4)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, observations):
        return self.norm(observations)


class Transposed(BaseFeaturesExtractor):
    """A parameter that is not contiguous."""

    def __init__(self, space):
        super().__init__(space, 8)
        self.weight = nn.Parameter(torch.randn(8, 4).t())

    def forward(self, observations):
        return observations @ self.weight


class Broken(gym.Env):
    """Its third reward is NaN, in the second process only."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)
    steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        broken = self.steps == 3 and processes.rank() == 1
        return np.zeros(2, np.float32), np.nan if broken else 1.0, False, False, {}


class Raising(Broken):
    """Its third step raises, in the second process only."""

    def step(self, action):
        *result, info = super().step(action)
        if np.isnan(result[1]):
            raise OSError("the feed is down")
        return *result, info


class Stopping(BaseCallback):
    def _on_step(self):
        return self.n_calls < 40 or processes.rank() == 0


class Changing(BaseCallback):
    """Sets another learning rate in the second process."""

    def _on_step(self):
        if processes.rank() == 1:
            self.model.lr_schedule = lambda _: 1e-3
        return True


def learned(model, steps=256, callback=None):
    model.learn(steps, callback=callback)
    return parameters(model), model.num_timesteps


def with_optimizer(kind, **kwargs):
    policy_kwargs = dict(optimizer_class=kind, optimizer_kwargs=kwargs)
    return learned(made(learning_rate=1e-3, policy_kwargs=policy_kwargs))


def resumed(path):
    """Trained for two updates, saved by the first process, loaded by both and trained on."""
    model = made(policy_kwargs=dict(optimizer_class=AdaptiveUPGD))
    model.learn(256)
    if processes.rank() == 0:
        model.save(path / "model")
    dist.barrier()
    loaded = DistributionalPPO.load(path / "model", env=make_vec_env("CartPole-v1", 2, seed=1), device="cpu")
    loaded.learn(256, reset_num_timesteps=False)
    return parameters(loaded), loaded.num_timesteps


def draws(path):
    """Common numbers in two steps, those of another update and of the same one again, and the process's own."""
    torch.manual_seed(7 + processes.rank())
    arguments = [(0, 5), (0, 5), (0, 6), (None, 5)]
    first, again, later, unseeded = (CommonNoise(*args, torch.device("cpu")) for args in arguments)
    records = []

    for noise in (first, first, again, later, unseeded):
        with noise():
            records.append(torch.randn(3).tolist())

    ours = torch.randn(3).tolist()
    return records, ours


def with_batch_norm(path):
    return learned(made(policy_kwargs=dict(features_extractor_class=Normalised)))


def buffers(path):
    """Averages where the processes differ, bits where they do not."""
    module = nn.Module()
    module.register_buffer("mean", torch.tensor([1.0, 0.1]) + 2 * torch.tensor([processes.rank(), 0.0]))
    module.register_buffer("count", torch.tensor(3))
    average_buffers(module)
    agree_after_update(module, 1)
    return module.mean.tolist(), module.count.item()


def with_other_parameters(path):
    model = made()
    if processes.rank() == 1:
        model.policy.action_net.bias.data[0] += 1e-7
    return learned(model)


def normalised_env(training):
    env = VecNormalize(make_vec_env("CartPole-v1", 2, seed=0), norm_reward=False, training=training)
    return learned(made(env=env))


def one_waits_in_a_broadcast(path):
    if processes.rank() == 0:
        return processes.broadcast("hello")

    def fails():
        raise KeyError("disk")

    return ending_together(fails)


def exchanged(path):
    """Broadcast, gather, and a value of each process in all."""
    value = f"of {processes.rank()}"

    return (
        processes.broadcast(value),
        processes.gather(value),
        ending_together(lambda: value),
        processes.all_objects(value),
    )


def first_observations(path):
    """Of every environment, and the first random numbers of its generator."""
    model = made()
    observations = model.env.reset().tolist()
    draws = [generator.random() for generator in model.env.get_attr("np_random")]
    return observations, draws


class FailingStep(torch.optim.SGD):
    """Its step of this number raises, in the second process only."""

    calls = 0

    def __init__(self, *args, fails_at=1, **kwargs):
        super().__init__(*args, **kwargs)
        self.fails_at = fails_at

    def step(self, closure=None):
        self.calls += 1
        if self.calls == self.fails_at and processes.rank() == 1:
            raise OSError("the device is gone")
        super().step(closure)


class FailingLoss(DistributionalPPO):
    """The third minibatch's loss raises, in the second process only."""

    calls = 0
    error: Exception = OSError("no loss")

    def _minibatch_loss(self, *args):
        self.calls += 1
        if self.calls == 3 and processes.rank() == 1:
            raise self.error
        return super()._minibatch_loss(*args)


def failing_loss(error):
    model = FailingLoss("MlpPolicy", make_vec_env("CartPole-v1", 2, seed=0), **SHORT)
    model.error = error
    return learned(model)


class Fewer(RolloutBuffer):
    """Gives one minibatch less in the second process."""

    def get(self, batch_size=None):
        for i, samples in enumerate(super().get(batch_size)):
            if i == 0 or processes.rank() == 0:
                yield samples


class NanGradient(DistributionalPPO):
    """The third minibatch's loss is NaN, in the second process only."""

    calls = 0

    def _minibatch_loss(self, *args):
        loss, metrics = super()._minibatch_loss(*args)
        self.calls += 1
        return loss * (np.nan if self.calls == 3 and processes.rank() == 1 else 1.0), metrics


def nan_gradient(path):
    model = NanGradient("MlpPolicy", make_vec_env("CartPole-v1", 2, seed=0), **SHORT)
    before = parameters(model)
    with pytest.raises(FloatingPointError, match="Parameters and optimizer were put back"):
        model.learn(128)

    return before, parameters(model)


def here_and_there(here, elsewhere):
    return elsewhere if processes.rank() == 1 else here


def architecture(path):
    return learned(made(policy_kwargs=dict(net_arch=here_and_there([8], [9]))))


def setting(name, here, elsewhere):
    return learned(made(**{name: here_and_there(here, elsewhere)}))


SCENARIOS = {
    "UPGD": lambda path: with_optimizer(UPGD),
    "AdaptiveUPGD": lambda path: with_optimizer(AdaptiveUPGD),
    "UPGD without noise": lambda path: with_optimizer(UPGD, sigma=0.0),
    "a user's noisy optimizer": lambda path: with_optimizer(Noisy),
    "UPGD, no seed": lambda path: learned(made(seed=None, policy_kwargs=dict(optimizer_class=UPGD))),
    "AdaptiveUPGD, resumed": resumed,
    "draws": draws,
    "an optimizer on its own": lambda path: with_optimizer(Deviating),
    "batch norm": with_batch_norm,
    "a parameter that is not contiguous": lambda path: learned(
        made(policy_kwargs=dict(features_extractor_class=Transposed))
    ),
    "buffers": buffers,
    "other parameters before learn": with_other_parameters,
    "VecNormalize": lambda path: normalised_env(training=True),
    "VecNormalize, frozen": lambda path: normalised_env(training=False),
    "a NaN": lambda path: learned(made(env=Broken)),
    "an environment that raises": lambda path: learned(made(env=Raising)),
    "a callback that stops": lambda path: learned(made(), 1024, Stopping()),
    "a callback that changes the rate": lambda path: learned(made(), callback=Changing()),
    "one waits in a broadcast": one_waits_in_a_broadcast,
    "exchanged": exchanged,
    "first observations": first_observations,
    "a loss that raises": lambda path: failing_loss(OSError("no loss")),
    "a loss that raises a ValueError": lambda path: failing_loss(ValueError("no loss")),
    # 2 environments of 32 steps are 2 minibatches, twice.
    "a first step that raises": lambda path: with_optimizer(FailingStep, fails_at=1),
    "a last step that raises": lambda path: with_optimizer(FailingStep, fails_at=4),
    "a loss that is NaN": nan_gradient,
    "fewer minibatches": lambda path: learned(made(rollout_buffer_class=Fewer)),
    "another network": architecture,
    "another rate": lambda path: setting("learning_rate", 3e-4, 1e-3),
    "another clip range": lambda path: setting("clip_range", 0.2, 0.3),
    "another gamma": lambda path: setting("gamma", 0.99, 0.9),
    "another kappa": lambda path: setting("quantile_huber_kappa", 1.0, 0.1),
    "another number of epochs": lambda path: setting("n_epochs", 2, 3),
}


def work(rank, path, results):
    before = made()
    join_processes(rank, path, timeout=timedelta(seconds=40))
    outcomes = {}

    for name, scenario in {
        "built before": lambda path: learned(before),
        **SCENARIOS,
    }.items():
        try:
            outcomes[name] = scenario(path)
        except Exception as error:
            outcomes[name] = f"{type(error).__name__}: {error}"

    results.put((rank, outcomes))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What the first and the second process have found, by rank."""
    return in_two_processes(work, tmp_path_factory.mktemp("together"), timeout=180)


def assert_same_training(results):
    assert not any(isinstance(result, str) for result in results), results
    assert results[0][1] == results[1][1]

    for here, there in zip(results[0][0], results[1][0], strict=True):
        np.testing.assert_array_equal(here, there)


TOGETHER = [
    "UPGD",
    "AdaptiveUPGD",
    "a user's noisy optimizer",
    "UPGD, no seed",
    "AdaptiveUPGD, resumed",
    "batch norm",
]
TOGETHER += [
    "a parameter that is not contiguous",
    "VecNormalize, frozen",
    "a callback that stops",
]


@pytest.mark.parametrize("name", TOGETHER)
def test_both_processes_hold_the_same_to_the_last_bit(name, two):
    assert_same_training([two[0][name], two[1][name]])


def test_the_optimizers_noise_is_drawn(two):
    assert not all(
        np.array_equal(noisy, quiet)
        for noisy, quiet in zip(two[0]["UPGD"][0], two[0]["UPGD without noise"][0], strict=True)
    )


def test_a_resumed_training_goes_on_from_its_step(two):
    assert two[0]["AdaptiveUPGD, resumed"][1] == 512


def test_common_noise_is_the_same_everywhere_and_leaves_each_process_its_own(two):
    (common, ours), (common_there, own_there) = two[0]["draws"], two[1]["draws"]
    assert common == common_there

    first, second, again, later, unseeded = common
    assert again == first
    assert len({tuple(numbers) for numbers in (first, second, later, unseeded)}) == 4

    for rank, numbers in enumerate((ours, own_there)):
        generator = torch.manual_seed(7 + rank)
        torch.randint(2**31, (), generator=generator)  # the seed that is missing
        assert torch.randn(3, generator=generator).tolist() == numbers


def test_a_stop_in_one_process_stops_both_at_the_end_of_the_rollout(two):
    """The second process stops at its 40th step of 2 environments, the first one at its 64th, the rollout's end."""
    assert two[0]["a callback that stops"][1] == two[1]["a callback that stops"][1] == 2 * 40 + 2 * 64


def test_buffers_are_averaged_where_they_differ(two):
    """1 and 3 become 2; 0.1 keeps its bits."""
    assert two[0]["buffers"] == two[1]["buffers"] == ([2.0, torch.tensor(0.1).item()], 3)


def test_no_two_environments_of_all_processes_are_the_same(two):
    """Two each: seeds of two processes one apart would make the second here the first there."""
    observations, draws = (two[0]["first observations"][i] + two[1]["first observations"][i] for i in (0, 1))
    assert len({tuple(observation) for observation in observations}) == 4
    assert len(set(draws)) == 4


def test_objects_are_exchanged_in_the_order_of_the_ranks(two):
    each = ["of 0", "of 1"]
    assert two[0]["exchanged"] == ("of 0", each, each, each)
    assert two[1]["exchanged"] == ("of 0", [], each, each)


DIFFER = "ProcessesDifferError: processes 0 and 1 hold different parameters"
NEED = "ValueError: all processes need the same"

BOTH = {
    "an optimizer on its own": f"{DIFFER} after update 2",
    "a callback that changes the rate": f"{DIFFER} after update 2",
    "other parameters before learn": f"{DIFFER} before learn, action_net.bias first",
    "VecNormalize": "ValueError: VecNormalize keeps moments of its own in each process",
    "built before": "RuntimeError: this model was built for 1 process(es), and 2 take part now: build or load it after",
    "fewer minibatches": "ProcessesDifferError: 1 of 2 processes have no further minibatch in this update",
    "another network": f"{NEED} shape of",
    "another rate": f"{NEED} learning_rate: it is [",
    "another clip range": f"{NEED} clip_range: it is [",
    "another gamma": f"{NEED} gamma: it is 0.",
    "another kappa": f"{NEED} quantile_huber_kappa: it is",
    "another number of epochs": f"{NEED} n_epochs: it is",
}


@pytest.mark.parametrize("name", BOTH)
def test_both_processes_name_the_difference(name, two):
    for rank in (0, 1):
        assert str(two[rank][name]).startswith(BOTH[name])


STOPS = "ProcessLostError: process 1 of this training has stopped: "

ONE = {
    "a NaN": (
        STOPS + "NonFiniteError: ",
        "NonFiniteError: 2 non-finite number(s) in the rollout's rewards",
    ),
    "an environment that raises": (
        STOPS + "OSError: the feed is down",
        "OSError: the feed is down",
    ),
    "one waits in a broadcast": (STOPS + "KeyError: 'disk'", "KeyError: 'disk'"),
    "a loss that raises": (STOPS + "OSError: no loss", "OSError: no loss"),
    "a loss that raises a ValueError": (
        STOPS + "ValueError: no loss",
        "ValueError: no loss",
    ),
    "a first step that raises": (
        STOPS + "OSError: the device is gone",
        "OSError: the device is gone",
    ),
    "a last step that raises": (
        STOPS + "OSError: the device is gone",
        "OSError: the device is gone",
    ),
}


@pytest.mark.parametrize("name", ONE)
def test_an_error_in_one_process_is_a_sentence_in_its_peer(name, two):
    for rank in (0, 1):
        assert str(two[rank][name]).startswith(ONE[name][rank])


def test_a_nan_in_one_process_is_undone_in_both(two):
    for rank in (0, 1):
        before, after = two[rank]["a loss that is NaN"]
        for old, new in zip(before, after, strict=True):
            np.testing.assert_array_equal(old, new)


class Dying(BaseCallback):
    """Ends the second process at once, as a lack of memory does."""

    def _on_step(self):
        if self.n_calls == 40 and processes.rank() == 1:
            os._exit(9)
        return True


def trained_until_the_end(rank, path, results):
    join_processes(rank, path)
    model = made()

    try:
        model.learn(100_000, callback=Dying())
    except Exception as error:
        results.put(f"{type(error).__name__}: {error}")
        time.sleep(1)  # the signal may come by now


@pytest.mark.parametrize("signalled", [True, False], ids=["as torchrun ends it", "left alone"])
def test_a_killed_process_is_a_sentence_in_its_peer(signalled, tmp_path):
    context = prepared_processes()
    results = context.Queue()
    workers = [context.Process(target=trained_until_the_end, args=(rank, tmp_path, results)) for rank in (0, 1)]
    for worker in workers:
        worker.start()
    workers[1].join(60)
    if signalled:
        os.kill(workers[0].pid, signal.SIGTERM)

    try:
        message = results.get(timeout=60)
    except queue.Empty:
        message = f"nothing; exit code {workers[0].exitcode}"

    workers[0].join(30)

    assert message.startswith("ProcessLostError: ")
    assert "another process of this training has ended" in message
    assert (workers[0].exitcode, workers[1].exitcode) == (0, 9)
