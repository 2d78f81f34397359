"""Image files: what a file is by its name and first bytes, and its bytes, on disk or inside a Parquet file.

A picture in a Parquet file (raw bytes, or `struct{bytes, path}` as Hugging Face writes it) has the address
``FILE.parquet#COLUMN:ROW``, or ``FILE.parquet#COLUMN:ROW:PLACE`` in a list of pictures, counted from 1, which stands
wherever a path does. Every reader of a picture's bytes goes through this module; nothing is copied out of the file.
"""

from __future__ import annotations

import hashlib
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

# fmt: off
IMAGE_SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".jfi", ".jif", ".pjpeg", ".pjp", ".mpo", ".png", ".apng", ".webp", ".gif",
    ".bmp", ".dib", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".heic", ".heif", ".heics", ".heifs", ".hif",
    ".avif", ".avifs",
})
# fmt: on

#: First bytes of a file that `image_format` wants to see.
SNIFFED = 64

_START = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0\x08\0\0\0", "TIFF"),
    (b"MM\0+\0\x08\0\0", "TIFF"),
)
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"})
_BMP_HEADERS = frozenset({12, 40, 52, 56, 64, 108, 124})
_BETWEEN = rb"(?:\s|#[^\n]*\n)+"  # comments may stand wherever blanks may
_PPM = re.compile(rb"P[1-6]" + _BETWEEN + rb"\d+" + _BETWEEN + rb"\d+[\s#]")

#: What stands in a file's place in a repository whose contents were not fetched.
_POINTERS = (
    (rb"version https://git-lfs", "a Git LFS pointer, not the {}: run `git lfs pull` in its repository"),
    (
        rb"(\.\./)*\.git/annex/|/annex/objects/",
        "a git-annex pointer, not the {}: run `git annex get` in its repository",
    ),
)
_MARKUP = "the file holds markup: {}"
# What is saved under an image's name and is none; the first that fits is told.
_OTHERS: tuple[tuple[bytes, str], ...] = (
    *((pattern, says.format("picture")) for pattern, says in _POINTERS),
    (
        rb"\s*<\?xml[^>]*>\s*(<!--.*?-->\s*)*(<!doctype svg[^>]*>\s*)?<svg|\s*<svg",
        "an SVG drawing: export it as PNG",
    ),
    (
        rb"\s*<!doctype html|\s*<html|\s*<head|\s*<body",
        _MARKUP.format("a web page saved in the picture's place"),
    ),
    (rb"\s*<(\?xml|!doctype|error|!--|\w+[ >/])", _MARKUP.format("XML, perhaps a server's error")),
    (rb"\s*[{\[]\s*[\"{\[\]}]", "JSON text, perhaps a server's error saved in the picture's place"),
    (rb"data:image/|/9j/4|iVBORw0KGgo|R0lGODlh|UklGR", "an image in base64: decode it to bytes first"),
    (rb"%PDF-", "a PDF document: export its pages as images"),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "PostScript: export it as PNG"),
    (rb"....ftypcrx ", "a camera's raw file: export it as JPEG or PNG"),
    (rb"....(ftyp|moov|mdat|wide|free)", "a video (MP4 or QuickTime): take a frame of it"),
    (rb"\x1aE\xdf\xa3", "a video (WebM or Matroska): take a frame of it"),
    (rb"RIFF....AVI ", "a video (AVI): take a frame of it"),
    (rb"FLV\x01|0&\xb2u\x8ef\xcf\x11|\0\0\x01[\xb3\xba]", "a video: take a frame of it"),
    (rb"ID3|OggS|fLaC|RIFF....WAVE|\xff[\xf2\xf3\xfb]", "a sound file"),
    (rb"\0\0\0\x0cJXL |\xff\x0a", "JPEG XL, which is not read here: convert it to PNG or JPEG"),
    (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "JPEG 2000, which is not read here: convert it to PNG or JPEG"),
    (rb"\0\0[\x01\x02]\0", "a Windows icon: convert it to PNG"),
    (rb"8BPS", "a Photoshop document: export it as PNG or JPEG"),
    (rb"gimp xcf", "a GIMP document: export it as PNG or JPEG"),
    (rb"\0\x05\x16[\0\x07]", "the Mac's metadata of another file (._name), not the picture"),
    (
        rb"PK\x03\x04|Rar!|7z\xbc\xaf|\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd",
        "a packed archive: unpack it first",
    ),
    (rb"\x93NUMPY", "a NumPy array: save it as PNG"),
    (rb"\x89HDF", "an HDF5 file"),
    (rb"PAR1", "a Parquet file"),
    (rb"SQLite format 3", "an SQLite database"),
    (rb"\[InternetShortcut\]", "a link to a web page, not the picture"),
    (rb"https?://\S+\s*$", "a URL, not the picture: download it"),
    (rb"\0{64}", "nothing but zero bytes: the file was never written, or lost on the disk"),
)
_COMPILED = tuple((re.compile(pattern, re.DOTALL | re.IGNORECASE), says) for pattern, says in _OTHERS)
_KNOWN = "JPEG, PNG, WebP, GIF, BMP, TIFF, PPM, AVIF, HEIC"


