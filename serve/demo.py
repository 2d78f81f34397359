"""The demo: the commands a newcomer would type, typed for them, on a feed that is made on the spot."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..data.photographs import photographs
from ..data.sample.feed import Feed, make_feed
from ..errors import UsageError

__all__ = ["Demo", "Step", "prepare", "steps"]


QUERY = (
    "select label, split, count(*) as posts, count(distinct image_sha256) as pictures "
    "from items where label is not null group by all order by all"
)


@dataclass(frozen=True)
class Demo:
    """Where the demo works."""

    folder: Path
    feed: Feed
    photographs: Path
    store: Path
    sheet: Path


@dataclass(frozen=True)
class Step:
    """A command and why it is shown."""

    why: str
    arguments: list[str]

    @property
    def line(self) -> str:
        """The command as one would type it."""
        return "icehouse " + shlex.join(self.arguments)


def prepare(folder: Path, *, posts: int = 400, seed: int = 0) -> Demo:
    """Make the sample feed and lay the photographs beside it."""
    marker = folder / "feed" / "truth.json"
    if folder.exists() and any(folder.iterdir()) and not marker.exists():
        raise UsageError(f"{folder} holds other things; give the demo a new folder")
    feed = make_feed(folder / "feed", n=posts, seed=seed)
    photographs(folder / "photographs")
    return Demo(
        folder,
        feed,
        folder / "photographs",
        folder / "store",
        folder / "fire.html",
    )


def steps(demo: Demo) -> Iterator[Step]:
    """The commands, in order; the third search asks for a repost that the feed planted."""
    store = ["--store", str(demo.store)]
    sources = [str(demo.feed.posts), str(demo.photographs)]
    yield Step(
        "Embed the posts and the photographs. The files that cannot be read are part of the feed.",
        ["embed", *sources, *store, "--encoder", "mini", "--label-column", "label", "--meta-column", "lang"],
    )
    yield Step("Again: nothing is new, so nothing is done.", ["embed", *sources, *store, "--encoder", "mini"])
    yield Step("What the store holds.", ["info", *store])
    yield Step(
        "Any question, in SQL.",
        [
            "sql",
            QUERY,
            *store,
        ],
    )
    yield Step("Search pictures in words.", ["search", "--text", "a cat", "-k", "3", *store])
    yield Step(
        "The same as a page that works offline.",
        ["search", "--text", "a fire with flames and smoke", "-k", "24", "--html", str(demo.sheet), *store],
    )
    original = _a_readable_original(demo.feed)
    yield Step(
        f"Look for reposts of {original}: the feed planted some, re-encoded, cropped or watermarked.",
        ["search", "--item", original, "-k", "3", *store],
    )
    yield Step(
        "Train a head on picture and text. Neither alone tells the four classes apart.",
        ["train", "logreg", "--inputs", "image,text", "--label", "label", *store],
    )
    yield Step(
        "The same with the text alone.", ["train", "logreg", "--inputs", "text", "--label", "label", *store]
    )
    yield Step("Every run is kept.", ["runs", *store])
    yield Step("Is the store whole?", ["verify", *store])


def _a_readable_original(feed: Feed) -> str:
    truth = json.loads(feed.truth.read_text(encoding="utf-8"))
    irrelevant = set(truth.get("irrelevant", ()))
    for repost, original, _ in feed.reposts:
        if not {repost, original} & {*feed.broken, *irrelevant}:
            return original
    return feed.reposts[0][1]
