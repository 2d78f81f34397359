"""Views of pictures: hashes of a picture, of its parts and turned, and a thumbnail, made in one reading and kept in a table.

The table is disposable: it is named after `VIEWS_VERSION`, and one of an older version is made again. Readers ask for the
columns that they need, of the contents that they need, so that tens of thousands of thumbnails are never held at once.

Parts may be pictures themselves. A screenshot has the picture in the middle of a ground with names, icons and words on it,
and no margin that is uniform. A collage has seams: lines from side to side, at the half or at the thirds, at which the
picture breaks off.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache, partial
from math import ceil, floor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from ..data.image_files import read_content
from ..data.images import ORIENTATIONS, decode, oriented
from ..errors import ImageError
from ..store.store import Store
from ..store.table import Table
from . import processes
from .confirm import RADIUS, Find, Parts, PixelPairs, confirm, part_candidates, turned_pairs, view_candidates
from .default_calibration import MAX_KEPT, NearCache
from .hashing import CUTS, PLACES, THUMB, VIEWS, WHOLE_VIEWS, ViewHashes, informative
from .processes import measured

#: Changes whenever another hash, or another box, would come of the same picture.
VIEWS_VERSION = 7

#: Beyond so many contents, views are made only if asked for: they take some milliseconds an image, and every file is read.
MAX_VIEWED = 50_000

TABLE = f"hashes/views{VIEWS_VERSION}"
_TURNED = WHOLE_VIEWS * len(ORIENTATIONS)
_SCHEMA = pa.schema(
    [
        pa.field("image_sha256", pa.string(), False),
        pa.field("hashes", pa.list_(pa.uint64(), VIEWS)),
        # Share of the picture that is inside margins and caption bands.
        pa.field("inside", pa.float32()),
        # The whole picture in each of the orientations, then the trimmed one.
        pa.field("turned", pa.list_(pa.uint64(), _TURNED)),
        # The whole picture in grey, row by row.
        pa.field("thumb", pa.binary(THUMB * THUMB)),
        # What is inside margins and bands: left, top, right, bottom in parts of the sides.
        pa.field("box", pa.list_(pa.float32(), 4)),
        # The picture in a screen, and the cells of a collage: hashes, boxes as above, and how many of them, last, are cells.
        pa.field("part_hashes", pa.list_(pa.uint64())),
        pa.field("part_boxes", pa.list_(pa.float32())),
        pa.field("cells", pa.int32()),
        # Of earlier tables; the facts of pictures have a table of their own, see `icehouse.dups.groups`.
        pa.field("facts", pa.list_(pa.float32())),
    ]
)

#: Shortest side, in pixels, that a picture may be decoded to for its views.
_SHORTEST = 256
_WRITTEN = 2048  # contents after which a part is written
_MEASURING = 0.001  # seconds that a picture takes
_READ, _READ_THUMBS = 16_384, 512  # rows that are read at once

#: Called with what is done, and of how many.
Progress = Callable[[int, int], None]
#: What ends that which was begun.
Finish = Callable[[Progress | None], None]


def start_measuring(store: Store, contents: int, threads: int | None) -> None:
    """Start processes for what is new among many contents: the rest of their search takes seconds on one processor."""
    many = contents >= processes.MANY and _table(store).rows < contents
    processes.start(threads if many else 1)


def make_views(
    store: Store,
    items: pa.Table,
    *,
    progress: Progress | None = None,
    threads: int | None = None,
) -> None:
    """Make the views of each row's image that the store has not yet."""
    begin_views(store, items, threads)[1](progress)


def begin_views(
    store: Store, items: pa.Table, threads: int | None = None
) -> tuple[dict[str, list[Path]], Finish]:
    """Begin to make the views of each row's image that the store has not yet.

    Gives these contents with the files of each, and what makes the rest: see `begin_measured`.
    """
    table = _table(store)
    keys = items["image_sha256"].cast(pa.string()).combine_chunks()
    known = table.snapshot().read(["image_sha256"])["image_sha256"]
    new = pc.and_(pc.is_valid(keys), pc.invert(pc.is_in(keys, value_set=known.combine_chunks())))
    todo: dict[str, list[Path]] = {}
    for row in items.filter(new).select(["image_sha256", "root", "path"]).to_pylist():
        files = todo.setdefault(row["image_sha256"], [])
        if row["path"]:
            files.append(Path(row["root"] or "") / row["path"])
    return todo, begin_measured(table, _SCHEMA, todo, _views_of, threads, _MEASURING)


