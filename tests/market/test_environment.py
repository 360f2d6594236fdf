"""Episodes, interfaces and the account of the environment; oracles: prices by hand, checkers, a ledger in Python."""

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env as check_gymnasium_env
from hypothesis import given, settings
from hypothesis import strategies as st
from markets import load_shipped, market_of_prices, random_market
from stable_baselines3.common.env_checker import check_env as check_sb3_env

import market_regimes
from market_regimes.config import MarketConfig, TradingCosts
from market_regimes.evaluate.figures import figures
from market_regimes.evaluate.play import backtest, trades
from market_regimes.market.environment import (
    RUIN_EQUITY,
    MarketCore,
    MarketEnv,
    MarketVecEnv,
)
from market_regimes.market.features import WINDOW
from market_regimes.market.periods import period_of
from market_regimes.market.segment import Segment

MARKET = load_shipped("sp500")
TRAIN = period_of(MARKET, "1999-01-01", "2008-12-31")
TEST = period_of(MARKET, "2011-01-01", "2018-12-31")
FREE = TradingCosts(fee_bp=0.0, financing_rate=0.0)


def run(actions, costs=FREE, market=MARKET, period=TEST):
    """All observations, log growths and the core after one pass over the period with one target per step."""
    core = MarketCore([Segment.scaled_by(market, period, TRAIN)], costs=costs, episode_bars=None)
    observations, growths = [core.observations()[0]], []

    for action in actions[: core.episode_bars[0]]:
        result = core.step(np.array([action]))
        observations.append(core.observations()[0])
        growths.append(np.log(result.growth[0]))
        if result.terminated[0]:
            break

    return np.array(observations), np.array(growths), core


def test_buy_and_hold_is_buy_and_hold():
    _, growths, core = run(np.ones(10_000), TradingCosts())
    expected = MARKET.close[TEST[-1]] / MARKET.open[TEST[0]] / (1 + 1e-4)

    assert np.exp(growths.sum()) == pytest.approx(expected, rel=1e-12)
    assert core.equity[0] == pytest.approx(expected, rel=1e-12)  # rewards sum to log equity


def test_filled_at_the_close_the_whole_days_return_is_earned():
    _, growths, _ = run(np.ones(10_000), replace(FREE, fill="close"))

    assert np.exp(growths.sum()) == pytest.approx(MARKET.close[TEST[-1]] / MARKET.close[TEST[0] - 1], rel=1e-12)


@given(st.floats(0, 50), st.floats(0, 50), st.integers(0, 2**16))
@settings(max_examples=15, deadline=None)
def test_costs_only_hurt(fee, slippage, seed):
    actions = np.random.default_rng(seed).uniform(0, 1, 60)
    free = run(actions)[1].sum()

    assert run(actions, replace(FREE, fee_bp=fee, slippage_bp=slippage))[1].sum() <= free + 1e-12


def test_ruin_ends_the_episode_with_its_loss():
    costs = replace(FREE, position_low=-10.0, position_high=10.0)
    crash = period_of(MARKET, "2008-09-01", "2008-12-31")
    _, growths, core = run(np.full(100, 10.0), costs, period=crash)

    assert len(growths) < len(crash)
    assert core.equity[0] == pytest.approx(RUIN_EQUITY)
    assert growths.sum() == pytest.approx(np.log(RUIN_EQUITY))


def test_the_last_column_of_an_observation_is_the_position():
    """Flat at the start; the price moves the half that was bought at the open."""
    seen, _, _ = run([0.5])
    day = MARKET.close[TEST[0]] / MARKET.open[TEST[0]]

    assert seen[:, -1] == pytest.approx([0.0, 0.5 * day / (0.5 + 0.5 * day)])


def test_some_positions_are_chosen_by_their_number():
    env = MarketVecEnv(
        MarketCore(
            [Segment.scaled_by(MARKET, TRAIN, TRAIN)],
            3,
            replace(FREE, positions=[-1.0, 0.0, 0.5]),
        ),
        seed=0,
    )

    assert env.action_space.n == 3

    env.reset()
    positions = env.step(np.array([0, 1, 2]))[0][:, -1]

    assert positions == pytest.approx([-1.0, 0.0, 0.5], abs=0.1)


