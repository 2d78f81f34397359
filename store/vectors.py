"""Vectors and token states between NumPy, Arrow and the disk, with a memory-mapped copy.

The copy lies in ``STORE/cache/<table>/<digest>.npy`` beside the keys; it is disposable. Its name is the snapshot's digest,
so it cannot be stale, and a store on read-only media works without it.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import CorruptError, StoreError
from .files import check_stamp, publish, publish_sealed, remove_leftovers, stamp, unseal
from .schema import Snapshot, check_part, read_part, tokens_type, vector_type

# Parts hold vectors plain and uncompressed, so a page is levels followed by the numbers themselves, and reading is a copy.
# Parquet readers do not know that every list is as long as the next: they decode a level for each number, which takes ten
# times as long as the numbers. Anything unexpected in the file, a wrong checksum of a page among it, makes `read_into`
# decline, and pyarrow reads it instead.


# Thrift's compact protocol, which page headers are written in.
_STOP, _TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _STRUCT = 0, 1, 2, 3, 7, 8, 12
_INTEGERS = (4, 5, 6)
_DATA_PAGE_V1, _PLAIN = 0, 0

# A header of numbers only is some 30 bytes; statistics, which we do not write, would make it longer.
_HEADER_BYTES = 512

_PHYSICAL = {"FIXED_LEN_BYTE_ARRAY": np.dtype("<f2"), "FLOAT": np.dtype("<f4")}


class _UnexpectedError(Exception):
    """The file is not laid out the way our parts are."""


def read_into(path: Path, column: str, out: np.ndarray, pool: ThreadPoolExecutor) -> bool:
    """Fill `out` with the vectors of one part. False if the part is laid out otherwise; `out` is then undefined.

    Checksums are computed in `pool` beside the reading, which lets other threads run.
    """
    flat = out.reshape(-1)
    with path.open("rb", buffering=0) as file:
        try:
            done = 0
            sound: list[Future[bool]] = []
            for offset, count in _chunks(pq.read_metadata(path), column, out):
                sound += _read_chunk(file, offset, flat[done : done + count], pool)
                done += count
            return done == flat.size and all(page.result() for page in sound)
        except (_UnexpectedError, IndexError):
            return False


def _chunks(meta: pq.FileMetaData, column: str, out: np.ndarray) -> list[tuple[int, int]]:
    """Offset of the first page, and number of values, of each row group's chunk of `column`."""
    leaves = [i for i in range(meta.num_columns) if meta.schema.column(i).path.split(".")[0] == column]
    if len(leaves) != 1 or meta.num_rows != len(out):
        raise _UnexpectedError
    leaf = meta.schema.column(leaves[0])
    if _PHYSICAL.get(leaf.physical_type) != out.dtype or leaf.max_repetition_level != 1:
        raise _UnexpectedError
    if out.dtype.itemsize == 2 and leaf.logical_type.type != "FLOAT16":
        raise _UnexpectedError
    chunks = []
    for g in range(meta.num_row_groups):
        group = meta.row_group(g)
        chunk = group.column(leaves[0])
        plain = chunk.compression == "UNCOMPRESSED" and not chunk.has_dictionary_page
        if not plain or chunk.num_values != group.num_rows * out.shape[1]:
            raise _UnexpectedError
        chunks.append((chunk.data_page_offset, chunk.num_values))
    return chunks


def _read_chunk(
    file: io.FileIO, offset: int, out: np.ndarray, pool: ThreadPoolExecutor
) -> list[Future[bool]]:
    """Fill `out` from the pages that begin at `offset`; tells of each whether its checksum is right."""
    done = 0
    sound = []
    while done < out.size:
        file.seek(offset)
        head = file.read(_HEADER_BYTES)
        fields, length = _struct(head, 0)
        page = fields.get(5)
        if fields.get(1) != _DATA_PAGE_V1 or not isinstance(page, dict) or page.get(2) != _PLAIN:
            raise _UnexpectedError
        start, size, count = offset + length, fields.get(3), page.get(1)
        if not isinstance(size, int) or not isinstance(count, int) or count > out.size - done:
            raise _UnexpectedError
        # Repetition levels, then definition levels, each behind its length. If the rest is exactly one number for each
        # level, none is null and no list is empty.
        values = start
        for _ in range(2):
            file.seek(values)
            values += 4 + int.from_bytes(file.read(4), "little")
        if not start <= values <= start + size:
            raise _UnexpectedError
        if start + size - values != count * out.itemsize:
            raise _UnexpectedError
        file.seek(start)
        levels = file.read(values - start)
        numbers = out[done : done + count].data.cast("B")
        _read_exactly(file, numbers)
        if isinstance(wanted := fields.get(4), int):
            sound.append(pool.submit(_is_sound, levels, numbers, wanted & 0xFFFFFFFF))
        done += count
        offset = start + size
    return sound


