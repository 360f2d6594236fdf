"""Probes of the critic: how well it fits each regime, and how hard the value loss pulls it there."""

from __future__ import annotations

from collections.abc import Callable

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
    buffer = model.rollout_buffer
    inputs = inputs_of_rollout(model)
    weights_at = _weights_of_rollout(model, inputs, regime.size)
    figures: dict[str, float] = {}

    for position, name in enumerate(REGIMES):
        is_regime = regime == position
        returns = buffer.returns[is_regime].astype(np.float64)
        if len(returns) < MIN_REGIME_DAYS or not returns.std() > 0:
            continue

        # How well the critic fits.
        error = buffer.values[is_regime] - returns
        figures[f"value_error_{name}"] = float(np.sqrt(np.mean(error**2)) / returns.std())

        # How hard it is pulled, once returns have a scale.
        if model.policy.value_net.ret_std > 0:
            rows = _evenly_spaced(np.flatnonzero(is_regime))
            targets = buffer.returns.reshape(-1)[rows]
            norm = value_gradient_norm(model, at_rows(inputs, rows), targets, weights_at(rows))
            figures[f"value_grad_norm_{name}"] = norm
    return figures


def _weights_of_rollout(model: DistributionalPPO, inputs: Inputs, samples: int) -> Callable[[np.ndarray], list[Tensor]]:
    """For each critic the weight of the loss of some samples: of their minibatches, or of a mixed one for all."""
    if is_recurrent(model):
        weights = weights_by_minibatch(model, inputs, minibatches_of_rollout(model))
        return lambda rows: [of_critic[rows] for of_critic in weights]

    mixed = at_rows(inputs, _evenly_spaced(np.arange(samples)))
    shared = weights_of(model, quantiles_of_loss(model, mixed))
    return lambda rows: shared


def _evenly_spaced(rows: np.ndarray) -> np.ndarray:
    """``GRADIENT_SAMPLES`` of the rows."""
    number = min(GRADIENT_SAMPLES, len(rows))
    places = np.linspace(0, len(rows) - 1, number).astype(int)
    chosen: np.ndarray = rows[places]
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
    return [model.variance_weight(quantile_variance(of_critic), i) for i, of_critic in enumerate(critics)]


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
        of_minibatch = weights_of(model, quantiles[rows])
        for of_critic, weight in zip(weights, of_minibatch, strict=True):
            of_critic[rows] = weight
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

    # The weighted loss of each critic; a weight per sample comes before that of the minibatches.
    losses = []
    critics = quantiles.chunk(len(mixed), dim=1)
    for of_critic, sample_weight, shared in zip(critics, weights_of(model, quantiles), mixed, strict=True):
        weight = sample_weight if sample_weight.dim() else shared
        loss = model._quantile_huber_loss(of_critic, targets, "none")
        losses.append((weight * loss).mean())
    total = torch.stack(losses).sum()

    # Its gradient over the parameters that it reaches.
    parameters = [parameter for parameter in model.policy.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(total, parameters, allow_unused=True)
    norms = [gradient.norm() for gradient in gradients if gradient is not None]
    return float(torch.stack(norms).norm())
