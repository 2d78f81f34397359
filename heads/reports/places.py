"""Where the patches of an image lie in the picture, and which words stand behind the tokens of a text.

What a model sees of a picture is told by the preprocessing in its feature's spec, so that a map can be drawn where the
encoder itself is not at hand. Words need its tokenizer; where that cannot be had, tokens are numbered.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ...data.text import clean
from ...errors import IcehouseError

__all__ = ["patch_grid", "seen_box", "words_of"]


def patch_grid(tokens: int, preprocessing: Mapping[str, Any]) -> tuple[int, int] | None:
    """Rows and columns of a grid of `tokens` patches, row by row from the top left; None if they make no such grid.

    Parameters
    ----------
    tokens : int
        Without any class token, as `icehouse.embed` stores them.
    preprocessing : mapping
        Of the feature's provenance; its ``size`` is height and width in pixels.
    """
    size = preprocessing.get("size") or [1, 1]
    height, width = (float(size[0]), float(size[-1])) if isinstance(size, (list, tuple)) else (1.0, 1.0)
    rows = round(math.sqrt(tokens * height / width))
    if rows < 1 or tokens % rows:
        return None
    columns = tokens // rows
    # Patches are square, but for what rounding leaves at an edge.
    return (
        (rows, columns)
        if abs(rows / columns - height / width) <= 0.5 * height / width / max(rows, 2)
        else None
    )


def seen_box(
    preprocessing: Mapping[str, Any], width: int, height: int
) -> tuple[float, float, float, float] | None:
    """What a model sees of a picture.

    Parameters
    ----------
    preprocessing : mapping
        ``mode`` and ``size`` as an encoder's provenance has them: "shortest" (the middle, after the shorter side fits),
        "longest" (all of it, with a border), "squash" (all of it, out of shape), "middle 7/8" (the middle of the shorter
        side, squared).
    width, height : int
        Of the picture, upright, in any unit.

    Returns
    -------
    tuple of float or None
        Left, top, right and bottom as shares of the picture's width and height, below 0 or above 1 where there is a
        border; None for a mode that is not known.
    """
    mode = preprocessing.get("mode")
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


def words_of(spec: Mapping[str, Any], texts: Mapping[str, str]) -> dict[str, list[str]]:
    """The pieces of texts that their tokens stand for, each with a space before it where it begins a word.

    Parameters
    ----------
    spec : mapping
        Of the feature of tokens.
    texts : mapping of str to str
        Item to its text as it was given.

    Returns
    -------
    dict of str to list of str
        Empty where the encoder cannot be had.
    """
    from ...embed.encoder import load_encoder, require_trusted

    try:
        require_trusted(str(spec["encoder"]))
        encoder = load_encoder(str(spec["encoder"]), device="cpu")
    except IcehouseError:
        return {}
    cleaning = spec.get("provenance", {}).get("cleaning", "none")
    return {item: encoder.pieces(clean(text, cleaning)) for item, text in texts.items()}
