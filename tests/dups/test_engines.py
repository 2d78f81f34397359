"""What finds pairs does not decide which there are: engines agree, and nothing else has a say either."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dup_stores import IMAGES, TEXTS, family_rows, family_store
from icehouse.dups import engines
from icehouse.dups.engines import Faiss, JoinOptions, TemporaryIndex, choose_engine
from icehouse.dups.find import find_duplicates as find
from icehouse.dups.join import RowSet
from icehouse.dups.pair_graph import Duplicates
from icehouse.dups.rule import Rule
from icehouse.errors import UsageError
from icehouse.store.index_build import build_index
from icehouse.store.store import Store

N = 240
MEAN = np.full(16, 1.0)
#: The families of the store are so large that its lists would be withheld.
find_duplicates = partial(find, yes_drop=True)


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return family_rows(N)


@pytest.fixture
def store(tmp_path: Path, rows: list[dict[str, Any]]) -> Store:
    return family_store(tmp_path / "store", rows)


def told(found: Duplicates) -> dict[str, Any]:
    """All that a user gets, but for when and how fast."""
    return {
        "pairs": found.pairs().to_pylist(),
        "clusters": found.clusters().to_pylist(),
        "keep": (found.path / "keep.csv").read_bytes(),
        "drop": (found.path / "drop.csv").read_bytes(),
        "counts": [
            found.summary[name] for name in ("items", "contents", "pairs", "groups", "kept", "dropped")
        ],
    }


def recall_of(found: Duplicates) -> dict[str, Any]:
    known: dict[str, Any] = found.summary["stages"]["embedding"]["recall"]
    return known


@pytest.mark.parametrize(
    "rule", [Rule(cosine=0.97), Rule(cosine=0.95, mean=MEAN, source="mine")], ids=["raw", "centred"]
)
@pytest.mark.parametrize("where", [None, "item_id < 'item 0150'"])
def test_a_flat_index_finds_what_the_exact_join_finds(store: Store, rule: Rule, where: str | None) -> None:
    exact = find_duplicates(store, name="exact", rule=rule, where=where)
    faiss = find_duplicates(store, name="faiss", rule=rule, where=where, engine="faiss", threads=1)
    assert told(faiss) == told(exact)
    assert exact.summary["pairs"]["found_by"]["embedding"] > 50
    known = recall_of(faiss)
    assert (known["recall"], known["found"]) == (1.0, known["pairs"])
    assert known["pairs"] > 50
    assert faiss.summary["parameters"]["engine"] == "faiss"
    assert any("temporary flat index" in note for note in faiss.summary["notes"])
    assert any("recall 1.0000" in note for note in faiss.summary["notes"])
    assert not any("index" in note for note in exact.summary["notes"])


def test_texts_too(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    store = family_store(tmp_path / "store", rows, modality="text")
    exact = find_duplicates(store, name="exact", feature=TEXTS, rule=0.97)
    faiss = find_duplicates(store, name="faiss", feature=TEXTS, rule=0.97, engine="faiss", threads=1)
    assert told(faiss) == told(exact)


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])
def test_a_fresh_index_is_used(store: Store, kind: str) -> None:
    build_index(store, IMAGES, kind=kind, threads=1)
    exact = find_duplicates(store, name="exact", rule=0.97, hamming=None)
    faiss = find_duplicates(store, name="faiss", rule=0.97, hamming=None, engine="faiss", threads=1)
    stage = faiss.summary["stages"]["embedding"]
    assert (stage["index"], stage["temporary"]) == (kind, False)
    pairs = {(p["id_a"], p["id_b"]): p for p in exact.pairs().to_pylist()}
    found = {(p["id_a"], p["id_b"]): p for p in faiss.pairs().to_pylist()}
    assert all(pairs[pair] == same for pair, same in found.items())
    # All rows were sampled, so that the recall told is the recall there is.
    true = faiss.summary["pairs"]["found_by"]["embedding"] / exact.summary["pairs"]["found_by"]["embedding"]
    assert recall_of(faiss)["recall"] == pytest.approx(true, abs=0.02)
    if kind == "flat":
        assert found == pairs
        assert recall_of(faiss)["recall"] == 1


def test_a_centred_rule_never_asks_an_index_of_raw_vectors(store: Store) -> None:
    build_index(store, IMAGES, kind="flat", threads=1)
    rule = Rule(cosine=0.95, mean=MEAN)
    faiss = find_duplicates(store, rule=rule, engine="faiss", threads=1)
    assert faiss.summary["stages"]["embedding"]["temporary"]
    assert any("centred" in note for note in faiss.summary["notes"])


def test_a_stale_index_is_not_used(store: Store, rows: list[dict[str, Any]]) -> None:
    build_index(store, IMAGES, kind="flat", threads=1)
    store.feature_table(IMAGES).delete("image_sha256", [rows[1]["content"]])
    faiss = find_duplicates(store, name="faiss", rule=0.97, engine="faiss", threads=1)
    assert any("stale" in note and "icehouse index build" in note for note in faiss.summary["notes"])
    assert told(faiss) == told(find_duplicates(store, name="exact", rule=0.97))


def test_what_cells_miss_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index that may not look far is told to have missed what it missed."""
    store = family_store(tmp_path / "store", family_rows(600, families=3, spread=0.5))
    monkeypatch.setattr(engines, "choose_kind", lambda *_: "ivf")
    tuned = find_duplicates(store, name="tuned", rule=0.9, hamming=None, engine="faiss", threads=1)
    exact = find_duplicates(store, name="exact", rule=0.9, hamming=None)
    total = exact.summary["pairs"]["found_by"]["embedding"]
    assert recall_of(tuned)["recall"] > 0.95
    assert tuned.summary["stages"]["embedding"]["effort"] >= 1

    monkeypatch.setattr(engines, "_TARGET_RECALL", 0.0)
    blind = find_duplicates(store, name="blind", rule=0.9, hamming=None, engine="faiss", threads=1)
    share = blind.summary["pairs"]["found_by"]["embedding"] / total
    assert share < 0.95
    assert recall_of(blind)["recall"] == pytest.approx(share, abs=0.05)
    assert recall_of(blind)["rows"] < 600
    (told,) = [note for note in blind.summary["notes"] if "recall" in note]
    assert "less than the 0.99 asked for: --engine exact" in told
    assert blind.summary["stages"]["embedding"]["wanted"] == 0.99


