"""
A trained agent as ONNX. Oracles: the agent itself, which ONNX Runtime must repeat on 1,000 observations; numpy in
float64 on the policy's own weights; prices that are scaled by hand as the JSON says.
"""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from stable_baselines3.common.vec_env import VecNormalize

from market_regimes import Agent, MarketConfig, RunConfig, Study, TradingCosts
from market_regimes.market.environment import MarketCore, MarketVecEnv
from market_regimes.market.segments import segments_of
from market_regimes.run.agent import normalised
from market_regimes.run.algorithm import model_of
from market_regimes.run.export import layout_of
from market_regimes.run.folder import Configured
from market_regimes.run.trained import trained_on
from train_model_multi_patch import main

ROOT = Path(__file__).parents[2]


PERIODS = dict(
    train=("2000-01-03", "2001-06-29"), validation=("2001-07-02", "2001-10-31"), test=("2001-11-01", "2002-04-19")
)


SOME = TradingCosts(positions=[-1.0, 0.0, 0.3, 2.0])


CASES = {
    "VecNormalize": dict(normalize=True),
    "some positions, twin critics": dict(trading=SOME, use_twin_critics=True),
    "normalised returns, extractors apart, twin critics": dict(
        trading=TradingCosts(position_low=-0.3, position_high=1.7),
        normalize_returns=True,
        use_twin_critics=True,
        policy_kwargs=dict(share_features_extractor=False, n_quantiles=5),
    ),
    "gSDE, squashed": dict(
        trading=TradingCosts(position_low=-1.0), use_sde=True, policy_kwargs=dict(squash_output=True)
    ),
}


MEMORIES = {
    "own LSTMs, VecNormalize, twin critics": (4, dict(normalize=True, use_twin_critics=True, policy_kwargs={})),
    "shared LSTM, two layers": (
        2,
        dict(policy_kwargs=dict(shared_lstm=True, enable_critic_lstm=False, n_lstm_layers=2)),
    ),
    "actor's LSTM only, some positions": (2, dict(trading=SOME, policy_kwargs=dict(enable_critic_lstm=False))),
}


@pytest.fixture(scope="module")
def prices(tmp_path_factory, make_prices):
    """A folder with files of two symbols."""
    folder = tmp_path_factory.mktemp("data")
    for i, name in enumerate("AB"):
        make_prices(600, seed=i).to_csv(folder / f"{name}.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def segments(prices):
    return segments_of(MarketConfig(str(prices), **PERIODS))


@pytest.fixture(scope="module")
def run(prices, tmp_path_factory):
    """A run folder, not to be changed."""
    out = tmp_path_factory.mktemp("runs")
    config = RunConfig(total_timesteps=64, n_envs=2, out=str(out), name="run", progress_bar=False)
    algorithm = dict(n_steps=16, batch_size=32, n_epochs=1, seed=0)
    return Study(config, MarketConfig(str(prices), **PERIODS), algorithm).start()


def agent_of(segments, trading=None, normalize=False, **algorithm):
    """An agent whose parameters and statistics were drawn, so that no quantile and no critic equals another."""
    trading = trading or TradingCosts()
    env = MarketVecEnv(MarketCore(segments["train"], 2, trading))
    if normalize:
        env = VecNormalize(env, training=False)
    model = model_of(dict(seed=0, device="cpu", **algorithm), env)

    # Parameters and statistics.
    rng = np.random.default_rng(0)
    torch_rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.policy.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch_rng)
    if algorithm.get("normalize_returns"):
        model.policy.value_net.set_statistics(-0.7, 1.9, popart=False)
    if normalize:
        rms = model.get_vec_normalize_env().obs_rms
        rms.mean = rng.normal(0, 0.5, 23)
        rms.var = rng.uniform(0.2, 2, 23)
        rms.var[5] = 1e-4  # so that the clip at 10 bites

    configured = Configured(RunConfig(), MarketConfig(trading=trading), algorithm)
    return Agent(model, configured, trained_on(segments), 512)


def exported(agent, folder):
    layout = json.loads(agent.export(folder / "agent.onnx").read_text())
    return onnxruntime.InferenceSession(str(folder / "agent.onnx")), layout


def episodes(agent, segments, n_envs):
    """So many agents somewhere in the market, with positions that the policy would not hold, too."""
    core = MarketCore(segments["train"], n_envs, agent.trading, 200)
    core.reset(np.ones(n_envs, dtype=bool), np.random.default_rng(0))
    core.start_at(core.bar, np.random.default_rng(1).uniform(-2, 2, n_envs))
    return core


def same(one, other):
    """To 1e-6, or the last digits of float32 where the numbers are larger than 1."""
    return np.abs(one - other).max() <= 1e-6 * max(1, np.abs(other).max())


