"""Trading rules to compare an agent with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from market_regimes.config import SYNTHETIC, TradingCosts
from market_regimes.market.costs import CostModel
from market_regimes.market.environment import Known
from market_regimes.market.regimes import REGIMES
from market_regimes.market.segments import Segment
from market_regimes.market.shipped import LAW

Decision = Callable[[Known], np.ndarray]  # what is known at a close -> one target position per agent


def buy_and_hold(known: Known) -> np.ndarray:
    """The trading rule that holds position 1 throughout."""
    return np.ones(len(known.bar))


def volatility_targeting(segments: Sequence[Segment]) -> Decision:
    """
    :param segments: what is traded
    :return: the trading rule that holds as much of a symbol as brings its EWMA volatility to its median in training
    """
    wanted = np.array([segment.scaling.median_volatility for segment in segments])
    return lambda known: wanted[known.symbol] / np.maximum(known.volatility, 1e-9)


def fitted(segments: Sequence[Segment], trading: TradingCosts) -> Decision | None:
    """
    The simplest learner. Its one estimate per regime is the mean log return of the bars that follow a close in that
    regime, over the training period of all symbols.

    :param segments: what is traded; their training period is learned from
    :param trading: what trading costs and what may be held
    :return: the trading rule that holds ``position_high`` in regimes where that pays (``_targets``), else nothing; nor
        in regimes that the training period lacks. None where the bars may lack the training period
    """
    regime, following, growth = [], [], []
    for segment in segments:
        if segment.training_bars is None:
            return None
        market, known = segment.market, slice(segment.training_bars.start, segment.training_bars.stop)
        regime.append(market.regime[known][:-1])
        following.append(market.regime[known][1:])
        growth.append(100 * np.diff(np.log(market.close[known])))
    now, then, returns = (np.concatenate(parts) for parts in (regime, following, growth))
    seen = [now == i for i in range(len(REGIMES))]
    means = np.array([returns[rows].mean() if rows.any() else 0.0 for rows in seen])
    ends = np.array([(then[rows] != i).mean() if rows.any() else 1.0 for i, rows in enumerate(seen)])
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
    first = np.cumsum([0, *(len(one) for one in targets)])
    together = np.nan_to_num(np.concatenate(targets))  # those that trade nothing may be missing
    return lambda known: together[first[known.symbol] + known.bar]


def _targets(growth: np.ndarray, ends: np.ndarray, trading: TradingCosts, bars_per_year: float) -> np.ndarray:
    """
    Target position of each state: ``position_high`` where its growth exceeds its expected costs, else 0. Growth is
    taken as proportional to the position, which is exact for 0 and 1.

    :param growth: mean log return of the next bar in per cent, shape (S,)
    :param ends: probability that the state has ended by the next bar, shape (S,)
    :param trading: what trading costs and what may be held
    :param bars_per_year: what interest accrues by
    :return: target positions, shape (S,)
    """
    target = trading.bounds[1]
    expected = CostModel(trading, bars_per_year).expected(target, ends)
    return np.where(target * growth > expected, target, 0.0)
