"""Arithmetic that several families share: lengths, scales, gaps, probabilities, criteria of a choice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

from .checks import ParameterError
from .inputs import Inputs

__all__ = [
    "CHUNK",
    "Choice",
    "ClassWeight",
    "class_weights",
    "criteria",
    "criteria_of",
    "directions",
    "filled",
    "grid_of",
    "log_softmax",
    "pieces",
    "shares_of",
    "simplex",
    "softmax",
    "standardised",
    "statistics",
    "unit_length",
]

#: How classes are weighed: alike, by the inverse of their frequency, or as given.
ClassWeight: TypeAlias = Mapping[Any, float] | Literal["balanced"] | None

#: Rows handled at a time, which bounds the memory of float64 copies.
CHUNK = 16_384

# Smallest scale of a feature, as a share of that of the whole input.
_FLOOR = 1e-3


def pieces(X: Inputs, rows: int = CHUNK) -> Iterator[Inputs]:
    """`X` in parts of at most `rows` rows."""
    for start in range(0, len(X), rows):
        yield X[start : start + rows]


def unit_length(X: Inputs, unit: bool = True) -> Inputs:
    """The same rows, with unit length in each input if `unit`; a row of zeros stays as it is."""
    if not unit:
        return X
    arrays = {name: directions(X.vectors(name)) for name in X.names}
    return Inputs(arrays, {name: X.present(name) for name in X.names})


def directions(array: np.ndarray) -> np.ndarray:
    """Rows of unit length; a row of zeros stays as it is."""
    lengths = np.linalg.norm(array, axis=1, keepdims=True)
    return array / np.where(lengths > 0, lengths, 1)


def statistics(
    X: Inputs, weight: np.ndarray, *, by_feature: bool = False
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Mean of each input, and what to divide its features by: (d,) each, over the rows that have the input.

    Either way an input's rows then have a mean square length of one.
    """
    means: dict[str, np.ndarray] = {}
    scales: dict[str, np.ndarray] = {}
    for name in X.names:
        array = X.vectors(name)
        share = weight * X.present(name)
        total = share.sum()
        share = share / total if total > 0 else share
        values = np.asarray(array, np.float64 if array.dtype.itemsize > 4 else np.float32)
        mean = share.astype(values.dtype) @ values
        variance = share @ np.square(values - mean)
        length = float(np.sqrt(variance.sum()))
        scale = np.full(len(mean), length)
        if by_feature:
            # A feature that hardly varies is noise, and stays small.
            scale = np.maximum(np.sqrt(variance * len(mean)), _FLOOR * length)
        means[name] = mean.astype(np.float64)
        scales[name] = scale if length > 1e-12 else np.ones(len(mean))
    return means, scales


def standardised(X: Inputs, means: Mapping[str, np.ndarray], scales: Mapping[str, np.ndarray]) -> np.ndarray:
    """All inputs side by side, centred and scaled: float32 unless an input came in float64."""
    dtype = np.float32 if all(X.vectors(name).dtype.itemsize <= 4 for name in X.names) else np.float64
    Z = np.empty(X.shape, dtype)
    start = 0
    for name, width in X.widths.items():
        block = Z[:, start : start + width]
        np.subtract(filled(X, name, means), means[name].astype(dtype), out=block)
        block /= scales[name].astype(dtype)
        start += width
    return Z


def filled(X: Inputs, name: str, means: Mapping[str, np.ndarray]) -> np.ndarray:
    """Array of an input, with the mean of training in the rows that lack it."""
    array = X.vectors(name)
    present = X.present(name)
    return array if present.all() else np.where(present[:, None], array, means[name].astype(array.dtype))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities of each row's logits: shape (n, k)."""
    logits = logits - logits.max(axis=1, keepdims=True)
    np.exp(logits, out=logits)
    return logits / logits.sum(axis=1, keepdims=True)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Logarithms of `softmax`, without its underflow."""
    logits = logits - logits.max(axis=1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def criteria(y: np.ndarray, proba: np.ndarray, by_class: np.ndarray | None = None) -> dict[str, float]:
    """Log loss, accuracy (both weighted by class) and macro-F1.

    Parameters
    ----------
    y : ndarray of int, shape (n,)
        Codes of the classes.
    proba : ndarray of float, shape (n, k)
    by_class : ndarray of float, shape (k,), optional
        Weight of each class.
    """
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
    """The best row of a curve by a criterion, and whether to go on along the curve.

    Equal scores are decided by log loss. Accuracy and macro-F1 are step functions: they rest where a head still answers
    with one class. So a row counts against `patience` only if its score is below the best and its log loss is no better
    than the lowest; a plateau ends nothing, unless nothing can be better than it.

    Parameters
    ----------
    select : {"log_loss", "accuracy", "macro_f1"}
    patience : int, optional
        Rows without progress after which the curve is `exhausted`; None for never.

    Attributes
    ----------
    best : tuple of float or None
        Score of the best row (the larger the better) and its negative log loss; None before the first row.
    waited : int
        Rows without progress since the last one with some.
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