@pytest.mark.parametrize("case", CASES)
def test_onnx_runtime_decides_what_the_agent_does(case, segments, tmp_path):
    agent = agent_of(segments, **CASES[case])
    session, layout = exported(agent, tmp_path)
    core = episodes(agent, segments, 1000)

    targets = np.clip(agent.rule()(core.known()), *agent.trading.bounds)  # as the environment fills them
    observations = core.observations()
    inputs = normalised(agent.model, observations)
    quantiles = agent.model.policy.predict_quantiles(inputs).detach().numpy()
    position, predicted = session.run(["position", "quantiles"], {"observation": observations})

    assert len(np.unique(targets)) > (2 if "some" in case else 50)
    np.testing.assert_allclose(position, targets, rtol=0, atol=0 if "some" in case else 1e-6)
    assert same(predicted, quantiles)
    assert quantiles.std(axis=1).min() > 0.02

    # Alone as among others.
    for one in (0, 999):
        alone = session.run(None, {"observation": observations[one : one + 1]})
        assert alone[0] == pytest.approx(position[one], abs=1e-6)

    # The layout.
    assert layout["step"] == 512
    assert layout["position"]["positions"] == agent.trading.positions
    assert [layout["position"]["low"], layout["position"]["high"]] == list(agent.trading.bounds)
    assert layout["quantiles"]["shape"][1] == predicted.shape[1] == len(layout["quantiles"]["probabilities"])
    assert layout["quantiles"]["probabilities"][0] == pytest.approx(0.5 / predicted.shape[1])

    if case == "VecNormalize":
        check_in_numpy(agent, observations, position, predicted)


