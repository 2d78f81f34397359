"""Turned copies: found in every orientation, told which, and never by chance among pictures that look alike."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from galleries import embedded
from hypothesis import given, settings
from hypothesis import strategies as st
from icehouse.data.images import ORIENTATIONS, decode, perceptual_hash, perceptual_hashes
from icehouse.dups import confirm as confirm_module
from icehouse.dups.apply import apply_judgements
from icehouse.dups.confirm import INVERSE, RADIUS, PixelPairs, turn, turned_pairs
from icehouse.dups.default_calibration import NearCache
from icehouse.dups.find import find_duplicates
from icehouse.dups.gallery import TURNED, write_gallery
from icehouse.dups.hashing import informative
from icehouse.dups.pair_graph import Duplicates
from icehouse.dups.rule import Rule
from icehouse.dups.stream import DuplicateStream
from icehouse.dups.window import Arrival, SlidingWindow
from icehouse.dups.window_state import load_window, save_window
from icehouse.embed.pipeline import embed_sources
from icehouse.store.store import Store
from PIL import Image
from toys import ToyEncoder, picture


def laid(image: Image.Image, name: str) -> Image.Image:
    """A picture turned pixel by pixel, with nothing but numpy."""
    pixels = np.asarray(image)
    made = {
        "upright": pixels,
        "mirror": pixels[:, ::-1],
        "rotate_180": pixels[::-1, ::-1],
        "flip": pixels[::-1],
        "transpose": pixels.swapaxes(0, 1),
        "rotate_90": np.rot90(pixels, -1),
        "transverse": pixels.swapaxes(0, 1)[::-1, ::-1],
        "rotate_270": np.rot90(pixels),
    }[name]
    return Image.fromarray(np.ascontiguousarray(made))


def test_every_orientation_has_one_name_and_one_inverse() -> None:
    assert set(TURNED) == set(ORIENTATIONS[1:])
    square = np.random.default_rng(0).integers(0, 255, (2, 64, 64)).astype(np.uint8)
    for k, name in enumerate(ORIENTATIONS):
        assert (turn(square, k)[1] == np.asarray(laid(Image.fromarray(square[1]), name))).all(), name
        assert (turn(turn(square, k), INVERSE[k]) == square).all()


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_hashes_of_all_orientations_are_those_of_the_turned_picture(name: str) -> None:
    for seed in range(6):
        image = picture(seed, 200, 150)
        made = perceptual_hashes(image)
        assert made[0] == perceptual_hash(image)
        assert (made[ORIENTATIONS.index(name)] ^ perceptual_hash(laid(image, name))).bit_count() <= 4


def hashes_and_thumbs(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Random pictures of which some are others turned, with hashes that differ in a few bits."""
    rng = np.random.default_rng(seed)
    thumbs = rng.integers(0, 256, (n, 64, 64)).astype(np.uint8)
    hashes = rng.integers(0, 2**64, (n, 8), dtype=np.uint64)
    compose = {
        (a, b): next(k for k in range(8) if (turn(turn(thumbs[0], a), b) == turn(thumbs[0], k)).all())
        for a in range(8)
        for b in range(8)
    }
    for k in range(1, n, 2):
        of, how = int(rng.integers(k)), int(rng.integers(1, 8))
        thumbs[k] = turn(thumbs[of], how)
        hashes[k] = [hashes[of, compose[how, g]] for g in range(8)]
        flips = rng.integers(0, 64, rng.integers(0, 9)).astype(np.uint64)
        hashes[k] ^= np.bitwise_xor.reduce(np.uint64(1) << flips, initial=np.uint64(0))
    return hashes, thumbs


