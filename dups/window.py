"""Sliding window of a stream: the most recent contents, and what of them a new one resembles.

A window holds the last `capacity` distinct contents: of each its sha256, perceptual hash and vector. A content that comes
again takes no second place; it becomes the most recent one. Every arrival is judged against the window as it is at that
moment, then remembered, and what was seen longest ago is forgotten.

Arrivals may come in batches, so that one product of matrices serves all of them; each is then judged as if it had come
alone, after those before it. The vectors are compared as in `icehouse.dups.join`: a bound on the cosine from the leading
principal coordinates rules almost all out, and the rest are scored from the vectors as they are held, by the one definition
of a cosine. So no match is missed, and verdicts depend neither on batches, nor on the axes, nor on threads.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..data.images import ORIENTATIONS
from ..errors import CorruptError, SpaceError, StoreError, UsageError, brief
from ..store.files import publish, remove_leftovers, temp_name
from ..store.schema import vector_type
from ..store.vectors import to_array
from .confirm import INVERSE
from .hashing import BITS, MAX_RADIUS, informative
from .join.cosines import (
    NumpyTiles,
    Plan,
    RowSet,
    choose_plan,
    coordinate_slack,
    pair_cosines,
    project,
    summation_slack,
)
from .rule import Rule


@dataclass(frozen=True)
class Arrival:
    """Arrival in a stream: `id` for people, `key` (sha256) for its content, its hash, and its vector (dim,).

    `vector` and `phash` may be left out where `SlidingWindow.knows` the key, or an earlier arrival of the same batch has it.
    """

    id: str
    key: str
    phash: int | None = None
    vector: np.ndarray | None = None
    turned: tuple[int, ...] | None = None  # hashes of the picture in each of the `ORIENTATIONS`


@dataclass(frozen=True)
class Match:
    """A content of the window that an arrival resembles."""

    id: str  # id of the arrival that brought the content
    position: int  # number of that arrival in the stream, from 0
    age: int  # how many arrivals ago that was
    exact: bool  # stages that find it
    perceptual: bool
    embedding: bool
    hamming: int | None  # bits in which the hashes differ; None where one is missing
    cosine: float | None  # none where a vector is missing or has no direction
    orientation: str | None = None  # how the content's picture has to be turned to be the arrival's

    @property
    def kind(self) -> str:
        """Strongest evidence: "exact", "perceptual" or "embedding"."""
        return "exact" if self.exact else "perceptual" if self.perceptual else "embedding"


@dataclass(frozen=True)
class StreamResult:
    """Result for an arrival."""

    id: str
    position: int | None  # number in the stream, from 0; None where it could not be judged
    #: best first: exact, then perceptual by fewest bits, then by highest cosine; of equals the oldest
    matches: tuple[Match, ...] = ()
    #: whether more resemble it than a stage looks for (256): `matches` are then the best of the most
    #: recent
    capped: bool = False
    error: str | None = None  # why it could not be judged
    #: place in the input, from 0, of whatever came: lines that cannot be read count, and those left out between
    line: int | None = None

    @property
    def match(self) -> Match | None:
        """Best match."""
        return self.matches[0] if self.matches else None

    @property
    def kind(self) -> str:
        """Tell in one word: "new", "exact", "perceptual", "embedding", or "error"."""
        if self.error is not None:
            return "error"
        return self.matches[0].kind if self.matches else "new"


DEFAULT_WINDOW = 100_000

#: Matches of one arrival that a stage looks for, the most recent first; the best of them is told.
MAX_MATCHES = 256

#: Bits fewer that may differ where hashes of the turned picture are compared: eight times as many comparisons are made, and
#: random hashes are near twenty times as often with every two bits.
_TURNED_BITS, _MAX_TURNED = 2, 4
_TURNS = len(ORIENTATIONS) - 1

#: Arrivals that go through one product of matrices.
BATCH = 64

#: Contents from which principal axes pay, and after how many they are found anew while the window fills.
_REFIT_SIZES = (8192, 32_768)

#: Candidates an arrival, on average, from which axes are found anew, and after what part of a window at the soonest.
_TOO_MANY, _MIN_INTERVAL = 200, 0.125

#: The most recent contents stand for those to come when axes are chosen.
_LATEST = 1024

#: Coordinates of a content, at most, beside its vector; where so few rule out little, all of them.
_COORDINATES = 320

#: Looking a candidate up costs as much as so many coordinates in a product.
_LOOK_UP = 20_000

_COLUMNS = 8192


class SlidingWindow:
    """A window over the most recent distinct contents of a stream.

    Memory does not grow once the window is full (`bytes`): a content takes ``2 * dim`` bytes for its float16 vector, as much
    again under a rule with a matrix, up to 1,280 for coordinates, and about 360 for the rest, its id's length aside. 100,000
    contents of 1280 dimensions take 256 MB and, all in all, about 400. Where leading coordinates tell too little to rule
    anything out, all of them are kept in float32: 512 MB more. Vectors are compared as they are held, in `dtype`.
    """

    def __init__(
        self, capacity: int = DEFAULT_WINDOW, *, rule: Rule, dim: int | None = None, dtype: str = "float16"
    ) -> None:
        if capacity < 1:
            raise UsageError(f"a window holds at least 1 content, not {capacity}")
        if rule.hamming is not None and not 0 <= rule.hamming <= MAX_RADIUS:
            raise UsageError(
                f"a Hamming distance lies between 0 and {MAX_RADIUS} of {BITS} bits, not {rule.hamming}"
            )
        if rule.cosine is not None and not 0 < rule.cosine <= 1:
            raise UsageError(f"a cosine threshold lies above 0 and is at most 1, not {rule.cosine}")
        if rule.cosine is not None and dim is None:
            raise UsageError("a cosine needs vectors to be taken of")
        self.capacity, self.rule, self.dim = capacity, rule, dim
        self.count = 0
        try:
            self._ids: list[str] = [""] * capacity
            self._X = np.zeros((capacity, dim or 0), dtype)
        except (MemoryError, OverflowError, ValueError) as error:
            raise UsageError(
                f"no memory for a window of {capacity:,} contents; give a smaller one"
            ) from error
        self._matrix = None if rule.matrix is None or dim is None else rule.matrix.astype(np.float64)
        #: The vectors as the rule compares them: `_X`, or what its matrix makes of them.
        self._Y = self._X if self._matrix is None else np.zeros_like(self._X)
        self._rows = self._row_set(self._Y)
        self._hashes = np.zeros(capacity, np.uint64)
        self._hashed = np.zeros(capacity, bool)
        self._useful = np.zeros(capacity, bool)
        #: Hashes of the turned pictures; 0 where they are not known.
        self._turned = np.zeros((capacity, _TURNS), np.uint64)
        self.turned_radius = _turned_radius(rule.hamming)
        self._serials = np.full(capacity, -1, np.int64)
        #: Slot of each key, the one seen longest ago first.
        self._slots: OrderedDict[str, int] = OrderedDict()
        self._plan = Plan(dim or 0, dim or 0)
        self._lead = np.zeros((0, 0), np.float32)
        self._middle: np.ndarray | None = None
        self._fitted_at = 0
        self._candidates = self._asked = 0
        self._scratch = np.empty(BATCH * _COLUMNS, np.float32)

    def __len__(self) -> int:
        """Contents held."""
        return len(self._slots)

    def knows(self, key: str) -> bool:
        """Tell whether the window holds a content."""
        return key in self._slots

    @property
    def dtype(self) -> np.dtype:
        """In which vectors are held."""
        return self._X.dtype

    @property
    def bytes(self) -> int:
        """Bytes of the arrays, once the window is full; keys and ids come on top."""
        arrays = [
            self._X,
            self._rows.squares,
            self._hashes,
            self._hashed,
            self._useful,
            self._turned,
            self._serials,
        ]
        arrays += [] if self._matrix is None else [self._Y]
        coordinates = self._plan.lead + 1 + (self._plan.middle + 1 if self._middle is not None else 0)
        return sum(array.nbytes for array in arrays) + 4 * coordinates * self.capacity * (
            self.dim is not None
        )

    def judge(self, arrivals: Sequence[Arrival]) -> Iterator[StreamResult]:
        """Judge and remember arrivals, one at a time as the verdicts are read; what is not read has not arrived."""
        for start in range(0, len(arrivals), BATCH):
            batch = _Batch(self, arrivals[start : start + BATCH])
            for j in range(len(batch)):
                if self.count != batch.first + j:
                    raise UsageError("the window was given other arrivals before all of these were judged")
                verdict = self._result(batch, j)
                self._remember(batch, j)
                yield verdict

    def compare(self, arrivals: Sequence[Arrival]) -> list[StreamResult]:
        """Judge arrivals by what is held, each as if it came next, and remember none of them."""
        return [self._result(_Batch(self, [arrival]), 0) for arrival in arrivals]

    def remember(self, arrivals: Sequence[Arrival]) -> None:
        """Take arrivals into the window without judging them."""
        for start in range(0, len(arrivals), BATCH):
            batch = _Batch(self, arrivals[start : start + BATCH], compare=False)
            for j in range(len(batch)):
                self._remember(batch, j)

    def restored(self, seen: int) -> None:
        """Finish what `icehouse.dups.window.load_window` put in: `seen` arrivals have been judged so far."""
        n = len(self)
        self.count = seen
        self._useful[:n] = self._hashed[:n] & informative(self._hashes[:n])
        if self._matrix is not None:
            for start in range(0, n, 1024):
                part = slice(start, min(start + 1024, n))
                self._Y[part] = self._mapped(self._X[part])
        self._fit_axes()

    def _row_set(self, X: np.ndarray) -> RowSet:
        """Rows to be compared, of `_Y` or alike."""
        return RowSet.of(X, None if self.dim is None or self._matrix is not None else self.rule.mean)

    def _mapped(self, X: np.ndarray) -> np.ndarray:
        """Take vectors to where the rule compares them."""
        if self._matrix is None:
            return X
        units, _ = RowSet.of(X, self.rule.mean).directions(slice(None))
        units = units @ self._matrix
        lengths = np.sqrt(np.square(units).sum(axis=1, keepdims=True))
        units /= np.where(lengths > 0, lengths, 1)
        # BLAS sums a row in an order that depends on where it stands; rounded, it is the same wherever that is.
        return np.round(units, 7).astype(X.dtype)

    def _result(self, batch: _Batch, j: int) -> StreamResult:
        own = self._slots.get(batch.keys[j])
        by_hash, many = self._by_hash(batch, j)
        by_vector, more = self._by_vector(batch, j)
        slots = np.union1d(by_hash, by_vector)
        if own is not None:
            slots = np.union1d(slots, [own])
        if not len(slots):
            return StreamResult(batch.ids[j], self.count)
        hamming = np.bitwise_count(self._hashes[slots] ^ batch.hashes[j]).astype(np.int16)
        hamming[~(self._hashed[slots] & batch.hashed[j])] = -1
        cosine = self._cosines(batch, j, slots)
        exact = slots == (-1 if own is None else own)
        perceptual, embedding = np.isin(slots, by_hash), np.isin(slots, by_vector)
        if self.rule.cosine is not None:
            # What the hashes brought, or the bytes, may lie beyond the most recent that the vectors brought.
            embedding |= cosine >= self.rule.cosine
        if self.rule.hamming is not None:
            perceptual |= (
                (hamming >= 0) & (hamming <= self.rule.hamming) & self._useful[slots] & batch.useful[j]
            )
        turned, bits = batch.turned_from(self, j, slots)
        perceptual |= turned > 0
        hamming = np.where(turned > 0, bits, hamming)
        rank = np.where(exact, 0, np.where(perceptual, 1, 2))
        bits = np.where(rank == 1, hamming, 0)
        order = np.lexsort((self._serials[slots], -np.nan_to_num(cosine, nan=-2.0), bits, rank))
        matches = []
        for k in order:
            slot = int(slots[k])
            position = int(self._serials[slot])
            matches.append(
                Match(
                    self._ids[slot],
                    position,
                    self.count - position,
                    bool(exact[k]),
                    bool(perceptual[k]),
                    bool(embedding[k]),
                    None if hamming[k] < 0 else int(hamming[k]),
                    None if np.isnan(cosine[k]) else float(cosine[k]),
                    ORIENTATIONS[INVERSE[turned[k]]] if turned[k] else None,
                )
            )
        return StreamResult(batch.ids[j], self.count, tuple(matches), many or more)

    def _by_hash(self, batch: _Batch, j: int) -> tuple[np.ndarray, bool]:
        """Slots within the radius, the most recent ones, and whether there are more."""
        slots = batch.alive(self, j, batch.hash_hits, batch.hash_pairs)
        if len(slots) <= MAX_MATCHES:
            return slots, False
        return slots[np.argpartition(self._serials[slots], -MAX_MATCHES)[-MAX_MATCHES:]], True

    def _by_vector(self, batch: _Batch, j: int) -> tuple[np.ndarray, bool]:
        """Slots whose cosine reaches the threshold, the most recent ones, and whether there are more."""
        slots = batch.alive(self, j, batch.lead_hits, batch.lead_pairs)
        self._asked += 1
        self._candidates += len(slots)
        found, size = np.empty(0, np.int64), 2 * MAX_MATCHES
        while len(slots):
            # The most recent first, in blocks that double: where everything resembles everything the first one suffices.
            if len(slots) > size:
                parted = np.argpartition(self._serials[slots], -size)
                block, slots = slots[parted[-size:]], slots[parted[:-size]]
            else:
                block, slots = slots, slots[:0]
            size *= 2
            if self._middle is not None and batch.middle is not None:
                bound = np.vecdot(self._middle[block], batch.middle[j])
                block = block[bound >= batch.middle_floor]
            block = block[self._cosines(batch, j, block) >= self.rule.cosine]
            found = np.concatenate([found, block])
            if len(found) > MAX_MATCHES:
                return found[np.argsort(self._serials[found])[-MAX_MATCHES:]], True
        return found, False

    def _cosines(self, batch: _Batch, j: int, slots: np.ndarray) -> np.ndarray:
        """Cosine of arrival j and each slot, float64; NaN where there is none."""
        cosine = np.full(len(slots), np.nan)
        if self.dim is not None and batch.rows.squares[j] > 0:
            usable = np.flatnonzero(self._rows.squares[slots] > 0)
            cosine[usable] = pair_cosines(batch.rows, self._rows, np.full(len(usable), j), slots[usable])
        return cosine

    def _remember(self, batch: _Batch, j: int) -> None:
        key, slot = batch.keys[j], self._slots.get(batch.keys[j])
        if slot is not None:
            self._slots.move_to_end(key)
            self.count += 1
            return
        if len(self._slots) < self.capacity:
            slot = len(self._slots)
        else:
            _, slot = self._slots.popitem(last=False)
        self._X[slot], self._Y[slot] = batch.X[j], batch.rows.X[j]
        self._rows.squares[slot] = batch.rows.squares[j]
        self._hashes[slot], self._hashed[slot] = batch.hashes[j], batch.hashed[j]
        self._useful[slot] = batch.useful[j]
        self._turned[slot] = batch.turned[j]
        if self.dim is not None:
            self._lead[slot] = batch.lead[j]
            if self._middle is not None and batch.middle is not None:
                self._middle[slot] = batch.middle[j]
        self._ids[slot] = batch.ids[j]
        self._slots[key] = slot
        self._serials[slot] = batch.serials[j] = self.count
        batch.slots[j] = slot
        self.count += 1

    def _fit_axes(self) -> None:
        """Find principal axes of what is held, when it is time: at the first arrivals, as the window fills, as it drifts."""
        if self.dim is None:
            return
        n = len(self)
        if n + BATCH <= len(self._lead) or len(self._lead) == self.capacity:
            drifted = self._candidates > _TOO_MANY * max(self._asked, 1)
            if not (drifted and self.count - self._fitted_at >= _MIN_INTERVAL * self.capacity):
                return
        held = self._row_set(self._Y[:n])
        if n > _REFIT_SIZES[0] - BATCH and self.rule.cosine is not None:
            latest = np.sort(np.argpartition(self._serials[:n], -min(_LATEST, n))[-_LATEST:])
            coming = self._row_set(self._Y[latest])
            budget = 4.0 * _COORDINATES * (n + len(latest))
            plan = choose_plan(coming, held, self.rule.cosine, NumpyTiles(), budget)
            self._plan = plan if _pays(plan, coming, held, self.rule.cosine) else Plan(held.dim, held.dim)
        # Room up to the next time; what is never touched is never taken from the system.
        room = next((size for size in _REFIT_SIZES if size >= n + BATCH), self.capacity)
        room = min(room, self.capacity)
        plan = self._plan
        self._lead = np.zeros((room, plan.lead + 1), np.float32)
        self._middle = np.zeros((room, plan.middle + 1), np.float32) if plan.middle > plan.lead else None
        for start in range(0, n, 1024):
            part = slice(start, min(start + 1024, n))
            self._lead[part], middle = project(held, part, plan)
            if self._middle is not None:
                self._middle[part] = middle
        self._rows.squares[:n] = held.squares
        self._fitted_at, self._candidates, self._asked = self.count, 0, 0


class _Batch:
    """Arrivals, compared with the window as it was before them and with one another."""

    def __init__(self, window: SlidingWindow, arrivals: Sequence[Arrival], *, compare: bool = True) -> None:
        window._fit_axes()
        b = len(arrivals)
        self.first = window.count
        self.ids = [arrival.id for arrival in arrivals]
        self.keys = [arrival.key for arrival in arrivals]
        self.hashes = np.zeros(b, np.uint64)
        self.hashed = np.zeros(b, bool)
        self.turned = np.zeros((b, _TURNS), np.uint64)
        self.slots = np.full(b, -1, np.int64)
        self.serials = np.full(b, -2, np.int64)
        # No vector is a vector of NaN: wherever the mean lies, it has no direction.
        X = np.full((b, window.dim or 0), np.nan, window._X.dtype)
        self._fill(window, arrivals, X)
        self.useful = self.hashed & informative(self.hashes)
        self.X = X
        self.rows = window._row_set(window._mapped(X))
        nothing: list[np.ndarray] = [np.empty(0, np.int64)] * b
        none = np.zeros((b, b), bool)
        self.hash_hits, self.hash_pairs = nothing, none
        self.lead_hits, self.lead_pairs = nothing, none
        self.lead, self.middle = np.empty((b, 0), np.float32), None
        self.middle_floor = -1.0
        #: Which content a slot held when it was compared.
        self.held = window._serials.copy() if compare else window._serials
        # One thread of BLAS: the products are small, and the other cores have pictures to decode and encode.
        with _blas().limit(limits=1, user_api="blas"):
            if window.dim is not None:
                self.lead, self.middle = project(self.rows, slice(0, b), window._plan)
            if compare:
                self._compare_hashes(window)
                self._compare_vectors(window)

    def __len__(self) -> int:
        return len(self.ids)

    def alive(self, window: SlidingWindow, j: int, hits: list[np.ndarray], pairs: np.ndarray) -> np.ndarray:
        """Slots that arrival j hit, of the window and of the arrivals before it, that still hold what they held."""
        slots = hits[j]
        slots = slots[window._serials[slots] == self.held[slots]]
        earlier = np.flatnonzero(pairs[j, :j] & (self.slots[:j] >= 0))
        earlier = earlier[window._serials[self.slots[earlier]] == self.serials[earlier]]
        return np.concatenate([slots, self.slots[earlier]])

    def _fill(self, window: SlidingWindow, arrivals: Sequence[Arrival], X: np.ndarray) -> None:
        """Put hashes and vectors where they belong; a copy has those of its content."""
        first: dict[str, int] = {}
        for j, arrival in enumerate(arrivals):
            if (slot := window._slots.get(arrival.key)) is not None:
                X[j] = window._X[slot]
                self.hashes[j], self.hashed[j] = window._hashes[slot], window._hashed[slot]
                self.turned[j] = window._turned[slot]
            elif (k := first.setdefault(arrival.key, j)) < j:
                X[j] = X[k]
                self.hashes[j], self.hashed[j] = self.hashes[k], self.hashed[k]
                self.turned[j] = self.turned[k]
            else:
                if arrival.phash is not None:
                    self.hashes[j], self.hashed[j] = arrival.phash, True
                if arrival.turned is not None:
                    self.turned[j] = arrival.turned[1:]
                if arrival.vector is not None:
                    if arrival.vector.shape != X[j].shape:
                        raise UsageError(
                            f"{arrival.id}: a vector of {arrival.vector.shape}, where the window's have {X[j].shape}"
                        )
                    with np.errstate(over="ignore"):
                        X[j] = arrival.vector

    def _compare_hashes(self, window: SlidingWindow) -> None:
        radius = window.rule.hamming
        if radius is None or not self.useful.any():
            return
        n = len(window)
        hashes, useful = window._hashes[:n], window._useful[:n]
        self.hash_hits = [
            np.flatnonzero((np.bitwise_count(hashes ^ value) <= radius) & useful) if tells else empty
            for value, tells, empty in zip(self.hashes, self.useful, self.hash_hits, strict=True)
        ]
        near = np.bitwise_count(self.hashes[:, None] ^ self.hashes) <= radius
        self.hash_pairs = near & self.useful[:, None] & self.useful
        if window.turned_radius < 0:
            return
        for j in np.flatnonzero(self.useful & self.turned.any(axis=1)).tolist():
            found = np.flatnonzero(self._laid(window, j, hashes)[0])
            found = found[useful[found]]
            if len(found):
                self.hash_hits[j] = np.union1d(self.hash_hits[j], found)
            self.hash_pairs[j] |= (self._laid(window, j, self.hashes)[0] > 0) & self.useful

    def turned_from(self, window: SlidingWindow, j: int, slots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """In which orientation arrival j is what each slot holds, int (m,), 0 for none; and the bits between them."""
        if window.turned_radius < 0 or not self.useful[j] or not self.turned[j].any():
            return np.zeros(len(slots), np.int64), np.full(len(slots), 65, np.int16)
        laid, bits = self._laid(window, j, window._hashes[slots])
        return np.where(window._useful[slots], laid, 0), bits

    def _laid(self, window: SlidingWindow, j: int, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `turned_from`, of hashes. One that is as near upright is not turned."""
        laid, least = (
            np.zeros(len(hashes), np.int64),
            np.bitwise_count(hashes ^ self.hashes[j]).astype(np.int16),
        )
        for k, value in enumerate(self.turned[j], 1):
            bits = np.bitwise_count(hashes ^ value).astype(np.int16)
            nearer = (bits <= window.turned_radius) & (bits < least)
            laid[nearer], least[nearer] = k, bits[nearer]
        return laid, least

    def _compare_vectors(self, window: SlidingWindow) -> None:
        if window.rule.cosine is None or window.dim is None:
            return
        floor = window.rule.cosine - coordinate_slack(window.dim)
        tiles = NumpyTiles()
        lead_floor = tiles.floor(floor - summation_slack(self.lead.shape[1]))
        if self.middle is not None:
            self.middle_floor = float(tiles.floor(floor - summation_slack(self.middle.shape[1])))
        self.lead_pairs = self.lead @ self.lead.T >= lead_floor
        n, everything = len(window), slice(None)
        i_parts, slot_parts = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for start in range(0, n, _COLUMNS):
            columns = slice(start, min(start + _COLUMNS, n))
            flat = tiles.scan(self.lead, everything, window._lead, columns, lead_floor, window._scratch)
            i, slots = np.divmod(flat, columns.stop - start)
            i_parts.append(i)
            slot_parts.append(slots + start)
        i, slots = np.concatenate(i_parts), np.concatenate(slot_parts)
        order = np.argsort(i, kind="stable")
        cuts = np.searchsorted(i[order], np.arange(1, len(self)))
        self.lead_hits = np.split(slots[order], cuts)


