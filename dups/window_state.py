"""State of a sliding window on disk: one Parquet file with a digest, replaced in one step.

One row a content, what was seen longest ago first; beside them, in the file's metadata, what is of the whole window, and the
calibration that a stream has made for itself.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import CorruptError, SpaceError, StoreError, brief
from ..store.files import publish, remove_leftovers, temp_name
from ..store.schema import vector_type
from ..store.vectors import to_array
from .agreements import StreamPictures
from .default_calibration import measure_digest
from .hashing import THUMB, VIEWS
from .rule import Rule
from .variants import Policy
from .window import TURNS, SlidingWindow
from .window_rules import Rules

#: Raised when another icehouse could not read the file rightly.
FORMAT = 3

_ROWS = 4096
_META, _DIGEST, _RULES = b"icehouse.window", b"icehouse.sha256", b"icehouse.rules"
_AROUND = 4


def check_place(path: Path) -> None:
    """Check that a state can be written to `path`, before there is one to be lost."""
    try:
        if path.is_dir():
            raise StoreError(f"the state {path} is a folder; give a file")
        place = path.resolve().parent
        place.mkdir(parents=True, exist_ok=True)
        temp = place / temp_name(path.suffix)
        temp.touch()
        temp.unlink()
    except OSError as error:
        raise StoreError(f"cannot write the state {path}: {error.strerror or error}") from error


def save_window(
    window: SlidingWindow,
    path: Path,
    *,
    space: Mapping[str, Any] | None = None,
    notes: Mapping[str, Any] | None = None,
) -> None:
    """Write a window to `path`, in place of what is there; a link stays one."""
    slots = np.fromiter(window._slots.values(), np.int64, len(window))
    keys = list(window._slots)
    ids = [window._ids[slot] for slot in slots]
    # A file's name need not be text, and a column of texts takes nothing else: such ids are kept beside it as they are.
    odd = {row: name for row, name in enumerate(ids) if not _is_text(name)}
    schema = _schema(window.dim, str(window._X.dtype))
    digest = hashlib.sha256()
    try:
        target = path.resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(target.parent)
        with (
            publish(target) as temp,
            # Vectors do not compress, and their statistics say nothing.
            pq.ParquetWriter(
                temp, schema, compression="none", write_statistics=False, write_page_checksum=True
            ) as writer,
        ):
            for start in range(0, len(slots), _ROWS):
                part = slots[start : start + _ROWS]
                names = [name if _is_text(name) else _as_text(name) for name in ids[start : start + _ROWS]]
                columns = {
                    "id": pa.array(names, pa.string()),
                    "path": pa.array([_text_or_none(window._paths[slot]) for slot in part], pa.string()),
                    "sha256": pa.array(keys[start : start + _ROWS], pa.string()),
                    "position": pa.array(window._serials[part]),
                    "phash": pa.array(window._hashes[part], mask=~window._hashed[part]),
                    "turned": _lists(window._turned[part], schema.field("turned")),
                }
                columns |= _seen(window, part)
                if window.dim is not None:
                    columns["vector"] = _lists(window._X[part], schema.field("vector"))
                    columns["around"] = _lists(window._around[:, part].T, schema.field("around"))
                rows = pa.table(columns, schema=schema)
                _update(digest, rows)
                writer.write_table(rows)
            meta = {
                "format": FORMAT,
                "rows": len(slots),
                "seen": window.count,
                "dim": window.dim,
                "dtype": str(window._X.dtype),
                "ids": odd,
                "agreements": list(window.pictures.record) if window.pictures is not None else [],
                "measure": measure_digest(window.rule.local)
                if window.local and window.rule.local is not None
                else None,
                "space": dict(space or {}),
                "notes": dict(notes or {}),
            }
            text = json.dumps(meta, sort_keys=True).encode()
            digest.update(text)
            rules = window.rules.saved() or b""
            digest.update(rules)
            # Text, since some readers take metadata for nothing else.
            told = {_META: text, _DIGEST: digest.hexdigest().encode(), _RULES: base64.b64encode(rules)}
            writer.add_key_value_metadata(told)
    except OSError as error:
        raise StoreError(f"cannot write the state {path}: {error.strerror or error}") from error


def load_window(
    path: Path,
    *,
    rule: Rule | Rules,
    capacity: int,
    space: Mapping[str, Any] | None = None,
    variants: Policy = "keep",
    pictures: StreamPictures | None = None,
) -> tuple[SlidingWindow, dict[str, Any]]:
    """Read a window.

    If `capacity` is less than was saved, what was seen longest ago is left out.
    """
    try:
        with pq.ParquetFile(path, pre_buffer=False, page_checksum_verification=True) as file:
            meta = _meta(path, file)
            _check_space(path, meta, dict(space or {}))
            window = SlidingWindow(
                capacity,
                rule=rule,
                dim=meta["dim"],
                dtype=meta["dtype"],
                variants=variants,
                pictures=pictures,
            )
            _fill(window, file, meta)
    except (
        OSError, pa.ArrowException, KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, MemoryError
    ) as error:  # fmt: skip
        if isinstance(error, OSError) and error.errno is not None:
            raise StoreError(f"cannot read the state {path}: {error.strerror}") from error
        raise CorruptError(
            f"the state {path} is damaged ({brief(error, 120)}); move it away to begin with an empty window"
        ) from error
    return window, meta["notes"]


def _fill(window: SlidingWindow, file: pq.ParquetFile, meta: dict[str, Any]) -> None:
    digest, done, skipped = hashlib.sha256(), 0, max(meta["rows"] - window.capacity, 0)
    for batch in file.iter_batches(batch_size=_ROWS):
        rows = pa.Table.from_batches([batch])
        _update(digest, rows)
        leave = min(max(skipped - done, 0), len(rows))
        done += len(rows)
        rows = rows.slice(leave)
        first, count = len(window), len(rows)
        slots = slice(first, first + count)
        if window.dim is not None:
            window._X[slots] = to_array(rows["vector"])
            window._around[:, slots] = _flat(rows["around"]).reshape(-1, _AROUND).T
        window._hashed[slots] = rows["phash"].is_valid().to_numpy()
        window._hashes[slots] = rows["phash"].fill_null(0).to_numpy()
        window._turned[slots] = _flat(rows["turned"]).reshape(-1, TURNS)
        window._serials[slots] = rows["position"].to_numpy()
        window._ids[slots] = rows["id"].to_pylist()
        _see(window, rows, slots)
        window._paths[slots] = rows["path"].to_pylist()
        window._texts[slots] = [tuple(texts) for texts in rows["texts"].to_pylist()]
        window._keys[slots] = rows["sha256"].to_pylist()
        window._slots.update(zip(rows["sha256"].to_pylist(), range(first, first + count), strict=True))
    written = file.metadata.metadata
    digest.update(written[_META])
    rules = base64.b64decode(written.get(_RULES, b""))
    digest.update(rules)
    if (
        digest.hexdigest().encode() != written[_DIGEST]
        or done != meta["rows"]
        or len(window) != done - skipped
    ):
        raise ValueError("its digest is another")
    # What is left out was seen longest ago: the first rows.
    for row, name in meta.get("ids", {}).items():
        if int(row) >= skipped:
            window._ids[int(row) - skipped] = str(name)
    window.rules.restore(rules or None)
    if window.pictures is not None:
        window.pictures.restore(meta.get("agreements", []))
    window.restored(meta["seen"], meta.get("measure"))


def _seen(window: SlidingWindow, part: np.ndarray) -> dict[str, pa.Array]:
    """Columns of texts, and of views and thumbnails, null where they are no longer compared."""
    views, there = window.recent.of(window._serials[part], window.count)
    pictured = there.copy()
    pictured[there] = window.recent.pictured(window._serials[part[there]])
    thumbs: list[bytes | None] = [None] * len(part)
    for row, thumb in zip(
        np.flatnonzero(pictured).tolist(),
        window.recent.thumbs_of(window._serials[part[pictured]]),
        strict=True,
    ):
        thumbs[row] = thumb.tobytes()
    flat = pa.FixedSizeListArray.from_arrays(pa.array(views.ravel()), VIEWS, mask=pa.array(~there))
    return {
        "texts": pa.array([window._texts[slot] for slot in part.tolist()], pa.list_(pa.string())),
        "views": flat,
        "thumb": pa.array(thumbs, pa.binary(THUMB * THUMB)),
    }


def _see(window: SlidingWindow, rows: pa.Table, slots: slice) -> None:
    """Take the views and thumbnails that `_seen` gave."""
    thumbs = rows["thumb"].to_pylist()
    there = np.flatnonzero(rows["views"].is_valid().to_numpy())
    for row, hashes in zip(there.tolist(), _flat(rows["views"].drop_null()).reshape(-1, VIEWS), strict=True):
        slot, thumb = slots.start + row, thumbs[row]
        pixels = None if thumb is None else np.frombuffer(thumb, np.uint8).reshape(THUMB, THUMB)
        window.recent.put(int(window._serials[slot]), slot, hashes, pixels)


def _lists(values: np.ndarray, field: pa.Field) -> pa.Array:
    """Rows of a matrix as a column of lists."""
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), type=field.type)


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _text_or_none(path: str | None) -> str | None:
    return path if path is not None and _is_text(path) else None


def _as_text(name: str) -> str:
    return name.encode("utf-8", "replace").decode()


def _schema(dim: int | None, dtype: str) -> pa.Schema:
    fields = [
        pa.field("id", pa.string(), nullable=False),
        pa.field("path", pa.string()),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("position", pa.int64(), nullable=False),
        pa.field("phash", pa.uint64()),
        pa.field("turned", pa.list_(pa.uint64(), TURNS), nullable=False),
        pa.field("texts", pa.list_(pa.string()), nullable=False),
        pa.field("views", pa.list_(pa.uint64(), VIEWS)),
        pa.field("thumb", pa.binary(THUMB * THUMB)),
    ]
    if dim is not None:
        fields.append(pa.field("vector", vector_type(dim, dtype), nullable=False))
        fields.append(pa.field("around", pa.list_(pa.float64(), _AROUND), nullable=False))
    return pa.schema(fields)


def _update(digest: Any, rows: pa.Table) -> None:
    digest.update(json.dumps([rows["id"].to_pylist(), rows["sha256"].to_pylist()]).encode())
    digest.update(rows["position"].to_numpy().astype("<i8").tobytes())
    digest.update(rows["phash"].fill_null(0).to_numpy().astype("<u8").tobytes())
    digest.update(rows["phash"].is_valid().to_numpy().tobytes())
    digest.update(json.dumps(rows["path"].to_pylist()).encode())
    digest.update(_flat(rows["turned"]).astype("<u8").tobytes())
    digest.update(json.dumps(rows["texts"].to_pylist()).encode())
    digest.update(json.dumps(rows["thumb"].is_valid().to_pylist()).encode())
    digest.update(b"".join(rows["thumb"].drop_null().to_pylist()))
    digest.update(json.dumps(rows["views"].is_valid().to_pylist()).encode())
    digest.update(_flat(rows["views"].drop_null()).astype("<u8").tobytes())
    if "vector" in rows.column_names:
        digest.update(_flat(rows["around"]).astype("<f8").tobytes())
        digest.update(np.ascontiguousarray(to_array(rows["vector"])))


def _flat(lists: pa.ChunkedArray) -> np.ndarray:
    """Values of a column of lists, one after another."""
    values: np.ndarray = lists.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return values


def _meta(path: Path, file: pq.ParquetFile) -> dict[str, Any]:
    found = (file.metadata.metadata or {}).get(_META)
    if found is None:
        raise StoreError(f"{path} is no state of a stream")
    meta: dict[str, Any] = json.loads(found)
    if meta["format"] != FORMAT:
        remedy = "upgrade" if meta["format"] > FORMAT else "move it away to begin with an empty window"
        raise StoreError(
            f"the state {path} is of format {meta['format']}, and this icehouse knows {FORMAT}; {remedy}"
        )
    return meta


def _check_space(path: Path, meta: dict[str, Any], space: dict[str, Any]) -> None:
    then = meta["space"]
    if "fingerprint" in space and then.get("fingerprint") != space["fingerprint"]:
        raise SpaceError(
            f"the state {path} was made with {_named(then)}, not {_named(space)}: they cannot be compared; go on as before, "
            "or begin another state"
        )


def _named(space: dict[str, Any]) -> str:
    if space.get("fingerprint") is None:
        return "no vectors"
    return f"vectors of {space.get('vectors', 'some encoder')} (fingerprint {space['fingerprint']})"
