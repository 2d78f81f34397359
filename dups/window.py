"""Sliding window of a stream: the most recent contents, and what of them a new one resembles.

A window holds the last `capacity` distinct contents: of each its sha256, perceptual hash, vector and texts, and of those
that came among the last `RECENT` arrivals the hashes of their views and a thumbnail. A content that comes again takes no
second place; it becomes the most recent one. Every arrival is judged against the window as it is at that moment, then
remembered, and what was seen longest ago is forgotten.

Under a rule with a local measure (`icehouse.dups.local_scaling`) each content is held against the measure's reference as it
comes, and asks for a cosine of its own.

Arrivals may come in batches, so that one product of matrices serves all of them: they take rows beside what is held, and
are compared with all rows at once. Each is then judged as if it had come alone, by the rows that count at that moment. The
vectors are compared as in `icehouse.dups.join`: a bound on the cosine from the leading principal coordinates rules almost
all out, and the rest are scored from the vectors as they are held, by the one definition of a cosine. So no match is
missed, and verdicts depend neither on batches, nor on the axes, nor on threads.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from ..data.images import ORIENTATIONS
from ..errors import UsageError
from .agreements import StreamPictures
from .confirm import INVERSE
from .default_calibration import measure_digest
from .hashing import (
    THUMB,
    VIEWS,
    RecentViews,
    ViewHashes,
    informative,
    near_views,
)
from .join import (
    MAX_ASKED,
    Asked,
    NumpyTiles,
    Plan,
    RowSet,
    TorchTiles,
    asking_columns,
    choose_plan,
    coordinate_slack,
    has_bfloat16,
    pair_cosines,
    project,
)
from .local_scaling import RADIUS, Neighbourhoods
from .rule import Rule
from .variants import DETAIL, EVIDENCE, PICTURE, Overlays, Policy, differ_in_one_place, texts_differ
from .window_rules import Held, Rules, beyond_doubt, check_window_rule, settle, suspects_of, turned_radius


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
    views: np.ndarray | None = None  # uint64 (VIEWS,): hashes of its views
    thumb: np.ndarray | None = None  # uint8 (64, 64)
    text: str | None = None  # what comes with the picture
    path: str | None = None  # its file
    grey: np.ndarray | None = None  # of what has no file: the picture, as `StreamPictures` keeps it


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
    #: how much the pair stands out among its neighbours; None under a rule without a local measure
    evidence: float | None = None
    #: what the two say differently: their "text", or words in the "picture"; or "detail", which shows no one picture
    differs: str | None = None
    variant: bool = False  # whether they are no duplicates for that

    @property
    def kind(self) -> str:
        """Strongest evidence: "exact", "perceptual" or "embedding"; or "variant"."""
        if self.variant:
            return "variant"
        return "exact" if self.exact else "perceptual" if self.perceptual else "embedding"


@dataclass(frozen=True)
class StreamResult:
    """Result for an arrival."""

    id: str
    position: int | None  # number in the stream, from 0; None where it could not be judged
    #: best first: exact, then perceptual by fewest bits, then by highest cosine, then variants; of equals the oldest
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
        """Tell in one word: "new", "exact", "perceptual", "embedding", "variant", or "error"."""
        if self.error is not None:
            return "error"
        return self.matches[0].kind if self.matches else "new"


DEFAULT_WINDOW = 100_000

#: Arrivals back to which views and thumbnails are compared: a millisecond for each new one, and 5 KB for each held.
RECENT = 8192

#: Contents that are held against a reference at once.
_HELD_AGAINST = 8

#: Characters that are kept of a text, and texts of copies of one content.
TEXT_CHARS, _TEXTS = 5000, 8

#: Matches of one arrival that a stage looks for, the most recent first; the best of them is told.
MAX_MATCHES = 256

TURNS = len(ORIENTATIONS) - 1

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

#: Bound of the product of two rows' lengths, with the columns that `asking_columns` adds to them.
_REACH = Asked(np.array([-1.0 * MAX_ASKED]), np.array([-1.0 * MAX_ASKED])).reach


class SlidingWindow:
    """A window over the most recent distinct contents of a stream.

    Memory does not grow once the window is full (`bytes`): a content takes ``2 * dim`` bytes for its float16 vector, as much
    again under a rule with a matrix, up to 1,280 for coordinates, and about 360 for the rest, its id's length aside. 100,000
    contents of 1280 dimensions take 256 MB and, all in all, about 400. Where leading coordinates tell too little to rule
    anything out, all of them are kept in float32: 512 MB more. Vectors are compared as they are held, in `dtype`.
    """

    def __init__(
        self,
        capacity: int = DEFAULT_WINDOW,
        *,
        rule: Rule | Rules,
        dim: int | None = None,
        dtype: str = "float16",
        variants: Policy = "keep",
        pictures: StreamPictures | None = None,
        recent: int | None = None,
    ) -> None:
        """Pairs in doubt are settled by `pictures`, where the rules ask for that; of `recent` arrivals views are kept."""
        if capacity < 1:
            raise UsageError(f"a window holds at least 1 content, not {capacity}")
        self.capacity, self.dim, self.variants = capacity, dim, variants
        self.rules = rule if isinstance(rule, Rules) else Rules(rule)
        self.pictures = pictures if self.rules.registers else None
        self.rule = Rule()
        self.count = 0
        rows = capacity + BATCH
        try:
            self._ids: list[str] = [""] * rows
            self._keys: list[str] = [""] * rows
            self._texts: list[tuple[str, ...]] = [()] * rows
            self._paths: list[str | None] = [None] * rows
            self._X = np.zeros((rows, dim or 0), dtype)
        except (MemoryError, OverflowError, ValueError) as error:
            raise UsageError(
                f"no memory for a window of {capacity:,} contents; give a smaller one"
            ) from error
        #: Row of each key that is held, the one seen longest ago first; and which rows these are.
        self._slots: OrderedDict[str, int] = OrderedDict()
        self._alive = np.zeros(rows, bool)
        self._top = 0  # rows that were ever used
        self._latest: _Batch | None = None
        self._matrix: np.ndarray | None = None
        self._maps = False
        #: The vectors as the rule compares them: `_X`, or what its map makes of them.
        self._Y = self._X
        self._rows = self._row_set(self._Y)
        #: `Neighbourhoods` of each content, and the least cosine that it asks for.
        self._around = np.zeros((4, rows))
        self._asks = np.zeros(rows)
        self._hashes = np.zeros(rows, np.uint64)
        self._hashed = np.zeros(rows, bool)
        self._useful = np.zeros(rows, bool)
        #: Hashes of the turned pictures; 0 where they are not known.
        self._turned = np.zeros((rows, TURNS), np.uint64)
        self._serials = np.full(rows, -1, np.int64)
        self.recent = RecentViews(RECENT if recent is None else recent)
        self._plan = Plan(dim or 0, dim or 0)
        self._lead = Coordinates(0, 0, 1.0)
        self._fitted_at = 0
        self._candidates = self._asked = 0
        self._until: int | None = None
        self._review(first=True)

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
        # Vectors that are compared as they are held are there once.
        arrays = {id(value): value for value in vars(self).values() if isinstance(value, np.ndarray)}
        held = [*arrays.values(), self._rows.squares, *self.recent.arrays]
        coordinates = self._lead.data.itemsize * self._lead.data.shape[1] * self.capacity
        return sum(array.nbytes for array in held) + coordinates

    def judge(self, arrivals: Sequence[Arrival]) -> Iterator[StreamResult]:
        """Judge and remember arrivals, one at a time as the verdicts are read; what is not read has not arrived."""
        for batch in self._batches(arrivals):
            for j in range(len(batch)):
                if self._latest is not batch:
                    raise UsageError("the window was given other arrivals before all of these were judged")
                verdict = self._result(batch, j)
                self._remember(batch, j)
                yield verdict

    def compare(self, arrivals: Sequence[Arrival]) -> list[StreamResult]:
        """Judge arrivals by what is held, each as if it came next, and remember none of them."""
        self._review()
        found = []
        for start in range(0, len(arrivals), BATCH):
            # What is not remembered is no match of those after it.
            batch = self._take(arrivals[start : start + BATCH])
            found += [self._result(batch, j) for j in range(len(batch))]
        return found

    def remember(self, arrivals: Sequence[Arrival]) -> None:
        """Take arrivals into the window without judging them."""
        for batch in self._batches(arrivals, compare=False):
            for j in range(len(batch)):
                self._remember(batch, j)

    def restored(self, seen: int, measure: str | None = None) -> None:
        """Finish what `icehouse.dups.window_state.load_window` put in: `seen` arrivals have been judged so far.

        `measure` is the digest of the local measure whose neighbourhoods were put in, too.
        """
        n = len(self)
        self.count, self._top = seen, max(self._top, n)
        self._alive[list(self._slots.values())] = True
        self._useful[:n] = self._hashed[:n] & informative(self._hashes[:n])
        self._review(first=True, measure=measure)

    def go_by(self, rules: Rules, pictures: StreamPictures | None, around: np.ndarray | None = None) -> None:
        """Go by other rules from now on; `around` (4, n) are the neighbourhoods of what is held, if these are known."""
        self.rules, self.pictures = rules, pictures if rules.registers else None
        measure = rules.at(self).local
        if around is not None and measure is not None:
            self._around[:, : len(self)] = around
        self.restored(self.count, None if around is None or measure is None else measure_digest(measure))

    def held(self) -> Held:
        """What is held and has a vector."""
        n = self._top
        slots = np.flatnonzero(self._alive[:n] & (RowSet.of(self._X[:n]).measure().squares > 0))
        keys = np.empty(n, "U64")
        keys[list(self._slots.values())] = list(self._slots)
        views, _ = self.recent.of(self._serials[slots], self.count)
        hashes = self._hashes[slots] * self._useful[slots]
        return Held(keys[slots], self._X[slots], hashes, ViewHashes(views, informative(views), 0))

    @property
    def local(self) -> bool:
        """Whether contents are compared with their own neighbourhoods."""
        return self.rule.local is not None and self.rule.evidence is not None and self.dim is not None

    @property
    def bound(self) -> tuple[float, float]:
        """Floor of the products of coordinates, and what bounds the product of two lengths."""
        # What each content asks for stands in two more columns, so that all pairs have one floor.
        return (1.0, _REACH) if self.local else (self.rule.least_cosine, 1.0)

    @property
    def looks_at_views(self) -> bool:
        """Whether views tell anything by the rule in force."""
        rule = self.rule
        by_evidence = self.local and rule.local is not None and rule.local.hashes is not None
        return rule.hamming is not None and (
            by_evidence or (rule.view_bits or 0) > -1 or rule.agreement is not None
        )

    def _review(self, *, first: bool = False, measure: str | None = None) -> int:
        """Go by another rule if it is time; how many arrivals may come before that is to be asked again."""
        held = len(self)
        if first or (self._until is not None and held >= self._until):
            self._adopt(self.rules.at(self), first=first, measure=measure)
            self._until = self.rules.until(held)
        return BATCH if self._until is None else max(min(BATCH, self._until - held), 1)

    def _adopt(self, rule: Rule, *, first: bool, measure: str | None) -> None:
        check_window_rule(rule, self.dim)
        if self.pictures is None:
            rule = replace(rule, suspected=None)
        before, self.rule = self.rule, rule
        self.turned_radius = turned_radius(rule.hamming)
        maps = self.dim is not None and (rule.matrix is not None or rule.local is not None)
        same = before.mean is rule.mean and before.matrix is rule.matrix and before.local is rule.local
        if first or not same:
            self._maps = maps
            self._matrix = None if rule.matrix is None or not maps else rule.matrix.astype(np.float64)
            self._Y = np.zeros_like(self._X) if maps else self._X
            self._rows = self._row_set(self._Y)
            self._map_held(measure)
            # What was known of the axes is of other vectors.
            self._plan = Plan(self.dim or 0, self.dim or 0)
            self._lead = Coordinates(0, 0, 1.0)
            if len(self):
                self._fit_axes()
        elif self.local and len(self):
            self._ask()

    def _map_held(self, measure: str | None) -> None:
        """Take what is held to where the rule compares it, and hold it against its reference unless that was done."""
        if not self._maps:
            return
        known = (
            measure is not None and self.rule.local is not None and measure == measure_digest(self.rule.local)
        )
        for start in range(0, self._top, 1024):
            part = slice(start, min(start + 1024, self._top))
            units = self._units(self._X[part])
            self._Y[part] = units
            if self.local and not known:
                views = self.recent.of(self._serials[part], self.count)[0]
                self._around[:, part] = self._neighbourhoods(units, views)

    def _neighbourhoods(self, units: np.ndarray, views: np.ndarray) -> np.ndarray:
        """Numbers of `Neighbourhoods`, (4, n), of vectors as the rule compares them and views (n, VIEWS), 0 for none."""
        assert self.rule.local is not None
        seen = None if self.rule.local.hashes is None else ViewHashes(views, informative(views), 0)
        with _blas().limit(limits=1, user_api="blas"):
            made = self.rule.local.neighbourhoods(units.astype(np.float32), seen, block=_HELD_AGAINST)
        return np.stack([made.near, made.spread, made.bits, made.sigma])

    def _asking(self, around: np.ndarray, squares: np.ndarray) -> np.ndarray:
        """Least cosine that contents ask for, by their neighbourhoods (4, n); of what has no direction, too much."""
        assert self.rule.least_evidence is not None
        asked = np.maximum(Neighbourhoods(*around).asked(self.rule.least_evidence), -MAX_ASKED)
        return np.where(squares > 0, asked, MAX_ASKED)

    def _ask(self) -> None:
        """Write down what each content asks for, beside its coordinates too."""
        n = min(self._top, len(self._lead))
        self._asks[:n] = self._asking(self._around[:, :n], self._rows.squares[:n])
        self._lead[:n] = asking_columns(self._lead[:n, :-2], self._asks[:n], right=True)

    def _row_set(self, X: np.ndarray) -> RowSet:
        """Rows to be compared, of `_Y` or alike."""
        return RowSet.of(X, None if self.dim is None or self._maps else self.rule.mean)

    def _units(self, X: np.ndarray) -> np.ndarray:
        """Take vectors to where the rule compares them: as they are, or float32 of unit length or 0."""
        if not self._maps:
            return X
        units, _ = RowSet.of(X, self.rule.mean).directions(slice(None))
        if self._matrix is not None:
            # On threads a product so small waits for them longer than it takes.
            with _blas().limit(limits=1, user_api="blas"):
                units = units @ self._matrix
            lengths = np.sqrt(np.square(units).sum(axis=1, keepdims=True))
            units /= np.where(lengths > 0, lengths, 1)
        # BLAS sums a row in an order that depends on where it stands; rounded, it is the same wherever that is.
        return np.round(units, 7).astype(np.float32)

    def _batches(self, arrivals: Sequence[Arrival], *, compare: bool = True) -> Iterator[_Batch]:
        """Take arrivals, as many at a time as go by one rule."""
        start = 0
        while start < len(arrivals):
            batch = self._take(arrivals[start : start + self._review()], compare=compare)
            start += len(batch)
            yield batch

    def _take(self, arrivals: Sequence[Arrival], *, compare: bool = True) -> _Batch:
        """Give arrivals rows, and compare them with all rows, their own among them; none is held yet."""
        self._fit_axes()
        self._latest = batch = _Batch(arrivals)
        new = self._fill(batch)
        rows = batch.slots[new]
        self._useful[rows] = self._hashed[rows] & informative(self._hashes[rows])
        if self._maps:
            units = self._units(self._X[rows])
            self._Y[rows] = units
            if self.local:
                self._around[:, rows] = self._neighbourhoods(units, batch.views[new])
        # One thread: the products are small, and the other cores have pictures to decode and encode.
        with _blas().limit(limits=1):
            if self.dim is not None:
                vectors = self._row_set(self._Y[batch.slots])
                lead, _ = project(vectors, slice(0, len(batch)), self._plan)
                self._rows.squares[batch.slots] = vectors.squares
                if self.local:
                    self._asks[rows] = self._asking(self._around[:, rows], self._rows.squares[rows])
                self._lead[rows] = self.asking(lead[new], self._asks[rows], right=True)
                if compare and (self.local or self.rule.cosine is not None):
                    least, reach = self.bound
                    left = self.asking(lead, self._asks[batch.slots], right=False)
                    least -= coordinate_slack(self.dim)
                    i, slots = self._lead.reaching(left, least, reach, self._top)
                    order = np.argsort(i, kind="stable")
                    batch.lead_hits = np.split(
                        slots[order], np.searchsorted(i[order], np.arange(1, len(batch)))
                    )
            if compare:
                batch.hash_hits = [self._near_hashes(row) for row in batch.slots.tolist()]
                batch.view_hits = [self._near_views(batch, j) for j in range(len(batch))]
        return batch

    def _fill(self, batch: _Batch) -> np.ndarray:
        """Put hashes and vectors of new contents in free rows; copies have the rows of their contents.

        Gives the places of the first of each new content in the batch.
        """
        free = iter(np.flatnonzero(~self._alive)[: len(batch)].tolist())
        first: dict[str, int] = {}
        for j, arrival in enumerate(batch.arrivals):
            if (slot := self._slots.get(arrival.key)) is not None:
                batch.slots[j] = slot
                serial = self._serials[[slot]]
                if arrival.views is None and self.recent.holds(serial, self.count)[0]:
                    thumb = self.recent.thumbs_of(serial)[0] if self.recent.pictured(serial)[0] else None
                    batch.see(j, self.recent.of(serial, self.count)[0][0], thumb)
                else:
                    batch.see(j, arrival.views, arrival.thumb)
            elif (k := first.setdefault(arrival.key, j)) < j:
                batch.slots[j] = batch.slots[k]
                batch.see(j, batch.views[k], batch.thumbs[k] if batch.pictured[k] else None)
            else:
                batch.slots[j] = row = next(free)
                batch.see(j, arrival.views, arrival.thumb)
                # What it held before is no longer what others are near to.
                self._serials[row] = -1
                self._hashes[row], self._hashed[row] = arrival.phash or 0, arrival.phash is not None
                self._turned[row] = 0 if arrival.turned is None else arrival.turned[1:]
                self._X[row] = self._vector(arrival)
                self._top = max(self._top, row + 1)
        return np.array(list(first.values()), np.int64)

    def _vector(self, arrival: Arrival) -> np.ndarray | float:
        """Vector of an arrival as it is held; without one NaN, which has no direction wherever the mean lies."""
        if arrival.vector is None:
            return np.nan
        if arrival.vector.shape != self._X.shape[1:]:
            raise UsageError(
                f"{arrival.id}: a vector of {arrival.vector.shape}, where the window's have {self._X.shape[1:]}"
            )
        with np.errstate(over="ignore"):
            return arrival.vector.astype(self._X.dtype)

    def _near_hashes(self, row: int) -> np.ndarray:
        """Rows whose hashes are within the radius of a row's, upright or turned."""
        radius = self.rule.hamming
        if radius is None or radius < 0 or not self._useful[row]:
            return np.empty(0, np.int64)
        every = slice(0, self._top)
        near = np.bitwise_count(self._hashes[every] ^ self._hashes[row]) <= radius
        return np.flatnonzero((near & self._useful[every]) | (self._turned_from(row, every)[0] > 0))

    def _near_views(self, batch: _Batch, j: int) -> np.ndarray:
        """Rows of the latest arrivals, and of those before it in the batch, with views near those of arrival j."""
        views = batch.views[j]
        if not self.looks_at_views or not views.any():
            return np.empty(0, np.int64)
        agreement = self.rule.agreement is not None
        slots, serials = self.recent.near(views, RADIUS, agreement)
        # What is held already, too: it may have left the window by then, and come again.
        beside = batch.slots[:j][near_views(views, batch.views[:j], RADIUS, agreement)]
        # A row may have been given to another content since.
        return np.concatenate([slots[self._serials[slots] == serials], beside])

    def _result(self, batch: _Batch, j: int) -> StreamResult:
        arrival, row = batch.arrivals[j], int(batch.slots[j])
        if self.pictures is not None and arrival.grey is not None:
            self.pictures.keep(arrival.key, arrival.grey)
        own = self._slots.get(arrival.key)
        by_hash, many = self._by_hash(batch, j)
        by_vector, more = self._by_vector(batch, j)
        seen = bool(batch.views[j].any()) and (
            own is None or self.recent.holds(self._serials[own], self.count)
        )
        by_view = self._held(batch.view_hits[j]) if seen else np.empty(0, np.int64)
        by_view = by_view[self.recent.holds(self._serials[by_view], self.count)]
        slots = np.union1d(np.union1d(by_hash, by_vector), by_view)
        if own is not None:
            slots = np.union1d(slots, [own])
        if not len(slots):
            return StreamResult(arrival.id, self.count)
        hamming = np.bitwise_count(self._hashes[slots] ^ self._hashes[row]).astype(np.int16)
        hamming[~(self._hashed[slots] & self._hashed[row])] = -1
        cosine = self._cosines(row, slots)
        exact = slots == (-1 if own is None else own)
        whole = self._useful[slots] & self._useful[row] & (hamming <= (self.rule.hamming or 0))
        perceptual = whole & (self.rule.hamming is not None)
        nearest, parts, thumbs = self._seen_apart(batch, j, slots, seen)
        perceptual |= parts
        evidence = self._evidence(row, slots, cosine, nearest)
        embedding = np.zeros(len(slots), bool) if self.rule.cosine is None else cosine >= self.rule.cosine
        if self.local:
            # The bounds ask by cosines; whichever way that is rounded, a pair that they find is found.
            least = self.rule.least_evidence or 0
            embedding = (evidence >= least) | (cosine >= self._least(row, slots))
        turned, bits = self._turned_from(row, slots)
        perceptual |= turned > 0
        suspected = suspects_of(self.rule, evidence, cosine, nearest) & ~perceptual
        embedding |= suspected & ~(nearest <= RADIUS)
        perceptual |= suspected & (nearest <= RADIUS) & ~embedding
        hamming = np.where(turned > 0, bits, np.where(hamming < 0, hamming, np.minimum(hamming, nearest)))
        differs = np.zeros(len(slots), np.int8)
        found = np.flatnonzero((perceptual | embedding) & ~exact)
        differs[found], apart = self._differences(batch, j, slots[found], thumbs[found])
        refuted = np.zeros(len(slots), bool)
        if self.rule.levels is not None:
            refuted[found] = (apart > self.rule.levels) & (differs[found] == 0)
        if self.rule.alike is not None:
            refuted[found] |= (cosine[found] < self.rule.alike) & (differs[found] == 0)
        kept = np.flatnonzero(exact | ((perceptual | embedding) & ~refuted))
        if self.pictures is not None:
            # Where other words stand on the same picture, all of them have much in common.
            template = bool((differs[kept] == PICTURE).any())
            # Where unrelated pictures have near hashes, these leave a doubt however rare they are.
            by_vector = evidence
            if self.rule.hashes_prove_little:
                by_vector = self._evidence(row, slots, cosine, np.full(len(slots), 65, np.int16))
            sure = exact | (beyond_doubt(self.rule, by_vector, perceptual, embedding) & (not template))
            asked = kept[~sure[kept] & (differs[kept] == 0)]
            asked = asked[np.argsort(nearest[asked], kind="stable")]
            held, vague = settle(
                self.pictures,
                self.rule,
                (arrival.key, arrival.path),
                [(self._keys[slot], self._paths[slot]) for slot in slots[asked].tolist()],
                by_vector[asked],
                whole[asked],
                suspected[asked],
                strict=template,
            )
            differs[asked[vague]] = DETAIL
            kept = np.setdiff1d(kept, asked[~held])
        if len(kept) > 2 * MAX_MATCHES + 1:
            age = np.where(exact[kept], -1, self.count - self._serials[slots[kept]])
            kept, many = kept[np.argsort(age)[: 2 * MAX_MATCHES + 1]], True
        variant = (differs > 0) & ((self.variants == "keep") | (differs == DETAIL))
        rank = np.where(exact, 0, np.where(variant, 3, np.where(perceptual, 1, 2)))
        bits = np.where(rank == 1, hamming, 0)
        order = np.lexsort((self._serials[slots], -np.nan_to_num(cosine, nan=-2.0), bits, rank))
        matches = []
        for k in order[np.isin(order, kept)].tolist():
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
                    None if np.isnan(evidence[k]) else float(evidence[k]),
                    EVIDENCE[differs[k]],
                    bool(variant[k]),
                )
            )
        return StreamResult(arrival.id, self.count, tuple(matches), many or more)

    def _seen_apart(
        self, batch: _Batch, j: int, slots: np.ndarray, seen: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """By views: bits between the nearest, int16, 65 for none; whether that proves it; and which have a thumbnail."""
        nearest, found = np.full(len(slots), 65, np.int16), np.zeros(len(slots), bool)
        views, there = self.recent.of(self._serials[slots], self.count)
        thumbs = there & seen & batch.pictured[j]
        thumbs[thumbs] = self.recent.pictured(self._serials[slots[thumbs]])
        at = np.flatnonzero(there & seen)
        if self.rule.hamming is None or not len(at):
            return nearest, found, thumbs
        hashes = np.concatenate([batch.views[j][None], views[at]])
        radius = -1 if self.rule.view_bits is None else self.rule.view_bits
        pairs = ViewHashes(hashes, informative(hashes), radius, self.rule.agreement)
        one, other = np.zeros(len(at), np.int64), np.arange(1, len(at) + 1)
        nearest[at] = pairs.distance(one, other)
        found[at] = pairs.found(one, other, nearest[at])
        return nearest, found, thumbs

    def _evidence(self, row: int, slots: np.ndarray, cosine: np.ndarray, nearest: np.ndarray) -> np.ndarray:
        """How much a row stands out with each slot, float64; NaN where that is not asked, or a vector is missing."""
        told = np.full(len(slots), np.nan)
        known = np.flatnonzero(~np.isnan(cosine))
        if self.local and len(known):
            assert self.rule.local is not None
            both = self._around[:, np.concatenate([[row], slots[known]])]
            one, other = np.zeros(len(known), np.int64), np.arange(1, len(known) + 1)
            told[known] = Neighbourhoods(*both).evidence(
                one, other, cosine[known], nearest[known], self.rule.local.quantile
            )
        return told

    def _differences(
        self, batch: _Batch, j: int, slots: np.ndarray, thumbs: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """What arrival j says otherwise than each slot, int8, a place in `EVIDENCE`; and how far their levels are apart.

        `thumbs` says with which of them it can be laid over each other; of the others the levels are NaN.
        """
        told, apart = np.zeros(len(slots), np.int8), np.full(len(slots), np.nan)
        own = self._slots.get(batch.arrivals[j].key)
        texts = batch.texts[j] or (() if own is None else self._texts[own])
        if texts:
            told[[texts_differ(texts, self._texts[slot]) for slot in slots.tolist()]] = 1
        at = np.flatnonzero(thumbs & (told == 0))
        if len(at):
            pictures = np.concatenate(
                [batch.thumbs[j][None], self.recent.thumbs_of(self._serials[slots[at]])]
            )
            overlays = Overlays(
                lambda numbers: (pictures[numbers], np.ones(len(numbers), bool)), np.arange(len(pictures))
            )
            one, other = np.zeros(len(at), np.int64), np.arange(1, len(at) + 1)
            differ = overlays.of(one, other).differ
            if differ.any():
                # Of a template, on which other words are seen to stand.
                differ |= differ_in_one_place(pictures[0], pictures[1:])
            told[at[differ]] = PICTURE
            if self.rule.levels is not None:
                apart[at] = overlays.levels_apart(one, other)
        return told, apart

    def _held(self, slots: np.ndarray) -> np.ndarray:
        """Those of some slots that are held at this moment."""
        return slots[self._alive[slots]]

    def _by_hash(self, batch: _Batch, j: int) -> tuple[np.ndarray, bool]:
        """Slots within the radius, the most recent ones, and whether there are more."""
        slots = self._held(batch.hash_hits[j])
        if len(slots) <= MAX_MATCHES:
            return slots, False
        return slots[np.argpartition(self._serials[slots], -MAX_MATCHES)[-MAX_MATCHES:]], True

    def _by_vector(self, batch: _Batch, j: int) -> tuple[np.ndarray, bool]:
        """Slots whose cosine reaches the threshold, the most recent ones, and whether there are more."""
        row, slots = int(batch.slots[j]), self._held(batch.lead_hits[j])
        self._asked += 1
        self._candidates += len(slots)
        slots = slots[np.argsort(-self._serials[slots])]
        found, start, size = np.empty(0, np.int64), 0, 2 * MAX_MATCHES
        while start < len(slots):
            # In blocks that double: where everything resembles everything the first one suffices.
            block = slots[start : start + size]
            start, size = start + size, 2 * size
            found = np.concatenate([found, block[self._cosines(row, block) >= self._least(row, block)]])
            if len(found) > MAX_MATCHES:
                return found[:MAX_MATCHES], True
        return found, False

    def _least(self, row: int, slots: np.ndarray) -> np.ndarray | float:
        """Least cosine of a row with each slot where hashes say nothing."""
        # As `Asked.of` has it.
        return (self._asks[row] + self._asks[slots]) / 2 if self.local else self.rule.least_cosine

    def _cosines(self, row: int, slots: np.ndarray) -> np.ndarray:
        """Cosine of a row and each slot, float64; NaN where there is none."""
        cosine = np.full(len(slots), np.nan)
        if self.dim is not None and self._rows.squares[row] > 0:
            usable = np.flatnonzero(self._rows.squares[slots] > 0)
            cosine[usable] = pair_cosines(self._rows, self._rows, np.full(len(usable), row), slots[usable])
        return cosine

    def _turned_from(self, row: int, slots: np.ndarray | slice) -> tuple[np.ndarray, np.ndarray]:
        """In which orientation a row is what each slot holds, int (m,), 0 for none; and the bits between them, or 65.

        One that is as near upright is not turned.
        """
        hashes, useful = self._hashes[slots], self._useful[slots]
        laid, least = np.zeros(len(hashes), np.int64), np.full(len(hashes), 65, np.int16)
        if self.turned_radius < 0 or not self._useful[row] or not self._turned[row].any():
            return laid, least
        least = np.bitwise_count(hashes ^ self._hashes[row]).astype(np.int16)
        for k, value in enumerate(self._turned[row], 1):
            bits = np.bitwise_count(hashes ^ value).astype(np.int16)
            nearer = (bits <= self.turned_radius) & (bits < least)
            laid[nearer], least[nearer] = k, bits[nearer]
        return laid * useful, least

    def _remember(self, batch: _Batch, j: int) -> None:
        arrival, row = batch.arrivals[j], int(batch.slots[j])
        self.count += 1
        if (slot := self._slots.get(arrival.key)) is not None:
            texts = [text for text in batch.texts[j] if text not in self._texts[slot]]
            self._texts[slot] = (*self._texts[slot], *texts)[:_TEXTS]
            self._slots.move_to_end(arrival.key)
            self._paths[slot] = arrival.path or self._paths[slot]
            return
        if len(self._slots) == self.capacity:
            self._alive[self._slots.popitem(last=False)[1]] = False
        serial = self.count - 1
        self.recent.put(serial, row, batch.views[j], batch.thumbs[j] if batch.pictured[j] else None)
        self._ids[row], self._texts[row] = arrival.id, batch.texts[j]
        self._keys[row], self._paths[row] = arrival.key, arrival.path
        self._serials[row], self._alive[row], self._slots[arrival.key] = serial, True, row

    def _fit_axes(self) -> None:
        """Find principal axes of what is held, when it is time: at the first arrivals, as the window fills, as it drifts."""
        if self.dim is None:
            return
        n, most = self._top, self.capacity + BATCH
        if n + BATCH <= len(self._lead) or len(self._lead) == most:
            drifted = self._candidates > _TOO_MANY * max(self._asked, 1)
            if not (drifted and self.count - self._fitted_at >= _MIN_INTERVAL * self.capacity):
                return
        held = self._row_set(self._Y[:n])
        if self.local:
            self._asks[:n] = self._asking(self._around[:, :n], held.measure().squares)
        if n > _REFIT_SIZES[0] - BATCH and (self.rule.cosine is not None or self.local):
            latest = np.sort(np.argpartition(self._serials[:n], -min(_LATEST, n))[-_LATEST:])
            coming = self._row_set(self._Y[latest])
            budget = 4.0 * _COORDINATES * (n + len(latest))
            least: float | Asked = self.rule.cosine or 0.0
            if self.local:
                least = Asked(self._asks[latest], self._asks[:n])
            plan = choose_plan(coming, held, least, NumpyTiles(), budget)
            # One bound: so few are compared that the finer of two costs no more than it saves.
            plan = replace(plan, lead=plan.middle)
            self._plan = plan if pays(plan, coming, held, least) else Plan(held.dim, held.dim)
        # Room up to the next time; what is never touched is never taken from the system.
        room = min(next((size for size in _REFIT_SIZES if size >= n + BATCH), most), most)
        plan = self._plan
        self._lead = Coordinates(room, plan.lead + 1 + 2 * self.local, self.bound[0])
        for start in range(0, n, 1024):
            part = slice(start, min(start + 1024, n))
            self._lead[part] = self.asking(project(held, part, plan)[0], self._asks[part], right=True)
        self._rows.squares[:n] = held.squares
        self._fitted_at, self._candidates, self._asked = self.count, 0, 0

    def asking(self, coordinates: np.ndarray, asked: np.ndarray, *, right: bool) -> np.ndarray:
        """Coordinates, with what their contents ask for beside them where each asks for something of its own."""
        return asking_columns(coordinates, asked, right=right) if self.local else coordinates


class _Batch:
    """Arrivals, the rows that they have or would take, and the rows that each is near to, held or not."""

    def __init__(self, arrivals: Sequence[Arrival]) -> None:
        b = len(arrivals)
        self.arrivals = arrivals
        self.texts = [_kept_text(arrival.text) for arrival in arrivals]
        self.slots = np.zeros(b, np.int64)
        self.views = np.zeros((b, VIEWS), np.uint64)
        self.thumbs = np.zeros((b, THUMB, THUMB), np.uint8)
        self.pictured = np.zeros(b, bool)
        self.hash_hits = self.view_hits = self.lead_hits = [np.empty(0, np.int64)] * b

    def __len__(self) -> int:
        return len(self.arrivals)

    def see(self, j: int, views: np.ndarray | None, thumb: np.ndarray | None) -> None:
        """Take over what an arrival brings of its views."""
        if views is not None:
            self.views[j] = views
        if thumb is not None:
            self.thumbs[j], self.pictured[j] = thumb, True


class Coordinates:
    """Rows of float32 that are replaced one by one, and which of them have products that reach a floor.

    They are held in bfloat16, which halves what one product has to read, where the processor multiplies that and torch is
    loaded anyway; the floor is lowered by what is rounded away.
    """

    #: By which bfloat16, of eight bits, moves a row at most, in parts of its length.
    _MOVED = 2.0**-9 * 1.001

    def __init__(self, rows: int, width: int, least: float) -> None:
        """`least` is the floor, about; products below it are of no interest."""
        # Bits of negative floors are not in the order of their values.
        halved = "torch" in sys.modules and has_bfloat16() and least > 0.25
        self._tiles = TorchTiles(rows=BATCH, columns=8192) if halved else NumpyTiles(rows=BATCH, columns=8192)
        self._torch = self._tiles.torch if isinstance(self._tiles, TorchTiles) else None
        #: Float32, or the bits of bfloat16.
        self.data = np.zeros((rows, width), np.int16 if halved else np.float32)

    def __len__(self) -> int:
        return len(self.data)

    def __setitem__(self, at: Any, values: np.ndarray) -> None:
        if self._torch is not None:
            halved = self._torch.from_numpy(np.ascontiguousarray(values)).bfloat16()
            values = halved.view(self._torch.int16).numpy()
        self.data[at] = values

    def __getitem__(self, at: Any) -> np.ndarray:
        rows: np.ndarray = self.data[at]
        return rows if self._torch is None else (rows.astype(np.uint32) << 16).view(np.float32)

    def reaching(
        self, left: np.ndarray, floor: float, reach: float, rows: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows of `left`, float32 (m, width), and of the first `rows` held whose products reach a floor, and perhaps more.

        `reach` bounds the product of two rows' lengths, and m is at most `BATCH`.
        """
        tiles, one = self._tiles, self._tiles.load(left)
        held: Any = self.data
        if self._torch is not None:
            held = self._torch.from_numpy(self.data).view(self._torch.bfloat16), self._MOVED
        floor -= reach * tiles.slack(one, held)
        if self._torch is not None and floor <= 0:
            return np.divmod(np.arange(len(left) * rows), max(rows, 1))
        least, scratch = tiles.floor(floor), tiles.scratch()
        found = [(np.empty(0, np.int64), np.empty(0, np.int64))]
        for start in range(0, rows, tiles.columns):
            columns = slice(start, min(start + tiles.columns, rows))
            flat = tiles.scan(one, slice(None), held, columns, least, scratch)
            i, j = np.divmod(flat, columns.stop - start)
            found.append((i, j + start))
        i, j = (np.concatenate(side) for side in zip(*found, strict=True))
        return i, j


#: Looking a candidate up costs as much as so many coordinates in a product; and rows that a plan is tried on.
_LOOK_UP, _SAMPLED = 20_000, 1024


def pays(plan: Plan, coming: RowSet, held: RowSet, threshold: float | Asked) -> bool:
    """Whether a plan's bounds rule out enough, on a sample, to be worth more than products of whole vectors."""
    asked, _ = project(coming, slice(0, _SAMPLED), plan)
    sample = np.linspace(0, len(held) - 1, min(4 * _SAMPLED, len(held))).astype(np.int64)
    some, _ = project(RowSet.of(held.X[sample], held.mean), slice(0, len(sample)), plan)
    least: Any = threshold
    if isinstance(threshold, Asked):
        least = threshold.of(np.arange(len(asked))[:, None], sample[None])
    share = np.count_nonzero(asked @ some.T >= least) / (len(asked) * len(some))
    return bool(share * _LOOK_UP + plan.lead < held.dim)


def _kept_text(text: str | None) -> tuple[str, ...]:
    """A text as it is held; halves of surrogate pairs cannot be saved."""
    return () if not text else (text[:TEXT_CHARS].encode("utf-8", "replace").decode(),)


@cache
def _blas() -> Any:
    """The libraries whose threads are limited; finding them takes milliseconds."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
