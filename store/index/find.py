"""Search by the quickest way there is: an index that is fresh, or else comparing every vector.

Whichever finds the candidates, they are scored from the stored vectors in the same way, so that a hit has the same score,
to the last digit, and a flat index answers exactly what exact search answers. Where an index cannot be sure to answer (a
filter, many hits, too few candidates) every vector is compared, and a remark says why where that is worth knowing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...errors import IcehouseError, StoreError
from ..search import (
    Hit,
    exact_candidates,
    float32_margin,
    score_rows,
    search_item,
    search_vectors,
    unit_query,
)
from ..store import Store
from ..vectors import Vectors
from .index import OVERSAMPLE, Index, open_index, stale_because

__all__ = ["Found", "find_item", "find_vectors", "fresh_index"]

#: Recall is measured at 10; from an index that may miss, no more than this many hits are taken.
MOST = 100

#: An index that may miss is asked for no more candidates than this: comparing everything is about as quick then.
_DEEPEST = 4096


@dataclass(frozen=True)
class Found:
    """Hits, and how they were found."""

    hits: list[Hit]
    engine: str = "exact"
    remark: str | None = None


def find_vectors(
    store: Store,
    feature: str,
    vector: np.ndarray,
    *,
    k: int = 10,
    where: str | None = None,
    exact: bool = False,
) -> Found:
    """Find the items nearest to a vector, by an index if there is a fresh one.

    Parameters
    ----------
    store, feature, vector, k, where
        See `icehouse.store.search.search_vectors`.
    exact : bool, default False
        Compare every vector even if there is an index.
    """
    chooser = _Chooser(store, feature, k, where, exact)
    hits = search_vectors(store, feature, vector, k=k, where=where, candidates=chooser)
    return Found(hits, chooser.engine, chooser.remark)


def find_item(
    store: Store,
    feature: str,
    item_id: str,
    *,
    k: int = 10,
    where: str | None = None,
    exact: bool = False,
) -> Found:
    """Find the items nearest to an item, itself left out; see `find_vectors` and `icehouse.store.search.search_item`."""
    chooser = _Chooser(store, feature, k, where, exact)
    hits = search_item(store, feature, item_id, k=k, where=where, candidates=chooser)
    return Found(hits, chooser.engine, chooser.remark)


def fresh_index(store: Store, feature: str) -> tuple[Index | None, str | None]:
    """Get the index of a feature if it can be used."""
    remedy = f"`icehouse index build {feature}` brings it up to date"
    try:
        index = open_index(store, feature)
        if index is None:
            return None, None
        if (reason := stale_because(store, index.info)) is not None:
            return None, f"the index is stale: {reason}; {remedy}"
        return index, None
    except StoreError as error:
        return None, f"the index cannot be used: {error}; {remedy}"
    except IcehouseError as error:
        return None, f"the index cannot be used: {error}"


class _Chooser:
    """Candidates from an index as long as it can answer, and from exact search otherwise; keeps which it was."""

    def __init__(self, store: Store, feature: str, k: int, where: str | None, exact: bool) -> None:
        self.engine = "exact"
        self.remark: str | None = None
        self._index: Index | None = None
        # What a filter leaves may be anywhere, and comparing it is quick.
        if not exact and where is None:
            self._index, self.remark = fresh_index(store, feature)
        if self._index is not None and self._index.info.kind != "flat" and k > MOST:
            self._index = None
            self.remark = f"more than {MOST} hits: every vector was compared"

    def __call__(
        self, vectors: Vectors, query: np.ndarray, k: int, rows: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find candidates; see `icehouse.store.search.Candidates`."""
        # A writer may have been at work since the index was found to be fresh.
        if self._index is not None and self._index.info.digest == vectors.digest:
            found = _from_index(self._index, vectors.X, query, k, rows)
            if found is not None:
                self.engine = self._index.info.kind
                return found
            self.remark = "the index found too few: every vector was compared"
        return exact_candidates(vectors, query, k, rows)


def _from_index(
    index: Index, X: np.ndarray, query: np.ndarray, k: int, rows: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray] | None:
    """Candidates among `rows` of `X`; None if the index does not know enough of them."""
    unit = unit_query(X, query)
    wanted = np.ones(len(X), dtype=bool)
    if rows is not None:
        wanted[:] = False
        wanted[rows] = True
    expected = min(k, int(wanted[index.rows].sum()))
    count = OVERSAMPLE * k
    exhaustive = index.info.kind == "flat"
    while True:
        scores, found = (row[0] for row in index.search(unit, count))
        kept = (found >= 0) & wanted[found]
        everything = count >= len(index)
        enough = int(kept.sum()) >= expected
        if enough and exhaustive and not everything:
            # Only what lies certainly behind the k-th may be left unasked for; ties with it may not.
            enough = expected > 0 and scores[-1] < scores[kept][expected - 1] - 2 * float32_margin(X.shape[1])
        if enough or everything or (not exhaustive and count > _DEEPEST):
            break
        count *= 4
    if not enough:
        return None
    return score_rows(X, unit[0], found[kept], k)
