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
import hashlib
import os
import zipfile
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image

from ..data.image_files import read as read_image
from ..data.images import decode
from ..errors import ImageError
from ..store.files import publish
from ..store.store import Store

#: Changes whenever other agreements would come of the same files.
REGISTRATION_VERSION = 1

#: Pixels of the longest side: as a picture is kept, as it is compared, and as its blocks are looked for.
_SOURCE, _FRAME, _COARSE = 448, 224, 64

#: Pixels a side of a block that is looked for, most blocks a side, and levels of detail that one needs at least.
_BLOCK, _GRID, _PLAIN = 16, 5, 1.5
#: Times that one picture shows things larger than the other.
_SCALES = (1.0, 1.2, 0.83, 1.45, 0.69, 1.75, 0.57)
#: Of these, and of a turn in radians, a vote may differ; votes that are nearer than so many pixels agree.
_SCALE_OFF, _TURN, _NEAR = 0.18, 0.14, 1.8
_LEAST_VOTE = 0.3  # correlation of a block that has a vote
_STRETCHED = 0.04  # difference of the sides' proportions from which on one may be squashed
#: Share of blocks that agree from which on other scales are tried only if pixels do not.
_CLEAR = 0.6
_CERTAIN = 0.8
_TRIED = 2  # similarities that are refined, at most

#: Rounds of refinement: pixels of the longest side, of a block's, and by how many each may move.
_ROUNDS = ((112, 14, 3), (224, 20, 2), (224, 20, 1))
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
_UNRELATED, _CHANCE, _STEEPER, _FEWEST_PAIRS = 0.6, 0.05, 1.5, 20

#: Times the evidence of a pair that is one whatever its pixels say: a slant may keep pictures from being registered.
BEYOND_DOUBT = 2.0
#: Agreement from which on pictures that do not agree enough are told as variants all the same.
VAGUE = 0.35
#: Where copies are asked for less, as much evidence as a pair needs by itself lets them agree less.
TELLING = 0.6

_FILE = "agreements.npz"

#: Pairs whose agreement is kept, and pictures that are held at once.
_KEPT, _HELD = 500_000, 128

#: Of a stream: pictures that are held, at 200 KB at most; pairs whose agreement is known; and how many of these tell how far
#: its unrelated pictures agree.
_LATEST, _PAIRS, _RECORD = 256, 8192, 300

#: Agreement that copies in a stream are asked for before its pairs tell how far unrelated ones agree.
_UNTOLD = 0.75


@dataclass
class Picture:
    """A picture in grey, uint8, of at most `_SOURCE` pixels a side."""

    grey: np.ndarray
    _blocks: dict[tuple[int, int], _Blocks | None] = field(default_factory=dict, repr=False)
    _fields: dict[int, _Field] = field(default_factory=dict, repr=False)

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
        return np.asarray(Image.fromarray(self.grey.astype(np.float32)).resize(size[::-1], how))

    def size(self, longest: float) -> tuple[int, int]:
        """Height and width at which its longest side has so many pixels."""
        high, wide = self.grey.shape
        return max(round(high * longest / max(high, wide)), 8), max(
            round(wide * longest / max(high, wide)), 8
        )

    def blocks(self, size: tuple[int, int]) -> _Blocks | None:
        """Its blocks at a size."""
        if size not in self._blocks:
            self._blocks[size] = _Blocks.of(_detail(self.scaled(size), 9))
        return self._blocks[size]

    def searched(self, orientation: int) -> _Field:
        """The picture in one of its orientations, see `_turned`, in which blocks of others are looked for."""
        if orientation not in self._fields:
            small = _detail(self.scaled(self.size(_COARSE)), 9)
            self._fields[orientation] = _Field.of(_turned(small, orientation))
        return self._fields[orientation]

    def forget(self) -> None:
        """Let go of its blocks, which take megabytes."""
        self._blocks.clear()

    def strip(self) -> None:
        """Let go of all but its pixels."""
        self._blocks.clear()
        self._fields.clear()


