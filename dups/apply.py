"""Judgements applied to a search that has been made: its groups, keepers, pairs and lists written anew, without searching.

Measures of pairs are those that the search has written. Of a group that judgements made, what no file has stays unknown,
or is told as the bound that the group had before; the next ``dups find`` measures it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..data.images import ORIENTATIONS
from ..errors import CorruptError, IcehouseError, StoreError
from ..store.files import SUMS, publish_folder, temp_name
from ..store.store import Store
from .confirm import INVERSE
from .find import inspect_again
from .groups import item_files
from .judgements import (
    AS_FOUND,
    DIFFERENT,
    JUDGED,
    active_judgements,
    content_ends,
    found_pairs,
    judge_groups,
    mark_judged,
    read_judged,
    record_judgements,
    undo_judgements,
)
from .pair_graph import Duplicates, list_duplicates
from .pairs import FoundPairs, Spread
from .results import (
    PAIRS,
    STAGES,
    RankedItems,
    cluster_table,
    group_counts,
    withhold_lists,
    write_lists,
    write_variants,
)
from .variants import EVIDENCE, texts_of

#: What is written anew; everything else of a search is taken along as it is.
_WRITTEN = {
    "pairs.parquet",
    "clusters.parquet",
    "keep.csv",
    "drop.csv",
    "variants.csv",
    "variants.parquet",
    "summary.json",
    DIFFERENT,
    AS_FOUND,
    SUMS,
    "gallery",
}


@dataclass(frozen=True)
class Applied:
    """Result of `apply_judgements`."""

    search: Duplicates
    record: dict[str, Any] | None  # the record that was added, found again or undone
    problems: list[str]  # rows that could not be used, and judgements that contradict others
    before: dict[str, int]  # groups, kept and dropped of the search as it was
    #: other searches of the same contents, whose lists go by the judgements once these are applied there, too
    others: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        summary = self.search.summary
        record = self.record or {}
        return {
            "path": self.search.path,
            "record": {key: record.get(key) for key in ("number", "at", "by", "file")} if record else None,
            "judged": summary.get("judged"),
            "problems": self.problems,
            "before": self.before,
            "after": _counts(summary),
            "other_searches": self.others,
        }


def apply_judgements(
    store: Store | str | Path,
    judged: str | Path | None = None,
    name: str | None = None,
    *,
    by: str | None = None,
    undo: bool = False,
) -> Applied:
    """Apply judgements of duplicates to a search, and keep them for the next ones.

    `judged` is a table with the columns `a`, `b`, `label` (1: duplicates, 0: different) and perhaps `keep` (the one of
    the two that is to be the keeper), as the gallery saves it; without one the judgements that the store has are
    applied again. `undo` lets those of that file, or else the latest ones, no longer count. A SourceError says that no
    row of the file can be used.
    """
    store = Store.of(store)
    search = Duplicates.open(store, name)
    before, record, problems = _counts(search.summary), None, []
    if undo:
        record = undo_judgements(store, search.content, judged, by=by)
    elif judged is not None:
        read = read_judged(judged, store.items.read(["item_id"])["item_id"])
        record, told = record_judgements(store, read, search.content, by=by)
        problems = [*read.problems, *told]
    found = rewrite(store, search)
    conflicts = (found.summary.get("judged") or {}).get("conflicts", [])
    others = []
    for other in list_duplicates(store) if record is not None else []:
        with contextlib.suppress(IcehouseError):  # one that is damaged costs this one nothing
            if other != search.name and Duplicates.open(store, other).content == search.content:
                others.append(other)
    return Applied(found, record, [*problems, *conflicts], before, others)


def rewrite(store: Store, search: Duplicates) -> Duplicates:
    """Write the results of a search anew by the judgements that count, from what it found."""
    judged = active_judgements(store, search.content)
    if not judged and not (search.path / AS_FOUND).exists():
        return search
    folder, method = search.path, str(search.summary["parameters"]["grouping"])
    try:
        ranked, shas = _ranked(store, search)
        evidence = _Written.of(search, ranked)
        keeper, changed = evidence.keeper, None
        gallery = None
        with publish_folder(folder) as temp:
            for entry in folder.iterdir():
                if entry.name not in _WRITTEN and not entry.name.startswith("."):
                    _take_along(entry, temp / entry.name)
            _write_found(search, temp)
            notes = []
            if judged:
                changed, ranked = judge_groups(
                    temp, ranked, keeper, evidence, shas, judged, method, evidence.variants, evidence.why
                )
                keeper = changed.keeper
                notes = [changed.note(), *changed.conflicts]
            files = inspect_again(ranked, keeper, temp)
            family, listed = write_variants(
                temp, ranked, keeper, evidence, evidence.variant_pairs(), _texts(store, ranked)
            )
            clusters = cluster_table(ranked, keeper, evidence, files.first(), family, evidence.why)
            if changed is not None:
                clusters = mark_judged(clusters, ranked, changed)
            pq.write_table(clusters, temp / "clusters.parquet", compression="zstd")
            counts = write_lists(temp, ranked, clusters, files)
            if search.summary.get("lists_withheld"):
                withhold_lists(temp)
            summary = _summary(search.summary, clusters, temp, counts, notes)
            summary.pop("judged", None)
            told = summary.get("variants", {})
            summary["variants"] = {**told, "sets": int(family.max(initial=-1)) + 1, "items": listed}
            if changed is not None:
                summary["judged"] = {
                    **changed.summary(),
                    "applied_at": datetime.now(UTC).isoformat(timespec="seconds"),
                }
            text = json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False)
            (temp / "summary.json").write_text(text + "\n", encoding="utf-8")
            if Duplicates.open(store, search.name).summary != search.summary:
                raise StoreError(
                    f"the duplicates {search.name!r} were replaced while judgements were applied: run it again"
                )
            # The gallery has no checksums, since it is written anew by itself: it moves once the others are in place.
            if (folder / "gallery").is_dir() and not (folder / "gallery").is_symlink():
                gallery = folder.parent / temp_name("")
                _take_along(folder / "gallery", gallery)
        if gallery is not None:
            gallery.rename(folder / "gallery")
    except OSError as error:
        raise StoreError(f"cannot write {folder}: {error.strerror or error}") from error
    return Duplicates(folder, summary)


def _take_along(source: Path, target: Path) -> None:
    """The same file or folder in another place: by hard links where they can be made."""

    def link(one: str, other: str) -> None:
        try:
            os.link(one, other)
        except OSError:
            shutil.copy2(one, other)

    if source.is_dir():
        shutil.copytree(source, target, copy_function=link)
    else:
        link(str(source), str(target))


def _ranked(store: Store, search: Duplicates) -> tuple[RankedItems, list[str]]:
    """Items of a search in its order of preference, and the SHA-256 of each content."""
    table = pq.read_table(search.path / "items.parquet")
    try:
        ids, digests = (table[name].combine_chunks().cast(pa.string()) for name in ("item_id", "content"))
        order = np.argsort(table["rank"].to_numpy(), kind="stable")
    except KeyError as error:
        raise CorruptError(f"{search.path / 'items.parquet'} lacks a column: search again") from error
    ids, digests = ids.take(pa.array(order)), digests.take(pa.array(order))
    codes = digests.dictionary_encode()
    content = pc.fill_null(codes.indices.cast(pa.int64()), -1).to_numpy()
    numbers, first = np.unique(content, return_index=True)
    best = first[numbers >= 0].astype(np.int64)
    files, sizes, times = _files(store, search, ids, digests)
    return RankedItems(ids, files, sizes, times, order, content, best), codes.dictionary.to_pylist()


def _files(
    store: Store, search: Duplicates, ids: pa.Array, digests: pa.Array
) -> tuple[pa.Array, np.ndarray, np.ndarray]:
    """Files of items as the store has them; one whose content is another now is never taken for what was compared."""
    n = len(ids)
    sizes, times = np.full(n, np.nan), np.full(n, np.nan)
    if search.content != "image_sha256":
        return pa.nulls(n, pa.string()), sizes, times
    items = store.items.read(["item_id", "path", "root", "bytes", "mtime_ns", "image_sha256"])
    at = pc.index_in(ids, value_set=items["item_id"].combine_chunks())
    items = items.take(at)
    sizes, times = (
        items[name].cast(pa.float64(), safe=False).to_numpy().astype(np.float64).copy()
        for name in ("bytes", "mtime_ns")
    )
    now = items["image_sha256"].cast(pa.string()).combine_chunks()
    other = pc.invert(pc.fill_null(pc.equal(now, digests), False)).to_numpy(zero_copy_only=False)
    sizes[other & pc.is_valid(digests).to_numpy(zero_copy_only=False)] = -1.0
    return item_files(items), sizes, times


def _texts(store: Store, ranked: RankedItems) -> pa.Array | None:
    """Texts of the items, as ``variants.csv`` shows them."""
    names = [name for name in ("text", "image_sha256") if name in store.items.snapshot().schema.names]
    items = store.items.read(["item_id", *names])
    items = items.take(pc.index_in(ranked.ids, value_set=items["item_id"].combine_chunks()))
    return next((one.values for one in texts_of(store, items)[::-1]), None)


def _write_found(search: Duplicates, folder: Path) -> None:
    """Write ``pairs.parquet`` as the search found it."""
    with pq.ParquetFile(search.path / "pairs.parquet") as file:
        schema = file.schema_arrow
    with pq.ParquetWriter(folder / "pairs.parquet", schema, compression="zstd") as writer:
        for batch in found_pairs(search.path, schema.names):
            if batch.num_rows:
                writer.write_batch(batch)


@dataclass(frozen=True)
class _Written:
    """Measures that a search has written: of its pairs, and of members to their keepers."""

    variants: str  # whether it keeps variants, or drops them
    keeper: np.ndarray  # as found, int64 (contents,)
    codes: np.ndarray  # int64 (m,), ascending: pairs of contents
    found: FoundPairs  # of these
    spreads: dict[int, Spread]  # of groups as found, by keeper
    why: dict[int, str]  # why a content was kept, as found

    @classmethod
    def of(cls, search: Duplicates, ranked: RankedItems) -> _Written:
        n = len(ranked.best)
        name = AS_FOUND if (search.path / AS_FOUND).exists() else "clusters.parquet"
        clusters = pq.read_table(search.path / name)
        content = ranked.content[pc.index_in(clusters["item_id"], value_set=ranked.ids).to_numpy()]
        leads = clusters.filter(clusters["keeper"])
        leading = content[clusters["keeper"].to_numpy()]
        of_group = np.zeros(int(pc.max(leads["group"]).as_py() or 0) + 1, np.int64)
        of_group[leads["group"].to_numpy()] = leading
        leader = of_group[clusters["group"].to_numpy()]
        keeper = np.arange(n)
        keeper[content] = leader
        parts = [_measured(clusters, leader, content, n)]
        unasked = ("exact", "kind", "evidence")
        for batch in found_pairs(search.path, [name for name in PAIRS.names if name not in unasked]):
            parts.append(_measured(pa.table(batch), *content_ends(batch, ranked), n))
        # What pairs.parquet says comes first: it has every stage.
        codes, first = np.unique(np.concatenate([part[0] for part in parts[::-1]]), return_index=True)
        columns = [np.concatenate(column)[first] for column in list(zip(*parts[::-1], strict=True))[1:]]
        i, j = np.divmod(codes, max(n, 1))
        spreads, why = {}, {}
        for lead, row in zip(leading.tolist(), leads.to_pylist(), strict=True):
            spreads[lead] = Spread(row["min_cosine"], row["max_hamming"], row["sampled"], row["chained"])
            if row["why"] is not None:
                why[lead] = row["why"]
        return cls(
            search.summary["parameters"]["variants"],
            keeper,
            codes,
            FoundPairs(*(i, j, *columns, np.full(len(i), np.nan))),
            spreads,
            why,
        )

    def judge(self, i: np.ndarray, j: np.ndarray) -> FoundPairs:
        """See `icehouse.dups.results.Measured`; what was never measured has neither distance nor cosine."""
        wanted = np.minimum(i, j) * len(self.keeper) + np.maximum(i, j)
        at = np.searchsorted(self.codes, wanted)
        known = at < len(self.codes)
        known[known] = self.codes[at[known]] == wanted[known]

        def take(values: np.ndarray, nothing: Any) -> np.ndarray:
            out = np.full(len(wanted), nothing, values.dtype)
            out[known] = values[at[known]]
            return out

        found = self.found
        return FoundPairs(
            i,
            j,
            take(found.hamming, -1),
            take(found.cosine, np.nan),
            take(found.perceptual, False),
            take(found.embedding, False),
            take(found.differs, 0),
            *_turned(i > j, take(found.orientation, 0), take(found.container, 0)),
            np.full(len(wanted), np.nan),
        )

    @cached_property
    def sizes(self) -> np.ndarray:
        """Number of contents of each group, by its keeper."""
        return np.bincount(self.keeper)

    def variant_pairs(self) -> list[np.ndarray]:
        """Pairs of contents that say something else, int64 (m, 2)."""
        differs = self.found.differs > 0
        return [np.stack([self.found.i[differs], self.found.j[differs]], axis=1)]

    def spread(self, members: np.ndarray) -> Spread:
        """See `icehouse.dups.results.Measured`: exact where all pairs are known, else a bound of the groups before."""
        leads = np.unique(self.keeper[members])
        if len(leads) == 1 and self.sizes[leads[0]] == len(members) and int(leads[0]) in self.spreads:
            return self.spreads[int(leads[0])]
        i, j = (np.asarray(members)[side] for side in np.triu_indices(min(len(members), 512), 1))
        found = self.judge(i, j)
        whole = len(members) <= 512 and bool((~np.isnan(found.cosine) | (found.hamming >= 0)).all())
        old = [self.spreads[lead] for lead in leads.tolist() if lead in self.spreads]
        cosines = [float(np.nanmin(found.cosine))] if not np.isnan(found.cosine).all() else []
        bits = [int(found.hamming.max())] if (found.hamming >= 0).any() else []
        if not whole:
            cosines += [spread.min_cosine for spread in old if spread.min_cosine is not None]
            bits += [spread.max_hamming for spread in old if spread.max_hamming is not None]
        chained = not whole and (len(leads) > 1 or any(spread.chained for spread in old))
        return Spread(min(cosines, default=None), max(bits, default=None), not whole, chained)


def _measured(table: pa.Table, a: np.ndarray, b: np.ndarray, n: int) -> tuple[np.ndarray, ...]:
    """Codes of pairs of contents in any order, and what `FoundPairs` has of them; of members, by their kind alone."""

    def stage(name: str) -> np.ndarray:
        found = table[name] if name in table.column_names else pc.equal(table["kind"], name)
        return np.asarray(pc.fill_null(found, False)).astype(bool)

    def place(name: str, among: Sequence[str | None]) -> np.ndarray:
        if name not in table.column_names:
            return np.zeros(len(table), np.int8)
        at = pc.index_in(table[name].cast(pa.string()), value_set=pa.array(among, pa.string()))
        return np.asarray(pc.fill_null(at, 0)).astype(np.int8)

    container = np.zeros(len(table), np.int8)
    if "container" in table.column_names:
        outer = pc.if_else(pc.equal(table["container"], table["id_a"]), 1, 2)
        container = np.asarray(pc.fill_null(outer, 0)).astype(np.int8)
    return (
        np.minimum(a, b) * n + np.maximum(a, b),
        pc.fill_null(table["hamming"].cast(pa.int16()), -1).to_numpy(),
        table["cosine"].cast(pa.float64()).to_numpy(),
        *(stage(name) for name in STAGES[1:]),
        place("differs", EVIDENCE),
        *_turned(a > b, place("orientation", ORIENTATIONS), container),
    )


def _turned(
    swapped: np.ndarray, orientation: np.ndarray, container: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Orientation and container of pairs, of those that are `swapped` from the other end."""
    return (
        np.where(swapped, INVERSE[orientation], orientation),
        np.where(swapped & (container > 0), np.int8(3) - container, container),
    )


