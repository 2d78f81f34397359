"""Cache of near pairs: a search with it finds what one without it finds, and compares new contents alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from galleries import embedded
from icehouse.dups import groups as groups_module
from icehouse.dups.calibration import apply_map
from icehouse.dups.default_calibration import NearCache, mapped_vectors
from icehouse.dups.engines import JoinOptions
from icehouse.dups.find import find_duplicates
from icehouse.dups.hashing import VIEWS, ViewHashes, informative
from icehouse.dups.local_scaling import LocalMeasure, fit_local
from icehouse.dups.pairs import Contents, PairSearch
from icehouse.dups.rule import Rule
from icehouse.embed.pipeline import embed_sources
from toys import ToyEncoder, picture

DIM = 16


def planted(seed: int, n: int = 150, copies: int = 40) -> tuple[np.ndarray, ViewHashes]:
    """Unit vectors and views, some of them changed copies of others."""
    rng = np.random.default_rng(seed)
    X, hashes = rng.standard_normal((n, DIM)), rng.integers(0, 2**64, (n, VIEWS), dtype=np.uint64)
    of = rng.integers(0, n, copies)
    flips = np.uint64(1) << rng.integers(0, 64, (copies, VIEWS, 3)).astype(np.uint64)
    X = np.concatenate([X, X[of] + 0.1 * rng.standard_normal((copies, DIM))])
    hashes = np.concatenate([hashes, hashes[of] ^ np.bitwise_xor.reduce(flips, axis=2)])
    X = (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32)
    return X, ViewHashes(hashes, informative(hashes), 2)


def search_of(
    X: np.ndarray,
    views: ViewHashes,
    measure: LocalMeasure,
    numbers: np.ndarray,
    cache: Path | None,
    least: float,
) -> PairSearch:
    n = len(numbers)
    rule = Rule(None, None, np.zeros(DIM), local=measure, evidence=least)
    seen = views.subset(numbers)
    made = Contents(np.zeros(n, np.uint64), np.zeros(n, bool), rule, X[numbers], np.arange(n), seen)
    made.beside = measure.neighbourhoods(X[numbers], seen)
    if cache is not None:
        digests = pa.array([f"{k:064x}" for k in numbers])
        made.known = NearCache.of(cache, digests, seen, np.arange(n), True)
    return PairSearch(made, JoinOptions(100_000, 1))


def found_by(search: PairSearch) -> list[tuple[int, int, float]]:
    return [
        row
        for block in search
        for row in zip(block.i.tolist(), block.j.tolist(), block.cosine.tolist(), strict=True)
    ]


@pytest.mark.parametrize("seed", range(3))
def test_searches_of_growing_and_changing_contents_find_the_same_as_one_without_a_cache(
    seed: int, tmp_path: Path
) -> None:
    X, views = planted(seed)
    measure = fit_local(X, views, len(X))
    rng = np.random.default_rng(seed)
    total = 0
    # Some come, some go, the order changes, and more is asked for or less.
    for size, least in ((100, 4.0), (130, 4.5), (180, 4.5), (170, 3.0), (190, 6.0), (190, 6.0)):
        numbers = rng.permutation(len(X))[:size]
        wanted = found_by(search_of(X, views, measure, numbers, None, least))
        assert found_by(search_of(X, views, measure, numbers, tmp_path, least)) == wanted
        total += len(wanted)
    assert total > 50


def test_only_new_contents_are_compared(tmp_path: Path) -> None:
    X, views = planted(0)
    measure = fit_local(X, views, len(X))
    found_by(search_of(X, views, measure, np.arange(180), tmp_path, 4.0))
    search = search_of(X, views, measure, np.arange(190), tmp_path, 4.0)
    found_by(search)
    assert search.stats["embedding"].comparisons == 10 * 190


def test_new_views_of_a_content_are_compared(tmp_path: Path) -> None:
    X, views = planted(0)
    measure = fit_local(X, views, len(X))
    numbers = np.arange(len(X))
    unseen = ViewHashes(views.hashes, views.usable.copy(), views.radius)
    unseen.usable[170:] = False
    found_by(search_of(X, unseen, measure, numbers, tmp_path, 4.0))
    wanted = found_by(search_of(X, views, measure, numbers, None, 4.0))
    assert found_by(search_of(X, views, measure, numbers, tmp_path, 4.0)) == wanted


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("least", [None, 0.6])
def test_pairs_with_new_contents_and_those_without_are_all_pairs(seed: int, least: float | None) -> None:
    _, views = planted(seed, 60, 60)
    views = ViewHashes(views.hashes, views.usable, 6, least)
    new = np.random.default_rng(seed).random(len(views.hashes)) < 0.2
    every, _ = views.pairs(10**6)
    some, _ = views.pairs(10**6, new)
    i, j = np.divmod(every, len(new))
    assert some.tolist() == every[new[i] | new[j]].tolist()
    assert 0 < len(some) < len(every)


@pytest.mark.slow
def test_a_second_search_compares_no_pair_of_files_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for seed in range(110):
        picture(seed, 48, 48).save(folder / f"p{seed:03d}.png")
    for seed in range(5):
        picture(seed, 48, 48).save(folder / f"p{seed:03d}__copy.jpg", quality=90)
    store = embedded(folder, tmp_path / "s")
    feature = "toy-a/image/joint"

    def tables(**options: float) -> tuple[pa.Table, pa.Table]:
        found = find_duplicates(store, feature=feature, **options)  # type: ignore[arg-type]
        return found.pairs(), found.clusters()

    first = tables()
    compared = []
    original = groups_module.compare

    def counted(facts: groups_module.Facts, a: int, b: int) -> groups_module.Relation:
        compared.append((a, b))
        return original(facts, a, b)

    monkeypatch.setattr(groups_module, "compare", counted)
    assert tables() == first
    assert not compared
    for seed in range(5, 9):
        picture(seed, 48, 48).save(folder / f"p{seed:03d}__copy.jpg", quality=90)
    embed_sources([folder], tmp_path / "s", encoder=ToyEncoder(), workers=1)
    grown = tables()
    assert len(grown[0]) >= len(first[0]) + 4
    assert compared
    # Whatever is kept is disposable, and what is damaged is made anew.
    cache = store.path / "cache"

    def kept() -> list[Path]:
        return [
            *(cache / "near").rglob("*.npz"),
            *(cache / "calibrations" / "toy-a" / "image").glob("*.npz"),
            *(file for file in (cache / "mapped").rglob("*") if file.is_file()),
            cache / "relations.json",
        ]

    names = ["cosines", "keys", "mapped", "overlays", "relations", "squares"]
    names += ["toy-a-image-joint.neighbourhoods", "turned", "units", "views"]
    assert (
        sorted(path.stem.rpartition(".")[2] if path.suffix == ".npy" else path.stem for path in kept())
        == names
    )
    said = json.loads((cache / "relations.json").read_bytes())
    assert said["orders"]
    said["orders"] = {key: [[0] * len(order), why] for key, (order, why) in said["orders"].items()}
    (cache / "relations.json").write_text(json.dumps(said))
    assert tables() == grown
    for path in kept():
        path.write_bytes(b"damaged")
    assert tables() == grown
    for path in kept():
        path.unlink()
    assert tables() == grown
    # A picture that is gone, another that is changed, and a stricter search: as if nothing had been kept.
    (folder / "p000__copy.jpg").unlink()
    picture(3, 48, 48).save(folder / "p060.png")
    embed_sources([folder], tmp_path / "s", encoder=ToyEncoder(), workers=1)
    for expected in (1.0, 0.01):
        found = tables(expected_false_pairs=expected)
        for path in kept():
            path.unlink()
        assert tables(expected_false_pairs=expected) == found
    assert "p060.png" in tables()[1]["item_id"].to_pylist()


def test_vectors_that_two_searches_keep_at_a_time_are_not_mixed(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "i").mkdir()
    picture(1, 48, 48).save(tmp_path / "i" / "p.png")
    store, feature = embedded(tmp_path / "i", tmp_path / "s"), "toy-a/image/joint"
    X, mean, matrix = rng.normal(size=(9, 4)).astype(np.float32), np.zeros(4), np.eye(4)[::-1].copy()
    digests = np.array([f"{k:064x}" for k in range(9)])
    folder = store.path / "cache" / "mapped" / feature

    def mapped(rows: np.ndarray) -> np.ndarray:
        out = np.empty((len(rows), 4), np.float32)
        mapped_vectors(store, feature, X[rows].__getitem__, digests[rows], mean, matrix, out, True)
        return out

    some, all_turned = np.arange(2), np.arange(9)[::-1]
    mapped(some)
    held, files = (
        (folder / "mapped.json").read_bytes(),
        {f.name: f.read_bytes() for f in folder.glob("*.npy")},
    )
    assert np.array_equal(mapped(all_turned), apply_map(X[all_turned], mean, matrix))
    later = {f.name for f in folder.glob("*.npy")}
    assert len(later) == 3
    assert not later & set(files)
    # The first one's last step comes after all that the second has done.
    (folder / "mapped.json").write_bytes(held)
    assert np.array_equal(mapped(some), apply_map(X[some], mean, matrix))
    assert np.array_equal(mapped(all_turned), apply_map(X[all_turned], mean, matrix))
