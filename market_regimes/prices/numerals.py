"""Formats of numbers in cells: currency signs, thousands separators, decimal commas, 1.2M."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from market_regimes.prices.notes import Notes
from market_regimes.prices.rows import is_missing

CURRENCY = r"(?:(?:US|R|A|C|HK|NT|S|NZ)?[$€£¥₹₩₽₺₿฿]|Rs\.?)"
SIGN = r"^[-+]?"
SPACE = " \t\u00a0\u202f\u2009"  # characters, since pandas passes \s to Python's slow regular expressions
APOSTROPHE = "'\u2019"
LAKHS = r"\d{1,2}(?:,\d{2})+,\d{3}"  # Indian grouping: 85,94,000

# Numbers that only one convention can produce, by the decimal mark.
POINT_ONLY = SIGN + rf"(?:\d{{1,3}}(?:,\d{{3}})+\.\d*|\d{{1,3}}(?:,\d{{3}}){{2,}}|{LAKHS}(?:\.\d*)?)$"
COMMA_ONLY = SIGN + r"(?:\d{1,3}(?:\.\d{3})+,\d*|\d{1,3}(?:\.\d{3}){2,}|\d+,(?:\d{1,2}|\d{4,})|\d{4,},\d+|0,\d+|,\d+)$"
EITHER = SIGN + r"\d{1,3},\d{3}$"
THOUSANDS = {
    ".": SIGN + rf"(?:\d{{1,3}}(?:,\d{{3}})+|{LAKHS})(?:\.\d*)?$",
    ",": SIGN + r"\d{1,3}(?:\.\d{3})+(?:,\d*)?$",
}
THOUSANDS_MARK = {".": ",", ",": "."}
GROUPED = {
    ".": THOUSANDS["."],
    ",": SIGN + r"(?:\d{1,3}(?:\.\d{3})+(?:,\d*)?|\d*,\d+)$",
}

# Spaces and apostrophes separate groups of three digits, or Indian groups. Elsewhere between digits they are invalid.
MARKS = f"[{SPACE}{APOSTROPHE}]"
SPACED = SIGN + (
    rf"(?:\d{{1,3}}(?:{MARKS}\d{{3}})+|\d{{1,2}}(?:{MARKS}\d{{2}})+{MARKS}\d{{3}})(?:[.,]\d*)?[{SPACE}]*[A-Za-z%]*$"
)

# Words after a number that multiply it.
MULTIPLES = {
    1e3: "k|thousand",
    1e5: "lakh|lakhs|lac|lacs",
    1e6: "m|mn|mio|million",
    1e7: "cr|crore|crores",
    1e9: "b|bn|mrd|billion",
    1e12: "t|tn|trillion",
}
WORDS = {word: multiple for multiple, words in MULTIPLES.items() for word in words.split("|")}
ANY_WORD = "|".join(WORDS)
SUFFIX = rf"(?i)(?<=[0-9.])(?:{ANY_WORD})$"
MULTIPLE = rf"(?i)^[-+]?\d[\d.,]*(?:{ANY_WORD})$"
PERCENTAGE = r"^[-+]?[\d.,]+%$"
IN_PARENTHESES = r"^[ $]*\([^()]*\d[^()]*\)[ %]*$"


@dataclass(frozen=True)
class Convention:
    """
    A file's format of numbers.

    :param decimal: decimal mark, "." or ","
    :param notes: assumptions
    """

    decimal: str
    notes: Notes


def is_text(column: pd.Series) -> bool:
    """:return: whether the column is text, neither numbers nor times"""
    return not pd.api.types.is_numeric_dtype(column) and column.dtype.kind not in "mM"


def is_number_or_text(column: pd.Series) -> bool:
    """:return: whether the column may have numbers: pandas would count booleans and times as numbers"""
    return column.dtype != bool and column.dtype.kind not in "mM"


def convention_of(
    source: str,
    columns: list[pd.Series],
    decimal: str | None = None,
    read_by: str = ".",
) -> Convention:
    """
    :param source: the file, for error messages
    :param columns: columns of prices and volumes, which share a format
    :param decimal: the user's decimal mark, or None
    :param read_by: decimal mark with which numeric columns were read
    :return: format of the cells
    :raises ValueError: if nothing decides whether 1,234 is a thousand or has three decimals
    """
    cells = [column for column in columns if is_text(column)]
    texts = [_bare(column) for column in cells]

    if decimal is None:
        decimal = read_by
        if any(_any(text, r",|\..*\.") for text in texts):
            decimal = _decimal_of(source, columns, texts, read_by)

    sentences = _assumed_of_cells(cells, texts, decimal) + _assumed_of_words(texts, decimal)

    return Convention(decimal, Notes(tuple(sentences)))


def numbers_of(column: pd.Series, decimal: str, multiples: bool = False, percent: bool = True) -> np.ndarray:
    """
    :param column: numbers, or text
    :param decimal: decimal mark
    :param multiples: whether 1.2M and 3 lakh are numbers
    :param percent: whether 3 % counts as the number 3, if ``multiples`` is set
    :return: float64, NaN for cells without a number, shape (T,)
    """
    if not is_number_or_text(column):
        return np.full(len(column), np.nan)
    if not is_text(column):
        return np.asarray(column.to_numpy(dtype=np.float64, na_value=np.nan))

    # Remove everything but digits and the marks between them.
    text = _bare(column)

    factor: np.ndarray | float = 1.0
    if multiples:
        if percent:
            text = text.str.removesuffix("%")
        text, factor = _without_multiples(text)

    # Rewrite every number with a decimal point and without thousands separators.
    grouped = text.str.contains(GROUPED[decimal], regex=True)
    if grouped.any():
        pointed = text.str.replace(THOUSANDS_MARK[decimal], "", regex=False)
        pointed = pointed.str.replace(",", ".", regex=False)
        text = text.where(~grouped, pointed)
    if decimal == ",":  # 1.5 is not a number with decimal commas
        text = text.mask(text.str.contains(".", regex=False) & ~grouped, "")

    # Any other text is not a number.
    text = text.mask(~text.str.contains(r"^[-+]?[\d.]+(?:[eE][-+]?\d+)?$", regex=True), "")
    numbers = pd.to_numeric(text, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)

    return np.asarray(numbers) * factor


def unreadable(cells: pd.Series, values: np.ndarray) -> np.ndarray:
    """
    :param cells: cells of a file
    :param values: numbers read from them
    :return: mask of texts that are no finite number, shape (T,)
    """
    bad: np.ndarray = ~np.isfinite(values) & ~is_missing(cells)
    return bad


def holds_numbers(column: pd.Series) -> bool:
    """:return: whether a column has numbers, or mostly text that spells them"""
    if not is_number_or_text(column):
        return False
    return not is_text(column) or spells_numbers(column)


def spells_numbers(column: pd.Series) -> bool:
    """:return: whether most cells of a column are numbers with one of the two decimal marks"""
    return any(np.isfinite(numbers_of(column, decimal)).mean() > 0.5 for decimal in (".", ","))


def _assumed_of_cells(columns: list[pd.Series], texts: list[pd.Series], decimal: str) -> list[str]:
    """List sentences on signs, separators and parentheses in cells of text."""
    sentences = []
    signs = sorted({sign for column in columns for sign in _signs(column)})
    if signs:
        sentences.append(f"currency signs removed: {' '.join(signs)}")
    if decimal == ",":
        sentences.append("decimal commas")

    if decimal == "." and any(_any(text, THOUSANDS["."]) for text in texts):
        sentences.append("commas separate thousands")
    lakh = _first_of(texts, rf"{SIGN}{LAKHS}")
    if decimal == "." and lakh:
        sentences.append(f"commas separate lakhs and crores: {lakh} is {lakh.replace(',', '')}")

    if any(_any(column.astype("str"), IN_PARENTHESES) for column in columns):
        sentences.append("numbers in parentheses are negative")
    return sentences


def _assumed_of_words(texts: list[pd.Series], decimal: str) -> list[str]:
    """List sentences on words and signs after the numbers."""
    sentences = []
    multiple = _first_of(texts, MULTIPLE)
    if multiple:
        number = numbers_of(pd.Series([multiple]), decimal, multiples=True)[0]
        sentences.append(f"multiples: {multiple} is {number:,.0f}")
    percentage = _first_of(texts, PERCENTAGE)
    if percentage:
        sentences.append(f"percent signs removed: {percentage} is {percentage[:-1]}")
    return sentences


def _without_multiples(text: pd.Series) -> tuple[pd.Series, np.ndarray]:
    """Remove K, M, lakh and similar words from numbers. Return the numbers and the multiples."""
    factor = np.ones(len(text))
    words = text.str.extract(rf"(?i)[0-9.]({ANY_WORD})$", expand=False).str.lower()
    present = words.notna().to_numpy(dtype=bool)
    if not present.any():
        return text, factor
    factor[present] = words[present].map(WORDS).to_numpy(dtype=np.float64)

    return text.str.replace(SUFFIX, "", regex=True), factor


def _bare(column: pd.Series) -> pd.Series:
    """Remove currency signs, quotes, and separators of thousands. Return "" where no value remains."""
    text = column.astype("str").mask(is_missing(column), "")
    edges = f'^[="{SPACE}]+|["{SPACE}]+$'
    if _any(text, edges):
        text = text.str.replace(edges, "", regex=True)

    # Accountants write -5 as (5), and a second minus sign exists.
    if _any(text, r"^\(.*\)$|\u2212"):
        text = text.str.replace(r"^\((.*)\)$", r"-\1", regex=True)
        text = text.str.replace("\u2212", "-", regex=False)

    # A currency may precede or follow the number.
    if _any(text, CURRENCY):
        signs = rf"^([-+]?)[{SPACE}]*{CURRENCY}[{SPACE}]*|[{SPACE}]*{CURRENCY}$"
        text = text.str.replace(signs, r"\1", regex=True)

    if _any(text, MARKS):
        between = text.str.contains(rf"\d{MARKS}+\d", regex=True) & ~text.str.contains(SPACED, regex=True)
        text = text.where(between, text.str.replace(MARKS, "", regex=True))
    return text


def _decimal_of(source: str, columns: list[pd.Series], texts: list[pd.Series], read_by: str) -> str:
    """Return the decimal mark."""
    has_decimals = any(not is_text(column) and _has_decimals(column) for column in columns)
    point = _first_of(texts, POINT_ONLY)
    comma = _first_of(texts, COMMA_ONLY)
    if comma is None and read_by == "," and has_decimals:
        comma = "one of the first rows"

    # A cell that only one convention can produce decides.
    if point and comma:
        raise ValueError(f"{source}: {point} has a decimal point and {comma} a decimal comma: write all alike")
    if comma:
        return ","

    # Otherwise 1,234 is a thousand if decimals follow a point elsewhere.
    either = _first_of(texts, EITHER)
    if point or either is None or has_decimals or any(_any(text, r"^[-+]?\d*\.\d+$") for text in texts):
        return "."
    raise ValueError(
        f"{source}: {either} may be a thousand or have three decimals: set market.decimal to '.' or to ','"
    )


def _any(text: pd.Series, pattern: str) -> bool:
    return bool(text.str.contains(pattern, regex=True).any())


def _first_of(texts: Iterable[pd.Series], pattern: str) -> str | None:
    """Return the first cell of the columns that matches the pattern."""
    for text in texts:
        matches = text.str.contains(pattern, regex=True).to_numpy(dtype=bool)
        if matches.any():
            return str(text.iloc[int(np.argmax(matches))])

    return None


def _signs(column: pd.Series) -> set[str]:
    """Return the currency signs of a column."""
    text = column.astype("str")
    signed = text.str.contains(CURRENCY, regex=True, na=False).to_numpy(dtype=bool)
    signs = text[signed].str.extract(rf"({CURRENCY})", expand=False)
    return set(signs.dropna().unique())


def _has_decimals(column: pd.Series) -> bool:
    values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    finite = values[np.isfinite(values)]
    return bool((finite % 1 != 0).any())
