"""
The account of an exported agent. Oracles: ``Allocation``, whose weights the graph must repeat on random accounts; plain
sums for the rows; the step of one agent, which the account asks for each symbol.
"""

import json

import numpy as np
import onnxruntime
import pytest
import torch
from builders import segment_of, walking_market
from torch import nn

from market_regimes import Agent
from market_regimes.config import MarketConfig, PortfolioConfig, RunConfig, TradingCosts
from market_regimes.market.allocation import Allocation, PastRisk
from market_regimes.market.environment import MarketCore, MarketVecEnv
from market_regimes.run.account_graph import ExportedAccount, ExportedLimits, rows_of
from market_regimes.run.algorithm import model_of
from market_regimes.run.export import ExportedStep, graph_of_account, onnx_of
from market_regimes.run.folder import Configured
from market_regimes.run.trained import trained_on

LONG_SHORT = TradingCosts(-1.0, 1.0)
SIZES = [(1, 1), (1, 20), (2, 3), (7, 5), (3, 40)]

# Every limit alone, some together, and all.
LIMITS = {
    "budget": {},
    "weight": dict(weight_min=-0.1, weight_max=0.2),
    "group": dict(group_max={"x": 0.3, "y": 0.0}),
    "net": dict(net=0.2),
    "gross": dict(gross=0.6),
    "top_k": dict(top_k=3),
    "volatility": dict(volatility_limit=8.0, gross=3.0),
    "equal risk": dict(allocator="equal_risk"),
    "band": dict(no_trade_band=0.15),
    "rarely": dict(rebalance_every=5, minimum_holding=3),
    "all": dict(
        weight_min=-0.2,
        weight_max=0.5,
        group_max={"x": 0.4, "y": 0.3},
        net=0.3,
        gross=0.8,
        top_k=4,
        volatility_limit=9.0,
        allocator="equal_risk",
        no_trade_band=0.05,
        minimum_holding=2,
    ),
}


def limits_of(name, symbols=()):
    """The limits of one case for symbols, every third of which has no group."""
    keys = dict(LIMITS[name])
    if "group_max" in keys:
        names = [*keys["group_max"], None]
        groups = {symbol: names[k % 3] for k, symbol in enumerate(symbols)}
        keys["groups"] = {symbol: group for symbol, group in groups.items() if group} or {"A": "x", "B": "y"}
        used = set(keys["groups"].values())
        keys["groups"] |= {f"other {group}": group for group in keys["group_max"] if group not in used}
    return PortfolioConfig(cash="shared", **keys)


def symbols_of(number):
    return [f"S{k:02d}" for k in range(number)]


def random_accounts(rng, accounts, symbols):
    """Inputs of the limits by their names, and the risk that their covariances are of."""
    shape = (accounts, symbols)

    # Quarters, so that many targets and holdings are equal.
    target = rng.integers(-4, 5, shape) / 4
    held = rng.integers(-2, 3, shape) / 4 * rng.uniform(0.2, 1.0)
    tradable = rng.random(shape) < 0.7
    due = rng.random(shape) < 0.6

    # A window of returns for each account.
    returns = rng.normal(0, 1, (30 + accounts, symbols)) + rng.normal(0, 1, (30 + accounts, 1))
    volatility = rng.uniform(0.05, 0.6, shape)
    risk = PastRisk(volatility, returns, 30 + np.arange(accounts), np.full(30, 30**-0.5))
    factors = risk.factors(np.arange(accounts))
    covariance = factors.swapaxes(1, 2) @ factors
    inputs = dict(target=target, tradable=tradable, held=held, due=due, covariance=covariance)
    return inputs, risk


def expected_weights(config, symbols, inputs, risk):
    """Weights of ``Allocation``, asked for each account alone; an order that is not due is none."""
    allocation = Allocation(config, symbols, LONG_SHORT, risk)
    tradable = inputs["tradable"]
    held = inputs["held"]
    targets = np.where(tradable, inputs["target"], np.nan)

    weights = []
    for number in range(len(targets)):
        alone = slice(number, number + 1)
        row = np.array([number])
        age = np.zeros(1, dtype=int)
        long_ago = np.full(targets[alone].shape, 99)
        desired = allocation.desired(targets[alone], row, held[alone], age, long_ago)
        if config.minimum_holding > 1:
            desired = np.where(inputs["due"][alone], desired, np.nan)
        desired = allocation.outside_band(desired, held[alone], tradable[alone], row)
        projection = allocation.project(desired, held[alone], tradable[alone], row)
        weights.append(projection.weights[0])
    return np.array(weights)


def group_numbers(config, symbols, accounts):
    """The input ``group``."""
    names = list(config.group_max)
    places = [names.index(config.groups[symbol]) if symbol in config.groups else -1 for symbol in symbols]
    return np.tile(np.array(places), (accounts, 1))


