"""
Checkpoints of a training run: their files, and the agent that is read from them.

A checkpoint is a folder of two files: ``tensors.pt``, read by ``torch.load(weights_only=True)``, which runs no code,
and ``state.json``. It is written under a temporary name, flushed to the disk and renamed, and a SHA-256 over both tells
a whole one from one that is torn or was changed (torch itself does not look at the checksums in its files).

``resume.py`` decides which tensors and which state they hold.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import pickle
import re
import shutil
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize

from distributional_ppo import DistributionalPPO
from market_regimes.config import CheckpointName
from market_regimes.files import read_json, sync_folder, write_file

FOLDER = "checkpoints"
NAME = r"\d{12}(\.\d{1,9})?"  # the step and, where it was trained again, the attempt
KEEP = 2  # the newest ones: one may turn out torn by a failing disk
MAX_REASON = 200  # characters of a library's message

Tensors = dict[str, Any]
State = dict[str, Any]


class CheckpointError(ValueError):
    """A file that is no checkpoint of this run, in one sentence."""


def path_of(run_folder: Path, step: int) -> Path:
    """
    :param run_folder: folder of the run
    :param step: environment steps trained
    :return: the checkpoint of that step: the last one written of it, where there are several
    """
    attempts = [path for path in newest_first(run_folder) if _step_and_attempt(path)[0] == step]
    return attempts[0] if attempts else run_folder / FOLDER / f"{step:012d}"


def newest_first(run_folder: Path) -> list[Path]:
    """
    :param run_folder: folder of the run
    :return: its checkpoints, whether whole or not
    """
    paths = [path for path in (run_folder / FOLDER).glob("*") if re.fullmatch(NAME, path.name)]
    return sorted(paths, key=_step_and_attempt, reverse=True)


def _step_and_attempt(path: Path) -> tuple[int, int]:
    """The numbers in a checkpoint's name."""
    step, _, attempt = path.name.partition(".")
    return int(step), int(attempt or 0)


