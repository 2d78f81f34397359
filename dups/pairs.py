"""Pair search: near-duplicate pairs of contents, by perceptual hash and by embedding at once.

Both stages are exact and give their pairs in the order of (i, j), so they are merged as they come: a pair that both find is
one pair, with both facts. What only the hashes found gets its cosine, and the other way round.

Contents are numbered by the keep policy (`icehouse.dups.groups.preference`): when there are more pairs than asked for,
those are kept whose better content ranks first, and these contents have all their pairs. Groups led by them are then
whole all the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from .agreements import BEYOND_DOUBT, STRICT, VAGUE, Agreements, decide
from .confirm import PixelPairs
from .default_calibration import MAX_KEPT, NearCache, measure_digest
from .engines import Engine, Exact, JoinOptions, pairs_of
from .groups import Star
from .hashing import HashJoin, ViewHashes, blank_hashes, informative, random_pairs_expected
from .join import RowSet, pair_cosines
from .linked_pairs import AGREEING, pair_alike, pair_linked, unrelated_agreement
from .local_scaling import RADIUS, Neighbourhoods
from .rule import Rule, suspects
from .variants import DETAIL, Variants
from .views import VIEWS_VERSION

#: Contents of a group that are compared with one another; of a larger group, those least like its keeper.
SPREAD_MEMBERS = 512

#: Pairs handed out at once where there are as many: each block costs a pass over the groups, and a row group of its own.
_MIN_BLOCK = 65_536

#: Pairs of a group whose cosines are within rounding of the least, and are computed to the last bit.
_RESCORED = 8192

#: Near views of which each is asked whether its pair stands out; of more, those count that prove it by themselves.
_MAX_CANDIDATES = 20_000_000

#: Times as many pairs in doubt as are expected, beyond which more evidence is asked for, and pairs by cosine beyond which
#: none is.
_DOUBTS, _MAX_SUSPECTS = 6, 1_000_000
#: Pairs by a near-certain cosine, at most, whose pictures are registered.
_MOST_DOUBTED = 300
#: Hashes as near as a content's own of others, at most, of contents whose pairs by hash are looked at: frames of a film have
#: hundreds.
_CROWD = 12

#: Searches among what is left, after the first, before stars are given up as they are.
_ROUNDS = 50


@dataclass(frozen=True)
class FoundPairs:
    """Pairs of contents, ``i < j``."""

    i: np.ndarray  # int64 (m,)
    j: np.ndarray
    hamming: np.ndarray  # int16 (m,): -1 where one has no hash
    cosine: np.ndarray  # float64 (m,): naN where one has no vector
    perceptual: np.ndarray  # bool (m,): stages that found the pair
    embedding: np.ndarray
    #: int8 (m,): what tells that the two say something else, see `icehouse.dups.variants.EVIDENCE`; 0 where nothing does
    differs: np.ndarray
    orientation: np.ndarray  # int8 (m,): of `ORIENTATIONS`, in which j is i; 0 is upright
    container: np.ndarray  # int8 (m,): 1 where i is a collage with j in it, 2 the other way round, else 0
    #: float64 (m,): how much the pair stands out among its neighbours; NaN where that was not asked, or one has no vector
    evidence: np.ndarray

    def __len__(self) -> int:
        return len(self.i)

    def take(self, kept: np.ndarray | slice) -> FoundPairs:
        """Some of them."""
        return FoundPairs(*(getattr(self, name)[kept] for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class Spread:
    """Spread of a group: its lowest cosine and largest Hamming distance; ``None`` if unknown."""

    min_cosine: float | None
    max_hamming: int | None
    sampled: bool = False
    chained: bool = False


class Contents:
    """Distinct contents, numbered by preference, with their hashes, and vectors `X` (m, dim) of those `with_vector` (m,).

    The rule has no matrix here: `X` has been taken through it. `squares` are the squared lengths of its rows, where they are
    known.
    """

    def __init__(
        self,
        hashes: np.ndarray,
        hashed: np.ndarray,
        rule: Rule,
        X: np.ndarray | None = None,
        with_vector: np.ndarray | None = None,
        views: ViewHashes | None = None,
        variants: Variants | None = None,
        confirmed: PixelPairs | None = None,
        squares: np.ndarray | None = None,
    ) -> None:
        self.rule = rule
        self.views, self.confirmed = views, confirmed
        self.variants = variants
        self.hashes, self.hashed = hashes, hashed
        #: Hashes that say something; the others match nothing, though their distances are reported.
        self.useful = hashed & informative(hashes)
        #: Pictures all of one colour, which prove nothing by any stage and have no vector here.
        self.blank = hashed & blank_hashes(hashes)
        self.with_vector = np.empty(0, np.int64) if with_vector is None else with_vector
        self.rows = None
        if X is not None:
            rows = RowSet.of(X, rule.mean)
            self.rows = rows.measure() if squares is None else replace(rows, squares=squares)
        self._row = np.full(len(hashes), -1, np.int64)
        if self.rows is not None:
            self._row[self.with_vector] = np.where(self.rows.squares > 0, np.arange(len(self.rows)), -1)
        #: What each row is held against, under a rule with a local measure.
        self.beside: Neighbourhoods | None = None
        #: Near pairs that earlier searches found.
        self.known: NearCache | None = None
        #: Gives their `wide_pairs`, where another process may be looking for them.
        self.wide: Callable[[], tuple[np.ndarray, bool]] | None = None
        #: Views that suggest pairs where all look alike, and near views prove nothing.
        self.near_views: ViewHashes | None = None
        #: What is a collage, as far as its seams tell.
        self.collages = np.zeros(len(hashes), bool)
        #: How far pictures agree pixel by pixel; None where there are none.
        self.agreements: Agreements | None = None
        #: Codes, ascending, of pairs that hashes or vectors find and whose pictures have to agree, too: see `PairSearch`.
        self.looked_at = np.empty(0, np.int64)

    @property
    def asked(self) -> np.ndarray | float | None:
        """Least cosine of pairs whose hashes say nothing: one for all, or one for each row; None without that stage."""
        least = self.rule.least_evidence
        if self.rule.local is None or least is None or self.beside is None:
            return self.rule.cosine
        return self.beside.asked(least)

    def evidence(
        self, i: np.ndarray, j: np.ndarray, cosine: np.ndarray, apart: np.ndarray | None
    ) -> np.ndarray:
        """Scores of pairs above their neighbours, by cosines and by the bits `apart` of their views; else NaN."""
        told = np.full(len(i), np.nan)
        if self.rule.local is not None and self.beside is not None:
            known = np.flatnonzero(~np.isnan(cosine))
            bits = None if apart is None else apart[known]
            rows = self._row[i[known]], self._row[j[known]]
            told[known] = self.beside.evidence(*rows, cosine[known], bits, self.rule.local.quantile)
        return told

    def __len__(self) -> int:
        return len(self.hashes)

    def row_of(self, numbers: np.ndarray) -> np.ndarray:
        """Rows of the vectors of contents; -1 where one has none."""
        rows: np.ndarray = self._row[numbers]
        return rows

    def subset(self, numbers: np.ndarray, scratch: Path) -> Contents:
        """Get the contents `numbers`, ascending, renumbered from 0; `scratch` is a file for their vectors."""
        views = None if self.views is None else self.views.subset(numbers)
        variants = None if self.variants is None else self.variants.subset(numbers)
        confirmed = None if self.confirmed is None else self.confirmed.subset(numbers)
        if self.rows is None:
            return Contents(
                self.hashes[numbers],
                self.hashed[numbers],
                self.rule,
                views=views,
                variants=variants,
                confirmed=confirmed,
            )
        held = np.isin(self.with_vector, numbers, assume_unique=True)
        X = in_order(self.rows.X, np.flatnonzero(held), scratch)
        at = np.searchsorted(numbers, self.with_vector[held])
        made = Contents(
            self.hashes[numbers], self.hashed[numbers], self.rule, X, at, views, variants, confirmed
        )
        made.beside = None if self.beside is None else self.beside.subset(np.flatnonzero(held))
        made.collages = self.collages[numbers]
        made.agreements = None if self.agreements is None else self.agreements.subset(numbers)
        i, j = np.divmod(self.looked_at, max(len(self), 1))
        within = np.isin(i, numbers) & np.isin(j, numbers)
        i, j = (np.searchsorted(numbers, side[within]) for side in (i, j))
        made.looked_at = i * len(numbers) + j
        return made

    def hamming(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Bits in which the hashes of ``i[k]`` and ``j[k]`` differ, int16; -1 where one has none.

        With views, those of the two views that are nearest; of confirmed pairs, those that made them candidates.
        """
        return self._hammings(i, j)[0]

    def _hammings(self, i: np.ndarray, j: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distances as of `hamming`, and those of the views alone; 65 where there are none."""
        whole = self.whole_hamming(i, j)
        if self.confirmed is not None:
            whole = np.minimum(whole, self.confirmed.find(i, j)[2])
        if self.views is None:
            return whole, np.full(len(i), 65, np.int16)
        nearest = self.views.distance(i, j)
        return np.where(whole < 0, whole, np.minimum(whole, nearest)), nearest

    def whole_hamming(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Bits in which the hashes of whole pictures differ, int16; -1 where one has none."""
        distance = np.bitwise_count(self.hashes[i] ^ self.hashes[j]).astype(np.int16)
        return np.where(self.hashed[i] & self.hashed[j], distance, np.int16(-1))

    def cosine(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Cosine of the vectors of ``i[k]`` and ``j[k]``, float64; NaN where one has none."""
        cosine = np.full(len(i), np.nan)
        a, b = self._row[i], self._row[j]
        both = np.flatnonzero((a >= 0) & (b >= 0))
        if self.rows is not None and len(both):
            cosine[both] = pair_cosines(self.rows, self.rows, a[both], b[both])
        return cosine

    def judge(self, i: np.ndarray, j: np.ndarray, cosine: np.ndarray | None = None) -> FoundPairs:
        """Measure pairs, whichever stage found them, and tell which stages find them."""
        found = self.measure(i, j, cosine)
        differs = np.zeros(len(i), np.int8) if self.variants is None else self.variants.of(i, j)
        differs = np.where(found.container > 0, np.int8(0), differs)
        embedding, vague = self._agreed(found)
        differs = np.where(vague & (differs == 0), np.int8(DETAIL), differs)
        by_pixels = np.zeros(len(i), bool) if self.confirmed is None else self.confirmed.find(i, j)[0]
        unlike, vague = self._unlike(found)
        differs = np.where(vague & (differs == 0), np.int8(DETAIL), differs)
        asked = (found.perceptual | embedding) & ~by_pixels & (differs == 0)
        refuted = self._refuted(i, j, found.cosine, asked) | unlike
        perceptual, embedding = found.perceptual & ~refuted, embedding & ~refuted
        return replace(found, perceptual=perceptual, embedding=embedding, differs=differs)

    def measure(self, i: np.ndarray, j: np.ndarray, cosine: np.ndarray | None = None) -> FoundPairs:
        """Measure pairs, and tell which the hashes find and which have evidence enough to be looked at."""
        whole = hamming = self.whole_hamming(i, j)
        if cosine is None:
            cosine = self.cosine(i, j)
        radius, least, nearest = self.rule.hamming, self.rule.cosine, None
        # Both stages are exact, so that a measure within the limit is the same as having been found.
        perceptual = np.zeros(len(i), bool)
        if radius is not None:
            perceptual = (whole >= 0) & (whole <= radius) & self.useful[i] & self.useful[j]
        if self.views is not None:
            nearest = self.views.distance(i, j)
            hamming = np.where(whole < 0, whole, np.minimum(whole, nearest))
            perceptual |= self.views.found(i, j, nearest)
        orientation = container = np.zeros(len(i), np.int8)
        if self.confirmed is not None:
            found, orientation, bits, container = self.confirmed.find(i, j)
            perceptual |= found
            hamming = np.minimum(hamming, bits)
            # What the hashes of the whole pictures say comes first.
            container = np.where(perceptual, np.int8(0), container)
        embedding = np.zeros(len(i), bool) if least is None else cosine >= least
        evidence = self.evidence(i, j, cosine, nearest)
        if self.beside is not None and self.rule.least_evidence is not None:
            # The join asks by cosines; whichever way it is rounded, a pair that it finds is found.
            embedding = (evidence >= self.rule.least_evidence) | self._reaches(i, j, cosine)
        differs = np.zeros(len(i), np.int8)
        return FoundPairs(
            i, j, hamming, cosine, perceptual, embedding, differs, orientation, container, evidence
        )

    def in_doubt(self, found: FoundPairs) -> np.ndarray:
        """Tell which measured pairs are pairs only if their pictures agree pixel by pixel."""
        rule = self.rule
        if rule.suspected is None or rule.evidence is None:
            return np.zeros(len(found), bool)
        unsure = found.embedding & ~found.perceptual & (found.container == 0) & (found.i != found.j)
        return unsure & ~(found.evidence >= BEYOND_DOUBT * rule.evidence)

    def _agreed(self, found: FoundPairs) -> tuple[np.ndarray, np.ndarray]:
        """Tell which pairs embeddings find, those in doubt by their pixels, and for which these decide nothing."""
        embedding, vague = found.embedding.copy(), np.zeros(len(found), bool)
        rule = self.rule
        if rule.agreeing is None or rule.evidence is None or self.agreements is None:
            return embedding, vague
        at = np.flatnonzero(self.in_doubt(found))
        agreed, evidence = self.agreements.of(found.i[at], found.j[at]), found.evidence[at]
        # What cannot be read again is told by its evidence, and nobody's duplicate.
        same, vague[at] = decide(agreed, evidence, rule.evidence, rule.agreeing)
        embedding[at] = same | vague[at]
        return embedding, vague

    def _unlike(self, found: FoundPairs) -> tuple[np.ndarray, np.ndarray]:
        """Tell which pairs that were looked at, see `looked_at`, pixels refute, and of which these decide nothing."""
        unlike, vague = np.zeros(len(found), bool), np.zeros(len(found), bool)
        if self.rule.agreeing is None or self.agreements is None or not len(self.looked_at):
            return unlike, vague
        codes = np.minimum(found.i, found.j) * len(self) + np.maximum(found.i, found.j)
        at = np.flatnonzero(np.isin(codes, self.looked_at) & (found.perceptual | found.embedding))
        agreed = self.agreements.of(found.i[at], found.j[at])
        # Where a picture has too little detail, or cannot be read again, its hash or vector is all there is.
        short = (agreed > -1) & (agreed < self.rule.agreeing)
        vague[at], unlike[at] = short & (agreed >= VAGUE), short & (agreed < VAGUE)
        return unlike, vague

    def _refuted(self, i: np.ndarray, j: np.ndarray, cosine: np.ndarray, asked: np.ndarray) -> np.ndarray:
        """Tell which of the pairs `asked` for have levels, or vectors, too far apart for a rule on levels."""
        refuted = np.zeros(len(i), bool)
        if self.rule.levels is None or self.variants is None or self.variants.pictures is None:
            return refuted
        at = np.flatnonzero(asked & (i != j))
        refuted[at] = self.variants.pictures.levels_apart(i[at], j[at]) > self.rule.levels
        if self.rule.alike is not None:
            refuted |= asked & (i != j) & (cosine < self.rule.alike)
        return refuted

    def _reaches(self, i: np.ndarray, j: np.ndarray, cosine: np.ndarray) -> np.ndarray:
        """Tell which pairs have the cosine that their contents ask for where hashes say nothing."""
        asked = self.asked
        if not isinstance(asked, np.ndarray):
            return np.zeros(len(i), bool)
        reached: np.ndarray = cosine >= (asked[self._row[i]] + asked[self._row[j]]) / 2
        return reached

    def joined(self, found: FoundPairs) -> tuple[np.ndarray, np.ndarray]:
        """The pairs that groups are made of: all but containers, and variants unless these count as duplicates."""
        same = found.container == 0
        if self.variants is not None and not self.variants.dropped:
            same &= found.differs == 0
        return found.i[same], found.j[same]

    def spread(self, members: np.ndarray) -> Spread:
        """Compare the members of a group with one another, the first of which is its keeper.

        A group counts as chained if two members are farther apart than two steps can bring them, by every measure that they
        have: more than twice the angle and more than twice the bits.
        """
        keeper = np.full(len(members), members[0])
        sampled = len(members) > SPREAD_MEMBERS
        if sampled:
            far = self.judge(keeper, members)
            unlike = np.where(np.isnan(far.cosine), 1 - far.hamming / 64, far.cosine)
            farthest = np.argsort(unlike[1:], kind="stable")[: SPREAD_MEMBERS - 1] + 1
            members = members[np.r_[0, np.sort(farthest)]]
        i, j = (members[side] for side in np.triu_indices(len(members), 1))
        hamming, nearest = self._hammings(i, j)
        cosine = self._cosines_within(members)
        radius, least = self.rule.hamming, self.rule.cosine
        apart = np.ones(len(i), bool)
        asked = self.asked
        if isinstance(asked, np.ndarray):
            # Angles add up, and each content has one that it allows.
            i_asks, j_asks = (asked[np.maximum(self._row[side], 0)] for side in (i, j))
            least = np.clip((i_asks + j_asks) / 2, 0, 1)
        if least is not None:
            apart &= ~(cosine >= 2 * least**2 - 1)
        if radius is not None:
            close = (hamming >= 0) & (hamming <= 2 * radius) & self.useful[i] & self.useful[j]
            apart &= ~close
            if self.views is not None:
                apart &= ~self.views.linked(i, j, nearest)
            if self.confirmed is not None:
                apart &= ~self.confirmed.find(i, j)[0]
        known = np.zeros(len(i), bool)
        if least is not None:
            known |= ~np.isnan(cosine)
        if radius is not None:
            known |= self.useful[i] & self.useful[j]
        return Spread(
            float(np.nanmin(cosine)) if not np.isnan(cosine).all() else None,
            int(hamming.max()) if (hamming >= 0).any() else None,
            sampled,
            bool((apart & known).any()),
        )

    def _cosines_within(self, members: np.ndarray) -> np.ndarray:
        """Cosines of every two members, as `numpy.triu_indices` orders them; all but the least to within rounding."""
        upper = np.triu_indices(len(members), 1)
        rows = self._row[members]
        if self.rows is None or not (rows >= 0).any():
            return np.full(len(upper[0]), np.nan)
        unit, _ = self.rows.directions(np.maximum(rows, 0))
        products = np.minimum(unit @ unit.T, 1.0)
        products[rows < 0] = np.nan
        products[:, rows < 0] = np.nan
        cosines: np.ndarray = products[upper]
        # Those that may be the least, as they are told of pairs: BLAS rounds as its threads and the machine have it.
        if not np.isnan(cosines).all():
            k = np.flatnonzero(cosines <= np.nanmin(cosines) + 1e-11)[:_RESCORED]
            cosines[k] = pair_cosines(self.rows, self.rows, rows[upper[0][k]], rows[upper[1][k]])
        return cosines


@dataclass
class PairSearch:
    """Iterate over it once for all pairs of `contents` by its rule, in ascending order of (i, j)."""

    contents: Contents
    options: JoinOptions
    engine: Engine = field(default_factory=Exact)
    pairs: int = 0
    capped: bool = False
    #: contents before this one have all their pairs.
    complete: int = 0
    stats: dict[str, Any] = field(default_factory=dict)
    #: Called with pairs that are likely, int64 (2, m), before all is known.
    expect: Callable[[np.ndarray], None] | None = None
    _near: tuple[np.ndarray, bool] | None = field(default=None, init=False)
    _by_views: np.ndarray | None = field(default=None, init=False)
    _by_cosine: tuple[np.ndarray, np.ndarray] | None = field(default=None, init=False)

    @property
    def max_pairs(self) -> int:
        """Pairs after which it stops; `capped` then tells that there are more."""
        return self.options.max_pairs

    def find_near_views(self) -> None:
        """Find the pairs of views, for which it need not be known which pairs are confirmed."""
        contents = self.contents
        if self._near is not None or contents.views is None:
            return
        begun = time.perf_counter()
        _, whole = self._near = self._near_views(contents.views)
        self.stats["views"] = {
            "contents": int(contents.views.usable.any(axis=1).sum()),
            "radius": contents.views.radius,
            "left_out": not whole,
            "seconds": time.perf_counter() - begun,
        }

    def find_view_pairs(self) -> None:
        """Find the pairs of views, or give them up where everything resembles everything, before any pair is judged.

        A stage that looked at a part would make results depend on which. Without views nothing can confirm what hashes
        say, and equal ones count again.
        """
        contents = self.contents
        if self._by_views is not None or self._by_cosine is not None:
            return
        if contents.views is None:
            contents.rule = contents.rule.unconfirmed()
            self._settle_doubts()
            return
        self.find_near_views()
        assert self._near is not None
        self._by_views, whole = self._near
        if not whole:
            contents.views = None
            contents.rule = contents.rule.unconfirmed()
        self._settle_doubts()

    def _settle_doubts(self) -> None:
        """Register the pictures of all pairs in doubt, and choose how far copies have to agree.

        Where too many are in doubt more evidence is asked for, and where all that has enough is in doubt, pixels are not.
        """
        contents = self.contents
        if contents.rule.near_certain:
            self.stats["registered"] = pair_alike(contents, contents.near_views)
            self._doubt_cosines()
        if contents.rule.suspected is None or contents.rule.agreeing is not None:
            return
        alone = replace(contents.rule, suspected=None)
        if contents.agreements is None or contents.beside is None or contents.rows is None:
            contents.rule = alone
            return
        begun = time.perf_counter()
        self._by_cosine = self._few_by_embedding()
        if self._by_cosine is None:
            contents.rule = alone
            return
        (codes, cosine), nothing = self._by_cosine, np.empty(0, np.int64)
        seen = self._by_views if self._by_views is not None and contents.views is not None else nothing
        seen = np.setdiff1d(seen, codes)
        if contents.variants is not None and contents.variants.pictures is not None:
            contents.variants.pictures.expect(*np.divmod(np.concatenate([codes, seen]), len(contents)))
        pairs, sure = [np.empty((3, 0))], [np.empty((2, 0), np.int64)]
        for part, known in ((codes, cosine), (seen, None)):
            for start in range(0, len(part), _MIN_BLOCK):
                rows = slice(start, start + _MIN_BLOCK)
                i, j = np.divmod(part[rows], len(contents))
                found = contents.measure(i, j, None if known is None else known[rows])
                at = contents.in_doubt(found)
                pairs.append(np.stack([i[at], j[at], found.evidence[at]]))
                sure.append(np.stack([i, j])[:, ~at & (found.perceptual | found.embedding)])
        i, j, evidence = np.concatenate(pairs, axis=1)
        most = int(_DOUBTS * suspects(len(contents)))
        if len(evidence) > most:
            least = float(np.nextafter(np.partition(evidence, -most - 1)[-most - 1], np.inf))
            if least >= (contents.rule.evidence or 0.0):
                contents.rule = alone
                return
            contents.rule = replace(contents.rule, suspected=least)
            i, j, evidence = (column[evidence >= least] for column in (i, j, evidence))
        i, j = i.astype(np.int64), j.astype(np.int64)
        agreed, certain = contents.agreements.of(i, j), np.concatenate(sure, axis=1)
        if self.expect is not None:
            self.expect(np.concatenate([certain, np.stack([i, j])[:, agreed >= AGREEING]], axis=1))
        agreeing = unrelated_agreement(contents, i, j, agreed, evidence, certain)
        contents.rule = replace(contents.rule, agreeing=agreeing)
        by_hash = self._near_by_chance()
        alike = self._sure_look_alikes(certain) if agreeing >= STRICT else nothing
        contents.looked_at = np.union1d(by_hash, alike)
        contents.agreements.of(*np.divmod(contents.looked_at, max(len(contents), 1)))
        self.stats["registered"] = {
            "pairs": len(agreed),
            "by_hashes": len(by_hash),
            "in_no_doubt": len(alike),
            "agreeing": int((agreed >= agreeing).sum()),
            "least": agreeing,
            "evidence": contents.rule.suspected,
            "linked": pair_linked(contents, np.union1d(codes, seen), contents.collages),
            "seconds": time.perf_counter() - begun,
        }

    def _few_by_embedding(self) -> tuple[np.ndarray, np.ndarray] | None:
        """All pairs that the embedding finds, their codes and cosines; None if there are too many to look at."""
        blocks, count = [(np.empty(0, np.int64), np.empty(0))], 0
        for block in self._by_embedding():
            blocks.append(block)
            count += len(block[0])
            if count > min(_MAX_SUSPECTS, self.max_pairs):
                return None
        return _one(blocks)

    def _doubt_cosines(self) -> None:
        """Have the pictures agree of pairs that a near-certain cosine alone finds, unless there are many.

        Of icons and flags some unrelated ones have one.
        """
        contents = self.contents
        if contents.agreements is None or contents.rows is None:
            return
        self._by_cosine = self._few_by_embedding()
        if self._by_cosine is None or len(self._by_cosine[0]) > _MIN_BLOCK:
            return
        codes, cosine = self._by_cosine
        found = contents.measure(*np.divmod(codes, len(contents)), cosine)
        alone = found.embedding & ~found.perceptual & (found.i != found.j)
        if alone.sum() <= _MOST_DOUBTED:
            contents.looked_at = codes[alone]
            contents.agreements.of(found.i[alone], found.j[alone])
            contents.rule = replace(contents.rule, agreeing=AGREEING)

    def _near_by_chance(self) -> np.ndarray:
        """Codes of pairs that the hashes find, and the cosine does not, where unrelated pictures have near hashes.

        How near is asked of all pairs alike, and a corner of look-alikes has equal ones. Those of contents with fewer near
        ones come first, `icehouse.dups.rule.suspects` of them at most.
        """
        contents, rule, n = self.contents, self.contents.rule, len(self.contents)
        none = np.empty(0, np.int64)
        if not rule.hashes_prove_little or rule.evidence is None:
            return none
        held, count = [none if self._by_views is None or contents.views is None else self._by_views], 0
        for codes, _ in self._by_hash():
            held.append(codes)
            count += len(codes)
            if count > min(_MAX_SUSPECTS, self.max_pairs):
                return none
        every, crowd, kept = np.unique(np.concatenate(held)), np.zeros(n, np.int64), [none]
        for start in range(0, len(every), _MIN_BLOCK):
            codes = every[start : start + _MIN_BLOCK]
            found = contents.measure(*np.divmod(codes, n))
            near = found.perceptual & (found.i != found.j)
            if contents.confirmed is not None:
                near &= ~contents.confirmed.find(found.i, found.j)[0]
            crowd += np.bincount(np.concatenate([found.i[near], found.j[near]]), minlength=n)
            # By the cosine alone: that a hash is rare says nothing where many are equal.
            alone = contents.evidence(found.i, found.j, found.cosine, None)
            kept.append(codes[near & (alone < rule.evidence)])
        return self._in_no_crowd(np.concatenate(kept), crowd)

    def _sure_look_alikes(self, sure: np.ndarray) -> np.ndarray:
        """Codes of pairs in no doubt that are registered all the same, as unrelated pictures agree like neighbouring wafers.

        Not those of a collage and what is in it.
        """
        confirmed, n = self.contents.confirmed, len(self.contents)
        codes = sure[0] * n + sure[1]
        if confirmed is not None:
            same = confirmed.container == 0
            codes = np.setdiff1d(np.union1d(codes, confirmed.codes[same]), confirmed.codes[~same])
        codes = np.unique(codes)
        return self._in_no_crowd(codes, np.bincount(np.concatenate(np.divmod(codes, max(n, 1))), minlength=n))

    def _in_no_crowd(self, codes: np.ndarray, crowd: np.ndarray) -> np.ndarray:
        """Codes of contents that few others are near to, `crowd` (n,); of those with the fewest, as many as `suspects` has.

        Frames of a film have hundreds.
        """
        around = crowd[np.stack(np.divmod(codes, max(len(crowd), 1)))].max(axis=0, initial=0)
        codes, around = codes[around <= _CROWD], around[around <= _CROWD]
        return np.sort(codes[np.lexsort((codes, around))[: int(suspects(len(crowd)))]])

    def _near_views(self, views: ViewHashes) -> tuple[np.ndarray, bool]:
        """Pairs that views find, by themselves or with the cosine; see `ViewHashes.pairs`."""
        contents = self.contents
        least = contents.rule.least_evidence
        if contents.beside is None or least is None:
            return views.pairs(self.max_pairs + 1)
        codes, whole = wide_pairs(contents.known, views) if contents.wide is None else contents.wide()
        if whole and len(codes) == _MAX_CANDIDATES:
            return views.pairs(self.max_pairs + 1)
        kept = [np.empty(0, np.int64)]
        for start in range(0, len(codes), _MIN_BLOCK):
            part = codes[start : start + _MIN_BLOCK]
            i, j = np.divmod(part, len(contents))
            nearest = views.distance(i, j)
            found = views.found(i, j, nearest)
            evidence = contents.evidence(i, j, contents.cosine(i, j), nearest)
            kept.append(part[found | (evidence >= least)])
        return np.concatenate(kept)[: self.max_pairs + 1], whole

    def __iter__(self) -> Iterator[FoundPairs]:
        self.find_view_pairs()
        n = len(self.contents)
        self.complete = n
        hashes = _merge(_merge(self._by_hash(), self._by_view()), self._by_pixels())
        least = min(_MIN_BLOCK, self.max_pairs + 1)
        for codes, cosine in _gathered(_merge(hashes, self._by_embedding()), least):
            room = self.max_pairs - self.pairs
            if len(codes) > room:
                self.capped = True
                self.complete = int(codes[room] // n)
                codes, cosine = codes[:room], cosine[:room]
            i, j = np.divmod(codes, n)
            unknown = np.flatnonzero(np.isnan(cosine))
            cosine[unknown] = self.contents.cosine(i[unknown], j[unknown])
            self.pairs += len(codes)
            if len(codes):
                yield self._standing(self.contents.judge(i, j, cosine))
            if self.capped:
                return

    def _standing(self, found: FoundPairs) -> FoundPairs:
        """The pairs that their pictures do not refute, nor what they need since they were looked for."""
        kept = found.perceptual | found.embedding | (found.container > 0)
        self.stats["refuted"] = self.stats.get("refuted", 0) + int((~kept).sum())
        return found.take(np.flatnonzero(kept))

    def _by_hash(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        radius = self.contents.rule.hamming
        if radius is None or radius < 0:
            return
        begun = time.perf_counter()
        # One more than asked for, so that the cap is noticed.
        join = HashJoin(self.contents.hashes, self.contents.useful, radius, max_pairs=self.max_pairs + 1)
        useful = int(self.contents.useful.sum())
        self.stats["perceptual"] = {
            "hashes": int(self.contents.hashed.sum()),
            "uninformative": int(self.contents.hashed.sum()) - useful,
            "expected_if_random": random_pairs_expected(useful, radius),
            "seconds": time.perf_counter() - begun,
        }
        for block in join:
            yield block.i * len(self.contents) + block.j, np.full(len(block.i), np.nan)

    def _by_view(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        codes = self._by_views
        if codes is not None and len(codes):
            yield codes, np.full(len(codes), np.nan)

    def _by_pixels(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        confirmed = self.contents.confirmed
        if confirmed is not None and len(confirmed):
            self.stats["confirmed"] = {"pairs": len(confirmed)}
            yield confirmed.codes, np.full(len(confirmed), np.nan)

    def _by_embedding(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        contents, asked = self.contents, self.contents.asked
        if asked is None or contents.rows is None:
            return
        # One more than asked for, so that the cap is noticed.
        options = replace(self.options, max_pairs=self.max_pairs + 1)
        at, n, least = contents.with_vector, len(contents), contents.rule.least_evidence or 0.0
        if self._by_cosine is not None:
            codes, cosine = self._by_cosine
            for start in range(0, len(codes), _MIN_BLOCK):
                yield codes[start : start + _MIN_BLOCK], cosine[start : start + _MIN_BLOCK].copy()
            return
        of: str | None = None
        if (
            contents.rule.local is not None
            and isinstance(asked, np.ndarray)
            and isinstance(self.engine, Exact)
        ):
            of = measure_digest(contents.rule.local)
        held = None
        if of is not None and contents.known is not None:
            held = contents.known.recall("cosines", of, least)
        if held is None:
            join = self.engine.join(contents.rows, asked, options)
            self.stats["embedding"] = join.stats
            kept, count = [np.empty(0, np.int64)], 0
            for block in join:
                codes = at[block.i] * n + at[block.j]
                count += len(codes)
                if of is not None and count <= MAX_KEPT:
                    kept.append(codes)
                yield codes, block.cosine.copy()
            if of is not None and contents.known is not None and count <= min(MAX_KEPT, self.max_pairs):
                contents.known.remember("cosines", of, np.concatenate(kept), least)
            return
        assert isinstance(asked, np.ndarray), "of one threshold for all nothing is held"
        codes, cosine, stats = self._with_new(*held, asked, options)
        self.stats["embedding"] = stats
        if held[1].any() and len(codes) <= self.max_pairs and of is not None and contents.known is not None:
            contents.known.remember("cosines", of, codes, least)
        for start in range(0, len(codes), _MIN_BLOCK):
            yield codes[start : start + _MIN_BLOCK], cosine[start : start + _MIN_BLOCK]

    def _with_new(
        self, codes: np.ndarray, new: np.ndarray, asked: np.ndarray, options: JoinOptions
    ) -> tuple[np.ndarray, np.ndarray, Any]:
        """Pairs of contents that were compared before, by their codes, and pairs with new ones; see `NearCache.recall`."""
        contents, n, at = self.contents, len(self.contents), self.contents.with_vector
        rows = contents.rows
        assert rows is not None
        i, j = np.divmod(codes, n)
        cosine = contents.cosine(i, j)
        a, b = (np.maximum(contents._row[side], 0) for side in (i, j))
        # Of more contents, more is asked.
        found = cosine >= (asked[a] + asked[b]) / 2
        codes, cosine = codes[found], cosine[found]
        fresh = np.flatnonzero(new[at])
        made, stats = pairs_of(rows, fresh, asked, options)
        i, j = at[made.i], at[made.j]
        # Of two new contents one is told twice, and each with itself.
        kept = np.flatnonzero((i != j) & ~(new[j] & (i > j)))
        i, j = i[kept], j[kept]
        codes = np.concatenate([codes, np.minimum(i, j) * n + np.maximum(i, j)])
        cosine = np.concatenate([cosine, made.cosine[kept]])
        order = np.argsort(codes)
        return codes[order], cosine[order], stats

    def report(self) -> dict[str, Any]:
        """Say what the stages did, once all has been read."""
        report = dict(self.stats)
        if "embedding" in report:
            report["embedding"] = report["embedding"].as_dict()
        return report


def complete_stars(star: Star, search: PairSearch, scratch: Path) -> bool:
    """Finish the stars of a search that stopped at its cap, as if it had not.

    Contents before `PairSearch.complete` have all their pairs, and assigned ones cannot become keepers; so a search among
    the others finds all that is missing, or stops at the cap again. False if it was given up after many rounds.
    """
    contents, complete = search.contents, search.complete
    capped = search.capped
    for _ in range(_ROUNDS):
        left = star.unassigned()
        left = left[left >= complete]
        if not capped or len(left) < 2:
            return True
        held = np.flatnonzero(np.isin(contents.with_vector, left, assume_unique=True))
        rest = PairSearch(
            contents.subset(left, scratch),
            replace(search.options, progress=None),
            engine=search.engine.subset(held),
        )
        for found in rest:
            i, j = contents.joined(found)
            star.add(left[i], left[j])
        capped = rest.capped
        complete = int(left[rest.complete]) if capped else len(contents)
        del rest
        scratch.unlink(missing_ok=True)
    return not capped


def wide_pairs(known: NearCache | None, views: ViewHashes) -> tuple[np.ndarray, bool]:
    """Pairs with views within `RADIUS` at least, see `ViewHashes.pairs`; those of contents compared before are `known`."""
    wide = replace(views, radius=max(views.radius, RADIUS))
    if known is None:
        return wide.pairs(_MAX_CANDIDATES)
    of = f"version {VIEWS_VERSION}, radius {wide.radius}, agreement {wide.least}"
    return known.pairs("views", of, _MAX_CANDIDATES, lambda new: wide.pairs(_MAX_CANDIDATES, new))


def in_order(X: np.ndarray, rows: np.ndarray, scratch: Path) -> np.ndarray:
    """Give `rows` of `X` in that order: `X` itself if that is how it stands, else a copy mapped from `scratch`."""
    if len(rows) == len(X) and np.array_equal(rows, np.arange(len(X))):
        return X
    if not len(rows):
        return np.empty((0, X.shape[1]), X.dtype)
    copy = np.lib.format.open_memmap(scratch, mode="w+", dtype=X.dtype, shape=(len(rows), X.shape[1]))
    for start in range(0, len(rows), 8192):
        copy[start : start + 8192] = X[rows[start : start + 8192]]
    return copy


_Stream = Iterator[tuple[np.ndarray, np.ndarray]]


def _gathered(stream: _Stream, least: int) -> _Stream:
    """Put blocks together, one after the other, until there are `least` pairs or no more."""
    held: list[tuple[np.ndarray, np.ndarray]] = []
    for block in stream:
        held.append(block)
        if sum(len(codes) for codes, _ in held) >= least:
            yield _one(held)
            held = []
    if held:
        yield _one(held)


def _one(blocks: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    codes, cosines = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    return codes, cosines


def _merge(left: _Stream, right: _Stream) -> _Stream:
    """Unite two ascending streams of (codes, cosines); of a code in both, the cosine that is known."""
    streams = [left, right]
    empty = (np.empty(0, np.int64), np.empty(0))
    held = [empty, empty]
    ended = [False, False]
    while True:
        for side in (0, 1):
            while not ended[side] and not len(held[side][0]):
                block = next(streams[side], None)
                ended[side] = block is None
                held[side] = block or empty
        if not len(held[0][0]) and not len(held[1][0]):
            return
        # Up to here both sides are known.
        limit = min(codes[-1] for codes, _ in held if len(codes))
        codes, cosines = [], []
        for side in (0, 1):
            cut = int(np.searchsorted(held[side][0], limit, side="right"))
            codes.append(held[side][0][:cut])
            cosines.append(held[side][1][:cut])
            held[side] = (held[side][0][cut:], held[side][1][cut:])
        united, where = np.unique(np.concatenate(codes), return_inverse=True)
        cosine = np.full(len(united), np.nan)
        for part, values in zip(np.split(where, [len(codes[0])]), cosines, strict=True):
            cosine[part] = np.where(np.isnan(values), cosine[part], values)
        yield united, cosine
