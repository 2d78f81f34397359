"""Table of picture views: hashes, turned hashes and a thumbnail of every content, made in one reading of its file.

The table is disposable: it is named after `VIEWS_VERSION`, and one of an older version is made again. Readers ask for the
columns that they need, of the contents that they need, so that tens of thousands of thumbnails are never held at once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..data.image_files import read_content
from ..data.images import ORIENTATIONS, decode
from ..errors import ImageError
from ..store.store import Store
from ..store.table import Table
from .confirm import RADIUS, Parts, PixelPairs, confirm, part_candidates, turned_pairs, view_candidates
from .default_calibration import MAX_KEPT, NearCache
from .hashing import (
    THUMB,
    VIEWS,
    VIEWS_VERSION,
    WHOLE_VIEWS,
    ViewHashes,
    informative,
    picture_views,
)
from .processes import measured, start

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
SHORTEST = 256
_WRITTEN = 2048  # contents after which a part is written
_READ, _READ_THUMBS = 16_384, 512  # rows that are read at once

#: Contents from which on processes are started beforehand.
_MANY = 5000


def start_measuring(store: Store, contents: int, threads: int | None) -> None:
    """Start processes for what is new among many contents: the rest of their search takes seconds on one processor."""
    if contents >= _MANY and _table(store).rows < contents:
        start(threads)


def make_views(
    store: Store,
    items: pa.Table,
    *,
    progress: Callable[[int, int], None] | None = None,
    threads: int | None = None,
) -> dict[str, list[Path]]:
    """Make the views of each row's image that the store has not yet; gives these contents, and the files of each."""
    table = _table(store)
    keys = items["image_sha256"].cast(pa.string()).combine_chunks()
    known = table.snapshot().read(["image_sha256"])["image_sha256"]
    new = pc.and_(pc.is_valid(keys), pc.invert(pc.is_in(keys, value_set=known.combine_chunks())))
    todo: dict[str, list[Path]] = {}
    for row in items.filter(new).select(["image_sha256", "root", "path"]).to_pylist():
        files = todo.setdefault(row["image_sha256"], [])
        if row["path"]:
            files.append(Path(row["root"] or "") / row["path"])
    append_measured(table, _SCHEMA, todo, _views_of, progress, threads)
    return todo


def append_measured(
    table: Table,
    schema: pa.Schema,
    todo: Mapping[str, Sequence[Path]],
    measure: Callable[[bytes], dict[str, Any]],
    progress: Callable[[int, int], None] | None,
    threads: int | None,
) -> None:
    """Append to a table of contents what `measure` makes of each in `todo`, from the first file that still holds it.

    A content of which every file is gone, unreadable, or not what it was has no row.
    """
    rows = []
    for done, row in enumerate(measured(partial(_measured_row, measure), list(todo.items()), threads), 1):
        if row is not None:
            rows.append(row)
        if rows and (len(rows) == _WRITTEN or done == len(todo)):
            table.append(pa.Table.from_pylist(rows, schema=schema), unique="image_sha256")
            rows = []
        if progress:
            progress(done, len(todo))


def measured_rows(
    measure: Callable[[bytes], dict[str, Any]], sources: Sequence[tuple[str, Sequence[Path]]]
) -> list[dict[str, Any]]:
    """Rows of some contents as `append_measured` appends them."""
    rows = (_measured_row(measure, source) for source in sources)
    return [row for row in rows if row is not None]


def _measured_row(
    measure: Callable[[bytes], dict[str, Any]], source: tuple[str, Sequence[Path]]
) -> dict[str, Any] | None:
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
    progress: Callable[[int, int], None] | None = None,
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
    recall = partial(known.pairs, "turned", of, MAX_KEPT)
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
    picture = decode(data, shortest=SHORTEST)
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
