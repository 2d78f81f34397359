"""Variants: pictures that agree and say something else are listed, and never dropped unless asked for."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from galleries import csv_rows, looking_alike
from html_page import HOSTILE, HtmlPage
from hypothesis import given, settings
from hypothesis import strategies as st
from icehouse.cli import app
from icehouse.dups.evaluate import Truth, evaluate_duplicates
from icehouse.dups.find import find_duplicates
from icehouse.dups.gallery import write_gallery
from icehouse.dups.groups import group_pairs
from icehouse.dups.pair_graph import Duplicates
from icehouse.dups.variants import (
    AGREEING,
    Overlays,
    Texts,
    TextSets,
    Variants,
    agreement,
    part_variants,
    texts_of,
    words_of,
)
from icehouse.errors import UsageError
from icehouse.store.store import Store
from typer.testing import CliRunner

Row = tuple[str, int, str | None]  # id, which picture it looks like, text


def made_store(path: Path, rows: list[Row], copies: dict[str, str] | None = None) -> Store:
    """Items whose vectors agree where their pictures look alike; `copies` are byte copies of other items."""
    number = {name: k for k, (name, _, _) in enumerate(rows)}
    of = copies or {}
    return looking_alike(
        path,
        [
            {"item_id": name, "look": look, "text": text, "content": number[of.get(name, name)]}
            for name, look, text in rows
        ],
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't PANIC!", {"dont", "panic"}),
        (
            "RT @ann: flood &amp; fire https://t.co/abc stay safe #Harvey @bob",
            {"flood", "fire", "stay", "safe"},
        ),
        ("#Harvey hits #Houston hard #flood #help", {"harvey", "hits", "houston", "hard"}),
        ("#flood #help", set()),
        ("😂😂 🔥", set()),
        ("ok", set()),
        (None, set()),
        ("洪水警報", {"洪水", "水警", "警報"}),
        ("東京tokyo2020へ", {"東京", "tokyo2020", "へ"}),
    ],
)
def test_words_are_what_a_text_says(text: str | None, words: set[str]) -> None:
    assert words_of(text) == words


def test_signs_of_vowels_are_no_separators() -> None:
    assert len(words_of("बाढ़ की खबर")) == 3
    assert len(words_of("น้ำท่วม")) >= 5


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("When Monday comes", "when MONDAY comes!!!", True),
        ("one cat sleeps all day", "two dogs bark at night", False),
        ("the river is rising in our street please help", "the river is rising in our…", True),  # cut short
        ("so true! the river is rising in our street", "the river is rising in our street", True),  # quoted
        ("the river is rising https://t.co/a1 #flood", "RT @ann: the river is rising", True),
        ("Monday", "Friday", False),
        ("wehn monday hears homework", "when m0nday hears homwork", True),  # misread letters
        ("洪水が来る", "洪水が来るよ", True),
        ("洪水が来る", "猫がかわいい", False),
    ],
)
def test_texts_agree_or_do_not(a: str, b: str, same: bool) -> None:
    told = agreement(words_of(a), words_of(b))
    assert (told >= AGREEING) == same
    assert told == agreement(words_of(b), words_of(a))


@given(st.text(max_size=60), st.text(max_size=60))
@settings(max_examples=150, deadline=None)
def test_agreement_is_a_share_and_symmetric(a: str, b: str) -> None:
    p, q = words_of(a), words_of(b)
    assert 0 <= agreement(p, q) == agreement(q, p) <= 1
    assert agreement(p, p) == 1 == agreement(p, frozenset())
    assert words_of(f"{a} https://t.co/abc #tag") >= frozenset()
    assert words_of(" ".join(sorted(p))) <= p | words_of(a)


def test_variants_are_listed_and_kept(tmp_path: Path) -> None:
    rows: list[Row] = [
        ("a", 0, "when monday hears homework"),
        ("a2", 0, "When Monday hears homework!"),
        ("b", 0, "cats are liquid and that is fine"),
        ("bare", 1, None),
        ("bare2", 1, "some words that only this one has"),
        ("alone", 2, "nothing like it"),
    ]
    store = made_store(tmp_path / "s", rows)
    found = find_duplicates(store, hamming=None, rule=0.9)
    kinds = {(row["id_a"], row["id_b"]): (row["kind"], row["differs"]) for row in found.pairs().to_pylist()}
    assert kinds == {
        ("a", "a2"): ("embedding", None),
        ("a", "b"): ("variant", "text"),
        ("a2", "b"): ("variant", "text"),
        ("bare", "bare2"): ("embedding", None),  # a text on one side says nothing
    }
    assert {row["item_id"] for row in csv_rows(found.path / "drop.csv")} == {"a2", "bare2"}
    assert {row["item_id"] for row in csv_rows(found.path / "keep.csv")} == {"a", "b", "bare", "alone"}
    listed = csv_rows(found.path / "variants.csv")
    assert [(row["variants"], row["item_id"], row["variant_of"], row["differs"]) for row in listed] == [
        ("0", "a", "", ""), ("0", "b", "a", "text"),
    ]  # fmt: skip
    assert float(listed[1]["cosine"]) > 0.9
    assert listed[1]["text"] == rows[2][2]
    clusters = {row["item_id"]: row["variants"] for row in found.clusters().to_pylist()}
    assert clusters == {"a": 0, "a2": 0, "bare": None, "bare2": None}
    summary = found.summary
    assert summary["variants"] == {"sets": 1, "items": 2, "pairs": {"text": 2}, "left_groups": 0}
    assert summary["pairs"]["by_kind"] == {
        "exact": 0,
        "perceptual": 0,
        "embedding": 2,
        "variant": 2,
        "container": 0,
    }
    assert summary["pairs"]["found_by"]["embedding"] == 4
    assert summary["kept"] + summary["dropped"] == 6
    assert any(
        "2 pairs of pictures agree and say something else (2 by their texts)" in n for n in summary["notes"]
    )


def test_variants_are_dropped_when_asked_for(tmp_path: Path) -> None:
    rows: list[Row] = [("a", 0, "when monday hears homework"), ("b", 0, "cats are liquid and that is fine")]
    store = made_store(tmp_path / "s", rows)
    found = find_duplicates(store, hamming=None, rule=0.9, variants="drop")
    dropped = csv_rows(found.path / "drop.csv")
    assert [(row["item_id"], row["keeper"], row["kind"]) for row in dropped] == [("b", "a", "variant")]
    assert evaluate_duplicates(found, Truth(frozenset({("a", "b")}), None))["cascade"]["recall"] == 1
    found = find_duplicates(store, hamming=None, rule=0.9)
    scores = evaluate_duplicates(found, Truth(frozenset({("a", "b")}), None))
    assert scores["embedding"]["recall"] == 1
    assert scores["cascade"]["recall"] == 0
    assert scores["variant"]["right"] == 1
    with pytest.raises(UsageError, match="keep, drop, not 'both'"):
        find_duplicates(store, hamming=None, rule=0.9, variants="both")  # type: ignore[arg-type]


def test_a_bare_picture_does_not_stand_for_different_captions(tmp_path: Path) -> None:
    """The bare template is like all its memes, which are nobody's duplicates; copies of one of them still are."""
    rows: list[Row] = [
        ("bare", 0, None),
        ("m1", 0, "when monday hears homework"),
        ("m2", 0, "cats are liquid and that is fine"),
        ("m3", 0, "one does not simply find the last biscuit"),
        ("m2-again", 0, "Cats are liquid, and that is FINE"),
        ("bare-again", 0, None),
    ]
    store = made_store(tmp_path / "s", rows)
    for grouping in ("star", "components"):
        found = find_duplicates(store, hamming=None, rule=0.9, grouping_by=grouping)
        dropped = {row["item_id"]: row["keeper"] for row in csv_rows(found.path / "drop.csv")}
        assert dropped == {"bare-again": "bare", "m2-again": "m2"}, grouping
        assert found.summary["variants"]["sets"] == 1
        assert found.summary["variants"]["items"] == 3


