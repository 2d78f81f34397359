"""An index on disk: ``STORE/indexes/<feature>/``, disposable like all of ``indexes/``.

```
index.json              what there is: kind, settings, the snapshot it is of, recall; written last, so it names whole files
<build>.faiss           the index as FAISS writes it, over the vectors that have a direction
<build>.parquet         position in the index -> row of the feature table (`row`) and content (the table's key)
```

A build never changes a file: it writes new ones, replaces index.json, and removes the old ones.
"""

from __future__ import annotations

import contextlib
import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ...errors import CorruptError, StoreError
from ..checksums import check_stamp, file_sha256, seal, stamp, unseal
from ..files import checked_name, publish, remove_leftovers
from .kinds import KINDS, load_faiss

__all__ = [
    "FORMAT",
    "IndexInfo",
    "check_files",
    "index_folder",
    "read_info",
    "read_rows",
    "read_vectors",
    "write_index",
]

#: Version of index.json that this code writes, and the only one that it reads; others are built anew.
FORMAT = 1

_INFO = "index.json"


@dataclass(frozen=True)
class IndexInfo:
    """What is known of an index without opening it.

    Attributes
    ----------
    feature : str
    key : str
        Column that names a content.
    kind : str
        "flat", "ivf" or "hnsw".
    given : bool
        Whether the kind was asked for, not chosen.
    fingerprint : str or None
        Of the feature.
    digest : str
        Of the feature table's snapshot that it covers.
    content : str
        Hash of the keys and vectors it covers; unlike `digest`, merging parts leaves it as it is.
    rows, vectors, dim : int
        Rows of the snapshot; those of them with a direction, which the index holds; dimensions.
    trained : int
        Rows there were when it was last made from nothing.
    effort : int or None
        nprobe or efSearch.
    wanted : float
        Recall@10 asked for.
    recall : mapping
        ``{"image": {"recall@10": ..., "queries": ..., "of": ...}, "text": ...}``, None where there is nothing to ask with.
    files : mapping
        Size, modification time and checksum of both files.
    versions : mapping
        Of FAISS and icehouse.
    built_at : str
        UTC, ISO 8601.
    seconds : float
        What the last build took.
    """

    feature: str
    key: str
    kind: str
    given: bool
    fingerprint: str | None
    digest: str
    content: str
    rows: int
    vectors: int
    dim: int
    trained: int
    effort: int | None
    wanted: float
    recall: Mapping[str, Any]
    versions: Mapping[str, str]
    built_at: str
    seconds: float
    files: Mapping[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @property
    def bytes(self) -> int:
        """Size of its files."""
        return sum(entry["bytes"] for entry in self.files.values())


def index_folder(store: Path, feature: str) -> Path:
    """Where the index of a feature lies."""
    return store / "indexes" / checked_name(feature)


def read_info(folder: Path) -> IndexInfo | None:
    """Read what index there is in `folder`; None if there is none.

    Raises
    ------
    CorruptError
        If index.json cannot be understood.
    """
    path = folder / _INFO
    try:
        content = json.loads(path.read_bytes())
        if content["format"] != FORMAT:
            raise CorruptError(f"{path} is of format {content['format']}, this icehouse reads {FORMAT}")
        content = unseal(content, _INFO)
        files = {kind: dict(entry) for kind, entry in content.pop("files").items()}
        if set(files) != {"index", "rows"} or content["kind"] not in KINDS:
            raise KeyError("files")
        for entry in files.values():
            _ = [entry[key] for key in _FILE_KEYS]
        return IndexInfo(**content, files=files)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptError(f"{path} is damaged ({type(error).__name__})") from error


def read_vectors(folder: Path, info: IndexInfo, *, mapped: bool = True) -> Any:
    """Read the FAISS index, mapped from disk for searching, or into memory so that it can grow.

    Raises
    ------
    CorruptError
        If the file is missing, or not what was written.
    """
    faiss = load_faiss()
    path = _checked(folder, info, "index")
    # FAISS 1.11 and later map every kind (MMAP_IFC); earlier ones the lists of IVF only. A mapped index must not grow:
    # FAISS would end the process.
    flags = getattr(faiss, "IO_FLAG_MMAP_IFC", faiss.IO_FLAG_MMAP) | faiss.IO_FLAG_READ_ONLY if mapped else 0
    try:
        index = faiss.read_index(str(path), flags)
    except RuntimeError as error:
        raise CorruptError(f"{path} cannot be read by FAISS") from error
    if (int(index.ntotal), int(index.d)) != (info.vectors, info.dim):
        raise CorruptError(
            f"{path} holds {index.ntotal} vectors of {index.d} dimensions, not what was written"
        )
    return index


def read_rows(folder: Path, info: IndexInfo, column: str = "row") -> pa.ChunkedArray:
    """Read a column of the positions' table: `row`, or the feature's key.

    Raises
    ------
    CorruptError
        If the file is missing, or not what was written.
    """
    path = _checked(folder, info, "rows")
    try:
        values = pq.read_table(path, columns=[column], memory_map=True)[column]
    except (pa.ArrowException, OSError, KeyError) as error:
        raise CorruptError(f"{path} cannot be read") from error
    if len(values) != info.vectors:
        raise CorruptError(f"{path} has {len(values)} rows, not {info.vectors}")
    return values


def check_files(folder: Path, info: IndexInfo, *, always: bool = False) -> None:
    """Make sure that both files are as they were written, reading every byte if `always`.

    Raises
    ------
    CorruptError
        If one is missing or differs.
    """
    for what in info.files:
        _checked(folder, info, what, always=always)


def write_index(
    folder: Path, info: IndexInfo, index: Any, rows: np.ndarray, keys: pa.ChunkedArray
) -> IndexInfo:
    """Write an index and put it in the place of the present one, in one step.

    Parameters
    ----------
    folder : Path
    info : IndexInfo
        Its `files` are filled in.
    index : faiss.Index
    rows : ndarray of int64, shape (vectors,)
        Row of the snapshot at each position.
    keys : pyarrow.ChunkedArray of string
        Content at each position.

    Raises
    ------
    StoreError
        If it cannot be written.
    """
    build = uuid.uuid4().hex[:12]
    paths = {"index": folder / f"{build}.faiss", "rows": folder / f"{build}.parquet"}
    try:
        with publish(paths["rows"]) as temp:
            pq.write_table(
                pa.table({"row": pa.array(rows, pa.int64()), info.key: keys}), temp, compression="zstd"
            )
        with publish(paths["index"]) as temp:
            load_faiss().write_index(index, str(temp))
        info = replace(info, files={name: _described(path) for name, path in paths.items()})
        with publish(folder / _INFO) as temp:
            temp.write_text(
                json.dumps(seal(info.as_dict(), _INFO), indent=1, ensure_ascii=False), encoding="utf-8"
            )
    except (OSError, RuntimeError) as error:
        for path in paths.values():
            path.unlink(missing_ok=True)
        reason = (isinstance(error, OSError) and error.strerror) or str(error).splitlines()[0]
        raise StoreError(f"cannot write the index to {folder}: {reason}") from error
    _remove_others(folder, {path.name for path in paths.values()})
    return info


_FILE_KEYS = ("name", "bytes", "sha256")
_FILE = re.compile(r"[0-9a-f]{12}\.(faiss|parquet)")


def _described(path: Path) -> dict[str, Any]:
    return {"name": path.name, "sha256": file_sha256(path), **stamp(path)}


def _checked(folder: Path, info: IndexInfo, what: str, *, always: bool = False) -> Path:
    """Path of a file that is as it was written.

    FAISS trusts what it reads, links of a graph among it; see `icehouse.store.checksums.check_stamp`.
    """
    entry = info.files[what]
    path = folder / Path(str(entry["name"])).name
    if "crc32" in entry:
        check_stamp(path, entry, always=always)
        return path
    # Of an icehouse that kept none.
    try:
        if file_sha256(path) != entry["sha256"]:
            raise CorruptError(f"{path} is not what was written")
    except FileNotFoundError:
        raise CorruptError(f"{path} is gone") from None
    except OSError as error:
        raise CorruptError(f"{path}: {error.strerror or error}") from error
    return path


def _remove_others(folder: Path, keep: set[str]) -> None:
    remove_leftovers(folder)
    for path in folder.iterdir():
        if _FILE.fullmatch(path.name) and path.name not in keep:
            # A reader on Windows keeps its file; the next build removes it.
            with contextlib.suppress(OSError):
                path.unlink()
