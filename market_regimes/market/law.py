"""
Markets whose law is known: a hidden chain of regimes, Student's t around the drift of each, and flash crashes.

An agent can be measured against what is attainable, since a trading rule can know the law.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from market_regimes.prices import DAYS_PER_YEAR, Bars

T_FREEDOM = 4.0  # degrees of freedom of Student's t
ANNUAL = float(np.sqrt(DAYS_PER_YEAR))
WEAK_DRIFT = 0.25  # of a weak symbol on a calm day, as a share of a strong one's
WEAK_INDEX = 1.6  # its volatility index on a calm day, as a multiple of a strong one's


@dataclass(frozen=True)
class Law:
    """
    The law of a synthetic symbol: stretches of S regimes from the calmest to the wildest (Hamilton 1989), Student's t
    with 4 degrees of freedom around the drift, and flash crashes in the wildest. A stretch that ends is followed by one
    of another regime, each equally likely. Returns are log returns in per cent.

    :param drift: mean return of a day without a flash crash, in each regime
    :param std: its standard deviation
    :param ends: probability that the stretch has ended by the next day: by default it lasts 120 and 50 days on average
    :param crash_share: share of the days of the wildest regime that have a flash crash
    :param crash: change of the day's return by a flash crash, which falls between the open and the close
    :param index: volatility index in points, which tells the regime of the next day; none: the annualised ``std``, 11.1
        on calm days and 44.4 on stormy ones
    :param open_share: share of a day that lies before its open, so of its drift and of its variance
    :raises ValueError: if the regimes are fewer than two or have no index each, or a share or probability is out of
        range
    """

    drift: tuple[float, ...] = (0.08, -0.15)
    std: tuple[float, ...] = (0.7, 2.8)
    ends: tuple[float, ...] = (1 / 120, 1 / 50)
    crash_share: float = 1 / 250
    crash: float = -8.0
    index: tuple[float, ...] = ()
    open_share: float = 0.3

    def __post_init__(self) -> None:
        if not self.index:
            annual = tuple(ANNUAL * std for std in self.std)
            object.__setattr__(self, "index", annual)

        lengths = {len(self.drift), len(self.std), len(self.ends), len(self.index)}
        if len(lengths) > 1 or len(self.drift) < 2:
            raise ValueError("a law has at least two regimes, and a drift, std, end and index of each")
        if len(set(self.index)) < len(self.index):
            raise ValueError(f"a law has another index in each regime, got {self.index}")
        if min(self.std) <= 0 or not all(0 < end <= 1 for end in self.ends):
            raise ValueError(f"a law has std above 0 and ends within (0, 1], got {self.std} and {self.ends}")
        if not 0 <= self.crash_share < 1 or not 0 <= self.open_share < 1:
            raise ValueError(
                f"a law has crash_share and open_share within [0, 1), got {self.crash_share} and {self.open_share}"
            )

    @classmethod
    def drawn(cls, seed: int) -> Law:
        """
        :param seed: of the law
        :return: a law of two or three regimes with a drift, persistence, index, crashes and opens of its own; calm days
            rise, the wildest ones fall, and the bounds 15, 25 and 40 of the index tell the regimes apart
        """
        rng = np.random.default_rng(seed)

        # Ranges of the index and the drift, from calm to wild; a law may lack the middle one.
        index_low = np.array([8.0, 26.0, 41.0])
        index_high = np.array([11.0, 39.0, 60.0])
        drift_low = np.array([0.03, -0.1, -0.35])
        drift_high = np.array([0.12, 0.1, -0.1])
        chosen = [0, 1, 2]
        if rng.random() < 0.5:
            chosen = [0, 2]

        index = rng.uniform(index_low, index_high)[chosen]
        drift = rng.uniform(drift_low, drift_high)[chosen]

        # A published index lies above the volatility that follows.
        premium = rng.uniform(1.0, 1.3)
        std = index / (ANNUAL * premium)

        # Stretches last 20 to 200 days on average.
        days = np.exp(rng.uniform(np.log(20), np.log(200), len(chosen)))
        ends = 1 / days
        return cls(
            tuple(drift.tolist()),
            tuple(std.tolist()),
            tuple(ends.tolist()),
            crash_share=rng.uniform(0.0, 0.01),
            crash=rng.uniform(-12.0, -4.0),
            index=tuple(index.tolist()),
            open_share=rng.uniform(0.1, 0.6),
        )

    @property
    def growth(self) -> tuple[float, ...]:
        """Mean return with flash crashes, in each regime: 0.08, and -0.15 - 8 / 250 = -0.182."""
        *others, wildest = self.drift
        return (*others, wildest + self.crash_share * self.crash)

    @property
    def shares(self) -> tuple[float, ...]:
        """Share of the days in each regime, in the long run: in proportion to how long its stretches last."""
        days = 1 / np.array(self.ends)
        return tuple((days / days.sum()).tolist())

    @property
    def weak(self) -> Law:
        """The law of a symbol that gains a quarter as much on calm days, which have another index."""
        drift = (WEAK_DRIFT * self.drift[0], *self.drift[1:])
        index = (WEAK_INDEX * self.index[0], *self.index[1:])
        return replace(self, drift=drift, index=index)

    def regimes_of(self, index: np.ndarray) -> np.ndarray:
        """
        :param index: volatility index in points, shape (T,)
        :return: number of the regime whose index is nearest, shape (T,)
        """
        distance = np.abs(index[:, None] - np.array(self.index))
        nearest: np.ndarray = distance.argmin(axis=1)
        return nearest


LAW = Law()


@dataclass(frozen=True)
class SyntheticBars(Bars):
    """
    Bars whose law is known.

    :param law: that they were drawn from
    """

    law: Law = LAW


def law_of(bars: Bars) -> Law | None:
    """:return: the law that bars were drawn from; None: nobody knows it"""
    if isinstance(bars, SyntheticBars):
        return bars.law
    return None


def drawn_bars(symbol: str, source: str, law: Law, seeds: np.random.SeedSequence) -> SyntheticBars:
    """
    :param symbol: name of the series
    :param source: where it comes from, for error messages
    :param law: that it is drawn from
    :param seeds: of this series
    :return: twenty years of daily bars, the first in the calmest regime
    """
    dates = pd.bdate_range("1999-01-04", "2018-12-31").to_numpy().astype("M8[s]")
    rng = np.random.default_rng(seeds)
    regime = _chain(law.ends, rng.random(len(dates)))

    # Student's t, scaled from its variance 4 / (4 - 2) to 1.
    noise = rng.standard_t(T_FREEDOM, len(dates)) / np.sqrt(2.0)

    # Flash crashes on some days of the wildest regime.
    is_drawn = rng.random(len(dates)) < law.crash_share
    crash = (regime == len(law.drift) - 1) & is_drawn

    # Returns around the drift of the regime.
    drift = np.array(law.drift)[regime]
    std = np.array(law.std)[regime]
    diffusion = drift + std * noise
    growth = (diffusion + law.crash * crash) / 100
    close = 100 * np.exp(np.cumsum(growth))

    # Opens have random numbers of their own, so that closes depend on no opens.
    of_opens = np.random.default_rng(seeds.spawn(1)[0])
    variance = std**2 * _variance_given(noise, of_opens)
    overnight = _bridge(diffusion, variance, law.open_share, of_opens) / 100
    opens = np.concatenate([close[:1], close[:-1] * np.exp(overnight[1:])])

    # An index that tells the regime of the next day.
    today = np.array(law.index)[regime]
    index = np.append(today[1:], today[-1])
    return SyntheticBars(symbol, source, dates, opens, close, index, law=law)


def _chain(ends: Sequence[float], chance: np.ndarray) -> np.ndarray:
    """
    :param ends: probability that a stretch of each regime has ended by the next day
    :param chance: uniform numbers, shape (T,)
    :return: regime of each day, shape (T,), the first is 0
    """
    regime = np.zeros(len(chance), dtype=int)
    for t in range(1, len(chance)):
        before = regime[t - 1]
        regime[t] = before
        if chance[t] < ends[before]:
            # The same number, now uniform below 1, chooses between the others.
            step = 1 + int(chance[t] / ends[before] * (len(ends) - 1))
            regime[t] = (before + step) % len(ends)
    return regime


def _variance_given(noise: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """
    Student's t is a normal number over sqrt(V / 4), where V has a chi-square distribution with 4 degrees of freedom.
    Given the t that came of both, V (1 + t^2 / 4) has one with 5.

    :param noise: t / sqrt(2), shape (T,)
    :param rng: draws V
    :return: variance of the normal number that each became, 4 / V / 2, shape (T,)
    """
    t = np.sqrt(2.0) * noise
    chi_square = rng.chisquare(T_FREEDOM + 1, len(noise)) / (1 + t**2 / T_FREEDOM)
    variance: np.ndarray = T_FREEDOM / chi_square / 2
    return variance


def _bridge(whole: np.ndarray, variance: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """
    A Brownian motion at a share of each day, given where it ends. Its variance on the whole day is that of the normal
    number of the day, so that both parts of a day are independent given that variance, and the first part predicts
    nothing of the second.

    :param whole: movement of each day, shape (T,)
    :param variance: of the motion on each day, shape (T,)
    :param share: of the day that has passed
    :param rng: draws the bridges
    :return: movement until then, shape (T,)
    """
    spread = np.sqrt(share * (1 - share) * variance)
    until_then: np.ndarray = share * whole + spread * rng.standard_normal(len(whole))
    return until_then
