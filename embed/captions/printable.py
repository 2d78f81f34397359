"""What others wrote (captions, keys of files, a server's messages) as it may be shown on a terminal."""

from __future__ import annotations

__all__ = ["one_line"]


def one_line(text: str) -> str:
    """A stranger's text on one line, with nothing in it that a terminal would obey.

    >>> one_line("red " + chr(27) + "[31m and a " + chr(10) + " new line")
    'red �[31m and a new line'
    """
    # The two joiners are not printable by themselves, but scripts and emoji need them.
    kept = (
        c if c.isprintable() or c in "\u200c\u200d" else "\N{REPLACEMENT CHARACTER}"
        for c in " ".join(text.split())
    )
    return "".join(kept)
