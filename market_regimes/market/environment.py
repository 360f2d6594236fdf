"""
Trading at bars, one symbol per agent, all agents stepped at once in numpy.

At the close of bar t the agent sees what is known then and names a target position, as a share of its equity. The order
is filled at the open of bar t + 1 (or at the close of bar t, by option); until then the old position earns. The reward
is 100 times the growth of log equity from close to close, net of fees, slippage and financing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from market_regimes.config import MarketConfig, PeriodName, TradingCosts
from market_regimes.market.costs import CostModel
from market_regimes.market.features import observation_size
from market_regimes.market.market import Market, fills_at_open, prices_of_fills
from market_regimes.market.observations import Observations
from market_regimes.market.segment import Segment
from market_regimes.market.segments import read_data

REWARD_SCALE = 100.0
RUIN_EQUITY = 0.01  # share of the starting equity at which an episode ends: the logarithm needs a floor
LEAST_GROWTH = 1e-9  # of equity within a step, so that nothing is divided by 0


@dataclass
class StepResult:
    """The results of one step, arrays of shape (n_envs,). Trades and costs are shares of the equity before the step."""

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
    The knowledge of n_envs agents at a close, arrays of shape (n_envs,) but for the last.

    :param symbol: position of its segment
    :param bar: position of the bar in its market
    :param volatility: EWMA volatility, annualised, in points
    :param index: volatility index, in points
    :param regime: position in the market's ``regimes.names``
    :param position: share of its equity that is invested
    :param equity: 1 at the start
    :param episode_start: whether this is the first bar of its episode
    :param observations: observations of the environment, shape (n_envs, ``observation_size``)
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
    Markets in which n_envs independent agents trade: positions, equity and time, without any interface. All markets
    lie in one array, one after the other; ``bar`` and ``end`` are positions in it.

    :param segments: segments to trade, one symbol each, all with the same bars per year
    :param n_envs: number of agents
    :param costs: costs of trading and bounds of positions
    :param episode_bars: steps per episode from a random start; None: from the first bar to the last
    :param cost_model: costs of orders and positions; None: the model of ``costs``
    :raises ValueError: if episodes have no bars, prices do not move, or costs need a volume that is not there
    """

    STATE: ClassVar[tuple[str, ...]] = ("symbol", "bar", "end", "position", "equity")

    def __init__(
        self,
        segments: Sequence[Segment],
        n_envs: int = 1,
        costs: TradingCosts | None = None,
        episode_bars: int | None = 252,
        cost_model: CostModel | None = None,
    ):
        if episode_bars is not None and episode_bars < 1:
            raise ValueError(f"episode_bars must be at least 1, got {episode_bars}")

        # The markets, and what trading in them costs.
        self.n_envs = n_envs
        self.costs = costs or TradingCosts()
        self.markets = [segment.market for segment in segments]
        self.bars_per_year = self.markets[0].bars_per_year
        self.rows_per_year = self.markets[0].account_rows_per_year

        # The place of each segment among all bars.
        lengths = [len(market.close) for market in self.markets]
        self.offset = np.cumsum([0, *lengths[:-1]])
        self.first = self.offset + [segment.first for segment in segments]
        self.last = self.offset + [segment.last for segment in segments]

        # An episode has no more bars than its segment.
        available = self.last - self.first
        self.episode_bars = available
        if episode_bars is not None:
            self.episode_bars = np.minimum(episode_bars, available)

        # The observations of the agents.
        self.features = list(self.markets[0].features)
        scalings = [segment.scaling for segment in segments]
        self._observations = Observations(self.markets, scalings)

        # The numbers that trading rules read.
        self.regime = np.concatenate([market.regime for market in self.markets])
        self.index = np.concatenate([market.index for market in self.markets])
        self.volatility = np.concatenate([market.volatility for market in self.markets])

        # The returns of each bar until its order is filled, and from then on.
        fills = [fills_at_open(market, self.costs) for market in self.markets]
        before = []
        after = []
        for market, at_open in zip(self.markets, fills, strict=True):
            until_fill, from_fill = _returns(market, at_open)
            before.append(until_fill)
            after.append(from_fill)
        self.fills_at_open = np.array(fills)
        self.all_fill_at_open = all(fills)
        self.return_before_fill = np.concatenate(before)
        self.return_after_fill = np.concatenate(after)

        # The costs of orders and positions.
        if cost_model is None:
            cost_model = CostModel.of(segments, self.costs)
        self.cost_model = cost_model

        # The agents: flat, with equity 1, at the first bar of their symbols.
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
        # Every symbol is as likely as another, and every bar from which a whole episode fits.
        count = int(which.sum())
        symbol = generator.integers(len(self.markets), size=count)
        bars = self.episode_bars[symbol]
        latest = self.last[symbol] - bars
        starts = generator.integers(self.first[symbol], latest + 1)

        self.symbol[which] = symbol
        self.bar[which] = starts
        self.end[which] = starts + bars

        # Flat, with equity 1.
        self.position[which] = 0.0
        self.equity[which] = 1.0

    @property
    def agents(self) -> MarketCore:
        """The holder of the arrays of ``STATE``."""
        return self

    def spaces(self) -> tuple[spaces.Box, spaces.Space[Any]]:
        """:return: observation and action space of an agent"""
        return spaces_of(self.costs, len(self.features))

    def start_at(self, bar: np.ndarray, position: np.ndarray) -> None:
        """
        Put the agents at other bars with other positions. Their equity and the ends of their episodes stay.

        :param bar: positions in the core's arrays, shape (n_envs,)
        :param position: shares of equity that are invested, shape (n_envs,)
        """
        self.bar = bar.copy()
        self.position = position.astype(np.float64)

    def observations(self) -> np.ndarray:
        """:return: float32, shape (n_envs, ``observation_size``), as ``features.py`` describes them"""
        return self._observations.at(self.bar, self.position)

    def known(self) -> Known:
        """:return: the numbers that a trading rule may read now"""
        bar = self.bar - self.offset[self.symbol]
        start = self.end - self.episode_bars[self.symbol]
        return Known(
            symbol=self.symbol.copy(),
            bar=bar,
            volatility=self.volatility[self.bar],
            index=self.index[self.bar],
            regime=self.regime[self.bar],
            position=self.position.copy(),
            equity=self.equity.copy(),
            episode_start=self.bar == start,
            observations=self.observations(),
        )

    def step(self, targets: np.ndarray) -> StepResult:
        """
        Fill the orders and go one bar on; an agent at its end stays there.

        :param targets: target positions as shares of equity, shape (n_envs,); clipped to the allowed range
        :return: the results of the step
        """
        low, high = self.costs.bounds
        target = np.minimum(np.maximum(targets, low), high)

        # The returns of this bar until the fill, and from the fill on.
        return_before_fill = self.return_before_fill.take(self.bar)
        return_after_fill = self.return_after_fill.take(self.bar)

        # The position that is held over night: the old one until the open, or the new one from the close on.
        overnight = self.position
        if not self.all_fill_at_open:
            overnight = np.where(self.fills_at_open[self.symbol], self.position, target)
        financing = self.cost_model.financing(overnight)

        # The old position earns until the fill.
        gross_before_fill = 1 + self.position * return_before_fill
        if self.costs.cash_rate:
            gross_before_fill = gross_before_fill + self.cost_model.interest(overnight)
        gross_before_fill = np.maximum(gross_before_fill, LEAST_GROWTH)

        # Financing is paid, and the old position has drifted with its price.
        before_fill = np.maximum(gross_before_fill - financing, LEAST_GROWTH)
        drifted = self.position * (1 + return_before_fill) / before_fill

        # The order is filled and pays its cost.
        equity_at_fill = self.equity * before_fill
        order = self.cost_model.trade(target, drifted, self.bar, equity_at_fill)
        after_order = before_fill * (1 - order.cost)

        # The new position earns the rest of the bar.
        after_fill = np.maximum(1 + target * return_after_fill, LEAST_GROWTH)
        growth = np.maximum(after_order * after_fill, RUIN_EQUITY / self.equity)
        self.equity = self.equity * growth
        self.position = target * (1 + return_after_fill) / after_fill

        # One bar on.
        self.bar = np.minimum(self.bar + 1, self.end)
        is_over = self.bar >= self.end

        # Ruin ends an episode; the last bar cuts it off.
        terminated = self.equity <= RUIN_EQUITY * (1 + 1e-12)
        truncated = is_over & ~terminated
        return StepResult(
            growth=growth,
            gross_growth=gross_before_fill * after_fill,
            trade=order.trade * before_fill,
            cost=order.cost * before_fill + financing,
            terminated=terminated,
            truncated=truncated,
        )


