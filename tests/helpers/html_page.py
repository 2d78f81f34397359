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

# Elements and attributes of the pages, as patterns.
TAGS = (
    "html|head|meta|title|style|script|body|header|main|footer|section|nav|div|span|p|b|i|small|br|code|pre|mark|bdi|h[123]|a|"
    "ul|ol|li|dl|dt|dd|table|thead|tbody|tr|th|td|figure|figcaption|details|summary|img|svg|g|defs|use|text|path|rect|circle|"
    "label|fieldset|legend|select|option|button|input|output|progress|dialog|kbd"
)
ATTRIBUTES = (
    "class|id|style|lang|charset|name|content|http-equiv|dir|href|rel|role|title|hidden|aria-[a-z]+|src|alt|loading|decoding|"
    "width|height|viewbox|x|y|cx|cy|r|rx|d|transform|stroke|stroke-width|stroke-dasharray|fill|scope|colspan|type|value|"
    "checked|disabled|autocomplete|autofocus|min|max|step|placeholder|data-[a-z]+"
)
VOID = {"meta", "br", "img", "input"}
VALUES = {
    "src": r"data:image/(webp|png);base64,[A-Za-z0-9+/=]+",
    "href": r"#[a-z0-9-]+|(index|variants|page-\d{4,})\.html",
    "id": r"[\w.-]+",
    "data-kind": "keeper|exact|perceptual|embedding|variant|indirect",
    "data-cosine": r"(-?\d\.\d{6})?",
    "data-score": r"-?\d\.\d{6}",
    "data-id": r'"[ -~]*"',
    "style": r"((?!url|expression)[-\w.:;%(), /])*",
    "dir": "auto",
}


class HtmlPage(HTMLParser):
    """Elements, texts and scripts of a page; every element must be known and closed, every attribute of its pattern."""

    def __init__(self, page: str | Path) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.texts: list[str] = []
        self.found: list[tuple[str, dict[str, str]]] = []
        self.scripts: list[str] = []
        self.feed(page.read_text(encoding="utf-8") if isinstance(page, Path) else page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert re.fullmatch(TAGS, tag), tag
        for name, value in attrs:
            assert re.fullmatch(ATTRIBUTES, name), (tag, name)
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
            self.texts.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    @property
    def text(self) -> str:
        """Everything that can be read, in one line."""
        return " ".join(" ".join(self.texts).split())

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
