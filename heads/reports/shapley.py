"""Exact Shapley values over the inputs of a head."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from ..head import Head
from ..inputs import Array, Inputs, Tokens

__all__ = ["LEAST", "shapley", "training_means"]

#: A probability below this is taken for it, so that a head that is certain has finite log-odds.
LEAST = 1e-6


def shapley(head: Head, X: Inputs, means: Mapping[str, Array]) -> list[dict[str, Any]]:
    """What each input adds to each row's prediction.

    Parameters
    ----------
    head : Head
        Fitted.
    X : Inputs
        n rows.
    means : mapping of str to array
        Input to what stands for it where it is not known; see `training_means`.

    Returns
    -------
    list of dict
        For each row ``base`` and ``contributions`` (by input), each with ``probability`` of the predicted class and
        ``log_odds`` of it against the runner-up. An input that a row lacks contributes nothing.
    """
    names = list(head.widths_)
    X = X.select(names)
    whole = np.asarray(head.predict_proba(X), np.float64)
    order = np.argsort(-whole, axis=1, kind="stable")
    first, second = order[:, 0], order[:, 1]
    rows = np.arange(len(X))
    worth: dict[frozenset[str], np.ndarray] = {}
    for size in range(len(names) + 1):
        for known in combinations(names, size):
            proba = (
                whole
                if size == len(names)
                else np.asarray(head.predict_proba(_masked(X, known, means)), float)
            )
            at, other = proba[rows, first], proba[rows, second]
            odds = np.log(np.maximum(at, LEAST)) - np.log(np.maximum(other, LEAST))
            worth[frozenset(known)] = np.stack([at, odds])  # 2 n
    n = len(names)
    values = {}
    for name in names:
        others = [other for other in names if other != name]
        total = np.zeros((2, len(X)))
        for size in range(n):
            share = math.factorial(size) * math.factorial(n - size - 1) / math.factorial(n)
            for known in combinations(others, size):
                total += share * (worth[frozenset((*known, name))] - worth[frozenset(known)])
        values[name] = total
    base = worth[frozenset()]
    scales = ("probability", "log_odds")
    return [
        {
            "base": {scale: float(base[i, row]) for i, scale in enumerate(scales)},
            "contributions": {
                name: {scale: float(value[i, row]) for i, scale in enumerate(scales)}
                for name, value in values.items()
            },
        }
        for row in range(len(X))
    ]


def training_means(X: Inputs) -> dict[str, Array]:
    """Mean of each input over the rows that have it: (1, d), or `Tokens` of one row and one token, the mean of all."""
    means: dict[str, Array] = {}
    for name, array in X.items():
        if isinstance(array, Tokens):
            count = array.mask.sum(axis=1)
            mean = count @ array.means() / max(int(count.sum()), 1)
            means[name] = Tokens(mean[None, None].astype(np.float32), np.ones((1, 1), bool))
        else:
            present = X.present(name)
            means[name] = array[present].mean(axis=0, keepdims=True) if present.any() else array[:1] * 0
    return means


def _masked(X: Inputs, known: Sequence[str], means: Mapping[str, Array]) -> Inputs:
    """`X` with the inputs that are not `known` at their means, in the rows that have them."""
    arrays: dict[str, Array] = {}
    for name, array in X.items():
        present = X.present(name)
        mean = means[name]
        if name in known:
            arrays[name] = array
        elif isinstance(array, Tokens) and isinstance(mean, Tokens):
            values, mask = np.zeros_like(array.values), np.zeros_like(array.mask)
            values[:, 0] = mean.values[0, 0]
            mask[:, 0] = True
            kept = ~present
            values[kept], mask[kept] = array.values[kept], array.mask[kept]
            arrays[name] = Tokens(values, mask)
        else:
            arrays[name] = np.where(
                present[:, None], np.asarray(mean, X.vectors(name).dtype), X.vectors(name)
            )
    return Inputs(arrays, {name: X.present(name) for name in X.names if not X.present(name).all()})
