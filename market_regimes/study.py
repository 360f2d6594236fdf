"""Runs: train an agent into a run folder, evaluate it from there."""

from __future__ import annotations

import json
import pickle
import platform
import time
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv, VecMonitor
from torch import nn, optim

import distributional_ppo
from distributional_ppo import DistributionalPPO
from market_regimes.data import Market, load_sp500
from market_regimes.env import REWARD_SCALE, MarketCore, MarketVecEnv, TradingCosts
from market_regimes.evaluation import backtest, buy_and_hold, figures, summary
from market_regimes.report import picture_of_equity, picture_of_training

PeriodName = Literal["train", "validation", "test"]
ACTIVATIONS = {cls.__name__: cls for cls in (nn.Tanh, nn.ReLU, nn.ELU, nn.GELU, nn.SiLU, nn.LeakyReLU)}
OPTIMIZERS = {cls.__name__: cls for cls in (optim.Adam, optim.AdamW, optim.RMSprop, optim.SGD)}
EVALUATION_EPISODES = 20  # for environments other than the market


@dataclass
class MarketConfig:
    """
    The data and how they are traded. Dates are included; every day's return belongs to one period.

    :param volatility_index: "estimated" from prices throughout, or "real": the VIX where there is one (from 2014)
    :param train: first and last day of the training period
    :param validation: first and last day of the period evaluated during training
    :param test: first and last day of the period evaluated at the end
    :param episode_bars: days per training episode
    :param trading: what trading costs and what may be held
    """

    volatility_index: Literal["estimated", "real"] = "estimated"
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
    :param eval_every: environment steps between evaluations on the validation period
    :param out: folder of the run folders
    :param name: name of the run folder; None: environment and time
    :param progress_bar: whether to show one
    """

    env_id: str = "market"
    total_timesteps: int = 100_000
    n_envs: int = 8
    eval_every: int = 20_000
    out: str = "runs"
    name: str | None = None
    progress_bar: bool = True


class Study:
    """
    A configured run: the environment and the algorithm, built and checked, not yet trained.

    :param run: the run around the algorithm
    :param market: the data, used if ``run.env_id`` is "market"
    :param algorithm: keyword arguments of ``DistributionalPPO`` as YAML has them: schedules as "lin_0.0003", classes in
        ``policy_kwargs`` by name
    :raises ValueError: on a value that is out of range, with the constructor's own words
    :raises gymnasium.error.Error: on an unknown environment
    """

    def __init__(self, run: RunConfig, market: MarketConfig, algorithm: dict[str, Any]):
        for name in ("total_timesteps", "n_envs", "eval_every"):
            if getattr(run, name) < 1:
                raise ValueError(f"run.{name} must be at least 1, got {getattr(run, name)}")
        self.run, self.market_config, self.seed = run, market, algorithm["seed"]
        self.market: Market | None = None
        if run.env_id == "market":
            self.market = load_sp500(market.volatility_index)
            self.periods = {name: self.market.period(*getattr(market, name)) for name in get_args(PeriodName)}
            self._check_order()
        self.model = DistributionalPPO(env=self._make_env(), **_python_values(algorithm))

    def _check_order(self) -> None:
        """Refuse periods that overlap or run backwards: the test period would not be one."""
        train, validation, test = self.periods.values()
        if not train.stop <= validation.start < validation.stop <= test.start:
            raise ValueError("market.train, market.validation and market.test must follow one another without overlap")

    def _make_env(self) -> VecEnv:
        if self.market is None:
            if ":" in self.run.env_id:  # Gymnasium would import what stands before it
                raise ValueError(f"run.env_id must be the id of a registered environment, got {self.run.env_id!r}")
            return make_vec_env(self.run.env_id, self.run.n_envs, seed=self.seed)
        train = self.periods["train"]
        config = self.market_config
        core = MarketCore(self.market, train, train, self.run.n_envs, config.trading, config.episode_bars)
        return VecMonitor(MarketVecEnv(core, seed=self.seed))

    def train(self, config_text: str) -> Path:
        """
        :param config_text: the resolved configuration, kept in the run folder
        :return: the run folder, with configuration, TensorBoard events, CSV, checkpoint and ``training.png``
        :raises ValueError: if the folder exists already
        """
        folder = Path(self.run.out) / (self.run.name or f"{self.run.env_id}-{time.strftime('%Y%m%d-%H%M%S')}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError as error:
            raise ValueError(f"the run folder {folder} exists already: choose another run.name") from error
        (folder / "config.yaml").write_text(config_text)
        (folder / "run.json").write_text(json.dumps(self._provenance(), indent=2))
        self.model.set_logger(configure(str(folder), ["tensorboard", "csv"]))
        self.model.learn(self.run.total_timesteps, Evaluation(self), progress_bar=self.run.progress_bar)
        self.model.logger.close()
        self.model.save(folder / "model.zip")
        picture_of_training(folder / "progress.csv", folder / "training.png", str(folder))
        return folder

    def _provenance(self) -> dict[str, Any]:
        """What the run's numbers depend on besides its configuration."""
        packages = {}
        for package in ("torch", "stable-baselines3", "gymnasium", "numpy", "arch"):
            try:
                packages[package] = version(package)
            except PackageNotFoundError:
                packages[package] = "not installed"
        return {
            "distributional_ppo": distributional_ppo.__version__,
            "python": platform.python_version(),
            "packages": packages,
            "seed": self.seed,
            "data_sha256": None if self.market is None else self.market.fingerprint(),
        }

    def load(self, folder: Path) -> None:
        """
        Take the parameters of a run. They are read as tensors only; no code in the file is run.

        :param folder: a run folder
        :raises ValueError: if the folder is none, or holds a run on other data
        """
        try:
            provenance = json.loads((folder / "run.json").read_text())
            if provenance.get("data_sha256") != self._provenance()["data_sha256"]:
                raise ValueError(
                    f"{folder} was trained on data with another fingerprint: its figures would not compare"
                )
            self.model.set_parameters(str(folder / "model.zip"), device=self.model.device)
        except FileNotFoundError as error:
            raise ValueError(f"{folder} is no finished run folder: it has no {Path(error.filename).name}") from error
        except (RuntimeError, pickle.UnpicklingError) as error:
            raise ValueError(f"{folder / 'model.zip'} does not hold the parameters of this run") from error

    def evaluate(self, folder: Path, period: PeriodName) -> dict[str, Any]:
        """
        Score the deterministic policy and write ``evaluation-PERIOD.json``, on the market also ``equity-PERIOD.png``.

        :param folder: run folder to write to
        :param period: period of the market; other environments play new episodes instead
        :return: what the JSON holds: on the market ``evaluation.summary`` of agent and buy-and-hold
        """
        if self.market is None:
            result: dict[str, Any] = {"agent": _reward_figures(self.model, self.run.env_id, self.seed)}
        else:
            frames = {"agent": self.backtest(period, self.model), "buy and hold": self.backtest(period, None)}
            result = summary(frames)
            days = " to ".join(str(day) for day in frames["agent"].index[[0, -1]].date)
            picture_of_equity(frames, folder / f"equity-{period}.png", f"{self.market.symbol}, {period}: {days}")
        (folder / f"evaluation-{period}.json").write_text(json.dumps(result, indent=2))
        return result

    def backtest(self, period: PeriodName, model: DistributionalPPO | None) -> Any:
        """
        :param period: period of the market
        :param model: the agent; None: buy-and-hold
        :return: data frame of ``evaluation.backtest``
        """
        assert self.market is not None
        decide = buy_and_hold if model is None else lambda obs: model.predict(obs, deterministic=True)[0]
        trading = self.market_config.trading
        if model is None:  # the benchmark holds 1 whatever the agent may
            low, high = min(trading.position_low, 0.0), max(trading.position_high, 1.0)
            trading = replace(trading, position_low=low, position_high=high)
        return backtest(self.market, self.periods[period], self.periods["train"], trading, decide)


