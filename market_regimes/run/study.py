"""A configured run: built, trained into a run folder, resumed there, evaluated from there."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from market_regimes.config import CheckpointName, MarketConfig, PeriodName, RunConfig
from market_regimes.evaluate.evaluation import benchmark_scores, check_portfolio, evaluate
from market_regimes.evaluate.figures import share_of_attainable
from market_regimes.evaluate.pictures import picture_of_training
from market_regimes.evaluate.play import Decision
from market_regimes.evaluate.portfolio import AccountAgent
from market_regimes.evaluate.question import AS_TRAINED, Question
from market_regimes.evaluate.strategies import HOLD, INFORMED
from market_regimes.files import found_from_anywhere, new_folder, write_file
from market_regimes.market.account_environment import AccountRows
from market_regimes.market.environment import Core, MarketCore, MarketVecEnv
from market_regimes.market.market import with_fill
from market_regimes.market.monitor import EpisodeMonitor
from market_regimes.market.segment import Segment
from market_regimes.market.segments import Segments, read_data
from market_regimes.run import checkpoint
from market_regimes.run.agent import Destination, critic_of, evaluate_on, returns_picture, reward_figures, rule_of
from market_regimes.run.algorithm import model_of
from market_regimes.run.callback import Evaluation, Following, Memory, Training, until_interrupted
from market_regimes.run.checkpoint import CheckpointError, newest_first
from market_regimes.run.folder import SCALING, Configured, write_scaling
from market_regimes.run.log import check_scalars_of_regimes
from market_regimes.run.provenance import check_provenance, provenance
from market_regimes.run.resume import of_this_process, restore
from quantile_critic.processes import ProcessLostError, broadcast, n_processes, rank, translating_lost_peers

Resumed = tuple[checkpoint.Tensors, checkpoint.State]  # of the checkpoint a run goes on from


class Study:
    """
    A configured run: the environment and the algorithm, built and checked, not yet trained.

    :param run: the run around the algorithm, None: its defaults
    :param market: the data, and what trading costs, used if ``run.env_id`` is "market"; None: its defaults
    :param algorithm: keyword arguments of ``DistributionalPPO`` as YAML has them: schedules as "lin_0.0003", classes in
        ``policy_kwargs`` by name; None: the constructor's defaults
    :param segments: of the market, where a command has them already; None: all its periods are read
    :raises ValueError: on a value that is out of range, with the constructor's own words, and on data that cannot be
        used
    :raises gymnasium.error.Error: on an unknown environment
    """

    def __init__(
        self,
        run: RunConfig | None = None,
        market: MarketConfig | None = None,
        algorithm: dict[str, Any] | None = None,
        segments: Segments | None = None,
    ):
        run = run or RunConfig()
        market = market or MarketConfig()
        algorithm = algorithm or {}
        self.run = run
        self.trading = market.trading
        self.portfolio = market.portfolio
        self.seed: int | None = algorithm.get("seed")
        self.step = 0  # of the checkpoint loaded

        # On a market there are segments, and a core that trades those of the training period.
        self.segments: Segments = {}
        self.core: Core | None = None
        self.score_name = "mean_reward"
        if run.env_id == "market":
            market, self.segments = _with_segments(market, segments)
            self.core = _core(self.segments["train"], run, market)
            self.score_name = "sharpe_ratio"
            check_scalars_of_regimes(self.core.markets[0].regimes.names)
            if market.portfolio.cash == "shared":
                check_portfolio(self.segments["train"], market.trading, market.portfolio)
        self.configured = Configured(run, market, algorithm)
        self.model = model_of(algorithm, self._make_env())

    def _make_env(self) -> VecEnv:
        if self.run.normalize_observations and n_processes() > 1:
            raise ValueError("run.normalize_observations needs one process: the statistics of several would differ")

        env: VecEnv
        if self.core is not None:
            env = EpisodeMonitor(MarketVecEnv(self.core, seed=self.seed))
        elif ":" in self.run.env_id:  # Gymnasium would import what stands before it
            raise ValueError(f"run.env_id must be the id of a registered environment, got {self.run.env_id!r}")
        else:
            env = make_vec_env(self.run.env_id, self.run.n_envs, seed=self.seed)

        if self.run.normalize_observations:
            return VecNormalize(env, norm_reward=False)
        return env

    def start(self, config_text: str | None = None) -> Path:
        """
        Train from the beginning.

        :param config_text: the resolved configuration, kept in the run folder; None: it is written from what the
            constructor was given
        :return: the run folder, with configuration, provenance, TensorBoard events, ``progress.csv``, checkpoints,
            ``training.png`` and ``model.zip``, the best model as ``DistributionalPPO.load`` reads it
        :raises ValueError: if the folder exists already
        :raises KeyboardInterrupt: with the folder, if the user stopped the training
        :raises FloatingPointError: if a NaN or an infinity turns up
        :raises RuntimeError: if the training fails otherwise; the traceback is in the folder
        :raises ProcessLostError: if another process of the same training ends before
        """
        if config_text is None:
            config_text = self.configured.text()
        new_folder = self._new_folder(config_text) if rank() == 0 else None
        folder: Path = broadcast(new_folder)
        print(f"training in {folder}", flush=True)
        self._learn(folder, config_text, Memory(evaluation_due=self.run.eval_every), None)
        return folder

    def _new_folder(self, config_text: str) -> Path:
        """The run folder, which is there once all is in it that a run begins with."""
        folder = new_folder(self.run)

        unfinished = folder.with_name(f".{folder.name}.tmp")
        unfinished.mkdir(parents=True, exist_ok=True)
        write_file(unfinished / "config.yaml", config_text)
        used = provenance(self.seed, self.segments, self.trading, str(self.model.device))
        write_file(unfinished / "run.json", json.dumps(used, indent=2))
        write_scaling(unfinished, self.segments)
        unfinished.rename(folder)
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
        :raises ProcessLostError: if another process of the same training ends before
        """
        check_provenance(folder, self.segments)
        if rank() == 0 and not (folder / SCALING).exists():  # runs of earlier versions
            write_scaling(folder, self.segments)

        paths = newest_first(folder)
        if not paths:  # killed before it could write the first one
            print(f"{folder} begins anew: it has no checkpoint", flush=True)
            self._learn(folder, config_text, Memory(evaluation_due=self.run.eval_every), None)
            return

        # From the newest whole checkpoint.
        for path in paths:
            try:
                tensors, state = of_this_process(*checkpoint.read(path), path)
                restore(self.model, tensors, state, path)
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
        self,
        folder: Path,
        config_text: str,
        memory: Memory,
        resumed: Resumed | None,
    ) -> None:
        """Train in the first process and write, follow it in the others; name the folder in what goes wrong."""
        step = broadcast(self.model.num_timesteps)
        if step != self.model.num_timesteps:
            raise ValueError(
                f"the processes of the training in {folder} read different checkpoints, of steps {step} and "
                f"{self.model.num_timesteps}: let all see the same folder"
            )

        try:
            with translating_lost_peers():
                if rank() == 0:
                    self._learn_and_write(folder, config_text, memory, resumed)
                else:
                    self._follow(resumed)
        except ProcessLostError as error:
            raise ProcessLostError(
                f"another process of the training in {folder} has ended, with an error of its own or killed: "
                f"train --resume {folder}, or Study.resume in Python, goes on from its last checkpoint"
            ) from error
        except KeyboardInterrupt as stop:
            raise stop.__class__(folder) from stop
        except (ValueError, OSError, FloatingPointError):
            raise
        except Exception as error:
            path = folder / f"traceback{f'-{rank()}' if rank() else ''}.txt"
            write_file(path, traceback.format_exc())
            reason = f"{type(error).__name__}: {error}; see {path}"
            raise RuntimeError(f"training failed in {folder} with {reason}") from error

    def _follow(self, resumed: Resumed | None) -> None:
        steps = self.run.total_timesteps - self.model.num_timesteps
        with until_interrupted():  # the first process decides
            self.model.learn(steps, Following(resumed), reset_num_timesteps=resumed is None)

    def _learn_and_write(
        self,
        folder: Path,
        config_text: str,
        memory: Memory,
        resumed: Resumed | None,
    ) -> None:
        lock = FileLock(folder / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise ValueError(f"another process is training in {folder}") from error

        with lock, until_interrupted() as interrupted:
            training = Training(
                self.run,
                folder,
                self.core,
                self.score,
                self.score_name,
                interrupted,
                memory,
                resumed,
            )
            write_file(folder / "config.yaml", config_text)
            self.model.set_logger(Logger(str(folder), [training.tensorboard, training.progress]))
            self.model.learn(
                self.run.total_timesteps - self.model.num_timesteps,
                training,
                progress_bar=self.run.progress_bar and n_processes() == 1,  # it would count this one's steps only
                reset_num_timesteps=resumed is None,
            )
            if training.stopped and not interrupted.is_set():
                print(training.stopped)

            # The folder ends with a picture and the best model.
            picture_of_training(folder / "progress.csv", folder / "training.png", folder.name)
            self.load(folder)
            self.model.save(folder / "model.zip")
            if interrupted.is_set():
                raise interrupted.kind

    def load(self, folder: Path, which: CheckpointName = "best") -> None:
        """
        Take the parameters of a run. They are read as tensors only; no code in the files is run. The folder stays as
        it is.

        :param folder: a run folder
        :param which: "best" by validation, or the "last" checkpoint; best is the last where no evaluation says
        :raises ValueError: if the folder holds no checkpoint that can be used, or a run on other data
        """
        check_provenance(folder, self.segments)
        self.step = checkpoint.load(self.model, folder, which)

    def agent(self) -> Decision | AccountAgent:
        """:return: the deterministic policy as a trading rule, of one symbol or of an account as it was trained"""
        return rule_of(self.model, self.configured.market)

    def score(self) -> Evaluation:
        """
        :return: what an evaluation during training logs, from the validation period or new episodes; and the picture of
            the predicted returns, None for environments other than the market
        """
        if self.core is None:
            figures = reward_figures(self.model, self.run.env_id, self.seed)
            return {"mean_reward": figures["mean_reward"]}, None

        # The agent beside the trading rules.
        segments = self.segments["validation"]
        evaluation = evaluate(self.agent(), segments, self.trading, critic_of(self.model), portfolio=self.portfolio)
        scores = evaluation.scores | self._validation_benchmarks
        scores["share_of_attainable"] = share_of_attainable(
            scores["sharpe_ratio"], scores[f"sharpe_{HOLD.scalar}"], scores.get(f"sharpe_{INFORMED.scalar}")
        )
        scores["share_of_attainable_growth"] = share_of_attainable(
            scores["growth_per_year"], scores[f"growth_{HOLD.scalar}"], scores.get(f"growth_{INFORMED.scalar}")
        )
        return scores, returns_picture(evaluation, "validation")

    @cached_property
    def _validation_benchmarks(self) -> dict[str, float | None]:
        """Sharpe ratios and growths of the rules to compare with, which no training changes."""
        return benchmark_scores(self.segments["validation"], self.trading, self.portfolio)

    def evaluate(
        self,
        folder: Path,
        period: PeriodName,
        tell: Callable[[str], None] = lambda words: None,
        question: Question = AS_TRAINED,
    ) -> dict[str, Any]:
        """
        Score the deterministic policy and write ``evaluation-PERIOD.json``; on the market also what ``evaluate_on``
        writes.

        :param folder: run folder to write to
        :param period: period of the market; other environments play new episodes instead
        :param tell: receives what is being done, as a few words
        :param question: costs, fill and delay in place of the run's; its words end the names of the files
        :return: what the JSON holds: the ``step`` the agent was trained to; on the market all of ``Evaluation.result``
        """
        if self.core is None:
            tell("the agent plays new episodes")
            agent = reward_figures(self.model, self.run.env_id, self.seed)
            result: dict[str, Any] = {"joint": {"agent": agent}, "symbols": {}, "step": self.step}
            write_file(folder / f"evaluation-{period}.json", json.dumps(result, indent=2))
            return result

        segments = self.segments[period]
        to = Destination(folder, period, tell, question)
        model = self.model
        market = self.configured.market
        return evaluate_on(model, self.agent(), segments, market, to, self.seed, self.step)


def _core(
    segments: Sequence[Segment],
    run: RunConfig,
    market: MarketConfig,
) -> Core:
    """What trades in training: agents of one symbol each, or accounts with a row for each symbol."""
    if market.portfolio.training == "account":
        return AccountRows(segments, run.n_envs, market.trading, market.portfolio, market.episode_bars)
    return MarketCore(segments, run.n_envs, market.trading, market.episode_bars)


def _with_segments(
    market: MarketConfig,
    segments: Segments | None,
) -> tuple[MarketConfig, Segments]:
    """The market as a run records it: as orders fill, with paths from anywhere. And its segments, read if need be."""
    if segments is None:
        data = read_data(market)
        market = data.config
        segments = data.segments
    traded = [segment.market for segment in segments["train"]]
    filled = with_fill(market.trading, traded)
    return replace(market, trading=filled, data=found_from_anywhere(market.data)), segments
