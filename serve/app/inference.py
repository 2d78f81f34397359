"""Inference on uploaded inputs: decoded in threads, embedded in batches, once for all heads, and judged.

While batches are encoded the next ones gather, so a busy server pays for full batches and a single request waits for nobody.
Only where other inputs are known to be on their way (being read or decoded) does a batch wait for them: the cores are with
those that decode, and a batch of one would take them away.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ...data.images import decode, load_hashing
from ...data.text import clean, text_sha256
from ...dups.stream import Seen, look
from ...embed.encoder import Encoder, Tokens
from ...embed.extract import Unencodable, encode_contents
from ...embed.tables import cleaning_beside, load_checked
from ...errors import IcehouseError, ImageError, SourceError, UsageError
from ...heads.explain import means_of_training, shapley
from ...heads.inputs import Inputs
from ...heads.runs import Run
from ...store.schema import tower_of
from ..predict import Feature, feature_of, inputs_of, keeps_rows, own_encoder, refuse_captions
from .catalog import Catalog

if TYPE_CHECKING:
    from ...store.store import Store
    from .monitoring import Monitor
    from .state import Settings

Kind = Literal["image", "text"]

#: Characters of a text beyond which it is refused; a post has a few hundred, and models read about as many.
MAX_TEXT = 200_000

#: Seconds that a batch waits for the next of the inputs that are on their way, and for all of them together.
NEXT_S, PATIENCE = 0.01, 0.1

#: Rows of a batch on a CPU: more at once are no faster there, and whoever asked first waits for all of them.
CPU_ROWS = 16


@dataclass(frozen=True)
class Query:
    """Input of a client: the bytes of an image, a text, or both."""

    image: bytes | None = None
    text: str | None = None

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Modalities that are present."""
        given: list[tuple[Kind, Any]] = [("image", self.image), ("text", self.text)]
        return tuple(kind for kind, value in given if value is not None)


@dataclass(frozen=True)
class Wanted:
    """Outputs that an input is needed in: of an encoder, for one kind of input, texts under one cleaning."""

    encoder: str
    kind: Kind
    cleaning: str
    outputs: frozenset[str]


@dataclass
class Embedded:
    """An input's vectors (dim,), or `Tokens` of one row, by feature, and what its bytes are known by."""

    features: dict[Feature, np.ndarray | Tokens] = field(default_factory=dict)
    sha256: dict[str, str] = field(default_factory=dict)
    phash: int | None = None
    blank: bool = False
    #: Hashes of the picture in all orientations, and its views, where near-duplicates are asked for.
    turned: tuple[int, ...] | None = None
    seen: Seen | None = None

    def vector(self, spec: Mapping[str, Any]) -> np.ndarray | None:
        """Vector (dim,) of a feature by its spec; None where the input lacks it, or it is tokens."""
        found = self.features.get(feature_of(spec))
        return found if isinstance(found, np.ndarray) else None


