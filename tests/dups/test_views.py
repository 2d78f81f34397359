"""View hashes in a store: made once, joined as brute force would, left out when everything resembles everything."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from galleries import embedded
from hypothesis import given, settings
from hypothesis import strategies as st
from icehouse.data.transforms import GRADED
from icehouse.dups import hashing as views_module
from icehouse.dups.engines import JoinOptions
from icehouse.dups.find import find_duplicates
from icehouse.dups.gallery import write_gallery
from icehouse.dups.hashing import VIEWS, WHOLE_VIEWS, ViewHashes, cross_pairs, view_radius
from icehouse.dups.pairs import Contents, PairSearch
from icehouse.dups.rule import Rule
from icehouse.dups.views import (
    TABLE,
    begin_views,
    content_shares,
    load_thumbs,
    load_views,
    picture_views,
    read_views,
)
from icehouse.embed.pipeline import embed_sources
from icehouse.store.store import Store
from PIL import Image
from toys import ToyEncoder, picture

FEATURE = "toy-a/image/joint"


def near_hashes(count: int, seed: int) -> np.ndarray:
    """Random hashes, of which some are near others."""
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 2**64, count, dtype=np.uint64)
    for k in range(1, count, 2):
        flips = rng.integers(0, 64, rng.integers(0, 9))
        hashes[k] = hashes[rng.integers(k)] ^ np.bitwise_or.reduce(
            np.uint64(1) << flips.astype(np.uint64), initial=np.uint64(0)
        )
    return hashes


@given(m=st.integers(1, 60), n=st.integers(1, 900), radius=st.integers(0, 8), seed=st.integers(0, 9))
@settings(deadline=None, max_examples=40)
def test_cross_pairs_are_those_of_comparing_everything_each_once(
    m: int, n: int, radius: int, seed: int
) -> None:
    hashes = near_hashes(m + n, seed)
    left, right = hashes[:m], hashes[m:]
    left[::3] = left[0]
    a, b = np.nonzero(np.bitwise_count(left[:, None] ^ right[None]) <= radius)
    every = sorted(zip(a.tolist(), b.tolist(), strict=True))
    for k in range(5):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(views_module, "_cross_plan", lambda few, many, radius, k=k: (max(radius + k, 1), k))
            patch.setattr(views_module, "_CANDIDATES", 50)
            patch.setattr(views_module, "_TOGETHER", 100)
            found = [
                pair
                for a, b in cross_pairs(left, right, radius)
                for pair in zip(a.tolist(), b.tolist(), strict=True)
            ]
        assert sorted(found) == every


@given(n=st.integers(2, 30), radius=st.integers(0, 6), seed=st.integers(0, 9))
@settings(deadline=None, max_examples=25)
def test_pairs_and_distances_agree(n: int, radius: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    hashes = rng.permutation(near_hashes(n * VIEWS, seed)).reshape(n, VIEWS)
    views = ViewHashes(hashes, rng.random((n, VIEWS)) < 0.8, radius)
    codes, whole = views.pairs(10**6)
    i, j = (side.ravel() for side in np.triu_indices(n, 1))
    distance = views.distance(i, j)
    assert whole
    assert codes.tolist() == (i * n + j)[distance <= radius].tolist()
    assert views.pairs(3)[0].tolist() == codes[:3].tolist()
    assert (views.distance(j, i) == distance).all()
    for a, b, bits in zip(i[:20].tolist(), j[:20].tolist(), distance[:20].tolist(), strict=True):
        brute = [
            int(np.bitwise_count(hashes[p, v] ^ hashes[q, w]))
            for p, q in ((a, b), (b, a)) for v in range(WHOLE_VIEWS) for w in range(VIEWS)
            if views.usable[p, v] and views.usable[q, w]
        ]  # fmt: skip
        assert bits == min(brute, default=65)


def lookalikes(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of pictures that look alike as a whole and differ in their parts, and copies of some."""
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 2**64, (n, VIEWS), dtype=np.uint64)
    hashes[:, 0] = hashes[0, 0] ^ (np.uint64(1) << rng.integers(0, 64, n, dtype=np.uint64))
    for k in range(1, n, 3):
        flips = np.uint64(1) << rng.integers(0, 64, (int(rng.integers(0, 9)), VIEWS), dtype=np.uint64)
        hashes[k] = hashes[k - 1] ^ np.bitwise_xor.reduce(flips, axis=0, initial=np.uint64(0))
    return hashes, rng.random((n, VIEWS)) < 0.9


