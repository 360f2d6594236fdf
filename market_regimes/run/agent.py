"""What a trained model decides, and what its critic predicted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from distributional_ppo import DistributionalPPO
from market_regimes.config import TradingCosts
from market_regimes.evaluate.backtest import discounted
from market_regimes.evaluate.rules import Decision
from market_regimes.market.env import Known
from market_regimes.run.inputs import is_recurrent, quantiles_of_episode

EVALUATION_EPISODES = 20  # for environments other than the market
EVALUATION_SEED = 10_000  # added to the run's seed, away from those of the training copies


def decision(model: DistributionalPPO, trading: TradingCosts, seen: list[np.ndarray] | None = None) -> Decision:
    """
    A recurrent policy carries its states from bar to bar; they are zero where an episode starts.

    :param model: trained on the market
    :param trading: what its actions mean
    :param seen: receives the observations as the policy gets them
    :return: the deterministic policy as a trading rule; that of a recurrent policy raises ``ValueError`` where it is
        asked first in the middle of an episode, whose past it has not seen
    """
    normalizer = model.get_vec_normalize_env()
    states: Any = None

    def decide(known: Known) -> np.ndarray:
        nonlocal states
        if known.episode_start.all():
            states = None
        elif states is None and is_recurrent(model):
            raise ValueError("a recurrent policy must see an episode from its first bar on to decide in its middle")
        observations: Any = known.observations
        if normalizer is not None:
            observations = normalizer.normalize_obs(observations)
        if seen is not None:
            seen.append(observations)
        actions, states = model.predict(observations, states, known.episode_start, deterministic=True)
        return trading.targets(actions)

    return decide


def predicted_and_realised(
    model: DistributionalPPO, frames: dict[str, pd.DataFrame], seen: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """
    :param model: whose critic predicts
    :param frames: the agent's ``backtest``, M rows in all
    :param seen: what ``decision`` noted in it
    :return: the critic's quantiles before each row, shape (M, N), and the realised discounted rewards, (M,)
    """
    states = np.stack(seen)  # one more than there are rows, the last state
    quantiles, last_values = [], []
    for i, frame in enumerate(frames.values()):
        with torch.no_grad():
            predicted = quantiles_of_episode(model, states[: len(frame) + 1, i]).cpu().numpy()
        quantiles.append(predicted[:-1])
        last_values.append(predicted[-1].mean())
    return np.concatenate(quantiles), discounted(frames, np.array(last_values), model.gamma)


def reward_figures(model: DistributionalPPO, env_id: str, seed: int | None) -> dict[str, float | None]:
    """
    :param model: trained in an environment other than the market
    :param env_id: of the environment
    :param seed: of the run
    :return: mean and spread of the returns of new episodes, away from the training seeds
    """
    env: VecEnv = make_vec_env(env_id, n_envs=5, seed=None if seed is None else seed + EVALUATION_SEED)
    normalizer = model.get_vec_normalize_env()
    if normalizer is not None:
        env = VecNormalize(env, training=False, norm_reward=False)
        env.obs_rms = normalizer.obs_rms
    returns, _ = evaluate_policy(model, env, EVALUATION_EPISODES, return_episode_rewards=True)
    env.close()
    return {"mean_reward": float(np.mean(returns)), "std_reward": float(np.std(returns))}
