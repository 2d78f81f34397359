"""Pages as single HTML files: Jinja2 templates, autoescaped, with style, script and pictures inside.

A page loads nothing and runs nothing but a script of `static`, known to the browser by its hash: the content security
policy of `templates/base.html` forbids the rest, even to a text that slipped through unescaped.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import count_of

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

_HERE = Path(__file__).parent

# What turns the direction of everything after it: a file "gpj.exe" dressed up as "exe.jpg", a page read backwards. Marks
# for single characters (U+200E, U+200F) stay, since Arabic and Hebrew need them and can do no such harm.
_TURNING = "\u202a-\u202e\u2066-\u2069"
_CONTROL = "\x00-\x08\x0b-\x1f\x7f"
_UNSAFE = "\x80-\x9f\u2028\u2029\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff"
_HARMFUL = re.compile(f"[{_TURNING}{_CONTROL}{_UNSAFE}]")


@dataclass(frozen=True, slots=True)
class Label:
    """A named value of an item; `differs` where it is another than that of the item beside it."""

    name: str
    value: object
    differs: bool = False


@dataclass(frozen=True, slots=True)
class Card:
    """An item as every page shows it, drawn by the macro `card` of ``templates/ui.html``.

    `picture` is a `Thumbnail`, or None where the item has no image, and `alt` its text, the path or id unless given; `text`
    is cut; `caption` is what a model said of the picture; `meter` is a score from 0 to 1; `href` is where more is told of
    the item.
    """

    item_id: str
    picture: Any = None
    alt: str = ""
    text: str | None = None
    labels: Sequence[Label] = ()
    path: str | None = None
    meter: float | None = None
    href: str | None = None
    caption: str | None = None


def render(template: str, /, **data: Any) -> str:
    """Make a page of plain data.

    Everything that comes from `data` is escaped. What has no business in a page (characters that turn the reading
    direction, control characters, lone surrogates of undecodable file names) becomes a visible sign, so that the page can
    be written as UTF-8.
    """
    return clean(_environment().get_template(template).render(**data))


def clean(text: str) -> str:
    """`text` with a visible sign for each character that would reorder, hide or break what stands around it."""
    return _HARMFUL.sub(_sign, text)


def percent(value: float | None, digits: int = 0) -> str:
    """A share as a percentage; nothing for None."""
    return "" if value is None else f"{100 * float(value):.{digits}f}%"


def labels_of(values: Mapping[str, object], others: Mapping[str, object] | None = None) -> list[Label]:
    """The values that are there, as labels; those that are another in `others` differ. Several values are one label."""
    return [
        Label(name, ", ".join(map(str, value)) if isinstance(value, list) else value, differs)
        for name, value in values.items()
        for differs in [others is not None and others.get(name) != value]
        if value not in (None, "", [])
    ]


def _sign(match: re.Match[str]) -> str:
    char = match[0]
    if char < "\x20":
        return chr(0x2400 + ord(char))
    if char == "\x7f":
        return "␡"
    return f"[U+{ord(char):04X}]" if re.match(f"[{_TURNING}]", char) else "\ufffd"


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters |= {"cut": _cut, "flat": _flat, "number": "{:,}".format, "percent": percent}
    made.globals |= {"count_of": count_of, "static": _static, "script_hash": _script_hash}
    made.policies["json.dumps_function"] = _ascii_json
    return made


def _cut(value: object, limit: int | None = None) -> str:
    text = str(value)
    return text if limit is None or len(text) <= limit else text[:limit].rstrip() + "…"


def _flat(value: object, limit: int) -> str:
    """`value` on one line, cut; of a text of any length only the beginning is looked at."""
    return _cut(" ".join(str(value)[: 4 * limit].split()), limit)


@functools.cache
def _static(*names: str) -> Markup:
    """Content of files of `static`, which is put into the page as it is."""
    from markupsafe import Markup

    return Markup("".join((_HERE / "static" / name).read_text(encoding="utf-8") for name in names))


@functools.cache
def _script_hash(name: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(_static(name).encode()).digest()).decode()


def _ascii_json(value: object, **options: Any) -> str:
    """JSON of printable ASCII alone, which `clean` leaves as it is."""
    return json.dumps(value, **options | {"ensure_ascii": True}).replace("\x7f", "\\u007f")