@given(n=st.integers(2, 30), least=st.sampled_from([0.5, 0.8, 0.95]), seed=st.integers(0, 9))
@settings(deadline=None, max_examples=25)
def test_agreement_is_the_cosine_of_all_signs_and_its_pairs_those_of_comparing_everything(
    n: int, least: float, seed: int
) -> None:
    views = ViewHashes(*lookalikes(n, seed), -1, least)
    i, j = (side.ravel() for side in np.triu_indices(n, 1))
    agreed = views.agreement(i, j)
    assert (views.agreement(j, i) == agreed).all()
    signs = views.signs(np.arange(n))
    for a, b, value in zip(i.tolist(), j.tolist(), agreed.tolist(), strict=True):
        both = views.usable[a] & views.usable[b]
        apart = np.bitwise_count(views.hashes[a] ^ views.hashes[b])
        if (apart[:WHOLE_VIEWS] <= 10)[both[:WHOLE_VIEWS]].any():
            common = sum(64 - 2 * int(bits) for bits in apart[both])
            exact = common / 64 / np.sqrt(float(views.usable[a].sum()) * views.usable[b].sum())
            assert value == pytest.approx(exact, abs=2e-6)
            assert value == pytest.approx(float(signs[a] @ signs[b]), abs=2e-6)
        else:
            assert value == -1
    # Two steps of pairs that agree never lead farther than what counts as linked.
    full = ViewHashes(views.hashes, np.ones_like(views.usable), -1, least)
    near = np.eye(n, dtype=bool)
    near[i, j] = near[j, i] = full.agreement(i, j) >= least
    two = (near.astype(int) @ near.astype(int) > 0)[i, j]
    assert full.linked(i[two], j[two], full.distance(i[two], j[two])).all()
    codes, whole = views.pairs(10**6)
    assert whole
    assert codes.tolist() == (i * n + j)[agreed >= least].tolist()
    assert views.found(i, j, views.distance(i, j)).tolist() == (agreed >= least).tolist()


@pytest.mark.parametrize("radius", [-1, 0, 2])
def test_among_lookalikes_the_cascade_finds_those_whose_views_agree(radius: int) -> None:
    hashes, _ = lookalikes(60, 3)
    usable = np.ones(hashes.shape, bool)
    usable[7:9] = False  # files that could not be read again
    views = ViewHashes(hashes, usable, -1, 0.8)
    contents = Contents(hashes[:, 0], np.ones(60, bool), Rule(radius, agreement=0.8), views=views)
    found = [
        pair
        for block in PairSearch(contents, JoinOptions(10**6))
        for pair in zip(block.i, block.j, block.perceptual, strict=True)
    ]
    assert all(perceptual for _, _, perceptual in found)
    i, j = (side.ravel() for side in np.triu_indices(60, 1))
    near = np.bitwise_count(hashes[i, 0] ^ hashes[j, 0]).astype(int) <= radius
    wanted = near | (views.agreement(i, j) >= 0.8)
    assert [(int(a), int(b)) for a, b, _ in found] == [
        *zip(i[wanted].tolist(), j[wanted].tolist(), strict=True)
    ]
    assert 10 < wanted.sum() < len(wanted) / 2 or radius == 2


def test_larger_sets_get_smaller_radii() -> None:
    radii = [view_radius(n, 6) for n in (10, 1000, 30_000, 300_000, 10**7)]
    assert radii == sorted(radii, reverse=True)
    assert radii[0] == 4
    assert view_radius(10, 2) == 2
    assert view_radius(10**9, 6) == -1


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "images"
    made.mkdir()
    for seed in range(10):
        picture(seed, 160, 120).save(made / f"p{seed}.png")
    for name in ("crop_10", "pad", "mirror"):
        GRADED[name](picture(3, 160, 120), np.random.default_rng(1)).save(made / f"{name}.png")
    return made


def pairs(found: object) -> set[frozenset[str]]:
    rows = found.pairs().to_pylist()  # type: ignore[attr-defined]
    return {frozenset((Path(row["id_a"]).stem, Path(row["id_b"]).stem)) for row in rows if row["perceptual"]}


def test_find_compares_views_and_keeps_them(folder: Path, tmp_path: Path) -> None:
    store = embedded(folder, tmp_path / "s")
    plain = find_duplicates(store, feature=FEATURE, rule=1.0, views=False)
    assert plain.summary["parameters"]["views"] is None
    seen: list[tuple[int, int]] = []
    found = find_duplicates(store, feature=FEATURE, rule=1.0, progress=lambda *done: seen.append(done))
    assert seen[:13] == [(done, 13) for done in range(1, 14)]
    assert found.summary["parameters"]["views"] == 4
    assert {frozenset(("p3", name)) for name in ("crop_10", "pad", "mirror")} <= pairs(found)
    assert all({"p3", "crop_10", "pad", "mirror"} >= pair for pair in pairs(found))
    assert store.table(TABLE).snapshot().rows == 13
    # With the files gone, the kept hashes answer.
    for file in folder.iterdir():
        file.unlink()
    assert pairs(find_duplicates(store, feature=FEATURE, rule=1.0)) == pairs(found)


