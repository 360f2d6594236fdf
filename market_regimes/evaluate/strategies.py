"""
The strategies that stand beside an agent. ``STRATEGIES`` is their one table: evaluations, printed tables, pictures,
TensorBoard and comparisons read it. A new trading rule is one entry of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from market_regimes.config import PortfolioConfig, TradingCosts
from market_regimes.evaluate.account import Frames
from market_regimes.evaluate.equal_weights import equal_weights
from market_regimes.evaluate.play import Decision, backtest
from market_regimes.market.allocation import Bounds
from market_regimes.market.costs import CostModel
from market_regimes.market.environment import Known
from market_regimes.market.segment import Segment

AGENT = "agent"  # column of the agent in tables
RANDOM_TIMING = "random timing"  # column of the agent's own trades at random times
MIN_VOLATILITY = 1e-9  # in points, below which a volatility target would divide by zero

# From segments and trading costs to a trading rule, or to its backtest; None where it does not apply.
Rule = Callable[[Sequence[Segment], TradingCosts], Decision | None]
Backtest = Callable[[Sequence[Segment], TradingCosts], Frames | None]
AccountBacktest = Callable[[Sequence[Segment], TradingCosts, PortfolioConfig], Frames | None]


@dataclass(frozen=True)
class Strategy:
    """
    A strategy to compare an agent with.

    :param key: begins the names of its figures in a comparison, as in ``hold_sharpe``
    :param label: its name in tables, pictures and JSON
    :param backtest: what it earns, of segments and trading costs; None where it does not apply
    :param in_account: what it earns by the targets that it gives in an account with shared cash, of segments, trading
        costs and the limits of that account; None: it gives those of separate accounts
    :param dashes: Matplotlib's line style in the report of a comparison
    :param in_prose: its name in that report, None: the label
    :param in_comparisons: whether a comparison trades it
    :param in_every_report: whether the report of a comparison has its column even where no market has the strategy
    :param beside_seeds: whether its Sharpe ratio is printed below the table of several seeds
    """

    key: str
    label: str
    backtest: Backtest
    in_account: AccountBacktest | None = None
    dashes: Any = "-"
    in_prose: str | None = None
    in_comparisons: bool = True
    in_every_report: bool = False
    beside_seeds: bool = True

    def traded(self, segments: Sequence[Segment], trading: TradingCosts, portfolio: PortfolioConfig) -> Frames | None:
        """
        :param segments: what is traded
        :param trading: what trading costs and what may be held
        :param portfolio: whether the symbols share their cash, and the limits of their account
        :return: what it earns, each symbol in an account of its own, by the targets that it gives in such an account;
            None where it does not apply
        """
        if portfolio.cash == "shared" and self.in_account is not None:
            return self.in_account(segments, trading, portfolio)
        return self.backtest(segments, trading)

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
    :return: the trading rule that knows the law of the synthetic market: it holds ``position_high`` of a symbol where
        that pays on the next bar, else nothing. None where nobody knows the law of a segment
    """
    targets = []
    for segment in segments:
        growth = _growth_of_law(segment, trading)
        if growth is None:
            return None
        targets.append(np.where(growth > 0, trading.bounds[1], 0.0))
    return _of_bars(targets)


def informed_in_account(
    segments: Sequence[Segment], trading: TradingCosts, portfolio: PortfolioConfig
) -> Decision | None:
    """
    The rule that knows the law, for one account with shared cash. It fills the account with the symbols that grow
    most, net of costs. What ``weight_max`` and ``top_k`` leave goes to those that grow less. Where groups have caps, or
    nothing may be held long, it does not choose.

    :param segments: what is traded, whose bars are on the same days
    :param trading: what trading costs and what may be held
    :param portfolio: the limits of the account
    :return: the trading rule; None where nobody knows the law of a segment
    """
    growths = []
    for segment in segments:
        growth = _growth_of_law(segment, trading)
        if growth is None:
            return None
        growths.append(growth)
    if portfolio.groups or trading.bounds[1] <= 0:
        return informed(segments, trading)

    # The growth of a symbol at each close, and the room in the account.
    growth_of = _of_bars(growths)
    bounds = Bounds.of(portfolio, trading)

    def decide(known: Known) -> np.ndarray:
        growth = growth_of(known)
        targets = np.zeros(len(growth))
        room = bounds.gross
        most = bounds.high
        places = len(growth) if portfolio.top_k is None else portfolio.top_k

        # The largest growth first; equal ones share.
        for level in np.unique(growth[growth > 0])[::-1]:
            equal = growth == level
            count = min(int(equal.sum()), places)
            if count == 0:
                break
            weight = min(most, room / count)
            targets[equal] = weight
            room -= weight * count
            places -= count

            # Of equal targets ``top_k`` keeps what is held already: those that grow less must be smaller.
            if portfolio.top_k is not None:
                most = np.nextafter(weight, 0.0)
        return targets

    return decide


