"""What a critic reads at a step: the observation and, where the policy is recurrent, the critic's states before it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from distributional_ppo import DistributionalPPO

Inputs = dict[str, np.ndarray]  # "observations" and, of recurrent policies, "hidden" and "cell", all of equal length


def is_recurrent(model: DistributionalPPO) -> bool:
    """Whether the policy has states to carry from step to step."""
    return model.policy.carries_states


def inputs_of_rollout(model: DistributionalPPO) -> Inputs:
    """
    :param model: at the end of a rollout of T steps by E environments
    :return: observations, shape (T * E, ...), step by step; of a recurrent policy also the states that the critic had
        before each step, (T * E, n_layers, H), zero where an episode starts
    """
    buffer: Any = model.rollout_buffer
    observations = buffer.observations.reshape(-1, *buffer.observations.shape[2:])  # (T * E, ...)

    return {"observations": observations, **model.critic_states_of_rollout()}


def at_rows(inputs: Inputs, rows: Any) -> Inputs:
    """Some of the inputs, by an index of their first dimension."""
    return {name: array[rows] for name, array in inputs.items()}


def quantiles_of_loss(model: DistributionalPPO, inputs: Inputs) -> Tensor:
    """
    Each step is predicted by itself: the gradient does not reach the steps that made its states.

    :param inputs: of B steps
    :return: predictions of all C critics in units of the loss, with their gradient, shape (B, C * N)
    """
    observations = torch.as_tensor(inputs["observations"], device=model.device)
    if "hidden" not in inputs:
        return model.policy.quantiles_of_loss(observations)

    # Where an episode starts the states are zero already.
    starts = torch.zeros(len(observations), device=model.device)
    return model.policy.quantiles_of_loss(observations, _states(model, inputs), starts)


def _states(model: DistributionalPPO, inputs: Inputs) -> tuple[Tensor, ...]:
    """As the policy takes them, (n_layers, B, H) each."""
    states = []
    for name in ("hidden", "cell"):
        array = np.ascontiguousarray(inputs[name].swapaxes(0, 1))
        states.append(torch.as_tensor(array, device=model.device))
    return tuple(states)


def predict_quantiles(model: DistributionalPPO, inputs: Inputs) -> Tensor:
    """
    :param inputs: of B steps
    :return: quantiles of the return, raw units, of the critic with the smaller mean, shape (B, N)
    """
    policy: Any = model.policy
    arguments: list[Any] = [inputs["observations"]]
    if "hidden" in inputs:
        arguments.append(_states(model, inputs))

    quantiles: Tensor = policy.predict_quantiles(*arguments)
    return quantiles


def quantiles_of_episode(model: DistributionalPPO, observations: np.ndarray) -> Tensor:
    """
    :param observations: of one episode from its first step on, as the policy gets them, shape (T, ...)
    :return: quantiles of the return, raw units, shape (T, N); a recurrent critic reads the steps in their order
    """
    return model.policy.quantiles_of_episode(observations)
