"""
Prices that need no file: indices that ship with ``arch``, and a synthetic market.

The S&P 500 and the NASDAQ composite (1999-2018) and the VIX (2014-2018) are real prices, nothing to download.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import numpy as np
import pandas as pd

from market_regimes.config import SHIPPED, SYNTHETIC, VolatilityIndex
from market_regimes.market.law import LAW, Law, drawn_bars
from market_regimes.market.regimes import estimated_index, ewma_volatility
from market_regimes.prices import Bars


def shipped(name: str, volatility_index: VolatilityIndex = "auto", law_seed: int | None = None) -> list[Bars]:
    """
    Daily bars that ship with ``arch``, 1999-01-04 to 2018-12-31, or those of the synthetic market.

    :param name: "sp500", "nasdaq", or one of ``SYNTHETIC``, whose series have an index of their own
    :param volatility_index: "real", for the S&P 500 only: the VIX where there is one (from 2014), estimated before;
        all others: no index, so that a label means the same in every year
    :param law_seed: of another law of the synthetic market, and of its series; None: ``LAW``
    :return: the bars of every symbol
    :raises ValueError: if "real" is asked of the NASDAQ
    """
    if name in SYNTHETIC:
        if law_seed is None:
            return synthetic(name)
        return synthetic(name, law_seed, Law.drawn(law_seed))

    # The prices of arch.
    prices = _of_arch(name)
    dates = prices.index.to_numpy().astype("M8[s]")
    opens = prices["Open"].to_numpy(dtype=np.float64)
    close = prices["Close"].to_numpy(dtype=np.float64)
    volume = prices["Volume"].to_numpy(dtype=np.float64)

    # The VIX where there is one, estimates before.
    index = None
    if volatility_index == "real":
        if name != "sp500":
            raise ValueError(f"market.volatility_index=real: there is no real index for {name}")
        vix = _of_arch("vix")["vix"]
        real = vix.reindex(prices.index).to_numpy(dtype=np.float64)
        estimated = estimated_index(ewma_volatility(close))
        index = np.where(np.isnan(real), estimated, real)

    bars = Bars(
        SHIPPED[name],
        name,
        dates,
        opens,
        close,
        index,
        volume,
    )
    return [bars]


def _of_arch(name: str) -> pd.DataFrame:
    """The table of ``arch.data.NAME.load()``, without a second for importing the models of ``arch``."""
    distribution = importlib.metadata.distribution("arch")

    # Its file of prices.
    file = Path(str(distribution.locate_file(f"arch/data/{name}/{name}.csv.gz")))
    return pd.read_csv(
        file,
        index_col="Date",
        parse_dates=True,
        na_values=".",
    )


SYNTHETIC_SERIES = 20  # so many that ten years of them tell the stormy days' drift from 0 by 6 standard errors
SYNTHETIC_SEED = 0
CHOICE = "synthetic_choice"  # every second symbol is weak


def synthetic(name: str = "synthetic", seed: int = SYNTHETIC_SEED, law: Law = LAW) -> list[Bars]:
    """
    ``SYNTHETIC_SERIES`` independent series of twenty years of daily bars, whose law is known. The volatility index
    tells the regime of the NEXT bar, so an agent can know when holding pays: while it is low.

    :param name: one of ``SYNTHETIC``. The bars of "synthetic_hidden" are those of "synthetic"; of "synthetic_choice"
        every second symbol follows ``Law.weak``
    :param seed: seed of all series, each of which has a seed derived from it
    :param law: of all series, of the strong symbols where there are weak ones
    :return: the bars of every series, with the symbols NAME-01, NAME-02, ...
    """
    seeds = np.random.SeedSequence(seed).spawn(SYNTHETIC_SERIES)

    # A generator, a symbol and a law for each series.
    series: list[Bars] = []
    for number, child in enumerate(seeds, start=1):
        is_weak = name == CHOICE and number % 2 == 0
        law_of_series = law.weak if is_weak else law
        series.append(drawn_bars(f"{name}-{number:02d}", name, law_of_series, child))
    return series
