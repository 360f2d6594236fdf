"""From the targets of an account to a list of orders in shares and currency."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from market_regimes.config import TradingCosts
from market_regimes.market.allocation import Allocation
from market_regimes.market.portfolio import filled

ROUNDING = 1e-9  # of a lot, and of equity: what is less is an error of rounding
HELD_COLUMNS = ["symbol", "shares"]
LAST_ROW = -1  # of the past risk: what is known after the last bar
LONG_AGO = 10**9  # rows since the last trade, where nobody counts them


@dataclass(frozen=True)
class Past:
    """
    What an account did before the orders.

    :param age: rows since it began
    :param since_trade: rows since each symbol was traded, shape (K,)
    """

    age: int
    since_trade: np.ndarray


@dataclass(frozen=True)
class OrderList:
    """
    What to trade now.

    :param table: a row per symbol: ``held`` (shares), ``price``, ``weight`` and ``target`` (shares of equity, before
        and after), ``order`` (shares, below 0: sold), ``value`` (of the order), ``cost``, ``shares`` (after)
    :param equity: of the account, as the amounts below in the currency of the prices
    :param cash: before the orders
    :param cash_after: after them and their costs
    :param limits: that cut the targets
    :param date: of the close at which this was decided, empty: nobody said
    :param warnings: a sentence each
    """

    table: pd.DataFrame
    equity: float
    cash: float
    cash_after: float
    limits: list[str]
    date: str = ""
    warnings: list[str] = field(default_factory=list)

    @property
    def cost(self) -> float:
        """Fees and slippage of all orders."""
        return float(self.table["cost"].sum())

    @property
    def bought(self) -> float:
        """Value of what is bought."""
        return float(self.table["value"].clip(lower=0).sum())

    @property
    def sold(self) -> float:
        """Value of what is sold."""
        return float(-self.table["value"].clip(upper=0).sum())


def read_held(path: Path) -> dict[str, float]:
    """
    :param path: CSV with the columns symbol and shares
    :return: shares of each symbol, below 0: sold short
    :raises ValueError: if it has other columns, a symbol twice, or something that is no number of shares
    """
    table = pd.read_csv(path, dtype=str, keep_default_na=False)  # NA is a symbol
    if list(table.columns) != HELD_COLUMNS:
        raise ValueError(f"{path}: the columns must be symbol,shares, they are {','.join(map(str, table.columns))}")
    twice = table["symbol"][table["symbol"].duplicated()]
    if len(twice):
        raise ValueError(f"{path}: the symbol {twice.iloc[0]} is there twice")
    shares = pd.to_numeric(table["shares"], errors="coerce")
    bad = np.flatnonzero(~np.isfinite(shares) | (table["symbol"] == ""))
    if len(bad):
        raise ValueError(f"{path}: line {bad[0] + 2} has no symbol with a number of shares")
    return dict(zip(table["symbol"], shares.astype(float), strict=True))


def order_list(
    allocation: Allocation,
    costs: TradingCosts,
    targets: Mapping[str, float],
    prices: Mapping[str, float],
    equity: float,
    held: Mapping[str, float] | None = None,
    lot: float | None = None,
    past: Past | None = None,
) -> OrderList:
    """
    Orders are those of an account that is played: the same limits, and weights of what the costs leave. Whole lots are
    rounded towards no trade. What would then exceed a limit, of which the cash is one, loses lots of its orders.

    :param allocation: limits, and the symbols
    :param costs: of trading; the impact on prices is left out
    :param targets: by symbol, as the allocator understands them; NaN, or no entry: no order
    :param prices: by symbol, in currency
    :param equity: of the account, in currency
    :param held: shares by symbol, None: all is cash
    :param lot: shares of a lot, None: fractions of a share are traded
    :param past: of the account, which ``rebalance_every`` and ``minimum_holding`` count from; None: it begins now
    :return: the orders
    :raises ValueError: if something cannot be priced, or a number is none that an order can follow from
    """
    symbols = allocation.symbols
    held = {} if held is None else held
    _check(symbols, targets, prices, equity, held, lot)
    price = np.array([prices.get(symbol, np.nan) for symbol in symbols])
    shares = np.array([held.get(symbol, 0.0) for symbol in symbols])
    target = np.array([targets.get(symbol, np.nan) for symbol in symbols])

    # A symbol that nobody holds or wants needs no price.
    tradable = np.isfinite(price)
    price = np.where(tradable, price, 1.0)
    weights = shares * price / equity

    # The orders of an account, one row of one account.
    rate = (costs.fee_bp + costs.slippage_bp) / 1e4 + costs.fee_per_share / price
    rate = rate[None, :]
    book = _Book(allocation, costs, price, shares, equity, tradable)
    past = past or Past(0, np.full(len(symbols), LONG_AGO))
    at_row = np.array([LAST_ROW])
    age = np.array([past.age])
    desired = allocation.desired(target[None, :], at_row, weights[None, :], age, past.since_trade[None, :])
    fill = filled(allocation, desired, weights[None, :], tradable[None, :], at_row, rate)
    wanted = fill.trade[0] * equity / price
    orders = wanted if lot is None else book.in_lots(wanted, lot)

    # The table.
    cost = book.costs_of(orders)
    after = shares + orders
    left = equity - cost.sum()
    cash = equity - float((shares * price).sum())
    table = pd.DataFrame(
        {
            "held": shares,
            "price": np.where(tradable, price, np.nan),
            "weight": weights,
            "target": after * price / left,
            "order": orders,
            "value": orders * price,
            "cost": cost,
            "shares": after,
        },
        index=pd.Index(symbols, name="symbol"),
    )
    cash_after = cash - float(table["value"].sum()) - float(cost.sum())
    limits = [name for name, cut in fill.bound.items() if cut[0]]
    return OrderList(table, equity, cash, cash_after, limits)


def _check(
    symbols: list[str],
    targets: Mapping[str, float],
    prices: Mapping[str, float],
    equity: float,
    held: Mapping[str, float],
    lot: float | None,
) -> None:
    """Refuse what no order follows from."""
    if not 0 < equity < np.inf:
        raise ValueError(f"the equity must be a finite amount above 0, got {equity}")
    if lot is not None and not 0 < lot < np.inf:
        raise ValueError(f"a lot must be a finite number of shares above 0, got {lot}")

    # Symbols.
    for symbol in held:
        if symbol not in symbols:
            raise ValueError(f"{symbol} is held, and the run trades {', '.join(symbols)}")
    for symbol in targets:
        if symbol not in symbols:
            raise ValueError(f"{symbol} has a target, and the run trades {', '.join(symbols)}")

    # Numbers.
    for symbol in symbols:
        _check_symbol(symbol, targets.get(symbol, np.nan), prices.get(symbol, np.nan), held.get(symbol, 0.0))


def _check_symbol(symbol: str, target: float, price: float, shares: float) -> None:
    """Refuse numbers of one symbol that no order follows from."""
    if np.isinf(target) or not np.isfinite(shares):
        raise ValueError(f"{symbol}: a target and the shares held must be finite, got {target} and {shares}")

    # Nobody needs the price of what is neither held nor wanted.
    is_wanted = not np.isnan(target) and target != 0
    if np.isnan(price) and (shares != 0 or is_wanted):
        raise ValueError(f"{symbol} cannot be priced, and is held or has a target: it needs a price above 0")
    if not np.isnan(price) and not 0 < price < np.inf:
        raise ValueError(f"the price of {symbol} must be a finite amount above 0, got {price}")


@dataclass(frozen=True)
class _Book:
    """
    An account of K symbols in shares.

    :param allocation: its limits
    :param costs: of its orders
    :param price: in currency, shape (K,)
    :param shares: held before, shape (K,)
    :param equity: in currency
    :param tradable: which symbols have a price, shape (K,)
    """

    allocation: Allocation
    costs: TradingCosts
    price: np.ndarray
    shares: np.ndarray
    equity: float
    tradable: np.ndarray

    def costs_of(self, orders: np.ndarray) -> np.ndarray:
        """
        :param orders: in shares, shape (K,)
        :return: fees, at least ``min_fee`` of an order, and slippage, in currency, shape (K,)
        """
        costs = self.costs
        size = np.abs(orders)
        value = size * self.price

        # A fee has a least amount, slippage has none.
        fee = costs.fee_bp / 1e4 * value + costs.fee_per_share * size
        least = np.where(size > 0, costs.min_fee, 0.0)
        slippage = costs.slippage_bp / 1e4 * value
        paid: np.ndarray = np.maximum(fee, least) + slippage
        return paid

    def in_lots(self, wanted: np.ndarray, lot: float) -> np.ndarray:
        """
        :param wanted: orders in shares, shape (K,)
        :param lot: shares of a lot
        :return: orders in whole lots that keep the limits, where whole lots can
        """
        lots = wanted / lot
        orders = lot * np.trunc(lots + ROUNDING * np.sign(lots))
        while True:
            excess = self._excess(orders)
            after = self.shares + orders
            exceeds = excess > 0

            # An order that adds to a holding loses a lot; where there is none, one that reduces a holding gains one.
            adds = exceeds & (orders * after > 0) & (np.abs(orders) >= lot)
            reduces = exceeds & (np.abs(after) >= lot)
            if adds.any():
                chosen = _largest(np.abs(orders) * self.price, adds)
            elif reduces.any():
                chosen = _largest(excess, reduces)
            else:
                return orders
            orders[chosen] -= lot * np.sign(after[chosen])

    def _excess(self, orders: np.ndarray) -> np.ndarray:
        """By how much the limits would cut each weight after orders in shares, shape (K,)."""
        left = self.equity - self.costs_of(orders).sum()
        values = (self.shares + orders) * self.price
        weights = (values / left)[None, :]
        row = np.array([LAST_ROW])
        projection = self.allocation.project(weights, weights, self.tradable[None, :], row)
        excess: np.ndarray = np.abs(weights - projection.weights)[0]
        return np.where(excess > ROUNDING, excess, 0.0)


def _largest(values: np.ndarray, among: np.ndarray) -> int:
    """Position of the largest value among those of a mask, shapes (K,)."""
    return int(np.argmax(np.where(among, values, -np.inf)))


def print_orders(orders: OrderList) -> None:
    """Print the orders with their sums, the cash after them, and the limits that cut."""
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    for name in ("symbol", "held", "price", "weight", "order", "value", "cost", "shares", "target"):
        table.add_column(name, justify="left" if name == "symbol" else "right", no_wrap=True)
    if orders.date:
        print(f"orders of the close of {orders.date}, at its prices")
    for symbol, row in orders.table.iterrows():
        table.add_row(
            str(symbol),
            f"{row['held']:g}",
            f"{row['price']:.6g}",
            f"{row['weight']:.4f}",
            f"{row['order']:+g}",
            f"{row['value']:+.2f}",
            f"{row['cost']:.2f}",
            f"{row['shares']:g}",
            f"{row['target']:.4f}",
        )
    sums = orders.table[["weight", "value", "cost", "target"]].sum()
    table.add_row(
        "all", "", "", f"{sums['weight']:.4f}", "", f"{sums['value']:+.2f}", f"{sums['cost']:.2f}", "",
        f"{sums['target']:.4f}",
    )  # fmt: skip
    Console().print(table)
    print(f"equity {orders.equity:.2f}, cash {orders.cash:.2f}, after the orders {orders.cash_after:.2f}")
    print(f"bought {orders.bought:.2f}, sold {orders.sold:.2f}, costs {orders.cost:.2f}")
    print(f"limits that cut: {', '.join(orders.limits) or 'none'}")
    for sentence in orders.warnings:
        print(f"warning: {sentence}")


def json_of_orders(orders: OrderList) -> str:
    """
    :param orders: from ``order_list``
    :return: a JSON object: the sums, the limits that cut, the warnings, and ``orders``, an object per symbol with the
        columns of the table; a price that nobody needs is null
    """
    content: dict[str, Any] = {
        "date": orders.date,
        "equity": orders.equity,
        "cash": orders.cash,
        "cash_after": orders.cash_after,
        "bought": orders.bought,
        "sold": orders.sold,
        "cost": orders.cost,
        "limits": orders.limits,
        "orders": [],
        "warnings": orders.warnings,
    }
    for row in orders.table.reset_index().to_dict("records"):
        content["orders"].append({name: None if pd.isna(value) else value for name, value in row.items()})
    return json.dumps(content, indent=2)
