"""Embedding plan: the sources' rows held against what the store already knows, moved items among them.

An item costs no reading while its file's size and modification time are as they were, and no encoding while the store has
its content's features, whoever's item they came from.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..data import image_files
from ..data.image_files import FileStatus, is_image_name
from ..data.labels import as_lists, counted, near_identical
from ..data.manifest import Manifest
from ..data.text import text_sha256
from ..errors import ImageError, UsageError, count_of
from ..store.schema import RESERVED
from ..store.store import Store
from .extract import EmbedReport, FileFacts, Work

#: What an item does not take along: its new place tells.
_OF_PLACE = frozenset({"item_id", "path", "root", "source", "missing"})

#: A new item: its plan, id, path, and what its file was found to hold.
Held = tuple["ItemPlan", str, str, FileFacts]


class Moves:
    """New items that may be ones the store has, held back until all are known.

    An item that the sources still name has not moved. Nor has one that is called otherwise than its path and comes from a
    file that was not read now: that file would name it again.
    """

    def __init__(self, planner: Planner) -> None:
        items = planner.known.items
        named = planner.table["item_id"].combine_chunks()
        self._sources = annotation_sources(planner.table)
        columns = ["item_id", "path", "root", "source", "image_sha256"]
        there = pc.and_(pc.is_valid(items["image_sha256"]), pc.is_valid(items["path"]))
        self._items = items.filter(
            pc.and_(there, pc.invert(pc.is_in(items["item_id"], value_set=named)))
        ).select(columns)
        self._paths = planner.table["path"]
        self._contents = set(self._items["image_sha256"].to_pylist())
        self._taken: list[str] = []
        self._changed: dict[str, tuple[str, str]] = {}
        #: Ids that moved items had.
        self.followed: set[str] = set()
        self._gone: dict[str, list[dict[str, Any]]] = {}
        self._held: dict[str, list[Held]] = defaultdict(list)

    def hold(self, plan: ItemPlan, item_id: str, facts: FileFacts | None) -> bool:
        """Take a new item, if it has the content of one whose file is gone."""
        sha = None if facts is None else facts.image_sha256
        if facts is None or sha is None or sha == plan.had:
            return False
        if plan.known and plan.had is not None:
            self._changed[item_id] = plan.had, sha
        if sha not in self._contents:
            return False
        if sha not in self._gone:
            rows = self._items.filter(pc.equal(self._items["image_sha256"], sha)).to_pylist()
            self._gone[sha] = [row for row in rows if self._has_left(row)]
        if not self._gone[sha]:
            return False
        if plan.known:
            self._taken.append(item_id)
        else:
            path = self._paths[plan.row].as_py()
            self._held[sha].append((plan, item_id, path, facts))
        return not plan.known

    @property
    def taken(self) -> list[str]:
        """Known items that hold what another item had, which has it no more: their ids are taken, so nothing follows."""
        had = {before for before, _ in self._changed.values()}
        return sorted({*self._taken, *(item for item, (_, now) in self._changed.items() if now in had)})

    def settle(self) -> tuple[list[tuple[Held, str]], list[Held]]:
        """Match what was held with what is gone.

        Of several with one content, those are matched first whose paths have most of their last parts in common, then by
        their ids, so that the order in which they came does not matter.
        """
        moved: list[tuple[Held, str]] = []
        new: list[Held] = []
        self.followed.clear()
        for sha, held in self._held.items():
            gone = sorted(self._gone[sha], key=lambda row: row["item_id"])
            left = sorted(held, key=lambda one: (one[2], one[1]))
            deepest = max(len(_parts(row["path"])) for row in gone)
            for depth in range(deepest, -1, -1):
                by_end: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
                for row in gone:
                    by_end[_end(row["path"], depth)].append(row)
                unmatched = []
                for one in left:
                    if fitting := by_end.get(_end(one[2], depth)):
                        row = fitting.pop(0)
                        gone.remove(row)
                        moved.append((one, row["item_id"]))
                    else:
                        unmatched.append(one)
                left = unmatched
            new += left
        self.followed.update(old for _, old in moved)
        return moved, new

    def _has_left(self, row: Mapping[str, Any]) -> bool:
        by_place = row["item_id"] == row["path"] or row["source"] in self._sources
        return by_place and not image_files.exists(Path(row["root"]) / row["path"])


def annotation_sources(table: pa.Table) -> set[str]:
    """Annotation files among the sources of a manifest's rows."""
    sources = pc.unique(table["source"]).drop_null().to_pylist()
    return {source for source in sources if not is_image_name(source) and Path(source).is_file()}


