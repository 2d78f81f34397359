"""Duplicate-safe splits: no near-duplicate, author or event on both sides; written as a column or a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..data.splits import (
    DEFAULT_RATIOS,
    canonical_split,
    grouped_split,
    groups_of,
    shares_of,
    stratified_split,
)
from ..errors import StoreError, UsageError, count_of, one_or_many
from ..store.schema import RESERVED, check_single, label_columns
from ..store.sql import left_out_note, names_missing, save, select_items
from ..store.store import Store
from .pair_graph import Duplicates, PairGraph, current_searches

#: What `icehouse join` reads, of what can be written.
_SUFFIXES = (".csv", ".parquet", ".pq")


def check_target(column: str, schema: pa.Schema, path: Path | None = None) -> None:
    """Make sure that `items` of this schema can have splits in a column of this name, brought by this file if any."""
    if path is not None and path.suffix.lower() not in _SUFFIXES:
        raise UsageError(f"{path} is for `icehouse join`: name it .csv or .parquet")
    if not column.strip():
        raise UsageError("the column needs a name that is not empty")
    if column.lower() in RESERVED and column != "split":
        raise UsageError(f"icehouse fills the column {column!r} itself; choose another name")
    there = next((name for name in schema.names if name.lower() == column.lower()), column)
    if there != column:
        raise UsageError(f"column {column!r} is already there as {there!r}, and SQL ignores letter case")


def check_column(schema: pa.Schema, name: str) -> None:
    """Make sure that `items` of this schema have splits or labels of this name, one an item."""
    known = ["split", *label_columns(schema)]
    if name not in known:
        raise UsageError(
            f"no column {name!r} in items; there are: {', '.join(known)} (add some with `icehouse join`)"
        )
    check_single(schema, name)


def write_splits(path: Path, items: pa.Array | pa.ChunkedArray, column: str, values: np.ndarray) -> None:
    """Write a split for each of `items`; see `check_target`."""
    save(pa.table({"item_id": items.cast(pa.string()), column: pa.array(values, pa.string())}), path)


#: Stands for the results of a search for duplicates among what to keep together.
DUPLICATES = "duplicates"

_UNNAMED = {2: ("train", "test"), 3: ("train", "dev", "test")}

#: By these copies are told, and what has changed since a search.
_FACTS = ("image_sha256", "text_sha256")

#: Share of all items by which a split may miss its own before a note says so.
_SIZE_TOLERANCE = 0.02


@dataclass(frozen=True)
class SplitReport:
    """A split that was made."""

    column: str
    path: Path | None  # file that it was written to; None if it is in the store
    seed: int
    ratios: dict[str, float]  # as asked for
    splits: dict[str, int]  # items of each split
    #: each class (``label``; None for items without one) with its ``items`` in each split; most frequent
    #: first
    balance: list[dict[str, Any]]
    #: ``kept`` (what was kept together), ``of_several`` (groups of two items and more), ``items`` (in
    #: these), ``largest``
    groups: dict[str, Any]
    replaced: int  # items that had another value in the column, or have none now
    notes: list[str]


def parse_ratios(text: str) -> dict[str, float]:
    """Read ratios as they are typed.

    >>> parse_ratios("0.8,0.1,0.1")
    {'train': 0.8, 'dev': 0.1, 'test': 0.1}
    >>> parse_ratios("fit=0.5, a=0.25, b=0.25")
    {'fit': 0.5, 'a': 0.25, 'b': 0.25}
    """
    pieces = [piece.strip() for piece in text.split(",")]
    named = [piece.partition("=") for piece in pieces]
    try:
        if all(equals for _, equals, _ in named):
            pairs = [(name.strip(), float(value)) for name, _, value in named]
        elif any(equals for _, equals, _ in named):
            raise UsageError(f"ratios {text!r}: name all of them or none")
        else:
            values = [float(piece) for piece in pieces]
            if len(values) not in _UNNAMED:
                raise UsageError(
                    f"{len(values)} ratios need names, such as train=0.7,dev=0.1,test=0.1,extra=0.1"
                )
            pairs = list(zip(_UNNAMED[len(values)], values, strict=True))
    except ValueError:
        raise UsageError(
            f"ratios {text!r} are no numbers, such as 0.8,0.1,0.1 or train=0.8,test=0.2"
        ) from None
    names = [canonical_split(name) for name, _ in pairs]
    if not all(names) or len(set(names)) != len(names):
        raise UsageError(f"ratios {text!r}: each split needs a name of its own (val and validation are dev)")
    ratios = dict(pairs)
    shares_of(ratios)
    return ratios


def split_items(
    store: Store | str | Path,
    *,
    ratios: Mapping[str, float] = DEFAULT_RATIOS,
    stratify: str | None = None,
    keep_together: Sequence[str] = (),
    dups: Sequence[str] = (),
    column: str = "split",
    seed: int = 0,
    where: str | None = None,
    out: Path | None = None,
    overwrite: bool = False,
) -> SplitReport:
    """Split items, class by class, with what belongs together in one split.

    Classes of the column `stratify` are kept in proportion, as far as groups permit; items without a value are a class
    of their own. `keep_together` names columns whose equal values never part, and "duplicates" for the pairs of the
    searches `dups`: by default the newest for pictures and the newest for texts
    (`icehouse.dups.pair_graph.current_searches`). Whatever pairs connect stays together, however long the chain;
    groups that share an item are one. Items that do not meet `where` get no split, nor do those marked ``missing``
    unless it names that column. With `out` a file is written for `icehouse join` and the store is left as it is;
    `overwrite` replaces all values of a column that is there. A UsageError says what cannot be done.
    """
    store = Store.of(store)
    shares_of(ratios)
    # From looking at the column to writing it, nobody else may change it.
    with store.items.lock():
        schema = store.items.snapshot().schema
        check_target(column, schema, out)
        wanted = [name for name in keep_together if name != DUPLICATES]
        asked = [*wanted, *([stratify] if stratify else [])]
        for name in asked:
            check_column(schema, name)
        there = [column] if column in schema.names else []
        items = store.items.read(list(dict.fromkeys(["item_id", "missing", *asked, *there, *_FACTS])))
        before = pa.chunked_array([pa.nulls(len(items), pa.string())])
        if there:
            before = items[column].cast(pa.string())
        if out is None and not overwrite and (full := len(before) - before.null_count):
            raise UsageError(
                f"{count_of(full, 'item has', 'items have')} a {column!r} already; --overwrite replaces it, "
                "--column NAME makes another, "
                "--out FILE writes a file instead"
            )
        notes: list[str] = []
        chosen = np.ones(len(items), bool)
        if where is not None:
            chosen = pc.is_in(items["item_id"], value_set=select_items(store, where)).to_numpy()
        if not names_missing(where):
            gone = chosen & pc.fill_null(items["missing"], False).to_numpy()
            notes += [left_out_note(int(gone.sum()))] if gone.any() else []
            chosen = chosen & ~gone
        if not chosen.any():
            raise UsageError("there are no items to split" + (f" that meet {where!r}" if where else ""))
        rows = items.filter(pa.array(chosen))
        ids = rows["item_id"].to_pylist()
        labels = rows[stratify].cast(pa.string()).to_pylist() if stratify else None
        if keep_together:
            searches = _searches(store, dups) if DUPLICATES in keep_together else []
            groups = _groups(rows, wanted, searches, notes)
            if searches and not dups:
                told = " and ".join(
                    f"{found.name!r} ({found.feature or 'hashes alone'})" for found in searches
                )
                notes.append(f"duplicates are those of the newest search for each kind of content: {told}")
            made = grouped_split(ids, groups.tolist(), labels, ratios, seed)
        else:
            groups = np.arange(len(ids))
            made = stratified_split(ids, labels, ratios, seed)
        values = np.full(len(items), None, object)
        values[chosen] = made
        after = pa.array(values, pa.string())
        replaced = 0
        if out is not None:
            write_splits(out, rows["item_id"], column, made)
        else:
            changed = pc.fill_null(pc.not_equal(before, after), True)
            replaced = int(pc.sum(pc.and_(changed, pc.is_valid(before))).as_py() or 0)
            store.items.upsert(pa.table({"item_id": items["item_id"], column: after}), key="item_id")
    sizes = np.bincount(np.unique(groups, return_inverse=True)[1])
    about = {
        "kept": [*keep_together],
        "of_several": int((sizes > 1).sum()),
        "items": int(sizes[sizes > 1].sum()),
        "largest": int(sizes.max()),
    }
    counts = Counter(made.tolist())
    splits = {name: counts[name] for name in ratios}
    notes += _on_sizes(splits, ratios, sizes)
    balance = _balance(labels or [None] * len(ids), made, list(ratios))
    return SplitReport(column, out, seed, dict(ratios), splits, balance, about, replaced, notes)


def _searches(store: Store, names: Sequence[str]) -> list[Duplicates]:
    """Searches by name, or else the current ones."""
    if names:
        return [Duplicates.open(store, name) for name in dict.fromkeys(names)]
    searches = current_searches(store)
    if not searches:
        stale = Duplicates.open(store)  # which says what to do where there is none at all
        raise StoreError(
            f"the features of all searches for duplicates have changed since, such as {stale.feature}; run "
            f"`icehouse dups find` again, or choose one with --dups {stale.name}"
        )
    return searches


def _groups(
    rows: pa.Table, columns: Sequence[str], searches: Sequence[Duplicates], notes: list[str]
) -> np.ndarray:
    """Number of each row's group: rows that share a value of a column, or that duplicates connect, are in one."""
    n = len(rows)
    codes: list[np.ndarray] = []

    def equal(values: pa.ChunkedArray) -> None:
        indices = values.cast(pa.string()).combine_chunks().dictionary_encode().indices
        codes.append(pc.fill_null(indices.cast(pa.int64()), -1).to_numpy())

    for name in columns:
        equal(rows[name])
    for found in searches:
        name, near = found.name, PairGraph(found)
        places = near.numbers(rows["item_id"])
        codes.append(near.groups_of(rows["item_id"]))
        if near.capped:
            notes.append(
                f"the search {name!r} stopped at its cap on pairs: near-duplicates that it did not write may straddle"
            )
        # Copies are known without a search, those of items that came or changed after it too.
        equal(rows[near.key])
        if missed := int(((places < 0) & rows[near.key].is_valid().to_numpy()).sum()):
            notes.append(
                f"the search {name!r} did not look at {missed} of {count_of(n, 'item')}, of which only "
                "copies are kept together; "
                "run `icehouse dups find` again to cover them"
            )
        if changed := int(near.changed(rows).sum()):
            notes.append(
                f"{changed} of {count_of(n, 'item')} {one_or_many(changed, 'has', 'have')} another content than the "
                f"search {name!r} compared: near-duplicates of it may straddle; run `icehouse dups find` again"
            )
    return groups_of(codes) if codes else np.arange(n)


