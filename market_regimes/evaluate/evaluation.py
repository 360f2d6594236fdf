"""An agent over a period of the market beside other strategies: its figures, and the files of an evaluation."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from market_regimes.config import PortfolioConfig, TradingCosts
from market_regimes.evaluate.account import Account, Frames
from market_regimes.evaluate.cost_curve import CostCurve
from market_regimes.evaluate.figures import (
    Rank,
    figures,
    figures_by_regime,
    growth_of,
    rank_among,
    share_of_attainable,
    sharpe_of,
    summary,
)
from market_regimes.evaluate.pictures import picture_of_costs, picture_of_equity, picture_of_weights, tear_sheet
from market_regimes.evaluate.play import (
    RUINED,
    Decision,
    Episode,
    discounted,
    discounted_sums,
    fill_times,
    frames_of,
    play_period,
    positions,
    random_timing,
    trades,
)
from market_regimes.evaluate.portfolio import (
    AccountAgent,
    Bench,
    Played,
    account_table,
    bought_once,
    equal_weights_every,
    in_shared_cash,
    play_account,
    positions_of_account,
    shifted_accounts,
    shifted_in_the_middle,
    traded_again,
    trades_of_account,
)
from market_regimes.evaluate.portfolio import frames_of as frames_in_account
from market_regimes.evaluate.question import AS_TRAINED, Question
from market_regimes.evaluate.robustness import replayed, robustness
from market_regimes.evaluate.strategies import AGENT, HOLD, INFORMED, RANDOM_TIMING, STRATEGIES, Strategy
from market_regimes.files import write_file
from market_regimes.market.environment import REWARD_SCALE
from market_regimes.market.segment import Segment

MIN_BARS_OF_RATIO = 60  # fewer make a curve of Sharpe ratios that is noise
SEPARATE = PortfolioConfig()  # an account for each symbol
UNLIMITED = PortfolioConfig(cash="shared")
NEXT_CLOSE = "agent, filled at the next close"
NAMED_SYMBOLS = 3  # up to which a title names them


@dataclass(frozen=True)
class Critic:
    """
    A critic predicts the returns of an agent.

    :param quantiles: from the observations of one episode, from its first bar on, shape (T, size), to the quantiles of
        the discounted return, (T, N)
    :param gamma: discount factor
    """

    quantiles: Callable[[np.ndarray], np.ndarray]
    gamma: float


@dataclass(frozen=True)
class Evaluation:
    """
    An evaluation holds an agent's trades over a period. All that follows from them is made when it is first read, and
    once: a caller that wants the Sharpe ratio alone pays for no strategies, no random timing and no robustness.

    :param segments: what was traded
    :param trading: what trading costs and what the agent may hold; strategies may hold ``TradingCosts.of_rules``
    :param episode: the agent's pass over the period, with an account for each symbol; None: it decided for one account
    :param critic: what predicts its returns; None: nothing does
    :param seed: of the random timings
    :param table: strategies to stand beside the agent where they apply, ``HOLD`` among them
    :param portfolio: whether the symbols share their cash, and the limits of their account
    :param decided_together: the account of an agent that decided for all symbols, filled without the delay that the
        question states; None: it decided symbol by symbol
    :param question: that was asked of a finished agent; ``trading`` has its costs and its fill already
    """

    segments: Sequence[Segment]
    trading: TradingCosts
    episode: Episode | None
    critic: Critic | None = None
    seed: int = 0
    table: Sequence[Strategy] = STRATEGIES
    portfolio: PortfolioConfig = SEPARATE
    decided_together: Played | None = None
    question: Question = AS_TRAINED

    @property
    def rows_per_year(self) -> float:
        """Rows of the account in a year, which annualise its figures."""
        return self.segments[0].market.account_rows_per_year

    @cached_property
    def decided(self) -> Frames:
        """The agent's trades with an account for each symbol, filled without the delay that the question states."""
        assert self.episode is not None
        return frames_of(self.episode.columns(), self.segments, self.trading)

    @cached_property
    def separate(self) -> Frames:
        """The agent's trades with an account for each symbol, whose returns the critic predicts."""
        if not self.question.bars_later:
            return self.decided
        return replayed(self.decided, self.segments, self.trading, self.question.bars_later)

    @cached_property
    def bench(self) -> Bench:
        """What is traded, by the rows of one account."""
        return Bench.of(self.segments, self.trading)

    @cached_property
    def played(self) -> Played | None:
        """The agent's account with shared cash, None: each symbol has its own."""
        if self.portfolio.cash == "separate":
            return None
        return self._played_in(self.bench, self.question.bars_later)

    def _played_in(self, bench: Bench, rows: int) -> Played:
        """The agent's targets in an account with shared cash, so many rows after they were decided."""
        if self.decided_together is None:
            return in_shared_cash(self.decided, bench, self.portfolio, rows)
        if bench is self.bench and not rows:
            return self.decided_together
        return traded_again(self.decided_together, bench, self.portfolio, rows)

    @cached_property
    def agent(self) -> Account:
        """The agent's account."""
        if self.played is None:
            return Account(self.separate)
        return Account(frames_in_account(self.played, self.bench))

    @cached_property
    def strategies(self) -> dict[Strategy, Account]:
        """The accounts of the strategies that apply, in the order of the table."""
        return benchmarks(self.segments, self.trading, self.table, self.portfolio, self.question.bars_later)

    @cached_property
    def random_timing(self) -> tuple[Account, np.ndarray]:
        """The agent's trades at random times: the account in the middle, and the Sharpe ratios of all, per row."""
        if self.played is None:
            frames, ratios = random_timing(self.segments, self.trading, self.agent.frames, self.seed)
            return Account(frames), ratios

        # One shift of all weights, traded again in the account.
        ratios = shifted_accounts(self.bench, self.played, self.portfolio, self.seed)
        middle = shifted_in_the_middle(self.bench, self.played, self.portfolio, self.seed, ratios)
        return Account(frames_in_account(middle, self.bench)), ratios

    @cached_property
    def accounts(self) -> dict[str, Account]:
        """The accounts of the agent, the strategies and the random timing, by label."""
        by_label = {strategy.label: account for strategy, account in self.strategies.items()}
        return {AGENT: self.agent, **by_label, RANDOM_TIMING: self.random_timing[0]}

    @cached_property
    def sharpe_ratio(self) -> float | None:
        """Sharpe ratio of the agent, None where it is undefined."""
        return sharpe_of(self.agent.joint, self.rows_per_year)

    @cached_property
    def sharpe_ratios(self) -> dict[Strategy, float | None]:
        """Sharpe ratios of the strategies, None where undefined."""
        ratios = {}
        for strategy, account in self.strategies.items():
            ratios[strategy] = sharpe_of(account.joint, self.rows_per_year)
        return ratios

    @cached_property
    def scores(self) -> dict[str, float | None]:
        """Scores that an evaluation during training logs: overall, and by regime where there are bars enough."""
        account = self.agent.joint
        all_figures = figures(account, self.rows_per_year)
        scores = {name: all_figures[name] for name in ("sharpe_ratio", "growth_per_year", "max_drawdown")}
        scores["mean_reward"] = float(REWARD_SCALE * np.log1p(account["return"]).sum())

        # By regime.
        for regime, cell in figures_by_regime(self.agent, self.rows_per_year).items():
            scores[f"sharpe_{regime}"] = None
            if (cell["bars"] or 0) >= MIN_BARS_OF_RATIO:
                scores[f"sharpe_{regime}"] = cell["sharpe_ratio"]
        return scores

    @cached_property
    def summary(self) -> dict[str, dict[str, Any]]:
        """The figures of all accounts, overall, by regime and by symbol."""
        accounts = self.accounts
        if self.next_close is not None:
            of_strategies = {label: account for label, account in accounts.items() if label != AGENT}
            accounts = {AGENT: self.agent, NEXT_CLOSE: self.next_close, **of_strategies}
        return summary(accounts, self.segments[0].market.bars_per_year, self.rows_per_year)

    @cached_property
    def share_of_attainable(self) -> float | None:
        """The agent's share of the way from buy-and-hold's Sharpe ratio to the informed rule's."""
        return share_of_attainable(self.sharpe_ratio, self.sharpe_ratios[HOLD], self.sharpe_ratios.get(INFORMED))

    @cached_property
    def growths(self) -> dict[Strategy, float]:
        """Log growth a year of the strategies."""
        return {each: growth_of(account.joint, self.rows_per_year) for each, account in self.strategies.items()}

    @cached_property
    def growth(self) -> float:
        """Log growth a year of the agent."""
        return growth_of(self.agent.joint, self.rows_per_year)

    @cached_property
    def share_of_attainable_growth(self) -> float | None:
        """The agent's share of the way from buy-and-hold's growth to the informed rule's."""
        return share_of_attainable(self.growth, self.growths[HOLD], self.growths.get(INFORMED))

    @cached_property
    def next_close(self) -> Account | None:
        """
        The agent's orders filled at the next close, where a close that was just seen fills them because a symbol has no
        opening prices; None: all opens are there, or the question states a later fill.
        """
        closes_only = any(segment.market.fill == "close" for segment in self.segments)
        if not closes_only or self.question.bars_later:
            return None
        if self.played is not None:
            return Account(self._traded_again(delay=1))

        # Symbols with opening prices are filled at a close, too.
        at_close = replace(self.trading, fill="close")
        return Account(replayed(self.separate, self.segments, at_close, 1))

    def cost_curve(self, costs: Sequence[float]) -> CostCurve:
        """
        :param costs: fee and slippage together, in basis points of the traded value
        :return: the agent's decisions and buy-and-hold at each. The policy is not asked again
        """

        def agent(cost: float) -> pd.DataFrame:
            if self.played is not None:
                return Account(self._traded_again(cost_bp=cost)).joint
            return Account(replayed(self.separate, self.segments, self.trading, cost_bp=cost)).joint

        def hold(cost: float) -> pd.DataFrame:
            costs = replace(self.trading, fee_bp=cost, slippage_bp=0.0)
            accounts = benchmarks(self.segments, costs, [HOLD], self.portfolio, self.question.bars_later)
            return accounts[HOLD].joint

        return CostCurve.of(agent, hold, costs, self.rows_per_year)

    @cached_property
    def rank(self) -> Rank | None:
        """The agent's rank among its random timings, of which those without a Sharpe ratio do not count."""
        if self.sharpe_ratio is None:
            return None
        _, ratios = self.random_timing
        return rank_among(self.agent.joint["return"], ratios)

    @cached_property
    def robustness(self) -> dict[str, Any]:
        """How far the lead over buy-and-hold carries."""
        hold = self.strategies[HOLD]
        if self.played is None:
            return robustness(self.agent, hold, self.segments, self.trading, self.rows_per_year)
        return robustness(self.agent, hold, self.segments, self.trading, self.rows_per_year, self._traded_again)

    def _traded_again(self, delay: int = 0, cost_bp: float | None = None) -> Frames:
        """The agent's targets once more in shared cash, so many rows later or at another cost of orders."""
        costs = self.trading
        bench = self.bench
        if cost_bp is not None:
            costs = replace(costs, fee_bp=cost_bp, slippage_bp=0.0)
            bench = Bench.of(self.segments, costs)
        rows = self.question.bars_later + delay
        return frames_in_account(self._played_in(bench, rows), bench)

    @property
    def predicted_frames(self) -> Frames:
        """The frames whose rows the critic predicts: an account for each symbol, or the parts of one account."""
        if self.decided_together is not None:
            return self.agent.frames
        return self.separate

    @cached_property
    def predicted_and_realised(self) -> tuple[np.ndarray, np.ndarray]:
        """
        The critic's quantiles before each of the M rows of ``predicted_frames``, shape (M, N), and the realised
        discounted rewards, shape (M,), NaN after ruin. Rewards of one account are the contributions of the symbols.
        """
        assert self.critic is not None
        if self.decided_together is not None:
            assert self.played is not None
            return predicted_contributions(self.critic, self.decided_together, self.played, self.bench)
        assert self.episode is not None
        frames = self.separate

        # The last prediction of a symbol completes its rewards.
        predicted = []
        last_values = []
        for i, frame in enumerate(frames.values()):
            quantiles = self.critic.quantiles(self.episode.observations[: len(frame) + 1, i])
            predicted.append(quantiles[:-1])
            last_values.append(quantiles[-1].mean())

        return np.concatenate(predicted), discounted(frames, np.array(last_values), self.critic.gamma)

    def result(self, step: int) -> dict[str, Any]:
        """
        :param step: that the agent was trained to
        :return: for JSON: the ``summary``, the step, the share of attainable, the rank and the robustness
        """
        result: dict[str, Any] = {**self.summary, "step": step, "share_of_attainable": self.share_of_attainable}

        result["share_of_attainable_growth"] = self.share_of_attainable_growth

        # The rank among random timings, where the agent has one.
        result["random_timings"] = 0
        result["random_timings_below_agent"] = None
        result["random_timings_equal_to_agent"] = None
        result["share_of_random_timings_below_agent"] = None
        rank = self.rank
        if rank is not None:
            result["random_timings"] = rank.copies
            result["random_timings_below_agent"] = rank.below
            result["random_timings_equal_to_agent"] = rank.equal
            result["share_of_random_timings_below_agent"] = rank.share

        result["robustness"] = self.robustness
        if self.question.is_asked:
            result["question"] = self.question.to_json()
        if self.question.costs:
            result["costs"] = self.cost_curve(self.question.costs).to_json()
        if self.played is not None:
            contributions = self.played.contributions.sum()
            result["account"] = {
                "rows": len(self.played.account),
                "limits": self.played.limits,
                "contributions": {str(symbol): float(part) for symbol, part in contributions.items()},
            }
        return result


