"""Scores to probabilities: Platt's sigmoid for two classes, one temperature for more."""

from __future__ import annotations

import numpy as np

from .vectors import log_softmax

__all__ = ["platt", "temperature"]


def platt(scores: np.ndarray, positive: np.ndarray, weight: np.ndarray | None = None) -> np.ndarray:
    """Slope and offset for which ``1 / (1 + exp(-(slope * score + offset)))`` fits best, for each column of scores.

    Platt 1999, "Probabilistic outputs for support vector machines", with his smoothed targets, so that classes which are
    told apart without an error do not get certainty; by Newton's method with halved steps (Lin, Lin, Weng 2007).

    Parameters
    ----------
    scores : ndarray of float, shape (n, k)
        Larger for the positive rows.
    positive : ndarray of bool, shape (n, k)
    weight : ndarray of float, shape (n,), optional

    Returns
    -------
    ndarray of float64, shape (k, 2)
        A slope is never negative: scores that point the wrong way become flat, not reversed.
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

    Without `base`, an inverse temperature (Guo et al. 2017).

    Parameters
    ----------
    scores : ndarray of float, shape (n, k)
    y : ndarray of int, shape (n,)
    weight : ndarray of float, shape (n,), optional
    base : ndarray of float, shape (n, k), optional
        Logits that are there already.
    low, high : float
        Bounds of the factor; where all rows are right, or all wrong, the least loss lies at one of them.

    Returns
    -------
    float
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
