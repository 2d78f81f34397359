"""Calibrated cosine thresholds: an extreme-value fit of cosines between unrelated contents.

A threshold that makes one mistake in a million pairs makes half a million of them among a million images. So the quantity
that is fixed is the number of false pairs expected among *all* pairs of a set, and the cosine follows from the set's size.

**Map.** Vectors are centred, and their common directions damped: the cosine is taken after multiplying with
``((1 - s) C + s v I) ** -1/2``, where C is the covariance of the user's own vectors, v its mean variance and s a shrinkage
(whitening; Jégou and Chum 2012, doi 10.1007/978-3-642-33709-3_55). Scenes of one kind stop resembling each other, copies of
one picture do not.

**Margin.** False pairs that are allowed need not be made. Where copies lie well above unrelated contents, the threshold
moves a third of the way towards the lowest copy that was measured: it finds as many of them, and is safer against
unrelated pairs that were not measured. Not farther, since copies of other kinds may lie lower.
"""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

from ..errors import CorruptError, IcehouseError, SourceError, SpaceError, StoreError, UsageError, count_of
from ..store.files import SUMS, check_sums, checked_name, publish_bytes, publish_folder
from ..store.store import Store
from .join import RowSet
from .local_scaling import LocalMeasure

# What the area tangents of the cosines of unrelated pairs exceed a high quantile by follows a generalised Pareto
# distribution (Pickands 1975). True duplicates hide among the largest, so a first fit does not look at the largest tenth
# (truncated maximum likelihood); what lies where by that fit no unrelated pair should be is taken for a duplicate, and the
# tail is fitted to the rest. The threshold is also above what remains, as far as it was seen: where all pairs of a set could
# be compared, no guess is lower than the facts.


#: No threshold is lower, whatever the tail says: the join needs a positive one.
MIN_COSINE = 0.05

_TAIL, _MIN_TAIL, _MAX_TAIL = 0.02, 40, 20_000
#: Of the tail may be duplicates.
_DUPLICATE_SHARE = 0.1
#: On this scale the tail of cosines ends as an exponential does (shape 0) and begins lighter, from which an end would be
#: guessed that is too near. Heavier ones let a few duplicates pull the threshold up.
_SHAPES = np.linspace(0, 0.1, 11)
#: Of unrelated pairs' hashes are so near where their distribution is extrapolated from.
_NEAR_SHARE = 0.04
#: Of all pairs are at most copies: 25 pictures with any number of copies of each have 4%.
_COPIES = 0.05
#: arctanh of 1 is infinite.
_MAX_COSINE = 1 - 1e-9
#: A pair so far out that among as many unrelated ones so few would be expected is a duplicate.
_SUSPECT_PAIRS = 0.02
_KEPT = 500


@dataclass(frozen=True)
class TailFit:
    """The upper tail of the cosines of unrelated pairs."""

    pairs: int  # pairs that were judged
    start: float  # cosine where the tail begins
    share: float  # share of the pairs beyond it, duplicates left out
    #: generalised Pareto distribution of what ``arctanh(cosine)`` exceeds ``arctanh(start)`` by
    shape: float
    scale: float
    top: tuple[float, ...]  # largest cosines, descending, suspects left out
    suspects: int = 0  # pairs taken for duplicates, for lying where no unrelated pair should

    def threshold(self, n: int, expected: float = 1.0) -> float:
        """Least cosine at which at most `expected` false pairs are to be expected among `n` contents.

        Higher for more contents, lower for more false pairs; at least `MIN_COSINE`, at most 1.
        """
        check_expected(expected)
        every = n * (n - 1) / 2
        if every <= 0:
            return MIN_COSINE
        share = expected / every
        cosine = self._quantile(share)
        rank = int(min(share * self.pairs, len(self.top)))
        if rank < len(self.top):
            # Just above the first that would be one too many.
            cosine = max(cosine, float(np.nextafter(self.top[rank], 2)))
        return float(min(max(cosine, MIN_COSINE), 1.0))

    def expected(self, n: int, cosine: float) -> float:
        """False pairs to expect among `n` contents at a cosine, by the fitted tail; inf below its start."""
        if cosine < self.start:
            return float("inf")
        if cosine >= 1:
            return 0.0
        excess = (np.arctanh(cosine) - np.arctanh(self.start)) / self.scale
        if abs(self.shape) < 1e-9:
            beyond = float(np.exp(-excess))
        else:
            beyond = float(max(0.0, 1 + self.shape * excess) ** (-1 / self.shape))
        return n * (n - 1) / 2 * self.share * beyond

    def _quantile(self, share: float) -> float:
        """Cosine that `share` of all unrelated pairs exceed; `start` where that is not in the tail."""
        within = min(1.0, share / self.share)
        if abs(self.shape) < 1e-9:
            excess = -self.scale * np.log(within)
        else:
            excess = self.scale / self.shape * (within**-self.shape - 1)
        return float(np.tanh(np.arctanh(self.start) + excess))


