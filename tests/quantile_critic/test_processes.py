"""Two processes on one training. Oracle: one process with the environments of both, fed the same minibatches."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
from builders import NORMALISED, in_two_processes, join_processes
from stable_baselines3.common.env_util import make_vec_env

from distributional_ppo import DistributionalPPO
from quantile_critic import processes
from quantile_critic.rollout import Rollout

ARRAYS = (
    "observations",
    "actions",
    "rewards",
    "values",
    "log_probs",
    "advantages",
    "returns",
    "episode_starts",
)

SETTINGS = {
    "defaults": ("CartPole-v1", {}),
    "short last minibatch": ("CartPole-v1", dict(batch_size=48)),
    "one sample in the last minibatch": (
        "CartPole-v1",
        dict(batch_size=106),
    ),  # 160 = 3 * 53 + 1
    "dsac_t, PopArt": (
        "Pendulum-v1",
        dict(
            variance_scaling_mode="dsac_t",
            variance_scaling_clip_min=0.0,
            ent_coef=0.01,
            **NORMALISED,
        ),
    ),
    "clipping, twins": (
        "CartPole-v1",
        dict(clip_range_vf=0.1, use_twin_critics=True),
    ),
    "apart, mean and spread": (
        "CartPole-v1",
        dict(gradient_clipping="apart", critic_loss="mean_and_spread"),
    ),
    "target_kl": (
        "CartPole-v1",
        dict(target_kl=0.002, n_epochs=8, learning_rate=0.003),
    ),
}


def make(name, n_envs, batch_share, seed=0):
    env, flags = SETTINGS[name]
    flags = {"batch_size": 32, "n_epochs": 2, **flags}
    flags["batch_size"] //= batch_share
    vec_env = make_vec_env(env, n_envs, seed=seed)
    return DistributionalPPO("MlpPolicy", vec_env, n_steps=40, seed=seed, device="cpu", **flags)


def recorded(model, rollouts, rows):
    """Let it note its rollouts, and the rows of every minibatch."""
    train = model.train
    minibatches = Rollout.minibatches

    def noting_train():
        rollouts.append({name: getattr(model.rollout_buffer, name).copy() for name in ARRAYS})
        train()

    def noting_minibatches(self, batch_size):
        for samples, chosen in minibatches(self, batch_size):
            rows.append(chosen.numpy())
            yield samples, chosen

    model.train = noting_train
    Rollout.minibatches = noting_minibatches


def work(rank, path, results):
    """One of two processes, through all settings."""
    join_processes(rank, path)
    minibatches = Rollout.minibatches
    outcomes = {}

    for name in SETTINGS:
        rollouts = []
        rows = []
        model = make(name, n_envs=4, batch_share=2)
        recorded(model, rollouts, rows)
        model.learn(3 * 40 * 8)
        Rollout.minibatches = minibatches
        scalars = {key: value for key, value in model.logger.name_to_value.items() if key.startswith("train/")}
        parameters = {key: value.numpy() for key, value in model.policy.state_dict().items()}
        counts = model.num_timesteps, model._n_updates
        outcomes[name] = (
            rollouts,
            rows,
            parameters,
            scalars,
            counts,
            len(model.logger.output_formats),
        )

    try:
        make("defaults", n_envs=2 + rank, batch_share=1)
    except ValueError as error:
        outcomes["refused"] = str(error)

    results.put((rank, outcomes))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What the first and the second process have found, by rank."""
    return in_two_processes(work, tmp_path_factory.mktemp("processes"), timeout=120)


@pytest.mark.parametrize("name", SETTINGS)
def test_two_processes_make_the_update_of_one_with_their_minibatches_together(name, two, monkeypatch):
    rollouts, rows, parameters, scalars, counts, writers = zip(*(two[rank][name] for rank in (0, 1)), strict=True)
    for key, value in parameters[0].items():
        np.testing.assert_array_equal(value, parameters[1][key])  # both hold the same, to the last bit

    assert scalars[0] == scalars[1]
    assert counts[0] == counts[1]
    assert (counts[0][0], writers[1]) == (
        3 * 40 * 8,
        0,
    )  # the steps of both; only the first one writes

    for array in ("observations", "actions"):
        assert not np.array_equal(rollouts[0][0][array], rollouts[1][0][array])

    model = make(name, n_envs=8, batch_share=1)
    model._setup_learn(10**6)
    pairs = iter(zip(*rows, strict=True))

    def together(self, batch_size):
        parts = -(-self.buffer.rewards.size // batch_size)
        for _ in range(parts):
            ours, second = next(pairs)  # step by step, four environments each
            place = np.concatenate([ours // 4 * 8 + ours % 4, second // 4 * 8 + 4 + second % 4])
            yield self.samples, torch.as_tensor(place)

    monkeypatch.setattr(Rollout, "minibatches", together)

    for ours, second in zip(*rollouts, strict=True):
        model.rollout_buffer.reset()
        for array in ARRAYS:
            setattr(
                model.rollout_buffer,
                array,
                np.concatenate([ours[array], second[array]], axis=1),
            )
        model.train()

    for key, value in model.policy.state_dict().items():
        np.testing.assert_allclose(value.numpy(), parameters[0][key], rtol=1e-5, atol=1e-6, err_msg=key)

    for key, value in scalars[0].items():
        np.testing.assert_allclose(
            value,
            model.logger.name_to_value[key],
            rtol=1e-4,
            atol=1e-5,
            err_msg=key,
        )


def test_processes_of_different_sizes_are_refused(two):
    assert two[0]["refused"] == "all processes need the same n_envs: it is 2 here and 3 elsewhere"


def test_a_single_process_exchanges_nothing():
    array = np.arange(3.0)
    assert (processes.n_processes(), processes.rank()) == (1, 0)
    assert processes.array_of_all(array, torch.device("cpu")) is array
