"""What a calibration is to recognise: changed copies of a store's own contents, and pairs that a user has labelled."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from ...data.images import decode
from ...data.pixels import is_blank
from ...data.reposts import GRADED, TEXT_EDITS, encode
from ...data.text import clean
from ...data.views import view_hashes
from ...embed.encoder import Encoder
from ...embed.extract import read_file
from ...errors import ImageError, SourceError
from ...store.dups.hamming import informative
from ...store.dups.views import ViewHashes
from .hashes import Hashes

__all__ = ["LABELLED", "ROUNDS", "Copies", "make_copies"]

#: Changed copies of each sampled content; the transforms take turns.
ROUNDS = 6

#: Kind of the copies that a user has labelled.
LABELLED = "labelled"

_LARGEST = 800

Progress = Callable[[int, int], None]


@dataclass
class Copies:
    """Copies of contents.

    Attributes
    ----------
    of : ndarray of int64, shape (m,)
        Number of the content that each is a copy of.
    kinds : ndarray of str, shape (m,)
        Transform, or `LABELLED`.
    rounds : ndarray of int64, shape (m,)
        In one round no content has two copies; -1 for those that are contents of the store themselves.
    vectors : ndarray, shape (m, d)
    apart : ndarray of int64, shape (m,)
        Bits between the nearest views of copy and content; 65 where there is no hash.
    whole : ndarray of int64, shape (m,)
        Bits between the pictures as they are.
    agreed : ndarray of float64, shape (m,)
        Agreement of all views of copy and content.
    """

    of: np.ndarray
    kinds: np.ndarray
    rounds: np.ndarray
    vectors: np.ndarray
    apart: np.ndarray
    whole: np.ndarray
    agreed: np.ndarray

    def with_labelled(self, i: np.ndarray, j: np.ndarray, X: np.ndarray, hashes: Hashes | None) -> Copies:
        """Add the pairs of contents ``i[k]`` and ``j[k]`` that are known to be duplicates."""
        apart, whole, agreed = np.full(len(i), 65), np.full(len(i), 65), np.full(len(i), -1.0)
        if hashes is not None:
            whole = hashes.apart(i, j)
            if hashes.views is not None:
                apart, agreed = hashes.views.distance(i, j), hashes.views.agreement(i, j)
        added = (i, np.full(len(i), LABELLED), np.full(len(i), -1), X[j], apart, whole, agreed)
        held = (self.of, self.kinds, self.rounds, self.vectors, self.apart, self.whole, self.agreed)
        return Copies(*(np.concatenate(both) for both in zip(held, added, strict=True)))


def make_copies(
    encoder: Encoder,
    spec: dict[str, Any],
    contents: pa.Table,
    dtype: np.dtype,
    rng: np.random.Generator,
    sample: int,
    seed: int,
    progress: Progress | None,
) -> Copies:
    """Change a sample of contents, each in `ROUNDS` ways, and encode the copies as the contents were.

    Parameters
    ----------
    encoder : Encoder
    spec : dict
        Of the feature.
    contents : pyarrow.Table
        Where each is: `root` and `path`, or `text`. One that cannot be read again is passed over, and another drawn.
    dtype : dtype
        Of the vectors.
    rng : numpy.random.Generator
        Draws the sample.
    sample : int
    seed : int
        Of the transforms.
    progress : callable, optional

    Raises
    ------
    SourceError
        If none can be read again.
    """
    picture = spec["modality"] == "image"
    names = list(GRADED if picture else TEXT_EDITS)
    rounds = min(ROUNDS, len(names))
    of, kinds, turns, vectors, alike = [], [], [], [], []
    taken = 0
    waiting: list[Any] = []

    def flush() -> None:
        if waiting:
            made = (
                encoder.encode_images(np.stack(waiting), [spec["output"]])
                if picture
                else encoder.encode_texts(waiting, [spec["output"]])
            )[spec["output"]]
            assert isinstance(made, np.ndarray)
            vectors.append(made.astype(dtype))
            waiting.clear()

    cleaning = spec["provenance"].get("cleaning", "")
    for row in rng.permutation(len(contents)).tolist():
        if taken == sample:
            break
        made = _changed(contents.slice(row, 1).to_pylist()[0], picture, names, rounds, taken, [seed, row])
        fresh = list(made)
        taken += bool(fresh)
        for turn, (kind, copy, hashes) in enumerate(fresh):
            try:
                waiting.append(encoder.prepare_image(copy) if picture else clean(copy, cleaning))
            except Exception:  # of a model's own preprocessing: it costs this copy only
                continue
            of.append(row)
            kinds.append(kind)
            turns.append(turn)
            alike.append(hashes)
            if len(waiting) >= encoder.batch_size:
                flush()
        if progress:
            progress(taken, min(sample, len(contents)))
    flush()
    if not of:
        what = "image files" if picture else "texts"
        raise SourceError(f"none of the {what} could be read again, so that there is nothing to calibrate by")
    apart, whole, agreed = (np.array(column) for column in zip(*alike, strict=True))
    return Copies(
        np.array(of), np.array(kinds), np.array(turns), np.concatenate(vectors), apart, whole, agreed
    )


def _changed(
    item: dict[str, Any], picture: bool, names: Sequence[str], rounds: int, number: int, seed: list[int]
) -> Iterator[tuple[str, Any, tuple[int, int, float]]]:
    """The copies of one content: transform, copy, and `apart`, `whole` and `agreed` of `Copies`."""
    chosen = [names[(number + turn * len(names) // rounds) % len(names)] for turn in range(rounds)]
    if not picture:
        for kind in chosen:
            rng = np.random.default_rng([*seed, names.index(kind)])
            yield kind, TEXT_EDITS[kind](item["text"], rng), (65, 65, -1.0)
        return
    try:
        data, _ = read_file(Path(item["root"] or "") / item["path"])
        original = decode(data)
    except (ImageError, OSError, ValueError, TypeError):
        return
    if original.blank:
        return
    own = view_hashes(original.image)
    # Changing a photograph of 20 megapixels 6 times takes seconds, and reposts are small.
    original.image.thumbnail((_LARGEST, _LARGEST), Image.Resampling.BICUBIC)
    for kind in chosen:
        rng = np.random.default_rng([*seed, names.index(kind)])
        file = encode(
            GRADED[kind](original.image, rng), _format(kind, original.format), int(rng.integers(75, 93))
        )
        with Image.open(io.BytesIO(file)) as opened:
            copy = opened.convert("RGB")
        if is_blank(copy):
            continue
        hashes = np.stack([own, view_hashes(copy)])
        both = ViewHashes(hashes, informative(hashes), 0)
        pair = np.array([0]), np.array([1])
        far = int(np.bitwise_count(hashes[0, 0] ^ hashes[1, 0])) if both.usable[:, 0].all() else 65
        yield kind, copy, (int(both.distance(*pair)[0]), far, float(both.agreement(*pair)[0]))


def _format(kind: str, original: str) -> str:
    if kind != "format":
        return "jpg"
    return "webp" if original == "JPEG" else "jpg" if original == "PNG" else "png"
