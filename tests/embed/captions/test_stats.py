"""Stored captions: `icehouse captions list`, `show`, `sample` with its page of pictures, and `stats` counted by hand."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
from caption_stores import Lab
from html_page import HtmlPage
from hypothesis import given, settings
from hypothesis import strategies as st
from icehouse.cli import app
from icehouse.embed.captions.questions import FLAGS, Prompt, prepare
from icehouse.embed.captions.stats import (
    caption_stats,
    list_captions,
    moving_ratio,
    sample_captions,
    show_captions,
    words_of,
)
from icehouse.errors import CaptionError, UsageError
from icehouse.serve.sheets import caption_sheet, write_caption_sheet
from icehouse.store.store import Store
from ollama_server import DIGEST, REFUSAL, OllamaServer, Question
from typer.testing import CliRunner, Result

HOSTILE = '<script>alert(1)</script> "><img src=x onerror=alert(1)> </p></li> \x1b[31m\u202egpj.exe'


def command(store: Store, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["captions", arguments[0], "-s", str(store.path), *arguments[1:]])


def sha_of(store: Store, item: str) -> str:
    (row,) = store.query(f"select image_sha256 from items where item_id = '{item}'").to_pylist()
    return str(row["image_sha256"])


def test_every_way_to_name_a_picture(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = lab.store(3)
    lab.imported(store, {"0000": "a house", "0001": "a tree", "0002": "a car"})
    elsewhere = tmp_path / "elsewhere.png"
    elsewhere.write_bytes((tmp_path / "pictures" / "0001.png").read_bytes())
    monkeypatch.chdir(tmp_path)
    sha = sha_of(store, "0001")
    ways = ["0001", "0001.png", "pictures/0001.png", str(tmp_path / "pictures/0001.png"), "elsewhere.png"]
    for way in (*ways, sha, sha[:6].upper()):
        (one,) = show_captions(store, [way])
        assert (one.caption, one.items, one.paths) == ("a tree", ("0001",), ("0001.png",)), way
        assert one.files == (tmp_path / "pictures" / "0001.png",)
    # Copies are one picture, named once however often it is asked for.
    (one,) = show_captions(store, ["copy", "0002", "copy.png"])
    assert (one.caption, one.items) == ("a car", ("0002", "copy"))
    assert [one.caption for one in show_captions(store, ["0002", "0000"])] == ["a car", "a house"]
    for unknown in ("none", "9999.png", "\0", sha[:5], "x" * 5000):
        with pytest.raises(UsageError, match="neither an item's id nor a path or sha256"):
            show_captions(store, [unknown])


def test_all_names_or_one(lab: Lab) -> None:
    store = lab.store(2)
    with pytest.raises(CaptionError, match="make some with `icehouse caption`"):
        show_captions(store, ["0000"])
    lab.imported(store, {"0000": "a house", "0001": "a tree"})
    lab.imported(store, {"0000": "no barn"}, "more")
    shown = show_captions(store, ["0000", "0001"])
    assert [(one.items[0], one.name, one.caption) for one in shown] == [
        ("0000", "default", "a house"),
        ("0000", "more", "no barn"),
        ("0001", "default", "a tree"),
        ("0001", "more", None),
    ]
    assert shown[3].problem == "not captioned yet"
    assert [one.caption for one in show_captions(store, ["0000"], ["more"])] == ["no barn"]
    with pytest.raises(CaptionError, match=r"no captions 'mroe' in .*; there are: default, more"):
        show_captions(store, ["0000"], ["mroe"])
    assert [(one.name, one.rows, one.maker) for one in list_captions(store)] == [
        ("default", 2, "imported from default.jsonl"),
        ("more", 1, "imported from more.jsonl"),
    ]


def test_flags_provenance_and_failures(lab: Lab, server: OllamaServer, tmp_path: Path) -> None:
    store = lab.store(3, files={"broken.png": b"none"})
    for fault, item in (("refuse", "0000"), ("400", "0001")):
        sent = prepare((tmp_path / "pictures" / f"{item}.png").read_bytes())
        server.behave(fault, times=None, image=hashlib.sha256(sent).hexdigest())
    lab.caption(store, prompt=Prompt.of(None, "crisis"))
    refused, failed, fine, broken = show_captions(store, ["0000", "0001", "0002", "broken"])
    assert (refused.caption, refused.flags, refused.attempts) == (REFUSAL, ("refusal",), 2)
    assert failed.caption is None
    assert failed.problem is not None
    assert failed.problem.startswith("failed: ")
    assert (fine.flags, fine.model, fine.host, fine.seed) == ((), "llava:7b", server.url, 0)
    assert broken.problem is not None
    (about,) = list_captions(store)
    assert (about.model, about.digest, about.asked) == ("llava:7b", DIGEST, "crisis")
    assert about.options["temperature"] == 0.0
    result = command(store, "show", "0000", "0002")
    assert result.exit_code == 0, result.output
    assert f"default [refusal]:\n    {REFUSAL}" in result.stdout
    assert f"llava:7b ({DIGEST[:12]}); asked: crisis; {server.url}; 20" in result.stdout
    both = json.loads(command(store, "show", "0002", "0001", "--json").stdout)
    assert both[0]["by"]["digest"] == DIGEST
    assert both[0]["caption"] == fine.caption
    assert both[1]["problem"] == failed.problem
    result = command(store, "list")
    assert re.search(rf"default +2 +llava:7b \({DIGEST[:12]}\) +crisis", result.stdout)
    result = command(store, "show", "none")
    assert (result.exit_code, result.stdout) == (2, "")


def test_captions_of_pairs_are_shown_with_their_post(lab: Lab, server: OllamaServer) -> None:
    # "copy" and "0001" are one picture with two texts, so with two captions.
    store = lab.store(2, texts=["calm", "help <b>now</b>", "water"])
    server.answers = lambda question: f"about {question.prompt.split()[-1].strip(chr(34))}"
    lab.caption(store, prompt=Prompt.of("Look. {text}", None, with_text=True), name="post")
    (one,) = show_captions(store, ["copy"])
    assert (one.caption, one.items, one.text) == ("about water", ("copy",), "water")
    both = show_captions(store, [sha_of(store, "copy")])
    assert {shown.caption for shown in both} == {"about water", "about ‹b›now‹/b›"}
    drawn = sample_captions(store, "post")
    assert {(shown.items, shown.text) for shown in drawn} == {
        (("0000",), "calm"),
        (("0001",), "help <b>now</b>"),
        (("copy",), "water"),
    }
    (about,) = list_captions(store)
    assert (about.with_text, about.asked) == (True, "own prompt")
    page = caption_sheet(drawn, about)
    assert "help &lt;b&gt;now&lt;/b&gt;" in page


def test_a_sample_is_the_same_whatever_the_order(lab: Lab) -> None:
    captions = {f"{i:04d}": f"number {i}" for i in range(12)}
    store = lab.store(12)
    lab.imported(store, captions)
    lab.imported(store, dict(reversed(captions.items())), "back")
    first, again = (sample_captions(store, name, n=5, seed=3) for name in ("default", "back"))
    assert [one.caption for one in first] == [one.caption for one in again]
    assert len({one.caption for one in first}) == 5
    assert [one.caption for one in first] != [one.caption for one in sample_captions(store, n=5, seed=4)]
    assert {one.caption for one in sample_captions(store, n=99)} == set(captions.values())
    # More of one seed begins with the same.
    assert [one.caption for one in sample_captions(store, n=9, seed=3)][:5] == [one.caption for one in first]
    assert sample_captions(store, n=5, flagged=True) == []
    for options in ({"n": -1}, {"seed": -1}):
        with pytest.raises(UsageError, match="0 or more"):
            sample_captions(store, **options)


def test_sample_commands(lab: Lab, tmp_path: Path) -> None:
    store = lab.store(4)
    lab.imported(store, {"0000": HOSTILE, "0001": REFUSAL, "0002": "..."})
    result = command(store, "sample")
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.stdout
    assert "\u202e" not in result.stdout
    assert "<script>alert(1)</script>" in result.stdout
    assert result.stderr == "3 captions, drawn from 3 'default'\n"
    result = command(store, "sample", "--flagged", "-n", "1", "--json")
    (one,) = json.loads(result.stdout)
    assert one["flags"] in (["refusal"], ["empty"])
    out = tmp_path / "sheet.html"
    result = command(store, "sample", "--flagged", "--out", str(out))
    assert (result.stdout, result.stderr) == ("", f"2 captions in {out}\n")
    assert out.read_text(encoding="utf-8").count('class="flag"') == 2
    result = command(store, "sample", "--out", str(tmp_path / "no" / "sheet.html"))
    assert result.exit_code == 2
    assert "cannot write" in result.stderr
    result = command(store, "sample", "--name", "none")
    assert result.exit_code == 2
    assert "there are: default" in result.stderr
    empty = command(Store.create(tmp_path / "empty"), "list")
    assert (empty.exit_code, empty.stdout) == (0, "")
    assert "icehouse caption" in empty.stderr


def test_the_sheet_is_harmless_whatever_a_model_says(lab: Lab, tmp_path: Path, server: OllamaServer) -> None:
    store = lab.store(3)
    server.answers = lambda question: HOSTILE + question.sha
    lab.caption(store, prompt=Prompt.of(f"What is it? {HOSTILE}", None))
    drawn, (about,) = sample_captions(store), list_captions(store)
    page = HtmlPage(write_caption_sheet(tmp_path / "a.html", drawn, about, how=HOSTILE))
    assert len(page.all("img")) == 3
    assert page.scripts == []
    # Three captions, the prompt, how they were chosen.
    assert page.text.count("<script>alert(1)</script>") == 5
    assert not {"\x1b", "\u202e"} & set(page.text)


def test_the_sheet_shows_flags_and_only_the_picture_that_was_described(lab: Lab, tmp_path: Path) -> None:
    store = lab.store(5)
    lab.imported(store, {"0000": "a house", "0001": REFUSAL, "0002": "a car", "0003": "", "0004": "a dog"})
    folder = tmp_path / "pictures"
    (folder / "0002.png").write_bytes((folder / "0000.png").read_bytes())
    (folder / "0001.png").unlink()
    store.items.delete("item_id", ["0004", "copy"])
    page = HtmlPage(caption_sheet(sample_captions(store), *list_captions(store)))
    assert (len(page.all("li")), len(page.all("img")), len(page.all("li", "flagged"))) == (5, 2, 2)
    problems = (
        "the file has changed since it was described",
        "the file is gone",
        "no item of the store has this",
    )
    for said in problems:
        assert page.text.count(said) == 1
    for said in ("refusal", "an empty answer", "2 of those shown are flagged", "imported from default.jsonl"):
        assert said in page.text
    assert "There is no caption to show" in caption_sheet([], *list_captions(store))


def test_a_copy_stands_in_for_a_file_that_is_gone(lab: Lab, tmp_path: Path) -> None:
    store = lab.store(2)
    lab.imported(store, {"0001": "a tree"})
    (tmp_path / "pictures" / "0001.png").unlink()
    page = caption_sheet(sample_captions(store), *list_captions(store))
    assert page.count("<img ") == 1
    assert "+1" in page


# Statistics

CAPTIONS = {
    "0000": "The image shows a house.",
    "0001": "The image shows a  HOUSE.",
    "0002": "the image shows two half-sunk cars",
    "0003": "I'm sorry, but I cannot assist with that.",
    "0004": "...",
    "0005": "Rain",
}


def test_counted_by_hand(lab: Lab) -> None:
    store = lab.store(8)
    lab.imported(store, CAPTIONS)
    found = caption_stats(store)
    assert (found.captions, found.useful) == (6, 4)
    nothing = dict.fromkeys(("failed", "items_without_image", "orphans"), 0)
    assert found.coverage == {"distinct": 8, "captioned": 6, "share": 0.75, "left": 2, **nothing}
    assert found.flags == {**dict.fromkeys(FLAGS, 0), "empty": 1, "refusal": 1, "any": 2}
    # Five captions have words: 5, 5, 6, 8, 1 of them; "..." is three characters without one.
    assert [found.words[name] for name in ("min", "median", "max", "mean")] == [1, 5, 8, 5]
    assert (found.characters["min"], found.characters["max"]) == (3, 41)
    assert (found.tokens, found.seconds, found.tokens_per_second, found.attempts) == ({}, {}, None, {})
    words = found.vocabulary
    assert (words["tokens"], words["types"], words["once"]) == (25, 17, 12)
    assert words["type_token_ratio"] == pytest.approx(17 / 25)
    assert words["moving_ratio"] is None
    assert found.common[:3] == [
        {"word": "image", "captions": 3, "share": 0.6},
        {"word": "shows", "captions": 3, "share": 0.6},
        {"word": "house", "captions": 2, "share": 0.4},
    ]
    assert found.openings[0] == {"opening": "the image shows", "captions": 3, "share": 0.6}
    assert {"opening": "rain", "captions": 1, "share": 0.2} in found.openings
    distinct = found.distinct
    assert distinct.pop("commonest").lower() == "the image shows a house."
    assert distinct == {"texts": 5, "repeated": 2, "share": pytest.approx(1 / 3), "times": 2}
    assert found.structured is None
    assert len(caption_stats(store, top=1).common) == len(caption_stats(store, top=1).openings) == 1
    with pytest.raises(CaptionError, match="there are: default"):
        caption_stats(store, "other")


def test_failures_and_pictures_that_have_left(lab: Lab, server: OllamaServer) -> None:
    store = lab.store(5)
    server.delay = 0.02  # seconds are kept to the millisecond, and a rate needs some
    server.behave("400", times=1)
    server.behave("refuse", times=1)
    lab.caption(store, concurrency=1)
    store.items.delete("item_id", ["0004", "copy"])
    found = caption_stats(store)
    counts = [found.coverage[k] for k in ("distinct", "captioned", "failed", "left", "orphans")]
    assert counts == [4, 3, 1, 0, 1]
    assert found.attempts == {1: 3, 2: 1}
    rows = store.query("select tokens, seconds from captions_default").to_pylist()
    assert found.tokens["sum"] == sum(row["tokens"] for row in rows)
    assert found.tokens_per_second == pytest.approx(
        found.tokens["sum"] / sum(row["seconds"] for row in rows), rel=1e-5
    )


def test_structured_columns(lab: Lab, server: OllamaServer) -> None:
    store = lab.store(3)
    left = [("none", 0, "", ["Car", "tree"]), ("severe", 3, "STOP", ["car", "car"])]

    def answer(question: Question) -> str:
        if not left:
            return "{no JSON at all"
        damage, people, said, objects = left.pop()
        fields = {"damage": damage, "people": people, "visible_text": said, "objects": objects}
        return json.dumps({"caption": "what there is", "sentiment": "negative", **fields})

    server.answers = answer
    lab.caption(store, prompt=Prompt.of("Look.", None, structured=True), concurrency=1)
    found = caption_stats(store)
    assert found.flags["invalid"] == 1
    assert found.useful == 2
    structured = found.structured
    assert structured is not None
    assert (structured["valid"], structured["with_people"], structured["with_text"]) == (2, 1, 1)
    assert structured["damage"] == {"none": 1, "mild": 0, "severe": 1}
    assert structured["sentiment"] == {"negative": 2, "neutral": 0, "positive": 0}
    assert structured["people"]["mean"] == 1.5
    assert structured["objects"] == [{"object": "car", "captions": 2}, {"object": "tree", "captions": 1}]
    result = CliRunner().invoke(app, ["captions", "stats", "-s", str(store.path)])
    assert "damage: 1 none, 0 mild, 1 severe" in result.stdout
    assert "objects: car 2, tree 1" in result.stdout


def test_command(lab: Lab) -> None:
    store = lab.store(8)
    lab.imported(store, CAPTIONS)
    result = CliRunner().invoke(app, ["captions", "stats", "-s", str(store.path)])
    assert result.exit_code == 0, result.output
    for line in (
        "6 captions 'default', 4 of them of use",
        "coverage: 6 of 8 distinct pictures (75.0%); 2 to ask, 0 failed",
        "flagged: 2 (33.3%): empty 1 (16.7%), refusal 1 (16.7%)",
        "vocabulary: 17 distinct of 25 words (ratio 0.680), 12 occur once",
        "word for word the same as another: 2 (33.3%); 2 times ",
    ):
        assert line in result.stdout
    as_json = json.loads(
        CliRunner().invoke(app, ["captions", "stats", "-s", str(store.path), "--json"]).stdout
    )
    assert as_json == json.loads(json.dumps(caption_stats(store).as_dict()))


def test_nothing_but_empty_answers(lab: Lab) -> None:
    store = lab.store(2)
    lab.imported(store, {"0000": "", "0001": "   "})
    found = caption_stats(store)
    assert (found.useful, found.words, found.characters, found.common, found.openings) == (0, {}, {}, [], [])
    assert found.distinct["share"] is None
    result = CliRunner().invoke(app, ["captions", "stats", "-s", str(store.path)])
    assert result.exit_code == 0, result.output
    assert "flagged: 2 (100.0%): empty 2 (100.0%)" in result.stdout


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from("abcde"), max_size=40), st.integers(1, 12))
def testmoving_ratio_is_the_mean_over_all_windows(words: list[str], window: int) -> None:
    windows = [words[i : i + window] for i in range(len(words) - window + 1)]
    expected = sum(len(set(one)) / window for one in windows) / len(windows) if windows else None
    found = moving_ratio(words, window)
    assert found is None if expected is None else found == pytest.approx(expected)


def test_words() -> None:
    assert words_of("Don’t park: half-sunk CARS—2 of them") == [
        "don’t",
        "park",
        "half-sunk",
        "cars",
        "2",
        "of",
        "them",
    ]
    assert words_of("...") == []
