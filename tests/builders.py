"""What several test files build: constants, then one class or function per thing, sorted by name."""

import copy
import multiprocessing
from concurrent.futures import Future
from contextlib import contextmanager

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest
import torch
import torch.distributed as dist
from gymnasium import spaces
from markets import load_shipped
from matplotlib.figure import Figure
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

from distributional_ppo import (
    DistributionalPPO,
    QuantileActorCriticPolicy,
    RecurrentDistributionalPPO,
)
from market_regimes.compare.executors import EXECUTORS
from market_regimes.config import TradingCosts
from market_regimes.evaluate.pictures import tear_sheet
from market_regimes.market.environment import MarketCore, MarketVecEnv
from market_regimes.market.market import Market
from market_regimes.market.periods import period_of
from market_regimes.market.regimes import DEFAULT_REGIMES
from market_regimes.market.scaling import Scaling
from market_regimes.market.segment import Segment
from train_model_multi_patch import main

HUGE_KAPPA = 2.0**20  # a power of two, so that dividing by it is exact


AS_PPO = dict(
    quantile_huber_kappa=HUGE_KAPPA,
    vf_coef=0.5 * 4 * HUGE_KAPPA,
    use_variance_gradient_scaling=False,
)


CLIP_MODES = ("per_quantile", "mean_only", "mean_and_variance")


DICT_SPACE = spaces.Dict({"a": spaces.Box(-1, 1, (3,)), "b": spaces.Discrete(3)})


DRAW = Figure.draw


IMAGE = spaces.Box(0, 255, (36, 36, 1), dtype=np.uint8)


NORMALISED = dict(normalize_returns=True, use_popart=True)


OBS = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)


# One update of 3 minibatches. A KL limit leaves the step to the optimizer, which shortens the graph.
ONE_UPDATE = dict(
    n_steps=24,
    batch_size=16,
    n_epochs=1,
    seed=0,
    device="cpu",
    learning_rate=1e-2,
    target_kl=1e9,
)


# Days of made-up files of 600 business days from 2000-01-03; the last 15 bars lie behind the test period.
PERIODS = dict(
    train=("2000-01-03", "2001-03-30"),
    validation=("2001-04-02", "2001-08-31"),
    test=("2001-09-03", "2002-03-29"),
)


# What the processes of tests import: these libraries, and all that builders import.
PRELOADED = [
    *("distributional_ppo", "sb3_contrib", "upgd", "train_model_multi_patch"),
    *("market_regimes.compare.executors", "market_regimes.evaluate.pictures", "market_regimes.market.environment"),
]


RECURRENT_SHORT = dict(n_steps=32, batch_size=40, n_epochs=2, seed=0, device="cpu")


SHARED_LSTM = dict(shared_lstm=True, enable_critic_lstm=False)


SHORT = dict(n_steps=64, batch_size=32, n_epochs=2, seed=0, device="cpu")


SMALL_LSTM = dict(lstm_hidden_size=8, net_arch=[8])


SMALL_NET = dict(net_arch=[8], n_quantiles=4)


UNEVEN = dict(n_steps=32, batch_size=24, n_epochs=2, seed=0, device="cpu")  # 24: a short last minibatch


RECURRENT_CASES = {
    "discrete": {},
    "box": dict(action_space=spaces.Box(-1, 1, (2,))),
    "gSDE": dict(action_space=spaces.Box(-1, 1, (2,)), use_sde=True, sde_sample_freq=4),
    "multi-discrete": dict(action_space=spaces.MultiDiscrete([2, 3])),
    "shared LSTM": dict(policy_kwargs=SHARED_LSTM),
    "actor's LSTM only": dict(policy_kwargs=dict(enable_critic_lstm=False)),
    "2 layers": dict(policy_kwargs=dict(n_lstm_layers=2)),
    "unshared extractor": dict(policy_kwargs=dict(share_features_extractor=False)),
    "dict": dict(observation_space=DICT_SPACE, policy="MultiInputLstmPolicy"),
    "image": dict(
        observation_space=IMAGE,
        policy="CnnLstmPolicy",
        policy_kwargs=dict(features_extractor_kwargs=dict(features_dim=16)),
    ),
    "one minibatch": dict(batch_size=None),
    "entropy and target_kl": dict(ent_coef=0.1, target_kl=0.02),
    "raw advantages": dict(normalize_advantage=False),
}


