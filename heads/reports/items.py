"""What a page shows of an item: its picture, its text, where it lies; and cards of these as HTML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...embed.thumbnails import Thumbnail, thumbnail
from ...webpage import escape, user_text

if TYPE_CHECKING:
    from ...store.store import Store

__all__ = ["STYLE", "Shown", "card", "frame", "percent", "read_items", "thumbnails"]

_TEXT = 400

STYLE = """
.cards {
  list-style: none; margin: 0; padding: 0; display: grid; gap: .9rem;
  grid-template-columns: repeat(auto-fill, minmax(min(14rem, 100%), 1fr));
}
.card {
  background: var(--card); border: 1px solid var(--line); border-radius: .8rem; overflow: hidden; box-shadow: var(--shadow);
  display: flex; flex-direction: column; break-inside: avoid; min-width: 0;
}
.frame { position: relative; aspect-ratio: 4 / 3; background: var(--well); display: grid; place-items: center; }
.frame img { position: absolute; inset: 0; width: 100%; height: 100%; object-fit: contain; }
.problem { color: var(--soft); font-size: .8rem; text-align: center; padding: .8rem 1rem; overflow-wrap: anywhere; }
.facts { padding: .65rem .8rem .8rem; display: flex; flex-direction: column; gap: .35rem; flex: 1; min-width: 0; }
.verdict { margin: 0; font-size: .86rem; overflow-wrap: anywhere; }
.verdict b { font-weight: 650; }
.verdict .is { color: var(--soft); }
.good { color: var(--good); }
.bad { color: var(--bad); }
.said {
  margin: 0; font-size: .86rem; max-height: 9.5em; overflow-y: auto; overflow-wrap: anywhere; text-align: start;
  unicode-bidi: plaintext;
}
.where { margin: auto 0 0; color: var(--soft); font-size: .74rem; overflow-wrap: anywhere; }
.flag {
  align-self: start; display: inline-block;
  padding: 0 .5rem; border-radius: 1rem; background: var(--flag-well); color: var(--flag);
  font-size: .74rem; font-weight: 650; line-height: 1.6;
}
:root { --good: #14603a; --bad: #a03000; --flag: #8a4800; --flag-well: #fdeeda; }
@media (prefers-color-scheme: dark) {
  :root { --good: #86dcaa; --bad: #ff9d75; --flag: #f0bb6d; --flag-well: #38280f; }
}
"""


@dataclass(frozen=True)
class Shown:
    """What the store tells of an item; None for what it lacks, or where the item is gone."""

    item_id: str
    text: str | None = None
    path: str | None = None
    root: str | None = None
    width: int | None = None
    height: int | None = None

    @property
    def file(self) -> Path | None:
        """The image's file, if the item has one; whether it is still there is not looked at."""
        return None if self.path is None or self.root is None else Path(self.root) / self.path


def read_items(store: Store, ids: Iterable[str]) -> dict[str, Shown]:
    """Look up items by id; those that are gone are there with nothing but their id."""
    import pyarrow as pa
    import pyarrow.compute as pc

    wanted = list(dict.fromkeys(ids))
    columns = ["item_id", "text", "path", "root", "width", "height"]
    items = store.items.read(columns)
    items = items.filter(pc.is_in(items["item_id"], value_set=pa.array(wanted, pa.string())))
    found = {row["item_id"]: Shown(**row) for row in items.to_pylist()}
    return {item: found.get(item, Shown(item)) for item in wanted}


def thumbnails(items: Mapping[str, Shown], *, side: int = 256) -> dict[str, Thumbnail]:
    """Small pictures of the items that have an image."""
    files = {item: shown.file for item, shown in items.items() if shown.file is not None}
    with ThreadPoolExecutor(4) as pool:
        made = pool.map(lambda file: thumbnail(file, side=side), files.values())
        return dict(zip(files, made, strict=True))


def frame(picture: Thumbnail | None, alt: object, *, over: str = "") -> str:
    """A picture in its frame, or why there is none; nothing for an item without an image."""
    if picture is None:
        return ""
    if picture.uri is None:
        inside = f'<div class="problem">no picture: {user_text(picture.problem, limit=120)}</div>'
    else:
        size = f'width="{picture.width}" height="{picture.height}"'
        inside = f'<img src="{picture.uri}" {size} alt="{escape(alt)}" loading="lazy" decoding="async">'
    return f'<div class="frame">{inside}{over}</div>'


def card(shown: Shown, picture: Thumbnail | None, said: str, *, tag: str = "li", css: str = "") -> str:
    """A card: picture, what is `said` of the item (HTML, already escaped), its text, its id."""
    text = ""
    if shown.text:
        text = user_text(" ".join(shown.text[: 4 * _TEXT].split()), limit=_TEXT, tag="p", css="said")
    return (
        f'<{tag} class="card{" " + css if css else ""}">{frame(picture, shown.path or shown.item_id)}'
        f'<div class="facts">{said}{text}<p class="where mono">{user_text(shown.item_id, limit=160)}</p></div></{tag}>'
    )


def percent(value: Any, digits: int = 0) -> str:
    """A share as a percentage; nothing for None."""
    return "" if value is None else f"{100 * float(value):.{digits}f}%"
