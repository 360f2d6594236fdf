"""From the targets of an account to a list of orders in shares and currency."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from market_regimes.config import TradingCosts
from market_regimes.market.allocation import Allocation, nearest
from market_regimes.market.costs import CurrencyCosts
from market_regimes.market.describe import names_of
from market_regimes.market.portfolio import CONVERGED, LONG_AGO, MAX_ROUNDS, Fill, Orders, filled, with_all_costs

ROUNDING = 1e-9  # of a lot, and of equity: what is less is an error of rounding
HELD_COLUMNS = ["symbol", "shares"]
LAST_ROW = np.array([-1])  # of the past risk: what is known after the last bar


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
        """Fees, slippage and impact of all orders."""
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
    :param path: CSV with the columns symbol and shares, in any order
    :return: shares of each symbol, below 0: sold short
    :raises ValueError: if it cannot be read, is empty or no UTF-8, has other columns, a symbol twice, or
        something that is no number of shares
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: the file is not encoded in UTF-8") from error
    except OSError as error:
        raise ValueError(f"{path}: what is held cannot be read: {error.strerror}") from error
    if not rows:
        raise ValueError(f"{path}: the file is empty: its columns must be symbol,shares")

    # The columns.
    names = [name.strip() for name in rows[0]]
    columns = [name.lower() for name in names]
    if sorted(columns) != sorted(HELD_COLUMNS):
        raise ValueError(f"{path}: the columns must be symbol,shares, they are {','.join(names)}")

    # A symbol a line; empty lines are none.
    held: dict[str, float] = {}
    for number, row in enumerate(rows[1:], start=2):
        cells = [cell.strip() for cell in row]
        if not any(cells):
            continue
        fields = dict(zip(columns, cells, strict=False))
        shares = _number_of(fields.get("shares", ""))
        symbol = fields.get("symbol", "")
        if len(cells) != len(columns) or not symbol or shares is None:
            raise ValueError(f"{path}: line {number} has no symbol with a number of shares: {','.join(row)}")
        if symbol in held:
            raise ValueError(f"{path}: the symbol {symbol} is there twice")
        held[symbol] = shares
    return held


def _number_of(text: str) -> float | None:
    """A finite number, None: the text is something else."""
    try:
        number = float(text)
    except ValueError:
        return None
    if "_" in text or not np.isfinite(number):
        return None
    return number


def order_list(  # noqa: PLR0913  # each is an amount that only the caller knows
    allocation: Allocation,
    costs: TradingCosts,
    targets: Mapping[str, float],
    prices: Mapping[str, float],
    equity: float,
    held: Mapping[str, float] | None = None,
    lot: float | None = None,
    past: Past | None = None,
    impact: Mapping[str, float] | None = None,
) -> OrderList:
    """
    Orders are those of an account that is played: the same limits, and weights of what the costs leave. Whole lots are
    rounded towards no trade. What would then exceed a limit, of which the cash is one, loses lots of its orders.

    :param allocation: limits, and the symbols
    :param costs: of trading
    :param targets: by symbol, as the allocator understands them; NaN, or no entry: no order
    :param prices: by symbol, in currency
    :param equity: of the account, in currency
    :param held: shares by symbol, None: all is cash
    :param lot: shares of a lot, None: fractions of a share are traded
    :param past: of the account, which ``rebalance_every`` and ``minimum_holding`` count from; None: it begins now
    :param impact: by symbol, cost of an order worth 1, as a share of its value, which ``impact_coefficient`` needs
        (``impact_of`` of ``market_regimes.market.costs``); it grows with the square root of the order
    :return: the orders
    :raises ValueError: if something cannot be priced, or a number is none that an order can follow from
    """
    symbols = allocation.symbols
    held = held or {}
    _check(symbols, targets, prices, equity, held, lot)
    price = _of_symbols(symbols, prices, np.nan)
    shares = _of_symbols(symbols, held, 0.0)
    target = _of_symbols(symbols, targets, np.nan)
    impacts = np.zeros(len(symbols))
    if costs.impact_coefficient:
        impacts = _of_symbols(symbols, impact or {}, np.nan)

    # The orders of an account, one row of one account.
    book = _Book.of(allocation, costs, price, shares, equity, impacts)
    fill = book.fill(target, past)
    wanted = fill.trade[0] * equity / book.price
    orders = wanted
    if lot is not None:
        orders = book.in_lots(wanted, lot)

    # An order whose impact is unknown cannot be priced.
    for symbol, order, known in zip(symbols, orders, np.isfinite(impacts), strict=True):
        if order != 0 and not known:
            raise ValueError(f"{symbol} has no volume at its last bar, which market.trading.impact_coefficient needs")

    # The table, with the cash that is left.
    cost = book.costs_of(orders)
    after = shares + orders
    value = orders * book.price
    left = equity - cost.sum()
    table = pd.DataFrame(
        {
            "held": shares,
            "price": price,
            "weight": book.weights,
            "target": after * book.price / left,
            "order": orders,
            "value": value,
            "cost": cost,
            "shares": after,
        },
        index=pd.Index(symbols, name="symbol"),
    )
    cash = equity - float((shares * book.price).sum())
    cash_after = cash - float(value.sum()) - float(cost.sum())
    limits = [name for name, cut in fill.bound.items() if cut[0]]
    warnings = [*_warnings_of_cash(equity, cash), *book.warnings_of(orders, lot)]
    return OrderList(table, equity, cash, cash_after, limits, warnings=warnings)


def _of_symbols(symbols: Sequence[str], values: Mapping[str, float], missing: float) -> np.ndarray:
    """The value of each symbol, shape (K,)."""
    return np.array([values.get(symbol, missing) for symbol in symbols], dtype=float)


def _warnings_of_cash(equity: float, cash: float) -> list[str]:
    """A sentence on shares that are worth more than the account."""
    if cash >= -ROUNDING * equity:
        return []
    return [
        f"the shares held are worth {equity - cash:.2f}, more than the equity of {equity:.2f}: the equity is the value "
        "of the account, cash and shares together, and the cash is borrowed"
    ]


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

    # Symbols; of what is not held there may be any.
    for symbol, shares in held.items():
        if symbol not in symbols and shares != 0:
            raise ValueError(f"{symbol} is held, and has no bars: {nearest(symbol, symbols)}")
    for symbol in targets:
        if symbol not in symbols:
            raise ValueError(f"{symbol} has a target, and has no bars: {nearest(symbol, symbols)}")

    # Numbers.
    for symbol in symbols:
        target = targets.get(symbol, np.nan)
        price = prices.get(symbol, np.nan)
        _check_symbol(symbol, target, price, held.get(symbol, 0.0))


def _check_symbol(symbol: str, target: float, price: float, shares: float) -> None:
    """Refuse numbers of one symbol that no order follows from."""
    if np.isinf(target) or not np.isfinite(shares):
        raise ValueError(f"{symbol}: a target and the shares held must be finite, got {target} and {shares}")

    # Nobody needs the price of what is neither held nor wanted.
    is_wanted = not np.isnan(target) and target != 0
    is_needed = shares != 0 or is_wanted
    if np.isnan(price) and is_needed:
        raise ValueError(f"{symbol} cannot be priced, and is held or has a target: it needs a price above 0")
    if not np.isnan(price) and not 0 < price < np.inf:
        raise ValueError(f"the price of {symbol} must be a finite amount above 0, got {price}")


@dataclass(frozen=True)
class _Book:
    """
    An account of K symbols in shares.

    :param allocation: its limits
    :param price: in currency, 1 where a symbol has none, shape (K,)
    :param tradable: which symbols have a price, shape (K,)
    :param shares: held before, shape (K,)
    :param equity: in currency
    :param rate: cost of an order in proportion to its value, shape (K,)
    :param in_currency: least fees and impact of an order of each symbol; None: there are none
    """

    allocation: Allocation
    price: np.ndarray
    tradable: np.ndarray
    shares: np.ndarray
    equity: float
    rate: np.ndarray
    in_currency: CurrencyCosts | None

    @classmethod
    def of(
        cls,
        allocation: Allocation,
        costs: TradingCosts,
        price: np.ndarray,
        shares: np.ndarray,
        equity: float,
        impact: np.ndarray,
    ) -> _Book:
        """
        :param allocation: limits
        :param costs: of its orders
        :param price: in currency, NaN: there is none, shape (K,)
        :param shares: held before, shape (K,)
        :param equity: in currency
        :param impact: cost of an order worth 1, as a share of its value, not finite: unknown, and left out, shape (K,)
        """
        tradable = np.isfinite(price)
        price = np.where(tradable, price, 1.0)
        per_share = costs.fee_per_share / price
        rate = (costs.fee_bp + costs.slippage_bp) / 1e4 + per_share

        in_currency = None
        if costs.in_currency:
            known = np.where(np.isfinite(impact), impact, 0.0)
            in_currency = CurrencyCosts(costs, per_share, known)
        return cls(allocation, price, tradable, shares, equity, rate, in_currency)

    @property
    def weights(self) -> np.ndarray:
        """Weights before the orders, as shares of equity, shape (K,)."""
        weights: np.ndarray = self.shares * self.price / self.equity
        return weights

    def fill(self, target: np.ndarray, past: Past | None) -> Fill:
        """
        :param target: of each symbol, NaN: no order, shape (K,)
        :param past: of the account, None: it begins now
        :return: what one account would fill
        """
        if past is None:
            past = Past(0, np.full(len(target), LONG_AGO))
        held = self.weights[None, :]
        age = np.array([past.age])
        desired = self.allocation.desired(target[None, :], LAST_ROW, held, age, past.since_trade[None, :])

        more_costs = None
        if self.in_currency is not None:
            more_costs = self._with_all_costs
        tradable = self.tradable[None, :]
        return filled(self.allocation, desired, held, tradable, LAST_ROW, self.rate[None, :], more_costs)

    def _with_all_costs(self, weights: np.ndarray, orders: Orders) -> Orders:
        """
        The account that is played pays the costs of the orders that its proportional costs alone would give. Here the
        costs are those of the orders themselves, so that no cash is owed after them.

        :param weights: that the orders are to leave, shape (1, K)
        :param orders: with the costs in proportion to their value
        :return: orders with all costs
        """
        assert self.in_currency is not None
        held = self.weights[None, :]
        priced = orders
        for _ in range(MAX_ROUNDS):
            priced = with_all_costs(self.in_currency, self._places, self._equity_in_starts, held, weights, orders)
            change = np.abs(priced.trade - orders.trade)
            if change.max() <= CONVERGED:
                break
            orders = Orders(priced.traded, priced.trade, self.rate * np.abs(priced.trade))
        return priced

    @property
    def _places(self) -> np.ndarray:
        """Place of each symbol's costs, shape (1, K)."""
        return np.arange(len(self.price))[None, :]

    @property
    def _equity_in_starts(self) -> np.ndarray:
        """Equity as a multiple of ``start_equity``, which costs in currency count by, shape (1,)."""
        assert self.in_currency is not None
        start = self.in_currency.costs.start_equity
        assert start is not None
        return np.array([self.equity / start])

    def costs_of(self, orders: np.ndarray) -> np.ndarray:
        """
        :param orders: in shares, shape (K,)
        :return: fees, at least ``min_fee`` of an order, slippage and impact, in currency, shape (K,)
        """
        traded = np.abs(orders) * self.price / self.equity
        cost: np.ndarray = self.rate * traded
        if self.in_currency is not None:
            total = self.in_currency.total(self._places, traded, cost, self._equity_in_starts)
            cost = total[0]
        return self.equity * cost

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

    def warnings_of(self, orders: np.ndarray, lot: float | None) -> list[str]:
        """
        :param orders: in shares, shape (K,)
        :param lot: shares of a lot, None: fractions are traded
        :return: a sentence on the symbols that whole lots leave beyond a limit
        """
        if lot is None:
            return []
        beyond = self._excess(orders) > 0

        # What is left of a sold holding takes a place of the largest.
        after = self.shares + orders
        places = self.allocation.config.top_k
        if places is not None and np.count_nonzero(after) > places:
            beyond |= (after != 0) & (np.abs(after) < lot)
        names = [symbol for symbol, is_beyond in zip(self.allocation.symbols, beyond, strict=True) if is_beyond]
        if not names:
            return []
        return [f"whole lots of {lot:g} shares leave {', '.join(names)} beyond a limit: fewer shares than a lot remain"]

    def _excess(self, orders: np.ndarray) -> np.ndarray:
        """By how much the limits would cut each weight after orders in shares, shape (K,)."""
        left = self.equity - self.costs_of(orders).sum()
        values = (self.shares + orders) * self.price
        weights = (values / left)[None, :]

        tradable = self.tradable[None, :]
        projection = self.allocation.project(weights, weights, tradable, LAST_ROW)
        excess: np.ndarray = np.abs(weights - projection.weights)[0]
        return np.where(excess > ROUNDING, excess, 0.0)


