"""
The state of an optimizer, handed from one model to another whose optimizer has other groups of parameters.

PPO's optimizer has one group. The default of a model with several quantiles has two, as its critic has another eps.
torch takes the state of equal groups only. So the groups follow those of the state; its moments and options are taken
as they are.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from quantile_critic.policies import QuantileActorCriticPolicy

# Keys of a group by which optimizers of one class differ: by torch's version, or by how they are run.
FORMS = {"foreach", "fused", "capturable", "differentiable", "maximize", "decoupled_weight_decay"}
# Keys of a group that are no option; a model sets the learning rate before every update.
NO_OPTIONS = {"params", "param_names", "lr", "initial_lr"}

Groups = list[list[nn.Parameter]]


@contextmanager
def fitting_optimizer(
    policy: QuantileActorCriticPolicy,
    saved: dict[str, Any],
    exact_match: bool,
) -> Iterator[dict[str, Any]]:
    """
    Let the policy's optimizer take a state of other groups within it. An error within leaves its groups as they were.

    :param policy: whose optimizer is to take the state
    :param saved: ``state_dict`` of another model's optimizer
    :param exact_match: whether groups that nobody knows are refused; otherwise the optimizer begins anew
    :return: what the optimizer can load: the state itself, or that of a new optimizer where it does not fit
    :raises ValueError: if ``exact_match`` and the groups are unknown
    """
    optimizer = policy.optimizer
    before = optimizer.param_groups

    # A class that loads states by itself decides what it takes.
    if type(optimizer).load_state_dict is not Optimizer.load_state_dict:
        yield saved
        return

    # A state that another class has left means nothing to this one.
    reason = None
    groups: Groups | None = None
    if is_of_another_class(optimizer, saved):
        reason = "it belongs to an optimizer of another class"
    else:
        groups = parameters_of(policy, saved)
        if groups is None:
            reason = f"its groups have {sizes_of(saved['param_groups'])} parameters, {sizes_of(before)} are expected"
        if groups is None and exact_match:
            raise ValueError(
                f"the optimizer's state does not fit: {reason}. set_parameters(..., exact_match=False) takes the "
                "parameters and begins the optimizer's state anew"
            )

    if groups is None:
        warnings.warn(f"the optimizer's state is not taken and begins anew: {reason}")
        yield new_state(policy)
        return

    # The same groups, as the state has them.
    optimizer.param_groups = [{**before[0], "params": group} for group in groups]
    try:
        yield saved
    except Exception:
        optimizer.param_groups = before
        raise
    warn_of_options(before, optimizer.param_groups)


def sizes_of(groups: list[dict[str, Any]]) -> list[int]:
    """
    :param groups: of an optimizer, or of its state
    :return: how many parameters each has
    """
    return [len(group["params"]) for group in groups]


def option_names(group: dict[str, Any]) -> set[str]:
    """
    :param group: of an optimizer, or of its state
    :return: names of the options that tell one class from another
    """
    return group.keys() - NO_OPTIONS - FORMS


def is_of_another_class(optimizer: Optimizer, saved: dict[str, Any]) -> bool:
    """
    Judge by names, since a state does not name its class. Adam and AdamW have the same.

    :param optimizer: that is to take the state
    :param saved: the state
    :return: whether the names of options differ, or those of what is kept of a parameter
    """
    if option_names(saved["param_groups"][0]) != option_names(optimizer.param_groups[0]):
        return True

    # Some keep more of some parameters, and nothing before the first step.
    ours = set().union(*(state.keys() for state in optimizer.state.values()))
    theirs = set().union(*(state.keys() for state in saved["state"].values()))
    return bool(ours and theirs) and not (ours <= theirs or theirs <= ours)


def parameters_of(policy: QuantileActorCriticPolicy, saved: dict[str, Any]) -> Groups | None:
    """
    :param policy: whose optimizer is to take the state
    :param saved: the state
    :return: the policy's parameters, grouped and ordered as the state has them; None where the groups are unknown
    """
    # Equal sizes are taken for equal groups, as torch does.
    sizes = sizes_of(saved["param_groups"])
    if sizes == sizes_of(policy.optimizer.param_groups):
        return [list(group["params"]) for group in policy.optimizer.param_groups]

    # One group, as PPO's, or two, as the default's. Both are in the policy's order.
    stepped = {id(parameter) for group in policy.optimizer.param_groups for parameter in group["params"]}
    named = [(name, parameter) for name, parameter in policy.named_parameters() if id(parameter) in stepped]
    every = [parameter for _, parameter in named]
    critic = [parameter for name, parameter in named if name.startswith(policy.critic_parts)]
    others = [parameter for name, parameter in named if not name.startswith(policy.critic_parts)]
    for groups in ([every], [others, critic]):
        if sizes == [len(group) for group in groups] and has_shapes(groups, saved):
            return groups
    return None


def has_shapes(groups: Groups, saved: dict[str, Any]) -> bool:
    """
    :param groups: parameters, as the state may have them
    :param saved: the state
    :return: whether everything kept of a parameter has its shape; factors and sums of it may be smaller
    """
    indices = [index for group in saved["param_groups"] for index in group["params"]]
    parameters = [parameter for group in groups for parameter in group]
    for index, parameter in zip(indices, parameters, strict=True):
        for value in saved["state"].get(index, {}).values():
            is_array = isinstance(value, Tensor) and value.dim() > 0
            if is_array and value.numel() >= parameter.numel() and value.shape != parameter.shape:
                return False
    return True


def new_state(policy: QuantileActorCriticPolicy) -> dict[str, Any]:
    """
    :param policy: whose optimizer is to begin anew
    :return: ``state_dict`` of the optimizer before its first step, with the options it has
    """
    groups: list[dict[str, Any]] = policy.optimizer.state_dict()["param_groups"]
    indices = [index for group in groups for index in group["params"]]
    parameters = [parameter for group in policy.optimizer.param_groups for parameter in group["params"]]

    # Some, such as Adagrad, have a state from the beginning.
    first = policy.first_optimizer_state
    state = {
        index: copy.deepcopy(first[parameter])
        for index, parameter in zip(indices, parameters, strict=True)
        if parameter in first
    }
    return {"state": state, "param_groups": groups}


def warn_of_options(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> None:
    """
    Say which options of the optimizer have become those of the state.

    :param before: groups of parameters
    :param after: of the same parameters, grouped in any way
    """
    options = {id(parameter): group for group in before for parameter in group["params"]}
    changes = set()
    for group in after:
        for parameter in group["params"]:
            old = options[id(parameter)]
            for name in option_names(group):
                if group[name] != old.get(name):
                    changes.add(f"{name} {old.get(name)} -> {group[name]}")
    if changes:
        warnings.warn(
            f"the optimizer's options come with its state, as in PPO: {', '.join(sorted(changes))}. To keep those of "
            "this model, leave 'policy.optimizer' out of the parameters, with exact_match=False"
        )
