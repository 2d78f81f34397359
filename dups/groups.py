"""Duplicate groups: connected components, stars or cliques of pairs, and which member is kept: by policy, and by quality.

Rows are numbered by preference: of two rows the lower one is the better keeper, so the numbering carries the policy and the
groups do not depend on the order in which items came. Pairs ``i < j`` are added in ascending order of (i, j).

`star`
    The best unassigned row becomes a keeper, and its unassigned neighbours its members: every member is a neighbour of its
    keeper, and no keeper is a neighbour of another.
`components`
    Connected components. They chain unlike rows where there are many.
`cliques`
    The best unassigned row takes its unassigned neighbours, best first, each of which must be a neighbour of all before:
    every two members are neighbours.

The order of preference is known without opening a picture. Only then, and only of what is in a group, files are read at full
size: pictures without a copy cost nothing. Of each group the member with the highest score leads; it is compared with the
others, which may add to its faults or to theirs, and again until the first one stays the first. A star is made again in that
order from the same pairs: every member is a near-duplicate of its keeper still, and what is not leaves the group.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .. import __version__
from ..data import image_files
from ..data.splits import connected
from ..errors import ImageError, UsageError
from ..store.files import publish
from ..store.schema import check_single
from ..store.store import Store
from ..store.table import Table
from .hashing import distinct
from .processes import measured, started
from .quality import BINS, FACTS, FACTS_VERSION, RELATIONS_VERSION, SMALL, Facts, Relation, compare, measure
from .views import begin_measured, measured_row

if TYPE_CHECKING:
    from .pairs import Contents
    from .results import RankedItems

#: States of an item's file: the item has none of its own, it is there, it is another one than was embedded, it is gone.
NONE, THERE, CHANGED, GONE = range(4)

#: Kinds of paths besides real ones (0): through a linked folder, and a symbolic link itself.
_THROUGH, LINK = 1, 2


@dataclass(frozen=True)
class Files:
    """Files at the paths of some items."""

    state: np.ndarray  # int8 (n,): `NONE`, `THERE`, `CHANGED` or `GONE`
    #: int64 (n,): equal for paths that lead to one file, or to one picture in a Parquet file; -1 where
    #: there is none
    number: np.ndarray
    link: np.ndarray  # int8 (n,): 0 for a real path, 1 for one through a linked folder, 2 for a symbolic link
    #: whether any file, or folder of one, is there; where none is, the store lies on another machine than
    #: its pictures
    any_found: bool

    @classmethod
    def inspect(
        cls,
        files: pa.Array | pa.ChunkedArray,
        sizes: np.ndarray,
        times: np.ndarray,
        digest: Callable[[int], str | None] | None = None,
    ) -> Files:
        """Look at files by their absolute paths, sizes and times (ns) when they were embedded; NaN where that is not known.

        `digest` gives the sha256 that a file had, where its time alone differs; without it such a file counts as there.
        """
        n = len(files)
        # Lists, since single values of an array take several times as long.
        state, link, number = [NONE] * n, [0] * n, [-1] * n
        known: dict[tuple[int, int] | str, int] = {}
        linked: dict[str, bool] = {}
        paths, bytes_then, times_then = files.to_pylist(), sizes.tolist(), times.tolist()
        for i, (file, size, time_ns) in enumerate(zip(paths, bytes_then, times_then, strict=True)):
            if file is None:
                continue
            if image_files.container(file) is not None:
                # A picture in a Parquet file is a file of its own, which no link can be.
                number[i] = known.setdefault(os.path.realpath(file), len(known))
                state[i] = _inside(file, time_ns, digest and partial(digest, i))
                continue
            try:
                status = os.lstat(file)
                if stat.S_ISLNK(status.st_mode):
                    link[i], status = LINK, os.stat(file)  # noqa: PTH116
            except (OSError, ValueError):
                state[i] = GONE
                continue
            if not stat.S_ISREG(status.st_mode):
                state[i] = GONE
                continue
            folder = file[: file.rfind(os.sep) + 1]
            if folder not in linked:
                linked[folder] = os.path.realpath(folder) != os.path.normpath(folder)
            if linked[folder] and link[i] != LINK:
                link[i] = _THROUGH
            key = (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(file)
            number[i] = known.setdefault(key, len(known))
            same = math.isnan(size) or status.st_size == size
            # Through float64 a time in nanoseconds loses its last digits, and so does what it is compared with.
            changed = not math.isnan(time_ns) and float(status.st_mtime_ns) != time_ns
            if same and digest is not None and changed:
                same = digest(i) in (None, image_files.sha256(file))
            state[i] = THERE if same else CHANGED
        seen = bool(np.isin(state, (THERE, CHANGED)).any())
        folders = {Path(file).parent for file in paths if file is not None and not seen}
        columns = np.array(state, np.int8), np.array(number, np.int64), np.array(link, np.int8)
        return cls(*columns, seen or any(folder.is_dir() for folder in folders))

    @property
    def paths(self) -> int:
        """Number of items that name a file of their own, there or not."""
        return int((self.state != NONE).sum())

    def first(self) -> np.ndarray:
        """First item with the file of each, int64 (n,): the item itself unless an earlier one has the same file."""
        n = len(self.number)
        first = np.arange(n)
        there = np.flatnonzero(self.number >= 0)
        _, start, inverse = np.unique(self.number[there], return_index=True, return_inverse=True)
        first[there] = there[start][inverse]
        return first


def item_files(items: pa.Table) -> pa.Array:
    """Absolute paths of items by their `root` and `path`; null for an item without a file of its own."""
    names = [items[name].cast(pa.string()).combine_chunks() for name in ("root", "path")]
    return pc.binary_join_element_wise(*names, "/")


def deletable_files(files: pa.Array) -> pa.Array:
    """`files` without the pictures inside Parquet files: those cannot be deleted one by one."""
    inside = [file is not None and image_files.container(file) is not None for file in files.to_pylist()]
    return pc.if_else(pa.array(inside, pa.bool_()), pa.scalar(None, pa.string()), files)


def _inside(file: str, time_ns: float, digest: Callable[[], str | None] | None) -> int:
    """State of a picture in a Parquet file."""
    try:
        now = image_files.status(file)
        if digest is None or np.isnan(time_ns) or float(now.mtime_ns) == time_ns:
            return THERE
        return THERE if digest() in (None, hashlib.sha256(image_files.read(file)[0]).hexdigest()) else CHANGED
    except (ImageError, OSError, ValueError):
        return GONE


class Star:
    """Stars over `n` rows, in memory for the rows alone, however many pairs there are.

    Every grouping takes in pairs ``i < j``, int64 (m,), none of which comes before an earlier one (`add`), and gives each
    row's keeper, int64 (n,): a row that is its own keeper leads a group or is alone (`keepers`).
    """

    def __init__(self, n: int) -> None:
        self._keeper = np.full(n, -1, np.int64)

    def add(self, i: np.ndarray, j: np.ndarray) -> None:
        """Take in pairs."""
        # Assigned rows cannot become keepers, and stay where they are.
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

    def unassigned(self) -> np.ndarray:
        """Rows that are no member of another's group so far, ascending."""
        return np.flatnonzero((self._keeper < 0) | (self._keeper == np.arange(len(self._keeper))))

    def keepers(self) -> np.ndarray:
        """Give each row's keeper."""
        return np.where(self._keeper < 0, np.arange(len(self._keeper)), self._keeper)


