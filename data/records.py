"""JSON Lines and Parquet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..errors import SourceError
from .rows import (
    CHUNK_CHARS,
    CHUNK_ROWS,
    MARKING,
    BadRow,
    Choose,
    Rows,
    StringColumns,
    not_text,
    one_line,
    start_of,
)

__all__ = ["read_json_lines", "read_parquet"]

_MAX_COLUMNS = 1000


def read_json_lines(path: Path, choose: Choose, encoding: str) -> Rows:
    """Read a file of one JSON object a line; nested values are left out, numbers stay as they are written."""
    if path.suffix.lower() == ".json" and start_of(path, encoding).lstrip().startswith("["):
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
        columns = StringColumns(keys, encoding)
        for place, where, record in held:
            columns.add(place, where, [_json_cell(record.get(key)) for key in keys])
        part = columns.rows([], [])
        bad.extend(part.bad)
        chunks.append((dict(zip(keys, part.table.columns, strict=True)), part.numbers))
        held, chars = [], 0

    with path.open(encoding=encoding, errors=MARKING, newline="\n") as file:
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
                reason = not_text(line, encoding) or f"not JSON: {error}"
                bad.append(BadRow(number, where, reason))
                continue
            if not isinstance(record, dict):
                bad.append(BadRow(number, where, "not a JSON object"))
                continue
            for key, value in record.items():
                if isinstance(value, (dict, list)):
                    nested.setdefault(key, "holds nested values")
                elif key not in names and len(names) < _MAX_COLUMNS and not not_text(key, encoding):
                    names[key] = None
            held.append((number, where, record))
            chars += len(line)
            if len(held) >= CHUNK_ROWS or chars > CHUNK_CHARS:
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


def read_parquet(path: Path, choose: Choose) -> Rows:
    """Read a Parquet file; integers, also those that pandas made floats, become their plain digits."""
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
        raise SourceError(f"{path} is not a Parquet file that can be read: {one_line(error)}") from error
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
