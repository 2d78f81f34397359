"""Paired bootstrap: one draw of rows for all heads, so that their difference is compared and not their luck.

Scores of predicted classes need nothing but counts, and the counts of all draws are products of matrices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["SCORES", "Difference", "Resampling"]

#: Scores that are taken of predicted classes, by name.
SCORES = ("macro_f1", "accuracy", "weighted_f1")

# Rows times draws held at once.
_BLOCK = 8_000_000


@dataclass(frozen=True)
class Difference:
    """How much one head is better than another, and how sure that is.

    Attributes
    ----------
    value, low, high : float
        Difference, and its interval.
    p : float
        Two-sided: twice the share of draws on the other side of zero, at most 1.
    """

    value: float
    low: float
    high: float
    p: float


class Resampling:
    """Resampled scores of several heads on the same rows.

    Parameters
    ----------
    y : sequence of str, shape (n,)
        True labels.
    score : str
        One of `SCORES`.
    draws : int, default 2000
    level : float, default 0.95
    seed : int, default 0
    """

    def __init__(
        self,
        y: Sequence[Any] | np.ndarray,
        score: str,
        *,
        draws: int = 2000,
        level: float = 0.95,
        seed: int = 0,
    ) -> None:
        self.y = np.asarray(y).astype(str)
        self.score, self.level = score, level
        rng = np.random.default_rng(seed)
        n = len(self.y)
        self._counts = [
            rng.multinomial(n, np.full(n, 1 / n), size=size).astype(np.float32) for size in _blocks(draws, n)
        ]

    def value(self, predicted: Sequence[np.ndarray]) -> float:
        """Mean score of several predictions (one a seed) on the rows as they are."""
        once = np.ones((1, len(self.y)), np.float32)
        return float(np.mean([self._scores(once, one)[0] for one in predicted]))

    def sample(self, predicted: Sequence[np.ndarray]) -> np.ndarray:
        """The same of every draw: shape (draws,)."""
        return np.concatenate(
            [np.mean([self._scores(counts, one) for one in predicted], axis=0) for counts in self._counts]
        )

    def interval(self, sample: np.ndarray) -> tuple[float, float]:
        """Percentile interval of a sample."""
        tail = (1 - self.level) / 2
        low, high = np.quantile(sample, [tail, 1 - tail])
        return float(low), float(high)

    def difference(self, first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> Difference:
        """`first` minus `second`, on the same draws."""
        sample = self.sample(first) - self.sample(second)
        low, high = self.interval(sample)
        p = min(1.0, 2 * min(float((sample <= 0).mean()), float((sample >= 0).mean())))
        return Difference(self.value(first) - self.value(second), low, high, p)

    def _scores(self, counts: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        """Score of each draw: `counts` (draws, n) says how often it holds each row."""
        predicted = np.asarray(predicted).astype(str)
        right = self.y == predicted
        n = counts.sum(axis=1)
        if self.score == "accuracy":
            return np.asarray(counts @ right.astype(np.float32) / n)
        classes = np.unique(np.concatenate([self.y, predicted]))
        true = self.y[:, None] == classes
        guess = predicted[:, None] == classes
        support = counts @ true.astype(np.float32)
        found = counts @ guess.astype(np.float32)
        hits = counts @ (true & right[:, None]).astype(np.float32)
        f1 = 2 * hits / np.maximum(support + found, 1)
        if self.score == "weighted_f1":
            return np.asarray((f1 * support).sum(axis=1) / n)
        occurs = ((support + found) > 0).sum(axis=1)
        return np.asarray(f1.sum(axis=1) / np.maximum(occurs, 1))


def _blocks(draws: int, width: int) -> list[int]:
    block = max(1, _BLOCK // max(width, 1))
    return [min(block, draws - start) for start in range(0, draws, block)]
