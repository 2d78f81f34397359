"""Vectors between NumPy, Arrow and the disk, and their memory-mapped copy.

The copy lies in ``STORE/cache/<table>/<digest>.npy`` beside the keys; it is disposable. Its name is the snapshot's digest,
so it cannot be stale, and a store on read-only media works without it.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from ..errors import CorruptError, StoreError
from .checksums import check_stamp, seal, stamp, unseal
from .files import publish, remove_leftovers
from .pages import read_into
from .parts import check_part, read_part
from .schema import tokens_type, vector_type
from .snapshot import Snapshot

__all__ = [
    "Vectors",
    "check_copy",
    "finish_copy",
    "finite_rows",
    "load_vectors",
    "read_vectors",
    "take_float32",
    "to_array",
    "tokens_to_arrow",
    "vectors_to_arrow",
]

#: Below this size, in bytes, reading Parquet is as quick as looking for a copy.
CACHE_FROM = 4 << 20

_BLOCK = 8192
_COPY = re.compile(r"([0-9a-f]{32})\.(npy|keys\.arrow|states|lengths\.arrow|sums\.json)")


@dataclass(frozen=True)
class Vectors:
    """All vectors of a feature table.

    Attributes
    ----------
    keys : pyarrow.ChunkedArray of string
        Content digest of each row.
    X : ndarray of float16 or float32, shape (rows, dim)
        As stored; read-only, and possibly mapped from disk. Compute in float32, a block at a time.
    digest : str
        Of the snapshot that they are from.
    """

    keys: pa.ChunkedArray
    X: np.ndarray
    digest: str


def finite_rows(X: np.ndarray, dtype: str = "float16") -> np.ndarray:
    """Tell which rows of `X` (n, ...) can be stored: no NaN, nothing infinite, nothing beyond `dtype`'s range.

    Returns
    -------
    ndarray of bool, shape (n,)
    """
    limit = float(np.finfo(dtype).max)
    with np.errstate(invalid="ignore"):
        return (np.abs(X) <= limit).all(axis=tuple(range(1, X.ndim)))


def vectors_to_arrow(X: np.ndarray, dtype: str = "float16") -> pa.FixedSizeListArray:
    """Make an Arrow column of the rows of `X` (n, dim).

    Raises
    ------
    StoreError
        If a row has a value that `dtype` cannot hold; `finite_rows` tells which.
    """
    _require_finite(X, dtype)
    values = np.ascontiguousarray(X, dtype=dtype)
    return pa.FixedSizeListArray.from_arrays(
        pa.array(values.reshape(-1)), type=vector_type(X.shape[1], dtype)
    )


def tokens_to_arrow(values: np.ndarray, mask: np.ndarray, dtype: str = "float16") -> pa.ListArray:
    """Make an Arrow column of token states, keeping the real ones only.

    Parameters
    ----------
    values : ndarray, shape (n, t, dim)
    mask : ndarray of bool, shape (n, t)
        True where a token is real.
    dtype : {"float16", "float32"}, default "float16"

    Raises
    ------
    StoreError
        If a real token has a value that `dtype` cannot hold.
    """
    dim = values.shape[2]
    real = values[mask.astype(bool)]
    offsets = np.concatenate([[0], np.cumsum(mask.astype(bool).sum(axis=1))]).astype(np.int32)
    return pa.ListArray.from_arrays(
        pa.array(offsets), vectors_to_arrow(real, dtype), type=tokens_type(dim, dtype)
    )


def to_array(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Give the vectors of an Arrow column as (n, dim), without a copy where it is one chunk."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    dim = column.type.list_size
    arrays = [chunk.flatten().to_numpy(zero_copy_only=True).reshape(-1, dim) for chunk in chunks]
    if len(arrays) == 1:
        return arrays[0]
    return np.concatenate(arrays) if arrays else np.empty((0, dim), _dtype(column.type))


def read_vectors(snapshot: Snapshot, column: str = "vector") -> np.ndarray:
    """Read all vectors of a snapshot into one array (rows, dim) of their stored type.

    Raises
    ------
    FileNotFoundError
        If the snapshot is so old that its parts are gone.
    CorruptError
        If a part cannot be read.
    """
    field = snapshot.schema.field(column)
    X = np.empty((snapshot.rows, field.type.list_size), _dtype(field.type))
    done = 0
    for part, path in zip(snapshot.parts, snapshot.files, strict=True):
        block = X[done : done + part.rows]
        check_part(path, part)
        if not _read_directly(path, column, block):
            block[:] = to_array(read_part(path, pa.schema([field]), part)[column])
        done += part.rows
    return X


def load_vectors(snapshot: Snapshot, key: str, cache: Path | None = None, column: str = "vector") -> Vectors:
    """Get all vectors of a snapshot with their keys, from the memory-mapped copy if there is one.

    Parameters
    ----------
    snapshot : Snapshot
        Of a feature table.
    key : str
        Its key column.
    cache : Path, optional
        Folder of this table's copies; a missing copy is made there, if the folder can be written, and older ones removed.
    column : str, default "vector"
    """
    if cache is not None and (cached := _open_copy(snapshot, cache)) is not None:
        return cached
    keys = snapshot.read([key])[key]
    X = read_vectors(snapshot, column)
    if cache is not None and X.nbytes >= CACHE_FROM:
        # Read-only media, a full disk, a link that leads elsewhere: the copy only saves time.
        with contextlib.suppress(OSError, StoreError):
            _write_copy(keys, X, snapshot, cache)
            return _open_copy(snapshot, cache) or Vectors(keys, X, snapshot.digest)
    X.flags.writeable = False
    return Vectors(keys, X, snapshot.digest)


def take_float32(X: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Select `rows` (m,) of `X` (n, dim) as float32 (m, dim), a block at a time."""
    out = np.empty((len(rows), *X.shape[1:]), np.float32)
    for start in range(0, len(rows), _BLOCK):
        out[start : start + _BLOCK] = X[rows[start : start + _BLOCK]]
    return out


