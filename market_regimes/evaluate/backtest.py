"""Trading rules over a period of the markets, bar by bar."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from market_regimes.config import TradingCosts
from market_regimes.evaluate.rules import Decision
from market_regimes.market.currency import NO_ORDER
from market_regimes.market.env import REWARD_SCALE, RUIN_EQUITY, MarketCore, fills_at_open
from market_regimes.market.regimes import REGIMES
from market_regimes.market.segments import Segment

RANDOM_RUNS = 100


def backtest(segments: Sequence[Segment], costs: TradingCosts, decide: Decision) -> dict[str, pd.DataFrame]:
    """
    One pass over the period of every segment, from a flat start to its last bar; after ruin nothing is held.

    :param segments: what is traded
    :param costs: what trading costs and what may be held
    :param decide: gives the target positions
    :return: per symbol a row per bar: ``return`` and ``gross_return`` (simple; gross of fees, slippage and financing),
        ``equity`` and ``gross_equity`` (1 at the start), ``target`` and, at the close, ``position``, ``trade`` (signed)
        and ``cost`` (shares of equity), ``price`` of the fill, ``index``, ``regime`` (name). The ``target`` was decided
        at the close before the row's bar; it was filled at the open of that bar, or at the close before it
    """
    core = MarketCore(segments, len(segments), costs, episode_bars=None)
    return _frames(segments, _run(core, decide), costs)


def orders(core: MarketCore, decide: Decision) -> np.ndarray:
    """
    :param core: agents at a close
    :param decide: gives the target positions
    :return: the target positions as the environment fills them, shape (n_envs,)
    """
    targets: np.ndarray = np.clip(decide(core.known()), *core.costs.bounds)
    return targets


def _run(core: MarketCore, decide: Decision) -> dict[str, np.ndarray]:
    """
    All agents to their ends, each on its own symbol. Arrays (bars, n_envs); after ruin or end all is 0. ``decide`` is
    asked once more at the end, so that it sees the last state too.
    """
    rows: dict[str, list[np.ndarray]] = defaultdict(list)
    alive = np.ones(core.n_envs, dtype=bool)
    for _ in range(int((core.last - core.first).max())):
        targets = orders(core, decide)
        result = core.step(targets)
        rows["return"].append(np.where(alive, result.growth - 1, 0.0))
        rows["gross_return"].append(np.where(alive, result.gross_growth - 1, 0.0))
        for name, values in (("target", targets), ("position", core.position), ("trade", result.trade)):
            rows[name].append(np.where(alive, values, 0.0))
        rows["cost"].append(np.where(alive, result.cost, 0.0))
        alive = alive & ~(result.terminated | result.truncated)
    decide(core.known())
    return {name: np.stack(values) for name, values in rows.items()}


def _frames(segments: Sequence[Segment], arrays: dict[str, np.ndarray], costs: TradingCosts) -> dict[str, pd.DataFrame]:
    frames = {}
    for i, segment in enumerate(segments):
        market, bars = segment.market, slice(segment.first + 1, segment.last + 1)
        columns = {name: values[: segment.last - segment.first, i] for name, values in arrays.items()}
        frame = pd.DataFrame(columns, index=pd.DatetimeIndex(market.dates[bars], name="date"))
        frame["equity"] = (1 + frame["return"]).cumprod()
        frame["gross_equity"] = (1 + frame["gross_return"]).cumprod()
        at_open = fills_at_open(market, costs)
        frame["price"] = market.open[bars] if at_open else market.close[segment.first : segment.last]
        frame["index"] = market.index[bars]
        frame["regime"] = np.array(REGIMES)[market.regime[bars]]
        frames[market.symbol] = frame
    return frames


def random_timing(
    segments: Sequence[Segment], costs: TradingCosts, agent: dict[str, pd.DataFrame], seed: int, runs: int = RANDOM_RUNS
) -> tuple[dict[str, pd.DataFrame], np.ndarray]:
    """
    What the agent's own trades earn at random times: its target positions, shifted in a circle by a random number of
    bars, so that turnover and exposure stay and only the timing goes.

    :param segments: what is traded
    :param costs: what trading costs and what may be held
    :param agent: the agent's ``backtest``
    :param seed: of the shifts
    :param runs: number of shifts
    :return: backtest of the run with the median Sharpe ratio; the Sharpe ratios of all, per bar, NaN where undefined
    """
    core = MarketCore(segments, runs * len(segments), costs, episode_bars=None)
    bars = np.array([len(frame) for frame in agent.values()])
    targets = np.zeros((bars.max(), len(segments)))
    for i, frame in enumerate(agent.values()):
        targets[: len(frame), i] = frame["target"]
    shifts = np.random.default_rng(seed).integers(bars[core.symbol])
    first = np.array([segment.first for segment in segments])
    arrays = _run(
        core, lambda known: targets[(known.bar - first[known.symbol] + shifts) % bars[known.symbol], known.symbol]
    )

    dates = np.unique(np.concatenate([frame.index.to_numpy() for frame in agent.values()]))
    total, count = np.zeros((len(dates), runs)), np.zeros((len(dates), 1))
    for i, frame in enumerate(agent.values()):
        rows = np.searchsorted(dates, frame.index.to_numpy())
        total[rows] += arrays["return"][: len(frame), i :: len(segments)]
        count[rows] += 1
    returns = total / count
    spread = returns.std(axis=0, ddof=1)
    sharpe = np.divide(returns.mean(axis=0), spread, out=np.full(runs, np.nan), where=spread > 1e-12)
    median = int(np.argsort(sharpe)[(np.isfinite(sharpe).sum() - 1) // 2])
    chosen = slice(median * len(segments), (median + 1) * len(segments))
    return _frames(segments, {name: values[:, chosen] for name, values in arrays.items()}, costs), sharpe


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
