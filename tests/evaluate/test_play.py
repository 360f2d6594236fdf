"""
The loop over bars, its fills and orders, and the agent's trades at random times. Oracles: prices by hand, the files
themselves, the binomial law of luck.
"""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from markets import load_shipped
from scipy.stats import binom

from market_regimes import Agent, MarketConfig, RunConfig, Study, TradingCosts
from market_regimes.evaluate.account import Account, joint
from market_regimes.evaluate.figures import figures, rank_among, summary
from market_regimes.evaluate.play import (
    backtest,
    discounted,
    discounted_sums,
    fill_times,
    play,
    positions,
    random_timing,
    trades,
)
from market_regimes.evaluate.strategies import buy_and_hold
from market_regimes.market.data import read_bars
from market_regimes.market.environment import MarketCore
from market_regimes.market.market import Market, market_of
from market_regimes.market.periods import period_of
from market_regimes.market.segment import Segment

MARKET = load_shipped("sp500")


TRAIN = period_of(MARKET, "1999-01-01", "2008-12-31")


TEST = period_of(MARKET, "2011-01-01", "2018-12-31")


SEGMENT = Segment.scaled_by(MARKET, TEST, TRAIN)


@pytest.fixture(scope="module")
def held():
    return backtest([SEGMENT], TradingCosts(), buy_and_hold)["S&P 500"]


NASDAQ = load_shipped("nasdaq")


NASDAQ = replace(NASDAQ, regimes=NASDAQ.regimes.fitted(NASDAQ.index, TRAIN))


BOTH = [SEGMENT, Segment.scaled_by(NASDAQ, range(TEST.start, TEST.stop - 500), TRAIN)]


COSTS = TradingCosts(fee_bp=5.0)


