"""The main job: sources in, features in the store, written by a thread of its own.

manifest -> `Planner` (what needs doing) -> `Extractor` (read, decode, encode) -> `Committer` (Parquet). This module opens
the pieces, joins them, and guards the feature tables: fingerprint first, probe second, then the first append.
"""

from __future__ import annotations

import os
import shlex
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import chain, islice
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..data.image_files import is_image_name
from ..data.manifest import Manifest, SourceOptions, read_sources, scan_images
from ..data.rows import absolute, items_table, rejected_table
from ..data.text import check_cleaning, text_sha256
from ..errors import EncoderError, NoRowsError, SourceError, UsageError, count_of
from ..store.schema import FAILURES
from ..store.store import Store
from .encoder import Encoder, Modality, Tokens, folder_name, load_encoder, require_trusted, trust
from .extract import (
    LOOK_AT,
    EmbedReport,
    Encoded,
    Extractor,
    Failure,
    FileFacts,
    StageClock,
    Work,
    choose_shortest,
)
from .plan import (
    Held,
    ItemPlan,
    Known,
    Moves,
    Planner,
    beneath_any,
    fit_labels,
    follow,
    near_identical_labels,
)
from .tables import FeatureTables, append_features

# Features are committed first, then items, then failures. In this order a kill between two commits leaves nothing
# that a rerun would not notice: an item whose features are missing is read again, features whose item is missing are
# found by their content.


#: Commit after this long, or this many encoded rows, or this many bytes of vectors, whichever comes first.
SECONDS = 15.0
ROWS = 8192
BYTES = 256 * 1024 * 1024


