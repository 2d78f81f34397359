"""Hashes of parts of a picture: a crop, a frame or a band is near what it was made of, other pictures are not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from icehouse.data.images import ORIENTATIONS, oriented, perceptual_hash
from icehouse.data.transforms import GRADED
from icehouse.dups import views as views_module
from icehouse.dups.hashing import VIEWS, WHOLE_VIEWS, informative
from icehouse.dups.views import ColourPlanes, content_box, near_ground, picture_views, view_hashes
from PIL import Image, ImageDraw
from toys import picture


def apart(left: np.ndarray, right: np.ndarray) -> int:
    """Least distance of a whole view of one and any of the other."""
    pairs = [(a[:WHOLE_VIEWS, None], b[None]) for a, b in ((left, right), (right, left))]
    return min(int(np.bitwise_count(a ^ b).min()) for a, b in pairs)


def test_the_first_is_the_perceptual_hash() -> None:
    for seed in range(8):
        image = picture(seed, 200, 150)
        hashes = view_hashes(image)
        assert hashes.shape == (VIEWS,)
        assert hashes.dtype == np.uint64
        assert (int(hashes[0]) ^ perceptual_hash(image)).bit_count() <= 4


@pytest.mark.parametrize(
    "name", ["pad", "caption_band", "crop_5", "crop_10", "mirror", "recompress", "resize"]
)
def test_changed_copies_are_near(name: str) -> None:
    near = []
    for seed in range(12):
        image = picture(seed, 240, 180)
        copy = GRADED[name](image, np.random.default_rng(seed))
        near.append(apart(view_hashes(image), view_hashes(copy)) <= 6)
    assert np.mean(near) >= 0.9


def test_other_pictures_are_far() -> None:
    hashes = [view_hashes(picture(seed, 240, 180)) for seed in range(12)]
    assert min(apart(a, b) for k, a in enumerate(hashes) for b in hashes[:k]) > 4


@pytest.mark.parametrize(
    "size", [(1, 1), (160, 160), (256, 256), (300, 77), (77, 300), (255, 257), (700, 500)]
)
def test_planes_are_what_pillow_scales_to(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(size[0]).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    scaled = np.asarray(image.resize((256, 256), Image.Resampling.BOX))
    assert np.array_equal(ColourPlanes.of(image).whole(), scaled.transpose(2, 0, 1))


@given(ground=st.floats(0, 255).map(lambda level: round(level * 2) / 2), levels=st.integers(1, 40))
def test_levels_near_a_ground(ground: float, levels: int) -> None:
    plane = np.arange(256, dtype=np.uint8)
    near = near_ground(np.stack([plane] * 3), np.array([ground] * 3), levels)
    assert np.array_equal(near, np.abs(plane - ground) < levels)


def test_margins_and_bands_are_seen() -> None:
    image = picture(1, 200, 200)
    framed = Image.new("RGB", (240, 300), (0, 0, 0))
    framed.paste(image, (20, 60))
    ImageDraw.Draw(framed).text((60, 20), "seen today", (255, 255, 255))
    assert content_box(framed) == pytest.approx((20, 60, 220, 260), abs=3)
    assert content_box(image) == (0, 0, 200, 200)


@pytest.mark.parametrize("size", [(1, 1), (2, 300), (300, 2), (33, 31)])
@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (9, 99, 200)])
def test_flat_and_tiny_pictures_pass(size: tuple[int, int], colour: tuple[int, int, int]) -> None:
    image = Image.new("RGB", size, colour)
    left, top, right, bottom = content_box(image)
    assert 0 <= left < right <= size[0]
    assert 0 <= top < bottom <= size[1]
    assert view_hashes(image).shape == (VIEWS,)


@pytest.mark.parametrize("level", [0, 1, 7, 128, 255])
def test_a_flat_picture_has_no_hash_that_says_something(level: int) -> None:
    """What rounding leaves of its coefficients once made of grey 1 and grey 128 the same picture, and of 7 another."""
    assert not informative(view_hashes(Image.new("RGB", (200, 150), (level, level, level)))).any()
    stripes = Image.new("RGB", (200, 150), (level, level, level))
    stripes.paste((255 - level, 90, 90), (0, 0, 90, 150))
    assert not informative(view_hashes(stripes)).any()


TURNS: dict[str, list[Image.Transpose]] = {
    "upright": [],
    "mirror": [Image.Transpose.FLIP_LEFT_RIGHT],
    "rotate_180": [Image.Transpose.ROTATE_180],
    "flip": [Image.Transpose.FLIP_TOP_BOTTOM],
    "transpose": [Image.Transpose.TRANSPOSE],
    "rotate_90": [Image.Transpose.ROTATE_270],  # Pillow turns to the left
    "transverse": [Image.Transpose.TRANSVERSE],
    "rotate_270": [Image.Transpose.ROTATE_90],
}


def turn(image: Image.Image, name: str) -> Image.Image:
    for step in TURNS[name]:
        image = image.transpose(step)
    return image


def test_turned_coefficients_are_those_of_the_turned_picture() -> None:
    assert tuple(TURNS) == ORIENTATIONS
    full, _ = views_module._transforms()
    pixels = np.random.default_rng(1).uniform(0, 255, (128, 128))
    made = oriented(full @ pixels @ full.T)
    for name, low in zip(ORIENTATIONS, made, strict=True):
        turned = np.asarray(turn(Image.fromarray(pixels), name))
        assert np.allclose(low, full @ turned @ full.T), name


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_turned_hashes_are_those_of_the_turned_picture(name: str) -> None:
    """Up to a bit or two: Pillow rounds between its passes over rows and over columns."""
    k = ORIENTATIONS.index(name)
    for seed in range(8):
        image = picture(seed, 200, 150)
        other = picture_views(turn(image, name))
        views = picture_views(image)
        assert np.bitwise_count(views.turned[0, k] ^ other.hashes[0]) <= 2
        assert np.abs(np.asarray(turn(Image.fromarray(views.thumb), name), int) - other.thumb).max() <= 2
        back = {"rotate_90": "rotate_270", "rotate_270": "rotate_90"}.get(name, name)
        assert np.bitwise_count(other.turned[0, ORIENTATIONS.index(back)] ^ views.hashes[0]) <= 2


def test_a_thumbnail_is_the_picture_in_grey() -> None:
    image = picture(3, 320, 240)
    thumb = picture_views(image).thumb
    wanted = np.asarray(image.convert("L").resize((64, 64), Image.Resampling.BOX), int)
    assert thumb.shape == (64, 64)
    assert np.abs(thumb - wanted).mean() < 4
