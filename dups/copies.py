"""What a calibration is to recognise: changed copies of a store's own contents, and pairs that a user has labelled."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from ..data.images import decode
from ..data.pixels import is_blank
from ..data.text import clean
from ..data.transforms import GRADED, TEXT_EDITS, encode
from ..embed.encoder import Encoder
from ..embed.extract import read_file
from ..errors import ImageError, SourceError, UsageError
from ..store.store import Store
from .calibration import Tail, fit_bits, fit_tail, largest_cosines, tail_size
from .hamming import informative
from .image_views import MOST_VIEWED, ViewHashes, load_views, view_hashes, view_radius

__all__ = ["LABELLED", "ROUNDS", "Copies", "Hashes", "Known", "labels_of", "make_copies"]

#: Of unrelated pictures none has a hash so near; those that do are not counted as unrelated.
_SURELY = 10
_MOST_PAIRS = 200_000

#: Whether two contents are duplicates, by their numbers in ascending order, as a user has labelled them.
Known = dict[tuple[int, int], bool]


@dataclass(frozen=True)
class Hashes:
    """Perceptual hashes of some contents."""

    whole: np.ndarray  # uint64 (n,): Of the pictures as they are
    telling: np.ndarray  # bool (n,): Which of them say something
    #: Of their parts; None where there are so many contents that `find` would not make them
    views: ViewHashes | None

    @classmethod
    def of(cls, store: Store, contents: pa.Table, hamming: int, expected: float) -> Hashes:
        """Get those of the rows of `contents`, making the views that the store has not yet."""
        whole = pc.fill_null(contents["phash"], 0).to_numpy().astype(np.uint64)
        radius = view_radius(len(contents), hamming, expected)
        views = None
        if len(contents) <= MOST_VIEWED:
            views = ViewHashes(*load_views(store, contents), radius)
        return cls(whole, informative(whole), views)

    def apart(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Bits in which the whole pictures' hashes differ; 65 where one says nothing."""
        bits = np.bitwise_count(self.whole[i] ^ self.whole[j]).astype(np.int64)
        return np.where(self.telling[i] & self.telling[j], bits, 65)

    def related(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Tell which pairs are too near for unrelated ones."""
        near = self.apart(i, j) <= _SURELY
        return near if self.views is None else near | (self.views.distance(i, j) <= self.views.radius)

    def fit_bits(
        self, compared: np.ndarray, units: np.ndarray, cosine: float, known: Known
    ) -> dict[str, tuple[float, float]]:
        """Fit how often hashes of unrelated pictures are near; see `icehouse.dups.calibration.Calibration.bits`."""
        a, b = _pairs(len(compared))
        alike = np.concatenate(
            [
                np.einsum("ij,ij->i", units[a[k : k + 8192]], units[b[k : k + 8192]])
                for k in range(0, len(a), 8192)
            ]
        )
        usable = np.abs(units).sum(axis=1) > 0
        i, j = compared[a], compared[b]
        unrelated = ~labels_of(i, j, known, (alike >= cosine) | ~usable[a] | ~usable[b])
        i, j = i[unrelated], j[unrelated]
        apart = self.apart(i, j)
        fits = {"whole": fit_bits(apart[apart <= 64])}
        if self.views is not None:
            nearest = self.views.distance(i, j)
            fits["views"] = fit_bits(nearest[nearest <= 64])
        return {what: fit for what, fit in fits.items() if fit is not None}

    def fit_agreement(
        self, compared: np.ndarray, units: np.ndarray, cosine: float, known: Known
    ) -> Tail | None:
        """Fit how far all views of unrelated pictures agree; None if there is too little to tell by.

        Parameters as those of `fit_bits`.
        """
        if self.views is None:
            return None
        seen = np.flatnonzero(self.views.usable[compared].any(axis=1))
        total = len(seen) * (len(seen) - 1) // 2
        a, b, _ = largest_cosines(self.views.signs(compared[seen]), 2 * tail_size(total) + 1000)
        a, b = seen[a], seen[b]
        i, j = compared[a], compared[b]
        related = labels_of(i, j, known, np.einsum("ij,ij->i", units[a], units[b]) >= cosine)
        # As `find` measures it, to the last digit.
        agreed = self.views.agreement(i, j, near=False)
        try:
            return fit_tail(agreed[~related], total - int(related.sum()))
        except UsageError:
            return None


def labels_of(i: np.ndarray, j: np.ndarray, known: Known, otherwise: np.ndarray) -> np.ndarray:
    """Tell which pairs are labelled as duplicates, and of those without a label what is given."""
    told = otherwise.copy()
    if known:
        for k, (a, b) in enumerate(zip(i.tolist(), j.tolist(), strict=True)):
            told[k] = known.get((min(a, b), max(a, b)), told[k])
    return told


def _pairs(m: int) -> tuple[np.ndarray, np.ndarray]:
    """All pairs ``a < b`` of m things, or many of them at random."""
    rng = np.random.default_rng(1)
    if m * (m - 1) // 2 <= 4 * _MOST_PAIRS:
        a, b = np.triu_indices(m, 1)
        pick = rng.permutation(len(a))[:_MOST_PAIRS]
        return a[pick], b[pick]
    drawn = rng.integers(0, m, (_MOST_PAIRS, 2))
    drawn = np.unique(np.sort(drawn[drawn[:, 0] != drawn[:, 1]], axis=1), axis=0)
    return drawn[:, 0], drawn[:, 1]


#: Changed copies of each sampled content; the transforms take turns.
ROUNDS = 6

#: Kind of the copies that a user has labelled.
LABELLED = "labelled"

_LARGEST = 800

Progress = Callable[[int, int], None]


@dataclass
class Copies:
    """Copies of contents."""

    of: np.ndarray  # int64 (m,): Number of the content that each is a copy of
    kinds: np.ndarray  # str (m,): Transform, or `LABELLED`
    #: int64 (m,): In one round no content has two copies; -1 for those that are contents of the store
    #: themselves
    rounds: np.ndarray
    vectors: np.ndarray  # (m, d)
    #: int64 (m,): Bits between the nearest views of copy and content; 65 where there is no hash
    apart: np.ndarray
    whole: np.ndarray  # int64 (m,): Bits between the pictures as they are
    agreed: np.ndarray  # float64 (m,): Agreement of all views of copy and content

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

    One that cannot be read again is passed over, and another drawn.
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
