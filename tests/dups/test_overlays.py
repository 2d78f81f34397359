"""Pictures laid over each other: other words on both are told, and nothing that happens to a picture on its way is."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from galleries import csv_rows
from icehouse.data.transforms import GRADED, encode
from icehouse.dups.find import find_duplicates
from icehouse.dups.variants import Overlays, overlay
from icehouse.dups.views import picture_views
from icehouse.embed.pipeline import embed_sources
from icehouse.store.store import Store
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from toys import ToyEncoder

CAPTIONS = [
    ("WHEN MONDAY", "HEARS THE HOMEWORK"),
    ("NOBODY AT ALL", "MY CAT AT 3 AM"),
    ("ONE DOES NOT SIMPLY", "FIND BISCUITS"),
    ("THE LAST TRAIN", "SAYS WE NEED TO TALK"),
    ("I TOOK A DIET", "AND LOST TWO WEEKS"),
]


@cache
def scene(seed: int, size: tuple[int, int] = (480, 400)) -> Image.Image:
    """A picture with soft colours, shapes with edges, and some texture."""
    rng = np.random.default_rng(seed)
    small = rng.uniform(40, 215, (6, 8, 3))
    image = Image.fromarray(small.astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        x, y = rng.uniform(0, 0.9, 2) * size
        w, h = rng.uniform(20, 130, 2)
        colour = tuple(int(c) for c in rng.integers(20, 236, 3))
        (draw.ellipse if rng.random() < 0.5 else draw.rectangle)((x, y, x + w, y + h), fill=colour)
    noise = rng.normal(0, 8, (size[1], size[0], 3))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


def written(image: Image.Image, words: tuple[str, str]) -> Image.Image:
    """Put words above and below, white with a black outline."""
    image = image.copy()
    draw = ImageDraw.Draw(image)
    for text, low in zip(words, (False, True), strict=True):
        font = ImageFont.load_default(44)
        font = ImageFont.load_default(44 * min(1.0, 0.94 * image.width / draw.textlength(text, font=font)))
        x = (image.width - draw.textlength(text, font=font)) / 2
        y = image.height * 0.86 if low else image.height * 0.03
        draw.text((x, y), text, font=font, fill=(255, 255, 255), stroke_width=3, stroke_fill=(0, 0, 0))
    return image


def thumb(image: Image.Image) -> np.ndarray:
    return picture_views(image.convert("RGB")).thumb


@cache
def base_of(seed: int, captioned: bool) -> tuple[Image.Image, np.ndarray]:
    """A scene, with words or without, and its thumbnail."""
    base = written(scene(seed), CAPTIONS[seed]) if captioned else scene(seed)
    return base, thumb(base)


def laid(a: Image.Image | np.ndarray, b: Image.Image | np.ndarray) -> tuple[bool, float]:
    """Whether words differ, and what the second picture or thumbnail adds; told alike whichever comes first."""
    p, q = (each[None] if isinstance(each, np.ndarray) else thumb(each)[None] for each in (a, b))
    there, back = overlay(p, q), overlay(q, p)
    assert there.differ[0] == back.differ[0]
    assert there.added[0] == -back.added[0]
    return bool(there.differ[0]), float(there.added[0])


@pytest.mark.parametrize("seed", range(4))
def test_other_words_on_one_template_are_told(seed: int) -> None:
    base = scene(seed)
    memes = [written(base, words) for words in CAPTIONS]
    thumbs = [thumb(meme) for meme in memes]
    told = [laid(thumbs[i], thumbs[j])[0] for i in range(5) for j in range(i)]
    assert all(told)
    # One line of the two is another, and the other meme has been saved again, smaller and darker.
    half = written(base, (CAPTIONS[0][0], CAPTIONS[1][1]))
    again = GRADED["brightness"](half.resize((330, 275)), np.random.default_rng(seed))
    assert laid(memes[0], half)[0]
    assert laid(memes[0], again)[0]


@pytest.mark.parametrize("name", [*GRADED, "grey", "sharpen", "palette", "squashed"])
@pytest.mark.parametrize("captioned", [False, True])
def test_what_happens_to_a_picture_is_no_other_words(name: str, captioned: bool) -> None:
    rng = np.random.default_rng(3)
    extra = {
        "grey": lambda image: image.convert("L"),
        "sharpen": lambda image: image.filter(ImageFilter.SHARPEN),
        "palette": lambda image: image.quantize(64, Image.Quantize.FASTOCTREE),
        "squashed": lambda image: image.resize((300, 400)),
    }
    for seed in range(4):
        base, before = base_of(seed, captioned)
        if captioned and name == "rotate":
            continue  # turned words lie beside the straight ones, on soft ground as other words would
        edited = extra[name](base) if name in extra else GRADED[name](base, rng)
        assert not laid(before, edited)[0], seed


@pytest.mark.parametrize("seed", range(4))
def test_words_on_a_bare_picture_are_an_addition(seed: int) -> None:
    base = scene(seed)
    differ, added = laid(base, written(base, CAPTIONS[0]))
    assert not differ
    assert 0.02 < added < 0.4
    sticker = base.copy()
    ImageDraw.Draw(sticker).ellipse((180, 120, 300, 240), fill=(250, 220, 40))
    assert not laid(base, sticker)[0]
    assert laid(base, scene(seed + 50)) == (False, 0.0)


def test_what_has_no_thumbnail_tells_nothing() -> None:
    thumbs = np.stack([thumb(written(scene(0), words)) for words in CAPTIONS[:3]])
    asked: list[list[int]] = []

    def load(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        asked.append(numbers.tolist())
        return thumbs[numbers], numbers != 2

    whole = Overlays(load, np.arange(3))
    i, j = np.array([0, 0, 1]), np.array([1, 2, 2])
    assert whole.of(i, j).differ.tolist() == [True, False, False]
    part = whole.subset(np.array([1, 2, 0]))
    assert part.of(np.array([0, 1]), np.array([2, 2])).differ.tolist() == [True, False]
    assert asked == [[0, 1, 2]]


def test_memes_on_one_template_are_kept_and_their_copies_are_not(tmp_path: Path) -> None:
    """From files to drop.csv: nothing is known of any text."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for seed in range(2):
        base = scene(seed)
        for k, words in enumerate(CAPTIONS):
            (folder / f"t{seed}-{k}.jpg").write_bytes(encode(written(base, words), "jpg", 90))
        again = written(base, CAPTIONS[0]).resize((360, 300), Image.Resampling.LANCZOS)
        (folder / f"t{seed}-0-again.jpg").write_bytes(encode(again, "jpg", 70))
    (folder / "bare.png").write_bytes(encode(scene(0), "png"))
    store = Store.create(tmp_path / "store")
    embed_sources([folder], store, encoder=ToyEncoder("toy-a"))
    found = find_duplicates(store, feature=None)
    dropped = {row["item_id"]: row["keeper"] for row in csv_rows(found.path / "drop.csv")}
    assert dropped == {f"t{seed}-0-again.jpg": f"t{seed}-0.jpg" for seed in range(2)}
    assert found.summary["variants"]["pairs"].keys() == {"picture"}
    assert found.summary["variants"]["sets"] == 2
    found = find_duplicates(store, feature=None, variants="drop")
    assert found.summary["dropped"] >= 8


