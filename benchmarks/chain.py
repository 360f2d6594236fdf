"""
Are the predicted quantiles those of the return? A chain of three states whose returns have a known distribution.

    python benchmarks/chain.py              # runs what chain.csv lacks, then writes its table and picture
    python benchmarks/chain.py --seeds 0    # only the table and the picture of the runs there are

The action does nothing. A reward is drawn at each step, the third ends the episode; discount 0.9. Exact quantiles come
from the distribution function by root finding. Errors are in standard deviations of the state's return.
"""

from __future__ import annotations

import itertools
import math
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import gymnasium as gym
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from scipy import optimize, stats
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.utils import LinearSchedule

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks.learning import arguments, run_missing
from benchmarks.results import markdown, with_tables
from distributional_ppo import DistributionalPPO

CELLS = Path(__file__).with_suffix(".csv")
PAGE = Path(__file__).with_name("README.md")
PICTURE = Path(__file__).parent.parent / "docs/chain.png"
STATES = 3
GAMMA = 0.9
SCALES = (0.5, 1.0, 0.8)  # of the reward in each state
MEANS = (1.0, -1.0, 2.0)
JUMP = 1.2
TARGETS: tuple[Literal["gae", "sr_lambda"], ...] = ("gae", "sr_lambda")


def _sum(terms: tuple[float, ...], state: int, power: int = 1) -> float:
    """What the terms of the rewards from this state on add up to when discounted, their factors to a power."""
    return float(sum((GAMMA**k) ** power * term for k, term in enumerate(terms[state:])))


def _gaussian(x: float, state: int) -> float:
    """Sums of normal rewards."""
    spread = _sum(tuple(scale**2 for scale in SCALES), state, 2) ** 0.5
    return float(stats.norm.cdf(x, _sum(MEANS, state), spread))


def _skewed(x: float, state: int) -> float:
    """Sums of exponential rewards: the hypoexponential distribution, whose scales must differ."""
    scales = [GAMMA**k * scale for k, scale in enumerate(SCALES[state:])]
    tail = 0.0
    for scale in scales:
        weight = np.prod([scale / (scale - other) for other in scales if other != scale])
        tail += weight * np.exp(-max(x, 0.0) / scale)
    return float(1 - tail)


def _bimodal(x: float, state: int) -> float:
    """Normal rewards, the last of which jumps up or down."""
    jump = GAMMA ** (STATES - 1 - state) * JUMP
    spread = _sum(tuple((scale / 2) ** 2 for scale in SCALES), state, 2) ** 0.5
    return float(np.mean([stats.norm.cdf(x, _sum(MEANS, state) + side * jump, spread) for side in (-1, 1)]))


@dataclass(frozen=True)
class Rewards:
    """
    :param draw: reward of a state
    :param cdf: distribution function of the return from a state on
    :param variances: of the rewards
    """

    draw: Callable[[np.random.Generator, int], float]
    cdf: Callable[[float, int], float]
    variances: tuple[float, ...]

    def std(self, state: int) -> float:
        return math.sqrt(_sum(self.variances, state, 2))

    def quantiles(self, taus: np.ndarray, state: int) -> np.ndarray:
        """
        :param taus: probabilities, shape (N,)
        :return: exact quantiles of the return, shape (N,)
        """
        return np.array([optimize.brentq(lambda x, t=tau: self.cdf(x, state) - t, -30, 60, xtol=1e-10) for tau in taus])


SQUARES = tuple(scale**2 for scale in SCALES)
REWARDS = {
    "Gaussian": Rewards(lambda rng, state: rng.normal(MEANS[state], SCALES[state]), _gaussian, SQUARES),
    "skewed": Rewards(lambda rng, state: rng.exponential(SCALES[state]), _skewed, SQUARES),
    "bimodal": Rewards(
        lambda rng, state: (
            rng.normal(MEANS[state], SCALES[state] / 2)
            + (JUMP * (2 * rng.integers(2) - 1) if state == STATES - 1 else 0.0)
        ),
        _bimodal,
        tuple(square / 4 + (JUMP**2 if state == STATES - 1 else 0.0) for state, square in enumerate(SQUARES)),
    ),
}


