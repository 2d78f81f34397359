"""HTTP guards against a hostile or broken server: bounded answers, redirects within the host, credentials kept out of sight.

`hooks` are httpx's event hooks: they see every request, also those that follow a redirect, and every response before its
body is read.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import html
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    import httpx

__all__ = ["HEADERS", "MAX_ANSWER", "RedirectedError", "credentials", "hide", "hiding", "hooks", "secrets_of"]

#: Most bytes of an answer; of a pull, which reports for hours, most bytes of a line.
MAX_ANSWER = 4 << 20

#: Asks for answers as they are: a compressed one could be of any size once unpacked, and is refused.
HEADERS = {"Accept-Encoding": "identity"}

_HIDDEN = "***"
_LEAST_SECRET = 4

T = TypeVar("T")


class RedirectedError(ValueError):
    """A host sends its questions on to another."""


class AnswerError(ValueError):
    """An answer is longer than `MAX_ANSWER`, or compressed."""


def hooks(url: str, *, sync: bool = False) -> dict[str, list[Callable[..., Any]]]:
    """Event hooks of an httpx client that talks to the server at `url`; further ones may be added to them.

    Raises (amid a request)
    -----------------------
    RedirectedError
        If the server redirects to another host or port, or from https to http.
    AnswerError
        If the answer is too long, as soon as it is, or compressed.
    """
    import httpx

    home = httpx.URL(url)
    # httpx leaves out a port that is the scheme's own.
    allowed = {(home.scheme, home.host, home.port), ("https", home.host, None)}

    def check(request: httpx.Request) -> None:
        there = request.url
        if (there.scheme, there.host, there.port) not in allowed:
            raise RedirectedError(
                f"{there.scheme}://{there.netloc.decode('ascii', 'replace').rpartition('@')[2]}"
            )

    def bound(response: httpx.Response) -> None:
        encoding = response.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            raise AnswerError(f"it is compressed ({encoding[:20]}), which was not asked for")
        by_line = response.request.url.path.endswith("/api/pull") and response.is_success
        response.stream = _bounded()(response.stream, by_line)

    async def check_soon(request: httpx.Request) -> None:
        check(request)

    async def bound_soon(response: httpx.Response) -> None:
        bound(response)

    if sync:
        return {"request": [check], "response": [bound]}
    return {"request": [check_soon], "response": [bound_soon]}


@functools.cache
def _bounded() -> type:
    import httpx

    class Bounded(httpx.SyncByteStream, httpx.AsyncByteStream):
        """Bytes of a response, up to `MAX_ANSWER`."""

        def __init__(self, stream: Any, by_line: bool) -> None:
            self._stream = stream
            self._by_line = by_line
            self._count = 0

        def _counted(self, chunk: bytes) -> bytes:
            newline = chunk.rfind(b"\n") if self._by_line else -1
            self._count = len(chunk) - newline - 1 if newline >= 0 else self._count + len(chunk)
            if self._count > MAX_ANSWER:
                raise AnswerError(f"it is longer than {MAX_ANSWER >> 20} MiB")
            return chunk

        def __iter__(self) -> Iterator[bytes]:
            for chunk in self._stream:
                yield self._counted(chunk)

        async def __aiter__(self) -> AsyncIterator[bytes]:
            async for chunk in self._stream:
                yield self._counted(chunk)

        def close(self) -> None:
            self._stream.close()

        async def aclose(self) -> None:
            await self._stream.aclose()

    return Bounded


def credentials(url: str) -> tuple[str, str] | None:
    """User and password of `url`, as they are sent; None where it has none."""
    user, at, _ = urlsplit(url).netloc.rpartition("@")
    name, _, password = user.partition(":")
    return (unquote(name), unquote(password)) if at else None


def secrets_of(url: str, *keys: str | None) -> tuple[str, ...]:
    """What must never be told: user and password of `url` and `keys`, as they are written, as they are meant, and in base64.

    Of a few letters or digits only, nothing is a secret that could be hidden.
    """
    user, at, _ = urlsplit(url).netloc.rpartition("@")
    name, _, password = user.partition(":")
    # A name alone is a token.
    told = {user, password or name} if at else set()
    told |= {key for key in keys if key}
    forms = told | {unquote(secret) for secret in told}
    if at:
        forms.add(base64.b64encode(f"{unquote(name)}:{unquote(password)}".encode()).decode().rstrip("="))
    kept = (form for form in forms if len(form) >= (_LEAST_SECRET if form.isalnum() else 2))
    return tuple(sorted(kept, key=len, reverse=True))


def hide(text: str, secrets: Iterable[str]) -> str:
    """`text` without `secrets`, also as addresses, HTML and JSON write them.

    >>> hide("pa&amp;ss pa%26ss pass", ["pa&ss"])
    '*** *** pass'
    """
    for secret in secrets:
        text = _pattern(secret).sub(_HIDDEN, text)
    return text


@functools.cache
def _pattern(secret: str) -> re.Pattern[str]:
    return re.compile(
        "".join(char if char.isalnum() and char.isascii() else _escapes(char) for char in secret)
    )


def _escapes(char: str) -> str:
    """Pattern of a character, written plainly or escaped."""
    code, name = ord(char), html.escape(char)
    units = re.findall("..", char.encode("utf-16-be", "replace").hex(), re.DOTALL)
    in_json = "".join(rf"\\u{high}{low}" for high, low in zip(units[::2], units[1::2], strict=True))
    in_address = "".join(f"%{byte:02x}" for byte in char.encode("utf-8", "replace"))
    found = [
        in_address,
        rf"&#0*{code};",
        rf"&#x0*{code:x};",
        re.escape(name),
        in_json,
        rf"\\?{re.escape(char)}",
    ]
    return f"(?i:{'|'.join(found)})"


def hiding(
    method: Callable[..., Coroutine[Any, Any, T]],
) -> Callable[..., Coroutine[Any, Any, T]]:
    """Decorator of an `Api`'s methods: what they return and raise tells none of ``self.secrets``."""
    from .api import FaultError

    @functools.wraps(method)
    async def hidden(self: Any, *args: Any, **options: Any) -> T:
        try:
            result = await method(self, *args, **options)
        except FaultError as fault:
            fault.args = (hide(str(fault), self.secrets),)
            raise
        if dataclasses.is_dataclass(result) and not isinstance(result, type):
            texts = {
                field.name: hide(value, self.secrets)
                for field in dataclasses.fields(result)
                if isinstance(value := getattr(result, field.name), str)
            }
            return dataclasses.replace(result, **texts)
        return result

    return hidden
