"""The pipeline of a watch: read and fetch, repeats, gates, heads, results out, and only then acknowledged.

Posts are read in one thread, and fetched in some, so that a slow server holds nobody up. From then on they go through the
pipeline of `icehouse.dups.stream` in the order in which they became ready: decoded in threads, encoded in batches, judged
here. All queues are bounded: where results cannot be written, nothing more is read.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import queue
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...data.images import decode, load_hashing
from ...data.text import text_sha256
from ...dups.stream import DecodingTrial, DuplicateStream, Pipeline, Seen, look, path_of
from ...dups.window import Arrival, Match, StreamResult
from ...embed.extract import FileFacts, facts_of, read_file
from ...errors import ImageError, brief
from .fetch import Fetcher, FetchError, inside
from .messages import Decision, Message, Post, parse
from .rules import Collections
from .scoring import Contents, Feature, Model, Scorer
from .sinks import Sink
from .sources import Source
from .status import Status

#: Posts between the source and the results, at most.
IN_FLIGHT = 256

#: Pictures that are fetched at once.
FETCHES = 16

#: Seconds between flushes of what sinks keep back, and between states.
FLUSH_S, TICK_S = 5.0, 1.0

#: Which parts of a post have to be repeated for it to be a repeat.
REPEATS = ("image", "text", "post", "off")


@dataclass(slots=True)
class Work:
    """A post on its way."""

    post: Post
    path: Path | None = None
    trial: DecodingTrial | None = None
    image_key: str | None = None  # sha256 of the picture's file
    text_key: str | None = None
    facts: FileFacts | None = None
    phash: int | None = None
    turned: tuple[int, ...] | None = None  # hashes of the picture in all orientations
    seen: Seen | None = None
    blank: bool = False
    wanted: bool = False
    error: str | None = None  # why nothing of it can be judged
    stage: str = "read"
    collections: list[str] = field(default_factory=list)
    filtered: bool = False
    contents: Contents = field(default_factory=Contents)
    ready: bool = False  # whether the contents hold all that heads may ask for
    pending: str = ""  # what copies of it on their way are known by
    variant_of: dict[str, Any] | None = None  # the post whose picture it has, with other words


class Intake:
    """Posts of a source, as they become ready: those without a URL at once, the others once they are fetched."""

    def __init__(self, source: Source, fetcher: Fetcher | None, root: Path | None, in_flight: int) -> None:
        self.source, self.fetcher, self.root = source, fetcher, root
        self._room = threading.Semaphore(in_flight)
        self._ready: queue.SimpleQueue[Work | BaseException | None] = queue.SimpleQueue()
        self._pool = ThreadPoolExecutor(FETCHES, "icehouse-fetch")
        self._fetching = 0
        self._ended = False
        self._lock = threading.Lock()
        self.over = threading.Event()
        self._thread = threading.Thread(target=self._read, name="icehouse-source", daemon=True)

    def __iter__(self) -> Iterator[Work]:
        self._thread.start()
        while True:
            found = self._ready.get()
            if found is None:
                return
            if isinstance(found, BaseException):
                raise found
            yield found

    def release(self, n: int) -> None:
        """Make room for as many posts as are done."""
        self._room.release(n)

    def stop(self) -> None:
        """Give up what is still waited for."""
        self.over.set()
        self._room.release()
        self._ready.put(None)
        self._pool.shutdown(wait=False, cancel_futures=True)
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def _read(self) -> None:
        try:
            for message in self.source:
                self._room.acquire()
                if self.over.is_set():
                    return
                self._take(message)
        except Exception as error:  # of a broker: told to the thread that writes results
            self._ready.put(error)
            return
        with self._lock:
            self._ended = True
            if not self._fetching:
                self._ready.put(None)

    def _take(self, message: Message) -> None:
        post = parse(message)
        work = Work(post)
        if post.error is not None:
            work.error, work.stage = post.error, "read"
        elif post.image is None and post.image_path is not None:
            try:
                work.path = inside(post.image_path, self.root)
            except (FetchError, OSError) as error:
                work.contents.errors["image"] = brief(error)
        elif post.image is None and post.image_url is not None:
            if self.fetcher is None:
                work.contents.errors["image"] = "image_url is not fetched (--no-fetch)"
            else:
                with self._lock:
                    self._fetching += 1
                self._pool.submit(self._fetch, work)
                return
        self._ready.put(work)

    def _fetch(self, work: Work) -> None:
        begun = time.perf_counter()
        assert self.fetcher is not None
        assert work.post.image_url is not None
        try:
            work.path = self.fetcher.path(work.post.image_url)
        except Exception as error:  # of a server, a disk: it costs this picture
            work.contents.errors["image"] = brief(error)
        work.post.ms["fetch"] = 1000 * (time.perf_counter() - begun)
        self._ready.put(work)
        with self._lock:
            self._fetching -= 1
            if self._ended and not self._fetching:
                self._ready.put(None)


class Watch:
    """Judges the posts of a source and writes what is decided."""

    def __init__(
        self,
        source: Source,
        sinks: Sequence[Sink],
        scorer: Scorer,
        *,
        images: DuplicateStream | None,
        texts: DuplicateStream | None,
        compared: Mapping[str, Feature],
        spaces: Mapping[str, str],
        repeats: str,
        status: Status,
        folder: Path | None,
        errors: Sink | None = None,
        fetcher: Fetcher | None = None,
        fetches: bool = True,
        keeps: bool = False,
        root: Path | None = None,
        collections: Collections | None = None,
        learner: Any = None,
        drift: Any = None,
        latency: float = 0.02,
        workers: int | None = None,
        stats_s: float | None = None,
        save_every: float = 600.0,
        in_flight: int = IN_FLIGHT,
    ) -> None:
        self.source, self.sinks, self.errors = source, list(sinks), errors
        self.scorer, self.images, self.texts, self.repeats = scorer, images, texts, repeats
        self.status, self.folder, self.collections = status, folder, collections
        self.learner, self.drift = learner, drift
        #: Feature that each window compares by, by modality, and the fingerprint of its space.
        self.compared, self.spaces = dict(compared), dict(spaces)
        self.latency, self.stats_s, self.save_every = latency, stats_s, save_every
        self._saved_at = time.monotonic()
        self.workers = workers or 2 * (os.cpu_count() or 1)
        #: Where pictures are kept; those without a file only where `keeps` says that one is needed.
        self.fetcher, self.keeps = fetcher, keeps
        # A few batches: what one worker reads ahead, those beside it cannot take.
        self.intake = Intake(
            source, fetcher if fetches else None, root, min(in_flight, 4 * scorer.batch_size)
        )
        self._decoding = threading.BoundedSemaphore(os.cpu_count() or 1)
        self._pending: Counter[str] = Counter()
        self._out = threading.Lock()  # of sinks and acknowledgements
        self._unacknowledged: list[Any] = []
        self._flushed_at = time.monotonic()
        self._failure: BaseException | None = None
        self._sinks_sound = True
        self._pipeline: Pipeline | None = None
        self._reads_images = scorer.reads("image") or images is not None
        self._over = threading.Event()
        #: What is worth knowing before it begins.
        self.notes: list[str] = []

    # ------------------------------------------------------------------ running and stopping

    def run(self) -> None:
        """Go on until the source ends, or `stop`."""
        load_hashing()
        encoder = next(iter(self.scorer.encoders.values()))
        pipeline: Any = Pipeline(
            self._prepared(),  # type: ignore[arg-type]
            read=self._read,  # type: ignore[arg-type]
            admit=self._admit,  # type: ignore[arg-type]
            encode=self._encode,  # type: ignore[arg-type]
            encoders=encoder.stream_pool(),
            streams=encoder.streams,
            batch_size=self.scorer.batch_size,
            workers=self.workers,
            latency=self.latency,
        )
        self._pipeline = pipeline
        ticker = threading.Thread(target=self._tick, name="icehouse-tick", daemon=True)
        ticker.start()
        ended = False
        try:
            for batch in pipeline:
                self._judge(batch)
            ended = self._failure is None
        finally:
            self._over.set()
            self.source.stop()
            self.intake.stop()
            pipeline.stop()
            ticker.join(timeout=30)
            try:
                if self._sinks_sound:
                    self._flush()
            finally:
                self.status.state = "stopped" if ended else "failed"
                self._leave_state()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Read nothing more, and end when what was read is done; may be called from a signal handler."""
        self.source.stop()

    def _fail(self, error: BaseException) -> None:
        self._failure = self._failure or error
        self.source.stop()
        if self._pipeline is not None:
            self._pipeline.stop()

    def _tick(self) -> None:
        """Each second: flush what sinks keep back, write the state, a line of statistics when one is due."""
        told_at = time.monotonic()
        while not self._over.wait(TICK_S):
            try:
                if time.monotonic() - self._flushed_at >= FLUSH_S:
                    self._flush(only_due=True)
                self.source.beat()
                self._write_status()
                if self.stats_s is not None and time.monotonic() - told_at >= self.stats_s:
                    told_at = time.monotonic()
                    self._tell_stats()
            except BaseException as error:  # told by the thread that runs
                self._fail(error)
                return

    def _tell_stats(self) -> None:
        figures = self.figures()
        with self._out:
            for sink in self.sinks:
                if sink.takes_stats:
                    sink.stats(figures)

    def figures(self) -> dict[str, Any]:
        """Figures of the status, with those of the parts."""
        return {**self.status.figures(), **self._further()}

    def _further(self) -> dict[str, Any]:
        told: dict[str, Any] = {"lag": self.source.lag()}
        for name, judge in (("images", self.images), ("texts", self.texts)):
            if judge is not None:
                told.setdefault("window", {})[name] = len(judge.window)
        if self.collections is not None:
            told["collections"] = {
                rule.name: self.collections.counts[rule.name] for rule in self.collections.rules
            }
            if self.collections.languages:
                told["languages"] = dict(self.collections.languages.most_common(20))
        if self.drift is not None and self.drift.latest:
            told["drift"] = self.drift.latest
        if self.fetcher is not None:
            told["fetched"] = {
                "fetched": self.fetcher.fetched,
                "known": self.fetcher.known,
                "failed": self.fetcher.failed,
            }
        return told

    def _write_status(self) -> None:
        if self.folder is not None:
            with contextlib.suppress(OSError):  # a full disk stops sinks, not this
                self.status.write(self.folder / "status.json", self._further())

    def _leave_state(self) -> None:
        self._save()
        if self.drift is not None:
            self.drift.finish()
        if self.learner is not None:
            self.learner.close()
            self.status.learning = self.learner.figures()
        self._write_status()

    # ------------------------------------------------------------------ reading, in threads

    def _prepared(self) -> Iterator[Work]:
        """Posts, and how small their pictures may be decoded; see `icehouse.dups.stream.DecodingTrial`."""
        trial = DecodingTrial()
        looked = next((f for f in self.scorer.wanted if f[1] == "image" and f[2] != "tokens"), None)
        for work in self.intake:
            if looked is not None and work.path is not None:
                if not trial.settled:
                    trial = trial.after(work.path, self.scorer.encoders[looked[0]], looked[2])
                work.trial = trial
            yield work

    def _read(self, work: Work, *, whole: bool = False) -> Work:
        """Read, hash, and decode what is not known yet; errors end in the work."""
        post = work.post
        if work.error is not None:
            return work
        if self.collections is not None and not whole and post.content:
            begun = time.perf_counter()
            work.collections = self.collections.of(post)
            post.ms["collections"] = 1000 * (time.perf_counter() - begun)
            if not work.collections:
                work.filtered = True
                return work
        if post.text is not None:
            work.text_key, work.contents.text = text_sha256(post.text), post.text
        data = self._load(work) if self._reads_images else None
        if data is not None:
            work.image_key = hashlib.sha256(data).hexdigest()
        if not whole and self._known(work):
            return work
        if data is not None:
            self._decode(work, data)
        work.ready = True
        return work

    def _load(self, work: Work) -> bytes | None:
        """Bytes of the picture, or None; why there are none ends in the contents."""
        begun = time.perf_counter()
        try:
            if work.post.image is not None and work.path is None:
                data = work.post.image
                work.facts = FileFacts(len(data), 0)
                if self.keeps and self.fetcher is not None:
                    work.path = self.fetcher.store(data)
            elif work.path is not None:
                data, work.facts = read_file(work.path)
            else:
                return None
        except Exception as error:  # of a file, a disk
            work.contents.errors["image"] = f"{work.post.image_path or work.post.image_url}: {brief(error)}"
            return None
        work.post.ms["read"] = 1000 * (time.perf_counter() - begun)
        return data

    def _decode(self, work: Work, data: bytes) -> None:
        try:
            with self._decoding:
                begun = time.perf_counter()
                shortest = None if work.trial is None else work.trial.shortest
                compared = self.images is not None
                picture = decode(data, shortest=shortest, hashed=True, turned=compared)
                assert work.facts is not None
                assert work.image_key is not None
                work.facts = facts_of(work.facts, work.image_key, picture)
                work.phash, work.blank, work.turned = work.facts.phash, picture.blank, picture.turned
                if self.images is not None and self.images.viewed and not picture.blank:
                    work.seen = look(picture.image, keep=work.path is None)
                work.contents.pixels = self.scorer.prepare(picture.image)
                work.post.ms["decode"] = 1000 * (time.perf_counter() - begun)
        except ImageError as error:
            work.image_key, work.contents.errors["image"] = None, brief(error)
        except Exception as error:  # of an encoder's own preprocessing
            work.image_key, work.contents.errors["image"] = None, f"cannot be decoded: {brief(error)}"

    def _parts(self, work: Work) -> list[tuple[DuplicateStream, str]]:
        """Windows that a post is held against, with the key of its content in each."""
        image = [] if self.images is None or work.image_key is None else [(self.images, work.image_key)]
        text = [] if self.texts is None or work.text_key is None else [(self.texts, work.text_key)]
        if self.repeats == "off":
            return []
        if "image" in work.contents.errors and self.repeats != "text":
            return []  # of two posts that say the same, one of which shows who knows what, none is known to repeat the other
        if self.repeats == "post":
            return image + text
        return (image or text) if self.repeats == "image" else (text or image)

    def _known(self, work: Work) -> bool:
        """Whether a post needs no look, since all that is compared of it is in the windows."""
        parts = self._parts(work)
        return bool(parts) and all(judge.window.knows(key) for judge, key in parts)

    def _admit(self, work: Work) -> bool:
        """Whether a post has to be encoded; a copy of one on its way waits for that one."""
        if work.error is not None or work.filtered or not work.ready:
            return False
        parts = self._parts(work)
        keys = "|".join(key for _, key in parts)
        known = bool(parts) and self._pending[keys] > 0
        if known:
            work.ready = False
            work.contents.pixels = {}
        if parts:
            work.pending = keys
            self._pending[keys] += 1
        return not known

    def _encode(self, works: list[Work]) -> None:
        begun = time.perf_counter()
        self.scorer.encode([work.contents for work in works])
        for work in works:
            work.post.ms["embed"] = 1000 * (time.perf_counter() - begun)

    def _complete(self, work: Work) -> None:
        """Read and encode what was left out because it was thought to be known."""
        if work.ready:
            return
        self._read(work, whole=True)
        self._encode([work])

    # ------------------------------------------------------------------ judging

    def _judge(self, batch: list[Work]) -> None:
        """Decide on a batch, in its order, write the decisions, and acknowledge them."""
        decisions = [self._decided_already(work) for work in batch]
        begun = time.perf_counter()
        open_rows = [row for row, decision in enumerate(decisions) if decision is None]
        repeats = self._repeats([batch[row] for row in open_rows])
        ms = 1000 * (time.perf_counter() - begun)
        going = []
        for row, original in zip(open_rows, repeats, strict=True):
            work = batch[row]
            work.post.ms["repeats"] = ms
            if original is not None and "differs" not in original:
                decisions[row] = Decision(
                    work.post, "repeat", "repeats", repeat_of=original, error=_broken(work)
                )
            else:
                work.variant_of = original
                self._complete(work)
                going.append(row)
        for work in batch:
            self._settle(work)
        if self.drift is not None and going:
            self.drift.add([batch[row].contents for row in going])
        self._ask(batch, decisions, going)
        if self.learner is not None:
            self._learn(batch, decisions)
        final = []
        for work, decision in zip(batch, decisions, strict=True):
            assert decision is not None
            decision.collections, decision.variant_of = work.collections, work.variant_of
            decision.sha256, decision.work = work.image_key, work
            decision.path = None if work.path is None else str(work.path.absolute())
            work.post.ms["total"] = 1000 * (time.perf_counter() - work.post.received)
            final.append(decision)
        self._write(final)
        if time.monotonic() - self._saved_at >= self.save_every:
            self._save()

    def _save(self) -> None:
        for judge in (self.images, self.texts):
            if judge is not None:
                judge.save()
        self._saved_at = time.monotonic()

    def _decided_already(self, work: Work) -> Decision | None:
        post = work.post
        if work.error is not None:
            return Decision(post, "error", work.stage, error=work.error)
        if work.filtered:
            return Decision(post, "filtered", "collections")
        if not post.content and self.learner is None:
            return Decision(
                post, "error", "read", error="a label without a post, and no run to teach (--learn)"
            )
        if not post.content:
            return Decision(post, "label", "learn")
        if work.image_key is None and work.text_key is None:
            why = work.contents.errors.get("image") or "nothing that a run could read"
            return Decision(post, "error", "fetch" if "fetch" in post.ms else "read", error=why)
        return None

    def _settle(self, work: Work) -> None:
        """Copies need not wait for this post any longer."""
        if work.pending:
            self._pending[work.pending] -= 1
            if self._pending[work.pending] <= 0:
                del self._pending[work.pending]

    def _repeats(self, works: list[Work]) -> list[dict[str, Any] | None]:
        """Earlier post that each post repeats or, with what `differs`, is a variant of; or None. All are remembered."""
        self._hear()
        here: set[str] = set()
        for work in works:
            parts = self._parts(work)
            if any(not judge.window.knows(key) and key not in here for judge, key in parts):
                self._complete(work)
                parts = self._parts(work)  # a picture that turns out to be damaged is none
            here.update(key for _, key in parts)
        found: list[list[dict[str, Any] | None]] = [[] for _ in works]
        for judge in (self.images, self.texts):
            mine = [
                (row, key)
                for row, work in enumerate(works)
                for which, key in self._parts(work)
                if which is judge
            ]
            if judge is None or not mine:
                continue
            arrivals = [self._arrival(judge, works[row], key) for row, key in mine]
            new = {one.key: one for one in reversed(arrivals) if not judge.window.knows(one.key)}
            for (row, _), result in zip(mine, judge.window.judge(arrivals), strict=True):
                judge.counts[result.kind] += 1
                match = _of_another(result, works[row].post.id)
                found[row].append(None if match is None else _told(match, judge.modality))
            space = self.spaces[judge.modality]
            self.source.tell_seen(judge.modality, space, list(new.values()), judge.window.capacity)
        return [_original(rows) for rows in found]

    def _hear(self) -> None:
        """Remember what workers beside this one have seen."""
        for judge in (self.images, self.texts):
            if judge is not None:
                space, window = self.spaces[judge.modality], judge.window
                window.remember(self.source.seen_by_others(judge.modality, space, window.dim))

    def _arrival(self, judge: DuplicateStream, work: Work, key: str) -> Arrival:
        if judge.modality == "text":
            return Arrival(work.post.id, key, None, self._vector("text", work))
        # A picture of one colour has no vector, since that would prove nothing.
        vector = None if work.blank else self._vector("image", work)
        views, thumb, grey = (None, None, None) if work.seen is None else work.seen
        return Arrival(
            work.post.id, key, work.phash, vector, work.turned, views, thumb, work.post.text,
            path_of(work.path), grey,
        )  # fmt: skip

    def _vector(self, modality: str, work: Work) -> np.ndarray | None:
        feature = self.compared.get(modality)
        return None if feature is None else work.contents.features.get(feature)

    def _ask(self, batch: list[Work], decisions: list[Decision | None], going: list[int]) -> None:
        """Gates first; the heads only on what they let through."""
        runs: dict[int, dict[str, Any]] = {row: {} for row in going}
        for model in self.scorer.models:
            if not going:
                break
            told = self.scorer.score(model, [batch[row].contents for row in going])
            left = []
            for row, entry in zip(going, told, strict=True):
                if "ms" in entry:
                    batch[row].post.ms[model.name] = entry.pop("ms")
                runs[row][model.name] = entry
                if entry.get("passes") is False:
                    decisions[row] = Decision(
                        batch[row].post, "irrelevant", model.name, runs=runs[row], error=_broken(batch[row])
                    )
                else:
                    left.append(row)
            going = left
        for row in going:
            decisions[row] = self._classified(batch[row], runs[row])

    def _classified(self, work: Work, runs: dict[str, Any]) -> Decision:
        broken = _broken(work)
        if not any("predicted" in entry for entry in runs.values()):
            reasons = dict.fromkeys(str(entry["error"]) for entry in runs.values() if "error" in entry)
            return Decision(work.post, "error", "heads", runs=runs, error=broken or "; ".join(reasons))
        return Decision(work.post, "classified", "heads", runs=runs, error=broken)

    def _learn(self, batch: list[Work], decisions: list[Decision | None]) -> None:
        for work, decision in zip(batch, decisions, strict=True):
            assert decision is not None
            if decision.decision not in ("error", "filtered"):
                self.learner.remember(work.post.id, work.contents)
            if work.post.label is not None and decision.decision not in ("error", "filtered"):
                begun = time.perf_counter()
                # What a repeat was not looked at for, the post that it repeats was.
                known = work.post.id if decision.repeat_of is None else str(decision.repeat_of["id"])
                decision.learned = self.learner.learn(known, work.contents, work.post.label)
                if decision.decision == "label" and "error" in decision.learned:
                    decision.decision, decision.error = "error", decision.learned["error"]
                work.post.ms["learn"] = 1000 * (time.perf_counter() - begun)
        self.status.learning = self.learner.figures()

    # ------------------------------------------------------------------ results out

    def _write(self, decisions: list[Decision]) -> None:
        bad = [decision for decision in decisions if decision.decision == "error"]
        good = decisions if self.errors is None else [d for d in decisions if d.decision != "error"]
        with self._out:
            self._sinks_sound = False  # unless all of this goes well
            for sink in self.sinks:
                sink.write(good)
            if self.errors is not None and bad:
                self.errors.write(bad)
            self._sinks_sound = True
            self._unacknowledged += [d.post.token for d in decisions if d.post.token is not None]
            if not any(sink.pending for sink in self.sinks):
                self._acknowledge()
            elif any(sink.due() for sink in self.sinks):
                self._flush_locked()
        for decision in decisions:
            decision.work = None
            self.status.add(decision)
        self.intake.release(len(decisions))

    def _flush(self, *, only_due: bool = False) -> None:
        with self._out:
            if not only_due or any(sink.pending for sink in self.sinks):
                self._flush_locked()
            self._flushed_at = time.monotonic()

    def _flush_locked(self) -> None:
        self._sinks_sound = False
        for sink in self.sinks:
            sink.flush()
        self._sinks_sound = True
        self._acknowledge()

    def _acknowledge(self) -> None:
        tokens, self._unacknowledged = self._unacknowledged, []
        if tokens:
            self.source.done(tokens)


