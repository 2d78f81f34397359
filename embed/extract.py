"""Extraction: files and texts to vectors; read, decode and prepare in threads, encode in batches.

Nothing here knows of stores. An `Extractor` takes `Work` in the order it shall be done and yields what happened, in an
order that depends on the work alone, not on the threads: so an interrupted run that starts again composes the same
batches, and in float32 gets the same bits.

Threads, not processes: Pillow decodes and resizes outside Python's lock, and a thread hands its pixels over for nothing.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import KW_ONLY, asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ..data import image_files
from ..data.images import Picture, decode, load_hashing
from ..data.manifest import Manifest
from ..data.paths import why_missing
from ..data.text import clean, text_sha256
from ..errors import EncoderError, ImageError, brief
from ..store.search import unit_rows
from ..store.vectors import finite_rows
from .encoder import Encoder, Modality, Tokens

#: Stages in the order that an image goes through them.
STAGES = ("read", "decode", "encode image", "encode text", "write")


class StageClock:
    """Busy seconds and rows of each stage, added up over the threads that work in it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.busy = dict.fromkeys(STAGES, 0.0)
        self.rows = dict.fromkeys(STAGES, 0)

    @contextmanager
    def measure(self, stage: str, rows: int = 1) -> Iterator[None]:
        """Charge the time spent inside to `stage`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self.busy[stage] += time.perf_counter() - start
                self.rows[stage] += rows

    def table(self, workers: int, streams: int) -> list[dict[str, Any]]:
        """One entry a stage that did anything.

        ``per_second`` is what the stage alone would sustain with its threads (`workers` for reading and decoding,
        `streams` for encoding, one for writing): the smallest of them bounds the run.
        """
        threads_of = {"write": 1, "encode image": streams, "encode text": streams}
        entries = []
        for stage in STAGES:
            if not self.rows[stage]:
                continue
            threads = threads_of.get(stage, workers)
            rate = self.rows[stage] * threads / max(self.busy[stage], 1e-9)
            entries.append(
                {
                    "stage": stage,
                    "rows": self.rows[stage],
                    "busy_s": round(self.busy[stage], 3),
                    "threads": threads,
                    "per_second": round(rate, 1),
                }
            )
        return entries


@dataclass
class EmbedReport:
    """Outcome of one `embed_sources` call."""

    store: str
    encoder: str
    items: int = 0  # rows of the sources that were looked at
    new: int = 0  # items the store did not have, had with other content or columns, had as they are
    changed: int = 0
    unchanged: int = 0
    moved: int = 0  # items among the changed ones whose content is at another place now, the old one gone
    #: items of an earlier run whose file is gone, or whose row is no longer in its source; they stay in
    #: the store, marked ``missing``
    vanished: int = 0
    #: failures recorded now; failures of an earlier run left alone because the file is as it was
    failed: int = 0
    known_failures: int = 0
    rejected: int = 0  # rows of the sources that could not be taken at all; they are among the failures
    images: int = 0  # distinct contents encoded
    texts: int = 0
    cut_texts: int = 0  # texts among them that are longer than the encoder reads
    #: for each label or metadata column and ``split``: how many existing values this run replaced by
    #: others
    columns_changed: dict[str, int] = field(default_factory=dict)
    features: list[str] = field(default_factory=list)
    device: str | None = None
    precision: str | None = None
    batch_size: int | None = None
    workers: int = 0
    decoding: str | None = None
    seconds: float = 0.0
    stages: list[dict[str, Any]] = field(default_factory=list)  # see `StageClock.table`
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        return asdict(self)


#: Texts of this many batches are sorted by length together, so that short ones are not padded to long ones.
TEXT_WINDOW = 8


@dataclass(frozen=True, slots=True)
class Work:
    """One item to be looked at: `file` is read unless None, `text` encoded unless None; `tag` is the caller's."""

    item_id: str
    file: Path | None
    text: str | None
    tag: Any = None


@dataclass(frozen=True, slots=True)
class FileFacts:
    """Facts of an image file that was read; the picture's are None if it could not be decoded."""

    bytes: int
    mtime_ns: int
    image_sha256: str | None = None
    width: int | None = None
    height: int | None = None
    format: str | None = None
    phash: int | None = None