def check_expected(expected: float) -> None:
    """Refuse a number of expected false pairs that no threshold has, with a `UsageError`."""
    if not 0 < expected < float("inf"):
        raise UsageError(f"the number of false pairs to expect must be above 0 and finite, not {expected}")


def false_pairs_text(expected: float) -> str:
    """Name a number of false pairs: "1 expected false pair", "0.5 expected false pairs"."""
    return f"{expected:g} expected false pair{'' if expected == 1 else 's'}"


def fit_tail(top: np.ndarray, pairs: int) -> TailFit:
    """Fit the tail of the cosines of unrelated pairs, some of which may be duplicates after all."""
    values = np.sort(top[np.isfinite(top)].astype(np.float64))[::-1]
    above = tail_size(pairs)
    if len(values) <= above:
        raise UsageError(
            f"too few pairs to calibrate by: {count_of(len(values), 'unrelated one')}, and {above + 1} are needed"
        )
    start = float(np.clip(values[above], -_MAX_COSINE, _MAX_COSINE))
    excess = np.arctanh(np.clip(values[:above], -_MAX_COSINE, _MAX_COSINE)) - np.arctanh(start)
    hidden = max(2, int(above * _DUPLICATE_SHARE))
    if not excess[hidden] > 1e-9:
        raise UsageError("all contents are equally alike: their vectors tell nothing apart")
    shape, scale, seen = _fit_pareto(excess[hidden:], float(excess[hidden]))
    share = (above - hidden) / seen / pairs
    rough = TailFit(pairs, start, share, shape, scale, ())
    limit = rough._quantile(_SUSPECT_PAIRS / pairs)
    suspects = int((values > limit).sum())
    rest = excess[suspects:]
    if len(rest) > hidden:
        # The first fit guesses the end of the tail from its beginning; with the duplicates gone, the end itself can speak.
        shape, scale, _ = _fit_pareto(rest, float(rest[0]), truncated=False)
        share = len(rest) / pairs
    kept = tuple(values[suspects : suspects + _KEPT].tolist())
    return TailFit(pairs, start, share, shape, scale, kept, suspects)


def fit_bits(distances: np.ndarray) -> tuple[float, float] | None:
    """Fit how often unrelated hashes are near: a normal distribution through the beginning of their distances.

    ``start + slope * bits`` is the normal quantile of the share of pairs within `bits`; None if there are too few pairs, or
    none is near.
    """
    if len(distances) < _MIN_TAIL:
        return None
    distances = _beyond_copies(distances)
    shares = np.array([(distances <= bits).mean() for bits in range(0, 65, 2)])
    far = max(int(np.searchsorted(shares, _NEAR_SHARE, side="right")) - 1, 1)
    near = max(far - 2, 0)
    low, high = (min(max(float(shares[k]), 0.5 / len(distances)), 0.999) for k in (near, far))
    if high <= 0.5 / len(distances):
        return None
    quantiles = NormalDist().inv_cdf(low), NormalDist().inv_cdf(high)
    slope = (quantiles[1] - quantiles[0]) / (2 * (far - near))
    return quantiles[1] - slope * 2 * far, slope


def bits_radius(fit: tuple[float, float], n: int, most: int, expected: float = 1.0) -> int:
    """Bits, at most `most`, within which at most `expected` pairs of `n` unrelated hashes are, by `fit_bits`; else -1."""
    start, slope = fit
    every = n * (n - 1) / 2
    fitting = (r for r in range(most, -1, -1) if every * NormalDist().cdf(start + slope * r) <= expected)
    return next(fitting, -1)


