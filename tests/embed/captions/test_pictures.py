"""Pictures as they are sent."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from icehouse.embed.captions.questions import MIN_SIDE, load, prepare
from icehouse.errors import ImageError
from PIL import Image


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)  # type: ignore[arg-type]
    return out.getvalue()


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    assert image.format == "JPEG"
    return image


@given(st.integers(1, 900), st.integers(1, 900), st.integers(32, 700))
@settings(deadline=None, max_examples=25)
def test_sides_are_bounded_and_the_shape_kept(width: int, height: int, most: int) -> None:
    sent = prepare(encoded(Image.new("RGB", (width, height), "red")), most)
    made = opened(sent)
    assert MIN_SIDE <= min(made.size)
    assert max(made.size) <= most
    if not sent.changed:
        scale = min(1, most / max(width, height))
        assert made.size == (round(width * scale), round(height * scale))


@pytest.mark.parametrize(
    ("size", "sent", "changed"),
    [
        ((300, 200), (300, 200), ""),
        ((16, 16), (32, 32), "enlarged"),
        ((1, 1), (32, 32), "enlarged"),
        ((468, 24), (624, 32), "enlarged"),
        ((24, 468), (32, 624), "enlarged"),
        ((400, 12000), (672, 560), "in strips"),
        ((12000, 400), (560, 672), "in strips"),
        ((640, 1), (32, 33), "in strips, enlarged"),
    ],
)
def test_small_and_very_long_pictures_are_sent_so_that_a_server_can_take_them(
    size: tuple[int, int], sent: tuple[int, int], changed: str
) -> None:
    made = prepare(encoded(Image.new("RGB", size, "red")))
    assert (opened(made).size, made.changed) == (sent, changed)


def test_little_room_pads_and_strips_keep_their_order() -> None:
    made = prepare(encoded(Image.new("RGB", (300, 60), "red")), 64)
    assert (opened(made).size, made.changed) == ((64, 32), "padded")
    tall = Image.linear_gradient("L").resize((20, 2500))
    sheet = opened(prepare(encoded(tall))).convert("L")
    # Downwards in the first column, and on at the top of the next.
    tops = [sheet.getpixel((x + 10, 1)) for x in range(0, sheet.width - 10, 20)]
    assert tops == sorted(tops)
    assert tops[0] < 15
    assert tops[-1] > 200


def test_rotation_is_applied_and_metadata_left_behind() -> None:
    image = Image.new("RGB", (80, 40), "white")
    image.paste("black", (0, 0, 40, 40))
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "somebody's camera"
    made = opened(prepare(encoded(image, "JPEG", quality=95, exif=exif)))
    assert made.size == (40, 80)
    assert made.getpixel((20, 10)) < (60, 60, 60)
    assert made.getpixel((20, 70)) > (200, 200, 200)
    assert not made.getexif()
    assert b"camera" not in prepare(encoded(image, "JPEG", exif=exif))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "I;16"])
def test_any_mode_becomes_rgb(mode: str) -> None:
    kind = "TIFF" if mode in ("CMYK", "I;16") else "PNG"
    assert opened(prepare(encoded(Image.new(mode, (8, 8)), kind))).mode == "RGB"


def test_the_file_that_still_holds_the_picture_is_taken(tmp_path: Path) -> None:
    data = encoded(Image.new("RGB", (8, 8)))
    sha = hashlib.sha256(data).hexdigest()
    (tmp_path / "b.png").write_bytes(data)
    (tmp_path / "c.png").write_bytes(b"another")
    files = [tmp_path / name for name in ("a.png", "c.png", "b.png")]
    assert load(files, sha) == prepare(data)
    with pytest.raises(ImageError, match=r"c\.png has changed"):
        load(files[:2], sha)
    with pytest.raises(ImageError, match="no file is known"):
        load([], sha)