needs_compiler = pytest.mark.usefixtures("compiler")


class ApartPolicy(QuantileActorCriticPolicy):
    """Quantiles that do not begin as one, so that there is a variance from the first update on."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        with torch.random.fork_rng():
            for layer in self.value_net.last_layers:
                nn.init.orthogonal_(layer.weight)


class AskingPolicy(ActorCriticPolicy):
    """A user's policy that asks its own `predict_values` for the value."""

    def evaluate_actions(self, obs, actions):
        distribution = self.get_distribution(obs)
        return (
            self.predict_values(obs),
            distribution.log_prob(actions),
            distribution.entropy(),
        )

    def forward(self, obs, deterministic=False):
        distribution = self.get_distribution(obs)
        actions = distribution.get_actions(deterministic=deterministic)
        return actions, self.predict_values(obs), distribution.log_prob(actions)


def assert_alike_after(change, models, updates=1):
    """Both learn the same after the change, and not what they would have learnt without it."""
    for model in models:
        change(model)

    assert train_alike(*models, updates=updates) < 1e-5


def assert_equal_tensors(ours, theirs):
    """Compare two dictionaries of tensors, bit for bit."""
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


def assert_rollout_is_eager(model):
    """The log probabilities and values that the compiled step gives are those of the eager policy."""
    buffer = model.rollout_buffer
    policy = model.policy

    with torch.no_grad():
        model.collect_rollouts(model.env, model.callback, buffer, model.n_steps)
        assert model._policy_step.function.call is not None
        observations = torch.as_tensor(buffer.observations).flatten(0, 1)
        values, log_prob, _ = policy.evaluate_actions(observations, torch.as_tensor(buffer.actions).flatten())

    assert buffer.values.flatten() == pytest.approx(values.flatten().numpy(), abs=1e-4)
    assert buffer.log_probs.flatten() == pytest.approx(log_prob.numpy(), abs=1e-5)


@contextmanager
def cells_here():
    """Within it cells that would run in processes run in this one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(EXECUTORS, "processes", Here)
        yield


class CustomHeadPolicy(ActorCriticPolicy):
    """A user's policy with a critic head and an optimizer of its own."""

    def _build(self, lr_schedule):
        super()._build(lr_schedule)
        self.value_net = nn.Sequential(
            nn.Linear(self.mlp_extractor.latent_dim_vf, 16),
            nn.Tanh(),
            nn.Linear(16, 1),
        )
        groups = [{"params": [p], "weight_decay": 0.0} for p in self.parameters()]
        self.optimizer = self.optimizer_class(groups, lr=lr_schedule(1), **self.optimizer_kwargs)


@contextmanager
def drawing():
    """Within it pictures are drawn and tear sheets written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "draw", DRAW)
        patch.setattr("market_regimes.evaluate.evaluation.tear_sheet", tear_sheet)
        yield


def eager_and_compiled(cls=DistributionalPPO, **flags):
    """An eager model and a compiled one, whose code is compiled."""
    models = (
        make_one_update(cls, False, **flags),
        make_one_update(cls, True, **flags),
    )

    assert train_alike(*models) < 1e-5

    return models


class Episodes(gym.Env):
    """Random observations, reward 1, episodes of 5 to 24 steps, every other of which is truncated."""

    def __init__(self, observation_space=None, action_space=None):
        self.observation_space = observation_space or spaces.Box(-1, 1, (3,))
        self.action_space = action_space or spaces.Discrete(2)
        self.episode = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.left = self.np_random.integers(5, 25)
        self.episode = self.episode + 1
        return self.observation_space.sample(), {}

    def step(self, action):
        self.left -= 1
        ends = self.left == 0
        truncates = self.episode % 2 == 0
        return (
            self.observation_space.sample(),
            1.0,
            bool(ends and not truncates),
            bool(ends and truncates),
            {},
        )


class Here:
    """An executor of cells without processes, whose start would take longer than the cells."""

    def __init__(self, workers):
        pass

    def submit(self, function, cell):
        future = Future()
        try:
            future.set_result(function(cell))
        except ValueError as error:
            future.set_exception(error)
        return future

    def shutdown(self):
        pass


def in_two_processes(work, path, timeout):
    """Results of ``work(rank, path, results)`` by rank, of two processes that start at once."""
    context = prepared_processes()
    results = context.Queue()
    workers = [context.Process(target=work, args=(rank, path, results)) for rank in (0, 1)]
    for worker in workers:
        worker.start()

    by_rank = dict(results.get(timeout=timeout) for _ in workers)
    for worker in workers:
        worker.join()
    return by_rank


def join_processes(rank, path, **options):
    """Let this process be one of two that train together."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{path / 'meeting'}", rank=rank, world_size=2, **options)


