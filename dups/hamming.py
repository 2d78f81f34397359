"""All pairs of 64-bit hashes within a Hamming distance, without comparing all pairs.

Two hashes that differ in at most r bits agree wholly on at least k of any r + k pieces that the 64 bits are cut into. So
for every choice of k pieces the hashes are sorted by those pieces, and only neighbours with equal keys are compared: the
multi-index hashing of Norouzi, Punjani and Fleet (2012), with several pieces to a key so that a million hashes spread over
enough keys. k is chosen by counting; k = 0 compares everything, which is best for a few hashes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, pairwise
from math import comb

import numpy as np

from ..data.images import BLANK_HASH
from ..errors import UsageError

__all__ = [
    "HammingBlock",
    "HashJoin",
    "blank_hashes",
    "cross_pairs",
    "distinct",
    "informative",
    "random_pairs_expected",
    "value_pairs",
]

BITS = 64

#: Beyond it a 64-bit pHash tells nothing: unrelated images differ in 32 bits, with a deviation of 4.
MAX_RADIUS = 20

#: A pHash has half of its bits set, unless most coefficients are zero: flat images, plain gradients.
_LEAST_SET = 12

_CANDIDATES = 2_000_000
_SORT_COST = 60  # comparisons that cost as much as sorting one hash in
_BLOCK = 500_000


@dataclass(frozen=True)
class HammingBlock:
    """Pairs in ascending order of (i, j): `i` < `j` int64 (m,), `distance` uint8 (m,)."""

    i: np.ndarray
    j: np.ndarray
    distance: np.ndarray


def informative(hashes: np.ndarray) -> np.ndarray:
    """Tell which perceptual hashes say something of their image.

    Flat images, plain gradients and a line of small print on white share a few hashes with hardly a bit set, so that they
    would all be taken for one another.
    """
    ones = np.bitwise_count(hashes)
    return (ones >= _LEAST_SET) & (ones <= BITS - _LEAST_SET)


def blank_hashes(hashes: np.ndarray) -> np.ndarray:
    """Tell which perceptual hashes are those of pictures all of one colour, ndarray of bool (n,).

    `BLANK_HASH`; in stores of before it, and for one luminance in several colours, the first bit alone: its mean.
    """
    return np.isin(hashes, np.array([BLANK_HASH, 1 << 63], np.uint64))


def distinct(codes: np.ndarray) -> np.ndarray:
    """Get the values of `codes`, int64 (m,), ascending and each once; `codes` itself is sorted on the way.

    As `numpy.unique`, which hashes integers and takes a hundred times as long for millions of them.
    """
    codes.sort()
    new = np.ones(len(codes), bool)
    np.not_equal(codes[1:], codes[:-1], out=new[1:])
    return codes[new]


def random_pairs_expected(n: int, radius: int) -> float:
    """Pairs within `radius` that `n` unrelated hashes would have, were their bits independent with half of them set.

    The bits of real images are not independent, so the true number is higher: a lower bound, to choose the radius by.
    """
    half = BITS // 2
    near = sum(comb(half, k) ** 2 for k in range(radius // 2 + 1))
    return n * (n - 1) / 2 * near / comb(BITS, half)


def value_pairs(
    values: np.ndarray, radius: int, *, max_pairs: int | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, bool]:
    """Find all pairs of distinct hashes within `radius` bits.

    Gives ``left < right`` int64 (p,), ascending, their distance uint8 (p,), and whether there are more than `max_pairs`, of
    which those with the lowest (left, right) are kept.
    """
    m = len(values)
    pieces, k = _plan(m, radius)
    masks = _masks(pieces)
    found: list[np.ndarray] = []
    held, capped = 0, False
    for chosen in combinations(range(pieces), k):
        for codes in _agreeing(values, masks, chosen, radius):
            found.append(codes)
            held += len(codes)
            if max_pairs is not None and held > 2 * max_pairs:
                found, capped = [_lowest(found, max_pairs)], True
                held = max_pairs
    codes = np.concatenate(found) if found else np.empty(0, np.int64)
    if max_pairs is not None and len(codes) > max_pairs:
        codes, capped = _lowest([codes], max_pairs), True
    codes.sort()
    left, right = np.divmod(codes, max(m, 1))
    return left, right, np.bitwise_count(values[left] ^ values[right]), capped


def cross_pairs(left: np.ndarray, right: np.ndarray, radius: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Find the pairs of a hash of `left` and one of `right` within `radius` bits; in no order, perhaps more than once."""
    pieces, k = _plan(max(len(left), len(right)), radius)
    masks = _masks(pieces)
    for chosen in combinations(range(pieces), k):
        mask = np.bitwise_or.reduce(masks[list(chosen)]) if chosen else np.uint64(0)
        order = np.argsort(right & mask)
        ranked = right[order]
        keys, key = ranked & mask, left & mask
        starts = np.searchsorted(keys, key)
        counts = np.searchsorted(keys, key, side="right") - starts
        total, first = np.cumsum(counts), 0
        while first < len(left):
            limit = (total[first - 1] if first else 0) + _CANDIDATES
            last = max(int(np.searchsorted(total, limit, side="right")), first + 1)
            rows = np.arange(first, min(last, len(left)))
            places = _ranges(starts[rows], counts[rows])
            difference = np.repeat(left[rows], counts[rows])
            difference ^= ranked[places]
            near = np.flatnonzero(np.bitwise_count(difference) <= radius)
            if len(near):
                yield rows[np.searchsorted(np.cumsum(counts[rows]), near, side="right")], order[places[near]]
            first = last


