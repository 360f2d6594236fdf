"""Runs: train an agent into a run folder, resume it there, evaluate it from there."""

from __future__ import annotations

import json
import math
import platform
import re
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import torch
from filelock import FileLock, Timeout
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv, VecMonitor, VecNormalize
from torch import nn, optim

import distributional_ppo
from distributional_ppo import DistributionalPPO
from market_regimes import checkpoint
from market_regimes.checkpoint import CheckpointError, newest_first, write_file
from market_regimes.data import KEEPS_BOUNDS, Market, VolatilityIndex, check_index_covers, load_markets
from market_regimes.env import REWARD_SCALE, MarketCore, MarketVecEnv, Segment, TradingCosts
from market_regimes.evaluation import (
    Decision,
    backtest,
    buy_and_hold,
    discounted,
    figures,
    figures_by_regime,
    joint,
    random_timing,
    summary,
    tear_sheet,
    trades,
    volatility_targeting,
)
from market_regimes.report import picture_of_equity, picture_of_returns, picture_of_training
from market_regimes.training import Memory, Training, until_interrupted
from upgd import UPGD, AdaptiveUPGD

PeriodName = Literal["train", "validation", "test"]
CheckpointName = Literal["best", "last"]
ACTIVATIONS = {cls.__name__: cls for cls in (nn.Tanh, nn.ReLU, nn.ELU, nn.GELU, nn.SiLU, nn.LeakyReLU)}
OPTIMIZERS = {cls.__name__: cls for cls in (optim.Adam, optim.AdamW, optim.RMSprop, optim.SGD, UPGD, AdaptiveUPGD)}
EVALUATION_EPISODES = 20  # for environments other than the market
EVALUATION_SEED = 10_000  # added to the run's seed, away from those of the training copies


@dataclass
class MarketConfig:
    """
    The data and how they are traded. Dates are included; every bar's return belongs to one period.

    :param data: "sp500", "nasdaq", "synthetic" (made up, its truth known), CSV or Parquet files, or folders of them;
        several make one training on all symbols
    :param volatility_index: "auto": a file's own column where there is one, else estimated from prices; "estimated"; or
        "real": the VIX from 2014 for the S&P 500, a file's own column
    :param bars_per_year: of the files; None: inferred from their dates
    :param regime_bounds: points of the volatility index at which normal, volatile and crash begin; None: 15, 25, 40 for
        the S&P 500, for other symbols quantiles 0.383, 0.898 and 0.986 of the training period
    :param train: first and last day of the training period
    :param validation: first and last day of the period evaluated during training
    :param test: first and last day of the period evaluated at the end
    :param episode_bars: bars per training episode
    :param trading: what trading costs and what may be held
    """

    data: str | list[str] = "sp500"
    volatility_index: VolatilityIndex = "auto"
    bars_per_year: float | None = None
    regime_bounds: tuple[float, float, float] | None = None
    train: tuple[str, str] = ("1999-01-01", "2008-12-31")
    validation: tuple[str, str] = ("2009-01-01", "2010-12-31")
    test: tuple[str, str] = ("2011-01-01", "2018-12-31")
    episode_bars: int = 252
    trading: TradingCosts = field(default_factory=TradingCosts)


