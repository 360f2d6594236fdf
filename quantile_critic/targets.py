"""
Targets of the critic: statistics that normalise the returns, sampled lambda-returns, calibration against both.

Pure functions; T steps of a rollout, E environments, N quantiles.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from quantile_critic.losses import quantile_midpoints


def next_statistics(
    mean: float,
    std: float,
    updates: int,
    returns: np.ndarray,
    rate: float | None,
) -> tuple[float, float]:
    """
    Statistics with one rollout's returns taken in: a debiased exponential average of their mean and mean square.

    :param mean: of the raw returns of earlier rollouts
    :param std: likewise, their standard deviation
    :param updates: rollouts taken in so far, this one included, at least 1
    :param returns: raw returns of the rollout, any shape, finite
    :param rate: weight in (0, 1] of the newest rollout; None weighs all rollouts alike
    :return: the new mean and standard deviation
    """
    # Weight of this rollout, without the bias of an average that began at 0.
    weight = 1 / updates
    if rate is not None:
        weight = min(1.0, rate / (1 - (1 - rate) ** updates))  # rounding can exceed 1

    # Of this rollout alone, in double precision.
    batch_mean = returns.mean(dtype=np.float64)
    batch_variance = returns.var(dtype=np.float64)
    new_mean = mean + weight * (batch_mean - mean)

    # Averages of E[x] and E[x^2], written around the means: E[x^2] - E[x]^2 would cancel when |mean| >> std.
    old_square = std**2 + (mean - new_mean) ** 2
    batch_square = batch_variance + (batch_mean - new_mean) ** 2
    variance = (1 - weight) * old_square + weight * batch_square
    return new_mean, math.sqrt(variance)


def sample_replacement(
    rewards: Tensor,
    goes_on: Tensor,
    keeps: Tensor,
    following: Tensor,
    last: Tensor,
    gamma: float,
) -> Tensor:
    """
    Targets of "sr_lambda" (Nam et al. 2021): backwards in time, Z_t = r_t + gamma * (1 - d_t) * Zn with Zn = Z_t+1
    where the sample is kept, else the critic's quantiles at s_t+1.

    :param rewards: shape (T, E), raw, without a bootstrapped value
    :param goes_on: 1 - d_t, shape (T, E); 1 at a truncation, whose state has a value
    :param keeps: whether Z_t+1 is kept, shape (T, E): with probability lambda, never beyond an episode's end
    :param following: quantiles at s_t+1, at a truncation those of the episode's last observation, (T, E, N), raw
    :param last: quantiles after the last step, shape (E, N), raw
    :param gamma: discount factor
    :return: atoms, shape (T, E, N), raw
    """
    # From the last step back to the first.
    atoms = torch.empty_like(following)
    z = last  # (E, N)
    for t in reversed(range(len(rewards))):
        # The sample at t + 1, or the critic's quantiles there.
        z = torch.where(keeps[t, :, None], z, following[t])
        z = rewards[t, :, None] + gamma * goes_on[t, :, None] * z
        atoms[t] = z
    return atoms


def sampled_targets(
    rewards: np.ndarray,
    dones: np.ndarray,
    keeps: np.ndarray,
    quantiles: Tensor,
    last: Tensor,
    terminal: list[tuple[int, int, Tensor]],
    gamma: float,
) -> Tensor:
    """
    ``sample_replacement`` for a rollout as SB3 keeps it.

    :param rewards: shape (T, E), raw, at truncations with the bootstrapped value
    :param dones: whether the episode ended with the step, shape (T, E)
    :param keeps: whether Z_t+1 is kept where the episode goes on, shape (T, E)
    :param quantiles: of the rollout's states, step by step, shape (T * E, N), raw
    :param last: quantiles after the last step, shape (E, N), raw
    :param terminal: step, environment and quantiles, (N,), raw, of each truncated episode's last observation
    :param gamma: discount factor
    :return: atoms, shape (T * E, N), raw
    """
    # SB3's arrays as tensors, step by step.
    device = quantiles.device
    by_step = quantiles.reshape(*rewards.shape, -1)  # (T, E, N)
    following = torch.cat([by_step[1:], last[None]])
    raw = torch.as_tensor(rewards, device=device).clone()
    goes_on = torch.as_tensor(~dones, device=device).to(raw.dtype)

    # A truncated episode goes on with its last observation, whose mean value SB3 has put into the reward.
    for step, env, last_quantiles in terminal:
        raw[step, env] -= gamma * last_quantiles.mean()
        following[step, env] = last_quantiles
        goes_on[step, env] = 1.0

    # A sample is kept within its episode only.
    keeps_sample = torch.as_tensor(keeps & ~dones, device=device)
    atoms = sample_replacement(raw, goes_on, keeps_sample, following, last, gamma)
    return atoms.reshape(quantiles.shape)


def calibration_error(
    quantiles: Tensor,
    returns: Tensor,
) -> float:
    """
    Mean over tau of |share of the returns below the quantile - tau|; 0 for a calibrated critic.

    :param quantiles: shape (M, N)
    :param returns: shape (M,), same units
    :return: within [0, 1]
    """
    # Each quantile's share of returns below it, beside the share that it stands for.
    tau = quantile_midpoints(quantiles.shape[1], like=quantiles)
    below = (returns.reshape(-1, 1) < quantiles).to(tau.dtype)
    shares = below.mean(dim=0)  # (N,)
    return float((shares - tau).abs().mean())
