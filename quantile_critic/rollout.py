"""
The data of a rollout that an update reads, in order of time, as samples in minibatches.

T steps, E environments, M = T * E samples, of which a minibatch has B; C critics of N quantiles.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.type_aliases import RolloutBufferSamples
from stable_baselines3.common.utils import obs_as_tensor
from torch import Tensor
from torch.utils._pytree import tree_map_only

from quantile_critic.policies import QuantileActorCriticPolicy
from quantile_critic.processes import of_all
from quantile_critic.targets import calibration_error

LARGE = 2**20  # bytes of observations from which a rollout goes to the device minibatch by minibatch


class Samples(NamedTuple):
    """Input of the loss: the B samples of a minibatch, or all M of a rollout."""

    observations: Any
    actions: Tensor
    old_log_prob: Tensor  # (B,)
    advantages: Tensor  # (B,), raw
    targets: Tensor  # (B,), or atoms, (B, N), in the units of the loss
    old_quantiles: Tensor | None  # (B, C * N), same units; None: no clipping

    def at(self, rows: Tensor | None) -> Samples:
        """Select the samples of these rows, shape (B,), None: all."""
        if rows is None:
            return self

        old_quantiles = self.old_quantiles
        if old_quantiles is not None:
            old_quantiles = old_quantiles[rows]
        return Samples(
            observations=rows_of(self.observations, rows),
            actions=self.actions[rows],
            old_log_prob=self.old_log_prob[rows],
            advantages=self.advantages[rows],
            targets=self.targets[rows],
            old_quantiles=old_quantiles,
        )


def rows_of(
    observations: Any,
    rows: Any,
) -> Any:
    """Select rows of observations, which are an array, a tensor or a dict of them."""
    if isinstance(observations, dict):
        return {key: values[rows] for key, values in observations.items()}
    return observations[rows]


def on(
    device: torch.device,
    tensors: Any,
) -> Any:
    """Move a tensor or a dict of them to the device."""
    return tree_map_only(Tensor, lambda tensor: tensor.to(device), tensors)


def arrays_of(observations: Any) -> list[Any]:
    """List the parts of observations, which are an array, a tensor or a dict of them."""
    if isinstance(observations, dict):
        return list(observations.values())
    return [observations]


def has_custom_minibatches(buffer: RolloutBuffer) -> bool:
    """Return whether the buffer's class overrides ``get``, which may then do anything."""
    kind = type(buffer)
    for base in (RolloutBuffer, DictRolloutBuffer):
        if kind.get is base.get and kind._get_samples is base._get_samples:
            return False
    return True


def by_step(
    buffer: RolloutBuffer,
    array: np.ndarray,
) -> np.ndarray:
    """
    :param array: array of the buffer, shape (T, E, ...); once it has made minibatches, (M, ...), environment by
        environment
    :return: shape (M, ...), step by step
    """
    steps, envs = buffer.rewards.shape
    if buffer.generator_ready:
        array = array.reshape(envs, steps, *array.shape[1:]).swapaxes(0, 1)
    return array.reshape(steps * envs, *array.shape[2:])


def observations_by_step(buffer: RolloutBuffer) -> Any:
    """:return: one array or a dict of them, as from ``by_step``; None if the buffer stores them elsewhere"""
    observations: Any = getattr(buffer, "observations", None)
    if isinstance(observations, dict):
        return {key: by_step(buffer, array) for key, array in observations.items()}
    if isinstance(observations, np.ndarray):
        return by_step(buffer, observations)
    return None