@given(n=st.integers(2, 16), seed=st.integers(0, 30))
@settings(deadline=None, max_examples=12)
def test_pairs_are_those_of_comparing_everything(n: int, seed: int) -> None:
    hashes, thumbs = hashes_and_thumbs(n, seed)
    there = np.random.default_rng(seed).random(n) < 0.9
    found = turned_pairs(hashes, there, lambda rows: (thumbs[rows], there[rows]))
    assert found is not None
    usable = there & informative(hashes[:, 0])
    wanted = {}
    for i in range(n):
        for j in range(i + 1, n):
            bits = {
                k: min(
                    int(np.bitwise_count(hashes[i, k] ^ hashes[j, 0])),
                    int(np.bitwise_count(hashes[j, INVERSE[k]] ^ hashes[i, 0])),
                )
                for k in range(1, 8)
                if (turn(thumbs[i], k) == thumbs[j]).all()
            }
            if usable[i] and usable[j] and bits and min(bits.values()) <= RADIUS:
                wanted[i * n + j] = min((b, k) for k, b in bits.items())
    got = dict(
        zip(
            found.codes.tolist(),
            zip(found.distance.tolist(), found.orientation.tolist(), strict=True),
            strict=True,
        )
    )
    assert got == wanted
    i, j = np.divmod(found.codes, n)
    there, forwards, bits, _ = found.find(i, j)
    assert there.all()
    assert (forwards == found.orientation).all()
    assert (bits == found.distance).all()
    assert (found.find(j, i)[1] == INVERSE[found.orientation]).all()
    assert not found.find(np.arange(n), np.arange(n))[0].any()
    numbers = np.flatnonzero(np.random.default_rng(seed + 1).random(n) < 0.7)
    part = found.subset(numbers)
    a, b = (side.ravel() for side in np.triu_indices(len(numbers), 1))
    assert (part.find(a, b)[1] == found.find(numbers[a], numbers[b])[1]).all()
    assert (np.diff(part.codes) > 0).all()


@pytest.mark.parametrize("seed", range(4))
def test_what_is_known_of_earlier_contents_changes_nothing(seed: int, tmp_path: Path) -> None:
    hashes, thumbs = hashes_and_thumbs(60, seed)
    rng, found_some = np.random.default_rng(seed), 0
    for size in (30, 40, 60, 50):
        numbers = rng.permutation(60)[:size]
        there = rng.random(size) < 0.9
        keys = np.char.add(numbers.astype("S4"), np.where(there, b"t", b"-"))
        known = NearCache(tmp_path, keys)
        asked = (
            hashes[numbers],
            there,
            partial(lambda numbers, rows: (thumbs[numbers[rows]], rows >= 0), numbers),
        )
        wanted = turned_pairs(*asked)
        found = turned_pairs(*asked, lambda name, find, known=known: known.pairs(name, "these", 1000, find))
        assert wanted is not None
        assert found is not None
        for name in ("codes", "orientation", "distance"):
            assert np.array_equal(getattr(found, name), getattr(wanted, name))
        found_some += len(wanted)
    assert found_some > 20


def test_what_is_near_everywhere_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confirm_module, "_MOST_CANDIDATES", 3)
    hashes = np.tile(np.arange(1, 9, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15), (40, 1))
    hashes[:20, 0] = hashes[20:, 3]
    assert turned_pairs(hashes, np.ones(40, bool), lambda rows: pytest.fail("no thumbnail is needed")) is None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("turned") / "images"
    made.mkdir()
    for seed in range(12):
        picture(seed, 160, 120).save(made / f"p{seed:02d}.png")
    for name in ORIENTATIONS[1:]:
        laid(picture(3, 160, 120), name).save(made / f"turned_{name}.png")
        laid(picture(4, 160, 120), name).save(made / f"jpeg_{name}.jpg", quality=60)
    # Almost its own mirror image: its copy is no turned one.
    half = picture(50, 80, 120)
    mirrored = Image.fromarray(np.hstack([np.asarray(half), np.asarray(half)[:, ::-1]]))
    both = Image.blend(mirrored, picture(51, 160, 120), 0.2)
    both.save(made / "symmetric.png")
    both.save(made / "symmetric.jpg", quality=90)
    return made


@pytest.fixture(scope="module")
def store(folder: Path) -> Store:
    return embedded(folder, folder.parent / "s")


@pytest.fixture(scope="module")
def found(store: Store) -> Duplicates:
    return find_duplicates(store, feature=None)


