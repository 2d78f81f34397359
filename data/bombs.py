"""Decompression bombs: limits on the scans, chunks, time and memory that one image or Parquet file may cost.

The number of pixels does not bound what a file costs: metadata is taken out before Pillow sees a file, scans
are counted, processor time is limited, and files decoded at one time share a memory budget. A Parquet file's
footer and dictionaries tell how much it expands to.
"""

from __future__ import annotations

import io
import re
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ImageError, SourceError

if TYPE_CHECKING:
    import pyarrow as pa

#: Scans of a JPEG; encoders make about ten, and libjpeg's own scripts at most a few dozen.
MAX_SCANS = 100

#: Pixels of all scans of a JPEG together: 12 scans of the largest picture that is allowed, about 8 s of work.
MAX_SCANNED = 1 << 32

#: Processor time that reading and decoding one file may take.
MAX_SECONDS = 20.0

#: Frames or pages that are looked at for one that is not blank.
MAX_FRAMES = 32

#: Segments of a JPEG's header, chunks of a PNG, and strips or tiles of a TIFF.
MAX_PARTS = 1_000_000

#: A Parquet file is refused whose values, or the bytes they unpack to, are more than this, and more than 20, or `MAX_RATIO`,
#: for each byte of the file.
MAX_VALUES = 1_000_000
MAX_UNPACKED = 1 << 28
MAX_EXPANDED = 1 << 29
MAX_RATIO = 100

_SMALL = 1 << 12  # bytes of a read that is not timed each time
_TEXT = 1 << 20  # bytes that a compressed text which may hold the orientation unpacks to
_ORIENTATION = 0x0112
_XMP_ORIENTATION = re.compile(rb"tiff:Orientation(?:=\"|>)([1-8])")
_SIZES = {1: 1, 3: 2, 4: 4}  # bytes of the types an orientation may have

# Markers of a JPEG without a length, and those of metadata that decoding does not need: all but JFIF's and Adobe's.
_JPEG_ALONE = frozenset({0x01, *range(0xD0, 0xDA)})
_JPEG_FILL = frozenset({0x00, 0xFF})
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_SEQUENTIAL = frozenset({0xC0, 0xC1})
_JPEG_META = frozenset({*range(0xE1, 0xEE), 0xEF, 0xFE})
_PNG_KEPT = frozenset({b"tRNS", b"acTL", b"fcTL", b"fdAT"})


@dataclass(frozen=True, slots=True)
class Container:
    """An image file without metadata, with its orientation (None: ask the decoder); `several`: it was an MPO."""

    data: bytes
    orientation: int | None = None
    several: bool = False


def open_container(data: bytes) -> Container:
    """Take the metadata out of an image file; ImageError where it has more scans or parts than an image has."""
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg(data)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png(data)
    if data[:4] in (b"II*\0", b"MM\0*"):
        strips = max((count for tag, _, count, _ in _directory(data) if tag in (273, 324)), default=0)
        if strips > MAX_PARTS:
            raise ImageError(f"{strips:,} strips or tiles: refused as a decompression bomb")
    elif data[4:8] == b"ftyp" and b"Exif" in data:
        # Their orientation is told by boxes of their own, and EXIF's is to be ignored.
        return Container(re.sub(rb"(infe.{8}(?:..)?)Exif", rb"\1free", data, flags=re.DOTALL))
    return Container(data)


def exif_orientation(exif: bytes, xmp: bytes = b"") -> int:
    """Orientation, 1 to 8, that an EXIF block tells, else an XMP packet; 1 where neither does."""
    exif = exif.removeprefix(b"Exif\0\0")
    for tag, kind, count, value in _directory(exif):
        if tag == _ORIENTATION and kind in _SIZES and count == 1:
            order = "little" if exif[:2] == b"II" else "big"
            turned = int.from_bytes(value[: _SIZES[kind]], order)  # type: ignore[arg-type]  # one of the two
            if 1 <= turned <= 8:
                return turned
    found = _XMP_ORIENTATION.search(xmp)
    return int(found[1]) if found else 1


