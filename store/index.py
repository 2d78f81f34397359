"""FAISS indexes on disk (``STORE/indexes/<feature>/``): their kinds, and search by the quickest way there is.

```
index.json              what there is: kind, settings, the snapshot it is of, recall; written last, so it names whole files
<build>.faiss           the index as FAISS writes it, over the vectors that have a direction
<build>.parquet         position in the index -> row of the feature table (`row`) and content (the table's key)
```

A build never changes a file: it writes new ones, replaces index.json, and removes the old ones.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import CorruptError, IcehouseError, StoreError, UsageError, count_of
from .files import (
    check_stamp,
    checked_name,
    publish,
    publish_sealed,
    remove_leftovers,
    stamp,
    unseal,
)
from .search import (
    Hit,
    exact_candidates,
    float32_margin,
    score_rows,
    search_item,
    search_vectors,
    unit_query,
    unit_rows,
)
from .store import Store
from .vectors import Vectors

# All hold unit vectors and compare by inner product, which is the cosine. A flat index keeps float32 and finds exactly what
# exact search finds. IVF and HNSW keep float16, as the store does, half the size: what they find is scored again from the
# stored vectors, so that only their choice of candidates is approximate.
#
# A kind is one class here and a line in `KINDS`; the contract tests run over all of them.
#
# IVF: Sivic and Zisserman (2003), Jégou et al. (2011). HNSW: Malkov and Yashunin (2018). Both by FAISS (Douze et al., 2024).


#: Up to here comparing everything takes a few milliseconds, and there is nothing to win.
FLAT_UP_TO = 50_000

#: Above this recall a graph answers sooner than cells do.
HNSW_ABOVE = 0.98


class Kind:
    """One kind of index: how it is made, and the parameter that trades speed for recall."""

    name: ClassVar[str]
    effort: ClassVar[str | None] = None
    on_gpu: ClassVar[bool] = True

    def make(self, dim: int, rows: int) -> Any:
        """Make an empty FAISS index for about `rows` vectors of `dim` dimensions."""
        raise UsageError(f"{type(self).__name__} makes no index")

    def training_rows(self, rows: int) -> int:
        """Number of vectors, of `rows`, that it is trained on."""
        return 0

    def outgrown(self, trained: int, rows: int) -> bool:
        """Whether an index made for `trained` vectors should be made anew for `rows`."""
        return False

    def ladder(self, index: Any) -> list[int]:
        """Efforts worth trying, the least first; empty where every search is exact."""
        return []

    def set_effort(self, index: Any, effort: int, k: int) -> None:
        """Make the next searches for `k` neighbours take this effort."""


class Flat(Kind):
    """Every vector is compared."""

    name = "flat"

    def make(self, dim: int, rows: int) -> Any:
        """Make an empty index; see `Kind.make`."""
        return load_faiss().IndexFlatIP(dim)


class Ivf(Kind):
    """Vectors in the cells of a k-means; a search looks into the `nprobe` nearest cells."""

    name = "ivf"
    effort = "nprobe"

    def make(self, dim: int, rows: int) -> Any:
        """Make an untrained index with about 2 sqrt(rows) cells; see `Kind.make`."""
        faiss = load_faiss()
        cells = max(1, min(int(2 * math.sqrt(rows)), rows // 8))
        index = faiss.index_factory(dim, f"IVF{cells},SQfp16", faiss.METRIC_INNER_PRODUCT)
        # A few vectors a cell are enough for the cells and no cause for FAISS to warn on stderr.
        index.cp.min_points_per_centroid = 1
        return index

    def training_rows(self, rows: int) -> int:
        """64 a cell; see `Kind.training_rows`."""
        return min(rows, 128 * math.isqrt(rows) + 64)

    def outgrown(self, trained: int, rows: int) -> bool:
        """Four times the vectors want twice the cells; see `Kind.outgrown`."""
        return rows > 4 * max(trained, 64)

    def ladder(self, index: Any) -> list[int]:
        """Cells to look into: powers of sqrt 2, up to all; see `Kind.ladder`."""
        steps = {round(2 ** (step / 2)) for step in range(2 * int(index.nlist).bit_length())}
        return sorted({step for step in steps if step < index.nlist} | {int(index.nlist)})

    def set_effort(self, index: Any, effort: int, k: int) -> None:
        """Set nprobe; see `Kind.set_effort`."""
        index.nprobe = effort


class Hnsw(Kind):
    """A graph from neighbour to neighbour; a search keeps the `efSearch` best places in view."""

    name = "hnsw"
    effort = "efSearch"
    on_gpu = False

    def make(self, dim: int, rows: int) -> Any:
        """Make an empty graph of 32 links a vector; see `Kind.make`."""
        faiss = load_faiss()
        index = faiss.index_factory(dim, "HNSW32,SQfp16", faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = 80
        return index

    def training_rows(self, rows: int) -> int:
        """Its float16 storage asks for a call, and learns nothing; see `Kind.training_rows`."""
        return min(rows, 1)

    def ladder(self, index: Any) -> list[int]:
        """Places in view: powers of sqrt 2 from 16 to 2048; see `Kind.ladder`."""
        return [round(2 ** (step / 2)) for step in range(8, 23)]

    def set_effort(self, index: Any, effort: int, k: int) -> None:
        """Set efSearch, at least what is asked for; see `Kind.set_effort`."""
        index.hnsw.efSearch = max(effort, k)


KINDS: dict[str, Kind] = {kind.name: kind for kind in (Flat(), Ivf(), Hnsw())}


def choose_kind(rows: int, recall: float) -> str:
    """Choose a kind for this many vectors and this recall.

    Flat while comparing everything is quick, or where nothing may be missed. Else IVF, which is built in an eighth of the
    time that HNSW takes; to miss next to nothing it must look into a large share of its cells, and there HNSW pays.
    """
    if rows <= FLAT_UP_TO or recall >= 1:
        return "flat"
    return "hnsw" if recall > HNSW_ABOVE else "ivf"


def load_faiss() -> Any:
    """Import FAISS."""
    try:
        import faiss
    except ImportError as error:
        raise IcehouseError(
            f"FAISS cannot be loaded ({error}): pip install 'icehouse[cpu]'; searching works without it, exactly"
        ) from None
    return faiss


def to_gpu(kind: Kind, index: Any) -> Any:
    """Copy an index to the first GPU; None if FAISS has no GPU, or not this kind there, or no room."""
    faiss = load_faiss()
    if not kind.on_gpu or faiss.get_num_gpus() < 1:
        return None
    try:
        return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)
    except RuntimeError:  # out of memory, most likely: the processor can do it too
        return None


@contextlib.contextmanager
def thread_limit(threads: int | None) -> Iterator[None]:
    """Limit FAISS to this many threads inside the block; None leaves what OpenMP gives it (``OMP_NUM_THREADS``)."""
    if threads is None:
        yield
        return
    if threads < 1:
        raise UsageError(f"threads are at least 1, not {threads}")
    faiss = load_faiss()
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(threads)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


#: Version of index.json that this code writes, and the only one that it reads; others are built anew.
FORMAT = 1

_INFO = "index.json"


@dataclass(frozen=True)
class IndexInfo:
    """Facts of an index, read without opening it."""

    feature: str
    key: str
    kind: str
    given: bool
    fingerprint: str | None
    digest: str
    content: str
    rows: int
    vectors: int
    dim: int
    trained: int
    effort: int | None
    wanted: float
    recall: Mapping[str, Any]
    versions: Mapping[str, str]
    built_at: str
    seconds: float
    files: Mapping[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @property
    def bytes(self) -> int:
        """Size of its files."""
        return sum(entry["bytes"] for entry in self.files.values())

    @property
    def missed(self) -> str | None:
        """Sentence on the queries that find less than was asked for; None where none do, a sample's error aside."""
        short = []
        for modality, found in self.recall.items():
            if found is None:
                continue
            error = math.sqrt(self.wanted * (1 - self.wanted) / max(found["queries"], 1))
            if found["recall@10"] < self.wanted - min(error, 0.02):
                short.append(f"{found['recall@10']:.3f} with {modality} queries")
        if not short:
            return None
        return f"the index missed the recall of {self.wanted:g} that was asked for: {', '.join(short)}"


