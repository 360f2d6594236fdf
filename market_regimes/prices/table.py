"""
Reading of a file's rows: encodings, separators, CSV, Parquet and spreadsheets.

pandas reads. This module determines its arguments.
"""

from __future__ import annotations

import csv
import io
import re
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, Any

import pandas as pd

from market_regimes.prices.head import (
    UNNAMED,
    EmptyFileError,
    Head,
    fields_come_second,
    read_head,
    unique_names,
)
from market_regimes.prices.notes import NO_NOTES, Notes
from market_regimes.prices.numerals import COMMA_ONLY, POINT_ONLY
from market_regimes.prices.options import ReadOptions
from market_regimes.prices.paths import (
    ARCHIVE,
    COMPRESSED,
    PARQUET,
    SPREADSHEET,
    suffix_of,
)

DELIMITERS = "\t;|,"  # in this order: decimals may have commas if another mark separates columns
HEAD_BYTES = 1 << 18
HEAD_ROWS = 200
BOMS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"\xef\xbb\xbf": "utf-8-sig"}
IS_EMPTY = "cannot be read as a table: it is empty"


@dataclass(frozen=True)
class Table:
    """
    Rows of a file before their meaning is known.

    :param source: the file, for error messages
    :param frame: columns under the file's names; the index counts the rows from 1
    :param pairs: columns that the file names by a field and a symbol: column -> (field, symbol)
    :param has_header: False: columns are numbered from "1"
    :param notes: assumptions
    :param decimal: decimal mark with which numbers were read
    :param read_by: function that reads the columns with another mark, None: the file stores numbers
    """

    source: str
    frame: pd.DataFrame
    pairs: dict[str, tuple[str, str]] = field(default_factory=dict)
    has_header: bool = True
    notes: Notes = NO_NOTES
    decimal: str = "."
    read_by: Callable[[str], pd.DataFrame] | None = None

    @property
    def names(self) -> list[str]:
        """Names of the columns."""
        return [str(name) for name in self.frame.columns]


class _NotATableError(Exception):
    """The end of a sentence that starts with the file."""


def read_table(path: Path, options: ReadOptions) -> Table:
    """
    :param path: a file of prices
    :param options: the user's options
    :return: its rows
    :raises ValueError: if the file is not a table
    """
    # The suffix shows the format.
    stated = set(options.stated.values()) - {""}
    try:
        if suffix_of(path) == PARQUET:
            return _read_parquet(path)
        if suffix_of(path) == SPREADSHEET:
            return _read_sheet(path, stated)
        return _read_text(path, stated, options.decimal)
    except FileNotFoundError as error:
        raise ValueError(f"there is no file {path}") from error
    except EmptyFileError as error:
        raise ValueError(f"{path} {IS_EMPTY}") from error
    except _NotATableError as error:
        raise ValueError(f"{path} {error}") from error
    except Exception as error:  # parsers raise any error of their format
        raise ValueError(f"{path} cannot be read as a table: {' '.join(str(error).split())}") from error


def table_of_frame(source: str, frame: pd.DataFrame) -> Table:
    """
    :param source: the frame's file or name, for error messages
    :param frame: frame with one or two levels of names
    :return: its rows
    """
    # Count rows from 1.
    counted = frame.set_axis(pd.RangeIndex(1, len(frame) + 1), axis=0)
    if frame.columns.nlevels != 2:
        names = unique_names([str(name) for name in frame.columns])
        return Table(source, counted.set_axis(names, axis=1))

    # Two levels of names are fields and symbols, in either order.
    labels = [(str(upper), str(lower)) for upper, lower in frame.columns]
    if fields_come_second(*zip(*labels, strict=True)):
        labels = [(lower, upper) for upper, lower in labels]
    names = unique_names([" ".join(part for part in label if part) for label in labels])
    pairs = {name: label for name, label in zip(names, labels, strict=True) if all(label)}
    notes = Notes(("two levels of names: fields and symbols",))

    return Table(source, counted.set_axis(names, axis=1), pairs, notes=notes)


def _open(path: Path) -> IO[bytes]:
    """Open the file and decompress its bytes."""
    suffix = path.suffix.lower()
    if suffix != ARCHIVE:
        opened: IO[bytes] = COMPRESSED.get(suffix, open)(path, "rb")
        return opened

    # An archive may contain one file.
    archive = zipfile.ZipFile(path)
    names = [name for name in archive.namelist() if not name.endswith("/") and not name.startswith("__MACOSX")]
    if len(names) != 1:
        raise _NotATableError(f"holds {len(names)} files: unpack it and name the folder")
    return archive.open(names[0])


def _read_text(path: Path, stated: set[str], decimal: str | None) -> Table:
    """Read a text file, whose first bytes show its encoding."""
    with _open(path) as file:
        start = file.read(HEAD_BYTES)

    # A byte order mark shows the encoding.
    encoding = next((name for bom, name in BOMS.items() if start.startswith(bom)), "utf-8")

    try:
        return _read_csv(path, stated, decimal, start, encoding)
    except UnicodeDecodeError:
        if encoding != "utf-8":
            raise

    # A file that is not UTF-8 comes from Windows.
    table = _read_csv(path, stated, decimal, start, "cp1252")
    return replace(table, notes=table.notes.and_assumed("not UTF-8: read as Windows-1252"))