def test_an_action_beyond_the_bounds_is_the_bound():
    def rewards(action):
        env = MarketVecEnv(MarketCore([Segment.scaled_by(MARKET, TRAIN, TRAIN)], 2), seed=0)
        env.reset()
        return [env.step(np.full((2, 1), action))[1].tolist() for _ in range(5)]

    assert rewards(9.0) == rewards(1.0) != rewards(0.5)
    assert rewards(-9.0) == rewards(0.0)


def test_same_seed_same_episodes_and_another_seed_others():
    def rewards(seed):
        env = MarketVecEnv(
            MarketCore([Segment.scaled_by(MARKET, TRAIN, TRAIN)], 4, episode_bars=10),
            seed=0,
        )
        env.seed(seed)
        env.reset()

        return np.array([env.step(np.ones((4, 1)))[1] for _ in range(25)])

    assert np.array_equal(rewards(5), rewards(5))
    assert not np.array_equal(rewards(5), rewards(6))


def test_episodes_end_by_truncation_and_start_anew_flat():
    env = MarketVecEnv(MarketCore([Segment.scaled_by(MARKET, TRAIN, TRAIN)], 3, episode_bars=5), seed=0)
    env.reset()

    for step in range(5):
        observations, _, dones, infos = env.step(np.ones((3, 1)))
        assert dones.tolist() == [step == 4] * 3

    for observation, info in zip(observations, infos, strict=True):
        assert info["TimeLimit.truncated"]
        assert info["terminal_observation"][-1] > 0.9
        assert observation[-1] == 0.0


def test_copies_do_not_disturb_one_another():
    together = MarketCore([Segment.scaled_by(MARKET, TRAIN, TRAIN)], 3, episode_bars=None)
    actions = np.random.default_rng(2).uniform(0, 1, (50, 3))
    growths = np.array([together.step(row).growth for row in actions])

    for i in range(3):
        alone = MarketCore([Segment.scaled_by(MARKET, TRAIN, TRAIN)], 1, episode_bars=None)
        assert np.array_equal(growths[:, i], [alone.step(row).growth[0] for row in actions[:, i : i + 1]])


NASDAQ = load_shipped("nasdaq")
BOTH = [Segment.scaled_by(market, TRAIN, TRAIN) for market in (MARKET, NASDAQ)]


@pytest.mark.parametrize("fill", ["open", "close"])
def test_every_symbol_is_traded_as_if_alone(fill):
    """Also where one has no opening prices, or the cash earns something."""
    costs = replace(FREE, cash_rate=0.05, financing_rate=0.05, position_high=2.0)
    segments = [BOTH[0], Segment.scaled_by(replace(NASDAQ, fill=fill), TRAIN, TRAIN)]
    actions = np.random.default_rng(4).uniform(0, 2, (50, 2))
    together = MarketCore(segments, 2, costs, episode_bars=None)
    alone = [MarketCore([segment], 1, costs, episode_bars=None) for segment in segments]

    for row in actions:
        for i, core in enumerate(alone):
            assert np.array_equal(together.observations()[i], core.observations()[0])
        result = together.step(row)
        assert result.growth.tolist() == [core.step(row[i : i + 1]).growth[0].tolist() for i, core in enumerate(alone)]


def test_episodes_start_in_every_symbol_and_stay_in_its_period():
    core = MarketCore(BOTH, 1000)
    core.reset(np.ones(1000, dtype=bool), np.random.default_rng(0))

    assert np.bincount(core.symbol) == pytest.approx([500, 500], abs=60)

    for symbol in (0, 1):
        bars = core.bar[core.symbol == symbol] - symbol * len(MARKET.close)
        assert TRAIN.start - 1 <= bars.min()
        assert bars.max() + 252 <= TRAIN.stop - 1

    observations = core.observations()
    nasdaq = np.flatnonzero(core.symbol == 1)[0]
    bar = core.bar[nasdaq] - len(MARKET.close)
    returns = np.diff(np.log(NASDAQ.close[19 : TRAIN.stop]))  # without the warm-up
    last = np.diff(np.log(NASDAQ.close[bar - WINDOW : bar + 1]))

    assert observations[nasdaq][:WINDOW] == pytest.approx((last - returns.mean()) / returns.std(), abs=1e-4)


