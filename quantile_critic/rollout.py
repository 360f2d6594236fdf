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
from torch import Tensor, nn
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
        return Samples(
            rows_of(self.observations, rows),
            self.actions[rows],
            self.old_log_prob[rows],
            self.advantages[rows],
            self.targets[rows],
            None if self.old_quantiles is None else self.old_quantiles[rows],
        )


class Coefficients(NamedTuple):
    """Numbers of the loss and the step that may change between updates; tensors where the update is compiled."""

    clip_range: float
    clip_range_vf: float | None  # in the units of ``clip_range_vf_units``; None: no clipping
    ent_coef: float
    vf_coef: float
    max_grad_norm: float


def clip_gradients(parameters: list[nn.Parameter], max_norm: float) -> Tensor:
    """As ``nn.utils.clip_grad_norm_``, on one device, in half the time; returns the norm before clipping."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    torch._foreach_mul_(gradients, (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm


def rows_of(observations: Any, rows: Any) -> Any:
    """Some of the observations, an array or tensor or a dict of them."""
    if isinstance(observations, dict):
        return {key: values[rows] for key, values in observations.items()}
    return observations[rows]


def on(device: torch.device, tensors: Any) -> Any:
    """A tensor or a dict of them, on the device."""
    return tree_map_only(Tensor, lambda tensor: tensor.to(device), tensors)


def arrays_of(observations: Any) -> list[Any]:
    """The parts of observations, an array or tensor or a dict of them."""
    return list(observations.values()) if isinstance(observations, dict) else [observations]


def has_own_minibatches(buffer: RolloutBuffer) -> bool:
    """Whether the buffer is of a class whose ``get()`` may do anything."""
    kind = type(buffer)
    return not any(
        kind.get is base.get and kind._get_samples is base._get_samples for base in (RolloutBuffer, DictRolloutBuffer)
    )


def by_step(buffer: RolloutBuffer, array: np.ndarray) -> np.ndarray:
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
    return by_step(buffer, observations) if isinstance(observations, np.ndarray) else None


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
        self.buffer, self.policy, self.device = buffer, policy, policy.device
        self.values, self.returns = by_step(buffer, buffer.values).flatten(), by_step(buffer, buffer.returns).flatten()
        self.has_own_minibatches = self._has_own_minibatches()
        if sampled_targets is not None and self.has_own_minibatches:
            raise ValueError(
                "value_target='sr_lambda' needs minibatches of SB3's buffers, which say where in the rollout a sample "
                f"lies: {type(buffer).__name__} has a get() of its own"
            )
        self.calibration_error: float | None = None
        self.old_quantiles: Tensor | None = None
        self.atoms: Tensor | None = None
        self.frozen = copy.deepcopy(policy) if clips and self.has_own_minibatches else None
        observations = observations_by_step(buffer)
        if observations is None:
            return
        head, quantiles = policy.value_net, policy.value_net.to_raw(self._predict(observations, batch_size))
        if head.ret_std > 0:
            returns = torch.as_tensor(self.returns, device=self.device)
            self.calibration_error = calibration_error(of_all(head.of_smaller_mean(quantiles)), of_all(returns))
        self.old_quantiles = quantiles if clips else None
        self.atoms = None if sampled_targets is None else sampled_targets(quantiles)

    def _has_own_minibatches(self) -> bool:
        return has_own_minibatches(self.buffer)

    def _predict(self, observations: Any, batch_size: int) -> Tensor:
        """All quantiles in the units of the loss, in parts that take no more memory than training."""
        arrays = arrays_of(observations)
        size = max(batch_size, 2**16 // sum(math.prod(array.shape[1:]) for array in arrays))
        parts = [rows_of(observations, slice(i, i + size)) for i in range(0, len(arrays[0]), size)]
        return torch.cat([self.policy.quantiles_of_loss(obs_as_tensor(part, self.device)) for part in parts])

    def normalize(self, scale_advantages: bool) -> None:
        """
        Make the samples, with targets and old quantiles in the units of the loss as it is by now.

        :param scale_advantages: to the size of the loss's units
        """
        self.scale_advantages, buffer = scale_advantages, self.buffer
        if self.has_own_minibatches:
            return
        observations = observations_by_step(buffer)
        is_large = sum(array.nbytes for array in arrays_of(observations)) > LARGE
        arrays = [by_step(buffer, array) for array in (buffer.actions, buffer.log_probs, buffer.advantages)]
        actions, log_prob, advantages = (torch.as_tensor(array, device=self.device) for array in arrays)
        data = RolloutBufferSamples(
            obs_as_tensor(observations, torch.device("cpu")),  # type: ignore[arg-type]
            actions=actions.to(torch.float32),
            old_values=torch.as_tensor(self.values, device=self.device),
            old_log_prob=log_prob.flatten(),
            advantages=advantages.flatten(),
            returns=torch.as_tensor(self.returns, device=self.device),
        )
        self.samples = samples = self._in_loss_units(data, self.old_quantiles)
        if not is_large:
            self.samples = samples._replace(observations=on(self.device, samples.observations))

    def _in_loss_units(self, data: RolloutBufferSamples, old_quantiles: Tensor | None) -> Samples:
        head, advantages, actions = self.policy.value_net, data.advantages, data.actions
        if self.scale_advantages:
            # By a power of 2, so that no bit is lost: what is added to their std for stability then weighs the same at
            # any scale of the rewards.
            advantages = torch.ldexp(advantages, -torch.frexp(head.ret_std).exponent)
        return Samples(
            observations=data.observations,
            actions=actions.long().flatten() if isinstance(self.policy.action_space, spaces.Discrete) else actions,
            old_log_prob=data.old_log_prob,
            advantages=advantages,
            targets=head.to_normalized(data.returns if self.atoms is None else self.atoms),
            old_quantiles=None if old_quantiles is None else head.to_normalized(old_quantiles),
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
        steps, envs = self.buffer.rewards.shape
        order = np.random.permutation(steps * envs)  # noqa: NPY002  # SB3 counts environment by environment
        rows = torch.as_tensor(order % steps * envs + order // steps)
        observations, rest = self.samples.observations, self.samples._replace(observations={})
        is_here = arrays_of(observations)[0].device.type == self.device.type
        parts = torch.split(rows, batch_size), torch.split(on(self.device, rows), batch_size)
        for chosen, chosen_here in zip(*parts, strict=True):
            if is_here:
                yield self.samples, chosen_here
            else:
                own = on(self.device, rows_of(observations, chosen))
                yield rest.at(chosen_here)._replace(observations=own), None

    @torch.no_grad()
    def _old_quantiles_of(self, observations: Any) -> Tensor | None:
        """Of the policy that collected the rollout, raw; None if they are not wanted."""
        frozen = self.frozen
        return None if frozen is None else frozen.value_net.to_raw(frozen.quantiles_of_loss(observations))