@dataclass(frozen=True, slots=True)
class Loaded:
    """An item has been through reading; `facts` is None where its file was not asked for or could not be read."""

    work: Work
    facts: FileFacts | None


@dataclass(frozen=True, slots=True)
class Failure:
    """Something could not be done for an item; `file` is None where its text failed."""

    item_id: str
    file: Path | None
    stage: str
    error: str
    message: str
    facts: FileFacts | None = None


@dataclass(frozen=True, slots=True)
class Encoded:
    """A batch went through the encoder: `keys` (sha256) in the rows' order, each output's rows, texts' cut flags."""

    modality: Modality
    keys: list[str]
    outputs: dict[str, np.ndarray | Tokens]
    truncated: np.ndarray | None = None


@dataclass(slots=True)
class Read:
    """An image that was read and prepared, or the `error` that it cost, with the `stage` it came from."""

    facts: FileFacts | None = None
    sha256: str = ""
    blank: bool = False
    turned: tuple[int, ...] | None = None  # perceptual hashes in all orientations, where asked for
    pixels: np.ndarray | None = None
    seen: Any = None  # what `look` made of the picture
    stage: str = ""
    error: Exception | None = None


def read_image(
    load: Callable[[], tuple[bytes, FileFacts]],
    encoder: Encoder | None,
    *,
    shortest: int | None = None,
    decoded: Callable[[str], bool] = lambda sha: True,
    wanted: Callable[[str], bool] = lambda sha: True,
    blanks: bool = True,
    turned: bool = False,
    look: Callable[[Any], Any] | None = None,
    clock: StageClock | None = None,
) -> Read:
    """Read, hash, decode and prepare one image; errors end in what is returned, and cost this image only.

    Its sha256 tells whether it is to be `decoded` at all, and whether the encoder's pixels are `wanted`; of blank pictures
    they are only if `blanks`. Perceptual hashes of the `turned` picture come along where asked for, and what `look` makes
    of a picture that is not blank.
    """
    read, clock = Read(stage="read"), clock or StageClock()
    try:
        with clock.measure("read"):
            data, read.facts = load()
        read.sha256 = hashlib.sha256(data).hexdigest()
        if not decoded(read.sha256):
            return read
        read.stage = "decode"
        with clock.measure("decode"):
            prepared = encoder is not None and wanted(read.sha256)
            picture = decode(data, shortest=shortest, hashed=True, turned=turned)
            read.facts, read.blank = facts_of(read.facts, read.sha256, picture), picture.blank
            read.turned = picture.turned
            if look is not None and not picture.blank:
                read.seen = look(picture.image)
            if encoder is not None and prepared and (blanks or not picture.blank):
                read.pixels = encoder.prepare_image(picture.image)
    except Exception as error:  # of a file, a disk, an encoder's own preprocessing
        read.error = error
    return read


class Unencodable(NamedTuple):
    """Why a content has no vector: class of the error, and message."""

    error: str
    message: str


Outputs = dict[str, np.ndarray | Tokens]


def encode_contents(
    encode: Callable[[list[Any]], Outputs], contents: list[Any], dtype: str, first: int = 0
) -> Iterator[tuple[np.ndarray, Outputs | Unencodable]]:
    """Encode a batch; if it fails as a whole, in halves, so that one content costs only itself.

    Yields places in the batch, counted from `first`, with the outputs' rows or with why they have none; values that do not
    fit `dtype` count as failures. An EncoderError is of no content, but of the encoder: its weights cannot be had.
    """
    try:
        outputs = encode(contents)
    except EncoderError:
        raise
    except Exception as error:  # whatever a model, a driver or a full device raises
        if len(contents) > 1:
            middle = len(contents) // 2
            yield from encode_contents(encode, contents[:middle], dtype, first)
            yield from encode_contents(encode, contents[middle:], dtype, first + middle)
        else:
            yield np.array([first]), Unencodable(type(error).__name__, brief(error))
        return
    sound = np.ones(len(contents), dtype=bool)
    for values in outputs.values():
        sound &= finite_rows(values.values if isinstance(values, Tokens) else values, dtype)
    if not sound.all():
        message = f"the encoder returned NaN, infinity or a number beyond {dtype}"
        yield np.flatnonzero(~sound) + first, Unencodable("NotFinite", message)
    if sound.any():
        yield np.flatnonzero(sound) + first, {name: _rows(values, sound) for name, values in outputs.items()}