def test_an_agent_at_its_end_stays_there():
    short = Segment.scaled_by(NASDAQ, range(30, 35), TRAIN)
    core = MarketCore([Segment.scaled_by(MARKET, range(30, 60), TRAIN), short], 2, FREE, episode_bars=None)

    for _ in range(30):
        core.step(np.ones(2))

    assert core.bar.tolist() == [59, len(MARKET.close) + 34]


@pytest.mark.filterwarnings("ignore::UserWarning")  # both checkers advise [-1, 1] actions and finite observations
def test_both_checkers_pass():
    for costs in (FREE, replace(FREE, positions=[0.0, 1.0])):
        check_sb3_env(MarketEnv(MarketCore(BOTH, costs=costs)))
        check_gymnasium_env(MarketEnv(MarketCore(BOTH, costs=costs)), skip_render_check=True)


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        (dict(position_low=1.0, position_high=1.0), "position_low"),
        (dict(fee_bp=-1.0), "fee_bp"),
        (dict(slippage_bp=float("nan")), "slippage_bp"),
        (dict(fill="yesterday"), "fill"),
        (dict(cash_rate=-0.1), "cash_rate"),
        (dict(financing_rate=5.0), "yearly rate"),
        (dict(positions=[1.0]), "two different"),
        (dict(position_high=10.0, fee_bp=500.0, slippage_bp=500.0), "take all equity"),
        (dict(positions=[0.0, 11.0]), r"\[-10, 10\]"),
        (dict(positions=[0.0, float("nan")]), "positions"),
    ],
)
def test_wrong_costs_are_refused(kwargs, match):
    with pytest.raises(ValueError, match=match):
        TradingCosts(**kwargs)


def test_wrong_cores_are_refused():
    with pytest.raises(ValueError, match="too few"):
        MarketCore([Segment.scaled_by(MARKET, range(0, 15), TRAIN)])

    with pytest.raises(ValueError, match="episode_bars"):
        MarketCore([Segment.scaled_by(MARKET, TRAIN, TRAIN)], episode_bars=0)

    still = replace(MARKET, close=np.full_like(MARKET.close, 5.0))

    with pytest.raises(ValueError, match=r"close of S&P 500 does not move from 1999-02-02 to 2008-12-31"):
        MarketCore([Segment.scaled_by(still, TRAIN, TRAIN)])

    with pytest.raises(ValueError, match="one agent"):
        MarketEnv(MarketCore([Segment.scaled_by(MARKET, TRAIN, TRAIN)], n_envs=2))


SEGMENT = Segment.scaled_by(
    MARKET,
    period_of(MARKET, "2011-01-01", "2011-12-31"),
    period_of(MARKET, "1999-01-01", "2008-12-31"),
)


def test_an_episode_may_have_one_bar():
    env = MarketVecEnv(MarketCore([SEGMENT], 2, episode_bars=1), seed=0)
    env.reset()

    for _ in range(3):
        env.step_async(np.ones((2, 1), dtype=np.float32))
        _, _, dones, infos = env.step_wait()
        assert dones.all()
        assert all(info["TimeLimit.truncated"] for info in infos)


def test_the_environment_has_no_pictures():
    assert MarketEnv.metadata["render_modes"] == []

    env = MarketEnv(MarketCore([SEGMENT]))

    assert env.render_mode is None


def test_actions_in_single_precision_trade_in_double_precision():
    """What 0.1 is in single precision, as a double: to the last bit the same growth."""
    growths = []

    for action in (
        np.full((1, 1), 0.1, dtype=np.float32),
        np.full((1, 1), float(np.float32(0.1))),
    ):
        core = MarketCore([SEGMENT], 1, TradingCosts(fee_bp=7.0), episode_bars=None)
        growths.append([core.step(core.costs.targets(action)).growth[0] for _ in range(20)])

    assert growths[0] == growths[1]


