"""All pairs of vectors whose cosine reaches a threshold, none missed and none compared in full that need not be.

Every pair meets a bound on its cosine from a few leading principal coordinates (`rotation`), computed a cache-sized tile of
the upper triangle at a time (`tiles`); what survives meets the same bound from some more coordinates; what survives that
is scored on the whole vectors by the one definition of a cosine (`cosine`). The bounds err on one side only, so the pairs
are exactly those that scoring every pair would find, whatever the tiles, threads and device.

Pairs come in the order of (i, j), a stripe of rows at a time. Stripes are worked on by threads, since BLAS, NumPy's
comparisons and torch release the interpreter; no more of them are ahead of the reader than there are threads, and a stripe
that holds too many pairs is cut into lower ones, so that memory stays flat however many pairs there are.

The idea is that of partial distances with an orthogonal transform (Bei and Gray 1985; McNames 2001), the residual's norm as one more
coordinate that of Cauchy-Schwarz pruning (Teflioudi et al., LEMP, SIGMOD 2015).
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import UsageError
from .cosine import RowSet, pair_cosines
from .rotation import Plan, choose_plan, coordinate_slack, project
from .tiles import Tiles, choose_tiles, summation_slack

__all__ = ["Join", "JoinStats", "PairBlock", "cross_join", "self_join"]

#: Survivors looked up again at once.
_GATHER = 8192

#: Share of a tile's pairs from which multiplying the tile is cheaper than looking its pairs up.
_DENSE = 0.02

#: Pairs in a stripe of rows from which it is cut.
_CUT_AT = 2_000_000

#: Bytes for the coordinates of all rows.
_BUDGET = 768e6

_BLOCK = 4096


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


@dataclass
class JoinStats:
    """What a join did; complete when its last block has been read.

    Attributes
    ----------
    left_rows, right_rows, dim : int
    engine : str
        What computed the first bound.
    threads : int
    lead, middle : int
        Coordinates in the first and the second bound; `dim` means no bound, equal ones no second bound.
    explained : float or None
        Share of the rows' squared length in the leading coordinates, on a sample.
    comparisons, after_lead, after_middle, pairs : int
        Pairs that met the first bound, survived it, survived the second, and were handed out.
    unusable : int
        Rows that match nothing: zero, NaN, infinite.
    capped : bool
        Whether there are more pairs than were asked for.
    prepare_seconds, join_seconds : float
        Planning and rotating; everything after, the reader's own time included.
    """

    left_rows: int
    right_rows: int
    dim: int
    threads: int
    engine: str = ""
    lead: int = 0
    middle: int = 0
    explained: float | None = None
    comparisons: int = 0
    after_lead: int = 0
    after_middle: int = 0
    pairs: int = 0
    unusable: int = 0
    capped: bool = False
    prepare_seconds: float = 0.0
    join_seconds: float = 0.0


def self_join(
    X: np.ndarray,
    threshold: float,
    *,
    mean: np.ndarray | None = None,
    max_pairs: int | None = None,
    threads: int | None = None,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
    plan: Plan | None = None,
    tiles: Tiles | None = None,
) -> Join:
    """Find all pairs of rows ``i < j`` of `X` whose cosine is at least `threshold`.

    Parameters
    ----------
    X : ndarray of float16 or float32, shape (n, d)
        Of any length; may be mapped from disk, and is then read once in order, and again only for the rows of survivors. A row
        that is zero, NaN or infinite matches nothing.
    threshold : float
        Above 0, at most 1.
    mean : ndarray, shape (d,), optional
        Subtracted from every row first; `X` itself is not copied.
    max_pairs : int, optional
        Stop after that many; `JoinStats.capped` then tells that there are more.
    threads : int, optional
        By default one for each processor this process may use.
    device : str, default "auto"
        ``"auto"``, ``"numpy"``, ``"cpu"`` (torch, bfloat16 where the processor has it), ``"cuda"``, ``"cuda:1"``.
    progress : callable, optional
        Called with the number of pairs compared so far and in all.
    plan, tiles : optional
        In place of those that are chosen by measuring; for tests and experiments.

    Returns
    -------
    Join
        To be iterated over once.

    Raises
    ------
    UsageError
        If an argument is out of its range.

    Examples
    --------
    >>> X = np.array([[1, 0], [0, 1], [2, 0.1]], np.float32)
    >>> join = self_join(X, 0.95)
    >>> [(int(i), int(j)) for block in join for i, j in zip(block.i, block.j)]
    [(0, 2)]
    >>> join.stats.comparisons
    3
    """
    rows = RowSet.of(X, mean)
    return Join(rows, rows, threshold, max_pairs, threads, device, progress, plan, tiles)


def cross_join(
    X: np.ndarray,
    Y: np.ndarray,
    threshold: float,
    *,
    mean: np.ndarray | None = None,
    max_pairs: int | None = None,
    threads: int | None = None,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
    plan: Plan | None = None,
    tiles: Tiles | None = None,
) -> Join:
    """Find all pairs of row i of `X` (n, d) and row j of `Y` (m, d) whose cosine is at least `threshold`.

    Parameters, result and errors are those of `self_join`.
    """
    left, right = RowSet.of(X, mean), RowSet.of(Y, mean)
    if left.dim != right.dim:
        raise UsageError(f"vectors of {left.dim} and of {right.dim} dimensions cannot be compared")
    return Join(left, right, threshold, max_pairs, threads, device, progress, plan, tiles)


@dataclass
class _Operands:
    """Both sides' coordinates, and the floors below which their products betray no pair."""

    lead: tuple[Any, Any]
    lead_floor: float
    middle: tuple[np.ndarray, np.ndarray] | None
    middle_floor: float


