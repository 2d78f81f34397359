"""The application: its sections, how errors are told, what starts and stops with it.

To add a page or a group of routes:

1. a module beside this one, or in a room below `serve`, with ``router = APIRouter()``; a route validates, calls one function
   of the library, and answers by `icehouse.serve.app.state.page` or ``Json``. `served(request)` is the state.
2. a template ``web/templates/app_NAME.html`` that extends ``app_base.html`` and draws items by the macro `card` of
   ``ui.html``; scripts and styles are files of ``web/static`` (inline scripts do not run).
3. an entry in `SECTIONS`; one with a title stands in the navigation.

Methods other than GET are refused to pages of other sites before a route sees them; see `icehouse.serve.app.protection`.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException

from ... import __version__
from ...errors import CorruptError, IcehouseError, LockedError, StoreError
from . import api, browse, label_pages, live, map_page, pages, review
from .inference import OverloadedError
from .monitoring import Measured
from .protection import Protection
from .state import Json, NotReadyError, Settings, State, first_problem, problem


@dataclass(frozen=True)
class Section:
    """A group of routes; `path` and `title` are its entry in the navigation, `needs_store` where a package has it not."""

    router: APIRouter
    path: str | None = None
    title: str = ""
    needs_store: bool = True


#: Every group of routes, in the order of the navigation.
SECTIONS: tuple[Section, ...] = (
    Section(pages.shared, needs_store=False),
    Section(pages.trying, "/", "Try it", needs_store=False),
    Section(browse.router, "/browse", "Browse"),
    Section(map_page.router, "/map", "Map"),
    Section(review.router, "/duplicates", "Duplicates"),
    Section(label_pages.router, "/label", "Label"),
    Section(live.router, "/live", "Live"),
    Section(api.router, "/runs", "Runs", needs_store=False),
    Section(pages.reports),
)


def create_app(state: State) -> FastAPI:
    """Make the application around a state, as an ASGI application."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        state.start()
        try:
            yield
        finally:
            state.close()

    app = FastAPI(
        title="icehouse",
        version=__version__,
        description="Predictions, search and near-duplicates over one store of frozen features.",
        lifespan=lifespan,
        default_response_class=Json,
        docs_url=None,  # their scripts come from another host
        redoc_url=None,
        redirect_slashes=False,
    )
    there = [section for section in SECTIONS if state.store is not None or not section.needs_store]
    app.state.served = state
    if state.store is not None:
        state.monitor.registry.register(live.WatchCollector(state.store.path, state.drift))
    app.state.guarded = state.settings.token is not None
    app.state.sections = [(section.path, section.title) for section in there if section.path is not None]
    for section in there:
        app.include_router(section.router)
    app.add_exception_handler(StarletteHTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(IcehouseError, _failed)
    settings: Settings = state.settings
    # The last one added is the outermost: what is refused is counted, too.
    app.add_middleware(
        Protection,
        token=settings.token,
        hosts=settings.hosts,
        max_body=settings.max_body,
        max_bodies=settings.max_bodies,
        body_seconds=settings.body_seconds,
    )
    app.add_middleware(Measured, monitor=state.monitor)
    return app


def _refused(request: Request, error: Any) -> Any:
    assert isinstance(error, (HTTPException, StarletteHTTPException))
    return problem(request, error.status_code, str(error.detail), error.headers)


def _invalid(request: Request, error: Any) -> Any:
    assert isinstance(error, RequestValidationError)
    return problem(request, 422, first_problem(error.errors()))


def _failed(request: Request, error: Any) -> Any:
    """Errors of the library: the request's fault unless the store is damaged or held, the disk full, or all busy."""
    unwritten = isinstance(error, StoreError) and isinstance(error.__cause__, OSError)
    again = unwritten or isinstance(error, (LockedError, OverloadedError, NotReadyError))
    status = 503 if again else 500 if isinstance(error, CorruptError) else 422
    return problem(request, status, str(error), {"retry-after": "1"} if again else None)
