"""
A recurrent agent in a backtest: its states go on from bar to bar and from nowhere else. Oracles: sb3-contrib's
RecurrentPPO with the same parameters, one symbol after another; torch's LSTM on the whole period.
"""

import numpy as np
import pandas as pd
import pytest
import torch
from builders import AS_PPO, plain_state
from sb3_contrib import RecurrentPPO

from distributional_ppo import RecurrentDistributionalPPO
from market_regimes.config import MarketConfig, RunConfig, TradingCosts
from market_regimes.evaluate.evaluation import evaluate
from market_regimes.evaluate.play import backtest, play_period
from market_regimes.market.environment import MarketCore, MarketVecEnv
from market_regimes.market.segments import segments_of
from market_regimes.run.agent import Agent, critic_of, decision, normalised
from market_regimes.run.inputs import inputs_of_rollout, quantiles_of_episode
from market_regimes.run.study import Study

PERIODS = dict(
    train=("2000-01-03", "2001-06-29"), validation=("2001-07-02", "2001-10-31"), test=("2001-11-01", "2002-04-19")
)
COSTS = TradingCosts(position_low=-1.0)
SMALL = dict(n_steps=32, batch_size=40, n_epochs=2, seed=0, device="cpu", learning_rate=0.01, gamma=0.9)
NETWORKS = {
    "own LSTMs": {},
    "2 layers": dict(n_lstm_layers=2),
    "shared LSTM": dict(shared_lstm=True, enable_critic_lstm=False),
    "actor's LSTM only": dict(enable_critic_lstm=False),
}


@pytest.fixture(scope="module")
def segments(tmp_path_factory, make_prices):
    data = tmp_path_factory.mktemp("data")
    for i, name in enumerate("AB"):
        make_prices(600, seed=i).to_csv(data / f"{name}.csv", index=False)
    return segments_of(MarketConfig(data=[str(data / "A.csv"), str(data / "B.csv")], **PERIODS))


def trained(segments, cls=RecurrentDistributionalPPO, kwargs=None, **settings):
    env = MarketVecEnv(MarketCore(segments["train"], 2, COSTS, 20), seed=0)
    policy_kwargs = dict(lstm_hidden_size=8, net_arch=[8], **(kwargs or {}))
    if cls is not RecurrentPPO:
        policy_kwargs["n_quantiles"] = 1 if "quantile_huber_kappa" in settings else 4
    return cls("MlpLstmPolicy", env, policy_kwargs=policy_kwargs, **{**SMALL, **settings}).learn(128)


@pytest.fixture(scope="module")
def model(segments):
    return trained(segments)