@pytest.mark.parametrize("name", LIMITS)
def test_weights_are_those_of_the_allocation(name):
    """200 batches of random accounts, to 1e-12, and the limits bind in some of them."""
    has_cut = False
    for seed in range(200):
        rng = np.random.default_rng(seed)
        accounts = int(rng.integers(1, 5))
        symbols = symbols_of(int(rng.integers(1, 9)))
        config = limits_of(name, symbols)
        inputs, risk = random_accounts(rng, accounts, len(symbols))
        inputs["group"] = group_numbers(config, symbols, accounts)

        limits = ExportedLimits(config, LONG_SHORT)
        needed = {key: torch.as_tensor(inputs[key]) for key in ["target", *limits.inputs]}
        weights = limits(**needed).numpy()

        expected = expected_weights(config, symbols, inputs, risk)
        np.testing.assert_allclose(weights, expected, rtol=0, atol=1e-12, err_msg=f"seed {seed}")
        has_cut |= bool((weights != inputs["target"])[inputs["tradable"]].any())
    assert has_cut


class Echo(nn.Module):
    """A step that gives a symbol's first number as its target, and all its numbers as quantiles."""

    def __init__(self, numbers):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(numbers))

    def forward(self, observation):
        return observation[:, 0].double(), observation * self.weight


def session_of(account, numbers):
    content = onnx_of(graph_of_account(account, numbers, {}))
    return onnxruntime.InferenceSession(content)


@pytest.mark.parametrize("name", ["group", "all"])
def test_onnx_runtime_gives_the_weights_of_the_allocation_for_any_number_of_symbols(name):
    limits = ExportedLimits(limits_of(name), LONG_SHORT)
    session = session_of(ExportedAccount(Echo(4), limits), numbers=4)
    for accounts, number in SIZES:
        rng = np.random.default_rng(number)
        symbols = symbols_of(number)
        config = limits_of(name, symbols)
        inputs, risk = random_accounts(rng, accounts, number)
        inputs["group"] = group_numbers(config, symbols, accounts)
        observation = rng.normal(0, 1, (accounts, number, 4)).astype(np.float32)
        observation[..., 0] = inputs["target"]

        feed = {key: inputs[key] for key in limits.inputs} | {"observation": observation}
        position, quantiles, weight = session.run(None, feed)

        np.testing.assert_array_equal(position, inputs["target"])
        np.testing.assert_array_equal(quantiles, observation)
        expected = expected_weights(config, symbols, inputs, risk)
        np.testing.assert_allclose(weight, expected, rtol=0, atol=1e-12)


class TestRows:
    """Rows of an account: a symbol's numbers, the mean over those that can be traded, and the mask."""

    def test_by_hand(self):
        """Of 1, 3 and 8 the last cannot be traded: the mean is 2. Where none can be, it is 0."""
        observation = torch.tensor([[[1.0], [3.0], [8.0]]])

        rows = rows_of(observation, torch.tensor([[True, True, False]]))
        assert rows.tolist() == [[[1.0, 2.0, 1.0], [3.0, 2.0, 1.0], [8.0, 2.0, 0.0]]]

        rows = rows_of(observation, torch.zeros(1, 3, dtype=torch.bool))
        assert rows.tolist() == [[[1.0, 0.0, 0.0], [3.0, 0.0, 0.0], [8.0, 0.0, 0.0]]]

    def test_numbers_of_a_symbol_that_cannot_be_traded_do_not_reach_the_others(self):
        observation = torch.tensor([[[1.0], [float("nan")]]])
        rows = rows_of(observation, torch.tensor([[True, False]]))

        assert rows[0, 0].tolist() == [1.0, 1.0, 1.0]

    def test_the_graph_builds_them_for_the_policy(self):
        """The exported step echoes what it reads: 2 F + 1 numbers, made in ONNX Runtime from F."""
        limits = ExportedLimits(limits_of("budget"), LONG_SHORT)
        account = ExportedAccount(Echo(2 * 3 + 1), limits, rows=True)
        session = session_of(account, numbers=3)
        for accounts, number in SIZES:
            rng = np.random.default_rng(number)
            observation = rng.normal(0, 1, (accounts, number, 3)).astype(np.float32)
            tradable = rng.random((accounts, number)) < 0.6
            held = np.zeros((accounts, number))
            feed = dict(observation=observation, tradable=tradable, held=held)
            rows = session.run(["quantiles"], feed)[0]

            for account_number in range(accounts):
                mask = tradable[account_number]
                mean = np.zeros(3)
                if mask.any():
                    mean = observation[account_number][mask].astype(float).mean(axis=0)
                for k in range(number):
                    expected = [*observation[account_number, k], *mean, float(mask[k])]
                    assert rows[account_number, k] == pytest.approx(expected, abs=1e-6)


