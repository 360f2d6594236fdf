"""
Prices with a volatility index and the regime of every bar: indices that ship with ``arch``, or the user's own files.

The S&P 500 and the NASDAQ composite (1999-2018) and the VIX (2014-2018) are real prices, nothing to download. Where
there is no volatility index, that of a bar is estimated from the prices up to that bar: RiskMetrics volatility (an
exponential average of squared log returns, lambda 0.94 a day), annualised, mapped to the VIX by two constants.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

DAYS_PER_YEAR = 252  # trading days
RISKMETRICS_LAMBDA = 0.94  # RiskMetrics Technical Document, J.P. Morgan 1996, for daily data
# Least squares of the VIX on the EWMA volatility of the S&P 500, 2014-2018, correlation 0.83. Frozen: fitting them
# again on a user's data would let labels depend on the future.
VIX_INTERCEPT, VIX_SLOPE = 6.517, 0.7027

REGIMES = ("calm", "normal", "volatile", "crash")
REGIME_BOUNDS = (15.0, 25.0, 40.0)  # in points of the volatility index; a bound belongs to the regime above it
# The shares of the S&P 500's days below these bounds, 1999-2018: where another symbol's bounds lie in its training
# period, since 25 points are a storm for an index and a calm week for a single stock.
REGIME_QUANTILES = (0.383, 0.898, 0.986)
MIN_REGIME_DAYS = 20  # figures on fewer bars are reported as n/a

SHIPPED = {"sp500": "S&P 500", "nasdaq": "NASDAQ", "synthetic": "synthetic"}
KEEPS_BOUNDS = {"S&P 500", "synthetic"}  # symbols for which REGIME_BOUNDS hold
PRICES = ("open", "high", "low", "close")
OTHER_COLUMNS = ("symbol", "adjusted_close", "volatility_index")
COLUMN_NAMES = {  # other spellings of a column, in lower case with underscores
    **dict.fromkeys(("datetime", "timestamp", "time"), "date"),
    "adj_close": "adjusted_close",
    "vix": "volatility_index",
    "ticker": "symbol",
}
MIN_BARS = 60  # of a file: 20 returns of history in an observation, and something to train, validate and test on
MAX_BAR_RATIO = 1e4  # of a price to the close before: beyond it a mistake in the file, not a market
JUMP = 2.0  # factor between two closes from which a user is told
GAP_DAYS = 20  # days without a bar from which a user is told
RANGE_SLACK = 0.01  # share by which open and close may lie outside low and high: sources round and adjust
DATE_SLACK = 10  # days by which a period may begin before the data or end after them: holidays and weekends

VolatilityIndex = Literal["auto", "estimated", "real"]


@dataclass(frozen=True)
class Market:
    """
    T bars of one symbol. The arrays, of shape (T,), are not to be written to.

    :param symbol: name for tables and pictures
    :param source: where the bars come from, for error messages
    :param dates: times of the bars, datetime64[s], increasing
    :param open: opening prices
    :param close: closing prices
    :param volatility: EWMA volatility up to the bar's close, annualised, in points
    :param index: volatility index at the bar's close, in points
    :param bars_per_year: what annualises figures and accrues interest
    :param bounds: points of the index at which normal, volatile and crash begin
    """

    symbol: str
    source: str
    dates: np.ndarray
    open: np.ndarray
    close: np.ndarray
    volatility: np.ndarray
    index: np.ndarray
    bars_per_year: float = DAYS_PER_YEAR
    bounds: tuple[float, ...] = REGIME_BOUNDS

    @cached_property
    def regime(self) -> np.ndarray:
        """Position in ``REGIMES`` of every bar's regime."""
        return regimes(self.index, self.bounds)

    def with_bounds_of(self, period: range) -> Market:
        """:return: the market with its bounds at ``REGIME_QUANTILES`` of the index over the period"""
        return replace(self, bounds=tuple(np.quantile(self.index[period.start : period.stop], REGIME_QUANTILES)))

    def oddities(self) -> list[str]:
        """What is no error and may be one: a sentence each on prices that jump and on long gaps, for the largest."""
        sentences = []
        ratio = np.abs(np.diff(np.log(self.close)))
        jump = int(np.argmax(ratio))
        if ratio[jump] > np.log(JUMP):
            change = 100 * (self.close[jump + 1] / self.close[jump] - 1)
            sentences.append(
                f"{self.source}: close of {self.symbol} moves by {change:+.0f} % on {date_text(self.dates[jump + 1])}; "
                f"a split that was not adjusted? {int((ratio > np.log(JUMP)).sum())} such bar(s)"
            )
        days = np.diff(self.dates).astype("m8[D]").astype(int)
        gap = int(np.argmax(days))
        if days[gap] > max(GAP_DAYS, 10 * float(np.median(days))):
            since = date_text(self.dates[gap])
            sentences.append(f"{self.source}: {self.symbol} has no bar for {days[gap]} days from {since}")
        return sentences

    def fingerprint(self) -> str:
        """SHA-256 over dates, prices, index and bounds: two runs with the same one saw the same data."""
        digest = hashlib.sha256(self.symbol.encode())
        for array in (self.dates, self.open, self.close, self.index, np.array(self.bounds)):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def period(self, first: str, last: str) -> range:
        """
        Bars of the days from ``first`` to ``last``, both included.

        :param first: ISO date
        :param last: ISO date
        :return: positions of the bars
        :raises ValueError: if a date is not one or lies outside the data, or the period holds fewer than two bars
        """
        try:
            begin, end = (np.datetime64(date.fromisoformat(day), "D") for day in (first, last))
        except ValueError as error:
            raise ValueError(
                f"a period is given by two ISO dates like 2011-01-01, got {first!r} and {last!r}"
            ) from error
        if begin > end:
            raise ValueError(f"the period {first} to {last} ends before it begins")
        known = f"{self.source}, whose {len(self.dates)} bars of {self.symbol} run from {date_text(self.dates[0])}"
        known += f" to {date_text(self.dates[-1])}"
        if begin < self.dates[0].astype("M8[D]") - DATE_SLACK or end > self.dates[-1].astype("M8[D]") + DATE_SLACK:
            raise ValueError(f"the period {first} to {last} is not covered by {known}")
        bars = range(*np.searchsorted(self.dates, np.array([begin, end + 1], dtype="M8[s]")).tolist())
        if len(bars) < 2:
            raise ValueError(f"the period {first} to {last} holds {len(bars)} bars of {known}: at least 2 are needed")
        return bars


