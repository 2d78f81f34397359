"""State of the server, and answers of its routes: pages from templates, JSON that any parser reads, errors as one line.

The state is the open store or package, the heads that answer, and what is loaded once for all requests.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse, JSONResponse

from ...console import one_line, plain
from ...dups.pair_graph import rules_stamp
from ...embed.encoder import Encoder
from ...errors import HeadError, IcehouseError, StoreError, UsageError, brief
from ...heads.package import is_package
from ...heads.runs import Run, list_runs
from ...store.store import Store
from ...store.table import Stamp
from ...web.render import render
from ..predict import load_run
from .catalog import Catalog, Pictures
from .inference import Inference
from .monitoring import InputDrift, Monitor

#: Seconds for which the searches and calibrations that are known are taken for all there are.
_LOOK_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of the server; the defaults suit a laptop.

    `token` guards every route but health. `hosts` are further names by which the server may be called. A body has at most
    `max_body` bytes, all that are being read at most `max_bodies`, and each takes at most `body_seconds` to come, the head
    of a request at most `head_seconds`. At most `queue` inputs are worked on or wait.
    """

    token: str | None = None
    hosts: tuple[str, ...] = ()
    max_body: int = 64 * 2**20
    max_bodies: int = 512 * 2**20
    body_seconds: float = 30.0
    head_seconds: float = 10.0
    queue: int = 256
    device: str = "auto"
    workers: int | None = None


class NotReadyError(IcehouseError):
    """The model is still being loaded, or cannot be."""


class State:
    """State that the routes share; made by `open`, carried by the application as ``app.state.served``.

    `store` is None where a package is served by itself. `runs` are the heads that answer, by id; the first is meant
    where none is named, and `drift` is of its inputs.
    """

    def __init__(
        self,
        store: Store | None,
        runs: Sequence[Run],
        settings: Settings,
        encoders: Sequence[Encoder] = (),
    ) -> None:
        self.store = store
        self.runs = {run.run_id: run for run in runs}
        self.settings = settings
        self.monitor = Monitor()
        self.drift = InputDrift()
        self.pictures = Pictures()
        self._inference = Inference(store, list(self.runs.values()), settings, self.monitor, encoders)
        self._catalog: Catalog | None = None
        self._stamp: tuple[Stamp | None, Any] | None = None
        self._rules: tuple[float, Any] = (-_LOOK_S, None)
        self._making = threading.Lock()
        self._loaded = threading.Event()
        self._problem: str | None = None

    @classmethod
    def open(
        cls,
        path: str | Path | None,
        runs: Sequence[str] = (),
        settings: Settings | None = None,
        encoders: Sequence[Encoder] = (),
    ) -> State:
        """Open a store, or a package in its place, and the heads to answer with.

        `runs` are ids of runs, parts of them, "latest", or folders of packages; by default the store's latest, if it
        has any. `encoders` are some that are loaded already.
        """
        settings = settings or Settings()
        if path is not None and is_package(path):
            return cls(None, [load_run(None, str(name)) for name in (path, *runs)], settings, encoders)
        store = None if path is None else Store.open(path)
        heads = [load_run(store, name) for name in dict.fromkeys(runs)]
        if store is None and not heads:
            raise StoreError("there is nothing to serve: name a store or a package")
        if store is not None and not runs:
            heads = [run for run in list_runs(store, damaged=[]) if _takes_uploads(run)][-1:]
        return cls(store, heads, settings, encoders)

    @property
    def name(self) -> str:
        """Name for the pages' titles: the name of the store's or the package's folder."""
        path = self.store.path if self.store is not None else next(iter(self.runs.values())).path
        return path.resolve().name

    def run(self, name: str | None = None) -> Run:
        """Find the head that is meant: the first, or one by its id or an unambiguous part of it."""
        if not self.runs:
            raise HeadError(
                "no head answers here: train one with `icehouse train` and start the server again"
            )
        if name is None:
            return next(iter(self.runs.values()))
        fitting = [run for key, run in self.runs.items() if key == name] or [
            run for key, run in self.runs.items() if name and name in key
        ]
        if len(fitting) != 1:
            raise UsageError(f"no run {name!r} answers here; there are: {', '.join(self.runs)}")
        return fitting[0]

    @property
    def inference(self) -> Inference:
        """Encoders and heads; NotReadyError until they are loaded."""
        if not self._loaded.is_set():
            raise NotReadyError("the model is still being loaded: ask again in a moment")
        if self._problem is not None:
            raise NotReadyError(self._problem)
        return self._inference

    @property
    def catalog(self) -> Catalog:
        """The store's items as they are now."""
        if self.store is None:
            raise UsageError("there is no store here: a package is served by itself")
        made = self._current()
        if made is not None:
            return made
        with self._making:
            stamp = self._now()
            if self._catalog is None or self._stamp != stamp:
                # The stamp is of before the reading: what was committed meanwhile is noticed the next time.
                self._catalog, self._stamp = Catalog(self.store), stamp
            return self._catalog

    def _current(self) -> Catalog | None:
        """The catalogue that was made, if nothing was committed since."""
        assert self.store is not None
        made, stamp = self._catalog, self._stamp
        return made if made is not None and stamp == self._now() else None

    def _now(self) -> tuple[Stamp | None, Any]:
        """What a catalogue is made of: the items, and by what inputs are compared with them, looked for once a second."""
        assert self.store is not None
        looked, rules = self._rules
        if time.monotonic() - looked >= _LOOK_S:
            rules = rules_stamp(self.store)
            self._rules = time.monotonic(), rules
        return self.store.items.stamp(), rules

    async def catalog_now(self) -> Catalog:
        """The same as `catalog`, for a coroutine: only what takes a while goes to a thread."""
        made = None if self.store is None else self._current()
        return made if made is not None else await self._inference.in_thread(lambda: self.catalog)

    async def in_thread(self, function: Callable[[], Any]) -> Any:
        """Call a function that takes a while in a thread for such, whether or not there is a model."""
        return await self._inference.in_thread(function)

    def start(self) -> None:
        """Begin to load what takes time; pages that need no model answer meanwhile."""
        threading.Thread(target=self._load, name="icehouse-load", daemon=True).start()

    def wait(self, seconds: float | None = None) -> str | None:
        """Wait until everything is loaded; why it cannot be, or None."""
        self._loaded.wait(seconds)
        return self._problem

    def _load(self) -> None:
        try:
            self._inference.load()
            if self.store is not None:
                _ = self.catalog.duplicates
        except Exception as error:  # told to everybody who asks for a prediction, and by /readyz
            self._problem = str(error) if isinstance(error, IcehouseError) else brief(error)
        finally:
            self._loaded.set()
        if self._problem is None and self.store is not None and self.runs:
            self.drift.begin(self.store, next(iter(self.runs.values())))

    def close(self) -> None:
        """Give back threads."""
        self._loaded.wait(60)
        self._inference.close()


def _takes_uploads(run: Run) -> bool:
    """Whether a run's inputs are images and texts, which a client can send; captions it cannot."""
    return all(spec["modality"] in ("image", "text") for spec in run.specs.values())


def served(request: Request) -> State:
    """The state that the application carries."""
    state: State = request.app.state.served
    return state


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
