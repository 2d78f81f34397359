"""Annotation files to Arrow columns of strings: readers of JSON Lines, Parquet, CSV and TSV.

A bad row is given with its place and the reason, and never costs its neighbours; values stay as they are
written.
"""

from __future__ import annotations

import codecs
import csv
import json
import mmap
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..errors import SourceError, UsageError, brief, count_of
from .bombs import check_parquet, read_column
from .image_files import SNIFFED, address, first_bytes, holds_pictures, image_format, is_list, lfs_pointer
from .labels import LIST, as_lists, strings, trim
from .rows import (
    MARKING,
    SAMPLE,
    BadRow,
    Choose,
    Header,
    Quotes,
    Rows,
    not_text,
    show,
    start_of,
)

_MAX_COLUMNS = 1000
# Keys of an object, or fields of a struct, that tell the path of a picture.
_PATH_KEYS = ("path", "file_name", "filename", "file", "image_path")
_NESTED = "holds nested values"
# Rows of a column of bytes in which the first picture is looked for.
_LOOKED_AT = 1000


#: What a row has in a column: one value, several, or none.
Cell = str | list[str] | None

# Python strings held before they go into Arrow.
CHUNK_ROWS = 8192
CHUNK_CHARS = 1 << 25


class CellColumns:
    """Rows on their way into Arrow: cells are held for one chunk only.

    A column holds lists where some row has several values; else lists of one are single values.
    """

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        self._chunks: list[pa.Table] = []
        self._numbers: list[np.ndarray] = []
        self._held: list[tuple[int, str, Mapping[str, Cell]]] = []
        self._chars = 0
        self.bad: list[BadRow] = []

    def add(self, number: int, where: str, cells: Mapping[str, Cell], chars: int) -> None:
        """Take one row's cells by column, of about so many characters; a column that it lacks is null."""
        self._held.append((number, where, cells))
        self._chars += chars
        if len(self._held) >= CHUNK_ROWS or self._chars > CHUNK_CHARS:
            self.flush()

    def flush(self) -> None:
        """Move the rows held into Arrow, those with a cell that is no text into `bad`."""
        held, self._held, self._chars = self._held, [], 0
        try:
            table = _chunk([cells for _, _, cells in held])
        except UnicodeEncodeError:
            good = []
            for number, where, cells in held:
                reason = next(
                    (r for cell in _flat(cells.values()) if (r := not_text(cell, self._encoding))), None
                )
                if reason is None:
                    good.append((number, where, cells))
                else:
                    self.bad.append(BadRow(number, where, reason))
            held = good
            table = _chunk([cells for _, _, cells in held])
        if held:
            self._chunks.append(table)
            self._numbers.append(np.fromiter((number for number, _, _ in held), np.int64, len(held)))

    def rows(self, names: Sequence[str], bad: list[BadRow], notes: list[str]) -> Rows:
        """These columns of all rows taken, with what was found bad elsewhere."""
        self.flush()
        columns = {}
        for name in names:
            parts = [
                chunk[name] if name in chunk.column_names else strings([None] * len(chunk))
                for chunk in self._chunks
            ]
            several = any(
                pa.types.is_list(part.type) and (pc.max(pc.list_value_length(part)).as_py() or 0) > 1
                for part in parts
            )
            parts = [as_lists(part) if several else _single(part) for part in parts]
            chunks = [chunk for part in parts for chunk in part.chunks]
            columns[name] = pa.chunked_array(chunks, LIST if several else pa.string())
        numbers = np.concatenate(self._numbers) if self._numbers else np.zeros(0, np.int64)
        return Rows(pa.table(columns), numbers, sorted([*bad, *self.bad], key=lambda row: row.number), notes)


def _chunk(rows: list[Mapping[str, Cell]]) -> pa.Table:
    columns = {}
    for name in dict.fromkeys(name for cells in rows for name in cells):
        column = [cells.get(name) for cells in rows]
        if any(isinstance(cell, list) for cell in column):
            column = [[cell] if isinstance(cell, str) else cell for cell in column]
            columns[name] = pa.array(column, LIST)
        else:
            columns[name] = pa.array(column, pa.string())
    return pa.table(columns)


def _flat(cells: Iterable[Cell]) -> Iterator[str | None]:
    for cell in cells:
        yield from cell if isinstance(cell, list) else [cell]


