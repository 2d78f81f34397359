"""Exact search: the items whose vectors lie nearest to a query, by cosine.

Features are keyed by content, so contents are compared and items are answered: each copy of a picture is a hit of its own.
A quick pass in float32 over blocks of the stored float16 keeps every row that could be among the best; those few are
scored again in float64, row by row. So the answer depends neither on the block size nor on the threads, and equal vectors
have equal scores.

Anything that finds candidates faster (an index, in `icehouse.store.index`) takes the place of `exact_candidates` and
leaves the rest as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import UsageError
from .schema import Snapshot, label_columns
from .store import Store
from .vectors import Vectors

# At 512 dimensions a block is 16 MB of float32: small beside the features, large enough for the matrix product.
_BLOCK = 8192

#: Finds, for one query (1, dim), rows among those given (None: all) that hold its k best, and their exact cosines.
Candidates = Callable[[Vectors, np.ndarray, int, "np.ndarray | None"], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Hit:
    """One item that was found."""

    item_id: str
    path: str | None
    text: str | None
    score: float
    rank: int
    root: str | None = None
    split: str | None = None
    labels: dict[str, str | None] = field(default_factory=dict)

    @property
    def file(self) -> Path | None:
        """The image's file, if the item has one; whether it is still there is not looked at."""
        return None if self.path is None or self.root is None else Path(self.root) / self.path

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON: item_id, path, text and score first."""
        return {
            "item_id": self.item_id,
            "path": self.path,
            "text": self.text,
            "score": self.score,
            "rank": self.rank,
            "split": self.split,
            "labels": dict(self.labels),
        }


def nearest(
    X: np.ndarray, queries: np.ndarray, k: int, *, rows: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Find the `k` rows of `X` (n, dim), among `rows` if given, nearest to each query: cosines (q, k) in float64, and rows.

    Best first, the lower row where scores are equal; NaN and -1 where there are too few. `X` may be mapped from disk: it is
    read a block at a time and never copied whole. A row that is zero or not finite has no direction and is never found.
    UsageError: a query is zero, not finite, or of another width.
    """
    queries = np.atleast_2d(np.asarray(queries, dtype=np.float64))
    if k < 1:
        raise UsageError(f"k is at least 1, not {k}")
    scores = np.full((len(queries), k), np.nan)
    indices = np.full((len(queries), k), -1, np.int64)
    for i, (found, cosines) in enumerate(_candidates(X, queries, k, rows)):
        best = np.lexsort((found, -cosines))[:k]
        scores[i, : len(best)] = cosines[best]
        indices[i, : len(best)] = found[best]
    return scores, indices


def search_vectors(
    store: Store,
    feature: str,
    vector: np.ndarray,
    *,
    k: int = 10,
    where: str | None = None,
    without: str | None = None,
    candidates: Candidates | None = None,
) -> list[Hit]:
    """Find the `k` items nearest to a vector of a feature's space, best first, equal scores by item id.

    `where`: SQL condition over the columns of `items`; those marked ``missing`` are left out unless it names that column.
    `without`: id of an item to leave out. `candidates` finds the rows to choose from, `exact_candidates` unless given.
    StoreError: no such feature, or one of tokens. UsageError: the vector has no direction or another width, or `where` is
    no condition.
    """
    vectors = store.vectors(feature)
    key = store.feature_table(feature).spec["key"]
    items, _ = store.present_items([key], where)
    if without is not None:
        items = items.filter(pc.not_equal(items["item_id"], without))
    content = pc.index_in(items[key], value_set=vectors.keys, skip_nulls=True)
    items = items.filter(pc.is_valid(content))
    content = content.drop_null().to_numpy()
    # Only contents that some item still has: the rest would take the places of hits.
    sought = np.unique(content)
    query = np.asarray(vector, dtype=np.float64).reshape(1, -1)
    rows = None if len(sought) == len(vectors.X) else sought
    found, cosines = (candidates or exact_candidates)(vectors, query, k, rows)
    score_of = np.full(len(vectors.X), np.nan)
    score_of[found] = cosines
    scores = score_of[content]
    places = np.flatnonzero(~np.isnan(scores))
    ids = items["item_id"].take(pa.array(places)).to_pylist()
    ranked = sorted(zip((-scores[places]).tolist(), ids, strict=True))[:k]
    return _hits(store, [(item, -score) for score, item in ranked])


def search_item(
    store: Store,
    feature: str,
    item_id: str,
    *,
    k: int = 10,
    where: str | None = None,
    candidates: Candidates | None = None,
) -> list[Hit]:
    """Find the items nearest to an item of the store, the item itself left out; see `search_vectors`.

    UsageError: there is no such item, or it lacks the feature.
    """
    vectors = store.vectors(feature)
    key = store.feature_table(feature).spec["key"]
    items = store.items.read(["item_id", key])
    items = items.filter(pc.equal(items["item_id"], item_id))
    if not len(items):
        raise UsageError(
            f'no item {item_id!r} in {store.path}; `icehouse sql "select item_id from items"` lists them'
        )
    at = pc.index_in(items[key], value_set=vectors.keys, skip_nulls=True)[0].as_py()
    if at is None:
        what = key.removesuffix("_sha256")
        raise UsageError(
            f"item {item_id!r} has no {feature}: its {what} is missing, unreadable or not yet embedded"
        )
    return search_vectors(
        store, feature, vectors.X[at], k=k, where=where, without=item_id, candidates=candidates
    )


