"""The common probe against prices by hand, and against a training that it must not change."""

import random

import numpy as np
import pytest
import torch
from markets import load_markets

from market_regimes.compare.probe import EPISODE_BARS, EPISODES, SEED, STRIDE, Probe, horizon
from market_regimes.config import MarketConfig, RunConfig, TradingCosts
from market_regimes.market.environment import MarketCore
from market_regimes.market.segments import segments_of
from market_regimes.run.study import Study

ALGORITHM = dict(
    policy="MlpPolicy",
    seed=0,
    device="cpu",
    n_steps=32,
    batch_size=64,
    n_epochs=1,
    gamma=0.95,
    normalize_returns=True,
    policy_kwargs=dict(n_quantiles=5),
)
PERIODS = dict(train=("1999-01-04", "2010-12-01"), test=("2011-01-03", "2014-12-31"))


def study_of(data=("sp500", "nasdaq"), trading=None, gamma=0.95, periods=PERIODS, **run):
    market = MarketConfig(data=list(data), trading=trading or TradingCosts(), **periods)
    run = RunConfig(total_timesteps=512, **run)
    return Study(run, market, {**ALGORITHM, "gamma": gamma}, segments_of(market, ("train", "test")))


def probe_of(study):
    return Probe(study.segments["train"], study.trading, study.model.gamma)


def always(model, target):
    """A policy that holds the target, so that prices alone tell the rewards."""
    with torch.no_grad():
        model.policy.action_net.weight[:] = 0.0
        model.policy.action_net.bias[:] = target
        model.policy.log_std[:] = -20.0


@pytest.mark.parametrize("gamma", [0.9, 0.95])
def test_returns_are_the_discounted_growth_of_the_prices(gamma):
    """Bought at the next open for a fee of 1 bp, then held: 100 times the log growth of the close."""
    study = study_of(gamma=gamma)
    always(study.model, 1.0)
    sample = probe_of(study).play(study.model)
    generator = np.random.default_rng(SEED)
    markets = load_markets(["sp500", "nasdaq"])
    symbols = generator.integers(2, size=EPISODES)
    spans = [(segment.first, segment.last) for segment in study.segments["train"]]
    lows = np.array([spans[i][0] for i in symbols])
    starts = generator.integers(lows, np.array([spans[i][1] for i in symbols]) - EPISODE_BARS + 1)
    needed = next(k for k in range(1000) if gamma**k <= 0.01)
    expected, bars, total = {}, {}, 0.0
    for episode, (symbol, start) in enumerate(zip(symbols, starts, strict=True)):
        market = markets[symbol]
        rewards = 100 * np.diff(np.log(market.close[start : start + EPISODE_BARS + 1]))
        rewards[0] = 100 * np.log(market.close[start + 1] / market.open[start + 1] / 1.0001)
        total += rewards.sum()
        for t in range(0, EPISODE_BARS - needed + 1, STRIDE):
            expected[t, episode] = sum(gamma**k * reward for k, reward in enumerate(rewards[t:]))
            bars[t, episode] = start + t + symbol * len(markets[0].close)
    order = sorted(expected)
    assert sample.returns == pytest.approx([expected[key] for key in order], abs=1e-5)
    assert sample.bar.tolist() == [bars[key] for key in order]
    assert sample.reward == pytest.approx(total / EPISODES / EPISODE_BARS)
    assert sample.observations.shape == (len(order), 23)
    with torch.no_grad():
        again = study.model.policy.predict_quantiles(sample.observations).numpy()
    assert sample.quantiles == pytest.approx(again, abs=1e-6)


@pytest.mark.parametrize(
    ("gamma", "bars", "rewards"),
    [
        (0.95, 252, 90),  # 0.95^89 = 0.0104, 0.95^90 = 0.0099
        (0.9, 252, 44),  # 0.9^43 = 0.0108, 0.9^44 = 0.0097
        (0.99, 252, 126),  # 459 would be needed: half of the episode
        (1.0, 252, 126),
        (0.0, 252, 1),
        (0.95, 100, 50),
        (0.95, 1, 1),
    ],
)
def test_the_horizon_is_where_a_hundredth_of_the_weights_is_left(gamma, bars, rewards):
    assert horizon(gamma, bars) == rewards


