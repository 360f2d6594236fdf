"""
One account as several agents: a row for each account and symbol, all of one policy, all accounts stepped at once.

A row observes its symbol, the mean of all symbols and whether its symbol can be traded. Its reward is what its symbol
contributed to the growth of the account. ``MarketVecEnv`` shows these rows to Stable-Baselines3 as environments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces

from market_regimes.config import PortfolioConfig, TradingCosts
from market_regimes.market.allocation import Allocation, PastRisk
from market_regimes.market.environment import spaces_of
from market_regimes.market.market import Market
from market_regimes.market.observations import Observations, rows_of_account
from market_regimes.market.portfolio import PortfolioCore, Quotes, in_log_growth
from market_regimes.market.segment import Segment
from market_regimes.prices import Calendar


class AccountObservations:
    """
    The observations of an account's rows at any of its closes.

    :param segments: segments of the K symbols
    :param quotes: their prices on the R rows of the account
    """

    def __init__(self, segments: Sequence[Segment], quotes: Quotes):
        markets = [segment.market for segment in segments]
        scalings = [segment.scaling for segment in segments]
        self._observations = Observations(markets, scalings)
        self._symbols = len(markets)

        # The last bar up to each close; the last close is that of the last row.
        bars = np.concatenate([quotes.order_bar, quotes.last_bar[-1:]])
        first = np.array([segment.first for segment in segments])
        self.bar = quotes.offset + np.maximum(bars, first)  # counted over all markets, shape (R + 1, K)

        # A symbol begins with the first bar that has an observation, and can be traded where it has a bar.
        self.begun = bars >= first
        self.available = self.begun & _has_bar(markets, quotes)

    def at(self, row: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """
        :param row: row that each account's next orders are for, R: none is left, shape (n,)
        :param weights: shares of the account's equity, shape (n, K)
        :return: float32, shape (n, K, 2 F + 1), as ``rows_of_account`` describes it; the numbers of a symbol without a
            bar are those of its last one with its weight now, and 0 before its first one
        """
        bars = self.bar[row]
        single = self._observations.at(bars.ravel(), weights.ravel())
        by_account = single.reshape(len(row), self._symbols, -1)
        numbers = np.where(self.begun[row][..., None], by_account, 0.0)
        return rows_of_account(numbers, self.available[row])

    def orders(self, row: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """
        :param row: row that each account's orders are for, shape (n,)
        :param targets: targets of the symbols, shape (n, K)
        :return: the same, NaN (no order) for the symbols that cannot be traded, shape (n, K)
        """
        return np.where(self.available[row], targets, np.nan)


def _has_bar(markets: Sequence[Market], quotes: Quotes) -> np.ndarray:
    """Whether each of K markets has a bar at each close of an account's R rows and at the last one, (R + 1, K)."""
    calendar = Calendar.of([market.dates for market in markets], [market.instants for market in markets])
    rows = np.searchsorted(calendar.stamps, quotes.stamps)
    closes = np.concatenate([rows[:1] - 1, rows])

    columns = [np.isin(closes, row_of_bar) for row_of_bar in calendar.rows]
    return np.stack(columns, axis=1)


@dataclass
class RowsStep:
    """The results of one step, arrays of shape (n_envs,)."""

    reward: np.ndarray  # part of the growth of log equity in per cent
    terminated: np.ndarray
    truncated: np.ndarray


class AccountRows:
    """
    Accounts that share their cash among K symbols, with a row for each account and symbol. Row ``a * K + k`` is symbol
    k of account a; the rows of an account begin and end their episodes together.

    :param segments: segments to trade, one symbol each
    :param n_accounts: number of accounts
    :param costs: costs of trading and bounds of positions
    :param portfolio: limits, and the allocator that makes weights of the rows' targets
    :param episode_rows: steps per episode from a random start; None: from the first row to the last
    :raises ValueError: if limits do not fit the symbols, episodes have no rows, or costs take all equity of an order
    """

    # What ``resume.py`` keeps of the accounts.
    STATE: ClassVar[tuple[str, ...]] = ("row", "end", "weights", "equity", "age", "since_trade")

    def __init__(
        self,
        segments: Sequence[Segment],
        n_accounts: int,
        costs: TradingCosts,
        portfolio: PortfolioConfig,
        episode_rows: int | None = 252,
    ):
        self.costs = costs
        self.markets = [segment.market for segment in segments]
        self.features = list(self.markets[0].features)
        self.rows_per_year = self.markets[0].account_rows_per_year

        # The accounts.
        quotes = Quotes.of(segments, costs)
        risk = PastRisk.of(segments, quotes.stamps)
        allocation = Allocation(portfolio, quotes.symbols, costs, risk)
        self.agents = PortfolioCore(quotes, costs, allocation, n_accounts, episode_rows)
        self._observations = AccountObservations(segments, quotes)

        # A row for each account and symbol.
        self.n_symbols = len(self.markets)
        self.n_envs = n_accounts * self.n_symbols

        # The numbers that scalars by regime read, of all markets.
        self.regime = np.concatenate([market.regime for market in self.markets])
        self.index = np.concatenate([market.index for market in self.markets])

    @property
    def bar(self) -> np.ndarray:
        """Bar at the close of each row, counted over all markets, shape (n_envs,)."""
        bars: np.ndarray = self._observations.bar[self.agents.row].ravel()
        return bars

    @property
    def available(self) -> np.ndarray:
        """Whether each row's symbol can be traded, shape (n_envs,)."""
        available: np.ndarray = self._observations.available[self.agents.row].ravel()
        return available

    def spaces(self) -> tuple[spaces.Box, spaces.Space[Any]]:
        """:return: observation and action space of a row"""
        return spaces_of(self.costs, len(self.features), in_account=True)

    def reset(self, which: np.ndarray, generator: np.random.Generator) -> None:
        """
        Start new episodes, all in cash and with equity 1.

        :param which: mask of the rows to reset, the same for all rows of an account, shape (n_envs,)
        :param generator: draws the first rows of the accounts
        """
        of_accounts = which.reshape(-1, self.n_symbols)[:, 0]
        self.agents.reset(of_accounts, generator)

    def observations(self) -> np.ndarray:
        """:return: float32, shape (n_envs, 2 F + 1)"""
        observations = self._observations.at(self.agents.row, self.agents.weights)
        return observations.reshape(self.n_envs, -1)

    def step(self, targets: np.ndarray) -> RowsStep:
        """
        Fill the orders of all accounts and go one row on.

        :param targets: target weight of each row, shape (n_envs,); that of a row that cannot be traded is ignored
        :return: the results of the step
        """
        # An account decides only on symbols that can be traded.
        by_account = targets.reshape(-1, self.n_symbols)
        orders = self._observations.orders(self.agents.row, by_account)
        step = self.agents.step(orders)

        # The cash's interest is no row's reward.
        rewards = in_log_growth(step.contribution, step.growth)
        return RowsStep(
            reward=rewards.ravel(),
            terminated=step.terminated.repeat(self.n_symbols),
            truncated=step.truncated.repeat(self.n_symbols),
        )
