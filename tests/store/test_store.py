"""Stores: what opens, what is refused, and features aligned to items."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from icehouse.errors import SpaceError, StoreError, UsageError
from icehouse.store import vectors
from icehouse.store.schema import check_space, differences, features_schema, items_schema, label_columns
from icehouse.store.store import Store
from icehouse.store.vectors import tokens_to_arrow

NAME = "toy/image/pooled"
A, B = [1, 2, 3, 4], [5, 6, 7, 8]


# ------------------------------------------------------------------------------------------------ folders


def test_a_new_store_has_its_ledgers_and_opens_again(tmp_path: Path) -> None:
    Store.create(tmp_path / "deep" / "s")
    store = Store.open(tmp_path / "deep" / "s")
    assert store.table_names() == ["failures", "items"]
    assert store.items.rows == store.failures.rows == 0
    assert store.feature_names() == []
    assert json.loads((store.path / "icehouse.json").read_text())["created_by"].startswith("icehouse ")


def test_what_is_no_store_is_answered_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no store at .*icehouse embed SOURCE -s"):
        Store.open(tmp_path)
    with pytest.raises(StoreError, match=r"icehouse embed SOURCE -s '.*/my store'`"):
        Store.open(tmp_path / "my store")
    (tmp_path / "photo.jpg").write_bytes(b"")
    with pytest.raises(StoreError, match="has other things in it"):
        Store.create(tmp_path)
    with pytest.raises(StoreError, match="no store at"):
        Store.open(tmp_path / "photo.jpg")
    with pytest.raises(StoreError, match="cannot make a store"):
        Store.create(tmp_path / "photo.jpg" / "below")


def test_a_store_is_not_made_twice_and_a_newer_one_not_read(store: Store) -> None:
    with pytest.raises(StoreError, match="a store already"):
        Store.create(store.path)
    assert Store.open_or_create(store.path).items.rows == 5
    about = store.path / "icehouse.json"
    about.write_text(json.dumps(store.about | {"format_version": 2}))
    with pytest.raises(StoreError, match=r"format 2.*upgrade"):
        Store.open(store.path)
    about.write_text("{}")
    with pytest.raises(StoreError, match="damaged"):
        Store.open(store.path)


@pytest.mark.parametrize(
    "name", ["../items", "toy//pooled", ".hidden/image/pooled", "a\\b/image/x", "toy/image/.."]
)
def test_names_cannot_leave_the_store(store: Store, spec: Callable[..., dict[str, Any]], name: str) -> None:
    with pytest.raises(StoreError, match="no name of a table"):
        store.ensure_feature_table(name, spec(), features_schema("image", "pooled", 4))


def test_label_names_cannot_be_those_of_icehouse() -> None:
    assert label_columns(items_schema(["label", "event"])) == ["label", "event"]
    for bad in (["path"], ["Split"], ["x", "X"]):
        with pytest.raises(UsageError, match="reserved or repeated"):
            items_schema(bad)


# ------------------------------------------------------------------------------------------------ spaces


def test_another_fingerprint_is_refused_with_both_and_what_differs(
    store: Store, spec: Callable[..., dict[str, Any]]
) -> None:
    other = spec(
        encoder="toy:v2",
        fingerprint="fedcba9876543210",
        provenance={"family": "toy", "preprocessing": {"size": 256, "interpolation": "bicubic"}},
    )
    schema = features_schema("image", "pooled", 4)
    with pytest.raises(SpaceError) as caught:
        store.ensure_feature_table(NAME, other, schema)
    for piece in (NAME, "0123456789abcdef", "fedcba9876543210", "toy:v2", "preprocessing.size (224 / 256)"):
        assert piece in str(caught.value)
    assert "interpolation" not in str(caught.value)
    with pytest.raises(StoreError, match=r"float16.*float32 was asked"):
        store.ensure_feature_table(NAME, spec(dtype="float32"), schema)
    with pytest.raises(SpaceError, match="4 dimensions, not 8"):
        store.ensure_feature_table(NAME, spec(dim=8), schema)
    assert store.ensure_feature_table(NAME, spec(versions={"torch": "9"}), schema).rows == 2


def test_vectors_of_unknown_origin_match_nothing() -> None:
    with pytest.raises(StoreError, match="unknown origin"):
        check_space("run 1", {"fingerprint": "a"}, {})


def test_differences_go_into_nested_mappings() -> None:
    have, want = {"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 4}, "e": 5}
    assert differences(have, want) == {"a.c": (2, 4), "d": (3, None), "e": (None, 5)}


# ------------------------------------------------------------------------------------------------ features


@pytest.mark.parametrize("copy", [False, True])
def test_features_follow_the_items(store: Store, monkeypatch: pytest.MonkeyPatch, copy: bool) -> None:
    if copy:
        monkeypatch.setattr(vectors, "CACHE_FROM", 0)
        store.features(NAME)
        assert list((store.path / "cache" / "features" / NAME).glob("*.npy"))
    got = store.features(NAME)
    assert got.ids.tolist() == ["a", "b", "c"]
    assert got.X.dtype == np.float32
    assert got.X.tolist() == [A, B, A]
    assert got.y is None
    assert got.spec["fingerprint"] == "0123456789abcdef"
    assert len(got) == 3


def test_features_of_a_split_with_a_label(store: Store) -> None:
    got = store.features(NAME, split="train", label="label")
    assert got.ids.tolist() == ["a", "b"]
    assert got.y is not None
    assert got.y.tolist() == ["cat", "dog"]
    assert store.features(NAME, label="label").ids.tolist() == ["a", "b"]  # c has no label
    assert store.features(NAME, split=["train", "test"]).ids.tolist() == ["a", "b", "c"]
    assert store.features(NAME, split="cat", split_column="label").ids.tolist() == ["a"]


def test_features_where(store: Store) -> None:
    assert store.features(NAME, where="width >= 64 -- large").ids.tolist() == ["a", "c"]
    none = store.features(NAME, where="false", label="label")
    assert none.X.shape == (0, 4)
    assert none.y is not None
    assert len(none.ids) == len(none.y) == 0
    with pytest.raises(UsageError, match="'widht > 3' does not work on items"):
        store.features(NAME, where="widht > 3")


def test_wrong_names_are_answered_with_those_there_are(store: Store) -> None:
    with pytest.raises(StoreError, match=f"no feature 'clip'.*{NAME}"):
        store.features("clip")
    with pytest.raises(UsageError, match=r"no label column 'lable'.*label"):
        store.features(NAME, label="lable")
    with pytest.raises(UsageError, match=r"split 'dev'.*test \(2\), train \(2\)"):
        store.features(NAME, split=["train", "dev"])
    with pytest.raises(StoreError, match=r"no table 'captions/x'.*items"):
        store.table("captions/x")


def test_an_empty_store_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="icehouse embed"):
        Store.create(tmp_path / "s").features(NAME)


def test_tokens_come_padded_with_a_mask(store: Store, spec: Callable[..., dict[str, Any]]) -> None:
    table = store.ensure_feature_table(
        "toy/image/tokens", spec(output="tokens", dim=2), features_schema("image", "tokens", 2)
    )
    keys = store.items.read(["image_sha256"])["image_sha256"].to_pylist()
    values = np.arange(18, dtype=np.float32).reshape(3, 3, 2)
    mask = np.array([[1, 0, 0], [1, 1, 0], [1, 1, 1]], bool)
    # The third content belongs to no item: its three tokens must not pad the others.
    table.append(
        pa.table({"image_sha256": [keys[1], keys[0], "0" * 64], "tokens": tokens_to_arrow(values, mask)})
    )
    got = store.features("toy/image/tokens", label="label")
    assert got.ids.tolist() == ["a", "b"]
    assert got.mask is not None
    assert got.mask.tolist() == [[True, True], [True, False]]
    assert got.X.tolist() == [[[6, 7], [8, 9]], [[0, 1], [0, 0]]]
    with pytest.raises(StoreError, match="holds tokens"):
        store.vectors("toy/image/tokens")


def test_vectors_come_with_their_keys(store: Store) -> None:
    loaded = store.vectors(NAME)
    keys = store.items.read(["image_sha256"])["image_sha256"].to_pylist()
    assert dict(zip(loaded.keys.to_pylist(), loaded.X.tolist(), strict=True)) == {keys[0]: A, keys[1]: B}
