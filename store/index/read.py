"""A vector index over a feature, by FAISS: opening it, asking it, telling whether it is fresh.

An index is a shortcut and never an authority. It covers one snapshot of its feature and says which, so that a stale one is
noticed; it finds candidates, which are scored from the stored vectors; whatever is wrong with it, it can be built anew.

Vectors are normalised, so that inner products are cosines; one without a direction (all zeros) is not in the index and never
found. A position in the index stands for a row of the feature table, and so for a content; a sidecar file keeps both.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ...errors import CorruptError, StoreError, UsageError
from ..search import float32_margin, unit_rows
from ..store import Store
from .files import IndexInfo, check_files, index_folder, read_info, read_rows, read_vectors
from .kinds import KINDS, thread_limit, to_gpu

__all__ = ["OVERSAMPLE", "Index", "list_indexes", "open_index", "stale_because"]

#: So many times as many candidates are asked for as are wanted, since float16 may shuffle those that lie close together.
OVERSAMPLE = 2

#: So many queries at once are worth the way to a GPU.
_GPU_QUERIES = 256

#: Neighbours and cells that FAISS can sort on a GPU.
_GPU_MOST = 1024


class Index:
    """An index that is open for asking; get one from `open_index`.

    Attributes
    ----------
    info : IndexInfo
    rows : ndarray of int64, shape (vectors,)
        Row of the feature table for each position, ascending.
    """

    def __init__(self, folder: Path, info: IndexInfo, index: Any, rows: np.ndarray) -> None:
        self.info = info
        self.rows = rows
        self._folder = folder
        self._index = index
        self._gpu: Any = None
        self._kind = KINDS[info.kind]

    def __len__(self) -> int:
        return len(self.rows)

    def search(
        self, queries: np.ndarray, k: int, *, threads: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find about the `k` rows nearest to each query.

        Parameters
        ----------
        queries : ndarray, shape (q, dim)
        k : int
        threads : int, optional

        Returns
        -------
        scores : ndarray of float32, shape (q, k)
            Cosines as the index has them, best first; score anew from the stored vectors where the last digits matter.
        rows : ndarray of int64, shape (q, k)
            Rows of the feature table; -1 where no more were found, and for a query without a direction.

        Raises
        ------
        UsageError
            If the queries are of another width.
        """
        units, directed = self._units(queries)
        k = max(1, min(k, len(self.rows)))
        with thread_limit(threads):
            index = self._engine(len(units), k)
            self._set_effort(index, k)
            scores, positions = index.search(units, k)
        positions[~directed] = -1
        return scores, np.where(positions >= 0, self.rows[positions], -1)

    def range_search(
        self, queries: np.ndarray, threshold: float, *, threads: int | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Find the rows whose cosine to a query may reach `threshold`, as far as this kind of index finds them.

        Returns
        -------
        limits : ndarray of int64, shape (q + 1,)
            Those of query i are at ``limits[i]:limits[i + 1]`` of the others.
        scores : ndarray of float32
            Cosines as the index has them; some may lie just below the threshold once scored from the stored vectors.
        rows : ndarray of int64
            Rows of the feature table.
        """
        units, directed = self._units(queries)
        # FAISS compares strictly, and float16 in the index is off by 2**-11 of each value at most.
        slack = float32_margin(self.info.dim) if self.info.kind == "flat" else 2.0**-10
        with thread_limit(threads):
            self._set_effort(self._index, 1)
            limits, scores, positions = self._index.range_search(
                units, float(np.nextafter(np.float32(threshold - slack), np.float32(-np.inf)))
            )
        counts = np.diff(limits.astype(np.int64))
        kept = np.repeat(directed, counts)
        counts[~directed] = 0
        return np.concatenate([[0], np.cumsum(counts)]), scores[kept], self.rows[positions[kept]]

    def keys(self) -> pa.ChunkedArray:
        """Content (sha256) at each position; `rows` tells its row.

        Raises
        ------
        CorruptError
            If the sidecar is damaged.
        """
        return read_rows(self._folder, self.info, self.info.key)

    def _units(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        queries = np.atleast_2d(queries)
        if queries.shape[1] != self.info.dim:
            raise UsageError(f"the query has {queries.shape[1]} dimensions, the index {self.info.dim}")
        units = unit_rows(queries, np.float32)
        directed = np.isfinite(units).all(axis=1)
        units[~directed] = 0
        return np.ascontiguousarray(units), directed

    def _set_effort(self, index: Any, k: int) -> None:
        if self.info.effort is not None:
            self._kind.set_effort(index, self.info.effort, k)

    def _engine(self, queries: int, k: int) -> Any:
        """FAISS index to ask: a copy on the GPU, if there is enough to ask of it and no more than it can do."""
        if queries < _GPU_QUERIES or max(k, self.info.effort or 0) > _GPU_MOST:
            return self._index
        if self._gpu is None:
            self._gpu = to_gpu(self._kind, self._index)
        return self._index if self._gpu is None else self._gpu


def open_index(store: Store, feature: str) -> Index | None:
    """Open the index of a feature, mapped from disk; None if there is none. It may be stale: see `state_of`.

    Raises
    ------
    CorruptError
        If it is damaged; `build_index` makes it anew.
    IcehouseError
        If FAISS is not installed.
    """
    folder = index_folder(store.path, feature)
    while True:
        info = read_info(folder)
        if info is None:
            return None
        try:
            index = read_vectors(folder, info)
            return Index(folder, info, index, read_rows(folder, info).to_numpy())
        except CorruptError:
            if read_info(folder) == info:  # else it was replaced while it was being opened
                raise


def stale_because(store: Store, info: IndexInfo) -> str | None:
    """Tell why an index does not cover its feature as it is now; None if it does.

    Raises
    ------
    StoreError
        If the store has no such feature.
    """
    snapshot = store.feature_table(info.feature).snapshot()
    if snapshot.spec.get("fingerprint") != info.fingerprint:
        return "the feature's fingerprint has changed"
    if snapshot.digest == info.digest:
        return None
    new = snapshot.rows - info.rows
    return f"the feature has {new:,} new rows" if new > 0 else "the feature has changed"


def list_indexes(store: Store) -> list[dict[str, Any]]:
    """Tell of every index of a store, whether FAISS is installed or not.

    Returns
    -------
    list of dict
        JSON values: those of `IndexInfo`, with ``bytes``, and ``state``: "fresh", or "stale", "damaged" or "unused" with a
        ``reason``. Of a damaged one only ``feature``, ``state`` and ``reason``.
    """
    root = store.path / "indexes"
    found: list[dict[str, Any]] = []
    for path in sorted(root.rglob("index.json")):
        feature = path.parent.relative_to(root).as_posix()
        try:
            info = _checked_info(path.parent)
        except CorruptError as error:
            found.append({"feature": feature, "state": "damaged", "reason": str(error)})
            continue
        if info is None:
            continue
        try:
            reason = stale_because(store, info)
            state = "fresh" if reason is None else "stale"
        except StoreError as error:
            state, reason = "unused", str(error)
        found.append({**info.as_dict(), "bytes": info.bytes, "state": state, "reason": reason})
    return found


def _checked_info(folder: Path) -> IndexInfo | None:
    """Read what index there is, and make sure of its files; one that is replaced meanwhile is read again."""
    while True:
        info = read_info(folder)
        try:
            if info is not None:
                check_files(folder, info)
            return info
        except CorruptError:
            if read_info(folder) == info:
                raise
