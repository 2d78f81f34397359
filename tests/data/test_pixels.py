"""Pixels: deep samples by content, transparency on a ground, blank pictures and frames."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from icehouse.data.images import BLANK_HASH, Picture, decode
from image_bytes import chunk, encoded, png
from PIL import Image, ImageDraw


def colours(height: int = 64, width: int = 96) -> np.ndarray:
    """A picture with detail of every size, whose hash a level of rounding does not change."""
    rough = np.random.default_rng(5).integers(0, 256, (8, 12, 3), np.uint8)
    return np.asarray(Image.fromarray(rough).resize((width, height), Image.Resampling.BICUBIC))


def grey(height: int = 64, width: int = 96) -> np.ndarray:
    return np.asarray(Image.fromarray(colours(height, width)).convert("L"))


def png16(values: np.ndarray, transparent: tuple[int, ...] = ()) -> bytes:
    """A PNG of 16-bit samples, which Pillow writes only for grey."""

    height, width = values.shape[:2]
    kind = {2: 0, 3: {2: 4, 3: 2, 4: 6}.get(values.shape[-1])}[values.ndim]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    key = [chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent))] if transparent else []
    return png(width, height, 16, kind or 0, rows, *key)


def tiff16(values: np.ndarray, tags: dict[int, int]) -> bytes:
    """A TIFF of grey samples as they are in memory, with tags of its own."""
    height, width = values.shape
    known = {256: width, 257: height, 258: 8 * values.itemsize, 259: 1, 262: 1, 277: 1, 278: height}
    known |= {273: 8 + 2 + 12 * 10 + 4, 279: values.nbytes} | tags
    known.setdefault(339, 1)
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(known.items()))
    return b"II*\0" + struct.pack("<IH", 8, len(known)) + entries + b"\0\0\0\0" + values.tobytes()


def off(picture: Picture, expected: np.ndarray) -> float:
    got = np.asarray(picture.image.convert("L") if expected.ndim == 2 else picture.image, np.float64)
    return float(np.abs(got - expected).max())


DEPTHS = {
    "16 bits, full": (np.uint16, 257, 0),
    "12 bits": (np.uint16, 16, 0),
    "10 bits": (np.uint16, 4, 0),
    "14 bits": (np.uint16, 64, 0),
    "8 bits in 16": (np.uint16, 1, 0),
    "8 bits in 32": (np.int32, 1, 0),
    "24 bits in 32": (np.int32, 65536, 0),
    "CT numbers": (np.int32, 16, -1024),
    "floats in 0 to 1": (np.float32, 1 / 255, 0),
    "floats of 12 bits": (np.float32, 16, 0),
    "floats below 0": (np.float32, 3, -500),
}


@pytest.mark.parametrize("name", DEPTHS)
def test_samples_are_scaled_by_content(name: str) -> None:
    kind, factor, start = DEPTHS[name]
    plain = grey()
    plain = ((plain.astype(np.float64) - plain.min()) / np.ptp(plain) * 255).astype(np.uint8)
    deep = (plain.astype(np.float64) * factor + start).astype(kind)
    picture = decode(encoded(Image.fromarray(deep), "TIFF"), hashed=True)
    assert off(picture, plain) <= 1
    same = decode(encoded(Image.fromarray(plain), "PNG"), hashed=True)
    assert ((picture.phash or 0) ^ (same.phash or 0)).bit_count() <= 4


def test_integers_are_scaled_as_the_same_floats_are() -> None:
    plain = grey().astype(np.int32)
    for values in (plain * 7 + 30000, plain - 100, plain // 128, plain * 100):
        whole = decode(encoded(Image.fromarray(values), "TIFF")).image
        assert (
            off(decode(encoded(Image.fromarray(values.astype(np.float32)), "TIFF")), np.asarray(whole)) == 0
        )


def test_a_narrow_range_is_stretched_not_lost() -> None:
    thermal = (29000 + grey().astype(np.uint16)).astype(np.uint16)
    assert np.ptp(np.asarray(decode(encoded(Image.fromarray(thermal), "PNG")).image)) == 255


@pytest.mark.parametrize("orientation", range(1, 9))
def test_both_orientations_of_a_deep_picture_look_the_same(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    deep, plain = Image.fromarray(grey().astype(np.uint16) * 16), Image.fromarray(grey())
    for kind in ("PNG", "TIFF"):
        upright = np.asarray(decode(encoded(plain, kind, exif=exif)).image)
        assert off(decode(encoded(deep, kind, exif=exif)), upright) <= 1
    tall = decode(encoded(deep.transpose(Image.Transpose.ROTATE_90), "PNG")).image
    wide = decode(encoded(deep, "PNG")).image.transpose(Image.Transpose.ROTATE_90)
    assert np.array_equal(np.asarray(tall), np.asarray(wide))


def test_white_may_be_zero_and_integers_unsigned() -> None:
    plain = grey().astype(np.int64)
    for values in (255 - plain, (255 - plain) * 257, 4095 - plain * 16):
        made = tiff16(values.astype(np.uint16), {262: 0})
        assert off(decode(made), plain.astype(np.uint8)) <= 2
    assert off(decode(tiff16(grey().astype(np.uint32) * 16843009, {})), grey()) <= 1


def test_infinite_and_missing_floats_are_black() -> None:
    values = grey().astype(np.float32) * 20 - 1000
    values[:4] = np.nan
    values[4:8] = -np.inf
    picture = decode(encoded(Image.fromarray(values), "TIFF"))
    assert picture.image.getpixel((50, 2)) == picture.image.getpixel((50, 6)) == (0, 0, 0)
    assert np.ptp(np.asarray(picture.image)[8:]) > 200


@pytest.mark.filterwarnings("error")
def test_floats_beyond_every_range_are_outliers() -> None:
    values = grey().astype(np.float32) * 20 - 1000
    good = decode(encoded(Image.fromarray(values), "TIFF"))
    values[0, :3] = 3.4e38, -3.4e38, 1e37
    picture = decode(encoded(Image.fromarray(values), "TIFF"))
    assert np.abs(np.asarray(picture.image, int) - np.asarray(good.image, int))[1:].max() <= 2


@pytest.mark.parametrize("factor", [257, 64, 16, 4, 1])
@pytest.mark.parametrize("alpha", [False, True])
def test_deep_colours_are_scaled_by_content_too(factor: int, alpha: bool) -> None:
    values = colours().astype(np.uint16) * factor
    if alpha:
        values = np.dstack([values, np.full(values.shape[:2], 65535, np.uint16)])
    assert off(decode(png16(values)), colours()) <= 2


@pytest.mark.parametrize("factor", [257, 16])
def test_deep_grey_with_alpha(factor: int) -> None:
    values = np.dstack([grey().astype(np.uint16) * factor, np.full(grey().shape, 65535, np.uint16)])
    assert off(decode(png16(values)), grey()) <= 2


def test_one_colour_may_be_transparent() -> None:
    logo = Image.new("RGB", (96, 64), (0, 0, 0))
    ImageDraw.Draw(logo).ellipse((10, 10, 80, 50), fill=(200, 30, 30))
    plain = np.asarray(logo)
    alpha = np.where(plain.any(axis=-1), 255, 0).astype(np.uint8)
    expected = np.asarray(decode(encoded(Image.fromarray(np.dstack([plain, alpha])), "PNG")).image)
    assert expected[0, 0].tolist() == [255, 255, 255]
    assert off(decode(encoded(logo, "PNG", transparency=(0, 0, 0))), expected) == 0
    assert off(decode(png16(plain.astype(np.uint16) * 257, (0, 0, 0))), expected) == 0
    shades = np.asarray(logo.convert("L"))
    expected = np.asarray(decode(encoded(Image.fromarray(shades), "PNG", transparency=0)).image)
    assert expected[0, 0].tolist() == [255, 255, 255]
    assert off(decode(png16(shades.astype(np.uint16) * 257, (0,))), expected) == 0


def test_the_transparent_colour_is_compared_in_16_bits() -> None:
    values = np.full((32, 32, 3), 700, np.uint16)
    values[8:20, 8:20] = (60000, 100, 701)
    values[0, 0] = (700, 700, 701)
    picture = decode(png16(values, (700, 700, 700)))
    assert picture.image.getpixel((31, 31)) == (255, 255, 255)
    assert picture.image.getpixel((0, 0)) != (255, 255, 255)
    assert picture.image.getpixel((10, 10))[0] > 200


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "TIFF"])
def test_light_art_lies_on_black_and_other_art_on_white(kind: str) -> None:
    on_black, on_white = ((255, 255, 255), (240, 230, 200)), ((20, 20, 60), (200, 30, 30))
    for ink in on_black + on_white:
        ground = 0 if ink in on_black else 255
        art = Image.new("RGBA", (120, 60), (0, 0, 0, 0))
        ImageDraw.Draw(art).ellipse((20, 10, 100, 50), fill=(*ink, 255))
        options = {"lossless": True} if kind == "WEBP" else {}
        picture = decode(encoded(art, kind, **options), hashed=True)
        assert picture.image.getpixel((0, 0)) == (ground,) * 3
        assert np.abs(np.array(picture.image.getpixel((60, 30))) - ink).max() <= 4
        assert not picture.blank


def test_a_white_page_with_words_stays_on_white() -> None:
    page = Image.new("RGBA", (120, 60), (255, 255, 255, 255))
    ImageDraw.Draw(page).rectangle((20, 20, 60, 30), fill=(0, 0, 0, 255))
    page.putalpha(Image.new("L", page.size, 255).point(lambda v: v))
    page.putpixel((0, 0), (255, 255, 255, 0))
    assert decode(encoded(page, "PNG")).image.getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_a_picture_of_one_colour_is_blank_and_its_hash_says_nothing(kind: str) -> None:
    for colour in ("white", "black", (120, 90, 40)):
        picture = decode(encoded(Image.new("RGB", (64, 48), colour), kind), hashed=True)
        assert (picture.blank, picture.phash) == (True, BLANK_HASH)
    picture = decode(encoded(Image.fromarray(colours()), kind), hashed=True)
    assert not picture.blank
    assert picture.phash != BLANK_HASH


def test_nothing_visible_is_blank_and_so_is_a_constant_deep_picture() -> None:
    clear = np.dstack([colours(), np.zeros((64, 96), np.uint8)])
    assert decode(encoded(Image.fromarray(clear), "PNG")).blank
    assert decode(encoded(Image.fromarray(np.full((20, 20), 3000, np.int32)), "TIFF")).blank


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
def test_the_first_frame_that_is_not_blank_is_taken(kind: str) -> None:
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    shown = Image.fromarray(colours(64, 64))
    frames = [Image.new("RGB", (64, 64), "white"), Image.new("RGB", (64, 64), "black"), shown]
    if kind == "TIFF":
        frames[2] = Image.fromarray(colours(40, 80))
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    picture = decode(data, hashed=True)
    assert not picture.blank
    assert picture.phash != BLANK_HASH
    assert (picture.width, picture.height) == frames[2].size
    assert np.abs(np.asarray(picture.image, np.float64) - np.asarray(frames[2])).mean() < 12
    first = decode(encoded(shown, kind, save_all=True, append_images=frames[:1])).image
    assert np.abs(np.asarray(first, np.float64) - np.asarray(shown)).mean() < 12


def test_an_animation_of_nothing_is_blank() -> None:
    frames = [Image.new("RGB", (32, 32), (k, k, k)) for k in range(0, 250, 50)]
    picture = decode(encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:]), hashed=True)
    assert (picture.blank, picture.phash, picture.image.getpixel((0, 0))) == (True, BLANK_HASH, (0, 0, 0))


@pytest.mark.parametrize("top", [255, 1023, 4095, 16383])
@pytest.mark.parametrize("colour", [False, True])
def test_a_hot_pixel_turns_no_picture_dark(top: int, colour: bool) -> None:
    shades = np.linspace(0, top, 6000).astype(np.uint16).reshape(60, 100)
    hot = shades.copy()
    hot[30, 50] = 65535
    seen = [
        np.asarray(
            decode(png16(np.dstack([grey] * 3)) if colour else encoded(Image.fromarray(grey), "PNG")).image
        )
        for grey in (shades, hot)
    ]
    differs = (seen[0] != seen[1]).any(axis=2)
    assert differs.sum() == 1
    assert differs[30, 50]


def test_few_bright_values_on_one_ground_are_the_picture() -> None:
    stars = np.zeros((100, 100), np.uint16)
    stars[50, 50] = 60_000
    assert not decode(encoded(Image.fromarray(stars), "PNG")).blank


def test_signed_bytes() -> None:
    shades = np.arange(256, dtype=np.uint8).reshape(16, 16)
    signed = Image.fromarray((shades.astype(int) - 128).astype(np.int8).view(np.uint8))
    picture = decode(encoded(signed, "TIFF", tiffinfo={339: 2}))
    np.testing.assert_array_equal(np.asarray(picture.image)[:, :, 0], shades)
