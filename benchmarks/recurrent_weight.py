"""
Does mode "batch" act within an update where minibatches are few sequences? Three cases on the S&P 500: no LSTM; an
LSTM with 8 environments, whose minibatch is of one; an LSTM with 128 as in configs/recurrent.yaml, where it is of 64.

    python benchmarks/recurrent_weight.py --seeds 3        # 9 runs of 20,480 steps, 3 minutes on one core

Settings are those of configs/compare.yaml and its variant "recurrent". The weight's spread is its largest over its
smallest value among the minibatches of an update, the median over the updates after the first fifth.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import torch
import yaml
from stable_baselines3.common.callbacks import BaseCallback

from market_regimes.compare.measurements import WARM_UP
from market_regimes.config import MarketConfig, RunConfig
from market_regimes.market.segments import segments_of
from market_regimes.run.study import Study

COMPARE = yaml.safe_load((Path(__file__).parents[1] / "configs/compare.yaml").read_text("utf-8"))
STEPS = 20_480
MARKET = MarketConfig(data="sp500", train=("1999-01-04", "2010-12-01"))
RECURRENT: dict[str, Any] = COMPARE["variants"]["recurrent"]
POLICIES: dict[str, dict[str, Any]] = {
    "MlpPolicy": {"policy": "MlpPolicy"},
    "MlpLstmPolicy, 8 environments": {"policy": "MlpLstmPolicy", "policy_kwargs": RECURRENT["policy_kwargs"]},
    "MlpLstmPolicy, 128 environments": RECURRENT,
}


class Spread(BaseCallback):
    """Notes the largest over the smallest weight of every update."""

    def __init__(self) -> None:
        super().__init__()
        self.ratios: list[float] = []

    def _on_rollout_start(self) -> None:
        scalars = self.logger.name_to_value
        if "train/variance_scaling_weight_min" in scalars:
            low = scalars["train/variance_scaling_weight_min"]
            high = scalars["train/variance_scaling_weight_max"]
            self.ratios.append(high / low)

    _on_training_end = _on_rollout_start

    def _on_step(self) -> bool:
        return True


def run(policy: str, seed: int) -> float:
    """:return: the weight's spread within an update"""
    # Settings of the comparison, over which those of the policy lie.
    settings = dict(POLICIES[policy])
    n_envs = settings.pop("n_envs", COMPARE["run"]["n_envs"])
    policy_kwargs = {**COMPARE["algorithm"]["policy_kwargs"], **settings.get("policy_kwargs", {})}
    algorithm = {**COMPARE["algorithm"], **settings, "policy_kwargs": policy_kwargs, "seed": seed}
    algorithm["use_variance_gradient_scaling"] = True

    # Train, and leave out the first updates.
    study = Study(RunConfig(total_timesteps=STEPS, n_envs=n_envs), MARKET, algorithm, segments_of(MARKET, ("train",)))
    spread = Spread()
    study.model.learn(STEPS, spread)
    first = int(WARM_UP * len(spread.ratios))
    return statistics.median(spread.ratios[first:])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args(arguments)

    torch.set_num_threads(1)
    print("| policy | largest over smallest weight of an update |")
    print("|---|---|", flush=True)
    for policy in POLICIES:
        spreads = ", ".join(f"{run(policy, seed):.2f}" for seed in range(options.seeds))
        print(f"| {policy} | {spreads} |", flush=True)


if __name__ == "__main__":
    main()
