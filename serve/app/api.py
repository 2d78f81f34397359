"""JSON API: predict, search, duplicates, items, runs, health, metrics."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile

from ...dups.window import Arrival
from ...errors import IcehouseError, SourceError, UsageError
from ...heads.runs import Run
from ...store.schema import tower_of
from .catalog import Catalog, Duplicate, Neighbour, picture_url
from .inference import MAX_TEXT, Embedded, Inference, Kind
from .inference import Query as Asked
from .state import Json, NotReadyError, State, content_type, first_problem, page, served, wants_page

router = APIRouter()

#: Inputs of one call of /predict/batch, and items that one answer lists.
MAX_BATCH, MAX_LISTED = 64, 200

#: A picture of one pixel, as an example that can be sent as it is.
_PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVQI12P4z8AAAAMBAQAY3Y2wAAAAAElFTkSuQmCC"


# What goes in


class Input(BaseModel):
    """An input as JSON: an image in base64, a text, or both."""

    model_config = ConfigDict(extra="forbid")
    image: str | None = Field(None, description="The bytes of an image file, in base64.", examples=[_PIXEL])
    text: str | None = Field(
        None, max_length=MAX_TEXT, description="A text.", examples=["A fire in the old harbour"]
    )

    def asked(self) -> Asked:
        """The input as the library takes it."""
        data = None
        if self.image is not None:
            try:
                data = base64.b64decode(self.image, validate=True)
            except (binascii.Error, ValueError):
                raise SourceError("the image is no base64") from None
        return Asked(data, self.text)


class Batch(BaseModel):
    """Several inputs."""

    model_config = ConfigDict(extra="forbid")
    items: Annotated[list[Input], Field(min_length=1, max_length=MAX_BATCH)]


# What comes out


class ItemAnswer(BaseModel):
    """An item of the store."""

    item_id: str
    text: str | None
    path: str | None
    split: str | None
    labels: dict[str, Any]
    captions: dict[str, str] = Field(
        description="What models said of the picture, by the name of the captions."
    )
    picture: str | None = Field(description="Address of a small picture, if the item has an image.")


class NeighbourAnswer(ItemAnswer):
    """An item near the input, `score` being the cosine."""

    score: float


class DuplicateAnswer(ItemAnswer):
    """An item that is a near-duplicate, and what finds it."""

    kind: str = Field(description="exact, perceptual or embedding.")
    hamming: int | None = Field(description="Bits of 64 in which the perceptual hashes differ.")
    cosine: float | None


class Said(BaseModel):
    """Answer of one head."""

    run: str
    label: str = Field(description="Column of labels that the run learned.")
    prediction: str | None
    probability: float | None
    probabilities: dict[str, float] = Field(description="By class, likeliest first.")
    threshold: float | None = Field(
        description="Probability from which a class is predicted: 0.5 of two classes. Of more the likeliest is; null."
    )
    reason: str | None = Field(None, description="Why there is no prediction, if there is none.")


class PredictAnswer(Said):
    """Answer of the head, and the store's items most like the input. `heads` are the other heads that are served."""

    duplicates: list[DuplicateAnswer]
    neighbours: list[NeighbourAnswer]
    heads: list[Said] = []
    contributions: dict[str, Any] | None = Field(
        None, description="With explain=true: what each input adds to the prediction (Shapley values)."
    )


class BatchAnswer(BaseModel):
    """Answers in the order of the inputs; one that cannot be answered has an `error` and costs no other."""

    results: list[dict[str, Any]]


class SearchAnswer(BaseModel):
    """Items nearest to what was asked, best first."""

    feature: str
    hits: list[NeighbourAnswer]


class DuplicatesAnswer(BaseModel):
    """Items that are near-duplicates of the input, the surest first, and the rule that decided."""

    duplicates: list[DuplicateAnswer]
    feature: str | None
    note: str


class Problem(BaseModel):
    """Why there is no answer, in one line."""

    detail: str


_UPLOAD = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {
                    "image": {"type": "string", "format": "binary", "description": "An image file."},
                    "text": {"type": "string", "maxLength": MAX_TEXT},
                },
            },
            "example": {"text": "A fire in the old harbour"},
        },
        "application/json": {
            "schema": Input.model_json_schema(),
            "example": {"image": _PIXEL, "text": "A fire in the old harbour"},
        },
    },
}
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "The body cannot be read."},
    401: {"model": Problem, "description": "The token is missing."},
    403: {"model": Problem, "description": "A page of another site asks."},
    404: {"model": Problem, "description": "There is no such item."},
    408: {"model": Problem, "description": "The body comes too slowly."},
    413: {"model": Problem, "description": "The body is too large."},
    415: {"model": Problem, "description": "The body is neither a form nor JSON."},
    421: {"model": Problem, "description": "The server is not known by that name."},
    422: {"model": Problem, "description": "A value cannot be taken; the line names it."},
    503: {"model": Problem, "description": "Busy, or not ready; Retry-After says when to ask again."},
}
K = Annotated[int, Query(ge=0, le=MAX_LISTED, description="Most neighbours or hits.")]
RunName = Annotated[str | None, Query(max_length=200, description="Head to ask; the first by default.")]


