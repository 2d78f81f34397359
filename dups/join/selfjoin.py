"""All pairs of vectors whose cosine reaches a threshold, none missed and none compared in full that need not be.

Every pair meets a bound on its cosine from a few leading principal coordinates (`Plan`), computed a cache-sized tile of
the upper triangle at a time (`Tiles`); what survives meets the same bound from some more coordinates; what survives
that is scored on the whole vectors by the one definition of a cosine (`pair_cosines`). The bounds err on one side only,
so the pairs are exactly those that scoring every pair would find, whatever the tiles, threads and device.

Pairs come in the order of (i, j), a block of rows at a time (`BlockJoin`). Threads work on the blocks, since BLAS, NumPy's
comparisons and torch release the interpreter; few of them are ahead of the reader, and a block with too many pairs to hold
is done again as several lower ones, so that memory stays flat however many pairs there are.

Partial distances are due to Bei and Gray (1985), after a principal component transform to McNames (2000); a product
bounded by a prefix and the lengths of the rest to the maximum inner product searches LEMP (Teflioudi et al., 2015) and
FEXIPRO (Li et al., 2017).
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...errors import UsageError, count_of
from .cosines import (
    MAX_ASKED,
    Asked,
    NumpyTiles,
    Plan,
    RowSet,
    Tiles,
    asking_columns,
    choose_plan,
    choose_tiles,
    coordinate_slack,
    pair_cosines,
    project,
    summation_slack,
)

# Stripes know nothing of one another, so threads work on several; each gives its pairs in order.


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
    """Pairs in ascending order of (i, j)."""

    i: np.ndarray  # int64 (m,): row numbers; ``i < j`` where rows were joined with themselves
    j: np.ndarray
    cosine: np.ndarray  # float64 (m,): never below what the pair needs

    def __len__(self) -> int:
        return len(self.i)

    def __getitem__(self, part: slice) -> PairBlock:
        return PairBlock(self.i[part], self.j[part], self.cosine[part])


@dataclass
class RowBlock:
    """Pairs of the rows ``start:stop`` of the left side; `pairs` is None if there were too many to hold."""

    start: int
    stop: int
    pairs: PairBlock | None = None
    comparisons: int = 0
    after_lead: int = 0
    after_middle: int = 0


class BlockJoin:
    """Both sides' coordinates, and what to do with a stripe of them; one side where rows are joined with themselves."""

    def __init__(
        self,
        left: RowSet,
        right: RowSet,
        threshold: float | Asked,
        plan: Plan,
        tiles: Tiles,
        pool: Executor,
    ) -> None:
        self.left, self.right, self.threshold, self.tiles = left, right, threshold, tiles
        self.within = left is right
        self.stop = threading.Event()
        lead, middle = _coordinates(left, plan, pool)
        other, other_middle = (lead, middle) if self.within else _coordinates(right, plan, pool)
        floor, reach, added = 1.0, 1.0, 0
        if not isinstance(threshold, Asked):
            floor = threshold
        else:
            # What each row asks for stands in two more columns, so that all pairs have one floor.
            reach, added = threshold.reach, 2
            other = asking_columns(other, threshold.right, right=True)
            lead = asking_columns(lead, threshold.left)
            if middle is not None and other_middle is not None:
                other_middle = asking_columns(other_middle, threshold.right, right=True)
                middle = asking_columns(middle, threshold.left)
        self.left_middle, self.right_middle = middle, other_middle
        self.left_lead = tiles.load(lead)
        self.right_lead = self.left_lead if other is lead else tiles.load(other)
        floor -= coordinate_slack(left.dim)
        self.lead_floor = tiles.floor(floor - reach * tiles.slack(self.left_lead, self.right_lead))
        self.middle_floor = floor - reach * summation_slack(plan.middle + 1 + added)
        self.full_floor = floor - reach * summation_slack(left.dim + added)

    def __call__(self, start: int, stop: int) -> RowBlock:
        """Compare rows ``start:stop`` of the left side with all of the right, or with those after them."""
        done = RowBlock(start, stop)
        candidates: list[tuple[np.ndarray, np.ndarray]] = []
        held = 0
        for i, j in self._candidates(done):
            candidates.append((i, j))
            held += len(i)
            if (held > _TOO_MANY and stop - start > 1) or self.stop.is_set():
                return RowBlock(start, stop)
        nothing = (np.empty(0, np.int64), np.empty(0, np.int64))
        i, j = (np.concatenate(parts) for parts in zip(nothing, *candidates, strict=True))
        order = np.argsort(i * len(self.right) + j)
        done.pairs = self._score(i[order], j[order])
        return done

    def _candidates(self, done: RowBlock) -> Iterator[tuple[np.ndarray, np.ndarray]]:
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
        self, waiting: list[tuple[np.ndarray, np.ndarray]], done: RowBlock
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
            if isinstance(self.threshold, Asked):
                left = asking_columns(left, self.threshold.left[rows])
                right = asking_columns(right, self.threshold.right[columns], right=True)
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
        least = self.threshold.of(i, j) if isinstance(self.threshold, Asked) else self.threshold
        keep = cosine >= least
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


