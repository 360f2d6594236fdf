"""The command ``evaluate``, and the scores that ``train`` ends with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonargparse

from market_regimes.commands.arguments import Parser
from market_regimes.commands.building import (
    UNREADABLE,
    leave_fill_to_the_data,
    parsed,
    refusals,
    segments_of,
    study_of,
)
from market_regimes.commands.progress import Tell, working
from market_regimes.commands.report import report
from market_regimes.config import CheckpointName, PeriodName, seeds_of
from market_regimes.evaluate.evaluation import name_of
from market_regimes.market.segments import Segment, Segments
from market_regimes.run.agent import Agent
from market_regimes.run.folder import acting_device
from market_regimes.run.inputs import is_recurrent
from market_regimes.run.study import Study
from market_regimes.run.trained import (
    filled_otherwise,
    notes_on_counterparts,
    notes_on_missing_targets,
    notes_on_training_days,
    trained_on,
)

Runs = dict[int | None, tuple[Study, Path]]  # by seed, each with its folder


def evaluate(parser: Parser, options: jsonargparse.Namespace) -> None:
    """Score a run, or the runs of several seeds, on a period of their own or on other bars."""
    group = None if (options.folder / "run.json").exists() else options.folder
    if options.data or options["from"] or options.to or options.like:
        _evaluate_on(parser, options, group)
    else:
        runs = _runs_in(parser, options.folder, options.checkpoint, options.market.data, options.device)
        print_scores(parser, runs, options.period or "test", group, options.progress_bar)


def _runs_in(
    parser: Parser,
    folder: Path,
    which: CheckpointName,
    data: str | list[str] | None = None,
    device: str | None = None,
    segments: Segments | None = None,
) -> Runs:
    """
    :param folder: of one run, or of one per seed
    :param which: checkpoint of each
    :param data: where the run's data are by now, None: where they were
    :param device: to act on, None: the runs' own
    :param segments: of the market, where they are read already
    :return: per seed the run, with its parameters, and its folder
    """
    if not (folder / "config.yaml").exists():
        parser.error(f"{folder} is no run folder: it has no config.yaml")
    config = parsed(parser, ["--config", str(folder / "config.yaml")])
    config.market.data = config.market.data if data is None else data
    leave_fill_to_the_data(config)
    segments = segments_of(parser, config) if segments is None else segments
    if config.seeds:
        runs: Runs = {}
        for seed in seeds_of(config.seeds):
            if (folder / f"seed-{seed}").exists():
                runs |= _runs_in(parser, folder / f"seed-{seed}", which, data, device, segments)
            else:
                print(f"seed {seed} is not trained: train --resume {folder} does it")
        return runs
    with refusals(parser, UNREADABLE):
        config.algorithm.device = acting_device(folder, config.algorithm.device, device)
    study = study_of(parser, config, segments)
    with refusals(parser, UNREADABLE):
        study.load(folder, which)
    return {config.algorithm.seed: (study, folder)}


def print_scores(parser: Parser, runs: Runs, period: PeriodName, group: Path | None, progress_bar: bool = True) -> None:
    """Score runs on a period of their own and print."""
    if not runs:
        parser.error(f"{group} holds no trained run")
    study = next(iter(runs.values()))[0]
    on_market = study.core is not None
    if not on_market and period != "test":
        parser.error("--period is one of the market's; other environments play new episodes")
    scored = {}
    for seed, (one, folder) in runs.items():
        with working(f"{folder.name}, {period}", progress_bar) as tell:
            scored[seed] = folder, one.evaluate(folder, period, within(folder, tell))
    notes = notes_on_training_days(study.segments[period], trained_on(study.segments)) if on_market else []
    first = first_day(study.segments[period]) if on_market and is_recurrent(study.model) else None
    report(scored, period, group, notes, on_market, first)


def first_day(segments: Sequence[Segment]) -> str:
    """:return: the first day whose return is earned, ISO date"""
    return str(min(segment.market.dates[segment.first + 1] for segment in segments).astype("M8[D]"))


def _own_entries(agent: Agent, moved: str | list[str] | None) -> list[str]:
    """The run's own data, or the place where they are by now."""
    market = agent.configured.market
    return market.entries if moved is None else replace(market, data=moved).entries


def within(folder: Path, tell: Tell) -> Tell:
    """:return: a function that names the run beside what is being done"""
    return lambda words: tell(f"{folder.name}: {words}")


def _evaluate_on(parser: Parser, options: jsonargparse.Namespace, group: Path | None) -> None:
    """Score runs on other bars or days than those of their periods and print."""
    if options.data and options.market.data is not None:
        parser.error("--data names other bars, --market.data where the run's own are by now: give one of them")
    if options.period is not None:
        parser.error("--period names days of the run's own data: give it, or --data, --from and --to")
    folders = [options.folder] if group is None else sorted(group.glob("seed-*"))
    scored: dict[int | None, tuple[Path, dict[str, Any]]] = {}
    with refusals(parser, UNREADABLE):
        for folder in folders:
            agent = Agent.load(folder, options.checkpoint, options.device)
            entries = options.data or _own_entries(agent, options.market.data)
            segments = agent.segments(entries, (options["from"], options.to), options.like)
            name = name_of(options.data, segments)
            with working(f"{folder.name}, {name}", options.progress_bar) as tell:
                result = agent.evaluate(segments, folder, name, within(folder, tell))
            scored[agent.configured.algorithm.get("seed")] = folder, result
    if not scored:
        parser.error(f"{group} holds no trained run")
    notes = notes_on_counterparts(segments, agent.trained, options.like)
    notes += notes_on_training_days(segments, agent.trained)
    notes += notes_on_missing_targets(segments, agent.configured.market)
    notes += filled_otherwise(segments, agent.trading)
    report(scored, name, group, notes, True, first_day(segments) if agent.plays_bars() else None)
