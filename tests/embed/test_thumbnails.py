"""Thumbnails: upright, and each content decoded once."""

from __future__ import annotations

import shutil
from pathlib import Path

from galleries import entry
from icehouse.embed.thumbnails import ImageFile, ThumbnailPool, thumbnails
from PIL import Image
from toys import picture


def test_exif_orientation(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(1, 320, 160).save(tmp_path / "turned.jpg", exif=exif)
    none, turned = thumbnails([None, tmp_path / "turned.jpg"], side=100)
    assert none is None
    assert turned is not None
    assert (turned.width, turned.height) == (50, 100)


def test_equal_content_is_encoded_once(tmp_path: Path) -> None:
    picture(1).save(tmp_path / "a.png")
    for name in "bcdefgh":
        shutil.copy2(tmp_path / "a.png", tmp_path / f"{name}.png")
    known = [entry(tmp_path / f"{name}.png", name) for name in "abcdefgh"]
    files = [ImageFile(tmp_path / i["path"], i["image_sha256"], i["bytes"], i["mtime_ns"]) for i in known]
    with ThumbnailPool(64, threads=4) as pool:
        first = pool.take([*files, None])
        again = pool.take(files[3:4])
        assert pool.made == 1
    assert first[-1] is None
    assert len({made.uri for made in (*first[:-1], *again) if made is not None}) == 1
