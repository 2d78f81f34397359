"""What a store holds, in numbers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from ..errors import StoreError
from .maintain import coverage
from .schema import label_columns
from .snapshot import Snapshot

if TYPE_CHECKING:
    from .store import Store

__all__ = ["describe"]

#: Values of a label column that are counted one by one; a column of more is metadata.
SHOWN_VALUES = 20


def describe(store: Store) -> dict[str, Any]:
    """Count items, labels, features, failures and bytes.

    Returns
    -------
    dict
        JSON values: ``path``, ``format_version``, ``created_at``, ``created_by``, ``items`` (``total``, ``image``, ``text``,
        ``missing``), ``splits`` and ``labels`` (counts by value; of a column with more than 20 values the most frequent),
        ``features`` (one mapping each, with the numbers of items that miss it and of rows that no item uses), ``tables``
        (others, by name), ``damaged`` (tables that cannot be read, and why), ``failures`` (``total``, ``by_error``),
        ``bytes`` (by folder).
    """
    schema = store.items.snapshot().schema
    labels = label_columns(schema)
    items = store.items.read(["image_sha256", "text_sha256", "missing", "split", *labels])
    snapshots, damaged = _snapshots(store)
    named = [name.removeprefix("features/") for name in snapshots if name.startswith("features/")]
    covered = {cover.feature: cover for cover in coverage(store, named, damaged)}
    features = []
    for name in named:
        snapshot = snapshots[f"features/{name}"]
        spec = snapshot.spec
        features.append(
            {
                "name": name,
                "rows": snapshot.rows,
                "dim": spec.get("dim"),
                "dtype": spec.get("dtype"),
                "encoder": spec.get("encoder"),
                "fingerprint": spec.get("fingerprint"),
                "bytes": snapshot.bytes,
                "parts": len(snapshot.parts),
                "missing": len(covered[name].missing) if name in covered else 0,
                "unused": covered[name].unused if name in covered else 0,
            }
        )
    failures = (
        store.failures.read(["error"])
        if "failures" in snapshots
        else pa.table({"error": pa.array([], pa.string())})
    )
    return {
        "path": str(store.path),
        **{key: store.about.get(key) for key in ("format_version", "created_at", "created_by")},
        "items": {
            "total": items.num_rows,
            "image": items.num_rows - items["image_sha256"].null_count,
            "text": items.num_rows - items["text_sha256"].null_count,
            "missing": pc.sum(items["missing"]).as_py() or 0,
        },
        "splits": dict(sorted(_counts(items["split"]).items())),
        "labels": {name: _label(items[name]) for name in labels},
        "features": features,
        "tables": {
            name: snapshot.rows for name, snapshot in snapshots.items() if not name.startswith("features/")
        },
        "damaged": damaged,
        "failures": {"total": failures.num_rows, "by_error": dict(_counts(failures["error"]).most_common())},
        "bytes": {entry.name: _size(entry) for entry in sorted(store.path.iterdir()) if entry.is_dir()},
    }


def _snapshots(store: Store) -> tuple[dict[str, Snapshot], dict[str, str]]:
    """Tables as they are now, and why others cannot be read."""
    snapshots, damaged = {}, {}
    for name in store.table_names():
        try:
            snapshots[name] = store.table(name).snapshot()
        except StoreError as error:
            damaged[name] = str(error)
    return snapshots, damaged


def _label(column: pa.ChunkedArray) -> dict[str, Any]:
    counts = _counts(pc.list_flatten(column) if pa.types.is_list(column.type) else column)
    return {
        "distinct": len(counts),
        "none": column.null_count,
        "counts": dict(counts.most_common(SHOWN_VALUES)),
    }


def _counts(column: pa.ChunkedArray) -> Counter[str]:
    return Counter(
        {str(row["values"]): row["counts"] for row in pc.value_counts(column.drop_null()).to_pylist()}
    )


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:  # a writer is at work
            continue
    return total
