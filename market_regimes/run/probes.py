"""Probes of the critic: how well it fits each regime, and how hard the value loss pulls it there."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from distributional_ppo import DistributionalPPO, quantile_variance
from market_regimes.market.regimes import MIN_REGIME_DAYS, REGIMES
from market_regimes.run.inputs import Inputs, at_rows, inputs_of_rollout, is_recurrent, quantiles_of_loss

GRADIENT_SAMPLES = 256  # per regime: evenly spaced over the rollout


def figures_by_regime_of_rollout(model: DistributionalPPO, regime: np.ndarray) -> dict[str, float]:
    """
    How well the critic fits each regime, and how hard it is pulled there, before the update. Regimes with under
    ``MIN_REGIME_DAYS`` samples, or whose returns are all equal, are left out.

    :param model: after a rollout of T steps by E environments
    :param regime: of every sample, shape (T, E)
    :return: ``value_error_REGIME``: root mean square of value minus return, in units of that regime's return std;
        ``value_grad_norm_REGIME``: norm of the gradient of the value loss (before ``vf_coef``, on GAE
        returns, not clipped) on up to ``GRADIENT_SAMPLES`` of its samples, times the weight of as many from all
        regimes; of a recurrent policy from the rollout's states, times the weight of each sample's minibatch
    """
    buffer, inputs = model.rollout_buffer, inputs_of_rollout(model)
    figures: dict[str, float] = {}
    every = _evenly_spaced(np.arange(regime.size))
    if is_recurrent(model):
        own_weights = weights_by_minibatch(model, inputs, minibatches_of_rollout(model))
    else:
        mixed = weights_of(model, quantiles_of_loss(model, at_rows(inputs, every)))
    for position, name in enumerate(REGIMES):
        rows = np.flatnonzero(regime == position)
        returns = buffer.returns[regime == position].astype(np.float64)
        if len(rows) < MIN_REGIME_DAYS or not returns.std() > 0:
            continue
        error = buffer.values[regime == position] - returns
        figures[f"value_error_{name}"] = float(np.sqrt(np.mean(error**2)) / returns.std())
        if model.policy.value_net.ret_std > 0:
            chosen = _evenly_spaced(rows)
            figures[f"value_grad_norm_{name}"] = value_gradient_norm(
                model,
                at_rows(inputs, chosen),
                buffer.returns.reshape(-1)[chosen],
                [own[chosen] for own in own_weights] if is_recurrent(model) else mixed,
            )
    return figures


def _evenly_spaced(rows: np.ndarray) -> np.ndarray:
    """``GRADIENT_SAMPLES`` of the rows."""
    chosen: np.ndarray = rows[np.linspace(0, len(rows) - 1, min(GRADIENT_SAMPLES, len(rows))).astype(int)]
    return chosen


def minibatches_of_rollout(model: DistributionalPPO) -> np.ndarray:
    """
    Number of the minibatch that holds each sample of a rollout of T steps by E environments, as recurrent policies cut
    it: environment by environment, from the first step of the first. Training cuts from a step drawn anew.

    :param model: with a recurrent policy
    :return: shape (T * E,), step by step
    """
    steps, envs = model.rollout_buffer.rewards.shape
    numbers = np.arange(steps * envs) // (model.batch_size or steps * envs)
    return numbers.reshape(envs, steps).T.reshape(-1)


def weights_of(model: DistributionalPPO, quantiles: Tensor) -> list[Tensor]:
    """
    :param quantiles: from ``quantiles_of_loss``
    :return: what each critic's loss on these samples is multiplied by: a scalar, or a weight per sample
    """
    if not model.use_variance_gradient_scaling:
        return [quantiles.new_ones(())] * model.policy.n_critics
    critics = quantiles.chunk(model.policy.n_critics, dim=1)
    return [model.variance_weight(quantile_variance(own), i) for i, own in enumerate(critics)]


@torch.no_grad()
def weights_by_minibatch(model: DistributionalPPO, inputs: Inputs, minibatch: np.ndarray) -> list[Tensor]:
    """
    Minibatches of a recurrent policy are few sequences, so that each has a weight of its own.

    :param inputs: of M samples
    :param minibatch: number of the one that holds each sample, shape (M,)
    :return: for each critic the weight of each sample's loss, shape (M,)
    """
    quantiles = quantiles_of_loss(model, inputs)
    weights = [quantiles.new_ones(len(quantiles)) for _ in range(model.policy.n_critics)]
    for number in np.unique(minibatch):
        rows = torch.from_numpy(np.flatnonzero(minibatch == number))
        for own, weight in zip(weights, weights_of(model, quantiles[rows]), strict=True):
            own[rows] = weight
    return weights


def value_gradient_norm(model: DistributionalPPO, inputs: Inputs, returns: np.ndarray, mixed: list[Tensor]) -> float:
    """
    Norm of the gradient of the weighted value loss, before ``vf_coef``, over all parameters it depends on.

    :param inputs: of B samples
    :param returns: theirs, raw, shape (B,)
    :param mixed: weights of the minibatches, as training has them, for all samples or for each; in mode "dsac_t" the
        samples have their own
    """
    quantiles = quantiles_of_loss(model, inputs)
    targets = model.policy.value_net.to_normalized(torch.as_tensor(returns, device=model.device))
    weights = [own if own.dim() else shared for own, shared in zip(weights_of(model, quantiles), mixed, strict=True)]
    losses = [model._quantile_huber_loss(own, targets, "none") for own in quantiles.chunk(len(mixed), dim=1)]
    total = torch.stack([(weight * loss).mean() for weight, loss in zip(weights, losses, strict=True)]).sum()
    parameters = [parameter for parameter in model.policy.parameters() if parameter.requires_grad]
    gradients = [g for g in torch.autograd.grad(total, parameters, allow_unused=True) if g is not None]
    return float(torch.stack([g.norm() for g in gradients]).norm())