def _broken(work: Work) -> str | None:
    """What is wrong with a post's picture or text, if anything is."""
    return "; ".join(dict.fromkeys(work.contents.errors.values())) or None


def _of_another(result: StreamResult, post_id: str) -> Match | None:
    """The best match that came before the post itself did.

    A post that was given to a worker a second time is in the window already, and no repeat of itself.
    """
    own = [match.position for match in result.matches if match.id == post_id]
    if not own:
        return result.match
    earlier = [match for match in result.matches if match.position < min(own)]
    return earlier[0] if earlier else None


def _original(rows: list[dict[str, Any] | None]) -> dict[str, Any] | None:
    """What a post repeats, by what each of its parts does; where one is a variant the post is one, too."""
    told = [row for row in rows if row is not None]
    if len(told) < len(rows) or not told:
        return next((row for row in told if "differs" in row), None)
    return next((row for row in told if "differs" in row), told[0])


def _told(match: Match, modality: str) -> dict[str, Any]:
    differs = {"differs": match.differs} if match.variant else {}
    return differs | {
        "id": match.id,
        "by": modality,
        "kind": match.kind,
        "hamming": match.hamming,
        "cosine": None if match.cosine is None else round(match.cosine, 4),
        "orientation": match.orientation,
        "age": match.age,
    }


def watch_models(models: Sequence[Model]) -> dict[str, Any]:
    """Runs, as the status names them."""
    return {
        model.name: {
            "run": model.run.run_id,
            "classes": model.run.classes,
            "gate": sorted(model.stops),
        }
        for model in models
    }
