"""Readable files, and the meaning of their names."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

PARQUET = ".parquet"
SPREADSHEET = ".xlsx"
ARCHIVE = ".zip"
TEXT = (".csv", ".tsv", ".txt")
COMPRESSED: dict[str, Callable[..., Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ARCHIVE: zipfile.ZipFile,
}
SUFFIXES = (*TEXT, *COMPRESSED, PARQUET, SPREADSHEET)


def suffix_of(path: Path) -> str:
    """:return: last suffix of a name without the compression's: ".csv" for prices.csv.gz"""
    # The compression is the last suffix.
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if not suffixes:
        return ""
    if suffixes[-1] not in COMPRESSED:
        return suffixes[-1]

    # A compressed file without another suffix is text.
    if len(suffixes) == 1:
        return TEXT[0]
    return suffixes[-2]


def is_readable(path: Path) -> bool:
    """:return: whether a file's suffix is that of a readable format"""
    readable = (*TEXT, PARQUET, SPREADSHEET)
    return suffix_of(path) in readable or path.suffix.lower() == ARCHIVE


def stem_of(path: Path) -> str:
    """:return: name of a file without the suffixes of its format"""
    suffixes = path.suffix
    if path.suffix.lower() in COMPRESSED:
        suffixes = "".join(path.suffixes[-2:])
    return path.name.removesuffix(suffixes)


def names_of(symbol: str, source: str) -> tuple[str, ...]:
    """:return: names for a symbol of a file that ``market.zone`` may use"""
    path = Path(source)
    return symbol, source, path.name, stem_of(path)


def files_in(entries: Sequence[str]) -> list[Path]:
    """
    :param entries: files, and folders of files
    :return: the files; those of a folder by name
    :raises ValueError: if a folder has no readable file, or a name lacks a readable suffix
    """
    files: list[Path] = []
    for entry in entries:
        path = Path(entry)
        if path.is_dir():
            # Read a folder's files by name.
            readable = sorted(file for file in path.iterdir() if is_readable(file))
            if not readable:
                raise ValueError(f"the folder {path} holds no file that ends in {', '.join(SUFFIXES)}")
            files += readable
        elif is_readable(path):
            files.append(path)
        else:
            raise ValueError(
                f"market.data: {path} does not end in {', '.join(SUFFIXES)}, nor is it a folder of such files"
            )

    return files
