"""The command ``tune``: from a configuration with a search space to the best values as a configuration of ``train``."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import jsonargparse

from market_regimes.arguments import Parser, run_with, types_of
from market_regimes.compare.folds import Fold
from market_regimes.compare.space import check_key, distribution_of, ends_of, nested
from market_regimes.compare.tuning import Search, conclude, folds_before_test, run_search
from market_regimes.config import TuneConfig
from market_regimes.files import new_folder, write_file
from market_regimes.market.segments import Segments
from market_regimes.report import program

Build = Callable[[jsonargparse.Namespace, Segments], Any]


def tune(
    parser: Parser, train_parser: Parser, config: jsonargparse.Namespace, resumed: Path | None, build: Build
) -> None:
    """
    Run the trials that are left, then write ``best.yaml``, ``trials.csv`` and the pictures.

    :param parser: of the command
    :param train_parser: of ``train``, whose keys a search varies
    :param config: of the search
    :param resumed: folder of a search to go on with, None: a new one
    :param build: builds a run of a configuration, and ends the program on values that no run can have
    :raises ValueError: on data or a space that cannot be used, and if no trial was finished
    :raises KeyboardInterrupt: with the folder, if the user stopped the search
    """
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise ValueError('tune needs optuna, which is not installed: pip install "distributional-ppo[tune]"') from error
    if config.run.env_id != "market":
        raise ValueError(f"tune needs run.env_id=market, got {config.run.env_id}: only markets have folds")
    objects, options = parser.instantiate(config), TuneConfig(**{f.name: config[f.name] for f in fields(TuneConfig)})
    folds = folds_before_test(options, objects.market)
    usable = [fold for fold in folds if fold.missing is None]
    _check_space(train_parser, config, usable[0], build)
    folder = resumed or new_folder(objects.run)
    folder.mkdir(parents=True, exist_ok=True)
    for sentence in dict.fromkeys(sentence for fold in folds for sentence in fold.said):
        print(sentence)
    for fold in folds:
        train, validation = (" to ".join(fold.market.days(name)) for name in ("train", "test"))
        left_out = ": left out for want of bars" if fold.missing else ""
        print(f"{fold.label}: train {train}, validate {validation}{left_out}")
    print("no bar of the test period, nor any after it, is used")
    print(f"{options.trials} trials in {folder}", flush=True)
    search = Search(folder, options, objects.run, config.algorithm.as_dict(), config.space, usable)
    try:
        run_search(search, parser.dump(config, skip_unset=False))
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(folder) from stop
    _report(conclude(search), train_parser, config, folder)


def _report(best: Any, parser: Parser, config: jsonargparse.Namespace, folder: Path) -> None:
    """Write and print the best trial."""
    one = run_with(parser, config, nested(best.params))
    one.run.name, one.defaults = None, "none"
    write_file(folder / "best.yaml", parser.dump(one, skip_unset=False))
    print(f"best: trial {best.number}, Sharpe ratio of validation {best.value:.3f}")
    for key, value in best.params.items():
        print(f"  {key}: {value}")
    files = [name for name in ("best.yaml", "trials.csv", "history.png", "importance.png") if (folder / name).exists()]
    print(f"{folder}: {', '.join(files)}")
    print(f"next:\n  {program()} train --config {folder / 'best.yaml'}")


def _check_space(parser: Parser, config: jsonargparse.Namespace, fold: Fold, build: Build) -> None:
    """Try the ends of every range and every choice, so that nothing is trained before all can be."""
    if not config.space:
        raise ValueError("the space is empty: give keys to vary under space in the configuration")
    Parser.section = "space"
    for key, wanted in config.space.items():
        check_key(key, types_of(parser))
        distribution_of(key, wanted)
        for value in ends_of(wanted):
            with warnings.catch_warnings():  # of values that no trial need have together
                warnings.simplefilter("ignore")
                build(run_with(parser, config, nested({key: value})), fold.segments)
    Parser.section = ""
