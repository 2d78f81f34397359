"""Features in which two inputs carry the class, and a store of them."""

from __future__ import annotations

import atexit
import hashlib
import shutil
import tempfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from icehouse.heads.inputs import Inputs
from icehouse.store.schema import features_schema, items_schema
from icehouse.store.store import Store
from icehouse.store.vectors import vectors_to_arrow

WIDTHS = {"image": 8, "text": 5}


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def feature_spec(modality: str, output: str, dim: int, **changes: Any) -> dict[str, Any]:
    return {
        "encoder": "toy",
        "name": "toy",
        "modality": modality,
        "output": output,
        "dim": dim,
        "dtype": "float32",
        "key": f"{modality}_sha256",
        "provenance": {"family": "toy", "modality": modality, "output": output},
        "fingerprint": sha(f"{modality}{output}")[:16],
        "probe": {"ids": []},
        **changes,
    }


def blobs(n: int, k: int = 3, seed: int = 0, noise: float = 1.0) -> tuple[Inputs, np.ndarray]:
    """`n` rows of `k` classes: the image tells the class modulo 2, the text the rest."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(12345)
    image, text = centres.normal(size=(2, WIDTHS["image"])), centres.normal(size=(k, WIDTHS["text"]))
    y = np.arange(n) % k
    X = {
        "image": 2 * image[y % 2] + noise * rng.normal(size=(n, WIDTHS["image"])),
        "text": 2 * text[y // 2] + noise * rng.normal(size=(n, WIDTHS["text"])),
    }
    return Inputs({name: array.astype(np.float32) for name, array in X.items()}), y


@pytest.fixture
def data() -> Callable[..., tuple[Inputs, np.ndarray]]:
    return blobs


@pytest.fixture
def spec() -> Callable[..., dict[str, Any]]:
    return feature_spec


#: Stores that a test of this process has made, by what is in them; the next one copies them.
_templates = Path(tempfile.mkdtemp(prefix="icehouse-heads-"))
atexit.register(shutil.rmtree, _templates, ignore_errors=True)


@pytest.fixture
def make_store(tmp_path: Path) -> Callable[..., Store]:
    """A store of posts: item p<i> has picture <i> and text <i>, its split by i, its label by class, or as they are given."""

    def make(
        n: int = 120,
        *,
        split: Callable[[int], str | None] = lambda i: ("train", "train", "dev", "test")[i // 3 % 4],
        no_text: Collection[int] = (),
        copies: dict[int, int] | None = None,
        label: Callable[[int], str | None] = lambda i: None,
        labels: Sequence[str | None] | None = None,
        X: Inputs | None = None,
        order: Sequence[int] | None = None,
        outputs: tuple[str, ...] = ("pooled",),
        name: str = "store",
    ) -> Store:
        X, y = blobs(n) if X is None else (X, np.arange(n) % 3)
        names = ("calm", "flood", "quake")
        copies, order = copies or {}, range(n) if order is None else order
        rows = [
            {
                "item_id": f"p{i:03d}",
                "text": None if i in no_text else f"text {i}",
                "image_sha256": sha(f"image {copies.get(i, i)}"),
                "text_sha256": None if i in no_text else sha(f"text {i}"),
                "split": split(i),
                "label": labels[i] if labels is not None else label(i) or names[y[i]],
                "event": f"event {i % 2}",
            }
            for i in order
        ]
        made = (rows, outputs, *((modality, X[modality].tobytes()) for modality in X.names))
        template = _templates / hashlib.sha256(repr(made).encode()).hexdigest()
        if template.exists():
            return Store.open(shutil.copytree(template, tmp_path / name))
        store = Store.create(tmp_path / name)
        store.items.append(
            pa.Table.from_pylist(rows, schema=items_schema(["label", "event"])), unique="item_id"
        )
        for modality, width in X.widths.items():
            for output in outputs:
                schema = features_schema(modality, output, width, "float32")
                table = store.ensure_feature_table(
                    f"toy/{modality}/{output}", feature_spec(modality, output, width), schema
                )
                columns: dict[str, Any] = {
                    f"{modality}_sha256": [sha(f"{modality} {i}") for i in order],
                    "vector": vectors_to_arrow(X[modality][list(order)], "float32"),
                }
                if modality == "text":
                    columns["truncated"] = [False] * n
                table.append(pa.table(columns).select(schema.names).cast(schema))
        shutil.copytree(store.path, template)
        return store

    return make


@pytest.fixture(autouse=True)
def reports_where_they_are_tested(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing six figures takes longer than most of what is tested here; these files make them in earnest."""
    if request.path.stem not in ("test_ablation", "test_explain", "test_report"):
        monkeypatch.setattr("icehouse.heads.report.leave_report", lambda *_, **__: None)
