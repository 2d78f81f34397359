"""A watch from its options: runs, windows, source, sinks and state, opened and closed together."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...dups.pair_graph import default_feature
from ...dups.stream import DuplicateStream
from ...embed.encoder import Encoder
from ...errors import LockedError, StoreError, UsageError, unknown_name
from ...heads.package import Package
from ...store.files import hold, is_name
from ...store.store import Store
from ..drift import DriftMonitor, Reference
from .fetch import Fetcher
from .learning import Learner
from .rules import Collections
from .scoring import Feature, Model, Scorer, feature_of, load_models, short_name
from .sinks import Sink, StoreOut, open_sink
from .sources import default_name, open_source
from .status import Status, read_status
from .worker import REPEATS, Watch, watch_models

#: Bytes of fetched pictures that are kept where no store refers to them.
KEEP = 512 << 20


@dataclass(frozen=True)
class Settings:
    """Options of `icehouse watch`."""

    runs: tuple[str, ...]
    source: str = "-"
    outs: tuple[str, ...] = ("-",)
    errors: str | None = None
    gates: tuple[str, ...] = ()
    automatic: bool = True
    store: Path = Path("icehouse-store")
    state: Path | None = None
    name: str = "watch"
    repeats: str | None = None
    window: int = 100_000
    threshold: float | None = None
    collect: Path | None = None
    learn: str | None = None
    learn_every: int = 100
    root: Path | None = None
    fetch: bool = True
    allow_private: bool = False
    max_bytes: int = 20 << 20
    fetch_seconds: float = 10.0
    latency: float = 0.02
    stats_s: float | None = None
    drift: bool = True
    save_every: float = 600.0
    device: str = "auto"


@contextlib.contextmanager
def open_watch(settings: Settings) -> Iterator[Watch]:
    """Open all that a watch needs; on leaving, connections are closed and its name is free again."""
    if not is_name(settings.name) or "/" in settings.name:
        raise unknown_name(UsageError(f"--name {settings.name!r}: letters, digits, '.', '_' and '-'"))
    store = Store.open(settings.store) if Store.exists(settings.store) else None
    runs = [*settings.runs, *([settings.learn] if settings.learn else [])]
    models, notes = load_models(store, runs, settings.gates, automatic=settings.automatic)
    folder = settings.state or (None if store is None else store.path / "watch" / settings.name)
    with contextlib.ExitStack() as stack:
        if folder is None:
            notes.append("no store and no --state: nothing is remembered for the next start")
        else:
            stack.enter_context(_held(folder, settings.name))
        collections = None if settings.collect is None else Collections.read(settings.collect)
        worker = f"{default_name()}-{settings.name}"
        before = None if folder is None else read_status(folder / "status.json")
        first = sum((before or {}).get("counts", {}).values())
        journal = None if folder is None else folder / "journal.jsonl"
        sinks: list[Sink] = []
        errors = None
        to_store = "store" in settings.outs
        if to_store and store is None:
            raise UsageError("--out store: there is no store; name it with --store")
        for where in dict.fromkeys(settings.outs):
            if where != "store":
                sinks.append(open_sink(where, worker=worker))
                stack.callback(sinks[-1].close)
        if settings.errors is not None:
            errors = open_sink(settings.errors, worker=worker)
            stack.callback(errors.close)
        source = open_source(settings.source, consumer=worker, journal=journal, first=first)
        stack.callback(source.close)
        windows = _Windows(settings, store, models, folder)
        scorer = Scorer(store, models, further=windows.further, device=settings.device)
        images, texts = windows.open(scorer)
        if to_store and store is not None:
            sinks.append(StoreOut(store, scorer, _tables(store, models), settings.name))
        notes += windows.notes
        root = settings.root
        if root is None and source.strangers:
            root = getattr(source, "folder", None) or Path.cwd()
        fetcher = None
        if settings.fetch or to_store:
            keep = None if to_store else KEEP
            place = folder or Path(stack.enter_context(_temporary()))
            fetcher = Fetcher(
                place / "images",
                allow_private=settings.allow_private,
                max_bytes=settings.max_bytes,
                seconds=settings.fetch_seconds,
                keep=keep,
            )
        status = Status(
            settings.name,
            {
                "source": source.name,
                "outs": [sink.name for sink in sinks],
                "runs": watch_models(models),
                "repeats": windows.mode,
            },
        )
        if before is not None:
            status.restore(before)
        made = Watch(
            source,
            sinks,
            scorer,
            images=images,
            texts=texts,
            compared=windows.compared,
            spaces=windows.spaces,
            repeats=windows.mode,
            status=status,
            folder=folder,
            errors=errors,
            fetcher=fetcher,
            root=root,
            collections=collections,
            fetches=settings.fetch,
            keeps=to_store,
            drift=_drift(settings, store, models[0], notes),
            learner=_learner(settings, store, models, scorer),
            latency=settings.latency,
            stats_s=settings.stats_s,
            save_every=settings.save_every,
        )
        made.notes = notes
        yield made


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


def _learner(settings: Settings, store: Store | None, models: list[Model], scorer: Scorer) -> Learner | None:
    """Learner from labels of the stream, if a run was named for it."""
    if settings.learn is None:
        return None
    if store is None:
        raise UsageError("--learn keeps versions of a run in a store: name it with --store")
    model = next(model for model in models if model.name == short_name(settings.learn))
    return Learner(store, model, scorer, every=settings.learn_every)


def _drift(settings: Settings, store: Store | None, model: Model, notes: list[str]) -> DriftMonitor | None:
    """Monitor of drift from the training set of the first run; None if that is not at hand."""
    if not settings.drift:
        return None
    reference = None if store is None or isinstance(model.run, Package) else Reference.of(store, model.run)
    if reference is None:
        notes.append(f"no drift is told: the rows that {model.name} learned from are not in a store")
        return None
    return DriftMonitor(reference, model.features(), model.name)


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


@contextlib.contextmanager
def _temporary() -> Iterator[str]:
    import tempfile

    with tempfile.TemporaryDirectory(prefix="icehouse-watch-", ignore_cleanup_errors=True) as folder:
        yield folder


class _Windows:
    """Windows of the latest posts, and the features by which they are compared."""

    def __init__(
        self, settings: Settings, store: Store | None, models: list[Model], folder: Path | None
    ) -> None:
        self.settings, self.store, self.folder = settings, store, folder
        reads = {modality for model in models for modality in model.modalities}
        self.mode = settings.repeats or ("image" if "image" in reads else "text")
        if self.mode not in REPEATS:
            raise unknown_name(UsageError(f"--repeats {self.mode}: one of {', '.join(REPEATS)}"))
        #: Specs of features that no run asks for.
        self.further: list[Any] = []
        self.notes: list[str] = []
        self.compared: dict[str, Feature] = {}
        self.spaces: dict[str, str] = {}
        self._specs: dict[str, tuple[str | None, Any]] = {}
        for modality in () if self.mode == "off" else ("image", "text"):
            found = _input(models, modality)
            if found is None and modality == self.mode and store is not None:
                found = self._of_store(store, modality)
            if found is not None:
                self._specs[modality] = found
                self.compared[modality] = feature_of(found[1])
                self.spaces[modality] = str(found[1].get("fingerprint"))

    def _of_store(self, store: Store, modality: str) -> tuple[str | None, Any] | None:
        """A feature of the store that no run asks for, to compare by."""
        feature = default_feature(store) if modality == "image" else None
        if feature is None:
            return None
        spec = store.feature_table(feature).snapshot().spec
        self.further.append(spec)
        return feature, spec

    def open(self, scorer: Scorer) -> tuple[DuplicateStream | None, DuplicateStream | None]:
        """The windows of images and of texts; None for what is not compared."""
        made: dict[str, DuplicateStream | None] = {"image": None, "text": None}
        for modality, (feature, spec) in self._specs.items():
            judge = made[modality] = self._open(feature, spec, scorer.encoders[spec["encoder"]])
            what = "pictures" if modality == "image" else "texts"
            self.notes += [f"{what}: {note}" for note in judge.notes]
        return made["image"], made["text"]

    def _open(self, feature: str | None, spec: Any, encoder: Encoder) -> DuplicateStream:
        settings, store = self.settings, self.store
        options: dict[str, Any] = {
            "rule": settings.threshold,
            "window": settings.window,
            "state": None if self.folder is None else self.folder / f"{spec['modality']}s.window",
        }
        there = store is not None and feature is not None and feature in store.feature_names()
        if there and store is not None:
            own = store.feature_table(str(feature)).snapshot().spec
            if own.get("fingerprint") == spec.get("fingerprint"):
                return DuplicateStream.from_store(store, feature=feature, encoder=encoder, **options)
        return DuplicateStream(
            encoder,
            modality=spec["modality"],
            output=spec["output"],
            cleaning=feature_of(spec)[3] or "none",
            **options,
        )


def _input(models: list[Model], modality: str) -> tuple[str | None, Any] | None:
    """Feature and spec of the first run's vectors of a modality."""
    for model in models:
        for name, spec in model.run.specs.items():
            if spec["modality"] == modality and spec["output"] != "tokens":
                return model.run.features[name], spec
    return None
