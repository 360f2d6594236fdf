"""
Actions as the environment's space has them: starts, dtypes, and what is refused.

Oracles: ``space.contains``; the same environment with actions that count from 0.
"""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from distributional_ppo import DistributionalPPO, RecurrentDistributionalPPO

KINDS = {
    DistributionalPPO: "MlpPolicy",
    RecurrentDistributionalPPO: "MlpLstmPolicy",
}

SHORT = dict(n_steps=32, batch_size=32, n_epochs=2, seed=0, device="cpu")

SPACES = {
    "start": (spaces.Discrete(3, start=10), spaces.Discrete(3)),
    "negative start": (spaces.Discrete(3, start=-1), spaces.Discrete(3)),
    "int8": (spaces.Discrete(3, dtype=np.int8), spaces.Discrete(3)),
    "several starts": (
        spaces.MultiDiscrete([3, 2], start=[5, -2]),
        spaces.MultiDiscrete([3, 2]),
    ),
    "several, int8": (
        spaces.MultiDiscrete([3, 2], dtype=np.int8),
        spaces.MultiDiscrete([3, 2]),
    ),
}


class Checking(gym.Env):
    """The reward is the first action counted from the space's start; an action outside the space ends the test."""

    observation_space = spaces.Box(-1, 1, (3,))

    def __init__(self, space):
        self.action_space = space
        self.start = np.ravel(getattr(space, "start", 0))[0]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.observe(), {}

    def observe(self):
        return self.np_random.uniform(-1, 1, 3).astype(np.float32)

    def step(self, action):
        assert self.action_space.contains(action), (
            action,
            self.action_space,
        )

        self.steps += 1
        reward = float(np.ravel(action)[0] - self.start)
        return self.observe(), reward, self.steps >= 9, False, {}


class Tolerant(Checking):
    """Takes any action, as many environments do."""

    def step(self, action):
        self.steps += 1
        return (
            self.observe(),
            float(np.ravel(action)[0]),
            self.steps >= 9,
            False,
            {},
        )


def made(space, kind=DistributionalPPO, n_envs=2, vec_env=DummyVecEnv, policy=None, **flags):
    env = vec_env([lambda: Checking(space)] * n_envs)
    env.seed(0)
    policy_kwargs = dict(net_arch=[8], n_quantiles=4)
    return kind(
        policy or KINDS[kind],
        env,
        policy_kwargs=policy_kwargs,
        **SHORT,
        **flags,
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("space", "plain"), SPACES.values(), ids=SPACES)
def test_a_start_changes_actions_and_nothing_else(space, plain, kind):
    ours = made(space, kind).learn(128)
    theirs = made(plain, kind).learn(128)
    for ours_parameter, theirs_parameter in zip(ours.policy.parameters(), theirs.policy.parameters(), strict=True):
        assert torch.equal(ours_parameter, theirs_parameter)

    assert np.array_equal(ours.rollout_buffer.rewards, theirs.rollout_buffer.rewards)
    assert np.array_equal(ours.rollout_buffer.actions, theirs.rollout_buffer.actions)

    observations = np.random.default_rng(0).uniform(-1, 1, (50, 3)).astype(np.float32)
    ours.set_random_seed(1)
    ours_actions = ours.predict(observations)[0]
    theirs.set_random_seed(1)
    theirs_actions = theirs.predict(observations)[0]

    assert np.array_equal(ours_actions, theirs_actions + getattr(space, "start", 0))
    assert all(space.contains(action) for action in ours_actions)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("space", [pair[0] for pair in SPACES.values()], ids=SPACES)
def test_the_action_for_a_single_observation_is_an_array_of_the_space(space, kind):
    model = made(space, kind)
    for deterministic in (True, False):
        action, _ = model.predict(np.zeros(3, dtype=np.float32), deterministic=deterministic)
        assert isinstance(action, np.ndarray)
        assert action.shape == space.shape
        assert space.contains(action)


def test_evaluations_step_within_the_space():
    space = spaces.Discrete(3, start=10)
    model = made(space)
    callback = EvalCallback(
        DummyVecEnv([lambda: Checking(space)]),
        eval_freq=16,
        n_eval_episodes=2,
        verbose=0,
    )
    model.learn(64, callback)
    mean, _ = evaluate_policy(model, Checking(space), n_eval_episodes=2, warn=False)

    assert 0 <= mean <= 18  # at most 2 in each of 9 steps


def test_a_saved_model_and_a_saved_policy_keep_the_start(tmp_path):
    space = spaces.Discrete(3, start=10)
    model = made(space).learn(64)
    model.save(tmp_path / "model")
    model.policy.save(tmp_path / "policy")

    for loaded in (
        DistributionalPPO.load(tmp_path / "model"),
        type(model.policy).load(tmp_path / "policy", device="cpu"),
    ):
        assert space.contains(loaded.predict(np.zeros(3, dtype=np.float32))[0])


def test_environments_in_processes_and_a_users_policy_and_sampled_targets():
    class Own(ActorCriticPolicy):
        pass

    space = spaces.MultiDiscrete([3, 2], start=[5, -2])
    model = made(space, policy=Own, value_target="sr_lambda").learn(64)

    assert space.contains(model.predict(np.zeros(3, dtype=np.float32))[0])

    model = made(space, vec_env=SubprocVecEnv)
    model.learn(64)
    model.env.close()


def test_ppo_steps_outside_the_space():
    """Why this is done at all."""
    env = DummyVecEnv([lambda: Checking(spaces.Discrete(3, start=10))])
    with pytest.raises(AssertionError, match="start=10"):
        PPO("MlpPolicy", env, **SHORT).learn(32)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, np.float16])
def test_boxes_whose_actions_a_rollout_rounds_train_as_with_ppo_and_are_warned_of(dtype, kind):
    env = DummyVecEnv([lambda: Tolerant(spaces.Box(0, 3, (2,), dtype))] * 2)
    with pytest.warns(
        UserWarning,
        match=rf"float32 or float64, got {np.dtype(dtype)}.*MultiDiscrete",
    ):
        model = kind(
            KINDS[kind],
            env,
            policy_kwargs=dict(net_arch=[8], n_quantiles=4),
            **SHORT,
        )
    assert model.learn(64).num_timesteps == 64


def test_boxes_of_float64_and_of_two_dimensions_train():
    for space in (
        spaces.Box(-1, 1, (2,), np.float64),
        spaces.Box(-1, 1, (2, 2)),
    ):
        model = made(space).learn(64)
        assert space.contains(model.predict(np.zeros(3, dtype=np.float32))[0])


def test_multi_discrete_actions_of_two_dimensions_are_refused():
    with pytest.raises(ValueError, match=r"one dimension, got shape \(2, 2\): flatten them"):
        made(spaces.MultiDiscrete([[3, 2], [2, 4]]))


def test_compiled_rollout_steps_within_the_space():
    space = spaces.Discrete(3, start=10)
    model = made(space, compile=True)
    model.train = lambda: None  # the policy's step alone, whose compilation takes less long
    model.learn(128)

    assert set(np.unique(model.rollout_buffer.actions)) == {0, 1, 2}
