"""
What a resumed run goes on from, bit for bit: where it differs, something is missing from ``capture`` or ``restore``.

Parameters, optimizer and statistics; the generators of Python, numpy, torch and the market; every agent's place in its
episode; the states of LSTMs. ``checkpoint.py`` has the files, ``callback.py`` the moment at which they are written.
"""

from __future__ import annotations

import random
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.vec_env import VecMonitor, unwrap_vec_wrapper
from torch.utils._pytree import tree_flatten, tree_unflatten

from distributional_ppo import DistributionalPPO
from market_regimes.market.environment import MarketVecEnv
from market_regimes.run.checkpoint import CheckpointError, State, Tensors, load_agent, reason_of, statistics_of
from quantile_critic.processes import n_processes, rank

NOISE = ("exploration_mat", "exploration_matrices")  # of gSDE
STATISTICS = ("mean", "var", "count")


def capture(model: DistributionalPPO) -> tuple[Tensors, State]:
    """
    What decides how training goes on from the start of a rollout. The episodes of environments other than the market
    cannot be captured.

    :param model: at the start of a rollout
    :return: tensors and state for ``checkpoint.write``
    """
    # Generators, parameters and the last episodes.
    tensors, state = _capture_generators(model)
    tensors |= {"parameters": model.get_parameters(), **_capture_episodes(model)}
    state |= {"num_timesteps": model.num_timesteps, "n_updates": model._n_updates}

    # Statistics of the observations.
    normalizer = model.get_vec_normalize_env()
    if normalizer is not None:
        tensors["observation_statistics"] = {
            key: {name: torch.as_tensor(getattr(statistics, name), dtype=torch.float64) for name in STATISTICS}
            for key, statistics in statistics_of(normalizer).items()
        }

    # Every agent in its episode, and what its LSTMs remember.
    market, monitor = _market_env(model)
    if market is not None and monitor is not None:
        core = market.core
        tensors["market"] = {name: torch.from_numpy(getattr(core.agents, name).copy()) for name in core.STATE}
        monitored = (monitor.episode_returns, monitor.episode_lengths)
        tensors["monitor"] = [torch.from_numpy(array.copy()) for array in monitored]
        tensors["last_obs"] = torch.from_numpy(np.array(model._last_obs))
        tensors["last_episode_starts"] = torch.from_numpy(np.array(model._last_episode_starts))
        tensors["lstm_states"] = [lstm_state.clone() for lstm_state in _lstm_states(model)[0]]
        state["market_rng"] = market.generator.bit_generator.state
        state["episode_count"] = monitor.episode_count
    return tensors, state


def _capture_generators(model: DistributionalPPO) -> tuple[Tensors, State]:
    """Random numbers to come, and the noise of gSDE."""
    kind, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002  # SB3's generator
    tensors: Tensors = {
        "torch_rng": torch.get_rng_state(),
        "numpy_rng": torch.from_numpy(np.asarray(keys, dtype=np.int64)),
    }
    state: State = {"python_rng": random.getstate(), "numpy_rng": [kind, position, has_gauss, cached]}

    # Of the device, and of gSDE.
    if model.device.type == "cuda":
        tensors["cuda_rng"] = torch.cuda.get_rng_state_all()
    if model.use_sde:
        tensors["gsde_noise"] = {name: getattr(model.policy.action_dist, name).detach() for name in NOISE}
    return tensors, state


def _capture_episodes(model: DistributionalPPO) -> Tensors:
    """The last episodes, over which rollout statistics are averaged."""
    # Monitor gives a float32 and an int32, and their types decide the last bit of the mean that is logged.
    episodes = list(model.ep_info_buffer or [])
    returns = [float(episode["r"]) for episode in episodes]
    lengths = [int(episode["l"]) for episode in episodes]
    return {
        "episode_returns": torch.tensor(returns, dtype=torch.float32),
        "episode_lengths": torch.tensor(lengths, dtype=torch.int32),
    }


