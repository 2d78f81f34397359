"""Stream input: images or texts read, hashed, decoded and encoded, a few at a time.

Reading and decoding run in threads, some way ahead; encoding in batches, in the encoder's own threads. Batches are full as
long as more is on its way; when nothing is, a batch waits for `latency` seconds and goes as it is. So a slow stream is
answered at once, and a fast one pays for no small batches.
"""

from __future__ import annotations

import io
import math
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image

from ..data.images import image_size
from ..data.text import clean, text_sha256
from ..embed.encoder import Encoder, Modality
from ..embed.extract import (
    LOOK_AT,
    SAMPLE,
    FileFacts,
    Unencodable,
    Work,
    choose_shortest,
    encode_contents,
    one_line,
    read_file,
    read_image,
)
from ..errors import SourceError

__all__ = ["Content", "Item", "Pipeline", "Reader", "Trial", "item_of"]

# The outcome travels with the items, in their order, and what has been looked at so far is part of a stream's state. So
# neither threads nor a restart change with how many pixels a picture is encoded, as long as the first pictures' files stay
# where they are until it is settled.


@dataclass(frozen=True)
class Trial:
    """What the pictures up to some place in the stream have told."""

    settled: bool = False  # Whether it is decided
    shortest: int | None = None  # What decoding may shrink to; see `icehouse.data.images.decode`
    looked_at: int = 0  # Files that were looked at
    sample: tuple[str, ...] = ()  # Paths of those large enough to tell, until it is decided

    @classmethod
    def of(cls, notes: Mapping[str, Any]) -> Self:
        """Read from a state's notes what `as_notes` gave."""
        return cls(
            notes.get("settled", False),
            notes.get("shortest"),
            notes.get("looked_at", 0),
            tuple(notes.get("sample", ())),
        )

    def as_notes(self) -> dict[str, Any]:
        """Give it as JSON values."""
        return asdict(self)

    def after(self, path: Path, encoder: Encoder, output: str) -> Trial:
        """Tell how things stand once `path` has come, too."""
        looked_at, sample = self.looked_at + 1, self.sample
        if _is_large(path, 2 * encoder.image_side):
            sample = (*sample, os.fspath(path))
        if len(sample) < SAMPLE and not (sample and looked_at >= LOOK_AT):
            return replace(self, looked_at=looked_at, sample=sample)
        try:
            shortest = choose_shortest(encoder, [Work(name, Path(name), None) for name in sample], output)
        except Exception:  # of the model, of a device: the stream goes on with whole pictures
            shortest = None
        return Trial(True, shortest, looked_at)


def _is_large(path: Path, side: int) -> bool:
    try:
        return min(image_size(read_file(path)[0])) >= side
    except Exception:  # whatever is wrong with it is told when it is read
        return False


#: What a mapping may bring, and of which types.
_KINDS: dict[str, tuple[type, ...]] = {
    "path": (str, Path),
    "bytes": (bytes,),
    "image": (Image.Image,),
    "text": (str,),
}

