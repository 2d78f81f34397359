"""Annotation files to Arrow columns of strings, row by row where a format allows it.

Each reader gives what could be read and, for every row that could not, its place and the reason: a bad row never costs its
neighbours. Names of columns lose the blanks around them; values stay as they are written in the file (`icehouse.data.labels`
normalises those of ids and labels).
"""

from __future__ import annotations

import codecs
import mmap
import re
from pathlib import Path

from ..errors import SourceError, UsageError
from .folders import first_bytes
from .formats import SNIFFED, pointer
from .records import read_json_lines, read_parquet
from .rows import BadRow, Choose, Header, Quotes, Rows, one_line
from .separated import read_separated

__all__ = ["BadRow", "Choose", "Header", "Quotes", "Rows", "read_rows"]


def read_rows(path: Path, choose: Choose, *, encoding: str | None = None, quotes: Quotes = "auto") -> Rows:
    """Read the columns that `choose` asks for from a CSV, TSV, JSON Lines or Parquet file.

    Parameters
    ----------
    path : Path
        Its suffix tells the format: .csv, .tsv, .jsonl, .ndjson (.json, if it holds JSON Lines), .parquet.
    choose : callable
        See `Choose`; what it raises goes through.
    encoding : str, optional
        Default: UTF-8, or what a byte order mark says.
    quotes : {"auto", "csv", "literal"}
        Meaning of quotes in CSV and TSV. "auto": in a CSV they enclose fields; in a TSV too where every quote of the file
        belongs to a properly enclosed field, as spreadsheets and pandas write them, and else they are literal.

    Raises
    ------
    SourceError
        If the file cannot be read at all.
    UsageError
        If `encoding` is not one.
    """
    kind = path.suffix.lower()
    try:
        if path.stat().st_size == 0:
            raise SourceError(f"{path} is empty")
        fetched = pointer(first_bytes(path, SNIFFED))
        if fetched is not None:
            raise SourceError(f"{path} is {fetched}")
        if kind == ".parquet":
            return read_parquet(path, choose)
        asked, encoding = encoding, _encoding(path, encoding)
        if kind in (".csv", ".tsv"):
            rows = read_separated(path, choose, encoding, quotes, "\t" if kind == ".tsv" else ",")
        else:
            rows = read_json_lines(path, choose, encoding)
        if encoding == "cp1252" and codecs.lookup(asked or encoding).name != encoding:
            rows.notes.append(
                f"{path.name}: read as cp1252 (Windows), of which it holds characters that {asked} has not"
            )
        return rows
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeError as error:  # no byte order mark where the encoding wants one
        raise SourceError(f"{path} cannot be read as {encoding}: {one_line(error)}") from error


def _encoding(path: Path, asked: str | None) -> str:
    if asked is not None:
        try:
            "".encode(asked)
            name = codecs.lookup(asked).name
        except (LookupError, UnicodeError, ValueError):
            raise UsageError(f"unknown encoding {asked!r}; try utf-8, latin-1, cp1252 or utf-16") from None
        if name == "iso8859-1" and _windows(path):
            return "cp1252"
        return "utf-8-sig" if name == "utf-8" else name
    with path.open("rb") as file:
        start = file.read(4)
    if start.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    return "utf-8-sig"


def _windows(path: Path) -> bool:
    """Whether bytes that are control characters in Latin-1 are printed ones in Windows' cp1252, all of them."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if re.search(rb"[\x81\x8d\x8f\x90\x9d]", data):
            return False
        return re.search(rb"[\x80-\x9f]", data) is not None
