"""From what cosine on two contents of this set are near-duplicates: chosen by how many false pairs to expect.

A threshold that makes one mistake in a million pairs makes half a million of them among a million images. So the quantity
that is fixed is the number of false pairs expected among *all* pairs of a set, and the cosine follows from the set's size.

**Map.** Vectors are centred, and their common directions damped: the cosine is taken after multiplying with
``((1 - s) C + s v I) ** -1/2``, where C is the covariance of the user's own vectors, v its mean variance and s a shrinkage
(whitening; Jégou and Chum 2012, doi 10.1007/978-3-642-33709-3_55). Scenes of one kind stop resembling each other, copies of
one picture do not.

**Margin.** False pairs that are allowed need not be made. Where copies lie well above strangers, the threshold moves a third
of the way towards the lowest copy that was measured: it finds as many of them, and strangers that were not seen have farther
to go. Not farther, since copies of other kinds may lie lower, while of strangers the worst have been seen.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

from ...errors import CorruptError, StoreError, UsageError
from ..checksums import check_sums
from ..files import checked_name
from ..folders import publish_folder
from ..join.cosine import RowSet
from ..store import Store
from .tail import Tail

__all__ = [
    "LEAST_ROWS",
    "Calibration",
    "HashRule",
    "fit_map",
    "largest_cosines",
    "list_calibrations",
    "mapped",
]

#: With fewer contents there are too few pairs to learn from.
LEAST_ROWS = 16


#: Of the way from the strangers to the first copy above them.
_MARGIN = 1 / 3
_BLOCK = 256
_FORMAT = 2


def fit_map(X: np.ndarray, shrinkage: float) -> tuple[np.ndarray, np.ndarray | None]:
    """Fit the map after which cosines are taken.

    Parameters
    ----------
    X : ndarray, shape (n, d)
        Rows with a value that is not finite are left out.
    shrinkage : float
        Above 0, at most 1; 1 only centres.

    Returns
    -------
    mean : ndarray of float64, shape (d,)
    matrix : ndarray of float32, shape (d, d), or None
        Symmetric. None where the rows are only centred.
    """
    rows = X[np.isfinite(X).all(axis=1)].astype(np.float64)
    if not len(rows):
        raise UsageError("no content has a usable vector")
    mean = rows.mean(axis=0)
    if shrinkage >= 1:
        return mean, None
    rows -= mean
    n, dim = rows.shape
    variance = float(np.einsum("ij,ij->", rows, rows)) / (n * dim)
    if not variance > 0:
        return mean, None
    if n < dim:
        # The covariance of few rows has few axes, and all that is across them is scaled alike.
        _, lengths, across = np.linalg.svd(rows, full_matrices=False)
        values, axes = lengths**2 / n, across.T
    else:
        values, axes = np.linalg.eigh(rows.T @ rows / n)
    damped = ((1 - shrinkage) * np.maximum(values, 0) / variance + shrinkage) ** -0.5
    rest = shrinkage**-0.5
    matrix = (axes * (damped - rest)) @ axes.T + rest * np.eye(dim)
    return mean, matrix.astype(np.float32)


def mapped(
    X: np.ndarray, mean: np.ndarray, matrix: np.ndarray | None, out: np.ndarray | None = None
) -> np.ndarray:
    """Take rows through a map: unit length, or 0 where a row has no direction; float32, shape (n, d).

    `out` is filled a block of rows at a time, and may be mapped from disk.
    """
    rows = RowSet.of(X, mean)
    out = np.empty(X.shape, np.float32) if out is None else out
    wide = None if matrix is None else matrix.astype(np.float64)
    padded = np.zeros((_BLOCK, X.shape[1]))
    for start in range(0, len(X), _BLOCK):
        units, _ = rows.directions(slice(start, start + _BLOCK))
        if wide is not None:
            # Blocks of one shape: a row's product must not depend on how many others there are.
            padded[: len(units)] = units
            units = (padded @ wide)[: len(units)]
            lengths = np.sqrt(np.multiply(units, units).sum(axis=1, keepdims=True))
            units = units / np.where(lengths > 0, lengths, 1)
        out[start : start + _BLOCK] = np.round(units, 7)
    return out


def largest_cosines(units: np.ndarray, keep: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the pairs of rows with the largest cosines among all pairs.

    Parameters
    ----------
    units : ndarray of float32, shape (n, d)
        Of unit length.
    keep : int

    Returns
    -------
    i, j : ndarray of int64, shape (m,)
    cosine : ndarray of float32, shape (m,)
        Descending; m is `keep` unless there are fewer pairs.
    """
    found_i, found_j, found = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)
    least = -np.inf
    for start in range(0, len(units), 512):
        block = units[start : start + 512] @ units.T
        below = np.arange(len(units))[None] > np.arange(start, start + len(block))[:, None]
        a, b = np.nonzero(below & (block >= least))
        found_i = np.concatenate([found_i, a + start])
        found_j = np.concatenate([found_j, b])
        found = np.concatenate([found, block[a, b]])
        if len(found) > 2 * keep:
            best = np.argpartition(-found, keep)[:keep]
            found_i, found_j, found = found_i[best], found_j[best], found[best]
            least = float(found.min())
    order = np.lexsort((found_j, found_i, -found))[:keep]
    return found_i[order], found_j[order], found[order]


