"""Pixel registration of two pictures, and their agreement once one is laid over the other.

Hashes and embeddings say that two pictures are alike; whether they are the same picture is seen in their pixels. Blocks of
one are looked for in the other at several scales, and the similarity that most of them vote for (RANSAC; Fischler and
Bolles 1981) lays one over the other. It is refined block by block. Then the phases of overlapping windows are compared,
each frequency like another: lines and edges that all pictures of a kind share fill few of them, and the grain of a surface,
of which every photograph has its own, fills the rest. A copy agrees after a crop, a border, words, a turn by a few degrees,
a mirror image, blur, other levels; another photograph of a like thing does not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, lru_cache
from itertools import pairwise

import numpy as np
from numpy.lib.stride_tricks import as_strided
from PIL import Image

from ..data.images import oriented
from .confirm import detail

#: Pixels of the longest side: as a picture is kept, as it is compared, and as its blocks are looked for.
_SOURCE, FRAME, _COARSE = 448, 224, 64

#: Pixels a side of a block that is looked for, most blocks a side, and levels of detail that one needs at least.
_BLOCK, _GRID, _PLAIN = 16, 5, 1.5
#: Cosines a side that such a block is looked for by.
_KEPT_COSINES = 10
#: Times that one picture shows things larger than the other.
_SCALES = (1.0, 1.2, 0.83, 1.45, 0.69, 1.75, 0.57)
#: Of these, and of a turn in radians, a vote may differ; votes that are nearer than so many pixels agree.
_SCALE_OFF, _TURN, _NEAR = 0.18, 0.14, 1.8
_LEAST_VOTE = 0.3  # correlation of a block that has a vote
_STRETCHED = 0.04  # difference of the sides' proportions from which on one may be squashed
#: Share of blocks that agree from which on other scales are tried only if pixels do not.
_CLEAR = 0.6
#: Agreement from which on nothing else is tried: where most blocks voted for it, and where it was tried on chance.
_ENOUGH, _CERTAIN = 0.5, 0.8
#: Of similarities with less support nothing came; of the others so many are refined, at most.
_LEAST_SUPPORT, _TRIED = 0.15, 3
#: Share of the longest side by which the corners of two similarities that are refined to one differ, at most.
_SAME = 0.025

#: Rounds of refinement: pixels of the longest side, of a block's, and by how many each may move.
_ROUNDS = ((112, 14, 3), (224, 20, 1), (224, 20, 1))
#: Mean correlation of blocks, and share of them that fit, below which the first round has found another picture.
_LEAST_MATCH, _LEAST_KEPT = 0.4, 0.2
#: Agreement after the first round below which no copy was seen, and by how much pictures agree less in finer detail; pixels
#: by which a later round has to move a picture for another one to follow.
_HOPELESS, _FINER, _SETTLED = 0.25, 0.12, 0.5
#: Sizes that a picture is reduced to, for each halving; and what is sampled more coarsely than that.
_LEVELS, _ALIASED = 4, 1.06
_OUTSIDE = 128  # level of what lies beside a picture
_FEWEST = 6  # blocks, and windows, that anything is told by

#: Pixels a side of a window, and from one to the next; frequencies in cycles a window that are compared, in two bands.
_WINDOW, _STEP = 32, 16
_BANDS = ((1.0, 3.5), (3.5, 6.5))
_NOISE = 4.0  # levels that compression may make of nothing
#: A map that shrinks so much is none.
_FLAT = 1e-3
_TELLING = 0.08  # share of the frequencies of a window that tell something, at least

#: Of the windows' agreement: half of them, as words and stickers hide the rest, and nearly all, as charts share their axes.
_QUANTILES = (0.15, 0.5)


@dataclass
class Picture:
    """A picture in grey, uint8, of at most `_SOURCE` pixels a side, and what comparing it with others needs again."""

    grey: np.ndarray
    _small: dict[tuple[int, int], np.ndarray] = field(default_factory=dict, repr=False)
    _blocks: dict[tuple[_Trial, ...], _Blocks] = field(default_factory=dict, repr=False)
    _field: _Field | None = field(default=None, repr=False)
    _frames: dict[int, _Frame] = field(default_factory=dict, repr=False)
    _reduced: dict[int, Image.Image] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, image: Image.Image) -> Picture:
        """Of a decoded picture."""
        small = image.convert("L")
        longest = max(small.size)
        if longest > _SOURCE:
            size = tuple(max(round(side * _SOURCE / longest), 1) for side in small.size)
            small = small.resize((size[0], size[1]), Image.Resampling.LANCZOS, reducing_gap=2.0)
        return cls(np.asarray(small))

    def scaled(self, size: tuple[int, int]) -> np.ndarray:
        """The picture at another size, height and width."""
        grows = size[0] * size[1] > self.grey.size
        how = Image.Resampling.BICUBIC if grows else Image.Resampling.LANCZOS
        return np.asarray(self._image().resize(size[::-1], how, reducing_gap=2.0))

    def small(self, size: tuple[int, int]) -> np.ndarray:
        """Detail of the picture at a size at which blocks are cut out of it or looked for."""
        if size not in self._small:
            self._small[size] = detail(self.scaled(size), 9)
        return self._small[size]

    def size(self, longest: float) -> tuple[int, int]:
        """Height and width at which its longest side has so many pixels."""
        high, wide = self.grey.shape
        times = longest / max(high, wide)
        return max(round(high * times), 8), max(round(wide * times), 8)

    def blocks(self, trials: tuple[_Trial, ...]) -> _Blocks:
        """Its blocks at each of some sizes, turned."""
        if trials not in self._blocks:
            self._blocks[trials] = _Blocks.of(self, trials)
        return self._blocks[trials]

    def searched(self) -> _Field:
        """The picture as blocks of others are looked for in it."""
        if self._field is None:
            self._field = _Field.of(self.small(self.size(_COARSE)))
        return self._field

    def frame(self, longest: int, side: int, reach: int) -> _Frame:
        """The picture at a size, as others are laid over it."""
        if longest not in self._frames:
            shown = self.scaled(self.size(longest))
            self._frames[longest] = _Frame.of(shown, side, reach, np.array(self.grey.shape) / shown.shape)
        return self._frames[longest]

    def reduced(self, times: float) -> Image.Image:
        """The picture to be sampled at every so many pixels, smaller by about as much."""
        step = max(math.floor(_LEVELS * math.log2(times * _ALIASED)), 0)
        if not step:
            return self._image()
        if step not in self._reduced:
            size = [max(round(side / 2 ** (step / _LEVELS)), 1) for side in self.grey.shape]
            self._reduced[step] = self._image().resize((size[1], size[0]), Image.Resampling.LANCZOS)
        return self._reduced[step]

    def strip(self) -> None:
        """Let go of all but its pixels."""
        self._small.clear()
        self._blocks.clear()
        self._frames.clear()
        self._reduced.clear()
        self._field = None

    def _image(self) -> Image.Image:
        if 0 not in self._reduced:
            self._reduced[0] = Image.fromarray(self.grey.astype(np.float32))
        return self._reduced[0]


@cache
def _cosines() -> np.ndarray:
    """The lowest cosines of a block's side, orthonormal, float32 (`_BLOCK`, `_KEPT_COSINES`)."""
    k, x = np.arange(_KEPT_COSINES), np.arange(_BLOCK)[:, None]
    cosines = np.cos(np.pi * k * (2 * x + 1) / (2 * _BLOCK)) * np.sqrt(2 / _BLOCK)
    cosines[:, 0] /= np.sqrt(2)
    return cosines.astype(np.float32)


