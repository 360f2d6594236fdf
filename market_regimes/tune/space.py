"""What a search varies: keys of the configuration, each with choices or a range."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

# Of other sections than ``algorithm``; the market and the seeds are what a trial is judged on.
RUN_KEYS = ("run.n_envs", "run.total_timesteps", "run.normalize_observations")
NOT_VARIED = ("algorithm.seed", "algorithm.device")
Space = Mapping[str, Any]  # by key: a list of choices, or {low, high, log or step}


def check_key(key: str, keys: Collection[str]) -> None:
    """
    :param key: of the space, like algorithm.gamma
    :param keys: of ``train``
    :raises ValueError: if there is no such key, or a search may not vary it
    """
    if key not in keys:
        raise ValueError(f"the space has a key that train has not, {key}")
    if key not in RUN_KEYS and (not key.startswith("algorithm.") or key in NOT_VARIED):
        raise ValueError(
            f"space.{key}: a search varies keys of algorithm but the seed and the device, {', '.join(RUN_KEYS)}"
        )


def distribution_of(key: str, wanted: Any) -> Any:
    """
    :param key: of the space
    :param wanted: a list of choices; or low and high, both included, with log (evenly in the logarithm) or step
    :return: Optuna's distribution: of whole numbers where low and high are
    :raises ValueError: on anything else
    """
    from optuna import distributions

    # A list is one of choices.
    if isinstance(wanted, list):
        if not wanted or not all(value is None or isinstance(value, bool | int | float | str) for value in wanted):
            raise ValueError(f"space.{key}: choices are numbers, text, true, false or null, got {wanted}")
        return distributions.CategoricalDistribution(wanted)

    # All else is a range.
    form = f"space.{key} wants a list of choices, or low and high, perhaps with log or step"
    if not isinstance(wanted, dict) or not {"low", "high"} <= wanted.keys() <= {"low", "high", "log", "step"}:
        raise ValueError(f"{form}, got {wanted}")
    low = wanted["low"]
    high = wanted["high"]
    kinds = {type(low), type(high), type(wanted.get("step") or low)}
    if not kinds <= {int, float} or not math.isfinite(low + high) or not isinstance(wanted.get("log", False), bool):
        raise ValueError(f"{form}: finite numbers, and true or false for log, got {wanted}")

    # Of whole numbers where all are whole.
    options = {name: wanted[name] for name in ("log", "step") if name in wanted}
    try:
        if kinds == {int}:
            return distributions.IntDistribution(low, high, **options)
        return distributions.FloatDistribution(low, high, **options)
    except ValueError as error:
        raise ValueError(f"space.{key}: {error}") from error


def ends_of(wanted: Any) -> list[Any]:
    """
    :param wanted: for which there is a ``distribution_of``
    :return: the values that a constructor must take for it to take all: every choice, or low and high
    """
    if isinstance(wanted, list):
        return list(wanted)
    return [wanted["low"], wanted["high"]]


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """
    :param values: by keys like algorithm.policy_kwargs.n_quantiles
    :return: the same as sections within sections
    """
    result: dict[str, Any] = {}
    for key, value in values.items():
        *sections, name = key.split(".")

        inner = result
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[name] = value
    return result