def date_text(time: np.datetime64) -> str:
    """As a person writes it: a day without its midnight."""
    return str(time).removesuffix("T00:00:00").replace("T", " ")


def ewma_volatility(close: np.ndarray, bars_per_year: float = DAYS_PER_YEAR) -> np.ndarray:
    """
    RiskMetrics volatility, started from the first bar's squared return. Its memory is the same number of days whatever
    the bars.

    :param close: closing prices, shape (T,)
    :param bars_per_year: bars in a year of trading
    :return: annualised volatility in points (per cent) at each close, shape (T,); the first bar, which has no return,
        takes the value of the second
    """
    squared = pd.Series(np.diff(np.log(close)) ** 2)
    decay = RISKMETRICS_LAMBDA ** (DAYS_PER_YEAR / bars_per_year)
    variance = squared.ewm(alpha=1 - decay, adjust=False).mean().to_numpy()
    points = 100.0 * np.sqrt(bars_per_year * variance)
    return np.concatenate([points[:1], points])


def estimated_index(volatility: np.ndarray) -> np.ndarray:
    """
    :param volatility: EWMA volatility in points, shape (T,)
    :return: estimate of the VIX in points, shape (T,)
    """
    return VIX_INTERCEPT + VIX_SLOPE * volatility


def regimes(index: np.ndarray, bounds: Sequence[float] = REGIME_BOUNDS) -> np.ndarray:
    """
    :param index: volatility index in points, shape (T,)
    :param bounds: where normal, volatile and crash begin
    :return: position in ``REGIMES`` for every bar, shape (T,)
    """
    labels: np.ndarray = np.digitize(index, bounds)
    return labels


def infer_bars_per_year(dates: np.ndarray) -> float:
    """
    :param dates: times of the bars
    :return: the median number of bars a day times 252 days, or 365 where weekends are traded; for weekly and rarer bars
        their number in a year
    """
    days, bars = np.unique(dates.astype("M8[D]"), return_counts=True)
    gap = float(np.median(np.diff(days).astype(int))) if len(days) > 1 else 1.0
    if gap > 1:
        return float(round(365.25 / gap))
    weekend = (days.astype(int) + 3) % 7 >= 5  # day 0 of the epoch was a Thursday
    share = bars[weekend].sum() / bars.sum()  # of the bars: currencies have a few on Sunday evenings
    return float(np.median(bars)) * (365 if share > 0.1 else DAYS_PER_YEAR)


