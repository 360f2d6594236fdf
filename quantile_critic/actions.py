"""
Actions as the environment's action space has them.

SB3's distributions of discrete actions count from 0, in int64. A space may begin at another number (``start``) and may
have another dtype. So actions are moved where they leave: to the environment in a rollout, and from ``predict``.
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
    :param space: of the environment's actions
    :raises ValueError: on MultiDiscrete of more than one dimension, which SB3's distribution cannot split
    """
    # PPO trains on such boxes, so this is a warning.
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
    :param space: of the environment's actions
    :return: whether the distribution's actions are the environment's
    """
    if not isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        return True
    return bool(space.dtype == np.int64 and np.all(np.asarray(getattr(space, "start", 0)) == 0))


def environment_actions(actions: np.ndarray, space: spaces.Space[Any]) -> np.ndarray:
    """
    :param actions: of the distribution, any leading shape
    :param space: of the environment's actions
    :return: the same actions as the space has them
    """
    if counts_from_zero(space):
        return actions
    return np.asarray(actions + getattr(space, "start", 0)).astype(space.dtype)


class MovedActions(VecEnvWrapper):
    """Environments for a rollout, which take the distribution's actions."""

    def reset(self) -> VecEnvObs:
        return self.venv.reset()

    def step_async(self, actions: np.ndarray) -> None:
        self.venv.step_async(environment_actions(actions, self.action_space))

    def step_wait(self) -> VecEnvStepReturn:
        return self.venv.step_wait()