def _on_sizes(splits: Mapping[str, int], ratios: Mapping[str, float], sizes: np.ndarray) -> list[str]:
    """Remarks on splits that are not as large as asked for, and on groups that are too large."""
    notes, n = [], int(sizes.sum())
    lead = max(ratios, key=lambda name: ratios[name])
    smallest = min(share for share in ratios.values() if share > 0) * n
    giants = sizes[(sizes > 1) & (sizes > max(smallest, 1))]
    if len(giants):
        notes.append(
            f"{count_of(len(giants), 'group is', 'groups are')} larger than the smallest split is to be "
            f"({count_of(round(smallest), 'item')}; "
            f"the largest group has "
            f"{giants.max()}): such a group goes where it fits, {lead!r} if nowhere else"
        )
    for name, share in ratios.items():
        if share > 0 and not splits[name]:
            notes.append(
                f"{name!r} has no items: there {one_or_many(len(sizes), 'is', 'are')} "
                f"{count_of(len(sizes), 'group')} for {count_of(len(ratios), 'split')}"
            )
        elif abs(splits[name] - share * n) > max(1, _SIZE_TOLERANCE * n):
            notes.append(f"{name!r} has {splits[name] / n:.1%} of the items instead of {share:.1%}")
    return notes


def _balance(labels: Sequence[str | None], made: np.ndarray, names: Sequence[str]) -> list[dict[str, Any]]:
    counts = Counter(zip(labels, made.tolist(), strict=True))
    total = Counter(labels)
    classes = sorted(total, key=lambda label: (-total[label], label is None, label or ""))
    return [{"label": label, **{name: counts[label, name] for name in names}} for label in classes]
