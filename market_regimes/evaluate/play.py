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
from market_regimes.market.segment import Segment
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
    :param observations: what it saw then, as the environment gives it, shape (T + 1, n, size); empty where the targets
        were given, shape (0,)
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
        :param agents: which agents
        :return: what they earned and held, by the names of a backtest's columns, shapes (T, n); 0 after ruin or end
        """
        # The decision of each bar's order, and the position at the bar's close.
        alive = self.alive[:, agents]
        decision = self.decision[:-1, agents]
        position = self.held[1:, agents]

        return {
            "return": self.growth[:, agents] - 1,
            "gross_return": self.gross_growth[:, agents] - 1,
            "target": np.where(alive, decision, 0.0),
            "position": np.where(alive, position, 0.0),
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
    # The bars of each agent, which stays at its end.
    bars = int((core.end - core.bar).max())
    number = np.arange(bars + 1)[:, None]
    bar = np.minimum(core.bar + number, core.end)

    # At every close.
    observations: list[np.ndarray] = []
    held = np.empty(bar.shape)
    decision = np.empty(bar.shape)

    # In every bar.
    shape = (bars, core.n_envs)
    alive = np.zeros(shape, dtype=bool)
    growth = np.ones(shape)
    gross_growth = np.ones(shape)
    trade = np.zeros(shape)
    cost = np.zeros(shape)

    # Who still trades, and after how many bars the others were ruined.
    trading = np.ones(core.n_envs, dtype=bool)
    ruined = np.full(core.n_envs, -1)

    for t in range(bars + 1):
        # The position at the close.
        if at_end is not None:
            given = (core.bar == core.end) & ~np.isnan(at_end)
            position = np.where(given, at_end, core.position)
            core.start_at(core.bar, position)
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

        # Ruin and the end of its bars end an agent's trades.
        ruined[trading & result.terminated] = t + 1
        over = result.terminated | result.truncated
        trading = trading & ~over

    return Episode(
        bar=bar,
        observations=np.array(observations),
        held=held,
        decision=decision,
        alive=alive,
        growth=growth,
        gross_growth=gross_growth,
        trade=trade,
        cost=cost,
        ruined=ruined,
    )


def play_period(
    segments: Sequence[Segment],
    costs: TradingCosts,
    decide: Decision | np.ndarray,
) -> Episode:
    """
    :param segments: what is traded, by one agent each, from a flat start to the last bar
    :param costs: what trading costs and what may be held
    :param decide: gives the target positions; or these themselves, shape (T + 1, symbols)
    """
    core = MarketCore(segments, len(segments), costs, episode_bars=None)
    return play(core, decide)


def backtest(
    segments: Sequence[Segment],
    costs: TradingCosts,
    decide: Decision | np.ndarray,
) -> Frames:
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
    episode = play_period(segments, costs, decide)
    return frames_of(episode.columns(), segments, costs)


def frames_of(
    arrays: Mapping[str, np.ndarray],
    segments: Sequence[Segment],
    costs: TradingCosts,
) -> Frames:
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
        count = segment.last - segment.first
        bars = slice(segment.first + 1, segment.last + 1)

        # What was earned and held.
        columns = {}
        for name, values in arrays.items():
            columns[name] = values[:count, i]
        columns["equity"] = (1 + columns["return"]).cumprod()
        columns["gross_equity"] = (1 + columns["gross_return"]).cumprod()

        # The price of the fill: the bar's open, or the close before it.
        if fills_at_open(market, costs):
            columns["price"] = market.open[bars]
        else:
            columns["price"] = market.close[segment.first : segment.last]

        # What the market did.
        columns["index"] = market.index[bars]
        columns["regime"] = market.regime_names(bars)
        columns["row"] = rows[i].astype(np.int64)

        dates = pd.DatetimeIndex(market.dates[bars], name="date")
        frames[market.symbol] = pd.DataFrame(columns, index=dates)
    return frames


def rows_of_bars(segments: Sequence[Segment]) -> list[np.ndarray]:
    """
    :param segments: what is traded
    :return: per symbol the time of the account's row of each bar whose return is earned, datetime64[s]. The rows follow
        from all bars of the symbols, so that a short period has the rows of a long one
    """
    # The rows of all bars.
    markets = [segment.market for segment in segments]
    dates = [market.dates for market in markets]
    instants = [market.instants for market in markets]
    calendar = Calendar.of(dates, instants)

    # The rows of the bars whose return is earned.
    times = []
    for segment, row in zip(segments, calendar.rows, strict=True):
        earned = row[segment.first + 1 : segment.last + 1]
        times.append(calendar.stamps[earned])
    return times


def random_timing(
    segments: Sequence[Segment],
    costs: TradingCosts,
    agent: Frames,
    seed: int,
    runs: int = RANDOM_RUNS,
) -> tuple[Frames, np.ndarray]:
    """
    Trade what the agent traded at random times. Its target positions are shifted in a circle by a random number of
    rows of the account, so that turnover and exposure stay and only the timing goes. One number shifts all symbols:
    positions that rise and fall together go on doing so, and the spread of the copies is that of the agent's returns.

    :param segments: what is traded
    :param costs: what trading costs and what may be held
    :param agent: the agent's ``backtest``
    :param seed: seed of the shifts
    :param runs: number of shifts, all different and not 0; at most one less than there are rows
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
        of_symbol = frame["target"].to_numpy()
        shifted = _shifted(of_symbol, row, len(stamps), shifts)
        targets[: len(frame), i::symbols] = shifted

    # All copies trade at once.
    core = MarketCore(segments, len(shifts) * symbols, costs, episode_bars=None)
    episode = play(core, targets)

    # The equity of each copy's account is the mean over those of its symbols.
    numbers = np.arange(len(stamps))
    equity = np.zeros((len(stamps), len(shifts)))
    for i, row in enumerate(rows):
        returns = episode.growth[: len(row), i::symbols] - 1
        equity_of_symbol = (1 + returns).cumprod(axis=0)

        # On every row the equity of the last bar, 1 before the first one.
        last_bar = np.searchsorted(row, numbers, side="right") - 1
        begun = last_bar[:, None] >= 0
        equity += np.where(begun, equity_of_symbol[last_bar.clip(0)], 1.0) / symbols
    returns_of_copies = equity / before(equity) - 1
    ratios = sharpe_ratio(returns_of_copies, 1.0)

    # The copy in the middle; undefined ratios are sorted to the end.
    defined = np.isfinite(ratios).sum()
    middle = (defined - 1) // 2
    median = int(np.argsort(ratios)[middle])

    agents = slice(median * symbols, (median + 1) * symbols)
    return frames_of(episode.columns(agents), segments, costs), ratios


