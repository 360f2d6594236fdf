"""
Train and evaluate DistributionalPPO from the command line.

    python train_model_multi_patch.py                             train as configs/train.yaml says
    python train_model_multi_patch.py train --config my.yaml --algorithm.use_variance_gradient_scaling=false
    python train_model_multi_patch.py train --resume runs/NAME    go on after an interruption
    python train_model_multi_patch.py train --seeds 0-4           five runs and their summary
    python train_model_multi_patch.py evaluate runs/NAME --period validation
    python train_model_multi_patch.py data prices.csv             what is read from files, and what is assumed
    python train_model_multi_patch.py sanity                      6,144 steps: does the scaling work on these data?
    python train_model_multi_patch.py compare                     variants x seeds x folds, with statistics and a report
    python train_model_multi_patch.py regimes                     which kappa and mode treat calm and storm alike?

Every command has a shipped configuration. Your files lie over it in the order given, and flags over them, wherever
they stand; ``defaults: none`` in a file leaves the shipped one out. Every flag is a key of the file and a parameter of
a constructor; ``train --help`` lists them. ``--run.import=PACKAGE`` imports what registers an environment.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import sys
from pathlib import Path
from typing import Any, Literal, get_args

import jsonargparse
from gymnasium.error import Error as GymnasiumError
from stable_baselines3.common.policies import ActorCriticPolicy

from distributional_ppo import DistributionalPPO, QuantileActorCriticPolicy, __version__
from market_regimes.arguments import Parser, add_constructor, files_first, types_of, values_of, wants_defaults
from market_regimes.compare.comparison import RESERVED, Comparison, cells_of
from market_regimes.compare.folds import Fold, folds_of
from market_regimes.config import (
    SHIPPED,
    CheckpointName,
    CompareConfig,
    MarketConfig,
    PeriodName,
    RunConfig,
    TradingCosts,
    seeds_of,
)
from market_regimes.evaluate.tables import print_seeds, print_summary
from market_regimes.files import new_folder, stamped, write_file
from market_regimes.market.describe import absent, described, lines_of, read_data, said, warnings_of
from market_regimes.market.segments import Segments
from market_regimes.run.algorithm import ACTIVATIONS, OPTIMIZERS, schedule
from market_regimes.run.study import Study

HERE = Path(__file__).parent
# In a checkout the configurations lie beside this file, in an installed wheel inside the package.
CONFIGS = next((p for p in (HERE / "configs", HERE / "market_regimes/configs") if p.exists()), None)
DEFAULT_CONFIGS = {"train": "train.yaml", "sanity": "train.yaml", "compare": "compare.yaml", "regimes": "regimes.yaml"}
COMMANDS = (*DEFAULT_CONFIGS, "evaluate", "data")
# When a run or a comparison is resumed.
MAY_CHANGE = {"run.total_timesteps", "run.progress_bar", "market.data"}
MAY_CHANGE_COMPARE = {"run.progress_bar", "compare.seeds", "compare.workers", "compare.executor"}
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


def seeds(text: str | int) -> str:
    """
    Seeds as 0-4 or 0,3,7.

    :raises ValueError: on anything else, and on too many
    """
    seeds_of(str(text))
    return str(text)


def _train_parser(defaults: Path | None = None) -> Parser:
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
    parser.add_argument("--resume", type=Path, help="run folder to go on in, as it was configured")
    parser.add_class_arguments(RunConfig, "run")
    parser.add_class_arguments(MarketConfig, "market")
    add_constructor(parser, "algorithm", DistributionalPPO.__init__, DistributionalPPO.__doc__ or "", SKIPPED, TYPES)
    for policy in (QuantileActorCriticPolicy, ActorCriticPolicy):
        doc = policy.__doc__ or ""
        add_constructor(parser, "algorithm.policy_kwargs", policy.__init__, doc, SKIPPED_POLICY, TYPES)


def _compare_parser(description: str = "", defaults: Path | None = None) -> Parser:
    parser = Parser(allow_abbrev=False, description=description, default_config_files=_files(defaults))
    _add_study(parser)
    parser.add_class_arguments(CompareConfig, "compare")
    parser.add_argument(
        "--variants",
        type=dict[str, dict[str, Any]],
        default={},
        help=f"per name the keys of algorithm that make the variant; also {', '.join(RESERVED)}",
    )
    return parser


class _HelpAsWritten(jsonargparse.DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):  # type: ignore[misc]
    """Keeps the lines of the module's docstring, which are commands."""


def _program() -> str:
    """What a user types to start this program: the script, or the command that an installed wheel has."""
    name = Path(sys.argv[0]).name
    return f"python {name}" if name.endswith(".py") else name


