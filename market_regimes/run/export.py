"""A trained agent as an ONNX file, which runs without this program, and the layout of its observation as JSON."""

from __future__ import annotations

import contextlib
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from distributional_ppo import DistributionalPPO
from market_regimes.config import MarketConfig, TradingCosts
from market_regimes.files import write_file
from market_regimes.market.features import columns_of, layout, layout_of_scaling
from market_regimes.market.regimes import decay_of
from market_regimes.run.account_graph import ExportedAccount, ExportedLimits
from market_regimes.run.inputs import is_recurrent
from market_regimes.run.trained import Trained
from quantile_critic.sequences import run_step

TRACED = 2  # observations in the example that is traced: of 1 torch makes a constant
TRACED_SYMBOLS = 3  # of each account in it: another number, so that torch takes neither for the other

# The inputs of ``ExportedLimits``: their types, and their dimensions after that of the accounts.
DTYPES_OF_LIMITS = {
    "tradable": torch.bool,
    "held": torch.float64,
    "due": torch.bool,
    "group": torch.int64,
    "covariance": torch.float64,
}
SHAPES_OF_LIMITS = {
    "tradable": ["symbols"],
    "held": ["symbols"],
    "due": ["symbols"],
    "group": ["symbols"],
    "covariance": ["symbols", "symbols"],
}
PARTS = ("actor_hidden", "actor_cell", "critic_hidden", "critic_cell")  # states of a recurrent policy


class ExportedStep(nn.Module):
    """
    One deterministic step of a policy: VecNormalize's scaling, the network, and what the environment makes of the
    action.

    :param model: with its parameters and, where it has one, its VecNormalize
    :param trading: what its actions mean
    """

    mean: Tensor
    std: Tensor
    positions: Tensor | None

    def __init__(self, model: DistributionalPPO, trading: TradingCosts):
        super().__init__()
        self.policy: Any = model.policy
        self.states = _state_names(model)

        # What the environment makes of an action.
        self.low, self.high = trading.bounds
        positions = None
        if trading.positions is not None:
            positions = torch.tensor(trading.positions, dtype=torch.float64)
        self.register_buffer("positions", positions)

        # What VecNormalize makes of an observation.
        normalizer: Any = model.get_vec_normalize_env()
        self.clip: float | None = None
        if normalizer is not None:
            self.clip = float(normalizer.clip_obs)
            self.register_buffer("mean", torch.as_tensor(normalizer.obs_rms.mean))
            self.register_buffer("std", torch.as_tensor(np.sqrt(normalizer.obs_rms.var + normalizer.epsilon)))
        self.to(model.device)

    @property
    def shapes_of_states(self) -> dict[str, tuple[int, int]]:
        """Layers and units of the states that a recurrent policy carries, by name; empty: it has no memory."""
        if not self.states:
            return {}
        layers, _, units = self.policy.lstm_hidden_state_shape
        return dict.fromkeys(self.states, (layers, units))

    def forward(
        self, observation: Tensor, episode_start: Tensor | None = None, states: Sequence[Tensor] = ()
    ) -> tuple[Tensor, ...]:
        """
        :param observation: as the environment makes it, float32, shape (B, numbers)
        :param episode_start: of recurrent policies: whether an episode starts with it, bool, shape (B,)
        :param states: of recurrent policies: ``PARTS`` before the step, shape (n_layers, B, H) each, without the last
            two where the critic has no LSTM
        :return: target position as the environment fills it, float64, shape (B,); quantiles of the return in raw units,
            of the critic with the smaller mean, shape (B, N); states after the step
        """
        policy = self.policy

        # Scale as VecNormalize does, in float64.
        if self.clip is not None:
            scaled = (observation.double() - self.mean) / self.std
            observation = scaled.clamp(-self.clip, self.clip).float()

        # Features of actor and critic, through their LSTMs where there are any.
        features = policy.extract_features(observation)
        actor, critic = (features, features) if policy.share_features_extractor else features
        after: list[Tensor] = []
        if episode_start is not None:
            actor, critic, after = self._lstms(actor, critic, episode_start, states)

        # The mean action and the quantiles in raw units.
        action = policy.action_net(policy.mlp_extractor.forward_actor(actor))
        quantiles = policy.value_net(policy.mlp_extractor.forward_critic(critic))
        quantiles = policy.value_net.to_raw(policy.value_net.of_smaller_mean(quantiles))
        return self._position(action), quantiles, *after

    def _lstms(
        self, actor: Tensor, critic: Tensor, episode_start: Tensor, states: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Outputs of both LSTMs, or of what stands in place of the critic's, and the states after the step."""
        policy = self.policy
        before = [state * ~episode_start[:, None] for state in states]
        actor, after = run_step(policy.lstm_actor, actor, (before[0], before[1]))

        if policy.lstm_critic is not None:
            critic, after_critic = run_step(policy.lstm_critic, critic, (before[2], before[3]))
            return actor, critic, [*after, *after_critic]
        if policy.shared_lstm:
            return actor, actor, list(after)
        return actor, policy.critic(critic), list(after)

    def _position(self, action: Tensor) -> Tensor:
        """The position that the mean action, or the logits of discrete ones, mean; clipped as the environment does."""
        if self.positions is not None:
            return self.positions[action.argmax(dim=1)]

        space: spaces.Box = self.policy.action_space
        low = float(space.low[0])
        high = float(space.high[0])
        if self.policy.squash_output:
            action = low + 0.5 * (torch.tanh(action) + 1) * (high - low)

        # SB3 clips to the bounds as float32, the environment to those of the configuration.
        return action[:, 0].double().clamp(max(low, self.low), min(high, self.high))


def _state_names(model: DistributionalPPO) -> list[str]:
    """Of the states that a recurrent policy carries; the last two belong to an LSTM of the critic."""
    if not is_recurrent(model):
        return []
    if getattr(model.policy, "lstm_critic", None) is None:
        return list(PARTS[:2])
    return list(PARTS)


def export_onnx(
    model: DistributionalPPO, market: MarketConfig, trained: Mapping[str, Trained], step: int, path: Path
) -> Path:
    """
    Write the step of the deterministic policy as ONNX, and beside it the layout of its inputs and outputs as JSON. With
    ``market.portfolio.cash=shared`` the step is one of accounts: a row of symbols each, and the weights that the limits
    leave.

    :param model: with its parameters
    :param market: what its actions mean, and whether symbols share their cash
    :param trained: what the run knows of its symbols
    :param step: that the model was trained to
    :param path: of the ONNX file; the other one has the same name with .json
    :return: path of the JSON
    :raises ValueError: if the path does not end in .onnx or its folder is not there, and without the extra ``onnx``
    """
    if path.suffix != ".onnx":
        raise ValueError(f"an ONNX file must end in .onnx, got {path}")
    if not path.parent.is_dir():  # before a second is spent
        raise ValueError(f"the folder {path.parent} does not exist")
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f'export needs {error.name}, which is not installed: pip install "distributional-ppo[onnx]"'
        ) from error

    # One agent, or an account of agents.
    trading = market.trading
    exported = ExportedStep(model, trading)
    description = {"step": step, **layout_of(trained, trading), **_outputs_of(exported, trading)}
    graph = graph_of_step(exported)
    if market.portfolio.cash == "shared":
        limits = ExportedLimits(market.portfolio, trading)
        sees_account = market.portfolio.training == "account"
        account = ExportedAccount(exported, limits, rows=sees_account)
        description = _of_accounts(description, account.limits)
        graph = graph_of_account(account, _numbers_of(account, exported), exported.shapes_of_states)

    write_file(path, onnx_of(graph))
    write_file(path.with_suffix(".json"), json.dumps(description, indent=2, allow_nan=False))
    return path.with_suffix(".json")


