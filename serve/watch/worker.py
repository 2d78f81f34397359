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
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...data.images import decode, load_hashing
from ...data.text import text_sha256
from ...dups.stream import DecodingTrial, Pipeline, Seen, look
from ...embed.extract import FileFacts, facts_of, read_file
from ...errors import ImageError, LockedError, StoreError, UsageError, brief, unknown_name
from ...heads.package import Package
from ...store.files import hold, is_name
from ...store.store import Store
from ..drift import DriftMonitor, Reference
from ..predict import Contents, Feature, Model, Scorer, feature_of, load_models, short_name
from .fetch import Fetcher, FetchError, inside
from .filters import Collections, Repeats, compared_features, repeated_part
from .learning import Learner
from .sinks import Decision, Sink, StoreOut, open_sink
from .sources import Message, Post, Source, default_name, open_source, parse
from .status import Status, read_status

if TYPE_CHECKING:
    from .commands import Settings

#: Posts between the source and the results, at most.
IN_FLIGHT = 256

#: Pictures that are fetched at once.
FETCHES = 16

#: Seconds between flushes of what sinks keep back, and between states.
FLUSH_S, TICK_S = 5.0, 1.0

#: Bytes of fetched pictures that are kept where no store refers to them.
KEEP = 512 << 20


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


@contextlib.contextmanager
def open_watch(settings: Settings) -> Iterator[Watch]:
    """Open all that a watch needs; on leaving, connections are closed and its name is free again."""
    with contextlib.ExitStack() as stack:
        yield Watch(settings, stack)


class Watch:
    """Judges the posts of a source and writes what is decided; what has to be closed is given to `stack`."""

    def __init__(self, settings: Settings, stack: contextlib.ExitStack) -> None:
        self.settings = settings
        name, outs = settings.name, dict.fromkeys(settings.outs or ["-"])
        if not is_name(name) or "/" in name:
            raise unknown_name(UsageError(f"--name {name!r}: letters, digits, '.', '_' and '-'"))
        store = Store.open(settings.store) if Store.exists(settings.store) else None
        runs = [*(settings.runs or ()), *([settings.learn] if settings.learn else [])]
        models, notes = load_models(store, runs, settings.gates or (), automatic=settings.automatic)
        #: What is worth knowing before it begins.
        self.notes = notes
        self.folder = settings.state or (None if store is None else store.path / "watch" / name)
        if self.folder is None:
            notes.append("no store and no --state: nothing is remembered for the next start")
        else:
            stack.enter_context(_held(self.folder, name))
        self.collections = None if settings.collect is None else Collections.read(settings.collect)
        if "store" in outs and store is None:
            raise UsageError("--out store: there is no store; name it with --store")
        worker = f"{default_name()}-{name}"

        def opened(where: str) -> Sink:
            sink = open_sink(where, worker=worker)
            stack.callback(sink.close)
            return sink

        self.sinks = [opened(where) for where in outs if where != "store"]
        self.errors = None if settings.errors is None else opened(settings.errors)
        before = None if self.folder is None else read_status(self.folder / "status.json")
        self.source = open_source(
            settings.source,
            consumer=worker,
            journal=None if self.folder is None else self.folder / "journal.jsonl",
            first=sum((before or {}).get("counts", {}).values()),
        )
        stack.callback(self.source.close)
        part = repeated_part(settings.repeats, models)
        compared = compared_features(part, store, models)
        further = [spec for _, spec in compared.values()]
        self.scorer = Scorer(store, models, further=further, device=settings.device)
        self.repeats = Repeats(settings, part, compared, store, self.folder, self.scorer, self.source)
        notes += self.repeats.notes()
        if "store" in outs and store is not None:
            self.sinks.append(StoreOut(store, self.scorer, _tables(store, models), name))
        #: Where pictures are kept: those that a store refers to as long as it does, others while there is room.
        self.fetcher = None
        self._keeps = "store" in outs
        if settings.fetch or self._keeps:
            self.fetcher = Fetcher(
                (self.folder or _temporary(stack)) / "images",
                allow_private=settings.allow_private,
                max_bytes=settings.max_bytes,
                seconds=settings.fetch_seconds,
                keep=None if self._keeps else KEEP,
            )
        about = {model.name: _about(model) for model in models}
        where = {"source": self.source.name, "outs": [sink.name for sink in self.sinks]}
        self.status = Status(name, {**where, "runs": about, "repeats": part})
        if before is not None:
            self.status.restore(before)
        self.drift = _drift(settings, store, models[0], notes)
        self.learner = _learner(settings, store, models)
        root = settings.root
        if root is None and self.source.strangers:
            root = getattr(self.source, "folder", None) or Path.cwd()
        # A few batches: what one worker reads ahead, those beside it cannot take.
        ahead = min(IN_FLIGHT, 4 * self.scorer.batch_size)
        self.intake = Intake(self.source, self.fetcher if settings.fetch else None, root, ahead)
        self._saved_at = time.monotonic()
        self._decoding = threading.BoundedSemaphore(os.cpu_count() or 1)
        self._out = threading.Lock()  # of sinks and acknowledgements
        self._unacknowledged: list[Any] = []
        self._flushed_at = time.monotonic()
        self._failure: BaseException | None = None
        self._sinks_sound = True
        self._pipeline: Pipeline | None = None
        self._reads_images = self.scorer.reads("image") or self.repeats.pictures is not None
        self._over = threading.Event()

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
            workers=2 * (os.cpu_count() or 1),
            latency=self.settings.latency,
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
        told_at, every = time.monotonic(), self.settings.stats_s
        while not self._over.wait(TICK_S):
            try:
                if time.monotonic() - self._flushed_at >= FLUSH_S:
                    self._flush(only_due=True)
                self.source.beat()
                self._write_status()
                if every is not None and time.monotonic() - told_at >= every:
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
        if self.repeats.windows:
            told["window"] = self.repeats.sizes()
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
        self.repeats.save()
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
        if not whole and self.repeats.known(work):
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
                if self._keeps and self.fetcher is not None:
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
                window = self.repeats.pictures
                picture = decode(data, shortest=shortest, hashed=True, turned=window is not None)
                assert work.facts is not None
                assert work.image_key is not None
                work.facts = facts_of(work.facts, work.image_key, picture)
                work.phash, work.blank, work.turned = work.facts.phash, picture.blank, picture.turned
                if window is not None and window.viewed and not picture.blank:
                    work.seen = look(picture.image, keep=work.path is None)
                work.contents.pixels = self.scorer.prepare(picture.image)
                work.post.ms["decode"] = 1000 * (time.perf_counter() - begun)
        except ImageError as error:
            work.image_key, work.contents.errors["image"] = None, brief(error)
        except Exception as error:  # of an encoder's own preprocessing
            work.image_key, work.contents.errors["image"] = None, f"cannot be decoded: {brief(error)}"

    def _admit(self, work: Work) -> bool:
        """Whether a post has to be encoded; a copy of one on its way waits for that one."""
        if work.error is not None or work.filtered or not work.ready:
            return False
        if self.repeats.pending(work):
            work.ready = False
            work.contents.pixels = {}
        return work.ready

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
        repeats = self.repeats.judge([batch[row] for row in open_rows], self._complete)
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
            self.repeats.settle(work)
        if self.drift is not None and going:
            self.drift.add([batch[row].contents for row in going])
        self._ask(batch, decisions, going)
        if self.learner is not None:
            self._learn(self.learner, batch, decisions)
        final = []
        for work, decision in zip(batch, decisions, strict=True):
            assert decision is not None
            decision.collections, decision.variant_of = work.collections, work.variant_of
            decision.sha256, decision.work = work.image_key, work
            decision.path = None if work.path is None else str(work.path.absolute())
            work.post.ms["total"] = 1000 * (time.perf_counter() - work.post.received)
            final.append(decision)
        self._write(final)
        if time.monotonic() - self._saved_at >= self.settings.save_every:
            self.repeats.save()
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

    def _learn(self, learner: Learner, batch: list[Work], decisions: list[Decision | None]) -> None:
        for work, decision in zip(batch, decisions, strict=True):
            assert decision is not None
            if decision.decision not in ("error", "filtered"):
                learner.remember(work.post.id, work.contents)
            if work.post.label is not None and decision.decision not in ("error", "filtered"):
                begun = time.perf_counter()
                # What a repeat was not looked at for, the post that it repeats was.
                known = work.post.id if decision.repeat_of is None else str(decision.repeat_of["id"])
                decision.learned = learner.learn(known, work.contents, work.post.label)
                if decision.decision == "label" and "error" in decision.learned:
                    decision.decision, decision.error = "error", decision.learned["error"]
                work.post.ms["learn"] = 1000 * (time.perf_counter() - begun)
        self.status.learning = learner.figures()

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


