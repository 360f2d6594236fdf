"""
A rollout whose minibatches are sequences with the LSTMs' states before each step. Needs sb3-contrib.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.buffers import RecurrentDictRolloutBuffer, RecurrentRolloutBuffer
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.utils import obs_as_tensor
from torch import Tensor

from quantile_critic.rollout import Rollout, Samples, by_step, on, rows_of
from quantile_critic.sequences import Sequences, lay_out


class RolloutStates:
    """
    The LSTMs' states before each step of a rollout, and the starts of episodes, step by step.

    :param buffer: sb3-contrib's buffer
    """

    def __init__(self, buffer: Any):
        arrays = [
            buffer.hidden_states_pi,
            buffer.cell_states_pi,
            buffer.hidden_states_vf,
            buffer.cell_states_vf,
        ]

        # The buffer has layers before environments until it has made minibatches.
        if not buffer.generator_ready:
            arrays = [array.swapaxes(1, 2) for array in arrays]  # to (T, E, n_layers, H)

        self.states = [torch.from_numpy(by_step(buffer, array)) for array in arrays]  # (M, n_layers, H)
        self.episode_starts = by_step(buffer, buffer.episode_starts).flatten() > 0  # (M,)

    def at(
        self,
        rows: np.ndarray,
        device: torch.device,
    ) -> RNNStates:
        """
        Select the states before the steps of these rows. They are zero where an episode starts.

        :param rows: shape (S,)
        :param device: device of the result
        :return: tensors of shape (n_layers, S, H) each
        """
        # The factor is 0 where an episode starts, else 1.
        goes_on = torch.from_numpy(~self.episode_starts[rows]).view(-1, 1, 1)

        # LSTMs expect the layers first.
        parts = []
        for state in self.states:
            before = state[rows] * goes_on  # (S, n_layers, H)
            parts.append(before.transpose(0, 1).contiguous().to(device))
        return RNNStates((parts[0], parts[1]), (parts[2], parts[3]))


class RecurrentRollout(Rollout):
    """
    A rollout whose minibatches are sequences, cut as sb3-contrib's buffer cuts them.

    :param sequence_length: longest sequence, None: any length. Longer ones continue from the stored states
    :param args: arguments of ``Rollout``
    :raises TypeError: if the buffer's class overrides ``get``, which is not called here
    """

    def __init__(
        self,
        sequence_length: int | None,
        buffer: Any,
        *args: Any,
    ):
        if type(buffer).get not in (RecurrentRolloutBuffer.get, RecurrentDictRolloutBuffer.get):
            raise TypeError(
                f"{type(buffer).__name__} has a get() of its own, which this class does not call for minibatches"
            )

        self.sequence_length = sequence_length
        self.states = RolloutStates(buffer)
        super().__init__(buffer, *args)

    def _has_custom_minibatches(self) -> bool:
        return False

    def _predict(
        self,
        observations: Any,
        batch_size: int | None,
    ) -> Tensor:
        """Predict all quantiles in the units of the loss, each step from its stored states, in parts."""
        # Use as many rows at once as training does, or more if they are cheap.
        steps = len(self.states.episode_starts)
        size = max(batch_size or steps, 1024)

        quantiles = []
        for first in range(0, steps, size):
            rows = np.arange(first, min(first + size, steps))
            obs = obs_as_tensor(rows_of(observations, rows), self.device)
            starts = torch.as_tensor(self.states.episode_starts[rows], dtype=torch.float32, device=self.device)
            sequences = Sequences(obs, self.states.at(rows, self.device), starts)
            quantiles.append(self.policy.quantiles_of_loss(sequences))

        return torch.cat(quantiles)

    def minibatches(self, batch_size: int | None) -> Iterator[tuple[Samples, Tensor | None]]:
        """
        Pass over the rollout once, environment by environment, from a random step, as sb3-contrib's buffer does.

        :param batch_size: steps of a minibatch, None: all
        :return: samples of each minibatch, whose observations are ``Sequences``, and None: all rows
        """
        # Order of all samples.
        steps, envs = self.buffer.rewards.shape
        split = np.random.randint(steps * envs)  # noqa: NPY002  # sb3-contrib's generator
        order = np.roll(np.arange(steps * envs), -split)  # environment by environment
        rows = order % steps * envs + order // steps  # the same samples counted step by step

        # A sequence begins with an episode and with the rollout.
        begins = self.states.episode_starts[rows] | (order % steps == 0)

        # Minibatches of consecutive samples.
        size = batch_size or steps * envs
        for first in range(0, steps * envs, size):
            mb_rows = rows[first : first + size]
            mb_begins = begins[first : first + size]
            yield self._sequences(mb_rows, mb_begins), None

    def _sequences(
        self,
        rows: np.ndarray,
        begins: np.ndarray,
    ) -> Samples:
        """Cut the samples of these rows, shape (B,), into sequences at the required starts."""
        # A minibatch may cut a sequence. The rest begins with the minibatch.
        begins = begins.copy()
        begins[0] = True

        # Long sequences restart after every ``sequence_length`` steps.
        if self.sequence_length is not None:
            first_rows = np.flatnonzero(begins)
            steps = np.arange(len(rows)) - first_rows[np.cumsum(begins) - 1]
            begins |= steps % self.sequence_length == 0
        layout, first_rows = lay_out(begins, self.states.episode_starts[rows])

        # Put samples, states before each sequence and layout on the policy's device.
        assert self.samples is not None
        minibatch = self.samples.at(torch.from_numpy(rows).to(self.samples.advantages.device))
        minibatch = Samples._make(on(self.device, tuple(minibatch)))
        states = self.states.at(rows[first_rows], self.device)
        sequences = Sequences(minibatch.observations, states, on(self.device, layout))
        return minibatch._replace(observations=sequences)


class RecurrentHost(RecurrentPPO):
    """``RecurrentPPO`` as the base class of ``PPO``, whose constructor passes more arguments than this one takes."""

    def __init__(
        self,
        *args: Any,
        rollout_buffer_class: Any = None,
        rollout_buffer_kwargs: Any = None,
        supported_action_spaces: Any = None,  # PPO's, equal to RecurrentPPO's
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self.rollout_buffer_class = rollout_buffer_class
        self.rollout_buffer_kwargs = rollout_buffer_kwargs or {}
