"""
Checkpoints of a training run, from which it goes on bit for bit.

A checkpoint is a folder of two files: ``tensors.pt``, read by ``torch.load(weights_only=True)``, which runs no code,
and ``state.json``. It is written under a temporary name, flushed to the disk and renamed, and a SHA-256 over both tells
a whole one from one that is torn or was changed (torch itself does not look at the checksums in its files).
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import pickle
import random
import re
import shutil
import sys
from collections import deque
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecMonitor, VecNormalize, unwrap_vec_wrapper
from torch.utils._pytree import tree_flatten, tree_unflatten

from distributional_ppo import DistributionalPPO
from market_regimes.config import CheckpointName
from market_regimes.files import read_json, sync_folder, write_file
from market_regimes.market.environment import MarketVecEnv
from quantile_critic.processes import n_processes, rank

FOLDER = "checkpoints"
NAME = r"\d{12}(\.\d{1,9})?"  # the step and, where it was trained again, the attempt
KEEP = 2  # the newest ones: one may turn out torn by a failing disk

Tensors = dict[str, Any]
State = dict[str, Any]


class CheckpointError(ValueError):
    """A file that is no checkpoint of this run, in one sentence."""


def path_of(run_folder: Path, step: int) -> Path:
    """Checkpoint of a step: the last one written of it, where there are several."""
    attempts = [path for path in newest_first(run_folder) if _name(path)[0] == step]
    return attempts[0] if attempts else run_folder / FOLDER / f"{step:012d}"


def newest_first(run_folder: Path) -> list[Path]:
    """Checkpoints of a run, whether whole or not."""
    paths = [path for path in (run_folder / FOLDER).glob("*") if re.fullmatch(NAME, path.name)]
    return sorted(paths, key=_name, reverse=True)


def _name(path: Path) -> tuple[int, int]:
    """Step and attempt in a checkpoint's name."""
    step, _, attempt = path.name.partition(".")
    return int(step), int(attempt or 0)


def write(run_folder: Path, step: int, tensors: Tensors, state: State) -> None:
    """
    :param run_folder: folder of the run
    :param step: environment steps trained; what there is of the same step stays until ``prune``
    :param tensors: nested dicts, lists and numbers around tensors
    :param state: what JSON can hold
    """
    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    content = {"sha256": _digest(buffer.getvalue(), state), "state": state}
    path = path_of(run_folder, step)
    if path.exists():
        path = path.with_name(f"{step:012d}.{_name(path)[1] + 1}")
    temporary = path.with_name(path.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    write_file(temporary / "tensors.pt", buffer.getvalue())
    write_file(temporary / "state.json", json.dumps(content))
    os.replace(temporary, path)
    sync_folder(path.parent)


def _digest(tensors: bytes, state: State) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode() + tensors).hexdigest()


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
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"the checkpoint {path} is torn or none: {_reason(error)}") from error
    except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise CheckpointError(f"the checkpoint {path} holds something else than tensors and was not opened") from error
    if not isinstance(loaded, dict):
        raise CheckpointError(f"the checkpoint {path} holds no parameters")
    return loaded, content["state"]


def _reason(error: Exception) -> str:
    """What an error of a library says, in one line."""
    text = " ".join(str(error).split())[:200]
    return f"it lacks {text}" if isinstance(error, KeyError) else text or type(error).__name__


def prune(run_folder: Path, best_step: int | None) -> None:
    """
    Delete all but the ``KEEP`` newest checkpoints, those of the models that were best at any of these and now, and what
    a killed process left.
    """
    newest: dict[int, Path] = {}
    for path in newest_first(run_folder):
        newest.setdefault(_name(path)[0], path)
    kept = list(newest)[:KEEP]
    best = {best_step}
    for step in kept:
        with contextlib.suppress(
            OSError, ValueError, KeyError, TypeError, RecursionError
        ):  # the tensors are not needed
            best.add(json.loads((newest[step] / "state.json").read_text("utf-8"))["state"]["training"]["best_step"])
    for path in newest_first(run_folder):
        step = _name(path)[0]
        if path != newest[step] or (step not in kept and step not in best):
            shutil.rmtree(path)
    for path in (run_folder / FOLDER).glob("*.tmp"):
        shutil.rmtree(path)