def test_known_says_where_an_episode_starts():
    """Of two agents with 3 bars per episode: at their resets, after 3 steps, and at no other bar."""
    core = MarketCore([SEGMENT], 2, episode_bars=3)
    env = MarketVecEnv(core, seed=0)

    assert core.known().episode_start.tolist() == [True, True]

    env.reset()
    starts = [core.known().episode_start.tolist()]

    for _ in range(6):
        env.step(np.zeros((2, 1)))
        starts.append(core.known().episode_start.tolist())

    assert starts == [[i % 3 == 0] * 2 for i in range(7)]

    core.reset(np.array([True, False]), np.random.default_rng(0))
    core.step(np.zeros(2))
    core.reset(np.array([False, True]), np.random.default_rng(0))

    assert core.known().episode_start.tolist() == [False, True]


def test_an_agent_at_its_end_does_not_start_again():
    core = MarketCore([SEGMENT], 1, episode_bars=None)

    for _ in range(int(core.episode_bars[0]) + 2):
        core.step(np.zeros(1))
        assert not core.known().episode_start.any()


HISTORY = [100.0 + i % 3 for i in range(21)]  # 20 returns before the first decision, the last close is 102
PER_YEAR = (52, 252, 365 * 24)


def played(closes, opens, targets, costs, bars_per_year=252.0):
    """The frame of a backtest whose bars come after a history that ends at 100."""
    history = [price * 100 / 102 for price in HISTORY]
    market = market_of_prices(history + closes, history + opens, bars_per_year)
    segment = Segment.scaled_by(market, range(21, 21 + len(closes)), range(0, 21 + len(closes)))

    return backtest([segment], costs, lambda known: np.array([[*targets, 0.0][known.bar[0] - 20]]))["A"]


FINANCED = TradingCosts(position_low=-2.0, position_high=2.0, fee_bp=0.0, financing_rate=0.252)  # 0.1 % a bar


def test_leverage_and_shorts_by_hand_when_filled_at_the_open():
    """Bars: open 100, close 110; open 121, close 99. Targets: 2, then -1."""
    frame = played([110.0, 99.0], [100.0, 121.0], [2.0, -1.0], FINANCED)

    # Night 1: flat, nothing borrowed. Day 1: 1 + 2 * 10 % = 1.2; the position is worth 2.2 of 1.2.
    # Night 2: 1 + 11/6 * 10 %, less 0.1 % of the 5/6 borrowed: 1.1825. Day 2: 1 + 22/121 = 13/11.
    assert frame["return"].tolist() == pytest.approx([0.2, 1.1825 * 13 / 11 - 1], rel=1e-12)
    assert frame["equity"].tolist() == pytest.approx([1.2, 1.2 * 1.1825 * 13 / 11], rel=1e-12)
    assert frame["cost"].tolist() == pytest.approx([0.0, 0.001 * 5 / 6], rel=1e-12)
    assert frame["gross_return"].tolist() == pytest.approx([0.2, (1 + 11 / 60) * 13 / 11 - 1], rel=1e-12)
    # From 11/6 * 1.1 at the second open to -1.1825.
    assert frame["trade"].tolist() == pytest.approx([2.0, -1.1825 - 121 / 60], rel=1e-12)
    # The short of 1 falls with the price to 9/11 of an equity of 13/11.
    assert frame["position"].tolist() == pytest.approx([11 / 6, -9 / 13], rel=1e-12)
    assert frame["price"].tolist() == [100.0, 121.0]


