"""
Loading of optimizer state between models whose optimizers group the parameters differently.

PPO's optimizer has one group. A model with several quantiles has two by default, since its critic has another eps.
torch loads state only into equal groups. So the groups follow those of the state, and moments and options are taken
unchanged.
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

# Group keys in which optimizers of one class differ, by torch's version or by the form of the step.
FORMS = {"foreach", "fused", "capturable", "differentiable", "maximize", "decoupled_weight_decay"}
# Group keys that are not options. A model sets the learning rate before every update.
NO_OPTIONS = {"params", "param_names", "lr", "initial_lr"}

Groups = list[list[nn.Parameter]]


@contextmanager
def fitting_optimizer(
    policy: QuantileActorCriticPolicy,
    saved: dict[str, Any],
    exact_match: bool,
) -> Iterator[dict[str, Any]]:
    """
    Regroup the policy's optimizer for a state of other groups. An error inside restores its groups.

    :param policy: policy whose optimizer loads the state
    :param saved: ``state_dict`` of another model's optimizer
    :param exact_match: whether unknown groups are refused; otherwise the optimizer starts with empty state
    :return: state that the optimizer can load: ``saved``, or that of a new optimizer where ``saved`` does not fit
    :raises ValueError: if ``exact_match`` and the groups are unknown
    """
    optimizer = policy.optimizer
    before = optimizer.param_groups

    # A class with its own ``load_state_dict`` decides what it loads.
    if type(optimizer).load_state_dict is not Optimizer.load_state_dict:
        yield saved
        return

    # The state of another class has no meaning here.
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

    # Group the parameters as the state does.
    optimizer.param_groups = [{**before[0], "params": group} for group in groups]
    try:
        yield saved
    except Exception:
        optimizer.param_groups = before
        raise
    warn_of_options(before, optimizer.param_groups)


def sizes_of(groups: list[dict[str, Any]]) -> list[int]:
    """
    :param groups: groups of an optimizer, or of its state
    :return: number of parameters in each group
    """
    return [len(group["params"]) for group in groups]


def option_names(group: dict[str, Any]) -> set[str]:
    """
    :param group: group of an optimizer, or of its state
    :return: names of the options that distinguish its class
    """
    return group.keys() - NO_OPTIONS - FORMS


def is_of_another_class(optimizer: Optimizer, saved: dict[str, Any]) -> bool:
    """
    Compare names, since a state does not name its class. Those of Adam and AdamW are equal.

    :param optimizer: optimizer that loads the state
    :param saved: the state
    :return: whether the names of options differ, or those of the entries per parameter
    """
    if option_names(saved["param_groups"][0]) != option_names(optimizer.param_groups[0]):
        return True

    # Some classes store more for some parameters, and all store nothing before the first step.
    ours = set().union(*(state.keys() for state in optimizer.state.values()))
    theirs = set().union(*(state.keys() for state in saved["state"].values()))
    return bool(ours and theirs) and not (ours <= theirs or theirs <= ours)


def parameters_of(policy: QuantileActorCriticPolicy, saved: dict[str, Any]) -> Groups | None:
    """
    :param policy: policy whose optimizer loads the state
    :param saved: the state
    :return: the policy's parameters, grouped and ordered as in the state, None: its groups are unknown
    """
    # Groups of equal sizes count as equal, as in torch.
    sizes = sizes_of(saved["param_groups"])
    if sizes == sizes_of(policy.optimizer.param_groups):
        return [list(group["params"]) for group in policy.optimizer.param_groups]

    # Try one group, as PPO's, then two, as the default's. Both follow the policy's order.
    stepped = {id(parameter) for group in policy.optimizer.param_groups for parameter in group["params"]}
    named_parameters = [(name, parameter) for name, parameter in policy.named_parameters() if id(parameter) in stepped]
    every = [parameter for _, parameter in named_parameters]
    critic = [parameter for name, parameter in named_parameters if name.startswith(policy.critic_parts)]
    remaining = [parameter for name, parameter in named_parameters if not name.startswith(policy.critic_parts)]
    for groups in ([every], [remaining, critic]):
        if sizes == [len(group) for group in groups] and has_shapes(groups, saved):
            return groups
    return None


def has_shapes(groups: Groups, saved: dict[str, Any]) -> bool:
    """
    :param groups: parameters in a possible grouping of the state
    :param saved: the state
    :return: whether each entry has its parameter's shape. Factors and sums of it may be smaller
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
    :param policy: policy whose optimizer starts with empty state
    :return: ``state_dict`` of the optimizer before its first step, with its current options
    """
    groups: list[dict[str, Any]] = policy.optimizer.state_dict()["param_groups"]
    indices = [index for group in groups for index in group["params"]]
    parameters = [parameter for group in policy.optimizer.param_groups for parameter in group["params"]]

    # Some classes, such as Adagrad, have state from the start.
    first = policy.first_optimizer_state
    state = {
        index: copy.deepcopy(first[parameter])
        for index, parameter in zip(indices, parameters, strict=True)
        if parameter in first
    }
    return {"state": state, "param_groups": groups}


def warn_of_options(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> None:
    """
    Warn which options of the optimizer now have the values of the state.

    :param before: groups of parameters before loading
    :param after: groups of the same parameters after it, in any grouping
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