def beneath_any(items: pa.Table, folders: Iterable[str]) -> pa.Array:
    """Whether each item's file lies in one of some folders, links followed."""
    real = pc.unique(items["root"]).drop_null()
    followed = pa.array([os.path.realpath(root) for root in real.to_pylist()], pa.string())
    roots = followed.take(pc.index_in(items["root"].combine_chunks(), value_set=real))
    files = pc.binary_join_element_wise(roots, items["path"].combine_chunks(), "/")
    within = pa.repeat(False, len(items))
    for folder in {os.path.realpath(folder).rstrip(os.sep) + os.sep for folder in folders}:
        within = pc.or_(within, pc.fill_null(pc.starts_with(files, folder), False))
    return within


def follow(
    store: Store, rows: pa.Table, before: Mapping[str, str], yielding: Mapping[str, pa.Array]
) -> dict[str, int]:
    """Write moved items: each with what it had, where its new place says nothing, under its new id.

    For each label or metadata column and ``split``: how many values were replaced by others.
    """
    replaced: dict[str, int] = {}
    with store.items.lock():
        had = store.items.read()
        olds = pa.array([before[item] for item in rows["item_id"].to_pylist()], pa.string())
        had = had.take(pc.index_in(olds, value_set=had["item_id"].combine_chunks()))
        for name in had.column_names:
            if name in _OF_PLACE:
                continue
            if name not in rows.column_names:
                rows = rows.append_column(name, had[name])
            else:
                now = rows[name].cast(had[name].type).combine_chunks()
                then = had[name].combine_chunks()
                kept = pc.coalesce(then, now) if name == "added" else pc.coalesce(now, then)
                if name in yielding:
                    kept = pc.if_else(yielding[name], pc.coalesce(then, now), kept)
                if name == "split" or name not in RESERVED:
                    pairs = zip(then.to_pylist(), kept.to_pylist(), strict=True)
                    n = sum(old is not None and old != new for old, new in pairs)
                    replaced |= {name: n} if n else {}
                rows = rows.set_column(rows.column_names.index(name), name, kept)
        store.items.upsert(rows, key="item_id", remove=olds.to_pylist())
        store.failures.delete("item_id", [*olds.to_pylist(), *rows["item_id"].to_pylist()])
    return replaced


def _parts(path: str) -> tuple[str, ...]:
    return PurePosixPath(path).parts


def _end(path: str, depth: int) -> tuple[str, ...]:
    """Last `depth` parts of a path."""
    return _parts(path)[-depth:] if depth else ()


#: Rows that are held against the store at a time.
CHUNK = 4096

_FACTS = (
    "item_id",
    "path",
    "root",
    "source",
    "split",
    "text_sha256",
    "image_sha256",
    "bytes",
    "mtime_ns",
    "missing",
)


@dataclass(frozen=True, slots=True)
class ItemPlan:
    """Plan for one row."""

    row: int
    known: bool
    reads: bool
    writes: bool
    vanished: bool
    had: str | None = None
    moved: bool = False


@dataclass
class Known:
    """Contents of the store when the run began."""

    items: pa.Table
    image_done: set[str]
    text_done: set[str]
    image_failures: dict[str, tuple[int | None, int | None]] = field(default_factory=dict)
    text_failures: set[str] = field(default_factory=set)
    failed_ids: set[str] = field(default_factory=set)
    rejections: set[tuple[str | None, str]] = field(default_factory=set)

    @classmethod
    def of(
        cls,
        store: Store,
        labels: tuple[str, ...],
        encoder: str,
        image_done: set[str],
        text_done: set[str],
    ) -> Known:
        """Read what is known, column by column."""
        items = store.items.snapshot()
        present = set(items.schema.names)
        columns = items.read(columns=[name for name in (*_FACTS, *labels) if name in present])
        known = cls(columns.combine_chunks(), image_done, text_done)
        for row in store.failures.snapshot().read().to_pylist():
            if row["stage"] == "manifest":
                known.rejections.add((row["item_id"], row["message"]))
                continue
            if row["stage"] == "caption":  # says nothing about reading or encoding
                continue
            known.failed_ids.add(row["item_id"])
            if row["stage"] == "encode" and row["encoder"] != encoder:
                continue
            if row["path"] is None:
                known.text_failures.add(row["item_id"])
            else:
                known.image_failures[row["item_id"]] = (row["bytes"], row["mtime_ns"])
        return known


