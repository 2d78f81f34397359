"""Label page: the next item of a task, what is said of it, undo, disagreements for the adjudicator, agreement, progress."""

from __future__ import annotations

import threading
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Query, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...errors import UsageError
from ..label_table import checked_annotator, load_task, task_names
from ..labelling import Desk
from .state import Json, content_type, first_problem, page, served, wants_page

router = APIRouter(include_in_schema=False)

#: Size of the drawn learning curve.
_WIDTH, _HEIGHT = 320, 120

#: Most bytes of what is said.
_MAX_BODY = 20_000

#: Views of the page: of an annotator, of the adjudicator.
_QUEUE, _ADJUDICATE = "queue", "adjudicate"

_making = threading.Lock()


class Undone(BaseModel):
    """Take back the annotator's last word."""

    model_config = ConfigDict(extra="forbid")
    task: str = Field(max_length=100)
    annotator: str = Field(max_length=400)
    entry_id: str = Field(max_length=80)
    view: str = Field(_QUEUE, pattern="^(queue|adjudicate)$")


class Said(Undone):
    """Answer of an annotator for an item: a class, or null to skip it."""

    item_id: str = Field(max_length=4000)
    label: str | None = Field(None, max_length=400)


Name = Annotated[str, Query(max_length=400)]
View = Annotated[str, Query(pattern="^(queue|adjudicate)$")]


def desk_of(request: Request, task: str | None) -> Desk:
    """The desk of a task, made when it is first asked for."""
    store = served(request).store
    assert store is not None
    try:
        name = load_task(store, task or None).name
    except UsageError as error:
        raise HTTPException(404, str(error)) from None
    with _making:
        desks: dict[str, Desk] | None = getattr(request.app.state, "label_desks", None)
        if desks is None:
            desks = request.app.state.label_desks = {}
        if name not in desks:
            desks[name] = Desk(store, name)
        return desks[name]


@router.get("/label")
def label(request: Request, task: Name = "", view: View = _QUEUE) -> Any:
    """The page; its script asks for the annotator's name and then for the first item."""
    store = served(request).store
    assert store is not None
    names = task_names(store)
    if not wants_page(request):
        return Json({"tasks": names})
    desk = desk_of(request, task) if task or len(names) == 1 else None
    return page(
        request,
        "app_label.html",
        title=f"Label: {desk.name}" if desk else "Label",
        desk=desk,
        names=names,
        view=view,
        told=None if desk is None else shown(desk),
    )


@router.get("/label/item")
def item(
    request: Request,
    annotator: Name,
    task: Name = "",
    view: View = _QUEUE,
    id: Annotated[str | None, Query(max_length=4000)] = None,
) -> Any:
    """Page of the next item to label, or of a certain one."""
    desk = desk_of(request, task)
    if id is not None and id not in desk.units.of:
        raise HTTPException(404, "there is no such item to label")
    return _answer(request, desk, annotator, view, id)


def _body(kind: type[Undone]) -> Any:
    """JSON of a body: only that, which no form of another site can send."""

    async def read(request: Request) -> Any:
        if content_type(request) != "application/json":
            raise HTTPException(415, "send JSON, with content-type application/json")
        data = await request.body()
        if len(data) > _MAX_BODY:
            raise HTTPException(413, "the body is too large for a label")
        try:
            return kind.model_validate_json(data)
        except ValidationError as error:
            raise HTTPException(422, first_problem(error.errors())) from None

    return Depends(read)


@router.post("/label")
def say(request: Request, said: Annotated[Said, _body(Said)]) -> Any:
    """Keep a label or a skip; the answer, which has the next item, is sent once it is on the medium."""
    desk, adjudicate = desk_of(request, said.task), said.view == _ADJUDICATE
    new = desk.say(said.annotator, said.item_id, said.label, said.entry_id, adjudicate=adjudicate)
    return _answer(request, desk, said.annotator, said.view, kept=new)


@router.post("/label/undo")
def undo(request: Request, undone: Annotated[Undone, _body(Undone)]) -> Any:
    """Take back the last word, and show its item again."""
    desk = desk_of(request, undone.task)
    item_id = desk.undo(undone.annotator, undone.entry_id, adjudicate=undone.view == _ADJUDICATE)
    return _answer(request, desk, undone.annotator, undone.view, item_id, kept=item_id is not None)


@router.get("/label/status")
def status(request: Request, task: Name = "") -> Any:
    """Agreement, progress and the learning curve, as `icehouse label --status --json` has them."""
    return Json(desk_of(request, task).status())


def _answer(
    request: Request,
    desk: Desk,
    annotator: str,
    view: str,
    item_id: str | None = None,
    kept: bool | None = None,
) -> Any:
    """Next item to show, as JSON or as a part of the page."""
    name = checked_annotator(annotator)
    adjudicate = view == _ADJUDICATE
    chosen = item_id or desk.next_item(name, adjudicate=adjudicate)
    progress = desk.progress(name)
    catalog = served(request).catalog
    row = None if chosen is None else catalog.row(chosen)
    votes = desk.votes_on(chosen) if adjudicate and chosen is not None else []
    members = [] if chosen is None else desk.units.members.get(desk.units.of.get(chosen, ""), [])
    if request.headers.get("x-fragment") != "desk":
        shown_item = None
        if chosen is not None and row is not None:
            text = catalog.table["text"][row].as_py()
            shown_item = {"item_id": chosen, "text": text, "stands_for": len(members)}
        told = {
            "item": shown_item,
            "votes": [{"annotator": vote.annotator, "label": vote.label} for vote in votes],
            "progress": progress,
        }
        return Json(told if kept is None else {**told, "kept": kept})
    return page(
        request,
        "app_label_item.html",
        title=desk.name,
        desk=desk,
        card=None if row is None else catalog.card(row, side=720),
        members=len(members),
        votes=votes,
        progress=progress,
        annotator=name,
        view=view,
    )


def shown(desk: Desk) -> dict[str, Any]:
    """The status as the page draws it: with points of the learning curve."""
    told = desk.status()
    curve = told["learning"]["curve"]
    told["line"] = None
    if len(curve) > 1:
        first, last = curve[0]["labels"], curve[-1]["labels"]

        def points(key: str) -> list[str]:
            return [
                f"{_WIDTH * (p['labels'] - first) / max(last - first, 1):.1f},{_HEIGHT * (1 - p[key]):.1f}"
                for p in curve
            ]

        told["line"] = " ".join(points("accuracy"))
        told["band"] = " ".join([*points("high"), *reversed(points("low"))])
        told["from"], told["to"] = first, last
    return told
