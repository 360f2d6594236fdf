"""The trading environment's honesty; oracles: prices by hand, Gymnasium's and SB3's checkers."""

from dataclasses import replace

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as check_gymnasium_env
from hypothesis import given, settings
from hypothesis import strategies as st
from markets import load_shipped
from stable_baselines3.common.env_checker import check_env as check_sb3_env

from market_regimes.config import TradingCosts
from market_regimes.market.environment import RUIN_EQUITY, MarketCore, MarketEnv, MarketVecEnv
from market_regimes.market.features import WINDOW
from market_regimes.market.periods import period_of
from market_regimes.market.segments import Segment

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
        MarketCore([Segment.scaled_by(MARKET, TRAIN, TRAIN)], 3, replace(FREE, positions=[-1.0, 0.0, 0.5])), seed=0
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
        env = MarketVecEnv(MarketCore([Segment.scaled_by(MARKET, TRAIN, TRAIN)], 4, episode_bars=10), seed=0)
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
