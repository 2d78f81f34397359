"""Whether an answer can be used: empty, cut off, repeating itself, refusing, not in the schema.

A vision-language model that fails seldom says so. These checks are cheap and lean towards the harmless mistake: a good
answer that is flagged costs one more question, a bad one that is not becomes a feature.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

__all__ = ["FLAGS", "better", "flags_of", "join_flags", "repeats"]

#: Flags with their weight: of two answers the one with the lighter flags is kept.
FLAGS = {"empty": 16, "reasoning": 12, "invalid": 8, "refusal": 6, "repeating": 3, "cut": 1}

_LOOKED_AT = 4000
_WORD = re.compile(r"\w+(?:['’]\w+)*")
_SENTENCE = re.compile(r"[^.!?\n。！？]+")
# A chunk of signs over and over, for scripts that put no spaces; and one sign for ever.
_LOOP = re.compile(r"([^\W\d]{2,12}?)\1{4,}|([^\s._\-=*#~])\2{11,}")

_CANNOT = (
    r"(?:can(?:not|['’]?t| not)|am (?:not able|unable) to|['’]m (?:not able|unable) to|won['’]?t|will not)"
)
_DO = (
    r"(?:help|assist|comply|provide|describe|identify|analy[sz]e|process|view|see (?:the|this|that|an|any|your) "
    r"(?:image|picture|photo)|fulfil|answer|discuss|engage|generate|create|continue|do (?:that|this)|determine who)"
)
_REFUSAL = re.compile(
    rf"(?:i['’]?m (?:really |very )?sorry|sorry|i apologi[sz]e|unfortunately|my apologies)?[\s,.:;\-–—]*(?:but )?[\s,]*"
    rf"(?:as an? (?:ai|artificial intelligence|language model)\b|i {_CANNOT} {_DO}|i['’]m (?:not able|unable) to {_DO}"
    rf"|there is no image|(?:i )?(?:do not|don['’]t) see (?:an|any) (?:image|picture)|no image (?:was|has been)"
    rf"|lo siento\b.{{0,40}}no puedo|désolée?\b.{{0,40}}ne peux|es tut mir leid\b.{{0,40}}kann"
    rf"|sinto muito\b.{{0,40}}não posso)",
    re.IGNORECASE,
)


def flags_of(text: str, *, cut: bool = False) -> tuple[str, ...]:
    """What is wrong with an answer: any of "empty", "refusal", "repeating", "cut", in that order; () where nothing is.

    Parameters
    ----------
    text : str
    cut : bool
        Whether the server says that it stopped at the most tokens allowed.

    Examples
    --------
    >>> flags_of("A flooded street with two cars.")
    ()
    >>> flags_of("the the the the", cut=True)
    ('repeating', 'cut')
    """
    found = []
    if not _WORD.search(text):
        found.append("empty")
    elif _REFUSAL.match(text.strip()[:300]):
        found.append("refusal")
    if repeats(text):
        found.append("repeating")
    if cut:
        found.append("cut")
    return tuple(found)


def repeats(text: str) -> bool:
    """Whether a text is caught in a loop: a word or a phrase three times running, a sentence three times."""
    text = text[-_LOOKED_AT:]
    if _LOOP.search(text):
        return True
    words = [word.casefold() for word in _WORD.findall(text)]
    for length in range(1, 21):
        run = 0
        for i in range(length, len(words)):
            run = run + 1 if words[i] == words[i - length] else 0
            # Numbers repeat in tables and scoreboards; words do not.
            if run >= 2 * length and not all(w.isdigit() for w in words[i - length + 1 : i + 1]):
                return True
    sentences = Counter(" ".join(_WORD.findall(sentence.casefold())) for sentence in _SENTENCE.findall(text))
    return any(count >= 3 and len(sentence.split()) >= 3 for sentence, count in sentences.items())


def better(first: Sequence[str], second: Sequence[str]) -> bool:
    """Whether an answer with the flags `second` is to be preferred to one with the flags `first`."""
    return sum(FLAGS[flag] for flag in second) < sum(FLAGS[flag] for flag in first)


def join_flags(flags: Sequence[str]) -> str:
    """Flags as they are stored: separated by commas, "" where nothing is wrong."""
    return ",".join(flag for flag in FLAGS if flag in flags)