def load_shipped(name: str, volatility_index: VolatilityIndex = "auto") -> Market:
    """
    Daily bars that ship with ``arch``, 1999-01-04 to 2018-12-31, or are made up.

    :param name: "sp500", "nasdaq", or "synthetic", which has its own index
    :param volatility_index: "auto" and "estimated": from the prices throughout, so that a label means the same in every
        year; "real", for the S&P 500 only: the VIX where there is one (from 2014), estimated before
    :return: the market
    :raises ValueError: if "real" is asked of the NASDAQ
    """
    if name == "synthetic":
        return load_synthetic()
    from arch.data import nasdaq, sp500, vix

    prices = {"sp500": sp500, "nasdaq": nasdaq}[name].load()
    close = prices["Close"].to_numpy(dtype=np.float64)
    volatility = ewma_volatility(close)
    index = estimated_index(volatility)
    if volatility_index == "real":
        if name != "sp500":
            raise ValueError(f"market.volatility_index=real: there is no real index for {name}")
        real = vix.load()["vix"].reindex(prices.index).to_numpy(dtype=np.float64)
        index = np.where(np.isnan(real), index, real)
    dates = prices.index.to_numpy().astype("M8[s]")
    return Market(SHIPPED[name], name, dates, prices["Open"].to_numpy(dtype=np.float64), close, volatility, index)


# The synthetic market, in per cent a day: drift and standard deviation, calm and stormy. Its stormy days are above the
# index's 40, its calm ones below 15; a stretch lasts 120 and 50 days on average.
SYNTHETIC_DRIFT, SYNTHETIC_STD = (0.08, -0.15), (0.7, 2.8)
SYNTHETIC_ENDS = (1 / 120, 1 / 50)
FLASH_CRASHES = (1 / 250, -8.0)  # share of the stormy days on which this comes on top, in per cent
SYNTHETIC_SEED = 12  # every four years from 2007 on have 150 stormy days or more


def load_synthetic(seed: int = SYNTHETIC_SEED) -> Market:
    """
    Twenty years of made-up daily bars whose truth is known: a hidden chain of calm, rising and stormy, falling
    stretches (Hamilton 1989), returns of Student's t with 4 degrees of freedom, and flash crashes. The volatility index
    is the true standard deviation of the next bar's return, annualised, so an agent can know what pays: to hold when it
    is low.

    :param seed: of the bars; the shipped market is that of the default
    :return: the market
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
    return Market(SHIPPED["synthetic"], "synthetic", dates, opens, close, ewma_volatility(close), index)


def load_markets(
    entries: Sequence[str], volatility_index: VolatilityIndex = "auto", bars_per_year: float | None = None
) -> list[Market]:
    """
    :param entries: each a shipped name ("sp500", "nasdaq", "synthetic"), a CSV or Parquet file (one symbol, or a long
        table with a ``symbol`` column), or a folder of such files
    :param volatility_index: "auto": a file's own column, or estimated; "estimated"; "real": refused where there is none
    :param bars_per_year: of the files; None: inferred from their dates
    :return: one market per symbol, in the order found
    :raises ValueError: in one sentence with file, rows and dates, if the data cannot be used
    """
    markets: list[Market] = []
    for entry in entries:
        if entry in SHIPPED:
            markets.append(load_shipped(entry, volatility_index))
            continue
        path = Path(entry)
        files = sorted(p for p in path.iterdir() if p.suffix.lower() in READERS) if path.is_dir() else [path]
        if not files:
            raise ValueError(f"the folder {path} holds no .csv or .parquet file")
        for file in files:
            markets += _markets_of(file, volatility_index, bars_per_year)
    first_of: dict[str, Market] = {}
    for market in markets:
        other = first_of.setdefault(market.symbol, market)
        if other is not market:
            raise ValueError(f"the symbol {market.symbol} is in {other.source} and in {market.source}")
        if market.bars_per_year != markets[0].bars_per_year:
            raise ValueError(
                f"{markets[0].symbol} has {markets[0].bars_per_year:g} bars per year and {market.symbol} "
                f"{market.bars_per_year:g}: one run needs one number; if they are the same, state market.bars_per_year"
            )
    return markets


def _read_csv(path: Path) -> pd.DataFrame:
    # As text: NA and 000001 are tickers, and the columns that must hold numbers are looked at one by one later.
    return pd.read_csv(path, skipinitialspace=True, dtype=str, keep_default_na=False, na_values=[""])


READERS = {".csv": _read_csv, ".parquet": pd.read_parquet}


COMMAS = "separate columns by commas and write decimals with points"


def _table_of(path: Path) -> pd.DataFrame:
    """A file's rows, numbered, under the names of this module."""
    if path.suffix.lower() not in READERS:
        raise ValueError(
            f"market.data: {path} is none of {', '.join(SHIPPED)}, a .csv or .parquet file, or a folder of them"
        )
    try:
        table = READERS[path.suffix.lower()](path)
    except FileNotFoundError as error:
        raise ValueError(f"there is no file {path}") from error
    except Exception as error:  # parsers raise whatever their format met
        raise ValueError(f"{path} cannot be read as a table: {' '.join(str(error).split())}") from error
    if not isinstance(table.index, pd.RangeIndex):
        if path.suffix.lower() == ".csv":
            raise ValueError(f"{path} has rows with more fields than its header: {COMMAS}")
        table = table.reset_index()  # Parquet keeps an index of dates
    names = ["_".join(str(name).lower().split()) for name in table.columns]
    table.columns = pd.Index([COLUMN_NAMES.get(name, name) for name in names])
    for wanted in ("date", *PRICES, *OTHER_COLUMNS):
        meant = [
            name for name in names if wanted in (COLUMN_NAMES.get(n, n) for n in (name, re.sub(r"\.\d+$", "", name)))
        ]
        if len(meant) > 1:  # pandas calls a second close close.1
            raise ValueError(f"{path} has two columns for {wanted}: {meant[0]} and {meant[1]}")
    missing = [name for name in ("date", *PRICES) if name not in table]
    if missing:
        hint = ""
        if any(mark in name for name in names for mark in ";\t"):
            hint = f"; {COMMAS}"
        elif names[:1] == ["price"]:
            hint = "; yfinance writes a header of several rows: keep the first level of its columns only"
        raise ValueError(f"{path} lacks the column(s) {', '.join(missing)}: it has {', '.join(names)}{hint}")
    if table.empty:
        raise ValueError(f"{path} has a header and no rows")
    return table.assign(row=np.arange(1, len(table) + 1))


