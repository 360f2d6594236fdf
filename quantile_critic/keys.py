"""
What compiled code depends on, by name: a change compiles anew and can be said.

Code of this package, Stable-Baselines3 and torch reads what stands here, so it needs no guards of torch.compile. What
anybody else's code reads nobody here knows; ``foreign_code`` finds it, and torch guards it.
"""

from __future__ import annotations

import functools
import operator
import sys
from collections.abc import Iterable, Mapping
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from quantile_critic import losses
from quantile_critic.policies import QuantileActorCriticPolicy

PLAIN = (int, float, str, type(None))
# Packages whose code reads nothing but what the key has.
OURS = frozenset(
    {
        "distributional_ppo",
        "quantile_critic",
        "recurrent_distributional_ppo",
        "sb3_contrib",
        "stable_baselines3",
        "torch",
    }
)
# Whose functions theirs are made of.
BELOW = sys.stdlib_module_names | {"gymnasium", "numpy", "typing_extensions"}
# Methods that make the loss of a minibatch.
LOSS_METHODS = (
    "_minibatch_loss",
    "_policy_loss",
    "_value_loss",
    "_clipped",
    "_weight",
    "_weight_metrics",
    "_quantile_huber_loss",
    "variance_weight",
    "_scaling",
    "_clipping",
)
# What SB3's policies read of themselves when they act and are evaluated, beside their modules and action_dist.
POLICY_ATTRIBUTES = (
    "n_critics",
    "n_quantiles",
    "normalize_images",
    "share_features_extractor",
    "shared_lstm",
    "squash_output",
    "training",
    "use_sde",
)


def layout(tensor: Tensor) -> tuple[Any, ...]:
    """:return: what compiled code takes for granted of a tensor; strides of dimensions of one element do not matter"""
    stride = None if tensor.is_contiguous() else tensor.stride()
    return tensor.shape, stride, tensor.dtype, tensor.device


def layouts(args: Any) -> list[Any]:
    """The layout of each tensor; compiled code takes no others, and does not look."""
    plain = isinstance(args, list | tuple) and all(isinstance(arg, Tensor) for arg in args)
    leaves = args if plain else tree_leaves(args)
    return [layout(leaf) if isinstance(leaf, Tensor) else None for leaf in leaves]


def plain_attributes(
    label: str,
    attributes: dict[str, Any],
) -> dict[str, Any]:
    """Numbers, strings, flags and functions of an object, and lists of them: constants of compiled code."""
    constant = (*PLAIN, FunctionType)
    plain: dict[str, Any] = {}
    for name, value in attributes.items():
        if isinstance(value, constant):
            plain[f"{label}{name}"] = value
        elif isinstance(value, list | tuple) and all(isinstance(part, constant) for part in value):
            plain[f"{label}{name}"] = tuple(value)
    return plain


def key_of(
    policy: QuantileActorCriticPolicy,
    args: Any,
    **more: Any,
) -> dict[str, Any]:
    """
    :param policy: whose structure it is
    :param args: arguments of the compiled function, whose layouts count
    :param more: other parts of the key
    :return: all that code of ``OURS`` for these arguments depends on
    """
    key = {
        "sizes of the arguments": layouts(args),
        "sizes of the policy's tensors": layouts([*policy.parameters(), *policy.buffers()]),
        **more,
    }
    key |= _state_of_torch(policy.device)
    key["observation space"] = str(policy.observation_space)

    # The policy reads named attributes of itself; a module of torch or SB3 reads any of its own.
    for name in POLICY_ATTRIBUTES:
        key[f"policy.{name}"] = getattr(policy, name, None)
    for name, module in policy.named_modules(prefix="policy"):
        key[f"class of {name}"] = type(module)
        if module is not policy:
            key |= plain_attributes(f"{name}.", vars(module))
    key["class of policy.action_dist"] = type(policy.action_dist)
    key |= plain_attributes("policy.action_dist.", vars(policy.action_dist))

    # Constants and functions of the formulas, for somebody who sets them from outside.
    key |= plain_attributes("losses.", vars(losses))
    return key


def _state_of_torch(device: torch.device) -> dict[str, Any]:
    """What torch's own arithmetic depends on."""
    kind = device.type
    return {
        "torch.is_autocast_enabled": torch.is_autocast_enabled(kind),
        "torch.get_autocast_dtype": torch.get_autocast_dtype(kind),
        "torch.get_default_dtype": torch.get_default_dtype(),
        "torch.are_deterministic_algorithms_enabled": torch.are_deterministic_algorithms_enabled(),
        "torch.get_float32_matmul_precision": torch.get_float32_matmul_precision(),
    }


def difference(
    new: dict[str, Any],
    old: dict[str, Any],
) -> str:
    """
    :param new: key of now
    :param old: key of before
    :return: what differs, such as "kappa 1.0 -> 0.5"; what is too long to print by its name alone
    """
    parts = []
    for name in dict.fromkeys([*new, *old]):
        before, after = old.get(name), new.get(name)
        if name in new and name in old and before == after:
            continue
        change = f"{name} {_short(before)} -> {_short(after)}"
        parts.append(change if len(change) <= 80 else name)
    shown = ", ".join(parts[:3])
    return f"{shown} and {len(parts) - 3} more" if len(parts) > 3 else shown


def _short(value: Any) -> str:
    return value.__qualname__ if isinstance(value, type | FunctionType) else repr(value)