def _turned(picture: np.ndarray, orientation: int) -> np.ndarray:
    """Turn a picture by so many quarters; from 4 on mirror it first."""
    return np.rot90(picture[:, ::-1] if orientation > 3 else picture, orientation % 4)


@dataclass(frozen=True)
class _Blocks:
    """Blocks of a picture, to be looked for."""

    centres: np.ndarray  # complex (m,): x + iy
    spectra: np.ndarray  # complex64 (m, side, side // 2 + 1), conjugate, of unit norm

    @classmethod
    def of(cls, small: np.ndarray) -> _Blocks | None:
        from scipy import fft

        high, wide = small.shape
        if min(high, wide) < _BLOCK:
            return None
        down, across = (
            np.linspace(0, side - _BLOCK, min(max(int((side - _BLOCK) / (_BLOCK * 0.6)) + 1, 1), _GRID))
            .round()
            .astype(int)
            for side in (high, wide)
        )
        cut = np.stack([small[y : y + _BLOCK, x : x + _BLOCK] for y in down for x in across])
        centres = np.array([x + 1j * y for y in down for x in across]) + (1 + 1j) * _BLOCK / 2
        cut = cut - cut.mean(axis=(1, 2), keepdims=True)
        norm = np.sqrt(np.square(cut).sum(axis=(1, 2)))
        kept = norm > _BLOCK * _PLAIN
        if kept.sum() < 3:
            return None
        cut = cut[kept] / norm[kept, None, None]
        return cls(centres[kept], np.conj(fft.rfft2(cut, (_COARSE, _COARSE))))


@dataclass(frozen=True)
class _Field:
    """A small picture in which blocks are looked for."""

    shape: tuple[int, int]
    spectrum: np.ndarray
    weight: np.ndarray  # one over the norm of each block that there is

    @classmethod
    def of(cls, small: np.ndarray) -> _Field:
        from scipy import fft

        sums = []
        for values in (small, np.square(small, dtype=np.float64)):
            added = np.zeros((values.shape[0] + 1, values.shape[1] + 1))
            added[1:, 1:] = values.cumsum(0, dtype=np.float64).cumsum(1)
            b = min(_BLOCK, *values.shape)
            sums.append(added[b:, b:] - added[:-b, b:] - added[b:, :-b] + added[:-b, :-b])
        energy = sums[1] - np.square(sums[0]) / _BLOCK**2
        weight = 1 / np.sqrt(np.maximum(energy, (_BLOCK * _PLAIN) ** 2))
        return cls(
            (small.shape[0], small.shape[1]), fft.rfft2(small, (_COARSE, _COARSE)), weight.astype(np.float32)
        )

    def find(self, blocks: _Blocks) -> tuple[np.ndarray, np.ndarray]:
        """The two best places of each block, complex (m, 2), and their correlations."""
        from scipy import fft

        m = len(blocks.centres)
        high, wide = self.weight.shape
        seen = fft.irfft2(self.spectrum * blocks.spectra, (_COARSE, _COARSE))[:, :high, :wide] * self.weight
        places, values = np.empty((m, 2), complex), np.empty((m, 2))
        rows = np.arange(m)
        for turn in range(2):
            best = seen.reshape(m, -1).argmax(axis=1)
            y, x = np.divmod(best, wide)
            places[:, turn] = x + 1j * y + (1 + 1j) * _BLOCK / 2
            values[:, turn] = seen[rows, y, x]
            if not turn:
                down = np.clip(y[:, None] + np.arange(-2, 3), 0, high - 1)
                across = np.clip(x[:, None] + np.arange(-2, 3), 0, wide - 1)
                seen[rows[:, None, None], down[:, :, None], across[:, None, :]] = -1
        return places, values


def _detail(picture: np.ndarray, size: int) -> np.ndarray:
    from scipy.ndimage import uniform_filter

    return np.asarray(picture - uniform_filter(picture, size, mode="nearest"))


