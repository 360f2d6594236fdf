"""One account with shared cash over a period of the markets: its rows, its benchmarks, its timing against chance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd

from market_regimes.config import PortfolioConfig, TradingCosts
from market_regimes.evaluate.account import Frames, before
from market_regimes.evaluate.figures import sharpe_ratio
from market_regimes.evaluate.play import RANDOM_RUNS, RUINED, Decision, backtest
from market_regimes.evaluate.strategies import fitted, informed_in_account
from market_regimes.market.account_environment import AccountObservations
from market_regimes.market.allocation import Allocation, PastRisk
from market_regimes.market.costs import NO_ORDER
from market_regimes.market.portfolio import AccountStep, PortfolioCore, Quotes, in_log_growth
from market_regimes.market.segment import Segment

LOOKBACK = 252  # rows that a walk-forward estimate sees
ESTIMATE_EVERY = 21  # rows from one walk-forward estimate to the next, where nothing rarer is stated


@dataclass(frozen=True)
class AccountState:
    """
    What an account knows at a close.

    :param row: of the account that its orders are for
    :param equity: 1 at the start
    :param weights: held now, shape (K,)
    :param available: symbols that have begun and, as far as is known, not ended, shape (K,)
    :param volatility: EWMA volatility, annualised, as a share, NaN where it is unknown, shape (K,)
    """

    row: int
    equity: float
    weights: np.ndarray
    available: np.ndarray
    volatility: np.ndarray


WeightRule = Callable[[AccountState], np.ndarray]  # what is known at a close -> a target per symbol, NaN: no order


@dataclass(frozen=True)
class Bench:
    """
    What is traded, read once for every account that is played on it.

    :param segments: one symbol each
    :param costs: what trading costs and what may be held
    :param quotes: the prices by the rows of the account
    :param risk: EWMA volatilities and past returns
    """

    segments: Sequence[Segment]
    costs: TradingCosts
    quotes: Quotes
    risk: PastRisk

    @classmethod
    def of(cls, segments: Sequence[Segment], costs: TradingCosts) -> Bench:
        """
        :param segments: what is traded, one symbol each
        :param costs: what trading costs and what may be held
        """
        quotes = Quotes.of(segments, costs)
        risk = PastRisk.of(segments, quotes.stamps)
        return cls(segments, costs, quotes, risk)

    @cached_property
    def observations(self) -> AccountObservations:
        """What the rows of an account observe."""
        return AccountObservations(self.segments, self.quotes)

    def account(self, config: PortfolioConfig, n_accounts: int = 1) -> PortfolioCore:
        """
        :param config: which weights the targets become
        :param n_accounts: number of accounts
        :return: accounts in cash at the first row
        :raises ValueError: if several symbols have separate cash
        """
        if config.cash == "separate" and len(self.segments) > 1:
            raise ValueError("market.portfolio.cash=separate keeps an account per symbol, one account needs shared")
        allocation = Allocation(config, self.quotes.symbols, self.costs, self.risk)
        return PortfolioCore(self.quotes, self.costs, allocation, n_accounts)

    def state(self, account: PortfolioCore) -> AccountState:
        """
        :param account: of these quotes
        :return: what the first of its copies knows
        """
        row = int(account.row[0])

        # The end of a symbol is known a row after its last bar.
        listed = self.quotes.listed
        row_before = max(row - 1, 0)
        last = len(listed) - 1
        available = listed[min(row, last)] | listed[row_before]
        return AccountState(
            row=row,
            equity=float(account.equity[0]),
            weights=account.weights[0].copy(),
            available=available,
            volatility=self.risk.volatility[row],
        )


@dataclass(frozen=True)
class AccountAgent:
    """
    An agent that decides for all symbols of an account from what their rows observe.

    :param on: gives its rule for what it is to trade
    """

    on: Callable[[Bench], WeightRule]


@dataclass(frozen=True)
class Played:
    """
    One account from its first row to its last; after ruin nothing is held.

    :param account: a row per row of the account with the columns of ``joint``: ``return``, ``gross_return``,
        ``equity``, ``gross_equity``, ``target`` and ``position`` (sums without signs), ``trade`` (turnover), ``cost``,
        ``index``; and at the close, as shares of equity, ``cash``, ``gross`` and ``net``; what the cash earned,
        ``cash_contribution``; ``limits`` that cut, joined by "+"
    :param weights: of each symbol after the fill, shape (R, K), as the tables below
    :param targets: what the rule wanted, NaN: no order
    :param contributions: simple return that each symbol earned; with ``cash_contribution`` they add up to ``return``
    :param trades: bought, below 0: sold, as shares of the equity before the row
    :param costs: fees, slippage and financing, as shares of the equity before the row
    :param closing_weights: of each symbol at the close
    """

    account: pd.DataFrame
    weights: pd.DataFrame
    targets: pd.DataFrame
    contributions: pd.DataFrame
    trades: pd.DataFrame
    costs: pd.DataFrame
    closing_weights: pd.DataFrame

    @property
    def rewards(self) -> np.ndarray:
        """Part of the growth of log equity, in per cent, that each symbol earned, shape (R, K)."""
        growth = 1 + self.account["return"].to_numpy()
        return in_log_growth(self.contributions.to_numpy(), growth)

    @property
    def limits(self) -> dict[str, int]:
        """Rows in which each limit cut the weights."""
        of_rows = self.account["limits"].str.split("+")
        names = of_rows.explode()
        is_limit = names != ""

        counts = names[is_limit].value_counts()
        return {str(name): int(count) for name, count in counts.items()}


def play_account(bench: Bench, rule: WeightRule, config: PortfolioConfig) -> Played:
    """
    :param bench: what is traded
    :param rule: gives the targets
    :param config: which weights they become
    :return: the account's rows
    """
    played, _ = _play(bench, rule, config)
    return played


def play_to_last_close(
    bench: Bench,
    rule: WeightRule,
    config: PortfolioConfig,
) -> tuple[Played, AccountState, np.ndarray]:
    """
    :param bench: what is traded
    :param rule: gives the targets
    :param config: which weights they become
    :return: the account's rows; what it knows at the last close; and the targets that the rule then gives, shape (K,)
    """
    played, account = _play(bench, rule, config)
    state = bench.state(account)
    return played, state, rule(state)


def _play(bench: Bench, rule: WeightRule, config: PortfolioConfig) -> tuple[Played, PortfolioCore]:
    """The account's rows, and the account after them."""
    account = bench.account(config)
    steps: list[AccountStep] = []
    targets = []
    closing = []
    for _ in range(account.rows):
        # The orders of a row follow from the close before it.
        state = bench.state(account)
        target = rule(state)
        step = account.step(target[None, :])

        targets.append(target)
        steps.append(step)
        closing.append(account.weights[0])
        if step.terminated[0]:
            break
    return _tables(bench, steps, np.array(targets), np.array(closing)), account


