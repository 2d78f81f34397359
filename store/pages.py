"""Vectors straight from a part's bytes into an array.

Parts hold vectors plain and uncompressed, so a page is levels followed by the numbers themselves, and reading is a copy.
Parquet readers do not know that every list is as long as the next: they decode a level for each number, which takes ten
times as long as the numbers. Anything unexpected in the file, a wrong checksum of
a page among it, makes `read_into` decline, and pyarrow reads it instead.
"""

from __future__ import annotations

import io
import zlib
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

__all__ = ["read_into"]

# Thrift's compact protocol, which page headers are written in.
_STOP, _TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _STRUCT = 0, 1, 2, 3, 7, 8, 12
_INTEGERS = (4, 5, 6)
_DATA_PAGE_V1, _PLAIN = 0, 0

# A header of numbers only is some 30 bytes; statistics, which we do not write, would make it longer.
_HEADER_BYTES = 512

_PHYSICAL = {"FIXED_LEN_BYTE_ARRAY": np.dtype("<f2"), "FLOAT": np.dtype("<f4")}


class _UnexpectedError(Exception):
    """The file is not laid out the way our parts are."""


def read_into(path: Path, column: str, out: np.ndarray) -> bool:
    """Fill `out` with the vectors of one part.

    Parameters
    ----------
    path : Path
        A part.
    column : str
        Its column of fixed-size lists.
    out : ndarray of float16 or float32, shape (rows, dim), C-contiguous
        Must have the part's rows, width and type.

    Returns
    -------
    bool
        False if the part is laid out otherwise; `out` is then undefined.
    """
    flat = out.reshape(-1)
    # Checksums are computed beside the reading, which lets other threads run.
    with path.open("rb", buffering=0) as file, ThreadPoolExecutor(2) as pool:
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