def layout_of(trained: Mapping[str, Trained], trading: TradingCosts) -> dict[str, Any]:
    """
    The observation of ``MarketCore.observations``, number by number.

    :param trained: what the run knows of its symbols
    :param trading: what may be held
    :return: for JSON: of each number the name, the unit before scaling and the entry that scales it; by symbol the
        entries, where the observation holds (number - mean) / std, the range that training saw, what makes the EWMA
        volatility, and whether the data have an index of their own. An entry is null where the observation holds 0
    """
    scaling: dict[str, dict[str, Any]] = {}
    for symbol, known in trained.items():
        entries: dict[str, Any] = dict(layout_of_scaling(known.scaling, trading.bounds, known.last_return_only))

        # What makes the volatility, and whether the index was the data's.
        if entries["ewma_volatility"] is not None:
            entries["ewma_volatility"] |= {
                "bars_per_year": known.bars_per_year,
                "decay": decay_of(known.bars_per_year),
            }
        if entries["volatility_index"] is not None:
            entries["volatility_index"]["own"] = known.own_index
        scaling[symbol] = entries
    named = layout(columns_of(next(iter(trained.values())).scaling))
    observation = {"dtype": "float32", "shape": ["batch", len(named)], "low": None, "high": None, "numbers": named}
    return {"observation": observation, "scaling": scaling}


def _outputs_of(exported: ExportedStep, trading: TradingCosts) -> dict[str, Any]:
    """Of the outputs, and of the states that go in and come out."""
    # The position and the quantiles.
    low, high = trading.bounds
    position = {"dtype": "float64", "shape": ["batch"], "unit": "share of equity", "low": low, "high": high}
    taus: list[float] = exported.policy.value_net.tau.tolist()
    quantiles = {"dtype": "float32", "shape": ["batch", len(taus)], "unit": "100 x discounted log growth"}
    outputs: dict[str, Any] = {
        "position": {**position, "positions": trading.positions},
        "quantiles": {**quantiles, "probabilities": taus},
    }

    if exported.states:
        layers, units = exported.shapes_of_states[exported.states[0]]
        outputs["states"] = {"dtype": "float32", "shape": [layers, "batch", units], "names": exported.states}
    return outputs


