"""Files of prices: from a table with names of its own to the checked bars of every symbol."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from market_regimes.config import SHIPPED
from market_regimes.market.regimes import DAYS_PER_YEAR

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
RANGE_SLACK = 0.01  # share by which open and close may lie outside low and high: sources round and adjust


@dataclass(frozen=True)
class Bars:
    """
    T bars of one symbol as read, all of them checked. The arrays, of shape (T,), are not to be written to.

    :param symbol: name for tables and pictures
    :param source: where the bars come from, for error messages
    :param dates: times of the bars, datetime64[s], increasing
    :param open: opening prices
    :param close: closing prices
    :param volatility_index: the data's own index in points, NaN where it has none; None: there is no such column
    :param bars_per_year: what annualises figures and accrues interest
    """

    symbol: str
    source: str
    dates: np.ndarray
    open: np.ndarray
    close: np.ndarray
    volatility_index: np.ndarray | None = None
    bars_per_year: float = DAYS_PER_YEAR


def read_files(entry: str) -> list[Bars]:
    """
    :param entry: a CSV or Parquet file (one symbol, or a long table with a ``symbol`` column), or a folder of them
    :return: the bars of every symbol, in the order found
    :raises ValueError: in one sentence with file, rows and dates, if the data cannot be used
    """
    path = Path(entry)
    files = sorted(p for p in path.iterdir() if p.suffix.lower() in READERS) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"the folder {path} holds no .csv or .parquet file")
    return [bars for file in files for bars in _bars_in(file)]


def read_frame(frame: pd.DataFrame, symbol: str | None) -> list[Bars]:
    """
    :param frame: with the columns that files have; the dates may be its index
    :param symbol: whose bars they are where there is no column ``symbol``; None: there must be one
    :return: the bars of every symbol, in the order found
    :raises ValueError: in one sentence with row and date, if the data cannot be used
    """
    if isinstance(frame.index, pd.DatetimeIndex):
        frame = frame.rename_axis("date")
    source = Path(symbol or "the frame")
    table = _named(source, frame.copy(deep=False))
    if "symbol" not in table and symbol is None:
        raise ValueError("the frame lacks the column symbol, and the run knows several")
    return _by_symbol(source, table)


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


def _read_csv(path: Path) -> pd.DataFrame:
    # As text: NA and 000001 are tickers, and the columns that must hold numbers are looked at one by one later.
    return pd.read_csv(path, skipinitialspace=True, dtype=str, keep_default_na=False, na_values=[""])


READERS = {".csv": _read_csv, ".parquet": pd.read_parquet}
COMMAS = "separate columns by commas and write decimals with points"


def _table_of(path: Path) -> pd.DataFrame:
    """A file's rows, as ``_named`` gives them."""
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
    return _named(path, table)


def _named(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    """A table's rows, numbered, under the names of this module."""
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


def _bars_in(path: Path) -> list[Bars]:
    """All symbols of a file."""
    return _by_symbol(path, _table_of(path))


def _by_symbol(path: Path, table: pd.DataFrame) -> list[Bars]:
    if "symbol" not in table:
        return [_bars(path.stem, path, table)]
    _refuse(path, table, table["symbol"].isna(), "symbol is missing")
    groups = table.groupby(table["symbol"].astype(str).str.split().str.join(" "), sort=False)
    return [_bars(symbol, path, rows) for symbol, rows in groups]


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


def _bars(symbol: str, path: Path, bars: pd.DataFrame) -> Bars:
    """One symbol's bars, checked."""
    dates = _times(path, bars)
    step = dates.diff()
    _refuse(path, bars, step == pd.Timedelta(0), f"{symbol} has the bar before at the same date")
    _refuse(path, bars, step < pd.Timedelta(0), f"{symbol} has a later date in the bar before: sort by date")
    used = [*PRICES, "adjusted_close"] if "adjusted_close" in bars else PRICES
    numbers = {name: _numbers(bars[name]) for name in used}
    _check_prices(symbol, path, bars, numbers)
    close = numbers.get("adjusted_close", numbers["close"])
    opens = numbers["open"] * close / numbers["close"]
    for name, prices in (("open", opens), ("close", close)):
        ratio = (prices / close.shift()).fillna(1.0)
        wild = (ratio > MAX_BAR_RATIO) | (ratio < 1 / MAX_BAR_RATIO)
        _refuse(path, bars, wild, f"{name} of {symbol} changed by a factor beyond {MAX_BAR_RATIO:g} in one bar")
    times = dates.to_numpy().astype("M8[s]")
    index = _volatility_index(symbol, path, bars)
    return Bars(symbol, str(path), times, opens.to_numpy(), close.to_numpy(), index, infer_bars_per_year(times))


def _check_prices(symbol: str, path: Path, bars: pd.DataFrame, numbers: dict[str, pd.Series]) -> None:
    """Raise on prices that are none, that contradict each other, or that are too few."""
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


def _volatility_index(symbol: str, path: Path, bars: pd.DataFrame) -> np.ndarray | None:
    """The file's own index, NaN where it has none."""
    if "volatility_index" not in bars:
        return None
    column = _numbers(bars["volatility_index"])
    no_number = column.isna() & bars["volatility_index"].notna()
    _refuse(path, bars, no_number, f"volatility_index of {symbol} is not a number", "volatility_index")
    # Observations are float32, in which 1e39 is infinite; no market is near the bound.
    _refuse(path, bars, column <= 0, f"volatility_index of {symbol} is not positive")
    _refuse(path, bars, column > 1e6, f"volatility_index of {symbol} is over 1,000,000")
    values: np.ndarray = column.to_numpy()
    return values