def _vote(
    centres: np.ndarray, places: np.ndarray, values: np.ndarray
) -> tuple[float, complex, complex, float]:
    """The similarity ``z -> a z + b`` for which most blocks vote: its support, a, b, and their share."""
    i, j = np.triu_indices(len(centres), 1)
    apart = centres[j] - centres[i]
    found = []
    for p in (0, 1):
        for q in (0, 1):
            a = (places[j, q] - places[i, p]) / apart
            fits = (np.abs(np.abs(a) - 1) < _SCALE_OFF) & (np.abs(np.angle(a)) < _TURN)
            fits &= (
                (values[i, p] > _LEAST_VOTE) & (values[j, q] > _LEAST_VOTE) & (np.abs(apart) > _BLOCK * 0.9)
            )
            found.append(np.stack([a[fits], places[i[fits], p] - a[fits] * centres[i[fits]]]))
    a, b = np.concatenate(found, axis=1)
    if not len(a):
        return 0.0, 1 + 0j, 0j, 0.0
    away = np.abs((a[:, None] * centres + b[:, None])[:, :, None] - places)
    votes = np.where(away < _NEAR, np.maximum(values, 0) ** 2, 0)
    support = votes.max(axis=2)
    best = int(support.sum(axis=1).argmax())
    weight = support[best]
    there = weight > 0
    target = np.where(votes[best, :, 0] > 0, places[:, 0], places[:, 1])[there]
    root = np.sqrt(weight[there])
    table = np.stack([centres[there], np.ones(int(there.sum()))], axis=1) * root[:, None]
    (slope, shift), *_ = np.linalg.lstsq(table, target * root, rcond=None)
    return float(weight.sum()), complex(slope), complex(shift), float(there.mean())


def agreement(one: Picture, two: Picture) -> float:
    """Agreement of two pictures where they show the same, at most 1; about 0 for unrelated ones, -1 for nothing told."""
    plain = one.size(_COARSE)
    trials: list[tuple[tuple[int, int], int]] = [(plain, 0)]
    proportions = [side[0] / side[1] for side in (one.grey.shape, two.grey.shape)]
    if abs(np.log(proportions[0] / proportions[1])) > _STRETCHED:
        trials.append((two.size(_COARSE), 0))
    trials.append((plain, 4))
    trials += [(one.size(_COARSE * scale), 0) for scale in _SCALES[1:]]
    trials += [(plain, orientation) for orientation in (1, 2, 3, 5, 6, 7)]
    tried: list[tuple[float, int, np.ndarray]] = []
    best = -1.0
    for size, orientation in trials:
        blocks = one.blocks(size)
        if blocks is None:
            continue
        where = two.searched(orientation)
        support, slope, shift, share = _vote(blocks.centres, *where.find(blocks))
        if not share:
            continue
        # Places (y, x) of the one to places of the other.
        shape = _turned(two.grey, orientation).shape
        turn = np.array([[slope.real, slope.imag], [-slope.imag, slope.real]])
        there = np.diag([size[0] / one.grey.shape[0], size[1] / one.grey.shape[1]])
        back = np.diag([shape[0] / where.shape[0], shape[1] / where.shape[1]])
        placed = np.column_stack([back @ turn @ there, back @ np.array([shift.imag, shift.real])])
        if share >= _CLEAR:
            best = max(best, _refined(one.grey, _turned(two.grey, orientation), placed))
            if best >= _CERTAIN:
                return best
        else:
            tried.append((support / np.sqrt(len(blocks.centres)), orientation, placed))
    tried.sort(key=lambda trial: -trial[0])
    for _, orientation, placed in tried[:_TRIED]:
        best = max(best, _refined(one.grey, _turned(two.grey, orientation), placed))
        if best >= _CERTAIN:
            break
    return best