def _markets_of(path: Path, volatility_index: VolatilityIndex, bars_per_year: float | None) -> list[Market]:
    """All symbols of a file."""
    table = _table_of(path)
    if "symbol" not in table:
        return [_market(path.stem, path, table, volatility_index, bars_per_year)]
    _refuse(path, table, table["symbol"].isna(), "symbol is missing")
    groups = table.groupby(table["symbol"].astype(str).str.split().str.join(" "), sort=False)
    return [_market(symbol, path, bars, volatility_index, bars_per_year) for symbol, bars in groups]


def _refuse(path: Path, table: pd.DataFrame, bad: pd.Series, what: str, column: str | None = None) -> None:
    """Raise if a row is bad, naming the first one and what stands there in the column."""
    if bad.any():
        first = int(np.argmax(bad.to_numpy()))
        more = int(bad.sum()) - 1
        day = " ".join(str(table["date"].iloc[first]).split())[:40]
        if column is not None:
            what += f", it is {str(table[column].iloc[first])[:40]!r}"
        raise ValueError(
            f"{path}, row {table['row'].iloc[first]} after the header (date {day}): {what}"
            + (f"; {more} more row(s) likewise" if more else "")
        )


def _times(path: Path, bars: pd.DataFrame) -> pd.Series:
    """
    The dates to the second, by the clock they are written in: an exchange's day must not become another one in UTC.
    """
    text = bars["date"].map(str)
    local = text.str.replace(r"(:\d{2}(?:\.\d+)?)\s*(?:Z|UTC|[+-]\d{2}:?\d{2})$", r"\1", regex=True)
    zoned = local != text
    if zoned.any():
        _refuse(path, bars, ~zoned, "the date has no time zone, and others have one")
    parsed = pd.to_datetime(local, format="ISO8601", errors="coerce", utc=True)
    _refuse(path, bars, parsed.isna(), "the date is not in ISO form, like 2011-03-04 or 2011-03-04 15:30")
    return parsed.dt.tz_localize(None).dt.floor("s")