def _parser(with_defaults: bool = True) -> Parser:
    """:param with_defaults: whether the shipped configurations lie below all that is given"""
    description = (__doc__ or "").replace(f"python {Path(__file__).name}", _program())
    parser = Parser(allow_abbrev=False, description=description, formatter_class=_HelpAsWritten)
    parser.add_argument("--version", action="version", version=f"distributional-ppo {__version__}")
    files = {name: CONFIGS / file if CONFIGS and with_defaults else None for name, file in DEFAULT_CONFIGS.items()}
    commands = parser.add_subcommands(dest="command")
    commands.add_subcommand("train", _train_parser(files["train"]), help="train an agent (the default)")
    evaluate = Parser(allow_abbrev=False, description="Score a run's agent, deterministically, beside buy-and-hold.")
    evaluate.add_argument("folder", type=Path, help="run folder")
    evaluate.add_argument("--period", type=PeriodName, default="test", help="period of the market")
    evaluate.add_argument("--checkpoint", type=CheckpointName, default="best", help="best by validation, or the last")
    evaluate.add_argument("--market.data", type=str | list[str], help="where the run's data are by now")
    commands.add_subcommand("evaluate", evaluate, help="evaluate a run")
    data = Parser(allow_abbrev=False, description="Read files of prices and say what was read; nothing is trained.")
    data.add_argument("files", nargs="+", help=f"{', '.join(SHIPPED)}, files, or folders of them")
    data.add_argument("--json", action="store_true", help="print a list of objects, one per symbol")
    data.add_class_arguments(MarketConfig, "market", skip={"data"})
    commands.add_subcommand("data", data, help="read files and say what was read")
    for name, help in (
        ("sanity", "6,144 steps, and whether the scaling works in them"),
        ("compare", "train variants x seeds x folds and answer with statistics"),
        ("regimes", "compare kappa x mode: which treats calm and stormy days alike?"),
    ):
        one = _train_parser(files[name]) if name == "sanity" else _compare_parser(help, files[name])
        commands.add_subcommand(name, one, help=help)
    Parser.known = {**dict.fromkeys(COMMANDS), **types_of(_train_parser()), **types_of(_compare_parser())}
    return parser


def _instantiated(parser: Parser, config: jsonargparse.Namespace) -> Any:
    """The sections as objects; what they refuse ends the program with their words."""
    for section in ("run", "market", "market.trading", "algorithm", "algorithm.policy_kwargs"):
        if not isinstance(config[section], jsonargparse.Namespace):
            parser.error(f"the section {section} of the configuration must hold keys, got {config[section]!r}")
    for action in parser._actions:  # a null passes every type check of jsonargparse
        may_be_null = action.default is None or type(None) in get_args(getattr(action, "_typehint", None))
        if not may_be_null and config.get(action.dest, action) is None:
            parser.error(f"{action.dest} must have a value, got null")
    try:
        return parser.instantiate(config)
    except REFUSALS as error:
        parser.error(_sentence(error))


def _sentence(error: Exception) -> str:
    return str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"


def _segments(parser: Parser, config: jsonargparse.Namespace) -> Segments:
    """
    Read the market of a run and say what was assumed; the configuration gets the periods. None in other environments.
    """
    objects = _instantiated(parser, config)
    if objects.run.env_id != "market":
        return {}
    try:
        data = read_data(objects.market)
    except REFUSALS as error:
        parser.error(_sentence(error))
    for line in said(data, objects.market):
        print(line)
    for sentence in warnings_of(data.read):
        print(f"warning: {sentence}", file=sys.stderr)
    for name in get_args(PeriodName):
        config.market[name] = data.config.days(name)
    return data.segments


def _study(parser: Parser, config: jsonargparse.Namespace, segments: Segments) -> Study:
    """Build the run on what was read; a value that a constructor refuses ends the program with its words."""
    objects = _instantiated(parser, config)
    try:
        return Study(objects.run, objects.market, config.algorithm.as_dict(), segments)
    except REFUSALS as error:
        parser.error(_sentence(error))


def _data(parser: Parser, config: jsonargparse.Namespace) -> None:
    """Say what is read from files."""
    try:
        keys = config.market.as_dict()
        trading = TradingCosts(**keys.pop("trading"))
        data = read_data(MarketConfig(data=config.files, trading=trading, **keys))
    except REFUSALS as error:
        parser.error(_sentence(error))
    symbols = described(data)
    if config.json:
        print(json.dumps(symbols, indent=2))
        return
    for symbol in symbols:
        print("\n".join(lines_of(symbol)))
    for line in [*absent(data), *(f"warning: {sentence}" for sentence in warnings_of(data.read))]:
        print(line)


