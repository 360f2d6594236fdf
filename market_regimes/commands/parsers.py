"""The commands' parsers: every flag with its type and its help."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jsonargparse
from stable_baselines3.common.policies import ActorCriticPolicy

from distributional_ppo import DistributionalPPO, QuantileActorCriticPolicy, __version__
from market_regimes.commands.arguments import Parser, add_constructor, types_of
from market_regimes.commands.report import program
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
from market_regimes.run.algorithm import ACTIVATIONS, FEED_FORWARD, OPTIMIZERS, RECURRENT, RECURRENT_KEYS, schedule

HERE = Path(__file__).parents[2]
# In a checkout the configurations lie beside the command line, in an installed wheel inside the package.
CONFIGS = next((p for p in (HERE / "configs", HERE / "market_regimes/configs") if p.exists()), None)
DEFAULT_CONFIGS = {
    **{"train": "train.yaml", "sanity": "train.yaml"},
    **{name: f"{name}.yaml" for name in ("tune", "compare", "regimes")},
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
# What the run or the algorithm provides, and what would have to name a class that a file must not import.
SKIPPED = {"self", "env", "policy_kwargs", "tensorboard_log", "verbose", "_init_setup_model"}
SKIPPED |= {"rollout_buffer_class", "rollout_buffer_kwargs"}
SKIPPED_POLICY = {"self", "observation_space", "action_space", "lr_schedule", "use_sde", "n_critics"}
SKIPPED_POLICY |= {"features_extractor_class", "features_extractor_kwargs"}
TYPES: dict[str, Any] = {
    "policy": Literal[(*FEED_FORWARD, *RECURRENT)],
    "learning_rate": schedule,
    "clip_range": schedule,
    "clip_range_vf": schedule,
    "device": str,
    "activation_fn": Literal[tuple(ACTIVATIONS)],
    "optimizer_class": Literal[tuple(OPTIMIZERS)],
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


def train_parser(defaults: Path | None = None) -> Parser:
    """:param defaults: configuration whose values stand in place of the constructors' defaults"""
    description = "Train an agent into a run folder, evaluate it on the test period."
    parser = Parser(allow_abbrev=False, description=description, default_config_files=_files(defaults))
    _add_study(parser)
    parser.add_argument("--seeds", type=seeds, help="several runs and their summary: 0-4 or 0,3,7")
    return parser


def _files(defaults: Path | None) -> list[str]:
    return [] if defaults is None else [str(defaults)]


def _add_study(parser: Parser) -> None:
    """What configures a run, and where it comes from."""
    parser.add_argument(
        "--config",
        action=jsonargparse.ActionConfigFile,
        help="YAML file with any of these keys; several lie one over the other, flags over all",
    )
    parser.add_argument(
        "--defaults",
        type=Literal["shipped", "none"],
        default="shipped",
        help="none: keys that are not given have their constructors' defaults, not those of the shipped configuration",
    )
    parser.add_argument("--resume", type=user_path, help="run folder to go on in, as it was configured")
    parser.add_class_arguments(RunConfig, "run")
    parser.add_class_arguments(MarketConfig, "market")
    add_constructor(parser, "algorithm", DistributionalPPO.__init__, DistributionalPPO.__doc__ or "", SKIPPED, TYPES)
    for policy in (QuantileActorCriticPolicy, ActorCriticPolicy):
        doc = policy.__doc__ or ""
        add_constructor(parser, "algorithm.policy_kwargs", policy.__init__, doc, SKIPPED_POLICY, TYPES)
    for name, (hint, help) in RECURRENT_KEYS.items():
        parser.add_argument(f"--algorithm.{name}", type=hint, default=None, help=help)


def compare_parser(description: str = "", defaults: Path | None = None) -> Parser:
    parser = Parser(allow_abbrev=False, description=description, default_config_files=_files(defaults))
    _add_study(parser)
    parser.add_class_arguments(CompareConfig, "compare")
    parser.add_argument(
        "--variants",
        type=dict[str, dict[str, Any]],
        default={},
        help=f"per name the keys of algorithm that make the variant; also {', '.join(RESERVED)}",
    )
    parser.add_argument(
        "--hypotheses",
        type=list[Hypothesis],
        default=[],
        help="questions to answer, each with question, metric, hoped, variant (a name, or each) and against (a name)",
    )
    return parser


def tune_parser(defaults: Path | None = None) -> Parser:
    """:param defaults: configuration whose values stand in place of the constructors' defaults"""
    parser = Parser(allow_abbrev=False, description=HELP["tune"], default_config_files=_files(defaults))
    _add_study(parser)
    parser.add_class_arguments(TuneConfig, skip={"seeds"})
    parser.add_argument("--seeds", type=seeds, default=TuneConfig.seeds, help="of every trial: 0-4 or 0,3,7")
    parser.add_argument(
        "--space",
        type=dict[str, Any],
        default={},
        help="per key, like algorithm.gamma, a list of choices, or low and high, perhaps with log or step",
    )
    return parser