def _single(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of lists of one value at most as one of these values."""
    if not pa.types.is_list(column.type):
        return column
    return strings([cell[0] if cell else None for cell in column.to_pylist()])


def read_json_lines(path: Path, choose: Choose, encoding: str) -> Rows:
    """Read a file of one JSON object a line: numbers as they are written, lists of values as lists, nothing else nested.

    Python's json: DuckDB gives a broken line as nulls without a reason, and of a key given twice the first; pyarrow takes no
    column of numbers and texts.
    """
    if path.suffix.lower() == ".json" and start_of(path, encoding).lstrip().startswith("["):
        raise SourceError(f"{path} is one JSON array; write it as JSON Lines (.jsonl, one object a line)")
    bad: list[BadRow] = []
    nested: dict[str, list[tuple[int, str, str]]] = {}
    names: dict[str, None] = {}
    columns = CellColumns(encoding)
    number = 0

    decoder = json.JSONDecoder(
        parse_int=str, parse_float=str, parse_constant=_constant, object_pairs_hook=_Object
    )
    with path.open(encoding=encoding, errors=MARKING, newline="\n") as file:
        for line_number, line in enumerate(file, 1):
            if not line.strip():
                continue
            number += 1
            where = f"line {line_number}"
            try:
                record = decoder.decode(line.removeprefix("\ufeff") if line_number == 1 else line)
            except RecursionError:
                bad.append(BadRow(number, where, "nested too deeply"))
                continue
            except ValueError as error:
                reason = not_text(line, encoding) or f"not JSON: {error}"
                bad.append(BadRow(number, where, reason))
                continue
            if not isinstance(record, _Object):
                bad.append(BadRow(number, where, "not a JSON object"))
                continue
            twice = record.contradicting()
            if twice is not None:
                bad.append(BadRow(number, where, f"has the key {show(twice)} twice, with different values"))
                continue
            cells: dict[str, Cell] = {}
            for key, value in record.items():
                key = trim(key)
                if isinstance(value, (dict, list)) and (why := _not_cells(value)):
                    nested.setdefault(key, []).append((number, where, why))
                elif key not in names and len(names) < _MAX_COLUMNS and not not_text(key, encoding):
                    names[key] = None
                if key in names:
                    cells[key] = _json_cell(value)
            columns.add(number, where, cells, len(line))
    if number == 0:
        raise SourceError(f"{path} is empty")
    if not names and bad:
        raise SourceError(
            f"{path}: no line is a JSON object that can be read (one a line is); {bad[0].where}: {bad[0].message}"
        )

    notes = (
        [f"{path.name}: only its first {_MAX_COLUMNS} columns were read"]
        if len(names) == _MAX_COLUMNS
        else []
    )
    read = columns.rows(list(names), bad, notes)
    sample = {name: _first_values(read.table[name]) for name in names}
    lists = frozenset(name for name in names if pa.types.is_list(read.table[name].type))
    unusable = {key: rows[0][2] for key, rows in nested.items() if key not in names}
    wanted = list(choose(Header(list(names), unusable, lists=lists, sample=sample)))
    # A cell of a wanted column that cannot be read is no empty cell.
    lost = {
        row: BadRow(row, where, f"column {name!r} {why}")
        for name in wanted
        for row, where, why in nested.get(name, [])
    }
    keep = ~np.isin(read.numbers, list(lost))
    bad = sorted([*read.bad, *lost.values()], key=lambda row: row.number)
    return Rows(read.table.select(wanted).filter(pa.array(keep)), read.numbers[keep], bad, notes)


class _Object(dict[str, Any]):
    """A JSON object that remembers the keys it was given more than once."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self._pairs = pairs if len(self) < len(pairs) or any(key != trim(key) for key in self) else []

    def contradicting(self) -> str | None:
        """A key that has two different values, blanks around it not counted."""
        found: dict[str, Any] = {}
        for key, value in self._pairs:
            if found.setdefault(trim(key), value) != value:
                return trim(key)
        return None


def _constant(name: str) -> str | None:
    """NaN is no value; Infinity and -Infinity are spelt as they are in CSV and Parquet."""
    return {"Infinity": "inf", "-Infinity": "-inf"}.get(name)


def _first_values(column: pa.ChunkedArray) -> list[str]:
    cells = column.drop_null()[:SAMPLE].to_pylist()
    return [
        value for cell in cells for value in (cell if isinstance(cell, list) else [cell]) if value is not None
    ]


def _json_cell(value: Any) -> str | list[str] | None:
    """A value as text, several as a list; an object that names a picture's file is that file."""
    if isinstance(value, list):
        cells = [_json_cell(cell) for cell in value]
        return [cell for cell in cells if isinstance(cell, str)] if len(cells) < 1000 else None
    if isinstance(value, dict):
        return next((value[key] for key in _PATH_KEYS if isinstance(value.get(key), str)), None)
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _not_cells(value: dict[str, Any] | list[Any]) -> str | None:
    """Reason why a nested value cannot be read, or None."""
    if isinstance(value, list):
        if len(value) >= 1000:
            return "holds a list of 1,000 values or more"
        inner = [
            _NESTED if isinstance(cell, list) else _not_cells(cell)
            for cell in value
            if isinstance(cell, (dict, list))
        ]
        return next((why for why in inner if why), None)
    if any(isinstance(value.get(key), str) for key in _PATH_KEYS):
        return None
    if "bytes" in value:
        return "holds a picture's bytes as text; write it to a file, or the table as Parquet"
    return _NESTED + (f" (keys {', '.join(list(value)[:4])})" if value else "")


def read_parquet(path: Path, choose: Choose) -> Rows:
    """Read a Parquet file: numbers as their plain digits, several values as lists, pictures in it as their addresses."""
    try:
        with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
            check_parquet(path, file.metadata)
            return _read_parquet(path, file, choose)
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{path} is not a Parquet file that can be read: {brief(error)}") from error


def _read_parquet(path: Path, file: pq.ParquetFile, choose: Choose) -> Rows:
    schema = file.schema_arrow
    raw = {trim(name): name for name in reversed(schema.names)}
    kinds = {name: _kind(schema.field(schema.names.index(raw[name])).type) for name in raw}
    sample: dict[str, list[str]] = {}
    for name in raw:
        if kinds[name] in ("text", "bytes") and len(sample) < 100:
            kinds[name], sample[name] = _sniff_column(file, raw[name], kinds[name])
    header = Header(
        [name for name in map(trim, schema.names) if not kinds[name].startswith("holds")],
        {name: kind for name, kind in kinds.items() if kind.startswith("holds")},
        frozenset(name for name, kind in kinds.items() if kind.startswith("picture")),
        frozenset(name for name, kind in kinds.items() if kind in ("texts", "pictures")),
        sample,
    )
    wanted = list(choose(header))
    for name in wanted:
        if [trim(other) for other in schema.names].count(name) > 1:
            raise SourceError(f"{path} has several columns called {name!r}; rename one of them")
    columns: dict[str, pa.ChunkedArray] = {}
    names: dict[str, pa.ChunkedArray | None] = {}
    classes = _class_names(schema)
    notes: list[str] = []
    for name in wanted:
        if kinds[name].startswith("picture"):
            columns[name] = _addresses(path, name, file, raw[name])
            names[name] = _picture_names(path, file, raw[name])
            kind = schema.field(raw[name]).type
            if is_list(kind) and pa.types.is_struct(kind.value_type) and _path_field(kind.value_type):
                notes.append(
                    f"{path.name}: column {name!r}: names beside pictures in lists, if any, are not kept"
                )
        else:
            columns[name] = _as_strings(read_column(path, raw[name]))
            if raw[name] in classes:
                columns[name], shown = _named(columns[name], classes[raw[name]])
                notes.append(
                    f"{path.name}: column {name!r}: classes by the names that the file has for them{shown}"
                )
    keep = np.ones(file.metadata.num_rows, bool)
    for name, column in columns.items():
        try:
            column.validate(full=True)
        except pa.ArrowInvalid:
            if pa.types.is_list(column.type):
                raise
            values = [_decoded(value) for value in column.cast(pa.binary()).to_pylist()]
            keep &= np.array([value is not False for value in values], bool)
            columns[name] = pa.chunked_array([pa.array([v or None for v in values], pa.string())])
    bad = [
        BadRow(int(i) + 1, f"row {i + 1}", "holds bytes that are not utf-8") for i in np.flatnonzero(~keep)
    ]
    rows = pa.table(columns)
    mask = pa.array(keep)
    numbers = np.flatnonzero(keep) + 1
    named = {name: column.filter(mask) for name, column in names.items() if column is not None}
    return Rows(rows if keep.all() else rows.filter(mask), numbers, bad, notes, picture_names=named)


def _class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """Column of whole numbers to the names of its classes, where Hugging Face's `datasets` wrote the file."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"].items()
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return {}
    found = {}
    for name, feature in features:
        feature = feature[0] if isinstance(feature, list) and feature else feature
        feature = feature.get("feature", feature) if isinstance(feature, dict) else None
        names = feature.get("names") if isinstance(feature, dict) else None
        if not isinstance(names, list) or not all(isinstance(one, str) for one in names):
            continue
        if schema.names.count(name) == 1:
            kind = schema.field(name).type
            if pa.types.is_integer(kind.value_type if is_list(kind) else kind):
                found[name] = names
    return found


def _named(column: pa.ChunkedArray, names: list[str]) -> tuple[pa.ChunkedArray, str]:
    """Numbers of classes as their names (-1 is none), and examples for a note."""
    known: dict[str | None, str | None] = {"-1": None}
    known.update((str(i), name) for i, name in enumerate(names))
    cells = [
        [one for x in cell if (one := known.get(x, x)) is not None]
        if isinstance(cell, list)
        else known.get(cell, cell)
        for cell in column.to_pylist()
    ]
    shown = ", ".join(f"{i} is {show(name)}" for i, name in enumerate(names[:3]))
    return pa.chunked_array([pa.array(cells, column.type)]), f": {shown}{', ...' if len(names) > 3 else ''}"


def _kind(kind: pa.DataType) -> str:
    """Kind of a column: "text", "texts", "bytes", "picture", "pictures", "paths", or why it cannot be used."""
    kind = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    if is_list(kind):
        inner = _kind(kind.value_type)
        return {"text": "texts", "picture": "pictures", "bytes": "pictures"}.get(inner, _NESTED + " in lists")
    if holds_pictures(kind):
        return "picture" if pa.types.is_struct(kind) else "bytes"
    if pa.types.is_struct(kind):
        if _path_field(kind) is not None:
            return "text"
        return f"{_NESTED} (fields {', '.join(field.name for field in list(kind)[:4])})"
    return _NESTED if pa.types.is_nested(kind) else "text"


def _path_field(kind: pa.StructType) -> str | None:
    """Field of a struct that tells a picture's path."""
    found = (
        name
        for name in _PATH_KEYS
        if (at := kind.get_field_index(name)) >= 0 and _is_text(kind.field(at).type)
    )
    return next(found, None)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _sniff_column(file: pq.ParquetFile, name: str, kind: str) -> tuple[str, list[str]]:
    """Kind of a column of text or bytes, and its first values: bytes may be pictures, text, or neither."""
    cells: list[bytes] = []
    for rows, batch in enumerate(file.iter_batches(SAMPLE, columns=[name], use_threads=False), 1):
        found = batch.column(0)
        if kind == "text" and not _is_text(found.type):
            return kind, []
        fresh = [cell for cell in found.cast(pa.large_binary()).to_pylist() if cell]
        if kind == "bytes" and any(image_format(cell[:SNIFFED]) for cell in fresh):
            return "picture", []
        cells += fresh
        # Downloads that failed may stand before the first picture.
        if (len(cells) >= SAMPLE and kind == "text") or (cells and rows * SAMPLE >= _LOOKED_AT):
            break
    values = [_decoded(cell) for cell in cells]
    if kind == "bytes" and (not cells or any(value is False for value in values)):
        return "holds raw bytes that are no pictures; write images to files and give their paths", []
    return "text", [value for value in values if value]


def _addresses(path: Path, column: str, file: pq.ParquetFile, raw: str) -> pa.ChunkedArray:
    """Address of each picture of a column, or the path that stands in its place; null where there is neither."""
    cells: list[str | list[str] | None] = []
    for group in range(file.num_row_groups):
        if _none_missing(file.metadata.row_group(group), raw):
            rows = file.metadata.row_group(group).num_rows
            cells += [address(path.name, column, len(cells) + i + 1) for i in range(rows)]
            continue
        for batch in file.iter_batches(64, row_groups=[group], columns=[raw], use_threads=False):
            first = len(cells) + 1
            for row, places in enumerate(_places(batch.column(0)), first):
                if isinstance(places, list):
                    named = [
                        address(path.name, column, row, n) if place is True else place
                        for n, place in enumerate(places, 1)
                    ]
                    cells.append([cell for cell in named if isinstance(cell, str)] or None)
                else:
                    cells.append(address(path.name, column, row) if places is True else places)
    return _one_or_several(cells)


def _none_missing(group: Any, raw: str) -> bool:
    """Whether the statistics of a row group say that every row has a picture, so that none need be looked at."""
    leaves = {group.column(i).path_in_schema: group.column(i).statistics for i in range(group.num_columns)}
    found = leaves.get(raw, leaves.get(f"{raw}.bytes"))
    return found is not None and found.has_null_count and found.null_count == 0


def _places(cells: pa.Array) -> list[Any]:
    """For each cell True where it holds a picture, else the path that it names, or None; lists for lists."""
    if isinstance(cells.type, pa.BaseExtensionType):
        cells = cells.storage
    if is_list(cells.type):
        inner, at, rows = _places(pc.list_flatten(cells)), 0, []
        for length in pc.list_value_length(cells).to_pylist():
            rows.append(None if length is None else inner[at : at + length])
            at += length or 0
        return rows
    if not pa.types.is_struct(cells.type):
        return [True if there else None for there in cells.is_valid().to_pylist()]
    there = pc.struct_field(cells, "bytes").is_valid().to_pylist()
    name = _path_field(cells.type)
    paths = pc.struct_field(cells, name).to_pylist() if name and not all(there) else [None] * len(there)
    return [True if has else path for has, path in zip(there, paths, strict=True)]


def _one_or_several(cells: list[Any]) -> pa.ChunkedArray:
    """Cells of strings and lists of strings as one column: lists only where a row has several."""
    several = any(isinstance(cell, list) and len(cell) > 1 for cell in cells)
    if several:
        cells = [[cell] if isinstance(cell, str) else cell for cell in cells]
    else:
        cells = [(cell[0] if cell else None) if isinstance(cell, list) else cell for cell in cells]
    return pa.chunked_array([pa.array(cells, LIST if several else pa.string())])


def _picture_names(path: Path, file: pq.ParquetFile, raw: str) -> pa.ChunkedArray | None:
    """The paths that a column of pictures keeps beside their bytes."""
    kind = file.schema_arrow.field(raw).type
    name = _path_field(kind) if pa.types.is_struct(kind) else None
    if name is None:
        return None
    names = pc.struct_field(read_column(path, f"{raw}.{name}"), name).cast(pa.string())
    try:
        names.validate(full=True)
    except pa.ArrowInvalid:  # bytes that are no text: the pictures are there all the same
        return None
    return names if names.null_count < len(names) else None


def _as_strings(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Column as strings, the way a person would write its values; lists where a row has several."""
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        column = pa.chunked_array([chunk.storage for chunk in column.chunks], kind.storage_type)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if is_list(kind):
        values = iter(
            _as_strings(
                pa.chunked_array([pc.list_flatten(chunk) for chunk in column.chunks], kind.value_type)
            ).to_pylist()
        )
        lengths = pc.list_value_length(column).to_pylist()
        rows = [
            None if n is None else [v for _ in range(n) if (v := next(values)) is not None] for n in lengths
        ]
        return _one_or_several(rows)
    if pa.types.is_struct(kind):
        return pc.struct_field(column, _path_field(kind)).cast(pa.string())
    if pa.types.is_floating(kind):
        return _float_strings(column)
    return column.cast(options=pc.CastOptions(pa.string(), allow_invalid_utf8=True))


def _float_strings(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Floats as text: whole numbers as their digits, where the type holds every whole number up to them.

    pandas makes integers with a missing value floats, and "1.0" would be another id than "1". Beyond, digits are lost: such
    a number is written in scientific notation, with fewer digits than it would have as an integer.
    """
    bits = {16: 11, 32: 24, 64: 53}[column.type.bit_width]
    column = pc.if_else(pc.is_nan(column), None, column)
    shortest = column.cast(pa.float32() if bits == 11 else column.type).cast(pa.string())
    column = column.cast(pa.float64())
    whole = pc.equal(pc.floor(column), column)
    exact = pc.and_(whole, pc.less(pc.abs(column), 2.0**bits))
    digits = pc.if_else(exact, column, None).cast(pa.int64()).cast(pa.string())
    lost = pc.fill_null(pc.and_not(whole, exact), False)
    text = pc.coalesce(digits, shortest)
    if not pc.any(lost).as_py():
        return text
    values = zip(column.to_pylist(), text.to_pylist(), lost.to_pylist(), strict=True)
    places = {11: 2, 24: 6, 53: 15}[bits]
    return pa.chunked_array(
        [pa.array([f"{v:.{places}e}" if gone else t for v, t, gone in values], pa.string())]
    )


def _decoded(value: bytes | None) -> str | Literal[False] | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return False


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
