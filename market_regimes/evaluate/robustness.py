"""How far an agent's lead over buy-and-hold carries: other days, other costs, later fills, other seeds."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import pandas as pd

from market_regimes.config import TradingCosts
from market_regimes.evaluate.account import Account, Frames, joint
from market_regimes.evaluate.figures import NO_SPREAD, or_none, sharpe_of, sharpe_ratio
from market_regimes.evaluate.play import RUINED, backtest
from market_regimes.evaluate.strategies import AGENT, HOLD
from market_regimes.market.market import fills_at_open
from market_regimes.market.segment import Segment

MIN_BARS = 20  # with fewer returns no interval is given
RESAMPLES = 1000
LEVEL = 0.95  # of the intervals
YEAR_SLACK = 0.02  # a calendar year of stocks has 248 to 254 bars
MAX_COST_BP = 500.0  # up to which a break-even cost is searched
NO_LEAD = 1e-9  # difference of Sharpe ratios that rounding makes

AT_A_COST = "at a cost"
BEHIND = "behind at no cost"
ALIKE = "level at any cost"
AHEAD = "ahead up to the largest cost"
NO_TURNOVER = "no turnover"
UNDEFINED = "undefined"
# In the place of a number.
BREAK_EVEN_TEXTS = {
    BEHIND: "behind",
    ALIKE: "level",
    AHEAD: f"over {MAX_COST_BP:g}",
    NO_TURNOVER: "no trade",
    UNDEFINED: "n/a",
}


class TradedAgain(Protocol):
    """From a delay in rows and a cost of orders in basis points to the frames of an agent's targets once more."""

    def __call__(self, delay: int = 0, cost_bp: float | None = None) -> Frames: ...


@dataclass(frozen=True)
class SharpeDifference:
    """
    Difference of two annualised Sharpe ratios on the same bars.

    :param value: the difference
    :param low: lower end of its 95 % interval
    :param high: upper end
    :param std_error: standard deviation over the drawn blocks of bars
    """

    value: float
    low: float
    high: float
    std_error: float


def sharpe_difference(
    returns: np.ndarray, benchmark: np.ndarray, bars_per_year: float, seed: int = 0
) -> SharpeDifference | None:
    """
    Stationary block bootstrap (Politis & Romano 1994). Both series are drawn on the same bars, in blocks, since returns
    and their spread are alike from bar to bar.

    :param returns: simple returns, shape (T,)
    :param benchmark: of the same bars
    :param bars_per_year: what annualises
    :param seed: of the bootstrap
    :return: None with fewer than ``MIN_BARS`` bars, and where a Sharpe ratio is undefined
    """
    # Here, since it takes a second and ``signal``, which imports this module, does without.
    from arch.bootstrap import StationaryBootstrap, optimal_block_length

    both = np.stack([returns, benchmark], axis=1)
    if len(returns) < MIN_BARS or not np.isfinite(sharpe_ratio(both, bars_per_year)).all():
        return None

    def difference(drawn: np.ndarray) -> np.ndarray:
        """Annualised difference of the two ratios, of which one without spread counts as 0."""
        per_bar = np.nan_to_num(sharpe_ratio(drawn, 1.0))
        annualised: np.ndarray = math.sqrt(bars_per_year) * (per_bar[:1] - per_bar[1:])
        return annualised

    # The mean length of a block follows from how long the gap of the two series remembers.
    gap = returns - benchmark
    block = 1.0
    if gap.std() > NO_SPREAD:
        remembered = float(optimal_block_length(gap)["stationary"].iloc[0])
        block = max(1.0, or_none(remembered) or 1.0)

    # The differences of the drawn blocks.
    rng = np.random.default_rng(seed)
    bootstrap = StationaryBootstrap(math.ceil(block), both, seed=rng)
    drawn = bootstrap.apply(difference, RESAMPLES)[:, 0]

    # Their middle part is the interval.
    ends = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    low, high = np.quantile(drawn, ends)
    value = difference(both)[0]
    return SharpeDifference(
        value=float(value),
        low=float(low),
        high=float(high),
        std_error=float(drawn.std(ddof=1)),
    )


