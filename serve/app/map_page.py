"""Map page: every item as a point, its colours by label, split, cluster, duplicates or a run; and the chosen items' cards.

Points and colours go to the browser as bytes: a number of four bytes, so many bytes of JSON, then arrays of little-endian
numbers that a typed array reads as they are. Both carry the version of the store that they are of.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Annotated, Any
from weakref import WeakKeyDictionary

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from fastapi import APIRouter, HTTPException, Query, Request, Response

from ...console import one_line
from ...dups.pair_graph import Duplicates, list_duplicates
from ...errors import IcehouseError, count_of
from ...heads.evaluate import predict_items
from ...heads.runs import Run, list_runs
from ...web.render import clean
from ..projection import Map, list_maps, read_map
from .api import served
from .browse import Found, cards
from .catalog import Catalog
from .rendering import page
from .state import State

router = APIRouter(include_in_schema=False)

#: Cards beside the map at a time.
PER_PAGE = 12

#: Categories with a colour of their own; further ones share one.
COLOURS = 8

#: Colourings and maps that are kept ready for one snapshot of the store.
_KEPT = 24

#: Code of a point that has no category.
NONE = 65535

MapName = Annotated[str | None, Query(alias="map", max_length=400)]

_Colouring = tuple[list[str], np.ndarray]
_made: WeakKeyDictionary[Catalog, OrderedDict[tuple[Any, ...], Any]] = WeakKeyDictionary()
_lock = threading.Lock()


@router.get("/map")
def show(request: Request, name: MapName = None) -> Any:
    """The map, or how to make one."""
    state = served(request)
    catalog = state.catalog
    names = list_maps(catalog.store)
    if not names:
        return page(request, "app_map.html", title="Map", names=[], path=str(catalog.store.path))
    drawn = _map(catalog, _known(name, names))
    rows, _ = points_of(catalog, drawn)
    return page(
        request,
        "app_map.html",
        title="Map",
        names=names,
        drawn=drawn,
        drawn_by=drawn.spec.get("method", "?"),
        points=len(rows),
        absent=_absent(catalog, drawn, rows),
        colours=colourings(state, catalog, drawn),
        colour_count=COLOURS,
        per_page=PER_PAGE,
    )


@router.get("/map/points")
def points(request: Request, name: MapName = None) -> Response:
    """Row (uint32) and coordinates (float32, x then y) of every point."""
    catalog = served(request).catalog
    drawn = _map(catalog, _known(name, list_maps(catalog.store)))

    def make() -> bytes:
        rows, xy = points_of(catalog, drawn)
        head = {"n": len(rows), "version": _version(catalog, drawn)}
        return packed(head, rows.astype("<u4"), xy.astype("<f4"))

    return _bytes(request, _version(catalog, drawn) + "-points", make)


@router.get("/map/colours")
def colours(
    request: Request, name: MapName = None, by: Annotated[str, Query(max_length=400)] = "cluster"
) -> Response:
    """Category (uint16, 65535 for none) of every point, and the names of the categories, the commonest first."""
    state = served(request)
    catalog = state.catalog
    drawn = _map(catalog, _known(name, list_maps(catalog.store)))
    if by not in dict(colourings(state, catalog, drawn)):
        raise HTTPException(404, "there is no such colouring")

    def make() -> bytes:
        rows, _ = points_of(catalog, drawn)
        names, codes = _keep(
            catalog,
            ("colour", by, drawn.feature, drawn.version),
            lambda: _coloured(state, catalog, drawn, rows, by),
        )
        counts = np.bincount(codes[codes != NONE], minlength=len(names)).tolist()
        head = {
            "n": len(rows),
            "version": _version(catalog, drawn),
            "categories": [
                {"name": clean(one_line(each))[:120], "count": count}
                for each, count in zip(names, counts, strict=True)
            ],
            "none": int((codes == NONE).sum()),
        }
        return packed(head, codes.astype("<u2"))

    return _bytes(request, f"{_version(catalog, drawn)}-{_runs_digest(state)}-{by}", make)


@router.get("/map/items")
def items(
    request: Request,
    rows: Annotated[str, Query(max_length=12 * PER_PAGE)],
    version: Annotated[str, Query(max_length=100)],
    name: MapName = None,
) -> Any:
    """Cards of chosen points, by their rows; 409 if the store has changed since the points were sent."""
    catalog = served(request).catalog
    drawn = _map(catalog, _known(name, list_maps(catalog.store)))
    if version != _version(catalog, drawn):
        raise HTTPException(409, "the store has changed: load the page again")
    given = rows.split(",")
    if len(given) > PER_PAGE or not all(each.isascii() and each.isdigit() for each in given):
        raise HTTPException(422, f"rows: numbers of at most {PER_PAGE} points are needed")
    chosen = [int(each) for each in given]
    if any(row >= len(catalog.table) for row in chosen):
        raise HTTPException(404, "there is no such point")
    return page(
        request,
        "app_map_items.html",
        title="Chosen items",
        cards=cards(catalog, Found(chosen, len(chosen), False)),
    )


def _known(name: str | None, names: list[str]) -> str:
    if not names or (name is not None and name not in names):
        raise HTTPException(404, "there is no such map: icehouse map makes one")
    images = [each for each in names if "/image/" in each]
    return name if name is not None else (images or names)[0]


def _keep(catalog: Catalog, key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
    """Value cached for this snapshot of the store, made if missing."""
    with _lock:
        kept = _made.setdefault(catalog, OrderedDict())
        if key in kept:
            kept.move_to_end(key)
            return kept[key]
    value = make()
    with _lock:
        kept[key] = value
        while len(kept) > _KEPT:
            kept.popitem(last=False)
    return value


def _map(catalog: Catalog, name: str) -> Map:
    version = catalog.store.table(f"maps/{name}").snapshot().version
    drawn: Map = _keep(catalog, ("map", name, version), lambda: read_map(catalog.store, name))
    return drawn


def points_of(catalog: Catalog, drawn: Map) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the items that have a point, in the order of the store, and their coordinates (n, 2)."""

    def make() -> tuple[np.ndarray, np.ndarray]:
        at = _content(catalog, drawn)
        rows = catalog.present[at[catalog.present] >= 0]
        return rows, drawn.xy[at[rows]]

    found: tuple[np.ndarray, np.ndarray] = _keep(catalog, ("points", drawn.feature, drawn.version), make)
    return found


