"""What compiled code depends on: it is called without torch.compile's guards, and this stands in their place."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from quantile_critic.policies import QuantileActorCriticPolicy

PLAIN = (int, float, str, type(None))


def layout(tensor: Tensor) -> tuple[Any, ...]:
    """:return: what compiled code takes for granted of a tensor; strides of dimensions of one element do not matter"""
    return tensor.shape, None if tensor.is_contiguous() else tensor.stride(), tensor.dtype, tensor.device


def layouts(args: Any) -> list[Any]:
    """The layout of each tensor; compiled code takes no others, and does not look."""
    plain = isinstance(args, list | tuple) and all(isinstance(arg, Tensor) for arg in args)
    leaves = args if plain else tree_leaves(args)
    return [layout(leaf) if isinstance(leaf, Tensor) else None for leaf in leaves]


def plain_attributes(label: str, attributes: dict[str, Any]) -> dict[str, Any]:
    """Numbers, strings and flags of an object, and lists of them, which compiled code takes for constants."""
    plain: dict[str, Any] = {}
    for name, value in attributes.items():
        if isinstance(value, PLAIN):
            plain[f"{label}{name}"] = value
        elif isinstance(value, list | tuple) and all(isinstance(part, PLAIN) for part in value):
            plain[f"{label}{name}"] = tuple(value)
    return plain


def key_of(policy: QuantileActorCriticPolicy, args: Any, **more: Any) -> dict[str, Any]:
    """:return: what code for these arguments depends on: all layouts, plain attributes of the policy, and more"""
    tensors = layouts([*policy.parameters(), *policy.buffers()])
    key = {"tensors": layouts(args), "parameters": tensors, **more}
    key |= plain_attributes("policy.action_dist.", vars(policy.action_dist))
    for name, module in policy.named_modules(prefix="policy"):
        key.update(plain_attributes(f"{name}.", vars(module)), **{f"class of {name}": type(module)})
    return key