BANDS = [
    ["when monday comes", "and nobody is ready"],
    ["my cat at three in the morning"],
    ["one does not simply find", "the very last biscuit", "in the office"],
    ["I took a diet and lost", "two weeks of my life"],
    ["the group chat at night"],
]


def banded(image: Image.Image, lines: list[str], *, dark: bool = False, below: bool = False) -> Image.Image:
    """Put lines of small words in a band above or below a picture."""
    height = 33 * len(lines) + 16
    framed = Image.new("RGB", (image.width, image.height + height), (0, 0, 0) if dark else (255, 255, 255))
    framed.paste(image, (0, 0 if below else height))
    draw = ImageDraw.Draw(framed)
    for k, line in enumerate(lines):
        y = 8 + 33 * k + (image.height if below else 0)
        draw.text((10, y), line, font=ImageFont.load_default(26), fill=(255, 255, 255) if dark else (0, 0, 0))
    return framed


def pairs_of(pictures: list[Image.Image]) -> tuple[list[bool], list[float]]:
    """Whether the first picture and each other one have different words, and what the other adds."""
    thumbs = np.stack([thumb(one) for one in pictures])
    overlays = Overlays(
        lambda numbers: (thumbs[numbers], np.ones(len(numbers), bool)), np.arange(len(thumbs))
    )
    others = np.arange(1, len(pictures))
    there, back = overlays.of(0 * others, others), overlays.of(others, 0 * others)
    assert there.differ.tolist() == back.differ.tolist()
    assert there.added.tolist() == (-back.added).tolist()
    return there.differ.tolist(), there.added.tolist()


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("below", [False, True])
def test_words_in_bands_are_not_trimmed_away(dark: bool, below: bool) -> None:
    rng = np.random.default_rng(5)
    for seed in range(3):
        base = scene(seed)
        memes = [banded(base, lines, dark=dark, below=below) for lines in BANDS]
        assert pairs_of(memes)[0] == [True] * 4
        again = [
            GRADED[name](memes[0], rng) for name in ("recompress", "resize", "brightness", "blur", "format")
        ]
        assert pairs_of([memes[0], *again])[0] == [False] * 5
        # A band is an addition to the bare picture, and no band, or one without words, says nothing.
        differ, added = pairs_of([base, memes[0], memes[2], GRADED["pad"](base, rng)])
        assert differ == [False] * 3
        assert added[0] > 0.05
        assert added[1] > added[0]
        assert added[2] == 0