def capture(model: DistributionalPPO) -> tuple[Tensors, State]:
    """
    What decides how training goes on from the start of a rollout: parameters, optimizer, statistics, generators, and
    on the market where every agent stands and what a recurrent policy remembers of its episode. The episodes of other
    environments cannot be captured.

    :param model: at the start of a rollout
    :return: tensors and state for ``write``
    """
    kind, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002  # SB3's generator
    # Monitor gives a float32 and an int32, and their types decide the last bit of the mean that is logged.
    episodes = list(model.ep_info_buffer or [])
    tensors: Tensors = {
        "parameters": model.get_parameters(),
        "torch_rng": torch.get_rng_state(),
        "numpy_rng": torch.from_numpy(np.asarray(keys, dtype=np.int64)),
        "episode_returns": torch.tensor([float(e["r"]) for e in episodes], dtype=torch.float32),
        "episode_lengths": torch.tensor([int(e["l"]) for e in episodes], dtype=torch.int32),
    }
    state: State = {
        "num_timesteps": model.num_timesteps,
        "n_updates": model._n_updates,
        "python_rng": random.getstate(),
        "numpy_rng": [kind, position, has_gauss, cached],
    }
    if model.device.type == "cuda":
        tensors["cuda_rng"] = torch.cuda.get_rng_state_all()
    if model.use_sde:
        tensors["gsde_noise"] = {name: getattr(model.policy.action_dist, name).detach() for name in NOISE}
    normalizer = model.get_vec_normalize_env()
    if normalizer is not None:
        tensors["observation_statistics"] = {
            key: {name: torch.as_tensor(getattr(rms, name), dtype=torch.float64) for name in ("mean", "var", "count")}
            for key, rms in _statistics(normalizer).items()
        }
    market, monitor = _market_env(model)
    if market is not None and monitor is not None:
        tensors["market"] = {name: torch.from_numpy(getattr(market.core, name).copy()) for name in AGENT_ARRAYS}
        tensors["monitor"] = [torch.from_numpy(a.copy()) for a in (monitor.episode_returns, monitor.episode_lengths)]
        tensors["last_obs"] = torch.from_numpy(np.array(model._last_obs))
        tensors["last_episode_starts"] = torch.from_numpy(np.array(model._last_episode_starts))
        tensors["lstm_states"] = [state.clone() for state in _lstm_states(model)[0]]
        state["market_rng"] = market.generator.bit_generator.state
        state["episode_count"] = monitor.episode_count
    return tensors, state


def with_others(tensors: Tensors, state: State, others: list[tuple[Tensors, State]]) -> tuple[Tensors, State]:
    """
    :param tensors: of the first process, from ``capture``
    :param state: likewise
    :param others: of all others, in the order of their ranks, from ``capture``, without parameters
    :return: what a checkpoint of them all holds
    """
    if not others:
        return tensors, state
    parts, states = zip(*others, strict=True)
    return {**tensors, "others": list(parts)}, {**state, "others": list(states)}


def of_this_process(tensors: Tensors, state: State, path: Path) -> tuple[Tensors, State]:
    """
    :param tensors: from ``read``
    :param state: from ``read``
    :param path: where they come from, for the error
    :return: those from which this process goes on
    :raises CheckpointError: if they are none of several processes
    :raises ValueError: if another number of processes wrote them
    """
    try:
        count = len(state.get("others", [])) + 1
        if count == n_processes() and rank() > 0:
            tensors = {**tensors, **tensors["others"][rank() - 1]}
            state = {**state, **state["others"][rank() - 1]}
    except (AttributeError, TypeError, KeyError, IndexError) as error:
        raise CheckpointError(f"the checkpoint {path} does not fit this run: {_reason(error)}") from error
    if count != n_processes():
        starter = f"torchrun --standalone --nproc-per-node={count}" if count > 1 else "no torchrun"
        raise ValueError(f"{path} was written by {count} process(es) and this is one of {n_processes()}: use {starter}")
    return tensors, state


AGENT_ARRAYS = ("symbol", "bar", "end", "position", "equity")
NOISE = ("exploration_mat", "exploration_matrices")


def _market_env(model: DistributionalPPO) -> tuple[MarketVecEnv | None, VecMonitor | None]:
    env = model.get_env()
    if env is None or not isinstance(env.unwrapped, MarketVecEnv):
        return None, None
    return env.unwrapped, unwrap_vec_wrapper(env, VecMonitor)


def _lstm_states(model: DistributionalPPO) -> tuple[list[Any], Any]:
    """What a recurrent policy remembers, as tensors and their structure; no tensors of another policy."""
    leaves, structure = tree_flatten(model.carried_states())
    return leaves, structure


