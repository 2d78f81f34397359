"""Checks and small conversions behind the `Head` contract: labels, weights, JSON, and hints for the misspelt."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

import numpy as np

from ..errors import UsageError
from .inputs import InputError

__all__ = ["ParameterError", "did_you_mean", "labels_of", "plain", "same", "weights_of"]


class ParameterError(UsageError, TypeError, ValueError):
    """A parameter that a head does not have, or a value that it cannot take."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Hint that ends in a question mark, or nothing where no name is near."""
    near = get_close_matches(name.lower(), list(known), n=1, cutoff=0.6)
    return f" did you mean {near[0]!r}?" if near else ""


def labels_of(y: Any, n: int) -> np.ndarray:
    """Labels as a flat array of int, str, float (whole numbers) or bool."""
    if y is None:
        raise InputError("requires y to be passed, but the target y is None")
    labels = np.asarray(y)
    if labels.ndim == 2 and labels.shape[1] == 1:
        from sklearn.exceptions import DataConversionWarning

        warnings.warn(
            "A column-vector y was passed when a 1d array was expected: pass y.ravel()",
            DataConversionWarning,
            stacklevel=3,
        )
        labels = labels.reshape(-1)
    if labels.ndim != 1:
        raise InputError(f"labels have shape {labels.shape}; expected ({n},)")
    if len(labels) != n:
        raise InputError(f"there are {n} rows of features and {len(labels)} labels")
    if labels.dtype.kind == "O":
        kinds = {type(label) for label in labels.tolist()}
        if not kinds <= {str} and not kinds <= {int} and not kinds <= {bool}:
            names = ", ".join(sorted(kind.__name__ for kind in kinds))
            raise InputError(f"labels must all be strings or all be whole numbers; found {names}")
        labels = np.array(labels.tolist())
    if labels.dtype.kind == "f":
        if not np.isfinite(labels).all():
            raise InputError("labels contain NaN or infinity: leave rows without a label out")
        if (labels != np.round(labels)).any():
            raise InputError(
                "Unknown label type: continuous numbers; heads learn classes, so give strings or whole numbers"
            )
    return labels


def weights_of(sample_weight: Any, n: int) -> np.ndarray | None:
    """Weights as float64 of shape (n,), each finite and not negative."""
    if sample_weight is None:
        return None
    weight = np.asarray(sample_weight, np.float64)
    if weight.ndim == 0:
        weight = np.full(n, float(weight))
    if weight.ndim != 1:
        raise InputError("Sample weights must be 1D array or scalar")
    if len(weight) != n:
        raise InputError(f"there are {n} rows of features and {len(weight)} sample weights")
    if not np.isfinite(weight).all() or (weight < 0).any():
        raise InputError("sample weights must be finite and not negative")
    return weight


def plain(value: Any) -> Any:
    """Copy of `value` in types that JSON has."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    return value


def same(a: Any, b: Any) -> bool:
    """Whether two parameters are alike, arrays too."""
    return a is b or (type(a) is type(b) and bool(np.all(a == b)))