#: An input, and its vectors.
Given = tuple[Asked, Embedded]


# Predictions


@router.post(
    "/predict",
    tags=["predict"],
    response_model=PredictAnswer,
    responses=_PROBLEMS,
    openapi_extra={"requestBody": _UPLOAD},
)
async def predict(request: Request, run: RunName = None, k: K = 5, explain: bool = False) -> Any:
    """Predict an image, a text or both, and list what in the store is like them."""
    state = served(request)
    head = state.run(run)
    asked = await read_input(request)
    async with state.inference.admission():
        return Json(await answer(state, head, asked, k=k, explain=explain, alone=run is not None))


@router.post("/predict/batch", tags=["predict"], response_model=BatchAnswer, responses=_PROBLEMS)
async def predict_batch(request: Request, batch: Batch, run: RunName = None, k: K = 0) -> Any:
    """Predict several inputs; one that cannot be read costs only itself."""
    state = served(request)
    head = state.run(run)

    async def one(given: Input) -> dict[str, Any]:
        try:
            return await answer(state, head, given.asked(), k=k, explain=False, alone=run is not None)
        except IcehouseError as error:
            return {"error": str(error)}

    async with state.inference.admission(len(batch.items)):
        return Json({"results": await asyncio.gather(*map(one, batch.items))})


async def answer(
    state: State, head: Run, asked: Asked, *, k: int, explain: bool, alone: bool
) -> dict[str, Any]:
    """Answer of `/predict` for one input: each encoder sees it once, whatever number of heads there is."""
    _require_input(asked)
    inference = state.inference
    heads = [head] if alone else [head, *(run for run in state.runs.values() if run is not head)]
    catalog = None if state.store is None else await state.catalog_now()
    near = {} if catalog is None else inference.query_features(catalog, asked)
    specs = [*near.values(), *(s for run in heads for s in run.specs.values())]
    looks = catalog is not None and catalog.duplicates.looks
    embedded = await inference.embed(asked, specs, looks=looks)

    def conclude(inputs: list[Given]) -> list[dict[str, Any] | IcehouseError]:
        same: list[list[dict[str, Any]]] = [[] for _ in inputs]
        near = same
        if catalog is not None:
            same = duplicates_of(inference, catalog, inputs)
            near = neighbours_of(inference, catalog, inputs, k)
        said = [inference.judge(run, [embedded for _, embedded in inputs]) for run in heads]
        answers: list[dict[str, Any] | IcehouseError] = []
        for i, (asked, embedded) in enumerate(inputs):
            first, *others = (judgements[i] for judgements in said)
            state.drift.add(embedded)
            if first.proba is None:
                kinds = " and ".join({"image": "an image", "text": "a text"}[kind] for kind in asked.kinds)
                answers.append(UsageError(f"{first.reason}, and the request has {kinds} alone"))
                continue
            told = {"duplicates": same[i], "neighbours": near[i], "heads": [o.as_json() for o in others]}
            explained = {"contributions": inference.contributions(first)} if explain else {}
            answers.append({**first.as_json(), **told, **explained})
        return answers

    key = (id(catalog), tuple(run.run_id for run in heads), k, explain)
    found: dict[str, Any] = await inference.together(key, conclude, (asked, embedded))
    return found


# Search


@router.get("/search", tags=["search"], response_model=SearchAnswer, responses=_PROBLEMS)
async def search_words(
    request: Request,
    text: Annotated[str, Query(min_length=1, max_length=10_000, examples=["a fire with flames"])],
    k: K = 10,
    where: Annotated[
        str | None, Query(max_length=10_000, description="SQL condition over items.", examples=["width >= 1"])
    ] = None,
) -> Any:
    """Find the items nearest to words."""
    return Json(await search(served(request), Asked(text=text), k, where))


@router.post(
    "/search",
    tags=["search"],
    response_model=SearchAnswer,
    responses=_PROBLEMS,
    openapi_extra={"requestBody": _UPLOAD},
)
async def search_input(
    request: Request, k: K = 10, where: Annotated[str | None, Query(max_length=10_000)] = None
) -> Any:
    """Find the items nearest to an image, or to a text where no image is given."""
    asked = await read_input(request)
    return Json(
        await search(served(request), Asked(asked.image, None if asked.image else asked.text), k, where)
    )


