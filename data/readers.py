"""Annotation files to Arrow columns of strings: readers by format, CSV and TSV.

A bad row is given with its place and the reason, and never costs its neighbours; values stay as they are
written.
"""

from __future__ import annotations

import codecs
import csv
import mmap
import re
from collections import deque
from collections.abc import Iterator
from io import StringIO
from itertools import islice
from pathlib import Path

from ..errors import SourceError, UsageError, brief, count_of
from .image_files import SNIFFED, first_bytes, lfs_pointer
from .labels import trim
from .records import CellColumns, read_json_lines, read_parquet
from .rows import (
    MARKING,
    SAMPLE,
    BadRow,
    Choose,
    Header,
    Quotes,
    Rows,
    not_text,
    start_of,
)

_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "upright bars"}
# Excel's own first line.
_SEP_LINE = re.compile(r'\ufeff?"?sep=(.)"?\r?\n', re.IGNORECASE)

# How many lines may be read again, over a whole file, to save the neighbours of a quote that is never closed.
_MAX_REREAD = 2_000_000


class _Lines:
    """Lines of a file that remember those of the record in hand, so that they can be read again."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._again: deque[str] = deque()
        self._budget = _MAX_REREAD
        self.taken: list[str] = []
        self.number = 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._lines)
        self.number += 1
        self.taken.append(line)
        return line

    def put_back(self) -> None:
        """Give back every line of the record but its first, unless that was done too often."""
        rest = len(self.taken) - 1
        if 0 < rest <= self._budget:
            self._budget -= rest
            self._again.extendleft(reversed(self.taken[1:]))
            self.number -= rest


def _records(
    lines: _Lines, separator: str, literal: bool, spaced: bool
) -> Iterator[tuple[int, list[str] | str]]:
    """Line number and cells of each record that is not blank; a reason instead of the cells where it is broken."""
    if literal:
        for line in lines:
            lines.taken.clear()
            line = line.removesuffix("\n").removesuffix("\r")
            if line:
                yield lines.number, line.split(separator)
        return
    csv.field_size_limit(2**31 - 1)  # the default refuses a text of 131,073 characters
    reader = csv.reader(lines, delimiter=separator, strict=True, skipinitialspace=spaced)
    while True:
        lines.taken.clear()
        start = lines.number + 1
        cells: list[str] | str
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            cells = "a quote is never closed" if "end of data" in str(error) else f"broken quotes ({error})"
        if cells:
            yield start, cells


def read_csv(path: Path, choose: Choose, encoding: str, quotes: Quotes, separator: str) -> Rows:
    """Read a CSV or TSV file; see `read_rows`.

    Python's csv module, line by line: after a quote that is never closed DuckDB loses the rest of the file and
    pyarrow the next row; DuckDB miscounts lines after a line break in a cell and reads three encodings; one
    byte that is no UTF-8 costs pyarrow the file.
    """
    notes: list[str] = []
    start_of_file = start_of(path, encoding)
    told = _SEP_LINE.match(start_of_file) if separator == "," else None
    content = start_of_file[told.end() if told else 0 :].lstrip("\r\n")
    head = re.split(r"[\r\n]", content, maxsplit=1)[0]
    if separator == ",":
        separator = told[1] if told else _separator(content, head)
        if separator != ",":
            notes.append(
                f"{path.name}: fields are separated by {_SEPARATORS.get(separator, repr(separator))}"
            )
    literal = quotes == "literal"
    if quotes == "auto" and path.suffix.lower() == ".tsv":
        literal = not _properly_quoted(path, encoding)
        if not literal:
            notes.append(f"{path.name}: quotes enclose fields, and were taken off")

    newline = "" if not literal else "\n" if "\n" in start_of_file or "\r" not in start_of_file else "\r"
    with path.open(encoding=encoding, errors=MARKING, newline=newline) as file:
        lines = _Lines(iter(file))
        # "image, label": whoever writes a blank after each separator does so in every row.
        names = head.split(separator)[1:]
        spaced = separator != "\t" and bool(names) and all(name.startswith(" ") for name in names)
        records = _records(lines, separator, literal, spaced)
        if told:
            next(records)
        _, header = next(records, (0, []))
        if isinstance(header, str):
            raise SourceError(f"{path}: the header cannot be read: {header}")
        # A byte order mark that the encoding given did not take off, as itself or read as Latin-1.
        header[:1] = [name.removeprefix("\ufeff").removeprefix("\xef\xbb\xbf") for name in header[:1]]
        _check_header(path, header, encoding)
        header = [trim(name) for name in header]
        sample = _sample(header, _records(_Lines(StringIO(content, newline)), separator, literal, spaced))
        wanted = list(choose(Header(header, sample=sample)))
        for name in wanted:
            if header.count(name) > 1:
                raise SourceError(
                    f"{path} has {header.count(name)} columns called {name!r}; rename one of them"
                )
        places = [(name, header.index(name)) for name in wanted]
        columns = CellColumns(encoding)
        bad: list[BadRow] = []
        width = len(header)
        number = 0
        for start, cells in records:
            number += 1
            if isinstance(cells, list) and len(cells) == width:
                row = {name: cells[i] for name, i in places}
                columns.add(number, f"line {start}", row, sum(map(len, row.values())))
                continue
            if isinstance(cells, list):
                cells = f"{count_of(len(cells), 'field')} where the header has {width}"
            lines.put_back()
            bad.append(BadRow(number, f"line {start}", cells))
    return columns.rows(wanted, bad, notes)


def _separator(content: str, head: str) -> str:
    """Separator of a CSV: the character that splits the header and the first rows into equally many fields."""
    for separator in _SEPARATORS:
        try:
            rows = csv.reader(StringIO(content, newline=""), delimiter=separator)
            widths = {len(row) for row in islice(filter(None, rows), 4)}
        except csv.Error:
            continue
        if len(widths) == 1 and widths != {1}:
            return separator
    return next((separator for separator in _SEPARATORS if separator in head), ",")


def _sample(header: list[str], records: Iterator[tuple[int, list[str] | str]]) -> dict[str, list[str]]:
    """First values of each column."""
    rows = [
        cells
        for _, cells in islice(records, 1, None)
        if isinstance(cells, list) and len(cells) == len(header)
    ]
    return {
        name: list(islice(filter(None, (row[i] for row in rows)), SAMPLE)) for i, name in enumerate(header)
    }


def _check_header(path: Path, header: list[str], encoding: str) -> None:
    if not any(header):
        raise SourceError(f"{path} has no header: its first line must name the columns")
    if any("\0" in name for name in header):
        order = "be" if header[0].startswith("\0") else "le"
        raise SourceError(
            f"{path}: the header holds NUL bytes; if the file is UTF-16, give --encoding utf-16-{order}"
        )
    for name in header:
        reason = not_text(name, encoding)
        if reason:
            raise SourceError(f"{path}: the header {reason}")


_ENCLOSED = re.compile(rb'"(?:[^"]|"")*+"(?=[\t\r\n]|\Z)')


def _properly_quoted(path: Path, encoding: str) -> bool:
    """Whether a TSV has quotes, and every one belongs to a field that a CSV writer could have written."""
    if encoding.startswith(("utf-16", "utf-32")):
        text = path.read_text(encoding, errors=MARKING)
        return _all_enclosed(text.encode("utf-8", "surrogatepass"))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _all_enclosed(data)


def _all_enclosed(data: bytes | mmap.mmap) -> bool:
    place = data.find(b'"')
    if place < 0:
        return False
    while place >= 0:
        before = data[max(place - 1, 0) : place]
        at_start = before in (b"", b"\t", b"\r", b"\n") or (place == 3 and data[:3] == codecs.BOM_UTF8)
        found = _ENCLOSED.match(data, place) if at_start else None
        if found is None:
            return False
        end = found.end()
        del found  # it holds on to the map, which could then not be closed
        place = data.find(b'"', end)
    return True


def read_rows(path: Path, choose: Choose, *, encoding: str | None = None, quotes: Quotes = "auto") -> Rows:
    """Read the columns that `choose` asks for from a CSV, TSV, JSON Lines (.json too) or Parquet file, by its suffix.

    `encoding` is by default UTF-8, or what a byte order mark says. With `quotes` "auto" they enclose fields in
    a CSV, and in a TSV where every quote of the file belongs to a properly enclosed field, as spreadsheets and
    pandas write them; else they are literal. SourceError: the file cannot be read at all. UsageError: no such
    encoding.
    """
    kind = path.suffix.lower()
    try:
        if path.stat().st_size == 0:
            raise SourceError(f"{path} is empty")
        fetched = lfs_pointer(first_bytes(path, SNIFFED))
        if fetched is not None:
            raise SourceError(f"{path} is {fetched}")
        if kind == ".parquet":
            return read_parquet(path, choose)
        asked, encoding = encoding, _encoding(path, encoding)
        if kind in (".csv", ".tsv"):
            rows = read_csv(path, choose, encoding, quotes, "\t" if kind == ".tsv" else ",")
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
        raise SourceError(f"{path} cannot be read as {encoding}: {brief(error)}") from error


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
