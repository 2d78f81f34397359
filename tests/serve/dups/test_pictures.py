"""Thumbnails of the gallery: upright, and each content decoded once."""

from __future__ import annotations

import shutil
from pathlib import Path

from galleries import entry
from icehouse.serve.dups.pictures import Pictures, Source
from PIL import Image
from toys import picture


def test_exif_orientation(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(1, 320, 160).save(tmp_path / "turned.jpg", exif=exif)
    with Pictures(100) as pictures:
        (taken,) = pictures.take([Source(tmp_path / "turned.jpg")])
    assert taken is not None
    assert (taken.thumbnail.width, taken.thumbnail.height) == (50, 100)


def test_equal_content_is_encoded_once(tmp_path: Path) -> None:
    picture(1).save(tmp_path / "a.png")
    for name in "bcdefgh":
        shutil.copy2(tmp_path / "a.png", tmp_path / f"{name}.png")
    known = [entry(tmp_path / f"{name}.png", name) for name in "abcdefgh"]
    sources = [Source(tmp_path / i["path"], i["image_sha256"], i["bytes"], i["mtime_ns"]) for i in known]
    with Pictures(64, threads=4) as pictures:
        first = pictures.take([*sources, None])
        again = pictures.take(sources[3:4])
        assert pictures.made == 1
    assert first[-1] is None
    assert {taken.thumbnail.uri for taken in (*first[:-1], *again) if taken} == {first[0].thumbnail.uri}  # type: ignore[union-attr]
