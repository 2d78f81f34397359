"""A page as a browser reads it: every element and attribute must be one that a page of icehouse has."""

from __future__ import annotations

import re
from html.parser import HTMLParser

# fmt: off
TAGS = {
    "html", "head", "meta", "title", "style", "body", "header", "main", "footer", "section", "div",
    "span", "p", "b", "i", "ul", "ol", "li", "dl", "dt", "dd", "small", "br", "nav", "a", "code",
    "pre", "h1", "h2", "h3", "table", "thead", "tbody", "tr", "th", "td", "figure", "figcaption",
    "svg", "g", "defs", "use", "text", "path", "rect", "circle", "bdi", "img",
}
# fmt: on
# fmt: off
ATTRIBUTES = {
    "class", "id", "style", "lang", "charset", "name", "content", "http-equiv", "dir", "href",
    "role", "aria-label", "aria-hidden", "viewbox", "x", "y", "cx", "cy",
    "r", "d", "width", "height", "transform", "stroke-width", "stroke-dasharray", "fill", "stroke", "rx", "scope",
    "colspan", "src", "alt", "loading", "decoding", "title",
}
# fmt: on
VOID = {"meta", "br", "img"}


class StrictPage(HTMLParser):
    """Raises at what does not belong; `texts` holds what a reader sees."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.texts: list[str] = []
        self.images: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in TAGS, f"unexpected element {tag}"
        for name, value in attrs:
            assert name in ATTRIBUTES, f"unexpected attribute {name} of {tag}"
            if name == "href":
                assert re.fullmatch(r"#[a-z0-9-]+", value or "")
            if name == "src":
                assert re.match(r"data:image/(png|webp);base64,", value or "")
                self.images.append(value or "")
            if name == "style":
                assert "url" not in (value or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.texts.append(data)

    @property
    def text(self) -> str:
        """Everything that can be read, in one line."""
        return " ".join(" ".join(self.texts).split())
