"""Checks of user input: flags of the constructor, keywords of ``load``, parameters of another model."""

from __future__ import annotations

import difflib
import inspect
import math
from numbers import Integral, Real
from typing import Any, get_args

from stable_baselines3 import PPO

from quantile_critic.losses import VfClipMode, check_clip_range

BOOLS = ("normalize_returns", "use_popart", "use_variance_gradient_scaling", "use_twin_critics", "compile")
CHOICES: dict[str, tuple[str | None, ...]] = {
    "quantile_huber_kappa_units": (None, "loss", "std"),
    "critic_loss": ("quantile_huber", "mean_and_spread"),
    "value_target": ("gae", "sr_lambda"),
    "distributional_vf_clip_mode": (None, *get_args(VfClipMode)),
    "clip_range_vf_units": ("raw", "std"),
    "variance_scaling_mode": ("batch", "dsac_t"),
    "gradient_clipping": ("joint", "apart"),
}
COUNTS = ("batch_size", "n_epochs")
POSITIVE = ("quantile_huber_kappa", "distributional_vf_clip_variance_factor")
CLAMPS = ("variance_scaling_clip_min", "variance_scaling_clip_max")
# Constructor parameters that ``load`` does not set as attributes: as keywords they would have no effect.
NO_KEYWORDS = {
    "self",
    "policy",
    "args",
    "kwargs",
    "flags",
    "monitor_wrapper",
    "support_multi_env",
    "supported_action_spaces",
    "_init_setup_model",
}


def check_flags(model: Any) -> None:
    """
    Check each flag, then flags that exclude each other.

    :param model: model with the flags as attributes
    :raises TypeError: if a flag has a wrong type; the message names it
    :raises ValueError: if a value is out of its range, or two flags exclude each other
    """
    _check_bools(model)
    _check_choices(model)
    _check_counts(model)
    _check_numbers(model)
    _check_returns(model)
    _check_vf_clipping(model)


def _is_number(value: Any) -> bool:
    """
    :param value: anything
    :return: whether it is a real number, Python's or numpy's, but not a bool
    """
    return isinstance(value, Real) and not isinstance(value, bool)


def _check_bools(model: Any) -> None:
    """
    :param model: model with the flags as attributes
    :raises TypeError: if a flag is not a bool
    """
    for name in BOOLS:
        value = getattr(model, name)
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be True or False, got {value!r}")


def _check_choices(model: Any) -> None:
    """
    :param model: model with the flags as attributes
    :raises ValueError: if a flag is not one of its choices
    """
    for name, choices in CHOICES.items():
        value = getattr(model, name)

        # Check the type first: a list has no hash, and numpy's strings equal Python's.
        if not isinstance(value, str | None) or value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def _check_counts(model: Any) -> None:
    """
    :param model: model with the flags as attributes
    :raises TypeError: if a count is not an integer
    :raises ValueError: if a count is below 1
    """
    for name in COUNTS:
        value = getattr(model, name)

        # A recurrent model takes None for the whole rollout.
        if name == "batch_size" and value is None:
            continue

        # numpy's integers are counts too. Python's bools are not.
        if not isinstance(value, Integral) or isinstance(value, bool):
            raise TypeError(f"{name} must be an integer, got {value!r}")
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")


def _check_numbers(model: Any) -> None:
    """
    :param model: model with the flags as attributes
    :raises TypeError: if a value is not a number
    :raises ValueError: if a value is out of its range
    """
    # Types first, since None and text cannot be compared.
    for name in (*POSITIVE, *CLAMPS):
        value = getattr(model, name)
        if not _is_number(value):
            raise TypeError(f"{name} must be a number, got {value!r}")

    # Then ranges. NaN is in none of them.
    for name in POSITIVE:
        value = getattr(model, name)
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive and finite, got {value}")
    check_clip_range(model.variance_scaling_clip_min, model.variance_scaling_clip_max)

    # None gives all rollouts the same weight.
    rate = model.return_stats_rate
    if rate is None:
        return

    if not _is_number(rate):
        raise TypeError(f"return_stats_rate must be None or a number, got {rate!r}")
    if not 0 < rate <= 1:
        raise ValueError(f"return_stats_rate must be None or within (0, 1], got {rate}")


