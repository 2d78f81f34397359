"""Strict reader of pages: whatever icehouse does not write itself fails the test."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

#: What strangers may write, to be shown as it stands. None of it may become markup.
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</style></p></li></section><h1>mine</h1>",
    "]]><!-- <svg/onload=alert(1)>",
    "</script><script>alert(1)</script>",
    "javascript:alert(1)",
    "{{ 7 * 7 }}{% raw %}{# x #}",
    "&lt;b&gt; &amp; &#x3c;",
]

# Elements of search, caption and gallery pages, and the attributes that each may carry.
ELEMENTS: dict[str, set[str]] = {
    "html": {"lang"}, "head": set(), "title": set(), "style": set(), "script": set(), "body": set(), "header": set(),
    "meta": {"charset", "http-equiv", "content", "name"}, "main": set(), "footer": set(), "h1": set(), "h2": {"id"},
    "p": {"class", "dir"}, "div": {"class", "role", "aria-label", "hidden", "data-search", "dir"}, "ol": {"class"},
    "ul": {"class"}, "li": {"class", "data-kind", "data-cosine", "data-id"}, "span": {"class", "title"}, "b": set(),
    "i": {"style"}, "bdi": {"dir", "class"}, "details": {"class"}, "summary": set(),
    "mark": set(), "code": set(), "dl": {"class"}, "dt": set(), "dd": set(), "nav": {"class", "aria-label"},
    "a": {"href", "rel"}, "img": {"src", "width", "height", "alt", "loading", "decoding"}, "svg": {
        "viewbox", "fill", "stroke", "stroke-width", "aria-hidden"}, "path": {"d"},
    "rect": {"x", "y", "width", "height", "rx"},
    "section": {"class", "id", "aria-labelledby", "data-number", "data-size", "data-score", "data-chained"},
    "label": {"class"}, "fieldset": set(), "legend": set(), "select": {"name"}, "option": {"value"},
    "button": {"type", "name", "title", "disabled"},
    "input": {"type", "name", "value", "checked", "autocomplete", "min", "max", "step", "placeholder", "aria-label"},
    "output": {"aria-live"},
}  # fmt: skip
VOID = {"meta", "img", "input", "rect", "path"}
VALUES = {
    "src": r"data:image/webp;base64,[A-Za-z0-9+/=]+",
    "href": r"(index|page-\d{4,})\.html",
    "id": r"[gh]\d+",
    "data-kind": "keeper|exact|perceptual|embedding|indirect",
    "data-cosine": r"(-?\d\.\d{6})?",
    "data-score": r"-?\d\.\d{6}",
    "data-id": r'"[ -~]*"',
    "style": r"width:\d+\.\d%",
    "dir": "auto",
}


class HtmlPage(HTMLParser):
    """Elements, texts and scripts of a page; every element must be known and closed, every attribute of its pattern."""

    def __init__(self, page: str | Path) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.text: list[str] = []
        self.found: list[tuple[str, dict[str, str]]] = []
        self.scripts: list[str] = []
        self.feed(page.read_text(encoding="utf-8") if isinstance(page, Path) else page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ELEMENTS, tag
        assert {name for name, _ in attrs} <= ELEMENTS[tag], (tag, attrs)
        for name, value in attrs:
            if name in VALUES:
                assert re.fullmatch(VALUES[name], value or ""), (tag, name, value)
        self.found.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        elif "style" not in self.open:
            self.text.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    @property
    def said(self) -> str:
        """Everything that can be read, in one line."""
        return " ".join(" ".join(self.text).split())

    @property
    def policy(self) -> str:
        """The content security policy."""
        (policy,) = [
            a["content"] for a in self.all("meta") if a.get("http-equiv") == "Content-Security-Policy"
        ]
        return policy

    def all(self, tag: str, css: str = "") -> list[dict[str, str]]:
        """Attributes of the elements `tag` whose class has `css` in it."""
        return [a for name, a in self.found if name == tag and css in a.get("class", "")]
