"""
Targets of the critic: statistics that normalise returns, sampled lambda-returns, calibration against both.

All functions are pure. T steps of a rollout, E environments, N quantiles.
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
    Add one rollout's returns to the statistics: a debiased exponential average of their mean and mean square.

    :param mean: mean of the raw returns of earlier rollouts
    :param std: standard deviation of the same returns
    :param updates: number of rollouts in the statistics, including this one, at least 1
    :param returns: raw returns of the rollout, any shape, finite
    :param rate: weight in (0, 1] of the newest rollout, None: all rollouts alike
    :return: new mean and standard deviation
    """
    # Weight of this rollout, corrected for the bias of an average that started at 0.
    weight = 1 / updates
    if rate is not None:
        weight = min(1.0, rate / (1 - (1 - rate) ** updates))  # rounding can exceed 1

    # Moments of this rollout alone, in double precision.
    batch_mean = returns.mean(dtype=np.float64)
    batch_variance = returns.var(dtype=np.float64)
    new_mean = mean + weight * (batch_mean - mean)

    # Average E[x] and E[x^2] around the means: E[x^2] - E[x]^2 would cancel when |mean| >> std.
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
    Compute the targets of "sr_lambda" (Nam et al. 2021), backwards in time: Z_t = r_t + gamma * (1 - d_t) * Zn.

    Zn is Z_t+1 where the sample is kept, else the critic's quantiles at s_t+1.

    :param rewards: shape (T, E), raw, without a bootstrapped value
    :param goes_on: 1 - d_t, shape (T, E); 1 at a truncation, whose state has a value
    :param keeps: whether Z_t+1 is kept, shape (T, E): with probability lambda, never beyond an episode's end
    :param following: quantiles at s_t+1, (T, E, N), raw; at a truncation those of the episode's last observation
    :param last: quantiles after the last step, shape (E, N), raw
    :param gamma: discount factor
    :return: atoms, shape (T, E, N), raw
    """
    # Go from the last step back to the first.
    atoms = torch.empty_like(following)
    z = last  # (E, N)
    for t in reversed(range(len(rewards))):
        # Take the sample at t + 1, or the critic's quantiles there.
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
    Call ``sample_replacement`` for a rollout as SB3 stores it.

    :param rewards: shape (T, E), raw, at truncations with the bootstrapped value
    :param dones: whether the episode ended with the step, shape (T, E)
    :param keeps: whether Z_t+1 is kept where the episode continues, shape (T, E)
    :param quantiles: quantiles of the rollout's states, step by step, shape (T * E, N), raw
    :param last: quantiles after the last step, shape (E, N), raw
    :param terminal: step, environment and quantiles, (N,), raw, of each truncated episode's last observation
    :param gamma: discount factor
    :return: atoms, shape (T * E, N), raw
    """
    # Convert SB3's arrays to tensors, step by step.
    device = quantiles.device
    by_step = quantiles.reshape(*rewards.shape, -1)  # (T, E, N)
    following = torch.cat([by_step[1:], last[None]])
    raw = torch.as_tensor(rewards, device=device).clone()
    goes_on = torch.as_tensor(~dones, device=device).to(raw.dtype)

    # A truncated episode continues with its last observation. SB3 added its mean value to the reward.
    for step, env, last_quantiles in terminal:
        raw[step, env] -= gamma * last_quantiles.mean()
        following[step, env] = last_quantiles
        goes_on[step, env] = 1.0

    # Keep a sample only within its episode.
    keeps_sample = torch.as_tensor(keeps & ~dones, device=device)
    atoms = sample_replacement(raw, goes_on, keeps_sample, following, last, gamma)
    return atoms.reshape(quantiles.shape)


def calibration_error(
    quantiles: Tensor,
    returns: Tensor,
) -> float:
    """
    Compute the mean over tau of |share of the returns below the quantile - tau|. A calibrated critic has 0.

    :param quantiles: shape (M, N)
    :param returns: shape (M,), same units
    :return: error within [0, 1]
    """
    # Compare each quantile's share of returns below it with its tau.
    tau = quantile_midpoints(quantiles.shape[1], like=quantiles)
    below = (returns.reshape(-1, 1) < quantiles).to(tau.dtype)
    shares = below.mean(dim=0)  # (N,)
    return float((shares - tau).abs().mean())