def _about(model: Model) -> dict[str, Any]:
    """A run, as the status tells it."""
    return {"run": model.run.run_id, "classes": model.run.classes, "gate": sorted(model.stops)}


def _tables(store: Store, models: list[Model]) -> dict[Feature, str]:
    """The store's table of each feature that runs ask for, where it is of the same space."""
    found = {}
    for model in models:
        for name, spec in model.run.specs.items():
            table = model.run.features[name]
            if table in store.feature_names():
                there = store.feature_table(table).snapshot().spec
                if there.get("fingerprint") == spec.get("fingerprint"):
                    found[feature_of(spec)] = table
    return found


def _learner(settings: Settings, store: Store | None, models: list[Model]) -> Learner | None:
    """Learner from labels of the stream, if a run was named for it."""
    if settings.learn is None:
        return None
    if store is None:
        raise UsageError("--learn keeps versions of a run in a store: name it with --store")
    model = next(model for model in models if model.name == short_name(settings.learn))
    return Learner(store, model, every=settings.learn_every)


def _drift(settings: Settings, store: Store | None, model: Model, notes: list[str]) -> DriftMonitor | None:
    """Monitor of drift from the training set of the first run; None if that is not at hand."""
    if not settings.drift:
        return None
    reference = None if store is None or isinstance(model.run, Package) else Reference.of(store, model.run)
    if reference is None:
        notes.append(f"no drift is told: the rows that {model.name} learned from are not in a store")
        return None
    features = {name: feature_of(spec) for name, spec in model.run.specs.items()}
    return DriftMonitor(reference, features, model.name)


@contextlib.contextmanager
def _held(folder: Path, name: str) -> Iterator[None]:
    """Hold the folder of a watch, so that two of one name do not write over each other."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot make {folder}: {error.strerror or error}") from error
    try:
        with hold(folder, timeout=1.0):
            yield
    except LockedError as error:
        raise LockedError(f"{error} (or give this one another name: --name {name}-2)") from None


def _temporary(stack: contextlib.ExitStack) -> Path:
    folder = tempfile.TemporaryDirectory(prefix="icehouse-watch-", ignore_cleanup_errors=True)
    return Path(stack.enter_context(folder))
