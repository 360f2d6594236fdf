"""
Clipping of gradients: of all parameters together, as in PPO, or of the actor's and the critic's apart.

Together, the critic's gradient decides how far the actor may step: where it is large, the common factor leaves little
to the actor. Apart, the factor of each part comes from its norm alone.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from quantile_critic.policies import QuantileActorCriticPolicy
from quantile_critic.rollout import Samples

# Parameters by the name of the scalar that has their norm.
Parts = dict[str, list[nn.Parameter]]

# Norm of all gradients.
NORM = "grad_norm"


def clip_gradients(
    parameters: list[nn.Parameter],
    max_norm: float,
) -> Tensor:
    """As ``nn.utils.clip_grad_norm_``, on one device, in half the time; returns the norm before clipping."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return torch.zeros((), device=parameters[0].device)

    # The norm of all gradients is that of their norms.
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))

    # By 1, to the last bit, where the norm is small enough.
    torch._foreach_mul_(gradients, (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm


def all_norms(norms: list[Tensor]) -> Tensor:
    """
    :param norms: of the parts, scalars
    :return: shape (1,), the norm of a single part; else that of all gradients, then those of the parts
    """
    if len(norms) == 1:
        return norms[0].reshape(1)
    stacked = torch.stack(norms)
    return torch.cat([torch.linalg.vector_norm(stacked).reshape(1), stacked])


def names_of_norms(parts: Parts) -> tuple[str, ...]:
    """:return: names of the norms in ``all_norms``"""
    if len(parts) == 1:
        return (NORM,)
    return NORM, *parts


def parts_by_loss(
    policy: QuantileActorCriticPolicy,
    parameters: list[nn.Parameter],
    minibatch: Samples,
) -> Parts:
    """
    Part the parameters by which loss reaches them. What both reach, such as a shared features extractor, is a third
    part, so that neither norm has a say in the other's factor.

    :param policy: is evaluated once, without a change of its state
    :param parameters: its parameters that are trained
    :param minibatch: an example
    :return: those that only the quantiles depend on as the critic's, those that actions depend on, too, as shared, all
        others as the actor's; only parts that have a parameter
    """
    # Evaluation mode draws no random numbers and leaves the statistics of normalising layers.
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
    :param results: of a computation that torch.autograd has recorded; None: no result
    :return: ids of the parameters that they depend on
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

        # The nodes at the end of the graph hold the parameters.
        if hasattr(node, "variable"):
            ids.add(id(node.variable))
    return ids