def fit_labels(manifest: Manifest, items: pa.Table, *, replace_labels: bool, notes: list[str]) -> Manifest:
    """Hold the sources' values against the store's: what folders tell, or a source does not, replaces nothing.

    Lists stay lists.
    """
    table = manifest.table
    for name in manifest.labels:
        there = items.schema.field(name).type if name in items.schema.names else None
        if there is None or pa.types.is_list(there) == pa.types.is_list(table.schema.field(name).type):
            continue
        if not pa.types.is_list(there):
            raise UsageError(
                f"column {name!r} has several values a row, and the store's has one: keep it under another name, "
                f"--label-column NAME={name}"
            )
        table = table.set_column(table.schema.get_field_index(name), name, as_lists(table[name]))
    at = pc.index_in(table["item_id"], value_set=items["item_id"].combine_chunks()) if len(items) else None
    for name, told in manifest.from_folders.items():
        if replace_labels or at is None or name not in items.schema.names:
            continue
        before = items[name].take(at.combine_chunks())
        now = table[name]
        kept = pc.and_(told, pc.is_valid(before))
        n = pc.sum(pc.and_(kept, pc.fill_null(pc.not_equal(before, now), False))).as_py() or 0
        table = table.set_column(table.schema.get_field_index(name), name, pc.if_else(kept, before, now))
        if n:
            both = "--folder-label-column NAME keeps both, " if name in manifest.labels else ""
            notes.append(
                f"{count_of(n, 'item')} with another {name!r} from another source, which is kept: "
                f"{both}--replace-labels replaces it"
            )
    for name, without in manifest.not_told.items():
        fill = pc.and_(without, pc.is_null(table[name]))
        if at is not None and name in items.schema.names and pc.any(fill).as_py():
            before = items[name].take(at.combine_chunks())
            table = table.set_column(
                table.schema.get_field_index(name), name, pc.if_else(fill, before, table[name])
            )
    return replace(manifest, table=table)


def near_identical_labels(manifest: Manifest, items: pa.Table) -> list[str]:
    """Labels of the sources, beside those of the store, that are nearly the same: a line for each column that has some."""
    found = []
    named = manifest.table["item_id"]
    others = items.filter(pc.invert(pc.is_in(items["item_id"], value_set=named)))
    for name in manifest.labels:
        counts = counted(manifest.table[name])
        if name in items.schema.names:
            counts += counted(others[name])
        if alike := near_identical(counts):
            found.append(f"column {name!r} has values that are nearly the same: {'; '.join(alike[:5])}")
    return found


