"""Evaluations of runs as ``train`` and ``evaluate`` end with them: scored, printed, with what can be done next."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from market_regimes.commands.parser import Parser
from market_regimes.commands.program import program
from market_regimes.commands.progress import Tell, working
from market_regimes.commands.refusals import refusals
from market_regimes.config import ArgumentError, PeriodName
from market_regimes.evaluate.question import AS_TRAINED, Question
from market_regimes.evaluate.robustness import over_seeds
from market_regimes.evaluate.tables import print_seeds, print_summary
from market_regimes.evaluate.verdict import verdict_of, verdict_of_seeds
from market_regimes.files import write_file
from market_regimes.market.segment import Segment
from market_regimes.run.inputs import is_recurrent
from market_regimes.run.study import Study
from market_regimes.run.trained import notes_on_training_days, trained_on

Runs = dict[int | None, tuple[Study, Path]]  # by seed, each with its folder


@dataclass(frozen=True)
class Evaluated:
    """
    Runs that were evaluated on one period.

    :param results: per seed the run folder and the result of its evaluation
    :param period: its name
    :param group: folder of the runs of several seeds, None: there is one run
    :param on_market: whether the runs are on a market
    :param notes: sentences that belong to the verdict
    :param first: day from which a signal must play the bars to equal this evaluation; None: any past gives the same
    :param question: that was asked of the runs
    """

    results: dict[int | None, tuple[Path, dict[str, Any]]]
    period: str
    group: Path | None
    on_market: bool = True
    notes: list[str] = field(default_factory=list)
    first: str | None = None
    question: Question = AS_TRAINED

    @property
    def name(self) -> str:
        """Name of the period and the question, in file names and titles."""
        return self.question.name_of(self.period)


def print_scores(
    parser: Parser,
    runs: Runs,
    period: PeriodName,
    group: Path | None,
    progress_bar: bool = True,
    question: Question = AS_TRAINED,
) -> None:
    """
    Score runs on a period of their own and print.

    :param parser: refuses what cannot be scored
    :param runs: trained
    :param period: of their market
    :param group: folder of the runs of several seeds, None: there is one run
    :param progress_bar: whether to show what is being done
    :param question: costs, fill and delay in place of the runs'
    """
    if not runs:
        parser.error(f"{group} holds no trained run")
    first_study = next(iter(runs.values()))[0]

    # Other environments have no periods.
    on_market = first_study.core is not None
    if not on_market and period != "test":
        parser.error("--period is one of the market's; other environments play new episodes")
    if not on_market and question.is_asked:
        parser.error(
            "--fee, --slippage, --fill, --delay and --costs are asked of runs on a market; leave them out here"
        )

    # Every run writes its own files.
    results = {}
    for seed, (study, folder) in runs.items():
        with working(f"{folder.name}, {period}", progress_bar) as tell, refusals(parser, (ArgumentError,)):
            results[seed] = folder, study.evaluate(folder, period, within(folder, tell), question)
    if not on_market:
        print_evaluated(Evaluated(results, period, group, on_market=False))
        return

    # On a market the verdict has its notes, and a recurrent policy the day on which its signals begin.
    segments = first_study.segments[period]
    notes = notes_on_training_days(segments, trained_on(first_study.segments))
    first = first_day(segments) if is_recurrent(first_study.model) else None
    print_evaluated(Evaluated(results, period, group, True, notes, first, question))


def within(folder: Path, tell: Tell) -> Tell:
    """
    :param folder: of a run
    :param tell: shows what is being done
    :return: a function that names the run, too
    """
    return lambda words: tell(f"{folder.name}: {words}")


def first_day(segments: Sequence[Segment]) -> str:
    """
    :param segments: of a period
    :return: the first day whose return is earned, ISO date
    """
    return str(min(segment.market.dates[segment.first + 1] for segment in segments).astype("M8[D]"))


def print_evaluated(evaluated: Evaluated) -> None:
    """
    Print the verdict, the tables, the files and what can be done next; of several seeds their summary, which is written
    as well.

    :param evaluated: the runs with their results
    """
    if evaluated.question.is_asked:
        print(evaluated.question.sentence)
    if evaluated.group is None:
        _print_run(evaluated)
    else:
        _print_group(evaluated, evaluated.group)
    _print_next(evaluated)


def _print_run(evaluated: Evaluated) -> None:
    folder, result = next(iter(evaluated.results.values()))
    _print_verdict(verdict_of(result), evaluated.notes)
    print_summary(result, title=f"{folder}, step {result['step']}, {evaluated.name}")
    print(f"{folder}: {', '.join(_files_of(evaluated))}")


def _print_group(evaluated: Evaluated, group: Path) -> None:
    """Print the runs of several seeds, and write their summary and their verdict."""
    name = evaluated.name
    results = {seed: result for seed, (_, result) in evaluated.results.items()}
    verdict = verdict_of_seeds(results.values())
    _print_verdict(verdict, evaluated.notes)

    write_file(group / f"seeds-{name}.json", json.dumps(results, indent=2))
    print_seeds(results, title=f"{group}, {name}")

    # The verdict is a file of figures, too.
    written = [f"seeds-{name}.json"]
    if evaluated.on_market:
        summary = {"verdict": verdict, **over_seeds(results.values())}
        write_file(group / f"verdict-{name}.json", json.dumps(summary, indent=2))
        written.append(f"verdict-{name}.json")
    print(f"{group}: {', '.join(written)}; in each seed's folder: {', '.join(_files_of(evaluated))}")


def _print_verdict(verdict: str, notes: Sequence[str]) -> None:
    print(verdict)
    for sentence in notes:
        print(sentence)


def _files_of(evaluated: Evaluated) -> list[str]:
    """Names of the files that the evaluation of one run wrote."""
    name = evaluated.name
    if not evaluated.on_market:
        return [f"evaluation-{name}.json"]

    # Shared cash has a table of its account.
    result = next(iter(evaluated.results.values()))[1]
    of_account = [f"account-{name}.csv", f"weights-{name}.png"] if "account" in result else []
    of_costs = [f"costs-{name}.png"] if "costs" in result else []
    return [
        f"evaluation-{name}.json",
        *of_account,
        f"positions-{name}.csv",
        f"trades-{name}.csv",
        f"tearsheet-{name}.html",
        f"equity-{name}.png",
        f"returns-{name}.png",
        *of_costs,
    ]


def _print_next(evaluated: Evaluated) -> None:
    """Print the commands that follow."""
    folder = next(iter(evaluated.results.values()))[0]
    evaluated_folder = evaluated.group or folder
    logged = evaluated.group or folder.parent

    print("next:")
    if evaluated.on_market:
        played = "" if evaluated.first is None else f" --from {evaluated.first}"
        print(f"  {program()} signal {shlex.quote(str(folder))} --data FILE{played}")
        print(f"  {program()} evaluate {shlex.quote(str(evaluated_folder))} --data FILE --from DATE --to DATE")
    print(f"  tensorboard --logdir {shlex.quote(str(logged))}")