def test_where_no_row_has_a_pair_recall_is_unknown(store: Store) -> None:
    faiss = find_duplicates(store, rule=1.0, engine="faiss", hamming=None, threads=1)
    assert recall_of(faiss)["recall"] is None
    assert any("recall is unknown" in note for note in faiss.summary["notes"])


def test_a_sample_is_enough(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_SAMPLE", 20)
    faiss = find_duplicates(store, rule=0.97, engine="faiss", threads=1)
    assert recall_of(faiss)["rows"] == 20
    assert recall_of(faiss)["recall"] == 1


@pytest.mark.parametrize("max_pairs", [1, 40, 500])
def test_a_cap_stops_both_alike(tmp_path: Path, max_pairs: int) -> None:
    store = family_store(tmp_path / "store", family_rows(200, families=2, spread=0.01))
    runs = [
        find_duplicates(
            store, name=engine, rule=0.97, hamming=None, max_pairs=max_pairs, engine=engine, threads=1
        )
        for engine in ("exact", "faiss")
    ]
    assert runs[0].summary["capped"]
    assert runs[1].summary["groups"]["complete"] == runs[0].summary["groups"]["complete"]
    assert told(runs[1]) == told(runs[0])


def test_a_block_with_too_much_is_followed_by_smaller_ones(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "_MAX_FOUND", 1)
    exact = find_duplicates(store, name="exact", rule=0.97)
    assert told(find_duplicates(store, name="faiss", rule=0.97, engine="faiss", threads=1)) == told(exact)


def test_rows_without_a_direction_are_not_found() -> None:
    X = np.ones((6, 4), np.float32)
    X[2], X[4] = 0, np.nan
    index = TemporaryIndex(RowSet.of(X).measure(), threads=1)
    limits, _, found = index.range_search(np.full((1, 4), 0.5), 0.9, threads=1)
    assert found[limits[0] : limits[1]].tolist() == [0, 1, 3, 5]


def test_a_gpu_is_said_to_be_of_no_use(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    import faiss

    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(engines, "to_gpu", lambda *_: None)
    vectors = store.vectors(IMAGES)
    measured = RowSet.of(vectors.X).measure()
    engine = choose_engine(store, IMAGES, measured, np.arange(len(measured)), vectors, threads=1)
    assert isinstance(engine, Faiss)
    assert any("GPU" in note for note in engine.notes)


def test_an_engine_there_is_not(store: Store) -> None:
    with pytest.raises(UsageError, match="exact, faiss"):
        find_duplicates(store, engine="annoy")


@pytest.mark.parametrize("least", [0.3, -0.5])
def test_few_rows_against_all_find_what_the_join_finds(least: float, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    X = rng.standard_normal((9000, 24)).astype(np.float32)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    X[[5, 4100]] = 0
    X[20], X[30] = X[8000], 3 * X[31]
    rows, asked = RowSet.of(X, np.zeros(24)).measure(), rng.uniform(least, 0.9, len(X))
    some = np.unique(np.append(rng.permutation(len(X))[:40], [5, 20]))
    found, stats = engines.pairs_of(rows, some, asked, JoinOptions(10_000_000, 1))
    monkeypatch.setattr(engines, "_FEW_ROWS", 0)
    wanted, joined = engines.pairs_of(rows, some, asked, JoinOptions(10_000_000, 1))
    assert (found.i.tolist(), found.j.tolist()) == (wanted.i.tolist(), wanted.j.tolist())
    assert np.array_equal(found.cosine, wanted.cosine)
    assert {5, 4100}.isdisjoint(found.i.tolist() + found.j.tolist())
    assert (20, 8000) in set(zip(found.i.tolist(), found.j.tolist(), strict=True))
    assert (stats.pairs, stats.unusable) == (joined.pairs, 2)
    # Of far too many pairs no more are held than were asked for.
    monkeypatch.setattr(engines, "_FEW_ROWS", 1000)
    capped, _ = engines.pairs_of(rows, some, asked, JoinOptions(100, 1))
    assert len(capped) == 100
