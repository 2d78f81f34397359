"""Stores whose contents a test chooses, for galleries of their near-duplicates."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from icehouse.store.schema import features_schema
from icehouse.store.store import Store
from icehouse.store.vectors import vectors_to_arrow
from PIL import Image


def filled(
    path: Path, items: list[dict[str, Any]], X: np.ndarray | None = None, *, modality: str = "image"
) -> Store:
    """A store of `items`, each with the vector of its row; contents are named by the caller."""
    store = Store.create(path)
    schema = store.items.snapshot().schema
    names = list(dict.fromkeys(name for item in items for name in item))
    columns = {
        name: pa.array(
            [item.get(name) for item in items],
            schema.field(name).type if name in schema.names else pa.string(),
        )
        for name in names
    }
    store.items.append(pa.table(columns), unique="item_id")
    if X is not None:
        key = f"{modality}_sha256"
        spec = {
            "encoder": "toy", "name": "toy", "modality": modality, "output": "pooled", "dim": X.shape[1], "dtype": "float32",
            "key": key, "provenance": {"family": "toy"}, "fingerprint": "0" * 16,
        }  # fmt: skip
        made = features_schema(modality, "pooled", X.shape[1], "float32")  # type: ignore[arg-type]
        rows = {key: [item[key] for item in items], "vector": vectors_to_arrow(X, "float32")}
        if modality == "text":
            rows["truncated"] = pa.nulls(len(X), pa.bool_())
        table = store.ensure_feature_table(f"toy/{modality}/pooled", spec, made)
        table.append(pa.table(rows).select(made.names).cast(made), unique=key)
    return store


def entry(file: Path, item_id: str, **changes: Any) -> dict[str, Any]:
    """An item as embedding the file would have made it."""
    data = file.read_bytes()
    with Image.open(file) as image:
        width, height = image.size
        kind = image.format
    status = file.stat()
    return {
        "item_id": item_id, "path": file.name, "root": str(file.parent), "image_sha256": hashlib.sha256(data).hexdigest(),
        "width": width, "height": height, "format": kind, "bytes": status.st_size, "mtime_ns": status.st_mtime_ns,
        "missing": False, "text": None, "text_sha256": None, "split": None, "label": None, **changes,
    }  # fmt: skip


def near(angles: list[float]) -> np.ndarray:
    """Unit vectors in a plane: what lies between two of them is the difference of their angles, in degrees."""
    turned = np.radians(np.array(angles))
    return np.stack([np.cos(turned), np.sin(turned)], axis=1).astype(np.float32)
