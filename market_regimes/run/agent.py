"""What a trained model decides, and what its critic predicted."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
import pandas as pd
import torch
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from distributional_ppo import DistributionalPPO
from market_regimes.config import SHIPPED, ArgumentError, CheckpointName, MarketConfig, TradingCosts
from market_regimes.evaluate.account import Frames
from market_regimes.evaluate.evaluation import Critic, Evaluation, evaluate, write_evaluation
from market_regimes.evaluate.pictures import picture_of_returns
from market_regimes.evaluate.play import RUINED, Decision, backtest, frames_of, play_period, rows_of_bars
from market_regimes.evaluate.portfolio import (
    AccountAgent,
    AccountState,
    Bench,
    Played,
    WeightRule,
    backtest_in,
    in_shared_cash,
    play_to_last_close,
)
from market_regimes.evaluate.question import AS_TRAINED, Question
from market_regimes.market.allocation import Allocation
from market_regimes.market.costs import impact_of
from market_regimes.market.data import in_one_account, read_bars
from market_regimes.market.environment import Known, MarketCore, spaces_of
from market_regimes.market.periods import date_text
from market_regimes.market.portfolio import LONG_AGO
from market_regimes.market.segment import Segment
from market_regimes.prices import SUFFIXES, ReadOptions, is_readable, read_frame
from market_regimes.run import checkpoint
from market_regimes.run.algorithm import model_of
from market_regimes.run.clock import Clock, clock_of
from market_regimes.run.export import export_onnx
from market_regimes.run.folder import Configured, acting_device, read_configuration, read_scaling
from market_regimes.run.inputs import is_recurrent, quantiles_of_episode
from market_regimes.run.orders import OrderList, Past, order_list, read_held
from market_regimes.run.signal import (
    Signal,
    at_last_bar,
    positions_held,
    replayed,
    signals_of,
    warnings_of,
    warnings_of_ruin,
)
from market_regimes.run.trained import Trained, filled_otherwise, notes_on_counterparts, segments_as_trained

EVALUATION_EPISODES = 20  # for environments other than the market
EVALUATION_SEED = 10_000  # added to the run's seed, away from those of the training copies


def normalised(model: DistributionalPPO, observations: np.ndarray) -> np.ndarray:
    """
    :param model: trained on the market
    :param observations: as the environment gives them, shape (..., size)
    :return: as the policy gets them, by the statistics of its training where it has ``VecNormalize``
    """
    normalizer = model.get_vec_normalize_env()
    if normalizer is None:
        return observations
    return np.asarray(normalizer.normalize_obs(observations))


def decision(model: DistributionalPPO, trading: TradingCosts) -> Decision:
    """
    A recurrent policy carries its states from bar to bar; they are zero where an episode starts.

    :param model: trained on the market
    :param trading: what its actions mean
    :return: the deterministic policy as a trading rule; that of a recurrent policy raises ``ValueError`` where it is
        asked first in the middle of an episode, whose past it has not seen
    """
    states: Any = None

    def decide(known: Known) -> np.ndarray:
        nonlocal states
        if known.episode_start.all():
            states = None
        elif states is None and is_recurrent(model):
            raise ValueError("a recurrent policy must see an episode from its first bar on to decide in its middle")

        observations = normalised(model, known.observations)
        actions, states = model.predict(observations, states, known.episode_start, deterministic=True)
        return trading.targets(actions)

    return decide


def account_agent(model: DistributionalPPO, trading: TradingCosts) -> AccountAgent:
    """
    A recurrent policy carries the states of each row; they are zero at the first row of the account.

    :param model: trained on the rows of accounts
    :param trading: what its actions mean
    :return: the deterministic policy, which decides for all symbols
    """

    def on(bench: Bench) -> WeightRule:
        states: Any = None

        def rule(state: AccountState) -> np.ndarray:
            nonlocal states
            is_first = state.row == 0
            if is_first:
                states = None

            # A row for each symbol.
            row = np.array([state.row])
            observations = bench.observations.at(row, state.weights[None])[0]
            starts = np.full(len(observations), is_first)
            actions, states = model.predict(normalised(model, observations), states, starts, deterministic=True)
            targets = trading.targets(actions)
            orders: np.ndarray = bench.observations.orders(row, targets[None])[0]
            return orders

        return rule

    return AccountAgent(on)


def rule_of(model: DistributionalPPO, market: MarketConfig) -> Decision | AccountAgent:
    """
    :param model: trained on the market
    :param market: what it was trained on, and what its actions mean
    :return: the deterministic policy as a trading rule, of one symbol or of an account, as it was trained
    """
    if market.portfolio.training == "account":
        return account_agent(model, market.trading)
    return decision(model, market.trading)


def critic_of(model: DistributionalPPO) -> Critic:
    """
    :param model: trained on the market
    :return: its critic, which reads the observations of the environment
    """

    def quantiles(observations: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return np.asarray(quantiles_of_episode(model, normalised(model, observations)).cpu())

    return Critic(quantiles, model.gamma)


def returns_picture(evaluation: Evaluation, period: str) -> Any:
    """
    :param evaluation: of an agent with a critic
    :param period: for the title
    :return: the critic's quantiles beside the realised returns, as a figure
    """
    predicted, realised = evaluation.predicted_and_realised
    return picture_of_returns(evaluation.predicted_frames, predicted, realised, f"discounted rewards, {period}")


@dataclass(frozen=True)
class Destination:
    """
    Where an evaluation goes.

    :param folder: run folder to write to
    :param name: of the period, in file names and titles
    :param tell: receives what is being done, as a few words
    :param question: that the evaluation answers; where conditions are stated, they end the name
    """

    folder: Path
    name: str
    tell: Callable[[str], None] = lambda words: None
    question: Question = AS_TRAINED

    @property
    def file_name(self) -> str:
        """The name of the period and the question, so that no answer overwrites the run's evaluation."""
        return self.question.name_of(self.name)


