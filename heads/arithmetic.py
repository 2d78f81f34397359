"""Arithmetic on rows of features and scores: lengths, centring and scaling, softmax."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from .inputs import Inputs

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
    return X.replaced({name: directions(X.vectors(name)) for name in X.names}) if unit else X


def directions(array: np.ndarray) -> np.ndarray:
    """Rows of unit length; a row of zeros stays as it is."""
    lengths = np.linalg.norm(array, axis=1, keepdims=True)
    return array / np.where(lengths > 0, lengths, 1)


def present_directions(X: Inputs, name: str, mean: np.ndarray | float = 0.0) -> np.ndarray:
    """Unit vectors of an input less `mean`, zeros where a row lacks it: float64, (n, d)."""
    return directions(X.vectors(name).astype(np.float64) - mean) * X.present(name)[:, None]


def bank_of(
    X: Inputs, weight: np.ndarray, *, centre: bool
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Weighted mean of each input, zeros unless rows shall be centred, and directions of its rows from there (float32)."""
    means = {}
    for name in X.names:
        share, array = weight * X.present(name), X.vectors(name)
        centred = centre and share.sum() > 0
        means[name] = share @ array.astype(np.float64) / share.sum() if centred else np.zeros(array.shape[1])
    return means, {name: present_directions(X, name, mean).astype(np.float32) for name, mean in means.items()}


def mean_over_inputs(
    X: Inputs, values: Mapping[str, np.ndarray], shares: Sequence[float] | np.ndarray | None = None
) -> np.ndarray:
    """Mean of the values (n, m) of some inputs, weighted by `shares`, over those that a row has; zeros if it has none."""
    total, held = np.zeros(()), np.zeros(len(X))
    for name, share in zip(values, np.ones(len(values)) if shares is None else shares, strict=True):
        counted = share * X.present(name)
        total = total + counted[:, None] * values[name]
        held += counted
    mean: np.ndarray = total / np.where(held > 0, held, 1)[:, None]
    return mean


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
