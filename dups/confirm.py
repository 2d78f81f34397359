"""Pixel confirmation: candidate pairs whose thumbnails agree block by block, where hashes alone would prove nothing.

A crop, a caption over the picture, a turn by two degrees leave a hash some ten bits away, and so are unrelated pictures. So
near views only make candidates here. The region that one view shows of its picture is laid over that of the other, and each
of its blocks may move by a few pixels: copies agree in fine detail wherever nothing was drawn over them, and how far
unrelated pictures of the set agree is measured on pairs drawn at random. Turned copies are told by whole thumbnails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ..data.images import ORIENTATIONS
from .hashing import THUMB, ViewHashes, cross_pairs, informative, view_boxes

#: What undoes each of `icehouse.data.images.ORIENTATIONS`.
INVERSE = np.array([0, 1, 2, 3, 4, 7, 6, 5], np.int8)

#: Bits in which two views may differ to be a candidate, and up to how many contents: the search takes seconds beyond.
_RADII = ((10, 2_000), (8, 4_000), (6, 8_000))

#: Candidates a content, on average, beyond which fewer bits are asked for; each takes about a millisecond.
_MAX_CANDIDATES = 4

_SIDE, _BLOCKS, _MOVE = 48, 4, 3  # pixels a side of a region, blocks a side, pixels that each may move
_DETAIL = 5  # pixels; what is coarser does not count
_ROWS = 128  # pairs at once

#: Near views after which fewer bits are asked for, since everything resembles everything.
_MAX_NEAR = 1_000_000

#: Agreement that a copy is asked to reach at least, whatever the set, and beyond which unrelated pictures are as good.
_LEAST, _MOST = 0.6, 0.95
_SAMPLE, _TAIL, _SEED = 600, 0.1, 20_241
_UNRELATED_BITS = 14
_SAFETY = 10

#: Gives the thumbnails of contents (m,), uint8 (m, 64, 64), and which there are.
Thumbs = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]

#: Gives codes ``i * n + j``, ascending, of the near pairs of which one at least is new, or of all for None; and False where
#: there are too many to tell. And what knows those of contents that are not new.
Find = Callable[[np.ndarray | None], tuple[np.ndarray, bool]]
Recall = Callable[[str, Find], tuple[np.ndarray, bool]]


@dataclass(frozen=True)
class PixelPairs:
    """Pairs ``i < j`` of `n` contents that are confirmed pixel by pixel."""

    n: int
    codes: np.ndarray  # int64 (m,): ``i * n + j``, ascending, each once
    #: int8 (m,): place in `ORIENTATIONS` of how i has to be turned to be j; 0 is upright
    orientation: np.ndarray
    distance: np.ndarray  # int16 (m,): bits in which the hashes differ that made the candidate
    #: int8 (m,): 0 for duplicates, 1 where i is a collage with j in it, 2 where j is one with i in it
    container: np.ndarray

    @classmethod
    def of_any(
        cls,
        n: int,
        codes: np.ndarray,
        orientation: np.ndarray,
        distance: np.ndarray,
        container: np.ndarray | None = None,
    ) -> PixelPairs:
        """Take pairs in any order; of one pair duplicates count first, then the least distance, then upright."""
        if container is None:
            container = np.zeros(len(codes), np.int8)
        order = np.lexsort((orientation, distance, container, codes))
        _, first = np.unique(codes[order], return_index=True)
        order = order[first]
        columns = (orientation[order].astype(np.int8), distance[order].astype(np.int16))
        return cls(n, codes[order], *columns, container[order].astype(np.int8))

    @classmethod
    def none(cls, n: int) -> PixelPairs:
        """No pair at all."""
        nothing = np.empty(0, np.int64)
        return cls.of_any(n, nothing, nothing, nothing)

    def __len__(self) -> int:
        return len(self.codes)

    def __or__(self, other: PixelPairs) -> PixelPairs:
        columns = (
            np.concatenate([getattr(side, name) for side in (self, other)])
            for name in ("codes", "orientation", "distance", "container")
        )
        return PixelPairs.of_any(self.n, *columns)

    def find(self, i: np.ndarray, j: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Duplicates among these pairs, in any order, bool; orientation; distance, 65 for others; container."""
        codes = np.minimum(i, j) * self.n + np.maximum(i, j)
        orientation, distance = np.zeros(len(codes), np.int8), np.full(len(codes), 65, np.int16)
        container, found = np.zeros(len(codes), np.int8), np.zeros(len(codes), bool)
        if len(self):
            at = np.minimum(np.searchsorted(self.codes, codes), len(self) - 1)
            found = self.codes[at] == codes
            container[found] = self.container[at[found]]
            orientation[found], distance[found] = self.orientation[at[found]], self.distance[at[found]]
            orientation = np.where(i > j, INVERSE[orientation], orientation)
            container = np.where((i > j) & (container > 0), np.int8(3) - container, container)
        return found & (container == 0), orientation, distance, container

    def subset(self, numbers: np.ndarray) -> PixelPairs:
        """Those among the contents `numbers`, ascending, which are numbered from 0."""
        i, j = np.divmod(self.codes, self.n)
        held = np.isin(i, numbers) & np.isin(j, numbers)
        i, j = (np.searchsorted(numbers, side[held]) for side in (i, j))
        columns = (getattr(self, name)[held] for name in ("orientation", "distance", "container"))
        return PixelPairs(len(numbers), i * len(numbers) + j, *columns)


