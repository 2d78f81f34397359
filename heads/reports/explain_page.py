"""Page of explained items: prediction, contributions, attention maps, neighbours."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...embed.thumbnails import thumbnails
from ...store.files import publish_text
from ...web.render import percent, render
from .explain import Explanation, TokenEffects
from .mistakes import item_cards, read_items

if TYPE_CHECKING:
    from ...embed.thumbnails import Thumbnail
    from ...store.store import Store
    from ..runs import Run

__all__ = ["explain_page", "heat_level", "seen_box", "write_explanation"]

_SIDE = 520
# Greatest height of a picture, in rem.
_TALLEST = 21
# Probabilities that are listed.
_CLASSES = 8
# Multiples of an even share at which the colour of a patch begins and ends.
_COLD, _HOT = 0.25, 8.0
# From what is hardly looked at to what is looked at most: red, green, blue, opacity.
_RAMP = ((8, 12, 40, 0.72), (90, 20, 110, 0.62), (225, 75, 40, 0.55), (255, 215, 70, 0.62))


def write_explanation(path: str | Path, store: Store, run: Run, found: Sequence[Explanation]) -> Path:
    """Write `explain_page` to a file; a `UsageError` if that cannot be written."""
    return publish_text(path, explain_page(store, run, found))


def explain_page(store: Store, run: Run, found: Sequence[Explanation]) -> str:
    """Make a page of explanations that needs no other file and no network."""
    near = read_items(store, [one.item_id for explained in found for one in explained.nearest])
    pictures = thumbnails([one.item.file for one in found], side=_SIDE)
    return render(
        "explain.html",
        title="Why this answer" if len(found) == 1 else f"Why these {len(found)} answers",
        run=run,
        explained=[_explained(one, picture) for one, picture in zip(found, pictures, strict=True)],
        cards=item_cards(near, side=200),
        hot=_HOT,
        ramp=", ".join(f"rgb({r} {g} {b})" for r, g, b, _ in _RAMP),
    )


def _explained(one: Explanation, picture: Thumbnail | None) -> dict[str, Any]:
    """An explanation for the eye."""
    return {
        "one": one,
        "right": one.label is None or one.label == one.predicted,
        "probabilities": list(one.proba.items())[:_CLASSES],
        "less_likely": max(len(one.proba) - _CLASSES, 0),
        "steps": list(_steps(one)),
        "problem": None if picture is None else picture.problem,
        "photos": list(_photos(one, picture)),
        "tokens": [_token_texts(name, effects) for name, effects in one.tokens.items()],
        "text": None if any(effects.words for effects in one.tokens.values()) else one.item.text,
    }


def _steps(one: Explanation) -> Iterator[dict[str, Any]]:
    """From what all means would have to the prediction, one input after the other, on the axis of probability."""
    at = one.base["probability"]
    yield _step("all at their means", 0.0, at, percent(at, 1), one.base["log_odds"], "rest")
    for name, added in one.contributions.items():
        value = added["probability"]
        css = "less" if value < 0 else "more"
        yield _step(name, at, at + value, f"{100 * value:+.1f}", added["log_odds"], css)
        at += value


def _step(name: str, start: float, end: float, told: str, odds: float, css: str) -> dict[str, Any]:
    low, high = (min(max(edge, 0.0), 1.0) for edge in sorted((start, end)))
    return {
        "name": name,
        "start": low,
        "length": max(high - low, 0.003),
        "told": told,
        "odds": odds,
        "css": css,
    }


def _photos(one: Explanation, picture: Thumbnail | None) -> Iterator[dict[str, Any]]:
    """The picture, then the maps over it: what the answer rests on, and attention where it tells anything apart."""
    shown = picture if picture is not None and picture.uri is not None else None
    if shown is not None:
        yield {"picture": shown, "width": _width(shown), "map": None, "caption": "the picture"}
    for name, effects in one.tokens.items():
        if effects.grid is None:
            continue
        across = f"{effects.grid[0]}×{effects.grid[1]} patches of {name}"
        maps = [(_evidence(effects), f"what the answer rests on: {across}")]
        if not effects.even:
            maps.append((_heat(effects), f"attention: {across}{_of_all(effects)}"))
        box = None
        if shown is not None:
            box = seen_box(one.preprocessing.get(name, {}), shown.width, shown.height)
        for uri, caption in maps:
            yield {
                "picture": None if box is None else shown,
                "width": None if shown is None else _width(shown),
                "map": uri,
                "grid": effects.grid,
                "box": box and [100 * edge for edge in box],
                "caption": caption,
            }


def _width(picture: Thumbnail) -> float:
    """Greatest width of a picture, in rem."""
    return _TALLEST * picture.width / picture.height


def _token_texts(name: str, effects: TokenEffects) -> dict[str, Any]:
    """The words of an input, marked by what they do and by attention; and what the colours of its maps say."""
    most = max((abs(value) for value in effects.effect), default=0.0)
    told: dict[str, Any] = {"name": name, "effects": effects, "most": most, "texts": []}
    if effects.words is not None:
        marks = [
            ("for" if value > 0 else "against", abs(value) / (most or 1.0), f"{value:+.3f} log-odds")
            for value in effects.effect
        ]
        told["texts"].append((f"What the answer rests on: {name}", list(_words(effects.words, marks))))
    if effects.words is not None and not effects.even:
        marks = [
            (
                "seen",
                max(0.0, math.log(max(times, 1e-9)) / math.log(_HOT)),
                f"{times:.2f} times an even share",
            )
            for times in effects.times
        ]
        told["texts"].append((f"Attention over {name}{_of_all(effects)}", list(_words(effects.words, marks))))
    return told


def _words(words: Sequence[str], marks: Sequence[tuple[str, float, str]]) -> Iterator[dict[str, Any]]:
    """Words as they stand in the text, each with a kind of mark, its strength from 0 to 1, and what it says."""
    for number, (word, (kind, strength, told)) in enumerate(zip(words, marks, strict=True)):
        bare = word.strip()
        special = bare.startswith(("[", "<")) and bare.endswith(("]", ">")) and len(bare) > 2
        yield {
            "text": bare,
            "space": " " if number and word.startswith(" ") else "",
            "css": f"{kind} special" if special else kind,
            "level": min(strength, 1.0),
            "told": told,
        }


def _of_all(effects: TokenEffects) -> str:
    return "" if effects.share > 0.999 else f", {percent(effects.share)} of all"


def _evidence(effects: TokenEffects) -> str:
    """The map of what speaks for the answer, and against it, as a PNG with one pixel a patch, as data."""
    scale = max((abs(value) for value in effects.effect), default=0.0) or 1.0
    hues = {True: (0, 130, 220), False: (225, 85, 0)}
    return _png(effects, [(*hues[value > 0], round(225 * abs(value) / scale)) for value in effects.effect])


def _heat(effects: TokenEffects) -> str:
    """The map of attention, likewise."""
    return _png(effects, [_colour(heat_level(times)) for times in effects.times])


def _png(effects: TokenEffects, colours: Sequence[tuple[int, int, int, int]]) -> str:
    from PIL import Image

    assert effects.grid is not None
    pixels = np.array(colours, np.uint8).reshape(*effects.grid, 4)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def heat_level(times: float) -> float:
    """Place on the scale of colours, 0 to 1, of a multiple of the even share; equal factors are equal steps."""
    if times <= _COLD:
        return 0.0
    return min(math.log(times / _COLD) / math.log(_HOT / _COLD), 1.0)


def _colour(at: float) -> tuple[int, int, int, int]:
    place = at * (len(_RAMP) - 1)
    i = min(int(place), len(_RAMP) - 2)
    low, high, share = _RAMP[i], _RAMP[i + 1], place - i
    r, g, b, a = (x + (y - x) * share for x, y in zip(low, high, strict=True))
    return round(r), round(g), round(b), round(255 * a)


def seen_box(
    preprocessing: Mapping[str, Any], width: int, height: int
) -> tuple[float, float, float, float] | None:
    """What a model sees of an upright picture: left, top, right and bottom as shares of its width and height.

    They are below 0 or above 1 where there is a border; None for a mode of preprocessing that is not known.
    """
    mode = preprocessing.get("mode")
    # "shortest" is the middle, after the shorter side fits; "longest" all of it, with a border; "squash" all of it, out of
    # shape; "middle 7/8" the middle of the shorter side, squared.
    if mode == "squash":
        return 0.0, 0.0, 1.0, 1.0
    if mode == "middle 7/8":
        side = 7 / 8 * min(width, height)
        seen_width = seen_height = side
    elif mode in ("shortest", "longest"):
        size = preprocessing["size"]
        across, down = size[-1] / width, size[0] / height
        scale = max(across, down) if mode == "shortest" else min(across, down)
        seen_width, seen_height = size[-1] / scale, size[0] / scale
    else:
        return None
    left, top = (1 - seen_width / width) / 2, (1 - seen_height / height) / 2
    return left, top, 1 - left, 1 - top
