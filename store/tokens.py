"""Token states of a feature table: one after the other, none padded, mapped from disk.

Padded to the longest, the states of a hundred thousand posts would fill any memory. So a table's states lie in one array as
they are stored, (tokens, dim), and each content is a range of it. The copy lies in
``STORE/cache/<table>/<digest>.states`` beside the keys, as that of vectors does (`icehouse.store.vectors`).
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from ..errors import CorruptError, StoreError
from .files import publish
from .snapshot import Snapshot
from .vectors import CACHE_FROM, check_copy, finish_copy, to_array

__all__ = ["TokenStates", "load_tokens", "pad_tokens"]


@dataclass(frozen=True)
class TokenStates:
    """All token states of a feature table.

    Attributes
    ----------
    keys : pyarrow.ChunkedArray of string
        Content digest of each row.
    starts, lengths : ndarray of int64, shape (rows,)
        Where in `states` those of a row begin, and how many they are.
    states : ndarray of float16 or float32, shape (tokens, dim)
        As stored; read-only, and possibly mapped from disk.
    digest : str
        Of the snapshot that they are from.
    """

    keys: pa.ChunkedArray
    starts: np.ndarray
    lengths: np.ndarray
    states: np.ndarray
    digest: str


def load_tokens(snapshot: Snapshot, key: str, cache: Path | None = None) -> TokenStates:
    """Get all token states of a snapshot with their keys, from the memory-mapped copy if there is one.

    Parameters
    ----------
    snapshot : Snapshot
        Of a feature table that holds tokens.
    key : str
        Its key column.
    cache : Path, optional
        Folder of this table's copies; a missing copy is made there, if the folder can be written, and older ones removed.
    """
    if cache is not None and (cached := _open_copy(snapshot, cache)) is not None:
        return cached
    if cache is not None and sum(path.stat().st_size for path in snapshot.files) >= CACHE_FROM:
        # Read-only media, a full disk, a link that leads elsewhere: the copy only saves memory.
        with contextlib.suppress(OSError, StoreError):
            _write_copy(snapshot, key, cache)
            if (cached := _open_copy(snapshot, cache)) is not None:
                return cached
    keys, lengths, states = [], [], []
    for batch in snapshot.batches([key, "tokens"]):
        keys.append(batch.column(0))
        lengths.append(_lengths(batch.column(1)))
        states.append(to_array(batch.column(1).flatten()))
    dim, dtype = _kind(snapshot)
    together = np.concatenate(states) if states else np.empty((0, dim), dtype)
    together.flags.writeable = False
    counts = np.concatenate(lengths) if lengths else np.empty(0, np.int64)
    column = pa.chunked_array(keys, type=snapshot.schema.field(key).type)
    return TokenStates(column, _starts(counts), counts, together, snapshot.digest)


def pad_tokens(
    states: np.ndarray, starts: np.ndarray, lengths: np.ndarray, longest: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Pad ranges of token states to the longest of them.

    Parameters
    ----------
    states : ndarray of float, shape (tokens, dim)
    starts, lengths : ndarray of int64, shape (n,)
    longest : int, optional
        Pad to this many instead.

    Returns
    -------
    values : ndarray of float32, shape (n, t, dim)
        Zero where `mask` is False.
    mask : ndarray of bool, shape (n, t)
    """
    length = int(lengths.max(initial=0)) if longest is None else longest
    mask: np.ndarray = np.arange(length) < lengths[:, None]
    values = np.zeros((*mask.shape, states.shape[1]), np.float32)
    values[mask] = states[(starts[:, None] + np.arange(length))[mask]]
    return values, mask


def _kind(snapshot: Snapshot) -> tuple[int, np.dtype]:
    """Width and type of a token's state."""
    field = snapshot.schema.field("tokens").type.value_type
    return field.list_size, np.dtype(field.value_type.to_pandas_dtype())


def _lengths(column: pa.ListArray) -> np.ndarray:
    return np.diff(column.offsets.to_numpy()).astype(np.int64)


def _starts(lengths: np.ndarray) -> np.ndarray:
    starts: np.ndarray = np.cumsum(lengths) - lengths
    return starts


def _paths(snapshot: Snapshot, cache: Path) -> tuple[Path, Path]:
    return cache / f"{snapshot.digest}.lengths.arrow", cache / f"{snapshot.digest}.states"


def _open_copy(snapshot: Snapshot, cache: Path) -> TokenStates | None:
    about, path = _paths(snapshot, cache)
    dim, dtype = _kind(snapshot)
    try:
        check_copy(cache, snapshot.digest, (about, path))
        with pa.memory_map(str(about)) as source:
            table = pa.ipc.open_file(source).read_all()
        lengths = table["length"].to_numpy()
        if table.num_rows != snapshot.rows or path.stat().st_size != lengths.sum() * dim * dtype.itemsize:
            return None
        if not lengths.sum():  # nothing that could be mapped
            return TokenStates(
                table["key"], _starts(lengths), lengths, np.empty((0, dim), dtype), snapshot.digest
            )
        states = np.memmap(path, dtype, "r", shape=(int(lengths.sum()), dim))
    except (CorruptError, OSError, ValueError, EOFError, KeyError, pa.ArrowException):
        return None
    return TokenStates(table["key"], _starts(lengths), lengths, states, snapshot.digest)


def _write_copy(snapshot: Snapshot, key: str, cache: Path) -> None:
    """Write the copy a batch at a time."""
    about, path = _paths(snapshot, cache)
    cache.mkdir(parents=True, exist_ok=True)
    schema = pa.schema([pa.field("key", snapshot.schema.field(key).type), pa.field("length", pa.int64())])
    with (
        publish(about) as keys,
        publish(path) as states,
        pa.ipc.new_file(str(keys), schema) as writer,
        states.open("wb") as file,
    ):
        for batch in snapshot.batches([key, "tokens"]):
            column = batch.column(1)
            writer.write_batch(pa.record_batch([batch.column(0), pa.array(_lengths(column))], schema=schema))
            file.write(np.ascontiguousarray(to_array(column.flatten())).data)
    finish_copy(cache, snapshot.digest, (about, path))
