"""Leakage: near-duplicates on both sides of a split, splits cleaned of them, and new splits without them.

An item leaks if it has a **direct** neighbour on the side it is judged against: a pair that the search found, or a copy of
such a pair (`icehouse.dups.pair_graph`). What a chain of pairs connects does not leak: the ends may be unlike.

- `dev` (and `dev_unseen`, ...) is judged against train: a head chosen where it has learned is chosen badly.
- `test` (and `test_unseen`, ...) is judged against train and dev: from one a head learns, on the other it is chosen. Where
  no split is called so, every split but train is judged.

New splits keep together what belongs together: near-duplicates, or items of one author or event.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import duckdb
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
from .pair_graph import PAIR_KINDS, Duplicates, PairGraph, current_searches
from .results import KINDS

#: What a cleaned file has in place of the split of an item that leaves it. No training takes such rows.
LEAKED = "leaked"

#: Which side of a leak leaves in a cleaned file.
Drop: TypeAlias = Literal["train", "test"]

_LEARNED = ("train", "dev")

# How the names of splits to choose on begin, and those to report.
_CHOSEN = ("dev", "val")
_REPORTED = "test"

#: Pairs that disagree, shown as examples.
_EXAMPLES = 20


#: Each labelled item with its labelled neighbours where it must have none: how many, how many of another label, the first.
_LABELLED_LEAKS = """
    with labelled as (select * from item where label is not null),
    held as (select content, split, label, count(*) as items, min(id) as id from labelled group by all)
    select labelled.id, any_value(labelled.split) as split, any_value(labelled.label) as label,
        sum(items)::bigint as pairs,
        coalesce(sum(items) filter (held.label <> labelled.label), 0)::bigint as differing,
        arg_min(held, held.id) filter (held.label <> labelled.label) as other
    from labelled join against using (split) join near on near.a = labelled.content
        join held on held.content = near.b and held.split = against.other
    group by labelled.id order by labelled.id"""


@dataclass(frozen=True)
class Affected:
    """Items of one split that have a near-duplicate where they must not."""

    split: str
    against: list[str]  # splits that it is judged against
    items: int  # items of the split
    covered: int  # those that the search looked at and that have what it compared: an image, or a text
    ids: list[str]  # those that leak, ascending
    by_split: dict[str, int]  # items that leak from each split of `against`; one may leak from both
    share: float | None  # share of the covered items that leak; None if there are none


@dataclass(frozen=True)
class Leakage:
    """Result of `find_leakage`."""

    search: dict[str, Any]  # name of the search, when it was made, its feature and thresholds
    split_column: str
    splits: dict[str, int]  # items of each split; "" stands for items that have none
    #: each two splits (`split_a`, `split_b`; the same one for pairs within it) with pairs of items between
    #: them: `pairs`, and of each kind
    pairs: list[dict[str, Any]]
    affected: list[Affected]
    #: of the leaks with a label on both sides: `column`, `pairs`, `differing`, the `items` with such a
    #: pair and those `disagreeing` with one at least, and `examples`. None without a column of labels.
    labels: dict[str, Any] | None
    lower_bound: bool  # whether there may be more pairs than these
    #: whether the search stopped at its cap on pairs; whether items have come or changed since. Then
    #: another search would tell more, and a share that is small proves nothing.
    capped: bool
    outdated: bool
    notes: list[str] = field(default_factory=list)

    @property
    def worst(self) -> Affected | None:
        """Judged split with the largest share, which is a dev split only where there is no other."""
        judged = [a for a in self.affected if not _begins(a.split, *_CHOSEN)] or self.affected
        return max(judged, key=lambda a: a.share or 0.0, default=None)


def find_leakage(
    store: Store | str | Path,
    name: str | None = None,
    *,
    split_column: str = "split",
    label: str | None = None,
) -> Leakage:
    """Count the duplicates between splits, and name the items of dev and test that have one where a head learns.

    "val" and "Validation" in `split_column` count as dev. Labels in `label`, by default ``label`` where there is one,
    are compared across splits. A UsageError says that there is no such column, or that it does not tell train from
    anything else.
    """
    store = Store.of(store)
    return _Work(store, name, split_column, label).leakage()


def write_cleaned(
    store: Store | str | Path,
    path: Path,
    name: str | None = None,
    *,
    split_column: str = "split",
    drop: Drop = "train",
    column: str | None = None,
) -> dict[str, int]:
    """Write every item's split, without leaks, for `icehouse join`; gives how many items left each split.

    With ``drop="train"`` test stays as it is: what leaks leaves dev, then train. With "test" train stays: what leaks
    leaves dev, then test. An item that leaves has `LEAKED` instead of its split, since an empty cell would change
    nothing. The file, CSV or Parquet, has ``item_id`` and `column`, `split_column` unless it shall not be joined over
    that; items without a split are left out.
    """
    store = Store.of(store)
    column = split_column if column is None else column
    check_target(column, store.items.snapshot().schema, path)
    work = _Work(store, name, split_column, None)
    gone = work.leaving(drop)
    values = np.where(gone, LEAKED, work.raw)
    there = np.flatnonzero(work.split != "")
    write_splits(path, work.items["item_id"].take(pa.array(there)), column, values[there])
    return {split: int((gone & (work.split == split)).sum()) for split in ("train", *work.judged)}


class _Work:
    """Items with their splits, beside their neighbours."""

    def __init__(self, store: Store, name: str | None, split_column: str, label: str | None) -> None:
        schema = store.items.snapshot().schema
        found = Duplicates.open(store, name)
        for column in (split_column, *([label] if label is not None else [])):
            check_column(schema, column)
        single = "label" in schema.names and not pa.types.is_list(schema.field("label").type)
        self.label = label or ("label" if single and split_column != "label" else None)
        self.near = PairGraph(found)
        asked = [split_column, "added", self.near.key, *([self.label] if self.label else [])]
        self.items, self.left_out = store.present_items(asked)
        self.column, self.found = split_column, found
        self.raw = np.array(self.items[split_column].cast(pa.string()).to_pylist(), object)
        split = [canonical_split(value) if value and value.strip() else "" for value in self.raw.tolist()]
        self.split = np.array(split, object)
        self.order = _order(set(split))
        others = [name for name in self.order if name not in ("", "train", LEAKED)]
        self.judged = [name for name in others if _begins(name, *_CHOSEN, _REPORTED)] or others
        if "train" not in self.order or not self.judged:
            have = ", ".join(f"{name} ({split.count(name)})" for name in self.order if name) or "no splits"
            raise UsageError(
                f"the column {split_column!r} does not tell train from test; it has: {have} "
                "(make splits with `icehouse split`, or bring them with `icehouse join`)"
            )
        # An item without an image has no near-duplicate by images, and none can be denied either.
        self.blank = pc.is_null(self.items[self.near.key]).to_numpy()
        self.rows = np.where(self.blank, -1, self.near.numbers(self.items["item_id"]))

    def against(self, split: str) -> list[str]:
        """Splits where a neighbour of an item of `split` is a leak."""
        return [name for name in _LEARNED[: 1 if _begins(split, *_CHOSEN) else 2] if name in self.order]

    def leaking(self, items: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Mask of those `items` that have a neighbour among `others`; all are masks over the items."""
        result = np.zeros(len(items), bool)
        result[items] = self.near.near_numbers(self.rows[items], self.rows[others])
        return result

    def leaving(self, drop: Drop) -> np.ndarray:
        """Mask of the items that a cleaned file takes out of their split."""
        train, dev = (self.split == name for name in _LEARNED)
        chosen = np.isin(self.split, [name for name in self.judged if _begins(name, *_CHOSEN)])
        test = np.isin(self.split, self.judged) & ~chosen
        if drop == "train":
            gone = self.leaking(dev, test)
            return gone | self.leaking(train, test | (chosen & ~gone))
        gone = self.leaking(chosen, train)
        return gone | self.leaking(test, train | (dev & ~gone))

    def leakage(self) -> Leakage:
        affected = [self._affected(split) for split in self.judged]
        incomplete, outdated, notes = self._coverage()
        search = self.found.summary
        about = {key: search["parameters"].get(key) for key in ("feature", "content", "cosine", "hamming")}
        return Leakage(
            search={"name": self.found.name, "created_at": search["created_at"], **about},
            split_column=self.column,
            splits={name: int((self.split == name).sum()) for name in self.order},
            pairs=self._pairs(),
            affected=affected,
            labels=self._labels() if self.label else None,
            lower_bound=self.near.capped or incomplete,
            capped=self.near.capped,
            outdated=outdated,
            notes=notes,
        )

    def _affected(self, split: str) -> Affected:
        mine = self.split == split
        by_split, leaks = {}, np.zeros(len(mine), bool)
        for other in self.against(split):
            from_other = self.leaking(mine, self.split == other)
            by_split[other] = int(from_other.sum())
            leaks |= from_other
        ids = sorted(self.items["item_id"].filter(pa.array(leaks)).to_pylist())
        covered = int((self.rows[mine] >= 0).sum())
        share = len(ids) / covered if covered else None
        return Affected(split, self.against(split), int(mine.sum()), covered, ids, by_split, share)

    def _codes(self, values: np.ndarray, of: Mapping[str, int]) -> np.ndarray:
        """Code of each item that the search looked at, -1 for those that the store no longer has."""
        codes = np.full(len(self.near.ids), -1)
        held = self.rows >= 0
        codes[self.rows[held]] = [of[value] for value in values[held].tolist()]
        return codes

    def _pairs(self) -> list[dict[str, Any]]:
        k = len(self.order)
        codes = self._codes(self.split, {name: place for place, name in enumerate(self.order)})
        matrices = self.near.pairs_between(codes, k)
        kinds = [kind for kind in PAIR_KINDS if kind in KINDS or matrices[kind].any()]
        return [
            {
                "split_a": self.order[a],
                "split_b": self.order[b],
                "pairs": int(sum(matrix[a, b] for matrix in matrices.values())),
                **{kind: int(matrices[kind][a, b]) for kind in kinds},
            }
            for a in range(k)
            for b in range(a, k)
        ]

    def _labels(self) -> dict[str, Any]:
        """Compare the labels of items that leak with those of what they leak from."""
        rows = np.flatnonzero(self.rows >= 0)
        items = self.items.select(["item_id", self.label]).take(pa.array(rows))
        columns = [items["item_id"], pa.array(self.split[rows]), items[self.label].cast(pa.string())]
        contents = pa.array(self.near.content[self.rows[rows]])
        against = [(split, other) for split in self.judged for other in self.against(split)]
        near = self.near.graph.tocoo()
        with duckdb.connect() as con:
            con.register("item", pa.table([*columns, contents], ["id", "split", "label", "content"]))
            con.register("against", pa.table([*zip(*against, strict=True)], ["split", "other"]))
            con.register("near", pa.table([near.row, near.col], ["a", "b"]))
            leaks = con.sql(_LABELLED_LEAKS).to_arrow_table()
        differ = leaks.filter(pc.greater(leaks["differing"], 0))
        return {
            "column": self.label,
            "pairs": pc.sum(leaks["pairs"]).as_py() or 0,
            "differing": pc.sum(leaks["differing"]).as_py() or 0,
            "items": len(leaks),
            "disagreeing": len(differ),
            "examples": [
                {
                    f"{side}{name}": one[key]
                    for side, one in (("item", row), ("of", row["other"]))
                    for name, key in (("", "id"), ("_split", "split"), ("_label", "label"))
                }
                for row in differ.slice(0, _EXAMPLES).to_pylist()
            ],
        }

    def _coverage(self) -> tuple[bool, bool, list[str]]:
        """Whether the search has not seen all items of the splits, whether another would see more, and what to say of it."""
        name, notes = self.found.name, [left_out_note(self.left_out)] if self.left_out else []
        parts = [split for split in self.order if split in _LEARNED or split in self.judged]
        compared = np.isin(self.split, parts)
        if self.near.capped:
            notes.append(
                f"the search {name!r} stopped at its cap on pairs: these figures are lower bounds "
                "(raise --max-pairs or the threshold of `icehouse dups find`)"
            )
        if blank := int((compared & self.blank).sum()):
            what = self.near.key.removesuffix("_sha256")
            notes.append(
                f"{count_of(blank, 'item')} of {', '.join(parts)} without {what}, by which the search {name!r} compares"
            )
        feature, bare = self.found.summary["parameters"]["feature"], 0
        if feature is not None and (bare := self.near.bare(self.rows[compared & (self.rows >= 0)])):
            notes.append(
                f"{count_of(bare, 'item')} of {', '.join(parts)} without a vector of {feature} when the search {name!r} was "
                "made: not compared by it; run `icehouse embed` and `icehouse dups find` again"
            )
        outside = self.items.filter(pa.array(compared & (self.rows < 0) & ~self.blank))
        made = pa.scalar(self.found.looked_at)
        later = pc.sum(pc.fill_null(pc.greater(outside["added"], made), False)).as_py() or 0
        if len(outside):
            why = f" ({later} added since)" if later else ""
            notes.append(
                f"the search {name!r} did not look at {count_of(len(outside), 'item')} of {', '.join(parts)}{why}: "
                "counted as not leaking; run `icehouse dups find` again to cover them"
            )
        changed = int((compared & ~self.blank & self.near.changed(self.items)).sum())
        if changed:
            notes.append(
                f"{count_of(changed, 'item')} of {', '.join(parts)} with another content than the search {name!r} compared: "
                "counted by what was compared; run `icehouse dups find` again"
            )
        return len(outside) + changed + bare > 0, later + changed > 0, notes


def _begins(split: str, *names: str) -> bool:
    return split.lower().startswith(names)


def _order(splits: set[str]) -> list[str]:
    """Train, dev, test, then others by name; items without a split last."""
    first = {"train": 0, "dev": 1, "test": 2, "": 4}
    return sorted(splits, key=lambda name: (first.get(name, 3), name))


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
