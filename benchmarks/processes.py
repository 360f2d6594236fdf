"""
How much sooner do two processes make the same training than one?

    pip install -c constraints.txt -e .
    python benchmarks/processes.py

CartPole, 8 environments in all, 512 steps, minibatches of 4,096 in all, 10 epochs, actor and critic of 3 x 512 units,
one core and one thread per process. One process and two are asked in turn for a rollout with its update. The figure is
the median over the rounds of the ratio of their times, with its quartiles.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

N_ENVS = 8  # of all processes together
N_STEPS = 512


def work(connection: Connection, rank: int, n_processes: int, port: int, net_arch: Sequence[int]) -> None:
    """
    One of the processes of a training: makes a rollout and its update whenever it is asked.

    :param connection: to the parent; True asks, False ends
    :param rank: of this process
    :param n_processes: of the training
    :param port: where they meet
    :param net_arch: hidden units of actor and critic
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[rank]})
    import torch
    from stable_baselines3.common.env_util import make_vec_env

    from distributional_ppo import DistributionalPPO

    # Meet the other processes.
    torch.set_num_threads(1)
    if n_processes > 1:
        address = f"tcp://localhost:{port}"
        torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=n_processes)

    # Build and warm up.
    env = make_vec_env("CartPole-v1", N_ENVS // n_processes, seed=rank)
    model = DistributionalPPO(
        "MlpPolicy",
        env,
        n_steps=N_STEPS,
        batch_size=N_ENVS * N_STEPS // n_processes,
        seed=rank,
        device="cpu",
        policy_kwargs=dict(net_arch=list(net_arch)),
    )
    model.learn(1)

    # A rollout with its update for each request.
    connection.send("ready")
    while connection.recv():
        model.learn(1, reset_num_timesteps=False)
        connection.send("done")


def started(n_processes: int, net_arch: Sequence[int]) -> list[Connection]:
    """:return: a connection to each process of a training"""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]

    context = multiprocessing.get_context("spawn")
    connections = []
    for rank in range(n_processes):
        here, there = context.Pipe()
        context.Process(target=work, args=(there, rank, n_processes, port, net_arch), daemon=True).start()
        there.close()  # so that the end of the process ends the wait for its answer
        connections.append(here)

    for connection in connections:
        connection.recv()
    return connections


def seconds(connections: Sequence[Connection]) -> float:
    """:return: what a rollout with its update takes all processes of a training"""
    start = time.perf_counter()
    for connection in connections:
        connection.send(True)
    for connection in connections:
        connection.recv()
    return time.perf_counter() - start


def ratios(rounds: int, net_arch: Sequence[int]) -> list[float]:
    """:return: of each round, the time of one process over that of two"""
    trainings = [started(n, net_arch) for n in (1, 2)]
    times = []
    for _ in range(rounds):
        alone, together = (seconds(training) for training in trainings)
        times.append(alone / together)

    for connection in itertools.chain(*trainings):
        connection.send(False)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--net-arch", type=int, nargs="+", default=[512, 512, 512])
    options = parser.parse_args()

    low, median, high = map(float, np.quantile(ratios(options.rounds, options.net_arch), (0.25, 0.5, 0.75)))
    print(f"one process takes {median:.2f} times as long as two ({low:.2f} to {high:.2f}, {options.rounds} rounds)")


if __name__ == "__main__":
    main()
