"""Pictures as they are sent: upright, no longer than the model looks at, JPEG without metadata."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ...data.images import decode
from ...errors import ImageError
from ..extract import read_file

__all__ = ["MAX_SIDE", "QUALITY", "load", "prepare"]

#: Longest side sent, by default: two of the tiles that LLaVA 1.6 cuts a picture into.
MAX_SIDE = 672

#: JPEG quality.
QUALITY = 90


def prepare(data: bytes, max_side: int = MAX_SIDE) -> bytes:
    """Make the JPEG that is sent from an image file.

    Parameters
    ----------
    data : bytes
        The file.
    max_side : int, default 672
        Longest side, in pixels; a smaller picture keeps its size.

    Returns
    -------
    bytes
        RGB JPEG, EXIF rotation applied; of the file's metadata (place, camera) nothing is left.

    Raises
    ------
    ImageError
        If the file is no image that can be decoded.
    """
    # A shortest side of that length is always enough for the longest.
    picture = decode(data, shortest=max_side)
    image, longest = picture.image, max(picture.width, picture.height)
    if longest > max_side:
        # By the file's own size: decoding may have shrunk the picture already, and rounded.
        width, height = (max(1, round(side * max_side / longest)) for side in (picture.width, picture.height))
        image = image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=QUALITY)
    return out.getvalue()


def load(files: Sequence[Path], sha256: str, max_side: int = MAX_SIDE) -> bytes:
    """Read and prepare the picture with that digest from the first of `files` that still holds it.

    Raises
    ------
    ImageError
        If none does, or it cannot be decoded.
    """
    why = "no file is known for it"
    for path in files:
        try:
            data, _ = read_file(path)
        except (ImageError, OSError) as error:
            why = f"{path}: {getattr(error, 'strerror', None) or error}"
            continue
        if hashlib.sha256(data).hexdigest() == sha256:
            return prepare(data, max_side)
        why = f"{path} has changed since it was embedded; run `icehouse embed` on it again"
    raise ImageError(why)
