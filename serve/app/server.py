"""Server process: `icehouse serve` binds a port, loads what answers, and runs until it is stopped."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...console import say
from ...embed.encoder import shared_cores
from ...errors import IcehouseError, UsageError

if TYPE_CHECKING:
    import uvicorn

    from .state import State

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

    from .application import create_app

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
