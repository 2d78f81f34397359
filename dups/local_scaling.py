"""Local scaling: how much a pair stands out among its own neighbours, by cosine and by perceptual hashes together.

One threshold for all pairs lies above the worst unrelated pair, so that one corner of look-alikes sets it for
everything. Here each content is held against its own neighbourhood, which mends that as it mends hubs (Schnitzer et al.
2012; cross-domain similarity local scaling, Conneau et al. 2018, subtracts the mean cosine to the nearest neighbours). What
is fitted is the end of each content's own distribution:

- **Cosines.** The k largest cosines of a content with others exceed the smallest of them, `near`, by `spread` on average:
  an exponential tail. A pair's cosine is so many spreads beyond.
- **Hashes.** The k nearest views of a content lie at `bits` and within, with a deviation of `sigma`: a normal tail. A pair
  of views within `RADIUS` bits is as rare as that tail has it.

The **evidence** of a pair is the sum, after Fisher: about the natural logarithm of how many unrelated neighbours one has
to look at to see one as near. Spreads and bits are means over a content's neighbourhood. It is taken against a reference
of at most `MAX_REFERENCE` contents of the set, so that it is the same for a content whatever else comes. What counts as a
copy is no neighbour.

A pair without near views has the evidence it needs if its cosine is the mean of two numbers, one for each content: so
the join finds exactly these.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UsageError, count_of
from .hashing import WHOLE_VIEWS, ViewHashes
from .join import MAX_ASKED
from .processes import one_thread

#: Contents that others are held against.
MAX_REFERENCE = 3000

#: With fewer contents no neighbourhood can be told from another.
MIN_REFERENCE = 100

#: Views that differ in more bits are no evidence.
RADIUS = 8

#: Views so near, and cosines so high, are of copies whatever the set.
_COPY_BITS, _COPY_COSINE = 4, 0.9999

#: Neighbours whose tail is fitted, over which it is averaged, and among which they are looked for beside copies.
_NEAREST, _AROUND, _LOOKED_AT = 10, 30, 48

#: No neighbourhood is narrower: cosines of one content by another preprocessing differ by as much.
_MIN_SPREAD, _MIN_SIGMA = 1e-3, 1.5

#: Pairs for each content in the tail that the threshold is extrapolated from: with ten neighbours each, some five have any
#: evidence by their cosine. How much of it may be copies, in one round after the other.
_TAIL, _COPIES = 2, (0.5, 0.3, 0.15, 0.15, 0.15, 0.15)
#: Where there are many certain copies, as many others, in these shares of them, may not be known yet in each round.
_UNKNOWN = (0.4, 0.2, 0.1, 0.05, 0.0, 0.0)
#: Times as many, where fewer than this share of the certain ones stands out; where hardly any does, nothing is told.
_MORE_UNKNOWN, _STANDING_OUT, _BLIND = (1.0, 2.5, 5.0), 0.5, 0.1
#: Copies of copies that are of one group, at most: as a share of all contents, and where these are few.
_LARGEST_CHAIN, _CHAIN = 0.03, 30
_BLOCK = 256
#: Blocks from which on threads take turns, so many: each holds some 12 MB.
_MANY_BLOCKS, _THREADS = 8, 4
#: Pairs whose views are compared at once, and rows of all pairs.
_COMPARED, _ROWS = 512, 16
#: Bits between hashes that have nothing to do with one another.
_UNRELATED = 32
_DECIMALS = 5


@dataclass(frozen=True)
class Neighbourhoods:
    """Neighbourhood of each content, by which its cosines are scaled; arrays (n,) of float64."""

    near: np.ndarray  # cosine of the last of its nearest neighbours
    spread: np.ndarray  # by how much these exceed it on average
    bits: np.ndarray  # bits of the last of the nearest views
    sigma: np.ndarray

    def __len__(self) -> int:
        return len(self.near)

    def subset(self, numbers: np.ndarray) -> Neighbourhoods:
        """Those of the contents `numbers`."""
        return Neighbourhoods(*(getattr(self, name)[numbers] for name in self.__dataclass_fields__))

    def asked(self, least: float) -> np.ndarray:
        """Cosine that each content asks for where hashes say nothing; a pair needs the mean of two of them."""
        return np.minimum(self.near + least * self.spread, MAX_ASKED)

    def evidence(
        self, i: np.ndarray, j: np.ndarray, cosine: np.ndarray, apart: np.ndarray | None, quantile: float
    ) -> np.ndarray:
        """Evidence of the pairs ``i[k], j[k]`` by their cosines and by the bits `apart` of their nearest views, float64."""
        spread = (self.spread[i] + self.spread[j]) / 2
        found = np.maximum((cosine - (self.near[i] + self.near[j]) / 2) / spread, 0)
        if apart is not None:
            close = np.flatnonzero(apart <= RADIUS)
            if len(close):
                a, b, bits = i[close], j[close], apart[close]
                by_hash = self.spread[a] * self._rarity(a, bits, quantile)
                by_hash += self.spread[b] * self._rarity(b, bits, quantile)
                found[close] += by_hash / (2 * spread[close])
        return found

    def _rarity(self, i: np.ndarray, bits: np.ndarray, quantile: float) -> np.ndarray:
        from scipy.special import log_ndtr

        beyond = log_ndtr(quantile + (bits - self.bits[i]) / self.sigma[i])
        return np.maximum(log_ndtr(quantile) - beyond, 0)


@dataclass(frozen=True)
class LocalMeasure:
    """A reference to hold contents against, and from which evidence on a pair is one."""

    units: np.ndarray  # float32 (m, d): contents after the map
    hashes: np.ndarray | None  # uint64 (m, VIEWS), None for texts and where there are no views
    usable: np.ndarray | None  # bool (m, VIEWS)
    own: Neighbourhoods  # of the reference, each its own, not averaged
    start: float  # where the tail of the evidence of unrelated pairs begins
    scale: float  # by how much the evidence exceeds that on average
    share: float  # of unrelated pairs beyond it
    least: float  # from which on pairs of the reference were taken for copies
    rows: int = 0  # contents that it was drawn from

    @property
    def quantile(self) -> float:
        """Normal quantile of the share of the reference that the nearest neighbours are."""
        from scipy.special import ndtri

        return float(ndtri(min(_NEAREST / len(self.units), 0.49)))

    def threshold(self, n: int, expected: float = 1.0) -> float:
        """Evidence from which on at most `expected` false pairs are to be expected among `n` contents."""
        every = max(n * (n - 1) / 2, 1.0)
        fitted = self.start + self.scale * float(np.log(max(self.share * every / expected, 1e-12)))
        return max(fitted, self._independent(every / expected), 1.0)

    def _independent(self, pairs: float) -> float:
        """Evidence that one of so many pairs has whose neighbours are as near as chance has it; no tail is lighter."""
        # Beyond the nearest neighbours cosines have exponential tails; a sum of two such has a gamma distribution.
        beyond = float(np.log(max(pairs * _NEAREST / len(self.units), 1.0)))
        least = beyond
        if self.hashes is not None:
            for _ in range(20):
                least = beyond + float(np.log1p(least))
        return least

    def write(self, file: Path) -> None:
        """Write it to a file, ``.npz``."""
        arrays: dict[str, Any] = {"units": self.units}
        if self.hashes is not None:
            arrays |= {"hashes": self.hashes, "usable": self.usable}
        numbers = np.array([self.start, self.scale, self.share, self.least, self.rows], np.float64)
        own = np.stack([getattr(self.own, name) for name in Neighbourhoods.__dataclass_fields__])
        with file.open("wb") as opened:
            np.savez(opened, own=own, numbers=numbers, **arrays)

    @classmethod
    def read(cls, file: Path) -> LocalMeasure:
        """Read what `write` has written; a ValueError or KeyError says that it is something else."""
        with np.load(file, allow_pickle=False) as arrays:
            units, own, numbers = (arrays[name] for name in ("units", "own", "numbers"))
            hashes, usable = arrays.get("hashes"), arrays.get("usable")
        m = len(units)
        sound = own.shape == (4, m) and numbers.shape == (5,) and units.ndim == 2 and np.isfinite(units).all()
        if not sound or (hashes is not None and (hashes.shape[0] != m or usable.shape != hashes.shape)):
            raise ValueError("arrays do not fit")
        start, scale, share, least, rows = numbers.tolist()
        return cls(units, hashes, usable, Neighbourhoods(*own), start, scale, share, least, int(rows))

    def neighbourhoods(
        self, X: np.ndarray, views: ViewHashes | None, *, block: int = _BLOCK
    ) -> Neighbourhoods:
        """Hold contents, float32 (n, d) of unit length after the map, against the reference, with their views.

        `block` of them at once: few where they come one by one.
        """
        m, n = len(self.units), len(X)
        made = np.empty((4, n))
        looked_at, around = min(_LOOKED_AT, m - 1), min(_AROUND, m - 1)

        def hold(start: int) -> None:
            stop = min(start + block, n)
            # Blocks of one shape: a row's products must not depend on how many others there are.
            padded = np.zeros((block, self.units.shape[1]), np.float32)
            padded[: stop - start] = X[start:stop]
            cosine = np.round((padded @ self.units.T)[: stop - start], _DECIMALS)
            nearest = np.argpartition(-cosine, looked_at, axis=1)[:, :looked_at]
            # Equal cosines are ordered by their place, as no partition promises.
            order = np.lexsort((nearest, -np.take_along_axis(cosine, nearest, 1)), axis=1)
            nearest = np.take_along_axis(nearest, order, 1)
            values = np.take_along_axis(cosine, nearest, 1)
            made[:, start:stop] = self._judged(nearest, values, around, views, start)

        starts = range(0, n, block)
        if len(starts) < _MANY_BLOCKS:
            for start in starts:
                hold(start)
        else:
            # Most of it is no product, which BLAS would spread over its threads.
            with one_thread(), ThreadPoolExecutor(min(os.cpu_count() or 1, _THREADS)) as pool:
                list(pool.map(hold, starts))
        return Neighbourhoods(*np.round(made, _DECIMALS))

    def _judged(
        self, nearest: np.ndarray, values: np.ndarray, around: int, views: ViewHashes | None, start: int
    ) -> np.ndarray:
        """The four numbers of some contents, (4, rows), by their nearest of the reference, descending (rows, k)."""
        copies = values >= _COPY_COSINE
        apart = None
        if views is not None and self.hashes is not None and self.usable is not None:
            rows = slice(start, start + len(nearest))
            apart = cross_distances(views.hashes[rows], views.usable[rows], self.hashes, self.usable, nearest)
            copies |= apart <= _COPY_BITS
        beside = nearest[:, :around]
        spread, bits, sigma = (
            getattr(self.own, name)[beside].mean(axis=1) for name in ("spread", "bits", "sigma")
        )
        near = _last_of(values, ~copies)
        # With what that leaves, pairs that are copies stand out, and are no neighbours either.
        m, i = len(near), np.repeat(np.arange(len(near)), nearest.shape[1])
        both = Neighbourhoods(
            np.concatenate([near, self.own.near]),
            np.concatenate([spread, self.own.spread]),
            np.concatenate([bits, self.own.bits]),
            np.concatenate([sigma, self.own.sigma]),
        )
        evidence = both.evidence(
            i, m + nearest.ravel(), values.ravel(), None if apart is None else apart.ravel(), self.quantile
        )
        copies |= evidence.reshape(nearest.shape) >= self.least
        return np.stack([_last_of(values, ~copies), spread, bits, sigma])


def _last_of(values: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """The last of the first so many kept values of each row, or of as many as there are; of none, the last of all."""
    place = np.cumsum(kept, axis=1)
    wanted = np.minimum(place[:, -1], _NEAREST)
    at = np.where(wanted > 0, np.argmax(place >= np.maximum(wanted, 1)[:, None], axis=1), values.shape[1] - 1)
    return values[np.arange(len(values)), at].astype(np.float64)


def cross_distances(
    hashes: np.ndarray, usable: np.ndarray, others: np.ndarray, others_usable: np.ndarray, of: np.ndarray
) -> np.ndarray:
    """Bits between the nearest views of content i and each of the others ``of[i]``, int16 (n, k); 65 for none."""
    n, k = of.shape
    least = np.full(of.shape, 65, np.int16)
    # Many columns at once where there are few rows, and one where there are many.
    step = max(_COMPARED // max(n, 1), 1)
    mine, my_usable = hashes[:, None], usable[:, None]
    for start in range(0, k, step):
        part = slice(start, start + step)
        other = of[:, part]
        H, there = others[other], others_usable[other]
        for view in range(WHOLE_VIEWS):
            for a, one, b, two in (
                (mine[..., view], my_usable[..., view], H, there),
                (H[..., view], there[..., view], mine, my_usable),
            ):
                bits = np.bitwise_count(a[..., None] ^ b).astype(np.int16)
                bits[~(one[..., None] & two)] = 65
                np.minimum(least[:, part], bits.min(axis=2), out=least[:, part])
    return least


def all_distances(hashes: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """Bits between the nearest views of every two contents, uint8 (m, m).

    A view that cannot be used is as far from any as unrelated ones are.
    """
    m, views = hashes.shape
    apart = np.full((m, m), 64, np.uint8)
    columns, mute = np.ascontiguousarray(hashes.T), [np.flatnonzero(~each) for each in usable.T]
    # Few rows at once, which stay in the processor's cache.
    differing, bits = np.empty((_ROWS, m), np.uint64), np.empty((_ROWS, m), np.uint8)
    rows = np.arange(m)
    for view in range(WHOLE_VIEWS):
        if view:
            # Most pictures have no margin, and both of these views are the same.
            rows = np.flatnonzero((hashes[:, view] != hashes[:, 0]) | (usable[:, view] != usable[:, 0]))
        for start in range(0, len(rows), _ROWS):
            part = rows[start : start + _ROWS]
            nearest, room, found = apart[part], differing[: len(part)], bits[: len(part)]
            for other in range(views):
                np.bitwise_xor(hashes[part, view][:, None], columns[other], out=room)
                np.bitwise_count(room, out=found)
                found[:, mute[other]] = _UNRELATED
                found[~usable[part, view]] = _UNRELATED
                np.minimum(nearest, found, out=nearest)
            apart[part] = nearest
    return np.minimum(apart, apart.T)


def fit_local(
    units: np.ndarray, views: ViewHashes | None, rows: int, labelled: np.ndarray | None = None
) -> LocalMeasure:
    """Fit the neighbourhoods of a reference, float32 (m, d) of unit length, and the tail of what unrelated pairs have.

    Copies among them are looked for and left out, again and again until none is new: first what has near views, then what
    the tail of the rest has no place for. `labelled` (m, m) of int8 says of some pairs that they are copies (1) or not (-1).
    """
    m = len(units)
    if m < MIN_REFERENCE:
        raise UsageError(f"{count_of(m, 'content is', 'contents are')} too few to tell neighbourhoods apart")
    cosines = units @ units.T
    np.fill_diagonal(cosines, -1)
    apart = None if views is None else all_distances(views.hashes, views.usable)
    certain = cosines >= _COPY_COSINE
    if apart is not None:
        np.fill_diagonal(apart, 64)
        certain |= apart <= _COPY_BITS
    if labelled is not None:
        certain = (certain | (labelled > 0)) & ~(labelled < 0)
    hashes, usable = (None, None) if views is None else (views.hashes, views.usable)
    made = LocalMeasure(units, hashes, usable, _own(cosines, apart, certain), 0.0, 1.0, 1.0, np.inf, rows)
    around = min(_AROUND, m - 2)
    beside = np.empty((m, around), np.int64)
    for start in range(0, m, _BLOCK):
        part = slice(start, start + _BLOCK)
        beside[part] = np.argpartition(-cosines[part], around, axis=1)[:, :around]
    for more in _MORE_UNKNOWN:
        made, found = _fit_rounds(made, cosines, apart, certain, labelled, beside, more)
        # Where most contents have certain copies that do not stand out, what hides in the tail are others of them.
        if int(certain.sum()) < m or found[certain].mean() >= _STANDING_OUT:
            return made
    if found[certain].mean() < _BLIND:
        raise UsageError(
            "copies of most contents do not stand out: they have nothing but copies to be held against"
        )
    return made


def _fit_rounds(
    made: LocalMeasure,
    cosines: np.ndarray,
    apart: np.ndarray | None,
    certain: np.ndarray,
    labelled: np.ndarray | None,
    beside: np.ndarray,
    more: float,
) -> tuple[LocalMeasure, np.ndarray]:
    """Fit, leave out what is found, and fit again; with the pairs that stand out in the end, bool (m, m)."""
    m, known = len(cosines), int(certain.sum()) // 2
    copies = standing = certain
    for share, unknown in zip(_COPIES, _UNKNOWN, strict=True):
        excluded = _closed(copies)
        own = _own(cosines, apart, excluded)
        held = Neighbourhoods(
            own.near,
            *(getattr(own, name)[beside].mean(axis=1) for name in ("spread", "bits", "sigma")),
        )
        made = replace(made, own=own)
        i, j = _standing_out(cosines, apart, held)
        bits = None if apart is None else apart[i, j]
        evidence = held.evidence(i, j, cosines[i, j], bits, made.quantile)
        unrelated = ~excluded[i, j]
        total = (excluded.size - int(excluded.sum())) // 2
        hidden = int(max(share * _TAIL * m, more * unknown * known))
        made = _with_tail(made, evidence[unrelated], total, hidden)
        made = replace(made, least=made.threshold(m))
        standing = np.zeros_like(certain)
        standing[i, j] = evidence >= made.least
        standing |= standing.T
        found = certain | standing
        if labelled is not None:
            found &= ~(labelled < 0)
        if share == _COPIES[-1] and np.array_equal(found, copies):
            break
        copies = found
    return made, standing


def _standing_out(
    cosines: np.ndarray, apart: np.ndarray | None, held: Neighbourhoods
) -> tuple[np.ndarray, np.ndarray]:
    """The pairs ``i < j`` that have any evidence at all."""
    rows = []
    for start in range(0, len(cosines), _BLOCK):
        part = slice(start, start + _BLOCK)
        some = cosines[part] > ((held.near[part, None] + held.near[None]) / 2)
        if apart is not None:
            some |= apart[part] <= RADIUS
        i, j = np.nonzero(some)
        rows.append(np.stack([i + start, j])[:, i + start < j])
    i, j = np.concatenate(rows, axis=1)
    return i, j


def _own(cosines: np.ndarray, apart: np.ndarray | None, copies: np.ndarray) -> Neighbourhoods:
    """The tails of each content's neighbours that are no copies of it."""
    m = len(cosines)
    k = min(_NEAREST, m - 2)
    top, low = np.empty((m, k)), np.empty((m, k))
    # In parts: a reference of 3,000 has 9 million pairs.
    for start in range(0, m, _BLOCK):
        part = slice(start, start + _BLOCK)
        values = np.where(copies[part], np.float32(1), -cosines[part])
        top[part] = -np.partition(values, k, axis=1)[:, :k]
        if apart is not None:
            far = np.where(copies[part], np.uint8(64), apart[part])
            low[part] = np.partition(far, k, axis=1)[:, :k]
    near = top.min(axis=1)
    spread = np.maximum(top.mean(axis=1) - near, _MIN_SPREAD)
    if apart is None:
        return Neighbourhoods(near, spread, np.full(m, 0.0), np.full(m, 1.0))
    bits = low.max(axis=1)
    from scipy.special import ndtri

    beyond = abs(float(ndtri(min(_NEAREST / m, 0.49))))
    # Of a normal distribution the values beyond a quantile q exceed it by about sigma / (q + 1 / q).
    sigma = np.maximum((bits - low.mean(axis=1)) * (beyond + 1 / max(beyond, 0.5)), _MIN_SIGMA)
    return Neighbourhoods(near, spread, bits, sigma)


