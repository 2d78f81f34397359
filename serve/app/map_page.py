"""Map page: every item as a point, its colours by label, split, cluster, duplicates or a run; and the chosen items' cards.

Points and colours go to the browser as bytes: a number of four bytes, so many bytes of JSON, then arrays of little-endian
numbers that a typed array reads as they are. Both carry the version of the store that they are of.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response

from ...console import one_line
from ...dups.pair_graph import Duplicates, list_duplicates, searches_stamp
from ...errors import IcehouseError, count_of
from ...heads.runs import Run, list_runs
from ...heads.trainer import predict_items
from ...web.render import clean
from ..projection import list_maps, read_map
from .browse import Found, cards
from .catalog import Catalog
from .state import page, served

router = APIRouter(include_in_schema=False)

#: Cards beside the map at a time.
PER_PAGE = 12

#: Categories with a colour of their own; further ones share one.
COLOURS = 8

#: Code of a point that has no category.
NONE = 65535

MapName = Annotated[str | None, Query(alias="map", max_length=400)]

_Colouring = tuple[list[str], np.ndarray]


class Points:
    """The points of a map in one snapshot of the store, and the colourings of them that were asked for."""

    def __init__(self, catalog: Catalog, name: str) -> None:
        self.catalog, self.map = catalog, read_map(catalog.store, name)
        key = catalog.table[self.map.spec["key"]]
        at = pc.fill_null(pc.index_in(key, value_set=self.map.keys, skip_nulls=True), -1).to_numpy()
        #: Items that have a point, in the order of the store, and the row of the map that each is at.
        self.rows: np.ndarray = catalog.present[at[catalog.present] >= 0]
        self.at: np.ndarray = at[self.rows].astype(np.int64)
        there = pc.is_valid(key).to_numpy(zero_copy_only=False)
        #: How many items have the content, but no point: they came after the map was made.
        self.absent = int(there[catalog.present].sum()) - len(self.rows)
        told = f"{catalog.version}/{name}/{self.map.version}/{self.map.spec.get('fingerprint')}"
        self.version = hashlib.sha256(told.encode()).hexdigest()[:24]
        self.coloured: dict[str, _Colouring] = {}


def points_of(request: Request, name: MapName = None) -> Points:
    """The points of the map that is named, by default of the images; 404 if there is none."""
    catalog = served(request).catalog
    names = list_maps(catalog.store)
    if not names or (name is not None and name not in names):
        raise HTTPException(404, "there is no such map: icehouse map makes one")
    if name is None:
        name = next((each for each in names if "/image/" in each), names[0])
    version = catalog.store.table(f"maps/{name}").snapshot().version
    kept = catalog.maps.get(name)
    if kept is None or kept.map.version != version:
        kept = catalog.maps[name] = Points(catalog, name)
    return kept


PointsOfMap = Annotated[Points, Depends(points_of)]


@router.get("/map")
def show(request: Request, name: MapName = None) -> Any:
    """The map, or how to make one."""
    catalog = served(request).catalog
    names = list_maps(catalog.store)
    if not names:
        return page(request, "app_map.html", title="Map", names=[], path=str(catalog.store.path))
    drawn = points_of(request, name)
    return page(
        request,
        "app_map.html",
        title="Map",
        names=names,
        drawn=drawn.map,
        drawn_by=drawn.map.spec.get("method", "?"),
        points=len(drawn.rows),
        absent=drawn.absent,
        colours=colourings(drawn),
        colour_count=COLOURS,
        per_page=PER_PAGE,
    )


@router.get("/map/points")
def points(request: Request, drawn: PointsOfMap) -> Response:
    """Row (uint32) and coordinates (float32, x then y) of every point."""

    def make() -> bytes:
        head = {"n": len(drawn.rows), "version": drawn.version}
        return packed(head, drawn.rows.astype("<u4"), drawn.map.xy[drawn.at].astype("<f4"))

    return _bytes(request, drawn.version + "-points", make)


@router.get("/map/colours")
def colours(
    request: Request, drawn: PointsOfMap, by: Annotated[str, Query(max_length=400)] = "cluster"
) -> Response:
    """Category (uint16, 65535 for none) of every point, and the names of the categories, the commonest first."""
    if by not in dict(colourings(drawn)):
        raise HTTPException(404, "there is no such colouring")
    # A search may be made anew under its name.
    tag = f"{drawn.version}-{searches_stamp(drawn.catalog.store)}-{by}"

    def make() -> bytes:
        if tag not in drawn.coloured:
            drawn.coloured[tag] = _coloured(drawn, by)
        names, codes = drawn.coloured[tag]
        counts = np.bincount(codes[codes != NONE], minlength=len(names)).tolist()
        head = {
            "n": len(drawn.rows),
            "version": drawn.version,
            "categories": [
                {"name": clean(one_line(each))[:120], "count": count}
                for each, count in zip(names, counts, strict=True)
            ],
            "none": int((codes == NONE).sum()),
        }
        return packed(head, codes.astype("<u2"))

    return _bytes(request, tag, make)


@router.get("/map/items")
def items(
    request: Request,
    drawn: PointsOfMap,
    rows: Annotated[str, Query(max_length=12 * PER_PAGE)],
    version: Annotated[str, Query(max_length=100)],
) -> Any:
    """Cards of chosen points, by their rows; 409 if the store has changed since the points were sent."""
    if version != drawn.version:
        raise HTTPException(409, "the store has changed: load the page again")
    given = rows.split(",")
    if len(given) > PER_PAGE or not all(each.isascii() and each.isdigit() for each in given):
        raise HTTPException(422, f"rows: numbers of at most {PER_PAGE} points are needed")
    chosen = [int(each) for each in given]
    if any(row >= len(drawn.catalog.table) for row in chosen):
        raise HTTPException(404, "there is no such point")
    shown = cards(drawn.catalog, Found(chosen, len(chosen), False))
    return page(request, "app_map_items.html", title="Chosen items", cards=shown)


def colourings(drawn: Points) -> list[tuple[str, str]]:
    """Colourings of the points: the name in an address, and the words for it."""
    table, store = drawn.catalog.table, drawn.catalog.store
    names = [name for name in (*drawn.catalog.labels, "split") if name in table.column_names]
    found = [
        (f"is.{name}", "Split" if name == "split" else f"Label: {name}")
        for name in names
        if table[name].null_count < len(table)
    ]
    found += [("cluster", "Cluster")] if (drawn.map.cluster >= 0).any() else []
    found += [(f"dups.{name}", f"Duplicates: {name}") for name in list_duplicates(store)]
    runs = list(reversed(list_runs(store, damaged=[])))[:20]
    found += [(f"run.{run.run_id}", f"Prediction: {run.run_id}") for run in runs]
    return found or [("none", "Nothing")]


def _coloured(drawn: Points, by: str) -> _Colouring:
    kind, _, name = by.partition(".")
    table, store = drawn.catalog.table, drawn.catalog.store
    if kind == "none":
        return [], np.full(len(drawn.rows), NONE, np.uint16)
    if kind == "cluster":
        numbers = drawn.map.cluster[drawn.at].tolist()
        return categories([None if number < 0 else f"cluster {number + 1}" for number in numbers])
    if kind == "is":
        return categories([_said(value) for value in table[name].take(pa.array(drawn.rows)).to_pylist()])
    if kind == "dups":  # the largest groups, the others together; what is in no group has no category
        told, column = Duplicates.open(store, name).clusters(), "group"
    else:
        told, column = predict_items(store, Run.load(store, name)), "predicted"
    ids = table["item_id"].take(pa.array(drawn.rows))
    at = pc.index_in(ids, value_set=told["item_id"].combine_chunks())
    values = told[column].combine_chunks().take(at).to_pylist()
    return categories([v if v is None or kind == "run" else f"group {v}" for v in values])


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
