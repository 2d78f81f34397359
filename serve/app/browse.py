"""Browse and search pages: items as a grid, by words, picture, item, condition, label, a run's mistakes; one item."""

from __future__ import annotations

import contextlib
import secrets
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any
from urllib.parse import urlencode

import numpy as np
from fastapi import APIRouter, HTTPException, Query, Request, Response
from fastapi.responses import RedirectResponse

from ...embed.thumbnails import small_picture
from ...errors import IcehouseError, ImageError, UsageError
from ...heads.runs import Run, list_runs
from ...web.render import Card, percent
from .api import find_row, read_input
from .catalog import Catalog, Neighbour
from .inference import Embedded, Kind
from .inference import Query as Asked
from .state import State, page, served

router = APIRouter(include_in_schema=False)

#: Items of a page, and pages of a ranking.
PER_PAGE, MAX_PAGE = 48, 200

#: Pictures to search by that are kept.
MAX_UPLOADS = 200

#: Parameters of an address that are texts.
_TEXTS = ("q", "picture", "like", "contains", "where", "run")

#: A label with more values than this is searched by a condition, not chosen from a list.
MAX_CHOICES = 60


@dataclass(frozen=True)
class Choice:
    """Choice of items for the grid, as in the query string.

    `q` are words to search by meaning, `picture` the name of one that was uploaded, `like` an item and `by` in which
    respect ("looks" or "meaning"), `contains` a part of the text or id, `where` a SQL condition, `equal` labels and split,
    `run` a run and `outcome` what it did to the item.
    """

    q: str = ""
    picture: str = ""
    like: str = ""
    by: str = "looks"
    contains: str = ""
    where: str = ""
    run: str = ""
    outcome: str = "wrong"
    page: int = 1
    equal: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, given: Mapping[str, str]) -> Choice:
        """Read the parameters of an address; those that are not known are left alone."""
        texts = {name: given.get(name, "").strip()[:10_000] for name in _TEXTS}
        number = given.get("page", "1")
        return cls(
            **texts,
            by="meaning" if given.get("by") == "meaning" else "looks",
            outcome="right" if given.get("outcome") == "right" else "wrong",
            page=min(max(int(number), 1), MAX_PAGE) if number.isascii() and number.isdigit() else 1,
            equal={name[3:]: value for name, value in given.items() if name.startswith("is.") and value},
        )

    def address(self, **changes: Any) -> str:
        """Address of the page with some of it changed."""
        other = replace(self, **{"page": 1, **changes})
        given = {name: getattr(other, name) for name in _TEXTS}
        given |= {f"is.{name}": value for name, value in other.equal.items()}
        given |= {"by": other.by} if other.like or other.picture else {}
        given |= {"outcome": other.outcome} if other.run else {}
        given |= {"page": str(other.page)} if other.page > 1 else {}
        return "/browse?" + urlencode({name: value for name, value in given.items() if value})

    @property
    def title(self) -> str:
        """Title of the page."""
        if self.q:
            return self.q
        if self.picture:
            return f"{'Means' if self.by == 'meaning' else 'Looks'} like the picture"
        if self.like:
            return f"{'Means' if self.by == 'meaning' else 'Looks'} like {self.like}"
        return (
            f"{'Mistakes' if self.outcome == 'wrong' else 'Right answers'} of {self.run}"
            if self.run
            else "Browse"
        )


@dataclass(frozen=True)
class Found:
    """Rows of a page of the grid, the scores of a ranking, remarks on items, how many there are in all (None: a ranking)."""

    rows: list[int]
    total: int | None
    more: bool
    scores: Mapping[int, float] = field(default_factory=dict)
    remarks: Mapping[int, str] = field(default_factory=dict)
    feature: str | None = None


@dataclass(frozen=True)
class Upload:
    """A picture that was searched by: its vectors, and itself as a small WebP."""

    embedded: Embedded
    picture: bytes


