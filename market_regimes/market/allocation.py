"""
From the targets of K symbols to the weights of one account.

At a close ``Allocation.desired`` says which weights are wanted, and where no order is given. At the fill
``Allocation.project`` cuts them to the limits. A holding that cannot be traded takes its room first, then one without an
order; the orders share what is left. A cut only brings weights nearer to 0, so that a cut weight stays within the
limits that hold already.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from market_regimes.config import PortfolioConfig, TradingCosts
from market_regimes.market.regimes import decay_of, memory_of
from market_regimes.market.segments import Segment
from market_regimes.prices.bar_length import Calendar

LIMITS = ("weight", "group", "net", "gross", "volatility")
TOLERANCE = 1e-12  # share of equity by which rounding may exceed a limit


@dataclass(frozen=True)
class PastRisk:
    """
    EWMA volatilities and correlations of K symbols, as they are known at the close before each of R rows, and at that of
    the last one, which is the close before row R.

    The portfolio's variance is the EWMA of its squared returns over the last M rows of the calendar. Each symbol's
    returns are scaled to its EWMA volatility, so that one listed lately counts with its whole volatility.

    :param volatility: annualised, as a share, NaN where it is unknown, shape (R + 1, K)
    :param returns: simple, close to close, 0 without a bar, M rows of 0 first, shape (M + C, K)
    :param stop: end of the M returns that are known before each row, a position in ``returns``, shape (R + 1,)
    :param share: square root of the weight of each of M returns, the newest last, shape (M,)
    """

    volatility: np.ndarray
    returns: np.ndarray
    stop: np.ndarray
    share: np.ndarray

    @classmethod
    def of(cls, segments: Sequence[Segment], stamps: np.ndarray) -> PastRisk:
        """
        :param segments: what is traded
        :param stamps: times of the account's rows, datetime64[s], shape (R,)
        """
        markets = [segment.market for segment in segments]
        calendar = Calendar.of([market.dates for market in markets], [market.instants for market in markets])
        rows = np.searchsorted(calendar.stamps, stamps)
        decisions = np.concatenate([rows[:1] - 1, rows])

        # EWMA weights, cut where they no longer count.
        rows_per_year = markets[0].account_rows_per_year
        memory = memory_of(rows_per_year)
        weights = decay_of(rows_per_year) ** np.arange(memory)[::-1]
        share = np.sqrt(weights / weights.sum())

        volatility = np.full((len(decisions), len(markets)), np.nan)
        returns = np.zeros((memory + len(calendar.stamps), len(markets)))
        for k, (market, row) in enumerate(zip(markets, calendar.rows, strict=True)):
            known = np.searchsorted(row, decisions, side="right") - 1
            volatility[:, k] = np.where(known >= 0, market.volatility[known.clip(0)] / 100, np.nan)
            log_growth = np.bincount(row[1:], np.diff(np.log(market.close)), minlength=len(calendar.stamps))
            returns[memory:, k] = np.expm1(log_growth)
        return cls(volatility, returns, decisions + 1 + memory, share)

    def factors(self, row: np.ndarray) -> np.ndarray:
        """
        :param row: of each account, shape (n,)
        :return: F such that weights w have the annualised volatility |F w|, as a share, shape (n, M, K)
        """
        memory = len(self.share)
        windows = np.lib.stride_tricks.sliding_window_view(self.returns, memory, axis=0)
        recent = windows[self.stop[row] - memory].transpose(0, 2, 1) * self.share[:, None]
        size = np.sqrt((recent**2).sum(axis=1, keepdims=True))
        volatility = np.nan_to_num(self.volatility[row])[:, None]
        scaled: np.ndarray = np.divide(recent, size, out=np.zeros_like(recent), where=size > 0) * volatility
        return scaled


@dataclass
class Projection:
    """
    Weights of n accounts that keep the limits.

    :param weights: shares of equity, shape (n, K)
    :param traded: which of them an order brings about, shape (n, K)
    :param bound: whether each limit cut, by its name, shapes (n,)
    """

    weights: np.ndarray
    traded: np.ndarray
    bound: dict[str, np.ndarray]


class Allocation:
    """
    Which weights the targets of K symbols become.

    :param config: limits and allocator
    :param symbols: names, in the order of the columns
    :param costs: what may be held, where the limits say nothing
    :param risk: EWMA volatilities, which ``volatility_limit`` and ``allocator=equal_risk`` need
    :raises ValueError: if limits contradict each other or what may be held, name unknown symbols, or need ``risk``
    """

    def __init__(
        self,
        config: PortfolioConfig,
        symbols: Sequence[str],
        costs: TradingCosts,
        risk: PastRisk | None = None,
    ):
        self.config = config
        self.symbols = list(symbols)
        self.risk = risk

        # What the limits leave out follows from what one symbol may hold.
        low, high = costs.bounds
        self.low = low if config.weight_min is None else config.weight_min
        self.high = high if config.weight_max is None else config.weight_max
        self.gross = max(-low, high) if config.gross is None else config.gross
        self.net = self.gross if config.net is None else config.net
        if self.low > self.high:
            raise ValueError(
                f"market.portfolio.weight_min={self.low:g} exceeds market.portfolio.weight_max={self.high:g}"
            )
        if self.net > self.gross:
            raise ValueError(f"market.portfolio.net={self.net:g} exceeds market.portfolio.gross={self.gross:g}")
        needs_risk = config.volatility_limit is not None or config.allocator == "equal_risk"
        if needs_risk and risk is None:
            key = "allocator" if config.volatility_limit is None else "volatility_limit"
            raise ValueError(f"market.portfolio.{key} needs the past returns of the symbols")

        # Which symbol is in which group, (K, G), and the alphabet, which decides between equal targets.
        unknown = sorted(config.groups.keys() - set(self.symbols))
        if unknown:
            raise ValueError(
                f"market.portfolio.groups names {unknown[0]}, and the symbols are {', '.join(self.symbols)}"
            )
        names = list(config.group_max)
        self.caps = np.array([config.group_max[name] for name in names])
        self.members = np.array(
            [[float(config.groups.get(symbol) == name) for name in names] for symbol in self.symbols]
        ).reshape(len(self.symbols), len(names))
        self.alphabet = np.argsort(np.argsort(self.symbols))

    def desired(
        self, targets: np.ndarray, row: np.ndarray, held: np.ndarray, age: np.ndarray, since_trade: np.ndarray
    ) -> np.ndarray:
        """
        What is wanted at a close.

        :param targets: of each symbol, NaN: no order, shape (n, K)
        :param row: that the orders are for, shape (n,)
        :param held: weights, shape (n, K)
        :param age: rows since each account began, shape (n,)
        :param since_trade: rows since each symbol was traded, shape (n, K)
        :return: weights that are wanted, NaN: no order, shape (n, K)
        """
        config = self.config
        desired = targets
        if config.top_k is not None:
            desired = self._largest(desired, held)
        if config.allocator == "equal_risk":
            desired = self._by_risk(desired, row)
        if config.rebalance_every > 1:
            waits = age % config.rebalance_every != 0
            desired = np.where(waits[:, None], np.nan, desired)
        if config.minimum_holding > 1:
            desired = np.where(since_trade < config.minimum_holding, np.nan, desired)
        return desired

    def outside_band(self, desired: np.ndarray, held: np.ndarray, tradable: np.ndarray, row: np.ndarray) -> np.ndarray:
        """
        Orders within the no-trade band are not given, but those that close a position.

        :param desired: weights that are wanted, NaN: no order, shape (n, K)
        :param held: weights at the fill, shape (n, K)
        :param tradable: whose orders are filled, shape (n, K)
        :param row: of each account, shape (n,)
        :return: weights that are wanted, NaN: no order, shape (n, K)
        """
        band = self.config.no_trade_band
        if band == 0:
            return desired
        weights = self.project(desired, held, tradable, row).weights
        small = (np.abs(weights - held) <= band) & (desired != 0)
        return np.where(small, np.nan, desired)

    def project(self, desired: np.ndarray, held: np.ndarray, tradable: np.ndarray, row: np.ndarray) -> Projection:
        """
        Cut what is wanted to the limits, one after the other: weight of a symbol, groups, net, gross, volatility.

        :param desired: weights that are wanted, NaN: no order, shape (n, K)
        :param held: weights at the fill, shape (n, K)
        :param tradable: whose orders are filled, shape (n, K)
        :param row: of each account, shape (n,)
        :return: weights within the limits, where the holdings that cannot be traded alone are within them
        """
        ordered = tradable & ~np.isnan(desired)
        wanted = np.where(ordered, desired, held)
        clipped = np.minimum(np.maximum(wanted, self.low), self.high)
        weights = clipped if tradable.all() else np.where(tradable, clipped, held)
        bound = {"weight": (np.abs(weights - wanted) > TOLERANCE).any(axis=1)}

        # The orders make room first, then the holdings without one. Those may have balanced the orders, so that in the
        # end both make room together.
        kept = tradable & ~ordered
        factors = None if self.config.volatility_limit is None or self.risk is None else self.risk.factors(row)
        weights = self._within(weights, ordered, factors, bound)
        if kept.any():
            before = weights
            weights = self._within(weights, kept, factors, bound)
            if (weights != before).any():
                weights = self._within(weights, tradable, factors, bound)
        traded = ordered | (kept & (weights != held))
        return Projection(weights, traded, bound)

    def _within(
        self, weights: np.ndarray, movable: np.ndarray, factors: np.ndarray | None, bound: dict[str, np.ndarray]
    ) -> np.ndarray:
        """
        :param weights: shape (n, K)
        :param movable: which of them may be cut, shape (n, K)
        :param factors: of the volatility, shape (n, M, K), None: it has no limit
        :param bound: gains which limits cut
        :return: weights that are nearer to 0 where a limit asks for it, shape (n, K)
        """
        scales = {}
        if len(self.caps):
            scale = self._scale_of_groups(weights, movable)
            weights = weights * scale
            scales["group"] = scale
        if self.net < self.gross:
            scale = self._scale_of_net(weights, movable)
            weights = weights * scale
            scales["net"] = scale

        scale = _scale(np.abs(weights), movable, self.gross)
        if scale is not None:
            weights = np.where(movable, weights * scale[:, None], weights)
            scales["gross"] = scale[:, None]
        if factors is not None:
            scale = self._scale_of_volatility(weights, movable, factors)
            weights = np.where(movable, weights * scale[:, None], weights)
            scales["volatility"] = scale[:, None]
        for name, factor in scales.items():
            bound[name] = bound.get(name, False) | (factor < 1).any(axis=1)
        return weights

    def _scale_of_groups(self, weights: np.ndarray, movable: np.ndarray) -> np.ndarray:
        """Factor of each weight that keeps the sums of the groups, shape (n, K)."""
        size = np.abs(weights)
        total = size @ self.members
        moving = np.where(movable, size, 0.0) @ self.members
        excess = total - self.caps
        scale = _left(excess, moving)
        in_group = self.members.any(axis=1)
        return np.where(movable & in_group, scale @ self.members.T, 1.0)

    def _scale_of_net(self, weights: np.ndarray, movable: np.ndarray) -> np.ndarray:
        """Factor of each weight that keeps the net sum: the larger side is cut, shape (n, K)."""
        total = weights.sum(axis=1)
        on_side = movable & (weights * np.sign(total)[:, None] > 0)
        moving = np.where(on_side, np.abs(weights), 0.0).sum(axis=1)
        scale = _left(np.abs(total) - self.net, moving)
        return np.where(on_side, scale[:, None], 1.0)

    def _scale_of_volatility(self, weights: np.ndarray, movable: np.ndarray, factors: np.ndarray) -> np.ndarray:
        """
        Factor s of the movable weights m beside the rest r: the largest at which |F (s m + r)| keeps the limit, so a
        root of a s^2 + 2 b s + c, shape (n,).
        """
        assert self.config.volatility_limit is not None
        limit = self.config.volatility_limit / 100
        moving = (factors @ np.where(movable, weights, 0.0)[:, :, None])[:, :, 0]
        resting = (factors @ np.where(movable, 0.0, weights)[:, :, None])[:, :, 0]
        a = (moving**2).sum(axis=1)
        b = (moving * resting).sum(axis=1)
        c = (resting**2).sum(axis=1) - limit**2

        exceeded = np.sqrt(a + 2 * b + c + limit**2) > limit * (1 + TOLERANCE)
        discriminant = np.sqrt(np.maximum(b**2 - a * c, 0.0))
        root = np.divide(discriminant - b, a, out=np.zeros_like(a), where=a > 0)
        attainable = b**2 >= a * c
        return np.where(exceeded, np.where(attainable, root, 0.0).clip(0.0, 1.0), 1.0)

    def _largest(self, targets: np.ndarray, held: np.ndarray) -> np.ndarray:
        """
        Of the targets the largest, as many as ``top_k`` leaves beside holdings without an order. Between equal targets
        the larger holding decides, then the alphabet.
        """
        assert self.config.top_k is not None
        order_given = ~np.isnan(targets)
        places = self.config.top_k - (~order_given & (held != 0)).sum(axis=1)
        alphabet = np.broadcast_to(self.alphabet, targets.shape)
        size = np.abs(np.nan_to_num(targets))
        best_first = np.lexsort((alphabet, -np.abs(held), -size, ~order_given), axis=1)
        place = np.argsort(best_first, axis=1)
        return np.where(order_given & (place >= places[:, None]), 0.0, targets)

    def _by_risk(self, targets: np.ndarray, row: np.ndarray) -> np.ndarray:
        """The sum of the targets, up to ``gross``, in inverse proportion to the volatilities."""
        assert self.risk is not None
        volatility = self.risk.volatility[row]
        inverse = np.divide(1.0, volatility, out=np.zeros_like(volatility), where=volatility > 0)
        size = np.abs(np.nan_to_num(targets))
        budget = np.minimum(size.sum(axis=1), self.gross)
        weights = size * inverse
        total = weights.sum(axis=1)
        shares = np.divide(weights, total[:, None], out=np.zeros_like(weights), where=total[:, None] > 0)
        return np.where(np.isnan(targets), np.nan, np.sign(targets) * shares * budget[:, None])


def _left(excess: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """Share of ``moving`` that remains once ``excess`` is taken from it, 1 where nothing is in excess."""
    share = 1 - np.divide(excess, moving, out=np.ones_like(moving), where=moving > 0)
    return np.where(excess > TOLERANCE, share.clip(0.0, 1.0), 1.0)


def _scale(size: np.ndarray, movable: np.ndarray, limit: float) -> np.ndarray | None:
    """Factor of the movable weights that keeps the sum of all sizes, shape (n,); None: no account exceeds it."""
    excess = size.sum(axis=1) - limit
    if not (excess > TOLERANCE).any():
        return None
    return _left(excess, np.where(movable, size, 0.0).sum(axis=1))
