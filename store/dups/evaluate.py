"""How good found duplicates are, against pairs that are known.

A truth without a `label` column is taken to be whole: what it lists are duplicates, so are pairs that follow from it (a is a
copy of b, b of c), and everything else is not. With a `label` column only the listed pairs are judged.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...errors import SourceError, UsageError
from .find import Duplicates
from .write import KINDS

__all__ = ["Score", "Truth", "evaluate_duplicates", "read_truth"]

_YES = frozenset({"1", "true", "yes", "y", "duplicate", "same"})
_NO = frozenset({"0", "false", "no", "n", "different", "other"})

#: A content with more copies than this makes too many pairs to judge one by one.
_MAX_JUDGED = 20_000_000


@dataclass(frozen=True)
class Truth:
    """Known pairs.

    Attributes
    ----------
    positive, negative : set of (str, str)
        Ids in ascending order. `negative` is None where everything that is not positive is negative.
    """

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


def read_truth(path: str | Path) -> Truth:
    """Read a CSV with the columns `a` and `b` (item ids), and perhaps `label` (1 or 0, yes or no).

    Raises
    ------
    SourceError
        If it cannot be read, lacks a column, or has a label that says neither.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
            names = {*(rows[0] if rows else ())}
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"{path} is no CSV in UTF-8: {error}") from error
    if not {"a", "b"} <= names:
        raise SourceError(
            f"{path} needs the columns a and b (item ids), and may have label; it has no rows of them"
        )
    positive: set[tuple[str, str]] = set()
    negative: set[tuple[str, str]] = set()
    for number, row in enumerate(rows, 2):
        a, b, label = row["a"], row["b"], (row.get("label") or "1").strip().lower()
        if not a or not b or label not in _YES | _NO:
            raise SourceError(f"{path}, row {number}: needs two ids, and as a label 1 or 0, not {label!r}")
        if a != b:
            (positive if label in _YES else negative).add((min(a, b), max(a, b)))
    if "label" in names:
        return Truth(frozenset(positive), frozenset(negative))
    return Truth(frozenset(_closed(positive)), None)


def evaluate_duplicates(found: Duplicates, truth: Truth) -> dict[str, Any]:
    """Score each stage by itself, and all of them together.

    A pair that several stages found counts for each. Copies of one content count with every pair of them, and with every
    pair of their content, though `pairs.parquet` has only those of the best copy.

    Returns
    -------
    dict
        ``positives``, ``negatives`` (None if unlisted), and for ``exact``, ``perceptual``, ``embedding`` and ``cascade``
        a `Score` as a dict.

    Raises
    ------
    UsageError
        If there are too many pairs among copies to be judged.
    """
    copies = _copies(found.clusters(["item_id", "copy_of"]))
    judged = None if truth.negative is None else truth.positive | truth.negative
    counts = {name: [0, 0] for name in (*KINDS, "cascade")}
    for flags, pairs in _every_pair(found, copies):
        for pair in pairs:
            if judged is not None and pair not in judged:
                continue
            right = pair in truth.positive
            for name in (*flags, "cascade"):
                counts[name][0] += 1
                counts[name][1] += right
    scores = {name: asdict(Score.of(n, right, len(truth.positive))) for name, (n, right) in counts.items()}
    negatives = None if truth.negative is None else len(truth.negative)
    return {"positives": len(truth.positive), "negatives": negatives, **scores}


def _copies(clusters: pa.Table) -> Mapping[str, list[str]]:
    """The items of each content that has copies, by the best of them."""
    rows = clusters.filter(pc.is_valid(clusters["copy_of"]))
    copies: dict[str, list[str]] = {}
    for item, best in zip(rows["item_id"].to_pylist(), rows["copy_of"].to_pylist(), strict=True):
        copies.setdefault(best, [best]).append(item)
    return copies


def _every_pair(
    found: Duplicates, copies: Mapping[str, list[str]]
) -> Iterable[tuple[list[str], Iterable[tuple[str, str]]]]:
    """Found pairs with the stages that found them, those of copies filled in."""
    among: dict[str, list[str]] = {}
    judged = 0
    for batch in found.pair_batches(["id_a", "id_b", *KINDS]):
        for a, b, *flags in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            stages = [name for name, flag in zip(KINDS, flags, strict=True) if flag]
            if flags[0]:
                among[a if a in copies else b] = stages
                continue
            left, right = copies.get(a, [a]), copies.get(b, [b])
            judged += len(left) * len(right)
            _limit(judged)
            yield stages, ((min(p, q), max(p, q)) for p in left for q in right)
    for best, stages in among.items():
        items = copies[best]
        judged += len(items) * (len(items) - 1) // 2
        _limit(judged)
        yield stages, ((min(p, q), max(p, q)) for k, p in enumerate(items) for q in items[:k])


def _limit(judged: int) -> None:
    if judged > _MAX_JUDGED:
        raise UsageError(
            f"more than {_MAX_JUDGED} pairs to judge; find duplicates among fewer items with --where"
        )


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
    return {(a, b) for group in groups.values() for k, b in enumerate(group) for a in group[:k]}