def evaluate_on(
    model: DistributionalPPO,
    rule: Decision | AccountAgent,
    segments: Sequence[Segment],
    market: MarketConfig,
    to: Destination,
    seed: int | None,
    step: int,
) -> dict[str, Any]:
    """
    Score the deterministic policy and write ``evaluation-NAME.json``, ``positions-NAME.csv``, ``trades-NAME.csv``,
    ``tearsheet-NAME.html`` and the pictures ``equity-NAME.png`` and ``returns-NAME.png``; of shared cash also
    ``account-NAME.csv`` and ``weights-NAME.png``.

    :param model: whose critic predicts
    :param rule: its policy as a trading rule
    :param segments: what it trades
    :param market: what trading costs, what may be held, and whether the symbols share their cash
    :param to: where the files lie, and who hears what is being done
    :param seed: of the run
    :param step: that the model was trained to
    :return: what the JSON holds: ``Evaluation.result``
    """
    to.tell(f"the agent trades {len(segments)} symbol(s)")
    evaluation = evaluate(
        rule,
        segments,
        market.trading,
        critic_of(model),
        seed or 0,
        portfolio=market.portfolio,
        question=to.question,
    )

    to.tell("the rules trade the same bars")
    result = evaluation.result(step)

    to.tell("tables, pictures, tear sheet")
    name = to.file_name
    days = write_evaluation(evaluation, to.folder, name, result)

    to.tell("picture of the predicted returns")
    returns_picture(evaluation, f"{name}: {days}").savefig(to.folder / f"returns-{name}.png")
    return result


def reward_figures(model: DistributionalPPO, env_id: str, seed: int | None) -> dict[str, float | None]:
    """
    :param model: trained in an environment other than the market
    :param env_id: of the environment
    :param seed: of the run
    :return: mean and spread of the returns of new episodes, away from the training seeds
    """
    # New episodes, whose observations are scaled as in training.
    away = None if seed is None else seed + EVALUATION_SEED
    env: VecEnv = make_vec_env(env_id, n_envs=5, seed=away)
    normalizer = model.get_vec_normalize_env()
    if normalizer is not None:
        env = VecNormalize(env, training=False, norm_reward=False)
        env.obs_rms = normalizer.obs_rms

    # The deterministic policy.
    returns, _ = evaluate_policy(model, env, EVALUATION_EPISODES, return_episode_rewards=True)
    env.close()
    return {"mean_reward": float(np.mean(returns)), "std_reward": float(np.std(returns))}


