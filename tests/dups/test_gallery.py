"""The gallery of duplicates: everything found is shown or counted, nothing strangers wrote gets to be markup."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from galleries import entry, filled, near
from html_page import HOSTILE, HtmlPage
from hypothesis import given, settings
from hypothesis import strategies as st
from icehouse.cli import app
from icehouse.dups import gallery as gallery_module
from icehouse.dups.find import find_duplicates
from icehouse.dups.gallery import Choice, Group, Item, Member, gallery_page, pages, similarity, write_gallery
from icehouse.errors import StoreError, UsageError
from icehouse.store.store import Store
from toys import picture
from typer.testing import CliRunner, Result

STRANGE = [*HOSTILE, "photo\u202egpj.exe \u2066x\u2069", "two\nlines\r\n\x1b[2J\u2028", "word " * 20_000]


def made_feed(folder: Path) -> Store:
    """Five files: a large picture, a small one of another format, a copy of that, one farther off, and one alone."""
    root = folder / "pictures"
    root.mkdir()
    picture(1, 400, 300).save(root / "large.png")
    picture(1, 200, 150).save(root / "small.jpg", quality=60)
    shutil.copy2(root / "small.jpg", root / "twin.jpg")
    picture(2, 320, 240).save(root / "far.png")
    picture(3, 64, 48).save(root / "alone.png")
    told = {"text": "a flood in the town", "text_sha256": "1", "split": "train", "label": "flood"}
    shouted = {"text": "a FLOOD in my town", "text_sha256": "2", "split": "test"}
    items = [
        entry(root / "large.png", "large", **told),
        entry(root / "small.jpg", "small", **told | shouted),
        entry(root / "twin.jpg", "twin", **told | {"label": "fire"}),
        entry(root / "far.png", "far"),
        entry(root / "alone.png", "alone"),
    ]
    store = filled(folder / "store", items, near([0, 4, 4, 16, 90]))
    find_duplicates(store, rule=0.95, views=False)
    return store


@pytest.fixture(scope="module")
def feed_once(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return made_feed(tmp_path_factory.mktemp("feed"))


@pytest.fixture
def feed(feed_once: Store, tmp_path: Path) -> Store:
    """A copy of that; the pictures are those of all."""
    return Store.open(shutil.copytree(feed_once.path, tmp_path / "store"))


def card(text: str, item_id: str) -> str:
    """HTML of one member."""
    (found,) = [
        part
        for part in re.findall(r'<li class="card member.*?</li>', text, re.DOTALL)
        if f'<span class="id"><bdi dir="auto">{item_id}<' in part
    ]
    return found


def test_groups_are_told_as_they_were_found(feed: Store) -> None:
    made = write_gallery(feed)
    assert made.path == feed.path / "dups" / "toy-image-pooled" / "gallery" / "index.html"
    text = made.path.read_text(encoding="utf-8")
    page = HtmlPage(text)
    assert [a["data-kind"] for a in page.all("li", "member")] == ["keeper", *["embedding"] * 3]
    for said in ("Group 0", "4 items", "Kept: 1.6× the detail, less compressed"):
        assert said in page.text
    # The least alike stands beside the keeper.
    assert page.text.index("far") < page.text.index("small")
    small, copy, keeper = (card(text, name) for name in ("small", "twin", "large"))
    for told in ("200 × 150", "−75%", "<mark>my</mark>", 'chip diff" title="another than the keeper'):
        assert told in small
    assert re.search('class="diff"[^>]*><bdi dir="auto">JPEG', small)
    assert "<mark>flood" not in small.lower()
    assert "same text" in copy
    assert "copy of" in copy
    assert "✓ keep" in keeper
    assert "diff" not in keeper
    assert made.summary["members"] == 4
    assert made.summary["pictures"] == 3  # the copy is not decoded again
    assert json.loads((made.path.parent / "gallery.json").read_bytes()) == made.summary
    images = page.all("img")
    assert [image["alt"] for image in images[:2]] == ["Kept: large.png", "Duplicate: far.png"]
    assert [(image["width"], image["height"]) for image in images[:2]] == [("320", "240")] * 2


def test_only_the_one_script_may_run(feed: Store) -> None:
    page = HtmlPage(write_gallery(feed).path)
    (script,) = page.scripts
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert page.policy.endswith(f"script-src 'sha256-{digest}'")
    # Without the script nothing is hidden but the controls.
    assert [a.get("class") for _, a in page.found if "hidden" in a] == ["tools"]


@pytest.mark.parametrize(
    ("choice", "members", "told"),
    [
        ({"kinds": frozenset(["perceptual"])}, 0, "No group of duplicates matches"),
        ({"min_cosine": 0.99}, 3, "1 member left out"),
        ({"max_cosine": 0.99}, 2, "2 members left out"),
        ({"chained": True}, 0, "No group of duplicates matches"),
    ],
)
def test_kinds_and_cosines_choose_members(
    feed: Store, choice: dict[str, Any], members: int, told: str
) -> None:
    page = HtmlPage(write_gallery(feed, choice=Choice(**choice)).path)
    assert len(page.all("li", "member")) == members
    assert told in page.text


@pytest.mark.parametrize(
    ("name", "value"), [("kinds", {"x"}), ("sort", "x"), ("max_groups", 0), ("members", 1)]
)
def test_choices_out_of_range_are_refused(name: str, value: Any) -> None:
    with pytest.raises(UsageError):
        Choice(**{name: value})


@pytest.mark.parametrize(("least", "most"), [(float("nan"), 1.0), (-1.0, 2.0), (0.9, 0.8)])
def test_no_cosine_lies_between(least: float, most: float) -> None:
    with pytest.raises(UsageError, match="no cosine"):
        Choice(min_cosine=least, max_cosine=most)


def many(tmp_path: Path, sizes: list[int], *, chained: int | None = None) -> Store:
    """Groups of planted vectors without files, each at a direction of its own."""
    items, rows = [], []
    for g, size in enumerate(sizes):
        for k in range(size):
            vector = np.zeros(len(sizes) + 1, np.float32)
            vector[g], vector[-1] = 1, 0.001 * k * (200 if g == chained else 1)
            rows.append(vector)
            told = {"image_sha256": f"{g}-{k}", "missing": False, "bytes": 10_000 - k}
            items.append({"item_id": f"g{g:02d}-{k:04d}", **told})
    return filled(tmp_path / "store", items, np.stack(rows))


def test_order_of_groups(tmp_path: Path) -> None:
    store = many(tmp_path, [2, 9, 4, 3], chained=2)
    find_duplicates(store, rule=0.97, grouping_by="components")

    def numbers(sort: str, **choice: Any) -> list[int]:
        made = write_gallery(store, out=tmp_path / "out", choice=Choice(sort=sort, **choice))
        return [int(a["data-size"]) for a in HtmlPage(made.path).all("section", "group")]

    assert numbers("size") == [9, 4, 3, 2]
    assert numbers("score") == [4, 9, 3, 2]
    assert numbers("chained") == [4, 9, 3, 2]
    assert numbers("size", max_groups=2) == [9, 4]
    assert numbers("group", chained=True) == [4]
    page = HtmlPage(write_gallery(store, out=tmp_path / "out").path)
    assert [a["data-chained"] for a in page.all("section")] == ["1", "0", "0", "0"]
    assert "chained: some members are unlike" in page.text
    assert "by way of others" in page.text
    assert {a["data-kind"] for a in page.all("li", "member")} == {"keeper", "embedding", "indirect"}


def test_large_sets_are_shared_out_over_pages(tmp_path: Path) -> None:
    # Of pictures so large a page holds 12 instead of 160.
    side = 1168
    store = many(tmp_path, [30, 5, 4, 3, 2, 2, 2, 2, 2])
    find_duplicates(store, rule=0.99)
    steps: list[tuple[int, int]] = []
    choice = Choice(members=10, sort="size")
    made = write_gallery(store, choice=choice, per_page=3, side=side, progress=lambda *x: steps.append(x))
    folder = made.path.parent
    assert made.summary["pages"] == 4
    assert steps[-1] == (32, 32)
    names = [f"page-000{i}.html" for i in (1, 2, 3, 4)]
    assert sorted(p.name for p in folder.iterdir()) == ["gallery.json", "index.html", *names]
    index = HtmlPage(folder / "index.html")
    assert [a["href"] for a in index.all("a")] == names
    groups = []
    for number, name in enumerate(names, 1):
        page = HtmlPage(folder / name)
        groups += [int(a["data-number"]) for a in page.all("section")]
        assert len(page.all("li", "member")) <= 12
        links = {a["rel"]: a["href"] for a in page.all("a") if a.get("rel")}
        assert links.get("prev") == (f"page-000{number - 1}.html" if number > 1 else None)
        assert links.get("next") == (f"page-000{number + 1}.html" if number < 4 else None)
    assert sorted(groups) == list(range(9))
    first = HtmlPage(folder / "page-0001.html")
    assert "and 20 more, see clusters.parquet" in first.text
    cosines = [float(a["data-cosine"]) for a in first.all("li", "member") if a["data-cosine"]]
    assert cosines == sorted(cosines)  # the least alike, and these first
    assert made.summary["bytes"] == sum(p.stat().st_size for p in folder.glob("*.html"))


def test_groups_without_a_cosine_have_their_place() -> None:
    assert [similarity(0.9, 3), similarity(None, 16), similarity(None, None)] == [0.9, 0.75, 1.0]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(2, 30), max_size=40), st.integers(1, 9), st.integers(2, 40))
def test_pages_hold_every_group_once(counts: list[int], per_page: int, most: int) -> None:
    parts = pages(counts, per_page, most)
    assert [place for part in parts for place in range(part.start, part.stop)] == list(range(len(counts)))
    for part in parts:
        assert part.stop - part.start <= per_page
        assert part.stop - part.start <= 1 or sum(counts[part]) <= most


def test_hostile_names_and_texts(tmp_path: Path) -> None:
    root = tmp_path / "pictures"
    root.mkdir()
    file = root / "a.png"
    picture(1).save(file)
    items = []
    for k, bad in enumerate(STRANGE):
        for twin in "ab":
            told = {"path": bad[:4000], "split": bad, "label": bad, "text": f"{bad} {twin}"}
            told |= {"image_sha256": f"{k}{twin}", "text_sha256": f"{k}{twin}"}
            items.append(entry(file, f"{bad}{twin}", **told))
            items[-1][bad[:40] + "c"] = bad
    X = np.repeat(np.eye(len(STRANGE), dtype=np.float32), 2, axis=0)
    store = filled(tmp_path / "store", items, X)
    find_duplicates(store, rule=0.9, hamming=None, where="item_id <> '<'")
    made = write_gallery(store)
    page = HtmlPage(made.path)
    assert len(page.all("section")) == len(STRANGE)
    assert len(page.all("img")) == 0
    assert made.path.stat().st_size < 2_000_000
    for bad in HOSTILE:
        assert page.text.count(bad) >= 6, bad
    assert "photo[U+202E]gpj.exe" in page.text
    assert not set("\u202e\u2066\x1b\u2028") & set("".join(page.texts))


@settings(deadline=None, max_examples=120)
@given(st.text(max_size=60), st.text(max_size=60))
def test_any_text_stays_text(ours: str, theirs: str) -> None:
    """Ids, paths, texts and labels of any characters, lone surrogates too, make no element and no attribute."""

    def member(value: str, keeper: bool) -> Member:
        item = Item(
            path=value, root="/", text=value, image_sha256="0", text_sha256=repr(value), width=3, height=2,
            format=value, bytes=9, mtime_ns=0, split=value, labels={value: value},
        )  # fmt: skip
        return Member(
            value, keeper, None if keeper else "embedding", 3, 0.97, None if keeper else value, item
        )

    group = Group(3, 2, 0.97, 3, False, True, [member(ours, True), member(theirs, False)], 1, 2, ours)
    rule = {"feature": "toy", "cosine": 0.95, "cosine_from": ours, "hamming": None, "content": "image_sha256"}
    search = {"name": theirs, "items": 2, "parameters": {**rule, "grouping": "stars", "keeper": ours}}
    text = gallery_page(search | {"created_at": "now", "created_by": ours}, [group], [None, None])
    text.encode()
    HtmlPage(text)


def test_texts_stand_side_by_side(tmp_path: Path) -> None:
    this = "Please share this! Boil your water."
    texts = [this, "Please SHARE it! Boil your water.", this, "Lost cat"]
    items = [
        {"item_id": f"t{k}", "text": text, "text_sha256": f"{texts.index(text):064d}", "missing": False}
        for k, text in enumerate(texts)
    ]
    store = filled(tmp_path / "store", items, near([0, 3, 0, 80]), modality="text")
    find_duplicates(store, name="all", rule=0.1)
    other = card(write_gallery(store, "all").path.read_text(encoding="utf-8"), "t3")
    assert "another text" in other
    assert "<mark>" not in other
    find_duplicates(store, rule=0.95)
    text = write_gallery(store).path.read_text(encoding="utf-8")
    page = HtmlPage(text)
    assert page.all("img") == page.all("div", "frame") == []
    assert [a["data-kind"] for a in page.all("li", "member")] == ["keeper", "embedding", "exact"]
    assert "Kept: longer" in page.text
    assert "<mark>it!</mark> Boil" in card(text, "t1")
    assert all(told in card(text, "t2") for told in ("same text", "equal text"))
    assert not any(told in page.text for told in ("equal bytes", "another text"))
    assert "same text" not in card(text, "t0")


def test_bad_files_are_told_and_stop_nothing(tmp_path: Path) -> None:
    feed, root = made_feed(tmp_path), tmp_path / "pictures"
    (root / "large.png").write_text("<!doctype html><title>404</title>")
    (root / "twin.jpg").unlink()
    (root / "far.png").unlink()
    (root / "far.png").mkdir()
    text = write_gallery(feed).path.read_text(encoding="utf-8")
    page = HtmlPage(text)
    assert len(page.all("img")) == 1
    assert "markup" in card(text, "large")
    assert "the file has changed" in card(text, "large")
    assert "the file is gone" in card(text, "twin")  # though its twin could stand in for it
    assert 'class="problem"' in card(text, "far")
    feed.items.delete("item_id", ["small"])
    assert "no longer in the store" in HtmlPage(write_gallery(feed).path).text


def test_a_new_search_takes_the_gallery_away(feed: Store) -> None:
    made = write_gallery(feed)
    find_duplicates(feed, rule=0.999)
    assert not made.path.parent.exists()
    write_gallery(feed)
    find_duplicates(feed, name="other", rule=0.95)
    assert made.path.exists()


def test_a_search_meanwhile_leaves_no_gallery_of_the_old(feed: Store) -> None:
    before = {p.name for p in (feed.path / "dups" / "toy-image-pooled").iterdir()}

    def again(_done: int, _total: int) -> None:
        find_duplicates(feed, rule=0.999)

    with pytest.raises(StoreError, match="were replaced while"):
        write_gallery(feed, progress=again)
    folder = feed.path / "dups" / "toy-image-pooled"
    assert {p.name for p in folder.iterdir()} == before
    assert json.loads((folder / "summary.json").read_bytes())["parameters"]["cosine"] == 0.999
    assert [p.name for p in folder.parent.iterdir()] == ["toy-image-pooled"]


def test_a_gallery_elsewhere_replaces_only_galleries(feed: Store, tmp_path: Path) -> None:
    out = tmp_path / "shown" / "here"
    assert write_gallery(feed, out=out).path == out / "index.html"
    assert write_gallery(feed, out=out).path.exists()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"holds other things \(notes.txt\)"):
        write_gallery(feed, out=out)
    assert (out / "notes.txt").read_text() == "mine"
    site = tmp_path / "site"
    site.mkdir()
    (site / "index.html").write_text("mine")
    with pytest.raises(UsageError, match="holds other things"):
        write_gallery(feed, out=site)
    with pytest.raises(UsageError, match="is a file"):
        write_gallery(feed, out=site / "index.html")
    for wrong in ({"per_page": 0}, {"side": 8}):
        with pytest.raises(UsageError):
            write_gallery(feed, **wrong)  # type: ignore[arg-type]
    with pytest.raises(StoreError, match="no duplicates 'x'"):
        write_gallery(feed, "x")


def test_a_failure_leaves_the_earlier_gallery(feed: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    made = write_gallery(feed)
    before = made.path.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gallery_module, "render", full)
    with pytest.raises(StoreError, match="No space left"):
        write_gallery(feed)
    assert made.path.read_bytes() == before
    assert {p.name for p in made.path.parent.iterdir()} == {"index.html", "gallery.json"}


def test_two_thousand_frames_hit_the_cap_and_open(tmp_path: Path) -> None:
    """One scene, filmed: every frame resembles every other, and only a few files are still there."""
    rng = np.random.default_rng(0)
    n, there = 2000, 60
    X = (np.ones(16) + 0.02 * rng.standard_normal((n, 16))).astype(np.float32)
    told = {"root": str(tmp_path), "width": 64, "height": 48, "format": "JPEG", "missing": False}
    items = [
        {
            "item_id": f"{k}",
            "path": f"{k}.jpg",
            "image_sha256": f"{k:064d}",
            "bytes": 900,
            "mtime_ns": k,
            **told,
        }
        for k in range(n)
    ]
    for k in range(there):
        picture(k).save(tmp_path / f"{k}.jpg")
    found = find_duplicates(filled(tmp_path / "store", items, X), rule=0.9, max_pairs=5000).summary
    assert found["capped"]
    assert found["pairs"]["total"] == 5000
    groups = {"total": 1, "items": n, "largest": n, "chained": 0, "complete": True}
    assert found["groups"] | groups == found["groups"]
    made = write_gallery(tmp_path / "store")
    page = HtmlPage(made.path)
    assert len(page.all("li", "member")) == 48
    for said in ("and 1,952 more, see clusters.parquet", "stopped at 5,000 pairs", "sampled"):
        assert said in page.text
    assert made.summary["pages"] == 1
    assert made.summary["bytes"] < 500_000


def test_commands(feed: Store) -> None:
    def run(name: str, *options: str) -> Result:
        return CliRunner().invoke(app, ["dups", name, "-s", str(feed.path), *options])

    made = run("gallery", "--kind", "embedding", "--thumbnail", "64")
    assert made.exit_code == 0, made.output
    path = feed.path / "dups" / "toy-image-pooled" / "gallery" / "index.html"
    assert made.stdout.strip() == str(path.resolve())
    assert path.exists()
    assert json.loads(run("gallery", "--json").stdout)["members"] == 4
    found = run("find", "-n", "both", "-t", "0.95", "--gallery")
    assert found.exit_code == 0, found.output
    assert Path(found.stdout.strip().splitlines()[-1]).read_text().startswith("<!doctype html>")
    assert Path(json.loads(run("find", "-t", "0.95", "--gallery", "--json").stdout)["gallery"]).exists()
    wrong = run("gallery", "--name", "none")
    assert wrong.exit_code == 2
    assert "no duplicates 'none'" in wrong.stderr
