"""
How fast is DistributionalPPO beside SB3's PPO, SBX's (JAX) and a whole training that is one program of JAX, and
RecurrentDistributionalPPO beside RecurrentPPO?

    pip install -c constraints.txt -e ".[market,test,bench]"
    python benchmarks/speed.py            # measures, writes benchmarks/speed.csv, prints the tables
    python benchmarks/speed.py --table    # prints them from the file
    python benchmarks/speed.py --picture docs/speed.png
    python benchmarks/speed.py --growth docs/growth.png --rounds 2    # benchmarks/growth.csv and its picture

One process per contender and case; they are asked in turn, one at a time, so that a noisy machine disturbs all alike.
On Linux each is held to as many cores as it has threads. An update is ``model.train()``, in ms per minibatch; learn is
``learn()`` over two rollouts, in environment steps per second. Figures are medians over the rounds; ratios are taken
round by round.
"""

from __future__ import annotations

import argparse
import csv
import difflib
import importlib.metadata
import importlib.util
import itertools
import math
import multiprocessing
import os
import platform
import resource
import statistics
import time
from collections import defaultdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from scipy import stats

from benchmarks.speed_pictures import growth_picture, picture

CSV = Path(__file__).with_name("speed.csv")
GROWTH_CSV = CSV.with_name("growth.csv")
JAX = "JAX, one program"
CONTENDERS = ("SB3 PPO", "SBX PPO", JAX, "eager", "compiled", "eager, scaling off", "compiled, scaling off")
CASES: dict[str, dict[str, Any]] = {
    "CartPole, 8 envs, batch 64": dict(env="CartPole-v1", n_envs=8, n_steps=256, batch_size=64),
    "Pendulum, 8 envs, batch 64": dict(env="Pendulum-v1", n_envs=8, n_steps=256, batch_size=64),
    "CartPole, 8 envs, batch 256": dict(env="CartPole-v1", n_envs=8, n_steps=256, batch_size=256),
    "CartPole, 64 envs, batch 1024": dict(env="CartPole-v1", n_envs=64, n_steps=64, batch_size=1024),
    "market, 8 envs, batch 64": dict(env="market", n_envs=8, n_steps=256, batch_size=64),
    "market, 64 envs, batch 1024": dict(env="market", n_envs=64, n_steps=32, batch_size=1024),
    # For the peak memory: its rollout is 29 MB as bytes, 116 MB as the float32 that the network gets.
    "images, 8 envs, batch 256": dict(env="images", n_envs=8, n_steps=128, batch_size=256, n_epochs=1),
}
GROWTH = {  # number and what grows
    **{
        f"{n} quantiles": dict(env="CartPole-v1", n_envs=8, n_steps=256, batch_size=64, n_quantiles=n)
        for n in (8, 32, 128, 512)
    },
    **{
        f"{n} envs": dict(env="market", n_envs=n, n_steps=max(2048 // n, 2), batch_size=64)
        for n in (1, 8, 64, 512, 4096)
    },
    **{
        f"{n} symbols": dict(env="market", n_symbols=n, n_envs=64, n_steps=32, batch_size=64) for n in (1, 20, 100, 500)
    },
}
GROWTH_CONTENDERS = ("SB3 PPO", "eager", "compiled")
N_EPOCHS = 10
RECURRENT = {
    f"{env.partition('-')[0]}, LSTM {units}": dict(
        env=env, n_envs=8, n_steps=256, batch_size=256, lstm_hidden_size=units
    )
    for env in ("CartPole-v1", "Pendulum-v1")
    for units in (64, 256)
}
RECURRENT_CONTENDERS = ("RecurrentPPO", "recurrent")
PEERS = (*CONTENDERS[:3], "RecurrentPPO")
METRICS = ("update_ms", "steps_per_s", "memory_mib")
FIELDS = ("case", "contender", "metric", "median", "q25", "q75", "rounds")


def make_model(contender: str, case: dict[str, Any]) -> Any:
    """
    :param contender: one of ``CONTENDERS``, or of ``RECURRENT_CONTENDERS`` where the case has an LSTM
    :param case: settings, the same for all
    """
    settings = {"n_epochs": N_EPOCHS, **case}
    env_id = settings.pop("env")
    n_envs = settings.pop("n_envs")
    n_quantiles = settings.pop("n_quantiles", 32)
    if contender == JAX:
        from benchmarks.jax_ppo import OneProgram, Settings

        return OneProgram(Settings(n_envs, **settings))

    # What all others share.
    n_symbols = settings.pop("n_symbols", None)
    env = market_env(n_envs, n_symbols) if env_id == "market" else gym_env(env_id, n_envs)
    policy = "CnnPolicy" if env_id == "images" else "MlpPolicy"
    settings["seed"] = 0

    if "lstm_hidden_size" in settings:
        return make_recurrent_model(contender, env, n_quantiles, **settings)
    if contender == "SBX PPO":
        import sbx

        return sbx.PPO("MlpPolicy", env, **settings)
    if contender == "SB3 PPO":
        from stable_baselines3 import PPO

        return PPO(policy, env, device="cpu", **settings)
    from distributional_ppo import DistributionalPPO

    flags: dict[str, Any] = {
        "compile": "compiled" in contender,
        "use_variance_gradient_scaling": "off" not in contender,
    }
    policy_kwargs = {"n_quantiles": n_quantiles}
    return DistributionalPPO(policy, env, device="cpu", policy_kwargs=policy_kwargs, **settings, **flags)


def make_recurrent_model(contender: str, env: Any, n_quantiles: int, lstm_hidden_size: int, **settings: Any) -> Any:
    """:return: sb3-contrib's or ours; the other parameters are those of both"""
    policy_kwargs = {"lstm_hidden_size": lstm_hidden_size}
    if contender == "RecurrentPPO":
        from sb3_contrib import RecurrentPPO

        return RecurrentPPO("MlpLstmPolicy", env, device="cpu", policy_kwargs=policy_kwargs, **settings)
    from distributional_ppo import RecurrentDistributionalPPO

    policy_kwargs["n_quantiles"] = n_quantiles
    return RecurrentDistributionalPPO("MlpLstmPolicy", env, device="cpu", policy_kwargs=policy_kwargs, **settings)


def gym_env(env_id: str, n_envs: int) -> Any:
    """:param env_id: of Gymnasium; "images": SB3's environment of noise, 84 x 84 in 4 channels"""
    from stable_baselines3.common.env_util import make_vec_env

    if env_id == "images":
        from stable_baselines3.common.envs import FakeImageEnv

        return make_vec_env(lambda: FakeImageEnv(6, 84, 84, n_channels=4), n_envs, seed=0)
    return make_vec_env(env_id, n_envs, seed=0)


def market_env(n_envs: int, n_symbols: int | None = None) -> Any:
    """
    Monitored as the command line does.

    :param n_envs: number of copies
    :param n_symbols: random walks of 8,000 bars; None: the shipped S&P 500 in its training period
    """
    import numpy as np

    from market_regimes.config import MarketConfig
    from market_regimes.market.data import read_bars
    from market_regimes.market.environment import MarketCore, MarketVecEnv
    from market_regimes.market.market import market_of
    from market_regimes.market.monitor import EpisodeMonitor
    from market_regimes.market.segment import Segment
    from market_regimes.prices import Bars

    period, found = range(60, 2500), read_bars(MarketConfig())[:1]
    if n_symbols is not None:
        rng = np.random.default_rng(0)
        days = np.datetime64("1990-01-01", "s") + np.arange(8000) * np.timedelta64(1, "D")
        walks = np.exp(np.cumsum(rng.normal(0, 0.01, (n_symbols, len(days))), axis=1))
        period, found = range(60, len(days)), [Bars(f"walk {i}", "walks", days, w, w) for i, w in enumerate(walks)]
    segments = [
        Segment.scaled_by(market_of(bars, MarketConfig(), period, period.stop - 1), period, period) for bars in found
    ]
    return EpisodeMonitor(MarketVecEnv(MarketCore(segments, n_envs), seed=0))


def work(connection: Connection, contender: str, case: dict[str, Any], threads: int) -> None:
    """
    A process: build, warm up (which compiles), then answer each request by (ms per minibatch, steps per second, MiB).

    :param connection: to the parent; anything but None asks for one round
    """
    if hasattr(os, "sched_setaffinity"):  # XLA has as many threads as there are cores
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    import torch

    # Build and warm up.
    torch.set_num_threads(threads)
    model = make_model(contender, case)
    steps = model.n_steps * model.n_envs
    minibatches = 1 if contender == JAX else model.n_epochs * math.ceil(steps / model.batch_size)
    for _ in range(2):  # torch compiles before the second update, JAX at the first call
        model.learn(2 * steps)
    connection.send("ready")

    # A round for each request.
    while connection.recv() is not None:
        update = math.nan
        if contender != JAX:  # whose updates are no calls of their own
            start = time.perf_counter()
            model.train()
            update = (time.perf_counter() - start) / minibatches * 1e3

        start = time.perf_counter()
        model.learn(2 * steps, reset_num_timesteps=False)
        learn = 2 * steps / (time.perf_counter() - start)

        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        connection.send((update, learn, memory))


def measure(
    case: dict[str, Any], contenders: list[str], rounds: int, threads: int
) -> dict[str, list[tuple[float, ...]]]:
    """:return: by contender what ``work`` answered, once per round"""
    # A process per contender, ready to answer.
    context = multiprocessing.get_context("spawn")
    pipes = {}
    processes = []
    for contender in contenders:
        pipes[contender], end = context.Pipe()
        process = context.Process(target=work, args=(end, contender, case, threads), daemon=True)
        process.start()
        end.close()
        processes.append(process)
        pipes[contender].recv()

    # Asked in turn, each round beginning with the next one.
    answers: dict[str, list[tuple[float, ...]]] = defaultdict(list)
    for i in range(rounds):
        for j in range(len(contenders)):
            contender = contenders[(i + j) % len(contenders)]
            pipes[contender].send("go")
            answers[contender].append(pipes[contender].recv())

    for process, pipe in zip(processes, pipes.values(), strict=True):
        pipe.send(None)
        process.join()
    return answers


def interval(ratios: list[float]) -> tuple[float, float, float]:
    """:return: geometric mean and its 95 % t interval, over pairs of processes"""
    logs = [math.log(ratio) for ratio in ratios]
    mean = statistics.fmean(logs)
    half = 0.0
    if len(logs) > 1:
        half = float(stats.t.ppf(0.975, len(logs) - 1)) * statistics.stdev(logs) / math.sqrt(len(logs))
    return math.exp(mean), math.exp(mean - half), math.exp(mean + half)


def rows_of(name: str, answers: dict[str, list[tuple[float, ...]]]) -> list[dict[str, Any]]:
    """
    :param name: of the case
    :param answers: by contender, what ``work`` answered, once per round
    :return: the figures of each contender, and how many times as fast as each peer it was in the same round
    """
    # The figures themselves.
    columns = {}
    for contender, values in answers.items():
        for metric, column in zip(METRICS, zip(*values, strict=True), strict=True):
            columns[contender, metric] = list(column)

    # Ratios to the peers, round by round.
    peers = [peer for peer in PEERS if peer in answers]
    for contender, peer in itertools.product(answers, peers):
        rounds = list(zip(answers[contender], answers[peer], strict=True))
        columns[contender, f"update x {peer}"] = [theirs[0] / ours[0] for ours, theirs in rounds]
        columns[contender, f"learn x {peer}"] = [ours[1] / theirs[1] for ours, theirs in rounds]

    return [
        {"case": name, "contender": contender, "metric": metric, **quartiles(values)}
        for (contender, metric), values in columns.items()
        if not any(map(math.isnan, values))
    ]


def quartiles(values: list[float]) -> dict[str, Any]:
    """:return: the columns of the CSV that hold figures"""
    low, median, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return dict(median=f"{median:.6g}", q25=f"{low:.6g}", q75=f"{high:.6g}", rounds=len(values))


def scaling_cost(pairs: int, rounds: int, threads: int) -> list[dict[str, Any]]:
    """Update time with scaling over that without, in fresh pairs of processes."""
    rows = []
    for kind in ("eager", "compiled"):
        contenders = [kind, f"{kind}, scaling off"]
        ratios = []
        for _ in range(pairs):
            answers = measure(CASES["CartPole, 8 envs, batch 64"], contenders, rounds, threads)
            by_round = zip(*answers.values(), strict=True)
            ratios.append(statistics.median(on[0] / off[0] for on, off in by_round))

        mean, low, high = interval(ratios)
        figures = dict(median=f"{mean:.5g}", q25=f"{low:.5g}", q75=f"{high:.5g}", rounds=pairs)
        rows.append({"case": "cost of scaling", "contender": kind, "metric": "ratio", **figures})
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """:return: Markdown: medians, of the ratios to the peers that are in the case, too, in the order of ``PEERS``"""
    lines = [
        "| case | contender | update, ms | steps/s | update x SB3, x SBX | learn x SB3, x SBX, x JAX | peak MiB |",
        "|" + "---|" * 7,
    ]
    medians: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for row in rows:
        if row["metric"] != "ratio":
            medians[row["case"], row["contender"]][row["metric"]] = float(row["median"])

    # A row per case and contender.
    for (case, contender), figures in medians.items():
        update = f"{figures['update_ms']:.3f}" if "update_ms" in figures else "n/a"
        ratios = f"{_ratios(figures, 'update')} | {_ratios(figures, 'learn')}"
        lines.append(
            f"| {case} | {contender} | {update} | {figures['steps_per_s']:,.0f} | {ratios} | "
            f"{figures['memory_mib']:.0f} |"
        )

    # The cost of scaling.
    for row in rows:
        if row["metric"] == "ratio":
            ends = f"{float(row['q25']) - 1:+.1%} to {float(row['q75']) - 1:+.1%}"
            lines.append(
                f"\n{row['case']}, {row['contender']}: {float(row['median']) - 1:+.1%} ({ends}, {row['rounds']} pairs)"
            )
    return "\n".join(lines)


def _ratios(figures: dict[str, float], kind: str) -> str:
    """Of "update" or "learn" to each peer that was in the case."""
    names = [f"{kind} x {peer}" for peer in PEERS]
    return ", ".join(f"{figures[name]:.2f}" for name in names if name in figures) or "n/a"


def machine(threads: int) -> str:
    """:return: one line: processor, cores, threads, versions"""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if "model name" in line]

    versions = []
    for package in ("torch", "stable_baselines3", "sb3_contrib", "sbx-rl", "jax"):
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"no {package}")

    processor = names[0] if names else platform.processor()
    return (
        f"{processor}, {os.cpu_count()} cores, {threads} thread(s); Python {platform.python_version()}, "
        + ", ".join(versions)
    )


