"""The page of explained items: prediction, contributions, attention drawn where it belongs, neighbours."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...webpage import escape, page, user_text, write_page
from .explain import Explanation, TokenView
from .items import card, percent, read_items, thumbnails
from .look import EXPLAIN
from .page import near_html
from .places import seen_box

if TYPE_CHECKING:
    from ...embed.thumbnails import Thumbnail
    from ...store.store import Store
    from ..runs import Run

__all__ = ["evidence", "explain_page", "heat", "level", "write_explanation"]

_SIDE = 520
# Greatest height of a picture, in rem.
_TALLEST = 21
_TEXT = 1200
# Multiples of an even share at which the colour of a patch begins and ends.
_COLD, _HOT = 0.25, 8.0
# From what is hardly looked at to what is looked at most: red, green, blue, opacity.
_RAMP = ((8, 12, 40, 0.72), (90, 20, 110, 0.62), (225, 75, 40, 0.55), (255, 215, 70, 0.62))


def write_explanation(path: str | Path, store: Store, run: Run, found: Sequence[Explanation]) -> Path:
    """Write `explain_page` to a file.

    Raises
    ------
    UsageError
        If the file cannot be written.
    """
    return write_page(path, explain_page(store, run, found))


def explain_page(store: Store, run: Run, found: Sequence[Explanation]) -> str:
    """Make a page of explanations that needs no other file and no network."""
    near = read_items(store, [one.item_id for explained in found for one in explained.nearest])
    small = thumbnails(near, side=200)
    large = thumbnails({one.item.item_id: one.item for one in found}, side=_SIDE)
    blocks = []
    for number, one in enumerate(found, 1):
        cards = "".join(
            card(near[n.item_id], small.get(n.item_id), near_html(n.as_json(), one.label))
            for n in one.nearest
        )
        nearest = f'<h3>Nearest in training</h3><ul class="cards">{cards}</ul>' if cards else ""
        blocks.append(
            f'<section class="explained" id="item-{number}"><h2>{user_text(one.item.item_id, limit=200)}</h2>{_facts(one)}'
            f'<div class="halves"><div>{_seen(one, large.get(one.item.item_id))}</div>'
            f"<div>{_probabilities(one)}{_contributions(one)}</div></div>{nearest}</section>"
        )
    inputs = " + ".join(f"<code>{escape(feature)}</code>" for feature in run.features.values())
    about = f"Run <code>{escape(run.run_id)}</code>: {escape(run.family)} on {inputs}, column {user_text(run.label)}."
    how = (
        "<footer>Contributions are Shapley values over the inputs: an input that is not known is replaced by its mean in "
        "training. They add up to the prediction. Attention says where the head looked, not what decided.</footer>"
    )
    title = "Why this answer" if len(found) == 1 else f"Why these {len(found)} answers"
    return page(title, "\n".join(blocks) + how, kicker="icehouse explain", about=about, style=EXPLAIN)


def evidence(view: TokenView) -> str:
    """The map of what speaks for the answer, and against it, as a PNG with one pixel a patch, as data."""
    scale = max((abs(value) for value in view.effect), default=0.0) or 1.0
    hues = {True: (0, 130, 220), False: (225, 85, 0)}
    return _png(view, [(*hues[value > 0], round(225 * abs(value) / scale)) for value in view.effect])


def heat(view: TokenView) -> str:
    """The map of attention, likewise."""
    return _png(view, [_colour(level(times)) for times in view.times])


def _png(view: TokenView, colours: Sequence[tuple[int, int, int, int]]) -> str:
    from PIL import Image

    assert view.grid is not None
    rows, columns = view.grid
    pixels = np.array(colours, np.uint8).reshape(rows, columns, 4)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def level(times: float) -> float:
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


def _facts(one: Explanation) -> str:
    right = one.label is None or one.label == one.predicted
    css = "good" if right else "bad"
    said = f'<b class="{css}">{user_text(one.predicted, limit=80)}</b> {percent(one.proba[one.predicted], 1)}'
    label = "" if one.label is None else f"; the store says <b>{user_text(one.label, limit=80)}</b>"
    role = f" (it was in {escape(one.role)})" if one.role else ""
    return f"<p>Predicted {said}{label}{role}.</p>"


def _probabilities(one: Explanation) -> str:
    shown = list(one.proba.items())[:8]
    rows = "".join(
        f'<span class="name">{user_text(label, limit=60)}</span><span class="bar"><i style="--from:0;--length:{p:.4f}"></i>'
        f'</span><span class="num">{percent(p, 1)}</span>'
        for label, p in shown
    )
    left = len(one.proba) - len(shown)
    more = f'<p class="remark">and {left:,} classes less likely</p>' if left else ""
    return f'<h3>Probabilities</h3><div class="bars">{rows}</div>{more}'


def _contributions(one: Explanation) -> str:
    """From what all means would have to the prediction, one input after the other, on the axis of probability."""
    at = one.base["probability"]
    rows = [_step("all at their means", 0.0, at, percent(at, 1), one.base["log_odds"], "rest")]
    for name, added in one.contributions.items():
        value = added["probability"]
        told = f"{100 * value:+.1f}"
        rows.append(
            _step(f"{name}", at, at + value, told, added["log_odds"], "less" if value < 0 else "more")
        )
        at += value
    note = (
        "Points of probability; in brackets, log-odds against the runner-up, "
        f"{user_text(one.runner_up, limit=60)}. The order of the inputs does not matter."
    )
    return (
        f"<h3>What each input contributes to {user_text(one.predicted, limit=60)}</h3>"
        f'<div class="bars">{"".join(rows)}</div><p class="remark soft">{note}</p>'
    )


def _step(name: str, start: float, end: float, told: str, odds: float, css: str) -> str:
    low, high = (min(max(edge, 0.0), 1.0) for edge in sorted((start, end)))
    return (
        f'<span class="name">{user_text(name, limit=60)}</span><span class="bar">'
        f'<i class="{css}" style="--from:{low:.4f};--length:{max(high - low, 0.003):.4f}"></i></span>'
        f'<span class="num">{told} <span class="soft">({odds:+.2f})</span></span>'
    )


def _seen(one: Explanation, picture: Thumbnail | None) -> str:
    parts, photos = [], []
    if picture is not None and picture.uri is None:
        parts.append(f'<div class="problem">no picture: {user_text(picture.problem, limit=160)}</div>')
    elif picture is not None:
        photos.append(_photo(picture, "", "the picture"))
    for name, view in one.tokens.items():
        if view.grid is not None:
            across = f"{view.grid[0]}×{view.grid[1]} patches of {name}"
            photos.append(
                _map(one, name, view, picture, evidence(view), f"what the answer rests on: {across}")
            )
            if not view.even:
                caption = f"attention: {across}{_of_all(view)}"
                photos.append(_map(one, name, view, picture, heat(view), caption))
    if photos:
        parts.append(f'<div class="photos">{"".join(photos)}</div>')
    for name, view in one.tokens.items():
        if view.words is not None:
            scale = max((abs(value) for value in view.effect), default=0.0) or 1.0
            marks = [
                ("for" if value > 0 else "against", abs(value) / scale, f"{value:+.3f} log-odds")
                for value in view.effect
            ]
            parts.append(f"<h3>What the answer rests on: {escape(name)}</h3>{_words(view.words, marks)}")
            if not view.even:
                marks = [
                    (
                        "seen",
                        max(0.0, math.log(max(times, 1e-9)) / math.log(_HOT)),
                        f"{times:.2f} times an even share",
                    )
                    for times in view.times
                ]
                title = f"Attention over {name}{_of_all(view)}"
                parts.append(f"<h3>{escape(title)}</h3>{_words(view.words, marks)}")
        parts.append(_legend(name, view))
    if one.item.text and not any(view.words for view in one.tokens.values()):
        parts.append(user_text(one.item.text, limit=_TEXT, tag="p", css="said"))
    return "".join(parts)


def _legend(name: str, view: TokenView) -> str:
    """What the colours of an input's maps say."""
    most = max((abs(value) for value in view.effect), default=0.0)
    told = [
        (
            f'<b>{escape(name)}</b>: <span class="key for"></span>speaks for the answer, <span class="key against"></span>'
            f"against it; full colour is {most:.2f} of log-odds, which go when the head does not see the place"
        )
    ]
    if view.times and view.even:
        told.append(
            f"attention is even, {min(view.times):.2f} to {max(view.times):.2f} times a share, and tells nothing apart"
        )
    elif view.times and view.grid is not None:
        ramp = ", ".join(f"rgb({r} {g} {b})" for r, g, b, _ in _RAMP)
        told.append(
            f'attention from ¼<span class="scale" style="background:linear-gradient(90deg, {ramp})"></span>'
            f"to {_HOT:g} times an even share"
        )
    elif view.times:
        told.append(f"attention: colour begins at an even share and is full at {_HOT:g} times as much")
    return f'<p class="remark soft">{"; ".join(told)}.</p>'