def _resumed(arguments: list[str], parser: Parser) -> list[str]:
    """The command line with the run's own configuration, if one is resumed."""
    folders = values_of("--resume", arguments)
    if not folders:
        return arguments
    if values_of("--config", arguments) or values_of("--seeds", arguments):
        parser.error("--resume goes on with the run's own configuration and seeds: leave --config and --seeds away")
    config = Path(folders[-1]) / "config.yaml"
    if not config.exists():
        parser.error(f"{folders[-1]} is no run folder: it has no config.yaml")
    return ["--config", str(config), *arguments]


def _import_packages(arguments: list[str], parser: Parser) -> list[str]:
    """Import what ``--run.import`` names, which registers environments; return the rest of the command line."""
    packages = values_of("--run.import", arguments)
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            parser.error(f"--run.import={package}: {error}")
    flags = {f"--run.import={package}" for package in packages}
    places = {i for i, name in enumerate(arguments) if name == "--run.import"}
    return [a for i, a in enumerate(arguments) if a not in flags and i not in places and i - 1 not in places]


def _check_unchanged(
    parser: Parser, config: jsonargparse.Namespace, folder: Path, may_change: set[str] = MAY_CHANGE
) -> None:
    """Refuse a resumed run with another configuration than the one it was started with."""
    before = _parsed(parser, ["--config", str(folder / "config.yaml")]).as_flat()
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


def _parsed(parser: Parser, arguments: list[str]) -> jsonargparse.Namespace:
    """Parse; a configuration that is no text ends the program with a sentence, as one with wrong keys does."""
    Parser.source = ", ".join(values_of("--config", arguments))
    try:
        return parser.parse_args(arguments)
    except (UnicodeDecodeError, RecursionError) as error:
        parser.error(f"the configuration {Parser.source} cannot be read: {type(error).__name__}")


def _train(
    parser: Parser, config: jsonargparse.Namespace, folder: Path | None, segments: Segments | None = None
) -> tuple[Study, Path]:
    """
    :param config: configuration of one run
    :param folder: run folder to resume, None: a new one
    :param segments: of its market, where they are read already
    :return: the trained run and its folder
    """
    study = _study(parser, config, _segments(parser, config) if segments is None else segments)
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
    segments = _segments(parser, config)
    write_file(group / "config.yaml", parser.dump(config, skip_unset=False))
    runs: dict[int, tuple[Study, Path]] = {}
    for seed in seeds_of(config.seeds):
        one = config.clone()
        one.seeds, one.algorithm.seed = None, seed
        one.run.out, one.run.name = str(group), f"seed-{seed}"
        folder = group / one.run.name
        if folder.exists():
            _check_unchanged(parser, one, folder)
        runs[seed] = _train(parser, one, folder if folder.exists() else None, segments)
    return runs


def _runs_in(
    parser: Parser,
    folder: Path,
    which: CheckpointName,
    data: str | list[str] | None = None,
    segments: Segments | None = None,
) -> dict[int, tuple[Study, Path]]:
    """
    :param folder: of one run, or of one per seed
    :param which: checkpoint of each
    :param data: where the run's data are by now, None: where they were
    :param segments: of the market, where they are read already
    :return: per seed the run, with its parameters, and its folder
    """
    if not (folder / "config.yaml").exists():
        parser.error(f"{folder} is no run folder: it has no config.yaml")
    config = _parsed(parser, ["--config", str(folder / "config.yaml")])
    config.market.data = config.market.data if data is None else data
    segments = _segments(parser, config) if segments is None else segments
    if config.seeds:
        runs: dict[int, tuple[Study, Path]] = {}
        for seed in seeds_of(config.seeds):
            if (folder / f"seed-{seed}").exists():
                runs |= _runs_in(parser, folder / f"seed-{seed}", which, data, segments)
            else:
                print(f"seed {seed} is not trained: train --resume {folder} does it")
        return runs
    study = _study(parser, config, segments)
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
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help", "--version")):
        arguments.insert(0, "train")
    command, *rest = arguments
    parser = _parser(with_defaults="--resume" not in rest and not values_of("--resume", rest) and wants_defaults(rest))
    rest = _import_packages(rest, parser)
    if command in DEFAULT_CONFIGS:
        rest = files_first(_resumed(rest, parser))
    config = _parsed(parser, [command, *rest])
    if command in DEFAULT_CONFIGS:
        config[command].defaults = "none"  # what is resolved wants no other values below it
        config[command].pop("__default_config__", None)
    try:
        _run(_train_parser(), config)
    except KeyboardInterrupt as stop:
        if stop.args:
            folder = stop.args[0].parent if config[config.command].get("seeds") else stop.args[0]
            print(f"stopped; go on with: {_program()} {config.command} --resume {folder}")
        sys.exit(130)