def test_copies_stay_duplicates_whatever_their_texts(tmp_path: Path) -> None:
    rows: list[Row] = [
        ("a", 0, "when monday hears homework"),
        ("copy", 0, "cats are liquid and that is fine"),
        ("b", 0, "Cats are liquid and that is fine!"),
    ]
    store = made_store(tmp_path / "s", rows, copies={"copy": "a"})
    found = find_duplicates(store, hamming=None, rule=0.9)
    kinds = {(row["id_a"], row["id_b"]): row["kind"] for row in found.pairs().to_pylist()}
    # The picture was posted with both texts, one of which is b's.
    assert kinds == {("a", "copy"): "exact", ("a", "b"): "embedding"}
    assert found.summary["dropped"] == 2
    assert any("1 picture is there as byte copies with different texts" in n for n in found.summary["notes"])


def test_text_read_off_pictures_counts(tmp_path: Path) -> None:
    rows: list[Row] = [("a", 0, "lovely day"), ("b", 0, "lovely day"), ("c", 0, "lovely day")]
    store = made_store(tmp_path / "s", rows)
    schema = pa.schema([pa.field("image_sha256", pa.string()), pa.field("visible_text", pa.string())])
    read_off = store.ensure_table("captions/structured", schema, {"kind": "captions", "key": "image_sha256"})
    texts = ["when monday hears homework", "cats are liquid and fine", None]
    read_off.append(
        pa.table({"image_sha256": [f"{k:064d}" for k in range(3)], "visible_text": texts}, schema=schema)
    )
    names = [one.name for one in texts_of(store, store.items.read(["text", "image_sha256"]))]
    assert names == ["text read off the pictures (captions/structured)", "text"]
    found = find_duplicates(store, hamming=None, rule=0.9)
    kinds = {(row["id_a"], row["id_b"]): row["kind"] for row in found.pairs().to_pylist()}
    assert kinds == {("a", "b"): "variant", ("a", "c"): "embedding", ("b", "c"): "embedding"}