class Components:
    """Connected components over `n` rows, in memory for the rows alone."""

    def __init__(self, n: int) -> None:
        self._label = np.arange(n)

    def add(self, i: np.ndarray, j: np.ndarray) -> None:
        """Take in pairs."""
        if not len(i):
            return
        roots, ends = np.unique(np.concatenate([self._label[i], self._label[j]]), return_inverse=True)
        part = connected(len(roots), ends[: len(i)], ends[len(i) :])
        lowest = np.full(part.max() + 1, len(self._label))
        np.minimum.at(lowest, part, roots)
        merged = np.arange(len(self._label))
        merged[roots] = lowest[part]
        self._label = merged[self._label]

    def keepers(self) -> np.ndarray:
        """Give each row's keeper."""
        return self._label.copy()


class Cliques:
    """Greedy cliques over `n` rows; holds all pairs."""

    def __init__(self, n: int) -> None:
        self._n = n
        self._pairs: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, i: np.ndarray, j: np.ndarray) -> None:
        """Take in pairs."""
        self._pairs.append((i.astype(np.int64), j.astype(np.int64)))

    def keepers(self) -> np.ndarray:
        """Give each row's keeper."""
        keeper = np.arange(self._n)
        if not self._pairs:
            return keeper
        i, j = (np.concatenate(side) for side in zip(*self._pairs, strict=True))
        starts = np.searchsorted(i, np.arange(self._n + 1))
        assigned = np.zeros(self._n, bool)
        for row in np.unique(i).tolist():
            if assigned[row]:
                continue
            # Only later rows are left unassigned, so each row's later neighbours are all that is asked for.
            left = j[starts[row] : starts[row + 1]]
            left = left[~assigned[left]]
            assigned[row] = True
            while len(left):
                member = int(left[0])
                keeper[member] = row
                assigned[member] = True
                near = j[starts[member] : starts[member + 1]]
                left = np.intersect1d(left[1:], near, assume_unique=True)
        return keeper