def make_one_update(cls, compile, policy_kwargs=None, policy="MlpPolicy", **flags):
    """A model whose update has three small minibatches."""
    kwargs = {**SMALL_NET, **(policy_kwargs or {})}
    return cls(
        policy,
        make_vec_env("CartPole-v1", 2, seed=0),
        compile=compile,
        policy_kwargs=kwargs,
        **ONE_UPDATE | flags,
    )


def make_random(n_envs=2, **flags):
    """A model on random observations, one episode after the other."""
    return DistributionalPPO("MlpPolicy", make_vec_env(RandomEnv, n_envs, seed=0), **{**SHORT, **flags})


def make_recurrent(
    cls=RecurrentDistributionalPPO,
    policy="MlpLstmPolicy",
    observation_space=None,
    action_space=None,
    policy_kwargs=None,
    n_envs=3,
    **settings,
):
    env = DummyVecEnv([lambda: Episodes(observation_space, action_space) for _ in range(n_envs)])
    if cls is not RecurrentPPO:
        policy_kwargs = {
            "n_quantiles": 1 if "quantile_huber_kappa" in settings else 4,
            **(policy_kwargs or {}),
        }
    return cls(
        policy,
        env,
        policy_kwargs={**SMALL_LSTM, **(policy_kwargs or {})},
        **{**RECURRENT_SHORT, **settings},
    )


def make_walking(n_envs=3, env=None, **kwargs):
    """A model on random walks, whose last minibatch is short with one environment."""
    env = env or DummyVecEnv([Walk] * n_envs)

    return DistributionalPPO("MlpPolicy", env, **{**UNEVEN, **kwargs})


class NormalisingExtractor(BaseFeaturesExtractor):
    """A user's extractor with batch norm."""

    def __init__(self, observation_space, features_dim=8):
        super().__init__(observation_space, features_dim)
        self.net = nn.Sequential(nn.Linear(3, features_dim), nn.BatchNorm1d(features_dim))

    def forward(self, observations):
        return self.net(observations)


def plain_state(model):
    """Parameters under the names that RecurrentPPO has for them."""
    return {name.replace("value_net.net.", "value_net."): p.detach() for name, p in model.policy.named_parameters()}


class PlainPolicy(ActorCriticPolicy):
    """A user's policy."""


