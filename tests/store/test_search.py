"""Exact search against brute force, on friendly and hostile vectors."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from icehouse.errors import StoreError, UsageError
from icehouse.store import search as module
from icehouse.store.schema import features_schema
from icehouse.store.search import nearest, search_item, search_vectors
from icehouse.store.store import Store
from icehouse.store.vectors import vectors_to_arrow

DIM = 3
SPEC = {
    **dict.fromkeys(("encoder", "name"), "toy"),
    "modality": "image",
    "output": "joint",
    "dim": DIM,
    "dtype": "float16",
    "key": "image_sha256",
    "provenance": {},
    "fingerprint": "0" * 16,
}


def brute_force(X: np.ndarray, query: np.ndarray, k: int) -> tuple[list[float], list[int]]:
    """Cosines one by one in float64, equal ones by row."""
    scored = []
    for row, vector in enumerate(X.astype(np.float64)):
        length = np.sqrt((vector**2).sum())
        if np.isfinite(length) and length > 0:
            scored.append((-float((vector / length) @ query / np.sqrt(query @ query)), row))
    scored.sort()
    return [-score for score, _ in scored[:k]], [row for _, row in scored[:k]]


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_agrees_with_brute_force_across_blocks(dtype: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK", 64)
    rng = np.random.default_rng(0)
    X = rng.standard_normal((1000, 24)).astype(dtype)
    for query in rng.standard_normal((5, 24)):
        scores, rows = nearest(X, query, 17)
        expected_scores, expected_rows = brute_force(X, query, 17)
        assert rows[0].tolist() == expected_rows
        np.testing.assert_allclose(scores[0], expected_scores, atol=1e-12)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 40),
    st.integers(1, 50),
    st.sampled_from([1, 3, 7, 8192]),
)
def test_adversarial_sets(seed: int, n: int, k: int, block: int) -> None:
    """Few distinct values make ties the rule; some rows are zero, infinite or not a number."""
    rng = np.random.default_rng(seed)
    X = rng.integers(-1, 2, (n, DIM)).astype(np.float32)
    X[rng.random(n) < 0.1] = np.nan
    X[rng.random(n) < 0.1] = np.inf
    query = np.array([1.0, 2.0, -1.0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK", block)
        scores, rows = nearest(X, query, k)
    expected_scores, expected_rows = brute_force(X, query, k)
    found = len(expected_rows)
    np.testing.assert_allclose(scores[0, :found], expected_scores, atol=1e-12)
    assert np.isnan(scores[0, found:]).all()
    assert (rows[0, found:] == -1).all()
    # Rows with equal cosines may differ in the last bit of brute force's own sum; ranks must agree up to that.
    assert sorted(rows[0, :found].tolist()) == sorted(set(rows[0, :found].tolist()))
    exact = {row: score for score, row in zip(*brute_force(X, query, n), strict=True)}
    for row, score in zip(rows[0, :found], scores[0, :found], strict=True):
        assert exact[int(row)] == pytest.approx(score, abs=1e-12)


def test_equal_vectors_have_equal_scores_and_the_lower_row_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK", 5)
    X = np.tile(np.random.default_rng(1).standard_normal(37).astype(np.float16), (23, 1))
    scores, rows = nearest(X, np.random.default_rng(2).standard_normal(37), 9)
    assert rows[0].tolist() == list(range(9))
    assert len(set(scores[0].tolist())) == 1


def test_scale_does_not_matter() -> None:
    X = np.array([[1, 0, 0], [1e-30, 1e-30, 0], [0, 1e30, 0], [0, 0, -1e-20]], np.float32)
    scores, rows = nearest(X, np.array([0, 1e-200, 0]), 4)
    assert rows[0].tolist() == [2, 1, 0, 3]
    np.testing.assert_allclose(scores[0], [1, np.sqrt(0.5), 0, 0], atol=1e-7)


def test_only_the_rows_asked_for() -> None:
    X = np.eye(4, dtype=np.float16)
    _, rows = nearest(X, np.array([4, 3, 2, 1.0]), 3, rows=np.array([3, 1]))
    assert rows[0].tolist() == [1, 3, -1]


def test_a_mapped_array_is_not_copied_whole(tmp_path) -> None:
    import tracemalloc

    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((60_000, 64)).astype(np.float16))
    X = np.load(tmp_path / "x.npy", mmap_mode="r")
    tracemalloc.start()
    nearest(X, np.ones(64), 5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60_000 * 64 * 4 * 0.75


@pytest.mark.parametrize(
    ("query", "message"), [([0, 0, 0], "zero"), ([np.nan, 0, 1], "finite"), ([1, 2], "2 dimensions")]
)
def test_a_query_without_direction_is_refused(query: list[float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        nearest(np.eye(3, dtype=np.float16), np.array(query), 1)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture
def gallery(tmp_path) -> Store:
    """Items p to u: q copies p, r equals p's vector in another content, s has no image, u's vector is zero."""
    store = Store.create(tmp_path / "gallery")
    contents = {"p": "p", "q": "p", "r": "r", "s": None, "t": "t", "u": "u"}
    store.items.append(
        pa.table(
            {
                "item_id": list(contents),
                "path": [f"{c}.jpg" if c else None for c in contents.values()],
                "root": ["/photos" if c else None for c in contents.values()],
                "text": ["one", None, "three", "four", "five", "six"],
                "image_sha256": [digest(c) if c else None for c in contents.values()],
                "split": ["train", "train", "test", "test", "test", None],
                "label": ["cat", "cat", None, "dog", "dog", "cat"],
            }
        ),
        unique="item_id",
    )
    schema = features_schema("image", "joint", DIM)
    X = np.array([[1, 0, 0], [1, 0, 0], [0.6, 0.8, 0], [0, 0, 0], [1, 0, 0]], np.float32)
    rows = {"image_sha256": [digest(c) for c in ("p", "r", "t", "u", "gone")], "vector": vectors_to_arrow(X)}
    store.ensure_feature_table("toy/image/joint", SPEC, schema).append(pa.table(rows, schema=schema))
    return store


def ids(hits: list) -> list[str]:
    return [hit.item_id for hit in hits]


def test_every_copy_is_a_hit_and_ties_go_by_id(gallery: Store) -> None:
    hits = search_vectors(gallery, "toy/image/joint", np.array([2, 0, 0]))
    assert ids(hits) == ["p", "q", "r", "t"]
    assert [hit.rank for hit in hits] == [1, 2, 3, 4]
    assert hits[0].score == hits[2].score == 1.0
    assert hits[3].score == pytest.approx(0.6, abs=1e-3)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_contents_without_an_item_take_no_place(gallery: Store, k: int) -> None:
    assert (
        ids(search_vectors(gallery, "toy/image/joint", np.array([1, 0, 0]), k=k)) == ["p", "q", "r", "t"][:k]
    )


def test_where_narrows_before_ranking(gallery: Store) -> None:
    query = np.array([1, 0, 0])
    assert ids(search_vectors(gallery, "toy/image/joint", query, k=1, where="split = 'test'")) == ["r"]
    assert ids(search_vectors(gallery, "toy/image/joint", query, where="label = 'dog'")) == ["t"]
    assert search_vectors(gallery, "toy/image/joint", query, where="false") == []
    with pytest.raises(UsageError, match="colour"):
        search_vectors(gallery, "toy/image/joint", query, where="colour = 'red'")


def test_an_item_finds_its_copies_but_not_itself(gallery: Store) -> None:
    assert ids(search_item(gallery, "toy/image/joint", "q", k=2)) == ["p", "r"]
    assert ids(search_item(gallery, "toy/image/joint", "t", where="split = 'test'")) == ["r"]


@pytest.mark.parametrize(
    ("item", "message"), [("zz", "no item 'zz'"), ("s", "'s' has no toy"), ("u", "direction")]
)
def test_items_that_cannot_ask(gallery: Store, item: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        search_item(gallery, "toy/image/joint", item)


def test_unknown_feature(gallery: Store) -> None:
    with pytest.raises(StoreError, match="toy/image/joint"):
        search_vectors(gallery, "toy/text/joint", np.ones(DIM))


def test_hits_as_json(gallery: Store) -> None:
    (hit,) = search_vectors(gallery, "toy/image/joint", np.array([0, 1, 0]), k=1)
    plain = json.loads(json.dumps(hit.as_dict()))
    assert list(plain)[:4] == ["item_id", "path", "text", "score"]
    assert (plain["item_id"], plain["path"], plain["text"]) == ("t", "t.jpg", "five")
    assert plain["score"] == pytest.approx(0.8, abs=1e-3)
    assert plain["labels"] == {"label": "dog"}
    assert str(hit.file) == "/photos/t.jpg"


def test_an_empty_store(tmp_path) -> None:
    store = Store.create(tmp_path / "empty")
    store.ensure_feature_table("toy/image/joint", SPEC, features_schema("image", "joint", DIM))
    assert search_vectors(store, "toy/image/joint", np.ones(DIM)) == []
