"""Pages of the application: static files, the login form."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Form, HTTPException, Request
from fastapi.responses import FileResponse, RedirectResponse

from ... import web
from .api import served
from .protection import LOGIN, same, with_cookie
from .rendering import page

_STATIC = Path(web.__file__).parent / "static"
_TYPES = {".css": "text/css", ".js": "text/javascript"}

shared = APIRouter(include_in_schema=False)


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
    """Let a browser in that knows the token."""
    known = served(request).settings.token
    if known is None:
        return RedirectResponse("/", 303)
    if not same(token, known):
        return page(request, "app_login.html", status=401, title="Log in", wrong=True)
    return with_cookie(RedirectResponse("/", 303), known, secure=request.url.scheme == "https")
