"""
Train and evaluate DistributionalPPO from the command line.

    python train_model_multi_patch.py                             train as configs/train.yaml says
    python train_model_multi_patch.py train --config my.yaml --algorithm.use_variance_gradient_scaling=false
    python train_model_multi_patch.py train --resume runs/NAME    go on after an interruption
    python train_model_multi_patch.py train --seeds 0-4           five runs and their summary
    python train_model_multi_patch.py evaluate runs/NAME --period validation
    python train_model_multi_patch.py data prices.csv             what is read from files, and what is assumed
    python train_model_multi_patch.py signal runs/NAME --data prices.csv   what to hold after the last bar
    python train_model_multi_patch.py export runs/NAME            the agent as ONNX, for other programs
    python train_model_multi_patch.py sanity                      6,144 steps: does the scaling work on these data?
    python train_model_multi_patch.py tune --trials 50            search for good values, before the test period
    python train_model_multi_patch.py compare                     variants x seeds x folds, with statistics and a report
    python train_model_multi_patch.py regimes                     which kappa and mode treat calm and storm alike?

Every command has a shipped configuration. Your files lie over it in the order given, and flags over them, wherever
they stand; ``defaults: none`` in a file leaves the shipped one out. Every flag is a key of the file and a parameter of
a constructor; ``train --help`` lists them. ``--run.import=PACKAGE`` imports what registers an environment.
"""

from __future__ import annotations

import importlib
import signal as signal_module
import sys
from collections.abc import Callable
from typing import Any

try:
    import jsonargparse
except ModuleNotFoundError as error:
    sys.exit(f'error: the command line needs {error.name}: pip install "distributional-ppo[market]"')

from market_regimes.commands.arguments import files_first, values_of, wants_defaults, without_flag
from market_regimes.commands.configuration import parsed
from market_regimes.commands.overruled import notes_on_unused_keys, why_overruled
from market_regimes.commands.parser import Parser
from market_regimes.commands.parsers import DEFAULT_CONFIGS, command_parser, train_parser
from market_regimes.commands.program import n_started, program
from market_regimes.commands.resume import with_recorded_configuration
from market_regimes.files import leave_closed_pipe
from market_regimes.run.termination import Terminated

ENDED_BY_SIGNAL = 128  # added to the signal's number, as shells report it: 130 after Ctrl-C, 143 after SIGTERM
Command = Callable[[Parser, jsonargparse.Namespace], Any]


def main(arguments: list[str] | None = None) -> None:
    """:param arguments: the command line, None: the process's"""
    if arguments is None:
        arguments = sys.argv[1:]
    try:
        try:
            _main(list(arguments))
        finally:
            sys.stdout.flush()  # while a closed pipe is still caught here
    except BrokenPipeError:
        leave_closed_pipe()


def _main(arguments: list[str]) -> None:
    """Parse the command line and do what it says."""
    # Flags alone are those of train.
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help", "--version")):
        arguments.insert(0, "train")
    command, *rest = arguments
    parser = command_parser(__doc__, command, wants_defaults(rest))

    # Packages may register environments, which a configuration may name.
    _import_packages(values_of("--run.import", rest), parser)
    rest = without_flag("--run.import", rest)

    # Nothing that is given is left unused without a word.
    overruled = why_overruled(command, rest)
    if overruled is not None:
        parser.error(overruled)
    for sentence in notes_on_unused_keys(command, rest):
        print(sentence, file=sys.stderr)

    # Flags lie over files, wherever they stand; a resumed run begins from its own configuration.
    if command in DEFAULT_CONFIGS:
        rest = files_first(with_recorded_configuration(parser, rest))
    config = parsed(parser, [command, *rest])
    if command in DEFAULT_CONFIGS:
        config[command].defaults = "none"  # what is resolved wants no other values below it
        config[command].pop("__default_config__", None)

    try:
        _run(train_parser(reading=parser.reading), config)
    except KeyboardInterrupt as stop:
        _leave_stopped(config, stop)


def _run(parser: Parser, config: jsonargparse.Namespace) -> None:
    """Call the command."""
    options = config[config.command]
    if config.command != "train" and n_started() > 1:
        parser.error(f"torchrun trains one run in several processes: start {config.command} without it")

    _command(config.command)(parser, options)


def _command(name: str) -> Command:
    """
    Import what a command needs when it is called, since torch, pandas or statistics take seconds.

    :param name: of the command, as parsed
    :return: its function
    """
    # One import a branch, so that a reader and a type checker see where each leads.
    match name:
        case "train":
            from market_regimes.commands.train import train as command
        case "sanity":
            from market_regimes.commands.sanity import sanity as command
        case "evaluate":
            from market_regimes.commands.evaluate import evaluate as command
        case "signal":
            from market_regimes.commands.signal import signal as command
        case "export":
            from market_regimes.commands.export import export as command
        case "data":
            from market_regimes.commands.data import data as command
        case "tune":
            from market_regimes.commands.tune import tune as command
        case _:  # compare and regimes
            from market_regimes.commands.compare import compare as command
    return command


def _leave_stopped(config: jsonargparse.Namespace, stop: KeyboardInterrupt) -> None:
    """End the process as shells expect it, and print the command that goes on."""
    if stop.args:
        folder = stop.args[0]
        if config.command == "train" and config.train.get("seeds"):
            folder = folder.parent
        print(f"stopped; go on with: {program()} {config.command} --resume {folder}")

    number = signal_module.SIGTERM if isinstance(stop, Terminated) else signal_module.SIGINT
    sys.exit(ENDED_BY_SIGNAL + number)


def _import_packages(packages: list[str], parser: Parser) -> None:
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            parser.error(f"--run.import={package}: {error}")


if __name__ == "__main__":
    main()
