"""Detection of NaN and infinity in a rollout or an update, with errors that name the place."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


class NonFiniteError(FloatingPointError, ValueError):
    """A NaN or an infinity. It is also a ``ValueError``, which torch's distributions raise in PPO."""


def raise_if_not_finite(
    name: str,
    array: Any,
    when: str,
    check: str,
    cause: Exception | None = None,
) -> None:
    """
    :param name: name of the array in the error
    :param array: numpy array, tensor, a dict of them or None
    :param when: time of the check, for the error
    :param check: settings that the error tells the user to check
    :param cause: error that this one explains
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
    Check a rollout before it reaches statistics or parameters.

    :param buffer: SB3's buffer, or one that lacks some of its arrays
    :param when: time of the check, for the error
    :raises NonFiniteError: if the buffer holds a NaN or an infinity
    """
    # Observations may be non-finite if these are finite: a policy may handle them.
    names = ("rewards", "values", "log_probs", "advantages", "returns")
    arrays = {name: getattr(buffer, name, None) for name in names}
    if all(array is None or np.isfinite(array).all() for array in arrays.values()):
        return

    # Report causes before effects.
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
    :param metrics: values of all minibatches of an update, by name
    :param parameters: parameters after the update
    :return: place of the earliest non-finite number, None: all are finite
    """
    # Find each metric's first non-finite minibatch.
    suspects = {}
    for name, values in metrics.items():
        is_finite = np.isfinite(values)
        if not is_finite.all():
            suspects[name] = int(np.argmin(is_finite))
    if suspects:
        earliest = min(suspects, key=suspects.__getitem__)
        return f"{earliest} of minibatch {suspects[earliest]}"

    # The last step follows all metrics. Parameters need not be contiguous.
    vector = torch.cat([parameter.detach().reshape(-1) for parameter in parameters])
    if bool(torch.isfinite(vector).all()):
        return None
    return "the parameters"