def _beyond_copies(distances: np.ndarray) -> np.ndarray:
    """Leave out what lies before a hole in the distances: copies that nothing else has found, if they are few."""
    counts = np.histogram(distances, np.arange(0, 67, 2))[0]
    middle = int(np.searchsorted(np.cumsum(counts), len(distances) / 2))
    empty = [k for k in range(1, middle) if counts[k] == counts[k - 1] == 0]
    if not empty or counts[: empty[-1]].sum() > _COPIES * len(distances):
        return distances
    return distances[distances >= 2 * empty[-1]]


def tail_size(pairs: int) -> int:
    """Number of the largest cosines, of so many pairs, to which the tail is fitted."""
    return int(np.clip(pairs * _TAIL, _MIN_TAIL, _MAX_TAIL))


def _fit_pareto(excess: np.ndarray, limit: float, *, truncated: bool = True) -> tuple[float, float, float]:
    """Shape, scale, and share below `limit`, by maximum likelihood; `truncated` if larger values were not looked at."""
    scales = limit * np.geomspace(0.01, 5, 241)
    log_sums = _log_sums(excess, float(_SHAPES[1] / scales[-1]), float(_SHAPES[-1] / scales[0]))
    total = float(excess.sum())
    best = (-np.inf, 0.0, limit, 1.0)
    for shape in _SHAPES.tolist():
        with np.errstate(divide="ignore", invalid="ignore"):
            if abs(shape) < 1e-9:
                seen = -np.expm1(-limit / scales)
                likelihood = -total / scales
            else:
                seen = 1 - np.maximum(0, 1 + shape * limit / scales) ** (-1 / shape)
                likelihood = -(1 + 1 / shape) * log_sums(np.log(shape / scales))
            likelihood -= len(excess) * (np.log(scales) + (np.log(seen) if truncated else 0))
        likelihood = np.where(np.isfinite(likelihood), likelihood, -np.inf)
        k = int(np.argmax(likelihood))
        if likelihood[k] > best[0]:
            best = (float(likelihood[k]), shape, float(scales[k]), float(seen[k]))
    return best[1:]


def _log_sums(values: np.ndarray, least: float, most: float) -> Callable[[np.ndarray], np.ndarray]:
    """Sums of ``log(1 + factor * value)`` over all values, by the logarithm of a factor from `least` to `most`.

    They are a smooth function of it, which the polynomial through 64 of them meets to the last digits. For each shape and
    scale they would be fifty million logarithms.
    """
    return np.polynomial.Chebyshev.interpolate(
        lambda at: np.array([np.log1p(factor * values).sum() for factor in np.exp(at)]),
        63,
        np.log([least, most]),
    )


#: With fewer contents there are too few pairs to learn from.
MIN_ROWS = 16


#: Share of the way from the unrelated pairs to the first copy above them.
_MARGIN = 1 / 3
_BLOCK = 256
#: Rows of which a map's covariance is summed up at once.
_MAPPED_AT_ONCE = 4096
#: Axes along which so small a share of the largest squared length lies are rounding.
_NO_LENGTH = 1e-12

#: Transforms that leave a picture what it is, and the recall of them below which a calibration is of little use.
_SAVED_AGAIN, _MIN_RECALL = ("recompress", "format"), 0.9
#: File of a calibration with what each content is held against.
_LOCAL = "local.npz"

_FORMAT = 3


