"""Returns and lengths of episodes. Oracle: SB3's ``VecMonitor`` on the same environments."""

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecMonitor
from stable_baselines3.common.vec_env.base_vec_env import VecEnv

from market_regimes.market.monitor import EpisodeMonitor

N = 5


class Scripted(VecEnv):
    """Rewards and ends drawn from a seed; the same list of infos, with an entry, in every step."""

    def __init__(self):
        super().__init__(N, spaces.Box(-1, 1, (1,)), spaces.Discrete(2))
        self.rng, self.infos = np.random.default_rng(0), [{"own": i} for i in range(N)]

    def reset(self):
        return np.zeros((N, 1))

    def step_async(self, actions):
        pass

    def step_wait(self):
        return (
            np.zeros((N, 1)),
            self.rng.normal(size=N).astype(np.float32),
            self.rng.random(N) < 0.2,
            self.infos,
        )

    def close(self):
        pass

    def get_attr(self, attr_name, indices=None):
        return [None] * N

    def set_attr(self, attr_name, value, indices=None):
        raise AttributeError

    def env_method(self, method_name, *method_args, indices=None, **method_kwargs):
        raise AttributeError

    def env_is_wrapped(self, wrapper_class, indices=None):
        return [False] * N


def played(monitor):
    """Infos of 60 steps with a reset between, times left out, and types of what they hold."""
    seen = []

    for _ in range(2):
        monitor.reset()
        for _ in range(30):
            *_, infos = monitor.step(np.zeros(N))
            for info in infos:
                episode = dict(info.get("episode", {}))
                kinds = [type(value) for value in episode.values()]
                seconds = episode.pop("t", None)
                assert seconds is None or 0 <= seconds < 60
                seen.append(({**info, "episode": episode}, kinds, list(episode)))

    return seen


def test_infos_and_counts_are_those_of_sb3s_monitor_to_the_last_bit():
    monitors = [EpisodeMonitor(Scripted()), VecMonitor(Scripted())]
    own, expected = (played(monitor) for monitor in monitors)

    assert own == expected
    assert sum(bool(info["episode"]) for info, *_ in own) > 30
    assert monitors[0].episode_count == monitors[1].episode_count

    for name in ("episode_returns", "episode_lengths"):
        assert np.array_equal(*(getattr(monitor, name) for monitor in monitors))
        assert getattr(monitors[0], name).dtype == getattr(monitors[1], name).dtype

    assert all("episode" not in info for info in monitors[0].venv.infos)  # those of the environment stay its own


def test_no_file_is_promised():
    with pytest.raises(TypeError):
        EpisodeMonitor(Scripted(), "monitor.csv")