class Inference:
    """Encoders, their threads, and the heads over them; given encoders are held against the features, too."""

    def __init__(
        self,
        store: Store | None,
        runs: Sequence[Run],
        settings: Settings,
        monitor: Monitor,
        encoders: Sequence[Encoder] = (),
    ) -> None:
        self.store, self.runs, self.settings, self.monitor = store, runs, settings, monitor
        self.encoders: dict[str, Encoder] = {encoder.id: encoder for encoder in encoders}
        self.batchers: dict[str, Batcher] = {}
        #: Spec of every feature that an input may be embedded in, by its name.
        self.specs: dict[str, dict[str, Any]] = {}
        self.readers = ThreadPoolExecutor(
            settings.workers or max(2, min(8, os.cpu_count() or 2)), "icehouse-serve"
        )
        self._means: dict[str, Any] = {}
        self._gathered: dict[Hashable, list[tuple[Any, Future[Any]]]] = {}
        self._lock = threading.Lock()
        self._busy = 0
        self._coming = 0

    def load(self) -> None:
        """Load the encoders and hold them against fingerprint and probe of every feature that is served."""
        load_hashing()
        for run in self.runs:
            refuse_captions(run, "uploads have not: serve another")
            for name, spec in run.specs.items():
                known = self.encoders.get(spec["encoder"])
                model = own_encoder(self.store, run, name, known, self.settings.device)
                self._add(run.features[name], spec, model)
            _ = run.head
        if self.store is not None:
            for name in self.store.feature_names():
                spec = self.store.feature_table(name).spec
                if spec["modality"] not in ("image", "text") or spec["output"] == "tokens":
                    continue
                # Only encoders that a head needs anyway; the first one where no head is served.
                if self.batchers and spec["encoder"] not in self.batchers:
                    continue
                model = load_checked(spec, self.encoders.get(spec["encoder"]), device=self.settings.device)
                self._add(name, spec, model)
        for run in self.runs:  # what is slow the first time
            run.head.predict_proba(Inputs({n: _zero(spec) for n, spec in run.specs.items()}))

    def _add(self, feature: str, spec: dict[str, Any], model: Encoder) -> None:
        self.specs.setdefault(feature, spec)
        self.encoders.setdefault(model.id, model)
        if model.id not in self.batchers:
            self.batchers[model.id] = Batcher(model, self.monitor, coming=lambda: self._coming)

    def close(self) -> None:
        """End the threads."""
        for batcher in self.batchers.values():
            batcher.close()
        self.readers.shutdown(cancel_futures=True)

    @contextlib.asynccontextmanager
    async def admission(self, inputs: int = 1) -> AsyncIterator[None]:
        """Take inputs in as long as the queue has room; else OverloadedError."""
        if self._busy + inputs > self.settings.queue:
            self.monitor.overloaded.inc()
            raise OverloadedError(f"the server is busy with {self._busy} inputs: ask again in a moment")
        self._busy += inputs
        self.monitor.waiting.set(self._busy)
        try:
            yield
        finally:
            self._busy -= inputs
            self.monitor.waiting.set(self._busy)

    async def in_thread(self, function: Any, *args: Any) -> Any:
        """Call a function that takes a while in a thread for such."""
        return await asyncio.get_running_loop().run_in_executor(self.readers, function, *args)

    async def together(
        self, key: Hashable, function: Callable[[list[Any]], Sequence[Any]], given: Any
    ) -> Any:
        """Call a function with what is given and whatever else comes under a key meanwhile; the result for this one.

        The function is that of the first who comes, and is called in a thread. An exception in a result is raised here.
        """
        future: Future[Any] = Future()
        with self._lock:
            gathered = self._gathered.setdefault(key, [])
            gathered.append((given, future))
        if len(gathered) == 1:
            # A batch's other inputs come in the same turn of the loop.
            asyncio.get_running_loop().call_soon(self.readers.submit, self._call, key, function)
        return await asyncio.wrap_future(future)

    def _call(self, key: Hashable, function: Callable[[list[Any]], Sequence[Any]]) -> None:
        with self._lock:
            gathered = self._gathered.pop(key)
        gathered = [(given, future) for given, future in gathered if future.set_running_or_notify_cancel()]

        def call(some: list[Any]) -> Sequence[Any]:
            try:
                return function(some)
            except Exception as error:
                # One that cannot be answered costs only itself.
                return [error] if len(some) == 1 else [call([each])[0] for each in some]

        for (_, future), result in zip(gathered, call([given for given, _ in gathered]), strict=True):
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)

    def wanted(self, features: Iterable[Mapping[str, Any]], kinds: Sequence[str]) -> list[Wanted]:
        """Group features by what is encoded at once."""
        groups: dict[tuple[str, Kind, str], set[str]] = {}
        for spec in features:
            encoder, kind, output, cleaning = feature_of(spec)
            if kind in kinds:
                groups.setdefault((encoder, kind, cleaning), set()).add(output)  # type: ignore[arg-type]
        return [Wanted(*key, frozenset(outputs)) for key, outputs in groups.items()]

    async def embed(
        self, query: Query, features: Iterable[Mapping[str, Any]], *, looks: bool = False
    ) -> Embedded:
        """Embed an input in some features, each encoder seeing it once; ImageError or SourceError if it cannot be read.

        `looks` is for what compares views of pictures, too.
        """
        self._coming += 1
        try:
            made, jobs = await self.in_thread(self._prepare, query, self.wanted(features, query.kinds), looks)
        finally:
            self._coming -= 1
        futures = [
            (wanted, self.batchers[wanted.encoder].submit(wanted.kind, content, sorted(wanted.outputs)))
            for wanted, content in jobs
        ]
        for wanted, future in futures:
            for output, row in (await asyncio.wrap_future(future)).items():
                made.features[wanted.encoder, wanted.kind, output, wanted.cleaning] = row
        return made

    def _prepare(
        self, query: Query, groups: list[Wanted], looks: bool = False
    ) -> tuple[Embedded, list[tuple[Wanted, Any]]]:
        """Decode and clean: what each group's encoder takes. Runs in a thread."""
        made = Embedded()
        jobs: list[tuple[Wanted, Any]] = []
        if query.text is not None:
            check_text(query.text)
            made.sha256["text"] = text_sha256(query.text)
            jobs += [(group, clean(query.text, group.cleaning)) for group in groups if group.kind == "text"]
        if query.image is not None:
            made.sha256["image"] = hashlib.sha256(query.image).hexdigest()
            try:
                picture = decode(query.image, hashed=True, turned=looks)
                made.phash, made.blank, made.turned = picture.phash, picture.blank, picture.turned
                if looks and not picture.blank:
                    made.seen = look(picture.image, keep=True)
                for group in groups:
                    if group.kind == "image":
                        jobs.append((group, self.encoders[group.encoder].prepare_image(picture.image)))
            except IcehouseError:
                raise
            except Exception as error:  # of an encoder's own preprocessing
                raise ImageError(f"the image cannot be prepared: {type(error).__name__}") from None
        return made, jobs

    def judge(self, run: Run, inputs: Sequence[Embedded]) -> list[Judgement]:
        """Predictions of a head for all inputs, in one pass unless they would touch each other."""
        if len(inputs) > 1 and not run.head.batch_independent:
            return [self.judge(run, [each])[0] for each in inputs]
        found = [Judgement(run, reason=_lacking(run)) for _ in inputs]
        X, rows = inputs_of(run, [made.features for made in inputs])
        if X is not None:
            proba = np.asarray(run.predict_features(X).proba, np.float64)
            for place, row in enumerate(rows):
                found[row] = Judgement(run, proba[place], X[[place]])
                self.monitor.answers.labels(run.run_id, found[row].prediction).inc()
        return found

    def contributions(self, judgement: Judgement) -> dict[str, Any] | None:
        """Contribution of each input to the prediction; see `icehouse.heads.explain`. None without training rows."""
        run = judgement.run
        if judgement.X is None or not run.head.batch_independent or len(judgement.run.classes) < 2:
            return None
        if run.run_id not in self._means:
            means = None
            if self.store is not None:
                with contextlib.suppress(IcehouseError):
                    means = means_of_training(self.store, run)
            self._means[run.run_id] = means
        means = self._means[run.run_id]
        if means is None:
            return None
        added = shapley(run.head, judgement.X, means)[0]
        return {"base": added["base"], "inputs": added["contributions"]}

    def query_features(self, catalog: Catalog, query: Query) -> dict[str, dict[str, Any]]:
        """Features by which the neighbours and the duplicates of an input are looked for, of those that are loaded."""
        found: dict[str, dict[str, Any]] = {}
        for kind in query.kinds:
            compared = catalog.duplicates.feature(kind)
            looks = catalog.default_features(images=kind == "image", joint=False)
            for name in [*looks[:1], *([compared] if compared else [])]:
                if name in self.specs:
                    found[name] = self.specs[name]
        return found

    def search_feature(self, catalog: Catalog, kind: Kind, *, joint: bool) -> str:
        """Feature in which an input of a kind is searched: the images first, by looks or in the `joint` space."""
        candidates = catalog.default_features(images=True, joint=joint or kind == "text")
        candidates += catalog.default_features(images=False, joint=joint or kind == "image")
        known = [name for name in candidates if name in self.specs]
        if not known:
            raise UsageError(
                f"the store has no features that {'an image' if kind == 'image' else 'words'} can search"
            )
        return known[0]

    def asking_spec(self, feature: str, kind: Kind) -> dict[str, Any]:
        """Spec of what an input has to be embedded in to search a feature."""
        spec = dict(self.specs[feature])
        if tower_of(spec["modality"]) == kind:
            return spec
        beside = feature.rsplit("/", 2)[0] + f"/{kind}/{spec['output']}"
        if beside in self.specs:
            return self.specs[beside]
        assert self.store is not None
        cleaning = cleaning_beside(self.store, spec)
        return {**spec, "modality": kind, "provenance": {**spec["provenance"], "cleaning": cleaning}}