class Uploads:
    """The latest pictures that were searched by, in memory, so that their pages can be turned and reloaded."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Upload] = OrderedDict()

    def add(self, upload: Upload) -> str:
        """Keep a picture; the name by which it is found."""
        name = secrets.token_urlsafe(16)
        self._kept[name] = upload
        while len(self._kept) > MAX_UPLOADS:
            self._kept.popitem(last=False)
        return name

    def get(self, name: str) -> Upload:
        """The picture of that name; UsageError once it is gone."""
        if name not in self._kept:
            raise UsageError("that picture is not kept any more: choose it again")
        self._kept.move_to_end(name)
        return self._kept[name]


def uploads_of(request: Request) -> Uploads:
    """The pictures that were uploaded to this server."""
    found: Uploads | None = getattr(request.app.state, "uploads", None)
    if found is None:
        found = request.app.state.uploads = Uploads()
    return found


async def upload(state: State, image: bytes) -> Upload:
    """Embed a picture to search by, for how it looks and for what it means."""
    inference, catalog = state.inference, state.catalog
    features = {inference.search_feature(catalog, "image", joint=False)}
    with contextlib.suppress(UsageError):  # there may be none that tells what it means
        features.add(inference.search_feature(catalog, "image", joint=True))
    specs = [inference.asking_spec(feature, "image") for feature in features]
    async with inference.admission():
        embedded = await inference.embed(Asked(image), specs)
        return Upload(embedded, await inference.in_thread(small_picture, image))


async def find(state: State, catalog: Catalog, choice: Choice, uploads: Uploads) -> Found:
    """One page of what is asked for."""
    if choice.q or choice.picture:
        inference = state.inference
        kind: Kind = "text" if choice.q else "image"
        joint = not choice.q and choice.by == "meaning"
        feature = inference.search_feature(catalog, kind, joint=joint)
        spec = inference.asking_spec(feature, kind)
        async with inference.admission():
            if choice.q:
                embedded = await inference.embed(Asked(text=choice.q), [spec])
            else:
                embedded = uploads.get(choice.picture).embedded
            vector = embedded.vector(spec)
            if vector is None:
                raise UsageError("the store's features are other ones meanwhile: choose the picture again")
            return await inference.in_thread(lambda: _ranked(catalog, choice, feature, vector))
    return _listed(state, catalog, choice)


def _listed(state: State, catalog: Catalog, choice: Choice) -> Found:
    """A page of the items that meet the conditions, in the order of the store, of a run, or of a ranking by an item."""
    if choice.like:
        row = catalog.row(choice.like)
        if row is None:
            raise HTTPException(404, "there is no such item")
        feature, vector = catalog.vector_of(row, meaning=choice.by == "meaning")
        return _ranked(catalog, choice, feature, vector, without=row)
    rows = _filtered(catalog, choice)
    remarks: dict[int, str] = {}
    if choice.run:
        ordered, remarks = _outcomes(catalog, _stored_run(state, choice.run), wrong=choice.outcome == "wrong")
        rows = ordered[np.isin(ordered, rows)]
    start = (choice.page - 1) * PER_PAGE
    shown = rows[start : start + PER_PAGE].tolist()
    return Found(shown, len(rows), len(rows) > start + PER_PAGE, remarks=remarks)


def _filtered(catalog: Catalog, choice: Choice) -> np.ndarray:
    return catalog.select(where=choice.where or None, equal=choice.equal, words=choice.contains or None)


def _ranked(catalog: Catalog, choice: Choice, feature: str, vector: Any, without: int | None = None) -> Found:
    filtered = choice.where or choice.equal or choice.contains or choice.run
    rows = _filtered(catalog, choice) if filtered else None
    start = (choice.page - 1) * PER_PAGE
    near: list[Neighbour] = catalog.feature(feature).nearest(vector, start + PER_PAGE + 1, rows, without)
    shown = near[start : start + PER_PAGE]
    scores = {each.row: each.score for each in shown}
    return Found(list(scores), None, len(near) > start + PER_PAGE, scores, feature=feature)


def _stored_run(state: State, name: str) -> Run:
    assert state.store is not None
    return Run.load(state.store, name)


def _outcomes(catalog: Catalog, run: Run, *, wrong: bool) -> tuple[np.ndarray, dict[int, str]]:
    """Rows that a run predicted wrongly (or rightly) when it was scored, surest first, with what it said."""
    table = run.predictions()
    proba = np.stack([table[f"p_{label}"].to_numpy() for label in run.classes], axis=1)
    found: list[tuple[float, int, str]] = []
    for item, y, said, sure in zip(
        table["item_id"].to_pylist(),
        table["y"].to_pylist(),
        table["predicted"].to_pylist(),
        proba.max(axis=1).tolist(),
        strict=True,
    ):
        row = catalog.row(item)
        if row is not None and (said != y) == wrong:
            found.append((-sure, row, f"predicted {said} {percent(sure)}, is {y}"))
    found.sort()
    return np.array([row for _, row, _ in found], np.int64), {row: told for _, row, told in found}


def cards(catalog: Catalog, found: Found) -> list[dict[str, Any]]:
    """Cards of a page, each with its score and remark."""
    return [
        {
            "card": item_card(catalog, row, found.scores.get(row)),
            "score": found.scores.get(row),
            "remark": found.remarks.get(row),
        }
        for row in found.rows
    ]


def item_card(catalog: Catalog, row: int, score: float | None = None, side: int = 320) -> Card:
    """Card of an item that leads to its page."""
    meter = None if score is None else min(max(score, 0.0), 1.0)
    card = catalog.card(row, side=side, meter=meter)
    return replace(card, href=item_url(card.item_id))


def item_url(item_id: str) -> str:
    """Address of an item's page."""
    return f"/item?{urlencode({'id': item_id})}"


