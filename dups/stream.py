"""Streaming duplicate detection: each image or text compared with the most recent ones as it comes.

Reading and decoding run in threads, some way ahead; encoding in batches, in the encoder's own threads. Batches are full as
long as more is on its way; when nothing is, a batch waits for `latency` seconds and goes as it is. So a slow stream is
answered at once, and a fast one pays for no small batches. Results come in the order of the items.
"""

from __future__ import annotations

import io
import math
import os
import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from PIL import Image

from ..data.images import image_size
from ..data.text import DEFAULT_CLEANING, clean, text_sha256
from ..embed.encoder import Encoder, Modality, load_named
from ..embed.extract import (
    LOOK_AT,
    SAMPLE,
    FileFacts,
    Unencodable,
    Work,
    choose_shortest,
    encode_contents,
    read_file,
    read_image,
)
from ..embed.tables import feature_provenance, load_checked
from ..errors import SourceError, UsageError, brief, count_of
from ..store.schema import fingerprint
from ..store.store import Store
from .agreements import StreamPictures
from .pair_graph import default_feature
from .registration import Picture
from .rule import DEFAULT_HAMMING, Rule
from .variants import POLICIES, Policy
from .views import as_read, picture_views
from .window import BATCH, DEFAULT_WINDOW, Arrival, SlidingWindow, StreamResult
from .window_rules import FittedRules, Rules, fixed_rules, store_rules
from .window_state import check_place, load_window, save_window

# The outcome travels with the items, in their order, and what has been looked at so far is part of a stream's state. So
# neither threads nor a restart change with how many pixels a picture is encoded, as long as the first pictures' files stay
# where they are until it is settled.


@dataclass(frozen=True)
class DecodingTrial:
    """Trial of how far decoding may shrink pictures, up to some place in the stream."""

    settled: bool = False  # whether it is decided
    shortest: int | None = None  # what decoding may shrink to; see `icehouse.data.images.decode`
    looked_at: int = 0  # files that were looked at
    sample: tuple[str, ...] = ()  # paths of those large enough to tell, until it is decided

    @classmethod
    def of(cls, notes: Mapping[str, Any]) -> Self:
        """Read what `asdict` gave from a state's notes, which have other things too."""
        known = {field.name: notes[field.name] for field in fields(cls) if field.name in notes}
        return cls(**{**known, "sample": tuple(known.get("sample", ()))})

    def after(self, path: Path, encoder: Encoder, output: str) -> DecodingTrial:
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
        return DecodingTrial(True, shortest, looked_at)


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


#: Share of what comes that may be near-duplicates before that is told, and of how many at least.
_PLAUSIBLE, _SOME = 0.6, 100

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
    trial: DecodingTrial | None = None
    line: int | None = None  # place in the input, from 0; what is left out there, a blank line, counts too


@dataclass(slots=True)
class Content:
    """An item that was read."""

    item: Item
    key: str = ""  # sha256 of its content; empty if it could not be read
    phash: int | None = None
    #: hashes of the picture in all orientations
    turned: tuple[int, ...] | None = None
    #: hashes of its views, and a thumbnail; None where they are not asked for
    seen: Seen | None = None
    #: whether a picture is all of one colour: it has no vector then, since that would prove nothing
    blank: bool = False
    #: what the encoder takes: pixels, or a cleaned text. None for a content that is known already.
    prepared: np.ndarray | str | None = None
    wanted: bool = False  # whether it has to be encoded
    vector: np.ndarray | None = None  # (dim,), or None
    error: str | None = None


class Seen(NamedTuple):
    """What the window compares of a picture beside its hash and vector."""

    views: np.ndarray  # uint64 (VIEWS,)
    thumb: np.ndarray  # uint8 (64, 64)
    grey: np.ndarray | None = None  # the picture, as it is registered, where it cannot be read again


def look(image: Image.Image, *, keep: bool = False) -> Seen:
    """Hash the views of a decoded picture, and make its thumbnail; of a large one by an exact reduction.

    `keep` is for what has no file from which it could be read again.
    """
    made = picture_views(as_read(image))
    return Seen(made.hashes, made.thumb, Picture.of(image).grey if keep else None)


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


def path_of(file: Path | None) -> str | None:
    """A file by which a content can be read again, wherever the next run is started."""
    return None if file is None else str(file.absolute())


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
            for event in self._wait_for_events(patience):
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

    def _wait_for_events(self, patience: float) -> Iterator[Future[Content] | _End | None]:
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