def prepared_processes():
    """Processes that begin with the libraries imported: a server of this test run imports them once, and forks."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


class RandomEnv(gym.Env):
    """Episodes of 16 steps with random observations; the reward is `scale` times a known function of them."""

    def __init__(self, observation_space=None, action_space=None, scale=1.0, reward=None, observation=None):
        self.observation_space = observation_space or spaces.Box(-1, 1, (3,))
        self.action_space = action_space or spaces.Discrete(2)
        self.scale = scale
        self.reward = reward
        self.observation = observation

    def _observe(self):
        if self.observation is not None and self.t == 9:
            return np.full(3, self.observation, dtype=np.float32)
        return self.observation_space.sample()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.t = 0
        return self._observe(), {}

    def step(self, action):
        self.t += 1
        reward = self.scale * (1.0 + np.sin(self.t))
        if self.reward is not None and self.t == 9:
            reward = self.reward
        return self._observe(), reward, self.t == 16, False, {}


def same_parameters(first, second):
    """Whether two models have the same parameters and buffers, bit for bit."""
    ours = first.policy.state_dict()
    theirs = second.policy.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def train_alike(eager, compiled, updates=2):
    """Let both learn from the rollouts of the first; return the largest difference between parameters."""
    for model in (eager, compiled):
        _, model.callback = model._setup_learn(10_000)

    for update in range(updates):
        eager.collect_rollouts(eager.env, eager.callback, eager.rollout_buffer, eager.n_steps)
        compiled.rollout_buffer = copy.deepcopy(eager.rollout_buffer)
        for name in (
            "_last_obs",
            "_last_episode_starts",
            "_truncated",
            "num_timesteps",
        ):
            setattr(compiled, name, copy.deepcopy(getattr(eager, name)))

        for model in (eager, compiled):
            np.random.seed(update)  # noqa: NPY002
            torch.manual_seed(update)
            model.train()

    pairs = zip(
        eager.policy.state_dict().values(),
        compiled.policy.state_dict().values(),
        strict=True,
    )
    return max(float((a - b).abs().max()) for a, b in pairs)


class Walk(gym.Env):
    """Episodes of 9 steps that end by termination and by truncation in turn; the reward depends on what is seen."""

    observation_space = spaces.Box(-1, 1, (3,))

    def __init__(self, action_space=None):
        self.action_space = action_space or spaces.Discrete(2)
        self.episodes = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        self.episodes = 1 if seed is not None else self.episodes + 1
        return self.np_random.uniform(-1, 1, 3).astype(np.float32), {}

    def step(self, action):
        self.t += 1
        observation = self.np_random.uniform(-1, 1, 3).astype(np.float32)
        reward = 2.0 + 3.0 * observation[0] * np.sum(action) + self.np_random.normal(0, 1 + self.episodes % 3)
        over = self.t == 9
        return (
            observation,
            float(reward),
            over and self.episodes % 2 == 0,
            over and self.episodes % 2 == 1,
            {},
        )


class KeepRollout(BaseCallback):
    """The first full rollout's observations and bars, gathered without the code under test."""

    def __init__(self, core):
        super().__init__()
        self.core = core
        self.bars = []

    def _on_rollout_start(self):
        self.bars.append(self.core.bar.copy())

    def _on_step(self):
        self.bars.append(self.core.bar.copy())
        return True


# A run of one update from the command line.
QUICK_FLAGS = [
    *("--run.total_timesteps=64", "--run.n_envs=2", "--run.eval_every=64", "--run.progress_bar=false"),
    *("--algorithm.n_steps=32", "--algorithm.batch_size=64", "--algorithm.n_epochs=1", "--market.episode_bars=60"),
]


def errors_of(capsys, *arguments):
    """The error output of a command line that is refused."""
    with pytest.raises(SystemExit):
        main([str(argument) for argument in arguments])
    return capsys.readouterr().err


def refused(capsys, *arguments):
    """The one sentence with which the command line refuses."""
    capsys.readouterr()

    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])

    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    return message


def rollout_of_indices():
    """A model after an update and another rollout on both indices, and the bars of the second rollout's samples."""
    segments = [
        Segment.scaled_by(market, period_of(market, "1999-01-01", "2008-12-31"), range(2500))
        for market in map(load_shipped, ("sp500", "nasdaq"))
    ]
    core = MarketCore(segments, 8)
    settings = dict(n_steps=256, batch_size=256, seed=0, normalize_returns=True, use_popart=True)
    model = DistributionalPPO("MlpPolicy", MarketVecEnv(core), **settings)
    model.learn(2048)

    keep = KeepRollout(core)
    keep.init_callback(model)
    model.collect_rollouts(model.env, keep, model.rollout_buffer, 256)
    return model, core, np.stack(keep.bars[:-1])


COLUMN_FLAGS = [
    *("--run.total_timesteps=128", "--run.n_envs=2", "--run.eval_every=64", "--run.progress_bar=false"),
    *("--algorithm.n_steps=32", "--algorithm.batch_size=32", "--algorithm.n_epochs=1"),
    *("--market.train=[2000-01-03,2001-06-29]", "--market.validation=[2001-07-02,2001-10-31]"),
    *("--market.test=[2001-11-01,2002-04-19]", "--market.features=[macro,volume]"),
    *("--market.benchmark_positions=mine", "--market.trading.start_equity=10000", "--market.trading.min_fee=1"),
]