def _returns(market: Market, at_open: bool) -> tuple[np.ndarray, np.ndarray]:
    """Simple returns from each bar's close to the fill of the order given there, and from there to the next close."""
    until_fill = prices_of_fills(market, at_open) / market.close[:-1]
    whole = market.close[1:] / market.close[:-1]

    # Nothing follows the last bar.
    before = np.append(until_fill - 1, 0.0)
    after = np.append(whole / until_fill - 1, 0.0)
    return before, after


def spaces_of(
    costs: TradingCosts,
    features: int = 0,
    in_account: bool = False,
) -> tuple[spaces.Box, spaces.Space[Any]]:
    """
    :param costs: bounds or list of positions
    :param features: number of ``MarketConfig.features``
    :param in_account: whether the agent sees the other symbols of an account (``rows_of_account``)
    :return: observation and action space of both interfaces
    """
    size = observation_size(features)
    if in_account:
        size = 2 * size + 1
    observation = spaces.Box(-np.inf, np.inf, (size,), np.float32)

    # Positions of a list are chosen by their number.
    if costs.positions is not None:
        return observation, spaces.Discrete(len(costs.positions))

    # Others lie anywhere between two bounds.
    action = spaces.Box(
        costs.position_low,
        costs.position_high,
        (1,),
        np.float32,
    )
    return observation, action


