"""The algorithm's class by its policy, and its keyword arguments from values as YAML has them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any, get_type_hints

import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv
from torch import nn, optim

import distributional_ppo
from distributional_ppo import DistributionalPPO, QuantileActorCriticPolicy
from market_regimes.run.schedule import FALLING
from upgd import UPGD, AdaptiveUPGD

ACTIVATIONS = {cls.__name__: cls for cls in (nn.Tanh, nn.ReLU, nn.ELU, nn.GELU, nn.SiLU, nn.LeakyReLU)}
OPTIMIZERS = {cls.__name__: cls for cls in (optim.Adam, optim.AdamW, optim.RMSprop, optim.SGD, UPGD, AdaptiveUPGD)}
FEED_FORWARD = ("MlpPolicy", "CnnPolicy", "MultiInputPolicy")
RECURRENT = ("MlpLstmPolicy", "CnnLstmPolicy", "MultiInputLstmPolicy")
NOT_KEYS = ("flags", "lstm_kwargs")  # parameters that stand for others
LSTM_ARGUMENTS = ("dropout", "bias")  # of policy_kwargs.lstm_kwargs; the others change shapes that a policy expects
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


def recurrent_types() -> dict[str, Any]:
    """
    Where such a key is null, the constructor chooses.

    :return: per key that only recurrent policies take, like policy_kwargs.lstm_hidden_size, the type of its value; no
        key without sb3-contrib
    """
    try:
        recurrent = distributional_ppo.RecurrentDistributionalPPO
    except ImportError:
        return {}

    # Of the algorithm, of its policy, and of the LSTM itself.
    types = _further_types(recurrent.__init__, "")
    types |= _further_types(recurrent.policy_base.host.__init__, "policy_kwargs.")
    hints = get_type_hints(nn.RNNBase.__init__)
    types |= {f"policy_kwargs.lstm_kwargs.{name}": hints[name] for name in LSTM_ARGUMENTS}
    return types


def _further_types(constructor: Callable[..., None], prefix: str) -> dict[str, Any]:
    """Types of the parameters that the constructors of feed-forward policies do not have, by key."""
    # SB3's type of an environment names VecEnv, which its module imports for type checkers only.
    hints = get_type_hints(constructor, localns={"VecEnv": VecEnv})
    keys = [name for name in signature(constructor).parameters if name not in NOT_KEYS]
    return {prefix + name: hints[name] for name in keys if not _is_plain(prefix + name)}


def _is_plain(key: str) -> bool:
    """Whether the constructors of ``DistributionalPPO`` and of its policy take a key, or what stands above it."""
    first, *inner = key.split(".")
    if first != "policy_kwargs" or not inner:
        return first in signature(DistributionalPPO.__init__).parameters
    policies = (QuantileActorCriticPolicy, ActorCriticPolicy)
    return any(inner[0] in signature(policy.__init__).parameters for policy in policies)


def algorithm_class(algorithm: dict[str, Any]) -> type[DistributionalPPO]:
    """
    :param algorithm: keyword arguments as YAML has them
    :return: the class that trains its policy: ``RecurrentDistributionalPPO`` where the policy has LSTMs
    :raises ValueError: on keys of recurrent policies where the policy is none, on those that exclude each other, and
        without sb3-contrib
    """
    policy = algorithm.get("policy", "MlpPolicy")
    values = _flat(algorithm)
    if policy not in RECURRENT:
        _refuse_recurrent_keys(policy, values)
        return DistributionalPPO

    _check_lstms(values)
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
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _refuse_recurrent_keys(policy: str, values: dict[str, Any]) -> None:
    """Raise on a key of recurrent policies. Keys that no policy has are left to the constructor."""
    foreign = {key: value for key, value in values.items() if value is not None and not _is_plain(key)}
    if not foreign:  # sb3-contrib need not be imported
        return
    for key in recurrent_types():
        if key in foreign:
            raise ValueError(
                f"algorithm.{key}={foreign[key]} is for the recurrent policies {', '.join(RECURRENT)}, and "
                f"algorithm.policy={policy} is none: leave it out, or choose one of them"
            )


def _check_lstms(values: dict[str, Any]) -> None:
    """Raise where keys of the LSTMs have values that no network can have."""
    given = {key: value for key, value in values.items() if value is not None}

    # Numbers out of range.
    for name in ("lstm_hidden_size", "n_lstm_layers"):
        count = given.get(f"policy_kwargs.{name}", 1)
        if count < 1:
            raise ValueError(f"algorithm.policy_kwargs.{name} must be at least 1, got {count}")
    dropout = given.get("policy_kwargs.lstm_kwargs.dropout", 0)
    if not 0 <= dropout <= 1:
        raise ValueError(f"algorithm.policy_kwargs.lstm_kwargs.dropout must be within [0, 1], got {dropout}")

    # Keys that exclude each other.
    if not given.get("policy_kwargs.shared_lstm"):
        return
    if given.get("policy_kwargs.enable_critic_lstm"):
        raise ValueError(
            "algorithm.policy_kwargs.shared_lstm=true and enable_critic_lstm=true exclude each other: the critic "
            "reads the actor's LSTM, or its own"
        )
    if given.get("policy_kwargs.share_features_extractor") is False:
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


def check_ranges(algorithm: dict[str, Any]) -> None:
    """
    :param algorithm: keyword arguments as YAML has them
    :raises ValueError: on a number that PPO would take without a word and that no training can use
    """
    for name, (low, high) in RANGES.items():
        value = algorithm.get(name)
        number = value
        if isinstance(value, str):
            number = float(value.removeprefix(FALLING))
        if number is not None and not low <= number <= high:
            raise ValueError(f"algorithm.{name} must be within [{low:g}, {high:g}], got {value}")


class Untrained(optim.Optimizer):
    """In an optimizer's place where nothing is trained: those of torch import its compiler, which takes a second."""

    def __init__(
        self,
        params: Any,
        lr: float = 0.0,
        **kwargs: Any,
    ):
        super().__init__(params, {"lr": lr, **kwargs})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        self.param_groups.append({**self.defaults, **param_group})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Leave the state of a training alone."""

    def step(self, closure: Any = None) -> Any:
        raise RuntimeError("this model only acts: build a Study to train it")


def model_of(
    algorithm: dict[str, Any],
    env: VecEnv,
    acts_only: bool = False,
) -> DistributionalPPO:
    """
    :param algorithm: keyword arguments of the constructor as YAML has them, all optional
    :param env: to train or to act in
    :param acts_only: whether it is not trained, and so built a second faster
    :return: the model, not yet trained
    :raises ValueError: on a number that no training can use, and on a policy for another kind of observation
    """
    check_ranges(algorithm)
    check_device(algorithm.get("device", "auto"))

    # An agent that only acts needs no optimizer.
    arguments = {"policy": "MlpPolicy", **python_values(algorithm)}
    if acts_only:
        arguments["policy_kwargs"]["optimizer_class"] = Untrained

    try:
        return algorithm_class(algorithm)(env=env, **arguments)
    except AttributeError as error:  # as SB3 says that a policy is for another kind of observation
        raise ValueError(f"algorithm.policy={arguments['policy']} does not fit the environment: {error}") from error


def python_values(algorithm: dict[str, Any]) -> dict[str, Any]:
    """
    :param algorithm: keyword arguments as YAML has them
    :return: keyword arguments of the constructor
    """
    arguments = _without_recurrent_nulls(algorithm)

    # Schedules are written as lin_NUMBER.
    for name in ("learning_rate", "clip_range", "clip_range_vf"):
        value = arguments.get(name)
        if isinstance(value, str):
            arguments[name] = LinearSchedule(float(value.removeprefix(FALLING)), 0.0, 1.0)

    # Classes are written by their names.
    policy_kwargs = arguments["policy_kwargs"] = arguments.get("policy_kwargs") or {}
    for name, classes in (("activation_fn", ACTIVATIONS), ("optimizer_class", OPTIMIZERS)):
        if name in policy_kwargs:
            policy_kwargs[name] = classes[policy_kwargs[name]]

    # A shared LSTM leaves the critic none of its own, and policies without LSTMs do not know lstm_kwargs.
    if policy_kwargs.get("shared_lstm") and policy_kwargs.get("enable_critic_lstm") is None:
        policy_kwargs["enable_critic_lstm"] = False
    if not policy_kwargs.get("lstm_kwargs", True):
        del policy_kwargs["lstm_kwargs"]
    return arguments


def _without_recurrent_nulls(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A copy without nulls that only a recurrent policy would take, whose constructor chooses these values."""
    copy: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            copy[name] = _without_recurrent_nulls(value, f"{prefix}{name}.")
        elif value is not None or _is_plain(prefix + name):
            copy[name] = value
    return copy
