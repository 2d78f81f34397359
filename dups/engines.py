"""Engines of the pair search: the exact join, and FAISS, as far as an index finds pairs, with its recall measured.

Whichever is taken, pairs are scored by the one definition of a cosine, from the stored vectors, and come in the order of
(i, j). How much an index misses is measured every time, on a sample of rows that the exact join compares with all others.

FAISS is asked for what lies within a radius. A store's own index is of vectors as they are; for a rule that subtracts a
mean, or where the store has no fresh index, a temporary one is made of the vectors that the rule compares.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from ..errors import UsageError, count_of
from ..store.index import KINDS, Index, choose_kind, fresh_index, load_faiss, thread_limit, to_gpu
from ..store.search import float32_margin
from ..store.store import Store
from ..store.vectors import Vectors
from .hashing import distinct
from .join import (
    Asked,
    Join,
    JoinStats,
    NumpyTiles,
    PairBlock,
    RowSet,
    coordinate_slack,
    cross_join,
    pair_cosines,
    self_join,
    summation_slack,
)

#: What compares embeddings: the join that misses no pair, or a FAISS index.
ENGINES = ("exact", "faiss")

#: New rows up to which their products with all others are taken as they are, and rows of a product.
_FEW_ROWS, _AT_ONCE = 1000, 4096

#: Recall@10 by which a kind is chosen: flat up to 50,000 rows, then IVF.
_RECALL = 0.95

_BLOCK = 16_384


@dataclass(frozen=True)
class JoinOptions:
    """Options of a join, as `icehouse.dups.join.self_join` takes it."""

    max_pairs: int
    threads: int | None = None
    device: str = "auto"
    progress: Callable[[int, int], None] | None = None


class PairJoin(Protocol):
    """Pairs under way: iterate once, then read `stats`."""

    stats: Any

    def __iter__(self) -> Iterator[PairBlock]: ...


class Engine(Protocol):
    """Something that finds pairs of rows."""

    name: str

    @property
    def notes(self) -> list[str]:
        """Remarks for the user on how pairs were found."""

    def join(self, rows: RowSet, threshold: float | np.ndarray, options: JoinOptions) -> PairJoin:
        """Find pairs ``i < j`` of `rows`, which have been measured, with a cosine of at least `threshold`.

        Of thresholds of their own, one for each row, a pair needs the mean.
        """

    def subset(self, held: np.ndarray) -> Engine:
        """Get the engine for the rows `held` (m,) of those it was made for, renumbered from 0."""


@dataclass
class Exact:
    """All pairs, none missed; see `icehouse.dups.join`."""

    name: str = "exact"

    @property
    def notes(self) -> list[str]:
        """Nothing: there is no doubt."""
        return []

    def join(self, rows: RowSet, threshold: float | np.ndarray, options: JoinOptions) -> Join:
        """See `Engine.join`."""
        return self_join(rows.X, threshold, mean=rows.mean, **vars(options))

    def subset(self, held: np.ndarray) -> Exact:
        """See `Engine.subset`."""
        return self


def pairs_of(
    rows: RowSet, some: np.ndarray, asked: np.ndarray, options: JoinOptions
) -> tuple[PairBlock, JoinStats]:
    """Pairs of `some` rows, ascending, with all rows, themselves among them, that reach what the two ask for."""
    few = None if len(some) > _FEW_ROWS else _products(rows, some, asked, options)
    if few is not None:
        return few
    X, both = np.ascontiguousarray(rows.X[some]), Asked(asked[some], asked)
    join = cross_join(X, rows.X, both, mean=rows.mean, **vars(options))
    made = join.collect()
    return replace(made, i=some[made.i]), join.stats


def _products(
    rows: RowSet, some: np.ndarray, asked: np.ndarray, options: JoinOptions
) -> tuple[PairBlock, JoinStats] | None:
    """As `pairs_of`, by the products of rows as they are: of few that takes less time than what would make them fewer.

    None where there are too many pairs, and where rows would have to be centred.
    """
    if rows.X.dtype != np.float32 or (rows.mean is not None and rows.mean.any()):
        return None
    begun = time.perf_counter()
    some = some[rows.squares[some] > 0]
    left = rows.directions(some)[0].astype(np.float32)
    slack = summation_slack(rows.dim) + coordinate_slack(rows.dim)
    lengths = np.sqrt(rows.squares).astype(np.float32)
    found, count = [np.empty((2, 0), np.int64)], 0
    for start in range(0, len(rows) if len(some) else 0, _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        least = (asked[some][:, None] + asked[part]) / 2 - slack
        i, j = np.nonzero((left @ rows.X[part].T >= least * lengths[part]) & (lengths[part] > 0))
        found.append(np.stack([some[i], j + start]))
        count += len(i)
        if count > options.max_pairs:
            return None
    i, j = np.concatenate(found, axis=1)
    i, j = np.stack([i, j])[:, np.lexsort((j, i))]
    cosine = pair_cosines(rows, rows, i, j)
    kept = np.flatnonzero(cosine >= (asked[i] + asked[j]) / 2)
    stats = JoinStats(rows.dim, 1, NumpyTiles.name, rows.dim, rows.dim)
    stats.comparisons, stats.after_middle, stats.pairs = len(some) * len(rows), len(i), len(kept)
    stats.unusable, stats.join_seconds = len(rows.unusable), time.perf_counter() - begun
    return PairBlock(i[kept], j[kept], cosine[kept]), stats


class TemporaryIndex:
    """An index of the rows that have a direction; `effort` is set from `ladder`, None for a flat one."""

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
        """Find rows near unit vectors (q, dim); see `icehouse.store.index.Index.range_search`."""
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


#: Rows that are compared with all others to see what an index misses; where it can be tuned, half of them for that.
_SAMPLE = 2000

#: Recall that a temporary index is tuned to.
_TARGET_RECALL = 0.99

#: Known pairs from which tuning by them means something.
_MIN_KNOWN = 20

#: Pairs a block of queries may bring before blocks get smaller.
_MAX_FOUND = 2_000_000


@dataclass
class FaissStats:
    """Statistics of a search by an index; complete when its last block has been read."""

    index: str  # kind: "flat", "ivf", "hnsw"
    temporary: bool  # whether it was made for this search alone
    effort: int | None  # how hard it looks: nprobe or efSearch
    threads: int | None
    candidates: int = 0  # pairs that it proposed, once for each side that did
    pairs: int = 0
    unusable: int = 0  # rows that match nothing
    #: ``rows`` sampled, ``pairs`` that they have, ``found`` among them, and ``recall``, None where there
    #: are no pairs
    recall: dict[str, Any] | None = None
    build_seconds: float = 0.0
    join_seconds: float = 0.0
    recall_seconds: float = 0.0
    capped: bool = False
    wanted: float = _TARGET_RECALL  # recall that was asked of the index

    def as_dict(self) -> dict[str, Any]:
        """JSON values, for a summary."""
        return {
            "engine": "faiss",
            "index": self.index,
            "temporary": self.temporary,
            "effort": self.effort,
            "threads": self.threads,
            "scored": self.candidates,
            "unusable": self.unusable,
            "recall": self.recall,
            "wanted": self.wanted,
            "seconds": self.build_seconds + self.join_seconds + self.recall_seconds,
        }


@dataclass
class Faiss:
    """Pairs as far as an index finds them; get one from `choose_engine`.

    `number` gives for each row that the index may name the row here, -1 for one that is not here.
    """

    index: Index | TemporaryIndex
    kind: str
    effort: int | None
    number: np.ndarray
    measured: bool = True
    remarks: list[str] = field(default_factory=list)
    build_seconds: float = 0.0
    name: str = "faiss"
    wanted: float = _TARGET_RECALL  # recall that was asked of the index
    last: FaissStats | None = None

    @property
    def notes(self) -> list[str]:
        """Remarks on how pairs were searched for, and the share that was found."""
        return [*self.remarks, *([_recall_note(self.last)] if self.last is not None else [])]

    def join(self, rows: RowSet, threshold: float | np.ndarray, options: JoinOptions) -> FaissJoin:
        """See `Engine.join`."""
        if not isinstance(threshold, np.ndarray) and not 0 < threshold <= 1:
            raise UsageError(f"a cosine threshold lies above 0 and is at most 1, not {threshold}")
        made = FaissJoin(self, rows, threshold, options)
        if self.measured:
            self.last = made.stats
        return made

    def subset(self, held: np.ndarray) -> Faiss:
        """See `Engine.subset`."""
        to = np.full(int(self.number.max(initial=-1)) + 1, -1, np.int64)
        to[held] = np.arange(len(held))
        number = np.where(self.number >= 0, to[self.number], -1)
        return replace(self, number=number, measured=False, remarks=[], last=None)


class FaissJoin:
    """Pairs of one set of rows, by an index; see `Faiss`."""

    def __init__(
        self, engine: Faiss, rows: RowSet, threshold: float | np.ndarray, options: JoinOptions
    ) -> None:
        self.engine, self.rows, self.options = engine, rows, options
        asked = threshold if isinstance(threshold, np.ndarray) else np.full(len(rows), threshold)
        #: what each pair needs, and what the join of a sample is asked for
        self.asked, self.threshold = Asked(asked, asked), threshold
        temporary = isinstance(engine.index, TemporaryIndex)
        self.stats = FaissStats(
            engine.kind, temporary, engine.effort, options.threads, unusable=len(rows.unusable)
        )
        self.stats.build_seconds = engine.build_seconds
        self.stats.wanted = engine.wanted

    def __iter__(self) -> Iterator[PairBlock]:
        n, stats = len(self.rows), self.stats
        begun = time.perf_counter()
        sample = known = np.empty(0, np.int64)
        if self.engine.measured:
            sample, known = self._known()
            sample, known = self._tune(sample, known)
        stats.recall_seconds = time.perf_counter() - begun
        begun = time.perf_counter()
        codes, cosine = self._search(n)
        stats.capped = len(codes) > self.options.max_pairs
        codes, cosine = codes[: self.options.max_pairs], cosine[: self.options.max_pairs]
        stats.pairs = len(codes)
        if self.engine.measured:
            if stats.capped:  # what lies beyond was not asked for
                known = known[known <= codes[-1]]
            found = int(np.isin(known, codes, assume_unique=True).sum())
            share = found / len(known) if len(known) else None
            stats.recall = {"rows": len(sample), "pairs": len(known), "found": found, "recall": share}
        stats.join_seconds = time.perf_counter() - begun
        for start in range(0, len(codes), _BLOCK):
            part = slice(start, start + _BLOCK)
            i, j = np.divmod(codes[part], n)
            yield PairBlock(i, j, cosine[part])

    def _search(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Codes ``i * n + j`` of pairs, ascending and each once, and their cosines; more than the cap, if there are."""
        nothing = (np.empty(0, np.int64), np.empty(0))
        parts, held = [nothing], 0
        usable = np.flatnonzero(self.rows.squares > 0)
        start, size = 0, 16
        while start < len(usable):
            asked = usable[start : start + size]
            i, j = self._ask(asked)
            # A flat index answers both ways alike; another may find a pair from one side only.
            if self.stats.index == "flat":
                i, j = i[i < j], j[i < j]
            self.stats.candidates += len(i)
            codes = distinct(np.minimum(i, j) * n + np.maximum(i, j))
            i, j = np.divmod(codes, n)
            cosine = pair_cosines(self.rows, self.rows, i, j)
            kept = cosine >= self.asked.of(i, j)
            parts.append((codes[kept], cosine[kept]))
            held += int(kept.sum())
            start += len(asked)
            if self.options.progress is not None:
                self.options.progress(start, len(usable))
            size = max(size // 2, 1) if len(codes) > _MAX_FOUND else min(2 * size, 1024)
            if held > self.options.max_pairs:
                codes, cosine = _united(parts)
                # Rows up to here have told all they know, so that what comes later would rank behind.
                if np.count_nonzero(codes < (int(asked[-1]) + 1) * n) > self.options.max_pairs:
                    return codes, cosine
                parts, held = [(codes, cosine)], len(codes)
        return _united(parts)

    def _ask(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pairs of each of `rows` with what the index finds near it."""
        units, _ = self.rows.directions(rows)
        # An index has one radius for all queries: the least that any pair of these needs.
        least = float(self.asked.left[rows].min(initial=3) + self.asked.right.min(initial=3)) / 2
        limits, _, found = self.engine.index.range_search(units, least, threads=self.options.threads)
        i, j = np.repeat(rows, np.diff(limits)), self.engine.number[found]
        other = (j >= 0) & (i != j)
        i, j = i[other], j[other]
        usable = self.rows.squares[j] > 0
        return i[usable], j[usable]

    def _known(self) -> tuple[np.ndarray, np.ndarray]:
        """Draw a sample of rows, and find all their pairs: the rows, and codes, ascending."""
        n, usable = len(self.rows), np.flatnonzero(self.rows.squares > 0)
        sample = np.random.default_rng(0).permutation(usable)[:_SAMPLE]
        rows = np.sort(sample)
        alone = self.threshold if isinstance(self.threshold, float | int) else None
        join = cross_join(
            self.rows.X[rows],
            self.rows.X,
            Asked(self.asked.left[rows], self.asked.right) if alone is None else alone,
            mean=self.rows.mean,
            **{**vars(self.options), "progress": None},
        )
        block = join.collect()
        i, j = np.sort(sample)[block.i], block.j
        i, j = i[i != j], j[i != j]
        return sample, distinct(np.minimum(i, j) * n + np.maximum(i, j))

    def _tune(self, sample: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tune a temporary index to the recall asked for; return the rest of the sample, to measure it with."""
        index, n = self.engine.index, len(self.rows)
        if not isinstance(index, TemporaryIndex) or not index.ladder:
            return sample, known
        first, second = sample[::2], sample[1::2]
        i, j = np.divmod(known, n)
        tuning = known[np.isin(i, first) | np.isin(j, first)]
        for effort in index.ladder:
            index.effort = self.stats.effort = effort
            if len(tuning) < _MIN_KNOWN:
                if effort >= max(index.ladder) / 16:
                    break
                continue
            a, b = self._ask(np.sort(first))
            if np.isin(tuning, np.minimum(a, b) * n + np.maximum(a, b)).mean() >= _TARGET_RECALL:
                break
        return second, known[np.isin(i, second) | np.isin(j, second)]


def choose_engine(
    store: Store,
    feature: str | None,
    rows: RowSet | None,
    table_rows: np.ndarray,
    vectors: Vectors | None,
    *,
    threads: int | None = None,
) -> Engine:
    """Make an engine ready for `rows`, which stand at `table_rows` of the feature's table.

    Over the store's index if it is fresh and the rule compares vectors as they are, else over a temporary one; the exact
    join where there is nothing to compare.
    """
    if feature is None or rows is None or vectors is None:
        return Exact()
    faiss = load_faiss()
    remarks = []
    if faiss.get_num_gpus() > 0:
        remarks.append("FAISS has no search within a radius on a GPU: it ran on the processor")
    if rows.mean is None:
        index, stale = fresh_index(store, feature)
        if index is not None and index.info.digest == vectors.digest:
            number = np.full(len(vectors.X), -1, np.int64)
            number[table_rows] = np.arange(len(table_rows))
            made_for = index.info.wanted
            return Faiss(index, index.info.kind, index.info.effort, number, remarks=remarks, wanted=made_for)
        why = stale or f"there is no index of {feature}; `icehouse index build {feature}` makes one to keep"
    else:
        why = "the vectors are centred, and a store's index is of vectors as they are"
    begun = time.perf_counter()
    made = TemporaryIndex(rows, threads=threads)
    seconds = time.perf_counter() - begun
    remarks.append(f"a temporary {made.kind} index was built in {seconds:.1f} s: {why}")
    number = np.arange(len(rows))
    return Faiss(made, made.kind, made.effort, number, remarks=remarks, build_seconds=seconds)


def _united(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Codes of all parts, ascending and each once, with their cosines."""
    codes, first = np.unique(np.concatenate([codes for codes, _ in parts]), return_index=True)
    return codes, np.concatenate([cosine for _, cosine in parts])[first]


def _recall_note(stats: FaissStats) -> str:
    how = "temporary index" if stats.temporary else "index"
    if stats.recall is None or stats.recall["recall"] is None:
        rows = stats.recall["rows"] if stats.recall else 0
        return (
            f"faiss, {stats.index} {how}: its recall is unknown, since "
            f"{count_of(rows, 'sampled row has', 'sampled rows have')} no pairs"
        )
    known = stats.recall
    told = (
        f"faiss, {stats.index} {how}: recall {known['recall']:.4f}, {known['found']:,} of the "
        f"{count_of(known['pairs'], 'pair')} that "
        f"the exact join finds for {count_of(known['rows'], 'sampled row')}"
    )
    if known["recall"] < stats.wanted:
        told += f"; that is less than the {stats.wanted:g} asked for: --engine exact misses none"
    return told