@dataclass
class _Stripe:
    """What came of rows ``start:stop`` of the left side; `pairs` is None if there were too many to hold."""

    start: int
    stop: int
    pairs: PairBlock | None = None
    comparisons: int = 0
    after_lead: int = 0
    after_middle: int = 0


@dataclass
class Join:
    """A join under way: iterate over it once for its `PairBlock`, then read its `stats`.

    Attributes
    ----------
    stats : JoinStats
    unusable : tuple of ndarray of int64
        Numbers of the rows that match nothing, left and right; known from the first block on.
    """

    left: RowSet
    right: RowSet
    threshold: float
    max_pairs: int | None = None
    threads: int | None = None
    device: str = "auto"
    progress: Callable[[int, int], None] | None = None
    plan: Plan | None = None
    tiles: Tiles | None = None
    stats: JoinStats = field(init=False)

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise UsageError(f"a cosine threshold lies above 0 and is at most 1, not {self.threshold}")
        if self.max_pairs is not None and self.max_pairs < 1:
            raise UsageError(f"the cap on pairs must be at least 1, not {self.max_pairs}")
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"threads must be at least 1, not {self.threads}")
        if self.device not in ("auto", "numpy", "cpu") and self.device.partition(":")[0] != "cuda":
            raise UsageError(f"unknown device {self.device!r} for the join; use auto, numpy, cpu or cuda")
        threads = self.threads or _processors()
        self.stats = JoinStats(len(self.left), len(self.right), self.left.dim, threads)
        self._within = self.left is self.right
        self._stop = threading.Event()
        self._started = False

    @property
    def unusable(self) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the rows that match nothing, left and right."""
        return self.left.unusable, self.right.unusable

    def collect(self) -> PairBlock:
        """Run the join and hold all its pairs in memory."""
        blocks = [PairBlock(*(np.empty(0, kind) for kind in (np.int64, np.int64, np.float64))), *self]
        return PairBlock(
            *(np.concatenate([getattr(b, name) for b in blocks]) for name in ("i", "j", "cosine"))
        )

    def __iter__(self) -> Iterator[PairBlock]:
        if self._started:
            raise UsageError("a join can be read only once; start another")
        self._started = True
        return self._run()

    def _run(self) -> Iterator[PairBlock]:
        stats, begun = self.stats, time.perf_counter()
        n, m = len(self.left), len(self.right)
        total = n * (n - 1) // 2 if self._within else n * m
        # So low a floor could fall to 0, which bfloat16's comparison of bits does not reach.
        device = self.device if self.threshold >= 0.05 else "numpy"
        tiles = self.tiles or choose_tiles(device, total, stats.threads)
        stats.engine = tiles.name
        with tiles.single_threaded(), ThreadPoolExecutor(stats.threads, "icehouse-join") as pool:
            try:
                operands = self._prepare(tiles, pool)
                stats.prepare_seconds = time.perf_counter() - begun
                for stripe in self._stripes(tiles, operands, pool):
                    stats.comparisons += stripe.comparisons
                    stats.after_lead += stripe.after_lead
                    stats.after_middle += stripe.after_middle
                    if self.progress is not None:
                        self.progress(stats.comparisons, total)
                    block = stripe.pairs
                    if block is None or not len(block):
                        continue
                    room = math.inf if self.max_pairs is None else self.max_pairs - stats.pairs
                    stats.capped = len(block) > room
                    if stats.capped:
                        block = PairBlock(*(part[: int(room)] for part in (block.i, block.j, block.cosine)))
                    stats.pairs += len(block)
                    if len(block):
                        yield block
                    if stats.capped:
                        break
            finally:
                # A reader that has had enough does not wait for what it will not read.
                self._stop.set()
                pool.shutdown(cancel_futures=True)
                stats.join_seconds = time.perf_counter() - begun - stats.prepare_seconds

    def _prepare(self, tiles: Tiles, pool: ThreadPoolExecutor) -> _Operands:
        plan = self.plan or choose_plan(self.left, self.right, self.threshold, tiles, _BUDGET)
        stats, dim = self.stats, self.left.dim
        stats.lead, stats.middle, stats.explained = plan.lead, plan.middle, plan.explained
        left = _coordinates(self.left, plan, pool)
        right = left if self._within else _coordinates(self.right, plan, pool)
        sides = self.unusable[:1] if self._within else self.unusable
        stats.unusable = sum(len(side) for side in sides)
        loaded = tiles.load(left[0])
        lead = (loaded, loaded if self._within else tiles.load(right[0]))
        floor = self.threshold - coordinate_slack(dim)
        middle = None if left[1] is None or right[1] is None else (left[1], right[1])
        return _Operands(
            lead, floor - tiles.slack(*lead), middle, floor - summation_slack(min(plan.middle, dim) + 1)
        )

    def _stripes(self, tiles: Tiles, operands: _Operands, pool: ThreadPoolExecutor) -> Iterator[_Stripe]:
        """Work through the stripes in order, a few ahead of the reader."""

        def submit(start: int, stop: int) -> Future[_Stripe]:
            return pool.submit(self._stripe, tiles, operands, start, stop)

        starts = iter(range(0, len(self.left), tiles.rows))
        ahead: deque[Future[_Stripe]] = deque()
        while True:
            while len(ahead) < 2 * self.stats.threads and (start := next(starts, None)) is not None:
                ahead.append(submit(start, min(start + tiles.rows, len(self.left))))
            if not ahead:
                return
            done = ahead.popleft().result()
            if done.pairs is not None:
                yield done
                continue
            low = max((done.stop - done.start) // 8, 1)
            cuts = [(start, min(start + low, done.stop)) for start in range(done.start, done.stop, low)]
            # The first is in demand; the others follow one at a time, so that no more are held than before.
            for start, stop in cuts:
                yield from self._cut(tiles, operands, start, stop)

    def _cut(self, tiles: Tiles, operands: _Operands, start: int, stop: int) -> Iterator[_Stripe]:
        done = self._stripe(tiles, operands, start, stop)
        if done.pairs is not None:
            yield done
            return
        low = max((stop - start) // 8, 1)
        for first in range(start, stop, low):
            yield from self._cut(tiles, operands, first, min(first + low, stop))

    def _stripe(self, tiles: Tiles, operands: _Operands, start: int, stop: int) -> _Stripe:
        """Compare rows ``start:stop`` of the left side with all of the right, or with those after them."""
        done = _Stripe(start, stop)
        rows, scratch = slice(start, stop), tiles.scratch()
        found: list[tuple[np.ndarray, ...]] = []
        waiting: list[tuple[np.ndarray, np.ndarray]] = []
        held = queued = 0
        for first in range(start if self._within else 0, len(self.right), tiles.columns):
            if self._stop.is_set():
                break
            columns = slice(first, min(first + tiles.columns, len(self.right)))
            width = columns.stop - first
            flat = tiles.scan(operands.lead[0], rows, operands.lead[1], columns, operands.lead_floor, scratch)
            i, j = np.divmod(flat, width)
            i += start
            j += first
            if self._within and first < stop:
                i, j = _above(i, j)
            done.comparisons += self._compared(rows, columns)
            done.after_lead += len(i)
            if len(i) > max(_DENSE * (stop - start) * width, _GATHER):
                found.append(self._score(*self._multiply(operands, rows, columns, done)))
                held += len(found[-1][0])
            elif len(i):
                waiting.append((i, j))
                queued += len(i)
            if queued >= _GATHER or (queued and columns.stop == len(self.right)):
                found.append(self._score(*self._look_up(operands, waiting, done)))
                held += len(found[-1][0])
                waiting, queued = [], 0
            if held > _CUT_AT and stop - start > 1:
                return _Stripe(start, stop)
        done.pairs = _in_order(found, len(self.right))
        return done

    def _compared(self, rows: slice, columns: slice) -> int:
        if not self._within:
            return (rows.stop - rows.start) * (columns.stop - columns.start)
        i = np.arange(rows.start, rows.stop)
        return int(np.maximum(columns.stop - np.maximum(i + 1, columns.start), 0).sum())

    def _look_up(
        self, operands: _Operands, waiting: list[tuple[np.ndarray, np.ndarray]], done: _Stripe
    ) -> tuple[np.ndarray, np.ndarray]:
        """Apply the second bound to pairs one by one."""
        i, j = (np.concatenate(parts) for parts in zip(*waiting, strict=True))
        if operands.middle is not None:
            left, right = operands.middle
            keep = [
                np.vecdot(left.take(i[k : k + _GATHER], axis=0), right.take(j[k : k + _GATHER], axis=0))
                >= operands.middle_floor
                for k in range(0, len(i), _GATHER)
            ]
            kept = np.concatenate(keep)
            i, j = i[kept], j[kept]
        done.after_middle += len(i)
        return i, j

    def _multiply(
        self, operands: _Operands, rows: slice, columns: slice, done: _Stripe
    ) -> tuple[np.ndarray, np.ndarray]:
        """Apply the second bound, and if that lets too many through the whole vectors in float32, to a whole tile."""
        if operands.middle is not None:
            left, right = operands.middle
            through = left[rows] @ right[columns].T >= operands.middle_floor
        if operands.middle is None or np.count_nonzero(through) > _DENSE * through.size:
            left, right = (
                side.directions(part)[0].astype(np.float32)
                for side, part in ((self.left, rows), (self.right, columns))
            )
            dim = left.shape[1]
            through = left @ right.T >= self.threshold - coordinate_slack(dim) - summation_slack(dim)
        i, j = np.nonzero(through)
        i += rows.start
        j += columns.start
        if self._within:
            i, j = _above(i, j)
        done.after_middle += len(i)
        return i, j

    def _score(self, i: np.ndarray, j: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Score pairs on the whole vectors and keep those that reach the threshold."""
        usable = (self.left.squares[i] > 0) & (self.right.squares[j] > 0)
        i, j = i[usable], j[usable]
        cosine = pair_cosines(self.left, self.right, i, j)
        keep = cosine >= self.threshold
        return i[keep], j[keep], cosine[keep]


def _processors() -> int:
    with contextlib.suppress(AttributeError):  # macOS and Windows cannot tell
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _coordinates(rows: RowSet, plan: Plan, pool: ThreadPoolExecutor) -> tuple[np.ndarray, np.ndarray | None]:
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


def _above(i: np.ndarray, j: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    keep = j > i
    return i[keep], j[keep]


def _in_order(found: list[tuple[np.ndarray, ...]], width: int) -> PairBlock:
    empty = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
    i, j, cosine = (np.concatenate(parts) for parts in zip(empty, *found, strict=True))
    order = np.argsort(i * width + j, kind="stable")
    return PairBlock(i[order], j[order], cosine[order])
