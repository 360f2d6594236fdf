"""What tests of several modules build."""

import numpy as np
import pytest
from markets import load_shipped
from stable_baselines3.common.callbacks import BaseCallback

from distributional_ppo import DistributionalPPO
from market_regimes.market.environment import MarketCore, MarketVecEnv
from market_regimes.market.segments import Segment, period_of
from train_model_multi_patch import main


class KeepRollout(BaseCallback):
    """The first full rollout's observations and bars, gathered without the code under test."""

    def __init__(self, core):
        super().__init__()
        self.core = core
        self.bars = []

    def _on_rollout_start(self):
        self.bars.append(self.core.bar.copy())

    def _on_step(self):
        self.bars.append(self.core.bar.copy())
        return True


# A run of one update from the command line.
QUICK_FLAGS = [
    *("--run.total_timesteps=64", "--run.n_envs=2", "--run.eval_every=64", "--run.progress_bar=false"),
    *("--algorithm.n_steps=32", "--algorithm.batch_size=64", "--algorithm.n_epochs=1", "--market.episode_bars=60"),
]


def errors_of(capsys, *arguments):
    """The error output of a command line that is refused."""
    with pytest.raises(SystemExit):
        main([str(argument) for argument in arguments])
    return capsys.readouterr().err


def refused(capsys, *arguments):
    """The one sentence with which the command line refuses."""
    capsys.readouterr()

    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])

    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    return message


def rollout_of_indices():
    """A model after an update and another rollout on both indices, and the bars of the second rollout's samples."""
    segments = [
        Segment(market, period_of(market, "1999-01-01", "2008-12-31"), range(2500))
        for market in map(load_shipped, ("sp500", "nasdaq"))
    ]
    core = MarketCore(segments, 8)
    settings = dict(n_steps=256, batch_size=256, seed=0, normalize_returns=True, use_popart=True)
    model = DistributionalPPO("MlpPolicy", MarketVecEnv(core), **settings)
    model.learn(2048)

    keep = KeepRollout(core)
    keep.init_callback(model)
    model.collect_rollouts(model.env, keep, model.rollout_buffer, 256)
    return model, core, np.stack(keep.bars[:-1])


COLUMN_FLAGS = [
    *("--run.total_timesteps=128", "--run.n_envs=2", "--run.eval_every=64", "--run.progress_bar=false"),
    *("--algorithm.n_steps=32", "--algorithm.batch_size=32", "--algorithm.n_epochs=1"),
    *("--market.train=[2000-01-03,2001-06-29]", "--market.validation=[2001-07-02,2001-10-31]"),
    *("--market.test=[2001-11-01,2002-04-19]", "--market.features=[macro,volume]"),
    *("--market.benchmark_positions=mine", "--market.trading.start_equity=10000", "--market.trading.min_fee=1"),
]


def train_with_columns(folder, prices):
    """A run on a file with columns of the user's own: its folder and the file."""
    path = folder / "prices.csv"
    with_columns(prices).to_csv(path, index=False)

    main([*COLUMN_FLAGS, f"--market.data={path}", f"--run.out={folder}", "--run.name=x"])
    return folder / "x", path


def with_columns(prices):
    """600 bars with features, a column that is not used, and targets of the user's own."""
    rng = np.random.default_rng(2)
    return prices.assign(
        macro=rng.uniform(1, 2, 600),
        other=1.0,
        volume=rng.integers(50, 99, 600),
        mine=rng.uniform(0, 1, 600),
    )