Grouping: TypeAlias = Star | Components | Cliques

#: Ways to group, by name.
GROUPINGS: dict[str, type[Grouping]] = {"star": Star, "components": Components, "cliques": Cliques}


def grouping(name: str, n: int) -> Grouping:
    """Make the grouping called `name` over `n` rows."""
    if name not in GROUPINGS:
        raise UsageError(f"unknown grouping {name!r}; there are: {', '.join(GROUPINGS)}")
    return GROUPINGS[name](n)


def group_pairs(n: int, i: np.ndarray, j: np.ndarray, method: str = "star") -> np.ndarray:
    """Keeper of each of `n` rows, int64 (n,), by pairs in any order and direction; lower rows are the better keepers.

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


# Ties go on to more pixels, more bytes, the older file, and last to the item id, so that no order depends on how the items
# came.


#: Policies by name; anything else names a column.
POLICIES = ("best", "largest", "oldest")

#: Bits a pixel from which a lossy file is taken for as good as its pixels: JPEG at a quality of about 85 to 90.
_FULL_BITS = 2.0

#: How much further a bit goes than in JPEG.
_CODEC = {"WEBP": 1.4, "AVIF": 2.0, "HEIF": 2.0, "HEIC": 2.0, "JXL": 2.0}
_LOSSLESS = ("PNG", "BMP", "TIFF", "GIF", "PPM", "TGA", "ICO")

#: Where a margin ends is seen to within a hundredth of a side: what is within counts a little less, and by steps of so much.
_FRAMED, _STEP = 0.9, 1.4

_FACTS = ["item_id", "text", "width", "height", "format", "bytes", "mtime_ns", "added"]


def columns_for(policy: str) -> list[str]:
    """Columns of `items` that `preference` needs for a policy."""
    column = _column(policy)
    return _FACTS if column is None or column in _FACTS else [*_FACTS, column]


def preference(
    items: pa.Table, policy: str = "best", inside: np.ndarray | None = None, files: Files | None = None
) -> np.ndarray:
    """Row numbers of `items`, int64 (n,), the best keeper first.

    "largest": most pixels, then bytes; of texts, most characters. "oldest": by the file's time, then when it was
    added. "best": most pixels that the file's bytes can vouch for (a lossy file with less than 2 bits a pixel counts
    in proportion, so that a blown-up or often recompressed copy loses against a clean one); with `inside`, how much
    of each image (0 to 1) is within margins and bands, one without margins is better, unless the other has clearly
    more within. Otherwise a column, lowest value first, or highest first with ``:desc`` after its name. Whatever the
    policy, with `files` one that is there as it was embedded goes before one that is not, and a real file before a
    symbolic link.
    """
    keys = [values for _, values in criteria(items, policy, inside, files)]
    # lexsort takes the last key first, and puts NaN, which is what null became, at the end.
    return np.lexsort(keys[::-1])


def criteria(
    items: pa.Table, policy: str = "best", inside: np.ndarray | None = None, files: Files | None = None
) -> list[tuple[str, np.ndarray]]:
    """Criteria of `preference`, in turn: names with a value an item, (n,), of which the lowest is preferred, NaN last."""
    pixels = _numbers(items, "width") * _numbers(items, "height")
    length = pc.utf8_length(items["text"].cast(pa.string())).to_numpy().astype(np.float64)
    size = np.where(np.isnan(pixels), length, pixels)
    weight, age = _numbers(items, "bytes"), _numbers(items, "mtime_ns")
    if policy == "largest":
        first = [("size", -size)]
    elif policy == "oldest":
        first = [("age", age), ("added", _numbers(items, "added"))]
    elif policy == "best":
        quality = _quality(items, size, pixels, weight)
        first = [("quality", -quality)]
        if inside is not None:
            framed = inside < 1
            within = np.log(np.maximum(quality * np.where(framed, inside * _FRAMED, 1), 1)) / np.log(_STEP)
            first = [("within", -np.floor(within)), ("framed", framed.astype(np.int64)), *first]
    else:
        first = [("column", _by_column(items, policy))]
    if files is not None:
        absent = np.where(files.state == GONE, 2, files.state == CHANGED).astype(np.int64)
        links = files.link.astype(np.int64)
        first = [("there", absent), ("link", (links == LINK).astype(np.int64)), *first, ("linked", links)]
    return [*first, ("size", -size), ("bytes", -weight), ("age", age), ("id", ranks(items["item_id"]))]


def ranks(column: pa.ChunkedArray) -> np.ndarray:
    """Rank of each value in ascending order, int64 (n,), by the bytes of strings; equal ones in the order they stand."""
    order = pc.sort_indices(column).to_numpy()
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return rank


def _quality(items: pa.Table, size: np.ndarray, pixels: np.ndarray, weight: np.ndarray) -> np.ndarray:
    formats = items["format"].cast(pa.string()).combine_chunks().dictionary_encode()
    names = [str(name).upper() for name in formats.dictionary.to_pylist()]
    factor = np.array([np.inf if n in _LOSSLESS else _CODEC.get(n, 1.0) for n in names] + [1.0])
    codes = pc.fill_null(formats.indices, len(names)).to_numpy()
    share = np.minimum(weight * 8 * factor[codes] / (_FULL_BITS * np.maximum(pixels, 1)), 1.0)
    return np.where(np.isnan(share), size, size * share)


def _by_column(items: pa.Table, policy: str) -> np.ndarray:
    name, falling = _column(policy), policy.endswith(":desc")
    if name is None or name not in items.column_names:
        raise UsageError(
            f"no column {name!r} in items to choose keepers by; give one, or {', '.join(POLICIES)}"
        )
    check_single(items.schema, name)
    column = _as_numbers(items[name]) if pa.types.is_string(items[name].type) else items[name]
    # By rank, since a float64 has no room for the digits of an id of a post or of a time in nanoseconds.
    known = column.drop_null().combine_chunks()
    encoded = known.dictionary_encode()
    rank = np.full(len(column), np.nan)
    rank[pc.is_valid(column).to_numpy()] = ranks(pa.chunked_array([encoded.dictionary]))[
        encoded.indices.to_numpy()
    ]
    if pa.types.is_floating(column.type):
        rank[pc.fill_null(pc.is_nan(column), True).to_numpy()] = np.nan
    return -rank if falling else rank


def _as_numbers(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Strings as numbers where all of them are."""
    for kind in (pa.int64(), pa.float64()):
        try:
            return column.cast(kind)
        except pa.ArrowInvalid:
            continue
    return column


