"""Which answers are flagged, and which of two is kept."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from icehouse.embed.captions.answers import FLAGS, better, flags_of, join_flags, repeats
from icehouse.embed.captions.structured import COLUMNS, SCHEMA, parse

GOOD = [
    "A flooded street with two cars under water; people stand on a roof.",
    "I cannot see any damage in this image. A man and a dog sit on a bench.",
    "The sign says: 'STOP'. The scoreboard reads 0 0 0 0 1.",
    "Una calle inundada. Dos coches bajo el agua.",
    "洪水で冠水した道路と二台の車。",
    "A man says sorry to a woman. She is very very angry.",
    "I see a cat.",
    "Unfortunately for the family, the house has lost its roof.",
    "A red car, a red house and a red tree. A red dog, too.",
]


@pytest.mark.parametrize("text", GOOD)
def test_good_answers_are_left_alone(text: str) -> None:
    assert flags_of(text) == ()


@pytest.mark.parametrize("text", ["", "  \n", ".", "...", "–"])
def test_empty(text: str) -> None:
    assert flags_of(text) == ("empty",)


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't assist with that request.",
        "I’m sorry, but I can’t help with that.",
        "Sorry, I cannot describe this image.",
        "I cannot assist with that.",
        "I am unable to view the image you mention.",
        "As an AI language model, I do not see pictures.",
        "I apologize, but I am not able to provide a description.",
        "Unfortunately, I can't see the image.",
        "There is no image provided.",
        "I don't see any image.",
        "Lo siento, pero no puedo ayudar con eso.",
    ],
)
def test_refusals(text: str) -> None:
    assert flags_of(text) == ("refusal",)


@pytest.mark.parametrize(
    "text",
    [
        "the the the",
        "A house and a tree and a tree and a tree and a tree",
        "A man stands there. A dog barks. A man stands there. A cat sleeps. A man stands there.",
        "ハハハハハハハハハハハハハハ",
        "!!!!!!!!!!!!!!!!! wow !!!!!!!!!!!!!!!!!!!!",
        "no no no no no",
    ],
)
def test_repetition(text: str) -> None:
    assert "repeating" in flags_of(text)


def test_cut_off() -> None:
    assert flags_of("A street with", cut=True) == ("cut",)


@pytest.mark.slow
@given(st.text(max_size=3000))
@settings(deadline=None, max_examples=150)
def test_any_text_can_be_judged(text: str) -> None:
    assert set(flags_of(text)) <= set(FLAGS)


def test_a_megabyte_is_no_trouble() -> None:
    assert not repeats(" ".join(f"w{i}x" for i in range(150_000)))


def test_the_lighter_flags_win() -> None:
    assert better(("empty",), ())
    assert better(("refusal",), ("cut",))
    assert better(("repeating", "cut"), ("cut",))
    assert not better(("cut",), ("cut",))
    assert not better(("cut",), ("empty",))


def test_flags_as_stored() -> None:
    assert join_flags(()) == ""
    assert join_flags(("cut", "repeating")) == "repeating,cut"


VALID: dict[str, Any] = {
    "caption": "A flooded street.",
    "objects": ["car", "house"],
    "damage": "severe",
    "people": 3,
    "visible_text": "STOP",
    "sentiment": "negative",
}


def test_valid_json_is_read() -> None:
    for text in (
        json.dumps(VALID),
        f"```json\n{json.dumps(VALID)}\n```",
        json.dumps(VALID | {"damage": "Severe"}),
    ):
        assert parse(text) == VALID


@pytest.mark.parametrize(
    "change",
    [
        {"damage": "total"},
        {"people": -1},
        {"people": 2.5},
        {"people": True},
        {"people": "three"},
        {"people": 10**12},
        {"objects": "car"},
        {"objects": [1]},
        {"caption": None},
        {"sentiment": "angry"},
        {"more": 1},
    ],
)
def test_what_breaks_the_schema_is_invalid(change: dict[str, Any]) -> None:
    assert parse(json.dumps(VALID | change)) is None


@pytest.mark.parametrize("text", ["", "A street.", "[1]", "{", "[" * 100_000, json.dumps({"caption": "x"})])
def test_what_is_no_such_json_is_invalid(text: str) -> None:
    assert parse(text) is None


def test_schema_and_columns_name_the_same() -> None:
    assert set(SCHEMA["required"]) == set(SCHEMA["properties"]) == {"caption", *COLUMNS.names}
