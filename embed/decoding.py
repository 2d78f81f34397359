"""How far decoding may shrink an image before the encoder notices.

libjpeg decodes at 1/2, 1/4 or 1/8 for a fraction of the time. Whether that leaves the vectors alone depends on the model
and on the pictures, so it is measured, on the first pictures of the run, before it is used.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ..data.images import decode
from ..errors import ImageError
from .encoder import Encoder
from .extract import Work, read_file

__all__ = ["choose_shortest"]

#: Agreement with the model's exact preprocessing that shrunk decoding must keep, on every sampled picture.
MIN_COSINE = 0.999

#: Multiples of the model's input side that decoding may shrink to, boldest first.
MARGINS = (1.0, 2.0)

#: Pictures that are tried, and the most files that are opened to find them.
SAMPLE = 6
LOOK_AT = 48


def choose_shortest(encoder: Encoder, works: Iterable[Work], output: str) -> int | None:
    """Choose what `icehouse.data.images.decode` may shrink to.

    Parameters
    ----------
    works : iterable of Work
        The first items of the run; only pictures large enough to be shrunk tell anything.
    output : str
        Image output that is compared.

    Returns
    -------
    int or None
        Shortest side in pixels; None if only whole decoding keeps cosine `MIN_COSINE`, or no picture among the
        first `LOOK_AT` is large enough to tell.
    """
    sample: list[bytes] = []
    whole: list[np.ndarray] = []
    for looked, work in enumerate(work for work in works if work.file is not None):
        if looked == LOOK_AT or len(sample) == SAMPLE:
            break
        assert work.file is not None
        try:
            data, _ = read_file(work.file)
            picture = decode(data, shortest=encoder.image_side)
            if min(picture.image.size) < min(picture.width, picture.height):
                whole.append(encoder.prepare_image(decode(data).image))
                sample.append(data)
        except Exception:  # whatever is wrong with a file is told when it is encoded
            continue
    if not sample:
        return None
    exact = _vectors(encoder, whole, output)
    for margin in MARGINS:
        shortest = int(margin * encoder.image_side)
        try:
            shrunk = [encoder.prepare_image(decode(data, shortest=shortest).image) for data in sample]
        except ImageError:
            return None
        if (exact * _vectors(encoder, shrunk, output)).sum(axis=1).min() >= MIN_COSINE:
            return shortest
    return None


def _vectors(encoder: Encoder, pixels: list[np.ndarray], output: str) -> np.ndarray:
    """Unit vectors of prepared pictures."""
    encoded = encoder.encode_images(np.stack(pixels), [output])[output]
    assert isinstance(encoded, np.ndarray)
    norms = np.linalg.norm(encoded, axis=1, keepdims=True)
    unit: np.ndarray = encoded / np.maximum(norms, 1e-12)
    return unit