def exact_candidates(
    vectors: Vectors, query: np.ndarray, k: int, rows: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Find the candidates of one query by comparing every vector; see `Candidates`."""
    return _candidates(vectors.X, query, k, rows)[0]


def unit_query(X: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Scale `queries` (q, dim) to unit length, in float64, if they can be compared with `X` (n, dim)."""
    if X.ndim != 2 or queries.shape[1] != X.shape[1]:
        raise UsageError(f"the query has {queries.shape[1]} dimensions, the feature {X.shape[-1]}")
    units = unit_rows(queries)
    if not np.isfinite(units).all():
        raise UsageError("the query is zero or not finite: it has no direction to search in")
    return units


def _candidates(
    X: np.ndarray, queries: np.ndarray, k: int, rows: np.ndarray | None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each query all rows that score no worse than the k-th best, and their cosines in float64."""
    units = unit_query(X, queries)
    # A float32 product of unit vectors is off by less than this, so whoever might belong to the best stays in.
    margin = float32_margin(X.shape[1])
    kept_rows = [[np.empty(0, np.int64)] for _ in queries]
    kept = [[np.empty(0, np.float32)] for _ in queries]
    floor = np.full(len(queries), -np.inf, np.float32)
    count = len(X) if rows is None else len(rows)
    quick = units.astype(np.float32).T
    for start in range(0, count, _BLOCK):
        stop = min(count, start + _BLOCK)
        where = np.arange(start, stop) if rows is None else rows[start:stop]
        block = unit_rows(X[start:stop] if rows is None else X[where], np.float32)
        with np.errstate(invalid="ignore"):
            products = block @ quick
        for i, scores in enumerate(products.T):
            hits = np.flatnonzero(scores >= floor[i] - margin)  # NaN, having no direction, is never >=
            if not len(hits):
                continue
            kept_rows[i].append(where[hits])
            kept[i].append(scores[hits])
            if sum(map(len, kept[i])) > max(4 * k, _BLOCK) or stop == count:
                kept_rows[i], kept[i], floor[i] = _pruned(kept_rows[i], kept[i], k, margin)
    return [
        score_rows(X, unit, np.concatenate(found), k) for unit, found in zip(units, kept_rows, strict=True)
    ]


def float32_margin(dim: int) -> np.float32:
    """Most that a float32 product of two unit vectors of `dim` dimensions can be off."""
    return np.float32(4 * dim * np.finfo(np.float32).eps)


def _pruned(
    rows: list[np.ndarray], scores: list[np.ndarray], k: int, margin: np.float32
) -> tuple[list[np.ndarray], list[np.ndarray], np.float32]:
    """Drop what is certainly behind the k-th best; return what is left and the k-th best score."""
    all_rows, all_scores = np.concatenate(rows), np.concatenate(scores)
    if len(all_scores) < k:
        return [all_rows], [all_scores], np.float32(-np.inf)
    floor = np.partition(all_scores, len(all_scores) - k)[len(all_scores) - k]
    stay = all_scores >= floor - margin
    return [all_rows[stay]], [all_scores[stay]], floor


def score_rows(X: np.ndarray, unit: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines of `rows` in float64, of those only that reach the k-th best."""
    cosines = np.empty(len(rows))
    for start in range(0, len(rows), _BLOCK):
        block = unit_rows(X[rows[start : start + _BLOCK]], np.float64)
        # Not a matrix product: each row is summed in the same order, so equal rows score equal to the last bit.
        cosines[start : start + _BLOCK] = (block * unit).sum(axis=1)
    if len(cosines) > k:
        stay = cosines >= np.partition(cosines, len(cosines) - k)[len(cosines) - k]
        rows, cosines = rows[stay], cosines[stay]
    return rows, np.clip(cosines, -1.0, 1.0)


def unit_rows(X: np.ndarray, dtype: type[np.floating[Any]] = np.float64) -> np.ndarray:
    """Rows of `X` at unit length; NaN where a row has no direction."""
    with np.errstate(invalid="ignore", over="ignore", divide="ignore", under="ignore"):
        Y = X.astype(dtype)
        norms = np.sqrt(np.einsum("ij,ij->i", Y, Y))
        # Squares of very large or small numbers leave the type's range; such rows get their scale first. Zero and
        # infinite ones become NaN on the way.
        odd = ~((norms > 1e-15) & (norms < 1e15))
        if odd.any():
            scale = np.abs(Y[odd]).max(axis=1, initial=0)
            Y[odd] /= scale[:, None]
            norms[odd] = np.sqrt((Y[odd] ** 2).sum(axis=1))
        Y /= norms[:, None]
    return Y


def _hits(store: Store, found: list[tuple[str, float]]) -> list[Hit]:
    """Look up everything that a hit tells of its item."""
    wanted = pa.array([item for item, _ in found], pa.string())

    def read(snapshot: Snapshot) -> list[dict[str, Any]]:
        columns = ["item_id", "path", "root", "text", "split", *label_columns(snapshot.schema)]
        return [
            row
            for batch in snapshot.batches(columns)
            for row in batch.filter(pc.is_in(batch.column(0), value_set=wanted)).to_pylist()
        ]

    details = {row.pop("item_id"): row for row in store.items.reading(read)}
    hits: list[Hit] = []
    for item_id, score in found:
        # An item may have been removed since it was scored.
        if (row := details.get(item_id)) is not None:
            known = {name: row.pop(name) for name in ("path", "root", "text", "split")}
            hits.append(Hit(item_id=item_id, score=score, rank=len(hits) + 1, labels=row, **known))
    return hits
