"""The configuration: a dataclass per section of the YAML, except ``algorithm``, which is the constructor's."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from itertools import pairwise
from typing import Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np

VolatilityIndex = Literal["auto", "estimated", "real"]
PeriodName = Literal["train", "validation", "test"]
CheckpointName = Literal["best", "last"]
Variants = dict[str, dict[str, Any]]
EACH = "each"  # stands for every variant except the one it is compared with
RESERVED = ("vf_coef_of", "adaptive_kl", "n_envs", "chosen_before")  # keys of a variant outside the algorithm
SYNTHETIC = ("synthetic", "synthetic_hidden", "synthetic_choice")  # twenty series each, with one known law
# Data without files, and their symbols or the start of their symbols.
SHIPPED = {"sp500": "S&P 500", "nasdaq": "NASDAQ", **{name: name for name in SYNTHETIC}}
MAX_POSITION = 10.0
MAX_SEEDS = 1000
MAX_BASIS_POINTS = 1000


def is_zone(text: str) -> bool:
    """:return: whether a text is an offset like -05:00, or a zone's name like America/New_York"""
    if re.fullmatch(r"[+-]\d{2}:[0-5]\d", text):
        return True
    try:
        ZoneInfo(text)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # OSError: a folder of zones has this name
        return False
    return True


class ArgumentError(ValueError):
    """
    A refused argument, named as its caller does: ``first`` in Python, ``--from`` on the command line.

    :param sentence: function that turns a function for an argument's name into the message
    """

    def __init__(self, sentence: Callable[[Callable[[str], str]], str]):
        self.sentence = sentence
        super().__init__(sentence(str))


def seeds_of(text: str) -> list[int]:
    """
    :param text: seeds like 0-4 or 0,3,7
    :return: the seeds
    :raises ValueError: if the text has another form, or more than ``MAX_SEEDS`` seeds
    """
    seeds: Sequence[int] = []
    if re.fullmatch(r"\d{1,9}-\d{1,9}", text):
        first, last = (int(bound) for bound in text.split("-"))
        seeds = range(first, last + 1)
    elif re.fullmatch(r"\d{1,9}(,\d{1,9})*", text):
        seeds = sorted({int(seed) for seed in text.split(",")})

    if not 0 < len(seeds) <= MAX_SEEDS:
        raise ValueError(f"expected seeds like 0-4 or 0,3,7, at most {MAX_SEEDS} of them, got {text}")
    return list(seeds)


