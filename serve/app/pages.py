"""Pages of the application: try an input, runs and their reports, the login form, static files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Form, HTTPException, Query, Request
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse

from ... import web
from ...errors import IcehouseError
from ...heads.reports.explain import contribution_steps, explain, explain_page
from ...heads.runs import Run, list_runs
from .api import answer, describe_run, read_input
from .browse import item_card
from .protection import LOGIN, POLICY_OF_REPORTS, same, with_cookie
from .state import State, page, problem, served

_STATIC = Path(web.__file__).parent / "static"
_TYPES = {".css": "text/css", ".js": "text/javascript"}

#: Classes whose probability is drawn.
_DRAWN = 12

shared = APIRouter(include_in_schema=False)
trying = APIRouter(include_in_schema=False)
reports = APIRouter(include_in_schema=False)


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