@dataclass
class Planner:
    """Turns a manifest into work, and counts what needs none."""

    manifest: Manifest
    known: Known
    report: EmbedReport
    _: KW_ONLY
    only: str | None = None
    retry: bool = False
    limit: int | None = None
    check_content: bool = False

    def __post_init__(self) -> None:
        self.table = self.manifest.table.slice(0, self.limit)
        #: Files whose bytes were compared, and those that were others.
        self.compared = self.altered = 0
        self.labels = self.manifest.labels
        #: Rows whose id belongs to another item of the store: (item_id, path, message).
        self.collisions: list[tuple[str, str | None, str]] = []
        # A column that the sources do not have leaves the store's values alone.
        self.given = [
            name
            for name in ("path", "root", "text", "split", *self.labels)
            if self.table[name].null_count < len(self.table)
        ]

    def works(self) -> Iterator[Work]:
        """Rows that need anything done, in the manifest's order; `Work.tag` is an `ItemPlan`."""
        for start in range(0, len(self.table), CHUNK):
            yield from self._chunk(start, self.table.slice(start, CHUNK).combine_chunks())

    def vanished(
        self, folders: Iterable[str] = (), rejected: Iterable[str | None] = (), files: Iterable[str] = ()
    ) -> list[str]:
        """Items of an earlier run that no source names any more, and whose file is gone, or whose source was read."""
        items = self.known.items
        if not len(items):
            return []
        named = pc.is_in(items["item_id"], value_set=self.table["item_id"].combine_chunks())
        items = items.filter(pc.invert(pc.or_(named, items["missing"].fill_null(False))))
        if not len(items):
            return []
        files = {*annotation_sources(self.table), *files}
        known = pa.array([item for item in rejected if item is not None], pa.string())
        taken_out = pc.and_(
            pc.fill_null(pc.is_in(items["source"], value_set=pa.array(sorted(files), pa.string())), False),
            pc.invert(pc.is_in(items["item_id"], value_set=known)),
        )
        roots = pc.unique(self.table["root"]).drop_null().to_pylist()
        asked = pc.or_(taken_out, beneath_any(items, [*roots, *folders]))
        rows = items.append_column("taken_out", taken_out).filter(asked)
        return [
            row["item_id"]
            for row in rows.select(["item_id", "root", "path", "taken_out"]).to_pylist()
            if row["taken_out"] or not image_files.exists(Path(row["root"]) / row["path"])
        ]

    def _chunk(self, start: int, rows: pa.Table) -> Iterator[Work]:
        known = self.known.items
        places = pc.index_in(rows["item_id"], value_set=known["item_id"].combine_chunks())
        texts = rows["text"].to_pylist()
        text_keys = [None if text is None else text_sha256(text) for text in texts]
        before = known.take(places) if len(known) else None
        same, replaced = self._same(rows, text_keys, before)
        nothing = dict.fromkeys(_FACTS)
        facts = [nothing] * len(rows) if before is None else before.select(_FACTS).to_pylist()
        given = [rows[name].to_pylist() for name in ("item_id", "root", "path", "source")]
        for i, (item_id, root, path, source, was) in enumerate(zip(*given, facts, strict=True)):
            exists = was["item_id"] is not None
            file = None if path is None else Path(root) / path
            # Of most items nothing has changed: strings tell in a fraction of the time that paths take.
            stays = path is not None and (was["root"], was["path"]) == (root, path)
            now: FileStatus | None = None
            vanished = reads = False
            if file is not None:
                try:
                    now = image_files.status(file)
                except (ImageError, OSError, ValueError):
                    vanished = exists and was["image_sha256"] is not None
                reads = self._must_read(item_id, was, file, now, stays=stays)
            owner = exists and not stays and _owner(item_id, was, file, now, source, text_keys[i])
            if owner:
                remedy = _remedy(item_id, path, root, was["root"])
                self.collisions.append((item_id, path, f"the id {item_id} belongs to {owner}; {remedy}"))
                continue
            for name in replaced:
                if replaced[name][i]:
                    counts = self.report.columns_changed
                    counts[name] = counts.get(name, 0) + 1
            as_before = exists and same[i] and bool(was["missing"]) == vanished and not reads
            text = self._text_to_encode(item_id, texts[i], text_keys[i], unchanged=as_before)
            if not exists:
                self.report.new += 1
            elif as_before:
                self.report.unchanged += 1
            else:
                self.report.changed += 1
            if vanished and not as_before:
                self.report.vanished += 1
            if not as_before or text is not None:
                moved = now is not None and not stays and _moved(was, file)
                had = was["image_sha256"]
                plan = ItemPlan(start + i, exists, reads, not as_before, vanished, had, moved)
                yield Work(item_id, file if reads else None, text, plan)

    def _same(
        self, rows: pa.Table, text_keys: list[str | None], before: pa.Table | None
    ) -> tuple[list[bool], dict[str, list[bool]]]:
        """Whether each known row's columns are as the store has them, and for labels and splits, whether a value changes."""
        changes: dict[str, list[bool]] = {}
        if before is None:
            return [False] * len(rows), changes
        same = pa.chunked_array([pa.array(np.ones(len(rows), dtype=bool))])
        for name in self.given:
            now = pa.array(text_keys, pa.string()) if name == "text" else rows[name]
            column = "text_sha256" if name == "text" else name
            if column not in before.column_names:
                then = pa.nulls(len(rows), pa.string())
            else:
                then = before[column]
            if pa.types.is_list(now.type) or pa.types.is_list(then.type):  # Arrow compares no lists
                pairs = zip(now.to_pylist(), then.to_pylist(), strict=True)
                equal = pa.array([one == other for one, other in pairs], pa.bool_())
            else:
                equal = pc.or_kleene(
                    pc.fill_null(pc.equal(now, then), False), pc.and_(pc.is_null(now), pc.is_null(then))
                )
            if name == "split" or name in self.labels:
                replaced = pc.and_(pc.invert(equal), pc.is_valid(then))
                if pc.any(replaced).as_py():
                    changes[name] = replaced.to_pylist()
            same = pc.and_(same, equal)
        return same.to_pylist(), changes

    def _must_read(
        self, item_id: str, before: Mapping[str, Any], file: Path, now: FileStatus | None, *, stays: bool
    ) -> bool:
        """Whether an item's file has to be opened; `stays` says that it lies where it did."""
        if self.only == "text":
            return False
        failed = self.known.image_failures.get(item_id)
        as_then = failed is not None and (now.fits(*failed) if now else failed == (None, None))
        retry = self.retry or self.check_content
        if as_then and not retry:
            self.report.known_failures += 1
            return False
        if before["image_sha256"] is None:
            return True
        if now is None:  # it was there once; a missing file is noted, and tried again when it comes back
            return False
        if not now.fits(before["bytes"], before["mtime_ns"]):
            return True
        # Unpacked files often share one time, and uncompressed ones of a size their number of bytes.
        if not stays and (before["path"] is None or file != Path(before["root"] or "") / before["path"]):
            return True
        if failed is not None:  # the encoder failed on these very pixels
            if not retry:
                self.report.known_failures += 1
            return retry
        if before["image_sha256"] not in self.known.image_done:
            return True
        return self.check_content and self._altered(file, before["image_sha256"])

    def _altered(self, file: Path, sha256: str) -> bool:
        """Whether the file's bytes are not those that the store knows."""
        self.compared += 1
        altered = image_files.sha256(file) != sha256
        self.altered += altered
        return altered

    def _text_to_encode(
        self, item_id: str, text: str | None, key: str | None, *, unchanged: bool
    ) -> str | None:
        if text is None or self.only == "image" or key in self.known.text_done:
            return None
        if item_id in self.known.text_failures and unchanged and not self.retry:
            self.report.known_failures += 1
            return None
        return text


