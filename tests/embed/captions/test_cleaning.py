"""Reasoning, chat tokens, fences and preambles are stripped by rule, and a caption's own words never."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from icehouse.embed.captions.cleaning import clean_answer, json_part
from icehouse.embed.captions.structured import parse

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


@pytest.mark.parametrize(
    "caption",
    [
        "A meme that reads '</think>' on a blackboard behind a man.",
        "The screenshot shows the HTML tag </think> in a code editor.",
        'A sign says "Here is the answer: 42".',
        "Here are two people at a table, with a description board: it reads MENU.",
        "A slide with code:\n```python\nprint(1)\n```\nand a cat.",
    ],
)
def test_what_the_picture_shows_is_kept(caption: str) -> None:
    assert clean_answer(caption) == (caption, False)


@pytest.mark.parametrize(
    "preamble",
    [
        "Certainly, here you go:\n",
        "The image description is as follows:\n\n",
        "The caption for this image could be: ",
        "I'd describe this image as follows: ",
        "Here is the JSON output you asked for: ",
    ],
)
def test_other_preambles(preamble: str) -> None:
    assert clean_answer(f"{preamble}A cat.") == ("A cat.", False)
