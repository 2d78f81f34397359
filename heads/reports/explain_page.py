"""The page of explained items: prediction, contributions, attention drawn where it belongs, neighbours."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...webpage import escape, page, user_text, write_page
from .explain import Attention, Explanation
from .items import card, percent, read_items, thumbnails
from .look import EXPLAIN
from .page import near_html
from .places import seen_box

if TYPE_CHECKING:
    from ...embed.thumbnails import Thumbnail
    from ...store.store import Store
    from ..runs import Run

__all__ = ["explain_page", "heat", "level", "write_explanation"]

_SIDE = 520
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
    about = f"Run <code>{escape(run.run_id)}</code>: {escape(run.family)} on {inputs}, label {user_text(run.label)}."
    how = (
        "<footer>Contributions are Shapley values over the inputs: an input that is not known is replaced by its mean in "
        "training. They add up to the prediction. Attention says where the head looked, not what decided.</footer>"
    )
    title = "Why this answer" if len(found) == 1 else f"Why these {len(found)} answers"
    return page(title, "\n".join(blocks) + how, kicker="icehouse explain", about=about, style=EXPLAIN)


def heat(attention: Attention) -> str:
    """The map of an image's patches as a PNG with one pixel a patch, as data."""
    from PIL import Image

    assert attention.grid is not None
    rows, columns = attention.grid
    image = Image.new("RGBA", (columns, rows))
    image.putdata([_colour(level(times)) for times in attention.times])
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
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
    base = one.base["probability"]
    values = {name: added["probability"] for name, added in one.contributions.items()}
    # All bars share one axis, from the least to the greatest running end, zero on it.
    low, high = min([0.0, *values.values()]), max([0.0, *values.values()])
    width = max(high - low, 1e-9)
    rows = []
    for name, value in values.items():
        start, length = (min(value, 0.0) - low) / width, abs(value) / width
        css = "less" if value < 0 else "more"
        odds = f'<span class="soft">({one.contributions[name]["log_odds"]:+.2f})</span>'
        rows.append(
            f'<span class="name">{user_text(name, limit=60)}</span><span class="bar">'
            f'<i class="{css}" style="--from:{start:.4f};--length:{length:.4f}"></i>'
            f'<u style="--zero:{-low / width:.4f}"></u></span>'
            f'<span class="num">{100 * value:+.1f} points {odds}</span>'
        )
    told = (
        f"With every input at its mean, {user_text(one.predicted, limit=60)} would have {percent(base, 1)}. "
        f"In brackets: log-odds against the runner-up, {user_text(one.runner_up, limit=60)}, "
        f"from {one.base['log_odds']:+.2f}."
    )
    return f'<h3>What each input contributes</h3><div class="bars">{"".join(rows)}</div><p class="remark soft">{told}</p>'


def _seen(one: Explanation, picture: Thumbnail | None) -> str:
    parts = []
    photos = []
    if picture is not None and picture.uri is None:
        parts.append(f'<div class="problem">no picture: {user_text(picture.problem, limit=160)}</div>')
    elif picture is not None:
        photos.append(_photo(picture, "", "the picture"))
    images = {name: seen for name, seen in one.attention.items() if seen.grid is not None}
    for name, seen in images.items():
        box = None
        if picture is not None and picture.uri is not None:
            box = seen_box(one.preprocessing.get(name, {}), picture.width, picture.height)
        assert seen.grid is not None
        where = f"attention over {seen.grid[0]}×{seen.grid[1]} patches of {name}{_of_all(seen)}"
        if picture is not None and box is not None:
            left, top, right, bottom = (100 * edge for edge in box)
            place = f"left:{left:.2f}%;top:{top:.2f}%;width:{right - left:.2f}%;height:{bottom - top:.2f}%"
            photos.append(
                _photo(picture, f'<img class="heat" src="{heat(seen)}" alt="" style="{place}">', where)
            )
        else:
            square = f'style="aspect-ratio:{seen.grid[1]}/{seen.grid[0]}"'
            photos.append(
                f'<figure><div class="photo" {square}><img src="{heat(seen)}" alt="{escape(where)}" '
                f'style="image-rendering:pixelated"></div><figcaption>{escape(where)}</figcaption></figure>'
            )
    if photos:
        parts.append(f'<div class="photos">{"".join(photos)}</div>')
    if images:
        ramp = ", ".join(f"rgb({r} {g} {b})" for r, g, b, _ in _RAMP)
        parts.append(
            f'<p class="remark soft">¼<span class="scale" style="background:linear-gradient(90deg, {ramp})"></span>'
            "8 times an even share</p>"
        )
    for name, seen in one.attention.items():
        if seen.words is not None:
            parts.append(
                f"<h3>Attention over the words of {escape(name)}{_of_all(seen)}</h3>{_words(seen)}"
                '<p class="remark soft">Colour begins at an even share and is full at 8 times as much.</p>'
            )
    if one.item.text and not any(seen.words for seen in one.attention.values()):
        parts.append(user_text(one.item.text, limit=_TEXT, tag="p", css="said"))
    return "".join(parts)


def _of_all(seen: Attention) -> str:
    return "" if seen.share > 0.999 else f", {percent(seen.share)} of all"


def _photo(picture: Thumbnail, over: str, caption: str) -> str:
    return (
        f'<figure><div class="photo" style="aspect-ratio:{picture.width}/{picture.height}">'
        f'<img src="{picture.uri}" alt="">{over}</div>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _words(seen: Attention) -> str:
    assert seen.words is not None
    parts = []
    for word, times in zip(seen.words, seen.times, strict=True):
        strength = max(0.0, min(math.log(max(times, 1e-9)) / math.log(_HOT), 1.0))
        bare = word.strip()
        special = bare.startswith(("[", "<")) and bare.endswith(("]", ">")) and len(bare) > 2
        css = ' class="mark"' if special else ""
        space = " " if word.startswith(" ") else ""
        parts.append(
            f'{space}<span{css} style="--level:{strength:.3f}" title="{times:.2f} times an even share">{escape(bare)}</span>'
        )
    return f'<p class="words" dir="auto">{"".join(parts).strip()}</p>'


def summary(found: Sequence[Explanation]) -> Mapping[str, Any]:
    """The explanations as JSON values."""
    return {"items": [one.as_json() for one in found]}