@dataclass
class Committer:
    """Buffers results and writes them in whole batches, overlapped with the next ones' encoding.

    `retried`: items whose earlier failures are settled once they have been read; `given`: columns that the sources have.
    """

    store: Store
    manifest: Manifest
    tables: FeatureTables
    retried: set[str]
    given: list[str]
    report: EmbedReport
    clock: StageClock

    def __post_init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="icehouse-write")
        self._writing: Future[None] | None = None
        self._last = time.monotonic()
        self._clear()

    def __enter__(self) -> Committer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Commit what is whole, also after an interruption; an error in progress is not covered up by a second."""
        try:
            if kind is None or kind is KeyboardInterrupt:
                self.commit()
                self._wait()
        finally:
            self._thread.shutdown(wait=True)

    def _clear(self) -> None:
        self._encoded: list[Encoded] = []
        self._items: list[tuple[ItemPlan, FileFacts | None]] = []
        self._failures: list[Failure] = []
        self._settled: list[str] = []
        self._rows = 0
        self._bytes = 0

    def add_encoded(self, encoded: Encoded) -> None:
        """Take a batch of vectors, whose tables are made if they are not there.

        Nothing is committed here: texts are batched by length within a window, and only whole windows may be
        committed, or a rerun would compose other batches. `add_item` is never called amid a window.
        """
        self.tables.open(encoded.modality)
        self._encoded.append(encoded)
        self._rows += len(encoded.keys)
        for values in encoded.outputs.values():
            self._bytes += values.values.nbytes if isinstance(values, Tokens) else values.nbytes
        if encoded.modality == "image":
            self.report.images += len(encoded.keys)
        else:
            self.report.texts += len(encoded.keys)
            assert encoded.truncated is not None
            self.report.cut_texts += int(encoded.truncated.sum())

    def add_item(self, plan: ItemPlan, item_id: str, facts: FileFacts | None) -> None:
        """Take an item whose row is to be written; commits when enough has come together."""
        if plan.writes:
            self._items.append((plan, facts))
        if plan.reads and item_id in self.retried:
            self._settled.append(item_id)
        self._rows += 1
        self._commit_if_due()

    def add_moved(self, moved: Sequence[tuple[Held, str]], *, replace_labels: bool) -> None:
        """Write items that were held back, each with the id that it had; see `icehouse.embed.plan`.

        Labels that folders tell replace those that the items had only with `replace_labels`.
        """
        self.commit()
        self._wait()
        rows = self._item_rows([(plan, facts) for (plan, _, _, facts), _ in moved], True, True)
        places = pa.array([plan.row for (plan, _, _, _), _ in moved])
        told = {} if replace_labels else self.manifest.from_folders
        before = {item_id: old for (_, item_id, _, _), old in moved}
        yielding = {name: mask.take(places) for name, mask in told.items()}
        for name, n in follow(self.store, rows, before, yielding).items():
            self.report.columns_changed[name] = self.report.columns_changed.get(name, 0) + n

    def add_failure(self, failure: Failure) -> None:
        """Take a failure for the ledger."""
        self._failures.append(failure)
        self.report.failed += 1

    def _commit_if_due(self) -> None:
        if self._rows >= ROWS or self._bytes >= BYTES or time.monotonic() - self._last >= SECONDS:
            self.commit()

    def commit(self) -> None:
        """Hand the buffer to the writing thread, after its last commit is through."""
        self._wait()
        if self._encoded or self._items or self._failures or self._settled:
            batch = (self._encoded, self._items, self._failures, self._settled)
            self._writing = self._thread.submit(self._write, *batch)
            self._clear()
        self._last = time.monotonic()

    def _wait(self) -> None:
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def _write(
        self,
        encoded: list[Encoded],
        items: list[tuple[ItemPlan, FileFacts | None]],
        failures: list[Failure],
        settled: list[str],
    ) -> None:
        with self.clock.measure("write", len(items)):
            for modality in ("image", "text"):
                batches = [batch for batch in encoded if batch.modality == modality]
                if batches:
                    self._write_features(modality, batches)
            self._write_items(items)
            if settled:
                self.store.failures.delete("item_id", settled)
            if failures:
                self.store.failures.append(self._failure_rows(failures))

    def _write_features(self, modality: Modality, batches: list[Encoded]) -> None:
        keys = [key for batch in batches for key in batch.keys]
        columns = {}
        if modality == "text":
            columns["truncated"] = pa.array(np.concatenate([b.truncated for b in batches]))
        for output in batches[0].outputs:
            values = [batch.outputs[output] for batch in batches]
            append_features(self.tables.table(modality, output), keys, values, columns)

    def _write_items(self, items: list[tuple[ItemPlan, FileFacts | None]]) -> None:
        """Upsert in up to three goes: columns that are absent from one keep their old values."""
        new = [(plan, facts) for plan, facts in items if not plan.known]
        read = [(plan, facts) for plan, facts in items if plan.known and plan.reads]
        other = [(plan, facts) for plan, facts in items if plan.known and not plan.reads]
        for rows, with_facts, first in ((new, True, True), (read, True, False), (other, False, False)):
            if rows:
                self.store.items.upsert(self._item_rows(rows, with_facts, first), key="item_id")

    def _item_rows(
        self, rows: list[tuple[ItemPlan, FileFacts | None]], with_facts: bool, first: bool
    ) -> pa.Table:
        """Rows for the items table: the sources' columns, and the files' facts where they were read."""
        table = self.manifest.table.take(pa.array([plan.row for plan, _ in rows]))
        names = ["item_id", "source", *self.given] if not first else table.column_names
        columns: dict[str, Any] = {name: table[name] for name in names}
        if "text" in columns:
            texts = columns["text"].to_pylist()
            columns["text_sha256"] = pa.array(
                [None if text is None else text_sha256(text) for text in texts], pa.string()
            )
        if with_facts:
            nothing = FileFacts(None, None)  # type: ignore[arg-type]
            facts = [fact or nothing for _, fact in rows]
            for name, kind in _FACT_TYPES.items():
                columns[name] = pa.array([getattr(fact, name) for fact in facts], kind)
        columns["missing"] = pa.array([plan.vanished for plan, _ in rows])
        if first:
            columns["added"] = _now(len(rows))
        return pa.table(columns)

    def _failure_rows(self, failures: list[Failure]) -> pa.Table:
        rows: list[Mapping[str, Any]] = [
            {
                "item_id": failure.item_id,
                "path": None if failure.file is None else str(failure.file),
                "stage": failure.stage,
                "error": failure.error,
                "message": failure.message,
                "bytes": failure.facts.bytes if failure.facts else None,
                "mtime_ns": failure.facts.mtime_ns if failure.facts else None,
                "encoder": self.tables.name if failure.stage == "encode" else None,
                "at": datetime.now(UTC),
            }
            for failure in failures
        ]
        return pa.Table.from_pylist(rows, schema=FAILURES)


_FACT_TYPES = {
    "image_sha256": pa.string(),
    "width": pa.int32(),
    "height": pa.int32(),
    "format": pa.string(),
    "bytes": pa.int64(),
    "mtime_ns": pa.int64(),
    "phash": pa.uint64(),
}


def _now(n: int) -> pa.Array:
    return pa.array([datetime.now(UTC)] * n, pa.timestamp("us", tz="UTC"))


DEFAULT_OUTPUTS = ("joint", "pooled")
DEFAULT_ENCODER = "clip-b32"

#: "Encoder" of features that none made: the columns of structured captions, see `icehouse.embed.captions.features`.
FIELDS = "fields"

Progress = Callable[[int, int, str], None]


def embed_sources(
    sources: Sequence[str | Path],
    store: Store | str | Path,
    *,
    encoder: str | Encoder = "auto",
    options: SourceOptions | None = None,
    name: str | None = None,
    only: Literal["image", "text"] | None = None,
    tokens: bool = False,
    cleaning: str | None = None,
    dtype: str | None = None,
    exact: bool = False,
    device: str = "auto",
    precision: str | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    limit: int | None = None,
    retry_failures: bool = False,
    check_content: bool = False,
    strict_labels: bool = False,
    progress: Progress | None = None,
) -> EmbedReport:
    """Embed whatever of the sources the store does not have yet.

    Parameters
    ----------
    sources : sequence of str or Path
        Folders of images, images, CSV, TSV, JSONL or Parquet files.
    store : Store, str or Path
        Made if there is none.
    encoder : str or Encoder, default "auto"
        An encoder's id; "auto" takes the store's own, else `clip-b32` where its weights can be had, else `mini`.
    options : SourceOptions, optional
        Preset, columns, split, root.
    name : str, optional
        Folder of the features under ``features/``, by default the encoder's short name.
    only : {"image", "text"}, optional
        Embed one modality and leave the other for another run: the texts of posts whose pictures are not at hand, say.
    tokens : bool, default False
        Also store token states, which are large.
    cleaning : str, optional
        Text cleaning, by default the one the store's features were made with, else "social-v1".
    dtype : {"float16", "float32"}, optional
        How vectors are stored; by default as the table already is, else float16.
    exact : bool, default False
        Decode images whole and compute in float32 (unless `precision` says otherwise).
    workers : int, optional
        Threads that read and decode, by default one a core.
    limit : int, optional
        Look at the first so many rows only.
    retry_failures : bool, default False
        Try again what failed before, though the file is as it was.
    check_content : bool, default False
        Compare the bytes of files that have kept their size and time, instead of taking them for unchanged.
    strict_labels : bool, default False
        Refuse labels that are nearly the same, which are else told in a note.
    progress : callable, optional
        Called with (rows done, rows in all, what is going on).

    Returns
    -------
    EmbedReport

    Raises
    ------
    SourceError
        If a source cannot be read at all. Single bad rows and files go to the ledger instead.
    SpaceError
        If the vectors would not belong to the space of those that are there.
    EncoderError
        If the encoder or its weights cannot be had.
    """
    begun = time.perf_counter()
    check_cleaning(cleaning)
    if limit is not None and limit < 0:
        raise UsageError(f"--limit {limit}: a number of rows, 0 or more")
    manifest = _read_sources(sources, options or SourceOptions(), store)
    store = store if isinstance(store, Store) else Store.open_or_create(Path(store))
    notes = list(manifest.notes)
    precision = precision or ("float32" if exact else "auto")
    chosen = choose_encoder(encoder, store, notes, device=device, precision=precision)
    name = name or chosen.name
    outputs = (*DEFAULT_OUTPUTS, *(("tokens",) if tokens else ()))
    tables = FeatureTables(store, name, chosen.id, outputs=outputs, cleaning=cleaning, dtype=dtype)
    clock, streams = StageClock(), 1
    report = EmbedReport(str(store.path), chosen.id, notes=notes, workers=workers or os.cpu_count() or 1)
    kept = (*manifest.labels, *(("text",) if "text" in manifest.not_told else ()))
    known = Known.of(store, kept, name, tables.done("image"), tables.done("text"))
    manifest = fit_labels(
        manifest, known.items, replace_labels=bool(options and options.replace_labels), notes=notes
    )
    alike = near_identical_labels(manifest, known.items)
    if strict_labels and alike:
        raise SourceError(f"--strict-labels: {'; '.join(alike)}")
    notes += alike
    planner = Planner(
        manifest, known, report, only=only, retry=retry_failures, limit=limit, check_content=check_content
    )
    report.items = len(planner.table)
    _record_rejections(store, manifest.rejected.to_pylist(), known, report)
    moves = Moves(planner)
    works = planner.works()
    first = list(islice(works, LOOK_AT))
    if first or not tables.same_encoder():
        # Loaded only now: a rerun that finds nothing to do answers at once.
        model = chosen.load(device=device, precision=precision)
        tables.admit(model, first)
        shortest = None if exact else _shortest(model, first)
        report.device, report.precision, streams = model.device, model.precision, model.streams
        report.batch_size = batch_size or model.batch_size
        report.decoding = "whole" if shortest is None else f"large images shrunk to {shortest} pixels or more"
        extractor = Extractor(
            model,
            image_outputs=tables.outputs("image"),
            text_outputs=tables.outputs("text"),
            cleaning=tables.cleaning,
            image_done=known.image_done,
            text_done=known.text_done,
            shortest=shortest,
            workers=report.workers,
            batch_size=report.batch_size,
            dtype=tables.dtype,
            clock=clock,
        )
        with Committer(store, manifest, tables, known.failed_ids, planner.given, report, clock) as committer:
            for event in extractor.run(_counted(chain(first, works), report.items, progress)):
                if isinstance(event, Encoded):
                    committer.add_encoded(event)
                elif isinstance(event, Failure):
                    committer.add_failure(event)
                elif not moves.hold(event.work.tag, event.work.item_id, event.facts):
                    committer.add_item(event.work.tag, event.work.item_id, event.facts)
                    report.moved += _stayed(event.work.tag, event.facts)
            moved, held = moves.settle()
            for plan, item_id, _, facts in held:
                committer.add_item(plan, item_id, facts)
            if moved:
                committer.add_moved(moved, replace_labels=bool(options and options.replace_labels))
                report.new -= len(moved)
                report.changed += len(moved)
                report.moved += len(moved)
    collisions = [
        {"item_id": item_id, "path": path, "error": "IdTaken", "message": message}
        for item_id, path, message in planner.collisions
    ]
    _record_rejections(store, collisions, known, report)
    if check_content:
        altered = f"{planner.altered} had changed with size and time kept"
        compared = count_of(planner.compared, "file compared by its bytes", "files compared by their bytes")
        notes.append(f"{compared}: {altered}")
    if limit is None:
        given = [Path(source) for source in ([sources] if isinstance(sources, (str, Path)) else sources)]
        folders = [absolute(source) for source in given if source.is_dir()]
        files = [absolute(s) for s in given if s.is_file() and not is_image_name(s.name)]
        gone = set(planner.vanished(folders, manifest.rejected["item_id"].to_pylist(), files))
        _mark_vanished(store, sorted(gone.difference(moves.followed)), report)
    if taken := moves.taken:
        examples = ", ".join(taken[:3]) + (", ..." if len(taken) > 3 else "")
        notes.append(
            f"{count_of(len(taken), 'known item holds', 'known items hold')} the picture of another item "
            f"now, whose file is gone or another ({examples}): "
            "labels stay with the ids, so look whether they still fit"
        )
    if progress:
        progress(report.items, report.items, "done")
    report.features = [feature for feature in store.feature_names() if feature.split("/")[0] == name]
    report.stages = clock.table(report.workers, streams)
    report.seconds = round(time.perf_counter() - begun, 3)
    return report


@dataclass(frozen=True)
class ChosenEncoder:
    """Encoder of a run: its id, and itself where it is `loaded` already; one that the user has `named` becomes trusted."""

    id: str
    loaded: Encoder | None = None
    named: bool = False

    @property
    def name(self) -> str:
        """Short name; the folder of its features."""
        return self.loaded.name if self.loaded else folder_name(self.id)

    def load(self, *, device: str, precision: str) -> Encoder:
        """Load it, unless that was done."""
        model = self.loaded or load_encoder(self.id, device=device, precision=precision)
        if self.named:
            trust(model.id)
        return model


def choose_encoder(
    encoder: str | Encoder, store: Store | None, notes: list[str], *, device: str, precision: str
) -> ChosenEncoder:
    """Resolve "auto" to the store's own encoder, else to the default one, else to `mini`."""
    if isinstance(encoder, Encoder):
        return ChosenEncoder(encoder.id, encoder, named=True)
    if encoder != "auto":
        return ChosenEncoder(encoder, named=True)
    features = store.feature_names() if store else []
    there = sorted({store.feature_table(f).snapshot().spec["encoder"] for f in features if store} - {FIELDS})
    if len(there) > 1 and store:
        # Beside an encoder of images one of texts alone is an addition, which is asked for by name.
        seeing = {store.feature_table(f).snapshot().spec["encoder"] for f in features if "/image/" in f}
        if len(seeing) != 1:
            raise UsageError(f"the store holds features of {', '.join(there)}; choose one with --encoder")
        there = [*seeing]
    if there:
        require_trusted(there[0])
        return ChosenEncoder(there[0])
    try:
        model = load_encoder(DEFAULT_ENCODER, device=device, precision=precision)
    except EncoderError as error:
        try:
            model = load_encoder("mini", device=device, precision=precision)
        except EncoderError:
            raise error from None
        notes.append(
            f"using mini, since {DEFAULT_ENCODER} cannot be had here; choose with --encoder ({error})"
        )
    return ChosenEncoder(model.id, model)


