"""A picture that nothing is wrong with, to tell a server in trouble from pictures that are."""

from __future__ import annotations

import io
from functools import cache

from PIL import Image

from .pictures import prepare

__all__ = ["plain_picture"]

_SIDE = 224


@cache
def plain_picture() -> bytes:
    """A shade from black to white, as small as any model takes, as the JPEG that is sent."""
    out = io.BytesIO()
    Image.linear_gradient("L").resize((_SIDE, _SIDE)).save(out, "PNG")
    return prepare(out.getvalue())