def test_find_tells_every_orientation(store: Store, found: Duplicates) -> None:
    rows = found.pairs(["id_a", "id_b", "perceptual", "hamming", "orientation"]).to_pylist()
    pairs = {(Path(row["id_a"]).name, Path(row["id_b"]).name): row for row in rows}
    for name in ORIENTATIONS[1:]:
        for pair in (("p03.png", f"turned_{name}.png"), (f"jpeg_{name}.jpg", "p04.png")):
            row = pairs[pair]
            wanted = name if pair[0] == "p03.png" else ORIENTATIONS[INVERSE[ORIENTATIONS.index(name)]]
            assert (row["perceptual"], row["orientation"]) == (True, wanted)
            assert row["hamming"] <= RADIUS
    sources = {"p03": 3, "turned": 3, "p04": 4, "jpeg": 4, "symmetric": 50}
    assert all(len({sources[Path(name).stem.split("_")[0]] for name in pair}) == 1 for pair in pairs)
    assert pairs["symmetric.jpg", "symmetric.png"]["orientation"] is None
    assert found.summary["groups"]["largest"] == 8
    assert found.summary["groups"]["chained"] == 0
    told = found.summary["pairs"]["by_orientation"]
    assert sum(told.values()) == sum(row["orientation"] is not None for row in rows) >= 28
    members = found.clusters(["item_id", "keeper", "orientation"]).to_pylist()
    assert all(row["orientation"] is None for row in members if row["keeper"])
    page = write_gallery(store).path.read_text()
    assert "turned by 90° right" in page


def test_judgements_leave_orientations_as_they_are(store: Store, found: Duplicates, tmp_path: Path) -> None:
    columns = ["item_id", "orientation"]
    before = {row["item_id"]: row["orientation"] for row in found.clusters(columns).to_pylist()}
    gone = next(item for item in before if Path(item).name == "turned_flip.png")
    other = next(item for item in before if Path(item).name == "p03.png")
    judged = tmp_path / "judged.csv"
    judged.write_text(f"a,b,label\n{other},{gone},0\n")
    pairs = {(row["id_a"], row["id_b"]): row["orientation"] for row in found.pairs().to_pylist()}
    done = apply_judgements(shutil.copytree(store.path, tmp_path / "s"), judged)
    assert done.problems == []
    after = {row["item_id"]: row["orientation"] for row in done.search.clusters(columns).to_pylist()}
    assert sum(name is not None for name in after.values()) >= 12
    assert after.items() <= before.items()
    left = {(row["id_a"], row["id_b"]): row["orientation"] for row in done.search.pairs().to_pylist()}
    assert left.items() <= pairs.items()


def test_search_without_files_read_has_no_turned_copies(store: Store) -> None:
    found = find_duplicates(store, feature=None, views=False, name="unread")
    assert found.summary["pairs"]["by_orientation"] == {}


def test_cells_of_one_kind_are_no_mirror_images_of_each_other(tmp_path: Path) -> None:
    """A grid with a few dark specks, as solar cells have them: near each other in every orientation, and no copies."""
    made = tmp_path / "cells"
    made.mkdir()
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:160, :160]
    for k in range(36):
        cell = 150 - 60.0 * ((x % 40 < 3) | (y % 80 < 3)) - 0.004 * ((x - 80) ** 2 + (y - 80) ** 2)
        for _ in range(6):
            cx, cy, size = rng.integers(0, 160), rng.integers(0, 160), rng.uniform(4, 10)
            cell -= 45 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / size**2)
        cell += rng.normal(0, 3, cell.shape)
        Image.fromarray(np.clip(cell, 0, 255).astype(np.uint8)).save(made / f"c{k:02d}.png")
    laid(Image.open(made / "c07.png"), "rotate_90").save(made / "turned.png")
    embed_sources([made], tmp_path / "s", encoder=ToyEncoder(), workers=1)
    found = find_duplicates(tmp_path / "s", feature=None)
    turned = [row for row in found.pairs().to_pylist() if row["orientation"] is not None]
    assert [(Path(row["id_a"]).name, Path(row["id_b"]).name, row["orientation"]) for row in turned] == [
        ("c07.png", "turned.png", "rotate_90")
    ]


