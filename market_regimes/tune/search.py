"""Search for good values of the configuration: trials in several processes, scored by walk-forward validation."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from filelock import FileLock, Timeout

from market_regimes.config import RunConfig, TuneConfig, seeds_of
from market_regimes.evaluate.evaluation import evaluate
from market_regimes.files import leave_closed_pipe, write_file
from market_regimes.market.walk_forward import Fold
from market_regimes.run.study import Study
from market_regimes.tune.space import Space, distribution_of, nested

NAME = "tune"  # name of Optuna's study
STORAGE = "study.db"
FAILURES = (ValueError, ArithmeticError, RuntimeError, AssertionError)  # errors of incompatible or divergent values
LINE_START = "\r\x1b[K"  # clears the terminal line that shows progress
SEEDS_OF_SAMPLERS = 1000  # more than the number of workers, so that no two samplers draw alike


class Score(NamedTuple):
    """
    The figures of a training on the period of validation.

    :param sharpe_ratio: which a search maximises; 0 for an agent that never holds a position
    :param growth: log growth a year, which is kept beside it
    """

    sharpe_ratio: float
    growth: float


@dataclass(frozen=True)
class Search:
    """
    Input of a worker process.

    :param folder: folder of the search
    :param tune: settings of the search
    :param run: settings of each run
    :param algorithm: keyword arguments as in YAML, which a trial's values override
    :param space: keys to vary
    :param folds: folds that score trials, all with enough bars
    """

    folder: Path
    tune: TuneConfig
    run: RunConfig
    algorithm: dict[str, Any]
    space: Space
    folds: list[Fold]

    def study(self) -> Any:
        """:return: Optuna's study in the folder, created if missing"""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        address = f"sqlite:///{self.folder / STORAGE}"
        storage = optuna.storages.RDBStorage(address, engine_kwargs={"connect_args": {"timeout": 60}})
        return optuna.create_study(
            storage=storage,
            study_name=NAME,
            direction="maximize",
            load_if_exists=True,
        )

    def score(
        self,
        params: Mapping[str, Any],
        fold: Fold,
        seed: int,
    ) -> Score:
        """
        :param params: a trial's values, by keys of the configuration
        :param fold: periods to train and to validate on
        :param seed: seed of the training
        :return: Sharpe ratio of validation, which also selects ``best`` checkpoints, and the growth. Both are 0 for an
            agent that never holds a position, since it neither earns nor loses
        """
        values = nested(params)
        run = replace(self.run, **values.get("run", {}))
        algorithm = {**_merged(self.algorithm, values.get("algorithm", {})), "seed": seed}

        # Many processes train at once, so none of them prints.
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            study = Study(run, fold.market, algorithm, fold.segments)
            study.model.learn(run.total_timesteps)

        segments = study.segments["validation"]
        evaluation = evaluate(study.agent(), segments, study.trading, portfolio=study.portfolio)
        return Score(evaluation.sharpe_ratio or 0.0, evaluation.growth)


def _merged(base: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Override a base with values, section by section."""
    merged = dict(base)
    for key, value in values.items():
        merged[key] = _merged(base.get(key) or {}, value) if isinstance(value, Mapping) else value
    return merged


def run_search(search: Search, configuration: str | None = None) -> None:
    """
    Run the remaining trials. Another trial replaces one whose process was killed.

    :param search: search in an existing folder
    :param configuration: configuration to write into the folder, None: none
    :raises ValueError: if another process runs the search, or it started on other data
    """
    try:
        with FileLock(search.folder / ".lock", timeout=0):
            study = _begin(search, configuration)
            before = -1
            while before < len(_counted(study)) < search.tune.trials:
                before = len(_counted(study))
                _run_workers(search, min(search.tune.workers, search.tune.trials - before))
                _give_up_running(study)
    except Timeout as error:
        raise ValueError(f"another process is tuning in {search.folder}") from error


def _begin(search: Search, configuration: str | None) -> Any:
    """Open Optuna's study on the data of its start, and fail trials that no process will finish."""
    study = search.study()
    data = {fold.name: fold.fingerprint for fold in search.folds}
    if study.user_attrs.get("data", data) != data:
        raise ValueError(f"{search.folder} was started on other data: its trials would not compare")
    study.set_user_attr("data", data)
    if configuration is not None:
        write_file(search.folder / "config.yaml", configuration)
    _give_up_running(study)
    return study


def _run_workers(search: Search, count: int) -> None:
    """Run trials in processes until all have finished."""
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(
            target=work,
            args=(search, number),
            daemon=True,
        )
        for number in range(count)
    ]
    try:
        for process in processes:
            process.start()
        for process in processes:
            process.join()
    finally:
        for process in processes:
            process.terminate()
            process.join()

    killed = sum(process.exitcode != 0 for process in processes)
    if killed:
        print(f"{killed} of {count} processes ended early: each lost its trial", flush=True)