Prices: TypeAlias = pd.DataFrame | str | Path | Sequence[str | Path]  # a frame, a file or a folder, or several of them


class Agent:
    """
    A trained agent, apart from the data it was trained on.

        agent = Agent.load("runs/x")
        agent.signal(prices)
        agent.backtest(prices)

    Prices are a pandas frame, a CSV or Parquet file, a folder of them, or a list of files and folders. The columns are
    those of files: ``date`` (may be the frame's index), ``open``, ``high``, ``low``, ``close``, optionally ``symbol``,
    ``adjusted_close`` and ``volatility_index``, and the run's ``market.features``. A frame without a column ``symbol``
    is of the run's only symbol.

    :param model: built by the run's configuration, with its parameters
    :param configured: the run's configuration
    :param trained: what the run knows of each of its symbols
    :param step: that the model was trained to
    """

    def __init__(self, model: DistributionalPPO, configured: Configured, trained: dict[str, Trained], step: int):
        self.model = model
        self.configured = configured
        self.trained = trained
        self.step = step
        self.trading = configured.market.trading
        self.limits = configured.market.portfolio

    @classmethod
    def load(cls, folder: str | Path, which: CheckpointName = "best", device: str | None = None) -> Agent:
        """
        Nothing is unpickled but tensors, no data are read, and no random numbers of the caller are drawn.

        :param folder: a run folder
        :param which: "best" by validation, or the "last" checkpoint
        :param device: to act on, "cpu" or "cuda"; None: the run's own, or the CPU where torch does not find that, as a
            sentence then says
        :return: the agent
        :raises ValueError: if the folder is no run on a market, is of another version, or holds no checkpoint, and if
            the device is not found
        """
        folder = Path(folder).expanduser()
        configured = read_configuration(folder)
        trained = read_scaling(folder)

        # Acting needs no compiler, and no seed: a seed would be set in the caller's own generators.
        device = acting_device(folder, configured.algorithm.get("device"), device)
        algorithm = {**configured.algorithm, "seed": None, "compile": False, "device": device}
        with torch.random.fork_rng(devices=[]):
            model = model_of(algorithm, _acting_env(configured), acts_only=True)
        return cls(model, configured, trained, checkpoint.load(model, folder, which))

    def segments(
        self,
        prices: Prices,
        days: tuple[str | None, str | None] = (None, None),
        like: str | None = None,
        last_bar: bool = False,
        own_rule: bool = True,
        skips_new: bool = False,
    ) -> list[Segment]:
        """
        :param prices: bars
        :param days: first and last day whose returns are earned, ISO dates, None: all there are
        :param like: symbol of the run as which new ones are seen, None: its only one
        :param last_bar: whether only the last bar must have a volatility index and the features
        :param own_rule: whether ``market.benchmark_positions`` is traded, where the bars have it
        :param skips_new: whether symbols that the run was not trained on are left out, where ``like`` is not given and
            there are others
        :return: one segment per symbol, scaled as the run's training was
        :raises ValueError: if the data cannot be used
        """
        config = self.configured.market
        if last_bar:  # nothing is traded
            config = replace(config, trading=config.trading.without_currency)
        read = replace(config, benchmark_positions=None)  # other files may lack it

        # A frame may be of the run's only symbol.
        if isinstance(prices, pd.DataFrame):
            symbol = None
            if len(self.trained) == 1:
                symbol = next(iter(self.trained))
            options = ReadOptions(own=read.own_columns, zone=read.zone, off_grid=read.off_grid)
            bars = read_frame(prices, symbol, options)
            bars = in_one_account(bars, read.bars_per_year)
        else:
            bars = read_bars(replace(read, data=_entries_of(prices)))

        # A symbol that was listed after the training.
        trained = [each for each in bars if each.symbol in self.trained]
        if skips_new and like is None and trained:
            for each in bars:
                if each.symbol not in self.trained:
                    print(
                        f"{each.symbol} is left out: the run was not trained on it, and like=SYMBOL (--like) says as "
                        "which of its symbols it is seen",
                        file=sys.stderr,
                    )
            bars = trained

        if not own_rule:
            config = read
        return segments_as_trained(bars, self.trained, config, like, days, last_bar)

    def signal(
        self,
        prices: Prices,
        position: float | Mapping[str, float] | None = None,
        like: str | None = None,
        now: datetime | None = None,
        first: str | None = None,
        zone: str | None = None,
    ) -> list[Signal]:
        """
        What to hold after the last bar: from the position held, bit for bit what an evaluation over these bars decides
        there. The past may begin anywhere, but with another beginning the EWMA volatility differs in its last digits.

        A recurrent policy remembers: it is asked bar by bar from ``first`` on, as in an evaluation that begins there.

        :param prices: bars of at least 60 times, the last of which should have closed: a warning says if it has not
        :param position: held now, as a share of equity; of several symbols by name. Where it is not given: 0, or after
            bars that were played what the agent itself holds by then
        :param like: symbol of the run as which new ones are seen, None: its only one
        :param now: for the warnings about open and missing bars: an instant where it has a time zone, else by the clock
            of the bars; None: this moment
        :param first: first day whose return is earned, ISO date: the bars are played from there. None: recurrent
            policies begin as soon as there is an observation, others are asked at the last bar alone
        :param zone: of the bars' clock where their file states none, like America/New_York or +02:00; None: UTC
        :return: one answer per symbol, in the order of the bars
        :raises ValueError: if the data cannot be used, the position names another symbol, or the zone is another one
            than the file's
        """
        plays = self.plays_bars(first)
        segments = self.segments(prices, (first, None), like, last_bar=not plays, own_rule=False)
        positions = positions_held(position, [segment.market.symbol for segment in segments])

        # The decisions at the last bars, alone or after all bars before.
        rule = self.rule_of_symbol()
        trading = self.trading if plays else self.trading.without_currency  # no order is filled
        core = MarketCore(segments, len(segments), trading, episode_bars=None)
        decide = replayed if plays else at_last_bar
        last = decide(core, positions, rule)
        last = replace(last, observations=[normalised(self.model, each) for each in last.observations])

        # What to beware of, per symbol.
        clocks = [clock_of(segment.market, now, zone) for segment in segments]
        warnings = [
            self._warnings(segment, float(last.held[i]), like, clocks[i])
            + warnings_of_ruin(segment, int(last.ruined[i]))
            for i, segment in enumerate(segments)
        ]
        return signals_of(self.model, core.markets, self.trading, last, warnings)

    def portfolio(
        self,
        prices: Prices,
        equity: float,
        positions: Mapping[str, float] | str | Path | None = None,
        lots: float | None = None,
        like: str | None = None,
        now: datetime | None = None,
        first: str | None = None,
        zone: str | None = None,
    ) -> OrderList:
        """
        What to trade after the last bar, in one account under the limits of ``market.portfolio``: its weights are those
        that an evaluation over these bars decides there. All bars are played, since the agent sees what it held.

        :param prices: bars of all symbols
        :param equity: of the account, cash included, in the currency of the prices
        :param positions: shares held by symbol, or a CSV with the columns symbol and shares; None: all is cash
        :param lots: shares of a lot, None: fractions of a share are traded
        :param like: symbol of the run as which new ones are seen, None: its only one
        :param now: for the warnings about open and missing bars, as in ``signal``
        :param first: first day whose return is earned, ISO date; None: as soon as there is an observation
        :param zone: of the bars' clock where their file states none; None: UTC
        :return: the orders. A symbol whose bars end before the others' gets none
        :raises ValueError: if the data cannot be used, each symbol has its own account, or what is held cannot be
            priced
        """
        segments = self.segments(prices, (first, None), like, own_rule=False, skips_new=True)
        symbols = [segment.market.symbol for segment in segments]
        if self.limits.cash == "separate" and len(symbols) > 1:
            raise ValueError(
                f"market.portfolio.cash=separate keeps an account for each of {len(symbols)} symbols, and orders of "
                "one account need a run with market.portfolio.cash=shared"
            )

        # What the agent wants at the last close, after all that it and its account did before.
        bench = Bench.of(segments, self.trading)
        decided = self._decided(bench)
        played = decided.played
        rows = len(played.account)
        traded = played.trades.to_numpy() != 0
        newest = traded[::-1].argmax(axis=0) + 1
        past = Past(rows, np.where(traded.any(axis=0), newest, LONG_AGO))

        # A symbol without a bar at the last close has no price to trade at.
        stamps = np.array([of_symbol[-1] for of_symbol in rows_of_bars(segments)])
        is_last = stamps == stamps.max()
        closes = {segment.market.symbol: float(segment.market.close[-1]) for segment in segments}
        prices_now = {symbol: closes[symbol] for symbol, has_bar in zip(symbols, is_last, strict=True) if has_bar}
        wanted = {symbol: float(decided.targets[i]) for i, symbol in enumerate(symbols) if is_last[i]}

        # The orders, and what to beware of.
        held = read_held(Path(positions).expanduser()) if isinstance(positions, str | Path) else positions
        allocation = Allocation(self.limits, symbols, self.trading, bench.risk)
        impact = {}
        if self.trading.impact_coefficient:
            for segment in segments:
                of_bars = impact_of(segment.market, self.trading.impact_coefficient)
                impact[segment.market.symbol] = float(of_bars[-1])
        orders = order_list(allocation, self.trading, wanted, prices_now, equity, held, lots, past, impact)
        warnings = list(orders.warnings)
        for i, segment in enumerate(segments):
            clock = clock_of(segment.market, now, zone)
            sentences = self._warnings(segment, float(decided.positions[i]), like, clock)
            warnings += [f"{segment.market.symbol}: {sentence}" for sentence in sentences]
        return replace(orders, date=date_text(stamps.max()), warnings=warnings)

    def _decided(self, bench: Bench) -> _Decided:
        """
        :param bench: what is traded
        :return: the targets at the last close, and the account up to it; after ruin the targets are 0
        """
        rule = self.rule()
        if isinstance(rule, AccountAgent):
            played, state, targets = play_to_last_close(bench, rule.on(bench), self.limits)
            if state.equity <= RUINED:
                targets = np.zeros(len(targets))
            return _Decided(played, targets, state.weights)

        # Each symbol by itself.
        segments = bench.segments
        episode = play_period(segments, self.trading, rule)
        bars = np.array([segment.last - segment.first for segment in segments])
        symbols = np.arange(len(segments))
        targets = np.where(episode.ruined < 0, episode.decision[bars, symbols], 0.0)
        frames = frames_of(episode.columns(), segments, self.trading)
        return _Decided(in_shared_cash(frames, bench, self.limits), targets, episode.held[bars, symbols])

    def _warnings(self, segment: Segment, held: float, like: str | None, clock: Clock) -> list[str]:
        """
        :param segment: ends at the bar of the decision
        :param held: position
        :param like: symbol of the run as which new ones are seen
        :param clock: the time by the clock of the bars
        :return: what to beware of, a sentence each
        """
        return (
            notes_on_counterparts([segment], self.trained, like)
            + filled_otherwise([segment], self.trading)
            + warnings_of(segment, held, self.trading, self.trained, clock)
        )

    def plays_bars(self, first: str | None = None) -> bool:
        """
        :param first: as ``signal`` takes it
        :return: whether a signal plays the bars before the last one, too
        """
        return first is not None or is_recurrent(self.model)

    def backtest(
        self, prices: Prices, first: str | None = None, last: str | None = None, like: str | None = None
    ) -> Frames:
        """
        Trade from a flat start, at the run's costs.

        :param prices: bars
        :param first: first day whose return is earned, ISO date; None: as soon as there is an observation
        :param last: last day, ISO date; None: that of the bars
        :param like: symbol of the run as which new ones are seen, None: its only one
        :return: per symbol a row per bar: ``return`` and ``gross_return`` (simple; gross of costs), ``equity``,
            ``gross_equity``, ``target``, ``position``, ``trade``, ``cost``, ``price``, ``index`` and ``regime``. The
            order of a row was given at the close before; ``price`` is the open of the row's bar, or that close. With
            ``market.portfolio.cash=shared`` the symbol's part of the one account, a row per row in which it is listed
        :raises ValueError: if the data cannot be used, or do not cover the days
        """
        segments = self.segments(prices, (first, last), like, own_rule=False)
        if self.limits.cash == "separate":  # the files may have several calendars
            return backtest(segments, self.trading, self.rule_of_symbol())
        return backtest_in(Bench.of(segments, self.trading), self.rule(), self.limits)

    def evaluate(
        self,
        segments: Sequence[Segment],
        folder: str | Path,
        name: str,
        tell: Callable[[str], None] = lambda words: None,
        question: Question = AS_TRAINED,
    ) -> dict[str, Any]:
        """
        :param segments: from ``segments``
        :param folder: where the files of ``evaluate_on`` are written
        :param name: of the period
        :param tell: receives what is being done, as a few words
        :param question: costs, fill and delay in place of the run's; its words end the names of the files
        :return: what ``Evaluation.result`` gives
        """
        seed = self.configured.algorithm.get("seed")
        to = Destination(Path(folder), name, tell, question)
        return evaluate_on(self.model, self.rule(), segments, self.configured.market, to, seed, self.step)

    def export(self, path: str | Path) -> Path:
        """
        Write what the agent decides as ONNX, and beside it the layout of its observation as JSON.

        :param path: of the ONNX file
        :return: path of the JSON
        :raises ValueError: if the path does not end in .onnx or its folder is not there, and without the extra ``onnx``
        """
        return export_onnx(self.model, self.configured.market, self.trained, self.step, Path(path).expanduser())

    def rule(self) -> Decision | AccountAgent:
        """:return: the deterministic policy as a trading rule, of one symbol or of an account, as it was trained"""
        return rule_of(self.model, self.configured.market)

    def rule_of_symbol(self) -> Decision:
        """
        :return: the deterministic policy as a trading rule of one symbol
        :raises ValueError: if the agent decides for all symbols of an account
        """
        rule = self.rule()
        if isinstance(rule, AccountAgent):
            raise ValueError(
                "the run was trained for one account (market.portfolio.training=account), and its agent decides for "
                "all symbols together: signal --equity prints its orders, Agent.portfolio in Python"
            )
        return rule


