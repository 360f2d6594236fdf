"""Equal weights: one account that splits its equity anew between its symbols at every row, and pays for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from market_regimes.config import TradingCosts
from market_regimes.evaluate.play import rows_of_bars
from market_regimes.market.costs import CurrencyCosts
from market_regimes.market.market import fills_at_open, prices_of_fills
from market_regimes.market.segment import Segment

MAX_ROUNDS = 100  # of the fixed point that pays costs out of the equity which is split
CONVERGED = 1e-15  # share of equity by which costs may still change


def equal_weights(segments: Sequence[Segment], costs: TradingCosts) -> dict[str, pd.DataFrame]:
    """
    At every fill the account splits its equity, less the costs of doing so, equally between K symbols. A symbol without
    a bar in a row cannot be traded: it stays as it is, and those with a bar share the rest. Before its first and after
    its last bar a symbol's 1/K is cash.

    :param segments: what is traded
    :param costs: what trading costs; ``start_equity``, to which amounts in currency relate, is the equity per symbol
    :return: per symbol a row per row of the account in which it has a bar, with the columns of ``backtest``. They are
        shares of ``capital`` and ``gross_capital``, the account's equity before the row; with equal shares of it in
        every symbol, the account's return is the mean of theirs (``joint``)
    """
    # The account with costs, and the same account without them.
    quotes = _Quotes.of(segments, costs)
    free = replace(
        costs,
        fee_bp=0.0,
        slippage_bp=0.0,
        min_fee=0.0,
        fee_per_share=0.0,
        impact_coefficient=0.0,
    )
    net = _ledger(quotes, costs)
    gross = _ledger(quotes, free)

    # The part of each symbol.
    frames = {}
    for k, segment in enumerate(segments):
        frames[segment.market.symbol] = _frame(segment, k, quotes, net, gross)
    return frames


@dataclass(frozen=True)
class _Quotes:
    """
    K symbols on R rows.

    :param stamps: time of each row, datetime64[s], shape (R,)
    :param has_bar: whether a symbol has a bar in a row, shape (R, K)
    :param alive: whether a row lies between its first and last bar, shape (R, K)
    :param until_fill: growth of the price from the close before to the fill, 1 without a bar, shape (R, K)
    :param after_fill: growth from there to the close, shape (R, K)
    :param order_bar: position of the close at which the order is given, in all bars one after the other, shape (R, K)
    :param last_bar: position of the bar in its market, shape (R, K)
    :param at_open: which symbols are filled at the open, shape (K,)
    :param in_currency: costs that count in currency, None: there are none
    :param rows_per_year: what interest accrues by
    """

    stamps: np.ndarray
    has_bar: np.ndarray
    alive: np.ndarray
    until_fill: np.ndarray
    after_fill: np.ndarray
    order_bar: np.ndarray
    last_bar: np.ndarray
    at_open: np.ndarray
    in_currency: CurrencyCosts | None
    rows_per_year: float

    @classmethod
    def of(cls, segments: Sequence[Segment], costs: TradingCosts) -> _Quotes:
        """
        :param segments: what is traded
        :param costs: what its orders cost
        """
        # Every row in which a symbol has a bar.
        times = rows_of_bars(segments)
        stamps = np.unique(np.concatenate(times))

        # What symbols without a bar keep.
        shape = (len(stamps), len(segments))
        has_bar = np.zeros(shape, dtype=bool)
        alive = np.zeros(shape, dtype=bool)
        until_fill = np.ones(shape)
        after_fill = np.ones(shape)
        order_bar = np.zeros(shape, dtype=np.int64)
        last_bar = np.zeros(shape, dtype=np.int64)

        # When the orders of each symbol are filled, and at which prices.
        at_open = np.array([fills_at_open(segment.market, costs) for segment in segments])
        fills = []
        for segment, opens in zip(segments, at_open, strict=True):
            fills.append(prices_of_fills(segment.market, opens))

        # Where the bars of each symbol begin among all bars.
        counts = [len(segment.market.close) for segment in segments]
        offset = np.cumsum([0, *counts])

        for k, segment in enumerate(segments):
            # The order is given at the close before the first bar of a row; the last bar of the row closes it.
            row_of_bar = np.searchsorted(stamps, times[k])
            row, first = np.unique(row_of_bar, return_index=True)
            last = np.append(first[1:], len(times[k])) - 1
            order = segment.first + first
            closing = segment.first + 1 + last
            order_bar[row, k] = offset[k] + order
            last_bar[row, k] = closing

            # Growth up to the fill and from there on.
            close = segment.market.close
            fill = fills[k][order]
            until_fill[row, k] = fill / close[order]
            after_fill[row, k] = close[closing] / fill

            # The rows of a symbol, and its life.
            has_bar[row, k] = True
            alive[row[0] : row[-1] + 1, k] = True

        in_currency = None
        if costs.in_currency:
            in_currency = CurrencyCosts.of(list(segments), costs, fills)

        return cls(
            stamps=stamps,
            has_bar=has_bar,
            alive=alive,
            until_fill=until_fill,
            after_fill=after_fill,
            order_bar=order_bar,
            last_bar=last_bar,
            at_open=at_open,
            in_currency=in_currency,
            rows_per_year=segments[0].market.account_rows_per_year,
        )


def _ledger(quotes: _Quotes, costs: TradingCosts) -> dict[str, np.ndarray]:
    """
    :param quotes: what the symbols do
    :param costs: what trading costs
    :return: ``capital`` before each row, 1 at the start, shape (R,); and in money, times K, what each symbol earned
        (``profit``), was traded for, cost, was to be (``target``) and is worth after the row (``value``): (R, K)
    """
    rows, symbols = quotes.has_bar.shape
    interest_rate = costs.cash_rate / quotes.rows_per_year

    # What every row adds to the ledger.
    capital = np.zeros(rows)
    columns = {}
    for name in ("profit", "trade", "cost", "target", "value"):
        columns[name] = np.zeros((rows, symbols))

    # The account starts in cash.
    value = np.zeros(symbols)
    cash = 1.0

    for row in range(rows):
        # Holdings in symbols that have left the market have been paid out.
        gone = ~quotes.alive[row]
        cash += value[gone].sum()
        value[gone] = 0.0

        # The capital before the row.
        equity = cash + value.sum()
        capital[row] = equity
        start = value.copy()

        # The cash of a symbol earns interest while its order waits for the open.
        waits = quotes.has_bar[row] & quotes.at_open
        uninvested = np.maximum(equity / symbols - value, 0.0)
        interest = interest_rate * np.where(waits, uninvested, 0.0)
        cash += interest.sum()

        # The old holding earns what the price does until the fill.
        value = value * quotes.until_fill[row]

        # Rebalance.
        trade, cost = _orders(quotes, costs, row, value, cash)
        value = value + trade
        cash -= trade.sum() + cost.sum()
        target = value

        # The new holding earns the rest of the row.
        value = value * quotes.after_fill[row]

        # The ledger of the row.
        columns["profit"][row] = value - start - trade - cost + interest
        columns["trade"][row] = trade
        columns["cost"][row] = cost
        columns["target"][row] = target
        columns["value"][row] = value

    # Money counts K times, so that each symbol is an account of 1.
    ledger = {"capital": capital}
    for name, values in columns.items():
        ledger[name] = values * symbols
    return ledger


def _orders(
    quotes: _Quotes,
    costs: TradingCosts,
    row: int,
    value: np.ndarray,
    cash: float,
) -> tuple[np.ndarray, np.ndarray]:
    """
    :param quotes: what the symbols do
    :param costs: what trading costs
    :param row: row of the account
    :param value: worth of each holding at the fill, shape (K,)
    :param cash: cash of the account
    :return: what is bought of each symbol, below 0: sold, and what that costs, shapes (K,)
    """
    symbols = len(value)
    traded = quotes.has_bar[row]

    # The equity to split, the share of it that belongs to living symbols, and the holdings that must stay.
    equity = cash + value.sum()
    share_alive = quotes.alive[row].sum() / symbols
    untraded = value[~traded].sum()

    # Costs reduce what is split, and what is split decides the costs.
    cost = np.zeros(symbols)
    trade = np.zeros(symbols)
    for _ in range(MAX_ROUNDS):
        left = (equity - cost.sum()) * share_alive - untraded
        target = max(left, 0.0) / traded.sum()
        trade = np.where(traded, target - value, 0.0)

        previous = cost
        cost = _costs(quotes, costs, row, trade, equity)
        change = np.abs(cost - previous).sum()
        if change <= CONVERGED * equity:
            break

    return trade, cost


def _costs(
    quotes: _Quotes,
    costs: TradingCosts,
    row: int,
    trade: np.ndarray,
    equity: float,
) -> np.ndarray:
    """:return: costs of orders in money, shape (K,); the account starts with K times ``TradingCosts.start_equity``"""
    # Costs in proportion to the traded value.
    rate = (costs.fee_bp + costs.slippage_bp) / 1e4
    if quotes.in_currency is None or not costs.in_currency:
        proportional: np.ndarray = rate * np.abs(trade)
        return proportional

    # With costs per share, minimum fees and impact, which depend on the equity in currency.
    symbols = len(trade)
    bars = quotes.order_bar[row]
    share = np.abs(trade) / equity
    linear_rate = rate + quotes.in_currency.per_share[bars]
    shares_paid = quotes.in_currency.total(
        bars,
        share,
        linear_rate * share,
        np.full(symbols, equity * symbols),
    )
    return equity * shares_paid


def _frame(
    segment: Segment,
    k: int,
    quotes: _Quotes,
    net: dict[str, np.ndarray],
    gross: dict[str, np.ndarray],
) -> pd.DataFrame:
    """One symbol's part in the account, as ``equal_weights`` describes it."""
    rows = quotes.has_bar[:, k]
    capital = net["capital"][rows]
    gross_capital = gross["capital"][rows]

    # Money becomes shares of the capital before the row.
    shares = {}
    for name, values in net.items():
        if name != "capital":
            shares[name] = values[rows, k] / capital
    profit = shares["profit"]
    gross_profit = gross["profit"][rows, k] / gross_capital

    # The market at the last bar of each row.
    market = segment.market
    bars = quotes.last_bar[rows, k]
    regime = market.regime_names(bars)

    columns = {
        "return": profit,
        "gross_return": gross_profit,
        "target": shares["target"],
        "position": shares["value"] / (1 + profit),
        "trade": shares["trade"],
        "cost": shares["cost"],
        "equity": capital * (1 + profit),
        "gross_equity": gross_capital * (1 + gross_profit),
        "index": market.index[bars],
        "regime": regime,
        "row": quotes.stamps[rows].astype(np.int64),
        "capital": capital,
        "gross_capital": gross_capital,
    }
    dates = pd.DatetimeIndex(market.dates[bars], name="date")
    return pd.DataFrame(columns, index=dates)
