"""
How fast is DistributionalPPO beside SB3's PPO and SBX's (JAX), RecurrentDistributionalPPO beside RecurrentPPO?

    pip install -c constraints.txt -e ".[market,test,bench]"
    python benchmarks/speed.py            # measures, writes benchmarks/speed.csv, prints the tables
    python benchmarks/speed.py --table    # prints them from the file
    python benchmarks/speed.py --picture docs/speed.png

One process per contender and case; they are asked in turn, one at a time, so that a noisy machine disturbs all alike.
An update is ``model.train()``, in ms per minibatch; learn is ``learn()`` over two rollouts, in environment steps per
second. Figures are medians over the rounds.
"""

from __future__ import annotations

import argparse
import csv
import difflib
import importlib.metadata
import importlib.util
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

CSV = Path(__file__).with_name("speed.csv")
CONTENDERS = ("SB3 PPO", "SBX PPO", "eager", "compiled", "eager, scaling off", "compiled, scaling off")
CASES: dict[str, dict[str, Any]] = {
    "CartPole, 8 envs, batch 64": dict(env="CartPole-v1", n_envs=8, n_steps=256, batch_size=64),
    "Pendulum, 8 envs, batch 64": dict(env="Pendulum-v1", n_envs=8, n_steps=256, batch_size=64),
    "CartPole, 8 envs, batch 256": dict(env="CartPole-v1", n_envs=8, n_steps=256, batch_size=256),
    "CartPole, 64 envs, batch 1024": dict(env="CartPole-v1", n_envs=64, n_steps=64, batch_size=1024),
    "market, 8 envs, batch 64": dict(env="market", n_envs=8, n_steps=256, batch_size=64),
}
GROWTH = {
    **{
        f"{n} quantiles": dict(env="CartPole-v1", n_envs=8, n_steps=256, batch_size=64, n_quantiles=n)
        for n in (8, 32, 128, 512)
    },
    **{f"{n} envs": dict(env="CartPole-v1", n_envs=n, n_steps=2048 // n, batch_size=64) for n in (1, 64, 256)},
}
RECURRENT = {
    f"{env.partition('-')[0]}, LSTM {units}": dict(
        env=env, n_envs=8, n_steps=256, batch_size=256, lstm_hidden_size=units
    )
    for env in ("CartPole-v1", "Pendulum-v1")
    for units in (64, 256)
}
RECURRENT_CONTENDERS = ("RecurrentPPO", "recurrent")
PEERS = (*CONTENDERS[:2], "RecurrentPPO")
FIELDS = ("case", "contender", "metric", "median", "q25", "q75", "rounds")


def make_model(contender: str, case: dict[str, Any]) -> Any:
    """
    :param contender: one of ``CONTENDERS``, or of ``RECURRENT_CONTENDERS`` where the case has an LSTM
    :param case: settings, the same for all
    """
    settings = dict(case)
    env_id, n_envs, n_quantiles = settings.pop("env"), settings.pop("n_envs"), settings.pop("n_quantiles", 32)
    env = market_env(n_envs) if env_id == "market" else gym_env(env_id, n_envs)
    settings |= {"n_epochs": 10, "seed": 0}
    if "lstm_hidden_size" in settings:
        return make_recurrent_model(contender, env, n_quantiles, **settings)
    if contender == "SBX PPO":
        import sbx

        return sbx.PPO("MlpPolicy", env, **settings)
    if contender == "SB3 PPO":
        from stable_baselines3 import PPO

        return PPO("MlpPolicy", env, device="cpu", **settings)
    from distributional_ppo import DistributionalPPO

    flags: dict[str, Any] = {
        "compile": "compiled" in contender,
        "use_variance_gradient_scaling": "off" not in contender,
    }
    policy_kwargs = {"n_quantiles": n_quantiles}
    return DistributionalPPO("MlpPolicy", env, device="cpu", policy_kwargs=policy_kwargs, **settings, **flags)


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
    from stable_baselines3.common.env_util import make_vec_env

    return make_vec_env(env_id, n_envs, seed=0)


def market_env(n_envs: int) -> Any:
    """The shipped S&P 500 and its training period, monitored as the command line does."""
    from stable_baselines3.common.vec_env import VecMonitor

    from market_regimes.config import MarketConfig
    from market_regimes.market.env import MarketCore, MarketVecEnv
    from market_regimes.market.segments import Segment, market_of, read_bars

    period = range(60, 2500)
    market = market_of(read_bars(MarketConfig())[0], MarketConfig(), period, period.stop - 1)
    return VecMonitor(MarketVecEnv(MarketCore([Segment(market, period, period)], n_envs), seed=0))


def work(connection: Connection, contender: str, case: dict[str, Any], threads: int) -> None:
    """
    A process: build, warm up (which compiles), then answer each request by (ms per minibatch, steps per second, MiB).

    :param connection: to the parent; anything but None asks for one round
    """
    import torch

    torch.set_num_threads(threads)
    model = make_model(contender, case)
    steps = model.n_steps * model.n_envs
    model.learn(3 * steps)
    minibatches = model.n_epochs * math.ceil(steps / model.batch_size)
    connection.send("ready")
    while connection.recv() is not None:
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
    context = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for contender in contenders:
        pipes[contender], end = context.Pipe()
        process = context.Process(target=work, args=(end, contender, case, threads), daemon=True)
        process.start()
        processes.append(process)
        pipes[contender].recv()
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
    mean, half = statistics.fmean(logs), 0.0
    if len(logs) > 1:
        half = float(stats.t.ppf(0.975, len(logs) - 1)) * statistics.stdev(logs) / math.sqrt(len(logs))
    return math.exp(mean), math.exp(mean - half), math.exp(mean + half)


def rows_of(name: str, answers: dict[str, list[tuple[float, ...]]]) -> list[dict[str, Any]]:
    rows = []
    for contender, values in answers.items():
        for metric, column in zip(("update_ms", "steps_per_s", "memory_mib"), zip(*values, strict=True), strict=True):
            low, median, high = statistics.quantiles(column, n=4) if len(column) > 1 else [column[0]] * 3
            figures = dict(median=f"{median:.6g}", q25=f"{low:.6g}", q75=f"{high:.6g}", rounds=len(column))
            rows.append({"case": name, "contender": contender, "metric": metric, **figures})
    return rows


def scaling_cost(pairs: int, rounds: int, threads: int) -> list[dict[str, Any]]:
    """Update time with scaling over that without, in fresh pairs of processes."""
    rows = []
    for kind in ("eager", "compiled"):
        ratios = []
        for _ in range(pairs):
            answers = measure(CASES["CartPole, 8 envs, batch 64"], [kind, f"{kind}, scaling off"], rounds, threads)
            on, off = (statistics.median(a[0] for a in values) for values in answers.values())
            ratios.append(on / off)
        mean, low, high = interval(ratios)
        figures = dict(median=f"{mean:.5g}", q25=f"{low:.5g}", q75=f"{high:.5g}", rounds=pairs)
        rows.append({"case": "cost of scaling", "contender": kind, "metric": "ratio", **figures})
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """:return: Markdown: the medians, and their ratios to SB3's PPO and SBX's, or to sb3-contrib's RecurrentPPO"""
    lines = [
        "| case | contender | update, ms | steps/s | update x SB3, x SBX | learn x SB3, x SBX | peak MiB |",
        "|" + "---|" * 7,
    ]
    medians = {(r["case"], r["contender"], r["metric"]): float(r["median"]) for r in rows}
    for case, contender in dict.fromkeys((r["case"], r["contender"]) for r in rows if r["metric"] != "ratio"):
        update, speed, memory = (medians[case, contender, m] for m in ("update_ms", "steps_per_s", "memory_mib"))
        peers = [peer for peer in PEERS if (case, peer, "update_ms") in medians]
        updates = ", ".join(f"{medians[case, peer, 'update_ms'] / update:.2f}" for peer in peers)
        learns = ", ".join(f"{speed / medians[case, peer, 'steps_per_s']:.2f}" for peer in peers)
        lines.append(f"| {case} | {contender} | {update:.3f} | {speed:,.0f} | {updates} | {learns} | {memory:.0f} |")
    for row in rows:
        if row["metric"] == "ratio":
            ends = f"{float(row['q25']) - 1:+.1%} to {float(row['q75']) - 1:+.1%}"
            lines.append(
                f"\n{row['case']}, {row['contender']}: {float(row['median']) - 1:+.1%} ({ends}, {row['rounds']} pairs)"
            )
    return "\n".join(lines)


def picture(rows: list[dict[str, Any]], path: Path) -> None:
    """
    ``learn()`` of each contender in the main cases, as bars.

    :param rows: of the CSV
    :param path: of the PNG
    """
    from matplotlib import pyplot

    speeds = {(r["case"], r["contender"]): float(r["median"]) / 1e3 for r in rows if r["metric"] == "steps_per_s"}
    cases = [case for case in CASES if any(name == case for name, _ in speeds)]
    contenders = [c for c in CONTENDERS if any(name == c for _, name in speeds)]
    figure, axes = pyplot.subplots(figsize=(9, 3.6), layout="constrained")
    colours = ["#999999", "#E69F00", "#56B4E9", "#0072B2", "#009E73", "#CC79A7"]  # Okabe and Ito's
    for i, contender in enumerate(contenders):
        heights = [speeds.get((case, contender), 0.0) for case in cases]
        places = [j + (i - (len(contenders) - 1) / 2) * 0.8 / len(contenders) for j in range(len(cases))]
        label = contender if "PPO" in contender else f"DistributionalPPO, {contender}"
        bars = axes.bar(places, heights, 0.8 / len(contenders), label=label, color=colours[i])
        axes.bar_label(bars, fmt="%.1f", fontsize=7)
    axes.set_xticks(range(len(cases)), [case.replace(", ", "\n", 1) for case in cases], fontsize=8)
    axes.set_ylabel("learn(), 1,000 steps/s")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, ncols=2)
    figure.savefig(path, dpi=130)


def machine(threads: int) -> str:
    """:return: one line: processor, cores, threads, versions"""
    info = Path("/proc/cpuinfo")
    names = (
        [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        if info.exists()
        else []
    )
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
    known = {**CASES, **GROWTH, **RECURRENT}
    for name in names or []:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise SystemExit(
                f"unknown case {name!r}" + (f": did you mean {near[0]!r}?" if near else f"; known: {list(known)}")
            )
    return {name: known[name] for name in names} if names else known


def write(path: Path, threads: int, rows: list[dict[str, Any]]) -> None:
    """
    :param path: of the CSV
    :param threads: of torch
    :param rows: with ``FIELDS``
    """
    with path.open("w", newline="") as file:
        file.write(f"# {machine(threads)}\n")
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows(rows)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="*", help="default: all, and the growth with quantiles and environments")
    parser.add_argument("--contenders", nargs="*", default=list(CONTENDERS), choices=CONTENDERS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--pairs", type=int, default=5, help="of processes for the cost of scaling; 0: not measured")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=CSV)
    parser.add_argument("--table", action="store_true", help="print the table of the output file and measure nothing")
    parser.add_argument("--picture", type=Path, help="draw a PNG of the output file and measure nothing")
    options = parser.parse_args(arguments)
    if not (options.table or options.picture):
        contenders = [c for c in options.contenders if c != "SBX PPO" or importlib.util.find_spec("sbx")]
        rows: list[dict[str, Any]] = []
        for name, case in select(options.cases).items():
            wanted = [c for c in contenders if name in CASES or "off" not in c]
            wanted = list(RECURRENT_CONTENDERS) if name in RECURRENT else wanted
            rows += rows_of(name, measure(case, wanted, options.rounds, options.threads))
            write(options.output, options.threads, rows)
        if options.pairs:
            rows += scaling_cost(options.pairs, options.rounds, options.threads)
            write(options.output, options.threads, rows)
    with options.output.open() as file:
        print(file.readline().lstrip("# "))
        rows = list(csv.DictReader(file))
    print(table(rows))
    if options.picture:
        picture(rows, options.picture)


if __name__ == "__main__":
    main()