def train_with_columns(folder, prices):
    """A run on a file with columns of the user's own: its folder and the file."""
    path = folder / "prices.csv"
    with_columns(prices).to_csv(path, index=False)

    main([*COLUMN_FLAGS, f"--market.data={path}", f"--run.out={folder}", "--run.name=x"])
    return folder / "x", path


def with_columns(prices):
    """600 bars with features, a column that is not used, and targets of the user's own."""
    rng = np.random.default_rng(2)
    return prices.assign(
        macro=rng.uniform(1, 2, 600),
        other=1.0,
        volume=rng.integers(50, 99, 600),
        mine=rng.uniform(0, 1, 600),
    )


DAY = np.timedelta64(1, "D")


def segment_of(market, first=21, stop=None):
    """What is traded of a market: decisions fall on the bars from ``first - 1`` on. Observations stay unscaled."""
    bars = len(market.close)
    unscaled = Scaling(0.0, 1.0, 0.0, 1.0, 20.0, (-1.0, 1.0), (0.0, 100.0), (0.0, 100.0))
    period = range(first, bars if stop is None else stop)
    return Segment(market, period, unscaled, training=range(bars))


def walking_market(symbol, seed, bars=110, kept=None, spread=0.03, drift=0.0):
    """Random daily bars from 2001-01-01; ``kept`` names the days that have one."""
    rng = np.random.default_rng(seed)
    days = np.arange(bars)
    close = 50 * np.exp(np.cumsum(rng.normal(drift, spread, bars)))
    opens = np.concatenate([close[:1], close[:-1] * np.exp(rng.normal(0, 0.6 * spread, bars - 1))])
    dates = (np.datetime64("2001-01-01") + days * DAY).astype("M8[s]")
    volatility = rng.uniform(10, 40, bars)
    rows = days if kept is None else kept
    arrays = (dates, opens, close, volatility, np.full(bars, 20.0))
    return Market(symbol, "nowhere", *(array[rows] for array in arrays))


# A training period, a validation period and a test period of the bars that ``make_prices(600)`` makes up.
PERIODS_OF_600_BARS = dict(
    train=("2000-01-03", "2001-06-29"),
    validation=("2001-07-02", "2001-10-31"),
    test=("2001-11-01", "2002-04-19"),
)


RECURRENT_NETWORKS = {
    "own LSTMs": {},
    "2 layers": dict(n_lstm_layers=2),
    "shared LSTM": dict(shared_lstm=True, enable_critic_lstm=False),
    "actor's LSTM only": dict(enable_critic_lstm=False),
}


def train_recurrent(segments, cls=RecurrentDistributionalPPO, kwargs=None, **settings):
    """A recurrent agent, by default of four quantiles, after two updates on a market that lets it sell short."""
    core = MarketCore(segments["train"], 2, TradingCosts(position_low=-1.0), 20)
    env = MarketVecEnv(core, seed=0)

    policy_kwargs = dict(SMALL_LSTM, **(kwargs or {}))
    if cls is not RecurrentPPO:
        policy_kwargs["n_quantiles"] = 1 if "quantile_huber_kappa" in settings else 4

    settings = {**RECURRENT_SHORT, "learning_rate": 0.01, "gamma": 0.9, **settings}
    return cls("MlpLstmPolicy", env, policy_kwargs=policy_kwargs, **settings).learn(128)


RUN_OF_PRICES = [
    *("--run.total_timesteps=256", "--run.n_envs=2", "--run.eval_every=128", "--run.progress_bar=false"),
    *("--algorithm.n_steps=64", "--algorithm.batch_size=64", "--algorithm.n_epochs=4", "--market.episode_bars=60"),
    "--market.train=[2000-01-03,2001-06-29]",
    "--market.validation=[2001-07-02,2001-10-31]",
    "--market.test=[2001-11-01,2002-04-19]",
]


def regimes_of_rows(names):
    """The column ``regime`` of a frame by hand, as a backtest has it."""
    return pd.Categorical(names, DEFAULT_REGIMES.names, ordered=True)
