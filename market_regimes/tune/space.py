"""Space of a search: keys of the configuration, each with choices or a range."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

# Keys outside ``algorithm``. Market and seeds are fixed, since they judge a trial.
RUN_KEYS = ("run.n_envs", "run.total_timesteps", "run.normalize_observations")
NOT_VARIED = ("algorithm.seed", "algorithm.device")
Space = Mapping[str, Any]  # key -> list of choices, or {low, high, log or step}


def check_key(key: str, keys: Collection[str]) -> None:
    """
    :param key: key of the space, like algorithm.gamma
    :param keys: keys of ``train``
    :raises ValueError: if the key does not exist, or a search cannot vary it
    """
    if key not in keys:
        raise ValueError(f"the space has a key that train has not, {key}")
    if key not in RUN_KEYS and (not key.startswith("algorithm.") or key in NOT_VARIED):
        raise ValueError(
            f"space.{key}: a search varies keys of algorithm but the seed and the device, {', '.join(RUN_KEYS)}"
        )


def distribution_of(key: str, values: Any) -> Any:
    """
    :param key: key of the space
    :param values: a list of choices; or low and high, both included, with log (even in the logarithm) or step
    :return: Optuna's distribution, of integers if low and high are integers
    :raises ValueError: if the values have another form
    """
    from optuna import distributions

    # A list has choices.
    if isinstance(values, list):
        if not values or not all(value is None or isinstance(value, bool | int | float | str) for value in values):
            raise ValueError(f"space.{key}: choices are numbers, text, true, false or null, got {values}")
        return distributions.CategoricalDistribution(values)

    # Anything else must be a range.
    form = f"space.{key} wants a list of choices, or low and high, perhaps with log or step"
    if not isinstance(values, dict) or not {"low", "high"} <= values.keys() <= {"low", "high", "log", "step"}:
        raise ValueError(f"{form}, got {values}")
    low = values["low"]
    high = values["high"]
    kinds = {type(low), type(high), type(values.get("step") or low)}
    if not kinds <= {int, float} or not math.isfinite(low + high) or not isinstance(values.get("log", False), bool):
        raise ValueError(f"{form}: finite numbers, and true or false for log, got {values}")

    # Use integers if all numbers are integers.
    options = {name: values[name] for name in ("log", "step") if name in values}
    try:
        if kinds == {int}:
            return distributions.IntDistribution(low, high, **options)
        return distributions.FloatDistribution(low, high, **options)
    except ValueError as error:
        raise ValueError(f"space.{key}: {error}") from error


def ends_of(values: Any) -> list[Any]:
    """
    :param values: values that ``distribution_of`` accepts
    :return: values that represent the whole space for a constructor: every choice, or low and high
    """
    if isinstance(values, list):
        return list(values)
    return [values["low"], values["high"]]


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """
    :param values: values by keys like algorithm.policy_kwargs.n_quantiles
    :return: the same values in nested sections
    """
    result: dict[str, Any] = {}
    for key, value in values.items():
        *sections, name = key.split(".")

        inner = result
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[name] = value
    return result
