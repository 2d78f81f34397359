"""Annotation files to Arrow columns of strings, row by row where a format allows it.

Each reader gives what could be read and, for every row that could not, its place and the reason: a bad row never costs its
neighbours. Values stay as they are written in the file; nothing is trimmed, and nothing becomes a number.
"""

from __future__ import annotations

import codecs
import csv
import json
import mmap
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..errors import SourceError, UsageError

__all__ = ["BadRow", "Choose", "Quotes", "Rows", "read_rows"]

Quotes = Literal["auto", "csv", "literal"]

#: Called with the file's columns and with those that cannot be used (name to reason); answers with the columns to read.
Choose = Callable[[Sequence[str], Mapping[str, str]], Sequence[str]]

_CHUNK_ROWS = 8192
_CHUNK_CHARS = 1 << 25
_MAX_COLUMNS = 1000
# How many lines may be read again, over a whole file, to save the neighbours of a quote that is never closed.
_MAX_REREAD = 2_000_000

# A lone surrogate cannot come out of a decoder nor go into Arrow: it marks what was not in the file's encoding.
_MARK = "\udcff"


def _mark(error: UnicodeError) -> tuple[str, int]:
    if isinstance(error, UnicodeDecodeError):
        return _MARK, error.end
    raise error


codecs.register_error("icehouse-mark", _mark)


@dataclass(frozen=True)
class BadRow:
    """A row that could not be read: its number (from 1), where that is ("line 7"), and why."""

    number: int
    where: str
    message: str


