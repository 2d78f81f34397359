"""Answers: cleaned by rule, flagged, and read as JSON; a caption's own words are never touched."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from icehouse.embed.captions.questions import (
    COLUMNS,
    FLAGS,
    SCHEMA,
    better,
    clean_answer,
    flags_of,
    join_flags,
    json_part,
    parse,
    repeats,
)


@pytest.mark.parametrize(
    ("flags", "texts"),
    [
        (
            (),
            [
                "A flooded street with two cars under water; people stand on a roof.",
                "I cannot see any damage in this image. A man and a dog sit on a bench.",
                "The sign says: 'STOP'. The scoreboard reads 0 0 0 0 1.",
                "Una calle inundada. Dos coches bajo el agua.",
                "洪水で冠水した道路と二台の車。",
                "A man says sorry to a woman. She is very very angry.",
                "I see a cat.",
                "Unfortunately for the family, the house has lost its roof.",
                "A red car, a red house and a red tree. A red dog, too.",
            ],
        ),
        (("empty",), ["", "  \n", ".", "...", "–"]),
        (
            ("refusal",),
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
        ),
        (
            ("repeating",),
            [
                "the the the",
                "A house and a tree and a tree and a tree and a tree",
                "A man stands there. A dog barks. A man stands there. A cat sleeps. A man stands there.",
                "ハハハハハハハハハハハハハハ",
                "!!!!!!!!!!!!!!!!! wow !!!!!!!!!!!!!!!!!!!!",
                "no no no no no",
            ],
        ),
    ],
)
def test_flags(flags: tuple[str, ...], texts: list[str]) -> None:
    for text in texts:
        assert flags_of(text) == flags, text
        assert flags_of(text, cut=True) == (*flags, "cut"), text


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


# Cleaning

CAT = "A ginger cat."


@pytest.mark.parametrize(
    "said",
    [
        "<think>\nOkay.\n</think>\n\nA ginger cat.",
        "Got it, let me look at the image.\n</think>\nA ginger cat.",
        "<think>\n\n</think>\n\nA ginger cat.",
        "<THINKING>a</THINKING>A ginger cat.",
        "<think>a<think>b</think>c</think>A ginger cat.",
        "◁think▷ hm ◁/think▷A ginger cat.",
        "[THINK]hm[/THINK]A ginger cat.",
        "<think>x</think><answer>A ginger cat.</answer>",
        "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>A ginger cat.<|return|>",
        "A ginger cat.<|im_end|>",
        "A ginger cat.</s>",
        "A ginger cat.<|im_end|>\n<|im_start|>user\nAnd what else?",
        "<|im_start|>assistant\nA ginger cat.<|im_end|>",
        "<|start_header_id|>assistant<|end_header_id|>\n\nA ginger cat.<|eot_id|>",
        "<start_of_turn>model\nA ginger cat.<end_of_turn>",
        "<|begin_of_box|>A ginger cat.<|end_of_box|>",
        "ASSISTANT: A ginger cat.",
        "```\nA ginger cat.\n```",
        "```text\nA ginger cat.",
        "Sure! Here is a detailed description of the image:\n\n**A ginger cat.**",
        "Based on the image, here is a caption: A ginger cat.",
        "I'd be happy to help! Here is a description of the image:\n\nA ginger cat.",
        "Caption: A ginger cat.",
        "**Caption:** A ginger cat.",
        "## Image description\nA ginger cat.",
        'Sure, here\'s the alt text:\n"A ginger cat."',
        "Hier ist eine Beschreibung des Bildes:\nA ginger cat.",
        "Voici une description de l'image :\n\nA ginger cat.",
        "好的，以下是图片的描述：\nA ginger cat.",
        "Certainly, here you go:\nA ginger cat.",
        "The image description is as follows:\n\nA ginger cat.",
        "The caption for this image could be: A ginger cat.",
        "I'd describe this image as follows: A ginger cat.",
        "Here is the JSON output you asked for: A ginger cat.",
    ],
)
def test_what_is_no_caption_is_stripped(said: str) -> None:
    assert clean_answer(said) == (CAT, False)


@pytest.mark.parametrize(
    "said",
    [
        CAT,
        "The image shows a cat.",
        "OK, BOOMER: a meme",
        "Great Wall of China",
        'A sign says "Sure!"',
        "Here is a dog: it sleeps",
        "This is a photo of a cat. The description reads: x",
        '"HELP" and "STOP"',
        "Okay.",
        "text [1] <b>bold</b>",
        "",
        # What the picture shows.
        "A meme that reads '</think>' on a blackboard behind a man.",
        "The screenshot shows the HTML tag </think> in a code editor.",
        'A sign says "Here is the answer: 42".',
        "Here are two people at a table, with a description board: it reads MENU.",
        "A slide with code:\n```python\nprint(1)\n```\nand a cat.",
    ],
)
def test_captions_stay_as_they_are(said: str) -> None:
    assert clean_answer(said) == (said, False)


def test_reasoning_without_an_end_is_told() -> None:
    assert clean_answer("<think>A cat, or") == ("", True)
    assert clean_answer("A cat. <think>or") == ("A cat.", True)
    assert clean_answer("<|channel|>analysis<|message|>hm") == ("", True)


MARKS = ["<think>", "</think>", "<|im_end|>", "```", "Sure! ", ":", "a", "\n", "**", '"']


@given(st.lists(st.sampled_from(MARKS), max_size=30).map("".join))
@settings(deadline=None, max_examples=100)
def test_cleaning_a_clean_answer_changes_nothing_more(said: str) -> None:
    cleaned, _ = clean_answer(said)
    assert "<think>" not in cleaned
    assert "<|im_end|>" not in cleaned


@pytest.mark.parametrize("unit", [" ", "<s>", "<|im_end|>", "```", "{", "Sure! ", "[INST]", "here is "])
def test_long_answers_take_linear_time(unit: str) -> None:
    said = unit * (300_000 // len(unit)) + "\0"  # quadratic: hours
    clean_answer(said)
    assert parse(said) is None


def test_json_is_found_whatever_is_said_around_it() -> None:
    assert json_part('Here it is:\n```json\n{"a": {}}\n```\nHope it helps!') == '{"a": {}}'
    assert json_part("none") == "none"
