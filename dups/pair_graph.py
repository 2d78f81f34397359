"""Results of searches, read: which items are near-duplicates of which, and which rows of one split overlap another.

Two items are neighbours if they have one content (equal sha256) or a pair joins their contents. `pairs.parquet` pairs a
content's best copy only, and `clusters.parquet` says whose copy the others are; here every copy has the pairs of its content
again, as counts over contents, so that k copies cost k and not k squared.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..data.splits import connected, groups_of
from ..errors import CorruptError, IcehouseError, StoreError, UsageError, unknown_name
from ..store.files import open_parquet, read_json, read_parquet
from ..store.store import Store
from .judgements import JUDGED, found_pairs
from .results import KINDS, VARIANTS

if TYPE_CHECKING:
    from scipy.sparse import csr_array

_ROWS = 1_000_000

#: What makes the better feature for finding copies, best first: `joint` keeps what an image means, not how it looks.
_OUTPUTS = ("pooled", "joint")

#: Name of a search by bytes and hashes alone, and of any search before these were named after their feature.
HASHES = "default"

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")

#: Kinds of pairs: those that stages found, and those that only people call duplicates.
PAIR_KINDS = (*KINDS, JUDGED)


@dataclass(frozen=True)
class Duplicates:
    """Result of a search; see `find_duplicates` and `Duplicates.open`."""

    path: Path  # ``STORE/dups/<name>``
    summary: dict[str, Any]  # ``summary.json``

    @property
    def name(self) -> str:
        """Name it was given."""
        return self.path.name

    @property
    def looked_at(self) -> datetime:
        """Time at which the items were read; later ones have not been compared."""
        return datetime.fromisoformat(self.summary["looked_at"])

    @property
    def feature(self) -> str | None:
        """Feature that was compared; None where bytes and hashes alone were."""
        name: str | None = self.summary["parameters"].get("feature")
        return name

    @property
    def content(self) -> str:
        """Column of `items` with the contents that were compared: ``image_sha256`` or ``text_sha256``."""
        return str(self.summary["parameters"].get("content"))

    def is_current(self, store: Store) -> bool:
        """Whether the feature is still the one of that name; a search by hashes alone does not age."""
        if self.feature is None:
            return True
        if self.feature not in store.feature_names():
            return False
        spec = store.feature_table(self.feature).spec
        return bool(spec.get("fingerprint") == self.summary["parameters"].get("fingerprint"))

    @classmethod
    def open(cls, store: Store | str | Path, name: str | None = None) -> Duplicates:
        """Open what an earlier search found.

        By default it is that by `default_feature`, else the newest; those that were given no name come first. So with
        "default" where there is none of that name, which searches had before they were named after their feature. A
        StoreError says that there is none of that name, and lists those there are.
        """
        store = Store.of(store)
        if name is None or (name == HASHES and not search_folder(store, name).exists()):
            name = _usual(store) or next(iter(list_duplicates(store)), HASHES)
        path = search_folder(store, name)
        try:
            summary = read_json(path, "summary.json")
            summary["parameters"]["feature"], datetime.fromisoformat(summary["looked_at"])
            return cls(path, summary)
        except FileNotFoundError:
            known = ", ".join(list_duplicates(store))
            remedy = f"there are: {known}" if known else "find some with `icehouse dups find`"
            which = "" if name == HASHES else f" {name!r}"
            missing = StoreError(f"no duplicates{which} in {store.path}; {remedy}")
            raise (unknown_name(missing) if which else missing) from None
        except CorruptError as error:
            raise CorruptError(f"{error}; {_again(path)}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptError(f"{path / 'summary.json'} is damaged; {_again(path)}") from error

    def pairs(self, columns: list[str] | None = None) -> pa.Table:
        """Read ``pairs.parquet``; see `icehouse.dups.results.PAIRS`."""
        return self._read("pairs.parquet", columns)

    def pair_batches(self, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Read ``pairs.parquet`` a batch at a time, in memory that does not grow."""
        with _whole(self.path), open_parquet(self.path, "pairs.parquet") as file:
            yield from file.iter_batches(columns=columns)

    def found_batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """Read the pairs as they were found, whatever people judged of them since."""
        with _whole(self.path):
            yield from found_pairs(self.path, columns)

    def items(self, columns: list[str] | None = None) -> pa.Table:
        """Read ``items.parquet``; see `icehouse.dups.results.write_items`."""
        return self._read("items.parquet", columns)

    def clusters(self, columns: list[str] | None = None) -> pa.Table:
        """Read ``clusters.parquet``; see `icehouse.dups.results.CLUSTERS`."""
        return self._read("clusters.parquet", columns)

    def variants(self) -> pa.Table:
        """Read ``variants.parquet``, empty for an older search; see `icehouse.dups.results.VARIANTS`."""
        if not (self.path / "variants.parquet").exists():
            return VARIANTS.empty_table()
        return self._read("variants.parquet", None)

    def _read(self, name: str, columns: list[str] | None) -> pa.Table:
        with _whole(self.path):
            return read_parquet(self.path, name, columns)


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Say of damaged results what to do."""
    try:
        yield
    except CorruptError as error:
        raise CorruptError(f"{error}; {_again(path)}") from error


def _again(path: Path) -> str:
    return f"run `icehouse dups find --name {path.name}` again"


def list_duplicates(store: Store) -> list[str]:
    """Names of the searches whose results the store has."""
    return sorted(path.parent.name for path in (store.path / "dups").glob("[!.]*/summary.json"))


def searches_stamp(store: Store) -> tuple[tuple[str, int], ...]:
    """Value that is another one once a search was made, judged anew or removed."""
    found = []
    for name in list_duplicates(store):
        with contextlib.suppress(OSError):
            found.append((name, (store.path / "dups" / name / "summary.json").stat().st_mtime_ns))
    return tuple(found)


@functools.lru_cache(maxsize=16)
def _times_made(path: Path, stamp: tuple[tuple[str, int], ...]) -> tuple[tuple[str, str], ...]:
    """Name and time of each search of the store at `path`; read again where the `searches_stamp` is another."""
    return tuple((search.name, _age(search)[0]) for search in _searches(Store.open(path)))


def rules_stamp(store: Store) -> tuple[tuple[str, int | str], ...]:
    """Value that is another one once a search was made or a calibration: what inputs are compared by then."""
    found: list[tuple[str, int | str]] = [*_times_made(store.path, searches_stamp(store))]
    for folder in sorted((store.path / "calibrations").glob("*/*/*")):
        with contextlib.suppress(OSError):
            found.append((str(folder), folder.stat().st_mtime_ns))
    return tuple(found)


def search_name(feature: str | None) -> str:
    """Name that a search has unless it is given one.

    >>> search_name("mini/text/pooled"), search_name(None)
    ('mini-text-pooled', 'default')
    """
    return HASHES if feature is None else feature.replace("/", "-")[:100]


def current_searches(store: Store, contents: Collection[str] | None = None) -> list[Duplicates]:
    """Newest search for each kind of content by a feature that still is what it was then."""
    newest: dict[str, Duplicates] = {}
    for found in _searches(store):
        key = found.content
        if (contents is not None and key not in contents) or not found.is_current(store):
            continue
        if key not in newest or _age(found) > _age(newest[key]):
            newest[key] = found
    return [newest[key] for key in sorted(newest)]


def _searches(store: Store) -> list[Duplicates]:
    """Searches that can be read."""
    found = []
    for name in list_duplicates(store):
        with contextlib.suppress(IcehouseError, KeyError):
            search = Duplicates.open(store, name)
            if search.summary["created_at"] and search.summary["parameters"]:
                found.append(search)
    return found


def _age(found: Duplicates) -> tuple[str, str]:
    """Sort key of a search by its time: the later, the larger."""
    return str(found.summary["created_at"]), str(found.summary.get("looked_at"))


def _usual(store: Store) -> str | None:
    """Name of the search that is meant where none is named."""
    try:
        feature = default_feature(store)
    except UsageError:
        feature = None
    # One that was given a name is meant by its name only.
    best = max(
        _searches(store),
        key=lambda found: (
            found.is_current(store),
            found.feature == feature,
            found.name in (HASHES, search_name(found.feature)),
            _age(found),
        ),
        default=None,
    )
    return None if best is None else best.name


def default_feature(store: Store) -> str | None:
    """Feature to find near-duplicates by: the only encoder's images, `pooled` before `joint`; else its texts."""
    names = store.feature_names()
    for modality in ("image", "text"):
        for output in _OUTPUTS:
            found = [name for name in names if name.endswith(f"/{modality}/{output}")]
            if len(found) > 1:
                raise UsageError(f"several encoders have features; choose one of {', '.join(found)}")
            if found:
                return found[0]
    return None


