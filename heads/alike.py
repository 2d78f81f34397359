"""Who resembles whom among items that are to be labelled: what is taken once is not taken again.

Copies (equal content of an input) always count. Near-duplicates count where a search for duplicates found them; see
`icehouse.heads.seen.Searches`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from ..store.dups.neighbours import Neighbours
from .seen import Searches

__all__ = ["Alike"]


class Alike:
    """Marks the items that resemble one that was taken.

    Parameters
    ----------
    ids : ndarray of str, shape (n,)
    content : mapping of str to ndarray of object, shape (n,)
        Input to content hashes; None resembles nothing.
    searches : Searches

    Attributes
    ----------
    covered : ndarray of bool, shape (n,)
        Whether every search that counts looked at the item; all False without one.
    names : list of str
        The searches that count.
    """

    def __init__(self, ids: np.ndarray, content: Mapping[str, np.ndarray], searches: Searches) -> None:
        n = len(ids)
        # Number of each row's content, -1 for none, and for each number which others its rows resemble.
        self._codes: list[np.ndarray] = []
        self._graphs: list[tuple[np.ndarray, np.ndarray] | None] = []
        self._taken: list[np.ndarray] = []
        for column in content.values():
            there = np.flatnonzero([value is not None for value in column.tolist()])
            codes = np.full(n, -1, np.int64)
            known, codes[there] = np.unique(column[there].astype(str), return_inverse=True)
            self._add(codes, None, len(known))
        self.names = [found.name for found in searches.found]
        self.covered = np.full(n, bool(searches.found))
        wanted = pa.array(ids.tolist(), pa.string())
        for found in searches.found:
            neighbours = Neighbours(found)
            numbers = neighbours.numbers(wanted)
            self.covered &= numbers >= 0
            codes = np.where(numbers >= 0, neighbours.content[numbers], -1)
            graph = neighbours.graph
            self._add(codes, (graph.indptr, graph.indices), graph.shape[0])

    def _add(self, codes: np.ndarray, graph: tuple[np.ndarray, np.ndarray] | None, size: int) -> None:
        self._codes.append(codes)
        self._graphs.append(graph)
        self._taken.append(np.zeros(size, bool))

    def take(self, row: int) -> None:
        """Mark what resembles an item, and the item itself."""
        for codes, graph, taken in zip(self._codes, self._graphs, self._taken, strict=True):
            code = codes[row]
            if code < 0:
                continue
            if graph is None:
                taken[code] = True
            else:
                starts, others = graph
                taken[others[starts[code] : starts[code + 1]]] = True

    def taken(self, rows: np.ndarray | None = None) -> np.ndarray:
        """Whether each of `rows`, or every item, resembles one that was taken: bool."""
        chosen = slice(None) if rows is None else rows
        marks: list[np.ndarray] = []
        for codes, taken in zip(self._codes, self._taken, strict=True):
            some = codes[chosen]
            marks.append((some >= 0) & taken[some] if len(taken) else np.zeros(len(some), bool))
        found: np.ndarray = np.logical_or.reduce(marks)
        return found

    def among(self, rows: np.ndarray) -> Alike:
        """Some of the items; what is taken here is taken there."""
        other = object.__new__(Alike)
        codes = [codes[rows] for codes in self._codes]
        other.__dict__ = {**self.__dict__, "_codes": codes, "covered": self.covered[rows]}
        return other

    def fresh(self) -> Alike:
        """The same items, with nothing taken."""
        other = object.__new__(Alike)
        other.__dict__ = {**self.__dict__, "_taken": [np.zeros_like(taken) for taken in self._taken]}
        return other
