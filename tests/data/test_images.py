"""Decoding: every format to upright 8-bit RGB, every damaged file to one sentence."""

from __future__ import annotations

import io
import struct
import zlib

import imagehash
import numpy as np
import pytest
from icehouse.data.images import BACKGROUND, decode
from icehouse.errors import ImageError
from PIL import Image, ImageOps


def scene(width: int = 96, height: int = 64) -> Image.Image:
    """A smooth picture without symmetry, so that a turn or a flip shows."""
    y, x = np.mgrid[0:height, 0:width]
    red = 255 * x / width
    green = 255 * y / height
    blue = 127 + 120 * np.sin(x / 9.0) * np.cos(y / 17.0)
    return Image.fromarray(np.stack([red, green, blue], axis=-1).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def difference(a: Image.Image, b: Image.Image) -> float:
    return float(np.abs(np.asarray(a, np.float32) - np.asarray(b, np.float32)).mean())


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF"])
def test_formats(kind: str) -> None:
    picture = decode(encoded(scene(), kind))
    assert (picture.format, picture.width, picture.height) == (kind, 96, 64)
    assert picture.image.mode == "RGB"
    assert difference(picture.image, scene()) < 8


def test_heic() -> None:
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    picture = decode(encoded(scene(), "HEIF"))
    assert picture.format == "HEIF"
    assert difference(picture.image, scene()) < 8


def test_heic_without_the_extra_names_it() -> None:
    with pytest.raises(ImageError, match=r"icehouse\[heic\]|unreadable|damaged"):
        decode(b"\x00\x00\x00\x18ftypheic" + b"\x00" * 64)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("shortest", [None, 16])
def test_exif_rotation(kind: str, orientation: int, shortest: int | None) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(scene(), kind, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    picture = decode(data, shortest=shortest)
    assert (picture.width, picture.height) == upright.size
    assert difference(picture.image, upright.resize(picture.image.size, Image.Resampling.BOX)) < 6


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "lime", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(data).image.getpixel((8, 8)) == (255, 0, 0)


def test_sixteen_bit_grey() -> None:
    ramp = np.linspace(0, 65535, 64 * 32).reshape(32, 64).astype(np.uint16)
    picture = decode(encoded(Image.fromarray(ramp), "PNG"))
    assert difference(picture.image.convert("L"), Image.fromarray((ramp / 257).round().astype(np.uint8))) < 1


def test_float_tiff_in_unit_range() -> None:
    ramp = np.linspace(0, 1, 64 * 32, dtype=np.float32).reshape(32, 64)
    picture = decode(encoded(Image.fromarray(ramp), "TIFF"))
    assert difference(picture.image.convert("L"), Image.fromarray((ramp * 255).round().astype(np.uint8))) < 1


def test_palette_and_cmyk() -> None:
    assert difference(decode(encoded(scene().quantize(256), "PNG")).image, scene()) < 12
    assert difference(decode(encoded(scene().convert("CMYK"), "JPEG", quality=95)).image, scene()) < 8


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_alpha_on_a_fixed_background(mode: str) -> None:
    clear = Image.new("RGBA", (16, 16), (255, 0, 0, 0))
    if mode == "P":
        data = encoded(clear.convert("RGB").quantize(4), "PNG", transparency=0)
    else:
        data = encoded(clear.convert(mode), "PNG")
    assert decode(data).image.getpixel((3, 3)) == BACKGROUND


def test_phash_is_imagehash() -> None:
    data = encoded(scene(200, 150), "JPEG")
    expected = int(str(imagehash.phash(Image.open(io.BytesIO(data)))), 16)
    assert decode(data, hashed=True).phash == expected


def test_phash_does_not_depend_on_how_small_the_picture_may_be() -> None:
    for kind in ("JPEG", "PNG"):
        data = encoded(scene(1200, 900), kind)
        assert len({decode(data, shortest=s, hashed=True).phash for s in (None, 64, 224, 448)}) == 1


def test_shrinking_keeps_the_shortest_side() -> None:
    for kind in ("JPEG", "PNG"):
        data = encoded(scene(1000, 700), kind)
        for shortest in (64, 200, 336, 699, 700, 2000):
            picture = decode(data, shortest=shortest)
            assert min(picture.image.size) >= min(shortest, 700)
            assert (picture.width, picture.height) == (1000, 700)
    assert decode(encoded(scene(1000, 700), "JPEG"), shortest=224).image.size == (500, 350)
    assert decode(encoded(scene(1200, 675), "JPEG"), shortest=224).image.size == (1200, 675), "675 is odd"


def png_of_promises(width: int, height: int) -> bytes:
    """A few bytes of PNG that claim to be `width` x `height` pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 4096))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b"<html><body>gone</body></html>", "markup"),
        (b"just words", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (encoded(scene(), "JPEG")[:900], "damaged JPEG"),
        (encoded(scene(), "PNG")[:700], "damaged PNG"),
        (png_of_promises(10_000, 9_000), "bomb"),
        (png_of_promises(60_000, 60_000), "bomb"),
        (b"\xff\xd8\xff", "JPEG|not an image|header"),
    ],
)
def test_bad_bytes_get_one_sentence(data: bytes, says: str) -> None:
    with pytest.raises(ImageError, match=says) as caught:
        decode(data)
    assert "\n" not in str(caught.value)
