"""Leakage: near-duplicates on both sides of a split, and splits cleaned of them.

An item leaks if it has a **direct** neighbour on the side it is judged against: a pair that the search found, or a copy of
such a pair (`icehouse.dups.pair_graph`). What a chain of pairs connects does not leak: the ends may be unlike.

- `dev` (and `dev_unseen`, ...) is judged against train: a head chosen where it has learned is chosen badly.
- `test` (and `test_unseen`, ...) is judged against train and dev: from one a head learns, on the other it is chosen. Where
  no split is called so, every split but train is judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..data.splits import canonical_split
from ..errors import UsageError, count_of
from ..store.sql import left_out_note
from ..store.store import Store
from .pair_graph import Duplicates, PairGraph
from .results import KINDS
from .split import check_column, check_target, write_splits

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
        coverage = self._coverage()
        search = self.found.summary
        about = {key: search["parameters"].get(key) for key in ("feature", "content", "cosine", "hamming")}
        return Leakage(
            search={"name": self.found.name, "created_at": search["created_at"], **about},
            split_column=self.column,
            splits={name: int((self.split == name).sum()) for name in self.order},
            pairs=self._pairs(),
            affected=affected,
            labels=self._labels() if self.label else None,
            lower_bound=self.near.capped or coverage.incomplete,
            capped=self.near.capped,
            outdated=coverage.outdated,
            notes=coverage.notes,
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
        return [
            {
                "split_a": self.order[a],
                "split_b": self.order[b],
                "pairs": int(sum(matrix[a, b] for matrix in matrices.values())),
                **{kind: int(matrices[kind][a, b]) for kind in KINDS},
            }
            for a in range(k)
            for b in range(a, k)
        ]

    def _labels(self) -> dict[str, Any]:
        """Compare the labels of items that leak with those of what they leak from."""
        from scipy.sparse import coo_array

        labels = np.array(self.items[self.label].cast(pa.string()).to_pylist(), object)
        names = sorted({value for value in labels.tolist() if value is not None})
        code = {name: place for place, name in enumerate(names)}
        labelled = np.array([value is not None for value in labels.tolist()], bool) & (self.rows >= 0)
        codes = np.array([code.get(value, -1) for value in labels.tolist()], np.int64)
        content = np.full(len(codes), -1)
        content[self.rows >= 0] = self.near.content[self.rows[self.rows >= 0]]
        pairs = differing = 0
        having, disagreeing = np.zeros(len(codes), bool), np.zeros(len(codes), bool)
        for split in self.judged:
            # Neighbours of each content by label, among the labelled items that this split is judged against.
            others = np.flatnonzero(labelled & np.isin(self.split, self.against(split)))
            shape = (len(self.near.ids), max(len(names), 1))
            counts = coo_array((np.ones(len(others)), (content[others], codes[others])), shape=shape)
            around = (self.near.graph @ counts.tocsr()).tocsr()
            mine = np.flatnonzero(labelled & (self.split == split))
            total = np.asarray(around.sum(axis=1)).ravel()[content[mine]]
            same = np.asarray(around[content[mine], codes[mine]]).ravel() if len(mine) else total
            pairs += int(total.sum())
            differing += int((total - same).sum())
            having[mine] = total > 0
            disagreeing[mine] = total > same
        return {
            "column": self.label,
            "pairs": pairs,
            "differing": differing,
            "items": int(having.sum()),
            "disagreeing": int(disagreeing.sum()),
            "examples": self._examples(labels, labelled, content, disagreeing),
        }

    def _examples(
        self, labels: np.ndarray, labelled: np.ndarray, content: np.ndarray, disagreeing: np.ndarray
    ) -> list[dict[str, Any]]:
        """One pair for each of the first items whose label differs from a neighbour's."""
        ids = self.items["item_id"].to_pylist()
        graph, examples = self.near.graph, []
        for row in sorted(np.flatnonzero(disagreeing).tolist(), key=lambda r: str(ids[r]))[:_EXAMPLES]:
            around = graph.indices[graph.indptr[content[row]] : graph.indptr[content[row] + 1]]
            learned = np.isin(self.split, self.against(self.split[row]))
            near = np.flatnonzero(labelled & learned & np.isin(content, around))
            other = min((r for r in near.tolist() if labels[r] != labels[row]), key=lambda r: str(ids[r]))
            told: dict[str, Any] = {}
            for side, r in (("item", row), ("of", other)):
                told |= {side: ids[r], f"{side}_split": self.split[r], f"{side}_label": labels[r]}
            examples.append(told)
        return examples

    def _coverage(self) -> _Coverage:
        """Remarks on items of the splits that the search has not compared."""
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
        return _Coverage(len(outside) + changed + bare > 0, later + changed > 0, notes)


@dataclass(frozen=True)
class _Coverage:
    """Whether there is anything that the search did not see, whether another one would see more, and what to say of it."""

    incomplete: bool
    outdated: bool
    notes: list[str]


def _begins(split: str, *names: str) -> bool:
    return split.lower().startswith(names)


def _order(splits: set[str]) -> list[str]:
    """Train, dev, test, then others by name; items without a split last."""
    first = {"train": 0, "dev": 1, "test": 2, "": 4}
    return sorted(splits, key=lambda name: (first.get(name, 3), name))