def _column(policy: str) -> str | None:
    return None if policy in POLICIES else policy.removesuffix(":desc")


def _numbers(items: pa.Table, name: str) -> np.ndarray:
    column = items[name]
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.int64())
    return column.cast(pa.float64(), safe=False).to_numpy().astype(np.float64)


#: Members of a group, those preferred, that are measured: frames of a film by the thousand are as good as one another.
MAX_MEASURED = 64

_TABLE = f"hashes/facts{FACTS_VERSION}"
_SCHEMA = pa.schema(
    [
        pa.field("image_sha256", pa.string(), False),
        # None of a picture all of one colour.
        pa.field("facts", pa.list_(pa.float32(), len(FACTS))),
        pa.field("spectra", pa.list_(pa.float32(), 2 * BINS)),
        pa.field("small", pa.binary(SMALL * SMALL)),
    ]
)
_BATCH = 512
#: New contents, at most, whose facts are measured before it is known which have copies.
_BEFOREHAND = 500
#: Seconds that a picture takes to be measured, and two to be compared.
_MEASURING, _COMPARING = 0.004, 0.003
_HELD = 2000  # members of groups whose facts are held at once
_ROUNDS = 8

#: Changes whenever a group of the same facts and relations would stand in another order.
ORDERS_VERSION = 1

