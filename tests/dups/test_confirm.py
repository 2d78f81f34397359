"""Pixel confirmation: copies whose hashes are too far to count are found by their pixels, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from icehouse.data.transforms import encode
from icehouse.dups import confirm as confirm_module
from icehouse.dups.confirm import Pictures, PixelPairs, Regions, agreement, confirm, detail, view_candidates
from icehouse.dups.find import find_duplicates
from icehouse.dups.hashing import VIEWS, WHOLE_VIEWS, ViewHashes, view_boxes
from icehouse.dups.views import picture_views
from icehouse.embed.pipeline import embed_sources
from PIL import Image
from scipy.ndimage import uniform_filter
from toys import ToyEncoder, shapes

WHOLE = np.array([[0.0, 0.0, 1.0, 1.0]])


def thumbs_of(images: list[Image.Image]) -> tuple[np.ndarray, np.ndarray]:
    made = np.stack([picture_views(image).thumb for image in images])
    return made, np.ones(len(made), bool)


def regions(pairs: list[tuple[int, int]], box_i: np.ndarray = WHOLE, box_j: np.ndarray = WHOLE) -> Regions:
    i, j = np.array(pairs).T
    return Regions(i, j, box_i.repeat(len(i), 0), box_j.repeat(len(i), 0), np.zeros(len(i), bool))


def test_copies_agree_and_others_do_not() -> None:
    image = shapes(1)
    turned = image.rotate(3, Image.Resampling.BICUBIC)
    drawn = image.copy()
    drawn.paste((255, 255, 255), (0, 0, 240, 40))
    every = [image, turned, drawn, image.resize((120, 90)), shapes(2), shapes(3), image.transpose(0)]
    pictures = Pictures(np.arange(len(every)), *thumbs_of(every))
    agreed = agreement(regions([(0, k) for k in range(1, len(every))]), pictures)
    assert (agreed[:3] > 0.7).all()
    assert (agreed[3:] < 0.55).all()
    mirrored = Regions(np.array([0]), np.array([6]), WHOLE, WHOLE, np.array([True]))
    assert agreement(mirrored, pictures)[0] > 0.99
    unknown = Pictures(np.arange(2), np.zeros((2, 64, 64), np.uint8), np.array([True, False]))
    assert agreement(regions([(0, 1)]), unknown).tolist() == [-1]


@pytest.mark.parametrize("view", [1, 2, 3, 20, 40, VIEWS - 1])
def test_views_lie_where_their_hashes_were_taken(view: int) -> None:
    """The region of a view, cut out and hashed as a whole, has the hash of the view."""
    image = shapes(4, 640, 640)
    framed = Image.new("RGB", (800, 800))
    framed.paste(image, (100, 100))
    box = np.array([[0.125, 0.125, 0.925, 0.925]])
    left, top, right, bottom = (view_boxes(box, np.array([view]))[0] * 800).round().astype(int).tolist()
    part = framed.crop((left, top, right, bottom))
    if view == 2:
        part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    hashes = picture_views(framed, (100.0, 100.0, 740.0, 740.0)).hashes
    assert np.bitwise_count(hashes[view] ^ picture_views(part).hashes[0]) <= 4
    assert view_boxes(box, np.array([0])).tolist() == WHOLE.tolist()


@given(n=st.integers(2, 12), seed=st.integers(0, 20), radius=st.sampled_from([-1, 0, 4]))
@settings(deadline=None, max_examples=15)
def test_candidates_are_those_of_comparing_everything(n: int, seed: int, radius: int) -> None:
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 2**64, (n, VIEWS), dtype=np.uint64)
    for k in range(1, n):
        flips = rng.integers(0, 64, rng.integers(0, 13)).astype(np.uint64)
        hashes[k, rng.integers(VIEWS)] = hashes[
            rng.integers(k), rng.integers(WHOLE_VIEWS)
        ] ^ np.bitwise_xor.reduce(np.uint64(1) << flips, initial=np.uint64(0))
    views = ViewHashes(hashes, rng.random((n, VIEWS)) < 0.9, radius)
    boxes = np.tile(WHOLE, (n, 1))
    found, bits = view_candidates(views, boxes)
    i, j = (side.ravel() for side in np.triu_indices(n, 1))
    distance = views.distance(i, j)
    wanted = {
        (a, b): d
        for a, b, d in zip(i.tolist(), j.tolist(), distance.tolist(), strict=True)
        if radius < d <= 10
    }
    got = {
        (min(a, b), max(a, b)): d
        for a, b, d in zip(found.i.tolist(), found.j.tolist(), bits.tolist(), strict=True)
    }
    assert got == wanted
    assert len(found) == len(got)


def test_a_set_of_lookalikes_confirms_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    ground = np.asarray(shapes(5).convert("L").resize((64, 64)), float)
    thumbs = np.clip(ground + rng.normal(0, 2, (40, 64, 64)), 0, 255).astype(np.uint8)
    pairs = regions([(k, k + 1) for k in range(39)])
    same = confirm(
        pairs,
        lambda rows: (thumbs[rows], np.ones(len(rows), bool)),
        40,
        np.arange(40),
        lambda i, j: np.full(len(i), 32),
    )
    assert not same.any()
    hashes = np.full((40, VIEWS), 0xB2CDCD3232CDCD30, np.uint64)
    hashes[:, 1] ^= np.uint64(0b111111)
    views = ViewHashes(hashes, np.ones_like(hashes, bool), -1)
    monkeypatch.setattr(confirm_module, "_MAX_NEAR", 100)
    assert len(view_candidates(views, np.tile(WHOLE, (40, 1)))[0]) == 0


def test_of_several_confirmations_the_nearest_counts() -> None:
    one = PixelPairs.of_any(9, np.array([13, 13, 5]), np.array([1, 0, 0]), np.array([4, 4, 8]))
    two = PixelPairs.of_any(9, np.array([5, 60]), np.array([3, 0]), np.array([2, 0]))
    both = one | two
    assert both.codes.tolist() == [5, 13, 60]
    assert both.orientation.tolist() == [3, 0, 0]
    assert both.distance.tolist() == [2, 4, 0]


def test_find_confirms_what_hashes_leave_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tmp_path / "images"
    made.mkdir()
    for seed in range(30):
        (made / f"p{seed:02d}.jpg").write_bytes(encode(shapes(seed), "jpg", 92))
    copies = {
        "crop": lambda image: image.crop((20, 10, 222, 176)),
        "turned": lambda image: image.rotate(3.5, Image.Resampling.BICUBIC),
    }
    for k, (name, edit) in enumerate(copies.items()):
        for seed in (3 + k, 13 + k, 23 + k):
            (made / f"p{seed:02d}_{name}.jpg").write_bytes(encode(edit(shapes(seed)), "jpg", 80))
    embed_sources([made], tmp_path / "s", encoder=ToyEncoder(), workers=1)

    def pairs() -> set[tuple[str, str]]:
        found = find_duplicates(tmp_path / "s", feature=None)
        rows = found.pairs(["id_a", "id_b", "perceptual"]).to_pylist()
        return {(Path(row["id_a"]).stem, Path(row["id_b"]).stem) for row in rows if row["perceptual"]}

    found = pairs()
    monkeypatch.setattr(confirm_module, "_RADII", ())
    before = pairs()
    assert before < found
    assert all(a.split("_")[0] == b.split("_")[0] for a, b in found)
    assert len(found) == 6


@pytest.mark.parametrize("size", [1, 3, 5, 9])
@pytest.mark.parametrize("shape", [(1, 1), (3, 40), (2, 17, 8)])
def test_detail_is_what_differs_from_the_mean_around(size: int, shape: tuple[int, ...]) -> None:
    pictures = np.random.default_rng(size).random(shape).astype(np.float32)
    sizes = (0,) * (len(shape) - 2) + (size, size)
    around = uniform_filter(pictures, sizes, mode="nearest")
    assert np.allclose(detail(pictures, size), pictures - around, atol=1e-6)