@dataclass(frozen=True)
class TradingCosts:
    """
    Trading costs and allowed positions.

    :param position_low: smallest target position, as a share of equity; below 0: short selling
    :param position_high: largest target position; above 1: leverage
    :param positions: allowed target positions in place of the range from low to high. The action is then the index of
        a position
    :param fee_bp: fee in basis points of the traded value
    :param slippage_bp: loss against the fill price, in basis points of the traded value
    :param financing_rate: yearly interest on borrowed cash and fee on borrowed stock
    :param cash_rate: yearly interest on equity that is not invested
    :param fill: "next_open": fill orders at the next bar's open and refuse data without opening prices. "close": fill
        them at the close just seen. None: the next open if the data have opening prices, else the close
    :param start_equity: equity of each symbol's account at the start of an episode, in the currency of the prices. The
        three costs below need it, since positions are shares of equity
    :param min_fee: least fee of an order, in currency
    :param fee_per_share: fee in currency per share traded, beside ``fee_bp``. Shares are counted at the traded prices,
        which are adjusted if the file's are
    :param impact_coefficient: an order worth V costs this times s * sqrt(V / W) of V (the square-root law). s is the
        EWMA volatility of a bar and W its volume times close. Both belong to the bar at whose close the order is given
    :raises ValueError: if the positions are not a range, a cost is negative, costs take 100 % of a trade, or an amount
        in currency lacks ``start_equity``
    """

    position_low: float = 0.0
    position_high: float = 1.0
    positions: list[float] | None = None
    fee_bp: float = 1.0
    slippage_bp: float = 0.0
    financing_rate: float = 0.05
    cash_rate: float = 0.0
    fill: Literal["next_open", "close"] | None = None
    start_equity: float | None = None
    min_fee: float = 0.0
    fee_per_share: float = 0.0
    impact_coefficient: float = 0.0

    def __post_init__(self) -> None:
        self._check_positions()
        self._check_shares()
        if self.fill not in ("next_open", "close", None):
            raise ValueError(f"fill must be 'next_open', 'close' or null, got {self.fill!r}")
        self._check_currency()

    def _check_positions(self) -> None:
        """Refuse positions that are neither a range nor choices."""
        if not -MAX_POSITION <= self.position_low < self.position_high <= MAX_POSITION:
            raise ValueError(
                f"positions must have {-MAX_POSITION:g} <= position_low < position_high <= {MAX_POSITION:g}, "
                f"got {self.position_low} and {self.position_high}"
            )
        if self.positions is None:
            return

        # Check choices in place of a range.
        differ = len(set(self.positions)) == len(self.positions) >= 2
        if not differ or not all(-MAX_POSITION <= position <= MAX_POSITION for position in self.positions):
            raise ValueError(
                f"positions must be at least two different numbers within [{-MAX_POSITION:g}, {MAX_POSITION:g}], "
                f"got {self.positions}"
            )

    def _check_shares(self) -> None:
        """Refuse costs outside their range, as shares of a trade or of equity."""
        for name in ("fee_bp", "slippage_bp"):
            cost = getattr(self, name)
            if not 0 <= cost < MAX_BASIS_POINTS:
                raise ValueError(f"{name} must be within [0, {MAX_BASIS_POINTS}), got {cost}")

        for name in ("financing_rate", "cash_rate"):
            rate = getattr(self, name)
            if not 0 <= rate <= 1:
                raise ValueError(f"{name} must be a yearly rate within [0, 1], got {rate}")

        farthest = max(self.bounds, key=abs)
        if (self.fee_bp + self.slippage_bp) / 1e4 * abs(farthest) >= 1:
            raise ValueError(
                f"fee_bp={self.fee_bp} and slippage_bp={self.slippage_bp} take all equity of a trade to position "
                f"{farthest}"
            )

    def _check_currency(self) -> None:
        """Refuse amounts in currency that are out of range, or without the equity that pays them."""
        amounts = {name: getattr(self, name) for name in ("min_fee", "fee_per_share", "impact_coefficient")}
        for name, amount in amounts.items():
            if not 0 <= amount < np.inf:
                raise ValueError(f"{name} must be a finite number of at least 0, got {amount}")

        for name, amount in amounts.items():
            if amount and self.start_equity is None:
                raise ValueError(
                    f"{name}={amount:g} counts in currency or shares, and positions are shares of equity: state "
                    "market.trading.start_equity, the equity at the start in the currency of the prices"
                )
        if self.start_equity is None:
            return
        if not self.min_fee < self.start_equity < np.inf:
            raise ValueError(f"start_equity must be finite and above min_fee={self.min_fee:g}, got {self.start_equity}")

    @property
    def in_currency(self) -> bool:
        """Return whether an order's cost depends on its size in currency or shares."""
        return bool(self.min_fee or self.fee_per_share or self.impact_coefficient)

    @property
    def without_currency(self) -> TradingCosts:
        """The same costs without those that depend on an order's size in currency or shares."""
        return replace(self, min_fee=0.0, fee_per_share=0.0, impact_coefficient=0.0)

    @property
    def bounds(self) -> tuple[float, float]:
        """Smallest and largest target position."""
        if self.positions is not None:
            return min(self.positions), max(self.positions)
        return self.position_low, self.position_high

    @property
    def of_rules(self) -> TradingCosts:
        """Costs for trading rules. They may hold from 0 to 1 in any case, and more if the agent may."""
        low, high = self.bounds

        return replace(self, position_low=min(low, 0.0), position_high=max(high, 1.0), positions=None)

    def targets(self, actions: np.ndarray) -> np.ndarray:
        """
        :param actions: n_envs actions of the environment's action space
        :return: their target positions, shape (n_envs,)
        """
        # Map an index to its position, or take the position itself.
        if self.positions is not None:
            return np.asarray(self.positions)[np.asarray(actions, dtype=np.int64).reshape(-1)]
        return np.asarray(actions, dtype=np.float64).reshape(-1)


