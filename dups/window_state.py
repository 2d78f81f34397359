"""A window on disk: a Parquet file with its contents, the one seen longest ago first, that anything can read.

The file takes the place of the earlier one in one step, so that whoever is killed leaves the old state or the new one. It
carries a digest of its contents and the space its vectors are from; neither a damaged file nor another space is taken. What
counts as a match is not part of it: a window may go on with another threshold, or another capacity.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import CorruptError, SpaceError, StoreError
from ..store.files import publish, remove_leftovers, temp_name
from ..store.schema import vector_type
from ..store.vectors import to_array
from .pairs import Rule
from .window import Recent

__all__ = ["check_place", "load_window", "save_window"]

#: Raised when an older icehouse could no longer read the file rightly.
FORMAT = 1

_ROWS = 4096
_META, _DIGEST = b"icehouse.window", b"icehouse.sha256"


def check_place(path: Path) -> None:
    """See that a state can be written to `path`, before there is one to be lost."""
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
    window: Recent,
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
                    "sha256": pa.array(keys[start : start + _ROWS], pa.string()),
                    "position": pa.array(window._serials[part]),
                    "phash": pa.array(window._hashes[part], mask=~window._hashed[part]),
                }
                if window.dim is not None:
                    flat = pa.array(np.ascontiguousarray(window._X[part]).reshape(-1))
                    columns["vector"] = pa.FixedSizeListArray.from_arrays(
                        flat, type=schema.field("vector").type
                    )
                rows = pa.table(columns, schema=schema)
                _update(digest, rows)
                writer.write_table(rows)
            meta = {
                "format": FORMAT,
                "rows": len(slots),
                "seen": window.seen,
                "dim": window.dim,
                "dtype": str(window._X.dtype),
                "ids": odd,
                "space": dict(space or {}),
                "notes": dict(notes or {}),
            }
            text = json.dumps(meta, sort_keys=True).encode()
            digest.update(text)
            writer.add_key_value_metadata({_META: text, _DIGEST: digest.hexdigest().encode()})
    except OSError as error:
        raise StoreError(f"cannot write the state {path}: {error.strerror or error}") from error


def load_window(
    path: Path, *, rule: Rule, capacity: int, space: Mapping[str, Any] | None = None
) -> tuple[Recent, dict[str, Any]]:
    """Read a window.

    If `capacity` is less than was saved, what was seen longest ago is left out.
    """
    try:
        with pq.ParquetFile(path, pre_buffer=False, page_checksum_verification=True) as file:
            meta = _meta(path, file)
            _check_space(path, meta, dict(space or {}))
            window = Recent(capacity, rule=rule, dim=meta["dim"], dtype=meta["dtype"])
            _fill(window, file, meta)
    except (
        OSError, pa.ArrowException, KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, MemoryError
    ) as error:  # fmt: skip
        if isinstance(error, OSError) and error.errno is not None:
            raise StoreError(f"cannot read the state {path}: {error.strerror}") from error
        raise CorruptError(
            f"the state {path} is damaged ({_brief(error)}); move it away to begin with an empty window"
        ) from error
    return window, meta["notes"]


def _fill(window: Recent, file: pq.ParquetFile, meta: dict[str, Any]) -> None:
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
        window._hashed[slots] = rows["phash"].is_valid().to_numpy()
        window._hashes[slots] = rows["phash"].fill_null(0).to_numpy()
        window._serials[slots] = rows["position"].to_numpy()
        window._ids[slots] = rows["id"].to_pylist()
        window._slots.update(zip(rows["sha256"].to_pylist(), range(first, first + count), strict=True))
    written = file.metadata.metadata
    digest.update(written[_META])
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
    window.restored(meta["seen"])


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _as_text(name: str) -> str:
    return name.encode("utf-8", "replace").decode()


def _schema(dim: int | None, dtype: str) -> pa.Schema:
    fields = [
        pa.field("id", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("position", pa.int64(), nullable=False),
        pa.field("phash", pa.uint64()),
    ]
    if dim is not None:
        fields.append(pa.field("vector", vector_type(dim, dtype), nullable=False))
    return pa.schema(fields)


def _update(digest: Any, rows: pa.Table) -> None:
    digest.update(json.dumps([rows["id"].to_pylist(), rows["sha256"].to_pylist()]).encode())
    digest.update(rows["position"].to_numpy().astype("<i8").tobytes())
    digest.update(rows["phash"].fill_null(0).to_numpy().astype("<u8").tobytes())
    digest.update(rows["phash"].is_valid().to_numpy().tobytes())
    if "vector" in rows.column_names:
        digest.update(np.ascontiguousarray(to_array(rows["vector"])))


def _meta(path: Path, file: pq.ParquetFile) -> dict[str, Any]:
    found = (file.metadata.metadata or {}).get(_META)
    if found is None:
        raise StoreError(f"{path} is no state of a stream")
    meta: dict[str, Any] = json.loads(found)
    if meta["format"] > FORMAT:
        raise StoreError(
            f"the state {path} is of format {meta['format']}, and this icehouse knows {FORMAT}; upgrade"
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


def _brief(error: BaseException) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