#: Bytes for the coordinates of all rows.
_BUDGET = 768e6

#: A stripe with too many pairs is cut into this many.
_CUTS = 8


@dataclass
class JoinStats:
    """Statistics of a join; complete when its last block has been read."""

    left_rows: int
    right_rows: int
    dim: int
    threads: int
    engine: str = ""  # what computed the first bound
    #: coordinates in the first and the second bound; `dim` means no bound, equal ones no second bound
    lead: int = 0
    middle: int = 0
    #: share of the rows' squared length in the leading coordinates, on a sample
    explained: float | None = None
    #: pairs that met the first bound, survived it, survived the second, and were handed out
    comparisons: int = 0
    after_lead: int = 0
    after_middle: int = 0
    pairs: int = 0
    unusable: int = 0  # rows that match nothing: zero, NaN, infinite
    capped: bool = False  # whether there are more pairs than were asked for
    prepare_seconds: float = 0.0  # planning and rotating; everything after, the reader's own time included
    join_seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """JSON values, for a summary."""
        return {
            "engine": self.engine,
            "threads": self.threads,
            "lead": self.lead,
            "comparisons": self.comparisons,
            "scored": self.after_middle,
            "unusable": self.unusable,
            "seconds": self.prepare_seconds + self.join_seconds,
        }


