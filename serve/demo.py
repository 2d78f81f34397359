"""Demo: a newcomer's commands, run one after the other on a generated feed."""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..data.sample_feed import Feed, make_feed
from ..errors import SourceError, UsageError

QUERY = (
    "select label, split, count(*) as posts, count(distinct image_sha256) as pictures "
    "from items where label is not null group by all order by all"
)


@dataclass(frozen=True)
class Demo:
    """Folders of the demo."""

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


def program() -> str:
    """What to type for `icehouse` in this shell: the name alone, where it finds this installation, else its path."""
    own = Path(sys.executable).with_name("icehouse")
    found = shutil.which("icehouse")
    if not own.exists() or (found is not None and Path(found).resolve() == own.resolve()):
        return "icehouse"
    with contextlib.suppress(ValueError):
        own = own.relative_to(Path.cwd())
    return shlex.quote(str(own))


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
        "Train a head on the text alone.", ["train", "logreg", "--inputs", "text", "--label", "label", *store]
    )
    yield Step(
        "The same on picture and text. Neither alone tells the four classes apart.",
        ["train", "logreg", "--inputs", "image,text", "--label", "label", *store],
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


@dataclass(frozen=True)
class Photograph:
    """A real photograph: a plain id, its file, and a short title."""

    id: str
    path: Path
    title: str


# Files of scikit-image that are photographs, with a title that a stranger would give them.
_PHOTOGRAPHS = {
    "astronaut": ("astronaut.png", "An astronaut in an orange space suit"),
    "brick": ("brick.png", "A brick wall"),
    "camera": ("camera.png", "A man with a film camera on a tripod"),
    "cat": ("chelsea.png", "A ginger cat"),
    "coffee": ("coffee.png", "A cup of coffee with a spoon"),
    "coins": ("coins.png", "Ancient coins"),
    "galaxies": ("hubble_deep_field.jpg", "Galaxies in deep space"),
    "grass": ("grass.png", "Grass"),
    "gravel": ("gravel.png", "Gravel"),
    "horse": ("horse.png", "The silhouette of a horse"),
    "moon": ("moon.png", "The surface of the moon"),
    "motorcycle": ("motorcycle_left.png", "A motorcycle in a garage"),
    "page": ("page.png", "A page of a printed book"),
    "retina": ("retina.jpg", "The retina of an eye"),
    "rocket": ("rocket.jpg", "A rocket on its launch pad"),
    "tissue": ("ihc.png", "Stained tissue under a microscope"),
}


def photographs(folder: str | Path) -> list[Photograph]:
    """Copy the photographs that come with scikit-image, those that this version of it has; nothing is downloaded."""
    try:
        import skimage
    except ImportError:
        raise SourceError("the photographs come with scikit-image: pip install 'icehouse[demo]'") from None
    source = Path(skimage.__file__).parent / "data"
    there = {key: value for key, value in _PHOTOGRAPHS.items() if (source / value[0]).is_file()}
    if not there:
        raise SourceError("this scikit-image ships none of the photographs; install another version")
    folder = Path(folder)
    rows = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for key, (name, title) in there.items():
            path = folder / f"{key}{Path(name).suffix}"
            shutil.copyfile(source / name, path)
            rows.append(Photograph(key, path, title))
    except OSError as error:
        raise SourceError(f"cannot write the photographs to {folder}: {error.strerror or error}") from error
    return rows