def _check_returns(model: Any) -> None:
    """
    :param model: model with the flags as attributes
    :raises ValueError: if PopArt lacks normalised returns, or ``policy_kwargs`` set the number of critics
    """
    # PopArt rescales by the statistics of normalisation.
    if model.use_popart and not model.normalize_returns:
        raise ValueError("use_popart keeps normalised predictions steady: it needs normalize_returns=True")

    # Only the flag sets the number of critics.
    if "n_critics" in model.policy_kwargs:
        raise ValueError("policy_kwargs has n_critics: set use_twin_critics instead")


def _check_vf_clipping(model: Any) -> None:
    """
    :param model: model with the flags as attributes
    :raises ValueError: if flags of ``clip_range_vf`` exclude each other
    """
    mode = model.distributional_vf_clip_mode
    units = model.clip_range_vf_units

    # Without a clip range its other flags would have no effect.
    if model.clip_range_vf is None:
        if mode not in (None, "disable"):
            raise ValueError(f"distributional_vf_clip_mode={mode!r} clips by clip_range_vf, which is None")
        if units != "raw":
            raise ValueError(f"clip_range_vf_units={units!r} without clip_range_vf has no effect")
        return

    # This mode never clips, whatever the range.
    if mode == "disable":
        return

    if units == "std" and not model.normalize_returns:
        raise ValueError("clip_range_vf_units='std' counts in stds of the returns: set normalize_returns=True")

    if model.normalize_returns and not model.use_popart:
        raise ValueError(
            "clip_range_vf with normalize_returns=True needs use_popart=True: without it every change of the "
            "statistics moves the predictions further than the clip range"
        )


def check_keywords(cls: Any, kwargs: dict[str, Any]) -> None:
    """
    :param cls: class whose ``load`` was called
    :param kwargs: keywords of the call
    :raises TypeError: if neither ``PPO.load`` nor the constructor takes a keyword
    """
    # Keywords of ``load`` and of all constructors.
    names = set(inspect.signature(PPO.load).parameters) - {"path"}
    for base in cls.__mro__:
        names |= set(inspect.signature(base.__init__).parameters)

    # SB3 also sets attributes that no constructor takes.
    if not kwargs.keys() <= names:
        blank = cls(policy=next(iter(cls.policy_aliases)), env=None, _init_setup_model=False)
        names |= set(vars(blank))

    # Report the first unknown keyword and the nearest valid name.
    unknown = kwargs.keys() - (names - NO_KEYWORDS)
    for name in unknown:
        nearest = difflib.get_close_matches(name, names, n=1)
        hint = f": did you mean {nearest[0]!r}?" if nearest else ""
        raise TypeError(f"load() got an unknown keyword {name!r}{hint}")


def checked_parameters(
    params: dict[str, Any],
    use_twin_critics: bool,
    exact_match: bool,
) -> dict[str, Any]:
    """
    Check that parameters fit the model's critics.

    :param params: parameters for ``set_parameters``
    :param use_twin_critics: flag of the model that receives them
    :param exact_match: whether all parameters must fit
    :return: the same parameters, without the optimizer if they come from a plain PPO
    :raises ValueError: if ``exact_match`` and they come from another kind of critic
    """
    # Infer the kind of critic from the names of its parameters.
    critic_keys = [key for key in params.get("policy", {}) if key.startswith("value_net.")]
    has_twins = any(key.startswith("value_net.second.") for key in critic_keys)

    if critic_keys and exact_match and has_twins != use_twin_critics:
        raise ValueError(f"these are the parameters of a model with use_twin_critics={has_twins}: they do not fit")
    if not critic_keys or "value_net.ret_std" in critic_keys:
        return params

    # These are a plain PPO's parameters.
    if exact_match:
        raise ValueError(
            "these are the parameters of a plain PPO, whose critic has one value and no quantiles: they do not fit. "
            "set_parameters(..., exact_match=False) takes what does, the actor above all"
        )
    return {name: value for name, value in params.items() if name != "policy.optimizer"}
