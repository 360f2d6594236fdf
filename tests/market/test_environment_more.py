"""Edges of the environment and of random timing; oracles: Gymnasium's contract, numbers in double precision."""

import numpy as np
import pandas as pd
import pytest
from markets import load_shipped

from distributional_ppo import DistributionalPPO
from market_regimes.compare.cell import KLAdaptiveRate
from market_regimes.config import TradingCosts
from market_regimes.evaluate.play import backtest, discounted, random_timing
from market_regimes.market.environment import MarketCore, MarketEnv, MarketVecEnv
from market_regimes.market.periods import period_of
from market_regimes.market.segments import Segment

MARKET = load_shipped("sp500")
SEGMENT = Segment.scaled_by(
    MARKET, period_of(MARKET, "2011-01-01", "2011-12-31"), period_of(MARKET, "1999-01-01", "2008-12-31")
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
    for action in (np.full((1, 1), 0.1, dtype=np.float32), np.full((1, 1), float(np.float32(0.1)))):
        core = MarketCore([SEGMENT], 1, TradingCosts(fee_bp=7.0), episode_bars=None)
        growths.append([core.step(core.costs.targets(action)).growth[0] for _ in range(20)])
    assert growths[0] == growths[1]


def test_trading_at_random_times_has_no_sharpe_ratio_where_nothing_varies():
    """All in cash at 5 % a year: every bar the same return."""
    costs = TradingCosts(cash_rate=0.05)
    agent = backtest([SEGMENT], costs, lambda known: np.zeros(len(known.bar)))
    assert agent[MARKET.symbol]["return"].to_numpy() == pytest.approx(0.05 / 252)
    assert np.isnan(random_timing([SEGMENT], costs, agent, seed=0, runs=5)[1]).all()


def test_a_rate_that_follows_the_divergence_lets_training_go_on():
    model = DistributionalPPO("MlpPolicy", "CartPole-v1", n_steps=16, batch_size=16, n_epochs=1, seed=0, device="cpu")
    assert model.learn(48, KLAdaptiveRate(0.01)).num_timesteps == 48


class Model:
    """What the callback asks of a model."""

    def __init__(self, kl):
        self.logger = type("Logger", (), {"name_to_value": {"train/approx_kl": kl}})()
        self.rate = 1e-3
        self.lr_schedule = lambda progress: self.rate


@pytest.mark.parametrize("kl", [0.02, 0.005])
def test_the_rate_stays_at_exactly_twice_and_half_the_desired_divergence(kl):
    callback = KLAdaptiveRate(0.01)
    callback.model = Model(kl)
    callback.on_rollout_start()
    assert callback.model.lr_schedule(1.0) == 1e-3


def test_nothing_comes_after_ruin():
    """The equity stays below the hundredth that ends it; the critic's value of 7 completes nothing."""
    frame = pd.DataFrame({"return": [0.1, -0.995, 0.0, 0.0], "equity": [1.1, 0.0055, 0.0055, 0.0055]})
    outcome = discounted({"one": frame}, np.array([7.0]), 0.5)
    last = 100 * np.log(0.005)
    assert outcome[:2] == pytest.approx([100 * np.log(1.1) + 0.5 * last, last])
    assert np.isnan(outcome[2:]).all()


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
