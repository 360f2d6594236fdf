"""
From a file to its rows: encodings, separators, headers of one or two rows or none, CSV, Parquet and spreadsheets.

pandas reads; this module finds out what to ask of it.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import lzma
import re
import warnings
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, Any

import pandas as pd

from market_regimes.prices.columns import FIELDS, plain, role_of
from market_regimes.prices.numbers import COMMA_ONLY, POINT_ONLY
from market_regimes.prices.table import MISSING, RawTable, ReadOptions
from market_regimes.prices.times import is_day

TEXT = (".csv", ".tsv", ".txt")
COMPRESSED: dict[str, Callable[..., Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zip": zipfile.ZipFile,
}
SUFFIXES = (*TEXT, *COMPRESSED, ".parquet", ".xlsx")
DELIMITERS = "\t;|,"  # in this order: decimals may have commas where another mark separates columns
HEAD_BYTES, HEAD_ROWS = 1 << 18, 200
BOMS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"\xef\xbb\xbf": "utf-8-sig"}
NUMBER = re.compile(r"[-+=]*\W{0,3}\d[\d.,'\u2019\s]*(?:[eE][-+]?\d+)?\s?(?:[%KMBT]|\W)?")


@dataclass(frozen=True)
class Head:
    """
    What the first rows of a file show.

    :param names: names of the columns, all different
    :param skip: rows before the first row of data, as the reader counts them
    :param has_header: whether the file names its columns
    :param pairs: of columns named by two header rows: column -> (field, symbol)
    :param texts: positions of columns that must be read as text
    :param said: what was assumed, a sentence each
    """

    names: list[str]
    skip: int
    has_header: bool
    pairs: dict[str, tuple[str, str]]
    texts: list[int]
    said: list[str] = field(default_factory=list)


def read_table(path: Path, options: ReadOptions) -> RawTable:
    """
    :param path: a file of prices
    :param options: what the user states about it
    :return: its rows
    :raises ValueError: in one sentence if it is no table
    """
    try:
        return _reader_of(path)(path, options)
    except FileNotFoundError as error:
        raise ValueError(f"there is no file {path}") from error
    except _NotATable as error:
        raise ValueError(f"{path} {error}") from error
    except Exception as error:  # parsers raise whatever their format met
        raise ValueError(f"{path} cannot be read as a table: {' '.join(str(error).split())}") from error


def is_readable(path: Path) -> bool:
    """:return: whether a file's name ends as those that can be read"""
    return suffix_of(path) in (*TEXT, ".parquet", ".xlsx") or path.suffix.lower() == ".zip"


def suffix_of(path: Path) -> str:
    """:return: what the name ends with, but for the compression: ".csv" for prices.csv.gz"""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return (suffixes[-2:-1] or [".csv"])[0] if suffixes and suffixes[-1] in COMPRESSED else "".join(suffixes[-1:])


class _NotATable(Exception):
    """The rest of a sentence that begins with the file."""


def _reader_of(path: Path) -> Callable[[Path, ReadOptions], RawTable]:
    if suffix_of(path) == ".parquet":
        return _read_parquet
    return _read_sheet if suffix_of(path) == ".xlsx" else _read_text


def _open(path: Path) -> IO[bytes]:
    """The file's bytes, decompressed."""
    suffix = path.suffix.lower()
    if suffix != ".zip":
        opened: IO[bytes] = COMPRESSED.get(suffix, open)(path, "rb")
        return opened
    archive = zipfile.ZipFile(path)
    names = [name for name in archive.namelist() if not name.endswith("/") and not name.startswith("__MACOSX")]
    if len(names) != 1:
        raise _NotATable(f"holds {len(names)} files: unpack it and name the folder")
    return archive.open(names[0])


def _read_text(path: Path, options: ReadOptions) -> RawTable:
    with _open(path) as file:
        start = file.read(HEAD_BYTES)
    encoding = next((name for bom, name in BOMS.items() if start.startswith(bom)), "utf-8")
    try:
        return _read_csv(path, options, start, encoding)
    except UnicodeDecodeError:
        if encoding != "utf-8":
            raise
        table = _read_csv(path, options, start, "cp1252")
        return replace(table, said=[*table.said, "not UTF-8: read as Windows-1252"])


