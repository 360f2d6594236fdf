"""Variance gradient scaling for a trainer that exists already. Needs ``losses.py`` only."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from quantile_critic.losses import batch_weight, check_clip_range, next_std_average, quantile_variance, sample_weights


class VarianceGradientScalingMixin:
    """
    Variance gradient scaling for a trainer that has a quantile critic already::

        class Patched(VarianceGradientScalingMixin, TheirPPO): ...

    ``TheirPPO`` must compute its value loss through ``self._quantile_huber_loss(predicted_quantiles, targets, ...)``,
    with quantiles of shape (B, N) and a result of shape () or (B,). Every call is multiplied by the weight of its own
    quantiles (``variance_scaling_weight``). With the flag off the host's result is returned as it is.

    In mode "dsac_t" the weights are one per sample, so the host's result must have shape (B,), one loss per sample.
    When the host has an SB3 logger, it logs what the class logs, each as the mean over the calls between two dumps:
    ``train/variance_scaling_weight``, ``train/variance_scaling_clamped`` (the share of calls at a clamp, in mode
    "dsac_t" of samples), ``train/quantile_variance_mean`` and ``train/quantile_variance_std`` (over the samples of a
    call, correction 0).

    :param args: passed to the host
    :param use_variance_gradient_scaling: whether to scale
    :param variance_scaling_clip_min: smallest weight
    :param variance_scaling_clip_max: largest weight, may equal the smallest
    :param variance_scaling_mode: "batch" or "dsac_t", as in ``DistributionalPPO``
    :param kwargs: passed to the host
    :raises ValueError: if the clamps are no range or the mode is none; in mode "dsac_t" from the first loss that is a
        scalar
    :raises TypeError: if the host is a ``DistributionalPPO``, which scales by itself, or has no loss to scale
    """

    use_variance_gradient_scaling: bool
    variance_scaling_clip_min: float
    variance_scaling_clip_max: float
    variance_scaling_mode: Literal["batch", "dsac_t"]
    _std_average: Tensor | None

    def __init__(
        self,
        *args: Any,
        use_variance_gradient_scaling: bool = True,
        variance_scaling_clip_min: float = 0.1,
        variance_scaling_clip_max: float = 10.0,
        variance_scaling_mode: Literal["batch", "dsac_t"] = "batch",
        **kwargs: Any,
    ):
        if getattr(self, "scales_value_loss", False):
            raise TypeError("DistributionalPPO scales its value loss already: use its flags instead of the mixin")
        if not hasattr(super(), "_quantile_huber_loss"):
            raise TypeError("the mixin must stand before a host that has a _quantile_huber_loss method to scale")
        check_clip_range(variance_scaling_clip_min, variance_scaling_clip_max)
        if variance_scaling_mode not in ("batch", "dsac_t"):
            raise ValueError(f"variance_scaling_mode must be 'batch' or 'dsac_t', got {variance_scaling_mode!r}")
        flags = {
            "use_variance_gradient_scaling": use_variance_gradient_scaling,
            "variance_scaling_clip_min": variance_scaling_clip_min,
            "variance_scaling_clip_max": variance_scaling_clip_max,
            "variance_scaling_mode": variance_scaling_mode,
            "_std_average": None,
        }
        self.__dict__.update(flags)  # before, for a host whose constructor computes a loss
        super().__init__(*args, **kwargs)
        self.__dict__.update(flags)  # after, for a host whose constructor resets attributes

    def _quantile_huber_loss(self, predicted_quantiles: Tensor, targets: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        loss: Tensor = super()._quantile_huber_loss(predicted_quantiles, targets, *args, **kwargs)  # type: ignore[misc]
        if not self.use_variance_gradient_scaling:
            return loss
        variance = quantile_variance(predicted_quantiles)
        low, high = self.variance_scaling_clip_min, self.variance_scaling_clip_max
        if self.variance_scaling_mode == "batch":
            weight = batch_weight(variance, low, high)
        elif loss.shape != variance.shape:
            raise ValueError(f"mode 'dsac_t' weights samples: the loss must have shape (B,), got {tuple(loss.shape)}")
        else:
            self._std_average = next_std_average(self._std_average, variance)
            weight = sample_weights(variance, self._std_average, low, high)
        # SB3 sets its logger in learn() and drops it in save(); a host's own logger may be of another kind.
        record_mean = getattr(getattr(self, "_logger", None), "record_mean", None)
        if record_mean is not None:
            record_mean("train/variance_scaling_weight", weight.mean().item())
            record_mean("train/variance_scaling_clamped", ((weight <= low) | (weight >= high)).float().mean().item())
            record_mean("train/quantile_variance_mean", variance.mean().item())
            record_mean("train/quantile_variance_std", variance.std(correction=0).item())
        return weight * loss
