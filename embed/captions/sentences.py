"""Long captions in pieces that a text tower reads whole.

A caption of a hundred words and more is longer than CLIP's 77 tokens. Cut there, its vector knows the beginning only. So
it is split into sentences, neighbouring ones are packed as long as they fit, and the pieces' vectors are averaged, each
weighted by its tokens (Zhang et al. 2024, arXiv 2403.15378, find that CLIP makes little of more than some 20 at a time).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

__all__ = ["pack", "split_sentences"]

# A sentence ends with its mark and whatever quotes or brackets close after it; in scripts without spaces, with its mark.
_END = re.compile(r"(?<=[.!?…])[\"'”’)\]]*\s+|(?<=[。！？])")

Count = Callable[[Sequence[str]], np.ndarray]


def split_sentences(text: str) -> list[str]:
    """Sentences of a text, in order; nothing but white space is lost.

    >>> split_sentences("A street. It is flooded! Two cars")
    ['A street.', 'It is flooded!', 'Two cars']
    """
    pieces: list[str] = []
    # Line by line: a pattern that looked for a line's end past blanks would take quadratic time on blanks alone.
    for line in text.split("\n"):
        at = 0
        for found in _END.finditer(line):
            # Closing marks belong to the sentence, the space after them to nobody.
            pieces.append(line[at : found.start() + len(found.group().rstrip())])
            at = found.end()
        pieces.append(line[at:])
    return [piece.strip() for piece in pieces if piece.strip()]


def pack(text: str, limit: int, count: Count) -> list[str]:
    """Pieces of at most `limit` tokens that make up a text: sentences where they fit, else words, else characters.

    Parameters
    ----------
    text : str
    limit : int
        Most tokens of a piece, special ones included.
    count : callable
        Tokens of each text: int array.

    Returns
    -------
    list of str
        One where the text fits as it is; none for a text without content.
    """
    text = text.strip()
    if not text:
        return []
    if int(count([text])[0]) <= limit:
        return [" ".join(text.split())]
    fitting: list[str] = []
    for sentence in split_sentences(text):
        fitting += _split_to_fit(" ".join(sentence.split()), limit, count)
    return _join_neighbours(fitting, limit, count)


def _split_to_fit(sentence: str, limit: int, count: Count) -> list[str]:
    """Halve a sentence, at a space if there is one, until each part fits."""
    if len(sentence) <= 1 or int(count([sentence])[0]) <= limit:
        return [sentence]
    middle = len(sentence) // 2
    left, right = sentence.rfind(" ", 0, middle + 1), sentence.find(" ", middle)
    places = [place for place in (left, right) if place > 0]
    cut = min(places, key=lambda place: abs(place - middle)) if places else middle
    halves = (sentence[:cut].strip(), sentence[cut:].strip())
    return [piece for half in halves if half for piece in _split_to_fit(half, limit, count)]


def _join_neighbours(pieces: list[str], limit: int, count: Count) -> list[str]:
    """Put neighbours together as long as they fit."""
    joined: list[str] = []
    for piece in pieces:
        longer = f"{joined[-1]} {piece}" if joined else piece
        if joined and int(count([longer])[0]) <= limit:
            joined[-1] = longer
        else:
            joined.append(piece)
    return joined
