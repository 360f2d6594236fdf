"""
Does RecurrentDistributionalPPO learn as sb3-contrib's RecurrentPPO does, where velocities are hidden?

    pip install -c constraints.txt -e ".[test]"
    python benchmarks/recurrent_learning.py                # runs what the CSV lacks, then prints the table
    python benchmarks/recurrent_learning.py --seeds 0      # only the table of the runs there are
    python benchmarks/recurrent_learning.py --output FILE --variants RecurrentPPO "kappa in stds"    # runs of CRITICS

A run is scored by the mean return of 50 deterministic episodes of its final policy. The settings are those that RL
Baselines3 Zoo trained huggingface.co/sb3/ppo_lstm-CartPoleNoVel-v1 and ppo_lstm-PendulumNoVel-v1 with. Differences are
taken seed by seed, with a 95 % t interval.
"""

from __future__ import annotations

import argparse
import csv
import functools
import itertools
import math
import statistics
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import torch
from scipy import stats
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecNormalize, sync_envs_normalization
from torch import nn

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks import learning
from benchmarks.learning import run_missing

RUNS = Path(__file__).with_suffix(".csv")
STEPS = 100_000
POSITIONS = {"CartPole-v1": [0, 2], "Pendulum-v1": [0, 1]}  # of the observation, what is no velocity
NETWORK = dict(lstm_hidden_size=64, net_arch=dict(pi=[64], vf=[64]), activation_fn=nn.ReLU, ortho_init=False)
SETTINGS: dict[str, dict[str, Any]] = {
    "CartPole-v1": dict(
        n_steps=32,
        batch_size=256,
        gae_lambda=0.8,
        gamma=0.98,
        n_epochs=20,
        learning_rate=LinearSchedule(0.001, 0.0, 1.0),
        clip_range=LinearSchedule(0.2, 0.0, 1.0),
    ),
    "Pendulum-v1": dict(
        n_steps=1024,
        gae_lambda=0.95,
        gamma=0.9,
        n_epochs=10,
        learning_rate=0.001,
        clip_range=0.2,
        use_sde=True,
        sde_sample_freq=4,
    ),
}
N_ENVS = {"CartPole-v1": 8, "Pendulum-v1": 4}
VARIANTS: dict[str, dict[str, Any] | None] = {
    "RecurrentPPO": None,
    "defaults": {},
    "PopArt": dict(normalize_returns=True, use_popart=True),
}
# For a study of their own.
CRITICS = {name: learning.CRITICS[name] for name in ("kappa in stds", "clipped apart, mean and spread")}


class Cell(NamedTuple):
    """A run."""

    task: str
    variant: str
    seed: int


def hidden(task: str) -> gym.Env[Any, Any]:
    """:return: the task without velocities in its observations"""
    env, kept = gym.make(task), POSITIONS[task]
    space: Any = env.observation_space
    shown = gym.spaces.Box(space.low[kept], space.high[kept])
    return gym.wrappers.TransformObservation(env, lambda obs: obs[kept], shown)


def run(cell: Cell, steps: int) -> dict[str, Any]:
    """:return: a row of the CSV"""
    torch.set_num_threads(1)
    start = time.perf_counter()
    task, variant, seed = cell
    flags = {**VARIANTS, **CRITICS}[variant]

    # Train.
    env = VecNormalize(make_vec_env(lambda: hidden(task), N_ENVS[task], seed=seed), norm_reward=False)
    settings = dict(SETTINGS[task], seed=seed, device="cpu", policy_kwargs=NETWORK)
    model: Any
    if flags is None:
        from sb3_contrib import RecurrentPPO

        model = RecurrentPPO("MlpLstmPolicy", env, **settings)
    else:
        from distributional_ppo import RecurrentDistributionalPPO

        model = RecurrentDistributionalPPO("MlpLstmPolicy", env, **settings, **flags)
    model.learn(steps)

    # Score the final policy.
    test = VecNormalize(make_vec_env(lambda: hidden(task), 5, seed=10_000 + seed), training=False, norm_reward=False)
    sync_envs_normalization(env, test)
    score, _ = evaluate_policy(model, test, n_eval_episodes=50)

    minutes = (time.perf_counter() - start) / 60
    return {**cell._asdict(), "score": f"{score:.6g}", "minutes": f"{minutes:.2f}"}


def read(path: Path) -> dict[tuple[str, str, int], float]:
    """:return: scores by task, variant and seed"""
    if not path.exists():
        return {}
    with path.open() as file:
        return {(row["task"], row["variant"], int(row["seed"])): float(row["score"]) for row in csv.DictReader(file)}


def table(scores: dict[tuple[str, str, int], float]) -> str:
    """:return: Markdown: mean scores, and differences to RecurrentPPO of the same seeds with their interval"""
    lines = ["| task | variant | seeds | mean return | minus RecurrentPPO |", "|---|---|---|---|---|"]
    for task, variant in itertools.product(SETTINGS, {**VARIANTS, **CRITICS}):
        of_variant = {key[2]: score for key, score in scores.items() if key[:2] == (task, variant)}
        of_peer = {key[2]: score for key, score in scores.items() if key[:2] == (task, "RecurrentPPO")}
        if not of_variant:
            continue

        differences = [score - of_peer[seed] for seed, score in of_variant.items() if seed in of_peer]
        text = "" if variant == "RecurrentPPO" else _interval(differences)
        mean = statistics.fmean(of_variant.values())
        lines.append(f"| {task} | {variant} | {len(of_variant)} | {mean:.1f} | {text} |")
    return "\n".join(lines)


def _interval(differences: list[float]) -> str:
    """Their mean and its 95 % t interval; "" of fewer than two."""
    number = len(differences)
    if number < 2:
        return ""
    mean = statistics.fmean(differences)
    half = float(stats.t.ppf(0.975, number - 1)) * statistics.stdev(differences) / math.sqrt(number)
    return f"{mean:+.1f} [{mean - half:+.1f}, {mean + half:+.1f}]"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=STEPS, help="of each run; other than the default: for a try")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RUNS)
    parser.add_argument("--variants", nargs="+", choices=[*VARIANTS, *CRITICS], default=list(VARIANTS))
    options = parser.parse_args(arguments)

    runs = itertools.product(range(options.seeds), SETTINGS, options.variants)
    wanted = [Cell(task, variant, seed) for seed, task, variant in runs]
    run_missing(options.output, wanted, functools.partial(run, steps=options.steps), options.processes)
    print(table(read(options.output)))


if __name__ == "__main__":
    main()