def with_others(
    tensors: Tensors,
    state: State,
    others: list[tuple[Tensors, State]],
) -> tuple[Tensors, State]:
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


def of_this_process(
    tensors: Tensors,
    state: State,
    path: Path,
) -> tuple[Tensors, State]:
    """
    :param tensors: from ``checkpoint.read``
    :param state: from ``checkpoint.read``
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
        raise CheckpointError(f"the checkpoint {path} does not fit this run: {reason_of(error)}") from error

    if count != n_processes():
        starter = "no torchrun"
        if count > 1:
            starter = f"torchrun --standalone --nproc-per-node={count}"
        raise ValueError(f"{path} was written by {count} process(es) and this is one of {n_processes()}: use {starter}")
    return tensors, state


def restore(
    model: DistributionalPPO,
    tensors: Tensors,
    state: State,
    path: Path,
) -> None:
    """
    The reverse of ``capture``, but for the generators.

    :param model: built by the run's configuration
    :param tensors: from ``checkpoint.read``
    :param state: from ``checkpoint.read``
    :param path: where they come from, for the error
    :raises CheckpointError: if they do not fit
    """
    load_agent(model, tensors, path)
    try:
        model.num_timesteps = int(state["num_timesteps"])
        model._n_updates = int(state["n_updates"])
        _restore_episodes(model, tensors)
        _restore_market(model, tensors, state)
        restore_generators(model, tensors, state)  # only to reject damaged generator state
    except Exception as error:
        raise CheckpointError(f"the checkpoint {path} does not fit this run: {reason_of(error)}") from error


def _restore_episodes(model: DistributionalPPO, tensors: Tensors) -> None:
    returns = tensors["episode_returns"].numpy()
    lengths = tensors["episode_lengths"].numpy()
    episodes = [{"r": episode, "l": length} for episode, length in zip(returns, lengths, strict=True)]
    model.ep_info_buffer = deque(episodes, maxlen=model._stats_window_size)
    model.ep_success_buffer = deque(maxlen=model._stats_window_size)


def _restore_market(
    model: DistributionalPPO,
    tensors: Tensors,
    state: State,
) -> None:
    """Put every agent back to its place in its episode."""
    market, monitor = _market_env(model)
    if market is None or monitor is None:
        return
    core = market.core
    for name in core.STATE:
        np.copyto(getattr(core.agents, name), tensors["market"][name].numpy(), casting="no")
    market.generator.bit_generator.state = state["market_rng"]

    returns, lengths = tensors["monitor"]
    monitor.episode_returns = returns.numpy().copy()
    monitor.episode_lengths = lengths.numpy().copy()
    monitor.episode_count = int(state["episode_count"])

    model._last_obs = tensors["last_obs"].numpy().copy()
    model._last_episode_starts = tensors["last_episode_starts"].numpy().copy()
    _restore_lstm_states(model, tensors.get("lstm_states", []))  # older checkpoints lack them


def restore_generators(
    model: DistributionalPPO,
    tensors: Tensors,
    state: State,
) -> None:
    """
    The rest of ``restore``, at the start of the first rollout: SB3 has by then drawn new noise for gSDE.

    :param model: after ``restore``
    :param tensors: from ``checkpoint.read``
    :param state: from ``checkpoint.read``
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


def _market_env(model: DistributionalPPO) -> tuple[MarketVecEnv | None, VecMonitor | None]:
    """The market and the monitor of its episodes, None of other environments."""
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
    current, structure = _lstm_states(model)
    saved_shapes = [tuple(lstm_state.shape) for lstm_state in saved]
    shapes = [tuple(lstm_state.shape) for lstm_state in current]
    if saved_shapes != shapes:
        raise ValueError(f"its LSTMs' states have shapes {saved_shapes}, this run's {shapes}")
    if current:
        on_device = [lstm_state.to(model.device) for lstm_state in saved]
        model.restore_states(tree_unflatten(on_device, structure))
