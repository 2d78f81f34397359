"""JSON API: predict, search, duplicates, items, runs, health, metrics."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from .rendering import Json, page, wants_page
from .state import State

router = APIRouter()


def served(request: Request) -> State:
    """The state that the application carries."""
    state: State = request.app.state.served
    return state


@router.get("/healthz", tags=["health"])
def healthz() -> Json:
    """Tell that the process answers."""
    return Json({"status": "ok"})


@router.get("/runs", tags=["runs"])
def runs(request: Request) -> Any:
    """List the heads that answer, the default first; a browser gets the page."""
    found = [describe_run(run) for run in served(request).runs.values()]
    if wants_page(request):
        return page(request, "app_runs.html", title="Runs", runs=found)
    return Json({"runs": found})


def describe_run(run: Any) -> dict[str, Any]:
    """What `/runs` tells of a run."""
    return {**run.summary(), "run_id": run.run_id, "labels": run.classes, "notes": run.notes}
