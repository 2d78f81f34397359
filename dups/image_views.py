"""Hashes of parts of pictures (crops, frames, caption bands), and the pairs that they make.

A crop of a picture is near one of the picture's own crops, a framed one near it once trimmed. So one's whole or trimmed
hash is held against all hashes of the other, and the pair's distance is the least of these.

Where strangers resemble each other so much that hashes of 64 bits cannot tell them apart, all bits of all views can: a
copy has thousands of them in common, a picture that looks alike only most. Their agreement is the cosine of their signs.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from math import comb
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from ..data.image_files import read as read_image
from ..data.images import decode
from ..errors import ImageError
from ..store.store import Store
from .hamming import cross_pairs, distinct, informative

__all__ = [
    "MOST_VIEWED",
    "VIEWS",
    "VIEWS_VERSION",
    "WHOLE_VIEWS",
    "ViewHashes",
    "content_box",
    "content_shares",
    "load_views",
    "view_hashes",
    "view_radius",
]

# A pHash sees the picture as a whole: cut a tenth off and half of its bits are others. So a picture is hashed as it is,
# without its uniform margins and caption bands (`content_box`), mirrored, and as what crops of some sizes and places would
# leave of it. Of two pictures one's whole or trimmed hash is held against all of the other's: that finds a crop without
# knowing where it was made.


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
    """Find what is inside uniform margins and bands with words: left, top, right, bottom in pixels.

    The whole picture where there are none, or where they would leave too little.
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
    """Hash a picture and its parts, uint64 (VIEWS,)."""
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


#: Beyond so many contents, views are made only if asked for: they take some milliseconds an image, and every file is read.
MOST_VIEWED = 50_000

#: Near views after which the search is given up: as many come of 20,000 frames of one film in no time.
_MOST_NEAR = 100_000_000

_TABLE = f"hashes/views{VIEWS_VERSION}"
_SCHEMA = pa.schema(
    [
        pa.field("image_sha256", pa.string(), False),
        pa.field("hashes", pa.list_(pa.uint64(), VIEWS)),
        # Share of the picture that is inside margins and caption bands.
        pa.field("inside", pa.float32()),
    ]
)
_Made = tuple[np.ndarray, float]

_SHORTEST = 256
_BATCH = 512
#: Unrelated pictures of one set are near so much more often than random hashes would be (measured on sample feeds).
_UNEVEN = 500

#: Bits in which the whole or the trimmed hashes may differ where the agreement of all views decides.
_AGREEING = 10

#: A picture has dozens of views, and with 6 bits one feed in seven had a false pair among its hundreds of pictures.
_MOST_BITS = 4


@dataclass
class ViewHashes:
    """Hashes of the views of some contents."""

    hashes: np.ndarray  # uint64 (n, VIEWS)
    usable: np.ndarray  # bool (n, VIEWS): Which say something; none of a content whose file could not be read
    radius: int  # Bits in which two views of one picture may differ; -1 where near views prove nothing
    least: float | None = None  # Agreement from which on two pictures are one; None where it is not asked

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
                close = (both[:, :WHOLE_VIEWS] & (apart[:, :WHOLE_VIEWS] <= _AGREEING)).any(axis=1)
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

    def pairs(self, most: int) -> tuple[np.ndarray, bool]:
        """Find all pairs ``i < j`` within the radius.

        Codes ``i * n + j``, ascending, the lowest `most` if there are more; or none and False, because everything resembles
        everything.
        """
        n = len(self.hashes)
        codes, held = np.empty(0, np.int64), [np.empty(0, np.int64)]
        waiting = near = 0
        for i, j, looked_at in self._candidates():
            near += looked_at
            if near > _MOST_NEAR:
                return np.empty(0, np.int64), False
            held.append(np.minimum(i, j) * n + np.maximum(i, j))
            waiting += len(i)
            if waiting > 4_000_000:
                codes, held, waiting = distinct(np.concatenate([codes, *held]))[:most], [], 0
        return distinct(np.concatenate([codes, *held]))[:most], True

    def _candidates(self) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
        """Pairs that are found, in no order and perhaps more than once, and how many were looked at for them."""
        if self.radius >= 0:
            rows, views = np.nonzero(self.usable[:, :WHOLE_VIEWS])
            all_rows, all_views = np.nonzero(self.usable)
            for a, b in cross_pairs(self.hashes[rows, views], self.hashes[all_rows, all_views], self.radius):
                i, j = rows[a], all_rows[b]
                i, j = i[i != j], j[i != j]
                yield i, j, len(i)
        if self.least is None:
            return
        for view in range(WHOLE_VIEWS):
            rows = np.flatnonzero(self.usable[:, view])
            hashes = self.hashes[rows, view]
            for a, b in cross_pairs(hashes, hashes, _AGREEING):
                i, j = rows[a[a < b]], rows[b[a < b]]
                agreed = self.agreement(i, j) >= self.least
                yield i[agreed], j[agreed], len(i)