def test_leverage_and_shorts_by_hand_when_filled_at_the_close():
    """Closes: 100, 110, 99. Targets: 2, then -1. The position just bought is financed, not the one just sold."""
    frame = played([110.0, 99.0], [100.0, 121.0], [2.0, -1.0], replace(FINANCED, fill="close"))

    # Bar 1: 1 borrowed, 0.1 % paid; 0.999 * (1 + 2 * 10 %). Bar 2: 1 of stock borrowed; 0.999 * (1 + 10 %).
    assert frame["return"].tolist() == pytest.approx([0.999 * 1.2 - 1, 0.999 * 1.1 - 1], rel=1e-12)
    assert frame["cost"].tolist() == pytest.approx([0.001, 0.001], rel=1e-12)
    assert frame["gross_return"].tolist() == pytest.approx([0.2, 0.1], rel=1e-12)
    # From 11/6 to -0.999.
    assert frame["trade"].tolist() == pytest.approx([2 * 0.999, -0.999 - 11 / 6], rel=1e-12)
    assert frame["price"].tolist() == pytest.approx([100.0, 110.0])


@pytest.mark.parametrize("fill", ["next_open", "close"])
def test_cash_earns_its_rate_and_the_proceeds_of_a_short_do_not(fill):
    """Prices stand still, the rate is 1 % a bar. Targets: -1, 0.25, 2."""
    costs = TradingCosts(-2.0, 2.0, fee_bp=0.0, financing_rate=0.0, cash_rate=0.52, fill=fill)
    frame = played([100.0] * 3, [100.0] * 3, [-1.0, 0.25, 2.0], costs, bars_per_year=52.0)
    held = {"next_open": [0.0, -1.0, 0.25], "close": [-1.0, 0.25, 2.0]}[fill]

    # A share of 1, 1 - 0.25 or 0 of the equity is cash; what a short brings earns nothing.
    assert frame["return"].tolist() == pytest.approx(
        [0.01 * {0.0: 1.0, -1.0: 1.0, 0.25: 0.75, 2.0: 0.0}[h] for h in held], rel=1e-12
    )
    assert frame["gross_return"].tolist() == pytest.approx(frame["return"].tolist(), rel=1e-12)
    assert frame["cost"].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("fill", ["next_open", "close"])
def test_fees_by_hand_at_the_first_and_the_last_bar(fill):
    """A fee of 0.75 % and a slippage of 0.25 %; prices stand still. Targets: 1, 1, 0."""
    costs = TradingCosts(fee_bp=75.0, slippage_bp=25.0, fill=fill)
    frame = played([100.0] * 3, [100.0] * 3, [1.0, 1.0, 0.0], costs)

    # d = 1 - 0.01 d, so 1/1.01 is bought for 0.01/1.01; all of it is sold for 0.01.
    assert frame["trade"].tolist() == pytest.approx([1 / 1.01, 0.0, -1.0], rel=1e-12, abs=1e-15)
    assert frame["cost"].tolist() == pytest.approx([0.01 / 1.01, 0.0, 0.01], rel=1e-12, abs=1e-15)
    assert frame["equity"].tolist() == pytest.approx([1 / 1.01, 1 / 1.01, 0.99 / 1.01], rel=1e-12)
    assert frame["gross_equity"].tolist() == pytest.approx([1.0, 1.0, 1.0], rel=1e-12)

    computed = figures(frame, 252)

    assert computed["turnover_per_year"] == pytest.approx(84 * (1 / 1.01 + 1))  # three bars are 1/84 year
    assert computed["costs_per_year"] == pytest.approx(84 * (0.01 / 1.01 + 0.01))

    orders = trades({"A": frame})

    assert orders["side"].tolist() == ["buy", "sell"]
    assert orders.index.tolist() == [frame.index[0], frame.index[2]]


def test_a_gap_of_days_is_one_bar():
    """Interest and returns count bars: a bar after a weekend is financed as any other."""
    frame = played([110.0, 99.0], [100.0, 121.0], [2.0, -1.0], FINANCED)
    history = [price * 100 / 102 for price in HISTORY]
    market = market_of_prices([*history, 110.0, 99.0], [*history, 100.0, 121.0])
    dates = market.dates.copy()
    dates[22:] += 86400 * 9
    segment = Segment.scaled_by(replace(market, dates=dates), range(21, 23), range(0, 23))
    gap = backtest([segment], FINANCED, lambda known: np.array([[2.0, -1.0, 0.0][known.bar[0] - 20]]))["A"]

    assert gap["equity"].tolist() == frame["equity"].tolist()
    assert (gap.index[1] - gap.index[0]).days == 10