def _refined(one: np.ndarray, two: np.ndarray, placed: np.ndarray) -> float:
    """Refine ``placed``, float64 (2, 3), which takes places (y, x) of `one` to those of `two`, and compare them."""
    # The picture that shows less is compared whole, and the other one is sampled: it is not stretched then.
    times = _times(placed)
    if not np.isfinite(placed).all() or times <= _FLAT:
        return -1.0
    if times * max(one.shape) / max(two.shape) >= 1:
        inverse = np.linalg.inv(placed[:, :2])
        one, two, placed = two, one, np.column_stack([inverse, -inverse @ placed[:, 2]])
    frame, two = Picture(one), two.astype(np.float32)
    shown: np.ndarray | None = None
    for longest, side, reach in _ROUNDS:
        size = frame.size(longest)
        shown = frame.scaled(size)
        step = np.array([one.shape[0] / size[0], one.shape[1] / size[1]])
        laid, there = _sampled(two, placed, step, size)
        moved = _moved(shown, laid, there, side, reach)
        if moved is None:
            return -1.0
        centres, targets, weight = moved
        # From places in the frame to where the other one was sampled.
        table = np.column_stack([centres * step, np.ones(len(centres))])
        found = (targets * step) @ placed[:, :2].T + placed[:, 2]
        kept = weight > 0
        for _ in range(3):
            root = np.sqrt(np.where(kept, weight, 0))[:, None]
            solved, *_ = np.linalg.lstsq(table * root, found * root, rcond=None)
            off = np.abs(table @ solved - found).max(axis=1) / _times(placed)
            limit = 1.5 * step.max() * max(1.0, float(np.median(off[kept])) / step.max())
            kept = (weight > 0) & (off < limit)
            if kept.sum() < _FEWEST:
                return -1.0
        placed = solved.T
    laid, there = _sampled(two, placed, step, size)
    assert shown is not None
    return _coherence(shown, laid, there)


def _times(placed: np.ndarray) -> float:
    """Factor by which a map enlarges."""
    return max(float(np.sqrt(abs(np.linalg.det(placed[:, :2])))), _FLAT)


