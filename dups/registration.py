"""Pixel registration of two pictures, and their agreement once one is laid over the other.

Hashes and embeddings say that two pictures are alike; whether they are the same picture is seen in their pixels. Blocks of
one are looked for in the other at several scales, and the similarity that most of them vote for (RANSAC; Fischler and
Bolles 1981) lays one over the other. It is refined block by block. Then the phases of overlapping windows are compared,
each frequency like another: lines and edges that all pictures of a kind share fill few of them, and the grain of a surface,
of which every photograph has its own, fills the rest. A copy agrees after a crop, a border, words, a turn by a few degrees,
a mirror image, blur, other levels; another photograph of a like thing does not.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache, lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.lib.stride_tricks import as_strided, sliding_window_view
from PIL import Image

from ..data.images import decode_content, oriented
from ..store.files import UNREADABLE_ARRAYS, keep_arrays
from ..store.store import Store
from .confirm import detail
from .processes import measured

#: Changes whenever other agreements would come of the same files.
REGISTRATION_VERSION = 2

#: Pixels of the longest side: as a picture is kept, as it is compared, and as its blocks are looked for.
_SOURCE, _FRAME, _COARSE = 448, 224, 64

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

#: Agreement that copies have at least, in sets where unrelated pictures hardly agree, and where they agree as neighbouring
#: wafers do. Which it is, is told by a quantile of pairs that are no copies, and how far it lies above chance.
LOOSE, STRICT = 0.5, 0.845
_UNRELATED, _CHANCE, _STEEPER, FEWEST_PAIRS = 0.6, 0.05, 1.65, 20

#: Times the evidence of a pair that is one whatever its pixels say: a slant may keep pictures from being registered.
BEYOND_DOUBT = 2.0
#: Agreement from which on pictures that do not agree enough are told as variants all the same.
VAGUE = 0.35
#: Where copies are asked for less, as much evidence as a pair needs by itself lets them agree less.
TELLING = 0.6

_FILE = "agreements.npz"

#: Pairs whose agreement is kept, and pictures that are held at once.
_KEPT, _HELD = 500_000, 48

#: Of a stream: pictures that are held, at 200 KB at most; pairs whose agreement is known; and how many of these tell how far
#: its unrelated pictures agree.
_LATEST, _PAIRS, _RECORD = 256, 8192, 300

#: Agreement that copies in a stream are asked for before its pairs tell how far unrelated ones agree.
_UNTOLD = 0.75


@dataclass
class Picture:
    """A picture in grey, uint8, of at most `_SOURCE` pixels a side, and what comparing it with others needs again."""

    grey: np.ndarray
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
            self._field = _Field.of(detail(self.scaled(self.size(_COARSE)), 9))
        return self._field

    def frame(self, longest: int, side: int) -> _Frame:
        """The picture at a size, as others are laid over it."""
        if longest not in self._frames:
            self._frames[longest] = _Frame.of(self.scaled(self.size(longest)), side)
        return self._frames[longest]

    def reduced(self, times: float) -> Image.Image:
        """The picture to be sampled at every so many pixels, smaller by about as much."""
        step = max(int(np.floor(_LEVELS * np.log2(times * _ALIASED))), 0)
        if not step:
            return self._image()
        if step not in self._reduced:
            size = [max(round(side / 2 ** (step / _LEVELS)), 1) for side in self.grey.shape]
            self._reduced[step] = self._image().resize((size[1], size[0]), Image.Resampling.LANCZOS)
        return self._reduced[step]

    def strip(self) -> None:
        """Let go of all but its pixels."""
        self._blocks.clear()
        self._frames.clear()
        self._reduced.clear()
        self._field = None

    def _image(self) -> Image.Image:
        return Image.fromarray(self.grey.astype(np.float32))


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

    centres: np.ndarray  # complex64 (trials, most): x + iy
    cosines: np.ndarray  # float32 (trials, most, k * k), of unit norm; the first is 0
    count: np.ndarray  # int64 (trials,)
    #: float64 (trials, 2, 3): places (y, x) of the whole picture to places among these blocks
    placed: np.ndarray
    #: complex64 (trials, pairs): one over the way from the first to the second of two blocks, 0 where they overlap much
    apart: np.ndarray

    @classmethod
    def of(cls, picture: Picture, trials: tuple[_Trial, ...]) -> _Blocks:
        most, k = _GRID**2, _KEPT_COSINES
        shape = len(trials), most
        centres, cosines = np.zeros(shape, np.complex64), np.zeros((*shape, k, k), np.float32)
        count, placed = np.zeros(len(trials), np.int64), np.zeros((len(trials), 2, 3))
        cut: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}
        for row, (size, orientation) in enumerate(trials):
            if size not in cut:
                cut[size] = _cut_blocks(detail(picture.scaled(size), 9))
            middle, told = cut[size]
            count[row] = len(middle)
            turn = _turn(orientation, size)
            y, x = turn[:, :2] @ [middle.imag, middle.real] + turn[:, 2:]
            centres[row, : len(middle)] = x + 1j * y
            cosines[row, : len(middle)] = oriented(told)[:, orientation] if orientation else told
            placed[row] = turn
            placed[row, :, :2] *= np.array(size) / picture.grey.shape
        i, j = _pairs_of(most)
        way = centres[:, j] - centres[:, i]
        far = (np.abs(way) > _BLOCK * 0.9) & (j < count[:, None])
        apart = np.where(far, 1 / np.where(far, way, 1), 0).astype(np.complex64)
        return cls(centres, cosines.reshape(*shape, k * k), count, placed, apart)


@cache
def _pairs_of(count: int) -> tuple[np.ndarray, ...]:
    return np.triu_indices(count, 1)


def _cut_blocks(small: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Blocks of a small picture that show something: centres, complex (m,), and cosines; none where there are few."""
    if min(small.shape) < _BLOCK:
        return np.empty(0, complex), np.empty((0, _KEPT_COSINES, _KEPT_COSINES), np.float32)
    room = [side - _BLOCK for side in small.shape]
    counts = [min(int(most / (_BLOCK * 0.6)) + 1, _GRID) for most in room]
    down, across = (np.linspace(0, *each).round().astype(int) for each in zip(room, counts, strict=True))
    cut = sliding_window_view(small, (_BLOCK, _BLOCK))[down[:, None], across].reshape(-1, _BLOCK, _BLOCK)
    centres = (across + 1j * down[:, None]).ravel() + (1 + 1j) * _BLOCK / 2
    kept = cut.std(axis=(1, 2)) > _PLAIN
    kept &= kept.sum() >= 3
    cosines = _cosines().T @ cut[kept] @ _cosines()
    cosines[:, 0, 0] = 0
    cosines /= np.maximum(np.sqrt(np.square(cosines).sum(axis=(1, 2), keepdims=True)), 1e-6)
    return centres[kept], cosines


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
        rows = sliding_window_view(small, _BLOCK, axis=1) @ _cosines()
        made = np.ascontiguousarray(sliding_window_view(rows, _BLOCK, axis=0)) @ _cosines()
        cosines = made.transpose(3, 2, 0, 1).reshape(k * k, -1)
        cosines[0] = 0
        cosines /= np.maximum(np.sqrt(np.square(cosines).sum(axis=0)), _BLOCK * _PLAIN)
        return cls(shape, cosines)

    def find(self, blocks: _Blocks) -> tuple[np.ndarray, np.ndarray]:
        """The two best places of each block, complex64 (trials, 2, most), and their correlations."""
        assert self.cosines is not None
        trials, most = blocks.centres.shape
        high, wide = (side - _BLOCK + 1 for side in self.shape)
        seen = blocks.cosines.reshape(trials * most, -1) @ self.cosines
        places = np.empty((2, trials * most), np.complex64)
        values = np.empty((2, trials * most), np.float32)
        rows = np.arange(trials * most)
        for turn in range(2):
            best = seen.argmax(axis=1)
            y, x = np.divmod(best, wide)
            places[turn] = x + 1j * y + (1 + 1j) * _BLOCK / 2
            values[turn] = seen[rows, best]
            if not turn:
                down = np.clip(y[:, None] + np.arange(-2, 3), 0, high - 1)
                across = np.clip(x[:, None] + np.arange(-2, 3), 0, wide - 1)
                seen[rows[:, None, None], down[:, :, None] * wide + across[:, None, :]] = -1
        places, values = (each.reshape(2, trials, most).transpose(1, 0, 2) for each in (places, values))
        return np.ascontiguousarray(places), np.ascontiguousarray(values)


