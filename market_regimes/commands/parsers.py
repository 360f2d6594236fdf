"""The commands' parsers: every flag with its type and its help."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jsonargparse

from market_regimes.commands.algorithm_flags import ALGORITHM_FLAGS
from market_regimes.commands.parser import Parser, Reading
from market_regimes.commands.program import program
from market_regimes.config import (
    RESERVED,
    SHIPPED,
    CheckpointName,
    CompareConfig,
    Hypothesis,
    MarketConfig,
    PeriodName,
    RunConfig,
    TuneConfig,
    seeds_of,
)
from quantile_critic.version import __version__

HERE = Path(__file__).parents[2]
# In a checkout the configurations lie beside the command line, in an installed wheel inside the package.
CONFIGS = next((path for path in (HERE / "configs", HERE / "market_regimes/configs") if path.exists()), None)
DEFAULT_CONFIGS = {
    "train": "train.yaml",
    "sanity": "train.yaml",
    "tune": "tune.yaml",
    "compare": "compare.yaml",
    "regimes": "regimes.yaml",
}
HELP = {
    "train": "train an agent (the default)",
    "evaluate": "evaluate a run",
    "signal": "what to hold after the last bar of a file",
    "export": "write a run's agent as ONNX, for other programs",
    "data": "read files and say what was read",
    "sanity": "6,144 steps, and whether the scaling works in them",
    "tune": "search for good values by validation that walks forward",
    "compare": "train variants x seeds x folds and answer with statistics",
    "regimes": "compare kappa x mode: which treats calm and stormy days alike?",
}


def seeds(text: str | int) -> str:
    """
    Seeds as 0-4 or 0,3,7.

    :raises ValueError: on anything else, and on too many
    """
    seeds_of(str(text))
    return str(text)


def user_path(text: str) -> Path:
    """A path, in which ~ is the user's home."""
    return Path(text).expanduser()


def train_parser(defaults: Path | None = None, reading: Reading | None = None) -> Parser:
    """
    :param defaults: configuration whose values stand in place of the constructors' defaults
    :param reading: what errors name
    :return: the parser of ``train`` and ``sanity``
    """
    parser = _parser(
        "Train an agent into a run folder, evaluate it on the test period.",
        reading,
        defaults,
    )
    _add_study(parser)
    parser.add_flag("--seeds", seeds, help="several runs and their summary: 0-4 or 0,3,7")
    return parser


def compare_parser(
    description: str = "",
    defaults: Path | None = None,
    reading: Reading | None = None,
) -> Parser:
    """
    :param description: of the command
    :param defaults: configuration whose values stand in place of the constructors' defaults
    :param reading: what errors name
    :return: the parser of ``compare`` and ``regimes``
    """
    parser = _parser(description, reading, defaults)
    _add_study(parser)

    # Folds, variants and questions.
    parser.add_section(CompareConfig, "compare")
    parser.add_flag(
        "--variants",
        dict[str, dict[str, Any]],
        {},
        help=f"per name the keys of algorithm that make the variant; also {', '.join(RESERVED)}",
    )
    parser.add_flag(
        "--hypotheses",
        list[Hypothesis],
        [],
        help="questions to answer, each with question, metric, hoped, variant (a name, or each) and against (a name)",
    )
    return parser


def tune_parser(defaults: Path | None = None, reading: Reading | None = None) -> Parser:
    """
    :param defaults: configuration whose values stand in place of the constructors' defaults
    :param reading: what errors name
    :return: the parser of ``tune``
    """
    parser = _parser(HELP["tune"], reading, defaults)
    _add_study(parser)

    # Trials, and what they vary.
    parser.add_section(TuneConfig, skip={"seeds"})
    parser.add_flag("--seeds", seeds, TuneConfig.seeds, help="of every trial: 0-4 or 0,3,7")
    parser.add_flag(
        "--space",
        dict[str, Any],
        {},
        help="per key, like algorithm.gamma, a list of choices, or low and high, perhaps with log or step",
    )
    return parser


