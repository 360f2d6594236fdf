"""The commands ``train`` and ``sanity``."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import jsonargparse

from market_regimes.commands.arguments import Parser
from market_regimes.commands.building import (
    check_unchanged,
    leave_fill_to_the_data,
    refusals,
    segments_of,
    start_or_resume,
    study_of,
)
from market_regimes.commands.evaluate import Runs, print_scores
from market_regimes.commands.several import n_started, together
from market_regimes.config import seeds_of
from market_regimes.files import new_folder, write_file
from market_regimes.market.segments import Segments
from market_regimes.run.study import Study
from quantile_critic.processes import rank

MAY_CHANGE = {"run.total_timesteps", "run.progress_bar", "market.data", "algorithm.device"}  # when a run is resumed
FAILURES = (ValueError, OSError, FloatingPointError, RuntimeError)  # that training raises with a sentence


def train(parser: Parser, config: jsonargparse.Namespace) -> None:
    """Train one run, or one per seed, and print its scores on the test period; in all processes of ``torchrun``."""
    if config.seeds and n_started() > 1:
        parser.error("--seeds trains one run after another, each in one process: leave torchrun or --seeds away")
    with together(parser, config):
        _train_and_score(parser, config)


def _train_and_score(parser: Parser, config: jsonargparse.Namespace) -> None:
    resume = config.pop("resume")
    start_or_resume(parser, config, resume, MAY_CHANGE)
    if config.seeds:
        runs = _train_seeds(parser, config, resume)
        print_scores(parser, runs, "test", next(iter(runs.values()))[1].parent, config.run.progress_bar)
    else:
        if resume is not None:
            leave_fill_to_the_data(config)
        study, folder = _train(parser, config, resume)
        if rank() == 0:
            print_scores(parser, {study.seed: (study, folder)}, "test", None, config.run.progress_bar)


def _train(
    parser: Parser, config: jsonargparse.Namespace, folder: Path | None, segments: Segments | None = None
) -> tuple[Study, Path]:
    """
    :param config: configuration of one run
    :param folder: run folder to resume, None: a new one
    :param segments: of its market, where they are read already
    :return: the trained run and its folder
    """
    study = study_of(parser, config, segments_of(parser, config) if segments is None else segments)
    text = parser.dump(config, skip_unset=False)
    with refusals(parser, FAILURES):
        if folder is None:
            return study, study.start(text)
        study.resume(folder, text)
        return study, folder


def _train_seeds(parser: Parser, config: jsonargparse.Namespace, resumed: Path | None) -> Runs:
    """One run folder per seed within the run's own; those that are there go on."""
    with refusals(parser):
        group = resumed or new_folder(config.run)
    group.mkdir(parents=True, exist_ok=True)
    configs = {seed: _of_seed(config, seed, group) for seed in seeds_of(config.seeds)}
    for one in configs.values():
        if (group / one.run.name).exists():
            check_unchanged(parser, one, group / one.run.name, MAY_CHANGE)
    if resumed is not None:
        leave_fill_to_the_data(config)
    segments = segments_of(parser, config)
    write_file(group / "config.yaml", parser.dump(config, skip_unset=False))
    runs: Runs = {}
    for seed in configs:
        one = _of_seed(config, seed, group)  # with what the data decided
        folder = group / one.run.name
        runs[seed] = _train(parser, one, folder if folder.exists() else None, segments)
    return runs


def _of_seed(config: jsonargparse.Namespace, seed: int, group: Path) -> jsonargparse.Namespace:
    """The configuration of one run of several."""
    one = config.clone()
    one.seeds = None
    one.algorithm.seed = seed
    one.run.out = str(group)
    one.run.name = f"seed-{seed}"
    return one


def sanity(parser: Parser, config: jsonargparse.Namespace) -> None:
    """Train a little, read the event file back, and exit with 1 if the scaling does not work as it should."""
    from market_regimes.run.sanity import (  # with TensorBoard's reader, for which train need not wait
        SANITY_STEPS,
        checks,
        print_checks,
    )

    if config.pop("resume") is not None:
        parser.error("sanity begins anew: leave --resume away")
    if config.seeds:
        parser.error("sanity trains one run: leave --seeds away, algorithm.seed is its seed")
    start_or_resume(parser, config, None, set(), "sanity")
    config.run.total_timesteps = SANITY_STEPS
    n_steps = min(config.algorithm.n_steps, max(2, math.ceil(SANITY_STEPS / (4 * config.run.n_envs))))
    if n_steps < config.algorithm.n_steps:
        print(f"algorithm.n_steps={n_steps} in place of {config.algorithm.n_steps}: sanity needs four updates")
    config.algorithm.n_steps = n_steps
    study, folder = _train(parser, config, None)
    if not print_checks(checks(folder, study.model), f"{folder}, {study.model.num_timesteps} steps"):
        sys.exit(1)
