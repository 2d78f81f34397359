"""Near-duplicates of a store's items: found, grouped, and listed in ``STORE/dups/<name>/``. Nothing is deleted.

The stages are a cascade only in what they prove: equal bytes, a perceptual hash within a few bits, an embedding above a
cosine. All of them see all items, every pair is told with all that found it, and `kind` is the strongest.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .. import __version__
from ..errors import StoreError, UsageError
from ..store.files import publish_folder
from ..store.store import Store
from ..store.vectors import VectorBlocks
from .agreements import Agreements
from .calibration import check_expected
from .default_calibration import (
    MOST_MAPPED,
    DefaultMap,
    NearCache,
    careful_expected,
    default_calibration,
    held_neighbourhoods,
    map_beforehand,
    mapped_vectors,
)
from .engines import ENGINES, Engine, Exact, JoinOptions, choose_engine
from .groups import (
    FactsBeforehand,
    Files,
    Star,
    choose_keepers,
    columns_for,
    criteria,
    group_pairs,
    grouping,
    item_files,
    preference,
    ranks,
)
from .hashing import MAX_VIEW_BITS, ViewHashes, blank_hashes, informative, view_radius
from .judgements import active_judgements, judge_groups, mark_judged
from .pair_graph import Duplicates, default_feature, search_folder, search_name
from .pairs import (
    Contents,
    PairSearch,
    complete_stars,
    in_order,
    wide_pairs,
)
from .processes import one_thread, started, submit
from .results import (
    LABEL,
    PairWriter,
    RankedItems,
    between_copies,
    cluster_table,
    group_counts,
    implausible,
    label_codes,
    lacking,
    search_notes,
    withhold_lists,
    write_items,
    write_lists,
    write_variants,
)
from .rule import (
    DEFAULT_HAMMING,
    DEFAULT_SOURCE,
    Rule,
    calibrated_rule,
    check_rule,
    choose_hamming,
    choose_rule,
    near_certain_rule,
)
from .variants import (
    POLICIES,
    Overlays,
    Policy,
    Variants,
    label_notes,
    part_variants,
    texts_of,
    variant_notes,
)
from .views import (
    MAX_VIEWED,
    begin_views,
    confirmed_pairs,
    content_shares,
    have_cells,
    load_views,
    start_measuring,
    thumbs_of,
    turned_copies,
)

DEFAULT_MAX_PAIRS = 5_000_000


def find_duplicates(
    store: Store | str | Path,
    *,
    name: str | None = None,
    feature: str | None = "auto",
    hamming: int | Literal["auto"] | None = "auto",
    rule: Rule | float | None = None,
    grouping_by: str = "star",
    keeper: str = "best",
    where: str | None = None,
    max_pairs: int = DEFAULT_MAX_PAIRS,
    engine: str = "exact",
    expected_false_pairs: float | None = None,
    views: bool | None = None,
    variants: Policy = "keep",
    yes_drop: bool = False,
    threads: int | None = None,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> Duplicates:
    """Find near-duplicates, group them and choose what to keep.

    Results go to ``STORE/dups/<name>``, `search_name` unless given, in place of earlier ones by the same feature.
    Items are compared by `feature`, `default_feature` unless given, whose modality decides what counts as an item's
    content: its image or its text; by perceptual hashes within `hamming` bits of 64 (6, or fewer where a calibration
    expects false pairs of them); and by `views`, hashes of parts of images, by default where there are at most
    `MAX_VIEWED`. None leaves a stage out.

    `rule` is a least cosine, or with it a mean to subtract and where both are from. Unless given, the feature's
    calibration chooses, if it is of the same fingerprint; without one, what the set itself looks like: so that no more
    than `expected_false_pairs` are to be expected among all pairs, 1 by a calibration and else a five-hundredth of the
    contents, at most 1. `engine` is what compares embeddings: the join that misses none, or a FAISS index whose recall
    is measured and told.

    `keeper` is a policy or a column, see `icehouse.dups.groups.preference`; only items that meet `where` are compared,
    and vanished files never are. `variants`, pictures that agree while their texts do not, are kept and listed, or
    count as duplicates. `yes_drop` writes ``keep.csv`` and ``drop.csv`` even where so many contents are alike that
    hardly all are duplicates. `threads` and `device` are as `icehouse.dups.join.self_join` takes them;
    `progress` is called with images whose parts are hashed, then with pairs. A UsageError says that an argument is out
    of its range, names what there is not, or could do nothing; a StoreError that there is no such feature, or that
    results cannot be written.
    """
    store = Store.of(store)
    if max_pairs < 1:
        raise UsageError(f"the cap on pairs must be at least 1, not {max_pairs}")
    grouping(grouping_by, 0)
    if engine not in ENGINES:
        raise UsageError(f"no engine {engine!r}; there are: {', '.join(ENGINES)}")
    if variants not in POLICIES:
        raise UsageError(f"variants are one of {', '.join(POLICIES)}, not {variants!r}")
    feature = default_feature(store) if feature == "auto" else feature
    folder = _free_folder(store, name, feature)
    spec = None if feature is None else store.feature_table(feature).spec
    key = "image_sha256" if spec is None else spec["key"]
    begun = time.perf_counter()
    hamming = choose_hamming(hamming, views, feature, key)
    # What comes while images are hashed has not been looked at.
    looked_at = datetime.now(UTC)
    items = _items(store, key, keeper, where)
    automatic = hamming == "auto"
    hamming = DEFAULT_HAMMING if hamming == "auto" else hamming
    n = pc.count_distinct(items[key]).as_py()
    viewed = hamming is not None and n > 1 and (n <= MAX_VIEWED if views is None else views)
    made, remarks = choose_rule(store, rule, feature, hamming, automatic, n, expected_false_pairs, viewed)
    check_rule(made, threads, device)
    if viewed:
        start_measuring(store, n, threads)
    try:
        with publish_folder(folder) as temp, ThreadPoolExecutor(1) as beside, ExitStack() as rest:
            scratch = temp / "vectors.npy"
            inside, facts = None, None
            by_quality = keeper == "best" and key == "image_sha256"
            # Read while pictures are.
            read = beside.submit(lambda: None if feature is None else store.vector_blocks(feature))
            # By which the rule is yet to be fitted.
            fitted_to, fitted = feature if made.source == DEFAULT_SOURCE else None, None
            if started():
                # These take the other processors.
                rest.enter_context(one_thread())
            if viewed:
                new, finish = begin_views(store, items, threads)
                if new and started() and fitted_to is not None and where is None:
                    fitted = _map_beforehand(store, fitted_to, items, key, read.result())
                finish(progress)
                inside = content_shares(store, items[key].cast(pa.string()).combine_chunks())
            vectors = read.result()
            ranked, items, standing = _ranked_items(items, key, keeper, inside)
            drawn = _Drawn.of(ranked.best, items, key, vectors, scratch)
            hashed_views, parts, wide = None, None, None
            if viewed:
                seen = items[key].cast(pa.string()).combine_chunks().take(pa.array(ranked.best))
                # Absolute: another process may have another working directory.
                path = store.path.absolute()
                near = path / "cache" / "near" / search_name(feature)
                turned = submit(threads, turned_copies, path, seen, near, where is None)
                if inside is not None and not np.isnan(inside).all():
                    hashed_views = load_views(store, items.take(pa.array(ranked.best)), make=False)
                every = None if hashed_views is None else ViewHashes(*hashed_views, 0)
                known = NearCache.of(near, seen, every, drawn.with_vector, where is None)
                if every is not None and fitted_to is not None:
                    # What a search finds out for itself asks for no agreement, and for a local measure nearly always.
                    wide = submit(threads, wide_pairs, known, every)
            if fitted_to is not None:
                made, told = _default_rule(
                    store,
                    fitted_to,
                    drawn,
                    hashed_views,
                    fitted,
                    made,
                    automatic,
                    careful_expected(n) if expected_false_pairs is None else expected_false_pairs,
                    where is None,
                )
                remarks += told
            if viewed:
                parts, unseen = _views(hashed_views, len(seen), made, expected_false_pairs or 1.0)
                remarks += unseen
                if parts is not None and made.local is not None and fitted_to is None:
                    wide = submit(threads, wide_pairs, known, parts)
                if by_quality:
                    fresh = pc.is_in(seen, value_set=pa.array(new, pa.string()))
                    facts = FactsBeforehand(store, seen, ranked.files_of, fresh.to_numpy(False), threads)
            contents, rows = _contents(store, feature, drawn, made, scratch, where is None), drawn.rows
            remarks += lacking(contents, items, key, feature)
            if viewed:
                contents.views, contents.known, contents.wide = parts, known, wide
                contents.collages = have_cells(store, seen)
                if made.near_certain and hashed_views is not None:
                    contents.near_views = ViewHashes(*hashed_views, MAX_VIEW_BITS)
                contents.agreements = Agreements.of_store(store, seen, ranked.files_of, threads)
            elif hamming is not None and n > 1 and views is None:
                remarks.append(
                    f"crops, frames and turned copies are left to the embedding: hashing parts of {n} images takes long; "
                    "ask with --views"
                )
            if contents.rule.local is not None and feature is not None and contents.rows is not None:
                contents.beside = held_neighbourhoods(
                    store,
                    feature,
                    contents.rule.local,
                    drawn.digests,
                    contents.rows.X,
                    None if contents.views is None else contents.views.subset(contents.with_vector),
                )
            write_items(temp, ranked, items[key], contents)
            texts = texts_of(store, items) if key == "image_sha256" else []
            pictures = None
            if viewed:
                pictures = Overlays(partial(thumbs_of, store, seen), np.arange(len(contents)))
                pictures.recall(near / "overlays.npz", seen)
            contents.variants = Variants.gather(
                texts, ranked.content, len(contents), pictures, dropped=variants == "drop"
            )
            said = next((one.values for one in texts[::-1]), None)
            labels = label_codes(items[LABEL]) if LABEL in items.column_names else None
            del items, texts
            chosen: Engine = Exact()
            if engine == "faiss":
                stored = None if vectors is None else vectors.whole
                chosen = choose_engine(store, feature, contents.rows, rows, stored, threads=threads)
            groups = grouping(grouping_by, len(contents))
            rest.enter_context(one_thread())
            search = PairSearch(contents, JoinOptions(max_pairs, threads, device, progress), chosen)
            search.expect = None if facts is None else facts.expect
            search.find_near_views()
            if viewed:
                contents.confirmed, unseen = confirmed_pairs(store, seen, contents.views, turned())
                remarks += unseen
            search.find_view_pairs()
            made = replace(made, hamming=contents.rule.hamming, agreement=contents.rule.agreement)
            with PairWriter.to(temp / "pairs.parquet", ranked, labels) as writer:
                writer.copies(contents)
                for found in search:
                    writer.add(found)
                    groups.add(*contents.joined(found))
            whole = not search.capped
            if isinstance(groups, Star) and search.capped:
                whole = complete_stars(groups, search, temp / "rest.npy")
            keepers, parted = groups.keepers(), 0
            if variants == "keep":
                keepers, parted = part_variants(
                    keepers,
                    contents.variants,
                    lambda left: _regrouped(left, ranked, temp / "pairs.parquet", grouping_by),
                )
            why: dict[int, str] = {}
            if by_quality:
                keepers, why = choose_keepers(
                    store,
                    ranked,
                    lambda: _digests(temp, ranked),
                    keepers,
                    contents,
                    standing,
                    star=grouping_by == "star",
                    facts=facts,
                    progress=progress,
                    threads=threads,
                )

            changed = None
            if judged := active_judgements(store, key):
                changed, ranked = judge_groups(
                    temp,
                    ranked,
                    keepers,
                    contents,
                    _digests(temp, ranked),
                    judged,
                    grouping_by,
                    variants,
                    why,
                )
                keepers = changed.keeper
                remarks += [changed.note(), *changed.conflicts]
            if contents.agreements is not None:
                contents.agreements.keep()
            family, listed = write_variants(temp, ranked, keepers, contents, writer.variants, said)
            # Looked at again, since hours may have gone by.
            files = inspect_again(ranked, keepers, temp)
            clusters = cluster_table(ranked, keepers, contents, files.first(), family, why)
            if pictures is not None and where is None:
                pictures.keep(near / "overlays.npz", seen)
            if changed is not None:
                clusters = mark_judged(clusters, ranked, changed)
            pq.write_table(clusters, temp / "clusters.parquet", compression="zstd")
            kept, dropped, kept_for = write_lists(temp, ranked, clusters, files)
            largest = int(np.bincount(keepers, minlength=1).max()) if len(keepers) else 0
            doubt = implausible(
                writer.kinds["perceptual"] + writer.kinds["embedding"], len(contents), largest
            )
            if doubt and not yes_drop:
                withhold_lists(temp)
                kept_for = [doubt, *kept_for]
            summary = {
                "name": folder.name,
                "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
                "looked_at": looked_at.isoformat(),
                "created_by": f"icehouse {__version__}",
                "items": len(ranked.ids),
                "contents": len(contents),
                "without_vector": 0 if feature is None else len(contents) - len(contents.with_vector),
                "parameters": {
                    "feature": feature,
                    "fingerprint": None if spec is None else spec.get("fingerprint"),
                    "content": key,
                    "engine": engine,
                    "hamming": made.hamming,
                    "cosine": made.cosine,
                    "evidence": made.evidence,
                    "measure": "cosine" if made.local is None else "local",
                    "cosine_from": made.source,
                    "centred": made.mean is not None,
                    "whitened": made.matrix is not None,
                    "views": None if contents.views is None else contents.views.radius,
                    "agreement": made.agreement,
                    "margins": viewed,
                    "grouping": grouping_by,
                    "variants": variants,
                    "keeper": keeper,
                    "where": where,
                    "max_pairs": max_pairs,
                },
                "pairs": {
                    "total": sum(writer.kinds.values()),
                    "by_kind": dict(writer.kinds),
                    "found_by": dict(writer.stages),
                    "by_orientation": dict(sorted(writer.orientations.items())),
                    "between_copies": between_copies(ranked),
                },
                "groups": {**group_counts(clusters), "complete": whole},
                "variants": {
                    "sets": int(family.max(initial=-1)) + 1,
                    "items": listed,
                    "pairs": dict(writer.differing),
                    "left_groups": parted,
                },
                "labels": None
                if labels is None
                else {
                    "column": LABEL,
                    "compared": dict(writer.labelled),
                    "conflicting": dict(writer.conflicting),
                },
                "kept": kept,
                "dropped": dropped,
                "lists_withheld": bool(doubt) and not yes_drop,
                **({"judged": changed.summary()} if changed is not None else {}),
                "capped": search.capped,
                "complete_contents": search.complete,
                "stages": search.report(),
                "seconds": round(time.perf_counter() - begun, 3),
                "notes": remarks
                + search_notes(made, feature, search, whole)
                + variant_notes(contents.variants, writer.differing, variants)
                + label_notes(writer.labelled, writer.conflicting)
                + kept_for,
                "notes_on_lists": kept_for,
            }
            contents.rows = None
            del contents, search, chosen
            scratch.unlink(missing_ok=True)
            scratch.with_name("mapped.npy").unlink(missing_ok=True)
            text = json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False)
            (temp / "summary.json").write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise StoreError(f"cannot write {folder}: {error.strerror or error}") from error
    return Duplicates(folder, summary)


def _views(
    made: tuple[np.ndarray, np.ndarray] | None, n: int, rule: Rule, expected: float
) -> tuple[ViewHashes | None, list[str]]:
    """The views of the contents, where they can tell something."""
    radius = view_radius(n, (rule.hamming or 0) if rule.view_bits is None else rule.view_bits, expected)
    if radius < 0 and rule.agreement is None and rule.local is None:
        return None, [f"among {n} images parts resemble each other by chance, so that none were compared"]
    if made is None:
        return None, [
            "no image file could be read again, so crops, frames and turned copies are left to the embedding"
        ]
    return ViewHashes(*made, radius, rule.agreement), []


def _items(store: Store, key: str, keeper: str, where: str | None) -> pa.Table:
    """Items to compare, with their facts."""
    names = ["path", "root", "missing", "phash", "image_sha256", "text", LABEL, key]
    names = list(dict.fromkeys([*columns_for(keeper), *names]))
    known = store.items.snapshot().schema.names
    items = store.items.read([name for name in names if name in known])
    if LABEL in items.column_names and pa.types.is_list(items[LABEL].type) and LABEL not in keeper:
        items = items.drop_columns([LABEL])
    items = items.filter(pc.invert(pc.fill_null(items["missing"], False)))
    if where is not None:
        from ..store.sql import select_items

        items = items.filter(pc.is_in(items["item_id"], value_set=select_items(store, where)))
        if not len(items):
            raise UsageError(f"no item to compare where {where}; earlier results stay as they are")
    criteria(items, keeper)  # a column that is not there is refused before minutes of hashing
    return items


def _regrouped(left: np.ndarray, ranked: RankedItems, pairs: Path, grouping_by: str) -> np.ndarray:
    """Groups of the contents `left`, ascending, by their pairs that were written: the place of each one's keeper."""
    ids = ranked.ids.take(pa.array(ranked.best[left]))
    sides = [np.empty((0, 2), np.int64)]
    with pq.ParquetFile(pairs) as file:
        for batch in file.iter_batches(columns=["id_a", "id_b", "kind"]):
            ends = [pc.fill_null(pc.index_in(batch[name], value_set=ids), -1) for name in ("id_a", "id_b")]
            found = np.stack([column.to_numpy().astype(np.int64) for column in ends], axis=1)
            other = pc.is_in(batch["kind"], value_set=pa.array(["variant", "container"]))
            same = pc.invert(other).to_numpy(zero_copy_only=False)
            sides.append(found[(found >= 0).all(axis=1) & same])
    i, j = np.concatenate(sides).T
    return group_pairs(len(left), i, j, grouping_by)


