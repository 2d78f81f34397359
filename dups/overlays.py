"""Thumbnails laid over each other: whether two pictures that agree elsewhere carry different words.

Memes on one template agree everywhere but in a few lines. So a pair's thumbnails are brought to common levels, and what is
left of their difference is looked at. It tells of different words where

- the rest agrees, so that a crop, a turn or another picture tells nothing;
- the difference is large enough for a line of words, and lies in lines;
- it changes from letter to letter, which a patch of another colour, a sticker or a thing that moved does not;
- both pictures depart in it from what surrounds it. A caption that was added to a bare picture departs in one alone, and so
  does a watermark, so that these stay duplicates.

Captions in bands of different heights shift all the rest; there the rest is found first, and the bands are compared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

#: Gives thumbnails, uint8 (m, 64, 64), of some contents by number, and which there are, bool (m,).
Load = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]

#: Levels of 255 within which most of two pictures lie after JPEG, resizing and filters, and the share that has to.
_AGREES, _REST = 8.0, 0.7

#: Levels of a difference that is none of these, or so many times the median difference.
_CHANGED, _TIMES = 16.0, 4.0

#: Least area that changed: a line half as long as the picture is wide, a twentieth of it high.
_LINE = 0.025

#: Rows, as a share of all, that hold nine tenths of what differs, at most.
_ROWS, _IN_ROWS = 0.5, 0.9

#: How much of what differs changes from one pixel to the next: 1 of independent pixels, and little of anything smooth.
#: Words on a bare ground alternate less than words on other words.
_LETTERS, _LETTERS_OF_ONE = 0.75, 0.3

#: Least share of what differs in which either picture departs from its surroundings.
_BOTH = 0.2

#: Share of a difference from which on it is one of place: a crop of a few per cent, a turn by a degree.
_MOVED = 0.2

#: Widths of the surroundings, in pixels; the narrowest that shows something of the rest is taken.
_AROUND = (5, 9, 17, 45)

#: Most that one picture's levels are stretched to match the other's, and levels that count as noise in doing so.
_STRETCH, _NOISE = 4.0, 4.0

#: Every so many pixels tell the levels as well as all: no divisor of the side, so that they lie in all columns.
_FEW = 13

_BLOCK = 128


@dataclass(frozen=True)
class Overlay:
    """What the thumbnails of pairs tell."""

    differ: np.ndarray  # bool (m,): both have words, and other ones
    #: float64 (m,): share of the picture in which one has words that the other lacks, negative if the first has
    added: np.ndarray


def overlay(a: np.ndarray, b: np.ndarray) -> Overlay:
    """Lay thumbnails uint8 (m, side, side) over each other, pair by pair; the order within a pair only turns a sign."""
    differ, added = np.zeros(len(a), bool), np.zeros(len(a))
    for start in range(0, len(a), _BLOCK):
        part = slice(start, start + _BLOCK)
        gain, first, second, median, most = _levels(a[part], b[part])
        place = start + np.flatnonzero(most <= _AGREES)
        if not len(place):
            continue
        gain, first, second, median = (v[place - start, None, None] for v in (gain, first, second, median))
        p, q = (a[place] - first) * gain, (b[place] - second) / gain
        change = q - p
        size = np.abs(change)
        size[size <= np.maximum(_CHANGED, _TIMES * median)] = 0
        change[size == 0] = 0
        at = np.flatnonzero((size > 0).mean(axis=(1, 2)) >= _LINE)
        letters = _alternation(change)
        at = at[_in_lines(size[at]) & (letters[at] >= _LETTERS_OF_ONE)]
        at = at[_moved(p[at], q[at]) < _MOVED] if len(at) else at
        if not len(at):
            continue
        share = _departing(p[at], q[at], size[at])
        area = (size[at] > 0).mean(axis=(1, 2))
        differ[place[at]] = (np.minimum(share, 1 - share) >= _BOTH) & (letters[at] >= _LETTERS)
        added[place[at]] = np.where(share < _BOTH, area, np.where(share > 1 - _BOTH, -area, 0.0))
    return Overlay(differ, added)


def _levels(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, ...]:
    """Levels at which most pixels of two pictures agree best: what differs locally does not count.

    Gives for each pair, float32 (m,), the gain, and the mean of each, with which ``(a - first) * gain`` is held against
    ``(b - second) / gain``; the median of how far they are apart then, and what `_REST` of all are within.
    """
    p, q = (side.reshape(len(side), -1)[:, ::_FEW].astype(np.float32) for side in (a, b))
    middle, last = p.shape[1] // 2, int(_REST * p.shape[1])
    weight = np.ones_like(p)
    for _ in range(3):
        total = weight.sum(axis=1)
        means, spreads = [], []
        for side in (p, q):
            mean = np.vecdot(weight, side) / total
            square = np.vecdot(weight, np.square(side - mean[:, None])) / total
            means.append(mean)
            spreads.append(np.sqrt(square) + _NOISE)
        gain = np.sqrt(np.clip(spreads[1] / spreads[0], 1 / _STRETCH, _STRETCH))
        apart = np.abs((p - means[0][:, None]) * gain[:, None] - (q - means[1][:, None]) / gain[:, None])
        ranked = np.partition(apart, (middle, last), axis=1)
        weight = (apart <= ranked[:, last, None]).astype(np.float32)
    return gain, *means, ranked[:, middle], ranked[:, last]


def _in_lines(size: np.ndarray) -> np.ndarray:
    """Whether what differs lies in few rows."""
    rows = np.sort(size.sum(axis=2), axis=1)[:, ::-1]
    held: np.ndarray = rows[:, : round(_ROWS * rows.shape[1])].sum(axis=1)
    return held >= _IN_ROWS * np.maximum(rows.sum(axis=1), 1e-9)


def _alternation(change: np.ndarray) -> np.ndarray:
    """How much of a difference changes from one pixel to the next in a row: 1 where neighbours are independent."""
    energy = np.square(change).sum(axis=(1, 2))
    steps: np.ndarray = np.square(np.diff(change, axis=2)).sum(axis=(1, 2))
    return steps / np.maximum(2 * energy, 1e-9)


def _moved(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Share of the difference that a small shift, stretch or turn of one picture explains."""
    n, side = len(p), p.shape[1]
    change, mean = (q - p).reshape(n, -1), (p + q) / 2
    across, down = np.gradient(mean, axis=2), np.gradient(mean, axis=1)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j].astype(np.float32)
    # How a pixel changes if the picture moves by a little: (n, 6, pixels).
    basis = np.stack([slope * place for slope in (across, down) for place in (np.ones_like(x), x, y)], axis=1)
    basis = basis.reshape(n, 6, -1)
    normal = basis @ basis.transpose(0, 2, 1) + 1e-3 * np.eye(6, dtype=np.float32)
    along = basis @ change[:, :, None]
    explained = (along * np.linalg.solve(normal, along)).sum(axis=(1, 2))
    share: np.ndarray = explained / np.maximum(np.square(change).sum(axis=1), 1e-9)
    return share


