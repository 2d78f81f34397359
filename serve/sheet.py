"""Contact sheets: the hits of a search as one page to look at, keep or send."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..embed.thumbnails import Thumbnail, thumbnail
from ..store.search import Hit
from ..webpage import chip, escape, page, user_text, write_page

__all__ = ["STYLE", "contact_sheet", "frame", "tile", "write_sheet"]

_TEXT_LIMIT = 420

STYLE = """
.grid {
  list-style: none; margin: clamp(1rem, 2.5vw, 2rem) 0 0; padding: 0; display: grid; gap: clamp(.75rem, 1.6vw, 1.25rem);
  grid-template-columns: repeat(auto-fill, minmax(min(15.5rem, 100%), 1fr));
}
.tile {
  background: var(--card); border: 1px solid var(--line); border-radius: .8rem; overflow: hidden; box-shadow: var(--shadow);
  display: flex; flex-direction: column; break-inside: avoid; min-width: 0;
}
.frame { position: relative; aspect-ratio: 4 / 3; background: var(--well); display: grid; place-items: center; }
.frame img { position: absolute; inset: 0; width: 100%; height: 100%; object-fit: contain; }
.rank {
  position: absolute; inset: .55rem auto auto .55rem; min-width: 1.7rem; padding: 0 .45rem; border-radius: 1rem;
  background: rgb(10 16 22 / 72%); color: #fff; font-size: .76rem; font-weight: 600; line-height: 1.7rem; text-align: center;
}
.problem { color: var(--soft); font-size: .82rem; text-align: center; padding: 1rem 1.5rem; overflow-wrap: anywhere; }
.problem svg { display: block; margin: 0 auto .5rem; width: 2.4rem; height: 2.4rem; opacity: .55; }
.meter { height: 3px; background: var(--line); }
.meter i { display: block; height: 100%; background: var(--accent); }
.facts { padding: .75rem .9rem .9rem; display: flex; flex-direction: column; gap: .45rem; flex: 1; min-width: 0; }
.head { display: flex; justify-content: space-between; gap: .75rem; align-items: baseline; min-width: 0; }
.id { font-weight: 600; overflow-wrap: anywhere; min-width: 0; }
.score { color: var(--accent); font-variant-numeric: tabular-nums; font-weight: 600; white-space: nowrap; }
.said {
  margin: 0; max-height: 12em; overflow-y: auto; overflow-wrap: anywhere; text-align: start; unicode-bidi: plaintext;
}
.chips { display: flex; flex-wrap: wrap; gap: .3rem; }
.path { margin-top: auto; padding-top: .2rem; color: var(--soft); font-size: .76rem; overflow-wrap: anywhere; }
.none { color: var(--soft); padding: 4rem 0; text-align: center; }
@media (max-width: 30rem) {
  .grid { grid-template-columns: 1fr; }
}
"""

_NO_PICTURE = (
    '<svg viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="1.5" aria-hidden="true">'
    '<rect x="3" y="4" width="18" height="16" rx="2"/><path d="m4 18 5-6 3.5 4 2.5-3 5 5"/><path d="M3 3l18 18"/></svg>'
)


def contact_sheet(hits: Sequence[Hit], *, query: str, feature: str, side: int = 320) -> str:
    """Make a page of search hits that needs no other file and no network.

    Parameters
    ----------
    hits : sequence of Hit
    query : str
        What was asked, as a person would write it; the title.
    feature : str
        Which feature was searched.
    side : int, default 320
        Longest side of the embedded pictures, in pixels.

    Returns
    -------
    str
        HTML. A picture that cannot be read becomes a tile that says why.
    """
    with ThreadPoolExecutor(4) as pool:
        pictures = list(
            pool.map(lambda hit: None if hit.file is None else thumbnail(hit.file, side=side), hits)
        )
    tiles = "\n".join(tile(hit, picture) for hit, picture in zip(hits, pictures, strict=True))
    body = f'<ol class="grid">\n{tiles}\n</ol>' if hits else '<p class="none">Nothing was found.</p>'
    count = "1 hit" if len(hits) == 1 else f"{len(hits)} hits"
    about = f"{count} in <code>{escape(feature)}</code>, best first; the number is the cosine."
    return page(query, body, kicker="icehouse search", about=about, style=STYLE)


def tile(hit: Hit, picture: Thumbnail | None) -> str:
    """Make one hit's list item, in the classes of `STYLE`; `picture` is None where the item has no image."""
    score = f"{hit.score:.3f}"
    rank = f'<span class="rank">{hit.rank}</span>'
    parts = [
        f'<li class="tile"><div class="frame">{frame(picture, hit.path)}{rank}</div>'
        if picture
        else '<li class="tile">'
    ]
    parts.append(f'<div class="meter"><i style="width:{100 * min(max(hit.score, 0.0), 1.0):.1f}%"></i></div>')
    parts.append('<div class="facts"><div class="head">')
    number = "" if picture else f"{hit.rank}. "
    parts.append(f'<span class="id">{number}{user_text(hit.item_id, limit=200)}</span>')
    parts.append(f'<span class="score" title="cosine">{score}</span></div>')
    if hit.text:
        parts.append(
            user_text(" ".join(hit.text[: 4 * _TEXT_LIMIT].split()), limit=_TEXT_LIMIT, tag="p", css="said")
        )
    named = {"split": hit.split, **hit.labels}
    chips = "".join(chip(name, value) for name, value in named.items() if value not in (None, ""))
    if chips:
        parts.append(f'<div class="chips">{chips}</div>')
    if hit.path and hit.path != hit.item_id:
        parts.append(f'<div class="path mono">{user_text(hit.path, limit=300)}</div>')
    parts.append("</div></li>")
    return "".join(parts)


def write_sheet(path: str | Path, hits: Sequence[Hit], *, query: str, feature: str) -> Path:
    """Write a `contact_sheet` to a file.

    Raises
    ------
    UsageError
        If the file cannot be written.
    """
    return write_page(path, contact_sheet(hits, query=query, feature=feature))


def frame(picture: Thumbnail, alt: object) -> str:
    """Make the inside of a ``.frame``: the picture, or why there is none."""
    if picture.uri is None:
        return f'<div class="problem">{_NO_PICTURE}{user_text(picture.problem, limit=160)}</div>'
    size = f'width="{picture.width}" height="{picture.height}"'
    return f'<img src="{picture.uri}" {size} alt="{escape(alt)}" loading="lazy" decoding="async">'