def select(names: list[str] | None) -> dict[str, dict[str, Any]]:
    """:raises SystemExit: on an unknown case, naming the nearest"""
    if not names:
        return {**CASES, **RECURRENT}

    cases = {**CASES, **GROWTH, **RECURRENT}
    for name in names:
        if name not in cases:
            near = difflib.get_close_matches(name, cases, n=1)
            hint = f": did you mean {near[0]!r}?" if near else f"; known: {list(cases)}"
            raise SystemExit(f"unknown case {name!r}{hint}")
    return {name: cases[name] for name in names}


def contenders_of(name: str, case: dict[str, Any], wanted: list[str]) -> list[str]:
    """:return: those of the contenders that can take part in a case"""
    if name in RECURRENT:
        return list(RECURRENT_CONTENDERS)
    if case["env"] == "images":
        return [contender for contender in GROWTH_CONTENDERS if contender in wanted]
    absent = {"SBX PPO"} if importlib.util.find_spec("sbx") is None else set()
    if case["env"] != "CartPole-v1" or importlib.util.find_spec("optax") is None:
        absent.add(JAX)
    return [contender for contender in wanted if contender not in absent]


def write(path: Path, threads: int, rows: list[dict[str, Any]]) -> None:
    """Write the CSV; ``rows`` have ``FIELDS``."""
    with path.open("w", newline="") as file:
        file.write(f"# {machine(threads)}\n")
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows(rows)


