"""Scores to probabilities: Platt's sigmoid for two classes, one temperature for more."""

from __future__ import annotations

import numpy as np

from .vectors import log_softmax

__all__ = ["platt", "temperature"]


def platt(scores: np.ndarray, y: np.ndarray, weight: np.ndarray | None = None) -> tuple[float, float]:
    """Slope and offset for which ``1 / (1 + exp(-(slope * score + offset)))`` fits `y` best.

    Platt 1999, "Probabilistic outputs for support vector machines", with his smoothed targets, so that classes which are
    told apart without an error do not get certainty, and with the safe Newton steps of Lin, Lin, Weng 2007.

    Parameters
    ----------
    scores : ndarray of float, shape (n,)
        Larger for the second class.
    y : ndarray of int, shape (n,)
        0 or 1.
    weight : ndarray of float, shape (n,), optional

    Returns
    -------
    float, float
        The slope is never negative: scores that point the wrong way become flat, not reversed.
    """
    scores = np.asarray(scores, np.float64)
    weight = np.ones(len(y)) if weight is None else weight
    n1, n0 = float(weight[y == 1].sum()), float(weight[y == 0].sum())
    target = np.where(y == 1, (n1 + 1) / (n1 + 2), 1 / (n0 + 2))
    spread = float(scores.std()) or 1.0
    A = np.stack([scores / spread, np.ones(len(y))], axis=1)
    theta = np.array([0.0, np.log((n1 + 1) / (n0 + 1))])

    def loss(theta: np.ndarray) -> float:
        z = A @ theta
        return float((weight * (np.logaddexp(0, z) - target * z)).sum())

    value = loss(theta)
    for _ in range(100):
        p = 1 / (1 + np.exp(-np.clip(A @ theta, -500, 500)))
        gradient = A.T @ (weight * (p - target))
        hessian = (A.T * (weight * p * (1 - p))) @ A + 1e-10 * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        length = 1.0
        while (new := loss(theta - length * step)) > value and length > 1e-10:
            length /= 2
        theta = theta - length * step
        if value - new < 1e-12 * max(value, 1):
            break
        value = new
    slope, offset = float(theta[0] / spread), float(theta[1])
    return (slope, offset) if slope > 0 else (0.0, float(np.log((n1 + 1) / (n0 + 1))))


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