def test_a_framed_copy_does_not_win_by_its_frame(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        if path.name not in ("p3.png", "pad.png"):
            path.unlink()
    store = embedded(folder, tmp_path / "s")
    for keeper, kept in (("best", "p3.png"), ("largest", "pad.png")):
        found = find_duplicates(store, feature=None, keeper=keeper)
        assert found.clusters(["item_id", "keeper"]).to_pylist()[0] == {"item_id": kept, "keeper": True}
        page = write_gallery(store).path.parent / "index.html"
        assert ("no frame or band" in page.read_text()) == (kept == "p3.png")
    digests = store.items.read(["image_sha256"])["image_sha256"].to_pylist()
    shares = content_shares(store, pa.array(["f" * 64, *digests]))
    assert np.isnan(shares[0])
    assert sorted(shares[1:] < 1) == [False, True]


def test_readers_get_the_columns_and_rows_that_they_ask_for(folder: Path, tmp_path: Path) -> None:
    store = embedded(folder, tmp_path / "s")
    items = store.items.read(["item_id", "image_sha256", "root", "path"])
    unknown = pa.array(["f" * 64, None], pa.string())
    assert read_views(store, unknown, ["thumb"])["thumb"].null_count == 2  # no table yet
    load_views(store, items)
    digests = pa.concat_arrays([unknown, items["image_sha256"].combine_chunks(), unknown])
    thumbs, there = load_thumbs(store, digests)
    assert there.tolist() == [False, False, *[True] * 13, False, False]
    found = read_views(store, digests, ["turned", "inside", "facts"])
    assert set(found) == {"turned", "inside", "facts"}
    assert not thumbs[:2].any()
    for k, name in enumerate(items["item_id"].to_pylist()):
        views = picture_views(Image.open(folder / Path(name).name).convert("RGB"))
        assert (thumbs[2 + k] == views.thumb).all()
        assert found["turned"][2 + k].as_py() == views.turned.ravel().tolist()


def test_a_file_that_is_no_longer_the_one_has_no_views(folder: Path, tmp_path: Path) -> None:
    store = embedded(folder, tmp_path / "s")
    picture(99).save(folder / "p0.png")
    (folder / "p1.png").write_bytes(b"")
    items = store.items.read(["item_id", "image_sha256", "root", "path"])
    _, usable = load_views(store, items)
    blind = [
        name for name, known in zip(items["item_id"].to_pylist(), usable, strict=True) if not known.any()
    ]
    assert sorted(Path(name).stem for name in blind) == ["p0", "p1"]


def test_a_set_of_lookalikes_is_left_to_the_other_stages(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed_sources([folder], tmp_path / "s", encoder=ToyEncoder(), workers=1)
    monkeypatch.setattr(views_module, "_MAX_NEAR", 2)
    found = find_duplicates(tmp_path / "s", feature=FEATURE, rule=1.0)
    assert any("too many of them resemble each other" in note for note in found.summary["notes"])
    assert found.summary["parameters"]["views"] is None
    # What was to be confirmed by views counts by itself where hashes are equal, as without views.
    rule = Rule(cosine=1.0, agreement=0.3, view_bits=4)
    monkeypatch.setattr("icehouse.dups.find.choose_rule", lambda *_: (replace(rule, hamming=-1), []))
    given_up, without = (
        find_duplicates(tmp_path / "s", feature=FEATURE, views=views).summary for views in (None, False)
    )
    for summary in (given_up, without):
        assert (summary["parameters"]["hamming"], summary["parameters"]["agreement"]) == (0, None)
    # Turned copies are confirmed pixel by pixel, whatever else is near.
    assert given_up["pairs"]["by_orientation"] == {"mirror": 1}
    assert given_up["pairs"]["total"] == without["pairs"]["total"] + 1


def test_a_column_called_inside_is_a_column_like_any_other(folder: Path, tmp_path: Path) -> None:
    store = embedded(folder, tmp_path / "s")
    ids = store.items.read(["item_id"])["item_id"]
    store.items.upsert(
        pa.table({"item_id": ids, "inside": pa.array([str(k) for k in range(len(ids))])}), key="item_id"
    )
    found = find_duplicates(store, feature=None, keeper="inside:desc")
    assert found.summary["parameters"]["keeper"] == "inside:desc"
    write_gallery(store)


def test_what_comes_while_images_are_hashed_has_not_been_looked_at(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = embedded(folder, tmp_path / "s")
    late = tmp_path / "late"
    late.mkdir()
    picture(77, 160, 120).save(late / "late.png")

    def slow(*arguments: object) -> object:
        embed_sources([late], tmp_path / "s", encoder=ToyEncoder(), workers=1)
        return begin_views(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("icehouse.dups.find.begin_views", slow)
    found = find_duplicates(store, feature=None)
    added = {
        row["item_id"]: row["added"]
        for row in Store.open(tmp_path / "s").items.read(["item_id", "added"]).to_pylist()
    }
    assert added["late.png"] > found.looked_at
    assert all(when <= found.looked_at for name, when in added.items() if name != "late.png")
