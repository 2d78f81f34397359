"""Turned copies: pairs of pictures of which one is the other rotated or mirrored, found by hash and confirmed by thumbnail.

Eight orientations are eight times as many comparisons, and among pictures of one kind (solar cells, cloth) some are near a
mirrored neighbour by chance. So a near hash only makes a candidate. It is a pair if the thumbnails agree once one of them is
turned: the fine detail of a copy correlates at .98 and more where there is any, and how far unrelated pictures of the set
agree is measured on pairs drawn at random.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..data.images import ORIENTATIONS
from .confirm import INVERSE, Pictures, PixelPairs, Thumbs
from .hashing import THUMB, cross_pairs, informative

#: Bits in which the hashes of a picture and of its turned copy may differ; saved as JPEG and halved they differ in up to 4.
RADIUS = 6

#: Candidates, and contents in them, beyond which fewer bits are asked for: what is near in so many ways proves nothing.
_MAX_CANDIDATES, _MAX_CONTENTS = 500_000, 100_000

#: Correlations that a copy is asked to reach, at least and at most, whatever the set: of detail, and of the whole picture.
#: A smooth picture has no detail but what JPEG makes, and pictures of one kind are alike in all but their detail.
_LEAST = np.array([0.85, 0.98])
_MOST = np.array([0.99, 0.998])

_SAMPLE = 8192  # pairs drawn at random
_UNRELATED_BITS = 10
_TAIL = 0.05  # share of them that the tail is fitted to
_BLOCK = 1024
_SEED = 20_240


def turned_pairs(turned: np.ndarray, there: np.ndarray, thumbs: Thumbs) -> PixelPairs | None:
    """Find the turned copies among n contents; None where so many are near by chance that nothing can be told.

    Takes the hashes of each content in the `ORIENTATIONS`, uint64 (n, 8), and which there are, bool (n,).
    """
    found = _candidates(turned, there & informative(turned[:, 0]))
    if found is None:
        return None
    if not len(found[0]):
        return PixelPairs.none(len(turned))
    codes, orientation, distance = found
    i, j = np.divmod(codes, len(turned))
    sample = _sample(there)
    pictures = Pictures.load(thumbs, sample, i, j)
    least = _least_correlations(turned, sample, int(there.sum()), pictures)
    kept = np.zeros(len(codes), bool)
    for start in range(0, len(codes), _BLOCK):
        part = slice(start, start + _BLOCK)
        kept[part] = _confirmed(pictures, i[part], j[part], orientation[part], least)
    return PixelPairs.of_any(len(turned), codes[kept], orientation[kept], distance[kept])


def turn(pictures: np.ndarray, orientation: int) -> np.ndarray:
    """Lay square pictures (..., s, s) in one of the `ORIENTATIONS`, by its place there."""
    if orientation >= 4:
        pictures = np.swapaxes(pictures, -1, -2)
    if orientation % 4 in (1, 2):
        pictures = pictures[..., ::-1]
    if orientation % 4 in (2, 3):
        pictures = pictures[..., ::-1, :]
    return pictures


def _candidates(turned: np.ndarray, usable: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Pairs with a near turned hash, nearer than upright ones: codes, orientations and distances."""
    n, rows = len(turned), np.flatnonzero(usable)
    upright = turned[rows, 0]
    for radius in range(RADIUS, -1, -2):
        held: list[tuple[np.ndarray, ...]] = []
        count, near = 0, np.zeros(n, bool)
        for orientation in range(1, len(ORIENTATIONS)):
            for a, b in cross_pairs(turned[rows, orientation], upright, radius):
                distance = np.bitwise_count(turned[rows[a], orientation] ^ upright[b])
                better = (distance < np.bitwise_count(upright[a] ^ upright[b])) & (a != b)
                a, b, distance = a[better], b[better], distance[better]
                how = np.where(a < b, orientation, INVERSE[orientation])
                i, j = rows[np.minimum(a, b)], rows[np.maximum(a, b)]
                held.append((i * n + j, how, distance))
                near[i] = near[j] = True
                count += len(i)
            # Each is found from both of its ends.
            if count > 2 * _MAX_CANDIDATES or near.sum() > _MAX_CONTENTS:
                break
        else:
            if not held:
                return np.empty(0, np.int64), np.empty(0, np.int8), np.empty(0, np.int16)
            codes, how, bits = (np.concatenate(parts) for parts in zip(*held, strict=True))
            order = np.lexsort((bits, how, codes))
            pairs = codes[order] * len(ORIENTATIONS) + how[order]
            order = order[np.append(True, pairs[1:] != pairs[:-1])] if len(order) else order
            return codes[order], how[order].astype(np.int8), bits[order].astype(np.int16)
    return None