@dataclass(frozen=True)
class Covariance:
    """Mean of some rows, and their covariance by its axes: across these there is none."""

    rows: int  # that were usable
    mean: np.ndarray  # float64 (d,)
    squares: float  # sum of the squared lengths of the centred rows
    axes: np.ndarray  # float64 (d, k)
    values: np.ndarray  # float64 (k,)

    @classmethod
    def of(cls, X: np.ndarray) -> Covariance:
        """Get that of rows (n, d); those with values that are not finite are left out."""
        rows = _usable_rows(X)
        n, dim = rows.shape
        mean = _mean(rows)
        if n < dim:
            # The products of few rows with one another have the same spectrum, and are a small matrix.
            centred = rows.astype(np.float64)
            centred -= mean
            squares = float(np.einsum("ij,ij->", centred, centred))
            lengths, across = np.linalg.eigh(centred @ centred.T)
            kept = lengths > _NO_LENGTH * max(lengths[-1], np.finfo(float).tiny)
            lengths, across = lengths[kept], across[:, kept]
            return cls(n, mean, squares, centred.T @ (across / np.sqrt(lengths)), lengths / n)
        covariance, squares = np.zeros((dim, dim)), 0.0
        for part in _parts(n):
            centred = rows[part].astype(np.float64)
            centred -= mean
            squares += float(np.einsum("ij,ij->", centred, centred))
            covariance += centred.T @ centred
        del centred  # what follows needs the memory
        covariance /= n
        values, axes = np.linalg.eigh(covariance)
        return cls(n, mean, squares, axes, np.maximum(values, 0))

    def matrix(self, shrinkage: float) -> np.ndarray | None:
        """The map's symmetric matrix, float32 (d, d); None where all rows are equal."""
        dim = len(self.mean)
        variance = self.squares / (self.rows * dim)
        if not variance > 0:
            return None
        damped = ((1 - shrinkage) * self.values / variance + shrinkage) ** -0.5
        rest = shrinkage**-0.5
        matrix = (self.axes * (damped - rest)) @ self.axes.T + rest * np.eye(dim)
        return matrix.astype(np.float32)

    def cosines_with(self, contents: np.ndarray, copies: np.ndarray, shrinkage: float) -> np.ndarray:
        """Cosine of each content with its copy (m, d), mapped by a map that is fitted to these rows and all the copies.

        No such map is made: the inverse of the covariance follows from that of the rows by as many numbers as there are
        copies (Woodbury).
        """
        m, dim = copies.shape
        both = np.concatenate([contents, copies]).astype(np.float64) - self.mean
        usable = np.isfinite(both).all(axis=1)
        both[~usable] = 0
        added = m + np.flatnonzero(usable[m:])
        total = self.rows + len(added)
        shift = both[added].sum(axis=0) / total  # of the mean
        squares = self.squares + np.einsum("ij,ij->", both[added], both[added]) - total * (shift @ shift)
        ground = shrinkage * squares / dim
        if not ground > 0:
            return np.zeros(m)
        along = both @ self.axes
        weights = 1 / ((1 - shrinkage) * self.rows * self.values + ground) - 1 / ground
        products = (along * weights) @ along.T + both @ both.T / ground
        core = products[np.ix_(added, added)]
        core += (np.eye(len(added)) + 1 / self.rows) / (1 - shrinkage)
        products -= products[:, added] @ np.linalg.solve(core, products[added])
        # From the old mean to the new one.
        moved = np.eye(2 * m)
        moved[:, added] -= 1 / total
        products = moved @ products @ moved.T
        lengths = np.sqrt(np.maximum(np.diagonal(products), 0))
        pointing = usable & (
            RowSet.of(np.concatenate([contents, copies]), self.mean + shift).measure().squares > 0
        )
        lengths[~pointing] = np.inf
        cosines: np.ndarray = np.diagonal(products, m) / (lengths[:m] * lengths[m:])
        return cosines


def fit_map(X: np.ndarray, shrinkage: float) -> tuple[np.ndarray, np.ndarray | None]:
    """Fit the map after which cosines are taken.

    Gives the mean float64 (d,) and a symmetric matrix float32 (d, d), None where the rows are only centred (shrinkage 1).
    """
    if shrinkage >= 1:
        return _mean(_usable_rows(X)), None
    fitted = Covariance.of(X)
    return fitted.mean, fitted.matrix(shrinkage)


def _usable_rows(X: np.ndarray) -> np.ndarray:
    usable = np.isfinite(X).all(axis=1)
    if not usable.any():
        raise UsageError("no content has a usable vector")
    return X if usable.all() else X[usable]


def _parts(n: int) -> list[slice]:
    """Slices of rows: in float64 all of them are some hundreds of megabytes."""
    return [slice(start, start + _MAPPED_AT_ONCE) for start in range(0, n, _MAPPED_AT_ONCE)]


def _mean(rows: np.ndarray) -> np.ndarray:
    sums = [rows[part].astype(np.float64).sum(axis=0) for part in _parts(len(rows))]
    mean: np.ndarray = np.sum(sums, axis=0) / len(rows)
    return mean