def index_folder(store: Path, feature: str) -> Path:
    """Folder of a feature's index."""
    return store / "indexes" / checked_name(feature)


def read_info(folder: Path) -> IndexInfo | None:
    """Read what index there is in `folder`; None if there is none."""
    path = folder / _INFO
    try:
        content = json.loads(path.read_bytes())
        if content["format"] != FORMAT:
            raise CorruptError(f"{path} is of format {content['format']}, this icehouse reads {FORMAT}")
        content = unseal(content, _INFO)
        files = {kind: dict(entry) for kind, entry in content.pop("files").items()}
        if set(files) != {"index", "rows"} or content["kind"] not in KINDS:
            raise KeyError("files")
        for entry in files.values():
            _ = [entry[key] for key in _FILE_KEYS]
        return IndexInfo(**content, files=files)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptError(f"{path} is damaged ({type(error).__name__})") from error


def read_vectors(folder: Path, info: IndexInfo, *, mapped: bool = True) -> Any:
    """Read the FAISS index, mapped from disk for searching, or into memory so that it can grow."""
    faiss = load_faiss()
    path = _checked(folder, info, "index")
    # FAISS 1.11 and later map every kind (MMAP_IFC); earlier ones the lists of IVF only. A mapped index must not grow:
    # FAISS would end the process.
    flags = getattr(faiss, "IO_FLAG_MMAP_IFC", faiss.IO_FLAG_MMAP) | faiss.IO_FLAG_READ_ONLY if mapped else 0
    try:
        index = faiss.read_index(str(path), flags)
    except RuntimeError as error:
        raise CorruptError(f"{path} cannot be read by FAISS") from error
    if (int(index.ntotal), int(index.d)) != (info.vectors, info.dim):
        raise CorruptError(
            f"{path} holds {index.ntotal} vectors of {index.d} dimensions, not what was written"
        )
    return index


