"""What a trained agent holds next: one answer per symbol, with what its critic expects and what to beware of."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from distributional_ppo import DistributionalPPO
from market_regimes.config import ArgumentError, TradingCosts
from market_regimes.evaluate.play import Decision, play
from market_regimes.market.environment import MarketCore
from market_regimes.market.features import WINDOW, features_of
from market_regimes.market.market import Market, fills_at_open
from market_regimes.market.periods import date_text
from market_regimes.market.regimes import memory_of
from market_regimes.market.scaling import FeatureScaling, Range, Scaling, log_returns
from market_regimes.market.segment import Segment
from market_regimes.run.clock import Clock
from market_regimes.run.inputs import is_recurrent, quantiles_of_episode
from market_regimes.run.next_bar import closing_time, missing_bar
from market_regimes.run.trained import Trained
from quantile_critic.losses import lower_tail_mean

# Positions of several symbols, as Python and as the command line gives them.
POSITIONS = {"position": "position=dict(SYMBOL=X)", "--position": "--position SYMBOL=X"}
SHOWN_QUANTILES = (0.05, 0.5, 0.95)
TAIL = 0.05  # share of the worst returns in the conditional value at risk


@dataclass(frozen=True)
class Signal:
    """
    What to hold from the next fill on. Positions are shares of equity.

    :param symbol: of the bars
    :param date: of the last bar, at whose close this is decided
    :param regime: of that bar: calm, normal, volatile or crash
    :param position: held now
    :param target: position that the environment would fill
    :param trade: target minus position held
    :param fill: where it is filled: "next_open", or "close": at the close of the last bar, as bars without opening
        prices are, whatever ``market.trading.fill`` says
    :param quantiles: of the discounted return, in per cent of log growth; by probability, "0.05", "0.5" and "0.95"
    :param cvar: mean of the worst 5 % of these returns
    :param warnings: a sentence each
    :param observation: as ``MarketCore.observations`` gives it: 20 log returns, EWMA volatility, volatility index,
        features, position; scaled
    """

    symbol: str
    date: str
    regime: str
    position: float
    target: float
    trade: float
    fill: Literal["next_open", "close"]
    quantiles: dict[str, float]
    cvar: float
    warnings: list[str]
    observation: list[float]


def position_of(texts: Sequence[str]) -> float | dict[str, float]:
    """
    :param texts: "X" alone, or "SYMBOL=X" for each symbol; none: nothing is held
    :return: the position, or one per symbol
    :raises ValueError: on anything else
    """
    try:
        if len(texts) == 1 and "=" not in texts[0]:
            return float(texts[0])
        pairs = [text.rsplit("=", 1) for text in texts]
        positions = {symbol: float(number) for symbol, number in pairs}
    except ValueError as error:
        raise ValueError(
            f"--position is a share of equity like 0.5, or SYMBOL=0.5 for each, got {' '.join(texts)}"
        ) from error

    if len(positions) < len(texts):
        raise ValueError(f"--position names a symbol twice: {' '.join(texts)}")
    return positions


def positions_held(position: float | Mapping[str, float] | None, symbols: Sequence[str]) -> np.ndarray:
    """
    :param position: held now, as a share of equity: one number for one symbol, else by symbol
    :param symbols: of the bars
    :return: the position of each, NaN where it is not given, shape (n,)
    :raises ValueError: if it is no finite number, for a symbol that is not there, or one number for several symbols
    """
    if position is None:
        return np.full(len(symbols), np.nan)

    # One number is of one symbol, but for 0.
    if isinstance(position, Mapping):
        by_symbol = dict(position)
    else:
        by_symbol = dict.fromkeys(symbols, float(position))
        if len(symbols) > 1 and position != 0:
            raise ArgumentError(
                lambda name: (
                    f"one position does not say which of {', '.join(symbols)} holds it: "
                    f"{POSITIONS[name('position')]} does"
                )
            )

    # Each is finite and of a symbol that is there.
    for symbol, held in by_symbol.items():
        if symbol not in symbols:
            raise ValueError(f"position {symbol}={held:g}: the bars are of {', '.join(symbols)}")
        if not np.isfinite(held):
            raise ValueError(f"position of {symbol} must be a finite share of equity, got {held}")

    return np.array([float(by_symbol.get(symbol, np.nan)) for symbol in symbols])


@dataclass(frozen=True)
class LastDecision:
    """
    The decision of n agents at their last bars.

    :param held: position before, shape (n,)
    :param target: position that the environment would fill, shape (n,)
    :param observations: of every symbol up to its last bar, shapes (bars, observation size)
    :param ruined: bar at whose close the account that was played was ruined, -1: it was not, shape (n,)
    """

    held: np.ndarray
    target: np.ndarray
    observations: list[np.ndarray]
    ruined: np.ndarray


def at_last_bar(core: MarketCore, held: np.ndarray, decide: Decision) -> LastDecision:
    """
    Decide at the last bar alone.

    :param core: an agent per symbol, from a flat start to the last bar
    :param held: position, NaN: none is held, shape (n,)
    :param decide: gives the target positions
    """
    core.start_at(core.last, np.nan_to_num(held))
    episode = play(core, decide)
    observations = list(episode.observations.swapaxes(0, 1))
    return LastDecision(episode.held[-1], episode.decision[-1], observations, episode.ruined)


def replayed(core: MarketCore, held: np.ndarray, decide: Decision) -> LastDecision:
    """
    Decide at the last bar after all that a backtest of the same bars does before. After ruin nothing is held, as there,
    unless a position is given.

    :param core: an agent per symbol, from a flat start to the last bar
    :param held: position at the last bar, NaN: what the rule itself holds by then, shape (n,)
    :param decide: gives the target positions
    """
    bars = core.last - core.first
    episode = play(core, decide, at_end=held)

    # A ruined account holds nothing; a position that is given is one of another account.
    agents = np.arange(core.n_envs)
    ruined = episode.ruined >= 0
    solvent = ~ruined | ~np.isnan(held)
    position = np.where(solvent, episode.held[bars, agents], 0.0)
    target = np.where(solvent, episode.decision[bars, agents], 0.0)

    # Bars count from the first one of each market.
    bar_of_ruin = np.where(ruined, episode.ruined + core.first - core.offset, -1)
    observations = [episode.observations[: n + 1, i] for i, n in enumerate(bars)]
    return LastDecision(position, target, observations, bar_of_ruin)


def signals_of(
    model: DistributionalPPO,
    markets: Sequence[Market],
    trading: TradingCosts,
    last: LastDecision,
    warnings: Sequence[list[str]],
) -> list[Signal]:
    """
    :param model: whose critic predicts
    :param markets: one per symbol
    :param trading: when orders are filled
    :param last: what was decided at their last bars
    :param warnings: sentences for each symbol
    :return: one answer per symbol
    """
    # What the critic predicts at the last bars; without memory the bars before do not matter.
    observations = last.observations
    if not is_recurrent(model):
        observations = [of_symbol[-1:] for of_symbol in observations]
    with torch.no_grad():
        quantiles = torch.stack([quantiles_of_episode(model, of_symbol)[-1] for of_symbol in observations])
    predicted = quantiles.cpu().numpy().astype(np.float64)
    tails = lower_tail_mean(quantiles, TAIL).cpu().numpy()

    # Between the midpoints (i + 0.5) / N on straight lines, beyond the outermost ones flat.
    shown = np.quantile(predicted, SHOWN_QUANTILES, axis=1, method="hazen")

    return [
        Signal(
            symbol=market.symbol,
            date=date_text(market.dates[-1]),
            regime=market.regimes.names[market.regime[-1]],
            position=float(last.held[i]),
            target=float(last.target[i]),
            trade=float(last.target[i] - last.held[i]),
            fill="next_open" if fills_at_open(market, trading) else "close",
            quantiles={f"{share:g}": float(value) for share, value in zip(SHOWN_QUANTILES, shown[:, i], strict=True)},
            cvar=float(tails[i]),
            warnings=warnings[i],
            observation=[float(number) for number in last.observations[i][-1]],
        )
        for i, market in enumerate(markets)
    ]


def warnings_of(
    segment: Segment, position: float, trading: TradingCosts, trained: Mapping[str, Trained], clock: Clock
) -> list[str]:
    """
    :param segment: ends at the bar of the decision
    :param position: held
    :param trading: what may be held
    :param trained: what the run knows
    :param clock: the time by the clock of the bars
    :return: a sentence on each number that training never saw, on a last bar that is still open, on bars that are
        missing, on too short a past, and on an assumed clock
    """
    market = segment.market
    sentences = outside_training(segment, trained)

    # The position, the time, the past.
    low, high = trading.bounds
    if not low <= position <= high:
        sentences.append(f"the position held, {position:g}, lies outside the {low:g} to {high:g} that may be held")
    sentences += warnings_of_time(market, clock)
    memory = memory_of(market.bars_per_year)
    if len(market.dates) <= memory:
        sentences.append(
            f"{len(market.dates)} bars are few: the EWMA volatility remembers {memory}, and a longer past changes it"
        )
    if clock.assumed is not None:
        sentences.append(clock.assumed)
    return sentences


def warnings_of_ruin(segment: Segment, ruined: int) -> list[str]:
    """
    :param segment: that was played
    :param ruined: bar at whose close its account was ruined, -1: it was not
    :return: a sentence on the ruin
    """
    if ruined < 0:
        return []

    first = date_text(segment.market.dates[segment.first + 1])
    bar = date_text(segment.market.dates[ruined])
    return [f"the account that is played from {first} on is ruined on {bar}: it holds nothing after that"]


def warnings_of_time(market: Market, clock: Clock) -> list[str]:
    """:return: a sentence on a last bar that is still open or lies in the future, or on bars that are missing"""
    # How long ago the last bar began, and how long it lasts.
    last = market.dates[-1]
    closing = closing_time(market.dates)
    age = clock.now - last
    is_short = closing - last < np.timedelta64(1, "D")

    # Where instants are known they decide: a file's clock may have been put forward or back since the last bar.
    if is_short and (market.instants != market.dates).any():
        age = clock.instant - market.instants[-1]

    # A bar of the future, an open one, missing ones.
    if age < np.timedelta64(0, "s"):
        return [f"the last bar, of {date_text(last)}, lies in the future"]
    if age < closing - last:
        return [
            f"the last bar, of {date_text(last)}, is still open: it counts as closed at {minute_text(closing)}, and by "
            f"its clock it is {minute_text(clock.now)}"
        ]
    missing = missing_bar(market.dates, clock.now)
    if missing is None:
        return []
    return [
        f"the bars end on {date_text(last)}: by their own calendar that of {date_text(missing)} has closed since, "
        "unless it was a holiday"
    ]


def minute_text(time: np.datetime64) -> str:
    """As a person writes a time: 2026-11-30 10:30."""
    return str(time.astype("M8[m]")).replace("T", " ")


def outside_training(segment: Segment, trained: Mapping[str, Trained]) -> list[str]:
    """:return: a sentence on each number of the last observation that lies outside what training saw of any symbol"""
    market = segment.market
    scaling = segment.scaling
    scalings = [entry.scaling for entry in trained.values()]

    # The log returns, in per cent.
    ranges = _ranges_as_seen([_of_returns(entry) for entry in scalings], _of_returns(scaling))
    bars = 1 if market.last_return_only else WINDOW
    last = 100 * log_returns(market.close)[-bars:]
    checked = [("log return", last, [(100 * low, 100 * high) for low, high in ranges], ".2f", " %")]

    # The features that this market shows.
    for feature in features_of(market.features):
        if market.last_return_only and not feature.is_column:
            continue
        ranges = _ranges_as_seen([feature.scaling(entry) for entry in scalings], feature.scaling(scaling))
        checked.append((feature.label, feature.values(market)[-1:], ranges, feature.digits, feature.suffix))

    # A sentence on the number of each kind that lies farthest outside.
    sentences = []
    for name, values, ranges, form, unit in checked:
        low = min(r[0] for r in ranges)
        high = max(r[1] for r in ranges)
        beyond = np.maximum(low - values, values - high)
        bar = int(np.argmax(beyond))
        if beyond[bar] > 1e-9 * (high - low):  # the ranges of other symbols are rescaled, and rounded
            value = f"{name} of {date_text(market.dates[bar - len(values)])}, {values[bar]:{form}}{unit}"
            sentences.append(f"the {value}, lies outside the {low:{form}} to {high:{form}} that training saw")
    return sentences


def _of_returns(scaling: Scaling) -> FeatureScaling:
    return FeatureScaling(scaling.return_mean, scaling.return_std, scaling.returns)


def _ranges_as_seen(scalings: Sequence[FeatureScaling], target: FeatureScaling) -> list[Range]:
    """The range of each symbol in the units of the target, where both are the same once scaled."""
    ranges = []
    for scaling in scalings:
        low, high = scaling.seen
        if (scaling.mean, scaling.std) != (target.mean, target.std):
            low = (low - scaling.mean) / scaling.std * target.std + target.mean
            high = (high - scaling.mean) / scaling.std * target.std + target.mean
        ranges.append((low, high))
    return ranges


def json_of(signals: Sequence[Signal], with_observation: bool = False) -> str:
    """
    :param signals: one per symbol
    :param with_observation: whether the observations are wanted
    :return: a JSON list of objects
    """
    content = [asdict(signal) for signal in signals]
    for entry in content:
        if not with_observation:
            del entry["observation"]
    return json.dumps(content, indent=2)


def filled_at(signals: Sequence[Signal]) -> str:
    """:return: where the signals are filled, in words"""
    words = {"next_open": "the next open", "close": "that close"}
    of = {fill: [signal.symbol for signal in signals if signal.fill == fill] for fill in words}
    used = {fill: symbols for fill, symbols in of.items() if symbols}
    if len(used) == 1:
        return words[next(iter(used))]
    return ", ".join(f"{words[fill]} ({', '.join(symbols)})" for fill, symbols in used.items())


def print_signals(signals: Sequence[Signal], title: str, with_observation: bool = False) -> None:
    """
    Print what to hold and what the critic expects, a row per symbol, then the warnings.

    :param signals: one per symbol
    :param title: what they are of
    :param with_observation: whether the observations are wanted
    """
    # What to hold, and what the critic expects of it.
    held = Table(box=SIMPLE)
    expected = Table(title="discounted return in %, as predicted", box=SIMPLE)
    for name in ("symbol", "last bar", "regime", "held", "target", "trade"):
        held.add_column(name, no_wrap=True)
    for name in ("symbol", *(f"{100 * share:g} %" for share in SHOWN_QUANTILES), "CVaR 5 %"):
        expected.add_column(name, no_wrap=True)

    # A row per symbol.
    for signal in signals:
        position = (f"{signal.position:.4f}", f"{signal.target:.4f}", f"{signal.trade:+.4f}")
        held.add_row(signal.symbol, signal.date, signal.regime, *position)
        expected.add_row(signal.symbol, *(f"{value:+.2f}" for value in (*signal.quantiles.values(), signal.cvar)))

    print(title)
    for table in (held, expected):
        Console().print(table)

    # What it observes, and what to beware of.
    for signal in signals:
        if with_observation:
            print(f"{signal.symbol} observes: {' '.join(f'{number:.9g}' for number in signal.observation)}")
        for sentence in signal.warnings:
            print(f"warning: {signal.symbol}: {sentence}")
