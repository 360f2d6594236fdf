"""
What days, costs, later fills and seeds leave of a lead. Oracles: pandas ledgers, backtests at the cost that is named,
simulations whose truth is known, Student's t by hand.
"""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from markets import load_shipped

from market_regimes.config import MarketConfig, TradingCosts
from market_regimes.evaluate import robustness as module
from market_regimes.evaluate.account import Account, joint
from market_regimes.evaluate.figures import figures, sharpe_ratio
from market_regimes.evaluate.play import backtest
from market_regimes.evaluate.robustness import (
    AHEAD,
    ALIKE,
    AT_A_COST,
    BEHIND,
    NO_TURNOVER,
    break_even_text,
    interval_over_seeds,
    is_too_short,
    over_seeds,
    robustness,
    sharpe_difference,
)
from market_regimes.evaluate.strategies import buy_and_hold
from market_regimes.market.periods import period_of
from market_regimes.market.segment import Segment
from market_regimes.market.segments import segments_of

MARKET = load_shipped("sp500")
TRAIN = period_of(MARKET, "1999-01-01", "2008-12-31")
TEST = period_of(MARKET, "2011-01-01", "2013-12-31")
SEGMENT = Segment.scaled_by(MARKET, TEST, TRAIN)
NEXT_RETURN = np.append(MARKET.close[1:] / MARKET.close[:-1] - 1, 0.0)


def knows_some(known):
    """In for days that gain, and for a third of the others."""
    return ((NEXT_RETURN[known.bar] > 0) | (known.bar % 3 == 0)).astype(float)


