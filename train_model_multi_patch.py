"""
Train and evaluate DistributionalPPO from the command line.

    python train_model_multi_patch.py                             train as configs/train.yaml says
    python train_model_multi_patch.py train --config my.yaml --algorithm.use_variance_gradient_scaling=false
    python train_model_multi_patch.py train --resume runs/NAME    go on after an interruption
    python train_model_multi_patch.py train --seeds 0-4           five runs and their summary
    python train_model_multi_patch.py evaluate runs/NAME --period validation

Defaults are overruled by the file, the file by flags. Every flag is a key of the file and a parameter of a constructor;
``train --help`` lists them.
"""

from __future__ import annotations

import difflib
import inspect
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NoReturn, get_args

import jsonargparse
from docstring_parser import parse as parse_docstring
from gymnasium.error import Error as GymnasiumError
from stable_baselines3.common.policies import ActorCriticPolicy

from distributional_ppo import DistributionalPPO, QuantileActorCriticPolicy
from market_regimes.checkpoint import write_file
from market_regimes.data import SHIPPED
from market_regimes.report import print_seeds, print_summary
from market_regimes.study import (
    ACTIVATIONS,
    OPTIMIZERS,
    CheckpointName,
    MarketConfig,
    PeriodName,
    RunConfig,
    Study,
    new_folder,
    schedule,
)

HERE = Path(__file__).parent
# In a checkout the configurations lie beside this file, in an installed wheel inside the package.
DEFAULT_CONFIG = next(
    (p for p in (HERE / "configs/train.yaml", HERE / "market_regimes/configs/train.yaml") if p.exists()), None
)
COMMANDS = ("train", "evaluate")
MAY_CHANGE = {"run.total_timesteps", "run.progress_bar"}  # when a run is resumed
MAX_SEEDS = 1000
# What constructors raise on values they refuse; anything else is a mistake of ours and shows its traceback.
REFUSALS = (ValueError, TypeError, AssertionError, ArithmeticError, OSError, RuntimeError, ImportError, GymnasiumError)
# What the run or the algorithm provides, and what would have to name a class that a file must not import.
SKIPPED = {"self", "env", "policy_kwargs", "tensorboard_log", "verbose", "_init_setup_model"}
SKIPPED |= {"rollout_buffer_class", "rollout_buffer_kwargs"}
SKIPPED_POLICY = {"self", "observation_space", "action_space", "lr_schedule", "use_sde", "n_critics"}
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

    source: ClassVar[str] = ""  # the configuration being read

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print why, and what may have been meant, and exit with 2."""
        if self.source and ("parsing config" in message or "Unexpected config" in message):
            message = f"{self.source}: {message}"
        known = {action.dest for action in _train_parser()._actions} | set(COMMANDS)
        words = set(re.findall(r"\w+(?:\.\w+)+", message) + re.findall(r"invalid choice: '(\w+)'", message)) - known
        near = {match for word in words for match in _nearest(word, known)}
        hint = f" Did you mean {' or '.join(sorted(near))}?" if near else ""
        print(f"error: {' '.join(message.split())}{hint}", file=sys.stderr)
        sys.exit(2)


def _nearest(word: str, known: set[str]) -> list[str]:
    """The known name that is meant, if any: one that ends alike, one like it in its section, one like it anywhere."""
    section, _, last = word.rpartition(".")
    # Where names end alike, the shortest is meant: the command train, not the key market.train.
    by_last_part = {name.rpartition(".")[2]: name for name in sorted(known, key=lambda name: (-len(name), name))}
    siblings = {name.rpartition(".")[2]: name for name in known if section and name.startswith(section + ".")}
    for names, cutoff in ((by_last_part, 1.0), (siblings, 0.6), (by_last_part, 0.75)):
        for match in difflib.get_close_matches(last, names, n=1, cutoff=cutoff):
            return [names[match]]
    return []


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


def seeds(text: str | int) -> str:
    """
    Seeds as 0-4 or 0,3,7.

    :raises ValueError: on anything else, and on more than ``MAX_SEEDS``
    """
    found = _seeds_of(str(text))
    if not 0 < len(found) <= MAX_SEEDS:
        raise ValueError(f"expected seeds like 0-4 or 0,3,7, at most {MAX_SEEDS} of them")
    return str(text)


def _seeds_of(text: str) -> Sequence[int]:
    """The seeds, none if there are not any."""
    if re.fullmatch(r"\d{1,9}-\d{1,9}", text):
        first, last = (int(bound) for bound in text.split("-"))
        return range(first, last + 1)
    if re.fullmatch(r"\d{1,9}(,\d{1,9})*", text):
        return sorted({int(seed) for seed in text.split(",")})
    return []


def _train_parser() -> Parser:
    parser = Parser(allow_abbrev=False, description="Train an agent into a run folder, evaluate it on the test period.")
    parser.add_argument("--config", action=jsonargparse.ActionConfigFile, help="YAML file with any of these keys")
    parser.add_argument("--resume", type=Path, help="run folder to go on in, as it was configured")
    parser.add_argument("--seeds", type=seeds, help="several runs and their summary: 0-4 or 0,3,7")
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
    evaluate.add_argument("--checkpoint", type=CheckpointName, default="best", help="best by validation, or the last")
    commands.add_subcommand("evaluate", evaluate, help="evaluate a run")
    return parser


def _study(parser: Parser, config: jsonargparse.Namespace) -> Study:
    """Build the run; a value that a constructor refuses ends the program with its words."""
    for section in ("run", "market", "algorithm"):
        if not isinstance(config[section], jsonargparse.Namespace):
            parser.error(f"the section {section} of the configuration must hold keys, got {config[section]!r}")
    for action in parser._actions:  # a null passes every type check of jsonargparse
        may_be_null = action.default is None or type(None) in get_args(getattr(action, "_typehint", None))
        if not may_be_null and config.get(action.dest, action) is None:
            parser.error(f"{action.dest} must have a value, got null")
    try:
        objects = parser.instantiate(config)
        return Study(objects.run, objects.market, config.algorithm.as_dict())
    except REFUSALS as error:
        parser.error(str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}")


def _with_config(arguments: list[str], parser: Parser) -> list[str]:
    """The command line of ``train`` with the file it starts from: the run's own if one is resumed."""
    names = [argument.split("=")[0] for argument in arguments]
    if "--resume" in names:
        position = names.index("--resume")
        value = arguments[position].partition("=")[2] or "".join(arguments[position + 1 : position + 2])
        config = Path(value) / "config.yaml"
        if "--config" in names or "--seeds" in names:
            parser.error("--resume goes on with the run's own configuration and seeds: leave --config and --seeds away")
        if not config.exists():
            parser.error(f"{value} is no run folder: it has no config.yaml")
        return ["train", "--config", str(config), *arguments[1:]]
    if DEFAULT_CONFIG and "--config" not in names:
        return ["train", "--config", str(DEFAULT_CONFIG), *arguments[1:]]
    return arguments