def read_rows(folder: Path, info: IndexInfo, column: str = "row") -> pa.ChunkedArray:
    """Read a column of the positions' table: `row`, or the feature's key."""
    path = _checked(folder, info, "rows")
    try:
        values = pq.read_table(path, columns=[column], memory_map=True)[column]
    except (pa.ArrowException, OSError, KeyError) as error:
        raise CorruptError(f"{path} cannot be read") from error
    if len(values) != info.vectors:
        raise CorruptError(f"{path} has {count_of(len(values), 'row')}, not {info.vectors}")
    return values


def write_index(
    folder: Path, info: IndexInfo, index: Any, rows: np.ndarray, keys: pa.ChunkedArray
) -> IndexInfo:
    """Write an index and put it in the place of the present one, in one step."""
    build = uuid.uuid4().hex[:12]
    paths = {"index": folder / f"{build}.faiss", "rows": folder / f"{build}.parquet"}
    try:
        with publish(paths["rows"]) as temp:
            pq.write_table(
                pa.table({"row": pa.array(rows, pa.int64()), info.key: keys}), temp, compression="zstd"
            )
        with publish(paths["index"]) as temp:
            load_faiss().write_index(index, str(temp))
        info = replace(info, files={kind: {"name": path.name, **stamp(path)} for kind, path in paths.items()})
        publish_sealed(folder / _INFO, info.as_dict(), indent=1)
    except (OSError, RuntimeError) as error:
        for path in paths.values():
            path.unlink(missing_ok=True)
        reason = (isinstance(error, OSError) and error.strerror) or str(error).splitlines()[0]
        raise StoreError(f"cannot write the index to {folder}: {reason}") from error
    _remove_others(folder, {path.name for path in paths.values()})
    return info


_FILE_KEYS = ("name", "bytes", "crc32")
_FILE = re.compile(r"[0-9a-f]{12}\.(faiss|parquet)")


def _checked(folder: Path, info: IndexInfo, what: str) -> Path:
    """Path of a file that is as it was written: FAISS trusts what it reads, links of a graph among it."""
    path = folder / Path(str(info.files[what]["name"])).name
    check_stamp(path, info.files[what])
    return path


def _remove_others(folder: Path, keep: set[str]) -> None:
    remove_leftovers(folder)
    for path in folder.iterdir():
        if _FILE.fullmatch(path.name) and path.name not in keep:
            # A reader on Windows keeps its file; the next build removes it.
            with contextlib.suppress(OSError):
                path.unlink()


# An index is a shortcut and never an authority. It covers one snapshot of its feature and says which, so that a stale one is
# noticed; it finds candidates, which are scored from the stored vectors; whatever is wrong with it, it can be built anew.
#
# Vectors are normalised, so that inner products are cosines; one without a direction (all zeros) is not in the index
# and never found. A position in the index stands for a row of the feature table, and so for a content; a sidecar file
# keeps both.


#: So many times as many candidates are asked for as are wanted, since float16 may shuffle those that lie close together.
OVERSAMPLE = 2

#: So many queries at once are worth the way to a GPU.
_GPU_QUERIES = 256

#: Neighbours and cells that FAISS can sort on a GPU.
_GPU_MOST = 1024


