"""Image files by path, on disk or inside a Parquet file: their bytes, size and time.

A picture in a Parquet file (raw bytes, or `struct{bytes, path}` as Hugging Face writes it) has the address
``FILE.parquet#COLUMN:ROW``, or ``FILE.parquet#COLUMN:ROW:PLACE`` in a list of pictures, rows and places counted from 1. It
stands wherever a path does, in the items' column `path` above all. Every reader of a picture's bytes goes through this
module, so that nothing else has to know. Nothing is copied out of the file, which is read a few pictures at a time.
"""

from __future__ import annotations

import os
import re
import stat
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..errors import ImageError, SourceError, brief
from .bombs import check_parquet
from .labels import trim

__all__ = ["FileStatus", "address", "container", "exists", "holds_pictures", "is_list", "read", "status"]

#: Files beyond this size are refused: nothing that is an image for an encoder weighs so much.
MAX_BYTES = 512 * 1024 * 1024

_ADDRESS = re.compile(
    r"(?P<file>.+\.parquet)#(?P<column>[^#/:]+):(?P<row>[1-9]\d*)(?::(?P<place>[1-9]\d*))?",
    re.IGNORECASE | re.DOTALL,
)
_BATCH_ROWS = 8
_HELD_BYTES = 256 * 1024 * 1024
_OPEN_COLUMNS = 8


@dataclass(frozen=True, slots=True)
class FileStatus:
    """Size in bytes (None for a picture in a Parquet file, whose size shows when it is read) and time of change."""

    size: int | None
    mtime_ns: int

    def fits(self, size: int | None, mtime_ns: int | None) -> bool:
        """Whether a file that had this size and time looks unchanged."""
        return mtime_ns == self.mtime_ns and (self.size is None or size == self.size)


def address(file: str, column: str, row: int, place: int | None = None) -> str:
    """Address of a picture in a Parquet file; see the module's docstring."""
    quoted = re.sub(r"[%#/:\\\x00-\x1f]", lambda found: f"%{ord(found[0]):02X}", column)
    return f"{file}#{quoted}:{row}" + ("" if place is None else f":{place}")


def container(path: str | Path) -> Path | None:
    """The Parquet file of a picture's address; None where the path is a file's own."""
    found = _parse(path)
    return None if found is None else found[0]


def status(path: str | Path) -> FileStatus:
    """Size and time of an image file; OSError where there is no such file, or no such row in it."""
    found = _parse(path)
    if found is None:
        about = Path(path).stat()
        return FileStatus(about.st_size, about.st_mtime_ns)
    file, column, row, _ = found
    about = file.stat()
    if not _column(file, column).has(row):
        raise FileNotFoundError(2, "No such row", str(path))
    return FileStatus(None, about.st_mtime_ns)


def exists(path: str | Path) -> bool:
    """Whether there is such a file, or such a row in it."""
    try:
        status(path)
    except (OSError, ValueError, ImageError):
        return False
    return True


