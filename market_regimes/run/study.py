"""A configured run: built, trained into a run folder, resumed there, evaluated from there."""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecEnv, VecMonitor, VecNormalize

from market_regimes.config import CheckpointName, MarketConfig, PeriodName, RunConfig
from market_regimes.evaluate.backtest import backtest
from market_regimes.evaluate.pictures import picture_of_returns, picture_of_training
from market_regimes.evaluate.rules import Decision
from market_regimes.files import new_folder, read_json, write_file
from market_regimes.market.env import MarketCore, MarketVecEnv
from market_regimes.market.segments import Segments, segments_of
from market_regimes.run import checkpoint
from market_regimes.run.agent import decision, predicted_and_realised, reward_figures
from market_regimes.run.algorithm import algorithm_class, check_device, check_ranges, python_values
from market_regimes.run.callback import Evaluation, Memory, Training, until_interrupted
from market_regimes.run.checkpoint import CheckpointError, newest_first
from market_regimes.run.evaluation import compared, scores_of, write_evaluation
from market_regimes.run.provenance import check_provenance, provenance


class Study:
    """
    A configured run: the environment and the algorithm, built and checked, not yet trained.

    :param run: the run around the algorithm
    :param market: the data, and what trading costs, used if ``run.env_id`` is "market"
    :param algorithm: keyword arguments of ``algorithm_class(algorithm)`` as YAML has them: schedules as "lin_0.0003",
        classes in ``policy_kwargs`` by name
    :param segments: of the market, where a command has them already; None: all its periods are read
    :raises ValueError: on a value that is out of range, with the constructor's own words, and on data that cannot be
        used
    :raises gymnasium.error.Error: on an unknown environment
    """

    def __init__(
        self, run: RunConfig, market: MarketConfig, algorithm: dict[str, Any], segments: Segments | None = None
    ):
        self.run, self.trading, self.seed = run, market.trading, algorithm["seed"]
        self.step = 0  # of the checkpoint loaded
        self.segments: Segments = {}
        self.core: MarketCore | None = None
        if run.env_id == "market":
            self.segments = segments_of(market) if segments is None else segments
            self.core = MarketCore(self.segments["train"], run.n_envs, market.trading, market.episode_bars)
        self.score_name = "mean_reward" if self.core is None else "sharpe_ratio"
        check_ranges(algorithm)
        check_device(algorithm.get("device", "auto"))
        try:
            self.model = algorithm_class(algorithm)(env=self._make_env(), **python_values(algorithm))
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
        write_file(unfinished / "run.json", json.dumps(provenance(self.seed, self.segments), indent=2))
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
        check_provenance(folder, self.segments)
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
                training = Training(
                    self.run, folder, self.core, self.score, self.score_name, interrupted, memory, resumed
                )
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

    def load(self, folder: Path, which: CheckpointName = "best") -> None:
        """
        Take the parameters of a run. They are read as tensors only; no code in the files is run.

        :param folder: a run folder
        :param which: "best" by validation, or the "last" checkpoint; best is the last where no evaluation says
        :raises ValueError: if the folder holds no checkpoint that can be used, or a run on other data
        """
        check_provenance(folder, self.segments)
        paths = newest_first(folder)
        if which == "best" and (folder / "best.json").exists():
            step = read_json(folder / "best.json").get("step")
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
        :return: the deterministic policy as a trading rule
        """
        return decision(self.model, self.trading, seen)

    def score(self) -> Evaluation:
        """
        :return: what an evaluation during training logs, from the validation period or new episodes; and the picture of
            the predicted returns, None for environments other than the market
        """
        if self.core is None:
            return {"mean_reward": reward_figures(self.model, self.run.env_id, self.seed)["mean_reward"]}, None
        seen: list[np.ndarray] = []
        frames = backtest(self.segments["validation"], self.trading, self.agent(seen))
        return scores_of(frames, self.core.bars_per_year), self._picture_of_returns(frames, seen, "validation")

    def _picture_of_returns(self, frames: dict[str, pd.DataFrame], seen: list[np.ndarray], period: str) -> Any:
        """The critic's quantiles beside the realised returns, as a figure."""
        predicted = predicted_and_realised(self.model, frames, seen)
        return picture_of_returns(frames, *predicted, f"discounted rewards, {period}")

    def evaluate(self, folder: Path, period: PeriodName) -> dict[str, Any]:
        """
        Score the deterministic policy and write ``evaluation-PERIOD.json``; on the market also ``trades-PERIOD.csv``,
        ``tearsheet-PERIOD.html`` and the pictures ``equity-PERIOD.png`` and ``returns-PERIOD.png``.

        :param folder: run folder to write to
        :param period: period of the market; other environments play new episodes instead
        :return: what the JSON holds: the ``step`` the agent was trained to; on the market also what ``compared`` gives
        """
        if self.core is None:
            agent = reward_figures(self.model, self.run.env_id, self.seed)
            result: dict[str, Any] = {"joint": {"agent": agent}, "symbols": {}, "step": self.step}
            write_file(folder / f"evaluation-{period}.json", json.dumps(result, indent=2))
            return result
        seen: list[np.ndarray] = []
        segments, bars_per_year = self.segments[period], self.core.bars_per_year
        frames = backtest(segments, self.trading, self.agent(seen))
        strategies, result = compared(frames, segments, self.trading, bars_per_year, self.seed or 0, self.step)
        days = write_evaluation(folder, period, strategies, result, bars_per_year)
        self._picture_of_returns(frames, seen, f"{period}: {days}").savefig(folder / f"returns-{period}.png")
        return result