#: Octaves within which scores are equal.
_TIE = 0.17

#: What is said of a keeper that lacks a fault of another member.
_WORDS = {
    "enlarged": "not enlarged", "compressed": "less compressed", "again": "not compressed twice", "halos": "not sharpened",
    "palette": "all its colours", "grey": "in colour", "noise": "less noise", "framed": "no frame or band",
    "surrounded": "no frame or band", "corners": "not turned", "overlaid": "nothing laid over it",
    "cropped": "the whole picture",
}  # fmt: skip

#: Octaves from which on a difference is told, and how many are.
_TOLD, _MOST = 0.15, 3


#: Comparisons of two pictures that are kept; those of a new search go before those of earlier ones.
_MOST_RELATIONS = 200_000


class _KeeperCache:
    """Relations of pictures that were compared, and orders of groups, by digests; kept in the store's disposable cache."""

    def __init__(self, store: Store) -> None:
        self.file = store.path / "cache" / "relations.json"
        self.version = f"{__version__}, {FACTS_VERSION}, {RELATIONS_VERSION}"
        self.held: dict[str, Relation] = {}
        self.used: dict[str, Relation] = {}
        #: Places of a group's members by quality, and why the first is kept, by what `_in_order` is given.
        self.orders: dict[str, tuple[list[int], str]] = {}
        self._ordered = 0
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            read = json.loads(self.file.read_bytes())
            if read["version"] == self.version:
                self.held = {str(key): _checked(*said) for key, said in read["relations"].items()}
                self.orders = {
                    str(key): ([int(place) for place in order], str(reason))
                    for key, (order, reason) in read.get("orders", {}).items()
                }
                self._ordered = len(self.orders)

    def known(self, digests: list[str]) -> dict[tuple[int, int], Relation]:
        """Those of a group's pictures that were compared before, by their places in it."""
        found = {}
        for b, later in enumerate(digests):
            for a, earlier in enumerate(digests[:b]):
                if said := self.held.get(f"{earlier} {later}"):
                    found[a, b] = said
        return found

    def use(self, digests: list[str], used: dict[tuple[int, int], Relation]) -> None:
        """Take those that an order came of."""
        self.used.update((f"{digests[a]} {digests[b]}", said) for (a, b), said in used.items())

    def has_order(self, key: str, members: int) -> bool:
        """Whether the order of so many members is known."""
        return key in self.orders and sorted(self.orders[key][0]) == list(range(members))

    def keep(self) -> None:
        """Write them, if any is new."""
        if self.used.keys() <= self.held.keys() and len(self.orders) == self._ordered:
            return
        kept = dict(list({**self.used, **self.held}.items())[:_MOST_RELATIONS])
        orders = dict(list(self.orders.items())[-_MOST_RELATIONS:])
        text = json.dumps({"version": self.version, "relations": kept, "orders": orders})
        with contextlib.suppress(OSError):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with publish(self.file) as temp:
                temp.write_text(text, encoding="utf-8")


