"""
The strategies that stand beside an agent. ``STRATEGIES`` is their one table: evaluations, printed tables, pictures,
TensorBoard and comparisons read it. A new trading rule is one entry of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from market_regimes.config import SYNTHETIC, TradingCosts
from market_regimes.evaluate.account import Frames
from market_regimes.evaluate.equal_weights import equal_weights
from market_regimes.evaluate.play import Decision, backtest
from market_regimes.market.costs import CostModel
from market_regimes.market.environment import Known
from market_regimes.market.segment import Segment
from market_regimes.market.shipped import LAW

AGENT = "agent"  # column of the agent in tables
RANDOM_TIMING = "random timing"  # column of the agent's own trades at random times
MIN_VOLATILITY = 1e-9  # in points, below which a volatility target would divide by zero

# From segments and trading costs to a trading rule, or to its backtest; None where it does not apply.
Rule = Callable[[Sequence[Segment], TradingCosts], Decision | None]
Backtest = Callable[[Sequence[Segment], TradingCosts], Frames | None]


@dataclass(frozen=True)
class Strategy:
    """
    A strategy to compare an agent with.

    :param key: begins the names of its figures in a comparison, as in ``hold_sharpe``
    :param label: its name in tables, pictures and JSON
    :param backtest: what it earns, of segments and trading costs; None where it does not apply
    :param dashes: Matplotlib's line style in the report of a comparison
    :param in_prose: its name in that report, None: the label
    :param in_comparisons: whether a comparison trades it
    :param in_every_report: whether the report of a comparison has its column even where no market has the strategy
    :param beside_seeds: whether its Sharpe ratio is printed below the table of several seeds
    """

    key: str
    label: str
    backtest: Backtest
    dashes: Any = "-"
    in_prose: str | None = None
    in_comparisons: bool = True
    in_every_report: bool = False
    beside_seeds: bool = True

    @property
    def title(self) -> str:
        """Its name in the report of a comparison."""
        return self.in_prose or self.label

    @property
    def scalar(self) -> str:
        """Its name in scalars, as in ``eval/sharpe_SCALAR``."""
        return self.label.replace(" ", "_")


def trading_by(rule: Rule) -> Backtest:
    """
    :param rule: of one position per symbol
    :return: what it earns, each symbol in an account of its own
    """

    def traded(segments: Sequence[Segment], trading: TradingCosts) -> Frames | None:
        decide = rule(segments, trading)
        if decide is None:
            return None
        return backtest(segments, trading, decide)

    return traded


def buy_and_hold(known: Known) -> np.ndarray:
    """The trading rule that holds position 1 throughout."""
    return np.ones(len(known.bar))


def rebalanced(segments: Sequence[Segment], trading: TradingCosts) -> Frames | None:
    """Equal weights of several symbols; one symbol has no others to be weighed against."""
    if len(segments) == 1:
        return None
    return equal_weights(segments, trading)


def volatility_targeting(segments: Sequence[Segment]) -> Decision:
    """
    :param segments: what is traded
    :return: the trading rule that holds as much of a symbol as brings its EWMA volatility to its median in training
    """
    medians = np.array([segment.scaling.median_volatility for segment in segments])
    return lambda known: medians[known.symbol] / np.maximum(known.volatility, MIN_VOLATILITY)


def fitted(segments: Sequence[Segment], trading: TradingCosts) -> Decision | None:
    """
    The simplest learner. Its one estimate per regime is the mean log return of the bars that follow a close in that
    regime, over the training period of all symbols.

    :param segments: what is traded; their training period is learned from
    :param trading: what trading costs and what may be held
    :return: the trading rule that holds ``position_high`` in regimes where that pays (``_targets``), else nothing; nor
        in regimes that the training period lacks. None where the bars may lack the training period
    """
    # The regime of each close of the training period, that of the next bar, and its return.
    regimes = []
    next_regimes = []
    next_returns = []
    for segment in segments:
        if segment.training_bars is None:
            return None
        market = segment.market
        training = slice(segment.training_bars.start, segment.training_bars.stop)
        regimes.append(market.regime[training][:-1])
        next_regimes.append(market.regime[training][1:])
        next_returns.append(100 * np.diff(np.log(market.close[training])))
    regime = np.concatenate(regimes)
    next_regime = np.concatenate(next_regimes)
    next_return = np.concatenate(next_returns)

    # Per regime the mean return of the next bar, and how often the regime has ended by then.
    number = len(segments[0].market.regimes.names)
    means = np.zeros(number)
    ends = np.ones(number)
    for i in range(number):
        inside = regime == i
        if inside.any():
            means[i] = next_return[inside].mean()
            ends[i] = (next_regime[inside] != i).mean()

    targets = _targets(means, ends, trading, segments[0].market.bars_per_year)
    return lambda known: targets[known.regime]


def informed(segments: Sequence[Segment], trading: TradingCosts) -> Decision | None:
    """
    :param segments: what is traded
    :param trading: what trading costs and what may be held
    :return: the trading rule that knows the law of the synthetic market: it holds ``position_high`` where that pays on
        the next bar (``_targets``), else nothing. None where a segment is of another market, whose law nobody knows
    """
    if any(segment.market.source not in SYNTHETIC for segment in segments):
        return None

    bars_per_year = segments[0].market.bars_per_year
    targets = _targets(np.array(LAW.growth), np.array(LAW.ends), trading, bars_per_year)
    between = sum(LAW.index) / 2
    return lambda known: targets[(known.index > between).astype(int)]


def own_rule(segments: Sequence[Segment]) -> Decision | None:
    """
    :param segments: what is traded
    :return: the trading rule that holds what ``market.benchmark_positions`` says at each close; None where a symbol has
        no such column
    """
    targets = [segment.market.benchmark_targets for segment in segments if segment.market.benchmark_targets is not None]
    if len(targets) < len(segments):
        return None

    first = np.cumsum([0, *(len(of_symbol) for of_symbol in targets)])
    together = np.nan_to_num(np.concatenate(targets))  # those that trade nothing may be missing
    return lambda known: together[first[known.symbol] + known.bar]


def _targets(growth: np.ndarray, ends: np.ndarray, trading: TradingCosts, bars_per_year: float) -> np.ndarray:
    """
    Target position of each state: ``position_high`` where its growth exceeds its expected costs, else 0. Growth is
    taken as proportional to the position, which is exact for 0 and 1.

    :param growth: mean log return of the next bar in per cent, shape (S,)
    :param ends: probability that the state has ended by the next bar, shape (S,)
    :param trading: what trading costs and what may be held
    :param bars_per_year: number of bars by which interest accrues
    :return: target positions, shape (S,)
    """
    target = trading.bounds[1]
    expected = CostModel(trading, bars_per_year).expected(target, ends)
    return np.where(target * growth > expected, target, 0.0)


HOLD = Strategy(
    key="hold",
    label="buy and hold",
    backtest=trading_by(lambda segments, trading: buy_and_hold),
    in_prose="buy-and-hold",
    in_every_report=True,
    beside_seeds=False,  # it is a column of that table
)
INFORMED = Strategy(
    key="informed",
    label="informed rule",
    backtest=trading_by(informed),
    dashes=":",
    in_every_report=True,
)
STRATEGIES = (
    HOLD,
    Strategy(
        key="equal",
        label="equal weights",
        backtest=rebalanced,
        dashes=(0, (5, 1, 1, 1, 1, 1)),
        beside_seeds=False,
    ),
    Strategy(
        key="own",
        label="own rule",
        backtest=trading_by(lambda segments, trading: own_rule(segments)),
        dashes="-.",
    ),
    Strategy(
        key="volatility",
        label="volatility target",
        backtest=trading_by(lambda segments, trading: volatility_targeting(segments)),
        in_comparisons=False,
        beside_seeds=False,
    ),
    Strategy(
        key="fitted",
        label="fitted rule",
        backtest=trading_by(fitted),
        dashes="--",
        in_every_report=True,
    ),
    INFORMED,
)
COMPARED = tuple(strategy for strategy in STRATEGIES if strategy.in_comparisons)
