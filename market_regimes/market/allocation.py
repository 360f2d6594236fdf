"""
From the targets of K symbols to the weights of one account.

At a close ``Allocation.desired`` says which weights are wanted, and where no order is given. At the fill
``Allocation.project`` cuts them to the limits. A holding that cannot be traded takes its room first, then a holding
without an order; the orders share what is left. A cut only brings weights nearer to 0, so that a cut weight stays
within the limits that hold already.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from market_regimes.config import PortfolioConfig, TradingCosts
from market_regimes.market.market import Market
from market_regimes.market.regimes import decay_of, memory_of
from market_regimes.market.segment import Segment
from market_regimes.prices import Calendar

TOLERANCE = 1e-12  # share of equity by which rounding may exceed a limit


def check_groups(config: PortfolioConfig, symbols: Sequence[str]) -> None:
    """
    :param config: its groups are those that a user wrote for a training
    :param symbols: names of all symbols of the data
    :raises ValueError: if a group has a symbol that the data lack, with the nearest name
    """
    for symbol in config.groups:
        if symbol in symbols:
            continue
        raise ValueError(f"market.portfolio.groups names {symbol}, which the data lack: {nearest(symbol, symbols)}")


def nearest(name: str, symbols: Sequence[str]) -> str:
    """
    :param name: that no symbol has
    :param symbols: names of symbols
    :return: the end of a sentence: the symbol that is nearest to the name in any case of its letters, or all symbols
    """
    by_capitals = {symbol.upper(): symbol for symbol in symbols}
    near = difflib.get_close_matches(name.upper(), by_capitals, n=1)
    if near:
        return f"{by_capitals[near[0]]} is nearest"
    return f"the symbols are {', '.join(symbols)}"


@dataclass(frozen=True)
class PastRisk:
    """
    EWMA volatilities and correlations of K symbols, as they are known at the close before each of R rows. Row R is the
    one after the last, whose orders are given at the last close.

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
        dates = [market.dates for market in markets]
        instants = [market.instants for market in markets]
        calendar = Calendar.of(dates, instants)

        # Each row is decided at the close of the one before, the first at that of the row before it in the calendar.
        rows = np.searchsorted(calendar.stamps, stamps)
        decisions = np.concatenate([rows[:1] - 1, rows])

        # EWMA weights, cut where they no longer count.
        rows_per_year = markets[0].account_rows_per_year
        memory = memory_of(rows_per_year)
        decay = decay_of(rows_per_year)
        weights = decay ** np.arange(memory)[::-1]
        share = np.sqrt(weights / weights.sum())

        # The past of each symbol.
        count = len(calendar.stamps)
        returns = np.zeros((memory + count, len(markets)))
        volatility = np.full((len(decisions), len(markets)), np.nan)
        for k, market in enumerate(markets):
            row_of_bar = calendar.rows[k]
            volatility[:, k] = _volatility_at(market, row_of_bar, decisions)
            returns[memory:, k] = _returns_of_rows(market, row_of_bar, count)
        return cls(volatility, returns, decisions + 1 + memory, share)

    def factors(self, row: np.ndarray) -> np.ndarray:
        """
        :param row: of each account, shape (n,)
        :return: F such that weights w have the annualised volatility |F w|, as a share, shape (n, M, K)
        """
        # The past returns, weighted.
        memory = len(self.share)
        windows = np.lib.stride_tricks.sliding_window_view(self.returns, memory, axis=0)
        first = self.stop[row] - memory
        recent = windows[first].transpose(0, 2, 1)
        weighted = recent * self.share[:, None]

        # Each symbol's column gets the length of its volatility.
        length = np.sqrt((weighted**2).sum(axis=1, keepdims=True))
        moves = length > 0
        direction = np.divide(weighted, length, out=np.zeros_like(weighted), where=moves)
        volatility = np.nan_to_num(self.volatility[row])
        scaled: np.ndarray = direction * volatility[:, None]
        return scaled


