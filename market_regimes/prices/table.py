"""A file's rows before their meaning is known, and the sentence that refuses one of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

# Words that stand for "no value" in the exports of Yahoo, FRED, Bloomberg, databases, spreadsheets and pandas.
MISSING = {"", "null", "(null)", "\\n", "nan", "na", "n/a", "n.a.", "#n/a", "#n/a n/a", "none", "nil", "nat", "<na>"}
MISSING |= {"-", "--", "\u2013", "\u2014", "."}


@dataclass(frozen=True)
class ReadOptions:
    """
    What a user states about files that do not decide it themselves.

    :param columns: name of this program -> name in the file, for date, time, symbol, open, high, low, close,
        adjusted_close, volatility_index and volume; "" if the file's column is not to be used; the columns of a file
        without a header are numbered from "1"
    :param date_format: a format of ``datetime.strptime``, or "day_first" or "month_first"
    :param decimal: "." or ",", the mark before the decimals
    :param own: columns that are read because an option names them -> that option
    :param closes: columns of a table that has one column of closes per symbol; "all": every column of numbers
    :param side: "bid", "ask" or "mid", which is traded where a file has prices of several
    :param zone: of files that state none, a name like America/New_York or an offset like -05:00; or file -> zone
    :param off_grid: "drop" or "keep", what becomes of rows between the times at which bars are stamped
    """

    columns: dict[str, str] | None = None
    date_format: str | None = None
    decimal: str | None = None
    own: dict[str, str] = field(default_factory=dict)
    closes: list[str] | str | None = None
    side: str | None = None
    zone: str | dict[str, str] | None = None
    off_grid: str | None = None

    def __post_init__(self) -> None:
        known = (
            "date",
            "time",
            "symbol",
            "open",
            "high",
            "low",
            "close",
            "adjusted_close",
            "volatility_index",
            "volume",
        )
        unknown = [name for name in self.columns or {} if name not in known]
        if unknown:
            raise ValueError(f"market.columns: {', '.join(unknown)} is none of {', '.join(known)}")
        if self.decimal not in (None, ".", ","):
            raise ValueError(f"market.decimal is '.' or ',', got {self.decimal!r}")
        if self.date_format not in (None, "day_first", "month_first") and "%" not in str(self.date_format):
            raise ValueError(
                f"market.date_format is day_first, month_first or a format like %d/%m/%Y, got {self.date_format!r}"
            )


@dataclass(frozen=True)
class RawTable:
    """
    The rows of a file.

    :param source: where they come from, for error messages
    :param frame: a column per column of the file, under the file's names; the index counts the rows from 1
    :param pairs: of columns that the file names by a field and a symbol: column -> (field, symbol)
    :param has_header: if False the columns are numbered from "1"
    :param said: what was assumed, a sentence each
    :param decimal: the mark before the decimals by which numbers were read
    :param read_by: reads the same columns by another mark; None where the file holds numbers as such
    """

    source: str
    frame: pd.DataFrame
    pairs: dict[str, tuple[str, str]] = field(default_factory=dict)
    has_header: bool = True
    said: list[str] = field(default_factory=list)
    decimal: str = "."
    read_by: Callable[[str], pd.DataFrame] | None = None


@dataclass(frozen=True)
class Rows:
    """
    Rows of a file by number and date, for sentences that name one of them.

    :param source: the file
    :param number: positions in the file, counted from 1, shape (T,)
    :param date: the dates as the file writes them, shape (T,)
    :param has_header: whether rows are counted after a header
    """

    source: str
    number: np.ndarray
    date: pd.Series
    has_header: bool = True

    def take(self, wanted: np.ndarray) -> Rows:
        """:return: the rows at these positions, or where a mask is True"""
        return Rows(self.source, self.number[wanted], self.date.iloc[wanted], self.has_header)

    def day(self, position: int) -> str:
        """:return: the date of the row as it is written, shortened"""
        return " ".join(str(self.date.iloc[position]).split()).removesuffix(" 00:00:00")[:40]

    def refuse(self, bad: np.ndarray, problem: str, cells: pd.Series | None = None) -> None:
        """
        :param bad: mask, shape (T,)
        :param problem: what is wrong with the rows
        :param cells: the column at fault, to be quoted, shape (T,)
        :raises ValueError: if a row is bad: names the first one, and how many more there are
        """
        if not bad.any():
            return
        first, more = int(np.argmax(bad)), int(bad.sum()) - 1
        if cells is not None:
            problem += f", it is {str(cells.iloc[first])[:40]!r}"
        row = f"row {self.number[first]}{' after the header' if self.has_header else ''}"
        rest = f"; {more} more row(s) likewise" if more else ""
        raise ValueError(f"{self.source}, {row} (date {self.day(first)}): {problem}{rest}")


def is_missing(cells: pd.Series) -> np.ndarray:
    """:return: where a cell is empty or a word for "no value", shape (T,)"""
    missing: np.ndarray = cells.isna().to_numpy(dtype=bool)
    if not pd.api.types.is_numeric_dtype(cells) and cells.dtype.kind not in "mM":
        missing = missing | cells.astype(str).str.strip().str.lower().isin(MISSING).to_numpy(dtype=bool)
    return missing