def evaluate(
    agent: Decision | AccountAgent,
    segments: Sequence[Segment],
    trading: TradingCosts,
    critic: Critic | None = None,
    seed: int = 0,
    table: Sequence[Strategy] = STRATEGIES,
    portfolio: PortfolioConfig = SEPARATE,
    question: Question = AS_TRAINED,
) -> Evaluation:
    """
    Let an agent trade over a period, from a flat start to its last bar.

    :param agent: its trading rule, of one symbol or of an account
    :param segments: what it trades
    :param trading: what trading costs and what it may hold
    :param critic: what predicts its returns; None: nothing does
    :param seed: of the random timings
    :param table: strategies to stand beside it where they apply
    :param portfolio: whether the symbols share their cash, and the limits of their account
    :param question: costs, fill and delay in place of those of ``trading``, for the agent and the strategies alike
    :raises ValueError: if the limits do not fit the symbols, or each other, or the question makes no sense
    """
    trading = question.trading(trading, segments)

    if portfolio.cash == "shared":
        check_portfolio(segments, trading, portfolio)
    if isinstance(agent, AccountAgent):
        bench = Bench.of(segments, trading)
        played = play_account(bench, agent.on(bench), portfolio)
        return Evaluation(segments, trading, None, critic, seed, table, portfolio, played, question)

    episode = play_period(segments, trading, agent)
    return Evaluation(segments, trading, episode, critic, seed, table, portfolio, question=question)