def _read_csv(path: Path, options: ReadOptions, start: bytes, encoding: str) -> RawTable:
    text = start.decode(encoding, errors="ignore")
    lines = io.StringIO(text, newline="").readlines()
    lines = lines[:-1] if len(start) == HEAD_BYTES else lines  # the last one may be cut
    delimiter = _delimiter(lines)
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    rows, ends = [], []
    for row in islice(reader, HEAD_ROWS):
        rows.append([cell.strip() for cell in row])
        ends.append(reader.line_num)
    head = _head(rows, options)
    decimal = options.decimal or _decimal(rows[head.skip :], delimiter)
    read = partial(_parse, path, head, ends[head.skip - 1] if head.skip else 0, delimiter, encoding)
    frame = read(decimal)
    return RawTable(str(path), frame, head.pairs, head.has_header, head.said, decimal, read)


def _parse(path: Path, head: Head, skip: int, delimiter: str, encoding: str, decimal: str) -> pd.DataFrame:
    """All rows. Dates and symbols stay text, since NA and 000001 are tickers; numbers cost less memory as numbers."""
    with _open(path) as file, warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # a first row with more fields than names
        try:
            frame = pd.read_csv(
                file,
                sep=delimiter,
                header=None,
                names=head.names,
                index_col=False,
                skiprows=skip,
                dtype={head.names[position]: str for position in head.texts},
                decimal=decimal,
                encoding=encoding,
                skipinitialspace=True,
                keep_default_na=False,
                na_values=[""],
                low_memory=False,
            )
        except (pd.errors.ParserWarning, pd.errors.ParserError) as error:
            if isinstance(error, pd.errors.ParserError) and "Expected" not in str(error):
                raise
            hint = "quote numbers with commas in them" if delimiter == "," else f"it separates columns by {delimiter!r}"
            raise _NotATable(f"has rows with more fields than its header: {hint}") from error
        except pd.errors.EmptyDataError:
            frame = pd.DataFrame(columns=head.names)
    return _without_empty(frame.set_axis(pd.RangeIndex(1, len(frame) + 1), axis=0))


def _decimal(data: list[list[str]], delimiter: str) -> str:
    """A comma if the first rows show that decimals follow one, which saves reading the file twice."""
    cells = [cell for row in data for cell in row]
    commas = any(re.fullmatch(COMMA_ONLY, cell) for cell in cells)
    return "," if commas and delimiter != "," and not any(re.fullmatch(POINT_ONLY, cell) for cell in cells) else "."


def _without_empty(frame: pd.DataFrame) -> pd.DataFrame:
    """Without columns that have neither a name nor a cell, as a separator at the end of each row makes them."""
    empty = [name for name in frame if str(name).startswith("Unnamed: ") and frame[name].isna().all()]
    return frame.drop(columns=empty)


def _delimiter(lines: list[str]) -> str:
    """The first mark by which most rows have the same number of fields."""
    for delimiter in DELIMITERS:
        counts = [len(row) for row in csv.reader(lines[-HEAD_ROWS:], delimiter=delimiter) if row]
        if counts and max(set(counts), key=counts.count) > 1:
            return delimiter
    return ","


def _is_number(cell: str) -> bool:
    return NUMBER.fullmatch(cell) is not None


def _is_data(row: list[str]) -> bool:
    """Whether a row can only be one of data: a date and a number, or words for missing ones."""
    filled = [cell for cell in row if cell.lower() not in MISSING]
    return any(is_day(cell) for cell in filled) and sum(_is_number(cell) or is_day(cell) for cell in filled) > 1


