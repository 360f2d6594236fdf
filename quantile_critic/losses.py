"""
Quantile maths: midpoints, quantile-Huber loss, clipping, variance, and weights from the variance.

All functions are pure and independent of PPO. A trainer that only needs a scaled value loss copies this file::

    value_loss = variance_scaling_weight(quantiles, 0.1, 10.0) * value_loss
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

VfClipMode = Literal["per_quantile", "mean_only", "mean_and_variance", "disable"]

# Constant of DSAC-T, in its authors' code. It keeps the weight finite where the variance is 0.
DSAC_T_BIAS = 0.1

# Constant of DSAC-T, in its authors' code: rate of the moving average of the standard deviation.
DSAC_T_RATE = 0.005

# Without a lower clamp the weight counts fully from this variance on, as a share of the mean squared error. Calibrated
# quantiles reach about 1, expectiles (a large kappa) about 0.5. Two expectiles, the fewest with a spread, reach 0.2.
SPREAD_SHARE = 0.1

# A smaller lower clamp has no effect: gradients scaled by it are small beside Adam's eps.
NEGLIGIBLE_CLAMP = 1e-6

# Quantiles start equal up to rounding: this ratio of their standard deviation to their size.
ROUNDING = 1e-6


def quantile_midpoints(
    n_quantiles: int,
    like: Tensor,
) -> Tensor:
    """
    Compute the midpoints tau_i = (i + 0.5) / N of N equal shares of probability (Dabney et al. 2017, lemma 2).

    :param n_quantiles: N
    :param like: tensor whose dtype and device the result takes
    :return: shape (N,), increasing, symmetric around 0.5
    """
    # The middle of each share.
    steps = torch.arange(n_quantiles, dtype=like.dtype, device=like.device)
    return (steps + 0.5) / n_quantiles


def quantile_huber_loss(
    quantiles: Tensor,
    targets: Tensor,
    kappa: float,
    tau: Tensor | None = None,
) -> Tensor:
    """
    Compute each sample's quantile-Huber loss, the mean over its quantiles (IQN, eq. 3, with one target per sample).

    A kappa far above the errors gives expectile regression, u^2 / 2 weighted by sign. Near 0 it is quantile regression.

    :param quantiles: predictions, shape (B, N)
    :param targets: one return per sample in the units of the predictions, shape (B,) or (B, 1), or M atoms each, (B, M)
    :param kappa: error at which the loss turns from quadratic to linear, > 0, in the units of the predictions
    :param tau: midpoints, shape (N,), None: computed here
    :return: shape (B,); the mean over the atoms
    :raises ValueError: if the targets are not one row per sample
    """
    samples = quantiles.shape[0]
    rows = targets.shape[0] if targets.dim() > 0 else 1
    if rows != samples or targets.dim() > 2:
        raise ValueError(
            f"targets must have shape ({samples},), ({samples}, 1) or ({samples}, M), one row per row of quantiles, "
            f"got {tuple(targets.shape)}"
        )
    if tau is None:
        tau = quantile_midpoints(quantiles.shape[1], like=quantiles)

    # With several atoms per sample, every pair of quantile and atom is one sample with one target.
    if targets.dim() == 2 and targets.shape[1] > 1:
        atoms = targets.shape[1]
        repeated = quantiles.repeat_interleave(atoms, dim=0)  # (B * M, N)
        pairs = quantile_huber_loss(repeated, targets.reshape(-1), kappa, tau)
        return pairs.reshape(-1, atoms).mean(dim=1)

    # |tau_i - 1{u < 0}|, in which u = target - quantile.
    targets = targets.reshape(-1, 1)
    is_above = (targets < quantiles.detach()).to(tau.dtype)
    share = (tau - is_above).abs()

    huber = F.huber_loss(quantiles, targets.expand_as(quantiles), reduction="none", delta=kappa)
    return (share * huber).mean(dim=1) / kappa


def in_full_precision(values: Tensor) -> Tensor:
    """
    Convert half precision to float32 for variances. Its squares overflow from 256 on, and its averages stall.

    :param values: any shape
    :return: same shape; float16 and bfloat16 become float32, other types stay
    """
    if values.dtype in (torch.float16, torch.bfloat16):
        return values.float()
    return values


def quantile_variance(quantiles: Tensor) -> Tensor:
    """
    Compute the variance of each sample's quantiles around their mean, without gradient.

    :param quantiles: shape (..., N)
    :return: population variance (divided by N), shape (...), in squared units of the quantiles; float32 for half
        precision
    :raises ValueError: if the quantiles have no batch dimension
    """
    if quantiles.dim() < 2:
        raise ValueError(f"quantiles must have shape (B, N), got {tuple(quantiles.shape)}")

    # The weight passes no gradient.
    quantiles = in_full_precision(quantiles.detach())

    # ``var`` would take ten times as long.
    deviations = quantiles - quantiles.mean(dim=-1, keepdim=True)
    return deviations.square().mean(dim=-1)


def squared_errors(
    quantiles: Tensor,
    targets: Tensor,
) -> Tensor:
    """
    Compute each mean prediction's squared error, without gradient. The spread of the quantiles should explain it.

    :param quantiles: shape (B, N)
    :param targets: shape (B,), (B, 1) or (B, M), in the units of the quantiles
    :return: shape (B,), the mean over the atoms, in squared units; float32 for half precision
    """
    # Mean prediction, (B, 1), and atoms, (B, M).
    predicted = in_full_precision(quantiles.detach()).mean(dim=1, keepdim=True)
    per_sample = in_full_precision(targets.detach()).reshape(len(predicted), -1)
    return (per_sample - predicted).square().mean(dim=1)


def lower_tail_mean(
    quantiles: Tensor,
    alpha: float,
) -> Tensor:
    """
    Compute the conditional value at risk: the mean of the worst share ``alpha`` of N equally likely returns.

    :param quantiles: shape (B, N), in any order
    :param alpha: within (0, 1]; 1 gives the mean
    :return: shape (B,), in the units of the quantiles
    :raises ValueError: if ``alpha`` is out of its range
    """
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha must be within (0, 1], got {alpha}")

    # Share of each sorted quantile's probability in the tail.
    edges = torch.linspace(0, 1, quantiles.shape[1] + 1, dtype=quantiles.dtype, device=quantiles.device)
    shares = edges.clamp(max=alpha).diff() / alpha  # (N,)
    return (quantiles.sort(dim=1).values * shares).sum(dim=1)


def clip_quantiles(
    quantiles: Tensor,
    old: Tensor,
    eps: float | Tensor,
    mode: VfClipMode,
    variance_factor: float,
) -> Tensor:
    """
    Clip predictions near those of the rollout.

    :param quantiles: predictions, shape (B, N)
    :param old: predictions of the policy that collected the rollout, shape (B, N), same units
    :param eps: largest move, > 0, same units
    :param mode: "per_quantile": each quantile moves by at most eps. "mean_only": one shift of all quantiles limits the
        move of their mean to eps. "mean_and_variance": after that shift, the quantiles shrink to their mean until their
        standard deviation is at most ``variance_factor`` times the old one. Old quantiles that are all equal set no
        such limit. "disable": no limit
    :param variance_factor: largest ratio of standard deviations with "mean_and_variance", > 0
    :return: shape (B, N); exactly the predictions where no limit applies
    :raises ValueError: if the mode is another
    """
    if mode == "disable":
        return quantiles
    if mode not in get_args(VfClipMode):
        raise ValueError(f"mode must be one of {', '.join(get_args(VfClipMode))}, got {mode!r}")
    eps = torch.as_tensor(eps, dtype=old.dtype, device=old.device)

    # Clip each quantile separately.
    if mode == "per_quantile":
        moved = quantiles - old
        return torch.where(moved.abs() > eps, old + moved.clamp(-eps, eps), quantiles)

    # Shift all quantiles so that their mean moves by at most eps.
    mean = quantiles.mean(dim=1, keepdim=True)
    old_mean = old.mean(dim=1, keepdim=True)
    moved = mean - old_mean
    clipped_shift = moved.clamp(-eps, eps)
    shifted = quantiles + (clipped_shift - moved)
    if mode == "mean_only":
        return shifted

    # Shrink them to their mean. The variance is clamped, since the gradient of a root at 0 is infinite.
    variance = (quantiles - mean).square().mean(dim=1, keepdim=True)
    std = variance.clamp(min=1e-12).sqrt()
    old_std = old.std(dim=1, keepdim=True, unbiased=False)
    scale = variance_factor * old_std / std
    narrowed = (old_mean + clipped_shift) + (quantiles - mean) * scale

    # Equal old quantiles have no spread that could limit the first update.
    has_spread = old_std > ROUNDING * old.abs().amax(dim=1, keepdim=True)
    return torch.where((scale < 1.0) & has_spread, narrowed, shifted)


def variance_scaling_weight(
    quantiles: Tensor,
    clip_min: float,
    clip_max: float,
    targets: Tensor | None = None,
) -> Tensor:
    """
    Compute the weight of a minibatch's value loss: the clamped mean variance of its predicted quantiles.

    A trainer needs one line::

        value_loss = variance_scaling_weight(quantiles, 0.1, 10.0) * value_loss

    :param quantiles: predicted quantiles in the units of the loss, shape (B, N) (any leading shape is accepted)
    :param clip_min: lower clamp, >= 0. At 0, equal quantiles get weight 0 and never spread: pass the targets
    :param clip_max: upper clamp, >= clip_min
    :param targets: shape (B,) or (B, M), in the units of the quantiles. They count only without a lower clamp, below
        1e-6 (``weight_before_spread``)
    :return: scalar tensor without gradient, within [clip_min, clip_max]; float32 for half precision
    :raises ValueError: if the quantiles have no batch dimension, or the clamps are not a range
    """
    variance = quantile_variance(quantiles)
    weight = batch_weight(variance, clip_min, clip_max)

    # A lower clamp keeps every weight above 0.
    if has_lower_clamp(clip_min) or targets is None:
        return weight
    errors = squared_errors(quantiles.reshape(-1, quantiles.shape[-1]), targets)
    return weight_before_spread(weight, variance.mean(), errors.mean(), clip_max)


def has_lower_clamp(clip_min: float) -> bool:
    """
    :param clip_min: lower clamp of the weight
    :return: whether it is large enough for equal quantiles to spread: 1e-6 or more
    """
    return clip_min >= NEGLIGIBLE_CLAMP


def batch_weight(
    variance: Tensor,
    clip_min: float,
    clip_max: float,
) -> Tensor:
    """
    Compute the weight of mode "batch".

    :param variance: variance of each sample's quantiles, shape (B,), in squared units of the loss
    :param clip_min: lower clamp
    :param clip_max: upper clamp
    :return: clamped mean variance, scalar tensor
    :raises ValueError: if the clamps are not a range
    """
    check_clip_range(clip_min, clip_max)
    return variance.mean().clamp(clip_min, clip_max)


def sample_weights(
    variance: Tensor,
    std_average: Tensor,
    clip_min: float,
    clip_max: float,
) -> Tensor:
    """
    Compute the weights of DSAC-T (arXiv 2310.05858, in its authors' code): small where the distribution is wide.

    :param variance: variance of each sample's quantiles, shape (B,), in squared units of the loss
    :param std_average: moving average m of their mean standard deviation, scalar
    :param clip_min: lower clamp
    :param clip_max: upper clamp
    :return: clamp(m^2 / (v_b + 0.1)), shape (B,). The 0.1 is absolute, so returns should be normalised
    """
    return (std_average**2 / (variance + DSAC_T_BIAS)).clamp(clip_min, clip_max)


def weight_before_spread(
    weight: Tensor,
    spread: Tensor,
    squared_error: Tensor,
    clip_max: float,
) -> Tensor:
    """
    Compute the weight without a lower clamp (below 1e-6), where quantiles may be equal: r * weight + (1 - r) * 1.

    The weights of both modes are 0 while all quantiles are equal, as at the start. A weight of 0 never lets them
    spread. So the weight moves from 1 to its formula as the spread grows: r = min(1, spread / (0.1 * squared error)).

    :param weight: clamped weight of either mode, scalar or shape (B,)
    :param spread: quantity proportional to the weight: the mean variance ("batch") or m^2 ("dsac_t"), scalar
    :param squared_error: mean of ``squared_errors``, scalar, same units as the spread
    :param clip_max: upper clamp, which also limits the 1
    :return: shape of the weight; exactly the weight once the spread reaches 0.1 * squared error
    """
    # This also holds for a critic without error, which needs a spread of 0.
    enough = SPREAD_SHARE * squared_error
    reached = torch.where(spread >= enough, 1.0, spread / enough)

    # The upper clamp also limits the 1.
    return reached * weight + (1 - reached) * min(1.0, clip_max)


def next_std_average(
    average: Tensor,
    filled: Tensor,
    variance: Tensor,
    squared_error: Tensor,
) -> tuple[Tensor, Tensor]:
    """
    Add a minibatch to the moving average of "dsac_t".

    Quantiles start equal. An average that started with them would stay near 0 for hundreds of minibatches. So it starts
    with the first spread, a mean variance of at least 0.1 * squared error. It is debiased as Adam's moments are.

    :param average: debiased average of the minibatches' mean standard deviation, scalar; any value before the first
    :param filled: weight of these minibatches in an average that starts at 0, scalar: 1 - 0.995^t after t of them. It
        is 0 before the first spread, and 1 for an average without bias
    :param variance: variance of each sample's quantiles, shape (B,)
    :param squared_error: mean of ``squared_errors``, scalar, in units of the variance
    :return: new average and filling, where this minibatch counts by ``DSAC_T_RATE``. Before the first spread they are
        its mean standard deviation and 0
    """
    std = variance.sqrt().mean()

    # The average starts with the first spread. From then on every minibatch counts.
    begins = (filled > 0) | (variance.mean() >= SPREAD_SHARE * squared_error)
    filled = torch.where(begins, filled + DSAC_T_RATE * (1 - filled), filled)

    # This minibatch's share: 1 for the first, 0.005 in the end.
    share = DSAC_T_RATE / filled.clamp(min=DSAC_T_RATE)
    return torch.where(share < 1, average + share * (std - average), std), filled


def check_clip_range(
    clip_min: float,
    clip_max: float,
) -> None:
    """
    Check the clamps of the weight.

    :param clip_min: lower clamp
    :param clip_max: upper clamp
    :raises TypeError: if a clamp is not a number
    :raises ValueError: unless 0 <= clip_min <= clip_max, both finite and clip_max > 0
    """
    names = "variance_scaling_clip_min and variance_scaling_clip_max"
    # True and False compare as numbers; None and text do not compare.
    if isinstance(clip_min, bool) or isinstance(clip_max, bool):
        raise TypeError(f"{names} must be numbers, got {clip_min!r} and {clip_max!r}")
    try:
        is_range = 0.0 <= clip_min <= clip_max < math.inf and clip_max > 0.0
    except TypeError as error:
        raise TypeError(f"{names} must be numbers, got {clip_min!r} and {clip_max!r}") from error
    if not is_range:
        raise ValueError(f"{names} must be finite with 0 <= min <= max and max > 0, got {clip_min} and {clip_max}")


def metrics_of_critics(logged: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """
    Combine the metrics of two critics.

    :param logged: metrics of each critic by name, scalars
    :return: means over the critics, with the extremes of their smallest and largest weights; each critic's metrics as
        ``NAME_1`` and ``NAME_2``
    """
    # Reduce over the critics.
    combined = {}
    for name in logged[0]:
        values = torch.stack([metrics[name] for metrics in logged])
        if name == "variance_scaling_weight_min":
            combined[name] = values.min()
        elif name == "variance_scaling_weight_max":
            combined[name] = values.max()
        else:
            combined[name] = values.mean()

    # Add each critic's metrics.
    for i, metrics in enumerate(logged):
        combined |= {f"{name}_{i + 1}": value for name, value in metrics.items()}
    return combined
