"""Questions to a finished agent: what it would earn at other costs, at another fill, with orders filled later."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from market_regimes.config import MAX_BASIS_POINTS, ArgumentError, TradingCosts
from market_regimes.market.segment import Segment

FILLS = ("next_open", "close", "next_close")


@dataclass(frozen=True)
class Question:
    """
    A question states some of the conditions of trading; those it leaves out stay as the run has them.

    :param fee: in basis points of the traded value, None: the run's
    :param slippage: in basis points of the traded value, None: the run's
    :param fill: "next_open": at the next bar's open; "close": at the close just seen; "next_close": at the close of the
        next bar; None: as the run fills
    :param delay: bars by which every order is filled later than that
    :param costs: fee and slippage together, in basis points, at which the same decisions are filled (``CostCurve``)
    :raises ArgumentError: if a cost, the fill or the delay makes no sense
    """

    fee: float | None = None
    slippage: float | None = None
    fill: Literal["next_open", "close", "next_close"] | None = None
    delay: int = 0
    costs: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        self._check_cost("fee", self.fee)
        self._check_cost("slippage", self.slippage)
        for cost in self.costs:
            self._check_cost("costs", cost)
        if self.fill is not None and self.fill not in FILLS:
            raise ArgumentError(lambda name: f"{name('fill')}={self.fill} must be one of {', '.join(FILLS)}")
        if self.delay < 0:
            raise ArgumentError(
                lambda name: f"{name('delay')}={self.delay}: no order is filled before its decision; nearest: 0"
            )

    def _check_cost(self, argument: str, cost: float | None) -> None:
        """Refuse a cost that an order cannot have, with the nearest that it can."""
        if cost is None or 0 <= cost < MAX_BASIS_POINTS:
            return
        nearest = "0"
        if cost >= MAX_BASIS_POINTS:
            nearest = f"{MAX_BASIS_POINTS - 1}"
        if math.isnan(cost):
            nearest = "1"
        raise ArgumentError(
            lambda name: (
                f"{name(argument)}={cost:g} must be basis points of the traded value, at least 0 and below "
                f"{MAX_BASIS_POINTS}; nearest: {nearest}"
            )
        )

    @property
    def is_asked(self) -> bool:
        """Whether any condition is stated."""
        return self != AS_TRAINED

    @property
    def bars_later(self) -> int:
        """Bars by which orders are filled after the fill of ``trading``: the next close is one after the close seen."""
        if self.fill == "next_close":
            return self.delay + 1
        return self.delay

    @property
    def name(self) -> str:
        """What is asked, fit for a file's name: fee-5-slippage-2-fill-next_close-delay-1."""
        words = [f"{key}-{value}" for key, value in self._stated.items()]
        return "-".join(words)

    def name_of(self, period: str) -> str:
        """
        :param period: name of what is evaluated
        :return: its name with the conditions, so that no answer overwrites the run's evaluation
        """
        if not self.is_asked:
            return period
        return f"{period}-{self.name}"

    @property
    def sentence(self) -> str:
        """What is asked, as the heading of an answer."""
        texts = {
            "fee": "a fee of {} bp",
            "slippage": "slippage of {} bp",
            "fill": "orders filled at the {}",
            "delay": "every order {} bar(s) later",
        }
        stated = self._stated
        words = [texts[key].format(stated[key].replace("_", " ")) for key in texts if key in stated]

        # Conditions hold for all, and the costs of a curve for two.
        parts = []
        if words:
            parts.append(f"{', '.join(words)}; all strategies trade so")
        if self.costs:
            costs = ", ".join(f"{cost:g}" for cost in self.costs)
            parts.append(f"the agent's decisions and buy-and-hold's at costs of {costs} bp")
        return f"asked of the finished run: {'; '.join(parts)}"

    @property
    def _stated(self) -> dict[str, str]:
        """The stated conditions as text."""
        stated = {}
        for key, value in self.to_json().items():
            is_number = isinstance(value, int | float)
            is_left_out = value is None or (key == "delay" and not value)
            if key == "costs":
                stated[key] = "-".join(f"{cost:g}" for cost in value)
            elif not is_left_out:
                stated[key] = f"{value:g}" if is_number else str(value)
        return stated

    def to_json(self) -> dict[str, Any]:
        """:return: the conditions by name, None: as the run has them"""
        conditions = asdict(self)
        if not self.costs:
            del conditions["costs"]
        return conditions

    def trading(self, trading: TradingCosts, segments: Sequence[Segment]) -> TradingCosts:
        """
        :param trading: of the run
        :param segments: to be traded
        :return: the stated costs and fill in place of the run's; the orders are ``bars_later`` than that
        :raises ArgumentError: if the data have no opening prices to fill at, or fewer bars than the delay
        :raises ValueError: if the costs take 100 % of a trade
        """
        self._check_bars(segments)

        # The costs.
        costs = trading
        if self.fee is not None:
            costs = replace(costs, fee_bp=self.fee)
        if self.slippage is not None:
            costs = replace(costs, slippage_bp=self.slippage)

        # The fill. The next close is the close just seen, one bar later.
        if self.fill is None:
            return costs
        return replace(costs, fill="next_open" if self.fill == "next_open" else "close")

    def _check_bars(self, segments: Sequence[Segment]) -> None:
        """Refuse a fill that the bars do not have."""
        closes_only = [segment.market.source for segment in segments if segment.market.fill == "close"]
        if self.fill == "next_open" and closes_only:
            raise ArgumentError(
                lambda name: (
                    f"{name('fill')}=next_open: {closes_only[0]} has no opening prices; "
                    f"nearest: {name('fill')}=next_close"
                )
            )

        # Some order of each symbol must be filled.
        shortest = min(segments, key=lambda segment: segment.last - segment.first)
        fewest = shortest.last - shortest.first
        most = self.delay - self.bars_later + fewest - 1
        if self.delay > most:
            raise ArgumentError(
                lambda name: (
                    f"{name('delay')}={self.delay}: {shortest.market.symbol} has {fewest} bars; nearest: {max(most, 0)}"
                )
            )


AS_TRAINED = Question()
