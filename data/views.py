"""Perceptual hashes of parts of a picture, so that a crop, a frame or a caption band does not hide where it came from.

A pHash sees the picture as a whole: cut a tenth off and half of its bits are others. So a picture is hashed as it is,
without its uniform margins and caption bands (`content_box`), mirrored, and as what crops of some sizes and places would
leave of it. Of two pictures one's whole or trimmed hash is held against all of the other's: that finds a crop without
knowing where it was made.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from PIL import Image

__all__ = ["VIEWS", "VIEWS_VERSION", "WHOLE_VIEWS", "content_box", "view_hashes"]

#: Changes whenever another hash, or another box, would come of the same picture.
VIEWS_VERSION = 4

#: The first views, which are held against all: the whole picture, and it without margins.
WHOLE_VIEWS = 2

_CUTS = (0.04, 0.08, 0.12, 0.16)
_PLACES = (0.0, 1 / 3, 2 / 3, 1.0)

#: Hashes of a picture: whole, trimmed, mirrored, and crops.
VIEWS = WHOLE_VIEWS + 1 + len(_CUTS) * len(_PLACES) ** 2

_SIDE = 32  # of the picture that a pHash is taken of
_LOW = 8  # coefficients a side that it keeps
_FINE = 128  # side of the picture that crops are made of
_GRID = 256  # of the picture in which margins are looked for
_MOST = 0.4  # of a side may be margin
_ALIKE = 12  # levels that JPEG may change a ground by
_GROUND = 0.9  # of a row that is margin is ground
_FADING = 4  # rows of the grid in which a margin ends
_WITH_WORDS = 0.3  # of a row with words on it is

#: A coefficient below it is rounding: one level of one pixel makes hundreds of times as much.
_NOTHING = 1e-7


def content_box(image: Image.Image) -> tuple[float, float, float, float]:
    """Find what is inside uniform margins and bands with words on them.

    Parameters
    ----------
    image : PIL.Image.Image
        RGB.

    Returns
    -------
    tuple of float
        Left, top, right, bottom in pixels; the whole picture where there are none, or where they would leave too little.
    """
    small = np.asarray(image.resize((_GRID, _GRID), Image.Resampling.BOX), np.int16)
    top, bottom = _margins(small)
    # Sideways only what is between the bands: their ground may be the margin's.
    left, right = _margins(small[top : _GRID - bottom].transpose(1, 0, 2))
    width, height = image.size
    return (
        left * width / _GRID,
        top * height / _GRID,
        width - right * width / _GRID,
        height - bottom * height / _GRID,
    )


def view_hashes(image: Image.Image, box: tuple[float, float, float, float] | None = None) -> np.ndarray:
    """Hash a picture and its parts.

    Parameters
    ----------
    image : PIL.Image.Image
        RGB, upright.
    box : tuple of float, optional
        Its `content_box`, if that is known.

    Returns
    -------
    ndarray of uint64, shape (VIEWS,)
        The whole, trimmed, mirrored, and the crops, each to within rounding its pHash.
    """
    grey = image.convert("L")
    everything, box = (0.0, 0.0, float(image.width), float(image.height)), box or content_box(image)
    whole = _square(grey, everything)
    trimmed = whole if box == everything else _square(grey, box)
    full, crops = _transforms()
    # Scaling a crop and its cosine transform are both linear, so that a crop costs two products of small matrices. They stay
    # as small as this, since BLAS spreads larger ones over threads of its own, which fight with those that hash.
    rows = crops @ trimmed
    cuts, places = len(_CUTS), len(_PLACES)
    parts = rows.reshape(cuts, places * _LOW, _FINE) @ crops.reshape(cuts, places * _LOW, _FINE).transpose(
        0, 2, 1
    )
    parts = parts.reshape(cuts, places, _LOW, places, _LOW).transpose(0, 1, 3, 2, 4)
    low = [full @ whole @ full.T, full @ trimmed @ full.T, full @ trimmed[:, ::-1] @ full.T]
    return _hashes(np.concatenate([np.stack(low), parts.reshape(-1, _LOW, _LOW)]))


def _margins(rows: np.ndarray) -> tuple[int, int]:
    """Rows of margin at the start and at the end of a picture (height, width, 3)."""
    first, last = _margin(rows), _margin(rows[::-1])
    return (first, last) if first + last <= _GRID * _MOST * 1.2 else (0, 0)


def _margin(rows: np.ndarray) -> int:
    ground = np.median(rows[0], axis=0)
    if (np.abs(rows[0] - ground).max(axis=1) < _ALIKE).mean() < 0.95:
        return 0
    share = (np.abs(rows - ground).max(axis=2) < _ALIKE).mean(axis=1)
    found = int(np.argmax(share[: int(_GRID * _MOST)] < _WITH_WORDS)) if share.min() < _WITH_WORDS else 0
    if not found and (share[: int(_GRID * _MOST)] >= _WITH_WORDS).all():
        found = int(_GRID * _MOST)
    end = found
    # Words end before the band does, and a band ends at once: what fades out is the picture's own sky.
    while end and share[end - 1] < _GROUND:
        end -= 1
    return end if found - end <= _FADING else 0


def _square(grey: Image.Image, box: tuple[float, float, float, float]) -> np.ndarray:
    return np.asarray(grey.resize((_FINE, _FINE), Image.Resampling.LANCZOS, box=box), np.float64)


@cache
def _transforms() -> tuple[np.ndarray, np.ndarray]:
    """What takes `_FINE` pixels to the first cosines of 32: of all (8, fine), of crops (cuts, places, 8, fine)."""
    k, x = np.arange(_LOW)[:, None], np.arange(_SIDE)[None]
    cosines = np.cos(np.pi * k * (2 * x + 1) / (2 * _SIDE))
    crops = [[cosines @ _means(place * cut, 1 - cut) for place in _PLACES] for cut in _CUTS]
    return cosines @ _means(0.0, 1.0), np.array(crops)


def _means(start: float, length: float) -> np.ndarray:
    """Averages of `_FINE` pixels over 32 equal parts of a stretch of them, (32, fine)."""
    edges = (start + length * np.arange(_SIDE + 1) / _SIDE) * _FINE
    # How much of each pixel lies before each edge.
    before = np.clip(edges[:, None] - np.arange(_FINE)[None], 0, 1)
    return np.diff(before, axis=0) / np.diff(edges)[:, None]


def _hashes(low: np.ndarray) -> np.ndarray:
    low = low.reshape(len(low), _LOW * _LOW)
    # Of a flat picture all but one coefficient are 0. As rounding leaves them they would make a hash like any other.
    low[np.abs(low) < _NOTHING] = 0
    bits = low > np.median(low, axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(">u8").ravel().astype(np.uint64)
