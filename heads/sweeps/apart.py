"""Test rows that none of some runs learned anything like: one set of rows for all of a leaderboard's entries.

A row is out if any run's training or dev part holds a copy of it (the same content of an input of that run), or a
near-duplicate where a search for duplicates has looked. What resembles what is asked of the store as it is now, so a search
that was made after the runs counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..runs import Run
from ..seen import AUTO, Searches, contents_of

if TYPE_CHECKING:
    from ...store.store import Store

__all__ = ["Apart", "rows_apart"]


@dataclass(frozen=True)
class Apart:
    """Rows without a duplicate in training.

    Attributes
    ----------
    rows : ndarray of int
        Their numbers; may be none, or all.
    kind : {"near-duplicates", "copies"}
        What they are without: copies alone where no search has looked.
    searches : list of str
        Names of the searches that tell near-duplicates.
    complete : bool
        Whether these looked at all rows and all of training, without stopping at their cap.
    groups : ndarray of int, shape (n,)
        Group of each of all rows: duplicates of one another, by the content of any run's input or by these searches.
    """

    rows: np.ndarray
    kind: Literal["near-duplicates", "copies"]
    searches: list[str]
    complete: bool
    groups: np.ndarray


def rows_apart(
    store: Store, runs: Sequence[Run], ids: Sequence[str], dups: str | Sequence[str] | None = AUTO
) -> Apart:
    """Find the rows that resemble nothing that any of the runs learned from or was chosen on.

    Parameters
    ----------
    store : Store
    runs : sequence of Run
    ids : sequence of str
        Item ids of the rows.
    dups : str, sequence of str, or None, default "auto"
        See `icehouse.heads.seen.Searches.of`.

    Raises
    ------
    StoreError
        If there is no search of a name given.
    """
    specs: dict[str, dict[str, Any]] = {
        run.features[name]: spec for run in runs for name, spec in run.specs.items()
    }
    searches = Searches.of(store, specs, dups)
    content = contents_of(store, {str(spec["key"]) for spec in specs.values()})
    rows = np.array(list(ids), object)
    alike = np.zeros(len(rows), bool)
    names: dict[str, None] = {}
    complete = True
    done: set[tuple[frozenset[str], frozenset[str]]] = set()
    for run in runs:
        roles = run.training_items()
        parts: dict[str, set[str]] = {name: roles[name] for name in ("train", "dev") if name in roles}
        keys = frozenset(str(spec["key"]) for spec in run.specs.values())
        learned: frozenset[str] = frozenset().union(*parts.values())
        if (keys, learned) in done:
            continue
        done.add((keys, learned))
        for key in keys & content.keys():
            of = content[key]
            hashes = {of.get(item) for item in learned} - {None}
            alike |= np.fromiter((of.get(item) in hashes for item in rows.tolist()), bool, len(rows))
        near = searches.among(rows, keys, parts)
        if near is not None:
            alike |= near.rows
            names |= dict.fromkeys(search["name"] for search in near.about["searches"])
            complete &= bool(near.about["complete"])
    contents = [np.array([of.get(item) for item in rows.tolist()], object) for of in content.values()]
    return Apart(
        np.flatnonzero(~alike),
        "near-duplicates" if names else "copies",
        list(names),
        complete,
        searches.groups_among(rows, contents, list(content)),
    )
