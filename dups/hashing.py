"""Perceptual hashes compared: all pairs within a Hamming distance, of pictures and of their views.

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
from typing import Any

import numpy as np

from ..data.images import BLANK_HASH
from ..errors import UsageError

BITS = 64

#: Beyond it a 64-bit pHash tells nothing: unrelated images differ in 32 bits, with a deviation of 4.
MAX_RADIUS = 20

#: A pHash has half of its bits set, unless most coefficients are zero: flat images, plain gradients.
_MIN_BITS = 12

_CANDIDATES = 2_000_000
_SORT_COST = 60  # comparisons that cost as much as sorting one hash in

#: What it takes to compare two hashes, each with each, in units of looking one up; to begin with a table; and how much
#: more often hashes of pictures agree in a piece than random ones.
_COMPARED, _LOOK_UP, _COMMON = 0.15, 50_000, 4
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)

#: Hashes that are looked up at once.
_TOGETHER = 65_536
_HELD = 32_768
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
    return (ones >= _MIN_BITS) & (ones <= BITS - _MIN_BITS)


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
    """Find the pairs of a hash of `left` and one of `right` within `radius` bits; in no order, each once.

    The fewer of them are put into a table by those of their bits that are to agree, and the others are looked up in it a
    block at a time: as many are soon read as fit into the processor's cache, while sorting millions takes seconds.
    """
    few, many = (left, right) if len(left) <= len(right) else (right, left)
    if not len(few):
        return
    # A picture without margins has one hash twice.
    values, of = np.unique(few, return_inverse=True)
    rows, counts = np.argsort(of, kind="stable"), np.bincount(of)
    starts = np.cumsum(counts) - counts
    for a, b in _near_values(values, many, radius):
        equal = counts[a]
        a, b = rows[_ranges(starts[a], equal)], np.repeat(b, equal)
        yield (a, b) if few is left else (b, a)


def _near_values(few: np.ndarray, many: np.ndarray, radius: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """As `cross_pairs`, of two sides the first of which has fewer."""
    pieces, k = _cross_plan(len(few), len(many), radius)
    if not k:
        yield from _every_pair(few, many, radius)
        return
    masks = _masks(pieces)
    for chosen in combinations(range(pieces), k):
        mask = np.bitwise_or.reduce(masks[list(chosen)])
        earlier = [masks[p] for p in range(chosen[-1]) if p not in chosen]
        for a, b in _agreeing_across(few, many, mask, radius):
            difference = few[a] ^ many[b]
            # What a table's place has in common is not all, and pairs that agree on an earlier piece were found there.
            new = (difference & mask) == 0
            for piece in earlier:
                new &= (difference & piece) != 0
            if new.any():
                yield a[new], b[new]


def _every_pair(few: np.ndarray, many: np.ndarray, radius: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """As `cross_pairs`, comparing each with each, in one buffer that the processor's cache holds."""
    differing = np.empty(min(len(many), _HELD), np.uint64)
    for start in range(0, len(many), _HELD):
        part = many[start : start + _HELD]
        room = differing[: len(part)]
        for k, one in enumerate(few):
            near = np.bitwise_count(np.bitwise_xor(part, one, out=room)) <= radius
            if near.any():
                b = np.flatnonzero(near)
                yield np.full(len(b), k), b + start


