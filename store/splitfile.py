"""Splits in a file, as `icehouse join` takes them: ``item_id`` and a column."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from ..errors import UsageError
from .results import save
from .schema import RESERVED

__all__ = ["check_target", "write_splits"]

#: What `icehouse join` reads, of what can be written.
_SUFFIXES = (".csv", ".parquet", ".pq")


def check_target(column: str, schema: pa.Schema, path: Path | None = None) -> None:
    """Make sure that `items` of this schema can have splits in a column of this name, brought by this file if any.

    Raises
    ------
    UsageError
        If the name is empty, one that icehouse fills itself, or there in other letter case; or if the file's name says that
        it is none which `icehouse join` reads.
    """
    if path is not None and path.suffix.lower() not in _SUFFIXES:
        raise UsageError(f"{path} is for `icehouse join`: name it .csv or .parquet")
    if not column.strip():
        raise UsageError("the column needs a name that is not empty")
    if column.lower() in RESERVED and column != "split":
        raise UsageError(f"icehouse fills the column {column!r} itself; choose another name")
    there = next((name for name in schema.names if name.lower() == column.lower()), column)
    if there != column:
        raise UsageError(f"column {column!r} is already there as {there!r}, and SQL ignores letter case")


def write_splits(path: Path, items: pa.Array | pa.ChunkedArray, column: str, values: np.ndarray) -> None:
    """Write a split for each of `items`; see `check_target`.

    Raises
    ------
    StoreError
        If it cannot be written.
    """
    save(pa.table({"item_id": items.cast(pa.string()), column: pa.array(values, pa.string())}), path)
