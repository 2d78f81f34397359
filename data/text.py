"""Text cleaning by name and version.

The name is part of a text feature's provenance, so a cleaner never changes once released. Each URL is removed
where it stands, and every pattern is linear in the text's length, since texts come from strangers.
"""

from __future__ import annotations

import hashlib
import html
import re
import unicodedata
from collections.abc import Callable, Mapping
from html.entities import html5
from types import MappingProxyType

from ..errors import UsageError

# Only with the semicolon: HTML's old short forms would turn "black&paranoid" into "black¶noid". The bounds keep
# the work at each "&" constant.
_REFERENCE = re.compile(r"#[0-9]{1,7};|#[xX][0-9a-fA-F]{1,6};|[A-Za-z][A-Za-z0-9]{1,31};")
_REFERENCE_MAX = 34

# An URL ends where a sentence could go on: at a space, at any letter outside ASCII ("https://t.co/abcです"), and at
# punctuation that people glue to it. What a rare URL leaves behind is noise; a word lost would be worse.
_IN_URL = r"[A-Za-z0-9\-._~:/?@$&+=%]"
# The shortener's own ids have at most ten characters, so a word glued to one can be told from it.
_T_CO = r"t\.co/[A-Za-z0-9]{1,10}"
_WWW = rf"www\.{_IN_URL}+"
# A retweet is cut at the old length, often within its URL: "http…", "https:/…".
_CUT = r"https?(?::/{0,2})?(?=…)"
_URL = re.compile(
    rf"(?:https?://(?:{_T_CO}|{_IN_URL}*)"
    r"|pic\.twitter\.com/[A-Za-z0-9]{1,10}"
    rf"|(?<![A-Za-z0-9.@/_-])(?:{_T_CO}|{_WWW})"
    rf"|(?<![A-Za-z0-9]){_CUT})"
    # What follows at once belongs to the chain: left for a second pass, it would make cleaning depend on how often
    # it ran.
    rf"(?:{_T_CO}|{_WWW}|{_CUT})*",
    re.ASCII | re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.?:]+\Z")
_RETWEET = re.compile(r"(?:RT ?@[A-Za-z0-9_]+ ?: ?)+", re.IGNORECASE | re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_MAYBE_MARKS = re.compile("[^\x00-\u02ff]{31}")


def _nfc(text: str) -> str:
    """Unicode NFC, in linear time: putting a long run of combining marks in order is quadratic.

    Runs of more than 30 are broken by U+034F, as UAX #15 has it in its stream-safe text format; no language needs as many.
    """
    if text.isascii():
        return text
    if _MAYBE_MARKS.search(text):
        out: list[str] = []
        run = 0
        for char in text:
            if char < "\u00c0":
                run = 0
            else:
                classes = [unicodedata.combining(c) != 0 for c in unicodedata.normalize("NFD", char)]
                run = run + len(classes) if all(classes) else sum(classes)
                if run > 30:
                    out.append("\u034f")
                    run = sum(classes)
            out.append(char)
        text = "".join(out)
    return unicodedata.normalize("NFC", text)


def _unescape(text: str) -> str:
    """Replace HTML's character references, however often they were escaped ("&amp;amp;lt;" is "<").

    Going from right to left, what follows an "&" is final when it is looked at, so one pass reaches the fixed point;
    repeating `html.unescape` would take quadratic time on nested references.
    """
    if "&" not in text or ";" not in text:
        return text
    head, *rest = text.split("&")
    out: list[str] = []  # reversed: the end of the list is the next character to the right
    for piece in reversed(rest):
        out.extend(reversed(piece))
        while True:
            if not (out and (out[-1] == "#" or "A" <= out[-1] <= "Z" or "a" <= out[-1] <= "z")):
                out.append("&")
                break
            found = _REFERENCE.match("".join(out[: -_REFERENCE_MAX - 1 : -1]))
            name = found.group() if found else ""
            if not name or (name[0] != "#" and name not in html5):
                out.append("&")
                break
            del out[-len(name) :]
            # NFC here already: "&#894;" is a Greek question mark, whose normal form is the semicolon.
            char = unicodedata.normalize("NFC", html.unescape("&" + name))
            if char != "&":
                out.extend(reversed(char))
                break
    return head + "".join(reversed(out))


def _drop_url(found: re.Match[str]) -> str:
    end = _SENTENCE_END.search(found.group()[-8:])
    return " " + (end.group() if end and not found.group().endswith("://") else "")


def _social_v1(text: str) -> str:
    text = _nfc(text)
    text = _CONTROL.sub(" ", _unescape(text))
    text = " ".join(_URL.sub(_drop_url, text).split())
    marker = _RETWEET.match(text)
    if marker:
        text = text[marker.end() :]
    return _nfc(text)


def _none(text: str) -> str:
    return text


#: Cleaners by name. ``none`` leaves a text as it is; ``social-v1`` is for posts: HTML references unescaped, URLs and the
#: leading "RT @user:" dropped, control characters to spaces, white space collapsed, Unicode NFC. Hashtags, mentions
#: and emoji stay.
CLEANERS: Mapping[str, Callable[[str], str]] = MappingProxyType({"none": _none, "social-v1": _social_v1})

DEFAULT_CLEANING = "social-v1"


def clean(text: str, name: str = "social-v1") -> str:
    """Text as the cleaner `name` of `CLEANERS` leaves it; cleaning twice is the same as cleaning once.

    >>> clean("RT @ann: flood &amp; fire https://t.co/abc123 stay safe #Harvey")
    'flood & fire stay safe #Harvey'
    """
    check_cleaning(name)
    return CLEANERS[name](text)


def check_cleaning(name: str | None) -> None:
    """Raise UsageError if there is no cleaner of that name; None leaves the choice to others."""
    if name is not None and name not in CLEANERS:
        raise UsageError(f"no text cleaning {name!r}; there are {', '.join(CLEANERS)}")


def text_sha256(text: str) -> str:
    """Hex sha256 of the text's UTF-8 bytes: what a text is known by in a store."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