class Chain(gym.Env[np.ndarray, np.int64]):
    """One-hot states, passed in order."""

    observation_space = gym.spaces.Box(0, 1, (STATES,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, rewards: str) -> None:
        self.rewards = REWARDS[rewards]
        self.state = 0

    def _observation(self) -> np.ndarray:
        return np.asarray(np.arange(STATES) == self.state % STATES, np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.state = 0
        return self._observation(), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        reward = self.rewards.draw(self.np_random, self.state)
        self.state += 1
        return self._observation(), float(reward), self.state == STATES, False, {}


class Cell(NamedTuple):
    """A run."""

    rewards: str
    value_target: Literal["gae", "sr_lambda"]
    gae_lambda: float
    n_quantiles: int
    kappa: float
    seed: int


def cells(seeds: int) -> list[Cell]:
    """n_quantiles at the smallest kappa, kappa at PPO's default of 32 quantiles."""
    sizes = [(8, 0.01), (32, 0.01), (128, 0.01), (32, 0.1), (32, 1.0)]
    settings = [*((0.95, *size) for size in sizes), (0.5, 32, 0.01)]

    runs = itertools.product(REWARDS, TARGETS, settings, range(seeds))
    return [Cell(rewards, target, *setting, seed) for rewards, target, setting, seed in runs]


def run_cell(cell: Cell, steps: int = 200_000) -> dict[str, Any]:
    """Train once and compare with the exact quantiles of all states."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")

    model = DistributionalPPO(
        "MlpPolicy",
        make_vec_env(Chain, 64, seed=cell.seed, env_kwargs=dict(rewards=cell.rewards)),
        n_steps=48,
        batch_size=256,
        n_epochs=1,
        learning_rate=LinearSchedule(3e-3, 0.0, 1.0),
        gamma=GAMMA,
        gae_lambda=cell.gae_lambda,
        value_target=cell.value_target,
        quantile_huber_kappa=cell.kappa,
        policy_kwargs=dict(n_quantiles=cell.n_quantiles),
        seed=cell.seed,
        device="cpu",
    )
    model.learn(steps)

    # Predicted quantiles of every state, shape (STATES, N).
    with torch.no_grad():
        predicted = model.policy.predict_quantiles(np.eye(STATES, dtype=np.float32)).numpy()

    # Their distance from the exact ones, in standard deviations.
    rewards = REWARDS[cell.rewards]
    taus = (np.arange(cell.n_quantiles) + 0.5) / cell.n_quantiles
    errors = [(predicted[state] - rewards.quantiles(taus, state)) / rewards.std(state) for state in range(STATES)]

    return {
        **cell._asdict(),
        "steps": steps,
        "error": round(float(np.abs(errors).mean()), 4),
        "largest": round(float(np.abs(errors).max()), 4),
        "first_state": " ".join(f"{value:.4g}" for value in predicted[0]),
    }


def table(found: pd.DataFrame) -> str:
    """Markdown: error of a quantile, mean over quantiles, states and seeds, and in brackets the largest of all."""
    keys = ["gae_lambda", "n_quantiles", "kappa"]
    groups = found.groupby([*keys, "value_target", "rewards"], sort=False)
    means = groups["error"].mean().map("{:.3f}".format)
    largest = groups["largest"].max().map(" ({:.2f})".format)
    wide = (means + largest).unstack(["value_target", "rewards"])

    # Columns in the order of the targets.
    order = [(target, rewards) for target in TARGETS for rewards in REWARDS]
    wide = wide[order].set_axis([f"{target}, {rewards}" for target, rewards in order], axis=1).reset_index()
    return markdown(wide)


def picture(found: pd.DataFrame, path: Path) -> None:
    """The exact distribution function of the first state's return and the predicted quantiles, seed 0."""
    figure, axes = plt.subplots(1, len(REWARDS), figsize=(10, 3.2), sharey=True, layout="constrained")
    shown = found.query("seed == 0 and gae_lambda == 0.5 and n_quantiles == 32 and kappa == 0.01")

    for axis, (name, rewards) in zip(axes, REWARDS.items(), strict=True):
        for target, color in (("gae", "tab:orange"), ("sr_lambda", "tab:blue")):
            row = shown.query("rewards == @name and value_target == @target").iloc[0]
            quantiles = np.array(row["first_state"].split(), float)
            taus = (np.arange(len(quantiles)) + 0.5) / len(quantiles)
            axis.plot(quantiles, taus, "o", color=color, markersize=3, label=f'predicted, "{target}"')

        low, high = rewards.quantiles(np.array([0.001, 0.999]), 0)
        grid = np.linspace(low, high, 200)
        axis.plot(grid, [rewards.cdf(x, 0) for x in grid], color="black", linewidth=1, label="exact")
        axis.set(title=name, xlabel="return from the first state")
        axis.spines[["top", "right"]].set_visible(False)

    axes[0].set_ylabel("probability")
    axes[0].legend(frameon=False, fontsize="small")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    args = arguments(__doc__, seeds=3)
    found = run_missing(CELLS, cells(args.seeds), run_cell, args.workers)
    PAGE.write_text(with_tables(PAGE.read_text(), {"chain": table(found)}))
    picture(found, PICTURE)


if __name__ == "__main__":
    main()