def _content(catalog: Catalog, drawn: Map) -> np.ndarray:
    """Row of the map of every item; -1 where it has none."""
    key = drawn.spec["key"]
    at = pc.index_in(catalog.table[key], value_set=drawn.keys, skip_nulls=True)
    return np.asarray(pc.fill_null(at, -1).to_numpy(), np.int64)


def _absent(catalog: Catalog, drawn: Map, rows: np.ndarray) -> int:
    """Items that have the content, but no point: they came after the map was made."""
    there = pc.is_valid(catalog.table[drawn.spec["key"]]).to_numpy(zero_copy_only=False)
    return int(there[catalog.present].sum()) - len(rows)


def _version(catalog: Catalog, drawn: Map) -> str:
    told = f"{catalog.version}/{drawn.feature}/{drawn.version}/{drawn.spec.get('fingerprint')}"
    return hashlib.sha256(told.encode()).hexdigest()[:24]


def _runs_digest(state: State) -> str:
    """Digest of what colourings come from beside the items: a search for duplicates may be made anew under its name."""
    store = state.catalog.store
    times = []
    for name in list_duplicates(store):
        summary = store.path / "dups" / name / "summary.json"
        times.append(f"{name}{summary.stat().st_mtime_ns if summary.exists() else 0}")
    return hashlib.sha256("/".join(times).encode()).hexdigest()[:12]


