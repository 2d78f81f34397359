"""Moved items: a new item whose content the store has at a place that is gone takes that item's row, labels and all."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from ..data import image_files
from ..data.folders import is_image_name
from ..store.schema import RESERVED
from ..store.store import Store
from .extract import FileFacts

if TYPE_CHECKING:
    from .plan import ItemPlan, Planner

__all__ = ["Moves", "annotation_sources", "beneath_any", "follow"]

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

        Returns
        -------
        moved : list of (held, str)
            Each with the id that it had.
        new : list of held
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

    Parameters
    ----------
    store : Store
    rows : pyarrow.Table
        As they would be written were they new.
    before : mapping of str to str
        New id to the id that it had.
    yielding : mapping of str to pyarrow.Array
        Columns with rows (bool) whose value gives way to the one that the item had: labels that folders tell.

    Returns
    -------
    dict of str to int
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
