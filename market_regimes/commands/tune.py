"""The command ``tune``: from a configuration with a search space to the best values as a configuration of ``train``."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import jsonargparse

from market_regimes.commands.configuration import run_with
from market_regimes.commands.configured_study import study_of
from market_regimes.commands.parser import Parser
from market_regimes.commands.parsers import tune_parser
from market_regimes.commands.program import program
from market_regimes.commands.progress import working
from market_regimes.commands.refusals import refusals
from market_regimes.commands.resume import leave_fill_to_the_data, start_or_resume
from market_regimes.config import TuneConfig
from market_regimes.evaluate.tables import figure_text
from market_regimes.files import new_folder, write_file
from market_regimes.market.walk_forward import Fold
from market_regimes.tune.folds import folds_before_test
from market_regimes.tune.search import Search, conclude, median_of_means, run_search
from market_regimes.tune.space import check_key, distribution_of, ends_of, nested

MAY_CHANGE = {"run.progress_bar", "trials", "workers"}  # when a search is resumed


def tune(train_parser: Parser, config: jsonargparse.Namespace) -> None:
    """
    Run the trials that are left, then write ``best.yaml``, ``trials.csv`` and the pictures.

    :param train_parser: of ``train``, whose keys a search varies
    :param config: of the search
    :raises KeyboardInterrupt: with the folder, if the user stopped the search
    """
    parser = tune_parser(reading=train_parser.reading)
    resume = config.pop("resume")
    start_or_resume(parser, config, resume, MAY_CHANGE, "tune")
    if resume is not None:
        leave_fill_to_the_data(config)
    with refusals(parser):
        _tune(parser, train_parser, config, resume)


def _tune(
    parser: Parser,
    train_parser: Parser,
    config: jsonargparse.Namespace,
    resumed: Path | None,
) -> None:
    """The same, where what is refused is raised."""
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise ValueError('tune needs optuna, which is not installed: pip install "distributional-ppo[tune]"') from error
    if config.run.env_id != "market":
        raise ValueError(f"tune needs run.env_id=market, got {config.run.env_id}: only markets have folds")

    # Nothing is trained before all values of the space were tried.
    objects = parser.instantiate(config)
    options = TuneConfig(**{field.name: config[field.name] for field in fields(TuneConfig)})
    folds = folds_before_test(options, objects.market)
    usable = [fold for fold in folds if fold.missing is None]
    _check_space(train_parser, config, usable[0])

    folder = resumed or new_folder(objects.run)
    folder.mkdir(parents=True, exist_ok=True)
    _print_folds(folds)

    print(f"{options.trials} trials in {folder}", flush=True)
    search = Search(folder, options, objects.run, config.algorithm.as_dict(), config.space, usable)
    try:
        with working(f"{options.trials} trials", objects.run.progress_bar):
            run_search(search, parser.dump(config, skip_unset=False))
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(folder) from stop
    _report(conclude(search), train_parser, config, folder)


def _print_folds(folds: Sequence[Fold]) -> None:
    """Print what was assumed about the files, and the days of every fold."""
    for sentence in dict.fromkeys(sentence for fold in folds for sentence in fold.notes):
        print(sentence)

    for fold in folds:
        train = " to ".join(fold.market.days("train"))
        validation = " to ".join(fold.market.days("validation"))
        left_out = ": left out for want of bars" if fold.missing else ""
        print(f"{fold.label}: train {train}, validate {validation}{left_out}")
    print("no bar of the test period, nor any after it, is used")


def _report(
    best: Any,
    parser: Parser,
    config: jsonargparse.Namespace,
    folder: Path,
) -> None:
    """Write and print the best trial."""
    best_config = run_with(parser, config, nested(best.params))
    best_config.run.name = None
    best_config.defaults = "none"
    write_file(folder / "best.yaml", parser.dump(best_config, skip_unset=False))

    growths = best.user_attrs.get("growths")  # trials of earlier versions lack them
    growth = "n/a"
    if growths is not None:
        growth = figure_text("growth_per_year", median_of_means(growths))
    print(f"best: trial {best.number}, Sharpe ratio of validation {best.value:.3f}, growth a year {growth}")
    for key, value in best.params.items():
        print(f"  {key}: {value}")

    written = ("best.yaml", "trials.csv", "history.png", "importance.png")
    print(f"{folder}: {', '.join(name for name in written if (folder / name).exists())}")
    print(f"next:\n  {program()} train --config {folder / 'best.yaml'}")


def _check_space(
    parser: Parser,
    config: jsonargparse.Namespace,
    fold: Fold,
) -> None:
    """Try the ends of every range and every choice, so that nothing is trained before all can be."""
    if not config.space:
        raise ValueError("the space is empty: give keys to vary under space in the configuration")

    with parser.trying("space"), refusals(parser):
        for key, wanted in config.space.items():
            check_key(key, parser.types)
            distribution_of(key, wanted)
            for value in ends_of(wanted):
                with warnings.catch_warnings():  # of values that no trial need have together
                    warnings.simplefilter("ignore")
                    study_of(parser, run_with(parser, config, nested({key: value})), fold.segments)
