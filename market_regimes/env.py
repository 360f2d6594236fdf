"""
Trading one symbol at daily bars, all copies stepped at once in numpy.

At the close of bar t the agent sees what is known then and names a target position, as a share of its equity. The order
is filled at the open of bar t + 1 (or at the close of bar t, by option); until then the old position earns. The reward
is 100 times the growth of log equity from close to close, net of fees, slippage and financing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from market_regimes.data import BARS_PER_YEAR, Market

WINDOW = 20  # log returns in an observation
INDEX_SCALE = 20.0  # points of the volatility index that make 1 in an observation: about its long-run mean
REWARD_SCALE = 100.0
RUIN_EQUITY = 0.01  # share of the starting equity at which an episode ends: the logarithm needs a floor


@dataclass(frozen=True)
class TradingCosts:
    """
    What trading costs and what may be held.

    :param position_low: smallest target position, as a share of equity; below 0: short selling
    :param position_high: largest target position; above 1: leverage
    :param fee_bp: fee in basis points of the traded value
    :param slippage_bp: loss against the fill price, in basis points of the traded value
    :param financing_rate: yearly interest on borrowed cash and fee on borrowed stock
    :param fill: "next_open": orders are filled at the next bar's open; "close": at the close just seen
    :raises ValueError: if the positions are no range, a cost is negative or costs take 100 % of a trade
    """

    position_low: float = 0.0
    position_high: float = 1.0
    fee_bp: float = 1.0
    slippage_bp: float = 0.0
    financing_rate: float = 0.05
    fill: Literal["next_open", "close"] = "next_open"

    def __post_init__(self) -> None:
        if not -10 <= self.position_low < self.position_high <= 10:
            raise ValueError(
                "positions must have -10 <= position_low < position_high <= 10, "
                f"got {self.position_low} and {self.position_high}"
            )
        for name in ("fee_bp", "slippage_bp", "financing_rate"):
            if not 0 <= getattr(self, name) < 1000:
                raise ValueError(f"{name} must be within [0, 1000), got {getattr(self, name)}")
        if self.fill not in ("next_open", "close"):
            raise ValueError(f"fill must be 'next_open' or 'close', got {self.fill!r}")


@dataclass
class StepResult:
    """What one step did, arrays of shape (n_envs,). Costs and turnover are shares of the equity before the step."""

    growth: np.ndarray  # equity after the step over equity before it
    turnover: np.ndarray
    cost: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray

    @property
    def reward(self) -> np.ndarray:
        """Growth of log equity in per cent."""
        reward: np.ndarray = REWARD_SCALE * np.log(self.growth)
        return reward


class MarketCore:
    """
    The market seen by n_envs independent agents: positions, equity and time, without any interface.

    :param market: the bars
    :param period: bars whose returns may be earned; the first decision falls on the close before them
    :param scale_on: bars whose statistics scale the observations: the training period, whatever ``period`` is
    :param n_envs: number of agents
    :param costs: what trading costs and what may be held
    :param episode_bars: steps per episode from a random start; None: from the first bar to the last
    :raises ValueError: if the period is too short for its window and one step
    """

    def __init__(
        self,
        market: Market,
        period: range,
        scale_on: range,
        n_envs: int = 1,
        costs: TradingCosts | None = None,
        episode_bars: int | None = 252,
    ):
        self.n_envs = n_envs
        self.costs = costs or TradingCosts()
        self.features = _features(market, scale_on)
        self.first = max(period.start - 1, WINDOW)
        self.last = period.stop - 1
        if self.first >= self.last:
            raise ValueError(
                f"the period's {len(period)} bars are too few: {WINDOW} returns are needed before the first decision "
                f"and one bar after it"
            )
        if episode_bars is not None and episode_bars < 1:
            raise ValueError(f"episode_bars must be at least 1, got {episode_bars}")
        available = self.last - self.first
        self.episode_bars = available if episode_bars is None else min(episode_bars, available)
        # Simple returns of bar t + 1, split where its order is filled.
        until_fill = market.open[1:] / market.close[:-1]
        whole = market.close[1:] / market.close[:-1]
        self.return_before_fill = (until_fill if self.costs.fill == "next_open" else np.ones_like(whole)) - 1.0
        self.return_after_fill = whole / (1.0 + self.return_before_fill) - 1.0
        self.cost_rate = (self.costs.fee_bp + self.costs.slippage_bp) / 1e4
        self.bar = np.full(n_envs, self.first)
        self.end = np.full(n_envs, self.last)
        self.position = np.zeros(n_envs)
        self.equity = np.ones(n_envs)

    def reset(self, which: np.ndarray, generator: np.random.Generator) -> None:
        """
        Start new episodes, flat and with equity 1.

        :param which: mask of the agents to reset, shape (n_envs,)
        :param generator: draws their first bars
        """
        starts = generator.integers(self.first, self.last - self.episode_bars + 1, size=int(which.sum()))
        self.bar[which] = starts
        self.end[which] = starts + self.episode_bars
        self.position[which] = 0.0
        self.equity[which] = 1.0

    def observations(self) -> np.ndarray:
        """:return: float32, shape (n_envs, WINDOW + 3): log returns, EWMA volatility, volatility index, position"""
        return np.concatenate([self.features[self.bar], self.position[:, None]], axis=1, dtype=np.float32)

    def step(self, targets: np.ndarray) -> StepResult:
        """
        Fill the orders and go one bar on.

        :param targets: target positions as shares of equity, shape (n_envs,); clipped to the allowed range
        :return: what happened
        """
        target = np.clip(targets, self.costs.position_low, self.costs.position_high)
        first_return = self.return_before_fill[self.bar]
        second_return = self.return_after_fill[self.bar]
        overnight = self.position if self.costs.fill == "next_open" else target
        financing = (
            self.costs.financing_rate / BARS_PER_YEAR * (np.maximum(overnight - 1, 0) + np.maximum(-overnight, 0))
        )

        before_fill = np.maximum(1 + self.position * first_return - financing, 1e-9)
        drifted = self.position * (1 + first_return) / before_fill
        # The trade d leaves the target share of what is left after its cost: d = target * (1 - rate |d|) - drifted.
        trade = target - drifted
        trade = trade / (1 + np.sign(trade) * target * self.cost_rate)
        cost = self.cost_rate * np.abs(trade)
        after_fill = np.maximum(1 + target * second_return, 1e-9)

        growth = np.maximum(before_fill * (1 - cost) * after_fill, RUIN_EQUITY / self.equity)
        self.equity = self.equity * growth
        self.position = target * (1 + second_return) / after_fill
        self.bar = self.bar + 1
        terminated = self.equity <= RUIN_EQUITY * (1 + 1e-12)
        truncated = (self.bar >= self.end) & ~terminated
        return StepResult(growth, np.abs(trade) * before_fill, cost * before_fill, terminated, truncated)


def _features(market: Market, scale_on: range) -> np.ndarray:
    """
    :param market: the bars
    :param scale_on: bars whose mean and standard deviation scale returns and volatility
    :return: float32, shape (T, WINDOW + 2); rows before WINDOW, which lack history, are zero and never observed
    """
    log_returns = np.diff(np.log(market.close), prepend=np.nan)
    columns = []
    for values in (log_returns, market.volatility):
        known = values[max(scale_on.start, 1) : scale_on.stop]
        columns.append((values - known.mean()) / known.std())
    features = np.zeros((len(market.close), WINDOW + 2), dtype=np.float32)
    features[WINDOW:, :WINDOW] = np.lib.stride_tricks.sliding_window_view(columns[0][1:], WINDOW)
    features[WINDOW:, WINDOW] = columns[1][WINDOW:]
    features[WINDOW:, WINDOW + 1] = market.index[WINDOW:] / INDEX_SCALE
    return features


def _spaces(costs: TradingCosts) -> tuple[spaces.Box, spaces.Box]:
    """Observation and action space of both interfaces."""
    observation = spaces.Box(-np.inf, np.inf, (WINDOW + 3,), np.float32)
    return observation, spaces.Box(costs.position_low, costs.position_high, (1,), np.float32)


class MarketVecEnv(VecEnv):
    """
    ``MarketCore`` as a vectorised environment of Stable-Baselines3. The last step's ``StepResult`` is ``last_result``.

    :param core: the market and its agents
    :param seed: seed of the starts of the episodes
    """

    last_result: StepResult
    render_mode = None

    def __init__(self, core: MarketCore, seed: int | None = None):
        super().__init__(core.n_envs, *_spaces(core.costs))
        self.core = core
        self.generator = np.random.default_rng(seed)
        self._targets = np.zeros(core.n_envs)

    def reset(self) -> VecEnvObs:
        """Start new episodes everywhere; after ``seed(s)``, those of seed s."""
        if self._seeds[0] is not None:
            self.generator = np.random.default_rng(self._seeds[0])
        self._reset_seeds()
        self.core.reset(np.ones(self.num_envs, dtype=bool), self.generator)
        self.reset_infos = [{} for _ in range(self.num_envs)]
        return self.core.observations()

    def step_async(self, actions: np.ndarray) -> None:
        self._targets = np.asarray(actions, dtype=np.float64).reshape(self.num_envs)

    def step_wait(self) -> VecEnvStepReturn:
        result = self.core.step(self._targets)
        self.last_result = result
        dones = result.terminated | result.truncated
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        observations = self.core.observations()
        if dones.any():
            for i in np.flatnonzero(dones):
                infos[i] = {"terminal_observation": observations[i], "TimeLimit.truncated": bool(result.truncated[i])}
            self.core.reset(dones, self.generator)
            observations = self.core.observations()
        return observations, result.reward.astype(np.float32), dones, infos

    def close(self) -> None:
        pass

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self, attr_name)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        setattr(self, attr_name, value)

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        raise NotImplementedError("the copies of a MarketVecEnv are rows of arrays and have no methods of their own")

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: Any = None) -> list[bool]:
        return [False] * len(list(self._get_indices(indices)))


class MarketEnv(gym.Env[np.ndarray, np.ndarray]):
    """
    ``MarketCore`` with one agent as a Gymnasium environment.

    :param core: the market and its one agent
    :raises ValueError: if the core has more agents
    """

    metadata = {"render_modes": []}  # noqa: RUF012  # Gymnasium declares it as a variable of the instance

    def __init__(self, core: MarketCore):
        if core.n_envs != 1:
            raise ValueError(f"a MarketEnv has one agent, the core has {core.n_envs}")
        self.core = core
        self.observation_space, self.action_space = _spaces(core.costs)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """:param options: none are known"""
        super().reset(seed=seed)
        self.core.reset(np.ones(1, dtype=bool), self.np_random)
        return self.core.observations()[0], {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """:param action: target position, shape (1,)"""
        result = self.core.step(np.asarray(action, dtype=np.float64).reshape(1))
        terminated, truncated = bool(result.terminated[0]), bool(result.truncated[0])
        return self.core.observations()[0], float(result.reward[0]), terminated, truncated, {}
