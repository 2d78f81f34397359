"""Pictures as they are sent."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from icehouse.embed.captions.pictures import load, prepare
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
def test_the_longest_side_is_bounded_and_the_shape_kept(width: int, height: int, most: int) -> None:
    made = opened(prepare(encoded(Image.new("RGB", (width, height), "red")), most))
    assert max(made.size) == min(max(width, height), most)
    scale = max(made.size) / max(width, height)
    assert made.size == (max(1, round(width * scale)), max(1, round(height * scale)))


def test_rotation_is_applied_and_metadata_left_behind() -> None:
    image = Image.new("RGB", (40, 20), "white")
    image.paste("black", (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "somebody's camera"
    made = opened(prepare(encoded(image, "JPEG", quality=95, exif=exif)))
    assert made.size == (20, 40)
    assert made.getpixel((10, 5)) < (60, 60, 60)
    assert made.getpixel((10, 35)) > (200, 200, 200)
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
