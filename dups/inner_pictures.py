"""Parts of pictures that are pictures themselves: what an app's screen shows, and the cells of a collage.

A screenshot has the picture in the middle of a ground with names, icons and words on it, and no margin that is uniform. A
collage has seams: lines from side to side, at the half or at the thirds, at which the picture breaks off.
"""

from __future__ import annotations

from math import ceil, floor

import numpy as np

#: Side of the picture that parts are looked for in.
_GRID = 256

_GROUND = 0.12  # of a screen is its ground
_GROUND_LEVELS = 12  # levels by which a ground may change, and more by which a picture breaks off
_SHOWN = 0.5  # of a row of the picture in a screen is not ground
_GAP = 2  # rows of it that may look like ground
_LEAST_SIDE, _LEAST_AREA, _MOST_AREA = 0.25, 0.12, 0.85

_SEAM = 0.6  # of a seam's length is a break, by less than the lines beside it
_AROUND = 0.04  # of a side, around the half or the thirds, in which a seam may lie
_LINES = 6  # at which a picture breaks off around one seam
_SPLITS = ((1 / 2,), (1 / 3, 2 / 3))

Box = tuple[float, float, float, float]


def part_boxes(planes: np.ndarray, inside: Box) -> tuple[Box | None, list[Box]]:
    """Find the picture in a screen, None where there is none, and the cells of a collage, none where it is none.

    `planes` are the colours of the picture at 256 x 256, uint8 (3, 256, 256); boxes are left, top, right, bottom in parts
    of the sides, and `inside` what is within margins.
    """
    return _inner(planes), _collage(planes, inside)


def near_ground(planes: np.ndarray, ground: np.ndarray, levels: int) -> np.ndarray:
    """Tell where all colours of uint8 `planes` (3, ...) are less than so many levels from those of a ground."""
    near: np.ndarray | None = None
    for plane, level in zip(planes, ground.tolist(), strict=True):
        low, high = max(floor(level - levels) + 1, 0), min(ceil(level + levels) - 1, 255)
        # What is below wraps around, and is too much as well.
        one = plane - np.uint8(low) <= np.uint8(high - low)
        near = one if near is None else np.logical_and(near, one, out=near)
    assert near is not None, "pictures have three colours"
    return near


def _inner(planes: np.ndarray) -> Box | None:
    red, green, blue = planes = planes[:, 1::2, 1::2]  # that is fine enough
    side = planes.shape[1]
    codes = (red & np.uint8(0xF0)).astype(np.uint16)
    codes <<= 4
    codes |= green & np.uint8(0xF0)
    codes |= blue >> 4
    codes = codes.ravel()
    counts = np.bincount(codes, minlength=4096)
    most = int(counts.argmax())
    if counts[most] < _GROUND * side * side:
        return None
    planes = np.ascontiguousarray(planes)
    ground = np.median(planes.reshape(3, -1)[:, codes == most], axis=1)
    shown = ~near_ground(planes, ground, _GROUND_LEVELS)
    top, bottom = _longest(shown.mean(axis=1) >= _SHOWN)
    if bottom - top < _LEAST_SIDE * side:
        return None
    left, right = _longest(shown[top:bottom].mean(axis=0) >= _SHOWN)
    if right - left < _LEAST_SIDE * side:
        return None
    top, bottom = _longest(shown[:, left:right].mean(axis=1) >= _SHOWN)
    wide, high = (right - left) / side, (bottom - top) / side
    if min(wide, high) < _LEAST_SIDE or not _LEAST_AREA <= wide * high <= _MOST_AREA:
        return None
    return left / side, top / side, right / side, bottom / side


def _collage(planes: np.ndarray, inside: Box) -> list[Box]:
    left, top, right, bottom = (round(place * _GRID) for place in inside)
    red, green, blue = planes[:, top:bottom, left:right]
    grey = red.astype(np.int16)
    grey += green
    grey += blue
    across, down = _cells(grey[::2]), _cells(grey.T[::2])
    if len(across) * len(down) == 1:
        return []
    return [
        ((left + a) / _GRID, (top + c) / _GRID, (left + b) / _GRID, (top + d) / _GRID)
        for c, d in down
        for a, b in across
    ]


def _longest(shown: np.ndarray) -> tuple[int, int]:
    """Start and end of the longest run of rows, small gaps ignored."""
    best = start = last = 0
    found = (0, 0)
    for row in np.flatnonzero(shown).tolist():
        if row - last > _GAP:
            start = row
        last = row
        if last + 1 - start > best:
            best, found = last + 1 - start, (start, last + 1)
    return found


def _cells(grey: np.ndarray) -> list[tuple[int, int]]:
    """Columns at which cells begin and end from left to right; of the sums of three colours."""
    wide = grey.shape[1]
    around = round(_AROUND * wide)
    for places in _SPLITS:
        edges = [0]
        for place in places:
            start = round(place * wide) - around
            lines = grey[:, start : start + 2 * around + 1]
            window = (np.abs(np.diff(lines, axis=1)) >= 3 * _GROUND_LEVELS).mean(axis=0)
            at = np.flatnonzero(window >= _SEAM)
            # Lines all over are texture.
            if not len(at) or len(at) > _LINES or np.median(window) > _SEAM / 2:
                break
            edges += [start + int(at[0]) + 1, start + int(at[-1]) + 1]
        else:
            edges.append(wide)
            return list(zip(edges[::2], edges[1::2], strict=True))
    return [(0, wide)]
