"""Rendering of pages: nothing is fetched, nothing runs, and strangers' texts stay texts wherever they stand."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import icehouse
import pytest
from html_page import HOSTILE, HtmlPage
from hypothesis import given, settings
from hypothesis import strategies as st
from icehouse.embed.thumbnails import Thumbnail
from icehouse.errors import UsageError
from icehouse.store.files import publish_text
from icehouse.web.render import Card, Label, clean, render

WEB = Path(icehouse.__file__).parent / "web"
REORDERING = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def sheet(value: str, **changes: object) -> str:
    """A page with `value` wherever a page takes a text from outside."""
    card = Card(
        value, Thumbnail(None, problem=value), value, value, [Label(value, value, True)], value + "/", 0.5
    )
    data = {"title": value, "feature": value, "hits": [{"rank": 1, "score": 0.5, "card": card}]}
    return render("search.html", **data | changes)


@pytest.mark.parametrize("bad", HOSTILE)
def test_hostile_texts_stay_texts(bad: str) -> None:
    picture = Thumbnail("data:image/webp;base64,AAAA", 3, 2)
    with_picture = sheet(bad, hits=[{"rank": 1, "score": 0.5, "card": Card(bad, picture, alt=bad)}])
    assert HtmlPage(with_picture).all("img") == [
        {"src": picture.uri, "width": "3", "height": "2", "alt": bad, "loading": "lazy", "decoding": "async"}
    ]
    page = HtmlPage(sheet(bad))
    assert page.text.count(bad) >= 8
    assert "script" not in page.policy


@settings(deadline=None, max_examples=150)
@given(st.text(st.characters(), max_size=60))
def test_any_text_survives_as_text(value: str) -> None:
    """The parser gets back what was written, but for what has no business in a page."""
    text = sheet(value)
    text.encode()  # no lone surrogate is left
    assert not set(text) & (REORDERING | set("\x00\x1b\u2028\r\x7f"))
    page = HtmlPage(text)
    if re.fullmatch("[ -~\u00a0-\u1fff]*", value):
        assert page.texts[page.texts.index("icehouse search") + 2] == value or not value


def test_direction_tricks_and_control_characters_are_shown() -> None:
    assert clean("photo\u202egpj.exe") == "photo[U+202E]gpj.exe"
    assert clean("\x1b[2J\x7f\ud800") == "␛[2J␡\ufffd"
    assert clean("tab\tline\n") == "tab\tline\n"
    assert '<bdi dir="auto">هكذا</bdi>' in sheet("هكذا")


def test_a_page_needs_nothing_and_forbids_the_rest() -> None:
    text = sheet("q")
    assert HtmlPage(text).policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline';")
    assert not re.search(r"https?:|@import|url\(|<script|<link", text)


@pytest.mark.parametrize("path", sorted(WEB.rglob("*.*")), ids=lambda path: path.name)
def test_no_template_script_or_style_weakens_a_page(path: Path) -> None:
    """No escaping is switched off, no inline handler and nothing from elsewhere; scripts never build markup."""
    text = path.read_text(encoding="utf-8") if path.suffix in (".html", ".css", ".js") else ""
    assert not re.search(r"\|\s*safe\b|autoescape|\son\w+=|https?:|//\w+\.|@import|url\(|javascript:", text)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|eval\(|document\.write", text)
    assert clean(text) == text


def test_jinja_is_imported_by_the_first_page_only() -> None:
    code = "import sys, icehouse.web.render, icehouse.cli; sys.exit('jinja2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_pages_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = publish_text(tmp_path / "page.html", "ä")
    assert path.read_bytes() == "ä".encode()
    with pytest.raises(UsageError, match="cannot write"):
        publish_text(tmp_path / "missing" / "page.html", "")
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]


def test_every_template_and_file_ships() -> None:
    patterns = tomllib.loads((WEB.parent / "pyproject.toml").read_text())["tool"]["setuptools"][
        "package-data"
    ]
    shipped = {path for pattern in patterns["icehouse.web"] for path in WEB.glob(pattern)}
    assert {path for folder in ("templates", "static") for path in (WEB / folder).rglob("*.*")} == shipped
