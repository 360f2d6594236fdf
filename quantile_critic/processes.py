"""
Several processes on one training, as ``torchrun`` starts them: each steps environments of its own, and all make the
same update. ``torch.distributed`` does the work; before ``init_process_group`` there is one process.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn


def n_processes() -> int:
    """How many there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which one this is, from 0; the first one logs and saves."""
    return dist.get_rank() if n_processes() > 1 else 0


def of_all(own: Tensor) -> Tensor:
    """
    :param own: rows of this process, shape (B, ...), as many as every other one has
    :return: those of all, shape (n_processes * B, ...), without gradient, in the order of the ranks; of one process
        the rows themselves
    """
    if n_processes() == 1:
        return own
    own = own.detach().contiguous()
    everyones = [torch.empty_like(own) for _ in range(n_processes())]
    dist.all_gather(everyones, own)
    return torch.cat(everyones)


def array_of_all(own: np.ndarray, device: torch.device) -> np.ndarray:
    """As ``of_all``, of an array, by way of the device; in one process the array itself."""
    if n_processes() == 1:
        return own
    return of_all(torch.as_tensor(own, device=device)).cpu().numpy()


class ProcessLostError(RuntimeError):
    """Another process has ended."""


@contextmanager
def lost_is_said() -> Iterator[None]:
    """
    Within it the words of gloo and NCCL become a sentence.

    :raises ProcessLostError: if another process has ended
    """
    try:
        yield
    except RuntimeError as error:
        words = ("connection", "peer", "nccl", "gloo")
        if n_processes() > 1 and any(word in str(error).lower() for word in words):
            raise ProcessLostError("another process of this training has ended") from error
        raise


def first_says(value: Any) -> Any:
    """
    :param value: what the first process tells the others, which give anything; each must call
    :return: what it tells, in every process
    :raises ProcessLostError: if another process has ended
    """
    if n_processes() == 1:
        return value
    told = [value]
    with lost_is_said():
        dist.broadcast_object_list(told, src=0)
    return told[0]


def told_first(value: Any) -> list[Any]:
    """
    :param value: what this process tells the first one; each must call
    :return: there what all tell, in the order of the ranks; elsewhere nothing
    :raises ProcessLostError: if another process has ended
    """
    if n_processes() == 1:
        return [value]
    everyones: list[Any] | None = [None] * n_processes() if rank() == 0 else None
    with lost_is_said():
        dist.gather_object(value, everyones)
    return everyones or []


def average_over_processes(values: Tensor, parameters: Sequence[nn.Parameter]) -> Tensor:
    """
    Average the gradients, in place, so that they are those of the samples of all processes.

    :param values: shape (n,), likewise
    :param parameters: whose gradients, where there are any; the same in all processes
    :return: the averages of the values
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([values, *(gradient.flatten() for gradient in gradients)])
    dist.all_reduce(flat)
    flat /= n_processes()
    averages, *parts = torch.split(flat, [len(values), *(gradient.numel() for gradient in gradients)])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))
    return averages


def begin_together(policy: nn.Module, sizes: dict[str, int]) -> None:
    """
    Give all processes the first one's parameters and statistics.

    :param policy: of this process
    :param sizes: what must be the same in all of them
    :raises ValueError: if a size is another one elsewhere
    """
    everyones: list[Any] = [None] * n_processes()
    dist.all_gather_object(everyones, sizes)
    for other in everyones:
        for name, size in sizes.items():
            if other[name] != size:
                raise ValueError(f"all processes need the same {name}: it is {size} here and {other[name]} elsewhere")
    for tensor in (*policy.parameters(), *policy.buffers()):
        dist.broadcast(tensor.data, src=0)
