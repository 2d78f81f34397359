"""Texts on their way into a tokenizer: any string is taken, and a huge one costs no more than what the model reads of it."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["encodable", "readable_prefix"]

#: Characters a token, generously: longer than all but freak tokens, so that the first cut nearly always fills the context.
_GENEROUS = 25
#: Tokens beyond the limit that a cut must leave, so that what its edge does to the last word is never read.
_MARGIN = 16


def encodable(text: str) -> str:
    """Replace what UTF-8 cannot hold (half of a surrogate pair, as cut JSON has it) by U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def readable_prefix(text: str, limit: int, count: Callable[[str], int]) -> tuple[str, int]:
    """Cut a long text to a prefix that still fills a model's context.

    Byte-pair encoding in Python takes minutes over a megabyte, of which a model reads 77 tokens.

    Parameters
    ----------
    text : str
    limit : int
        Most tokens that the model reads.
    count : callable
        Length of a string in tokens.

    Returns
    -------
    prefix : str
        The whole text, or a prefix that ends before a space and whose first `limit` tokens are those of the text.
    length : int
        Tokens of `prefix`: exact for a text of up to 25 characters a token of the limit, else possibly fewer than the
        text's own, but more than `limit` whenever the text's are.
    """
    text = encodable(text)
    size = _GENEROUS * limit
    while size < len(text):
        head = text[:size]
        cut = max(head.rfind(space) for space in (" ", "\n", "\t"))
        prefix = head[:cut] if cut > size // 2 else head
        length = count(prefix)
        if length > limit + _MARGIN:
            return prefix, length
        size *= 4
    return text, count(text)
