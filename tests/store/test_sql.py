"""SQL over a store; exports read back, by the libraries that users read them with."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from icehouse.errors import StoreError, UsageError
from icehouse.store.schema import features_schema
from icehouse.store.sql import export, view_names
from icehouse.store.store import Store
from icehouse.store.vectors import tokens_to_arrow, vectors_to_arrow


def test_every_table_has_a_view_whose_types_do_not_depend_on_rows(
    store: Store, spec: Callable[..., dict[str, Any]]
) -> None:
    empty = store.ensure_feature_table(
        "toy/text/tokens",
        spec(modality="text", output="tokens", key="text_sha256"),
        features_schema("text", "tokens", 4),
    )
    assert empty.rows == 0
    types = {
        r["column_name"]: r["column_type"] for r in store.query('describe "toy/text/tokens"').to_pylist()
    }
    assert types == {"text_sha256": "VARCHAR", "truncated": "BOOLEAN", "tokens": "FLOAT[][]"}
    types = {r["column_name"]: r["column_type"] for r in store.query("describe items").to_pylist()}
    assert types["phash"] == "UBIGINT"
    assert types["added"] == "TIMESTAMP WITH TIME ZONE"
    assert types["label"] == "VARCHAR"
    before = store.query("describe failures").to_pylist()
    store.failures.append(pa.table({"item_id": ["a"]}))
    assert store.query("describe failures").to_pylist() == before


def test_vectors_answer_to_array_functions(store: Store) -> None:
    rows = store.query(
        """
        select item_id, array_inner_product(vector::FLOAT[4], [1, 0, 0, 0]::FLOAT[4]) as first
        from items join toy_image_pooled using (image_sha256) order by item_id
        """
    )
    assert rows.to_pydict() == {"item_id": ["a", "b", "c"], "first": [1.0, 5.0, 1.0]}
    assert store.query('select count(*) as n from "toy/image/pooled"').to_pylist() == [{"n": 2}]


def test_a_column_that_only_some_parts_have(store: Store) -> None:
    store.items.append(pa.table({"item_id": ["f"], "event": ["flood"]}))
    rows = store.query(
        "select item_id, label, event from items where event is not null or label = 'cat' order by 1"
    )
    assert rows.to_pylist() == [
        {"item_id": "a", "label": "cat", "event": None},
        {"item_id": "e", "label": "cat", "event": None},
        {"item_id": "f", "label": None, "event": "flood"},
    ]
    store.items.delete("item_id", ["f"])  # no part has it any more, the table does
    assert store.query("select distinct event from items").to_pylist() == [{"event": None}]


def test_aliases_of_views_do_not_collide() -> None:
    names = view_names(
        ["items", "features/a-b/image/x", "features/a_b/image/x", "features/9/image/x", "captions/llava"]
    )
    assert names == {
        "items": ["items"],
        "captions/llava": ["captions_llava"],
        "features/9/image/x": ["9/image/x", "_9_image_x"],
        "features/a-b/image/x": ["a-b/image/x", "a_b_image_x"],
        "features/a_b/image/x": ["a_b/image/x"],
    }


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("selec 1", "syntax error"),
        ("select * from itmes", "itmes does not exist.*views here: failures, items, toy/image/pooled"),
        ("select nope from items", "nope"),
        ("select * from 'no.csv'", "no.csv"),
        ("delete from items", "Can only delete"),
        ("select error('planned')", "planned"),
        ("select 1; selec 2", "syntax error"),
    ],
)
def test_what_duckdb_refuses_is_one_line(store: Store, sql: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        store.query(sql)
    assert "\n" not in str(caught.value)


def test_statements_without_rows_and_several_at_once(store: Store) -> None:
    assert store.query("").num_columns == 0
    assert store.query("create table t as select 1 as a; select a from t").to_pylist() == [{"a": 1}]


def test_python_variables_are_no_tables(store: Store) -> None:
    secret = pa.table({"x": [1]})
    with pytest.raises(UsageError, match="secret"):
        store.query("select * from secret")
    assert secret.num_rows == 1


def test_one_damaged_table_does_not_silence_the_others(store: Store) -> None:
    part = store.feature_table("toy/image/pooled").snapshot().files[0]
    part.write_bytes(part.read_bytes()[:40])
    assert store.query("select count(*) as n from items").to_pylist() == [{"n": 5}]
    with pytest.raises(UsageError, match=r"damaged.*features/toy/image/pooled"):
        store.query("select * from toy_image_pooled")


def test_a_quote_in_the_path(tmp_path: Any) -> None:
    store = Store.create(tmp_path / "it's")
    store.items.append(pa.table({"item_id": ["a"], 'la"bel': ["x"]}))
    assert store.query("select * from items").select(['la"bel']).to_pylist() == [{'la"bel': "x"}]


@pytest.mark.parametrize("name", ["a[1]", "a*", "split=train", "what?", "[[]"])
def test_a_folder_named_like_a_pattern_or_a_partition_is_read_as_itself(tmp_path: Any, name: str) -> None:
    """DuckDB reads ``a[1]/x`` as ``a1/x`` where that exists, and makes a column ``split`` of ``split=train``."""
    for folder, item in ((name, "mine"), ("a1", "another's"), ("ab", "another's"), ("whats", "another's")):
        store = Store.open_or_create(tmp_path / folder)
        # Two stores of the same parts, as copies are.
        store.items.upsert(pa.table({"item_id": [item], "split": ["test"]}), key="item_id")
        part = store.items.snapshot().files[0]
        manifest, same = store.items.snapshot(), "part-000002-0123456789ab.parquet"
        replace(manifest, parts=(replace(manifest.parts[0], name=same),)).write()
        part.rename(part.with_name(same))
    rows = Store.open(tmp_path / name).query("select item_id, split from items").to_pylist()
    assert rows == [{"item_id": "mine", "split": "test"}]


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