def _votes(blocks: _Blocks, field: _Field) -> Iterator[tuple[float, float, np.ndarray]]:
    """For each trial the similarity that most of its blocks vote for.

    Support, the share of blocks, and float64 (2, 3): places of the picture of the blocks to those of the small one.
    """
    places, values = field.find(blocks)
    i, j = _pairs_of(places.shape[2])
    telling = values > _LEAST_VOTE
    # z -> a z + b takes two blocks where they are seen.
    a = (places[:, None, :, j] - places[:, :, None, i]) * blocks.apart[:, None, None]
    size = np.square(a.real) + np.square(a.imag)
    fits = (size > (1 - _SCALE_OFF) ** 2) & (size < (1 + _SCALE_OFF) ** 2)
    fits &= np.abs(a.imag) < np.float32(np.tan(_TURN)) * a.real
    fits &= telling[:, :, None, i]
    fits &= telling[:, None, :, j]
    trial, p, q, pair = np.nonzero(fits)
    if not len(trial):
        return
    a = a[trial, p, q, pair]
    b = places[trial, p, i[pair]] - a * blocks.centres[trial, i[pair]]
    away = (a[:, None] * blocks.centres[trial] + b[:, None])[:, None] - places[trial]
    near = np.square(away.real) + np.square(away.imag) < _NEAR**2
    support = np.where(near, np.square(values)[trial], 0).max(axis=1)
    total = support.sum(axis=1)
    starts = np.flatnonzero(np.diff(trial, prepend=-1))
    for start, stop in pairwise([*starts.tolist(), len(trial)]):
        best, row = start + int(total[start:stop].argmax()), int(trial[start])
        there = support[best] > 0
        weight = support[best][there].astype(float)
        centres = blocks.centres[row][there].astype(complex)
        targets = np.where(near[best, 0], *places[row])[there].astype(complex)
        whole = weight.sum()
        middle, aim = weight @ centres / whole, weight @ targets / whole
        around = centres - middle
        slope = (weight * around.conj()) @ (targets - aim) / max((weight * around.conj()) @ around, 1e-6)
        shift = aim - slope * middle
        turn = np.array([[slope.real, slope.imag], [-slope.imag, slope.real]])
        placed = turn @ blocks.placed[row]
        placed[:, 2] += [shift.imag, shift.real]
        yield float(whole / np.sqrt(blocks.count[row])), float(there.sum() / blocks.count[row]), placed


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
    tried: list[tuple[float, np.ndarray]] = []
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
        for support, share, placed in _votes(one.blocks(trials), where):
            if share >= _CLEAR:
                best = max(best, look(back * placed))
                if best >= _ENOUGH:
                    return best
            elif support >= _LEAST_SUPPORT:
                tried.append((support, back * placed))
    tried.sort(key=lambda trial: -trial[0])
    for _, placed in tried[:_TRIED]:
        best = max(best, look(placed))
        if best >= _CERTAIN:
            break
    return best


