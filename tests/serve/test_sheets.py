"""Contact sheets of searches: self-contained, honest about broken pictures, and harmless whatever strangers wrote."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from html_page import HtmlPage
from icehouse.serve.sheets import contact_sheet, write_sheet
from icehouse.store.search import Hit
from PIL import Image


def picture(path: Path, size: tuple[int, int] = (640, 360), **options: object) -> Path:
    image = Image.new("RGB", size, (200, 30, 30))
    image.paste((30, 30, 200), (size[0] // 2, 0, *size))
    image.save(path, **options)
    return path


def hit(root: Path, path: str | None, **changes: object) -> Hit:
    values = {"item_id": "a", "path": path, "text": "a text", "score": 0.5, "rank": 1, "root": str(root)}
    return Hit(**(values | changes))


def test_pictures_are_inside_and_small(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    page = HtmlPage(contact_sheet([hit(tmp_path, "a.jpg")], query="a cat", feature="mini/image/joint"))
    (image,) = page.all("img")
    inside = Image.open(io.BytesIO(base64.b64decode(image["src"].split(",")[1])))
    assert inside.size == (320, 180) == (int(image["width"]), int(image["height"]))
    for expected in ("a cat", "1 hit in mini/image/joint", "0.500", "a text", "a.jpg"):
        assert expected in page.text


def test_broken_pictures_become_cards_that_say_why(tmp_path: Path) -> None:
    data = picture(tmp_path / "whole.jpg", size=(900, 700)).read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "page.jpg").write_text("<!doctype html><title>404</title>")
    (tmp_path / "folder.jpg").mkdir()
    names = ["whole", "cut", "empty", "page", "folder", "gone", "nul\0", "x" * 5000]
    hits = [hit(tmp_path, f"{name}.jpg", item_id=str(i), rank=i) for i, name in enumerate(names)]
    page = HtmlPage(contact_sheet(hits, query="q", feature="f"))
    assert len(page.all("li")) == len(names)
    assert len(page.all("img")) == 1
    for reason in ("damaged JPEG", "the file is empty", "markup", "the file is gone"):
        assert reason in page.text


def test_undecodable_names_and_long_texts(tmp_path: Path) -> None:
    name = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    hits = [hit(tmp_path, name, text="word " * 200_000)]
    text = write_sheet(tmp_path / "sheet.html", hits, query=name, feature="f").read_text(encoding="utf-8")
    assert "caf\ufffd.jpg" in text
    assert "…" in text
    assert len(text) < 40_000


def test_no_hits() -> None:
    assert "Nothing was found" in contact_sheet([], query="q", feature="f")
