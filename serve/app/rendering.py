"""Answers of the application: pages from templates, JSON that any parser reads, errors as one line."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse, JSONResponse

from ...console import one_line, plain
from ...web.render import render


class Json(JSONResponse):
    """JSON of ASCII alone: a text that is no Unicode (half a surrogate pair) is escaped and costs nobody an answer."""

    def render(self, content: Any) -> bytes:
        """Encode; numbers that JSON has not become null."""
        return json.dumps(plain(content), separators=(",", ":")).encode("ascii")


def page(request: Request, template: str, /, *, status: int = 200, **data: Any) -> HTMLResponse:
    """Render a template that extends ``app_base.html``; `title` is what the page is called."""
    html = render(
        template,
        sections=request.app.state.sections,
        here=request.url.path,
        guarded=request.app.state.guarded,
        **data,
    )
    return HTMLResponse(html, status)


def wants_page(request: Request) -> bool:
    """Whether a browser asks, in its address bar, by a link or a form, rather than a script."""
    navigates = request.method in ("GET", "HEAD") or request.headers.get("sec-fetch-mode") == "navigate"
    return navigates and "text/html" in request.headers.get("accept", "")


def content_type(request: Request) -> str:
    """Media type of a body, without its parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def first_problem(errors: Sequence[Mapping[str, Any]]) -> str:
    """Name the first value that cannot be taken; the value itself may be anything, and is not repeated."""
    first = errors[0]
    where = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path"))
    return f"{where}: {first['msg']}" if where else str(first["msg"])


def problem(request: Request, status: int, detail: str, headers: Mapping[str, str] | None = None) -> Any:
    """Say in one line what was wrong: as a page to a browser that asked for one, else as JSON."""
    detail = one_line(detail)
    if wants_page(request):
        answer = page(request, "app_problem.html", status=status, title=_title(status), detail=detail)
        answer.headers.update(headers or {})
        return answer
    return Json({"detail": detail}, status, dict(headers or {}))


def _title(status: int) -> str:
    return {404: "Not found", 503: "Busy"}.get(status, "That did not work")
