"""
Prices that need no file: indices that ship with ``arch``, and a synthetic market.

The S&P 500 and the NASDAQ composite (1999-2018) and the VIX (2014-2018) are real prices, nothing to download.
"""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from market_regimes.config import SHIPPED, SYNTHETIC, VolatilityIndex
from market_regimes.market.regimes import estimated_index, ewma_volatility
from market_regimes.prices import DAYS_PER_YEAR, Bars


def shipped(name: str, volatility_index: VolatilityIndex = "auto") -> list[Bars]:
    """
    Daily bars that ship with ``arch``, 1999-01-04 to 2018-12-31, or those of the synthetic market.

    :param name: "sp500", "nasdaq", or one of ``SYNTHETIC``, whose series have an index of their own
    :param volatility_index: "real", for the S&P 500 only: the VIX where there is one (from 2014), estimated before;
        else no index, so that a label means the same in every year
    :return: the bars of every symbol
    :raises ValueError: if "real" is asked of the NASDAQ
    """
    if name in SYNTHETIC:
        return synthetic(name)
    prices = _of_arch(name)
    columns = {column: prices[column].to_numpy(dtype=np.float64) for column in ("Open", "Close", "Volume")}

    # The VIX where there is one, estimates before.
    index = None
    if volatility_index == "real":
        if name != "sp500":
            raise ValueError(f"market.volatility_index=real: there is no real index for {name}")
        real = _of_arch("vix")["vix"].reindex(prices.index).to_numpy(dtype=np.float64)
        estimated = estimated_index(ewma_volatility(columns["Close"]))
        index = np.where(np.isnan(real), estimated, real)

    dates = prices.index.to_numpy().astype("M8[s]")
    return [Bars(SHIPPED[name], name, dates, columns["Open"], columns["Close"], index, columns["Volume"])]


def _of_arch(name: str) -> pd.DataFrame:
    """The table of ``arch.data.NAME.load()``, without a second for importing the models of ``arch``."""
    distribution = importlib.metadata.distribution("arch")
    file = Path(str(distribution.locate_file(f"arch/data/{name}/{name}.csv.gz")))
    return pd.read_csv(file, index_col="Date", parse_dates=True, na_values=".")


@dataclass(frozen=True)
class Law:
    """
    The law of the synthetic market: a hidden chain of calm, rising and stormy, falling stretches (Hamilton 1989),
    Student's t with 4 degrees of freedom around the drift, and flash crashes. Pairs are those of a calm and a stormy
    day, returns are log returns in per cent.

    :param drift: mean return of a day without a flash crash
    :param std: its standard deviation
    :param ends: probability that the stretch has ended by the next day: it lasts 120 and 50 days on average
    :param crash_share: share of the stormy days that have a flash crash
    :param crash: what a flash crash adds to the day's return
    """

    drift: tuple[float, float] = (0.08, -0.15)
    std: tuple[float, float] = (0.7, 2.8)
    ends: tuple[float, float] = (1 / 120, 1 / 50)
    crash_share: float = 1 / 250
    crash: float = -8.0

    @property
    def growth(self) -> tuple[float, float]:
        """Mean return with flash crashes: 0.08, and -0.15 - 8 / 250 = -0.182."""
        return self.drift[0], self.drift[1] + self.crash_share * self.crash

    @property
    def index(self) -> tuple[float, float]:
        """Volatility index in points, the annualised ``std``: 11.1, a calm one, and 44.4, that of a crash."""
        calm, stormy = (float(np.sqrt(DAYS_PER_YEAR) * std) for std in self.std)
        return calm, stormy


LAW = Law()
SYNTHETIC_SERIES = 20  # so many that ten years of them tell the stormy days' drift from 0 by 6 standard errors
SYNTHETIC_SEED = 0


def synthetic(name: str = "synthetic", seed: int = SYNTHETIC_SEED) -> list[Bars]:
    """
    ``SYNTHETIC_SERIES`` independent series of twenty years of daily bars, all of one law, which is known. The
    volatility index tells calm from stormy for the NEXT bar, so an agent can know when holding pays: while it is low.

    :param name: one of ``SYNTHETIC``, whose bars are the same
    :param seed: of all series, each of which has a seed derived from it
    :return: the bars of every series, with the symbols NAME-01, NAME-02, ...
    """
    series = []
    for number, child in enumerate(np.random.SeedSequence(seed).spawn(SYNTHETIC_SERIES), start=1):
        series.append(_series(f"{name}-{number:02d}", name, np.random.default_rng(child)))
    return series


def _series(symbol: str, source: str, rng: np.random.Generator) -> Bars:
    """One series, which begins calm. The open has three tenths of the bar's growth."""
    dates = pd.bdate_range("1999-01-04", "2018-12-31").to_numpy().astype("M8[s]")

    # The hidden chain: each day a stretch may end.
    stormy = np.zeros(len(dates), dtype=int)
    ends = rng.random(len(dates))
    for t in range(1, len(dates)):
        stormy[t] = stormy[t - 1] ^ int(ends[t] < LAW.ends[stormy[t - 1]])

    # Returns around the drift of the state, with flash crashes on stormy days.
    noise = rng.standard_t(4, len(dates)) / np.sqrt(2.0)  # of variance 4 / (4 - 2)
    crash = (stormy == 1) & (rng.random(len(dates)) < LAW.crash_share)
    growth = (np.array(LAW.drift)[stormy] + np.array(LAW.std)[stormy] * noise + LAW.crash * crash) / 100

    # Prices, and an index that tells the state of the next day.
    close = 100 * np.exp(np.cumsum(growth))
    opens = np.concatenate([close[:1], close[:-1] * np.exp(0.3 * growth[1:])])
    index = np.array(LAW.index)[stormy]
    return Bars(symbol, source, dates, opens, close, np.append(index[1:], index[-1]))
