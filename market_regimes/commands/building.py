"""From what a user gave to a run: parsed, checked, built. What is refused ends the program in one sentence."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import jsonargparse
from gymnasium.error import Error as GymnasiumError

from market_regimes.commands.arguments import Parser, check_flags, values_of
from market_regimes.config import ArgumentError, PeriodName
from market_regimes.files import found_from_anywhere, stamped
from market_regimes.market.describe import notes_of, warnings_of
from market_regimes.market.segments import Segments, read_data
from market_regimes.run.study import Study

# What constructors raise on values they refuse; anything else is a mistake of ours and shows its traceback.
REFUSALS = (ValueError, TypeError, AssertionError, ArithmeticError, OSError, RuntimeError, ImportError, GymnasiumError)
# Arguments of the Python interface by their flags.
FLAGS = {"like": "--like", "first": "--from", "last": "--to", "position": "--position", "prices": "--data"}
FLAGS |= {name: f"--{name}" for name in ("device", "zone", "resume")}
UNREADABLE = (ValueError, OSError)  # what reading a run or a file raises


@contextmanager
def refusals(parser: Parser, kinds: tuple[type[Exception], ...] = REFUSALS) -> Iterator[None]:
    """
    End the program in one sentence where what stands within raises; a closed pipe is passed on.

    :param parser: says it
    :param kinds: of exceptions whose message is the sentence; of ``REFUSALS`` all but a ValueError are named in it
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except ArgumentError as error:
        parser.error(error.sentence(lambda argument: FLAGS[argument]))
    except kinds as error:
        is_sentence = str(error) and (kinds is not REFUSALS or isinstance(error, ValueError))
        parser.error(str(error) if is_sentence else f"{type(error).__name__}: {error}")


def instantiated(parser: Parser, config: jsonargparse.Namespace) -> Any:
    """
    :param parser: of ``train``
    :param config: of a run
    :return: its sections as objects, ``run`` and ``market`` as their dataclasses; what these refuse ends the program
    """
    for section in ("run", "market", "market.trading", "algorithm", "algorithm.policy_kwargs"):
        if not isinstance(config[section], jsonargparse.Namespace):
            parser.error(f"the section {section} of the configuration must hold keys, got {config[section]!r}")
    for action in parser._actions:  # a null passes every type check of jsonargparse
        may_be_null = action.default is None or type(None) in get_args(getattr(action, "_typehint", None))
        if not may_be_null and config.get(action.dest, action) is None:
            parser.error(f"{action.dest} must have a value, got null")
    with refusals(parser):
        return parser.instantiate(config)


def segments_of(parser: Parser, config: jsonargparse.Namespace) -> Segments:
    """
    Read the market of a run and say what was assumed.

    :param parser: of ``train``
    :param config: of the run; it gets the periods
    :return: the periods' symbols; nothing in other environments
    """
    objects = instantiated(parser, config)
    if objects.run.env_id != "market":
        return {}
    with refusals(parser):
        data = read_data(objects.market)
    for line in notes_of(data, objects.market):
        print(line)
    for sentence in warnings_of(data.read):
        print(f"warning: {sentence}", file=sys.stderr)
    for name in get_args(PeriodName):
        config.market[name] = data.config.days(name)
    config.market.trading.fill = data.config.trading.fill
    return data.segments


def study_of(parser: Parser, config: jsonargparse.Namespace, segments: Segments) -> Study:
    """
    :param parser: of ``train``
    :param config: of a run
    :param segments: of its market, from ``segments_of``
    :return: the run, built; a value that a constructor refuses ends the program
    """
    objects = instantiated(parser, config)
    with refusals(parser):
        return Study(objects.run, objects.market, config.algorithm.as_dict(), segments)


def parsed(parser: Parser, arguments: list[str]) -> jsonargparse.Namespace:
    """
    :param parser: of a command, or of all
    :param arguments: of the command line
    :return: what they and the files they name say; a file that is no text ends the program, as wrong keys do
    """
    Parser.source = ", ".join(values_of("--config", arguments))
    try:
        with refusals(parser, (ValueError,)):
            check_flags(arguments)
        return parser.parse_args(arguments)
    except (UnicodeDecodeError, RecursionError) as error:
        parser.error(f"the configuration {Parser.source} cannot be read: {type(error).__name__}")


def start_or_resume(
    parser: Parser, config: jsonargparse.Namespace, folder: Path | None, may_change: set[str], name: str | None = None
) -> None:
    """
    :param parser: of the command
    :param config: of what is resumed, refused if it is not as it was; of what is new, which gets what it lacks
    :param folder: to go on in, None: a new one
    :param may_change: keys that may differ where it goes on
    :param name: of a new folder that nobody named, None: it is left to the run
    """
    find_files_from_anywhere(config)
    if folder is not None:
        check_unchanged(parser, config, folder, may_change)
        return
    if name is not None:
        config.run.name = config.run.name or stamped(name)


def check_unchanged(parser: Parser, config: jsonargparse.Namespace, folder: Path, may_change: set[str]) -> None:
    """
    Refuse a resumed run with another configuration than the one it was started with.

    :param parser: of the command
    :param config: given now
    :param folder: with the configuration from before
    :param may_change: keys that may differ
    """
    recorded = parsed(parser, ["--config", str(folder / "config.yaml")])
    find_files_from_anywhere(recorded)
    before = recorded.as_flat()
    steps = getattr(before, "run.total_timesteps")
    if "run.total_timesteps" in may_change and config.run.total_timesteps < steps:
        parser.error(f"{folder} was started with run.total_timesteps={steps}: a resumed run may only become longer")
    for name, value in vars(config.as_flat()).items():
        if (
            name not in may_change | {"resume", "config", "defaults", "run.out", "run.name"}
            and getattr(before, name) != value
        ):
            parser.error(
                f"{folder} was started with {name}={getattr(before, name)}: a resumed run may change only "
                f"{' and '.join(sorted(may_change))}"
            )


def find_files_from_anywhere(config: jsonargparse.Namespace) -> None:
    """Make the paths of the data absolute, so that a run can be resumed and evaluated from another folder."""
    for name in ("market.data", "compare.markets"):
        data = config.get(name)
        if data:
            config[name] = found_from_anywhere(data)


def leave_fill_to_the_data(config: jsonargparse.Namespace) -> None:
    """
    Earlier versions recorded ``next_open`` for data without opening prices, too, whose orders filled at the close. Of a
    run that exists the data decide as they did when it was trained: ``check_provenance`` holds that they are the same.
    """
    if config.market.trading.fill == "next_open":
        config.market.trading.fill = None
