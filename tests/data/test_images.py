"""Decoding: every format to upright 8-bit RGB, every damaged file to one sentence."""

from __future__ import annotations

import io

import imagehash
import numpy as np
import pytest
from icehouse.data import images
from icehouse.data.image_files import SNIFFED, image_format
from icehouse.data.images import BACKGROUND, decode
from icehouse.errors import ImageError
from image_bytes import encoded, png, scene
from PIL import Image, ImageOps


def difference(a: Image.Image, b: Image.Image) -> float:
    return float(np.abs(np.asarray(a, np.float32) - np.asarray(b, np.float32)).mean())


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "PPM"])
def test_formats(kind: str) -> None:
    data = encoded(scene(), kind)
    picture = decode(data)
    assert image_format(data[:SNIFFED]) == kind
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
    return png(width, height, 8, 2, b"\0" * 4096)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b"<html><body>gone</body></html>", "markup: a web page"),
        (b"just words", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image: PostScript"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n",
            "Git LFS pointer.*git lfs pull",
        ),
        (b"../../.git/annex/objects/x/y/SHA256E-s9", "git-annex"),
        (b"\xef\xbb\xbf\r\n<!DOCTYPE html><title>404</title>", "a web page"),
        (b'<?xml version="1.0"?>\n<!-- made by -->\n<svg xmlns="x"/>', "SVG"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "XML"),
        (b'{"error": "not found"}', "JSON"),
        (b"%PDF-1.7\n", "PDF"),
        (b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41" + b"\0" * 40, "video"),
        (b"\x1aE\xdf\xa3\x01\0\0\0", "WebM"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"8BPS\0\1", "Photoshop"),
        (b"data:image/jpeg;base64,/9j/4AAQ", "base64"),
        (b"\0\5\x16\7\0\2\0\0Mac OS X", "metadata"),
        (b"PK\3\4", "archive"),
        (b"\0" * 4096, "zero bytes"),
        (encoded(scene(), "JPEG")[:900], "damaged JPEG"),
        (encoded(scene(), "PNG")[:700], "damaged PNG"),
        (png_of_promises(20_000, 14_000), "bomb; --max-pixels"),
        (png_of_promises(60_000, 60_000), "bomb"),
        (b"\xff\xd8\xff", "JPEG|not an image|header"),
    ],
)
def test_bad_bytes_get_one_sentence(data: bytes, says: str) -> None:
    with pytest.raises(ImageError, match=says) as caught:
        decode(data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "head", [b"", b"P1 is a name", b"BMW drives", b"II* and so on", b"GIF", b"RIFF1234WAVE"]
)
def test_text_is_no_image(head: bytes) -> None:
    assert image_format(head) is None


def test_very_large_pictures_are_decoded_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "WHOLE_PIXELS", 300_000)
    for kind in ("JPEG", "PNG"):
        data = encoded(scene(1203, 901), kind)
        picture = decode(data, hashed=True)
        assert picture.image.size == (602, 451), kind
        assert (picture.width, picture.height) == (1203, 901)
        assert picture.phash == decode(data, hashed=True, shortest=224).phash
        assert difference(picture.image, scene(1203, 901).reduce(2)) < 3


def test_pixels_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert images.MAX_PIXELS > 2 * 12_000 * 9_000
    data = encoded(scene(100, 80), "PNG")
    try:
        images.set_max_pixels(7_999)
        with pytest.raises(ImageError, match=r"^100 x 80 pixels: more than 7,999.*--max-pixels"):
            decode(data)
        images.set_max_pixels(8_000)
        assert decode(data).width == 100
        monkeypatch.setenv("ICEHOUSE_MAX_PIXELS", "7_000")
        images.set_max_pixels(None)
        with pytest.raises(ImageError, match="more than 7,000"):
            decode(data)
    finally:
        monkeypatch.undo()
        images.set_max_pixels(None)


def test_memory_is_looked_at_before_a_large_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    assert images.available_memory() is None or images.available_memory() > 0
    monkeypatch.setattr(images, "available_memory", lambda: 500_000_000)
    with pytest.raises(ImageError, match=r"12000 x 9000 pixels need about 0.9 GB.* 0.5 GB are free"):
        decode(png_of_promises(12_000, 9_000))
    with pytest.raises(ImageError, match="damaged PNG"):
        decode(png_of_promises(4_000, 3_000))


def netpbm() -> dict[str, tuple[bytes, np.ndarray]]:
    """Files of the Netpbm formats, as scanners and cameras write them, and the grey that they hold."""
    y, x = np.mgrid[:48, :72]
    grey = ((3 * x + 2 * y) % 256).astype(np.uint8)
    colour = np.dstack([grey, grey, grey])
    ink = (grey < 100).astype(int)

    def ascii_of(values: np.ndarray, between: str = " ") -> bytes:
        return "\n".join(between.join(map(str, row)) for row in values.reshape(48, -1).tolist()).encode()

    return {
        "ascii.pbm": (b"P1\n# ink is 1\n72 48\n" + ascii_of(ink), 255 - 255 * ink),
        "tight.pbm": (b"P1 72 48\n" + ascii_of(ink, ""), 255 - 255 * ink),
        "packed.pbm": (b"P4\n72 48\n" + np.packbits(ink, axis=1).tobytes(), 255 - 255 * ink),
        "ascii.pgm": (b"P2\n72 48\n255\n" + ascii_of(grey), grey),
        "eight.PGM": (b"P5 72 48 255\n" + grey.tobytes(), grey),
        "comments.pgm": (b"P5 # a\n72\n# b\n48\n#c\n255\n" + grey.tobytes(), grey),
        "twelve.pgm": (b"P5\n72 48\n4095\n" + (grey.astype(np.uint16) * 16).astype(">u2").tobytes(), grey),
        "four.pgm": (b"P5\n72 48\n15\n" + (grey // 16).tobytes(), grey // 16 * 17),
        "ascii.pnm": (b"P3\n72 48\n255\n" + ascii_of(colour), grey),
        "raw.ppm": (b"P6\n72 48\n255\n" + colour.tobytes(), grey),
        "deep.ppm": (b"P6\n72 48\n65535\n" + (colour.astype(np.uint16) * 257).astype(">u2").tobytes(), grey),
    }


@pytest.mark.parametrize("name", netpbm())
def test_netpbm(name: str) -> None:
    data, grey = netpbm()[name]
    assert image_format(data[:SNIFFED]) == "PPM"
    picture = decode(data, hashed=True)
    assert (picture.width, picture.height) == (72, 48)
    assert np.abs(np.asarray(picture.image, int) - np.asarray(grey, int)[..., None]).max() <= 2
    with pytest.raises(ImageError, match="damaged"):
        decode(data[: len(data) // 2])


def test_the_tables_of_a_jpeg_come_with_its_picture() -> None:
    data = encoded(scene(), "JPEG", quality=70)
    with Image.open(io.BytesIO(data)) as raw:
        assert decode(data, shortest=16).tables == getattr(raw, "quantization", None) != {}
    assert decode(encoded(scene(), "PNG")).tables is None


def test_a_plugin_that_cannot_be_loaded_is_no_fault_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    images._formats.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(images, "_PLUGINS", ("Jpeg", "NoSuch"))
        with pytest.raises(ModuleNotFoundError, match="NoSuchImagePlugin"):
            decode(encoded(Image.new("RGB", (40, 40), "red"), "PNG"))
    assert decode(encoded(Image.new("RGB", (40, 40), "red"), "PNG")).width == 40
