"""Rows of a source: Arrow columns of strings, and bad rows with their places."""

from __future__ import annotations

import codecs
import os
import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

#: Columns of the items table that a label or metadata column cannot be called.
RESERVED = (
    "item_id", "path", "root", "source", "text", "image_sha256", "text_sha256", "width", "height", "format", "bytes",
    "mtime_ns", "phash", "split", "missing", "added",
)  # fmt: skip
#: Columns of a manifest, before those of labels and metadata.
FIXED = ("item_id", "path", "root", "source", "text", "split")
REJECTED_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("item_id", "path", "stage", "error", "message")]
)

#: Id to report it under, image path, message.
Rejected = tuple[str, str | None, str]


@dataclass
class SourceResult:
    """Result of reading one source: a table of `FIXED`, labels and metadata, all strings.

    `numbers` are the rows' numbers in an annotation file, None for images found on disk. Columns in
    `from_folders` are told by folders' names only: another source's value goes before.
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


def path_below(path: str, root: str) -> str | None:
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


def listed(names: Sequence[str], most: int) -> str:
    """Names for a message, of many the first: "a, b and 3 more"."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


Quotes = Literal["auto", "csv", "literal"]


@dataclass(frozen=True)
class Header:
    """Columns of a file, known before its rows are read.

    Their names, and those that cannot be used with the reason.

    `pictures` hold pictures themselves, not paths; `lists` several values a row; `sample` has the first values
    of text columns.
    """

    columns: list[str]
    unusable: Mapping[str, str] = field(default_factory=dict)
    pictures: frozenset[str] = frozenset()
    lists: frozenset[str] = frozenset()
    sample: Mapping[str, list[str]] = field(default_factory=dict)


#: Called with the file's header; answers with the columns to read.
Choose = Callable[[Header], Sequence[str]]


def _mark(error: UnicodeError) -> tuple[str, int]:
    # Lone surrogates neither come out of a decoder nor go into Arrow: they mark bytes that are not in the file's encoding.
    if isinstance(error, UnicodeDecodeError):
        return "".join(chr(0xDC00 + byte) for byte in error.object[error.start : error.end]), error.end
    raise error


# Bytes that Windows' encoding has for quotes, dashes and the euro sign, where Latin-1 has control characters.
_MARKED = re.compile("[\udc80-\udcff]")
_CP1252 = re.compile("[\udc80\udc82-\udc8c\udc8e\udc91-\udc9c\udc9e\udc9f]")

#: Rows at the beginning of a file that show what a column holds.
SAMPLE = 20

#: Error handler for `open`: bytes that cannot be decoded become marks, which `CellColumns` finds.
MARKING = "icehouse-mark"
codecs.register_error(MARKING, _mark)


@dataclass(frozen=True)
class BadRow:
    """A row that could not be read: its number (from 1), where that is ("line 7"), and why."""

    number: int
    where: str
    message: str


@dataclass
class Rows:
    """Rows of one file: the chosen columns (strings or lists of strings) of those that could be read, and the bad rows.

    `numbers` counts from 1, header and blank lines not counted. A picture in the file is its address
    (`image_files`), and `picture_names` has the file names kept beside their bytes.
    """

    table: pa.Table
    numbers: np.ndarray
    bad: list[BadRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    picture_names: dict[str, pa.ChunkedArray] = field(default_factory=dict)


def not_text(cell: str | None, encoding: str) -> str | None:
    """Reason why the cell cannot be stored, or None."""
    if cell is None or not any("\ud800" <= char <= "\udfff" for char in cell):
        return None
    if _MARKED.search(cell):
        name = encoding.removesuffix("-sig")
        if name == "utf-8" and _CP1252.search(cell):
            likely = "look like cp1252 (Windows); give --encoding cp1252 or save it as UTF-8"
            return f"holds bytes that are not utf-8 but {likely}"
        other = "latin-1 or save it as UTF-8" if name == "utf-8" else "utf-8"
        return f"holds bytes that are not {name}; if the file is in another encoding, give --encoding {other}"
    return "holds half a surrogate pair (\\ud800 to \\udfff alone), which is no text"


def start_of(path: Path, encoding: str) -> str:
    """The first 64 Ki characters, line ends as they are."""
    with path.open(encoding=encoding, errors=MARKING, newline="") as file:
        return file.read(1 << 16)