def _give_up_running(study: Any) -> None:
    from optuna.trial import TrialState

    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)


def _counted(study: Any) -> list[Any]:
    """List trials that are running, or finished with or without an error."""
    return [trial for trial in study.get_trials() if trial.state.name != "FAIL" or "error" in trial.user_attrs]


def work(search: Search, number: int) -> None:
    """
    Run trials until none remains.

    :param search: the search
    :param number: index of this process, from 0
    """
    import optuna

    torch.set_num_threads(1)
    study = search.study()
    sampler_seed = SEEDS_OF_SAMPLERS * len(study.get_trials(deepcopy=False)) + number
    study.sampler = optuna.samplers.TPESampler(seed=sampler_seed, constant_liar=search.tune.workers > 1)
    study.pruner = optuna.pruners.MedianPruner()
    distributions = {key: distribution_of(key, values) for key, values in search.space.items()}

    parent = multiprocessing.parent_process()
    with contextlib.suppress(KeyboardInterrupt):
        while parent is None or parent.is_alive():
            with FileLock(search.folder / ".ask.lock"):  # otherwise two processes would both take the last trial
                if len(_counted(study)) >= search.tune.trials:
                    return
                trial = study.ask(distributions)
            outcome = run_trial(search, study, trial)
            _print_outcome(f"trial {trial.number}: {outcome}")


def _print_outcome(sentence: str) -> None:
    start = LINE_START if sys.stdout.isatty() else ""
    try:
        print(f"{start}{sentence}", flush=True)
    except BrokenPipeError:
        leave_closed_pipe()


def run_trial(
    search: Search,
    study: Any,
    trial: Any,
) -> str:
    """
    Score a trial seed by seed, and prune a poor one early. After each seed all trials compare alike.

    :param search: the search with its folds
    :param study: study that receives the outcome
    :param trial: Optuna's trial with its parameters
    :return: description of the outcome
    """
    from optuna.trial import TrialState

    scores: list[list[float]] = []
    growths: list[list[float]] = []
    seeds = seeds_of(search.tune.seeds)
    try:
        for step, seed in enumerate(seeds):
            of_folds = [search.score(trial.params, fold, seed) for fold in search.folds]
            scores.append([each.sharpe_ratio for each in of_folds])
            growths.append([each.growth for each in of_folds])
            trial.set_user_attr("scores", scores)
            trial.set_user_attr("growths", growths)
            score = median_of_means(scores)
            trial.report(score, step)

            # Pruning after the last seed would save nothing.
            if step + 1 < len(seeds) and trial.should_prune():
                study.tell(trial, state=TrialState.PRUNED)
                return f"given up after {step + 1} of {len(seeds)} seeds at {score:.3f}"
        study.tell(trial, score)
        return f"{score:.3f}"
    except FAILURES as error:
        first_line = str(error).partition("\n")[0]
        sentence = f"{type(error).__name__}: {first_line}"
        trial.set_user_attr("error", sentence)
        study.tell(trial, state=TrialState.FAIL)
        return f"failed with {sentence}"


def median_of_means(figures: Sequence[Sequence[float]]) -> float:
    """
    :param figures: figures of a trial, by seed and fold
    :return: median over the seeds of the mean over the folds
    """
    return float(np.median([np.mean(of_seed) for of_seed in figures]))


def conclude(search: Search) -> Any:
    """
    Write ``trials.csv``, ``history.png`` and, after enough trials, ``importance.png``.

    :param search: a search that has run
    :return: Optuna's best trial
    :raises ValueError: if no trial succeeded
    """
    from optuna.trial import TrialState

    study = search.study()
    table = study.trials_dataframe(("number", "state", "value", "params", "user_attrs"))
    table.to_csv(search.folder / "trials.csv", index=False)

    if not study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        errors = [trial.user_attrs["error"] for trial in _counted(study) if "error" in trial.user_attrs]
        reason = f"; the first one {errors[0]}" if errors else ""
        raise ValueError(f"no trial was finished{reason}")
    _draw(study, search.folder)
    return study.best_trial


def _draw(study: Any, folder: Path) -> None:
    """Draw Optuna's pictures with its matplotlib functions."""
    import matplotlib.pyplot as plt
    from optuna.visualization.matplotlib import plot_optimization_history, plot_param_importances

    for name, plot in (("history", plot_optimization_history), ("importance", plot_param_importances)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna calls them experimental
            try:
                figure: Any = plot(study).figure
            except (ValueError, RuntimeError) as error:
                print(f"{name}.png is left out: {error}")
                continue
            figure.savefig(folder / f"{name}.png", bbox_inches="tight")
        plt.close(figure)
