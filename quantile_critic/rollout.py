"""
What an update reads of a rollout: its arrays in order of time, as samples, in minibatches.

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
    """What the loss is made of: the B samples of a minibatch, or all M of a rollout."""

    observations: Any
    actions: Tensor
    old_log_prob: Tensor  # (B,)
    advantages: Tensor  # (B,), raw
    targets: Tensor  # (B,), or atoms, (B, N), in the units of the loss
    old_quantiles: Tensor | None  # (B, C * N), likewise; None: no clipping

    def at(self, rows: Tensor | None) -> Samples:
        """The samples of these rows, shape (B,); None: all."""
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
    """Some of the observations, an array or tensor or a dict of them."""
    if isinstance(observations, dict):
        return {key: values[rows] for key, values in observations.items()}
    return observations[rows]


def on(
    device: torch.device,
    tensors: Any,
) -> Any:
    """A tensor or a dict of them, on the device."""
    return tree_map_only(Tensor, lambda tensor: tensor.to(device), tensors)


def arrays_of(observations: Any) -> list[Any]:
    """The parts of observations, an array or tensor or a dict of them."""
    if isinstance(observations, dict):
        return list(observations.values())
    return [observations]


def has_own_minibatches(buffer: RolloutBuffer) -> bool:
    """Whether the buffer is of a class whose ``get()`` may do anything."""
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
    :param array: of the buffer, shape (T, E, ...); (M, ...), environment by environment, once it has given minibatches
    :return: shape (M, ...), step by step
    """
    steps, envs = buffer.rewards.shape
    if buffer.generator_ready:
        array = array.reshape(envs, steps, *array.shape[1:]).swapaxes(0, 1)
    return array.reshape(steps * envs, *array.shape[2:])


def observations_by_step(buffer: RolloutBuffer) -> Any:
    """:return: as ``by_step``, one array or a dict of them; None if the buffer keeps them elsewhere"""
    observations: Any = getattr(buffer, "observations", None)
    if isinstance(observations, dict):
        return {key: by_step(buffer, array) for key, array in observations.items()}
    if isinstance(observations, np.ndarray):
        return by_step(buffer, observations)
    return None


class Rollout:
    """
    What an update reads of a rollout, as the policy that collected it sees it, in raw units and order of time: made
    before the statistics of the returns move, in evaluation mode. M = T * E rows.

    :param buffer: the rollout
    :param policy: that collected it
    :param batch_size: observations that fit on the device at once
    :param clips: whether old quantiles are wanted
    :param sampled_targets: from raw quantiles, (M, C * N), to atoms, (M, N); None: the targets are the returns
    :raises ValueError: if sampled targets are wanted of a buffer that makes minibatches of its own
    """

    samples: Samples | None = None  # all of them, in the units of the loss; None where the buffer makes its minibatches

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
        self.has_own_minibatches = self._has_own_minibatches()
        if sampled_targets is not None and self.has_own_minibatches:
            raise ValueError(
                "value_target='sr_lambda' needs minibatches of SB3's buffers, which say where in the rollout a sample "
                f"lies: {type(buffer).__name__} has a get() of its own"
            )

        # A buffer that makes its own minibatches does not say which rows they are. A copy of the critic gives their
        # old quantiles.
        self.frozen: QuantileActorCriticPolicy | None = None
        if clips and self.has_own_minibatches:
            self.frozen = copy.deepcopy(policy)

        # By row, where the buffer has its observations in one place.
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

    def _has_own_minibatches(self) -> bool:
        return has_own_minibatches(self.buffer)

    def _predict(
        self,
        observations: Any,
        batch_size: int,
    ) -> Tensor:
        """All quantiles in the units of the loss, in parts that take no more memory than training."""
        arrays = arrays_of(observations)
        numbers_of_one = sum(math.prod(array.shape[1:]) for array in arrays)
        size = max(batch_size, 2**16 // numbers_of_one)

        quantiles = []
        for first in range(0, len(arrays[0]), size):
            part = obs_as_tensor(rows_of(observations, slice(first, first + size)), self.device)
            quantiles.append(self.policy.quantiles_of_loss(part))
        return torch.cat(quantiles)

    def to_loss_units(self, scale_advantages: bool) -> None:
        """
        Make the samples, with targets and old quantiles in the units of the loss as it is by now.

        :param scale_advantages: to the size of the loss's units
        """
        self.scales_advantages = scale_advantages
        if self.has_own_minibatches:
            return

        # The whole rollout as one batch of SB3's buffer.
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

        # Large observations go to the device minibatch by minibatch.
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
        :param old_quantiles: theirs, raw; None: no clipping
        """
        # Discrete actions are numbers of categories.
        head = self.policy.value_net
        actions = data.actions
        if isinstance(self.policy.action_space, spaces.Discrete):
            actions = actions.long().flatten()

        advantages = data.advantages
        if self.scales_advantages:
            # By a power of 2, so that no bit is lost: what is added to their std for stability then weighs the same at
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
        One pass over the rollout, in an order drawn anew, as SB3's buffer draws it.

        :return: for each minibatch the samples from which it is taken and its rows there, shape (B,); None: all
        """
        if self.samples is None:
            for data in self.buffer.get(batch_size):
                yield self._in_loss_units(data, self._old_quantiles_of(data.observations)), None
            return

        # SB3 counts environment by environment, this class step by step.
        steps, envs = self.buffer.rewards.shape
        order = np.random.permutation(steps * envs)  # noqa: NPY002  # SB3's generator
        rows = torch.as_tensor(order % steps * envs + order // steps)  # (M,)

        # Rows of samples on the device, or the minibatch's observations sent there.
        observations = self.samples.observations
        is_here = arrays_of(observations)[0].device.type == self.device.type
        b_rows = torch.split(rows, batch_size)
        b_rows_here = torch.split(on(self.device, rows), batch_size)
        for mb_rows, mb_rows_here in zip(b_rows, b_rows_here, strict=True):
            if is_here:
                yield self.samples, mb_rows_here
            else:
                mb_observations = on(self.device, rows_of(observations, mb_rows))
                minibatch = self.samples._replace(observations={}).at(mb_rows_here)
                yield minibatch._replace(observations=mb_observations), None

    @torch.no_grad()
    def _old_quantiles_of(self, observations: Any) -> Tensor | None:
        """Of the policy that collected the rollout, raw; None if they are not wanted."""
        if self.frozen is None:
            return None
        return self.frozen.value_net.to_raw(self.frozen.quantiles_of_loss(observations))