#: Height and width of a picture in which its blocks are looked for, and one of the orientations of `oriented`.
_Trial = tuple[tuple[int, int], int]


@dataclass(frozen=True)
class _Blocks:
    """Blocks of a picture at some sizes and turns, with 0 in place of those that there are fewer of.

    They are looked for by their lowest cosines, which tell them apart as well as their pixels do.
    """

    counts: list[int]  # of each trial
    there: np.ndarray  # bool (trials, most)
    centres: np.ndarray  # complex64 (trials, most): x + iy
    cosines: np.ndarray  # float32 (blocks, k * k), of those that are there, of unit norm; the first is 0
    #: float64 (trials, 2, 3): places (y, x) of the whole picture to places among these blocks
    placed: np.ndarray
    #: complex64 (trials, pairs): one over the way from the first to the second of two blocks, 0 where they overlap much
    apart: np.ndarray

    @classmethod
    def of(cls, picture: Picture, trials: tuple[_Trial, ...]) -> _Blocks:
        sizes = list(dict.fromkeys(size for size, _ in trials))
        cut = {size: _cut_blocks(picture.small(size)) for size in sizes}
        parts = dict(zip(sizes, _block_cosines([pixels for pixels, _ in cut.values()]), strict=True))
        turned = {size: oriented(parts[size]) for size in {size for size, way in trials if way}}
        told = [turned[size][:, way] if way else parts[size] for size, way in trials]
        cosines = np.concatenate(told).astype(np.float32).reshape(-1, _KEPT_COSINES**2)

        shape = len(trials), _GRID**2
        counts = [len(each) for each in told]
        there = np.arange(shape[1]) < np.array(counts)[:, None]
        placed = np.array([_turn(orientation, size) for size, orientation in trials])
        upright = np.zeros(shape, complex)
        upright[there] = np.concatenate([cut[size][1] for size, _ in trials])
        y, x = (
            turn[:, :1] * upright.imag + turn[:, 1:2] * upright.real + turn[:, 2:]
            for turn in (placed[:, 0], placed[:, 1])
        )
        centres = np.where(there, x + 1j * y, 0).astype(np.complex64)
        placed[:, :, :2] *= np.array([[size] for size, _ in trials]) / picture.grey.shape
        i, j = _pairs_of(shape[1])
        way = centres.take(j, axis=1) - centres.take(i, axis=1)
        far = (np.square(way.real) + np.square(way.imag) > (_BLOCK * 0.9) ** 2) & there.take(j, axis=1)
        apart = np.where(far, 1 / np.where(far, way, 1), 0).astype(np.complex64)
        return cls(counts, there, centres, cosines, placed, apart)