Result = TypeVar("Result")
Given = TypeVar("Given")


def map_ahead(
    pool: Executor, function: Callable[[Given], Result], items: Iterable[Given], limit: int
) -> Iterator[tuple[Given, Result]]:
    """Results in the order of the items, of which no more than `limit` are begun ahead of the reader."""
    waiting: deque[tuple[Given, Future[Result]]] = deque()
    try:
        for item in items:
            waiting.append((item, pool.submit(function, item)))
            if len(waiting) >= limit:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    finally:
        for _, future in waiting:
            future.cancel()


@dataclass(slots=True)
class _Pending:
    """Contents waiting for their batch."""

    keys: list[str] = field(default_factory=list)
    contents: list[Any] = field(default_factory=list)
    owners: list[Work] = field(default_factory=list)

    def add(self, key: str, content: Any, owner: Work) -> None:
        self.keys.append(key)
        self.contents.append(content)
        self.owners.append(owner)


@dataclass
class Extractor:
    """Reads and encodes work with one encoder.

    What `image_done` and `text_done` hold (sha256) needs no encoding; they grow as batches are encoded. A vector that does
    not fit `dtype` is a failure, not an infinity.
    """

    encoder: Encoder
    _: KW_ONLY
    image_outputs: Sequence[str] = ()
    text_outputs: Sequence[str] = ()
    cleaning: str = "none"
    image_done: set[str] = field(default_factory=set)
    text_done: set[str] = field(default_factory=set)
    shortest: int | None = None
    workers: int = 1
    batch_size: int
    dtype: str = "float32"
    clock: StageClock = field(default_factory=StageClock)

    def __post_init__(self) -> None:
        self._images = _Pending()
        self._texts = _Pending()

    def run(self, works: Iterable[Work]) -> Iterator[Loaded | Failure | Encoded]:
        """Do the work; results come in its order, a window's all together, soon after the item that filled it."""
        load_hashing()
        windows: deque[Future[list[Encoded | Failure]]] = deque()
        with (
            ThreadPoolExecutor(self.workers, thread_name_prefix="icehouse-read") as readers,
            self.encoder.stream_pool() as streams,
        ):
            # A few batches ahead, and no further: pixels are what memory goes to.
            limit = (1 + self.encoder.streams) * self.batch_size + 2 * self.workers
            for work, read in map_ahead(readers, self._read, works, limit):
                yield from self._take(work, read)
                if len(self._images.keys) >= self.batch_size:
                    windows.append(streams.submit(self._encode_images, self._images))
                    self._images = _Pending()
                if len(self._texts.keys) >= self.batch_size * TEXT_WINDOW:
                    windows.append(streams.submit(self._encode_texts, self._texts))
                    self._texts = _Pending()
                # One window waits for each that is being encoded; more would only fill the memory.
                while len(windows) > 2 * self.encoder.streams:
                    yield from windows.popleft().result()
            windows.append(streams.submit(self._encode_images, self._images))
            windows.append(streams.submit(self._encode_texts, self._texts))
            while windows:
                yield from windows.popleft().result()

    def _read(self, work: Work) -> Read:
        """Read one image; runs in a worker thread."""
        if work.file is None:
            return Read()
        return read_image(
            partial(read_file, work.file),
            self.encoder,
            shortest=self.shortest,
            wanted=lambda sha: bool(self.image_outputs) and sha not in self.image_done,
            clock=self.clock,
        )

    def _take(self, work: Work, read: Read) -> Iterator[Loaded | Failure]:
        """Sort what a thread brought into the waiting batches."""
        if read.error is not None:
            kind, message = type(read.error).__name__, brief(read.error)
            if work.file is not None and isinstance(read.error, (FileNotFoundError, NotADirectoryError)):
                message = "; ".join(filter(None, (message, why_missing(work.file))))
            yield Failure(work.item_id, work.file, read.stage, kind, message, read.facts)
        # A copy may have been queued since the thread looked.
        if read.pixels is not None and read.sha256 not in self.image_done:
            self.image_done.add(read.sha256)
            self._images.add(read.sha256, read.pixels, work)
        if work.text is not None and self.text_outputs:
            sha = text_sha256(work.text)
            if sha not in self.text_done:
                self.text_done.add(sha)
                self._texts.add(sha, clean(work.text, self.cleaning), work)
        yield Loaded(work, read.facts)

    def _encode_images(self, window: _Pending) -> list[Encoded | Failure]:
        """Encode a batch of images; runs in a thread of the encoder's."""
        if not window.keys:
            return []
        with self.clock.measure("encode image", len(window.keys)):
            return list(self._encode("image", window))

    def _encode_texts(self, window: _Pending) -> list[Encoded | Failure]:
        """Encode a window of texts in batches of like length; runs in a thread of the encoder's."""
        if not window.keys:
            return []
        results: list[Encoded | Failure] = []
        with self.clock.measure("encode text", len(window.keys)):
            lengths = self.encoder.count_tokens(window.contents)
            order = np.argsort(lengths, kind="stable")
            for start in range(0, len(order), self.batch_size):
                chosen = order[start : start + self.batch_size]
                batch = _Pending(
                    [window.keys[i] for i in chosen],
                    [window.contents[i] for i in chosen],
                    [window.owners[i] for i in chosen],
                )
                results += self._encode("text", batch, lengths[chosen] > self.encoder.context_length)
        return results

    def _encode(
        self, modality: Modality, batch: _Pending, truncated: np.ndarray | None = None
    ) -> Iterator[Encoded | Failure]:
        """Encode a batch, and tell what came of it in the owners' terms."""

        def encode(contents: list[Any]) -> Outputs:
            if modality == "image":
                return self.encoder.encode_images(np.stack(contents), self.image_outputs)
            return self.encoder.encode_texts(contents, self.text_outputs)

        for rows, made in encode_contents(encode, batch.contents, self.dtype):
            if isinstance(made, Unencodable):
                for owner in (batch.owners[row] for row in rows):
                    file = owner.file if modality == "image" else None
                    yield Failure(owner.item_id, file, "encode", made.error, made.message)
            else:
                keys = [batch.keys[row] for row in rows]
                yield Encoded(modality, keys, made, None if truncated is None else truncated[rows])