def search_folder(store: Store, name: str) -> Path:
    """Folder of a search's results, there or not; UsageError for what is no name."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} is no name for results: letters, digits, '.', '_' and '-'")
    return store.path / "dups" / name


class PairGraph:
    """Near-duplicates among the items that a search looked at; a `StoreError` tells of damaged results.

    Of the ``n`` items, ascending: `ids`, and `content`, the number of the best copy of each. Pairs of contents
    ``i < j``, each once, with `kind`, the place in `PAIR_KINDS`; copies are no pairs here.
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
        """Items whose content is not the one that the search compared, or is new."""
        places = self.numbers(items["item_id"])
        was = self._digests.take(pa.array(places, mask=places < 0))
        now = items[self.key].cast(pa.string()).combine_chunks()
        same = pc.or_(pc.fill_null(pc.equal(was, now), False), pc.and_(pc.is_null(was), pc.is_null(now)))
        return (places >= 0) & ~same.to_numpy(zero_copy_only=False)

    def bare(self, rows: np.ndarray) -> int:
        """Number of the items at `rows` that had a content but no vector to compare it by."""
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
        for place, name in enumerate(PAIR_KINDS[1:], 1):
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
            kinds.append(pc.index_in(kind, value_set=pa.array(PAIR_KINDS)).to_numpy(zero_copy_only=False))

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


