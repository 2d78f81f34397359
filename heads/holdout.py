"""Hold out a part of the rows to choose on, where there is no dev split."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..data.splits import stratified_split

__all__ = ["SHARE", "groups_of", "held_out"]

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
        Rows of one group (the same picture, the same text) stay on one side; see `groups_of`.
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


def groups_of(columns: Sequence[np.ndarray]) -> np.ndarray:
    """Number of each row's group: rows that share a value in any column are in one group.

    Parameters
    ----------
    columns : sequence of ndarray of object, each of shape (n,)
        Content hashes, one column an input; None joins nothing.

    Returns
    -------
    ndarray of int, shape (n,)
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = len(columns[0])
    sources, targets = [], []
    for column in columns:
        there = np.flatnonzero([value is not None for value in column.tolist()])
        _, first, inverse = np.unique(column[there].astype(str), return_index=True, return_inverse=True)
        sources.append(there)
        targets.append(there[first][inverse])
    rows = np.concatenate(sources)
    graph = coo_array((np.ones(len(rows), np.int8), (rows, np.concatenate(targets))), shape=(n, n))
    return connected_components(graph, directed=False)[1]
