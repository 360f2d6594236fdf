"""Returns and lengths of episodes, as SB3's ``VecMonitor`` tells them, without a look at each environment."""

from __future__ import annotations

import time

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecMonitor
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn


class EpisodeMonitor(VecMonitor):
    """
    ``VecMonitor`` that touches only environments whose episodes ended: the same ``info["episode"]``, but no file.

    :param venv: the environments
    """

    def __init__(self, venv: VecEnv):
        super().__init__(venv)

    def step_wait(self) -> VecEnvStepReturn:
        observations, rewards, dones, infos = self.venv.step_wait()
        self.episode_returns += rewards
        self.episode_lengths += 1

        # Episodes that ended tell their return and length, and begin anew.
        ended = np.flatnonzero(dones)
        if len(ended):
            infos = list(infos)
            seconds = round(time.time() - self.t_start, 6)
            for i in ended:
                episode = {"r": self.episode_returns[i], "l": self.episode_lengths[i], "t": seconds}
                infos[i] = {**infos[i], "episode": episode}
            self.episode_count += len(ended)
            self.episode_returns[ended] = 0
            self.episode_lengths[ended] = 0
        return observations, rewards, dones, infos
