"""Maps: two coordinates and a cluster for every content of a feature, kept as a table with their provenance.

A map is the table ``maps/<feature>``: a row a content, keyed by its SHA-256 as the feature is, so that copies share a point.
Contents are taken in the order of their digests, and nothing depends on threads: the same contents, method and seed give the
same map, in whatever order they came into the store.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..dups.pair_graph import default_feature
from ..errors import CorruptError, SpaceError, StoreError, UsageError, count_of
from ..store.files import publish
from ..store.schema import fingerprint, label_columns
from ..store.search import unit_rows
from ..store.store import Store
from ..store.vectors import Vectors

PREFIX = "maps/"
METHODS = ("pca", "umap")
CLUSTERINGS = ("kmeans", "hdbscan")

#: Principal components that UMAP and k-means work on: neighbours hardly change, memory and time do.
COMPONENTS = 50

#: Clusters by default: as many as there are colours that colour-blind people can tell apart.
CLUSTERS = 8

#: Parameters of UMAP; fewer contents have fewer neighbours.
NEIGHBOURS, MIN_DIST = 15, 0.1

#: Contents that UMAP needs; fewer are drawn by PCA.
_LEAST_FOR_UMAP = 8

#: Rows that are read, scaled and multiplied at once.
_BLOCK = 8192

Said = Callable[[str], None]


@dataclass(frozen=True)
class Map:
    """Coordinates of a feature's contents as they were when the map was made.

    `spec` is their provenance: method, parameters, fingerprint of the feature, contents, library versions, when.
    `cluster` counts from 0, the largest first; -1 where none was looked for.
    """

    feature: str
    spec: dict[str, Any]
    keys: pa.Array
    xy: np.ndarray
    cluster: np.ndarray
    version: int


@dataclass(frozen=True)
class Made:
    """Result of `make_map`: the map, whether it was computed now, and what is to be said of it."""

    map: Map
    computed: bool
    notes: tuple[str, ...] = ()


def list_maps(store: Store) -> list[str]:
    """Features that have a map."""
    return [name.removeprefix(PREFIX) for name in store.table_names() if name.startswith(PREFIX)]


def read_map(store: Store, feature: str) -> Map:
    """Read the map of a feature; StoreError if there is none, CorruptError if it is damaged."""
    if feature not in list_maps(store):
        raise StoreError(f"no map of {feature} in {store.path}: make it with `icehouse map -f {feature}`")
    table = store.table(PREFIX + feature)

    def read(snapshot: Any) -> Map:
        spec = snapshot.spec
        rows = snapshot.read()
        key = spec.get("key")
        if not isinstance(key, str) or not {key, "x", "y", "cluster"} <= {*rows.column_names}:
            raise CorruptError(f"{table.path} is no map: `icehouse map -f {feature} --again` makes it anew")
        xy = np.stack([rows[name].to_numpy().astype(np.float32) for name in ("x", "y")], axis=1)
        if not np.isfinite(xy).all():
            raise CorruptError(
                f"{table.path} has coordinates that are not finite: `icehouse map -f {feature} --again` makes it anew"
            )
        cluster = pc.fill_null(rows["cluster"], -1).to_numpy().astype(np.int32)
        return Map(feature, spec, rows[key].combine_chunks(), xy, cluster, snapshot.version)

    return table.reading(read)


def make_map(
    store: Store | str | Path,
    feature: str | None = None,
    *,
    method: Literal["pca", "umap"] | None = None,
    seed: int | None = None,
    clusters: int | None = None,
    cluster_by: Literal["kmeans", "hdbscan"] | None = None,
    again: bool = False,
    say: Said = lambda _: None,
) -> Made:
    """Compute the map of a feature (of the images, unless given), unless the store has it as it would become, or `again`.

    `method`, `seed`, `clusters` (of k-means; 0 for none) and `cluster_by` are those of the map there is, else UMAP
    where umap-learn is installed and PCA where it is not, 0, 8, and k-means on the principal components. HDBSCAN
    (Campello, Moulavi and Sander 2013) on the coordinates finds how many clusters there are and leaves out what is
    between them. `say` is told, in a line, what takes long. UsageError if no content has a direction, or umap-learn is
    asked for and missing.
    """
    store = Store.of(store)
    feature = feature or default_feature(store)
    if feature is None:
        raise UsageError(f"{store.path} has no features to draw: make some with `icehouse embed`")
    there = _kept(store, feature)
    before = {} if there is None else there.spec
    seed = _setting(seed, before.get("seed"), 0)
    clusters = _setting(clusters, before.get("clusters"), CLUSTERS)
    if method is None:
        kept = before.get("method")
        method = (
            kept if kept in METHODS and (kept == "pca" or _installed()) else "umap" if _installed() else "pca"
        )
    if method not in METHODS:
        raise UsageError(f"no method {method!r}; there are: {', '.join(METHODS)}")
    cluster_by = cluster_by or ("hdbscan" if before.get("cluster_by") == "hdbscan" else "kmeans")
    if cluster_by not in CLUSTERINGS:
        raise UsageError(f"no clusters by {cluster_by!r}; there are: {', '.join(CLUSTERINGS)}")
    if method == "umap" and not _installed():
        raise UsageError(
            'UMAP needs umap-learn, which is not installed: pip install "icehouse[map]", or --method pca'
        )
    table = store.feature_table(feature)
    vectors = store.vectors(feature)
    key = str(table.spec["key"])
    rows, keys = _used(store, vectors, key)
    notes: list[str] = []
    provenance: dict[str, Any] = {
        "feature": feature,
        "feature_fingerprint": table.spec.get("fingerprint"),
        "method": method,
        "seed": seed,
        "clusters": clusters,
        "components": COMPONENTS,
    }
    if method == "umap":
        provenance |= {"n_neighbors": NEIGHBOURS, "min_dist": MIN_DIST}
    if cluster_by == "hdbscan":
        provenance |= {"cluster_by": cluster_by, "min_cluster_size": _least(len(rows))}
    spec = {
        "kind": "map",
        "key": key,
        **provenance,
        "fingerprint": fingerprint(provenance),
        "contents": _digest(keys),
    }
    if (
        there is not None
        and not again
        and all(there.spec.get(name) == spec[name] for name in ("fingerprint", "contents"))
    ):
        return Made(there, False)
    if there is not None:
        notes.append(_why(there, spec, keys))
    say(f"{count_of(len(rows), 'content')} of {feature}, by {method.upper()}")
    xy, cluster, usable = _compute(vectors.X, rows, method, seed, clusters, cluster_by, notes)
    lost = len(rows) - int(usable.sum())
    if lost:
        notes.append(
            f"{count_of(lost, 'content')} with a vector that has no direction (zero or not finite): no point on the map"
        )
    schema = pa.schema(
        [
            pa.field(key, pa.string(), nullable=False),
            pa.field("x", pa.float32(), nullable=False),
            pa.field("y", pa.float32(), nullable=False),
            pa.field("cluster", pa.int32()),
        ]
    )
    points = pa.table(
        [
            keys.filter(pa.array(usable)),
            pa.array(xy[:, 0]),
            pa.array(xy[:, 1]),
            pa.array(cluster, mask=cluster < 0),
        ],
        schema=schema,
    )
    spec |= {"made": datetime.now(UTC).isoformat(timespec="seconds"), "libraries": _libraries(method)}
    table = store.ensure_table(PREFIX + feature, schema, spec)
    if not {*schema.names} <= {*table.snapshot().schema.names}:
        raise CorruptError(f"{table.path} is no map of {feature}: move it away, and make the map again")
    table.replace(points, spec)
    return Made(read_map(store, feature), True, tuple(notes))


def _setting(given: int | None, before: Any, default: int) -> int:
    """A number as it is given, else as the map has it that is there, else by default."""
    number = given if given is not None else before if type(before) is int and before >= 0 else default
    if number < 0:
        raise UsageError("seed and clusters are not negative")
    return number


def _installed() -> bool:
    return importlib.util.find_spec("umap") is not None


def _kept(store: Store, feature: str) -> Map | None:
    try:
        return read_map(store, feature) if feature in list_maps(store) else None
    except CorruptError:
        return None  # it is made anew


def _used(store: Store, vectors: Vectors, key: str) -> tuple[np.ndarray, pa.Array]:
    """Rows of the vectors whose content an item has, in the order of the digests; and those digests."""
    used = store.items.read([key])[key].combine_chunks().unique()
    keys = vectors.keys.combine_chunks().cast(pa.string())
    rows = np.flatnonzero(pc.is_in(keys, value_set=used.drop_null()).to_numpy(zero_copy_only=False))
    found = keys.take(pa.array(rows))
    order = pc.sort_indices(found)
    return rows[order.to_numpy()], found.take(order)


def _digest(keys: pa.Array) -> str:
    """Digest of a set of contents, whatever parts of a table they lie in."""
    made = hashlib.sha256()
    for key in keys.to_pylist():
        made.update(key.encode() + b"\n")
    return made.hexdigest()[:32]


def _why(there: Map, spec: dict[str, Any], keys: pa.Array) -> str:
    """Say what made a map stale."""
    if there.spec.get("feature_fingerprint") != spec["feature_fingerprint"]:
        return "made anew: the feature is of another encoder now"
    if there.spec.get("fingerprint") != spec["fingerprint"]:
        names = ("method", "seed", "clusters", "cluster_by", "components", "n_neighbors", "min_dist")
        differing = [name for name in names if there.spec.get(name) != spec.get(name)]
        return f"made anew: another {', '.join(differing) or 'provenance'}"
    new = len(keys) - (pc.sum(pc.is_in(keys, value_set=there.keys)).as_py() or 0)
    gone = len(there.keys) - (pc.sum(pc.is_in(there.keys, value_set=keys)).as_py() or 0)
    return f"made anew: {count_of(new, 'content')} came since, {gone:,} went" if new or gone else "made anew"


def _libraries(method: str) -> dict[str, str]:
    names = ["numpy", "scikit-learn", *(["umap-learn", "numba", "pynndescent"] if method == "umap" else [])]
    return {name: importlib.metadata.version(name) for name in names}


def _compute(
    X: np.ndarray,
    rows: np.ndarray,
    method: str,
    seed: int,
    clusters: int,
    cluster_by: str,
    notes: list[str],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coordinates and clusters of the usable rows, and which of `rows` are usable."""
    mean, axes, usable = _principal(X, rows)
    rows = rows[usable]
    reduced = np.empty((len(rows), len(axes)), np.float32)
    for start in range(0, len(rows), _BLOCK):
        block = unit_rows(np.asarray(X[rows[start : start + _BLOCK]]))
        reduced[start : start + _BLOCK] = (block - mean) @ axes.T
    if method == "umap" and len(rows) < _LEAST_FOR_UMAP:
        notes.append(f"{count_of(len(rows), 'content is', 'contents are')} too few for UMAP: drawn by PCA")
        method = "pca"
    xy = _umap(reduced, seed) if method == "umap" else reduced[:, :2].copy()
    if not np.isfinite(xy).all():
        raise SpaceError(
            "the map came out with coordinates that are not finite; --method pca draws it by PCA"
        )
    if not clusters:
        return xy, np.full(len(xy), -1, np.int32), usable
    found = _density(xy) if cluster_by == "hdbscan" else _means(reduced, clusters, seed)
    return xy, _numbered(found), usable