@dataclass(frozen=True)
class _Frame:
    """A picture that another one is laid over."""

    shape: tuple[int, int]
    side: int  # of a block
    blocks: np.ndarray  # float32 (down * side, across * side): detail, without the mean of each block
    energy: np.ndarray  # float32 (down, across)
    centres: np.ndarray  # float64 (down * across, 2)
    spectra: _Spectra | None  # None where there is no room for a window

    @classmethod
    def of(cls, shown: np.ndarray, side: int) -> _Frame:
        high, wide = shown.shape
        down, across = high // side, wide // side
        blocks = detail(shown, 9)[: down * side, : across * side].reshape(down, side, across, side)
        blocks = blocks - blocks.mean(axis=(1, 3), keepdims=True)
        grid = np.stack(np.meshgrid(np.arange(down), np.arange(across), indexing="ij"), axis=2)
        centres = (grid.reshape(-1, 2) + 0.5) * side
        energy = np.square(blocks).sum(axis=(1, 3))
        blocks = blocks.reshape(down * side, across * side)
        return cls((high, wide), side, blocks, energy, centres, _Spectra.of(shown))


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
    corners, agreed = _corners(one.grey.shape), -1.0
    for turn, (longest, side, reach) in enumerate(_ROUNDS):
        frame = one.frame(longest, side)
        step = np.array(one.grey.shape) / frame.shape
        if turn < 2:
            laid, there = _sampled(two, placed, step, frame.shape)
        moves = _moved(frame, laid, there, reach)
        found = None if moves is None else _fitted(moves, frame, placed, step)
        if moves is None or found is None or _times(found[0]) <= _FLAT:
            return -1.0, placed
        if not turn and (moves[2] < _LEAST_MATCH or found[1] < _LEAST_KEPT):
            return 0.0, placed
        moved = np.abs((found[0] - placed) @ corners).max() / (_times(found[0]) * step.max())
        placed = found[0]
        laid, there = _sampled(two, placed, step, frame.shape)
        agreed = _coherence(frame, laid, there)
        if not turn and agreed < _HOPELESS:
            return max(agreed - _FINER, -1.0), placed
        if turn and moved < _SETTLED:
            break
    return agreed, placed


