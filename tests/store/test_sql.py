"""SQL over a store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
from icehouse.errors import UsageError
from icehouse.store.schema import features_schema
from icehouse.store.sql import view_names
from icehouse.store.store import Store


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
