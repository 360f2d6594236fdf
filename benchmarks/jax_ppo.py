"""
PPO on CartPole as one program of JAX, after the idea of PureJaxRL: environments, rollout, advantages, epochs and
minibatches are compiled together, so that Python is called once per training. A peer of ``benchmarks/speed.py``.

The work is that of SB3's PPO in its defaults: separate networks of 64x64 tanh units, one scalar critic, GAE,
normalised advantages, Adam, a clipped gradient norm. As in PureJaxRL, a truncated episode counts as ended.
T steps, E environments, B samples of a minibatch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import optax
from jax import Array, lax
from jax import numpy as jnp

MAX_STEPS = 500  # of an episode
# CartPole
GRAVITY = 9.8
MASS_OF_POLE = 0.1
TOTAL_MASS = 1.1
HALF_LENGTH = 0.5
FORCE = 10.0
SECONDS = 0.02
LARGEST_X = 2.4
LARGEST_ANGLE = 12 * 2 * math.pi / 360
# PPO
CLIP_RANGE = 0.2
VF_COEF = 0.5
MAX_GRAD_NORM = 0.5

Layers = list[tuple[Array, Array]]  # weight and bias of each


class Settings(NamedTuple):
    """The parameters of SB3's PPO, by their names."""

    n_envs: int
    n_steps: int
    batch_size: int
    n_epochs: int = 10
    learning_rate: float = 3e-4
    gamma: float = 0.99
    gae_lambda: float = 0.95
    ent_coef: float = 0.0


class Samples(NamedTuple):
    """Of a rollout, (T, E, ...), or of a minibatch, (B, ...)."""

    observations: Array
    actions: Array
    log_prob: Array
    values: Array
    rewards: Array
    dones: Array
    lengths: Array  # of the episode that this step ended, else 0


class State(NamedTuple):
    """What an update leaves to the next."""

    networks: tuple[Layers, Layers]  # actor and critic
    optimizer: Any
    physics: Array  # position, velocity, angle and angular velocity, (E, 4)
    steps: Array  # of the running episodes, (E,)
    key: Array


def move(physics: Array, action: Array) -> Array:
    """
    Gymnasium's CartPole-v1 (Barto, Sutton and Anderson 1983).

    :param physics: shape (4,)
    :param action: 0: left, 1: right
    :return: physics after one step, shape (4,)
    """
    _, x_dot, theta, theta_dot = physics
    force = jnp.where(action == 1, FORCE, -FORCE)
    cos = jnp.cos(theta)
    sin = jnp.sin(theta)

    pushed = (force + MASS_OF_POLE * HALF_LENGTH * theta_dot**2 * sin) / TOTAL_MASS
    theta_acc = (GRAVITY * sin - cos * pushed) / (HALF_LENGTH * (4 / 3 - MASS_OF_POLE * cos**2 / TOTAL_MASS))
    x_acc = pushed - MASS_OF_POLE * HALF_LENGTH * theta_acc * cos / TOTAL_MASS

    return physics + SECONDS * jnp.stack([x_dot, x_acc, theta_dot, theta_acc])


def gae(
    rewards: Array, values: Array, dones: Array, last_values: Array, gamma: float, gae_lambda: float
) -> tuple[Array, Array]:
    """
    Generalised advantage estimation (Schulman et al. 2016, eq. 16).

    :param rewards: shape (T, E), as the next two
    :param values: of the observations before the steps
    :param dones: whether the step ended its episode
    :param last_values: of the observations after the rollout, shape (E,)
    :param gamma: discount factor
    :param gae_lambda: lambda
    :return: advantages and returns, shape (T, E)
    """

    def backwards(later: tuple[Array, Array], step: tuple[Array, Array, Array]) -> tuple[tuple[Array, Array], Array]:
        advantage, next_value = later
        reward, value, done = step
        delta = reward + gamma * next_value * (1 - done) - value
        advantage = delta + gamma * gae_lambda * (1 - done) * advantage
        return (advantage, value), advantage

    start = jnp.zeros_like(last_values), last_values
    _, advantages = lax.scan(backwards, start, (rewards, values, dones.astype(values.dtype)), reverse=True)
    return advantages, advantages + values


def network(key: Array, outputs: int, gain: float) -> Layers:
    """Layers as SB3 draws them: orthogonal, the last with its own gain."""
    sizes = ((4, 64, 2**0.5), (64, 64, 2**0.5), (64, outputs, gain))
    keys = jax.random.split(key, len(sizes))
    return [
        (jax.nn.initializers.orthogonal(g)(k, (n, m)), jnp.zeros(m)) for k, (n, m, g) in zip(keys, sizes, strict=True)
    ]


def outputs_of(layers: Layers, inputs: Array) -> Array:
    """:return: of the network, shape (..., outputs)"""
    for weight, bias in layers[:-1]:
        inputs = jnp.tanh(inputs @ weight + bias)
    return inputs @ layers[-1][0] + layers[-1][1]


