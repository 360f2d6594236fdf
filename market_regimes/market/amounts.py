"""From the cells of a file to numbers: currency signs, thousands separators, decimal commas, 1.2M."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from market_regimes.market.table import is_missing

CURRENCY = r"(?:US|R|A|C|HK|NT|S|NZ)?[$€£¥₹₩₽₺₿฿]"
SIGN = r"^[-+]?"
SPACE = " \t\u00a0\u202f\u2009"  # as characters: pandas hands \s to Python's regular expressions, which are slow
# What only one convention can have written, by the mark before its decimals.
POINT_ONLY = SIGN + r"(?:\d{1,3}(?:,\d{3})+\.\d*|\d{1,3}(?:,\d{3}){2,})$"
COMMA_ONLY = SIGN + r"(?:\d{1,3}(?:\.\d{3})+,\d*|\d{1,3}(?:\.\d{3}){2,}|\d+,(?:\d{1,2}|\d{4,})|\d{4,},\d+|0,\d+|,\d+)$"
EITHER = SIGN + r"\d{1,3},\d{3}$"
GROUPED = {
    ".": SIGN + r"(?:\d{1,3}(?:,\d{3})+(?:\.\d*)?)$",
    ",": SIGN + r"(?:\d{1,3}(?:\.\d{3})+(?:,\d*)?|\d*,\d+)$",
}
MULTIPLES = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}


@dataclass(frozen=True)
class Convention:
    """
    How a file writes numbers.

    :param decimal: the mark before the decimals, "." or ","
    :param said: what was assumed, a sentence each
    """

    decimal: str
    said: list[str]


def is_text(column: pd.Series) -> bool:
    """:return: whether the column holds no numbers of its own"""
    return not pd.api.types.is_numeric_dtype(column) and column.dtype.kind not in "mM"


def convention_of(source: str, columns: list[pd.Series], decimal: str | None = None, read_by: str = ".") -> Convention:
    """
    :param source: the file, for refusals
    :param columns: the columns of prices and volumes: a file writes all numbers alike
    :param decimal: the mark before the decimals as the user states it, or None
    :param read_by: the mark by which columns that are numbers already were read
    :return: what the cells show
    :raises ValueError: if nothing decides whether 1,234 is a thousand or has three decimals
    """
    texts = [_bare(column) for column in columns if is_text(column)]
    said, signs = [], sorted({sign for column in columns if is_text(column) for sign in _signs(column)})
    if signs:
        said.append(f"currency signs removed: {' '.join(signs)}")
    marks = any(_any(text, r",|\..*\.") for text in texts)
    if decimal is None:
        decimal = _decimal_of(source, columns, texts, read_by) if marks else read_by
    if decimal == ",":
        said.append("decimal commas")
    elif marks:
        said.append("commas separate thousands")
    return Convention(decimal, said)


def numbers_of(column: pd.Series, decimal: str, multiples: bool = False) -> np.ndarray:
    """
    :param column: numbers, or text
    :param decimal: the mark before the decimals
    :param multiples: whether 1.2M and 3 % are numbers
    :return: float64, NaN where there is no number, shape (T,)
    """
    if column.dtype == bool or column.dtype.kind in "mM":  # which pandas would count as numbers
        return np.full(len(column), np.nan)
    if not is_text(column):
        return np.asarray(column.to_numpy(dtype=np.float64, na_value=np.nan))
    text, factor = _bare(column), np.ones(len(column))
    for suffix, multiple in MULTIPLES.items() if multiples else ():
        factor[text.str.contains(rf"[{suffix}{suffix.lower()}]$", regex=True).to_numpy(dtype=bool)] = multiple
    if multiples:
        text = text.str.replace(r"[KMBTkmbt%]$", "", regex=True)
    grouped = text.str.contains(GROUPED[decimal], regex=True)
    thousands = "," if decimal == "." else "."
    if grouped.any():
        text = text.where(~grouped, text.str.replace(thousands, "", regex=False).str.replace(",", ".", regex=False))
    if decimal == ",":  # 1.5 is no number where decimals follow a comma
        text = text.mask(text.str.contains(".", regex=False) & ~grouped, "")
    text = text.mask(~text.str.contains(r"^[-+]?[\d.]+(?:[eE][-+]?\d+)?$", regex=True), "")
    return np.asarray(pd.to_numeric(text, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)) * factor


def _bare(column: pd.Series) -> pd.Series:
    """Without currency signs, quotes and spaces; "" where there is no value."""
    text = column.astype("str").mask(is_missing(column), "")
    for pattern in (
        f'^[="{SPACE}]+|["{SPACE}]+$',
        rf"^{CURRENCY}[{SPACE}]*|[{SPACE}]*{CURRENCY}$",
        f"[{SPACE}'\u2019]",
    ):
        if _any(text, pattern):
            text = text.str.replace(pattern, "", regex=True)
    return text


def _any(text: pd.Series, pattern: str) -> bool:
    return bool(text.str.contains(pattern, regex=True).any())


def _signs(column: pd.Series) -> set[str]:
    text = column.astype("str")
    text = text[text.str.contains(CURRENCY, regex=True, na=False).to_numpy(dtype=bool)]
    return set(text.str.extract(rf"({CURRENCY})", expand=False).dropna().unique())


def _decimal_of(source: str, columns: list[pd.Series], texts: list[pd.Series], read_by: str) -> str:
    """The mark before the decimals."""
    has_decimals = any(not is_text(column) and _has_decimals(column) for column in columns)
    point = next((cell for text in texts if (cell := _first(text, POINT_ONLY))), None)
    comma = next((cell for text in texts if (cell := _first(text, COMMA_ONLY))), None)
    if comma is None and read_by == "," and has_decimals:
        comma = "one of the first rows"
    if point and comma:
        raise ValueError(f"{source}: {point} has a decimal point and {comma} a decimal comma: write all alike")
    if comma:
        return ","
    either = next((cell for text in texts if (cell := _first(text, EITHER))), None)
    if point or either is None or has_decimals or any(_any(text, r"^[-+]?\d*\.\d+$") for text in texts):
        return "."
    raise ValueError(
        f"{source}: {either} may be a thousand or have three decimals: set market.decimal to '.' or to ','"
    )


def _first(text: pd.Series, pattern: str) -> str | None:
    found = text.str.contains(pattern, regex=True).to_numpy(dtype=bool)
    return str(text.iloc[int(np.argmax(found))]) if found.any() else None


def _has_decimals(column: pd.Series) -> bool:
    values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    return bool((values[np.isfinite(values)] % 1 != 0).any())