def predicted_contributions(
    critic: Critic,
    decided: Played,
    played: Played,
    bench: Bench,
) -> tuple[np.ndarray, np.ndarray]:
    """
    :param critic: predicts the returns of the account's rows
    :param decided: the account whose weights an agent of all symbols observed
    :param played: the account that its orders made, perhaps later
    :param bench: what it traded
    :return: symbol by symbol, of the rows in which it was listed, M in all: the critic's quantiles, shape (M, N), and
        the discounted contributions that came, in per cent of log growth, shape (M,), NaN after ruin
    """
    # What the rows observed, from the first close to the last.
    rows = len(played.account)
    weights = np.concatenate([np.zeros((1, len(bench.segments))), decided.closing_weights.to_numpy()])
    observations = bench.observations.at(np.arange(rows + 1), weights)

    # The rewards up to ruin, after which nothing comes.
    rewards = played.rewards
    equity = played.account["equity"].to_numpy()
    ruined = np.flatnonzero(equity <= RUINED)
    end = rows
    if len(ruined):
        end = int(ruined[0]) + 1

    predicted = []
    realised = []
    for k in range(len(bench.segments)):
        quantiles = critic.quantiles(observations[:, k])
        last_value = 0.0
        if not len(ruined):
            last_value = float(quantiles[-1].mean())

        sums = np.full(rows, np.nan)
        sums[:end] = discounted_sums(rewards[:end, k], last_value, critic.gamma)
        listed = bench.quotes.listed[:, k]
        predicted.append(quantiles[:-1][listed])
        realised.append(sums[listed])
    return np.concatenate(predicted), np.concatenate(realised)


