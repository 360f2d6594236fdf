"""
Input of loss and step beside samples and policy: settings are fixed, coefficients may change.

The loss of ``DistributionalPPO`` reads nothing else. Compiled code relies on that: changed settings compile again,
changed coefficients do not.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple

from quantile_critic.losses import VfClipMode, has_lower_clamp


@dataclass(frozen=True)
class Scaling:
    """
    Weighting of the value loss by the variance of the quantiles.

    :param mode: "batch": one weight per minibatch; "dsac_t": one per sample
    :param clip_min: smallest weight
    :param clip_max: largest weight
    """

    mode: Literal["batch", "dsac_t"]
    clip_min: float
    clip_max: float

    @property
    def compares_spread(self) -> bool:
        """Return whether the weight depends on the ratio of the quantiles' spread to their squared error."""
        return self.mode == "dsac_t" or not has_lower_clamp(self.clip_min)


@dataclass(frozen=True)
class Clipping:
    """
    Clipping of predictions near those of the rollout's policy.

    :param mode: mode of ``losses.clip_quantiles``
    :param variance_factor: largest ratio of standard deviations, with "mean_and_variance"
    :param units: units of the clip range, "raw" or "std"
    """

    mode: VfClipMode
    variance_factor: float
    units: Literal["raw", "std"]


@dataclass(frozen=True)
class LossSettings:
    """
    All fixed settings of the loss and of gradient clipping.

    :param kappa: error at which the quantile-Huber loss turns from quadratic to linear, in the units of the loss
    :param kappa_in_stds: whether kappa counts in standard deviations of the returns and the loss does not
    :param critic_loss: "quantile_huber": loss of each quantile; "mean_and_spread": squared error of their mean, and
        loss of the quantiles around it
    :param normalize_advantage: whether the advantages of a minibatch are normalised
    :param scaling: weighting of the value loss, None: no weight
    :param clipping: clipping of predictions, None: no limit
    :param has_entropy: whether the loss has an entropy term; even a factor of 0 would cost its gradient
    :param target: "gae": one return per sample; "sr_lambda": a sample of N atoms
    :param gradient_clipping: "joint": one norm of all gradients; "apart": separate norms for actor and critic
    """

    kappa: float
    kappa_in_stds: bool
    critic_loss: Literal["quantile_huber", "mean_and_spread"]
    normalize_advantage: bool
    scaling: Scaling | None
    clipping: Clipping | None
    has_entropy: bool
    target: Literal["gae", "sr_lambda"]
    gradient_clipping: Literal["joint", "apart"]

    def by_name(self) -> dict[str, Any]:
        """:return: settings by name; those of scaling and clipping are separate, such as ``scaling.mode``"""
        settings: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Scaling | Clipping):
                for part in fields(value):
                    settings[f"{field.name}.{part.name}"] = getattr(value, part.name)
            else:
                settings[field.name] = value
        return settings


class Coefficients(NamedTuple):
    """Numbers of the loss and the step that may change between updates; tensors where the update is compiled."""

    clip_range: float
    clip_range_vf: float | None  # in the units of ``clip_range_vf_units``; None: no clipping
    ent_coef: float
    vf_coef: float
    max_grad_norm: float