def _tables(bench: Bench, steps: list[AccountStep], targets: np.ndarray, closing: np.ndarray) -> Played:
    """
    :param bench: what is traded
    :param steps: of one account, up to its ruin or its last row
    :param targets: of each step, shape (steps, K)
    :param closing: weights after each step, shape (steps, K)
    :return: a row per row of the account; those after its ruin are 0
    """
    stamps = bench.quotes.stamps
    index = pd.DatetimeIndex(stamps, name="date")
    after_ruin = len(stamps) - len(steps)

    def table(rows: list[np.ndarray], later: float = 0.0) -> pd.DataFrame:
        values = np.array(rows)
        padded = np.pad(values, ((0, after_ruin), (0, 0)), constant_values=later)
        return pd.DataFrame(padded, index=index, columns=bench.quotes.symbols)

    def column(values: list[float]) -> np.ndarray:
        return np.pad(np.array(values), (0, after_ruin))

    # By symbol.
    weights = table([step.weights[0] for step in steps])
    trades = table([step.trade[0] for step in steps])
    costs = table([step.cost[0] for step in steps])
    contributions = table([step.contribution[0] for step in steps])
    closing_weights = table(list(closing))

    # The account, with the columns of ``joint`` first.
    account = pd.DataFrame(index=index)
    account["return"] = column([step.growth[0] - 1 for step in steps])
    account["gross_return"] = column([step.gross_growth[0] - 1 for step in steps])
    account["equity"] = (1 + account["return"]).cumprod()
    account["gross_equity"] = (1 + account["gross_return"]).cumprod()
    account["target"] = weights.abs().sum(axis=1)
    account["position"] = closing_weights.abs().sum(axis=1)
    account["trade"] = trades.abs().sum(axis=1)
    account["cost"] = costs.sum(axis=1)
    account["index"] = _mean_index(bench)

    # At the close.
    net = closing_weights.sum(axis=1)
    account["cash"] = 1 - net
    account["gross"] = account["position"]
    account["net"] = net
    account["cash_contribution"] = column([step.cash_contribution[0] for step in steps])

    # What cut the weights.
    limits = [_limits_of(step) for step in steps]
    account["limits"] = limits + [""] * after_ruin
    return Played(
        account=account,
        weights=weights,
        targets=table(list(targets), np.nan),
        contributions=contributions,
        trades=trades,
        costs=costs,
        closing_weights=closing_weights,
    )