def _require_finite(X: np.ndarray, dtype: str) -> None:
    good = finite_rows(X, dtype)
    if not good.all():
        hint = "; use float32" if dtype == "float16" and finite_rows(X, "float32").all() else ""
        raise StoreError(f"row {int(np.argmin(good))} has a value that is not a finite {dtype}{hint}")


def _dtype(kind: pa.DataType) -> np.dtype:
    return np.dtype(kind.value_type.to_pandas_dtype())


def _read_directly(path: Path, column: str, out: np.ndarray) -> bool:
    try:
        return read_into(path, column, out)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError):  # pyarrow's own reader says what is wrong with it
        return False


def _paths(snapshot: Snapshot, cache: Path) -> tuple[Path, Path]:
    return cache / f"{snapshot.digest}.keys.arrow", cache / f"{snapshot.digest}.npy"


def _open_copy(snapshot: Snapshot, cache: Path) -> Vectors | None:
    keys_path, npy = _paths(snapshot, cache)
    try:
        check_copy(cache, snapshot.digest, (keys_path, npy))
        with pa.memory_map(str(keys_path)) as source:
            keys = pa.ipc.open_file(source).read_all().column(0)
        X = np.load(npy, mmap_mode="r")
    except (CorruptError, OSError, ValueError, EOFError, pa.ArrowException):
        return None
    if len(keys) != snapshot.rows or len(X) != snapshot.rows:
        return None
    return Vectors(keys, X, snapshot.digest)


def _write_copy(keys: pa.ChunkedArray, X: np.ndarray, snapshot: Snapshot, cache: Path) -> None:
    keys_path, npy = _paths(snapshot, cache)
    cache.mkdir(parents=True, exist_ok=True)
    with publish(keys_path) as temp:
        table = pa.table({"key": keys})
        with pa.ipc.new_file(str(temp), table.schema) as writer:
            writer.write_table(table)
    # Last, so that where there are vectors there are keys.
    with publish(npy) as temp, temp.open("wb") as file:
        np.save(file, X)
    finish_copy(cache, snapshot.digest, (keys_path, npy))


def check_copy(cache: Path, digest: str, paths: Sequence[Path]) -> None:
    """Make sure that the files of a copy are those that were written, before a library trusts what they say.

    Raises
    ------
    CorruptError, OSError, ValueError
        If they are not, or nothing says so.
    """
    name = f"{digest}.sums.json"
    stamps = unseal(json.loads((cache / name).read_bytes()), name)
    for path in paths:
        check_stamp(path, stamps.get(path.name, {}))


def finish_copy(cache: Path, digest: str, paths: Sequence[Path]) -> None:
    """Keep the checksums of a copy's files, and remove copies of other snapshots from a table's folder of copies."""
    name, stamps = f"{digest}.sums.json", {path.name: stamp(path) for path in paths}
    with publish(cache / name) as temp:
        temp.write_text(json.dumps(seal(stamps, name)), encoding="utf-8")
    remove_leftovers(cache)
    for path in cache.iterdir():
        if (match := _COPY.fullmatch(path.name)) and match[1] != digest:
            with contextlib.suppress(OSError):
                path.unlink()