N_REGIMES = 4  # default, without names in the configuration
REGIME_NAME = re.compile(r"[A-Za-z]\w*", re.ASCII)  # names become parts of scalars, figures and columns


def _check_regime_names(names: Sequence[str]) -> None:
    """:raises ValueError: if a name cannot be part of a scalar's name, occurs twice, or has another meaning"""
    if len(names) < 2 or len(set(names)) < len(names):
        raise ValueError(f"market.regimes must be at least two different names, got {names}")
    unusable = [name for name in names if REGIME_NAME.fullmatch(name) is None]
    if unusable:
        raise ValueError(f"market.regimes: {unusable[0]!r} must be a letter, then letters, digits and underscores")

    # Comparisons call the calmest regime calm, the wildest crash, and the upper half stormy.
    if "stormy" in names or "calm" in names[1:] or "crash" in names[:-1]:
        raise ValueError(
            "market.regimes: only the first may be called calm, only the last crash, and none stormy, which is the "
            f"upper half of them in a comparison; got {names}"
        )


def _check_between(key: str, values: Sequence[float] | None, number: int, largest: float) -> None:
    """:raises ValueError: if values do not rise between 0 and the largest, or their number is wrong"""
    if values is None:
        return
    edges = [0.0, *values, largest]
    if len(values) != number or not all(low < high for low, high in pairwise(edges)):
        limit = "" if math.isinf(largest) else f" below {largest:g}"
        raise ValueError(f"{key} must be {number} increasing positive number(s){limit}, got {values}")