#: One content by output: (dim,) float32, or `Tokens` of one row.
Row = dict[str, "np.ndarray | Tokens"]


class OverloadedError(IcehouseError):
    """More is asked than the server can take; asking again later helps."""


@dataclass(slots=True)
class _Job:
    modality: Kind
    content: Any
    outputs: frozenset[str]
    since: float
    future: Future[Row] = field(default_factory=Future)


class Batcher:
    """Encodes what is submitted, in batches of one modality.

    Each of the encoder's threads gathers a batch and encodes it. On a CPU these are one a core, on a GPU one.
    `monitor` is told the size of each batch, `coming` says how many inputs are on their way here, and `size` is the
    most rows of a batch: the encoder's own unless given, on a CPU at most `CPU_ROWS`.
    """

    def __init__(
        self,
        encoder: Encoder,
        monitor: Monitor | None = None,
        *,
        coming: Callable[[], int] = lambda: 0,
        size: int | None = None,
    ) -> None:
        self.encoder, self.monitor, self.coming = encoder, monitor, coming
        most = CPU_ROWS if encoder.device.partition(":")[0] == "cpu" else encoder.batch_size
        self.size = size or min(encoder.batch_size, most)
        self._waiting: dict[Kind, deque[_Job]] = {"image": deque(), "text": deque()}
        self._changed = threading.Condition()
        self._pool, self._working = encoder.stream_pool(), 0

    def submit(self, modality: Kind, content: Any, outputs: Sequence[str]) -> Future[Row]:
        """Have one content encoded: pixels as the encoder prepared them, or a cleaned text."""
        job = _Job(modality, content, frozenset(outputs), time.monotonic())
        with self._changed:
            queue = self._waiting[modality]
            queue.append(job)
            if self._working < self.encoder.streams:
                self._pool.submit(self._work)
                self._working += 1
            elif len(queue) >= self.size or not self.coming():
                # Otherwise the thread that waits for the next input looks again by itself.
                self._changed.notify()
        return job.future

    def close(self) -> None:
        """Encode what was submitted, and end the threads."""
        self._pool.shutdown()

    def _work(self) -> None:
        while batch := self._gather():
            if jobs := [job for job in batch if job.future.set_running_or_notify_cancel()]:
                self._encode(jobs)

    def _gather(self) -> list[_Job]:
        """Wait for a batch that is full, or has waited for others long enough; empty if there is nothing to do."""
        with self._changed:
            while queues := sorted(filter(None, self._waiting.values()), key=lambda jobs: jobs[0].since):
                left = [self._patience(queue) for queue in queues]
                for queue, seconds in zip(queues, left, strict=True):
                    if seconds <= 0:
                        return [queue.popleft() for _ in range(min(len(queue), self.size))]
                self._changed.wait(min(left))
            self._working -= 1
            return []

    def _patience(self, queue: deque[_Job]) -> float:
        """Seconds that a batch may still wait for others; none if it is full, or no others are on their way."""
        if len(queue) >= self.size or not self.coming():
            return 0.0
        return min(queue[-1].since + NEXT_S, queue[0].since + PATIENCE) - time.monotonic()

    def _encode(self, jobs: list[_Job]) -> None:
        modality = jobs[0].modality
        if self.monitor is not None:
            self.monitor.batches.labels(modality).observe(len(jobs))
        outputs = sorted(frozenset[str]().union(*(job.outputs for job in jobs)))

        def encode(contents: list[Any]) -> Any:
            if modality == "image":
                return self.encoder.encode_images(np.stack(contents), outputs)
            return self.encoder.encode_texts(contents, outputs)

        try:
            for rows, made in encode_contents(encode, [job.content for job in jobs], "float32"):
                for place, row in enumerate(rows.tolist()):
                    if isinstance(made, Unencodable):
                        error = ImageError(f"the {modality} cannot be encoded: {made.message}")
                        jobs[row].future.set_exception(error)
                    else:
                        jobs[row].future.set_result(_row(made, place, jobs[row].outputs))
        except BaseException as error:  # whatever it is, nobody waits for ever
            for job in jobs:
                if not job.future.done():
                    job.future.set_exception(error)


