"""
Trading at bars, one symbol per agent, all agents stepped at once in numpy.

At the close of bar t the agent sees what is known then and names a target position, as a share of its equity. The order
is filled at the open of bar t + 1 (or at the close of bar t, by option); until then the old position earns. The reward
is 100 times the growth of log equity from close to close, net of fees, slippage and financing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from market_regimes.config import TradingCosts
from market_regimes.market.costs import CurrencyCosts
from market_regimes.market.scaling import log_returns
from market_regimes.market.segments import WINDOW, Market, Segment

# Earlier returns, volatility, index, and the position, in which a policy without memory would learn to remember.
BESIDE_LAST_RETURN = [*range(WINDOW - 1), WINDOW, WINDOW + 1, -1]
INDEX_SCALE = 20.0  # points of the volatility index that make 1 in an observation: about its long-run mean
REWARD_SCALE = 100.0
RUIN_EQUITY = 0.01  # share of the starting equity at which an episode ends: the logarithm needs a floor


@dataclass
class StepResult:
    """What one step did, arrays of shape (n_envs,). Trades and costs are shares of the equity before it."""

    growth: np.ndarray  # equity after the step over equity before it
    gross_growth: np.ndarray  # the same without fees, slippage and financing
    trade: np.ndarray  # bought, below 0: sold
    cost: np.ndarray  # fees, slippage and financing
    terminated: np.ndarray
    truncated: np.ndarray

    @property
    def reward(self) -> np.ndarray:
        """Growth of log equity in per cent."""
        reward: np.ndarray = REWARD_SCALE * np.log(self.growth)
        return reward


@dataclass(frozen=True)
class Known:
    """
    What each of n_envs agents knows at a close, arrays of shape (n_envs,) but for the last.

    :param symbol: position of its segment
    :param bar: position of the bar in its market
    :param volatility: EWMA volatility, annualised, in points
    :param index: volatility index, in points
    :param regime: position in ``REGIMES``
    :param position: share of its equity that is invested
    :param equity: 1 at the start
    :param episode_start: whether this is the first bar of its episode
    :param observations: as the environment gives them, shape (n_envs, ``observation_size``)
    """

    symbol: np.ndarray
    bar: np.ndarray
    volatility: np.ndarray
    index: np.ndarray
    regime: np.ndarray
    position: np.ndarray
    equity: np.ndarray
    episode_start: np.ndarray
    observations: np.ndarray


class MarketCore:
    """
    Markets seen by n_envs independent agents: positions, equity and time, without any interface. All markets lie in one
    array, one after the other; ``bar`` and ``end`` are positions in it.

    :param segments: what may be traded, one symbol each, all with the same bars per year
    :param n_envs: number of agents
    :param costs: what trading costs and what may be held
    :param episode_bars: steps per episode from a random start; None: from the first bar to the last
    :raises ValueError: if episodes have no bars, prices do not move, or costs need a volume that is not there
    """

    def __init__(
        self,
        segments: Sequence[Segment],
        n_envs: int = 1,
        costs: TradingCosts | None = None,
        episode_bars: int | None = 252,
    ):
        self.n_envs = n_envs
        self.costs = costs or TradingCosts()
        self.markets = [segment.market for segment in segments]
        if episode_bars is not None and episode_bars < 1:
            raise ValueError(f"episode_bars must be at least 1, got {episode_bars}")
        self.offset = np.cumsum([0, *(len(market.close) for market in self.markets[:-1])])
        self.first = self.offset + [segment.first for segment in segments]
        self.last = self.offset + [segment.last for segment in segments]
        available = self.last - self.first
        self.episode_bars = available if episode_bars is None else np.minimum(episode_bars, available)

        scaled = [_scaled(segment) for segment in segments]
        self.windows = np.lib.stride_tricks.sliding_window_view(np.concatenate([s[0] for s in scaled]), WINDOW)
        self.context = np.concatenate([s[1] for s in scaled])
        self.last_return_only = np.array([market.last_return_only for market in self.markets])
        self.any_last_return_only = bool(self.last_return_only.any())
        self.features = list(self.markets[0].features)
        self.regime = np.concatenate([market.regime for market in self.markets])
        self.index = np.concatenate([market.index for market in self.markets])
        self.volatility = np.concatenate([market.volatility for market in self.markets])
        self.fills_at_open = np.array([fills_at_open(market, self.costs) for market in self.markets])
        self.all_fill_at_open = bool(self.fills_at_open.all())
        returns = [_returns(market, at_open) for market, at_open in zip(self.markets, self.fills_at_open, strict=True)]
        self.return_before_fill = np.concatenate([r[0] for r in returns])
        self.return_after_fill = np.concatenate([r[1] for r in returns])
        self.cost_rate = (self.costs.fee_bp + self.costs.slippage_bp) / 1e4
        self.in_currency = None
        if self.costs.in_currency:
            fills = [
                prices_of_fills(market, at_open)
                for market, at_open in zip(self.markets, self.fills_at_open, strict=True)
            ]
            self.in_currency = CurrencyCosts.of(list(segments), self.costs, fills)
        self.bars_per_year = self.markets[0].bars_per_year
        self.rows_per_year = self.markets[0].account_rows_per_year

        self.symbol = np.arange(n_envs) % len(segments)
        self.bar = self.first[self.symbol]
        self.end = self.bar + self.episode_bars[self.symbol]
        self.position = np.zeros(n_envs)
        self.equity = np.ones(n_envs)

    def reset(self, which: np.ndarray, generator: np.random.Generator) -> None:
        """
        Start new episodes, flat and with equity 1.

        :param which: mask of the agents to reset, shape (n_envs,)
        :param generator: draws their symbols and first bars
        """
        symbol = generator.integers(len(self.markets), size=int(which.sum()))
        starts = generator.integers(self.first[symbol], self.last[symbol] - self.episode_bars[symbol] + 1)
        self.symbol[which] = symbol
        self.bar[which] = starts
        self.end[which] = starts + self.episode_bars[symbol]
        self.position[which] = 0.0
        self.equity[which] = 1.0

    def start_at(self, bar: np.ndarray, position: np.ndarray) -> None:
        """
        Put the agents at other bars with other positions. Their equity and the ends of their episodes stay.

        :param bar: positions in the core's arrays, shape (n_envs,)
        :param position: shares of equity that are invested, shape (n_envs,)
        """
        self.bar = bar.copy()
        self.position = position.astype(np.float64)

    def observations(self) -> np.ndarray:
        """
        :return: float32, shape (n_envs, ``observation_size``): log returns, EWMA volatility, volatility index,
            features, position; where the market is ``last_return_only``, 0 for all but that return and the features
        """
        observations = np.empty((self.n_envs, observation_size(len(self.features))), dtype=np.float32)
        observations[:, :WINDOW] = self.windows[self.bar - (WINDOW - 1)]
        observations[:, WINDOW:-1] = self.context.take(self.bar, axis=0)
        observations[:, -1] = self.position
        if self.any_last_return_only:
            agents = np.flatnonzero(self.last_return_only[self.symbol])
            observations[agents[:, None], BESIDE_LAST_RETURN] = 0
        return observations

    def known(self) -> Known:
        """:return: what a trading rule may know now"""
        return Known(
            symbol=self.symbol.copy(),
            bar=self.bar - self.offset[self.symbol],
            volatility=self.volatility[self.bar],
            index=self.index[self.bar],
            regime=self.regime[self.bar],
            position=self.position.copy(),
            equity=self.equity.copy(),
            episode_start=self.bar == self.end - self.episode_bars[self.symbol],
            observations=self.observations(),
        )

    def step(self, targets: np.ndarray) -> StepResult:
        """
        Fill the orders and go one bar on; an agent at its end stays there.

        :param targets: target positions as shares of equity, shape (n_envs,); clipped to the allowed range
        :return: what happened
        """
        low, high = self.costs.bounds
        target = np.minimum(np.maximum(targets, low), high)
        first_return = self.return_before_fill.take(self.bar)
        second_return = self.return_after_fill.take(self.bar)
        overnight = self.position
        if not self.all_fill_at_open:
            overnight = np.where(self.fills_at_open[self.symbol], self.position, target)
        borrowed = np.maximum(overnight - 1, 0) + np.maximum(-overnight, 0)
        financing = self.costs.financing_rate / self.bars_per_year * borrowed

        gross_before_fill = 1 + self.position * first_return
        if self.costs.cash_rate:
            interest = self.costs.cash_rate / self.bars_per_year * np.maximum(1 - np.maximum(overnight, 0), 0)
            gross_before_fill = gross_before_fill + interest
        gross_before_fill = np.maximum(gross_before_fill, 1e-9)
        before_fill = np.maximum(gross_before_fill - financing, 1e-9)
        drifted = self.position * (1 + first_return) / before_fill
        # The trade d leaves the target share of what is left after its cost: d = target * (1 - rate |d|) - drifted.
        rate = self.cost_rate if self.in_currency is None else self.cost_rate + self.in_currency.per_share[self.bar]
        trade = target - drifted
        trade = trade / (1 + np.sign(trade) * target * rate)
        cost = rate * np.abs(trade)
        if self.in_currency is not None:
            cost = self.in_currency.total(self.bar, np.abs(trade), cost, self.equity * before_fill)
            trade = target * (1 - cost) - drifted
        after_fill = np.maximum(1 + target * second_return, 1e-9)

        growth = np.maximum(before_fill * (1 - cost) * after_fill, RUIN_EQUITY / self.equity)
        self.equity = self.equity * growth
        self.position = target * (1 + second_return) / after_fill
        self.bar = np.minimum(self.bar + 1, self.end)
        terminated = self.equity <= RUIN_EQUITY * (1 + 1e-12)
        return StepResult(
            growth,
            gross_before_fill * after_fill,
            trade * before_fill,
            cost * before_fill + financing,
            terminated,
            truncated=(self.bar >= self.end) & ~terminated,
        )


def fills_at_open(market: Market, costs: TradingCosts) -> bool:
    """Whether orders are filled at the next open, or at the close that was seen."""
    return costs.fill != "close" and market.fill == "open"


def with_fill(costs: TradingCosts, markets: Sequence[Market]) -> TradingCosts:
    """
    :param costs: what trading costs
    :param markets: what is traded
    :return: the costs with the fill that the markets decide; where some have opening prices and others have none, each
        market decides its own, and the fill stays open
    """
    kinds = {market.fill for market in markets}
    if costs.fill is not None or len(kinds) != 1:
        return costs
    return replace(costs, fill="close" if kinds == {"close"} else "next_open")


def prices_of_fills(market: Market, at_open: bool) -> np.ndarray:
    """Price at which the order of each close but the last is filled."""
    return market.open[1:] if at_open else market.close[:-1]


def _returns(market: Market, at_open: bool) -> tuple[np.ndarray, np.ndarray]:
    """Simple returns from each bar's close to the fill of the order given there, and from there to the next close."""
    until_fill = prices_of_fills(market, at_open) / market.close[:-1]
    whole = market.close[1:] / market.close[:-1]
    return np.append(until_fill - 1, 0.0), np.append(whole / until_fill - 1, 0.0)  # nothing follows the last bar