def _principal(X: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, principal axes and usable rows of vectors at unit length, read a block at a time.

    The axes are those of the covariance in float64; each has its largest entry positive, as scikit-learn's have.
    """
    dim = X.shape[1]
    total, products, usable = np.zeros(dim), np.zeros((dim, dim)), np.zeros(len(rows), bool)
    for start in range(0, len(rows), _BLOCK):
        units = unit_rows(np.asarray(X[rows[start : start + _BLOCK]]))
        good = np.isfinite(units).all(axis=1)
        usable[start : start + _BLOCK] = good
        total += units[good].sum(axis=0)
    n = int(usable.sum())
    if not n:
        raise UsageError("none of the items has a vector with a direction: there is nothing to draw")
    mean = total / n
    for start in range(0, len(rows), _BLOCK):
        good = usable[start : start + _BLOCK]
        # Centred first: the difference of two large sums would lose what is small.
        block = unit_rows(np.asarray(X[rows[start : start + _BLOCK]]))[good] - mean
        products += block.T @ block
    values, columns = np.linalg.eigh(products / max(n - 1, 1))
    axes = columns[:, np.argsort(-values, kind="stable")[: min(COMPONENTS, dim)]].T
    largest = np.abs(axes).argmax(axis=1)
    axes *= np.where(axes[np.arange(len(axes)), largest] < 0, -1.0, 1.0)[:, None]
    if len(axes) < 2:
        axes = np.vstack([axes, np.zeros((2 - len(axes), dim))])
    return mean, axes, usable


def _umap(reduced: np.ndarray, seed: int) -> np.ndarray:
    """UMAP of the reduced vectors by one thread, since several are not repeatable."""
    os.environ.setdefault("NUMBA_THREADING_LAYER", "workqueue")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from umap import UMAP

        made = UMAP(
            n_neighbors=min(NEIGHBOURS, len(reduced) - 1),
            min_dist=MIN_DIST,
            metric="euclidean",
            init="pca",
            low_memory=True,
            random_state=seed,
            n_jobs=1,
        ).fit_transform(reduced)
    xy: np.ndarray = np.asarray(made, np.float32)
    return xy - xy.mean(axis=0, dtype=np.float64).astype(np.float32)


def _means(reduced: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    """Clusters of k-means."""
    from sklearn.cluster import MiniBatchKMeans
    from threadpoolctl import threadpool_limits

    with warnings.catch_warnings(), threadpool_limits(1):  # sums of several threads are not repeatable
        warnings.simplefilter("ignore")  # fewer distinct contents than clusters
        k = min(clusters, len(reduced))
        found = MiniBatchKMeans(k, random_state=seed, n_init=5, batch_size=4096).fit_predict(reduced)
    return np.asarray(found)


def _least(n: int) -> int:
    """Points of the smallest cluster that HDBSCAN looks for."""
    return max(5, n // 200)


def _density(xy: np.ndarray) -> np.ndarray:
    """Clusters of HDBSCAN; -1 for points between them."""
    from sklearn.cluster import HDBSCAN

    size = _least(len(xy))
    if len(xy) < 2 * size:
        return np.full(len(xy), -1)
    # Few neighbours tell how dense it is around a point, however large a cluster has to be.
    return np.asarray(HDBSCAN(min_cluster_size=size, min_samples=5, copy=True).fit_predict(xy))


def _numbered(found: np.ndarray) -> np.ndarray:
    """Clusters numbered from the largest on; -1 stays."""
    numbers = np.full(len(found), -1, np.int32)
    there = np.flatnonzero(found >= 0)
    _, first, of, counts = np.unique(found[there], return_index=True, return_inverse=True, return_counts=True)
    rank = np.empty(len(first), np.int32)
    rank[np.lexsort([first, -counts])] = np.arange(len(first))
    numbers[there] = rank[of]
    return numbers


# Export for embedding-atlas.


def export_map(
    store: Store | str | Path,
    feature: str,
    out: Path,
    *,
    neighbours: int = NEIGHBOURS,
    vectors: bool = True,
    where: str | None = None,
) -> int:
    """Write the items of a map, or those that meet `where`, as a Parquet file that embedding-atlas opens. Rows written.

    Columns: ``item_id``, ``text``, ``image`` (path), ``split``, labels, ``cluster``, ``x``, ``y``; ``neighbors`` of
    each item, unless their number is 0, that is ``ids`` (row numbers of the file from 0, nearest first) and
    ``distances`` (1 - cosine); and with `vectors` also ``vector``.
    """
    store = Store.of(store)
    if out.suffix.lower() != ".parquet":
        raise UsageError(f"{out} has to end in .parquet")
    if neighbours < 0:
        raise UsageError("the number of neighbours is not negative")
    drawn = read_map(store, feature)
    key = drawn.spec["key"]
    labels = label_columns(store.items.snapshot().schema)
    names = ["item_id", "text", "root", "path", "split", *labels]
    items, _ = store.present_items([*dict.fromkeys([*names, key])], where)
    at = pc.index_in(items[key], value_set=drawn.keys, skip_nulls=True)
    items, at = items.filter(pc.is_valid(at)), at.drop_null().to_numpy()
    if not len(items):
        raise UsageError(
            f"no item is on the map of {feature}: `icehouse map -f {feature}` brings it up to date"
        )
    held = store.vectors(feature)
    place = pc.index_in(items[key], value_set=held.keys)
    if place.null_count:
        raise StoreError(
            f"the map of {feature} has contents that the feature lacks: make it anew by `icehouse map -f {feature}`"
        )
    units = np.ascontiguousarray(unit_rows(np.asarray(held.X[place.to_numpy()]), np.float32))
    taken = {"item_id", "text", "image", "split", "cluster", "x", "y", "neighbors", "vector"}
    columns: dict[str, Any] = {"item_id": items["item_id"], "text": items["text"]}
    columns["image"] = pa.array(
        [
            None if path is None or root is None else str(Path(root) / path)
            for root, path in zip(items["root"].to_pylist(), items["path"].to_pylist(), strict=True)
        ],
        pa.string(),
    )
    columns["split"] = items["split"]
    for name in labels:
        columns[f"label_{name}" if name.lower() in taken else name] = items[name]
    columns["cluster"] = pa.array(
        [None if c < 0 else f"cluster {c + 1}" for c in drawn.cluster[at].tolist()], pa.string()
    )
    columns["x"], columns["y"] = pa.array(drawn.xy[at, 0]), pa.array(drawn.xy[at, 1])
    k = min(neighbours, len(items) - 1)
    if k > 0:
        columns["neighbors"] = _neighbours(units, k)
    if vectors:
        columns["vector"] = pa.FixedSizeListArray.from_arrays(pa.array(units.reshape(-1)), units.shape[1])
    try:
        with publish(out) as temp:
            pq.write_table(pa.table(columns), temp, compression="zstd")
    except OSError as error:
        raise UsageError(f"cannot write {out}: {error.strerror or error}") from error
    return len(items)


def _neighbours(units: np.ndarray, k: int) -> pa.Array:
    """Nearest rows of each row but itself, as embedding-atlas takes them: ``{ids, distances}``."""
    import faiss

    ids, distances = np.empty((len(units), k), np.int64), np.empty((len(units), k), np.float64)
    for start in range(0, len(units), _BLOCK):
        block = units[start : start + _BLOCK]
        cosine, near = faiss.knn(block, units, k + 1, metric=faiss.METRIC_INNER_PRODUCT)
        other = near != np.arange(start, start + len(block))[:, None]
        other[other.all(axis=1), -1] = False  # among many copies the row itself may not be
        ids[start : start + len(block)] = near[other].reshape(-1, k)
        distances[start : start + len(block)] = 1 - np.clip(cosine[other].reshape(-1, k), -1, 1)
    offsets = pa.array(np.arange(0, k * len(units) + 1, k), pa.int32())
    return pa.StructArray.from_arrays(
        [
            pa.ListArray.from_arrays(offsets, pa.array(ids.reshape(-1))),
            pa.ListArray.from_arrays(offsets, pa.array(distances.reshape(-1))),
        ],
        names=["ids", "distances"],
    )