def _agreeing_across(
    few: np.ndarray, many: np.ndarray, mask: np.uint64, radius: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs within the radius of hashes that agree in the bits of a mask, and of some others; a block at a time."""
    bits = _table_bits(len(few))
    shift = np.uint64(BITS - bits)
    keys = _places(few, mask, shift)
    counts = np.bincount(keys, minlength=1 << bits)
    starts, order = np.cumsum(counts) - counts, np.argsort(keys, kind="stable")
    ranked, there = few[order], counts > 0
    for begin in range(0, len(many), _TOGETHER):
        block = many[begin : begin + _TOGETHER]
        keys = _places(block, mask, shift)
        rows = np.flatnonzero(there.take(keys))
        keys = keys[rows]
        total, first = np.cumsum(counts[keys]), 0
        while first < len(rows):
            limit = (total[first - 1] if first else 0) + _CANDIDATES
            last = max(int(np.searchsorted(total, limit, side="right")), first + 1)
            part = slice(first, last)
            held = counts[keys[part]]
            places = _ranges(starts[keys[part]], held)
            difference = np.repeat(block[rows[part]], held)
            difference ^= ranked[places]
            near = np.flatnonzero(np.bitwise_count(difference) <= radius)
            if len(near):
                ends = np.cumsum(held)
                yield order[places[near]], rows[part][np.searchsorted(ends, near, side="right")] + begin
            first = last


def _places(hashes: np.ndarray, mask: np.uint64, shift: np.uint64) -> np.ndarray:
    """Places of hashes in a table by the bits of a mask, int64 (n,): multiplicative hashing."""
    keys = hashes & mask
    keys *= _MULTIPLIER
    keys >>= shift
    return keys.view(np.int64)


def _table_bits(few: int) -> int:
    return min(max(few.bit_length() + 2, 8), 20)


def _cross_plan(few: int, many: int, radius: int) -> tuple[int, int]:
    """How many pieces to cut the bits into, and how many of them make a key; none where comparing everything is as fast."""
    table = _table_bits(few)
    costs = {(max(radius, 1), 0): _LOOK_UP + few * many * _COMPARED}
    for k in range(1, 5):
        pieces = radius + k
        if pieces <= BITS:
            candidates = few * many * (_COMMON / 2 ** (BITS * k // pieces) + 1 / 2**table)
            costs[(pieces, k)] = comb(pieces, k) * (_LOOK_UP + 4 * (few + 2**table) + many + candidates)
    return min(costs, key=lambda plan: costs[plan])


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
    """Number of pieces into which the bits are cut, and number of pieces in a key."""
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


# A pHash sees the picture as a whole: cut a tenth off and half of its bits are others. So a picture is hashed as it is,
# without its uniform margins and caption bands (`content_box`), mirrored, and as what crops of some sizes and places would
# leave of it. Of two pictures one's whole or trimmed hash is held against all of the other's: that finds a crop without
# knowing where it was made.


#: The first views of a picture, which are held against all: the whole picture, and it without margins.
WHOLE_VIEWS = 2

#: Side of the thumbnail that is kept of a picture.
THUMB = 64

#: Crops of a picture: how much is cut off, and where they lie, in parts of the sides.
CUTS = (0.04, 0.08, 0.12, 0.16)
PLACES = (0.0, 1 / 3, 2 / 3, 1.0)

#: Hashes of a picture: whole, trimmed, mirrored, and crops.
VIEWS = WHOLE_VIEWS + 1 + len(CUTS) * len(PLACES) ** 2


def view_boxes(boxes: np.ndarray, views: np.ndarray) -> np.ndarray:
    """Boxes of views in their pictures: left, top, right, bottom in parts of the sides, float64 (m, 4).

    `boxes` (m, 4) are what is inside the margins, `views` (m,) numbers of views; the mirrored one lies where the trimmed
    one does.
    """
    inside = [(0.0, 0.0, 1.0, 1.0)] * (WHOLE_VIEWS + 1)
    inside += [(x * cut, y * cut, 1 - cut, 1 - cut) for cut in CUTS for y in PLACES for x in PLACES]
    left, top, width, height = np.array(inside)[views].T
    outer = np.where((views == 0)[:, None], np.array([0.0, 0.0, 1.0, 1.0]), boxes)
    start, size = outer[:, :2], outer[:, 2:] - outer[:, :2]
    first = start + np.stack([left, top], axis=1) * size
    return np.concatenate([first, first + np.stack([width, height], axis=1) * size], axis=1)


#: Near views after which the search is given up: as many come of 20,000 frames of one film in no time.
_MAX_NEAR = 100_000_000

#: Unrelated pictures of one set are near so much more often than random hashes would be (measured on sample feeds).
_UNEVEN = 500

#: Bits in which the whole or the trimmed hashes may differ where the agreement of all views decides.
_AGREEMENT_BITS = 10

#: A picture has dozens of views, and with 6 bits one feed in seven had a false pair among its hundreds of pictures.
MAX_VIEW_BITS = 4


@dataclass
class ViewHashes:
    """Hashes of the views of some contents."""

    hashes: np.ndarray  # uint64 (n, VIEWS)
    usable: np.ndarray  # bool (n, VIEWS): informative ones; none where the file could not be read
    radius: int  # bits in which two views of one picture may differ; -1 where near views prove nothing
    least: float | None = None  # agreement from which on two pictures are one; None where it is not asked

    def subset(self, numbers: np.ndarray) -> ViewHashes:
        """Those of the contents `numbers`."""
        return ViewHashes(self.hashes[numbers], self.usable[numbers], self.radius, self.least)

    def signs(self, numbers: np.ndarray) -> np.ndarray:
        """The bits of all usable views of the contents `numbers` as signs, of unit length; float32 (m, VIEWS * 64)."""
        bits = np.unpackbits(self.hashes[numbers].astype(">u8").view(np.uint8), axis=1)
        signs = bits.reshape(len(numbers), VIEWS, 64).astype(np.float32) * 2 - 1
        usable = self.usable[numbers]
        signs *= usable[:, :, None] / np.sqrt(np.maximum(usable.sum(axis=1), 1) * 64)[:, None, None]
        return signs.reshape(len(numbers), VIEWS * 64)

    def agreement(self, i: np.ndarray, j: np.ndarray, *, near: bool = True) -> np.ndarray:
        """Cosine of the `signs` of each pair, float64; -1 if `near` and neither whole nor trimmed hashes are."""
        agreed = np.empty(len(i))
        for start in range(0, len(i), 16384):
            a, b = i[start : start + 16384], j[start : start + 16384]
            apart = np.bitwise_count(self.hashes[a] ^ self.hashes[b]).astype(np.int64)
            both = self.usable[a] & self.usable[b]
            common = ((64 - 2 * apart) * both).sum(axis=1)
            most = self.usable[a].sum(axis=1) * self.usable[b].sum(axis=1)
            cosine = common / 64 / np.sqrt(np.maximum(most, 1))
            if near:
                close = (both[:, :WHOLE_VIEWS] & (apart[:, :WHOLE_VIEWS] <= _AGREEMENT_BITS)).any(axis=1)
                cosine = np.where(close, cosine, -1.0)
            agreed[start : start + 16384] = cosine
        return agreed

    def found(self, i: np.ndarray, j: np.ndarray, nearest: np.ndarray) -> np.ndarray:
        """Tell which pairs are found, given their `distance`."""
        near: np.ndarray = nearest <= self.radius
        if self.least is not None:
            near = near | (self.agreement(i, j) >= self.least)
        return near

    def distance(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Least distance of a whole view of one and any view of the other, for each pair; 65 where there is none."""
        least = np.full(len(i), 65, np.int16)
        for start in range(0, len(i), 16384):
            part = slice(start, start + 16384)
            for a, b in ((i[part], j[part]), (j[part], i[part])):
                for view in range(WHOLE_VIEWS):
                    apart = np.bitwise_count(self.hashes[a, view][:, None] ^ self.hashes[b]).astype(np.int16)
                    apart[~(self.usable[a, view][:, None] & self.usable[b])] = 65
                    least[part] = np.minimum(least[part], apart.min(axis=1))
        return least

    def linked(self, i: np.ndarray, j: np.ndarray, nearest: np.ndarray) -> np.ndarray:
        """Tell which pairs are as near as two found ones in a row can bring them, given their `distance`."""
        near: np.ndarray = nearest <= 2 * self.radius if self.radius >= 0 else np.zeros(len(i), bool)
        if self.least is not None:
            near = near | (self.agreement(i, j, near=False) >= 2 * self.least**2 - 1)
        return near

    def pairs(self, most: int, new: np.ndarray | None = None) -> tuple[np.ndarray, bool]:
        """Find all pairs ``i < j`` within the radius, or those of which one at least is `new`, bool (n,).

        Codes ``i * n + j``, ascending, the lowest `most` if there are more; or none and False, because everything resembles
        everything.
        """
        n = len(self.hashes)
        codes, held = np.empty(0, np.int64), [np.empty(0, np.int64)]
        waiting = near = 0
        for i, j, looked_at in self._candidates(new):
            near += looked_at
            if near > _MAX_NEAR:
                return np.empty(0, np.int64), False
            held.append(np.minimum(i, j) * n + np.maximum(i, j))
            waiting += len(i)
            if waiting > 4_000_000:
                codes, held, waiting = distinct(np.concatenate([codes, *held]))[:most], [], 0
        return distinct(np.concatenate([codes, *held]))[:most], True

    def _candidates(self, new: np.ndarray | None) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
        """Pairs that are found, in no order and perhaps more than once, and how many were looked at for them."""
        every = np.ones(len(self.hashes), bool)
        sides = [(every, every)] if new is None else [(new, every), (~new, new)]
        if self.radius >= 0:
            for one, other in sides:
                rows, views = np.nonzero(self.usable[:, :WHOLE_VIEWS] & one[:, None])
                all_rows, all_views = np.nonzero(self.usable & other[:, None])
                left, right = self.hashes[rows, views], self.hashes[all_rows, all_views]
                for a, b in cross_pairs(left, right, self.radius):
                    i, j = rows[a], all_rows[b]
                    i, j = i[i != j], j[i != j]
                    yield i, j, len(i)
        if self.least is None:
            return
        for view in range(WHOLE_VIEWS):
            rows = np.flatnonzero(self.usable[:, view])
            lead = rows if new is None else rows[new[rows]]
            for a, b in cross_pairs(self.hashes[lead, view], self.hashes[rows, view], _AGREEMENT_BITS):
                i, j = lead[a], rows[b]
                kept = i < j if new is None else i != j
                i, j = i[kept], j[kept]
                agreed = self.agreement(i, j) >= self.least
                yield i[agreed], j[agreed], len(i)


def view_radius(n: int, hamming: int, expected: float = 1.0) -> int:
    """Choose the radius for views: at most `hamming` and 4, and less where `n` contents would have false pairs by chance.

    -1 if not even equal hashes would do.
    """
    comparisons = n * (n - 1) / 2 * 2 * WHOLE_VIEWS * VIEWS * _UNEVEN
    for radius in range(min(hamming, MAX_VIEW_BITS), -1, -1):
        near = sum(comb(32, k) ** 2 for k in range(radius // 2 + 1))
        if comparisons * near / comb(64, 32) <= expected:
            return radius
    return -1


#: Contents whose views are compared with those of one at once.
_VIEWED = 1024


class RecentViews:
    """Views and thumbnails of the latest `size` arrivals that were new; those before give way to them."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._views = np.zeros((size, VIEWS), np.uint64)
        self._thumbs = np.zeros((size, THUMB, THUMB), np.uint8)
        self._pictured = np.zeros(size, bool)
        self._slots = np.full(size, -1, np.int64)
        self._serials = np.full(size, -1, np.int64)
        self._upto = 0  # rows that were ever used

    @property
    def any(self) -> bool:
        """Whether any of the arrivals has views."""
        return bool(self._views[: self._upto].any())

    @property
    def arrays(self) -> list[np.ndarray]:
        """All arrays."""
        return [self._views, self._thumbs, self._pictured, self._slots, self._serials]

    def put(self, serial: int, slot: int, views: np.ndarray, thumb: np.ndarray | None) -> None:
        """Remember the views of the arrival `serial`, whose content is at `slot`; 0 for none."""
        row = serial % self.size
        self._views[row], self._slots[row], self._serials[row] = views, slot, serial
        self._pictured[row] = thumb is not None
        if thumb is not None:
            self._thumbs[row] = thumb
        self._upto = max(self._upto, row + 1)

    def holds(self, serials: Any, count: int) -> Any:
        """Whether the views of arrivals are among the latest, when `count` have come."""
        return (self._serials[serials % self.size] == serials) & (count - serials <= self.size)

    def of(self, serials: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Views of arrivals, uint64 (n, VIEWS), and which have any; 0 for the others."""
        there = self.holds(serials, count)
        views = self._views[serials % self.size] * there[:, None]
        return views, there & views.any(axis=1)

    def pictured(self, serials: np.ndarray) -> np.ndarray:
        """Which of the arrivals, all of them held, have a thumbnail."""
        return self._pictured[serials % self.size]

    def thumbs_of(self, serials: np.ndarray) -> np.ndarray:
        """Thumbnails of arrivals that are held."""
        return self._thumbs[serials % self.size]

    def near(self, views: np.ndarray, radius: int, agreement: bool) -> tuple[np.ndarray, np.ndarray]:
        """Slots with a view within the radius of one of `views` (VIEWS,), and the arrivals that had them, perhaps gone."""
        rows = np.flatnonzero(near_views(views, self._views[: self._upto], radius, agreement))
        return self._slots[rows], self._serials[rows]


def near_views(one: np.ndarray, many: np.ndarray, radius: int, agreement: bool) -> np.ndarray:
    """Tell which of `many` (n, VIEWS) have a view within the radius of one of `one` (VIEWS,), or may agree with it.

    What says nothing may count as near.
    """
    near = np.zeros(len(many), bool)
    useful = informative(one)
    wholes = {int(value) for value, tells in zip(one[:WHOLE_VIEWS], useful, strict=False) if tells}
    every = np.unique(one[useful])
    for start in range(0, len(many), _VIEWED):
        block = many[start : start + _VIEWED]
        for value in wholes:
            bits = np.bitwise_count(block ^ np.uint64(value))
            if bits.min() <= radius:
                near[start : start + _VIEWED] |= (bits <= radius).any(axis=1)
    for view in range(WHOLE_VIEWS):
        # Most pictures have no margin, and both of these views are the same.
        rows = np.flatnonzero((many[:, [view]] != many[:, :view]).all(axis=1))
        whole = many[rows, view]
        least = np.full(len(rows), BITS, np.uint8)
        for value in every:
            np.minimum(least, np.bitwise_count(whole ^ value), out=least)
        near[rows] |= least <= radius
    if agreement:
        near |= (np.bitwise_count(many[:, :WHOLE_VIEWS] ^ one[:WHOLE_VIEWS]) <= _AGREEMENT_BITS).any(axis=1)
    return near
