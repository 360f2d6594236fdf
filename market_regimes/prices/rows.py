"""Rows of a file by number and date, and error messages that name them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

# Words for "no value" in exports of Yahoo, FRED, Bloomberg, databases, spreadsheets and pandas.
MISSING = {
    "",
    "null",
    "(null)",
    "\\n",
    "nan",
    "na",
    "n/a",
    "n.a.",
    "#n/a",
    "#n/a n/a",
    "none",
    "nil",
    "nat",
    "<na>",
}
MISSING |= {"-", "--", "\u2013", "\u2014", "."}
QUOTED = 40  # characters of a cell in an error message


@dataclass(frozen=True)
class Rows:
    """
    Rows of a file by number and date, for error messages.

    :param source: the file
    :param number: positions in the file, counted from 1, shape (T,)
    :param date: dates as written in the file, shape (T,)
    :param has_header: whether rows are counted after a header
    """

    source: str
    number: np.ndarray
    date: pd.Series
    has_header: bool = True

    def take(self, selection: np.ndarray) -> Rows:
        """:return: rows at these positions, or where a mask is True"""
        return Rows(self.source, self.number[selection], self.date.iloc[selection], self.has_header)

    def day(self, position: int) -> str:
        """:return: the row's date as written, shortened"""
        text = " ".join(str(self.date.iloc[position]).split())
        return text.removesuffix(" 00:00:00")[:QUOTED]

    def refuse(self, bad: np.ndarray, problem: str, cells: pd.Series | None = None) -> None:
        """
        :param bad: mask, shape (T,)
        :param problem: description of the fault
        :param cells: cells of the faulty column to quote, shape (T,)
        :raises ValueError: if a row is bad. The message names the first one and counts the rest
        """
        if not bad.any():
            return

        # Name the first row with its number in the file.
        first = int(np.argmax(bad))
        row = f"row {self.number[first]}"
        if self.has_header:
            row += " after the header"

        # Quote its cell, and count the rows with the same fault.
        if cells is not None:
            problem += f", it is {str(cells.iloc[first])[:QUOTED]!r}"
        more = int(bad.sum()) - 1
        if more:
            problem += f"; {more} more row(s) likewise"
        raise ValueError(f"{self.source}, {row} (date {self.day(first)}): {problem}")


def is_missing(cells: pd.Series) -> np.ndarray:
    """:return: mask of cells that are empty or a word for "no value", shape (T,)"""
    missing: np.ndarray = cells.isna().to_numpy(dtype=bool)
    if not pd.api.types.is_numeric_dtype(cells) and cells.dtype.kind not in "mM":
        words = cells.astype(str).str.strip().str.lower()
        missing = missing | words.isin(MISSING).to_numpy(dtype=bool)
    return missing
