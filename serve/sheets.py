"""Contact sheets: the hits of a search, or captions beside their pictures, as one page to look at, keep or send."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..data import image_files
from ..embed.captions.stats import CaptionSet, Shown, words_of
from ..embed.thumbnails import Thumbnail, thumbnail, thumbnails
from ..errors import ImageError, count_of
from ..store.files import publish_text
from ..store.search import Hit
from ..web.render import Card, labels_of, render


def contact_sheet(hits: Sequence[Hit], *, query: str, feature: str, side: int = 320) -> str:
    """Page of search hits that needs no other file and no network; a picture that cannot be read becomes its reason."""
    pictures = thumbnails([hit.file for hit in hits], side=side)
    shown = [
        {"rank": hit.rank, "score": hit.score, "card": _hit_card(hit, picture)}
        for hit, picture in zip(hits, pictures, strict=True)
    ]
    return render("search.html", title=query, feature=feature, hits=shown)


def write_sheet(path: str | Path, hits: Sequence[Hit], *, query: str, feature: str) -> Path:
    """Write a `contact_sheet` to a file; a `UsageError` if that cannot be written."""
    return publish_text(path, contact_sheet(hits, query=query, feature=feature))


def caption_sheet(
    shown: Sequence[Shown], captions: CaptionSet, *, how: str = "", side: int = 400, threads: int = 4
) -> str:
    """Page of captions that needs no other file and no network; `how` tells in plain text how they were chosen.

    A picture that is gone, or no longer the one that was described, becomes the sentence that says so.
    """
    with ThreadPoolExecutor(threads) as pool:
        pictures = pool.map(lambda one: _described(one, side), shown)
        entries = [
            {
                "card": _caption_card(one, picture),
                "copies": len(one.items[1:]),
                "flags": one.flags,
                "problem": one.problem,
                "post": one.text if captions.with_text else None,
                "numbers": list(_numbers(one)),
            }
            for one, picture in zip(shown, pictures, strict=True)
        ]
    return render("captions.html", captions=captions, shown=entries, how=how)


def write_caption_sheet(
    path: str | Path, shown: Sequence[Shown], captions: CaptionSet, *, how: str = "", side: int = 400
) -> Path:
    """Write a `caption_sheet` to a file; a `UsageError` if that cannot be written."""
    return publish_text(path, caption_sheet(shown, captions, how=how, side=side))


def _hit_card(hit: Hit, picture: Thumbnail | None) -> Card:
    return Card(
        hit.item_id,
        picture,
        text=hit.text,
        labels=labels_of({"split": hit.split, **hit.labels}),
        path=hit.path,
        meter=min(max(hit.score, 0.0), 1.0),
    )


def _caption_card(one: Shown, picture: Thumbnail) -> Card:
    values = {
        column.replace("_", " "): ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value
        for column, value in one.structured.items()
    }
    return Card(
        one.items[0] if one.items else (one.image_sha256 or "")[:12],
        picture,
        text=(one.caption or "").strip(),
        labels=labels_of(values),
        path=one.paths[0] if one.paths else None,
    )


def _described(one: Shown, side: int) -> Thumbnail:
    """The picture that was described, small; not one that has taken its file's place since."""
    problem = "no item of the store has this picture any more"
    for file in one.files:
        try:
            data, _ = image_files.read(file)
        except (ImageError, OSError) as error:
            gone = isinstance(error, FileNotFoundError)
            problem = "the file is gone" if gone else getattr(error, "strerror", None) or str(error)
            continue
        if hashlib.sha256(data).hexdigest() == one.image_sha256:
            return thumbnail(file, side=side)
        problem = "the file has changed since it was described"
    return Thumbnail(None, problem=problem)


def _numbers(one: Shown) -> Iterator[str]:
    yield count_of(len(words_of(one.caption or "")), "word")
    if one.tokens is not None:
        yield count_of(one.tokens, "token")
    if one.seconds is not None:
        yield f"{one.seconds:.2g} s"
    if one.attempts is not None and one.attempts > 1:
        yield "asked twice" if one.attempts == 2 else f"asked {one.attempts} times"
