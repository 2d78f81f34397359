"""One stripe of a join: a few hundred rows against all others, from the first bound to the score.

Stripes know nothing of one another, so threads work on several; each gives its pairs in order.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np

from .cosine import RowSet, pair_cosines
from .rotation import Plan, coordinate_slack, project
from .tiles import NumpyTiles, Tiles, summation_slack

__all__ = ["PairBlock", "Stripe", "StripeJoin"]

#: Survivors looked up again at once.
_GATHER = 8192

#: Share of a tile's pairs from which multiplying the tile is cheaper than looking its pairs up.
_DENSE = 0.02

#: Candidates in a stripe from which it is given up, to be done again as several lower ones.
_TOO_MANY = 1_000_000

#: Rows rotated at once.
_BLOCK = 1024


@dataclass(frozen=True)
class PairBlock:
    """Pairs in ascending order of (i, j).

    Attributes
    ----------
    i, j : ndarray of int64, shape (m,)
        Row numbers; ``i < j`` where rows were joined with themselves.
    cosine : ndarray of float64, shape (m,)
        Never below the threshold.
    """

    i: np.ndarray
    j: np.ndarray
    cosine: np.ndarray

    def __len__(self) -> int:
        return len(self.i)

    def __getitem__(self, part: slice) -> PairBlock:
        return PairBlock(self.i[part], self.j[part], self.cosine[part])


@dataclass
class Stripe:
    """What came of the rows ``start:stop`` of the left side; `pairs` is None if there were too many to hold."""

    start: int
    stop: int
    pairs: PairBlock | None = None
    comparisons: int = 0
    after_lead: int = 0
    after_middle: int = 0


class StripeJoin:
    """Both sides' coordinates, and what to do with a stripe of them.

    Parameters
    ----------
    left, right : RowSet
        The same one to find the pairs ``i < j`` of one set; their squared lengths are measured here.
    threshold : float
    plan : Plan
    tiles : Tiles
    pool : Executor
        Whose threads do the rotation.
    """

    def __init__(
        self, left: RowSet, right: RowSet, threshold: float, plan: Plan, tiles: Tiles, pool: Executor
    ) -> None:
        self.left, self.right, self.threshold, self.tiles = left, right, threshold, tiles
        self.within = left is right
        self.stop = threading.Event()
        lead, self.left_middle = _coordinates(left, plan, pool)
        self.left_lead = self.right_lead = tiles.load(lead)
        self.right_middle = self.left_middle
        if not self.within:
            lead, self.right_middle = _coordinates(right, plan, pool)
            self.right_lead = tiles.load(lead)
        floor = threshold - coordinate_slack(left.dim)
        self.lead_floor = tiles.floor(floor - tiles.slack(self.left_lead, self.right_lead))
        self.middle_floor = floor - summation_slack(plan.middle + 1)
        self.full_floor = floor - summation_slack(left.dim)

    def __call__(self, start: int, stop: int) -> Stripe:
        """Compare rows ``start:stop`` of the left side with all of the right, or with those after them."""
        done = Stripe(start, stop)
        candidates: list[tuple[np.ndarray, np.ndarray]] = []
        held = 0
        for i, j in self._candidates(done):
            candidates.append((i, j))
            held += len(i)
            if (held > _TOO_MANY and stop - start > 1) or self.stop.is_set():
                return Stripe(start, stop)
        nothing = (np.empty(0, np.int64), np.empty(0, np.int64))
        i, j = (np.concatenate(parts) for parts in zip(nothing, *candidates, strict=True))
        order = np.argsort(i * len(self.right) + j)
        done.pairs = self._score(i[order], j[order])
        return done

    def _candidates(self, done: Stripe) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Apply the bounds, a tile at a time; yields at every tile, if only nothing, so that its caller can give up."""
        start, stop, width = done.start, done.stop, len(self.right)
        nothing = (np.empty(0, np.int64), np.empty(0, np.int64))
        rows, scratch = slice(start, stop), self.tiles.scratch()
        waiting, queued = [nothing], 0
        for first in range(start if self.within else 0, width, self.tiles.columns):
            columns = slice(first, min(first + self.tiles.columns, width))
            flat = self.tiles.scan(self.left_lead, rows, self.right_lead, columns, self.lead_floor, scratch)
            i, j = np.divmod(flat, columns.stop - first)
            i, j = self._pairs(i + start, j + first)
            done.after_lead += len(i)
            if len(i) > max(_DENSE * (stop - start) * (columns.stop - first), _GATHER):
                i, j = self._multiply(rows, columns)
                done.after_middle += len(i)
                yield i, j
                continue
            waiting.append((i, j))
            queued += len(i)
            if queued < _GATHER:
                yield nothing
                continue
            yield self._look_up(waiting, done)
            waiting, queued = [nothing], 0
        yield self._look_up(waiting, done)
        done.comparisons = (stop - start) * width
        if self.within:
            done.comparisons -= (start + 1 + stop) * (stop - start) // 2

    def _pairs(self, i: np.ndarray, j: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Leave out what lies on the diagonal or below it, where rows are joined with themselves."""
        if not self.within:
            return i, j
        keep = i < j
        return i[keep], j[keep]

    def _look_up(
        self, waiting: list[tuple[np.ndarray, np.ndarray]], done: Stripe
    ) -> tuple[np.ndarray, np.ndarray]:
        """Apply the second bound to pairs one by one."""
        i, j = (np.concatenate(parts) for parts in zip(*waiting, strict=True))
        if self.left_middle is not None and self.right_middle is not None:
            kept = np.empty(len(i), bool)
            for k in range(0, len(i), _GATHER):
                part = slice(k, k + _GATHER)
                bounds = np.vecdot(
                    self.left_middle.take(i[part], axis=0), self.right_middle.take(j[part], axis=0)
                )
                kept[part] = bounds >= self.middle_floor
            i, j = i[kept], j[kept]
        done.after_middle += len(i)
        return i, j

    def _multiply(self, rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray]:
        """Apply the second bound, and if that lets too many through the whole vectors in float32, to a whole tile."""
        height, width = rows.stop - rows.start, columns.stop - columns.start
        blas = NumpyTiles(height, width)
        flat, scratch = None, blas.scratch()
        if self.left_middle is not None and self.right_middle is not None:
            floor = blas.floor(self.middle_floor)
            flat = blas.scan(self.left_middle, rows, self.right_middle, columns, floor, scratch)
        if flat is None or len(flat) > _DENSE * height * width:
            left = self.left.directions(rows)[0].astype(np.float32)
            right = self.right.directions(columns)[0].astype(np.float32)
            everything = slice(None)
            flat = blas.scan(left, everything, right, everything, blas.floor(self.full_floor), scratch)
        i, j = np.divmod(flat, width)
        return self._pairs(i + rows.start, j + columns.start)

    def _score(self, i: np.ndarray, j: np.ndarray) -> PairBlock:
        """Score pairs on the whole vectors, and keep those that reach the threshold."""
        # Without a direction there is no cosine; such rows get here only where a low floor or a full tile lets 0 through.
        usable = (self.left.squares[i] > 0) & (self.right.squares[j] > 0)
        i, j = i[usable], j[usable]
        cosine = pair_cosines(self.left, self.right, i, j)
        keep = cosine >= self.threshold
        return PairBlock(i[keep], j[keep], cosine[keep])


def _coordinates(rows: RowSet, plan: Plan, pool: Executor) -> tuple[np.ndarray, np.ndarray | None]:
    """Rotate all rows, a block at a time, keeping only their leading coordinates."""
    lead = np.empty((len(rows), plan.lead + 1), np.float32)
    middle = np.empty((len(rows), plan.middle + 1), np.float32) if plan.middle > plan.lead else None

    def fill(start: int) -> None:
        part = slice(start, min(start + _BLOCK, len(rows)))
        lead[part], more = project(rows, part, plan)
        if middle is not None:
            middle[part] = more

    list(pool.map(fill, range(0, len(rows), _BLOCK)))
    return lead, middle