def test_the_cap_on_pairs_changes_no_star(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    said = [
        None,
        "when monday hears homework",
        "cats are liquid and that is fine",
        "nobody reads the last biscuit",
    ]
    rows: list[Row] = [(f"i{k:02d}", int(rng.integers(3)), said[rng.integers(1, 4)]) for k in range(40)]
    store = made_store(tmp_path / "s", rows)
    whole = find_duplicates(store, name="whole", hamming=None, rule=0.9)
    capped = find_duplicates(store, name="capped", hamming=None, rule=0.9, max_pairs=20)
    assert capped.summary["capped"]
    assert whole.summary["dropped"] > 20
    assert csv_rows(whole.path / "drop.csv") == csv_rows(capped.path / "drop.csv")


@given(st.integers(0, 2**32 - 1), st.sampled_from(["star", "components", "cliques"]))
@settings(max_examples=60, deadline=None)
def test_no_group_holds_variants(seed: int, method: str) -> None:
    """Of everything that looks alike, no member is a variant of its keeper, and no bare keeper stands for two texts."""
    rng = np.random.default_rng(seed)
    n = 14
    said = [None, "alpha beta gamma", "delta epsilon zeta", "eta theta iota"]
    values = pa.array([said[k] for k in rng.integers(0, 4, n)], pa.string())
    variants = Variants([TextSets.make(values, np.arange(n), n)])
    i, j = (side.astype(np.int64) for side in np.triu_indices(n, 1))
    linked = rng.random(len(i)) < 0.5
    i, j = i[linked], j[linked]
    same = variants.of(i, j) == 0

    def regroup(left: np.ndarray) -> np.ndarray:
        inside = np.isin(i, left) & np.isin(j, left) & same
        return group_pairs(
            len(left), np.searchsorted(left, i[inside]), np.searchsorted(left, j[inside]), method
        )

    keeper, _ = part_variants(group_pairs(n, i[same], j[same], method), variants, regroup)
    assert (keeper[keeper] == keeper).all()
    assert (keeper <= np.arange(n)).all()
    texts = values.to_pylist()
    for lead in np.unique(keeper):
        assert len({texts[k] for k in np.flatnonzero(keeper == lead)} - {None}) <= 1


def test_the_command_tells_variants(tmp_path: Path) -> None:
    rows: list[Row] = [("a", 0, "when monday hears homework"), ("b", 0, "cats are liquid and that is fine")]
    store = made_store(tmp_path / "s", rows)
    ask = ["dups", "find", "-s", str(store.path), "-t", "0.9"]
    done = CliRunner().invoke(app, ask)
    assert done.exit_code == 0, done.output
    line = next(line for line in done.output.splitlines() if line.split()[:1] == ["variant"])
    assert line.split()[1] == "1"
    assert "variants.csv" in done.output
    done = CliRunner().invoke(app, [*ask, "--variants", "drop"])
    assert done.exit_code == 0
    assert Duplicates.open(store).summary["dropped"] == 1


def test_all_pairs_are_judged_alike_by_themselves_and_together() -> None:
    rng = np.random.default_rng(1)
    pool = ["alpha beta gamma", "alpha beta delta", "eta theta", None, "ok", "zeta eta theta iota kappa"]
    content = rng.integers(-1, 12, 60)
    texts = [pool[k] for k in rng.integers(0, len(pool), 60)]
    sets = TextSets.make(pa.array(texts, pa.string()), content, 12)
    own: list[set[str]] = [set() for _ in range(12)]
    for number, text in zip(content.tolist(), texts, strict=True):
        if number >= 0 and words_of(text):
            own[number].add(str(text))
    i, j = np.triu_indices(12, 1)
    told = sets.agreements(i.astype(np.int64), j.astype(np.int64))
    for a, b, score in zip(i.tolist(), j.tolist(), told.tolist(), strict=True):
        best = max(
            (agreement(words_of(x), words_of(y)) for x, y in itertools.product(own[a], own[b])), default=None
        )
        assert np.isnan(score) if best is None else score == pytest.approx(best)


def test_the_gallery_shows_variants_on_a_page_of_their_own(tmp_path: Path) -> None:
    rows: list[Row] = [(word, number, f"{word} alpha beta") for number, word in enumerate(HOSTILE)]
    rows += [(f"{word}2", number, f"gamma delta {number}") for number, word in enumerate(HOSTILE)]
    store = made_store(tmp_path / "s", [*rows, ("a", 12, "one two three"), ("a2", 12, "one two three")])
    find_duplicates(store, hamming=None, rule=0.9)
    made = write_gallery(store)
    index = HtmlPage(made.path)
    assert f"{len(HOSTILE)} sets of variants" in index.text
    assert {"href": "variants.html"} in index.all("a")
    page = HtmlPage(made.path.with_name("variants.html"))
    assert len(page.all("section", "group")) == len(HOSTILE)
    assert len(page.all("li", "member")) == 2 * len(HOSTILE)
    assert "other text" in page.text
    assert "a2" not in page.text.split()
    found = find_duplicates(store, hamming=None, rule=0.9, variants="drop")
    assert found.variants().num_rows == 0
    assert not write_gallery(store).path.with_name("variants.html").exists()
    (found.path / "variants.parquet").unlink()
    assert Duplicates.open(store).variants().num_rows == 0


@pytest.mark.parametrize(
    ("texts", "patched", "told"),
    [
        (("when monday opens the fridge at night", "when your cat opens the fridge at night"), True, 1),
        (("when monday opens the fridge at night", "when your cat opens the fridge at night"), False, 0),
        (("when monday opens the fridge at night",) * 2, True, 0),  # a sticker
        (("when monday opens the fridge at night", None), True, 0),
    ],
)
def test_a_changed_line_is_told_by_words_and_pictures_together(
    texts: tuple[str | None, str | None], patched: bool, told: int
) -> None:
    # Texts that share most of their words agree, and one place alone is a sticker; both together are another meme.
    y, x = np.mgrid[0:64, 0:64]
    thumbs = np.stack([(100 + 40 * np.sin(x / 9) + 40 * np.cos(y / 7)).astype(np.uint8)] * 2)
    if patched:
        thumbs[1, 48:56, 8:40] += 40
    pictures = Overlays(lambda numbers: (thumbs[numbers], np.ones(len(numbers), bool)), np.arange(2))
    said = [Texts("text", pa.array(texts, pa.string()))]
    variants = Variants.gather(said, np.arange(2), 2, pictures)
    assert variants.of(np.array([0]), np.array([1])).tolist() == [told]