def class_weights(
    class_weight: ClassWeight, classes: np.ndarray, y: np.ndarray, sample_weight: np.ndarray | None = None
) -> np.ndarray:
    """Weight of each class: shape (k,).

    Raises
    ------
    ParameterError
        If `class_weight` is a string other than "balanced".
    """
    k = len(classes)
    if class_weight is None:
        return np.ones(k)
    if isinstance(class_weight, str):
        if class_weight != "balanced":
            raise ParameterError(f"class_weight must be None, 'balanced' or a mapping, not {class_weight!r}")
        counts = np.bincount(y, weights=sample_weight, minlength=k)
        return counts.sum() / (k * counts)
    # JSON has only strings for keys, so a mapping that comes back from a file is looked up by those too.
    given = {str(label): float(value) for label, value in class_weight.items()}
    return np.array([given.get(str(label), 1.0) for label in classes.tolist()])


def grid_of(name: str, value: Any, auto: Sequence[float]) -> list[float]:
    """Values of a positive parameter that is "auto", a number or several: sorted, without repeats.

    Raises
    ------
    ParameterError
        If one is not positive and finite.
    """
    values: Any = auto if isinstance(value, str) and value == "auto" else value
    if isinstance(values, (int, float, np.number)):
        values = [values]
    try:
        grid = sorted({float(number) for number in values})
    except (TypeError, ValueError):
        raise ParameterError(f"{name} must be 'auto', a number or several numbers, not {value!r}") from None
    if not grid or not all(0 < number < np.inf for number in grid):
        raise ParameterError(f"{name} must be positive and finite, not {value!r}")
    return grid


def shares_of(name: str, value: Any, inputs: Sequence[str], steps: int) -> list[tuple[float, ...]]:
    """Ways to share one among the inputs, from a parameter that is "auto", None or one weight an input.

    Parameters
    ----------
    name : str
        Of the parameter, for messages.
    value : "auto", None or sequence of float
        "auto" gives all ways in multiples of ``1 / steps``; None weighs the inputs alike.
    inputs : sequence of str
        Names of the inputs.
    steps : int

    Raises
    ------
    ParameterError
        If the weights are not one for each input, not negative, and one of them above zero.
    """
    if isinstance(value, str) and value == "auto":
        return simplex(len(inputs), steps)
    try:
        given = [1.0] * len(inputs) if value is None else [float(weight) for weight in value]
    except (TypeError, ValueError):
        given = []
    if len(given) != len(inputs) or not all(0 <= w < np.inf for w in given) or sum(given) <= 0:
        raise ParameterError(
            f"{name} must be 'auto', none, or one weight for each of {', '.join(inputs)}, not {value!r}"
        )
    return [tuple(weight / sum(given) for weight in given)]


def simplex(parts: int, steps: int) -> list[tuple[float, ...]]:
    """All ways to share one among `parts` in multiples of ``1 / steps``, each part getting some; the most even first."""
    if parts == 1:
        return [(1.0,)]
    steps = max(steps, parts)

    def shares(left: int, among: int) -> Iterator[tuple[int, ...]]:
        if among == 1:
            yield (left,)
            return
        for first in range(1, left - among + 2):
            for rest in shares(left - first, among - 1):
                yield first, *rest

    ways = sorted(shares(steps, parts), key=lambda way: (sum(share * share for share in way), way))
    return [tuple(share / steps for share in way) for way in ways]
