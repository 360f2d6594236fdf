"""
Gradient clipping: all parameters together, as in PPO, or actor and critic apart.

Together, a large critic gradient limits the actor's step: the common factor shrinks both. Apart, each part's factor
depends only on that part's norm.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from quantile_critic.policies import QuantileActorCriticPolicy
from quantile_critic.rollout import Samples

# Parameters by the name of the scalar that logs their norm.
Parts = dict[str, list[nn.Parameter]]

# Norm of all gradients.
NORM = "grad_norm"


def clip_gradients(
    parameters: list[nn.Parameter],
    max_norm: float,
) -> Tensor:
    """Clip as ``nn.utils.clip_grad_norm_`` on one device, in half the time. Return the norm before clipping."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return torch.zeros((), device=parameters[0].device)

    # The norm of all gradients is the norm of their norms.
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))

    # The factor is exactly 1 where the norm is small enough.
    torch._foreach_mul_(gradients, (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm


def all_norms(norms: list[Tensor]) -> Tensor:
    """
    :param norms: norms of the parts, scalars
    :return: shape (1,) for a single part; else the norm of all gradients, then those of the parts
    """
    if len(norms) == 1:
        return norms[0].reshape(1)
    stacked = torch.stack(norms)
    return torch.cat([torch.linalg.vector_norm(stacked).reshape(1), stacked])


def names_of_norms(parts: Parts) -> tuple[str, ...]:
    """:return: names of the norms in ``all_norms``, in order"""
    if len(parts) == 1:
        return (NORM,)
    return NORM, *parts


def parts_by_loss(
    policy: QuantileActorCriticPolicy,
    parameters: list[nn.Parameter],
    minibatch: Samples,
) -> Parts:
    """
    Split the parameters by the loss that reaches them.

    Parameters that both losses reach, such as a shared features extractor, are a third part. So neither norm affects
    the other's factor.

    :param policy: policy, evaluated once without a change of its state
    :param parameters: its trainable parameters
    :param minibatch: an example
    :return: three parts without the empty ones. Critic: only the quantiles depend on it. Shared: quantiles and actions
        depend on it. Actor: all other parameters
    """
    # Evaluation mode draws no random numbers and keeps the statistics of normalising layers.
    is_training = policy.training
    policy.set_training_mode(False)
    try:
        with torch.enable_grad():
            quantiles, log_prob, entropy = policy.evaluate_quantiles(minibatch.observations, minibatch.actions)
    finally:
        policy.set_training_mode(is_training)

    of_critic = leaves([quantiles])
    of_actor = leaves([log_prob, entropy])

    parts: Parts = {"grad_norm_actor": [], "grad_norm_critic": [], "grad_norm_shared": []}
    for parameter in parameters:
        if id(parameter) not in of_critic:
            parts["grad_norm_actor"].append(parameter)
        elif id(parameter) not in of_actor:
            parts["grad_norm_critic"].append(parameter)
        else:
            parts["grad_norm_shared"].append(parameter)
    return {name: part for name, part in parts.items() if part}


def leaves(results: Iterable[Tensor | None]) -> set[int]:
    """
    :param results: results of a computation that torch.autograd recorded; None: no result
    :return: ids of the parameters that the results depend on
    """
    pending = [result.grad_fn for result in results if result is not None]
    visited = set()
    ids = set()

    while pending:
        node = pending.pop()
        if node is None or node in visited:
            continue
        visited.add(node)
        pending += [function for function, _ in node.next_functions]

        # The graph's leaf nodes refer to the parameters.
        if hasattr(node, "variable"):
            ids.add(id(node.variable))
    return ids