def _remedy(item_id: str, path: str | None, root: str | None, other: str | None) -> str:
    """Advice for two items that claim one id."""
    if path is not None and item_id == path and root and other and root != other:
        above = posixpath.commonpath([root, other])
        return f"--root {above} tells them apart, or use another store"
    if path is not None and item_id == path:
        return "use another store"
    return "name ids with --id-column, or use another store"


def _moved(before: Mapping[str, Any], file: Path | None) -> bool:
    """Whether an item's file was at another place that is gone."""
    root, path = before["root"], before["path"]
    if root is None or path is None or Path(root) / path == file:
        return False
    return not image_files.exists(Path(root) / path)


def _owner(
    item_id: str,
    before: Mapping[str, Any],
    file: Path | None,
    now: FileStatus | None,
    source: str | None,
    text_key: str | None,
) -> str | None:
    """Whose id this is, where the store's item is clearly another one that still exists; None where it may be the same.

    A data set that was moved or corrected keeps its ids: then the old file is gone, or holds the same. Two folders that
    both have a ``1.jpg`` must not overwrite each other's item.
    """
    if file is not None and before["path"] is not None:
        old = Path(before["root"]) / before["path"]
        if old == file or now is None:
            return None
        try:
            before_now = (image_files.status(old).size, now.size)
            sized_otherwise = None not in before_now and len(set(before_now)) > 1
            differs = sized_otherwise or image_files.sha256(old) != image_files.sha256(file)
        except (ImageError, OSError, ValueError):
            return None
        return str(old) if differs else None
    old_source = before["source"]
    numbered = source is not None and re.fullmatch(re.escape(Path(source).stem) + r":\d+", item_id)
    if not numbered or before["path"] is not None or old_source in (None, source):
        return None
    return str(old_source) if before["text_sha256"] != text_key and Path(old_source).exists() else None