def _checked(*said: dict[str, float]) -> Relation:
    return Relation(*({str(name): float(cost) for name, cost in one.items()} for one in said))


@dataclass(frozen=True)
class _Members:
    """Members of a group that are measured, in order of preference, and what their own order by quality comes of."""

    facts: Facts
    standing: np.ndarray  # int64 (m,)
    ages: np.ndarray  # float64 (m,)
    relations: dict[tuple[int, int], Relation]  # of those that were compared before, by their places


class FactsBeforehand:
    """Rows of facts that processes measure while something else is done, where they are started.

    Of contents that are `new` since an earlier search, bool (n,), if these are few, and of what pairs with new ones.
    """

    def __init__(
        self,
        store: Store,
        digests: pa.Array,
        files: Callable[[np.ndarray], pa.Array],
        new: np.ndarray,
        threads: int | None,
    ) -> None:
        """Begin with what is new, contents being known by their `digests` and what gives their `files`."""
        self._table, self._threads, self._new = _table(store), threads, new
        self._digests, self._files, self._begun = digests, files, np.zeros(len(new), bool)
        self._rows: list[Iterator[dict[str, Any] | None]] = []
        if new.sum() <= _BEFOREHAND:
            self._measure(np.flatnonzero(new))

    def expect(self, pairs: np.ndarray) -> None:
        """Go on with pairs that are likely, int64 (2, m), of which one at least is new."""
        self._measure(np.unique(pairs[:, self._new[pairs].any(axis=0)]))

    def rows(self) -> dict[str, dict[str, Any]]:
        """Rows by their digests, when all are there."""
        return {row["image_sha256"]: row for part in self._rows for row in part if row is not None}

    def _measure(self, numbers: np.ndarray) -> None:
        numbers = numbers[~self._begun[numbers]]
        if not started() or not len(numbers):
            return
        self._begun[numbers] = True
        known = set(self._table.snapshot().read(["image_sha256"])["image_sha256"].to_pylist())
        named = zip(
            self._digests.take(pa.array(numbers)).to_pylist(), self._files(numbers).to_pylist(), strict=True
        )
        tasks = [(digest, [Path(file)]) for digest, file in named if file and digest not in known]
        measure = partial(measured_row, _facts_of)
        self._rows.append(measured(measure, tasks, self._threads, seconds=_MEASURING))


