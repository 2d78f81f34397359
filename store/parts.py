"""Parquet parts: how rows become a file, and a file rows.

Vectors are written plain: no dictionary, no compression, no statistics. They do not compress, and the defaults make
reading them back ten times as slow.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import CorruptError, StoreError
from .files import fsync_file, temp_name

__all__ = ["ROW_GROUP", "Staged", "conform", "iter_part", "read_part", "write_part"]

#: Rows of a row group in parts that hold vectors.
ROW_GROUP = 16_384


@dataclass(frozen=True)
class Staged:
    """A part that is written and on the medium, but not yet named by a manifest."""

    path: Path
    rows: int
    bytes: int
    sha256: str


def is_vectors(kind: pa.DataType) -> bool:
    """Whether a column of this type holds vectors or tokens."""
    if pa.types.is_list(kind):
        kind = kind.value_type
    return pa.types.is_fixed_size_list(kind)


def write_part(rows: pa.Table, folder: Path, spec: Mapping[str, Any]) -> Staged:
    """Write `rows` under a temporary name in `folder`, and wait until they are on the medium."""
    path = folder / temp_name(".parquet")
    # A lone part should still say what it is; the probe's vectors would only bloat it.
    about = json.dumps({key: value for key, value in spec.items() if key != "probe"}, ensure_ascii=False)
    rows = rows.replace_schema_metadata({"icehouse": about})
    options: dict[str, Any] = {"compression": "zstd"}
    if any(is_vectors(field.type) for field in rows.schema):
        options = {
            "compression": "none",
            "use_dictionary": False,
            "write_statistics": False,
            "row_group_size": ROW_GROUP,
        }
    try:
        pq.write_table(rows, path, **options)
        fsync_file(path)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return Staged(path, rows.num_rows, path.stat().st_size, digest)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise StoreError(f"cannot write to {folder}: {error.strerror or error}") from error
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def read_part(path: Path, schema: pa.Schema) -> pa.Table:
    """Read the columns of `schema` from a part; one that the part lacks comes as nulls.

    Raises
    ------
    FileNotFoundError
        If the part is gone.
    CorruptError
        If it is not readable as Parquet.
    """
    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            return _fill(file.read(columns=schema.names), schema)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from error


def iter_part(path: Path, schema: pa.Schema, batch_rows: int = ROW_GROUP) -> Iterator[pa.RecordBatch]:
    """Read a part as `read_part` does, at most `batch_rows` rows at a time."""
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_rows, columns=schema.names):
                yield from _fill(pa.Table.from_batches([batch]), schema).to_batches()
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> CorruptError:
    first = str(error).splitlines()[0] if str(error) else type(error).__name__
    return CorruptError(f"{path} cannot be read ({first}); `icehouse verify` lists what else is damaged")


def _fill(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    names = set(rows.column_names)
    columns = [
        rows[field.name] if field.name in names else pa.nulls(rows.num_rows, field.type) for field in schema
    ]
    if not columns:
        return rows.select([])
    columns = [
        column if column.type == field.type else column.cast(field.type)
        for column, field in zip(columns, schema, strict=True)
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def conform(rows: pa.Table, schema: pa.Schema, *, only: Sequence[str] | None = None) -> pa.Table:
    """Bring `rows` to a table's column order and types, its new columns last.

    Parameters
    ----------
    rows : pyarrow.Table
    schema : pyarrow.Schema
        The table's.
    only : sequence of str, optional
        Columns that an upsert brings; without it, a column of `schema` that `rows` lacks is filled with nulls.

    Raises
    ------
    StoreError
        If a column cannot be cast to the table's type without loss, a required one is absent or has nulls,
        or two names differ in letter case only (SQL would take them for one).
    """
    _refuse_clashes(rows.column_names, schema)
    columns, fields = [], []
    for field in schema:
        if field.name in rows.column_names:
            columns.append(_cast(rows[field.name], field))
        elif only is None:
            if not field.nullable and rows.num_rows:
                raise StoreError(f"the rows lack the column {field.name!r}, which this table requires")
            columns.append(pa.nulls(rows.num_rows, field.type))
        else:
            continue
        fields.append(field)
    for field in rows.schema:
        if field.name not in schema.names:
            field = pa.field(field.name, _plain(field.type))
            columns.append(_cast(rows[field.name], field))
            fields.append(field)
    return pa.Table.from_arrays(columns, schema=pa.schema(fields))


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type a new column gets: no dictionaries or wide strings, which depend on the library that made the rows."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_null(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    return kind


def _cast(column: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    if not field.nullable and column.null_count:
        raise StoreError(f"column {field.name!r} has nulls, which this table does not allow there")
    if column.type == field.type:
        return column
    try:
        return column.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        reason = str(error).splitlines()[0]
        raise StoreError(
            f"column {field.name!r} is {column.type}, this table has {field.type} there: {reason}"
        ) from error


def _refuse_clashes(names: Sequence[str], schema: pa.Schema) -> None:
    known = {name.lower(): name for name in schema.names}
    seen: set[str] = set()
    for name in names:
        lower = name.lower()
        if lower in seen or known.get(lower, name) != name:
            raise StoreError(
                f"column {name!r} is already there as {known.get(lower, name)!r}: rename it (SQL ignores letter case)"
            )
        seen.add(lower)