def _limits_of(step: AccountStep) -> str:
    """Names of the limits that cut the weights of one account, joined by "+"."""
    names = [name for name, cut in step.bound.items() if cut[0]]
    return "+".join(names)


def frames_of(played: Played, bench: Bench) -> dict[str, pd.DataFrame]:
    """
    :param played: an account
    :param bench: what it traded
    :return: per symbol a row per row in which it was listed, with the columns of ``backtest``, and the account's equity
        before the row as ``capital`` and ``gross_capital``. They are K times the symbol's part of the account, the
        cash's interest shared alike, so that ``joint`` of them is the account
    """
    account = played.account
    count = bench.quotes.listed.sum(axis=1)
    listed = np.maximum(count, 1)

    # What belongs to no symbol is shared by those that are listed.
    shared = account["cash_contribution"].to_numpy() / listed
    costs = account["gross_return"] - account["return"]
    of_costs = costs.to_numpy() / listed

    parts = {}
    for k, segment in enumerate(bench.segments):
        parts[segment.market.symbol] = _part(played, bench, k, shared, of_costs)
    return parts


def _part(played: Played, bench: Bench, k: int, shared: np.ndarray, of_costs: np.ndarray) -> pd.DataFrame:
    """
    :param played: an account
    :param bench: what it traded
    :param k: number of a symbol
    :param shared: part of the cash's contribution of each listed symbol, shape (R,)
    :param of_costs: part of the difference between gross and net return, shape (R,)
    :return: the symbol's frame, as ``frames_of`` describes it
    """
    quotes = bench.quotes
    account = played.account
    symbols = len(quotes.symbols)
    rows = quotes.listed[:, k]

    def times_symbols(table: pd.DataFrame) -> np.ndarray:
        values: np.ndarray = symbols * table.iloc[:, k].to_numpy()[rows]
        return values

    # What it earned and is worth, as shares of 1/K of the account before the row.
    profit = times_symbols(played.contributions) + symbols * shared[rows]
    gross_profit = profit + symbols * of_costs[rows]
    growth = 1 + account["return"].to_numpy()[rows]
    worth = times_symbols(played.closing_weights) * growth
    capital = before(account["equity"].to_numpy())[rows]
    gross_capital = before(account["gross_equity"].to_numpy())[rows]

    # What the market did.
    market = bench.segments[k].market
    bars = quotes.last_bar[rows, k]
    return pd.DataFrame(
        {
            "return": profit,
            "gross_return": gross_profit,
            "target": times_symbols(played.weights),
            "position": worth / (1 + profit),
            "trade": times_symbols(played.trades),
            "cost": times_symbols(played.costs),
            "equity": capital * (1 + profit),
            "gross_equity": gross_capital * (1 + gross_profit),
            "price": quotes.fill_price[rows, k],
            "index": market.index[bars],
            "regime": market.regime_names(bars),
            "row": quotes.stamps[rows].astype("M8[s]").astype(np.int64),
            "capital": capital,
            "gross_capital": gross_capital,
        },
        index=account.index[rows],
    )


