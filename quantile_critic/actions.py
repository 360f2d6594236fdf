"""
Actions in the numbers and dtype of the environment's action space.

SB3's distributions of discrete actions count from 0, in int64. A space may start at another number (``start``) and
have another dtype. So actions are converted on two ways out: to the environment in a rollout, and from ``predict``.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

BOX_DTYPES = (np.float32, np.float64)


def check_action_space(space: spaces.Space[Any]) -> None:
    """
    Warn of actions that a rollout would round, and refuse spaces that SB3's distributions cannot split.

    :param space: the environment's action space
    :raises ValueError: if a MultiDiscrete space has more than one dimension
    """
    # A warning only, since PPO trains on such boxes.
    if isinstance(space, spaces.Box) and space.dtype not in BOX_DTYPES:
        warnings.warn(
            f"a Box of actions should have dtype float32 or float64, got {space.dtype}: the rollout buffer keeps "
            "actions rounded, and the update reinforces others than those taken. For integers use Discrete or "
            "MultiDiscrete"
        )
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim != 1:
        raise ValueError(f"MultiDiscrete actions must have one dimension, got shape {space.nvec.shape}: flatten them")


def counts_from_zero(space: spaces.Space[Any]) -> bool:
    """
    :param space: the environment's action space
    :return: whether the distribution's actions need no conversion for the environment
    """
    if not isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        return True
    return bool(space.dtype == np.int64 and np.all(np.asarray(getattr(space, "start", 0)) == 0))


def environment_actions(actions: np.ndarray, space: spaces.Space[Any]) -> np.ndarray:
    """
    :param actions: actions of the distribution, any leading shape
    :param space: the environment's action space
    :return: the same actions, from the space's start and in its dtype
    """
    if counts_from_zero(space):
        return actions
    return np.asarray(actions + getattr(space, "start", 0)).astype(space.dtype)


class MovedActions(VecEnvWrapper):
    """Environments of a rollout that convert the distribution's actions."""

    def reset(self) -> VecEnvObs:
        return self.venv.reset()

    def step_async(self, actions: np.ndarray) -> None:
        self.venv.step_async(environment_actions(actions, self.action_space))

    def step_wait(self) -> VecEnvStepReturn:
        return self.venv.step_wait()