def check_portfolio(segments: Sequence[Segment], trading: TradingCosts, portfolio: PortfolioConfig) -> None:
    """
    :param segments: what is traded
    :param trading: what trading costs and what may be held
    :param portfolio: the limits of their account
    :raises ValueError: if the limits do not fit the symbols, or each other
    """
    Bench.of(segments, trading).account(portfolio)


def benchmarks(
    segments: Sequence[Segment],
    trading: TradingCosts,
    table: Sequence[Strategy] = STRATEGIES,
    portfolio: PortfolioConfig = SEPARATE,
    delay: int = 0,
) -> dict[Strategy, Account]:
    """
    With shared cash the rules that decide symbol by symbol trade in one account under the limits. Buy-and-hold buys
    each symbol once with 1/K of the money and keeps no limit; nor do equal weights, which rebalance by themselves.

    :param segments: what is traded
    :param trading: what trading costs and what the agent may hold
    :param table: strategies
    :param portfolio: whether the symbols share their cash, and the limits of their account
    :param delay: bars by which every order is filled later
    :return: the accounts of those that apply. They may hold ``TradingCosts.of_rules``
    """
    # The trades of each rule, filled at once.
    accounts = {}
    for strategy in table:
        frames = strategy.traded(segments, trading.of_rules, portfolio)
        if frames is not None:
            accounts[strategy] = Account(frames)
    if portfolio.cash == "separate" and not delay:
        return accounts

    # In one account, and later.
    bench = Bench.of(segments, trading.of_rules)
    return {
        strategy: _traded_again(strategy, account, bench, portfolio, delay) for strategy, account in accounts.items()
    }