class Evaluation(BaseCallback):
    """
    Scores the deterministic policy on the validation period every ``run.eval_every`` steps and after the last update:
    ``eval/mean_reward`` and, on the market, ``eval/sharpe_ratio`` and ``eval/max_drawdown``.

    :param study: the run
    """

    def __init__(self, study: Study):
        super().__init__()
        self.study = study
        self.due = study.run.eval_every

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if self.num_timesteps >= self.due:
            self.due = self.num_timesteps + self.study.run.eval_every
            self._evaluate()

    def _on_training_end(self) -> None:
        self._evaluate()

    def _evaluate(self) -> None:
        model = self.study.model
        if self.study.market is None:
            scores = {"mean_reward": _reward_figures(model, self.study.run.env_id, self.study.seed)["mean_reward"]}
        else:
            frame = self.study.backtest("validation", model)
            defined = figures(frame)
            scores = {name: defined[name] for name in ("sharpe_ratio", "max_drawdown")}
            scores["mean_reward"] = float(
                REWARD_SCALE * np.log(frame["equity"].iloc[-1])
            )  # the sum of the period's rewards
        for name, value in scores.items():
            if value is not None:
                self.logger.record(f"eval/{name}", value)
        self.logger.dump(self.num_timesteps)


def _reward_figures(model: DistributionalPPO, env_id: str, seed: int | None) -> dict[str, float | None]:
    """Mean and spread of the returns of new episodes, away from the training seeds."""
    env = make_vec_env(env_id, n_envs=5, seed=None if seed is None else seed + 10_000)
    returns, _ = evaluate_policy(model, env, EVALUATION_EPISODES, return_episode_rewards=True)
    env.close()
    return {"mean_reward": float(np.mean(returns)), "std_reward": float(np.std(returns))}


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


def _python_values(algorithm: dict[str, Any]) -> dict[str, Any]:
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