def read(path: str | Path) -> tuple[bytes, FileStatus]:
    """Read an image file whole; its size is that of the picture.

    ImageError: no regular file, larger than `MAX_BYTES`, or no picture at that place of a Parquet file.
    OSError: unreadable.
    """
    found = _parse(path)
    if found is not None:
        file, column, row, place = found
        mtime_ns = file.stat().st_mtime_ns
        data = _column(file, column).read(row, place)
        return data, FileStatus(len(data), mtime_ns)
    # Opened without blocking: a named pipe called cat.jpg must not hang the run.
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except ValueError as error:  # a NUL in a path
        raise ImageError(f"no path that a file can have: {error}") from None
    with os.fdopen(descriptor, "rb") as handle:
        about = os.fstat(handle.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise ImageError("a folder" if stat.S_ISDIR(about.st_mode) else "not a regular file")
        if about.st_size > MAX_BYTES:
            raise ImageError(f"{about.st_size:,} bytes: larger than the {MAX_BYTES:,} an image may have")
        return handle.read(), FileStatus(about.st_size, about.st_mtime_ns)


def _parse(path: str | Path) -> tuple[Path, str, int, int | None] | None:
    text = os.fspath(path)
    if "#" not in text:
        return None
    found = _ADDRESS.fullmatch(text)
    if found is None or os.path.lexists(text):
        return None
    column = re.sub(r"%([0-9A-F]{2})", lambda code: chr(int(code[1], 16)), found["column"])
    place = found["place"]
    return Path(found["file"]), column, int(found["row"]), None if place is None else int(place)


def holds_pictures(kind: pa.DataType) -> bool:
    """Whether a Parquet column's type may hold pictures: bytes, a struct with `bytes`, or lists of these."""
    if is_list(kind):
        kind = kind.value_type
    if pa.types.is_struct(kind):
        at = kind.get_field_index("bytes")
        return at >= 0 and is_bytes(kind.field(at).type)
    return is_bytes(kind)


def is_bytes(kind: pa.DataType) -> bool:
    """Whether a type is raw bytes, of any width."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
        or pa.types.is_binary_view(kind)
    )


def is_list(kind: pa.DataType) -> bool:
    """Whether a type is a list, of any width."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _leaf(schema: pa.Schema, column: str) -> str | None:
    """Parquet path of a column's bytes; None where it holds no pictures."""
    for field in schema:
        if trim(field.name) == column and holds_pictures(field.type):
            return f"{field.name}.bytes" if pa.types.is_struct(field.type) else str(field.name)
    return None


class _Column:
    """Pictures of one column of a Parquet file, read on from wherever the last one was, the latest ones held."""

    def __init__(self, file: Path, column: str) -> None:
        import pyarrow.parquet as pq

        self.lock = threading.Lock()
        self._column = column
        self._parquet = pq.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False)
        check_parquet(file, self._parquet.metadata)
        self._leaf = _leaf(self._parquet.schema_arrow, column)
        self._rows = self._parquet.metadata.num_rows
        self._batches: Iterator[Any] = iter(())
        self._next = -1
        self._held: OrderedDict[int, Any] = OrderedDict()

    def has(self, row: int) -> bool:
        return self._leaf is not None and row <= self._rows

    def read(self, row: int, place: int | None) -> bytes:
        """The picture's bytes; raises ImageError where there is none."""
        if not self.has(row):
            raise ImageError(f"its Parquet file has no row {row} of pictures {self._column!r}")
        with self.lock:
            try:
                cell = self._cell(row - 1)
            except (pa.ArrowException, OSError, StopIteration) as error:
                self._next = -1
                raise ImageError(f"row {row} of {self._column!r} cannot be read: {brief(error)}") from error
        if isinstance(cell, list) or place is not None:
            cell = cell[place - 1] if isinstance(cell, list) and place and place <= len(cell) else None
        data = cell.get("bytes") if isinstance(cell, dict) else cell
        if data is None:
            raise ImageError(f"row {row} of {self._column!r} holds no picture")
        if len(data) > MAX_BYTES:
            raise ImageError(f"{len(data):,} bytes: larger than the {MAX_BYTES:,} an image may have")
        return bytes(data)

    def _cell(self, row: int) -> Any:
        start = next(
            (start for start, batch in self._held.items() if start <= row < start + len(batch)), None
        )
        if start is None:
            group, first = self._group(row)
            if not first <= self._next <= row:
                groups = list(range(group, self._parquet.num_row_groups))
                self._batches, self._next = (
                    self._parquet.iter_batches(
                        _BATCH_ROWS, row_groups=groups, columns=[self._leaf], use_threads=False
                    ),
                    first,
                )
            while start is None:
                batch = next(self._batches).column(0)
                if self._next <= row < self._next + len(batch):
                    start = self._next
                self._hold(self._next, batch)
                self._next += len(batch)
        return self._held[start][row - start].as_py()

    def _group(self, row: int) -> tuple[int, int]:
        """Row group of a row, and the first row of that."""
        first = 0
        for group in range(self._parquet.num_row_groups):
            rows = self._parquet.metadata.row_group(group).num_rows
            if row < first + rows:
                return group, first
            first += rows
        raise IndexError(row)

    def _hold(self, start: int, batch: Any) -> None:
        self._held[start] = batch
        self._held.move_to_end(start)
        while len(self._held) > 1 and sum(held.nbytes for held in self._held.values()) > _HELD_BYTES:
            self._held.popitem(last=False)


_columns: OrderedDict[tuple[Any, ...], _Column] = OrderedDict()
_columns_lock = threading.Lock()


def _column(file: Path, column: str) -> _Column:
    """The opened column, again if the file has changed since."""
    about = file.stat()
    # The time of the last change of any kind shows a file that was rewritten with its size and time kept.
    key = (str(file), column, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)
    with _columns_lock:
        found = _columns.get(key)
        if found is None:
            try:
                found = _Column(file, column)
            except SourceError as error:
                raise ImageError(str(error)) from None
            except (pa.ArrowException, OSError) as error:
                raise ImageError(f"{file} is not a Parquet file that can be read") from error
            _columns[key] = found
            while len(_columns) > _OPEN_COLUMNS:
                _columns.popitem(last=False)
        _columns.move_to_end(key)
        return found