@dataclass(frozen=True)
class HashRule:
    """What perceptual hashes must have in common to prove something.

    Attributes
    ----------
    whole, views : int
        Bits in which they may differ; -1 where they prove nothing.
    agreement : float or None
        Of all views, from which on two pictures are one; None where the others suffice.
    """

    whole: int
    views: int
    agreement: float | None


@dataclass(frozen=True)
class Calibration:
    """A feature's map and tail, and how well transforms of the user's own contents were recognised by them.

    Attributes
    ----------
    feature, fingerprint : str
        What it was made for; with another fingerprint it says nothing.
    mean : ndarray of float64, shape (d,)
    matrix : ndarray of float32, shape (d, d), or None
    tail : Tail
    rows : int
        Contents that the map was fitted to.
    report : dict
        Recall for each transform, and all else that was measured.
    copies : tuple of float
        Cosines of changed copies with their contents, found or not, ascending.
    bits : dict of str to (float, float)
        For the hashes of "whole" pictures and of "views", as `fit_bits` gives it.
    agreement : Tail, optional
        Of `ViewHashes.agreement` between unrelated pictures; None where bits tell enough.
    """

    feature: str
    fingerprint: str
    mean: np.ndarray
    matrix: np.ndarray | None
    tail: Tail
    rows: int
    report: dict[str, Any] = field(default_factory=dict)
    copies: tuple[float, ...] = ()
    bits: dict[str, tuple[float, float]] = field(default_factory=dict)
    agreement: Tail | None = None

    def hashes(self, n: int, most: int, expected: float = 1.0, viewed: bool = True) -> HashRule:
        """Choose what hashes must have in common, where each kind of evidence may make `expected` false pairs.

        At most `most` bits. Where strangers had nearer ones the agreement of all views is asked as well, if there are
        views; otherwise equal hashes count even there.
        """
        whole, views = (self.radius(what, n, most, expected) for what in ("whole", "views"))
        agreement = None
        if viewed and self.agreement is not None:
            agreement = self.agreement.threshold(n, expected)
        return HashRule(whole if agreement is not None else max(whole, 0), views, agreement)

    def radius(self, what: str, n: int, most: int, expected: float = 1.0) -> int:
        """Bits, at most `most`, within which at most `expected` false pairs of hashes are to be expected; -1 for none."""
        if what not in self.bits:
            return most
        start, slope = self.bits[what]
        every = n * (n - 1) / 2
        fitting = (r for r in range(most, -1, -1) if every * NormalDist().cdf(start + slope * r) <= expected)
        return next(fitting, -1)

    def threshold(self, n: int, expected: float = 1.0) -> float:
        """Least cosine that makes a pair, with at most `expected` false ones among `n` contents; see `Tail.threshold`.

        Higher by a third of the way to the lowest of `copies` that it finds.
        """
        cosine = self.tail.threshold(n, expected)
        first = bisect_left(self.copies, cosine)
        return cosine if first == len(self.copies) else cosine + _MARGIN * (self.copies[first] - cosine)

    def grown(self, n: int) -> bool:
        """Whether there are now so many contents that the map has not seen that the tail no longer holds for them."""
        return n > 1.2 * self.rows and self.rows < 10 * len(self.mean)

    @staticmethod
    def folder(store: Store, feature: str) -> Path:
        """``STORE/calibrations/<encoder>/<modality>/<output>``."""
        return store.path / "calibrations" / checked_name(feature)

    def write(self, folder: Path) -> None:
        """Write the arrays and ``calibration.json`` into a folder that is there."""
        arrays = {"mean": self.mean, **({} if self.matrix is None else {"matrix": self.matrix})}
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", array)
        about = {
            "format": _FORMAT, "feature": self.feature, "fingerprint": self.fingerprint, "rows": self.rows,
            "whitened": self.matrix is not None, "copies": self.copies, "bits": self.bits,
            "tail": asdict(self.tail), "agreement": None if self.agreement is None else asdict(self.agreement),
            "report": self.report,
        }  # fmt: skip
        text = json.dumps(about, indent=1, ensure_ascii=False, allow_nan=False)
        (folder / "calibration.json").write_text(text + "\n", encoding="utf-8")

    def save(self, store: Store) -> Path:
        """Put it in the place of the feature's earlier one."""
        folder = self.folder(store, self.feature)
        try:
            with publish_folder(folder) as temp:
                self.write(temp)
        except OSError as error:
            raise StoreError(f"cannot write {folder}: {error.strerror or error}") from error
        return folder

    @classmethod
    def open(cls, store: Store, feature: str) -> Calibration:
        """Open the calibration of a feature.

        Raises
        ------
        StoreError
            If there is none.
        CorruptError
            If it is damaged.
        """
        folder = cls.folder(store, feature)
        remedy = "make one with `icehouse dups calibrate`"
        try:
            about: Mapping[str, Any] = json.loads((folder / "calibration.json").read_bytes())
            if about["format"] != _FORMAT:
                raise StoreError(f"the calibration of {feature} has format {about['format']}; {remedy}")
            arrays = ["mean.npy", *(["matrix.npy"] if about["whitened"] else [])]
            if lacking := [name for name in arrays if not (folder / name).exists()]:
                raise FileNotFoundError(lacking[0])
            # Before the arrays are parsed: a mean of zeros makes every content a duplicate.
            check_sums(folder, ["calibration.json", *arrays])
            mean = np.load(folder / "mean.npy", allow_pickle=False)
            matrix = np.load(folder / "matrix.npy", allow_pickle=False) if about["whitened"] else None
            shapes = [mean.shape * 2] + ([] if matrix is None else [matrix.shape])
            if mean.ndim != 1 or len(set(shapes)) > 1 or not np.isfinite(mean).all():
                raise ValueError("arrays do not fit")
            tail, agreement = (
                told and Tail(**{**told, "top": tuple(told["top"])})
                for told in (about["tail"], about["agreement"])
            )
            bits = {what: (float(start), float(slope)) for what, (start, slope) in about["bits"].items()}
            of = (about["feature"], about["fingerprint"])
            copies = tuple(map(float, about["copies"]))
            return cls(*of, mean, matrix, tail, about["rows"], about["report"], copies, bits, agreement)
        except CorruptError as error:
            raise CorruptError(f"{folder} is damaged: {error}; {remedy}") from error
        except FileNotFoundError as error:
            if not folder.exists():
                raise StoreError(f"no calibration of {feature} in {store.path}; {remedy}") from None
            raise CorruptError(f"{folder} is incomplete; {remedy}") from error
        except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
            raise CorruptError(f"{folder} is damaged; {remedy}") from error


def list_calibrations(store: Store) -> list[str]:
    """Features that have a calibration."""
    root = store.path / "calibrations"
    return sorted(
        path.parent.relative_to(root).as_posix() for path in root.glob("[!.]*/*/[!.]*/calibration.json")
    )