class Index:
    """An index that is open for asking; get one from `open_index`."""

    def __init__(self, folder: Path, info: IndexInfo, index: Any, rows: np.ndarray) -> None:
        self.info = info
        self.rows = rows
        self._folder = folder
        self._index = index
        self._gpu: Any = None
        self._kind = KINDS[info.kind]

    def __len__(self) -> int:
        return len(self.rows)

    def search(
        self, queries: np.ndarray, k: int, *, threads: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """About the `k` rows nearest to each query (q, dim): cosines (q, k) as the index has them, and rows, best first.

        Score anew from the stored vectors where the last digits matter. A row is -1 where no more were found, and for a
        query without a direction.
        """
        units, directed = self._units(queries)
        k = max(1, min(k, len(self.rows)))
        with thread_limit(threads):
            index = self._engine(len(units), k)
            self._set_effort(index, k)
            scores, positions = index.search(units, k)
        positions[~directed] = -1
        return scores, np.where(positions >= 0, self.rows[positions], -1)

    def range_search(
        self, queries: np.ndarray, threshold: float, *, threads: int | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Find the rows whose cosine to a query may reach `threshold`, as far as this kind of index finds them."""
        units, directed = self._units(queries)
        # FAISS compares strictly, and float16 in the index is off by 2**-11 of each value at most.
        slack = float32_margin(self.info.dim) if self.info.kind == "flat" else 2.0**-10
        with thread_limit(threads):
            self._set_effort(self._index, 1)
            limits, scores, positions = self._index.range_search(
                units, float(np.nextafter(np.float32(threshold - slack), np.float32(-np.inf)))
            )
        counts = np.diff(limits.astype(np.int64))
        kept = np.repeat(directed, counts)
        counts[~directed] = 0
        return np.concatenate([[0], np.cumsum(counts)]), scores[kept], self.rows[positions[kept]]

    def keys(self) -> pa.ChunkedArray:
        """Content (sha256) at each position; `rows` tells its row."""
        return read_rows(self._folder, self.info, self.info.key)

    def _units(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        queries = np.atleast_2d(queries)
        if queries.shape[1] != self.info.dim:
            raise UsageError(f"the query has {queries.shape[1]} dimensions, the index {self.info.dim}")
        units = unit_rows(queries, np.float32)
        directed = np.isfinite(units).all(axis=1)
        units[~directed] = 0
        return np.ascontiguousarray(units), directed

    def _set_effort(self, index: Any, k: int) -> None:
        if self.info.effort is not None:
            self._kind.set_effort(index, self.info.effort, k)

    def _engine(self, queries: int, k: int) -> Any:
        """FAISS index to ask: a copy on the GPU, if there is enough to ask of it and no more than it can do."""
        if queries < _GPU_QUERIES or max(k, self.info.effort or 0) > _GPU_MOST:
            return self._index
        if self._gpu is None:
            self._gpu = to_gpu(self._kind, self._index)
        return self._index if self._gpu is None else self._gpu


def open_index(store: Store, feature: str) -> Index | None:
    """Open the index of a feature, mapped from disk; None if there is none. It may be stale: see `stale_because`.

    CorruptError: it is damaged; `build_index` makes it anew. IcehouseError: FAISS is not installed.
    """
    folder = index_folder(store.path, feature)
    while True:
        info = read_info(folder)
        if info is None:
            return None
        try:
            index = read_vectors(folder, info)
            return Index(folder, info, index, read_rows(folder, info).to_numpy())
        except CorruptError:
            if read_info(folder) == info:  # else it was replaced while it was being opened
                raise


def stale_because(store: Store, info: IndexInfo) -> str | None:
    """Tell why an index does not cover its feature as it is now; None if it does."""
    snapshot = store.feature_table(info.feature).snapshot()
    if snapshot.spec.get("fingerprint") != info.fingerprint:
        return "the feature's fingerprint has changed"
    if snapshot.digest == info.digest:
        return None
    new = snapshot.rows - info.rows
    return f"the feature has {count_of(new, 'new row')}" if new > 0 else "the feature has changed"


def list_indexes(store: Store) -> list[dict[str, Any]]:
    """Tell of every index of a store, whether FAISS is installed or not."""
    root = store.path / "indexes"
    found: list[dict[str, Any]] = []
    for path in sorted(root.rglob("index.json")):
        feature = path.parent.relative_to(root).as_posix()
        try:
            info = _checked_info(path.parent)
        except CorruptError as error:
            found.append({"feature": feature, "state": "damaged", "reason": str(error)})
            continue
        if info is None:
            continue
        try:
            reason = stale_because(store, info)
            state = "fresh" if reason is None else "stale"
        except StoreError as error:
            state, reason = "unused", str(error)
        found.append(
            {**info.as_dict(), "bytes": info.bytes, "missed": info.missed, "state": state, "reason": reason}
        )
    return found


def _checked_info(folder: Path) -> IndexInfo | None:
    """Read what index there is, and make sure of its files; one that is replaced meanwhile is read again."""
    while True:
        info = read_info(folder)
        try:
            if info is not None:
                for what in info.files:
                    _checked(folder, info, what)
            return info
        except CorruptError:
            if read_info(folder) == info:
                raise


# Whichever finds the candidates, they are scored from the stored vectors in the same way, so that a hit has the same score,
# to the last digit, and a flat index answers exactly what exact search answers. Where an index cannot be sure to answer (a
# filter, many hits, too few candidates) every vector is compared, and a remark says why where that is worth knowing.


#: Recall is measured at 10; from an index that may miss, no more than this many hits are taken.
MOST = 100

#: An index that may miss is asked for no more candidates than this: comparing everything is about as quick then.
_DEEPEST = 4096


@dataclass(frozen=True)
class Found:
    """Hits, and how they were found."""

    hits: list[Hit]
    engine: str = "exact"
    remark: str | None = None


def find_vectors(
    store: Store,
    feature: str,
    vector: np.ndarray,
    *,
    k: int = 10,
    where: str | None = None,
    exact: bool = False,
) -> Found:
    """Find the items nearest to a vector, by an index if there is a fresh one, unless `exact`; see `search_vectors`."""
    chooser = _Chooser(store, feature, k, where, exact)
    hits = search_vectors(store, feature, vector, k=k, where=where, candidates=chooser)
    return Found(hits, chooser.engine, chooser.remark)


def find_item(
    store: Store,
    feature: str,
    item_id: str,
    *,
    k: int = 10,
    where: str | None = None,
    exact: bool = False,
) -> Found:
    """Find the items nearest to an item, itself left out; see `find_vectors` and `icehouse.store.search.search_item`."""
    chooser = _Chooser(store, feature, k, where, exact)
    hits = search_item(store, feature, item_id, k=k, where=where, candidates=chooser)
    return Found(hits, chooser.engine, chooser.remark)


def fresh_index(store: Store, feature: str) -> tuple[Index | None, str | None]:
    """Get the index of a feature if it can be used."""
    remedy = f"`icehouse index build {feature}` brings it up to date"
    try:
        index = open_index(store, feature)
        if index is None:
            return None, None
        if (reason := stale_because(store, index.info)) is not None:
            return None, f"the index is stale: {reason}; {remedy}"
        return index, None
    except StoreError as error:
        return None, f"the index cannot be used: {error}; {remedy}"
    except IcehouseError as error:
        return None, f"the index cannot be used: {error}"


class _Chooser:
    """Candidates from an index as long as it can answer, and from exact search otherwise; keeps which it was."""

    def __init__(self, store: Store, feature: str, k: int, where: str | None, exact: bool) -> None:
        self.engine = "exact"
        self.remark: str | None = None
        self._index: Index | None = None
        # What a filter leaves may be anywhere, and comparing it is quick.
        if not exact and where is None:
            self._index, self.remark = fresh_index(store, feature)
        if self._index is not None and self._index.info.kind != "flat" and k > MOST:
            self._index = None
            self.remark = f"more than {MOST} hits: every vector was compared"

    def __call__(
        self, vectors: Vectors, query: np.ndarray, k: int, rows: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find candidates; see `icehouse.store.search.Candidates`."""
        # A writer may have been at work since the index was found to be fresh.
        if self._index is not None and self._index.info.digest == vectors.digest:
            found = _from_index(self._index, vectors.X, query, k, rows)
            if found is not None:
                self.engine = self._index.info.kind
                if (missed := self._index.info.missed) is not None:
                    self.remark = f"{missed}; --exact compares every vector"
                return found
            self.remark = "the index found too few: every vector was compared"
        return exact_candidates(vectors, query, k, rows)


def _from_index(
    index: Index, X: np.ndarray, query: np.ndarray, k: int, rows: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray] | None:
    """Candidates among `rows` of `X`; None if the index does not know enough of them."""
    unit = unit_query(X, query)
    wanted = np.ones(len(X), dtype=bool)
    if rows is not None:
        wanted[:] = False
        wanted[rows] = True
    expected = min(k, int(wanted[index.rows].sum()))
    count = OVERSAMPLE * k
    exhaustive = index.info.kind == "flat"
    while True:
        scores, found = (row[0] for row in index.search(unit, count))
        kept = (found >= 0) & wanted[found]
        everything = count >= len(index)
        enough = int(kept.sum()) >= expected
        if enough and exhaustive and not everything:
            # Only what lies certainly behind the k-th may be left unasked for; ties with it may not.
            enough = expected > 0 and scores[-1] < scores[kept][expected - 1] - 2 * float32_margin(X.shape[1])
        if enough or everything or (not exhaustive and count > _DEEPEST):
            break
        count *= 4
    if not enough:
        return None
    return score_rows(X, unit[0], found[kept], k)