def test_a_stream_tells_every_orientation(folder: Path, tmp_path: Path) -> None:
    with DuplicateStream(None, state=tmp_path / "window.state") as stream:
        assert stream.judge(folder / "p03.png").kind == "new"
    with DuplicateStream(None, state=tmp_path / "window.state") as stream:  # from the saved state
        for name in ORIENTATIONS[1:]:
            verdict = stream.judge(folder / f"turned_{name}.png")
            first = next(match for match in verdict.matches if match.id.endswith("p03.png"))
            assert (verdict.kind, first.orientation) == ("perceptual", name)
        assert stream.judge(folder / "p05.png").kind == "new"
        again = stream.judge(folder / "turned_flip.png")
        assert again.kind == "exact"
        assert again.match is not None
        assert again.match.orientation is None
        assert {match.orientation for match in again.matches[1:]} == {*ORIENTATIONS[1:]}


def by_hand(stream: list[Arrival], radius: int) -> list[dict[int, int]]:
    """For each arrival: position and orientation of what it is a turned copy of."""
    out = []
    for now, new in enumerate(stream):
        found = {}
        for position, old in enumerate(stream[:now]):
            assert new.phash is not None
            assert old.phash is not None
            assert new.turned is not None
            apart = [(value ^ old.phash).bit_count() for value in new.turned]
            least = min(apart[1:])
            if least <= radius and least < apart[0]:
                found[position] = int(INVERSE[apart.index(least, 1)])
        out.append(found)
    return out


@given(seed=st.integers(0, 20), batch=st.sampled_from([1, 3, 40]))
@settings(deadline=None, max_examples=15)
def test_a_window_finds_turned_copies_whatever_the_batches(
    seed: int, batch: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    hashes, _ = hashes_and_thumbs(40, seed)
    arrivals = [
        Arrival(f"a{k}", f"{k:064x}", int(row[0]), None, tuple(row.tolist())) for k, row in enumerate(hashes)
    ]
    rule = Rule(hamming=6)
    window = SlidingWindow(100, rule=rule)
    told = []
    for start in range(0, 40, batch):
        told += list(window.judge(arrivals[start : start + batch]))
        if start == 2 * batch:
            path = tmp_path_factory.mktemp("w") / "state"
            save_window(window, path)
            window, _ = load_window(path, rule=rule, capacity=100)
    got = [
        {
            match.position: ORIENTATIONS.index(match.orientation)
            for match in verdict.matches
            if match.orientation
        }
        for verdict in told
    ]
    assert got == by_hand(arrivals, 4)
    assert any(got)


def test_equal_hashes_do_not_make_turned_copies_where_a_calibration_allows_no_more(tmp_path: Path) -> None:
    image = picture(3, 160, 120)
    turned = [perceptual_hashes(one) for one in (image, laid(image, "mirror"))]
    for hamming, kinds in ((1, ["new", "new"]), (2, ["new", "perceptual"]), (None, ["new", "new"])):
        window = SlidingWindow(10, rule=Rule(hamming=hamming))
        arrivals = [Arrival(str(k), str(k), hashes[0], None, hashes) for k, hashes in enumerate(turned)]
        assert [verdict.kind for verdict in window.judge(arrivals)] == kinds


def test_a_decoder_hashes_orientations_only_when_asked(folder: Path) -> None:
    data = (folder / "p01.png").read_bytes()
    assert decode(data, hashed=True).turned is None
    picture = decode(data, hashed=True, turned=True)
    assert picture.turned == perceptual_hashes(picture.image)
    assert picture.turned is not None
    assert picture.turned[0] == picture.phash
    json.dumps(picture.turned)


def test_no_pairs_are_no_trouble() -> None:
    empty = PixelPairs.none(5)
    found, orientation, bits, _ = empty.find(np.arange(3), np.arange(3) + 1)
    assert not found.any()
    assert orientation.tolist() == [0] * 3
    assert bits.tolist() == [65] * 3
    assert len(empty.subset(np.array([1, 3]))) == 0
