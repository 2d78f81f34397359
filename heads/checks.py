"""Checks behind the `Head` contract: labels, weights, JSON, hints for the misspelt, memory."""

from __future__ import annotations

import ast
import inspect
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence, Set
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np

from ..data.images import available_memory
from ..errors import HeadError, UsageError
from .inputs import InputError

__all__ = [
    "Footprint",
    "ParameterError",
    "check_kinds",
    "check_memory",
    "did_you_mean",
    "labels_of",
    "plain",
    "same",
    "scoring_bytes",
    "weights_of",
]

# What an annotation is called in a message.
_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a text",
    "None": "none",
}
_SEVERAL = {"int": "several whole numbers", "float": "several numbers", "str": "several texts"}


class ParameterError(UsageError, TypeError, ValueError):
    """A parameter that a head does not have, or a value that it cannot take."""


def check_kinds(kind: type, params: Mapping[str, Any]) -> None:
    """Refuse parameters of another type than the annotations of ``__init__`` say, its own and those it inherits.

    Checked are annotations made of ``int``, ``float``, ``bool``, ``str``, ``None``, ``Sequence`` of these and ``Literal``; a
    parameter with any other annotation, or one of nothing but ``Literal``, is its family's to check.

    Parameters
    ----------
    kind : type
        Class of a head.
    params : mapping of str to value

    Raises
    ------
    ParameterError
        That says what the parameter takes, and its default.
    """
    for base in kind.__mro__:
        if "__init__" not in vars(base):
            continue
        for name, given in inspect.signature(vars(base)["__init__"]).parameters.items():
            parts = _union(given.annotation)
            if name not in params or not parts or all(part.startswith("Literal") for part in parts):
                continue
            params = {**params}
            value = params.pop(name)  # what the nearest class says of it counts
            if not any(_fits(value, part) for part in parts):
                *others, last = [_described(part) for part in parts]
                takes = f"{', '.join(others)} or {last}" if others else last
                raise ParameterError(
                    f"{name} must be {takes}, not {value!r}; its default is {given.default!r}"
                )


def _union(annotation: Any) -> list[str]:
    """Parts of an annotation, if every one of them can be checked."""
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    parts = [part.strip() for part in re.split(r"\|(?![^\[]*\])", text)]
    checked = r"int|float|bool|str|None|Sequence\[(int|float|str)\]|Literal\[.*\]"
    return parts if all(re.fullmatch(checked, part) for part in parts) else []


def _fits(value: Any, part: str) -> bool:
    if part.startswith("Literal"):
        return any(type(value) is type(known) and value == known for known in _literals(part))
    if part.startswith("Sequence"):
        of = part[len("Sequence[") : -1]
        several = isinstance(value, (Sequence, Set, np.ndarray)) and not isinstance(value, (str, bytes))
        return several and all(_fits(one, of) for one in value)
    if isinstance(value, (bool, np.bool_)):
        return part == "bool"
    if part == "None":
        return value is None
    return isinstance(value, {"int": Integral, "float": Real, "str": str}.get(part, ()))


def _described(part: str) -> str:
    if part.startswith("Literal"):
        return ", ".join(map(repr, _literals(part)))
    return _SEVERAL[part[len("Sequence[") : -1]] if part.startswith("Sequence") else _WORDS[part]


def _literals(part: str) -> tuple[Any, ...]:
    found: tuple[Any, ...] = ast.literal_eval(f"({part[len('Literal[') : -1]},)")
    return found


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


# An estimate counts the largest arrays that are held at a time, whose sizes are known beforehand. It is right
# within a factor
# of about two, and never asks for what is less than half a gigabyte.


# What is never asked for, and the share of the free memory that may be used.
_LITTLE, _SHARE = 1 << 29, 0.9
# Arrays of rows × classes, of 8 bytes a number, that predicting and scoring hold at a time.
_SCORED = 4


class Footprint(NamedTuple):
    """Arrays that a fit holds at a time, as multiples of 8 bytes.

    Attributes
    ----------
    rows : float
        Of training rows × classes.
    dev : float
        Of dev rows × classes.
    weights : float
        Of features × classes.
    pairs : float
        Of classes × classes.
    """

    rows: float = 0.0
    dev: float = _SCORED
    weights: float = 0.0
    pairs: float = 0.0

    def bytes(self, rows: int, dev: int, features: int, classes: int) -> int:
        """Estimate for so many rows, features and classes; the features of the rows themselves are held three times."""
        by_class = self.rows * rows + self.dev * dev + self.weights * features + self.pairs * classes
        return int(8 * (classes * by_class + 3 * rows * features))


def scoring_bytes(rows: int, classes: int) -> int:
    """Estimate for predicting so many rows and scoring the predictions."""
    return 8 * _SCORED * rows * classes


def check_memory(needed: int, what: str, remedy: str) -> None:
    """Refuse what does not fit into the memory that is free.

    Parameters
    ----------
    needed : int
        Bytes.
    what : str
        What needs them, for the message.
    remedy : str
        What to do instead.

    Raises
    ------
    HeadError
        If it does not fit; the message has the estimate and what is free.
    """
    if needed < _LITTLE:
        return
    free = available_memory()
    if free is not None and needed > _SHARE * free:
        raise HeadError(
            f"{what} would need about {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free: {remedy}"
        )
