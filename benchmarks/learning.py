"""
Does DistributionalPPO learn as SB3's PPO does, and at any scale of the rewards? One row per run in a CSV.

    pip install -c constraints.txt -e ".[market,test,bench]"
    python benchmarks/learning.py                # runs what the CSV lacks, then writes the tables and pictures
    python benchmarks/learning.py --seeds 0      # only the tables and pictures of the runs there are
    python benchmarks/learning.py --critics FILE --tasks CartPole-v1 --seeds 20    # runs of CRITICS, in a CSV of theirs

A run is scored by the mean return of 50 deterministic episodes of its final policy, in the rewards of the task. Its
settings are those of learning.yaml; nothing else is changed but what the variant names. The curve is the mean return of
the training episodes that ended in each twentieth of the run.
"""

from __future__ import annotations

import argparse
import inspect
import itertools
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import yaml
from scipy import stats
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks.results import markdown, with_tables
from distributional_ppo import DistributionalPPO
from market_regimes.compare.statistics import interquartile_mean, interval
from market_regimes.run.algorithm import python_values
from upgd import AdaptiveUPGD

ROOT = Path(__file__).parent.parent
CELLS = Path(__file__).with_suffix(".csv")
SETTINGS: dict[str, dict[str, Any]] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text())
BINS = 20
SEEDS = 5  # that the tables and pictures need


def recommended() -> dict[str, Any]:
    """What PPO does not have of configs/recommended.yaml over configs/train.yaml: flags and the number of quantiles."""
    flags: dict[str, Any] = {}
    for name in ("train", "recommended"):
        flags |= yaml.safe_load((ROOT / "configs" / f"{name}.yaml").read_text())["algorithm"]

    of_ppo = inspect.signature(PPO).parameters
    ours = {name: value for name, value in flags.items() if name not in of_ppo}
    return ours | dict(policy_kwargs=dict(n_quantiles=flags["policy_kwargs"]["n_quantiles"]))


OFF = dict(use_variance_gradient_scaling=False)
NORMALIZED = dict(normalize_returns=True)
POPART = dict(normalize_returns=True, use_popart=True)
VARIANTS: dict[str, dict[str, Any] | None] = {
    "SB3 PPO": None,
    "defaults": {},
    "scaling off": OFF,
    "PopArt": POPART,
    "recommended": recommended(),
}
SYSTEMS: dict[str, dict[str, Any]] = {
    "normalised": NORMALIZED,
    "normalised, scaling off": NORMALIZED | OFF,
    "PopArt, scaling off": POPART | OFF,
    "clipped": POPART | OFF | dict(clip_range_vf=0.2, clip_range_vf_units="std"),
    "twin critics": OFF | dict(use_twin_critics=True),
    "DSAC-T weights": POPART | dict(variance_scaling_mode="dsac_t"),
    "sr_lambda": OFF | dict(value_target="sr_lambda"),
    "AdaptiveUPGD": OFF | dict(policy_kwargs=dict(optimizer_class=AdaptiveUPGD)),
}
APART = dict(gradient_clipping="apart")
# For a study of their own: PPO clipped apart, which is one quantile by its squared error, is the control.
CRITICS: dict[str, dict[str, Any]] = {
    "PPO, clipped apart": APART | OFF | dict(critic_loss="mean_and_spread", policy_kwargs=dict(n_quantiles=1)),
    "clipped apart": APART,
    "mean and spread": dict(critic_loss="mean_and_spread"),
    "clipped apart, mean and spread": APART | dict(critic_loss="mean_and_spread"),
    "clipped apart, mean and spread, kappa 0.1": APART | dict(critic_loss="mean_and_spread", quantile_huber_kappa=0.1),
    "kappa in stds": dict(quantile_huber_kappa_units="std"),
    "PopArt, clipped apart": POPART | APART,
    "PopArt, clipped apart, mean and spread": POPART | APART | dict(critic_loss="mean_and_spread"),
    # With a larger weight the critic's gradients reach the clip in normalised units, too (docs/method.md).
    "PopArt, clipped apart, mean and spread, vf_coef 5": POPART
    | APART
    | dict(critic_loss="mean_and_spread", vf_coef=5.0),
}
SCALED_TASKS = ["CartPole-v1", "Pendulum-v1", "Acrobot-v1, raw rewards"]
TASKS = [task for task in SETTINGS if task != "Acrobot-v1, raw rewards"]
SCALED_VARIANTS = ["SB3 PPO", "PopArt"]
EXPONENTS = [-10, -5, 0, 5, 10]
SYSTEM_TASKS = ["CartPole-v1", "Pendulum-v1"]
COLORS = ["black", "tab:blue", "tab:cyan", "tab:orange", "tab:red"]


