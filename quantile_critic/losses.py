"""
The quantile maths: midpoints, quantile-Huber loss, clipping, variance and the weights made of it.

Pure functions of tensors, without a word about PPO. A trainer that only wants its value loss scaled copies this file::

    value_loss = variance_scaling_weight(quantiles, 0.1, 10.0) * value_loss
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

VfClipMode = Literal["per_quantile", "mean_only", "mean_and_variance", "disable"]
DSAC_T_BIAS = 0.1  # DSAC-T, its authors' code: keeps the weight finite where the variance is 0
DSAC_T_RATE = 0.005  # likewise: of the moving average of the standard deviation


def quantile_midpoints(n_quantiles: int, like: Tensor) -> Tensor:
    """
    Midpoints tau_i = (i + 0.5) / N of N equal shares of probability (Dabney et al. 2017, lemma 2).

    :param n_quantiles: N
    :param like: tensor whose dtype and device the result takes
    :return: shape (N,), increasing, symmetric around 0.5
    """
    return (torch.arange(n_quantiles, dtype=like.dtype, device=like.device) + 0.5) / n_quantiles


def quantile_huber_loss(quantiles: Tensor, targets: Tensor, kappa: float, tau: Tensor | None = None) -> Tensor:
    """
    Quantile-Huber loss of each sample, the mean over its quantiles (IQN, eq. 3, with one target per sample).

    For kappa far above the errors it is expectile regression, u^2 / 2 weighted by sign; towards 0, quantile regression.

    :param quantiles: predictions, shape (B, N)
    :param targets: one return per sample in the units of the predictions, shape (B,) or (B, 1), or M atoms each, (B, M)
    :param kappa: where the loss turns from quadratic to linear, > 0, in the units of the predictions
    :param tau: the midpoints, shape (N,), for those who have them at hand
    :return: shape (B,); the mean over the atoms
    """
    tau = quantile_midpoints(quantiles.shape[1], like=quantiles) if tau is None else tau
    if targets.dim() == 2 and targets.shape[1] > 1:
        atoms = targets.shape[1]
        pairs = quantile_huber_loss(quantiles.repeat_interleave(atoms, dim=0), targets.reshape(-1), kappa, tau)
        return pairs.reshape(-1, atoms).mean(dim=1)
    targets = targets.reshape(-1, 1)
    share = (tau - (targets < quantiles.detach()).to(tau.dtype)).abs()
    huber = F.huber_loss(quantiles, targets.expand_as(quantiles), reduction="none", delta=kappa)
    return (share * huber).mean(dim=1) / kappa


def quantile_variance(quantiles: Tensor) -> Tensor:
    """
    Variance of each sample's quantiles around their mean, without gradient.

    :param quantiles: shape (..., N)
    :return: population variance (divided by N), shape (...), in squared units of the quantiles
    :raises ValueError: on quantiles without a batch dimension
    """
    if quantiles.dim() < 2:
        raise ValueError(f"quantiles must have shape (B, N), got {tuple(quantiles.shape)}")
    quantiles = quantiles.detach()
    return (quantiles - quantiles.mean(dim=-1, keepdim=True)).square().mean(dim=-1)  # ``var`` takes ten times as long


def lower_tail_mean(quantiles: Tensor, alpha: float) -> Tensor:
    """
    Conditional value at risk: the mean of the worst share ``alpha`` of N equally likely returns.

    :param quantiles: shape (B, N), in any order
    :param alpha: within (0, 1]; 1 gives the mean
    :return: shape (B,)
    :raises ValueError: if ``alpha`` is outside
    """
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha must be within (0, 1], got {alpha}")
    edges = torch.linspace(0, 1, quantiles.shape[1] + 1, dtype=quantiles.dtype, device=quantiles.device)
    shares = edges.clamp(max=alpha).diff() / alpha
    return (quantiles.sort(dim=1).values * shares).sum(dim=1)


def clip_quantiles(
    quantiles: Tensor, old: Tensor, eps: float | Tensor, mode: VfClipMode, variance_factor: float
) -> Tensor:
    """
    Predictions held near those of the rollout.

    :param quantiles: predictions, shape (B, N)
    :param old: those of the policy that collected the rollout, shape (B, N), same units
    :param eps: how far they may move, > 0, same units
    :param mode: "per_quantile": every quantile by at most eps; "mean_only": all are shifted so that their mean moves by
        at most eps; "mean_and_variance": and then drawn to their mean until their standard deviation is at most
        ``variance_factor`` times the old one, unless they were all equal; "disable": as far as they like
    :param variance_factor: for "mean_and_variance", > 0
    :return: shape (B, N); to the last bit the predictions themselves where nothing is held back
    """
    if mode == "disable":
        return quantiles
    if mode not in get_args(VfClipMode):
        raise ValueError(f"mode must be one of {', '.join(get_args(VfClipMode))}, got {mode!r}")
    eps = torch.as_tensor(eps, dtype=old.dtype, device=old.device)
    if mode == "per_quantile":
        moved = quantiles - old
        return torch.where(moved.abs() > eps, old + moved.clamp(-eps, eps), quantiles)
    mean, old_mean = quantiles.mean(dim=1, keepdim=True), old.mean(dim=1, keepdim=True)
    moved = mean - old_mean
    shifted = quantiles + (moved.clamp(-eps, eps) - moved)
    if mode == "mean_only":
        return shifted
    center = old_mean + moved.clamp(-eps, eps)
    # Clamped, since the gradient of a root at 0 is infinite.
    std = (quantiles - mean).square().mean(dim=1, keepdim=True).clamp(min=1e-12).sqrt()
    old_std = old.std(dim=1, keepdim=True, unbiased=False)
    scale = variance_factor * old_std / std
    # Quantiles begin as one, up to rounding: no spread that the first update could be held to.
    has_spread = old_std > 1e-6 * old.abs().amax(dim=1, keepdim=True)
    return torch.where((scale < 1.0) & has_spread, center + (quantiles - mean) * scale, shifted)


def variance_scaling_weight(quantiles: Tensor, clip_min: float, clip_max: float) -> Tensor:
    """
    Weight of a minibatch's value loss: the mean variance of its predicted quantiles, clamped. One line in a trainer::

        value_loss = variance_scaling_weight(quantiles, 0.1, 10.0) * value_loss

    :param quantiles: predicted quantiles in the units of the loss, shape (B, N) (any leading shape is accepted)
    :param clip_min: lower clamp, >= 0
    :param clip_max: upper clamp, >= clip_min
    :return: scalar tensor without gradient, within [clip_min, clip_max]
    :raises ValueError: on quantiles without a batch dimension or clamps that are no range
    """
    return batch_weight(quantile_variance(quantiles), clip_min, clip_max)


def batch_weight(variance: Tensor, clip_min: float, clip_max: float) -> Tensor:
    """
    :param variance: variance of each sample's quantiles, shape (B,)
    :param clip_min: lower clamp
    :param clip_max: upper clamp
    :return: their mean, clamped; scalar tensor
    :raises ValueError: on clamps that are no range
    """
    check_clip_range(clip_min, clip_max)
    return variance.mean().clamp(clip_min, clip_max)


def sample_weights(variance: Tensor, std_average: Tensor, clip_min: float, clip_max: float) -> Tensor:
    """
    Weights of DSAC-T (arXiv 2310.05858, in its authors' code): small where the distribution is wide.

    :param variance: variance of each sample's quantiles, shape (B,), in squared units of the loss
    :param std_average: moving average m of their mean standard deviation, scalar
    :param clip_min: lower clamp
    :param clip_max: upper clamp
    :return: clamp(m^2 / (v_b + 0.1)), shape (B,). The 0.1 is absolute: it asks for normalised returns
    """
    return (std_average**2 / (variance + DSAC_T_BIAS)).clamp(clip_min, clip_max)


def next_std_average(average: Tensor | None, variance: Tensor) -> Tensor:
    """
    :param average: moving average of the minibatches' mean standard deviation, scalar; None or 0: there was none
    :param variance: variance of each sample's quantiles, shape (B,)
    :return: with this minibatch taken in at ``DSAC_T_RATE``; the first as it is
    """
    std = variance.sqrt().mean()
    return std if average is None else torch.where(average > 0, average + DSAC_T_RATE * (std - average), std)


def check_clip_range(clip_min: float, clip_max: float) -> None:
    """Raise unless 0 <= clip_min <= clip_max, both finite and clip_max > 0."""
    if not (0.0 <= clip_min <= clip_max < math.inf and clip_max > 0.0):
        raise ValueError(
            "variance_scaling_clip_min and variance_scaling_clip_max must be finite with 0 <= min <= max and max > 0, "
            f"got {clip_min} and {clip_max}"
        )


def metrics_of_both(logged: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Means of the critics' metrics, the extremes of their smallest and largest weights; and those of each."""
    both = {}
    for name in logged[0]:
        values = torch.stack([metrics[name] for metrics in logged])
        extreme = {"variance_scaling_weight_min": values.min(), "variance_scaling_weight_max": values.max()}
        both[name] = extreme.get(name, values.mean())
    return both | {f"{name}_{i + 1}": value for i, metrics in enumerate(logged) for name, value in metrics.items()}
