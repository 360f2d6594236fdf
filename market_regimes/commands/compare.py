"""The commands ``compare`` and ``regimes``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jsonargparse

from market_regimes.commands.configuration import run_with
from market_regimes.commands.configured_study import study_of
from market_regimes.commands.parser import Parser
from market_regimes.commands.parsers import compare_parser
from market_regimes.commands.refusals import refusals
from market_regimes.commands.resume import leave_fill_to_the_data, start_or_resume
from market_regimes.compare.catalogue import check_regimes
from market_regimes.compare.comparison import Comparison, cells_of
from market_regimes.compare.folds import chosen_elsewhere, folds_of
from market_regimes.compare.headline import alike, headline
from market_regimes.compare.html_report import facts_of, write_report
from market_regimes.compare.hypotheses import check_hypotheses, left_out
from market_regimes.compare.printing import print_by_regime, print_trading, print_verdicts
from market_regimes.compare.tables import tables_of, write_tables
from market_regimes.config import RESERVED, Hypothesis
from market_regimes.files import new_folder, write_file
from market_regimes.market.regimes import regimes_of
from market_regimes.market.walk_forward import Fold

MAY_CHANGE = {"run.progress_bar", "compare.seeds", "compare.workers", "compare.executor", "hypotheses"}


def compare(train_parser: Parser, config: jsonargparse.Namespace) -> None:
    """
    Run the cells that are missing, then write tables and report.

    :param train_parser: of ``train``, which checks the variants
    :param config: of the comparison
    :raises KeyboardInterrupt: with the folder, if the user stopped the comparison
    """
    parser = compare_parser(reading=train_parser.reading)
    resume = config.pop("resume")
    start_or_resume(parser, config, resume, MAY_CHANGE, "compare")
    if resume is not None:
        leave_fill_to_the_data(config)
    if config.run.env_id != "market":
        parser.error(f"compare needs run.env_id=market, got {config.run.env_id}: only markets have folds")

    # Nothing is trained before all that can be refused was tried.
    with refusals(parser):
        objects = parser.instantiate(config)
        check_hypotheses(objects.hypotheses)
        check_regimes(regimes_of(objects.market).names)

        # Folds, and every variant on one of them.
        folds = folds_of(objects.compare, objects.market)
        usable = next((fold for fold in folds if not fold.missing), folds[0])
        algorithms = _algorithms(train_parser, config, usable)

        # Cells, and those of them that are done.
        cells = cells_of(objects.compare, objects.run, algorithms, config.variants, folds)
        folder = resume or new_folder(objects.run)
        comparison = Comparison(folder, cells, {fold.label: fold.fingerprint for fold in folds})
    _print_folds(folds, config)
    write_file(folder / "config.yaml", parser.dump(config, skip_unset=False))
    print(f"{len(cells)} cells in {folder}", flush=True)

    try:
        comparison.run(objects.compare.executor, objects.compare.workers, objects.run.progress_bar)
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(folder) from stop
    except ValueError as error:
        parser.error(str(error))
    _report(comparison, folds, config, objects.hypotheses)


def _algorithms(
    parser: Parser,
    config: jsonargparse.Namespace,
    fold: Fold,
) -> dict[str, dict[str, Any]]:
    """Keyword arguments of every variant, each tried on a fold."""
    if not config.variants:
        parser.error("there are no variants: give them by name under variants in the configuration")

    algorithms: dict[str, dict[str, Any]] = {}
    for name, keys in config.variants.items():
        values = {
            "algorithm": {key: value for key, value in keys.items() if key not in RESERVED},
            "run": {key: value for key, value in keys.items() if key == "n_envs"},
        }

        # Errors name the variant.
        with parser.trying(f"variants.{name}"):
            variant = run_with(parser, config, values)
            if fold.missing is None:
                study_of(parser, variant, fold.segments)
        algorithms[name] = variant.algorithm.as_dict()
    return algorithms


def _print_folds(folds: Sequence[Fold], config: jsonargparse.Namespace) -> None:
    """Print what was assumed about the files, the days of every fold, and choices made on other data."""
    for sentence in dict.fromkeys(sentence for fold in folds for sentence in fold.notes):
        print(sentence)

    for fold in folds:
        print(f"{fold.label}, {fold.name}: {fold.missing or 'train ' + ' to '.join(fold.market.days('train'))}")
    for sentence in chosen_elsewhere(folds, config.variants):
        print(sentence)


def _report(
    comparison: Comparison, folds: Sequence[Fold], config: jsonargparse.Namespace, hypotheses: Sequence[Hypothesis]
) -> None:
    """Write and print what a comparison showed, at last how alike its variants treat calm and stormy days."""
    # The report begins with a headline and ends with regimes.
    folder = comparison.folder
    baseline = config.compare.baseline
    tables = tables_of(comparison, folds, config.variants, baseline, hypotheses)
    first, last = headline(tables.effects, tables.sharpe, tables.daily, baseline), alike(tables.cells)
    write_tables(folder, tables)
    text = (folder / "config.yaml").read_text("utf-8")
    write_report(folder / "report.html", tables, folder.name, baseline, text, facts_of(tables), [*first, *last])
    print_verdicts(tables, f"{folder}, against {baseline}", first)
    for sentence in left_out(hypotheses, config.variants):
        print(sentence)
    print(f"{folder}: report.html; cells, effects, hopes and sharpe as .csv; cells, curves and daily as .parquet")
    print_by_regime(tables.cells)
    print_trading(tables.cells)
    for sentence in last:
        print(sentence)
