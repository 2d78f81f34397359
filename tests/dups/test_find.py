"""Found duplicates: the pairs are those of comparing everything, and every file says the same."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from galleries import csv_rows, filled
from icehouse.dups import find as find_module
from icehouse.dups import pairs as pairs_module
from icehouse.dups.engines import JoinOptions
from icehouse.dups.find import find_duplicates
from icehouse.dups.join import RowSet, pair_cosines
from icehouse.dups.pair_graph import Duplicates, default_feature, list_duplicates
from icehouse.dups.pairs import Contents, PairSearch
from icehouse.dups.results import KINDS, STAGES
from icehouse.dups.rule import Rule
from icehouse.errors import StoreError, UsageError
from icehouse.store.store import Store

DIM = 8


def made_items(n: int = 60, seed: int = 0) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Items of which some are copies, some near by hash, some by vector, some by both; and a vector for most contents."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((8, DIM)).astype(np.float32)
    hashes = [int(h) for h in rng.integers(0, 2**63, 8, dtype=np.uint64)]
    items, vectors = [], {}
    for k in range(n):
        content = f"{k:064d}" if k % 5 or not k else f"{int(rng.integers(k)):064d}"
        if content not in vectors:
            vectors[content] = centres[rng.integers(8)] + 0.25 * rng.standard_normal(DIM).astype(np.float32)
        flips = sum(1 << int(bit) for bit in set(rng.integers(0, 64, rng.integers(0, 8)).tolist()))
        size = int(rng.integers(10, 40))
        items.append(
            {
                "item_id": f"item-{rng.permutation(n)[0]:02d}-{k:03d}", "path": f"{k}.jpg", "root": "/data",
                "image_sha256": content, "width": size, "height": size, "format": "JPEG",
                "bytes": int(rng.integers(100, 900)), "mtime_ns": k, "phash": hashes[rng.integers(8)] ^ flips,
                "missing": False,
            }
        )  # fmt: skip
    # Facts of a content are facts of its bytes, so copies share them; one content has no image facts at all.
    items[3].update(phash=None)
    first: dict[str, dict[str, Any]] = {}
    for item in items:
        same = first.setdefault(item["image_sha256"], item)
        item.update({name: same[name] for name in ("phash", "width", "height", "bytes")})
    items[4].update(image_sha256=None, path=None, root=None, phash=None)
    items[7].update(missing=True)
    del vectors[items[9]["image_sha256"]]
    return items, vectors


def cosine(u: np.ndarray, v: np.ndarray) -> float:
    a, b = u.astype(np.float64), v.astype(np.float64)
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def brute_force(
    items: list[dict[str, Any]], vectors: dict[str, np.ndarray], radius: int, least: float
) -> dict[tuple[str, str], tuple[bool, bool, bool]]:
    """For every two items that a stage finds: which do."""
    found = {}
    alive = [item for item in items if item["image_sha256"] and not item["missing"]]
    for x, y in itertools.combinations(alive, 2):
        a, b = x["image_sha256"], y["image_sha256"]
        hashed = x["phash"] is not None and y["phash"] is not None
        flags = (
            a == b,
            hashed and (x["phash"] ^ y["phash"]).bit_count() <= radius,
            a in vectors and b in vectors and (a == b or cosine(vectors[a], vectors[b]) >= least),
        )
        if any(flags):
            found[tuple(sorted((x["item_id"], y["item_id"])))] = flags
    return found  # type: ignore[return-value]


def expanded(found: Duplicates) -> dict[tuple[str, str], tuple[bool, bool, bool]]:
    """Pairs of a result with those of copies filled in from what clusters say."""
    clusters = found.clusters()
    best = {r["item_id"]: r["copy_of"] or r["item_id"] for r in clusters.to_pylist()}
    alike: dict[str, list[str]] = {}
    for item, leader in best.items():
        alike.setdefault(leader, []).append(item)
    pairs: dict[tuple[str, str], tuple[bool, bool, bool]] = {}
    for row in found.pairs().to_pylist():
        flags = (row["exact"], row["perceptual"], row["embedding"])
        left, right = (best.get(row[side], row[side]) for side in ("id_a", "id_b"))
        sides = (
            itertools.combinations(alike[left], 2)
            if left == right
            else itertools.product(alike.get(left, [left]), alike.get(right, [right]))
        )
        pairs |= {tuple(sorted(pair)): flags for pair in sides}  # type: ignore[misc]
    return pairs


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("radius", "least"), [(6, 0.95), (10, 0.8), (0, 1.0)])
def test_pairs_are_those_of_comparing_everything(
    tmp_path: Path, seed: int, radius: int, least: float
) -> None:
    items, vectors = made_items(seed=seed)
    store = filled(tmp_path / "s", items, vectors)
    found = find_duplicates(store, hamming=radius, rule=least, threads=1)
    assert expanded(found) == brute_force(items, vectors, radius, least)
    by_id = {item["item_id"]: item for item in items}
    for row in found.pairs().to_pylist():
        a, b = by_id[row["id_a"]], by_id[row["id_b"]]
        assert row["id_a"] < row["id_b"]
        assert row["kind"] == next(kind for kind in KINDS if row[kind])
        known = a["phash"] is not None and b["phash"] is not None
        assert row["hamming"] == ((a["phash"] ^ b["phash"]).bit_count() if known else None)
        ends = [vectors.get(item["image_sha256"]) for item in (a, b)]
        if any(end is None for end in ends):
            assert row["cosine"] is None
        else:
            assert row["cosine"] == pytest.approx(cosine(*ends))  # type: ignore[arg-type]
    summary = found.summary["pairs"]
    assert summary["by_kind"] == {k: found.pairs()["kind"].to_pylist().count(k) for k in KINDS}
    assert summary["found_by"] == {k: sum(found.pairs()[k].to_pylist()) for k in STAGES}


@pytest.mark.parametrize("grouping", ["star", "components", "cliques"])
@pytest.mark.parametrize("keeper", ["best", "largest", "oldest", "bytes:desc"])
def test_results_do_not_depend_on_the_order_of_items(tmp_path: Path, grouping: str, keeper: str) -> None:
    items, vectors = made_items(seed=5)
    results = []
    for k in range(2):
        rng = np.random.default_rng(k)
        shuffled = [items[p] for p in rng.permutation(len(items))]
        keys = list(vectors)
        mixed = {keys[p]: vectors[keys[p]] for p in rng.permutation(len(keys))}
        store = filled(tmp_path / f"s{k}", shuffled, mixed)
        found = find_duplicates(store, rule=0.9, grouping_by=grouping, keeper=keeper, threads=1 + k % 2)
        lists = [(found.path / name).read_text() for name in ("keep.csv", "drop.csv")]
        results.append((found.pairs(), found.clusters(), lists))
    assert results[0] == results[1]


def test_clusters_and_lists_agree(tmp_path: Path) -> None:
    items, vectors = made_items(seed=2)
    found = find_duplicates(filled(tmp_path / "s", items, vectors), rule=0.9, hamming=8)
    clusters = found.clusters().to_pylist()
    groups: dict[int, list[dict[str, Any]]] = {}
    for row in clusters:
        groups.setdefault(row["group"], []).append(row)
    pairs = expanded(found)
    for rows in groups.values():
        assert [row["keeper"] for row in rows] == [True] + [False] * (len(rows) - 1)
        assert all(row["size"] == len(rows) >= 2 for row in rows)
        for row in rows[1:]:
            pair = tuple(sorted((row["item_id"], rows[0]["item_id"])))
            assert row["kind"] == next(kind for kind, flag in zip(KINDS, pairs[pair], strict=True) if flag)
        known = [row["cosine"] for row in rows if row["cosine"] is not None]
        if known:
            assert rows[0]["min_cosine"] <= min(known) + 1e-9
    keep, drop = (csv_rows(found.path / name) for name in ("keep.csv", "drop.csv"))
    alive = {item["item_id"] for item in items if not item["missing"]}
    assert {r["item_id"] for r in keep} | {r["item_id"] for r in drop} == alive
    assert len(keep) + len(drop) == len(alive)
    assert {r["item_id"] for r in drop} == {r["item_id"] for r in clusters if not r["keeper"]}
    assert {r["keeper"] for r in drop} <= {r["item_id"] for r in keep}
    paths = {item["item_id"]: item["path"] for item in items}
    assert all(r["file"] == f"/data/{paths[r['item_id']]}" for r in drop)
    assert not list(found.path.parent.glob(".tmp*"))
    assert not (found.path / "vectors.npy").exists()


def on_an_arc(degrees: list[float]) -> np.ndarray:
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def contents_on_an_arc(degrees: list[float], least: float) -> Contents:
    n = len(degrees)
    X = on_an_arc(degrees)
    return Contents(np.zeros(n, np.uint64), np.zeros(n, bool), Rule(cosine=least), X, np.arange(n))


def test_a_chain_is_flagged_and_a_star_is_not() -> None:
    least = float(np.cos(np.radians(10)))
    star = contents_on_an_arc([0, 9, -9], least).spread(np.arange(3))
    assert star.min_cosine == pytest.approx(np.cos(np.radians(18)))
    assert not star.chained
    chain = contents_on_an_arc([0, 9, 18, 27], least).spread(np.arange(4))
    assert chain.chained
    assert chain.max_hamming is None


def test_of_a_giant_group_the_least_alike_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs_module, "SPREAD_MEMBERS", 8)
    contents = contents_on_an_arc([0, *np.linspace(-1, 1, 50), 40, -40], 0.99)
    spread = contents.spread(np.arange(len(contents)))
    assert spread.sampled
    assert spread.min_cosine == pytest.approx(np.cos(np.radians(80)))
    assert spread.chained


def test_a_cap_keeps_the_pairs_of_the_best_and_says_so(tmp_path: Path) -> None:
    n = 40
    items = [
        {"item_id": f"{k:02d}", "image_sha256": f"{k:064d}", "phash": 0xB2CDCD3232CDCD30, "width": 100 - k,
         "height": 10, "missing": False}
        for k in range(n)
    ]  # fmt: skip
    rng = np.random.default_rng(0)
    vectors = {
        f"{k:064d}": np.ones(DIM, np.float32) + rng.normal(0, 0.01, DIM).astype(np.float32) for k in range(n)
    }
    store = filled(tmp_path / "s", items, vectors)
    whole = find_duplicates(store, rule=0.9, keeper="largest", name="whole")
    assert whole.summary["pairs"]["total"] == n * (n - 1) // 2
    assert not whole.summary["capped"]
    capped = find_duplicates(store, rule=0.9, keeper="largest", name="capped", max_pairs=100)
    assert capped.summary["capped"]
    assert capped.summary["complete_contents"] == 2
    assert any("100 pairs" in note for note in capped.summary["notes"])
    assert capped.pairs() == whole.pairs()[:100]
    # One group all the same, since the best keeper has all its pairs.
    assert capped.clusters()["item_id"].to_pylist() == whole.clusters()["item_id"].to_pylist()
    assert find_duplicates(store, rule=0.9, name="just", max_pairs=780).summary["capped"] is False
    assert list_duplicates(store) == ["capped", "just", "whole"]


@pytest.mark.parametrize("max_pairs", [5, 20, 60])
@pytest.mark.parametrize("seed", [1, 6])
def test_stars_are_whole_whatever_the_cap(tmp_path: Path, max_pairs: int, seed: int) -> None:
    items, vectors = made_items(n=60, seed=seed)
    store = filled(tmp_path / "s", items, vectors)
    whole = find_duplicates(store, rule=0.85, name="whole")
    capped = find_duplicates(store, rule=0.85, name="capped", max_pairs=max_pairs)
    assert capped.summary["capped"]
    assert capped.summary["groups"]["complete"]
    assert capped.clusters() == whole.clusters()
    assert not list(capped.path.glob("*.npy"))
    chained = find_duplicates(store, rule=0.85, grouping_by="components", max_pairs=max_pairs)
    assert not chained.summary["groups"]["complete"]
    assert any("may lack members" in note for note in chained.summary["notes"])


def test_copies_make_a_star_of_pairs(tmp_path: Path) -> None:
    items = [
        {"item_id": f"{k:03d}", "image_sha256": "a" * 64, "phash": 5, "missing": False} for k in range(50)
    ]
    found = find_duplicates(filled(tmp_path / "s", items, {}))
    assert found.summary["pairs"]["by_kind"] == {
        "exact": 49,
        "perceptual": 0,
        "embedding": 0,
        "variant": 0,
        "container": 0,
    }
    assert found.summary["pairs"]["between_copies"] == 1225
    assert found.summary["groups"]["largest"] == 50
    assert set(found.pairs()["id_a"].to_pylist()) == {"000"}


def test_flat_images_are_left_to_the_other_stages(tmp_path: Path) -> None:
    flat = [
        {"item_id": f"{k}", "image_sha256": f"{k:064d}", "phash": 1 << 63, "missing": False} for k in range(6)
    ]
    found = find_duplicates(filled(tmp_path / "s", flat, {}))
    assert found.summary["pairs"]["total"] == 0
    assert any("6 of 6 perceptual hashes say nothing" in note for note in found.summary["notes"])


def test_texts_are_compared_by_their_own_content(tmp_path: Path) -> None:
    texts = [("a", "help", "1"), ("b", "help!", "2"), ("c", "help", "1"), ("d", "sun", "3")]
    items = [
        {"item_id": i, "text": t, "text_sha256": s, "image_sha256": "f" * 64, "phash": 77, "missing": False}
        for i, t, s in texts
    ]
    vectors = {
        "1": np.ones(DIM, np.float32),
        "2": np.full(DIM, 2, np.float32),
        "3": np.eye(DIM, dtype=np.float32)[0],
    }
    store = filled(tmp_path / "s", items, vectors, modality="text")
    assert default_feature(store) == "toy/text/pooled"
    rows = find_duplicates(store, keeper="oldest").pairs().to_pylist()
    assert [(r["id_a"], r["id_b"], r["kind"]) for r in rows] == [("a", "c", "exact"), ("a", "b", "embedding")]
    assert all(r["hamming"] is None for r in rows)


def test_a_mean_moves_the_cosine() -> None:
    X = on_an_arc([0, 60]) + 10
    alike = Contents(np.zeros(2, np.uint64), np.zeros(2, bool), Rule(cosine=0.9), X, np.arange(2))
    assert sum(map(len, PairSearch(alike, JoinOptions(10)))) == 1
    centred = Rule(cosine=0.9, mean=np.array([10.0, 10.0]))
    apart = Contents(np.zeros(2, np.uint64), np.zeros(2, bool), centred, X, np.arange(2))
    assert sum(map(len, PairSearch(apart, JoinOptions(10)))) == 0


def test_where_and_a_second_search_of_the_same_name(tmp_path: Path) -> None:
    items, vectors = made_items(seed=1)
    store = filled(tmp_path / "s", items, vectors)
    first = find_duplicates(store, rule=0.9)
    second = find_duplicates(store, rule=0.9, where="mtime_ns < 20")
    assert second.path == first.path
    assert second.summary["items"] == 19
    assert Duplicates.open(store).summary == second.summary
    assert (
        json.loads((second.path / "summary.json").read_text())["parameters"]["fingerprint"]
        == "0123456789abcdef"
    )


def test_wrong_arguments(tmp_path: Path) -> None:
    items, vectors = made_items(n=12)
    store = filled(tmp_path / "s", items, vectors)
    for arguments, says in [
        ({"rule": 1.5}, "cosine"),
        ({"hamming": 99}, "Hamming"),
        ({"max_pairs": 0}, "cap"),
        ({"grouping_by": "louvain"}, "star"),
        ({"keeper": "beauty"}, "beauty"),
        ({"name": "../up"}, "name"),
        ({"feature": None, "rule": 0.9}, "feature"),
    ]:
        with pytest.raises(UsageError, match=says):
            find_duplicates(store, **arguments)  # type: ignore[arg-type]
    with pytest.raises(StoreError, match="toy/image/pooled"):
        find_duplicates(store, feature="no/such/thing")
    with pytest.raises(StoreError, match="dups find"):
        Duplicates.open(store)
    assert list_duplicates(store) == []
    assert not any((store.path / "dups").glob(".tmp*"))


def test_an_empty_store(tmp_path: Path) -> None:
    found = find_duplicates(Store.create(tmp_path / "s"))
    assert found.summary["items"] == found.summary["pairs"]["total"] == 0
    assert found.clusters().num_rows == 0


def test_what_could_not_be_compared_is_told(tmp_path: Path) -> None:
    items, vectors = made_items()
    vectors[items[0]["image_sha256"]] = np.zeros(DIM, np.float32)
    store = filled(tmp_path / "s", items, vectors)
    notes = "\n".join(find_duplicates(store, rule=0.9).summary["notes"])
    assert "1 of 59 items without image: not compared, and kept" in notes
    assert "1 of 50 contents without a vector of toy/image/pooled" in notes
    assert "1 of 49 vectors of toy/image/pooled zero" in notes
    before = Duplicates.open(store).summary
    with pytest.raises(UsageError, match="no item to compare where mtime_ns > 1000; earlier results stay"):
        find_duplicates(store, rule=0.9, where="mtime_ns > 1000")
    assert Duplicates.open(store).summary == before
    nothing = find_duplicates(Store.create(tmp_path / "empty")).summary
    assert "there is no item to compare" in nothing["notes"]
    assert nothing["pairs"]["by_kind"] == dict.fromkeys(KINDS, 0)
    assert nothing["pairs"]["found_by"] == dict.fromkeys(STAGES, 0)


def test_what_a_stage_would_refuse_is_refused_before_any_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items, vectors = made_items(n=12)
    store = filled(tmp_path / "s", items, vectors)
    monkeypatch.setattr(find_module, "begin_views", lambda *_, **__: pytest.fail("minutes of hashing"))
    for arguments in ({"rule": 95}, {"hamming": 99}, {"threads": 0}, {"device": "abacus"}):
        with pytest.raises(UsageError):
            find_duplicates(store, **arguments)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="left out"):
        find_duplicates(store, hamming=None, views=True)
    words = filled(tmp_path / "w", items, {"1": np.ones(DIM, np.float32)}, modality="text")
    for arguments in ({"hamming": 4}, {"views": True}):
        with pytest.raises(UsageError, match="toy/text/pooled is not"):
            find_duplicates(words, feature="toy/text/pooled", **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("grouping", ["star", "components"])
def test_a_diameter_is_the_cosine_of_a_pair_to_the_last_bit(tmp_path: Path, grouping: str) -> None:
    """Else it would hang on how BLAS rounds, which its threads and the machine decide."""
    items, vectors = made_items(n=80, seed=3)
    found = find_duplicates(filled(tmp_path / "s", items, vectors), rule=0.5, grouping_by=grouping)
    content = {item["item_id"]: item["image_sha256"] for item in items}
    groups: dict[int, list[dict[str, Any]]] = {}
    for row in found.clusters().to_pylist():
        groups.setdefault(row["group"], []).append(row)
    assert max(map(len, groups.values())) > 3
    for rows in groups.values():
        shas = sorted({content[row["item_id"]] for row in rows} & vectors.keys())
        if not shas:
            continue
        X = np.stack([vectors[sha] for sha in shas])
        i, j = np.triu_indices(len(X), 1) if len(X) > 1 else (np.zeros(1, int), np.zeros(1, int))
        measured = RowSet.of(X).measure()
        assert rows[0]["min_cosine"] == pair_cosines(measured, measured, i, j).min()


def test_few_pairs_make_one_row_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    items, vectors = made_items(n=80)
    store = filled(tmp_path / "s", items, vectors)
    whole = find_duplicates(store, rule=0.8, threads=2)
    with pq.ParquetFile(whole.path / "pairs.parquet") as file:
        assert file.num_row_groups <= 2  # copies, and the others
    monkeypatch.setattr(pairs_module, "_MIN_BLOCK", 7)
    pieces = find_duplicates(store, name="pieces", rule=0.8, threads=2)
    assert pieces.pairs() == whole.pairs()
    assert pieces.clusters() == whole.clusters()
