"""
Does DistributionalPPO learn as PPO does? RL Zoo settings, 100,000 steps, several seeds; one row per run in a CSV.

    python benchmarks/learning.py                # runs what the CSV lacks, then prints the table
    python benchmarks/learning.py --table        # only the table

A run is scored by the mean return of 50 deterministic episodes of its final policy. Settings: RL Baselines3 Zoo,
hyperparams/ppo.yml, for the two tasks; nothing else is changed but what the variant names.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
import warnings
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.utils import LinearSchedule

sys.path.insert(0, str(Path(__file__).parent.parent))
from distributional_ppo import DistributionalPPO
from upgd import AdaptiveUPGD

CELLS = Path(__file__).with_suffix(".csv")
STEPS = 100_000
TASKS: dict[str, dict[str, Any]] = {
    "CartPole-v1": dict(
        n_envs=8,
        n_steps=32,
        batch_size=256,
        n_epochs=20,
        gamma=0.98,
        gae_lambda=0.8,
        learning_rate=LinearSchedule(0.001, 0.0, 1.0),
        clip_range=LinearSchedule(0.2, 0.0, 1.0),
    ),
    "Pendulum-v1": dict(
        n_envs=4,
        n_steps=1024,
        batch_size=64,
        n_epochs=10,
        gamma=0.9,
        gae_lambda=0.95,
        learning_rate=1e-3,
        clip_range=0.2,
        use_sde=True,
        sde_sample_freq=4,
    ),
}
GOALS = {"CartPole-v1": 475.0, "Pendulum-v1": -200.0}
OFF = dict(use_variance_gradient_scaling=False)
NORMALIZED = dict(normalize_returns=True)
POPART = dict(normalize_returns=True, use_popart=True)
VARIANTS: dict[str, dict[str, Any] | None] = {
    "defaults": {},
    "scaling off": OFF,
    "normalised": NORMALIZED,
    "normalised, scaling off": NORMALIZED | OFF,
    "PopArt": POPART,
    "PopArt, scaling off": POPART | OFF,
    "clipped": POPART | OFF | dict(clip_range_vf=0.2, clip_range_vf_units="std"),
    "twin critics": OFF | dict(use_twin_critics=True),
    "DSAC-T weights": POPART | dict(variance_scaling_mode="dsac_t"),
    "sr_lambda": OFF | dict(value_target="sr_lambda"),
    "AdaptiveUPGD": OFF | dict(policy_kwargs=dict(optimizer_class=AdaptiveUPGD)),
    "SB3 PPO": None,
}


def run_cell(task: str, variant: str, seed: int) -> dict[str, Any]:
    """Train once and score the final policy."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    settings = dict(TASKS[task])
    env = make_vec_env(task, settings.pop("n_envs"), seed=seed)
    flags = VARIANTS[variant]
    start = time.perf_counter()
    if flags is None:
        model = PPO("MlpPolicy", env, seed=seed, device="cpu", **settings)
    else:
        model = DistributionalPPO("MlpPolicy", env, seed=seed, device="cpu", **settings, **flags)
    model.learn(STEPS)
    seconds = time.perf_counter() - start
    returns, _ = evaluate_policy(
        model, make_vec_env(task, 10, seed=10_000 + seed), n_eval_episodes=50, return_episode_rewards=True
    )
    return {
        "task": task,
        "variant": variant,
        "seed": seed,
        "return": round(float(np.mean(returns)), 2),
        "seconds": round(seconds, 1),
    }


def table(cells: pd.DataFrame) -> str:
    """Markdown: per task and variant the returns of all seeds, sorted, and how many reach the goal."""
    lines = ["| task | variant | returns, sorted | at the goal |", "|---|---|---|---|"]
    for task, variant in itertools.product(TASKS, VARIANTS):
        returns = sorted(cells.query("task == @task and variant == @variant")["return"], reverse=True)
        reached = sum(value >= GOALS[task] for value in returns)
        lines.append(
            f"| {task} | {variant} | {', '.join(f'{value:.0f}' for value in returns)} | {reached} of {len(returns)} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="print the table of the runs there are")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    cells = (
        pd.read_csv(CELLS) if CELLS.exists() else pd.DataFrame(columns=["task", "variant", "seed", "return", "seconds"])
    )
    done = set(cells[["task", "variant", "seed"]].itertuples(index=False, name=None))
    todo = [cell for cell in itertools.product(TASKS, VARIANTS, range(args.seeds)) if cell not in done]
    if todo and not args.table:
        with ProcessPoolExecutor(args.workers) as pool:
            for future in as_completed([pool.submit(run_cell, *cell) for cell in todo]):
                print(future.result(), flush=True)
                cells = pd.concat([cells, pd.DataFrame([future.result()])], ignore_index=True)
                cells.sort_values(["task", "variant", "seed"]).to_csv(CELLS, index=False)
    print(table(cells))


if __name__ == "__main__":
    main()