def _parser(
    description: str,
    reading: Reading | None,
    defaults: Path | None = None,
) -> Parser:
    files = [] if defaults is None else [str(defaults)]
    return Parser(
        allow_abbrev=False,
        description=description,
        default_config_files=files,
        reading=reading,
    )


def _add_study(parser: Parser) -> None:
    """What configures a run, and where it comes from."""
    parser.add_flag(
        "--config",
        action=jsonargparse.ActionConfigFile,
        help="YAML file with any of these keys; several lie one over the other, flags over all",
    )
    parser.types["print_config"] = None  # the flag comes with --config
    parser.add_flag(
        "--defaults",
        Literal["shipped", "none"],
        "shipped",
        help="none: keys that are not given have their constructors' defaults, not those of the shipped configuration",
    )
    parser.add_flag("--resume", user_path, help="run folder to go on in, as it was configured")

    # The run around the algorithm, and its market.
    parser.add_section(RunConfig, "run")
    parser.add_section(MarketConfig, "market")

    # The algorithm's keys are the parameters of its constructors.
    for flag in ALGORITHM_FLAGS:
        parser.add_flag(f"--algorithm.{flag.name}", flag.type, flag.default, help=flag.help)


def _evaluate_parser(reading: Reading | None = None) -> Parser:
    parser = _parser("Score a run's agent, deterministically, beside buy-and-hold.", reading)
    _add_run(parser)
    parser.add_flag(
        "--period",
        PeriodName | None,
        help="period of the run's market, in place of dates: test",
    )
    parser.add_flag("--from", str | None, help="first day whose return is earned, like 2019-01-01")
    parser.add_flag("--to", str | None, help="last day, like 2020-12-31")
    parser.add_flag("--market.data", str | list[str], help="where the run's own data are by now")
    _add_question(parser)
    _add_progress_bar(parser)
    return parser


def _add_question(parser: Parser) -> None:
    """Conditions of trading in place of the run's."""
    of_value = "in basis points of the traded value; not given: the run's"
    parser.add_flag("--fee", float | None, help=f"fee {of_value}")
    parser.add_flag("--slippage", float | None, help=f"slippage {of_value}")
    parser.add_flag(
        "--fill",
        Literal["next_open", "close", "next_close"] | None,
        help="where orders are filled; close: the one just seen; not given: as the run fills",
    )
    parser.add_flag("--delay", int, 0, help="bars by which every order is filled later")
    costs = "fee and slippage together, in basis points: growth and Sharpe ratio of the same decisions at each"
    parser.add_flag("--costs", float, [], nargs="+", help=costs)


def _data_parser(reading: Reading | None = None) -> Parser:
    parser = _parser("Read files of prices and say what was read; nothing is trained.", reading)
    parser.add_flag("files", nargs="+", help=f"{', '.join(SHIPPED)}, files, or folders of them")
    parser.add_flag("--json", action="store_true", help="print a list of objects, one per symbol")
    parser.add_section(MarketConfig, "market", skip={"data"})
    return parser


def _signal_parser(reading: Reading | None = None) -> Parser:
    description = "What a run's agent holds after the last bar: regime, target position, trade, expected return."
    parser = _parser(description, reading)
    _add_run(parser)
    parser.add_flag(
        "--position",
        str,
        [],
        nargs="+",
        help="share of equity held now: X, or SYMBOL=X for each",
    )

    first = "play the bars from there on: first day whose return is earned; a recurrent policy plays all, if not given"
    parser.add_flag("--from", str | None, help=first)

    zone = "time zone of the bars where their file states none, like America/New_York or +02:00; not given: UTC"
    parser.add_flag("--zone", str | None, help=zone)
    equity = "value of the account, cash included, in the currency of the prices: print its orders in shares"
    parser.add_flag("--equity", float | None, help=equity)
    positions = "CSV with the columns symbol and shares: what the account holds; not given: cash"
    parser.add_flag("--positions", str | None, help=f"with --equity: {positions}")
    parser.add_flag("--lots", float | None, help="with --equity: shares of a lot; not given: fractions are traded")
    parser.add_flag("--json", action="store_true", help="print a JSON list of objects, with --equity an object, alone")
    parser.add_flag(
        "--observation",
        action="store_true",
        help="print the numbers that the policy gets, too",
    )
    return parser