def _sampled(
    picture: np.ndarray, placed: np.ndarray, step: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Sample a picture at ``placed`` of the places of a frame, and tell where it has any."""
    from scipy.ndimage import affine_transform, gaussian_filter

    matrix = placed[:, :2] * step
    # Places are of edges, and pixels are sampled at their middle.
    shift = placed[:, 2] + matrix @ np.array([0.5, 0.5]) - 0.5
    shrink = _times(matrix)
    if shrink > 1.1:
        picture = gaussian_filter(picture, (shrink - 1) * 0.5)
    laid = affine_transform(picture, matrix, shift, output_shape=size, order=1, mode="nearest")
    y, x = np.arange(size[0])[:, None], np.arange(size[1])[None]
    there = np.ones(size, bool)
    for axis in (0, 1):
        at = matrix[axis, 0] * y + matrix[axis, 1] * x + shift[axis]
        there &= (at >= -0.5) & (at <= picture.shape[axis] - 0.5)
    return laid, there


def _moved(
    frame: np.ndarray, laid: np.ndarray, there: np.ndarray, side: int, reach: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Best places of blocks of the frame in what is laid over it: centres, places, both (m, 2), and weights."""
    down, across = frame.shape[0] // side, frame.shape[1] // side
    if down * across < _FEWEST:
        return None

    def cut(picture: np.ndarray) -> np.ndarray:
        parts = (
            picture[: down * side, : across * side].reshape(down, side, across, side).transpose(0, 2, 1, 3)
        )
        return parts.reshape(down * across, side * side)

    whole = cut(there).mean(axis=1) > 0.9
    blocks = cut(_detail(frame, 9))
    blocks = blocks - blocks.mean(axis=1, keepdims=True)
    energy = np.square(blocks).sum(axis=1)
    around = np.pad(_detail(laid, 9), reach, mode="edge")
    moves = 2 * reach + 1
    seen = np.empty((moves, moves, len(blocks)))
    least = np.empty(len(blocks))
    for y in range(moves):
        for x in range(moves):
            part = cut(around[y : y + frame.shape[0], x : x + frame.shape[1]])
            own = np.square(part).sum(axis=1) - np.square(part.sum(axis=1)) / side**2
            seen[y, x] = (blocks * part).sum(axis=1) / np.sqrt(np.maximum(energy * own, 1e-3))
            if (y, x) == (reach, reach):
                least = np.sqrt(np.minimum(energy, np.maximum(own, 0))) / side
    rows = np.arange(len(blocks))
    y, x = np.divmod(seen.reshape(-1, len(blocks)).argmax(axis=0), moves)
    value = seen[y, x, rows]
    place = np.stack([_peak(seen[:, x, rows], y, rows), _peak(seen[y, :, rows].T, x, rows)], axis=1) - reach
    weight = np.where(whole & (value > 0.35), np.maximum(value, 0) ** 2 * np.sqrt(least), 0)
    if (weight > 0).sum() < _FEWEST:
        return None
    grid = np.stack(np.meshgrid(np.arange(down), np.arange(across), indexing="ij"), axis=2).reshape(-1, 2)
    centres = (grid + 0.5) * side
    return centres, centres + place, weight


def _peak(seen: np.ndarray, at: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Top of a parabola through a maximum and its two neighbours; `seen` (moves, m)."""
    inner = np.clip(at, 1, len(seen) - 2)
    low, mid, high = (seen[inner + k, rows] for k in (-1, 0, 1))
    bend = 2 * mid - low - high
    off = np.where(bend > 1e-6, (high - low) / np.maximum(2 * bend, 1e-6), 0.0)
    return np.where(inner == at, at + np.clip(off, -0.5, 0.5), at.astype(float))


@cache
def _frequencies() -> tuple[np.ndarray, list[np.ndarray]]:
    """The window function, of unit norm, and which frequencies are in each band."""
    edge = np.hanning(_WINDOW + 2)[1:-1]
    window = edge[:, None] * edge
    down, across = np.meshgrid(np.fft.fftfreq(_WINDOW), np.fft.rfftfreq(_WINDOW), indexing="ij")
    radius = np.hypot(down, across) * _WINDOW
    bands = [(radius >= low) & (radius < high) for low, high in _BANDS]
    return (window / np.sqrt(np.square(window).sum())).astype(np.float32), bands


def _coherence(frame: np.ndarray, laid: np.ndarray, there: np.ndarray) -> float:
    """Mean over two bands of how far the phases of windows agree, of half of them and of nearly all."""
    from scipy import fft

    if min(frame.shape) < _WINDOW:
        return -1.0
    window, bands = _frequencies()
    one, two, both = (
        sliding_window_view(picture, (_WINDOW, _WINDOW))[::_STEP, ::_STEP] for picture in (frame, laid, there)
    )
    whole = both.mean(axis=(2, 3)) > 0.97
    if whole.sum() < _FEWEST:
        return -1.0
    parts = [part[whole] - part[whole].mean(axis=(1, 2), keepdims=True) for part in (one, two)]
    # Of two contrasts the mean.
    energies = [max(float(np.square(part).sum()), 1e-6) for part in parts]
    middle = np.sqrt(energies[0] * energies[1])
    a, b = (
        fft.rfft2(part * window) * np.float32(np.sqrt(middle / energy))
        for part, energy in zip(parts, energies, strict=True)
    )
    sizes = np.abs(a), np.abs(b)
    agreed = (a * np.conj(b)).real / np.maximum(sizes[0] * sizes[1], 1e-6)
    larger = np.square(np.maximum(*sizes))
    weight = larger / (larger + _NOISE**2)
    told = []
    for band in bands:
        heavy = weight[:, band].sum(axis=1)
        telling = heavy > _TELLING * band.sum()
        if telling.sum() < _FEWEST:
            return -1.0
        value = (weight[:, band] * agreed[:, band]).sum(axis=1)[telling] / heavy[telling]
        told.append(float(np.quantile(value, _QUANTILES).mean()))
    return float(np.mean(told))


def least_agreement(values: np.ndarray, evidence: np.ndarray) -> float:
    """Agreement that copies are asked for, by what pairs in doubt have, and their evidence; `LOOSE` to `STRICT`.

    Those of less evidence than most that agree less than copies do are mostly unrelated: the more these agree, the more
    copies are asked for. Copies that were changed much are among them, so that it is not their highest values that tell.
    """
    unrelated = values[(values < STRICT) & (evidence <= np.median(evidence))] if len(values) else values
    if len(unrelated) < _FEWEST_PAIRS:
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
        digests: pa.ChunkedArray,
        files: Callable[[np.ndarray], pa.Array],
        threads: int | None,
    ) -> Agreements:
        """Of contents by their `digests` and what gives their `files`, kept in a store's cache."""
        known = digests.cast(pa.string()).combine_chunks()
        return cls(
            lambda numbers: (known.take(pa.array(numbers)).to_pylist(), files(numbers).to_pylist()),
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
        of = dict(zip(digests, files, strict=True))
        left, right = at[: len(i)], at[len(i) :]
        keys = [
            (min(digests[a], digests[b]), max(digests[a], digests[b]))
            for a, b in zip(left.tolist(), right.tolist(), strict=True)
        ]
        todo: dict[str, list[str]] = {}
        for one, two in sorted({key for key in keys if _key(*key) not in known}):
            todo.setdefault(one, []).append(two)
        if todo:
            self._new = True
            read = lru_cache(_HELD)(lambda digest: _read(digest, of[digest]))
            workers = min(self.threads or os.cpu_count() or 1, 8)
            with ThreadPoolExecutor(workers) as pool:
                for one, others, found in pool.map(
                    lambda work: _compared(work[0], work[1], read), todo.items()
                ):
                    known.update((_key(one, two), value) for two, value in zip(others, found, strict=True))
        return np.array([known[_key(*key)] for key in keys])

    def _answers(self) -> dict[str, float]:
        if self._known is None:
            self._known = {}
            unreadable = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)
            if self.file is not None:
                with contextlib.suppress(*unreadable), np.load(self.file, allow_pickle=False) as held:
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
        arrays: dict[str, Any] = {
            "keys": np.array(list(kept), "S64"),
            "values": np.array(list(kept.values()), np.float64),
        }
        with contextlib.suppress(OSError):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with publish(self.file) as temp, temp.open("wb") as opened:
                np.savez(opened, version=np.array(REGISTRATION_VERSION), **arrays)


def _key(one: str, two: str) -> str:
    return one[:32] + two[:32]


def _compared(
    one: str, others: list[str], read: Callable[[str], Picture | None]
) -> tuple[str, list[str], list[float]]:
    first = read(one)
    found = []
    for other in others:
        second = read(other)
        found.append(float("nan") if first is None or second is None else round(agreement(first, second), 4))
    if first is not None:
        first.forget()
    return one, others, found


def _read(digest: str, file: str | None) -> Picture | None:
    """The picture of a file; None if it is gone, unreadable, or not what it was."""
    if file is None:
        return None
    try:
        data, _ = read_image(Path(file))
        if hashlib.sha256(data).hexdigest() != digest:
            return None
        return Picture.of(decode(data, shortest=_FRAME).image)
    except (ImageError, OSError, ValueError):
        return None


class StreamPictures:
    """Pictures of a stream's contents: read from their files, or of the latest those that came without one."""

    def __init__(self) -> None:
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
        if not self.record:
            return _UNTOLD
        values, evidence = np.array(self.record).T
        told = least_agreement(values, evidence)
        return told if len(self.record) >= 4 * _FEWEST_PAIRS else max(told, _UNTOLD)

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
