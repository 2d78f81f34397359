"""Duplicates page: groups side by side, contradicting labels first; judged, applied to the store, undone, taken away."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import FileResponse

from ...dups.apply import apply_judgements
from ...dups.gallery import (
    Choice,
    Selection,
    gallery_data,
    gallery_title,
    read_groups,
    search_overview,
    select,
)
from ...dups.judgements import read_records
from ...dups.pair_graph import Duplicates, list_duplicates
from ...dups.results import LABEL, label_codes
from ...embed.thumbnails import Thumbnail
from ...errors import SourceError
from ...store.store import Store
from .browse import item_url
from .catalog import Catalog
from .state import Json, content_type, page, served

router = APIRouter(include_in_schema=False)

#: Groups of a page.
PER_PAGE = 24

ORDERS = {
    "conflicts": "labels that contradict",
    "chained": "chained groups",
    "score": "least alike",
    "size": "largest",
    "group": "best keeper",
}

#: Lists of a search that can be taken away.
FILES = ("drop.csv", "keep.csv", "variants.csv")

#: Bytes of judgements that are applied at once.
MAX_JUDGED = 16 * 2**20

SearchName = Annotated[str | None, Query(max_length=200)]


@router.get("/duplicates")
def duplicates(
    request: Request,
    search: SearchName = None,
    first: Annotated[str, Query(max_length=20)] = "conflicts",
    number: Annotated[int, Query(alias="page", ge=1, le=10**6)] = 1,
) -> Any:
    """A page of groups."""
    state = served(request)
    catalog, store = state.catalog, state.catalog.store
    names = list_duplicates(store)
    if not names:
        return page(request, "app_no_duplicates.html", title="Duplicates")
    found = Duplicates.open(store, _known(search, names))
    order = first if first in ORDERS else "conflicts"
    selection, labels = groups_in_order(catalog, found, order)
    pages = max(1, -(-len(selection) // PER_PAGE))
    number = min(number, pages)
    shown = slice((number - 1) * PER_PAGE, number * PER_PAGE)
    asked = {"search": found.name, "first": order}
    return page(
        request,
        "app_duplicates.html",
        shell="app_base.html",
        title=gallery_title(found.summary),
        names=names,
        orders=ORDERS,
        asked=asked,
        records=_records(store, found.content),
        files=[name for name in FILES if (found.path / name).is_file()],
        conflicts=sum(len(values) > 1 for values in labels),
        label=LABEL,
        overview=search_overview(found.summary, selection) | {"variants": 0} if number == 1 else None,
        links=_links(asked, number, pages) if pages > 1 else None,
        page=f"{number}/{order}-{pages}",
        all_groups=len(selection),
        apply=f"/duplicates/apply?{urlencode({'search': found.name})}",
        **_shown(catalog, found, selection, shown, labels),
    )


def _known(search: str | None, names: list[str]) -> str | None:
    if search is not None and search not in names:
        raise HTTPException(404, "there is no such search for duplicates")
    return search


def groups_in_order(catalog: Catalog, found: Duplicates, first: str) -> tuple[Selection, list[list[str]]]:
    """All groups of a search in an order, and the labels that occur in each."""
    sort = "score" if first == "conflicts" else first
    clusters = found.clusters()
    selection = select(clusters, Choice(sort=sort, max_groups=max(1, clusters.num_rows)))
    labels = _labels_of_groups(catalog, selection)
    if first == "conflicts":
        order = sorted(range(len(labels)), key=lambda at: len(labels[at]) < 2)
        labels = [labels[at] for at in order]
        chosen = np.array(order, np.int64)
        selection = replace(
            selection,
            rows=[selection.rows[at] for at in order],
            **{name: getattr(selection, name)[chosen] for name in ("first", "second", "filtered", "capped")},
        )
    return selection, labels


def _labels_of_groups(catalog: Catalog, selection: Selection) -> list[list[str]]:
    """Labels that occur in each group, letter case and blanks around aside."""
    if LABEL not in catalog.labels or pa.types.is_list(catalog.table.schema.field(LABEL).type):
        return [[] for _ in range(len(selection))]
    clusters = selection.clusters
    rows = pc.index_in(clusters["item_id"], value_set=catalog.table["item_id"].combine_chunks())
    values = catalog.table[LABEL].combine_chunks().take(rows).cast(pa.string())
    codes, told = label_codes(values), values.to_pylist()
    starts = np.sort(selection.first)
    stops = dict(zip(starts.tolist(), np.append(starts, len(codes))[1:].tolist(), strict=True))
    found = []
    for start in selection.first.tolist():
        there = {int(codes[at]): told[at] for at in range(start, stops[start]) if codes[at] >= 0}
        found.append([str(value) for _, value in sorted(there.items())])
    return found


def _shown(
    catalog: Catalog, found: Duplicates, selection: Selection, part: slice, labels: list[list[str]]
) -> dict[str, Any]:
    """Groups of a page as the gallery shows them, with the pictures that this server makes."""
    groups = list(read_groups(catalog.store, selection, part, found.summary["parameters"]))
    pictures: list[Thumbnail | None] = []
    for group in groups:
        for member in group.members:
            row = catalog.row(member.item_id)
            pictures.append(None if row is None else catalog.card(row).picture)
    data = gallery_data(found.summary, groups, pictures)
    for group_shown, there in zip(data["groups"], labels[part], strict=True):
        group_shown["conflict"] = there if len(there) > 1 else []
        for member_shown in group_shown["members"]:
            card = member_shown["card"]
            member_shown["card"] = replace(card, href=item_url(card.item_id))
    return data


def _links(asked: dict[str, str], number: int, pages: int) -> dict[str, Any]:
    def to(page: int) -> str:
        return f"/duplicates?{urlencode({**asked, 'page': page})}"

    return {
        "number": number,
        "total": pages,
        "index": to(1),
        "all": "First page",
        "previous": to(number - 1) if number > 1 else None,
        "next": to(number + 1) if number < pages else None,
    }


def _records(store: Store, content: str) -> list[dict[str, Any]]:
    """Judgements of one kind of content that were applied and still count, oldest first."""
    records = read_records(store)
    gone = {record["undoes"] for record in records if record["kind"] == "undo"}
    return [
        {"by": record.get("by") or "somebody", "count": len(record["pairs"])}
        for record in records
        if record["kind"] == "judgements" and record["number"] not in gone and record["content"] == content
    ]


@router.post("/duplicates/apply")
async def apply(
    request: Request, search: SearchName = None, by: Annotated[str | None, Query(max_length=100)] = None
) -> Any:
    """Apply judgements, as the gallery saves them, to the store; what `icehouse dups apply` does with the file."""
    if content_type(request) != "text/csv":
        raise HTTPException(415, "send the judgements as text/csv, with the columns a, b, label and keep")
    data = await request.body()
    if len(data) > MAX_JUDGED:
        raise HTTPException(413, f"more than {MAX_JUDGED // 2**20} MB of judgements: apply them in parts")
    state = served(request)
    store, name = state.catalog.store, _known(search, list_duplicates(state.catalog.store))

    def run() -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "judged.csv"
            file.write_bytes(data)
            try:
                done = apply_judgements(store, file, name, by=by).as_dict()
            except SourceError as error:
                raise SourceError(str(error).replace(str(file), file.name)) from error
        return {**done, "problems": [line.replace(str(file), file.name) for line in done["problems"]]}

    return Json(await state.in_thread(run))


@router.post("/duplicates/undo")
async def undo(request: Request, search: SearchName = None) -> Any:
    """Undo the judgements that were applied last."""
    state = served(request)
    store, name = state.catalog.store, _known(search, list_duplicates(state.catalog.store))
    return Json(await state.in_thread(lambda: apply_judgements(store, None, name, undo=True).as_dict()))


@router.get("/duplicates/file")
def file(request: Request, name: Annotated[str, Query(max_length=40)], search: SearchName = None) -> Any:
    """A list of the search, to be taken away."""
    store = served(request).catalog.store
    found = Duplicates.open(store, _known(search, list_duplicates(store)))
    if name not in FILES or not (found.path / name).is_file():
        raise HTTPException(404, "there is no such list")
    return FileResponse(found.path / name, media_type="text/csv", filename=name)