class Cell(NamedTuple):
    """A run: its rewards are multiplied by 2**exponent."""

    task: str
    variant: str
    exponent: int
    seed: int


def cells(seeds: int) -> list[Cell]:
    """All runs, those first that answer most."""
    runs = [Cell(*key) for key in itertools.product(TASKS, ["SB3 PPO", "defaults"], [0], range(seeds))]
    runs += [Cell(*key) for key in itertools.product(SCALED_TASKS, SCALED_VARIANTS, EXPONENTS, range(seeds))]
    runs += [Cell(*key) for key in itertools.product(TASKS, VARIANTS, [0], range(seeds))]
    runs += [Cell(*key) for key in itertools.product(SYSTEM_TASKS, SYSTEMS, [0], range(seeds))]
    return list(dict.fromkeys(runs))


def critic_cells(tasks: Sequence[str], variants: Sequence[str], seeds: int) -> list[Cell]:
    """Runs of the study of critics, seed by seed, so that what is done is paired."""
    return [Cell(task, variant, 0, seed) for seed, task, variant in itertools.product(range(seeds), tasks, variants)]


class Curve(BaseCallback):
    """Keeps when each training episode ended and its return, before any normalisation."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.returns: list[list[float]] = [[] for _ in range(BINS)]

    def _on_step(self) -> bool:
        place = min(BINS - 1, (self.num_timesteps - 1) * BINS // self.steps)
        self.returns[place] += [info["episode"]["r"] for info in self.locals["infos"] if "episode" in info]
        return True

    def text(self) -> str:
        """Means, "nan" where no episode ended."""
        return " ".join(f"{np.mean(each):.4g}" if each else "nan" for each in self.returns)


def environment(task: str, exponent: int, seed: int, settings: dict[str, Any]) -> VecEnv:
    """
    Copies as the zoo makes them. Monitor is inside, so that it sees the rewards of the task.

    :param settings: of learning.yaml; what concerns the environment is taken out
    """
    env = make_vec_env(
        task.partition(",")[0],
        settings.pop("n_envs"),
        seed=seed,
        wrapper_class=gym.wrappers.TransformReward,  # type: ignore[arg-type]
        wrapper_kwargs=dict(func=lambda reward: float(reward) * 2.0**exponent),
    )
    normalize = settings.pop("normalize", None)
    if normalize is None:
        return env
    return VecNormalize(env, gamma=settings["gamma"], **({} if normalize is True else normalize))


def run_cell(cell: Cell) -> dict[str, Any]:
    """Train once and score the final policy."""
    torch.set_num_threads(1)
    torch.compiler.reset()  # a worker runs many cells, and a graph is compiled anew only so often
    warnings.simplefilter("ignore")

    # The settings of the task, those of the environment taken out.
    settings = dict(SETTINGS[cell.task])
    steps = settings.pop("n_timesteps")
    compiled = settings.pop("compile", False)
    env = environment(cell.task, cell.exponent, cell.seed, settings)
    settings = python_values(settings) | dict(seed=cell.seed, device="cpu")

    # Train.
    start = time.perf_counter()
    model: PPO
    flags = {**VARIANTS, **SYSTEMS, **CRITICS}[cell.variant]
    if flags is None:
        model = PPO("MlpPolicy", env, **settings)
    else:
        policy_kwargs = settings["policy_kwargs"] | flags.get("policy_kwargs", {})
        settings |= {**flags, "policy_kwargs": policy_kwargs}
        model = DistributionalPPO("MlpPolicy", env, compile=compiled, **settings)
    curve = Curve(steps)
    model.learn(steps, callback=curve)
    seconds = time.perf_counter() - start

    # Score the final policy in the rewards of the task.
    scored = make_vec_env(cell.task.partition(",")[0], 10, seed=10_000 + cell.seed)
    if isinstance(env, VecNormalize):
        scored = VecNormalize(scored, training=False, norm_reward=False)
        scored.obs_rms = env.obs_rms
    scores, _ = evaluate_policy(model, scored, n_eval_episodes=50, return_episode_rewards=True)
    score = {"steps": steps, "return": round(float(np.mean(scores)), 2), "seconds": round(seconds, 1)}
    return {**cell._asdict(), **score, "curve": curve.text()}


def run_missing(path: Path, todo: Sequence[Any], run: Callable[[Any], dict[str, Any]], workers: int) -> pd.DataFrame:
    """
    Run in processes the cells that a file lacks, and write it after each.

    :param path: CSV; need not exist
    :param todo: cells, whose fields are columns
    :param run: gives the row of a cell
    :param workers: processes
    :return: all rows
    :raises Exception: of the first cell that fails, after those that a process had been given; what is done is written
    """
    # The cells that the file has.
    fields = list(todo[0]._fields) if todo else []
    found = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=fields)
    done = set(found[fields].itertuples(index=False, name=None))

    # The others, as they end.
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    failed: list[BaseException] = []
    with ProcessPoolExecutor(workers) as pool:
        futures = [pool.submit(run, cell) for cell in todo if cell not in done]
        for future in as_completed(futures):
            if future.cancelled():
                continue
            error = future.exception()
            if error is not None:
                failed.append(error)
                for waiting in futures:  # they may take hours
                    waiting.cancel()
                continue

            row = future.result()
            print(*row.values(), flush=True)
            found = pd.DataFrame([*found.to_dict("records"), row])
            found.sort_values(fields).to_csv(path, index=False)

    if failed:
        raise failed[0]
    return found


def runs(found: pd.DataFrame, task: str, variant: str, exponent: int = 0) -> pd.DataFrame:
    """:return: those of a variant, by seed"""
    return found.query("task == @task and variant == @variant and exponent == @exponent").set_index("seed").sort_index()


def returns(found: pd.DataFrame, task: str, variant: str, exponent: int = 0) -> pd.Series[float]:
    """:return: scores by seed"""
    return runs(found, task, variant, exponent)["return"].astype(float)


def returns_while_training(found: pd.DataFrame, task: str, variant: str) -> pd.Series[float]:
    """:return: by seed the mean over the learning curve, which is larger the sooner a run has learnt"""
    rows = runs(found, task, variant)
    return pd.Series(np.nanmean(curves(rows), axis=1) if len(rows) else [], rows.index, dtype=float)


def curves(rows: pd.DataFrame) -> np.ndarray:
    """:return: mean return of training episodes in each twentieth, the last known where none ended, (runs, BINS)"""
    twentieths: np.ndarray = (
        pd.DataFrame([curve.split() for curve in rows["curve"]]).astype(float).ffill(axis=1).to_numpy()
    )
    return twentieths


def _number(value: float, sign: str = "") -> str:
    digits = 0 if abs(value) >= 100 else 1
    return f"{value:{sign},.{digits}f}"


def _iqm(scores: pd.Series[float], sign: str = "") -> str:
    """Interquartile mean and its 95 % interval; of differences (with a sign) bold where that does not hold 0."""
    bounds = interval(scores.to_numpy()[:, None], 0)
    if bounds is None or len(scores) < SEEDS:
        return "n/a"

    low, high = bounds
    middle = float(interquartile_mean(scores.to_numpy()))
    text = f"{_number(middle, sign)} [{_number(low, sign)}, {_number(high, sign)}]"
    if sign and not low <= 0 <= high:
        return f"**{text}**"
    return text


def learning_table(found: pd.DataFrame) -> str:
    """Markdown: PPO's scores, and what the others' differ from them, seed by seed."""
    rows = []
    for task in TASKS:
        base = returns(found, task, "SB3 PPO")
        row = {"task": task, "steps": f"{SETTINGS[task]['n_timesteps']:,}", "SB3 PPO": _iqm(base)}

        # Final returns.
        for variant in list(VARIANTS)[1:]:
            difference = returns(found, task, variant) - base
            row[f"{variant} - PPO"] = _iqm(difference.dropna(), sign="+")

        # Returns while training.
        sooner = returns_while_training(found, task, "defaults") - returns_while_training(found, task, "SB3 PPO")
        row["defaults - PPO, while training"] = _iqm(sooner.dropna(), sign="+")
        rows.append(row)
    return markdown(pd.DataFrame(rows))


def scale_table(found: pd.DataFrame) -> str:
    """Markdown: interquartile mean at each scale of the rewards, and in brackets its change from that at scale 1."""
    rows = []
    for task, variant in itertools.product(SCALED_TASKS, SCALED_VARIANTS):
        row = {"task": task, "": variant}
        unscaled = returns(found, task, variant)
        reference = float(interquartile_mean(unscaled.to_numpy()))

        for exponent in EXPONENTS:
            scores = returns(found, task, variant, exponent)
            value = float(interquartile_mean(scores.to_numpy()))
            change = f" ({(value - reference) / abs(reference):+.0%})" if exponent else ""
            is_whole = len(scores) and set(scores.index) == set(unscaled.index)
            row[f"2^{exponent}"] = f"{_number(value)}{change}" if is_whole else "n/a"
        rows.append(row)
    return markdown(pd.DataFrame(rows))


def systems_table(found: pd.DataFrame) -> str:
    """Markdown: the returns of all seeds, sorted, with each system of the class."""
    rows = []
    for task, variant in itertools.product(SYSTEM_TASKS, {**VARIANTS, **SYSTEMS}):
        scores = sorted(returns(found, task, variant), reverse=True)
        if scores:
            texts = ", ".join(f"{score:.0f}" for score in scores)
            rows.append({"task": task, "variant": variant, "returns, sorted": texts})
    return markdown(pd.DataFrame(rows))


def critics_table(found: pd.DataFrame, tasks: Sequence[str], variants: Sequence[str]) -> str:
    """
    Markdown: the others' return minus PPO's, seed by seed, while training and at the end; mean and 95 % t interval.

    Both are in % of the distance from PPO's mean to the worst twentieth of all runs.
    """
    rows = []
    for task in tasks:
        base = returns_while_training(found, task, "SB3 PPO")
        final = returns(found, task, "SB3 PPO")
        scores = {name: returns_while_training(found, task, name) for name in variants}
        worst = min(float(np.nanmin(curves(runs(found, task, name)))) for name in variants)
        for variant in variants:
            if variant == "SB3 PPO":
                continue
            sooner = 100 * (scores[variant] - base).dropna() / (base.mean() - worst)
            better = 100 * (returns(found, task, variant) - final).dropna() / (final.mean() - worst)
            row = {"task": task, "variant": variant, "seeds": len(sooner)}
            row |= {"while training, %": _t_interval(sooner), "final, %": _t_interval(better)}
            rows.append(row)
    return markdown(pd.DataFrame(rows))


def _t_interval(differences: pd.Series[float]) -> str:
    """Mean and half the width of its 95 % interval by Student's t; without it below two seeds."""
    if len(differences) < 2:
        return "n/a"
    half = stats.t.ppf(0.975, len(differences) - 1) * differences.sem()
    return f"{differences.mean():+.1f} ± {half:.1f}"


