"""How alike unrelated contents are at most: the upper tail of their cosines, and the beginning of their hashes' distances.

What the area tangents of the cosines of unrelated pairs exceed a high quantile by follows a generalised Pareto
distribution (Pickands 1975). True duplicates hide among the largest, so a first fit does not look at the largest tenth
(truncated maximum likelihood); what lies where by that fit no unrelated pair should be is taken for a duplicate, and the
tail is fitted to the rest. The threshold is also above what remains, as far as it was seen: where all pairs of a set could
be compared, no guess is lower than the facts.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from ...errors import UsageError

__all__ = ["LEAST_COSINE", "Tail", "check_expected", "fit_bits", "fit_tail", "in_words", "tail_size"]

#: No threshold is lower, whatever the tail says: the join needs a positive one.
LEAST_COSINE = 0.05

_TAIL, _LEAST_TAIL, _MOST_TAIL = 0.02, 40, 20_000
#: Of the tail may be duplicates.
_HIDDEN = 0.1
#: On this scale the tail of cosines ends as an exponential does (shape 0) and begins lighter, from which an end would be
#: guessed that is too near. Heavier ones let a few duplicates pull the threshold up.
_SHAPES = np.linspace(0, 0.1, 11)
#: Of unrelated pairs' hashes are so near where their distribution is extrapolated from.
_NEAR_SHARE = 0.04
#: Of all pairs are at most copies: 25 pictures with any number of copies of each have 4%.
_COPIES = 0.05
#: arctanh of 1 is infinite.
_SANE = 1 - 1e-9
#: A pair so far out that among as many unrelated ones so few would be expected is a duplicate.
_SUSPECT = 0.02
_KEPT = 500


@dataclass(frozen=True)
class Tail:
    """The upper tail of the cosines of unrelated pairs.

    Attributes
    ----------
    pairs : int
        That were judged.
    start : float
        Cosine where the tail begins.
    share : float
        Of the pairs that lie beyond it, duplicates left out.
    shape, scale : float
        Of the generalised Pareto distribution of what ``arctanh(cosine)`` exceeds ``arctanh(start)`` by.
    top : tuple of float
        Largest cosines, descending, suspects left out.
    suspects : int
        Pairs taken for duplicates, for lying where no unrelated pair should.
    """

    pairs: int
    start: float
    share: float
    shape: float
    scale: float
    top: tuple[float, ...]
    suspects: int = 0

    def threshold(self, n: int, expected: float = 1.0) -> float:
        """Least cosine at which at most `expected` false pairs are to be expected among `n` contents.

        Higher for more contents, lower for more false pairs; at least `LEAST_COSINE`, at most 1.

        Raises
        ------
        UsageError
            If `expected` is not above 0 and finite.
        """
        check_expected(expected)
        every = n * (n - 1) / 2
        if every <= 0:
            return LEAST_COSINE
        share = expected / every
        cosine = self._quantile(share)
        rank = int(min(share * self.pairs, len(self.top)))
        if rank < len(self.top):
            # Just above the first that would be one too many.
            cosine = max(cosine, float(np.nextafter(self.top[rank], 2)))
        return float(min(max(cosine, LEAST_COSINE), 1.0))

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


def in_words(expected: float) -> str:
    """Name a number of false pairs: "1 expected false pair", "0.5 expected false pairs"."""
    return f"{expected:g} expected false pair{'' if expected == 1 else 's'}"


def fit_tail(top: np.ndarray, pairs: int) -> Tail:
    """Fit the tail of the cosines of unrelated pairs, some of which may be duplicates after all.

    Parameters
    ----------
    top : ndarray, shape (m,)
        The largest of `pairs` cosines, in any order; more than 2% of them, or 40, or 20,000.
    pairs : int

    Raises
    ------
    UsageError
        If there are too few, or all are alike.
    """
    values = np.sort(top[np.isfinite(top)].astype(np.float64))[::-1]
    above = tail_size(pairs)
    if len(values) <= above:
        raise UsageError(
            f"too few pairs to calibrate by: {len(values)} unrelated ones, and {above + 1} are needed"
        )
    start = float(np.clip(values[above], -_SANE, _SANE))
    excess = np.arctanh(np.clip(values[:above], -_SANE, _SANE)) - np.arctanh(start)
    hidden = max(2, int(above * _HIDDEN))
    if not excess[hidden] > 1e-9:
        raise UsageError("all contents are equally alike: their vectors tell nothing apart")
    shape, scale, seen = _fit_pareto(excess[hidden:], float(excess[hidden]))
    share = (above - hidden) / seen / pairs
    rough = Tail(pairs, start, share, shape, scale, ())
    limit = rough._quantile(_SUSPECT / pairs)
    suspects = int((values > limit).sum())
    rest = excess[suspects:]
    if len(rest) > hidden:
        # The first fit guesses the end of the tail from its beginning; with the duplicates gone, the end itself can speak.
        shape, scale, _ = _fit_pareto(rest, float(rest[0]), truncated=False)
        share = len(rest) / pairs
    kept = tuple(values[suspects : suspects + _KEPT].tolist())
    return Tail(pairs, start, share, shape, scale, kept, suspects)


def fit_bits(distances: np.ndarray) -> tuple[float, float] | None:
    """Fit how often unrelated hashes are near: a normal distribution through the beginning of their distances.

    Parameters
    ----------
    distances : ndarray of int, shape (m,)
        Bits between the hashes of unrelated pairs.

    Returns
    -------
    start, slope : float
        ``start + slope * bits`` is the normal quantile of the share of pairs within `bits`. None if there are too few pairs,
        or none is near.
    """
    if len(distances) < _LEAST_TAIL:
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


def _beyond_copies(distances: np.ndarray) -> np.ndarray:
    """Leave out what lies before a hole in the distances: copies that nothing else has found, if they are few."""
    counts = np.histogram(distances, np.arange(0, 67, 2))[0]
    middle = int(np.searchsorted(np.cumsum(counts), len(distances) / 2))
    empty = [k for k in range(1, middle) if counts[k] == counts[k - 1] == 0]
    if not empty or counts[: empty[-1]].sum() > _COPIES * len(distances):
        return distances
    return distances[distances >= 2 * empty[-1]]


def tail_size(pairs: int) -> int:
    """How many of the largest cosines of so many pairs are their tail."""
    return int(np.clip(pairs * _TAIL, _LEAST_TAIL, _MOST_TAIL))


def _fit_pareto(excess: np.ndarray, limit: float, *, truncated: bool = True) -> tuple[float, float, float]:
    """Shape, scale, and share below `limit`, by maximum likelihood; `truncated` if larger values were not looked at."""
    scales = limit * np.geomspace(0.01, 5, 241)[:, None]
    best = (-np.inf, 0.0, limit, 1.0)
    for shape in _SHAPES.tolist():
        with np.errstate(divide="ignore", invalid="ignore"):
            if abs(shape) < 1e-9:
                seen = -np.expm1(-limit / scales[:, 0])
                likelihood = -(excess / scales).sum(axis=1)
            else:
                seen = 1 - np.maximum(0, 1 + shape * limit / scales[:, 0]) ** (-1 / shape)
                likelihood = -(1 + 1 / shape) * np.log1p(shape * excess / scales).sum(axis=1)
            likelihood -= len(excess) * (np.log(scales[:, 0]) + (np.log(seen) if truncated else 0))
        likelihood = np.where(np.isfinite(likelihood), likelihood, -np.inf)
        k = int(np.argmax(likelihood))
        if likelihood[k] > best[0]:
            best = (float(likelihood[k]), shape, float(scales[k, 0]), float(seen[k]))
    return best[1:]