def _head(rows: list[list[str]], options: ReadOptions) -> Head:
    if not any(any(row) for row in rows):
        raise _NotATable("cannot be read as a table: it is empty")
    first = next((i for i, row in enumerate(rows) if _is_data(row)), len(rows))
    stated = set((options.columns or {}).values()) - {""}
    # No number is a name, and to look for the role of each takes most of the time of reading.
    names = [[cell for cell in row if cell in stated or not _is_number(cell)] for row in rows]
    known = [sum(cell in stated or role_of(cell) is not None for cell in row) for row in names]
    best = max(range(len(rows)), key=lambda i: (known[i], -i))
    if known[best] >= 2:
        header = best
    elif first == len(rows):
        header = 0
    elif first and any(rows[first - 1]):
        header = first - 1
    else:
        return _headless(rows, first)
    levels, skip = _levels(rows, header)
    width = max((len(row) for row in rows[skip : skip + 20]), default=0)
    return _named(levels, skip, width, rows[skip:], stated, header)


def _all_but_first_empty(row: list[str]) -> bool:
    return len(row) > 1 and bool(row[0]) and not any(row[1:])


def _headless(rows: list[list[str]], first: int) -> Head:
    """A file whose columns have no names: they are numbered."""
    width = max(len(row) for row in rows[first:])
    names = [str(position + 1) for position in range(width)]
    return Head(names, first, False, {}, _text_columns(names, rows[first:], set()))


def _levels(rows: list[list[str]], header: int) -> tuple[list[list[str]], int]:
    """
    One header row, or the two of yfinance (fields and tickers, in either order, then perhaps a row with the name of the
    index), and the number of rows up to the data.
    """

    def fields(row: list[str]) -> bool:
        cells = [cell for cell in row[1:] if cell]
        return bool(cells) and all(
            role_of(cell) in FIELDS or plain(cell) in ("dividends", "stock_splits", "capital_gains") for cell in cells
        )

    above = (
        header - 1 if header and len(rows[header - 1]) == len(rows[header]) > 1 and all(rows[header - 1][1:]) else None
    )
    below = header + 1 if header + 1 < len(rows) and len(rows[header + 1]) == len(rows[header]) else None
    levels, skip = [rows[header]], header + 1
    if fields(rows[header]):
        if below is not None and all(rows[below][1:]) and _are_symbols(rows[below]):
            levels, skip = [rows[header], rows[below]], below + 1
        elif above is not None and not fields(rows[above]):
            levels = [rows[header], rows[above]]
    if len(levels) == 2 and skip < len(rows) and _all_but_first_empty(rows[skip]) and not is_day(rows[skip][0]):
        levels = [[rows[skip][0], *levels[0][1:]], levels[1]]
        skip += 1
    if len(levels) == 2 and _names_of_fields(levels[1][1:]) > _names_of_fields(levels[0][1:]):
        levels = [[levels[0][0], *levels[1][1:]], [levels[1][0], *levels[0][1:]]]
    return levels, skip


def _are_symbols(row: list[str]) -> bool:
    """Whether a row of a header holds symbols; 600519 is one where the row says so."""
    says_so = plain(row[0]) in ("ticker", "tickers", "symbol", "symbols")
    words = not any(_is_number(cell) or is_day(cell) or cell.lower() in MISSING for cell in row[1:])
    return says_so or (words and not _is_number(row[0]) and not is_day(row[0]))


def _named(
    levels: list[list[str]], skip: int, width: int, data: list[list[str]], stated: set[str], header: int
) -> Head:
    names, pairs = list(levels[0]), {}
    longer = width == len(names) + 1 and any(row[-1] for row in data if len(row) == width)
    if longer and is_day(data[0][0]) and not any(role_of(name) == "date" for name in names):
        names = ["", *names]  # R leaves out the name of the index
    names += [""] if width == len(names) + 1 and not longer else []
    names = unique_names(names)
    said = [f"{header} line(s) before the header skipped"] if header else []
    if len(levels) == 2:
        names[1:] = unique_names(
            [f"{name} {symbol}" for name, symbol in zip(levels[0][1:], levels[1][1:], strict=True)]
        )
        pairs = {name: (one, two) for name, one, two in zip(names[1:], levels[0][1:], levels[1][1:], strict=True)}
        said = ["two header rows: fields and symbols"]
    return Head(names, skip, True, pairs, _text_columns(names, data, stated), said)


def unique_names(names: list[str]) -> list[str]:
    """:return: the names, numbered where they repeat, as pandas does: close, close.1; "Unnamed: 3" for no name"""
    result: list[str] = []
    for position, name in enumerate(names):
        name = name or f"Unnamed: {position}"
        copies, unique = 0, name
        while unique in result:
            copies += 1
            unique = f"{name}.{copies}"
        result.append(unique)
    return result


