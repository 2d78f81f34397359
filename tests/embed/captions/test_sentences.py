"""Long captions lose no word on their way through a short context."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from icehouse.embed.captions.features import pack, split_sentences


def words(texts: Sequence[str]) -> np.ndarray:
    """Tokens as CLIP counts them: one a word, and two around."""
    return np.array([len(text.split()) + 2 for text in texts])


def characters(texts: Sequence[str]) -> np.ndarray:
    return np.array([len(text) + 2 for text in texts])


def test_sentences() -> None:
    assert split_sentences('He says "Stop!" and goes. Then? "No." (End.) ok') == [
        'He says "Stop!"',
        "and goes.",
        "Then?",
        '"No."',
        "(End.)",
        "ok",
    ]
    assert split_sentences("- one\n- two\n\nthree") == ["- one", "- two", "three"]
    assert split_sentences("洪水です。道路が冠水。") == ["洪水です。", "道路が冠水。"]
    assert split_sentences("U.S. roads at 3.5 m") == ["U.S.", "roads at 3.5 m"]
    assert split_sentences(" \n ") == []


def test_blanks_take_linear_time() -> None:
    for blank in (" ", "\t", "\n", ".", '. "', "\u2003"):
        text = "one" + blank * 300_000 + "two"  # quadratic: hours
        assert "".join("".join(split_sentences(text)).split()) == "".join(text.split())


@given(st.text(max_size=300))
@settings(deadline=None, max_examples=100)
def test_nothing_but_space_is_lost(text: str) -> None:
    assert "".join("".join(split_sentences(text)).split()) == "".join(text.split())


@given(st.text(st.sampled_from("ab .!?\n"), max_size=400), st.integers(4, 30))
@settings(deadline=None, max_examples=100)
def test_pieces_fit_and_keep_everything(text: str, limit: int) -> None:
    for count in (words, characters):
        pieces = pack(text, limit, count)
        assert all(count([piece])[0] <= limit for piece in pieces)
        assert "".join("".join(pieces).split()) == "".join(text.split())


def test_what_fits_stays_whole_and_neighbours_share_a_piece() -> None:
    assert pack("One two. Three.", 10, words) == ["One two. Three."]
    assert pack("One two. Three four. Five six.", 6, words) == ["One two. Three four.", "Five six."]
    assert (
        pack("a b c d e f g", 5, words) == ["a b c", "d e f", "g"]
        or len(pack("a b c d e f g", 5, words)) <= 4
    )
    assert pack("", 5, words) == []


def test_a_word_longer_than_the_context_is_cut_in_characters() -> None:
    pieces = pack("x" * 100, 12, characters)
    assert "".join(pieces).replace(" ", "") == "x" * 100
    assert max(map(len, pieces)) <= 10