def choose_keepers(
    store: Store,
    ranked: RankedItems,
    digests: Callable[[], list[str]],
    keeper: np.ndarray,
    contents: Contents,
    standing: np.ndarray,
    *,
    star: bool,
    facts: FactsBeforehand | None = None,
    progress: Callable[[int, int], None] | None = None,
    threads: int | None = None,
) -> tuple[np.ndarray, dict[int, str]]:
    """Choose the keeper of each group by the quality of its pictures: the keepers, and by their numbers why they are.

    `digests` gives the sha256 of each content, `keeper` the groups as they were found, and `standing` int (n,) what goes
    before quality: of two contents that with the lower one is kept. With `star` every member is a neighbour of its keeper.
    `facts` are those that were measured beforehand.
    """
    order = np.argsort(keeper, kind="stable")
    _, starts, counts = np.unique(keeper[order], return_index=True, return_counts=True)
    groups = [
        order[a : a + m]
        for a, m in zip(starts[counts > 1].tolist(), counts[counts > 1].tolist(), strict=True)
    ]
    keeper, why = keeper.copy(), dict[int, str]()
    if not groups:
        return keeper, why
    wanted = np.concatenate([group[:MAX_MEASURED] for group in groups])
    known = digests()
    files = ranked.files_of(wanted).to_pylist()
    table = _table(store)
    have = set(table.snapshot().read(["image_sha256"])["image_sha256"].to_pylist())
    if facts is not None:
        rows = [row for digest, row in facts.rows().items() if digest not in have]
        if rows:
            table.append(pa.Table.from_pylist(rows, schema=_SCHEMA), unique="image_sha256")
            have.update(row["image_sha256"] for row in rows)
    named = zip((known[number] for number in wanted.tolist()), files, strict=True)
    todo = {digest: [Path(file)] for digest, file in named if file and digest not in have}
    begin_measured(table, _SCHEMA, todo, _facts_of, threads)(progress)
    ages = ranked.times[ranked.best]
    held: list[np.ndarray] = []
    again: list[np.ndarray] = []
    cache = _KeeperCache(store)
    for place, group in enumerate(groups, 1):
        held.append(group)
        if sum(map(len, held)) < _HELD and place < len(groups):
            continue
        compared = [[known[i] for i in one[:MAX_MEASURED].tolist()] for one in held]
        keys = [
            _given(names, standing[one[:MAX_MEASURED]], ages[one[:MAX_MEASURED]])
            for one, names in zip(held, compared, strict=True)
        ]
        # A group that is what it was has its order.
        left = [k for k, key in enumerate(keys) if not cache.has_order(key, len(compared[k]))]
        read = _read_facts(store, [digest for k in left for digest in compared[k]]) if left else {}
        members: list[_Members] = []
        for k in left:
            columns = zip(*(read.get(each, _UNKNOWN) for each in compared[k]), strict=True)
            first = held[k][:MAX_MEASURED]
            told = Facts(*map(np.stack, columns))
            members.append(_Members(told, standing[first], ages[first], cache.known(compared[k])))
        found = measured(_in_order, members, threads, seconds=_COMPARING)
        orders: dict[int, tuple[list[int], str]] = {}
        for k, of, (order, reason, used) in zip(left, members, found, strict=True):
            orders[k] = order.tolist(), reason
            cache.use(compared[k], used)
            # What cannot be read now may be readable later.
            if np.isfinite(of.facts.score()).all():
                cache.orders[keys[k]] = orders[k]
        for k, one in enumerate(held):
            places, reason = orders[k] if k in orders else cache.orders[keys[k]]
            if not places:
                continue
            # Members that were not measured follow in their order.
            ordered = np.concatenate([one[places], one[MAX_MEASURED:]])
            if reason:
                why[int(ordered[0])] = reason
            again.append(ordered)
        held = []
    _group_again(again, keeper, contents if star else None)
    cache.keep()
    return keeper, why


def _given(digests: list[str], standing: np.ndarray, ages: np.ndarray) -> str:
    """Digest of what a group's order by quality depends on."""
    given = (ORDERS_VERSION, digests, standing.tolist(), ages.tolist())
    return hashlib.sha256(repr(given).encode()).hexdigest()


def _in_order(members: _Members) -> tuple[np.ndarray, str, dict[tuple[int, int], Relation]]:
    """Places of a group's members by quality, why the first is kept, and relations used; none where one alone is known."""
    facts, standing, ages = members.facts, members.standing, members.ages
    base = facts.score()
    faults: list[dict[str, float]] = [{} for _ in base]
    used: dict[tuple[int, int], Relation] = {}
    if np.isfinite(base).sum() < 2:
        return np.empty(0, np.int64), "", used

    def ordered() -> np.ndarray:
        score = np.round(base - np.array([sum(each.values()) for each in faults]), 6)
        # NaN goes last; equal ones stand in the order of preference.
        by = np.lexsort((np.arange(len(base)), -score, standing))
        # What differs by less than can be measured differs by age: a copy is the younger.
        level = (standing == standing[by[0]]) & (score >= score[by[0]] - _TIE)
        oldest = np.flatnonzero(level)[np.argsort(ages[level], kind="stable")[0]] if level.any() else by[0]
        return np.concatenate([[oldest], by[by != oldest]])

    by = ordered()
    for _ in range(_ROUNDS):
        first = int(by[0])
        for other in by[1:].tolist():
            pair = (min(first, other), max(first, other))
            if pair in used or not np.isfinite(base[[first, other]]).all():
                continue
            used[pair] = relation = members.relations.get(pair) or _checked(*compare(facts, *pair))
            for place, told in zip(pair, (relation.first, relation.second), strict=True):
                for name, cost in told.items():
                    faults[place][name] = max(faults[place].get(name, 0.0), cost)
        by = ordered()
        if by[0] == first:
            break
    return by, _reason(facts, faults, by) if np.isfinite(base[by[0]]) else "", used