def _volatility_at(market: Market, row_of_bar: np.ndarray, decisions: np.ndarray) -> np.ndarray:
    """
    :param market: of one symbol
    :param row_of_bar: row of the calendar of each bar, shape (T,)
    :param decisions: rows of the calendar, shape (D,)
    :return: the EWMA volatility as a share at the last bar up to each decision, NaN before the first, shape (D,)
    """
    last_bar = np.searchsorted(row_of_bar, decisions, side="right") - 1
    volatility = market.volatility[last_bar.clip(0)] / 100
    return np.where(last_bar >= 0, volatility, np.nan)


def _returns_of_rows(market: Market, row_of_bar: np.ndarray, rows: int) -> np.ndarray:
    """
    :param market: of one symbol
    :param row_of_bar: row of the calendar of each bar, shape (T,)
    :param rows: of the calendar
    :return: simple return of each row, in which two bars compound, 0 without a bar, shape (rows,)
    """
    growth = np.diff(np.log(market.close))
    of_rows = np.bincount(row_of_bar[1:], growth, minlength=rows)
    returns: np.ndarray = np.expm1(of_rows)
    return returns


@dataclass(frozen=True)
class Bounds:
    """
    The limits of weights that hold for every account, in shares of equity.

    :param low: smallest weight of a symbol
    :param high: largest weight of a symbol
    :param gross: largest sum of the weights without their signs
    :param net: largest difference between long and short weights
    """

    low: float
    high: float
    gross: float
    net: float

    @classmethod
    def of(cls, config: PortfolioConfig, costs: TradingCosts) -> Bounds:
        """
        :param config: limits; what they leave out follows from what one symbol may hold
        :param costs: what one symbol may hold
        :raises ValueError: if limits contradict each other or what may be held
        """
        low, high = costs.bounds
        gross = max(-low, high)
        if config.weight_min is not None:
            low = config.weight_min
        if config.weight_max is not None:
            high = config.weight_max
        if low > high:
            raise ValueError(f"market.portfolio.weight_min={low:g} exceeds market.portfolio.weight_max={high:g}")

        # The account as a whole.
        if config.gross is not None:
            gross = config.gross
        net = gross
        if config.net is not None:
            net = config.net
        if net > gross:
            raise ValueError(f"market.portfolio.net={net:g} exceeds market.portfolio.gross={gross:g}")
        return cls(low, high, gross, net)


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
    :param symbols: names, in the order of the columns. ``groups`` may name more symbols than these
    :param costs: what may be held, where the limits say nothing
    :param risk: EWMA volatilities, which ``volatility_limit`` and ``allocator=equal_risk`` need
    :raises ValueError: if limits contradict each other or what may be held, or need ``risk``
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
        self.bounds = Bounds.of(config, costs)
        self._check_risk()

        # Which symbol is in which group, 1 or 0, shape (K, G).
        names = list(config.group_max)
        self.members = np.zeros((len(self.symbols), len(names)))
        for k, symbol in enumerate(self.symbols):
            group = config.groups.get(symbol)
            if group is not None:
                self.members[k, names.index(group)] = 1.0
        self.in_group = self.members.any(axis=1)
        self.caps = np.array([config.group_max[name] for name in names])

        # The alphabet decides between equal targets.
        self.alphabet = np.argsort(np.argsort(self.symbols))

    def _check_risk(self) -> None:
        """:raises ValueError: if a limit or the allocator lacks the volatilities that it measures"""
        if self.risk is not None:
            return
        if self.config.volatility_limit is not None:
            raise ValueError("market.portfolio.volatility_limit needs the past returns of the symbols")
        if self.config.allocator == "equal_risk":
            raise ValueError("market.portfolio.allocator=equal_risk needs the past returns of the symbols")

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
        kept = tradable & ~ordered

        # The weight of a symbol.
        bounds = self.bounds
        wanted = np.where(ordered, desired, held)
        clipped = np.minimum(np.maximum(wanted, bounds.low), bounds.high)
        weights = np.where(tradable, clipped, held)
        cut = np.abs(weights - wanted) > TOLERANCE
        bound = {"weight": np.logical_or.reduce(cut, axis=1)}

        # The orders make room first, then the holdings without one.
        factors = self._factors(row)
        weights, cuts = self._within(weights, ordered, factors)
        bound |= cuts
        if not any_of(kept):
            return Projection(weights, ordered, bound)
        before = weights
        weights, cuts = self._within(weights, kept, factors)
        bound = _either(bound, cuts)

        # Those may have balanced the orders, so that in such an account both make room together.
        has_changed = np.logical_or.reduce(weights != before, axis=1)
        if any_of(has_changed):
            movable = tradable & has_changed[:, None]
            weights, cuts = self._within(weights, movable, factors)
            bound = _either(bound, cuts)
        traded = ordered | (kept & (weights != held))
        return Projection(weights, traded, bound)

    def _factors(self, row: np.ndarray) -> np.ndarray | None:
        """Factors of the volatility, None: it has no limit."""
        if self.config.volatility_limit is None:
            return None
        assert self.risk is not None
        return self.risk.factors(row)

    def _within(
        self,
        weights: np.ndarray,
        movable: np.ndarray,
        factors: np.ndarray | None,
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """
        :param weights: shape (n, K)
        :param movable: which of them may be cut, shape (n, K)
        :param factors: of the volatility, shape (n, M, K), None: it has no limit
        :return: weights that are nearer to 0 where a limit asks for it, shape (n, K); whether each limit cut, by its
            name, shapes (n,)
        """
        cuts: dict[str, np.ndarray] = {}
        if len(self.caps):
            scale = self._scale_of_groups(weights, movable)
            weights = weights * scale
            cuts["group"] = np.logical_or.reduce(scale < 1, axis=1)

        if self.bounds.net < self.bounds.gross:
            weights, cuts["net"] = self._within_net(weights, movable)

        size = np.abs(weights)
        excess = np.add.reduce(size, axis=1) - self.bounds.gross
        if any_of(excess > TOLERANCE):
            moving = np.add.reduce(np.where(movable, size, 0.0), axis=1)
            weights, cuts["gross"] = _scaled(weights, movable, _left(excess, moving))

        if factors is not None:
            scale = self._scale_of_volatility(weights, movable, factors)
            weights, cuts["volatility"] = _scaled(weights, movable, scale)
        return weights, cuts

    def _scale_of_groups(self, weights: np.ndarray, movable: np.ndarray) -> np.ndarray:
        """Factor of each weight that keeps the sums of the groups, shape (n, K)."""
        size = np.abs(weights)
        total = size @ self.members
        moving = np.where(movable, size, 0.0) @ self.members
        scale = _left(total - self.caps, moving)

        # From groups to their symbols.
        of_symbols = scale @ self.members.T
        return np.where(movable & self.in_group, of_symbols, 1.0)

    def _within_net(self, weights: np.ndarray, movable: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weights that keep the net sum, shape (n, K): the larger side is cut; whether it was cut, shape (n,)."""
        total = np.add.reduce(weights, axis=1)
        side = np.sign(total)
        on_side = movable & (weights * side[:, None] > 0)

        size = np.where(on_side, np.abs(weights), 0.0)
        moving = np.add.reduce(size, axis=1)
        scale = _left(np.abs(total) - self.bounds.net, moving)
        return _scaled(weights, on_side, scale)

    def _scale_of_volatility(self, weights: np.ndarray, movable: np.ndarray, factors: np.ndarray) -> np.ndarray:
        """
        Factor s of the movable weights m beside the rest r: the largest at which |F (s m + r)| keeps the limit, so a
        root of a s^2 + 2 b s + c, shape (n,).
        """
        assert self.config.volatility_limit is not None
        limit = self.config.volatility_limit / 100

        # Past returns of both parts, (n, M).
        of_movable = np.where(movable, weights, 0.0)
        of_rest = np.where(movable, 0.0, weights)
        moving = np.einsum("nmk,nk->nm", factors, of_movable)
        resting = np.einsum("nmk,nk->nm", factors, of_rest)

        # The quadratic equation.
        a = (moving**2).sum(axis=1)
        b = (moving * resting).sum(axis=1)
        variance_of_rest = (resting**2).sum(axis=1)
        c = variance_of_rest - limit**2
        discriminant = b**2 - a * c
        numerator = np.sqrt(np.maximum(discriminant, 0.0)) - b
        root = np.divide(numerator, a, out=np.zeros_like(a), where=a > 0)

        # Where no factor keeps the limit, the movable part goes.
        attainable = np.where(discriminant >= 0, root.clip(0.0, 1.0), 0.0)
        variance = np.maximum(a + 2 * b + variance_of_rest, 0.0)
        exceeds = np.sqrt(variance) > limit * (1 + TOLERANCE)
        return np.where(exceeds & (a > 0), attainable, 1.0)

    def _largest(self, targets: np.ndarray, held: np.ndarray) -> np.ndarray:
        """
        Of the targets the largest, as many as ``top_k`` leaves beside holdings without an order. Between equal targets
        the larger holding decides, then the alphabet.
        """
        assert self.config.top_k is not None
        has_order = ~np.isnan(targets)
        is_kept = ~has_order & (held != 0)
        places = self.config.top_k - is_kept.sum(axis=1)

        # The last key of ``lexsort`` comes first.
        size = np.abs(np.nan_to_num(targets))
        alphabet = np.broadcast_to(self.alphabet, targets.shape)
        keys = (alphabet, -np.abs(held), -size, ~has_order)
        best_first = np.lexsort(keys, axis=1)

        place = np.argsort(best_first, axis=1)
        is_too_small = has_order & (place >= places[:, None])
        return np.where(is_too_small, 0.0, targets)

    def _by_risk(self, targets: np.ndarray, row: np.ndarray) -> np.ndarray:
        """The sum of the targets, up to ``gross``, in inverse proportion to the volatilities."""
        assert self.risk is not None
        volatility = self.risk.volatility[row]
        is_usable = volatility > 0
        inverse = np.divide(1.0, volatility, out=np.zeros_like(volatility), where=is_usable)

        # The budget, and the part of each symbol.
        size = np.abs(np.nan_to_num(targets))
        budget = np.minimum(size.sum(axis=1), self.bounds.gross)
        parts = size * inverse
        total = parts.sum(axis=1, keepdims=True)
        share = np.divide(parts, total, out=np.zeros_like(parts), where=total > 0)

        weights = np.sign(targets) * share * budget[:, None]
        return np.where(np.isnan(targets), np.nan, weights)


def any_of(mask: np.ndarray) -> bool:
    """Whether any entry of a mask is true; several times as fast as ``mask.any()`` where arrays are small."""
    return bool(np.count_nonzero(mask))


def _scaled(weights: np.ndarray, movable: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    :param weights: shape (n, K)
    :param movable: which of them may be cut, shape (n, K)
    :param scale: factor of each account's movable weights, shape (n,)
    :return: the weights cut, shape (n, K), and whether each account's were, shape (n,)
    """
    factor = np.where(movable, scale[:, None], 1.0)
    return weights * factor, scale < 1


def _either(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Whether each limit cut in one of two passes, by its name, shapes (n,)."""
    either = dict(first)
    for name, cuts in second.items():
        if name in first:
            cuts = cuts | first[name]
        either[name] = cuts
    return either


def _left(excess: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """Share of ``moving`` that remains once ``excess`` is taken from it, 1 where nothing moves or is in excess."""
    is_cut = (excess > TOLERANCE) & (moving > 0)
    taken = np.divide(excess, moving, out=np.zeros_like(moving), where=is_cut)
    remains: np.ndarray = np.maximum(1 - taken, 0.0)
    return remains
