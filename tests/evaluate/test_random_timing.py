"""Random timing says "better than luck" of 5 in 100 agents that trade by luck, and "worse" of as many."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

from market_regimes.config import TradingCosts
from market_regimes.evaluate.account import joint
from market_regimes.evaluate.figures import rank_among
from market_regimes.evaluate.play import backtest, random_timing
from market_regimes.market.segments import Market, Segment

BARS, WARM, COPIES = 40, 21, 19  # of 20 that are drawn alike the agent is the best, or the worst, in 5 % of cases


def segments_of(symbols, late=False, lacking=0.0, seed=0):
    """Stocks of one rising market; every other symbol is listed after a third of the time, or bars are missing."""
    rng = np.random.default_rng(seed)
    of_all = rng.normal(0.002, 0.01, BARS + WARM)
    days = pd.bdate_range("2001-01-01", periods=BARS + WARM).to_numpy().astype("M8[s]")
    found = []
    for k in range(symbols):
        close = 100 * np.exp(np.cumsum(of_all + rng.normal(0, 0.005, BARS + WARM)))
        index = 20 + np.sin(np.arange(BARS + WARM))
        kept = rng.random(BARS + WARM) >= lacking
        kept[: WARM + 1] = True
        begin = BARS // 3 if late and k % 2 else 0
        arrays = (days, close, close, np.arange(1.0, BARS + WARM + 1), index)
        market = Market(f"S{k}", "nowhere", *(array[begin:][kept[begin:]] for array in arrays))
        found.append(Segment(market, range(WARM, len(market.close)), range(len(market.close))))
    return found


def numbers_of_days(segments):
    """Number of the business day of each bar, shape (symbols, bars), 0 beyond a symbol's last."""
    numbers = np.zeros((len(segments), max(len(segment.market.dates) for segment in segments)), dtype=int)
    for k, segment in enumerate(segments):
        days = segment.market.dates.astype("M8[D]")
        numbers[k, : len(days)] = np.busday_count(np.datetime64("2001-01-01"), days)
    return numbers


def of_days(number, positions):
    """The trading rule whose target for a day is that day's row of positions, (days, symbols)."""
    return lambda known: positions[number[known.symbol, known.bar], known.symbol]


