"""Calibration of probabilities: Platt's sigmoid, a temperature, and how well a head's probabilities are calibrated.

How calibration is measured, for all heads alike:

- Confidence is the probability of the likeliest class; bins hold equally many rows (Nguyen, O'Connor 2015; Nixon et al.
  2019), so that no bin is decided by a handful of them. Rows of equal confidence share a bin.
- The expected calibration error (Guo et al. 2017) is a sum of absolute values, and chance alone makes it positive: it is
  too large on few rows, and a resample of the rows is larger still. A percentile interval of a perfectly calibrated
  head never covers its error of zero (tried: 0 of 600). So the interval is the basic one, ``2 value - percentile``,
  which takes the bias off; `by_chance` says what a perfectly calibrated head of the same confidences would show; and
  where the value is no larger than 95 of 100 such heads would show, the interval begins at zero.
- A temperature is fitted on dev, never on test (Guo et al. 2017). **It is reported and nothing else**: predictions stay as
  the head makes them, since a dev part is small, chosen on, and for most heads here little is gained.
- The Brier score is the mean over rows of the squared distance between probabilities and truth, 0 to 2 (Brier 1950).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import count_of
from .inputs import log_softmax, softmax
from .intervals import LEVEL, Groups, log_loss_interval, wilson
from .metrics import DRAWS, implied_variance, row_losses, worst_loss

# Fewest rows of a bin, and most bins.
_BIN_ROWS, _BINS = 15, 10
# Below this a probability is rounding, and its logarithm noise.
_MIN_PROBABILITY = 1e-12
# A factor of the logits at one of these bounds was not found, but run into.
_MIN_FACTOR, _MAX_FACTOR = 0.02, 50.0
# Fewest rows of dev to fit a temperature on.
_MIN_DEV_ROWS = 20
# Draws times rows held at once.
_BLOCK = 4_000_000


def platt(scores: np.ndarray, positive: np.ndarray, weight: np.ndarray | None = None) -> np.ndarray:
    """Slope and offset for which ``1 / (1 + exp(-(slope * score + offset)))`` fits best, for each column of scores.

    `positive` has the shape of `scores`, (n, k), which are larger for positive rows. Platt 1999, "Probabilistic outputs
    for support vector machines", with his smoothed targets, so that classes which are told apart without an error do
    not get certainty; by Newton's method with halved steps (Lin, Lin, Weng 2007). A slope is never negative: scores
    that point the wrong way become flat, not reversed. Returns (k, 2).
    """
    scores = np.asarray(scores, np.float64)
    w = np.ones((len(scores), 1)) if weight is None else np.asarray(weight, np.float64)[:, None]
    above, below = (w * positive).sum(axis=0), (w * ~positive).sum(axis=0)
    target = np.where(positive, (above + 1) / (above + 2), 1 / (below + 2))
    spread = scores.std(axis=0)
    spread = np.where(spread > 0, spread, 1)
    z = scores / spread
    start = np.log((above + 1) / (below + 1))
    slope, offset = np.zeros(len(start)), start.copy()

    def loss(slope: np.ndarray, offset: np.ndarray) -> np.ndarray:
        logits = slope * z + offset
        return np.asarray((w * (np.logaddexp(0, logits) - target * logits)).sum(axis=0))

    value = loss(slope, offset)
    for _ in range(100):
        p = 1 / (1 + np.exp(-np.clip(slope * z + offset, -500, 500)))
        off, bend = w * (p - target), w * p * (1 - p)
        g0, g1 = (off * z).sum(axis=0), off.sum(axis=0)
        h00, h01, h11 = (bend * z * z).sum(axis=0) + 1e-10, (bend * z).sum(axis=0), bend.sum(axis=0) + 1e-10
        determinant = np.maximum(h00 * h11 - h01 * h01, 1e-300)
        step0, step1 = (h11 * g0 - h01 * g1) / determinant, (h00 * g1 - h01 * g0) / determinant
        length = np.ones(len(start))
        for _ in range(40):
            new = loss(slope - length * step0, offset - length * step1)
            # Where a column has converged, rounding alone decides: that is not worse.
            worse = ~(new <= value + 1e-12 * np.maximum(value, 1))
            if not worse.any():
                break
            length = np.where(worse, length / 2, length)
        length = np.where(worse, 0, length)
        slope, offset, new = slope - length * step0, offset - length * step1, np.where(worse, value, new)
        done = value - new < 1e-12 * np.maximum(value, 1)
        value = new
        if done.all():
            break
    right = slope > 0
    return np.stack([np.where(right, slope / spread, 0), np.where(right, offset, start)], axis=1)


def temperature(
    scores: np.ndarray,
    y: np.ndarray,
    weight: np.ndarray | None = None,
    *,
    base: np.ndarray | float = 0.0,
    low: float = 1e-3,
    high: float = 1e4,
) -> float:
    """Factor for which ``softmax(base + factor * scores)`` has the least log loss.

    Without `base`, logits that are there already, an inverse temperature (Guo et al. 2017). Where all rows are right,
    or all wrong, the least loss lies at a bound, `low` or `high`.
    """
    scores = np.asarray(scores, np.float64)
    weight = np.ones(len(y)) if weight is None else weight
    rows = np.arange(len(y))

    def slope(factor: float) -> float:
        """Derivative of the loss by the factor, which grows with it: the loss is convex."""
        p = np.exp(log_softmax(base + factor * scores))
        return float((weight * ((p * scores).sum(axis=1) - scores[rows, y])).sum())

    below, above = np.log(low), np.log(high)
    if slope(low) >= 0:
        return low
    if slope(high) <= 0:
        return high
    for _ in range(60):
        middle = (below + above) / 2
        if slope(float(np.exp(middle))) < 0:
            below = middle
        else:
            above = middle
    return float(np.exp((below + above) / 2))


def measure_calibration(
    proba: np.ndarray,
    true: np.ndarray,
    dev: tuple[np.ndarray, np.ndarray] | None = None,
    *,
    groups: np.ndarray | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Any]:
    """Calibration of probabilities (n, k) on some rows, as it is and with a temperature fitted on other rows, `dev`.

    `true` has the code of each row's label; `k` or more, or below zero, for one that the head does not know. `groups`
    are of rows that are duplicates of one another: the bootstrap draws them together. 0 `draws` leave the intervals
    out.

    The JSON values returned: ``n``, and of ``ece`` (with ``by_chance``: what a calibrated head would show, as ``mean``
    and ``high``), ``brier`` and ``log_loss`` value and interval; ``bins`` as `reliability` returns them;
    ``temperature`` with its ``value``, the rows it was fitted on, and the three scores and bins ``after`` it, or
    ``why`` there is none. ``change`` is log loss after less before, with its paired interval.
    """
    rng = np.random.default_rng(seed)
    alike = Groups(groups, len(true))
    weights = _resamples(alike, draws, rng)
    told = _scores(proba, true, weights, alike, np.random.default_rng(seed + 1))
    told["temperature"] = _measure_temperature(proba, true, dev, weights, alike, seed)
    return told


def reliability(confidence: np.ndarray, right: np.ndarray) -> list[dict[str, Any]]:
    """Bins of equally many rows, by rising confidence: what was said, and how often it was `right`.

    ``from`` and ``to`` are the least and greatest confidence, ``confidence`` their mean, ``low`` and ``high`` the
    interval of the accuracy (Wilson 1927).
    """
    bins = _bins(confidence)
    found = []
    for number in np.unique(bins):
        held = bins == number
        n, share = int(held.sum()), float(right[held].mean())
        low, high = map(float, wilson(share, n))
        found.append(
            {
                "rows": n,
                "from": float(confidence[held].min()),
                "to": float(confidence[held].max()),
                "confidence": float(confidence[held].mean()),
                "accuracy": share,
                "low": low,
                "high": high,
            }
        )
    return found


def _scores(
    proba: np.ndarray,
    true: np.ndarray,
    weights: list[np.ndarray],
    groups: Groups,
    rng: np.random.Generator,
) -> dict[str, Any]:
    n = len(true)
    proba = np.asarray(proba, np.float64)
    confidence, right = proba.max(axis=1), proba.argmax(axis=1) == true
    bins = _bins(confidence)
    value, sample, chance = _ece(confidence, right, bins, weights, rng)
    tail = (1 - LEVEL) / 2
    by_chance = {"mean": float(chance.mean()), "high": float(np.quantile(chance, LEVEL))}
    ece: dict[str, Any] = {"value": value, "low": None, "high": None, "by_chance": by_chance}
    if len(sample):
        low, high = np.quantile(sample, [tail, 1 - tail])
        ece["low"] = 0.0 if value <= by_chance["high"] else float(max(2 * value - high, 0.0))
        ece["high"] = float(max(2 * value - low, ece["low"]))
    losses = _losses(proba, true)
    told = {"value": float(losses.mean()), "low": None, "high": None}
    if weights:
        told["low"], told["high"] = log_loss_interval(
            losses, implied_variance(proba), worst_loss(proba), groups
        )
    return {
        "n": n,
        "ece": ece,
        "brier": _mean(_brier(proba, true), weights),
        "log_loss": told,
        "bins": reliability(confidence, right),
    }


def _measure_temperature(
    proba: np.ndarray,
    true: np.ndarray,
    dev: tuple[np.ndarray, np.ndarray] | None,
    weights: list[np.ndarray],
    groups: Groups,
    seed: int,
) -> dict[str, Any]:
    if dev is None:
        return {"value": None, "why": "there are no other rows to fit it on"}
    given, codes = np.asarray(dev[0], np.float64), dev[1]
    known = (codes >= 0) & (codes < given.shape[1])
    given, codes = given[known], codes[known]
    if len(codes) < _MIN_DEV_ROWS:
        return {"value": None, "why": f"dev has {count_of(len(codes), 'row')}, which is too few to fit it on"}
    factor = temperature(_logits(given), codes, low=_MIN_FACTOR, high=_MAX_FACTOR)
    if factor in (_MIN_FACTOR, _MAX_FACTOR):
        why = "every row of dev is right" if factor == _MAX_FACTOR else "on dev the probabilities say nothing"
        return {"value": None, "why": f"{why}, so that the best temperature is without bounds"}
    after = softmax(factor * _logits(np.asarray(proba, np.float64)))
    change = _losses(after, true) - _losses(np.asarray(proba, np.float64), true)
    return {
        "value": 1 / factor,
        "fitted_on": len(codes),
        "after": _scores(after, true, weights, groups, np.random.default_rng(seed + 2)),
        "change": {"log_loss": _mean(change, weights)},
    }


def _ece(
    confidence: np.ndarray,
    right: np.ndarray,
    bins: np.ndarray,
    weights: list[np.ndarray],
    rng: np.random.Generator,
) -> tuple[float, np.ndarray, np.ndarray]:
    """The error, that of each resample, and those of heads for which the confidences are true."""
    n, k = len(bins), int(bins.max()) + 1
    member = np.eye(k)[bins]
    gap = member * (right - confidence)[:, None]
    value = float(np.abs(gap.sum(axis=0)).sum() / n)
    sample = [np.abs(counts @ gap).sum(axis=1) / counts.sum(axis=1) for counts in weights]
    draws = max(sum(map(len, weights)), 200)
    chance = []
    for size in _blocks(draws, n):
        happened = (rng.random((size, n)) < confidence) - confidence
        chance.append(np.abs(happened @ member).sum(axis=1) / n)
    return value, np.concatenate(sample) if sample else np.empty(0), np.concatenate(chance)


def _bins(confidence: np.ndarray) -> np.ndarray:
    """Number of each row's bin, from 0, without gaps: int, shape (n,)."""
    count = int(np.clip(len(confidence) // _BIN_ROWS, 2, _BINS))
    edges = np.unique(np.quantile(confidence, np.linspace(0, 1, count + 1)[1:-1]))
    return np.unique(np.searchsorted(edges, confidence, side="left"), return_inverse=True)[1].reshape(-1)


def _brier(proba: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Squared distance of each row; a label that the head does not know was given a probability of zero."""
    k = proba.shape[1]
    truth = (true[:, None] == np.arange(k)).astype(np.float64)
    unknown = ((true < 0) | (true >= k)).astype(np.float64)
    return np.asarray(np.square(proba - truth).sum(axis=1) + unknown)


def _losses(proba: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Log loss of each row, as in the table of scores; a label that the head does not know had a probability of zero."""
    k = proba.shape[1]
    return row_losses(np.where((true < 0) | (true >= k), k, true), proba)


def _logits(proba: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(proba, _MIN_PROBABILITY))


def _mean(values: np.ndarray, weights: list[np.ndarray]) -> dict[str, Any]:
    """Mean of the rows, with a percentile interval."""
    value = float(values.mean())
    means = [part @ values / part.sum(axis=1) for part in weights]
    if not means:
        return {"value": value, "low": None, "high": None}
    low, high = np.quantile(np.concatenate(means), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {"value": value, "low": float(low), "high": float(high)}


def _resamples(groups: Groups, draws: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Count of each of the n rows in each draw of whole groups, in blocks of (size, n)."""
    # What is held is bounded: with very many rows, fewer draws tell as much.
    n, count = groups.n, groups.count
    draws = min(draws, max(200, 50 * _BLOCK // max(n, 1)))
    blocks = []
    for size in _blocks(draws, n):
        drawn = rng.multinomial(count, np.full(count, 1 / count), size=size).astype(np.float32)
        blocks.append(drawn if groups.codes is None else drawn[:, groups.codes])
    return blocks


def _blocks(draws: int, width: int) -> list[int]:
    block = max(1, _BLOCK // max(width, 1))
    return [min(block, draws - start) for start in range(0, draws, block)]
