"""Identity of items' files: which are there as they were embedded, which are links, which are one file by several names.

A file is known by its device and inode, so that two roots, a hard link, a symbolic link, a linked or bound folder and
another letter case lead to one file; where a file system has no inodes, by its real path.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..data import image_files
from ..errors import ImageError

__all__ = ["CHANGED", "GONE", "LINK", "NONE", "THERE", "Files", "item_files", "whole_files"]

#: States of an item's file: the item has none of its own, it is there, it is another one than was embedded, it is gone.
NONE, THERE, CHANGED, GONE = range(4)

#: Kinds of paths besides real ones (0): through a linked folder, and a symbolic link itself.
_THROUGH, LINK = 1, 2

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Files:
    """What lies at the paths of some items."""

    state: np.ndarray  # int8 (n,): `NONE`, `THERE`, `CHANGED` or `GONE`
    #: int64 (n,): Equal for paths that lead to one file, or to one picture in a Parquet file; -1 where
    #: there is none
    number: np.ndarray
    link: np.ndarray  # int8 (n,): 0 for a real path, 1 for one through a linked folder, 2 for a symbolic link
    #: Whether any file, or folder of one, is there; where none is, the store lies on another machine than
    #: its pictures
    seen: bool

    @classmethod
    def look(
        cls,
        files: pa.Array | pa.ChunkedArray,
        sizes: np.ndarray,
        times: np.ndarray,
        digest: Callable[[int], str | None] | None = None,
    ) -> Files:
        """Look at files by their absolute paths, sizes and times (ns) when they were embedded; NaN where that is not known.

        `digest` gives the sha256 that a file had, where its time alone differs; without it such a file counts as there.
        """
        n = len(files)
        state, link = np.full(n, NONE, np.int8), np.zeros(n, np.int8)
        number = np.full(n, -1, np.int64)
        known: dict[tuple[int, int] | str, int] = {}
        linked: dict[str, bool] = {}
        for i, file in enumerate(files.to_pylist()):
            if file is None:
                continue
            if image_files.container(file) is not None:
                # A picture in a Parquet file is a file of its own, which no link can be.
                number[i] = known.setdefault(os.path.realpath(file), len(known))
                state[i] = _inside(file, times[i], digest and partial(digest, i))
                continue
            try:
                status = os.lstat(file)
                if stat.S_ISLNK(status.st_mode):
                    link[i], status = LINK, os.stat(file)  # noqa: PTH116
            except (OSError, ValueError):
                state[i] = GONE
                continue
            if not stat.S_ISREG(status.st_mode):
                state[i] = GONE
                continue
            folder = os.path.dirname(file)  # noqa: PTH120
            if folder not in linked:
                linked[folder] = os.path.realpath(folder) != os.path.normpath(folder)
            if linked[folder] and link[i] != LINK:
                link[i] = _THROUGH
            key = (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(file)
            number[i] = known.setdefault(key, len(known))
            same = np.isnan(sizes[i]) or status.st_size == sizes[i]
            # Through float64 a time in nanoseconds loses its last digits, and so does what it is compared with.
            if (
                same
                and digest is not None
                and not np.isnan(times[i])
                and float(status.st_mtime_ns) != times[i]
            ):
                same = digest(i) in (None, _sha256(Path(file)))
            state[i] = THERE if same else CHANGED
        seen = bool(np.isin(state, (THERE, CHANGED)).any())
        folders = {Path(file).parent for file in files.to_pylist() if file is not None and not seen}
        return cls(state, number, link, seen or any(folder.is_dir() for folder in folders))

    @property
    def paths(self) -> int:
        """How many items have a file of their own, there or not."""
        return int((self.state != NONE).sum())

    def first(self) -> np.ndarray:
        """First item with the file of each, int64 (n,): the item itself unless an earlier one has the same file."""
        n = len(self.number)
        first = np.arange(n)
        there = np.flatnonzero(self.number >= 0)
        _, start, inverse = np.unique(self.number[there], return_index=True, return_inverse=True)
        first[there] = there[start][inverse]
        return first


def item_files(items: pa.Table) -> pa.Array:
    """Absolute paths of items by their `root` and `path`; null for an item without a file of its own."""
    names = [items[name].cast(pa.string()).combine_chunks() for name in ("root", "path")]
    return pc.binary_join_element_wise(*names, "/")


def whole_files(files: pa.Array) -> pa.Array:
    """`files` without the pictures inside Parquet files: those cannot be deleted one by one."""
    inside = [file is not None and image_files.container(file) is not None for file in files.to_pylist()]
    return pc.if_else(pa.array(inside, pa.bool_()), pa.scalar(None, pa.string()), files)


def _inside(file: str, time_ns: float, digest: Callable[[], str | None] | None) -> int:
    """State of a picture in a Parquet file."""
    try:
        now = image_files.status(file)
        if digest is None or np.isnan(time_ns) or float(now.mtime_ns) == time_ns:
            return THERE
        return THERE if digest() in (None, hashlib.sha256(image_files.read(file)[0]).hexdigest()) else CHANGED
    except (ImageError, OSError, ValueError):
        return GONE


def _sha256(file: Path) -> str | None:
    """Digest of a file's bytes; "" if it cannot be read."""
    found = hashlib.sha256()
    try:
        with file.open("rb") as handle:
            while chunk := handle.read(_CHUNK):
                found.update(chunk)
    except OSError:
        return ""
    return found.hexdigest()