def in_turns(known):
    return (known.bar // 20 % 2).astype(float)


COSTS = TradingCosts()


def of(rule, segments=(SEGMENT,), trading=COSTS):
    """The agent's backtest and its robustness."""
    agent = backtest(segments, trading, rule)
    hold = backtest(segments, trading.of_rules, buy_and_hold)
    return agent, robustness(Account(agent), Account(hold), segments, trading, 252)


def sharpe_of(frames):
    return figures(joint(frames), 252)["sharpe_ratio"]


def test_the_difference_is_that_of_the_figures_and_lies_in_its_interval():
    agent, found = of(knows_some)
    held = sharpe_of(backtest([SEGMENT], TradingCosts(), buy_and_hold))
    assert found["sharpe_difference"] == pytest.approx(sharpe_of(agent) - held, rel=1e-9)
    assert 0 < found["sharpe_difference_low"] < found["sharpe_difference"] < found["sharpe_difference_high"]
    width = found["sharpe_difference_high"] - found["sharpe_difference_low"]
    assert width == pytest.approx(2 * 1.96 * found["sharpe_difference_std_error"], rel=0.1)
    assert found["years"] == len(TEST) / 252
    assert found == of(knows_some)[1]  # the same returns, the same interval


def test_a_ratio_is_that_of_the_figures():
    agent, _ = of(knows_some)
    returns = joint(agent)["return"].to_numpy()
    assert sharpe_ratio(returns, 252) == pytest.approx(sharpe_of(agent), rel=1e-9)
    assert np.isnan(sharpe_ratio(np.zeros(9), 252))
    assert np.isnan(sharpe_ratio(np.ones(1), 252))


@pytest.mark.parametrize("fee", [0.0, 10.0])
@pytest.mark.parametrize("positions", [None, [0.0, 1.0]])
def test_one_bar_later_is_the_targets_shifted_by_a_bar(positions, fee):
    """
    By pandas: filled at the close, a bar earns the target of the close before the last one. Of all equity a purchase
    leaves 1 / (1 + fee), since the fee is paid from it, and a sale 1 - fee.
    """
    trading = TradingCosts(fee_bp=fee, fill="close", positions=positions)
    agent, found = of(in_turns, trading=trading)
    frame = agent["S&P 500"]
    asset = pd.Series(NEXT_RETURN[TEST.start - 1 : TEST.stop - 1], index=frame.index)
    target = frame["target"].shift(1, fill_value=0.0)
    trade = target.diff().fillna(0.0)
    after_fee = 1 - fee / 1e4 * (trade < 0) - fee / (1e4 + fee) * (trade > 0)
    expected = after_fee * (1 + target * asset) - 1
    ratio = expected.mean() / expected.std() * math.sqrt(252)
    assert found["sharpe_ratio_one_bar_later"] == pytest.approx(ratio, rel=1e-9)
    assert found["sharpe_ratio_one_bar_later"] != pytest.approx(sharpe_of(agent), abs=1e-3)
    assert found["fills_at_close"]
    assert not of(in_turns)[1]["fills_at_close"]


def test_nothing_is_held_before_the_first_target_is_filled_though_the_agent_must_hold_something():
    trading = TradingCosts(fee_bp=0.0, fill="close", positions=[0.5, 1.0])
    _, found = of(lambda known: np.ones(len(known.bar)), trading=trading)
    expected = pd.Series(NEXT_RETURN[TEST.start - 1 : TEST.stop - 1])
    expected.iloc[0] = 0.0
    ratio = expected.mean() / expected.std() * math.sqrt(252)
    assert found["sharpe_ratio_one_bar_later"] == pytest.approx(ratio, rel=1e-9)


def test_the_targets_of_several_symbols_are_filled_a_bar_later_each(make_prices, tmp_path):
    """Two copies of one file are that file; so are their targets a bar later, and their costs."""
    for name in ("a", "b"):
        make_prices(600).to_csv(tmp_path / f"{name}.csv", index=False)
    days = dict(train=("2000-01-03", "2001-06-29"), test=("2001-07-02", "2002-04-19"))

    def of_files(*names):
        config = MarketConfig([str(tmp_path / f"{name}.csv") for name in names], **days)
        return of(in_turns, segments_of(config, ("train", "test"))["test"])[1]

    one = of_files("a")
    two = of_files("a", "b")
    numbers = [name for name, value in one.items() if isinstance(value, float)]
    assert {"sharpe_difference", "sharpe_ratio_one_bar_later", "years"} <= set(numbers)
    assert [two[name] for name in numbers] == pytest.approx([one[name] for name in numbers], rel=1e-9)
    assert two["break_even"] == one["break_even"]


@pytest.mark.parametrize(
    "trading",
    [
        TradingCosts(),
        TradingCosts(fee_bp=0.0),
        TradingCosts(fee_bp=3.0, slippage_bp=4.0),
        TradingCosts(position_low=-1.0, position_high=2.0, financing_rate=0.0),
        TradingCosts(start_equity=1e5, fee_per_share=0.05),
    ],
)
@pytest.mark.parametrize("rule", [knows_some, lambda known: 0.5 + 0.1 * (NEXT_RETURN[known.bar] > 0)])
def test_at_the_break_even_cost_both_sharpe_ratios_are_equal(trading, rule):
    """By backtests of both at that cost, given as a fee."""
    _, found = of(rule, trading=trading)
    assert found["break_even"] == AT_A_COST
    at_it = replace(trading, fee_bp=found["break_even_cost_bp"], slippage_bp=0.0)
    own, other = (backtest([SEGMENT], costs, r) for costs, r in ((at_it, rule), (at_it.of_rules, buy_and_hold)))
    assert sharpe_of(own) == pytest.approx(sharpe_of(other), abs=2e-3)
    assert break_even_text(found) == f"{found['break_even_cost_bp']:.1f}"


def test_one_symbol_of_several_that_fills_at_the_close_is_enough_to_say_so():
    closes = Segment.scaled_by(replace(MARKET, symbol="closes", fill="close"), TEST, TRAIN)
    opens = Segment.scaled_by(replace(MARKET, symbol="opens"), TEST, TRAIN)
    assert of(in_turns, [opens, closes])[1]["fills_at_close"]
    assert not of(in_turns, [opens])[1]["fills_at_close"]


def once_from(day):
    """Buys once, on that day, and keeps it."""
    start = int(np.searchsorted(MARKET.dates, np.datetime64(day)))
    return lambda known: (known.bar >= start).astype(float)


@pytest.mark.parametrize(
    ("rule", "words", "shown"),
    [
        (lambda known: np.zeros(len(known.bar)), NO_TURNOVER, "no trade"),
        (buy_and_hold, ALIKE, "level"),
        (in_turns, BEHIND, "behind"),
        (once_from("2011-10-04"), AHEAD, "over 500"),  # the low of that year
    ],
)
def test_where_there_is_no_break_even_cost_words_say_why(rule, words, shown):
    _, found = of(rule)
    assert (found["break_even"], found["break_even_cost_bp"]) == (words, None)
    assert break_even_text(found) == shown


def test_an_agent_that_never_trades_has_no_figures_and_one_that_holds_no_difference():
    _, flat = of(lambda known: np.zeros(len(known.bar)))
    names = ("sharpe_difference", "sharpe_difference_low", "sharpe_difference_high", "sharpe_ratio_one_bar_later")
    assert [flat[name] for name in names] == [None] * 4
    _, same = of(buy_and_hold)
    assert [same[name] for name in names[:3]] == [0.0, 0.0, 0.0]


def test_ruin_is_named_with_its_bar():
    crash = period_of(MARKET, "2008-09-01", "2008-12-31")
    trading = TradingCosts(position_low=-10.0, position_high=10.0)
    segments = [Segment.scaled_by(MARKET, crash, TRAIN)]
    agent, found = of(lambda known: np.full(len(known.bar), 10.0), segments, trading)
    earned = agent["S&P 500"]["return"] != 0  # nothing after the last loss
    assert found["ruined"] == {"S&P 500": str(earned.index[earned][-1].date())} == {"S&P 500": "2008-10-08"}
    assert of(in_turns)[1]["ruined"] == {}


@pytest.fixture
def few_resamples(monkeypatch):
    monkeypatch.setattr(module, "RESAMPLES", 200)


def days(rng, n):
    """A year of returns whose spread comes in stretches, with fat tails and no drift."""
    spread = 0.01 * np.exp(0.4 * np.sin(np.arange(n) / 60 + rng.uniform(0, 6)))
    return spread * rng.standard_t(5, n)


@pytest.mark.parametrize("bars_held", [1, 20])
def test_noise_is_told_to_beat_the_market_in_one_case_of_forty(bars_held, few_resamples):
    """Without drift every position earns 0, so that the truth is 0. Of 80 cases binomially 6 or fewer in 0.99 each."""
    rng = np.random.default_rng(5)
    beat = lost = 0
    for _ in range(80):
        market = days(rng, 252)
        positions = np.repeat(rng.integers(0, 2, 252 // bars_held + 1), bars_held)[:252]
        found = sharpe_difference(positions * market, market, 252)
        beat += found.low > 0
        lost += found.high < 0
    assert max(beat, lost) <= 6


def test_a_rule_that_knows_a_little_of_the_next_day_is_told_to_beat_the_market(few_resamples):
    rng = np.random.default_rng(6)
    told = 0
    for _ in range(10):
        market = days(rng, 1000)
        right = rng.uniform(size=1000) < 0.65
        told += sharpe_difference(np.where(right, market > 0, market < 0) * market, market, 252).low > 0
    assert told == 10


def test_the_interval_over_seeds_by_hand():
    """
    Differences 0.2 and 0.4: variance 0.02, over two seeds 0.01. Errors of the days 0.3 squared: 0.09. Together 0.1,
    with 0.1^2 / (0.01^2 / 1) = 100 degrees of freedom: t is 1.98397, half the width 1.98397 sqrt(0.1) = 0.62739.
    """
    low, high = interval_over_seeds(np.array([0.2, 0.4]), np.array([0.3, 0.3]))
    assert (low, high) == pytest.approx((0.3 - 0.62739, 0.3 + 0.62739), abs=1e-5)
    # Seeds that agree leave the days alone: 1.95996 of 0.3.
    low, high = interval_over_seeds(np.array([0.3, 0.3]), np.array([0.2, 0.4]))
    assert (low, high) == pytest.approx((0.3 - 0.58799, 0.3 + 0.58799), abs=1e-5)
    # Days without error leave two seeds alone: t with one degree of freedom is 12.7062, times sqrt(0.01).
    low, high = interval_over_seeds(np.array([0.2, 0.4]), np.zeros(2))
    assert (low, high) == pytest.approx((0.3 - 1.27062, 0.3 + 1.27062), abs=1e-5)
    assert interval_over_seeds(np.array([0.2]), np.array([0.3])) is None


@pytest.mark.parametrize("seeds", [2, 4])
def test_seeds_of_noise_are_told_to_beat_the_market_in_one_case_of_forty_at_most(seeds):
    """
    Truth 0: each seed errs by what all share, the days, and by its own draw. Of 400 cases at most 19 in 0.99 of draws.
    """
    rng = np.random.default_rng(7)
    beat = 0
    for _ in range(400):
        differences = rng.normal(0, 0.4) + rng.normal(0, 0.5, seeds)
        low, _ = interval_over_seeds(differences, np.full(seeds, 0.4))
        beat += low > 0
    assert beat <= 19


def result(ratio, error=0.2, other=0.5, years=4.0):
    """Of an evaluation."""
    difference = None if ratio is None else ratio - other
    return {
        "joint": {"agent": {"sharpe_ratio": ratio}, "buy and hold": {"sharpe_ratio": other}},
        "robustness": {
            "sharpe_difference": difference,
            "sharpe_difference_std_error": None if ratio is None else error,
            "years": years,
        },
    }


def test_seeds_are_counted_and_those_without_a_ratio_left_out_of_the_mean():
    found = over_seeds([result(0.9), result(0.3), result(None), result(0.9)])
    assert (found["seeds"], found["seeds_with_sharpe_ratio"], found["seeds_above"]) == (4, 3, 2)
    assert found["mean_sharpe_ratio"] == pytest.approx(0.7)  # the median is 0.9
    assert found["sharpe_difference"] == pytest.approx(0.2)
    bounds = interval_over_seeds(np.array([0.4, -0.2, 0.4]), np.full(3, 0.2))
    assert (found["sharpe_difference_low"], found["sharpe_difference_high"]) == pytest.approx(bounds)
    none = over_seeds([result(None), result(None)])
    assert (none["mean_sharpe_ratio"], none["sharpe_difference"], none["sharpe_difference_low"]) == (None, None, None)


@pytest.mark.parametrize(("bars", "short"), [(126, True), (246, True), (248, False), (251, False), (252, False)])
def test_a_calendar_year_of_stocks_is_long_enough_and_nothing_below(bars, short):
    """1996 to 2025 had 248 (2001) to 254 days of trading."""
    assert is_too_short(bars / 252) == short
