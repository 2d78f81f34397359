"""Server: `icehouse serve` makes the application of its sections, binds a port, and runs until it is stopped.

To add a page or a group of routes:

1. a module beside this one, or in a room below `serve`, with ``router = APIRouter()``; a route validates, calls one function
   of the library, and answers by `icehouse.serve.app.state.page` or ``Json``. `served(request)` is the state.
2. a template ``web/templates/app_NAME.html`` that extends ``app_base.html`` and draws items by the macro `card` of
   ``ui.html``; scripts and styles are files of ``web/static`` (inline scripts do not run).
3. an entry in `sections`; one with a title stands in the navigation.

Methods other than GET are refused to pages of other sites before a route sees them; see `icehouse.serve.app.protection`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ... import __version__
from ...console import say
from ...embed.encoder import shared_cores
from ...errors import CorruptError, IcehouseError, LockedError, StoreError, UsageError

# What the extra `serve` brings is imported in functions: `require_extra` says first what to install.
if TYPE_CHECKING:
    import uvicorn
    from fastapi import APIRouter, FastAPI, Request

    from .state import State


@dataclass(frozen=True)
class Section:
    """A group of routes; `path` and `title` are its entry in the navigation, `needs_store` where a package has it not."""

    router: APIRouter
    path: str | None = None
    title: str = ""
    needs_store: bool = True


def sections() -> tuple[Section, ...]:
    """Every group of routes, in the order of the navigation."""
    from . import api, browse, label_pages, map_page, pages, review

    return (
        Section(pages.shared, needs_store=False),
        Section(pages.trying, "/", "Try it", needs_store=False),
        Section(browse.router, "/browse", "Browse"),
        Section(map_page.router, "/map", "Map"),
        Section(review.router, "/duplicates", "Duplicates"),
        Section(label_pages.router, "/label", "Label"),
        Section(pages.watching, "/live", "Live"),
        Section(api.router, "/runs", "Runs", needs_store=False),
        Section(pages.reports),
    )


def create_app(state: State) -> FastAPI:
    """Make the application around a state, as an ASGI application."""
    from fastapi import FastAPI
    from fastapi.exceptions import RequestValidationError
    from starlette.exceptions import HTTPException

    from .monitoring import Measured, WatchCollector
    from .protection import Protection
    from .state import Json

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
    there = [section for section in sections() if state.store is not None or not section.needs_store]
    app.state.served = state
    if state.store is not None:
        state.monitor.registry.register(WatchCollector(state.store.path, state.drift))
    app.state.guarded = state.settings.token is not None
    app.state.sections = [(section.path, section.title) for section in there if section.path is not None]
    for section in there:
        app.include_router(section.router)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(IcehouseError, _failed)
    settings = state.settings
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
    from .state import problem

    return problem(request, error.status_code, str(error.detail), error.headers)


def _invalid(request: Request, error: Any) -> Any:
    from .state import first_problem, problem

    return problem(request, 422, first_problem(error.errors()))


def _failed(request: Request, error: Any) -> Any:
    """Errors of the library: the request's fault unless the store is damaged or held, the disk full, or all busy."""
    from .inference import OverloadedError
    from .state import NotReadyError, problem

    unwritten = isinstance(error, StoreError) and isinstance(error.__cause__, OSError)
    again = unwritten or isinstance(error, (LockedError, OverloadedError, NotReadyError))
    status = 503 if again else 500 if isinstance(error, CorruptError) else 422
    return problem(request, status, str(error), {"retry-after": "1"} if again else None)


#: Connections at once; more are answered 503 without a look at what they ask.
MAX_CONNECTIONS = 1000

#: Seconds that a client may leave an answer unread, once the system's buffers are full.
UNREAD_S = 60.0

_NEEDED = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")


def require_extra() -> None:
    """Say what to install where the packages of the extra `serve` are not there."""
    try:
        for name in _NEEDED:
            import_module(name)
    except ImportError as error:
        raise IcehouseError(
            f'icehouse serve needs {error.name or "more packages"}: pip install "icehouse[serve]"'
        ) from None


def serve(
    path: str | Path | None,
    runs: Sequence[str] = (),
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    ready: Callable[[str], None] | None = None,
    **settings: Any,
) -> None:
    """Serve a store or a package until the process is asked to stop.

    `ready` is called with the address once the port is bound (port 0: any that is free), `runs` are as `State.open`
    takes them, `settings` those of `Settings`. IcehouseError if the extra is not installed, or the port cannot be had.
    """
    require_extra()
    token = settings.get("token")
    if token is not None and not token.strip():
        raise UsageError("the token is empty: leave --token out, or give one")
    if token is None and not _is_loopback(host):
        say("note: anybody who reaches this machine can ask the server and label; --token guards it")
    import uvicorn

    from .state import Settings, State

    state = State.open(path, runs, Settings(**settings))
    bound = _bind(host, port)
    named = f"[{host}]" if ":" in host else host
    config = configured(state)
    if ready is not None:
        ready(f"http://{named}:{bound.getsockname()[1]}/")
    # Ctrl-C is how one stops it: whoever is being answered gets the answer, and that is all.
    with bound, shared_cores(), contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[bound])


def configured(state: State, **options: Any) -> uvicorn.Config:
    """How uvicorn runs the application around a state; `options` are further ones of uvicorn's."""
    import uvicorn

    return uvicorn.Config(
        create_app(state),
        **{
            "http": _impatient(state.settings.head_seconds),
            "log_level": "warning",
            "access_log": False,
            "server_header": False,
            "limit_concurrency": MAX_CONNECTIONS,
            "timeout_keep_alive": 15,
            "timeout_graceful_shutdown": 10,
            **options,
        },
    )


def _impatient(head_seconds: float) -> type[asyncio.Protocol]:
    """Uvicorn's HTTP protocol with limits that it lacks: on the time of a request's head, and of an answer to be read.

    Without them clients that send their headers a byte a second, or nothing at all, take all connections for ever.
    """
    from uvicorn.protocols.http.h11_impl import H11Protocol  # which bounds the bytes of a head, too

    base: Any = H11Protocol

    class Impatient(base):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._begun = False
            self._head: asyncio.TimerHandle | None = self.loop.call_later(head_seconds, self._late)
            self._unread: asyncio.TimerHandle | None = None

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:  # the head is whole
                self._forget()
            else:
                self._begun = True
                if self._head is None:
                    self._head = self.loop.call_later(head_seconds, self._late)

        def connection_lost(self, exc: Exception | None) -> None:
            self._forget()
            self.resume_writing()
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._unread = self._unread or self.loop.call_later(UNREAD_S, self.transport.abort)

        def resume_writing(self) -> None:
            if self._unread is not None:
                self._unread.cancel()
                self._unread = None
            super().resume_writing()

        def _forget(self) -> None:
            self._begun = False
            if self._head is not None:
                self._head.cancel()
                self._head = None

        def _late(self) -> None:
            # A connection that a browser opened ahead of a request is closed without a word.
            if self._begun and not self.transport.is_closing():
                told = b'{"detail":"the head of the request did not come within %g seconds"}' % head_seconds
                self.transport.write(
                    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-type: application/json\r\n"
                    b"content-length: %d\r\n\r\n%s" % (len(told), told)
                )
            self.transport.close()

    return Impatient


def _bind(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, OverflowError, UnicodeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise IcehouseError(f"cannot listen on {host}:{port}: {reason}; --port 0 takes a free port") from None


def _is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
