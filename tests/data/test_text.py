from __future__ import annotations

import hashlib
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from icehouse.data.text import CLEANERS, clean, text_sha256
from icehouse.errors import UsageError

# What the patterns look for, so that random texts often hit them, and hit them halfway.
PARTS = [
    *re.findall(
        r"\S+",
        "http s :// https://t.co/ t.co/ www. pic.twitter.com/ 0123456789 a B1 / . ? : RT @ で 👩‍👧 … é",
    ),
    *re.findall(r"\S+", "& amp ; # 38 x26 lt &#58; &#894; &Tab; &#769;"),
    *("@ann: ", " ", "\n", "\x00", "\x85", "\u037e", "e\u0301", "\u0323" * 20, "\u0344" * 30),
]
hostile = st.lists(st.sampled_from(PARTS), max_size=14).map("".join)
words = st.lists(st.from_regex(r"\A[a-z]{1,8}\Z"), min_size=1, max_size=6)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("flood &amp; fire &lt;3", "flood & fire <3"),
        ("twice &amp;amp; thrice &amp;amp;amp;", "twice & thrice &"),
        ("AT&T R&D black&paranoid &unknown;", "AT&T R&D black&paranoid &unknown;"),
        ("before https://t.co/abc123 after", "before after"),
        ("gluedhttps://www.gofundme.com/A-b https://t.co/gTeADkB4nP end", "glued end"),
        ("wordpic.twitter.com/AbCdEf12 next", "word next"),
        ("www.x.org/a?b=1 now awww.so cute", "now awww.so cute"),
        ("見てhttps://t.co/abcdefghijです", "見て です"),
        ("https://t.co/0123456789Wow", "Wow"),
        ("cut off http… https:/… here t.co/abc", "cut off … … here"),
        ("really? http://x.com? yes", "really? ? yes"),
        ("RT @ann: hi @bob #Harvey", "hi @bob #Harvey"),
        ("RT @a: RT @b : hi", "hi"),
        ("RT @ann says hi, RT @bob: later", "RT @ann says hi, RT @bob: later"),
        ("nul\x00 tab\t\x1b\x85 nbsp\xa0end", "nul tab nbsp end"),
        ("e\u0301 👩\u200d👩\u200d👧 🔥", "é 👩\u200d👩\u200d👧 🔥"),
        ("http://", ""),
        ("", ""),
    ],
)
def test_social_v1(text: str, expected: str) -> None:
    assert clean(text, "social-v1") == expected


@settings(deadline=None, max_examples=150)
@given(st.one_of(hostile, st.text()))
def test_cleaning_twice_is_cleaning_once(text: str) -> None:
    once = clean(text)
    assert clean(once) == once


@settings(deadline=None, max_examples=100)
@given(st.text(st.characters(exclude_categories=())))
def test_any_text_is_cleaned_and_hashed(text: str) -> None:
    assert "\x00" not in clean(text)
    assert len(text_sha256(text)) == 64


@pytest.mark.slow
@settings(deadline=None, max_examples=150)
@given(
    before=words,
    url=st.sampled_from(
        [
            "https://t.co/abc",
            "http://a.b/c?d=e&f=g,h",
            "www.x.org",
            "pic.twitter.com/Q1",
            "t.co/x",
            "HTTP://A.B",
        ]
    ),
    separator=st.sampled_from([" ", "\n", ", ", " - ", "。", ") ", "！", "…", "\x00"]),
    after=words,
)
def test_no_word_around_a_url_is_lost(before: list[str], url: str, separator: str, after: list[str]) -> None:
    cleaned = clean(f"{' '.join(before)} {url}{separator}{' '.join(after)}")
    assert cleaned.startswith(" ".join(before))
    assert cleaned.endswith(" ".join(after))
    assert "t.co" not in cleaned
    assert "://" not in cleaned


@pytest.mark.slow
@pytest.mark.parametrize(
    "unit",
    [
        *["&", "&amp;", "&#38;", "&#35;35;", "http://", "t.co/0123456789", "www."],
        "RT @a:",
        "\u0301\u0323",
        "\u0344",
        "e\u0301",
    ],
)
def test_long_hostile_text_is_cleaned(unit: str) -> None:
    # Quadratic work on any of these would hold the suite up for minutes.
    text = unit * (300_000 // len(unit))
    once = clean(text)
    assert clean(once) == once


def test_none_changes_nothing() -> None:
    assert clean(" &amp; https://t.co/x \x00", "none") == " &amp; https://t.co/x \x00"


def test_unknown_cleaner_names_the_known() -> None:
    with pytest.raises(UsageError, match="none, social-v1"):
        clean("x", "social")
    assert set(CLEANERS) == {"none", "social-v1"}


def test_sha256_is_that_of_the_utf8_bytes() -> None:
    assert text_sha256("é") == hashlib.sha256("é".encode()).hexdigest()
    assert text_sha256("e\u0301") != text_sha256("é")