def _turned_radius(hamming: int | None) -> int:
    """Bits in which hashes of turned pictures may differ; -1 where they prove nothing."""
    if hamming is None or hamming < _TURNED_BITS:
        return -1
    return min(hamming - _TURNED_BITS, _MAX_TURNED)


def _pays(plan: Plan, coming: RowSet, held: RowSet, threshold: float) -> bool:
    """Whether a plan's bounds rule out enough, on a sample, to be worth more than products of whole vectors."""
    asked, _ = project(coming, slice(0, _LATEST), plan)
    sample = np.linspace(0, len(held) - 1, min(4 * _LATEST, len(held))).astype(np.int64)
    some, _ = project(RowSet.of(held.X[sample], held.mean), slice(0, len(sample)), plan)
    share = np.count_nonzero(asked @ some.T >= threshold) / (len(asked) * len(some))
    return bool(share * _LOOK_UP + plan.lead < held.dim)


@cache
def _blas() -> Any:
    """The libraries whose threads are limited; finding them takes milliseconds."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


#: Raised when an older icehouse could no longer read the file rightly.
FORMAT = 2

_ROWS = 4096
_META, _DIGEST = b"icehouse.window", b"icehouse.sha256"


def check_place(path: Path) -> None:
    """Check that a state can be written to `path`, before there is one to be lost."""
    try:
        if path.is_dir():
            raise StoreError(f"the state {path} is a folder; give a file")
        place = path.resolve().parent
        place.mkdir(parents=True, exist_ok=True)
        temp = place / temp_name(path.suffix)
        temp.touch()
        temp.unlink()
    except OSError as error:
        raise StoreError(f"cannot write the state {path}: {error.strerror or error}") from error


def save_window(
    window: SlidingWindow,
    path: Path,
    *,
    space: Mapping[str, Any] | None = None,
    notes: Mapping[str, Any] | None = None,
) -> None:
    """Write a window to `path`, in place of what is there; a link stays one."""
    slots = np.fromiter(window._slots.values(), np.int64, len(window))
    keys = list(window._slots)
    ids = [window._ids[slot] for slot in slots]
    # A file's name need not be text, and a column of texts takes nothing else: such ids are kept beside it as they are.
    odd = {row: name for row, name in enumerate(ids) if not _is_text(name)}
    schema = _schema(window.dim, str(window._X.dtype))
    digest = hashlib.sha256()
    try:
        target = path.resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(target.parent)
        with (
            publish(target) as temp,
            # Vectors do not compress, and their statistics say nothing.
            pq.ParquetWriter(
                temp, schema, compression="none", write_statistics=False, write_page_checksum=True
            ) as writer,
        ):
            for start in range(0, len(slots), _ROWS):
                part = slots[start : start + _ROWS]
                names = [name if _is_text(name) else _as_text(name) for name in ids[start : start + _ROWS]]
                columns = {
                    "id": pa.array(names, pa.string()),
                    "sha256": pa.array(keys[start : start + _ROWS], pa.string()),
                    "position": pa.array(window._serials[part]),
                    "phash": pa.array(window._hashes[part], mask=~window._hashed[part]),
                    "turned": pa.FixedSizeListArray.from_arrays(
                        pa.array(window._turned[part].ravel()), _TURNS
                    ),
                }
                if window.dim is not None:
                    flat = pa.array(np.ascontiguousarray(window._X[part]).reshape(-1))
                    columns["vector"] = pa.FixedSizeListArray.from_arrays(
                        flat, type=schema.field("vector").type
                    )
                rows = pa.table(columns, schema=schema)
                _update(digest, rows)
                writer.write_table(rows)
            meta = {
                "format": FORMAT,
                "rows": len(slots),
                "seen": window.count,
                "dim": window.dim,
                "dtype": str(window._X.dtype),
                "ids": odd,
                "space": dict(space or {}),
                "notes": dict(notes or {}),
            }
            text = json.dumps(meta, sort_keys=True).encode()
            digest.update(text)
            writer.add_key_value_metadata({_META: text, _DIGEST: digest.hexdigest().encode()})
    except OSError as error:
        raise StoreError(f"cannot write the state {path}: {error.strerror or error}") from error


def load_window(
    path: Path, *, rule: Rule, capacity: int, space: Mapping[str, Any] | None = None
) -> tuple[SlidingWindow, dict[str, Any]]:
    """Read a window.

    If `capacity` is less than was saved, what was seen longest ago is left out.
    """
    try:
        with pq.ParquetFile(path, pre_buffer=False, page_checksum_verification=True) as file:
            meta = _meta(path, file)
            _check_space(path, meta, dict(space or {}))
            window = SlidingWindow(capacity, rule=rule, dim=meta["dim"], dtype=meta["dtype"])
            _fill(window, file, meta)
    except (
        OSError, pa.ArrowException, KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, MemoryError
    ) as error:  # fmt: skip
        if isinstance(error, OSError) and error.errno is not None:
            raise StoreError(f"cannot read the state {path}: {error.strerror}") from error
        raise CorruptError(
            f"the state {path} is damaged ({brief(error, 120)}); move it away to begin with an empty window"
        ) from error
    return window, meta["notes"]


def _fill(window: SlidingWindow, file: pq.ParquetFile, meta: dict[str, Any]) -> None:
    digest, done, skipped = hashlib.sha256(), 0, max(meta["rows"] - window.capacity, 0)
    for batch in file.iter_batches(batch_size=_ROWS):
        rows = pa.Table.from_batches([batch])
        _update(digest, rows)
        leave = min(max(skipped - done, 0), len(rows))
        done += len(rows)
        rows = rows.slice(leave)
        first, count = len(window), len(rows)
        slots = slice(first, first + count)
        if window.dim is not None:
            window._X[slots] = to_array(rows["vector"])
        window._hashed[slots] = rows["phash"].is_valid().to_numpy()
        window._hashes[slots] = rows["phash"].fill_null(0).to_numpy()
        if "turned" in rows.column_names:  # states of format 1 have none
            flat = rows["turned"].combine_chunks().flatten().to_numpy()
            window._turned[slots] = flat.reshape(-1, _TURNS)
        window._serials[slots] = rows["position"].to_numpy()
        window._ids[slots] = rows["id"].to_pylist()
        window._slots.update(zip(rows["sha256"].to_pylist(), range(first, first + count), strict=True))
    written = file.metadata.metadata
    digest.update(written[_META])
    if (
        digest.hexdigest().encode() != written[_DIGEST]
        or done != meta["rows"]
        or len(window) != done - skipped
    ):
        raise ValueError("its digest is another")
    # What is left out was seen longest ago: the first rows.
    for row, name in meta.get("ids", {}).items():
        if int(row) >= skipped:
            window._ids[int(row) - skipped] = str(name)
    window.restored(meta["seen"])


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _as_text(name: str) -> str:
    return name.encode("utf-8", "replace").decode()


def _schema(dim: int | None, dtype: str) -> pa.Schema:
    fields = [
        pa.field("id", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("position", pa.int64(), nullable=False),
        pa.field("phash", pa.uint64()),
        pa.field("turned", pa.list_(pa.uint64(), _TURNS), nullable=False),
    ]
    if dim is not None:
        fields.append(pa.field("vector", vector_type(dim, dtype), nullable=False))
    return pa.schema(fields)


def _update(digest: Any, rows: pa.Table) -> None:
    digest.update(json.dumps([rows["id"].to_pylist(), rows["sha256"].to_pylist()]).encode())
    digest.update(rows["position"].to_numpy().astype("<i8").tobytes())
    digest.update(rows["phash"].fill_null(0).to_numpy().astype("<u8").tobytes())
    digest.update(rows["phash"].is_valid().to_numpy().tobytes())
    if "turned" in rows.column_names:
        digest.update(rows["turned"].combine_chunks().flatten().to_numpy().astype("<u8").tobytes())
    if "vector" in rows.column_names:
        digest.update(np.ascontiguousarray(to_array(rows["vector"])))


def _meta(path: Path, file: pq.ParquetFile) -> dict[str, Any]:
    found = (file.metadata.metadata or {}).get(_META)
    if found is None:
        raise StoreError(f"{path} is no state of a stream")
    meta: dict[str, Any] = json.loads(found)
    if meta["format"] > FORMAT:
        raise StoreError(
            f"the state {path} is of format {meta['format']}, and this icehouse knows {FORMAT}; upgrade"
        )
    return meta


def _check_space(path: Path, meta: dict[str, Any], space: dict[str, Any]) -> None:
    then = meta["space"]
    if "fingerprint" in space and then.get("fingerprint") != space["fingerprint"]:
        raise SpaceError(
            f"the state {path} was made with {_named(then)}, not {_named(space)}: they cannot be compared; go on as before, "
            "or begin another state"
        )


def _named(space: dict[str, Any]) -> str:
    if space.get("fingerprint") is None:
        return "no vectors"
    return f"vectors of {space.get('vectors', 'some encoder')} (fingerprint {space['fingerprint']})"