@dataclass(frozen=True)
class _Decided:
    """
    The decision of an agent at the last close of an account.

    :param played: the account up to it
    :param targets: target of each symbol, shape (K,)
    :param positions: position that the agent observed before it, shape (K,)
    """

    played: Played
    targets: np.ndarray
    positions: np.ndarray


def _entries_of(prices: Any) -> list[str]:
    """
    :param prices: a file or a folder, or several of them
    :return: them as text
    :raises ValueError: if it is anything else
    """
    # One or several.
    entries = [prices] if isinstance(prices, str | Path) else prices
    kind = type(prices).__name__
    if isinstance(prices, pd.Series):
        kind += ', of which to_frame("close") makes a frame of closes'
    if not isinstance(entries, Sequence) or not entries or not all(isinstance(one, str | Path) for one in entries):
        raise ArgumentError(
            lambda name: (
                f"{name('prices')} must be a pandas frame, a file, a folder, or a list of files and folders, got {kind}"
            )
        )

    # Each is a file, a folder or shipped.
    for entry in map(str, entries):
        path = Path(entry).expanduser()
        if entry not in SHIPPED and not path.is_dir() and not is_readable(path):
            raise ArgumentError(
                lambda name, entry=entry: (  # type: ignore[misc]
                    f"{name('prices')}: {entry} is no folder, does not end in {', '.join(SUFFIXES)}, and is not "
                    f"{' or '.join(SHIPPED)}"
                )
            )
    return [str(entry) for entry in entries]


class _Shut(gym.Env[np.ndarray, Any]):
    """The spaces of a market whose prices are not there."""

    def __init__(self, market: MarketConfig):
        in_account = market.portfolio.training == "account"
        self.observation_space, self.action_space = spaces_of(market.trading, len(market.features), in_account)


def _acting_env(configured: Configured) -> VecEnv:
    """What a model that only acts is built on; VecNormalize holds the statistics of its observations."""
    copies: list[Callable[[], gym.Env[Any, Any]]] = [lambda: _Shut(configured.market)] * configured.run.n_envs
    env = DummyVecEnv(copies)
    if not configured.run.normalize_observations:
        return env
    return VecNormalize(env, training=False, norm_reward=False)