def _traded_again(
    strategy: Strategy, account: Account, bench: Bench, portfolio: PortfolioConfig, delay: int
) -> Account:
    """The orders of a strategy in the account that the portfolio states, so many rows later."""
    # Equal weights are one account already.
    if _is_joint(account.frames):
        if not delay:
            return account
        return _played_later(play_account(bench, equal_weights_every(bench), UNLIMITED), bench, delay)

    # An account for each symbol.
    is_alone = strategy is HOLD and len(bench.segments) == 1
    if portfolio.cash == "separate" or is_alone:
        if not delay:
            return account
        return Account(replayed(account.frames, bench.segments, bench.costs, delay))

    # One account.
    if strategy is HOLD:
        return _played_later(play_account(bench, bought_once(bench), UNLIMITED), bench, delay)
    played = in_shared_cash(account.frames, bench, portfolio, delay)
    return Account(frames_in_account(played, bench))


def _played_later(played: Played, bench: Bench, delay: int) -> Account:
    """The orders of an account without limits, so many rows later."""
    if delay:
        played = traded_again(played, bench, UNLIMITED, delay)
    return Account(frames_in_account(played, bench))


def _is_joint(frames: Frames) -> bool:
    """Whether frames are parts of one account already."""
    return any("capital" in frame for frame in frames.values())


