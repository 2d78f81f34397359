"""Stores of images or texts in families, whose members are near by hash, by vector, by both or by bytes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from icehouse.store.schema import features_schema
from icehouse.store.store import Store
from icehouse.store.vectors import vectors_to_arrow

IMAGES, TEXTS = "toy/image/pooled", "toy/text/pooled"


def family_rows(
    n: int, *, dim: int = 16, families: int = 12, spread: float = 0.12, seed: int = 0
) -> list[dict[str, Any]]:
    """Items with their vectors; ties abound, since sizes, times and whole contents repeat."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((families, dim)) + 1
    hashes = rng.integers(0, 2**63, families, dtype=np.uint64)
    contents = []
    for k in range(n):
        family = int(rng.integers(families))
        flips = sum(1 << int(bit) for bit in set(rng.integers(0, 64, rng.integers(0, 5)).tolist()))
        contents.append(
            {
                "content": hashlib.sha256(f"{seed} {k}".encode()).hexdigest(),
                "phash": int(hashes[family]) ^ flips,
                "side": int(rng.integers(1, 4)) * 100,
                "vector": (centres[family] + spread * rng.standard_normal(dim)).astype(np.float32),
            }
        )
    rows = []
    for k in range(n):
        content = contents[k] if k % 4 else contents[int(rng.integers(n))]
        rows.append({**content, "item_id": f"item {k:04d}", "mtime_ns": int(rng.integers(3))})
    return rows


def family_store(
    path: Path, rows: list[dict[str, Any]], *, modality: str = "image", order: np.ndarray | None = None
) -> Store:
    """Write them to a store, in an order; features in another one."""
    order = np.arange(len(rows)) if order is None else order
    rows = [rows[k] for k in order]
    store, key = Store.create(path), f"{modality}_sha256"
    schema = store.items.snapshot().schema
    columns: dict[str, list[Any]] = {
        "item_id": [row["item_id"] for row in rows],
        key: [row["content"] for row in rows],
        "mtime_ns": [row["mtime_ns"] for row in rows],
    }
    if modality == "image":
        columns |= {
            "path": [f"{row['item_id']}.jpg" for row in rows],
            "root": ["/pictures"] * len(rows),
            "phash": [row["phash"] for row in rows],
            "width": [row["side"] for row in rows],
            "height": [row["side"] for row in rows],
            "bytes": [row["side"] * 10 for row in rows],
            "format": ["JPEG"] * len(rows),
        }
    else:
        columns["text"] = [row["content"][:8] for row in rows]
    store.items.append(
        pa.table(columns, schema=pa.schema([schema.field(name) for name in columns])), unique="item_id"
    )
    vectors = {row["content"]: row["vector"] for row in reversed(rows)}
    X = np.stack(list(vectors.values()))
    spec = {
        "encoder": "toy", "name": "toy", "modality": modality, "output": "pooled", "dim": X.shape[1], "key": key,
        "dtype": "float16", "provenance": {"family": "toy"}, "fingerprint": "0123456789abcdef",
    }  # fmt: skip
    features = features_schema(modality, "pooled", X.shape[1])  # type: ignore[arg-type]
    table: dict[str, Any] = {key: list(vectors), "vector": vectors_to_arrow(X)}
    if modality == "text":
        table["truncated"] = pa.nulls(len(X), pa.bool_())
    made = store.ensure_feature_table(f"toy/{modality}/pooled", spec, features)
    made.append(pa.table(table).select(features.names).cast(features), unique=key)
    return store