class DuplicateStream:
    """Judges images, or texts, against the most recent ones.

    Parameters
    ----------
    encoder : Encoder, str or None
        An encoder, or its id ("mini"); None to compare bytes and perceptual hashes only. `from_store` takes a store's.
    modality : {"image", "text"}, default "image"
        What of an item is judged.
    output : str, default "pooled"
        Output of the encoder to compare.
    rule : Rule, float or Rules, optional
        Least cosine of the vectors as they are, or more than that. Unless given, each pair is held against its own
        neighbourhood, as `find_duplicates` does: what neighbourhoods look like is told from the first contents, and until
        there are enough of them only near-certain pairs count. See `icehouse.dups.window_rules`.
    hamming : int, "auto" or None, default "auto"
        Bits of 64 in which perceptual hashes may differ: 6, or what the set leaves of it; None leaves the stage out.
    window : int, default 100,000
        Contents remembered.
    state : str or Path, optional
        File to go on from, if it is there, and to `save` to.
    save_every : float, optional
        Seconds after which `judge_many` saves by itself; by default only `save` and leaving a ``with`` block do.
    views : bool, optional
        Hash parts of the images too, so that crops, frames and bands are found among the latest
        `icehouse.dups.window.RECENT` arrivals, and keep their thumbnails; by default where there are an encoder and hashes.
    variants : {"keep", "drop"}, default "keep"
        Whether pictures that agree while their texts, or the words inside them, do not are told as variants, or as
        duplicates; see `icehouse.dups.variants`.
    shrink : bool, default True
        Decode large pictures smaller where a trial on the first ones leaves the vectors alone, as `icehouse embed` does.
    cleaning : str
        Of texts; see `icehouse.data.text`.
    device : str, default "auto"
    workers, batch_size : int, optional
        Threads that read and decode; images encoded at once.

    Attributes
    ----------
    window : SlidingWindow
    rule : Rule
    counts : Counter of str
        Verdicts by kind, since the stream began, restarts included.
    lines : int
        Items, or lines of input, that were answered, those that could not be read among them: what follows is the next.

    Raises
    ------
    SpaceError
        If the state was made with another encoder.
    CorruptError
        If the state is damaged.
    StoreError
        If it cannot be read, or there is no writing where it shall be.

    Examples
    --------
    >>> with DuplicateStream("mini", state="window.state") as stream:   # doctest: +SKIP
    ...     for verdict in stream.judge_many(Path("inbox").glob("*.jpg")):
    ...         print(verdict.id, verdict.kind, verdict.match and verdict.match.id)
    """

    def __init__(
        self,
        encoder: Encoder | str | None,
        *,
        modality: Modality = "image",
        output: str = "pooled",
        rule: Rule | float | Rules | None = None,
        hamming: int | Literal["auto"] | None = "auto",
        window: int = DEFAULT_WINDOW,
        state: str | Path | None = None,
        save_every: float | None = None,
        views: bool | None = None,
        variants: Policy = "keep",
        shrink: bool = True,
        cleaning: str = DEFAULT_CLEANING,
        device: str = "auto",
        workers: int | None = None,
        batch_size: int | None = None,
    ) -> None:
        if encoder is None and (modality == "text" or rule is not None):
            raise UsageError("without an encoder there are no vectors: texts and cosines need one")
        if output == "tokens":
            raise UsageError("tokens are not one vector an image; compare by pooled or joint")
        loaded = load_named(encoder, device=device) if isinstance(encoder, str) else encoder
        self.modality, self.encoder = modality, loaded
        self.output, self.cleaning = output, cleaning
        if variants not in POLICIES:
            raise UsageError(f"variants are one of {', '.join(POLICIES)}, not {variants!r}")
        if modality == "text":
            hamming = None
        self.viewed = looks_at_views(views, hamming, loaded is not None)
        self.state = None if state is None else Path(state)
        self.save_every = save_every
        self.workers = workers or os.cpu_count() or 1
        self.batch_size = batch_size or (loaded.batch_size if loaded else BATCH)
        self._space: dict[str, Any] = {"fingerprint": None}
        dim = None
        if loaded is not None:
            dim = loaded.output(modality, output).dim
            known = feature_provenance(loaded, modality, output, cleaning)
            self._space = {"fingerprint": fingerprint(known), "vectors": f"{loaded.id}/{modality}/{output}"}
        rules = rule if isinstance(rule, Rules) else self._rules(rule, hamming, window)
        pictures = StreamPictures() if modality == "image" else None
        notes: dict[str, Any] = {}
        if self.state is not None:
            check_place(self.state)
        if self.state is not None and self.state.exists():
            self.window, notes = load_window(
                self.state,
                rule=rules,
                capacity=window,
                space=self._space,
                variants=variants,
                pictures=pictures,
            )
        else:
            self.window = SlidingWindow(window, rule=rules, dim=dim, variants=variants, pictures=pictures)
        self.counts: Counter[str] = Counter(notes.get("counts", {}))
        self.lines: int = notes.get("lines", self.counts.total())
        self._pending: Counter[str] = Counter()
        self._trial = DecodingTrial.of(notes)
        self._shrinks = shrink and loaded is not None and modality == "image"
        self._saved_at = time.monotonic()
        self._running: Pipeline | None = None
        self._stopped = False
        #: Where the rule is from.
        self.remarks: list[str] = []

    @property
    def rule(self) -> Rule:
        """What makes near-duplicates now."""
        return self.window.rule

    def _rules(self, rule: Rule | float | None, hamming: int | Literal["auto"] | None, window: int) -> Rules:
        """Rules by a rule or a cosine; without one, by what comes."""
        automatic = hamming == "auto"
        bits: int | None = DEFAULT_HAMMING if hamming == "auto" else hamming
        if rule is None and self.encoder is not None:
            name, known = str(self._space["vectors"]), str(self._space["fingerprint"])
            return FittedRules(name, known, window, hamming=bits, automatic=automatic, viewed=self.viewed)
        if isinstance(rule, Rule):
            if automatic and rule.hamming is not None:
                bits = rule.hamming
            rule = replace(rule, hamming=bits)
        else:
            rule = Rule(bits, rule)
        return fixed_rules(rule, window, viewed=self.viewed)

    @classmethod
    def from_store(
        cls,
        store: Store | str | Path,
        *,
        feature: str | None = None,
        encoder: Encoder | None = None,
        rule: Rule | float | Rules | None = None,
        expected_false_pairs: float | None = None,
        window: int = DEFAULT_WINDOW,
        device: str = "auto",
        **options: Any,
    ) -> Self:
        """Judge with the encoder of a store's feature, by default the one `icehouse dups find` would compare by.

        Unless a rule is given, the feature's calibration makes it, if there is one of the same fingerprint; else what the
        store's contents have for neighbours, where there are two hundred of them.

        Parameters
        ----------
        store : Store, str or Path
        feature : str, optional
        encoder : Encoder, optional
            One that is loaded already, held against the feature like any other.
        rule : Rule, float or Rules, optional
        expected_false_pairs : float, optional
            False pairs that a calibration's threshold may let one expect among all pairs of what the window holds, rounded
            up to a power of two; 1 unless given. While as many contents come as a full window holds, each is compared with
            all others, so that these are twice as many false matches; while it fills, about as many with each doubling.
        window : int, default 100,000
        device : str, default "auto"
        **options
            As the class takes them.

        Raises
        ------
        UsageError
            If the store has no feature, or several encoders'; or no calibration, where false pairs are given.
        SpaceError
            If the encoder is no longer the one the feature was made with.
        """
        store = Store.of(store)
        feature = feature or default_feature(store)
        if feature is None:
            raise UsageError(
                f"{store.path} has no features; make some with `icehouse embed`, or name an encoder"
            )
        spec = store.feature_table(feature).snapshot().spec
        remarks: list[str] = []
        if rule is not None and expected_false_pairs is not None:
            raise UsageError("give a cosine, or the number of false pairs to choose it by, not both")
        if rule is None:
            hamming = None if spec["modality"] == "text" else options.get("hamming", "auto")
            rule, remarks = store_rules(
                store,
                feature,
                window,
                expected_false_pairs,
                hamming=DEFAULT_HAMMING if hamming == "auto" else hamming,
                automatic=hamming == "auto",
                viewed=looks_at_views(options.get("views"), hamming, True),
            )
        loaded = load_checked(spec, encoder, device=device)
        cleaning = spec["provenance"].get("cleaning", DEFAULT_CLEANING)
        made = cls(
            loaded,
            modality=spec["modality"],
            output=spec["output"],
            cleaning=cleaning,
            rule=rule,
            window=window,
            device=device,
            **options,
        )
        made.remarks = remarks
        return made

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.save()

    def judge(self, item: str | Path | bytes | Image.Image | dict[str, Any] | Item) -> StreamResult:
        """Judge one item, and remember it.

        Parameters
        ----------
        item : str, Path, bytes, PIL.Image.Image or dict
            A path; a file's bytes; a picture; or a mapping with ``path``, ``bytes``, ``image`` or ``text``, and perhaps
            ``id``. Where texts are judged, a str is a text.

        Returns
        -------
        StreamResult
            Of kind "error" if it cannot be read; the window is then as it was.
        """
        content = self._read(next(self._prepared([item])))
        if self._admit(content):
            self._encode([content])
        return next(self._results([content]))

    def judge_many(self, items: Iterable[Any], *, latency: float | None = None) -> Iterator[StreamResult]:
        """Judge items as they come, reading, decoding and encoding several at once.

        Parameters
        ----------
        items : iterable
            Of what `judge` takes. It is read ahead, in a thread of its own.
        latency : float, optional
            Seconds that an item may wait for a batch to fill while no other is on its way. By default batches are always
            full, so that they do not depend on how fast items come.

        Yields
        ------
        StreamResult
            In the order of the items. Whatever was not yet yielded when the caller stops is not remembered either.
        """
        encoder = self.encoder
        pipeline = Pipeline(
            self._prepared(items),
            read=self._read,
            admit=self._admit,
            encode=self._encode,
            encoders=encoder.stream_pool() if encoder else ThreadPoolExecutor(1),
            streams=encoder.streams if encoder else 1,
            batch_size=self.batch_size,
            workers=self.workers,
            latency=latency,
        )
        self._running = pipeline
        self._pending.clear()
        try:
            if self._stopped:
                return
            for contents in pipeline:
                for verdict in self._results(contents):
                    yield verdict
                    if self._stopped:
                        return
                self._save_sometimes()
        finally:
            self._running = None

    @property
    def notes(self) -> list[str]:
        """Remarks to read before relying on the verdicts."""
        notes = [*self.remarks, *self.window.rules.notes]
        if self.lines:
            unread = self.counts["error"]
            aside = f" ({unread:,} of them could not be read)" if unread else ""
            notes.append(
                f"going on after {count_of(self.lines, 'line')}{aside}: feed what follows; "
                f"{count_of(len(self.window), 'content is', 'contents are')} in "
                "the window"
            )
        return notes

    @property
    def warnings(self) -> list[str]:
        """What came that casts doubt on the verdicts, or makes the rule a careful one."""
        told = list(self.window.rules.warnings)
        near = self.counts["perceptual"] + self.counts["embedding"]
        compared = self.counts.total() - self.counts["error"] - self.counts["exact"]
        if compared >= _SOME and near > _PLAUSIBLE * compared:
            told.append(
                f"{near / compared:.0%} of what came are near-duplicates of what was there, byte copies aside: hardly all "
                "of them are, unless everything comes several times; look at some with --all-matches, or calibrate"
            )
        return told

    def stop(self) -> None:
        """End `judge_many` after the verdict in hand, for good; may be called from a signal handler or another thread."""
        self._stopped = True
        if self._running is not None:
            self._running.stop()

    def save(self) -> Path | None:
        """Write the state, if there is a file for it; what it holds is exactly what has been judged."""
        if self.state is None:
            return None
        notes = {
            "counts": dict(self.counts),
            "lines": max(self.lines, self.counts.total()),
            **asdict(self._trial),
        }
        save_window(self.window, self.state, space=self._space, notes=notes)
        self._saved_at = time.monotonic()
        return self.state

    def _save_sometimes(self) -> None:
        due = self.save_every is not None and time.monotonic() - self._saved_at >= self.save_every
        if due and self.state is not None:
            self.save()

    def _read(self, item: Item, *, whole: bool = False) -> Content:
        """Read, hash and decode; of a content that is known only the hash, unless `whole`. Errors end in the content."""
        content = Content(item, error=item.error)
        if content.error is not None:
            return content
        if self.modality == "image":
            read = read_image(
                partial(_load, item),
                self.encoder,
                shortest=None if item.trial is None else item.trial.shortest,
                decoded=lambda sha: whole or not self.window.knows(sha),
                blanks=False,
                turned=True,
                look=partial(look, keep=item.path is None) if self.viewed else None,
            )
            content.key, content.blank, content.prepared = read.sha256, read.blank, read.pixels
            content.phash = None if read.facts is None else read.facts.phash
            content.turned, content.seen = read.turned, read.seen
            content.error = None if read.error is None else brief(read.error)
            return content
        try:
            if item.text is None:
                raise SourceError("no text")
            content.key, content.prepared = text_sha256(item.text), clean(item.text, self.cleaning)
        except Exception as error:  # of a text that is no Unicode: it costs only this item
            content.error = brief(error)
        return content

    def _encode(self, contents: list[Content]) -> None:
        """Fill in the vectors of contents; one that cannot be encoded gets an error, and costs only itself."""
        encoder = self.encoder
        if not contents or encoder is None:
            return

        def encode(prepared: list[Any]) -> dict[str, Any]:
            if self.modality == "image":
                return encoder.encode_images(np.stack(prepared), [self.output])
            return encoder.encode_texts(prepared, [self.output])

        for rows, made in encode_contents(
            encode, [content.prepared for content in contents], str(self.window.dtype)
        ):
            for place, content in enumerate(contents[row] for row in rows):
                content.prepared = None
                if isinstance(made, Unencodable):
                    content.error = f"cannot be encoded: {made.message}"
                else:
                    vectors = made[self.output]
                    assert isinstance(vectors, np.ndarray)
                    content.vector = vectors[place]

    def _prepared(self, items: Iterable[Any]) -> Iterator[Item]:
        trial, encoder = self._trial, self.encoder
        first = self.lines
        for place, thing in enumerate(items):
            given = thing.line if isinstance(thing, Item) else None
            line = first + (place if given is None else given)
            item = item_of(thing, f"#{line}", texts=self.modality == "text")
            item = replace(item, line=line)
            if self._shrinks and encoder is not None:
                if item.path is not None and not trial.settled:
                    trial = trial.after(item.path, encoder, self.output)
                item = replace(item, trial=trial)
            yield item

    def _admit(self, content: Content) -> bool:
        """Whether a content has to be encoded; it has not where a copy of it is in the window, or on its way there."""
        if content.error is not None:
            return False
        known = self.window.knows(content.key) or self._pending[content.key] > 0
        self._pending[content.key] += 1
        return not known and self.encoder is not None and content.prepared is not None

    def _results(self, contents: list[Content]) -> Iterator[StreamResult]:
        for start in range(0, len(contents), BATCH):
            batch = contents[start : start + BATCH]
            self._complete(batch)
            sound = [content for content in batch if content.error is None]
            judged = self.window.judge([self._arrival(content) for content in sound])
            for content in batch:
                if content.key:
                    self._pending[content.key] -= 1
                    if self._pending[content.key] <= 0:
                        del self._pending[content.key]
                if content.error is None:
                    verdict = next(judged)
                else:
                    verdict = StreamResult(content.item.id, None, error=content.error)
                self.counts[verdict.kind] += 1
                self._trial = content.item.trial or self._trial
                if content.item.line is not None:
                    self.lines = content.item.line + 1
                yield replace(verdict, line=content.item.line)

    def _arrival(self, content: Content) -> Arrival:
        views, thumb, grey = (None, None, None) if content.seen is None else content.seen
        text = content.item.text if self.modality == "image" else None
        return Arrival(
            content.item.id, content.key, content.phash, content.vector, content.turned, views, thumb, text,
            path_of(content.item.path), grey,
        )  # fmt: skip

    def _complete(self, batch: list[Content]) -> None:
        """Encode what was thought to be known, and has been forgotten since, or could not be encoded then."""
        here: set[str] = set()
        for content in batch:
            if content.error is not None:
                continue
            lacking = content.vector is None and self.encoder is not None and not content.blank
            unread = self.modality == "image" and content.phash is None
            if (lacking or unread) and content.key not in here and not self.window.knows(content.key):
                whole = self._read(content.item, whole=True)
                self._encode([whole] if whole.prepared is not None else [])
                content.error, content.phash, content.vector = whole.error, whole.phash, whole.vector
                content.turned, content.seen = whole.turned, whole.seen
                if whole.error is None and whole.key != content.key:
                    content.error = "the file was changed while it was being read"
            if content.error is None:
                here.add(content.key)


def looks_at_views(views: bool | None, hamming: int | Literal["auto"] | None, encoded: bool) -> bool:
    """Whether views of pictures are made, by what was asked for: by default where they are encoded and hashed."""
    if views and hamming is None:
        raise UsageError("views are compared by perceptual hashes, and these are left out")
    return hamming is not None and (encoded if views is None else views)