def benchmark_scores(
    segments: Sequence[Segment], trading: TradingCosts, portfolio: PortfolioConfig = SEPARATE
) -> dict[str, float | None]:
    """
    :param segments: what is traded
    :param trading: what trading costs and what the agent may hold
    :param portfolio: whether the symbols share their cash, and the limits of their account
    :return: Sharpe ratios and log growths a year of the strategies that apply, as ``sharpe_NAME`` and ``growth_NAME``,
        beside which an evaluation during training logs the agent's
    """
    rows_per_year = segments[0].market.account_rows_per_year
    accounts = benchmarks(segments, trading, portfolio=portfolio)

    scores = {}
    for strategy, account in accounts.items():
        scores[f"sharpe_{strategy.scalar}"] = sharpe_of(account.joint, rows_per_year)
        scores[f"growth_{strategy.scalar}"] = growth_of(account.joint, rows_per_year)
    return scores


def write_evaluation(evaluation: Evaluation, folder: Path, name: str, result: dict[str, Any]) -> str:
    """
    Write ``evaluation-NAME.json``, ``positions-NAME.csv``, ``trades-NAME.csv``, ``tearsheet-NAME.html`` and
    ``equity-NAME.png``; of shared cash also ``account-NAME.csv`` and ``weights-NAME.png``.

    :param evaluation: of an agent
    :param folder: run folder
    :param name: of the period, in file names and titles
    :param result: what the JSON holds
    :return: first and last day, for titles
    """
    write_file(folder / f"evaluation-{name}.json", json.dumps(result, indent=2))
    accounts = {label: account.joint for label, account in evaluation.accounts.items()}
    frames = evaluation.agent.frames
    account = evaluation.agent.joint

    # The picture and its title.
    days = " to ".join(str(day) for day in account.index[[0, -1]].date)
    symbols = ", ".join(frames)
    if len(frames) > NAMED_SYMBOLS:
        symbols = f"{len(frames)} symbols"
    title = f"{symbols}, {name}: {days}"
    picture_of_equity(accounts, folder / f"equity-{name}.png", title)

    # Growth and Sharpe ratio over costs, where they were asked for.
    if "costs" in result:
        picture_of_costs(result["costs"], folder / f"costs-{name}.png", title)

    # Tables of the agent's orders and decisions.
    played = evaluation.played
    if played is None:
        filled = fill_times(evaluation.segments, evaluation.trading)
        trades(frames, filled).to_csv(folder / f"trades-{name}.csv")
        positions(frames, evaluation.segments).to_csv(folder / f"positions-{name}.csv", index=False)
    else:
        trades_of_account(played, evaluation.bench).to_csv(folder / f"trades-{name}.csv")
        positions_of_account(played, evaluation.bench).to_csv(folder / f"positions-{name}.csv", index=False)
        account_table(played).to_csv(folder / f"account-{name}.csv")
        contributions = played.contributions.sum()
        picture_of_weights(played.weights, contributions, folder / f"weights-{name}.png", title)

    # The tear sheet, which quantstats cannot make of all returns.
    returns = account["return"]
    returns_of_hold = evaluation.strategies[HOLD].joint["return"]
    path = folder / f"tearsheet-{name}.html"
    try:
        tear_sheet(returns, returns_of_hold, path, title, evaluation.rows_per_year)
    except ValueError as error:
        print(f"{path.name} is left out: {error}", file=sys.stderr)
    return days


def name_of(data: Sequence[str], segments: Sequence[Segment]) -> str:
    """
    :param data: files and folders, none: the run's own
    :param segments: of them
    :return: name of an evaluation on them, fit for a file's name: the first file and the days whose returns are earned
    """
    # The days whose returns are earned.
    first = min(segment.market.dates[segment.first + 1] for segment in segments).astype("M8[D]")
    last = max(segment.market.dates[segment.last] for segment in segments).astype("M8[D]")

    # The first file, and how many there are beside it.
    words = [Path(entry).stem or "data" for entry in data[:1]]
    if len(data) > 1:
        words.append(f"and-{len(data) - 1}-more")
    return "-".join([*words, str(first), "to", str(last)])
