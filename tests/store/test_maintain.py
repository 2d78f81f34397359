"""What `verify` finds, what `compact` changes, what `info` counts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from icehouse.store.maintain import compact, coverage, describe, verify
from icehouse.store.schema import ROW_GROUP, features_schema
from icehouse.store.store import Store
from icehouse.store.table import Table
from icehouse.store.vectors import vectors_to_arrow

NAME = "toy/image/pooled"
FEATURE = f"features/{NAME}"


@pytest.fixture
def whole(store: Store) -> Store:
    """A store in which nothing is missing: the image of e failed, which explains it."""
    store.failures.append(pa.table({"item_id": ["e"], "stage": ["decode"], "error": ["ImageError"]}))
    return store


def kinds(store: Store) -> dict[str, bool]:
    return {f"{found.table}: {found.kind}": found.problem for found in verify(store).findings}


def test_a_whole_store_is_sound(whole: Store) -> None:
    report = verify(whole)
    assert report.ok
    assert report.findings == []
    assert (report.tables, report.parts) == (3, 3)


def first_part(store: Store, name: str = FEATURE) -> Path:
    return store.table(name).snapshot().files[0]


def flip(store: Store) -> None:
    path = first_part(store)
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)


def cut(store: Store) -> None:
    first_part(store).write_bytes(first_part(store).read_bytes()[:-20])


def miscount(store: Store) -> None:
    manifest = first_part(store).parent / "_manifest.json"
    content = json.loads(manifest.read_text())
    content["parts"][0]["rows"] += 1
    del content["sha256"]
    manifest.write_text(json.dumps(content))


def double(store: Store) -> None:
    store.table(FEATURE).append(store.table(FEATURE).read())


@pytest.mark.parametrize(
    ("harm", "finding"),
    [
        (flip, "checksum"),
        (cut, "checksum"),
        (lambda store: first_part(store).unlink(), "missing part"),
        (miscount, "rows"),
        (double, "duplicates"),
        (lambda store: (first_part(store).parent / "_manifest.json").write_text("{}"), "manifest"),
        (lambda store: first_part(store, "items").write_bytes(b"gone"), None),
    ],
    ids=["flip", "cut", "unlink", "miscount", "double", "manifest", "items"],
)
def test_harm_is_found(whole: Store, harm: Callable[[Store], None], finding: str | None) -> None:
    harm(whole)
    report = verify(whole)
    assert not report.ok
    expected = "items: checksum" if finding is None else f"{FEATURE}: {finding}"
    assert kinds(whole).get(expected) is True


def test_a_part_of_another_type_is_found(whole: Store) -> None:
    path = first_part(whole, "failures")
    pq.write_table(pa.table({"item_id": [1], "odd": [2]}), path)
    details = [found.detail for found in verify(whole).findings if found.kind == "schema"]
    assert len(details) == 2
    assert any("'item_id' is int64" in detail for detail in details)


def test_missing_features_are_a_problem_and_unused_ones_are_not(store: Store) -> None:
    assert kinds(store) == {f"{FEATURE}: missing features": True}
    assert "e; `icehouse embed`" in verify(store).findings[0].detail
    store.items.upsert(pa.table({"item_id": ["e"], "missing": [True]}), key="item_id")
    store.items.delete("item_id", ["b"])
    assert kinds(store) == {f"{FEATURE}: unused features": False}
    assert verify(store).ok


def test_a_failure_explains_only_its_own_encoder(store: Store, spec: Callable[..., dict[str, Any]]) -> None:
    other = spec(name="other", encoder="other:x", fingerprint="ff")
    store.ensure_feature_table("other/image/pooled", other, features_schema("image", "pooled", 4))
    store.failures.append(pa.table({"item_id": ["e"], "stage": ["encode"], "encoder": ["toy"]}))
    missing = {cover.feature: cover.missing for cover in coverage(store)}
    assert missing == {NAME: [], "other/image/pooled": ["a", "b", "c", "e"]}


def test_orphans_and_leftovers_are_told_and_swept(whole: Store) -> None:
    folder = whole.items.path
    (folder / "part-000001-000000000000.parquet").write_bytes(b"x")
    from icehouse.store import files

    (folder / f".tmp-{files._WHERE}-{2**22 + 5}-{'0' * 32}.json").write_bytes(b"x")
    assert kinds(whole) == {"items: orphan": False, "items: leftover": False}
    assert verify(whole).ok
    assert {done.table: done.swept for done in compact(whole)} == {"failures": 0, FEATURE: 0, "items": 2}
    assert kinds(whole) == {}


def test_compaction_keeps_rows_order_and_digest_of_contents(whole: Store) -> None:
    table = whole.table(FEATURE)
    rng = np.random.default_rng(0)
    for i in range(6):
        keys = [f"{i:032x}{j:032x}" for j in range(5)]
        X = rng.standard_normal((5, 4)).astype(np.float32)
        table.append(pa.table({"image_sha256": keys, "vector": vectors_to_arrow(X)}), unique="image_sha256")
    before = table.read()
    features = whole.features(NAME)
    done = {entry.table: entry for entry in compact(whole)}
    assert (done[FEATURE].before, done[FEATURE].after) == (7, 1)
    assert done["items"].before == done["items"].after == 1
    assert table.read().equals(before)
    assert np.array_equal(whole.features(NAME).X, features.X)
    assert verify(whole).ok
    assert compact(whole)[0].after == 1  # nothing left to do


def test_compaction_leaves_large_parts_alone(tmp_path: Path) -> None:
    from icehouse.store.maintain import _compact_table

    table = Table.create(tmp_path / "t", pa.schema([pa.field("k", pa.string())]), {})
    for n in (1, 1, 5000, 1, 1):
        table.append(pa.table({"k": [f"{np.random.default_rng(i).bytes(20).hex()}" for i in range(n)]}))
    small, large = table.snapshot().parts[0].bytes, table.snapshot().parts[2]
    _compact_table(table, "t", 3 * small)
    parts = table.snapshot().parts
    assert [part.rows for part in parts] == [2, 5000, 2]
    assert parts[1] == large


def test_merged_vectors_lie_in_whole_row_groups(tmp_path: Path) -> None:
    from icehouse.store.maintain import _compact_table

    table = Table.create(tmp_path / "t", features_schema("image", "pooled", 1), {})
    for start in (0, ROW_GROUP - 7):
        X = np.zeros((ROW_GROUP - 7, 1), np.float32)
        keys = [f"{i:x}" for i in range(start, start + len(X))]
        table.append(pa.table({"image_sha256": keys, "vector": vectors_to_arrow(X)}))
    _compact_table(table, "t", 1 << 30)
    meta = pq.read_metadata(table.snapshot().files[0])
    assert [meta.row_group(i).num_rows for i in range(meta.num_row_groups)] == [ROW_GROUP, ROW_GROUP - 14]


def test_info_counts(whole: Store) -> None:
    about = describe(whole)
    assert about["items"] == {"total": 5, "image": 4, "text": 0, "missing": 0}
    assert about["splits"] == {"test": 2, "train": 2}
    assert about["labels"] == {"label": {"distinct": 2, "none": 1, "counts": {"cat": 2, "dog": 2}}}
    assert about["failures"] == {"total": 1, "by_error": {"ImageError": 1}}
    assert about["tables"] == {"failures": 1, "items": 5}
    (feature,) = about["features"]
    assert (feature["name"], feature["rows"], feature["dim"], feature["missing"], feature["unused"]) == (
        NAME,
        2,
        4,
        0,
        0,
    )
    assert about["bytes"]["tables"] > 0
    json.dumps(about)