class Step(Protocol):
    """The results of one step, arrays of shape (n_envs,)."""

    @property
    def reward(self) -> np.ndarray: ...

    @property
    def terminated(self) -> np.ndarray: ...

    @property
    def truncated(self) -> np.ndarray: ...


class Core(Protocol):
    """What trades in an environment: agents of one symbol each, or the rows of accounts (``AccountRows``)."""

    STATE: ClassVar[tuple[str, ...]]  # arrays of ``agents`` that a resumed run goes on from
    n_envs: int
    costs: TradingCosts
    markets: list[Market]
    rows_per_year: float
    regime: np.ndarray  # of all bars of all markets
    index: np.ndarray

    @property
    def bar(self) -> np.ndarray: ...

    @property
    def agents(self) -> Any: ...

    def spaces(self) -> tuple[spaces.Box, spaces.Space[Any]]: ...

    def reset(self, which: np.ndarray, generator: np.random.Generator) -> None: ...

    def observations(self) -> np.ndarray: ...

    def step(self, targets: np.ndarray) -> Step: ...


class MarketVecEnv(VecEnv):
    """
    Agents of a market as a vectorised environment of Stable-Baselines3.

    :param core: the markets and their agents
    :param seed: seed of the starts of the episodes
    """

    render_mode = None

    def __init__(self, core: Core, seed: int | None = None):
        observation_space, action_space = core.spaces()
        super().__init__(core.n_envs, observation_space, action_space)

        self.core = core
        self.generator = np.random.default_rng(seed)
        self._targets = np.zeros(core.n_envs)

    def reset(self) -> VecEnvObs:
        """Start new episodes everywhere; after ``seed(s)``, those of seed s."""
        if self._seeds[0] is not None:
            self.generator = np.random.default_rng(self._seeds[0])
        self._reset_seeds()

        everywhere = np.ones(self.num_envs, dtype=bool)
        self.core.reset(everywhere, self.generator)
        self.reset_infos = [{} for _ in range(self.num_envs)]
        return self.core.observations()

    def step_async(self, actions: np.ndarray) -> None:
        self._targets = self.core.costs.targets(actions)

    def step_wait(self) -> VecEnvStepReturn:
        result = self.core.step(self._targets)
        rewards = result.reward.astype(np.float32)
        dones = result.terminated | result.truncated
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        observations = self.core.observations()

        # Where an episode ended, its last observation goes to the info and the next episode begins.
        if dones.any():
            for i in np.flatnonzero(dones):
                infos[i] = {
                    "terminal_observation": observations[i],
                    "TimeLimit.truncated": bool(result.truncated[i]),
                }
            self.core.reset(dones, self.generator)
            observations = self.core.observations()
        return observations, rewards, dones, infos

    def close(self) -> None:
        pass

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        count = len(list(self._get_indices(indices)))
        return [getattr(self, attr_name)] * count

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        setattr(self, attr_name, value)

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        raise NotImplementedError("the copies of a MarketVecEnv are rows of arrays and have no methods of their own")

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: Any = None) -> list[bool]:
        count = len(list(self._get_indices(indices)))
        return [False] * count


class MarketEnv(gym.Env[np.ndarray, Any]):
    """
    ``MarketCore`` with one agent as a Gymnasium environment. ``MarketEnv.of("sp500")`` makes one from data.

    :param core: the markets and their one agent
    :raises ValueError: if the core has more agents
    """

    metadata = {"render_modes": []}  # noqa: RUF012  # Gymnasium declares it as a variable of the instance

    def __init__(self, core: MarketCore):
        if core.n_envs != 1:
            raise ValueError(f"a MarketEnv has one agent, the core has {core.n_envs}")
        self.core = core
        self.observation_space, self.action_space = spaces_of(core.costs, len(core.features))

    @classmethod
    def of(cls, market: MarketConfig | str | list[str] = "sp500", period: PeriodName = "train") -> MarketEnv:
        """
        :param market: the data, or the whole configuration of a market
        :param period: episodes of ``episode_bars`` from random starts in the training period; in the others the whole
            period, as in an evaluation
        :return: the environment
        :raises ValueError: in one sentence, if the data cannot be used
        """
        if not isinstance(market, MarketConfig):
            market = MarketConfig(market)
        data = read_data(market)

        # Validation and test are played from their first bar to their last.
        episode_bars = None
        if period == "train":
            episode_bars = market.episode_bars

        core = MarketCore(
            data.segments[period],
            n_envs=1,
            costs=data.config.trading,
            episode_bars=episode_bars,
        )
        return cls(core)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """:param options: not used"""
        super().reset(seed=seed)

        # The one agent starts anew.
        self.core.reset(np.ones(1, dtype=bool), self.np_random)
        return self.core.observations()[0], {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """:param action: target position, shape (1,), or the number of one of ``TradingCosts.positions``"""
        targets = self.core.costs.targets(action)
        result = self.core.step(targets)

        # The arrays of one agent become its numbers.
        observation = self.core.observations()[0]
        reward = float(result.reward[0])
        terminated = bool(result.terminated[0])
        truncated = bool(result.truncated[0])
        return observation, reward, terminated, truncated, {}