@dataclass
class Rows:
    """Rows of one file.

    Attributes
    ----------
    table : pyarrow.Table
        The chosen columns, all strings, of the rows that could be read.
    numbers : numpy.ndarray of int64, shape (rows,)
        Each row's number in the file, from 1, header and blank lines not counted.
    bad : list of BadRow
    notes : list of str
    """

    table: pa.Table
    numbers: np.ndarray
    bad: list[BadRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


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
        if kind == ".parquet":
            return _read_parquet(path, choose)
        encoding = _encoding(path, encoding)
        if kind in (".csv", ".tsv"):
            return _read_separated(path, choose, encoding, quotes, "\t" if kind == ".tsv" else ",")
        return _read_json_lines(path, choose, encoding)
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeError as error:  # no byte order mark where the encoding wants one
        raise SourceError(f"{path} cannot be read as {encoding}: {_one_line(error)}") from error


def _encoding(path: Path, asked: str | None) -> str:
    if asked is not None:
        try:
            "".encode(asked)
            name = codecs.lookup(asked).name
        except (LookupError, UnicodeError, ValueError):
            raise UsageError(f"unknown encoding {asked!r}; try utf-8, latin-1, cp1252 or utf-16") from None
        return "utf-8-sig" if name == "utf-8" else name
    with path.open("rb") as file:
        start = file.read(4)
    if start.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    return "utf-8-sig"


class _Columns:
    """Rows on their way into Arrow: strings are held for one chunk only."""

    def __init__(self, names: Sequence[str], encoding: str) -> None:
        self._names = list(names)
        self._encoding = encoding
        self._chunks: list[list[pa.Array]] = [[] for _ in names]
        self._numbers: list[np.ndarray] = []
        self._held: list[tuple[int, str, Sequence[str | None]]] = []
        self._chars = 0
        self.bad: list[BadRow] = []

    def add(self, number: int, where: str, cells: Sequence[str | None]) -> None:
        self._held.append((number, where, cells))
        self._chars += sum(len(cell) for cell in cells if cell is not None)
        if len(self._held) >= _CHUNK_ROWS or self._chars > _CHUNK_CHARS:
            self.flush()

    def flush(self) -> None:
        held, self._held, self._chars = self._held, [], 0
        if not held:
            return
        try:
            arrays = self._arrays(held)
        except UnicodeEncodeError:
            good = []
            for row in held:
                reason = next((r for cell in row[2] if (r := _not_text(cell, self._encoding))), None)
                if reason is None:
                    good.append(row)
                else:
                    self.bad.append(BadRow(row[0], row[1], reason))
            held = good
            arrays = self._arrays(held)
        for chunks, array in zip(self._chunks, arrays, strict=True):
            chunks.append(array)
        self._numbers.append(np.fromiter((number for number, _, _ in held), np.int64, len(held)))

    def _arrays(self, held: list[tuple[int, str, Sequence[str | None]]]) -> list[pa.Array]:
        return [pa.array([cells[i] for _, _, cells in held], pa.string()) for i in range(len(self._names))]

    def rows(self, bad: list[BadRow], notes: list[str]) -> Rows:
        self.flush()
        columns = [pa.chunked_array(chunks, pa.string()) for chunks in self._chunks]
        numbers = np.concatenate(self._numbers) if self._numbers else np.zeros(0, np.int64)
        bad = sorted([*bad, *self.bad], key=lambda row: row.number)
        return Rows(pa.table(columns, names=self._names), numbers, bad, notes)


def _not_text(cell: str | None, encoding: str) -> str | None:
    """Reason why the cell cannot be stored, or None."""
    if cell is None or not any("\ud800" <= char <= "\udfff" for char in cell):
        return None
    if _MARK in cell:
        name = encoding.removesuffix("-sig")
        other = "latin-1" if name == "utf-8" else "utf-8"
        return f"holds bytes that are not {name}; if the file is in another encoding, give --encoding {other}"
    return "holds half a surrogate pair (\\ud800 to \\udfff alone), which is no text"


# ---------------------------------------------------------------------------------------------- CSV and TSV


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


def _records(lines: _Lines, separator: str, literal: bool) -> Iterator[tuple[int, list[str] | str]]:
    """Line number and cells of each record that is not blank; a reason instead of the cells where it is broken."""
    if literal:
        for line in lines:
            lines.taken.clear()
            line = line.removesuffix("\n").removesuffix("\r")
            if line:
                yield lines.number, line.split(separator)
        return
    csv.field_size_limit(2**31 - 1)  # the default refuses a text of 131,073 characters
    reader = csv.reader(lines, delimiter=separator, strict=True)
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


def _read_separated(path: Path, choose: Choose, encoding: str, quotes: Quotes, separator: str) -> Rows:
    notes: list[str] = []
    start_of_file = _start(path, encoding)
    head = re.split(r"[\r\n]", start_of_file.lstrip("\r\n"), maxsplit=1)[0]
    if separator == "," and "," not in head:
        separator = next((s for s in ";\t" if s in head), ",")
        if separator != ",":
            notes.append(
                f"{path.name}: fields are separated by {'tabs' if separator == chr(9) else 'semicolons'}"
            )
    literal = quotes == "literal"
    if quotes == "auto" and path.suffix.lower() == ".tsv":
        literal = not _properly_quoted(path, encoding)
        if not literal:
            notes.append(f"{path.name}: quotes enclose fields, and were taken off")

    newline = "" if not literal else "\n" if "\n" in start_of_file or "\r" not in start_of_file else "\r"
    with path.open(encoding=encoding, errors="icehouse-mark", newline=newline) as file:
        lines = _Lines(iter(file))
        records = _records(lines, separator, literal)
        _, header = next(records, (0, []))
        if isinstance(header, str):
            raise SourceError(f"{path}: the header cannot be read: {header}")
        # A byte order mark that the encoding given did not take off, as itself or read as Latin-1.
        header[:1] = [name.removeprefix("\ufeff").removeprefix("\xef\xbb\xbf") for name in header[:1]]
        _check_header(path, header, encoding)
        wanted = list(choose(header, {}))
        for name in wanted:
            if header.count(name) > 1:
                raise SourceError(
                    f"{path} has {header.count(name)} columns called {name!r}; rename one of them"
                )
        places = [header.index(name) for name in wanted]
        columns = _Columns(wanted, encoding)
        bad: list[BadRow] = []
        width = len(header)
        number = 0
        for start, cells in records:
            number += 1
            if isinstance(cells, list) and len(cells) == width:
                columns.add(number, f"line {start}", [cells[i] for i in places])
                continue
            if isinstance(cells, list):
                cells = f"{_count(len(cells), 'field')} where the header has {width}"
            lines.put_back()
            bad.append(BadRow(number, f"line {start}", cells))
    return columns.rows(bad, notes)


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _start(path: Path, encoding: str) -> str:
    """The first 64 Ki characters, line ends as they are."""
    with path.open(encoding=encoding, errors="icehouse-mark", newline="") as file:
        return file.read(1 << 16)


def _check_header(path: Path, header: list[str], encoding: str) -> None:
    if not any(header):
        raise SourceError(f"{path} has no header: its first line must name the columns")
    if any("\0" in name for name in header):
        raise SourceError(
            f"{path}: the header holds NUL bytes; if the file is UTF-16, give --encoding utf-16-le"
        )
    for name in header:
        reason = _not_text(name, encoding)
        if reason:
            raise SourceError(f"{path}: the header {reason}")


_ENCLOSED = re.compile(rb'"(?:[^"]|"")*+"(?=[\t\r\n]|\Z)')


def _properly_quoted(path: Path, encoding: str) -> bool:
    """Whether a TSV has quotes, and every one belongs to a field that a CSV writer could have written."""
    if encoding.startswith(("utf-16", "utf-32")):
        text = path.read_text(encoding, errors="icehouse-mark")
        return _all_enclosed(text.encode("utf-8", "surrogatepass"))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _all_enclosed(data)


def _all_enclosed(data: bytes | mmap.mmap) -> bool:
    place = data.find(b'"')
    if place < 0:
        return False
    while place >= 0:
        at_start = place == 0 or data[place - 1 : place] in (
            b"\t",
            b"\r",
            b"\n",
            b"\xbf",
        )  # the last: after a BOM
        found = _ENCLOSED.match(data, place) if at_start else None
        if found is None:
            return False
        end = found.end()
        del found  # it holds on to the map, which could then not be closed
        place = data.find(b'"', end)
    return True


# ---------------------------------------------------------------------------------------------- JSON Lines


def _read_json_lines(path: Path, choose: Choose, encoding: str) -> Rows:
    if path.suffix.lower() == ".json" and _start(path, encoding).lstrip().startswith("["):
        raise SourceError(f"{path} is one JSON array; write it as JSON Lines (.jsonl, one object a line)")
    bad: list[BadRow] = []
    nested: dict[str, str] = {}
    names: dict[str, None] = {}
    chunks: list[tuple[dict[str, pa.Array], np.ndarray]] = []
    held: list[tuple[int, str, dict[str, Any]]] = []
    chars = 0
    number = 0

    def flush() -> None:
        nonlocal held, chars
        if not held:
            return
        keys = list(dict.fromkeys(key for _, _, record in held for key in record if key in names))
        columns = _Columns(keys, encoding)
        for place, where, record in held:
            columns.add(place, where, [_json_cell(record.get(key)) for key in keys])
        part = columns.rows([], [])
        bad.extend(part.bad)
        chunks.append((dict(zip(keys, part.table.columns, strict=True)), part.numbers))
        held, chars = [], 0

    with path.open(encoding=encoding, errors="icehouse-mark", newline="\n") as file:
        for line_number, line in enumerate(file, 1):
            if not line.strip():
                continue
            number += 1
            where = f"line {line_number}"
            try:
                line = line.removeprefix("\ufeff") if line_number == 1 else line
                record = json.loads(line, parse_int=str, parse_float=str, parse_constant=lambda _: None)
            except RecursionError:
                bad.append(BadRow(number, where, "nested too deeply"))
                continue
            except ValueError as error:
                reason = _not_text(line, encoding) or f"not JSON: {error}"
                bad.append(BadRow(number, where, reason))
                continue
            if not isinstance(record, dict):
                bad.append(BadRow(number, where, "not a JSON object"))
                continue
            for key, value in record.items():
                if isinstance(value, (dict, list)):
                    nested.setdefault(key, "holds nested values")
                elif key not in names and len(names) < _MAX_COLUMNS and not _not_text(key, encoding):
                    names[key] = None
            held.append((number, where, record))
            chars += len(line)
            if len(held) >= _CHUNK_ROWS or chars > _CHUNK_CHARS:
                flush()
    flush()
    if number == 0:
        raise SourceError(f"{path} is empty")
    if not names and bad:
        raise SourceError(f"{path}: no line is a JSON object; {bad[0].where}: {bad[0].message}")

    wanted = list(choose(list(names), {key: why for key, why in nested.items() if key not in names}))
    table = pa.table(
        {
            name: pa.chunked_array(
                [c for part, n in chunks for c in _chunks_of(part.get(name), len(n))], pa.string()
            )
            for name in wanted
        }
    )
    numbers = np.concatenate([n for _, n in chunks]) if chunks else np.zeros(0, np.int64)
    notes = (
        [f"{path.name}: only its first {_MAX_COLUMNS} columns were read"]
        if len(names) == _MAX_COLUMNS
        else []
    )
    return Rows(table, numbers, sorted(bad, key=lambda row: row.number), notes)


def _chunks_of(column: pa.ChunkedArray | None, rows: int) -> list[pa.Array]:
    return [pa.nulls(rows, pa.string())] if column is None else column.chunks


def _json_cell(value: Any) -> str | None:
    if value is None or isinstance(value, (dict, list)):
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


# ---------------------------------------------------------------------------------------------- Parquet


def _read_parquet(path: Path, choose: Choose) -> Rows:
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            unusable = {f.name: why for f in schema if (why := _unusable(f.type))}
            wanted = list(choose([f.name for f in schema if f.name not in unusable], unusable))
            for name in wanted:
                if schema.names.count(name) > 1:
                    raise SourceError(f"{path} has several columns called {name!r}; rename one of them")
            table = file.read(columns=wanted)
        columns = {name: _as_strings(table[name]) for name in wanted}
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{path} is not a Parquet file that can be read: {_one_line(error)}") from error
    keep = np.ones(table.num_rows, bool)
    for name, column in columns.items():
        try:
            column.validate(full=True)
        except pa.ArrowInvalid:
            values = [_decoded(value) for value in column.cast(pa.binary()).to_pylist()]
            keep &= np.array([value is not False for value in values], bool)
            columns[name] = pa.chunked_array([pa.array([v or None for v in values], pa.string())])
    bad = [
        BadRow(int(i) + 1, f"row {i + 1}", "holds bytes that are not utf-8") for i in np.flatnonzero(~keep)
    ]
    rows = pa.table(columns)
    return Rows(rows if keep.all() else rows.filter(pa.array(keep)), np.flatnonzero(keep) + 1, bad)


def _unusable(kind: pa.DataType) -> str | None:
    if pa.types.is_nested(kind) or isinstance(kind, pa.BaseExtensionType):
        return "holds nested values"
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return "holds raw bytes; write images to files and give their paths"
    return None


def _as_strings(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Column as strings, the way a person would write its values."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_floating(column.type):
        column = column.cast(pa.float64()) if column.type.bit_width == 16 else column
        column = pc.if_else(pc.is_finite(column), column, None)
        # pandas makes integers with a missing value floats: "1.0" would be another id than "1".
        if pc.all(pc.and_(pc.equal(pc.floor(column), column), pc.less(pc.abs(column), 2**53))).as_py():
            column = column.cast(pa.int64())
    return column.cast(pa.string())


def _decoded(value: bytes | None) -> str | Literal[False] | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return False


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
