"""Stores of images or texts in families, whose members are near by hash, by vector, by both or by bytes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from galleries import filled
from icehouse.store.store import Store

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
    items = []
    for row in rows if order is None else [rows[k] for k in order]:
        item = {"item_id": row["item_id"], f"{modality}_sha256": row["content"], "mtime_ns": row["mtime_ns"]}
        if modality == "image":
            side = {"width": row["side"], "height": row["side"], "bytes": row["side"] * 10, "format": "JPEG"}
            item |= {"path": f"{row['item_id']}.jpg", "root": "/pictures", "phash": row["phash"], **side}
        else:
            item["text"] = row["content"][:8]
        items.append(item)
    vectors = {row["content"]: row["vector"] for row in rows}
    return filled(path, items, vectors, modality=modality, dtype="float16")
