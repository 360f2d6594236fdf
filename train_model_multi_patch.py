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
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import jsonargparse
from gymnasium.error import Error as GymnasiumError

from market_regimes.arguments import Parser, files_first, run_with, values_of, wants_defaults
from market_regimes.compare.comparison import RESERVED, Comparison, cells_of
from market_regimes.compare.folds import Fold, folds_of
from market_regimes.config import SHIPPED, CheckpointName, Hypothesis, MarketConfig, PeriodName, TradingCosts, seeds_of
from market_regimes.files import leave_closed_pipe, new_folder, stamped, write_file
from market_regimes.market.describe import absent, described, lines_of, read_data, said, warnings_of
from market_regimes.market.segments import Segments
from market_regimes.market.trained import already_seen, said_of, trained_on, without_own_rule
from market_regimes.parsers import DEFAULT_CONFIGS, command_parser, compare_parser, train_parser, tune_parser
from market_regimes.report import program, report
from market_regimes.run.agent import Agent
from market_regimes.run.evaluation import name_of
from market_regimes.run.signal import filled_at, json_of, position_of, print_signals
from market_regimes.run.study import Study

# When a run or a comparison is resumed.
MAY_CHANGE = {"run.total_timesteps", "run.progress_bar", "market.data"}
MAY_CHANGE_TUNE = {"run.progress_bar", "trials", "workers"}
MAY_CHANGE_COMPARE = {"run.progress_bar", "compare.seeds", "compare.workers", "compare.executor", "hypotheses"}
# What constructors raise on values they refuse; anything else is a mistake of ours and shows its traceback.
REFUSALS = (ValueError, TypeError, AssertionError, ArithmeticError, OSError, RuntimeError, ImportError, GymnasiumError)
Runs = dict[int | None, tuple[Study, Path]]  # by seed, each with its folder


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
    except BrokenPipeError:
        raise
    except (ValueError, OSError, FloatingPointError, RuntimeError) as error:
        parser.error(str(error))
    return study, folder


def _train_seeds(parser: Parser, config: jsonargparse.Namespace, resumed: Path | None) -> Runs:
    """One run folder per seed within the run's own; those that are there go on."""
    try:
        group = resumed or new_folder(config.run)
    except ValueError as error:
        parser.error(str(error))
    group.mkdir(parents=True, exist_ok=True)
    segments = _segments(parser, config)
    write_file(group / "config.yaml", parser.dump(config, skip_unset=False))
    runs: Runs = {}
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
) -> Runs:
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
        runs: Runs = {}
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


def _evaluate(parser: Parser, runs: Runs, period: PeriodName, group: Path | None) -> None:
    """Score runs on a period of their own and print."""
    if not runs:
        parser.error(f"{group} holds no trained run")
    study = next(iter(runs.values()))[0]
    on_market = study.core is not None
    if not on_market and period != "test":
        parser.error("--period is one of the market's; other environments play new episodes")
    scored = {seed: (folder, study.evaluate(folder, period)) for seed, (study, folder) in runs.items()}
    notes = already_seen(study.segments[period], trained_on(study.segments)) if on_market else []
    report(scored, period, group, notes, on_market)


def _evaluate_on(parser: Parser, options: jsonargparse.Namespace, group: Path | None) -> None:
    """Score runs on other bars or days than those of their periods and print."""
    if options.period is not None:
        parser.error("--period names days of the run's own data: give it, or --data, --from and --to")
    folders = [options.folder] if group is None else sorted(group.glob("seed-*"))
    scored: dict[int | None, tuple[Path, dict[str, Any]]] = {}
    try:
        for folder in folders:
            agent = Agent.load(folder, options.checkpoint)
            entries = options.data or agent.configured.market.entries
            segments = agent.segments(entries, (options["from"], options.to), options.like)
            name = name_of(options.data, segments)
            scored[agent.configured.algorithm.get("seed")] = folder, agent.evaluate(segments, folder, name)
        if not scored:
            parser.error(f"{group} holds no trained run")
    except (ValueError, OSError) as error:
        parser.error(str(error))
    notes = said_of(segments, agent.trained, options.like) + already_seen(segments, agent.trained)
    notes += without_own_rule(segments, agent.configured.market)
    report(scored, name, group, notes, True)


def _signal(parser: Parser, options: jsonargparse.Namespace) -> None:
    """Print what to hold after the last bar."""
    try:
        agent = Agent.load(options.folder, options.checkpoint)
        entries = options.data or agent.configured.market.entries
        position = position_of(options.position) if options.position else None
        signals = agent.signal(entries, position, options.like, first=options["from"])
    except (ValueError, OSError) as error:
        parser.error(str(error))
    if options.json:
        print(json_of(signals, options.observation))
        return
    title = (
        f"{options.folder}, step {agent.step}, on {', '.join(entries)}: decided at the last close, "
        f"filled at {filled_at(signals)}"
    )
    print_signals(signals, title, options.observation)
    if not options.position:
        played = agent.plays_bars(options["from"])
        held = f"what the agent holds since {options['from'] or 'the first observation'}" if played else "0"
        print(f"position held: {held}, as --position does not give it")


def _export(parser: Parser, options: jsonargparse.Namespace) -> None:
    """Write a run's agent as ONNX."""
    out = options.out or options.folder / "agent.onnx"
    try:
        agent = Agent.load(options.folder, options.checkpoint)
        layout = agent.export(out)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print(f"{options.folder}, step {agent.step}: {out}, and the layout of its observation: {layout}")