#: Seconds that what was read waits, at least, for what is being read.
_READING = 0.5


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to judge: of `path`, `data` (a file's bytes), `image` and `text` what is known.

    `trial` tells how it may be decoded: smaller than it is, or whole where there is none.
    """

    id: str
    path: Path | None = None
    data: bytes | None = None
    image: Image.Image | None = None
    text: str | None = None
    error: str | None = None
    trial: Trial | None = None


@dataclass(slots=True)
class Content:
    """An item that was read."""

    item: Item
    key: str = ""  # sha256 of its content; empty if it could not be read
    phash: int | None = None
    #: Whether a picture is all of one colour: it has no vector then, since that would prove nothing
    blank: bool = False
    #: What the encoder takes: pixels, or a cleaned text. None for a content that is known already.
    prepared: np.ndarray | str | None = None
    wanted: bool = False  # Whether it has to be encoded
    vector: np.ndarray | None = None  # (dim,), or None
    error: str | None = None


def item_of(thing: Any, default_id: str, *, texts: bool = False) -> Item:
    """Make an item of what a caller gives."""
    if isinstance(thing, Item):
        return thing if thing.id else replace(thing, id=default_id)
    if isinstance(thing, Mapping):
        return _item_of_mapping(thing, default_id)
    if texts and isinstance(thing, str):
        return Item(default_id, text=thing)
    if isinstance(thing, (str, Path)):
        return Item(str(thing), Path(thing))
    if isinstance(thing, bytes):
        return Item(default_id, data=thing)
    if isinstance(thing, Image.Image):
        return Item(default_id, image=thing)
    return Item(default_id, error=f"{type(thing).__name__} is no path, bytes, picture or mapping")


def _item_of_mapping(thing: Mapping[str, Any], default_id: str) -> Item:
    path, given = thing.get("path"), thing.get("id")
    item_id = str(given) if given is not None else default_id if path is None else str(path)
    for name, kinds in _KINDS.items():
        value = thing.get(name)
        if value is not None and not isinstance(value, kinds):
            return Item(item_id, error=f"{name} is a {type(value).__name__}, not a {kinds[0].__name__}")
    return Item(
        item_id,
        None if path is None else Path(path),
        thing.get("bytes"),
        thing.get("image"),
        thing.get("text"),
    )


class Reader:
    """Reads items, and encodes what was read, for one output of one encoder."""

    def __init__(
        self,
        encoder: Encoder | None,
        modality: Modality,
        output: str,
        cleaning: str,
        dtype: str,
        knows: Callable[[str], bool],
    ) -> None:
        self.encoder, self.modality, self.output = encoder, modality, output
        self.cleaning, self.dtype, self.knows = cleaning, dtype, knows

    def read(self, item: Item, *, whole: bool = False) -> Content:
        """Read, hash and decode; of a content that is known only the hash, unless `whole`. Errors end in the content."""
        content = Content(item, error=item.error)
        if content.error is not None:
            return content
        if self.modality == "image":
            read = read_image(
                partial(_load, item),
                self.encoder,
                shortest=None if item.trial is None else item.trial.shortest,
                decoded=lambda sha: whole or not self.knows(sha),
                blanks=False,
            )
            content.key, content.blank, content.prepared = read.sha256, read.blank, read.pixels
            content.phash = None if read.facts is None else read.facts.phash
            content.error = None if read.error is None else one_line(read.error)
            return content
        try:
            if item.text is None:
                raise SourceError("no text")
            content.key, content.prepared = text_sha256(item.text), clean(item.text, self.cleaning)
        except Exception as error:  # of a text that is no Unicode: it costs only this item
            content.error = one_line(error)
        return content

    def encode(self, contents: list[Content]) -> None:
        """Fill in the vectors of contents; one that cannot be encoded gets an error, and costs only itself."""
        encoder = self.encoder
        if not contents or encoder is None:
            return

        def encode(prepared: list[Any]) -> dict[str, Any]:
            if self.modality == "image":
                return encoder.encode_images(np.stack(prepared), [self.output])
            return encoder.encode_texts(prepared, [self.output])

        for rows, made in encode_contents(encode, [content.prepared for content in contents], self.dtype):
            for place, content in enumerate(contents[row] for row in rows):
                content.prepared = None
                if isinstance(made, Unencodable):
                    content.error = f"cannot be encoded: {made.message}"
                else:
                    vectors = made[self.output]
                    assert isinstance(vectors, np.ndarray)
                    content.vector = vectors[place]


def _load(item: Item) -> tuple[bytes, FileFacts]:
    """The bytes to decode, of a file or as they were given."""
    if item.image is None and item.data is None and item.path is not None:
        return read_file(item.path)
    data = item.data if item.image is None else _as_file(item.image)
    if data is None:
        raise SourceError("no path, bytes or image")
    return data, FileFacts(len(data), 0)


class Pipeline:
    """Contents in the order of their items, in batches that are ready to be judged.

    A batch waits `latency` seconds for more where nothing is on its way, and half a second at least where something is: what
    has been read does not wait for a file that takes long. None waits for full batches.
    """

    def __init__(
        self,
        items: Iterable[Item],
        *,
        read: Callable[[Item], Content],
        admit: Callable[[Content], bool],
        encode: Callable[[list[Content]], None],
        encoders: AbstractContextManager[ThreadPoolExecutor],
        streams: int,
        batch_size: int,
        workers: int,
        latency: float | None,
    ) -> None:
        self.items, self.read, self.admit, self.encode = items, read, admit, encode
        self.encoders, self.streams, self.batch_size = encoders, streams, batch_size
        self.workers, self.latency = workers, latency
        self._over = threading.Event()
        #: What has happened: a read that was begun, the end (with an error, perhaps), or None to have another look.
        self._events: queue.SimpleQueue[Future[Content] | _End | None] = queue.SimpleQueue()
        self._room = threading.Semaphore((1 + streams) * batch_size + 2 * workers)

    def stop(self) -> None:
        """End after the batch that is being read; may be called from a signal handler."""
        self._over.set()
        self._events.put(None)

    def __iter__(self) -> Iterator[list[Content]]:
        with ThreadPoolExecutor(self.workers, "icehouse-read") as readers, self.encoders as encoders:
            threading.Thread(target=self._feed, args=(readers,), name="icehouse-feed", daemon=True).start()
            try:
                yield from self._batches(encoders)
            finally:
                self._over.set()
                self._room.release()
                for pool in (readers, encoders):
                    pool.shutdown(cancel_futures=True)

    def _feed(self, readers: ThreadPoolExecutor) -> None:
        """Begin to read items, as far ahead as there is room."""
        end = _End()
        try:
            for item in self.items:
                self._room.acquire()
                if self._over.is_set():
                    return
                future = readers.submit(self.read, item)
                self._events.put(future)
                future.add_done_callback(lambda _: self._events.put(None))
        except Exception as error:  # of the caller's iterable: told to the caller, by the thread that reads
            end.error = error
        finally:
            self._events.put(end)

    def _batches(self, encoders: ThreadPoolExecutor) -> Iterator[list[Content]]:
        reads: deque[Future[Content]] = deque()
        windows: deque[tuple[list[Content], Future[None]]] = deque()
        batch: list[Content] = []
        wanted: list[Content] = []
        since, end, patience = 0.0, None, 0.0
        while True:
            # All that has happened, so that what is already on its way is not taken for silence.
            for event in self._happened(patience):
                if isinstance(event, _End):
                    end = event
                elif event is not None:
                    reads.append(event)
            if self._over.is_set():
                return
            patience = 0.0
            while reads and reads[0].done() and not self._full(batch, wanted):
                content = reads.popleft().result()
                self._room.release()
                if not batch:
                    since = time.monotonic()
                batch.append(content)
                content.wanted = self.admit(content)
                if content.wanted:
                    wanted.append(content)
            idle = bool(batch) and len(windows) < self.streams
            left = self._left(since, bool(reads), end is not None)
            if (self._full(batch, wanted) and len(windows) < 2 * self.streams) or (idle and left <= 0):
                future = encoders.submit(self.encode, wanted)
                windows.append((batch, future))
                future.add_done_callback(lambda _: self._events.put(None))
                batch, wanted = [], []
                continue
            if windows and windows[0][1].done():
                done, future = windows.popleft()
                future.result()
                yield done
                continue
            if end is not None and not (reads or batch or windows):
                if end.error is not None:
                    raise end.error
                return
            patience = left if idle else math.inf

    def _left(self, since: float, reading: bool, ended: bool) -> float:
        """Seconds that a batch may still wait to fill, which has waited since then."""
        if ended and not reading:
            return 0.0
        if self.latency is None:
            return math.inf
        return since + (max(self.latency, _READING) if reading else self.latency) - time.monotonic()

    def _full(self, batch: list[Content], wanted: list[Content]) -> bool:
        return len(wanted) >= self.batch_size or len(batch) >= 2 * self.batch_size

    def _happened(self, patience: float) -> Iterator[Future[Content] | _End | None]:
        """Everything since last time; wait so many seconds for it, if need be."""
        try:
            if patience > 0:
                yield self._events.get(timeout=None if math.isinf(patience) else patience)
            while True:
                yield self._events.get_nowait()
        except queue.Empty:
            return


@dataclass
class _End:
    """The items have come to their end, or their iterable has failed."""

    error: Exception | None = None


def _as_file(image: Image.Image) -> bytes:
    """Bytes of a lossless file, so that a picture takes the way that all take, and has a digest of all that is in it."""
    file = io.BytesIO()
    if image.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        image.save(file, "PNG", compress_level=0, exif=image.getexif())
    else:
        image.save(file, "TIFF")
    return file.getvalue()