def apply_map(
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

    Rows `units` are of unit length. Gives i, j int64 and the cosine float32, descending, `keep` unless there are fewer.
    """
    found_i, found_j, found = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)
    least = -np.inf
    for start in range(0, len(units), 512):
        block = units[start : start + 512] @ units.T
        # A few rows of it at once: of the first ones all pairs count.
        for row in range(start, start + len(block), 64):
            cosine = block[row - start : row - start + 64]
            below = np.arange(len(units))[None] > np.arange(row, row + len(cosine))[:, None]
            a, b = np.nonzero(below & (cosine >= least))
            found_i = np.concatenate([found_i, a + row])
            found_j = np.concatenate([found_j, b])
            found = np.concatenate([found, cosine[a, b]])
            if len(found) > 2 * keep:
                best = np.argpartition(-found, keep)[:keep]
                found_i, found_j, found = found_i[best], found_j[best], found[best]
                least = float(found.min())
    order = np.lexsort((found_j, found_i, -found))[:keep]
    return found_i[order], found_j[order], found[order]


@dataclass(frozen=True)
class HashRule:
    """Bits within which perceptual hashes count as evidence."""

    whole: int  # bits in which they may differ; -1 where they prove nothing
    views: int
    agreement: float | None  # least agreement of all views; None where the others suffice


@dataclass(frozen=True)
class Calibration:
    """A feature's map and tail, and how well transforms of the user's own contents were recognised by them."""

    feature: str  # what it was made for; of another fingerprint it says nothing
    fingerprint: str
    mean: np.ndarray  # float64 (d,)
    matrix: np.ndarray | None  # float32 (d, d), or None
    tail: TailFit
    rows: int  # contents that the map was fitted to
    #: recall for each transform, and all else that was measured
    report: dict[str, Any] = field(default_factory=dict)
    copies: tuple[float, ...] = ()  # cosines of changed copies with their contents, found or not, ascending
    #: of the hashes of "whole" pictures and of "views", as `fit_bits` gives them
    bits: dict[str, tuple[float, float]] = field(default_factory=dict)
    #: `ViewHashes.agreement` between unrelated pictures; None where bits tell enough
    agreement: TailFit | None = None
    #: what each content is held against; None where there are few contents
    local: LocalMeasure | None = None
    evidence: tuple[float, ...] = ()  # of changed copies with their contents, found or not, ascending

    def hashes(self, n: int, most: int, expected: float = 1.0, viewed: bool = True) -> HashRule:
        """Choose what hashes must have in common, where each kind of evidence may make `expected` false pairs.

        At most `most` bits. Where unrelated pairs had nearer ones the agreement of all views is asked as well, if there are
        views; otherwise equal hashes count even there.
        """
        whole, views = (self.radius(what, n, most, expected) for what in ("whole", "views"))
        agreement = None
        if viewed and self.agreement is not None:
            agreement = self.agreement.threshold(n, expected)
        confirmed = agreement is not None or (viewed and self.local is not None)
        return HashRule(whole if confirmed else max(whole, 0), views, agreement)

    def radius(self, what: str, n: int, most: int, expected: float = 1.0) -> int:
        """Bits, at most `most`, within which at most `expected` false pairs of hashes are to be expected; -1 for none."""
        return most if what not in self.bits else bits_radius(self.bits[what], n, most, expected)

    def threshold(self, n: int, expected: float = 1.0) -> float:
        """Least cosine that makes a pair, with at most `expected` false ones among `n` contents; see `TailFit.threshold`.

        Higher by a third of the way to the lowest of `copies` that it finds.
        """
        cosine = self.tail.threshold(n, expected)
        first = bisect_left(self.copies, cosine)
        return cosine if first == len(self.copies) else cosine + _MARGIN * (self.copies[first] - cosine)

    def local_threshold(self, n: int, expected: float = 1.0) -> float:
        """Least evidence that makes a pair by the local measure, with at most `expected` false ones among `n` contents."""
        assert self.local is not None
        least = self.local.threshold(n, expected)
        first = bisect_left(self.evidence, least)
        # False pairs that are allowed need not be made, see above; not farther than half as many would bring it.
        room = self.evidence[first] - least if first < len(self.evidence) else 0.0
        return least + min(_MARGIN * room, self.local.scale * 0.7)

    def weakness(self) -> str:
        """Say that even copies that were only saved again are missed, with the remedies; empty where they are found."""
        rows = [row for row in self.report.get("transforms", ()) if row["transform"] in _SAVED_AGAIN]
        copies = sum(row["copies"] for row in rows)
        share = sum(row["copies"] * row["cascade"] for row in rows) / copies if copies else 1.0
        if share >= _MIN_RECALL:
            return ""
        # What pixels settle is measured by no calibration, and is much where everything looks alike.
        pixels = (
            ""
            if self.local is None
            else ", but for those whose pixels `dups find` compares, which is not counted here"
        )
        return (
            f"by this calibration only {share:.0%} of the pictures that were merely saved again as another file are found "
            f"(of {copies} copies), so that most duplicates of this set will be missed{pixels}: the set looks alike to "
            f"{self.feature}. Allow more false pairs (--expected-false-pairs), label pairs (--pairs), take a calibration of "
            "another set (--import), or use another encoder"
        )

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
        if self.local is not None:
            self.local.write(folder / _LOCAL)
        about = {
            "format": _FORMAT, "feature": self.feature, "fingerprint": self.fingerprint, "rows": self.rows,
            "whitened": self.matrix is not None, "copies": self.copies, "bits": self.bits,
            "tail": asdict(self.tail), "agreement": None if self.agreement is None else asdict(self.agreement),
            "report": self.report, "local": self.local is not None,
            "evidence": self.evidence,
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
    def current(cls, store: Store, feature: str) -> tuple[Calibration | None, str]:
        """The calibration of a feature as it is now, or None and why there is none that holds."""
        if not cls.folder(store, feature).exists():
            return None, f"{feature} has no calibration"
        made = cls.open(store, feature)
        now = store.feature_table(feature).spec.get("fingerprint")
        if made.fingerprint != now:
            return None, f"the calibration of {feature} is of fingerprint {made.fingerprint}, not {now}"
        return made, ""

    def origin(self, expected: float) -> str:
        """Origin of a rule's cosine, in words."""
        return f"calibration {self.feature} {self.fingerprint}, {false_pairs_text(expected)}"

    @classmethod
    def open(cls, store: Store, feature: str) -> Calibration:
        """Open the calibration of a feature."""
        folder = cls.folder(store, feature)
        if not folder.exists():
            raise StoreError(
                f"no calibration of {feature} in {store.path}; make one with `icehouse dups calibrate`"
            )
        return cls.read(folder)

    @classmethod
    def read(cls, folder: Path) -> Calibration:
        """Read what `write` has written."""
        remedy = "make one with `icehouse dups calibrate`"
        try:
            about: Mapping[str, Any] = json.loads((folder / "calibration.json").read_bytes())
            if about["format"] != _FORMAT:
                raise StoreError(
                    f"the calibration of {about.get('feature')} has format {about['format']}; {remedy}"
                )
            arrays = ["mean.npy", *["matrix.npy"] * about["whitened"], *[_LOCAL] * about["local"]]
            if lacking := [name for name in arrays if not (folder / name).exists()]:
                raise FileNotFoundError(lacking[0])
            # Before the arrays are parsed: a mean of zeros makes every content a duplicate.
            check_sums(folder, ["calibration.json", *arrays])
            mean = np.load(folder / "mean.npy", allow_pickle=False)
            matrix = np.load(folder / "matrix.npy", allow_pickle=False) if about["whitened"] else None
            local = LocalMeasure.read(folder / _LOCAL) if about["local"] else None
            square = matrix is None or matrix.shape == mean.shape * 2
            if mean.ndim != 1 or not square or not np.isfinite(mean).all():
                raise ValueError("arrays do not fit")
            if local is not None and local.units.shape[1:] != mean.shape:
                raise ValueError("arrays do not fit")
            tail, agreement = (
                told and TailFit(**{**told, "top": tuple(told["top"])})
                for told in (about["tail"], about["agreement"])
            )
            return cls(
                about["feature"],
                about["fingerprint"],
                mean,
                matrix,
                tail,
                about["rows"],
                about["report"],
                copies=tuple(map(float, about["copies"])),
                bits={what: (float(start), float(slope)) for what, (start, slope) in about["bits"].items()},
                agreement=agreement,
                local=local,
                evidence=tuple(map(float, about["evidence"])),
            )
        except CorruptError as error:
            raise CorruptError(f"{folder} is damaged: {error}; {remedy}") from error
        except FileNotFoundError as error:
            raise CorruptError(f"{folder} is incomplete; {remedy}") from error
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise CorruptError(f"{folder} is damaged; {remedy}") from error


# A calibration as one file is a ZIP archive of what a store keeps of it, with the checksums. It says nothing of vectors of
# another fingerprint, so that one is refused; what a store has already is replaced only once the file has been read whole.

#: Files of a calibration that are not needed to use it are left where it was made.
_NEEDED = frozenset({"calibration.json", "mean.npy", "matrix.npy", "local.npz", SUMS})
#: A matrix of 8,192 dimensions in float32 has as many bytes.
_MAX_BYTES = 2**28


def export_calibration(store: Store | str | Path, file: str | Path, *, feature: str | None = None) -> Path:
    """Write the calibration of a feature to one file, in the place of an earlier one.

    By default it is the feature by which `find_duplicates` compares. A StoreError says that there is none of the
    vectors that the feature now has, a UsageError that the file is something else.
    """
    from .pair_graph import default_feature

    store, file = Store.of(store), Path(file)
    feature = feature or default_feature(store)
    if feature is None:
        raise UsageError(f"{store.path} has no feature with a calibration")
    made, why = Calibration.current(store, feature)
    if made is None:
        raise StoreError(f"{why}; make one with `icehouse dups calibrate`")
    if file.exists() and not _is_calibration(file):
        raise UsageError(f"{file} is there and is no calibration; give another name")
    folder = Calibration.folder(store, feature)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(_NEEDED):
            if (folder / name).exists():
                # Equal calibrations give equal files: without the time of writing.
                archive.writestr(zipfile.ZipInfo(name), (folder / name).read_bytes(), zipfile.ZIP_DEFLATED)
    return publish_bytes(file, buffer.getvalue())


def import_calibration(
    store: Store | str | Path, file: str | Path, *, feature: str | None = None
) -> Calibration:
    """Take a calibration from a file by `export_calibration`, in the place of the store's own one.

    It goes to `feature`, by default the one that has the fingerprint of the file; a SpaceError says that the feature
    is of another encoder or preprocessing, a SourceError or CorruptError what is wrong with the file.
    """
    store, file = Store.of(store), Path(file)
    with tempfile.TemporaryDirectory() as scratch:
        unpacked = Path(scratch)
        _unpack(file, unpacked)
        try:
            made = Calibration.read(unpacked)
        except CorruptError as error:
            raise CorruptError(
                f"{file} is damaged; export it again from the store where it was made"
            ) from error
    prints = {name: store.feature_table(name).spec.get("fingerprint") for name in store.feature_names()}
    fitting = [name for name, of in prints.items() if of == made.fingerprint]
    if feature is not None and feature not in fitting:
        now = prints[feature] if feature in prints else store.feature_table(feature).spec.get("fingerprint")
        raise SpaceError(
            f"{file} is of {made.feature}, fingerprint {made.fingerprint}, and {feature} has {now}: a calibration holds for "
            "the encoder and preprocessing that it was made with; make one with `icehouse dups calibrate`"
        )
    if not fitting:
        raise SpaceError(
            f"{file} is of {made.feature}, fingerprint {made.fingerprint}, and no feature of {store.path} has that: "
            f"there is {', '.join(f'{name} ({of})' for name, of in sorted(prints.items())) or 'none'}"
        )
    chosen = feature or (made.feature if made.feature in fitting else fitting[0])
    made = replace(made, feature=chosen, report=made.report | {"imported_from": file.name})
    made.save(store)
    return made


def _is_calibration(file: Path) -> bool:
    try:
        with zipfile.ZipFile(file) as archive:
            return "calibration.json" in archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False


def _unpack(file: Path, folder: Path) -> None:
    """Write the members of the archive into a folder, those that a calibration has and no other."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            names = [member.filename for member in members]
            if (
                {"calibration.json", SUMS} - set(names)
                or set(names) - _NEEDED
                or len(set(names)) < len(names)
            ):
                raise SourceError(
                    f"{file} is no calibration; write one with `icehouse dups calibrate --export`"
                )
            if sum(member.file_size for member in members) > _MAX_BYTES:
                raise SourceError(f"{file} is larger than any calibration")
            for member in members:
                (folder / member.filename).write_bytes(archive.read(member))
    except IcehouseError:
        raise
    except FileNotFoundError:
        raise SourceError(f"{file} does not exist") from None
    except zipfile.BadZipFile as error:
        raise SourceError(f"{file} is no calibration, or is damaged: {error}") from error
    except (OSError, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
        raise SourceError(f"{file} cannot be read: {error}") from error
