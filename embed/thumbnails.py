"""Thumbnails for pages, embedded as data URIs; whatever is wrong with a file becomes a sentence, never a failure."""

from __future__ import annotations

import base64
import io
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

from PIL import Image

from ..data import image_files
from ..data.images import decode
from ..errors import ImageError

#: Characters of embedded pictures kept in memory for contents that come again.
_KEEP = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A small picture as ``data:image/webp;base64,...`` with its size in pixels, or the problem why there is none.

    `changed` tells that the file is another than it was when its content was read.
    """

    uri: str | None
    width: int = 0
    height: int = 0
    problem: str | None = None
    changed: bool = False


@dataclass(frozen=True, slots=True)
class ImageFile:
    """A file to be shown, and what it was when its content was read; `content` is None where that is unknown."""

    file: Path
    content: str | None = None
    bytes: int | None = None
    mtime_ns: int | None = None


def thumbnail(source: Path | bytes, *, side: int = 320) -> Thumbnail:
    """Shrink an image file, or what is in one, to at most `side` pixels a side, upright."""
    try:
        data = source if isinstance(source, bytes) else image_files.read(source)[0]
        image = decode(data, shortest=side).image
    except (ImageError, OSError, ValueError) as error:
        return Thumbnail(None, problem=_problem(error))
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return Thumbnail(_uri(image, 76), *image.size)


def thumbnails(files: Sequence[Path | None], *, side: int = 320, threads: int = 4) -> list[Thumbnail | None]:
    """Thumbnails of `files`, in their order; None stays None."""
    with ThumbnailPool(side, threads) as pool:
        return pool.take([None if file is None else ImageFile(file) for file in files])


class ThumbnailPool:
    """Makes thumbnails in threads, each content once; use it as a context.

    A file that is there and unchanged shows its content, whichever file that was read from; one that is gone is told as
    such even where another has the same content.
    """

    def __init__(self, side: int, threads: int | None = None) -> None:
        self.side = side
        #: Files that were decoded.
        self.made = 0
        self._pool = ThreadPoolExecutor(threads or min(8, os.cpu_count() or 1), "thumbnails")
        self._kept: OrderedDict[str, Thumbnail] = OrderedDict()
        self._weight = 0
        self._lock = threading.Lock()

    def __enter__(self) -> ThumbnailPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def take(
        self, sources: Sequence[ImageFile | None], progress: Callable[[int], None] | None = None
    ) -> list[Thumbnail | None]:
        """Thumbnails of `sources`, in their order; None stays None. `progress` is called with how many more are done."""
        looks = list(self._pool.map(_look, sources))
        wanted: OrderedDict[str, list[Path]] = OrderedDict()
        for source, look in zip(sources, looks, strict=True):
            if source is not None and look.key is not None:
                wanted.setdefault(look.key, []).append(source.file)

        def make(job: tuple[str, list[Path]]) -> Thumbnail:
            made = self._of(*job)
            if progress is not None:
                with self._lock:
                    progress(len(job[1]))
            return made

        made = dict(zip(wanted, self._pool.map(make, wanted.items()), strict=True))
        if progress is not None:
            progress(sum(look.key is None for look in looks))
        found: list[Thumbnail | None] = []
        for source, look in zip(sources, looks, strict=True):
            if source is None:
                found.append(None)
            elif look.key is None:
                found.append(Thumbnail(None, problem=look.problem))
            else:
                found.append(replace(made[look.key], changed=look.changed))
        return found

    def _of(self, key: str, files: Sequence[Path]) -> Thumbnail:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        made = Thumbnail(None, problem="no file")
        for file in files:
            made = thumbnail(file, side=self.side)
            if made.uri is not None:
                break
        with self._lock:
            self.made += 1
            if made.uri is not None and key.startswith("content "):
                self._kept[key] = made
                self._weight += len(made.uri)
                while self._weight > _KEEP:
                    _, old = self._kept.popitem(last=False)
                    self._weight -= len(old.uri or "")
        return made


@dataclass(frozen=True, slots=True)
class _Look:
    """Lookup of a file by its status: the `key` of its thumbnail, or why there is none."""

    key: str | None = None
    problem: str | None = None
    changed: bool = False


def _look(source: ImageFile | None) -> _Look:
    if source is None:
        return _Look()
    try:
        status = image_files.status(source.file)
    except (OSError, ValueError) as error:
        return _Look(problem=_problem(error))
    if source.bytes is None or source.content is None:
        return _Look(f"file {source.file}")
    if status.fits(source.bytes, source.mtime_ns):
        return _Look(f"content {source.content}")
    return _Look(f"file {source.file}", changed=status.size not in (None, source.bytes))


def small_picture(source: Path | bytes, *, side: int = 320) -> bytes:
    """A thumbnail as WebP; ImageError says why there is none."""
    made = thumbnail(source, side=side)
    if made.uri is None:
        raise ImageError(made.problem or "no picture")
    return base64.b64decode(made.uri.partition(",")[2])


def shrink(picture: Thumbnail, side: int) -> str | None:
    """Shrink a thumbnail to `side` pixels a side; its data URI."""
    if picture.uri is None:
        return None
    with Image.open(io.BytesIO(base64.b64decode(picture.uri.partition(",")[2]))) as image:
        small = image.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    return _uri(small, 70)


def _uri(image: Image.Image, quality: int) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality, method=2)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def _problem(error: Exception) -> str:
    """Why a file cannot be read; a ValueError is of a NUL in a path."""
    if isinstance(error, FileNotFoundError):
        return "the file is gone"
    if isinstance(error, ImageError):
        return str(error)
    return getattr(error, "strerror", None) or str(error)