@dataclass(frozen=True)
class PortfolioConfig:
    """
    Weights of one account from the targets of several symbols.

    Weights are shares of the account's equity. Limits of a group or of the account ignore their signs, except ``net``.

    :param cash: "separate": an account of 1/K of the capital for each of K symbols, without the keys below. "shared":
        one account whose cash every symbol may use
    :param training: "symbols": the agent learns from agents of one symbol each, and its targets share one account
        afterwards. "account": it learns from accounts, in a row for each symbol that observes the mean of all
    :param allocator: "budget": targets are weights, scaled down together beyond a limit; "equal_risk": the same sum of
        weights, divided in inverse proportion to the EWMA volatilities
    :param gross: largest sum of the weights; None: the larger of ``position_high`` and ``-position_low``
    :param net: largest difference between long and short weights; None: ``gross``
    :param weight_min: smallest weight of a symbol, at most 0; None: ``position_low``
    :param weight_max: largest weight of a symbol, at least 0; None: ``position_high``
    :param groups: groups of symbols, as {AAPL: technology, JPM: banks}; a symbol may have none
    :param group_max: largest sum of the weights of each group, as {technology: 0.3}
    :param top_k: largest number of positions, those with the largest targets; None: all
    :param volatility_limit: largest annualised volatility of the account in per cent, None: no limit. It uses the EWMA
        volatilities and correlations up to the decision
    :param no_trade_band: change of a weight up to which no order is given, except to close a position
    :param rebalance_every: rows of the account between rebalancings
    :param minimum_holding: smallest number of rows between trades of a symbol
    :raises ValueError: if a key is out of range, keys contradict each other, or a key needs shared cash
    """

    cash: Literal["separate", "shared"] = "separate"
    training: Literal["symbols", "account"] = "symbols"
    allocator: Literal["budget", "equal_risk"] = "budget"
    gross: float | None = None
    net: float | None = None
    weight_min: float | None = None
    weight_max: float | None = None
    groups: dict[str, str] = field(default_factory=dict)
    group_max: dict[str, float] = field(default_factory=dict)
    top_k: int | None = None
    volatility_limit: float | None = None
    no_trade_band: float = 0.0
    rebalance_every: int = 1
    minimum_holding: int = 1

    def __post_init__(self) -> None:
        if self.cash not in ("separate", "shared"):
            raise ValueError(f"market.portfolio.cash must be 'separate' or 'shared', got {self.cash!r}")
        if self.training not in ("symbols", "account"):
            raise ValueError(f"market.portfolio.training must be 'symbols' or 'account', got {self.training!r}")
        if self.allocator not in ("budget", "equal_risk"):
            raise ValueError(f"market.portfolio.allocator must be 'budget' or 'equal_risk', got {self.allocator!r}")
        self._check_ranges()
        self._check_contradictions()
        self._check_groups()
        if self.cash == "separate":
            self._check_separate()

    def _check_ranges(self) -> None:
        for name in ("gross", "net", "volatility_limit"):
            value = getattr(self, name)
            if value is not None and not 0 < value < np.inf:
                raise ValueError(f"market.portfolio.{name} must be a finite number above 0, got {value}")
        if self.weight_min is not None and not -MAX_POSITION <= self.weight_min <= 0:
            raise ValueError(
                f"market.portfolio.weight_min must be within [-{MAX_POSITION:g}, 0], got {self.weight_min}"
            )
        if self.weight_max is not None and not 0 <= self.weight_max <= MAX_POSITION:
            raise ValueError(f"market.portfolio.weight_max must be within [0, {MAX_POSITION:g}], got {self.weight_max}")
        if not 0 <= self.no_trade_band < 1:
            raise ValueError(f"market.portfolio.no_trade_band must be within [0, 1), got {self.no_trade_band}")
        for name in ("top_k", "rebalance_every", "minimum_holding"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"market.portfolio.{name} must be at least 1, got {value}")

    def _check_contradictions(self) -> None:
        if self.net is not None and self.gross is not None and self.net > self.gross:
            raise ValueError(f"market.portfolio.net={self.net:g} exceeds market.portfolio.gross={self.gross:g}")
        if self.weight_min == 0 and self.weight_max == 0:
            raise ValueError("market.portfolio.weight_min and market.portfolio.weight_max are both 0: nothing is held")

    def _check_groups(self) -> None:
        # YAML takes ON for true and 0005 for 5, unless quotes make them texts.
        for key in (*self.groups, *self.group_max):
            if not isinstance(key, str):
                raise ValueError(
                    f"market.portfolio.groups and group_max: YAML reads a name as {key!r}: put it in quotes, as 'ON'"
                )

        for group, cap in self.group_max.items():
            if group not in self.groups.values():
                raise ValueError(f"market.portfolio.group_max caps {group}, to which market.portfolio.groups maps none")
            if not 0 <= cap < np.inf:
                raise ValueError(f"market.portfolio.group_max of {group} must be finite and at least 0, got {cap}")
        missing = sorted(set(self.groups.values()) - self.group_max.keys())
        if missing:
            raise ValueError(
                f"market.portfolio.groups names {missing[0]}, which market.portfolio.group_max has no cap of"
            )

    def _check_separate(self) -> None:
        """Refuse limits that separate accounts cannot keep, since they do not interact."""
        for setting in fields(self):
            default = setting.default if setting.default_factory is MISSING else setting.default_factory()
            if setting.name != "cash" and getattr(self, setting.name) != default:
                raise ValueError(f"market.portfolio.{setting.name} needs market.portfolio.cash=shared")