class HashJoin:
    """All pairs of hashes within a radius, equal ones too, streamed in ascending order of (i, j).

    Parameters
    ----------
    hashes : ndarray of uint64, shape (n,)
    usable : ndarray of bool, shape (n,)
        The others match nothing.
    radius : int
        0 to 20.
    max_pairs : int, optional
        Limit on pairs of distinct values held in memory; `capped` tells when it was hit. Blocks are not limited: stop
        reading.

    Raises
    ------
    UsageError
        If the radius is out of range.
    """

    def __init__(
        self, hashes: np.ndarray, usable: np.ndarray, radius: int, *, max_pairs: int | None = None
    ) -> None:
        if not 0 <= radius <= MAX_RADIUS:
            raise UsageError(f"a Hamming distance lies between 0 and {MAX_RADIUS} of 64 bits, not {radius}")
        self.nodes = np.flatnonzero(usable)
        distinct, first, inverse = np.unique(hashes[self.nodes], return_index=True, return_inverse=True)
        # Values are numbered by their first row, so that a cap keeps those of the first rows.
        order = np.argsort(first)
        number = np.empty(len(order), np.int64)
        number[order] = np.arange(len(order))
        self.value = number[inverse]
        left, right, distance, self.capped = value_pairs(distinct[order], radius, max_pairs=max_pairs)
        self._link(left, right, distance, len(distinct))
        # Rows by value, then by number; with the value in front of it the whole is ascending.
        rows = np.argsort(self.value, kind="stable")
        self._rows = rows
        self._keys = self.value[rows] * len(rows) + rows

    def _link(self, left: np.ndarray, right: np.ndarray, distance: np.ndarray, values: int) -> None:
        """For each value, the values within the radius, itself first."""
        itself = np.arange(values)
        source = np.concatenate([itself, left, right])
        order = np.argsort(source, kind="stable")
        self._near = np.concatenate([itself, right, left])[order]
        self._distance = np.concatenate([np.zeros(values, np.uint8), distance, distance])[order]
        self._starts = np.searchsorted(source[order], np.arange(values + 1))

    def __iter__(self) -> Iterator[HammingBlock]:
        n, start = len(self.nodes), 0
        degree = np.diff(self._starts)[self.value] if n else np.empty(0, np.int64)
        while start < n:
            stop = start + max(int(np.searchsorted(np.cumsum(degree[start : start + _BLOCK]), _BLOCK)), 1)
            yield from self._pairs(np.arange(start, min(stop, n)), degree)
            start = stop

    def _pairs(self, rows: np.ndarray, degree: np.ndarray) -> Iterator[HammingBlock]:
        links = _ranges(self._starts[self.value[rows]], degree[rows])
        source = np.repeat(rows, degree[rows])
        near = self._near[links]
        # Of each neighbouring value, the rows that come after this one.
        begin = np.searchsorted(self._keys, near * len(self._rows) + source, side="right")
        counts = np.searchsorted(self._keys, (near + 1) * len(self._rows)) - begin
        total = np.cumsum(counts)
        first = 0
        while first < len(source):
            limit = (total[first - 1] if first else 0) + _BLOCK
            last = int(np.searchsorted(total, limit, side="right"))
            # A row's pairs stay together, since they are ordered within the block.
            last = max(last, first + 1)
            last = int(np.searchsorted(source, source[last - 1], side="right"))
            part = slice(first, last)
            i = np.repeat(source[part], counts[part])
            j = self._rows[_ranges(begin[part], counts[part])]
            order = np.argsort(i * len(self._rows) + j)
            distance = np.repeat(self._distance[links[part]], counts[part])[order]
            if len(order):
                yield HammingBlock(self.nodes[i[order]], self.nodes[j[order]], distance)
            first = last