def colourings(state: State, catalog: Catalog, drawn: Map) -> list[tuple[str, str]]:
    """Colourings of the points: the name in an address, and the words for it."""
    names = [name for name in (*catalog.labels, "split") if name in catalog.table.column_names]
    found = [
        (f"is.{name}", "Split" if name == "split" else f"Label: {name}")
        for name in names
        if _has(catalog, name)
    ]
    found += [("cluster", "Cluster")] if (drawn.cluster >= 0).any() else []
    found += [(f"dups.{name}", f"Duplicates: {name}") for name in list_duplicates(catalog.store)]
    runs = list(reversed(list_runs(catalog.store, damaged=[])))[:20]
    found += [(f"run.{run.run_id}", f"Prediction: {run.run_id}") for run in runs]
    return found or [("none", "Nothing")]


def _has(catalog: Catalog, name: str) -> bool:
    return catalog.table[name].null_count < len(catalog.table)


def _coloured(state: State, catalog: Catalog, drawn: Map, rows: np.ndarray, by: str) -> _Colouring:
    kind, _, name = by.partition(".")
    if kind == "none":
        return [], np.full(len(rows), NONE, np.uint16)
    if kind == "cluster":
        cluster = drawn.cluster[_content(catalog, drawn)[rows]]
        return categories([None if c < 0 else f"cluster {c + 1}" for c in cluster.tolist()])
    if kind == "is":
        values = catalog.table[name].take(pa.array(rows)).to_pylist()
        return categories([_said(value) for value in values])
    if kind == "dups":
        return _by_group(catalog, rows, name)
    predicted = predict_items(catalog.store, Run.load(catalog.store, name))
    at = pc.index_in(
        catalog.table["item_id"].take(pa.array(rows)), value_set=predicted["item_id"].combine_chunks()
    )
    return categories(predicted["predicted"].combine_chunks().take(at).to_pylist())


def _said(value: Any) -> str | None:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or None
    return None if value in (None, "") else str(value)


def categories(values: list[str | None]) -> _Colouring:
    """Names of the commonest values, and the place of each value among them; the rest share the last place."""
    array = pa.array(values, pa.string())
    counted = sorted(
        ((entry["counts"], entry["values"]) for entry in pc.value_counts(array.drop_null()).to_pylist()),
        key=lambda pair: (-pair[0], pair[1]),
    )
    names = [name for _, name in counted[:COLOURS]]
    codes = pc.index_in(array, value_set=pa.array(names, pa.string()))
    rest = len(counted) > COLOURS
    if rest:
        others = len(counted) - COLOURS
        codes = pc.if_else(pc.is_valid(array), pc.fill_null(codes, COLOURS), codes)
        names.append(count_of(others, "other"))
    found: np.ndarray = pc.fill_null(codes, NONE).to_numpy(zero_copy_only=False).astype(np.uint16)
    return names, found


def _by_group(catalog: Catalog, rows: np.ndarray, name: str) -> _Colouring:
    """Largest groups of near-duplicates, the other groups together; items of no group have no category."""
    clusters = Duplicates.open(catalog.store, name).clusters()
    at = pc.index_in(
        catalog.table["item_id"].take(pa.array(rows)), value_set=clusters["item_id"].combine_chunks()
    )
    group = clusters["group"].combine_chunks().take(at)
    return categories([None if number is None else f"group {number}" for number in group.to_pylist()])


def packed(head: dict[str, Any], *arrays: np.ndarray) -> bytes:
    """JSON and arrays as bytes: the length of the JSON (uint32), the JSON, padded to four bytes, the arrays."""
    text = json.dumps(head, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    return b"".join(
        [len(text).to_bytes(4, "little"), text, *(np.ascontiguousarray(array).tobytes() for array in arrays)]
    )


def _bytes(request: Request, tag: str, make: Callable[[], bytes]) -> Response:
    """Answer with bytes that the browser may keep as long as the store stays as it is; only then nothing is made."""
    etag = f'"{hashlib.sha256(tag.encode()).hexdigest()[:32]}"'
    headers = {"etag": etag, "cache-control": "private, no-cache"}
    known = request.headers.get("if-none-match", "")
    if etag in [each.strip().removeprefix("W/") for each in known.split(",")]:
        return Response(status_code=304, headers=headers)
    try:
        body = make()
    except HTTPException:
        raise
    except IcehouseError as error:
        raise HTTPException(422, one_line(str(error))) from error
    return Response(body, media_type="application/octet-stream", headers=headers)