def _numbers(column: pd.Series) -> pd.Series:
    """As float64, NaN where there is no number."""
    if column.dtype == bool or column.dtype.kind in "mM":  # which pandas would count as numbers
        return pd.Series(np.nan, column.index)
    return pd.to_numeric(column, errors="coerce").astype(np.float64)


def _market(
    symbol: str, path: Path, bars: pd.DataFrame, volatility_index: VolatilityIndex, bars_per_year: float | None
) -> Market:
    """One symbol's bars, checked."""
    dates = _times(path, bars)
    step = dates.diff()
    _refuse(path, bars, step == pd.Timedelta(0), f"{symbol} has the bar before at the same date")
    _refuse(path, bars, step < pd.Timedelta(0), f"{symbol} has a later date in the bar before: sort by date")
    used = [*PRICES, "adjusted_close"] if "adjusted_close" in bars else PRICES
    numbers = {name: _numbers(bars[name]) for name in used}
    for name, column in numbers.items():
        _refuse(path, bars, ~np.isfinite(column), f"{name} of {symbol} is not a finite number", name)
        _refuse(path, bars, column <= 0, f"{name} of {symbol} is not positive", name)
    low, high = numbers["low"], numbers["high"]
    _refuse(path, bars, high < low, f"high of {symbol} is below its low")
    for name in ("open", "close"):
        outside = (numbers[name] < low * (1 - RANGE_SLACK)) | (numbers[name] > high * (1 + RANGE_SLACK))
        _refuse(path, bars, outside, f"{name} of {symbol} is outside its low and high")
    if len(bars) < MIN_BARS:
        raise ValueError(
            f"{path} has {len(bars)} row(s) of {symbol}, from {bars['date'].iloc[0]} to {bars['date'].iloc[-1]}: at "
            f"least {MIN_BARS} are needed"
        )
    close = numbers.get("adjusted_close", numbers["close"])
    opens = numbers["open"] * close / numbers["close"]
    for name, prices in (("open", opens), ("close", close)):
        ratio = (prices / close.shift()).fillna(1.0)
        wild = (ratio > MAX_BAR_RATIO) | (ratio < 1 / MAX_BAR_RATIO)
        _refuse(path, bars, wild, f"{name} of {symbol} changed by a factor beyond {MAX_BAR_RATIO:g} in one bar")
    times = dates.to_numpy().astype("M8[s]")
    per_year = infer_bars_per_year(times) if bars_per_year is None else float(bars_per_year)
    volatility = ewma_volatility(close.to_numpy(), per_year)
    index = _own_index(symbol, path, bars, volatility_index)
    index = estimated_index(volatility) if index is None else index
    return Market(symbol, str(path), times, opens.to_numpy(), close.to_numpy(), volatility, index, per_year)


def _own_index(symbol: str, path: Path, bars: pd.DataFrame, wanted: VolatilityIndex) -> np.ndarray | None:
    """The file's volatility index, NaN where it has none; None if it is not to be used."""
    if wanted == "estimated" or "volatility_index" not in bars:
        if wanted == "real":
            raise ValueError(f"market.volatility_index=real: {path} has no column volatility_index")
        return None
    column = _numbers(bars["volatility_index"])
    no_number = column.isna() & bars["volatility_index"].notna()
    _refuse(path, bars, no_number, f"volatility_index of {symbol} is not a number", "volatility_index")
    # Observations are float32, in which 1e39 is infinite; no market is near the bound.
    _refuse(path, bars, column <= 0, f"volatility_index of {symbol} is not positive")
    _refuse(path, bars, column > 1e6, f"volatility_index of {symbol} is over 1,000,000")
    values: np.ndarray = column.to_numpy()
    return values


def check_index_covers(market: Market, first: int, last: int) -> Market:
    """
    :param market: a market whose own index may be NaN where it has none
    :param first: first bar that needs it
    :param last: last bar that needs it
    :return: the market, with estimates outside these bars
    :raises ValueError: if it is missing between them
    """
    missing = np.isnan(market.index)
    within = np.flatnonzero(missing[first : last + 1]) + first
    if len(within):
        raise ValueError(
            f"{market.source} has no volatility_index for {len(within)} of the bars of {market.symbol} from "
            f"{date_text(market.dates[first])} to {date_text(market.dates[last])}, the first on "
            f"{date_text(market.dates[within[0]])}: complete the column, move the periods or set "
            "market.volatility_index=estimated"
        )
    return replace(market, index=np.where(missing, estimated_index(market.volatility), market.index))
