"""Trading rules over a period of the markets, bar by bar."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from market_regimes.config import TradingCosts
from market_regimes.evaluate.figures import before, rows_of, sharpe_per_row
from market_regimes.evaluate.rules import Decision
from market_regimes.market.costs import NO_ORDER
from market_regimes.market.environment import REWARD_SCALE, RUIN_EQUITY, MarketCore
from market_regimes.market.market import fills_at_open
from market_regimes.market.regimes import REGIMES
from market_regimes.market.segments import Segment
from market_regimes.prices import Calendar

RANDOM_RUNS = 100


def backtest(segments: Sequence[Segment], costs: TradingCosts, decide: Decision) -> dict[str, pd.DataFrame]:
    """
    One pass over the period of every segment, from a flat start to its last bar; after ruin nothing is held.

    :param segments: what is traded
    :param costs: what trading costs and what may be held
    :param decide: gives the target positions
    :return: per symbol a row per bar: ``return`` and ``gross_return`` (simple; gross of fees, slippage and financing),
        ``equity`` and ``gross_equity`` (1 at the start), ``target`` and, at the close, ``position``, ``trade`` (signed)
        and ``cost`` (shares of equity), ``price`` of the fill, ``index``, ``regime`` (name), ``row``: time of the
        account's row that the bar belongs to, in seconds (``Calendar``). The ``target`` was decided at the close before
        the row's bar; it was filled at the open of that bar, or at the close before it
    """
    core = MarketCore(segments, len(segments), costs, episode_bars=None)
    played = _run(core, lambda: orders(core, decide))
    decide(core.known())  # so that it sees the last state too
    return _frames(segments, played, costs)


def orders(core: MarketCore, decide: Decision) -> np.ndarray:
    """
    :param core: agents at a close
    :param decide: gives the target positions
    :return: the target positions as the environment fills them, shape (n_envs,)
    """
    targets: np.ndarray = np.clip(decide(core.known()), *core.costs.bounds)
    return targets


def _run(core: MarketCore, next_targets: Callable[[], np.ndarray]) -> dict[str, np.ndarray]:
    """
    All agents to their ends, each on its own symbol.

    :param core: agents at their first close
    :param next_targets: gives the target positions of the next bar, shape (n_envs,)
    :return: arrays (bars, n_envs); after ruin or end all is 0
    """
    rows: dict[str, list[np.ndarray]] = defaultdict(list)
    alive = np.ones(core.n_envs, dtype=bool)
    for _ in range(int((core.last - core.first).max())):
        targets = next_targets()
        result = core.step(targets)
        rows["return"].append(np.where(alive, result.growth - 1, 0.0))
        rows["gross_return"].append(np.where(alive, result.gross_growth - 1, 0.0))
        for name, values in (("target", targets), ("position", core.position), ("trade", result.trade)):
            rows[name].append(np.where(alive, values, 0.0))
        rows["cost"].append(np.where(alive, result.cost, 0.0))
        alive = alive & ~(result.terminated | result.truncated)
    return {name: np.stack(values) for name, values in rows.items()}


def _frames(segments: Sequence[Segment], arrays: dict[str, np.ndarray], costs: TradingCosts) -> dict[str, pd.DataFrame]:
    frames = {}
    rows = rows_of_bars(segments)
    for i, segment in enumerate(segments):
        market = segment.market
        bars = slice(segment.first + 1, segment.last + 1)

        # What was earned and held, then what the market did.
        columns = {name: values[: segment.last - segment.first, i] for name, values in arrays.items()}
        columns["equity"] = (1 + columns["return"]).cumprod()
        columns["gross_equity"] = (1 + columns["gross_return"]).cumprod()
        at_open = fills_at_open(market, costs)
        columns["price"] = market.open[bars] if at_open else market.close[segment.first : segment.last]
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
    return [
        calendar.stamps[row[segment.first + 1 : segment.last + 1]]
        for segment, row in zip(segments, calendar.rows, strict=True)
    ]


def random_timing(
    segments: Sequence[Segment], costs: TradingCosts, agent: dict[str, pd.DataFrame], seed: int, runs: int = RANDOM_RUNS
) -> tuple[dict[str, pd.DataFrame], np.ndarray]:
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

    # The targets of every symbol in every copy, bar by bar: (bars, copies * symbols).
    symbols = len(segments)
    bars = max(len(frame) for frame in agent.values())
    targets = np.zeros((bars, len(shifts) * symbols))
    for i, (frame, row) in enumerate(zip(agent.values(), rows, strict=True)):
        targets[: len(frame), i::symbols] = _shifted(frame["target"].to_numpy(), row, len(stamps), shifts)

    # All copies trade at once.
    core = MarketCore(segments, len(shifts) * symbols, costs, episode_bars=None)
    steps = iter(np.clip(targets, *costs.bounds))
    arrays = _run(core, lambda: next(steps))

    # The equity of each copy's account is the mean over those of its symbols.
    equity = np.zeros((len(stamps), len(shifts)))
    for i, row in enumerate(rows):
        equity_of_symbol = (1 + arrays["return"][: len(row), i::symbols]).cumprod(axis=0)
        last_bar = np.searchsorted(row, np.arange(len(stamps)), side="right") - 1
        equity += np.where(last_bar[:, None] >= 0, equity_of_symbol[last_bar.clip(0)], 1.0) / symbols
    sharpe = sharpe_per_row(equity / before(equity) - 1)

    # The copy in the middle; undefined ratios are sorted to the end.
    median = int(np.argsort(sharpe)[(np.isfinite(sharpe).sum() - 1) // 2])
    chosen = slice(median * symbols, (median + 1) * symbols)
    return _frames(segments, {name: values[:, chosen] for name, values in arrays.items()}, costs), sharpe


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


def trades(frames: dict[str, pd.DataFrame], filled: Mapping[str, np.ndarray] | None = None) -> pd.DataFrame:
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
        orders = table[table["trade"].abs() > NO_ORDER]
        side = np.where(orders["trade"] > 0, "buy", "sell")
        rows.append(orders.assign(symbol=symbol, side=side, traded=orders["trade"].abs()))
    return pd.concat(rows)[["symbol", "side", "price", "traded", "target", "cost", "equity"]].sort_index(kind="stable")


def positions(frames: dict[str, pd.DataFrame], segments: Sequence[Segment]) -> pd.DataFrame:
    """
    :param frames: from ``backtest``
    :param segments: what was traded
    :return: one row per decision until ruin: ``date`` of the close at which it was taken, ``symbol``, ``position`` held
        then, ``target``, ``regime`` (name) and ``volatility_index`` (points) at that close
    """
    rows = []
    for segment, frame in zip(segments, frames.values(), strict=True):
        market, bars = segment.market, slice(segment.first, segment.last)
        solvent = (frame["equity"].shift(fill_value=1.0) > RUIN_EQUITY * (1 + 1e-9)).to_numpy()
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


def discounted(frames: dict[str, pd.DataFrame], last_values: np.ndarray, gamma: float) -> np.ndarray:
    """
    What came after each decision: the discounted rewards to ruin, or to the end of the period, where the critic's value
    completes them.

    :param frames: from ``backtest``
    :param last_values: value of the last state, one per symbol
    :param gamma: discount factor
    :return: one return per row of the frames, one frame after the other; NaN after ruin
    """
    outcomes = []
    for frame, last_value in zip(frames.values(), last_values, strict=True):
        rewards = REWARD_SCALE * np.log1p(frame["return"].to_numpy())
        outcome = np.full(len(rewards), np.nan)
        ruined = np.flatnonzero(frame["equity"] <= RUIN_EQUITY * (1 + 1e-9))
        end, value = (ruined[0] + 1, 0.0) if len(ruined) else (len(rewards), last_value)
        for t in range(end - 1, -1, -1):
            value = rewards[t] + gamma * value
            outcome[t] = value
        outcomes.append(outcome)
    return np.concatenate(outcomes)
