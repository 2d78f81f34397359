"""Hold out a part of the rows to choose on, where there is no dev split."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..data.splits import stratified_split
from .inputs import Inputs, Tokens

__all__ = ["SHARE", "folds", "held_out", "same_rows"]

#: Share of each class that is held out.
SHARE = 0.2


def held_out(
    y: np.ndarray,
    *,
    ids: Sequence[str] | np.ndarray | None = None,
    groups: np.ndarray | None = None,
    share: float = SHARE,
    seed: int = 0,
) -> np.ndarray | None:
    """Rows to hold out: about `share` of every class, and whole groups only.

    Parameters
    ----------
    y : ndarray, shape (n,)
        Labels.
    ids : sequence of str, shape (n,), optional
        What decides, with `seed`, who is held out; the rows' numbers if None.
    groups : ndarray of int, shape (n,), optional
        Rows of one group (the same picture, the same text) stay on one side; see `icehouse.dups.groups.groups_of`.
    share : float, default 0.2
    seed : int, default 0

    Returns
    -------
    ndarray of bool, shape (n,), or None
        None if nothing can be held out without taking a class away from training.
    """
    names = [str(i) for i in range(len(y))] if ids is None else list(ids)
    shares = {"train": 1 - share, "dev": share}
    split = stratified_split(
        names, [str(label) for label in y.tolist()], shares, seed, None if groups is None else groups.tolist()
    )
    part = split == "dev"
    return part if part.any() and set(y[~part].tolist()) == set(y.tolist()) else None


def same_rows(X: Inputs) -> np.ndarray:
    """Number of each row's group: rows whose features are equal, bit for bit, are in one group.

    Returns
    -------
    ndarray of int, shape (n,)
        Rows of tokens are groups of their own.
    """
    if any(isinstance(array, Tokens) or array.ndim != 2 for _, array in X.items()):
        return np.arange(len(X))
    arrays = [np.ascontiguousarray(array) for _, array in X.items()]
    digests = np.array(
        [hash(b"".join(array[row].tobytes() for array in arrays)) for row in range(len(X))], np.int64
    )
    _, first, group = np.unique(digests, return_index=True, return_inverse=True)
    return first[group]  # `hash` differs from process to process, the first row of a group does not


def folds(y: np.ndarray, count: int, *, groups: np.ndarray | None = None, seed: int = 0) -> np.ndarray:
    """Fold of each row: classes in proportion, and rows of one group in one fold.

    Parameters
    ----------
    y : ndarray, shape (n,)
        Labels.
    count : int
        Number of folds.
    groups : ndarray of int, shape (n,), optional
    seed : int, default 0

    Returns
    -------
    ndarray of int, shape (n,)
        From 0 to `count` - 1; a fold may be empty where there are fewer groups.
    """
    groups = np.arange(len(y)) if groups is None else groups
    _, first, unit = np.unique(groups, return_index=True, return_inverse=True)
    unit, first = (
        np.argsort(np.argsort(first))[unit],
        np.sort(first),
    )  # by their first row, however they are numbered
    rng = np.random.default_rng(seed)
    fold = np.empty(len(first), np.intp)
    start = 0
    for label in np.unique(y):
        units = rng.permutation(np.flatnonzero(y[first] == label))
        # Classes start at different folds, so that small ones do not all miss the same one.
        fold[units] = (start + np.arange(len(units))) % count
        start += len(units)
    return fold[unit]
