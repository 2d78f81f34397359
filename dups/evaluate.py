"""Evaluation of found duplicates against known pairs: precision, recall, F1.

A truth without a `label` column is taken to be whole: what it lists are duplicates, so are pairs that follow from it (a is a
copy of b, b of c), and everything else is not. With a `label` column only the listed pairs are judged.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import SourceError
from ..store.store import Store
from .judgements import is_duplicate, read_pairs
from .pair_graph import Duplicates
from .results import STAGES

#: Most pairs that may follow from those listed: each is held in memory.
_MAX_KNOWN = 5_000_000


@dataclass(frozen=True)
class Truth:
    """Known pairs."""

    #: ids in ascending order. `negative` is None where everything that is not positive is negative.
    positive: frozenset[tuple[str, str]]
    negative: frozenset[tuple[str, str]] | None


@dataclass(frozen=True)
class Score:
    """Precision, recall and F1 of some pairs; None where there is nothing to divide by."""

    found: int
    right: int
    missed: int
    precision: float | None
    recall: float | None
    f1: float | None

    @classmethod
    def of(cls, found: int, right: int, positives: int) -> Score:
        """Score `found` pairs of which `right` are among `positives` known ones."""
        precision = right / found if found else None
        recall = right / positives if positives else None
        f1 = 2 * right / (found + positives) if found + positives else None
        return cls(found, right, positives - right, precision, recall, f1)


def read_truth(path: str | Path, known: pa.ChunkedArray | None = None) -> Truth:
    """Read a table (CSV, TSV, JSON Lines, Parquet) of `a` and `b` (item ids), and perhaps `label` (1 or 0, yes or no).

    `known` are the ids of the store, in whose spelling the pairs come.
    """
    path = Path(path)
    names, unreadable, rows = read_pairs(path, ("label",), known)
    if not {"a", "b"} <= names or not (rows or unreadable):
        raise SourceError(
            f"{path} needs the columns a and b (item ids), and may have label; it has no rows of them"
        )
    if unreadable:
        raise SourceError(unreadable[0])
    positive: set[tuple[str, str]] = set()
    negative: set[tuple[str, str]] = set()
    for number, lost, a, b, label, _ in rows:
        if lost:
            raise SourceError(f"{path}, row {number}: {lost}")
        label = label if "label" in names else "1"
        same = is_duplicate(label or "")
        if not a or not b or same is None:
            raise SourceError(f"{path}, row {number}: needs two ids, and as a label 1 or 0, not {label!r}")
        if a != b:
            (positive if same else negative).add((min(a, b), max(a, b)))
    if both := positive & negative:
        a, b = min(both)
        raise SourceError(f"{path} labels {a!r} and {b!r} as duplicates and as none; leave one of the rows")
    if "label" in names:
        return Truth(frozenset(positive), frozenset(negative))
    return Truth(frozenset(_closed(positive)), None)


def evaluate_duplicates(found: Duplicates, truth: Truth) -> dict[str, Any]:
    """Score each stage by itself, and all of them together.

    A pair that several stages found counts for each. Copies of one content count with every pair of them, and with every
    pair of their content, though `pairs.parquet` has only those of the best copy.
    """
    named = {item for pair in truth.positive | (truth.negative or frozenset()) for item in pair}
    store = Store.open(found.path.parent.parent)
    known = set(store.items.read(["item_id"])["item_id"].to_pylist())
    if named and not named & known:
        raise SourceError(
            f"{store.path} has none of the truth's ids, such as {min(named)!r}; it has ids such as "
            f"{min(known, default='')!r}"
        )
    pairs = _Pairs.of(found)
    positive = pairs.look_up(truth.positive)
    if truth.negative is None:
        counts = pairs.weights @ pairs.stages
    else:
        counts = positive.sum(axis=0) + pairs.look_up(truth.negative).sum(axis=0)
    right = positive.sum(axis=0)
    scores = {
        name: asdict(Score.of(int(counts[k]), int(right[k]), len(truth.positive)))
        for k, name in enumerate((*STAGES, "cascade", "variant"))
    }
    negatives = None if truth.negative is None else len(truth.negative)
    return {
        "positives": len(truth.positive),
        "negatives": negatives,
        **scores,
        "unknown": sorted(named - known),
    }


@dataclass(frozen=True)
class _Pairs:
    """Found pairs of contents, each known by the best item that has it."""

    number: dict[str, int]  # the number of each item's content, for items with a pair
    #: int64 (m,): pairs of such numbers, ascending and each once; of a number with itself for copies
    codes: np.ndarray
    #: bool (m, 5): which stages found them, whether any did and they count as duplicates, whether they are variants
    stages: np.ndarray
    weights: np.ndarray  # int64 (m,): how many pairs of items each stands for

    @classmethod
    def of(cls, found: Duplicates) -> _Pairs:
        clusters = found.clusters(["item_id", "copy_of"])
        copies = clusters.filter(pc.is_valid(clusters["copy_of"]))
        ids = pa.chunked_array(
            [
                pa.array([], pa.string()),
                *(column for batch in found.found_batches(["id_a", "id_b"]) for column in batch),
            ]
        ).unique()
        # A copy goes by the number of the best item with its content; both are in a pair with each other.
        content = np.arange(len(ids))
        at, best = (pc.index_in(copies[name], value_set=ids).to_numpy() for name in ("item_id", "copy_of"))
        content[at] = best
        size = np.bincount(content, minlength=len(ids))
        codes, stages = [np.empty(0, np.int64)], [np.empty((0, len(STAGES) + 1), bool)]
        for batch in found.found_batches(["id_a", "id_b", "kind", *STAGES]):
            # A collage is no duplicate of what is in it, and no mistake.
            batch = batch.filter(pc.not_equal(batch["kind"], "container"))
            a, b = (content[pc.index_in(batch[name], value_set=ids).to_numpy()] for name in ("id_a", "id_b"))
            codes.append(np.minimum(a, b) * len(ids) + np.maximum(a, b))
            variant = pc.equal(batch["kind"], "variant")
            columns = (*map(batch.column, STAGES), variant)
            stages.append(np.stack([one.to_numpy(zero_copy_only=False) for one in columns], axis=1))
        every, first = np.unique(np.concatenate(codes), return_index=True)
        i, j = np.divmod(every, max(len(ids), 1))
        told = np.concatenate(stages)[first]
        counted = found.summary["parameters"].get("variants") == "drop"
        flags, variant = told[:, :-1], told[:, -1]
        return cls(
            dict(zip(ids.to_pylist(), content.tolist(), strict=True)),
            every,
            np.column_stack([flags, ~variant | counted, variant]),
            np.where(i == j, size[i] * (size[i] - 1) // 2, size[i] * size[j]),
        )

    def look_up(self, pairs: frozenset[tuple[str, str]]) -> np.ndarray:
        """Stages that found each pair of items, bool (len(pairs), 5), in no order."""
        n = len(self.number)
        ends = [(self.number.get(a, -1), self.number.get(b, -1)) for a, b in pairs]
        a, b = np.array(ends, np.int64).reshape(-1, 2).T
        wanted = np.where((a >= 0) & (b >= 0), np.minimum(a, b) * n + np.maximum(a, b), -1)
        at = np.searchsorted(self.codes, wanted)
        there = at < len(self.codes)
        there[there] = self.codes[at[there]] == wanted[there]
        flags = np.zeros((len(wanted), self.stages.shape[1]), bool)
        flags[there] = self.stages[at[there]]
        return flags


def _closed(pairs: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Add the pairs that follow from `pairs`."""
    from .groups import group_pairs

    ids = sorted({item for pair in pairs for item in pair})
    number = {item: k for k, item in enumerate(ids)}
    i = np.array([number[a] for a, _ in pairs], np.int64)
    j = np.array([number[b] for _, b in pairs], np.int64)
    groups: dict[int, list[str]] = {}
    for item, keeper in zip(ids, group_pairs(len(ids), i, j, "components").tolist(), strict=True):
        groups.setdefault(keeper, []).append(item)
    if (known := sum(len(group) * (len(group) - 1) // 2 for group in groups.values())) > _MAX_KNOWN:
        raise SourceError(
            f"{known:,} pairs follow from those listed, more than {_MAX_KNOWN:,}; add a label column, and only the "
            "listed ones are judged"
        )
    return {(a, b) for group in groups.values() for k, b in enumerate(group) for a in group[:k]}
