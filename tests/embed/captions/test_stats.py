"""What a set of captions is like, counted by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from caption_stores import Lab
from hypothesis import given, settings
from hypothesis import strategies as st
from icehouse.cli import app
from icehouse.embed.captions.importing import import_captions
from icehouse.embed.captions.settings import Prompt
from icehouse.embed.captions.stats import _moving_ratio, caption_stats, words_of
from icehouse.errors import CaptionError
from icehouse.store.store import Store
from ollama_server import OllamaServer, Question
from typer.testing import CliRunner

CAPTIONS = {
    "0000": "The image shows a house.",
    "0001": "The image shows a  HOUSE.",
    "0002": "the image shows two half-sunk cars",
    "0003": "I'm sorry, but I cannot assist with that.",
    "0004": "...",
    "0005": "Rain",
}


def written(store: Store, tmp_path: Path, captions: dict[str, str]) -> None:
    path = tmp_path / "captions.csv"
    path.write_text("item_id,caption\n" + "".join(f'{i},"{c}"\n' for i, c in captions.items()))
    import_captions(store, path)


def test_counted_by_hand(lab: Lab, tmp_path: Path) -> None:
    store = lab.store(8)
    written(store, tmp_path, CAPTIONS)
    found = caption_stats(store)
    assert (found.captions, found.useful) == (6, 4)
    assert found.coverage == {
        "distinct": 8,
        "captioned": 6,
        "share": 0.75,
        "failed": 0,
        "left": 2,
        "items_without_image": 0,
        "orphans": 0,
    }
    assert found.flags == {
        "empty": 1,
        "invalid": 0,
        "refusal": 1,
        "repeating": 0,
        "cut": 0,
        "reasoning": 0,
        "any": 2,
    }
    # Five captions have words: 5, 5, 6, 8, 1 of them; "..." is three characters without one.
    assert (found.words["min"], found.words["median"], found.words["max"], found.words["mean"]) == (
        1,
        5,
        8,
        5,
    )
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
    assert found.distinct == {
        "texts": 5,
        "repeated": 2,
        "share": pytest.approx(1 / 3),
        "commonest": found.distinct["commonest"],
        "times": 2,
    }
    assert found.distinct["commonest"].lower() == "the image shows a house."
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
    assert {k: found.coverage[k] for k in ("distinct", "captioned", "failed", "left", "orphans")} == {
        "distinct": 4,
        "captioned": 3,
        "failed": 1,
        "left": 0,
        "orphans": 1,
    }
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


def test_command(lab: Lab, tmp_path: Path) -> None:
    store = lab.store(8)
    written(store, tmp_path, CAPTIONS)
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


def test_nothing_but_empty_answers(lab: Lab, tmp_path: Path) -> None:
    store = lab.store(2)
    written(store, tmp_path, {"0000": "", "0001": "   "})
    found = caption_stats(store)
    assert (found.useful, found.words, found.characters, found.common, found.openings) == (0, {}, {}, [], [])
    assert found.distinct["share"] is None
    result = CliRunner().invoke(app, ["captions", "stats", "-s", str(store.path)])
    assert result.exit_code == 0, result.output
    assert "flagged: 2 (100.0%): empty 2 (100.0%)" in result.stdout


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from("abcde"), max_size=40), st.integers(1, 12))
def test_moving_ratio_is_the_mean_over_all_windows(words: list[str], window: int) -> None:
    windows = [words[i : i + window] for i in range(len(words) - window + 1)]
    expected = sum(len(set(one)) / window for one in windows) / len(windows) if windows else None
    found = _moving_ratio(words, window)
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