def _read_csv(path: Path, stated: set[str], decimal: str | None, start: bytes, encoding: str) -> Table:
    """Read a text file: its first rows, then all."""
    lines = io.StringIO(start.decode(encoding, errors="ignore"), newline="").readlines()
    if len(start) == HEAD_BYTES:  # the last line may be cut
        lines = lines[:-1]
    delimiter = _delimiter(lines)

    # Parse the first rows, and the line at which each ends.
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    rows = []
    ends = [0]

    for row in islice(reader, HEAD_ROWS):
        rows.append([cell.strip() for cell in row])
        ends.append(reader.line_num)

    # Read all rows with the structure of the first ones.
    head = read_head(rows, stated)
    decimal = decimal or _decimal(rows[head.skip :], delimiter)
    read_by = partial(_parse, path, head, ends[head.skip], delimiter, encoding)

    return Table(
        str(path),
        read_by(decimal),
        head.pairs,
        head.has_header,
        head.notes,
        decimal,
        read_by,
    )


def _parse(path: Path, head: Head, skip: int, delimiter: str, encoding: str, decimal: str) -> pd.DataFrame:
    """Read all rows. Dates and symbols stay text, since NA and 000001 are tickers. Numbers take less memory."""
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
            # The parser's own message explains other errors.
            if isinstance(error, pd.errors.ParserError) and "Expected" not in str(error):
                raise
            hint = f"it separates columns by {delimiter!r}"
            if delimiter == ",":
                hint = "quote numbers with commas in them"
            raise _NotATableError(f"has rows with more fields than its header: {hint}") from error
        except pd.errors.EmptyDataError:
            frame = pd.DataFrame(columns=head.names)

    return _counted(frame)


def _counted(frame: pd.DataFrame) -> pd.DataFrame:
    """Count rows from 1, and drop columns caused by a separator at the end of each row."""
    frame = frame.set_axis(pd.RangeIndex(1, len(frame) + 1), axis=0)
    empty = [name for name in frame if str(name).startswith(UNNAMED) and frame[name].isna().all()]
    return frame.drop(columns=empty)


def _decimal(data: list[list[str]], delimiter: str) -> str:
    """Return a comma if the first rows show decimal commas, which avoids a second reading."""
    if delimiter == ",":
        return "."
    cells = [cell for row in data for cell in row]

    # A cell that only one convention can produce decides.
    has_commas = any(re.fullmatch(COMMA_ONLY, cell) for cell in cells)
    has_points = any(re.fullmatch(POINT_ONLY, cell) for cell in cells)
    if has_commas and not has_points:
        return ","
    return "."


def _delimiter(lines: list[str]) -> str:
    """Return the first mark that splits most rows into the same number of fields."""
    for delimiter in DELIMITERS:
        counts = [len(row) for row in csv.reader(lines[-HEAD_ROWS:], delimiter=delimiter) if row]
        if counts and max(set(counts), key=counts.count) > 1:
            return delimiter

    return ","


def _read_parquet(path: Path) -> Table:
    """Read a Parquet file, with the levels of its index as columns."""
    frame = pd.read_parquet(path)
    index = frame.index

    for number in range(index.nlevels):
        # Drop counts, and levels that repeat a column.
        level = index.get_level_values(number)
        is_count = isinstance(index, pd.RangeIndex) or (level.name is None and level.dtype.kind in "iu")
        if is_count or _stands_in_columns(frame, level):
            continue

        # Beside two levels of names, a column from the index has a name and an empty one.
        name = _name_of(level)
        label: Any = name
        if frame.columns.nlevels == 2:
            label = (name, "")
        position = number
        if name in frame.columns.get_level_values(0):
            position = 0
        frame.insert(position, label, level, allow_duplicates=True)

    return table_of_frame(str(path), frame)


def _name_of(level: pd.Index) -> str:
    """Return the name of an index level."""
    if level.name is None:
        return "index"
    return str(level.name)


def _stands_in_columns(frame: pd.DataFrame, level: pd.Index) -> bool:
    """Return whether a column repeats an index level, as after ``set_index(drop=False)``."""
    if level.name is None:
        return False
    copies = [column for column in frame.columns if column in (level.name, (level.name, ""))]
    return bool(copies) and bool((frame[copies[0]].to_numpy() == level.to_numpy()).all())


def _text_of(cell: Any) -> str:
    """Return a spreadsheet's cell as text, "" if it is empty."""
    if pd.isna(cell):
        return ""
    return str(cell).strip()


def _read_sheet(path: Path, stated: set[str]) -> Table:
    """Read the first filled sheet of a spreadsheet."""
    try:
        opened = pd.ExcelFile(path, engine="openpyxl")
    except ImportError as error:
        needed = "is a spreadsheet, which needs the extra excel (openpyxl): install it, or save as CSV"
        raise _NotATableError(needed) from error

    with opened as book:
        sheets = pd.read_excel(book, sheet_name=None, header=None, dtype=object)

    # Find the first filled sheet.
    filled = {name: sheet for name, sheet in sheets.items() if not sheet.dropna(how="all").empty}
    if not filled:
        raise EmptyFileError
    name, *unread = filled
    sheet = filled[name].dropna(how="all").dropna(how="all", axis=1)

    # Read the header from its first rows as text.
    first = sheet.head(HEAD_ROWS).to_numpy()
    rows = [[_text_of(cell) for cell in row] for row in first]
    head = read_head(rows, stated)
    frame = _counted(sheet.iloc[head.skip :].set_axis(head.names, axis=1).infer_objects())

    # Note the sheet, and the unread ones.
    note = f"sheet {name}"
    if unread:
        note += f"; not read: {', '.join(map(str, unread))}"
    return Table(str(path), frame, head.pairs, head.has_header, head.notes.and_assumed(note))