def write(
    run_folder: Path,
    step: int,
    tensors: Tensors,
    state: State,
) -> None:
    """
    :param run_folder: folder of the run
    :param step: environment steps trained; what there is of the same step stays until ``prune``
    :param tensors: nested dicts, lists and numbers around tensors
    :param state: what JSON can hold
    """
    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    content = {"sha256": _digest(buffer.getvalue(), state), "state": state}

    # A step that is trained again gets another attempt.
    path = path_of(run_folder, step)
    if path.exists():
        attempt = _step_and_attempt(path)[1] + 1
        path = path.with_name(f"{step:012d}.{attempt}")

    # The folder gets its name once all is in it.
    temporary = path.with_name(path.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    write_file(temporary / "tensors.pt", buffer.getvalue())
    write_file(temporary / "state.json", json.dumps(content))
    os.replace(temporary, path)
    sync_folder(path.parent)


def _digest(tensors: bytes, state: State) -> str:
    text = json.dumps(state, sort_keys=True)
    return hashlib.sha256(text.encode() + tensors).hexdigest()


def read(path: Path) -> tuple[Tensors, State]:
    """
    :param path: folder of a checkpoint
    :return: tensors and state as they were written
    :raises CheckpointError: if it is torn, was changed or holds anything but tensors
    """
    try:
        tensors = (path / "tensors.pt").read_bytes()
        content = json.loads((path / "state.json").read_text("utf-8"))
        if _digest(tensors, content["state"]) != content["sha256"]:
            raise CheckpointError(f"the checkpoint {path} is torn or was changed: its SHA-256 differs")
        loaded = torch.load(io.BytesIO(tensors), map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"the checkpoint {path} is torn or none: {reason_of(error)}") from error
    except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise CheckpointError(f"the checkpoint {path} holds something else than tensors and was not opened") from error

    if not isinstance(loaded, dict):
        raise CheckpointError(f"the checkpoint {path} holds no parameters")
    return loaded, content["state"]


def reason_of(error: Exception) -> str:
    """
    :param error: of a library
    :return: what it says, in one line
    """
    text = " ".join(str(error).split())[:MAX_REASON]
    if isinstance(error, KeyError):
        return f"it lacks {text}"
    return text or type(error).__name__


def prune(run_folder: Path, best_step: int | None) -> None:
    """
    Delete all but the ``KEEP`` newest checkpoints, those of the models that were best at any of these and now, and what
    a killed process left.

    :param run_folder: folder of the run
    :param best_step: step of the best model, None: there is none
    """
    # The newest attempt of each step.
    newest: dict[int, Path] = {}
    for path in newest_first(run_folder):
        newest.setdefault(_step_and_attempt(path)[0], path)

    # A run that goes on from a kept checkpoint needs its best model, too.
    kept = list(newest)[:KEEP]
    best = {best_step} | {_best_step_in(newest[step]) for step in kept}
    for path in newest_first(run_folder):
        step = _step_and_attempt(path)[0]
        if path != newest[step] or (step not in kept and step not in best):
            shutil.rmtree(path)

    for path in (run_folder / FOLDER).glob("*.tmp"):
        shutil.rmtree(path)


def _best_step_in(path: Path) -> int | None:
    """Step of the best model when a checkpoint was written, without its tensors; None of one that is torn."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        content = json.loads((path / "state.json").read_text("utf-8"))
        best_step: int | None = content["state"]["training"]["best_step"]
        return best_step
    return None


def statistics_of(normalizer: VecNormalize) -> dict[str, RunningMeanStd]:
    """
    :param normalizer: of the observations
    :return: its statistics by part of the observation; a single part has the name ""
    """
    statistics = normalizer.obs_rms
    return statistics if isinstance(statistics, dict) else {"": statistics}


def load_agent(
    model: DistributionalPPO,
    tensors: Tensors,
    path: Path,
) -> None:
    """
    Take over what acting needs: parameters and the statistics of the observations.

    :param model: built by the run's configuration
    :param tensors: from ``read``
    :param path: where they come from, for the error
    :raises CheckpointError: if they do not fit
    """
    try:
        if not all(torch.isfinite(value).all() for value in tensors["parameters"]["policy"].values()):
            raise ValueError("it holds numbers that are not finite")
        model.set_parameters(tensors["parameters"], exact_match=True, device=model.device)

        normalizer = model.get_vec_normalize_env()
        if normalizer is not None:
            for key, statistics in statistics_of(normalizer).items():
                _load_statistics(statistics, tensors["observation_statistics"][key])
    except Exception as error:  # whatever a foreign file makes torch or SB3 raise
        raise CheckpointError(f"the checkpoint {path} does not fit this run: {reason_of(error)}") from error


def _load_statistics(statistics: RunningMeanStd, tensors: Tensors) -> None:
    saved = {name: value.numpy() for name, value in tensors.items()}
    if not all(np.isfinite(value).all() for value in saved.values()):
        raise ValueError("its statistics of the observations are not finite")
    statistics.mean = saved["mean"].reshape(statistics.mean.shape)
    statistics.var = saved["var"].reshape(statistics.var.shape)
    statistics.count = float(saved["count"])


def load(
    model: DistributionalPPO,
    run_folder: Path,
    which: CheckpointName = "best",
) -> int:
    """
    Take the parameters of a run. They are read as tensors only; no code in the files is run.

    :param model: built by the run's configuration
    :param run_folder: folder of the run
    :param which: "best" by validation, or the "last" checkpoint; best is the last where no evaluation says
    :return: the step it was trained to
    :raises ValueError: if the folder holds no checkpoint that can be used
    """
    names = get_args(CheckpointName)
    if which not in names:
        raise ValueError(f"a checkpoint is {' or '.join(names)}, got {which!r}")

    # The best one first, then from the newest on.
    paths = newest_first(run_folder)
    if which == "best" and (run_folder / "best.json").exists():
        step = read_json(run_folder / "best.json").get("step")
        if type(step) is not int or step < 0:
            raise ValueError(f"{run_folder / 'best.json'} is torn or no run's")
        paths.insert(0, path_of(run_folder, step))

    for path in dict.fromkeys(paths):
        try:
            tensors, state = read(path)
            load_agent(model, tensors, path)
            return int(state["num_timesteps"])
        except CheckpointError as error:
            print(f"{error}; trying another", file=sys.stderr)
    raise ValueError(f"{run_folder} holds no checkpoint that can be used")
