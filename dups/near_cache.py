"""Cache of near pairs: those that hashes or vectors of earlier searches had, so that only new contents are compared.

Pairs depend on nothing but their two contents, which are known by digest. The cache is one file for each way of comparing,
in the store's disposable ``cache/``; one that cannot be read is made anew.
"""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from ..store.files import publish
from .hashing import ViewHashes

#: Pairs beyond which nothing is kept: 8 bytes each.
MAX_KEPT = 5_000_000

#: Gives codes ``i * n + j``, ascending, of the near pairs of which one at least is new, or of all for None; and False where
#: there are too many to tell.
Find = Callable[[np.ndarray | None], tuple[np.ndarray, bool]]


@dataclass(frozen=True)
class NearCache:
    """Near pairs of the contents `keys`, each once."""

    folder: Path
    keys: np.ndarray  # bytes (n,): digest, and what else a pair depends on
    keep: bool = True  # whether what is found is written; a search of a part of the items would take it from the others

    @classmethod
    def of(
        cls,
        folder: Path,
        digests: pa.Array | pa.ChunkedArray,
        views: ViewHashes | None,
        vectors: np.ndarray,
        keep: bool,
    ) -> NearCache:
        """Of contents by their digests, with their views, and the numbers of those with vectors."""
        there = np.zeros(len(digests), bool)
        there[vectors] = True
        sighted = np.zeros(len(digests), bool) if views is None else views.usable.any(axis=1)
        keys = np.char.add(np.array(digests.to_pylist(), "S64"), np.where(sighted, b"v", b"-"))
        return cls(folder, np.char.add(keys, np.where(there, b"x", b"-")), keep)

    def pairs(self, name: str, of: str, most: int, find: Find) -> tuple[np.ndarray, bool]:
        """Get what ``find(None)`` gives, looking only for pairs with contents that were not compared before."""
        held = self.recall(name, of)
        if held is None:
            codes, whole = find(None)
        else:
            codes, new = held
            if not new.any():
                return codes, True
            found, whole = find(new)
            codes = np.sort(np.concatenate([codes, found]))
            if not whole or len(codes) >= most:
                return find(None)
        if whole and len(codes) < most:
            self.remember(name, of, codes)
        return codes, whole

    def recall(self, name: str, of: str, least: float = 0.0) -> tuple[np.ndarray, np.ndarray] | None:
        """Get the codes, ascending, of pairs among contents compared before, and which are new, bool (n,).

        None if most are new, or if pairs were then found by something else than `of`, or from more than `least`.
        """
        n = len(self.keys)
        found = _read(self.folder / f"{name}.npz")
        if found is None or not n or found[4] != of or found[3] > least:
            return None
        keys, i, j, *_ = found
        order = np.argsort(self.keys)
        at = order[np.minimum(np.searchsorted(self.keys, keys, sorter=order), n - 1)]
        number = np.where(self.keys[at] == keys, at, -1)
        new = np.ones(n, bool)
        new[number[number >= 0]] = False
        if new.sum() * 2 > n:
            return None
        a, b = number[i], number[j]
        known = (a >= 0) & (b >= 0)
        a, b = a[known], b[known]
        return np.sort(np.minimum(a, b) * n + np.maximum(a, b)), new

    def remember(self, name: str, of: str, codes: np.ndarray, least: float = 0.0) -> None:
        """Keep all pairs of the contents that `of` finds from `least` on."""
        if not self.keep or len(codes) > MAX_KEPT:
            return
        file = self.folder / f"{name}.npz"
        i, j = np.divmod(codes, max(len(self.keys), 1))
        with contextlib.suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            with publish(file) as temp, temp.open("wb") as opened:
                sides = {"keys": self.keys, "i": i.astype(np.int32), "j": j.astype(np.int32)}
                np.savez(opened, **sides, least=np.array(least), of=np.array(of))


def _read(file: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, float, str] | None:
    unreadable = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)
    with contextlib.suppress(*unreadable), np.load(file, allow_pickle=False) as held:
        keys, i, j = held["keys"], held["i"], held["j"]
        least, of = float(held["least"]), str(held["of"])
        ends = np.concatenate([i, j])
        sound = keys.dtype.kind == "S" and keys.ndim == 1 and i.shape == j.shape and ends.dtype == np.int32
        if sound and len(keys) and (not len(ends) or (ends.min() >= 0 and ends.max() < len(keys))):
            return keys, i, j, least, of
    return None
