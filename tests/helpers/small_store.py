"""A store with five items, and one feature of their images."""

from __future__ import annotations

import atexit
import hashlib
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from icehouse.store.schema import features_schema
from icehouse.store.store import Store
from icehouse.store.vectors import vectors_to_arrow

DIM = 4


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def feature_spec(**changes: Any) -> dict[str, Any]:
    return {
        "encoder": "toy",
        "name": "toy",
        "modality": "image",
        "output": "pooled",
        "dim": DIM,
        "dtype": "float16",
        "key": "image_sha256",
        "provenance": {"family": "toy", "preprocessing": {"size": 224, "interpolation": "bicubic"}},
        "fingerprint": "0123456789abcdef",
        **changes,
    }


@pytest.fixture
def spec() -> Any:
    return feature_spec


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Items a to e; c is a copy of a; d has no image; e's image has no feature yet."""
    return made(tmp_path)


def made(folder: Path) -> Store:
    """The same, as the fixture gives it, in `folder`."""
    return Store.open(shutil.copytree(_template(), folder / "store"))


@cache
def _template() -> Path:
    """The same, made once a process."""
    folder = Path(tempfile.mkdtemp(prefix="icehouse-small-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    store = Store.create(folder / "store")
    store.items.append(
        pa.table(
            {
                "item_id": ["a", "b", "c", "d", "e"],
                "path": ["a.jpg", "b.jpg", "copy/a.jpg", None, "e.jpg"],
                "text": ["one", "two", None, "four", "five"],
                "image_sha256": [sha("a"), sha("b"), sha("a"), None, sha("e")],
                "width": pa.array([64, 32, 64, None, 16], pa.int32()),
                "split": ["train", "train", "test", "test", None],
                "label": ["cat", "dog", None, "dog", "cat"],
            }
        ),
        unique="item_id",
    )
    table = store.ensure_feature_table(
        "toy/image/pooled", feature_spec(), features_schema("image", "pooled", DIM)
    )
    # Not in the items' order, so that a test notices rows that were not aligned.
    X = np.array([[5, 6, 7, 8], [1, 2, 3, 4]], np.float32)
    table.append(
        pa.table({"image_sha256": [sha("b"), sha("a")], "vector": vectors_to_arrow(X)}), unique="image_sha256"
    )
    return store.path