def robustness(
    agent: Account,
    hold: Account,
    segments: Sequence[Segment],
    trading: TradingCosts,
    bars_per_year: float,
    again: TradedAgain | None = None,
) -> dict[str, Any]:
    """
    :param agent: the agent's account
    :param hold: that of buy-and-hold on the same bars
    :param segments: what was traded
    :param trading: what trading costs and what the agent may hold
    :param bars_per_year: what annualises
    :param again: the agent's targets once more, None: ``replayed``, with an account for each symbol
    :return: for JSON: ``years`` of bars; ``sharpe_difference``, agent minus buy-and-hold, with the ends of its 95 %
        interval as ``_low`` and ``_high`` and its ``_std_error``; ``sharpe_ratio_one_bar_later``; ``break_even`` in
        words and ``break_even_cost_bp``; ``fills_at_close``; ``ruined``, per symbol the bar. None: undefined
    """
    # The lead over buy-and-hold and its interval.
    returns = agent.joint["return"].to_numpy()
    returns_of_hold = hold.joint["return"].to_numpy()
    difference = sharpe_difference(returns, returns_of_hold, bars_per_year)
    interval: dict[str, Any] = {}
    if difference is not None:
        interval = asdict(difference)

    # The agent's targets again, one bar later and at other costs.
    if again is None:
        again = partial(replayed, agent.frames, segments, trading)
    later = joint(again(delay=1))
    break_even, cost = _break_even(agent, hold, again, trading, bars_per_year)

    # Whether an order is filled at a close that is still to come when it is decided.
    all_at_open = all(fills_at_open(segment.market, trading) for segment in segments)

    return {
        "years": len(returns) / bars_per_year,
        "sharpe_difference": interval.get("value"),
        "sharpe_difference_low": interval.get("low"),
        "sharpe_difference_high": interval.get("high"),
        "sharpe_difference_std_error": interval.get("std_error"),
        "sharpe_ratio_one_bar_later": sharpe_of(later, bars_per_year),
        "break_even": break_even,
        "break_even_cost_bp": cost,
        "fills_at_close": not all_at_open,
        "ruined": _ruined(agent),
    }


def replayed(
    agent: Frames,
    segments: Sequence[Segment],
    trading: TradingCosts,
    delay: int = 0,
    cost_bp: float | None = None,
) -> Frames:
    """
    Trade the target positions of a backtest once more. Until the first delayed one is filled, nothing is held.

    :param agent: its ``backtest``
    :param segments: what was traded
    :param trading: what trading costs and what the agent may hold
    :param delay: bars by which every order is given later
    :param cost_bp: fee and slippage together, in basis points of the traded value; None: as configured
    :return: as from ``backtest``
    """
    costs = trading.of_rules
    if cost_bp is not None:
        costs = replace(costs, fee_bp=cost_bp, slippage_bp=0.0)

    # The targets of every symbol, later by the delay.
    bars = max(len(frame) for frame in agent.values())
    targets = np.zeros((bars + 1, len(segments)))
    for i, frame in enumerate(agent.values()):
        count = len(frame) - delay
        targets[delay : len(frame), i] = frame["target"].iloc[:count]

    return backtest(segments, costs, targets)


def _break_even(
    agent: Account,
    hold: Account,
    again: TradedAgain,
    trading: TradingCosts,
    bars_per_year: float,
) -> tuple[str, float | None]:
    """
    The smallest cost at which the agent's Sharpe ratio is no longer above buy-and-hold's. Fee and slippage together
    count; interest and costs in currency stay as configured, and both pay the same.

    :param agent: the agent's account, whose targets are filled anew at other costs
    :param hold: that of buy-and-hold on the same bars
    :param again: the agent's targets once more
    :param trading: what trading costs and what the agent may hold
    :param bars_per_year: what annualises
    :return: in words, and in basis points of the traded value where there is one
    """
    from scipy import optimize  # here, as arch above

    # Without trades no cost counts.
    now = trading.fee_bp + trading.slippage_bp
    turnover = agent.joint["trade"].abs().sum()
    if not turnover > 0:
        return NO_TURNOVER, None

    def ratio_at(account: pd.DataFrame, cost: float) -> float:
        """Sharpe ratio at another cost, to first order: every trade pays the difference. NaN where undefined."""
        more = (cost - now) / 1e4 * account["trade"].abs().to_numpy()
        returns = account["return"].to_numpy() - more
        return float(sharpe_ratio(returns, bars_per_year))

    def lead(cost: float) -> float:
        return ratio_at(agent.joint, cost) - ratio_at(hold.joint, cost)

    # Leads fall as costs rise, but for an agent that trades less than buy-and-hold: the first change of sign counts.
    costs = np.concatenate([[0.0], np.geomspace(0.01, MAX_COST_BP, 60)])
    leads = np.array([lead(cost) for cost in costs])
    if not np.isfinite(leads).all():
        return UNDEFINED, None
    if (np.abs(leads) < NO_LEAD).all():
        return ALIKE, None
    if leads[0] <= 0:
        return BEHIND, None
    if (leads > 0).all():
        return AHEAD, None

    # The first change of sign, to first order.
    after = int(np.argmax(leads <= 0))
    cost = float(optimize.brentq(lead, costs[after - 1], costs[after]))

    # Newton's steps towards the exact root, where every order is filled anew at that cost.
    for _ in range(2):
        filled_anew = joint(again(cost_bp=cost))
        ratio = float(sharpe_ratio(filled_anew["return"].to_numpy(), bars_per_year))
        remaining = ratio - ratio_at(hold.joint, cost)
        slope = (lead(1.01 * cost) - lead(0.99 * cost)) / (0.02 * cost)
        if not np.isfinite(remaining) or not slope < 0:
            break

        # A step of at most a factor of two.
        step = cost - remaining / slope
        cost = float(np.clip(step, 0.5 * cost, 2 * cost))

    return AT_A_COST, cost