def _summary(
    old: dict[str, Any],
    clusters: pa.Table,
    folder: Path,
    counts: tuple[int, int, list[str]],
    notes: list[str],
) -> dict[str, Any]:
    """``summary.json`` of the search with its counts as they are now; when and how it searched stays."""
    kinds = pq.read_table(folder / "pairs.parquet", columns=["kind"])["kind"]
    of_kind = {row["values"].as_py(): row["counts"].as_py() for row in pc.value_counts(kinds)}
    kept, dropped, kept_for = counts
    judged, lists = old.get("judged") or {}, old.get("notes_on_lists", [])
    searched = [note for note in old["notes"] if note not in [*lists, *judged.get("notes", [])]]
    return {
        **old,
        "kept": kept,
        "dropped": dropped,
        "pairs": {
            **old["pairs"],
            "total": kinds.length(),
            "by_kind": {kind: of_kind.get(kind, 0) for kind in old["pairs"]["by_kind"]},
            **({JUDGED: of_kind[JUDGED]} if JUDGED in of_kind else {}),
        },
        "groups": {**old["groups"], **group_counts(clusters)},
        "notes": list(dict.fromkeys([*searched, *notes, *kept_for])),
        "notes_on_lists": kept_for,
    }


def _counts(summary: dict[str, Any]) -> dict[str, int]:
    return {
        "groups": summary["groups"]["total"],
        "kept": summary["kept"],
        "dropped": summary["dropped"],
    }
