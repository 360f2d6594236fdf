"""Numbers that are not finite: found in a rollout or an update, and named."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


class NonFiniteError(FloatingPointError, ValueError):
    """A NaN or an infinity. A ``ValueError`` too, as what torch's distributions raise in PPO."""


def raise_if_not_finite(
    name: str,
    array: Any,
    when: str,
    check: str,
    cause: Exception | None = None,
) -> None:
    """
    :param name: what the array is called in the error
    :param array: numpy array, tensor, a dict of them or None
    :param when: when it was looked at, for the error
    :param check: what the error tells the user to check
    :param cause: the error that this one explains
    :raises NonFiniteError: if a number is not finite
    """
    if isinstance(array, dict):
        for key, values in array.items():
            raise_if_not_finite(f"{name}[{key!r}]", values, when, check, cause)
        return
    if array is None:
        return

    bad = (~torch.isfinite(torch.as_tensor(array))).nonzero()
    if len(bad) > 0:
        raise NonFiniteError(
            f"{len(bad)} non-finite number(s) in the rollout's {name}, the first at index {bad[0].tolist()}, {when}. "
            f"Nothing was changed. Check: {check}."
        ) from cause


def check_rollout(
    buffer: Any,
    when: str,
) -> None:
    """
    Look at a rollout before it can reach statistics or parameters.

    :param buffer: SB3's, or one that may lack some of its arrays
    :param when: for the error
    :raises NonFiniteError: if it holds a NaN or an infinity
    """
    # Where these are finite, a policy may make what it likes of its observations.
    names = ("rewards", "values", "log_probs", "advantages", "returns")
    arrays = {name: getattr(buffer, name, None) for name in names}
    if all(array is None or np.isfinite(array).all() for array in arrays.values()):
        return

    # The first cause comes first.
    raise_if_not_finite("observations", getattr(buffer, "observations", None), when, "environment or VecNormalize")
    for name, array in arrays.items():
        check = "rewards and learning rate"
        if name == "rewards":
            check = "environment or VecNormalize"
        raise_if_not_finite(name, array, when, check)


def first_not_finite(
    metrics: dict[str, np.ndarray],
    parameters: Any,
) -> str | None:
    """
    :param metrics: by name the values of all minibatches of an update
    :param parameters: after it
    :return: where the earliest number that is not finite stands; None: there is none
    """
    # The first minibatch of each metric that is not finite.
    suspects = {}
    for name, values in metrics.items():
        is_finite = np.isfinite(values)
        if not is_finite.all():
            suspects[name] = int(np.argmin(is_finite))
    if suspects:
        earliest = min(suspects, key=suspects.__getitem__)
        return f"{earliest} of minibatch {suspects[earliest]}"

    # The last step comes after all metrics. Parameters need not be contiguous.
    vector = torch.cat([parameter.detach().reshape(-1) for parameter in parameters])
    if bool(torch.isfinite(vector).all()):
        return None
    return "the parameters"