# A row counts if a search for duplicates pairs it, or a copy of it, directly with an item of training, through the
# content of one of its inputs: a text that is like a text of train, where the head reads texts. Whether pictures
# resemble each other does not matter to a head that sees none, unless the search is asked for by name.


#: Searches that fit the inputs; as opposed to "none", and names.
AUTO = "auto"

Specs = Mapping[str, Mapping[str, Any]]


class Rows(Protocol):
    """Rows by id (n,), with the spec of each input's feature and the hashes (n,) of each input's contents."""

    @property
    def ids(self) -> np.ndarray:
        """Ids of the items."""
        ...

    @property
    def specs(self) -> Specs:
        """Spec of each input's feature."""
        ...

    @property
    def content(self) -> Mapping[str, np.ndarray]:
        """Hashes of each input's contents."""
        ...


@dataclass(frozen=True)
class Overlap:
    """Rows with a near-duplicate in training."""

    rows: np.ndarray  # bool (n,)
    #: ``against``: the parts that they were compared with; ``searches``: name, feature, thresholds and date of each, with
    #: the rows and training items that it did not look at, and how many of both have ``changed`` since; ``complete``:
    #: whether every search looked at all of both, as they are, without stopping at its cap.
    about: dict[str, Any]


class DuplicateSearches:
    """Searches for duplicates by which rows are compared with training; if `named`, they count for every input.

    The store's items tell what has changed since a search; without one nothing is known to have changed.
    """

    def __init__(
        self, found: Sequence[Duplicates], *, named: bool = False, store: Store | None = None
    ) -> None:
        self.found = list(found)
        self.named = named
        self._store = store
        self._graphs: dict[str, PairGraph] = {}
        self._changed: dict[str, set[str]] = {}

    @classmethod
    def of(cls, store: Store, specs: Specs, dups: str | Sequence[str] | None = AUTO) -> DuplicateSearches:
        """Find the searches to compare by, for inputs by the specs of their features.

        Names, or None or "none" for none; "auto" takes, for the content of each input (its pictures, its texts), the newest
        search by a feature that still is what it was then.
        """
        names = [dups] if isinstance(dups, str) else list(dups or ())
        if names in ([], ["none"]):
            return cls([])
        if names != [AUTO]:
            found = {search.path: search for search in (Duplicates.open(store, name) for name in names)}
            return cls(list(found.values()), named=True, store=store)
        return cls(current_searches(store, _keys(specs)), store=store)

    def near(self, rows: Rows, parts: Mapping[str, Iterable[str]]) -> Overlap | None:
        """Find the rows that have a near-duplicate in one of the `parts` of training; None if no search is about them."""
        ids, fitting = rows.ids, self._fitting(rows)
        if not fitting:
            return None
        learned = list(dict.fromkeys(item for part in parts.values() for item in part))
        overlapping = np.zeros(len(ids), bool)
        searches = []
        for found in fitting:
            graph = self.graph(found)
            overlapping |= graph.near(ids, learned)
            missed = [
                int((graph.numbers(pa.array(list(some), pa.string())) < 0).sum()) for some in (ids, learned)
            ]
            parameters = found.summary["parameters"]
            searches.append(
                {
                    "name": found.name,
                    "created_at": found.summary["created_at"],
                    **{
                        key: parameters.get(key)
                        for key in ("feature", "fingerprint", "content", "cosine", "hamming")
                    },
                    "capped": graph.capped,
                    "rows_not_covered": missed[0],
                    "training_not_covered": missed[1],
                    "changed": len(self._changed_since(graph).intersection([*ids.tolist(), *learned])),
                }
            )
        doubts = ("capped", "rows_not_covered", "training_not_covered", "changed")
        complete = not any(search[doubt] for search in searches for doubt in doubts)
        return Overlap(overlapping, {"against": list(parts), "searches": searches, "complete": complete})

    def groups(self, rows: Rows) -> np.ndarray:
        """Group of each row, int (n,): rows that share the content of an input, or that a search holds together, are one."""
        columns = [np.asarray(column, object) for column in rows.content.values()]
        for found in self._fitting(rows):
            columns.append(self.graph(found).groups_of(pa.array(rows.ids.tolist(), pa.string())))
        return groups_of(columns)

    def graph(self, found: Duplicates) -> PairGraph:
        """Pairs of one of the searches, read when first needed."""
        if found.name not in self._graphs:
            self._graphs[found.name] = PairGraph(found)
        return self._graphs[found.name]

    def _fitting(self, rows: Rows) -> list[Duplicates]:
        keys = _keys(rows.specs)
        return [found for found in self.found if self.named or found.content in keys]

    def _changed_since(self, graph: PairGraph) -> set[str]:
        """Items that have another content than the search compared, as far as that can be told."""
        name = graph.found.name
        if self._store is None:
            return set()
        if name not in self._changed:
            items = self._store.items.read(["item_id", graph.key])
            self._changed[name] = set(items["item_id"].filter(pa.array(graph.changed(items))).to_pylist())
        return self._changed[name]


