"""Removal of items from a store: those that meet a condition, or that have vanished, in one commit."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import pyarrow.compute as pc

from ..errors import UsageError
from .sql import select_items

if TYPE_CHECKING:
    from .store import Store

__all__ = ["items_to_remove", "remove_items"]


def items_to_remove(store: Store, where: str | None = None, *, missing: bool = False) -> list[str]:
    """Ids of the items that `remove_items` would remove, ascending.

    Parameters
    ----------
    store : Store
    where : str, optional
        SQL condition over the columns of `items`.
    missing : bool, default False
        Only items marked ``missing``: their file is gone, or their row has left its source.

    Raises
    ------
    UsageError
        If neither is given, or `where` is not a condition.
    """
    if where is None and not missing:
        raise UsageError("say which items to remove: --where SQL, --missing, or both")
    items = store.items.read(["item_id", "missing"])
    if missing:
        items = items.filter(pc.fill_null(items["missing"], False))
    if where is not None:
        items = items.filter(pc.is_in(items["item_id"], value_set=select_items(store, where)))
    return sorted(items["item_id"].to_pylist())


def remove_items(
    store: Store, where: str | None = None, *, missing: bool = False, among: Collection[str] | None = None
) -> list[str]:
    """Remove items, and what the ledger says of them; their features and captions stay, under their contents.

    Parameters
    ----------
    store, where, missing
        As `items_to_remove` takes them.
    among : collection of str, optional
        Ids that were agreed to: what has come to meet the condition since is left alone.

    Returns
    -------
    list of str
        Ids of the items that were removed.
    """
    with store.items.lock():
        ids = items_to_remove(store, where, missing=missing)
        if among is not None:
            agreed = set(among)
            ids = [item for item in ids if item in agreed]
        if ids:
            store.items.delete("item_id", ids)
    if ids:
        store.failures.delete("item_id", ids)
    return ids