def _sample(there: np.ndarray) -> np.ndarray:
    rows = np.flatnonzero(there)
    if len(rows) > _BLOCK:
        rows = np.sort(np.random.default_rng(_SEED).choice(rows, _BLOCK, replace=False))
    return rows


def _least_correlations(turned: np.ndarray, rows: np.ndarray, count: int, pictures: Pictures) -> np.ndarray:
    """Correlations, of each of the `_forms`, that less than one turned pair of `count` unrelated contents would reach."""
    rng = np.random.default_rng(_SEED)
    thumbs, known = pictures.of(rows)
    a, b = rng.integers(0, len(rows), (2, _SAMPLE))
    how = rng.integers(1, len(ORIENTATIONS), _SAMPLE)
    apart = np.bitwise_count(turned[rows[a], how] ^ turned[rows[b], 0])
    kept = (a != b) & known[a] & known[b] & (apart > _UNRELATED_BITS)
    a, b, how = a[kept], b[kept], how[kept]
    if len(a) < 2 / _TAIL:
        return _LEAST
    pairs = max(count * (count - 1) / 2 * (len(ORIENTATIONS) - 1), 1 / _TAIL)
    least = []
    for forms in _forms(thumbs):
        values = [
            np.vecdot(_flat(turn(forms[a[how == k]], k)), _flat(forms[b[how == k]]))
            for k in set(how.tolist())
        ]
        z = np.arctanh(np.clip(np.concatenate(values), -0.9999, 0.9999))
        start = np.quantile(z, 1 - _TAIL)
        scale = float((z[z > start] - start).mean()) if (z > start).any() else 0.0
        least.append(np.tanh(start + scale * np.log(pairs * _TAIL)))
    return np.asarray(np.clip(least, _LEAST, _MOST))


def _confirmed(
    pictures: Pictures, i: np.ndarray, j: np.ndarray, orientation: np.ndarray, least: np.ndarray
) -> np.ndarray:
    """Tell which candidates have the same pixels, turned, and would not have them upright as well."""
    numbers, at = np.unique(np.concatenate([i, j]), return_inverse=True)
    thumbs, known = pictures.of(numbers)
    a, b = at[: len(i)], at[len(i) :]
    kept = np.zeros(len(i), bool)
    for forms, enough in zip(_forms(thumbs), least.tolist(), strict=True):
        for k in set(orientation.tolist()):
            rows = np.flatnonzero((orientation == k) & known[a] & known[b])
            left, right = forms[a[rows]], _flat(forms[b[rows]])
            found, upright = np.vecdot(_flat(turn(left, k)), right), np.vecdot(_flat(left), right)
            # What is as much its own mirror image as its copy's is told by the upright hashes.
            kept[rows] |= (found >= enough) & (1 - found <= (1 - upright) / 2)
    return kept


def _forms(thumbs: np.ndarray) -> Iterator[np.ndarray]:
    """Pictures (m, 64, 64) without what is coarser than 5 pixels, then as they are; centred, of unit length, float32."""
    from scipy.ndimage import uniform_filter

    whole = thumbs.astype(np.float32)
    for form in (whole - uniform_filter(whole, (0, 5, 5), mode="nearest"), whole):
        form -= form.mean(axis=(1, 2), keepdims=True)
        length = np.sqrt(np.square(form).sum(axis=(1, 2), keepdims=True))
        form /= np.where(length > 0, length, 1)
        yield form


def _flat(pictures: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(pictures).reshape(len(pictures), THUMB * THUMB)