def _check_unchanged(parser: Parser, config: jsonargparse.Namespace, folder: Path) -> None:
    """Refuse a resumed run with another configuration than the one it was started with."""
    before = _parsed(parser, ["--config", str(folder / "config.yaml")]).as_flat()
    steps = getattr(before, "run.total_timesteps")
    if config.run.total_timesteps < steps:
        parser.error(f"{folder} was started with run.total_timesteps={steps}: a resumed run may only become longer")
    for name, value in vars(config.as_flat()).items():
        if name not in MAY_CHANGE | {"resume", "config", "run.out", "run.name"} and getattr(before, name) != value:
            parser.error(
                f"{folder} was started with {name}={getattr(before, name)}: a resumed run may change only "
                f"{' and '.join(sorted(MAY_CHANGE))}"
            )


def _parsed(parser: Parser, arguments: list[str]) -> jsonargparse.Namespace:
    """Parse; a configuration that is no text ends the program with a sentence, as one with wrong keys does."""
    Parser.source = next((arguments[i + 1] for i, name in enumerate(arguments[:-1]) if name == "--config"), "")
    try:
        return parser.parse_args(arguments)
    except (UnicodeDecodeError, RecursionError) as error:
        parser.error(f"the configuration {Parser.source} cannot be read: {type(error).__name__}")


def _train(parser: Parser, config: jsonargparse.Namespace, folder: Path | None) -> tuple[Study, Path]:
    """
    :param config: configuration of one run
    :param folder: run folder to resume, None: a new one
    :return: the trained run and its folder
    """
    study = _study(parser, config)
    text = parser.dump(config, skip_unset=False)
    try:
        if folder is None:
            folder = study.start(text)
        else:
            study.resume(folder, text)
    except (ValueError, OSError, FloatingPointError, RuntimeError) as error:
        parser.error(str(error))
    return study, folder