def _restore_lstm_states(model: DistributionalPPO, saved: list[torch.Tensor]) -> None:
    """Put back what a recurrent policy remembered."""
    own, structure = _lstm_states(model)
    shapes = [[tuple(state.shape) for state in states] for states in (saved, own)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"its LSTMs' states have shapes {shapes[0]}, this run's {shapes[1]}")
    if own:
        model.restore_states(tree_unflatten([state.to(model.device) for state in saved], structure))


def _statistics(normalizer: VecNormalize) -> dict[str, RunningMeanStd]:
    rms = normalizer.obs_rms
    return rms if isinstance(rms, dict) else {"": rms}


def load_agent(model: DistributionalPPO, tensors: Tensors, path: Path) -> None:
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
            for key, rms in _statistics(normalizer).items():
                saved = {name: value.numpy() for name, value in tensors["observation_statistics"][key].items()}
                if not all(np.isfinite(value).all() for value in saved.values()):
                    raise ValueError("its statistics of the observations are not finite")
                rms.mean, rms.var = saved["mean"].reshape(rms.mean.shape), saved["var"].reshape(rms.var.shape)
                rms.count = float(saved["count"])
    except Exception as error:  # whatever a foreign file makes torch or SB3 raise
        raise CheckpointError(f"the checkpoint {path} does not fit this run: {_reason(error)}") from error


def load(model: DistributionalPPO, run_folder: Path, which: CheckpointName = "best") -> int:
    """
    Take the parameters of a run. They are read as tensors only; no code in the files is run.

    :param model: built by the run's configuration
    :param run_folder: folder of the run
    :param which: "best" by validation, or the "last" checkpoint; best is the last where no evaluation says
    :return: the step it was trained to
    :raises ValueError: if the folder holds no checkpoint that can be used
    """
    if which not in get_args(CheckpointName):
        raise ValueError(f"a checkpoint is {' or '.join(get_args(CheckpointName))}, got {which!r}")
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


def restore(model: DistributionalPPO, tensors: Tensors, state: State, path: Path) -> None:
    """
    The reverse of ``capture``, but for the generators.

    :param model: built by the run's configuration
    :param tensors: from ``read``
    :param state: from ``read``
    :param path: where they come from, for the error
    :raises CheckpointError: if they do not fit
    """
    load_agent(model, tensors, path)
    try:
        model.num_timesteps, model._n_updates = int(state["num_timesteps"]), int(state["n_updates"])
        returns, lengths = tensors["episode_returns"].numpy(), tensors["episode_lengths"].numpy()
        episodes = [{"r": r, "l": n} for r, n in zip(returns, lengths, strict=True)]
        model.ep_info_buffer = deque(episodes, maxlen=model._stats_window_size)
        model.ep_success_buffer = deque(maxlen=model._stats_window_size)
        market, monitor = _market_env(model)
        if market is not None and monitor is not None:
            for name in AGENT_ARRAYS:
                np.copyto(getattr(market.core, name), tensors["market"][name].numpy(), casting="no")
            monitor.episode_returns, monitor.episode_lengths = (t.numpy().copy() for t in tensors["monitor"])
            monitor.episode_count = int(state["episode_count"])
            market.generator.bit_generator.state = state["market_rng"]
            model._last_obs = tensors["last_obs"].numpy().copy()
            model._last_episode_starts = tensors["last_episode_starts"].numpy().copy()
            _restore_lstm_states(model, tensors.get("lstm_states", []))  # older checkpoints lack them
        restore_generators(model, tensors, state)  # here only to refuse what is none
    except Exception as error:
        raise CheckpointError(f"the checkpoint {path} does not fit this run: {_reason(error)}") from error


def restore_generators(model: DistributionalPPO, tensors: Tensors, state: State) -> None:
    """
    The rest of ``restore``, at the start of the first rollout: SB3 has by then drawn new noise for gSDE.

    :param model: after ``restore``
    :param tensors: from ``read``
    :param state: from ``read``
    """
    kind, position, has_gauss, cached = state["numpy_rng"]
    keys = tensors["numpy_rng"].numpy().astype(np.uint32)
    np.random.set_state((kind, keys, position, has_gauss, cached))  # noqa: NPY002
    version, internal, gauss = state["python_rng"]
    random.setstate((version, tuple(internal), gauss))
    if model.use_sde:
        for name in NOISE:
            setattr(model.policy.action_dist, name, tensors["gsde_noise"][name].to(model.device))
    if "cuda_rng" in tensors and model.device.type == "cuda":
        torch.cuda.set_rng_state_all(tensors["cuda_rng"])
    torch.set_rng_state(tensors["torch_rng"])