def _of_all(view: TokenView) -> str:
    return "" if view.share > 0.999 else f", {percent(view.share)} of all"


def _map(
    one: Explanation, name: str, view: TokenView, picture: Thumbnail | None, uri: str, caption: str
) -> str:
    """A map over the part of the picture that the model sees; by itself where that is not known."""
    box = None
    if picture is not None and picture.uri is not None:
        box = seen_box(one.preprocessing.get(name, {}), picture.width, picture.height)
    if picture is not None and box is not None:
        left, top, right, bottom = (100 * edge for edge in box)
        place = f"left:{left:.2f}%;top:{top:.2f}%;width:{right - left:.2f}%;height:{bottom - top:.2f}%"
        return _photo(picture, f'<img class="heat" src="{uri}" alt="" style="{place}">', caption)
    assert view.grid is not None
    return (
        f'<figure><div class="photo" style="aspect-ratio:{view.grid[1]}/{view.grid[0]}">'
        f'<img src="{uri}" alt="" style="image-rendering:pixelated"></div>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _photo(picture: Thumbnail, over: str, caption: str) -> str:
    return (
        f'<figure><div class="photo{" mapped" if over else ""}" style="aspect-ratio:{picture.width}/{picture.height};'
        f'width:min(100%, {_TALLEST * picture.width / picture.height:.1f}rem)">'
        f'<img src="{picture.uri}" alt="">{over}</div>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _words(words: Sequence[str], marks: Sequence[tuple[str, float, str]]) -> str:
    """Words as they stand in the text, each with a kind of mark, its strength from 0 to 1, and what it says."""
    parts = []
    for word, (kind, strength, told) in zip(words, marks, strict=True):
        bare = word.strip()
        special = bare.startswith(("[", "<")) and bare.endswith(("]", ">")) and len(bare) > 2
        css = f"{kind} special" if special else kind
        space = " " if word.startswith(" ") else ""
        parts.append(
            f'{space}<span class="{css}" style="--level:{min(strength, 1.0):.3f}" title="{escape(told)}">'
            f"{escape(bare)}</span>"
        )
    return f'<p class="words" dir="auto">{"".join(parts).strip()}</p>'


def summary(found: Sequence[Explanation]) -> Mapping[str, Any]:
    """The explanations as JSON values."""
    return {"items": [one.as_json() for one in found]}
