"""Parts of pictures: a picture inside an app's screen is found, and a collage is listed as what holds others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from galleries import csv_rows, embedded
from icehouse.data.transforms import encode
from icehouse.dups.confirm import PixelPairs
from icehouse.dups.evaluate import evaluate_duplicates, read_truth
from icehouse.dups.find import find_duplicates
from icehouse.dups.pair_graph import Duplicates
from icehouse.dups.views import ColourPlanes, load_parts, part_boxes, picture_views
from icehouse.store.store import Store
from PIL import Image, ImageDraw, ImageFont
from toys import shapes

EVERYTHING = (0.0, 0.0, 1.0, 1.0)


def screen(image: Image.Image, dark: bool = False) -> Image.Image:
    """A post in an app: a name, words, the picture, icons, comments."""
    ground, ink = ((21, 32, 43), (230, 230, 230)) if dark else ((255, 255, 255), (20, 20, 20))
    out = Image.new("RGB", (300, 560), ground)
    draw, font = ImageDraw.Draw(out), ImageFont.load_default(14)
    draw.ellipse((12, 30, 42, 60), (200, 90, 60))
    draw.text((52, 36), "Old Mill  @mill · 3h", ink, font)
    draw.text((12, 76), "look at what I found this morning", ink, font)
    out.paste(image, ((300 - image.width) // 2, 110))
    for k in range(4):
        draw.text((14, 350 + 50 * k), f"user{k}: so nice, thank you", ink, font)
    return out


def collage(images: list[Image.Image], gap: int = 6, columns: int = 2) -> Image.Image:
    wide, high = images[0].size
    rows = -(-len(images) // columns)
    out = Image.new("RGB", (columns * (wide + gap) + gap, rows * (high + gap) + gap), (255, 255, 255))
    for k, image in enumerate(images):
        out.paste(image, (gap + k % columns * (wide + gap), gap + k // columns * (high + gap)))
    return out


@pytest.mark.parametrize("dark", [False, True])
def test_the_picture_in_a_screen_is_found(dark: bool) -> None:
    inner, cells = part_boxes(ColourPlanes.of(screen(shapes(1), dark)), EVERYTHING)
    assert inner == pytest.approx((0.1, 110 / 560, 0.9, 310 / 560), abs=0.02)
    assert cells == []


@pytest.mark.parametrize(
    ("count", "columns", "gap"), [(4, 2, 6), (4, 2, 0), (2, 2, 6), (2, 1, 4), (3, 3, 6), (9, 3, 6)]
)
def test_cells_of_a_collage_are_found(count: int, columns: int, gap: int) -> None:
    made = collage([shapes(20 + k) for k in range(count)], gap, columns)
    views = picture_views(made)
    assert views.cells == count
    boxes = views.part_boxes[-count:] * ([made.width, made.height] * 2)
    for k, box in enumerate(boxes.tolist()):
        left, top = gap + k % columns * (240 + gap), gap + k // columns * (200 + gap)
        near = 0.02 * max(made.size)
        assert box == pytest.approx((left, top, left + 240, top + 200), abs=near)
        part = picture_views(shapes(20 + k)).hashes[0]
        assert np.bitwise_count(views.part_hashes[len(views.part_hashes) - count + k] ^ part) <= 10


def test_pictures_have_no_parts_by_chance() -> None:
    assert sum(picture_views(shapes(seed)).cells > 0 for seed in range(30)) <= 1
    for level in (0, 128, 255):
        assert part_boxes(ColourPlanes.of(Image.new("RGB", (90, 70), (level,) * 3)), EVERYTHING) == (None, [])


@pytest.mark.parametrize("size", [(1, 1), (2, 300), (300, 2), (17, 16)])
def test_tiny_pictures_have_views(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3)).astype(np.uint8))
    views = picture_views(image)
    assert len(views.part_hashes) == len(views.part_boxes) >= views.cells


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    made = tmp_path_factory.mktemp("inner") / "images"
    made.mkdir()
    for seed in range(24):
        (made / f"p{seed:02d}.jpg").write_bytes(encode(shapes(seed), "jpg", 90))
    (made / "screen.jpg").write_bytes(encode(screen(shapes(3)), "jpg", 85))
    (made / "dark.jpg").write_bytes(encode(screen(shapes(3), dark=True), "jpg", 85))
    (made / "collage.jpg").write_bytes(encode(collage([shapes(k) for k in (5, 6, 7, 100)]), "jpg", 90))
    return embedded(made, made.parent / "s")


@pytest.fixture(scope="module")
def found(store: Store) -> Duplicates:
    return find_duplicates(store, feature=None)


def test_screens_are_copies_and_a_collage_is_none(store: Store, found: Duplicates, tmp_path: Path) -> None:
    rows = found.pairs().to_pylist()
    pairs = {(Path(row["id_a"]).stem, Path(row["id_b"]).stem): row for row in rows}
    assert {pair for pair, row in pairs.items() if row["kind"] == "perceptual"} == {
        ("p03", "screen"),
        ("dark", "p03"),
        ("dark", "screen"),
    }
    held = {pair for pair, row in pairs.items() if row["kind"] == "container"}
    assert held == {("collage", "p05"), ("collage", "p06"), ("collage", "p07")}
    assert all(Path(pairs[pair]["container"]).stem == "collage" for pair in held)
    assert all(row["container"] is None for pair, row in pairs.items() if pair not in held)
    assert found.summary["pairs"]["by_kind"]["container"] == 3
    # Neither keeper nor member, and no reason to drop what is in it.
    grouped = {Path(name).stem for name in found.clusters()["item_id"].to_pylist()}
    assert grouped == {"p03", "screen", "dark"}
    dropped = {Path(row["item_id"]).stem for row in csv_rows(found.path / "drop.csv")}
    assert dropped < {"p03", "screen", "dark"}
    truth = tmp_path / "truth.csv"
    ids = {Path(name).stem: name for name in store.items.read(["item_id"])["item_id"].to_pylist()}
    truth.write_text(f"a,b\n{ids['p03']},{ids['screen']}\n{ids['p03']},{ids['dark']}\n")
    scores = evaluate_duplicates(found, read_truth(truth, store.items.read(["item_id"])["item_id"]))
    assert scores["cascade"]["precision"] == 1


@pytest.mark.usefixtures("found")
def test_parts_are_read_back(store: Store) -> None:
    items = store.items.read(["item_id", "image_sha256"])
    parts = load_parts(store, items["image_sha256"])
    names = [Path(name).stem for name in items["item_id"].to_pylist()]
    cells = [
        names[owner] for owner, cell in zip(parts.owner.tolist(), parts.cell.tolist(), strict=True) if cell
    ]
    screens = {
        names[owner]
        for owner, cell in zip(parts.owner.tolist(), parts.cell.tolist(), strict=True)
        if not cell
    }
    assert cells.count("collage") == 4
    assert {"screen", "dark"} <= screens
    assert (parts.boxes[:, 2:] > parts.boxes[:, :2]).all()


def test_containers_stay_whichever_way_round() -> None:
    pairs = PixelPairs.of_any(5, np.array([7, 7, 8]), np.zeros(3), np.array([2, 6, 4]), np.array([1, 0, 2]))
    i, j = np.array([1, 1, 0]), np.array([2, 3, 4])
    found, _, distance, container = pairs.find(i, j)
    assert found.tolist() == [True, False, False]
    assert distance.tolist() == [6, 4, 65]
    assert container.tolist() == [0, 2, 0]
    assert pairs.find(j, i)[3].tolist() == [0, 1, 0]
    assert pairs.subset(np.array([1, 3])).container.tolist() == [2]