def _scaled(segment: Segment) -> tuple[np.ndarray, np.ndarray]:
    """
    :return: float32: scaled log returns, shape (T,), and scaled EWMA volatility beside the volatility index and the F
        scaled features, (T, 2 + F)
    :raises ValueError: if the prices do not move over ``scale_on``
    """
    market, scaling = segment.market, segment.scaling
    returns = (log_returns(market.close) - scaling.return_mean) / scaling.return_std
    volatility = (market.volatility - scaling.volatility_mean) / scaling.volatility_std
    index = market.index / INDEX_SCALE
    of = scaling.features
    features = [(values - of[name].mean) / of[name].std for name, values in market.features.items()]
    context = np.stack([volatility, index, *features], axis=1)
    return returns.astype(np.float32), context.astype(np.float32)


def observation_size(features: int = 0) -> int:
    """
    :param features: number of ``MarketConfig.features``
    :return: numbers in an observation: log returns, EWMA volatility, volatility index, features, position
    """
    return WINDOW + 2 + features + 1


def spaces_of(costs: TradingCosts, features: int = 0) -> tuple[spaces.Box, spaces.Space[Any]]:
    """
    :param costs: what may be held
    :param features: number of ``MarketConfig.features``
    :return: observation and action space of both interfaces
    """
    observation = spaces.Box(-np.inf, np.inf, (observation_size(features),), np.float32)
    if costs.positions is not None:
        return observation, spaces.Discrete(len(costs.positions))
    return observation, spaces.Box(costs.position_low, costs.position_high, (1,), np.float32)