def check_in_numpy(agent, observations, position, predicted):
    """Less mean over root of variance plus 1e-8, clipped at 10; two tanh layers; mean action clipped to 0 and 1."""
    rms = agent.model.get_vec_normalize_env().obs_rms
    actor = critic = np.clip((observations - rms.mean) / np.sqrt(rms.var + 1e-8), -10, 10)
    assert (np.abs(actor) == 10).any()

    weights = {k: v.double().numpy() for k, v in agent.model.policy.state_dict().items()}
    for layer in (0, 2):
        actor, critic = (
            np.tanh(x @ weights[f"mlp_extractor.{n}.{layer}.weight"].T + weights[f"mlp_extractor.{n}.{layer}.bias"])
            for n, x in (("policy_net", actor), ("value_net", critic))
        )
    action = actor @ weights["action_net.weight"].T + weights["action_net.bias"]
    quantiles = critic @ weights["value_net.net.weight"].T + weights["value_net.net.bias"]

    np.testing.assert_allclose(position, np.clip(action[:, 0], 0, 1), atol=1e-5)
    np.testing.assert_allclose(predicted, quantiles, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", MEMORIES)
def test_a_policy_with_memory_takes_and_gives_its_states(case, segments, tmp_path):
    """125 bars of 8 agents from a flat start; in the middle half of them start anew, as episodes do."""
    count, kwargs = MEMORIES[case]
    kwargs = kwargs | dict(policy_kwargs=dict(lstm_hidden_size=8) | kwargs["policy_kwargs"])
    agent = agent_of(segments, policy="MlpLstmPolicy", **kwargs)
    session, layout = exported(agent, tmp_path)
    names = layout["states"]["names"]

    assert names == ["actor_hidden", "actor_cell", "critic_hidden", "critic_cell"][:count]
    assert [output.name for output in session.get_outputs()[2:]] == [f"next_{name}" for name in names]
    layers, batch, units = layout["states"]["shape"]
    assert (layers, batch, units) == (kwargs["policy_kwargs"].get("n_lstm_layers", 1), "batch", 8)

    # Bar by bar, beside the policy.
    states = {name: np.zeros((layers, 8, units), np.float32) for name in names}
    policy = agent.model.policy
    normalizer = agent.model.get_vec_normalize_env()
    core = episodes(agent, segments, 8)
    critic = policy.initial_states(8)
    actor = None
    answers = []
    for bar in range(125):
        start = np.full(8, bar == 0) | ((bar == 60) & (np.arange(8) < 4))
        observations = core.observations()
        given = observations if normalizer is None else normalizer.normalize_obs(observations)
        with torch.no_grad():
            quantiles = policy.predict_quantiles(given, critic, start).numpy()
            critic = policy.forward(torch.as_tensor(given), critic, torch.as_tensor(start, dtype=torch.float32))[3]
        actions, actor = agent.model.predict(given, actor, start, deterministic=True)
        targets = np.clip(agent.trading.targets(actions), *agent.trading.bounds)
        answer = session.run(None, {"observation": observations, "episode_start": start, **states})
        states = dict(zip(names, answer[2:], strict=True))
        np.testing.assert_allclose(answer[0], targets, rtol=0, atol=1e-6)
        assert same(answer[1], quantiles)
        answers.append(targets)
        core.step(targets)
    for name, state in zip(names, [*actor, *critic.vf], strict=False):
        np.testing.assert_allclose(states[name], state, atol=2e-6)
    assert len(np.unique(answers)) > (1 if "some" in case else 50)


def test_the_observation_is_made_of_prices_as_the_json_says(segments):
    trading = TradingCosts(position_low=-2.0)
    layout = json.loads(json.dumps(layout_of(trained_on(segments), trading)))
    numbers = layout["observation"]["numbers"]
    names = [number["name"] for number in numbers]

    assert names[:2] == ["log_return_19_bars_ago", "log_return_18_bars_ago"]
    assert names[19:] == ["log_return_0_bars_ago", "ewma_volatility", "volatility_index", "position"]
    assert [number["unit"] for number in numbers[19:]] == ["log growth", "points", "points", "share of equity"]

    core = MarketCore(segments["train"], 2, trading, None)
    core.start_at(core.last, np.array([0.25, -1.5]))
    observations = core.observations()
    assert layout["observation"]["dtype"] == str(observations.dtype)
    assert layout["observation"]["shape"][1] == observations.shape[1] == len(numbers)

    for segment, position, row in zip(segments["train"], core.position, observations, strict=True):
        market = segment.market
        last = segment.last
        returns = np.diff(np.log(market.close[last - 20 : last + 1]))
        scaling = layout["scaling"][market.symbol]
        volatility = ewma(market.close[: last + 1], scaling["ewma_volatility"])
        assert scaling["volatility_index"]["own"] is False

        raw = [*returns, volatility, 6.517 + 0.7027 * volatility, position]
        by = [layout["scaling"][market.symbol][number["scaled_by"]] for number in numbers]
        assert [(x - s["mean"]) / s["std"] for x, s in zip(raw, by, strict=True)] == pytest.approx(row, abs=1e-5)
        assert by[0]["trained"][0] <= returns.min()
        assert by[0]["trained"][1] >= returns.max()
        assert by[20]["trained"][0] <= market.volatility[last] <= by[20]["trained"][1]
        index = market.index[segment.first : last + 1]
        assert by[21]["trained"] == [index.min(), index.max()]
        assert by[-1]["trained"] == [-2.0, 1.0]


def test_features_stand_in_the_layout_before_the_position(tmp_path, make_prices):
    """As the environment makes them: file's numbers less the training mean over its std; volume as its log change."""
    path = tmp_path / "own.csv"
    prices = make_prices(600)
    prices.assign(rsi=np.sin(np.arange(600)), volume=1000 + np.arange(600) % 7).to_csv(path, index=False)
    days = dict(train=("2000-01-03", "2001-06-29"), validation=("2001-07-02", "2001-10-31"))
    config = MarketConfig(str(path), features=["rsi", "volume"], test=("2001-11-01", "2002-04-19"), **days)
    segments = segments_of(config)
    (segment,) = segments["train"]
    layout = layout_of(trained_on(segments), TradingCosts())
    numbers = layout["observation"]["numbers"]
    assert [number["name"] for number in numbers[-3:]] == ["feature_rsi", "feature_volume", "position"]
    assert [number["unit"] for number in numbers[-3:]] == ["as in the file", "log growth", "share of equity"]

    row = MarketCore([segment], 1, TradingCosts(), None).observations()[0]
    last = segment.first
    raw = [np.sin(last), np.log((1000 + last % 7) / (1000 + (last - 1) % 7))]
    by = [layout["scaling"]["own"][number["scaled_by"]] for number in numbers[-3:-1]]
    assert [(x - s["mean"]) / s["std"] for x, s in zip(raw, by, strict=True)] == pytest.approx(row[-3:-1], abs=1e-5)
    assert layout["observation"]["shape"] == ["batch", len(row)]


def ewma(close, entry):
    """Root of the average of squared log returns whose weights fall by the decay, in points a year."""
    weights = entry["decay"] ** np.arange(len(close) - 2, -1, -1)
    return 100 * np.sqrt(entry["bars_per_year"] * np.average(np.diff(np.log(close)) ** 2, weights=weights))


def test_an_entry_is_null_where_the_observation_holds_0():
    segments = segments_of(MarketConfig("synthetic_hidden"))
    layout = layout_of(trained_on(segments), TradingCosts())
    core = MarketCore(segments["train"], 1, TradingCosts(), None)
    core.position[:] = 0.5
    (row,) = core.observations()

    assert len(layout["scaling"]) == 20
    for scaling in layout["scaling"].values():
        by = [scaling[number["scaled_by"]] for number in layout["observation"]["numbers"]]
        assert [entry is not None for entry in by] == (row != 0).tolist()


def test_the_command_writes_one_file_and_its_layout(run, segments, tmp_path, capfd):
    main(["export", str(run), "--format", "onnx", "--checkpoint", "last", "--out", str(tmp_path / "mine.onnx")])
    printed = capfd.readouterr()

    assert printed.err == ""
    assert printed.out == f"{run}, step 64: {tmp_path / 'mine.onnx'}, and the layout of its observation: " + (
        f"{tmp_path / 'mine.json'}\n"
    )
    assert sorted(path.name for path in tmp_path.glob("*")) == ["mine.json", "mine.onnx"]  # the weights are inside

    agent = Agent.load(run, "last")
    core = episodes(agent, segments, 1000)
    (position, _) = onnxruntime.InferenceSession(str(tmp_path / "mine.onnx")).run(
        None, {"observation": core.observations()}
    )
    np.testing.assert_allclose(position, np.clip(agent.rule()(core.known()), *agent.trading.bounds), atol=1e-6)