def _largest(values: np.ndarray, among: np.ndarray) -> int:
    """Position of the largest value among those of a mask, shapes (K,)."""
    return int(np.argmax(np.where(among, values, -np.inf)))


def print_orders(orders: OrderList) -> None:
    """Print the orders with their sums, the cash after them, and the limits that cut."""
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("symbol", justify="left", no_wrap=True)
    for name in ("held", "price", "weight", "order", "value", "cost", "shares", "target"):
        table.add_column(name, justify="right", no_wrap=True)
    if orders.date:
        print(f"orders of the close of {orders.date}, at its prices")

    # A row per symbol, then the sums.
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
        "all",
        "",
        "",
        f"{sums['weight']:.4f}",
        "",
        f"{sums['value']:+.2f}",
        f"{sums['cost']:.2f}",
        "",
        f"{sums['target']:.4f}",
    )

    # The account.
    Console().print(table)
    print(f"equity {orders.equity:.2f}, cash {orders.cash:.2f}, after the orders {orders.cash_after:.2f}")
    print(f"bought {orders.bought:.2f}, sold {orders.sold:.2f}, costs {orders.cost:.2f}")
    print(f"limits that cut: {', '.join(orders.limits) or 'none'}")
    for sentence in _once(orders.warnings, list(orders.table.index)):
        print(f"warning: {sentence}")