@pytest.mark.parametrize("kwargs", NETWORKS.values(), ids=NETWORKS)
def test_targets_and_values_are_those_of_recurrent_ppo_along_each_symbol(segments, kwargs):
    ours = trained(segments, kwargs=kwargs, **AS_PPO)
    theirs = trained(segments, RecurrentPPO, kwargs)
    theirs.policy.load_state_dict(plain_state(ours))
    evaluation = evaluate(decision(ours, COSTS), segments["test"], COSTS, critic_of(ours))
    frames = evaluation.agent.frames
    predicted, _ = evaluation.predicted_and_realised
    for i, (segment, frame) in enumerate(zip(segments["test"], frames.values(), strict=True)):
        core, state, critic = MarketCore([segment], 1, COSTS, None), None, None
        targets, values = [], []
        for bar in range(len(frame)):
            observations, first = core.observations(), np.array([bar == 0])
            action, state = theirs.predict(observations, state, first, deterministic=True)
            targets.append(action.item())
            with torch.no_grad():
                tensors = torch.as_tensor(observations), torch.as_tensor(first, dtype=torch.float32)
                critic = theirs.policy.forward(tensors[0], critic or ours.policy.initial_states(1), tensors[1])
            values.append(critic[1].item())
            critic = critic[3]
            core.step(action.reshape(1))
        np.testing.assert_allclose(frame["target"], targets, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(predicted.reshape(2, -1)[i], values, rtol=1e-4, atol=1e-5)


def test_the_states_matter(segments, model):
    """Else the tests here would see nothing: the same observations after zero states are answered otherwise."""
    seen = play_period(segments["test"], COSTS, decision(model, COSTS)).observations
    alone = model.predict(seen[-1], deterministic=True)[0]
    frames = backtest(segments["test"], COSTS, decision(model, COSTS))
    assert np.abs(alone[:, 0] - [frame["target"].iloc[-1] for frame in frames.values()]).max() > 1e-4
    whole = quantiles_of_episode(model, seen[:, 0])
    assert not torch.allclose(whole[-1], model.policy.predict_quantiles(seen[-1][0])[0])


def test_no_state_leaks_from_one_backtest_to_another(segments, model):
    """One rule over the periods in a row, which follow each other without a gap, as new rules over each."""
    rule = decision(model, COSTS)
    for period in ("train", "validation", "test", "test", "validation"):
        again = backtest(segments[period], COSTS, rule)
        for symbol, frame in backtest(segments[period], COSTS, decision(model, COSTS)).items():
            pd.testing.assert_frame_equal(again[symbol], frame)
    alone = backtest(segments["test"][1:], COSTS, rule)["B"]  # another number of agents
    pd.testing.assert_frame_equal(alone["target"].to_frame(), again_of(segments, model), rtol=1e-5)


def again_of(segments, model):
    return backtest(segments["test"], COSTS, decision(model, COSTS))["B"]["target"].to_frame()


def test_a_rule_that_has_not_seen_the_past_refuses_to_decide(segments, model):
    core = MarketCore(segments["test"], 2, COSTS, None)
    core.step(np.zeros(2))
    with pytest.raises(ValueError, match="must see an episode from its first bar"):
        decision(model, COSTS)(core.known())


def test_a_backtest_leaves_the_training_where_it_is(segments, model):
    before = [state.clone() for pair in model._last_lstm_states for state in pair]
    backtest(segments["test"], COSTS, decision(model, COSTS))
    after = [state for pair in model._last_lstm_states for state in pair]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize("kwargs", NETWORKS.values(), ids=NETWORKS)
def test_inputs_of_a_rollout_give_the_values_it_had(segments, kwargs):
    """Those of the last rollout, from the parameters before its update."""
    model = trained(segments, kwargs=kwargs)
    model.train = lambda: None
    model.learn(64, reset_num_timesteps=False)
    inputs = inputs_of_rollout(model)
    assert inputs["hidden"].shape == (64, kwargs.get("n_lstm_layers", 1), 8)
    with torch.no_grad():
        states = [torch.as_tensor(inputs[name]).transpose(0, 1).contiguous() for name in ("hidden", "cell")]
        quantiles = model.policy.predict_quantiles(inputs["observations"], tuple(states))
    np.testing.assert_allclose(quantiles.mean(dim=1), model.rollout_buffer.values.reshape(-1), rtol=1e-4, atol=1e-5)
    starts = model.rollout_buffer.episode_starts.reshape(-1) > 0
    assert starts.any()
    assert (inputs["hidden"][starts] == 0).all()


@pytest.fixture(scope="module", params=["MlpLstmPolicy", "normalised, three positions"])
def run(request, tmp_path_factory, make_prices):
    """A run on two symbols, one of which ends 30 bars earlier than the other, and their files."""
    folder = tmp_path_factory.mktemp("signal")
    files = []
    for i, (name, bars) in enumerate((("A", 600), ("B", 570))):
        files.append(folder / f"{name}.csv")
        make_prices(600, seed=i)[:bars].to_csv(files[-1], index=False)
    algorithm = dict(policy="MlpLstmPolicy", n_steps=16, batch_size=32, n_epochs=2, seed=0, learning_rate=0.01)
    algorithm["policy_kwargs"] = dict(lstm_hidden_size=8)
    discrete = request.param != "MlpLstmPolicy"
    trading = TradingCosts(positions=[0.0, 0.5, 1.0] if discrete else None)
    settings = dict(total_timesteps=256, n_envs=2, out=str(folder), name="run", progress_bar=False)
    run = RunConfig(**settings, normalize_observations=discrete)
    periods = {**PERIODS, "test": ("2001-11-01", "2002-03-01")}
    config = MarketConfig(data=[str(file) for file in files], trading=trading, episode_bars=60, **periods)
    return Study(run, config, algorithm).start(), files


def test_a_signal_is_what_an_evaluation_decides(run):
    """
    Of every fifth of 250 days (tenth with VecNormalize) bit for bit; on B, whose bars end before, its last decision.
    """
    agent, frames = Agent.load(run[0]), [pd.read_csv(file, parse_dates=["date"]) for file in run[1]]
    frames = [frame.assign(symbol=name) for name, frame in zip("AB", frames, strict=True)]
    first = str(frames[0]["date"][340].date())
    segments = agent.segments(pd.concat(frames), (first, None))
    evaluation = evaluate(agent.rule(), segments, agent.trading, critic_of(agent.model))
    decided = evaluation.agent.frames
    seen = normalised(agent.model, evaluation.episode.observations)
    for bar in range(342, 592, 10 if agent.configured.run.normalize_observations else 5):
        cut = pd.concat([frame[frame["date"] <= frames[0]["date"][bar]] for frame in frames])
        for signal in agent.signal(cut, first=first):
            row = bar - 339 if signal.symbol == "A" else min(bar, 569) - 339
            frame = decided[signal.symbol]
            assert signal.position == frame["position"].iloc[row - 1]
            assert signal.observation == [float(number) for number in seen[row]["AB".index(signal.symbol)]]
            if row < len(frame):
                assert signal.target == frame["target"].iloc[row]
    quantiles, _ = evaluation.predicted_and_realised
    a = signal_of(agent, pd.concat(frames)[lambda f: f["date"] < frames[0]["date"].iloc[-1]], first)
    expected = np.quantile(quantiles[len(decided["A"]) - 1], 0.5, method="hazen")
    assert a.quantiles["0.5"] == pytest.approx(expected, rel=1e-5)


def signal_of(agent, prices, first=None, **position):
    return agent.signal(prices, first=first, **position)[0]


def test_a_signal_with_memory_depends_on_what_came_before(run):
    agent = Agent.load(run[0])  # asked of A alone
    whole, held = signal_of(agent, run[1][0]), signal_of(agent, run[1][0], position=0.25)
    short = signal_of(agent, run[1][0], "2002-04-16")
    assert whole.quantiles != short.quantiles
    assert (held.position, held.observation[:-1]) == (0.25, whole.observation[:-1])
    assert held.quantiles != whole.quantiles
    episode = play_period(agent.segments(run[1][0]), agent.trading, agent.rule())
    seen = normalised(agent.model, episode.observations)
    seen[-1] = np.array([held.observation], dtype=seen[-1].dtype)  # before the last bar the positions are its own
    with torch.no_grad():
        last = quantiles_of_episode(agent.model, seen[:, 0])[-1].numpy()
    assert held.quantiles["0.5"] == pytest.approx(np.quantile(last, 0.5, method="hazen"), rel=1e-5)
    alone = backtest(agent.segments(run[1][0]), agent.trading, agent.rule())
    assert whole.position == alone["A"]["position"].iloc[-1]