@dataclass
class MarketConfig:
    """
    The data and their trading. Dates are included, and every bar's return belongs to one period.

    :param data: "sp500", "nasdaq", "synthetic", "synthetic_hidden", "synthetic_choice", price files, or folders of
        them. "synthetic" has 20 series with a known law. "synthetic_hidden" has the same series, but only the last
        return is observed. In "synthetic_choice" half of the series gain little. Several files train on all symbols,
        each while it exists
    :param volatility_index: "auto": a file's column if it exists, else estimated from prices; "estimated"; or "real":
        the VIX from 2014 for the S&P 500, a file's column
    :param bars_per_year: number of bars in a year, None: inferred from the dates
    :param regimes: names of the regimes from the calmest to the wildest; None: calm, normal, volatile, crash
    :param regime_bounds: points of the volatility index at which each regime but the first begins. None: 15, 25, 40 for
        the S&P 500, the training period's ``regime_quantiles`` for other symbols
    :param regime_quantiles: shares of a training period's bars below each bound; None: 0.383, 0.898 and 0.986
    :param train: first and last day of the training period. None for all three periods: 1999 to 2008, 2009 to 2010 and
        2011 to 2018 for shipped data. Other data are split into 60, 15 and 25 % of the days
    :param validation: first and last day of the period evaluated during training
    :param test: first and last day of the period evaluated at the end
    :param episode_bars: bars per training episode
    :param trading: trading costs and allowed positions
    :param columns: names of a file's columns if they are unusual: {close: Last, volatility_index: VIX}; "": do not use
        the column
    :param date_format: format of the files' dates: "day_first", "month_first", or like %d/%m/%Y; None: inferred
    :param decimal: decimal mark, "." or ","; None: inferred
    :param closes: columns of a table with one column of closes per symbol, if their names are not in capitals:
        [aapl, jpm]. "all": every column of numbers but the volatility index
    :param side: traded side if the files have several: "bid", "ask" or "mid"
    :param zone: zone of files that state none, a name like America/New_York or an offset like -05:00. For several zones
        name each file or symbol: {spy.csv: America/New_York, dax.csv: Europe/Berlin}
    :param off_grid: "drop" or "keep" rows between the usual times of bars; None: refuse them
    :param features: columns of the files in the observation, scaled by the training period as returns are. "volume" is
        observed as its log change
    :param feature_lag: bars of delay of the features: with 1, a close shows those of the row before
    :param feature_fill: "forward": the last feature replaces a missing one; None: refuse it if an observation needs it
    :param benchmark_positions: column of the files with the targets of your strategy, as shares of equity. Each is
        known at the close of its row. Every evaluation trades it beside buy-and-hold
    :param portfolio: cash of several symbols, separate or shared, and the limits of their account
    :param law_seed: seed that draws another law of the synthetic market, with other drifts, persistence and regimes,
        and its series; None: the law that ships
    """

    data: str | list[str] = "sp500"
    volatility_index: VolatilityIndex = "auto"
    bars_per_year: float | None = None
    regimes: list[str] | None = None
    regime_bounds: tuple[float, ...] | None = None
    regime_quantiles: tuple[float, ...] | None = None
    train: tuple[str, str] | None = None
    validation: tuple[str, str] | None = None
    test: tuple[str, str] | None = None
    episode_bars: int = 252
    trading: TradingCosts = field(default_factory=TradingCosts)
    columns: dict[str, str] | None = None
    date_format: str | None = None
    decimal: str | None = None
    closes: str | list[str] | None = None
    side: Literal["bid", "ask", "mid"] | None = None
    zone: str | dict[str, str] | None = None
    off_grid: Literal["drop", "keep"] | None = None
    features: list[str] = field(default_factory=list)
    feature_lag: int = 0
    feature_fill: Literal["forward"] | None = None
    benchmark_positions: str | None = None
    portfolio: PortfolioConfig = field(default_factory=PortfolioConfig)
    law_seed: int | None = None

    def __post_init__(self) -> None:
        self._check_regimes()
        if self.bars_per_year is not None and not 1 <= self.bars_per_year < 1e7:
            raise ValueError(f"market.bars_per_year must be within [1, 1e7), got {self.bars_per_year}")
        if not self.data:
            raise ValueError("market.data names no data")
        self._check_law()
        self._check_features()
        self._check_reading()

    def _check_regimes(self) -> None:
        """:raises ValueError: if names, bounds and quantiles describe different lists of regimes"""
        names = self.regimes
        if names is not None:
            _check_regime_names(names)

        # Each bound and quantile separates two regimes.
        number = N_REGIMES if names is None else len(names)
        _check_between(f"market.regime_bounds of {number} regimes", self.regime_bounds, number - 1, math.inf)
        _check_between(f"market.regime_quantiles of {number} regimes", self.regime_quantiles, number - 1, 1.0)
        if self.regime_bounds is not None and self.regime_quantiles is not None:
            raise ValueError("market.regime_bounds and market.regime_quantiles both say where regimes begin: give one")
        if number != N_REGIMES and self.regime_bounds is None and self.regime_quantiles is None:
            raise ValueError(
                f"market.regimes names {number} regimes: market.regime_bounds says at which {number - 1} points of the "
                "volatility index they begin, or market.regime_quantiles at which shares of the training period"
            )

    def _check_law(self) -> None:
        """Refuse a seed of no law."""
        if self.law_seed is not None and self.law_seed < 0:
            raise ValueError(f"market.law_seed must be at least 0, got {self.law_seed}")

    def check_law_of(self, entries: Sequence[str]) -> None:
        """
        :param entries: all data of a command, whose laws ``law_seed`` may draw
        :raises ValueError: if it draws a law and none of the data has one
        """
        if self.law_seed is not None and not any(entry in SYNTHETIC for entry in entries):
            raise ValueError(
                f"market.law_seed draws a law of {', '.join(SYNTHETIC)}: the data are {', '.join(entries)}"
            )

    def _check_features(self) -> None:
        """Refuse columns that cannot be observed or traded."""
        # Check the columns of the observation.
        if len(set(self.features)) < len(self.features):
            raise ValueError(f"market.features names a column twice: {', '.join(self.features)}")
        if self.benchmark_positions == "volume":
            raise ValueError("market.benchmark_positions=volume: the volume of a bar is no target position")

        # Check their delay.
        if self.feature_lag < 0:
            raise ValueError(f"market.feature_lag must be at least 0 bars, got {self.feature_lag}")
        if self.feature_fill not in (None, "forward"):
            raise ValueError(f"market.feature_fill must be 'forward' or null, got {self.feature_fill!r}")

    def _check_reading(self) -> None:
        """Refuse options that fit no file."""
        if self.side not in (None, "bid", "ask", "mid"):
            raise ValueError(f"market.side must be 'bid', 'ask', 'mid' or null, got {self.side!r}")

        # Check one zone for all files, or one for each.
        zones = self.zone.values() if isinstance(self.zone, dict) else [self.zone]
        for zone in zones:
            if zone is not None and not is_zone(zone):
                raise ValueError(
                    f"market.zone: {zone!r} is neither a zone like America/New_York nor an offset like -05:00"
                )

        if self.off_grid not in (None, "drop", "keep"):
            raise ValueError(f"market.off_grid must be 'drop', 'keep' or null, got {self.off_grid!r}")
        if self.closes is not None and not self.closes:
            raise ValueError("market.closes names no column")

    def days(self, period: PeriodName) -> tuple[str, str]:
        """
        :param period: a stated period
        :return: its first and last day
        :raises ValueError: if the period is not stated
        """
        days: tuple[str, str] | None = getattr(self, period)
        if days is None:
            raise ValueError(f"market.{period} is not stated")
        return days

    @property
    def own_columns(self) -> dict[str, str]:
        """Columns that an option names, with that option."""
        columns: dict[str, str] = {}
        if self.trading.impact_coefficient:
            columns["volume"] = "market.trading.impact_coefficient"
        columns |= dict.fromkeys(self.features, "market.features")
        if self.benchmark_positions:
            columns[self.benchmark_positions] = "market.benchmark_positions"
        return columns

    @property
    def entries(self) -> list[str]:
        """The data as a list."""
        if isinstance(self.data, str):
            return [self.data]
        return self.data


