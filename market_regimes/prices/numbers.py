"""From the cells of a file to numbers: currency signs, thousands separators, decimal commas, 1.2M."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from market_regimes.prices.table import is_missing

CURRENCY = r"(?:(?:US|R|A|C|HK|NT|S|NZ)?[$€£¥₹₩₽₺₿฿]|Rs\.?)"
SIGN = r"^[-+]?"
SPACE = " \t\u00a0\u202f\u2009"  # as characters: pandas hands \s to Python's regular expressions, which are slow
APOSTROPHE = "'\u2019"
LAKHS = r"\d{1,2}(?:,\d{2})+,\d{3}"  # the Indian grouping: 85,94,000
# What only one convention can have written, by the mark before its decimals.
POINT_ONLY = SIGN + rf"(?:\d{{1,3}}(?:,\d{{3}})+\.\d*|\d{{1,3}}(?:,\d{{3}}){{2,}}|{LAKHS}(?:\.\d*)?)$"
COMMA_ONLY = SIGN + r"(?:\d{1,3}(?:\.\d{3})+,\d*|\d{1,3}(?:\.\d{3}){2,}|\d+,(?:\d{1,2}|\d{4,})|\d{4,},\d+|0,\d+|,\d+)$"
EITHER = SIGN + r"\d{1,3},\d{3}$"
THOUSANDS = {
    ".": SIGN + rf"(?:\d{{1,3}}(?:,\d{{3}})+|{LAKHS})(?:\.\d*)?$",
    ",": SIGN + r"\d{1,3}(?:\.\d{3})+(?:,\d*)?$",
}
GROUPED = {".": THOUSANDS["."], ",": SIGN + r"(?:\d{1,3}(?:\.\d{3})+(?:,\d*)?|\d*,\d+)$"}
# Spaces and apostrophes separate groups of three digits, or Indian ones; elsewhere between digits they mean nothing.
MARKS = f"[{SPACE}{APOSTROPHE}]"
SPACED = SIGN + (
    rf"(?:\d{{1,3}}(?:{MARKS}\d{{3}})+|\d{{1,2}}(?:{MARKS}\d{{2}})+{MARKS}\d{{3}})(?:[.,]\d*)?[{SPACE}]*[A-Za-z%]*$"
)
MULTIPLES = {
    1e3: "k|thousand",
    1e5: "lakh|lakhs|lac|lacs",
    1e6: "m|mn|mio|million",
    1e7: "cr|crore|crores",
    1e9: "b|bn|mrd|billion",
    1e12: "t|tn|trillion",
}
WORDS = {word: multiple for multiple, words in MULTIPLES.items() for word in words.split("|")}
SUFFIX = rf"(?i)(?<=[0-9.])(?:{'|'.join(WORDS)})$"


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
    cells = [column for column in columns if is_text(column)]
    texts = [_bare(column) for column in cells]
    marks = any(_any(text, r",|\..*\.") for text in texts)
    if decimal is None:
        decimal = _decimal_of(source, columns, texts, read_by) if marks else read_by
    return Convention(decimal, _notes(cells, texts, decimal))


def _notes(columns: list[pd.Series], texts: list[pd.Series], decimal: str) -> list[str]:
    """What the cells of text have besides digits and the mark before the decimals."""
    notes = []
    signs = sorted({sign for column in columns for sign in _signs(column)})
    if signs:
        notes.append(f"currency signs removed: {' '.join(signs)}")
    if decimal == ",":
        notes.append("decimal commas")
    if decimal == "." and any(_any(text, THOUSANDS["."]) for text in texts):
        notes.append("commas separate thousands")
    lakh = next((cell for text in texts if decimal == "." and (cell := _first(text, rf"{SIGN}{LAKHS}"))), None)
    if lakh:
        notes.append(f"commas separate lakhs and crores: {lakh} is {lakh.replace(',', '')}")
    if any(_any(column.astype("str"), r"^[ $]*\([^()]*\d[^()]*\)[ %]*$") for column in columns):
        notes.append("numbers in parentheses are negative")
    multiple = next(
        (cell for text in texts if (cell := _first(text, rf"(?i)^[-+]?\d[\d.,]*(?:{'|'.join(WORDS)})$"))), None
    )
    if multiple:
        notes.append(f"multiples: {multiple} is {numbers_of(pd.Series([multiple]), decimal, multiples=True)[0]:,.0f}")
    percentage = next((cell for text in texts if (cell := _first(text, r"^[-+]?[\d.,]+%$"))), None)
    if percentage:
        notes.append(f"percent signs removed: {percentage} is {percentage[:-1]}")
    return notes


def numbers_of(column: pd.Series, decimal: str, multiples: bool = False, percent: bool = True) -> np.ndarray:
    """
    :param column: numbers, or text
    :param decimal: the mark before the decimals
    :param multiples: whether 1.2M and 3 lakh are numbers
    :param percent: whether 3 % is one beside multiples, and is then 3
    :return: float64, NaN where there is no number, shape (T,)
    """
    if column.dtype == bool or column.dtype.kind in "mM":  # which pandas would count as numbers
        return np.full(len(column), np.nan)
    if not is_text(column):
        return np.asarray(column.to_numpy(dtype=np.float64, na_value=np.nan))
    text, factor = _bare(column), np.ones(len(column))
    if multiples:
        text, factor = _without_multiples(text.str.removesuffix("%") if percent else text)
    grouped = text.str.contains(GROUPED[decimal], regex=True)
    thousands = "," if decimal == "." else "."
    if grouped.any():
        text = text.where(~grouped, text.str.replace(thousands, "", regex=False).str.replace(",", ".", regex=False))
    if decimal == ",":  # 1.5 is no number where decimals follow a comma
        text = text.mask(text.str.contains(".", regex=False) & ~grouped, "")
    text = text.mask(~text.str.contains(r"^[-+]?[\d.]+(?:[eE][-+]?\d+)?$", regex=True), "")
    return np.asarray(pd.to_numeric(text, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)) * factor


def unreadable(cells: pd.Series, values: np.ndarray) -> np.ndarray:
    """
    :param cells: of a file
    :param values: the numbers that were read from them
    :return: where a cell says something and that is no finite number, shape (T,)
    """
    bad: np.ndarray = ~np.isfinite(values) & ~is_missing(cells)
    return bad


def _without_multiples(text: pd.Series) -> tuple[pd.Series, np.ndarray]:
    """Numbers without their K, M, lakh, ..., and what these multiply them by."""
    factor = np.ones(len(text))
    words = text.str.extract(rf"(?i)[0-9.]({'|'.join(WORDS)})$", expand=False).str.lower()
    present = words.notna().to_numpy(dtype=bool)
    if not present.any():
        return text, factor
    factor[present] = words[present].map(WORDS).to_numpy(dtype=np.float64)
    return text.str.replace(SUFFIX, "", regex=True), factor


def _bare(column: pd.Series) -> pd.Series:
    """Without currency signs, quotes, and spaces and apostrophes between thousands; "" where there is no value."""
    text = column.astype("str").mask(is_missing(column), "")
    edges = f'^[="{SPACE}]+|["{SPACE}]+$'
    if _any(text, edges):
        text = text.str.replace(edges, "", regex=True)
    if _any(text, r"^\(.*\)$|\u2212"):  # (5) is -5 to an accountant; another sign for minus
        text = text.str.replace(r"^\((.*)\)$", r"-\1", regex=True).str.replace("\u2212", "-", regex=False)
    signs = rf"^([-+]?)[{SPACE}]*{CURRENCY}[{SPACE}]*|[{SPACE}]*{CURRENCY}$"
    if _any(text, CURRENCY):
        text = text.str.replace(signs, r"\1", regex=True)
    if _any(text, MARKS):
        between = text.str.contains(rf"\d{MARKS}+\d", regex=True) & ~text.str.contains(SPACED, regex=True)
        text = text.where(between, text.str.replace(MARKS, "", regex=True))
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
