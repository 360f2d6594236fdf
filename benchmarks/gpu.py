"""
DistributionalPPO on a GPU: the same numbers as on the CPU, and how fast beside SB3's PPO.

    python benchmarks/gpu.py --check      # one update on both devices, 16 settings: largest difference of a parameter
    python benchmarks/gpu.py              # the table: update, rollout and peak memory, contenders in turn
    python benchmarks/gpu.py --compile    # likewise with compile=True

Environments answer with arrays made beforehand, so what is timed is the algorithm. Figures are medians over the rounds;
an update is per minibatch, a rollout per step of all environments.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import stable_baselines3
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn
from torch.utils._pytree import tree_map

from distributional_ppo import DistributionalPPO, RecurrentDistributionalPPO

IMAGES = spaces.Box(0, 255, (4, 84, 84), np.uint8)
VECTORS = spaces.Box(-10, 10, (24,))
CASES: dict[str, dict[str, Any]] = {
    "MLP 64x64, 4096 envs": dict(policy="MlpPolicy", n_envs=4096, n_steps=16, batch_size=4096),
    "MLP 3x512, batch 16384": dict(
        policy="MlpPolicy", n_envs=4096, n_steps=16, batch_size=16384, policy_kwargs=dict(net_arch=[512] * 3)
    ),
    "CNN, batch 256": dict(policy="CnnPolicy", n_envs=8, n_steps=128, batch_size=256),
    "CNN, batch 4096": dict(policy="CnnPolicy", n_envs=64, n_steps=128, batch_size=4096),
}
CONTENDERS = ("SB3 PPO", "ours", "ours, scaling off")
NORMALIZED = dict(normalize_returns=True, use_popart=True)
RECURRENT = dict(policy="MlpLstmPolicy")
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "defaults": ("CartPole-v1", {}),
    "continuous": ("Pendulum-v1", dict(ent_coef=0.01)),
    "gSDE": ("Pendulum-v1", dict(use_sde=True)),
    "per_quantile": ("CartPole-v1", dict(clip_range_vf=0.2)),
    "mean_only": ("CartPole-v1", dict(clip_range_vf=0.2, distributional_vf_clip_mode="mean_only")),
    "mean_and_variance": (
        "CartPole-v1",
        dict(clip_range_vf=0.2, distributional_vf_clip_mode="mean_and_variance", **NORMALIZED),
    ),
    "sr_lambda": ("CartPole-v1", dict(value_target="sr_lambda", **NORMALIZED)),
    "PopArt": ("Pendulum-v1", NORMALIZED),
    "twin critics": ("CartPole-v1", dict(use_twin_critics=True)),
    "dsac_t": ("CartPole-v1", dict(variance_scaling_mode="dsac_t", **NORMALIZED)),
    "scaling off": ("CartPole-v1", dict(use_variance_gradient_scaling=False)),
    "target_kl": ("CartPole-v1", dict(target_kl=0.05)),
    "images": ("images", {}),
    "LSTM": ("CartPole-v1", RECURRENT),
    "LSTM, gSDE, PopArt": ("Pendulum-v1", RECURRENT | NORMALIZED | dict(use_sde=True)),
    "LSTM, sequences of 16": ("CartPole-v1", RECURRENT | dict(sequence_length=16, value_target="sr_lambda")),
}


class RandomVecEnv(VecEnv):
    """
    Answers with observations and rewards made beforehand; an episode has 100 steps.

    :param space: of the observations
    :param n_envs: copies
    """

    def __init__(self, space: spaces.Box, n_envs: int):
        super().__init__(n_envs, space, spaces.Discrete(6))
        generator = np.random.default_rng(0)
        shape = (4, n_envs, *space.shape)
        drawn: Any = generator.integers(0, 255, shape) if space is IMAGES else generator.normal(size=shape)
        self.pool: np.ndarray = drawn.astype(space.dtype)
        self.rewards = generator.normal(size=(4, n_envs)).astype(np.float32)
        self.t = 0
        self.infos: list[dict[str, Any]] = [{} for _ in range(n_envs)]

    def reset(self) -> VecEnvObs:
        self.t = 0
        first: np.ndarray = self.pool[0]
        return first

    def step_async(self, actions: np.ndarray) -> None:
        self.t += 1

    def step_wait(self) -> VecEnvStepReturn:
        done = self.t % 100 == 0
        infos = [{"terminal_observation": self.pool[0, 0]} for _ in self.infos] if done else self.infos
        return self.pool[self.t % 4], self.rewards[self.t % 4], np.full(self.num_envs, done), infos

    def close(self) -> None: ...

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self, attr_name, None)] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise NotImplementedError

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        raise NotImplementedError

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: Any = None) -> list[bool]:
        return [False] * self.num_envs


def parameters_after(name: str, device: str) -> dict[str, torch.Tensor]:
    """:return: those of a setting after one update on the device, of a rollout that the CPU has collected"""
    env_id, flags = SETTINGS[name]
    vec_env = RandomVecEnv(IMAGES, 4) if env_id == "images" else make_vec_env(env_id, 4, seed=0)
    arguments = dict(n_steps=64, batch_size=48, n_epochs=3, seed=0, env=vec_env, **flags)
    arguments.setdefault("policy", "CnnPolicy" if env_id == "images" else "MlpPolicy")
    is_recurrent = arguments["policy"] == RECURRENT["policy"]
    algorithm: Any = RecurrentDistributionalPPO if is_recurrent else DistributionalPPO

    # A rollout on the CPU.
    collector = algorithm(device="cpu", **arguments)
    callback = collector._setup_learn(256)[1]
    collector.collect_rollouts(vec_env, callback, collector.rollout_buffer, collector.n_steps)

    # The same parameters and the same rollout on the device.
    model = algorithm(device=device, **arguments)
    model._setup_learn(256)
    model.set_parameters(collector.get_parameters())
    for attribute in ("rollout_buffer", "_last_obs", "_last_episode_starts", "num_timesteps", "_truncated"):
        setattr(model, attribute, getattr(collector, attribute))
    if is_recurrent:
        model._last_lstm_states = tree_map(lambda tensor: tensor.to(model.device), collector._last_lstm_states)
    model.rollout_buffer.device = model.device

    # One update.
    np.random.seed(0)  # noqa: NPY002  # SB3 draws the order of the minibatches from it
    model.train()
    return {key: value.detach().cpu() for key, value in model.policy.state_dict().items()}


def check(device: str) -> None:
    """Print the largest difference between the devices of a parameter or a statistic, and which one it is."""
    torch.backends.cudnn.allow_tf32 = False  # torch lets convolutions round to 10 bits on a GPU
    for name in SETTINGS:
        on_cpu = parameters_after(name, "cpu")
        on_device = parameters_after(name, device)
        differences = {key: (on_cpu[key] - on_device[key]).abs().max() for key in on_cpu}
        key = max(differences, key=lambda key: float(differences[key].nan_to_num(nan=torch.inf)))
        print(f"{name:22} {differences[key]:.1e} {key}", flush=True)


def make(contender: str, case: dict[str, Any], device: str, compile_it: bool) -> Any:
    """
    :param contender: one of ``CONTENDERS``
    :param case: settings, the same for all
    """
    settings = dict(case)
    env = RandomVecEnv(IMAGES if settings["policy"] == "CnnPolicy" else VECTORS, settings.pop("n_envs"))
    settings |= dict(env=env, n_epochs=4, seed=0, device=device)
    if contender == "SB3 PPO":
        return PPO(**settings)
    return DistributionalPPO(**settings, use_variance_gradient_scaling="off" not in contender, compile=compile_it)


def synchronized(device: str) -> float:
    """The time, once the device has done what it was asked."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def measure(model: Any, device: str) -> tuple[float, float]:
    """:return: ms per minibatch, ms per step of all environments"""
    start = synchronized(device)
    model.collect_rollouts(model.env, model.callback, model.rollout_buffer, model.n_steps)
    rollout = (synchronized(device) - start) / model.n_steps

    start = synchronized(device)
    model.train()
    minibatches = model.n_epochs * -(-model.n_steps * model.n_envs // model.batch_size)
    update = (synchronized(device) - start) / minibatches

    return 1e3 * update, 1e3 * rollout


def peak_of(model: Any, device: str) -> float:
    """:return: MiB that the model takes on the device at most, in two rounds, which also warm it up"""
    if device != "cuda":
        measure(model, device)
        return 0.0

    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    for _ in range(2):
        measure(model, device)
    return torch.cuda.max_memory_allocated() / 2**20


def table(device: str, rounds: int, compile_it: bool, names: list[str]) -> None:
    """Print the rows of the cases, one row per contender."""
    print(
        "| case | contender | update, ms | over SB3 | rollout, ms | peak, MiB |\n| --- | --- | --- | --- | --- | --- |"
    )
    for case in names:
        # Each contender alone on the device, for its peak.
        models = {}
        peaks = {}
        for contender in CONTENDERS:
            model = make(contender, CASES[case], device, compile_it)
            models[contender] = model
            model.callback = model._setup_learn(10**9)[1]
            peaks[contender] = peak_of(model, device)
            model.policy.cpu()  # so that the next one's peak is its own

        # All of them in turn.
        for model in models.values():
            model.policy.to(device)
        figures: dict[str, list[tuple[float, float]]] = {}
        for _ in range(rounds):
            for contender, model in models.items():  # in turn, so that a noisy machine disturbs all alike
                figures.setdefault(contender, []).append(measure(model, device))

        base = statistics.median(row[0] for row in figures["SB3 PPO"])
        for contender, rows in figures.items():
            update, rollout = (statistics.median(column) for column in zip(*rows, strict=True))
            row = (
                case,
                contender,
                f"{update:.3f}",
                f"{base / update:.2f}",
                f"{rollout:.2f}",
                f"{peaks[contender]:.0f}",
            )
            print(f"| {' | '.join(row)} |", flush=True)


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare the devices' numbers")
    parser.add_argument("--compile", action="store_true", help="with compile=True")
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to try the script")
    parser.add_argument("--rounds", type=int, default=7, help="measured rounds")
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES), help="which cases")
    arguments = parser.parse_args()

    warnings.filterwarnings("ignore", message="You have specified a mini-batch size")
    name = torch.cuda.get_device_name() if arguments.device == "cuda" else platform.processor() or platform.machine()
    print(f"{name}, torch {torch.__version__}, SB3 {stable_baselines3.__version__}")
    if arguments.check:
        check(arguments.device)
    else:
        table(arguments.device, arguments.rounds, arguments.compile, arguments.cases)


if __name__ == "__main__":
    main()