def self_join(
    X: np.ndarray,
    threshold: float | np.ndarray,
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

    A `threshold` for each row, float64 (n,), asks of a pair the mean of what its two rows ask for. Rows may be mapped
    from disk, and are then read once in order, and again only for those of survivors. One that is zero, NaN or infinite
    matches nothing. Without `device` torch is used where it pays; `plan` and `tiles` are for experiments.

    >>> X = np.array([[1, 0], [0, 1], [2, 0.1]], np.float32)
    >>> join = self_join(X, 0.95)
    >>> [(int(i), int(j)) for block in join for i, j in zip(block.i, block.j)]
    [(0, 2)]
    >>> join.stats.comparisons
    3
    """
    rows = RowSet.of(X, mean)
    asked = Asked(threshold, threshold) if isinstance(threshold, np.ndarray) else threshold
    return Join(rows, rows, asked, max_pairs, threads, device, progress, plan, tiles)


def cross_join(
    X: np.ndarray, Y: np.ndarray, threshold: float | Asked, *, mean: np.ndarray | None = None, **options: Any
) -> Join:
    """Find all pairs of row i of `X` (n, d) and row j of `Y` (m, d) whose cosine is at least `threshold`.

    `Asked` has a threshold for each row of both. Options, result and errors are those of `self_join`.
    """
    left, right = RowSet.of(X, mean), RowSet.of(Y, mean)
    if left.dim != right.dim:
        raise UsageError(f"vectors of {left.dim} and of {right.dim} dimensions cannot be compared")
    return Join(left, right, threshold, **options)


@dataclass
class Join:
    """A join under way: iterate over it once for its `PairBlock`, then read its `stats`."""

    left: RowSet
    right: RowSet
    threshold: float | Asked
    max_pairs: int | None = None
    threads: int | None = None
    device: str = "auto"
    progress: Callable[[int, int], None] | None = None
    plan: Plan | None = None
    tiles: Tiles | None = None
    stats: JoinStats = field(init=False)

    def __post_init__(self) -> None:
        if isinstance(self.threshold, Asked):
            for rows, asked in ((self.left, self.threshold.left), (self.right, self.threshold.right)):
                if asked.shape != (len(rows),) or not (np.abs(asked) <= MAX_ASKED).all():
                    raise UsageError(
                        f"{count_of(len(rows), 'row needs', 'rows need')} as many thresholds from "
                        f"-{MAX_ASKED} to {MAX_ASKED}"
                    )
        elif not 0 < self.threshold <= 1:
            raise UsageError(f"a cosine threshold lies above 0 and is at most 1, not {self.threshold}")
        if self.max_pairs is not None and self.max_pairs < 1:
            raise UsageError(f"the cap on pairs must be at least 1, not {self.max_pairs}")
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"threads must be at least 1, not {self.threads}")
        if self.device not in ("auto", "numpy", "cpu") and self.device.partition(":")[0] != "cuda":
            raise UsageError(f"unknown device {self.device!r} for the join; use auto, numpy, cpu or cuda")
        threads = self.threads or _processors()
        self.stats = JoinStats(len(self.left), len(self.right), self.left.dim, threads)
        self._started = False

    @property
    def unusable(self) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the rows that match nothing, left and right."""
        return self.left.unusable, self.right.unusable

    def collect(self) -> PairBlock:
        """Run the join and hold all its pairs in memory."""
        blocks = [PairBlock(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)), *self]
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
        within = self.left is self.right
        total = n * (n - 1) // 2 if within else n * m
        # From so low a threshold the floor could fall to 0, where bfloat16's comparison of bits ends.
        low = not isinstance(self.threshold, Asked) and self.threshold < 0.05
        device = "numpy" if low else self.device
        tiles = self.tiles or choose_tiles(device, total, stats.threads)
        with tiles.single_threaded(), ThreadPoolExecutor(stats.threads, "icehouse-join") as pool:
            plan = self.plan or choose_plan(self.left, self.right, self.threshold, tiles, _BUDGET)
            join = BlockJoin(self.left, self.right, self.threshold, plan, tiles, pool)
            stats.engine, stats.lead, stats.middle = tiles.name, plan.lead, plan.middle
            stats.explained = plan.explained
            stats.unusable = sum(len(side) for side in (self.unusable[:1] if within else self.unusable))
            stats.prepare_seconds = time.perf_counter() - begun
            try:
                for stripe in self._row_blocks(join, pool, _cuts(0, n, tiles.rows, 4 * stats.threads)):
                    self._count(stripe)
                    if self.progress is not None:
                        self.progress(stats.comparisons, total)
                    if stripe.pairs and (block := self._within_cap(stripe.pairs)):
                        yield block
                    if stats.capped:
                        break
            finally:
                # A reader that has had enough does not wait for what it will not read.
                join.stop.set()
                pool.shutdown(cancel_futures=True)
                stats.join_seconds = time.perf_counter() - begun - stats.prepare_seconds

    def _row_blocks(
        self, join: BlockJoin, pool: ThreadPoolExecutor, ranges: Iterable[tuple[int, int]]
    ) -> Iterator[RowBlock]:
        """Work through stripes in order, a few ahead of the reader."""
        ahead: deque[Future[RowBlock]] = deque()
        todo = iter(ranges)
        while True:
            while len(ahead) <= self.stats.threads and (following := next(todo, None)) is not None:
                ahead.append(pool.submit(join, *following))
            if not ahead:
                return
            done = ahead.popleft().result()
            if done.pairs is not None:
                yield done
            else:
                yield from self._row_blocks(join, pool, _cuts(done.start, done.stop, done.stop, _CUTS))

    def _count(self, stripe: RowBlock) -> None:
        self.stats.comparisons += stripe.comparisons
        self.stats.after_lead += stripe.after_lead
        self.stats.after_middle += stripe.after_middle

    def _within_cap(self, block: PairBlock) -> PairBlock:
        room = math.inf if self.max_pairs is None else self.max_pairs - self.stats.pairs
        self.stats.capped = len(block) > room
        block = block[: int(room)] if self.stats.capped else block
        self.stats.pairs += len(block)
        return block


def _cuts(start: int, stop: int, most: int, parts: int) -> Iterator[tuple[int, int]]:
    """Cut a range into at least `parts` where it is long enough, each of at most `most`."""
    step = max(min(most, math.ceil((stop - start) / parts)), 1)
    return ((first, min(first + step, stop)) for first in range(start, stop, step))


def _processors() -> int:
    with contextlib.suppress(AttributeError):  # macOS and Windows cannot tell
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