def _directory(tiff: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Tag, type, count and value field of the first directory of a TIFF structure, as far as there is one."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None or len(tiff) < 8:
        return
    (start,) = struct.unpack_from(f"{order}I", tiff, 4)
    if start + 2 > len(tiff):
        return
    (entries,) = struct.unpack_from(f"{order}H", tiff, start)
    for k in range(min(entries, (len(tiff) - start - 2) // 12)):
        yield struct.unpack_from(f"{order}HHI4s", tiff, start + 2 + 12 * k)


def _jpeg(data: bytes) -> Container:
    kept, exif, xmp, several = [data[:2]], b"", b"", False
    at, pixels, single = 2, 0, 0  # `single`: components of a sequential JPEG, which one scan may hold
    for _ in range(MAX_PARTS):
        at = data.find(b"\xff", at)  # what is between segments is skipped, as decoders do
        marker = data[at + 1] if 0 <= at < len(data) - 1 else -1
        if marker in _JPEG_FILL:
            at += 1
            continue
        if marker in _JPEG_ALONE:
            kept.append(data[at : at + 2])
            at += 2
            continue
        if marker == 0xDA:
            break
        length = int.from_bytes(data[at + 2 : at + 4])
        if marker < 0xC0 or length < 2 or at + 2 + length > len(data):
            at = -1
            break
        body = data[at + 4 : at + 2 + length]
        if marker in _JPEG_FRAMES:
            pixels = int.from_bytes(body[1:3]) * int.from_bytes(body[3:5])
            single = body[5] if marker in _JPEG_SEQUENTIAL and len(body) > 5 else 0
        if marker not in _JPEG_META:
            kept.append(data[at : at + 2 + length])
        elif marker == 0xE1 and body.startswith(b"Exif\0\0") and not exif:
            exif = body
        elif marker == 0xE1 and body.startswith(b"http://ns.adobe.com/xap/1.0/\0") and not xmp:
            xmp = body
        elif marker == 0xE2 and body.startswith(b"MPF\0"):
            several = True
        at += 2 + length
    else:
        raise ImageError(f"more than {MAX_PARTS:,} segments: refused as a decompression bomb")
    if at >= 0 and single and data[at + 4 : at + 5] == bytes([single]):  # decoders read no further scan
        return Container(b"".join([*kept, memoryview(data)[at:]]), exif_orientation(exif, xmp), several)
    # Within a scan 0xFF is followed by 0 or a restart marker. What follows the end is another picture, or a film.
    end = data.find(b"\xff\xd9", at) if at >= 0 else -1
    end = len(data) if end < 0 else end + 2
    scans = data.count(b"\xff\xda", max(at, 0), end)
    most = min(MAX_SCANS, max(16, MAX_SCANNED // max(pixels, 1)))
    if scans > most:
        raise ImageError(
            f"a JPEG of {scans:,} scans, at most {most} of its size are decoded: refused as a decompression bomb"
        )
    if at < 0:  # a damaged header is left to Pillow
        return Container(data)
    return Container(b"".join([*kept, data[at:end]]), exif_orientation(exif, xmp), several)


def _png(data: bytes) -> Container:
    kept, exif, xmp = [data[:8]], b"", b""
    at = 8
    for _ in range(MAX_PARTS):
        length, kind = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8]
        end = at + 12 + length
        if end > len(data) or len(kind) < 4:
            kept.append(data[at:])
            break
        if not kind[0] & 32 or kind in _PNG_KEPT:
            kept.append(data[at:end])
        elif kind == b"eXIf":
            exif = exif or data[at + 8 : end - 4]
        elif kind in (b"iTXt", b"tEXt", b"zTXt"):
            key, _, text = data[at + 8 : end - 4].partition(b"\0")
            if key == b"XML:com.adobe.xmp":
                xmp = xmp or _text(kind, text)
            elif key in (b"Raw profile type exif", b"Raw profile type APP1"):
                exif = exif or _raw_profile(_text(kind, text))
        at = end
        if kind == b"IEND":
            break
    else:
        raise ImageError(f"more than {MAX_PARTS:,} chunks: refused as a decompression bomb")
    return Container(b"".join(kept), exif_orientation(exif, xmp))


def _text(kind: bytes, text: bytes) -> bytes:
    """Text of a PNG's text chunk, after its keyword; empty where it is damaged or unpacks to more than a megabyte."""
    packed = kind == b"zTXt"
    if kind == b"iTXt":
        packed = text[:1] == b"\1"
        text = text[2:].split(b"\0", 2)[-1]
    elif packed:
        text = text[1:]
    if not packed:
        return text
    unpacking = zlib.decompressobj()
    try:
        plain = unpacking.decompress(text, _TEXT)
    except zlib.error:
        return b""
    return b"" if unpacking.unconsumed_tail else plain


def _raw_profile(text: bytes) -> bytes:
    """EXIF block as ImageMagick writes it: a name, a length, and hexadecimal digits in lines."""
    try:
        return bytes.fromhex("".join(text.decode("ascii").split("\n")[3:]))
    except ValueError:
        return b""


class TimedFile(io.BytesIO):
    """A file in memory that can be read until `MAX_SECONDS` of the thread's processor time are used up."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._reads = 0
        self._until = time.thread_time() + MAX_SECONDS

    def read(self, size: int | None = -1, /) -> bytes:
        """Read, or raise `ImageError` where time is up."""
        self._reads += 1
        if (
            self._reads % 16 == 1 or size is None or not 0 <= size < _SMALL
        ):  # a header is read in few bytes at a time
            self.check()
        return super().read(size)

    def check(self) -> None:
        """Raise `ImageError` where time is up."""
        if time.thread_time() > self._until:
            raise ImageError(f"decoding takes more than {MAX_SECONDS:g} s: refused as a decompression bomb")


class Memory:
    """Budget of `limit` bytes that several threads share; whoever needs more is admitted when alone."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, needed: int) -> Iterator[None]:
        """Wait until `needed` bytes are free, and hold them for as long as the context lasts."""
        with self._changed:
            self._changed.wait_for(lambda: not self.held or self.held + needed <= self.limit)
            self.held += needed
        try:
            yield
        finally:
            with self._changed:
                self.held -= needed
                self._changed.notify_all()


def check_parquet(path: Path, footer: Any) -> None:
    """Raise SourceError where a Parquet footer (`FileMetaData`) promises more than a file of its size holds."""
    size = path.stat().st_size
    groups = [footer.row_group(k) for k in range(footer.num_row_groups)]
    chunks = [group.column(k) for group in groups for k in range(group.num_columns)]
    values = max([footer.num_rows, *(chunk.num_values for chunk in chunks)])
    unpacked = sum(chunk.total_uncompressed_size for chunk in chunks)
    for what, count, limit in (
        ("values", values, max(MAX_VALUES, 20 * size)),
        ("bytes", unpacked, max(MAX_UNPACKED, MAX_RATIO * size)),
    ):
        if count > limit:
            raise SourceError(
                f"{path}: {size:,} bytes that unpack to {count:,} {what}: refused as a decompression bomb"
            )


def read_column(path: Path, column: str) -> pa.ChunkedArray:
    """Read a column of a Parquet file, repeated texts and bytes as a dictionary.

    SourceError where it expands to far more than a file of its size holds.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    footer = pq.read_metadata(path)
    check_parquet(path, footer)
    leaves = [footer.schema.column(k) for k in range(len(footer.schema))]
    texts = [
        leaf.path
        for leaf in leaves
        if leaf.physical_type == "BYTE_ARRAY" and f"{leaf.path}.".startswith(f"{column}.")
    ]
    limit = max(MAX_EXPANDED, MAX_RATIO * path.stat().st_size)
    parts: list[Any] = []
    expanded = 0
    with (
        pq.ParquetFile(path, read_dictionary=texts, buffer_size=1 << 20, pre_buffer=False) as file,
        pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as plain,
    ):
        # One row group at a time: each has a dictionary of its own, and Arrow joins no two within structs and lists.
        for group in range(footer.num_row_groups):
            for batch in _batches(file, plain, group, column):
                expanded += _expanded(batch)
                if expanded > limit:
                    raise SourceError(
                        f"{path}: its column {column!r} expands to more than {limit:,} bytes: refused as a "
                        "decompression bomb"
                    )
                parts.append(batch.cast(_plain(batch.type)) if pa.types.is_nested(batch.type) else batch)
        schema = file.schema_arrow
        kind = (
            parts[0].type
            if parts
            else schema.field(column if column in schema.names else column.split(".")[0]).type
        )
    return pa.chunked_array(parts, kind)


def _batches(file: Any, plain: Any, group: int, column: str) -> Iterator[Any]:
    """A row group's values, by its dictionary where Arrow can, else few rows at a time."""
    import pyarrow as pa

    try:
        found = [
            batch.column(0)
            for batch in file.iter_batches(row_groups=[group], columns=[column], use_threads=False)
        ]
    except pa.ArrowNotImplementedError:  # within structs and lists, once a dictionary had grown too large
        for batch in plain.iter_batches(16, row_groups=[group], columns=[column], use_threads=False):
            yield batch.column(0)
    else:
        yield from found


def _plain(kind: Any) -> Any:
    """An Arrow type without dictionaries."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return kind.value_type
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_plain(kind.value_type)))
    if pa.types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(_plain(kind.value_type)))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_plain(field.type)) for field in kind])
    return kind


def _expanded(values: Any) -> int:
    """Bytes of an Arrow array once the values of its dictionaries are repeated."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = values.type
    if isinstance(kind, pa.BaseExtensionType):
        return _expanded(values.storage)
    if pa.types.is_dictionary(kind):
        lengths = pc.binary_length(values.dictionary).take(values.indices)
        return int(pc.sum(lengths.cast(pa.int64())).as_py() or 0) + int(values.indices.nbytes)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _expanded(pc.list_flatten(values))
    if pa.types.is_struct(kind):
        return sum(_expanded(values.field(k)) for k in range(kind.num_fields))
    return int(values.nbytes)