def _corners(shape: tuple[int, ...]) -> np.ndarray:
    return np.array([[0, 0, shape[0], shape[0]], [0, shape[1], 0, shape[1]], [1, 1, 1, 1]])


def _fitted(
    moved: tuple[np.ndarray, np.ndarray, float], frame: _Frame, placed: np.ndarray, step: np.ndarray
) -> tuple[np.ndarray, float] | None:
    """What `placed` should be, by where the blocks of the frame are found; None if too few are, and the share of those."""
    targets, weight, _ = moved
    # From places in the frame to where the other one was sampled.
    table = np.column_stack([frame.centres * step, np.ones(len(targets))])
    found = (targets * step) @ placed[:, :2].T + placed[:, 2]
    kept = weight > 0
    solved = placed.T
    for _ in range(3):
        weighted = (table * np.where(kept, weight, 0)[:, None]).T
        try:
            solved = np.linalg.solve(weighted @ table, weighted @ found)
        except np.linalg.LinAlgError:  # all in one line
            return None
        off = np.abs(table @ solved - found).max(axis=1) / _times(placed)
        middle = float(_quantiles(off[kept], (0.5,))[0])
        kept = (weight > 0) & (off < 1.5 * max(middle, step.max()))
        if kept.sum() < _FEWEST:
            return None
    return (np.asarray(solved.T), float(kept.mean())) if np.isfinite(solved).all() else None


def _quantiles(values: np.ndarray, shares: tuple[float, ...]) -> np.ndarray:
    """As `numpy.quantile`, which takes a hundred times as long for as few values as these."""
    ranked = np.sort(values)
    return np.interp(np.array(shares) * (len(ranked) - 1), np.arange(len(ranked)), ranked)


def _times(placed: np.ndarray) -> float:
    """Factor by which a map enlarges."""
    return max(float(np.sqrt(abs(placed[0, 0] * placed[1, 1] - placed[0, 1] * placed[1, 0]))), _FLAT)