@cache
def _pairs_of(count: int) -> tuple[np.ndarray, ...]:
    return np.triu_indices(count, 1)


def _cut_blocks(small: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Blocks of a small picture that show something: pixels (m, side, side) and centres, complex; none if they are few."""
    if min(small.shape) < _BLOCK:
        return np.empty((0, _BLOCK, _BLOCK), np.float32), np.empty(0, complex)
    down, across, centres = _grid((small.shape[0], small.shape[1]))
    room = [side - _BLOCK + 1 for side in small.shape]
    every = as_strided(small, (*room, _BLOCK, _BLOCK), 2 * small.strides)
    cut = every[down, across].reshape(-1, _BLOCK, _BLOCK)
    kept = cut.std(axis=(1, 2)) > _PLAIN
    kept &= np.count_nonzero(kept) >= 3
    return cut[kept], centres[kept]


def _block_cosines(cut: list[np.ndarray]) -> list[np.ndarray]:
    """The lowest cosines of blocks, (m, k, k) of each list of them, of unit norm without their mean."""
    k, pixels = _KEPT_COSINES, np.concatenate(cut)
    down = _cosines().T @ pixels.transpose(1, 0, 2).reshape(_BLOCK, -1)
    both = (down.reshape(-1, _BLOCK) @ _cosines()).reshape(k, -1, k).transpose(1, 0, 2)
    cosines = np.ascontiguousarray(both).reshape(-1, k * k)
    cosines[:, 0] = 0
    cosines /= np.maximum(np.sqrt(np.square(cosines).sum(axis=1, keepdims=True)), 1e-6)
    return np.split(cosines.reshape(-1, k, k), np.cumsum([len(each) for each in cut])[:-1])


@lru_cache(256)
def _grid(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First rows (m, 1) and columns (n,) of the blocks of a picture of that shape, and their centres, complex (m * n,)."""
    room = [side - _BLOCK for side in shape]
    counts = [min(int(most / (_BLOCK * 0.6)) + 1, _GRID) for most in room]
    down, across = (np.linspace(0, *each).round().astype(int) for each in zip(room, counts, strict=True))
    centres = (across + 1j * down[:, None]).ravel() + (1 + 1j) * _BLOCK / 2
    return down[:, None], across, centres


@lru_cache(256)
def _turn(orientation: int, shape: tuple[int, int]) -> np.ndarray:
    """Places (y, x) of a picture to those in one of its orientations, see `oriented`; float64 (2, 3)."""
    swapped, way = divmod(orientation, 4)
    high, wide = shape[::-1] if swapped else shape
    turn = np.array([[0.0, 1, 0], [1, 0, 0]] if swapped else [[1.0, 0, 0], [0, 1, 0]])
    for axis, side, flipped in ((0, high, way in (2, 3)), (1, wide, way in (1, 2))):
        if flipped:
            turn[axis] = -turn[axis]
            turn[axis, 2] += side
    return turn


@dataclass(frozen=True)
class _Field:
    """A small picture in which blocks are looked for."""

    shape: tuple[int, int]
    #: float32 (k * k, places): of the block at each place; None if there is no room for any
    cosines: np.ndarray | None

    @classmethod
    def of(cls, small: np.ndarray) -> _Field:
        shape, k = (small.shape[0], small.shape[1]), _KEPT_COSINES
        if min(shape) < _BLOCK:
            return cls(shape, None)
        high, wide = (side - _BLOCK + 1 for side in shape)
        line, pixel = small.strides
        across = as_strided(small, (_BLOCK, shape[0], wide), (pixel, line, pixel)).reshape(_BLOCK, -1)
        rows = _cosines().T @ across  # of each row of pixels, (k, shape[0] * wide)
        down = as_strided(rows, (k, _BLOCK, high * wide), (rows.strides[0], wide * pixel, pixel))
        made = (_cosines().T @ np.ascontiguousarray(down)).transpose(1, 0, 2).reshape(k * k, -1)
        made[0] = 0
        made /= np.maximum(np.sqrt(np.square(made).sum(axis=0)), _BLOCK * _PLAIN)
        return cls(shape, made)

    def find(self, blocks: _Blocks) -> tuple[np.ndarray, np.ndarray]:
        """The two best places of each block, complex64 (trials, 2, most), and their correlations."""
        assert self.cosines is not None
        high, wide = (side - _BLOCK + 1 for side in self.shape)
        seen = blocks.cosines @ self.cosines
        line, first = seen.reshape(-1), np.arange(len(seen)) * seen.shape[1]
        trials, most = blocks.there.shape
        places, values = np.zeros((trials, 2, most), np.complex64), np.zeros((trials, 2, most), np.float32)
        for turn in range(2):
            best = seen.argmax(axis=1)
            y, x = np.divmod(best, wide)
            places[:, turn][blocks.there] = x + 1j * y + (1 + 1j) * _BLOCK / 2
            values[:, turn][blocks.there] = line[first + best]
            if not turn:
                down, across = (
                    np.minimum(np.maximum(at[:, None] + np.arange(-2, 3), 0), room - 1)
                    for at, room in ((y, high), (x, wide))
                )
                line[(first[:, None] + down * wide)[:, :, None] + across[:, None]] = -1
        return places, values


@dataclass(frozen=True)
class _Vote:
    """Blocks of a trial that agree on a similarity."""

    blocks: _Blocks
    trial: int
    weight: np.ndarray  # float32 (most,): of each block, 0 of those that do not agree
    places: np.ndarray  # complex64 (2, most): two places that it may be seen at
    first: np.ndarray  # bool (most,): whether it is at the first of them

    @property
    def support(self) -> float:
        """Their weight."""
        return float(self.weight.sum(dtype=float)) / math.sqrt(self.blocks.counts[self.trial])

    @property
    def share(self) -> float:
        """How many of all blocks agree."""
        return np.count_nonzero(self.weight) / self.blocks.counts[self.trial]

    def placed(self) -> np.ndarray:
        """The similarity that fits them best, float64 (2, 3): places of their picture to those of the small one."""
        there = self.weight > 0
        weight = self.weight[there].astype(float)
        centres = self.blocks.centres[self.trial, there].astype(complex)
        targets = np.where(self.first, *self.places)[there].astype(complex)
        whole = weight.sum()
        middle, aim = weight @ centres / whole, weight @ targets / whole
        around = centres - middle
        slope = (weight * around.conj()) @ (targets - aim) / max((weight * around.conj()) @ around, 1e-6)
        shift = aim - slope * middle
        turn = np.array([[slope.real, slope.imag], [-slope.imag, slope.real]])
        placed = turn @ self.blocks.placed[self.trial]
        placed[:, 2] += [shift.imag, shift.real]
        return np.asarray(placed)


def _votes(blocks: _Blocks, field: _Field) -> Iterator[_Vote]:
    """For each trial what most of its blocks vote for."""
    places, values = field.find(blocks)
    i, j = _pairs_of(places.shape[2])
    telling = values > _LEAST_VOTE
    # z -> a z + b takes two blocks where they are seen.
    one, two = places.take(i, axis=2), places.take(j, axis=2)
    a = (two[:, None] - one[:, :, None]) * blocks.apart[:, None, None]
    size = np.square(a.real) + np.square(a.imag)
    fits = (size > (1 - _SCALE_OFF) ** 2) & (size < (1 + _SCALE_OFF) ** 2)
    fits &= np.abs(a.imag) < np.float32(np.tan(_TURN)) * a.real
    fits &= telling.take(i, axis=2)[:, :, None]
    fits &= telling.take(j, axis=2)[:, None]
    chosen = np.flatnonzero(fits)
    trial, p, _, pair = np.unravel_index(chosen, fits.shape)
    a = a.reshape(-1)[chosen]
    b = one[trial, p, pair] - a * blocks.centres[trial, i[pair]]
    away = (a[:, None] * blocks.centres[trial] + b[:, None])[:, None] - places[trial]
    near = np.square(away.real) + np.square(away.imag) < _NEAR**2
    support = np.maximum(*np.where(near, np.square(values)[trial], 0).transpose(1, 0, 2))
    total = support.sum(axis=1)
    ends = np.searchsorted(trial, np.arange(len(blocks.counts) + 1)).tolist()
    for row, (start, stop) in enumerate(pairwise(ends)):
        if start < stop:
            best = start + int(total[start:stop].argmax())
            yield _Vote(blocks, row, support[best], places[row], near[best, 0])


def _trials(one: Picture, two: Picture) -> Iterator[tuple[_Trial, ...]]:
    """Sizes and orientations of `one` in which its blocks are looked for, the likeliest first."""
    plain = one.size(_COARSE)
    yield ((plain, 0),)
    proportions = [side[0] / side[1] for side in (one.grey.shape, two.grey.shape)]
    if abs(np.log(proportions[0] / proportions[1])) > _STRETCHED:
        yield ((two.size(_COARSE), 0),)
    yield (
        (plain, 1),
        *((one.size(_COARSE * scale), 0) for scale in _SCALES[1:]),
        *((plain, orientation) for orientation in range(2, 8)),
    )


def agreement(one: Picture, two: Picture) -> float:
    """Agreement of two pictures where they show the same, at most 1; about 0 for unrelated ones, -1 for nothing told."""
    where = two.searched()
    if where.cosines is None:
        return -1.0
    back = np.array([[side / small] for side, small in zip(two.grey.shape, where.shape, strict=True)])
    corners = _corners(one.grey.shape)
    tried: list[_Vote] = []
    seen: list[np.ndarray] = []
    best = -1.0

    def look(placed: np.ndarray) -> float:
        # Most sizes find what one of them has found.
        ends = placed @ corners
        if any(np.abs(ends - other).max() < _SAME * max(two.grey.shape) for other in seen):
            return -1.0
        agreed, placed = _refined(one, two, placed)
        seen.extend([ends, placed @ corners])
        return agreed

    for trials in _trials(one, two):
        for vote in _votes(one.blocks(trials), where):
            if vote.share >= _CLEAR:
                best = max(best, look(back * vote.placed()))
                if best >= _ENOUGH:
                    return best
            elif vote.support >= _LEAST_SUPPORT:
                tried.append(vote)
    tried.sort(key=lambda vote: -vote.support)
    for vote in tried[:_TRIED]:
        best = max(best, look(back * vote.placed()))
        if best >= _CERTAIN:
            break
    return best


@dataclass(frozen=True)
class _Frame:
    """A picture that another one is laid over."""

    shape: tuple[int, int]
    side: int  # of a block
    reach: int  # pixels that each may move
    grid: tuple[int, int]  # blocks down and across
    step: np.ndarray  # float64 (2,): pixels of the whole picture from one to the next
    centres: np.ndarray  # float64 (blocks, 2)
    places: np.ndarray  # float64 (blocks, 3): these in the whole picture, and 1
    #: float32 (blocks, moves, side * (side + 2 * reach)): detail of each block without its mean, moved across by so many
    #: pixels, with zeros beside it: the products of all moves across are one matrix product
    blocks: np.ndarray
    energy: np.ndarray  # float32 (blocks,)
    spectra: _Spectra | None  # None where there is no room for a window

    @classmethod
    def of(cls, shown: np.ndarray, side: int, reach: int, step: np.ndarray) -> _Frame:
        high, wide = shown.shape
        down, across = high // side, wide // side
        squares = detail(shown, 9)[: down * side, : across * side].reshape(down, side, across, side)
        cut = squares.transpose(0, 2, 1, 3).reshape(down * across, side, side)
        cut = cut - cut.mean(axis=(1, 2), keepdims=True)
        moves, around = 2 * reach + 1, side + 2 * reach
        moved = np.zeros((len(cut), moves, side, around), np.float32)
        for move in range(moves):
            moved[:, move, :, move : move + side] = cut
        centres = (np.indices((down, across)).reshape(2, -1).T + 0.5) * side
        places = np.column_stack([centres * step, np.ones(len(cut))])
        blocks = moved.reshape(len(cut), moves, -1)
        energy = np.square(cut).sum(axis=(1, 2))
        grid, spectra = (down, across), _Spectra.of(shown)
        return cls((high, wide), side, reach, grid, step, centres, places, blocks, energy, spectra)


def _refined(one: Picture, two: Picture, placed: np.ndarray) -> tuple[float, np.ndarray]:
    """Refine ``placed``, float64 (2, 3), which takes places (y, x) of `one` to those of `two`, and compare them."""
    # The picture that shows less is compared whole, and the other one is sampled: it is not stretched then.
    times = _times(placed)
    if not np.isfinite(placed).all() or times <= _FLAT:
        return -1.0, placed
    if times * max(one.grey.shape) / max(two.grey.shape) >= 1:
        agreed, inverse = _laid_over(two, one, _inverse(placed))
        return agreed, _inverse(inverse)
    return _laid_over(one, two, placed)


def _inverse(placed: np.ndarray) -> np.ndarray:
    inverse = np.linalg.inv(placed[:, :2])
    return np.column_stack([inverse, -inverse @ placed[:, 2]])


def _laid_over(one: Picture, two: Picture, placed: np.ndarray) -> tuple[float, np.ndarray]:
    """Refine where places of the frame `one` are in `two`, and compare what is there."""
    corners = _corners(one.grey.shape)
    for turn, (longest, side, reach) in enumerate(_ROUNDS):
        frame = one.frame(longest, side, reach)
        if turn < 2:
            laid, there = _sampled(two, placed, frame)
        moves = _moved(frame, laid, there)
        found = None if moves is None else _fitted(moves, frame, placed)
        if moves is None or found is None or _times(found[0]) <= _FLAT:
            return -1.0, placed
        if not turn and (moves[2] < _LEAST_MATCH or found[1] < _LEAST_KEPT):
            return 0.0, placed
        moved = np.abs((found[0] - placed) @ corners).max() / (_times(found[0]) * frame.step.max())
        placed = found[0]
        laid, there = _sampled(two, placed, frame)
        if not turn:
            agreed = _coherence(frame, laid, there)
            if agreed < _HOPELESS:
                return max(agreed - _FINER, -1.0), placed
        elif moved < _SETTLED:
            break
    return _coherence(frame, laid, there), placed


def _corners(shape: tuple[int, ...]) -> np.ndarray:
    return np.array([[0, 0, shape[0], shape[0]], [0, shape[1], 0, shape[1]], [1, 1, 1, 1]])


def _fitted(
    moved: tuple[np.ndarray, np.ndarray, float], frame: _Frame, placed: np.ndarray
) -> tuple[np.ndarray, float] | None:
    """What `placed` should be, by where the blocks of the frame are found; None if too few are, and the share of those."""
    targets, weight, _ = moved
    # From places in the frame to where the other one was sampled.
    found = (targets * frame.step) @ placed[:, :2].T + placed[:, 2]
    kept = weight > 0
    for _ in range(3):
        weighted = frame.places.T * np.where(kept, weight, 0)
        try:
            solved = np.linalg.solve(weighted @ frame.places, weighted @ found)
        except np.linalg.LinAlgError:  # all in one line
            return None
        off = np.abs(frame.places @ solved - found)
        off = np.maximum(off[:, 0], off[:, 1]) / _times(placed)
        middle = _quantiles(off[kept], (0.5,))[0]
        kept = (weight > 0) & (off < 1.5 * max(middle, frame.step.max()))
        if np.count_nonzero(kept) < _FEWEST:
            return None
    share = np.count_nonzero(kept) / len(kept)
    return (np.asarray(solved.T), share) if np.isfinite(solved).all() else None


def _quantiles(values: np.ndarray, shares: tuple[float, ...]) -> list[float]:
    """As `numpy.quantile`, which takes a hundred times as long for as few values as these."""
    ranked, last = np.sort(values), len(values) - 1
    told = []
    for at in (share * last for share in shares):
        low, high = (float(ranked[min(k, last)]) for k in (int(at), int(at) + 1))
        told.append((high - low) * (at - int(at)) + low)
    return told


def _times(placed: np.ndarray) -> float:
    """Factor by which a map enlarges."""
    (a, b), (c, d) = placed[:, :2].tolist()
    return max(math.sqrt(abs(a * d - b * c)), _FLAT)


#: For each row of pixels the first that there is something at, and the one after the last.
_Span = tuple[np.ndarray, np.ndarray]


def _sampled(picture: Picture, placed: np.ndarray, frame: _Frame) -> tuple[np.ndarray, _Span | None]:
    """Sample a picture at ``placed`` of the places of a frame, and tell where it has any; None for everywhere."""
    matrix = placed[:, :2] * frame.step
    level = picture.reduced(_times(matrix))
    sides = level.height, level.width
    smaller = np.array(sides) / picture.grey.shape
    (a, b), (c, d) = (matrix * smaller[:, None]).tolist()
    y, x = (placed[:, 2] * smaller).tolist()
    how = Image.Transform.AFFINE, (d, c, x, b, a, y), Image.Resampling.BILINEAR
    high, wide = frame.shape
    laid = np.asarray(level.transform((wide, high), *how, fillcolor=_OUTSIDE))
    first, last = np.zeros(high), np.full(high, float(wide))
    down, inside = np.arange(high) + 0.5, True
    for (along, across, start), most in zip(((a, b, y), (c, d, x)), sides, strict=True):
        ends = [start + k * along * high + m * across * wide for k in (0, 1) for m in (0, 1)]
        if min(ends) >= 0 and max(ends) <= most:
            continue
        inside = False
        at = down * along + start
        if abs(across) * wide < 1e-9:
            last[(at < 0) | (at > most)] = 0
        else:
            near, far = -at / across, (most - at) / across
            np.maximum(first, np.minimum(near, far), out=first)
            np.minimum(last, np.maximum(near, far), out=last)
    if inside:
        return laid, None
    first = np.ceil(first - 0.5)
    return laid, (first, np.maximum(np.floor(last + 0.5), first))


def _covered(there: _Span, side: int, step: int, counts: tuple[int, int]) -> np.ndarray:
    """Pixels that there is something at in squares of `side` pixels, `step` from one to the next, (down, across)."""
    starts = np.arange(counts[1]) * float(step)
    first, last = (each[:, None] for each in there)
    inside = np.maximum(np.minimum(last, starts + side) - np.maximum(first, starts), 0)
    return _stretches(len(inside), side, step, counts[0]) @ inside.astype(np.float32)


def _moved(
    frame: _Frame, laid: np.ndarray, there: _Span | None
) -> tuple[np.ndarray, np.ndarray, float] | None:
    """Best places of blocks of the frame in what is laid over it, (m, 2), weights, and their mean correlation."""
    side, reach, (down, across) = frame.side, frame.reach, frame.grid
    if down * across < _FEWEST:
        return None
    moves, wide = 2 * reach + 1, side + 2 * reach
    around = _with_edges(detail(laid, 9), reach)
    # For each column of blocks a strip, so that the rows of pixels around a block follow one another.
    line, pixel = around.strides
    strips = as_strided(around, (across, len(around), wide), (side * pixel, line, pixel)).copy()
    strip, line, pixel = strips.strides
    parts = as_strided(strips, (down, across, moves, side * wide), (side * line, strip, line, pixel))
    seen = parts.reshape(-1, moves, side * wide) @ frame.blocks.transpose(0, 2, 1)
    seen = seen.reshape(-1, moves * moves)
    both = np.stack([strips, np.square(strips)]) @ _stretches(wide, side, side, 1, moves).T
    both = _stretches(len(around), side, side, down, moves) @ both
    both = both.reshape(2, across, down, moves, moves).transpose(0, 2, 1, 3, 4)
    sums, squares = both.reshape(2, *seen.shape)
    own = squares - np.square(sums) / np.float32(side**2)
    seen /= np.sqrt(np.maximum(frame.energy[:, None] * own, 1e-3))
    best = seen.argmax(axis=1)
    value = seen.reshape(-1)[best + np.arange(len(seen)) * seen.shape[1]]
    whole: np.ndarray | bool = True
    if there is not None:
        whole = (_covered(there, side, side, frame.grid) > 0.9 * side**2).ravel()
    least = np.sqrt(np.minimum(frame.energy, np.maximum(own[:, own.shape[1] // 2], 0))) / side
    weight = np.where(whole & (value > 0.35), np.square(np.maximum(value, 0)) * np.sqrt(least), 0)
    if np.count_nonzero(weight > 0) < _FEWEST:
        return None
    place = frame.centres + _peaks(seen, best, moves) - reach
    return place, weight.astype(float), float((value if there is None else value[whole]).mean())


def _with_edges(values: np.ndarray, by: int) -> np.ndarray:
    """As `numpy.pad` repeats the edges, in a third of its time."""
    made = np.empty((values.shape[0] + 2 * by, values.shape[1] + 2 * by), values.dtype)
    made[by:-by, by:-by] = values
    made[by:-by, :by], made[by:-by, -by:] = values[:, :1], values[:, -1:]
    made[:by], made[-by:] = made[by], made[-by - 1]
    return made


@lru_cache(64)
def _stretches(length: int, side: int, step: int, count: int, moves: int = 1) -> np.ndarray:
    """Which of `length` pixels are in each of `count` stretches, moved by 0, 1, ..., float32 (count * moves, length)."""
    first = (np.arange(count)[:, None] * step + np.arange(moves)).reshape(-1, 1)
    pixels = np.arange(length)
    return ((pixels >= first) & (pixels < first + side)).astype(np.float32)


def _peaks(seen: np.ndarray, best: np.ndarray, moves: int) -> np.ndarray:
    """Where the best of moves down and across is, float64 (m, 2): tops of parabolas through it and its neighbours."""
    at, steps = np.stack(np.divmod(best, moves)), np.array([[moves], [1]])
    inner = np.minimum(np.maximum(at, 1), moves - 2)
    middle = np.arange(len(seen)) * seen.shape[1] + best + (inner - at) * steps
    low, mid, high = (seen.reshape(-1)[middle + k * steps] for k in (-1, 0, 1))
    bend = 2 * mid - low - high
    off = np.where(bend > 1e-6, (high - low) / np.maximum(2 * bend, 1e-6), 0.0)
    off = np.where(inner == at, np.minimum(np.maximum(off, -0.5), 0.5), 0.0)
    return np.asarray((at + off).T)


@cache
def _waves() -> tuple[np.ndarray, np.ndarray, np.ndarray, int, np.ndarray]:
    """Fourier transform of a tapered window, of the frequencies that are compared; of all numbers first the real part.

    Matrices of rows, float32 (window, 2 * k), and of columns, float32 (2 * m, window * 2); which of the m x k frequencies
    are compared, by band, and how many in the first; and those of a window that is 1 all over, float32 (2, 1, frequencies).
    """
    taper = np.hanning(_WINDOW + 2)[1:-1]
    taper /= np.sqrt(np.square(taper).sum())
    x, most = np.arange(_WINDOW), int(np.ceil(_BANDS[-1][1])) - 1
    across, down = np.arange(most + 1), np.arange(-most, most + 1)[:, None]
    one = taper[:, None] * np.exp(-2j * np.pi * x[:, None] * across / _WINDOW)
    two = taper * np.exp(-2j * np.pi * down * x / _WINDOW)
    radius = np.hypot(down, across).ravel()
    bands = [np.flatnonzero((radius >= low) & (radius < high)) for low, high in _BANDS]
    kept = np.concatenate(bands)
    even = np.outer(two.sum(axis=1), one.sum(axis=0)).ravel()[kept]
    rows = np.concatenate([one.real, one.imag], axis=1)
    columns = np.stack([two, 1j * two], axis=2).reshape(len(two), -1)
    columns = np.concatenate([columns.real, columns.imag])
    uniform = np.stack([even.real, even.imag])[:, None]
    rows, columns, uniform = (each.astype(np.float32) for each in (rows, columns, uniform))
    return rows, columns, kept, len(bands[0]), uniform


@lru_cache(64)
def _frequencies(down: int, across: int) -> np.ndarray:
    """Where the frequencies that are compared lie in the transform of so many windows, intp (2, windows, frequencies)."""
    rows, columns, kept, _, _ = _waves()
    m, k = len(columns) // 2, rows.shape[1] // 2
    every = np.arange(down * 2 * m * across * k).reshape(down, 2, m, across, k)
    return every.transpose(1, 0, 3, 2, 4).reshape(2, down * across, m * k).take(kept, axis=2)


@dataclass(frozen=True)
class _Spectra:
    """Overlapping windows of a picture, each without its mean."""

    grid: tuple[int, int]  # windows down and across
    values: np.ndarray  # float32 (2, windows, frequencies): real and imaginary parts
    power: np.ndarray  # float32 (windows, frequencies)
    energy: np.ndarray  # float32 (windows,)

    @classmethod
    def of(cls, picture: np.ndarray) -> _Spectra | None:
        if min(picture.shape) < _WINDOW:
            return None
        across, columns, _, _, even = _waves()
        down, wide = ((length - _WINDOW) // _STEP + 1 for length in picture.shape)
        high, half = len(picture), across.shape[1] // 2
        line, pixel = picture.strides
        # First each row of pixels, which several windows have in common: (high, 2, wide * half)
        parts = as_strided(picture, (high, wide, _WINDOW), (line, _STEP * pixel, pixel))
        rows = (parts.reshape(-1, _WINDOW) @ across).reshape(high, wide, 2, half)
        rows = rows.transpose(0, 2, 1, 3).reshape(2 * high, wide * half)
        line, pixel = rows.strides
        parts = as_strided(rows, (down, 2 * _WINDOW, wide * half), (2 * _STEP * line, line, pixel))
        values = (columns @ parts).reshape(-1).take(_frequencies(down, wide))
        first, second = (
            _stretches(length, _WINDOW, _STEP, count)
            for length, count in zip(picture.shape, (down, wide), strict=True)
        )
        sums, squares = ((first @ each @ second.T).reshape(-1) for each in (picture, np.square(picture)))
        mean = sums / np.float32(_WINDOW**2)
        values -= mean[:, None] * even
        power = np.square(values[0])
        power += np.square(values[1])
        return cls((down, wide), values, power, np.maximum(squares - mean * sums, 0))


def _coherence(frame: _Frame, laid: np.ndarray, there: _Span | None) -> float:
    """Mean over two bands of how far the phases of windows agree, of half of them and of nearly all."""
    one, two = frame.spectra, _Spectra.of(laid)
    if one is None or two is None:
        return -1.0
    whole = np.ones(len(two.energy), bool)
    if there is not None:
        whole = (_covered(there, _WINDOW, _STEP, two.grid) > 0.97 * _WINDOW**2).ravel()
    if np.count_nonzero(whole) < _FEWEST:
        return -1.0
    # Of two contrasts the mean.
    energies = [max(float(side.energy[whole].sum()), 1e-6) for side in (one, two)]
    middle = math.sqrt(energies[0] * energies[1])
    powers = [
        side.power * np.float32(middle / energy) for side, energy in zip((one, two), energies, strict=True)
    ]
    weight = np.maximum(*powers)
    weight /= weight + np.float32(_NOISE**2)
    agreed = one.values[0] * two.values[0]
    agreed += one.values[1] * two.values[1]
    agreed *= weight / np.maximum(np.sqrt(powers[0] * powers[1]), 1e-6)
    told, first = [], _waves()[3]
    for band in (slice(first), slice(first, None)):
        heavy = weight[:, band].sum(axis=1)
        telling = whole & (heavy > _TELLING * len(weight[0, band]))
        if np.count_nonzero(telling) < _FEWEST:
            return -1.0
        told += _quantiles(agreed[:, band].sum(axis=1)[telling] / heavy[telling], _QUANTILES)
    return sum(told) / len(told)