async def search(state: State, asked: Asked, k: int, where: str | None) -> dict[str, Any]:
    """Answer of `/search`."""
    _require_input(asked)
    inference, kind = state.inference, asked.kinds[0]
    async with inference.admission():
        catalog = await state.catalog_now()
        feature = inference.search_feature(catalog, kind, joint=False)
        spec = inference.asking_spec(feature, kind)
        embedded = await inference.embed(asked, [spec])

        def find() -> list[dict[str, Any]]:
            rows = None if where is None else catalog.select(where=where)
            vector = embedded.vector(spec)
            assert vector is not None
            near = _checked(inference, catalog, feature).nearest(vector, k, rows)
            return [neighbour_json(catalog, each) for each in near]

        return {"feature": feature, "hits": await inference.in_thread(find)}


def search_like(catalog: Catalog, item_id: str, k: int, where: str | None) -> dict[str, Any]:
    """The same for an item of the store, by how it looks, or by its text where it has no picture."""
    row = find_row(catalog, item_id)
    feature, vector = catalog.vector_of(row, meaning=False)
    rows = None if where is None else catalog.select(where=where)
    near = catalog.feature(feature).nearest(vector, k, rows, without=row)
    return {"feature": feature, "hits": [neighbour_json(catalog, each) for each in near]}


@router.post(
    "/duplicates",
    tags=["search"],
    response_model=DuplicatesAnswer,
    responses=_PROBLEMS,
    openapi_extra={"requestBody": _UPLOAD},
)
async def duplicates(request: Request) -> Any:
    """Find the items that are near-duplicates of an image, or of a text where no image is given."""
    state, asked = served(request), await read_input(request)
    _require_input(asked)
    inference = state.inference
    async with inference.admission():
        catalog = await state.catalog_now()
        near = inference.query_features(catalog, asked).values()
        embedded = await inference.embed(asked, near, looks=catalog.duplicates.looks)
        kind = asked.kinds[0]

        def find() -> dict[str, Any]:
            return {
                "duplicates": duplicates_of(inference, catalog, [(asked, embedded)])[0],
                "feature": catalog.duplicates.feature(kind),
                "note": catalog.duplicates.note(kind),
            }

        return Json(await inference.in_thread(find))


def duplicates_of(
    inference: Inference, catalog: Catalog, inputs: Sequence[Given]
) -> list[list[dict[str, Any]]]:
    """Near-duplicates of each input's image, or of its text where it has no image."""
    found: list[list[dict[str, Any]]] = [[] for _ in inputs]
    for kind, places in _by_kind(inputs):
        feature = catalog.duplicates.feature(kind)
        spec = None if feature is None else inference.specs.get(feature)
        if feature is not None and spec is not None:
            _checked(inference, catalog, feature)
        arrivals = []
        for place in places:
            embedded = inputs[place][1]
            vector = None if spec is None or embedded.blank else embedded.vector(spec)
            key, text = embedded.sha256[kind], inputs[place][0].text
            if kind == "text" or embedded.seen is None:
                arrivals.append(Arrival("", key, embedded.phash, vector))
            else:
                views, thumb, grey = embedded.seen
                looked = embedded.turned, views, thumb, text or None, None, grey
                arrivals.append(Arrival("", key, embedded.phash, vector, *looked))
        for place, same in zip(places, catalog.duplicates.of(kind, arrivals), strict=True):
            found[place] = [duplicate_json(catalog, each) for each in same]
    return found


def neighbours_of(
    inference: Inference, catalog: Catalog, inputs: Sequence[Given], k: int
) -> list[list[dict[str, Any]]]:
    """Items nearest to each input's image, or to its text where it has no image."""
    found: list[list[dict[str, Any]]] = [[] for _ in inputs]
    for kind, places in _by_kind(inputs):
        looks = catalog.default_features(images=kind == "image", joint=False)
        feature = next((name for name in looks if name in inference.specs), None)
        if feature is None:
            continue
        vectors = {place: inputs[place][1].vector(inference.specs[feature]) for place in places}
        known = {place: vector for place, vector in vectors.items() if vector is not None}
        if known:
            nearest = _checked(inference, catalog, feature).nearest_each(np.stack(list(known.values())), k)
            for place, near in zip(known, nearest, strict=True):
                found[place] = [neighbour_json(catalog, each) for each in near]
    return found


def _by_kind(inputs: Sequence[Given]) -> list[tuple[Kind, list[int]]]:
    """Places of the inputs by what of them is compared: the image, or the text where there is none."""
    kinds = [asked.kinds[0] for asked, _ in inputs]
    return [(kind, [i for i, each in enumerate(kinds) if each == kind]) for kind in dict.fromkeys(kinds)]