def _text_columns(names: list[str], data: list[list[str]], stated: set[str]) -> list[int]:
    """Positions of dates, symbols and what else must not lose its leading zeros."""
    found = []
    for position, name in enumerate(names):
        cells = [row[position] for row in data[:20] if position < len(row) and row[position]]
        dates = bool(cells) and all(is_day(cell) for cell in cells) and (name.isdecimal() or role_of(name) is None)
        if role_of(name) in ("date", "symbol") or name in stated or dates or name.startswith("Unnamed: "):
            found.append(position)
    return found


def _read_parquet(path: Path, options: ReadOptions) -> RawTable:
    frame = pd.read_parquet(path)
    levels = [frame.index.get_level_values(i) for i in range(frame.index.nlevels)]
    for number, level in enumerate(levels):
        name = level.name
        labels = frame.columns.get_level_values(0)
        if isinstance(frame.index, pd.RangeIndex) or (name is None and level.dtype.kind in "iu"):
            continue
        copy = next((column for column in frame.columns if name is not None and column in (name, (name, ""))), None)
        if copy is not None and (frame[copy].to_numpy() == level.to_numpy()).all():
            continue  # set_index(drop=False)
        name = "index" if name is None else str(name)
        label: Any = (name, "") if frame.columns.nlevels == 2 else name
        frame.insert(number if name not in labels else 0, label, level, allow_duplicates=True)
    return table_of_frame(path, frame)


def table_of_frame(path: Path, frame: pd.DataFrame) -> RawTable:
    """A table with one or two levels of names."""
    pairs, said = {}, []
    if frame.columns.nlevels == 2:
        labels = [(str(one), str(two)) for one, two in frame.columns]
        first, second = zip(*labels, strict=True)
        if _names_of_fields(second) > _names_of_fields(first):
            labels = [(two, one) for one, two in labels]
        names = unique_names([f"{one} {two}" if one and two else one or two for one, two in labels])
        pairs = {name: label for name, label in zip(names, labels, strict=True) if all(label)}
        said = ["two levels of names: fields and symbols"]
    else:
        names = unique_names([str(name) for name in frame.columns])
    return RawTable(
        str(path), frame.set_axis(names, axis=1).set_axis(pd.RangeIndex(1, len(frame) + 1), axis=0), pairs, True, said
    )


def _names_of_fields(labels: Sequence[str]) -> tuple[int, int]:
    """
    How many different labels name a field: words first, then also single letters, since C, T and V are tickers.

    :param labels: one level of names
    """
    fields = {plain(label) for label in labels if role_of(label) in FIELDS}
    return sum(len(field) > 1 for field in fields), len(fields)


def _read_sheet(path: Path, options: ReadOptions) -> RawTable:
    try:
        opened = pd.ExcelFile(path, engine="openpyxl")
    except ImportError as error:
        needed = "is a spreadsheet, which needs the extra excel (openpyxl): install it, or save as CSV"
        raise _NotATable(needed) from error
    with opened as book:
        sheets = pd.read_excel(book, sheet_name=None, header=None, dtype=object)
    filled = {name: sheet for name, sheet in sheets.items() if not sheet.dropna(how="all").empty}
    if not filled:
        raise _NotATable("cannot be read as a table: it is empty")
    name, sheet = next(iter(filled.items()))
    sheet = sheet.dropna(how="all").dropna(how="all", axis=1)
    rows = [["" if pd.isna(cell) else str(cell).strip() for cell in row] for row in sheet.head(HEAD_ROWS).to_numpy()]
    head = _head(rows, options)
    frame = sheet.iloc[head.skip :].set_axis(head.names, axis=1).infer_objects()
    frame = _without_empty(frame.set_axis(pd.RangeIndex(1, len(frame) + 1), axis=0))
    others = f"; not read: {', '.join(map(str, list(filled)[1:]))}" if len(filled) > 1 else ""
    return RawTable(str(path), frame, head.pairs, head.has_header, [*head.said, f"sheet {name}{others}"])
