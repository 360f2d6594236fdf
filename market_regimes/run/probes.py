"""Probes of the critic: how well it fits each regime, and how hard the value loss pulls it there."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from distributional_ppo import DistributionalPPO, quantile_variance
from market_regimes.market.regimes import MIN_REGIME_DAYS, REGIMES

GRADIENT_SAMPLES = 256  # per regime: evenly spaced over the rollout


def figures_by_regime_of_rollout(model: DistributionalPPO, regime: np.ndarray) -> dict[str, float]:
    """
    How well the critic fits each regime, and how hard it is pulled there, before the update. Regimes with under
    ``MIN_REGIME_DAYS`` samples, or whose returns are all equal, are left out.

    :param model: after a rollout of T steps by E environments
    :param regime: of every sample, shape (T, E)
    :return: ``value_error_REGIME``: root mean square of value minus return, in units of that regime's return std;
        ``value_grad_norm_REGIME``: norm of the gradient of the value loss (before ``vf_coef``, on GAE
        returns, not clipped) on up to ``GRADIENT_SAMPLES`` of its samples, times the weight of as many from all regimes
    """
    buffer = model.rollout_buffer
    figures: dict[str, float] = {}
    every = np.stack(np.unravel_index(np.arange(regime.size), regime.shape), axis=1)
    mixed = weights_of(model, quantiles_of_loss(model, _evenly_spaced(buffer.observations, every)))
    for position, name in enumerate(REGIMES):
        samples = np.argwhere(regime == position)
        returns = buffer.returns[regime == position].astype(np.float64)
        if len(samples) < MIN_REGIME_DAYS or not returns.std() > 0:
            continue
        error = buffer.values[regime == position] - returns
        figures[f"value_error_{name}"] = float(np.sqrt(np.mean(error**2)) / returns.std())
        if model.policy.value_net.ret_std > 0:
            figures[f"value_grad_norm_{name}"] = value_gradient_norm(
                model, _evenly_spaced(buffer.observations, samples), _evenly_spaced(buffer.returns, samples), mixed
            )
    return figures


def _evenly_spaced(array: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """``GRADIENT_SAMPLES`` of the samples (step, environment) of a rollout's array."""
    count = min(GRADIENT_SAMPLES, len(samples))
    rows = tuple(samples[np.linspace(0, len(samples) - 1, count).astype(int)].T)
    chosen: np.ndarray = array[rows]
    return chosen


def quantiles_of_loss(model: DistributionalPPO, observations: np.ndarray) -> Tensor:
    """
    :param observations: shape (B, ...)
    :return: predictions of all C critics in units of the loss, with their gradient, shape (B, C * N)
    """
    return model.policy.quantiles_of_loss(torch.as_tensor(observations, device=model.device))


def weights_of(model: DistributionalPPO, quantiles: Tensor) -> list[Tensor]:
    """
    :param quantiles: from ``quantiles_of_loss``
    :return: what each critic's loss on these samples is multiplied by: a scalar, or a weight per sample
    """
    if not model.use_variance_gradient_scaling:
        return [quantiles.new_ones(())] * model.policy.n_critics
    critics = quantiles.chunk(model.policy.n_critics, dim=1)
    return [model.variance_weight(quantile_variance(own), i) for i, own in enumerate(critics)]


def value_gradient_norm(
    model: DistributionalPPO, observations: np.ndarray, returns: np.ndarray, mixed: list[Tensor]
) -> float:
    """
    Norm of the gradient of the weighted value loss, before ``vf_coef``, over all parameters it depends on.

    :param observations: of B samples
    :param returns: theirs, raw, shape (B,)
    :param mixed: weights of a minibatch of all regimes, as training has them; those per sample are the samples' own
    """
    quantiles = quantiles_of_loss(model, observations)
    targets = model.policy.value_net.to_normalized(torch.as_tensor(returns, device=model.device))
    weights = [own if own.dim() else shared for own, shared in zip(weights_of(model, quantiles), mixed, strict=True)]
    losses = [model._quantile_huber_loss(own, targets, "none") for own in quantiles.chunk(len(mixed), dim=1)]
    total = torch.stack([(weight * loss).mean() for weight, loss in zip(weights, losses, strict=True)]).sum()
    parameters = [parameter for parameter in model.policy.parameters() if parameter.requires_grad]
    gradients = [g for g in torch.autograd.grad(total, parameters, allow_unused=True) if g is not None]
    return float(torch.stack([g.norm() for g in gradients]).norm())
