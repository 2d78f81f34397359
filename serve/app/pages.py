"""Pages of the application: try an input, runs and their reports, what watches do now, the login form, static files."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Form, HTTPException, Query, Request, Response
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse

from ... import web
from ...embed.thumbnails import small_picture
from ...errors import IcehouseError, ImageError
from ...heads.explain import contribution_steps, explain, explain_page
from ...heads.runs import Run, list_runs
from ..watch.status import watches
from .api import answer, describe_run, read_input
from .browse import item_card
from .protection import LOGIN, POLICY_OF_REPORTS, same, with_cookie
from .state import Json, State, page, problem, served, wants_page

_STATIC = Path(web.__file__).parent / "static"
_TYPES = {".css": "text/css", ".js": "text/javascript"}

#: Classes whose probability is drawn.
_DRAWN = 12

shared = APIRouter(include_in_schema=False)
trying = APIRouter(include_in_schema=False)
reports = APIRouter(include_in_schema=False)
watching = APIRouter(include_in_schema=False)


@shared.get("/static/{name}")
def static(name: str) -> FileResponse:
    """A stylesheet or a script: one of the files that are there, whatever is asked for."""
    path = {file.name: file for file in _STATIC.iterdir() if file.suffix in _TYPES}.get(name)
    if path is None:
        raise HTTPException(404, "no such file")
    return FileResponse(path, media_type=_TYPES[path.suffix], headers={"cache-control": "max-age=300"})


@shared.get(LOGIN)
def login_form(request: Request) -> Any:
    """Ask for the token."""
    return page(request, "app_login.html", title="Log in", wrong=False)


@shared.post(LOGIN)
def login(request: Request, token: Annotated[str, Form(max_length=1000)]) -> Any:
    """Log in a browser that knows the token."""
    known = served(request).settings.token
    if known is None:
        return RedirectResponse("/", 303)
    if not same(token, known):
        return page(request, "app_login.html", status=401, title="Log in", wrong=True)
    return with_cookie(RedirectResponse("/", 303), known, secure=request.url.scheme == "https")


@trying.get("/")
def form(request: Request) -> Any:
    """The form: a picture, a text, a head."""
    return _try_page(request, None)


@trying.post("/try")
async def try_input(request: Request, run: Annotated[str | None, Query(max_length=200)] = None) -> Any:
    """Answer the form; a script asks for the answer alone and puts it into the page."""
    state = served(request)
    alone = request.headers.get("x-fragment") == "answer"
    try:
        asked = await read_input(request)
        head = state.run(run)
        async with state.inference.admission():
            said = await answer(state, head, asked, k=8, explain=True, alone=run is not None)
    except IcehouseError as error:
        told = problem(request, 422, str(error))
        status = 503 if type(error).__name__ in ("NotReadyError", "OverloadedError") else told.status_code
        return _try_page(request, None, problem=str(error), status=status, alone=alone)
    return _try_page(request, answer_data(state, said), alone=alone)


def _try_page(
    request: Request,
    shown: dict[str, Any] | None,
    problem: str | None = None,
    status: int = 200,
    alone: bool = False,
) -> Any:
    state = served(request)
    return page(
        request,
        "app_answer.html" if alone else "app_try.html",
        status=status,
        title="Try it",
        shown=shown,
        problem=problem,
        runs=[describe_run(run) for run in state.runs.values()],
        name=state.name,
    )


def answer_data(state: State, said: dict[str, Any]) -> dict[str, Any]:
    """An answer of `/predict` as the page shows it: bars, steps, cards."""
    parts = said.get("contributions")
    listed = list(said["probabilities"].items())
    return {
        "said": said,
        "bars": listed[:_DRAWN],
        "less_likely": len(listed) - len(listed[:_DRAWN]),
        "steps": [] if parts is None else list(contribution_steps(parts["base"], parts["inputs"])),
        "duplicates": _cards(state, said["duplicates"]),
        "neighbours": _cards(state, said["neighbours"]),
    }


def _cards(state: State, listed: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for told in listed:
        row = state.catalog.row(told["item_id"])
        if row is not None:  # it may have been removed in this moment
            score = told.get("score")
            found.append({**told, "card": item_card(state.catalog, row, score), "score": score})
    return found


@reports.get("/runs/{run_id}/report")
def report(request: Request, run_id: str) -> Any:
    """The report that training left, as it is; it brings its own figures and may run nothing."""
    path = _stored(request, run_id).path / "report.html"
    if not path.is_file():
        raise HTTPException(404, f"the run has no report: icehouse report {run_id} makes it")
    return HTMLResponse(path.read_bytes(), headers={"content-security-policy": POLICY_OF_REPORTS})


@reports.get("/runs/{run_id}/explain")
def explanation(request: Request, run_id: str, id: Annotated[str, Query(max_length=4000)]) -> Any:
    """Why a run answers as it does for an item of the store."""
    run, store = _stored(request, run_id), served(request).store
    assert store is not None
    html = explain_page(store, run, explain(store, run, [id]))
    return HTMLResponse(html, headers={"content-security-policy": POLICY_OF_REPORTS})


def leaderboard(state: State) -> list[dict[str, Any]]:
    """Runs of the store, or those that are served without one, the best of each label first."""
    found = list(state.runs.values()) if state.store is None else list_runs(state.store, damaged=[])
    rows = [
        {
            **describe_run(run),
            "served": run.run_id in state.runs,
            "stored": state.store is not None,
            "report": (run.path / "report.html").is_file() and state.store is not None,
        }
        for run in found
    ]
    return sorted(rows, key=lambda row: (row["label"], -((row["macro_f1"] or {}).get("value") or 0.0)))


def _stored(request: Request, run_id: str) -> Run:
    """A run of the store by its whole id: what is in the address is compared with names that are there."""
    store = served(request).store
    known = {} if store is None else {run.run_id: run for run in list_runs(store, damaged=[])}
    if run_id not in known:
        raise HTTPException(404, "there is no such run")
    return known[run_id]


#: Size of the curve of a drift figure.
_WIDTH, _HEIGHT = 160, 36

_SIDE = 160


@watching.get("/live")
def live(request: Request) -> Any:
    """Show the watches of the store, those that run first."""
    found = _watches(request)
    if not wants_page(request):
        return Json({"watches": [_without_paths(told) for told in found]})
    return page(request, "app_live.html", title="Live", watches=[live_data(told) for told in found])


@watching.get("/live/picture")
def live_picture(
    request: Request,
    watch: Annotated[str, Query(max_length=200)],
    sha256: Annotated[str, Query(max_length=64)],
) -> Response:
    """A small picture of one of the latest posts of a watch."""
    for told in _watches(request):
        if told.get("name") == watch:
            for post in _posts(told):
                if post.get("image_sha256") == sha256 and isinstance(post.get("path"), str):
                    data = _thumbnail(post["path"], sha256)
                    if data is not None:
                        headers = {"cache-control": "private, max-age=300"}
                        return Response(data, media_type="image/webp", headers=headers)
    raise HTTPException(404, "there is no such picture")


@lru_cache(maxsize=256)
def _thumbnail(path: str, sha256: str) -> bytes | None:
    try:
        return small_picture(Path(path), side=_SIDE)
    except ImageError:
        return None


def _watches(request: Request) -> list[dict[str, Any]]:
    store = served(request).store
    return [] if store is None else watches(store.path)


def _posts(told: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for labels in told.get("latest", {}).values():
        for posts in labels.values():
            yield from posts


def _without_paths(told: dict[str, Any]) -> dict[str, Any]:
    """A status for other programs; where files of this machine lie is nothing of theirs."""
    told = dict(told)
    told["latest"] = {
        run: {
            label: [{key: value for key, value in post.items() if key != "path"} for post in posts]
            for label, posts in labels.items()
        }
        for run, labels in told.get("latest", {}).items()
    }
    return told


def live_data(told: dict[str, Any]) -> dict[str, Any]:
    """A status as the page draws it: how many posts are left after each stage, the stages' times, curves of drift."""
    counts = told.get("counts", {})
    total = sum(counts.values())
    # Errors of posts that got as far as the heads, such as one without the picture that a head needs.
    unanswered = max(0, told.get("stages", {}).get("heads", 0) - counts.get("classified", 0))
    left, steps = total, [("came in", total)]
    for gone, name in (
        (counts.get("error", 0) - unanswered, "could be read"),
        (counts.get("label", 0), "posts, not labels"),
        (counts.get("filtered", 0), "in a collection"),
        (counts.get("repeat", 0), "no repeats"),
        (counts.get("irrelevant", 0), "let through by gates"),
        (unanswered, "answered by a head"),
    ):
        if gone > 0:
            left -= gone
            steps.append((name, left))
    drift = told.get("drift") or None
    return {
        "lag": None,
        "collections": {},
        "learning": {},
        **told,
        "total": total,
        "steps": [(name, n, n / total if total else 0.0) for name, n in steps],
        "drift": drift and {**drift, "curve": _curve([point["auroc"] for point in drift.get("history", [])])},
        "latest": {
            run: {label: posts for label, posts in labels.items() if posts}
            for run, labels in told.get("latest", {}).items()
        },
    }


def _curve(values: list[float]) -> str:
    """Points of a curve, 0 to 1 from bottom to top."""
    if len(values) < 2:
        return ""
    step = _WIDTH / (len(values) - 1)
    return " ".join(f"{i * step:.1f},{_HEIGHT * (1 - value):.1f}" for i, value in enumerate(values))