def ledger(opens, closes, targets, costs, bars_per_year):
    """
    A row per bar from shares and cash: return, gross return, trade, cost, position. Position 0 of opens and closes is
    the bar of the first decision.
    """
    shares, cash, rows = 0.0, 1.0, []
    rate = costs.fee_bp / 1e4 + costs.slippage_bp / 1e4

    for bar, target in enumerate(targets):
        close, next_close = closes[bar], closes[bar + 1]
        fill = opens[bar + 1] if costs.fill == "next_open" else close
        start = cash + shares * close
        overnight = shares * close if costs.fill == "next_open" else target * start
        lent = max(0.0, start - overnight) if overnight > 0 else start
        borrowed = max(0.0, overnight - start) if overnight > 0 else -overnight
        earned, paid = (
            lent * costs.cash_rate / bars_per_year,
            borrowed * costs.financing_rate / bars_per_year,
        )
        gross = (start + shares * (fill - close) + earned) * (1 + target * (next_close / fill - 1))
        cash += earned - paid
        equity = cash + shares * fill
        low, high = -12 * equity / fill, 12 * equity / fill
        for _ in range(90):  # the number of shares that are the target's share of what their purchase leaves
            middle = (low + high) / 2
            left = equity - rate * abs(middle - shares) * fill
            low, high = (middle, high) if middle * fill < target * left else (low, middle)
        fee = rate * abs(middle - shares) * fill
        traded = (middle - shares) * fill
        cash -= traded + fee
        shares = middle
        end = cash + shares * next_close
        rows.append(
            (
                end / start - 1,
                gross / start - 1,
                traded / start,
                (fee + paid) / start,
                shares * next_close / end,
            )
        )

    return np.array(rows)


COSTS = {
    "free": TradingCosts(fee_bp=0.0, financing_rate=0.0),
    "long only, fees": TradingCosts(fee_bp=5.0, slippage_bp=3.0),
    "leverage": TradingCosts(0.0, 3.0, fee_bp=1.0, financing_rate=0.3),
    "shorts": TradingCosts(-1.5, 1.0, fee_bp=2.0, slippage_bp=7.0, financing_rate=0.4),
    "cash": TradingCosts(-1.0, 1.0, fee_bp=2.0, cash_rate=0.5),
    "everything": TradingCosts(-2.0, 3.0, fee_bp=10.0, slippage_bp=4.0, financing_rate=0.3, cash_rate=0.2),
    "some positions": TradingCosts(positions=[-2.0, 0.0, 0.5, 2.5], fee_bp=3.0, financing_rate=0.2, cash_rate=0.1),
}


@pytest.mark.parametrize("bars_per_year", PER_YEAR)
@pytest.mark.parametrize("fill", ["next_open", "close"])
@pytest.mark.parametrize("name", COSTS)
def test_every_column_is_that_of_shares_and_cash(name, fill, bars_per_year):
    """Two symbols of different lengths, each with its own targets."""
    costs = replace(COSTS[name], fill=fill)
    markets = [random_market(seed, bars_per_year) for seed in (0, 1)]
    periods = [range(40, 110), range(30, 70)]
    segments = [
        Segment.scaled_by(market, period, range(0, 30)) for market, period in zip(markets, periods, strict=True)
    ]
    rng = np.random.default_rng(7)
    targets = rng.choice(costs.positions, (2, 110)) if costs.positions else rng.uniform(*costs.bounds, (2, 110))
    step = iter(range(110))
    frames = backtest(segments, costs, lambda known: targets[:, next(step)])

    for i, (market, period) in enumerate(zip(markets, periods, strict=True)):
        frame = frames[market.symbol]
        bars = slice(period.start - 1, period.stop)
        expected = ledger(
            market.open[bars],
            market.close[bars],
            targets[i][: len(period)],
            costs,
            bars_per_year,
        )
        columns = ["return", "gross_return", "trade", "cost", "position"]
        assert frame[columns].to_numpy() == pytest.approx(expected, rel=1e-9, abs=1e-12)
        assert frame["equity"].to_numpy() == pytest.approx(np.cumprod(1 + expected[:, 0]), rel=1e-9)
        assert frame["gross_equity"].to_numpy() == pytest.approx(np.cumprod(1 + expected[:, 1]), rel=1e-9)