def test_after_ruin_nothing_is_left_so_that_every_decision_before_it_counts():
    """Ten times the equity in stocks from 2008 on, an episode at a time: ruin is a log growth of log 0.01."""
    stormy = dict(train=("2008-08-01", "2010-12-01"), test=PERIODS["test"])
    study = study_of(("sp500",), TradingCosts(position_low=-10.0, position_high=10.0), 1.0, stormy)
    always(study.model, 10.0)
    probe = probe_of(study)
    sample = probe.play(study.model)
    probe.core.reset(np.ones(EPISODES, dtype=bool), np.random.default_rng(SEED))
    outcomes = []
    decisions, ruined, played = 0, 0, 0
    for start in probe.core.bar:
        alone, total = MarketCore(study.segments["train"], 1, study.trading, episode_bars=None), 0.0
        alone.start_at(np.array([start]), np.zeros(1))
        for bars in range(1, EPISODE_BARS + 1):  # noqa: B007  # counts the bars to ruin
            result = alone.step(np.array([10.0]))
            total += float(result.reward[0])
            if result.terminated[0]:
                break
        outcomes.append(total)
        played += bars
        decisions += len(range(0, bars if result.terminated[0] else 127, STRIDE))
        ruined += bool(result.terminated[0])
    assert 5 < ruined < EPISODES
    assert sample.returns[:EPISODES] == pytest.approx(outcomes)  # the first decision of every episode
    assert min(outcomes) == pytest.approx(100 * np.log(0.01))
    assert len(sample.returns) == decisions
    assert sample.reward == pytest.approx(sum(outcomes) / played)


def test_two_agents_and_two_plays_meet_the_same_bars_and_the_same_chance():
    one, two = study_of(), study_of(n_envs=2)
    two.model.learn(256)
    probes = [probe_of(one), probe_of(two)]
    first, second = probes[0].play(one.model), probes[1].play(two.model)
    assert np.array_equal(first.bar, second.bar)
    assert not np.array_equal(first.returns, second.returns)
    torch.rand(3)  # as a training draws between two plays
    again = probes[0].play(one.model)
    assert np.array_equal(first.returns, again.returns)
    always(one.model, 0.5)
    calm = probes[0].play(one.model).returns
    with torch.no_grad():
        one.model.policy.log_std[:] = 0.0
    noisy = probes[0].play(one.model).returns
    assert np.abs(noisy - calm).max() > 0.1  # the policy's chance moves the positions


def global_generators():
    return np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002  # what others may draw from


@pytest.mark.parametrize("positions", [None, [-1.0, 0.0, 1.0]])
@pytest.mark.parametrize("normalize", [False, True])
def test_a_training_with_probes_is_bit_for_bit_one_without(positions, normalize):
    def trained(probing):
        study = study_of(trading=TradingCosts(position_low=-1, positions=positions), normalize_observations=normalize)
        probe = probe_of(study)
        states = []
        for _ in range(2):
            study.model.learn(512, reset_num_timesteps=False)
            before = study.model.policy.training, global_generators()
            if probing:
                probe.play(study.model)
            states.append((torch.get_rng_state(), study.core.bar.copy(), study.core.equity.copy()))
            assert before == (study.model.policy.training, global_generators())
        if normalize:
            states.append((study.model.get_vec_normalize_env().obs_rms.mean,))
        return [*study.model.policy.parameters()], states

    (plain, states), (probed, others) = trained(False), trained(True)
    assert all(torch.equal(one, two) for one, two in zip(plain, probed, strict=True))
    for one, two in zip(states, others, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))


def test_observations_are_as_the_policy_gets_them():
    study = study_of(normalize_observations=True)
    study.model.learn(512)
    normalizer = study.model.get_vec_normalize_env()
    raw = Probe.play(probe_of(study), study.model).observations
    core = probe_of(study).core
    core.reset(np.ones(EPISODES, dtype=bool), np.random.default_rng(SEED))
    assert raw[:EPISODES] == pytest.approx(normalizer.normalize_obs(core.observations()))
    assert np.abs(raw[:EPISODES] - core.observations()).max() > 0.1