def measured(names: list[str] | None, wanted: list[str], options: argparse.Namespace, path: Path) -> None:
    """
    Measure cases and write them to a file, case by case.

    :param names: of the cases; None: all but the growth
    :param wanted: contenders, those that can take part in a case
    :param options: with rounds, pairs and threads
    :param path: of the CSV
    """
    rows: list[dict[str, Any]] = []
    for name, case in select(names).items():
        rows += rows_of(name, measure(case, contenders_of(name, case, wanted), options.rounds, options.threads))
        write(path, options.threads, rows)
    if options.pairs and not options.growth:
        rows += scaling_cost(options.pairs, options.rounds, options.threads)
        write(path, options.threads, rows)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="*", help="default: all but the growth")
    parser.add_argument("--contenders", nargs="*", default=list(CONTENDERS), choices=CONTENDERS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--pairs", type=int, default=5, help="of processes for the cost of scaling; 0: not measured")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, help="default: speed.csv, or growth.csv, beside this file")
    parser.add_argument("--table", action="store_true", help="print the table of the output file and measure nothing")
    parser.add_argument("--picture", type=Path, help="draw a PNG of the output file and measure nothing")
    parser.add_argument("--growth", type=Path, help="measure time and memory as a number grows, and draw this PNG")
    options = parser.parse_args(arguments)

    # Measure, unless only the file is to be shown.
    path = options.output or (GROWTH_CSV if options.growth else CSV)
    if not (options.table or options.picture):
        names = options.cases or (list(GROWTH) if options.growth else None)
        measured(names, list(GROWTH_CONTENDERS) if options.growth else options.contenders, options, path)

    # Show what the file holds.
    with path.open() as file:
        print(file.readline().lstrip("# "))
        rows = list(csv.DictReader(file))
    print(table(rows))
    if options.picture:
        cases = dict.fromkeys(row["case"] for row in rows if row["metric"] == "steps_per_s")
        picture(rows, [case for case in cases if "images" not in case], PEERS, options.picture)
    if options.growth:
        growth_picture(rows, PEERS, options.growth)


if __name__ == "__main__":
    main()
