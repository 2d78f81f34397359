"""Thumbnails of many items at once: in threads, each content encoded once."""

from __future__ import annotations

import base64
import io
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from PIL import Image

from ...data import image_files
from ...data.reposts import encode
from ...embed.thumbnails import Thumbnail, thumbnail

__all__ = ["Pictures", "Source", "Taken", "mini"]

#: Characters of embedded pictures kept in memory for contents that come again.
_KEEP = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Source:
    """A file to be shown, and what it was when its content was read; `content` is None where that is unknown."""

    file: Path
    content: str | None = None
    bytes: int | None = None
    mtime_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Taken:
    """A thumbnail, and whether its file is another than it was."""

    thumbnail: Thumbnail
    changed: bool = False


class Pictures:
    """Makes thumbnails; use it as a context.

    Parameters
    ----------
    side : int
        Longest side, in pixels.
    threads : int, optional
        As many as there are processors, at most 8, unless given.
    """

    def __init__(self, side: int, threads: int | None = None) -> None:
        self.side = side
        #: Files that were decoded.
        self.made = 0
        self._pool = ThreadPoolExecutor(threads or min(8, os.cpu_count() or 1), "thumbnails")
        self._kept: OrderedDict[str, Thumbnail] = OrderedDict()
        self._weight = 0
        self._lock = threading.Lock()

    def __enter__(self) -> Pictures:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def take(
        self, sources: Sequence[Source | None], progress: Callable[[int], None] | None = None
    ) -> list[Taken | None]:
        """Make the thumbnails of `sources`, in their order; None stays None.

        A file that is there and unchanged shows its content, which is encoded once, whoever has it; one that is gone is told
        as such even where another has the same content. `progress` is called with how many more are done.
        """
        looks = list(self._pool.map(_look, sources))
        wanted: OrderedDict[str, list[int]] = OrderedDict()
        for place, look in enumerate(looks):
            if look.key is not None:
                wanted.setdefault(look.key, []).append(place)

        def make(job: tuple[str, list[int]]) -> Thumbnail:
            key, places = job
            made = self._of(key, [source.file for place in places if (source := sources[place]) is not None])
            if progress is not None:
                with self._lock:
                    progress(len(places))
            return made

        made = dict(zip(wanted, self._pool.map(make, wanted.items()), strict=True))
        if progress is not None:
            progress(sum(look.key is None for look in looks))
        return [
            None
            if source is None
            else Taken(
                Thumbnail(None, problem=look.problem) if look.key is None else made[look.key], look.changed
            )
            for source, look in zip(sources, looks, strict=True)
        ]

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
    """What a glance at a file tells: under what `key` its thumbnail is known, or why there is none."""

    key: str | None = None
    problem: str | None = None
    changed: bool = False


def _look(source: Source | None) -> _Look:
    if source is None:
        return _Look()
    try:
        status = image_files.status(source.file)
    except FileNotFoundError:
        return _Look(problem="the file is gone")
    except (OSError, ValueError) as error:  # ValueError: a NUL in a path
        return _Look(problem=getattr(error, "strerror", None) or str(error))
    if source.bytes is None or source.content is None:
        return _Look(f"file {source.file}")
    if status.fits(source.bytes, source.mtime_ns):
        return _Look(f"content {source.content}")
    return _Look(f"file {source.file}", changed=status.size not in (None, source.bytes))


def mini(picture: Thumbnail, side: int) -> str | None:
    """Shrink a thumbnail to `side` pixels a side; its data URI."""
    if picture.uri is None:
        return None
    with Image.open(io.BytesIO(base64.b64decode(picture.uri.partition(",")[2]))) as image:
        small = image.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    return "data:image/webp;base64," + base64.b64encode(encode(small, "webp", 70)).decode()