class ItemRows(NamedTuple):
    """Items as `Rows`."""

    ids: np.ndarray
    specs: Specs
    content: Mapping[str, np.ndarray]


def duplicate_groups(
    store: Store, specs: Specs, ids: Sequence[str] | np.ndarray, dups: str | Sequence[str] | None = AUTO
) -> np.ndarray:
    """Group of each item (n,), as `DuplicateSearches.groups` has them of rows: by the contents that the store has now."""
    content = {
        key: np.array([of.get(item) for item in ids], object)
        for key, of in contents_of(store, _keys(specs)).items()
    }
    rows = ItemRows(np.array(list(ids), object), specs, content)
    return DuplicateSearches.of(store, specs, dups).groups(rows)


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


class DuplicateExclusion:
    """Excludes the items (n,) that resemble one that was marked.

    Copies (equal content of an input, where it is known) always count, near-duplicates where a search found them.
    """

    def __init__(
        self, ids: np.ndarray, content: Mapping[str, np.ndarray], searches: DuplicateSearches
    ) -> None:
        n = len(ids)
        # Number of each row's content, -1 for none, and for each number which others its rows resemble.
        self._codes: list[np.ndarray] = []
        self._graphs: list[tuple[np.ndarray, np.ndarray] | None] = []
        self._excluded: list[np.ndarray] = []
        for column in content.values():
            there = np.flatnonzero([value is not None for value in column.tolist()])
            codes = np.full(n, -1, np.int64)
            known, codes[there] = np.unique(column[there].astype(str), return_inverse=True)
            self._add(codes, None, len(known))
        self.names = [found.name for found in searches.found]  # The searches that count
        #: Whether every search that counts looked at the item, bool (n,); all False without one.
        self.covered = np.full(n, bool(searches.found))
        wanted = pa.array(ids.tolist(), pa.string())
        for found in searches.found:
            pairs = searches.graph(found)
            numbers = pairs.numbers(wanted)
            self.covered &= numbers >= 0
            codes = np.where(numbers >= 0, pairs.content[numbers], -1)
            graph = pairs.graph
            self._add(codes, (graph.indptr, graph.indices), graph.shape[0])

    def _add(self, codes: np.ndarray, graph: tuple[np.ndarray, np.ndarray] | None, size: int) -> None:
        self._codes.append(codes)
        self._graphs.append(graph)
        self._excluded.append(np.zeros(size, bool))

    def mark(self, row: int) -> None:
        """Exclude what resembles an item, and the item itself."""
        for codes, graph, excluded in zip(self._codes, self._graphs, self._excluded, strict=True):
            code = codes[row]
            if code < 0:
                continue
            if graph is None:
                excluded[code] = True
            else:
                starts, others = graph
                excluded[others[starts[code] : starts[code + 1]]] = True

    def excluded(self, rows: np.ndarray | None = None) -> np.ndarray:
        """Whether each of `rows`, or every item, resembles one that was marked: bool."""
        chosen = slice(None) if rows is None else rows
        marks: list[np.ndarray] = []
        for codes, excluded in zip(self._codes, self._excluded, strict=True):
            some = codes[chosen]
            marks.append((some >= 0) & excluded[some] if len(excluded) else np.zeros(len(some), bool))
        found: np.ndarray = np.logical_or.reduce(marks)
        return found

    def subset(self, rows: np.ndarray) -> DuplicateExclusion:
        """Some of the items; what is marked here is marked there."""
        return self._copy(_codes=[codes[rows] for codes in self._codes], covered=self.covered[rows])

    def fresh(self) -> DuplicateExclusion:
        """The same items, with nothing marked."""
        return self._copy(_excluded=[np.zeros_like(excluded) for excluded in self._excluded])

    def _copy(self, **changed: Any) -> DuplicateExclusion:
        other = object.__new__(DuplicateExclusion)
        other.__dict__ = {**self.__dict__, **changed}
        return other


def _keys(specs: Specs) -> set[str]:
    return {str(spec["key"]) for spec in specs.values()}
