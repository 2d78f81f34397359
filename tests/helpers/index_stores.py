"""Stores whose vectors a test chooses: item i has the content "<modality> <i>"."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
from icehouse.store.schema import features_schema
from icehouse.store.store import Store
from icehouse.store.vectors import vectors_to_arrow

IMAGES, TEXTS = "toy/image/joint", "toy/text/joint"


def content(modality: str, row: int) -> str:
    return hashlib.sha256(f"{modality} {row}".encode()).hexdigest()


def like_embeddings(rows: int, dim: int = 16, seed: int = 0) -> np.ndarray:
    """Vectors in clusters, as embeddings are."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((20, dim))
    return (centres[rng.integers(0, 20, rows)] + 0.6 * rng.standard_normal((rows, dim))).astype(np.float32)


def add(
    store: Store,
    X: np.ndarray,
    *,
    feature: str = IMAGES,
    start: int = 0,
    ids: list[str] | None = None,
    fingerprint: str = "0" * 16,
) -> None:
    """Append vectors, and items for them if they are images."""
    name, modality, output = feature.split("/")
    key = f"{modality}_sha256"
    rows = range(start, start + len(X))
    keys = [content(modality, row) for row in rows]
    if modality == "image":
        ids = ids or [f"i{row:05d}" for row in rows]
        store.items.append(pa.table({"item_id": ids, key: keys}), unique="item_id")
    spec = {"encoder": "toy", "name": name, "modality": modality, "output": output, "dim": X.shape[1]}
    spec |= {"dtype": "float16", "key": key, "provenance": {"is": fingerprint}, "fingerprint": fingerprint}
    schema = features_schema(modality, output, X.shape[1])  # type: ignore[arg-type]
    columns = {key: pa.array(keys), "vector": vectors_to_arrow(X)}
    if modality == "text":
        columns["truncated"] = pa.nulls(len(X), pa.bool_())
    table = store.ensure_feature_table(feature, spec, schema)
    table.append(pa.table(columns).select(schema.names).cast(schema), unique=key)


def make(path: Path, X: np.ndarray, texts: np.ndarray | None = None) -> Store:
    store = Store.create(path)
    add(store, X)
    if texts is not None:
        add(store, texts, feature=TEXTS)
    return store