def _sampled(
    picture: Picture, placed: np.ndarray, step: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Sample a picture at ``placed`` of the places of a frame, and tell where it has any; None for everywhere."""
    matrix = placed[:, :2] * step
    level = picture.reduced(_times(matrix))
    sides = np.array([level.height, level.width])
    smaller = sides / picture.grey.shape
    matrix = np.column_stack([matrix * smaller[:, None], placed[:, 2] * smaller])
    (a, b, y), (c, d, x) = matrix.tolist()
    how = Image.Transform.AFFINE, (d, c, x, b, a, y), Image.Resampling.BILINEAR
    laid = np.asarray(level.transform(size[::-1], *how, fillcolor=_OUTSIDE))
    ends = matrix @ _corners(size)
    if (ends >= 0).all() and (ends <= sides[:, None]).all():
        return laid, None
    down, across = np.arange(size[0])[:, None] + 0.5, np.arange(size[1]) + 0.5
    there = np.ones(size, bool)
    for at, most in ((a * down + (b * across + y), sides[0]), (c * down + (d * across + x), sides[1])):
        there &= (at >= 0) & (at <= most)
    return laid, there


def _moved(
    frame: _Frame, laid: np.ndarray, there: np.ndarray | None, reach: int
) -> tuple[np.ndarray, np.ndarray, float] | None:
    """Best places of blocks of the frame in what is laid over it, (m, 2), weights, and their mean correlation."""
    side, (down, across) = frame.side, frame.energy.shape
    if down * across < _FEWEST:
        return None
    high, wide = down * side, across * side
    whole: np.ndarray | bool = True
    if there is not None:
        whole = (there[:high, :wide].reshape(down, side, across, side).mean(axis=(1, 3)) > 0.9).ravel()
    around = np.pad(detail(laid, 9), reach, mode="edge")
    moves = 2 * reach + 1
    seen = np.empty((moves, moves, down, across), np.float32)
    rows, columns = _stretches(high, side, side, down, 1), _stretches(wide, side, side, across, 1).T
    for y in range(moves):
        for x in range(moves):
            seen[y, x] = rows @ (around[y : y + high, x : x + wide] * frame.blocks) @ columns
    sums, squares = (
        _sums(values, side, side, (down, across), moves) for values in (around, np.square(around))
    )
    own = (squares - np.square(sums) / side**2).reshape(moves, down, moves, across).transpose(0, 2, 1, 3)
    seen = (seen / np.sqrt(np.maximum(frame.energy * own, 1e-3))).reshape(moves, moves, -1)
    least = np.sqrt(np.minimum(frame.energy, np.maximum(own[reach, reach], 0))).ravel() / side
    every = np.arange(down * across)
    y, x = np.divmod(seen.reshape(moves * moves, -1).argmax(axis=0), moves)
    value = seen[y, x, every]
    place = np.stack([_peak(seen[:, x, every], y), _peak(seen[y, :, every].T, x)], axis=1) - reach
    weight = np.where(whole & (value > 0.35), np.square(np.maximum(value, 0)) * np.sqrt(least), 0)
    if (weight > 0).sum() < _FEWEST:
        return None
    return frame.centres + place, weight.astype(float), float(np.mean(value, where=whole))


def _sums(values: np.ndarray, side: int, step: int, counts: tuple[int, ...], moves: int = 1) -> np.ndarray:
    """Sums over squares of `side` pixels, `step` from one to the next, in each of some moves."""
    first, second = (
        _stretches(length, side, step, count, moves)
        for length, count in zip(values.shape, counts, strict=True)
    )
    return np.asarray(first @ values @ second.T)


@lru_cache(64)
def _stretches(length: int, side: int, step: int, count: int, moves: int) -> np.ndarray:
    """Which of `length` pixels are in each of `count` stretches, for each move, float32."""
    first = (np.arange(moves)[:, None] + np.arange(count) * step).reshape(-1, 1)
    pixels = np.arange(length)
    return ((pixels >= first) & (pixels < first + side)).astype(np.float32)


def _peak(seen: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Top of a parabola through a maximum and its two neighbours; `seen` (moves, m)."""
    inner, every = np.clip(at, 1, len(seen) - 2), np.arange(len(at))
    low, mid, high = (seen[inner + k, every] for k in (-1, 0, 1))
    bend = 2 * mid - low - high
    off = np.where(bend > 1e-6, (high - low) / np.maximum(2 * bend, 1e-6), 0.0)
    return np.where(inner == at, at + np.clip(off, -0.5, 0.5), at.astype(float))


@cache
def _waves() -> tuple[np.ndarray, np.ndarray, np.ndarray, list[np.ndarray], np.ndarray]:
    """Fourier transform of a tapered window, of the frequencies that are compared.

    Matrices of rows, float32 (window, 2 k), real parts and then imaginary ones, and of columns, complex64 (m, window); which
    of the frequencies m x k are in a band; of these, those in each band; and the transform of a window that is 1 all over.
    """
    taper = np.hanning(_WINDOW + 2)[1:-1]
    taper /= np.sqrt(np.square(taper).sum())
    x, most = np.arange(_WINDOW), int(np.ceil(_BANDS[-1][1])) - 1
    across, down = np.arange(most + 1), np.arange(-most, most + 1)[:, None]
    one = taper[:, None] * np.exp(-2j * np.pi * x[:, None] * across / _WINDOW)
    two = taper * np.exp(-2j * np.pi * down * x / _WINDOW)
    radius = np.hypot(down, across).ravel()
    within = [(radius >= low) & (radius < high) for low, high in _BANDS]
    kept = np.flatnonzero(np.any(within, axis=0))
    even = np.outer(two.sum(axis=1), one.sum(axis=0)).ravel()[kept].astype(np.complex64)
    rows = np.concatenate([one.real, one.imag], axis=1).astype(np.float32)
    return rows, two.astype(np.complex64), kept, [np.flatnonzero(band[kept]) for band in within], even


@dataclass(frozen=True)
class _Spectra:
    """Overlapping windows of a picture, each without its mean."""

    values: np.ndarray  # complex64 (windows, frequencies)
    energy: np.ndarray  # float32 (windows,)

    @classmethod
    def of(cls, picture: np.ndarray) -> _Spectra | None:
        if min(picture.shape) < _WINDOW:
            return None
        across, columns, kept, _, even = _waves()
        # First each row of pixels, which several windows have in common.
        rows = sliding_window_view(picture, _WINDOW, axis=1)[:, ::_STEP] @ across
        half = rows.shape[2] // 2
        rows = rows[..., :half] + np.complex64(1j) * rows[..., half:]
        high, wide = rows.shape[0], rows.shape[1]
        down = (high - _WINDOW) // _STEP + 1
        rows = np.ascontiguousarray(rows.reshape(high, wide * half))
        parts = as_strided(rows, (down, _WINDOW, wide * half), (rows.strides[0] * _STEP, *rows.strides))
        values = (columns @ parts).reshape(down, -1, wide, half).transpose(0, 2, 1, 3)
        values = values.reshape(down * wide, -1)[:, kept]
        sums, squares = (_window_sums(each) for each in (picture, np.square(picture)))
        mean = sums / _WINDOW**2
        return cls(values - mean[:, None] * even, np.maximum(squares - mean * sums, 0))


def _window_sums(values: np.ndarray) -> np.ndarray:
    counts = tuple((length - _WINDOW) // _STEP + 1 for length in values.shape)
    return _sums(values.astype(np.float32), _WINDOW, _STEP, counts).ravel()


def _coherence(frame: _Frame, laid: np.ndarray, there: np.ndarray | None) -> float:
    """Mean over two bands of how far the phases of windows agree, of half of them and of nearly all."""
    two = _Spectra.of(laid)
    if frame.spectra is None or two is None:
        return -1.0
    whole = np.ones(len(two.energy), bool)
    if there is not None:
        whole = _window_sums(there) > 0.97 * _WINDOW**2
    if whole.sum() < _FEWEST:
        return -1.0
    # Of two contrasts the mean.
    energies = [max(float(side.energy[whole].sum()), 1e-6) for side in (frame.spectra, two)]
    middle = np.sqrt(energies[0] * energies[1])
    a, b = (
        side.values[whole] * np.float32(np.sqrt(middle / energy))
        for side, energy in zip((frame.spectra, two), energies, strict=True)
    )
    sizes = np.abs(a), np.abs(b)
    agreed = (a * np.conj(b)).real / np.maximum(sizes[0] * sizes[1], 1e-6)
    larger = np.square(np.maximum(*sizes))
    weight = larger / (larger + np.float32(_NOISE**2))
    told = []
    for band in _waves()[3]:
        heavy = weight[:, band].sum(axis=1)
        telling = heavy > _TELLING * len(band)
        if telling.sum() < _FEWEST:
            return -1.0
        value = (weight[:, band] * agreed[:, band]).sum(axis=1)[telling] / heavy[telling]
        told.append(float(_quantiles(value, _QUANTILES).mean()))
    return float(np.mean(told))


def least_agreement(values: np.ndarray, evidence: np.ndarray) -> float:
    """Agreement that copies are asked for, by what pairs in doubt have, and their evidence; `LOOSE` to `STRICT`.

    Those of less evidence than most that agree less than copies do are mostly unrelated: the more these agree, the more
    copies are asked for. Copies that were changed much are among them, so that it is not their highest values that tell.
    """
    unrelated = values[(values < STRICT) & (evidence <= np.median(evidence))] if len(values) else values
    if len(unrelated) < FEWEST_PAIRS:
        return LOOSE
    beyond = max(float(np.quantile(unrelated, _UNRELATED)) - _CHANCE, 0.0)
    return min(LOOSE + _STEEPER * beyond, STRICT)


def decide(
    agreed: np.ndarray, evidence: np.ndarray, asked: float | None, agreeing: float
) -> tuple[np.ndarray, np.ndarray]:
    """Tell which pairs in doubt are one picture by how far they `agreed`, and which are alike with nothing to decide it.

    NaN is what could not be read. `agreeing` is asked of copies, and `asked` is the evidence of a pair; None where a rule
    knows none.
    """
    least, enough = np.full(len(agreed), agreeing), np.ones(len(agreed), bool)
    if asked is not None:
        enough = evidence >= asked
        if agreeing < TELLING:
            # Where unrelated pictures hardly agree, what stands out as a pair does may do so with much drawn over it.
            least *= np.clip(BEYOND_DOUBT - evidence / asked, 0, 1)
    same = agreed >= least
    return same, ~same & enough & (np.isnan(agreed) | (agreed >= VAGUE))


#: Gives the digests of some contents, and the files that they are in; None where there is none.
Sources = Callable[[np.ndarray], tuple[list[str], list[str | None]]]


class Agreements:
    """Agreements of the pictures of contents: files are read when one is asked for, and answers kept by digest."""

    @classmethod
    def of_store(
        cls,
        store: Store,
        digests: pa.Array,
        files: Callable[[np.ndarray], pa.Array],
        threads: int | None,
    ) -> Agreements:
        """Of contents by their `digests` and what gives their `files`, kept in a store's cache."""
        return cls(
            lambda numbers: (digests.take(pa.array(numbers)).to_pylist(), files(numbers).to_pylist()),
            store.path / "cache" / _FILE,
            threads,
        )

    def __init__(self, sources: Sources, file: Path | None = None, threads: int | None = None) -> None:
        self.sources, self.file, self.threads = sources, file, threads
        self._known: dict[str, float] | None = None
        self._new = False

    def subset(self, numbers: np.ndarray) -> Agreements:
        """Those of the contents `numbers`, renumbered from 0."""
        made = Agreements(lambda of: self.sources(numbers[of]), None, self.threads)
        made._known = self._answers()
        return made

    def of(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """The `agreement` of the pictures of each pair, float64 (m,); NaN where one cannot be read as it was embedded."""
        if not len(i):
            return np.empty(0)
        known = self._answers()
        numbers, at = np.unique(np.concatenate([i, j]), return_inverse=True)
        digests, files = self.sources(numbers)
        file_of = dict(zip(digests, files, strict=True))
        left, right = at[: len(i)], at[len(i) :]
        keys = [
            (min(digests[a], digests[b]), max(digests[a], digests[b]))
            for a, b in zip(left.tolist(), right.tolist(), strict=True)
        ]
        if todo := sorted({key for key in keys if _key(*key) not in known}):
            self._new = True
            parts = [
                [((one, file_of[one]), (two, file_of[two])) for one, two in part]
                for part in _near_together(todo)
            ]
            for part, found in zip(parts, measured(_compared, parts, self.threads), strict=True):
                known.update(
                    (_key(one[0], two[0]), value) for (one, two), value in zip(part, found, strict=True)
                )
            _read_once.cache_clear()
        return np.array([known[_key(*key)] for key in keys])

    def _answers(self) -> dict[str, float]:
        if self._known is None:
            self._known = {}
            if self.file is not None:
                with contextlib.suppress(*UNREADABLE_ARRAYS), np.load(self.file, allow_pickle=False) as held:
                    keys, values = held["keys"], held["values"]
                    if int(held["version"]) == REGISTRATION_VERSION and keys.shape == values.shape:
                        self._known = dict(zip(keys.astype("U64").tolist(), values.tolist(), strict=True))
        return self._known

    def keep(self) -> None:
        """Write what is known, if any is new; what could not be read is asked again."""
        if self.file is None or not self._new:
            return
        known = {key: value for key, value in self._answers().items() if not np.isnan(value)}
        kept = dict(list(known.items())[-_KEPT:])
        keys, values = np.array(list(kept), "S64"), np.array(list(kept.values()), np.float64)
        keep_arrays(self.file, version=np.array(REGISTRATION_VERSION), keys=keys, values=values)


def _key(one: str, two: str) -> str:
    return one[:32] + two[:32]


def _near_together(pairs: list[tuple[str, str]]) -> list[list[tuple[str, str]]]:
    """Pairs in such an order, in parts, that those of one picture come soon after one another, and it is read once."""
    beside: dict[str, list[str]] = {}
    for one, two in pairs:
        beside.setdefault(one, []).append(two)
        beside.setdefault(two, []).append(one)
    # Breadth first, from each picture that none before it led to.
    rank: dict[str, int] = {}
    waiting: deque[str] = deque()
    for start in beside:
        waiting.append(start)
        while waiting:
            name = waiting.popleft()
            if name not in rank:
                rank[name] = len(rank)
                waiting.extend(other for other in beside[name] if other not in rank)
    parts: dict[int, list[tuple[str, str]]] = {}
    for pair in sorted(pairs, key=lambda pair: sorted(rank[name] for name in pair)[::-1]):
        parts.setdefault(max(rank[name] for name in pair), []).append(pair)
    return list(parts.values())


#: A content's digest, and the file it is in; None where there is none.
Source = tuple[str, str | None]


def _compared(pairs: list[tuple[Source, Source]]) -> list[float]:
    found = []
    for pair in pairs:
        one, two = (_read_once(*source) for source in pair)
        found.append(float("nan") if one is None or two is None else round(agreement(one, two), 4))
    return found


def _read(digest: str, file: str | None) -> Picture | None:
    """The picture of a file; None if it is gone, unreadable, or not what it was."""
    image = decode_content(digest, file, _FRAME)
    return None if image is None else Picture.of(image)


_read_once = lru_cache(_HELD)(_read)


class StreamPictures:
    """Pictures of a stream's contents: read from their files, or of the latest those that came without one."""

    def __init__(self, asked: float | None = None) -> None:
        """`asked` is the agreement of copies, where a search has told it."""
        self._asked = asked
        self._held: OrderedDict[str, Picture] = OrderedDict()
        self._known: OrderedDict[str, float] = OrderedDict()
        #: Agreements of the latest pairs, and their evidence.
        self.record: deque[tuple[float, float]] = deque(maxlen=_RECORD)

    def keep(self, digest: str, grey: np.ndarray) -> None:
        """Hold the picture of a content, uint8 as `Picture` has it, for a while."""
        self._hold(digest, Picture(grey))

    def agreement(self, one: tuple[str, str | None], two: tuple[str, str | None], evidence: float) -> float:
        """The `agreement` of two contents, each a digest and its file; NaN where one cannot be read as it was."""
        # One order, so that it does not matter which came first.
        one, two = sorted((one, two), key=lambda side: side[0])
        key = _key(one[0], two[0])
        if key not in self._known:
            first, second = self._picture(*one), self._picture(*two)
            if first is None or second is None:
                return float("nan")
            value = round(agreement(first, second), 4)
            first.strip()
            second.strip()
            self.record.append((value, round(evidence, 4)))
            self._known[key] = value
            while len(self._known) > _PAIRS:
                self._known.popitem(last=False)
        return self._known[key]

    @property
    def least(self) -> float:
        """Agreement that copies are asked for, see `least_agreement`; what few pairs tell is not enough to ask for less."""
        if self._asked is not None or not self.record:
            return _UNTOLD if self._asked is None else self._asked
        values, evidence = np.array(self.record).T
        told = least_agreement(values, evidence)
        return told if len(self.record) >= 4 * FEWEST_PAIRS else max(told, _UNTOLD)

    def restore(self, record: Iterable[tuple[float, float]]) -> None:
        """Take the `record` of an earlier run."""
        self.record.extend((float(value), float(evidence)) for value, evidence in record)

    def _picture(self, digest: str, file: str | None) -> Picture | None:
        if digest not in self._held:
            found = _read(digest, file)
            if found is None:
                return None
            self._hold(digest, found)
        self._held.move_to_end(digest)
        return self._held[digest]

    def _hold(self, digest: str, picture: Picture) -> None:
        self._held[digest] = picture
        self._held.move_to_end(digest)
        while len(self._held) > _LATEST:
            self._held.popitem(last=False)
