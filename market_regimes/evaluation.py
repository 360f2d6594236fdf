"""Run decision rules over a period of the markets and put the outcome into figures: overall, by regime, by symbol."""

from __future__ import annotations

import html
import logging
import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from market_regimes.data import MIN_REGIME_DAYS, REGIMES
from market_regimes.env import REWARD_SCALE, RUIN_EQUITY, MarketCore, Segment, TradingCosts

Decision = Callable[[MarketCore], np.ndarray]  # what is known at a close -> one target position per agent
RANDOM_RUNS = 100


def buy_and_hold(core: MarketCore) -> np.ndarray:
    """The decision rule that holds position 1 throughout."""
    return np.ones(core.n_envs)


def volatility_targeting(segments: Sequence[Segment]) -> Decision:
    """
    :param segments: what is traded
    :return: the decision rule that holds as much of a symbol as brings its EWMA volatility to its median in training
    """
    wanted = [np.median(s.market.volatility[s.scale_on.start : s.scale_on.stop]) for s in segments]
    return lambda core: np.array(wanted)[core.symbol] / np.maximum(core.volatility[core.bar], 1e-9)


def _run(core: MarketCore, decide: Decision) -> dict[str, np.ndarray]:
    """
    All agents to their ends, each on its own symbol. Arrays (bars, n_envs); after ruin or end all is 0. ``decide`` is
    asked once more at the end, so that it sees the last state too.
    """
    rows: dict[str, list[np.ndarray]] = defaultdict(list)
    alive = np.ones(core.n_envs, dtype=bool)
    for _ in range(int((core.last - core.first).max())):
        targets = np.clip(decide(core), *core.costs.bounds)
        result = core.step(targets)
        rows["return"].append(np.where(alive, result.growth - 1, 0.0))
        rows["gross_return"].append(np.where(alive, result.gross_growth - 1, 0.0))
        for name, values in (("target", targets), ("position", core.position), ("trade", result.trade)):
            rows[name].append(np.where(alive, values, 0.0))
        rows["cost"].append(np.where(alive, result.cost, 0.0))
        alive = alive & ~(result.terminated | result.truncated)
    decide(core)
    return {name: np.stack(values) for name, values in rows.items()}


def backtest(segments: Sequence[Segment], costs: TradingCosts, decide: Decision) -> dict[str, pd.DataFrame]:
    """
    One pass over the period of every segment, from a flat start to its last bar; after ruin nothing is held.

    :param segments: what is traded
    :param costs: what trading costs and what may be held
    :param decide: gives the target positions
    :return: per symbol a row per bar: ``return`` and ``gross_return`` (simple; gross of fees, slippage and financing),
        ``equity`` and ``gross_equity`` (1 at the start), ``target`` and, at the close, ``position``, ``trade`` (signed)
        and ``cost`` (shares of equity), ``price`` of the fill, ``index``, ``regime`` (name)
    """
    core = MarketCore(segments, len(segments), costs, episode_bars=None)
    return _frames(segments, _run(core, decide), costs)