def read_file(path: Path) -> tuple[bytes, FileFacts]:
    """Read an image whole, from its file or out of a Parquet file; see `icehouse.data.image_files.read`."""
    data, status = image_files.read(path)
    return data, FileFacts(len(data), status.mtime_ns)


def facts_of(facts: FileFacts, sha: str, picture: Picture) -> FileFacts:
    """File facts completed by what decoding found."""
    return FileFacts(
        facts.bytes, facts.mtime_ns, sha, picture.width, picture.height, picture.format, picture.phash
    )


def _rows(values: np.ndarray | Tokens, chosen: np.ndarray) -> np.ndarray | Tokens:
    if isinstance(values, Tokens):
        return Tokens(values.values[chosen], values.mask[chosen])
    return values[chosen]


# libjpeg decodes at 1/2, 1/4 or 1/8 for a fraction of the time. Whether that leaves the vectors alone depends on the model
# and on the pictures, so it is measured, on the first pictures of the run, before it is used.


#: Agreement with the model's exact preprocessing that shrunk decoding must keep, on every sampled picture.
MIN_COSINE = 0.999

#: Multiples of the model's input side that decoding may shrink to, boldest first.
MARGINS = (1.0, 2.0)

#: Pictures that are tried, and the most files that are opened to find them.
SAMPLE = 6
LOOK_AT = 48


def choose_shortest(encoder: Encoder, works: Iterable[Work], output: str) -> int | None:
    """Choose the shortest side in pixels that `icehouse.data.images.decode` may shrink to.

    None if only whole decoding keeps cosine `MIN_COSINE`, or no picture among the first `LOOK_AT` is large enough to tell.
    """
    sample: list[bytes] = []
    whole: list[np.ndarray] = []
    for looked, work in enumerate(work for work in works if work.file is not None):
        if looked == LOOK_AT or len(sample) == SAMPLE:
            break
        assert work.file is not None
        try:
            data, _ = read_file(work.file)
            picture = decode(data, shortest=encoder.image_side)
            if min(picture.image.size) < min(picture.width, picture.height):
                whole.append(encoder.prepare_image(decode(data).image))
                sample.append(data)
        except Exception:  # whatever is wrong with a file is told when it is encoded
            continue
    if not sample:
        return None
    exact = _vectors(encoder, whole, output)
    for margin in MARGINS:
        shortest = int(margin * encoder.image_side)
        try:
            shrunk = [encoder.prepare_image(decode(data, shortest=shortest).image) for data in sample]
        except ImageError:
            return None
        if (exact * _vectors(encoder, shrunk, output)).sum(axis=1).min() >= MIN_COSINE:
            return shortest
    return None