def _is_sound(levels: bytes, numbers: memoryview, wanted: int) -> bool:
    return zlib.crc32(numbers, zlib.crc32(levels)) == wanted


def _read_exactly(file: io.FileIO, view: memoryview) -> None:
    while view:
        got = file.readinto(view)
        if not got:
            raise _UnexpectedError
        view = view[got:]


def _struct(data: bytes, at: int) -> tuple[dict[int, object], int]:
    """Decode one Thrift struct: its numbers and structs by field id, and where it ends."""
    fields: dict[int, object] = {}
    field = 0
    while True:
        kind, delta = data[at] & 0x0F, data[at] >> 4
        at += 1
        if kind == _STOP:
            return fields, at
        if delta:
            field += delta
        else:
            field, at = _zigzag(data, at)
        if kind in (_TRUE, _FALSE):
            fields[field] = kind == _TRUE
        elif kind == _BYTE:
            at += 1
        elif kind in _INTEGERS:
            fields[field], at = _zigzag(data, at)
        elif kind == _DOUBLE:
            at += 8
        elif kind == _BINARY:
            size, at = _varint(data, at)
            at += size
        elif kind == _STRUCT:
            fields[field], at = _struct(data, at)
        else:
            raise _UnexpectedError


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _zigzag(data: bytes, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return (value >> 1) ^ -(value & 1), at


#: Below this size, in bytes, reading Parquet is as quick as looking for a copy.
CACHE_FROM = 4 << 20

_BLOCK = 8192
_FEW = 0.05  # share of rows that are read from their parts beside a copy of those before them
_COPY = re.compile(r"([0-9a-f]{32})\.(npy|keys\.arrow|states|lengths\.arrow|sums\.json)")


@dataclass(frozen=True)
class Vectors:
    """All vectors of a feature table."""

    keys: pa.ChunkedArray
    X: np.ndarray
    digest: str


@dataclass(frozen=True)
class VectorBlocks:
    """All vectors of a feature table as they were loaded: in one block, or in a mapped copy and few that came after it."""

    keys: pa.ChunkedArray
    blocks: list[np.ndarray]
    digest: str
    joined: Callable[[], np.ndarray]  # gives them in one

    @property
    def dim(self) -> int:
        """Number of dimensions."""
        return self.blocks[0].shape[1]

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Those of some rows, (m, dim), without putting all in one."""
        found = np.empty((len(rows), self.dim), self.blocks[0].dtype)
        start = 0
        for block in self.blocks:
            at = np.flatnonzero((rows >= start) & (rows < start + len(block)))
            found[at] = block[rows[at] - start]
            start += len(block)
        return found

    @cached_property
    def whole(self) -> Vectors:
        """All in one."""
        return Vectors(self.keys, self.joined(), self.digest)


def finite_rows(X: np.ndarray, dtype: str = "float16") -> np.ndarray:
    """Tell which rows of `X` (n, ...) can be stored: no NaN, nothing infinite, nothing beyond `dtype`'s range."""
    limit = float(np.finfo(dtype).max)
    with np.errstate(invalid="ignore"):
        return (np.abs(X) <= limit).all(axis=tuple(range(1, X.ndim)))


def vectors_to_arrow(X: np.ndarray, dtype: str = "float16") -> pa.FixedSizeListArray:
    """Make an Arrow column of the rows of `X` (n, dim)."""
    _require_finite(X, dtype)
    values = np.ascontiguousarray(X, dtype=dtype)
    return pa.FixedSizeListArray.from_arrays(
        pa.array(values.reshape(-1)), type=vector_type(X.shape[1], dtype)
    )


def tokens_to_arrow(values: np.ndarray, mask: np.ndarray, dtype: str = "float16") -> pa.ListArray:
    """Make an Arrow column of token states, keeping the real ones only."""
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


def read_vectors(snapshot: Snapshot) -> np.ndarray:
    """Read all vectors of a snapshot into one array (rows, dim) of their stored type."""
    field = snapshot.schema.field("vector")
    X = np.empty((snapshot.rows, field.type.list_size), _dtype(field.type))
    done = 0
    with ThreadPoolExecutor(2) as pool:
        for part, path in zip(snapshot.parts, snapshot.files, strict=True):
            block = X[done : done + part.rows]
            check_part(path, part)
            if not _read_directly(path, "vector", block, pool):
                block[:] = to_array(read_part(path, pa.schema([field]), part)["vector"])
            done += part.rows
    return X


def load_vectors(snapshot: Snapshot, key: str, cache: Path | None = None) -> Vectors:
    """Get all vectors of a snapshot with their keys, from the memory-mapped copy if there is one."""
    return load_blocks(snapshot, key, cache).whole


def load_blocks(snapshot: Snapshot, key: str, cache: Path | None = None) -> VectorBlocks:
    """As `load_vectors`, for who needs few of them: where few came after a copy was made, none is made anew for these."""
    copy = None if cache is None else _open_copy(snapshot, cache, "vector")
    if copy is not None:
        X = copy[1]
        return VectorBlocks(copy[0]["key"], [X], snapshot.digest, lambda: X)
    keys, blocks = _read_rest(snapshot, key, cache)

    def joined() -> np.ndarray:
        X = np.concatenate(blocks) if len(blocks) > 1 else blocks[0]
        X.flags.writeable = False
        if cache is not None and X.nbytes >= CACHE_FROM:
            # Read-only media, a full disk, a link that leads elsewhere: the copy only saves time.
            with contextlib.suppress(OSError, StoreError):
                _write_copy(keys, X, snapshot, cache)
                if (made := _open_copy(snapshot, cache, "vector")) is not None:
                    return made[1]
        return X

    if len(blocks) > 1 and len(blocks[1]) <= _FEW * len(blocks[0]):
        return VectorBlocks(keys, blocks, snapshot.digest, joined)
    whole = joined()
    return VectorBlocks(keys, [whole], snapshot.digest, lambda: whole)


def _read_rest(snapshot: Snapshot, key: str, cache: Path | None) -> tuple[pa.ChunkedArray, list[np.ndarray]]:
    """Keys and vectors of a snapshot, those of its first parts from a copy that was made of them alone, if there is one."""
    kept = set() if cache is None else {path.name for path in cache.glob("*.npy")}
    for count in range(len(snapshot.parts) - 1, 0, -1):
        earlier = replace(snapshot, parts=snapshot.parts[:count])
        if cache is None or f"{earlier.digest}.npy" not in kept:
            continue
        if (copy := _open_copy(earlier, cache, "vector")) is not None:
            later = replace(snapshot, parts=snapshot.parts[count:])
            keys = pa.chunked_array([*copy[0]["key"].chunks, *later.read([key])[key].chunks])
            return keys, [copy[1], read_vectors(later)]
    return snapshot.read([key])[key], [read_vectors(snapshot)]


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


def _read_directly(path: Path, column: str, out: np.ndarray, pool: ThreadPoolExecutor) -> bool:
    try:
        return read_into(path, column, out, pool)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError):  # pyarrow's own reader says what is wrong with it
        return False