def _run(parser: Parser, config: jsonargparse.Namespace) -> None:
    """Do what the command line says."""
    if config.command == "evaluate":
        folder = config.evaluate.folder
        runs = _runs_in(parser, folder, config.evaluate.checkpoint, config.evaluate.market.data)
        _evaluate(parser, runs, config.evaluate.period, None if (folder / "run.json").exists() else folder)
        return
    if config.command != "train":
        commands = {"sanity": _sanity, "compare": _compare, "regimes": _compare, "data": _data}
        commands[config.command](parser, config[config.command])
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


def _sanity(parser: Parser, config: jsonargparse.Namespace) -> None:
    """Train a little, read the event file back, and exit with 1 if the scaling does not work as it should."""
    from market_regimes.run.sanity import (  # with TensorBoard's reader, for which train need not wait
        SANITY_STEPS,
        checks,
        print_checks,
    )

    config.run.total_timesteps = SANITY_STEPS
    config.run.name = config.run.name or stamped("sanity")
    config.algorithm.n_steps = min(config.algorithm.n_steps, max(2, math.ceil(SANITY_STEPS / (4 * config.run.n_envs))))
    study, folder = _train(parser, config, None)
    if not print_checks(checks(folder, study.model), f"{folder}, {study.model.num_timesteps} steps"):
        sys.exit(1)


def _compare(train_parser: Parser, config: jsonargparse.Namespace) -> None:
    """Run what is not there yet, then write tables and report."""
    from market_regimes.compare.verdicts import print_by_regime, print_verdicts, tables_of, write_tables  # a second

    parser, resume = _compare_parser(), config.pop("resume")
    if resume is not None:
        _check_unchanged(parser, config, resume, MAY_CHANGE_COMPARE)
    else:
        _find_files_from_anywhere(config)
        config.run.name = config.run.name or stamped("compare")
    if config.run.env_id != "market":
        parser.error(f"compare needs run.env_id=market, got {config.run.env_id}: only markets have folds")
    try:
        objects = parser.instantiate(config)
        run, compare = objects.run, objects.compare
        folds = folds_of(compare, objects.market)
        algorithms = _algorithms(train_parser, config, next((f for f in folds if not f.missing), folds[0]))
        cells = cells_of(compare, run, algorithms, config.variants, folds)
        folder = resume or new_folder(run)
        comparison = Comparison(folder, cells, {fold.label: fold.fingerprint for fold in folds})
    except REFUSALS as error:
        parser.error(_sentence(error))
    for sentence in dict.fromkeys(sentence for fold in folds for sentence in fold.said):
        print(sentence)
    for fold in folds:
        print(f"{fold.label}, {fold.name}: {fold.missing or 'train ' + ' to '.join(fold.market.days('train'))}")
    write_file(folder / "config.yaml", parser.dump(config, skip_unset=False))
    print(f"{len(cells)} cells in {folder}", flush=True)
    try:
        comparison.run(compare.executor, compare.workers, run.progress_bar)
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(folder) from stop
    except ValueError as error:
        parser.error(str(error))
    tables = tables_of(comparison, folds, config.variants, compare.baseline)
    write_tables(folder, tables, compare.baseline, (folder / "config.yaml").read_text("utf-8"))
    print_by_regime(tables.cells)
    print_verdicts(tables, f"{folder}, against {compare.baseline}")
    print(f"{folder}: report.html; cells, effects, hopes and sharpe as .csv; cells, curves and daily as .parquet")


def _algorithms(parser: Parser, config: jsonargparse.Namespace, fold: Fold) -> dict[str, dict[str, Any]]:
    """Keyword arguments of every variant, each tried on a fold, so that nothing is trained before all can be."""
    if not config.variants:
        parser.error("there are no variants: give them by name under variants in the configuration")
    source, algorithms = Parser.source, {}
    for name, keys in config.variants.items():
        Parser.source = f"{source}, variants.{name}"
        own = {key: value for key, value in keys.items() if key not in RESERVED}
        base = jsonargparse.Namespace({key: config[key].clone() for key in ("run", "market", "algorithm")})
        run = {"n_envs": keys["n_envs"]} if "n_envs" in keys else {}
        one = parser.parse_object({"algorithm": own, "run": run}, namespace=base)
        if fold.missing is None:
            _study(parser, one, fold.segments)
        algorithms[name] = one.algorithm.as_dict()
    Parser.source = source
    return algorithms


def _find_files_from_anywhere(config: jsonargparse.Namespace) -> None:
    """Make the paths of the data absolute, so that a run can be resumed and evaluated from another folder."""
    for name in ("market.data", "compare.markets"):
        data = config.get(name)
        if data:
            entries = [data] if isinstance(data, str) else data
            found = [str(Path(e).resolve()) if e not in SHIPPED and Path(e).exists() else e for e in entries]
            config[name] = found[0] if isinstance(data, str) else found


if __name__ == "__main__":
    main()
