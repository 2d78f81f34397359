"""Model selection: criteria on dev, the best of a curve, and rows held out where there is no dev split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..data.splits import stratified_split
from .inputs import Inputs, Tokens

#: Share of each class that is held out.
SHARE = 0.2


def criteria(y: np.ndarray, proba: np.ndarray, by_class: np.ndarray | None = None) -> dict[str, float]:
    """Log loss and accuracy, weighted by class (k,), and macro-F1, of codes (n,) and probabilities (n, k)."""
    return criteria_of(y, proba[np.arange(len(y)), y], proba.argmax(axis=1), proba.shape[1], by_class)


def criteria_of(
    y: np.ndarray, at: np.ndarray, predicted: np.ndarray, k: int, by_class: np.ndarray | None = None
) -> dict[str, float]:
    """The same from each row's probability of its own class and its likeliest class, of `k` classes."""
    weight = np.ones(len(y)) if by_class is None else by_class[y]
    at = np.clip(at, np.finfo(np.float64).eps, 1.0)
    hits = np.bincount(y[predicted == y], minlength=k)
    marks = np.bincount(y, minlength=k) + np.bincount(predicted, minlength=k)
    return {
        "log_loss": float(np.average(-np.log(at), weights=weight)),
        "accuracy": float(np.average(predicted == y, weights=weight)),
        "macro_f1": float((2 * hits[marks > 0] / marks[marks > 0]).mean()),
    }


class Choice:
    """The best row of a curve by a criterion, equal scores decided by log loss, and whether to go on along the curve.

    Accuracy and macro-F1 are step functions: they rest where a head still answers with one class. So a row counts against
    `patience` only if its score is below the best and its log loss is no better than the lowest; a plateau ends nothing,
    unless nothing can be better than it. `best` is a score (the larger the better) and a negative log loss; `waited`, the
    rows without progress since the last one with some.
    """

    def __init__(self, select: str, patience: int | None = None) -> None:
        self.select, self.patience = select, patience
        self.best: tuple[float, float] | None = None
        self.waited = 0
        self._lowest = np.inf

    def offer(self, row: Mapping[str, Any]) -> bool:
        """Take the next row of the curve; say whether it is the best so far."""
        loss = float(row["log_loss"])
        score = -loss if self.select == "log_loss" else float(row[self.select])
        better = self.best is None or (score, -loss) > self.best
        highest = 0.0 if self.select == "log_loss" else 1.0
        tied = self.best is not None and score == self.best[0] < highest
        if better or loss < self._lowest:
            self.waited = 0
        elif not tied:
            self.waited += 1
        if better:
            self.best = score, -loss
        self._lowest = min(self._lowest, loss)
        return better

    @property
    def exhausted(self) -> bool:
        """Whether `patience` has run out."""
        return self.patience is not None and self.waited >= self.patience


def held_out(
    y: np.ndarray,
    *,
    ids: Sequence[str] | np.ndarray | None = None,
    groups: np.ndarray | None = None,
    share: float = SHARE,
    seed: int = 0,
) -> np.ndarray | None:
    """Rows to hold out, bool (n,): about `share` of every class, whole groups only; None if a class would lose all rows.

    Which rows follows from `seed` and their `ids` (their numbers by default).
    """
    names = [str(i) for i in range(len(y))] if ids is None else list(ids)
    shares = {"train": 1 - share, "dev": share}
    split = stratified_split(
        names, [str(label) for label in y.tolist()], shares, seed, None if groups is None else groups.tolist()
    )
    part = split == "dev"
    return part if part.any() and set(y[~part].tolist()) == set(y.tolist()) else None


def same_rows(X: Inputs) -> np.ndarray:
    """Number of each row's group: rows whose vectors are equal, bit for bit, are one group; rows of tokens are their own."""
    if any(isinstance(array, Tokens) or array.ndim != 2 for _, array in X.items()):
        return np.arange(len(X))
    arrays = [np.ascontiguousarray(array) for _, array in X.items()]
    digests = np.array(
        [hash(b"".join(array[row].tobytes() for array in arrays)) for row in range(len(X))], np.int64
    )
    _, first, group = np.unique(digests, return_index=True, return_inverse=True)
    return first[group]  # `hash` differs from process to process, the first row of a group does not


def folds(y: np.ndarray, count: int, *, groups: np.ndarray | None = None, seed: int = 0) -> np.ndarray:
    """Fold of each row, 0 to `count` - 1: classes in proportion, rows of one group in one fold; a fold may be empty."""
    groups = np.arange(len(y)) if groups is None else groups
    _, first, unit = np.unique(groups, return_index=True, return_inverse=True)
    # By their first row, however they are numbered.
    unit, first = np.argsort(np.argsort(first))[unit], np.sort(first)
    rng = np.random.default_rng(seed)
    fold = np.empty(len(first), np.intp)
    start = 0
    for label in np.unique(y):
        units = rng.permutation(np.flatnonzero(y[first] == label))
        # Classes start at different folds, so that small ones do not all miss the same one.
        fold[units] = (start + np.arange(len(units))) % count
        start += len(units)
    return fold[unit]