def learning_picture(found: pd.DataFrame, path: Path) -> None:
    """Learning curves: interquartile mean over the seeds, and its 95 % interval."""
    figure, axes = plt.subplots(2, 4, figsize=(14, 6), layout="constrained")
    for axis, task in zip(axes.flat, TASKS, strict=True):
        for variant, color in zip(VARIANTS, COLORS, strict=True):
            rows = runs(found, task, variant)
            if len(rows) < SEEDS:
                continue

            columns = curves(rows).T
            steps = (np.arange(BINS) + 1) / BINS * SETTINGS[task]["n_timesteps"]
            axis.plot(steps, interquartile_mean(columns), color=color, label=variant)
            bounds = [interval(column[:, None], 0) or (np.nan, np.nan) for column in columns]
            axis.fill_between(steps, *zip(*bounds, strict=True), color=color, alpha=0.12, linewidth=0)

        axis.set(title=task, xlabel="steps")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel("return of training episodes")
    axes[1, 0].set_ylabel("return of training episodes")
    axes[0, 0].legend(frameon=False, fontsize="small")
    figure.savefig(path, dpi=100)
    plt.close(figure)


def scale_picture(found: pd.DataFrame, path: Path) -> None:
    """Final returns over the scale of the rewards."""
    figure, axes = plt.subplots(1, len(SCALED_TASKS), figsize=(12, 3.4), layout="constrained")
    for axis, task in zip(axes, SCALED_TASKS, strict=True):
        for variant, color in zip(SCALED_VARIANTS, ("black", "tab:blue"), strict=True):
            scores = [returns(found, task, variant, exponent).to_numpy() for exponent in EXPONENTS]
            axis.plot(EXPONENTS, [interquartile_mean(each) for each in scores], "o-", color=color, label=variant)
            bounds = [interval(each[:, None], 0) or (np.nan, np.nan) for each in scores]
            axis.fill_between(EXPONENTS, *zip(*bounds, strict=True), color=color, alpha=0.12, linewidth=0)

        axis.set(title=task, xlabel="rewards times 2 to the power of")
        axis.set_xticks(EXPONENTS)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("return of the final policy")
    axes[0].legend(frameon=False, fontsize="small")
    figure.savefig(path, dpi=100)
    plt.close(figure)


