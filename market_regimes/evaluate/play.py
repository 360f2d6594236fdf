"""Trading rules over a period of the markets, bar by bar."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from market_regimes.config import TradingCosts
from market_regimes.evaluate.account import Frames, before, rows_of
from market_regimes.evaluate.figures import sharpe_ratio
from market_regimes.market.costs import NO_ORDER
from market_regimes.market.environment import REWARD_SCALE, RUIN_EQUITY, Known, MarketCore
from market_regimes.market.market import fills_at_open
from market_regimes.market.regimes import REGIMES
from market_regimes.market.segments import Segment
from market_regimes.prices import Calendar

Decision = Callable[[Known], np.ndarray]  # what is known at a close -> one target position per agent

RANDOM_RUNS = 100
RUINED = RUIN_EQUITY * (1 + 1e-9)  # equity up to which an account counts as ruined


@dataclass(frozen=True)
class Episode:
    """
    n agents from where they stood to the ends of their episodes, the longest of which has T bars. An agent trades in
    the bars up to its end or ruin.

    :param bar: bar at whose close each agent decided, position in the core's arrays, shape (T + 1, n)
    :param observations: what it saw then, as the environment gives it, shape (T + 1, n, size); of given targets empty,
        shape (0,)
    :param held: position before the decision, shape (T + 1, n)
    :param decision: target position within the bounds, shape (T + 1, n). The last row's orders are not filled
    :param alive: whether an agent trades in a bar, shape (T, n)
    :param growth: growth of equity in a bar, 1 where the agent does not trade, shape (T, n)
    :param gross_growth: the same without fees, slippage and financing, shape (T, n)
    :param trade: shares of the equity before the bar that were bought, below 0: sold, shape (T, n)
    :param cost: fees, slippage and financing as shares of that equity, shape (T, n)
    :param ruined: number of bars after which an account was ruined, -1: it was not, shape (n,)
    """

    bar: np.ndarray
    observations: np.ndarray
    held: np.ndarray
    decision: np.ndarray
    alive: np.ndarray
    growth: np.ndarray
    gross_growth: np.ndarray
    trade: np.ndarray
    cost: np.ndarray
    ruined: np.ndarray

    @property
    def rewards(self) -> np.ndarray:
        """Growth of log equity in per cent, shape (T, n)."""
        rewards: np.ndarray = REWARD_SCALE * np.log(self.growth)
        return rewards

    def columns(self, agents: slice = slice(None)) -> dict[str, np.ndarray]:
        """
        :param agents: some of them
        :return: what they earned and held, by the names of a backtest's columns, shapes (T, n); 0 after ruin or end
        """
        alive = self.alive[:, agents]
        return {
            "return": self.growth[:, agents] - 1,
            "gross_return": self.gross_growth[:, agents] - 1,
            "target": np.where(alive, self.decision[:-1, agents], 0.0),
            "position": np.where(alive, self.held[1:, agents], 0.0),
            "trade": self.trade[:, agents],
            "cost": self.cost[:, agents],
        }


def play(core: MarketCore, decide: Decision | np.ndarray, at_end: np.ndarray | None = None) -> Episode:
    """
    The loop over bars: every agent decides at a close, its order is filled, the next bar comes. It ends with a decision
    at the last close, whose order is not filled.

    :param core: agents, each on its own symbol; they play from where they stand
    :param decide: gives the target positions; or these themselves, shape (T + 1, n_envs)
    :param at_end: position with which an agent decides at its end, NaN: what it holds by then, shape (n_envs,); None:
        all hold what they hold
    """
    bars = int((core.end - core.bar).max())
    shape = (bars, core.n_envs)
    bar = np.minimum(core.bar + np.arange(bars + 1)[:, None], core.end)
    observations: list[np.ndarray] = []
    held = np.empty((bars + 1, core.n_envs))
    decision = np.empty((bars + 1, core.n_envs))
    alive = np.zeros(shape, dtype=bool)
    growth = np.ones(shape)
    gross_growth = np.ones(shape)
    trade = np.zeros(shape)
    cost = np.zeros(shape)
    ruined = np.full(core.n_envs, -1)
    trading = np.ones(core.n_envs, dtype=bool)

    for t in range(bars + 1):
        # The position at the close.
        if at_end is not None:
            given = (core.bar == core.end) & ~np.isnan(at_end)
            core.start_at(core.bar, np.where(given, at_end, core.position))
        held[t] = core.position

        # The decision.
        if isinstance(decide, np.ndarray):
            targets = decide[t]
        else:
            known = core.known()
            observations.append(known.observations)
            targets = decide(known)
        decision[t] = np.clip(targets, *core.costs.bounds)
        if t == bars:
            break

        # The next bar; agents at their end stay there and earn nothing.
        result = core.step(decision[t])
        alive[t] = trading
        growth[t] = np.where(trading, result.growth, 1.0)
        gross_growth[t] = np.where(trading, result.gross_growth, 1.0)
        trade[t] = np.where(trading, result.trade, 0.0)
        cost[t] = np.where(trading, result.cost, 0.0)
        ruined[trading & result.terminated] = t + 1
        trading = trading & ~(result.terminated | result.truncated)

    seen = np.array(observations)
    return Episode(bar, seen, held, decision, alive, growth, gross_growth, trade, cost, ruined)


def play_period(segments: Sequence[Segment], costs: TradingCosts, decide: Decision | np.ndarray) -> Episode:
    """
    :param segments: what is traded, by one agent each, from a flat start to the last bar
    :param costs: what trading costs and what may be held
    :param decide: gives the target positions; or these themselves, shape (T + 1, symbols)
    """
    return play(MarketCore(segments, len(segments), costs, episode_bars=None), decide)


def backtest(segments: Sequence[Segment], costs: TradingCosts, decide: Decision | np.ndarray) -> Frames:
    """
    One pass over the period of every segment, from a flat start to its last bar; after ruin nothing is held.

    :param segments: what is traded
    :param costs: what trading costs and what may be held
    :param decide: gives the target positions; or these themselves, shape (T + 1, symbols)
    :return: per symbol a row per bar: ``return`` and ``gross_return`` (simple; gross of fees, slippage and financing),
        ``equity`` and ``gross_equity`` (1 at the start), ``target`` and, at the close, ``position``, ``trade`` (signed)
        and ``cost`` (shares of equity), ``price`` of the fill, ``index``, ``regime`` (name), ``row``: time of the
        account's row that the bar belongs to, in seconds (``Calendar``). The ``target`` was decided at the close before
        the row's bar; it was filled at the open of that bar, or at the close before it
    """
    return frames_of(play_period(segments, costs, decide).columns(), segments, costs)


def frames_of(arrays: Mapping[str, np.ndarray], segments: Sequence[Segment], costs: TradingCosts) -> Frames:
    """
    :param arrays: ``Episode.columns`` of one agent per segment, shapes (T, K)
    :param segments: what was traded
    :param costs: when orders were filled
    :return: as ``backtest`` describes
    """
    frames = {}
    rows = rows_of_bars(segments)
    for i, segment in enumerate(segments):
        market = segment.market
        bars = slice(segment.first + 1, segment.last + 1)

        # What was earned and held.
        columns = {name: values[: segment.last - segment.first, i] for name, values in arrays.items()}
        columns["equity"] = (1 + columns["return"]).cumprod()
        columns["gross_equity"] = (1 + columns["gross_return"]).cumprod()

        # What the market did.
        at_open = fills_at_open(market, costs)
        columns["price"] = market.close[segment.first : segment.last]
        if at_open:
            columns["price"] = market.open[bars]
        columns["index"] = market.index[bars]
        columns["regime"] = np.array(REGIMES)[market.regime[bars]]
        columns["row"] = rows[i].astype(np.int64)
        frames[market.symbol] = pd.DataFrame(columns, index=pd.DatetimeIndex(market.dates[bars], name="date"))
    return frames


def rows_of_bars(segments: Sequence[Segment]) -> list[np.ndarray]:
    """
    :param segments: what is traded
    :return: per symbol the time of the account's row of each bar whose return is earned, datetime64[s]. The rows follow
        from all bars of the symbols, so that a short period has the rows of a long one
    """
    markets = [segment.market for segment in segments]
    calendar = Calendar.of([market.dates for market in markets], [market.instants for market in markets])
    times = []
    for segment, row in zip(segments, calendar.rows, strict=True):
        earned = row[segment.first + 1 : segment.last + 1]
        times.append(calendar.stamps[earned])
    return times


def random_timing(
    segments: Sequence[Segment], costs: TradingCosts, agent: Frames, seed: int, runs: int = RANDOM_RUNS
) -> tuple[Frames, np.ndarray]:
    """
    What the agent's own trades earn at random times: its target positions, shifted in a circle by a random number of
    rows of the account, so that turnover and exposure stay and only the timing goes. One number shifts all symbols:
    positions that rise and fall together go on doing so, and the spread of the copies is that of the agent's returns.

    :param segments: what is traded
    :param costs: what trading costs and what may be held
    :param agent: the agent's ``backtest``
    :param seed: of the shifts
    :param runs: number of shifts, all different, none of them 0; at most one less than there are rows
    :return: backtest of the run with the median Sharpe ratio; the Sharpe ratios of all, per row of the account, NaN
        where undefined
    """
    stamps, rows = rows_of(agent)
    shifts = _shifts(len(stamps), runs, seed)

    # The targets of every symbol in every copy, bar by bar: (bars + 1, copies * symbols).
    symbols = len(segments)
    bars = max(len(frame) for frame in agent.values())
    targets = np.zeros((bars + 1, len(shifts) * symbols))
    for i, (frame, row) in enumerate(zip(agent.values(), rows, strict=True)):
        targets[: len(frame), i::symbols] = _shifted(frame["target"].to_numpy(), row, len(stamps), shifts)

    # All copies trade at once.
    core = MarketCore(segments, len(shifts) * symbols, costs, episode_bars=None)
    episode = play(core, targets)

    # The equity of each copy's account is the mean over those of its symbols.
    equity = np.zeros((len(stamps), len(shifts)))
    for i, row in enumerate(rows):
        returns = episode.growth[: len(row), i::symbols] - 1
        equity_of_symbol = (1 + returns).cumprod(axis=0)
        last_bar = np.searchsorted(row, np.arange(len(stamps)), side="right") - 1
        equity += np.where(last_bar[:, None] >= 0, equity_of_symbol[last_bar.clip(0)], 1.0) / symbols
    ratios = sharpe_ratio(equity / before(equity) - 1, 1.0)

    # The copy in the middle; undefined ratios are sorted to the end.
    median = int(np.argsort(ratios)[(np.isfinite(ratios).sum() - 1) // 2])
    chosen = slice(median * symbols, (median + 1) * symbols)
    return frames_of(episode.columns(chosen), segments, costs), ratios


def _shifts(rows: int, runs: int, seed: int) -> np.ndarray:
    """Different numbers of rows, none of them 0, which would be the agent itself; of one row there is no other."""
    if rows < 2:
        return np.zeros(1, dtype=np.int64)
    return 1 + np.random.default_rng(seed).permutation(rows - 1)[:runs]


def _shifted(targets: np.ndarray, row: np.ndarray, rows: int, shifts: np.ndarray) -> np.ndarray:
    """
    :param targets: of one symbol, one per bar, shape (T,)
    :param row: of the account for each bar, shape (T,)
    :param rows: of the account
    :param shifts: numbers of rows, shape (n,)
    :return: the target of each bar in each copy, shape (T, n). A symbol that is not there all the time has all of its
        own targets in every copy: those that the shift moves out of its life fill, in their order, the rows that it
        leaves empty
    """
    first = row[0]
    last = row[-1]
    alive = np.arange(first, last + 1)
    by_row = targets[np.searchsorted(row, alive, side="right") - 1]  # kept where there is no bar

    # The row that each row takes its target from; what lies outside of the symbol's life is filled in order.
    source = (alive[:, None] + shifts) % rows
    if len(alive) < rows:
        for column in source.T:
            empty = (column < first) | (column > last)
            column[empty] = np.setdiff1d(alive, column, assume_unique=True)
    shifted: np.ndarray = by_row[source[row - first] - first]
    return shifted


def fill_times(segments: Sequence[Segment], costs: TradingCosts) -> dict[str, np.ndarray]:
    """
    :param segments: what was traded
    :param costs: when orders are filled
    :return: per symbol the time of the bar that fills the order of each row of ``backtest``, datetime64[s]: the row's
        own bar at an open, the bar before it at a close
    """
    times = {}
    for segment in segments:
        at_open = fills_at_open(segment.market, costs)
        first = segment.first + 1 if at_open else segment.first
        rows = segment.last - segment.first
        times[segment.market.symbol] = segment.market.dates[first : first + rows]
    return times


def trades(frames: Frames, filled: Mapping[str, np.ndarray] | None = None) -> pd.DataFrame:
    """
    :param frames: from ``backtest``
    :param filled: times of the fills, from ``fill_times``; None: every order is filled at the open of its row's bar
    :return: one row per order filled: date of the bar at whose open or close it was filled, symbol, side, price of the
        fill, shares of equity ``traded``, held then (``target``) and paid for it and for financing until the next close
        (``cost``), equity at that bar's close, before the fee of an order at that close
    """
    rows = []
    for symbol, frame in frames.items():
        table = frame
        if filled is not None:
            times = pd.DatetimeIndex(filled[symbol], name=frame.index.name)

            # An order at a close belongs to the bar before its row, whose equity the row before holds.
            at_close = bool((times != frame.index).any())
            equity = frame["equity"].shift(fill_value=1.0) if at_close else frame["equity"]
            table = frame.assign(equity=equity).set_index(times)

        # An order is what is more than rounding.
        orders = table[table["trade"].abs() > NO_ORDER]
        side = np.where(orders["trade"] > 0, "buy", "sell")
        rows.append(orders.assign(symbol=symbol, side=side, traded=orders["trade"].abs()))

    columns = ["symbol", "side", "price", "traded", "target", "cost", "equity"]
    return pd.concat(rows)[columns].sort_index(kind="stable")


def positions(frames: Frames, segments: Sequence[Segment]) -> pd.DataFrame:
    """
    :param frames: from ``backtest``
    :param segments: what was traded
    :return: one row per decision until ruin: ``date`` of the close at which it was taken, ``symbol``, ``position`` held
        then, ``target``, ``regime`` (name) and ``volatility_index`` (points) at that close
    """
    rows = []
    for segment, frame in zip(segments, frames.values(), strict=True):
        market = segment.market
        bars = slice(segment.first, segment.last)
        solvent = (frame["equity"].shift(fill_value=1.0) > RUINED).to_numpy()
        table = pd.DataFrame(
            {
                "date": market.dates[bars],
                "symbol": market.symbol,
                "position": frame["position"].shift(fill_value=0.0).to_numpy(),
                "target": frame["target"].to_numpy(),
                "regime": np.array(REGIMES)[market.regime[bars]],
                "volatility_index": market.index[bars],
            }
        )
        rows.append(table[solvent])
    return pd.concat(rows).sort_values("date", kind="stable", ignore_index=True)


def discounted(frames: Frames, last_values: np.ndarray, gamma: float) -> np.ndarray:
    """
    Realised discounted rewards after each decision, up to ruin or the period's end, where the critic's value completes
    them.

    :param frames: from ``backtest``
    :param last_values: value of the last state, one per symbol
    :param gamma: discount factor
    :return: one return per row of the frames, one frame after the other; NaN after ruin
    """
    outcomes = []
    for frame, last_value in zip(frames.values(), last_values, strict=True):
        rewards = REWARD_SCALE * np.log1p(frame["return"].to_numpy())

        # Nothing follows ruin.
        ruined = np.flatnonzero(frame["equity"] <= RUINED)
        end = len(rewards)
        if len(ruined):
            end = ruined[0] + 1
            last_value = 0.0
        outcome = np.full(len(rewards), np.nan)
        outcome[:end] = discounted_sums(rewards[:end], last_value, gamma)
        outcomes.append(outcome)
    return np.concatenate(outcomes)


def discounted_sums(rewards: np.ndarray, last_value: float | np.ndarray, gamma: float) -> np.ndarray:
    """
    :param rewards: of each bar, shape (T, ...)
    :param last_value: value of the state after the last one
    :param gamma: discount factor
    :return: from each bar on, shape (T, ...)
    """
    sums = np.empty(rewards.shape)
    value = last_value
    for t in range(len(rewards) - 1, -1, -1):
        value = rewards[t] + gamma * value
        sums[t] = value
    return sums