class Rollout:
    """
    The data of a rollout that an update reads, in raw units and order of time. M = T * E rows.

    The policy that collected the rollout reads it in evaluation mode, before the statistics of the returns move.

    :param buffer: the rollout
    :param policy: policy that collected it
    :param batch_size: observations that fit on the device at once
    :param clips: whether old quantiles are needed
    :param sampled_targets: function from raw quantiles, (M, C * N), to atoms, (M, N); None: targets are the returns
    :raises ValueError: if sampled targets are needed and the buffer makes its own minibatches
    """

    samples: Samples | None = None  # all rows in the units of the loss, None: the buffer makes its own minibatches

    def __init__(
        self,
        buffer: RolloutBuffer,
        policy: QuantileActorCriticPolicy,
        batch_size: int,
        clips: bool,
        sampled_targets: Callable[[Tensor], Tensor] | None,
    ):
        self.buffer = buffer
        self.policy = policy
        self.device = policy.device
        self.values = by_step(buffer, buffer.values).flatten()  # (M,)
        self.returns = by_step(buffer, buffer.returns).flatten()  # (M,)
        self.scales_advantages = False
        self.has_custom_minibatches = self._has_custom_minibatches()
        if sampled_targets is not None and self.has_custom_minibatches:
            raise ValueError(
                "value_target='sr_lambda' needs minibatches of SB3's buffers, which say where in the rollout a sample "
                f"lies: {type(buffer).__name__} has a get() of its own"
            )

        # A buffer that makes its own minibatches does not reveal their rows. A copy of the critic predicts their old
        # quantiles.
        self.frozen: QuantileActorCriticPolicy | None = None
        if clips and self.has_custom_minibatches:
            self.frozen = copy.deepcopy(policy)

        # Predict by row if the buffer has its observations in one array.
        self.calibration_error: float | None = None
        self.old_quantiles: Tensor | None = None  # (M, C * N), raw
        self.atoms: Tensor | None = None  # (M, N), raw
        observations = observations_by_step(buffer)
        if observations is None:
            return

        # The critic's quantiles of all states serve calibration, clipping and sampled targets.
        head = policy.value_net
        quantiles = head.to_raw(self._predict(observations, batch_size))  # (M, C * N)
        if head.ret_std > 0:
            returns = torch.as_tensor(self.returns, device=self.device)
            self.calibration_error = calibration_error(of_all(head.of_smaller_mean(quantiles)), of_all(returns))
        if clips:
            self.old_quantiles = quantiles
        if sampled_targets is not None:
            self.atoms = sampled_targets(quantiles)

    def _has_custom_minibatches(self) -> bool:
        return has_custom_minibatches(self.buffer)

    def _predict(
        self,
        observations: Any,
        batch_size: int,
    ) -> Tensor:
        """Predict all quantiles in the units of the loss, in parts that take no more memory than training."""
        arrays = arrays_of(observations)
        numbers_per_row = sum(math.prod(array.shape[1:]) for array in arrays)
        size = max(batch_size, 2**16 // numbers_per_row)

        quantiles = []
        for first in range(0, len(arrays[0]), size):
            part = obs_as_tensor(rows_of(observations, slice(first, first + size)), self.device)
            quantiles.append(self.policy.quantiles_of_loss(part))
        return torch.cat(quantiles)

    def to_loss_units(self, scale_advantages: bool) -> None:
        """
        Build the samples, with targets and old quantiles in the current units of the loss.

        :param scale_advantages: whether to scale advantages to the size of these units
        """
        self.scales_advantages = scale_advantages
        if self.has_custom_minibatches:
            return

        # Read the whole rollout as one batch of SB3's buffer.
        buffer = self.buffer
        observations = observations_by_step(buffer)
        actions = torch.as_tensor(by_step(buffer, buffer.actions), device=self.device)
        log_prob = torch.as_tensor(by_step(buffer, buffer.log_probs), device=self.device)
        advantages = torch.as_tensor(by_step(buffer, buffer.advantages), device=self.device)
        data = RolloutBufferSamples(
            obs_as_tensor(observations, torch.device("cpu")),  # type: ignore[arg-type]
            actions=actions.to(torch.float32),
            old_values=torch.as_tensor(self.values, device=self.device),
            old_log_prob=log_prob.flatten(),
            advantages=advantages.flatten(),
            returns=torch.as_tensor(self.returns, device=self.device),
        )
        samples = self._in_loss_units(data, self.old_quantiles)

        # Small observations go to the device at once, large ones minibatch by minibatch.
        if sum(array.nbytes for array in arrays_of(observations)) <= LARGE:
            samples = samples._replace(observations=on(self.device, samples.observations))
        self.samples = samples

    def _in_loss_units(
        self,
        data: RolloutBufferSamples,
        old_quantiles: Tensor | None,
    ) -> Samples:
        """
        :param data: samples of SB3's buffer, raw
        :param old_quantiles: their old quantiles, raw; None: no clipping
        """
        # Discrete actions are indices of categories.
        head = self.policy.value_net
        actions = data.actions
        if isinstance(self.policy.action_space, spaces.Discrete):
            actions = actions.long().flatten()

        advantages = data.advantages
        if self.scales_advantages:
            # A power of 2 loses no bit. The constant that stabilises the division by their std then weighs the same at
            # any scale of the rewards.
            advantages = torch.ldexp(advantages, -torch.frexp(head.ret_std).exponent)

        targets = data.returns
        if self.atoms is not None:
            targets = self.atoms
        if old_quantiles is not None:
            old_quantiles = head.to_normalized(old_quantiles)
        return Samples(
            observations=data.observations,
            actions=actions,
            old_log_prob=data.old_log_prob,
            advantages=advantages,
            targets=head.to_normalized(targets),
            old_quantiles=old_quantiles,
        )

    def minibatches(self, batch_size: int) -> Iterator[tuple[Samples, Tensor | None]]:
        """
        Pass over the rollout once, in a random order, as SB3's buffer does.

        :return: samples and the minibatch's rows in them, shape (B,), None: all rows
        """
        if self.samples is None:
            for data in self.buffer.get(batch_size):
                yield self._in_loss_units(data, self._old_quantiles_of(data.observations)), None
            return

        # SB3 counts environment by environment, this class step by step.
        steps, envs = self.buffer.rewards.shape
        order = np.random.permutation(steps * envs)  # noqa: NPY002  # SB3's generator
        rows = torch.as_tensor(order % steps * envs + order // steps)  # (M,)

        # Take rows of samples on the device, or send the minibatch's observations there.
        observations = self.samples.observations
        on_device = arrays_of(observations)[0].device.type == self.device.type
        b_rows = torch.split(rows, batch_size)
        b_device_rows = torch.split(on(self.device, rows), batch_size)
        for mb_rows, mb_device_rows in zip(b_rows, b_device_rows, strict=True):
            if on_device:
                yield self.samples, mb_device_rows
            else:
                mb_observations = on(self.device, rows_of(observations, mb_rows))
                minibatch = self.samples._replace(observations={}).at(mb_device_rows)
                yield minibatch._replace(observations=mb_observations), None

    @torch.no_grad()
    def _old_quantiles_of(self, observations: Any) -> Tensor | None:
        """Predict with the policy that collected the rollout, raw; return None without clipping."""
        if self.frozen is None:
            return None
        return self.frozen.value_net.to_raw(self.frozen.quantiles_of_loss(observations))
