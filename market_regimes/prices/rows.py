"""Rows of a file by number and date, and the sentence that refuses one of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

# Words that stand for "no value" in the exports of Yahoo, FRED, Bloomberg, databases, spreadsheets and pandas.
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
QUOTED = 40  # characters of a cell in a refusal


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
        text = " ".join(str(self.date.iloc[position]).split())
        return text.removesuffix(" 00:00:00")[:QUOTED]

    def refuse(self, bad: np.ndarray, problem: str, cells: pd.Series | None = None) -> None:
        """
        :param bad: mask, shape (T,)
        :param problem: what is wrong with the rows
        :param cells: the column at fault, to be quoted, shape (T,)
        :raises ValueError: if a row is bad: names the first one, and how many more there are
        """
        if not bad.any():
            return

        # Name the first row as its file counts it.
        first = int(np.argmax(bad))
        row = f"row {self.number[first]}"
        if self.has_header:
            row += " after the header"

        # Quote its cell, and count the rows that share the fault.
        if cells is not None:
            problem += f", it is {str(cells.iloc[first])[:QUOTED]!r}"
        more = int(bad.sum()) - 1
        if more:
            problem += f"; {more} more row(s) likewise"
        raise ValueError(f"{self.source}, {row} (date {self.day(first)}): {problem}")


def is_missing(cells: pd.Series) -> np.ndarray:
    """:return: where a cell is empty or a word for "no value", shape (T,)"""
    missing: np.ndarray = cells.isna().to_numpy(dtype=bool)
    if not pd.api.types.is_numeric_dtype(cells) and cells.dtype.kind not in "mM":
        words = cells.astype(str).str.strip().str.lower()
        missing = missing | words.isin(MISSING).to_numpy(dtype=bool)
    return missing
