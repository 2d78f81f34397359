"""Groups of near-duplicates out of pairs, fed in as they are found.

Rows are numbered by preference: of two rows the lower one is the better keeper (`keepers`), so the numbering carries the
policy and the groups do not depend on the order in which items came. Pairs ``i < j`` are added in ascending order of (i, j).

`star`
    The best row that nobody has claimed becomes a keeper and claims its unclaimed neighbours: every member is a neighbour
    of its keeper, and no keeper is a neighbour of another.
`components`
    Whatever hangs together. Chains unlike rows where there are many.
`cliques`
    The best unclaimed row gathers its unclaimed neighbours, best first, each of which must be a neighbour of all before:
    every two members are neighbours.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from ...errors import UsageError
from .hamming import distinct

__all__ = ["GROUPINGS", "Cliques", "Components", "Grouping", "Star", "group_pairs", "grouping"]


class Grouping(Protocol):
    """What turns pairs into groups."""

    def add(self, i: np.ndarray, j: np.ndarray) -> None:
        """Take in pairs ``i < j``, int64 (m,), none of which comes before an earlier one."""

    def keepers(self) -> np.ndarray:
        """Give each row's keeper, int64 (n,); a row that is its own keeper leads a group or is alone."""


class Star:
    """Stars over `n` rows, in memory for the rows alone, however many pairs there are."""

    def __init__(self, n: int) -> None:
        self._keeper = np.full(n, -1, np.int64)

    def add(self, i: np.ndarray, j: np.ndarray) -> None:
        """Take in pairs; see `Grouping`."""
        # Who is claimed already claims nobody, and a claimed row stays where it is.
        keeper = self._keeper
        open_ = (keeper[i] < 0) | (keeper[i] == i)
        i, j = i[open_], j[open_]
        starts = np.flatnonzero(np.diff(i, prepend=-1))
        stops = np.append(starts, len(i))[1:]
        for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
            row = i[start]
            if keeper[row] >= 0 and keeper[row] != row:
                continue
            keeper[row] = row
            near = j[start:stop]
            keeper[near[keeper[near] < 0]] = row

    def unclaimed(self) -> np.ndarray:
        """Rows that no other has claimed so far, ascending."""
        return np.flatnonzero((self._keeper < 0) | (self._keeper == np.arange(len(self._keeper))))

    def keepers(self) -> np.ndarray:
        """Give each row's keeper; see `Grouping`."""
        return np.where(self._keeper < 0, np.arange(len(self._keeper)), self._keeper)


class Components:
    """Connected components over `n` rows, in memory for the rows alone."""

    def __init__(self, n: int) -> None:
        self._label = np.arange(n)

    def add(self, i: np.ndarray, j: np.ndarray) -> None:
        """Take in pairs; see `Grouping`."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        if not len(i):
            return
        roots, ends = np.unique(np.concatenate([self._label[i], self._label[j]]), return_inverse=True)
        a, b = ends[: len(i)], ends[len(i) :]
        graph = coo_array((np.ones(len(a), bool), (a, b)), shape=(len(roots), len(roots)))
        _, part = connected_components(graph, directed=False)
        lowest = np.full(part.max() + 1, len(self._label))
        np.minimum.at(lowest, part, roots)
        merged = np.arange(len(self._label))
        merged[roots] = lowest[part]
        self._label = merged[self._label]

    def keepers(self) -> np.ndarray:
        """Give each row's keeper; see `Grouping`."""
        return self._label.copy()


class Cliques:
    """Greedy cliques over `n` rows; holds all pairs."""

    def __init__(self, n: int) -> None:
        self._n = n
        self._pairs: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, i: np.ndarray, j: np.ndarray) -> None:
        """Take in pairs; see `Grouping`."""
        self._pairs.append((i.astype(np.int64), j.astype(np.int64)))

    def keepers(self) -> np.ndarray:
        """Give each row's keeper; see `Grouping`."""
        keeper = np.arange(self._n)
        if not self._pairs:
            return keeper
        i, j = (np.concatenate(side) for side in zip(*self._pairs, strict=True))
        starts = np.searchsorted(i, np.arange(self._n + 1))
        claimed = np.zeros(self._n, bool)
        for row in np.unique(i).tolist():
            if claimed[row]:
                continue
            # Only later rows are left unclaimed, so each row's later neighbours are all that is asked for.
            left = j[starts[row] : starts[row + 1]]
            left = left[~claimed[left]]
            claimed[row] = True
            while len(left):
                member = int(left[0])
                keeper[member] = row
                claimed[member] = True
                near = j[starts[member] : starts[member + 1]]
                left = np.intersect1d(left[1:], near, assume_unique=True)
        return keeper


#: Ways to group, by name.
GROUPINGS: dict[str, type[Star] | type[Components] | type[Cliques]] = {
    "star": Star,
    "components": Components,
    "cliques": Cliques,
}


def grouping(name: str, n: int) -> Grouping:
    """Make the grouping called `name` over `n` rows.

    Raises
    ------
    UsageError
        If there is none of that name; the message lists them.
    """
    if name not in GROUPINGS:
        raise UsageError(f"unknown grouping {name!r}; there are: {', '.join(GROUPINGS)}")
    return GROUPINGS[name](n)


def group_pairs(n: int, i: np.ndarray, j: np.ndarray, method: str = "star") -> np.ndarray:
    """Group `n` rows by pairs in any order.

    Parameters
    ----------
    n : int
    i, j : ndarray of int, shape (m,)
        Row numbers, lower ones being the better keepers; repeats and either direction are allowed.
    method : {"star", "components", "cliques"}

    Returns
    -------
    ndarray of int64, shape (n,)
        Each row's keeper.

    Examples
    --------
    >>> group_pairs(4, np.array([0, 1, 2]), np.array([1, 2, 3]))
    array([0, 0, 2, 2])
    >>> group_pairs(4, np.array([0, 1, 2]), np.array([1, 2, 3]), "components")
    array([0, 0, 0, 0])
    """
    i, j = np.asarray(i, np.int64), np.asarray(j, np.int64)
    codes = distinct(np.minimum(i, j) * n + np.maximum(i, j))
    low, high = np.divmod(codes, max(n, 1))
    found = grouping(method, n)
    found.add(low[low < high], high[low < high])
    return found.keepers()
