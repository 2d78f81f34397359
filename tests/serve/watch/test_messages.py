"""Messages: whatever comes, what is made of it is a post or a reason, in one line and of bounded size."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from icehouse.console import json_text
from icehouse.serve.watch.sinks import Decision, _without_nul
from icehouse.serve.watch.sources import MAX_NAME, Message, Post, parse

KEYS = (
    "id",
    "text",
    "image_path",
    "image_url",
    "image_base64",
    "label",
    "author",
    "hashtags",
    "coordinates",
    "lat",
    "lon",
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def check(post: Post) -> None:
    assert 0 < len(post.id) <= MAX_NAME
    told = Decision(post, "error", "read", error=post.error).as_dict()
    assert "\n" not in (post.error or "")
    json.loads(json_text(told))
    if post.error is None:
        assert post.content or post.label is not None
        json.dumps(_without_nul(told)).encode()
        for value in (post.id, post.text, post.label, post.author, post.image_url, post.image_path):
            (value or "").encode()


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    check(parse(Message(data, "#0")))


@given(st.dictionaries(st.sampled_from(KEYS), VALUES))
def test_any_object(thing: dict[str, Any]) -> None:
    check(parse(Message(json.dumps(thing).encode(), "#0", token=7)))


def test_what_is_sound_is_taken_as_it_is() -> None:
    post = parse(
        Message(
            json.dumps(
                {
                    "id": 17, "text": "a\0b", "image_url": "https://a/b", "label": 3, "hashtags": "x y",
                    "coordinates": [10, 20.5], "author": "me", "other": {"deep": []},
                }
            ).encode(),
            "#0",
        )
    )  # fmt: skip
    assert (post.id, post.text, post.label, post.hashtags) == ("17", "a\0b", "3", ("x", "y"))
    assert (post.coordinates, post.author, post.error) == ((10.0, 20.5), "me", None)


def test_whole_numbers_of_a_column_with_gaps_are_ids_and_labels() -> None:
    """pandas writes 17.0 where some row has none; two ids that are cut short would be one post, and one lost."""
    post = parse(Message(b'{"id": 17.0, "text": "x", "label": 3.0}', "#0"))
    assert (post.id, post.label, post.error) == ("17", "3", None)
    for number in (b"1e300", b"NaN", b"9007199254740993.0", b"1.5"):
        assert "whole number" in str(parse(Message(b'{"id": ' + number + b', "text": "x"}', "#0")).error)
    long = parse(Message(b'{"id": "' + b"u" * 501 + b'", "text": "x"}', "#0"))
    assert (long.id, long.error) == ("#0", "id has 501 characters; at most 500 are taken")
    assert len(parse(Message(b'{"text": "x", "author": "' + b"u" * 501 + b'"}', "#0")).author or "") == 500