@pytest.mark.parametrize("fill", ["next_open", "close"])
@pytest.mark.parametrize("name", COSTS)
def test_gross_less_costs_is_net(name, fill):
    """A cost is paid before the position earns, so it is worth ``1 + target * return since the fill`` at the close."""
    costs = replace(COSTS[name], fill=fill)
    market = random_market(0, 252)
    low, high = costs.bounds
    rule = (lambda known: low + (high - low) * (known.bar % 5) / 4) if costs.positions is None else None
    choose = rule or (lambda known: np.array(costs.positions)[known.bar % len(costs.positions)])
    frame = backtest([Segment.scaled_by(market, range(40, 110), range(0, 30))], costs, choose)["A"]
    since = market.close[40:110] / (market.open[40:110] if fill == "next_open" else market.close[39:109]) - 1
    difference = (frame["gross_return"] - frame["return"]).to_numpy()

    assert difference == pytest.approx(frame["cost"].to_numpy() * (1 + frame["target"].to_numpy() * since), abs=1e-12)
    assert (frame["cost"] > 0).any() == (name != "free")


@pytest.mark.parametrize("fill", ["next_open", "close"])
@pytest.mark.parametrize("name", ["everything", "some positions"])
def test_rewards_sum_to_the_ledgers_log_equity(name, fill):
    """Through the vectorised environment, in its own actions: 20 bars of two copies."""
    costs = replace(COSTS[name], fill=fill)
    market = random_market(0, 252)
    env = MarketVecEnv(
        MarketCore(
            [Segment.scaled_by(market, range(40, 110), range(0, 30))],
            2,
            costs,
            episode_bars=20,
        ),
        seed=1,
    )
    env.reset()
    starts = env.core.bar.copy()
    rng = np.random.default_rng(2)
    if costs.positions:
        actions = rng.integers(len(costs.positions), size=(20, 2))
        targets = np.array(costs.positions)[actions]
    else:
        actions = rng.uniform(*costs.bounds, (20, 2, 1)).astype(np.float32)
        targets = actions[..., 0].astype(np.float64)
    rewards = np.array([env.step(row)[1] for row in actions])

    for i, start in enumerate(starts):
        bars = slice(start, start + 21)
        rows = ledger(market.open[bars], market.close[bars], targets[:, i], costs, 252)
        assert rewards[:, i] == pytest.approx(100 * np.log1p(rows[:, 0]), rel=1e-5, abs=1e-5)


def test_a_target_beyond_the_bounds_is_the_bound():
    market = random_market(0, 252)
    segment = Segment.scaled_by(market, range(40, 60), range(0, 30))
    costs = TradingCosts(-0.5, 1.5)
    wild = backtest([segment], costs, lambda known: np.where(known.bar % 2, 9.0, -9.0))["A"]
    tame = backtest([segment], costs, lambda known: np.where(known.bar % 2, 1.5, -0.5))["A"]

    assert wild["equity"].tolist() == tame["equity"].tolist()
    assert wild["target"].tolist() == tame["target"].tolist()


def test_ruin_by_hand():
    """Ten times long, the price halves: only the floor of 1 % is left, and nothing is held, earned or paid any more."""
    costs = TradingCosts(-10.0, 10.0, fee_bp=1.0, financing_rate=0.5)
    frame = played([50.0, 100.0, 100.0], [100.0, 50.0, 100.0], [10.0, 10.0, 10.0], costs)

    assert frame["equity"].tolist() == pytest.approx([0.01, 0.01, 0.01])
    assert frame["return"].tolist() == pytest.approx([-0.99, 0.0, 0.0])
    assert frame.iloc[0][["trade", "cost"]].gt(0).all()

    for name in ("return", "gross_return", "target", "position", "trade", "cost"):
        assert frame[name].iloc[1:].tolist() == [0.0, 0.0]