def _closed(copies: np.ndarray) -> np.ndarray:
    """Pairs that are copies of one another or of a third, each content being of one group.

    Copies of copies are of one group too, as long as that brings few together: among look-alikes chains have no end.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    m = len(copies)
    _, lead = connected_components(csr_array(copies), directed=False)
    if np.bincount(lead).max() > max(_LARGEST_CHAIN * m, _CHAIN):
        lead = np.arange(m)
        free = np.ones(m, bool)
        for row in range(m):
            if free[row]:
                members = np.flatnonzero(copies[row] & free)
                lead[members], free[members] = row, False
                free[row] = False
    together = lead[:, None] == lead[None]
    together |= copies
    return together


def _with_tail(made: LocalMeasure, evidence: np.ndarray, total: int, hidden: int) -> LocalMeasure:
    """Fit an exponential distribution to the tail of the evidence of `total` pairs, all others of which have none.

    The `hidden` largest may be of copies nobody knows of.
    """
    hidden = max(2, min(hidden, len(evidence) // 2))
    size = int(min(max(_TAIL * len(made.units), hidden + len(made.units)), len(evidence) * 0.75))
    if size <= hidden + 10:
        raise UsageError("all contents are equally alike: their vectors tell nothing apart")
    top = -np.sort(-np.partition(evidence, len(evidence) - size - 1)[len(evidence) - size - 1 :])
    start, seen = float(top[size]), top[hidden:size] - top[size]
    limit = float(top[hidden] - start)
    if limit <= 1e-9:
        raise UsageError("all contents are equally alike: their vectors tell nothing apart")
    scales = np.geomspace(limit * 0.02, limit * 20, 600)
    likelihood = -np.log(scales) - seen.mean() / scales - np.log(-np.expm1(-limit / scales))
    scale = float(scales[np.argmax(likelihood)])
    share = (size - hidden) / float(-np.expm1(-limit / scale)) / max(total, 1)
    return replace(made, start=start, scale=scale, share=share)


def reference_rows(n: int, seed: int = 0) -> np.ndarray:
    """Numbers of the contents, of `n`, that others are held against, ascending."""
    return np.sort(np.random.default_rng([seed, 5]).permutation(n)[:MAX_REFERENCE])