def _mean_index(bench: Bench) -> np.ndarray:
    """Mean volatility index of the symbols that are listed, in points, NaN where there are none, shape (R,)."""
    quotes = bench.quotes
    total = np.zeros(len(quotes.stamps))
    for k, segment in enumerate(bench.segments):
        of_last_bar = segment.market.index[quotes.last_bar[:, k].clip(0)]
        total += np.where(quotes.listed[:, k], of_last_bar, 0.0)

    count = quotes.listed.sum(axis=1)
    mean: np.ndarray = np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)
    return mean


def targets_of(frames: dict[str, pd.DataFrame], bench: Bench) -> np.ndarray:
    """
    The decisions of agents of one symbol each, which see the positions of their separate accounts.

    :param frames: their ``backtest``
    :param bench: what they traded
    :return: the last target that was decided up to each row's orders, NaN: none yet, shape (R, K)
    """
    quotes = bench.quotes
    targets = np.full(quotes.listed.shape, np.nan)
    tables = list(frames.values())
    for k, segment in enumerate(bench.segments):
        of_bars = tables[k]["target"].to_numpy()

        # The decision of each row, counted from the first one of the symbol.
        decision = quotes.order_bar[:, k] - segment.first
        is_made = (decision >= 0) & (decision < len(of_bars))
        targets[is_made, k] = of_bars[decision[is_made]]
    return targets


def replay(targets: np.ndarray) -> WeightRule:
    """:return: the rule that gives the targets of each row, shape (R, K)"""
    return lambda state: targets[state.row]


def in_one_account(bench: Bench, decide: Decision, config: PortfolioConfig) -> Played:
    """
    :param bench: what is traded
    :param decide: gives the target of each symbol
    :param config: which weights the targets become
    :return: the account that holds them all
    """
    frames = backtest(bench.segments, bench.costs, decide)
    return play_account(bench, replay(targets_of(frames, bench)), config)


def backtest_in(bench: Bench, decide: Decision | AccountAgent, config: PortfolioConfig) -> dict[str, pd.DataFrame]:
    """
    :param bench: what is traded
    :param decide: gives the target of each symbol, by itself or from what the rows of the account observe
    :param config: whether the symbols share their cash, and which weights the targets become
    :return: per symbol the frame of ``backtest``, or of its part of one account (``frames_of``)
    """
    if isinstance(decide, AccountAgent):
        played = play_account(bench, decide.on(bench), config)
        return frames_of(played, bench)
    if config.cash == "separate":
        return backtest(bench.segments, bench.costs, decide)
    return frames_of(in_one_account(bench, decide, config), bench)


def in_shared_cash(frames: Frames, bench: Bench, config: PortfolioConfig, delay: int = 0) -> Played:
    """
    :param frames: ``backtest`` of agents of one symbol each
    :param bench: what they traded
    :param config: which weights their targets become
    :param delay: rows by which every order is given later
    :return: the account that follows their targets
    """
    return _played_later(targets_of(frames, bench), bench, config, delay)


def traded_again(
    played: Played,
    bench: Bench,
    config: PortfolioConfig,
    delay: int = 0,
) -> Played:
    """
    :param played: an account
    :param bench: what is traded, perhaps at other costs
    :param config: which weights the targets become
    :param delay: rows by which every order is given later
    :return: the account that follows the same targets
    """
    return _played_later(played.targets.to_numpy(), bench, config, delay)


