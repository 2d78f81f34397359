"""Messages of a stream: JSON in, with an id, a text and a picture; decisions out."""

from __future__ import annotations

import base64
import binascii
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...errors import brief

#: Bytes of one message, at most.
MAX_BYTES = 32 << 20

#: Characters of an id, an author or a label, at most.
MAX_NAME = 500

#: Further keys under which others send the same thing.
_TEXTS = ("text", "image_path", "image_url", "label", "author")


@dataclass(slots=True)
class Message:
    """Message of a source: bytes, and what it needs to be told once the decision is out."""

    data: bytes
    default_id: str
    token: Any = None
    problem: str | None = None  # why it shall not be tried


@dataclass(slots=True)
class Post:
    """One post of a stream; `error` tells why it cannot be used."""

    id: str
    text: str | None = None
    image_path: str | None = None
    image_url: str | None = None
    image: bytes | None = None
    label: str | None = None
    author: str | None = None
    hashtags: tuple[str, ...] = ()
    coordinates: tuple[float, float] | None = None  # longitude, latitude
    error: str | None = None
    token: Any = None
    received: float = field(default_factory=time.perf_counter)
    ms: dict[str, float] = field(default_factory=dict)
    start: str = ""  # the first characters of what could not be read

    @property
    def content(self) -> bool:
        """Whether there is anything to judge."""
        return any(value is not None for value in (self.text, self.image_path, self.image_url, self.image))


def parse(message: Message) -> Post:
    """Read a message; what is wrong with it ends in the post's `error`, and costs this post only."""
    post = Post(message.default_id, token=message.token)
    try:
        if len(message.data) > MAX_BYTES:
            raise ValueError(f"a message of {len(message.data):,} bytes; at most {MAX_BYTES:,} are read")
        thing = json.loads(message.data)
        if not isinstance(thing, dict):
            raise ValueError(
                f"a JSON {_kind(thing)}, where an object with id, text, image_path or image_url is due"
            )
        _fill(post, thing)
    except RecursionError:
        post.error = "not JSON: nested too deeply"
    except UnicodeDecodeError as error:
        post.error = f"not UTF-8 ({brief(error, 120)})"
    except json.JSONDecodeError as error:
        post.error = f"not JSON: {brief(error, 120)}"
    except ValueError as error:
        post.error = brief(error)
    post.error = message.problem or post.error
    if post.error is not None:
        post.start = message.data[:200].decode("utf-8", "replace")
    return post


def _fill(post: Post, thing: Mapping[str, Any]) -> None:
    given = thing.get("id")
    if isinstance(given, (str, int)) and not isinstance(given, bool) and given != "":
        post.id = str(given)[:MAX_NAME]
    elif given not in (None, ""):
        raise ValueError(f"id is a {_kind(given)}, not a text or a number")
    for name in _TEXTS:
        value = thing.get(name)
        if name == "label" and isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if value is None or value == "":
            continue
        if not isinstance(value, str):
            raise ValueError(f"{name} is a {_kind(value)}, not a text")
        value.encode()  # halves of surrogate pairs are no text
        setattr(post, name, value if name in ("text", "image_path", "image_url") else value[:MAX_NAME])
    for name in ("image_path", "image_url"):
        if "\0" in (getattr(post, name) or ""):
            raise ValueError(f"{name} has a NUL in it")
    post.id.encode()
    post.image = _picture(thing.get("image_base64"))
    post.hashtags = _hashtags(thing.get("hashtags"))
    post.coordinates = _coordinates(thing)
    if not post.content and post.label is None:
        raise ValueError("nothing to judge: no text, image_path, image_url or image_base64")


def _picture(value: Any) -> bytes | None:
    if value in (None, ""):
        return None
    if not isinstance(value, str):
        raise ValueError(f"image_base64 is a {_kind(value)}, not a text")
    try:
        return base64.b64decode(
            value.partition(",")[2] if value.startswith("data:") else value, validate=True
        )
    except (binascii.Error, ValueError):
        raise ValueError("image_base64 is not base64") from None


def _hashtags(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str):
        value = value.split()
    if not isinstance(value, list) or not all(isinstance(tag, str) for tag in value):
        raise ValueError(f"hashtags is a {_kind(value)}, not a list of texts")
    return tuple(tag[:MAX_NAME] for tag in value[:100])


def _coordinates(thing: Mapping[str, Any]) -> tuple[float, float] | None:
    """Longitude and latitude, of ``coordinates: [lon, lat]``, a GeoJSON point, or ``lon`` and ``lat``."""
    value = thing.get("coordinates")
    if isinstance(value, dict):
        value = value.get("coordinates")
    if value is None and thing.get("lon") is not None and thing.get("lat") is not None:
        value = [thing["lon"], thing["lat"]]
    if value is None:
        return None
    try:
        lon, lat = (float(number) for number in value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError("coordinates are no [longitude, latitude]") from None
    if not (-180 <= lon <= 180 and -90 <= lat <= 90):
        raise ValueError(f"coordinates [{lon:g}, {lat:g}] are nowhere on Earth: longitude comes first")
    return lon, lat


def _kind(value: Any) -> str:
    names = {dict: "object", list: "list", str: "text", bool: "truth value", type(None): "null"}
    return names.get(type(value), "number")


@dataclass(slots=True)
class Decision:
    """Decision on a post.

    `decision` is "classified", "repeat" (of one of the latest), "irrelevant" (stopped by a gate), "filtered" (of no
    collection), "label" (a label for an earlier post) or "error"; `stage` is where that was decided.
    """

    post: Post
    decision: str
    stage: str
    repeat_of: dict[str, Any] | None = None
    variant_of: dict[str, Any] | None = None  # the post whose picture it has, with other words: no repeat
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    collections: list[str] = field(default_factory=list)
    learned: dict[str, Any] | None = None
    error: str | None = None
    sha256: str | None = None
    path: str | None = None  # of the picture, on this machine
    #: What a sink for a store needs: features by (encoder, modality, output), and facts of the picture.
    work: Any = None

    def as_dict(self) -> dict[str, Any]:
        """Give it as JSON values, always with the same keys but `learned`, which comes with a label."""
        told: dict[str, Any] = {
            "id": self.post.id,
            "decision": self.decision,
            "stage": self.stage,
            "repeat_of": self.repeat_of,
            "variant_of": self.variant_of,
            "runs": self.runs,
            "collections": self.collections,
            "error": self.error,
            "ms": {name: round(value, 2) for name, value in self.post.ms.items()},
        }
        if self.learned is not None:
            told["learned"] = self.learned
        if self.error is not None and self.post.start:
            told["message"] = self.post.start
        return told
