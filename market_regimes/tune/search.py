"""A search for good values of the configuration: trials in several processes, scored by validation that walks on."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout

from market_regimes.config import RunConfig, TuneConfig, seeds_of
from market_regimes.evaluate.evaluation import evaluate
from market_regimes.files import leave_closed_pipe, write_file
from market_regimes.market.walk_forward import Fold
from market_regimes.run.study import Study
from market_regimes.tune.space import Space, distribution_of, nested

NAME = "tune"  # of Optuna's study
STORAGE = "study.db"
FAILURES = (ValueError, ArithmeticError, RuntimeError, AssertionError)  # of values that do not go together, or diverge
LINE_START = "\r\x1b[K"  # clears the line on which the terminal shows that the search goes on
SEEDS_OF_SAMPLERS = 1000  # more than workers, so that no two samplers draw alike


@dataclass(frozen=True)
class Search:
    """
    What a worker process must know.

    :param folder: where the search lies
    :param tune: how it is run
    :param run: the run around the algorithm
    :param algorithm: keyword arguments as YAML has them, over which a trial's values lie
    :param space: what is varied
    :param folds: what trials are scored on, all with bars enough
    """

    folder: Path
    tune: TuneConfig
    run: RunConfig
    algorithm: dict[str, Any]
    space: Space
    folds: list[Fold]

    def study(self) -> Any:
        """:return: Optuna's study in the folder, made if it is not there"""
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
    ) -> float:
        """
        :param params: of a trial, by keys of the configuration
        :param fold: to train and to validate on
        :param seed: of the training
        :return: Sharpe ratio of validation, by which ``best`` checkpoints are chosen, too; 0 of an agent that never
            holds anything: it neither earns nor loses
        """
        values = nested(params)
        run = replace(self.run, **values.get("run", {}))
        algorithm = {**_merged(self.algorithm, values.get("algorithm", {})), "seed": seed}

        # Many processes train at a time: none of them prints.
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            study = Study(run, fold.market, algorithm, fold.segments)
            study.model.learn(run.total_timesteps)

        segments = study.segments["validation"]
        sharpe = evaluate(study.agent(), segments, study.trading, portfolio=study.portfolio).sharpe_ratio
        return 0.0 if sharpe is None else sharpe


def _merged(base: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Values over a base, section by section."""
    merged = dict(base)
    for key, value in values.items():
        merged[key] = _merged(base.get(key) or {}, value) if isinstance(value, Mapping) else value
    return merged


def run_search(search: Search, configuration: str | None = None) -> None:
    """
    Run the trials that are left. A trial whose process is killed is lost, and another one takes its place.

    :param search: in a folder that is there
    :param configuration: of the search, kept in its folder; None: it is not kept
    :raises ValueError: if another process runs it, or it was begun on other data
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
    """Optuna's study, on the data that it was begun on, without trials that no process will end."""
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
    """Run trials in processes until all have ended."""
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
    """Trials that ended by themselves, with an error or without, or are running."""
    return [trial for trial in study.get_trials() if trial.state.name != "FAIL" or "error" in trial.user_attrs]


def work(search: Search, number: int) -> None:
    """
    Run trials until all have been given out.

    :param search: to take part in
    :param number: of this process, from 0 on
    """
    import optuna

    torch.set_num_threads(1)
    study = search.study()
    sampler_seed = SEEDS_OF_SAMPLERS * len(study.get_trials(deepcopy=False)) + number
    study.sampler = optuna.samplers.TPESampler(seed=sampler_seed, constant_liar=search.tune.workers > 1)
    study.pruner = optuna.pruners.MedianPruner()
    distributions = {key: distribution_of(key, wanted) for key, wanted in search.space.items()}

    parent = multiprocessing.parent_process()
    with contextlib.suppress(KeyboardInterrupt):
        while parent is None or parent.is_alive():
            with FileLock(search.folder / ".ask.lock"):  # else two processes would both take the last one
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
    Score a trial seed by seed, so that after each all trials have been scored alike; give up a poor one.

    :param search: with the folds
    :param study: receives how the trial ended
    :param trial: Optuna's, with its parameters
    :return: that in words
    """
    from optuna.trial import TrialState

    scores: list[list[float]] = []
    seeds = seeds_of(search.tune.seeds)
    try:
        for step, seed in enumerate(seeds):
            scores.append([search.score(trial.params, fold, seed) for fold in search.folds])
            trial.set_user_attr("scores", scores)
            score = float(np.median([np.mean(of_seed) for of_seed in scores]))
            trial.report(score, step)

            # After the last seed nothing would be spared.
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


def conclude(search: Search) -> Any:
    """
    Write ``trials.csv``, ``history.png`` and ``importance.png``, the last where enough trials were finished.

    :param search: that was run
    :return: Optuna's best trial
    :raises ValueError: if no trial was finished
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
    """Optuna's pictures, by its own functions for matplotlib."""
    import matplotlib.pyplot as plt
    from optuna.visualization.matplotlib import plot_optimization_history, plot_param_importances

    for name, plot in (("history", plot_optimization_history), ("importance", plot_param_importances)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it calls them experimental
            try:
                figure: Any = plot(study).figure
            except (ValueError, RuntimeError) as error:
                print(f"{name}.png is left out: {error}")
                continue
            figure.savefig(folder / f"{name}.png", bbox_inches="tight")
        plt.close(figure)
