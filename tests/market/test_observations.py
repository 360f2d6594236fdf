"""Observations with the columns of a user."""

from dataclasses import replace

import numpy as np
import pytest
from builders import PERIODS

from market_regimes.evaluate.play import backtest
from market_regimes.market.environment import MarketCore, MarketVecEnv
from market_regimes.market.segments import segments_of
from market_regimes.prices import ReadOptions, read_frame
from market_regimes.run.trained import segments_as_trained, trained_on


def test_the_observation_grows_by_the_features(config_of, table):
    config = config_of(table, features=["macro", "rsi"])
    env = MarketVecEnv(MarketCore(segments_of(config)["train"], 3), seed=0)
    plain = MarketVecEnv(MarketCore(segments_of(replace(config, features=[]))["train"], 3), seed=0)

    assert (env.observation_space.shape, plain.observation_space.shape) == ((25,), (23,))

    for _ in range(3):
        one, two = env.reset(), plain.reset()
        assert one.dtype == np.float32
        assert np.array_equal(np.delete(one, [22, 23], axis=1), two)
        for column, name in ((22, "macro"), (23, "rsi")):
            training = table[name][20:325]  # the last training bar is 324
            expected = (table[name][env.core.bar] - training.mean()) / training.std(ddof=0)
            assert one[:, column] == pytest.approx(expected.to_numpy(), rel=1e-5, abs=1e-6)


def test_new_bars_are_seen_as_training_would_have_seen_them(config_of, table):
    config = config_of(table, features=["macro", "volume"], feature_lag=1)
    segments = segments_of(config)
    known = trained_on(segments)
    (seen,) = segments_as_trained(
        read_frame(table, "own", ReadOptions(own=config.own_columns)),
        known,
        config,
        days=PERIODS["test"],
    )
    frames, states = [], [[], []]

    for segment, notes in ((segments["test"][0], states[0]), (seen, states[1])):

        def rule(known, notes=notes):
            notes.append(known.observations)
            return np.tanh(known.observations.sum(axis=1))

        frames.append(backtest([segment], config.trading, rule)["own"])

    assert np.array_equal(np.stack(states[0]), np.stack(states[1]))
    assert frames[0].equals(frames[1])

    with pytest.raises(
        ValueError,
        match=r"trained on the features \['macro', 'volume'\], and its configuration names",
    ):
        segments_as_trained(read_frame(table, "own"), known, replace(config, features=["volume", "macro"]))
