"""Results of SQL on screen and in files."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..console import EXCEL_SAFE, Screen
from ..errors import StoreError, UsageError
from .files import publish

__all__ = [
    "FORMATS",
    "csv_cells",
    "csv_table",
    "json_values",
    "print_csv",
    "save",
    "screen_rows",
]

#: Formats that `save` writes, by file suffix.
FORMATS = {".csv": "csv", ".json": "json", ".parquet": "parquet", ".pq": "parquet"}

# Signs that begin a formula, full-width ones too, and white space that spreadsheets skip before them.
_FORMULA = re.compile(r"[\t\r\n]|\s*[=+\-@＝＋－＠]")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")

_SHOWN = 4


def json_values(rows: pa.Table) -> list[dict[str, Any]]:
    """Give each row as a mapping of JSON values: dates in ISO format, numbers as numbers, bytes in hexadecimal."""
    names = rows.column_names
    return [dict(zip(names, map(_plain, values), strict=True)) for values in _rows(rows)]


def screen_rows(rows: pa.Table) -> Iterator[list[Any]]:
    """Give the cells of each row for a table on screen; of a long list the first numbers and its length."""
    for values in _rows(rows):
        yield [_cell(value) for value in values]


def print_csv(rows: pa.Table, file: IO[str] | Screen) -> None:
    """Write `rows` as CSV; lists and structures as JSON."""
    plain = csv.writer(file, lineterminator="\n")
    # With this line end the writer leaves a carriage return unquoted, at which readers begin a new row.
    quoted = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)

    def write(cells: list[Any]) -> None:
        returns = any(isinstance(cell, str) and "\r" in cell for cell in cells)
        (quoted if returns else plain).writerow(cells)

    write(csv_cells(rows.column_names))
    for values in _rows(rows):
        cells = map(_plain, values)
        write(
            csv_cells(json.dumps(v, ensure_ascii=False) if isinstance(v, (list, dict)) else v for v in cells)
        )


def csv_cells(values: Iterable[Any]) -> list[Any]:
    """Cells of a CSV row; under `EXCEL_SAFE`, texts that a spreadsheet would run as a formula begin with ``'``.

    What is a number stays one, also as text.
    """
    return (
        [_guarded(value) if isinstance(value, str) else value for value in values]
        if EXCEL_SAFE.get()
        else list(values)
    )


def csv_table(rows: pa.Table) -> pa.Table:
    """`rows` with `csv_cells` applied to its columns of text."""
    if not EXCEL_SAFE.get():
        return rows
    for at, field in enumerate(rows.schema):
        if pa.types.is_string(field.type):
            rows = rows.set_column(
                at, field.name, pa.array(csv_cells(rows[field.name].to_pylist()), pa.string())
            )
    return rows.rename_columns(csv_cells(rows.column_names))


def _guarded(text: str) -> str:
    if not _FORMULA.match(text) or _NUMBER.fullmatch(text):
        return text
    return f"'{text}"


def save(rows: pa.Table, path: Path, kind: str | None = None) -> None:
    """Write `rows` to `path`, whole or not at all.

    Parameters
    ----------
    rows : pyarrow.Table
    path : Path
    kind : {"csv", "json", "parquet"}, optional
        Told by the suffix of `path` unless given.

    Raises
    ------
    UsageError
        If the format cannot be told.
    StoreError
        If `path` cannot be written.
    """
    kind = kind or FORMATS.get(path.suffix.lower())
    if kind not in FORMATS.values():
        raise UsageError(f"cannot tell the format of {path}: use .csv, .json or .parquet, or --format")
    try:
        with publish(path) as temp:
            if kind == "parquet":
                pq.write_table(rows, temp, compression="zstd")
                return
            with temp.open("w", encoding="utf-8", newline="") as file:
                if kind == "csv":
                    print_csv(rows, file)
                else:
                    json.dump(json_values(rows), file, indent=2, ensure_ascii=False)
                    file.write("\n")
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror or error}") from error


def _rows(rows: pa.Table) -> Iterator[tuple[Any, ...]]:
    # By position: a result may have two columns of one name, which `to_pylist` refuses.
    for batch in rows.to_batches(max_chunksize=4096):
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (str, bool, int)):
        return value
    return str(value)


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        shown = ", ".join(str(_cell(item)) for item in value[:_SHOWN])
        return f"[{shown}]" if len(value) <= _SHOWN else f"[{shown}, … {len(value)} in all]"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="seconds")
    return value
