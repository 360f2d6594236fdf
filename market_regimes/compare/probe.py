"""
The common probe of the critic, which measures every variant, seed and update alike.

All are measured on the same bars, by realised rewards and a fixed loss. So no figure depends on the rollouts or targets
of a variant's training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from distributional_ppo import DistributionalPPO
from market_regimes.config import PortfolioConfig, TradingCosts
from market_regimes.evaluate.play import discounted_sums, play
from market_regimes.market.account_environment import AccountRows
from market_regimes.market.environment import MarketCore
from market_regimes.market.segment import Segment
from market_regimes.run.agent import normalised
from market_regimes.run.inputs import is_recurrent, quantiles_of_episode

EPISODES = 64
EPISODE_BARS = 252
SEED = 0
STRIDE = 4  # bars between scored decisions: realised returns of neighbours are nearly equal
REMAINDER = 0.01  # share of a return's weights that may lie beyond the end of its episode


@dataclass(frozen=True)
class Sample:
    """
    M decisions of the probe.

    :param observations: input of the policy, shape (M, ...)
    :param bar: positions in the core's arrays, shape (M,)
    :param returns: realised discounted rewards, raw, shape (M,)
    :param quantiles: predicted quantiles, raw, shape (M, N)
    :param reward: mean reward of a bar over the whole episodes
    """

    observations: np.ndarray
    bar: np.ndarray
    returns: np.ndarray
    quantiles: np.ndarray
    reward: float


@dataclass(frozen=True)
class Episodes:
    """
    The episodes of n rows, played for T bars.

    :param observations: shape (T + 1, n, size)
    :param bar: positions in the core's arrays, shape (T + 1, n)
    :param alive: whether a bar is played, shape (T, n)
    :param available: whether it is, and its symbol can be traded, shape (T, n)
    :param rewards: shape (T, n)
    :param planned: bars of each episode without ruin, shape (n,)
    """

    observations: np.ndarray
    bar: np.ndarray
    alive: np.ndarray
    available: np.ndarray
    rewards: np.ndarray
    planned: np.ndarray


def horizon(gamma: float, bars: int) -> int:
    """
    Compute the number of rewards that make a return.

    The weights beyond k rewards sum to gamma^k of all. The number is limited to half of the episode's bars, so that
    half of its decisions can be scored.

    :param gamma: discount factor
    :param bars: bars of an episode
    :return: smallest k with gamma^k <= ``REMAINDER``, at most half of the bars
    """
    needed = bars
    if gamma == 0:
        needed = 1
    elif 0 < gamma < 1:
        needed = math.ceil(math.log(REMAINDER) / math.log(gamma))
    return min(max(needed, 1), max(bars // 2, 1))


class Probe:
    """
    ``EPISODES`` episodes of ``EPISODE_BARS`` bars with seeded starts and symbols.

    A decision counts if ``horizon`` rewards follow it in its episode. It also counts if ruin follows, since no reward
    comes after ruin. The accounts of an agent of one account have ``EPISODES`` rows or more. Their decisions count if
    the symbol can be traded.

    :param segments: segments of the training period
    :param trading: trading costs and allowed positions
    :param gamma: discount factor of the returns
    :param portfolio: what the agent was trained on, and the limits of its account
    """

    def __init__(
        self,
        segments: Sequence[Segment],
        trading: TradingCosts,
        gamma: float,
        portfolio: PortfolioConfig | None = None,
    ):
        self.core: MarketCore | AccountRows
        if portfolio is not None and portfolio.training == "account":
            accounts = math.ceil(EPISODES / len(segments))
            self.core = AccountRows(segments, accounts, trading, portfolio, EPISODE_BARS)
        else:
            self.core = MarketCore(segments, EPISODES, trading, EPISODE_BARS)
        self.gamma = gamma

    def play(self, model: DistributionalPPO) -> Sample:
        """
        :param model: model whose stochastic policy acts, with the same random numbers at every call, and whose critic
            predicts. Neither the model nor a global random generator changes
        :return: decisions that count, every ``STRIDE``-th bar of each episode
        """
        with _without_side_effects(model), torch.no_grad():
            episode = self._episodes(model)
            observations = normalised(model, episode.observations[:-1])
            rows = np.nonzero(self._counted(episode))
            quantiles = self._quantiles(model, observations, rows)

        returns = discounted_sums(episode.rewards, 0.0, self.gamma)
        return Sample(
            observations[rows],
            episode.bar[rows],
            returns[rows],
            quantiles.astype(np.float64),
            reward=float(episode.rewards[episode.available].mean()),
        )

    def _quantiles(
        self, model: DistributionalPPO, observations: np.ndarray, rows: tuple[np.ndarray, ...]
    ) -> np.ndarray:
        """Predict raw quantiles of these decisions. A recurrent critic reads each episode from its first bar."""
        if not is_recurrent(model):
            return np.asarray(model.policy.predict_quantiles(observations[rows]).cpu())

        # Predict episode by episode.
        episodes = [quantiles_of_episode(model, observations[:, i]).cpu().numpy() for i in range(self.core.n_envs)]
        quantiles: np.ndarray = np.stack(episodes, axis=1)[rows]
        return quantiles

    def _episodes(self, model: DistributionalPPO) -> Episodes:
        """Play all episodes in parallel."""
        core = self.core
        core.reset(np.ones(core.n_envs, dtype=bool), np.random.default_rng(SEED))
        states: Any = None

        def decide(observations: np.ndarray) -> np.ndarray:
            nonlocal states
            actions, states = _actions(model, normalised(model, observations), states)
            return core.costs.targets(actions)

        if isinstance(core, AccountRows):
            return _episodes_of_accounts(core, decide)
        episode = play(core, lambda known: decide(known.observations))
        planned = core.episode_bars[core.symbol]
        return Episodes(episode.observations, episode.bar, episode.alive, episode.alive, episode.rewards, planned)

    def _counted(self, episodes: Episodes) -> np.ndarray:
        """
        :param episodes: what was played
        :return: mask of the decisions that are scored, shape (bars, episodes)
        """
        alive = episodes.alive
        planned = episodes.planned
        length = alive.sum(axis=0)
        needed = np.array([horizon(self.gamma, bars) for bars in planned])
        needed[length < planned] = 0  # episodes that ended in ruin
        time = np.arange(len(alive))[:, None]
        counted: np.ndarray = episodes.available & (time + needed <= length) & (time % STRIDE == 0)
        return counted


def _episodes_of_accounts(core: AccountRows, decide: Callable[[np.ndarray], np.ndarray]) -> Episodes:
    """
    :param core: accounts at the starts of their episodes
    :param decide: gives the targets of all rows from their observations
    :return: the episodes of all rows
    """
    bars = core.agents.episode_rows
    observations = [core.observations()]
    bar = [core.bar]
    alive = np.zeros((bars, core.n_envs), dtype=bool)
    available = np.zeros((bars, core.n_envs), dtype=bool)
    rewards = np.zeros((bars, core.n_envs))

    is_playing = np.ones(core.n_envs, dtype=bool)
    for t in range(bars):
        # Ruin ends the episodes of all rows of an account.
        alive[t] = is_playing
        available[t] = is_playing & core.available
        step = core.step(decide(observations[-1]))
        rewards[t] = np.where(is_playing, step.reward, 0.0)
        is_playing = is_playing & ~step.terminated

        observations.append(core.observations())
        bar.append(core.bar)
    planned = np.full(core.n_envs, bars)
    return Episodes(np.array(observations), np.array(bar), alive, available, rewards, planned)


def _actions(model: DistributionalPPO, observations: np.ndarray, states: Any) -> tuple[np.ndarray, Any]:
    """Sample and clip actions as ``collect_rollouts`` does. Also return the actor's states, None: no states."""
    policy: Any = model.policy
    inputs = torch.as_tensor(observations, device=model.device)
    if is_recurrent(model):
        if states is None:
            states = policy.initial_states(len(inputs)).pi
        distribution, states = policy.get_distribution(inputs, states, torch.zeros(len(inputs), device=model.device))
    else:
        distribution = policy.get_distribution(inputs)
    actions = distribution.get_actions().cpu().numpy()

    # Convert them for the environment.
    space = model.action_space
    if not isinstance(space, spaces.Box):
        return np.asarray(actions), states
    if policy.squash_output:
        return policy.unscale_action(actions), states
    return np.clip(actions, space.low, space.high), states


@contextmanager
def _without_side_effects(model: DistributionalPPO) -> Iterator[None]:
    """Restore torch's generators, the policy's mode and its distribution. Inside, torch draws from ``SEED``."""
    policy = model.policy
    training = policy.training
    devices: list[int] = []
    if model.device.type == "cuda":
        devices = list(range(torch.cuda.device_count()))

    with torch.random.fork_rng(devices=devices), policy.kept_distribution():
        torch.manual_seed(SEED)
        policy.set_training_mode(False)
        try:
            yield
        finally:
            policy.set_training_mode(training)
