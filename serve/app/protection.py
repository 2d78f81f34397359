"""Protection of the server: hosts, cross-site requests, token, limits on bodies, headers of every answer.

A page that anybody visits can send requests to ``127.0.0.1`` from the visitor's browser. Three checks keep such pages out.
The Host header has to be an address or a known name, since a name that an attacker points to this machine (DNS rebinding)
would make the attacker's page same-origin. A browser says of each request from where it comes (``Sec-Fetch-Site``,
``Origin``): other sites may follow a link here, and nothing else. And no answer permits other origins to read it.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import socket
from urllib.parse import urlencode

from fastapi import HTTPException, Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .state import problem

COOKIE = "icehouse-session"

#: What answers without a token: an orchestrator asks for these, and they tell nothing of the data. `LOGIN` takes one.
HEALTH = ("/healthz", "/readyz")
LOGIN = "/login"

#: Nothing from elsewhere, no inline script. Templates set widths and colours in `style` attributes, which run nothing.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
#: Reports bring their style and figures, and lie in the store, which may be a stranger's: no script, no origin.
POLICY_OF_REPORTS = (
    "sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # Without a referrer a browser says "null" of its own forms' origin.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "cache-control": "no-store",
}

_SAFE = ("GET", "HEAD", "OPTIONS")


class BodyError(HTTPException):
    """A body that is too large (413), too slow (408), or one too many (503).

    The rest is not read, so the connection is of no further use.
    """

    def __init__(self, status: int, detail: str) -> None:
        retry = {"retry-after": "1"} if status == 503 else {}
        super().__init__(status, detail, {"connection": "close", **retry})


def session(token: str) -> str:
    """Value of the cookie: a browser that gives its cookies away does not give the token away."""
    return hmac.new(token.encode(), b"icehouse session", hashlib.sha256).hexdigest()


def same(given: str, known: str) -> bool:
    """Compare in a time that does not tell how much of it is right."""
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), known.encode())


class Protection:
    """ASGI middleware around the whole application.

    A client that knows the `token` brings it as ``Authorization: Bearer``, by the login form, or once as ``?token=``.
    `hosts` are names that the Host header may have beside addresses and this machine's own; "*" allows any. `max_body`
    are bytes of a body, `max_bodies` of all that are being answered, `body_seconds` the time that a body may take to
    come.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        token: str | None = None,
        hosts: tuple[str, ...] = (),
        max_body: int,
        max_bodies: int,
        body_seconds: float,
    ) -> None:
        self.app, self.token = app, token
        self.max_body, self.max_bodies, self.body_seconds = max_body, max_bodies, body_seconds
        self._held = 0
        own = {"localhost", socket.gethostname().lower(), socket.getfqdn().lower()}
        self.hosts = {*own, *(name.lower() for name in hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check a request, limit its body, and add headers to the answer."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                there = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *((k.encode(), v.encode()) for k, v in HEADERS.items() if k.encode() not in there),
                ]
            await send(message)

        asked = Request(scope)
        refused = self._refuse(asked) or self._without_token(asked)
        length = asked.headers.get("content-length", "0")
        if refused is None and (not length.isdecimal() or int(length) > self.max_body):
            refused = problem(asked, 413, self.too_large, {"connection": "close"})
        if refused is not None:
            await refused(scope, receive, answer)
            return
        body = _Body(self, receive)
        try:
            await self.app(scope, body.receive, answer)
        finally:
            self._held -= body.taken

    def _refuse(self, asked: Request) -> Response | None:
        """Refuse a host that is not known, and what a page of another site sends."""
        headers = asked.headers
        host = headers.get("host", "")
        if not self._known(host):
            return problem(asked, 421, "this server is not known by that name; --allow-host NAME allows it")
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        unsafe = asked.method not in _SAFE
        follows = headers.get("sec-fetch-mode") == "navigate" and not unsafe
        elsewhere = site in ("cross-site", "same-site") and not follows
        foreign = unsafe and origin is not None and origin.partition("://")[2].lower() != host.lower()
        if elsewhere or foreign:
            return problem(asked, 403, "requests from pages of other sites are refused")
        return None

    def _known(self, host: str) -> bool:
        name = host.rpartition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
        name = name.rstrip(".").lower()
        if "*" in self.hosts or name in self.hosts or name.endswith(".localhost"):
            return True
        try:
            ipaddress.ip_address(name)  # an address cannot be made to mean another machine
        except ValueError:
            return False
        return True

    def _without_token(self, asked: Request) -> Response | None:
        """Ask for the token where one is needed; one that came in the address moves into the cookie."""
        path, navigates = asked.scope["path"], asked.method == "GET"
        if self.token is None or path in HEALTH or path == LOGIN:
            return None
        kind, _, given = asked.headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and same(given.strip(), self.token):
            return None
        if COOKIE in asked.cookies and same(asked.cookies[COOKIE], session(self.token)):
            return None
        query = asked.query_params.multi_items()
        if navigates and any(name == "token" and same(value, self.token) for name, value in query):
            rest = urlencode([pair for pair in query if pair[0] != "token"])
            there = RedirectResponse(path + (f"?{rest}" if rest else ""), 303)
            return with_cookie(there, self.token, secure=asked.url.scheme == "https")
        if navigates and "text/html" in asked.headers.get("accept", ""):
            return RedirectResponse(LOGIN, 303)
        detail = "a token is needed: Authorization: Bearer TOKEN"
        return problem(asked, 401, detail, {"www-authenticate": "Bearer"})

    @property
    def too_large(self) -> str:
        """Error for a body that is too large."""
        return f"the body is larger than {self.max_body / 2**20:g} MB"


class _Body:
    """The body of one request, as it comes: bounded in size and in time."""

    def __init__(self, limits: Protection, receive: Receive) -> None:
        self.limits, self._receive = limits, receive
        self.taken, self._whole = 0, False
        self._deadline = asyncio.get_running_loop().time() + limits.body_seconds

    async def receive(self) -> Message:
        """Next message of the body; BodyError if it is too much or too late."""
        if self._whole:
            return await self._receive()
        limits = self.limits
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            raise BodyError(408, f"the body did not come within {limits.body_seconds:g} seconds") from None
        if message["type"] == "http.request":
            size = len(message.get("body", b""))
            self.taken += size
            limits._held += size
            self._whole = not message.get("more_body", False)
            if self.taken > limits.max_body:
                raise BodyError(413, limits.too_large)
            if limits._held > limits.max_bodies:
                raise BodyError(503, "the server is busy with large bodies: ask again in a moment")
        return message


def with_cookie(response: Response, token: str, *, secure: bool) -> Response:
    """Set the cookie that keeps a browser logged in."""
    response.set_cookie(
        COOKIE, session(token), max_age=30 * 86_400, httponly=True, samesite="strict", secure=secure
    )
    return response
