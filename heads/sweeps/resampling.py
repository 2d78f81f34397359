"""Paired bootstrap: one draw for all heads, so that their difference is compared and not their luck.

- **Classes are fixed.** A mean runs over the same classes in every draw: those that occur among the true or predicted
  labels of all rows, whether the draw holds them or not.
- **By groups.** Rows of one group, duplicates of one another, are drawn together: they are no independent evidence.
- F1 needs nothing but weighted counts, which are products of matrices. AUROC, average precision, accuracy and log loss go by
  their influence functions; for AUROC that is DeLong's test.
- Draws are made block by block, from the seed and alike every time, and never held all at once: 2,000 draws of 100,000 rows
  are 800 MB.

A score by itself has the interval of `icehouse.heads.metrics`, in closed form.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from ..metrics import influence_of, score

__all__ = ["SCORES", "Difference", "Predicted", "Resampling"]

#: Scores that are taken of predicted classes, by name; the others of `METRICS` need probabilities.
SCORES = ("macro_f1", "accuracy", "weighted_f1")

# Rows times draws held at once: 64 MB as they are drawn, half of that as they are kept.
_BLOCK = 8_000_000


@dataclass(frozen=True)
class Difference:
    """How much one head is better than another, and how sure that is."""

    value: float
    low: float
    high: float
    # Two-sided: twice (k + 1) / (draws + 1) for the k draws on the other side of zero, at most 1; never 0, since `draws`
    # resamples cannot show less (Davison and Hinkley 1997, 4.11).
    p: float


@dataclass(frozen=True)
class Predicted:
    """What one fit predicted of some rows."""

    labels: np.ndarray  # (n,) str
    classes: np.ndarray  # (k,) str
    proba: np.ndarray  # (n, k)

    def __getitem__(self, rows: np.ndarray) -> Predicted:
        return Predicted(self.labels[rows], self.classes, self.proba[rows])


#: Predicted labels alone are enough for `SCORES`.
PredictedOrLabels: TypeAlias = Predicted | np.ndarray


class Resampling:
    """Resampled scores of several heads on the same rows; `score` is a key of `icehouse.heads.metrics.METRICS`."""

    def __init__(
        self,
        y: Sequence[Any] | np.ndarray,
        score: str,
        *,
        draws: int = 2000,
        level: float = 0.95,
        seed: int = 0,
        groups: np.ndarray | None = None,
        positive: str | None = None,
    ) -> None:
        self.y = np.asarray(y).astype(str)
        self.score, self.draws, self.level, self.seed = score, draws, level, seed
        self.positive = positive
        self._groups = None if groups is None else np.unique(groups, return_inverse=True)[1].reshape(-1)
        self._numbers: dict[str, int] = {}
        self._true = self._coded(self.y)
        self._kept: np.ndarray | None = None

    def value(self, predicted: Sequence[PredictedOrLabels]) -> float:
        """Mean score of several predictions (one a seed) on the rows as they are; NaN where it is not defined."""
        once = np.ones((1, len(self.y)), np.float32)
        return float(np.mean([self._scores(once, self._prepared(one))[0] for one in predicted]))

    def with_interval(self, predicted: Sequence[PredictedOrLabels]) -> tuple[float, float, float]:
        """The same with its interval: value, low, high; of several predictions the mean of the intervals.

        Errors of several seeds on the same rows go together, and do not cancel.
        """
        found = []
        for one in predicted:
            if not isinstance(one, Predicted):
                labels = np.asarray(one).astype(str)
                classes = np.unique(np.concatenate([labels, self.y]))
                one = Predicted(labels, classes, (labels[:, None] == classes).astype(np.float64))
            scores = score(
                self.y,
                one.proba,
                one.classes,
                positive=self.positive if self.score == "average_precision" else None,
                groups=self._groups,
                level=self.level,
                only=self.score,
            )[self.score]
            ends = (scores["value"], scores["low"], scores["high"])
            found.append([np.nan if end is None else end for end in ends])
        value, low, high = np.mean(found, axis=0).tolist()
        return value, low, high

    def samples(self, heads: Iterable[Sequence[PredictedOrLabels]]) -> np.ndarray:
        """Score of every draw, for several heads: shape (heads, draws). All heads see the same draws."""
        ready = [[self._prepared(one) for one in predicted] for predicted in heads]
        parts = [
            np.stack([np.mean([self._scores(weights, one) for one in head], axis=0) for head in ready])
            for weights in self.weights()
        ]
        return np.concatenate(parts, axis=1) if parts else np.zeros((len(ready), 0))

    def sample(self, predicted: Sequence[PredictedOrLabels]) -> np.ndarray:
        """The same for one head: shape (draws,)."""
        return np.asarray(self.samples([predicted])[0])

    def interval(self, sample: np.ndarray) -> tuple[float, float]:
        """Percentile interval of a sample."""
        tail = (1 - self.level) / 2
        low, high = np.quantile(sample, [tail, 1 - tail])
        return float(low), float(high)

    def difference(
        self, first: Sequence[PredictedOrLabels], second: Sequence[PredictedOrLabels]
    ) -> Difference:
        """`first` minus `second`, on the same draws."""
        one, other = self.samples([first, second])
        return self.between(self.value(first) - self.value(second), one - other)

    def between(self, value: float, sample: np.ndarray) -> Difference:
        """A difference, from its value and what it is in every draw."""
        low, high = self.interval(sample)
        k = min(int((sample <= 0).sum()), int((sample >= 0).sum()))
        p = min(1.0, 2 * (k + 1) / (len(sample) + 1))
        return Difference(value, low, high, p)

    def weights(self) -> Iterator[np.ndarray]:
        """Weight of each row in each draw, of mean one, float32 (some draws, n): always the same draws."""
        n = len(self.y)
        if self._kept is not None:
            yield self._kept
            return
        rng = np.random.default_rng(self.seed)
        count = n if self._groups is None else int(self._groups.max()) + 1
        block = max(1, _BLOCK // max(n, 1))
        for start in range(0, self.draws, block):
            size = min(block, self.draws - start)
            weights = rng.multinomial(count, np.full(count, 1 / count), size=size).astype(np.float32)
            if self._groups is not None:
                weights = weights[:, self._groups]
            weights *= n / weights.sum(axis=1, keepdims=True)
            if size == self.draws:
                self._kept = weights  # one block is little enough to keep
            yield weights

    def _coded(self, labels: np.ndarray) -> np.ndarray:
        """Labels as numbers, the same for all predictions: int32, (n,)."""
        known, place = np.unique(np.asarray(labels).astype(str), return_inverse=True)
        numbers = [self._numbers.setdefault(label, len(self._numbers)) for label in known.tolist()]
        return np.array(numbers, np.int32)[place.reshape(-1)]

    def _prepared(self, one: PredictedOrLabels) -> np.ndarray | tuple[float, np.ndarray]:
        """Predicted labels as numbers, or a value with what each row adds to it where the score is linear in weights."""
        if self.score in ("macro_f1", "weighted_f1", "accuracy"):
            coded = self._coded(one.labels if isinstance(one, Predicted) else one)
            if self.score != "accuracy":
                return coded
            right = (coded == self._true).astype(np.float64)
            return float(right.mean()), (right - right.mean()) / len(right)
        if not isinstance(one, Predicted):
            raise TypeError(f"{self.score} needs probabilities, not labels alone")
        return influence_of(self.score, self.y, one.proba, one.classes, self.positive)

    def _scores(self, weights: np.ndarray, ready: np.ndarray | tuple[float, np.ndarray]) -> np.ndarray:
        """Score of each draw: `weights` (draws, n) says how much of each row it holds."""
        if isinstance(ready, tuple):
            value, influence = ready
            return np.asarray(value + weights @ influence.astype(np.float32))
        classes = np.unique(np.concatenate([self._true, ready]))
        true = self._true[:, None] == classes
        guess = ready[:, None] == classes
        support = weights @ true.astype(np.float32)
        found = weights @ guess.astype(np.float32)
        hits = weights @ (true & guess).astype(np.float32)
        f1 = 2 * hits / np.maximum(support + found, 1e-6)
        if self.score == "weighted_f1":
            return np.asarray((f1 * support).sum(axis=1) / support.sum(axis=1))
        return np.asarray(f1.mean(axis=1))