def _shifts(rows: int, runs: int, seed: int) -> np.ndarray:
    """Draw different numbers of rows. A shift by 0 would be the agent itself; an account of one row has no other."""
    if rows < 2:
        return np.zeros(1, dtype=np.int64)

    rng = np.random.default_rng(seed)
    return 1 + rng.permutation(rows - 1)[:runs]


def _shifted(
    targets: np.ndarray,
    row: np.ndarray,
    rows: int,
    shifts: np.ndarray,
) -> np.ndarray:
    """
    :param targets: target positions of one symbol, one per bar, shape (T,)
    :param row: row of the account that each bar belongs to, shape (T,)
    :param rows: number of rows of the account
    :param shifts: numbers of rows, shape (n,)
    :return: the target of each bar in each copy, shape (T, n). A symbol that is not there all the time has all of its
        own targets in every copy: those that the shift moves out of its life fill, in their order, the rows that it
        leaves empty
    """
    # The target of each row of the symbol's life, kept where there is no bar.
    first = row[0]
    last = row[-1]
    alive = np.arange(first, last + 1)
    last_bar = np.searchsorted(row, alive, side="right") - 1
    by_row = targets[last_bar]

    # The row that each row takes its target from; what lies outside of the symbol's life is filled in order.
    source = (alive[:, None] + shifts) % rows
    if len(alive) < rows:
        for column in source.T:
            empty = (column < first) | (column > last)
            column[empty] = np.setdiff1d(alive, column, assume_unique=True)

    # The rows that have a bar.
    of_bars = source[row - first]
    shifted: np.ndarray = by_row[of_bars - first]
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
        market = segment.market
        first = segment.first
        if fills_at_open(market, costs):
            first += 1
        rows = segment.last - segment.first
        times[market.symbol] = market.dates[first : first + rows]
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
            equity = frame["equity"]
            if (times != frame.index).any():
                equity = equity.shift(fill_value=1.0)
            table = frame.assign(equity=equity).set_index(times)

        # A trade that rounding makes is no order.
        orders = table[table["trade"].abs() > NO_ORDER]
        traded = orders["trade"].abs()
        side = np.where(orders["trade"] > 0, "buy", "sell")
        rows.append(orders.assign(symbol=symbol, side=side, traded=traded))

    # By time; orders of one time stay in the order of the symbols.
    columns = ["symbol", "side", "price", "traded", "target", "cost", "equity"]
    table = pd.concat(rows)[columns]
    return table.sort_index(kind="stable")


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

        # The account as the close before each bar left it.
        equity = frame["equity"].shift(fill_value=1.0)
        position = frame["position"].shift(fill_value=0.0)
        solvent = (equity > RUINED).to_numpy()

        # The decision, and the market at its close.
        columns = {
            "date": market.dates[bars],
            "symbol": market.symbol,
            "position": position.to_numpy(),
            "target": frame["target"].to_numpy(),
            "regime": market.regime_names(bars),
            "volatility_index": market.index[bars],
        }
        table = pd.DataFrame(columns)
        rows.append(table[solvent])

    # By time; decisions of one time stay in the order of the symbols.
    table = pd.concat(rows)
    return table.sort_values("date", kind="stable", ignore_index=True)


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
        returns = frame["return"].to_numpy()
        rewards = REWARD_SCALE * np.log1p(returns)

        # Nothing follows ruin.
        end = len(rewards)
        ruined = np.flatnonzero(frame["equity"] <= RUINED)
        if len(ruined):
            end = ruined[0] + 1
            last_value = 0.0

        # Sums up to the end.
        outcome = np.full(len(rewards), np.nan)
        outcome[:end] = discounted_sums(rewards[:end], last_value, gamma)
        outcomes.append(outcome)
    return np.concatenate(outcomes)


def discounted_sums(rewards: np.ndarray, last_value: float | np.ndarray, gamma: float) -> np.ndarray:
    """
    :param rewards: reward of each bar, shape (T, ...)
    :param last_value: value of the state after the last bar
    :param gamma: discount factor
    :return: discounted sum from each bar on, shape (T, ...)
    """
    sums = np.empty(rewards.shape)
    value = last_value

    # Backwards in time.
    for t in range(len(rewards) - 1, -1, -1):
        value = rewards[t] + gamma * value
        sums[t] = value
    return sums
