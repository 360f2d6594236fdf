"""
What differs where the policy is recurrent: the constructor, a rollout whose minibatches are sequences, and the states
of the LSTMs wherever quantiles are asked for. Needs sb3-contrib.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Self

import numpy as np
import torch
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.buffers import RecurrentDictRolloutBuffer, RecurrentRolloutBuffer
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3 import PPO
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import obs_as_tensor
from torch import Tensor
from torch.utils._pytree import tree_map, tree_map_only

from quantile_critic.policies import QuantileActorCriticPolicy
from quantile_critic.recurrent_policies import (
    QuantileRecurrentActorCriticCnnPolicy,
    QuantileRecurrentActorCriticPolicy,
    QuantileRecurrentMultiInputActorCriticPolicy,
)
from quantile_critic.rollout import Rollout, Samples, by_step, observations_by_step, rows_of
from quantile_critic.sequences import Sequences, lay_out


class RolloutStates:
    """
    States of the LSTMs before each step of a rollout, and where episodes start, step by step.

    :param buffer: sb3-contrib's
    """

    def __init__(self, buffer: Any):
        names = ("hidden_states_pi", "cell_states_pi", "hidden_states_vf", "cell_states_vf")
        arrays = [getattr(buffer, name) for name in names]
        if not buffer.generator_ready:
            arrays = [array.swapaxes(1, 2) for array in arrays]  # to (T, E, n_layers, H)
        self.states = [torch.from_numpy(by_step(buffer, array)) for array in arrays]  # (M, n_layers, H)
        self.episode_starts = by_step(buffer, buffer.episode_starts).flatten() > 0  # (M,)

    def at(self, rows: np.ndarray, device: torch.device) -> RNNStates:
        """
        States before the steps of these rows, zero where an episode starts.

        :param rows: shape (S,)
        :param device: where they are wanted
        :return: each tensor of shape (n_layers, S, H)
        """
        goes_on = torch.from_numpy(~self.episode_starts[rows]).view(-1, 1, 1)
        parts = [(state[rows] * goes_on).transpose(0, 1).contiguous().to(device) for state in self.states]
        return RNNStates((parts[0], parts[1]), (parts[2], parts[3]))


class RecurrentRollout(Rollout):
    """
    A rollout whose minibatches are sequences, cut as sb3-contrib's buffer cuts them.

    :param sequence_length: longest sequence; what is longer goes on from the stored states. None: any length
    :param args: of ``Rollout``
    :raises TypeError: if the buffer's class has a ``get`` of its own, which would not be asked
    """

    def __init__(self, sequence_length: int | None, buffer: Any, *args: Any):
        if type(buffer).get not in (RecurrentRolloutBuffer.get, RecurrentDictRolloutBuffer.get):
            raise TypeError(f"{type(buffer).__name__} has a get() of its own, which would not be asked for minibatches")
        self.sequence_length = sequence_length
        self.states = RolloutStates(buffer)
        super().__init__(buffer, *args)

    def _has_own_minibatches(self) -> bool:
        return False

    def _predict(self, observations: Any, batch_size: int | None) -> Tensor:
        """All quantiles in the units of the loss, each step from its stored states, in parts."""
        steps = len(self.states.episode_starts)
        size = max(batch_size or steps, 1024)
        parts = []
        for i in range(0, steps, size):
            rows = np.arange(i, min(i + size, steps))
            obs = obs_as_tensor(rows_of(observations, rows), self.device)
            starts = torch.as_tensor(self.states.episode_starts[rows], dtype=torch.float32, device=self.device)
            parts.append(self.policy.quantiles_of_loss(Sequences(obs, self.states.at(rows, self.device), starts)))
        return torch.cat(parts)

    def minibatches(self, batch_size: int | None) -> Iterator[tuple[Samples, Tensor | None]]:
        """
        One pass over the rollout, environment by environment, from a step drawn anew as sb3-contrib's buffer draws it.

        :param batch_size: None: all
        :return: for each minibatch its samples, whose observations are ``Sequences``, and None: all of them
        """
        assert self.samples is not None
        steps, envs = self.buffer.rewards.shape
        split = np.random.randint(steps * envs)  # noqa: NPY002
        order = np.roll(np.arange(steps * envs), -split)
        rows = order % steps * envs + order // steps  # step by step
        begins = self.states.episode_starts[rows] | (order % steps == 0)
        size = batch_size or steps * envs
        for i in range(0, steps * envs, size):
            yield self._sequences(rows[i : i + size], begins[i : i + size]), None

    def _sequences(self, rows: np.ndarray, begins: np.ndarray) -> Samples:
        """The samples of these rows, shape (B,), cut into sequences where they must begin."""
        begins = begins.copy()
        begins[0] = True
        if self.sequence_length is not None:
            first_rows = np.flatnonzero(begins)
            steps = np.arange(len(rows)) - first_rows[np.cumsum(begins) - 1]
            begins |= steps % self.sequence_length == 0
        layout, first_rows = lay_out(begins, self.states.episode_starts[rows])
        assert self.samples is not None
        part = self.samples.at(torch.from_numpy(rows).to(self.samples.advantages.device))
        everything = tree_map_only(Tensor, lambda tensor: tensor.to(self.device), (tuple(part), layout))
        samples = Samples._make(everything[0])
        sequences = Sequences(samples.observations, self.states.at(rows[first_rows], self.device), everything[1])
        return samples._replace(observations=sequences)


class RecurrentHost(RecurrentPPO):
    """``RecurrentPPO`` as the base class of ``PPO``, whose constructor hands on more than this one takes."""

    def __init__(
        self,
        *args: Any,
        rollout_buffer_class: None = None,
        rollout_buffer_kwargs: None = None,
        supported_action_spaces: Any = None,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)


class SequenceUpdates(PPO):
    """
    ``DistributionalPPO`` with a recurrent policy, a drop-in for ``sb3_contrib.RecurrentPPO``. Takes every parameter of
    that class, in its order and with its defaults, and every flag of ``DistributionalPPO``, which documents both.
    ``policy_kwargs`` may have ``lstm_hidden_size``, ``n_lstm_layers``, ``shared_lstm``, ``enable_critic_lstm`` and
    ``lstm_kwargs`` beside ``n_quantiles``. With ``use_twin_critics`` both critics share the critic's LSTM.

    :param policy: "MlpLstmPolicy", "CnnLstmPolicy", "MultiInputLstmPolicy" or a subclass of
        ``RecurrentActorCriticPolicy``, whose ``value_net`` becomes the quantile head
    :param env: the environment to learn from (if registered in Gymnasium, can be str)
    :param learning_rate: learning rate, may be a function of the remaining progress (from 1 to 0), as clip ranges may
    :param n_steps: steps per environment and rollout
    :param batch_size: steps of a minibatch, None: the whole rollout
    :param n_epochs: passes over each rollout
    :param gamma: discount factor
    :param gae_lambda: trade-off of bias against variance in the advantage and in the critic's target
    :param clip_range: clip range of the policy ratio
    :param clip_range_vf: how far the critic's predictions may usefully move in an update; None: any
    :param normalize_advantage: whether to normalise the advantages of each minibatch
    :param ent_coef: weight of the entropy loss
    :param vf_coef: weight of the value loss, before the variance weight
    :param max_grad_norm: gradients are clipped to this norm
    :param use_sde: whether to explore with generalised state-dependent exploration (gSDE)
    :param sde_sample_freq: steps between new gSDE noise, -1: once per rollout
    :param target_kl: stop an update when the approximate KL divergence exceeds 1.5 times this, None: never
    :param stats_window_size: episodes over which rollout statistics are averaged
    :param tensorboard_log: folder of the TensorBoard log, None: no log
    :param policy_kwargs: keyword arguments of the policy
    :param verbose: 0: silent, 1: info, 2: debug
    :param seed: seed of all random generators
    :param device: "auto", "cpu", "cuda", ...
    :param _init_setup_model: whether to build the network with the instance
    :param sequence_length: cut longer sequences of a minibatch into chunks of this many steps, each of which begins
        from the states that the rollout's policy had: less padding, and gradients reach less far back. None: sequences
        end only with the episode and the minibatch, as in ``RecurrentPPO``
    :param flags: of ``DistributionalPPO``
    :raises ValueError: from the constructor and ``load`` if a value is out of its range
    :raises TypeError: likewise if a flag is unknown or not a bool, or the policy no ``RecurrentActorCriticPolicy``
    :raises FloatingPointError: from ``learn`` if a NaN or an infinity turns up; the update is undone
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpLstmPolicy": QuantileRecurrentActorCriticPolicy,
        "CnnLstmPolicy": QuantileRecurrentActorCriticCnnPolicy,
        "MultiInputLstmPolicy": QuantileRecurrentMultiInputActorCriticPolicy,
    }
    policy_base: ClassVar[type[QuantileActorCriticPolicy]] = QuantileRecurrentActorCriticPolicy
    policy: QuantileRecurrentActorCriticPolicy
    batch_size: int | None  # type: ignore[assignment]
    compile: bool
    _compiled: Any
    _last_lstm_states: RNNStates

    def __init__(  # noqa: PLR0913  # every parameter of RecurrentPPO
        self,
        policy: str | type[RecurrentActorCriticPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 3e-4,
        n_steps: int = 128,
        batch_size: int | None = 128,
        n_epochs: int = 10,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        clip_range: float | Schedule = 0.2,
        clip_range_vf: float | Schedule | None = None,
        normalize_advantage: bool = True,
        ent_coef: float = 0.0,
        vf_coef: float = 0.5,
        max_grad_norm: float = 0.5,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        target_kl: float | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
        *,
        sequence_length: int | None = None,
        **flags: Any,
    ):
        super().__init__(
            policy=policy,
            env=env,
            learning_rate=learning_rate,
            n_steps=n_steps,
            batch_size=max(n_steps, 2),  # one that PPO has nothing to say about
            n_epochs=n_epochs,
            gamma=gamma,
            gae_lambda=gae_lambda,
            clip_range=clip_range,
            clip_range_vf=clip_range_vf,
            normalize_advantage=normalize_advantage,
            ent_coef=ent_coef,
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,
            use_sde=use_sde,
            sde_sample_freq=sde_sample_freq,
            target_kl=target_kl,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=False,
            **flags,
        )
        self.batch_size = batch_size
        self.sequence_length = sequence_length
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        length = self.sequence_length
        if length is not None and (isinstance(length, bool) or not isinstance(length, int | np.integer) or length < 1):
            raise ValueError(f"sequence_length must be None or an integer of at least 1, got {length!r}")
        super()._setup_model()
        if self.compile:
            from quantile_critic.recurrent_compiled import EagerUpdate, RecurrentStep

            self._compiled = RecurrentStep(), EagerUpdate()

    def _rollout(self, clips: bool, sampled: Callable[[Tensor], Tensor] | None) -> Rollout:
        return RecurrentRollout(self.sequence_length, self.rollout_buffer, self.policy, self.batch_size, clips, sampled)

    def _quantiles_after(self, observation: Any, step: int | None = None, env: int = 0) -> Tensor:
        if step is None:
            return self.policy.predict_quantiles(observation, self._last_lstm_states, self._last_episode_starts)
        # Nothing has kept the states after that step: it is made again from those before it.
        buffer, policy = self.rollout_buffer, self.policy
        states = RolloutStates(buffer)
        row = np.array([step * buffer.n_envs + env])
        before = obs_as_tensor(rows_of(observations_by_step(buffer), row), policy.device)
        both = tree_map(
            lambda one, other: torch.cat([one, other.reshape(one.shape)]),  # a buffer keeps discrete parts as (1, 1)
            before,
            policy.obs_to_tensor(observation)[0],
        )
        layout, _ = lay_out(np.array([True, False]), np.array([states.episode_starts[row[0]], False]))
        layout = tree_map_only(Tensor, lambda tensor: tensor.to(policy.device), layout)
        quantiles = policy.quantiles_of_loss(Sequences(both, states.at(row, policy.device), layout))
        return policy.value_net.to_raw(policy.value_net.of_smaller_mean(quantiles[1:]))

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "RecurrentDistributionalPPO",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """As ``DistributionalPPO.learn``."""
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