def _file_facts(items: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Bytes and times of the files when they were embedded, as numbers with NaN for null."""
    size, time_ns = (items[name].cast(pa.float64(), safe=False).to_numpy() for name in ("bytes", "mtime_ns"))
    return size, time_ns


def _ranked_items(
    items: pa.Table, key: str, keeper: str, inside: np.ndarray | None
) -> tuple[RankedItems, pa.Table, np.ndarray]:
    """Items in order of preference, and for each content what goes before quality: whether its file is there, and a link."""
    # A picture is no duplicate because its text is one: no file is listed then.
    listed = key == "image_sha256"
    files = Files.inspect(item_files(items), *_file_facts(items)) if listed else None
    order = preference(items, keeper, inside, files)
    standing = np.zeros(len(items), np.int64)
    if files is not None:
        told = dict(criteria(items, keeper, inside, files))
        standing = (2 * told["there"] + told["link"])[order]
    items = items.take(pa.array(order))
    ids = items["item_id"].cast(pa.string()).combine_chunks()
    content, best = _contents_in(items, key)
    paths = item_files(items) if listed else pa.nulls(len(items), pa.string())
    ranked = RankedItems(ids, paths, *_file_facts(items), ranks(items["item_id"]), content, best)
    return ranked, items, standing[best]


def _contents_in(items: pa.Table, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Number of each item's content, -1 where it has none, and the first item of each, both int64."""
    content = items[key].cast(pa.string()).combine_chunks().dictionary_encode().indices
    content = pc.fill_null(content.cast(pa.int64()), -1).to_numpy()
    numbers, first = np.unique(content, return_index=True)
    return content, first[numbers >= 0].astype(np.int64)


def inspect_again(ranked: RankedItems, keeper: np.ndarray, folder: Path) -> Files:
    """State of the files at the items' paths; if only the time of a grouped file has changed, its bytes are compared."""
    digests: list[pa.ChunkedArray] = []
    sizes = np.bincount(keeper[ranked.content[ranked.content >= 0]], minlength=len(keeper))

    def digest(row: int) -> str | None:
        if ranked.content[row] < 0 or sizes[keeper[ranked.content[row]]] < 2:
            return None
        if not digests:
            written = pq.read_table(folder / "items.parquet", columns=["content"])
            digests.append(written["content"])
        found = digests[0][int(ranked.alphabet[row])].as_py()
        return None if found is None else str(found)

    return Files.inspect(ranked.files, ranked.sizes, ranked.times, digest)


def _digests(folder: Path, ranked: RankedItems) -> list[str]:
    """SHA-256 of each content, as ``items.parquet`` in `folder` has them."""
    digests = pq.read_table(folder / "items.parquet", columns=["content"])["content"]
    found: list[str] = digests.take(pa.array(ranked.alphabet[ranked.best])).to_pylist()
    return found


@dataclass(frozen=True)
class _Drawn:
    """Contents to compare: their hashes, and their stored vectors, of those that have one."""

    hashes: np.ndarray  # uint64 (n,)
    hashed: np.ndarray  # bool (n,)
    stored: VectorBlocks | None
    with_vector: np.ndarray  # int64 (m,): their numbers
    rows: np.ndarray  # int64 (m,): their rows in the feature's table
    digests: np.ndarray  # str (m,): sha256
    scratch: Path

    @classmethod
    def of(
        cls, first: np.ndarray, items: pa.Table, key: str, vectors: VectorBlocks | None, scratch: Path
    ) -> _Drawn:
        """Gather them, of the items that are the `first` of each content, in their order."""
        best = pa.array(first)
        hashes = items["phash"].take(best)
        hashed = pc.is_valid(hashes).to_numpy()
        values = pc.fill_null(hashes, 0).to_numpy().astype(np.uint64)
        if key != "image_sha256":
            # One text may stand beside several images.
            hashed = np.zeros(len(best), bool)
        none = np.empty(0, np.int64)
        if vectors is None:
            return cls(values, hashed, None, none, none, np.empty(0, "U64"), scratch)
        keys = items[key].cast(pa.string()).take(best)
        rows = pc.index_in(keys, value_set=vectors.keys, skip_nulls=True)
        # Blank pictures have the same vector whatever they are of.
        rows = pc.if_else(pa.array(hashed & blank_hashes(values)), pa.scalar(None, rows.type), rows)
        with_vector = np.flatnonzero(pc.is_valid(rows).to_numpy())
        found = rows.drop_null().to_numpy().astype(np.int64)
        digests = np.array(keys.take(pa.array(with_vector)).to_pylist(), "U64")
        return cls(values, hashed, vectors, with_vector, found, digests, scratch)

    @cached_property
    def vectors(self) -> np.ndarray:
        """The stored vectors (m, d), of which there may be a copy on disk."""
        assert self.stored is not None
        return in_order(self.stored.whole.X, self.rows, self.scratch)

    def take(self, at: np.ndarray) -> np.ndarray:
        """Stored vectors of a few."""
        assert self.stored is not None
        return self.stored.take(self.rows[at])


def _map_beforehand(
    store: Store, feature: str, items: pa.Table, key: str, vectors: VectorBlocks | None
) -> DefaultMap | None:
    """What `map_beforehand` makes of the contents of items, whose order of preference is not known yet."""
    if vectors is None:
        return None
    drawn = _Drawn.of(_contents_in(items, key)[1], items, key, vectors, Path())
    return map_beforehand(store, feature, drawn.take, drawn.digests)


def _contents(
    store: Store, feature: str | None, drawn: _Drawn, rule: Rule, scratch: Path, keep: bool
) -> Contents:
    """Contents, their vectors taken to where the rule compares them."""
    if drawn.stored is None or feature is None:
        return Contents(drawn.hashes, drawn.hashed, rule)
    squares = None
    if (rule.matrix is not None or rule.local is not None) and rule.mean is not None and len(drawn.rows):
        shape = len(drawn.rows), drawn.stored.dim
        # More than that lies on disk.
        room = np.empty(shape, np.float32) if 4 * shape[0] * shape[1] <= MOST_MAPPED else None
        if room is None:
            file = scratch.with_name("mapped.npy")
            room = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=shape)
        squares = mapped_vectors(
            store, feature, drawn.take, drawn.digests, rule.mean, rule.matrix, room, keep
        )
        # A mean of nothing tells an engine that these are no longer the vectors as they are stored.
        X, rule = room, replace(rule, mean=np.zeros(shape[1]), matrix=None)
    else:
        X = drawn.vectors
    return Contents(drawn.hashes, drawn.hashed, rule, X, drawn.with_vector, squares=squares)