def _ruined(agent: Account) -> dict[str, str]:
    """Per symbol whose account was ruined the bar on which it was; shared cash ruins all at once."""
    ruined = {}
    for symbol, frame in agent.frames.items():
        rows = agent.joint if "capital" in frame else frame
        bars = rows.index[rows["equity"] <= RUINED]
        if len(bars):
            ruined[symbol] = str(bars[0]).removesuffix(" 00:00:00")
    return ruined


def over_seeds(results: Collection[dict[str, Any]]) -> dict[str, Any]:
    """
    The mean difference over seeds. Its variance is that of other days plus that of other seeds: the square of the mean
    standard error of the block bootstraps, as if all seeds erred alike on the days, and the variance of the seeds'
    differences over their number. Student's t with Satterthwaite's degrees of freedom gives the interval, so that two
    seeds which differ much say little.

    :param results: of one evaluation each, on the same bars, from ``compared``
    :return: for JSON: ``seeds``; ``seeds_with_sharpe_ratio``, the others never held a position; ``seeds_above``, whose
        Sharpe ratio is above buy-and-hold's; ``mean_sharpe_ratio`` and ``sharpe_ratio_of_buy_and_hold``;
        ``sharpe_difference`` with ``_low`` and ``_high``; ``years``. None: undefined
    """
    # The Sharpe ratios, and how uncertain each difference is.
    ratios = [result["joint"][AGENT]["sharpe_ratio"] for result in results]
    of_hold = next(iter(results))["joint"][HOLD.label]["sharpe_ratio"]
    defined = np.array([ratio for ratio in ratios if ratio is not None])
    figures = [result["robustness"] for result in results]
    errors = [figure["sharpe_difference_std_error"] for figure in figures]

    # The lead over buy-and-hold, where that has a Sharpe ratio.
    above = None
    lead = None
    interval = None
    if of_hold is not None:
        differences = defined - of_hold
        above = int((differences > 0).sum())
        if len(defined):
            lead = float(differences.mean())
        defined_errors = np.array([error for error in errors if error is not None])
        interval = interval_over_seeds(differences, defined_errors)
    low, high = interval or (None, None)

    mean = None
    if len(defined):
        mean = float(defined.mean())

    return {
        "seeds": len(ratios),
        "seeds_with_sharpe_ratio": len(defined),
        "seeds_above": above,
        "mean_sharpe_ratio": mean,
        "sharpe_ratio_of_buy_and_hold": of_hold,
        "sharpe_difference": lead,
        "sharpe_difference_low": low,
        "sharpe_difference_high": high,
        "years": min(figure["years"] for figure in figures),
    }


def interval_over_seeds(differences: np.ndarray, std_errors: np.ndarray) -> tuple[float, float] | None:
    """
    :param differences: of each seed's Sharpe ratio from buy-and-hold's, shape (n,)
    :param std_errors: of each over other days, shape (n,)
    :return: 95 % interval of the mean difference, as in ``over_seeds``; None with fewer than two seeds
    """
    from scipy import stats  # here, as arch above

    count = len(differences)
    if count < 2 or len(std_errors) != count:
        return None

    # The variance that comes from the days, and that from the seeds.
    of_days = float(std_errors.mean()) ** 2
    of_seeds = float(differences.var(ddof=1)) / count
    variance = of_days + of_seeds

    # Satterthwaite's degrees of freedom, to which the days add none.
    freedom = np.inf
    if of_seeds > 0:
        freedom = variance**2 / (of_seeds**2 / (count - 1))

    quantile = float(stats.t.ppf((1 + LEVEL) / 2, freedom))
    half = quantile * math.sqrt(variance)
    mean = float(differences.mean())
    return mean - half, mean + half


def is_too_short(years: float) -> bool:
    """Whether bars of so many years say nothing about a yearly figure."""
    return years < 1 - YEAR_SLACK


def break_even_text(figures: dict[str, Any]) -> str:
    """
    :param figures: from ``robustness``
    :return: the break-even cost in basis points as a table has it, or why there is no number
    """
    if figures["break_even_cost_bp"] is not None:
        return f"{figures['break_even_cost_bp']:.1f}"
    return BREAK_EVEN_TEXTS[figures["break_even"]]
