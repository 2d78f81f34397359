"""Local scaling: pairs are those of brute force over the measure, copies stand out in dense and in loose sets alike."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from galleries import embedded
from icehouse.dups import find as find_module
from icehouse.dups import local_scaling as local_scaling_module
from icehouse.dups import pairs as pairs_module
from icehouse.dups import processes
from icehouse.dups.calibration import Calibration
from icehouse.dups.default_calibration import (
    fit_calibration,
    held_neighbourhoods,
    known_calibration,
    near_certain_cosine,
)
from icehouse.dups.engines import Exact, Faiss, JoinOptions, TemporaryIndex
from icehouse.dups.find import find_duplicates
from icehouse.dups.hashing import VIEWS, ViewHashes, informative
from icehouse.dups.local_scaling import (
    RADIUS,
    LocalMeasure,
    Neighbourhoods,
    all_distances,
    cross_distances,
    fit_local,
)
from icehouse.dups.pairs import Contents, PairSearch
from icehouse.dups.rule import Rule
from icehouse.errors import UsageError
from icehouse.store.files import write_sums
from toys import picture

DIM = 24


def units(X: np.ndarray) -> np.ndarray:
    return (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32)


def planted(seed: int = 0, n: int = 150, copies: int = 30) -> tuple[np.ndarray, ViewHashes, np.ndarray]:
    """Unit vectors and views of a loose set and of one that looks alike, with copies of some; and whose copy each is."""
    rng = np.random.default_rng(seed)
    loose, centre = rng.standard_normal((n, DIM)), 6 * rng.standard_normal(DIM)
    X = np.concatenate([loose, centre + rng.standard_normal((n, DIM))])
    hashes = rng.integers(0, 2**64, (2 * n, VIEWS), dtype=np.uint64)
    of = np.concatenate([rng.permutation(n)[:copies], n + rng.permutation(n)[:copies]])
    flips = np.uint64(1) << rng.integers(0, 64, (len(of), VIEWS, 2)).astype(np.uint64)
    changed = hashes[of] ^ flips[..., 0] ^ flips[..., 1]
    unseen = rng.random(len(of)) < 0.5
    changed[unseen] = rng.integers(0, 2**64, (int(unseen.sum()), VIEWS), dtype=np.uint64)
    noise = np.where(of < n, 0.25, 0.04)[:, None] * rng.standard_normal((len(of), DIM))
    X = np.concatenate([X, X[of] + noise])
    hashes = np.concatenate([hashes, changed])
    source = np.concatenate([np.arange(2 * n), of])
    return units(X), ViewHashes(hashes, informative(hashes), 2), source


def brute(contents: Contents) -> set[tuple[int, int]]:
    """Pairs that some stage finds, each judged by itself."""
    n = len(contents)
    found = set()
    for i, j in itertools.combinations(range(n), 2):
        one = contents.judge(np.array([i]), np.array([j]))
        if one.perceptual[0] or one.embedding[0]:
            found.add((i, j))
    return found


def contents_of(X: np.ndarray, views: ViewHashes | None, measure: LocalMeasure, least: float) -> Contents:
    n = len(X)
    rule = Rule(None, None, np.zeros(X.shape[1]), local=measure, evidence=least)
    made = Contents(np.zeros(n, np.uint64), np.zeros(n, bool), rule, X, np.arange(n), views)
    made.beside = measure.neighbourhoods(X, views)
    return made


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("seen", [True, False])
@pytest.mark.parametrize("least", [3.0, 9.0])
def test_the_pairs_are_those_of_brute_force(seed: int, seen: bool, least: float) -> None:
    X, views, _ = planted(seed, 70, 20)
    views = views if seen else None
    measure = fit_local(X, views, len(X))
    pick = np.random.default_rng(seed).permutation(len(X))[:64]
    some = contents_of(X[pick], None if views is None else views.subset(pick), measure, least)
    wanted = brute(some)
    rows = some.rows
    assert rows is not None
    flat = Faiss(TemporaryIndex(rows, kind="flat"), "flat", None, np.arange(len(rows)))
    for engine in (Exact(), flat):
        search = PairSearch(some, JoinOptions(10_000, 1), engine)
        found = [pair for block in search for pair in zip(block.i.tolist(), block.j.tolist(), strict=True)]
        assert found == sorted(wanted)
    assert len(wanted) > 2


def test_the_evidence_of_near_views_alone_and_of_both_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    X, views, source = planted(3)
    measure = fit_local(X, views, len(X))
    beside = measure.neighbourhoods(X, views)
    i, j = np.flatnonzero(np.arange(len(X)) >= 300), source[300:]
    cosine = np.einsum("ij,ij->i", X[i], X[j])
    by_cosine = beside.evidence(i, j, cosine, None, measure.quantile)
    both = beside.evidence(i, j, cosine, views.distance(i, j), measure.quantile)
    near = views.distance(i, j) <= RADIUS
    assert (both[near] > by_cosine[near] + 1).all()
    assert (both[~near] == by_cosine[~near]).all()
    # With too many near views those count that prove it by themselves, and no pair by its cosine is lost.
    some = contents_of(X, views, measure, 9.0)
    all_pairs = len([1 for block in PairSearch(some, JoinOptions(10_000, 1)) for _ in block.i])
    monkeypatch.setattr(pairs_module, "_MAX_CANDIDATES", 1)
    fewer = len([1 for block in PairSearch(some, JoinOptions(10_000, 1)) for _ in block.i])
    assert 0 < fewer <= all_pairs


@pytest.mark.parametrize("seed", [0, 4])
def test_copies_stand_out_in_a_loose_set_and_among_look_alikes(seed: int) -> None:
    X, views, source = planted(seed)
    measure = fit_local(X, views, len(X))
    least = measure.threshold(len(X))
    i, j = np.triu_indices(len(X), 1)
    beside = measure.neighbourhoods(X, views)
    cosine = np.einsum("ij,ij->i", X[i], X[j])
    same = source[i] == source[j]
    found = beside.evidence(i, j, cosine, views.distance(i, j), measure.quantile) >= least
    assert (found & ~same).sum() <= 4
    loose = source[i] < 150
    for part in (loose, ~loose):
        assert found[same & part].mean() >= 0.55
    # No single cosine does that: the look-alikes' unrelated pairs lie above copies of the loose set.
    assert cosine[~same].max() > np.quantile(cosine[same & loose], 0.05)


def test_a_content_has_its_neighbourhood_whatever_else_is_asked_for() -> None:
    X, views, _ = planted(2)
    measure = fit_local(X, views, len(X))
    whole = measure.neighbourhoods(X, views)
    pick = np.random.default_rng(0).permutation(len(X))[:77]
    part = measure.neighbourhoods(X[pick], views.subset(pick))
    for name in Neighbourhoods.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(whole, name)[pick], getattr(part, name))


def test_threads_hold_contents_against_the_reference_as_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    X, views, _ = planted(3)
    measure, told = fit_local(X, views, len(X)), []
    for least in (1, 1000):
        monkeypatch.setattr(local_scaling_module, "_MANY_BLOCKS", least)
        told.append(measure.neighbourhoods(X, views, block=16))
    for name in Neighbourhoods.__dataclass_fields__:
        np.testing.assert_array_equal(*(getattr(each, name) for each in told))


def test_more_contents_and_fewer_false_pairs_ask_for_more_evidence() -> None:
    X, views, _ = planted()
    measure = fit_local(X, views, len(X))
    assert measure.threshold(100_000) > measure.threshold(1000) > measure.threshold(1000, 10)
    assert measure.threshold(2, 1e9) >= 1


def test_labelled_pairs_are_what_they_are_labelled(tmp_path: Path) -> None:
    X, views, source = planted(1)
    labelled = np.zeros((len(X), len(X)), np.int8)
    copies = np.arange(300, len(X))
    far = int(copies[np.argmax(views.distance(copies, source[300:]))])
    labelled[far, source[far]] = labelled[source[far], far] = -1
    own = fit_local(X, views, len(X)).own.near[far]
    # A pair that is no copy is a neighbour, and a near one.
    assert fit_local(X, views, len(X), labelled).own.near[far] >= own


def test_distances_of_views_agree_with_those_of_pairs() -> None:
    _, views, _ = planted(5, 40, 8)
    usable = views.usable.copy()
    usable[3], usable[5, :2] = False, False
    # Pictures without margins: trimmed they are what they are as a whole.
    hashes = views.hashes.copy()
    hashes[6:30, 1] = hashes[6:30, 0]
    usable[6:28, 1] = usable[6:28, 0]
    views = replace(views, hashes=hashes, usable=usable)
    n = len(usable)
    i, j = np.triu_indices(n, 1)
    wanted = np.minimum(views.distance(i, j), 32)
    np.testing.assert_array_equal(np.minimum(all_distances(views.hashes, usable)[i, j], 32), wanted)
    of = np.tile(np.arange(n), (n, 1))
    across = cross_distances(views.hashes, usable, views.hashes, usable, of)
    np.testing.assert_array_equal(np.minimum(across[i, j], 32), wanted)


def test_a_measure_is_read_as_it_was_written(tmp_path: Path) -> None:
    X, views, _ = planted(0, 60, 5)
    for seen in (views, None):
        measure = fit_local(X, seen, len(X))
        measure.write(tmp_path / "local.npz")
        read = LocalMeasure.read(tmp_path / "local.npz")
        one, two = measure.neighbourhoods(X, seen), read.neighbourhoods(X, seen)
        for name in Neighbourhoods.__dataclass_fields__:
            np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
        assert read.threshold(500) == measure.threshold(500)


def test_what_tells_nothing_apart_is_refused() -> None:
    same = np.ones((200, DIM), np.float32) / np.sqrt(np.float32(DIM))
    with pytest.raises(UsageError, match="alike"):
        fit_local(same, None, 200)
    with pytest.raises(UsageError, match="too few"):
        fit_local(same[:50], None, 50)
    assert near_certain_cosine(np.zeros((10, 3), np.float32)) == 0.9
    assert near_certain_cosine(same + 1e-3) < 1


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    for seed in range(110):
        picture(seed, 48, 48).save(folder / f"p{seed:03d}.png")
    for seed in range(5):
        picture(seed, 48, 48).save(folder / f"p{seed:03d}__copy.jpg", quality=90)
    return folder


@pytest.mark.slow
def test_a_search_makes_the_measure_and_keeps_it(pictures: Path, tmp_path: Path) -> None:
    store = embedded(pictures, tmp_path / "s")
    found = find_duplicates(store, feature="toy-a/image/joint")
    parameters = found.summary["parameters"]
    assert parameters["measure"] == "local"
    assert parameters["cosine"] is None
    assert parameters["evidence"] > 1
    told = next(note for note in found.summary["notes"] if "stand out among their own neighbours" in note)
    assert told.endswith(", by the neighbours that contents of this set have in toy-a/image/joint")
    pairs = found.pairs().to_pylist()
    assert {(row["id_a"], row["id_b"]) for row in pairs} >= {
        (f"p{k:03d}.png", f"p{k:03d}__copy.jpg") for k in range(5)
    } or len(pairs) >= 5
    assert all(row["evidence"] is not None for row in pairs)
    kept = sorted((store.path / "cache" / "calibrations").rglob("*"))
    assert {path.name for path in kept} >= {"calibration.json", "local.npz"}
    written = {path: path.stat().st_mtime_ns for path in kept if path.is_file()}
    again = find_duplicates(store, feature="toy-a/image/joint")
    assert again.pairs().equals(found.pairs())
    assert {path: path.stat().st_mtime_ns for path in written} == written
    # The cache is disposable, and a damaged one is made anew.
    for path in written:
        path.write_bytes(b"damaged")
    assert find_duplicates(store, feature="toy-a/image/joint").pairs().equals(found.pairs())
    # A cosine given by hand is of the vectors as they are, and the same for all.
    assert (
        find_duplicates(store, feature="toy-a/image/joint", rule=0.99).summary["parameters"]["measure"]
        == "cosine"
    )


@pytest.mark.slow
def test_a_map_that_is_fitted_while_views_are_made_is_that_of_the_search(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "MANY", 0)
    beforehand, fitted, found, calibrations = find_module.map_beforehand, [], [], []

    def told(*given: Any) -> Any:
        fitted.append(beforehand(*given))
        return fitted[-1]

    monkeypatch.setattr(find_module, "map_beforehand", told)
    feature = "toy-a/image/joint"
    for threads in (1, 2):
        store = embedded(pictures, tmp_path / f"s{threads}")
        found.append(find_duplicates(store, feature=feature, threads=threads))
        made = known_calibration(store, feature, 115, viewed=True)
        assert made is not None
        calibrations.append(made)
        # Views are made once, and a map that holds is not fitted again.
        assert find_duplicates(store, feature=feature, threads=threads).pairs().equals(found[-1].pairs())
    (early,), (one, two) = fitted, calibrations
    assert early is not None
    for made in (one, two):
        np.testing.assert_array_equal(made.mean, early.mean)
        np.testing.assert_array_equal(made.matrix, early.matrix)
    assert found[0].pairs().equals(found[1].pairs())
    assert len(found[0].pairs()) >= 5


def test_neighbourhoods_of_new_contents_are_added_to_those_that_are_kept(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = embedded(pictures, tmp_path / "s")
    X, views, _ = planted(0, 60, 5)
    measure = fit_local(X, views, len(X))
    digests = np.array([f"{k:064x}" for k in range(len(X))])
    asked = []

    def counted(self: LocalMeasure, X: np.ndarray, views: ViewHashes | None) -> Neighbourhoods:
        asked.append(len(X))
        return original(self, X, views)

    original = LocalMeasure.neighbourhoods
    monkeypatch.setattr(LocalMeasure, "neighbourhoods", counted)
    feature = "toy-a/image/joint"
    held_neighbourhoods(store, feature, measure, digests[:100], X[:100], views.subset(np.arange(100)))
    order = np.random.default_rng(0).permutation(len(X))
    held = held_neighbourhoods(store, feature, measure, digests[order], X[order], views.subset(order))
    assert asked == [100, len(X) - 100]
    np.testing.assert_array_equal(held.near, original(measure, X[order], views.subset(order)).near)
    other = replace(measure, least=measure.least + 1)
    held_neighbourhoods(store, feature, other, digests, X, views)
    assert asked[-1] == len(X)


def test_a_default_calibration_is_of_the_set_and_not_of_its_order(tmp_path: Path) -> None:
    X, views, _ = planted(0, 60, 5)
    order = np.random.default_rng(0).permutation(len(X))
    one = fit_calibration("f", "p", X, np.arange(len(X)), views.hashes[:, 0], views)
    two = fit_calibration("f", "p", X[order], np.argsort(order), views.hashes[order, 0], views.subset(order))
    assert one.local is not None
    assert two.local is not None
    assert one.local.threshold(1000) == pytest.approx(two.local.threshold(1000), rel=1e-6)
    assert one.bits == two.bits
    one.write(tmp_path)
    write_sums(tmp_path)
    read = Calibration.read(tmp_path)
    assert read.local is not None
    assert read.local_threshold(1000) == one.local_threshold(1000)