# ------------------------------------------------------------------------------------------- code of somebody else


def foreign_code(
    policy: QuantileActorCriticPolicy,
    loss: Any = None,
) -> str | None:
    """
    Find code that is not of ``OURS`` where the loss or the policy runs it: a class of the user, or a method or function
    that somebody has replaced on an instance, a class or a module.

    :param policy: which is run
    :param loss: bound method that computes the loss of a minibatch; None: only the policy is run
    :return: its name, None: there is none
    """
    found = None if loss is None else _foreign_loss(loss)
    for name, module in policy.named_modules(prefix="policy"):
        found = found or _foreign_callable(vars(module), f"{name}.")
    found = found or _foreign_callable(vars(policy.action_dist), "policy.action_dist.")
    if found is not None:
        return found
    classes = {type(module) for module in policy.modules()} | {type(policy.action_dist)}
    bases = dict.fromkeys(base for cls in classes for base in cls.__mro__[:-1])
    return next(filter(None, map(_foreign_part, bases)), None) or _foreign_modules(bases)


def contents_of_classes(
    policy: QuantileActorCriticPolicy,
    loss: Any = None,
) -> dict[str, Any]:
    """
    What torch's guards do not see: methods of a class that somebody replaces, attributes that hide those of a base.

    :param policy: which is run
    :param loss: bound method of the model whose class counts, too; None: only the policy is run
    :return: contents of the classes that are not of ``OURS``
    """
    objects = [*policy.modules(), policy.action_dist]
    if loss is not None:
        objects.append(loss.__self__)
    contents: dict[str, Any] = {}
    for cls in dict.fromkeys(base for thing in objects for base in type(thing).__mro__[:-1]):
        for name, value in vars(cls).items():
            method = value.__func__ if isinstance(value, staticmethod | classmethod) else value
            if _is_foreign(cls.__module__) and isinstance(method, (*PLAIN, FunctionType, property)):
                contents[f"{cls.__qualname__}.{name}"] = method
    return contents


def _foreign_loss(loss: Any) -> str | None:
    """The first method of the loss, or function that it calls, which somebody has overridden or replaced."""
    model = loss.__self__
    mro = type(model).__mro__
    for name in LOSS_METHODS:
        method = next(vars(base)[name] for base in mro if name in vars(base))
        function = method.fget if isinstance(method, property) else method
        if name in vars(model) or not isinstance(function, FunctionType) or _is_foreign(_module_of(function)):
            return f"{type(model).__qualname__}.{name}"
    # A property in place of a flag, which may give another value each time.
    for base in mro:
        for name in vars(base).keys() & vars(model).keys():
            if hasattr(vars(base)[name], "__get__"):
                return f"{base.__qualname__}.{name}"
    if any("__getattribute__" in vars(base) for base in mro[:-1]):
        return f"{type(model).__qualname__}.__getattribute__"
    for names in (loss.__func__.__globals__, vars(losses)):
        found = _foreign_function(names, names["__name__"])
        if found is not None:
            return found
    return None


def foreign_class(cls: type) -> str | None:
    """:return: a class or the method of one, among this and its bases, that is not of ``OURS``; None: all are"""
    return next(filter(None, map(_foreign_part, cls.__mro__[:-1])), None)


def _foreign_part(cls: type) -> str | None:
    """As ``foreign_class``, without the bases."""
    return cls.__qualname__ if _is_foreign(cls.__module__) else _foreign_function(vars(cls), cls.__qualname__)


def _foreign_modules(classes: Iterable[type]) -> str | None:
    """The first function that somebody has replaced in the file of a class."""
    files = dict.fromkeys(cls.__module__ for cls in classes)
    names = [name for name in files if name.partition(".")[0] in OURS]
    return next(filter(None, (_foreign_function(vars(sys.modules[name]), name) for name in names)), None)


def _foreign_function(
    names: Mapping[str, Any],
    label: str,
) -> str | None:
    """The first function among the names of a class or a file that is not of ``OURS``."""
    values = tuple(names.values())
    known, result = _ANSWERS.get(label, ((), None))
    if len(known) == len(values) and all(map(operator.is_, known, values)):
        return result

    result = None
    for name, value in names.items():
        method = value.__func__ if isinstance(value, staticmethod | classmethod) else value
        if isinstance(method, FunctionType) and _is_foreign(_module_of(method)):
            result = f"{label}.{name}"
            break
    _ANSWERS[label] = (values, result)
    return result


# By label the values that ``_foreign_function`` last looked at, and its answer: to look again takes a millisecond.
_ANSWERS: dict[str, tuple[tuple[Any, ...], str | None]] = {}


def _foreign_callable(
    attributes: dict[str, Any],
    label: str,
) -> str | None:
    """The first attribute of an object that can be called and is not of ``OURS``, such as a method of its own."""
    for name, value in attributes.items():
        if not callable(value) or isinstance(value, type | nn.Module):
            continue
        module = _module_of(value) if isinstance(value, FunctionType) else type(value).__module__
        if module.partition(".")[0] not in OURS:
            return f"{label}{name}"
    return None


def _module_of(function: FunctionType) -> str:
    """The file that a function was written in, whatever its wrapper says."""
    return str(function.__globals__.get("__name__", ""))


@functools.cache
def _is_foreign(module: str) -> bool:
    package = module.partition(".")[0]
    return package not in OURS and package not in BELOW