def _counted(works: Iterable[Work], total: int, progress: Progress | None) -> Iterator[Work]:
    """Pass the work on, telling how far into the sources it is."""
    for work in works:
        if progress:
            progress(work.tag.row, total, work.item_id)
        yield work


def _shortest(encoder: Encoder, first: list[Work]) -> int | None:
    names = [
        output.name for output in encoder.outputs if output.modality == "image" and output.name != "tokens"
    ]
    return choose_shortest(encoder, first, names[0]) if names else None


def _record_rejections(store: Store, rows: list[dict[str, Any]], known: Known, report: EmbedReport) -> None:
    """Put source rows that could not be taken into the ledger, each once."""
    report.rejected += len(rows)
    fresh = [row for row in rows if (row["item_id"], row["message"]) not in known.rejections]
    report.failed += len(fresh)
    if fresh:
        now = datetime.now(UTC)
        store.failures.append(
            pa.Table.from_pylist([{**row, "stage": "manifest", "at": now} for row in fresh], schema=FAILURES)
        )


def _read_sources(
    sources: Sequence[str | Path], options: SourceOptions, store: Store | str | Path
) -> Manifest:
    """Read the sources; one that is empty, and that the store has items of, has lost them and is no mistake.

    That holds for folders without images and for files with a header and no rows. A source that is not there at all may lie
    on a disk that is not: it is refused, with what takes its items out of the store.
    """
    try:
        return read_sources(sources, options=options)
    except SourceError as error:
        path = store.path if isinstance(store, Store) else Path(store)
        if not Store.exists(path):
            raise
        items = Store.open(path).items.read(["root", "path", "source"])
        paths = [Path(source) for source in ([sources] if isinstance(sources, (str, Path)) else sources)]
        emptied = [
            path
            for path in paths
            if path.is_dir()
            and not (scan := scan_images(path)).paths
            and not scan.bad
            and pc.any(beneath_any(items, [absolute(path)])).as_py()
        ]
        of = Counter(items["source"].to_pylist())
        if isinstance(error, NoRowsError) and error.path in paths and of[absolute(error.path)]:
            emptied.append(error.path)
        if not emptied:
            lost = [
                p
                for p in paths
                if of[absolute(p)] and (not p.exists() or (p.is_file() and not p.stat().st_size))
            ]
            if not lost:
                raise
            where = "source = '{}'".format(absolute(lost[0]).replace("'", "''"))
            quoted = shlex.quote(where) if set('"$`\\!') & set(where) else f'"{where}"'
            command = f"icehouse remove -s {shlex.quote(str(path))} --where {quoted}"
            raise SourceError(
                f"{error}; the store keeps {count_of(of[absolute(lost[0])], 'item')} of it unchanged; to remove: `{command}`"
            ) from error
        rest = [path for path in paths if path not in emptied]
        found = (
            _read_sources(rest, options, store)
            if rest
            else Manifest(items_table([], None, None, None, None, None, {}), rejected_table([]))
        )
        said = tuple(f"{path}: its {'images' if path.is_dir() else 'rows'} are all gone" for path in emptied)
        return replace(found, notes=(*found.notes, *said))


def _stayed(plan: ItemPlan, facts: FileFacts | None) -> bool:
    """Whether an item that is at another place now has the content that it had."""
    return plan.moved and plan.had is not None and (facts is None or facts.image_sha256 == plan.had)


def _mark_vanished(store: Store, item_ids: list[str], report: EmbedReport) -> None:
    report.vanished += len(item_ids)
    if item_ids:
        rows = pa.table({"item_id": item_ids, "missing": [True] * len(item_ids)})
        store.items.upsert(rows, key="item_id")