def _frames(segments: Sequence[Segment], arrays: dict[str, np.ndarray], costs: TradingCosts) -> dict[str, pd.DataFrame]:
    frames = {}
    for i, segment in enumerate(segments):
        market, bars = segment.market, slice(segment.first + 1, segment.last + 1)
        columns = {name: values[: segment.last - segment.first, i] for name, values in arrays.items()}
        frame = pd.DataFrame(columns, index=pd.DatetimeIndex(market.dates[bars], name="date"))
        frame["equity"] = (1 + frame["return"]).cumprod()
        frame["gross_equity"] = (1 + frame["gross_return"]).cumprod()
        frame["price"] = market.open[bars] if costs.fill == "next_open" else market.close[segment.first : segment.last]
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
    arrays = _run(
        core, lambda core: targets[(core.bar - core.first[core.symbol] + shifts) % bars[core.symbol], core.symbol]
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


def joint(frames: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """
    Equal shares of the capital in every symbol that has a bar, restored at every bar.

    :param frames: from ``backtest``
    :return: the same columns but ``price`` and ``regime``, means over the symbols; with one symbol its own frame
    """
    if len(frames) == 1:
        return next(iter(frames.values()))
    mean = pd.concat(frames.values()).assign(trade=lambda f: f["trade"].abs(), position=lambda f: f["position"].abs())
    mean = mean.drop(columns=["price", "regime"]).groupby(level=0).mean()
    return mean.assign(equity=(1 + mean["return"]).cumprod(), gross_equity=(1 + mean["gross_return"]).cumprod())


def joint_in(frames: dict[str, pd.DataFrame], regimes: Collection[str]) -> pd.DataFrame:
    """
    :param frames: from ``backtest``
    :param regimes: names
    :return: ``joint`` of the bars on which a symbol is in one of them, of the symbols that are
    """
    return joint({symbol: frame[frame["regime"].isin(regimes)] for symbol, frame in frames.items()})


def figures(frame: pd.DataFrame, bars_per_year: float) -> dict[str, float | None]:
    """
    :param frame: from ``backtest`` or ``joint``
    :param bars_per_year: what annualises
    :return: Sharpe and Sortino ratio (simple net returns, risk-free 0), Calmar ratio, largest drawdown (0 or below),
        hit rate (share of the bars with a return that gained), net and gross total return, exposure (mean absolute
        position), turnover and costs per year in shares of equity, bars. None: undefined
    """
    years = len(frame) / bars_per_year
    ratios = {name: _ratio(name, frame["return"], bars_per_year) for name in RATIOS}
    return {
        **ratios,
        "total_return": float(frame["equity"].iloc[-1]) - 1.0,
        "gross_return": float(frame["gross_equity"].iloc[-1]) - 1.0,
        "exposure": float(frame["position"].abs().mean()),
        "turnover_per_year": float(frame["trade"].abs().sum()) / years,
        "costs_per_year": float(frame["cost"].sum()) / years,
        "bars": float(len(frame)),
    }


def figures_by_regime(frames: dict[str, pd.DataFrame], bars_per_year: float) -> dict[str, dict[str, float | None]]:
    """
    :param frames: from ``backtest``
    :param bars_per_year: what annualises
    :return: per regime the bars on which any symbol was in it, and the Sharpe ratio and exposure of equal shares in
        those that were; None where a regime has under ``MIN_REGIME_DAYS`` bars
    """
    table: dict[str, dict[str, float | None]] = {}
    for regime in REGIMES:
        bars = joint_in(frames, [regime])
        enough = len(bars) >= MIN_REGIME_DAYS
        table[regime] = {
            "bars": float(len(bars)),
            "sharpe_ratio": _ratio("sharpe_ratio", bars["return"], bars_per_year) if enough else None,
            "exposure": float(bars["position"].abs().mean()) if enough else None,
        }
    return table


def _quantstats() -> Any:
    """The library, imported when needed because that takes seconds, and kept from changing how our pictures look."""
    import matplotlib

    with matplotlib.rc_context():
        import quantstats
    return quantstats


RATIOS = {
    "sharpe_ratio": "sharpe",
    "sortino_ratio": "sortino",
    "calmar_ratio": "calmar",
    "max_drawdown": "max_drawdown",
    "hit_rate": "win_rate",
}


def _ratio(name: str, returns: pd.Series, bars_per_year: float) -> float | None:
    """A figure of quantstats, None where it is undefined (no spread in the returns)."""
    if name != "max_drawdown" and not returns.std() > 1e-12:
        return None
    periods = {} if name in ("max_drawdown", "hit_rate") else {"periods": bars_per_year}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it divides by zero and uses what pandas 3 deprecates
        value = float(getattr(_quantstats().stats, RATIOS[name])(returns, **periods))
    return value if np.isfinite(value) else None


def summary(strategies: dict[str, dict[str, pd.DataFrame]], bars_per_year: float) -> dict[str, Any]:
    """
    :param strategies: per name a backtest
    :param bars_per_year: what annualises
    :return: for JSON: "joint" and "symbols", each symbol by name; in them per strategy the ``figures`` and, as
        "regimes", the ``figures_by_regime``
    """

    def of(frames: dict[str, pd.DataFrame]) -> dict[str, Any]:
        return {**figures(joint(frames), bars_per_year), "regimes": figures_by_regime(frames, bars_per_year)}

    symbols = next(iter(strategies.values()))
    return {
        "joint": {name: of(frames) for name, frames in strategies.items()},
        "symbols": {
            symbol: {name: of({symbol: frames[symbol]}) for name, frames in strategies.items()} for symbol in symbols
        },
    }


def trades(frames: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """
    :param frames: from ``backtest``
    :return: one row per order filled: date of the bar, symbol, side, price, shares of equity ``traded``, held then
        (``target``) and paid in that bar (``cost``), equity at its close
    """
    rows = []
    for symbol, frame in frames.items():
        orders = frame[frame["trade"].abs() > 1e-9]
        side = np.where(orders["trade"] > 0, "buy", "sell")
        rows.append(orders.assign(symbol=symbol, side=side, traded=orders["trade"].abs()))
    return pd.concat(rows)[["symbol", "side", "price", "traded", "target", "cost", "equity"]].sort_index(kind="stable")


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


def tear_sheet(agent: pd.Series, benchmark: pd.Series, path: Path, title: str, bars_per_year: float) -> None:
    """
    The HTML report of quantstats, made to load nothing from the network.

    :param agent: returns
    :param benchmark: returns on the same dates
    :param path: HTML file to write
    :param title: heading
    :param bars_per_year: what annualises
    :raises ValueError: if quantstats cannot make one of these returns; no file is left then
    """
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # it asks for Arial and takes what there is
    agent, benchmark = agent.rename("agent"), benchmark.rename("buy and hold")
    path.unlink(missing_ok=True)
    made = path.with_name(path.name + ".tmp")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _quantstats().reports.html(
                agent, benchmark, output=str(made), title=html.escape(title), periods_per_year=bars_per_year
            )
    except Exception as error:  # it fits lines and makes tables without looking whether there is anything to show
        made.unlink(missing_ok=True)
        raise ValueError(f"quantstats makes no tear sheet of these returns ({error})") from error
    text = made.read_text(encoding="utf-8")
    made.unlink()
    path.write_text(re.sub(r"<link[^>]*href=.https?://[^>]*>", "", text), encoding="utf-8")