def _played_later(targets: np.ndarray, bench: Bench, config: PortfolioConfig, delay: int) -> Played:
    """
    :param targets: of each row, shape (R, K)
    :param bench: what is traded
    :param config: which weights they become
    :param delay: rows by which every order is given later
    :return: the account that follows them. It rebalances ``delay`` rows after the rows in which it would without delay
    """
    if not delay:
        return play_account(bench, replay(targets), config)

    # The rows between rebalancings have no orders, so that the rest follow when they are due.
    rows = np.arange(len(targets))
    waits = rows % config.rebalance_every != 0
    orders = np.where(waits[:, None], np.nan, targets)
    at_any_row = replace(config, rebalance_every=1)
    return play_account(bench, replay(later(orders, delay)), at_any_row)


def later(targets: np.ndarray, delay: int) -> np.ndarray:
    """
    :param targets: of each row, shape (R, K)
    :param delay: rows by which every order is given later
    :return: the targets of each row then, NaN, no order, before the first
    """
    return np.pad(targets, ((delay, 0), (0, 0)), constant_values=np.nan)[: len(targets)]


def positions_of_account(played: Played, bench: Bench) -> pd.DataFrame:
    """
    :param played: an account
    :param bench: what it traded
    :return: a row per order row and listed symbol until ruin: ``date`` of the close at which it was decided,
        ``symbol``, ``position`` (weight held then), ``target`` (of the agent, empty: no order), ``weight`` (after the
        fill, within the limits), ``price`` of the fill, ``shares`` held after it where ``start_equity`` is stated,
        ``regime`` and ``volatility_index`` at the decision
    """
    parts = [_positions_of(played, bench, k) for k in range(len(bench.segments))]
    table = pd.concat(parts)
    return table.sort_values("date", kind="stable", ignore_index=True)


def _positions_of(played: Played, bench: Bench, k: int) -> pd.DataFrame:
    """The rows of one symbol, by its number, as ``positions_of_account`` describes them."""
    quotes = bench.quotes
    market = bench.segments[k].market
    equity = played.account["equity"].to_numpy()
    solvent = before(equity) > RUINED

    # Rows in which an order can be given, and the bars at whose close it is.
    rows = quotes.listed[:, k] & solvent & (quotes.order_bar[:, k] >= 0)
    bars = quotes.order_bar[rows, k]

    # Held from the close before.
    closing = played.closing_weights.iloc[:, k].to_numpy()
    held = np.concatenate([[0.0], closing[:-1]])
    table = pd.DataFrame(
        {
            "date": _decided_at(bench)[rows],
            "symbol": market.symbol,
            "position": held[rows],
            "target": played.targets.iloc[:, k].to_numpy()[rows],
            "weight": played.weights.iloc[:, k].to_numpy()[rows],
            "price": quotes.fill_price[rows, k],
            "regime": market.regime_names(bars),
            "volatility_index": market.index[bars],
        }
    )
    if bench.costs.start_equity is None:
        return table

    # Nothing is traded between the fill and the close.
    capital = bench.costs.start_equity * len(quotes.symbols)
    worth = closing[rows] * equity[rows] * capital
    shares = worth / quotes.close[rows, k]
    table.insert(6, "shares", shares)
    return table


def _decided_at(bench: Bench) -> np.ndarray:
    """Time of the close at which each row is decided: that of the newest bar, datetime64[s], shape (R,)."""
    quotes = bench.quotes
    newest = np.full(len(quotes.stamps), np.datetime64(0, "s"))
    for k, segment in enumerate(bench.segments):
        bars = quotes.order_bar[:, k]
        dates = segment.market.dates[bars.clip(0)]
        newest = np.where(bars >= 0, np.maximum(newest, dates), newest)
    return newest