def _plan(m: int, radius: int) -> tuple[int, int]:
    """How many pieces to cut the bits into, and how many of them make a key."""
    costs = {}
    for k in range(5):
        pieces = radius + k
        if k == 0:
            costs[(max(pieces, 1), 0)] = m * m / 2
        elif pieces <= BITS:
            bits = BITS * k // pieces
            costs[(pieces, k)] = comb(pieces, k) * (m * _SORT_COST + m * m / 2 ** (bits + 1))
    return min(costs, key=lambda plan: costs[plan])


def _masks(pieces: int) -> np.ndarray:
    cuts = np.linspace(0, BITS, pieces + 1).round().astype(int).tolist()
    return np.array([((1 << b) - 1) ^ ((1 << a) - 1) for a, b in pairwise(cuts)], np.uint64)


def _agreeing(
    values: np.ndarray, masks: np.ndarray, chosen: tuple[int, ...], radius: int
) -> Iterator[np.ndarray]:
    """Codes ``left * m + right`` of the pairs within the radius whose first agreeing pieces are the chosen ones."""
    m = len(values)
    mask = np.bitwise_or.reduce(masks[list(chosen)]) if chosen else np.uint64(0)
    keys = values & mask
    order = np.argsort(keys)
    keys, ranked = keys[order], values[order]
    counts = np.searchsorted(keys, keys, side="right") - np.arange(m) - 1
    earlier = [masks[p] for p in range(chosen[-1] if chosen else 0) if p not in chosen]
    total, first = np.cumsum(counts), 0
    while first < m:
        limit = (total[first - 1] if first else 0) + _CANDIDATES
        last = max(int(np.searchsorted(total, limit, side="right")), first + 1)
        rows = np.arange(first, min(last, m))
        a = np.repeat(rows, counts[rows])
        b = _ranges(rows + 1, counts[rows])
        difference = ranked[a] ^ ranked[b]
        near = np.flatnonzero(np.bitwise_count(difference) <= radius)
        difference = difference[near]
        # A pair that agrees on an earlier piece too was found under another choice.
        new = np.ones(len(near), bool)
        for piece in earlier:
            new &= (difference & piece) != 0
        near = near[new]
        p, q = order[a[near]], order[b[near]]
        yield np.minimum(p, q) * m + np.maximum(p, q)
        first = last


def _ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Concatenate ``arange(start, start + count)`` over all."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(starts - (ends - counts), counts)


def _lowest(found: list[np.ndarray], count: int) -> np.ndarray:
    codes = np.concatenate(found)
    return np.partition(codes, count - 1)[:count] if len(codes) > count else codes