def loss(networks: tuple[Layers, Layers], batch: Samples, advantages: Array, returns: Array, ent_coef: float) -> Array:
    """PPO's loss of a minibatch (Schulman et al. 2017, eq. 9), as SB3 has it."""
    logits = jax.nn.log_softmax(outputs_of(networks[0], batch.observations))
    values = outputs_of(networks[1], batch.observations)[:, 0]
    log_prob = jnp.take_along_axis(logits, batch.actions[:, None], axis=1)[:, 0]

    # Policy loss: normalised advantages, clipped ratio.
    advantages = (advantages - advantages.mean()) / (advantages.std(ddof=1) + 1e-8)
    ratio = jnp.exp(log_prob - batch.log_prob)
    clipped = jnp.clip(ratio, 1 - CLIP_RANGE, 1 + CLIP_RANGE)
    policy_loss = -jnp.minimum(ratio * advantages, clipped * advantages).mean()

    # Value loss and entropy.
    value_loss = jnp.square(values - returns).mean()
    entropy = -(jnp.exp(logits) * logits).sum(axis=1).mean()
    return policy_loss + VF_COEF * value_loss - ent_coef * entropy


def step(state: State, _: None) -> tuple[State, Samples]:
    """One step of all environments; those whose episode ends start another."""
    key, for_action, for_start = jax.random.split(state.key, 3)

    # Draw actions.
    logits = jax.nn.log_softmax(outputs_of(state.networks[0], state.physics))
    actions = jax.random.categorical(for_action, logits)
    log_prob = jnp.take_along_axis(logits, actions[:, None], axis=1)[:, 0]
    values = outputs_of(state.networks[1], state.physics)[:, 0]

    # Move the carts.
    physics = jax.vmap(move)(state.physics, actions)
    steps = state.steps + 1
    fell = (jnp.abs(physics[:, 0]) > LARGEST_X) | (jnp.abs(physics[:, 2]) > LARGEST_ANGLE)
    dones = fell | (steps >= MAX_STEPS)

    # Start another episode where one ended.
    starts = jax.random.uniform(for_start, physics.shape, minval=-0.05, maxval=0.05)
    sample = Samples(
        observations=state.physics,
        actions=actions,
        log_prob=log_prob,
        values=values,
        rewards=jnp.ones_like(values),
        dones=dones,
        lengths=jnp.where(dones, steps, 0),
    )
    physics = jnp.where(dones[:, None], starts, physics)
    steps = jnp.where(dones, 0, steps)
    return state._replace(physics=physics, steps=steps, key=key), sample


def update(settings: Settings, optimizer: Any, state: State, _: None) -> tuple[State, Array]:
    """A rollout and its epochs; returns the lengths of the episodes that ended, (T, E), 0 elsewhere."""
    # A rollout and its advantages, as one row per sample.
    state, rollout = lax.scan(step, state, None, settings.n_steps)
    last_values = outputs_of(state.networks[1], state.physics)[:, 0]
    targets = gae(rollout.rewards, rollout.values, rollout.dones, last_values, settings.gamma, settings.gae_lambda)
    data = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), (rollout, *targets))

    def minibatch(carry: tuple[Any, Any], rows: Array) -> tuple[tuple[Any, Any], None]:
        networks, moments = carry
        batch = jax.tree.map(lambda a: a[rows], data)
        steps, moments = optimizer.update(jax.grad(loss)(networks, *batch, settings.ent_coef), moments)
        return (optax.apply_updates(networks, steps), moments), None

    def epoch(carry: tuple[Any, Any], key: Array) -> tuple[tuple[Any, Any], None]:
        order = jax.random.permutation(key, settings.n_steps * settings.n_envs)
        return lax.scan(minibatch, carry, order.reshape(-1, settings.batch_size))[0], None

    # The epochs.
    key, *keys = jax.random.split(state.key, 1 + settings.n_epochs)
    (networks, moments), _ = lax.scan(epoch, (state.networks, state.optimizer), jnp.stack(keys))
    return state._replace(networks=networks, optimizer=moments, key=key), rollout.lengths


class OneProgram:
    """
    A training with the methods of SB3's PPO that ``benchmarks/speed.py`` asks for.

    :param settings: of PPO; n_steps * n_envs must be a multiple of batch_size
    :param seed: of all random numbers
    """

    def __init__(self, settings: Settings, seed: int = 0):
        self.n_steps = settings.n_steps
        self.n_envs = settings.n_envs

        # The first state.
        optimizer = optax.chain(optax.clip_by_global_norm(MAX_GRAD_NORM), optax.adam(settings.learning_rate, eps=1e-5))
        key, for_actor, for_critic, for_start = jax.random.split(jax.random.key(seed), 4)
        networks = network(for_actor, 2, 0.01), network(for_critic, 1, 1.0)
        physics = jax.random.uniform(for_start, (settings.n_envs, 4), minval=-0.05, maxval=0.05)
        steps = jnp.zeros(settings.n_envs, dtype=jnp.int32)
        self.state = State(networks, optimizer.init(networks), physics, steps, key)

        # A training as one program, whose number of updates is static.
        one_update = partial(update, settings, optimizer)
        self.program: Callable[..., Any] = jax.jit(lambda s, n: lax.scan(one_update, s, None, n), static_argnums=1)
        self.lengths: Array | None = None  # of the episodes, (updates, T, E), 0 where none ended

    def learn(self, total_timesteps: int, reset_num_timesteps: bool = True) -> OneProgram:
        """As ``PPO.learn``, in one call; another number of updates compiles anew."""
        updates = -(-total_timesteps // (self.n_steps * self.n_envs))
        self.state, self.lengths = self.program(self.state, updates)
        self.state.key.block_until_ready()  # calls return before their results are there
        return self