def alternate(known):
    """In for ten bars, out for ten; the period begins alike in both."""
    return ((known.bar - SEGMENT.first) // 10 % 2).astype(float)


def test_figures_of_an_agent_that_never_trades_are_left_undefined():
    flat = backtest([SEGMENT], TradingCosts(), lambda known: np.zeros(1))["S&P 500"]
    computed = figures(flat, 252)
    assert computed["sharpe_ratio"] is None
    assert computed["sortino_ratio"] is None
    assert computed["max_drawdown"] == 0.0


def test_each_symbol_is_traded_as_if_alone():
    both = backtest(BOTH, COSTS, alternate)
    for segment in BOTH:
        alone = backtest([segment], COSTS, alternate)[segment.market.symbol]
        pd.testing.assert_frame_equal(both[segment.market.symbol], alone)


def test_random_timing_keeps_turnover_and_exposure_and_loses_the_timing():
    agent = backtest(BOTH, COSTS, alternate)
    shifted, sharpe = random_timing(BOTH, COSTS, agent, seed=0, runs=21)
    assert len(np.unique(sharpe)) > 10
    for symbol in agent:
        assert sorted(shifted[symbol]["target"]) == sorted(agent[symbol]["target"])
        assert not np.array_equal(shifted[symbol]["target"], agent[symbol]["target"])
        turnover = [frames[symbol]["trade"].abs().sum() for frames in (shifted, agent)]
        assert turnover[0] == pytest.approx(turnover[1], rel=0.03)
    returns = joint(shifted)["return"]
    assert returns.mean() / returns.std() == pytest.approx(np.median(sharpe))
    again = random_timing(BOTH, COSTS, agent, seed=0, runs=21)[1]
    assert np.array_equal(sharpe, again)


def test_random_timing_of_an_agent_that_never_trades():
    flat = backtest([SEGMENT], COSTS, lambda known: np.zeros(len(known.bar)))
    shifted, sharpe = random_timing([SEGMENT], COSTS, flat, seed=0, runs=5)
    assert np.isnan(sharpe).all()
    assert (shifted["S&P 500"]["return"] == 0).all()


def test_after_ruin_nothing_is_held_and_nothing_earned():
    crash = period_of(MARKET, "2008-09-01", "2008-12-31")
    costs = TradingCosts(position_low=-10.0, position_high=10.0)
    frame = backtest([Segment.scaled_by(MARKET, crash, TRAIN)], costs, lambda known: np.full(len(known.bar), 10.0))[
        "S&P 500"
    ]
    assert len(frame) == len(crash)
    ruined = frame["equity"] <= 0.0100001
    assert 0 < ruined.sum() < len(frame)
    assert (frame.loc[ruined, "return"].iloc[1:] == 0).all()
    assert (frame.loc[ruined, "position"].iloc[1:] == 0).all()


def test_trades_are_the_orders_filled():
    frame = backtest([SEGMENT], COSTS, alternate)
    orders = trades(frame)
    first = orders.iloc[0]
    assert (first["symbol"], first["side"], first["target"]) == ("S&P 500", "buy", 1.0)
    assert first["price"] == MARKET.open[TEST.start + 10]
    assert orders.index[0] == pd.Timestamp(MARKET.dates[TEST.start + 10])
    large = orders[orders["traded"] > 0.5]
    assert large["side"].tolist() == ["buy", "sell"] * (len(TEST) // 20) + ["buy"] * (len(TEST) % 20 > 10)
    at_close = trades(backtest([SEGMENT], TradingCosts(fill="close"), alternate)).iloc[0]
    assert at_close["price"] == MARKET.close[TEST.start + 9]


def test_discounted_rewards_by_the_definition(held):
    frame = held.iloc[:3]
    r = 100 * np.log1p(frame["return"].to_numpy())
    expected = [r[0] + 0.9 * r[1] + 0.81 * r[2] + 0.729 * 7, r[1] + 0.9 * r[2] + 0.81 * 7, r[2] + 0.9 * 7]
    assert discounted({"A": frame}, np.array([7.0]), 0.9) == pytest.approx(expected)


def test_discounted_rewards_end_with_ruin():
    crash = period_of(MARKET, "2008-09-01", "2008-12-31")
    costs = TradingCosts(position_low=-10.0, position_high=10.0)
    frames = backtest([Segment.scaled_by(MARKET, crash, TRAIN)], costs, lambda known: np.full(len(known.bar), 10.0))
    outcomes = discounted(frames, np.array([99.0]), 1.0)
    assert outcomes[0] == pytest.approx(100 * np.log(0.01))
    assert np.isnan(outcomes[-1])


def test_the_decision_rule_sees_the_last_state_too():
    seen = []
    frame = backtest([SEGMENT], COSTS, lambda known: seen.append(known.bar.copy()) or np.zeros(1))["S&P 500"]
    assert len(seen) == len(frame) + 1
    assert MARKET.dates[seen[-1][0]] == frame.index[-1].to_numpy()


FREQUENCIES = {"daily": "B", "weekly": "W-FRI", "hourly": "h", "monthly": "MS"}


def files_of(folder, make_prices, frequency, closes_only):
    """Two files; the second lacks opening prices where they are left out at all."""
    for i, name in enumerate("AB"):
        table = make_prices(300, seed=i, frequency=FREQUENCIES[frequency])
        columns = ["open"] if closes_only == "both" or (closes_only == "B" and name == "B") else []
        table.drop(columns=columns).to_csv(folder / f"{name}.csv", index=False)
    return [str(folder / f"{name}.csv") for name in "AB"]


@pytest.mark.parametrize("frequency", FREQUENCIES)
@pytest.mark.parametrize(("closes_only", "fill"), [("none", None), ("none", "close"), ("both", None), ("B", None)])
def test_the_price_of_a_trade_is_that_of_the_file_at_its_date(tmp_path, make_prices, frequency, closes_only, fill):
    """Targets alternate every third bar between 1 and 0, so the fills are known: each third bar from the first on."""
    entries = files_of(tmp_path, make_prices, frequency, closes_only)
    costs = TradingCosts(fee_bp=0.0, **({} if fill is None else {"fill": fill}))
    segments = []
    for bars in read_bars(MarketConfig(entries)):
        market = market_of(bars, MarketConfig(entries), range(300), 299)
        segments.append(Segment.scaled_by(market, range(101, 300), range(300)))
    targets = [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]
    frames = backtest(segments, costs, lambda known: np.array([targets[(bar - 100) % 6] for bar in known.bar]))
    table = trades(frames, fill_times(segments, costs))
    for name, entry in zip("AB", entries, strict=True):
        prices = pd.read_csv(entry, parse_dates=["date"])
        at_close = fill == "close" or "open" not in prices
        mine = table[table["symbol"] == name]
        # Decided at the closes of bars 100, 103, ..., 298 at the latest; filled there, or at the next open.
        rows = [bar if at_close else bar + 1 for bar in range(100, 299, 3)]
        assert mine.index.tolist() == prices["date"].iloc[rows].tolist()
        assert mine["price"].tolist() == prices["close" if at_close else "open"].iloc[rows].tolist()
        assert mine["side"].tolist() == [("buy", "sell")[i % 2] for i in range(len(rows))]

        # Equity at the close of the bar that filled it: without costs it is what is held times the price.
        equity, cash, shares = [], 1.0, 0.0
        for bar in range(100, 300):
            decided = {True: bar, False: bar - 1}[at_close]
            price = prices["close" if at_close else "open"].iloc[bar]
            before = cash + shares * prices["close"].iloc[bar]
            if decided in range(100, 299):
                worth = cash + shares * price
                # A target that stays 1 is all that there is, one of 0 nothing.
                shares = targets[(decided - 100) % 6] * worth / price
                cash = worth - shares * price
            after = cash + shares * prices["close"].iloc[bar]
            if bar in rows:
                equity.append(before if at_close else after)
        assert mine["equity"].tolist() == pytest.approx(equity, rel=1e-9)


@pytest.mark.parametrize("closes_only", ["none", "both"])
def test_the_files_of_an_evaluation_date_fills_and_decisions(tmp_path, make_prices, closes_only):
    entries = files_of(tmp_path, make_prices, "daily", closes_only)
    run = RunConfig(total_timesteps=32, n_envs=2, out=str(tmp_path), name="run", progress_bar=False)
    folder = Study(run, MarketConfig(entries), dict(n_steps=16, batch_size=32, n_epochs=1, seed=0)).start()
    agent = Agent.load(folder)
    agent.evaluate(agent.segments(entries), folder, "x")
    fills = pd.read_csv(folder / "trades-x.csv", parse_dates=["date"])
    decisions = pd.read_csv(folder / "positions-x.csv", parse_dates=["date"])
    column, later = ("open", 1) if closes_only == "none" else ("close", 0)
    assert len(fills) > 10
    for name, entry in zip("AB", entries, strict=True):
        prices = pd.read_csv(entry, parse_dates=["date"]).set_index("date")
        mine = fills[fills["symbol"] == name].set_index("date")
        assert mine["price"].tolist() == prices.loc[mine.index, column].tolist()

        # A decision of a close is filled there, or at the open of the next bar.
        decided = decisions[decisions["symbol"] == name].set_index("date")["target"]
        of_fill = prices.index[prices.index.get_indexer(mine.index) - later]
        assert mine["target"].tolist() == decided.loc[of_fill].tolist()


def test_periods_begin_with_a_fill_at_the_close_before_them(tmp_path, make_prices):
    """The first return of a period is earned by what was bought at the close before it."""
    (entry, _) = files_of(tmp_path, make_prices, "daily", "both")
    (bars,) = read_bars(MarketConfig(entry))
    market = market_of(bars, MarketConfig(entry), range(300), 299)
    period = period_of(market, "2000-06-01", "2000-12-29")
    segments = [Segment.scaled_by(market, period, range(300))]
    frames = backtest(segments, TradingCosts(), lambda known: np.ones(1))
    table = trades(frames, fill_times(segments, TradingCosts()))
    # 2000-06-01 is a Thursday: the order of Wednesday's close earns its return.
    assert (str(table.index[0].date()), len(table)) == ("2000-05-31", 1)
    assert table["equity"].iloc[0] == 1.0


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
        found.append(Segment.scaled_by(market, range(WARM, len(market.close)), range(len(market.close))))
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
    short = Segment.scaled_by(segment.market, range(WARM, WARM + bars), segment.training)
    agent = backtest([short], TradingCosts(), lambda known: known.bar % 2.0)
    shifted, ratios = random_timing([short], TradingCosts(), agent, seed=0)
    assert len(ratios) == max(bars - 1, 1)
    assert len(shifted["S0"]) == bars


PRICES = np.array([100.0, 100.0, 110.0, 99.0, 99.0, 108.9])  # +10 %, -10 %, 0, +10 % from the second one on


def core_of(*lengths):
    """An agent per symbol on the last bars of flat markets that end in ``PRICES``, filled at the close, for free."""
    segments = []
    for number, length in enumerate(lengths):
        wobble = 100 + 5 * np.sin(np.arange(60) ** 1.5)
        close = np.concatenate([wobble, PRICES[:length]])
        days = pd.bdate_range("2001-01-01", periods=len(close)).to_numpy().astype("M8[s]")
        market = Market(
            f"S{number}", "nowhere", days, close, close, np.arange(1.0, len(close) + 1), np.full(len(close), 10.0)
        )
        segments.append(Segment.scaled_by(market, range(62, len(close)), range(60)))
    return MarketCore(segments, len(segments), TradingCosts(fee_bp=0.0, fill="close"), episode_bars=None)


def test_an_episode_is_decisions_fills_and_growth_bar_by_bar():
    core = core_of(6)
    targets = iter([1.0, 0.0, 0.5, 1.0, 0.25])

    episode = play(core, lambda known: np.array([next(targets)]))

    assert episode.decision[:, 0].tolist() == [1.0, 0.0, 0.5, 1.0, 0.25]
    assert episode.growth[:, 0] == pytest.approx([1.1, 1.0, 1.0, 1.1])
    assert episode.held[:, 0] == pytest.approx([0.0, 1.0, 0.0, 0.5, 1.0])
    assert episode.bar[:, 0].tolist() == [61, 62, 63, 64, 65]
    assert episode.rewards[:, 0] == pytest.approx([100 * np.log(1.1), 0.0, 0.0, 100 * np.log(1.1)])
    assert episode.observations[:, 0, -1] == pytest.approx(episode.held[:, 0])
    assert episode.columns()["position"][:, 0] == pytest.approx([1.0, 0.0, 0.5, 1.0])  # at the close of each bar


def test_given_targets_are_filled_as_those_of_a_rule():
    targets = np.array([[1.0], [0.0], [0.5], [1.0], [0.25]])
    rows = iter(targets)

    given = play(core_of(6), targets)
    decided = play(core_of(6), lambda known: next(rows))

    assert given.observations.size == 0
    for name in ("bar", "held", "decision", "alive", "growth", "gross_growth", "trade", "cost", "ruined"):
        assert np.array_equal(getattr(given, name), getattr(decided, name)), name


def test_targets_beyond_the_bounds_are_brought_to_them():
    episode = play(core_of(6), lambda known: np.array([7.0]))

    assert episode.decision[:, 0].tolist() == [1.0] * 5


def test_an_agent_at_its_end_waits_for_the_others():
    """The second symbol ends two bars before the first; what it decides there is not filled."""
    episode = play(core_of(6, 4), lambda known: np.ones(2))

    assert episode.alive.T.tolist() == [[True] * 4, [True, True, False, False]]
    assert episode.growth[:, 1] == pytest.approx([1.1, 0.9, 1.0, 1.0])
    assert episode.bar[:, 1].tolist() == [len(PRICES) + 59 + 60 + 2 + n for n in (0, 1, 2, 2, 2)]
    assert episode.columns()["target"][:, 1].tolist() == [1.0, 1.0, 0.0, 0.0]


def test_a_position_that_is_given_counts_at_the_last_close_only():
    core = core_of(6, 4)
    positions = []

    def decide(known):
        positions.append(known.position.copy())
        return np.ones(2)

    episode = play(core, decide, at_end=np.array([0.25, np.nan]))

    assert [row[0] for row in positions] == pytest.approx([0.0, 1.0, 1.0, 1.0, 0.25])
    assert [row[1] for row in positions] == pytest.approx([0.0, 1.0, 1.0, 1.0, 1.0])
    assert episode.observations[-1, :, -1] == pytest.approx([0.25, 1.0])


def test_agents_that_start_at_their_last_bar_decide_once():
    core = core_of(6)
    core.start_at(core.last, np.array([0.75]))

    episode = play(core, lambda known: np.array([0.5]))

    assert episode.growth.shape == (0, 1)
    assert (episode.held.tolist(), episode.decision.tolist()) == ([[0.75]], [[0.5]])
    assert core.equity.tolist() == [1.0]


def test_a_start_elsewhere_copies_what_it_is_given():
    core = core_of(6)
    bar = core.first + 1
    position = np.array([0.5])
    core.start_at(bar, position)

    bar += 1
    position += 1

    assert (core.bar - core.first, core.position.tolist()) == ([1], [0.5])


def test_sums_of_discounted_rewards_by_hand():
    """4 + 8 / 2 + 2 / 4 = 8.5; 8 + 2 / 2 = 9; 2. With 16 after the last one: 2, 4 and 8 more."""
    rewards = np.array([4.0, 8.0, 2.0])

    assert discounted_sums(rewards, 0.0, 0.5).tolist() == [8.5, 9.0, 2.0]
    assert discounted_sums(rewards, 16.0, 0.5).tolist() == [10.5, 13.0, 10.0]
    both = np.stack([rewards, 2 * rewards], axis=1)
    assert discounted_sums(both, 0.0, 0.5).T.tolist() == [[8.5, 9.0, 2.0], [17.0, 18.0, 4.0]]


def test_trading_at_random_times_has_no_sharpe_ratio_where_nothing_varies():
    """All in cash at 5 % a year: every bar the same return."""
    costs = TradingCosts(cash_rate=0.05)
    agent = backtest([SEGMENT], costs, lambda known: np.zeros(len(known.bar)))
    assert agent[MARKET.symbol]["return"].to_numpy() == pytest.approx(0.05 / 252)
    assert np.isnan(random_timing([SEGMENT], costs, agent, seed=0, runs=5)[1]).all()


def test_nothing_comes_after_ruin():
    """The equity stays below the hundredth that ends it; the critic's value of 7 completes nothing."""
    frame = pd.DataFrame({"return": [0.1, -0.995, 0.0, 0.0], "equity": [1.1, 0.0055, 0.0055, 0.0055]})
    outcome = discounted({"one": frame}, np.array([7.0]), 0.5)
    last = 100 * np.log(0.005)
    assert outcome[:2] == pytest.approx([100 * np.log(1.1) + 0.5 * last, last])
    assert np.isnan(outcome[2:]).all()


SYMBOLS = ("A", "B", "C")


def test_figures_trades_and_positions_of_several_symbols_are_those_of_each_alone():
    """Three random walks of other lengths, each traded by its own rhythm."""
    rng = np.random.default_rng(0)
    segments = []
    for number, symbol in enumerate(SYMBOLS):
        bars = 140 + 20 * number
        close = 100 * np.exp(np.cumsum(rng.normal(0, 0.02, bars)))
        dates = np.datetime64("2001-01-01", "s") + 86400 * np.arange(bars)
        index = 20 + 10 * np.sin(np.arange(bars) / (number + 2))
        market = Market(symbol, "nowhere", dates, close, close, np.arange(1.0, bars + 1), index)
        segments.append(Segment.scaled_by(market, range(21, bars), range(bars)))
    costs = TradingCosts(fee_bp=10.0)
    frames = backtest(segments, costs, lambda known: (known.bar // (3 + known.symbol) % 2).astype(float))
    together = summary({"agent": Account(frames)}, 252)["symbols"]
    orders, decisions = trades(frames), positions(frames, segments)
    for number, segment in enumerate(segments):
        symbol = segment.market.symbol
        alone = backtest([segment], costs, lambda known, pace=3 + number: (known.bar // pace % 2).astype(float))
        assert together[symbol] == summary({"agent": Account(alone)}, 252)["symbols"][symbol]
        pd.testing.assert_frame_equal(orders[orders["symbol"] == symbol], trades(alone))
        mine = decisions[decisions["symbol"] == symbol].reset_index(drop=True)
        pd.testing.assert_frame_equal(mine, positions(alone, [segment]))
    assert len({of["agent"]["sharpe_ratio"] for of in together.values()}) == 3
