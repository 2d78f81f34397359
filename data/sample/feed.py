"""The sample feed: some hundred crisis posts, made up from a seed, with the truth about each written beside them.

A class is what picture and text say *together*; each alone can tell two groups of two:

=====================  ======================  ====================
picture                text calls for help     text is a remark
=====================  ======================  ====================
shows damage           ``rescue_needed``       ``damage_report``
shows none             ``relief_effort``       ``not_relevant``
=====================  ======================  ====================

The feed has the troubles of a real one: several languages, reposts with small edits across the splits, pictures that
have nothing to do with anything, files that cannot be read. Real photographs come from scikit-image (`photographs`).
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...errors import SourceError
from ..photographs import Photograph, photographs
from ..reposts import TRANSFORMS, encode
from .pictures import SCENES, paint
from .texts import EVENTS, LANGUAGES, compose, edited

__all__ = ["CLASSES", "Feed", "Photograph", "make_feed", "photographs"]

#: (Picture shows damage, text calls for help) to class.
CLASSES: dict[tuple[bool, bool], str] = {
    (True, True): "rescue_needed",
    (True, False): "damage_report",
    (False, True): "relief_effort",
    (False, False): "not_relevant",
}

_SHARES = {"rescue_needed": 0.23, "damage_report": 0.27, "relief_effort": 0.23, "not_relevant": 0.27}
_SPLITS = {"train": 0.6, "dev": 0.15, "test": 0.25}
_REPOSTED, _IRRELEVANT, _BROKEN = 0.1, 0.06, 0.0125
_BREAKS = ("truncated", "empty", "html", "garbled", "cut_png")
_COLUMNS = ("id", "image", "text", "label", "split", "lang", "event")
# What a stream of random numbers is for, so that more of one never shifts another.
_PLAN, _PAINT, _WRITE = 0, 1, 2


@dataclass(frozen=True)
class Feed:
    """Where a sample feed lies and what is in it.

    Attributes
    ----------
    folder, posts, images, truth : Path
        The folder, the CSV of posts, the folder of pictures, the JSON with the truth.
    count : int
        Posts in the CSV.
    broken : tuple of str
        Ids of the posts whose picture cannot be read.
    reposts : tuple of (str, str, str)
        Id of a repost, id of the original, transform.
    """

    folder: Path
    posts: Path
    images: Path
    truth: Path
    count: int
    broken: tuple[str, ...]
    reposts: tuple[tuple[str, str, str], ...]


@dataclass
class _Item:
    """One post while it is being made."""

    number: int
    label: str
    split: str
    event: str
    language: str
    scene: str
    kind: str
    call: bool
    width: int
    extension: str
    quality: int
    of: _Item | None = None
    transform: str | None = None
    broken: str | None = None
    text: str = ""
    plain: str = ""
    text_edited: bool = False
    picture: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return f"post-{self.number:04d}"

    @property
    def file(self) -> str:
        return f"images/{self.id}.{self.extension}"


def make_feed(folder: str | Path, *, n: int = 400, seed: int = 0) -> Feed:
    """Write a sample feed: ``images/``, ``posts.csv`` and ``truth.json``.

    The same seed and the same versions of NumPy and Pillow give the same bytes.

    Parameters
    ----------
    folder : path
        Made if missing. Files of an earlier feed in it are replaced.
    n : int, default 400
        Posts, at least 40.
    seed : int, default 0

    Returns
    -------
    Feed

    Raises
    ------
    SourceError
        If `n` is too small or the folder cannot be written.
    """
    if n < 40:
        raise SourceError(f"a sample feed needs at least 40 posts, not {n}")
    if seed < 0:
        raise SourceError(f"the seed of a sample feed is 0 or more, not {seed}")
    folder = Path(folder)
    items = _plan(n, seed)
    _write_texts(items, seed)
    originals = [item for item in items if item.of is None]
    try:
        images = folder / "images"
        images.mkdir(parents=True, exist_ok=True)
        for old in images.glob("post-[0-9]*.*"):
            old.unlink()
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
            list(pool.map(lambda item: _write_picture(folder, item, seed), originals))
            list(pool.map(lambda item: _write_repost(folder, item, seed), (i for i in items if i.of)))
        for item in items:
            if item.broken:
                _break(folder / item.file, item.broken)
        posts, truth = folder / "posts.csv", folder / "truth.json"
        posts.write_bytes(_as_csv(items).encode())
        truth.write_bytes((json.dumps(_truth(items, seed), indent=1, ensure_ascii=False) + "\n").encode())
    except OSError as error:
        raise SourceError(f"cannot write the sample feed to {folder}: {error.strerror or error}") from error
    return Feed(
        folder=folder,
        posts=posts,
        images=images,
        truth=truth,
        count=n,
        broken=tuple(item.id for item in items if item.broken),
        reposts=tuple((i.id, i.of.id, i.transform) for i in items if i.of and i.transform),
    )


def _plan(n: int, seed: int) -> list[_Item]:
    """Decide everything about every post but its pixels and words."""
    rng = np.random.default_rng([seed, _PLAN])
    reposts, broken = round(n * _REPOSTED), max(len(_BREAKS), round(n * _BROKEN))
    fresh = n - reposts
    labels = _apportioned(rng, _SHARES, fresh)
    splits = _stratified(rng, labels)
    languages = _apportioned(rng, LANGUAGES, fresh)
    events = _apportioned(rng, dict.fromkeys(EVENTS, 1.0), fresh)
    factors = {label: factor for factor, label in CLASSES.items()}
    odd = {i for i in rng.permutation(fresh).tolist() if not factors[labels[i]][0]}
    odd = set(sorted(odd)[: round(n * _IRRELEVANT)])
    # Positions are shuffled once: a repost may come long before or after, as feeds are read.
    numbers = (rng.permutation(n) + 1).tolist()
    items = []
    for i in range(fresh):
        damage, call = factors[labels[i]]
        kind = "damage" if damage else "irrelevant" if i in odd else "calm"
        items.append(
            _Item(
                number=numbers[i],
                label=labels[i],
                split=splits[i],
                event=events[i],
                language=languages[i],
                scene=_scene(rng, kind, events[i]),
                kind=kind,
                call=call,
                width=int(rng.choice([360, 420, 480, 560, 640, 720], p=[0.1, 0.15, 0.3, 0.2, 0.15, 0.1])),
                extension=str(rng.choice(["jpg", "png", "webp"], p=[0.78, 0.1, 0.12])),
                quality=int(rng.integers(72, 95)),
            )
        )
    whole = rng.permutation(fresh)
    for k, i in enumerate(whole[:broken].tolist()):
        items[i].broken = _BREAKS[k % len(_BREAKS)]
        items[i].extension = {"cut_png": "png"}.get(items[i].broken or "", "jpg")
    sources = [items[int(i)] for i in rng.choice(whole[broken:], reposts, replace=False)]
    kinds = ("exact", *TRANSFORMS)
    for k, source in enumerate(sources):
        transform = kinds[k % len(kinds)]
        extension = source.extension
        if transform == "format":
            extension = {"jpg": "webp", "webp": "png", "png": "jpg"}[extension]
        elif transform not in ("exact", "resize") or (transform == "resize" and rng.random() < 0.5):
            extension = "jpg"
        split = str(rng.choice(list(_SPLITS), p=list(_SPLITS.values())))
        copy = _Item(
            **{name: getattr(source, name) for name in _Item.__dataclass_fields__}
            | {
                "number": numbers[fresh + k],
                "of": source,
                "transform": transform,
                "extension": extension,
                "split": split,
            }
        )
        copy.quality = int(rng.integers(70, 95))
        items.append(copy)
    return items


def _scene(rng: np.random.Generator, kind: str, event: str) -> str:
    names = [
        name
        for name, scene in SCENES.items()
        if scene.kind == kind and scene.hazard in (None, EVENTS[event].hazard)
    ]
    weights = np.array([SCENES[name].weight for name in names])
    return names[int(rng.choice(len(names), p=weights / weights.sum()))]


def _apportioned(rng: np.random.Generator, shares: dict[str, float], n: int) -> list[str]:
    """Values in random order, each as often as its share of `n` says, to the nearest whole number."""
    weights = np.array(list(shares.values())) / sum(shares.values())
    bounds = np.round(np.cumsum(weights) * n).astype(int)
    counts = np.diff(bounds, prepend=0)
    values = [value for value, count in zip(shares, counts.tolist(), strict=True) for _ in range(count)]
    return [values[i] for i in rng.permutation(n).tolist()]


def _stratified(rng: np.random.Generator, labels: Sequence[str]) -> list[str]:
    """Splits with the same mixture of labels in each."""
    splits = [""] * len(labels)
    for label in _SHARES:
        members = [i for i, value in enumerate(labels) if value == label]
        for i, split in zip(members, _apportioned(rng, _SPLITS, len(members)), strict=True):
            splits[i] = split
    return splits


def _write_texts(items: Sequence[_Item], seed: int) -> None:
    """Give every post its text; no two fresh posts say the same thing."""
    said: set[str] = set()
    for item in items:
        rng = np.random.default_rng([seed, _WRITE, item.number])
        if item.of is not None:
            item.plain, item.text = item.of.plain, item.of.text
            if rng.random() < 0.6:
                item.text, item.text_edited = edited(rng, item.of.text), True
            continue
        for _ in range(200):
            post = compose(rng, "call" if item.call else "remark", item.event, item.language)
            if post.plain not in said:
                break
        said.add(post.plain)
        item.text, item.plain = post.text, post.plain


def _write_picture(folder: Path, item: _Item, seed: int) -> None:
    rng = np.random.default_rng([seed, _PAINT, item.number])
    painting = paint(rng, item.scene, long_side=item.width)
    item.picture = {
        "kind": item.kind,
        "scene": painting.scene,
        "light": painting.light,
        "severity": painting.severity,
        "caption": painting.caption,
    }
    (folder / item.file).write_bytes(encode(painting.image, item.extension, item.quality))


def _write_repost(folder: Path, item: _Item, seed: int) -> None:
    assert item.of is not None
    item.picture = item.of.picture
    source = folder / item.of.file
    if item.transform == "exact":
        shutil.copyfile(source, folder / item.file)
        return
    rng = np.random.default_rng([seed, _PAINT, item.number])
    with Image.open(source) as original:
        picture = TRANSFORMS[str(item.transform)](original.convert("RGB"), rng)
    (folder / item.file).write_bytes(encode(picture, item.extension, item.quality))


def _break(path: Path, how: str) -> None:
    """Spoil a picture's file the way such files are spoilt in the wild."""
    data = path.read_bytes()
    if how == "empty":
        data = b""
    elif how == "html":
        page = "<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head><body><h1>Not Found</h1></body></html>\n"
        data = page.encode()
    elif how == "garbled":
        data = bytes(b ^ 0x5A for b in data[:4096])
    else:
        data = data[: len(data) * 2 // 5]
    path.write_bytes(data)


def _as_csv(items: Sequence[_Item]) -> str:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for item in sorted(items, key=lambda i: i.number):
        writer.writerow([item.id, item.file, item.text, item.label, item.split, item.language, item.event])
    return buffer.getvalue()


def _truth(items: Sequence[_Item], seed: int) -> dict[str, Any]:
    """Everything a test wants to know, as JSON."""
    ordered = sorted(items, key=lambda item: item.number)
    reposts = [item for item in ordered if item.of]
    return {
        "about": "Ground truth of an icehouse sample feed. label = what picture and text say together.",
        "seed": seed,
        "classes": {
            label: {"picture_shows_damage": damage, "text_calls_for_help": call}
            for (damage, call), label in CLASSES.items()
        },
        "items": {
            item.id: {
                "image": item.file,
                "label": item.label,
                "split": item.split,
                "event": item.event,
                "hazard": EVENTS[item.event].hazard,
                "language": item.language,
                "text_kind": "call" if item.call else "remark",
                "text_plain": item.plain,
                # Of a file that cannot be read there is nothing to see.
                "picture": {"kind": "unreadable", "broken": item.broken} if item.broken else item.picture,
                "caption": None if item.broken else item.picture["caption"],
                "repost_of": item.of.id if item.of else None,
            }
            for item in ordered
        },
        "duplicates": [
            {
                "item": i.id,
                "of": i.of.id,
                "transform": i.transform,
                "text": "edited" if i.text_edited else "same",
            }
            for i in reposts
            if i.of
        ],
        "leaks": [
            {"item": i.id, "of": i.of.id, "splits": [i.split, i.of.split]}
            for i in reposts
            if i.of and i.split != i.of.split
        ],
        "irrelevant": [item.id for item in ordered if item.kind == "irrelevant" and not item.broken],
        "corrupt": [{"item": i.id, "image": i.file, "how": i.broken} for i in ordered if i.broken],
    }
