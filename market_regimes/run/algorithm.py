"""The algorithm's class by its policy, and its keyword arguments from values as YAML has them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv
from torch import nn, optim

import distributional_ppo
from distributional_ppo import DistributionalPPO
from upgd import UPGD, AdaptiveUPGD

ACTIVATIONS = {cls.__name__: cls for cls in (nn.Tanh, nn.ReLU, nn.ELU, nn.GELU, nn.SiLU, nn.LeakyReLU)}
OPTIMIZERS = {cls.__name__: cls for cls in (optim.Adam, optim.AdamW, optim.RMSprop, optim.SGD, UPGD, AdaptiveUPGD)}
FEED_FORWARD = ("MlpPolicy", "CnnPolicy", "MultiInputPolicy")
RECURRENT = ("MlpLstmPolicy", "CnnLstmPolicy", "MultiInputLstmPolicy")
# Keys that only recurrent policies have, with type and help. They are written here so that the command line has them
# without sb3-contrib, too. None: the constructor's default.
RECURRENT_KEYS: dict[str, tuple[Any, str]] = {
    "sequence_length": (
        int | None,
        "recurrent policies: cut longer sequences of a minibatch into chunks of this many steps; null: sequences end "
        "with the episode and the minibatch",
    ),
    "policy_kwargs.lstm_hidden_size": (int | None, "recurrent policies: units of each LSTM; null: 256"),
    "policy_kwargs.n_lstm_layers": (int | None, "recurrent policies: layers of each LSTM; null: 1"),
    "policy_kwargs.shared_lstm": (
        bool | None,
        "recurrent policies: whether the critic reads the actor's LSTM, which it does not train; null: false",
    ),
    "policy_kwargs.enable_critic_lstm": (
        bool | None,
        "recurrent policies: whether the critic has an LSTM of its own; null: true, unless shared_lstm is",
    ),
    "policy_kwargs.lstm_kwargs.dropout": (
        float | None,
        "recurrent policies: share of each LSTM layer's outputs that training drops before the next layer; null: 0",
    ),
    "policy_kwargs.lstm_kwargs.bias": (bool | None, "recurrent policies: whether the LSTMs have biases; null: true"),
}
# Of the algorithm's numbers: lower and upper bound, both included. What is not here the constructor checks.
RANGES = {
    "gamma": (0, 1),
    "gae_lambda": (0, 1),
    "ent_coef": (-1e6, 1e6),
    "vf_coef": (0, 1e6),
    "max_grad_norm": (1e-12, math.inf),
    "learning_rate": (0, 1e6),
    "clip_range": (1e-12, 1e6),
    "clip_range_vf": (1e-12, 1e6),
    "n_steps": (1, 10**9),
    "target_kl": (0, math.inf),
    "stats_window_size": (1, 10**9),
    "sde_sample_freq": (-1, 10**9),
    "seed": (0, 2**32 - 1),
    "sequence_length": (1, 10**9),
}


def algorithm_class(algorithm: dict[str, Any]) -> type[DistributionalPPO]:
    """
    :param algorithm: keyword arguments as YAML has them
    :return: the class that trains its policy: ``RecurrentDistributionalPPO`` where the policy has LSTMs
    :raises ValueError: on keys of recurrent policies where the policy is none, on those that exclude each other, and
        without sb3-contrib
    """
    policy = algorithm.get("policy", "MlpPolicy")
    values = _flat(algorithm)
    given = {name: values[name] for name in RECURRENT_KEYS if values.get(name) is not None}
    if policy not in RECURRENT:
        for name, value in given.items():
            raise ValueError(
                f"algorithm.{name}={value} is for the recurrent policies {', '.join(RECURRENT)}, and "
                f"algorithm.policy={policy} is none: leave it out, or choose one of them"
            )
        return DistributionalPPO
    _check_lstms({name.removeprefix("policy_kwargs."): value for name, value in given.items()}, values)
    try:
        recurrent: type[DistributionalPPO] = distributional_ppo.RecurrentDistributionalPPO
    except ImportError as error:
        raise ValueError(
            f'algorithm.policy={policy} needs sb3-contrib: pip install "distributional-ppo[recurrent]"'
        ) from error
    return recurrent


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values by their dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat


def _check_lstms(given: dict[str, Any], values: dict[str, Any]) -> None:
    """Raise where keys of the LSTMs have values that no network can have."""
    for name in ("lstm_hidden_size", "n_lstm_layers"):
        if given.get(name, 1) < 1:
            raise ValueError(f"algorithm.policy_kwargs.{name} must be at least 1, got {given[name]}")
    if not 0 <= given.get("lstm_kwargs.dropout", 0) <= 1:
        dropout = given["lstm_kwargs.dropout"]
        raise ValueError(f"algorithm.policy_kwargs.lstm_kwargs.dropout must be within [0, 1], got {dropout}")
    if given.get("shared_lstm"):
        if given.get("enable_critic_lstm"):
            raise ValueError(
                "algorithm.policy_kwargs.shared_lstm=true and enable_critic_lstm=true exclude each other: the critic "
                "reads the actor's LSTM, or its own"
            )
        if values.get("policy_kwargs.share_features_extractor") is False:
            raise ValueError(
                "algorithm.policy_kwargs.shared_lstm=true needs share_features_extractor=true: one LSTM reads the "
                "features of one extractor"
            )


def is_found(device: str) -> bool:
    """
    :param device: "auto", "cpu", "cuda", "cuda:1", "mps", ...
    :return: whether torch can put a tensor there
    """
    if device in ("auto", "cpu"):
        return True
    if device.startswith("meta"):  # where tensors have shapes and no numbers
        return False
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):  # of builds and machines without it
        return False
    return True


def check_device(device: str) -> None:
    """
    :param device: "auto", "cpu", "cuda", ...
    :raises ValueError: if torch does not find it, where SB3 would take the CPU without a word
    """
    if not is_found(device):
        raise ValueError(f"algorithm.device={device}: torch finds no such GPU here; auto takes one where there is one")


def schedule(value: str | float) -> str | float:
    """
    A number, or "lin_0.0003" for one that falls linearly to 0 over the run.

    :raises ValueError: on anything else
    """
    if isinstance(value, bool):
        raise ValueError("expected a number or lin_NUMBER, got a truth value")
    if isinstance(value, str) and value.startswith("lin_"):
        float(value.removeprefix("lin_"))
        return value
    return float(value)


def check_ranges(algorithm: dict[str, Any]) -> None:
    """Raise on a number that PPO would take without a word and that no training can use."""
    for name, (low, high) in RANGES.items():
        value = algorithm.get(name)
        number = float(value.removeprefix("lin_")) if isinstance(value, str) else value
        if number is not None and not low <= number <= high:
            raise ValueError(f"algorithm.{name} must be within [{low:g}, {high:g}], got {value}")


class Untrained(optim.Optimizer):
    """In an optimizer's place where nothing is trained: those of torch import its compiler, which takes a second."""

    def __init__(self, params: Any, lr: float = 0.0, **kwargs: Any):
        super().__init__(params, {"lr": lr, **kwargs})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        self.param_groups.append({**self.defaults, **param_group})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Leave the state of a training alone."""

    def step(self, closure: Any = None) -> Any:
        raise RuntimeError("this model only acts: build a Study to train it")


def model_of(algorithm: dict[str, Any], env: VecEnv, acts_only: bool = False) -> DistributionalPPO:
    """
    :param algorithm: keyword arguments of the constructor as YAML has them, all optional
    :param env: to train or to act in
    :param acts_only: whether it is not trained, and so built a second faster
    :return: the model, not yet trained
    :raises ValueError: on a number that no training can use, and on a policy for another kind of observation
    """
    check_ranges(algorithm)
    check_device(algorithm.get("device", "auto"))
    arguments = {"policy": "MlpPolicy", **python_values(algorithm)}
    if acts_only:
        arguments["policy_kwargs"]["optimizer_class"] = Untrained
    try:
        return algorithm_class(algorithm)(env=env, **arguments)
    except AttributeError as error:  # as SB3 says that a policy is for another kind of observation
        raise ValueError(f"algorithm.policy={arguments['policy']} does not fit the environment: {error}") from error


def python_values(algorithm: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments of the constructor from values as YAML has them."""
    arguments = _without_nulls(algorithm)
    for name in ("learning_rate", "clip_range", "clip_range_vf"):
        if isinstance(arguments.get(name), str):
            arguments[name] = LinearSchedule(float(arguments[name].removeprefix("lin_")), 0.0, 1.0)
    policy_kwargs = arguments["policy_kwargs"] = arguments.get("policy_kwargs") or {}
    for name, classes in (("activation_fn", ACTIVATIONS), ("optimizer_class", OPTIMIZERS)):
        if name in policy_kwargs:
            policy_kwargs[name] = classes[policy_kwargs[name]]
    if policy_kwargs.get("shared_lstm") and policy_kwargs.get("enable_critic_lstm") is None:
        policy_kwargs["enable_critic_lstm"] = False
    if not policy_kwargs.get("lstm_kwargs", True):  # other policies than recurrent ones do not know it
        del policy_kwargs["lstm_kwargs"]
    return arguments


def _without_nulls(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A copy without those ``RECURRENT_KEYS`` that are null, which are the constructor's to choose."""
    return {
        name: _without_nulls(value, f"{prefix}{name}.") if isinstance(value, Mapping) else value
        for name, value in values.items()
        if value is not None or prefix + name not in RECURRENT_KEYS
    }
