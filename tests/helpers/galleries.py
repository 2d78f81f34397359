"""Stores whose contents a test chooses, for galleries of their near-duplicates."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from icehouse.embed.pipeline import embed_sources
from icehouse.store.schema import features_schema
from icehouse.store.store import Store
from icehouse.store.vectors import vectors_to_arrow
from PIL import Image
from toys import ToyEncoder


def filled(
    path: Path,
    items: list[dict[str, Any]],
    X: np.ndarray | dict[str, np.ndarray] | None = None,
    *,
    modality: str = "image",
    dtype: str = "float32",
) -> Store:
    """A store of `items`, each with the vector of its row, or of its content; contents are named by the caller."""
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
    key = f"{modality}_sha256"
    vectors = X if isinstance(X, dict) else {}
    if isinstance(X, np.ndarray):
        for item, vector in zip(items, X, strict=True):
            vectors.setdefault(item[key], vector)
    if vectors:
        made = np.stack(list(vectors.values()))
        spec = {
            "encoder": "toy", "name": "toy", "modality": modality, "output": "pooled", "dim": made.shape[1], "dtype": dtype,
            "key": key, "provenance": {"family": "toy"}, "fingerprint": "0123456789abcdef",
        }  # fmt: skip
        fields = features_schema(modality, "pooled", made.shape[1], dtype)  # type: ignore[arg-type]
        rows = {key: list(vectors), "vector": vectors_to_arrow(made, dtype)}
        if modality == "text":
            rows["truncated"] = pa.nulls(len(made), pa.bool_())
        table = store.ensure_feature_table(f"toy/{modality}/pooled", spec, fields)
        table.append(pa.table(rows).select(fields.names).cast(fields), unique=key)
    return store


def embedded(source: Path, path: Path) -> Store:
    """A store of what is in a folder or a table, by the toy encoder."""
    embed_sources([source], path, encoder=ToyEncoder(), workers=1)
    return Store.open(path)


def csv_rows(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def looking_alike(path: Path, rows: list[dict[str, Any]]) -> Store:
    """Items whose vectors agree where their pictures look alike; `look` and `content` are numbers, the rest are columns."""
    rng = np.random.default_rng(0)
    looks = rng.standard_normal((30, 16)).astype(np.float32)
    items, X = [], []
    for k, row in enumerate(rows):
        told = {name: value for name, value in row.items() if name not in ("look", "content")}
        file = {"path": f"{row['item_id']}.jpg", "root": "/data", "missing": False}
        size = {"image_sha256": f"{row.get('content', k):064d}", "width": 1000 - k, "height": 100}
        items.append({**told, **file, **size})
        X.append(looks[row["look"]] + 0.01 * rng.standard_normal(16).astype(np.float32))
    return filled(path, items, np.stack(X))


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
