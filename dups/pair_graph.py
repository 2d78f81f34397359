"""Pair graph: which items are near-duplicates of which, as questions over a search's results.

Two items are neighbours if they have one content (equal sha256) or a pair joins their contents. `pairs.parquet` pairs a
content's best copy only, and `clusters.parquet` says whose copy the others are; here every copy has the pairs of its content
again, as counts over contents, so that k copies cost k and not k squared.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import StoreError
from .find import Duplicates
from .groups import connected
from .results import KINDS

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = ["PairGraph"]

_ROWS = 1_000_000


class PairGraph:
    """Near-duplicates among the items that a search looked at; a `StoreError` tells of damaged results.

    Of the ``n`` items, ascending: `ids`, and `content`, the number of the best copy of each. Pairs of contents
    ``i < j``, each once, with `kind`, the place in `icehouse.dups.results.KINDS`; copies are no pairs here.
    """

    def __init__(self, found: Duplicates) -> None:
        self.found = found
        try:
            looked_at = found.items()
            self.ids, self._digests, self._vector = (
                looked_at[name].combine_chunks() for name in ("item_id", "content", "vector")
            )
            self.content = self._contents()
            self.i, self.j, self.kind = self._pairs()
        except (OSError, pa.ArrowException, KeyError) as error:
            raise StoreError(
                f"the results in {found.path} are damaged; run `icehouse dups find --name {found.name}` again"
            ) from error

    @property
    def key(self) -> str:
        """Column of `items` with the contents that the search compared: ``image_sha256`` or ``text_sha256``."""
        return str(self.found.summary["parameters"]["content"])

    @property
    def capped(self) -> bool:
        """Whether the search stopped at its cap, so that there may be pairs that are not here."""
        return bool(self.found.summary.get("capped"))

    def numbers(self, items: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """Place of each of `items` among `ids`, int64; -1 where the search did not look at it."""
        return _places(items, self.ids)

    @cached_property
    def graph(self) -> csr_array:
        """Pairs of contents in both directions, and every content with itself: (n, n), all ones."""
        from scipy.sparse import coo_array

        n = np.arange(len(self.ids))
        rows, columns = np.concatenate([self.i, self.j, n]), np.concatenate([self.j, self.i, n])
        ones = np.ones(len(rows), np.float64)
        return coo_array((ones, (rows, columns)), shape=(len(n), len(n))).tocsr()

    def changed(self, items: pa.Table) -> np.ndarray:
        """Which items have another content than the search compared, or one now and none then."""
        places = self.numbers(items["item_id"])
        was = self._digests.take(pa.array(places, mask=places < 0))
        now = items[self.key].cast(pa.string()).combine_chunks()
        same = pc.or_(pc.fill_null(pc.equal(was, now), False), pc.and_(pc.is_null(was), pc.is_null(now)))
        return (places >= 0) & ~same.to_numpy(zero_copy_only=False)

    def bare(self, rows: np.ndarray) -> int:
        """How many of the items at `rows` had a content but no vector to compare it by."""
        some = pa.array(rows)
        lacking = pc.and_(pc.is_valid(self._digests.take(some)), pc.invert(self._vector.take(some)))
        return int(pc.sum(lacking).as_py() or 0)

    def near(self, items: Sequence[str] | np.ndarray, against: Iterable[str]) -> np.ndarray:
        """Whether each of `items` has a neighbour, other than itself, among `against`."""
        rows, others = (self.numbers(pa.array(list(ids), pa.string())) for ids in (items, set(against)))
        return self.near_numbers(rows, others)

    def near_numbers(self, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Answer as `near` does, of items by their `numbers`, -1 among them or not."""
        held = np.zeros(len(self.ids), bool)
        held[others[others >= 0]] = True
        counts = np.bincount(self.content[held], minlength=len(self.ids)).astype(np.float64)
        known = rows >= 0
        around = np.zeros(len(rows))
        around[known] = (self.graph @ counts)[self.content[rows[known]]] - held[rows[known]]
        return around > 0

    def groups(self) -> np.ndarray:
        """Number of each item's group, int64 (n,): whatever pairs and copies hold together, however long the chain."""
        return connected(len(self.ids), self.i, self.j)[self.content].astype(np.int64)

    def groups_of(self, items: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """Number of the group of each of `items`, int64; -1 where the search did not look at it."""
        places, groups = self.numbers(items), np.append(self.groups(), -1)
        found: np.ndarray = groups[places]
        return found

    def pairs_between(self, codes: np.ndarray, k: int) -> dict[str, np.ndarray]:
        """Kind to the number of pairs of items between classes, symmetric int64 (k, k); `codes` (n,), -1 leaves one out."""
        there = codes >= 0
        counts = np.zeros((len(self.ids), k))
        np.add.at(counts, (self.content[there], codes[there]), 1)
        copies = counts.T @ counts
        copies[np.diag_indices(k)] -= counts.sum(axis=0)
        matrices = {KINDS[0]: copies}
        for place, name in enumerate(KINDS[1:], 1):
            held = self.kind == place
            once = counts[self.i[held]].T @ counts[self.j[held]]
            matrices[name] = once + once.T
        for matrix in matrices.values():
            matrix[np.diag_indices(k)] /= 2
        return {name: np.rint(matrix).astype(np.int64) for name, matrix in matrices.items()}

    def _known(self, items: pa.Array | pa.ChunkedArray) -> np.ndarray:
        places = self.numbers(items)
        if (places < 0).any():
            raise KeyError("an item of a pair or a cluster is not in items.parquet")
        return places

    def _contents(self) -> np.ndarray:
        content = np.arange(len(self.ids))
        clusters = self.found.clusters(["item_id", "copy_of"])
        clusters = clusters.filter(pc.is_valid(clusters["copy_of"]))
        content[self._known(clusters["item_id"])] = self._known(clusters["copy_of"])
        return content

    def _large_batches(self, columns: list[str]) -> Iterator[pa.Table]:
        """Read pairs in pieces so large that looking up ids, each time at the cost of all items, does not count."""
        held: list[pa.RecordBatch] = []
        for batch in self.found.pair_batches(columns):
            held.append(batch)
            if sum(piece.num_rows for piece in held) >= _ROWS:
                yield pa.Table.from_batches(held)
                held = []
        if held:
            yield pa.Table.from_batches(held)

    def _pairs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        n = max(len(self.ids), 1)
        codes, kinds = [np.empty(0, np.int64)], [np.empty(0, np.int8)]

        def add(a: Any, b: Any, kind: Any) -> None:
            p, q = (self.content[self._known(side)] for side in (a, b))
            codes.append(np.minimum(p, q) * n + np.maximum(p, q))
            kinds.append(pc.index_in(kind, value_set=pa.array(KINDS)).to_numpy(zero_copy_only=False))

        for table in self._large_batches(["id_a", "id_b", "kind"]):
            add(*(column.combine_chunks() for column in table.columns))
        if self.capped:
            # Stars are whole whatever the cap: who is in one is a neighbour of its keeper, pair or no pair.
            clusters = self.found.clusters(["item_id", "group", "keeper", "kind"])
            keepers = clusters.filter(clusters["keeper"])
            held = clusters.filter(pc.is_valid(clusters["kind"]))
            whose = keepers["item_id"].take(pc.index_in(held["group"], value_set=keepers["group"]))
            add(*(column.combine_chunks() for column in (held["item_id"], whose, held["kind"])))
        united, first = np.unique(np.concatenate(codes), return_index=True)
        i, j = np.divmod(united, n)
        apart = i != j
        return i[apart], j[apart], np.concatenate(kinds)[first][apart].astype(np.int8)


def _places(items: pa.Array | pa.ChunkedArray, ids: pa.Array) -> np.ndarray:
    places = pc.index_in(items.cast(pa.string()), value_set=ids, skip_nulls=True)
    return pc.fill_null(places, -1).to_numpy().astype(np.int64)
