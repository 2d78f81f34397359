"""Exports read back, by the libraries that users read them with."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from icehouse.errors import StoreError, UsageError
from icehouse.store.schema import features_schema
from icehouse.store.sql import export
from icehouse.store.store import Store
from icehouse.store.vectors import tokens_to_arrow, vectors_to_arrow

NAME = "toy/image/pooled"
X = [[1, 2, 3, 4], [5, 6, 7, 8], [1, 2, 3, 4]]
IDS = [["item_id", "split", "label"], ["a", "train", "cat"], ["b", "train", "dog"], ["c", "test", ""]]


def cells(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_npy_and_ids(store: Store, tmp_path: Path) -> None:
    out = tmp_path / "x.npy"
    assert export(store, NAME, out, columns=["split", "label"]) == [out, tmp_path / "x.npy.ids.csv"]
    assert np.load(out).tolist() == X
    assert np.load(out).dtype == np.float32
    assert cells(tmp_path / "x.npy.ids.csv") == IDS


def test_safetensors_and_ids(store: Store, tmp_path: Path) -> None:
    from safetensors import safe_open

    out = tmp_path / "x.safetensors"
    export(store, NAME, out, split="train")
    with safe_open(out, "numpy") as file:
        assert file.get_tensor("X").tolist() == X[:2]
        assert file.metadata()["fingerprint"] == "0123456789abcdef"
    assert cells(tmp_path / "x.safetensors.ids.csv") == [["item_id"], ["a"], ["b"]]


def test_parquet(store: Store, tmp_path: Path) -> None:
    out = tmp_path / "any.name"
    export(store, NAME, out, format="parquet", columns=["label"], where="label is not null")
    assert pq.read_table(out).to_pylist() == [
        {"item_id": "a", "label": "cat", "vector": X[0]},
        {"item_id": "b", "label": "dog", "vector": X[1]},
    ]


def test_csv_numbers_read_back_exactly(
    store: Store, spec: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    values = np.random.default_rng(0).standard_normal((1, 4)).astype(np.float32)
    values[0, 3] = 1e-30
    table = store.ensure_feature_table(
        "toy/image/joint",
        spec(dtype="float32", fingerprint="ff"),
        features_schema("image", "joint", 4, "float32"),
    )
    key = store.items.read(["image_sha256"])["image_sha256"][1].as_py()
    table.append(pa.table({"image_sha256": [key], "vector": vectors_to_arrow(values, "float32")}))
    export(store, "toy/image/joint", tmp_path / "x.csv", columns=["label", "item_id"])
    header, row = cells(tmp_path / "x.csv")
    assert header == ["item_id", "label", "f0", "f1", "f2", "f3"]
    assert row[:2] == ["b", "dog"]
    assert np.array_equal(np.array(row[2:], np.float32), values[0])


def test_tokens(store: Store, spec: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    table = store.ensure_feature_table("toy/image/tokens", spec(dim=2), features_schema("image", "tokens", 2))
    keys = store.items.read(["image_sha256"])["image_sha256"].to_pylist()
    values, mask = np.ones((2, 2, 2), np.float32), np.array([[1, 1], [1, 0]], bool)
    table.append(pa.table({"image_sha256": keys[:2], "tokens": tokens_to_arrow(values, mask)}))
    written = export(store, "toy/image/tokens", tmp_path / "t.npy")
    assert [path.name for path in written] == ["t.npy", "t.npy.ids.csv", "t.npy.mask.npy"]
    assert np.load(written[2]).tolist() == [[True, True], [True, False], [True, True]]
    export(store, "toy/image/tokens", tmp_path / "t.parquet")
    assert [len(t) for t in pq.read_table(tmp_path / "t.parquet")["tokens"].to_pylist()] == [2, 1, 2]
    with pytest.raises(UsageError, match="tokens, which do not fit a CSV"):
        export(store, "toy/image/tokens", tmp_path / "t.csv")


def test_what_cannot_be_exported(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no format '.txt'.*npy, csv, parquet, safetensors"):
        export(store, NAME, tmp_path / "x.txt")
    with pytest.raises(UsageError, match=r"no column 'lable' in items.*label"):
        export(store, NAME, tmp_path / "x.npy", columns=["lable"])
    with pytest.raises(StoreError, match="cannot write"):
        export(store, NAME, tmp_path / "no" / "folder" / "x.npy")
    assert not list(tmp_path.glob("x*"))


def test_a_failed_export_keeps_the_old_file(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "x.parquet"
    out.write_bytes(b"precious")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("icehouse.store.sql.pq.write_table", full)
    with pytest.raises(StoreError, match="No space left"):
        export(store, NAME, out)
    assert out.read_bytes() == b"precious"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".tmp")] == []


@pytest.mark.parametrize("suffix", ["npy", "safetensors"])
def test_ids_of_an_export_that_failed_do_not_stand_beside_other_vectors(
    suffix: str, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import safetensors.numpy

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    out = tmp_path / f"x.{suffix}"
    export(store, NAME, out, split="train")
    before = {path.name: path.read_bytes() for path in tmp_path.glob("x.*")}
    monkeypatch.setattr(np, "save", fail)
    monkeypatch.setattr(safetensors.numpy, "save_file", fail)
    with pytest.raises((StoreError, OSError), match="No space"):
        export(store, NAME, out)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("x.*")} == before