def _informed_by_account(
    segments: Sequence[Segment], trading: TradingCosts, portfolio: PortfolioConfig
) -> Frames | None:
    """What ``informed_in_account`` earns, each symbol in an account of its own."""
    decide = informed_in_account(segments, trading, portfolio)
    if decide is None:
        return None
    return backtest(segments, trading, decide)


def _growth_of_law(segment: Segment, trading: TradingCosts) -> np.ndarray | None:
    """
    :param segment: of one symbol
    :param trading: what trading costs and what may be held
    :return: what ``position_high`` gains on average on the bar after each close, less expected costs, in per cent of
        equity, shape (T,); None where nobody knows the law
    """
    law = segment.market.law
    if law is None:
        return None
    net = _net_growth(np.array(law.growth), np.array(law.ends), trading, segment.market.bars_per_year)
    of_bars: np.ndarray = net[law.regimes_of(segment.market.index)]
    return of_bars


def own_rule(segments: Sequence[Segment]) -> Decision | None:
    """
    :param segments: what is traded
    :return: the trading rule that holds what ``market.benchmark_positions`` says at each close; None where a symbol has
        no such column
    """
    targets = [segment.market.benchmark_targets for segment in segments if segment.market.benchmark_targets is not None]
    if len(targets) < len(segments):
        return None

    # Targets of bars that are not traded may be missing.
    return _of_bars([np.nan_to_num(of_symbol) for of_symbol in targets])


def _of_bars(values: Sequence[np.ndarray]) -> Decision:
    """
    :param values: a number for each bar of each symbol, shapes (T,)
    :return: from what is known at a close to the number of the bar
    """
    first = np.cumsum([0, *(len(of_symbol) for of_symbol in values)])
    together = np.concatenate(values)
    return lambda known: together[first[known.symbol] + known.bar]


def _targets(growth: np.ndarray, ends: np.ndarray, trading: TradingCosts, bars_per_year: float) -> np.ndarray:
    """
    Target position of each state: ``position_high`` where its growth exceeds its expected costs, else 0.

    :param growth: mean log return of the next bar in per cent, shape (S,)
    :param ends: probability that the state has ended by the next bar, shape (S,)
    :param trading: what trading costs and what may be held
    :param bars_per_year: number of bars by which interest accrues
    :return: target positions, shape (S,)
    """
    net = _net_growth(growth, ends, trading, bars_per_year)
    return np.where(net > 0, trading.bounds[1], 0.0)


def _net_growth(growth: np.ndarray, ends: np.ndarray, trading: TradingCosts, bars_per_year: float) -> np.ndarray:
    """
    Growth of ``position_high`` in each state, less its expected costs. Growth is taken as proportional to the position,
    which is exact for 0 and 1.

    :param growth: mean log return of the next bar in per cent, shape (S,)
    :param ends: probability that the state has ended by the next bar, shape (S,)
    :param trading: what trading costs and what may be held
    :param bars_per_year: number of bars by which interest accrues
    :return: in per cent of equity, shape (S,)
    """
    target = trading.bounds[1]
    expected = CostModel(trading, bars_per_year).expected(target, ends)
    net: np.ndarray = target * growth - expected
    return net


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
    in_account=_informed_by_account,
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
