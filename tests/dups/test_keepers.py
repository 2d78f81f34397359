"""Keepers: the original is kept against what edits make of it, by facts with right values, and groups stay sound."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from galleries import entry, filled, near
from hypothesis import given
from hypothesis import strategies as st
from icehouse.data.sample_scenes import paint
from icehouse.data.transforms import encode
from icehouse.dups import quality
from icehouse.dups.find import find_duplicates
from icehouse.dups.quality import FACTS, Facts, compare, detail, measure
from icehouse.store.store import Store
from PIL import Image, ImageDraw, ImageFilter, ImageOps

Scene = Image.Image


@pytest.fixture(scope="module")
def scene() -> Scene:
    return paint(np.random.default_rng(5), "houses", long_side=640)[0].convert("RGB")


def jpeg(image: Image.Image, quality: int = 90) -> bytes:
    return encode(image, "jpg", quality)


def gif(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.quantize(64).save(buffer, "GIF")
    return buffer.getvalue()


measured = cache(measure)


def facts_of(*files: bytes) -> Facts:
    made = [measured(data) for data in files]
    assert all(one is not None for one in made)
    return Facts(*(np.stack([one[k] for one in made if one is not None]) for k in range(3)))


def fact(data: bytes, name: str) -> float:
    return float(facts_of(data)[name][0])


def better(first: bytes, second: bytes) -> float:
    """Octaves by which the first is better than the second, as two copies of one picture."""
    both = facts_of(first, second)
    told, score = compare(both, 0, 1), both.score()
    ours, theirs = sum(told.first.values()), sum(told.second.values())
    turned = compare(facts_of(second, first), 0, 1)
    assert turned.first == pytest.approx(told.second)
    assert turned.second == pytest.approx(told.first)
    return float(score[0] - ours - score[1] + theirs)


def noisy(image: Image.Image) -> Image.Image:
    grain = np.random.default_rng(0).normal(0, 14, (image.height, image.width, 3))
    return Image.fromarray(np.clip(np.asarray(image, np.float32) + grain, 0, 255).astype(np.uint8))


def sticker(image: Image.Image) -> Image.Image:
    out = image.copy()
    ImageDraw.Draw(out).ellipse((20, 20, 150, 150), "#ffcc33", "#aa7700", 6)
    return out


def on_screen(image: Image.Image) -> Image.Image:
    """A phone's screen: bars above and below, the picture between them, smaller."""
    out = Image.new("RGB", (540, 1000), "white")
    out.paste(image.resize((500, round(500 * image.height / image.width))), (20, 200))
    draw = ImageDraw.Draw(out)
    for y in (30, 90, 130, 160, 860, 940):
        draw.text((30, y), "City Watch  @user41  12:44  share", "black")
    return out