TRADING = TradingCosts(position_low=-0.5, position_high=1.0)
SHARED = PortfolioConfig(cash="shared", weight_max=0.18, gross=0.45)


@pytest.fixture(scope="module")
def segments():
    return [segment_of(walking_market(symbol, seed)) for seed, symbol in enumerate("ABC")]


def agent_of(segments, portfolio=SHARED, **algorithm):
    """An agent whose parameters were drawn, so that the symbols' targets differ."""
    env = MarketVecEnv(MarketCore(segments, 2, TRADING))
    model = model_of(dict(seed=0, device="cpu", **algorithm), env)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.policy.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    market = MarketConfig(trading=TRADING, portfolio=portfolio)
    trained = trained_on({"train": segments, "validation": segments, "test": segments})
    return Agent(model, Configured(RunConfig(), market, algorithm), trained, 512)


def test_an_agent_of_shared_cash_is_exported_with_its_account(segments, tmp_path):
    """Targets as the agent's rule gives them, cut to 0.18 a name and 0.45 in all; the layout names what goes in."""
    agent = agent_of(segments)
    layout = json.loads(agent.export(tmp_path / "agent.onnx").read_text())
    session = onnxruntime.InferenceSession(str(tmp_path / "agent.onnx"))
    core = MarketCore(segments, 30, TRADING, 40)
    core.reset(np.ones(30, dtype=bool), np.random.default_rng(0))
    known = core.known()

    # Ten accounts of three symbols.
    shape = (10, 3)
    feed = {
        "observation": known.observations.reshape(*shape, -1),
        "tradable": np.ones(shape, dtype=bool),
        "held": np.zeros(shape),
    }
    position, quantiles, weight = session.run(None, feed)

    targets = np.clip(agent.rule()(known), -0.5, 1.0).reshape(shape)
    np.testing.assert_allclose(position, targets, atol=1e-6)
    clipped = np.minimum(targets, 0.18)
    sums = np.abs(clipped).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(weight, clipped * np.minimum(1, 0.45 / sums), atol=1e-6)
    assert (clipped < targets).any()
    assert (sums > 0.45).any()

    # The layout.
    assert layout["observation"]["shape"] == ["batch", "symbols", 23]
    assert layout["position"]["shape"] == ["batch", "symbols"]
    assert layout["quantiles"]["shape"] == ["batch", "symbols", quantiles.shape[2]]
    assert list(layout["account"]["inputs"]) == ["tradable", "held"]
    assert layout["account"]["inputs"]["held"] == {"dtype": "float64", "shape": ["batch", "symbols"]}
    assert layout["account"]["limits"]["gross"] == 0.45
    assert layout["account"]["limits"]["high"] == 0.18


def test_a_policy_with_memory_carries_the_states_of_each_symbol(segments, tmp_path):
    """40 bars of two accounts of three symbols; the second account starts anew in the middle."""
    small = dict(lstm_hidden_size=8)
    agent = agent_of(segments, policy="MlpLstmPolicy", policy_kwargs=small)
    layout = json.loads(agent.export(tmp_path / "agent.onnx").read_text())
    session = onnxruntime.InferenceSession(str(tmp_path / "agent.onnx"))
    step = ExportedStep(agent.model, TRADING).eval()
    names = layout["states"]["names"]
    assert layout["states"]["shape"] == [1, "batch", "symbols", 8]

    alone = [torch.zeros(1, 6, 8) for _ in names]
    states = {name: np.zeros((1, 2, 3, 8), np.float32) for name in names}
    rng = np.random.default_rng(0)
    for bar in range(40):
        observation = rng.normal(0, 1, (2, 3, 23)).astype(np.float32)
        start = np.array([bar == 0, bar in (0, 20)])
        feed = {
            "observation": observation,
            "tradable": np.ones((2, 3), dtype=bool),
            "held": np.zeros((2, 3)),
            "episode_start": start,
        }
        position, quantiles, _, *after = session.run(None, feed | states)
        states = dict(zip(names, after, strict=True))

        flat = torch.as_tensor(observation).flatten(0, 1)
        starts = torch.as_tensor(np.repeat(start, 3))
        with torch.no_grad():
            expected, predicted, *alone = step(flat, starts, alone)
        np.testing.assert_allclose(position.ravel(), expected, atol=1e-6)
        np.testing.assert_allclose(quantiles.reshape(6, -1), predicted, atol=1e-5)


def test_separate_accounts_are_exported_as_one_agent(segments, tmp_path):
    agent = agent_of(segments, PortfolioConfig())
    layout = json.loads(agent.export(tmp_path / "agent.onnx").read_text())

    assert "account" not in layout
    assert layout["observation"]["shape"] == ["batch", 23]
