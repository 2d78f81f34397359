"""Inputs of a head: named arrays or token states over the same rows; samples, rows of a store with their inputs and labels.

`Inputs` is what makes a mapping of arrays acceptable to scikit-learn's splitters: it has a length (rows), a shape, and
takes row indices, so `GridSearchCV` and `cross_val_score` cut it as they cut a matrix. `Samples` are aligned by item.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from ..data.labels import near_identical
from ..data.splits import canonical_split
from ..errors import HeadError, UsageError, count_of, unknown_name
from ..store.vectors import TokenStates, Vectors, pad_tokens, take_float32

if TYPE_CHECKING:
    import pyarrow as pa

    from ..store.store import Store

#: Name of the only input where a plain array is given instead of a mapping.
SINGLE = "x"

# Numbers that are looked at together where all rows are passed over.
_BLOCK = 2**23

#: Rows handled at a time, which bounds the memory of float64 copies.
CHUNK = 16_384

# Smallest scale of a feature, as a share of that of the whole input.
_FLOOR = 1e-3


class Tokens:
    """Token states of some rows.

    Parameters
    ----------
    values : ndarray of float, shape (n, t, d)
    mask : ndarray of bool, shape (n, t)
        True where a token is real; what lies under False is zero and must not matter.
    """

    def __init__(self, values: np.ndarray, mask: np.ndarray) -> None:
        self._values = values
        self._mask = mask

    @property
    def values(self) -> np.ndarray:
        """All of them, padded: (n, t, d)."""
        return self._values

    @property
    def mask(self) -> np.ndarray:
        """True where a token is real: (n, t)."""
        return self._mask

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows, tokens, width."""
        return self.values.shape

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> Tokens:
        return Tokens(self.values[rows], self.mask[rows])

    def take(self, rows: Any) -> tuple[np.ndarray, np.ndarray]:
        """Values (m, t', d) and mask (m, t') of some rows, no further than the longest of them; t' is at least 1."""
        mask = self.mask[rows]
        used = np.flatnonzero(mask.any(axis=0))
        length = int(used[-1]) + 1 if len(used) else 1
        return self.values[rows, :length], mask[:, :length]

    def blocks(self) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """All rows in order, some at a time: which, their values and their mask."""
        step = max(1, _BLOCK // max(1, self.shape[1] * self.shape[2]))
        for start in range(0, len(self), step):
            rows = slice(start, min(start + step, len(self)))
            yield rows, *self.take(rows)

    def means(self) -> np.ndarray:
        """Mean of each row's real tokens, zero where there are none: float32, (n, d)."""
        found = np.zeros((len(self), self.shape[2]), np.float32)
        for rows, values, mask in self.blocks():
            share = mask / np.maximum(mask.sum(axis=1, keepdims=True), 1)
            found[rows] = np.einsum("ntd,nt->nd", values, share.astype(np.float32))
        return found

    def bad_rows(self) -> np.ndarray:
        """Rows with NaN or infinity: int, (m,)."""
        bad = [
            rows.start + np.flatnonzero(~np.isfinite(values).all(axis=(1, 2)))
            for rows, values, _ in self.blocks()
        ]
        return np.concatenate(bad) if bad else np.empty(0, np.intp)


class StoredTokens(Tokens):
    """Token states (tokens, d) one after the other, as a store keeps and maps them; rows are gathered when asked for.

    `starts` and `lengths` are each row's range; `longest` is t of `shape`, and parts of an array keep that of the whole.
    """

    def __init__(
        self, states: np.ndarray, starts: np.ndarray, lengths: np.ndarray, longest: int | None = None
    ) -> None:
        self.states = states
        self.starts = starts
        self.lengths = lengths
        self.longest = int(max(lengths.max(initial=1), 1)) if longest is None else longest

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows, tokens, width."""
        return len(self.starts), self.longest, self.states.shape[1]

    @property
    def values(self) -> np.ndarray:
        """All of it, padded, as float32: (n, t, d). Large; `take` and `blocks` give a part."""
        return pad_tokens(self.states, self.starts, self.lengths, self.longest)[0]

    @property
    def mask(self) -> np.ndarray:
        """True where a token is real: (n, t)."""
        mask: np.ndarray = np.arange(self.longest) < self.lengths[:, None]
        return mask

    def __getitem__(self, rows: Any) -> StoredTokens:
        return StoredTokens(self.states, self.starts[rows], self.lengths[rows], self.longest)

    def take(self, rows: Any) -> tuple[np.ndarray, np.ndarray]:
        """Values (m, t', d), float32, and mask (m, t') of some rows, no further than the longest of them."""
        starts, lengths = self.starts[rows], self.lengths[rows]
        return pad_tokens(self.states, starts, lengths, int(lengths.max(initial=1)) or 1)

    def __repr__(self) -> str:
        return f"StoredTokens({'×'.join(map(str, self.shape))})"


class InputError(HeadError, ValueError):
    """Features or labels that a head cannot take; a `ValueError` too, as scikit-learn expects."""


class InputTypeError(InputError, TypeError):
    """Something that is no array at all."""


Array: TypeAlias = np.ndarray | Tokens
#: Labels or groups of rows, and weights of rows.
Labels: TypeAlias = Sequence[Any] | np.ndarray
Weights: TypeAlias = Sequence[float] | np.ndarray


class Inputs:
    """Arrays by input name, over the same rows.

    Parameters
    ----------
    arrays : mapping of str to array
        For each input (``image``, ``text``, ``caption``) an (n, d) array, or tokens: anything with ``values``
        (n, t, d) and ``mask`` (n, t).
    present : mapping of str to ndarray of bool, shape (n,), optional
        For each input that some rows lack: True where the row has it. A row that lacks an input holds zeros
        there. Only heads that say `handles_missing` take such rows.

    Examples
    --------
    >>> import numpy as np
    >>> X = Inputs({"image": np.zeros((4, 8)), "text": np.ones((4, 3))})
    >>> len(X), X.shape, X.names
    (4, (4, 11), ('image', 'text'))
    >>> X[[0, 2]]["text"].shape
    (2, 3)
    """

    def __init__(self, arrays: Mapping[str, Any], present: Mapping[str, np.ndarray] | None = None) -> None:
        if not arrays:
            raise InputError("no input given: a head needs at least one, such as image or text")
        self._arrays = {name: _as_array(name, value) for name, value in arrays.items()}
        lengths = {name: len(array) for name, array in self._arrays.items()}
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{name} {n}" for name, n in lengths.items())
            raise InputError(f"inputs differ in their number of rows ({listed}): align them by item first")
        self._n = next(iter(lengths.values()))
        self._present = {name: np.asarray(mask, bool) for name, mask in (present or {}).items()}
        for name, mask in self._present.items():
            if name not in self._arrays or mask.shape != (self._n,):
                raise InputError(
                    f"present[{name!r}] has shape {mask.shape}; expected ({self._n},) for a given input"
                )

    @classmethod
    def of(cls, X: Any) -> Inputs:
        """`X` as `Inputs`: itself, a mapping of arrays, or one array or `Tokens`, which becomes the input ``x``."""
        if isinstance(X, Inputs):
            return X
        if isinstance(X, Mapping) and not hasattr(X, "toarray"):  # SciPy's DOK matrices are mappings too
            return cls(X)
        return cls({SINGLE: X})

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the inputs, in the order given."""
        return tuple(self._arrays)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, and the widths of all inputs together."""
        return self._n, sum(self.widths.values())

    @property
    def widths(self) -> dict[str, int]:
        """Width of each input's vectors (of a token's vector where the input is tokens)."""
        return {name: int(array.shape[-1]) for name, array in self._arrays.items()}

    @property
    def has_missing(self) -> bool:
        """Whether any row lacks any input."""
        return any(not mask.all() for mask in self._present.values())

    def vectors(self, name: str) -> np.ndarray:
        """The (n, d) array of an input, for heads that take no tokens."""
        array = self._arrays[name]
        if isinstance(array, Tokens):
            raise InputError(
                f"input {name!r} is tokens; this needs one vector a row: choose its pooled output"
            )
        return array

    def present(self, name: str) -> np.ndarray:
        """Whether each row has the input `name`: bool, shape (n,)."""
        return self._present.get(name, np.ones(self._n, bool))

    def keys(self) -> tuple[str, ...]:
        """Same as `names`, so that ``dict(inputs)`` works."""
        return self.names

    def items(self) -> Iterator[tuple[str, Array]]:
        """Pairs of name and array."""
        return iter(self._arrays.items())

    def select(self, names: Sequence[str]) -> Inputs:
        """Some of the inputs, in the order of `names`; `HeadError` if one is not there."""
        missing = [name for name in names if name not in self._arrays]
        if missing:
            have = ", ".join(self.names)
            raise InputError(
                f"input {missing[0]!r} is missing; the data has {have}, the head wants {', '.join(names)}"
            )
        arrays = {name: self._arrays[name] for name in names}
        return Inputs(arrays, {name: mask for name, mask in self._present.items() if name in arrays})

    def means(self, name: str) -> np.ndarray:
        """One vector a row of an input, (n, d): itself, or the mean of its tokens."""
        array = self._arrays[name]
        return array.means() if isinstance(array, Tokens) else array

    def replaced(self, arrays: Mapping[str, Any]) -> Inputs:
        """The same rows, of which the same lack an input, with other arrays for some inputs."""
        return Inputs({**self._arrays, **arrays}, self._present)

    def bad_rows(self) -> dict[str, np.ndarray]:
        """Rows with NaN or infinity, by input, for the inputs that have some: int, shape (m,)."""
        found: dict[str, np.ndarray] = {}
        for name, array in self._arrays.items():
            if isinstance(array, Tokens):
                if len(rows := array.bad_rows()):
                    found[name] = rows
                continue
            # A sum of finite terms is finite, but for overflow: only where it is not are all entries looked at.
            with np.errstate(over="ignore", invalid="ignore"):
                finite = np.isfinite(array.sum(dtype=np.float64))
            if not finite and len(rows := np.flatnonzero(~np.isfinite(array).all(axis=1))):
                found[name] = rows
        return found

    def row_groups(self) -> np.ndarray:
        """Group of each row (n,): rows whose vectors are equal, bit for bit, are one group; rows of tokens are their own."""
        if any(isinstance(array, Tokens) for array in self._arrays.values()):
            return np.arange(self._n)
        arrays = [np.ascontiguousarray(array) for array in self._arrays.values()]
        digests = np.array(
            [hash(b"".join(array[row].tobytes() for array in arrays)) for row in range(self._n)], np.int64
        )
        _, first, group = np.unique(digests, return_index=True, return_inverse=True)
        return first[group]  # `hash` differs from process to process, the first row of a group does not

    def complete(self) -> np.ndarray:
        """Rows that have every input: bool, shape (n,)."""
        keep = np.ones(self._n, bool)
        for mask in self._present.values():
            keep &= mask
        return keep

    def __len__(self) -> int:
        return self._n

    def __contains__(self, name: object) -> bool:
        return name in self._arrays

    def __getitem__(self, key: Any) -> Any:
        """The array of an input (`key` a str), or `Inputs` with some of the rows (an index array, a mask, a slice)."""
        if isinstance(key, str):
            try:
                return self._arrays[key]
            except KeyError:
                raise KeyError(f"no input {key!r}; there are {', '.join(self.names)}") from None
        if isinstance(key, tuple):  # scikit-learn indexes rows as array[rows, ...]
            key = key[0]
        if isinstance(key, (int, np.integer)):
            raise TypeError("take rows with a list, a mask or a slice: inputs[[3]], not inputs[3]")
        if not isinstance(key, slice):
            key = np.asarray(key)
            if key.size == 0:
                key = key.astype(np.intp)
        return Inputs(
            {name: array[key] for name, array in self._arrays.items()},
            {name: mask[key] for name, mask in self._present.items()},
        )

    # Rows and names are both things one might expect here; neither is a safe guess.
    __iter__ = None

    def __repr__(self) -> str:
        parts = ", ".join(
            f"{name}: {'×'.join(map(str, array.shape))}" for name, array in self._arrays.items()
        )
        return f"Inputs({parts})"


def concatenate(parts: Sequence[Inputs]) -> Inputs:
    """Rows of `parts` one under the other; all must have the same inputs."""
    first = parts[0]
    parts = [first, *(part.select(first.names) for part in parts[1:])]
    arrays: dict[str, Array] = {}
    for name in first.names:
        columns = [part[name] for part in parts]
        if isinstance(columns[0], Tokens):
            arrays[name] = _concatenate_tokens(columns)
        else:
            arrays[name] = np.concatenate(columns)
    present = {name: np.concatenate([part.present(name) for part in parts]) for name in first.names}
    return Inputs(arrays, {name: mask for name, mask in present.items() if not mask.all()})


def _concatenate_tokens(parts: Sequence[Tokens]) -> Tokens:
    """Rows of `parts` one under the other; ranges of the same states stay ranges."""
    stored = [part for part in parts if isinstance(part, StoredTokens)]
    if len(stored) == len(parts) and all(part.states is stored[0].states for part in stored):
        return StoredTokens(
            stored[0].states,
            np.concatenate([part.starts for part in stored]),
            np.concatenate([part.lengths for part in stored]),
            max(part.longest for part in stored),
        )
    longest = max(part.shape[1] for part in parts)
    values, masks = [], []
    for part in parts:
        more = longest - part.shape[1]
        values.append(np.pad(part.values, ((0, 0), (0, more), (0, 0))))
        masks.append(np.pad(part.mask, ((0, 0), (0, more))))
    return Tokens(np.concatenate(values), np.concatenate(masks))


def _as_array(name: str, value: Any) -> Array:
    """`value` as a float array of two dimensions or as `Tokens`, without a copy where possible."""
    if isinstance(value, StoredTokens):
        return value
    if hasattr(value, "values") and hasattr(value, "mask"):
        values, mask = np.asarray(value.values), np.asarray(value.mask, bool)
        if values.ndim != 3 or mask.shape != values.shape[:2]:
            raise InputError(
                f"tokens of input {name!r} have values {values.shape} and mask {mask.shape}; expected (n, t, d) and (n, t)"
            )
        return Tokens(values, mask)
    if hasattr(value, "toarray"):
        raise InputError(f"input {name!r} is a sparse matrix; heads take dense arrays: pass X.toarray()")
    array = np.asarray(value)
    if np.iscomplexobj(array):
        raise InputError(f"Complex data not supported: input {name!r} is {array.dtype}")
    if array.dtype.kind not in "fiub":
        try:
            array = array.astype(np.float64)
        except TypeError as error:
            raise InputTypeError(f"input {name!r} is not numeric: {error}") from error
        except ValueError as error:
            raise InputError(f"input {name!r} is not numeric: {error}") from error
    if array.ndim != 2:
        raise InputError(
            f"Reshape your data: input {name!r} has shape {array.shape}, expected 2 dimensions (n, d)"
        )
    if array.dtype.kind == "f":
        return array
    return array.astype(np.float32 if array.dtype.itemsize < 4 else np.float64)


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
        raise InputError(f"{count_of(n, 'row')} of features and {count_of(len(labels), 'label')}")
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
        raise InputError(f"{count_of(n, 'row')} of features and {count_of(len(weight), 'sample weight')}")
    if not np.isfinite(weight).all() or (weight < 0).any():
        raise InputError("sample weights must be finite and not negative")
    return weight


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


#: What to do with an item that lacks an input: leave it out, or keep it (for heads that can take it).
Missing: TypeAlias = Literal["drop", "keep"]

# Which output of an encoder an input stands for unless one is named: probes do best before the projection
# into the joint space.
_PREFERRED = ("pooled", "joint")


@dataclass(frozen=True)
class Samples:
    """Rows of a store, aligned by item."""

    ids: np.ndarray  # (n,) item ids, in the order of the table `items`
    X: Inputs
    y: np.ndarray | None  # (n,) labels, if a label was asked for
    split: np.ndarray  # (n,) by its one name ("val" is "dev"); None for an item without
    features: dict[str, str]  # input to feature name
    specs: dict[str, dict[str, Any]]  # input to the spec of its feature table
    content: dict[str, np.ndarray]  # input to (n,) content hashes: equal hashes are copies
    # Input to the number of items that would have been rows, had they had it; one that lacks two counts in both.
    left_out: dict[str, int]
    vanished: int = 0  # items that are left out for being marked `missing`

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: np.ndarray) -> Samples:
        """Some of the rows: `rows` holds indices or is a mask."""
        return replace(
            self,
            ids=self.ids[rows],
            X=self.X[rows],
            y=None if self.y is None else self.y[rows],
            split=self.split[rows],
            content={name: column[rows] for name, column in self.content.items()},
        )

    def of(self, ids: Sequence[str]) -> Samples:
        """The rows of some items, in the order of `ids`; those that are not there are left out."""
        place = {item: row for row, item in enumerate(self.ids.tolist())}
        return self.take(np.array([place[item] for item in ids if item in place], np.intp))

    def select(self, names: Sequence[str]) -> Samples:
        """The same rows with some of their inputs."""

        def some(of: Mapping[str, Any]) -> dict[str, Any]:
            return {name: of[name] for name in names}

        return replace(
            self,
            X=self.X.select(names),
            features=some(self.features),
            specs=some(self.specs),
            content=some(self.content),
            left_out=some(self.left_out),
        )

    def require_finite(self) -> None:
        """Name the item whose features cannot be used, where a head could only give its row."""
        for name, rows in self.X.bad_rows().items():
            raise HeadError(
                f"{self.features[name]} has NaN or infinity for {count_of(len(rows), 'item')}, "
                f"first {self.ids[rows[0]]!r}: embed them again"
            )

    @property
    def labels(self) -> np.ndarray:
        """`y`, for rows that were loaded with a label."""
        if self.y is None:
            raise HeadError("these rows were loaded without a label")
        return self.y


def parse_inputs(inputs: str | Sequence[str] | Mapping[str, str] | None, store: Store) -> dict[str, str]:
    """Feature of each input, by input name (the modality, unless named or used twice).

    An input is a feature (``mini/image/pooled``), a part of one that fits a single feature (``image``, ``image/joint``,
    ``mini/image``; `pooled` before `joint`, and `tokens` only by name), or ``name=feature``; None takes every modality.
    """
    known = store.feature_names()
    if not known:
        raise UsageError(f"{store.path} has no features yet; make some with `icehouse embed`")
    if inputs is None:
        inputs = list(dict.fromkeys(name.split("/")[1] for name in known))
    if isinstance(inputs, Mapping):
        asked = [(str(name), str(feature)) for name, feature in inputs.items()]
    else:
        pieces = inputs.replace("+", ",").split(",") if isinstance(inputs, str) else list(inputs)
        asked = []
        for piece in (piece.strip() for piece in pieces):
            name, equals, feature = piece.partition("=")
            asked.append((name.strip(), feature.strip()) if equals else ("", piece))
    if not asked or not all(feature for _, feature in asked):
        raise UsageError(f"inputs {inputs!r} name nothing; there are: {', '.join(known)}")

    found = [(name, _find(feature, known)) for name, feature in asked]
    modality = Counter(feature.split("/")[1] for name, feature in found if not name)
    named: dict[str, str] = {}
    for name, feature in found:
        kind = feature.split("/")[1]
        name = name or (kind if modality[kind] == 1 else feature)
        if name in named:
            raise UsageError(
                f"input {name!r} is given twice ({named[name]} and {feature}); name one: other={feature}"
            )
        named[name] = feature
    return named


def _find(asked: str, known: Sequence[str]) -> str:
    """The one feature that `asked` stands for: all of its name, or a part of it that holds the modality."""
    fitting: dict[str, str] = {}  # output to feature
    encoders: set[str] = set()
    for name in known:
        encoder, modality, output = name.split("/")
        if asked == name:
            return name
        if asked in (modality, f"{encoder}/{modality}", f"{modality}/{output}"):
            fitting[output] = name
            encoders.add(encoder)
    if len(encoders) > 1:
        choices = ", ".join(f"{encoder}/{asked}" for encoder in sorted(encoders))
        raise UsageError(f"input {asked!r} could be of several encoders; say which: {choices}")
    preferred = [output for output in (*_PREFERRED, *fitting) if output in fitting]
    if len(fitting) == 1 or (fitting and preferred[0] in _PREFERRED):
        return fitting[preferred[0]]
    if fitting:
        raise UsageError(f"input {asked!r} could be any of {', '.join(fitting.values())}; say which")
    words = {part for name in known for part in (name, name.split("/")[1])}
    near = get_close_matches(asked, sorted(words), n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    if asked == "caption":
        hint += " (`icehouse caption`, then `icehouse embed --captions default`, make some)"
    raise UsageError(f"no feature fits the input {asked!r}{hint}; there are: {', '.join(known)}")


def load_samples(
    store: Store,
    inputs: Mapping[str, str],
    *,
    label: str | None = None,
    where: str | None = None,
    split_column: str = "split",
    missing: Missing = "drop",
) -> Samples:
    """Load features and labels, aligned by item.

    `label` leaves out items without one, `missing="drop"` those that lack an input, and `where` (SQL) what it says: items
    marked ``missing`` stay out unless it names that column. HeadError if a column does not exist or no item is left.
    """
    wanted = [split_column] if label is None else [split_column, label]
    keys = {name: str(store.feature_table(feature).spec["key"]) for name, feature in inputs.items()}
    items, vanished = _items(store, [*wanted, *keys.values()], where)
    if label is not None:
        import pyarrow.compute as pc

        labelled = pc.is_valid(items[label])
        items = items.filter(labelled)
    if len(items) == 0:
        gone = (
            f"; {count_of(vanished, 'vanished item counts', 'vanished items count')} only where a condition names `missing`"
            if vanished
            else ""
        )
        raise HeadError(_why_nothing(label, where) + gone)

    found: dict[str, Vectors | TokenStates] = {}
    rows: dict[str, np.ndarray] = {}
    specs = {}
    for name, feature in inputs.items():
        table = store.feature_table(feature)
        specs[name] = table.spec
        tokens = "tokens" in table.snapshot().schema.names
        found[name] = store.tokens(feature) if tokens else store.vectors(feature)
        rows[name] = _row_numbers(items[keys[name]], found[name].keys)
    have = {name: index >= 0 for name, index in rows.items()}
    together = np.logical_and if missing == "drop" else np.logical_or
    kept = together.reduce(list(have.values()))
    if not kept.any():
        lacking = ", ".join(f"{feature} (of {int(have[name].sum())})" for name, feature in inputs.items())
        raise HeadError(
            f"none of {count_of(len(items), 'item')} has all of the features {lacking}: embed them, or choose other inputs"
        )

    arrays = {name: _gather(found[name], rows[name][kept]) for name in inputs}
    present = {name: mask[kept] for name, mask in have.items() if not mask[kept].all()}
    items = items.filter(kept)
    return Samples(
        ids=_column(items, "item_id"),
        X=Inputs(arrays, present),
        y=None if label is None else np.array(items[label].to_pylist(), dtype=str),
        split=np.array(
            [None if s is None else canonical_split(str(s)) for s in items[split_column].to_pylist()], object
        ),
        features=dict(inputs),
        specs=specs,
        content={name: _column(items, key) for name, key in keys.items()},
        left_out={name: int((~mask).sum()) for name, mask in have.items()},
        vanished=vanished,
    )


def check_labels(store: Store, label: str, *, where: str | None = None, strict: bool = False) -> list[str]:
    """Warning about labels that are nearly the same, if any; HeadError instead if `strict`."""
    if label not in store.items.snapshot().schema.names:
        return []  # what is fitted says so, after it has looked at its own arguments
    labels = _items(store, [label], where)[0][label].drop_null()
    found = label_notes(label, [str(value) for value in labels.to_pylist()])
    if found and strict:
        raise HeadError(f"--strict-labels: {found[0]}")
    return found


def label_notes(label: str, values: Sequence[str]) -> list[str]:
    """A line on labels that are nearly the same, or nothing."""
    similar = near_identical(Counter(values))
    if not similar:
        return []
    more = f" and {len(similar) - 5} more" if len(similar) > 5 else ""
    line = f"{label!r} has classes that are nearly the same, and heads learn them as different ones: "
    line += "; ".join(similar[:5]) + more
    return [f"{line}; make them one in the source, or bring corrected ones with `icehouse join`"]


def _items(store: Store, columns: Sequence[str], where: str | None) -> tuple[pa.Table, int]:
    """`item_id` and `columns` of the items that meet `where`, in the table's order; how many vanished ones are left out."""
    from ..store.schema import check_single, label_columns

    schema = store.items.snapshot().schema
    for column in columns:
        if column not in schema.names:
            there = ", ".join(label_columns(schema))
            near = get_close_matches(column, schema.names, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            remedy = f"there are: {there}" if there else "there are none yet; add some with `icehouse join`"
            raise unknown_name(HeadError(f"no label column {column!r} in items{hint}; {remedy}"))
        check_single(schema, column)
    return store.present_items(columns, where)


def _row_numbers(wanted: pa.ChunkedArray, keys: pa.ChunkedArray) -> np.ndarray:
    """Row of each of `wanted` among `keys`, -1 where it is not there."""
    import pyarrow.compute as pc

    index = pc.index_in(wanted, value_set=keys, skip_nulls=True)
    return np.asarray(pc.fill_null(index, -1).to_numpy(), np.intp)


def _gather(found: Vectors | TokenStates, rows: np.ndarray) -> np.ndarray | Tokens:
    """Features of `rows`: vectors as float32, zero where a row is -1; token states where they lie."""
    absent = rows < 0
    if isinstance(found, Vectors):
        X = np.zeros((len(rows), found.X.shape[1]), np.float32)
        X[~absent] = take_float32(found.X, rows[~absent])
        return X
    starts, lengths = np.zeros((2, len(rows)), np.int64)
    starts[~absent], lengths[~absent] = found.starts[rows[~absent]], found.lengths[rows[~absent]]
    return StoredTokens(found.states, starts, lengths)


def _column(table: pa.Table, name: str) -> np.ndarray:
    return np.array(table[name].to_pylist(), dtype=object)


def _why_nothing(label: str | None, where: str | None) -> str:
    what = "the store has no items" if label is None and where is None else "no item"
    if label is not None:
        what += f" has a label {label!r}"
    if where is not None:
        what += f"{' and' if label else ''} meets the condition {where!r}"
    return what
