"""icehouse: a frozen-embedding feature store with lightweight heads.

>>> import icehouse
>>> store = icehouse.open("store")                                       # doctest: +SKIP
>>> train = store.features("mini/image/pooled", split="train", label="label")   # doctest: +SKIP
>>> train.ids, train.X, train.y                                          # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import IcehouseError

if TYPE_CHECKING:
    from pathlib import Path

    from .store.store import Store

__version__ = "0.1.0"

__all__ = ["IcehouseError", "Store", "__version__", "embed_sources", "open", "predict", "search"]

# Resolved on first use, so that `import icehouse` costs nothing.
_LAZY = {
    "Store": "store.store",
    "embed_sources": "embed.pipeline",
    "search": "serve.query",
    "predict": "serve.predict",
}


def open(path: str | Path = "icehouse-store") -> Store:
    """Open an existing store.

    Parameters
    ----------
    path : str or Path, default "icehouse-store"
        The store's folder.

    Returns
    -------
    Store

    Raises
    ------
    StoreError
        If there is no store at `path`, or it is of a newer format.
    """
    from .store.store import Store

    return Store.open(path)


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _LAZY:
        return getattr(import_module("." + _LAZY[name], __name__), name)
    raise AttributeError(f"module 'icehouse' has no attribute {name!r}")