# Of vectors the copy is a NumPy file beside the keys; of token states their numbers one after another, beside the keys and
# how many each has.


def _copy_paths(snapshot: Snapshot, cache: Path, column: str) -> tuple[Path, Path]:
    about, numbers = {"vector": ("keys.arrow", "npy"), "tokens": ("lengths.arrow", "states")}[column]
    return cache / f"{snapshot.digest}.{about}", cache / f"{snapshot.digest}.{numbers}"


def _open_copy(snapshot: Snapshot, cache: Path, column: str) -> tuple[pa.Table, np.ndarray] | None:
    """Keys (and lengths) and numbers of a copy, mapped from disk; None where there is none as it was written."""
    about, path = _copy_paths(snapshot, cache, column)
    name = f"{snapshot.digest}.sums.json"
    try:
        stamps = unseal(json.loads((cache / name).read_bytes()), name)
        for file in (about, path):  # before a library trusts what they say
            check_stamp(file, stamps.get(file.name, {}))
        with pa.memory_map(str(about)) as source:
            table = pa.ipc.open_file(source).read_all()
        if column == "vector":
            numbers: np.ndarray = np.load(path, mmap_mode="r")
            rows = snapshot.rows
        else:
            dim, dtype = _kind(snapshot)
            rows = int(table["length"].to_numpy().sum())
            # Nothing cannot be mapped.
            numbers = np.memmap(path, dtype, "r", shape=(rows, dim)) if rows else np.empty((0, dim), dtype)
    except (CorruptError, OSError, ValueError, EOFError, KeyError, pa.ArrowException):
        return None
    return (table, numbers) if (table.num_rows, len(numbers)) == (snapshot.rows, rows) else None