@dataclass
class RunConfig:
    """
    The run around the algorithm.

    :param env_id: "market", or the id of any Gymnasium environment
    :param total_timesteps: environment steps to train on
    :param n_envs: environment copies stepped together
    :param normalize_observations: whether VecNormalize scales the observations by the statistics of those seen
    :param eval_every: environment steps between evaluations on the validation period
    :param patience: stop after this many evaluations without a better one, None: never
    :param checkpoint_every: environment steps between checkpoints
    :param out: folder of the run folders
    :param name: name of the run folder; None: environment and time
    :param progress_bar: whether to show one
    """

    env_id: str = "market"
    total_timesteps: int = 100_000
    n_envs: int = 8
    normalize_observations: bool = False
    eval_every: int = 20_000
    patience: int | None = None
    checkpoint_every: int = 20_000
    out: str = "runs"
    name: str | None = None
    progress_bar: bool = True

    def __post_init__(self) -> None:
        for name in ("total_timesteps", "n_envs", "eval_every", "patience", "checkpoint_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"run.{name} must be at least 1, got {value}")


MAX_SEEDS = 1000


def seeds_of(text: str) -> list[int]:
    """
    :param text: seeds as 0-4 or 0,3,7
    :return: the seeds
    :raises ValueError: if it is none of these, or there are more than ``MAX_SEEDS``
    """
    found: Sequence[int] = []
    if re.fullmatch(r"\d{1,9}-\d{1,9}", text):
        first, last = (int(bound) for bound in text.split("-"))
        found = range(first, last + 1)
    elif re.fullmatch(r"\d{1,9}(,\d{1,9})*", text):
        found = sorted({int(seed) for seed in text.split(",")})
    if not 0 < len(found) <= MAX_SEEDS:
        raise ValueError(f"expected seeds like 0-4 or 0,3,7, at most {MAX_SEEDS} of them, got {text}")
    return list(found)


def versions() -> dict[str, str]:
    """:return: of what the numbers depend on"""
    found = {"distributional_ppo": distributional_ppo.__version__, "python": platform.python_version()}
    for package in ("torch", "stable-baselines3", "gymnasium", "numpy", "arch"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def stamped(name: str) -> str:
    """:return: the name with the time, for a folder that nobody named"""
    return f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"


def new_folder(run: RunConfig) -> Path:
    """
    :param run: names the folder, or leaves it to environment and time
    :return: where the run, or the runs of several seeds, will lie
    :raises ValueError: if it exists already
    """
    folder = Path(run.out) / (run.name or stamped(run.env_id))
    if folder.exists():
        raise ValueError(f"the run folder {folder} exists already: choose another run.name, or --resume {folder}")
    return folder


class Study:
    """
    A configured run: the environment and the algorithm, built and checked, not yet trained.

    :param run: the run around the algorithm
    :param market: the data, used if ``run.env_id`` is "market"
    :param algorithm: keyword arguments of ``DistributionalPPO`` as YAML has them: schedules as "lin_0.0003", classes in
        ``policy_kwargs`` by name
    :param periods: of the market, one after the other; the first is trained on
    :raises ValueError: on a value that is out of range, with the constructor's own words, and on data that cannot be
        used
    :raises gymnasium.error.Error: on an unknown environment
    """

    def __init__(
        self,
        run: RunConfig,
        market: MarketConfig,
        algorithm: dict[str, Any],
        periods: Sequence[PeriodName] = get_args(PeriodName),
    ):
        self.run, self.trading, self.seed = run, market.trading, algorithm["seed"]
        self.step = 0  # of the checkpoint loaded
        self.segments: dict[str, list[Segment]] = {}
        self.core: MarketCore | None = None
        if run.env_id == "market":
            self.segments = segments_of(market, periods)
            self.core = MarketCore(self.segments["train"], run.n_envs, market.trading, market.episode_bars)
            for sentence in [sentence for one in self._markets() for sentence in one.oddities()]:
                print(f"warning: {sentence}", file=sys.stderr)
        self.score_name = "mean_reward" if self.core is None else "sharpe_ratio"
        _check_ranges(algorithm)
        try:
            self.model = DistributionalPPO(env=self._make_env(), **python_values(algorithm))
        except AttributeError as error:  # as SB3 says that a policy is for another kind of observation
            raise ValueError(f"algorithm.policy={algorithm['policy']} does not fit {run.env_id}: {error}") from error

    def _make_env(self) -> VecEnv:
        env: VecEnv
        if self.core is not None:
            env = VecMonitor(MarketVecEnv(self.core, seed=self.seed))
        elif ":" in self.run.env_id:  # Gymnasium would import what stands before it
            raise ValueError(f"run.env_id must be the id of a registered environment, got {self.run.env_id!r}")
        else:
            env = make_vec_env(self.run.env_id, self.run.n_envs, seed=self.seed)
        return VecNormalize(env, norm_reward=False) if self.run.normalize_observations else env

    def start(self, config_text: str) -> Path:
        """
        Train from the beginning.

        :param config_text: the resolved configuration, kept in the run folder
        :return: the run folder, with configuration, provenance, TensorBoard events, ``progress.csv``, checkpoints,
            ``training.png`` and ``model.zip``, the best model as ``DistributionalPPO.load`` reads it
        :raises ValueError: if the folder exists already
        :raises KeyboardInterrupt: with the folder, if the user stopped the training
        :raises FloatingPointError: if a NaN or an infinity turns up
        :raises RuntimeError: if the training fails otherwise; the traceback is in the folder
        """
        folder = new_folder(self.run)
        unfinished = folder.with_name(f".{folder.name}.tmp")
        unfinished.mkdir(parents=True, exist_ok=True)
        write_file(unfinished / "config.yaml", config_text)
        write_file(unfinished / "run.json", json.dumps(self._provenance(), indent=2))
        unfinished.rename(folder)
        print(f"training in {folder}", flush=True)
        self._learn(folder, config_text, Memory(evaluation_due=self.run.eval_every), None)
        return folder

    def resume(self, folder: Path, config_text: str) -> None:
        """
        Go on from the newest whole checkpoint: on the market and the CPU bit for bit as if nothing had happened. Of
        files that are torn or foreign, a sentence says so.

        :param folder: run folder
        :param config_text: the resolved configuration, kept in the run folder
        :raises ValueError: if the folder holds no checkpoint that can be used, or a run on other data
        :raises KeyboardInterrupt: with the folder, if the user stopped the training
        :raises FloatingPointError: if a NaN or an infinity turns up
        :raises RuntimeError: if the training fails otherwise; the traceback is in the folder
        """
        self._check_provenance(folder)
        paths = newest_first(folder)
        if not paths:  # killed before it could write the first one
            print(f"{folder} begins anew: it has no checkpoint", flush=True)
            self._learn(folder, config_text, Memory(evaluation_due=self.run.eval_every), None)
            return
        for path in paths:
            try:
                tensors, state = checkpoint.read(path)
                checkpoint.restore(self.model, tensors, state, path)
                memory = Memory.of(state, path)
            except CheckpointError as error:
                print(f"{error}; trying another", file=sys.stderr)
                continue
            episodes = "" if self.core else f", with new episodes: {self.run.env_id} cannot be put back to where it was"
            print(f"{folder} goes on from step {self.model.num_timesteps}{episodes}", flush=True)
            self._learn(folder, config_text, memory, (tensors, state))
            return
        raise ValueError(f"{folder} holds no checkpoint that can be resumed from")

    def _learn(
        self, folder: Path, config_text: str, memory: Memory, resumed: tuple[dict[str, Any], dict[str, Any]] | None
    ) -> None:
        lock = FileLock(folder / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise ValueError(f"another process is training in {folder}") from error
        with lock, until_interrupted() as interrupted:
            try:
                training = Training(self, folder, interrupted, memory, resumed)
                write_file(folder / "config.yaml", config_text)
                self.model.set_logger(Logger(str(folder), [training.tensorboard, training.progress]))
                self.model.learn(
                    self.run.total_timesteps - self.model.num_timesteps,
                    training,
                    progress_bar=self.run.progress_bar,
                    reset_num_timesteps=resumed is None,
                )
                if training.stopped and not interrupted.is_set():
                    print(training.stopped)
                picture_of_training(folder / "progress.csv", folder / "training.png", folder.name)
                self.load(folder)
                self.model.save(folder / "model.zip")
                if interrupted.is_set():
                    raise KeyboardInterrupt
            except KeyboardInterrupt as stop:
                raise KeyboardInterrupt(folder) from stop
            except (ValueError, OSError, FloatingPointError):
                raise
            except Exception as error:
                write_file(folder / "traceback.txt", traceback.format_exc())
                reason = f"{type(error).__name__}: {error}; see {folder / 'traceback.txt'}"
                raise RuntimeError(f"training failed in {folder} with {reason}") from error

    def _provenance(self) -> dict[str, Any]:
        """What the run's numbers depend on besides its configuration."""
        return {
            **versions(),
            "seed": self.seed,
            "data": {
                market.symbol: {
                    "sha256": market.fingerprint(),
                    "bars": len(market.dates),
                    "bars_per_year": market.bars_per_year,
                    "regime_bounds": market.bounds,
                }
                for market in self._markets()
            },
        }

    def _markets(self) -> list[Market]:
        """All symbols; none in environments other than the market."""
        return [] if self.core is None else self.core.markets

    def _check_provenance(self, folder: Path) -> None:
        """Raise if a run folder is none or was trained on other data."""
        if not (folder / "run.json").exists():
            raise ValueError(f"{folder} is no run folder: it has no run.json")
        data = _read_json(folder / "run.json").get("data")
        if not isinstance(data, dict) or not all(isinstance(entry, dict) for entry in data.values()):
            raise ValueError(f"{folder / 'run.json'} is torn or no run's")
        seen = {symbol: entry.get("sha256") for symbol, entry in data.items()}
        if seen != {market.symbol: market.fingerprint() for market in self._markets()}:
            raise ValueError(f"{folder} was trained on data with another fingerprint: its figures would not compare")

    def load(self, folder: Path, which: CheckpointName = "best") -> None:
        """
        Take the parameters of a run. They are read as tensors only; no code in the files is run.

        :param folder: a run folder
        :param which: "best" by validation, or the "last" checkpoint; best is the last where no evaluation says
        :raises ValueError: if the folder holds no checkpoint that can be used, or a run on other data
        """
        self._check_provenance(folder)
        paths = newest_first(folder)
        if which == "best" and (folder / "best.json").exists():
            step = _read_json(folder / "best.json").get("step")
            if type(step) is not int or step < 0:
                raise ValueError(f"{folder / 'best.json'} is torn or no run's")
            paths.insert(0, checkpoint.path_of(folder, step))
        for path in dict.fromkeys(paths):
            try:
                tensors, state = checkpoint.read(path)
                checkpoint.load_agent(self.model, tensors, path)
                self.step = int(state["num_timesteps"])
                return
            except CheckpointError as error:
                print(f"{error}; trying another", file=sys.stderr)
        raise ValueError(f"{folder} holds no checkpoint that can be used")

    def agent(self, seen: list[np.ndarray] | None = None) -> Decision:
        """
        :param seen: receives the observations as the policy gets them
        :return: the deterministic policy as a decision rule
        """
        normalizer = self.model.get_vec_normalize_env()

        def decide(core: MarketCore) -> np.ndarray:
            observations: Any = core.observations()
            if normalizer is not None:
                observations = normalizer.normalize_obs(observations)
            if seen is not None:
                seen.append(observations)
            return core.targets(self.model.predict(observations, deterministic=True)[0])

        return decide

    def score(self) -> tuple[dict[str, float | None], Any]:
        """
        :return: what an evaluation during training logs, from the validation period or new episodes; and the picture of
            the predicted returns, None for environments other than the market
        """
        if self.core is None:
            return {"mean_reward": self._reward_figures()["mean_reward"]}, None
        segments, seen = self.segments["validation"], list[np.ndarray]()
        frames = backtest(segments, self.trading, self.agent(seen))
        together = joint(frames)
        all_figures = figures(together, self.core.bars_per_year)
        scores = {name: all_figures[name] for name in ("sharpe_ratio", "max_drawdown")}
        scores["mean_reward"] = float(REWARD_SCALE * np.log1p(together["return"]).sum())
        by_regime = figures_by_regime(frames, self.core.bars_per_year)
        scores |= {f"sharpe_{regime}": cell["sharpe_ratio"] for regime, cell in by_regime.items()}
        return scores, self._picture_of_returns(frames, seen, "validation")

    def predicted_and_came(
        self, frames: dict[str, pd.DataFrame], seen: list[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """
        :param frames: the agent's ``backtest``, M rows in all
        :param seen: what ``agent`` noted in it
        :return: the critic's quantiles before each row, shape (M, N), and the discounted rewards that came, (M,)
        """
        states = np.stack(seen)  # one more than there are rows, the last state
        quantiles, last_values = [], []
        for i, frame in enumerate(frames.values()):
            with torch.no_grad():
                predicted = self.model.policy.predict_quantiles(states[: len(frame) + 1, i]).cpu().numpy()
            quantiles.append(predicted[:-1])
            last_values.append(predicted[-1].mean())
        return np.concatenate(quantiles), discounted(frames, np.array(last_values), self.model.gamma)

    def _picture_of_returns(self, frames: dict[str, pd.DataFrame], seen: list[np.ndarray], period: str) -> Any:
        """The critic's quantiles beside what came, as a figure."""
        return picture_of_returns(frames, *self.predicted_and_came(frames, seen), f"discounted rewards, {period}")

    def evaluate(self, folder: Path, period: PeriodName) -> dict[str, Any]:
        """
        Score the deterministic policy and write ``evaluation-PERIOD.json``; on the market also ``trades-PERIOD.csv``,
        ``tearsheet-PERIOD.html`` and the pictures ``equity-PERIOD.png`` and ``returns-PERIOD.png``.

        :param folder: run folder to write to
        :param period: period of the market; other environments play new episodes instead
        :return: what the JSON holds: the ``step`` the agent was trained to; on the market ``evaluation.summary`` of the
            agent, buy-and-hold, volatility targeting and the agent's trades at random times
        """
        if self.core is None:
            result: dict[str, Any] = {"joint": {"agent": self._reward_figures()}, "symbols": {}, "step": self.step}
            write_file(folder / f"evaluation-{period}.json", json.dumps(result, indent=2))
            return result
        return self._evaluate_on_market(folder, self.segments[period], period, self.core.bars_per_year)

    def _evaluate_on_market(
        self, folder: Path, segments: list[Segment], period: PeriodName, bars_per_year: float
    ) -> dict[str, Any]:
        seen: list[np.ndarray] = []
        agent = backtest(segments, self.trading, self.agent(seen))
        # The benchmarks may hold from 0 to 1 whatever the agent may, and more where it may.
        low, high = self.trading.bounds
        free = replace(self.trading, position_low=min(low, 0.0), position_high=max(high, 1.0), positions=None)
        shifted, sharpe_of_shifts = random_timing(segments, self.trading, agent, self.seed or 0)
        strategies = {
            "agent": agent,
            "buy and hold": backtest(segments, free, buy_and_hold),
            "volatility target": backtest(segments, free, volatility_targeting(segments)),
            "random timing": shifted,
        }
        result = {**summary(strategies, bars_per_year), "step": self.step}
        sharpe = result["joint"]["agent"]["sharpe_ratio"]
        result["share_of_random_timings_below_agent"] = (
            None if sharpe is None else float(np.mean(sharpe_of_shifts * np.sqrt(bars_per_year) < sharpe))
        )
        write_file(folder / f"evaluation-{period}.json", json.dumps(result, indent=2))
        together = {name: joint(frames) for name, frames in strategies.items()}
        days = " to ".join(str(day) for day in together["agent"].index[[0, -1]].date)
        title = f"{', '.join(agent) if len(agent) <= 3 else f'{len(agent)} symbols'}, {period}: {days}"
        picture_of_equity(together, folder / f"equity-{period}.png", title)
        self._picture_of_returns(agent, seen, f"{period}: {days}").savefig(folder / f"returns-{period}.png")
        trades(agent).to_csv(folder / f"trades-{period}.csv")
        returns, held = together["agent"]["return"], together["buy and hold"]["return"]
        try:
            tear_sheet(returns, held, folder / f"tearsheet-{period}.html", title, bars_per_year)
        except ValueError as error:
            print(f"tearsheet-{period}.html is left out: {error}")
        return result

    def _reward_figures(self) -> dict[str, float | None]:
        """Mean and spread of the returns of new episodes, away from the training seeds."""
        env: VecEnv = make_vec_env(
            self.run.env_id, n_envs=5, seed=None if self.seed is None else self.seed + EVALUATION_SEED
        )
        normalizer = self.model.get_vec_normalize_env()
        if normalizer is not None:
            env = VecNormalize(env, training=False, norm_reward=False)
            env.obs_rms = normalizer.obs_rms
        returns, _ = evaluate_policy(self.model, env, EVALUATION_EPISODES, return_episode_rewards=True)
        env.close()
        return {"mean_reward": float(np.mean(returns)), "std_reward": float(np.std(returns))}


def _read_json(path: Path) -> dict[str, Any]:
    """
    :raises ValueError: unless the file holds a JSON object
    """
    try:
        content = json.loads(path.read_text())
    except (ValueError, OSError, RecursionError) as error:
        raise ValueError(f"{path} is torn or no run's") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is torn or no run's")
    return content


def segments_of(config: MarketConfig, periods: Sequence[PeriodName] = get_args(PeriodName)) -> dict[str, list[Segment]]:
    """
    :param config: the data
    :param periods: which of its periods, the first of which is trained on
    :return: per period one segment for each symbol
    :raises ValueError: if the data cannot be used, the periods overlap or run backwards (the test period would be none)
    """
    bounds = config.regime_bounds
    if bounds is not None and not 0 < bounds[0] < bounds[1] < bounds[2]:
        raise ValueError(f"market.regime_bounds must be three increasing positive numbers, got {bounds}")
    if config.bars_per_year is not None and not 1 <= config.bars_per_year < 1e7:
        raise ValueError(f"market.bars_per_year must be within [1, 1e7), got {config.bars_per_year}")
    entries = [config.data] if isinstance(config.data, str) else config.data
    if not entries:
        raise ValueError("market.data names no data")
    segments: dict[str, list[Segment]] = {name: [] for name in periods}
    for market in load_markets(entries, config.volatility_index, config.bars_per_year):
        bars = [market.period(*getattr(config, name)) for name in periods]
        train = bars[0]
        if any(before.stop > after.start for before, after in pairwise(bars)):
            names = [f"market.{name}" for name in periods]
            raise ValueError(f"{', '.join(names[:-1])} and {names[-1]} must follow one another without overlap")
        market = check_index_covers(market, train.start, bars[-1].stop - 1)
        if bounds is not None:
            market = replace(market, bounds=bounds)
        elif market.symbol not in KEEPS_BOUNDS:
            market = market.with_bounds_of(train)
        for name, period in zip(periods, bars, strict=True):
            segments[name].append(Segment(market, period, train))
    return segments


# Of the algorithm's numbers: lower and upper bound, both included. What is not here the constructor checks.
RANGES = {
    "gamma": (0, 1),
    "gae_lambda": (0, 1),
    "ent_coef": (-1e6, 1e6),
    "vf_coef": (0, 1e6),
    "max_grad_norm": (1e-12, math.inf),
    "learning_rate": (0, 1e6),
    "clip_range": (1e-12, 1e6),
    "clip_range_vf": (1e-12, 1e6),
    "n_steps": (1, 10**9),
    "target_kl": (0, math.inf),
    "stats_window_size": (1, 10**9),
    "sde_sample_freq": (-1, 10**9),
    "seed": (0, 2**32 - 1),
}


def _check_ranges(algorithm: dict[str, Any]) -> None:
    """Raise on a number that PPO would take without a word and that no training can use."""
    for name, (low, high) in RANGES.items():
        value = algorithm.get(name)
        number = float(value.removeprefix("lin_")) if isinstance(value, str) else value
        if number is not None and not low <= number <= high:
            raise ValueError(f"algorithm.{name} must be within [{low:g}, {high:g}], got {value}")


def schedule(value: str | float) -> str | float:
    """
    A number, or "lin_0.0003" for one that falls linearly to 0 over the run.

    :raises ValueError: on anything else
    """
    if isinstance(value, bool):
        raise ValueError("expected a number or lin_NUMBER, got a truth value")
    if isinstance(value, str) and value.startswith("lin_"):
        float(value.removeprefix("lin_"))
        return value
    return float(value)


def python_values(algorithm: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments of the constructor from values as YAML has them."""
    arguments = dict(algorithm)
    for name in ("learning_rate", "clip_range", "clip_range_vf"):
        if isinstance(arguments.get(name), str):
            arguments[name] = LinearSchedule(float(arguments[name].removeprefix("lin_")), 0.0, 1.0)
    policy_kwargs = dict(arguments.get("policy_kwargs") or {})
    for name, classes in (("activation_fn", ACTIVATIONS), ("optimizer_class", OPTIMIZERS)):
        if name in policy_kwargs:
            policy_kwargs[name] = classes[policy_kwargs[name]]
    return {**arguments, "policy_kwargs": policy_kwargs}