def trades_of_account(played: Played, bench: Bench) -> pd.DataFrame:
    """
    :param played: an account
    :param bench: what it traded
    :return: a row per order filled, as ``trades`` gives it: shares count of the equity of the account
    """
    quotes = bench.quotes
    all_trades = played.trades.to_numpy()
    is_order = np.abs(all_trades) > NO_ORDER
    rows, columns = np.nonzero(is_order)
    trade = all_trades[rows, columns]

    # An order at a close was filled at the bar of its decision, with the equity then.
    stamps = quotes.stamps[rows]
    equity = played.account["equity"].to_numpy()
    if not quotes.at_open:
        stamps = _decisions_of(bench, rows, columns)
        equity = before(equity)

    table = pd.DataFrame(
        {
            "symbol": np.array(quotes.symbols)[columns],
            "side": np.where(trade > 0, "buy", "sell"),
            "price": quotes.fill_price[rows, columns],
            "traded": np.abs(trade),
            "target": played.weights.to_numpy()[rows, columns],
            "cost": played.costs.to_numpy()[rows, columns],
            "equity": equity[rows],
        },
        index=pd.DatetimeIndex(stamps.astype("M8[s]"), name="date"),
    )
    return table.sort_index(kind="stable")


def _decisions_of(bench: Bench, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Times of the bars at whose close the orders of rows and symbols were given, shape (n,)."""
    bars = bench.quotes.order_bar[rows, columns]
    times = []
    for k, bar in zip(columns, bars, strict=True):
        market = bench.segments[int(k)].market
        times.append(market.dates[bar])
    return np.array(times)


def account_table(played: Played) -> pd.DataFrame:
    """
    :param played: an account
    :return: by row its ``equity`` and ``return``; at the close ``cash``, ``gross`` and ``net`` as shares of equity;
        ``turnover`` and ``cost``; ``limits`` that cut
    """
    account = played.account.rename(columns={"trade": "turnover"})
    return account[["equity", "return", "cash", "gross", "net", "turnover", "cost", "limits"]]


def bought_once(bench: Bench) -> WeightRule:
    """:return: the rule that buys each symbol with 1/K of the first equity when it is listed, and lets it be"""
    listed = bench.quotes.listed
    symbols = listed.shape[1]

    # The first row of each symbol.
    before_row = np.zeros_like(listed)
    before_row[1:] = listed[:-1]
    begins = listed & ~before_row

    def rule(state: AccountState) -> np.ndarray:
        part = 1 / (symbols * state.equity)
        return np.where(begins[state.row], part, np.nan)

    return rule


def equal_weights_every(bench: Bench, every: int = 1) -> WeightRule:
    """:return: the rule that brings each symbol to 1/K of the equity every so many rows"""
    symbols = len(bench.quotes.symbols)
    equal = np.full(symbols, 1 / symbols)
    return _every(every, lambda state: equal)


def inverse_volatility(bench: Bench, every: int = 1) -> WeightRule:
    """:return: the rule that holds the listed symbols in inverse proportion to their EWMA volatilities"""

    def rule(state: AccountState) -> np.ndarray:
        usable = state.available & (state.volatility > 0)
        inverse = np.zeros(len(usable))
        inverse[usable] = 1 / state.volatility[usable]

        # Without a symbol that is listed all is cash.
        total = inverse.sum()
        if total > 0:
            inverse = inverse / total
        return inverse

    return _every(every, rule)


def optimised(
    bench: Bench,
    kind: Literal["minimum variance", "risk parity"],
    every: int = ESTIMATE_EVERY,
    lookback: int = LOOKBACK,
) -> WeightRule:
    """
    :param bench: what is traded
    :param kind: the portfolio, estimated by skfolio
    :param every: rows from one estimate to the next
    :param lookback: rows of past returns that an estimate sees; symbols with fewer bars are left out
    :return: the rule that holds the portfolio of the last estimate
    :raises ImportError: if skfolio is not installed
    """
    try:
        from skfolio.optimization import MeanRisk, RiskBudgeting
    except ImportError as error:
        raise ImportError(f"the benchmark {kind} needs skfolio: pip install 'distributional-ppo[portfolio]'") from error
    estimators: dict[str, Any] = {"minimum variance": MeanRisk, "risk parity": RiskBudgeting}
    estimator = estimators[kind]
    quotes = bench.quotes
    risk = bench.risk

    def rule(state: AccountState) -> np.ndarray:
        # Symbols with a past.
        has_past = quotes.order_bar[state.row] >= lookback
        usable = state.available & has_past
        weights = np.zeros(len(usable))
        if usable.sum() < 2:
            weights[usable] = 1.0
            return weights

        # Returns up to this close.
        stop = risk.stop[state.row]
        start = max(stop - lookback, 0)
        names = np.array(quotes.symbols)[usable]
        returns = pd.DataFrame(risk.returns[start:stop, usable], columns=names)

        # The portfolio of these returns.
        fitted_estimator = estimator().fit(returns)
        weights[usable] = fitted_estimator.weights_
        return weights

    return _every(every, rule)


def _every(rows: int, rule: WeightRule) -> WeightRule:
    """:return: the rule in every so many rows, no order in the others"""

    def rarer(state: AccountState) -> np.ndarray:
        if state.row % rows == 0:
            return rule(state)
        return np.full(len(state.weights), np.nan)

    return rarer


def account_benchmarks(bench: Bench, config: PortfolioConfig) -> dict[str, Played]:
    """
    :param bench: what is traded, with the costs of rules
    :param config: limits, which bind the rules that decide symbol by symbol; the allocations rebalance as often as it
        says, and keep no other limit
    :return: by name, allocations that need no forecast, those of skfolio where it is installed, and the fitted and the
        informed rule where there is one
    """
    every = config.rebalance_every
    plain = PortfolioConfig(cash="shared")

    # Allocations that need no forecast.
    rules = {
        "bought once": bought_once(bench),
        "equal weights": equal_weights_every(bench, every),
        "inverse volatility": inverse_volatility(bench, every),
    }
    try:
        rarely = max(every, ESTIMATE_EVERY)
        rules["minimum variance"] = optimised(bench, "minimum variance", rarely)
        rules["risk parity"] = optimised(bench, "risk parity", rarely)
    except ImportError:
        pass  # an extra
    played = {name: play_account(bench, rule, plain) for name, rule in rules.items()}

    # Rules that decide symbol by symbol.
    decisions = {
        "fitted rule": fitted(bench.segments, bench.costs),
        "informed rule": informed_in_account(bench.segments, bench.costs, config),
    }
    for name, decide in decisions.items():
        if decide is not None:
            played[name] = in_one_account(bench, decide, config)
    return played


def shifted_accounts(
    bench: Bench, played: Played, config: PortfolioConfig, seed: int, runs: int = RANDOM_RUNS
) -> np.ndarray:
    """
    What the account's orders earn at random times: its weights, shifted in a circle by one random number of rows for
    all symbols, traded again in an account with costs. Turnover and exposure stay, and only the timing goes.

    Nothing can be held before it is listed. So the circle is that of the rows in which all symbols that the account
    ever holds are listed; before and after it every copy does what the account did.

    :param bench: what is traded
    :param played: the account
    :param config: its limits
    :param seed: of the shifts
    :param runs: number of shifts, all different, none of them 0; at most one less than the circle has rows
    :return: Sharpe ratio of each copy per row, NaN where undefined, for ``rank_among``; empty where there is no circle
    """
    circle = _circle(bench, played)
    if len(circle) < 2:
        return np.zeros(0)
    shifts = _shifts(circle, seed, runs)
    returns = _returns_of_shifts(bench, played, config, circle, shifts)
    return sharpe_ratio(returns, 1.0)


def shifted_in_the_middle(
    bench: Bench, played: Played, config: PortfolioConfig, seed: int, ratios: np.ndarray, runs: int = RANDOM_RUNS
) -> Played:
    """
    :param bench: what is traded
    :param played: the account
    :param config: its limits
    :param seed: of the shifts
    :param ratios: of ``shifted_accounts`` with the same seed and number of shifts
    :param runs: number of shifts
    :return: the copy with the median Sharpe ratio; the account itself where there is no copy
    """
    if not len(ratios):
        return played
    circle = _circle(bench, played)
    shifts = _shifts(circle, seed, runs)

    # Undefined ratios are sorted to the end.
    defined = np.isfinite(ratios).sum()
    middle = (defined - 1) // 2
    median = int(np.argsort(ratios)[middle])
    shift = shifts[median : median + 1]
    targets = _shifted_targets(played, circle, shift)
    return play_account(bench, lambda state: targets(state.row)[0], _free(config))


def _circle(bench: Bench, played: Played) -> np.ndarray:
    """Rows in which all symbols that the account ever holds are listed, shape (L,)."""
    is_held = played.weights.to_numpy() != 0
    symbols = is_held.any(axis=0)
    all_listed = bench.quotes.listed[:, symbols].all(axis=1)
    return np.flatnonzero(all_listed)


def _shifts(circle: np.ndarray, seed: int, runs: int) -> np.ndarray:
    """Different numbers of rows, none of them 0, shape (n,)."""
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(circle) - 1)
    shifts: np.ndarray = 1 + order[:runs]
    return shifts


def _free(config: PortfolioConfig) -> PortfolioConfig:
    """The limits of weights which limits have cut already, so that no other key applies again."""
    return replace(
        config,
        cash="shared",
        allocator="budget",
        top_k=None,
        volatility_limit=None,
        no_trade_band=0.0,
        rebalance_every=1,
        minimum_holding=1,
    )


def _shifted_targets(played: Played, circle: np.ndarray, shifts: np.ndarray) -> Callable[[int], np.ndarray]:
    """
    :param circle: consecutive rows, shape (L,)
    :param shifts: by which they are moved, shape (n,)
    :return: from a row to the targets of each copy, NaN: no order, shape (n, K)
    """
    weights = played.weights.to_numpy()
    has_order = played.trades.to_numpy() != 0
    orders = np.where(has_order, weights, np.nan)

    # The row that each copy takes its orders from, (R, n).
    rows = np.arange(len(weights))
    source = np.repeat(rows[:, None], len(shifts), axis=1)
    place = np.arange(len(circle))
    shifted = place[:, None] - shifts
    source[circle] = circle[0] + shifted % len(circle)

    # Where a row does not follow the one before, all weights are ordered.
    follows = np.zeros(source.shape, dtype=bool)
    follows[1:] = np.diff(source, axis=0) == 1

    def targets(row: int) -> np.ndarray:
        origin = source[row]
        is_next = follows[row][:, None]
        of_row: np.ndarray = np.where(is_next, orders[origin], weights[origin])
        return of_row

    return targets


def _returns_of_shifts(
    bench: Bench, played: Played, config: PortfolioConfig, circle: np.ndarray, shifts: np.ndarray
) -> np.ndarray:
    """
    :param circle: consecutive rows, shape (L,)
    :param shifts: by which they are moved, shape (n,)
    :return: returns of each copy, shape (R, n)
    """
    targets = _shifted_targets(played, circle, shifts)
    rows = len(played.account)
    copies = len(shifts)
    account = bench.account(_free(config), copies)
    returns = np.zeros((rows, copies))

    # A copy that is ruined earns nothing more.
    is_solvent = np.ones(copies, dtype=bool)
    for row in range(rows):
        step = account.step(targets(row))
        simple = step.growth - 1
        returns[row] = np.where(is_solvent, simple, 0.0)
        is_solvent &= ~step.terminated
    return returns
