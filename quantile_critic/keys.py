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
from types import FunctionType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from quantile_critic import losses
from quantile_critic.policies import QuantileActorCriticPolicy

PLAIN = (int, float, str, type(None))

# Containers with more entries are logs, not settings: nobody looks through them for objects.
LARGEST_CONTAINER = 100

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

# Packages whose functions theirs are made of.
BELOW = sys.stdlib_module_names | {"gymnasium", "numpy", "typing_extensions"}

# Methods that make the loss of a minibatch.
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
    stride = None
    if not tensor.is_contiguous():
        stride = tensor.stride()
    return tensor.shape, stride, tensor.dtype, tensor.device


def layouts(args: Any) -> list[Any]:
    """The layout of each tensor; compiled code takes no others, and does not look."""
    # A plain list of tensors has no branches to walk through.
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
    # Sizes, what the caller adds, the state of torch.
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
        before = old.get(name)
        after = new.get(name)
        if name in new and name in old and before == after:
            continue

        # Both values, unless they would fill the line.
        change = f"{name} {_short(before)} -> {_short(after)}"
        if len(change) > 80:
            change = name
        parts.append(change)

    shown = ", ".join(parts[:3])
    if len(parts) > 3:
        shown = f"{shown} and {len(parts) - 3} more"
    return shown


def _short(value: Any) -> str:
    """:return: a value in few words, without an address in memory"""
    if isinstance(value, type | FunctionType):
        return value.__qualname__
    return repr(value)


# ------------------------------------------------------------------------------------------- code of somebody else


def foreign_code(
    policy: QuantileActorCriticPolicy,
    loss: Any = None,
) -> str | None:
    """
    Find code that is not of ``OURS`` where the loss or the policy runs it. It is a class of the user, or a method or
    function that somebody has replaced on an instance, a class or a module.

    :param policy: which is run
    :param loss: bound method that computes the loss of a minibatch; None: only the policy is run
    :return: name of the first such code; None: all code is of ``OURS``
    """
    # The loss.
    if loss is not None:
        name = _foreign_loss(loss)
        if name is not None:
            return name

    # What instances have in place of their class's methods.
    instances = [(f"{name}.", module) for name, module in policy.named_modules(prefix="policy")]
    instances.append(("policy.action_dist.", policy.action_dist))
    for label, instance in instances:
        name = _foreign_callable(vars(instance), label)
        if name is not None:
            return name

    # Their classes, then the files of these classes.
    classes = {type(module) for module in policy.modules()} | {type(policy.action_dist)}
    bases = dict.fromkeys(base for cls in classes for base in cls.__mro__[:-1])
    for base in bases:
        name = _foreign_part(base)
        if name is not None:
            return name
    name = _foreign_modules(bases)
    if name is not None:
        return name

    # What they all call: torch's functions and the methods of its tensors.
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
    What torch's guards do not see: methods of a class that somebody replaces, attributes that hide those of a base.

    Guards see the values of class attributes. So only their names count here, and a class that counts something does
    not compile anew.

    :param policy: which is run
    :param loss: bound method of the model whose class counts, too; None: only the policy is run
    :return: contents of the classes of model, policy and the objects they hold that are not of ``OURS``
    """
    roots = [*policy.modules(), policy.action_dist]
    if loss is not None:
        roots.append(loss.__self__)
    classes = {type(root) for root in roots} | _classes_held(roots)
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


def _classes_held(roots: Iterable[Any]) -> set[type]:
    """
    :param roots: objects whose attributes are looked through
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

        # Containers and namespaces hold objects; what belongs to packages known here holds none of the user's.
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
    """The first method of the loss, or function that it calls, which somebody has overridden or replaced."""
    # Methods of the class, or of the instance.
    model = loss.__self__
    mro = type(model).__mro__
    for name in LOSS_METHODS:
        function = next(vars(base)[name] for base in mro if name in vars(base))
        if name in vars(model) or not isinstance(function, FunctionType) or _is_foreign(_module_of(function)):
            return f"{type(model).__qualname__}.{name}"

    # A property in place of a flag, which may give another value each time.
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
    :return: the first class among this and its bases, method of it or function of its file that is not of ``OURS``;
        None: all are
    """
    bases = cls.__mro__[:-1]
    for base in bases:
        name = _foreign_part(base)
        if name is not None:
            return name
    return _foreign_modules(bases)


def _foreign_part(cls: type) -> str | None:
    """As ``foreign_class``, without the bases."""
    if _is_foreign(cls.__module__):
        return cls.__qualname__
    return _foreign_function(vars(cls), cls.__qualname__)


def _foreign_modules(classes: Iterable[type]) -> str | None:
    """The first function that somebody has replaced in the file of a class."""
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
    """The first function among the names of a class or a file that is not of ``OURS``."""
    # The last answer holds as long as the values are the same objects.
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

        # A function has a file; any other object has that of its class.
        module = type(value).__module__
        if isinstance(value, FunctionType):
            module = _module_of(value)
        if module.partition(".")[0] not in OURS:
            return f"{label}{name}"
    return None


def _unbound(attribute: Any) -> Any:
    """:return: an attribute of a class; the function itself of a static or class method"""
    if isinstance(attribute, staticmethod | classmethod):
        return attribute.__func__
    return attribute


def _module_of(function: FunctionType) -> str:
    """The file that a function was written in, whatever its wrapper says."""
    return str(function.__globals__.get("__name__", ""))


@functools.cache
def _is_foreign(module: str) -> bool:
    """:return: whether a file is of another package than ``OURS`` and those they are built on"""
    package = module.partition(".")[0]
    return package not in OURS and package not in BELOW
