"""
What trading costs: fees and slippage of an order, financing and interest of a position.

``MarketCore`` asks a ``CostModel``. Another slippage is a change of ``CostModel.trade``, or a class of your own with
that method: ``MarketCore(segments, cost_model=...)``.

Some costs depend on an order's size in currency or shares: a least fee, a fee per share, the impact on the price. Fees
per share are proportional to the traded value, as basis points are, and enter the size of the trade exactly. The least
fee and the impact are those of the order that the proportional costs alone would give; they are paid from equity, and
the order is then sized to leave the target share of what is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from market_regimes.config import TradingCosts
from market_regimes.market.market import Market, fills_at_open, prices_of_fills
from market_regimes.market.periods import date_text
from market_regimes.market.segment import Segment

NO_ORDER = 1e-9  # share of equity up to which a trade is a rounding error, and no order


class Order(NamedTuple):
    """Filled orders of n agents, shares of the equity before them, shape (n,) each."""

    trade: np.ndarray  # bought, below 0: sold
    cost: np.ndarray


class CostModel:
    """
    Costs of orders and positions.

    :param trading: fees, slippage and rates
    :param bars_per_year: number of bars by which interest accrues
    :param in_currency: costs that depend on an order's size; None: there are none
    """

    def __init__(self, trading: TradingCosts, bars_per_year: float, in_currency: CurrencyCosts | None = None):
        self.trading = trading
        self.in_currency = in_currency

        # Basis points as a share of the traded value.
        self.rate = (trading.fee_bp + trading.slippage_bp) / 1e4

        # Rates per year as rates per bar.
        self.financing_rate = trading.financing_rate / bars_per_year
        self.cash_rate = trading.cash_rate / bars_per_year
        self.bars_per_year = bars_per_year

    @classmethod
    def of(cls, segments: Sequence[Segment], trading: TradingCosts) -> CostModel:
        """
        :param segments: traded segments, one symbol each
        :param trading: fees, slippage and rates
        :return: its cost model
        :raises ValueError: if the impact needs a volume that is not there, or shares are too cheap for their fee
        """
        bars_per_year = segments[0].market.bars_per_year
        if not trading.in_currency:
            return cls(trading, bars_per_year)

        # Costs in currency depend on the price at which each order is filled.
        fills = []
        for segment in segments:
            at_open = fills_at_open(segment.market, trading)
            fills.append(prices_of_fills(segment.market, at_open))
        in_currency = CurrencyCosts.of(list(segments), trading, fills)
        return cls(trading, bars_per_year, in_currency)

    def trade(self, target: np.ndarray, drifted: np.ndarray, bar: np.ndarray, equity: np.ndarray) -> Order:
        """
        Fill an order so that the target is the share of what is left after its cost.

        :param target: position that is wanted, share of equity, shape (n,)
        :param drifted: position at the fill, share of equity, shape (n,)
        :param bar: close at which each order is given, counted over all segments, shape (n,)
        :param equity: equity at the fill, in starting equities, shape (n,)
        :return: the order
        """
        # Fees per share are a share of the traded value, as basis points are.
        rate: float | np.ndarray = self.rate
        if self.in_currency is not None:
            rate = self.rate + self.in_currency.per_share[bar]

        # The trade d leaves the target share of what is left after its cost: d = target * (1 - rate |d|) - drifted.
        trade = target - drifted
        trade = trade / (1 + np.sign(trade) * target * rate)
        traded = np.abs(trade)
        cost = rate * traded
        if self.in_currency is None:
            return Order(trade, cost)

        # Least fee and impact are paid from equity.
        cost = self.in_currency.total(bar, traded, cost, equity)

        # The order leaves the target share of the rest.
        trade = target * (1 - cost) - drifted
        return Order(trade, cost)

    def financing(self, position: np.ndarray) -> np.ndarray:
        """
        The financing of a bar: on what is borrowed beyond equity, and on what is sold short.

        :param position: share of equity that is held over the bar, shape (n,)
        :return: share of equity that is paid, shape (n,)
        """
        long = np.maximum(position - 1, 0)
        short = np.maximum(-position, 0)
        borrowed = long + short
        financing: np.ndarray = self.financing_rate * borrowed
        return financing

    def interest(self, position: np.ndarray) -> np.ndarray:
        """
        The interest of a bar on the equity that is not invested. The proceeds of a short earn none.

        :param position: share of equity that is held over the bar, shape (n,)
        :return: share of equity that is earned, shape (n,)
        """
        invested = np.maximum(position, 0)
        cash = np.maximum(1 - invested, 0)
        interest: np.ndarray = self.cash_rate * cash
        return interest

    def expected(self, target: float, ends: np.ndarray) -> np.ndarray:
        """
        The cost of a bar in a state that ends by chance. A stretch pays for one purchase and one sale, so a bar bears
        twice the fee and the slippage, times the probability that the stretch ends; also the financing of that bar and
        the interest that cash would have earned. Costs that count in currency are left out: they depend on the equity
        of the day.

        :param target: position that is held in the state
        :param ends: probability that each state has ended by the next bar, shape (S,)
        :return: costs in per cent of equity, shape (S,)
        """
        trading = self.trading

        # One purchase and one sale a stretch. 1 bp is 0.01 per cent.
        basis_points = trading.fee_bp + trading.slippage_bp
        turnover = 2 * abs(target) * ends * basis_points / 100

        # The financing of the bar, and the interest that the invested equity does not earn.
        long = max(target - 1, 0.0)
        short = max(-target, 0.0)
        financing = trading.financing_rate * (long + short)
        invested = min(max(target, 0.0), 1.0)
        rates = financing + trading.cash_rate * invested
        expected: np.ndarray = turnover + 100 * rates / self.bars_per_year
        return expected


@dataclass(frozen=True)
class CurrencyCosts:
    """
    The costs that count in currency or shares, for the orders of T closes.

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
        :param segments: traded segments, one symbol each; T is the sum of their bars
        :param costs: fees and rates, at least one of which counts in currency
        :param fills: per symbol, the fill prices of the orders of each close but the last
        :return: their costs
        :raises ValueError: if the impact needs a volume that is not there, or shares are too cheap for their fee
        """
        per_share = []
        impact = []
        for segment, fill in zip(segments, fills, strict=True):
            per_share.append(_per_share(segment, fill, costs))
            impact.append(_impact(segment, costs))

        # One symbol after the other.
        return cls(
            costs,
            np.concatenate(per_share),
            np.concatenate(impact),
        )

    def total(self, bar: np.ndarray, traded: np.ndarray, proportional: np.ndarray, equity: np.ndarray) -> np.ndarray:
        """
        The whole cost of orders. The least fee and the impact join the proportional costs.

        :param bar: close at which each order is given, counted over all segments, shape (n,)
        :param traded: value of each order as a share of equity, shape (n,)
        :param proportional: its costs in basis points and per share, as shares of equity, shape (n,)
        :param equity: equity at the fill, in starting equities, shape (n,)
        :return: all its costs, as shares of equity, at most 1, shape (n,)
        """
        assert self.costs.start_equity is not None
        currency = self.costs.start_equity * equity

        # The fee is at least the least fee, where there is an order at all.
        rate = self.costs.fee_bp / 1e4 + self.per_share[bar]
        fee = rate * traded
        is_order = traded > NO_ORDER
        least = np.where(is_order, self.costs.min_fee / currency, 0.0)
        missing_fee = np.maximum(least - fee, 0.0)

        # The impact grows with the square root of the order.
        value = traded * currency
        impact = self.impact[bar] * np.sqrt(value) * traded

        total: np.ndarray = proportional + missing_fee + impact
        return total.clip(max=1.0)


def _per_share(segment: Segment, fill: np.ndarray, costs: TradingCosts) -> np.ndarray:
    """Fee per share over the price of the fill, shape (T,)."""
    market = segment.market

    # Nothing follows the last bar.
    rate = np.append(costs.fee_per_share / fill, 0.0)

    # A whole position must cost less than its value.
    largest = max(abs(bound) for bound in costs.bounds)
    proportional = (costs.fee_bp + costs.slippage_bp) / 1e4
    whole = (rate + proportional) * largest
    takes_all = whole[segment.first : segment.last] >= 1

    if takes_all.any():
        bar = segment.first + int(np.argmax(takes_all))
        day = date_text(market.dates[bar])
        raise ValueError(
            f"fee_per_share={costs.fee_per_share:g} takes all equity of a trade in {market.symbol} at the "
            f"price {fill[bar]:g}, of an order given on {day}"
        )
    return rate


def impact_of(market: Market, coefficient: float) -> np.ndarray:
    """
    :param market: with a volume
    :param coefficient: ``market.trading.impact_coefficient``
    :return: cost of an order of each close that is worth 1, as a share of its value; infinite or NaN where the bar has
        no volume, shape (T,)
    :raises ValueError: if no bar has one
    """
    if market.volume is None:
        raise ValueError(f"{market.source} has no volume, which impact_coefficient needs")

    # The impact grows with a bar's volatility, and shrinks with the root of the value that it trades.
    volatility = market.volatility / 100 / np.sqrt(market.bars_per_year)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = market.volume * market.close
        impact: np.ndarray = coefficient * volatility / np.sqrt(value)
    return impact


def _impact(segment: Segment, costs: TradingCosts) -> np.ndarray:
    """Impact of an order worth 1, shape (T,)."""
    market = segment.market
    if not costs.impact_coefficient:
        return np.zeros(len(market.close))
    impact = impact_of(market, costs.impact_coefficient)

    # Bars at which no order is given may lack a volume.
    is_finite = np.isfinite(impact)
    if not is_finite[segment.first : segment.last].all():
        raise ValueError(
            f"{market.source} has bars of {market.symbol} without a volume, which impact_coefficient needs"
        )
    return np.where(is_finite, impact, 0.0)
