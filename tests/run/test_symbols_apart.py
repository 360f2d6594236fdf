"""A figure of a symbol is that symbol's: of several symbols each has what it has alone."""

from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest
import torch

from market_regimes import Agent, MarketConfig, RunConfig, Study, TradingCosts
from market_regimes.evaluate.account import Account
from market_regimes.evaluate.figures import summary
from market_regimes.evaluate.play import backtest, positions, trades
from market_regimes.market.segments import Market, Segment
from market_regimes.run.signal import LastDecision, signals_of

PERIODS = dict(
    train=("2000-01-03", "2001-06-29"), validation=("2001-07-02", "2001-10-31"), test=("2001-11-01", "2003-04-18")
)
SYMBOLS = ("A", "B", "C")


class Critic:
    """Predicts four quantiles that begin at the first number of the observation."""

    carries_states = False

    def __init__(self):
        self.policy = self

    def predict_quantiles(self, observations):
        first = torch.as_tensor(observations, dtype=torch.float32)[:, :1]
        return first + torch.tensor([0.0, 1.0, 3.0, 7.0]) * (1 + first.abs())

    quantiles_of_episode = predict_quantiles


def market_of(number):
    """60 bars that end a day later, in another regime and filled otherwise for each symbol."""
    dates = np.datetime64("2001-01-01", "s") + 86400 * (np.arange(60) + number)
    close = 100.0 + np.arange(60) * (number + 1)
    market = Market(SYMBOLS[number], "nowhere", dates, close - 1, close, close / 10, np.full(60, 10.0 + 12 * number))
    return replace(market, fill="close" if number == 1 else "open")


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_every_number_of_a_signal_is_that_of_its_symbol(order):
    """CVaR, quantiles, regime, date, fill, position, target, trade, warnings and observation."""
    observations = [np.full((1, 23), value) for value in (-2.0, 0.5, 4.0)]
    last = LastDecision(
        np.array([0.1, 0.2, 0.3])[[*order]],
        np.array([1.0, 0.0, 0.5])[[*order]],
        [observations[i] for i in order],
        np.full(3, -1),
    )
    markets = [market_of(i) for i in order]
    warnings = [[f"of {market.symbol}"] for market in markets]
    together = signals_of(Critic(), markets, TradingCosts(), last, warnings)
    for i, signal in enumerate(together):
        own = LastDecision(last.held[[i]], last.target[[i]], [last.observations[i]], last.ruined[[i]])
        (alone,) = signals_of(Critic(), [markets[i]], TradingCosts(), own, [warnings[i]])
        assert asdict(signal) == asdict(alone)
    for name in ("symbol", "date", "regime", "position", "target", "trade", "cvar"):
        assert len({getattr(signal, name) for signal in together}) == 3, name
    assert [signal.cvar for signal in together] == pytest.approx([[-2.0, 0.5, 4.0][i] for i in order])
    assert [signal.fill for signal in together] == [["next_open", "close", "next_open"][i] for i in order]


@pytest.fixture(scope="module")
def run(tmp_path_factory, make_prices):
    """A run of one update on three symbols, and their bars."""
    out = tmp_path_factory.mktemp("runs")
    table = pd.concat([make_prices(860, seed=i).assign(symbol=name) for i, name in enumerate(SYMBOLS)])
    table.to_csv(out / "prices.csv", index=False)
    settings = RunConfig(total_timesteps=128, n_envs=2, eval_every=128, out=str(out), name="run", progress_bar=False)
    market = MarketConfig(str(out / "prices.csv"), episode_bars=60, **PERIODS)
    study = Study(settings, market, dict(seed=0, n_steps=64, batch_size=64, n_epochs=1, learning_rate=0.01))
    return study.start(), table


def test_an_agent_asked_for_several_symbols_answers_for_each_as_if_it_were_alone(run):
    folder, table = run
    agent = Agent.load(folder)
    held = {"A": 0.0, "B": 0.4, "C": 0.9}
    together = agent.signal(table, held)
    assert len({signal.cvar for signal in together}) == 3
    for signal in together:
        (alone,) = agent.signal(table[table["symbol"] == signal.symbol], {signal.symbol: held[signal.symbol]})
        assert (signal.symbol, signal.regime, signal.date) == (alone.symbol, alone.regime, alone.date)
        assert signal.cvar == pytest.approx(alone.cvar, rel=1e-5)
        assert signal.quantiles == pytest.approx(alone.quantiles, rel=1e-5)
        assert signal.observation == pytest.approx(alone.observation)
        assert (signal.position, signal.target) == pytest.approx((alone.position, alone.target), rel=1e-5)


def test_figures_trades_and_positions_of_several_symbols_are_those_of_each_alone():
    """Three random walks of other lengths, each traded by its own rhythm."""
    rng = np.random.default_rng(0)
    segments = []
    for number, symbol in enumerate(SYMBOLS):
        bars = 140 + 20 * number
        close = 100 * np.exp(np.cumsum(rng.normal(0, 0.02, bars)))
        dates = np.datetime64("2001-01-01", "s") + 86400 * np.arange(bars)
        index = 20 + 10 * np.sin(np.arange(bars) / (number + 2))
        market = Market(symbol, "nowhere", dates, close, close, np.arange(1.0, bars + 1), index)
        segments.append(Segment(market, range(21, bars), range(bars)))
    costs = TradingCosts(fee_bp=10.0)
    frames = backtest(segments, costs, lambda known: (known.bar // (3 + known.symbol) % 2).astype(float))
    together = summary({"agent": Account(frames)}, 252)["symbols"]
    orders, decisions = trades(frames), positions(frames, segments)
    for number, segment in enumerate(segments):
        symbol = segment.market.symbol
        alone = backtest([segment], costs, lambda known, pace=3 + number: (known.bar // pace % 2).astype(float))
        assert together[symbol] == summary({"agent": Account(alone)}, 252)["symbols"][symbol]
        pd.testing.assert_frame_equal(orders[orders["symbol"] == symbol], trades(alone))
        mine = decisions[decisions["symbol"] == symbol].reset_index(drop=True)
        pd.testing.assert_frame_equal(mine, positions(alone, [segment]))
    assert len({of["agent"]["sharpe_ratio"] for of in together.values()}) == 3