def view_radius(n: int, hamming: int, expected: float = 1.0) -> int:
    """Choose the radius for views: at most `hamming` and 4, and less where `n` contents would have false pairs by chance.

    -1 if not even equal hashes would do.
    """
    comparisons = n * (n - 1) / 2 * 2 * WHOLE_VIEWS * VIEWS * _UNEVEN
    for radius in range(min(hamming, _MOST_BITS), -1, -1):
        near = sum(comb(32, k) ** 2 for k in range(radius // 2 + 1))
        if comparisons * near / comb(64, 32) <= expected:
            return radius
    return -1


def load_views(
    store: Store,
    items: pa.Table,
    *,
    make: bool = True,
    progress: Callable[[int, int], None] | None = None,
    threads: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Get the hashes of the views of each row's image, making those that the store has not yet unless `make` is false.

    Gives `hashes` uint64 and `usable` bool, both (n, VIEWS). An image of which every file is gone, unreadable, or
    not what it was has none.
    """
    table = store.ensure_table(_TABLE, _SCHEMA, {"kind": "hashes", "key": "image_sha256"})
    keys = items["image_sha256"].cast(pa.string()).combine_chunks()
    known = table.snapshot().read(["image_sha256"])["image_sha256"]
    new = pc.and_(pc.is_valid(keys), pc.invert(pc.is_in(keys, value_set=known.combine_chunks())))
    todo: dict[str, list[Path]] = {}
    lacking = items.filter(new).select(["image_sha256", "root", "path"]).to_pylist() if make else []
    for row in lacking:
        files = todo.setdefault(row["image_sha256"], [])
        if row["path"]:
            files.append(Path(row["root"] or "") / row["path"])
    rows: list[tuple[str, np.ndarray, float]] = []

    def keep() -> None:
        if rows:
            shas, hashes, inside = zip(*rows, strict=True)
            lists = pa.FixedSizeListArray.from_arrays(pa.array(np.concatenate(hashes)), VIEWS)
            columns = [pa.array(shas, pa.string()), lists, pa.array(inside, pa.float32())]
            table.append(pa.table(columns, schema=_SCHEMA), unique="image_sha256")
            rows.clear()

    for done, (sha, made) in enumerate(_make(todo, threads), 1):
        if made is not None:
            rows.append((sha, *made))
        if len(rows) == _BATCH:
            keep()
        if progress:
            progress(done, len(todo))
    keep()
    read = table.snapshot().read()
    at = pc.index_in(keys, value_set=read["image_sha256"].combine_chunks(), skip_nulls=True)
    there = pc.is_valid(at).to_numpy(zero_copy_only=False)
    hashes = np.zeros((len(keys), VIEWS), np.uint64)
    if there.any():
        values = read["hashes"].combine_chunks().flatten().to_numpy().reshape(-1, VIEWS)
        hashes[there] = values[at.drop_null().to_numpy()]
    return hashes, informative(hashes) & there[:, None]


def content_shares(store: Store, digests: pa.Array) -> np.ndarray:
    """How much of each image is inside its margins and caption bands, as far as it is known; NaN elsewhere."""
    if _TABLE not in store.table_names():
        return np.full(len(digests), np.nan)
    read = store.table(_TABLE).snapshot().read(["image_sha256", "inside"])
    at = pc.index_in(digests, value_set=read["image_sha256"].combine_chunks(), skip_nulls=True)
    shares: np.ndarray = (
        read["inside"].combine_chunks().take(at).cast(pa.float64()).to_numpy(zero_copy_only=False)
    )
    return shares


def _make(todo: dict[str, list[Path]], threads: int | None) -> Iterator[tuple[str, _Made | None]]:
    workers = threads or min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        ahead: deque[tuple[str, Future[_Made | None]]] = deque()
        for digest, files in todo.items():
            ahead.append((digest, pool.submit(_read, digest, files)))
            if len(ahead) > 4 * workers:
                sha, made = ahead.popleft()
                yield sha, made.result()
        for sha, made in ahead:
            yield sha, made.result()


def _read(digest: str, files: list[Path]) -> _Made | None:
    """Hashes of the views, and how much is inside; None if none of the files is the image any more."""
    for path in files:
        try:
            data, _ = read_image(path)
            # Another file of that name has other views.
            if hashlib.sha256(data).hexdigest() != digest:
                continue
            picture = decode(data, shortest=_SHORTEST)
        except (ImageError, OSError, ValueError):
            continue
        if picture.blank:
            return np.zeros(VIEWS, np.uint64), 1.0
        image = picture.image
        left, top, right, bottom = box = content_box(image)
        return view_hashes(image, box), (right - left) * (bottom - top) / (image.width * image.height)
    return None