def begin_measured(
    table: Table,
    schema: pa.Schema,
    todo: Mapping[str, Sequence[Path]],
    measure: Callable[[bytes], dict[str, Any]],
    threads: int | None,
    seconds: float = 0.0,
) -> Finish:
    """Begin to append to a table of contents what `measure` makes of each in `todo`, in about so many seconds.

    Of each, the first file that still holds it is measured; a content of which every file is gone, unreadable, or not what
    it was has no row. Processes that are started begin at once; what this gives takes their rows, and measures the others.
    """
    made = measured(partial(measured_row, measure), list(todo.items()), threads, seconds=seconds)

    def finish(progress: Progress | None) -> None:
        rows = []
        for done, row in enumerate(made, 1):
            if row is not None:
                rows.append(row)
            if rows and (len(rows) == _WRITTEN or done == len(todo)):
                table.append(pa.Table.from_pylist(rows, schema=schema), unique="image_sha256")
                rows = []
            if progress:
                progress(done, len(todo))

    return finish


def measured_row(
    measure: Callable[[bytes], dict[str, Any]], source: tuple[str, Sequence[Path]]
) -> dict[str, Any] | None:
    """The row of a content, as `begin_measured` has it appended."""
    digest, files = source
    for file in files:
        with contextlib.suppress(ImageError, OSError, ValueError):
            if (data := read_content(file, digest)) is not None:
                return {"image_sha256": digest, **measure(data)}
    return None


def read_views(
    store: Store, digests: pa.Array | pa.ChunkedArray, columns: Sequence[str]
) -> dict[str, pa.Array]:
    """Get some columns of the table of views for each of `digests`; null where a content has none.

    Rows are read a part at a time, and of the others nothing is kept; where most are asked for, and they are small, at once.
    """
    keys = pa.chunked_array([digests.cast(pa.string())]) if isinstance(digests, pa.Array) else digests
    keys = keys.cast(pa.string()).combine_chunks()
    if TABLE not in store.table_names():
        return {name: pa.nulls(len(keys), _SCHEMA.field(name).type) for name in columns}
    snapshot, names = _table(store).snapshot(), ["image_sha256", *columns]
    if "thumb" not in columns and snapshot.rows <= 2 * len(keys):
        read = snapshot.read(names)
    else:
        wanted = keys.unique().drop_null()
        held = []
        for part in (replace(snapshot, parts=(part,)) for part in snapshot.parts):
            # A few thumbnails lie in a few parts.
            if not pc.any(pc.is_in(part.read(names[:1])["image_sha256"], value_set=wanted)).as_py():
                continue
            for batch in part.batches(names, _READ_THUMBS if "thumb" in columns else _READ):
                held.append(batch.filter(pc.is_in(batch["image_sha256"], value_set=wanted)))
        read = pa.Table.from_batches(held, _SCHEMA.empty_table().select(names).schema)
    at = pc.index_in(keys, value_set=read["image_sha256"].combine_chunks(), skip_nulls=True)
    return {name: read[name].combine_chunks().take(at) for name in columns}