@dataclass
class RunConfig:
    """
    Settings of a run around the algorithm.

    :param env_id: "market", or the id of any Gymnasium environment
    :param total_timesteps: environment steps to train on
    :param n_envs: environment copies stepped together
    :param normalize_observations: whether VecNormalize scales observations by the statistics of those so far
    :param eval_every: environment steps between evaluations on the validation period
    :param patience: stop after this many evaluations without a better one, None: never
    :param checkpoint_every: environment steps between checkpoints
    :param out: folder of the run folders
    :param name: name of the run folder; None: environment and time
    :param progress_bar: whether to show a progress bar
    """

    env_id: str = "market"
    total_timesteps: int = 100_000
    n_envs: int = 8
    normalize_observations: bool = False
    eval_every: int = 20_000
    patience: int | None = None
    checkpoint_every: int = 20_000
    out: str = "runs"
    name: str | None = None
    progress_bar: bool = True

    def __post_init__(self) -> None:
        for name in ("total_timesteps", "n_envs", "eval_every", "patience", "checkpoint_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"run.{name} must be at least 1, got {value}")


@dataclass
class CompareConfig:
    """
    Settings of a comparison. Folds walk forward by date: each tests on ``test_years`` after its training period.

    :param seeds: seeds of every variant on every fold, as 0-4 or 0,3,7
    :param markets: data sets to train on separately; None: ``market.data``, all symbols together
    :param first_test: first day of the first test period; None: half of the data
    :param last_test: last day of the last test period; None: the last day of the data
    :param shipped_first_test: ``first_test`` for shipped data, if that is not set
    :param shipped_last_test: ``last_test`` for shipped data, if that is not set
    :param test_years: length of a test period
    :param train_years: length of a training period; None: all data before the test period
    :param embargo_days: days omitted between training and test, so that no return belongs to both
    :param baseline: variant that the others are compared with
    :param executor: "processes" of this machine, or "ray": the cluster in RAY_ADDRESS, else a local one
    :param workers: number of cells at a time
    """

    seeds: str = "0-2"
    markets: list[str] | None = None
    first_test: str | None = None
    last_test: str | None = None
    shipped_first_test: str | None = None
    shipped_last_test: str | None = None
    test_years: int = 4
    train_years: int | None = None
    embargo_days: int = 30
    baseline: str = "baseline"
    executor: Literal["processes", "ray"] = "processes"
    workers: int = 2

    def __post_init__(self) -> None:
        seeds_of(self.seeds)
        for name in ("test_years", "train_years", "workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"compare.{name} must be at least 1, got {value}")

        if self.embargo_days < 0:
            raise ValueError(f"compare.embargo_days must be at least 0, got {self.embargo_days}")
        if self.markets == []:
            raise ValueError("compare.markets names no market")


@dataclass
class TuneConfig:
    """
    Settings of a search. Every trial trains on all folds with all seeds.

    A trial's score uses the Sharpe ratio of validation: the median over seeds of the mean over folds. Folds walk
    forward by date and end before ``market.test``.

    :param trials: total number of trials, including those before a resumption
    :param workers: processes, each with one trial at a time
    :param seeds: seeds of every trial, as 0-4 or 0,3,7
    :param first_validation: first day of the first fold's validation; None: half of the data before ``market.test``
    :param validation_years: length of a fold's validation
    :param train_years: length of a fold's training period; None: all data before the validation
    :param embargo_days: days omitted between training and validation, so that no return belongs to both
    """

    trials: int = 50
    workers: int = 2
    seeds: str = "0-2"
    first_validation: str | None = None
    validation_years: int = 2
    train_years: int | None = None
    embargo_days: int = 30

    def __post_init__(self) -> None:
        seeds_of(self.seeds)
        for name in ("trials", "workers", "validation_years", "train_years"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")

        if self.embargo_days < 0:
            raise ValueError(f"embargo_days must be at least 0, got {self.embargo_days}")


@dataclass(frozen=True)
class Hypothesis:
    """
    A question that a comparison answers.

    :param question: the question as text
    :param metric: figure that answers it, as named in ``effects.csv``
    :param hoped: expected range of the relative change, from the modest to the bold end, as [-0.05, -0.31]. A modest
        end of 0 means any change in that direction
    :param variant: name of the variant in question, or "each"
    :param against: name of the variant to compare with; None: the baseline
    :raises ValueError: if the ends of the range are equal, or have different signs
    """

    question: str
    metric: str
    hoped: tuple[float, float]
    variant: str = EACH
    against: str | None = None

    def __post_init__(self) -> None:
        modest, bold = self.hoped
        if not (0 <= modest < bold or bold < modest <= 0):
            raise ValueError(
                f"hoped must go from a modest to a bold change in one direction, like [0.05, 0.1] or [0, -1], "
                f"got {list(self.hoped)}"
            )
