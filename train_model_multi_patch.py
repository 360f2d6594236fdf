"""
Train and evaluate DistributionalPPO from the command line.

    python train_model_multi_patch.py                             train as configs/train.yaml says
    python train_model_multi_patch.py train --config my.yaml --algorithm.use_variance_gradient_scaling=false
    python train_model_multi_patch.py evaluate runs/NAME --period validation

Defaults are overruled by the file, the file by flags. Every flag is a key of the file and a parameter of a constructor;
``train --help`` lists them.
"""

from __future__ import annotations

import difflib
import inspect
import re
import sys
from pathlib import Path
from typing import Any, Literal, NoReturn

import jsonargparse
from docstring_parser import parse as parse_docstring
from stable_baselines3.common.policies import ActorCriticPolicy

from distributional_ppo import DistributionalPPO, QuantileActorCriticPolicy
from market_regimes.report import print_summary
from market_regimes.study import ACTIVATIONS, OPTIMIZERS, MarketConfig, PeriodName, RunConfig, Study, schedule

HERE = Path(__file__).parent
# In a checkout the configurations lie beside this file, in an installed wheel inside the package.
DEFAULT_CONFIG = next(
    (p for p in (HERE / "configs/train.yaml", HERE / "market_regimes/configs/train.yaml") if p.exists()), None
)
COMMANDS = ("train", "evaluate")
# What the run or the algorithm provides, and what would have to name a class that a file must not import.
SKIPPED = {"self", "env", "policy_kwargs", "tensorboard_log", "verbose", "_init_setup_model"}
SKIPPED |= {"rollout_buffer_class", "rollout_buffer_kwargs"}
SKIPPED_POLICY = {"self", "observation_space", "action_space", "lr_schedule", "use_sde"}
SKIPPED_POLICY |= {"features_extractor_class", "features_extractor_kwargs"}
TYPES: dict[str, Any] = {
    "policy": Literal["MlpPolicy", "CnnPolicy", "MultiInputPolicy"],
    "learning_rate": schedule,
    "clip_range": schedule,
    "clip_range_vf": schedule,
    "device": str,
    "activation_fn": Literal[tuple(ACTIVATIONS)],
    "optimizer_class": Literal[tuple(OPTIMIZERS)],
}


class Parser(jsonargparse.ArgumentParser):  # type: ignore[misc]  # it comes without types
    """jsonargparse's parser; its errors are one sentence, with the nearest valid name."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print why, and what may have been meant, and exit with 2."""
        known = {action.dest for action in _train_parser()._actions} | set(COMMANDS)
        words = set(re.findall(r"\w+(?:\.\w+)+", message) + re.findall(r"invalid choice: '(\w+)'", message)) - known
        # Where names end alike, the shortest is meant: the command train, not the key market.train.
        by_last_part = {name.rpartition(".")[2]: name for name in sorted(known, key=lambda name: (-len(name), name))}
        near = {
            by_last_part[match]
            for word in words
            for match in difflib.get_close_matches(word.rpartition(".")[2], by_last_part, n=1, cutoff=0.75)
        }
        hint = f" Did you mean {' or '.join(sorted(near))}?" if near else ""
        print(f"error: {' '.join(message.split())}{hint}", file=sys.stderr)
        sys.exit(2)


def _add_constructor(parser: Parser, prefix: str, constructor: Any, docstring: str, skip: set[str]) -> None:
    """
    One flag per parameter of a constructor, typed and described by its signature and docstring.

    :param parser: receives the flags
    :param prefix: of their names
    :param constructor: function whose parameters they are
    :param docstring: describes them
    :param skip: parameters that get no flag
    """
    helps = {param.arg_name: " ".join((param.description or "").split()) for param in parse_docstring(docstring).params}
    for name, parameter in inspect.signature(constructor).parameters.items():
        if name in skip or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        hint = parameter.annotation
        if name not in TYPES and isinstance(hint, str):  # one at a time: others name what only a type checker imports
            hint = eval(hint, constructor.__globals__)
        default = "MlpPolicy" if parameter.default is parameter.empty else parameter.default
        default = getattr(default, "__name__", default)
        parser.add_argument(f"--{prefix}.{name}", type=TYPES.get(name, hint), default=default, help=helps.get(name, ""))


def _train_parser() -> Parser:
    parser = Parser(allow_abbrev=False, description="Train an agent into a run folder, evaluate it on the test period.")
    parser.add_argument("--config", action=jsonargparse.ActionConfigFile, help="YAML file with any of these keys")
    parser.add_class_arguments(RunConfig, "run")
    parser.add_class_arguments(MarketConfig, "market")
    _add_constructor(parser, "algorithm", DistributionalPPO.__init__, DistributionalPPO.__doc__ or "", SKIPPED)
    for policy in (QuantileActorCriticPolicy, ActorCriticPolicy):
        _add_constructor(parser, "algorithm.policy_kwargs", policy.__init__, policy.__doc__ or "", SKIPPED_POLICY)
    return parser


def _parser(train: Parser) -> Parser:
    parser = Parser(allow_abbrev=False, description=__doc__, formatter_class=jsonargparse.DefaultHelpFormatter)
    commands = parser.add_subcommands(dest="command")
    commands.add_subcommand("train", train, help="train an agent (the default)")
    evaluate = Parser(allow_abbrev=False, description="Score a run's agent, deterministically, beside buy-and-hold.")
    evaluate.add_argument("folder", type=Path, help="run folder")
    evaluate.add_argument("--period", type=PeriodName, default="test", help="period of the market")
    commands.add_subcommand("evaluate", evaluate, help="evaluate a run")
    return parser


def _study(parser: Parser, config: jsonargparse.Namespace) -> Study:
    """Build the run; a value that a constructor refuses ends the program with its words."""
    for section in ("run", "market", "algorithm"):
        if not isinstance(config[section], jsonargparse.Namespace):
            parser.error(f"the section {section} of the configuration must hold keys, got {config[section]!r}")
    try:
        objects = parser.instantiate(config)
        return Study(objects.run, objects.market, config.algorithm.as_dict())
    except Exception as error:  # whatever it is, the configuration asked for it: nothing has run yet
        parser.error(f"{type(error).__name__}: {error}")


def main(arguments: list[str] | None = None) -> None:
    """:param arguments: the command line, None: the process's"""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help")):
        arguments.insert(0, "train")
    if arguments[0] == "train" and DEFAULT_CONFIG and not any(a.split("=")[0] == "--config" for a in arguments):
        arguments[1:1] = ["--config", str(DEFAULT_CONFIG)]
    train_parser = _train_parser()
    parser = _parser(train_parser)
    config = parser.parse_args(arguments)

    if config.command == "train":
        study = _study(train_parser, config.train)
        try:
            folder = study.train(train_parser.dump(config.train, skip_unset=False))
        except (ValueError, OSError, FloatingPointError) as error:
            parser.error(str(error))
        period: PeriodName = "test"
    else:
        folder, period = config.evaluate.folder, config.evaluate.period
        if not (folder / "config.yaml").exists():
            parser.error(f"{folder} is no run folder: it has no config.yaml")
        study = _study(train_parser, train_parser.parse_path(str(folder / "config.yaml")))
        try:
            study.load(folder)
        except ValueError as error:
            parser.error(str(error))
    print_summary(study.evaluate(folder, period), title=f"{folder}, {period}")
    print(f"{folder}: evaluation-{period}.json" + (f", equity-{period}.png" if study.market else ""))
    print(f"tensorboard --logdir {folder.parent}")


if __name__ == "__main__":
    main()