def test_a_new_episode_owns_1_whatever_the_last_one_lost():
    """Held for three bars of -50 % it keeps 1/8: after three such episodes 1/512 would be ruin, and none is."""
    close = 2.0 ** -np.arange(40.0)
    close[:10] *= 1.1  # returns that are all alike cannot be scaled
    market = market_of_prices(close, np.concatenate([close[:1], close[:-1]]))
    segment = Segment.scaled_by(market, range(21, 40), range(0, 40))
    costs = TradingCosts(fee_bp=0.0)
    env = MarketVecEnv(MarketCore([segment], 2, costs, episode_bars=3), seed=0)
    env.reset()

    for step in range(30):
        _, rewards, dones, infos = env.step(np.ones((2, 1)))
        assert rewards == pytest.approx([100 * np.log(0.5)] * 2, rel=1e-6)
        assert dones.tolist() == [step % 3 == 2] * 2
        assert [info.get("TimeLimit.truncated", True) for info in infos] == [True, True]


@pytest.mark.parametrize("bars", [3, 1])
def test_ruin_is_an_end_and_no_truncation_even_at_the_last_bar(bars):
    """Ten times long, the price halves at the first bar; beside it an agent that holds nothing goes on."""
    close = np.array([*HISTORY, *[51.0] * bars])
    market = market_of_prices(close, np.concatenate([close[:1], close[:-1]]))
    costs = TradingCosts(-10.0, 10.0, fee_bp=0.0, financing_rate=0.0)
    segment = Segment.scaled_by(market, range(21, 21 + bars), range(0, 21 + bars))
    env = MarketVecEnv(MarketCore([segment], 2, costs, episode_bars=None), seed=0)
    env.reset()
    _, rewards, dones, infos = env.step(np.array([[10.0], [0.0]]))

    assert rewards == pytest.approx([100 * np.log(0.01), 0.0])
    assert dones.tolist() == [True, bars == 1]
    assert infos[0]["TimeLimit.truncated"] is False
    assert infos[1] == {} or infos[1]["TimeLimit.truncated"] is True

    ends = [env.step(np.zeros((2, 1)))[2].tolist() for _ in range(bars)]

    # The ruined agent began anew, the other one did not: it ends a bar before it.
    assert ends == {3: [[False, False], [False, True], [True, False]], 1: [[True, True]]}[bars]


@pytest.mark.filterwarnings("ignore::UserWarning")  # the checker advises [-1, 1] actions and finite observations
def test_a_gymnasium_environment_is_made_in_two_lines():
    env = market_regimes.MarketEnv.of("sp500")
    check_gymnasium_env(env, skip_render_check=True)

    # A random episode of the training period has the length of the configuration.
    env.reset(seed=0)
    steps = 1
    while not env.step(np.ones(1, dtype=np.float32))[3]:
        steps += 1

    assert steps == MarketConfig().episode_bars


@pytest.mark.filterwarnings("ignore::UserWarning")  # Gymnasium advises finite observations
def test_gymnasium_makes_it():
    spec = EnvSpec("MarketRegimes-v0", entry_point=MarketEnv.of)
    env = gym.make(spec, market="nasdaq", period="test")

    # The whole test period, from the close before its first bar.
    env.reset(seed=0)
    core = env.unwrapped.core

    assert core.markets[0].dates[core.bar[0] + 1] == np.datetime64("2011-01-03")
    assert core.markets[0].dates[core.end[0]] == np.datetime64("2018-12-31")


def test_a_configuration_makes_the_environment_it_describes():
    config = MarketConfig("sp500", trading=TradingCosts(positions=[0.0, 1.0]), episode_bars=5)
    env = MarketEnv.of(config)

    assert env.action_space.n == 2

    env.reset(seed=1)

    assert [env.step(1)[3] for _ in range(5)] == [False] * 4 + [True]
