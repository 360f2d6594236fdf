"""
Recurrent distributional PPO: ``DistributionalPPO`` with an LSTM policy, as ``sb3_contrib.RecurrentPPO`` extends PPO.

``distributional_ppo.py`` has the objective and the update. Three things differ: the constructor, minibatches made of
sequences, and quantiles that depend on the states of the LSTMs. Needs sb3-contrib.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, ClassVar, Self

import numpy as np
import torch
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import obs_as_tensor
from torch import Tensor
from torch.utils._pytree import tree_map, tree_map_only

from distributional_ppo import DistributionalPPO
from quantile_critic.policies import QuantileActorCriticPolicy
from quantile_critic.recurrent import RecurrentHost, RecurrentRollout, RolloutStates
from quantile_critic.recurrent_policies import (
    QuantileRecurrentActorCriticCnnPolicy,
    QuantileRecurrentActorCriticPolicy,
    QuantileRecurrentMultiInputActorCriticPolicy,
)
from quantile_critic.rollout import Rollout, observations_by_step, rows_of
from quantile_critic.sequences import Sequences, lay_out

__all__ = ["RecurrentDistributionalPPO"]


class RecurrentDistributionalPPO(DistributionalPPO, RecurrentHost):
    """
    ``DistributionalPPO`` with a recurrent policy, a drop-in for ``sb3_contrib.RecurrentPPO``.

    Every parameter of that class keeps its place and default. ``DistributionalPPO`` documents its flags, which all
    apply. ``policy_kwargs`` takes ``lstm_hidden_size``, ``n_lstm_layers``, ``shared_lstm``, ``enable_critic_lstm`` and
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
    :param clip_range_vf: largest useful move of the critic's predictions in an update, None: no limit
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
    :param sequence_length: cut longer sequences of a minibatch into chunks of this many steps. Each chunk starts from
        the states that the rollout's policy had. Chunks need less padding, and gradients reach less far back. None:
        sequences end only with the episode and the minibatch, as in ``RecurrentPPO``
    :param flags: flags of ``DistributionalPPO``
    :raises ValueError: from the constructor and ``load`` if a value is out of its range
    :raises TypeError: if a flag is unknown or not a bool, or the policy is not a ``RecurrentActorCriticPolicy``
    :raises FloatingPointError: from ``learn`` if a NaN or an infinity occurs. The update is undone
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpLstmPolicy": QuantileRecurrentActorCriticPolicy,
        "CnnLstmPolicy": QuantileRecurrentActorCriticCnnPolicy,
        "MultiInputLstmPolicy": QuantileRecurrentMultiInputActorCriticPolicy,
    }
    policy_base: ClassVar[type[QuantileActorCriticPolicy]] = QuantileRecurrentActorCriticPolicy
    policy: QuantileRecurrentActorCriticPolicy
    batch_size: int | None  # type: ignore[assignment]
    _last_lstm_states: RNNStates  # type: ignore[assignment]

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
            batch_size=max(n_steps, 2),  # any size that PPO accepts without a warning; the real one is set below
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

        # Parameters that PPO lacks.
        self.batch_size = batch_size
        self.sequence_length = sequence_length

        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        # Checked here so that ``load`` checks it too.
        length = self.sequence_length
        is_integer = isinstance(length, int | np.integer) and not isinstance(length, bool)
        if length is not None and not (is_integer and length >= 1):
            raise ValueError(f"sequence_length must be None or an integer of at least 1, got {length!r}")

        for name in ("rollout_buffer_class", "rollout_buffer_kwargs"):
            if getattr(self, name):
                raise TypeError(
                    f"{name} is no parameter of RecurrentDistributionalPPO, nor of RecurrentPPO: the observation space "
                    "decides the rollout buffer, which keeps the states of the LSTMs"
                )

        super()._setup_model()

    def _compile(self) -> None:
        """Build the compiled policy step. The update stays eager: a compiled graph has fixed shapes."""
        from quantile_critic.recurrent_compiled import RecurrentStep

        self._policy_step = RecurrentStep()
        warnings.warn("compile=True: the update stays eager, as each minibatch has sequences of other lengths")

    def _rollout(
        self,
        clips: bool,
        sampled: Callable[[Tensor], Tensor] | None,
    ) -> Rollout:
        return RecurrentRollout(self.sequence_length, self.rollout_buffer, self.policy, self.batch_size, clips, sampled)

    def _quantiles_after(
        self,
        observation: Any,
        step: int | None = None,
        env: int = 0,
    ) -> Tensor:
        # After the rollout, the model has the states that follow it.
        if step is None:
            return self.policy.predict_quantiles(observation, self._last_lstm_states, self._last_episode_starts)

        # The buffer stores no states after a step, so run the step again from the states before it.
        policy = self.policy
        states = RolloutStates(self.rollout_buffer)
        row = np.array([step * self.rollout_buffer.n_envs + env])
        before = obs_as_tensor(rows_of(observations_by_step(self.rollout_buffer), row), policy.device)
        after = policy.obs_to_tensor(observation)[0]

        # Join both observations to a sequence of two steps. A buffer stores discrete parts as (1, 1).
        two_steps = tree_map(lambda first, second: torch.cat([first, second.reshape(first.shape)]), before, after)
        begins = np.array([True, False])

        episode_starts = np.array([states.episode_starts[row[0]], False])
        layout, _ = lay_out(begins, episode_starts)
        layout = tree_map_only(Tensor, lambda tensor: tensor.to(policy.device), layout)

        # The second row is the truncated episode's last observation.
        quantiles = policy.quantiles_of_loss(Sequences(two_steps, states.at(row, policy.device), layout))
        return policy.value_net.to_raw(policy.value_net.of_smaller_mean(quantiles[1:]))

    def carried_states(self) -> RNNStates:
        """:return: states of the LSTMs after the last step, shape (n_layers, E, H) each"""
        return self._last_lstm_states

    def restore_states(self, states: RNNStates) -> None:
        """
        :param states: return value of ``carried_states``
        """
        self._last_lstm_states = states

    def critic_states_of_rollout(self) -> dict[str, np.ndarray]:
        """:return: "hidden" and "cell" before each step, (T * E, n_layers, H); zero where an episode starts"""
        rows = np.arange(self.rollout_buffer.rewards.size)
        hidden, cell = RolloutStates(self.rollout_buffer).at(rows, torch.device("cpu")).vf
        return {"hidden": hidden.transpose(0, 1).numpy(), "cell": cell.transpose(0, 1).numpy()}

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "RecurrentDistributionalPPO",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Train as ``DistributionalPPO.learn`` does."""
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