def _checked(inference: Inference, catalog: Catalog, feature: str) -> Any:
    """A feature whose vectors are of the space that the loaded encoder makes."""
    found = catalog.feature(feature)
    known = inference.specs.get(feature, {})
    if found.spec.get("fingerprint") != known.get("fingerprint"):
        raise NotReadyError(f"the feature {feature} was made anew by another encoder: start the server again")
    return found


# Items, runs


@router.get("/items/{item_id:path}", tags=["items"], response_model=ItemAnswer, responses=_PROBLEMS)
def item(request: Request, item_id: str) -> Any:
    """Facts of an item in the store."""
    catalog = served(request).catalog
    return Json(item_json(catalog, find_row(catalog, item_id)))


@router.get("/picture", tags=["items"], response_class=Response, responses=_PROBLEMS)
def picture(
    request: Request,
    id: Annotated[str, Query(max_length=4000, description="Id of an item.")],
    side: Annotated[int, Query(ge=16, le=1440, description="Pixels of the longer side, about.")] = 320,
) -> Response:
    """A small picture of an item; where its file cannot be read, a picture that says why."""
    state = served(request)
    catalog = state.catalog
    data, kind = state.pictures.get(catalog, find_row(catalog, id), side)
    return Response(data, media_type=kind, headers={"cache-control": "private, max-age=300"})


def find_row(catalog: Catalog, item_id: str) -> int:
    """Row of an item; 404 if there is none."""
    row = catalog.row(item_id)
    if row is None:
        raise HTTPException(404, "there is no such item")
    return row


def item_json(catalog: Catalog, row: int) -> dict[str, Any]:
    """An item as JSON values; see `ItemAnswer`."""
    told = catalog.described(row)
    return {**told, "picture": None if told["path"] is None else picture_url(told["item_id"])}


def neighbour_json(catalog: Catalog, near: Neighbour) -> dict[str, Any]:
    """A neighbour as JSON values; see `NeighbourAnswer`."""
    return {**item_json(catalog, near.row), "score": near.score}


def duplicate_json(catalog: Catalog, found: Duplicate) -> dict[str, Any]:
    """A near-duplicate as JSON values; see `DuplicateAnswer`."""
    told = {"kind": found.kind, "hamming": found.hamming, "cosine": found.cosine}
    return {**item_json(catalog, found.row), **told}


@router.get("/runs", tags=["runs"])
def runs(request: Request) -> Any:
    """List the heads that answer, the default first; a browser gets the page."""
    state = served(request)
    if wants_page(request):
        from .pages import leaderboard  # which stands on this module

        return page(request, "app_runs.html", title="Runs", runs=leaderboard(state))
    return Json({"runs": [describe_run(run) for run in state.runs.values()]})


def describe_run(run: Run) -> dict[str, Any]:
    """Entry of `/runs` for a run."""
    needs = sorted({tower_of(spec["modality"]) for spec in run.specs.values()})
    return {**run.summary(), "run_id": run.run_id, "labels": run.classes, "needs": needs, "notes": run.notes}


# Health


@router.get("/healthz", tags=["health"])
def healthz() -> Json:
    """Tell that the process answers."""
    return Json({"status": "ok"})


@router.get("/readyz", tags=["health"], responses={503: {"model": Problem}})
def readyz(request: Request) -> Json:
    """Tell whether predictions can be asked for."""
    _ = served(request).inference
    return Json({"status": "ready"})


@router.get("/metrics", tags=["health"], response_class=Response)
def metrics(request: Request) -> Response:
    """Counts and times in Prometheus' text format."""
    return Response(served(request).monitor.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


# Reading inputs


async def read_input(request: Request) -> Asked:
    """Read an image and a text out of a form or JSON."""
    kind = content_type(request)
    if kind == "application/json":
        try:
            return Input.model_validate_json(await request.body()).asked()
        except ValidationError as error:
            told = first_problem(error.errors(include_input=False, include_url=False))
            raise HTTPException(422, told) from None
    if kind not in ("multipart/form-data", "application/x-www-form-urlencoded"):
        raise HTTPException(415, "send a form (multipart/form-data) with image and text, or JSON")
    async with request.form(max_files=4, max_fields=16) as form:
        unknown = sorted({name for name in form if name not in ("image", "text")})
        if unknown:
            raise HTTPException(422, f"no field {unknown[0][:80]!r} is taken here; there are image and text")
        image, text = form.get("image"), form.get("text")
        if isinstance(text, UploadFile):
            raise HTTPException(422, "text: a text is expected, not a file")
        if isinstance(image, str) and image:
            raise HTTPException(422, "image: a file is expected, not a text")
        data = await image.read() if isinstance(image, UploadFile) else None
        # What a browser sends of a form that was not filled in.
        if isinstance(image, UploadFile) and not data and not image.filename:
            data = None
        return Asked(data, text or None)


def _require_input(asked: Asked) -> None:
    if not asked.kinds:
        raise UsageError("the request has neither an image nor a text")
