"""The command ``train``."""

from __future__ import annotations

from pathlib import Path

import jsonargparse

from market_regimes.commands.configured_study import segments_of, study_of
from market_regimes.commands.evaluation_report import Runs, print_scores
from market_regimes.commands.parser import Parser
from market_regimes.commands.program import n_started
from market_regimes.commands.refusals import refusals
from market_regimes.commands.resume import check_unchanged, leave_fill_to_the_data, start_or_resume
from market_regimes.commands.torchrun import together
from market_regimes.config import seeds_of
from market_regimes.files import new_folder, write_file
from market_regimes.market.segments import Segments
from market_regimes.run.study import Study
from quantile_critic.processes import rank

MAY_CHANGE = {"run.total_timesteps", "run.progress_bar", "market.data", "algorithm.device"}  # when a run is resumed
FAILURES = (ValueError, OSError, FloatingPointError, RuntimeError)  # that training raises with a sentence


def train(parser: Parser, config: jsonargparse.Namespace) -> None:
    """
    Train one run, or one per seed, and print its scores on the test period; in all processes of ``torchrun``.

    :param parser: of the command
    :param config: of the run
    """
    if config.seeds and n_started() > 1:
        parser.error("--seeds trains one run after another, each in one process: leave torchrun or --seeds away")

    with together(parser, config):
        resume = config.pop("resume")
        start_or_resume(parser, config, resume, MAY_CHANGE)
        if config.seeds:
            _train_and_score_seeds(parser, config, resume)
        else:
            _train_and_score(parser, config, resume)


def _train_and_score(
    parser: Parser,
    config: jsonargparse.Namespace,
    resume: Path | None,
) -> None:
    if resume is not None:
        leave_fill_to_the_data(config)
    study, folder = train_run(parser, config, resume)
    if rank() == 0:
        print_scores(parser, {study.seed: (study, folder)}, "test", None, config.run.progress_bar)


def _train_and_score_seeds(
    parser: Parser,
    config: jsonargparse.Namespace,
    resume: Path | None,
) -> None:
    runs = _train_seeds(parser, config, resume)
    group = next(iter(runs.values()))[1].parent
    print_scores(parser, runs, "test", group, config.run.progress_bar)


def train_run(
    parser: Parser, config: jsonargparse.Namespace, folder: Path | None, segments: Segments | None = None
) -> tuple[Study, Path]:
    """
    :param parser: of the command
    :param config: configuration of one run
    :param folder: run folder to resume, None: a new one
    :param segments: of its market, where they are read already
    :return: the trained run and its folder
    """
    if segments is None:
        segments = segments_of(parser, config)
    study = study_of(parser, config, segments)

    # The folder keeps the configuration as it was resolved.
    text = parser.dump(config, skip_unset=False)
    with refusals(parser, FAILURES):
        if folder is None:
            return study, study.start(text)
        study.resume(folder, text)
        return study, folder


def _train_seeds(
    parser: Parser,
    config: jsonargparse.Namespace,
    resumed: Path | None,
) -> Runs:
    """Train one run per seed, each in a folder within the group's; runs that are there go on."""
    with refusals(parser):
        group = resumed or new_folder(config.run)
    group.mkdir(parents=True, exist_ok=True)
    seeds = seeds_of(config.seeds)

    # Refuse what changed in any run before one is trained.
    for seed in seeds:
        of_seed = _of_seed(config, seed, group)
        folder = group / of_seed.run.name
        if folder.exists():
            check_unchanged(parser, of_seed, folder, MAY_CHANGE)
    if resumed is not None:
        leave_fill_to_the_data(config)

    # The data are read once; the runs' configurations get what they decided.
    segments = segments_of(parser, config)
    write_file(group / "config.yaml", parser.dump(config, skip_unset=False))
    runs: Runs = {}
    for seed in seeds:
        of_seed = _of_seed(config, seed, group)
        folder = group / of_seed.run.name
        resumes = folder.exists()
        runs[seed] = train_run(parser, of_seed, folder if resumes else None, segments)
    return runs


def _of_seed(
    config: jsonargparse.Namespace,
    seed: int,
    group: Path,
) -> jsonargparse.Namespace:
    """The configuration of one run of several."""
    of_seed = config.clone()
    of_seed.seeds = None
    of_seed.algorithm.seed = seed
    of_seed.run.out = str(group)
    of_seed.run.name = f"seed-{seed}"
    return of_seed