def _group_again(groups: list[np.ndarray], keeper: np.ndarray, contents: Contents | None) -> None:
    """Let the first of each group lead the others, those near it where `contents` are given; of the rest the first again."""
    # All groups at once: to measure a pair alone takes as long as to measure hundreds.
    while groups:
        lead = np.repeat([group[0] for group in groups], [len(group) - 1 for group in groups])
        others = np.concatenate([group[1:] for group in groups])
        near = np.ones(len(others), bool)
        if contents is not None and len(others):
            i, j = np.minimum(lead, others), np.maximum(lead, others)
            found, n = contents.judge(i, j), len(contents)
            joined = contents.joined(found)
            near = (found.perceptual | found.embedding) & np.isin(i * n + j, joined[0] * n + joined[1])
        keeper[others[near]] = lead[near]
        ends = np.cumsum([len(group) - 1 for group in groups])[:-1]
        keeper[[group[0] for group in groups]] = [group[0] for group in groups]
        left = zip(np.split(others, ends), np.split(near, ends), strict=True)
        groups = [rest for part, led in left if len(rest := part[~led])]


def _reason(facts: Facts, faults: list[dict[str, float]], by: np.ndarray) -> str:
    """In what the first is better than the others, the most telling first."""
    losses, nothing = facts.losses(), np.zeros(len(by))
    first, others = int(by[0]), by[1:]
    effective = facts.effective()
    told: dict[str, float] = {}
    costs = np.array([[each.get(name, 0.0) for each in faults] for name in _WORDS])
    costs += [losses.get(name, nothing) for name in _WORDS]
    gains = np.nanmax(costs[:, others] - costs[:, [first]], axis=1)
    for words, more in zip(_WORDS.values(), gains.tolist(), strict=True):
        if more > _TOLD:
            told[words] = max(told.get(words, 0.0), more)
    second = int(others[0])
    gap = effective[first] - effective[second]
    gap -= sum(
        faults[first].get(name, 0.0) - faults[second].get(name, 0.0)
        for name in ("enlarged", "even", "surrounded")
    )
    if gap > _TOLD:
        told[f"{2**gap:.2g}× the detail"] = float(gap)
    return ", ".join(sorted(told, key=lambda words: -told[words])[:_MOST])


#: What is known of a picture that could not be measured, as the arrays of `Facts` have it.
_UNKNOWN = (
    np.full(len(FACTS), np.nan),
    np.zeros((2, BINS), np.float32),
    np.zeros((SMALL, SMALL), np.uint8),
)


def _read_facts(store: Store, digests: list[str]) -> dict[str, tuple[np.ndarray, ...]]:
    """Facts, spectra and small pictures of some contents, of those that have them."""
    wanted = pa.array(digests, pa.string())
    found: dict[str, tuple[np.ndarray, ...]] = {}
    for batch in _table(store).snapshot().batches(_SCHEMA.names, _BATCH):
        part = batch.filter(pc.is_in(batch["image_sha256"], value_set=wanted))
        for row in part.filter(pc.is_valid(part["facts"])).to_pylist():
            found[row["image_sha256"]] = (
                np.array(row["facts"]),
                np.array(row["spectra"], np.float32).reshape(2, BINS),
                np.frombuffer(row["small"], np.uint8).reshape(SMALL, SMALL),
            )
    return found


def _table(store: Store) -> Table:
    return store.ensure_table(_TABLE, _SCHEMA, {"kind": "facts", "key": "image_sha256"})


def _facts_of(data: bytes) -> dict[str, Any]:
    """A row of the table, of an image file; nothing of a picture all of one colour."""
    found = measure(data)
    if found is None:
        return {}
    facts, spectra, small = found
    return {"facts": facts.astype(np.float32), "spectra": spectra.ravel(), "small": small.tobytes()}
