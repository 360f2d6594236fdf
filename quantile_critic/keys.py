"""
Everything that compiled code depends on, by name. A change compiles again and can be named.

Code of this package, Stable-Baselines3 and torch reads only the settings listed here, so it needs no guards of
torch.compile. Foreign code may read anything. ``foreign_code`` detects it, and torch guards it.
"""

from __future__ import annotations

import functools
import operator
import sys
from collections.abc import Iterable, Mapping
from types import FunctionType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from quantile_critic import losses
from quantile_critic.policies import QuantileActorCriticPolicy

PLAIN = (int, float, str, type(None))

# Larger containers are logs, not settings. They are not searched for objects.
LARGEST_CONTAINER = 100

# Packages whose code reads only the settings in the key.
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

# Packages that those build on.
BELOW = sys.stdlib_module_names | {"gymnasium", "numpy", "typing_extensions"}

# Methods that compute the loss of a minibatch.
LOSS_METHODS = (
    "_minibatch_loss",
    "_policy_loss",
    "_value_loss",
    "_sample_losses",
    "_clipped",
    "_weight",
    "_weight_metrics",
    "_quantile_huber_loss",
    "variance_weight",
    "_scaling",
    "_clipping",
)

# Attributes that SB3's policies read when they act and are evaluated, beside their modules and action_dist.
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
    """:return: properties of a tensor that compiled code relies on. Strides of one-element dimensions do not matter"""
    stride = None
    if not tensor.is_contiguous():
        stride = tensor.stride()
    return tensor.shape, stride, tensor.dtype, tensor.device


def layouts(args: Any) -> list[Any]:
    """Return the layout of each tensor. Compiled code requires these layouts and does not check them."""
    # A plain list of tensors has no tree to walk.
    leaves = args
    if not (isinstance(args, list | tuple) and all(isinstance(arg, Tensor) for arg in args)):
        leaves = tree_leaves(args)

    sizes: list[Any] = []
    for leaf in leaves:
        if isinstance(leaf, Tensor):
            sizes.append(layout(leaf))
        else:
            sizes.append(None)
    return sizes