def _row(made: Row, place: int, outputs: frozenset[str]) -> Row:
    found: Row = {}
    for name in outputs:
        values = made[name]
        if isinstance(values, Tokens):
            mask = values.mask[place : place + 1]
            length = max(1, int(np.flatnonzero(mask[0])[-1]) + 1 if mask.any() else 1)
            found[name] = Tokens(values.values[place : place + 1, :length].copy(), mask[:, :length].copy())
        else:
            found[name] = values[place].copy()
    return found


@dataclass(frozen=True)
class Judgement:
    """Prediction of a head for an input, or the reason why there is none."""

    run: Run
    proba: np.ndarray | None = None  # (classes,)
    X: Inputs | None = None
    reason: str | None = None

    @property
    def prediction(self) -> str:
        """The likeliest class."""
        assert self.proba is not None
        return str(self.run.head.classes_[int(self.proba.argmax())])

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values: run, prediction, probability, probabilities by class, likeliest first, threshold."""
        about = {"run": self.run.run_id, "label": self.run.label}
        if self.proba is None:
            return {
                **about,
                "prediction": None,
                "probability": None,
                "probabilities": {},
                "threshold": None,
                "reason": self.reason,
            }
        order = np.argsort(-self.proba, kind="stable").tolist()
        classes = self.run.head.classes_.tolist()
        return {
            **about,
            "prediction": self.prediction,
            "probability": float(self.proba.max()),
            "probabilities": {str(classes[i]): float(self.proba[i]) for i in order},
            # The likeliest class answers: of two classes the one from a half on.
            "threshold": 0.5 if len(classes) == 2 else None,
        }


def check_text(text: str) -> None:
    """Refuse what is no text, or longer than any reader's patience."""
    if len(text) > MAX_TEXT:
        raise SourceError(f"the text has {len(text):,} characters; at most {MAX_TEXT:,} are taken")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise SourceError("the text is no Unicode: it has half of a surrogate pair") from None


def _lacking(run: Run) -> str:
    names = [
        f"{'an' if n[0] in 'aeio' else 'a'} {n}"
        for n in sorted({tower_of(s["modality"]) for s in run.specs.values()})
    ]
    both = " or " if keeps_rows(run) else " and "
    return f"run {run.run_id} needs {both.join(names)}"


def _zero(spec: Mapping[str, Any]) -> Any:
    dim = int(spec["dim"])
    if spec["output"] == "tokens":
        return Tokens(np.zeros((1, 1, dim), np.float32), np.ones((1, 1), bool))
    return np.zeros((1, dim), np.float32)