class MarketVecEnv(VecEnv):
    """
    ``MarketCore`` as a vectorised environment of Stable-Baselines3.

    :param core: the markets and their agents
    :param seed: seed of the starts of the episodes
    """

    render_mode = None

    def __init__(self, core: MarketCore, seed: int | None = None):
        super().__init__(core.n_envs, *spaces_of(core.costs, len(core.features)))
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
        self._targets = self.core.costs.targets(actions)

    def step_wait(self) -> VecEnvStepReturn:
        result = self.core.step(self._targets)
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


class MarketEnv(gym.Env[np.ndarray, Any]):
    """
    ``MarketCore`` with one agent as a Gymnasium environment.

    :param core: the markets and their one agent
    :raises ValueError: if the core has more agents
    """

    metadata = {"render_modes": []}  # noqa: RUF012  # Gymnasium declares it as a variable of the instance

    def __init__(self, core: MarketCore):
        if core.n_envs != 1:
            raise ValueError(f"a MarketEnv has one agent, the core has {core.n_envs}")
        self.core = core
        self.observation_space, self.action_space = spaces_of(core.costs, len(core.features))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """:param options: none are known"""
        super().reset(seed=seed)
        self.core.reset(np.ones(1, dtype=bool), self.np_random)
        return self.core.observations()[0], {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """:param action: target position, shape (1,), or the number of one of ``TradingCosts.positions``"""
        result = self.core.step(self.core.costs.targets(action))
        terminated, truncated = bool(result.terminated[0]), bool(result.truncated[0])
        return self.core.observations()[0], float(result.reward[0]), terminated, truncated, {}