def _of_accounts(description: dict[str, Any], limits: ExportedLimits) -> dict[str, Any]:
    """
    :param description: of the inputs and outputs of one agent
    :param limits: of the account
    :return: the same of accounts of K agents, with the inputs and the output of their limits
    """
    of_accounts = dict(description)
    for name in ("observation", "position", "quantiles", "states"):
        if name in description:
            entry = description[name]
            place = entry["shape"].index("batch") + 1
            shape = [*entry["shape"][:place], "symbols", *entry["shape"][place:]]
            of_accounts[name] = {**entry, "shape": shape}

    # The limits, by the names of their keys, and what they read.
    shapes = {name: ["batch", *SHAPES_OF_LIMITS[name]] for name in limits.inputs}
    inputs = {
        name: {"dtype": str(DTYPES_OF_LIMITS[name]).removeprefix("torch."), "shape": shape}
        for name, shape in shapes.items()
    }
    weight = {"dtype": "float64", "shape": ["batch", "symbols"], "unit": "share of equity"}
    portfolio = {**asdict(limits.portfolio), **asdict(limits.bounds)}
    of_accounts["account"] = {"inputs": inputs, "weight": weight, "limits": portfolio}
    return of_accounts


@dataclass(frozen=True)
class Graph:
    """
    A module and what torch traces it with.

    :param module: to be exported
    :param inputs: an example, as its ``forward`` takes them
    :param shapes: dimensions that are free, as ``torch.export`` takes them, in the structure of the inputs
    :param names: of the tensors among the inputs
    :param outputs: names of the tensors that come out
    """

    module: nn.Module
    inputs: list[Any]
    shapes: list[Any]
    names: list[str]
    outputs: list[str]


def graph_of_step(exported: ExportedStep) -> Graph:
    """One agent's step, for any number of observations."""
    policy = exported.policy
    states = exported.shapes_of_states
    batch = torch.export.Dim("batch")
    inputs: list[Any] = [torch.zeros(TRACED, *policy.observation_space.shape)]
    shapes: list[Any] = [{0: batch}]
    names = ["observation"]
    outputs = ["position", "quantiles"]

    # What a recurrent one carries from step to step.
    if states:
        examples = [torch.zeros(layers, TRACED, units) for layers, units in states.values()]
        inputs += [torch.zeros(TRACED, dtype=torch.bool), examples]
        shapes += [{0: batch}, [{1: batch} for _ in states]]
        names += ["episode_start", *states]
        outputs += [f"next_{name}" for name in states]
    return Graph(exported, inputs, shapes, names, outputs)


def graph_of_account(account: ExportedAccount, numbers: int, states: Mapping[str, tuple[int, int]]) -> Graph:
    """
    The step of accounts, for any number of them and of their symbols.

    :param account: to be exported
    :param numbers: of a symbol's observation
    :param states: that the policy carries from step to step, by name: layers and units
    """
    batch = torch.export.Dim("batch")
    symbols = torch.export.Dim("symbols")
    inputs: list[Any] = [torch.zeros(TRACED, TRACED_SYMBOLS, numbers)]
    shapes: list[Any] = [{0: batch, 1: symbols}]
    names = ["observation"]

    # What the limits need; the others have no input.
    needed = account.limits.inputs
    for name, dtype in DTYPES_OF_LIMITS.items():
        if name not in needed:
            inputs.append(None)
            shapes.append(None)
            continue

        dimensions = len(SHAPES_OF_LIMITS[name])
        example = torch.zeros(TRACED, *[TRACED_SYMBOLS] * dimensions, dtype=dtype)
        free = {0: batch, **dict.fromkeys(range(1, dimensions + 1), symbols)}
        inputs.append(example)
        shapes.append(free)
        names.append(name)

    # What a recurrent policy carries from step to step.
    outputs = ["position", "quantiles", "weight"]
    if states:
        of_symbols = [torch.zeros(layers, TRACED, TRACED_SYMBOLS, units) for layers, units in states.values()]
        inputs += [torch.zeros(TRACED, dtype=torch.bool), of_symbols]
        shapes += [{0: batch}, [{1: batch, 2: symbols} for _ in states]]
        names += ["episode_start", *states]
        outputs += [f"next_{name}" for name in states]
    return Graph(account, inputs, shapes, names, outputs)


def onnx_of(graph: Graph) -> bytes:
    """A module as a serialised ONNX model."""
    module = graph.module.eval()
    device = next(module.parameters()).device
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            module.to(device),
            tree_map_only(Tensor, lambda tensor: tensor.to(device), tuple(graph.inputs)),
            input_names=graph.names,
            output_names=graph.outputs,
            dynamic_shapes=tuple(graph.shapes),
            dynamo=True,
            verbose=False,
        )

    assert program is not None
    content: bytes = program.model_proto.SerializeToString()
    return content


def _numbers_of(account: ExportedAccount, exported: ExportedStep) -> int:
    """Numbers of a symbol's observation; rows of an account, which the policy reads, are made of them in the graph."""
    numbers: int = exported.policy.observation_space.shape[0]
    if account.rows:
        return (numbers - 1) // 2
    return numbers


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """torch's exporter warns of itself, and of torchvision's operators, which no policy here has."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level

    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
