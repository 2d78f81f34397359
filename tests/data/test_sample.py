"""The sample feed: its bytes follow from its seed, and its truth is true."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from icehouse.data.images import decode
from icehouse.data.sample_feed import CLASSES, EVENTS, LANGUAGES, Feed, compose, edited, make_feed
from icehouse.data.sample_scenes import SCENES, paint
from icehouse.data.transforms import TRANSFORMS, encode
from icehouse.errors import ImageError, SourceError
from PIL import Image

N = 50


@pytest.fixture(scope="module")
def feed(tmp_path_factory: pytest.TempPathFactory) -> Feed:
    return make_feed(tmp_path_factory.mktemp("feed"), n=N, seed=3)


@pytest.fixture(scope="module")
def truth(feed: Feed) -> dict[str, Any]:
    return json.loads(feed.truth.read_text(encoding="utf-8"))


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


@pytest.mark.slow
def test_same_seed_same_bytes_in_every_process(feed: Feed, tmp_path: Path) -> None:
    code = "import sys; from icehouse.data.sample_feed import make_feed; make_feed(sys.argv[1], n=50, seed=3)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert digests(tmp_path) == digests(feed.folder)


@pytest.mark.slow
def test_another_seed_is_another_feed_and_replaces_what_was_there(feed: Feed, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "post-9999.png").touch()
    (tmp_path / "images" / "mine.png").touch()
    make_feed(tmp_path, n=40, seed=4)
    names = {path.name for path in (tmp_path / "images").iterdir()}
    assert len(names) == 41
    assert "mine.png" in names
    shared = set(digests(tmp_path).values()) & set(digests(feed.folder).values())
    assert len(shared) <= 2  # an empty file and a saved web page are the same everywhere


def test_rows(feed: Feed, truth: dict[str, Any]) -> None:
    rows = list(csv.DictReader(io.StringIO(feed.posts.read_text(encoding="utf-8"), newline="")))
    assert len({row["id"] for row in rows}) == len(rows) == feed.count == N
    assert list(rows[0]) == ["id", "image", "text", "label", "split", "lang", "event"]
    assert {row["label"] for row in rows} == set(CLASSES.values())
    assert Counter(row["split"] for row in rows)["train"] == pytest.approx(0.6 * N, abs=7)
    for row in rows:
        assert (feed.folder / row["image"]).is_file()
        item = truth["items"][row["id"]]
        assert row.items() >= {name: item[name] for name in ("image", "label", "split", "event")}.items()
        assert row["lang"] == item["language"]


def test_the_label_is_picture_and_text_together(truth: dict[str, Any]) -> None:
    for item in truth["items"].values():
        if item["picture"]["kind"] != "unreadable":
            assert item["label"] == CLASSES[item["picture"]["kind"] == "damage", item["text_kind"] == "call"]
    assert truth["irrelevant"]
    for item_id in truth["irrelevant"]:
        assert truth["items"][item_id]["label"] in ("relief_effort", "not_relevant")


def test_which_files_are_readable(feed: Feed, truth: dict[str, Any]) -> None:
    broken = {entry["item"]: entry["how"] for entry in truth["corrupt"]}
    assert set(broken) == set(feed.broken)
    assert set(broken.values()) == {"truncated", "empty", "html", "garbled", "cut_png"}
    formats = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}
    for item_id, item in truth["items"].items():
        data = (feed.folder / item["image"]).read_bytes()
        if item_id in broken:
            assert item["caption"] is None
            with pytest.raises(ImageError):
                decode(data)
        else:
            assert decode(data).format == formats[item["image"].split(".")[1]]
            assert item["caption"].endswith(".")


def test_reposts(feed: Feed, truth: dict[str, Any]) -> None:
    assert len(truth["duplicates"]) == len(feed.reposts) == round(N * 0.1)
    straddling = []
    for entry in truth["duplicates"]:
        copy, original = truth["items"][entry["item"]], truth["items"][entry["of"]]
        assert (copy["repost_of"], original["repost_of"]) == (entry["of"], None)
        assert (copy["label"], copy["caption"]) == (original["label"], original["caption"])
        one, other = ((feed.folder / item["image"]).read_bytes() for item in (copy, original))
        assert (one == other) is (entry["transform"] == "exact")
        if copy["split"] != original["split"]:
            straddling.append(entry["item"])
    assert straddling == [entry["item"] for entry in truth["leaks"]]


def test_fresh_posts_do_not_repeat_each_other(truth: dict[str, Any]) -> None:
    plain = [item["text_plain"] for item in truth["items"].values() if item["repost_of"] is None]
    assert len(set(plain)) == len(plain)


@pytest.mark.parametrize("name", sorted(SCENES))
def test_every_scene_paints_a_picture_with_contrast(name: str) -> None:
    for seed in range(2):
        image, facts = paint(np.random.default_rng([seed, 1]), name, long_side=200)
        assert max(image.size) == 200
        assert image.mode == "RGB"
        assert np.asarray(image, np.float32).std() > 8
        assert (facts["severity"] is None) is (SCENES[name].kind != "damage")
        assert re.fullmatch(r"[A-Z].*[^ ]\.", facts["caption"])
        assert not re.search("  | ,|,,", facts["caption"])


def test_every_event_has_scenes_of_damage() -> None:
    hazards = {scene.hazard for scene in SCENES.values() if scene.kind == "damage"}
    assert {event.hazard for event in EVENTS.values()} <= hazards


@pytest.mark.parametrize("language", sorted(LANGUAGES))
@pytest.mark.parametrize("kind", ["call", "remark"])
def test_texts_fill_every_slot(kind: str, language: str) -> None:
    for seed in range(60):
        text, plain = compose(np.random.default_rng(seed), kind, "dunmere_flood", language)
        assert not set("{}|") & set(text)
        assert "\n" not in plain
        assert 5 <= len(plain) <= 280


def test_texts_are_as_noisy_as_a_feed() -> None:
    texts = [compose(np.random.default_rng(i), "remark", "dunmere_flood", "en")[0] for i in range(300)]
    for sign in (r"\bRT @", "https://", "#Dunmere", "&amp;", "@", "[😢🙏💔👀]", r"\n", "!!"):
        share = np.mean([bool(re.search(sign, text)) for text in texts])
        assert 0.01 < share < 0.98, sign


def test_an_edited_text_keeps_its_words() -> None:
    text = "Volunteers wanted at the town hall https://t.example/abc"
    for seed in range(20):
        again = edited(np.random.default_rng(seed), text)
        assert "volunteers wanted at the town hall" in again.lower()
        assert again != text


@cache
def houses(seed: int) -> tuple[Image.Image, int]:
    """A painted picture and its hash."""
    image, _ = paint(np.random.default_rng(seed), "houses", long_side=320)
    return image, decode(encode(image, "png"), hashed=True).phash


@pytest.mark.parametrize("name", sorted(TRANSFORMS))
def test_transforms_keep_the_picture_recognisable(name: str) -> None:
    """By pHash where the frame stays, and always nearer than another picture is."""
    distances = []
    for seed in range(4):
        image, before = houses(seed)
        after = decode(encode(TRANSFORMS[name](image, np.random.default_rng(seed)), "jpg"), hashed=True).phash
        distances.append((before ^ after).bit_count())
    assert np.mean(distances) < (26 if name in ("crop", "pad", "caption_band") else 8)


def test_too_small_or_unwritable(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="at least 40"):
        make_feed(tmp_path, n=10)
    with pytest.raises(SourceError, match="seed"):
        make_feed(tmp_path, seed=-1)
    (tmp_path / "file").touch()
    with pytest.raises(SourceError, match="cannot write"):
        make_feed(tmp_path / "file", n=40)
