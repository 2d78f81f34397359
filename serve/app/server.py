"""Server process: `icehouse serve` binds a port, loads what answers, and runs until it is stopped."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from ...console import say
from ...errors import IcehouseError, UsageError

#: Connections at once; more are answered 503 without a look at what they ask.
MAX_CONNECTIONS = 1000

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

    Parameters
    ----------
    path : str or Path or None
        A store, or a folder that `icehouse package` made.
    runs : sequence of str
        Heads that answer; see `icehouse.serve.app.state.State.open`.
    host, port : str, int
        Where to listen; port 0 is any that is free.
    ready : callable, optional
        Called with the address once the port is bound.
    **settings
        See `icehouse.serve.app.state.Settings`.

    Raises
    ------
    IcehouseError
        If the extra is not installed, or the port cannot be had.
    """
    require_extra()
    token = settings.get("token")
    if token is not None and not token.strip():
        raise UsageError("the token is empty: leave --token out, or give one")
    if token is None and not _is_loopback(host):
        say("note: anybody who reaches this machine can ask the server and label; --token guards it")
    import uvicorn

    from .application import create_app
    from .state import Settings, State

    state = State.open(path, runs, Settings(**settings))
    bound = _bind(host, port)
    named = f"[{host}]" if ":" in host else host
    config = uvicorn.Config(
        create_app(state),
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=10,
    )
    if ready is not None:
        ready(f"http://{named}:{bound.getsockname()[1]}/")
    # Ctrl-C is how one stops it: whoever is being answered gets the answer, and that is all.
    with bound, contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[bound])


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