def shares_of_noise(segments, agents, common, hold=1, seed=1):
    """Of agents that hold each symbol in half of the stretches of ``hold`` days, by one coin or by one for each."""
    rng = np.random.default_rng(seed)
    costs = TradingCosts(fee_bp=1.0)
    shares = []
    number = numbers_of_days(segments)
    for i in range(agents):
        shape = (BARS + WARM, len(segments))
        by_one_coin = rng.random(shape) < common
        coins = np.where(by_one_coin, rng.random((shape[0], 1)), rng.random(shape)) < 0.5
        stretches = np.repeat(coins[: BARS // hold], hold, axis=0).astype(float)

        # Stretches begin anywhere, so that the agent and its shifted copies are drawn alike.
        positions = np.zeros(shape)
        positions[WARM - 1 : -1] = np.roll(stretches, rng.integers(hold), axis=0)
        agent = backtest(segments, costs, of_days(number, positions))
        _, ratios = random_timing(segments, costs, agent, seed=i, runs=COPIES)
        rank = rank_among(joint(agent)["return"], ratios)
        if rank is not None:  # else it never held anything
            shares.append(rank.share)
    return np.array(shares)


CASES = {
    "one symbol": (1, 100, 1.0, 1, {}),
    "one symbol, stretches": (1, 100, 1.0, 5, {}),
    "20 symbols, each by its own coin": (20, 20, 0.0, 1, {}),
    "20 symbols, half by one coin": (20, 20, 0.5, 1, {}),
    "20 symbols, all by one coin": (20, 20, 1.0, 1, {}),
    "6 symbols, stretches": (6, 30, 1.0, 5, {}),
    "6 symbols, half of them listed later": (6, 30, 1.0, 1, {"late": True}),
    "6 symbols that lack other days": (6, 30, 1.0, 1, {"lacking": 0.1}),
}


@pytest.fixture(scope="module")
def shares():
    """Per case the shares of its agents. The seed of the agents differs, so that all cases together are independent."""
    return {
        name: shares_of_noise(segments_of(symbols, **kind), agents, common, hold, seed=seed)
        for seed, (name, (symbols, agents, common, hold, kind)) in enumerate(CASES.items())
    }


@pytest.mark.parametrize("name", [*CASES, "all cases together"])
def test_timing_by_luck_is_better_than_luck_in_a_twentieth_of_cases_and_worse_in_another(name, shares):
    """A number of its own for each symbol would call 44 to 48 % of those with common positions worse than luck."""
    of_case = np.concatenate([*shares.values()]) if name not in shares else shares[name]
    low, high = binom.ppf([0.001, 0.999], len(of_case), 0.05)
    assert low <= (of_case >= 0.95).sum() <= high
    assert low <= (of_case <= 0.05).sum() <= high
    assert abs(of_case.mean() - 0.5) < 3.3 * np.sqrt(1 / 12 / len(of_case))


def test_one_hundred_copies_leave_a_twentieth_too():
    """Of 101 that are drawn alike those of the ranks 97 to 101, and 1 to 5, are beyond luck: 4.95 % each."""
    returns = pd.Series([0.02, 0.0])
    own = 1 / np.sqrt(2)  # mean 0.01, standard deviation 0.01 * root 2
    by_count = [rank_among(returns, np.where(np.arange(100) < below, own - 1, own + 1)).share for below in range(101)]
    assert [below for below, share in enumerate(by_count) if share >= 0.95] == [96, 97, 98, 99, 100]
    assert [below for below, share in enumerate(by_count) if share <= 0.05] == [0, 1, 2, 3, 4]
    assert [round(100 * share) for share in by_count] == list(range(101))  # which the sentence says


def test_equal_ratios_count_half():
    returns = pd.Series([0.02, 0.0])
    own = 1 / np.sqrt(2)
    assert rank_among(returns, np.full(9, own)).share == 0.5
    assert rank_among(returns, np.array([own, own - 1, own - 1])).share == pytest.approx((2 + (1 + 1) / 2) / 4)
    assert rank_among(returns, np.array([own - 1, np.nan, own + 1])).share == 0.5  # an undefined one is no copy
    assert rank_among(returns, np.full(3, np.nan)) is None
    assert rank_among(pd.Series([0.01, 0.01]), np.array([1.0])) is None


def test_an_agent_whose_position_never_changes_is_as_good_as_its_copies():
    segments = segments_of(3)
    agent = backtest(segments, TradingCosts(fee_bp=5.0), lambda known: np.full(len(known.bar), 0.5))
    shifted, ratios = random_timing(segments, TradingCosts(fee_bp=5.0), agent, seed=0)
    assert rank_among(joint(agent)["return"], ratios).share == 0.5
    for symbol in agent:
        pd.testing.assert_frame_equal(shifted[symbol], agent[symbol])


def test_symbols_that_are_held_together_are_held_together_in_the_copies():
    """
    Both symbols have the same target on every day, and B lacks some days. In a copy both have that of one other day; on
    a day that B lacked it held the target of its last bar.
    """
    (whole,), lacking = segments_of(1), segments_of(2, lacking=0.1, seed=4)[1]
    positions = np.repeat(np.random.default_rng(2).random((BARS + WARM, 1)), 2, axis=1)
    agent = backtest([whole, lacking], TradingCosts(), of_days(numbers_of_days([whole, lacking]), positions))
    targets = agent["S0"]["target"]
    of_b = agent["S1"]["target"].reindex(targets.index).ffill()
    assert of_b.notna().all()
    assert len(agent["S1"]) < BARS
    for seed in range(5):
        shifted, _ = random_timing([whole, lacking], TradingCosts(), agent, seed=seed, runs=1)
        (shift,) = (
            s for s in range(1, BARS) if np.array_equal(shifted["S0"]["target"], np.roll(targets.to_numpy(), -s))
        )
        expected = pd.Series(np.roll(of_b.to_numpy(), -shift), targets.index)[agent["S1"].index]
        assert shifted["S1"]["target"].tolist() == expected.tolist()


@pytest.mark.parametrize("seed", range(3))
def test_a_symbol_that_is_listed_late_keeps_all_of_its_targets(seed):
    segments = segments_of(2, late=True)
    positions = np.random.default_rng(3).random((BARS + WARM, 2))
    agent = backtest(segments, TradingCosts(), of_days(numbers_of_days(segments), positions))
    shifted, _ = random_timing(segments, TradingCosts(), agent, seed=seed, runs=1)
    for symbol, frame in agent.items():
        assert sorted(shifted[symbol]["target"]) == sorted(frame["target"])
        assert shifted[symbol]["target"].tolist() != frame["target"].tolist()


@pytest.mark.parametrize("runs", [1, 2, 5, 6])
@pytest.mark.parametrize("kind", [{}, {"late": True}, {"lacking": 0.1}])
def test_the_copy_shown_has_the_median_ratio_of_its_account(kind, runs):
    """Of an even number of copies it is the lower one of the two in the middle."""
    segments = segments_of(2, **kind)
    positions = np.random.default_rng(6).random((BARS + WARM, 2))
    agent = backtest(segments, TradingCosts(fee_bp=2.0), of_days(numbers_of_days(segments), positions))
    shifted, ratios = random_timing(segments, TradingCosts(fee_bp=2.0), agent, seed=1, runs=runs)
    returns = joint(shifted)["return"]
    assert returns.mean() / returns.std() == pytest.approx(np.sort(ratios)[(runs - 1) // 2], rel=1e-9)


def test_a_symbol_that_is_listed_late_is_shifted_by_the_same_number():
    """Both have one target a day. Where the day that a copy takes lies in the life of both, they have its target."""
    segments = segments_of(2, late=True)
    positions = np.repeat(np.random.default_rng(7).random((BARS + WARM, 1)), 2, axis=1)
    agent = backtest(segments, TradingCosts(), of_days(numbers_of_days(segments), positions))
    first = BARS - len(agent["S1"])
    assert first > 0
    targets = agent["S0"]["target"].to_numpy()
    for seed in range(4):
        shifted, _ = random_timing(segments, TradingCosts(), agent, seed=seed, runs=1)
        whole = shifted["S0"]["target"].to_numpy()
        late = shifted["S1"]["target"].to_numpy()
        (shift,) = (s for s in range(1, BARS) if np.array_equal(whole, np.roll(targets, -s)))
        source = (np.arange(first, BARS) + shift) % BARS
        inside = source >= first
        assert inside.any()
        assert late[inside].tolist() == targets[source[inside]].tolist()


def test_no_copy_is_the_agent_and_none_is_there_twice():
    (segment,) = segments_of(1)
    positions = np.random.default_rng(5).random((BARS + WARM, 1))
    agent = backtest([segment], TradingCosts(fee_bp=0.0), of_days(numbers_of_days([segment]), positions))
    _, ratios = random_timing([segment], TradingCosts(fee_bp=0.0), agent, seed=0)
    returns = agent["S0"]["return"]
    assert len(ratios) == len(set(ratios.round(12))) == BARS - 1
    assert np.abs(ratios - returns.mean() / returns.std()).min() > 1e-9


@pytest.mark.parametrize("bars", [1, 2, 3])
def test_a_period_of_few_bars_has_few_copies(bars):
    (segment,) = segments_of(1)
    short = Segment(segment.market, range(WARM, WARM + bars), segment.scale_on)
    agent = backtest([short], TradingCosts(), lambda known: known.bar % 2.0)
    shifted, ratios = random_timing([short], TradingCosts(), agent, seed=0)
    assert len(ratios) == max(bars - 1, 1)
    assert len(shifted["S0"]) == bars