def _evaluate_parser() -> Parser:
    description = "Score a run's agent, deterministically, beside buy-and-hold."
    parser = Parser(allow_abbrev=False, description=description)
    _add_run(parser)
    parser.add_argument("--period", type=PeriodName | None, help="period of the run's market, in place of dates: test")
    parser.add_argument("--from", type=str | None, help="first day whose return is earned, like 2019-01-01")
    parser.add_argument("--to", type=str | None, help="last day, like 2020-12-31")
    parser.add_argument("--market.data", type=str | list[str], help="where the run's own data are by now")
    _add_progress_bar(parser)
    return parser


def _data_parser() -> Parser:
    description = "Read files of prices and say what was read; nothing is trained."
    parser = Parser(allow_abbrev=False, description=description)
    parser.add_argument("files", nargs="+", help=f"{', '.join(SHIPPED)}, files, or folders of them")
    parser.add_argument("--json", action="store_true", help="print a list of objects, one per symbol")
    parser.add_class_arguments(MarketConfig, "market", skip={"data"})
    return parser


def _signal_parser() -> Parser:
    description = "What a run's agent holds after the last bar: regime, target position, trade, expected return."
    parser = Parser(allow_abbrev=False, description=description)
    _add_run(parser)
    parser.add_argument(
        "--position", type=str, nargs="+", default=[], help="share of equity held now: X, or SYMBOL=X for each"
    )
    first = "play the bars from there on: first day whose return is earned; a recurrent policy plays all, if not given"
    parser.add_argument("--from", type=str | None, help=first)
    zone = "time zone of the bars where their file states none, like America/New_York or +02:00; not given: UTC"
    parser.add_argument("--zone", type=str | None, help=zone)
    parser.add_argument("--json", action="store_true", help="print a JSON list of objects and nothing else")
    parser.add_argument("--observation", action="store_true", help="print the numbers that the policy gets, too")
    return parser


def _export_parser() -> Parser:
    description = "Write a run's agent as a file that runs without this program, and the layout of its inputs as JSON."
    parser = Parser(allow_abbrev=False, description=description)
    parser.add_argument("folder", type=user_path, help="run folder")
    parser.add_argument("--format", type=Literal["onnx"], default="onnx", help="of the file")
    parser.add_argument("--out", type=user_path, help="of the file, its layout lies beside it; RUN/agent.onnx")
    _add_acting(parser)
    _add_progress_bar(parser)
    return parser


def _add_progress_bar(parser: Parser) -> None:
    help = "whether to show what is being done, on a terminal"
    parser.add_argument("--progress_bar", type=bool, default=True, help=help)


def _add_run(parser: Parser) -> None:
    """A run, and bars to use it on."""
    parser.add_argument("folder", type=user_path, help="run folder")
    parser.add_argument(
        "--data", type=str, nargs="+", default=[], help="CSV or Parquet files, or folders: the run's own"
    )
    parser.add_argument(
        "--like", type=str | None, help="symbol of the run by whose scaling and regimes new ones are seen"
    )
    _add_acting(parser)


def _add_acting(parser: Parser) -> None:
    """Which of the run's models acts, and where."""
    parser.add_argument("--checkpoint", type=CheckpointName, default="best", help="best by validation, or the last")
    device = "to act on, cpu or cuda; not given: the run's own, or the CPU where that is not found"
    parser.add_argument("--device", type=str | None, help=device)


class _HelpAsWritten(jsonargparse.DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):  # type: ignore[misc]
    """Keeps the lines of the program's description, which are commands."""


def command_parser(description: str | None, command: str, with_defaults: bool = True) -> Parser:
    """
    :param description: of the program
    :param command: the one that is called, whose keys a wrong one may mean
    :param with_defaults: whether the shipped configurations lie below all that is given
    :return: the parser of all commands
    """
    description = (description or "").replace("python train_model_multi_patch.py", program())
    parser = Parser(allow_abbrev=False, description=description, formatter_class=_HelpAsWritten)
    parser.add_argument("--version", action="version", version=f"distributional-ppo {__version__}")
    files = {name: CONFIGS / file if CONFIGS and with_defaults else None for name, file in DEFAULT_CONFIGS.items()}
    parsers: dict[str, Callable[[], Parser]] = {
        "train": lambda: train_parser(files["train"]),
        "evaluate": _evaluate_parser,
        "signal": _signal_parser,
        "export": _export_parser,
        "data": _data_parser,
        "sanity": lambda: train_parser(files["sanity"]),
        "tune": lambda: tune_parser(files["tune"]),
        "compare": lambda: compare_parser(HELP["compare"], files["compare"]),
        "regimes": lambda: compare_parser(HELP["regimes"], files["regimes"]),
    }
    Parser.known = _known_where_a_run_is_used if command in ("evaluate", "signal", "export") else _known
    commands = parser.add_subcommands(dest="command")
    for name in parsers:  # the others' flags, hundreds, are not needed
        commands.add_subcommand(name, parsers[name]() if name == command else Parser(), help=HELP[name])
    return parser


@functools.cache
def _known_where_a_run_is_used() -> dict[str, Any]:
    return types_of(_evaluate_parser()) | types_of(_signal_parser()) | types_of(_export_parser())


@functools.cache
def _known() -> dict[str, Any]:
    return dict.fromkeys(HELP) | types_of(train_parser()) | types_of(compare_parser()) | types_of(tune_parser())