def _train_seeds(parser: Parser, config: jsonargparse.Namespace, resumed: Path | None) -> dict[int, tuple[Study, Path]]:
    """One run folder per seed within the run's own; those that are there go on."""
    try:
        group = resumed or new_folder(config.run)
    except ValueError as error:
        parser.error(str(error))
    group.mkdir(parents=True, exist_ok=True)
    write_file(group / "config.yaml", parser.dump(config, skip_unset=False))
    runs = {}
    for seed in _seeds_of(config.seeds):
        one = config.clone()
        one.seeds, one.algorithm.seed = None, seed
        one.run.out, one.run.name = str(group), f"seed-{seed}"
        folder = group / one.run.name
        if folder.exists():
            _check_unchanged(parser, one, folder)
        runs[seed] = _train(parser, one, folder if folder.exists() else None)
    return runs


def _runs_in(parser: Parser, folder: Path, which: CheckpointName) -> dict[int, tuple[Study, Path]]:
    """The runs of a folder, with their parameters: one, or one per seed."""
    if not (folder / "config.yaml").exists():
        parser.error(f"{folder} is no run folder: it has no config.yaml")
    config = _parsed(parser, ["--config", str(folder / "config.yaml")])
    if config.seeds:
        runs: dict[int, tuple[Study, Path]] = {}
        for seed in _seeds_of(config.seeds):
            if (folder / f"seed-{seed}").exists():
                runs |= _runs_in(parser, folder / f"seed-{seed}", which)
            else:
                print(f"seed {seed} is not trained: train --resume {folder} does it")
        return runs
    study = _study(parser, config)
    try:
        study.load(folder, which)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    return {config.algorithm.seed: (study, folder)}


def _evaluate(parser: Parser, runs: dict[int, tuple[Study, Path]], period: PeriodName, group: Path | None) -> None:
    """Score runs, write their files and print; of several seeds the summary only."""
    if not runs:
        parser.error(f"{group} holds no trained run")
    on_market = next(iter(runs.values()))[0].core is not None
    if not on_market and period != "test":
        parser.error("--period is one of the market's; other environments play new episodes")
    results = {seed: study.evaluate(folder, period) for seed, (study, folder) in runs.items()}
    files = [f"evaluation-{period}.json"]
    if on_market:
        files += [f"trades-{period}.csv", f"tearsheet-{period}.html", f"equity-{period}.png", f"returns-{period}.png"]
    if group is None:
        ((study, folder),) = runs.values()
        print_summary(next(iter(results.values())), title=f"{folder}, step {study.step}, {period}")
        print(f"{folder}: {', '.join(files)}")
        print(f"tensorboard --logdir {folder.parent}")
    else:
        write_file(group / f"seeds-{period}.json", json.dumps(results, indent=2))
        print_seeds(results, title=f"{group}, {period}")
        print(f"{group}: seeds-{period}.json; in each seed's folder: {', '.join(files)}")
        print(f"tensorboard --logdir {group}")


def main(arguments: list[str] | None = None) -> None:
    """:param arguments: the command line, None: the process's"""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help")):
        arguments.insert(0, "train")
    train_parser = _train_parser()
    parser = _parser(train_parser)
    if arguments[0] == "train":
        arguments = _with_config(arguments, parser)
    config = _parsed(parser, arguments)
    try:
        _run(train_parser, config)
    except KeyboardInterrupt as stop:
        name = Path(sys.argv[0]).name
        if stop.args:
            folder = stop.args[0].parent if config.train.seeds else stop.args[0]
            print(f"stopped; go on with: {'python ' if name.endswith('.py') else ''}{name} train --resume {folder}")
        sys.exit(130)


def _run(parser: Parser, config: jsonargparse.Namespace) -> None:
    """Do what the command line says."""
    if config.command == "evaluate":
        folder = config.evaluate.folder
        runs = _runs_in(parser, folder, config.evaluate.checkpoint)
        _evaluate(parser, runs, config.evaluate.period, None if (folder / "run.json").exists() else folder)
        return
    train, resume = config.train, config.train.pop("resume")
    if resume is not None:
        _check_unchanged(parser, train, resume)
    else:
        _find_files_from_anywhere(train)
    if train.seeds:
        runs = _train_seeds(parser, train, resume)
        _evaluate(parser, runs, "test", next(iter(runs.values()))[1].parent)
    else:
        study, folder = _train(parser, train, resume)
        _evaluate(parser, {study.seed: (study, folder)}, "test", None)


def _find_files_from_anywhere(config: jsonargparse.Namespace) -> None:
    """Make the paths of the data absolute, so that a run can be resumed and evaluated from another folder."""
    data = config.get("market.data")
    if data:
        entries = [data] if isinstance(data, str) else data
        found = [str(Path(e).resolve()) if e not in SHIPPED and Path(e).exists() else e for e in entries]
        config["market.data"] = found[0] if isinstance(data, str) else found


if __name__ == "__main__":
    main()
