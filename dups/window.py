"""Sliding window of a stream: the most recent contents, and what of them a new one resembles.

A window holds the last `capacity` distinct contents: of each its sha256, perceptual hash, vector and texts, and of those
that came among the last `RECENT` arrivals the hashes of their views and a thumbnail. A content that comes again takes no
second place; it becomes the most recent one. Every arrival is judged against the window as it is at that moment, then
remembered, and what was seen longest ago is forgotten.

Under a rule with a local measure (`icehouse.dups.local_scaling`) each content is held against the measure's reference as it
comes, and asks for a cosine of its own.

Arrivals may come in batches, so that one product of matrices serves all of them; each is then judged as if it had come
alone, after those before it. The vectors are compared as in `icehouse.dups.join`: a bound on the cosine from the leading
principal coordinates rules almost all out, and the rest are scored from the vectors as they are held, by the one definition
of a cosine. So no match is missed, and verdicts depend neither on batches, nor on the axes, nor on threads.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from ..data.images import ORIENTATIONS
from ..errors import UsageError
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
from .join.cosines import (
    MAX_ASKED,
    Asked,
    Coordinates,
    NumpyTiles,
    Plan,
    RowSet,
    asking_columns,
    choose_plan,
    coordinate_slack,
    pair_cosines,
    pays,
    project,
    summation_slack,
)
from .local_scaling import RADIUS, Neighbourhoods
from .registration import StreamPictures
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
        try:
            self._ids: list[str] = [""] * capacity
            self._keys: list[str] = [""] * capacity
            self._texts: list[tuple[str, ...]] = [()] * capacity
            self._paths: list[str | None] = [None] * capacity
            self._X = np.zeros((capacity, dim or 0), dtype)
        except (MemoryError, OverflowError, ValueError) as error:
            raise UsageError(
                f"no memory for a window of {capacity:,} contents; give a smaller one"
            ) from error
        self._matrix: np.ndarray | None = None
        self._maps = False
        #: The vectors as the rule compares them: `_X`, or what its map makes of them.
        self._Y = self._X
        self._rows = self._row_set(self._Y)
        #: `Neighbourhoods` of each content, and the least cosine that it asks for.
        self._around = np.zeros((4, capacity))
        self._asks = np.zeros(capacity)
        self._hashes = np.zeros(capacity, np.uint64)
        self._hashed = np.zeros(capacity, bool)
        self._useful = np.zeros(capacity, bool)
        #: Hashes of the turned pictures; 0 where they are not known.
        self._turned = np.zeros((capacity, TURNS), np.uint64)
        self._serials = np.full(capacity, -1, np.int64)
        self.recent = RecentViews(RECENT if recent is None else recent)
        #: Slot of each key, the one seen longest ago first.
        self._slots: OrderedDict[str, int] = OrderedDict()
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
        arrays = [
            self._X,
            self._rows.squares,
            self._hashes,
            self._hashed,
            self._useful,
            self._turned,
            self._serials,
            self._around,
            self._asks,
            *self.recent.arrays,
        ]
        arrays += [self._Y] if self._maps else []
        coordinates = self._lead.data.itemsize * self._lead.data.shape[1] * self.capacity
        return sum(array.nbytes for array in arrays) + coordinates

    def judge(self, arrivals: Sequence[Arrival]) -> Iterator[StreamResult]:
        """Judge and remember arrivals, one at a time as the verdicts are read; what is not read has not arrived."""
        start = 0
        while start < len(arrivals):
            batch = _Batch(self, arrivals[start : start + self._review()])
            start += len(batch)
            for j in range(len(batch)):
                if self.count != batch.first + j:
                    raise UsageError("the window was given other arrivals before all of these were judged")
                verdict = self._result(batch, j)
                self._remember(batch, j)
                yield verdict

    def compare(self, arrivals: Sequence[Arrival]) -> list[StreamResult]:
        """Judge arrivals by what is held, each as if it came next, and remember none of them."""
        self._review()
        found = []
        for start in range(0, len(arrivals), BATCH):
            # What is not remembered has no slot, and is no match of those after it.
            batch = _Batch(self, arrivals[start : start + BATCH])
            found += [self._result(batch, j) for j in range(len(batch))]
        return found

    def remember(self, arrivals: Sequence[Arrival]) -> None:
        """Take arrivals into the window without judging them."""
        start = 0
        while start < len(arrivals):
            batch = _Batch(self, arrivals[start : start + self._review()], compare=False)
            start += len(batch)
            for j in range(len(batch)):
                self._remember(batch, j)

    def restored(self, seen: int, measure: str | None = None) -> None:
        """Finish what `icehouse.dups.window_state.load_window` put in: `seen` arrivals have been judged so far.

        `measure` is the digest of the local measure whose neighbourhoods were put in, too.
        """
        n = len(self)
        self.count = seen
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
        n = len(self)
        slots = np.flatnonzero(RowSet.of(self._X[:n]).measure().squares > 0)
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
        for start in range(0, len(self), 1024):
            part = slice(start, min(start + 1024, len(self)))
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
        n = min(len(self), len(self._lead))
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

    def _result(self, batch: _Batch, j: int) -> StreamResult:
        if self.pictures is not None and (grey := batch.greys[j]) is not None:
            self.pictures.keep(batch.keys[j], grey)
        own = self._slots.get(batch.keys[j])
        by_hash, many = self._by_hash(batch, j)
        by_vector, more = self._by_vector(batch, j)
        seen = bool(batch.views[j].any()) and (
            own is None or self.recent.holds(self._serials[own], self.count)
        )
        by_view = batch.alive(self, j, batch.view_hits, batch.view_pairs) if seen else np.empty(0, np.int64)
        by_view = by_view[self.recent.holds(self._serials[by_view], self.count)]
        slots = np.union1d(np.union1d(by_hash, by_vector), by_view)
        if own is not None:
            slots = np.union1d(slots, [own])
        if not len(slots):
            return StreamResult(batch.ids[j], self.count)
        hamming = np.bitwise_count(self._hashes[slots] ^ batch.hashes[j]).astype(np.int16)
        hamming[~(self._hashed[slots] & batch.hashed[j])] = -1
        cosine = self._cosines(batch, j, slots)
        exact = slots == (-1 if own is None else own)
        perceptual = np.zeros(len(slots), bool)
        if self.rule.hamming is not None:
            perceptual = (hamming >= 0) & (hamming <= self.rule.hamming)
            perceptual &= self._useful[slots] & batch.useful[j]
        nearest, parts, thumbs = self._seen_apart(batch, j, slots, seen)
        perceptual |= parts
        evidence = self._evidence(batch, j, slots, cosine, nearest)
        embedding = np.zeros(len(slots), bool) if self.rule.cosine is None else cosine >= self.rule.cosine
        if self.local:
            # The bounds ask by cosines; whichever way that is rounded, a pair that they find is found.
            least = self.rule.least_evidence or 0
            embedding = (evidence >= least) | (cosine >= self._least(batch, j, slots))
        turned, bits = batch.turned_from(self, j, slots)
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
                by_vector = self._evidence(batch, j, slots, cosine, np.full(len(slots), 65, np.int16))
            sure = exact | (beyond_doubt(self.rule, by_vector, perceptual, embedding) & (not template))
            asked = kept[~sure[kept] & (differs[kept] == 0)]
            asked = asked[np.argsort(nearest[asked], kind="stable")]
            others = slots[asked], by_vector[asked], suspected[asked]
            held, vague = self._settled(batch, j, *others, strict=template)
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
        return StreamResult(batch.ids[j], self.count, tuple(matches), many or more)

    def _settled(
        self,
        batch: _Batch,
        j: int,
        slots: np.ndarray,
        evidence: np.ndarray,
        suspected: np.ndarray,
        *,
        strict: bool,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Which matches of arrival j that are in doubt hold, and which of these are variants; see `settle`."""
        assert self.pictures is not None
        by_hash = np.bitwise_count(self._hashes[slots] ^ batch.hashes[j]) <= max(self.rule.hamming or 0, 0)
        by_hash &= self._useful[slots] & batch.useful[j] & ((self.rule.hamming or 0) >= 0)
        own = batch.keys[j], batch.paths[j]
        others = [(self._keys[slot], self._paths[slot]) for slot in slots.tolist()]
        return settle(self.pictures, self.rule, own, others, evidence, by_hash, suspected, strict=strict)

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

    def _evidence(
        self, batch: _Batch, j: int, slots: np.ndarray, cosine: np.ndarray, nearest: np.ndarray
    ) -> np.ndarray:
        """How much arrival j stands out with each slot, float64; NaN where that is not asked, or a vector is missing."""
        told = np.full(len(slots), np.nan)
        known = np.flatnonzero(~np.isnan(cosine))
        if self.local and len(known):
            assert self.rule.local is not None
            both = np.concatenate([batch.around[:, [j]], self._around[:, slots[known]]], axis=1)
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
        own = self._slots.get(batch.keys[j])
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
            block = block[self._cosines(batch, j, block) >= self._least(batch, j, block)]
            found = np.concatenate([found, block])
            if len(found) > MAX_MATCHES:
                return found[np.argsort(self._serials[found])[-MAX_MATCHES:]], True
        return found, False

    def _least(self, batch: _Batch, j: int, slots: np.ndarray) -> np.ndarray | float:
        """Least cosine of arrival j with each slot where hashes say nothing."""
        if not self.local:
            return self.rule.least_cosine
        # As `Asked.of` has it.
        return (batch.asks[j] + self._asks[slots]) / 2

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
            texts = [text for text in batch.texts[j] if text not in self._texts[slot]]
            self._texts[slot] = (*self._texts[slot], *texts)[:_TEXTS]
            self._slots.move_to_end(key)
            self._paths[slot] = batch.paths[j] or self._paths[slot]
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
            self._lead[slot] = batch.right_lead[j]
            self._around[:, slot], self._asks[slot] = batch.around[:, j], batch.asks[j]
        self.recent.put(self.count, slot, batch.views[j], batch.thumbs[j] if batch.pictured[j] else None)
        self._ids[slot], self._texts[slot] = batch.ids[j], batch.texts[j]
        self._keys[slot], self._paths[slot] = key, batch.paths[j]
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
        room = next((size for size in _REFIT_SIZES if size >= n + BATCH), self.capacity)
        room = min(room, self.capacity)
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
    """Arrivals, compared with the window as it was before them and with one another."""

    def __init__(self, window: SlidingWindow, arrivals: Sequence[Arrival], *, compare: bool = True) -> None:
        window._fit_axes()
        b = len(arrivals)
        self.first = window.count
        self.ids = [arrival.id for arrival in arrivals]
        self.keys = [arrival.key for arrival in arrivals]
        self.hashes = np.zeros(b, np.uint64)
        self.hashed = np.zeros(b, bool)
        self.turned = np.zeros((b, TURNS), np.uint64)
        self.slots = np.full(b, -1, np.int64)
        self.serials = np.full(b, -2, np.int64)
        # No vector is a vector of NaN: wherever the mean lies, it has no direction.
        X = np.full((b, window.dim or 0), np.nan, window._X.dtype)
        self.around = np.zeros((4, b))
        self.views = np.zeros((b, VIEWS), np.uint64)
        self.thumbs = np.zeros((b, THUMB, THUMB), np.uint8)
        self.pictured = np.zeros(b, bool)
        self.texts = [_kept_text(arrival.text) for arrival in arrivals]
        self.paths = [arrival.path for arrival in arrivals]
        self.greys = [arrival.grey for arrival in arrivals]
        own = self._fill(window, arrivals, X)
        self.useful = self.hashed & informative(self.hashes)
        self.X = X
        units = window._units(X)
        self.rows = window._row_set(units.astype(X.dtype, copy=False))
        self.asks = np.zeros(b)
        if window.local:
            fresh = np.flatnonzero(own == np.arange(b))
            self.around[:, fresh] = window._neighbourhoods(units[fresh], self.views[fresh])
            copies = np.flatnonzero((own >= 0) & (own != np.arange(b)))
            self.around[:, copies] = self.around[:, own[copies]]
        nothing: list[np.ndarray] = [np.empty(0, np.int64)] * b
        none = np.zeros((b, b), bool)
        self.hash_hits, self.hash_pairs = nothing, none
        self.lead_hits, self.lead_pairs = nothing, none
        self.view_hits, self.view_pairs = list(nothing), none.copy()
        self.lead = np.empty((b, 0), np.float32)
        #: Which content a slot held when it was compared.
        self.held = window._serials.copy() if compare else window._serials
        # One thread: the products are small, and the other cores have pictures to decode and encode.
        with _blas().limit(limits=1):
            self.right_lead = self.lead
            if window.dim is not None:
                lead, _ = project(self.rows, slice(0, b), window._plan)
                if window.local:
                    self.asks = window._asking(self.around, self.rows.squares)
                self.lead, self.right_lead = (window.asking(lead, self.asks, right=r) for r in (False, True))
            if compare:
                self._compare_hashes(window)
                self._compare_views(window)
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

    def _fill(self, window: SlidingWindow, arrivals: Sequence[Arrival], X: np.ndarray) -> np.ndarray:
        """Put hashes and vectors where they belong; a copy has those of its content.

        Gives the place of the first of each content in the batch, -1 for what is in the window.
        """
        first: dict[str, int] = {}
        own = np.full(len(arrivals), -1, np.int64)
        for j, arrival in enumerate(arrivals):
            if (slot := window._slots.get(arrival.key)) is not None:
                X[j] = window._X[slot]
                self.hashes[j], self.hashed[j] = window._hashes[slot], window._hashed[slot]
                self.turned[j] = window._turned[slot]
                self.around[:, j] = window._around[:, slot]
                serial = window._serials[slot]
                if arrival.views is None and window.recent.holds(serial, window.count):
                    self.views[j] = window.recent.of(serial[None], window.count)[0][0]
                    self.pictured[j] = window.recent.pictured(serial[None])[0]
                    self.thumbs[j] = window.recent.thumbs_of(serial[None])[0]
                else:
                    self._see(j, arrival)
            elif (k := first.setdefault(arrival.key, j)) < j:
                X[j], own[j] = X[k], k
                self.hashes[j], self.hashed[j] = self.hashes[k], self.hashed[k]
                self.turned[j] = self.turned[k]
                self.views[j], self.thumbs[j] = self.views[k], self.thumbs[k]
                self.pictured[j] = self.pictured[k]
            else:
                own[j] = j
                self._see(j, arrival)
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
        return own

    def _see(self, j: int, arrival: Arrival) -> None:
        """Take over what an arrival brings of its views."""
        if arrival.views is not None:
            self.views[j] = arrival.views
        if arrival.thumb is not None:
            self.thumbs[j], self.pictured[j] = arrival.thumb, True

    def _compare_views(self, window: SlidingWindow) -> None:
        if not window.looks_at_views:
            return
        agreement = window.rule.agreement is not None
        for j in np.flatnonzero(self.views.any(axis=1)).tolist():
            slots, serials = window.recent.near(self.views[j], RADIUS, agreement)
            # A slot may have been given to another content since.
            self.view_hits[j] = slots[window._serials[slots] == serials]
            self.view_pairs[j, :j] = near_views(self.views[j], self.views[:j], RADIUS, agreement)

    def _compare_hashes(self, window: SlidingWindow) -> None:
        radius = window.rule.hamming
        if radius is None or radius < 0 or not self.useful.any():
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
        if (window.rule.cosine is None and not window.local) or window.dim is None:
            return
        least, reach = window.bound
        least -= coordinate_slack(window.dim)
        floor = NumpyTiles().floor(least - reach * summation_slack(self.lead.shape[1]))
        self.lead_pairs = self.lead @ self.right_lead.T >= floor
        i, slots = window._lead.reaching(self.lead, least, reach, len(window))
        order = np.argsort(i, kind="stable")
        cuts = np.searchsorted(i[order], np.arange(1, len(self)))
        self.lead_hits = np.split(slots[order], cuts)


def _kept_text(text: str | None) -> tuple[str, ...]:
    """A text as it is held; halves of surrogate pairs cannot be saved."""
    return () if not text else (text[:TEXT_CHARS].encode("utf-8", "replace").decode(),)


@cache
def _blas() -> Any:
    """The libraries whose threads are limited; finding them takes milliseconds."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