def _default_rule(
    store: Store,
    feature: str,
    drawn: _Drawn,
    views: tuple[np.ndarray, np.ndarray] | None,
    fitted: DefaultMap | None,
    rule: Rule,
    automatic: bool,
    expected: float,
    keep: bool,
) -> tuple[Rule, list[str]]:
    """The rule where there is no calibration: one of the set's own neighbourhoods, or of near certainty in small sets."""
    check_expected(expected)
    n, at = len(drawn.hashes), drawn.with_vector
    if not len(drawn.rows):
        return replace(rule, cosine=1.0), []
    hashes = drawn.hashes[at] * (drawn.hashed[at] & informative(drawn.hashes[at]))
    seen = None if views is None else ViewHashes(views[0][at], views[1][at], 0)
    told = None if rule.hamming is None else hashes
    calibration = default_calibration(
        store, feature, lambda: drawn.vectors, drawn.digests, told, seen, keep=keep, fitted=fitted
    )
    if calibration is None:
        rule, note = near_certain_rule(drawn.vectors, hashes, seen, rule, n, automatic, expected)
        return rule, [note]
    most = DEFAULT_HAMMING if automatic and rule.hamming is not None else None
    by = "the neighbours that contents of this set have in"
    made, notes = calibrated_rule(calibration, n, expected, most, views is not None, by)
    made = replace(made, source=DEFAULT_SOURCE)
    notes.append("`icehouse dups calibrate` tells which copies that finds")
    return (made if most is not None else replace(made, hamming=rule.hamming)), notes


def _free_folder(store: Store, name: str | None, feature: str | None) -> Path:
    """Folder for the results, if no search by another feature has it."""
    chosen = search_name(feature) if name is None else name
    folder = search_folder(store, chosen)
    try:
        other = json.loads((folder / "summary.json").read_bytes())["parameters"]["feature"]
    except (OSError, ValueError, KeyError, TypeError):
        return folder
    if other == feature:
        return folder
    if name is None and feature is None:
        # Before searches were named after their feature, every search was called so.
        return _free_folder(store, "hashes", feature)
    what = (found or "bytes and hashes alone" for found in (other, feature))
    raise UsageError(
        "the search {!r} is by {}, and one by {} does not replace it: give another --name, or remove {}".format(
            chosen, *what, folder
        )
    )