def image_format(head: bytes) -> str | None:
    """Format of an image that icehouse decodes, in Pillow's terms, by its first `SNIFFED` bytes; None for the rest."""
    for start, name in _START:
        if head.startswith(start):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[4:8] == b"ftyp":
        brands = {head[i : i + 4] for i in range(8, min(len(head), int.from_bytes(head[:4], "big")), 4)}
        return "AVIF" if brands & _AVIF_BRANDS else "HEIF" if brands & _HEIF_BRANDS else None
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    return "PPM" if _PPM.match(head) else None


def why_not_an_image(data: bytes) -> str:
    """Reason why bytes that no decoder takes are no image: what they are instead, and what to do."""
    head = data[:1024].removeprefix(b"\xef\xbb\xbf")
    if image_format(head) == "HEIF":
        return "HEIC needs one more package: pip install 'icehouse[heic]'"
    says = describe_non_image(head)
    return f"not an image: {says}" if says else f"not an image of a known format ({_KNOWN})"


def describe_non_image(head: bytes) -> str | None:
    """Kind of a file that is no image, by its first bytes, with the remedy; None if unknown."""
    return next((says for pattern, says in _COMPILED if pattern.match(head)), None)


def lfs_pointer(head: bytes) -> str | None:
    """Kind of pointer (Git LFS, git-annex) in place of a file that was not fetched; None for a real file."""
    return next((says.format("file") for pattern, says in _POINTERS if re.match(pattern, head)), None)


def is_image_name(name: str) -> bool:
    """Whether the name ends like an image's, in any case."""
    return suffix_of(name) in IMAGE_SUFFIXES


def image_file(path: Path) -> bool:
    """Whether the file is an image by its name or by its first bytes."""
    return is_image_name(path.name) or (path.is_file() and holds_image(path))


def first_bytes(path: str | Path, size: int = 1024) -> bytes:
    """Beginning of a file; nothing where it cannot be read."""
    try:
        # Without blocking, as it might be a pipe by now.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        try:
            return os.read(descriptor, size)
        finally:
            os.close(descriptor)
    except OSError:
        return b""


#: Formats of which a file may hold several pictures, but for PNG, which says so near its beginning.
_SEVERAL = ("GIF", "WEBP", "TIFF", "AVIF")


def frames(path: str | Path) -> int:
    """Number of pictures in a file, of which one is looked at: frames of an animation, pages; 1 where that cannot be told.

    The further pictures of a camera's JPEG or HEIC are previews and depths, and do not count.
    """
    from PIL import Image

    try:
        head = first_bytes(path, 1 << 16)
        if image_format(head) not in _SEVERAL and not (head.startswith(b"\x89PNG") and b"acTL" in head):
            return 1
        with Image.open(path) as image:
            return int(getattr(image, "n_frames", 1))
    except Exception:  # whatever is wrong with it: it is no better than a still
        return 1


def suffix_of(name: str) -> str:
    """The suffix of a file name, in lower case."""
    return os.path.splitext(name)[1].lower()  # noqa: PTH122  (100,000 times a call)


def holds_image(path: str | Path) -> bool:
    """Whether a file is an image by its first bytes."""
    return image_format(first_bytes(path, SNIFFED)) is not None


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


def sha256(path: str | Path) -> str | None:
    """Digest of an image file's bytes; None where they cannot be read."""
    try:
        return hashlib.sha256(read(path)[0]).hexdigest()
    except (ImageError, OSError, ValueError):
        return None


def status(path: str | Path) -> FileStatus:
    """Size and time of an image file; OSError where there is no such file, or no such row in it."""
    found = _parse(path)
    if found is None:
        about = os.stat(path)  # noqa: PTH116 - of a hundred thousand files a Path takes longer than the look
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


def read_content(path: str | Path, digest: str) -> bytes | None:
    """Read an image file that still holds the content of that SHA-256; None if it does not, is gone, or is unreadable."""
    try:
        data, _ = read(path)
    except (ImageError, OSError):
        return None
    return data if hashlib.sha256(data).hexdigest() == digest else None


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
