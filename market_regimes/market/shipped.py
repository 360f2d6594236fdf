"""
Prices that need no file: indices that ship with ``arch``, and a made-up market.

The S&P 500 and the NASDAQ composite (1999-2018) and the VIX (2014-2018) are real prices, nothing to download.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from market_regimes.config import SHIPPED, VolatilityIndex
from market_regimes.market.bars import Bars
from market_regimes.market.calendar import DAYS_PER_YEAR
from market_regimes.market.regimes import estimated_index, ewma_volatility


def shipped(name: str, volatility_index: VolatilityIndex = "auto") -> Bars:
    """
    Daily bars that ship with ``arch``, 1999-01-04 to 2018-12-31, or are made up.

    :param name: "sp500", "nasdaq", or "synthetic", which has its own index
    :param volatility_index: "real", for the S&P 500 only: the VIX where there is one (from 2014), estimated before;
        else no index, so that a label means the same in every year
    :return: the bars
    :raises ValueError: if "real" is asked of the NASDAQ
    """
    if name == "synthetic":
        return synthetic()
    from arch.data import nasdaq, sp500, vix

    prices = {"sp500": sp500, "nasdaq": nasdaq}[name].load()
    close, index = prices["Close"].to_numpy(dtype=np.float64), None
    if volatility_index == "real":
        if name != "sp500":
            raise ValueError(f"market.volatility_index=real: there is no real index for {name}")
        real = vix.load()["vix"].reindex(prices.index).to_numpy(dtype=np.float64)
        index = np.where(np.isnan(real), estimated_index(ewma_volatility(close)), real)
    dates = prices.index.to_numpy().astype("M8[s]")
    return Bars(SHIPPED[name], name, dates, prices["Open"].to_numpy(dtype=np.float64), close, index)


# The synthetic market, in per cent a day: drift and standard deviation, calm and stormy. Its stormy days are above the
# index's 40, its calm ones below 15; a stretch lasts 120 and 50 days on average.
SYNTHETIC_DRIFT, SYNTHETIC_STD = (0.08, -0.15), (0.7, 2.8)
SYNTHETIC_ENDS = (1 / 120, 1 / 50)
FLASH_CRASHES = (1 / 250, -8.0)  # share of the stormy days on which this comes on top, in per cent
SYNTHETIC_SEED = 12  # every four years from 2007 on have 150 stormy days or more


def synthetic(seed: int = SYNTHETIC_SEED) -> Bars:
    """
    Twenty years of made-up daily bars whose truth is known: a hidden chain of calm, rising and stormy, falling
    stretches (Hamilton 1989), returns of Student's t with 4 degrees of freedom, and flash crashes. The volatility index
    is the true standard deviation of the next bar's return, annualised, so an agent can know what pays: to hold when it
    is low.

    :param seed: of the bars; the shipped market is that of the default
    :return: the bars
    """
    rng = np.random.default_rng(seed)
    dates = pd.bdate_range("1999-01-04", "2018-12-31").to_numpy().astype("M8[s]")
    stormy = np.zeros(len(dates), dtype=int)
    ends = rng.random(len(dates))
    for t in range(1, len(dates)):
        stormy[t] = stormy[t - 1] ^ int(ends[t] < SYNTHETIC_ENDS[stormy[t - 1]])
    std = np.array(SYNTHETIC_STD)[stormy]
    noise = rng.standard_t(4, len(dates)) / np.sqrt(2.0)  # of variance 4 / (4 - 2)
    crash = (stormy == 1) & (rng.random(len(dates)) < FLASH_CRASHES[0])
    growth = (np.array(SYNTHETIC_DRIFT)[stormy] + std * noise + FLASH_CRASHES[1] * crash) / 100
    close = 100 * np.exp(np.cumsum(growth))
    opens = np.concatenate([close[:1], close[:-1] * np.exp(0.3 * growth[1:])])
    index = np.sqrt(DAYS_PER_YEAR) * np.append(std[1:], std[-1])
    return Bars(SHIPPED["synthetic"], "synthetic", dates, opens, close, index)
