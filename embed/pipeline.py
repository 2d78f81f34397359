"""The main job: sources in, features in the store; and the verified encoder behind a stored feature.

manifest -> `Planner` (what needs doing) -> `Extractor` (read, decode, encode) -> `Committer` (Parquet). This module opens
the pieces, joins them, and guards the feature tables: fingerprint first, probe second, then the first append.
"""

from __future__ import annotations

import os
import shlex
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from ..data.folders import is_image_name, scan_images
from ..data.manifest import Manifest, SourceOptions, read_sources
from ..data.rows import absolute, items_table, rejected_table
from ..data.text import CLEANERS
from ..errors import EncoderError, NoRowsError, SourceError, UsageError
from ..store.schema import FAILURES, check_space, check_spec, tower_of
from ..store.store import Store
from .encoder import Encoder, fingerprint, folder_name, load_encoder, require_trusted, trust
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
from .plan import ItemPlan, Known, Moves, Planner, beneath_any, fit_labels, near_identical_labels
from .tables import FeatureTables, check_probe, provenance_now
from .writer import Committer

if TYPE_CHECKING:
    from ..store.store import Store

__all__ = [
    "DEFAULT_CLEANING",
    "DEFAULT_OUTPUTS",
    "FIELDS",
    "choose_encoder",
    "cleaning_beside",
    "embed_sources",
    "load_checked",
]

DEFAULT_OUTPUTS = ("joint", "pooled")
DEFAULT_CLEANING = "social-v1"
DEFAULT_ENCODER = "clip-b32"

#: "Encoder" of features that none made: the columns of structured captions, see `icehouse.embed.captions.fields`.
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
    if cleaning is not None and cleaning not in CLEANERS:
        raise UsageError(f"no text cleaning {cleaning!r}; there are {', '.join(CLEANERS)}")
    if limit is not None and limit < 0:
        raise UsageError(f"--limit {limit}: a number of rows, 0 or more")
    manifest = _read_sources(sources, options or SourceOptions(), store)
    store = store if isinstance(store, Store) else Store.open_or_create(Path(store))
    loaded = encoder if isinstance(encoder, Encoder) else None
    named = encoder != "auto"
    notes = list(manifest.notes)
    precision = precision or ("float32" if exact else "auto")
    if isinstance(encoder, str):
        encoder, loaded = choose_encoder(encoder, store, notes, device=device, precision=precision)
    encoder_id = encoder if isinstance(encoder, str) else encoder.id
    name = name or (loaded.name if loaded else folder_name(encoder_id))
    tables = FeatureTables(
        store,
        name,
        encoder_id,
        outputs=(*DEFAULT_OUTPUTS, *(("tokens",) if tokens else ())),
        cleaning=cleaning,
        default_cleaning=DEFAULT_CLEANING,
        dtype=dtype,
    )
    clock, streams = StageClock(), 1
    report = EmbedReport(str(store.path), encoder_id, notes=notes, workers=workers or os.cpu_count() or 1)
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
        model = loaded or load_encoder(encoder_id, device=device, precision=precision)
        if named:
            trust(model.id)
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
        committer = Committer(
            store,
            manifest,
            table_of=tables.table,
            encoder=name,
            retried=known.failed_ids,
            given=planner.given,
            report=report,
            clock=clock,
        )
        with committer:
            for event in extractor.run(_counted(chain(first, works), report.items, progress)):
                if isinstance(event, Encoded):
                    tables.open(event.modality)
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
        notes.append(f"{planner.compared} files compared by their bytes: {altered}")
    if limit is None:
        given = [Path(source) for source in ([sources] if isinstance(sources, (str, Path)) else sources)]
        folders = [absolute(source) for source in given if source.is_dir()]
        files = [absolute(s) for s in given if s.is_file() and not is_image_name(s.name)]
        gone = set(planner.vanished(folders, manifest.rejected["item_id"].to_pylist(), files))
        _mark_vanished(store, sorted(gone.difference(moves.followed)), report)
    if taken := moves.taken:
        examples = ", ".join(taken[:3]) + (", ..." if len(taken) > 3 else "")
        notes.append(
            f"{len(taken)} known items hold the picture of another item now, whose file is gone or another ({examples}): "
            "labels stay with the ids, so look whether they still fit"
        )
    if progress:
        progress(report.items, report.items, "done")
    report.features = [feature for feature in store.feature_names() if feature.split("/")[0] == name]
    report.stages = clock.table(report.workers, streams)
    report.seconds = round(time.perf_counter() - begun, 3)
    return report


def choose_encoder(
    encoder_id: str, store: Store | None, notes: list[str], *, device: str, precision: str
) -> tuple[str, Encoder | None]:
    """Resolve "auto"; an encoder that had to be loaded to know comes back with its id."""
    if encoder_id != "auto":
        return encoder_id, None
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
        return there[0], None
    try:
        chosen = load_encoder(DEFAULT_ENCODER, device=device, precision=precision)
    except EncoderError as error:
        try:
            chosen = load_encoder("mini", device=device, precision=precision)
        except EncoderError:
            raise error from None
        notes.append(
            f"using mini, since {DEFAULT_ENCODER} cannot be had here; choose with --encoder ({error})"
        )
    return chosen.id, chosen


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
                f"{error}; the store keeps its {of[absolute(lost[0])]} items as they are: `{command}` removes them"
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


# A store holds vectors, not models. To encode one thing more (a query, a class prompt, a row to predict) the encoder is
# loaded from the feature's spec, and must still have its fingerprint and pass its probe.


_SPACE = ("encoder", "name", "modality", "output")


def load_checked(
    spec: Mapping[str, Any],
    encoder: Encoder | None = None,
    *,
    device: str = "auto",
    texts_only: bool = False,
) -> Encoder:
    """Load the encoder that a feature's spec names, and make sure that it still is the one."""
    check_spec(spec, "the feature", (*_SPACE, "provenance"))
    if encoder is None:
        require_trusted(spec["encoder"])
        encoder = load_encoder(spec["encoder"], device=device)
    modality, output = spec["modality"], spec["output"]
    now = provenance_now(encoder, spec, DEFAULT_CLEANING)
    if texts_only:
        now.pop("decoder", None)
        now |= {key: spec["provenance"][key] for key in ("decoder",) if key in spec["provenance"]}
    feature = f"the feature {spec['name']}/{modality}/{output}"
    check_space(feature, spec, {"encoder": encoder.id, "provenance": now, "fingerprint": fingerprint(now)})
    check_probe(encoder, tower_of(modality), f"{spec['name']}/{modality}", {output: spec.get("probe") or {}})
    return encoder


def cleaning_beside(store: Store, spec: Mapping[str, Any]) -> str:
    """Cleaning of the texts that were embedded beside this feature, so that another text is treated as they were."""
    prefix = f"{spec['name']}/text/"
    for name in store.feature_names():
        if name.startswith(prefix):
            provenance = store.feature_table(name).snapshot().spec.get("provenance") or {}
            return str(provenance.get("cleaning") or DEFAULT_CLEANING)
    return DEFAULT_CLEANING
