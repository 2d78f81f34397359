"""What every kind of source gives: a table of the same columns, and the rows that could not be taken."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

__all__ = [
    "FIXED",
    "REJECTED_SCHEMA",
    "RESERVED",
    "Piece",
    "Rejected",
    "absolute",
    "beneath",
    "count",
    "items_table",
    "rejected_table",
    "short",
    "show",
]

#: Columns of the items table that a label or metadata column cannot be called.
RESERVED = (
    "item_id",
    "path",
    "root",
    "source",
    "text",
    "image_sha256",
    "text_sha256",
    "width",
    "height",
    "format",
    "bytes",
    "mtime_ns",
    "phash",
    "split",
    "missing",
    "added",
)
#: Columns of a manifest, before those of labels and metadata.
FIXED = ("item_id", "path", "root", "source", "text", "split")
REJECTED_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("item_id", "path", "stage", "error", "message")]
)

#: Id to report it under, image path, message.
Rejected = tuple[str, str | None, str]


@dataclass
class Piece:
    """What one source gave.

    Attributes
    ----------
    source : str
        As the user named it.
    table : pyarrow.Table
        `FIXED`, then labels and metadata, all strings.
    numbers : numpy.ndarray of int64 or None
        Each row's number in an annotation file; None for images found on disk.
    rejected : list of Rejected
    notes : list of str
    from_folders : tuple of str
        Columns that only the names of folders tell: another source's value goes before.
    """

    source: str
    table: pa.Table
    numbers: np.ndarray | None = None
    rejected: list[Rejected] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    from_folders: tuple[str, ...] = ()


def items_table(
    ids: Any, path: Any, root: Any, source: Any, text: Any, split: Any, kept: Mapping[str, Any]
) -> pa.Table:
    """Table of `FIXED` and `kept`; a column given as one value, or None, is repeated."""
    n = len(ids)
    columns = dict(zip(FIXED, (ids, path, root, source, text, split), strict=True)) | dict(kept)
    for name, column in columns.items():
        if column is None or isinstance(column, str):
            columns[name] = pa.nulls(n, pa.string()) if column is None else pa.repeat(column, n)
    table = pa.table(columns)
    kinds = [(f.name, f.type if pa.types.is_list(f.type) else pa.string()) for f in table.schema]
    return table.cast(pa.schema(kinds))


def rejected_table(rejected: list[Rejected]) -> pa.Table:
    """Rows of `REJECTED_SCHEMA`."""
    n = len(rejected)
    columns = (
        [item for item, _, _ in rejected],
        [path for _, path, _ in rejected],
        ["manifest"] * n,
        ["SourceError"] * n,
        [message for _, _, message in rejected],
    )
    return pa.table([pa.array(column, pa.string()) for column in columns], schema=REJECTED_SCHEMA)


def absolute(path: str | Path) -> str:
    """Absolute path with "/" between the parts; links are not followed, so that it stays the user's own."""
    return Path(os.path.abspath(path)).as_posix()  # noqa: PTH100  (resolve() would follow links)


def beneath(path: str, root: str) -> str | None:
    """Part of an absolute path that lies below `root`, or None; also tried with the root's links followed."""
    for base in (root, None):
        base = (base or Path(os.path.realpath(root)).as_posix()).rstrip("/") + "/"
        if path.startswith(base) and len(path) > len(base):
            return posixpath.normpath(path[len(base) :])
    return None


def short(value: str, most: int = 200) -> str:
    """Beginning of a long value."""
    return value if len(value) <= most else value[: most - 1] + "…"


def show(value: str) -> str:
    """Value for a message: one line, control characters escaped, not too long."""
    return repr(short(value, 80))


def count(n: int, noun: str) -> str:
    """Number and noun, in the plural where due."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