def main(arguments: list[str] | None = None) -> None:
    """:param arguments: the command line, None: the process's"""
    try:
        try:
            _main(arguments)
        finally:
            sys.stdout.flush()  # while a closed pipe is still caught here
    except BrokenPipeError:
        leave_closed_pipe()


def _main(arguments: list[str] | None) -> None:
    """Parse the command line and do what it says."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help", "--version")):
        arguments.insert(0, "train")
    command, *rest = arguments
    with_defaults = "--resume" not in rest and not values_of("--resume", rest) and wants_defaults(rest)
    parser = command_parser(__doc__, command, with_defaults)
    rest = _import_packages(rest, parser)
    if command in DEFAULT_CONFIGS:
        rest = files_first(_resumed(rest, parser))
    config = _parsed(parser, [command, *rest])
    if command in DEFAULT_CONFIGS:
        config[command].defaults = "none"  # what is resolved wants no other values below it
        config[command].pop("__default_config__", None)
    try:
        _run(train_parser(), config)
    except KeyboardInterrupt as stop:
        if stop.args:
            several = config.command == "train" and config.train.get("seeds")
            folder = stop.args[0].parent if several else stop.args[0]
            print(f"stopped; go on with: {program()} {config.command} --resume {folder}")
        sys.exit(130)


def _run(parser: Parser, config: jsonargparse.Namespace) -> None:
    """Do what the command line says."""
    if config.command == "signal":
        _signal(parser, config.signal)
        return
    if config.command == "export":
        _export(parser, config.export)
        return
    if config.command == "evaluate":
        options = config.evaluate
        group = None if (options.folder / "run.json").exists() else options.folder
        if options.data or options["from"] or options.to or options.like:
            _evaluate_on(parser, options, group)
        else:
            _evaluate(
                parser,
                _runs_in(parser, options.folder, options.checkpoint, options.market.data),
                options.period or "test",
                group,
            )
        return
    if config.command != "train":
        commands = {"sanity": _sanity, "compare": _compare, "regimes": _compare, "tune": _tune, "data": _data}
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
    from market_regimes.compare.hypotheses import check_hypotheses  # with statistics, a second

    parser, resume = compare_parser(), config.pop("resume")
    if resume is not None:
        _check_unchanged(parser, config, resume, MAY_CHANGE_COMPARE)
    else:
        _find_files_from_anywhere(config)
        config.run.name = config.run.name or stamped("compare")
    if config.run.env_id != "market":
        parser.error(f"compare needs run.env_id=market, got {config.run.env_id}: only markets have folds")
    try:
        objects = parser.instantiate(config)
        run, compare, hypotheses = objects.run, objects.compare, objects.hypotheses
        check_hypotheses(hypotheses)
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
    _report(comparison, folds, config, hypotheses)


def _report(
    comparison: Comparison, folds: Sequence[Fold], config: jsonargparse.Namespace, hypotheses: Sequence[Hypothesis]
) -> None:
    """Write and print what a comparison showed, at last how alike its variants treat calm and stormy days."""
    from market_regimes.compare.headline import headline
    from market_regimes.compare.hypotheses import left_out
    from market_regimes.compare.verdicts import (
        alike,
        print_by_regime,
        print_verdicts,
        tables_of,
        write_tables,
    )

    folder, baseline = comparison.folder, config.compare.baseline
    tables = tables_of(comparison, folds, config.variants, baseline, hypotheses)
    first, last = headline(tables.effects, tables.sharpe, tables.daily, baseline), alike(tables.cells)
    write_tables(folder, tables, baseline, (folder / "config.yaml").read_text("utf-8"), [*first, *last])
    print_verdicts(tables, f"{folder}, against {baseline}", first)
    for sentence in left_out(hypotheses, config.variants):
        print(sentence)
    print(f"{folder}: report.html; cells, effects, hopes and sharpe as .csv; cells, curves and daily as .parquet")
    print_by_regime(tables.cells)
    for sentence in last:
        print(sentence)


def _algorithms(parser: Parser, config: jsonargparse.Namespace, fold: Fold) -> dict[str, dict[str, Any]]:
    """Keyword arguments of every variant, each tried on a fold, so that nothing is trained before all can be."""
    if not config.variants:
        parser.error("there are no variants: give them by name under variants in the configuration")
    algorithms: dict[str, dict[str, Any]] = {}
    for name, keys in config.variants.items():
        Parser.section = f"variants.{name}"
        own = {key: value for key, value in keys.items() if key not in RESERVED}
        run = {"n_envs": keys["n_envs"]} if "n_envs" in keys else {}
        one = run_with(parser, config, {"algorithm": own, "run": run})
        if fold.missing is None:
            _study(parser, one, fold.segments)
        algorithms[name] = one.algorithm.as_dict()
    Parser.section = ""
    return algorithms


def _tune(train_parser: Parser, config: jsonargparse.Namespace) -> None:
    """Run the trials that are left, then write the best values as a configuration."""
    from market_regimes.tune import tune  # with what a search alone needs

    parser, resume = tune_parser(), config.pop("resume")
    if resume is not None:
        _check_unchanged(parser, config, resume, MAY_CHANGE_TUNE)
    else:
        _find_files_from_anywhere(config)
        config.run.name = config.run.name or stamped("tune")
    try:
        tune(parser, train_parser, config, resume, lambda one, segments: _study(train_parser, one, segments))
    except BrokenPipeError:
        raise
    except REFUSALS as error:
        parser.error(_sentence(error))


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
