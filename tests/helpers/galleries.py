"""What tests of galleries share: a reader that lets nothing strange pass, and stores whose contents a test chooses."""

from __future__ import annotations

import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from icehouse.store.schema import features_schema
from icehouse.store.store import Store
from icehouse.store.vectors import vectors_to_arrow
from PIL import Image

# Elements that a gallery has, and the attributes that each may carry.
ALLOWED: dict[str, set[str]] = {
    "html": {"lang"}, "head": set(), "title": set(), "style": set(), "script": set(), "body": set(), "header": set(),
    "meta": {"charset", "http-equiv", "content", "name"}, "main": set(), "footer": set(), "h1": set(), "h2": {"id"},
    "p": {"class", "dir"}, "div": {"class", "role", "aria-label", "hidden", "data-search"}, "ol": {"class"}, "ul": {"class"},
    "li": {"class", "data-kind", "data-cosine", "data-id"}, "span": {"class", "title"}, "b": set(),
    "i": {"style"}, "bdi": {"dir", "class"},
    "mark": set(), "code": set(), "dl": {"class"}, "dt": set(), "dd": set(), "nav": {"class", "aria-label"},
    "a": {"href", "rel"}, "img": {"src", "width", "height", "alt", "loading", "decoding"}, "svg": {
        "viewbox", "fill", "stroke", "stroke-width", "aria-hidden"}, "path": {"d"},
    "rect": {"x", "y", "width", "height", "rx"},
    "section": {"class", "id", "aria-labelledby", "data-number", "data-size", "data-score", "data-chained"},
    "label": {"class"}, "fieldset": set(), "legend": set(), "select": {"name"}, "option": {"value"},
    "button": {"type", "name", "title"},
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


class Reader(HTMLParser):
    """Read a page, and complain of whatever the gallery does not write itself."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.text: list[str] = []
        self.found: list[tuple[str, dict[str, str]]] = []
        self.scripts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ALLOWED, tag
        assert {name for name, _ in attrs} <= ALLOWED[tag], (tag, attrs)
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
        return " ".join(" ".join(self.text).split())

    def all(self, tag: str, css: str = "") -> list[dict[str, str]]:
        return [a for name, a in self.found if name == tag and css in a.get("class", "")]


def read(text: str | Path) -> Reader:
    reader = Reader()
    reader.feed(text.read_text(encoding="utf-8") if isinstance(text, Path) else text)
    reader.close()
    assert reader.open == []
    return reader


def page_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("page-*.html")) or [folder / "index.html"]


def filled(
    path: Path, items: list[dict[str, Any]], X: np.ndarray | None = None, *, modality: str = "image"
) -> Store:
    """A store of `items`, each with the vector of its row; contents are named by the caller."""
    store = Store.create(path)
    schema = store.items.snapshot().schema
    names = list(dict.fromkeys(name for item in items for name in item))
    columns = {
        name: pa.array(
            [item.get(name) for item in items],
            schema.field(name).type if name in schema.names else pa.string(),
        )
        for name in names
    }
    store.items.append(pa.table(columns), unique="item_id")
    if X is not None:
        key = f"{modality}_sha256"
        spec = {
            "encoder": "toy", "name": "toy", "modality": modality, "output": "pooled", "dim": X.shape[1], "dtype": "float32",
            "key": key, "provenance": {"family": "toy"}, "fingerprint": "0" * 16,
        }  # fmt: skip
        made = features_schema(modality, "pooled", X.shape[1], "float32")  # type: ignore[arg-type]
        rows = {key: [item[key] for item in items], "vector": vectors_to_arrow(X, "float32")}
        if modality == "text":
            rows["truncated"] = pa.nulls(len(X), pa.bool_())
        table = store.ensure_feature_table(f"toy/{modality}/pooled", spec, made)
        table.append(pa.table(rows).select(made.names).cast(made), unique=key)
    return store


def entry(file: Path, item_id: str, **changes: Any) -> dict[str, Any]:
    """An item as embedding the file would have made it."""
    data = file.read_bytes()
    with Image.open(file) as image:
        width, height = image.size
        kind = image.format
    status = file.stat()
    return {
        "item_id": item_id, "path": file.name, "root": str(file.parent), "image_sha256": hashlib.sha256(data).hexdigest(),
        "width": width, "height": height, "format": kind, "bytes": status.st_size, "mtime_ns": status.st_mtime_ns,
        "missing": False, "text": None, "text_sha256": None, "split": None, "label": None, **changes,
    }  # fmt: skip


def near(angles: list[float]) -> np.ndarray:
    """Unit vectors in a plane: what lies between two of them is the difference of their angles, in degrees."""
    turned = np.radians(np.array(angles))
    return np.stack([np.cos(turned), np.sin(turned)], axis=1).astype(np.float32)
