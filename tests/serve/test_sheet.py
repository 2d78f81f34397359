"""Contact sheets: self-contained, honest about broken pictures, and harmless whatever strangers wrote."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from icehouse.embed.thumbnails import thumbnail
from icehouse.errors import UsageError
from icehouse.serve.sheet import contact_sheet, write_sheet
from icehouse.store.search import Hit
from icehouse.webpage import escape, page, user_text, write_page
from PIL import Image

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</style></p></li><h1>mine</h1>",
    "]]><!-- <svg/onload=alert(1)>",
    "&lt;b&gt; &amp;",
    "javascript:alert(1)",
]


class Reader(HTMLParser):
    """Collect elements with their attributes, and the text outside style sheets."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "rect", "path"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("rect", "path"):
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text.append(data)


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


def picture(path: Path, size: tuple[int, int] = (640, 360), **options: object) -> Path:
    image = Image.new("RGB", size, (200, 30, 30))
    image.paste((30, 30, 200), (size[0] // 2, 0, *size))
    image.save(path, **options)
    return path


def hit(root: Path, path: str | None, **changes: object) -> Hit:
    values = {"item_id": "a", "path": path, "text": "a text", "score": 0.5, "rank": 1, "root": str(root)}
    return Hit(**(values | changes))


def assert_harmless(reader: Reader) -> None:
    allowed = {
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "header",
        "p",
        "h1",
        "main",
        "ol",
        "li",
        "div",
        "span",
        "i",
        "b",
    }
    allowed |= {"bdi", "img", "svg", "rect", "path", "code"}
    assert {tag for tag, _ in reader.elements} <= allowed
    for _, attributes in reader.elements:
        assert not [
            name for name in attributes if name.startswith("on") or name in ("href", "srcset", "formaction")
        ]
        assert (attributes.get("src") or "data:image/webp;base64,").startswith("data:image/webp;base64,")


def test_pictures_are_inside_and_small(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    reader = read(contact_sheet([hit(tmp_path, "a.jpg")], query="a cat", feature="mini/image/joint"))
    assert_harmless(reader)
    (image,) = [attributes for tag, attributes in reader.elements if tag == "img"]
    inside = Image.open(io.BytesIO(base64.b64decode(str(image["src"]).split(",")[1])))
    assert inside.size == (320, 180) == (int(str(image["width"])), int(str(image["height"])))
    text = " ".join(reader.text)
    for expected in ("a cat", "mini/image/joint", "0.500", "a text", "a.jpg"):
        assert expected in text


def test_nothing_is_fetched_and_nothing_runs(tmp_path: Path) -> None:
    text = contact_sheet([hit(tmp_path, None)], query="q", feature="f")
    policies = [
        a["content"] for tag, a in read(text).elements if a.get("http-equiv") == "Content-Security-Policy"
    ]
    assert len(policies) == 1
    assert "default-src 'none'" in str(policies[0])
    assert "script" not in str(policies[0])
    assert not re.search(r"https?:|@import|url\(|<script|<link", text)


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(tmp_path / "turned.jpg", exif=exif)
    small = thumbnail(tmp_path / "turned.jpg")
    assert (small.width, small.height) == (180, 320)


def test_broken_pictures_become_tiles_that_say_why(tmp_path: Path) -> None:
    data = picture(tmp_path / "whole.jpg", size=(900, 700)).read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "page.jpg").write_text("<!doctype html><title>404</title>")
    (tmp_path / "folder.jpg").mkdir()
    names = [
        "whole.jpg",
        "cut.jpg",
        "empty.jpg",
        "page.jpg",
        "folder.jpg",
        "gone.jpg",
        "nul\0.jpg",
        "x" * 5000,
    ]
    hits = [hit(tmp_path, name, item_id=str(i), rank=i) for i, name in enumerate(names)]
    reader = read(contact_sheet(hits, query="q", feature="f"))
    assert len([tag for tag, _ in reader.elements if tag == "li"]) == len(names)
    assert len([tag for tag, _ in reader.elements if tag == "img"]) == 1
    text = " ".join(reader.text)
    for reason in ("damaged JPEG", "the file is empty", "markup", "the file is gone"):
        assert reason in text


@pytest.mark.parametrize("bad", HOSTILE)
def test_hostile_values_everywhere(tmp_path: Path, bad: str) -> None:
    values = {"item_id": bad, "text": bad, "split": bad, "labels": {bad: bad}}
    reader = read(contact_sheet([hit(tmp_path, bad, **values)], query=bad, feature=bad))
    assert_harmless(reader)
    assert " ".join(reader.text).count(bad) >= 6


@settings(deadline=None, max_examples=150)
@given(st.text(st.characters(), max_size=60))
def test_any_text_survives_as_text(value: str) -> None:
    """The parser gets back what was written, but for what has no business in a page."""
    reader = read(user_text(value))
    assert [tag for tag, _ in reader.elements] == ["bdi"]
    back = "".join(reader.text)
    assert not set(back) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\x00\x1b\u2028")
    back.encode()  # no lone surrogate is left
    attribute = read(f'<img alt="{escape(value)}">').elements
    assert [list(attributes) for _, attributes in attribute] == [["alt"]]
    ordinary = re.sub("[^ -~\u00a0-\u1fff]", "", value)
    if ordinary == value:
        assert back == value


def test_direction_tricks_are_shown() -> None:
    assert escape("photo\u202egpj.exe") == "photo[U+202E]gpj.exe"
    assert escape("\x1b[2J") == "␛[2J"
    assert 'dir="auto"' in user_text("هكذا")


def test_undecodable_file_names_can_be_written(tmp_path: Path) -> None:
    name = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    written = write_sheet(tmp_path / "sheet.html", [hit(tmp_path, name)], query=name, feature="f")
    assert "caf\ufffd.jpg" in written.read_text(encoding="utf-8")


def test_long_texts_are_cut(tmp_path: Path) -> None:
    text = contact_sheet([hit(tmp_path, None, text="word " * 200_000)], query="q", feature="f")
    assert len(text) < 20_000
    assert "…" in text


def test_no_hits() -> None:
    assert "Nothing was found" in contact_sheet([], query="q", feature="f")


def test_unwritable(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot write"):
        write_page(tmp_path / "missing" / "page.html", page("t", ""))
