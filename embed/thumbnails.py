"""Small pictures for pages, embedded as data; whatever is wrong with a file becomes a sentence, never a failure."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..data.images import decode
from ..data.reposts import encode
from ..errors import ImageError
from .extract import read_file

__all__ = ["Thumbnail", "thumbnail"]


@dataclass(frozen=True)
class Thumbnail:
    """A small picture, or why there is none.

    Attributes
    ----------
    uri : str or None
        ``data:image/webp;base64,...``.
    width, height : int
        Size of the small picture in pixels; 0 without one.
    problem : str or None
        Why there is no picture.
    """

    uri: str | None
    width: int = 0
    height: int = 0
    problem: str | None = None


def thumbnail(path: Path, *, side: int = 320) -> Thumbnail:
    """Shrink an image file to at most `side` pixels a side, upright."""
    try:
        data, _ = read_file(path)
        image = decode(data, shortest=side).image
    except FileNotFoundError:
        return Thumbnail(None, problem="the file is gone")
    except ImageError as error:
        return Thumbnail(None, problem=str(error))
    except (OSError, ValueError) as error:  # ValueError: a NUL in a path
        return Thumbnail(None, problem=getattr(error, "strerror", None) or str(error))
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    uri = "data:image/webp;base64," + base64.b64encode(encode(image, "webp", 76)).decode()
    return Thumbnail(uri, *image.size)