EDITS = {
    "upscaled": lambda image: jpeg(image.resize((image.width * 3, image.height * 3), Image.Resampling.BICUBIC)),
    "halved": lambda image: jpeg(image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)),
    "squashed": lambda image: jpeg(image.resize((image.width * 7 // 10, image.height), Image.Resampling.LANCZOS)),
    "blurred": lambda image: jpeg(image.filter(ImageFilter.GaussianBlur(1.5))),
    "64 colours": gif,
    "grey": lambda image: jpeg(ImageOps.grayscale(image).convert("RGB")),
    "noise": lambda image: jpeg(noisy(image)),
    "sticker": lambda image: jpeg(sticker(image)),
    "framed": lambda image: jpeg(ImageOps.expand(image, 40, "black")),
    "cropped": lambda image: jpeg(image.crop((60, 60, image.width - 20, image.height - 10))),
    "screenshot": lambda image: jpeg(on_screen(image)),
    "recompressed": lambda image: jpeg(image, 40),
    "turned a little": lambda image: jpeg(image.rotate(3, Image.Resampling.BICUBIC)),
}  # fmt: skip


@pytest.mark.parametrize("name", EDITS)
def test_the_original_is_better_than_an_edit(scene: Scene, name: str) -> None:
    assert better(jpeg(scene), EDITS[name](scene)) > 0.1


def test_a_quarter_of_the_pixels_is_two_octaves(scene: Scene) -> None:
    small = scene.resize((scene.width // 2, scene.height // 2), Image.Resampling.LANCZOS)
    both = facts_of(jpeg(scene), jpeg(small))
    gap = np.diff(both.effective())[0]
    assert -2.3 < gap < -1.7


def test_detail_of_an_enlarged_picture(scene: Scene) -> None:
    grey = np.asarray(scene.convert("L"))
    large = np.asarray(scene.convert("L").resize((scene.width * 3, scene.height), Image.Resampling.BICUBIC))
    assert detail(grey) == pytest.approx(1.0, abs=0.1)
    assert detail(large) < 0.75 * detail(grey)
    assert detail(np.ascontiguousarray(large.T)) == pytest.approx(
        detail(np.ascontiguousarray(grey.T)), abs=0.15
    )


def test_an_earlier_compression_is_seen(scene: Scene) -> None:
    once = jpeg(scene, 60)
    pixels = Image.open(io.BytesIO(once)).convert("RGB")
    step = fact(once, "step")
    assert fact(once, "again") == 0
    for later in (jpeg(pixels, 96), encode(pixels, "png")):
        assert fact(later, "again") == 1
        assert fact(later, "step") == pytest.approx(step, rel=0.25)
    # A flipped copy has its blocks from the other end.
    narrow = pixels.crop((0, 0, pixels.width - 3, pixels.height))
    flipped = ImageOps.mirror(Image.open(io.BytesIO(jpeg(narrow, 60))).convert("RGB"))
    assert fact(encode(flipped, "png"), "again") == 1
    assert fact(encode(scene, "png"), "again") == 0
    assert fact(encode(scene, "png"), "step") == 0


def test_a_picture_is_no_better_for_being_saved_again(scene: Scene) -> None:
    once = jpeg(scene, 75)
    pixels = Image.open(io.BytesIO(once)).convert("RGB")
    assert better(once, jpeg(pixels, 97)) > 0
    assert better(once, encode(pixels, "png")) > 0
    assert better(encode(scene, "png"), once) > 0.17


def test_drawn_art_keeps_its_few_colours() -> None:
    drawn = Image.new("RGB", (480, 320), "white")
    draw = ImageDraw.Draw(drawn)
    draw.rectangle((40, 40, 200, 280), "#3366cc")
    draw.ellipse((240, 60, 440, 260), "#cc3333")
    for y in range(20, 300, 24):
        draw.text((60, y), "net income by quarter", "black")
    png = encode(drawn, "png")
    assert fact(png, "palette") == 0
    assert better(png, jpeg(drawn, 90)) > 0


def test_grey_pictures_do_not_lose_to_grey_ones(scene: Scene) -> None:
    grey = ImageOps.grayscale(scene)
    tinted = ImageOps.colorize(grey, "#301800", "#ffeecc")
    assert abs(better(encode(grey.convert("RGB"), "png"), encode(tinted, "png"))) < 1
    assert fact(encode(tinted, "png"), "colour") < 3 < fact(encode(scene, "png"), "colour")


@given(st.lists(st.floats(0, 255, width=32), min_size=1, max_size=70), st.integers(0, 100))
def test_statistics_are_those_of_numpy(values: list[float], percent: int) -> None:
    for kind in (np.float32, np.float64):
        some = np.array(values, kind)
        assert quality._median(some) == np.median(some)
        assert quality._percentile(some, percent) == np.percentile(some, percent)
        assert np.array_equal(
            quality._median(some[:, None] * [1, 2]), np.median(some[:, None] * [1, 2], axis=0)
        )


@given(st.integers(1, 40), st.integers(1, 40))
def test_tiles_are_even_and_hold_each_place_once(high: int, wide: int) -> None:
    tiles = quality._tiles(high, wide)
    assert sorted(np.concatenate([one.ravel() for one in tiles]).tolist()) == list(range(high * wide))
    assert sum(len(one) for one in tiles) == min(high, 5) * min(wide, 5)
    for one in tiles:
        rows, columns = np.divmod(one, wide)
        for places, side in ((rows, high), (columns, wide)):
            lengths = np.ptp(places, axis=1) + 1
            assert set(lengths.tolist()) <= {max(side // 5, 1), -(-side // 5)}


@pytest.mark.parametrize("step", [2.5, 7.0, 24.0, 47.0])
def test_the_step_of_coefficients_is_found(step: float) -> None:
    rng = np.random.default_rng(int(step))
    multiples = np.sort(np.abs(rng.integers(0, 6, 300) * step + rng.normal(0, step / 20, 300)))
    high = [
        one
        for one in [*np.arange(2, 12, 0.5), *np.arange(12, 48)]
        if len(told := multiples[multiples >= 0.3 * one]) >= 48
        and np.cos(2 * np.pi / one * told).mean() > 0.5
    ]
    assert step in high
    assert quality._step(multiples.astype(np.float32)) == max(high)
    assert quality._step(np.sort(rng.uniform(0, 100, 300)).astype(np.float32)) == 0
    assert quality._step(multiples[:40].astype(np.float32)) == 0


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (16, 16), (40, 9), (64, 64)])
def test_tiny_pictures_have_facts(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(3).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    made = measure(encode(Image.fromarray(noise), "png"))
    if made is None:  # a single pixel is blank
        assert size == (1, 1)
        return
    assert made[0].shape == (len(FACTS),)
    assert np.isfinite(made[0]).all()
    both = facts_of(encode(Image.fromarray(noise), "png"), jpeg(Image.fromarray(noise)))
    assert np.isfinite(both.score()).all()
    compare(both, 0, 1)


def test_a_blank_picture_has_no_facts() -> None:
    assert measure(encode(Image.new("RGB", (80, 60), "red"), "png")) is None


def group_store(folder: Path, files: dict[str, bytes], angles: list[float]) -> Store:
    pictures = folder / "pictures"
    pictures.mkdir()
    items: list[dict[str, Any]] = []
    for name, data in files.items():
        path = pictures / f"{name}.{'gif' if data[:3] == b'GIF' else 'jpg'}"
        path.write_bytes(data)
        items.append(entry(path, name))
    return filled(folder / "store", items, near(angles))


def test_find_keeps_the_original_and_says_why(tmp_path: Path, scene: Scene) -> None:
    names = ("upscaled", "64 colours", "squashed")
    files = {"z-original": jpeg(scene)} | {f"a-{name}": EDITS[name](scene) for name in names}
    store = group_store(tmp_path, files, [0, 3, 4, 5])
    found = find_duplicates(store, rule=0.95, views=False)
    rows = found.clusters(["item_id", "keeper", "why"]).to_pylist()
    assert [row["item_id"] for row in rows if row["keeper"]] == ["z-original"]
    assert rows[0]["keeper"]
    assert "not enlarged" in rows[0]["why"]
    assert "all its colours" in rows[0]["why"]
    assert {row["why"] for row in rows[1:]} == {None}
    # A second search takes the facts from the store, whatever becomes of the files' names.
    again = find_duplicates(store, rule=0.95, views=False)
    assert again.clusters().equals(found.clusters())
    largest = find_duplicates(store, rule=0.95, views=False, keeper="largest", name="largest")
    rows = largest.clusters(["item_id", "keeper", "why"]).to_pylist()
    assert [row["item_id"] for row in rows if row["keeper"]] == ["a-upscaled"]
    assert rows[0]["why"] is None


def test_members_stay_near_their_keeper(tmp_path: Path, scene: Scene) -> None:
    # At .95 some 18 degrees are near: the enlarged one is near both, the original is not near the third.
    files = {"original": jpeg(scene), "large": EDITS["upscaled"](scene), "far": EDITS["64 colours"](scene)}
    store = group_store(tmp_path, files, [0, 15, 30])
    found = find_duplicates(store, rule=0.95, views=False, hamming=None)
    pairs = {(row["id_a"], row["id_b"]) for row in found.pairs().to_pylist()}
    assert ("far", "original") not in pairs
    rows = found.clusters().to_pylist()
    keeper = {row["group"]: row["item_id"] for row in rows if row["keeper"]}
    for row in rows:
        if not row["keeper"]:
            assert tuple(sorted((row["item_id"], keeper[row["group"]]))) in pairs
    assert [row["item_id"] for row in rows] == ["original", "large"]
    kept = {line.split(",")[0].strip('"') for line in (found.path / "keep.csv").read_text().splitlines()[1:]}
    assert kept == {"original", "far"}
    chain = find_duplicates(
        store, rule=0.95, views=False, hamming=None, grouping_by="components", name="chain"
    )
    assert chain.clusters()["item_id"][0].as_py() == "original"
    assert len(chain.clusters()) == 3


def test_a_file_that_is_gone_is_not_preferred_for_its_quality(tmp_path: Path, scene: Scene) -> None:
    files = {"original": jpeg(scene), "small": EDITS["halved"](scene)}
    store = group_store(tmp_path, files, [0, 3])
    find_duplicates(store, rule=0.95, views=False)
    (tmp_path / "pictures" / "original.jpg").unlink()
    found = find_duplicates(store, rule=0.95, views=False)
    rows = found.clusters().to_pylist()
    assert [row["item_id"] for row in rows if row["keeper"]] == ["small"]
