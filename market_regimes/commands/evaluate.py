"""The command ``evaluate``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonargparse

from market_regimes.commands.configuration import parsed
from market_regimes.commands.configured_study import segments_of, study_of
from market_regimes.commands.evaluation_report import Evaluated, Runs, first_day, print_evaluated, print_scores, within
from market_regimes.commands.parser import Parser
from market_regimes.commands.progress import working
from market_regimes.commands.refusals import UNREADABLE, refusals
from market_regimes.commands.resume import leave_fill_to_the_data
from market_regimes.config import seeds_of
from market_regimes.evaluate.evaluation import name_of
from market_regimes.evaluate.question import Question
from market_regimes.market.describe import without_group
from market_regimes.market.segments import Segments
from market_regimes.run.agent import Agent
from market_regimes.run.folder import acting_device
from market_regimes.run.trained import (
    filled_otherwise,
    notes_on_counterparts,
    notes_on_missing_targets,
    notes_on_training_days,
)


def evaluate(parser: Parser, options: jsonargparse.Namespace) -> None:
    """
    Score a run, or the runs of several seeds, on a period of their own or on other bars.

    :param parser: of ``train``
    :param options: of the command
    """
    group = None if (options.folder / "run.json").exists() else options.folder
    with refusals(parser, UNREADABLE):
        question = Question(options.fee, options.slippage, options.fill, options.delay, tuple(options.costs))
    if options.data or options["from"] or options.to or options.like:
        _evaluate_on_bars(parser, options, group, question)
        return
    runs = _runs_in(parser, options, options.folder)
    print_scores(parser, runs, options.period or "test", group, options.progress_bar, question)


def _runs_in(
    parser: Parser,
    options: jsonargparse.Namespace,
    folder: Path,
    segments: Segments | None = None,
) -> Runs:
    """
    :param parser: of ``train``
    :param options: of the command: checkpoint, device, and the place of the runs' data
    :param folder: of one run, or of one per seed
    :param segments: of the market, where they are read already
    :return: per seed the run, with its parameters, and its folder
    """
    if not (folder / "config.yaml").exists():
        parser.error(f"{folder} is no run folder: it has no config.yaml")

    # The run as it was configured, on data that may have moved.
    config = parsed(parser, ["--config", str(folder / "config.yaml")])
    if options.market.data is not None:
        config.market.data = options.market.data
    leave_fill_to_the_data(config)
    if segments is None:
        segments = segments_of(parser, config)

    # The folder of several seeds has a run folder per seed.
    if config.seeds:
        runs: Runs = {}
        for seed in seeds_of(config.seeds):
            if (folder / f"seed-{seed}").exists():
                runs |= _runs_in(parser, options, folder / f"seed-{seed}", segments)
            else:
                print(f"seed {seed} is not trained: train --resume {folder} does it")
        return runs

    # A run acts on the device that it is found on.
    with refusals(parser, UNREADABLE):
        config.algorithm.device = acting_device(folder, config.algorithm.device, options.device)
    study = study_of(parser, config, segments)
    with refusals(parser, UNREADABLE):
        study.load(folder, options.checkpoint)
    return {config.algorithm.seed: (study, folder)}


def _evaluate_on_bars(
    parser: Parser,
    options: jsonargparse.Namespace,
    group: Path | None,
    question: Question,
) -> None:
    """Score runs on other bars or days than those of their periods and print."""
    if options.data and options.market.data is not None:
        parser.error("--data names other bars, --market.data where the run's own are by now: give one of them")
    if options.period is not None:
        parser.error("--period names days of the run's own data: give it, or --data, --from and --to")

    # Each agent by itself, without its training data.
    folders = [options.folder] if group is None else sorted(group.glob("seed-*"))
    results: dict[int | None, tuple[Path, dict[str, Any]]] = {}
    with refusals(parser, UNREADABLE):
        for folder in folders:
            agent = Agent.load(folder, options.checkpoint, options.device)
            entries = options.data or _entries_of_run(agent, options.market.data)

            segments = agent.segments(entries, (options["from"], options.to), options.like)
            name = name_of(options.data, segments)
            with working(f"{folder.name}, {name}", options.progress_bar) as tell:
                result = agent.evaluate(segments, folder, name, within(folder, tell), question)
            results[agent.configured.algorithm.get("seed")] = folder, result
    if not results:
        parser.error(f"{group} holds no trained run")

    # Of several seeds all have seen the same bars.
    notes = [
        *notes_on_counterparts(segments, agent.trained, options.like),
        *notes_on_training_days(segments, agent.trained),
        *notes_on_missing_targets(segments, agent.configured.market),
        *(filled_otherwise(segments, agent.trading) if question.fill is None else []),
        *without_group(agent.limits, [segment.market.symbol for segment in segments]),
    ]
    first = first_day(segments) if agent.plays_bars() else None
    print_evaluated(Evaluated(results, name, group, True, notes, first, question))


def _entries_of_run(agent: Agent, moved: str | list[str] | None) -> list[str]:
    """The run's own data, or the place where they are by now."""
    market = agent.configured.market
    if moved is None:
        return market.entries
    return replace(market, data=moved).entries
