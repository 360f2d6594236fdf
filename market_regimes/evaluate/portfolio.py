"""One account with shared cash over a period of the markets: its rows, its benchmarks, its timing against chance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from market_regimes.config import PortfolioConfig, TradingCosts
from market_regimes.evaluate.account import Frames, before
from market_regimes.evaluate.figures import sharpe_ratio
from market_regimes.evaluate.play import RANDOM_RUNS, RUINED, Decision, backtest
from market_regimes.evaluate.strategies import fitted, informed
from market_regimes.market.allocation import Allocation, PastRisk
from market_regimes.market.costs import NO_ORDER
from market_regimes.market.portfolio import AccountStep, PortfolioCore, Quotes
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
        """:param segments: what is traded; ``costs``: what trading costs and what may be held"""
        quotes = Quotes.of(segments, costs)
        return cls(segments, costs, quotes, PastRisk.of(segments, quotes.stamps))

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
        """:return: what the first of the accounts knows"""
        row = int(account.next_row[0])
        listed = self.quotes.listed
        return AccountState(
            row=row,
            equity=float(account.equity[0]),
            weights=account.weights[0].copy(),
            available=listed[row] | listed[max(row - 1, 0)],
            volatility=self.risk.volatility[row],
        )


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
    def limits(self) -> dict[str, int]:
        """Rows in which each limit cut the weights."""
        names = self.account["limits"].str.split("+").explode()
        counts = names[names != ""].value_counts()
        return {str(name): int(count) for name, count in counts.items()}


def play_account(bench: Bench, rule: WeightRule, config: PortfolioConfig) -> Played:
    """
    :param bench: what is traded
    :param rule: gives the targets
    :param config: which weights they become
    :return: the account's rows
    """
    account = bench.account(config)
    steps: list[AccountStep] = []
    targets = []
    closing = []
    for _ in range(account.rows):
        target = rule(bench.state(account))
        step = account.step(target[None, :])

        targets.append(target)
        steps.append(step)
        closing.append(account.weights[0])
        if step.terminated[0]:
            break
    return _tables(bench, steps, np.array(targets), np.array(closing))


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

    def table(values: np.ndarray, later: float = 0.0) -> pd.DataFrame:
        padded = np.pad(values, ((0, after_ruin), (0, 0)), constant_values=later)
        return pd.DataFrame(padded, index=index, columns=bench.quotes.symbols)

    def column(values: list[float]) -> np.ndarray:
        return np.pad(np.array(values), (0, after_ruin))

    # By symbol.
    weights = table(np.array([step.weights[0] for step in steps]))
    trades = table(np.array([step.trade[0] for step in steps]))
    costs = table(np.array([step.cost[0] for step in steps]))
    contributions = table(np.array([step.contribution[0] for step in steps]))
    closing_weights = table(closing)

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
    account["cash"] = 1 - closing_weights.sum(axis=1)
    account["gross"] = account["position"]
    account["net"] = closing_weights.sum(axis=1)
    account["cash_contribution"] = column([step.cash_contribution[0] for step in steps])
    limits = ["+".join(name for name, cut in step.bound.items() if cut[0]) for step in steps]
    account["limits"] = limits + [""] * after_ruin
    return Played(account, weights, table(targets, np.nan), contributions, trades, costs, closing_weights)


def frames_of(played: Played, bench: Bench) -> dict[str, pd.DataFrame]:
    """
    :param played: an account
    :param bench: what it traded
    :return: per symbol a row per row in which it was listed, with the columns of ``backtest``, and the account's equity
        before the row as ``capital`` and ``gross_capital``. They are K times the symbol's part of the account, the
        cash's interest shared alike, so that ``joint`` of them is the account
    """
    account = played.account

    # What belongs to no symbol is shared by those that are listed.
    listed = np.maximum(bench.quotes.listed.sum(axis=1), 1)
    shared = account["cash_contribution"].to_numpy() / listed
    of_costs = (account["gross_return"] - account["return"]).to_numpy() / listed
    return {
        segment.market.symbol: _part(played, bench, k, shared, of_costs) for k, segment in enumerate(bench.segments)
    }


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
    worth = times_symbols(played.closing_weights) * (1 + account["return"].to_numpy()[rows])
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
    for k, (segment, frame) in enumerate(zip(bench.segments, frames.values(), strict=True)):
        decision = quotes.order_bar[:, k] - segment.first
        decided = (decision >= 0) & (decision < len(frame))
        of_bars = frame["target"].to_numpy()
        targets[decided, k] = of_bars[decision[decided]]
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


def backtest_in(bench: Bench, decide: Decision, config: PortfolioConfig) -> dict[str, pd.DataFrame]:
    """
    :param bench: what is traded
    :param decide: gives the target of each symbol
    :param config: whether the symbols share their cash, and which weights the targets become
    :return: per symbol the frame of ``backtest``, or of its part of one account (``frames_of``)
    """
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
    targets = later(targets_of(frames, bench), delay)
    return play_account(bench, replay(targets), config)


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
    quotes = bench.quotes
    closing = played.closing_weights.to_numpy()
    held = np.concatenate([np.zeros_like(closing[:1]), closing[:-1]])
    equity = played.account["equity"].to_numpy()
    solvent = before(equity) > RUINED

    parts = []
    for k, segment in enumerate(bench.segments):
        market = segment.market
        rows = quotes.listed[:, k] & solvent & (quotes.order_bar[:, k] >= 0)
        bars = quotes.order_bar[rows, k]
        part = pd.DataFrame(
            {
                "date": market.dates[bars],
                "symbol": market.symbol,
                "position": held[rows, k],
                "target": played.targets.to_numpy()[rows, k],
                "weight": played.weights.to_numpy()[rows, k],
                "price": quotes.fill_price[rows, k],
                "regime": market.regime_names(bars),
                "volatility_index": market.index[bars],
            }
        )
        if bench.costs.start_equity is not None:
            # Nothing is traded between the fill and the close.
            capital = bench.costs.start_equity * len(quotes.symbols)
            worth = closing[rows, k] * equity[rows] * capital
            part.insert(6, "shares", worth / quotes.close[rows, k])
        parts.append(part)
    return pd.concat(parts).sort_values("date", kind="stable", ignore_index=True)


def trades_of_account(played: Played, bench: Bench) -> pd.DataFrame:
    """
    :param played: an account
    :param bench: what it traded
    :return: a row per order filled, as ``trades`` gives it: shares count of the equity of the account
    """
    quotes = bench.quotes
    rows, columns = np.nonzero(np.abs(played.trades.to_numpy()) > NO_ORDER)

    # An order at a close was filled at the bar of its decision.
    stamps = quotes.stamps[rows]
    if not quotes.at_open:
        order_bars = quotes.order_bar[rows, columns]
        stamps = np.array(
            [bench.segments[int(k)].market.dates[bar] for k, bar in zip(columns, order_bars, strict=True)]
        )
    equity = played.account["equity"].to_numpy()
    if not quotes.at_open:
        equity = before(equity)
    trade = played.trades.to_numpy()[rows, columns]
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
    begins = listed & ~np.concatenate([np.zeros_like(listed[:1]), listed[:-1]])
    symbols = listed.shape[1]
    return lambda state: np.where(begins[state.row], 1 / (symbols * state.equity), np.nan)


def equal_weights_every(bench: Bench, every: int = 1) -> WeightRule:
    """:return: the rule that brings each symbol to 1/K of the equity every so many rows"""
    symbols = len(bench.quotes.symbols)
    return _every(every, lambda state: np.full(symbols, 1 / symbols))


def inverse_volatility(bench: Bench, every: int = 1) -> WeightRule:
    """:return: the rule that holds the listed symbols in inverse proportion to their EWMA volatilities"""

    def rule(state: AccountState) -> np.ndarray:
        usable = state.available & (state.volatility > 0)
        inverse = np.zeros(len(usable))
        inverse[usable] = 1 / state.volatility[usable]
        if not usable.any():
            return inverse
        weights: np.ndarray = inverse / inverse.sum()
        return weights

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
    estimator: Any = MeanRisk if kind == "minimum variance" else RiskBudgeting
    risk = bench.risk

    def rule(state: AccountState) -> np.ndarray:
        # Symbols with a past.
        usable = state.available & (bench.quotes.order_bar[state.row] >= lookback)
        weights = np.zeros(len(usable))
        if usable.sum() < 2:
            weights[usable] = 1.0
            return weights

        # Returns up to this close.
        stop = risk.stop[state.row]
        start = max(stop - lookback, 0)
        names = np.array(bench.quotes.symbols)[usable]
        returns = pd.DataFrame(risk.returns[start:stop, usable], columns=names)
        weights[usable] = estimator().fit(returns).weights_
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

    decisions = {
        "fitted rule": fitted(bench.segments, bench.costs),
        "informed rule": informed(bench.segments, bench.costs),
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
    return sharpe_ratio(_returns_of_shifts(bench, played, config, circle, shifts), 1.0)


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
    middle = (np.isfinite(ratios).sum() - 1) // 2
    median = int(np.argsort(ratios)[middle])
    targets = _shifted_targets(played, circle, shifts[median : median + 1])
    return play_account(bench, lambda state: targets(state.row)[0], _free(config))


def _circle(bench: Bench, played: Played) -> np.ndarray:
    """Rows in which all symbols that the account ever holds are listed, shape (L,)."""
    held = (played.weights.to_numpy() != 0).any(axis=0)
    return np.flatnonzero(bench.quotes.listed[:, held].all(axis=1))


def _shifts(circle: np.ndarray, seed: int, runs: int) -> np.ndarray:
    """Different numbers of rows, none of them 0, shape (n,)."""
    shifts: np.ndarray = 1 + np.random.default_rng(seed).permutation(len(circle) - 1)[:runs]
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
    orders = np.where(played.trades.to_numpy() != 0, weights, np.nan)

    # The row that each copy takes its orders from, (R, n).
    source = np.repeat(np.arange(len(weights))[:, None], len(shifts), axis=1)
    place = np.arange(len(circle))
    source[circle] = circle[0] + (place[:, None] - shifts) % len(circle)

    # Where a row does not follow the one before, all weights are ordered.
    follows = np.zeros(source.shape, dtype=bool)
    follows[1:] = np.diff(source, axis=0) == 1

    def targets(row: int) -> np.ndarray:
        origin = source[row]
        of_row: np.ndarray = np.where(follows[row][:, None], orders[origin], weights[origin])
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
    account = bench.account(_free(config), len(shifts))
    returns = np.zeros((rows, len(shifts)))
    alive = np.ones(len(shifts), dtype=bool)
    for row in range(rows):
        step = account.step(targets(row))
        returns[row] = np.where(alive, step.growth - 1, 0.0)
        alive &= ~step.terminated
    return returns