def load_views(
    store: Store,
    items: pa.Table,
    *,
    make: bool = True,
    progress: Progress | None = None,
    threads: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Get the hashes of the views of each row's image, making those that the store has not yet unless `make` is false.

    Gives `hashes` uint64 and `usable` bool, both (n, VIEWS); of what has none, none is usable.
    """
    if make:
        make_views(store, items, progress=progress, threads=threads)
    hashes, there = hash_column(store, items["image_sha256"], "hashes")
    return hashes, informative(hashes) & there[:, None]


def hash_column(
    store: Store, digests: pa.Array | pa.ChunkedArray, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Get a column of hashes, uint64 (n, size), and which contents have them, bool (n,)."""
    return _rows_of(read_views(store, digests, [name])[name], np.uint64(0))


def _rows_of(column: pa.Array, nothing: np.generic) -> tuple[np.ndarray, np.ndarray]:
    """Values of a column of lists of one size (n, size), `nothing` where there is no list, and where there is one."""
    there = pc.is_valid(column).to_numpy(zero_copy_only=False)
    values = np.full((len(column), column.type.list_size), nothing)
    values[there] = column.drop_null().flatten().to_numpy(zero_copy_only=False).reshape(-1, values.shape[1])
    return values, there


def load_parts(store: Store, digests: pa.Array | pa.ChunkedArray) -> Parts:
    """Get the parts of contents that may be pictures themselves."""
    columns = read_views(store, digests, ["part_hashes", "part_boxes", "cells"])
    hashes = columns["part_hashes"]
    counts = pc.fill_null(pc.list_value_length(hashes), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    cells = pc.fill_null(columns["cells"], 0).to_numpy(zero_copy_only=False).astype(np.int64)
    owner = np.repeat(np.arange(len(counts)), counts)
    place = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    boxes = pc.list_flatten(columns["part_boxes"]).to_numpy(zero_copy_only=False).reshape(-1, 4)
    flat = pc.list_flatten(hashes).to_numpy(zero_copy_only=False)
    return Parts(owner, flat, boxes.astype(np.float64), place >= (counts - cells)[owner])


def load_thumbs(store: Store, digests: pa.Array | pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Get the thumbnails of some contents, uint8 (n, 64, 64), and which there are, bool (n,).

    They take 4 KB each: ask for those that are to be looked at, a block at a time.
    """
    column = read_views(store, digests, ["thumb"])["thumb"]
    there = pc.is_valid(column).to_numpy(zero_copy_only=False)
    thumbs = np.zeros((len(column), THUMB, THUMB), np.uint8)
    pixels = b"".join(column.drop_null().to_pylist())
    thumbs[there] = np.frombuffer(pixels, np.uint8).reshape(-1, THUMB, THUMB)
    return thumbs, there


def turned_copies(path: Path, digests: pa.Array, near: Path, keep: bool) -> PixelPairs | None:
    """Turned copies among contents of the store at `path`; see `turned_pairs`.

    Of contents that were compared before the folder `near` knows the pairs, and those of the others join them for `keep`.
    """
    store = Store.of(path)
    hashes, there = hash_column(store, digests, "turned")
    keys = np.char.add(np.array(digests.to_pylist(), "S64"), np.where(there, b"t", b"-"))
    known = NearCache(near, keys, keep)
    of = f"version {VIEWS_VERSION}, radius {RADIUS}"

    def recall(name: str, find: Find) -> tuple[np.ndarray, bool]:
        return known.pairs(name, of, MAX_KEPT, find)

    return turned_pairs(hashes[:, : len(ORIENTATIONS)], there, partial(thumbs_of, store, digests), recall)


def thumbs_of(store: Store, digests: pa.Array, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Thumbnails of some contents, by their places among `digests`."""
    return load_thumbs(store, digests.take(pa.array(rows)))


def confirmed_pairs(
    store: Store, digests: pa.Array, views: ViewHashes | None, found: PixelPairs | None
) -> tuple[PixelPairs, list[str]]:
    """Pairs of contents that near hashes suggest and thumbnails confirm, besides those `found`; with remarks.

    `found` are the `turned_copies`, and parts may show pictures, too.
    """
    hashes, there = hash_column(store, digests, "turned")
    upright, n = hashes[:, 0], len(digests)
    thumbs = partial(thumbs_of, store, digests)

    def apart(i: np.ndarray, j: np.ndarray) -> np.ndarray:
        return np.asarray(np.bitwise_count(upright[i] ^ upright[j]))

    notes: list[str] = []
    if found is None:
        found = PixelPairs.none(n)
        notes = [
            "too many pictures are near one another once turned, so that turned copies were not looked for"
        ]
    if views is None:
        return found, notes
    # What is inside the margins of each picture, in parts of its sides; NaN where it is not known.
    boxes, _ = _rows_of(read_views(store, digests, ["box"])["box"], np.float64(np.nan))
    parts = load_parts(store, digests)
    by_views, by_parts = view_candidates(views, boxes), part_candidates(views, boxes, parts)
    no_cell = np.zeros(len(by_views[1]), bool)
    for regions, bits, cell in ((*by_views, no_cell), by_parts):
        same = confirm(regions, thumbs, n, np.flatnonzero(there), apart)
        i, j = regions.i[same], regions.j[same]
        container = np.where(cell[same], np.where(i < j, 1, 2), 0)
        mirrored = regions.mirrored[same].astype(np.int8)
        codes = np.minimum(i, j) * n + np.maximum(i, j)
        found |= PixelPairs.of_any(n, codes, mirrored, bits[same], container)
    return found, notes


def have_cells(store: Store, contents: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Tell which contents are collages, bool (n,), as far as their seams tell."""
    parts = load_parts(store, contents)
    made = np.zeros(len(contents), bool)
    made[parts.owner[parts.cell]] = True
    return made


def content_shares(store: Store, digests: pa.Array) -> np.ndarray:
    """Share of each image inside its margins and caption bands; NaN if unknown."""
    shares = read_views(store, digests, ["inside"])["inside"]
    made: np.ndarray = shares.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return made


def _table(store: Store) -> Table:
    return store.ensure_table(TABLE, _SCHEMA, {"kind": "hashes", "key": "image_sha256"})


def _views_of(data: bytes) -> dict[str, Any]:
    """A row of the table, of an image file."""
    picture = decode(data, shortest=_SHORTEST)
    views = picture_views(picture.image)
    left, top, right, bottom = views.box
    row = {"box": views.box, "thumb": views.thumb.tobytes()}
    if picture.blank:
        nothing = {"hashes": np.zeros_like(views.hashes), "turned": np.zeros(_TURNED, np.uint64)}
        return {**row, **nothing, "inside": 1.0, "part_hashes": [], "part_boxes": [], "cells": 0}
    return {
        **row,
        "hashes": views.hashes,
        "turned": views.turned.ravel(),
        "inside": (right - left) * (bottom - top),
        "part_hashes": views.part_hashes,
        "part_boxes": views.part_boxes.ravel(),
        "cells": views.cells,
    }


_SIDE = 32  # of the picture that a pHash is taken of
_LOW = 8  # coefficients a side that it keeps
_TOGETHER = 16  # rows of crops that are made by one product
_FINE = 128  # side of the picture that crops are made of
_GRID = 256  # of the picture in which margins and parts are looked for
_MAX_MARGIN = 0.4  # of a side may be margin
_GROUND_LEVELS = 12  # levels that JPEG may change a ground by, and more by which a picture breaks off
_EDGE, _GROUND = 0.95, 0.9  # of an outermost row of a margin, and of any other one, is ground
_FADING = 4  # rows of the grid in which a margin ends
_WITH_WORDS = 0.3  # of a row with words on it is

#: A coefficient below it is rounding: one level of one pixel makes hundreds of times as much.
_ROUNDING = 1e-7


def content_box(image: Image.Image) -> tuple[float, float, float, float]:
    """Find what is inside uniform margins and bands with words: left, top, right, bottom in pixels.

    The whole picture where there are none, or where they would leave too little.
    """
    return _content_box(image, ColourPlanes.of(image))


@dataclass(frozen=True)
class ColourPlanes:
    """The colours of a picture scaled to 256 x 256 by means of areas.

    A smaller picture keeps its size: enlarged it has no pixel but those that are there, and of most pictures only some of
    the rows and columns are looked at, so that each is repeated where it is.
    """

    small: np.ndarray  # uint8 (3, height, width), up to 256 a side

    @classmethod
    def of(cls, image: Image.Image) -> ColourPlanes:
        """Those of an RGB picture."""
        size = min(image.width, _GRID), min(image.height, _GRID)
        small = image.resize(size, Image.Resampling.BOX) if size != image.size else image
        lines = np.frombuffer(small.tobytes("raw", "RGB;L"), np.uint8).reshape(size[1], 3, size[0])
        return cls(np.ascontiguousarray(lines.transpose(1, 0, 2)))

    def part(self, rows: slice, columns: slice) -> np.ndarray:
        """Some rows and columns of the 256 x 256, uint8 (3, rows, columns)."""
        _, height, width = self.small.shape
        part = self.small[:, rows] if height == _GRID else self.small.take(_repeated(height)[rows], axis=1)
        return part[:, :, columns] if width == _GRID else part.take(_repeated(width)[columns], axis=2)

    def whole(self) -> np.ndarray:
        """All of them, uint8 (3, 256, 256)."""
        return self.part(slice(None), slice(None))


@lru_cache(_GRID)
def _repeated(length: int) -> np.ndarray:
    """Which of so many pixels each of the grid's is."""
    return ((np.arange(_GRID) + 0.5) * (length / _GRID)).astype(np.intp)


def _content_box(image: Image.Image, colours: ColourPlanes) -> tuple[float, float, float, float]:
    if not _may_have_margins(colours):
        return 0.0, 0.0, float(image.width), float(image.height)
    top, bottom = _margins(lambda rows: colours.part(rows, slice(None)))
    # Sideways only what is between the bands: their ground may be the margin's.
    between = slice(top, _GRID - bottom)
    left, right = _margins(lambda columns: colours.part(between, columns).swapaxes(1, 2))
    width, height = image.size
    return (
        left * width / _GRID,
        top * height / _GRID,
        width - right * width / _GRID,
        height - bottom * height / _GRID,
    )


def _may_have_margins(colours: ColourPlanes) -> bool:
    """Whether a picture has an edge, of four, that `_margin` might take for one of a margin: few have."""
    every = slice(None)
    edges = np.empty((2, 2, 3, _GRID), np.uint8)
    edges[0] = colours.part(slice(0, None, _GRID - 1), every).swapaxes(0, 1)
    edges[1] = colours.part(every, slice(0, None, _GRID - 1)).transpose(2, 0, 1)
    # Bytes are counted, not compared, by a stable sort.
    edges.sort(axis=-1, kind="stable")
    other = int(_GRID * (1 - _EDGE))
    least, low, high, most = edges[..., [other, (_GRID - 1) // 2, _GRID // 2, -1 - other]].T.astype(np.int16)
    ground = (low + high) / 2
    return bool((np.maximum(ground - least, most - ground) < _GROUND_LEVELS).all(axis=0).any())


@dataclass(frozen=True)
class PictureViews:
    """Hashes and thumbnail made in one reading of a picture."""

    hashes: np.ndarray  # uint64 (VIEWS,): whole, trimmed, mirrored, and crops
    turned: np.ndarray  # uint64 (2, 8): whole and trimmed, in each of the `ORIENTATIONS`
    thumb: np.ndarray  # uint8 (64, 64): the whole picture in grey
    #: left, top, right, bottom in parts of the sides: of what is inside margins and bands
    box: tuple[float, float, float, float]
    #: uint64 (p,), float64 (p, 4): hashes and boxes of the picture in a screen, if there is one, and of a collage's cells
    part_hashes: np.ndarray
    part_boxes: np.ndarray
    cells: int  # of these; they come last


def as_read(image: Image.Image) -> Image.Image:
    """A decoded picture at about the size at which its file is read for its views, by an exact reduction."""
    factor = min(image.size) // _SHORTEST
    return image.reduce(factor) if factor > 1 else image


def view_hashes(image: Image.Image, box: tuple[float, float, float, float] | None = None) -> np.ndarray:
    """Hash a picture and its parts, uint64 (VIEWS,): what `picture_views` makes of them, and nothing else."""
    grey = image.convert("L")
    whole, trimmed = _squares(grey, box or content_box(image))
    return _view_hashes(whole, trimmed)[0]


def picture_views(image: Image.Image, box: tuple[float, float, float, float] | None = None) -> PictureViews:
    """Hash a picture and its parts, turned ones too, and make its thumbnail; `box` is its `content_box`."""
    grey = image.convert("L")
    colours = ColourPlanes.of(image)
    box = box or _content_box(image, colours)
    whole, trimmed = _squares(grey, box)
    hashes, turned = _view_hashes(whole, trimmed)
    # Means of four pixels; to sum along the axes of a reshaped array takes several times as long.
    thumb = whole[::2] + whole[1::2]
    thumb = np.rint((thumb[:, ::2] + thumb[:, 1::2]) / 4).astype(np.uint8)
    wide, high = image.size
    inside = (box[0] / wide, box[1] / high, box[2] / wide, box[3] / high)
    inner, cells = part_boxes(colours, inside)
    boxes = [*([inner] if inner else []), *cells]
    full, _ = _transforms()
    low = [
        full @ _square(grey, (left * wide, top * high, right * wide, bottom * high)) @ full.T
        for left, top, right, bottom in boxes
    ]
    part_hashes = _hashes(np.stack(low)) if low else np.empty(0, np.uint64)
    part_places = np.array(boxes, float).reshape(-1, 4)
    return PictureViews(hashes, turned, thumb, inside, part_hashes, part_places, len(cells))


def _squares(grey: Image.Image, box: tuple[float, float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    """A picture as a whole and what is in the box, both `_FINE` pixels a side."""
    everything = (0.0, 0.0, float(grey.width), float(grey.height))
    whole = _square(grey, everything)
    return whole, whole if box == everything else _square(grey, box)


def _view_hashes(whole: np.ndarray, trimmed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`hashes` and `turned` of `PictureViews`."""
    full, crops = _transforms()
    # Scaling a crop and its cosine transform are both linear, so that a crop costs two products of small matrices. They stay
    # as small as this, since BLAS spreads larger ones over threads of its own, which fight with those that hash.
    rows = crops.reshape(-1, _TOGETHER, _FINE) @ trimmed
    cuts, places = len(CUTS), len(PLACES)
    parts = rows.reshape(cuts, places * _LOW, _FINE) @ crops.reshape(cuts, places * _LOW, _FINE).transpose(
        0, 2, 1
    )
    parts = parts.reshape(cuts, places, _LOW, places, _LOW).transpose(0, 1, 3, 2, 4)
    wholes = [whole] if trimmed is whole else [whole, trimmed]
    low = oriented(np.stack([full @ square @ full.T for square in wholes]))
    every = _hashes(np.concatenate([low.reshape(-1, _LOW, _LOW), parts.reshape(-1, _LOW, _LOW)]))
    split = len(wholes) * len(ORIENTATIONS)
    turned = np.empty((WHOLE_VIEWS, len(ORIENTATIONS)), np.uint64)
    turned[:] = every[:split].reshape(len(wholes), -1)
    mirrored = turned[1, ORIENTATIONS.index("mirror")]
    hashes = np.concatenate([turned[:, 0], [mirrored], every[split:]])
    return hashes, turned


def _margins(lines: Callable[[slice], np.ndarray]) -> tuple[int, int]:
    """Rows of margin at the start and at the end of a picture, of which `lines` gives some, uint8 (3, rows, width)."""
    first, last = _margin(lines, 1), _margin(lines, -1)
    return (first, last) if first + last <= _GRID * _MAX_MARGIN * 1.2 else (0, 0)


def _margin(lines: Callable[[slice], np.ndarray], step: int) -> int:
    """Rows of margin from the first one on, or back from the last one."""
    start, most = min(step, 0), int(_GRID * _MAX_MARGIN)
    edge = lines(slice(start, start + step, step))[:, 0]
    ground = _medians(edge)
    if np.count_nonzero(near_ground(edge, ground, _GROUND_LEVELS)) / edge.shape[1] < _EDGE:
        return 0
    share = _shares(near_ground(lines(slice(start, start + most * step, step)), ground, _GROUND_LEVELS))
    shown = share < _WITH_WORDS
    found = int(np.argmax(shown)) if shown.any() else most
    end = found
    # Words end before the band does, and a band ends at once: what fades out is the picture's own sky.
    while end and share[end - 1] < _GROUND:
        end -= 1
    return end if found - end <= _FADING else 0


def _square(grey: Image.Image, box: tuple[float, float, float, float]) -> np.ndarray:
    return np.asarray(grey.resize((_FINE, _FINE), Image.Resampling.LANCZOS, box=box), np.float64)


@cache
def _transforms() -> tuple[np.ndarray, np.ndarray]:
    """Matrices from `_FINE` pixels to the first cosines of 32: of all (8, fine), of crops (cuts, places, 8, fine)."""
    k, x = np.arange(_LOW)[:, None], np.arange(_SIDE)[None]
    cosines = np.cos(np.pi * k * (2 * x + 1) / (2 * _SIDE))
    crops = [[cosines @ _means(place * cut, 1 - cut) for place in PLACES] for cut in CUTS]
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
    low[np.abs(low) < _ROUNDING] = 0
    half = low.shape[1] // 2
    ranked = np.sort(low, axis=1)
    bits = low > (ranked[:, half - 1 : half] + ranked[:, half : half + 1]) / 2
    return np.packbits(bits, axis=1).view(">u8").ravel().astype(np.uint64)


_SCREEN = 0.12  # of a screen is its ground
_SHOWN = 0.5  # of a row of the picture in a screen is not ground
_GAP = 2  # rows of it that may look like ground
_LEAST_SIDE, _LEAST_AREA, _MOST_AREA = 0.25, 0.12, 0.85

_SEAM = 0.6  # of a seam's length is a break, by less than the lines beside it
_AROUND = 0.04  # of a side, around the half or the thirds, in which a seam may lie
_LINES = 6  # at which a picture breaks off around one seam
_SPLITS = ((1 / 2,), (1 / 3, 2 / 3))

Box = tuple[float, float, float, float]


def part_boxes(colours: ColourPlanes, inside: Box) -> tuple[Box | None, list[Box]]:
    """Find the picture in a screen, None where there is none, and the cells of a collage, none where it is none.

    Boxes are left, top, right, bottom in parts of the sides, and `inside` what is within margins.
    """
    return _inner(colours), _collage(colours, inside)


def _medians(rows: np.ndarray) -> np.ndarray:
    """Medians of rows of bytes, float64 (n,)."""
    # Bytes are counted, not compared, by a stable sort.
    ranked = np.sort(rows, axis=1, kind="stable")
    wide = ranked.shape[1]
    return (ranked[:, (wide - 1) // 2] + ranked[:, wide // 2].astype(np.float64)) / 2


def _shares(flags: np.ndarray) -> np.ndarray:
    """Share of each row that is true, float64 (n,)."""
    return np.add.reduce(flags, axis=1, dtype=np.uint16) / float(flags.shape[1])


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


def _inner(colours: ColourPlanes) -> Box | None:
    fine = slice(1, None, 2)  # that is fine enough
    planes = np.ascontiguousarray(colours.part(fine, fine))
    red, green, blue = planes
    side = planes.shape[1]
    codes = (red & np.uint8(0xF0)).astype(np.uint16)
    codes <<= 4
    codes |= green & np.uint8(0xF0)
    codes |= blue >> 4
    codes = codes.ravel()
    counts = np.bincount(codes, minlength=4096)
    most = int(counts.argmax())
    if counts[most] < _SCREEN * side * side:
        return None
    ground = _medians(planes.reshape(3, -1).take(np.flatnonzero(codes == most), axis=1))
    shown = ~near_ground(planes, ground, _GROUND_LEVELS)
    top, bottom = _longest(_shares(shown) >= _SHOWN)
    if bottom - top < _LEAST_SIDE * side:
        return None
    left, right = _longest(_shares(shown[top:bottom].T) >= _SHOWN)
    if right - left < _LEAST_SIDE * side:
        return None
    top, bottom = _longest(_shares(shown[:, left:right]) >= _SHOWN)
    wide, high = (right - left) / side, (bottom - top) / side
    if min(wide, high) < _LEAST_SIDE or not _LEAST_AREA <= wide * high <= _MOST_AREA:
        return None
    return left / side, top / side, right / side, bottom / side


def _collage(colours: ColourPlanes, inside: Box) -> list[Box]:
    left, top, right, bottom = (round(place * _GRID) for place in inside)

    def columns(start: int, stop: int) -> np.ndarray:
        return colours.part(slice(top, bottom, 2), slice(left + start, left + stop))

    def rows(start: int, stop: int) -> np.ndarray:
        return colours.part(slice(top + start, top + stop), slice(left, right, 2)).swapaxes(1, 2)

    across, down = _cells(columns, right - left), _cells(rows, bottom - top)
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


def _cells(columns: Callable[[int, int], np.ndarray], wide: int) -> list[tuple[int, int]]:
    """Columns at which cells begin and end from left to right, of so many, of which `columns` gives the colours of some."""
    around = round(_AROUND * wide)
    for places in _SPLITS:
        edges = [0]
        for place in places:
            start = round(place * wide) - around
            lines = np.add.reduce(columns(start, start + 2 * around + 1), axis=0, dtype=np.int16)
            breaks = np.abs(lines[:, 1:] - lines[:, :-1]) >= 3 * _GROUND_LEVELS
            window = _shares(breaks.T)
            at = np.flatnonzero(window >= _SEAM)
            # Lines all over are texture.
            if not len(at) or len(at) > _LINES or np.median(window) > _SEAM / 2:
                break
            edges += [start + int(at[0]) + 1, start + int(at[-1]) + 1]
        else:
            edges.append(wide)
            return list(zip(edges[::2], edges[1::2], strict=True))
    return [(0, wide)]