def arguments(description: str | None, seeds: int) -> argparse.Namespace:
    """The command line of a benchmark that keeps cells."""
    return command_line(description, seeds).parse_args()


def command_line(description: str | None, seeds: int) -> argparse.ArgumentParser:
    """Its parser; pictures are drawn without a screen."""
    matplotlib.use("Agg")
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--workers", type=int, default=2)
    return parser


def study_of_critics(args: argparse.Namespace) -> None:
    """Run what the study's CSV lacks and print its table."""
    tasks = args.tasks or TASKS
    variants = args.variants or ["SB3 PPO", "defaults", *CRITICS]
    found = run_missing(args.critics, critic_cells(tasks, variants, args.seeds), run_cell, args.workers)
    print(critics_table(found, tasks, variants))


def main() -> None:
    parser = command_line(__doc__, seeds=SEEDS)
    parser.add_argument("--critics", type=Path, help="CSV of a study of CRITICS; nothing else is run or written")
    parser.add_argument("--tasks", nargs="+", choices=TASKS)
    parser.add_argument("--variants", nargs="+", choices=["SB3 PPO", "defaults", *CRITICS])
    args = parser.parse_args()
    if args.critics:
        study_of_critics(args)
        return

    found = run_missing(CELLS, cells(args.seeds), run_cell, args.workers)

    # The pages.
    docs = ROOT / "docs" / "learning.md"
    page = CELLS.with_name("README.md")
    tables = {"learning": learning_table(found), "scale": scale_table(found)}
    docs.write_text(with_tables(docs.read_text(), tables))
    page.write_text(with_tables(page.read_text(), {"systems": systems_table(found)}))

    # Their pictures.
    learning_picture(found, ROOT / "docs" / "learning.png")
    scale_picture(found, ROOT / "docs" / "scale.png")


if __name__ == "__main__":
    main()