def plain_attributes(
    label: str,
    attributes: dict[str, Any],
) -> dict[str, Any]:
    """Select an object's numbers, strings, flags and functions, and lists of them: constants of compiled code."""
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
    :param policy: policy whose structure counts
    :param args: arguments of the compiled function, whose layouts count
    :param more: further parts of the key
    :return: everything that code of ``OURS`` depends on for these arguments
    """
    # Layouts, the caller's parts, the state of torch.
    key = {
        "sizes of the arguments": layouts(args),
        "sizes of the policy's tensors": layouts([*policy.parameters(), *policy.buffers()]),
        **more,
    }
    key |= _state_of_torch(policy.device)
    key["observation space"] = str(policy.observation_space)

    # The policy reads only these attributes of itself. A module of torch or SB3 may read any attribute.
    for name in POLICY_ATTRIBUTES:
        key[f"policy.{name}"] = getattr(policy, name, None)
    for name, module in policy.named_modules(prefix="policy"):
        key[f"class of {name}"] = type(module)
        if module is not policy:
            key |= plain_attributes(f"{name}.", vars(module))

    key["class of policy.action_dist"] = type(policy.action_dist)
    key |= plain_attributes("policy.action_dist.", vars(policy.action_dist))

    # Constants and functions of the formulas, which a user may replace.
    key |= plain_attributes("losses.", vars(losses))
    return key


def _state_of_torch(device: torch.device) -> dict[str, Any]:
    """Return the settings that torch's arithmetic depends on."""
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
    :param new: current key
    :param old: previous key
    :return: changes, such as "kappa 1.0 -> 0.5"; a long value appears only by its name
    """
    parts = []
    for name in dict.fromkeys([*new, *old]):
        before = old.get(name)
        after = new.get(name)
        if name in new and name in old and before == after:
            continue

        # Show both values unless they would fill the line.
        change = f"{name} {_short(before)} -> {_short(after)}"
        if len(change) > 80:
            change = name
        parts.append(change)

    shown = ", ".join(parts[:3])
    if len(parts) > 3:
        shown = f"{shown} and {len(parts) - 3} more"
    return shown


def _short(value: Any) -> str:
    """:return: short text of a value, without its memory address"""
    if isinstance(value, type | FunctionType):
        return value.__qualname__
    return repr(value)


# ------------------------------------------------------------------------------------------------------ foreign code


def foreign_code(
    policy: QuantileActorCriticPolicy,
    loss: Any = None,
) -> str | None:
    """
    Find code outside ``OURS`` that the loss or the policy runs.

    It is a user's class, or a method or function that was replaced on an instance, a class or a module.

    :param policy: policy that runs
    :param loss: bound method that computes the loss of a minibatch; None: only the policy runs
    :return: name of the first foreign code; None: all code is of ``OURS``
    """
    # Code of the loss.
    if loss is not None:
        name = _foreign_loss(loss)
        if name is not None:
            return name

    # Methods replaced on instances.
    instances = [(f"{name}.", module) for name, module in policy.named_modules(prefix="policy")]
    instances.append(("policy.action_dist.", policy.action_dist))
    for label, instance in instances:
        name = _foreign_callable(vars(instance), label)
        if name is not None:
            return name

    # Their classes, then the modules of these classes.
    classes = {type(module) for module in policy.modules()} | {type(policy.action_dist)}
    bases = dict.fromkeys(base for cls in classes for base in cls.__mro__[:-1])
    for base in bases:
        name = _foreign_part(base)
        if name is not None:
            return name
    name = _foreign_modules(bases)
    if name is not None:
        return name

    # Functions that all of them call: torch's, and the methods of its tensors.
    for module in (torch, nn.functional):
        name = _foreign_function(vars(module), module.__name__)
        if name is not None:
            return name
    return _foreign_part(Tensor)


def contents_of_classes(
    policy: QuantileActorCriticPolicy,
    loss: Any = None,
) -> dict[str, Any]:
    """
    List class contents that torch's guards miss: replaced methods, and attributes that hide a base's.

    Guards cover the values of class attributes. So only their names count here, and a class that changes a counter does
    not compile again.

    :param policy: policy that runs
    :param loss: bound method of the model, whose class also counts; None: only the policy runs
    :return: contents of classes outside ``OURS``: those of model, policy and the objects they refer to
    """
    roots = [*policy.modules(), policy.action_dist]
    if loss is not None:
        roots.append(loss.__self__)
    classes = {type(root) for root in roots} | _classes_in(roots)
    bases = dict.fromkeys(base for cls in classes for base in cls.__mro__[:-1])

    contents: dict[str, Any] = {}
    for cls in sorted(bases, key=lambda base: (base.__module__, base.__qualname__)):
        if not _is_foreign(cls.__module__):
            continue
        for name, value in vars(cls).items():
            method = _unbound(value)
            if isinstance(method, FunctionType | property):
                contents[f"{cls.__qualname__}.{name}"] = method
            elif isinstance(method, PLAIN):
                contents[f"{cls.__qualname__}.{name}"] = type(method)
    return contents


def _classes_in(roots: Iterable[Any]) -> set[type]:
    """
    :param roots: objects whose attributes are searched
    :return: classes of the objects in them, in short lists and dicts, and in objects of foreign classes
    """
    classes: set[type] = set()
    visited: set[int] = set()
    pending: list[Any] = []
    for root in roots:
        pending += vars(root).values()

    while pending:
        value = pending.pop()
        if isinstance(value, PLAIN) or id(value) in visited:
            continue
        visited.add(id(value))

        # Search containers and namespaces. Objects of the packages above refer to no object of the user.
        if isinstance(value, dict) and len(value) <= LARGEST_CONTAINER:
            pending += value.values()
        elif isinstance(value, list | tuple) and len(value) <= LARGEST_CONTAINER:
            pending += value
        if _is_foreign(type(value).__module__):
            classes.add(type(value))
        if _is_foreign(type(value).__module__) or isinstance(value, SimpleNamespace):
            pending += getattr(value, "__dict__", {}).values()
    return classes


def _foreign_loss(loss: Any) -> str | None:
    """Return the first overridden or replaced method of the loss, or function that it calls."""
    # Methods replaced on the class or the instance.
    model = loss.__self__
    mro = type(model).__mro__
    for name in LOSS_METHODS:
        function = next(vars(base)[name] for base in mro if name in vars(base))
        if name in vars(model) or not isinstance(function, FunctionType) or _is_foreign(_module_of(function)):
            return f"{type(model).__qualname__}.{name}"

    # Properties in place of flags: each read may give another value.
    for base in mro:
        for name in vars(base).keys() & vars(model).keys():
            if hasattr(vars(base)[name], "__get__"):
                return f"{base.__qualname__}.{name}"
    if any("__getattribute__" in vars(base) for base in mro[:-1]):
        return f"{type(model).__qualname__}.__getattribute__"

    # Functions that these methods call.
    for names in (loss.__func__.__globals__, vars(losses)):
        name_of_function = _foreign_function(names, names["__name__"])
        if name_of_function is not None:
            return name_of_function
    return None


def foreign_class(cls: type) -> str | None:
    """
    :return: first base class, method or function of the class's module outside ``OURS``, None: all belong to ``OURS``
    """
    bases = cls.__mro__[:-1]
    for base in bases:
        name = _foreign_part(base)
        if name is not None:
            return name
    return _foreign_modules(bases)


def _foreign_part(cls: type) -> str | None:
    """Check a class as ``foreign_class`` does, without its bases."""
    if _is_foreign(cls.__module__):
        return cls.__qualname__
    return _foreign_function(vars(cls), cls.__qualname__)


def _foreign_modules(classes: Iterable[type]) -> str | None:
    """Return the first function that was replaced in the module of a class."""
    for file in dict.fromkeys(cls.__module__ for cls in classes):
        if file.partition(".")[0] not in OURS:
            continue
        name = _foreign_function(vars(sys.modules[file]), file)
        if name is not None:
            return name
    return None


def _foreign_function(
    names: Mapping[str, Any],
    label: str,
) -> str | None:
    """Return the first function outside ``OURS`` among the names of a class or a module."""
    # The last answer holds while the values are the same objects.
    values = tuple(names.values())
    last_values, result = _ANSWERS.get(label, ((), None))
    if len(last_values) == len(values) and all(map(operator.is_, last_values, values)):
        return result

    result = None
    for name, value in names.items():
        method = _unbound(value)
        if isinstance(method, FunctionType) and _is_foreign(_module_of(method)):
            result = f"{label}.{name}"
            break

    _ANSWERS[label] = (values, result)
    return result


# Values that ``_foreign_function`` checked last and its answer, by label. A new check takes a millisecond.
_ANSWERS: dict[str, tuple[tuple[Any, ...], str | None]] = {}


def _foreign_callable(
    attributes: dict[str, Any],
    label: str,
) -> str | None:
    """Return an object's first callable attribute outside ``OURS``, such as a method replaced on the instance."""
    for name, value in attributes.items():
        if not callable(value) or isinstance(value, type | nn.Module):
            continue

        # A function has a module. Any other object has that of its class.
        module = type(value).__module__
        if isinstance(value, FunctionType):
            module = _module_of(value)
        if module.partition(".")[0] not in OURS:
            return f"{label}{name}"
    return None


def _unbound(attribute: Any) -> Any:
    """:return: an attribute of a class; for a static or class method its function"""
    if isinstance(attribute, staticmethod | classmethod):
        return attribute.__func__
    return attribute


def _module_of(function: FunctionType) -> str:
    """Return the module that defines a function, whatever its wrapper claims."""
    return str(function.__globals__.get("__name__", ""))


@functools.cache
def _is_foreign(module: str) -> bool:
    """:return: whether a module lies outside ``OURS`` and the packages that those build on"""
    package = module.partition(".")[0]
    return package not in OURS and package not in BELOW
