"""sb3-contrib's recurrent policies, or a user's, with a critic of N quantiles."""

from __future__ import annotations

import math
from typing import Any, ClassVar, cast

import numpy as np
import torch
from sb3_contrib.common.recurrent.policies import (
    RecurrentActorCriticCnnPolicy,
    RecurrentActorCriticPolicy,
    RecurrentMultiInputActorCriticPolicy,
)
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from quantile_critic.policies import QuantileActorCriticPolicy
from quantile_critic.rollout import arrays_of
from quantile_critic.sequences import Layout, Sequences, can_step_by_hand, lay_out, run_sequences, run_step

LstmStates = tuple[Tensor, Tensor]


class QuantileRecurrentActorCriticPolicy(QuantileActorCriticPolicy, RecurrentActorCriticPolicy):  # type: ignore[misc]
    """
    ``RecurrentActorCriticPolicy`` with a critic of N quantiles (``n_quantiles``).

    Two critics share the critic's LSTM and features extractor. Each has a value network and a head.
    """

    host: ClassVar[type[ActorCriticPolicy]] = RecurrentActorCriticPolicy
    carries_states: ClassVar[bool] = True
    critic_parts: ClassVar[tuple[str, ...]] = (*QuantileActorCriticPolicy.critic_parts, "lstm_critic.", "critic.")

    def __init__(
        self,
        *args: Any,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        # A user's class may only handle sequences padded as in sb3-contrib.
        bases = type(self).__mro__[type(self).__mro__.index(QuantileActorCriticPolicy) + 1 :]
        names = ("_process_sequence", "evaluate_actions", "predict_values")
        firsts = [next(base for base in bases if name in vars(base)) for name in names]
        self.runs_own_sequences = any(base is not RecurrentActorCriticPolicy for base in firsts)

    def _doubles_extractor(self) -> bool:
        return False

    def _get_constructor_parameters(self) -> dict[str, Any]:
        # Add the host constructor's parameters to those of the base policy.
        layers, _, units = self.lstm_hidden_state_shape
        parameters = {
            "lstm_hidden_size": units,
            "n_lstm_layers": layers,
            "shared_lstm": self.shared_lstm,
            "enable_critic_lstm": self.enable_critic_lstm,
            "lstm_kwargs": self.lstm_kwargs,
        }
        return {**parameters, **super()._get_constructor_parameters()}

    def _process_sequence(  # type: ignore[override]
        self,
        features: Tensor,
        lstm_states: LstmStates,
        episode_starts: Any,
        lstm: nn.LSTM,
    ) -> tuple[Tensor, LstmStates]:
        """
        Run sequences as sb3-contrib does, without its loop over the steps unless an episode starts within a sequence.

        :param features: shape (B, features)
        :param lstm_states: states before the first step of each of the S sequences, (n_layers, S, H) each
        :param episode_starts: shape (B,), for sequences of equal length, or a ``Layout``
        :param lstm: LSTM of the actor or the critic
        :return: shape (B, H), and the states after the last step; with a ``Layout``, the given states
        """
        # In an update sequences have any lengths, and episodes start only with sequences.
        if isinstance(episode_starts, Layout):
            return run_sequences(lstm, features, lstm_states, episode_starts), lstm_states

        # Use the host's loop if the user's class runs sequences or an episode starts within one.
        n_sequences = lstm_states[0].shape[1]
        starts = episode_starts.reshape(n_sequences, -1)  # (S, steps)
        n_steps = starts.shape[1]
        if self.runs_own_sequences or (n_steps > 1 and bool(starts[:, 1:].any())):
            process = super(QuantileActorCriticPolicy, self)._process_sequence
            return cast(tuple[Tensor, LstmStates], process(features, lstm_states, episode_starts, lstm))

        # States are zero where an episode starts.
        goes_on = (1.0 - starts[:, 0]).view(1, n_sequences, 1)
        states = (goes_on * lstm_states[0], goes_on * lstm_states[1])

        # One step of a rollout.
        if n_steps == 1 and not torch.is_grad_enabled() and can_step_by_hand(lstm):
            return run_step(lstm, features, states)

        # Complete sequences.
        sequences = features.reshape(n_sequences, n_steps, lstm.input_size)
        output, states = lstm(sequences.swapaxes(0, 1), states)
        return output.transpose(0, 1).flatten(0, 1), states

    def forward(
        self,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """
        Act as ``RecurrentActorCriticPolicy.forward`` does: actions, values, log probabilities, states after the step.

        :raises ValueError: if a log probability is NaN
        """
        # Only a rollout sets a compiled step.
        if self.compiled_step is not None and not (kwargs or torch.is_grad_enabled()):
            results = self.compiled_step(self, *args)
        else:
            results = self.forward_unchecked(*args, **kwargs)

        # Check one sum. torch would check every number.
        if not torch.compiler.is_compiling() and math.isnan(results[2].sum().item()):
            raise ValueError("the policy's log probabilities are NaN")
        return results

    def forward_unchecked(
        self,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Run ``forward`` without its check for NaN."""
        host_forward = super(QuantileActorCriticPolicy, self).forward
        (actions, values, log_prob, states), recorded = self._recording(host_forward, *args, **kwargs)
        if not recorded:
            values = self._value(values)
        return actions, values, log_prob, states

    def quantiles_of_loss(
        self,
        obs: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        """
        :param obs: ``Sequences`` of B steps; or B observations as tensors, followed by the critic's states,
            (n_layers, S, H) each, and episode starts, (B,)
        :return: quantiles of all critics side by side, shape (B, C * N), in the units of the loss, with their gradient
        """
        if not isinstance(obs, Sequences):
            return super().quantiles_of_loss(obs, *args, **kwargs)

        # Pad for a host that runs sequences itself, and remove the padded rows afterwards.
        obs, rows, _ = self._for_host(obs)
        quantiles = super().quantiles_of_loss(obs.observations, obs.states.vf, obs.starts)
        if rows is None:
            return quantiles
        return quantiles[rows]

    def evaluate_quantiles(
        self,
        obs: Any,
        actions: Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """
        Evaluate actions as ``evaluate_actions`` does, with the quantiles in place of the value.

        :param obs: ``Sequences`` of B steps, or the input of ``RecurrentActorCriticPolicy.evaluate_actions``
        :param actions: actions, B of them
        :return: results as from ``QuantileActorCriticPolicy.evaluate_quantiles``
        """
        if not isinstance(obs, Sequences):
            return super().evaluate_quantiles(obs, actions, *args, **kwargs)

        # Pad, and remove the padded rows, as above.
        obs, rows, actions = self._for_host(obs, actions)
        results = super().evaluate_quantiles(obs.observations, actions, obs.states, obs.starts)
        if rows is None:
            return results

        quantiles, log_prob, entropy = results
        if entropy is not None:
            entropy = entropy[rows]
        return quantiles[rows], log_prob[rows], entropy

    def _for_host(
        self,
        obs: Sequences,
        actions: Any = None,
    ) -> tuple[Sequences, Tensor | None, Any]:
        """
        Pad sequences if the user's class runs them.

        :param obs: B steps
        :param actions: actions of these steps
        :return: sequences of equal lengths, the rows without padding, shape (B,), and the actions. Without padding the
            rows are None and the rest is unchanged
        """
        layout = obs.starts
        if not (self.runs_own_sequences and isinstance(layout, Layout)):
            return obs, None, actions

        # Put all sequences into one group, padded to the longest.
        rows = layout.single_group_places
        longest = layout.groups[0][0]
        n_cells = longest * obs.states.pi[0].shape[1]

        def padded(tensors: Any) -> Any:
            """Pad from shape (B, ...) to (n_cells, ...), sequence by sequence."""
            return tree_map_only(
                Tensor, lambda part: part.new_zeros(n_cells, *part.shape[1:]).index_copy(0, rows, part), tensors
            )

        sequences = Sequences(padded(obs.observations), obs.states, padded(layout.episode_starts))
        return sequences, rows, padded(actions)

    def initial_states(self, n_envs: int) -> RNNStates:
        """:return: zero states of actor and critic for that many environments, as ``forward`` takes and returns them"""
        layers, _, units = self.lstm_hidden_state_shape
        # Hidden and cell state of the actor, then of the critic.
        zeros = [torch.zeros(layers, n_envs, units, device=self.device) for _ in range(4)]
        return RNNStates((zeros[0], zeros[1]), (zeros[2], zeros[3]))

    @torch.no_grad()
    def predict_quantiles(
        self,
        obs: Any,
        lstm_states: Any = None,
        episode_starts: np.ndarray | Tensor | None = None,
    ) -> Tensor:
        """
        Predict quantiles of the return, whose mean is ``predict_values(obs, lstm_states, episode_starts)``.

        :param obs: input of ``predict``, one observation or B of them, or B of them as tensors on the policy's device
        :param lstm_states: the critic's states before this step, shape (n_layers, B, H) each, or ``RNNStates``, which
            contain them; None: zero
        :param episode_starts: whether an episode starts with these observations, shape (B,); None: no
        :return: shape (B, N), raw units, of the critic with the smaller mean
        """
        # Convert arrays to tensors with a row per observation, as `predict` does.
        if not all(isinstance(part, Tensor) for part in arrays_of(obs)):
            obs = self.obs_to_tensor(obs)[0]
        size = len(arrays_of(obs)[0])

        # States of the critic before this step.
        if lstm_states is None:
            lstm_states = self.initial_states(size)
        if isinstance(lstm_states, RNNStates):
            lstm_states = lstm_states.vf
        states = tuple(torch.as_tensor(state, dtype=torch.float32, device=self.device) for state in lstm_states)

        # By default no episode starts here.
        if episode_starts is None:
            episode_starts = torch.zeros(size)
        starts = torch.as_tensor(episode_starts).to(self.device, torch.float32)

        quantiles = self.quantiles_of_loss(obs, states, starts)
        return self.value_net.to_raw(self.value_net.of_smaller_mean(quantiles))

    def quantiles_of_episode(self, observations: Any) -> Tensor:
        """
        Predict as ``QuantileActorCriticPolicy`` does. The critic reads the steps in order, from zero states.

        :param observations: observations of an episode from its first step on, shape (T, ...)
        :return: shape (T, N), raw units, of the critic with the smaller mean
        """
        # A single sequence begins with its episode.
        starts = np.arange(len(observations)) == 0
        layout, _ = lay_out(starts, starts)
        layout = tree_map_only(Tensor, lambda tensor: tensor.to(self.device), layout)
        tensors = torch.as_tensor(observations, device=self.device)
        quantiles = self.quantiles_of_loss(Sequences(tensors, self.initial_states(1), layout))
        return self.value_net.to_raw(self.value_net.of_smaller_mean(quantiles))


class QuantileRecurrentActorCriticCnnPolicy(  # type: ignore[misc]
    QuantileRecurrentActorCriticPolicy, RecurrentActorCriticCnnPolicy
):
    """``RecurrentActorCriticCnnPolicy`` with a critic of N quantiles (``n_quantiles``)."""


class QuantileRecurrentMultiInputActorCriticPolicy(  # type: ignore[misc]
    QuantileRecurrentActorCriticPolicy, RecurrentMultiInputActorCriticPolicy
):
    """``RecurrentMultiInputActorCriticPolicy`` with a critic of N quantiles (``n_quantiles``)."""
