"""Pictures as they are sent: upright, no longer than the model looks at, JPEG without metadata, no side too short.

Servers cut a picture into patches and crash on one that is smaller than a patch (Qwen2.5-VL: 28 pixels). So a short side
is enlarged to `MIN_SIDE`, and a picture longer than `MAX_RATIO` times its short side (a scrolled screenshot, a panorama) is
cut into strips that lie side by side in one picture, since shrunk as it is nothing in it could be read.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageOps

from ...data.images import decode
from ...errors import ImageError
from ..extract import read_file

__all__ = ["MAX_RATIO", "MAX_SIDE", "MIN_SIDE", "QUALITY", "Sent", "load", "prepare"]

#: Longest side sent, by default: two of the tiles that LLaVA 1.6 cuts a picture into.
MAX_SIDE = 672

#: Shortest side sent.
MIN_SIDE = 32

#: Longest side by the shortest, beyond which a picture is sent in strips.
MAX_RATIO = 20.0

# Ground of what strips and padding leave empty.
_GROUND = (127, 127, 127)

#: JPEG quality.
QUALITY = 90


class Sent(bytes):
    """The JPEG that is sent.

    Attributes
    ----------
    changed : str
        "" where the picture was at most made smaller; else "enlarged", "padded" or "in strips", separated by commas.
    """

    changed: str = ""


def prepare(data: bytes, max_side: int = MAX_SIDE) -> Sent:
    """Make the JPEG that is sent from an image file.

    Parameters
    ----------
    data : bytes
        The file.
    max_side : int, default 672
        Longest side, in pixels; a smaller picture keeps its size, but for a side under `MIN_SIDE`.

    Returns
    -------
    Sent
        RGB JPEG, EXIF rotation applied; of the file's metadata (place, camera) nothing is left.

    Raises
    ------
    ImageError
        If the file is no image that can be decoded.
    """
    # A shortest side of that length is always enough for the longest.
    picture = decode(data, shortest=max_side)
    image = picture.image
    # The file's own size: decoding may have shrunk the picture already, and rounded.
    size = (picture.width, picture.height)
    changed = []
    if max(size) > MAX_RATIO * min(size):
        image = _in_strips(image)
        size = image.size
        changed.append("in strips")
    scale = min(1.0, max_side / max(size))
    if min(size) * scale < MIN_SIDE:
        scale = min(MIN_SIDE / min(size), max_side / max(size))
    if scale > 1:
        changed.append("enlarged")
    wanted = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    if image.size != wanted and scale != 1:
        image = image.resize(wanted, Image.Resampling.BICUBIC, reducing_gap=3.0)
    if min(image.size) < MIN_SIDE:
        image = ImageOps.pad(image, (max(image.width, MIN_SIDE), max(image.height, MIN_SIDE)), color=_GROUND)
        changed.append("padded")
    out = io.BytesIO()
    image.save(out, "JPEG", quality=QUALITY)
    sent = Sent(out.getvalue())
    sent.changed = ", ".join(changed)
    return sent


def _in_strips(image: Image.Image) -> Image.Image:
    """Cut a very long picture into about as many strips as make a square: side by side, or one below the other."""
    tall = image.height > image.width
    longer, shorter = max(image.size), min(image.size)
    count = math.ceil(math.sqrt(longer / shorter))
    length = math.ceil(longer / count)
    sheet = Image.new("RGB", (count * shorter, length) if tall else (length, count * shorter), _GROUND)
    for i in range(count):
        start, stop = i * length, min((i + 1) * length, longer)
        box = (0, start, shorter, stop) if tall else (start, 0, stop, shorter)
        sheet.paste(image.crop(box), (i * shorter, 0) if tall else (0, i * shorter))
    return sheet


def load(files: Sequence[Path], sha256: str, max_side: int = MAX_SIDE) -> Sent:
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
            try:
                return prepare(data, max_side)
            except ImageError:
                raise
            except Exception as error:  # of Pillow: it costs this picture only
                raise ImageError(f"cannot be prepared: {error}") from None
        why = f"{path} has changed since it was embedded; run `icehouse embed` on it again"
    raise ImageError(why)
