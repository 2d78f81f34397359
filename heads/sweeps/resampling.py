"""Paired bootstrap: one draw of rows for all heads, so that their difference is compared and not their luck.

Scores of predicted classes need nothing but counts, and the counts of all draws are products of matrices. Draws are made
block by block, from the seed and alike every time, and never held all at once: 2,000 draws of 100,000 rows are 800 MB.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["SCORES", "Difference", "Resampling"]

#: Scores that are taken of predicted classes, by name.
SCORES = ("macro_f1", "accuracy", "weighted_f1")

# Rows times draws held at once: 64 MB as they are drawn, half of that as they are kept.
_BLOCK = 8_000_000


@dataclass(frozen=True)
class Difference:
    """How much one head is better than another, and how sure that is.

    Attributes
    ----------
    value, low, high : float
        Difference, and its interval.
    p : float
        Two-sided: twice ``(k + 1) / (draws + 1)`` for the k draws on the other side of zero, at most 1; never 0, since
        `draws` resamples cannot show less (Davison and Hinkley 1997, 4.11).
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
        self.score, self.draws, self.level, self.seed = score, draws, level, seed
        self._numbers: dict[str, int] = {}
        self._true = self._coded(self.y)
        self._kept: np.ndarray | None = None

    def value(self, predicted: Sequence[np.ndarray]) -> float:
        """Mean score of several predictions (one a seed) on the rows as they are."""
        once = np.ones((1, len(self.y)), np.float32)
        return float(np.mean([self._scores(once, self._coded(one))[0] for one in predicted]))

    def samples(self, heads: Iterable[Sequence[np.ndarray]]) -> np.ndarray:
        """The same of every draw, for several heads: shape (heads, draws). All heads see the same draws."""
        coded = [[self._coded(one) for one in predicted] for predicted in heads]
        parts = [
            np.stack([np.mean([self._scores(counts, one) for one in head], axis=0) for head in coded])
            for counts in self._blocks()
        ]
        return np.concatenate(parts, axis=1) if parts else np.zeros((len(coded), 0))

    def sample(self, predicted: Sequence[np.ndarray]) -> np.ndarray:
        """The same for one head: shape (draws,)."""
        return np.asarray(self.samples([predicted])[0])

    def interval(self, sample: np.ndarray) -> tuple[float, float]:
        """Percentile interval of a sample."""
        tail = (1 - self.level) / 2
        low, high = np.quantile(sample, [tail, 1 - tail])
        return float(low), float(high)

    def difference(self, first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> Difference:
        """`first` minus `second`, on the same draws."""
        one, other = self.samples([first, second])
        return self.between(self.value(first) - self.value(second), one - other)

    def between(self, value: float, sample: np.ndarray) -> Difference:
        """A difference, from its value and what it is in every draw."""
        low, high = self.interval(sample)
        k = min(int((sample <= 0).sum()), int((sample >= 0).sum()))
        p = min(1.0, 2 * (k + 1) / (len(sample) + 1))
        return Difference(value, low, high, p)

    def _blocks(self) -> Iterator[np.ndarray]:
        """How often each draw holds each row, float32 (some draws, n): always the same draws."""
        n = len(self.y)
        if self._kept is not None:
            yield self._kept
            return
        rng = np.random.default_rng(self.seed)
        block = max(1, _BLOCK // max(n, 1))
        for start in range(0, self.draws, block):
            size = min(block, self.draws - start)
            counts = rng.multinomial(n, np.full(n, 1 / n), size=size).astype(np.float32)
            if size == self.draws:
                self._kept = counts  # one block is little enough to keep
            yield counts

    def _coded(self, labels: np.ndarray) -> np.ndarray:
        """Labels as numbers, the same for all predictions: int32, (n,)."""
        known, place = np.unique(np.asarray(labels).astype(str), return_inverse=True)
        numbers = [self._numbers.setdefault(label, len(self._numbers)) for label in known.tolist()]
        return np.array(numbers, np.int32)[place.reshape(-1)]

    def _scores(self, counts: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        """Score of each draw: `counts` (draws, n) says how often it holds each row, `predicted` is coded."""
        right = self._true == predicted
        n = counts.sum(axis=1)
        if self.score == "accuracy":
            return np.asarray(counts @ right.astype(np.float32) / n)
        # A class that neither occurs nor is predicted has no counts, and so no part in a mean.
        classes = np.unique(np.concatenate([self._true, predicted]))
        true = self._true[:, None] == classes
        guess = predicted[:, None] == classes
        support = counts @ true.astype(np.float32)
        found = counts @ guess.astype(np.float32)
        hits = counts @ (true & right[:, None]).astype(np.float32)
        f1 = 2 * hits / np.maximum(support + found, 1)
        if self.score == "weighted_f1":
            return np.asarray((f1 * support).sum(axis=1) / n)
        occurs = ((support + found) > 0).sum(axis=1)
        return np.asarray(f1.sum(axis=1) / np.maximum(occurs, 1))
