"""``benchmarks/jax_ppo.py`` does PPO's work. Oracles: Gymnasium's CartPole, SB3's buffer and loss by hand."""

import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer

jax = pytest.importorskip("jax")
pytest.importorskip("optax")

from jax import numpy as jnp  # noqa: E402

from benchmarks import jax_ppo  # noqa: E402


def test_the_physics_are_gymnasiums():
    env = gym.make("CartPole-v1").unwrapped
    rng = np.random.default_rng(0)
    for action in (0, 1) * 10:
        env.reset()
        before = env.state = rng.uniform(-1, 1, 4) * [2.0, 3.0, 0.2, 3.0]
        expected = env.step(action)[0]
        np.testing.assert_allclose(jax_ppo.move(jnp.asarray(before), jnp.asarray(action)), expected, rtol=1e-5)


@pytest.fixture(scope="module")
def start():
    return jax_ppo.OneProgram(jax_ppo.Settings(n_envs=2, n_steps=4, batch_size=8)).state


@pytest.mark.parametrize(("place", "limit"), [(0, 2.4), (2, 12 * math.pi / 180)])
@pytest.mark.parametrize("sign", [-1, 1])
def test_an_episode_ends_where_gymnasiums_does_and_another_starts(place, limit, sign, start):
    physics = np.zeros((2, 4))
    physics[:, place] = sign * limit * np.array([0.999, 1.001])
    state = start._replace(physics=jnp.asarray(physics), steps=jnp.array([7, 7]))
    after, sample = jax_ppo.step(state, None)
    assert sample.dones.tolist() == [False, True]
    assert sample.lengths.tolist() == [0, 8]
    assert after.steps.tolist() == [8, 0]
    assert np.abs(after.physics[1]).max() <= 0.05


def test_an_episode_ends_after_500_steps(start):
    _, sample = jax_ppo.step(start._replace(steps=jnp.array([498, 499])), None)
    assert sample.lengths.tolist() == [0, 500]


def test_gae_is_that_of_sb3s_buffer():
    rewards = [[1.0, 2.0], [3.0, -1.0], [0.5, 1.0]]
    values = [[0.1, 0.2], [-0.3, 0.4], [0.5, -0.6]]
    dones = [[False, True], [True, False], [False, False]]
    last_values, last_dones = [0.7, 0.8], dones[-1]
    buffer = RolloutBuffer(3, spaces.Box(-1, 1, (1,)), spaces.Discrete(2), gae_lambda=0.9, gamma=0.8, n_envs=2)
    buffer.rewards[:], buffer.values[:] = rewards, values
    buffer.episode_starts[1:] = dones[:2]
    buffer.compute_returns_and_advantage(torch.tensor(last_values), np.array(last_dones))
    arrays = (jnp.asarray(part) for part in (rewards, values, dones, last_values))
    advantages, returns = jax_ppo.gae(*arrays, 0.8, 0.9)
    np.testing.assert_allclose(advantages, buffer.advantages, rtol=1e-5)
    np.testing.assert_allclose(returns, buffer.returns, rtol=1e-5)
    # The first environment's second step ends its episode: 3 - (-0.3). The first step's: 1 + 0.8 * -0.3 - 0.1 = 0.66,
    # and 0.8 * 0.9 * 3.3 = 2.376.
    assert advantages[:2, 0].tolist() == pytest.approx([3.036, 3.3])


def test_the_loss_is_ppos():
    """Of two samples whose ratios are 1 and 2, normalised advantages -+ 0.7071, values 0, returns 1 and 3."""
    zeros = [(jnp.zeros((4, 2)), jnp.zeros(2))], [(jnp.zeros((4, 1)), jnp.zeros(1))]
    old = jnp.array([math.log(0.5), math.log(0.25)])  # of the new ones, log 0.5 both
    filler = jnp.zeros(2)
    batch = jax_ppo.Samples(jnp.zeros((2, 4)), jnp.array([0, 1]), old, filler, filler, filler, filler)
    value = jax_ppo.loss(zeros, batch, jnp.array([1.0, 2.0]), jnp.array([1.0, 3.0]), 0.1)
    # policy: -(1 * -0.7071 + 1.2 * 0.7071) / 2 = -0.070711; value: 0.5 * (1 + 9) / 2 = 2.5; entropy: 0.1 * log 2
    assert float(value) == pytest.approx(-0.070711 + 2.5 - 0.069315, abs=1e-5)


def test_it_learns_cartpole():
    settings = jax_ppo.Settings(n_envs=8, n_steps=128, batch_size=256, learning_rate=1e-3)
    program = jax_ppo.OneProgram(settings).learn(100_000)
    lengths = np.asarray(program.lengths)
    assert lengths.shape == (98, 128, 8)
    ends = lengths[lengths > 0]
    assert ends[:20].mean() < 40  # as of random actions
    assert ends[-20:].mean() > 300
