"""
One account that holds K symbols and shares its cash among them, n copies of it stepped at once in numpy.

A row of the account is a period of the bars (``Calendar``). At the close of a row the account is given a target weight
for each symbol. Its orders are filled at the next row's open (or at the close just seen, by option); until then the old
weights drift with the prices. With one symbol the figures are those of ``MarketCore``, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from market_regimes.config import TradingCosts
from market_regimes.market.allocation import Allocation, any_of
from market_regimes.market.costs import CurrencyCosts
from market_regimes.market.environment import REWARD_SCALE, RUIN_EQUITY
from market_regimes.market.market import fills_at_open, prices_of_fills
from market_regimes.market.segment import Segment
from market_regimes.prices import Calendar

LEAST_EQUITY = 1e-9  # floor of an equity within a row, as of ``MarketCore``
MAX_ROUNDS = 50  # of limits that depend on the costs of the orders which they cut
CONVERGED = 1e-16  # share of equity by which costs may still change
NO_BAR = -1
LONG_AGO = 10**9  # rows since a trade that never was


@dataclass(frozen=True)
class Quotes:
    """
    Prices of K symbols on the R rows of an account. A row is one step: from the close of the row before to its own.

    :param symbols: names, in the order of the columns
    :param stamps: time of each row, datetime64[s], shape (R,)
    :param listed: whether a symbol may be held in a row: from its first order to its last bar, shape (R, K)
    :param tradable: whether an order given before the row is filled, shape (R, K)
    :param before_fill: simple return from the close before to the fill, 0 without a bar, shape (R, K)
    :param after_fill: simple return from the fill to the close, 0 without a bar, shape (R, K)
    :param fill_price: of an order, NaN where none is filled, shape (R, K)
    :param close: last close up to the row, NaN before the first, shape (R, K)
    :param last_bar: bar of that close in its market, ``NO_BAR`` before the first, shape (R, K)
    :param order_bar: bar at whose close the row's order is given, in its market, ``NO_BAR`` before the first, (R, K)
    :param rate: proportional cost of an order as a share of its value, fees per share included, shape (R, K)
    :param offset: position of each symbol's first bar among those of all, shape (K,)
    :param in_currency: costs that count in currency, None: there are none
    :param at_open: whether orders are filled at the open
    :param rows_per_year: what annualises, and accrues interest
    """

    symbols: list[str]
    stamps: np.ndarray
    listed: np.ndarray
    tradable: np.ndarray
    before_fill: np.ndarray
    after_fill: np.ndarray
    fill_price: np.ndarray
    close: np.ndarray
    last_bar: np.ndarray
    order_bar: np.ndarray
    rate: np.ndarray
    offset: np.ndarray
    in_currency: CurrencyCosts | None
    at_open: bool
    rows_per_year: float

    @classmethod
    def of(cls, segments: Sequence[Segment], costs: TradingCosts, rates: Mapping[str, float] | None = None) -> Quotes:
        """
        One account fills all orders at one time: at the close where a symbol has no opening prices.

        :param segments: what is traded, one symbol each
        :param costs: of its orders
        :param rates: by symbol, proportional cost in basis points in place of ``fee_bp`` and ``slippage_bp``
        """
        markets = [segment.market for segment in segments]
        at_open = all(fills_at_open(market, costs) for market in markets)
        dates = [market.dates for market in markets]
        instants = [market.instants for market in markets]
        calendar = Calendar.of(dates, instants)

        # A row of the account is one in which a symbol earns the return of a bar; a decision falls on the row before.
        earned = []
        for segment, row_of_bar in zip(segments, calendar.rows, strict=True):
            earned.append(row_of_bar[segment.first + 1 : segment.last + 1])
        rows = np.unique(np.concatenate(earned))
        decisions = np.concatenate([rows[:1] - 1, rows[:-1]])

        # The columns of each symbol, side by side.
        columns = []
        for segment, row_of_bar in zip(segments, calendar.rows, strict=True):
            columns.append(_column(segment, row_of_bar, rows, decisions, at_open))
        arrays = {}
        for name in columns[0]:
            of_symbols = [column[name] for column in columns]
            arrays[name] = np.stack(of_symbols, axis=1)

        # Costs in proportion to the value traded.
        usual = costs.fee_bp + costs.slippage_bp
        stated = dict(rates or {})
        basis_points = np.array([stated.get(market.symbol, usual) for market in markets])
        rate = np.zeros(arrays["listed"].shape) + basis_points / 1e4

        # Fees per share are proportional, too.
        bars = [len(market.close) for market in markets]
        offset = np.cumsum([0, *bars[:-1]])
        in_currency = None
        if costs.in_currency:
            fills = [prices_of_fills(market, at_open) for market in markets]
            in_currency = CurrencyCosts.of(list(segments), costs, fills)
            orders = offset + arrays["order_bar"].clip(0)
            rate = rate + in_currency.per_share[orders]

        return cls(
            symbols=[market.symbol for market in markets],
            stamps=calendar.stamps[rows],
            rate=rate,
            offset=offset,
            in_currency=in_currency,
            at_open=at_open,
            rows_per_year=markets[0].account_rows_per_year,
            **arrays,
        )


def _column(
    segment: Segment, row_of_bar: np.ndarray, rows: np.ndarray, decisions: np.ndarray, at_open: bool
) -> dict[str, np.ndarray]:
    """
    :param segment: one symbol
    :param row_of_bar: row of the calendar of each bar, shape (T,)
    :param rows: those of the account, shape (R,)
    :param decisions: row of the calendar at whose close the orders of each row are given, shape (R,)
    :param at_open: whether they are filled at the open
    :return: the symbol's columns of ``Quotes``, shapes (R,)
    """
    market = segment.market
    earned = np.arange(segment.first + 1, segment.last + 1)

    # First and last bar of each row that has one.
    row_of_earned = np.searchsorted(rows, row_of_bar[earned])
    position, first = np.unique(row_of_earned, return_index=True)
    last = np.append(first[1:], len(earned)) - 1
    opening = earned[first]
    closing = earned[last]

    # The last bar up to each decision, and up to each row.
    order_bar = np.searchsorted(row_of_bar, decisions, side="right") - 1
    last_bar = np.searchsorted(row_of_bar, rows, side="right") - 1

    # Returns, and the rows in which orders are filled.
    number = np.arange(len(rows))
    before = np.zeros(len(rows))
    after = np.zeros(len(rows))
    tradable = np.zeros(len(rows), dtype=bool)
    price = np.full(len(rows), np.nan)
    close_before = market.close[opening - 1]
    whole = market.close[closing] / close_before
    if at_open:
        until_fill = market.open[opening] / close_before
        before[position] = until_fill - 1
        after[position] = whole / until_fill - 1
        tradable[position] = True
        price[position] = market.open[opening]
    else:
        after[position] = whole - 1
        is_within = (order_bar >= segment.first) & (order_bar < segment.last)
        has_bar = row_of_bar[order_bar.clip(0)] == decisions
        is_first = (number == 0) & (position[0] == 0)
        tradable = (is_within & has_bar) | is_first
        price[tradable] = market.close[order_bar[tradable]]

    # Held from the first order that can be filled to the last bar.
    start = len(rows)
    if tradable.any():
        start = int(np.argmax(tradable))
    listed = (number >= start) & (number <= position[-1])

    # The last close up to each row.
    has_close = last_bar >= 0
    close = np.where(has_close, market.close[last_bar.clip(0)], np.nan)
    return {
        "listed": listed,
        "tradable": tradable & listed,
        "before_fill": before,
        "after_fill": after,
        "fill_price": price,
        "close": close,
        "last_bar": last_bar,
        "order_bar": order_bar,
    }


@dataclass
class AccountStep:
    """
    One step of n accounts of K symbols. Trades, costs and contributions are shares of the equity before it.

    :param growth: equity after the step over equity before it, shape (n,)
    :param gross_growth: the same without fees, slippage and financing, shape (n,)
    :param weights: after the fill, as shares of the equity then, shape (n, K)
    :param trade: bought, below 0: sold, shape (n, K)
    :param cost: fees, slippage and financing of each symbol, shape (n, K)
    :param contribution: simple return that each symbol earned, net of its costs, shape (n, K)
    :param cash_contribution: interest on cash, and what the floor of a ruin leaves, shape (n,); with the contributions
        of the symbols it adds up to ``growth - 1``
    :param bound: whether each limit cut the weights, by its name, shapes (n,)
    :param terminated: ruined, shape (n,)
    :param truncated: at the end of its rows, shape (n,)
    """

    growth: np.ndarray
    gross_growth: np.ndarray
    weights: np.ndarray
    trade: np.ndarray
    cost: np.ndarray
    contribution: np.ndarray
    cash_contribution: np.ndarray
    bound: dict[str, np.ndarray]
    terminated: np.ndarray
    truncated: np.ndarray

    @property
    def reward(self) -> np.ndarray:
        """Growth of log equity in per cent."""
        reward: np.ndarray = REWARD_SCALE * np.log(self.growth)
        return reward

    @property
    def rewards_of_symbols(self) -> np.ndarray:
        """
        The reward, split over the symbols and the cash in proportion to their contributions, shape (n, K + 1), the cash
        last. The log growth of the account is the sum of a row.
        """
        of_cash = self.cash_contribution[:, None]
        parts = np.concatenate([self.contribution, of_cash], axis=1)
        return in_log_growth(parts, self.growth)


def in_log_growth(contributions: np.ndarray, growth: np.ndarray) -> np.ndarray:
    """
    :param contributions: parts of the simple return of each row, shape (n, M)
    :param growth: equity after the row over equity before it, shape (n,)
    :return: the growth of log equity in per cent, split in the proportions of the contributions, shape (n, M)
    """
    simple = growth - 1

    # Without a return the logarithm's slope is 1.
    moves = np.abs(simple) > 1e-12
    factor = np.divide(np.log(growth), simple, out=np.ones_like(simple), where=moves)

    split: np.ndarray = REWARD_SCALE * contributions * factor[:, None]
    return split


class PortfolioCore:
    """
    n independent accounts over the same symbols: weights, equity and time, without any interface.

    :param quotes: the prices
    :param costs: what trading costs
    :param allocation: which weights the targets become
    :param n_accounts: number of accounts
    :param episode_rows: steps per episode from a random start; None: from the first row to the last
    :raises ValueError: if episodes have no rows, or costs take all equity of the largest order
    """

    def __init__(
        self,
        quotes: Quotes,
        costs: TradingCosts,
        allocation: Allocation,
        n_accounts: int = 1,
        episode_rows: int | None = None,
    ):
        rows, symbols = quotes.listed.shape
        if episode_rows is not None and episode_rows < 1:
            raise ValueError(f"episode_rows must be at least 1, got {episode_rows}")
        most = float(quotes.rate.max())
        if allocation.bounds.gross * most >= 1:
            raise ValueError(
                f"costs of {1e4 * most:g} basis points take all equity of an order of "
                f"market.portfolio.gross={allocation.bounds.gross:g}"
            )
        self.quotes = quotes
        self.costs = costs
        self.allocation = allocation
        self.n_accounts = n_accounts
        self.rows = rows
        self.episode_rows = rows
        if episode_rows is not None:
            self.episode_rows = min(episode_rows, rows)

        # Rates per year as rates per row.
        self.financing_rate = costs.financing_rate / quotes.rows_per_year
        self.cash_rate = costs.cash_rate / quotes.rows_per_year

        # All in cash at the first row.
        self.row = np.zeros(n_accounts, dtype=np.int64)
        self.end = self.row + self.episode_rows
        self.weights = np.zeros((n_accounts, symbols))
        self.equity = np.ones(n_accounts)
        self.age = np.zeros(n_accounts, dtype=np.int64)
        self.since_trade = np.full((n_accounts, symbols), LONG_AGO, dtype=np.int64)

    def reset(self, which: np.ndarray, generator: np.random.Generator) -> None:
        """
        Start new episodes, all in cash and with equity 1.

        :param which: mask of the accounts to reset, shape (n,)
        :param generator: draws their first rows
        """
        last_start = self.rows - self.episode_rows
        starts = generator.integers(last_start + 1, size=int(which.sum()))
        self.row[which] = starts
        self.end[which] = starts + self.episode_rows
        self.weights[which] = 0.0
        self.equity[which] = 1.0
        self.age[which] = 0
        self.since_trade[which] = LONG_AGO

    @property
    def next_row(self) -> np.ndarray:
        """Row that the next step plays, shape (n,); of an account at its end the last one."""
        row: np.ndarray = np.minimum(self.row, self.rows - 1)
        return row

    def step(self, targets: np.ndarray) -> AccountStep:
        """
        Fill the orders and go one row on; an account at its end stays there.

        :param targets: of each symbol, as the allocator understands them, NaN: no order, shape (n, K)
        :return: what happened
        """
        quotes = self.quotes
        row = self.next_row
        tradable = quotes.tradable.take(row, axis=0)
        rate = quotes.rate.take(row, axis=0)
        first_return = quotes.before_fill.take(row, axis=0)
        second_return = quotes.after_fill.take(row, axis=0)

        # A symbol that has left the market is cash.
        listed = quotes.listed.take(row, axis=0)
        held = np.where(listed, self.weights, 0.0)

        # The orders, as given at the close.
        desired = self.allocation.desired(targets, row, held, self.age, self.since_trade)
        overnight = held
        if not quotes.at_open:
            overnight = self.allocation.project(desired, held, tradable, row).weights

        # Until the fill the old weights earn, and so does the cash.
        earned = held * first_return
        invested = _sums(np.maximum(overnight, 0.0))
        gross_equity = 1 + _sums(earned)
        if self.cash_rate:
            gross_equity = gross_equity + self.cash_rate * np.maximum(1 - invested, 0.0)
        gross_equity = np.maximum(gross_equity, LEAST_EQUITY)

        # What is borrowed costs.
        equity = gross_equity
        financed = self._financing(overnight, invested)
        if financed is not None:
            equity = np.maximum(gross_equity - _sums(financed), LEAST_EQUITY)
        of_equity = equity[:, None]
        drifted = held * (1 + first_return) / of_equity

        # The fill; the account starts with K times ``start_equity``.
        more_costs = None
        if quotes.in_currency is not None:
            bars = quotes.offset + quotes.order_bar.take(row, axis=0).clip(0)
            in_starts = self.equity * equity * held.shape[1]
            more_costs = partial(with_all_costs, quotes.in_currency, bars, in_starts, drifted)
        fill = filled(self.allocation, desired, drifted, tradable, row, rate, more_costs)

        # The new weights earn the rest of the row.
        earned_after = fill.weights * second_return
        after_fill = np.maximum(1 + _sums(earned_after), LEAST_EQUITY)
        left = equity * (1 - fill.cost)
        least = RUIN_EQUITY / self.equity
        growth = np.maximum(left * after_fill, least)

        # Who earned it, and who paid.
        paid = fill.cost_of_symbols * of_equity
        if financed is not None:
            paid = paid + financed
        contribution = earned + left[:, None] * earned_after - paid
        cash_contribution = growth - 1 - _sums(contribution)

        # Time goes on.
        self.equity = self.equity * growth
        self.weights = fill.weights * (1 + second_return) / after_fill[:, None]
        self._count(fill.trade)
        is_ruined = self.equity <= RUIN_EQUITY * (1 + 1e-12)
        is_at_end = self.row >= self.end
        return AccountStep(
            growth=growth,
            gross_growth=gross_equity * after_fill,
            weights=fill.weights,
            trade=fill.trade * of_equity,
            cost=paid,
            contribution=contribution,
            cash_contribution=cash_contribution,
            bound=fill.bound,
            terminated=is_ruined,
            truncated=is_at_end & ~is_ruined,
        )

    def _financing(self, overnight: np.ndarray, invested: np.ndarray) -> np.ndarray | None:
        """
        :param overnight: weights until the fill, shape (n, K)
        :param invested: sums of the long ones, shape (n,)
        :return: financing that each symbol pays, shape (n, K): long weights share the borrowed cash, short weights pay
            for the borrowed stock; None: no account borrows
        """
        borrows_stock = any_of(overnight < 0)
        borrows_cash = any_of(invested > 1)
        if not borrows_stock and not borrows_cash:
            return None

        long = np.maximum(overnight, 0.0)
        borrowed = long - overnight
        if borrows_cash:
            cash = np.maximum(invested - 1, 0.0)
            whole = np.where(invested > 0, invested, 1.0)
            share_of_long = long / whole[:, None]
            borrowed = borrowed + cash[:, None] * share_of_long
        financing: np.ndarray = self.financing_rate * borrowed
        return financing

    def _count(self, trade: np.ndarray) -> None:
        """
        Count the rows since each account began, since each symbol was traded, and to the end.

        :param trade: of the row, shape (n, K)
        """
        self.since_trade += 1
        np.copyto(self.since_trade, 1, where=trade != 0)
        self.age += 1
        self.row = np.minimum(self.row + 1, self.end)


@dataclass
class Orders:
    """
    Of n accounts, in shares of their equity at the fill.

    :param traded: which symbols have one, shape (n, K)
    :param trade: bought, below 0: sold, shape (n, K)
    :param cost: fees and slippage, shape (n, K)
    """

    traded: np.ndarray
    trade: np.ndarray
    cost: np.ndarray


@dataclass
class Fill:
    """
    Filled orders of n accounts, in shares of their equity at the fill.

    :param weights: shares of what the costs leave, shape (n, K)
    :param trade: bought, below 0: sold, shape (n, K)
    :param cost_of_symbols: fees and slippage, shape (n, K)
    :param cost: their sum, shape (n,)
    :param bound: whether each limit cut, by its name, shapes (n,)
    """

    weights: np.ndarray
    trade: np.ndarray
    cost_of_symbols: np.ndarray
    cost: np.ndarray
    bound: dict[str, np.ndarray]


def filled(
    allocation: Allocation,
    desired: np.ndarray,
    drifted: np.ndarray,
    tradable: np.ndarray,
    row: np.ndarray,
    rate: np.ndarray,
    more_costs: Callable[[np.ndarray, Orders], Orders] | None = None,
) -> Fill:
    """
    Weights, trades and costs belong together: a weight is a share of what its costs leave. A holding without an order
    becomes a larger share by the costs of the others, and leaves them less room, which changes their costs.

    :param allocation: cuts the weights to its limits
    :param desired: weights that are wanted, NaN: no order, shape (n, K)
    :param drifted: weights at the fill, shape (n, K)
    :param tradable: whose orders are filled, shape (n, K)
    :param row: of each account, shape (n,)
    :param rate: proportional costs as shares of an order's value, shape (n, K)
    :param more_costs: from weights and orders to the orders with all costs
    :return: what is filled
    """
    desired = allocation.outside_band(desired, drifted, tradable, row)
    without_order = np.isnan(desired) | ~tradable
    depends_on_costs = any_of(without_order) and any_of(without_order & (drifted != 0))

    # The costs of the orders are 0 at first.
    before_costs = drifted
    cost = None
    for _ in range(MAX_ROUNDS):
        projection = allocation.project(desired, before_costs, tradable, row)
        orders = _orders(projection.weights, drifted, projection.traded, rate)
        if more_costs is not None:
            orders = more_costs(projection.weights, orders)

        # Only holdings without an order make the limits depend on the costs.
        previous = cost
        cost = _sums(orders.cost)
        if not depends_on_costs or not _has_moved(cost, previous):
            break
        before_costs = drifted / (1 - cost)[:, None]
    assert cost is not None
    return Fill(projection.weights, orders.trade, orders.cost, cost, projection.bound)


def with_all_costs(
    in_currency: CurrencyCosts,
    bars: np.ndarray,
    equity: np.ndarray,
    drifted: np.ndarray,
    weights: np.ndarray,
    orders: Orders,
) -> Orders:
    """
    :param in_currency: least fees and impact
    :param bars: close at which each order is given, in the order of ``in_currency``, shape (n, K)
    :param equity: at the fill, as a multiple of ``start_equity``, shape (n,)
    :param drifted: weights at the fill, shape (n, K)
    :param weights: that the orders are to leave, shape (n, K)
    :param orders: with the costs in proportion to their value
    :return: orders with all costs, which leave the weights of the rest
    """
    traded = np.abs(orders.trade)
    total = in_currency.total(bars, traded, orders.cost, equity[:, None])
    total = np.where(orders.traded, total, 0.0)

    # No account pays more than it has.
    total = total / np.maximum(_sums(total), 1.0)[:, None]
    left = 1 - _sums(total)
    trade = np.where(orders.traded, weights * left[:, None] - drifted, 0.0)
    return Orders(orders.traded, trade, total)


def _has_moved(cost: np.ndarray, previous: np.ndarray | None) -> bool:
    """Whether the costs of any account differ from those before, None: from 0."""
    change = np.abs(cost)
    if previous is not None:
        change = np.abs(cost - previous)
    return any_of(change > CONVERGED)


def _sums(values: np.ndarray) -> np.ndarray:
    """Sum over the symbols, shape (n,), of an array of shape (n, K)."""
    sums: np.ndarray = np.add.reduce(values, axis=1)
    return sums


def _orders(weights: np.ndarray, drifted: np.ndarray, traded: np.ndarray, rate: np.ndarray) -> Orders:
    """
    Orders that leave ``weights`` of the equity after their own costs: with c the sum of the costs, symbol i trades
    w_i (1 - c) - d_i, and c = sum of r_i |w_i (1 - c) - d_i|. The right side is convex and piecewise linear in c, with
    a slope below 1, so Newton's method from 0 ends at the exact root once the signs of the trades stay.

    :param weights: wanted, shape (n, K)
    :param drifted: weights at the fill, shape (n, K)
    :param traded: whose orders are filled, shape (n, K)
    :param rate: cost of an order as a share of its value, shape (n, K)
    :return: the orders with their costs
    """
    # Only what is traded counts.
    if np.count_nonzero(traded) < traded.size:
        weights = np.where(traded, weights, 0.0)
        drifted = np.where(traded, drifted, 0.0)
    difference = weights - drifted

    # One symbol: the closed form of ``MarketCore``.
    if weights.shape[1] == 1:
        trade = difference / (1 + np.sign(difference) * weights * rate)
        return Orders(traded, trade, rate * np.abs(trade))

    # Newton's steps, up to a number: a kink within rounding may change its sign for ever.
    sign = np.sign(difference)
    for _ in range(MAX_ROUNDS):
        signed = rate * sign
        cost = _sums(signed * difference) / (1 + _sums(signed * weights))
        trade = weights * (1 - cost)[:, None] - drifted
        previous = sign
        sign = np.sign(trade)
        if not any_of(sign != previous):
            break
    return Orders(traded, trade, rate * np.abs(trade))