@router.get("/browse")
async def browse(request: Request) -> Any:
    """The grid."""
    return await _grid(request, Choice.of(dict(request.query_params)))


@router.post("/browse")
async def browse_by_picture(request: Request) -> Any:
    """Take a picture to search by, and lead to the grid that is ranked by it, whose pages can be turned."""
    asked = await read_input(request)
    if asked.image is None:
        return RedirectResponse(Choice(q=asked.text or "").address(), 303)
    try:
        name = uploads_of(request).add(await upload(served(request), asked.image))
    except (ImageError, UsageError) as error:
        return await _grid(request, Choice(), problem=str(error))
    return RedirectResponse(Choice(picture=name).address(), 303)


@router.get("/browse/picture")
def uploaded_picture(request: Request, name: Annotated[str, Query(max_length=40)]) -> Response:
    """A picture that was searched by."""
    try:
        return Response(uploads_of(request).get(name).picture, media_type="image/webp")
    except UsageError as error:
        raise HTTPException(404, str(error)) from None


async def _grid(request: Request, choice: Choice, problem: str | None = None) -> Any:
    state = served(request)
    catalog = state.catalog
    found = Found([], 0, False)
    try:
        if problem is None:
            found = await find(state, catalog, choice, uploads_of(request))
    except UsageError as error:
        problem = str(error)  # of the condition, the picture: the form stays, to be corrected
    return page(
        request,
        "app_browse.html",
        status=422 if problem else 200,
        title=choice.title,
        choice=choice,
        problem=problem,
        found=found,
        cards=cards(catalog, found),
        pages=1 if found.total is None else max(1, -(-found.total // PER_PAGE)),
        choices=label_choices(catalog),
        runs=[run.run_id for run in reversed(list_runs(catalog.store, damaged=[]))][:50],
        size=len(catalog),
    )


def label_choices(catalog: Catalog) -> dict[str, list[str]]:
    """Values to choose from of every label that has few."""
    names = [name for name in ("split", *catalog.labels) if name in catalog.table.column_names]
    values = {name: catalog.values_of(name, MAX_CHOICES + 1) for name in names}
    return {name: found for name, found in values.items() if 0 < len(found) <= MAX_CHOICES}


@router.get("/item")
def item(request: Request, id: Annotated[str, Query(max_length=4000)]) -> Any:
    """Everything about one item, and what is like it."""
    state = served(request)
    catalog = state.catalog
    row = find_row(catalog, id)
    like: dict[str, list[dict[str, Any]]] = {}
    for by in ("looks", "meaning"):
        try:
            feature, vector = catalog.vector_of(row, meaning=by == "meaning")
        except IcehouseError:
            continue
        near = catalog.feature(feature).nearest(vector, 6, without=row)
        scores = {each.row: each.score for each in near}
        like[by] = cards(catalog, Found(list(scores), None, True, scores, feature=feature))
    return page(
        request,
        "app_item.html",
        title=id,
        card=catalog.card(row, side=720),
        captions=catalog.captions(row),
        values={name: value for name, value in catalog.values(row).items() if value is not None},
        like=like,
        said=[told for run in state.runs.values() if (told := _said(run, id)) is not None],
        browse=Choice(like=id),
    )


def _said(run: Run, item_id: str) -> dict[str, Any] | None:
    """What a run said of an item when it was scored, or that it learned from it; where its folder is gone, that it is."""
    try:
        return _recorded(run, item_id)
    except IcehouseError as error:  # it answers from memory, and costs the item's page nothing
        return {"run": run.run_id, "problem": str(error), "proba": {}}


def _recorded(run: Run, item_id: str) -> dict[str, Any] | None:
    table = run.predictions()
    at = np.flatnonzero(np.array(table["item_id"].to_pylist(), object) == item_id)
    if not len(at):
        roles = run.training_items() if (run.path / "training.parquet").exists() else {}
        role = next((role for role, ids in roles.items() if item_id in ids), None)
        return None if role is None else {"run": run.run_id, "role": role, "proba": {}}
    values = table.slice(int(at[0]), 1).to_pylist()[0]
    proba = {label: values[f"p_{label}"] for label in run.classes}
    ordered = dict(sorted(proba.items(), key=lambda pair: -pair[1]))
    return {"run": run.run_id, "role": values["split"], "true": values["y"], "proba": ordered}