def _export_parser(reading: Reading | None = None) -> Parser:
    description = "Write a run's agent as a file that runs without this program, and the layout of its inputs as JSON."
    parser = _parser(description, reading)
    parser.add_flag("folder", user_path, help="run folder")
    parser.add_flag("--format", Literal["onnx"], "onnx", help="of the file")
    parser.add_flag("--out", user_path, help="of the file, its layout lies beside it; RUN/agent.onnx")
    _add_acting(parser)
    _add_progress_bar(parser)
    return parser


def _add_progress_bar(parser: Parser) -> None:
    parser.add_flag(
        "--progress_bar",
        bool,
        True,
        help="whether to show what is being done, on a terminal",
    )


def _add_run(parser: Parser) -> None:
    """A run, and bars to use it on."""
    parser.add_flag("folder", user_path, help="run folder")
    parser.add_flag(
        "--data",
        str,
        [],
        nargs="+",
        help="CSV or Parquet files, or folders: the run's own",
    )
    parser.add_flag(
        "--like",
        str | None,
        help="symbol of the run by whose scaling and regimes new ones are seen",
    )
    _add_acting(parser)


def _add_acting(parser: Parser) -> None:
    """Which of the run's models acts, and where."""
    parser.add_flag("--checkpoint", CheckpointName, "best", help="best by validation, or the last")
    device = "to act on, cpu or cuda; not given: the run's own, or the CPU where that is not found"
    parser.add_flag("--device", str | None, help=device)


class _HelpAsWritten(jsonargparse.DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):  # type: ignore[misc]
    """Keeps the lines of the program's description, which are commands."""


def command_parser(
    description: str | None,
    command: str,
    with_defaults: bool = True,
) -> Parser:
    """
    :param description: of the program
    :param command: the one that is called, whose keys a wrong one may mean
    :param with_defaults: whether the shipped configurations lie below all that is given
    :return: the parser of all commands
    """
    # A mistyped key is compared with those of commands of the same kind.
    uses_run = command in ("evaluate", "signal", "export")
    reading = Reading(_keys_where_a_run_is_used if uses_run else _keys)

    description = (description or "").replace("python train_model_multi_patch.py", program())
    parser = Parser(
        allow_abbrev=False,
        description=description,
        formatter_class=_HelpAsWritten,
        reading=reading,
    )
    parser.add_flag("--version", action="version", version=f"distributional-ppo {__version__}")

    # Only the command that is called needs its flags: the others have hundreds.
    commands = parser.add_subcommands(dest="command")
    for name, help in HELP.items():
        subparser = (
            _parser_of(
                name,
                with_defaults,
                reading,
            )
            if name == command
            else Parser(reading=reading)
        )
        commands.add_subcommand(name, subparser, help=help)
    return parser


def _parser_of(
    command: str,
    with_defaults: bool,
    reading: Reading,
) -> Parser:
    """The parser of one command, with the shipped configuration below it."""
    defaults = None
    if command in DEFAULT_CONFIGS and CONFIGS is not None and with_defaults:
        defaults = CONFIGS / DEFAULT_CONFIGS[command]

    makers: dict[str, Callable[[], Parser]] = {
        "train": lambda: train_parser(defaults, reading),
        "evaluate": lambda: _evaluate_parser(reading),
        "signal": lambda: _signal_parser(reading),
        "export": lambda: _export_parser(reading),
        "data": lambda: _data_parser(reading),
        "sanity": lambda: train_parser(defaults, reading),
        "tune": lambda: tune_parser(defaults, reading),
        "compare": lambda: compare_parser(HELP[command], defaults, reading),
        "regimes": lambda: compare_parser(HELP[command], defaults, reading),
    }
    return makers[command]()


@functools.cache
def _keys_where_a_run_is_used() -> dict[str, Any]:
    return _evaluate_parser().types | _signal_parser().types | _export_parser().types


@functools.cache
def _keys() -> dict[str, Any]:
    return dict.fromkeys(HELP) | train_parser().types | compare_parser().types | tune_parser().types
