"""Train/test overlap: rows with a near-duplicate elsewhere, and their exclusion.

A row counts if a search for duplicates pairs it, or a copy of it, directly with an item of training, through the content of
one of its inputs: a text that is like a text of train, where the head reads texts. Whether pictures resemble each other does
not matter to a head that sees none, unless the search is asked for by name.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ..dups.pair_graph import Neighbours
from .holdout import groups_of

if TYPE_CHECKING:
    from ..dups.find import Duplicates
    from ..dups.pair_graph import Neighbours
    from ..store.store import Store
    from .samples import Samples

__all__ = ["AUTO", "Alike", "Near", "Searches", "contents_of", "duplicate_groups", "searches_for"]

#: Searches that fit the inputs; as opposed to "none", and names.
AUTO = "auto"


@dataclass(frozen=True)
class Near:
    """Rows with a near-duplicate in training.

    Attributes
    ----------
    rows : ndarray of bool, shape (n,)
    about : dict
        ``against``: the parts that they were compared with; ``searches``: name, feature, thresholds and date of each, with
        the rows and training items that it did not look at, and how many of both have ``changed`` since; ``complete``:
        whether every search looked at all of both, as they are, without stopping at its cap.
    """

    rows: np.ndarray
    about: dict[str, Any]


class Searches:
    """Searches for duplicates by which rows are compared with training.

    Parameters
    ----------
    found : sequence of Duplicates
        Read when first needed.
    named : bool, default False
        Whether they were asked for by name, and so count for every input.
    store : Store, optional
        Whose items tell what has changed since a search; nothing is known to have changed without it.
    """

    def __init__(
        self, found: Sequence[Duplicates], *, named: bool = False, store: Store | None = None
    ) -> None:
        self.found = list(found)
        self.named = named
        self._store = store
        self._read: dict[str, Neighbours] = {}
        self._changed: dict[str, set[str]] = {}

    @classmethod
    def of(
        cls, store: Store, specs: Mapping[str, Mapping[str, Any]], dups: str | Sequence[str] | None = AUTO
    ) -> Searches:
        """Find the searches to compare by.

        Parameters
        ----------
        store : Store
        specs : mapping of str to spec
            Input to the spec of its feature.
        dups : str, sequence of str, or None, default "auto"
            Names of searches; None or "none" for none. "auto" takes, for the content of each input (its pictures, its
            texts), the newest search by a feature that still is what it was then.

        Raises
        ------
        StoreError
            If there is none of a name given.
        """
        from ..dups.find import Duplicates, current_searches

        names = [dups] if isinstance(dups, str) else list(dups or ())
        if names in ([], ["none"]):
            return cls([])
        if names != [AUTO]:
            found = {search.path: search for search in (Duplicates.open(store, name) for name in names)}
            return cls(list(found.values()), named=True, store=store)
        return cls(current_searches(store, {str(spec["key"]) for spec in specs.values()}), store=store)

    def near(self, samples: Samples, parts: Mapping[str, Iterable[str]]) -> Near | None:
        """Find the rows of `samples` that have a near-duplicate in training; see `among`."""
        return self.among(samples.ids, {str(spec["key"]) for spec in samples.specs.values()}, parts)

    def among(
        self, ids: np.ndarray, keys: Collection[str], parts: Mapping[str, Iterable[str]]
    ) -> Near | None:
        """Find the items that have a near-duplicate in training.

        Parameters
        ----------
        ids : ndarray of str, shape (n,)
        keys : collection of str
            Columns of content hashes that a head goes by, such as ``text_sha256``.
        parts : mapping of str to iterable of str
            Part of training ("train", "dev") to the ids of its items.

        Returns
        -------
        Near or None
            None if no search is about such content.

        Raises
        ------
        StoreError
            If a search's results are damaged.
        """
        fitting = [found for found in self.found if self.named or found.content in keys]
        if not fitting:
            return None
        import pyarrow as pa

        learned = list(dict.fromkeys(item for part in parts.values() for item in part))
        rows = np.zeros(len(ids), bool)
        searches = []
        for found in fitting:
            neighbours = self._neighbours(found)
            rows |= neighbours.near(ids, learned)
            missed = [
                int((neighbours.numbers(pa.array(list(some), pa.string())) < 0).sum())
                for some in (ids, learned)
            ]
            asked = found.summary["parameters"]
            searches.append(
                {
                    "name": found.name,
                    "created_at": found.summary["created_at"],
                    **{
                        key: asked.get(key)
                        for key in ("feature", "fingerprint", "content", "cosine", "hamming")
                    },
                    "capped": neighbours.capped,
                    "rows_not_covered": missed[0],
                    "training_not_covered": missed[1],
                    "changed": len(self._changed_since(neighbours).intersection([*ids.tolist(), *learned])),
                }
            )
        complete = not any(
            search[what]
            for search in searches
            for what in ("capped", "rows_not_covered", "training_not_covered", "changed")
        )
        return Near(rows, {"against": list(parts), "searches": searches, "complete": complete})

    def groups(self, samples: Samples) -> np.ndarray:
        """Group of each row: rows that share the content of an input, or that a search holds together, are in one.

        Returns
        -------
        ndarray of int, shape (n,)
        """
        keys = {str(spec["key"]) for spec in samples.specs.values()}
        return self.groups_among(samples.ids, list(samples.content.values()), keys)

    def groups_among(
        self, ids: np.ndarray, contents: Sequence[np.ndarray], keys: Collection[str]
    ) -> np.ndarray:
        """The same of items by their ids and content hashes, a column an input; `keys` are as `among` takes them."""
        import pyarrow as pa

        columns = [np.asarray(column, object) for column in contents]
        for found in self.found:
            if not self.named and found.content not in keys:
                continue
            neighbours = self._neighbours(found)
            places = neighbours.numbers(pa.array(ids.tolist(), pa.string()))
            column = np.full(len(ids), None, object)
            known = np.flatnonzero(places >= 0)
            column[known] = neighbours.groups()[places[known]]
            columns.append(column)
        return groups_of(columns)

    def _neighbours(self, found: Duplicates) -> Neighbours:
        from ..dups.pair_graph import Neighbours

        if found.name not in self._read:
            self._read[found.name] = Neighbours(found)
        return self._read[found.name]

    def _changed_since(self, neighbours: Neighbours) -> set[str]:
        """Items that have another content than the search compared, as far as that can be told."""
        name = neighbours.found.name
        if name not in self._changed:
            changed: set[str] = set()
            if self._store is not None:
                items = self._store.items.read(["item_id", neighbours.key])
                rows = np.flatnonzero(neighbours.changed(items))
                changed.update(items["item_id"].take(rows).to_pylist())
            self._changed[name] = changed
        return self._changed[name]


def duplicate_groups(
    store: Store,
    specs: Mapping[str, Mapping[str, Any]],
    ids: Sequence[str] | np.ndarray,
    dups: str | Sequence[str] | None = AUTO,
) -> np.ndarray:
    """Group of each item (n,), as `Searches.groups` has them of rows: by the contents that the store has now."""
    keys = {str(spec["key"]) for spec in specs.values()}
    columns = [
        np.array([of.get(item) for item in list(ids)], object) for of in contents_of(store, keys).values()
    ]
    return Searches.of(store, specs, dups).groups_among(np.array(list(ids), object), columns, keys)


def contents_of(store: Store, keys: Collection[str]) -> dict[str, dict[str, str | None]]:
    """Column of content hashes to item to hash."""
    there = sorted(set(keys) & set(store.items.snapshot().schema.names))
    items = store.items.read(["item_id", *there])
    ids = items["item_id"].to_pylist()
    return {key: dict(zip(ids, items[key].to_pylist(), strict=True)) for key in there}


def searches_for(features: Mapping[str, str]) -> str:
    """Commands that search for the near-duplicates of a head's inputs, one for each modality.

    >>> searches_for({"image": "mini/image/joint", "text": "mini/text/tokens"})
    '`icehouse dups find --feature mini/image/joint` and `icehouse dups find --feature mini/text/pooled`'
    """
    named = {name.split("/")[1]: name for name in reversed(list(features.values()))}
    pooled = [re.sub("/tokens$", "/pooled", named[modality]) for modality in sorted(named)]
    return " and ".join(f"`icehouse dups find --feature {name}`" for name in pooled)


# Copies (equal content of an input) always count. Near-duplicates count where a search for duplicates found them; see
# `icehouse.heads.exclusion.Searches`.


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
