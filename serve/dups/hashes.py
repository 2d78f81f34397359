"""What perceptual hashes say of the contents that a calibration looks at, and how alike those of unrelated ones are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...errors import UsageError
from ...store.dups.calibration import largest_cosines
from ...store.dups.hamming import informative
from ...store.dups.tail import Tail, fit_bits, fit_tail, tail_size
from ...store.dups.views import MOST_VIEWED, ViewHashes, load_views, view_radius
from ...store.store import Store

__all__ = ["Hashes", "Known", "labels_of"]

#: Of unrelated pictures none has a hash so near; those that do are not counted as unrelated.
_SURELY = 10
_MOST_PAIRS = 200_000

#: Whether two contents are duplicates, by their numbers in ascending order, as a user has labelled them.
Known = dict[tuple[int, int], bool]


@dataclass(frozen=True)
class Hashes:
    """Perceptual hashes of some contents.

    Attributes
    ----------
    whole : ndarray of uint64, shape (n,)
        Of the pictures as they are.
    telling : ndarray of bool, shape (n,)
        Which of them say something.
    views : ViewHashes or None
        Of their parts; None where there are so many contents that `find` would not make them.
    """

    whole: np.ndarray
    telling: np.ndarray
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
        """Fit how often hashes of unrelated pictures are near; see `icehouse.store.dups.calibration.Calibration.bits`.

        Parameters
        ----------
        compared : ndarray of int64, shape (m,)
            Numbers of the contents to pair.
        units : ndarray of float32, shape (m, d)
            Their vectors after the map; 0 where there is no direction.
        cosine : float
            Pairs from there on are not unrelated, unless they are labelled so.
        known : dict
        """
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
