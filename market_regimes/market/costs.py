"""
Costs that depend on an order's size in currency or shares: a least fee, a fee per share, the impact on the price.

Fees per share are proportional to the traded value, as basis points are, and enter the size of the trade exactly. The
least fee and the impact are those of the order that the proportional costs alone would give; they are paid from equity,
and the order is then sized to leave the target share of what is left.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from market_regimes.config import TradingCosts
from market_regimes.market.periods import date_text
from market_regimes.market.segments import Segment

NO_ORDER = 1e-9  # share of equity up to which a trade is a rounding error, and no order


@dataclass(frozen=True)
class CurrencyCosts:
    """
    Of orders given at T closes.

    :param costs: the fees, and the equity at the start
    :param per_share: fee per share over the price of the fill, shape (T,)
    :param impact: cost of an order worth 1, as a share of its value, by its impact on the price, shape (T,)
    """

    costs: TradingCosts
    per_share: np.ndarray
    impact: np.ndarray

    @classmethod
    def of(cls, segments: list[Segment], costs: TradingCosts, fills: list[np.ndarray]) -> CurrencyCosts:
        """
        :param segments: what is traded, one symbol each; T is the sum of their bars
        :param costs: of which one at least counts in currency
        :param fills: per symbol the prices at which orders of each close but the last are filled
        :return: their costs
        :raises ValueError: if the impact needs a volume that is not there, or shares are too cheap for their fee
        """
        per_share = [_per_share(segment, fill, costs) for segment, fill in zip(segments, fills, strict=True)]
        impact = [_impact(segment, costs) for segment in segments]
        return cls(costs, np.concatenate(per_share), np.concatenate(impact))

    def total(self, bar: np.ndarray, traded: np.ndarray, proportional: np.ndarray, equity: np.ndarray) -> np.ndarray:
        """
        :param bar: of the close at which each order is given, shape (n,)
        :param traded: value of each order as a share of equity, shape (n,)
        :param proportional: its costs in basis points and per share, as shares of equity, shape (n,)
        :param equity: at the fill, in starting equities, shape (n,)
        :return: all its costs, as shares of equity, at most 1, shape (n,)
        """
        assert self.costs.start_equity is not None
        currency = self.costs.start_equity * equity
        fee = (self.costs.fee_bp / 1e4 + self.per_share[bar]) * traded
        least = np.where(traded > NO_ORDER, self.costs.min_fee / currency, 0.0)
        impact = self.impact[bar] * np.sqrt(traded * currency) * traded
        paid: np.ndarray = proportional + np.maximum(least - fee, 0.0) + impact
        return paid.clip(max=1.0)


def _per_share(segment: Segment, fill: np.ndarray, costs: TradingCosts) -> np.ndarray:
    rate = np.append(costs.fee_per_share / fill, 0.0)  # nothing follows the last bar
    whole = (rate + (costs.fee_bp + costs.slippage_bp) / 1e4) * max(abs(bound) for bound in costs.bounds)
    all_of_it = whole[segment.first : segment.last] >= 1
    if all_of_it.any():
        bar = segment.first + int(np.argmax(all_of_it))
        raise ValueError(
            f"fee_per_share={costs.fee_per_share:g} takes all equity of a trade in {segment.market.symbol} at the "
            f"price {fill[bar]:g}, of an order given on {date_text(segment.market.dates[bar])}"
        )
    return rate


def _impact(segment: Segment, costs: TradingCosts) -> np.ndarray:
    market = segment.market
    if not costs.impact_coefficient:
        return np.zeros(len(market.close))
    if market.volume is None:
        raise ValueError(f"{market.source} has no volume, which impact_coefficient needs")
    volatility = market.volatility / 100 / np.sqrt(market.bars_per_year)
    with np.errstate(divide="ignore", invalid="ignore"):  # bars at which nothing is traded may lack a volume
        impact = costs.impact_coefficient * volatility / np.sqrt(market.volume * market.close)
    known = np.isfinite(impact)
    if not known[segment.first : segment.last].all():
        raise ValueError(
            f"{market.source} has bars of {market.symbol} without a volume, which impact_coefficient needs"
        )
    return np.where(known, impact, 0.0)