@dataclass(frozen=True)
class Parts:
    """Parts of pictures that may be pictures themselves; see `icehouse.dups.views`."""

    owner: np.ndarray  # int64 (p,): content
    hashes: np.ndarray  # uint64 (p,)
    boxes: np.ndarray  # float64 (p, 4)
    cell: np.ndarray  # bool (p,): of a collage, or else the picture in a screen

    def take(self, rows: np.ndarray) -> Parts:
        """Some of them."""
        return Parts(*(getattr(self, name)[rows] for name in Parts.__dataclass_fields__))


@dataclass(frozen=True)
class Pictures:
    """Thumbnails of some contents."""

    numbers: np.ndarray  # int64 (m,), ascending
    thumbs: np.ndarray  # uint8 (m, 64, 64)
    known: np.ndarray  # bool (m,)

    @classmethod
    def load(cls, thumbs: Thumbs, *numbers: np.ndarray) -> Pictures:
        """Load those of all that is asked for, once."""
        every = np.unique(np.concatenate(numbers))
        return cls(every, *thumbs(every))

    def of(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Thumbnails of contents, and which there are."""
        at = np.searchsorted(self.numbers, numbers)
        return self.thumbs[at], self.known[at]


@dataclass(frozen=True)
class Regions:
    """Regions of pictures that may show the same, pair by pair."""

    i: np.ndarray  # int64 (m,): contents
    j: np.ndarray
    box_i: np.ndarray  # float64 (m, 4): left, top, right, bottom in parts of the side
    box_j: np.ndarray
    mirrored: np.ndarray  # bool (m,)

    def __len__(self) -> int:
        return len(self.i)

    def take(self, rows: np.ndarray | slice) -> Regions:
        """Some of them."""
        return Regions(*(getattr(self, name)[rows] for name in Regions.__dataclass_fields__))


_NO_REGIONS = Regions(
    np.empty(0, np.int64), np.empty(0, np.int64), np.empty((0, 4)), np.empty((0, 4)), np.empty(0, bool)
)


def view_candidates(views: ViewHashes, boxes: np.ndarray) -> tuple[Regions, np.ndarray]:
    """Pairs that views beyond their radius may make: the regions of the nearest two views, and their distance.

    `boxes`, float (n, 4), are what is inside the margins of each picture, in parts of its sides.
    """
    n, usable = len(views.hashes), views.usable & ~np.isnan(boxes[:, :1])
    radii = [radius for radius, most in _RADII if n <= most and radius > views.radius]
    for radius in radii:
        best = _nearest(views.hashes, usable, radius, n)
        if best is None:
            continue
        near = best[best[:, 1] <= views.radius, 0]
        best = best[~np.isin(best[:, 0], near)]
        if len(best) <= _MAX_CANDIDATES * n:
            i, whole, j, view = best[:, 2:].T
            regions = Regions(
                i, j, view_boxes(boxes[i], whole), view_boxes(boxes[j], view), np.asarray(view == 2)
            )
            return regions, best[:, 1]
    return _NO_REGIONS, np.empty(0, np.int64)


def part_candidates(
    views: ViewHashes, boxes: np.ndarray, parts: Parts
) -> tuple[Regions, np.ndarray, np.ndarray]:
    """Pairs of a picture with a part and what the part may show: regions, distances, and whether the part is a cell."""
    n, usable = len(views.hashes), views.usable & ~np.isnan(boxes[:, :1])
    parts = parts.take(np.flatnonzero(informative(parts.hashes)))
    rows, shown = np.nonzero(usable)
    screens = parts.take(np.flatnonzero(~parts.cell))
    for radius in (radius for radius, most in _RADII if n <= most):
        found, near = [np.empty((0, 6), np.int64)], 0
        # A part against all views; and what two screens show.
        for left, right, owner in (
            (parts, views.hashes[rows, shown], rows),
            (screens, screens.hashes, screens.owner),
        ):
            for a, b in cross_pairs(left.hashes, right, radius):
                other = left.owner[a] != owner[b]
                a, b = a[other], b[other]
                i, j = left.owner[a], owner[b]
                codes = (np.minimum(i, j) * n + np.maximum(i, j)) * 2 + left.cell[a]
                bits = np.bitwise_count(left.hashes[a] ^ right[b]).astype(np.int64)
                number = a if left is parts else np.flatnonzero(~parts.cell)[a]
                view = shown[b] if left is parts else -1 - np.flatnonzero(~parts.cell)[b]
                found.append(np.stack([codes, bits, i, number, j, view], axis=1))
                near += len(a)
                if near > _MAX_NEAR:
                    break
        best = _least(np.concatenate(found))
        if near <= _MAX_NEAR and len(best) <= _MAX_CANDIDATES * n:
            _, bits, i, number, j, view = best.T
            within = view_boxes(boxes[j], np.maximum(view, 0))
            within[view < 0] = parts.boxes[-1 - view[view < 0]]
            return Regions(i, j, parts.boxes[number], within, np.asarray(view == 2)), bits, parts.cell[number]
    nothing = np.empty(0, np.int64)
    return _NO_REGIONS, nothing, nothing.astype(bool)


def _nearest(hashes: np.ndarray, usable: np.ndarray, radius: int, n: int) -> np.ndarray | None:
    """For each pair within the radius: code, distance, content and whole view of one, content and view of the other.

    None if there are far too many.
    """
    rows, wholes = np.nonzero(usable[:, :2])
    all_rows, all_views = np.nonzero(usable)
    held, near = [np.empty((0, 6), np.int64)], 0
    for a, b in cross_pairs(hashes[rows, wholes], hashes[all_rows, all_views], radius):
        i, j = rows[a], all_rows[b]
        other = i != j
        a, b, i, j = a[other], b[other], i[other], j[other]
        bits = np.bitwise_count(hashes[i, wholes[a]] ^ hashes[j, all_views[b]]).astype(np.int64)
        code = np.minimum(i, j) * n + np.maximum(i, j)
        held.append(np.stack([code, bits, i, wholes[a], j, all_views[b]], axis=1))
        near += len(code)
        if near > _MAX_NEAR:
            return None
    return _least(np.concatenate(held))


def _least(found: np.ndarray) -> np.ndarray:
    """Of the rows of each code, the first by distance, then by views and contents."""
    found = found[np.lexsort(found.T[::-1])]
    return found[np.append(True, found[1:, 0] != found[:-1, 0])] if len(found) else found


def confirm(
    regions: Regions,
    thumbs: Thumbs,
    n: int,
    known: np.ndarray,
    near: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> np.ndarray:
    """Tell which regions show the same, bool (m,).

    `n` is the number of contents, `known` those that have thumbnails, and `near` the distance of pairs of contents, by
    which pairs drawn at random are told to be unrelated.
    """
    if not len(regions):
        return np.empty(0, bool)
    rng = np.random.default_rng(_SEED)
    a, b = known[rng.integers(0, len(known), (2, _SAMPLE))]
    like = rng.integers(0, len(regions), _SAMPLE)
    random = Regions(a, b, regions.box_i[like], regions.box_j[like], regions.mirrored[like])
    random = random.take(np.flatnonzero((a != b) & (near(a, b) > _UNRELATED_BITS)))
    pictures = Pictures.load(thumbs, regions.i, regions.j, random.i, random.j)
    least = _LEAST
    if len(random) >= 5 / _TAIL:
        z = np.arctanh(np.clip(agreement(random, pictures), -0.999, 0.999))
        start = np.quantile(z, 1 - _TAIL)
        scale = float((z[z > start] - start).mean()) if (z > start).any() else 0.0
        # Candidates are more alike than pairs drawn at random: as if there were more of these.
        pairs = max(_SAFETY * n * (n - 1) / 2, 1 / _TAIL)
        least = max(float(np.tanh(start + scale * np.log(pairs * _TAIL))), _LEAST)
    if least > _MOST:
        return np.zeros(len(regions), bool)
    return np.asarray(agreement(regions, pictures) >= least)


def agreement(regions: Regions, pictures: Pictures) -> np.ndarray:
    """Mean correlation of the blocks of two regions, each moved to where it fits best, float64 (m,).

    -1 where a thumbnail is not there.
    """
    return np.concatenate([_agreement(part, pictures) for part in _parts(regions)] or [np.empty(0)])


def _parts(regions: Regions) -> Iterator[Regions]:
    for start in range(0, len(regions), _ROWS):
        yield regions.take(slice(start, start + _ROWS))


def _agreement(regions: Regions, pictures: Pictures) -> np.ndarray:
    (left, there), (right, known) = pictures.of(regions.i), pictures.of(regions.j)
    m, side, reach = len(regions), _SIDE // _BLOCKS, 2 * _MOVE + 1
    plain = np.zeros(m, bool)
    one = detail(_region(left, regions.box_i, plain, 0), _DETAIL)
    two = detail(_region(right, regions.box_j, regions.mirrored, _MOVE), _DETAIL)
    blocks = one.reshape(m, _BLOCKS, side, _BLOCKS, side).transpose(0, 1, 3, 2, 4)
    blocks = blocks.reshape(m, _BLOCKS, _BLOCKS, side * side)
    blocks = blocks - blocks.mean(axis=3, keepdims=True)
    around = sliding_window_view(two, (side + 2 * _MOVE, side + 2 * _MOVE), axis=(1, 2))[:, ::side, ::side]
    moved = sliding_window_view(around, (side, side), axis=(3, 4))
    moved = moved.reshape(m, _BLOCKS, _BLOCKS, reach * reach, side * side)
    # What a block has of detail, here and there; a plain one says little, and counts as little.
    here = np.square(blocks).sum(axis=3)
    sums = moved.sum(axis=4)
    there_ = np.maximum(np.einsum("...i,...i->...", moved, moved) - sums * sums / (side * side), 0)
    product = np.maximum(here[..., None] * there_, 1e-6)
    cosine = (moved @ blocks[..., None])[..., 0] / np.sqrt(product)
    best = cosine.argmax(axis=3)[..., None]
    weight = np.take_along_axis(product, best, 3)[..., 0] ** 0.25
    cosine = np.take_along_axis(cosine, best, 3)[..., 0]
    agreed = (cosine * weight).sum(axis=(1, 2)) / weight.sum(axis=(1, 2))
    return np.where(there & known, agreed.astype(np.float64), -1.0)


def _region(thumbs: np.ndarray, boxes: np.ndarray, mirrored: np.ndarray, around: int) -> np.ndarray:
    """Cut regions out of thumbnails, scaled to `_SIDE` pixels with `around` more on each side, float32 (m, s, s)."""
    across = _weights(boxes[:, 0], boxes[:, 2], around)
    across = np.where(mirrored[:, None, None], across[:, ::-1], across)
    down = _weights(boxes[:, 1], boxes[:, 3], around)
    return down @ thumbs.astype(np.float32) @ across.transpose(0, 2, 1)


def _weights(start: np.ndarray, stop: np.ndarray, around: int) -> np.ndarray:
    """Share of each pixel of a thumbnail in each of a region, float32 (m, s, 64); beyond the edge it goes on."""
    step = (stop - start) / _SIDE * THUMB
    places = start[:, None] * THUMB - 0.5 + (np.arange(-around, _SIDE + around) + 0.5) * step[:, None]
    places = np.clip(places, 0, THUMB - 1)
    width = np.maximum(step, 1)[:, None, None]
    weights = np.maximum(1 - np.abs(places[:, :, None] - np.arange(THUMB)) / width, 0)
    weights /= weights.sum(axis=2, keepdims=True)
    return weights.astype(np.float32)


def detail(pictures: np.ndarray, size: int) -> np.ndarray:
    """Pictures (..., s, s) without the mean of so many pixels around each, an odd number; their edges go on beyond them."""
    *many, high, wide = pictures.shape
    before = size // 2
    across = np.empty((*many, high, wide + size - 1), pictures.dtype)
    across[..., before : before + wide] = pictures
    across[..., :before], across[..., before + wide :] = pictures[..., :1], pictures[..., -1:]
    _add_next(across, size, 1)
    down = np.empty((*many, high + size - 1, wide), pictures.dtype)
    down[..., before : before + high, :] = across[..., :wide]
    down[..., :before, :], down[..., before + high :, :] = across[..., :1, :wide], across[..., -1:, :wide]
    _add_next(down, size, wide)
    mean = down[..., :high, :] / np.float32(size * size)
    return np.asarray(np.subtract(pictures, mean, out=mean))


def _add_next(values: np.ndarray, count: int, step: int) -> None:
    """Add to each value the next ones, `step` apart, so that it is the sum of `count`; the last ones have too few."""
    # In one line, as short rows take longer. Sums of 1, 2, 4, ... values, of which those of any number are made.
    line = values.reshape(-1)
    length = len(line) - (count - 1) * step
    some, held, doubled = line, 0, 1
    total: Any = None
    while True:
        if count & doubled:
            part = some[held * step : held * step + length]
            total, held = part if total is None else total + part, held + doubled
        if 2 * doubled > count:
            break
        some = some[: -doubled * step] + some[doubled * step :]
        doubled *= 2
    line[:length] = total


# Eight orientations are eight times as many comparisons, and among pictures of one kind (solar cells, cloth) some are near a
# mirrored neighbour by chance. So a near hash only makes a candidate. It is a pair if the thumbnails agree once one of them
# is turned: the fine detail of a copy correlates at .98 and more where there is any, and how far unrelated pictures of the
# set agree is measured on pairs drawn at random.

#: Bits in which the hashes of a picture and of its turned copy may differ; saved as JPEG and halved they differ in up to 4.
RADIUS = 6

#: Candidates, and contents in them, beyond which fewer bits are asked for: what is near in so many ways proves nothing.
_MOST_CANDIDATES, _MOST_CONTENTS = 500_000, 100_000

#: Correlations that a copy is asked to reach, at least and at most, whatever the set: of detail, and of the whole picture.
#: A smooth picture has no detail but what JPEG makes, and pictures of one kind are alike in all but their detail.
_TURNED_LEAST = np.array([0.85, 0.98])
_TURNED_MOST = np.array([0.99, 0.998])

_TURNED_SAMPLE = 8192  # pairs drawn at random
_TURNED_UNRELATED = 10
_TURNED_TAIL = 0.05  # share of them that the tail is fitted to
_TURNED_BLOCK = 1024
_AT_ONCE = 32
_TURNED_SEED = 20_240


def turned_pairs(
    turned: np.ndarray, there: np.ndarray, thumbs: Thumbs, recall: Recall | None = None
) -> PixelPairs | None:
    """Find the turned copies among n contents; None where so many are near by chance that nothing can be told.

    Takes the hashes of each content in the `ORIENTATIONS`, uint64 (n, 8), and which there are, bool (n,). Given a name, and
    what `find` finds of the contents that are new, bool (n,), or of all for None, `recall` gives what it finds of all.
    """
    recall = recall or (lambda _, find: find(None))
    found = _candidates(turned, there & informative(turned[:, 0]), recall)
    if found is None:
        return None
    codes, orientation, distance, radius = found
    if not len(codes):
        return PixelPairs.none(len(turned))
    i, j = np.divmod(codes, len(turned))

    def agreed(at: np.ndarray) -> np.ndarray:
        pictures, blocks = Pictures.load(thumbs, i[at], j[at]), [np.empty((2, 0))]
        for start in range(0, len(at), _TURNED_BLOCK):
            rows = at[start : start + _TURNED_BLOCK]
            blocks.append(_agreed(pictures, i[rows], j[rows], orientation[rows]))
        return np.concatenate(blocks, axis=1)

    def alike(new: np.ndarray | None) -> tuple[np.ndarray, bool]:
        at = np.flatnonzero(np.ones(len(codes), bool) if new is None else new[i] | new[j])
        return np.unique(codes[at[_reach(agreed(at), _TURNED_LEAST)]]), True

    maybe, _ = recall("alike", alike) if radius == RADIUS else alike(None)
    at = np.flatnonzero(np.isin(codes, maybe))
    if not len(at):
        return PixelPairs.none(len(turned))
    values = agreed(at)
    kept = _reach(values, _TURNED_MOST)
    if (kept != _reach(values, _TURNED_LEAST)).any():
        # Between the two it depends on how far unrelated pictures agree.
        sample = _drawn_rows(there)
        pictures = Pictures.load(thumbs, sample)
        kept = _reach(values, _least_correlations(turned, sample, int(there.sum()), pictures))
    at = at[kept]
    return PixelPairs.of_any(len(turned), codes[at], orientation[at], distance[at])


def _reach(agreed: np.ndarray, least: np.ndarray) -> np.ndarray:
    """Tell which candidates reach the least correlation of one of the `_forms`."""
    return np.asarray((agreed >= least[:, None]).any(axis=0))


def turn(pictures: np.ndarray, orientation: int) -> np.ndarray:
    """Lay square pictures (..., s, s) in one of the `ORIENTATIONS`, by its place there."""
    if orientation >= 4:
        pictures = np.swapaxes(pictures, -1, -2)
    if orientation % 4 in (1, 2):
        pictures = pictures[..., ::-1]
    if orientation % 4 in (2, 3):
        pictures = pictures[..., ::-1, :]
    return pictures


def _candidates(
    turned: np.ndarray, usable: np.ndarray, recall: Recall
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int] | None:
    """Pairs with a near turned hash, nearer than upright ones: codes, orientations and distances; and the radius."""
    for radius in range(RADIUS, -1, -2):
        find = partial(_near_turned, turned, usable, radius)
        codes, whole = recall("turned", find) if radius == RADIUS else find(None)
        i, j = np.divmod(codes, max(len(turned), 1))
        held = []
        for orientation in range(1, len(ORIENTATIONS)):
            for a, b, how in ((i, j, orientation), (j, i, INVERSE[orientation])):
                distance = np.bitwise_count(turned[a, orientation] ^ turned[b, 0])
                upright = np.bitwise_count(turned[a, 0] ^ turned[b, 0])
                at = np.flatnonzero((distance <= radius) & (distance < upright))
                held.append(np.stack([codes[at], np.full(len(at), how), distance[at]]))
        codes, how, bits = np.concatenate(held, axis=1)
        # Each is found from both of its ends.
        if not whole or len(codes) > 2 * _MOST_CANDIDATES or len(np.unique([i, j])) > _MOST_CONTENTS:
            continue
        order = np.lexsort((bits, how, codes))
        pairs = codes[order] * len(ORIENTATIONS) + how[order]
        order = order[np.append(True, pairs[1:] != pairs[:-1])] if len(order) else order
        return codes[order], how[order].astype(np.int8), bits[order].astype(np.int16), radius
    return None


def _near_turned(
    turned: np.ndarray, usable: np.ndarray, radius: int, new: np.ndarray | None
) -> tuple[np.ndarray, bool]:
    """Codes, ascending, of pairs of which one is turned near the other, and False where there are too many.

    With `new`, bool (n,), those of which one at least is new.
    """
    n, rows = len(turned), np.flatnonzero(usable)
    fresh = rows if new is None else rows[new[rows]]
    held, count = [np.empty(0, np.int64)], 0
    for orientation in range(1, len(ORIENTATIONS)):
        for some, others in ((fresh, rows), (rows, fresh))[: 1 if new is None else 2]:
            for a, b in cross_pairs(turned[some, orientation], turned[others, 0], radius):
                a, b = some[a], others[b]
                distance = np.bitwise_count(turned[a, orientation] ^ turned[b, 0])
                near = (distance < np.bitwise_count(turned[a, 0] ^ turned[b, 0])) & (a != b)
                a, b = a[near], b[near]
                held.append(np.minimum(a, b) * n + np.maximum(a, b))
                count += len(a)
            if count > 4 * _MOST_CANDIDATES:
                return np.empty(0, np.int64), False
    return np.unique(np.concatenate(held)), True


def _drawn_rows(there: np.ndarray) -> np.ndarray:
    rows = np.flatnonzero(there)
    if len(rows) > _TURNED_BLOCK:
        rows = np.sort(np.random.default_rng(_TURNED_SEED).choice(rows, _TURNED_BLOCK, replace=False))
    return rows


def _least_correlations(turned: np.ndarray, rows: np.ndarray, count: int, pictures: Pictures) -> np.ndarray:
    """Correlations, of each of the `_forms`, that less than one turned pair of `count` unrelated contents would reach."""
    rng = np.random.default_rng(_TURNED_SEED)
    thumbs, known = pictures.of(rows)
    a, b = rng.integers(0, len(rows), (2, _TURNED_SAMPLE))
    how = rng.integers(1, len(ORIENTATIONS), _TURNED_SAMPLE)
    apart = np.bitwise_count(turned[rows[a], how] ^ turned[rows[b], 0])
    kept = (a != b) & known[a] & known[b] & (apart > _TURNED_UNRELATED)
    a, b, how = a[kept], b[kept], how[kept]
    if len(a) < 2 / _TURNED_TAIL:
        return _TURNED_LEAST
    pairs = max(count * (count - 1) / 2 * (len(ORIENTATIONS) - 1), 1 / _TURNED_TAIL)
    # Few at once, as many as the processor's cache holds.
    parts = {
        k: list(
            zip(*(np.array_split(side[how == k], (how == k).sum() // 32 + 1) for side in (a, b)), strict=True)
        )
        for k in set(how.tolist())
    }
    least = []
    for forms in _forms(thumbs):
        values: list[np.ndarray] = []
        for k in set(how.tolist()):
            each = np.ascontiguousarray(turn(forms, k))
            values.extend(np.vecdot(_flat(each[one]), _flat(forms[two])) for one, two in parts[k])
        z = np.arctanh(np.clip(np.concatenate(values), -0.9999, 0.9999))
        start = np.quantile(z, 1 - _TURNED_TAIL)
        scale = float((z[z > start] - start).mean()) if (z > start).any() else 0.0
        least.append(np.tanh(start + scale * np.log(pairs * _TURNED_TAIL)))
    return np.asarray(np.clip(least, _TURNED_LEAST, _TURNED_MOST))


def _agreed(pictures: Pictures, i: np.ndarray, j: np.ndarray, orientation: np.ndarray) -> np.ndarray:
    """Correlation of each of the `_forms` of candidates, once turned, float (2, m); -1 where they agree upright as well."""
    numbers, at = np.unique(np.concatenate([i, j]), return_inverse=True)
    thumbs, known = pictures.of(numbers)
    a, b = at[: len(i)], at[len(i) :]
    agreed = np.full((2, len(i)), -1.0)
    for row, forms in zip(agreed, _forms(thumbs), strict=True):
        for k in set(orientation.tolist()):
            rows = np.flatnonzero((orientation == k) & known[a] & known[b])
            left, right = forms[a[rows]], _flat(forms[b[rows]])
            found, upright = np.vecdot(_flat(turn(left, k)), right), np.vecdot(_flat(left), right)
            # What is as much its own mirror image as its copy's is told by the upright hashes.
            row[rows] = np.where(1 - found <= (1 - upright) / 2, found, -1.0)
    return agreed


def _forms(thumbs: np.ndarray) -> Iterator[np.ndarray]:
    """Pictures (m, 64, 64) without what is coarser than 5 pixels, then as they are; centred, of unit length, float32."""
    for coarser in (True, False):
        forms = np.empty(thumbs.shape, np.float32)
        # As many at once as the processor's cache holds.
        for start in range(0, len(thumbs), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            form = thumbs[part].astype(np.float32)
            if coarser:
                form = detail(form, _DETAIL)
            form -= form.mean(axis=(1, 2), keepdims=True)
            length = np.sqrt(np.square(form).sum(axis=(1, 2), keepdims=True))
            np.divide(form, np.where(length > 0, length, 1), out=forms[part])
        yield forms


def _flat(pictures: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(pictures).reshape(len(pictures), THUMB * THUMB)
