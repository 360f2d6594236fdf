"""What a user may give: flags of the constructor, keywords of ``load``, parameters of another model."""

from __future__ import annotations

import difflib
import inspect
import math
from typing import Any, get_args

from stable_baselines3 import PPO

from quantile_critic.losses import VfClipMode, check_clip_range

BOOLS = ("normalize_returns", "use_popart", "use_variance_gradient_scaling", "use_twin_critics", "compile")
CHOICES: dict[str, tuple[str | None, ...]] = {
    "value_target": ("gae", "sr_lambda"),
    "distributional_vf_clip_mode": (None, *get_args(VfClipMode)),
    "clip_range_vf_units": ("raw", "std"),
    "variance_scaling_mode": ("batch", "dsac_t"),
}


def check_flags(model: Any) -> None:  # noqa: C901
    """
    :param model: with the flags as attributes
    :raises TypeError: if a flag is not a bool
    :raises ValueError: if a value is out of its range, or two do not go together
    """
    for name in BOOLS:
        if not isinstance(getattr(model, name), bool):
            raise TypeError(f"{name} must be True or False, got {getattr(model, name)!r}")
    for name, choices in CHOICES.items():
        if getattr(model, name) not in choices:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {getattr(model, name)!r}")
    for name in ("batch_size", "n_epochs"):
        if getattr(model, name) is not None and getattr(model, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(model, name)}")
    for name in ("quantile_huber_kappa", "distributional_vf_clip_variance_factor"):
        if not 0 < getattr(model, name) < math.inf:
            raise ValueError(f"{name} must be positive and finite, got {getattr(model, name)}")
    if model.return_stats_rate is not None and not 0 < model.return_stats_rate <= 1:
        raise ValueError(f"return_stats_rate must be None or within (0, 1], got {model.return_stats_rate}")
    if model.use_popart and not model.normalize_returns:
        raise ValueError("use_popart keeps normalised predictions steady: it needs normalize_returns=True")
    if "n_critics" in model.policy_kwargs:
        raise ValueError("policy_kwargs has n_critics: set use_twin_critics instead")
    check_clip_range(model.variance_scaling_clip_min, model.variance_scaling_clip_max)
    _check_vf_clipping(model)


def _check_vf_clipping(model: Any) -> None:
    """The part of ``check_flags`` about ``clip_range_vf``."""
    if model.clip_range_vf is None:
        mode, units = model.distributional_vf_clip_mode, model.clip_range_vf_units
        if mode not in (None, "disable"):
            raise ValueError(f"distributional_vf_clip_mode={mode!r} clips by clip_range_vf, which is None")
        if units != "raw":
            raise ValueError(f"clip_range_vf_units={units!r} without clip_range_vf has no effect")
    elif model.distributional_vf_clip_mode != "disable":
        if model.clip_range_vf_units == "std" and not model.normalize_returns:
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
    known = set(inspect.signature(PPO.load).parameters) - {"path"}
    for base in cls.__mro__:
        known |= set(inspect.signature(base.__init__).parameters)
    if not kwargs.keys() <= known:
        known |= set(vars(cls(policy=next(iter(cls.policy_aliases)), env=None, _init_setup_model=False)))
    for name in kwargs.keys() - (known - {"self", "policy", "args", "kwargs"}):
        nearest = difflib.get_close_matches(name, known, n=1)
        hint = f": did you mean {nearest[0]!r}?" if nearest else ""
        raise TypeError(f"load() got an unknown keyword {name!r}{hint}")


def checked_parameters(params: dict[str, Any], use_twin_critics: bool, exact_match: bool) -> dict[str, Any]:
    """
    :param params: for ``set_parameters``
    :param use_twin_critics: of the model that gets them
    :param exact_match: whether all must fit
    :return: these; of a plain PPO without the optimizer
    :raises ValueError: if ``exact_match`` and they are those of another kind of critic
    """
    critic_keys = [key for key in params.get("policy", {}) if key.startswith("value_net.")]
    twin = any(key.startswith("value_net.second.") for key in critic_keys)
    if critic_keys and exact_match and twin != use_twin_critics:
        raise ValueError(f"these are the parameters of a model with use_twin_critics={twin}: they do not fit")
    if not critic_keys or "value_net.ret_std" in critic_keys:
        return params
    if exact_match:
        raise ValueError(
            "these are the parameters of a plain PPO, whose critic has one value and no quantiles: they do not fit. "
            "set_parameters(..., exact_match=False) takes what does, the actor above all"
        )
    return {name: value for name, value in params.items() if name != "policy.optimizer"}