def _once(warnings: Sequence[str], symbols: Sequence[str]) -> list[str]:
    """Warnings, those that several symbols share as one sentence with their names; 20 symbols would hide the orders."""
    sharing: dict[str, list[str]] = {}
    for sentence in warnings:
        symbol, colon, text = sentence.partition(": ")
        if not colon or symbol not in symbols:
            symbol, text = "", sentence
        sharing.setdefault(text, []).append(symbol)

    sentences = []
    for text, names in sharing.items():
        if names[0]:
            text = f"{names_of(names)}: {text}"
        sentences.append(text)
    return sentences


def json_of_orders(orders: OrderList) -> str:
    """
    :param orders: from ``order_list``
    :return: a JSON object: the sums, the limits that cut, the warnings, and ``orders``, an object per symbol with the
        columns of the table; a price that nobody needs is null
    """
    rows = []
    for row in orders.table.reset_index().to_dict("records"):
        price = row["price"]
        if pd.isna(price):
            row["price"] = None
        rows.append(row)

    content: dict[str, Any] = {
        "date": orders.date,
        "equity": orders.equity,
        "cash": orders.cash,
        "cash_after": orders.cash_after,
        "bought": orders.bought,
        "sold": orders.sold,
        "cost": orders.cost,
        "limits": orders.limits,
        "orders": rows,
        "warnings": orders.warnings,
    }
    return json.dumps(content, indent=2)
