"""``DistributionalPPO`` from values as YAML has them."""

from __future__ import annotations

import math
from typing import Any

import torch
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv
from torch import nn, optim

from distributional_ppo import DistributionalPPO
from upgd import UPGD, AdaptiveUPGD

ACTIVATIONS = {cls.__name__: cls for cls in (nn.Tanh, nn.ReLU, nn.ELU, nn.GELU, nn.SiLU, nn.LeakyReLU)}
OPTIMIZERS = {cls.__name__: cls for cls in (optim.Adam, optim.AdamW, optim.RMSprop, optim.SGD, UPGD, AdaptiveUPGD)}
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
}


def check_device(device: str) -> None:
    """
    :param device: "auto", "cpu", "cuda", ...
    :raises ValueError: if it is a GPU and torch finds none, where SB3 would take the CPU without a word
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
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


def model_of(algorithm: dict[str, Any], env: VecEnv) -> DistributionalPPO:
    """
    :param algorithm: keyword arguments of the constructor as YAML has them, all optional
    :param env: to train or to act in
    :return: the model, not yet trained
    :raises ValueError: on a number that no training can use, and on a policy for another kind of observation
    """
    check_ranges(algorithm)
    check_device(algorithm.get("device", "auto"))
    arguments = {"policy": "MlpPolicy", **python_values(algorithm)}
    try:
        return DistributionalPPO(env=env, **arguments)
    except AttributeError as error:  # as SB3 says that a policy is for another kind of observation
        raise ValueError(f"algorithm.policy={arguments['policy']} does not fit the environment: {error}") from error


def python_values(algorithm: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments of the constructor from values as YAML has them."""
    arguments = dict(algorithm)
    for name in ("learning_rate", "clip_range", "clip_range_vf"):
        if isinstance(arguments.get(name), str):
            arguments[name] = LinearSchedule(float(arguments[name].removeprefix("lin_")), 0.0, 1.0)
    policy_kwargs = dict(arguments.get("policy_kwargs") or {})
    for name, classes in (("activation_fn", ACTIVATIONS), ("optimizer_class", OPTIMIZERS)):
        if name in policy_kwargs:
            policy_kwargs[name] = classes[policy_kwargs[name]]
    return {**arguments, "policy_kwargs": policy_kwargs}
