"""A FAISS index in memory, for one search: of the vectors that a rule compares, which no index of a store may hold.

A store's index is of vectors as they are. Their cosines say nothing of the cosines after a mean was subtracted, and no
radius would be wide enough; so the centred vectors are indexed, for as long as it takes.
"""

from __future__ import annotations

import numpy as np

from ..index.kinds import KINDS, choose_kind, load_faiss, thread_limit, to_gpu
from ..join.cosine import RowSet
from ..search import float32_margin

__all__ = ["TemporaryIndex"]

#: Recall@10 by which a kind is chosen: flat up to 50,000 rows, then IVF.
_RECALL = 0.95

_BLOCK = 16_384


class TemporaryIndex:
    """An index of the rows that have a direction.

    Parameters
    ----------
    rows : RowSet
        Measured.
    threads : int, optional
    kind : str, optional
        By default as `icehouse.store.index.kinds.choose_kind` says.

    Attributes
    ----------
    kind : str
    effort : int or None
        How hard to look, to be set from `ladder`; None for a flat index, which always looks everywhere.
    ladder : list of int
    """

    def __init__(self, rows: RowSet, *, threads: int | None = None, kind: str | None = None) -> None:
        faiss = load_faiss()
        self.numbers = np.flatnonzero(rows.squares > 0)
        self.dim = rows.dim
        self.kind = kind or choose_kind(len(self.numbers), _RECALL)
        made = KINDS[self.kind]
        with thread_limit(threads):
            index = made.make(rows.dim, max(len(self.numbers), 1))
            on_gpu = to_gpu(made, index)
            filling = index if on_gpu is None else on_gpu
            if not filling.is_trained and len(self.numbers):
                count = made.training_rows(len(self.numbers))
                chosen = np.random.default_rng(0).choice(self.numbers, count, replace=False)
                filling.train(_units(rows, np.sort(chosen)))
            for start in range(0, len(self.numbers), _BLOCK):
                filling.add(_units(rows, self.numbers[start : start + _BLOCK]))
            # Back from the GPU: there FAISS has no search within a radius.
            self._index = index if on_gpu is None else faiss.index_gpu_to_cpu(on_gpu)
        self.ladder = made.ladder(self._index)
        self.effort = self.ladder[-1] if self.ladder else None

    def range_search(
        self, queries: np.ndarray, threshold: float, *, threads: int | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Find rows near unit vectors (q, dim); see `icehouse.store.index.read.Index.range_search`."""
        # FAISS compares strictly, and float16 in the index is off by 2**-11 of each value at most.
        slack = float(float32_margin(self.dim)) + (0.0 if self.kind == "flat" else 2.0**-11)
        floor = float(np.nextafter(np.float32(threshold - slack), np.float32(-np.inf)))
        with thread_limit(threads):
            if self.effort is not None:
                KINDS[self.kind].set_effort(self._index, self.effort, 1)
            limits, scores, positions = self._index.range_search(
                np.ascontiguousarray(queries, np.float32), floor
            )
        return limits.astype(np.int64), scores, self.numbers[positions]


def _units(rows: RowSet, numbers: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(rows.directions(numbers)[0].astype(np.float32))
