"""The sample feed: some hundred crisis posts, made up from a seed, with the truth about each written beside them.

A class is what picture and text say *together* (`CLASSES`): either alone leaves two classes open.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...errors import SourceError
from ..transforms import TRANSFORMS, encode
from .scenes import SCENES, paint
from .texts import EVENTS, LANGUAGES, compose, edited

#: (Picture shows damage, text calls for help) to class.
CLASSES: dict[tuple[bool, bool], str] = {
    (True, True): "rescue_needed",
    (True, False): "damage_report",
    (False, True): "relief_effort",
    (False, False): "not_relevant",
}
_FACTORS = {label: factors for factors, label in CLASSES.items()}
CLASS_SHARES = {"rescue_needed": 0.23, "damage_report": 0.27, "relief_effort": 0.23, "not_relevant": 0.27}
SPLIT_SHARES = {"train": 0.6, "dev": 0.15, "test": 0.25}
REPOST_SHARE, IRRELEVANT_SHARE, CORRUPT_SHARE = 0.1, 0.06, 0.0125
CORRUPTIONS = ("truncated", "empty", "html", "garbled", "cut_png")
WEB_PAGE = "<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head><body>Not Found</body></html>\n"
# What a stream of random numbers is for, so that more of one never shifts another.
_PLAN, _PAINT, _WRITE = 0, 1, 2


@dataclass(frozen=True)
class Feed:
    """Files of a sample feed, posts in it, ids of those with a `broken` picture, and (repost, original, transform)."""

    folder: Path
    posts: Path
    images: Path
    truth: Path
    count: int
    broken: tuple[str, ...]
    reposts: tuple[tuple[str, str, str], ...]


@dataclass
class _Post:
    """One post while it is being made."""

    number: int
    label: str
    split: str
    event: str
    language: str
    kind: str
    scene: str
    width: int
    extension: str
    quality: int
    original: _Post | None = None
    transform: str = ""
    broken: str | None = None
    text: str = ""
    plain: str = ""
    picture: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return f"post-{self.number:04d}"

    @property
    def file(self) -> str:
        return f"images/{self.id}.{self.extension}"

    @property
    def text_kind(self) -> str:
        return "call" if _FACTORS[self.label][1] else "remark"


def make_feed(folder: str | Path, *, n: int = 400, seed: int = 0) -> Feed:
    """Write a sample feed of `n` posts (at least 40): ``images/``, ``posts.csv`` and ``truth.json``.

    The same seed and the same versions of NumPy and Pillow give the same bytes. Files of an earlier feed in the folder are
    replaced. SourceError: `n` is too small, or the folder cannot be written.
    """
    if n < 40:
        raise SourceError(f"a sample feed needs at least 40 posts, not {n}")
    if seed < 0:
        raise SourceError(f"the seed of a sample feed is 0 or more, not {seed}")
    folder = Path(folder)
    images, table, truth = folder / "images", folder / "posts.csv", folder / "truth.json"
    posts = _plan(n, seed)
    _write_texts(posts, seed)
    reposts = [post for post in posts if post.original]
    try:
        images.mkdir(parents=True, exist_ok=True)
        for old in images.glob("post-[0-9]*.*"):
            old.unlink()
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
            for batch in ([post for post in posts if not post.original], reposts):
                list(pool.map(lambda post: _write_picture(folder, post, seed), batch))
        posts.sort(key=lambda post: post.number)
        with table.open("w", encoding="utf-8", newline="") as out:
            writer = csv.writer(out, lineterminator="\n")
            writer.writerow(("id", "image", "text", "label", "split", "lang", "event"))
            writer.writerows((p.id, p.file, p.text, p.label, p.split, p.language, p.event) for p in posts)
        truth.write_bytes((json.dumps(_truth(posts, seed), indent=1, ensure_ascii=False) + "\n").encode())
    except OSError as error:
        raise SourceError(f"cannot write the sample feed to {folder}: {error.strerror or error}") from error
    pairs = tuple((p.id, p.original.id, p.transform) for p in reposts if p.original)
    return Feed(folder, table, images, truth, n, tuple(p.id for p in posts if p.broken), pairs)


def _plan(n: int, seed: int) -> list[_Post]:
    """Decide everything about every post but its pixels and words."""
    rng = np.random.default_rng([seed, _PLAN])
    reposts, corrupt = round(n * REPOST_SHARE), max(len(CORRUPTIONS), round(n * CORRUPT_SHARE))
    fresh = n - reposts
    labels, languages = _apportion(rng, CLASS_SHARES, fresh), _apportion(rng, LANGUAGES, fresh)
    events = _apportion(rng, dict.fromkeys(EVENTS, 1.0), fresh)
    splits, kinds = [""] * fresh, ["damage" if _FACTORS[label][0] else "calm" for label in labels]
    for label in CLASS_SHARES:  # the same mixture of labels in each split
        members = [i for i, value in enumerate(labels) if value == label]
        for i, split in zip(members, _apportion(rng, SPLIT_SHARES, len(members)), strict=True):
            splits[i] = split
    calm = [i for i, kind in enumerate(kinds) if kind == "calm"]
    for i in rng.choice(calm, round(n * IRRELEVANT_SHARE), replace=False).tolist():
        kinds[i] = "irrelevant"
    # Positions are shuffled once: a repost may come long before or after, as feeds are read.
    numbers = (rng.permutation(n) + 1).tolist()
    posts: list[_Post] = []
    rows = zip(numbers[:fresh], labels, splits, events, languages, kinds, strict=True)
    for number, label, split, event, language, kind in rows:
        scene = _choose_scene(rng, kind, EVENTS[event].hazard)
        width = int(rng.choice([360, 420, 480, 560, 640, 720], p=[0.1, 0.15, 0.3, 0.2, 0.15, 0.1]))
        extension = str(rng.choice(["jpg", "png", "webp"], p=[0.78, 0.1, 0.12]))
        quality = int(rng.integers(72, 95))
        posts.append(_Post(number, label, split, event, language, kind, scene, width, extension, quality))
    order = rng.permutation(fresh).tolist()
    for k, i in enumerate(order[:corrupt]):
        posts[i].broken = CORRUPTIONS[k % len(CORRUPTIONS)]
        posts[i].extension = "png" if posts[i].broken == "cut_png" else "jpg"
    transforms = ("exact", *TRANSFORMS)
    for k, i in enumerate(rng.choice(order[corrupt:], reposts, replace=False).tolist()):
        transform, extension = transforms[k % len(transforms)], posts[i].extension
        if transform == "format":
            extension = {"jpg": "webp", "webp": "png", "png": "jpg"}[extension]
        elif transform != "exact":
            extension = "jpg"
        split = str(rng.choice(list(SPLIT_SHARES), p=list(SPLIT_SHARES.values())))
        repost = replace(posts[i], number=numbers[fresh + k], original=posts[i], transform=transform)
        repost.split, repost.extension, repost.quality = split, extension, int(rng.integers(70, 95))
        posts.append(repost)
    return posts


def _choose_scene(rng: np.random.Generator, kind: str, hazard: str) -> str:
    scenes = {k: s.weight for k, s in SCENES.items() if s.kind == kind and s.hazard in (None, hazard)}
    weights = np.array(list(scenes.values()))
    return str(rng.choice(list(scenes), p=weights / weights.sum()))


def _apportion(rng: np.random.Generator, shares: dict[str, float], n: int) -> list[str]:
    """Values in random order, each as often as its share of `n` says, to the nearest whole number."""
    bounds = np.round(np.cumsum(list(shares.values())) / sum(shares.values()) * n).astype(int)
    return rng.permutation(np.repeat(list(shares), np.diff(bounds, prepend=0))).tolist()


def _write_texts(posts: Sequence[_Post], seed: int) -> None:
    """Give every post its text; no two fresh posts say the same thing."""
    said: set[str] = set()
    for post in posts:
        rng = np.random.default_rng([seed, _WRITE, post.number])
        if post.original:
            post.plain, post.text = post.original.plain, post.original.text
            if rng.random() < 0.6:
                post.text = edited(rng, post.text)
            continue
        for _ in range(200):
            post.text, post.plain = compose(rng, post.text_kind, post.event, post.language)
            if post.plain not in said:
                break
        said.add(post.plain)


def _write_picture(folder: Path, post: _Post, seed: int) -> None:
    """Paint a fresh picture, or copy or transform the file of the original."""
    rng, source = np.random.default_rng([seed, _PAINT, post.number]), post.original
    if source is None:
        image, facts = paint(rng, post.scene, long_side=post.width)
        post.picture = {"kind": post.kind, **facts}
    else:
        post.picture = source.picture
        if post.transform == "exact":
            shutil.copyfile(folder / source.file, folder / post.file)
            return
        with Image.open(folder / source.file) as original:
            image = TRANSFORMS[post.transform](original.convert("RGB"), rng)
    data = encode(image, post.extension, post.quality)
    if post.broken:  # the way such files are spoilt in the wild
        spoilt = {"empty": b"", "html": WEB_PAGE.encode(), "garbled": bytes(b ^ 0x5A for b in data[:4096])}
        data = spoilt.get(post.broken, data[: len(data) * 2 // 5])
    (folder / post.file).write_bytes(data)


def _truth(posts: Sequence[_Post], seed: int) -> dict[str, Any]:
    """Everything a test wants to know, as JSON."""
    items = {}
    for p in posts:
        items[p.id] = {
            "image": p.file,
            "label": p.label,
            "split": p.split,
            "event": p.event,
            "hazard": EVENTS[p.event].hazard,
            "language": p.language,
            "text_kind": p.text_kind,
            "text_plain": p.plain,
            # Of a file that cannot be read there is nothing to see.
            "picture": {"kind": "unreadable", "broken": p.broken} if p.broken else p.picture,
            "caption": None if p.broken else p.picture["caption"],
            "repost_of": p.original.id if p.original else None,
        }
    duplicates, leaks = [], []
    for p in posts:
        if p.original:
            pair, edits = (
                {"item": p.id, "of": p.original.id},
                "same" if p.text == p.original.text else "edited",
            )
            duplicates.append({**pair, "transform": p.transform, "text": edits})
            if p.split != p.original.split:
                leaks.append({**pair, "splits": [p.split, p.original.split]})
    return {
        "about": "Ground truth of an icehouse sample feed. label = what picture and text say together.",
        "seed": seed,
        "classes": {
            label: {"picture_shows_damage": damage, "text_calls_for_help": call}
            for label, (damage, call) in _FACTORS.items()
        },
        "items": items,
        "duplicates": duplicates,
        "leaks": leaks,
        "irrelevant": [p.id for p in posts if p.kind == "irrelevant" and not p.broken],
        "corrupt": [{"item": p.id, "image": p.file, "how": p.broken} for p in posts if p.broken],
    }
