"""What a user may give: flags of the constructor, keywords of ``load``, parameters of another model."""

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
# Parameters of constructors that no attribute takes from ``load``: what is set there would have no effect.
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
    Check every flag by itself, then those that do not go together.

    :param model: with the flags as attributes
    :raises TypeError: if a flag is of another type than its values, naming it
    :raises ValueError: if a value is out of its range, or two do not go together
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
    :return: whether it is a real number, Python's or numpy's, and no bool
    """
    return isinstance(value, Real) and not isinstance(value, bool)


def _check_bools(model: Any) -> None:
    """
    :param model: with the flags as attributes
    :raises TypeError: if a flag is not a bool
    """
    for name in BOOLS:
        value = getattr(model, name)
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be True or False, got {value!r}")


def _check_choices(model: Any) -> None:
    """
    :param model: with the flags as attributes
    :raises ValueError: if a flag is not one of its choices
    """
    for name, choices in CHOICES.items():
        value = getattr(model, name)

        # By type, too: a list cannot be looked up, and numpy's strings compare.
        if not isinstance(value, str | None) or value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def _check_counts(model: Any) -> None:
    """
    :param model: with the flags as attributes
    :raises TypeError: if a count is no integer
    :raises ValueError: if a count is below 1
    """
    for name in COUNTS:
        value = getattr(model, name)

        # A recurrent model's: the whole rollout.
        if name == "batch_size" and value is None:
            continue

        # numpy's integers are numbers, too; Python's bools are no counts.
        if not isinstance(value, Integral) or isinstance(value, bool):
            raise TypeError(f"{name} must be an integer, got {value!r}")
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")


def _check_numbers(model: Any) -> None:
    """
    :param model: with the flags as attributes
    :raises TypeError: if one is no number
    :raises ValueError: if one is out of its range
    """
    # Types first, as None and text compare with nothing.
    for name in (*POSITIVE, *CLAMPS):
        value = getattr(model, name)
        if not _is_number(value):
            raise TypeError(f"{name} must be a number, got {value!r}")

    # Then ranges, in which NaN never is.
    for name in POSITIVE:
        value = getattr(model, name)
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive and finite, got {value}")
    check_clip_range(model.variance_scaling_clip_min, model.variance_scaling_clip_max)

    # None weighs all rollouts alike.
    rate = model.return_stats_rate
    if rate is None:
        return

    if not _is_number(rate):
        raise TypeError(f"return_stats_rate must be None or a number, got {rate!r}")
    if not 0 < rate <= 1:
        raise ValueError(f"return_stats_rate must be None or within (0, 1], got {rate}")


def _check_returns(model: Any) -> None:
    """
    :param model: with the flags as attributes
    :raises ValueError: on PopArt without normalised returns, and on a number of critics that a flag sets
    """
    # PopArt rescales by the statistics that normalisation keeps.
    if model.use_popart and not model.normalize_returns:
        raise ValueError("use_popart keeps normalised predictions steady: it needs normalize_returns=True")

    # One way to two critics.
    if "n_critics" in model.policy_kwargs:
        raise ValueError("policy_kwargs has n_critics: set use_twin_critics instead")


def _check_vf_clipping(model: Any) -> None:
    """
    :param model: with the flags as attributes
    :raises ValueError: if the flags about ``clip_range_vf`` do not go together
    """
    mode = model.distributional_vf_clip_mode
    units = model.clip_range_vf_units

    # Without a clip range, flags that would say how it clips.
    if model.clip_range_vf is None:
        if mode not in (None, "disable"):
            raise ValueError(f"distributional_vf_clip_mode={mode!r} clips by clip_range_vf, which is None")
        if units != "raw":
            raise ValueError(f"clip_range_vf_units={units!r} without clip_range_vf has no effect")
        return

    # Nothing is clipped, whatever the range.
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
    :param kwargs: its keywords
    :raises TypeError: on a keyword that neither ``PPO.load`` nor the constructor takes
    """
    # Keywords of load, and of all constructors.
    names = set(inspect.signature(PPO.load).parameters) - {"path"}
    for base in cls.__mro__:
        names |= set(inspect.signature(base.__init__).parameters)

    # Attributes that no constructor takes: SB3 sets these, too.
    if not kwargs.keys() <= names:
        blank = cls(policy=next(iter(cls.policy_aliases)), env=None, _init_setup_model=False)
        names |= set(vars(blank))

    # The first unknown one, with the name that was probably meant.
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
    :param params: for ``set_parameters``
    :param use_twin_critics: of the model that gets them
    :param exact_match: whether all must fit
    :return: these; of a plain PPO without the optimizer
    :raises ValueError: if ``exact_match`` and they are those of another kind of critic
    """
    # What the names of the critic's parameters tell.
    critic_keys = [key for key in params.get("policy", {}) if key.startswith("value_net.")]
    has_twins = any(key.startswith("value_net.second.") for key in critic_keys)

    if critic_keys and exact_match and has_twins != use_twin_critics:
        raise ValueError(f"these are the parameters of a model with use_twin_critics={has_twins}: they do not fit")
    if not critic_keys or "value_net.ret_std" in critic_keys:
        return params

    # A plain PPO's.
    if exact_match:
        raise ValueError(
            "these are the parameters of a plain PPO, whose critic has one value and no quantiles: they do not fit. "
            "set_parameters(..., exact_match=False) takes what does, the actor above all"
        )
    return {name: value for name, value in params.items() if name != "policy.optimizer"}