def _departing(p: np.ndarray, q: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Share of what differs in which the first picture lies farther than the second from what surrounds it in both."""
    from scipy.ndimage import uniform_filter

    near = size > 0
    for axis in (1, 2):
        near |= np.roll(near, 1, axis) | np.roll(near, -1, axis)
    rest = (~near).astype(np.float32)
    common = rest * (p + q) / 2
    ground, known = np.zeros_like(p), np.zeros(p.shape, bool)
    for width in _AROUND:
        held = uniform_filter(rest, (0, width, width))
        new = (held > 0.05) & ~known
        seen = uniform_filter(common, (0, width, width))
        ground[new] = seen[new] / held[new]
        known |= new
    first = np.abs(p - ground) > np.abs(q - ground)
    share: np.ndarray = (size * first).sum(axis=(1, 2)) / np.maximum(size.sum(axis=(1, 2)), 1e-9)
    return share


@dataclass
class Overlays:
    """Thumbnails of contents, loaded as they are needed, 4 KB each."""

    load: Load
    numbers: np.ndarray  # int64 (n,): numbers by which `load` knows the contents
    _held: dict[int, np.ndarray | None] = field(default_factory=dict, repr=False)

    def subset(self, numbers: np.ndarray) -> Overlays:
        """Those of the contents `numbers`."""
        return Overlays(self.load, self.numbers[numbers], self._held)

    def of(self, i: np.ndarray, j: np.ndarray) -> Overlay:
        """Lay the pictures ``i[k]`` and ``j[k]`` over each other; nothing is told of pairs of which one has no thumbnail."""
        told = Overlay(np.zeros(len(i), bool), np.zeros(len(i)))
        a, b = self.numbers[i], self.numbers[j]
        self._fetch(np.unique(np.concatenate([a, b])))
        pairs = [
            (k, self._held[x], self._held[y])
            for k, (x, y) in enumerate(zip(a.tolist(), b.tolist(), strict=True))
            if self._held[x] is not None and self._held[y] is not None
        ]
        for start in range(0, len(pairs), 16 * _BLOCK):
            at, first, second = zip(*pairs[start : start + 16 * _BLOCK], strict=True)
            made = overlay(np.stack(first), np.stack(second))
            told.differ[list(at)], told.added[list(at)] = made.differ, made.added
        return told

    def _fetch(self, numbers: np.ndarray) -> None:
        new = np.array([number for number in numbers.tolist() if number not in self._held], np.int64)
        if len(new):
            thumbs, there = self.load(new)
            for number, thumb, known in zip(new.tolist(), thumbs, there.tolist(), strict=True):
                self._held[number] = thumb if known else None
