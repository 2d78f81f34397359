"""Captions beside their pictures, as one page to look at, keep or send."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..embed.captions.showing import CaptionSet, Shown
from ..embed.captions.stats import words_of
from ..embed.extract import read_file
from ..embed.thumbnails import Thumbnail, thumbnail
from ..errors import ImageError
from ..webpage import chip, escape, page, user_text, write_page
from .sheet import STYLE, frame

__all__ = ["caption_sheet", "write_caption_sheet"]

_CAPTION_LIMIT, _TEXT_LIMIT, _PROMPT_LIMIT = 3000, 420, 4000

_STYLE = (
    STYLE
    + """
.grid { grid-template-columns: repeat(auto-fill, minmax(min(19rem, 100%), 1fr)); }
.said { max-height: 16em; }
.nothing { color: var(--soft); font-style: italic; margin: 0; }
.tile.bad { border-color: var(--warn); }
.flags { position: absolute; inset: .55rem auto auto .55rem; display: flex; flex-wrap: wrap; gap: .3rem; }
.flag {
  padding: 0 .6rem; border-radius: 1rem; background: #9a5b00; color: #fff; font-size: .76rem; font-weight: 600;
  line-height: 1.7rem;
}
.post {
  margin: 0; padding-inline-start: .7rem; border-inline-start: 3px solid var(--line); color: var(--soft); font-size: .87rem;
  overflow-wrap: anywhere;
}
.post b { font-weight: 600; font-size: .76rem; }
.numbers { color: var(--soft); font-size: .78rem; font-variant-numeric: tabular-nums; margin-top: auto; padding-top: .2rem; }
.numbers + .path { margin-top: 0; padding-top: 0; }
.asked { margin: .8rem 0 0; max-width: 62rem; color: var(--soft); }
.asked summary { cursor: pointer; width: fit-content; }
.asked p { margin: .5rem 0 0; white-space: pre-wrap; overflow-wrap: anywhere; color: var(--ink); }
@media print { .said { max-height: none; overflow: visible; } .tile { box-shadow: none; } }
"""
)


def caption_sheet(
    shown: Sequence[Shown], about: CaptionSet, *, how: str = "", side: int = 400, threads: int = 4
) -> str:
    """Make a page of captions that needs no other file and no network.

    Parameters
    ----------
    shown : sequence of Shown
        In the order of the page.
    about : CaptionSet
        The captions they are of.
    how : str, default ""
        How they were chosen, in plain text: "drawn at random with seed 0".
    side : int, default 400
        Longest side of the embedded pictures, in pixels.
    threads : int, default 4
        Pictures that are read at once.

    Returns
    -------
    str
        HTML. A picture that is gone, or no longer the one that was described, becomes a tile that says so.
    """
    with ThreadPoolExecutor(threads) as pool:
        pictures = list(pool.map(lambda one: _picture(one, side), shown))
    tiles = "\n".join(_tile(one, picture, about) for one, picture in zip(shown, pictures, strict=True))
    body = (
        f'<ol class="grid">\n{tiles}\n</ol>' if shown else '<p class="none">There is no caption to show.</p>'
    )
    flagged = sum(bool(one.flags) for one in shown)
    parts = [
        f"{len(shown):,} of {about.rows:,} captions"
        if about.rows != len(shown)
        else f"All {len(shown):,} captions",
        f"by {escape(about.maker)}",
    ]
    if how:
        parts.append(escape(how))
    told = (
        f"{', '.join(parts)}; {flagged or 'none'} of those shown {'is' if flagged == 1 else 'are'} flagged."
    )
    return page(
        f"Captions: {about.name}", _asked(about) + body, kicker="icehouse captions", about=told, style=_STYLE
    )


def write_caption_sheet(
    path: str | Path, shown: Sequence[Shown], about: CaptionSet, *, how: str = "", side: int = 400
) -> Path:
    """Write a `caption_sheet` to a file.

    Raises
    ------
    UsageError
        If the file cannot be written.
    """
    return write_page(path, caption_sheet(shown, about, how=how, side=side))


def _picture(one: Shown, side: int) -> Thumbnail:
    """The picture that was described, small; not one that has taken its file's place since."""
    problem = "no item of the store has this picture any more"
    for file in one.files:
        try:
            data, _ = read_file(file)
        except (ImageError, OSError) as error:
            gone = isinstance(error, FileNotFoundError)
            problem = "the file is gone" if gone else getattr(error, "strerror", None) or str(error)
            continue
        if hashlib.sha256(data).hexdigest() == one.image_sha256:
            return thumbnail(file, side=side)
        problem = "the file has changed since it was described"
    return Thumbnail(None, problem=problem)


def _tile(one: Shown, picture: Thumbnail, about: CaptionSet) -> str:
    flags = "".join(f'<span class="flag">{escape(flag)}</span>' for flag in one.flags)
    name = one.items[0] if one.items else (one.image_sha256 or "")[:12]
    more = f" +{len(one.items) - 1}" if len(one.items) > 1 else ""
    path = one.paths[0] if one.paths else ""
    parts = [
        f'<li class="tile{" bad" if flags else ""}"><div class="frame">{frame(picture, path or name)}',
        f'<div class="flags">{flags}</div></div><div class="facts">',
        f'<div class="head"><span class="id">{user_text(name, limit=200)}{more}</span></div>',
    ]
    if one.caption and one.caption.strip():
        parts.append(user_text(one.caption.strip(), limit=_CAPTION_LIMIT, tag="p", css="said"))
    else:
        parts.append(f'<p class="nothing">{escape(one.problem or "an empty answer")}</p>')
    chips = "".join(chip(column.replace("_", " "), value) for column, value in _values(one))
    if chips:
        parts.append(f'<div class="chips">{chips}</div>')
    if about.with_text and one.text:
        post = " ".join(one.text[: 4 * _TEXT_LIMIT].split())
        said = user_text(post, limit=_TEXT_LIMIT, tag="div")
        parts.append(f'<div class="post"><b>The post</b>{said}</div>')
    parts.append(f'<div class="numbers">{escape(_numbers(one))}</div>')
    if path and path != name:
        parts.append(f'<div class="path mono">{user_text(path, limit=300)}</div>')
    parts.append("</div></li>")
    return "".join(parts)


def _values(one: Shown) -> list[tuple[str, str]]:
    found = []
    for column, value in one.structured.items():
        if isinstance(value, (list, tuple)):
            value = ", ".join(map(str, value))
        if value not in (None, ""):
            found.append((column, str(value)))
    return found


def _numbers(one: Shown) -> str:
    words = len(words_of(one.caption or ""))
    parts = ["1 word" if words == 1 else f"{words} words"]
    if one.tokens is not None:
        parts.append(f"{one.tokens} tokens")
    if one.seconds is not None:
        parts.append(f"{one.seconds:.2g} s")
    if one.attempts is not None and one.attempts > 1:
        parts.append("asked twice" if one.attempts == 2 else f"asked {one.attempts} times")
    return " · ".join(parts)


def _asked(about: CaptionSet) -> str:
    if not about.prompt:
        return ""
    what = "The prompt" if about.asked == "own prompt" else f"The prompt: preset {about.asked}"
    prompt = user_text(about.prompt, limit=_PROMPT_LIMIT, tag="p")
    return f'<details class="asked"><summary>{escape(what)}</summary>{prompt}</details>\n'