def _vectors(encoder: Encoder, pixels: list[np.ndarray], output: str) -> np.ndarray:
    """Unit vectors of prepared pictures."""
    encoded = encoder.encode_images(np.stack(pixels), [output])[output]
    assert isinstance(encoded, np.ndarray)
    return unit_rows(encoded, np.float32)


@dataclass(frozen=True)
class RawFeatures:
    """Vectors of a source's rows."""

    #: (modality, output) -> (n, dim) float32 array or `Tokens`, row by row with the manifest; NaN where a
    #: row has none
    arrays: dict[tuple[Modality, str], np.ndarray | Tokens]
    failures: list[Failure]  # what could not be read or encoded


def encode_manifest(
    manifest: Manifest,
    encoder: Encoder,
    *,
    outputs: Mapping[Modality, Sequence[str]],
    cleaning: str,
    workers: int | None = None,
) -> RawFeatures:
    """Encode a manifest's rows in memory, images decoded whole."""
    rows = manifest.table
    image_outputs, text_outputs = outputs.get("image", ()), outputs.get("text", ())
    extractor = Extractor(
        encoder,
        image_outputs=image_outputs,
        text_outputs=text_outputs,
        cleaning=cleaning,
        workers=workers or os.cpu_count() or 1,
        batch_size=encoder.batch_size,
    )
    ids, roots, paths, texts = (rows[name].to_pylist() for name in ("item_id", "root", "path", "text"))
    works = (
        Work(
            item_id,
            None if path is None or not image_outputs else Path(root) / path,
            text if text_outputs else None,
            i,
        )
        for i, (item_id, root, path, text) in enumerate(zip(ids, roots, paths, texts, strict=True))
    )
    keys: dict[Modality, list[str | None]] = {
        "image": [None] * len(rows),
        "text": [None if text is None else text_sha256(text) for text in texts],
    }
    batches: dict[Modality, list[Encoded]] = {"image": [], "text": []}
    failures: list[Failure] = []
    for event in extractor.run(works):
        if isinstance(event, Encoded):
            batches[event.modality].append(event)
        elif isinstance(event, Failure):
            failures.append(event)
        elif event.facts is not None:
            keys["image"][event.work.tag] = event.facts.image_sha256
    arrays = {
        (modality, output): _by_row(
            keys[modality], batches[modality], output, encoder.output(modality, output).dim
        )
        for modality, names in outputs.items()
        for output in names
    }
    return RawFeatures(arrays, failures)


def _by_row(keys: list[str | None], batches: list[Encoded], output: str, dim: int) -> np.ndarray | Tokens:
    """Lay encoded contents out in the rows' order."""
    place = {key: i for i, key in enumerate(key for batch in batches for key in batch.keys)}
    rows = np.array([place.get(key, -1) if key is not None else -1 for key in keys], dtype=np.int64)
    found = rows >= 0
    values = [batch.outputs[output] for batch in batches]
    tokens = [v for v in values if isinstance(v, Tokens)]
    if tokens:
        longest = max(v.values.shape[1] for v in tokens)
        states = np.full((len(keys), longest, dim), np.nan, dtype=np.float32)
        mask = np.zeros((len(keys), longest), dtype=bool)
        padded = np.concatenate(
            [np.pad(v.values, ((0, 0), (0, longest - v.values.shape[1]), (0, 0))) for v in tokens]
        )
        masks = np.concatenate([np.pad(v.mask, ((0, 0), (0, longest - v.mask.shape[1]))) for v in tokens])
        states[found], mask[found] = padded[rows[found]], masks[rows[found]]
        return Tokens(states, mask)
    X = np.full((len(keys), dim), np.nan, dtype=np.float32)
    if found.any():
        X[found] = np.concatenate([v for v in values if isinstance(v, np.ndarray)])[rows[found]]
    return X
