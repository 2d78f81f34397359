"""What every kind of index must do; the tests run over the whole registry."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("faiss")

from icehouse.errors import CorruptError, UsageError
from icehouse.store.index import KINDS, Index, find_vectors, index_folder, open_index
from icehouse.store.index_build import build_index
from icehouse.store.search import search_vectors
from icehouse.store.store import Store
from index_stores import IMAGES, TEXTS, add, content, like_embeddings, make

pytestmark = pytest.mark.parametrize("kind", list(KINDS))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    X = like_embeddings(900)
    X[[3, 500]] = 0
    return make(tmp_path_factory.mktemp("index") / "store", X, texts=like_embeddings(80, seed=1)).path


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Store:
    return Store.open(shutil.copytree(made, tmp_path / "store"))


_indexed: dict[str, Path] = {}


@pytest.fixture
def indexed(made: Path, kind: str, tmp_path: Path) -> Store:
    """The same with an index of full recall, which is built once a kind."""
    if kind not in _indexed:
        _indexed[kind] = Path(shutil.copytree(made, made.parent / kind))
        build_index(Store.open(_indexed[kind]), IMAGES, kind=kind, recall=1.0, threads=1)
    return Store.open(shutil.copytree(_indexed[kind], tmp_path / "store"))


def opened(store: Store) -> Index:
    index = open_index(store, IMAGES)
    assert index is not None
    return index


def test_it_reaches_the_recall_asked_for(store: Store, kind: str) -> None:
    info = build_index(store, IMAGES, kind=kind, recall=0.9, threads=1).info
    assert info.kind == kind
    for asked in ("image", "text"):
        assert info.recall[asked]["recall@10"] >= 0.87
        assert info.recall[asked]["queries"] >= 40
    assert (info.effort is None) == (kind == "flat")


def test_more_recall_takes_more_effort(store: Store, kind: str) -> None:
    little = build_index(store, IMAGES, kind=kind, recall=0.3, threads=1).info
    much = build_index(store, IMAGES, kind=kind, recall=1.0, threads=1).info
    assert min(found["recall@10"] for found in much.recall.values()) >= 0.99
    assert (little.effort or 0) <= (much.effort or 0)
    if kind == "ivf":
        assert (little.effort or 0) < (much.effort or 0)


def test_every_vector_finds_itself_and_zeros_are_never_found(indexed: Store, kind: str) -> None:
    index = opened(indexed)
    X = indexed.vectors(IMAGES).X
    _, rows = index.search(X, 5)
    found = (rows[:, :1] == np.arange(len(X))[:, None]).mean()
    assert found >= (1 if kind == "flat" else 0.98) * 898 / 900
    assert not np.isin(rows, [3, 500]).any()
    assert (rows[[3, 500]] == -1).all()
    _, everything = index.search(X[:1], 5000)
    assert len(np.unique(everything[everything >= 0])) == everything[everything >= 0].size <= 898


def test_positions_are_mapped_to_contents(indexed: Store, kind: str) -> None:
    index = opened(indexed)
    assert index.keys().to_pylist() == [content("image", int(row)) for row in index.rows]
    assert len(index) == 898


def test_scores_are_those_of_exact_search(indexed: Store, kind: str) -> None:
    for query in like_embeddings(8, seed=2):
        found = find_vectors(indexed, IMAGES, query, k=10)
        assert found.engine == kind
        exact = {hit.item_id: hit.score for hit in search_vectors(indexed, IMAGES, query, k=900)}
        assert len(found.hits) == 10
        assert all(exact[hit.item_id] == hit.score for hit in found.hits)
        assert find_vectors(indexed, IMAGES, query, k=10, exact=True).engine == "exact"


def test_range_search_misses_few_and_bounds_are_generous(indexed: Store, kind: str) -> None:
    index = opened(indexed)
    X = indexed.vectors(IMAGES).X.astype(np.float64)
    with np.errstate(invalid="ignore"):
        U = X / np.sqrt((X**2).sum(axis=1))[:, None]
        expected = {(i, j) for i, j in zip(*np.nonzero(U[:40] @ U.T >= 0.9), strict=True)}
    limits, scores, rows = index.range_search(X[:40], 0.9)
    owners = np.repeat(np.arange(40), np.diff(limits))
    assert len(scores) == len(rows) == limits[-1]
    assert scores.min() > 0.898
    found = set(zip(owners.tolist(), rows.tolist(), strict=True))
    assert 3 not in owners
    assert len(expected & found) >= (1 if kind == "flat" else 0.95) * len(expected)


def test_new_rows_are_added(store: Store, kind: str) -> None:
    first = build_index(store, IMAGES, kind=kind, recall=1.0, threads=1).info
    more = like_embeddings(100, seed=5)
    add(store, more, start=900)
    assert find_vectors(store, IMAGES, more[7]).engine == "exact"
    built = build_index(store, IMAGES, threads=1)
    assert (built.action, built.info.vectors, built.info.trained) == ("updated", 998, first.trained)
    assert built.info.kind == kind
    assert built.info.wanted == 1.0
    updated = opened(store)
    build_index(store, IMAGES, rebuild=True, threads=1)
    rebuilt = opened(store)
    assert updated.rows.tolist() == rebuilt.rows.tolist()
    for query in more[:20]:
        a, b = (index.search(query, 10)[1][0] for index in (updated, rebuilt))
        assert len(set(a.tolist()) & set(b.tolist())) >= (10 if kind == "flat" else 8)
    assert find_vectors(store, IMAGES, more[7]).hits[0].item_id == "i00907"


def test_removed_rows_make_it_anew(store: Store, kind: str) -> None:
    build_index(store, IMAGES, kind=kind, threads=1)
    store.feature_table(IMAGES).delete("image_sha256", [content("image", 10)])
    found = find_vectors(store, IMAGES, np.ones(16))
    assert (found.engine, "stale" in (found.remark or "")) == ("exact", True)
    built = build_index(store, IMAGES, threads=1)
    assert (built.action, built.info.vectors, built.info.kind) == ("built", 897, kind)
    assert "fewer" in built.reason
    assert content("image", 10) not in opened(store).keys().to_pylist()


def test_nothing_to_do(store: Store, kind: str) -> None:
    first = build_index(store, IMAGES, kind=kind, threads=1)
    again = build_index(store, IMAGES, threads=1)
    assert (first.action, again.action) == ("built", "unchanged")
    assert again.info == first.info
    assert len(list(index_folder(store.path, IMAGES).glob("*.faiss"))) == 1


def test_merged_parts_cost_no_rebuilding(store: Store, kind: str) -> None:
    from icehouse.store.maintain import compact

    add(store, like_embeddings(50, seed=6), start=900)
    build_index(store, IMAGES, kind=kind, threads=1)
    before = store.feature_table(IMAGES).snapshot().digest
    compact(store)
    assert store.feature_table(IMAGES).snapshot().digest != before
    built = build_index(store, IMAGES, threads=1)
    assert (built.action, built.reason) == ("updated", "the same vectors, tuned and measured anew")
    assert find_vectors(store, IMAGES, np.ones(16)).engine == kind


def test_a_filter_narrows_exactly(indexed: Store, kind: str) -> None:
    found = find_vectors(indexed, IMAGES, np.ones(16), k=3, where="item_id in ('i00001', 'i00002', 'i00888')")
    assert found.engine == "exact"
    assert {hit.item_id for hit in found.hits} == {"i00001", "i00002", "i00888"}


def test_contents_without_items_take_no_place(indexed: Store, kind: str) -> None:
    query = like_embeddings(1, seed=8)[0]
    best = [hit.item_id for hit in search_vectors(indexed, IMAGES, query, k=60)]
    indexed.items.delete("item_id", best[:50])
    found = find_vectors(indexed, IMAGES, query, k=5)
    assert len(found.hits) == 5
    assert not set(best[:50]) & {hit.item_id for hit in found.hits}


def test_never_fewer_hits_than_there_are(store: Store, kind: str) -> None:
    build_index(store, IMAGES, kind=kind, recall=0.3, threads=1)
    assert len(find_vectors(store, IMAGES, np.ones(16), k=100).hits) == 100
    everything = find_vectors(store, IMAGES, np.ones(16), k=5000)
    assert len(everything.hits) == 898
    assert everything.engine == ("flat" if kind == "flat" else "exact")


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage", ["cut", "empty", "garbage", "flipped", "gone", "sidecar", "json", "future"]
)
def test_damage_is_noticed_remarked_and_mended(store: Store, kind: str, damage: str) -> None:
    build_index(store, IMAGES, kind=kind, threads=1)
    folder = index_folder(store.path, IMAGES)
    file = next(folder.glob("*.faiss"))
    content = bytearray(file.read_bytes())
    if damage == "cut":
        file.write_bytes(content[:-9])
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "garbage":
        file.write_bytes(b"?" * len(content))
    elif damage == "flipped":
        content[len(content) // 2] ^= 0xFF
        file.write_bytes(content)
    elif damage == "gone":
        file.unlink()
    elif damage == "sidecar":
        next(folder.glob("*.parquet")).write_bytes(b"PAR1")
    elif damage == "json":
        (folder / "index.json").write_text('{"format": 1, "kind": ')
    else:
        (folder / "index.json").write_text('{"format": 99}')
    with pytest.raises(CorruptError):
        open_index(store, IMAGES)
    found = find_vectors(store, IMAGES, np.ones(16))
    assert (found.engine, len(found.hits)) == ("exact", 10)
    assert "cannot be used" in (found.remark or "")
    assert build_index(store, IMAGES, kind=kind, threads=1).action == "built"
    assert find_vectors(store, IMAGES, np.ones(16)).engine == kind


def test_a_copied_store_keeps_its_index(store: Store, kind: str, tmp_path: Path) -> None:
    """Copies have other times of modification; the checksums decide."""
    build_index(store, IMAGES, kind=kind, threads=1)
    shutil.copytree(store.path, tmp_path / "copy", copy_function=shutil.copyfile)
    assert find_vectors(Store.open(tmp_path / "copy"), IMAGES, np.ones(16)).engine == kind


def test_a_query_of_another_width_is_refused(indexed: Store, kind: str) -> None:
    with pytest.raises(UsageError, match="3 dimensions"):
        opened(indexed).search(np.ones(3), 1)
    with pytest.raises(UsageError, match="no direction"):
        find_vectors(indexed, IMAGES, np.zeros(16))


def test_a_gpu_is_used_where_there_is_one(store: Store, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The card is pretended, so this tests the way to it only."""
    import faiss

    copied: list[int] = []

    def to_gpu(resources: object, device: int, index: object) -> object:
        copied.append(device)
        return faiss.clone_index(index)

    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", to_gpu, raising=False)
    monkeypatch.setattr(faiss, "index_gpu_to_cpu", lambda index: index, raising=False)
    build_index(store, IMAGES, kind=kind, recall=1.0, threads=1)
    index = opened(store)
    _, rows = index.search(store.vectors(IMAGES).X[:300], 1)
    assert (rows[:, 0] == np.arange(300)).mean() > 0.95
    assert copied == ([] if not KINDS[kind].on_gpu else [0, 0])


def test_texts_have_indexes_too(store: Store, kind: str) -> None:
    info = build_index(store, TEXTS, kind=kind, threads=1).info
    assert info.key == "text_sha256"
    assert info.recall["image"] is not None
    assert open_index(store, TEXTS).keys()[0].as_py() == content("text", 0)  # type: ignore[union-attr]