def _finish_copy(snapshot: Snapshot, cache: Path, column: str) -> None:
    """Keep the checksums of a copy's files, and remove copies of other snapshots from a table's folder of copies."""
    paths = _copy_paths(snapshot, cache, column)
    publish_sealed(cache / f"{snapshot.digest}.sums.json", {path.name: stamp(path) for path in paths})
    remove_leftovers(cache)
    for path in cache.iterdir():
        if (match := _COPY.fullmatch(path.name)) and match[1] != snapshot.digest:
            with contextlib.suppress(OSError):
                path.unlink()


def _write_copy(keys: pa.ChunkedArray, X: np.ndarray, snapshot: Snapshot, cache: Path) -> None:
    about, npy = _copy_paths(snapshot, cache, "vector")
    cache.mkdir(parents=True, exist_ok=True)
    table = pa.table({"key": keys})
    with publish(about) as temp, pa.ipc.new_file(str(temp), table.schema) as writer:
        writer.write_table(table)
    with publish(npy) as temp, temp.open("wb") as file:
        np.save(file, X)
    _finish_copy(snapshot, cache, "vector")


# Padded to the longest, the states of a hundred thousand posts would fill any memory. So a table's states lie in one
# array as they are stored, (tokens, dim), and each content is a range of it. The copy lies in
# ``STORE/cache/<table>/<digest>.states`` beside the keys, as that of vectors does.


@dataclass(frozen=True)
class TokenStates:
    """All token states of a feature table."""

    keys: pa.ChunkedArray
    starts: np.ndarray
    lengths: np.ndarray
    states: np.ndarray
    digest: str


def load_tokens(snapshot: Snapshot, key: str, cache: Path | None = None) -> TokenStates:
    """Get all token states of a snapshot with their keys, from the memory-mapped copy if there is one."""
    copy = None if cache is None else _open_copy(snapshot, cache, "tokens")
    if copy is None and cache is not None and snapshot.bytes >= CACHE_FROM:
        # Read-only media, a full disk, a link that leads elsewhere: the copy only saves memory.
        with contextlib.suppress(OSError, StoreError):
            _write_token_copy(snapshot, key, cache)
            copy = _open_copy(snapshot, cache, "tokens")
    if copy is None:
        tables, blocks = [], []
        for table, block in _token_blocks(snapshot, key):
            tables.append(table)
            blocks.append(block)
        dim, dtype = _kind(snapshot)
        states = np.concatenate([np.empty((0, dim), dtype), *blocks])
        states.flags.writeable = False
        copy = pa.Table.from_batches(tables, _about_tokens(snapshot, key)), states
    lengths = copy[0]["length"].to_numpy()
    return TokenStates(copy[0]["key"], np.cumsum(lengths) - lengths, lengths, copy[1], snapshot.digest)


def _about_tokens(snapshot: Snapshot, key: str) -> pa.Schema:
    return pa.schema([pa.field("key", snapshot.schema.field(key).type), pa.field("length", pa.int64())])


def _token_blocks(snapshot: Snapshot, key: str) -> Iterator[tuple[pa.RecordBatch, np.ndarray]]:
    """Keys with how many states each has, and the states, a batch at a time."""
    for batch in snapshot.batches([key, "tokens"]):
        column = batch.column(1)
        lengths = pa.array(np.diff(column.offsets.to_numpy()).astype(np.int64))
        about = pa.record_batch([batch.column(0), lengths], schema=_about_tokens(snapshot, key))
        yield about, np.ascontiguousarray(to_array(column.flatten()))


def pad_tokens(
    states: np.ndarray, starts: np.ndarray, lengths: np.ndarray, longest: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Pad ranges of token states to the longest of them."""
    length = int(lengths.max(initial=0)) if longest is None else longest
    mask: np.ndarray = np.arange(length) < lengths[:, None]
    values = np.zeros((*mask.shape, states.shape[1]), np.float32)
    values[mask] = states[(starts[:, None] + np.arange(length))[mask]]
    return values, mask


def _kind(snapshot: Snapshot) -> tuple[int, np.dtype]:
    """Width and type of a token's state."""
    field = snapshot.schema.field("tokens").type.value_type
    return field.list_size, np.dtype(field.value_type.to_pandas_dtype())


def _write_token_copy(snapshot: Snapshot, key: str, cache: Path) -> None:
    """Write the copy a batch at a time."""
    about, path = _copy_paths(snapshot, cache, "tokens")
    cache.mkdir(parents=True, exist_ok=True)
    with (
        publish(about) as keys,
        publish(path) as states,
        pa.ipc.new_file(str(keys), _about_tokens(snapshot, key)) as writer,
        states.open("wb") as file,
    ):
        for batch, block in _token_blocks(snapshot, key):
            writer.write_batch(batch)
            file.write(block.data)
    _finish_copy(snapshot, cache, "tokens")
